"""What a free-text question is about, by its words: what no answer head can say, and the names of findings and regions.

Rules of a few words each, so that a refusal can be explained and mended in one place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data.label_space import CHEXPERT, REGIONS
from data.mentions import Mentions
from data.names import entity_classes, is_known_entity, region_set
from data.rows import nearest
from data.vocabulary import Vocabulary

LONGEST_NAME = 5
"""words"""
LONGEST_TEXT = 2000
"""Letters of a question that are read: no model reads more, and the time of the rules grows with the square of it"""
LEAST_LETTERS = 7
"""Of a name of one word that may have been misspelt"""
LIKENESS = 0.8
"""Of a word and the name that it may be meant to be, as `difflib` measures it"""

_FILM = r"(?:film|image|picture|x-?ray|xray|cxr|radiograph|study|scan|exam(?:ination)?)"

UNANSWERABLE: dict[str, tuple[str, str]] = {
    "comparison": (
        rf"previous|prior|compar\w+|earlier|yesterday|last (?:week|month|year|{_FILM})|since|over time|over the last"
        r"|chang(?:e|es|ed|ing)|progress\w*|worse\w*|improv\w*|resolv\w+|stable|unchanged|new|newly|follow-?up|interval"
        r"|better than|(?:has|have|had|did)\b.*\b(?:increased?|decreased?|grown|grow|moved?|developed)",
        "asks about change over time, and the model sees one film",
    ),
    "patient": (
        r"how old|age|aged|years old|gender|sex|male|female|man|woman|boy|girl|race|ethnic\w*|smok\w+|pregnan\w+|histor\w+"
        r"|symptoms?|complain\w*|cough\w*|fever|allerg\w+|occupation|insurance|born|birth\w*|weigh\w*|blood pressure"
        r"|patient(?:'s)? name|who is|famil\w+",
        "asks about the patient, and the model knows the film alone",
    ),
    "treatment": (
        r"treat\w*|therap\w+|medicat\w+|medicines?|drugs?|dos(?:e|es|age)|antibiotics?|surgery|operat(?:e|ed|ion)"
        r"|manag(?:e|ed|ement)|prescri\w+|recommend\w*|next steps?|discharged?|admit\w*|refer\w*|biops\w+|call a"
        r"|should (?:i|we|he|she|they|the|this)|needs? (?:a|an|to)|be (?:removed|replaced|drained|repositioned|advanced)",
        "asks what to do, which the model must not and cannot say",
    ),
    "outlook": (
        r"prognos\w+|surviv\w+|die|death|mortality|life expectancy|outcomes?|risks?|curable|contagious|will|how long|going to",
        "asks about the future, and the model sees what is there",
    ),
    "cause": (r"why|caus\w+|due to|a?etiolog\w+|reasons?|explain\w*|because", "asks for a cause or an explanation"),
    "acquisition": (
        rf"projection|(?:ap|pa|lateral|frontal|portable|axial|coronal|sagittal|anterior[ -]posterior|posterior[ -]anterior)"
        rf" (?:or|views?|format|position|plane|{_FILM})|or (?:ap|pa)|modalit(?:y|ies)|technique|planes?"
        rf"|{_FILM} (?:best )?(?:taken|acquired|made)|orient\w+|(?:expir|inspir)\w+|is (?:this|it) an? (?:(?:plain|chest) )*{_FILM}"
        r"|contrast|exposure|kvp?|voltage|slice|ct|mri?|ultrasound|when was|date|hospital|which view|what view"
        rf"|(?:kind|type|sort) of (?:\w+ )?{_FILM}|rotated|who (?:took|made|read|wrote)|resolution",
        "asks how the film was taken, for which there is no answer class",
    ),
    "number": (
        r"how many|number of|count|more than (?:\d+|one|two)|at least (?:\d+|two|three)|how (?:long|wide|far|thick|tall|deep)"
        r"|(?:in |\d ?)?(?:cm|mm|millimet\w+|centimet\w+)|diameter|measure\w*|ratio|distance|percent\w*"
        r"|probability|how (?:likely|sure|certain|confident)|how much",
        "asks for a number, for which there is no answer class",
    ),
    "other body part": (
        r"brain|skull|head|knee|hip|pelvi[sc]|femur|tibia|wrist|hand|fingers?|foot|feet|ankle|leg|teeth|tooth|eyes?|bladder"
        r"|uterus|prostate|appendix",
        "is about a part of the body that no chest film shows",
    ),
}
"""Kind -> words that give it away, and what is said to whoever asks"""
_UNANSWERABLE = {
    kind: re.compile(rf"(?<![\w-])(?:{words})(?!\w)", re.IGNORECASE) for kind, (words, _) in UNANSWERABLE.items()
}

_GENERAL = re.compile(
    r"\b(?:(?:ab|un)?normal\w*|abnormalit\w+|findings?|patholog\w+|diseases?|diseased|lesions?|devices?|hardware|implants?"
    r"|tubes?|lines?|artifacts?|artefacts?|healthy|unremarkable|remarkable|suspicious|unusual|wrong|problems?|diagnos[ei]s"
    r"|opacit\w+|clear|observations?|foreign (?:body|object)s?|what (?:do|can) (?:you|we|i) see"
    rf"|(?:describe|read|interpret|report|summari[sz]e)\b.*\b(?:{_FILM}|chest)|what does (?:the|this) (?:chest )?{_FILM} show"
    rf"|what (?:is|can be) (?:seen|shown|visible)|chest {_FILM} (?:okay|ok|fine|good))\b",
    re.IGNORECASE,
)
"""Asks about the whole film, or about findings and devices in general"""


@dataclass(frozen=True)
class About:
    """What a question's words say."""

    unanswerable: str
    """Kind of `UNANSWERABLE`, or empty"""
    known: tuple[str, ...]
    """Names that the model's vocabulary or the tables of classes and regions have, and general words"""
    foreign: tuple[str, ...]
    """Names of findings that are neither in the model's vocabulary nor of one of the 14 classes"""
    findings: bool
    """A known name is one of a finding or device"""
    hint: str = ""
    """A known name that a word may be meant to be, where none is known"""

    @property
    def reason(self) -> str:
        """Why a model should not answer, or empty."""
        if self.unanswerable:
            return UNANSWERABLE[self.unanswerable][1]
        if self.foreign and not self.findings:
            return f"is about {' and '.join(self.foreign)}, which this model was not trained on"
        if not self.known:
            hint = f" (is `{self.hint}` meant?)" if self.hint else ""
            return f"names no finding, device or region that the model knows{hint}"
        return ""


