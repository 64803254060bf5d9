"""Cased word pieces made from the questions themselves, for encoders that are trained from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MOST_PIECES = 4000
PREFIX = "##"


def train_tokenizer(texts: Iterable[str], max_length: int, most: int = MOST_PIECES) -> PreTrainedTokenizerFast:
    """A BERT-type tokenizer whose pieces are the texts' words and letters; the same texts in any order give the same.

    The word-piece trainer of `tokenizers` breaks ties at random from process to process, so the vocabulary is put
    together from word counts: special tokens, every letter (alone and inside a word), then the most frequent words until
    there are `most` pieces.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    # each word is split once, however often it occurs
    for word, times in Counter(chain.from_iterable(text.split(" ") for text in set(texts))).items():
        for part, _ in splitter.pre_tokenize_str(normalizer.normalize_str(word)):
            counts[part] += times
    words = sorted(counts, key=lambda word: (-counts[word], word))
    letters = sorted({letter for word in words for letter in word})
    pieces = [*SPECIAL, *letters, *(PREFIX + letter for letter in letters), *words]
    pieces = list(dict.fromkeys(pieces))[:most]

    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
