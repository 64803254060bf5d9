"""What `scripts/export.py` does: write the graphs, compare them with the model, and only then let the folder appear."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config
from data import label_space
from data.index import open_index
from data.mimic_cxr_dataset import VQADataset
from models.mimic_vqa_model import SSGVQA
from models.onnx_folder import (
    EXPORTER,
    FORMAT,
    GRAPHS,
    MANIFEST,
    PRECISIONS,
    REPORT,
    TOKENIZER,
    file_of,
    hashes,
    require_exporter,
    require_replaceable,
)
from models.onnx_graphs import write_graphs
from models.onnx_int8 import quantise
from models.onnx_model import OnnxModel
from models.probabilities import read_temperatures, weights_sha256
from models.routing import Router
from models.trained import check_trained_record, check_trained_weights
from training.evaluation_run import check_fits
from training.export_checks import accuracy, agreement, compare, generated_samples, index_samples
from utils.errors import CheckpointError, ConfigError
from utils.privacy import lineage_notice, warn_if_open
from utils.utils import atomic_directory, get_logger, write_json, writing_to
from utils.version import commit

ADVICE = "free space, or name another folder"

log = get_logger(__name__)


@dataclass(frozen=True)
class ExportJob:
    """The command line."""

    model_path: Path
    output: Path
    int8: bool = False
    samples: int = 32
    """films that the graphs are compared on"""
    index: Path | None = None
    """an index whose validation questions are asked; None: generated films"""
    questions: int = 5000
    """most validation questions for the accuracy; 0: all"""
    threads: int = 0
    """of ONNX Runtime; 0: as many as there are cores"""


def run_export(job: ExportJob) -> dict:
    """Export a model folder; returns the report, which is written beside the graphs.

    CheckpointError: the model folder is damaged or holds no trained model, or graphs and model differ by more than
        `export_checks.TOLERANCE`.
    ConfigError: packages are missing, or the model cannot be exported. DataError: the index does not fit the model.
    """
    require_exporter()
    require_replaceable(job.output)
    check_trained_record(job.model_path)
    model, tokenizer, config, vocabulary = SSGVQA.from_pretrained(job.model_path)
    check_trained_weights(model, job.model_path)
    refuse(config, tokenizer, job.model_path)
    dataset = None
    if job.index:
        index = open_index(job.index)
        check_fits(index, vocabulary, job.model_path)
        longest = config.model.max_question_length
        dataset = VQADataset(
            index, "validate", config.data, tokenizer, train=False, max_question_length=longest, keep_tokens=False
        )
        samples = index_samples(dataset, job.samples)
    else:
        samples = generated_samples(
            model.image_size, config.model.max_question_length, tokenizer, vocabulary, job.samples
        )
    source = {
        "credentialed": model.credentialed or (dataset is not None and dataset.index.is_credentialed),
        "credentialed_data": dataset is not None and dataset.index.is_credentialed,
    }
    if source["credentialed"]:
        log.warning("%s", lineage_notice(source))
        warn_if_open(job.output.parent)
    weights = weights_sha256(job.model_path)
    with writing_to(job.output, ADVICE, CheckpointError), atomic_directory(job.output) as folder:
        log.info("writing three graphs")
        write_graphs(model, folder)
        _write_tokenizer(tokenizer, folder)
        temperature = {head.value: value for head, value in read_temperatures(job.model_path, weights).items()}
        router = Router.of_folder(job.model_path, weights, vocabulary)
        write_manifest(model, tokenizer, config, folder, weights, temperature, router)
        fp32 = OnnxModel.from_pretrained(folder, "fp32", job.threads)
        log.info("comparing them with the model on %d films", sum(len(sample.images) for sample in samples))
        report = {
            "model_sha256": weights,
            **source,
            "samples": {
                "films": sum(len(sample.images) for sample in samples),
                "questions": sum(len(sample.question_of) for sample in samples),
                "from": "validation split" if dataset else "generated films",
            },
            "differences": compare(model, tokenizer, fp32, samples),
        }
        models = {"fp32": fp32}
        if job.int8:
            log.info("rounding weights to 8 bits")
            quantise(folder)
            write_manifest(model, tokenizer, config, folder, weights, temperature, router)
            models["int8"] = OnnxModel.from_pretrained(folder, "int8", job.threads)
            report["agreement"] = agreement(fp32, models["int8"], samples)
        if dataset:
            report["accuracy"] = accuracy(models, dataset, job.questions)
        report["megabytes"] = {name: _megabytes(folder, name) for name in models}
        write_json(folder / REPORT, report)
    return report


def refuse(config: Config, tokenizer: PreTrainedTokenizerBase, model_path: Path) -> None:
    """ConfigError for models that would not be themselves after an export."""
    if config.data.blank_images:
        raise ConfigError(
            f"{model_path}: trained with data.blank_images, a control that has never seen a film; export the full model"
        )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(
            f"{model_path}: its tokenizer ({type(tokenizer).__name__}) has no form that runs without transformers; train with"
            " a model.text_encoder that has a fast tokenizer"
        )


def write_export(model: SSGVQA, tokenizer: PreTrainedTokenizerBase, config: Config, folder: Path, int8: bool) -> None:
    """An export of a model that has no folder, without comparison: for measurements."""
    write_graphs(model, folder)
    _write_tokenizer(tokenizer, folder)
    if int8:
        quantise(folder)
    write_manifest(model, tokenizer, config, folder, "", {}, Router(model.vocabulary))


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    rules = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy, without what the last call left in it
    rules.no_padding()
    rules.no_truncation()
    rules.save(str(folder / TOKENIZER))


def write_manifest(
    model: SSGVQA,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    folder: Path,
    weights: str,
    temperature: dict[str, float],
    router: Router,
) -> None:
    """manifest.json of the graphs and the tokenizer that are in a folder."""
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "model_sha256": weights,
            "credentialed": model.credentialed is not False,
            "graphs": {graph: _signature(folder / file_of(graph, "fp32")) for graph in GRAPHS},
            "preprocessing": {
                "image_size": model.image_size,
                "shorter_side": config.data.image_store_size or config.data.image_size,
                "levels": "grey, 0 to 255, float32; the graph normalises them itself",
                "letterbox": "longer side fills the square, shorter one centred on black, bilinear (data/letterbox.py)",
            },
            "tokenizer": {"max_length": config.model.max_question_length, "pad_id": tokenizer.pad_token_id},
            "label_space": label_space.as_json(),
            "vocabulary": model.vocabulary.as_json(),
            "routing": {"threshold": router.threshold} if router.measured else None,
            "temperature": temperature or None,
            "sha256": hashes(folder),
            "made_with": {name: version(name) for name in ("torch", *EXPORTER)}
            | {"python": platform.python_version(), "commit": commit()},
        },
    )


def _signature(path: Path) -> dict[str, dict[str, dict]]:
    """Names, types and shapes of what a graph takes and gives; free sizes by name."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    kinds = onnx.TensorProto.DataType

    def described(value) -> dict:
        tensor = value.type.tensor_type
        shape = [one.dim_param or one.dim_value for one in tensor.shape.dim]
        return {"type": kinds.Name(tensor.elem_type).lower(), "shape": shape}

    return {side: {v.name: described(v) for v in getattr(graph, side[:-1])} for side in ("inputs", "outputs")}


