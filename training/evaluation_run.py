"""What `evaluate.py` does around the answers: load, check that model and data fit, record, write."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config, DataConfig, to_dict
from data import label_space
from data.index import Index, ensure_index
from data.label_space import HEADS, Head
from data.mimic_cxr_dataset import VQADataset
from data.summary import SYNTHETIC_NOTICE
from data.visits import Selection
from data.vocabulary import Vocabulary
from models.mimic_vqa_model import SSGVQA
from models.probabilities import TEMPERATURES, read_temperatures, weights_sha256
from models.question_only import QuestionOnly
from models.routing import ROUTING
from training.audit import audit_index
from training.cohort import patient_strata, radiologist_labels
from training.evaluation import Evaluation, evaluate, evaluate_given
from training.evaluation_settings import EvaluationJob, check_folders
from training.external import external_index, external_setting, same_set
from training.markdown import render_markdown
from training.predictions import QuestionSet, question_fates, read_lineage, read_predictions
from training.report import Extras, answers_of_rows, build_report
from training.report.html import render_html
from training.report.pictures import pictures
from training.routing import measure_routing
from training.scoring.confidence import fit_temperature
from utils.allocator import keep_freed_memory
from utils.errors import CheckpointError, DataError
from utils.hardware_utils import detect
from utils.privacy import lineage_notice, open_private, private_directory, warn_if_open
from utils.utils import get_logger, write_atomic, write_json, writing_to
from utils.version import commit

LEDGER = "test_ledger.jsonl"
CONTROLS = "controls"
"""Folder of the other rows' predictions"""
PLACES = (
    "data.mimic_cxr_path", "data.mimic_qa_path", "data.vqa_rad_path", "data.own_data", "data.index_dir",
    "data.num_workers", "data.prefetch_factor", "evaluation.output_dir",
)  # fmt: skip
"""Settings that say where and how fast, not what."""
PACKAGES = ("torch", "timm", "transformers", "numpy", "scikit-learn", "pyarrow")

log = get_logger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model folder."""

    model: SSGVQA
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    question_only: QuestionOnly | None
    sha256: str
    """of the weights file, hex"""
    data: DataConfig
    """of what it was trained on last"""
    credentialed: bool
    """the model or its control is"""


def load_model(job: EvaluationJob) -> LoadedModel:
    """Model, tokenizer and, with controls, the text-only control of a model folder.

    Raises:
        CheckpointError: a folder is missing or damaged, or model and control do not read the same word pieces.
    """
    check_folders(job)
    model, tokenizer, trained, vocabulary = SSGVQA.from_pretrained(job.model_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    question_only = None
    if job.controls:
        question_only, other, _ = QuestionOnly.from_pretrained(job.question_only)
        if other.get_vocab() != tokenizer.get_vocab():
            raise CheckpointError(
                f"the text-only control in {job.question_only} has another tokenizer than the model: "
                "train both with one command"
            )
        question_only.to(device)
    weights = weights_sha256(job.model_path)
    credentialed = model.credentialed or (question_only is not None and question_only.credentialed)
    return LoadedModel(model.to(device), tokenizer, vocabulary, question_only, weights, trained.data, credentialed)


def check_fits(index: Index, vocabulary: Vocabulary, model_path: Path) -> None:
    """DataError when the release's names or classes are not those the model was trained with."""
    if index.meta["label_space"] != label_space.checksum():
        raise DataError(f"index {index.path} has other classes than {model_path}; delete the index and build it again")
    for kind in ("entities", "regions"):
        here, there = getattr(index.vocabulary, kind), tuple(getattr(vocabulary, kind))
        if here == there:
            continue
        new, lost = sorted(set(here) - set(there)), sorted(set(there) - set(here))
        detail = f"{len(new)} only in the release, {len(lost)} only in the model" if new or lost else "another order"
        raise DataError(
            f"the release has other {kind} than the model in {model_path} ({len(here)} against {len(there)}: {detail});"
            " evaluate on the release it was trained on, or train on this one"
        )


