"""The configuration: dataclasses, and where each value came from.

Precedence: command line > YAML > hardware advice > default. The field docstrings are the manual.
Values of the shipped `default_config.yaml` are the defaults themselves, so hardware advice may replace them;
what any other file, `--set` or an option says is the user's and stays.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from configs import loading
from configs.data_sets import other_set, other_sets
from configs.validation import HEAD_WEIGHT, validate
from utils.errors import ConfigError

DEFAULT_CONFIG = Path(__file__).resolve().parent / "default_config.yaml"


@dataclass
class ModelConfig:
    """ConvNeXt image encoder, BERT question encoder, predicted scene graph, SIM, heads."""

    visual_backbone: str = "convnext_base"
    """Any timm model name with feature maps, `hf_hub:` name or local folder."""
    visual_kwargs: dict = field(default_factory=dict)
    """Extra arguments for `timm.create_model`, for example `{depths: [1, 1, 2, 1], dims: [24, 48, 96, 128]}`."""
    visual_stride: int = 32
    """Pixels a cell of the feature map, 8, 16 or 32: the stage of the backbone that is used."""
    image_normalization: str = "backbone"
    """`backbone`: the mean and deviation that the backbone was pretrained with; `image`: each image's own."""
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    """Hugging Face name or local folder of a BERT-type encoder; not read when `pretrained` is false."""
    text_kwargs: dict = field(default_factory=dict)
    """With `pretrained: false`: `BertConfig` values of the encoder that is trained from scratch."""
    pretrained: bool = True
    """Load pretrained weights of both encoders. False: random weights, word pieces trained on the questions."""
    text_pretrained: bool = True
    """False: the text encoder keeps its form and word pieces but starts from random weights (an ablation)."""
    hidden_dim: int = 512
    """Width D of projected image features, fusion and heads."""
    fusion: str = "sim"
    """`sim` (Scene-embedded Interaction Module), `concat` (one joint transformer) or `none` (global image only)."""
    fusion_depth: int = 4
    """Layers of the fusion."""
    fusion_heads: int = 8
    """Attention heads of the fusion; divides `hidden_dim`."""
    sim_inner_dim: int = 128
    """Inner width of the node updates; 4 heads."""
    region_embedding_dim: int = 64
    entity_embedding_dim: int = 64
    graph_layers: int = 2
    """Cross-attention layers of the 26 region queries over the feature map."""
    dropout: float = 0.1
    drop_path: float = 0.1
    """Stochastic depth of the image encoder."""
    joint_head: bool = False
    """One network for the classes of all heads instead of one for each (an ablation)."""
    max_question_length: int = 64
    """Longest question in word pieces; longer ones are cut and counted."""


@dataclass
class DataConfig:
    """Which questions and images, and how they are read."""

    mimic_cxr_path: str = ""
    """Folder of MIMIC-CXR-JPG; the environment variable MIMIC_CXR_PATH when empty."""
    mimic_qa_path: str = ""
    """Folder of MIMIC-Ext-CXR-QBA or of one of its exports; MIMIC_QA_PATH when empty."""
    vqa_rad_path: str = other_set("data.vqa_rad.read_vqa_rad", published=True)
    """Folder of VQA-RAD: it is read instead of the two above, to fine-tune the model of `training.init_from`."""
    own_data: str = other_set("data.own_data.read_own_data")
    """CSV or JSONL file with a question a row (docs/OWN_DATA.md): it is read instead, in the same way."""
    index_dir: str = ""
    """Where index and image store go; `./data_cache/<fingerprint>` when empty."""
    image_size: int = 224
    """Side S of the square, letter-boxed model input, in pixels."""
    image_store_size: int = 0
    """Shorter side of the stored images in pixels; 0: `image_size`."""
    image_store: str = "raw"
    """`raw`: a byte a pixel, read without decoding; `jpeg`: a sixth of the space, 1.4 grey levels (RMS) lost."""
    quality_grade: str = "A"
    """Lowest grade of a question that is used: A++, A+, A, B, C, D, or all (unrated ones too)."""
    view_filter: str = "frontal_only"
    """frontal_only (AP and PA), lateral_only or all."""
    question_types: list[str] = field(default_factory=list)
    """Only these question types; empty: all that a head can answer."""
    questions_per_image: int = 16
    """M: most questions of one visit of an image."""
    draw: str = "epoch"
    """`epoch`: every question once an epoch. `balanced`: visits drawn with questions balanced over heads and types;
    needs `training.max_steps`."""
    augmentation: bool = True
    """Rotation, scale, shift, brightness and contrast in training. Never a left/right flip."""
    rotate_degrees: float = 5.0
    scale_fraction: float = 0.1
    shift_fraction: float = 0.05
    intensity_fraction: float = 0.1
    blank_images: bool = False
    """Every image is black (an ablation: what is learned then does not come from images)."""
    max_samples: int = 0
    """Most questions of the training split, for trials; 0: all."""
    max_bad_fraction: float = 0.01
    """Largest share of studies or images that may be unreadable or missing before the run stops."""
    on_bad_sample: str = "quarantine"
    """A study or image that cannot be read: `quarantine` (named in `problems.jsonl`, left out, at most
    `max_bad_fraction` of them) or `error` (the first one stops the build)."""
    num_workers: int = 0
    """Loader processes; set by the hardware advice unless written."""
    prefetch_factor: int = 2


