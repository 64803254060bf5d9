"""The text-only control: what the answers owe to the wording of the questions alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config, ModelConfig
from data.batch import TokenBatch
from models import model_folder
from models.compiling import Compiled
from models.encoders import QuestionEncoder, build_text_model, text_model_from_config
from models.heads import AnswerHeads
from models.layers import Mlp, Switchable, masked_mean


class QuestionOnly(Switchable):
    """Question encoder and answer heads of the same kind as `SSGVQA`'s; no image and no graph."""

    compiled: Compiled | None = None
    credentialed: bool | None = None
    """As of `SSGVQA`"""

    def __init__(self, config: ModelConfig, question_encoder: QuestionEncoder):
        super().__init__()
        self.config = config
        self.question_encoder = question_encoder
        width = config.hidden_dim
        self.mix = Mlp(2 * width, width, width, config.dropout)
        self.norm = nn.LayerNorm(width)
        self.heads = AnswerHeads(width, config.dropout)

    @classmethod
    def build(cls, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> QuestionOnly:
        """A control to train; the encoder as in `SSGVQA.build`."""
        return cls(config, QuestionEncoder(build_text_model(config, tokenizer), config))

    def forward(self, questions: TokenBatch, question_of: Tensor) -> dict[str, Tensor]:
        """U distinct questions and (Q,) int64 numbers of them -> head name -> (Q, classes) logits."""
        if self.training and self.compiled:
            self.compiled.before_pass((*questions.input_ids.shape, len(question_of)))
        texts = self.question_encoder.encode(questions)
        mean = masked_mean(texts.padded(), texts.packing.mask)
        state = self.norm(self.mix(torch.cat([texts.first(), mean], dim=-1)))
        return {name: logits.index_select(0, question_of) for name, logits in self.heads(state).items()}

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute the encoder's activations in the backward pass."""
        self.question_encoder.set_gradient_checkpointing(enable)

    def compile_parts(self, **options) -> None:
        """As `SSGVQA.compile_parts`."""
        self.compiled = Compiled([], [self.question_encoder.model], **options)

    def pretrained_modules(self) -> list[nn.Module]:
        """The part that starts from pretrained weights unless `pretrained` is false."""
        return [self.question_encoder.model]

    def save_pretrained(
        self,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        extra_files: dict[str, object] | None = None,
    ) -> None:
        """As `SSGVQA.save_pretrained`."""
        description = {"text_config.json": self.question_encoder.model.config.to_dict()}
        model_folder.write(
            folder, self, tokenizer, config, description, extra_files or {}, credentialed=self.credentialed
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[QuestionOnly, PreTrainedTokenizerBase, Config]:
        """As `SSGVQA.from_pretrained`; CheckpointError."""
        stored = model_folder.read(folder, ("text_config.json",))
        with model_folder.explained(folder):
            text_model = text_model_from_config(model_folder.text_config(stored.json["text_config.json"]))
            model = cls(stored.config.model, QuestionEncoder(text_model, stored.config.model))
        model.credentialed = stored.credentialed
        stored.load_weights(model)
        return model.eval(), stored.tokenizer, stored.config
