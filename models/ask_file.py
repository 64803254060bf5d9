"""Many questions about many films from one file: each film is encoded once, and a run that was cut off goes on.

Answers go to a private journal beside the output, film by film; the output itself appears when all are there, in one piece and
in the order of the questions. A row that cannot be answered is named and has its `error`; the others are not lost for it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.question_file import NEEDED, Request, check_output, read_question_file, to_request
from data.rows import Row
from models.asking import Asker
from utils.errors import DataError, UserError
from utils.privacy import open_private
from utils.run_lock import run_lock
from utils.utils import write_atomic, writing_to

COLUMNS = (
    "row", "image", "question", "head", "answer", "answered", "supported", "reason", "probability", "calibrated",
    "probabilities", "regions", "question_only", "warnings", "error",
)  # fmt: skip
"""Of the output. `regions` are those that had at least `LEAST_WEIGHT` of the attention; JSON lines have all, with their boxes"""
LEAST_WEIGHT = 0.05
ADVICE = "free space, or name another file with --output"


@dataclass(frozen=True)
class Outcome:
    """What became of a file of questions."""

    rows: int
    answered: int
    refused: int
    bad: tuple[str, ...]
    """a line for each row that has an error"""
    reused: int
    """rows that an earlier run had finished"""
    warnings: tuple[str, ...]
    """of the file"""


def ask_file(
    asker: Asker,
    questions: Path,
    output: Path,
    *,
    force: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Outcome:
    """Answer the questions of a CSV or JSONL file with the columns image, question and, if wanted, head.

    Args:
        questions: paths of images are absolute, or relative to its folder.
        output: `.csv` or `.jsonl`; private, as the questions and the films are.
        force: as of `Asker.film` and `Asker.ask`.
        overwrite: replace an output that is there.
        progress: called with (rows done, rows) after each film.
    Raises:
        DataError: the file cannot be read, the output cannot be written or is there already, or another run is writing it.
    """
    check_output(output, overwrite, questions)
    table = read_question_file(questions)
    identity = {
        "questions_sha256": hashlib.sha256(questions.read_bytes()).hexdigest(),
        "model_sha256": asker.sha256,
        "measured": [asker.temperatures, asker.router.threshold, asker.question_only is not None],
        "force": force,
    }
    journal = output.with_name(f".{output.name}.partial.jsonl")
    with (
        writing_to(output.parent, ADVICE),
        run_lock(output.parent, "name another file with --output", DataError, f".{output.name}.lock"),
    ):
        with _Journal(journal, identity) as done:
            reused = len(done.results)
            _answer_all(asker, table.rows, questions.parent, done, force, progress)
            results = [done.results[number] for number in range(len(table.rows))]
        write_atomic(output, _csv(results) if output.suffix.lower() == ".csv" else _jsonl(results))
        journal.unlink()
        (output.parent / f".{output.name}.lock").unlink(missing_ok=True)
    return Outcome(
        rows=len(results),
        answered=sum(result.get("answered", False) for result in results),
        refused=sum("error" not in result and not result["answered"] for result in results),
        bad=tuple(f"{result['row']}: {result['error']}" for result in results if "error" in result),
        reused=reused,
        warnings=tuple(table.warnings),
    )


def _answer_all(
    asker: Asker, rows: list[Row], folder: Path, done: _Journal, force: bool, progress: Callable[[int, int], None]
) -> None:
    """Film by film, in the order in which they first occur."""
    of_film: dict[Path, list[Request]] = {}
    for number, row in enumerate(rows):
        if number in done.results:
            continue
        try:
            request = to_request(number, row, folder)
        except UserError as error:
            done.add(number, _failed(row.place, row.cells, str(error)))
            continue
        of_film.setdefault(request.path, []).append(request)
    done.keep()
    progress(len(done.results), len(rows))
    for path, requests in of_film.items():
        for request, result in zip(requests, _about_film(asker, path, requests, force), strict=True):
            done.add(request.number, result)
        done.keep()
        progress(len(done.results), len(rows))


def _about_film(asker: Asker, path: Path, requests: list[Request], force: bool) -> Iterator[dict]:
    """The results of the requests about one film."""
    try:
        film = asker.film(path, force)
    except DataError as error:
        for request in requests:
            yield _failed(request.place, vars(request), str(error))
        return
    answers = {}
    for head in {request.head for request in requests}:
        of_head = [request for request in requests if request.head == head]
        for request, answer in zip(of_head, asker.ask(film, [r.question for r in of_head], head, force), strict=True):
            answers[request.number] = answer.as_json()
    for request in requests:
        yield {"row": request.place, "image": request.image} | answers[request.number]


def _failed(place: str, cells: dict, error: str) -> dict:
    known = {name: str(cells[name]) for name in NEEDED if name in cells}
    head = cells.get("head")
    return {"row": place, **known, **({"head": str(head)} if head else {}), "answered": False, "error": error}


class _Journal:
    """Results on the disk, so that a run that is cut off loses at most one film.

    The first line says what they are answers to; each further one is a row's number and its result. A last line that was cut
    off is written again.
    """

    def __init__(self, path: Path, identity: dict):
        self.path, self.identity = path, identity
        self.results: dict[int, dict] = {}

    def __enter__(self) -> _Journal:
        kept = self._read() if self.path.exists() else b""
        if not kept:
            kept = json.dumps(self.identity).encode() + b"\n"
        write_atomic(self.path, kept)
        self._file = open_private(self.path, "a")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, number: int, result: dict) -> None:
        self.results[number] = result
        self._file.write(json.dumps([number, result], ensure_ascii=False) + "\n")

    def keep(self) -> None:
        """Bring to the disk what was added."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> bytes:
        """Fill the results; the lines that are whole. DataError where they answer something else."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        try:
            if whole and json.loads(whole[0]) != self.identity:
                raise DataError(
                    f"{self.path}: holds answers of an unfinished run with other questions, another model (or one evaluated "
                    "since) or another --force: delete it to start anew, or name another file with --output"
                )
            for line in whole[1:]:
                number, result = json.loads(line)
                self.results[int(number)] = dict(result)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}): delete it to start anew") from error
        return b"".join(whole)


def _jsonl(results: list[dict]) -> str:
    return "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)


def _csv(results: list[dict]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        control = result.get("question_only")
        cells = {
            "regions": "; ".join(
                f"{look['region']} {look['weight']:.2f}"
                for look in result.get("looks", ())
                if look["weight"] >= LEAST_WEIGHT
            ),
            "probabilities": "; ".join(f"{name} {p:.4f}" for name, p in result.get("probabilities", {}).items()),
            "question_only": "" if not control else ", ".join(control["texts"]) or "none of them",
            "warnings": "; ".join(result.get("warnings", ())),
        }
        writer.writerow({name: _cell(value) for name, value in (result | cells).items() if name in COLUMNS})
    return file.getvalue()


def _cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
