"""The project's own training step, in a form that can be measured: `Ours.step` is the one place that runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerBase

from configs.mimic_cxr_config import Config, TrainingConfig
from data.index import Index
from data.loader import Layout, Window, windows
from data.mimic_cxr_dataset import VQADataset
from models.encoders import scratch_text_config
from models.mimic_vqa_model import SSGVQA
from models.tokenizer import MOST_PIECES, SPECIAL, train_tokenizer
from training.engine import TorchEngine
from training.loss import MultiTaskLoss
from training.meter import StepReport
from training.outcome import PendingOutcome, StepOutcome
from training.probe.bench import CLINICAL_BERT_PIECES
from training.processes import single
from training.step import OptimizerStep
from utils.utils import seed_everything
from utils.watchdog import Watchdog

STEPS = 10_000
"""Of the schedule: no measurement comes near its end"""


class GradientsOnly(TorchEngine):
    """Leaves the weights as they are: forward, loss and backward alone are measured."""

    def step(self, loss: Tensor) -> PendingOutcome:
        self.discard()
        return PendingOutcome(lambda: StepOutcome(applied=False, grad_norm=0.0, lr=0.0))


def text_config_of(config: Config, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    """The configured text encoder; in place of a pretrained one an untrained one of Bio_ClinicalBERT's shape."""
    if config.model.pretrained:
        return BertConfig(vocab_size=CLINICAL_BERT_PIECES)
    return scratch_text_config(config.model, len(tokenizer), tokenizer.pad_token_id)


def tokenizer_of(config: Config, indexes: Sequence[Index], mean_pieces: float = 0) -> PreTrainedTokenizerBase:
    """Word pieces made from the questions of these indexes.

    `mean_pieces`: so few of them that a question has about so many on average, special ones included, as it has with the
    vocabulary of a pretrained encoder, which does not know many of the words; 0: every word is one piece.
    """
    texts = sorted({text for index in indexes for text in index.texts(np.arange(index.num_texts))})

    def mean(tokenizer: PreTrainedTokenizerBase) -> float:
        return float(np.mean([len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]))

    longest, most = config.model.max_question_length, MOST_PIECES
    whole = train_tokenizer(texts, longest, most)
    if mean(whole) >= mean_pieces:
        return whole
    # fewer than special tokens and letters, and words would be unknown
    few, many = len(SPECIAL) + 2 * len(set("".join(texts))), len(whole)
    while few < many:  # the smallest vocabulary with which questions are not longer
        middle = (few + many) // 2
        if mean(train_tokenizer(texts, longest, middle)) > mean_pieces:
            few = middle + 1
        else:
            many = middle
    return train_tokenizer(texts, longest, few)


def random_model(config: Config, index: Index, tokenizer: PreTrainedTokenizerBase) -> SSGVQA:
    """The configured architecture with random weights, which are as large and as slow as trained ones."""
    seed_everything(config.training.seed)
    names = index.vocabulary
    text = text_config_of(config, tokenizer)
    return SSGVQA(config.model, names.num_entities, names.num_regions, config.data.image_size, text)


class Ours:
    """Model, engine and step.

    Args:
        device: where it runs.
        training: precision, compilation and the like.
        update: apply the gradients too.
    """

    def __init__(self, model: SSGVQA, training: TrainingConfig, device: torch.device, update: bool):
        engine = TorchEngine if update else GradientsOnly
        self.engine = engine(training, model, STEPS, single(device))
        self.take_step = OptimizerStep(self.engine, MultiTaskLoss(training), training, Watchdog(os.devnull, 0))

    @property
    def precision(self) -> str:
        return self.engine.precision.name

    def step(self, window: Window) -> StepReport:
        """Forward, loss and backward of a window, and the update if it was asked for."""
        return self.take_step(window, 0)

    def encode_images(self, window: Window) -> None:
        """Forward and backward of the image encoder alone, over the images of a window."""
        encoder = self.engine.model.image_encoder
        encoder.zero_grad(set_to_none=True)
        for batch in window.batches:
            images = batch.on(self.engine.device).images
            with self.engine.autocast():
                features = encoder(images)
                total = features.pooled.float().sum() + features.grid.float().sum()
            total.backward()


def first_window(dataset: VQADataset, films: int, micro_batch: int) -> Window:
    """The first optimizer step of an epoch."""
    return next(windows(dataset, Layout(films, micro_batch)))


def endless_windows(dataset: VQADataset, films: int, micro_batch: int, workers: int) -> Iterator[Window]:
    """Whole windows, epoch after epoch, from the real loader."""
    for epoch in count():
        for window in windows(dataset, Layout(films, micro_batch), epoch=epoch, num_workers=workers):
            if window.visits == films:
                yield window


def on_device(window: Window, device: torch.device) -> Window:
    """A window that lies where it is used."""
    return Window([batch.to(device) for batch in window.batches], window.visits)


def twin(model: SSGVQA, config: Config, index: Index, tokenizer: PreTrainedTokenizerBase) -> SSGVQA:
    """A second model that shares the first one's weights: compiling one of them leaves the other as it is."""
    other = random_model(config, index, tokenizer)
    other.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return other


def text_facts(window: Window, model: SSGVQA) -> dict[str, object]:
    """What a step's cost depends on beside the numbers of films and questions."""
    distinct = real = longest = 0
    pieces = computed = 0.0
    for batch in window.batches:
        mask = batch.questions.attention_mask
        lengths = mask.sum(1)
        distinct, real = distinct + len(mask), real + int(mask.sum())
        computed += int(mask.sum()) / model.question_encoder.efficiency(batch.questions)
        longest = max(longest, int(lengths.max()))
        pieces += float(lengths[batch.question_of].sum())
    return {
        "questions": window.questions,
        "distinct": distinct,
        "text passes per question": distinct / window.questions,
        "word pieces, mean": pieces / window.questions,
        "longest": longest,
        "token efficiency": real / computed,
    }
