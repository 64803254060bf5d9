"""Word pieces of all distinct questions of an index, made once for a tokenizer and memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from data.batch import TokenBatch
from data.index import Index
from data.order import ranges
from utils.errors import DataError
from utils.privacy import private_directory
from utils.utils import atomic_directory, get_logger

log = get_logger(__name__)

TEXTS_AT_ONCE = 10_000


class TokenTable:
    """Word pieces by text code; a batch takes the ones it needs."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, pad: int, max_length: int):
        """`ids` (n,) int32 of all texts one behind the other, `offsets` (texts + 1,) int64 where each begins."""
        self.ids, self.offsets, self.pad, self.max_length = ids, offsets, pad, max_length

    @staticmethod
    def of(index: Index, tokenizer, max_length: int, keep: bool = True) -> TokenTable:
        """The table of an index; with `keep` it stays in its folder, if that can be written to, for the next time."""
        if not index.num_texts:
            raise DataError("no questions to tokenise")
        folder = index.path / "tokens" / _name(tokenizer, max_length)
        # os.path: unlike pathlib's, no error where a folder must not be looked into
        if not os.path.exists(folder / "offsets.npy"):
            ids, offsets = _tokenise(index, tokenizer, max_length)
            if not keep:
                return TokenTable(ids, offsets, tokenizer.pad_token_id, max_length)
            try:
                _keep(folder, ids, offsets)
            except OSError as error:
                log.info("word pieces are made again at each start: %s cannot be written (%s)", folder, error)
                return TokenTable(ids, offsets, tokenizer.pad_token_id, max_length)
        try:
            arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "offsets")]
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} cannot be read ({error}); delete it") from error
        return TokenTable(*arrays, tokenizer.pad_token_id, max_length)

    @staticmethod
    def rewritten(index: Index, tokenizer, max_length: int, rewrite: Callable[[str], str]) -> TokenTable:
        """The table of an index whose texts are put in other words; it is not kept."""
        ids, offsets = _tokenise(index, tokenizer, max_length, rewrite)
        return TokenTable(ids, offsets, tokenizer.pad_token_id, max_length)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(texts,) int64 word pieces by text code."""
        return np.diff(self.offsets)

    @cached_property
    def num_cut(self) -> int:
        """Texts that fill the limit: at most so many were cut."""
        return int((self.lengths >= self.max_length).sum())

    def encode(self, codes: np.ndarray, states: np.ndarray | None = None) -> tuple[TokenBatch, np.ndarray]:
        """Distinct questions among `codes` (Q,), padded to the longest; and for each code its place among them, (Q,) int64.

        `states`, (n, width) float16, are what an encoder makes of the word pieces of this table; the batch gets its own.
        """
        distinct, place = np.unique(codes, return_inverse=True)
        start = self.offsets[distinct]
        lengths = self.offsets[distinct.astype(np.int64) + 1] - start
        mask = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
        ids = np.full(mask.shape, self.pad, dtype=np.int64)
        pieces = ranges(start, lengths)[0]
        ids[mask] = self.ids[pieces]
        place = place.reshape(-1)
        tensors = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
        known = None if states is None else torch.from_numpy(states[pieces])
        return TokenBatch(*tensors, int(lengths.sum()), int(lengths[place].sum()), known), place


def _tokenise(
    index: Index, tokenizer, max_length: int, rewrite: Callable[[str], str] = str
) -> tuple[np.ndarray, np.ndarray]:
    ids, lengths = [], [0]
    for start in range(0, index.num_texts, TEXTS_AT_ONCE):
        texts = index.texts(np.arange(start, min(start + TEXTS_AT_ONCE, index.num_texts)))
        texts = [rewrite(text) for text in texts]
        rows = _encode(tokenizer, texts, max_length)
        ids.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
        lengths += map(len, rows)
    return np.concatenate(ids), np.cumsum(lengths, dtype=np.int64)


def _encode(tokenizer, texts: list[str], max_length: int) -> list[list[int]]:
    """Word pieces of each text, special tokens included."""
    options = {"add_special_tokens": True, "truncation": True, "max_length": max_length}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(texts, **options)["input_ids"]
    if _cuts_at_spaces(tokenizer):
        return _encode_words(tokenizer, texts, max_length)
    tokenizer([""], **options)  # sets them in the backend, which alone can leave out masks and offsets
    return [encoding.ids for encoding in backend.encode_batch_fast(texts)]


def _cuts_at_spaces(tokenizer) -> bool:
    """Whether the pieces of a text are those of its words, whatever stands beside them: BERT's rules."""
    backend = tokenizer.backend_tokenizer
    return (
        isinstance(backend.model, WordPiece)
        and isinstance(backend.normalizer, BertNormalizer)
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and tokenizer.truncation_side == "right"
        and not any(" " in token.content for token in tokenizer.added_tokens_decoder.values())
    )


def _encode_words(tokenizer, texts: list[str], max_length: int) -> list[list[int]]:
    """As `_encode`, with a look at each distinct word instead of each text: questions share their words."""
    tokenizer([""])  # no truncation and no padding in the backend
    backend = tokenizer.backend_tokenizer
    words = list({word for text in texts for word in text.split(" ")})
    found = backend.encode_batch_fast(words, add_special_tokens=False)
    pieces = {word: encoding.ids for word, encoding in zip(words, found, strict=True)}
    example = backend.encode("a")
    place = example.special_tokens_mask.index(0)
    first, last = example.ids[:place], example.ids[place + 1 :]
    room = max_length - len(first) - len(last)
    rows = ([*chain.from_iterable(pieces[word] for word in text.split(" "))] for text in texts)
    return [[*first, *row[:room], *last] for row in rows]


def _name(tokenizer, max_length: int) -> str:
    """16 hex digits that stand for everything that decides which word pieces a text has."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = (
        json.loads(backend.to_str()) if backend else {"class": type(tokenizer).__name__, "ids": tokenizer.get_vocab()}
    )
    for last_call in ("truncation", "padding"):  # a tokenizer remembers how it was used
        rules.pop(last_call, None)
    identity = [max_length, tokenizer.pad_token_id, rules]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _keep(folder: Path, ids: np.ndarray, offsets: np.ndarray) -> None:
    """Write the table; when another process was faster, its table is the same."""
    private_directory(folder.parent)
    try:
        with atomic_directory(folder) as partial:
            np.save(partial / "ids.npy", ids)
            np.save(partial / "offsets.npy", offsets)
    except OSError:
        if not os.path.exists(folder / "offsets.npy"):
            raise
