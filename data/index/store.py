"""Opening an index: instant at any size, nothing is read before it is used."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from data import label_space
from data.images import ImageStore
from data.vocabulary import Vocabulary
from utils.errors import DataError
from utils.privacy import is_credentialed
from utils.utils import write_json

FORMAT = 3
"""Raised when tables change their meaning; an index of another format is built again."""

SPLITS: tuple[str, ...] = ("train", "validate", "test")
META = "index.json"
PROBLEMS = "problems.jsonl"
SOURCES = "sources"
"""Table of what each study was made of, beside the others: it depends on where and when files were written. Only an index that
was built from a release has it."""

COLUMNS: dict[str, dict[str, type]] = {
    "questions": {
        "study": np.uint32,
        "text": np.uint32,
        "type": np.uint8,
        "head": np.uint8,
        "target": np.uint32,
        "grade": np.uint8,
        "question_id": np.uint32,
        "regions": np.uint32,
        "from_report": np.uint8,
    },
    "studies": {
        "subject_id": np.int64,
        "study_id": np.int64,
        "split": np.uint8,
        "question_start": np.uint32,
        "question_count": np.uint32,
        "image_start": np.uint32,
        "image_count": np.uint16,
    },
    "images": {
        "study": np.uint32,
        "width": np.uint32,
        "height": np.uint32,
        "stored_width": np.uint32,
        "stored_height": np.uint32,
        "offset": np.uint64,
        "length": np.uint32,
        "box_start": np.uint64,
        "box_count": np.uint16,
        "finding_start": np.uint64,
        "finding_count": np.uint16,
    },
    "boxes": {"region": np.uint8},
    "findings": {"regions": np.uint32, "entity": np.uint16, "kind": np.uint8, "from_report": np.uint8},
}
"""Numeric columns; beside them `studies.chexpert` (n, 14) and `boxes.box` (n, 4) float32, and the string columns."""


class Index:
    """An opened index. Columns are numpy views on the memory-mapped tables, named by table.

    questions: study, text, type, head, target, grade, question_id, regions, from_report (codes or numbers; one row a question
      that has a target). Rows are grouped by study, studies by split. `target`: 0/1 for binary, 0..3 for severity, else a bit
      mask of classes. `regions`: bit mask of the regions that the answer speaks of; `from_report`: 0, all of it is a template's.
    studies: subject_id, study_id, split (0 train, 1 validate, 2 test), question_start, question_count, image_start, image_count,
      chexpert (n, 14: 1, 0, -1 or nan).
    images: study, view, width, height (original pixels), stored_width, stored_height, offset, length, box_start, box_count,
      finding_start, finding_count. A study's first image is the canonical one: PA before AP before other views, then the larger,
      then the lower id.
    boxes: region, box (n, 4: x1 y1 x2 y2 in [0, 1] of the original). findings: regions (bit mask), entity, kind, from_report.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            self.meta: dict = json.loads((self.path / META).read_text())
        except FileNotFoundError as error:
            raise DataError(f"no index in {path} ({META} is missing); make one with setup_data.py") from error
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"index {path}: {META} cannot be read ({error}); delete the folder and build it again"
            ) from error
        if self.meta.get("format") != FORMAT:
            raise DataError(
                f"index {path} has format {self.meta.get('format')}, not {FORMAT}; delete it and build it again"
            )
        if self.meta["label_space"] != label_space.checksum():
            raise DataError(f"index {path} was built with other classes; delete it and build it again")

    def __getstate__(self) -> dict:
        return {"path": self.path, "meta": self.meta}  # workers map the files themselves

    @cached_property
    def questions(self) -> dict[str, np.ndarray]:
        return self._columns("questions")

    @cached_property
    def studies(self) -> dict[str, np.ndarray]:
        return self._columns("studies")

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        return self._columns("images")

    @cached_property
    def boxes(self) -> dict[str, np.ndarray]:
        return self._columns("boxes")

    @cached_property
    def findings(self) -> dict[str, np.ndarray]:
        return self._columns("findings")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_json(self.meta["vocabulary"])

    @cached_property
    def pixels(self) -> ImageStore:
        images = self.images
        where = (images[column] for column in ("offset", "length", "stored_width", "stored_height"))
        return ImageStore(self.path / "images", self.meta["image_store"], *where)

    @property
    def fingerprint(self) -> str:
        """Identity of release and settings, 16 hex digits."""
        return self.meta["fingerprint"]

    @property
    def is_synthetic(self) -> bool:
        return self.meta["synthetic"]

    def mark_credentialed(self) -> None:
        """What is kept in the index from now on is of credentialed lineage, whatever its questions are."""
        self.meta["credentialed"] = True
        with suppress(OSError):  # where nothing can be written, nothing is kept either
            write_json(self.path / META, self.meta)

    @property
    def is_credentialed(self) -> bool:
        """Made from credentialed data, or for a model that was; an index that does not say so is taken for one."""
        return is_credentialed(self.meta.get("credentialed"))

    def text(self, code: int) -> str:
        """The question string with this code."""
        return self._strings("texts")[int(code)].as_py()

    @property
    def num_texts(self) -> int:
        return len(self._strings("texts"))

    def texts(self, codes: np.ndarray) -> list[str]:
        return self._strings("texts").take(_as_arrow(codes)).to_pylist()

    def question_key(self, code: int) -> str:
        """The release's `question_id` with this code; it repeats in every study."""
        return self._strings("question_ids")[int(code)].as_py()

    def question_keys(self, codes: np.ndarray) -> list[str]:
        return self._strings("question_ids").take(_as_arrow(codes)).to_pylist()

    def image_id(self, row: int) -> str:
        """The `dicom_id` of an image row."""
        return self._table("images")["image_id"][int(row)].as_py()

    def image_ids(self, rows: np.ndarray) -> list[str]:
        return self._table("images")["image_id"].take(_as_arrow(rows)).to_pylist()

    def views(self, rows: np.ndarray) -> list[str]:
        """`ViewPosition` of image rows as the release has it: `PA`, `AP`, ...; empty where it does not say."""
        return self._table("images")["view"].take(_as_arrow(rows)).to_pylist()

    def counts(self, split: str) -> dict[str, int]:
        """Every question of a split by its fate: `target`, or the reason why it has none."""
        fates: dict[str, int] = {}
        for by_fate in self.meta["counts"].get(split, {}).values():
            for fate, n in by_fate.items():
                fates[fate] = fates.get(fate, 0) + n
        return fates

    @property
    def planned(self) -> dict[str, int]:
        """The `image` and `study` files that there should have been when it was built, read or not."""
        if "planned" in self.meta:
            return self.meta["planned"]
        return {"image": len(self.images["study"]), "study": len(self.studies["split"])}  # of an earlier version

    def problems(self) -> list[dict]:
        """Each study or image that could not be used as it is: `kind`, `message`, and what names it."""
        path = self.path / PROBLEMS
        try:
            return [json.loads(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); delete the index and build it again") from error

    @cached_property
    def sources(self) -> dict[str, np.ndarray]:
        """What each study of the release was made of, see `data.index.reuse`; empty in an index that does not say."""
        if not table_path(self.path, SOURCES).exists():
            return {"study_id": np.empty(0, np.int64)}
        return self._columns(SOURCES)

    def source_notes(self, row: int) -> str:
        """JSON of what is counted of the study in this row of `sources`."""
        return self._table(SOURCES)["notes"][row].as_py()

    def _table(self, name: str) -> pa.Table:
        cache = self.__dict__.setdefault("_tables", {})
        if name not in cache:
            path = table_path(self.path, name)
            try:
                cache[name] = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(
                    f"index table {path} cannot be read ({error}); delete the index and build it again"
                ) from error
        return cache[name]

    def _columns(self, name: str) -> dict[str, np.ndarray]:
        return {
            column: _as_numpy(data) for column, data in zip(self._table(name).column_names, self._table(name).columns)
        }

    def _strings(self, name: str) -> pa.ChunkedArray:
        return self._table(name)["value"]


def _as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return _as_numpy(pa.chunked_array([array.flatten()])).reshape(-1, array.type.list_size)
    if pa.types.is_string(array.type):
        return np.empty(0, dtype=object)  # strings are read through `_strings` and `image_ids`
    if pa.types.is_boolean(array.type):
        return array.to_numpy(zero_copy_only=False)
    # not `to_numpy`, which imports pandas: a third of a second at every start
    dtype = np.dtype(array.type.to_pandas_dtype())
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _as_arrow(numbers: np.ndarray) -> pa.Array:
    """Of whole numbers; not `pa.array`, for the same reason."""
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def table_path(index: Path, name: str) -> Path:
    return (index if name == SOURCES else index / "tables") / f"{name}.arrow"


def write_table(path: Path, columns: dict[str, np.ndarray | list[str]]) -> None:
    """One Arrow IPC file with one record batch, so that each column is one contiguous memory-mapped array."""
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        else:
            arrays[name] = pa.array(values, type=pa.string()) if isinstance(values, list) else pa.array(values)
    table = pa.table(arrays).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def require_free(path: Path) -> None:
    """DataError where a new index would take the place of something else."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists and is no index; name another folder with --set data.index_dir=...")


def open_index(path: Path | str) -> Index:
    """Open an index.

    Raises:
        DataError: it is missing, unreadable, or of another format or label space.
    """
    return Index(Path(path))