@dataclass
class TrainingConfig:
    """Optimisation, losses and outputs."""

    output_dir: str = "./checkpoints"
    init_from: str = ""
    """Model folder whose weights training starts from, such as the best model of the pretraining phase; its model
    settings and tokenizer are used."""
    batch_size_per_gpu: int = 16
    """Image visits (not questions) of one micro-batch on one device."""
    gradient_accumulation_steps: int = 4
    learning_rate: float = 2.0e-5
    """Peak rate of the pretrained encoders, for a global batch of `reference_batch_size` image visits."""
    new_layer_lr_scale: float = 10.0
    """Factor on `learning_rate` for everything that starts from random weights."""
    reference_batch_size: int = 256
    """Global batch that `learning_rate` is meant for; another one scales it with the square root."""
    num_epochs: int = 20
    max_steps: int = 0
    """Most optimizer steps; 0: no limit but `num_epochs`."""
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    fp16: bool = True
    """Mixed precision, of the kind that `precision` names."""
    precision: str = "auto"
    """auto (bf16 where the hardware has it, else fp16 on a GPU, else fp32), bf16, fp16 or fp32."""
    gradient_checkpointing: bool = True
    freeze_image_encoder: bool = False
    """The backbone keeps its weights. With `data.augmentation` off its feature maps are computed once and kept in the index's
    folder, 100 kB an image for ConvNeXt-Base at 224 pixels."""
    freeze_text_encoder: bool = False
    """The text encoder keeps its weights; its token states are computed once and kept, 1.5 kB a word piece for BERT-base."""
    compile: bool = False
    """`torch.compile` encoders and fusion. It takes minutes in the first passes; later on nothing is compiled."""
    fast_path_off: list[str] = field(default_factory=list)
    """Switches of `configs.fast_path.FastPath` that are off, to measure what they bring; results stay the same."""
    hub_model_id: str = ""
    """`user/name` on the Hugging Face Hub to push the best model to; empty: nothing leaves this machine."""
    hub_private_repo: bool = True
    """Only you, or your organisation, can open that repository. False is refused for a model of credentialed lineage."""
    push_to_hub_strategy: str = "best"
    """When to push: `best` (each time the best model is replaced, and at the end), `checkpoint` (that, and the model of each
    checkpoint to the branch `checkpoints`) or `end`."""
    hub_acknowledgement: str = ""
    """For a model of credentialed lineage: in your own words, who can open the repository and under which agreement they may
    have the model. It is recorded in the model folder, and not uploaded."""
    seed: int = 42
    logging_steps: int = 20
    eval_steps: int = 2500
    """Optimizer steps between two looks at the validation split."""
    eval_each_epoch: bool = True
    """Look at the validation split at the end of each epoch too."""
    max_eval_questions: int = 0
    """Most validation questions used for model selection during training; 0: all."""
    save_steps: int = 5000
    save_total_limit: int = 3
    early_stopping_patience: int = 5
    """Looks at the validation split without a better score before training stops; 0: never."""
    vqa_loss_weight: float = 1.0
    chexpert_loss_weight: float = 0.3
    binary_head_weight: float = 1.0
    category_head_weight: float = 0.5
    region_head_weight: float = 0.5
    severity_head_weight: float = 0.3
    question_type_loss_weight: float = 0.1
    graph_finding_loss_weight: float = 1.0
    graph_box_loss_weight: float = 1.0
    unstated_weight: float = 0.1
    """Weight of "entity not stated at this region" as a negative in the graph loss."""
    default_weight: float = 0.3
    """Weight of graph statements that the data set added by rule (`from_report` false)."""
    graph_none_fraction: float = 0.15
    """Share of training images whose questions are answered without a graph."""
    graph_oracle_fraction: float = 0.10
    """Share of training images whose questions are answered with the report's graph."""
    chexpert_uncertain: str = "ignore"
    """What -1 means: ignore, zeros, ones or soft (0.5)."""
    chexpert_blank: str = "ignore"
    """What an empty label means: ignore or zeros. `No Finding` is only ever 1 or empty: there empty is always 0."""
    max_skipped_steps: int = 10
    """Non-finite steps in a row before the run stops."""
    max_skipped_fraction: float = 0.01
    """Largest share of the run's steps that may be non-finite; `max_skipped_steps` are allowed in any case."""
    hang_timeout: float = 120.0
    """Seconds without progress after which a process writes its stacks to events.log and ends; five times as long for
    start and saving; 0: never."""

    def head_weight(self, head: str) -> float:
        """Weight of an answer head's loss: its setting `<head>_head_weight`, 1 for a head that has none."""
        return getattr(self, f"{head}{HEAD_WEIGHT}", 1.0)


