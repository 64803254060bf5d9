"""`train`: questions a second of our training step, of the one-question-per-item design, and of ViLT and BLIP.

What is compared: a step over B films with M questions each, against batches of single questions that each have an image
of their own. All of them answer questions of the same composed release.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from benchmarks import peers
from benchmarks.as_written import (
    FolderFiles,
    QuestionDataset,
    QuestionItems,
    ZipFiles,
    collate,
    write_films,
)
from benchmarks.baseline import PerQuestionModel, per_question_loss
from benchmarks.compose import LEAST_STUDIES, QBA, STUDIES_PER_FILM, Composition, compose
from benchmarks.flops import COUNTED, counted_flops
from benchmarks.others import Other
from benchmarks.ours import (
    Ours,
    endless_windows,
    first_window,
    on_device,
    random_model,
    text_config_of,
    text_facts,
    tokenizer_of,
    twin,
)
from benchmarks.report import CLOCKS, Section, row_ratio
from benchmarks.session import Session
from benchmarks.timing import Measured, Variant
from configs.fast_path import FAST_PATH, FastPath
from data.index import Index
from data.loader import Window
from models.mimic_vqa_model import SSGVQA
from training.engine import choose_precision
from training.run import training_questions

BASELINE = "per question, padded to 64"
MICRO_BATCH, TOGETHER = 8, 340
"""Films, and questions, of one micro-batch on a CPU: larger tensors leave its caches, and memory is what there is least of"""
PADDED = (64, 128)
GPU_STEPS = 8
"""Steps of one measurement with the real loader on a GPU: it runs ahead of the device within a measurement only"""
COMPILED_STEPS = (4, 12)
"""Steps with batches of the real loader: to warm up, and to count compilations in"""


def run(session: Session) -> Iterator[Section]:
    """The tables that the options ask for."""
    bench = TrainBench(session)
    steps = bench.steps()
    yield steps
    if session.args.against:
        yield times_as_many(steps.measured, len(bench.settings))
    if session.args.switches:
        yield bench.switches()
    if session.args.encoder:
        yield bench.encoder()
    if session.args.against_loader:
        yield bench.against_loader()
    if session.args.compile:
        yield bench.compilations()


@dataclass(frozen=True)
class Setting:
    """A composed release, ready to be trained on."""

    composition: Composition
    index: Index
    window: Window
    """B films with M questions each"""


class TrainBench:
    """All models and batches of a run. Models are made when they are needed."""

    def __init__(self, session: Session):
        self.session, self.args, self.device = session, session.args, session.device
        self.config = session.config
        training = self.config.training
        if self.args.precision:
            training.fp16, training.precision = True, self.args.precision
        training.compile = False  # the models that are compiled are those that say so
        self.precision = choose_precision(training, self.device).name
        films = self.args.images
        composed = [
            compose(session, films, m, self.args.distinct, self._micro_batch(m))
            for m in dict.fromkeys(self.args.questions)
        ]
        indexes = [session.index(one.config) for one in composed]
        # a text encoder that is trained from scratch has a vocabulary made from the questions in earnest too
        pieces = self.args.word_pieces if self.config.model.pretrained else 0
        self.tokenizer: PreTrainedTokenizerBase = tokenizer_of(self.config, indexes, pieces)
        self.settings = {
            one.questions: Setting(one, index, self._window(one, index)) for one, index in zip(composed, indexes)
        }
        self.reference = self.settings[20 if 20 in self.settings else self.args.questions[0]]
        """whose questions the per-question designs answer: their cost does not depend on M"""

    def _micro_batch(self, questions: int) -> int:
        """Films that go through the model together."""
        films = self.args.images
        if self.args.micro_batch or self.device.type == "cuda":
            return self.args.micro_batch or films
        return max(1, min(films, MICRO_BATCH, TOGETHER // max(1, questions)))

    def _window(self, composition: Composition, index: Index) -> Window:
        dataset = training_questions(composition.config, index, self.tokenizer)
        return first_window(dataset, composition.films, self._micro_batch(composition.questions))

    # Models

    @cached_property
    def model(self) -> SSGVQA:
        return random_model(self.config, self.reference.index, self.tokenizer)

    @cached_property
    def ours(self) -> Ours:
        return Ours(self.model, self.config.training, self.device, self.args.optimizer)

    @cached_property
    def compiled(self) -> Ours:
        training = replace(self.config.training, compile=True)
        model = twin(self.model, self.config, self.reference.index, self.tokenizer)
        return Ours(model, training, self.device, self.args.optimizer)

    @cached_property
    def per_question(self) -> Other:
        names = self.reference.composition.release
        text = text_config_of(self.config, self.tokenizer)
        model = PerQuestionModel(self.config, text, len(names.entities), len(names.region_names), box_loop=False)
        training = self.config.training
        other = self._other(model, lambda m, batch: per_question_loss(m(batch), batch, training))
        if self.args.compile:  # as ours: the encoders, which are nearly all of it
            model.backbone.compile()
            model.text.compile()
        return other

    def _other(self, model, loss: Callable) -> Other:
        return Other(model, loss, self.config.training, self.device, self.args.optimizer)

    # Ours against the others

    def steps(self) -> Section:
        variants = [self._our_step(m, setting) for m, setting in self.settings.items()]
        for name in self.args.against:
            variants += getattr(self, f"_{name}")()
        measured = self.session.measure(variants)
        baseline = BASELINE if "per_question" in self.args.against else variants[0].name
        return Section("training step", measured, baseline, facts=self._facts(), notes=self._notes())

    def _our_step(self, questions: int, setting: Setting) -> Variant:
        ours = self.compiled if self.args.compile else self.ours
        name = f"ours, {setting.composition.films} x {questions}" + (", compiled" if self.args.compile else "")
        counts = not self.args.compile
        variant = self._variant(name, lambda: ours.step(setting.window), setting.window.questions, counts)
        return variant if counts else replace(variant, **self._counted(setting.window))

    def _counted(self, window: Window) -> dict:
        """Operations of the same step that is not compiled."""
        with counted_flops() as count:
            self.ours.step(window)
        return {"flops": count.flops, "flops_of": f"{COUNTED}, not compiled"}

    def _variant(self, name: str, call: Callable, questions: int, counts: bool = True, **more) -> Variant:
        return Variant(name, call, questions, count_flops=counts, precision=self.precision, **more)

    def _per_question(self) -> list[Variant]:
        return self._with_ready_tensors(PADDED[0], BASELINE, box_loop=False)

    def _padded_128(self) -> list[Variant]:
        return self._with_ready_tensors(PADDED[1], "per question, padded to 128", box_loop=False)

    def _box_loop(self) -> list[Variant]:
        return self._with_ready_tensors(PADDED[0], "per question, boxes in a Python loop", box_loop=True)

    def _with_ready_tensors(self, pad: int, name: str, box_loop: bool) -> list[Variant]:
        batch = self._items(self._dataset(pad))
        counts = not self.args.compile
        return [self._variant(name, lambda: self._per_question_step(batch, box_loop), len(batch.head), counts)]

    def _per_question_step(self, batch: QuestionItems, box_loop: bool) -> None:
        self.per_question.model.box_loop = box_loop
        self.per_question.step(batch)

    def _as_written(self) -> list[Variant]:
        return self._end_to_end("as written, from files", FolderFiles(self.reference.composition.member_folder))

    def _as_written_zip(self) -> list[Variant]:
        return self._end_to_end("as written, from archives", ZipFiles(self.reference.composition.folder / QBA))

    def _end_to_end(self, name: str, files) -> list[Variant]:
        films = self.session.workdir / "films"
        count = min(self.args.baseline_questions, self.reference.composition.films)
        mean = write_films(self.reference.composition, count, films)
        dataset = self._dataset(PADDED[0], files, films)
        note = f"JPEG files of {mean / 1e6:.2f} MB and about 2544 x 3056 pixels (enlarged films with grain), "
        note += "opened, decoded, parsed and tokenised for each question; boxes in a Python loop"
        counts = not self.args.compile
        call = lambda: self._per_question_step(self._items(dataset), box_loop=True)  # noqa: E731
        return [self._variant(name, call, len(dataset), counts, note=note)]

    def _dataset(self, pad: int, files=None, films=None) -> QuestionDataset:
        composition = self.reference.composition
        files = files or FolderFiles(composition.member_folder)
        return QuestionDataset(composition, self.args.baseline_questions, self.tokenizer, pad, files, films)

    def _items(self, dataset: QuestionDataset) -> QuestionItems:
        return collate([dataset[n] for n in range(len(dataset))])

    @cached_property
    def _examples(self) -> list[peers.Example]:
        return peers.examples(self.reference.composition, self._dataset(PADDED[0]))

    def _vilt(self) -> list[Variant]:
        other, side = self._other(peers.vilt(), peers.peer_loss), self.config.data.image_size
        sizes = peers.vilt_size(*self._examples[0].film.size), (side, side)
        batches = {size: peers.vilt_batch(self._examples, self.tokenizer, size) for size in sizes}
        return [self._peer(f"ViLT-B/32, {w} x {h}", other, batch) for (w, h), batch in batches.items()]

    def _blip(self) -> list[Variant]:
        other = self._other(peers.blip(), peers.peer_loss)
        return [
            self._peer(f"BLIP-base, {side} x {side}", other, peers.blip_batch(self._examples, self.tokenizer, side))
            for side in (peers.PUBLISHED_SIDE, self.config.data.image_size)
        ]

    def _peer(self, name: str, other: Other, batch: dict) -> Variant:
        return self._variant(name, lambda: other.step(batch), len(self._examples))

    def _facts(self) -> dict[str, object]:
        model = self.config.model
        facts: dict[str, object] = {
            "model": f"{model.visual_backbone}, BERT, fusion {model.fusion}, random weights, {self.config.data.image_size} px",
            "measured": "forward, loss, backward" + (", clipping, AdamW" if self.args.optimizer else ""),
            "precision": self.precision,
            "word pieces": f"vocabulary made from the questions, {len(self.tokenizer):,} pieces",
        }
        for questions, setting in self.settings.items():
            text = text_facts(setting.window, self.model)
            facts[f"{setting.composition.films} x {questions}"] = (
                f"in micro-batches of {self._micro_batch(questions)} films: {text['distinct']:,} text passes "
                f"({text['text passes per question']:.2f} a question), {text['word pieces, mean']:.1f} word pieces, "
                f"longest {text['longest']}, token efficiency {text['token efficiency']:.2f}"
            )
        return facts

    def _notes(self) -> list[str]:
        count = self.args.baseline_questions
        return [
            f"one question per item: measured on a batch of {count}; their cost a question is taken for that of any number",
            "ratios: questions a second by the baseline's, of medians (least..most of single rounds)",
        ]

    def encoder(self) -> Section:
        """Images a second of the image encoder by itself, which nothing can be faster than."""
        ours, window = self.compiled if self.args.compile else self.ours, self.reference.window
        call = lambda: ours.encode_images(window)  # noqa: E731
        variant = self._variant("forward and backward", call, window.images, not self.args.compile, unit="images")
        return Section("image encoder alone", self.session.measure([variant]))

    # What each idea brings

    def switches(self) -> Section:
        """Our step with one switch of the fast path off at a time, with all off, and in other precisions."""
        setting, training = self.reference, self.config.training
        window, step = setting.window, self.ours.step

        def switched(name: str, off: tuple[str, ...]) -> Variant:
            def prepare() -> Window:
                self.model.switch(FastPath.without(off))
                return window

            return self._variant(name, step, window.questions, prepare=prepare)

        usual = tuple(training.fast_path_off)
        variants = [switched("fast path", usual)]
        variants += [switched(f"without {name}", (*usual, name)) for name in FAST_PATH if name not in usual]
        variants.append(switched("without all of them", FAST_PATH))
        for precision in self._precisions():
            other = Ours(self.model, replace(training, fp16=True, precision=precision), self.device, update=False)
            variant = replace(switched(f"fast path in {precision}", usual), call=other.step, precision=precision)
            variants.append(variant)
        if self.args.compile:
            call = lambda: self.compiled.step(window)  # noqa: E731
            variants.append(
                replace(self._variant("fast path, compiled", call, window.questions, False), **self._counted(window))
            )
        measured = self.session.measure(variants)
        self.model.switch(FastPath.without(usual))
        films, questions = setting.composition.films, setting.composition.questions
        return Section(f"switches of the fast path, {films} x {questions}", measured, "fast path")

    def _precisions(self) -> list[str]:
        """Those that the device computes in hardware, beside the one that is measured anyway."""
        return [name for name in self.session.machine.ceilings.flops if name != self.precision]

    # Waiting for data

    def against_loader(self) -> Section:
        """Steps with batches of the real loader against steps with one batch that is always there."""
        composition = self.reference.composition
        films, questions = composition.films, composition.questions
        more = compose(self.session, 4 * films, questions, self.args.distinct, self._micro_batch(questions))
        dataset = training_questions(more.config, self.session.index(more.config), self.tokenizer)
        stream = endless_windows(dataset, films, self._micro_batch(questions), self.args.workers)
        ours = self.compiled if self.args.compile else self.ours
        constant = on_device(first_window(dataset, films, self._micro_batch(questions)), self.device)
        steps = GPU_STEPS if self.device.type == "cuda" else 1
        waited: list[float] = []

        def with_loader() -> None:
            total = 0.0
            for _ in range(steps):
                start = time.perf_counter()
                window = next(stream)
                total += time.perf_counter() - start
                ours.step(window)
            waited.append(total)

        def with_constant() -> None:
            for _ in range(steps):
                ours.step(constant)

        items = steps * constant.questions
        variants = [
            self._variant("constant batch", with_constant, items, counts=False),
            self._variant("real loader", with_loader, items, counts=False),
        ]
        measured = self.session.measure(variants)
        return Section(
            "waiting for data",
            measured,
            "constant batch",
            facts={
                "workers": self.args.workers,
                "share of the time spent in the loader": _share(waited[1:], measured[1]),
                "time a step, by that with a constant batch": measured[1].seconds / measured[0].seconds,
            },
        )

    def compilations(self) -> Section:
        """How often code is compiled after the first steps, with the batches that the real loader makes of generated data:
        films with few and with many questions, short and long ones."""
        films = self.args.images
        config = self.session.with_release(max(LEAST_STUDIES, STUDIES_PER_FILM * films))
        config.data.questions_per_image = self.reference.composition.questions
        dataset = training_questions(config, self.session.index(config), self.tokenizer)
        stream = endless_windows(dataset, films, self._micro_batch(config.data.questions_per_image), 0)
        counts, shapes = [], set()
        for number in COMPILED_STEPS:
            before = compiled_graphs()
            for _ in range(number):
                window = next(stream)
                shapes |= {(len(batch.head), *batch.questions.input_ids.shape) for batch in window.batches}
                self.compiled.step(window)
            counts.append(compiled_graphs() - before)
        rows = [
            {"": name, "steps": steps, "compiled graphs": count}
            for name, steps, count in zip(("warm-up", "after it"), COMPILED_STEPS, counts, strict=True)
        ]
        return Section("recompilations", rows=rows, facts={"batches of different shapes": len(shapes)})


def times_as_many(measured: list[Measured], ours: int) -> Section:
    """Our questions a second (the first `ours` variants) by those of each other design."""
    rows = [
        {"": other.name}
        | {f"{one.name}, {clock}": row_ratio(one, other, clock) for one in measured[:ours] for clock in CLOCKS}
        for other in measured[ours:]
    ]
    return Section("ours by each of the others, questions a second", rows=rows)


def _share(waited: list[float], measured: Measured) -> float:
    return sum(waited) / sum(r.wall * r.calls for r in measured.rounds)


def compiled_graphs() -> int:
    """So far, in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
