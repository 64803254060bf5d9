"""What happens on the page: films are opened, questions asked, maps drawn. Problems come back as one line, never as an exception.

desk = Desk.open(Path("checkpoints/best_model"), index=Path("data_cache/..."))
film, problem = desk.open_file("film.png")
html, problem = desk.ask(film, "Is there pleural effusion?")
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from data import images
from examples.page import views
from examples.page.evidence import Box, Picture, Region, Reply, Truth
from examples.page.film import LONGEST_SIDE
from examples.page.studies import USUAL_QUESTIONS, Studies
from models.answers import Answer
from models.asking import Asker, Film
from models.explaining import Explainer, FilmPixels
from utils.errors import UserError
from utils.privacy import shown

METHODS = {
    "LayerCAM": "layercam",
    "Grad-CAM": "gradcam",
    "Attention to the film": "sim-image",
    "Attention to regions": "regions",
}
"""Name on the page -> method of `models.explaining`"""
ANYWAY = "Answer all the same"
"""The box that stands against refusals"""


@dataclass(frozen=True)
class Opened:
    """A film that a visitor looks at."""

    picture: Picture
    film: Film
    source: Path | np.ndarray
    study: int | None = None
    """row in the index"""
    regions: tuple[Region, ...] = ()


@dataclass
class Desk:
    """A model with the studies that it can be asked about. Visitors share it; one is served at a time."""

    asker: Asker | None
    problem: str
    """why no question can be answered; empty: they can"""
    studies: Studies | None
    index_problem: str
    """why no study can be picked; empty: they can"""
    _lock: Lock = field(default_factory=Lock)

    @staticmethod
    def open(model: Path, index: Path | None, release: Path | None, device: str = "auto") -> Desk:
        """What cannot be opened is said on the page; nothing is raised but programming errors."""
        asker, problem = _tried(lambda: Asker.from_pretrained(model, device))
        if index is None:
            return Desk(asker, problem, None, "No index was named: start the page with --index to pick studies of one.")
        studies, index_problem = _tried(lambda: Studies.open(index, release))
        if studies is not None and not studies.splits:
            studies, index_problem = None, f"index {index}: no study in it has questions"
        return Desk(asker, problem, studies, index_problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a visitor must know of the data behind this page."""
        public = self.asker is not None and self.asker.model.credentialed is False
        generated = self.studies is not None and self.studies.index.is_synthetic
        return (views.NOT_OF_PATIENTS,) * public + (views.LOOK_ALIKE,) * generated

    @property
    def splits(self) -> list[str]:
        return self.studies.splits if self.studies else []

    def listed(self, split: str) -> list[str]:
        """Numbers of the studies of a split to choose from."""
        return self.studies.listed(split) if self.studies else []

    def questions(self, opened: Opened | None) -> list[str]:
        """Questions to pick from: those that the data set asks about this study, else usual ones."""
        if opened is None or opened.study is None:
            return list(USUAL_QUESTIONS)
        return self.studies.questions(opened.study)

    # Each returns what there is to show, or None and the reason

    def open_file(self, path: str) -> tuple[Opened | None, str]:
        """A film of one's own. The film is shown even if it will not be answered about."""
        opened, problem = self._do(lambda: self._open(Path(path)))
        return opened, problem.replace(str(path), Path(path).name) or self._doubt(opened)

    def open_study(self, split: str, number: str) -> tuple[Opened | None, str]:
        """The first film of a study of the index."""

        def look() -> Opened:
            study = self.studies.find(split, str(number))
            return self._open(self.studies.film(study), study)

        opened, problem = self._do(look)
        return opened, problem or self._doubt(opened)

    def ask(self, opened: Opened | None, question: str, anyway: bool = False) -> tuple[str | None, str]:
        """The evidence for an answer, as HTML."""

        def answer() -> str:
            reply = self._answered(opened, question, anyway)[0]
            return views.evidence(opened.picture, reply, opened.regions, self._truth(opened, question))

        return self._do(answer)

    def explain(
        self, opened: Opened | None, question: str, method: str, anyway: bool = False
    ) -> tuple[str | None, str]:
        """As `ask`, with a map over the film. `method`: of METHODS."""

        def explained() -> str:
            reply, answer = self._answered(opened, question, anyway)
            truth = self._truth(opened, question)
            if reply.refusal:
                return views.evidence(opened.picture, reply, opened.regions, truth)
            asker = self.asker
            explainer = Explainer(asker.model, asker.tokenizer, fingerprint=asker.sha256, device=str(asker.device))
            shape = opened.picture.pixels.shape
            target = answer.texts or None
            (found,) = explainer.explain(
                self._pixels(opened), question, [METHODS[method]], answer.head, target, shape=shape
            )
            note = f"{method}: what is read, whatever the answer; attention is no proof of why"
            if found.depends_on_target:
                note = f"{method} for “{found.target}”; a map shows what the answer depends on, not why"
            return views.evidence(opened.picture, reply, opened.regions, truth, found.map, note)

        return self._do(explained)

    # How

    def _do(self, action: Callable[[], object]) -> tuple[object, str]:
        if self.asker is None:
            return None, self.problem
        with self._lock:
            return _tried(action)

    def _open(self, source: Path | np.ndarray, study: int | None = None) -> Opened:
        film = self.asker.film(source, force=True)
        if isinstance(source, np.ndarray):
            seen, width, height, name = source, film.width, film.height, "film of the index"
        else:
            (seen, width, height), name = images.decode(source, LONGEST_SIDE), film.name
        regions = () if film.forced else tuple(_region(one) for one in film.regions)
        return Opened(Picture(seen, width, height, name), film, source, study, regions)

    def _pixels(self, opened: Opened) -> FilmPixels:
        """The film as the model was given it."""
        if isinstance(opened.source, np.ndarray):
            return FilmPixels(opened.source, opened.film.width, opened.film.height)
        data = self.asker.config.data
        pixels, width, height = images.decode(opened.source, data.image_store_size or data.image_size)
        return FilmPixels(images.as_stored(pixels, data.image_store), width, height)

    def _doubt(self, opened: Opened | None) -> str:
        if opened is None or not opened.film.forced:
            return ""
        reason = opened.film.frontal.reason
        return f"This is no frontal chest film ({reason}): nothing is answered about it unless “{ANYWAY}” is ticked."

    def _answered(self, opened: Opened | None, question: str, anyway: bool) -> tuple[Reply, Answer]:
        if opened is None:
            raise UserError("There is no film yet: open one, or pick a study.")
        if not question.strip():
            raise UserError("There is no question yet: write one, or pick one.")
        if opened.film.forced and not anyway:
            raise UserError(self._doubt(opened))
        (answer,) = self.asker.ask(opened.film, [question], force=anyway)
        return reply_of(answer, opened.film), answer

    def _truth(self, opened: Opened, question: str) -> Truth | None:
        if opened.study is None:
            return None
        return self.studies.truth(opened.study, question, opened.picture.width, opened.picture.height)


