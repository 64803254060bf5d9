"""Exports of other models than the usual one, and their scores; each takes the exporter half a minute."""

import numpy as np
import pytest
import torch

from data.label_space import HEADS
from models.onnx_graphs import write_graphs
from models.onnx_model import OnnxModel
from tests.asking_model import TRAINED
from tests.small_model import SIZE, TEXTS, build
from tests.test_export import SMALL, model_folder, shorten
from training import export_checks
from training.export_checks import TOLERANCE
from training.export_run import ExportJob, lines, run_export
from utils.errors import CheckpointError, ConfigError


@pytest.mark.slow
def test_what_the_exporter_cannot_express_is_one_line(tmp_path):
    model = build(**SMALL)
    model.image_encoder.normalised = lambda images: images * int(images.shape[0])
    with pytest.raises(
        ConfigError, match=r"the image graph cannot be exported to ONNX \(.+\): an encoder of this model"
    ):
        write_graphs(model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "concat"},
        {"fusion": "none"},
        {"joint_head": True, "image_normalization": "image"},
        {"visual_backbone": "resnet10t", "visual_kwargs": {"channels": [8, 16, 16, 24], "stem_width": 8}},
        {"visual_backbone": "test_vit", "image_normalization": "image"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values()))[:30],
)
def test_other_models_export_too(tmp_path, changes):
    own = {"visual_kwargs": {}} if "visual_backbone" in changes else {}
    folder = model_folder(tmp_path / "model", **(SMALL | own | changes))
    report = run_export(ExportJob(folder, tmp_path / "out", int8=True, samples=8, threads=1))
    assert max(report["differences"].values()) <= TOLERANCE
    model = OnnxModel.from_pretrained(tmp_path / "out", "int8", threads=1)
    film = model.encode_images(np.zeros((1, 1, SIZE, SIZE), np.float32))
    assert len(model.ask(film, TEXTS)) == 4
    assert model.manifest.reads_graph == (changes.get("fusion") != "none")
    assert any("without a graph" in name for name in report["differences"]) == model.manifest.reads_graph


@pytest.mark.slow
def test_weights_beside_the_graphs(tmp_path, monkeypatch):
    """As of models of 2 GB and more."""
    monkeypatch.setattr("models.onnx_graphs.LARGE", 0)
    trained = model_folder(tmp_path / "model", **SMALL)
    run_export(ExportJob(trained, tmp_path / "out", int8=True, samples=2, threads=1))
    assert (tmp_path / "out" / "image.onnx.data").exists()
    assert (tmp_path / "out" / "fusion.int8.onnx.data").exists()
    film = np.zeros((1, 1, SIZE, SIZE), np.float32)
    OnnxModel.from_pretrained(tmp_path / "out", "int8", threads=1).encode_images(film)
    shorten(tmp_path / "out" / "image.onnx.data")
    with pytest.raises(CheckpointError, match=r"image.onnx.data: not the file that was exported"):
        OnnxModel.from_pretrained(tmp_path / "out")


@pytest.mark.slow
def test_scores_on_an_index(tmp_path, monkeypatch):
    """fp32 scores are those of the evaluation; a limit takes whole visits."""
    from tests.tiny_training import make_config, make_index, make_trainer
    from training.evaluation import evaluate
    from training.metrics import HEADLINE, score_head
    from training.predictions import decide

    index = make_index(tmp_path)
    config = make_config(tmp_path / "checkpoints")
    trainer = make_trainer(index, config)
    torch.nn.init.normal_(trainer.model.region_predictor.box[-1].weight, std=0.01)  # as if it had been trained
    trainer.model.save_pretrained(tmp_path / "model", trainer.tokenizer, config, TRAINED)
    job = ExportJob(tmp_path / "model", tmp_path / "out", int8=True, index=index.path, threads=1)
    report = run_export(job)
    assert report["samples"]["from"] == "validation split"
    trainer.model.eval()
    evaluation = evaluate(trainer.model, None, trainer.val_data, None)
    for head in HEADS:
        given = evaluation.answers["model"][head]
        truth = evaluation.questions.targets(head)
        one = report["accuracy"][head.value]
        assert one["n"] == len(truth)
        expected = score_head(head, given, decide(head, given), truth)[HEADLINE[head]]
        assert one["scores"]["fp32"] == pytest.approx(expected, abs=1e-6)
        assert 0 <= one["agreement"] <= 1
    assert "validation" in "\n".join(lines(report))
    fp32 = OnnxModel.from_pretrained(tmp_path / "out", threads=1)
    fewer = export_checks.accuracy({"fp32": fp32}, trainer.val_data, 10)
    assert 0 < sum(one["n"] for one in fewer.values()) <= 15
