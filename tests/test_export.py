"""Exported models: the graphs are the model, run without PyTorch, and mistakes end in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("onnx", reason="pip install -r requirements-export.txt")
pytest.importorskip("onnxscript", reason="pip install -r requirements-export.txt")
pytest.importorskip("onnxruntime", reason="pip install -r requirements-export.txt")

from configs.mimic_cxr_config import Config
from data.frames import Frame, Pictures
from data.label_space import HEADS, QUESTION_TYPES, Head
from data.letterbox import letterbox
from models.onnx_folder import GRAPHS, MANIFEST, REPORT, file_of
from models.onnx_model import OnnxModel, probabilities
from models.routing import ROUTING, Router
from tests.asking_model import TRAINED, drawn_film, write_film
from tests.small_model import SIZE, TEXTS, VOCABULARY, build, model_config, small_tokenizer
from training.export_checks import TOLERANCE, compare, generated_samples
from training.export_run import ExportJob, lines, run_export
from utils.errors import CheckpointError, ConfigError, DataError
from utils.utils import sha256_of

ROOT = Path(__file__).resolve().parent.parent
BACKBONE = {"visual_backbone": "convnext_atto", "visual_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}}
SMALL = {"fusion_depth": 1, "graph_layers": 1, **BACKBONE}


def model_folder(path: Path, config: Config | None = None, **changes) -> Path:
    config = config or Config()
    config.model, config.data.image_size = model_config(**changes), SIZE
    model = build(**changes)
    model.credentialed = False
    model.save_pretrained(path, small_tokenizer(), config, TRAINED)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return model_folder(tmp_path_factory.mktemp("export") / "best_model", **SMALL)


@pytest.fixture(scope="module")
def report(trained) -> dict:
    """An export was written beside `trained`."""
    (trained / "temperature.json").write_text(
        json.dumps({"binary": 2.0, "region": 0.5, "model_sha256": sha256_of(trained / "model.safetensors")})
    )
    (trained / ROUTING).write_text(
        json.dumps({"threshold": 0.7, "model_sha256": sha256_of(trained / "model.safetensors")})
    )
    return run_export(ExportJob(trained, trained.parent / "exported", int8=True, samples=8, threads=1))


@pytest.fixture(scope="module")
def exported(trained, report) -> Path:
    return trained.parent / "exported"


@pytest.fixture(scope="module")
def onnx(exported) -> OnnxModel:
    return OnnxModel.from_pretrained(exported, threads=1)


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


# The graphs are the model


def test_every_output_is_the_models(report):
    named = {name.partition(".")[0] for name in report["differences"]}
    assert named == {"image", "question", "fusion"}
    heads = [f"fusion.{head.value}{suffix}" for head in HEADS for suffix in ("", " without a graph")]
    assert set(heads) <= set(report["differences"])
    assert max(report["differences"].values()) <= TOLERANCE
    assert report["samples"] == {"films": 8, "questions": 32, "from": "generated films"}


def test_int8_is_nearly_the_same_and_smaller(report, exported):
    assert report["megabytes"]["int8"] < report["megabytes"]["fp32"]
    for name, size in report["megabytes"].items():
        files = [exported / file_of(graph, name) for graph in ("image", "question", "fusion")]
        assert size == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, abs=0.01)
    assert all(0.8 < one["share"] <= 1 for one in report["agreement"].values())
    assert any(one["largest_difference"] > 1e-4 for one in report["agreement"].values())  # it is another model


def test_the_report_is_beside_the_graphs_and_in_the_table(report, exported):
    assert json.loads((exported / REPORT).read_text()) == report
    text = "\n".join(lines(report))
    assert "8 films and 32 questions (generated films)" in text
    assert all(f"{head.value} " in text for head in HEADS)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_operator_is_run_that_is_slower_than_its_steps(exported, precision, tmp_path, monkeypatch):
    """In the graphs as ONNX Runtime rewrites them when it loads them."""
    import onnx
    import onnxruntime

    written = iter(tmp_path / f"{graph}.onnx" for graph in GRAPHS)

    class Kept(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            self.optimized_model_filepath = str(next(written))

    monkeypatch.setattr(onnxruntime, "SessionOptions", Kept)
    OnnxModel.from_pretrained(exported, precision, threads=1)
    used = {graph: {node.op_type for node in onnx.load(tmp_path / f"{graph}.onnx").graph.node} for graph in GRAPHS}
    assert all("LayerNormalization" in operators for operators in used.values())
    assert "ReduceMax" in used["fusion"]
    assert set.union(*used.values()) & {"SkipLayerNormalization", "ReduceLogSumExp", "IsNaN"} == set()


@pytest.mark.parametrize(("films", "texts"), [(1, 1), (1, 3), (2, 4)])
def test_sizes_are_free_and_neighbours_do_not_matter(onnx, films, texts):
    rng = np.random.default_rng(0)
    images = (255 * rng.random((2, 1, SIZE, SIZE))).astype(np.float32)
    every = np.arange(4), np.arange(4) % 2
    whole = onnx.answer(onnx.encode_images(images), onnx.encode_texts(onnx.tokens(TEXTS)), *every)
    some = np.arange(texts), np.arange(texts) % films
    part = onnx.answer(onnx.encode_images(images[:films]), onnx.encode_texts(onnx.tokens(TEXTS[:texts])), *some)
    rows = [i for i in range(texts) if films == 2 or i % 2 == 0]  # the same film as in the whole
    for name, values in part.items():
        np.testing.assert_allclose(values[rows], whole[name][rows], atol=1e-4)


def test_a_graph_that_is_another_model_is_refused(trained, onnx):
    """The comparison can fail: one weight of the model is moved."""
    from models.mimic_vqa_model import SSGVQA

    model, tokenizer, _, _ = SSGVQA.from_pretrained(trained)
    samples = generated_samples(SIZE, 32, tokenizer, VOCABULARY, 3)
    compare(model, tokenizer, onnx, samples)
    with torch.no_grad():
        model.heads["region"][-1].bias[3] += 3e-4
    with pytest.raises(
        CheckpointError, match=r"fusion.region differs by 3.0e-04 in call 1 of 2 \(1 films, 4 questions\)"
    ):
        compare(model, tokenizer, onnx, samples)
    with torch.no_grad():
        model.heads["region"][-1].bias[3] = torch.nan
    with pytest.raises(CheckpointError, match="fusion.region differs by nan"):
        compare(model, tokenizer, onnx, samples)


def test_nothing_is_written_where_graph_and_model_differ(trained, tmp_path, monkeypatch):
    """Also what was exported there before stays."""
    monkeypatch.setattr("training.export_run.write_graphs", lambda model, folder: _broken(trained, folder))
    earlier = tmp_path / "out"
    earlier.mkdir()
    (earlier / MANIFEST).write_text("earlier")
    with pytest.raises(CheckpointError, match="the exported graphs are not the model: image.grid differs"):
        run_export(ExportJob(trained, earlier, samples=1, threads=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (earlier / MANIFEST).read_text() == "earlier"


def _broken(trained: Path, folder: Path) -> None:
    """The graphs of an export with one number changed."""
    import onnx as library

    for graph in ("image", "question", "fusion"):
        shutil.copy(trained.parent / "exported" / f"{graph}.onnx", folder)
    model = library.load(folder / "image.onnx")
    weight = next(one for one in model.graph.initializer if list(one.dims) == [32] and one.data_type == 1)
    values = library.numpy_helper.to_array(weight) + 0.1
    weight.CopyFrom(library.numpy_helper.from_array(values.astype(np.float32), weight.name))
    for one in model.graph.initializer:  # all vectors of that width: some of them reach the grid
        if list(one.dims) == [32] and one.data_type == 1:
            moved = library.numpy_helper.to_array(one) + np.float32(0.1)
            one.CopyFrom(library.numpy_helper.from_array(moved, one.name))
    library.save(model, folder / "image.onnx")


# Use without PyTorch


def test_a_film_is_asked(onnx, tmp_path):
    film = onnx.read_images([write_film(tmp_path / "film.png")])
    answers = onnx.ask(film, [TEXTS[1], TEXTS[0], TEXTS[1]])
    assert [one.question for one in answers] == [TEXTS[1], TEXTS[0], TEXTS[1]]
    assert answers[0] == answers[2]
    assert [one.head for one in answers] == [Head.REGION, Head.BINARY, Head.REGION]  # as the words say
    for one in answers:
        spec = HEADS[one.head]
        assert tuple(one.probabilities) == spec.classes
        best = max(one.probabilities, key=one.probabilities.get)
        above = tuple(name for name, share in one.probabilities.items() if share >= 0.5)
        assert one.classes == (above if spec.multi_label else (best,))
        assert sum(one.looks.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("question", "said"),
    [("How old is the patient?", "the patient"), ("Why?", "a cause"), ("Nodule?", "confidence 0.30, needed 0.70")],
)
def test_what_the_model_folder_refuses_the_export_refuses(onnx, trained, question, said, monkeypatch):
    """Rules for words and the measured threshold, as in `models.asking`; whatever type the classifier takes it for."""
    logits = np.full(len(QUESTION_TYPES) + 1, -np.inf, np.float32)
    of = {head: [i for i, kind in enumerate(QUESTION_TYPES) if kind.head == head] for head in Head}
    logits[of[Head.BINARY][0]], logits[of[Head.REGION][0]], logits[-1] = np.log([0.3, 0.2, 0.5])
    encode = onnx.encode_texts
    monkeypatch.setattr(onnx, "encode_texts", lambda tokens: encode(tokens) | {"question_type": logits[None]})
    film = onnx.encode_images(np.zeros((1, 1, SIZE, SIZE), np.float32))
    (one,) = onnx.ask(film, [question])
    assert (one.type, one.head, one.classes, one.probabilities) == ("unsupported", None, (), None)
    assert said in one.reason
    router = Router.of_folder(trained, sha256_of(trained / "model.safetensors"), VOCABULARY)
    assert one.reason == router.route(question, torch.from_numpy(logits)).reason


def test_temperatures_of_these_weights_are_used(onnx):
    assert [onnx.manifest.temperature(head.value) for head in HEADS] == [2.0, None, 0.5, None]
    film = onnx.encode_images(np.zeros((1, 1, SIZE, SIZE), np.float32))
    texts = onnx.encode_texts(onnx.tokens(["Is there edema?"]))
    logits = onnx.answer(film, texts, np.array([0]), np.array([0]))["binary"][0].astype(float)
    (one,) = onnx.ask(film, ["Is there edema?"])
    expected = 1 / (1 + np.exp((logits[0] - logits[1]) / 2))
    assert one.probabilities["yes"] == pytest.approx(expected)


def test_probabilities_by_hand():
    np.testing.assert_allclose(probabilities("binary", np.log([[1.0, 3.0]])), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities("binary", np.log([[1.0, 9.0]]), 2.0), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities("region", np.array([[0.0, np.log(3), 1e4, -1e4]])), [[0.5, 0.75, 1, 0]])


def test_long_questions_are_cut_and_said(onnx, caplog):
    caplog.set_level("WARNING", "ssgvqa")
    assert onnx.tokens(["heart " * 100, "heart"])["input_ids"].shape == (2, 32)
    assert "1 of 2 questions have more than 32 word pieces and are cut" in caplog.text


def test_what_is_no_frontal_film_is_answered_by_force_alone(onnx, tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (90, 120), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for image in (noise, tmp_path / "noise.png"):
        with pytest.raises(DataError, match="not a frontal chest film"):
            onnx.read_images([drawn_film(), image])
        assert len(onnx.read_images([drawn_film(), image], force=True)["boxes"]) == 2
    with pytest.raises(DataError, match="no film"):
        onnx.read_images([])


PROGRAM = """
import sys
from models.onnx_model import OnnxModel
model = OnnxModel.from_pretrained(sys.argv[1], "int8", threads=1)
film = model.read_images([sys.argv[2]])
print(len(model.ask(film, ["Is there effusion?", "Where?"])))
print([name for name in ("torch", "torchvision", "transformers", "timm", "pandas", "onnx") if name in sys.modules])
"""


def test_pytorch_is_not_imported(exported, tmp_path):
    write_film(tmp_path / "film.png")
    command = [sys.executable, "-c", PROGRAM, str(exported), str(tmp_path / "film.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["2", "[]"], done.stderr


# Preprocessing


@given(st.integers(16, 90), st.integers(16, 90), st.sampled_from([32, 64]), st.integers(0, 99))
def test_letterboxing_is_that_of_training(height, width, side, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    frame = Frame.letterbox(np.array([width]), np.array([height]))
    expected = Pictures.collect([pixels], np.array([0]), frame, side).render()[0, 0].numpy()
    np.testing.assert_allclose(letterbox(pixels, side), expected, atol=0.05)


def test_letterboxing_by_hand():
    found = letterbox(np.full((16, 32), 200, np.uint8), 32)
    assert found.shape == (32, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found[8:24], 200)
    assert (found[:7] == 0).all() and (found[25:] == 0).all()
    # made from an original of another form: the form of that one counts
    square = letterbox(np.full((16, 32), 200, np.uint8), 32, width=10, height=10)
    np.testing.assert_allclose(square[1:-1], 200)  # the edge of what was enlarged fades into black, as in training


def test_arrays_that_are_no_film_are_refused(onnx):
    for wrong in (np.zeros((3, 4)), np.zeros((1, 3, 4), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(DataError, match=r"must be \(h, w\) of uint8"):
            onnx.read_images([wrong])


def test_an_empty_question_is_refused(onnx):
    for wrong in ([], [" "]):
        with pytest.raises(DataError, match="empty question"):
            onnx.ask({}, wrong)


@pytest.mark.parametrize("image_of", [[1], [-1], [], [0, 0]])
def test_a_film_that_was_not_encoded_is_refused(onnx, image_of):
    film = onnx.encode_images(np.zeros((1, 1, SIZE, SIZE), np.float32))
    with pytest.raises(DataError, match="image_of must hold a number from 0 to 0 for each of 1 questions"):
        onnx.ask(film, [TEXTS[0]], image_of)


def test_one_text_is_not_taken_for_many(onnx):
    with pytest.raises(DataError, match="a list of texts"):
        onnx.ask(onnx.encode_images(np.zeros((1, 1, SIZE, SIZE), np.float32)), TEXTS[0])


# Damage and mistakes


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (lambda f: (f / MANIFEST).unlink(), CheckpointError, "no exported model"),
        (lambda f: (f / MANIFEST).write_text("{"), CheckpointError, "manifest.json: damaged"),
        (lambda f: (f / MANIFEST).write_text("[]"), CheckpointError, "manifest.json: damaged"),
        (lambda f: (f / "fusion.onnx").unlink(), CheckpointError, "it lacks fusion.onnx"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), CheckpointError, "tokenizer.json: not the file"),
        (lambda f: shorten(f / "image.onnx"), CheckpointError, "image.onnx: not the file that was exported"),
        (lambda f: _set(f, label_space={"checksum": "x"}), CheckpointError, "other classes"),
        (lambda f: _set(f, format=99), CheckpointError, "format 99"),
    ],
)
def test_a_damaged_export_is_named(copied, harm, error, said):
    harm(copied)
    with pytest.raises(error, match=said):
        OnnxModel.from_pretrained(copied)


def test_a_precision_that_was_not_exported_is_named(copied):
    values = json.loads((copied / MANIFEST).read_text())
    _set(copied, sha256={name: value for name, value in values["sha256"].items() if "int8" not in name})
    with pytest.raises(ConfigError, match="no int8 graphs, only fp32; export with --int8"):
        OnnxModel.from_pretrained(copied, "int8")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _set(folder: Path, **values) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def command(*words, **variables) -> subprocess.CompletedProcess:
    program = [sys.executable, "scripts/export.py", *map(str, words)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_a_folder_with_other_files_is_not_written_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = command("nowhere", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} exists and is no exported model; name another folder\n"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'nowhere'}: no such folder"):
        run_export(ExportJob(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_wrong_options_end_at_once_and_help_is_instant():
    done = command("a", "b", "--samples", "0")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "scripts/export.py: error: argument --samples: 0: a whole number from 1 up",
    )
    program = (
        "import runpy, sys; sys.argv = ['scripts/export.py', '--help']\n"
        "try: runpy.run_path('scripts/export.py', run_name='__main__')\n"
        "except SystemExit: print([name for name in ('torch', 'numpy', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert " ".join(done.stdout.split()).count("(default: ") == 6


def test_missing_packages_are_named_with_how_to_install_them(tmp_path):
    program = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name.startswith('onnx') else find(name, *a)\n"
        f"sys.argv = ['scripts/export.py', 'model', {str(tmp_path / 'out')!r}]\n"
        "runpy.run_path('scripts/export.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: onnx, onnxscript, onnxruntime not installed; install with: pip install -r requirements-export.txt\n"
    )


def test_a_control_that_never_saw_a_film_is_refused(tmp_path):
    config = Config()
    config.data.blank_images = True
    folder = model_folder(tmp_path / "blank", config, **SMALL)
    with pytest.raises(ConfigError, match="a control that has never seen a film"):
        run_export(ExportJob(folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