def reply_of(answer: Answer, film: Film) -> Reply:
    """A model's answer as the page shows it."""
    if not answer.is_answered:
        return Reply(answer.question, refusal=answer.text)
    weights = {look.region: look.weight for look in answer.looks}
    control = answer.question_only
    return Reply(
        answer.question,
        head=answer.head.value,
        answer=answer.text,
        chosen=frozenset(answer.texts),
        probability=answer.probability,
        classes=tuple(sorted(answer.probabilities.items(), key=lambda pair: -pair[1])),
        calibrated=answer.calibrated,
        blind_answer="" if control is None else ", ".join(control.texts) or "none of the classes",
        blind_probability=0.0 if control is None else control.probability,
        warnings=answer.warnings,
        regions=tuple(_region(one, weights[one.name]) for one in film.regions) if weights else (),
    )


def _region(node, weight: float | None = None) -> Region:
    box: Box = (node.box.x1, node.box.y1, node.box.x2, node.box.y2)
    return Region(node.name, box, tuple(node.findings(views.POSSIBLE).items()), weight)


def _tried(action: Callable[[], object]) -> tuple[object, str]:
    """What an action gives and "", or None and one line. The traceback of an unexpected error goes to the console."""
    try:
        return action(), ""
    except UserError as error:
        return None, str(error)
    except Exception as error:
        print(shown(traceback.format_exc()), file=sys.stderr)
        return None, f"internal error: {type(error).__name__}: {error}"
