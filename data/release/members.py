"""The JSON files of a release, one a study: in a zip archive or in folders, behind one small interface."""

from __future__ import annotations

import codecs
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from data.archives import open_zip
from data.checksums import sampled
from data.release.locate import groups, list_folder
from utils.errors import DataError

Key = tuple[int, int]
"""(subject id, study id)."""

MEMBER = re.compile(r"(?:^|/)(p\d\d/p(\d{8})/s(\d{8})\.(qa|scene_graph|metadata)\.json)$")
_STUDIES = 10**8
"""Study ids have eight digits: subject * this + study is one number for both."""
KINDS = ("qa", "scene_graph", "metadata")
MAX_JSON_BYTES = 512 * 2**20

_ENTRY = np.dtype([("code", "i8"), ("offset", "u8"), ("packed", "u8"), ("size", "u8"), ("crc", "u4"), ("method", "u1")])
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""What stands before a member's name and data: signature, ..., length of the name, length of the extra field."""


class ZipMembers:
    """Members of an archive, matched by the end of their names.

    `zipfile` reads the directory once; after that this is a small table that travels to worker processes. A `ZipFile`
    of the real scene graphs would cost each of them 300 MB and several seconds.
    """

    def __init__(self, path: Path):
        self.path = path
        self.duplicates: list[int] = []
        """Studies of members that give one a second time; the last one counts, as when unpacking."""
        self._tables = {kind: self._table(rows) for kind, rows in self._directory().items()}

    def __str__(self) -> str:
        return f"zip {self.path}"

    def keys(self, kind: str) -> list[Key]:
        """(subject, study) of all members of a kind (qa, scene_graph or metadata), sorted."""
        return [divmod(code, _STUDIES) for code in self._tables[kind]["code"].tolist()]

    def read(self, kind: str, key: Key) -> dict | None:
        """The parsed member, None when there is none; DataError when it is damaged or not a JSON object."""
        entry = self._entry(kind, key)
        if entry is None:
            return None
        where = f"{self.path}: member {_relative(kind, key)}"
        return parse_json(self._content(entry, where), where)

    def state(self, kind: str, key: Key) -> tuple | None:
        """Size and CRC-32 of a member, None when there is none: others when its content is other."""
        entry = self._entry(kind, key)
        return None if entry is None else ("member", int(entry["size"]), int(entry["crc"]))

    def _entry(self, kind: str, key: Key) -> np.void | None:
        table = self._tables[kind]
        place = int(np.searchsorted(table["code"], _code(key)))
        return table[place] if place < len(table) and table["code"][place] == _code(key) else None

    def signature(self) -> bytes:
        """What identifies the contents: ids, sizes and CRCs, whatever folder the members lie in inside the archive."""
        fields = ("code", "size", "crc")
        return b"".join(np.ascontiguousarray(self._tables[k][f]).tobytes() for k in KINDS for f in fields)

    def _directory(self) -> dict[str, list[tuple]]:
        rows: dict[str, list[tuple]] = {kind: [] for kind in KINDS}
        with open_zip(self.path) as archive:
            for e in archive.infolist():
                if not (match := MEMBER.search(e.filename)):
                    continue
                if e.flag_bits & 1 or e.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{self.path}: member {match[1]} is encrypted or of an unknown kind: pack it anew")
                code = _code((int(match[2]), int(match[3])))
                row = code, e.header_offset, e.compress_size, e.file_size, e.CRC, e.compress_type
                rows[match[4]].append(row)
        return rows

    def _table(self, rows: list[tuple]) -> np.ndarray:
        table = np.array(rows, dtype=_ENTRY)
        table = table[np.argsort(table["code"], kind="stable")]
        last = np.append(table["code"][1:] != table["code"][:-1], True)[: len(table)]
        self.duplicates += (table["code"][~last] % _STUDIES).tolist()
        return table[last]

    def _content(self, entry: np.void, where: str) -> bytes:
        size, packed = int(entry["size"]), int(entry["packed"])
        _check_size(max(size, packed), where)
        try:
            with open(self.path, "rb") as file:  # a handle of its own for each read: safe after a fork and in threads
                file.seek(int(entry["offset"]))
                signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                file.seek(name_length + extra_length, os.SEEK_CUR)
                raw = file.read(packed)
            if entry["method"] == zipfile.ZIP_DEFLATED:
                raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, size + 1)
        except (OSError, struct.error, zlib.error) as error:
            raise DataError(f"{where} is damaged ({error}): download the archive again") from error
        if signature != b"PK\x03\x04" or len(raw) != size or zlib.crc32(raw) != entry["crc"]:
            raise DataError(f"{where} is damaged (wrong checksum): download the archive again")
        return raw


