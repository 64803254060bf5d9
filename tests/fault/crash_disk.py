"""What a power cut may leave of a folder: every state, at every moment, that a pessimistic POSIX file system allows.

A killed process is no such test: the system still writes what the process has handed over. `Recorder` notes what a writer
does, `states` takes it apart: until its fsync a file may be empty, half or whole; until the fsync of its folder an entry that was
made, renamed or removed may be as before, each independently of the others.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.utils import TEMPORARY

ROOT = 0
Tree = dict[str, "bytes | Tree"]


@dataclass(frozen=True)
class Entry:
    """Names of a folder change at once: `gone` disappears, `name` becomes `node`."""

    folder: int
    gone: str | None
    name: str | None
    node: int


@dataclass(frozen=True)
class Data:
    node: int
    content: bytes


@dataclass(frozen=True)
class Sync:
    node: int


class Recorder:
    """Turns what happens below a folder into operations. `kept` says which fsyncs count: see `everything`."""

    def __init__(self, root: Path, kept: Callable[[bool], bool]):
        self.root, self.kept = str(root), kept
        self.operations: list[Entry | Data | Sync] = []
        self._nodes = {self.root: ROOT}
        self._content: dict[int, bytes | None] = {ROOT: None}

    @contextmanager
    def recording(self) -> Iterator[None]:
        real = {(os, name): getattr(os, name) for name in ("fsync", "rename", "replace", "unlink", "rmdir")}
        real[shutil, "rmtree"] = shutil.rmtree
        own = {"fsync": self._fsync, "rename": self._rename, "replace": self._rename, "rmtree": self._rmtree}
        own |= {"unlink": self._remove(os.unlink), "rmdir": self._remove(os.rmdir)}
        self._real_rename = os.replace
        for module, name in real:
            setattr(module, name, own[name])
        try:
            yield
        finally:
            self._look()
            for (module, name), function in real.items():
                setattr(module, name, function)

    def _look(self) -> None:
        """Note what was made and written since the last look."""
        for folder, folders, files in os.walk(self.root):
            for name in sorted(folders) + sorted(files):
                path = os.path.join(folder, name)
                if path not in self._nodes:
                    self._nodes[path] = len(self._content)
                    self._content[self._nodes[path]] = None
                    self.operations.append(Entry(self._nodes[folder], None, name, self._nodes[path]))
            for name in files:
                node, content = self._nodes[os.path.join(folder, name)], Path(folder, name).read_bytes()
                if self._content[node] != content:
                    self._content[node] = content
                    self.operations.append(Data(node, content))

    def _fsync(self, descriptor: int) -> None:
        self._look()
        asked = os.fstat(descriptor)
        for path, node in self._nodes.items():
            if os.path.samestat(os.stat(path), asked) and self.kept(os.path.isdir(path)):
                self.operations.append(Sync(node))

    def _rename(self, source, target) -> None:
        source, target = str(source), str(target)
        self._look()
        self._real_rename(source, target)
        (folder, gone), (other, name) = os.path.split(source), os.path.split(target)
        assert folder == other, "the model knows renames within one folder"
        self.operations.append(Entry(self._nodes[folder], gone, name, self._nodes[source]))
        self._forget(target)
        for path in [p for p in self._nodes if p == source or p.startswith(source + "/")]:
            self._nodes[target + path[len(source) :]] = self._nodes.pop(path)

    def _remove(self, really: Callable) -> Callable:
        def remove(path) -> None:
            path = str(path)
            self._look()
            really(path)
            self.operations.append(Entry(self._nodes[os.path.dirname(path)], os.path.basename(path), None, -1))
            self._forget(path)

        return remove

    def _rmtree(self, path, ignore_errors: bool = False) -> None:
        if not os.path.isdir(path):
            return
        for folder, folders, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in folders:
                os.rmdir(os.path.join(folder, name))
        os.rmdir(path)

    def _forget(self, path: str) -> None:
        for known in [p for p in self._nodes if p == path or p.startswith(path + "/")]:
            del self._nodes[known]


def everything(folder: bool) -> bool:
    """An honest disk: all fsyncs count."""
    return True


def states(operations: list, most: int = 2_000, seed: int = 0) -> Iterator[tuple[int, Tree]]:
    """(number of operations begun, what may be on the disk) for a cut after each operation, each state once.

    At most `most` for one moment, in random order of the choices: a writer without fsync has millions.
    """
    seen, rng = set(), random.Random(seed)
    for moment in range(len(operations) + 1):
        for tree in itertools.islice(_folder(operations[:moment], ROOT, rng), most):
            key = (moment, repr(tree))
            if key not in seen:
                seen.add(key)
                yield moment, tree


def _folder(begun: list, node: int, rng: random.Random) -> Iterator[Tree]:
    durable = max((i for i, done in enumerate(begun) if done == Sync(node)), default=-1)
    changes = [(i > durable, done) for i, done in enumerate(begun) if isinstance(done, Entry) and done.folder == node]
    seen = set()
    for choice in itertools.product(*[rng.sample((True, False), 2) if soft else (True,) for soft, _ in changes]):
        names: dict[str, int] = {}
        for happened, (_, change) in zip(choice, changes, strict=True):
            if happened:
                names.pop(change.gone, None)
                if change.name is not None:
                    names[change.name] = change.node
        key = tuple(sorted(names.items()))
        if key in seen:
            continue
        seen.add(key)
        contents = [_node(begun, child, name, rng) for name, child in names.items()]
        for content in _product(contents):
            yield dict(zip(names, content, strict=True))


def _product(parts: list[Callable[[], Iterator]]) -> Iterator[tuple]:
    """Like itertools.product, but takes from the parts only what is asked for."""
    if not parts:
        yield ()
        return
    for first in parts[0]():
        for rest in _product(parts[1:]):
            yield (first, *rest)


def _node(begun: list, node: int, name: str, rng: random.Random) -> Callable[[], Iterator]:
    if TEMPORARY in name:  # whatever is inside: the next start removes it
        return lambda: iter([{}])
    if any(isinstance(done, Entry) and done.folder == node for done in begun) or not _written(begun, node):
        return lambda: _folder(begun, node, rng)
    return lambda: iter(_file(begun, node, rng))


def _written(begun: list, node: int) -> list[tuple[int, bytes]]:
    return [(i, done.content) for i, done in enumerate(begun) if isinstance(done, Data) and done.node == node]


def _file(begun: list, node: int, rng: random.Random) -> list[bytes]:
    durable = max((i for i, done in enumerate(begun) if done == Sync(node)), default=-1)
    safe = [content for i, content in _written(begun, node) if i <= durable][-1:]
    soft = [content for i, content in _written(begun, node) if i > durable]
    found = dict.fromkeys(safe or [b""]) if not soft or safe else {b"": None}
    for content in soft:
        found |= dict.fromkeys([b"", content[: len(content) // 2], content])
    return rng.sample(list(found), len(found))


def materialise(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            materialise(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def as_tree(folder: Path) -> Tree:
    return {p.name: as_tree(p) if p.is_dir() else p.read_bytes() for p in folder.iterdir()}
