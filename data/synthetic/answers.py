"""A planned question -> its JSON with answers, parts and qualities."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from data.synthetic import graph, questions
from data.synthetic.cases import REPORT, Study, generator
from data.synthetic.graph import Films
from data.synthetic.questions import Planned
from data.synthetic.vocabulary import (
    DEVICE_PHRASES,
    DEVICES,
    FINDINGS,
    KINDS,
    NOTICE,
    SUBCATEGORY_PHRASES,
)

_STRATEGIES = {"A": "indication", "B": "abnormal", "C": "region_abnormal", "D": "finding"}


class Writer:
    """Writes the questions of one study."""

    def __init__(self, study: Study, films: Films, stated: dict[str, dict], seed: int):
        self.study, self.films, self.stated = study, films, stated
        self.rng = generator(seed, REPORT, study.number, 3)
        self.top = [o for key, o in stated.items() if "." not in key]

    def qa(self, planned: list[Planned]) -> dict:
        """Contents of `s<study>.qa.json`."""
        counters: dict[str, int] = {}
        written = []
        for question in planned:
            number = counters[question.type] = counters.get(question.type, -1) + 1
            written.append(self._question(question, f"{question.type}_{number:03d}"))
        return {
            "patient_id": f"p{self.study.subject_id}",
            "study_id": f"s{self.study.study_id}",
            "notice": NOTICE,
            "questions": written,
        }

    def _question(self, planned: Planned, question_id: str) -> dict:
        parts, observed = _RULES[planned.type](self, planned)
        answers = [self._number(part, f"{question_id}_A{i:02d}", 0) for i, part in enumerate(parts, 1)]
        flat = list(_flatten(answers))
        blocks = [graph.quality_of(answer["localization"]) for answer in flat]
        return {
            "question_id": question_id,
            "question_type": planned.type,
            "question_strategy": _STRATEGIES[planned.type[0]],
            "variables": planned.variables,
            "obs_ids": observed,
            "contains_report_answers": any(answer["from_report"] for answer in flat),
            "contains_template_answers": any(not answer["from_report"] for answer in flat),
            "extraction_quality": dict(graph.QUALITY),
            "question_img_localization_quality": {i: max(b[i] for b in blocks) for i in self.films.ids},
            "question": planned.text,
            "answers": answers,
            "question_quality": {"rating": planned.rating, "completeness": 4, "clarity": 5},
        }

    def _number(self, part: dict, answer_id: str, level: int) -> dict:
        """The answer with its id, level and quality, and so its parts."""
        children = [self._number(p, f"{answer_id}.{i:02d}", level + 1) for i, p in enumerate(part["sub_answers"], 1)]
        rating = ("6_A++", "6_A++", "5_A+", "4_A", "3_B")[int(self.rng.integers(5))]
        quality = {"rating": rating, "entailment": 6, "relevance": 5, "clarity": 4}
        numbered = {"answer_id": answer_id, "answer_level": level, "sub_answers": children, "answer_quality": quality}
        return {"answer_id": answer_id, "answer_type": part["answer_type"], "answer_level": level} | part | numbered

    # Parts of answers

    def part(self, observation: dict, answer_type: str, **more) -> dict:
        """An answer that repeats an observation of the graph; `more` overrides its fields."""
        pairs = [[kind, value] for kind, values in observation["modifiers"].items() for value in values]
        fields = {
            "answer_type": answer_type,
            "text": observation["summary_sentence"],
            "name_tag": observation["name"],
            "laterality": observation["laterality"],
            "regions": [region["region"] for region in observation["regions"]],
            "obs_entities": observation["obs_entities"],
            "obs_entities_parents": observation["obs_entities_parents"],
            "obs_categories": observation["obs_categories"],
            "obs_subcategories": observation["obs_subcategories"],
            "certainty": observation["certainty"],
            "positiveness": observation["positiveness"],
            "modifiers": pairs,
            "localization": observation["localization"],
            "sub_answers": [],
            "from_report": observation["from_report"],
            "extraction_quality": observation["obs_quality"],
        }
        children = [o for key, o in self.stated.items() if key.startswith(observation["obs_id"] + ".")]
        if answer_type != "related_information":
            fields["sub_answers"] = [self.part(child, "details") for child in children]
        return fields | more

    def plain(
        self, text: str, tag: str, positive: bool, regions: Iterable[str] = (), entities: Iterable[str] = ()
    ) -> dict:
        """A main answer from a template that no observation stands behind."""
        regions, entities = list(regions), list(entities)
        return {
            "answer_type": "main_answer",
            "text": text,
            "name_tag": tag,
            "laterality": graph.side_of(regions),
            "regions": regions,
            "obs_entities": entities,
            "obs_entities_parents": [],
            "obs_categories": list(KINDS[entities[0]].categories) if entities and entities[0] in KINDS else [],
            "obs_subcategories": list(KINDS[entities[0]].subcategories) if entities and entities[0] in KINDS else [],
            "certainty": "certain",
            "positiveness": "pos" if positive else "neg",
            "modifiers": [],
            "localization": graph.localization(self.films, regions),
            "sub_answers": [],
            "from_report": False,
            "extraction_quality": dict(graph.QUALITY),
        }

    def select(self, keep: Callable[[dict], bool]) -> list[dict]:
        """Top-level observations that fit."""
        return [observation for observation in self.top if keep(observation)]


def _flatten(answers: list[dict]) -> Iterable[dict]:
    for answer in answers:
        yield answer
        yield from _flatten(answer["sub_answers"])


def _ids(observations: list[dict]) -> list[str]:
    return [observation["obs_id"] for observation in observations]


def _is_positive(observation: dict) -> bool:
    return observation["positiveness"] == "pos"


def _is_finding(observation: dict) -> bool:
    return "ANATOMICAL_FINDING" in observation["obs_categories"]


Parts = tuple[list[dict], list[str]]


# Descriptions


def _describe(w: Writer, chosen: list[dict], nothing: str, regions: Iterable[str] = ()) -> Parts:
    """Each chosen observation is a main answer; without a positive one a template sentence comes first."""
    parts = [w.part(observation, "main_answer") for observation in chosen]
    if not any(_is_positive(observation) for observation in chosen):
        parts.insert(0, w.plain(nothing, "nothing abnormal", False, regions))
    return parts, _ids(chosen)


def _indication(w: Writer, planned: Planned) -> Parts:
    result = graph.main_result(w.stated)
    main = w.part(result, "main_answer", from_report=False)
    main["sub_answers"] = [w.part(result, "details", sub_answers=[])]
    return [main], ["OIND", result["obs_id"]]


def _describe_all(w: Writer, planned: Planned) -> Parts:
    return _describe(w, w.select(lambda o: o["from_report"]), "The study is normal.")


def _describe_abnormal(w: Writer, planned: Planned) -> Parts:
    return _describe(w, w.select(lambda o: _is_positive(o) and _is_finding(o)), "There is no abnormality.")


def _in_subcategory(key: str) -> Callable[[dict], bool]:
    return lambda o: key in o["obs_subcategories"] and _is_finding(o)


def _describe_subcategory(w: Writer, planned: Planned) -> Parts:
    inside = _in_subcategory(planned.subject)
    only_positive = planned.type.startswith("B09")
    chosen = w.select(lambda o: inside(o) and o["from_report"] and (_is_positive(o) or not only_positive))
    return _describe(w, chosen, f"There is no abnormality of {SUBCATEGORY_PHRASES[planned.subject]}.")


def _region_observations(w: Writer, region: str) -> list[dict]:
    """Positive findings that make a region abnormal."""
    found = []
    for finding, observation in zip(w.study.findings, w.top, strict=False):  # findings come first in the graph
        if region in questions.touches(finding)[0]:
            found.append(observation)
    return found


def _describe_region(w: Writer, planned: Planned) -> Parts:
    chosen = _region_observations(w, planned.subject)
    if planned.type.startswith("C01"):
        denied = w.select(lambda o: not _is_positive(o) and o["from_report"])
        chosen += [o for o in denied if planned.subject in [region["region"] for region in o["regions"]]]
    return _describe(w, chosen, f"The {planned.subject} shows no abnormality.", [planned.subject])


def _device_observations(w: Writer, planned: Planned) -> list[dict]:
    kind, side = planned.subject, ""
    if planned.subject in questions.DEVICE_REGIONS and planned.type.startswith("C0"):
        kind, side = questions.DEVICE_REGIONS[planned.subject]
    groups = DEVICE_PHRASES if planned.type.startswith("B1") else {}

    def fits(observation: dict) -> bool:
        if not _is_positive(observation) or "DEVICE" not in observation["obs_categories"]:
            return False
        if groups:
            return planned.subject in ("", *observation["obs_subcategories"])
        return kind in observation["obs_entities"] and side in ("", observation["laterality"])

    return w.select(fits)


def _describe_device(w: Writer, planned: Planned) -> Parts:
    chosen = _device_observations(w, planned)
    return _describe(w, chosen, f"There are no {_device_subject(planned)}.", _default_regions(planned))


def _device_subject(planned: Planned) -> str:
    if planned.type.startswith("B1"):
        return DEVICE_PHRASES[planned.subject]
    if planned.type.startswith("C0"):
        return f"devices in the {planned.subject}"
    return f"{planned.subject.removesuffix('s')}s"


def _default_regions(planned: Planned) -> tuple[str, ...]:
    if planned.type.startswith("C0"):
        return (planned.subject,)
    return KINDS[planned.subject].regions if planned.subject in KINDS else ()


def _acquisition(w: Writer, planned: Planned) -> Parts:
    views = " and ".join(view or "unrecorded" for view in w.study.views)
    return [w.plain(f"The views are: {views}.", "acquisition", True)], []


def _artifacts(w: Writer, planned: Planned) -> Parts:
    chosen = w.select(lambda o: o["obs_categories"] == ["IMAGING_ARTIFACT"])
    if planned.type.startswith("B15"):
        return _describe(w, chosen, "There are no imaging artifacts.")
    return _verdict(w, bool(chosen), "there are {} imaging artifacts", chosen)


def _finding_observations(w: Writer, kind: str) -> list[dict]:
    """Positive observations of a finding; its children when it has no observation of its own."""
    entities = {"lung lesion": ("nodule", "mass", "lung lesion")}.get(kind, (kind,))
    positive = [o for o in w.stated.values() if _is_positive(o)]
    direct = [o for o in positive if set(entities) & set(o["obs_entities"])]
    return direct or [o for o in positive if kind in o["obs_entities_parents"] and "." not in o["obs_id"]]


def _describe_finding(w: Writer, planned: Planned) -> Parts:
    chosen = _finding_observations(w, planned.subject)
    kind = FINDINGS[planned.subject]
    if chosen:
        parts, observed = _describe(w, chosen, "")
        for part in parts:  # the copy type: the class in question leads
            if planned.subject not in part["obs_entities"] and planned.subject != "lung lesion":
                part["obs_entities"] = [planned.subject, *part["obs_entities"]]
        return parts, observed
    return [w.plain(f"There is no {kind.entity}.", f"no {kind.entity}", False, kind.regions, [kind.entity])], []


# Yes or no


def _verdict(
    w: Writer, yes: bool, statement: str, support: list[dict], regions: Iterable[str] = (), entities: Iterable[str] = ()
) -> Parts:
    """ "Yes, ..." or "No, ..."; `statement` has a place for "no". What supports it follows as details."""
    text = f"{'Yes' if yes else 'No'}, {' '.join(statement.format('' if yes else 'no').split())}."
    main = w.plain(text, text[text.index(",") + 2 : -1], yes, regions, entities)
    if support:
        main |= {"regions": w.part(support[0], "details")["regions"], "laterality": support[0]["laterality"]}
        main |= {"obs_entities": support[0]["obs_entities"], "localization": support[0]["localization"]}
        main |= {k: support[0][k] for k in ("obs_categories", "obs_subcategories", "certainty")}
    details = [w.part(observation, "details") for observation in support if observation["from_report"]]
    return [main, *details], _ids(support)


def _normality(w: Writer, planned: Planned, abnormal: bool, subject: str, support: list[dict]) -> Parts:
    """The four pairs of is_abnormal and is_normal."""
    plural = subject.split(" with")[0].endswith(("lungs", "bones", "fields", "ribs"))
    be = "are" if plural else "is"
    asks_normal = "is_normal" in planned.type
    yes = abnormal != asks_normal
    word = ("" if yes else "not ") + ("normal" if asks_normal else "abnormal")
    parts, observed = _verdict(w, yes, f"{subject} {be} {word}", support)
    parts[0]["positiveness"] = "pos" if abnormal else "neg"
    return parts, observed


def _study_abnormal(w: Writer, planned: Planned) -> Parts:
    abnormal = bool(w.study.findings)
    support = w.select(lambda o: _is_finding(o) and _is_positive(o) == abnormal and o["from_report"])
    return _normality(w, planned, abnormal, "the study", support[:4])


def _subcategory_abnormal(w: Writer, planned: Planned) -> Parts:
    abnormal = bool(questions.subcategory_abnormal(w.study, planned.subject))
    inside = _in_subcategory(planned.subject)
    support = w.select(lambda o: inside(o) and _is_positive(o) == abnormal and o["from_report"])
    return _normality(w, planned, abnormal, SUBCATEGORY_PHRASES[planned.subject], support)


def _region_abnormal(w: Writer, planned: Planned) -> Parts:
    support = _region_observations(w, planned.subject)
    parts, observed = _normality(w, planned, bool(support), f"the {planned.subject}", support)
    parts[0] |= {"regions": [planned.subject], "localization": graph.localization(w.films, [planned.subject])}
    parts[0]["laterality"] = graph.side_of([planned.subject])
    related = [o for f, o in zip(w.study.findings, w.top, strict=False) if planned.subject in questions.touches(f)[1]]
    return parts + [w.part(o, "related_information") for o in related], observed + _ids(related)


def _has_finding(w: Writer, planned: Planned) -> Parts:
    kind = FINDINGS[planned.subject]
    support = _finding_observations(w, planned.subject)
    yes = bool(support)
    denials = w.select(lambda o: o["obs_entities"] == [kind.entity] and not _is_positive(o))
    statement = f"there is {kind.phrase if yes else '{} ' + kind.entity}"
    return _verdict(w, yes, statement, support or denials, kind.regions, [kind.entity])


def _has_device(w: Writer, planned: Planned) -> Parts:
    support = _device_observations(w, planned)
    if planned.subject in DEVICES and planned.type.startswith("D06"):
        kind = DEVICES[planned.subject]
        statement = f"there is {kind.phrase if support else '{} ' + kind.entity}"
        return _verdict(w, bool(support), statement, support, kind.regions, [kind.entity])
    return _verdict(w, bool(support), f"there are {{}} {_device_subject(planned)}", support, _default_regions(planned))


# Where, how severe


def _where(w: Writer, planned: Planned) -> Parts:
    chosen = [
        observation
        for finding, observation in zip((*w.study.findings, *w.study.devices), w.top, strict=False)
        if finding.kind == planned.subject
    ]
    parts = []
    for observation in chosen:
        names = " and the ".join(region["region"] for region in observation["regions"])
        text = f"The {planned.subject} is in the {names}."
        parts.append(w.part(observation, "main_answer", text=text, from_report=False, sub_answers=[]))
    return parts + [w.part(observation, "details") for observation in chosen], _ids(chosen)


def _how_severe(w: Writer, planned: Planned) -> Parts:
    chosen = [o for f, o in zip(w.study.findings, w.top, strict=False) if f.kind == planned.subject]
    word = chosen[0]["modifiers"]["severity"][0]
    text = f"The {planned.subject} is {word}."
    pairs = [["severity", word]]
    main = w.part(chosen[0], "main_answer", text=text, from_report=False, sub_answers=[], modifiers=pairs)
    return [main] + [w.part(observation, "details") for observation in chosen], _ids(chosen)


_RULES: dict[str, Callable[[Writer, Planned], Parts]] = {
    "A_indication": _indication,
    "B01_describe_all": _describe_all,
    "B02_describe_abnormal": _describe_abnormal,
    "B03_is_abnormal": _study_abnormal,
    "B04_is_normal": _study_abnormal,
    "B08_describe_subcat": _describe_subcategory,
    "B09_describe_abnormal_subcat": _describe_subcategory,
    "B10_is_abnormal_subcat": _subcategory_abnormal,
    "B11_is_normal_subcat": _subcategory_abnormal,
    "B12_describe_device": _describe_device,
    "B13_has_devices": _has_device,
    "B14_describe_acquisition": _acquisition,
    "B15_describe_imaging_artifacts": _artifacts,
    "B16_has_imaging_artifacts": _artifacts,
    "C01_describe_region": _describe_region,
    "C02_describe_abnormal_region": _describe_region,
    "C03_is_abnormal_region": _region_abnormal,
    "C04_is_normal_region": _region_abnormal,
    "C07_describe_region_device": _describe_device,
    "C08_has_region_device": _has_device,
    "D01_describe_finding": _describe_finding,
    "D02_has_finding": _has_finding,
    "D03_where_is_finding": _where,
    "D04_how_severe_is_finding": _how_severe,
    "D05_describe_device": _describe_device,
    "D06_has_device": _has_device,
    "D07_where_is_device": _where,
}
