"""examples/ask.py from the command line, and files of many questions that survive bad rows and interruptions."""

import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.label_space import Head
from data.question_file import read_question_file
from examples import ask
from models import ask_file as module
from models.ask_file import COLUMNS, ask_file
from models.asking import Asker
from tests.asking_model import write_film, write_model
from utils.cli import run
from utils.errors import CheckpointError, DataError
from utils.run_lock import run_lock

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "timm", "transformers", "pandas", "pyarrow", "sklearn", "wandb"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, two films, and an image that is no film."""
    folder = tmp_path_factory.mktemp("asking")
    write_model(folder / "model")
    write_film(folder / "a.png")
    write_film(folder / "b.png", 1)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def asker(place):
    return Asker.from_pretrained(place / "model", "cpu")


def ask_here(place, *words: str) -> int:
    return ask.main([*words, "--model", str(place / "model"), "--device", "cpu"])


# One film


def test_a_table_of_answers(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code = ask_here(place, str(place / "a.png"), "Is there effusion in the left lung?", "How old is she?")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0].startswith("a.png: ")
    assert "frontal chest film" in lines[0]
    assert lines[2].split("  ")[0] == "question"
    assert any(line.startswith("Is there effusion") and "not" in line for line in lines)
    assert "I cannot answer this" in "\n".join(lines)
    assert lines[-1] == ask.NOTICE
    assert max(map(len, lines)) <= 160


def test_json_has_probabilities_boxes_and_the_graph(place, capsys):
    ask_here(place, str(place / "a.png"), "Is there effusion?", "--json", "--head", "severity")
    found = json.loads(capsys.readouterr().out)
    assert found["film"]["name"] == "a.png"
    assert len(found["graph"]) == 26
    answer = found["answers"][0]
    assert answer["head"] == "severity"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert set(answer["looks"][0]["box"]) == {"x1", "y1", "x2", "y2"}


def test_ids_of_patients_in_a_files_name_are_not_printed(place, capsys):
    path = write_film(place / "p10000032.png")
    for more in ((), ("--json",)):
        ask_here(place, str(path), "Is there effusion?", *more)
        out = capsys.readouterr().out
        assert "10000032" not in out
    json.loads(out)


def test_help_and_wrong_arguments_import_nothing_heavy():
    program = (
        "import runpy, sys\nfor words in (['--help'], [], ['a.png'], ['--csv', 'no.csv', '--output', 'o.csv']):\n"
        "    sys.argv = ['examples/ask.py', *words]\n"
        "    try: runpy.run_path('examples/ask.py', run_name='__main__')\n"
        "    except SystemExit as stop: print('code:', stop.code)\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith(("code", "heavy"))] == [
        "code: 0", "code: 2", "code: 2", "code: 3", "heavy: []",
    ]  # fmt: skip
    assert done.stdout.count("(default") >= 10


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["a.png"], "at least one question"),
        (["--csv", "q.csv"], "--output answers.csv"),
        (["--csv", "q.csv", "--output", "o.csv", "--json"], "leave them out"),
        (["a.png", "Is it?", "--output", "o.csv"], "for --csv"),
    ],
)
def test_what_does_not_go_together(words, match, capsys):
    with pytest.raises(SystemExit) as stop:
        ask.parse(words)
    assert stop.value.code == 2
    assert match in capsys.readouterr().err


def test_errors_are_one_line_with_the_code_of_their_kind(place, capsys):
    film, model = str(place / "a.png"), str(place / "model")
    for words, code, match in (
        ((str(place / "noise.png"), "Is there effusion?", "--model", model), 3, "not a frontal chest film"),
        ((film, "Is there effusion?", "--model", str(place / "nowhere")), 4, "no such folder"),
        ((film, " ", "--model", model), 3, "a question is empty"),
        ((film, "Is there effusion?", "--model", model, "--device", "abacus"), 2, "device abacus"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(ask.main, list(words))
        said = capsys.readouterr()
        assert stop.value.code == code
        assert (said.out, len(said.err.splitlines())) == ("", 1)
        assert said.err.startswith("error: ")
        assert match in said.err


def test_force_answers_with_a_note(place, capsys):
    ask_here(place, str(place / "noise.png"), "Is there effusion?", "--force")
    out = capsys.readouterr().out
    assert "not a frontal chest film" in out
    assert "answered by force" in out


# Many films

ROWS = """image,question,head
a.png,Is there effusion?,
b.png,Where is the nodule?,
a.png,Is there effusion?,severity
noise.png,Is there effusion?,
nowhere.png,Is there effusion?,
a.png,,
a.png,Is there effusion?,colour
b.png,How old is the patient?,
"""


@pytest.fixture
def questions(place):
    path = place / "questions.csv"
    path.write_text(ROWS)
    return path


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_row_has_an_answer_a_refusal_or_an_error(asker, questions, tmp_path):
    outcome = ask_file(asker, questions, tmp_path / "answers.csv")
    rows = rows_of(tmp_path / "answers.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["row"] for row in rows] == [f"questions.csv, row {n}" for n in range(2, 10)]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, True, True, True, False]
    assert [row["answered"] for row in rows] == ["yes"] * 3 + ["no"] * 5
    assert [row["head"] for row in rows[:3]] == ["binary", "region", "severity"]
    for row, match in zip(rows[3:7], ("not a frontal", "No such file", "no question", "no head 'colour'"), strict=True):
        assert match in row["error"]
    assert "asks about the patient" in rows[7]["reason"]
    assert (outcome.rows, outcome.answered, outcome.refused, len(outcome.bad), outcome.reused) == (8, 3, 1, 4, 0)
    assert outcome.bad[0].startswith("questions.csv, row 5: ")
    assert stat.S_IMODE((tmp_path / "answers.csv").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["answers.csv"], "the journal is gone"


def test_json_lines_hold_the_same(asker, questions, tmp_path):
    ask_file(asker, questions, tmp_path / "answers.csv")
    ask_file(asker, questions, tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    table = rows_of(tmp_path / "answers.csv")
    assert [line.get("answer", "") for line in lines] == [row["answer"] for row in table]
    assert len(lines[0]["looks"]) == 26


def test_a_film_is_encoded_once(asker, questions, tmp_path, monkeypatch):
    seen = []
    film = Asker.film
    monkeypatch.setattr(Asker, "film", lambda self, path, force: seen.append(path.name) or film(self, path, force))
    ask_file(asker, questions, tmp_path / "answers.csv")
    assert sorted(seen) == ["a.png", "b.png", "noise.png", "nowhere.png"]


def cut_off(asker, questions, output, monkeypatch, films: int) -> None:
    """A run that ends after so many films."""
    count = []
    film = Asker.film

    def stops(self, path, force):
        count.append(1)
        if len(count) > films:
            raise KeyboardInterrupt
        return film(self, path, force)

    with monkeypatch.context() as patch:
        patch.setattr(Asker, "film", stops)
        with pytest.raises(KeyboardInterrupt):
            ask_file(asker, questions, output)


def test_a_run_that_was_cut_off_goes_on_and_writes_the_same(asker, questions, tmp_path, monkeypatch):
    ask_file(asker, questions, tmp_path / "whole.csv")
    output = tmp_path / "answers.csv"
    cut_off(asker, questions, output, monkeypatch, films=1)
    journal = tmp_path / ".answers.csv.partial.jsonl"
    assert not output.exists()
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    with journal.open("a") as file:
        file.write('[7, {"row": "quest')  # killed while it wrote
    outcome = ask_file(asker, questions, output)
    assert outcome.reused == 4, "two bad rows and the two of the first film"
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not journal.exists()


def test_what_was_cut_off_is_not_mixed_with_other_questions(asker, questions, tmp_path, monkeypatch):
    output = tmp_path / "answers.csv"
    cut_off(asker, questions, output, monkeypatch, films=1)
    questions.write_text(ROWS + "a.png,Is there edema?,\n")
    with pytest.raises(DataError, match="unfinished run with other questions"):
        ask_file(asker, questions, output)
    (tmp_path / ".answers.csv.partial.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="is damaged .*: delete it"):
        ask_file(asker, questions, output)


def test_what_was_cut_off_is_not_mixed_with_other_temperatures(asker, questions, tmp_path, monkeypatch):
    output = tmp_path / "answers.csv"
    cut_off(asker, questions, output, monkeypatch, films=1)
    with monkeypatch.context() as patch:
        patch.setattr(asker, "temperatures", {Head.BINARY: 1.25})
        with pytest.raises(DataError, match="or one evaluated since"):
            ask_file(asker, questions, output)
    assert ask_file(asker, questions, output).reused == 4


def test_an_output_is_not_replaced_unless_asked(asker, questions, tmp_path):
    output = tmp_path / "answers.csv"
    output.write_text("mine")
    with pytest.raises(DataError, match="is there already; .*--overwrite"):
        ask_file(asker, questions, output)
    assert output.read_text() == "mine"
    assert ask_file(asker, questions, output, overwrite=True).answered == 3


@pytest.mark.parametrize(
    ("name", "match"), [("answers.txt", "must end with"), ("questions.csv", "is the file of the questions")]
)
def test_outputs_that_cannot_be(asker, questions, name, match):
    with pytest.raises(DataError, match=match):
        ask_file(asker, questions, questions.with_name(name), overwrite=True)


def test_two_runs_do_not_write_one_output(asker, questions, tmp_path):
    program = "import sys, time; from pathlib import Path; from utils.run_lock import run_lock\n" + (
        f"with run_lock({str(tmp_path)!r}, name='.answers.csv.lock'): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="is in use by process"):
            ask_file(asker, questions, tmp_path / "answers.csv")
    finally:
        other.communicate("")
    with run_lock(tmp_path, name=".answers.csv.lock"):
        pass


def test_a_broken_model_stops_the_file_and_is_no_error_of_a_row(asker, questions, tmp_path, monkeypatch):
    def broken(*_):
        raise CheckpointError("not numbers")

    monkeypatch.setattr(Asker, "ask", broken)
    with pytest.raises(CheckpointError):
        ask_file(asker, questions, tmp_path / "answers.csv")
    assert not (tmp_path / "answers.csv").exists()


def test_cells_are_no_formulas_and_columns_are_checked(tmp_path):
    assert [module._cell(value) for value in ("=1+1", "@a", "plain", True, 0.5)] == [
        "'=1+1",
        "'@a",
        "plain",
        "yes",
        0.5,
    ]
    (tmp_path / "q.csv").write_text("picture,question\na.png,Is it?\n")
    with pytest.raises(DataError, match="no column `image`"):
        read_question_file(tmp_path / "q.csv")


def test_a_file_from_the_command_line(place, questions, tmp_path, capsys):
    output = tmp_path / "answers.csv"
    assert ask_here(place, "--csv", str(questions), "--output", str(output)) == 0
    said = capsys.readouterr()
    assert "8 rows: 3 answered, 1 refused, 4 with errors" in said.out
    assert "questions.csv, row 5: " in said.err
    assert len(rows_of(output)) == 8