class QuestionWords:
    """Reads questions for a model with this vocabulary."""

    def __init__(self, vocabulary: Vocabulary):
        self._entities = Mentions(vocabulary.entities)
        self._regions = Mentions([*vocabulary.regions, *REGIONS])
        names = {name.lower() for name in (*vocabulary.entities, *REGIONS, *CHEXPERT)}
        names |= {name.removeprefix("right ") for name in names}
        self._single = sorted(name for name in names if " " not in name and len(name) >= LEAST_LETTERS)

    def about(self, text: str) -> About:
        """What a question is about. Unanswerable kinds are looked for outside the names in it (`hip prosthesis`)."""
        text = " ".join(text.split())[:LONGEST_TEXT]
        entities, regions = sorted(self._entities.in_text(text)), sorted(self._regions.in_text(text))
        classes, foreign = [], []
        for name in _names(text):
            if entity_classes(name):
                classes.append(name)
            elif is_known_entity(name):
                if name not in entities:
                    foreign.append(name)
            elif region_set(name) is not None:
                regions.append(name)
        general = [found.lower() for found in _GENERAL.findall(text)]
        rest = text
        for name in sorted((*entities, *classes), key=len, reverse=True):
            rest = re.sub(rf"\b{re.escape(name)}\b", " ", rest, flags=re.IGNORECASE)
        kind = next((kind for kind, pattern in _UNANSWERABLE.items() if pattern.search(rest)), "")
        known = tuple(dict.fromkeys([*entities, *classes, *regions, *general]))
        hint = "" if known else self._hint(text)
        return About(kind, known, tuple(dict.fromkeys(foreign)), bool(entities or classes or general), hint)

    def _hint(self, text: str) -> str:
        """The name that a long word is nearly one of."""
        words = (word for word in re.findall(r"[a-z]+", text.lower()) if len(word) >= LEAST_LETTERS)
        return next((near for word in words if (near := nearest(word, self._single, LIKENESS)) not in (None, word)), "")


def _names(text: str) -> list[str]:
    """Runs of words that the tables of classes, findings and regions know, longest first, none inside another."""
    found = []
    for piece in re.split(r"[,;.?!:()]", text.lower()):
        words, place = re.findall(r"[\w'-]+", piece), 0
        while place < len(words):
            for length in range(min(LONGEST_NAME, len(words) - place), 0, -1):
                name = " ".join(words[place : place + length])
                if is_known_entity(name) or region_set(name) is not None:
                    found.append(name)
                    place += length
                    break
            else:
                place += 1
    return found
