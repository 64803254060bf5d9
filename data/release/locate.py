"""Where the parts of a release lie. Only looks at names; reads nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError

TABLE = re.compile(r"mimic-cxr-(?P<version>\d+(?:\.\d+)*)-(?P<table>[a-z-]+)\.csv(?P<gz>\.gz)?")
GROUP = re.compile(r"p\d\d")
"""Name of the folders `p10` to `p19` that group the patients."""
SCENE_NAMES = ("scene_data", "scene_graph", "scene_graphs")
INFO = "dataset_info.json"

# `wget -r` puts physionet.org/files/<project>/<version>/ in front of a project: four levels, and one to spare.
_LEVELS = 5
_MAX_FOLDERS = 5000


@dataclass(frozen=True)
class JpgFolder:
    """A copy of MIMIC-CXR-JPG: its root, its tables by short name (`metadata`, `split`, ...), where `p10` ... lie."""

    root: Path
    tables: dict[str, Path]
    image_prefix: str
    """`files/` or empty: what stands before `p10/...` in an image's path relative to the root."""

    def image_path(self, subject_id: int, study_id: int, image_id: str) -> Path:
        """File of one image, as `tables.read_images` has it for all of them."""
        subject, study = f"{subject_id:08d}", f"{study_id:08d}"
        return self.root / f"{self.image_prefix}p{subject[:2]}/p{subject}/s{study}/{image_id}.jpg"

    @property
    def version(self) -> str:
        """Release number; 2.0.0 and 2.1.0 differ only by the files that the later one added."""
        added = (self.root / "IMAGE_FILENAMES").exists() or "test-set-labeled" in self.tables
        newest = max((TABLE.fullmatch(p.name)["version"] for p in self.tables.values()), key=_numbers)
        return "2.1.0" if added and _numbers(newest) < (2, 1) else newest


@dataclass(frozen=True)
class QbaFolder:
    """A copy of MIMIC-Ext-CXR-QBA, or of one of its exports: which parts are there, packed or unpacked."""

    root: Path
    qa_zip: Path | None
    qa_folder: Path | None
    scene_zip: Path | None
    scene_folder: Path | None
    info: Path

    @property
    def metadata(self) -> Path:
        return self.root / "metadata"


def find_jpg(path: Path | str) -> JpgFolder:
    """The MIMIC-CXR-JPG release at `path` or a few levels below it; DataError when there is none, or several."""
    path = existing_folder(path, "MIMIC-CXR-JPG", "--mimic_cxr_path or MIMIC_CXR_PATH")
    root = _find_root(path, lambda folder: "metadata" in jpg_tables(folder), "MIMIC-CXR-JPG")
    if root is None:
        hint = " (this looks like MIMIC-Ext-CXR-QBA: are the two paths swapped?)" if has_questions(path) else ""
        raise DataError(
            f"no MIMIC-CXR-JPG release in {path}{hint}: expected mimic-cxr-2.0.0-metadata.csv.gz (or .csv) there or up "
            f"to {_LEVELS} folders below it"
        )
    tables = jpg_tables(root)
    if "split" not in tables:
        raise DataError(
            f"{root} has no mimic-cxr-2.0.0-split.csv.gz: download it from PhysioNet; patients are split by it only"
        )
    nested = (root / "files").is_dir() or not groups(root)
    return JpgFolder(root, tables, "files/" if nested else "")


def jpg_tables(folder: Path) -> dict[str, Path]:
    """Tables in a folder by short name. The newest version wins, then the gzipped file, which carries a checksum."""
    found: dict[str, tuple] = {}
    for entry in list_folder(folder):
        match = TABLE.fullmatch(entry.name)
        if match and entry.is_file():
            rank = (_numbers(match["version"]), bool(match["gz"]), entry.name)
            found[match["table"]] = max(found.get(match["table"], rank), rank)
    return {table: folder / rank[-1] for table, rank in found.items()}


