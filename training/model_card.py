"""The README.md of a model folder: what the model is, its training data, how good it is, and what it is not for.

Everything in it comes from files of the folder (config.yaml, metrics.json, the header of the weights) and, where there is one,
from a `report.json` about these weights: the same card can be made again later. It has settings and aggregate numbers only, no
image, question, answer or id of a patient. The block at its top is the Hugging Face Hub's metadata, with the `model-index`.
"""

from __future__ import annotations

from configs.mimic_cxr_config import Config
from data.index import Index
from training.card_report import eval_results, report_section
from training.metrics import HEADLINE, Scores

TITLE = "SSG-VQA for chest X-rays"
TASK = "visual-question-answering"
LOOK_ALIKE, RELEASE, OTHER_SET, UNRECORDED = "look-alike", "release", "set", "unrecorded"
"""Kinds of training data"""

SYNTHETIC = (
    "**Trained on a generated look-alike release. The images are drawings and the answers describe drawings: "
    "the model and its numbers have no clinical meaning.**"
)
CREDENTIALED = (
    "**Of credentialed lineage: made from data under a data use agreement, or started from a model that was. Share it only "
    "as that agreement allows.**"
)
NOT_RECORDED = "Nothing is recorded of its training data: treat it as one of data of patients."
PATIENTS = "Trained on data of patients: share it only as the licences of all its data allow."
RELEASE_SPLITS = "The training and validation splits are the release's own, by patient."
SPLITS = {
    LOOK_ALIKE: f"{RELEASE_SPLITS} Supervision is what was drawn into the images.",
    RELEASE: f"{RELEASE_SPLITS} Supervision is derived by rule and by a language model from radiology reports: it has their "
    "omissions and errors.",
    OTHER_SET: "The training and validation splits are those of that set. Supervision is the answers of that set; the model that "
    "training started from had learned from other data.",
    UNRECORDED: "Nothing is recorded of the splits and of the supervision.",
}
LICENCES = {
    LOOK_ALIKE: {"license": "mit"},
    RELEASE: {
        "license": "other",
        "license_name": "physionet-credentialed-health-data-license-1.5.0",
        "license_link": "https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/",
    },
    OTHER_SET: {"license": "other", "license_name": "as-its-data-allow"},
    UNRECORDED: {"license": "other", "license_name": "as-its-data-allow"},
}
"""Of the weights, by the kind of their data, as the Hub's metadata has it"""
ENCODERS = " The licences of the pretrained encoders hold too."
TERMS = {
    LOOK_ALIKE: "The generated data and the software are under the MIT licence; so are these weights.",
    RELEASE: "MIMIC-CXR-JPG and MIMIC-Ext-CXR-QBA are under the [PhysioNet Credentialed Health Data License 1.5.0]"
    "(https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/). These weights are derived from them: whoever gets "
    "them must have credentialed access and have signed the data use agreements of both. The software is under the MIT licence.",
    OTHER_SET: "These weights are derived from that set and from the data of the model that training started from: the licences "
    "of all of them hold. The software is under the MIT licence.",
    UNRECORDED: "The licences of the data that the weights were made from hold. The software is under the MIT licence.",
}

START = {True: "pretrained weights", False: "from random weights"}
"""Of an encoder"""

TEMPLATE = """\
---
{metadata}
---
# {title}

{notice}

Answers questions about a chest radiograph from its pixels. The model predicts a scene graph (a box and findings for
each of 26 regions) and {answers} with a head for each kind of question: {heads}.

**Not for clinical use.** Research only: not a medical device, not validated for any patient, and not to be used for
diagnosis, triage or reporting.

## Intended use

Research on visual question answering about chest radiographs: comparing models, and studying what answers depend on. Out of
scope: any decision about a person, other kinds of images, answers in free text, and attempts to identify patients or to get
training data out of the weights.

## What it was trained on

| | |
|---|---|
| data | {data} |
| index fingerprint | {fingerprint} |
| lineage | {lineage} |
| questions of the training split seen | {questions:,} in {steps:,} steps |
| filters | {filters} |
| image encoder | {backbone}, {visual_start} |
| question encoder | {text}, {text_start} |
| parameters | {parameters} |
| seed | {seed} |

{splits}
{report}
## Validation scores of these weights

{scores}

## Limits

- One film at a time: no comparison with earlier films, no lateral view unless the filters above say so.
- Only the classes named above; a free-text question outside the {types} known question types has no meaningful answer.
- Scores differ between hospitals, devices and groups of patients; none of that has been measured here.
- Much of a question's answer can be guessed from its wording: compare with {control}.

## Licence

{terms}
"""


def data_facts(config: Config, index: Index) -> dict:
    """What a card says of the training data, for metrics.json: kind, name, index fingerprint, filters, notes."""
    facts = {"fingerprint": index.fingerprint, "filters": "none", "notes": []}
    if "dataset" in index.meta:
        return facts | {"kind": OTHER_SET, "name": index.meta["dataset"], "notes": list(index.meta["notes"])}
    facts["filters"] = f"grade {config.data.quality_grade} or better, views {config.data.view_filter}"
    if index.is_synthetic:
        return facts | {"kind": LOOK_ALIKE, "name": "a generated look-alike release"}
    return facts | {"kind": RELEASE, "name": "MIMIC-CXR-JPG and MIMIC-Ext-CXR-QBA layout"}


