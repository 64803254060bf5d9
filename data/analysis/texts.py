"""How long questions and answers are, in words and in the word pieces of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.answers import flatten
from data.index import Index
from data.release import Release
from data.token_table import TokenTable
from utils.errors import DataError

ANSWER_STUDIES = 300
"""Studies that answers are read of: the index does not keep them"""


def question_lengths(index: Index, tokenizer, max_length: int) -> dict:
    """`words` and, with a tokenizer, `pieces` of the questions as they are asked, and how many are cut at `max_length`."""
    asked = np.bincount(index.questions["text"], minlength=index.num_texts)
    words = np.array([len(text.split()) for text in index.texts(np.arange(index.num_texts))], dtype=np.int64)
    found = {"distinct": index.num_texts, "words": _weighted(words, asked), "pieces": None}
    if tokenizer is not None and index.num_texts:
        # one more than fits: a table that is cut at the limit does not say how much it has cut
        table = TokenTable.of(index, tokenizer, 4 * max_length, keep=False)
        pieces = np.diff(table.offsets)
        cut = asked[pieces > max_length].sum()
        found["pieces"] = _weighted(pieces, asked) | {"limit": max_length, "questions_cut": int(cut)}
    return found


def answer_lengths(release: Release, studies: Sequence[tuple[int, int]], seed: int = 0) -> dict:
    """Words of main and other answers in up to ANSWER_STUDIES random studies, and main answers a question."""
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(studies))[:ANSWER_STUDIES])
    words: dict[str, list[int]] = {"main_answer": [], "other": []}
    mains, unreadable = [], 0
    for place in chosen:
        try:
            questions = release.read_qa(*studies[place]).get("questions") or []
        except DataError:
            unreadable += 1
            continue
        for question in questions if isinstance(questions, list) else ():
            answers = list(flatten(question.get("answers") if isinstance(question, dict) else None))
            main = [answer.get("answer_type") == "main_answer" for answer in answers]
            mains.append(sum(main))
            for answer, is_main in zip(answers, main, strict=True):
                text = answer.get("text")
                if isinstance(text, str):
                    words["main_answer" if is_main else "other"].append(len(text.split()))
    return {
        "studies": len(chosen),
        "unreadable": unreadable,
        "main_answers_a_question": _weighted(np.array(mains, dtype=np.int64)),
        **{kind: _weighted(np.array(values, dtype=np.int64)) for kind, values in words.items()},
    }


def _weighted(numbers: np.ndarray, weights: np.ndarray | None = None) -> dict | None:
    """n, mean, quantiles, most, and a `histogram` (n of each number, from 0)."""
    weights = np.ones(len(numbers), dtype=np.int64) if weights is None else weights
    counts = np.bincount(numbers, weights=weights).astype(np.int64) if len(numbers) else np.zeros(0, dtype=np.int64)
    if not (n := int(counts.sum())):
        return None
    below = np.cumsum(counts)
    quantiles = {f"p{q}": int(np.searchsorted(below, q / 100 * n)) for q in (5, 50, 95)}
    mean = float((counts * np.arange(len(counts))).sum() / n)
    return {"n": n, "mean": mean, **quantiles, "most": len(counts) - 1, "histogram": counts.tolist()}