def find_qba(path: Path | str) -> QbaFolder:
    """The MIMIC-Ext-CXR-QBA release or export at `path` or a few levels below; DataError for none, or several."""
    path = existing_folder(path, "MIMIC-Ext-CXR-QBA", "--mimic_qa_path or MIMIC_QA_PATH")
    while path.name == "qa" and find_member_folder(path, ("qa",), "qa"):
        path = path.parent
    root = _find_root(path, has_questions, "MIMIC-Ext-CXR-QBA")
    if root is None:
        hint = " (this looks like MIMIC-CXR-JPG: are the two paths swapped?)" if jpg_tables(path) else ""
        raise DataError(
            f"no MIMIC-Ext-CXR-QBA release in {path}{hint}: neither qa.zip nor a folder qa/ with "
            f"p10/p<patient>/s<study>.qa.json is there or up to {_LEVELS} folders below it"
        )
    info = _find_info(root)
    # An export without scene graphs of its own uses those of the whole release, which contain them.
    for home in (root, root.parent.parent) if root.parent.name == "exports" else (root,):
        scene_zip = next((p for n in SCENE_NAMES if (p := home / f"{n}.zip").is_file()), None)
        scene_folder = find_member_folder(home, SCENE_NAMES, "scene_graph")
        if scene_zip or scene_folder:
            break
    qa_zip = root / "qa.zip"
    qa_folder = find_member_folder(root, ("qa",), "qa")
    return QbaFolder(root, qa_zip if qa_zip.is_file() else None, qa_folder, scene_zip, scene_folder, info)


def has_questions(folder: Path) -> bool:
    return (folder / "qa.zip").is_file() or find_member_folder(folder, ("qa",), "qa") is not None


def find_member_folder(root: Path, names: tuple[str, ...], kind: str) -> Path | None:
    """The folder whose `pXX/p<patient>/` hold `s<study>.<kind>.json`: `root/name`, doubly nested, or `root` itself."""
    inner = [root / a / b for a in names for b in names]
    for folder in [root / name for name in names] + inner + [root]:
        if _holds_members(folder, f".{kind}.json"):
            return folder
    return None


def _holds_members(folder: Path, suffix: str) -> bool:
    """Looks into the first patients of each group only: an image folder of the same shape has millions of files."""
    for group in groups(folder):
        patients = [e for e in list_folder(group) if e.is_dir()][:20]
        if any(e.name.endswith(suffix) for patient in patients for e in list_folder(Path(patient.path))):
            return True
    return False


def _find_info(root: Path) -> Path:
    homes = (root, root.parent, root.parent.parent)
    for home in homes:
        for candidate in (home / "metadata" / INFO, home / INFO):
            if candidate.is_file():
                return candidate
    raise DataError(
        f"no {INFO} in {root / 'metadata'}, {root} or the folders above: download it from PhysioNet "
        "(it lists the names of all regions and findings)"
    )


def _find_root(path: Path, accept: Callable[[Path], bool], what: str) -> Path | None:
    """Breadth-first: the only folder of the shallowest level that `accept`s; DataError when that level has several."""
    for level in levels(path):
        found = sorted({folder.resolve() for folder in level if accept(folder)})
        if len(found) > 1:
            names = " and ".join(str(folder) for folder in found[:3])
            raise DataError(f"{len(found)} copies of {what} below {path}: pass one of {names}")
        if found:
            return found[0]
    return None


def levels(path: Path) -> Iterator[list[Path]]:
    """The folders at and below `path`, level by level, without those of patients and studies."""
    level, seen = [path], 0
    for _ in range(_LEVELS + 1):
        yield level
        seen += len(level)
        if seen > _MAX_FOLDERS:
            return
        level = [
            Path(entry.path)
            for folder in level
            for entry in list_folder(folder)
            if entry.is_dir() and not entry.name.startswith(".") and not re.fullmatch(r"[ps]\d+", entry.name)
        ]


def existing_folder(path: Path | str, what: str, option: str) -> Path:
    """The absolute folder that a user named, or the folder of the archive that a user named; DataError otherwise."""
    if not str(path):
        raise DataError(f"no path to {what}: give {option}")
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder of {what} with {option}")
    if path.is_dir():
        return path.resolve()
    if path.suffix == ".zip":
        return path.resolve().parent
    raise DataError(f"{path} is a file: give the folder of {what} with {option}")


def list_folder(folder: Path) -> list[os.DirEntry]:
    """Sorted entries; none for what is missing or may not be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except OSError:
        return []


def groups(folder: Path) -> list[Path]:
    """The folders `p10` ... `p19` in a folder."""
    return [Path(e.path) for e in list_folder(folder) if GROUP.fullmatch(e.name) and e.is_dir()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split("."))
