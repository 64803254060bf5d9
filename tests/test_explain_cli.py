"""examples/explain.py: what it writes, what it says, how it fails."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs.mimic_cxr_config import Config
from examples import explain
from models.explanation_methods import METHODS
from tests.asking_model import drawn_film, write_film
from tests.conftest import ROOT
from tests.mini_index import write_mini_index
from tests.small_model import SIZE, TEXTS, build, model_config, small_tokenizer
from tests.tiny_training import make_config, make_index, make_trainer
from utils import cli

HEAVY = ["torch", "timm", "transformers", "pandas", "pyarrow", "sklearn", "wandb", "scipy"]
PATIENT = "p10000032"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder as a training leaves it."""
    folder = tmp_path_factory.mktemp("model") / "best_model"
    config = Config()
    config.model, config.data.image_size = model_config(), SIZE
    build().save_pretrained(folder, small_tokenizer(), config, {"metrics.json": {"step": 9}})
    return folder


@pytest.fixture
def film(tmp_path):
    folder = tmp_path / PATIENT
    folder.mkdir()
    return write_film(folder / "film.png")


@pytest.fixture
def index(tmp_path):
    questions = [("D03_where_is_finding", TEXTS[1], 1 << 8, 4)]
    box = [(8, 0.2, 0.2, 0.6, 0.6)]
    studies = [{"split": "validate", "questions": questions, "boxes": box, "subject": 10_000_000 + n} for n in range(6)]
    return write_mini_index(tmp_path / "index", studies, side=SIZE).path


def run(capsys, *words) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was said on stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.run(explain.main, [str(word) for word in words])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


# One film


def test_files_and_words(model, film, tmp_path, capsys):
    out = tmp_path / "out"
    asked = (film, TEXTS[1], "--model", model, "--output", out, "--head", "category", "--target", "edema")
    code, said, _ = run(capsys, *asked, "--method", "all")
    assert code == 0
    assert {path.name for path in out.iterdir()} == {f"{m}.{end}" for m in METHODS for end in ("png", "npz", "json")}
    assert said.startswith("category: Edema, logit ")
    assert "Not for clinical use" in said
    height, width = drawn_film().shape
    for method in METHODS:
        with np.load(out / f"{method}.npz") as arrays:
            assert arrays["map"].shape == drawn_film().shape
        with Image.open(out / f"{method}.png") as image:
            assert image.width / (image.height - 86) == pytest.approx(width / height, rel=0.02)  # the legend below
        text = json.loads((out / f"{method}.json").read_text())
        assert (text["head"], text["target"]) == ("category", "Edema") and len(text["model_sha256"]) == 64


def test_the_default_methods(model, film, tmp_path, capsys):
    assert run(capsys, film, TEXTS[1], "--model", model, "--output", tmp_path / "out", "--head", "binary")[0] == 0
    found = {path.stem for path in (tmp_path / "out").iterdir()}
    assert found == {"layercam", "regions"}


def test_nothing_that_is_printed_names_patient_question_or_path(model, film, tmp_path, capsys):
    """The folder of the film holds a patient's id, and so may the question."""
    question = "Where is the nodule of 10000032?"
    code, said, err = run(capsys, film, question, "--model", model, "--output", tmp_path / "o", "--head", "region")
    assert code == 0
    assert "10000032" not in said + err and "film.png" not in said + err
    film.write_bytes(b"no image")
    code, said, err = run(capsys, film, question, "--model", model, "--output", tmp_path / "p", "--head", "region")
    assert (code, "10000032" in said + err) == (3, False)
    assert "not a JPEG or PNG image" in err and "Traceback" not in err
    for path in (tmp_path / "o").iterdir():
        assert b"film.png" not in path.read_bytes() and "10000032" not in path.name


