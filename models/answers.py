"""What is said to a question about a film: plain values, ready for a table, a page or a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from data.label_space import Head

NOT_ANSWERED = "I cannot answer this"
NONE_OF_THEM = {Head.CATEGORY: "none of the 14 classes", Head.REGION: "none of the 26 regions"}
"""What a head with several classes says where none reaches its threshold"""


@dataclass(frozen=True)
class Box:
    """In pixels of the original image, from its top left; clipped to it."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Region:
    """A node of the scene graph that the model predicts."""

    name: str
    """one of `label_space.REGIONS`"""
    box: Box
    entities: dict[str, float] = field(repr=False)
    """name of each finding and device of the vocabulary -> probability in [0, 1] that it is present here"""

    def findings(self, least: float = 0.5) -> dict[str, float]:
        """The entities with at least this probability, likeliest first."""
        return {name: p for name, p in sorted(self.entities.items(), key=lambda pair: -pair[1]) if p >= least}


@dataclass(frozen=True)
class Look:
    """How much of a question's attention a region had."""

    region: str
    weight: float
    """share in [0, 1]; those of all 26 regions are 1 in all"""
    box: Box


@dataclass(frozen=True)
class QuestionOnlyAnswer:
    """What the text-only control says to the same question, without the film. Not calibrated."""

    texts: tuple[str, ...]
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """The answer to one question, or why there is none."""

    question: str
    head: Head
    """that answers, or would"""
    supported: bool
    """False: it is refused, or was answered by force although it should be"""
    reason: str
    """why it is not supported; empty if it is"""
    type: str
    """likeliest question type by the model's classifier, or `unsupported`"""
    routed: float
    """probability of the head by that classifier, in [0, 1]"""
    texts: tuple[str, ...] = ()
    """classes that are answered; empty: refused, or none of a head with several"""
    probability: float | None = None
    """of the answer as a whole, in [0, 1]: of the class, or of the least sure decision of a head with several; None: refused"""
    probabilities: dict[str, float] = field(default_factory=dict)
    """every class of the head -> probability in [0, 1]; empty: refused"""
    calibrated: bool = False
    """The head's probabilities were divided by the temperature that an evaluation fitted on the validation split"""
    looks: tuple[Look, ...] = ()
    """the 26 regions, most attention first; empty: refused, or the model reads no graph"""
    question_only: QuestionOnlyAnswer | None = None
    """None: refused, or the control does not lie beside the model"""
    warnings: tuple[str, ...] = ()

    @property
    def is_answered(self) -> bool:
        return self.probability is not None

    @property
    def text(self) -> str:
        """The answer in a line."""
        if not self.is_answered:
            return f"{NOT_ANSWERED}: the question {self.reason}"
        return ", ".join(self.texts) or NONE_OF_THEM[self.head]

    def as_json(self) -> dict:
        """For a JSON file; probabilities rounded to six decimals, boxes to a tenth of a pixel."""
        return {"answer": self.text, "answered": self.is_answered} | _rounded(asdict(self))


def _rounded(value: object, places: int = 6) -> object:
    if isinstance(value, float):
        return round(value, places)
    if isinstance(value, dict):
        return {key: _rounded(item, 1 if key == "box" else places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item, places) for item in value]
    return value
