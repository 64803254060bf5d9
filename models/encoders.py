"""Image encoder (any timm backbone with feature maps) and question encoder (any BERT-type model)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModel, BertConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.fast_path import FastPath
from configs.mimic_cxr_config import ModelConfig
from data.batch import TokenBatch
from data.feature_store import FeatureMaps
from data.tensor_group import TensorGroup
from models.layers import Dropout, Mlp, PositionEncoding, Switchable, dot_product_attention
from models.packing import Packing, TokenStates
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


class ImageEncoder(Switchable):
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
        grey = (n for n, m in self.backbone.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 1)
        self._stem = next(grey, None)
        self._fused = [module for module in self.backbone.modules() if getattr(module, "fused_attn", False)]
        width = config.hidden_dim
        self.project = nn.Linear(spec.channels, width)
        self.norm = nn.LayerNorm(width)
        self.position = PositionEncoding(width)
        self.global_token = Mlp(2 * width, width, width, config.dropout)
        self.frozen = False
        self.switched()

    def freeze(self) -> None:
        """The backbone keeps its weights from here on, without stochastic depth; what follows it is trained."""
        self.frozen = True
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def switched(self) -> None:
        if not self.fast.one_channel_stem and self._stem is None:
            raise ConfigError(f"training.fast_path_off: {self.spec.architecture} has no one_channel_stem")
        self.backbone.to(memory_format=self._layout)
        for module in self._fused:
            module.fused_attn = self.fast.fused_attention

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.fast.channels_last else torch.contiguous_format

    def forward(self, images: Tensor | FeatureMaps) -> ImageFeatures:
        """(B, 1, S, S) grey levels 0..255, S a multiple of the stride; or what the backbone has made of them before."""
        raw = images.maps.float() if isinstance(images, FeatureMaps) else self.backbone_map(images)
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

    def backbone_map(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) grey levels -> (B, h, w, C), as the backbone gives it."""
        raw = self._raw_map(self.normalised(images.float()))
        return raw if self.spec.channels_last else raw.permute(0, 2, 3, 1)

    def _raw_map(self, pixels: Tensor) -> Tensor:
        if self.fast.one_channel_stem:
            return self.backbone(pixels.contiguous(memory_format=self._layout))[0]
        stem = f"{self._stem}.weight"
        kernel = self.backbone.get_parameter(stem).repeat(1, 3, 1, 1) / 3
        colours = pixels.repeat(1, 3, 1, 1).contiguous(memory_format=self._layout)
        return torch.func.functional_call(self.backbone, {stem: kernel}, (colours,))[0]

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