def test_nothing_is_written_over(model, film, tmp_path, capsys):
    asked = (film, TEXTS[1], "--model", model, "--output", tmp_path / "out", "--head", "binary", "--method", "gradcam")
    assert run(capsys, *asked)[0] == 0
    before = (tmp_path / "out" / "gradcam.json").read_bytes()
    code, _, err = run(capsys, *asked, "--target", "no")
    assert (code, err.count("\n")) == (3, 1)
    assert "already holds gradcam.png" in err
    assert (tmp_path / "out" / "gradcam.json").read_bytes() == before
    assert run(capsys, *asked, "--target", "no", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "gradcam.json").read_text())["target"] == "no"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--head", "category", "--target", "oedema"], 2, "did you mean Edema"),
        (["--head", "binary", "--stride", "5"], 2, "maps of stride 4, 8, 16"),
        (["--head", "binary", "--device", "meat"], 2, "device meat: cannot be used"),
        (["--head", "binary", "--model", "nowhere"], 4, "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(model, film, tmp_path, capsys, more, code, words):
    out = tmp_path / "out"
    found, _, err = run(capsys, film, TEXTS[1], "--model", model, "--output", out, *more)
    assert (found, err.count("\n"), words in err) == (code, 1, True), err
    assert not out.exists()


def test_untrained_weights_are_not_explained(film, tmp_path, capsys):
    folder = tmp_path / "random"
    config = Config()
    config.model, config.data.image_size = model_config(), SIZE
    build().save_pretrained(folder, small_tokenizer(), config)
    for record, words in ((None, "no record of a training"), ({"step": 0}, "no record"), ({}, "cannot be read")):
        if record is not None:
            (folder / "metrics.json").write_text(json.dumps(record))
        code, _, err = run(capsys, film, TEXTS[1], "--model", folder, "--output", tmp_path / "out", "--head", "binary")
        assert (code, err.count("\n"), words in err) == (4, 1, True), err
    assert not (tmp_path / "out").exists()


def test_a_model_of_black_images_is_not_explained(film, tmp_path, capsys):
    folder = tmp_path / "blank"
    config = Config()
    config.model, config.data.image_size, config.data.blank_images = model_config(), SIZE, True
    build().save_pretrained(folder, small_tokenizer(), config, {"metrics.json": {"step": 9}})
    code, _, err = run(capsys, film, TEXTS[1], "--model", folder, "--output", tmp_path / "out", "--head", "binary")
    assert (code, err.count("\n")) == (4, 1) and "trained on black images" in err


def test_what_is_no_frontal_film_is_explained_by_force_only(model, tmp_path, capsys):
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120)).astype(np.uint8)).save(noise)
    asked = (noise, TEXTS[1], "--model", model, "--output", tmp_path / "out", "--head", "binary")
    code, _, err = run(capsys, *asked)
    assert (code, err.count("\n")) == (3, 1) and "not a frontal chest film" in err
    assert not (tmp_path / "out").exists()
    code, said, _ = run(capsys, *asked, "--force")
    assert code == 0 and said.startswith("warning: not a frontal chest film")
    (warning,) = json.loads((tmp_path / "out" / "regions.json").read_text())["warnings"]
    assert warning in said


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["film.jpg"],
        ["film.jpg", "Where?"],
        ["--sanity", "--model", "m"],
        ["film.jpg", "Where?", "--sanity", "--model", "m", "--index", "i"],
        ["--sanity", "--head", "binary", "--model", "m", "--index", "i"],
        ["--sanity", "--force", "--model", "m", "--index", "i"],
        ["film.jpg", "Where?", "--model", "m", "--index", "i"],
        ["film.jpg", "Where?", "--model", "m", "--method", "magic"],
        ["--sanity", "--items", "0", "--model", "m", "--index", "i"],
        ["film.jpg", "Where?", "--model", "m", "--items", "5"],
    ],
)
def test_unclear_commands_end_with_usage(words, capsys):
    code, _, err = run(capsys, *words)
    assert code == 2 and "usage" in err and "error:" in err


def test_help_is_light_and_names_every_default():
    program = (
        "import runpy, sys; sys.argv = ['explain.py', '--help']\n"
        "try: runpy.run_path('examples/explain.py', run_name='__main__')\n"
        f"except SystemExit as stop: print('heavy:', [name for name in {HEAVY} if name in sys.modules], stop.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: [] 0"
    for action in explain.build_parser()._actions:
        if action.option_strings and action.dest != "help":
            assert "default: " in action.help or "(required" in action.help, action.dest


# Checks


def test_checks_write_a_report_and_say_whether_all_passed(model, index, tmp_path, capsys):
    out = tmp_path / "out"
    asked = (
        "--sanity",
        "--model",
        model,
        "--index",
        index,
        "--output",
        out,
        "--method",
        "layercam",
        "--method",
        "regions",
    )
    code, said, _ = run(capsys, *asked, "--items", 5, "--randomised_items", 2)
    report = json.loads((out / explain.CHECKS_FILE).read_text())
    every = [m["passes"] for check in ("pointing", "randomisation") for m in report[check]["methods"].values()]
    assert len(every) == 4 and code == (0 if all(every) else 1)
    assert code == 1  # grey films: these weights cannot know where the box is
    assert report["settings"]["items"] == 5 and report["pointing"]["items"] == 5
    assert "pointing game: 5 questions of 5 patients" in said and "1000000" not in said
    assert run(capsys, *asked)[0] == 3  # not written over
    assert json.loads((out / explain.CHECKS_FILE).read_text()) == report


def test_a_look_at_the_test_split_is_recorded(model, tmp_path, capsys):
    questions = [("D03_where_is_finding", TEXTS[1], 1 << 8, 4)]
    study = {"split": "test", "questions": questions, "boxes": [(8, 0.2, 0.2, 0.6, 0.6)]}
    index = write_mini_index(tmp_path / "index", [study, study], side=SIZE).path
    ledger = model.parent / "test_ledger.jsonl"
    asked = ("--sanity", "--model", model, "--index", index, "--method", "regions", "--output", tmp_path / "out")
    try:
        run(capsys, *asked, "--split", "test")
        (line,) = map(json.loads, ledger.read_text().splitlines())
        assert (line["model"], line["explanations"]) == ("best_model", ["regions"])
        assert json.loads((tmp_path / "out" / explain.CHECKS_FILE).read_text())["model_sha256"] == line["model_sha256"]
    finally:
        ledger.unlink(missing_ok=True)


def test_an_index_that_is_not_there_is_one_line(model, tmp_path, capsys):
    code, _, err = run(capsys, "--sanity", "--model", model, "--index", tmp_path / "no", "--output", tmp_path / "out")
    assert (code, err.count("\n")) == (3, 1) and "no index in" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_that_was_trained_is_checked_by_command(tmp_path):
    """From a training of a few steps to the report, in processes of their own."""
    index = make_index(tmp_path)
    make_trainer(index, make_config(tmp_path / "checkpoints")).fit()
    command = [sys.executable, str(ROOT / "examples" / "explain.py"), "--sanity", "--index", str(index.path)]
    command += ["--model", str(tmp_path / "checkpoints" / "best_model"), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # eight steps on grey films teach nothing, and the checks say so
    report = json.loads((tmp_path / "out" / explain.CHECKS_FILE).read_text())
    assert set(report["pointing"]["methods"]) == {"layercam", "regions"}
    assert not report["pointing"]["methods"]["layercam"]["passes"]
