"""Free-text questions go to the right head or are refused; and what an evaluation measures of that."""

import csv
import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.label_space import QUESTION_TYPES, TYPE_INDEX, Head
from data.question_words import UNANSWERABLE, QuestionWords
from data.vocabulary import Vocabulary
from models.routing import NOT_MEASURED, ROUTING, Router, form_of, head_probabilities
from scripts.check_routing import QUESTIONS, auroc, read_questions, share
from tests.test_evaluate_cli import index_of_the_release, job, place  # noqa: F401
from tests.test_evaluate_cli import settings as config_of
from training.evaluation_run import run_evaluation
from training.routing import AS_ASKED, MOST_REFUSED, WORDINGS, fit_threshold
from utils.errors import CheckpointError, DataError

VOCABULARY = Vocabulary(("pleural effusion", "nodule", "pacemaker", "degenerative changes"), ("lungs", "heart"))


def sure_of(name: str, logit: float = 12.0) -> torch.Tensor:
    """Type logits of a classifier that is sure of one type."""
    logits = torch.zeros(len(QUESTION_TYPES) + 1)
    logits[TYPE_INDEX[name] if name in TYPE_INDEX else len(QUESTION_TYPES)] = logit
    return logits


UNDECIDED = torch.zeros(len(QUESTION_TYPES) + 1)


def test_a_heads_probability_is_the_sum_over_its_types():
    of_heads = head_probabilities(UNDECIDED[None])[0]
    counts = [sum(kind.head == head for kind in QUESTION_TYPES) for head in Head]
    counts.append(len(QUESTION_TYPES) - sum(counts) + 1)
    np.testing.assert_allclose(of_heads, np.array(counts) / 28)
    assert head_probabilities(sure_of("D03_where_is_finding")[None])[0].argmax() == list(Head).index(Head.REGION)
    assert head_probabilities(sure_of("unsupported")[None])[0].argmax() == 4
    assert head_probabilities(sure_of("B14_describe_acquisition")[None])[0].argmax() == 4


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("Is there an effusion?", Head.BINARY),
        ("are the lungs clear", Head.BINARY),
        ("Can you see a nodule?", Head.BINARY),
        ("Please tell me where the nodule is.", Head.REGION),
        ("Could you say where the nodule is?", Head.REGION),
        ("In which lobe is it?", Head.REGION),
        ("How severe is it?", Head.SEVERITY),
        ("What is the degree of edema?", Head.SEVERITY),
        ("What side is the effusion on?", Head.REGION),
        ("What do you see?", Head.CATEGORY),
        ("Can you describe the heart?", Head.CATEGORY),
        ("Looking at this chest X-ray: how severe is the edema?", Head.SEVERITY),
        ("Effusion?", None),
        ("Heart size", None),
    ],
)
def test_the_first_words_tell_the_head(text, head):
    assert form_of(text) == head


def test_form_comes_before_the_classifier_and_the_classifier_where_it_is_open():
    router = Router(VOCABULARY, threshold=0.6)
    route = router.route("Where is the nodule?", sure_of("D02_has_finding"))
    assert (route.head, route.reason, route.type) == (Head.REGION, "", "D02_has_finding")
    assert route.probability < 0.01
    route = router.route("Nodule?", sure_of("D02_has_finding"))
    assert (route.head, route.reason) == (Head.BINARY, "")
    route = router.route("Nodule?", UNDECIDED)
    assert "is of no kind that the model is sure of" in route.reason
    assert "needed 0.60" in route.reason
    assert router.route("Nodule?", UNDECIDED, Head.REGION).reason == "", "the head is given"
    assert Router(VOCABULARY, threshold=0.1).route("Nodule?", UNDECIDED).reason == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How does the effusion compare with the prior film?", "comparison"),
        ("Is there a new nodule?", "comparison"),
        ("How old is the patient with the effusion?", "patient"),
        ("Should we drain the pleural effusion?", "treatment"),
        ("Will the nodule grow?", "outlook"),
        ("Why is there an effusion?", "cause"),
        ("Is this an AP film of the lungs?", "acquisition"),
        ("How many nodules are there?", "number"),
        ("Is there a nodule in the brain?", "other body part"),
        ("Is there a pleural effusion?", ""),
        ("Are there degenerative changes?", ""),
        ("Is the tracheostomy tube visible?", ""),
    ],
)
def test_what_no_head_can_answer_is_told_by_its_words(text, kind):
    about = QuestionWords(VOCABULARY).about(text)
    assert about.unanswerable == kind
    assert about.reason == (UNANSWERABLE[kind][1] if kind else "")


def test_names_that_the_model_knows_does_not_know_or_may_be_meant():
    words = QuestionWords(VOCABULARY)
    assert words.about("Any pleural effusions?").known[0] == "pleural effusion"
    assert words.about("Is there a granuloma?").reason == "", "a name of one of the 14 classes"
    assert words.about("Is the trachea midline?").reason == "", "a region"
    assert (
        "is about hiatal hernia, which this model was not trained on" in words.about("Is there a hiatal hernia?").reason
    )
    assert words.about("Is there a hiatal hernia or a nodule?").reason == ""
    assert words.about("Is it raining?").reason == "names no finding, device or region that the model knows"
    assert "(is `pacemaker` meant?)" in words.about("Is there a pacemeker?").reason


