"""Texts without their padding: every token once, in its order, and the same answers as with padding."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.fast_path import FastPath
from data.batch import TokenBatch
from models import packing
from models.mimic_vqa_model import SSGVQA
from models.packing import LengthOrder, Packing
from tests.small_model import assert_close, build, images, small_tokenizer


@pytest.fixture(autouse=True)
def few_rows_are_enough_for_parts(monkeypatch):
    monkeypatch.setattr(packing, "LEAST_ROWS", 1)


@st.composite
def masks(draw) -> Tensor:
    """(N, T) of 1 to 6 texts of 1 to 7 tokens, padded to the longest or further."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, 7), min_size=1, max_size=6)))
    width = int(lengths.max()) + draw(st.integers(0, 2))
    return torch.arange(width) < lengths[:, None]


@settings(max_examples=60, deadline=None)
@given(masks(), st.booleans())
def test_packed_tokens_are_the_real_ones_in_order_and_find_back(mask, keep_padding):
    packing = Packing.of(mask.long(), keep_padding)
    table = torch.arange(1.0, mask.numel() + 1).view(mask.shape).requires_grad_()
    packed = packing.pack(table)
    expected = table.flatten() if keep_padding else table[mask]
    assert torch.equal(packed, expected)
    back = packing.unpack(packed)
    assert torch.equal(back[mask], table[mask]) and back.shape == mask.shape
    assert torch.equal(packing.first(packed), table[:, 0])
    columns = torch.arange(mask.shape[1]).expand(mask.shape)
    assert torch.equal(packing.columns(), packing.pack(columns))
    (back * back.detach()).sum().backward()  # each real token has its own gradient, padding none
    assert torch.equal(table.grad[mask], table.detach()[mask])
    if not keep_padding:
        assert not back[~mask].any() and not table.grad[~mask].any()


@settings(max_examples=30, deadline=None)
@given(masks(), st.integers(1, 3))
def test_a_number_that_is_known_need_not_be_counted(mask, wrong_by):
    counted, known = Packing.of(mask), Packing.of(mask, real=int(mask.sum()))
    assert torch.equal(counted.place, known.place)
    with pytest.raises(ValueError, match="tokens are real, not"):
        Packing.of(mask, real=int(mask.sum()) + wrong_by)


@settings(max_examples=60, deadline=None)
@given(masks(), st.booleans(), st.data())
def test_texts_are_chosen_in_any_order_and_number(mask, keep_padding, data):
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(mask) - 1), min_size=1, max_size=12)))
    packing = Packing.of(mask, keep_padding)
    table = torch.arange(mask.numel()).view(mask.shape)
    of_chosen, source = packing.select(chosen, int(mask[chosen].sum()))
    assert torch.equal(of_chosen.mask, mask[chosen])
    assert torch.equal(packing.pack(table)[source], of_chosen.pack(table[chosen]))


@settings(max_examples=15, deadline=None)
@given(masks(), st.data())
def test_answers_do_not_depend_on_packing(mask, data):
    """Any lengths of questions, any number and order of them and of the images they are about."""
    count = st.integers(0, len(mask) - 1)
    question_of = torch.tensor(data.draw(st.lists(count, min_size=1, max_size=10)))
    image_of = torch.tensor([data.draw(st.integers(0, 2)) for _ in question_of])
    generator = torch.Generator().manual_seed(len(question_of))
    ids = torch.randint(5, len(small_tokenizer()), mask.shape, generator=generator) * mask
    model = cached_model()
    results = []
    for off in ([], ["packed_tokens"]):
        model.switch(FastPath.without(off))
        with torch.no_grad():
            out = model(images(3), TokenBatch(ids, mask.long()), question_of, image_of)
        results.append([*out.logits.values(), out.question_type])
    for packed, padded in zip(*results, strict=True):
        assert_close(packed, padded)


@cache
def cached_model() -> SSGVQA:
    return build()


# Parts


@given(lengths=st.lists(st.integers(1, 9), min_size=4, max_size=30), seed=st.integers(0, 99))
def test_parts_hold_every_token_and_row_once_in_tables_of_their_own_width(lengths, seed):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    whole = Packing.of(mask)
    parts = whole.in_parts().parts
    assert len(parts) == 4
    tokens = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(len(lengths))
    for part in parts:
        assert part.packing.mask.shape[1] == max(lengths[part.rows])
        assert torch.equal(part.packing.pack(part.packing.unpack(tokens[part.tokens])), tokens[part.tokens])
    assert torch.equal(torch.cat([rows[part.rows] for part in parts]), rows)
    split = whole.in_parts().each(lambda part, x, row: x + row[part.rows()][:, None], (tokens,), (rows,))
    torch.testing.assert_close(split, tokens + rows[whole.rows()][:, None])


@given(
    question_of=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    lengths=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
def test_the_order_of_lengths_can_be_undone(question_of, lengths):
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    question_of = torch.tensor(question_of)
    order = LengthOrder.of(mask, question_of)
    texts = mask.index_select(0, order.texts)
    of_question = texts.sum(1)[order.question_of]
    assert (texts.sum(1).diff() >= 0).all() and (of_question.diff() >= 0).all()
    assert torch.equal(order.undo_texts(texts), mask)
    assert torch.equal(order.undo_questions(of_question), mask.sum(1)[question_of])
