"""The tables of both releases as data frames, and the vocabularies. Every error names the file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from data.label_space import CHEXPERT
from data.release.locate import QbaFolder
from utils.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow

SPLITS = {
    "train": "train",
    "validate": "validate",
    "val": "validate",
    "valid": "validate",
    "validation": "validate",
    "test": "test",
}
"""Spelling in a table -> name used here."""

_ID_LIMIT = 10**8
"""Subject and study ids have eight digits."""


class Odd(NamedTuple):
    """Something that a file has and that could not be used as it is."""

    kind: str
    path: Path
    count: int
    example: str = ""
    """id of an image or a study"""
    reason: str = ""

    @staticmethod
    def all_of(path: Path, kinds: dict[str, Sequence]) -> list[Odd]:
        """Of kind -> ids of images or studies; nothing of kinds without any."""
        return [Odd(kind, path, len(ids), str(next(iter(ids[:1])))) for kind, ids in kinds.items() if len(ids)]


def open_table(path: Path) -> BinaryIO:
    """The uncompressed bytes of a table. Looks at its first bytes: browsers unpack `.gz` files and keep the name."""
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if gzipped else open(path, "rb")


def read_table(path: Path, required: list[str], optional: tuple[str, ...] = ()) -> pandas.DataFrame:
    """The named columns of a CSV as text ('' where blank); DataError when one of `required` is missing."""
    import pandas as pd

    wanted = {*required, *optional}
    try:
        with open_table(path) as file:
            frame = pd.read_csv(
                file,
                usecols=lambda name: name.strip() in wanted,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
            )
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}): download it again") from error
    frame.columns = [name.strip() for name in frame.columns]
    if missing := [name for name in required if name not in frame.columns]:
        raise DataError(f"{path} has no column {', '.join(missing)}: download it again")
    if frame.empty:
        raise DataError(f"{path} has no rows: download it again")
    return frame


def ids(frame: pandas.DataFrame, column: str, path: Path) -> pandas.Series:
    """A column of ids as int64, with or without the `p`/`s` in front; DataError when one is not a number."""
    import pandas as pd

    text = frame[column].str.strip().str.lstrip("ps")
    numbers = pd.to_numeric(text, errors="coerce")
    bad = numbers.isna() | (numbers < 0) | (numbers >= _ID_LIMIT) | (numbers % 1 != 0)
    if bad.any():
        row = int(bad.to_numpy().argmax()) + 2  # the header is line 1
        raise DataError(
            f"{path}: {int(bad.sum()):,} values of {column} are not ids, the first in line {row}: download it again"
        )
    return numbers.astype("int64")


def read_images(metadata_path: Path, split_path: Path, image_prefix: str) -> tuple[pandas.DataFrame, list[Odd]]:
    """The images of the JPG release, sorted by subject, study and id, and what had to be left out.

    Columns: dicom_id str, subject_id int64, study_id int64, view str ('' if blank), rows int32, columns int32 (0 if
    unknown), split str, path str (relative to the root). DataError when a patient is in two splits.
    """
    import pandas as pd

    meta = read_table(metadata_path, ["dicom_id", "subject_id", "study_id", "ViewPosition"], ("Rows", "Columns"))
    images = pd.DataFrame(
        {
            "dicom_id": meta["dicom_id"].str.strip(),
            "subject_id": ids(meta, "subject_id", metadata_path),
            "study_id": ids(meta, "study_id", metadata_path),
            "view": meta["ViewPosition"].str.strip().str.upper(),
            "rows": _sizes(meta, "Rows"),
            "columns": _sizes(meta, "Columns"),
        }
    )
    repeated = images["dicom_id"].duplicated()
    odd = Odd.all_of(metadata_path, {"duplicate_images": images["dicom_id"][repeated]})
    images = images[~repeated]
    splits, odd_splits = read_splits(split_path)
    images = images.assign(split=images["dicom_id"].map(splits))
    lost = {
        "images_without_split": images["dicom_id"][images["split"].isna()],
        "split_rows_without_metadata": splits.index.difference(images["dicom_id"]),
    }
    odd += odd_splits + Odd.all_of(split_path, lost)
    images = images[images["split"].notna()].sort_values(["subject_id", "study_id", "dicom_id"], ignore_index=True)
    if images.empty:
        raise DataError(f"no image of {metadata_path} is in {split_path}: the two files belong to different releases")
    _require_one_owner(images, "subject_id", "split", f"patients are in more than one split in {split_path}")
    _require_one_owner(images, "study_id", "subject_id", f"studies belong to more than one patient in {metadata_path}")
    subject, study = images["subject_id"].astype(str).str.zfill(8), images["study_id"].astype(str).str.zfill(8)
    folder = image_prefix + "p" + subject.str[:2] + "/p" + subject + "/s" + study + "/"
    images["path"] = folder + images["dicom_id"] + ".jpg"
    return images, odd


def read_splits(path: Path) -> tuple[pandas.Series, list[Odd]]:
    """dicom_id -> train, validate or test, by the official table; and the rows with another word, which are left out."""
    import pandas as pd

    table = read_table(path, ["dicom_id", "subject_id", "split"])
    split = table["split"].str.strip().str.lower().map(SPLITS)
    odd = Odd.all_of(path, {"split_unknown": table["dicom_id"][split.isna()]})
    table = pd.DataFrame({"dicom_id": table["dicom_id"].str.strip(), "subject_id": table["subject_id"], "split": split})
    table = table[split.notna()]
    _require_one_owner(table, "subject_id", "split", f"patients are in more than one split in {path}")
    _require_one_owner(table, "dicom_id", "split", f"images are in more than one split in {path}")
    return table.drop_duplicates("dicom_id").set_index("dicom_id")["split"], odd


def _require_one_owner(frame: pandas.DataFrame, item: str, owner: str, complaint: str) -> None:
    pairs = frame[[item, owner]].drop_duplicates()
    if count := int((pairs[item].value_counts() > 1).sum()):
        raise DataError(f"{count:,} {complaint}: patients are never shared between splits; download the table again")


def _sizes(frame: pandas.DataFrame, column: str) -> pandas.Series | int:
    import pandas as pd

    if column not in frame.columns:
        return 0
    sizes = pd.to_numeric(frame[column], errors="coerce").fillna(0)
    return sizes.where(sizes.between(1, 2**31 - 1), 0).astype("int32")


def read_labels(path: Path, rename: dict[str, str] | None = None) -> tuple[pandas.DataFrame, list[Odd]]:
    """A table of the 14 labels: index study_id, float32 columns in the order of `CHEXPERT`, and what is odd in it.

    Values: 1 present, 0 absent, -1 uncertain, NaN not mentioned. Anything else is counted and NaN.
    """
    import pandas as pd

    backward = {new: old for old, new in (rename or {}).items()}
    columns = [backward.get(name, name) for name in CHEXPERT]
    table = read_table(path, ["study_id", *columns])
    studies = ids(table, "study_id", path)
    labels, unknown = {}, []
    for name, column in zip(CHEXPERT, columns, strict=True):
        text = table[column].str.strip()
        values = pd.to_numeric(text, errors="coerce")
        known = values.isin([1.0, 0.0, -1.0])
        unknown += studies[~known & (text != "")].tolist()
        labels[name] = values.where(known).astype("float32")
    frame = pd.DataFrame(labels)
    frame.index = pd.Index(studies, name="study_id")
    repeated = frame.index.duplicated()
    kinds = {"label_values_unknown": unknown, "duplicate_label_rows": frame.index[repeated]}
    return frame[~repeated].sort_index(), Odd.all_of(path, kinds)


def read_info(path: Path) -> dict:
    """`dataset_info.json` as a dict; DataError when it is not one."""
    from data.release.members import parse_json

    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): download it again") from error


def names_of(info: dict, keys: tuple[str, ...], path: Path) -> list[str]:
    """The vocabulary under the first of `keys` that is there: a list of names, or a dict between names and numbers."""
    value = next((info[key] for key in keys if info.get(key)), None)
    if isinstance(value, dict):
        value = _names_of_dict(value)
    if isinstance(value, list):
        value = [v.get("name") if isinstance(v, dict) else v for v in value]
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        raise DataError(f"{path} has no list of names under {' or '.join(keys)}: download it again")
    return list(dict.fromkeys(v.strip() for v in value))


def _names_of_dict(value: dict) -> list:
    """`{name: number}` and `{number: name}` are ordered by number; any other dict has the names as its keys."""
    if all(isinstance(v, int) and not isinstance(v, bool) for v in value.values()):
        return sorted(value, key=value.get)
    if all(str(k).isdecimal() for k in value):
        return [value[k] for k in sorted(value, key=int)]
    return list(value)


def read_question_table(qba: QbaFolder, columns: tuple[str, ...]) -> pyarrow.Table | None:
    """Columns of `question_metadata`, found and named by the last dotted part of their names; None without the table.

    All come as dictionary-encoded text: the full table has 42 million rows. Columns that it lacks are left out.
    """
    names = [f"question_metadata{suffix}" for suffix in (".parquet", ".csv.gz", ".csv")]
    path = next((p for home in (qba.metadata, qba.root) for n in names if (p := home / n).is_file()), None)
    if path is None:
        return None
    import pyarrow as pa

    try:
        table = _read_parquet(path, columns) if path.suffix == ".parquet" else _read_arrow_csv(path, columns)
    except (pa.ArrowException, OSError, EOFError, zlib.error, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}): download it again") from error
    dictionary = pa.dictionary(pa.int32(), pa.string())
    encoded = {
        name: c if pa.types.is_dictionary(c.type) else c.cast(pa.string()).dictionary_encode()
        for name, c in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table({name: c.cast(dictionary) for name, c in encoded.items()})


def _wanted(available: list[str], columns: tuple[str, ...]) -> dict[str, str]:
    """Full column name -> short name, for the wanted short names that are there."""
    found: dict[str, str] = {}
    for full in available:
        short = full.rsplit(".", 1)[-1]
        if short in columns and short not in found.values():
            found[full] = short
    return found


def _read_parquet(path: Path, columns: tuple[str, ...]) -> pyarrow.Table:
    import pyarrow.parquet as pq

    wanted = _wanted(
        pq.read_schema(path).names, columns
    )  # ids that were a pandas index are columns here like any other
    # Through ParquetFile: a column name with dots would otherwise be taken for a path into a nested column.
    with pq.ParquetFile(path, read_dictionary=list(wanted)) as file:
        return file.read(columns=list(wanted)).select(list(wanted)).rename_columns(list(wanted.values()))


def _read_arrow_csv(path: Path, columns: tuple[str, ...]) -> pyarrow.Table:
    import pyarrow as pa
    from pyarrow import csv

    with open_table(path) as file:
        header = file.readline().decode("utf-8-sig").strip().split(",")
    wanted = _wanted(header, columns)
    text = pa.dictionary(pa.int32(), pa.string())
    options = csv.ConvertOptions(include_columns=list(wanted), column_types=dict.fromkeys(wanted, text))
    with open_table(path) as file:
        table = csv.read_csv(file, convert_options=options)
    return table.rename_columns(list(wanted.values()))