def _megabytes(folder: Path, precision: str) -> float:
    files = [path for graph in GRAPHS for path in folder.glob(f"{file_of(graph, precision)}*")]
    return round(sum(path.stat().st_size for path in files) / 1e6, 2)


def lines(report: dict) -> list[str]:
    """The report, for people."""
    asked, differences = report["samples"], report["differences"]
    worst = max(differences, key=differences.get)
    found = [
        f"fp32 graphs against the model, {asked['films']} films and {asked['questions']} questions ({asked['from']}):",
        f"  largest difference {differences[worst]:.1e} ({worst})",
        "  " + ", ".join(f"{name} {size:,.1f} MB" for name, size in report["megabytes"].items()),
    ]
    if "agreement" in report:
        found += ["int8 against fp32, the same questions, every head asked:"]
        found += [
            f"  {head:<9} {100 * one['share']:6.2f} % of {one['n']:,} decisions equal, probabilities differ by"
            f" {one['mean_difference']:.4f} on average, {one['largest_difference']:.3f} at most"
            for head, one in report["agreement"].items()
        ]
    if "accuracy" in report:
        precisions = [name for name in PRECISIONS if name in report["megabytes"]]
        found += ["", f"{'validation':<10} {'questions':>9}  {'metric':<18}" + "".join(f" {p:>7}" for p in precisions)]
        for head, one in report["accuracy"].items():
            scores = "".join(f" {_number(one['scores'][name]):>7}" for name in precisions)
            same = "" if one["agreement"] is None else f"   {100 * one['agreement']:.2f} % of answers equal"
            found.append(f"{head:<10} {one['n']:>9,}  {one['metric']:<18}{scores}{same}")
    return found


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