@pytest.mark.parametrize("word", ["has ", "the report ", "describe "])
def test_a_text_of_any_length_is_read_at_once(word):
    words = QuestionWords(VOCABULARY)
    started = time.process_time()
    assert words.about(word * 8000).reason
    assert words.about("Is there a nodule? " + word * 8000).known[0] == "nodule"
    assert time.process_time() - started < 2


ROUTER = Router(VOCABULARY)


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_any_text_has_a_route(text):
    route = ROUTER.route(text, UNDECIDED)
    assert isinstance(route.head, Head)
    assert 0 <= route.probability <= 1


@given(
    st.sampled_from(["Is there a pleural effusion", "Where is the nodule", "How severe is the edema"]), st.booleans()
)
def test_case_and_punctuation_do_not_matter(text, upper):
    changed = (text.upper() if upper else text.lower()) + " "
    assert ROUTER.route(changed, UNDECIDED) == ROUTER.route(text + "?", UNDECIDED)


# What was measured


def test_the_threshold_of_these_weights_is_used(tmp_path):
    file = tmp_path / ROUTING
    assert Router.of_folder(tmp_path, "a", VOCABULARY).threshold == NOT_MEASURED
    file.write_text(json.dumps({"model_sha256": "a", "threshold": 0.31}))
    assert Router.of_folder(tmp_path, "a", VOCABULARY).threshold == 0.31
    assert not Router.of_folder(tmp_path, "b", VOCABULARY).measured
    for broken in (
        "{",
        '{"model_sha256": "a"}',
        '{"model_sha256": "a", "threshold": 2}',
        '{"model_sha256": "a", "threshold": "x"}',
    ):
        file.write_text(broken)
        with pytest.raises(CheckpointError, match=r"routing\.json cannot be read"):
            Router.of_folder(tmp_path, "a", VOCABULARY)


def test_the_threshold_leaves_out_one_in_a_hundred():
    confidence = np.linspace(0.1, 0.9, 200)
    of_heads = np.stack([confidence, *[np.zeros(200)] * 3, 1 - confidence], axis=1)
    threshold = fit_threshold([of_heads], np.ones((200, 4)))
    assert (confidence < threshold).mean() == pytest.approx(MOST_REFUSED)
    often = np.ones((200, 4))
    often[0] = 1000  # a text that is asked often is not refused
    assert fit_threshold([of_heads], often) == pytest.approx(0.1)


def test_the_evaluation_of_the_validation_split_measures_routing(place, tmp_path, index_of_the_release):  # noqa: F811
    run_evaluation(job(place, split="test", controls=False), config_of(place, tmp_path / "test"))
    folder = job(place).model_path
    assert not (folder / ROUTING).exists()
    report, _ = run_evaluation(job(place, controls=False), config_of(place, tmp_path / "validate"))
    stored = json.loads((folder / ROUTING).read_text())
    assert stored["model_sha256"] == report["provenance"]["model_sha256"]
    assert stored["questions"] == report["provenance"]["questions"]
    assert set(stored["wordings"]) == set(WORDINGS)
    for table in stored["wordings"].values():
        confusion = np.array(table["confusion"])
        assert confusion.shape == (4, 5)
        assert confusion.sum() == stored["questions"]
        assert table["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
        assert np.array(table["classifier"]["confusion"]).sum() == stored["questions"]
    # "Is there air?", "Is there dust?" name nothing; the others are told by their first words
    assert np.array(stored["wordings"][AS_ASKED]["confusion"])[:, :4].sum() == np.trace(
        stored["wordings"][AS_ASKED]["confusion"]
    )


# The questions that are shipped


def test_the_shipped_questions_are_whole_and_most_are_routed_well():
    parts = read_questions(QUESTIONS)
    assert set(parts) == {"development", "held_out"}
    questions = [pair for part in parts.values() for pair in part]
    assert sum(bool(head) for _, head in questions) >= 60
    assert sum(not head for _, head in questions) >= 40
    assert len({text for text, _ in questions}) == len(questions)
    words = QuestionWords(Vocabulary(("pleural effusion", "cardiomegaly", "pneumothorax", "chest tube"), ("lungs",)))
    refused = [bool(words.about(text).reason) for text, _ in questions]
    supported = [bool(head) for _, head in questions]
    wrong = sum(a == b for a, b in zip(refused, supported, strict=True))
    assert wrong <= 0.05 * len(questions)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("Is it?,perhaps,binary", "yes or no"),
        ("Is it?,yes,", "needs a head"),
        ("Is it?,no,binary", "needs a head"),
        ("Is it?,yes,colour", "row 2: no head 'colour'"),
    ],
)
def test_rows_that_cannot_be_meant_so(tmp_path, row, match):
    file = tmp_path / "q.csv"
    file.write_text(f"question,supported,head\n{row}\n")
    with pytest.raises(DataError, match=match):
        read_questions(file)


def test_shares_and_areas():
    assert share(1, 4) == "   1 of    4 (25.0 %)"
    assert share(0, 0).strip() == "none"
    assert auroc([{"wanted": "binary", "confidence": 0.9}, {"wanted": "", "confidence": 0.1}]) == "1.000"
    assert auroc([{"wanted": "binary", "confidence": 0.9}]) == "n/a"
    with QUESTIONS.open(encoding="utf-8") as file:
        assert csv.DictReader(file).fieldnames == ["question", "supported", "head", "part"]
