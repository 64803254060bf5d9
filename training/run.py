"""From a configuration to a trained model folder: builds the parts, describes them, and runs them in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from configs import loading
from configs.data_sets import external_setting
from configs.mimic_cxr_config import PLACES, TYPES, Config, DataConfig, from_dict, to_dict
from data.index import Index, ensure_index
from data.loader import make_loader
from data.mimic_cxr_dataset import GraphWeights, VQADataset
from data.visits import Selection, text_codes
from models.encoders import build_tokenizer
from models.hub_folder import CONTROL
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from training.checkpoint import list_checkpoints
from training.engine import Engine, build_engine, global_batch, scaled_learning_rate
from training.external import external_index, leave_out_reports
from training.frozen import freeze, read_kept_features
from training.loss import MultiTaskLoss
from training.model_card import model_card
from training.processes import Processes, single
from training.question_only import score_question_only, train_question_only
from training.tracking import METRICS, ConsoleSink, JsonlSink, Sinks
from training.trainer import BEST, Trainer, count_parameters, count_steps
from training.uploads import Uploads, check_uploads, uploads_of
from training.wandb_sink import maybe_wandb
from utils.errors import CheckpointError, ConfigError
from utils.privacy import warn_if_open
from utils.run_lock import run_lock
from utils.utils import get_logger, seed_everything, setup_logging, write_atomic, write_json

log = get_logger(__name__)

T = TypeVar("T")


@dataclass
class Run:
    """Everything that a training needs, built and checked."""

    config: Config
    index: Index
    tokenizer: object
    model: SSGVQA
    engine: Engine
    train_data: VQADataset
    val_data: VQADataset
    total_steps: int
    uploads: Uploads | None = None
    """in the main process, where they are asked for"""


def check_output(output_dir: str | Path, resume: str) -> None:
    """CheckpointError when a fresh start would write over an earlier run."""
    folder = Path(output_dir)
    if resume == "auto" or (resume != "never" and Path(resume).resolve().parent == folder.resolve()):
        return
    found = list_checkpoints(folder) + [p for p in [folder / BEST] if p.exists()]
    if found:
        raise CheckpointError(
            f"{folder} holds an earlier run ({found[0].name}): go on with it by --resume auto, "
            "choose another --output_dir, or delete it"
        )


def agreed(config: Config, processes: Processes) -> Config:
    """The main process's settings, for all: hardware advice may differ from machine to machine, a run may not.

    Paths and loader processes stay each machine's own. What else differed is said.
    """
    ours = to_dict(processes.from_main(config))
    for key, value in loading.flatten(to_dict(config), TYPES, "configuration").items():
        section, name = key.split(".")
        if key in PLACES:
            ours[section][name] = value
        elif ours[section][name] != value:
            log.warning("%s: %r as in the first process, not %r", key, ours[section][name], value)
    return from_dict(ours)


def prepare(config: Config, processes: Processes | None = None, index: Index | None = None) -> Run:
    """Index (built when it is missing), tokenizer, data sets, model and engine. Writes nothing to the output folder.

    `index`: one that is open already, whatever release the configuration names.
    """
    processes = processes or single()
    _by_main(processes, lambda: check_uploads(config))
    training = config.training
    seed_everything(training.seed)
    index = index or processes.main_first("the index", lambda: _index(config))
    leave_out_reports(config, index)
    start = load_start(config, index) if training.init_from else None
    tokenizer = start[1] if start else build_tokenizer(config.model, training_texts(index))
    train_data = training_questions(config, index, tokenizer)
    val_data = VQADataset(
        index,
        "validate",
        config.data,
        tokenizer,
        train=False,
        weights=GraphWeights.of(training),
        seed=training.seed,
        questions_per_image=config.evaluation.questions_per_image,
        max_question_length=config.model.max_question_length,
    )
    seed_everything(training.seed)  # the weights are a function of the seed, whatever was drawn before
    model = start[0] if start else SSGVQA.build(config.model, index.vocabulary, tokenizer, config.data.image_size)
    freeze(config, model)
    read_kept_features(config, model, (train_data, val_data), processes)
    total_steps = count_steps(config, train_data, processes.world_size)
    engine = build_engine(config, model, total_steps, processes)
    credentialed = bool(index.is_credentialed or model.credentialed)
    uploads = _by_main(processes, lambda: uploads_of(config, index.vocabulary, credentialed))
    return Run(config, index, tokenizer, model, engine, train_data, val_data, total_steps, uploads)


def _by_main(processes: Processes, do: Callable[[], T]) -> T | None:
    """What the main process makes, None in the others; its ConfigError in all: only there a token for uploads has to be."""
    made = refused = None
    if processes.is_main:
        try:
            made = do()
        except ConfigError as error:
            refused = str(error)
    refused = processes.from_main(refused)
    if refused:
        raise ConfigError(refused)
    return made


def _index(config: Config) -> Index:
    if external_setting(config.data):
        return external_index(config, config.training.init_from)
    return ensure_index(config)


def training_questions(config: Config, index: Index, tokenizer, keep_tokens: bool = True) -> VQADataset:
    """The configured questions of the train split, as a training draws them; `keep_tokens` as in `VQADataset`."""
    return VQADataset(
        index,
        "train",
        config.data,
        tokenizer,
        train=True,
        weights=GraphWeights.of(config.training),
        seed=config.training.seed,
        max_question_length=config.model.max_question_length,
        keep_tokens=keep_tokens,
    )


def load_start(config: Config, index: Index) -> tuple[SSGVQA, object]:
    """Model and tokenizer of `training.init_from`; `config.model` becomes that model's, and what differed is said."""
    folder = config.training.init_from
    model, tokenizer, stored, vocabulary = SSGVQA.from_pretrained(folder)
    if vocabulary != index.vocabulary:
        raise ConfigError(
            f"training.init_from = {folder}: its entity or region names are not those of the index {index.path}; "
            "start from a model of the same release"
        )
    if stored.data.image_size != config.data.image_size:
        raise ConfigError(
            f"training.init_from = {folder}: trained with data.image_size {stored.data.image_size}, "
            f"not {config.data.image_size}; set data.image_size={stored.data.image_size}"
        )
    for name, value in vars(stored.model).items():
        if value != getattr(config.model, name):
            log.info("model.%s = %r, as in %s", name, value, folder)
    config.model = stored.model
    return model.train(), tokenizer


