"""The papers that lie in a generated release. Each of them says first that it means nothing."""

from __future__ import annotations

from data.synthetic.vocabulary import NOTICE

_CRITERIA = {
    "region_extract_quality": "NO_REGIONS B;DEFAULT_REGIONS_ONLY B;CONTAINS_DEFAULT_REGIONS A;"
    "CONTAINS_NON_RESOLVED_REGIONS A;RESOLVED_REGIONS_ONLY A++",
    "entity_extract_quality": "NO_ENTITIES B;CONTAINS_NON_RESOLVED_ENTITIES A;RESOLVED_ENTITIES_ONLY A++",
    "sentence_name_quality": "CHANGE_IN_SENTENCE_OR_NAME B;UNDERSCORES_IN_SENTENCE_OR_NAME A;NO_ISSUES A++",
    "change_quality": "CHANGE_SENTENCE_REMOVED B;UNDERSCORES_IN_CHANGE_SENTENCE A;CONTAINS_NON_RESOLVED_CHANGES A;"
    "NO_ISSUES A++",
    "general_issue_level": "DISCARDED D;NON_INTERPRETABLE C;MOSTLY_INTERPRETABLE B;IGNORABLE A;FIXABLE A+;"
    "NO_ISSUES A++",
    "localization_quality": "NO_LOCALIZATION B;FALLBACK_LOCALIZATION B;INCOMPLETE_LOCALIZATION A;BBOX_LOCALIZATION A++;"
    "BBOX_AND_MASK_LOCALIZATION A++",
}


def quality_mappings() -> str:
    """Contents of quality_mappings.csv: what the numbers of each criterion mean."""
    lines = ["criterion,raw_value,name,rating"]
    for criterion, levels in _CRITERIA.items():
        for value, level in enumerate(levels.split(";")):
            name, rating = level.split(" ")
            lines.append(f"{criterion},{value},{name},{rating}")
    return "\n".join(lines) + "\n"


def license_text() -> str:
    return f"{NOTICE}\n\nMIT licence, like the program that generated it. No data of any patient is contained.\n"


def root_readme(studies: int, seed: int) -> str:
    return f"""# Look-alike release

{NOTICE}

{studies} studies, seed {seed}. `mimic-cxr-jpg/` has the layout of MIMIC-CXR-JPG 2.1.0, `mimic-ext-cxr-qba/` that of
MIMIC-Ext-CXR-QBA 1.0.0. Names, ids, dates, reports, questions and answers are invented; the images are drawn.

Where it differs from the real releases:

- Size, and films of 360 to 480 pixels instead of 2,000 to 3,000.
- 70 % of the patients are for training, 15 % for validation and 15 % for testing (really 99, 0.8 and 0.5 %): a small
  release would have nothing to validate on otherwise.
- Questions cannot be answered from their text: each text has as many yes as no answers in each split, and as many of
  each severity and side. In the real release many texts have one usual answer.
- Findings are far more frequent and clearer than in real life, and independent of each other.
"""


def cxr_readme() -> str:
    return f"""{NOTICE}

Layout of MIMIC-CXR-JPG 2.1.0. The radiologist's table (mimic-cxr-2.1.0-test-set-labeled.csv) is the truth that
was drawn; the CheXpert and NegBio tables are what labellers would find in the invented reports.
70 % of the patients are in the training split, 15 % in the validation and 15 % in the test split.
"""


def qa_readme() -> str:
    return f"""# Questions of a look-alike release

{NOTICE}

Layout of MIMIC-Ext-CXR-QBA 1.0.0. Answers and scene graphs follow from what was drawn. Ratings are drawn at
random, the same for all answers to a text, so that a filter by grade leaves the answers balanced.
"""
