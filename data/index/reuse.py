"""What each study of an index was made of, so that the index of a grown release copies what is the same and reads the rest.

`sources.arrow` has one row for each study of the release with questions, also for those without rows in the index:
`study_id`, `key` (a hash of its inputs), `row` (in `studies`, `NO_ROW` for none) and `notes` (what is counted of it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.checksums import sampled
from data.index.origin import CACHE
from data.index.quarantine import bad_samples
from data.index.store import META, Index, open_index
from data.release import Release
from data.vocabulary import Vocabulary
from utils.errors import DataError

if TYPE_CHECKING:
    from data.index.part import StudyJob

NO_ROW = 2**32 - 1
SOURCE_COLUMNS = {"study_id": np.int64, "key": np.uint64, "row": np.uint32}
FORM = ("format", "image_store", "image_store_size", "label_space")
"""Of an identity: what must be the same for rows to be copied. `view_filter` shows in the images of a study."""


def input_key(release: Release, job: StudyJob) -> int:
    """A 64-bit hash of all that decides a study's rows: its rows in the tables, its JSON files, its image files.

    Files by size and the CRC-32 of both ends, members of archives by size and CRC-32.
    """
    images = [(i.image_id, i.view, i.width, i.height, i.path, sampled(i.path)) for i in job.images]
    labels = [float(value) for value in job.chexpert]
    json_files = release.study_state(job.subject_id, job.study_id)
    inputs = job.subject_id, job.study_id, job.split, job.reason, labels, images, sorted(job.others), json_files
    return int.from_bytes(hashlib.blake2b(repr(inputs).encode(), digest_size=8).digest(), "little")


class Earlier:
    """An index whose studies can be looked up by what they were made of. Travels to worker processes."""

    def __init__(self, index: Index):
        self.index = index

    def __getstate__(self) -> dict:
        return {"index": self.index}

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.index.sources["study_id"], kind="stable")

    @cached_property
    def _studies(self) -> np.ndarray:
        return self.index.sources["study_id"][self._order]

    def place(self, study_id: int) -> int | None:
        """The study's row in the table of sources."""
        at = int(np.searchsorted(self._studies, study_id))
        return int(self._order[at]) if at < len(self._studies) and self._studies[at] == study_id else None

    def is_same(self, place: int, key: int) -> bool:
        return int(self.index.sources["key"][place]) == key

    def usable(self, study_id: int, key: int) -> int | None:
        """The study's row in the table of sources, if it was made of the same and nothing of it was bad.

        What was bad is read again: a disk that failed once, or a permission, shows in no key.
        """
        place = self.place(study_id)
        if place is None or not self.is_same(place, key) or bad_samples(self.notes(place)[2]):
            return None
        return place

    def row(self, place: int) -> int:
        """The study's row in `studies`, or `NO_ROW`."""
        return int(self.index.sources["row"][place])

    def notes(self, place: int) -> tuple[list, list, list]:
        """[question type, fate, number] of questions without target; [kind, value, number] of unknown names; problems."""
        counts, names, problems = json.loads(self.index.source_notes(place))
        return counts, names, problems

    def has(self, study_ids: Iterable[int]) -> int:
        """How many of these studies it has."""
        return int(np.isin(self._studies, np.fromiter(study_ids, np.int64)).sum())

    def __len__(self) -> int:
        return len(self._studies)


def find_earlier(path: Path, identity: dict, vocabulary: Vocabulary, jobs: list) -> Earlier | None:
    """The index that has most of the studies: of those in `path` and in the cache, of the same form; None: there is none.

    Of several with as many the newest.
    """
    found = []
    for place in {path, *(place.parent for place in CACHE.glob(f"*/{META}"))}:
        earlier = open_earlier(place)
        if earlier is None or not _same_form(earlier.index, identity, vocabulary):
            continue
        if known := earlier.has(job.study_id for job in jobs):
            found.append((known, (place / META).stat().st_mtime_ns, str(place), earlier))
    return max(found, key=lambda candidate: candidate[:3])[-1] if found else None


def open_earlier(path: Path) -> Earlier | None:
    """The index in `path`; None when there is none that can be read, or one that does not say what it was made of."""
    try:
        earlier = Earlier(open_index(path))
        return earlier if len(earlier) else None
    except DataError:
        return None


def _same_form(index: Index, identity: dict, vocabulary: Vocabulary) -> bool:
    own = index.meta.get("identity", {})
    return all(own.get(name) == identity[name] for name in FORM) and index.meta["vocabulary"] == vocabulary.as_json()


def copy_rows(earlier: Earlier, place: int, part, pixels) -> None:
    """Append the rows and images of an unchanged study to a part (`PartWriter`) as reading it would."""
    index, row = earlier.index, earlier.row(place)
    study = part.size("studies")
    own = {name: values[row] for name, values in index.studies.items()}
    part.chexpert.append(own.pop("chexpert"))
    questions, images = _slice(own, "question"), _slice(own, "image")
    part.add("studies", **own | {"question_start": part.size("questions"), "image_start": part.size("images")})
    _copy_questions(index, questions, study, part)
    rows = np.arange(images.start, images.stop)
    part.image_ids += index.image_ids(rows)
    part.views += index.views(rows)
    for image in rows.tolist():
        _copy_image(index, image, study, part, pixels)


def _copy_questions(index: Index, rows: slice, study: int, part) -> None:
    columns = {name: values[rows] for name, values in index.questions.items()}
    texts, keys = index.texts(columns.pop("text")), index.question_keys(columns.pop("question_id"))
    columns["study"] = np.full(len(texts), study)
    for name, values in columns.items():
        part.columns["questions"][name].extend(values.tolist())
    part.columns["questions"]["text"].extend(part.texts.setdefault(t, len(part.texts)) for t in texts)
    part.columns["questions"]["question_id"].extend(
        part.question_ids.setdefault(k, len(part.question_ids)) for k in keys
    )


def _copy_image(index: Index, image: int, study: int, part, pixels) -> None:
    own = {name: values[image] for name, values in index.images.items() if name not in ("image_id", "view")}
    boxes, findings = _slice(own, "box"), _slice(own, "finding")
    stored = index.pixels.stored(image)
    starts = {"box_start": part.size("boxes"), "finding_start": part.size("findings"), "offset": part.offset}
    part.add("images", **own | starts | {"study": study})
    for name, values in index.findings.items():
        part.columns["findings"][name].extend(values[findings].tolist())
    part.columns["boxes"]["region"].extend(index.boxes["region"][boxes].tolist())
    part.boxes.append(index.boxes["box"][boxes])
    pixels.write(stored)
    part.offset += len(stored)


def _slice(row: dict, what: str) -> slice:
    """Of the rows that `<what>_start` and `<what>_count` name."""
    start = int(row[f"{what}_start"])
    return slice(start, start + int(row[f"{what}_count"]))


def changed_studies(earlier: Earlier, release: Release, jobs: list, mended: Container[int] = ()) -> int:
    """How many studies are new, gone, made of other files than in this index, or in `mended` (study ids)."""
    known = same = 0
    for job in jobs:
        place = earlier.place(job.study_id)
        if place is not None:
            known += 1
            same += job.study_id not in mended and earlier.is_same(place, input_key(release, job))
    return len(jobs) - same + len(earlier) - known
