"""Which names of the vocabulary a question's text mentions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from data.label_space import REGIONS
from data.vocabulary import Vocabulary


class Mentions:
    """Finds names in texts: the longest at each place, whole words, in singular or plural, whatever the case."""

    def __init__(self, names: Iterable[str]):
        by_length = sorted({name.lower() for name in names if name.strip()}, key=lambda name: (-len(name), name))
        pattern = "|".join(re.escape(name).replace(r"\ ", r"[\s_-]+") for name in by_length)
        self._pattern = re.compile(rf"(?<!\w)({pattern})(?:e?s)?(?!\w)", re.IGNORECASE) if by_length else None

    @staticmethod
    def of(vocabulary: Vocabulary) -> Mentions:
        """Names of entities and regions."""
        return Mentions([*vocabulary.entities, *vocabulary.regions, *REGIONS])

    def in_text(self, text: str) -> frozenset[str]:
        """Lower-case names."""
        found = self._pattern.findall(text) if self._pattern else ()
        return frozenset(re.sub(r"[\s_-]+", " ", name.lower()) for name in found)
