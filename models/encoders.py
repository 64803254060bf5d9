"""Image encoder (any timm backbone with feature maps) and question encoder (any BERT-type model)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import timm
import torch
from timm.layers import Format
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.mimic_cxr_config import ModelConfig
from data.batch import TensorGroup, TokenBatch
from models.layers import Mlp, PositionEncoding
from models.pretrained import load_text_model, load_tokenizer, load_visual, visual_source
from models.tokenizer import train_tokenizer
from utils.errors import ConfigError


@dataclass
class ImageFeatures(TensorGroup):
    """What is computed once for an image and shared by all its questions. N = h * w cells."""

    grid: Tensor
    """(B, N, D) tokens of the feature map, row by row, with positions"""
    feature_map: Tensor
    """(B, D, h, w) the same features without positions, for RoIAlign"""
    global_token: Tensor
    """(B, D)"""
    pooled: Tensor
    """(B, 2D) mean and maximum over the feature map, for the CheXpert head"""


@dataclass
class VisualSpec:
    """A timm backbone, resolved so far that it can be rebuilt without weights, network or the folder it came from."""

    architecture: str
    stage: int
    """Index of the feature map that is used"""
    channels: int
    channels_last: bool
    """The backbone gives (B, h, w, C)"""
    mean: float
    std: float
    """Of a grey pixel in [0, 1]: the backbone's own, averaged over red, green and blue"""
    kwargs: dict = field(default_factory=dict)

    def as_json(self) -> dict:
        return asdict(self)


def resolve_visual(config: ModelConfig, image_size: int) -> VisualSpec:
    """The backbone that the configuration names; ConfigError when it has no feature map of `visual_stride`."""
    source = visual_source(config)
    kwargs = {**source.model_args, **config.visual_kwargs}
    if source.pretrained_cfg.get("fixed_input_size"):  # transformers, whose position tables have a size
        kwargs.setdefault("img_size", image_size)
    with torch.device("meta"):
        probe = _create(source.architecture, config, kwargs)
    info = probe.feature_info
    strides = list(info.reduction())
    if config.visual_stride not in strides:
        offered = ", ".join(map(str, sorted(set(strides))))
        raise ConfigError(
            f"model.visual_stride = {config.visual_stride}: {config.visual_backbone} has only strides {offered}"
        )
    last = len(strides) - 1 - strides[::-1].index(config.visual_stride)
    average = {key: sum(source.pretrained_cfg[key]) / len(source.pretrained_cfg[key]) for key in ("mean", "std")}
    return VisualSpec(
        architecture=source.architecture,
        stage=info.out_indices[last],
        channels=info.channels()[last],
        channels_last=getattr(probe, "output_fmt", None) == Format.NHWC,
        kwargs=kwargs,
        **average,
    )


def _create(name: str, config: ModelConfig, kwargs: dict, **more) -> nn.Module:
    """`timm.create_model` as a feature extractor; ConfigError for arguments that the backbone does not take."""
    if config.drop_path:
        more["drop_path_rate"] = config.drop_path
    try:
        return timm.create_model(name, in_chans=1, features_only=True, **more, **kwargs)
    except (TypeError, AssertionError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"model.visual_backbone = {config.visual_backbone} with visual_kwargs {kwargs} and drop_path"
            f" {config.drop_path}: timm cannot build it as a feature extractor ({str(error).splitlines()[0]});"
            " change visual_kwargs, set model.drop_path: 0, or choose another backbone"
        ) from error


