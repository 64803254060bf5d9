"""The notebooks of examples/: made from their sources, without outputs, and each runs from its first cell to its last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_notebooks import FIRST_LINE, notebook_text, sources
from tests.user_checkout import Checkout

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SOURCES = sources(EXAMPLES)
SECONDS = 1200
"""Longest cell"""

notebooks = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def make(*options) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/make_notebooks.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_there_are_three():
    assert [path.stem for path in SOURCES] == ["ask_and_explain", "explore_release", "train_and_report"]
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {path.stem for path in SOURCES}


@notebooks
def test_each_is_up_to_date_and_has_no_outputs(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert text == notebook_text(source) == notebook_text(source), "run scripts/make_notebooks.py"
    cells = json.loads(text)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells) > 8
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) - len(code) >= 5  # it explains itself


def test_check_names_what_is_not_up_to_date_and_writes_nothing(tmp_path):
    (tmp_path / "a.py").write_text(f"{FIRST_LINE} [markdown]\n# # Title\n\n{FIRST_LINE}\n1 + 1\n")
    (tmp_path / "b.py").write_text("'''No notebook.'''\n")
    done = make("--check", "--folder", tmp_path)
    assert (done.returncode, done.stdout) == (1, "a.ipynb: not up to date: run scripts/make_notebooks.py\n")
    assert make("--folder", tmp_path).stdout == "a.ipynb: written\n"
    assert make("--check", "--folder", tmp_path).returncode == 0
    made = json.loads((tmp_path / "a.ipynb").read_text())
    assert [(cell["id"], cell["source"]) for cell in made["cells"]] == [("a-00", ["# Title"]), ("a-01", ["1 + 1"])]
    assert not (tmp_path / "b.ipynb").exists()
    made["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["2"]}]
    (tmp_path / "a.ipynb").write_text(json.dumps(made))
    assert make("--check", "--folder", tmp_path).returncode == 1


def test_a_folder_without_sources_is_one_line(tmp_path):
    done = make("--folder", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --folder {tmp_path}: no source of a notebook")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A user's folder without quickstart/: the first notebook makes a release there, the others find it."""
    user = Checkout(tmp_path_factory.mktemp("user"))
    return user.with_things(tmp_path_factory.mktemp("notebooks") / "checkout", ())


def execute(path: Path) -> str:
    """Run a notebook from its first cell to its last; all that its cells print and show."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") or "".join(output.get("data", {}).values()) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("explore_release", ["targets by head", "<svg", "Statements about one film", "training can start"]),
        ("train_and_report", ["dry run: everything fits", "best model:", "gain over question_only", "iframe"]),
        ("ask_and_explain", ["data:image/jpeg", "Is there a pleural effusion?", "How old is the patient?"]),
    ],
)
def test_each_runs(name, shown, checkout):
    output = execute(checkout / "examples" / f"{name}.ipynb")
    assert [text for text in shown if text not in output] == []


@pytest.mark.slow
def test_a_failing_cell_is_noticed(checkout, tmp_path):
    import nbformat
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('no')")])
    nbformat.write(notebook, tmp_path / "bad.ipynb")
    with pytest.raises(CellExecutionError, match="ValueError"):
        execute(tmp_path / "bad.ipynb")
