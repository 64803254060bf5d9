"""The tables of both releases as pandas frames, and the labels that two invented labellers and a reader would give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from data.label_space import CHEXPERT
from data.synthetic import graph, questions
from data.synthetic.anatomy import Pose
from data.synthetic.cases import REPORT, Study, generator
from data.synthetic.images import LATERAL_VIEWS
from data.synthetic.vocabulary import FINDINGS, KINDS

ALPHABETICAL = sorted(CHEXPERT)
_READER_ORDER = (
    "No Finding;Enlarged Cardiomediastinum;Cardiomegaly;Airspace Opacity;Lung Lesion;Edema;Consolidation;Pneumonia;"
    "Atelectasis;Pneumothorax;Pleural Effusion;Pleural Other;Fracture;Support Devices".split(";")
)
_VIEW_CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral", "": ""}

_IMAGE_FACTS = ("view_position", "patient_orientation", "size", "bbox_count", "localization_quality")

Row = tuple


@dataclass
class QaRows:
    """Rows of the four tables about questions and answers; the first columns are the ids and the split."""

    question: list[Row] = field(default_factory=list)
    question_image: list[Row] = field(default_factory=list)
    answer: list[Row] = field(default_factory=list)
    answer_image: list[Row] = field(default_factory=list)

    def extend(self, other: QaRows) -> None:
        self.question += other.question
        self.question_image += other.question_image
        self.answer += other.answer
        self.answer_image += other.answer_image


def qa_rows(qa: dict, split: str) -> QaRows:
    """The table rows of a study's qa.json."""
    rows = QaRows()
    for q in qa["questions"]:
        key = (qa["patient_id"], qa["study_id"], q["question_id"])
        answers = list(_flatten(q["answers"]))
        flags = (q["contains_report_answers"], q["contains_template_answers"])
        rating = q["question_quality"]["rating"]
        rows.question.append((*key, split, q["question_type"], q["question_strategy"], *flags, len(answers), rating))
        for image, quality in q["question_img_localization_quality"].items():
            rows.question_image.append((*key, image, split, quality))
        for a in answers:
            own = (*key, a["answer_id"])
            facts = (a["answer_type"], a["answer_level"], a["from_report"], a["answer_quality"]["rating"])
            rows.answer.append((*own, split, *facts))
            for image, block in a["localization"].items():
                count, quality = len(block["localization_reference_ids"]), block["localization_quality"]
                rows.answer_image.append((*own, image, split, count, quality))
    return rows


def _flatten(answers: list[dict]) -> Iterable[dict]:
    for answer in answers:
        yield answer
        yield from _flatten(answer["sub_answers"])


_IDS = ["patient_id", "study_id", "question_id", "answer_id", "image_id"]


def _frame(rows: Sequence[Row], index: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*index, *columns]).set_index(list(index))


def qa_frames(rows: QaRows) -> dict[str, pd.DataFrame]:
    """Table name -> frame with the ids as index."""
    flags = ["contains_report_answers", "contains_template_answers", "num_answers", "quality.rating"]
    question = ["split", *(f"question.{name}" for name in ("question_type", "question_strategy", *flags))]
    answer = ["split", *(f"answer.{name}" for name in ("answer_type", "answer_level", "from_report", "quality.rating"))]
    return {
        "question_metadata": _frame(rows.question, _IDS[:3], question),
        "question_image_metadata": _frame(
            rows.question_image, [*_IDS[:3], "image_id"], ["split", "question_img.localization_quality"]
        ),
        "answer_metadata": _frame(rows.answer, _IDS[:4], answer),
        "answer_image_metadata": _frame(
            rows.answer_image, _IDS, ["split", "answer_img.num_regions", "answer_img.localization_quality"]
        ),
    }


def study_frames(studies: Sequence[Study], metadata: Sequence[dict]) -> dict[str, pd.DataFrame]:
    """patient, study and image tables; `metadata` are the studies' metadata.json."""
    patients: dict[str, list] = {}
    study_rows, image_rows = [], []
    for study, meta in zip(studies, metadata, strict=True):
        key = (meta["patient_id"], meta["study_id"])
        known = patients.setdefault(meta["patient_id"], [meta["split"], 0, 0])
        known[1:] = [known[1] + 1, max(known[2], study.days)]
        facts = (meta["procedure"], meta["num_images"], meta["num_observations"], meta["timestamp_since_first"])
        quality = (*graph.QUALITY.values(), graph.extraction_rating(study))
        study_rows.append((*key, meta["split"], *facts, meta["timespan_since_prev"], *quality))
        for image, entry in meta["images"].items():
            image_rows.append((*key, image, meta["split"], *(entry[name] for name in _IMAGE_FACTS)))
    spans = [(patient, split, total, f"{days} days 00:00:00") for patient, (split, total, days) in patients.items()]
    names = ("procedure", "num_images", "num_observations", "timestamp_since_first", "timespan_since_prev")
    qualities = [f"quality.{name}" for name in (*graph.QUALITY, "extraction_rating")]
    return {
        "patient_metadata": _frame(spans, _IDS[:1], ["split", "patient.total_studies", "patient.total_study_timespan"]),
        "study_metadata": _frame(study_rows, _IDS[:2], ["split", *(f"study.{n}" for n in (*names, *qualities))]),
        "image_metadata": _frame(image_rows, [*_IDS[:2], "image_id"], ["split", *(f"img.{n}" for n in _IMAGE_FACTS)]),
    }