def run_evaluation(job: EvaluationJob, config: Config) -> tuple[dict, Path]:
    """Evaluate a model folder, or answers of any model, and write predictions and reports.

    Args:
        config: with the checkpoint's model settings, see `evaluation_settings`.
    Returns:
        the report, and the path of report.json.
    """
    require_writable(Path(config.evaluation.output_dir))
    model = load_model(job) if job.model_path else None
    is_external = external_setting(config.data) is not None
    index = external_index(config, job.model_path) if is_external else ensure_index(config)
    if model:
        check_fits(index, model.vocabulary, job.model_path)
    if is_external and job.controls and not index.counts("train").get("target"):
        raise DataError(
            f"{dataset_of(index)} has no training questions, which majority answers and the mean image come from: give it "
            "a train split, or evaluate the model alone with --controls none"
        )
    if index.is_synthetic:
        log.warning("%s", SYNTHETIC_NOTICE)
    source = lineage(job, config, index, model)
    if source["credentialed"]:
        log.warning("%s", lineage_notice(source))
        warn_if_open(config.evaluation.output_dir)
    evaluation = _from_file(job, config, index, model) if job.predictions else _from_model(job, config, index, model)
    other = read_predictions(job.compare, evaluation.questions)[0] if job.compare else None
    is_own = model is not None and same_set(model.data, config.data)
    if model and is_own and job.split == "validate" and not job.predictions:
        _keep_routing(job, config, evaluation, model)
    temperatures = _temperatures(job, evaluation, is_own, model.sha256 if model else "")
    report = build_report(
        evaluation,
        question_fates(index, job.split, config.data),
        provenance(job, config, model, evaluation) | source,
        samples=config.evaluation.bootstrap_samples,
        confidence=config.evaluation.confidence,
        seed=config.training.seed,
        extras=Extras(
            radiologist=radiologist_labels(config.data, index, job.split, evaluation.studies),
            temperatures=temperatures,
            strata=patient_strata(config.evaluation.patients_table, evaluation.questions),
            other=other,
            audit=audit_index(index, job.split),
            settings=to_dict(config),
        ),
    )
    if job.split == "test":
        record_test(job, report)
    return report, _write(Path(config.evaluation.output_dir), report, evaluation, job.pictures)


def require_writable(folder: Path) -> None:
    """DataError where results could not be written, before anything is computed and a look at the test split is spent."""
    try:
        private_directory(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror or error}); name another folder with --output_dir"
        ) from error


def _from_model(job: EvaluationJob, config: Config, index: Index, model: LoadedModel) -> Evaluation:
    return evaluate(
        model.model,
        model.question_only,
        questions_of_split(index, job.split, config, model.tokenizer),
        questions_of_split(index, "train", config, model.tokenizer) if job.controls else None,
        graph=job.graph,
        batch_size=config.evaluation.batch_size,
        seed=config.training.seed,
        attention=job.attention,
    )


def _from_file(job: EvaluationJob, config: Config, index: Index, model: LoadedModel | None) -> Evaluation:
    given, _ = read_predictions(job.predictions, question_set(index, job.split, config.data))
    known = question_set(index, "train", config.data) if job.controls else None
    if model is None or model.question_only is None:
        return evaluate_given(given, known, None, None)
    return evaluate_given(
        given, known, model.question_only, questions_of_split(index, job.split, config, model.tokenizer)
    )


def _temperatures(job: EvaluationJob, evaluation: Evaluation, is_own: bool, sha256: str) -> dict[Head, float]:
    """Fitted where the validation split of the model's own data set is evaluated, and kept beside the model; used on test
    splits only."""
    if job.model_path is None or job.predictions or job.graph != "predicted":
        return {}
    path = job.model_path / TEMPERATURES
    if job.split == "validate" and not is_own:
        return {}
    if job.split == "validate":
        answers = evaluation.answers["model"]
        fitted = {head: fit_temperature(head, answers[head], evaluation.questions.targets(head)) for head in HEADS}
        if None in fitted.values() and path.exists():
            log.warning("%s stays as it is: not all heads have questions here", path)
            return {}
        try:
            write_json(path, {head.value: value for head, value in fitted.items()} | {"model_sha256": sha256})
        except OSError as error:
            log.warning("temperatures are not kept for the test split: %s cannot be written (%s)", path, error)
        return {}
    stored = read_temperatures(job.model_path, sha256)
    if not stored:
        why = "was fitted for other weights and is not used" if path.exists() else "is not there"
        log.warning(
            "%s %s: evaluate the validation split first to have calibrated confidence on the test split", path, why
        )
    return stored


def _keep_routing(job: EvaluationJob, config: Config, evaluation: Evaluation, model: LoadedModel) -> None:
    """Measure how the model routes questions without a type, and keep it beside the model for whoever asks it."""
    path, questions = job.model_path / ROUTING, evaluation.questions
    dataset = questions_of_split(questions.index, job.split, config, model.tokenizer)
    measured = measure_routing(model.model, dataset, questions)
    try:
        write_json(path, measured | {"model_sha256": model.sha256})
    except OSError as error:
        log.warning("routing of free-text questions is not kept: %s cannot be written (%s)", path, error)


def question_set(index: Index, split: str, data: DataConfig) -> QuestionSet:
    """The configured questions of a split."""
    selection = Selection(index, split, data)
    if not len(selection.studies):
        raise DataError(f"no {split} questions in {index.path} pass data.quality_grade and data.question_types")
    return QuestionSet(index, np.concatenate(list(selection.chunks())))


def questions_of_split(index: Index, split: str, config: Config, tokenizer) -> VQADataset:
    """The configured questions of a split, as the evaluation asks them."""
    return VQADataset(
        index,
        split,
        config.data,
        tokenizer,
        train=False,
        questions_per_image=config.evaluation.questions_per_image,
        max_question_length=config.model.max_question_length,
    )


