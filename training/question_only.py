"""Training of the text-only control: what can be known from the wording of the questions.

The control sees nothing but the text, so all training questions with the same text collapse into one row with the counts
of their answers. The gradient over these rows is exactly the gradient over all questions, and the best loss that any
function of the text can reach is known: the entropy of the answers given the text. Training goes on until it is reached.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.mimic_cxr_config import Config
from data.batch import TokenBatch
from data.label_space import HEAD_INDEX, HEADS, Head
from data.mimic_cxr_dataset import VQADataset
from models.mimic_vqa_model import parameter_groups
from models.question_only import QuestionOnly
from training.metrics import Scores, headline, score_head
from training.predictions import decide, expand_targets
from utils.utils import format_duration, get_logger

log = get_logger(__name__)

BATCH = 128
"""Texts of one step."""
TOLERANCE, TOLERANCE_MULTI_LABEL = 0.06, 0.02
"""Training is done when the probabilities of every head differ by no more from the frequencies of the answers: root of the
mean, over questions, of the squared distance, added over classes. One half of a per cent of the answers is lost by it at
most; F1 at a threshold is more sensitive."""
TIE = 0.06
"""Added to the logits of multi-label heads at the end, which is 0.015 of a probability around one half. In a balanced release
exactly half of a text's questions have a class, over and over. The majority row predicts such a class; without this the
control would toss a coin, and look weaker than it is by half of its recall."""
MOST_STEPS, MOST_PASSES, MOST_SECONDS = 6000, 30, 1800.0
"""Caps (the larger of the first two) for texts that the encoder cannot tell apart, such as those that were cut."""
SCRATCH_RATE, PRETRAINED_RATE = 2e-3, 3e-5
WARMUP = 50
"""Steps."""
PATIENCE = 6
"""Passes without a smaller loss before the rate is halved."""
SMALLEST_RATE = 1 / 64
"""Part of the first rate below which nothing more is gained."""


@dataclass(frozen=True)
class AnswerCounts:
    """Answers of one head by text, over the T texts of a data set."""

    positive: Tensor
    """(T, C) float: how many questions have this class"""
    questions: Tensor
    """(T,) float"""

    @property
    def frequency(self) -> Tensor:
        """(T, C) share of a text's questions that have the class; zeros for texts of other heads."""
        return self.positive / self.questions.clamp(min=1)[:, None]

    def squared_error(self, head: Head, logits: Tensor, rows: Tensor) -> Tensor:
        """Sum over all questions of the texts `rows` of the squared distance of the probabilities; logits (b, C)."""
        probabilities = logits.sigmoid() if HEADS[head].multi_label else logits.softmax(-1)
        return ((probabilities - self.frequency[rows]).square().sum(1) * self.questions[rows]).sum()

    def loss(self, head: Head, logits: Tensor, rows: Tensor) -> Tensor:
        """Sum over all questions of the texts `rows` (b,) and, for multi-label heads, over classes; logits (b, C).

        Not the mean over classes: one class on the wrong side of the threshold has to count like one yes/no answer.
        """
        positive, questions = self.positive[rows], self.questions[rows]
        if not HEADS[head].multi_label:
            return -(positive * logits.log_softmax(-1)).sum()
        negative = questions[:, None] - positive
        return -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum()

    def best_loss(self, head: Head) -> float:
        """The smallest sum that any function of the text can have."""
        share = self.frequency.double()
        entropy = -torch.xlogy(share, share)
        if HEADS[head].multi_label:
            entropy -= torch.xlogy(1 - share, 1 - share)
        return float((entropy.sum(1) * self.questions).sum())


@dataclass(frozen=True)
class Convergence:
    """How the training of the control ended; stored beside it."""

    texts: int
    questions: int
    steps: int
    seconds: float
    loss: float
    best_loss: float
    """of any function of the text"""
    errors: dict[str, float]
    """of each head's probabilities, see `TOLERANCE`"""
    converged: bool
    """the errors are small, or nothing more is gained at the smallest learning rate"""

    def as_json(self) -> dict:
        return asdict(self)


def count_answers(dataset: VQADataset) -> dict[Head, AnswerCounts]:
    """The answers of every head that has questions, by text in the order of `dataset.text_codes`."""
    questions, texts = dataset.index.questions, len(dataset.text_codes)
    positive = {head: np.zeros((texts, len(spec.classes))) for head, spec in HEADS.items()}
    asked = {head: np.zeros(texts) for head in HEADS}
    for rows in dataset.selection.chunks():
        text = np.searchsorted(dataset.text_codes, questions["text"][rows])
        for head, number in HEAD_INDEX.items():
            own = questions["head"][rows] == number
            answers = expand_targets(head, questions["target"][rows[own]])
            if answers.ndim == 1:
                answers = np.eye(len(HEADS[head].classes), dtype=np.int8)[answers]
            asked[head] += np.bincount(text[own], minlength=texts)
            for label, column in enumerate(answers.T):
                positive[head][:, label] += np.bincount(text[own], column, minlength=texts)
    return {
        head: AnswerCounts(*(torch.from_numpy(counts.astype(np.float32)) for counts in (positive[head], asked[head])))
        for head in HEADS
        if asked[head].any()
    }


def train_question_only(
    config: Config, tokenizer, dataset: VQADataset, seed: int, device: torch.device | str = "cpu"
) -> tuple[QuestionOnly, Convergence]:
    """Train the control on the questions of a training set until it has learnt what their texts tell.

    Returns:
        the control, in evaluation mode, and how its training ended.
    """
    torch.manual_seed(seed)
    model = QuestionOnly.build(config.model, tokenizer).to(device)
    model.eval()  # no dropout: it is to fit the answers as well as a table of them would
    fit = _Fit(model, config, dataset, torch.device(device))
    result = fit.run(np.random.default_rng(seed))
    log.info(
        "text-only control: %s texts, loss %.4f, best possible %.4f, %s steps in %s",
        f"{result.texts:,}",
        result.loss,
        result.best_loss,
        f"{result.steps:,}",
        format_duration(result.seconds),
    )
    if not result.converged:
        log.warning("the text-only control did not converge: its row in the evaluation is too low")
    return model, result


