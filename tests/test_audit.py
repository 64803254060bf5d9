"""What makes a score worthless is named: shared patients, studies and pictures, and answers that do not come from the image."""

import numpy as np
import torch

from data.image_hashes import CLOSE, close_pairs, hash_of, image_hashes
from data.images import encode
from data.index import open_index
from data.label_space import HEADS, Head
from data.overlap import unknown_names
from tests.evaluation_stub import StubModel, StubQuestionOnly, make_setup
from tests.mini_index import write_mini_index
from training import evaluation as evaluation_module
from training.audit import audit_index, leaks
from training.evaluation import evaluate
from training.report import build_report


def film(seed, side=64):
    """Broad shapes, as a film has them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (9, 9)).astype(float)
    grid = np.linspace(0, 8, side)
    rows = np.stack([np.interp(grid, np.arange(9), column) for column in small.T], axis=1)
    return np.stack([np.interp(grid, np.arange(9), row) for row in rows], axis=0).astype(np.uint8)


def write_films(index, films):
    path = index.path / "images" / "pixels.u8"
    path.write_bytes(b"".join(one.tobytes() for one in films))


def make_index(path, subjects, films):
    """A study each: two for training, the rest for validation."""
    studies = [
        {
            "split": "train" if n < 2 else "validate",
            "subject": subject,
            "questions": [("D02_has_finding", "Nodule?", n % 2, 4)],
        }
        for n, subject in enumerate(subjects)
    ]
    index = write_mini_index(path, studies, side=64)
    write_films(index, films)
    return index


def test_nothing_is_found_where_nothing_is(tmp_path):
    found = audit_index(make_index(tmp_path / "i", [1, 2, 3, 4], [film(n) for n in range(4)]), "validate")
    assert found["findings"] == []
    assert [found[kind]["n"] for kind in ("patients", "studies", "images", "same_pictures")] == [0] * 4


def test_a_patient_of_both_splits_is_named_by_its_hash(tmp_path):
    found = audit_index(make_index(tmp_path / "i", [1, 2, 2, 4], [film(n) for n in range(4)]), "validate")
    assert found["patients"]["n"] == 1 and len(found["patients"]["examples"][0]) == 12
    again = audit_index(open_index(tmp_path / "i"), "validate")
    assert again["patients"]["examples"] != found["patients"]["examples"], "an id that can be tried out is no secret"
    assert found["findings"] == ["of the split validate, 1 patients are in training too"]
    assert "2" not in found["patients"]["examples"]


def test_the_same_picture_compressed_and_brighter_is_found(tmp_path):
    import simplejpeg

    again = simplejpeg.decode_jpeg(encode(film(1), "jpeg"), "GRAY")[..., 0]
    brighter = np.clip(again.astype(int) + 12, 0, 255).astype(np.uint8)
    index = make_index(tmp_path / "i", [1, 2, 3, 4], [film(0), film(1), brighter, film(3)])
    found = audit_index(index, "validate")
    assert found["same_pictures"]["n"] == 1
    assert "looks the same" in found["findings"][0]
    assert (index.path / "hashes" / "dhash.npy").exists()
    np.testing.assert_array_equal(image_hashes(index), np.stack([hash_of(index.pixels[n]) for n in range(4)]))


def test_close_pairs_equal_brute_force():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (30, 32), dtype=np.uint8)
    others = np.concatenate([hashes[:5], rng.integers(0, 256, (20, 32), dtype=np.uint8)])
    others[1, 0] ^= 0b111
    found = set(close_pairs(hashes, others))
    bits = np.unpackbits(hashes[:, None] ^ others[None], axis=2).sum(2)
    assert found == {(a, b, int(bits[a, b])) for a, b in zip(*np.nonzero(bits <= CLOSE), strict=True)}
    assert (1, 1, 3) in found


def test_real_films_are_told_apart(shared_dir):
    """Films of different patients are never close; the same film at another size nearly always is."""
    from data.images import decode

    paths = sorted((shared_dir / "real" / "nih-chestxray14" / "jpg512").glob("*.jpg"))
    first = {path.name.split("_")[0]: path for path in reversed(paths)}
    films = [decode(path, 224)[0] for path in list(first.values())[:150]]
    hashes = np.stack([hash_of(one) for one in films])
    assert {(a, b) for a, b, _ in close_pairs(hashes, hashes) if a != b} == set()
    smaller = np.stack([hash_of(decode(path, 128)[0]) for path in list(first.values())[:150]])
    found = {(a, b) for a, b, _ in close_pairs(hashes, smaller)}
    assert {a for a, b in found if a == b} == {a for a, _ in found}
    assert len(found) >= 0.97 * len(films), "a few lose more when they shrink to a third of the pixels"


# Answers that do not come from the image


PROVENANCE = {"split": "validate", "graph": "predicted", "synthetic": True, "confidence": 0.95}


class Fed(StubModel):
    """Is fed the targets of the batch at hand, as a model is that reads the report's graph in place of its own."""

    batch = None

    def answer(self, features, graph, questions, question_of, image_of):
        if self.batch is None or len(question_of) != len(self.batch.targets.binary):  # blank image, paraphrases
            return super().answer(features, graph, questions, question_of, image_of)
        truth = self.batch.targets
        hot = {"category": truth.category, "region": truth.region}
        hot |= {
            head: torch.nn.functional.one_hot(getattr(truth, head).clamp(min=0), len(HEADS[Head(head)].classes)).float()
            for head in ("binary", "severity")
        }
        return {head: 8 * value - 4 for head, value in hot.items()}, None


