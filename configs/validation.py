"""The rules that the values of a configuration must keep, one by one and together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from configs.data_sets import named_sets
from configs.fast_path import FAST_PATH
from configs.loading import get
from utils.errors import ConfigError
from utils.hub import REPOSITORY_FORM, is_repository

if TYPE_CHECKING:
    from configs.mimic_cxr_config import Config

CHOICES: dict[str, tuple] = {
    "model.visual_stride": (8, 16, 32),
    "model.image_normalization": ("backbone", "image"),
    "model.fusion": ("sim", "concat", "none"),
    "data.quality_grade": ("A++", "A+", "A", "B", "C", "D", "all"),
    "data.view_filter": ("frontal_only", "lateral_only", "all"),
    "data.draw": ("epoch", "balanced"),
    "data.image_store": ("raw", "jpeg"),
    "data.on_bad_sample": ("quarantine", "error"),
    "training.precision": ("auto", "bf16", "fp16", "fp32"),
    "training.chexpert_uncertain": ("ignore", "zeros", "ones", "soft"),
    "training.chexpert_blank": ("ignore", "zeros"),
    "training.push_to_hub_strategy": ("best", "checkpoint", "end"),
    "wandb.enabled": ("auto", "online", "offline", "true", "false"),
    "deepspeed.stage": (0, 1, 2, 3),
}

RANGES: dict[str, tuple[float, float]] = {
    "model.hidden_dim": (8, 8192),
    "model.fusion_depth": (1, 64),
    "model.fusion_heads": (1, 256),
    "model.sim_inner_dim": (4, 8192),
    "model.region_embedding_dim": (1, 4096),
    "model.entity_embedding_dim": (1, 4096),
    "model.graph_layers": (1, 32),
    "model.dropout": (0, 0.95),
    "model.drop_path": (0, 0.95),
    "model.max_question_length": (4, 512),
    "data.image_size": (32, 4096),
    "data.image_store_size": (0, 4096),
    "data.questions_per_image": (1, 100_000),
    "data.rotate_degrees": (0, 45),
    "data.scale_fraction": (0, 0.5),
    "data.shift_fraction": (0, 0.5),
    "data.intensity_fraction": (0, 0.9),
    "data.max_bad_fraction": (0, 1),
    "data.prefetch_factor": (1, 1000),
    "training.warmup_ratio": (0, 0.99),
    "training.graph_none_fraction": (0, 1),
    "training.graph_oracle_fraction": (0, 1),
    "training.unstated_weight": (0, 1),
    "training.default_weight": (0, 1),
    "training.max_skipped_fraction": (0, 1),
    "evaluation.confidence": (0.5, 0.9999),
}
"""Smallest and largest value, both allowed."""

POSITIVE = """
    training.batch_size_per_gpu training.gradient_accumulation_steps training.learning_rate training.new_layer_lr_scale
    training.reference_batch_size training.num_epochs training.max_grad_norm training.logging_steps training.eval_steps
    training.save_steps training.save_total_limit training.max_skipped_steps evaluation.batch_size
    evaluation.questions_per_image
""".split()

NOT_NEGATIVE = """
    data.max_samples data.num_workers training.hang_timeout training.max_steps training.weight_decay training.seed
    training.max_eval_questions training.early_stopping_patience training.vqa_loss_weight
    training.chexpert_loss_weight training.question_type_loss_weight training.graph_finding_loss_weight
    training.graph_box_loss_weight evaluation.bootstrap_samples
