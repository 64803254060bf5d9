"""`export`: one film and its questions through ONNX Runtime, against PyTorch called once for each question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.big_texts import VOCABULARY, plan_texts
from benchmarks.infer import TEXTS, Answering, random_user
from benchmarks.report import Section
from benchmarks.session import Session
from benchmarks.timing import Variant
from data.label_space import HEADS
from models.onnx_folder import GRAPHS, PRECISIONS, file_of, require_exporter
from models.onnx_model import OnnxModel, probabilities
from training.export_run import write_export
from utils.errors import ConfigError


def run(session: Session) -> Iterator[Section]:
    """One table: PyTorch, and the graphs of both precisions."""
    require_exporter()
    if session.device.type != "cpu":
        raise ConfigError("export measures processors: give --device cpu")
    texts = plan_texts(0).strings()
    texts = [texts[i] for i in np.random.default_rng(session.args.seed).permutation(len(texts))[:TEXTS]]
    user = random_user(session, session.config.data.image_size, texts, "fp32")
    user.model.vocabulary = VOCABULARY
    asked = texts[: session.args.questions]
    with TemporaryDirectory(dir=session.workdir) as folder:
        session.say("writing the graphs of a model with random weights")
        write_export(user.model, user.tokenizer, session.config, Path(folder), int8=True)
        models = {name: OnnxModel.from_pretrained(folder, name, torch.get_num_threads()) for name in PRECISIONS}
        yield _measured(session, user, models, asked, Path(folder))


def _measured(
    session: Session, user: Answering, models: dict[str, OnnxModel], asked: Sequence[str], folder: Path
) -> Section:
    n = len(asked)
    baseline = f"PyTorch fp32, {n} calls of one question"
    variants = [
        Variant(baseline, lambda: [user.ask([text]) for text in asked], n),
        Variant(f"PyTorch fp32, one call of {n}", lambda: user.ask(list(asked)), n),
    ]
    for name, model in models.items():
        variants.append(Variant(f"ONNX {name}, one call of {n}", lambda model=model: answered(model, user, asked), n))
    sizes = {
        f"MB of the {name} graphs": sum((folder / file_of(graph, name)).stat().st_size for graph in GRAPHS) / 1e6
        for name in models
    }
    reference = user.ask(list(asked))
    ours = answered(models["fp32"], user, asked)
    single = [head for head, spec in HEADS.items() if not spec.multi_label]  # `ask` gives a softmax of every head
    apart = max(float(np.abs(ours[head] - reference[head].numpy()).max()) for head in single)
    return Section(
        f"Answers of exported graphs about one film of {user.model.image_size} pixels",
        session.measure(variants),
        baseline,
        facts={
            "image encoder": session.config.model.visual_backbone,
            "parameters": sum(p.numel() for p in user.model.parameters()),
            **sizes,
            "fp32 probabilities from PyTorch's, largest difference": apart,
        },
        notes=["From text and letter-boxed pixels to probabilities. Weights are random: as slow as trained ones."],
    )


def answered(model: OnnxModel, user: Answering, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """As `Answering.ask`."""
    images = model.encode_images(user.image.numpy().astype(np.float32))
    found = model.encode_texts(model.tokens(texts))
    places = np.arange(len(texts))
    logits = model.answer(images, found, places, np.zeros_like(places))
    return {head: probabilities(head, logits[head.value]) for head in HEADS}
