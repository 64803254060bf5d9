"""Frozen encoders: weights that stay, and outputs that are computed once."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from configs.mimic_cxr_config import load_config
from data.feature_store import FeatureMaps
from data.loader import make_loader
from tests import tiny_training
from training import frozen
from training.frozen import freeze, read_kept_features
from training.loss import MultiTaskLoss
from utils.errors import ConfigError, DataError

BOTH = ("freeze_image_encoder", "freeze_text_encoder")


@pytest.fixture
def index(tmp_path):
    return tiny_training.make_index(tmp_path)


def trainer_of(index, tmp_path, *names, kept=True, **options):
    """A trainer whose encoders of these settings are frozen; `kept`: with stored outputs."""
    config = tiny_training.make_config(tmp_path / "run", **dict.fromkeys(names, True), **options)
    config.data.augmentation = False
    trainer = tiny_training.make_trainer(index, config)
    freeze(config, trainer.model)
    if kept:
        read_kept_features(config, trainer.model, (trainer.train_data, trainer.val_data), trainer.processes)
    return trainer


def outputs_of(trainer):
    """Outputs and loss of a batch, and the gradients of the loss."""
    batch = next(make_loader(trainer.train_data, 4)).on("cpu")
    trainer.model.train()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    outputs = trainer.model(batch.images, batch.questions, batch.question_of, batch.image_of)
    loss = MultiTaskLoss(trainer.settings)
    loss(outputs, batch, loss.window_counts([batch])).total.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return outputs, gradients


@pytest.mark.parametrize("names", [BOTH[:1], BOTH[1:], BOTH])
def test_stored_outputs_are_those_of_the_encoder(index, tmp_path, names):
    computed, expected = outputs_of(trainer_of(index, tmp_path, *names, kept=False))
    stored_trainer = trainer_of(index, tmp_path, *names)
    stored, found = outputs_of(stored_trainer)
    for head, logits in computed.logits.items():  # half precision has three digits
        torch.testing.assert_close(stored.logits[head], logits, rtol=5e-3, atol=5e-3)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        scale = gradient.abs().max() + 1e-6
        assert (found[name] - gradient).abs().max() < 2e-2 * scale, name
    batch = next(make_loader(stored_trainer.train_data, 4))
    assert isinstance(batch.images, FeatureMaps) == ("freeze_image_encoder" in names)
    assert (batch.questions.states is not None) == ("freeze_text_encoder" in names)


def test_weights_of_a_frozen_encoder_stay_and_the_others_learn(index, tmp_path):
    trainer = trainer_of(index, tmp_path, *BOTH)
    before = tiny_training.weights_of(trainer)
    trainer.fit()
    for name, value in tiny_training.weights_of(trainer).items():
        is_frozen = name.startswith(("image_encoder.backbone.", "question_encoder.model."))
        if is_frozen:
            assert torch.equal(value, before[name]), name
    changed = [
        name for name, value in tiny_training.weights_of(trainer).items() if not torch.equal(value, before[name])
    ]
    assert any(name.startswith("image_encoder.project") for name in changed)


def test_a_run_with_frozen_encoders_resumes(index, tmp_path):
    trainer_of(index, tmp_path, *BOTH, max_steps=8).fit()
    straight = (tmp_path / "run" / "best_model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "best_model")
    for step in ("step-00000006", "step-00000008"):
        shutil.rmtree(tmp_path / "run" / step, ignore_errors=True)
    config = tiny_training.make_config(tmp_path / "run", **dict.fromkeys(BOTH, True))
    config.data.augmentation = False
    trainer = tiny_training.make_trainer(index, config, resume="auto")
    freeze(config, trainer.model)
    read_kept_features(config, trainer.model, (trainer.train_data, trainer.val_data), trainer.processes)
    trainer.fit()
    assert (tmp_path / "run" / "best_model" / "model.safetensors").read_bytes() == straight


def test_a_second_start_computes_nothing(index, tmp_path, monkeypatch):
    trainer_of(index, tmp_path, *BOTH)
    monkeypatch.setattr(frozen, "_filler", lambda *_: lambda array: pytest.fail("computed again"))
    again = trainer_of(index, tmp_path, *BOTH)
    assert isinstance(again.train_data.image_features, np.memmap)


def test_other_weights_have_outputs_of_their_own(index, tmp_path):
    trainer_of(index, tmp_path, *BOTH)
    trainer_of(index, tmp_path, *BOTH, seed=8)
    assert len(list((index.path / "features").iterdir())) == 4


def test_with_augmentation_a_frozen_image_encoder_goes_on_computing(index, tmp_path):
    config = tiny_training.make_config(tmp_path / "run", freeze_image_encoder=True)
    trainer = tiny_training.make_trainer(index, config)
    freeze(config, trainer.model)
    read_kept_features(config, trainer.model, (trainer.train_data, trainer.val_data), trainer.processes)
    assert trainer.train_data.image_features is None
    _, gradients = outputs_of(trainer)
    assert not any(name.startswith("image_encoder.backbone.") for name in gradients)


def test_without_room_nothing_is_written(index, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 100))
    with pytest.raises(DataError, match=r"need .* GB, .* GB are free: free space, or set training.freeze"):
        trainer_of(index, tmp_path, *BOTH)
    assert not list((index.path / "features").iterdir())


@pytest.mark.parametrize("name", BOTH)
def test_random_weights_are_not_frozen(name):
    with pytest.raises(ConfigError, match=f"training.{name} .*would keep random weights: set model.pretrained to true"):
        load_config(sets=["model.pretrained=false", f"training.{name}=true"])


def test_a_frozen_backbone_has_no_stochastic_depth(index, tmp_path):
    trainer = trainer_of(index, tmp_path, *BOTH)
    trainer.model.train()
    assert trainer.model.training and not trainer.model.image_encoder.backbone.training
    assert not trainer.model.question_encoder.model.training and trainer.model.image_encoder.project.training