def _write(folder: Path, report: dict, evaluation: Evaluation, with_pictures: bool) -> Path:
    with writing_to(folder, "free space, or name another folder with --output_dir"):
        private_directory(folder)
        answers = answers_of_rows(evaluation)
        for earlier in (folder / CONTROLS).glob("*.parquet"):  # of another evaluation, which may have had other rows
            earlier.unlink()
        for row, answered in answers.items():
            if answered:
                name = "predictions.parquet" if row == "model" else f"{CONTROLS}/{row}.parquet"
                metadata = {"graph": evaluation.graph, "row": row}
                answered.write(folder / name, metadata, report["provenance"]["credentialed"])
        write_atomic(
            folder / "report.html", render_html(report, pictures(evaluation, answers["model"]) if with_pictures else "")
        )
        write_atomic(folder / "report.md", render_markdown(report))
        write_json(folder / "report.json", report)  # last: where it is, the others are
    return folder / "report.json"


def provenance(job: EvaluationJob, config: Config, model: LoadedModel | None, evaluation: Evaluation) -> dict:
    """What was evaluated on what, with which settings and programs."""
    questions = evaluation.questions
    index = questions.index
    return {
        "dataset": dataset_of(index),
        "model": str(job.predictions or job.model_path),
        "model_sha256": _sha256(job.predictions) if job.predictions else model.sha256,
        "index_fingerprint": index.fingerprint,
        "label_space": label_space.checksum(),
        "synthetic": index.is_synthetic,
        "notice": SYNTHETIC_NOTICE if index.is_synthetic else "",
        "split": job.split,
        "graph": evaluation.graph,
        "quality_grade": "" if external_setting(config.data) else config.data.quality_grade,
        "questions": len(questions),
        "studies": len(np.unique(questions.study)),
        "patients": len(np.unique(questions.patient)),
        "confidence": config.evaluation.confidence,
        "seed": config.training.seed,
        "config_sha256": _settings_sha256(config),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(next(model.model.parameters()).device) if model else "",
        "hardware": hardware(),
        "commit": commit(),
        "wall_seconds": round(evaluation.seconds, 2),
        "questions_per_second": round(len(questions) / evaluation.seconds, 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def lineage(job: EvaluationJob, config: Config, index: Index, model: LoadedModel | None) -> dict[str, bool]:
    """For the provenance. `credentialed_data`: the data set is; `credentialed`: that, the model, or a file of answers is.

    An index of a public set is marked when it was made for a credentialed model; its set stays public.
    """
    of_data = index.is_credentialed and not index.meta.get("public", False)
    of_files = any(read_lineage(path) for path in (job.predictions, job.compare) if path)
    of_model = model is not None and model.credentialed
    return {"credentialed_data": of_data, "credentialed": index.is_credentialed or of_files or of_model}


def dataset_of(index: Index) -> str:
    """The name of the data set that was evaluated."""
    return index.meta.get("dataset") or ("look-alike release" if index.is_synthetic else "MIMIC-Ext-CXR-QBA")


def hardware() -> str:
    """The machine, in a line."""
    found = detect()
    cards = f"{len(found.gpus)} x {found.gpus[0].name}, " if found.gpus else ""
    return f"{cards}{found.cpus} CPUs ({platform.machine()}), {found.memory_gib:.0f} GiB"


def _settings_sha256(config: Config) -> str:
    """Hash of the settings that decide the numbers: the same on every machine, wherever its data are."""
    settings = {
        f"{section}.{name}": value
        for section in ("model", "data", "evaluation")
        for name, value in to_dict(config)[section].items()
        if f"{section}.{name}" not in PLACES
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def record_test(job: EvaluationJob, report: dict) -> None:
    """Append one line to the ledger beside the model folder: how often, and with what, the test split was looked at.

    Raises:
        CheckpointError: it cannot be written; then no result is shown either.
    """
    source = report["provenance"]
    keys = ("date", "dataset", "model_sha256", "index_fingerprint", "graph", "config_sha256", "seed", "questions")
    line = {key: source[key] for key in keys} | {"score": report["headline"]["score"]}
    append_to_ledger(job.model_path or job.predictions, line)


def append_to_ledger(model: Path, line: dict) -> None:
    """One line, with at least `dataset`, in the ledger beside a model folder or file of answers; errors as of `record_test`."""
    path = model.resolve().parent / LEDGER
    try:
        with open_private(path, "a") as file:
            file.write(json.dumps({"model": model.name} | line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror or error}): every look at the test split is recorded there; "
            "make the folder writable or copy the model folder to one that is"
        ) from error
    looks = sum(_dataset(text) == line["dataset"] for text in path.read_text(encoding="utf-8").splitlines())
    log.warning("the test split of %s has now been evaluated %d time(s): see %s", line["dataset"], looks, path)


def _dataset(line: str) -> str:
    """Of a line of the ledger; a damaged one counts for none."""
    try:
        return json.loads(line)["dataset"]
    except (ValueError, KeyError, TypeError):
        return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
