"""Which head answers a free-text question, and which questions none of them can.

Training and evaluation know the type of a question; somebody who asks does not say it. A question is answered when

1. its words ask nothing that no head can say, and name something the model knows (`data.question_words`), and
2. it is clear which head is asked: its first words say so (`where` asks for a region, `how severe` for a severity), or the model's
   question-type classifier is as sure of a head as `routing.json` asks for.

The classifier's probability of a head is the sum over its question types. The threshold is measured on the validation split
(`training.routing`); maximum-softmax confidence as in Hendrycks and Gimpel (ICLR 2017). It learns from the data set's own wordings
alone, none of them unsupported, and is sure of many a question that is nothing of the kind: so words and form come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.label_space import QUESTION_TYPES, Head
from data.question_words import QuestionWords
from data.vocabulary import Vocabulary

if TYPE_CHECKING:  # exported models are routed without PyTorch
    from torch import Tensor

ROUTING = "routing.json"
"""In a model folder: how the classifier routes the validation split, and the threshold for refusing"""
NOT_MEASURED = 0.5
"""Threshold while nothing was measured: the head must be likelier than all others together"""
UNSUPPORTED_NAME = "unsupported"

_ASKED_TO = r"(?:tell|say|show|describe|list|name|give|summari[sz]e|locate)"
_POLITE = (
    rf"\W*(?:(?:please|and|so|now|(?:can|could|would|will) you(?=\W+(?:please\W+)?{_ASKED_TO}\b)|tell me|say|show me"
    r"|i (?:want|would like|need) to know|i wonder|looking at [^:,]*|(?:on|in) (?:this|the) (?:film|image|x-?ray)(?=,))\W+)*+"
)
_BEGINNINGS: dict[Head, tuple[str, ...]] = {
    Head.SEVERITY: (
        r"how (?:severe|bad|big|large|extensive|marked|serious|advanced|pronounced)\b",
        r"(?:what|which)(?: is|'s)? (?:the )?(?:severity|degree|extent|size|grade)\b",
        r"(?:grade|rate) the\b",
    ),
    Head.REGION: (
        r"where\b",
        r"in (?:which|what)\b",
        r"(?:which|what) (?:side|lobe|lung|region|part|zone|area|location)s?\b",
        r"(?:what|which)(?: is|'s)? (?:the )?(?:location|position|site)\b",
        r"(?:locate|locali[sz]e|point to|how would you describe the (?:location|position))\b",
    ),
    Head.BINARY: (r"(?:whether|if|is|are|was|were|does|do|did|has|have|any|isn't|aren't|doesn't|can|could|would)\b",),
    Head.CATEGORY: (
        r"(?:what|which|describe|list|name|summari[sz]e|characteri[sz]e|give)\b",
        r"how would you (?:describe|interpret|read|call)\b",
        r"(?:the |all )?(?:abnormal )?(?:findings|abnormalities|pathologies|diseases|devices)\b",
    ),
}
FORMS: tuple[tuple[Head, re.Pattern], ...] = tuple(
    (head, re.compile(f"{_POLITE}(?:{'|'.join(beginnings)})", re.IGNORECASE))
    for head, beginnings in _BEGINNINGS.items()
)
"""Head -> how a question that only it can answer begins; the first that fits counts"""


@dataclass(frozen=True)
class Route:
    """Where a question goes."""

    head: Head
    """that answers it, if it is answered"""
    probability: float
    """of that head by the question-type classifier, in [0, 1]"""
    type: str
    """likeliest question type, such as `D02_has_finding`, or `unsupported`"""
    reason: str
    """Why it should not be answered; empty: it can be"""


def head_probabilities(logits: Tensor | np.ndarray) -> np.ndarray:
    """(U, 28) question-type logits -> (U, 5) float64: binary, category, region, severity, and no head at all; in all 1."""
    heads = list(Head)
    place = [heads.index(kind.head) if kind.head else len(heads) for kind in QUESTION_TYPES] + [len(heads)]
    values = logits.astype(np.float64) if isinstance(logits, np.ndarray) else logits.detach().double().cpu().numpy()
    powers = np.exp(values - values.max(-1, keepdims=True))
    grouped = np.zeros((len(heads) + 1, len(values)))
    np.add.at(grouped, place, (powers / powers.sum(-1, keepdims=True)).T)
    return grouped.T


def form_of(text: str) -> Head | None:
    """The head that a question's first words ask for; None where they leave it open."""
    return next((head for head, pattern in FORMS if pattern.match(text)), None)


class Router:
    """Routes questions for one model.

    Args:
        vocabulary: names that the model knows.
        threshold: least probability of the head, in [0, 1].
        measured: whether the threshold comes from the validation split.
    """

    def __init__(self, vocabulary: Vocabulary, threshold: float = NOT_MEASURED, measured: bool = False):
        self._words = QuestionWords(vocabulary)
        self.threshold, self.measured = threshold, measured

    @staticmethod
    def of_folder(folder: Path, sha256: str, vocabulary: Vocabulary) -> Router:
        """With what an evaluation measured for these weights. CheckpointError: that file cannot be read."""
        from models.probabilities import read_measured, unreadable

        path = folder / ROUTING
        stored = read_measured(path, sha256)
        if stored is None:
            return Router(vocabulary)
        try:
            threshold = float(stored["threshold"])
            if not 0 <= threshold <= 1:
                raise ValueError("the threshold is not between 0 and 1")
        except (ValueError, TypeError, KeyError) as error:
            raise unreadable(path, error) from error
        return Router(vocabulary, threshold, measured=True)

    def route(self, text: str, logits: Tensor | np.ndarray, head: Head | None = None) -> Route:
        """The route of a question with its (28,) question-type logits; `head`: the one that is asked for, whatever the form."""
        of_heads, names = head_probabilities(logits[None])[0], list(Head)
        likeliest = int(logits.argmax())
        kind = QUESTION_TYPES[likeliest].name if likeliest < len(QUESTION_TYPES) else UNSUPPORTED_NAME
        form = form_of(text)
        chosen = head or form or names[int(of_heads[:-1].argmax())]
        probability = float(of_heads[names.index(chosen)])
        reason = self._words.about(text).reason
        if not reason and head is None and form is None and probability < self.threshold:
            reason = (
                f"is of no kind that the model is sure of (confidence {probability:.2f}, needed {self.threshold:.2f})"
            )
        return Route(chosen, probability, kind, reason)