class FolderMembers:
    """Members of an unpacked release: `<folder>/p10/p<subject>/s<study>.<kind>.json`."""

    duplicates: Sequence[int] = ()

    def __init__(self, folder: Path):
        self.path = folder
        self._keys: dict[str, set[Key]] | None = None

    def __str__(self) -> str:
        return f"folder {self.path}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_keys": None}

    def keys(self, kind: str) -> list[Key]:
        return sorted(self._index()[kind])

    def read(self, kind: str, key: Key) -> dict | None:
        path = self.path / _relative(kind, key)
        try:
            _check_size(path.stat().st_size, str(path))
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}): check the disk") from error
        return parse_json(raw, str(path))

    def state(self, kind: str, key: Key) -> tuple | None:
        """Size and CRC-32 of both ends of a file, None when there is none."""
        found = sampled(self.path / _relative(kind, key))
        return found and ("file", *found)

    def signature(self) -> bytes:
        names = [_relative(kind, key) for kind in KINDS for key in self.keys(kind)]
        return "\n".join(f"{name} {os.stat(self.path / name).st_size}" for name in names).encode()

    def _index(self) -> dict[str, set[Key]]:
        if self._keys is None:
            keys: dict[str, set[Key]] = {kind: set() for kind in KINDS}
            for group in groups(self.path):
                for patient in list_folder(group):
                    for name in (e.name for e in list_folder(Path(patient.path))):
                        match = MEMBER.fullmatch(f"{group.name}/{patient.name}/{name}")
                        if match and patient.name.startswith(group.name):
                            keys[match[4]].add((int(match[2]), int(match[3])))
            self._keys = keys
        return self._keys


Members = ZipMembers | FolderMembers


def choose_members(zip_path: Path | None, folder: Path | None, kind: str) -> Members | None:
    """Packed or unpacked: the archive, unless the folder has at least as many studies; None when there is neither.

    An interrupted unpacking leaves a folder with fewer studies, which must not hide the rest.
    """
    unpacked = FolderMembers(folder) if folder else None
    if zip_path is None:
        return unpacked
    packed = ZipMembers(zip_path)
    count = len(packed.keys(kind))
    if not count:
        raise DataError(f"{zip_path} holds no file like p10/p10000032/s50414267.{kind}.json: is it the right archive?")
    return unpacked if unpacked and len(unpacked.keys(kind)) >= count else packed


def parse_json(raw: bytes, where: str) -> dict:
    """A JSON object from UTF-8 bytes, with or without byte order mark; DataError naming `where` otherwise."""
    try:
        value = orjson.loads(raw.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        value = _parse_mildly(raw, where)
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a JSON {type(value).__name__}, expected an object")
    return value


def _parse_mildly(raw: bytes, where: str) -> object:
    """What the fast parser refuses and the standard library reads, such as NaN; or the kind and place of the error."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        # no more than that: the text around it may belong to a patient
        position = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{where} is not valid JSON ({type(error).__name__}{position}): download it again") from error


def _relative(kind: str, key: Key) -> str:
    subject = f"{key[0]:08d}"
    return f"p{subject[:2]}/p{subject}/s{key[1]:08d}.{kind}.json"


def _code(key: Key) -> int:
    return key[0] * _STUDIES + key[1]


def _check_size(size: int, where: str) -> None:
    if size > MAX_JSON_BYTES:
        raise DataError(f"{where} claims {size:,} bytes, more than any study has: download it again")
