"""Word pieces by text, made once and kept with the index."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from data import token_table
from data.token_table import TokenTable
from models.tokenizer import train_tokenizer
from tests.mini_index import WordTokenizer, write_mini_index

TEXTS = ["Is there a nodule?", "Where is the nodule in the left lung?", "How severe?", "Nodule?"]


@pytest.fixture
def index(tmp_path):
    questions = [("D02_has_finding", text, 1, 5) for text in TEXTS]
    return write_mini_index(tmp_path / "index", [{"split": "train", "questions": questions}])


@pytest.fixture
def tokenizer():
    return train_tokenizer(TEXTS, 16)


def expected(tokenizer, texts, length=16):
    return tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="np")


@pytest.mark.parametrize("codes", [[0], [3, 1, 1, 0, 3], [2, 2], [0, 1, 2, 3]])
def test_the_same_as_the_tokenizer_with_each_text_once(index, tokenizer, codes):
    tokens, place = TokenTable.of(index, tokenizer, 16).encode(np.array(codes, np.uint32))
    distinct = sorted(set(codes))
    wanted = expected(tokenizer, [TEXTS[code] for code in distinct])
    np.testing.assert_array_equal(tokens.input_ids, wanted["input_ids"])
    np.testing.assert_array_equal(tokens.attention_mask, wanted["attention_mask"])
    assert [distinct[p] for p in place] == codes
    assert tokens.real == tokens.attention_mask.sum() and tokens.asked == tokens.attention_mask[place].sum()


@pytest.mark.parametrize("length", [3, 5, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_is_cut_as_the_tokenizer_cuts_it(index, tokenizer, length, side, monkeypatch):
    monkeypatch.setattr(token_table, "TEXTS_AT_ONCE", 3)
    tokenizer.truncation_side = side
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=9)  # how it was used before does not matter
    table = TokenTable.of(index, tokenizer, length, keep=False)
    wanted = tokenizer(TEXTS, truncation=True, max_length=length)["input_ids"]
    assert [ids.tolist() for ids in np.split(table.ids, table.offsets[1:-1])] == wanted


ODD = ["is", "is Nodule", "(left)", "x-ray?", "", "\t", "é", "e\u0301", "\u0301", "肺炎", "[SEP]", "a[MASK]b", "\u200b"]
"""What texts are put together from"""


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(ODD), max_size=8).map(" ".join), min_size=1, max_size=6, unique=True), st.data()
)
def test_whatever_stands_in_a_text(tmp_path_factory, texts, data):
    length = data.draw(st.sampled_from([3, 6, 64]))
    questions = [("D02_has_finding", text, 1, 5) for text in texts]
    index = write_mini_index(tmp_path_factory.mktemp("i") / "i", [{"split": "train", "questions": questions}])
    tokenizer = data.draw(st.sampled_from([word_pieces, lower_case, spaces_belong_to_words, phrase_of_two_words]))()
    table = TokenTable.of(index, tokenizer, length, keep=False)
    wanted = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    assert [ids.tolist() for ids in np.split(table.ids, table.offsets[1:-1])] == wanted


def word_pieces():
    return train_tokenizer([*TEXTS, "肺 é ( x -"], 64)


def lower_case():
    tokenizer = word_pieces()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    return tokenizer


def spaces_belong_to_words():
    tokenizer = word_pieces()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("e")
    return tokenizer


def phrase_of_two_words():
    tokenizer = word_pieces()
    tokenizer.add_tokens(["is Nodule"])
    return tokenizer


def test_a_tokenizer_without_a_backend(index):
    tokenizer = WordTokenizer()
    table = TokenTable.of(index, tokenizer, 5, keep=False)
    wanted = tokenizer(TEXTS, max_length=5)["input_ids"]
    assert [ids.tolist() for ids in np.split(table.ids, table.offsets[1:-1])] == wanted


def test_a_second_start_reads_what_the_first_has_made(index, tokenizer, monkeypatch):
    first = TokenTable.of(index, tokenizer, 16)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=3)  # what a tokenizer was used for makes no other table
    monkeypatch.setattr(token_table, "_tokenise", lambda *_: pytest.fail("tokenised again"))
    again = TokenTable.of(index, tokenizer, 16)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert isinstance(again.ids, np.memmap)


def test_another_tokenizer_or_length_has_a_table_of_its_own(index, tokenizer):
    whole = TokenTable.of(index, tokenizer, 16)
    cut = TokenTable.of(index, tokenizer, 4)
    other = TokenTable.of(index, train_tokenizer(["Is"], 16), 16)
    assert cut.lengths.max() == 4 < whole.lengths.max()
    assert whole.ids.tolist() != other.ids.tolist()
    assert cut.num_cut == 4 and whole.num_cut == 0
    assert len(list((index.path / "tokens").iterdir())) == 3


def test_nothing_is_written_unless_it_may_be(index, tokenizer):
    table = TokenTable.of(index, tokenizer, 16, keep=False)
    assert len(table.lengths) == len(TEXTS) and not (index.path / "tokens").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_index_is_tokenised_each_time(index, tokenizer):
    index.path.chmod(0o500)
    try:
        assert len(TokenTable.of(index, tokenizer, 16).lengths) == len(TEXTS)
    finally:
        index.path.chmod(0o700)
