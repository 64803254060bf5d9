"""Which names of the vocabulary a question's text mentions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from data.label_space import REGIONS
from data.vocabulary import Vocabulary

_GAP = r"[\s_-]+"
_PLURALS = (("", ""), ("s", ""), ("es", ""), ("ies", "y"))
"""Endings of a plural, and of its singular"""


class Mentions:
    """Finds names in texts: the longest at each place, whole words, in singular or plural, whatever the case."""

    def __init__(self, names: Iterable[str]):
        self._names = {_words(name): name.lower() for name in names if _words(name)}
        by_length = sorted(self._names, key=lambda words: (-len(words), words))
        pattern = "|".join(map(_pattern, by_length))
        self._pattern = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)") if by_length else None

    @staticmethod
    def of(vocabulary: Vocabulary) -> Mentions:
        """Names of entities and regions."""
        return Mentions([*vocabulary.entities, *vocabulary.regions, *REGIONS])

    def in_text(self, text: str) -> frozenset[str]:
        """The names, in lower case."""
        found = self._pattern.findall(text.lower()) if self._pattern else ()
        return frozenset(self._names[self._singular(_words(words))] for words in found)

    def _singular(self, found: str) -> str:
        """The name's words, of which the last may stand in plural."""
        ones = (found.removesuffix(plural) + singular for plural, singular in _PLURALS if found.endswith(plural))
        return next(one for one in ones if one in self._names)


def _words(name: str) -> str:
    """Lower case, a space between words."""
    return re.sub(_GAP, " ", name.lower()).strip()


def _pattern(words: str) -> str:
    """Of the words in singular or plural, with whatever separates them."""
    ending = "(?:ies|ys?)" if words.endswith("y") else re.escape(words[-1]) + "(?:e?s)?"
    return _GAP.join(map(re.escape, words[:-1].split(" "))) + ending
