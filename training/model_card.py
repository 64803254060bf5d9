"""The README.md of a model folder: what the model is, its training data, how good it is, and what it is not for."""

from __future__ import annotations

from configs.mimic_cxr_config import Config
from data.index import Index
from training.metrics import HEADLINE, Scores

SYNTHETIC = (
    "**Trained on a generated look-alike release. The images are drawings and the answers describe drawings: "
    "the model and its numbers have no clinical meaning.**"
)

REPORTS = (
    "Supervision is derived by rule and by a language model from radiology reports: it has their omissions and errors."
)
CREDENTIALED = (
    "**Of credentialed lineage: made from data under a data use agreement, or started from a model that was. Share it only "
    "as that agreement allows.**"
)
DRAWN = "Supervision is what was drawn into the images."
ANSWERS = "Supervision is the answers of that set; the model that training started from had learned from other data."
RELEASE_SPLITS = "The training and validation splits are the release's own, by patient."
SET_SPLITS = "The training and validation splits are those of that set."

PATIENTS = "Trained on data of patients: share it only as the licences of all its data allow."

TEMPLATE = """\
---
tags: [visual-question-answering, chest-x-ray]
---
# SSG-VQA for chest X-rays

{notice}

Answers questions about a chest radiograph from its pixels. The model predicts a scene graph (a box and findings for
each of 26 regions) and answers from it with a head for each kind of question: {heads}.

**Not for clinical use.** Research only: not a medical device, not validated for any patient, and not to be used for
diagnosis, triage or reporting.

## What it was trained on

| | |
|---|---|
| data | {data} |
| lineage | {lineage} |
| questions of the training split seen | {questions:,} in {steps:,} steps |
| filters | {filters} |
| image encoder | {backbone}{pretrained} |
| question encoder | {text}{pretrained} |
| parameters | {parameters:,} |
| seed | {seed} |

{splits} {supervision}

## Validation scores of these weights

They chose these weights, so they are optimistic; `evaluate.py` writes a report with controls and intervals.

| head | questions | metric | score |
|---|---|---|---|
{scores}

Mean over heads: {headline}.{control}

## Limits

- One film at a time: no comparison with earlier films, no lateral view unless the filters above say so.
- Only the classes named above; a free-text question outside the {types} known question types has no meaningful answer.
- Scores differ between hospitals, devices and groups of patients; none of that has been measured here.
- Much of a question's answer can be guessed from its wording: compare with `question_only/` beside this file.
"""


def model_card(config: Config, index: Index, metrics: dict, parameters: int, credentialed: bool) -> str:
    """The card as Markdown: settings and aggregate numbers only, no image, question, answer or id of a patient.

    Args:
        metrics: `step`, `questions_trained`, `validation` (`Validation.as_json()`) and, when it is known,
            `question_only` (the same of the text-only control).
        credentialed: the lineage of the weights, which may have begun with other data than the index's.
    """
    from data.label_space import HEADS, QUESTION_TYPES

    validation, control = metrics["validation"], metrics.get("question_only")
    pretrained = ", pretrained weights" if config.model.pretrained else ", from random weights"
    return TEMPLATE.format(
        notice="\n\n".join(_notices(index, credentialed)),
        lineage="credentialed" if credentialed else "no credentialed data",
        **_data_facts(config, index),
        questions=metrics["questions_trained"],
        steps=metrics["step"],
        backbone=config.model.visual_backbone,
        text=config.model.text_encoder if config.model.pretrained else "BERT",
        pretrained=pretrained,
        parameters=parameters,
        seed=config.training.seed,
        scores="\n".join(_rows(validation["heads"])),
        headline=_number(validation["headline"]),
        control=f" The text-only control: {_number(control['headline'])}." if control else "",
        types=len(QUESTION_TYPES),
        heads=", ".join(f"{head.value} ({len(spec.classes)} classes)" for head, spec in HEADS.items()),
    )


def _notices(index: Index, credentialed: bool) -> list[str]:
    of_patients = not (credentialed or index.is_synthetic)
    return [SYNTHETIC] * index.is_synthetic + [CREDENTIALED] * credentialed + [PATIENTS] * of_patients


def _data_facts(config: Config, index: Index) -> dict[str, str]:
    """What the card says of the data set; of a set that is no release it has the name."""
    if "dataset" in index.meta:
        notes = "".join(f" {note}." for note in index.meta["notes"])
        return {
            "data": index.meta["dataset"],
            "filters": "none",
            "splits": SET_SPLITS + notes,
            "supervision": ANSWERS,
        }
    return {
        "data": "a generated look-alike release"
        if index.is_synthetic
        else "MIMIC-CXR-JPG and MIMIC-Ext-CXR-QBA layout",
        "filters": f"grade {config.data.quality_grade} or better, views {config.data.view_filter}",
        "splits": RELEASE_SPLITS,
        "supervision": DRAWN if index.is_synthetic else REPORTS,
    }


def _rows(heads: dict[str, Scores]) -> list[str]:
    rows = []
    for head, metric in HEADLINE.items():
        scores = heads[head.value]
        rows.append(f"| {head.value} | {scores['n']:,} | {metric.replace('_', ' ')} | {_number(scores[metric])} |")
    return rows


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
