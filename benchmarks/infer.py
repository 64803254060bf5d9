"""`infer`: how long answers about one image take, and how many questions a second an evaluation answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks.big_index import draw_picture
from benchmarks.big_texts import VOCABULARY, plan_texts
from benchmarks.ours import text_config_of
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from configs.mimic_cxr_config import Config
from data.batch import TokenBatch
from data.index import Index
from models.encoders import QuestionEncoder, text_model_from_config
from models.mimic_vqa_model import SSGVQA
from models.question_only import QuestionOnly
from models.tokenizer import train_tokenizer
from training.evaluation import evaluate
from training.evaluation_run import questions_of_split
from utils.hardware_utils import cpu_has_bf16
from utils.utils import seed_everything

TEXTS = 2000
EVALUATED = "validate"


@dataclass
class Answering:
    """A model with random weights and one image: what a user's question costs, from its text to the probabilities."""

    model: SSGVQA
    tokenizer: PreTrainedTokenizerBase
    image: Tensor
    """(1, 1, S, S) uint8"""
    device: torch.device
    precision: str

    def _context(self) -> AbstractContextManager:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[self.precision]))

    @torch.inference_mode()
    def ask(self, texts: list[str]) -> dict[str, Tensor]:
        """Answer these questions; the image is encoded once for all of them."""
        encoded = self.tokenizer(texts, padding=True, return_tensors="pt")
        tokens = TokenBatch(encoded["input_ids"], encoded["attention_mask"]).to(self.device)
        question_of = torch.arange(len(texts), device=self.device)
        with self._context():
            features = self.model.encode_images(self.image.to(self.device))
            graph = self.model.predict_graph(features).graph()
            logits, _ = self.model.answer(features, graph, tokens, question_of, torch.zeros_like(question_of))
        return {head: values.float().softmax(-1).cpu() for head, values in logits.items()}


def run(session: Session) -> Iterator[Section]:
    """A table for each image size, then the evaluation."""
    args = session.args
    for side in args.sides or [session.config.data.image_size]:
        yield answering(session, side, args.questions)
    if args.eval_studies:
        yield evaluation(session, args.eval_studies)


def random_user(session: Session, side: int, texts: list[str], precision: str) -> Answering:
    """Weights are random, which are as slow as trained ones; word pieces are made from the texts."""
    config = deepcopy(session.config)
    config.data.image_size = side
    tokenizer = train_tokenizer(texts, config.model.max_question_length)
    seed_everything(session.args.seed)
    names = VOCABULARY.num_entities, VOCABULARY.num_regions
    model = SSGVQA(config.model, *names, side, text_config_of(config, tokenizer)).eval().to(session.device)
    picture = draw_picture(np.random.default_rng(session.args.seed), side, side)
    return Answering(model, tokenizer, torch.from_numpy(picture)[None, None], session.device, precision)


def answering(session: Session, side: int, numbers: list[int]) -> Section:
    """One image with several questions, against a call for each question."""
    texts = plan_texts(0).strings()
    texts = [texts[i] for i in np.random.default_rng(session.args.seed).permutation(len(texts))[:TEXTS]]
    fp32 = random_user(session, side, texts, "fp32")
    variants: list[Variant] = []
    single = cycle(texts)
    for precision in precisions(session.device):
        user = replace(fp32, precision=precision)
        counted = {"count_flops": True, "precision": precision}
        name = f"{precision}, a call for each question"
        variants.append(Variant(name, lambda user=user: user.ask([next(single)]), 1, **counted))
        for n in numbers:
            call = partial(user.ask, texts[:n])
            variants.append(Variant(f"{precision}, one call for {n} question{'s' * (n > 1)}", call, n, **counted))
    left_out = (
        []
        if len(precisions(session.device)) > 1
        else ["bf16: this processor has no instructions for it, it would be slower."]
    )
    return Section(
        f"Answers about one image of {side} pixels",
        session.measure(variants),
        variants[0].name,
        facts={
            "image encoder": session.config.model.visual_backbone,
            "parameters": sum(p.numel() for p in fp32.model.parameters()),
            "word pieces of a question, mean": float(np.mean([len(ids) for ids in fp32.tokenizer(texts)["input_ids"]])),
        },
        notes=["From text and stored pixels to probabilities, words into word pieces included.", *left_out],
    )


def precisions(device: torch.device) -> list[str]:
    """What the device computes in hardware."""
    if device.type == "cuda":
        return ["fp32", "bf16"]
    return ["fp32", "bf16"] if cpu_has_bf16() else ["fp32"]


def evaluation(session: Session, studies: int) -> Section:
    """The evaluation of a split, with its controls and without."""
    config = session.with_release(studies)
    config.data.quality_grade = "all"
    index = session.index(config)
    tokenizer = train_tokenizer(index.texts(np.arange(index.num_texts)), config.model.max_question_length)
    model, control = _models(config, index, tokenizer, session)
    asked, known = (questions_of_split(index, split, config, tokenizer) for split in (EVALUATED, "train"))
    call: Callable[..., object] = partial(evaluate, batch_size=config.evaluation.batch_size)
    variants = [
        Variant("model alone", lambda: call(model, None, asked, None), asked.num_questions, count_flops=True),
        Variant("model with all controls", lambda: call(model, control, asked, known), asked.num_questions),
    ]
    return Section(
        f"Evaluation at {config.data.image_size} pixels",
        session.measure(variants, rounds=min(2, session.args.rounds)),
        variants[0].name,
        facts={
            "questions": asked.num_questions,
            "images": len(asked.studies),
            "training questions, for the controls": known.num_questions,
            "rows of the report": 9,
        },
        notes=["A question counts once, however many rows of the report answer it."],
    )


def _models(config: Config, index: Index, tokenizer, session: Session) -> tuple[SSGVQA, QuestionOnly]:
    seed_everything(session.args.seed)
    text = text_config_of(config, tokenizer)
    size = index.vocabulary.num_entities, index.vocabulary.num_regions
    model = SSGVQA(config.model, *size, config.data.image_size, text)
    control = QuestionOnly(config.model, QuestionEncoder(text_model_from_config(text), config.model))
    return model.to(session.device), control.to(session.device)
