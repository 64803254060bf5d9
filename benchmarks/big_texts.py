"""Question texts of an index of any size: how many there are, what they say, and how often each is asked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from data.label_space import QUESTION_TYPES, QuestionType
from data.vocabulary import Vocabulary

REPEATS = 238
"""How often a text is asked on average in MIMIC-Ext-CXR-QBA."""
FEWEST, MOST = 2_000, 177_000
"""Texts of a small index (so that its batches look like those of a large one) and of the whole data set."""

# fmt: off
TYPE_TOTALS = {
    "A_indication": 218_294, "B01_describe_all": 208_433, "B02_describe_abnormal": 208_433, "B03_is_abnormal": 208_433,
    "B04_is_normal": 208_433, "B08_describe_subcat": 2_360_329, "B09_describe_abnormal_subcat": 2_360_329,
    "B10_is_abnormal_subcat": 2_360_329, "B11_is_normal_subcat": 1_667_464, "B12_describe_device": 954_659,
    "B13_has_devices": 954_659, "B14_describe_acquisition": 7_017, "B15_describe_imaging_artifacts": 208_433,
    "B16_has_imaging_artifacts": 208_433, "C01_describe_region": 2_827_147, "C02_describe_abnormal_region": 2_827_177,
    "C03_is_abnormal_region": 2_832_066, "C04_is_normal_region": 2_831_838, "C07_describe_region_device": 4_650_283,
    "C08_has_region_device": 4_652_197, "D01_describe_finding": 2_550_098, "D02_has_finding": 2_551_216,
    "D03_where_is_finding": 2_021_152, "D04_how_severe_is_finding": 1_325_613, "D05_describe_device": 326_628,
    "D06_has_device": 321_678, "D07_where_is_device": 322_056,
}
"""Questions of each type in the data set (https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/)."""
# fmt: on

_with_head = np.array([TYPE_TOTALS[t.name] if t.head else 0 for t in QUESTION_TYPES], dtype=np.float64)
TYPE_SHARES = _with_head / _with_head.sum()
"""(27,) share of each type among the questions that a class can answer"""

_SUBJECTS = {"indication": 0, "abnormal": 1, "region_abnormal": 10, "finding": 10}
"""Strategy of a type -> how many texts it has in proportion: few about the whole film, many about regions and findings."""

_SIDES = ("right", "left")
_PLACES = tuple(
    "upper lung zone;mid lung zone;lower lung zone;lung apex;lung base;hilum;perihilar region;pleura;costophrenic angle;"
    "hemidiaphragm;chest wall;clavicle;shoulder;scapula;axilla;breast;upper lobe;lower lobe;cardiophrenic angle;"
    "pulmonary artery".split(";")
)
_DEGREES = tuple("subtle;faint;old;new;bandlike;rounded;patchy".split(";"))
_THINGS = tuple(
    "pleural effusion;pneumothorax;consolidation;lung opacity;atelectasis;pulmonary edema;nodule;mass;pleural thickening;"
    "scarring;granuloma;fracture;calcification;catheter;drain;pacemaker lead;surgical clip;endotracheal tube;"
    "nasogastric tube;infiltrate;fibrosis;emphysema;lymphadenopathy;cardiomegaly;hernia;congestion;airway thickening;"
    "osteopenia;scoliosis;aortic calcification;widening;tracheal deviation;volume loss".split(";")
)

REGION_NAMES = tuple(f"{side} {degree} {place}".replace("  ", " ") for side, place, degree in product(
    _SIDES, _PLACES, ("", "anterior", "posterior", "medial", "lateral", "superior", "inferior")
))  # fmt: skip
ENTITIES = tuple(f"{degree} {thing}" for degree, thing in product(_DEGREES, _THINGS))
VOCABULARY = Vocabulary(ENTITIES, REGION_NAMES)
"""231 entities and 280 regions: the data set has about as many."""

_FRAMES = ("{ask} {thing} in the {place}?", "{ask} {thing} near the {place}, if you can see that?",
           "On this film, {ask_small} {thing} of the {place}?")  # fmt: skip
_ASK = {
    "is": "Is there",
    "has": "Does the film show",
    "describe": "Describe the",
    "where": "Where is the",
    "how": "How severe is the",
}


@dataclass(frozen=True)
class Texts:
    """Distinct texts, those of a type side by side, the most frequent one first."""

    first: np.ndarray
    """(27,) code of the first text of each type"""
    count: np.ndarray
    """(27,) texts of each type"""

    def __len__(self) -> int:
        return int(self.count.sum())

    def draw(self, types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A text code for each of `types` (n,): within a type the n-th text is asked about 1/n times as often as the first."""
        rank = (self.count[types] + 1.0) ** rng.random(len(types))
        return self.first[types] + np.minimum(rank.astype(np.int64), self.count[types]) - 1

    def strings(self) -> list[str]:
        """All texts, by code."""
        asked = [(kind, count) for kind, count in zip(QUESTION_TYPES, self.count.tolist(), strict=True) if count]
        return [text for kind, count in asked for text in _of_type(kind, count)]


def plan_texts(questions: int) -> Texts:
    """As many texts as so many questions have."""
    total = int(np.clip(questions // REPEATS, FEWEST, MOST))
    shares = np.array([_SUBJECTS[t.strategy] if t.head else 0 for t in QUESTION_TYPES], dtype=np.float64)
    count = np.ceil(total * shares / shares.sum()).astype(np.int64)
    return Texts(np.cumsum(count) - count, count)


def _of_type(kind: QuestionType, count: int) -> list[str]:
    """`count` different texts of a question type."""
    word, *topic = kind.bare_name.split("_")
    ask, about = _ASK[word], " ".join([*topic, *kind.strategy.split("_")[:1]])  # two types have one bare name
    texts = []
    for number in range(count):
        rest, thing = divmod(number, len(ENTITIES))
        turn, place = divmod(rest + thing, len(REGION_NAMES))
        text = _FRAMES[number % len(_FRAMES)].format(
            ask=ask, ask_small=ask[0].lower() + ask[1:], thing=ENTITIES[thing], place=REGION_NAMES[place]
        )
        texts.append(f"{text[:-1]} ({about}{f', {turn}' if turn else ''})?")
    return texts