""".split()

HEAD_WEIGHT = "_head_weight"
"""How the settings of `training` end that weigh the answer heads; none may be negative, and one must be positive."""

NOT_EMPTY = ["model.visual_backbone", "training.output_dir", "evaluation.output_dir", "wandb.project"]


def problems(config: Config) -> list[tuple[str, str]]:
    """Everything that cannot work, as (key, rule that is broken)."""
    return [*_single_values(config), *_combinations(config)]


def validate(config: Config, origin: dict[str, str] | None = None) -> None:
    """ConfigError that lists all problems on one line, each with key, value, rule and, where known, origin."""
    found = []
    for key, rule in problems(config):
        source = f" (from {origin[key]})" if origin else ""
        found.append(f"{key} = {get(config, key)!r}{source}: {rule}")
    if found:
        raise ConfigError("; ".join(found))


def head_weights(config: Config) -> dict[str, float]:
    """The settings of `training` that weigh answer heads."""
    return {name: value for name, value in vars(config.training).items() if name.endswith(HEAD_WEIGHT)}


def _single_values(config: Config) -> Iterator[tuple[str, str]]:
    for key, choices in CHOICES.items():
        if get(config, key) not in choices:
            yield key, f"must be one of {', '.join(map(str, choices))}"
    for key, (low, high) in RANGES.items():
        if not low <= get(config, key) <= high:
            yield key, f"must be from {low} to {high}"
    for key in POSITIVE:
        if not get(config, key) > 0:
            yield key, "must be greater than 0"
    for key in (*NOT_NEGATIVE, *(f"training.{name}" for name in head_weights(config))):
        if not get(config, key) >= 0:
            yield key, "must be 0 or greater"
    for key in NOT_EMPTY:
        if not get(config, key).strip():
            yield key, "must not be empty"
    if unknown := [name for name in config.training.fast_path_off if name not in FAST_PATH]:
        yield "training.fast_path_off", f"has no {', '.join(unknown)}; the names are {', '.join(FAST_PATH)}"
    hub = config.training.hub_model_id
    if hub and not is_repository(hub):
        yield "training.hub_model_id", f"must have the form {REPOSITORY_FORM}"


def _combinations(config: Config) -> Iterator[tuple[str, str]]:
    yield from _model_combinations(config)
    data, training = config.data, config.training
    if data.image_store_size and data.image_store_size < data.image_size:
        yield "data.image_store_size", f"must be 0 or at least data.image_size ({data.image_size}): or detail is lost"
    first, *more = named_sets(data) or [None]
    for name in more:
        yield f"data.{name}", f"only one set is read: leave this or data.{first} empty"
    if data.draw == "balanced" and not training.max_steps:
        yield "data.draw", "balanced draws repeat the rarer questions: set a budget with training.max_steps"
    if not training.fp16 and training.precision in ("bf16", "fp16"):
        yield "training.precision", "contradicts training.fp16 = false: set fp16 to true, or precision to fp32 or auto"
    if training.graph_none_fraction + training.graph_oracle_fraction > 1:
        yield "training.graph_none_fraction", "must leave graph_none_fraction + graph_oracle_fraction <= 1"
    for name in ("freeze_image_encoder", "freeze_text_encoder"):
        if getattr(training, name) and not (config.model.pretrained or training.init_from):
            yield (
                f"training.{name}",
                "would keep random weights: set model.pretrained to true, or training.init_from to a model",
            )
    if training.vqa_loss_weight <= 0 or all(weight <= 0 for weight in head_weights(config).values()):
        yield "training.vqa_loss_weight", "no answer head would learn: give it and at least one *_head_weight"
    if config.deepspeed.enabled and not config.deepspeed.config_path.strip():
        yield "deepspeed.config_path", "must name a file, or set deepspeed.enabled to false"


def _model_combinations(config: Config) -> Iterator[tuple[str, str]]:
    model = config.model
    if model.fusion_heads > 0 and model.hidden_dim % model.fusion_heads:
        yield "model.fusion_heads", f"must divide model.hidden_dim ({model.hidden_dim})"
    if model.sim_inner_dim % 4:
        yield "model.sim_inner_dim", "must be a multiple of 4: the node updates have 4 heads"
    if model.visual_stride > 0 and config.data.image_size % model.visual_stride:
        yield "data.image_size", f"must be a multiple of model.visual_stride ({model.visual_stride})"
    if model.pretrained and model.text_kwargs:
        yield "model.text_kwargs", "shapes an encoder from scratch: set model.pretrained to false, or leave it empty"
    if model.pretrained and not model.text_encoder.strip():
        yield "model.text_encoder", "must name a Hugging Face model or local folder, or set model.pretrained to false"
    width, heads = model.text_kwargs.get("hidden_size"), model.text_kwargs.get("num_attention_heads")
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads:
        yield "model.text_kwargs", f"num_attention_heads ({heads}) must divide hidden_size ({width})"