def training_texts(index: Index) -> Iterator[str]:
    """Nothing is read before somebody asks for the first."""
    everything = Selection(index, "train", DataConfig(quality_grade="all"))
    yield from index.texts(text_codes(everything))


def plan(run: Run) -> list[str]:
    """What the run is about to do, one fact a line."""
    config, training, engine = run.config, run.config.training, run.engine
    world = engine.processes.world_size
    per_step, rate = global_batch(training, world), scaled_learning_rate(training, world)
    epochs = run.total_steps * per_step / max(1, run.train_data.num_visits())
    parameters = count_parameters(run.model)
    kind = "generated look-alike data, no clinical meaning" if run.index.is_synthetic else "not generated here"
    text = config.model.text_encoder if config.model.pretrained else "BERT"
    weights = "pretrained" if config.model.pretrained else "random weights"
    facts = {
        "index": f"{run.index.path} ({kind})",
        "training": _size(run.train_data),
        "validation": _size(run.val_data),
        "model": f"{config.model.visual_backbone} and {text} ({weights}), fusion {config.model.fusion}, "
        f"{parameters / 1e6:.1f} million parameters",
        "device": _device(engine),
        "precision": f"{engine.precision.name} ({engine.precision.reason})",
        "batch": f"{training.batch_size_per_gpu} image visits x {training.gradient_accumulation_steps} accumulated x "
        f"{world} process{'es' if world > 1 else ''} = {per_step} a step",
        "steps": f"{run.total_steps:,} ({epochs:.1f} epochs)",
        "learning rate": f"{rate:.2e}, new layers {rate * training.new_layer_lr_scale:.2e} "
        f"(training.learning_rate x square root of {per_step}/{training.reference_batch_size})",
        "engine": engine.kind,
        "output": training.output_dir,
    }
    if run.uploads:
        facts["uploads"] = run.uploads.plan()
    frozen = {"image encoder": run.train_data.image_features, "text encoder": run.train_data.text_states}
    frozen = [
        f"{name}, {'computed each time' if kept is None else f'{kept.nbytes / 1e9:.1f} GB stored'}"
        for name, kept in frozen.items()
        if getattr(training, f"freeze_{name.replace(' ', '_')}")
    ]
    if frozen:
        facts["frozen"] = "; ".join(frozen)
    for name, data in (("training", run.train_data), ("validation", run.val_data)):
        if data.token_table.num_cut:
            facts[f"{name} texts"] = (
                f"{data.token_table.num_cut:,} fill model.max_question_length = {config.model.max_question_length} "
                "and may be cut"
            )
    return [f"{name:<17} {fact}" for name, fact in facts.items()]


