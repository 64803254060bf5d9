"""Entity and region names of a release, and their ids. Sizes come from the release's `dataset_info.json`, never from code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from data.label_space import REGIONS

PADDING, UNKNOWN = 0, 1
RESERVED = 2
"""Ids below this are no names."""


@dataclass(frozen=True)
class Vocabulary:
    """Names in the release's order; id = position + 2 (0 pads, 1 is unknown)."""

    entities: tuple[str, ...]
    regions: tuple[str, ...]

    @property
    def num_entities(self) -> int:
        """E: rows of the entity embedding, with padding and unknown."""
        return RESERVED + len(self.entities)

    @property
    def num_regions(self) -> int:
        """Rows of the region embedding: padding, unknown, the release's names, then the 26 canonical regions."""
        return RESERVED + len(self.regions) + len(REGIONS)

    @cached_property
    def entity_index(self) -> dict[str, int]:
        return {name: i + RESERVED for i, name in enumerate(self.entities)}

    def as_json(self) -> dict:
        return {"entities": list(self.entities), "regions": list(self.regions)}

    @staticmethod
    def from_json(stored: dict) -> Vocabulary:
        return Vocabulary(tuple(stored["entities"]), tuple(stored["regions"]))

    def checksum(self) -> str:
        """SHA-256 of the names and their order, hex."""
        return hashlib.sha256(json.dumps(self.as_json()).encode()).hexdigest()