def model_card(config: Config, metrics: dict, credentialed: bool, report: dict | None = None) -> str:
    """The card as Markdown.

    Args:
        metrics: `step`, `questions_trained`, `parameters`, `data` (`data_facts`), `validation` (`Validation.as_json()`) and,
            when it is known, `question_only` (the same of the text-only control). What an earlier version did not store is
            "not recorded".
        credentialed: the lineage of the weights, which may have begun with other data than the index's.
        report: `report.json` of these weights.
    """
    from data.label_space import HEADS, QUESTION_TYPES

    data = {"kind": UNRECORDED, "name": "not recorded", "fingerprint": "not recorded", "filters": "not recorded"}
    data |= {"notes": []} | metrics.get("data", {})
    parameters = metrics.get("parameters")
    return TEMPLATE.format(
        title=TITLE,
        metadata=metadata(config, data["kind"], credentialed, report),
        notice="\n\n".join(_notices(data["kind"], credentialed)),
        data=data["name"],
        fingerprint=data["fingerprint"],
        filters=data["filters"],
        splits=SPLITS[data["kind"]] + "".join(f" {note}." for note in data["notes"]),
        terms=_terms(data["kind"], credentialed) + ENCODERS * config.model.pretrained,
        lineage="credentialed" if credentialed else "no credentialed data",
        questions=metrics["questions_trained"],
        steps=metrics["step"],
        backbone=config.model.visual_backbone,
        text=(config.model.text_encoder or "from a local folder") if config.model.pretrained else "BERT",
        visual_start=START[config.model.pretrained],
        text_start=START[_text_is_pretrained(config)],
        answers="answers, without reading it," if config.model.fusion == "none" else "answers from it",
        control="`question_only/` beside this file"
        if "question_only" in metrics
        else "a model that reads the text alone",
        parameters=f"{parameters:,}" if parameters else "not recorded",
        seed=config.training.seed,
        report=f"\n{report_section(report)}\n" if report else "",
        scores=_scores(metrics.get("validation"), metrics.get("question_only")),
        types=len(QUESTION_TYPES),
        heads=", ".join(f"{head.value} ({len(spec.classes)} classes)" for head, spec in HEADS.items()),
    )


def metadata(config: Config, kind: str, credentialed: bool, report: dict | None) -> str:
    """YAML for the Hub: licence, task, tags, base models and, of a report, the `model-index`."""
    from huggingface_hub import ModelCardData

    encoders = [config.model.visual_backbone, *[config.model.text_encoder] * _text_is_pretrained(config)]
    bases = [name.removeprefix("hf-hub:").removeprefix("hf_hub:").split("@")[0] for name in encoders if "/" in name]
    card = ModelCardData(
        language="en",
        **_licence(kind, credentialed),
        pipeline_tag=TASK,
        tags=["chest-x-ray", "radiology", "scene-graph", "medical", "mimic-cxr"],
        base_model=bases if config.model.pretrained and bases else None,
        model_name=TITLE if report else None,
        eval_results=eval_results(report, TASK) if report else None,
    )
    return card.to_yaml()


def _text_is_pretrained(config: Config) -> bool:
    return config.model.pretrained and config.model.text_pretrained


def _licence(kind: str, credentialed: bool) -> dict[str, str]:
    return LICENCES[OTHER_SET if credentialed and kind == LOOK_ALIKE else kind]


def _terms(kind: str, credentialed: bool) -> str:
    return TERMS[OTHER_SET if credentialed and kind == LOOK_ALIKE else kind]


def _notices(kind: str, credentialed: bool) -> list[str]:
    is_synthetic = kind == LOOK_ALIKE
    notices = [SYNTHETIC] * is_synthetic + [CREDENTIALED] * credentialed
    return notices or [NOT_RECORDED if kind == UNRECORDED else PATIENTS]


def _scores(validation: dict | None, control: dict | None) -> str:
    if not validation:
        return "None: these are the weights of a checkpoint, which nobody has scored."
    of_control = f" The text-only control: {_number(control['headline'])}." if control else ""
    return "\n".join(
        [
            "They chose these weights, so they are optimistic; `evaluate.py` writes a report with controls and intervals.\n",
            "| head | questions | metric | score |\n|---|---|---|---|",
            *_rows(validation["heads"]),
            f"\nMean over heads: {_number(validation['headline'])}.{of_control}",
        ]
    )


def _rows(heads: dict[str, Scores]) -> list[str]:
    rows = []
    for head, metric in HEADLINE.items():
        scores = heads[head.value]
        rows.append(f"| {head.value} | {scores['n']:,} | {metric.replace('_', ' ')} | {_number(scores[metric])} |")
    return rows


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