def image_tables(studies: Sequence[Study], poses: Sequence[list[Pose]]) -> dict[str, pd.DataFrame]:
    """`metadata` and `split` of MIMIC-CXR-JPG."""
    metadata, split = [], []
    for study, study_poses in zip(studies, poses, strict=True):
        procedure = graph.procedure(study)
        for dicom, view, pose in zip(study.dicom_ids, study.views, study_poses, strict=True):
            size = (pose.height, pose.width)
            orientation = "" if view in LATERAL_VIEWS else "Erect" if view == "PA" else "Recumbent"
            codes = (procedure, _VIEW_CODES[view], orientation)
            ids = (dicom, study.subject_id, study.study_id)
            metadata.append((*ids, procedure, view, *size, study.date, study.time, *codes))
            split.append((dicom, study.study_id, study.subject_id, study.split))
    columns = ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows"]
    columns += ["Columns", "StudyDate", "StudyTime"]
    columns += [f"{n}CodeSequence_CodeMeaning" for n in ("Procedure", "View", "PatientOrientation")]
    return {
        "mimic-cxr-2.0.0-metadata": pd.DataFrame(metadata, columns=columns),
        "mimic-cxr-2.0.0-split": pd.DataFrame(split, columns=["dicom_id", "study_id", "subject_id", "split"]),
    }


# Labels


def label_values(study: Study, stated: dict[str, dict]) -> dict[str, float]:
    """What a labeller reads in the invented report: 1 present, 0 denied, -1 uncertain; no key: not mentioned."""
    values: dict[str, float] = {}
    for observation in stated.values():
        kind = KINDS.get(observation["obs_entities"][0])
        if observation["positiveness"] == "neg" and observation["from_report"] and kind and kind.label:
            values[kind.label] = 0.0
    for kind, spec in FINDINGS.items():
        if spec.label and questions.has_finding(study, kind):
            shown = [f for f in study.findings if f.kind == kind or (kind == "consolidation" and f.kind == "pneumonia")]
            values[spec.label] = 1.0 if any(f.certain for f in shown or study.findings) else -1.0
    if study.devices:
        values["Support Devices"] = 1.0
    if not study.findings:
        values["No Finding"] = 1.0
    return values


def label_tables(studies: Sequence[Study], values: Sequence[dict[str, float]], seed: int) -> dict[str, pd.DataFrame]:
    """CheXpert's labels, NegBio's (it misses a denial now and then), and the reader's of the test studies."""
    chexpert, negbio, reader = [], [], []
    for study, found in zip(studies, values, strict=True):
        ids = (study.subject_id, study.study_id)
        missed = generator(seed, REPORT, study.number, 4).random(len(CHEXPERT)) < 0.04
        chexpert.append((*ids, *(found.get(name, np.nan) for name in ALPHABETICAL)))
        second = {n: v for (n, v), miss in zip(sorted(found.items()), missed, strict=False) if v == 1.0 or not miss}
        negbio.append((*ids, *(second.get(name, np.nan) for name in ALPHABETICAL)))
        if study.split == "test":
            reader.append((study.study_id, *(_read(study, name) for name in _READER_ORDER)))
    columns = ["subject_id", "study_id", *ALPHABETICAL]
    return {
        "mimic-cxr-2.0.0-chexpert": pd.DataFrame(chexpert, columns=columns),
        "mimic-cxr-2.0.0-negbio": pd.DataFrame(negbio, columns=columns),
        "mimic-cxr-2.1.0-test-set-labeled": pd.DataFrame(reader, columns=["study_id", *_READER_ORDER]),
    }


def _read(study: Study, label: str) -> float:
    """The truth about a label of the reader's table; nan where one could argue."""
    if label == "No Finding":
        return np.nan if study.findings else 1.0
    if label == "Support Devices":
        return float(bool(study.devices))
    wanted = "Lung Opacity" if label == "Airspace Opacity" else label
    kind = next(kind for kind, spec in FINDINGS.items() if spec.label == wanted)
    present = questions.has_finding(study, kind)
    return np.nan if present is None else float(present)


def statistics(stated: Iterable[dict[str, dict]]) -> dict[str, pd.DataFrame]:
    """How often entities and regions are mentioned."""
    counts: dict[str, dict[str, list[int]]] = {"entity": {}, "region": {}}
    for observations in stated:
        for observation in observations.values():
            column = 0 if observation["positiveness"] == "pos" else 1
            for entity in observation["obs_entities"]:
                counts["entity"].setdefault(entity, [0, 0])[column] += 1
            for region in observation["regions"]:
                counts["region"].setdefault(region["region"], [0, 0])[column] += 1
    frames = {}
    for name, table in (("entity", "study_observations"), ("region", "study_regions")):
        rows = [(key, pos, neg, pos + neg) for key, (pos, neg) in sorted(counts[name].items())]
        frames[table] = pd.DataFrame(rows, columns=[f"{name}_name", "pos_mention", "neg_mention", "total_mention"])
    return frames