class Blind(StubModel):
    """Guesses, whatever is shown."""

    def answer(self, features, graph, questions, question_of, image_of):
        random = torch.Generator().manual_seed(int(question_of.sum()) + len(question_of))
        guess = {
            head.value: torch.randn(len(question_of), len(spec.classes), generator=random)
            for head, spec in HEADS.items()
        }
        return guess, None


class GuessingText(StubQuestionOnly):
    """Knows as little."""

    def forward(self, questions, question_of):
        random = torch.Generator().manual_seed(7)
        return {
            head.value: torch.randn(len(question_of), len(spec.classes), generator=random)
            for head, spec in HEADS.items()
        }


def report_of(setup, model, question_only, graph="predicted"):
    evaluation = evaluate(model, question_only, setup.dataset, setup.train, graph=graph)
    return build_report(evaluation, {}, PROVENANCE, samples=500)


def test_a_model_that_is_fed_the_answers_is_named(tmp_path, monkeypatch):
    setup = make_setup(tmp_path, list(range(40)))
    model, batches = Fed(setup.model.num_entities), evaluation_module._batches

    def watched(*arguments):
        for batch in batches(*arguments):
            model.batch = batch
            yield batch

    monkeypatch.setattr(evaluation_module, "_batches", watched)
    report = report_of(setup, model, setup.question_only)
    assert report["rows"]["model"]["binary"]["balanced_accuracy"] == 1
    assert any(line.startswith("binary: 100 %") for line in report["audit"]["leaks"])


def test_a_blind_model_gains_nothing(tmp_path):
    setup = make_setup(tmp_path, list(range(60)))
    report = report_of(setup, Blind(setup.model.num_entities), GuessingText())
    for group in ("binary", "severity"):
        gain = report["gain"][group]
        assert gain["low"] < 0 < gain["high"] and gain["p"] > 0.05, group
    assert report["audit"]["leaks"] == []


def test_answers_from_the_reports_graph_are_no_result(tmp_path):
    setup = make_setup(tmp_path, list(range(20)))
    report = report_of(setup, setup.model, setup.question_only, graph="oracle")
    assert report["audit"]["leaks"][0].startswith("the row `model` answers from the report's graph")


def test_the_test_split_is_compared_with_validation_too(tmp_path):
    splits = ("train", "train", "validate", "test")
    studies = [
        {"split": split, "subject": subject, "questions": [("D02_has_finding", "Nodule?", n % 2, 4)]}
        for n, (split, subject) in enumerate(zip(splits, (1, 2, 3, 3), strict=True))
    ]
    index = write_mini_index(tmp_path / "i", studies, side=64)
    write_films(index, [film(n) for n in (0, 1, 2, 2)])
    found = audit_index(index, "test")
    assert found["patients"]["n"] == found["same_pictures"]["n"] == 1
    assert found["findings"][0] == "of the split test, 1 patients are in training or validation too"
    assert audit_index(index, "validate")["findings"] == []


def test_an_honest_model_is_not(tmp_path):
    setup = make_setup(tmp_path, list(range(30)))
    evaluation = evaluate(setup.model, setup.question_only, setup.dataset, setup.train)
    assert build_report(evaluation, {}, PROVENANCE, samples=300)["audit"]["leaks"] == []


def test_a_better_reader_of_questions_is_no_leak():
    own = {"binary": {"value": 0.4, "low": 0.35, "high": 0.45}}
    assert leaks(own, {"binary": {"value": 0.03, "low": 0.01, "high": 0.05}}) == []
    found = leaks(own, {"binary": {"value": 0.3, "low": 0.2, "high": 0.4}})
    assert found and found[0].startswith("binary: 75 %")
    assert leaks(own, {"binary": {"value": 0.3, "low": None, "high": None}}) == []


def test_what_has_an_odd_form_is_no_unknown_name(tmp_path):
    index = write_mini_index(
        tmp_path / "index", [{"split": "train", "questions": [("D02_has_finding", "Nodule?", 1, 4)] * 4}]
    )
    index.meta["unmapped"] = {"region": {"tail": 2, "fin": 1}, "box": {"empty": 9}, "question_id": {"again": 3}}
    assert unknown_names(index) == {"region": {"n": 3, "per_question": 0.75}}