@dataclass
class EvaluationConfig:
    """`evaluate.py`."""

    batch_size: int = 32
    """Images of one batch."""
    questions_per_image: int = 64
    bootstrap_samples: int = 2000
    """Patient-level resamples for the 95 % intervals."""
    confidence: float = 0.95
    patients_table: str = ""
    """CSV with `subject_id` and `gender` or `sex`, `anchor_age` or `age`, such as MIMIC-IV's `patients.csv.gz`: scores by both."""
    output_dir: str = "./results"


@dataclass
class WandbConfig:
    """Weights & Biases: numbers only, never text, images or ids (docs/TRACKING.md)."""

    enabled: str = "auto"
    """auto (on when WANDB_API_KEY is set; WANDB_MODE counts), true (offline without a key), online (a key is a must), offline
    or false."""
    project: str = "mimic-cxr-vqa"
    entity: str = ""
    name: str = ""


@dataclass
class DeepspeedConfig:
    """Used by itself as soon as there is more than one GPU."""

    enabled: bool = True
    stage: int = 2
    config_path: str = "configs/deepspeed_config.json"


@dataclass
class Config:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    deepspeed: DeepspeedConfig = field(default_factory=DeepspeedConfig)


# Loading

TYPES = loading.field_types(Config)
"""Dotted key -> type of every setting."""

ENVIRONMENT = {"data.mimic_cxr_path": "MIMIC_CXR_PATH", "data.mimic_qa_path": "MIMIC_QA_PATH"}
"""Settings that an environment variable fills when nothing else does."""

PLACES = (
    *(*ENVIRONMENT, *(f"data.{name}" for name in other_sets(DataConfig)), "data.index_dir"),
    *("data.num_workers", "data.prefetch_factor"),
)
"""Settings that say where the data are and how fast they are read, not what they are: the machines of a run may differ in them."""

FLAGS = {"mimic_cxr_path": "data.mimic_cxr_path", "mimic_qa_path": "data.mimic_qa_path"}
"""Command line options that all scripts have, and their settings."""