def _size(data: VQADataset) -> str:
    return (
        f"{data.num_questions:,} questions about {len(data.studies):,} studies of "
        f"{data.num_patients:,} patients, {data.num_visits():,} image visits"
    )


def _device(engine: Engine) -> str:
    if engine.device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads"
    others = torch.cuda.device_count() - engine.processes.place.local_world_size
    name = torch.cuda.get_device_name(engine.device)
    return f"{name} ({others} more GPUs are not used)" if others > 0 else name


@torch.inference_mode()
def try_forward(run: Run) -> None:
    """One pass over a small validation batch: what does not fit together fails here, before anything is written."""
    run.model.eval()
    batch = next(make_loader(run.val_data, 2)).on(run.engine.device)
    with run.engine.autocast():
        run.model(batch.images, batch.questions, batch.question_of, batch.image_of)


def train(run: Run, resume: str) -> Path | None:
    """Train the model, then its text-only control; returns the folder of the best model, None in all other processes."""
    output, processes = Path(run.config.training.output_dir), run.engine.processes
    if not processes.is_main:
        _fit(run, resume, Sinks([]))
        return processes.close()
    if run.index.is_credentialed or run.model.credentialed:
        warn_if_open(output)
    with run_lock(output):
        setup_logging(output / "train.log")
        sinks = Sinks([JsonlSink(output / METRICS), ConsoleSink(run.total_steps), *maybe_wandb(run.config)])
        with run.uploads or nullcontext():
            with closing(sinks):
                best = _fit(run, resume, sinks)
            processes.close()  # the rest needs one process
            if "question_only" not in json.loads((best / "metrics.json").read_text(encoding="utf-8")):
                add_control(run, best)
            if run.uploads:
                run.uploads.finish(best)
    return best


def _fit(run: Run, resume: str, sinks: Sinks) -> Path:
    loss = MultiTaskLoss(run.config.training)
    data = run.train_data, run.val_data
    trainer = Trainer(
        run.config, run.model, run.tokenizer, run.engine, *data, loss, sinks, run.total_steps, resume, run.uploads
    )
    return trainer.fit()


def add_control(run: Run, best: Path) -> None:
    """Train the text-only control on the same questions, save it inside the model folder and name it in the card."""
    config = run.config
    control, convergence = train_question_only(
        config, run.tokenizer, run.train_data, config.training.seed, run.engine.device
    )
    scores = score_question_only(control, run.val_data, run.engine.device)
    stored = {"convergence": convergence.as_json(), "validation": scores}
    control.credentialed = run.model.credentialed
    QuestionOnly.save_pretrained(control, best / CONTROL, run.tokenizer, config, {"metrics.json": stored})
    metrics = json.loads((best / "metrics.json").read_text(encoding="utf-8")) | {"question_only": scores}
    write_json(best / "metrics.json", metrics)
    write_atomic(best / "README.md", model_card(config, metrics, run.model.credentialed))
