"""`analysis_report.json`: everything that is measured, in one dictionary of JSON values.

summary          is_ready, reasons: what keeps training from starting
problems         every oddity by name, with count, what follows and what to do (`data.doctor`)
published        counts of this copy beside those of the data sets' pages
index            sizes by split, questions by fate (`data.summary`)
films, duplicates, broken
types, balance, blind, texts, question_lengths, answer_lengths
findings, boxes, coverage, agreement
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

from configs.mimic_cxr_config import DataConfig
from data.analysis import agreement, films, graphs, questions, texts
from data.doctor import Comparison, Diagnosis
from data.index import Index
from data.release import Release
from data.summary import summarise
from data.visits import QuestionFilter

Part = tuple[str, Callable[[], object]]


def analyse(
    release: Release, index: Index, data: DataConfig, tokenizer, max_length: int
) -> Iterator[tuple[str, object]]:
    """The parts of the report, one after the other, as (name, values).

    Args:
        tokenizer: counts word pieces, of which a question keeps `max_length`; None: words only.
    """
    salt = secrets.token_hex(8)
    used = QuestionFilter(index, data).passes(slice(None))
    parts: list[Part] = [
        ("index", lambda: summarise(index, data)),
        ("films", lambda: films.films(index)),
        ("duplicates", lambda: films.duplicates(index, salt)),
        ("broken", lambda: films.broken(index, salt)),
        ("types", lambda: questions.by_type(index, used)),
        ("balance", lambda: questions.balance(index)),
        ("blind", lambda: questions.blind_reach(index)),
        ("texts", lambda: questions.frequent_texts(index)),
        ("question_lengths", lambda: texts.question_lengths(index, tokenizer, max_length)),
        ("answer_lengths", lambda: texts.answer_lengths(release, release.studies())),
        ("findings", lambda: graphs.findings(index)),
        ("boxes", lambda: graphs.boxes(index)),
        ("coverage", lambda: graphs.coverage(index)),
        ("agreement", lambda: agreement.agreement(index, release)),
    ]
    for name, measure in parts:
        yield name, measure()


def verdict(diagnosis: Diagnosis, comparisons: list[Comparison]) -> dict:
    """What the doctor says, as the report's first parts."""
    reasons = [f"{p.what} ({p.where}); {p.mend}" for p in diagnosis.errors]
    return {
        "summary": {"is_ready": not reasons, "reasons": reasons},
        "problems": diagnosis.as_json(),
        "published": [vars(one) for one in comparisons],
    }