@dataclass
class LoadedConfig:
    """A checked configuration and, for each dotted key, who said so.

    An origin is `default`, the name of a YAML file, `--set`, `flag`, `hardware` or `environment`.
    """

    config: Config
    origin: dict[str, str]


def load_config(
    yaml_path: str | Path | None = None,
    sets: list[str] | None = None,
    flags: dict[str, object] | None = None,
    hardware: dict[str, object] | None = None,
) -> LoadedConfig:
    """Merge all sources and check the result; ConfigError names key, source and how to mend it.

    `sets` are `section.key=value` texts; `flags` and `hardware` map dotted keys to values; a flag that is None
    was not given.
    """
    config = Config()
    origin = dict.fromkeys(TYPES, "default")
    for path, values in loading.read_yaml_chain(yaml_path) if yaml_path else []:
        source = "default" if path.resolve() == DEFAULT_CONFIG else path.name
        for key, value in loading.flatten(values, TYPES, str(path)).items():
            loading.put(config, key, value)
            origin[key] = source
    _apply_command_line(config, origin, sets or [], flags or {})
    for key, value in (hardware or {}).items():
        if key not in TYPES:
            raise loading.unknown_key(key, TYPES, "hardware advice")
        if origin[key] == "default":
            loading.put(config, key, loading.convert(key, value, TYPES[key], "hardware advice"))
            origin[key] = "hardware"
    _apply_environment(config, origin)
    if not config.training.fp16 and origin["training.precision"] in ("default", "hardware"):
        config.training.precision = "fp32"  # `fp16: false` is the promised way to switch mixed precision off
        origin["training.precision"] = origin["training.fp16"]
    validate(config, origin)
    return LoadedConfig(config, origin)


def config_from_args(
    args: argparse.Namespace, flags: dict[str, str] | None = None, hardware: dict[str, object] | None = None
) -> LoadedConfig:
    """`load_config` from the options of `utils.cli.add_common_arguments` and a script's own.

    `flags` maps further options of `args` to settings, for example `{"epochs": "training.num_epochs"}`.
    """
    given = {key: getattr(args, name) for name, key in {**FLAGS, **(flags or {})}.items()}
    return load_config(args.config, args.set, given, hardware)


def _apply_command_line(config: Config, origin: dict[str, str], sets: list[str], flags: dict[str, object]) -> None:
    for key, value in flags.items():
        if value is not None:
            loading.put(config, key, loading.convert(key, value, TYPES[key], "command line"))
            origin[key] = "flag"
    for text in sets:
        key, value = loading.parse_set(text, TYPES)
        if origin[key] in ("flag", "--set") and loading.get(config, key) != value:
            raise ConfigError(f"--set {text}: {key} is also {loading.get(config, key)!r} on the command line: keep one")
        loading.put(config, key, value)
        origin[key] = "--set"


def _apply_environment(config: Config, origin: dict[str, str]) -> None:
    for key, variable in ENVIRONMENT.items():
        if not loading.get(config, key) and os.environ.get(variable):
            loading.put(config, key, os.environ[variable])
            origin[key] = "environment"


def from_dict(values: dict, source: str = "configuration") -> Config:
    """The configuration from sections of plain values; missing keys keep their defaults, unknown ones are errors."""
    config = Config()
    for key, value in loading.flatten(values, TYPES, source).items():
        loading.put(config, key, value)
    return config


def to_dict(config: Config) -> dict[str, dict[str, object]]:
    """Sections of plain values; `from_dict` is the inverse."""
    return loading.to_dict(config)


def to_yaml(config: Config) -> str:
    """All settings as YAML text."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def format_config(loaded: LoadedConfig) -> str:
    """All settings with their origins, as YAML with comments, for `--print_config`."""
    lines = []
    for section, settings in to_dict(loaded.config).items():
        lines.append(f"{section}:")
        for name, value in settings.items():
            text = yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
            lines.append(f"  {name + ': ' + text:<48}  # {loaded.origin[f'{section}.{name}']}")
    return "\n".join(lines)