def text_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    packing: Packing,
    fast: FastPath,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of a text encoder whose tokens are packed into one row, (1, H, P, d), as transformers calls it."""

    def read(part: Packing, *packed: Tensor) -> Tensor:
        split = [part.unpack(x).transpose(1, 2) for x in packed]
        return part.pack(
            dot_product_attention(*split, part.mask[:, None, None, :], dropout, scaling, fast).transpose(1, 2)
        )

    return packing.each(read, tuple(x[0].transpose(0, 1) for x in (query, key, value)))[None], None


PACKED_ATTENTION = "packed_tokens"
AttentionInterface.register(PACKED_ATTENTION, text_attention)

PACKABLE = ("bert",)
"""Types of text encoders whose layers treat each token by itself but for the attention, whose positions can be given, and
whose attention knows nothing but queries, keys, values and the mask."""


MULTIPLE = {"cuda": 8}
"""Device -> multiple of the width of unpacked tokens. Of other widths a GPU's attention kernels copy the mask in each layer,
and compiled code is of one of both kinds."""


class QuestionEncoder(Switchable):
    """BERT-type encoder and, where widths differ, a projection to `hidden_dim`. No pooler."""

    def __init__(self, text_model: PreTrainedModel, config: ModelConfig):
        super().__init__()
        self.model = text_model
        Dropout.take_the_place_of_others(text_model)
        self.longest = config.max_question_length
        self.packable = text_model.config.model_type in PACKABLE
        self._own_attention = text_model.config._attn_implementation
        width = text_model.config.hidden_size
        self.project = nn.Linear(width, config.hidden_dim) if width != config.hidden_dim else nn.Identity()
        self.frozen = False
        self.switched()

    def freeze(self) -> None:
        """The encoder keeps its weights from here on, without dropout; the projection behind it is trained."""
        self.frozen = True
        self.model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> QuestionEncoder:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def switched(self) -> None:
        own = self._own_attention if self.fast.fused_attention else "eager"
        self.model.set_attn_implementation(PACKED_ATTENTION if self.packable else own)

    def forward(self, questions: TokenBatch) -> Tensor:
        """U distinct questions -> (U, T, D). States of padding are arbitrary: mask them."""
        return self.encode(questions).padded()[:, : questions.input_ids.shape[1]]

    def encode(self, questions: TokenBatch) -> TokenStates:
        """U distinct questions -> the states of their P tokens."""
        states, packing = self._states(questions) if questions.states is None else self._known(questions)
        return TokenStates(self.project(states), packing, questions.asked)

    def token_states(self, questions: TokenBatch) -> Tensor:
        """What the encoder itself makes of U distinct questions: (P, width), row by row without padding."""
        states, packing = self._states(questions)
        return states if packing.place is not None else states[packing.mask.flatten()]

    def _known(self, questions: TokenBatch) -> tuple[Tensor, Packing]:
        """The states that come with the questions."""
        packing = Packing.of(questions.attention_mask, not self.fast.packed_tokens, questions.real)
        states = questions.states.float()
        if packing.place is None:
            states = packing.pack(Packing.of(questions.attention_mask).unpack(states))
        return states, packing

    def _states(self, questions: TokenBatch) -> tuple[Tensor, Packing]:
        ids, mask = questions.input_ids, questions.attention_mask
        more = self._width(ids) - ids.shape[1]
        if more:
            ids, mask = F.pad(ids, (0, more)), F.pad(mask, (0, more))
        packing = Packing.of(mask, not self.fast.packed_tokens, questions.real)
        if self.in_parts(ids.device):
            packing = packing.in_parts()
        if self.packable:
            return self._packed(packing.pack(ids), packing), packing
        return packing.pack(self.model(input_ids=ids, attention_mask=mask).last_hidden_state), packing

    def _packed(self, ids: Tensor, packing: Packing) -> Tensor:
        """(P,) word pieces -> (P, width)."""
        row = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "position_ids": packing.columns()}
        row = {name: values[None] for name, values in row.items()}
        options = {"packing": packing, "fast": self.fast, "use_cache": False}
        return self.model(**row, **options).last_hidden_state[0]

    def _width(self, ids: Tensor) -> int:
        """The width of the table that tokens are unpacked to or, without packing, of what is computed."""
        longest = ids.shape[1] if self.fast.short_padding else max(ids.shape[1], self.longest)
        multiple = MULTIPLE.get(ids.device.type, 1) if self.packs else 1
        return -(-longest // multiple) * multiple

    def in_parts(self, device: torch.device) -> bool:
        """Whether questions come by length and read their tokens in parts."""
        return self.fast.length_parts and self.packs and device.type == "cpu"

    @property
    def packs(self) -> bool:
        """Whether padding is left out."""
        return self.packable and self.fast.packed_tokens

    def efficiency(self, questions: TokenBatch) -> float:
        """Share of real ones among the tokens that the encoder computes for these questions."""
        if self.packs:
            return 1.0
        real = int(questions.attention_mask.sum())
        return real / (len(questions.input_ids) * self._width(questions.input_ids))

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
    return model if config.text_pretrained else text_model_from_config(model.config)


def build_tokenizer(config: ModelConfig, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The pretrained encoder's tokenizer or, with `pretrained: false`, cased word pieces made from `texts`."""
    if config.pretrained:
        return load_tokenizer(config)
    return train_tokenizer(texts, config.max_question_length)