class ImageEncoder(nn.Module):
    """8-bit grey images -> projected feature map, tokens and one global token."""

    def __init__(self, config: ModelConfig, spec: VisualSpec, pretrained: bool = False):
        super().__init__()
        self.spec = spec
        self.by_image = config.image_normalization == "image"
        if pretrained:
            self.backbone = load_visual(
                config, lambda name, **more: _create(name, config, spec.kwargs, out_indices=(spec.stage,), **more)
            )
        else:
            self.backbone = _create(spec.architecture, config, spec.kwargs, out_indices=(spec.stage,))
        self.backbone.to(memory_format=torch.channels_last)
        width = config.hidden_dim
        self.project = nn.Linear(spec.channels, width)
        self.norm = nn.LayerNorm(width)
        self.position = PositionEncoding(width)
        self.global_token = Mlp(2 * width, width, width, config.dropout)

    def forward(self, images: Tensor) -> ImageFeatures:
        """(B, 1, S, S) uint8; S a multiple of the stride."""
        pixels = self.normalised(images.float())
        raw = self.backbone(pixels.contiguous(memory_format=torch.channels_last))[0]
        if not self.spec.channels_last:
            raw = raw.permute(0, 2, 3, 1)
        features = self.norm(self.project(raw))
        height, width = features.shape[1:3]
        cells = features.flatten(1, 2)
        pooled = torch.cat([cells.mean(1), cells.amax(1)], dim=-1)
        return ImageFeatures(
            grid=cells + self.position.grid(height, width),
            feature_map=features.permute(0, 3, 1, 2),
            global_token=self.global_token(pooled),
            pooled=pooled,
        )

    def normalised(self, images: Tensor) -> Tensor:
        """Grey levels 0..255 -> zero mean and unit deviation, of the pretraining data or of each image by itself."""
        if self.by_image:
            deviation, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
            return (images - mean) / deviation.clamp(min=1)
        return images.mul(1 / (255 * self.spec.std)).sub(self.spec.mean / self.spec.std)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Trade time for memory; ConfigError when the backbone cannot."""
        if not hasattr(self.backbone, "set_grad_checkpointing"):
            raise ConfigError(
                f"training.gradient_checkpointing: {self.spec.architecture} does not support it; set it to false"
            )
        self.backbone.set_grad_checkpointing(enable)


class QuestionEncoder(nn.Module):
    """BERT-type encoder and, where widths differ, a projection to `hidden_dim`. No pooler."""

    def __init__(self, text_model: PreTrainedModel, hidden_dim: int):
        super().__init__()
        self.model = text_model
        width = text_model.config.hidden_size
        self.project = nn.Linear(width, hidden_dim) if width != hidden_dim else nn.Identity()

    def forward(self, questions: TokenBatch) -> Tensor:
        """U distinct questions -> (U, T, D). States of padding are arbitrary: mask them."""
        mask = questions.attention_mask
        if self.model.config.model_type == "bert" and self.model.config._attn_implementation == "sdpa":
            # a ready mask is used as it is; from a (U, T) one transformers asks the device whether anything is padded
            mask = mask[:, None, None, :].bool()
        return self.project(self.model(input_ids=questions.input_ids, attention_mask=mask).last_hidden_state)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Trade time for memory."""
        # newer releases of transformers say activation_, older ones gradient_
        name = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if enable:
            getattr(self.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.model, f"{name}_checkpointing_disable")()


def text_model_from_config(text_config) -> PreTrainedModel:
    """A text encoder with random weights, without a pooler, float32."""
    return AutoModel.from_config(text_config, dtype=torch.float32, **no_pooler(text_config))


def no_pooler(text_config) -> dict:
    """`add_pooling_layer=False` for the architectures that know it: an unused pooler would have no gradient."""
    model_class = AutoModel._model_mapping[type(text_config)]
    accepts = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


def scratch_text_config(config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> BertConfig:
    """BERT of `text_kwargs`; ConfigError for a key that BERT does not have or a length that does not fit."""
    known = BertConfig()
    unknown = [key for key in config.text_kwargs if not hasattr(known, key)]
    if unknown:
        raise ConfigError(f"model.text_kwargs: BertConfig has no {', '.join(unknown)}; see transformers.BertConfig")
    result = BertConfig(**{"vocab_size": vocab_size, "pad_token_id": pad_token_id, **config.text_kwargs})
    check_length(config, result)
    return result


def check_length(config: ModelConfig, text_config) -> None:
    """ConfigError when the encoder has fewer positions than the longest question."""
    positions = getattr(text_config, "max_position_embeddings", config.max_question_length)
    if config.max_question_length > positions:
        raise ConfigError(
            f"model.max_question_length = {config.max_question_length}: the text encoder has {positions} positions"
        )


def build_text_model(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The text encoder with pretrained weights or, with `pretrained: false`, random ones."""
    if not config.pretrained:
        return text_model_from_config(scratch_text_config(config, len(tokenizer), tokenizer.pad_token_id))
    model = load_text_model(config, no_pooler)
    check_length(config, model.config)
    if len(tokenizer) > model.config.vocab_size:
        raise ConfigError(
            f"model.text_encoder = {config.text_encoder}: its tokenizer has {len(tokenizer)} word pieces, its weights"
            f" {model.config.vocab_size}; tokenizer and weights do not belong together"
        )
    return model


def build_tokenizer(config: ModelConfig, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The pretrained encoder's tokenizer or, with `pretrained: false`, cased word pieces made from `texts`."""
    if config.pretrained:
        return load_tokenizer(config)
    return train_tokenizer(texts, config.max_question_length)