class _Fit:
    """The training of one control."""

    def __init__(self, model: QuestionOnly, config: Config, dataset: VQADataset, device: torch.device):
        self.model, self.device, self.dataset = model, device, dataset
        self.counts = {
            head: AnswerCounts(c.positive.to(device), c.questions.to(device))
            for head, c in count_answers(dataset).items()
        }
        self.totals = {head: float(c.questions.sum()) for head, c in self.counts.items()}
        self.best_loss = sum(c.best_loss(head) / self.totals[head] for head, c in self.counts.items())
        rates = config.training.__class__(
            learning_rate=PRETRAINED_RATE if config.model.pretrained else SCRATCH_RATE,
            new_layer_lr_scale=SCRATCH_RATE / PRETRAINED_RATE if config.model.pretrained else 1.0,
            weight_decay=0.0,
        )
        self.optimizer = torch.optim.AdamW(parameter_groups(model, rates))
        for group in self.optimizer.param_groups:
            group["first_lr"] = group["lr"]
        self.steps = 0

    def run(self, rng: np.random.Generator) -> Convergence:
        begin, scale, stale, smallest = time.monotonic(), 1.0, 0, math.inf
        most_steps = max(MOST_STEPS, MOST_PASSES * -(-len(self.dataset.text_codes) // BATCH))
        while True:
            loss, errors = self._pass(rng, scale)
            if loss - self.best_loss < 0.99 * smallest:
                smallest, stale = loss - self.best_loss, 0
            else:
                stale += 1
            if stale >= PATIENCE:
                scale, stale = scale / 2, 0
            seconds = time.monotonic() - begin
            converged = scale < SMALLEST_RATE or all(
                error < (TOLERANCE_MULTI_LABEL if HEADS[head].multi_label else TOLERANCE)
                for head, error in errors.items()
            )
            if converged or self.steps >= most_steps or seconds > MOST_SECONDS:
                break
        self._break_ties()
        texts, questions = len(self.dataset.text_codes), int(sum(self.totals.values()))
        named = {head.value: error for head, error in errors.items()}
        return Convergence(texts, questions, self.steps, seconds, loss, self.best_loss, named, converged)

    def _pass(self, rng: np.random.Generator, scale: float) -> tuple[float, dict[Head, float]]:
        """One pass over all texts; mean loss and errors on the way."""
        total, errors = 0.0, dict.fromkeys(self.counts, 0.0)
        texts = self.dataset.text_codes
        for rows in _shuffled_by_length(self.dataset.token_table.lengths[texts], rng):
            warmup = min(1.0, (self.steps + 1) / WARMUP)
            for group in self.optimizer.param_groups:
                group["lr"] = group["first_lr"] * scale * warmup
            logits = _forward(self.model, self.dataset, texts[rows], self.device)
            at = torch.from_numpy(rows).to(self.device)
            # per head the mean over all its questions, added over heads
            loss = sum(c.loss(head, logits[head.value], at) / self.totals[head] for head, c in self.counts.items())
            # the sum over a batch of texts stands for the sum over all
            (loss * len(texts) / len(rows)).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1
            total += loss.item()
            for head, c in self.counts.items():
                errors[head] += c.squared_error(head, logits[head.value].detach(), at).item()
        return total, {head: math.sqrt(error / self.totals[head]) for head, error in errors.items()}

    @torch.no_grad()
    def _break_ties(self) -> None:
        for head, spec in HEADS.items():
            if spec.multi_label:
                self.model.heads[head.value][-1].bias += TIE


def _shuffled_by_length(lengths: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of each batch: of similar length, so that little is padded, in random order."""
    order = np.argsort(lengths + rng.uniform(0, 3, len(lengths)), kind="stable")
    batches = np.array_split(order, -(-len(order) // BATCH))
    return [batches[i] for i in rng.permutation(len(batches))]


def _forward(model: QuestionOnly, dataset: VQADataset, codes: np.ndarray, device) -> dict[str, Tensor]:
    tokens, place = dataset.token_table.encode(codes)
    tokens: TokenBatch = tokens.to(device)
    logits = model(tokens, torch.from_numpy(place.astype(np.int64)).to(device))
    return {name: values.float() for name, values in logits.items()}


@torch.inference_mode()
def score_question_only(model: QuestionOnly, dataset: VQADataset, device: torch.device | str = "cpu") -> dict:
    """Scores of the control on the questions of a data set: `headline` and `heads`, as `Validation.as_json`."""
    questions, rows = dataset.index.questions, dataset.rows
    text = np.searchsorted(dataset.text_codes, questions["text"][rows])
    chunks = np.array_split(dataset.text_codes, -(-len(dataset.text_codes) // 512))
    answers = [_forward(model, dataset, codes, device) for codes in chunks]
    scores: dict[str, Scores] = {}
    for head, number in HEAD_INDEX.items():
        logits = torch.cat([part[head.value] for part in answers])
        own = questions["head"][rows] == number
        probabilities = (logits.sigmoid() if HEADS[head].multi_label else logits.softmax(-1)).cpu().numpy()[text[own]]
        targets = expand_targets(head, questions["target"][rows[own]])
        scores[head.value] = score_head(head, probabilities, decide(head, probabilities), targets)
    return {"headline": headline(scores), "heads": scores}
