"""The report: what it promises to have, what is null, and that its tables say the same."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from configs.mimic_cxr_config import DataConfig
from data.label_space import CHEXPERT, Head
from tests.evaluation_stub import make_setup
from training.bootstrap import Resamples
from training.evaluation import ROWS, evaluate
from training.markdown import headline_lines, render_markdown
from training.predictions import Predictions, decide, question_fates
from training.report import GROUPS, build_report
from training.report.scorer import Scorer
from training.report.tables import interval, number, with_bounds
from training.scoring.ranking import auroc, average_precision, histogram
from utils.utils import write_json

PATIENTS = [0, 0, 1, 2, 2, 3, 4, 5, 6]
PROVENANCE = {
    "dataset": "look-alike release",
    "split": "validate",
    "graph": "predicted",
    "synthetic": True,
    "confidence": 0.95,
    "questions": 63,
    "patients": 7,
    "index_fingerprint": "0" * 16,
}


def make(path, patients=PATIENTS, controls=True, graph="predicted", **provenance):
    setup = make_setup(path, patients)
    control, train = (setup.question_only, setup.train) if controls else (None, None)
    evaluation = evaluate(setup.model, control, setup.dataset, train, graph=graph)
    fates = question_fates(setup.dataset.index, "validate", DataConfig())
    report = build_report(evaluation, fates, PROVENANCE | {"graph": graph} | provenance, samples=200)
    return SimpleNamespace(evaluation=evaluation, report=report)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return make(tmp_path_factory.mktemp("bare"), controls=False)


def test_rows_heads_and_metrics_are_the_promised_ones(made):
    rows = made.report["rows"]
    assert tuple(rows) == ROWS == (
        "model", "majority_type", "majority_text", "question_only", "blank_image", "shuffled_image",
        "graph_none", "graph_shuffled", "graph_oracle",
    )  # fmt: skip
    for row in rows.values():
        assert list(row) == ["binary", "category", "category_copy", "region", "severity"]
        for name, scores in row.items():
            single = {"n", "accuracy", "balanced_accuracy", "macro_f1"}
            several = {"n", "micro_f1", "macro_f1", "mean_average_precision", "exact_match"}
            assert (single if name in ("binary", "severity") else several) <= set(scores)


def test_report_is_strict_json(made, bare, tmp_path):
    for report in (made.report, bare.report):
        write_json(tmp_path / "report.json", report)

        def refuse(constant):
            raise AssertionError(constant)

        assert json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)["rows"].keys() == set(ROWS)


def test_values_are_those_of_scikit_learn(made):
    evaluation, rows = made.evaluation, made.report["rows"]
    truth = evaluation.questions.targets(Head.BINARY)
    for row in ROWS:
        said = decide(Head.BINARY, evaluation.answers[row][Head.BINARY])
        assert rows[row]["binary"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    where = evaluation.questions.targets(Head.REGION)
    said = decide(Head.REGION, evaluation.answers["model"][Head.REGION])
    assert rows["model"]["region"]["micro_f1"] == pytest.approx(f1_score(where, said, average="micro"))


def test_questions_that_name_their_class_are_kept_apart(made):
    rows, studies = made.report["rows"]["model"], len(PATIENTS)
    assert rows["category_copy"]["n"] == studies  # D01
    assert rows["category"]["n"] == 2 * studies  # B01, C01
    by_type = made.report["by_type"]
    assert rows["category_copy"]["micro_f1"] == by_type["D01_describe_finding"]["model"]["micro_f1"]


def test_types_add_up_to_heads(made):
    by_type, rows = made.report["by_type"], made.report["rows"]
    assert all(set(of_type) == set(ROWS) for of_type in by_type.values())
    assert sum(t["model"]["n"] for t in by_type.values()) == sum(rows["model"][name]["n"] for name in GROUPS)
    binary = ("D02_has_finding", "B13_has_devices")
    right = sum(by_type[t]["question_only"]["accuracy"] * by_type[t]["question_only"]["n"] for t in binary)
    assert right / rows["question_only"]["binary"]["n"] == pytest.approx(rows["question_only"]["binary"]["accuracy"])


def test_gain_is_the_difference_of_the_two_rows(made):
    rows = made.report["rows"]
    for name, gain in made.report["gain"].items():
        metric = gain["metric"]
        model, control = rows["model"][name][metric], rows["question_only"][name][metric]
        assert gain["value"] == pytest.approx(model - control)
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["n_patients"] == len(set(PATIENTS))
        assert made.report["interval"][name]["value"] == pytest.approx(model)
        assert made.report["headline"]["heads"][name]["gain"] == gain["value"]


def test_rows_that_were_not_computed_are_null_and_say_why(bare):
    report = bare.report
    assert report["rows"]["model"]["binary"]["balanced_accuracy"] is not None
    for row in ROWS[1:]:
        assert "--controls none" in report["missing_rows"][row]
        for name in GROUPS:
            assert report["rows"][row][name].keys() == report["rows"]["model"][name].keys()
            assert set(report["rows"][row][name].values()) == {None}
        assert all(set(of_type[row].values()) == {None} for of_type in report["by_type"].values())
    assert {(g["value"], g["low"], g["high"]) for g in report["gain"].values()} == {(None, None, None)}
    assert "n/a" in render_markdown(report)


def test_counts_hold_every_question(made):
    report, studies = made.report, len(PATIENTS)
    assert report["counts"] == {"evaluated": 8 * studies, "below_grade": studies, "unrated": studies}
    assert sum(n for fates in report["counts_by_type"].values() for n in fates.values()) == 10 * studies
    assert sum(report["rows"]["model"][name]["n"] for name in GROUPS) == report["counts"]["evaluated"]


def test_chexpert_counts_blank_no_finding_as_negative_and_undefined_as_null(made):
    table, evaluation = made.report["chexpert"], made.evaluation
    assert list(table) == list(CHEXPERT)
    labels = [i % 2 for i in range(len(PATIENTS))]
    assert table["Edema"] == {
        "auroc": pytest.approx(roc_auc_score(labels, evaluation.chexpert[:, 3])),
        "n_pos": sum(labels),
        "n_neg": len(labels) - sum(labels),
    }
    assert table["No Finding"] == {"auroc": None, "n_pos": 0, "n_neg": len(PATIENTS)}


def test_chexpert_has_intervals_of_labels_and_of_their_mean(made):
    intervals = made.report["chexpert_intervals"]
    assert intervals["radiologist"] == {}
    own = intervals["labeller"]
    assert set(own) == set(CHEXPERT) - {"No Finding"} | {"mean"}
    assert own["mean"]["labels"] == 13 and own["mean"]["value"] == made.report["headline"]["chexpert_mean_auroc"]
    for one in own.values():
        assert one["low"] <= one["value"] <= one["high"] and one["n_patients"] == len(set(PATIENTS))
    text = render_markdown(made.report)
    assert f"mean AUROC {with_bounds(own['mean'])} over 13 of 14 labels" in text
    assert "| No Finding | n/a (0 positives) |" in text


def test_a_class_that_does_not_occur_is_null_never_zero_or_one(tmp_path):
    report = make(tmp_path, patients=[0, 1]).report  # devices: the answer is always "no"
    devices = report["by_type"]["B13_has_devices"]["model"]
    assert devices["n"] == 2 and devices["balanced_accuracy"] is None and devices["accuracy"] is not None
    assert "n/a" in [cell.strip() for cell in render_markdown(report).replace("\n", "|").split("|")]


def test_markdown_says_what_data_first_and_marks_rows(made):
    text = render_markdown(made.report)
    first, _, banner = text.splitlines()[:3]
    assert "validate" in first and "look-alike" in first and "63 questions of 7 patients" in first
    assert "no clinical meaning" in banner
    assert "graph_oracle (not deployable)" in text
    assert "graph_none (swapped at test)" in text and "graph_shuffled (swapped at test)" in text
    real = render_markdown(
        made.report | {"provenance": PROVENANCE | {"synthetic": False, "dataset": "MIMIC-Ext-CXR-QBA"}}
    )
    assert "clinical" not in real and "look-alike" not in real


def test_markdown_has_the_same_numbers(made):
    text = render_markdown(made.report)
    for row, name, metric in [("model", "binary", "auroc"), ("blank_image", "region", "macro_f1")]:
        section = text.split(f"## Head {name}\n")[1].split("\n## ")[0].splitlines()
        header = [cell.strip() for cell in section[1].strip("|").split("|")]
        cells = next(line for line in section if line.startswith(f"| {row} "))
        bounds = made.report["intervals"][row][name][metric]
        column = header.index({"auroc": "AUROC", "macro_f1": "macro-F1"}[metric])
        cell = cells.strip("|").split("|")[column].strip()
        value = f"{number(made.report['rows'][row][name][metric])} [{bounds['low']:.3f}, {bounds['high']:.3f}]"
        left_out = f" ({bounds['dropped']} left out)" if bounds["dropped"] else ""
        assert cell == value + left_out


def test_every_table_row_has_as_many_cells_as_its_header(made):
    width = None
    for line in render_markdown(made.report).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_another_graph_is_labelled_wherever_the_model_row_stands(tmp_path):
    report = make(tmp_path, graph="oracle").report
    assert "model (graph oracle: not deployable)" in render_markdown(report)
    assert any(line.startswith("model (graph oracle: not deployable)") for line in headline_lines(report))


def test_headline_table_is_aligned_and_ends_with_the_gain(made):
    lines = headline_lines(made.report)
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[3 : 3 + len(ROWS)]] == list(ROWS)
    gain = made.report["gain"]["binary"]
    assert f"{gain['value']:+.3f}" in lines[-2] and f"[{gain['low']:+.3f}, {gain['high']:+.3f}]" in lines[-1]


def test_numbers_for_people():
    assert (number(None), number(1234), number(0.5)) == ("n/a", "1,234", "0.500")
    assert interval({"value": 0.25, "low": -0.1, "high": 0.5}) == "+0.250 [-0.100, +0.500]"
    some = {"value": 0.25, "low": -0.1, "high": 0.5, "dropped": 12}
    assert interval(some) == "+0.250 [-0.100, +0.500] (12 left out)"
    assert with_bounds(some) == "0.250 [-0.100, 0.500] (12 left out)"
    assert interval({"value": None, "low": None, "high": None}) == "n/a"
    assert interval({"value": 0.25, "low": None, "high": None}) == "+0.250 [n/a]"


def test_intervals_of_rare_classes_hold_their_own_value():
    """With few positives of a class, bins at quantiles of all scores would put these into one."""
    rng = np.random.default_rng(3)
    n, classes = 3_000, 14
    targets = (rng.random((n, classes)) < 0.01).astype(np.int8)
    scores = 1 / (1 + np.exp(-(rng.normal(size=(n, classes)) + 3 * targets - 2)))

    class Questions:
        patient = study = np.arange(n) // 5

        def of(self, head):
            return np.arange(n if head == Head.CATEGORY else 0)

        def targets(self, head):
            return targets if head == Head.CATEGORY else np.zeros(0, int)

    questions = Questions()
    answered = Predictions(questions, {Head.CATEGORY: scores}, {Head.CATEGORY: (scores > 0.5).astype(int)})
    scorer = Scorer(questions, samples=300, confidence=0.95, seed=0)
    scored = scorer.score(answered, Head.CATEGORY, ranks=True)
    for metric in scored.drawn:
        one = scorer.interval(scored, metric)
        assert one.low < one.value < one.high, metric


@pytest.mark.parametrize(("metric", "exact"), [(average_precision, average_precision_score), (auroc, roc_auc_score)])
def test_bins_shift_no_interval(metric, exact):
    """Against scikit-learn on the questions of the drawn patients: few bins alone would lower every resample."""
    rng = np.random.default_rng(5)
    patient = rng.integers(0, 60, 900)
    positive = rng.random(900) < 0.2
    scores = rng.normal(1.5 * positive)
    questions = SimpleNamespace(patient=patient, study=patient)
    scorer = Scorer(questions, samples=200, confidence=0.95, seed=3)
    drawn = scorer.ranked(patient, scores, positive, metric, bins=12)
    times = Resamples(60, 200, 3).times
    wanted = [exact(positive[rows], scores[rows]) for rows in (np.repeat(np.arange(900), of[patient]) for of in times)]
    assert drawn.mean() == pytest.approx(np.mean(wanted), abs=1e-3)
    assert np.abs(drawn - wanted).max() < 0.02
    binned = histogram(patient, scores, positive, 60, 12, metric is average_precision)
    assert metric(binned.sum(0)) < exact(positive, scores) - 2e-3
