"""Texts without their padding: the real tokens of all texts in one row, unpacked only where tokens read each other.

Letters in shapes: N texts, T tokens of the longest, P packed tokens of all texts, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PARTS, LEAST_ROWS = 4, 4
"""Tables of a packing in parts, and least rows of each"""


@dataclass
class Packing:
    """Where the packed tokens of N texts are in their padded (N, T) table."""

    mask: Tensor
    """(N, T) bool, True where a token is real; the first of each text is"""
    place: Tensor | None
    """(P,) int64 in the flat table, in its order; None: padding is kept, and all N * T places are tokens"""
    parts: tuple[Part, ...] = ()
    """Rows in a few pieces, each with a table of its own width; none: one table"""

    @staticmethod
    def of(mask: Tensor, keep_padding: bool = False, real: int | None = None) -> Packing:
        """The packing of an (N, T) mask of any kind of number, 0 where there is padding; `real`: as in `real_places`."""
        mask = mask.bool()
        return Packing(mask, None if keep_padding else real_places(mask, real))

    def in_parts(self) -> Packing:
        """The same with several tables, if that is worth it. The host reads lengths: for a CPU, with rows by length."""
        rows = len(self.mask)
        if self.place is None or rows < PARTS * LEAST_ROWS:
            return self
        end = self.mask.sum(1).cumsum(0)
        bounds = [rows * number // PARTS for number in range(PARTS + 1)]
        tokens = [0, *(int(end[bound - 1]) for bound in bounds[1:])]
        parts = []
        for number in range(PARTS):
            chosen = slice(bounds[number], bounds[number + 1])
            mask = self.mask[chosen]
            mask = mask[:, : int(mask.any(0).nonzero().max()) + 1]
            parts.append(Part(chosen, slice(tokens[number], tokens[number + 1]), Packing.of(mask)))
        return Packing(self.mask, self.place, tuple(parts))

    def each(
        self, function: Callable[..., Tensor], tokens: tuple[Tensor, ...], rows: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """function(packing, tokens..., rows...) of each part, one behind the other; `tokens` are (P, ...), `rows` (N, ...)."""
        if not self.parts:
            return function(self, *tokens, *rows)
        return torch.cat(
            [
                function(part.packing, *(one[part.tokens] for one in tokens), *(one[part.rows] for one in rows))
                for part in self.parts
            ]
        )

    def pack(self, padded: Tensor) -> Tensor:
        """(N, T, ...) -> (P, ...)."""
        flat = padded.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)

    def unpack(self, packed: Tensor) -> Tensor:
        """(P, ...) -> (N, T, ...), zeros in padding."""
        if self.place is None:
            return packed.unflatten(0, self.mask.shape)
        # of plain operations this pair is the one whose gradients need no sum over tokens with the same place
        flat = packed.new_zeros(self.mask.numel(), *packed.shape[1:]).index_copy_(0, self.place, packed)
        return flat.unflatten(0, self.mask.shape)

    def columns(self) -> Tensor:
        """(P,) int64: the position of each token in its text."""
        if self.place is None:  # without a remainder by a size, which ONNX export does not know
            return self._counted(1).expand(self.mask.shape).flatten()
        return self.place % self.mask.shape[1]

    def rows(self) -> Tensor:
        """(P,) int64: the text of each token."""
        if self.place is None:
            return self._counted(0)[:, None].expand(self.mask.shape).flatten()
        return self.place // self.mask.shape[1]

    def _counted(self, side: int) -> Tensor:
        """0, 1, ... along a side of the padded table."""
        return torch.arange(self.mask.shape[side], device=self.mask.device)

    def first(self, packed: Tensor) -> Tensor:
        """(P, ...) -> (N, ...): the first token of each text."""
        if self.place is None:
            return self.unpack(packed)[:, 0]
        lengths = self.mask.sum(1)
        return packed.index_select(0, lengths.cumsum(0) - lengths)

    def select(self, texts: Tensor, real: int | None = None) -> tuple[Packing, Tensor]:
        """The packing of (Q,) of the texts, in any order and any number of times; and which packed token each token is.

        `real`: their tokens, as in `real_places`.
        """
        chosen = Packing.of(self.mask.index_select(0, texts), self.place is None, real)
        source = texts.index_select(0, chosen.rows()) * self.mask.shape[1] + chosen.columns()
        if self.place is not None:
            number = self.mask.flatten().cumsum(0) - 1
            source = number.index_select(0, source)
        return chosen, source

    def places(self) -> Tensor:
        """(P,) int64: where each token is in the flat table."""
        if self.place is None:
            return torch.arange(self.mask.numel(), device=self.mask.device)
        return self.place


@dataclass
class Part:
    """Some rows of a packing, one behind the other."""

    rows: slice
    tokens: slice
    packing: Packing
    """of these rows alone"""


@dataclass
class LengthOrder:
    """Texts and questions by length, shortest first."""

    texts: Tensor
    """(U,) int64 which text comes at each place"""
    questions: Tensor
    """(Q,) int64 likewise"""
    question_of: Tensor
    """(Q,) int64 the text's place, for each question in the new order"""

    @staticmethod
    def of(mask: Tensor, question_of: Tensor) -> LengthOrder:
        """For (U, T) texts and the (Q,) text of each question."""
        texts = mask.sum(1).argsort(stable=True)
        questions = _places_of(texts)[question_of].argsort(stable=True)
        return LengthOrder(texts, questions, _places_of(texts)[question_of[questions]])

    def undo_texts(self, values: Tensor) -> Tensor:
        """(U, ...) in this order -> as they were."""
        return values.index_select(0, _places_of(self.texts))

    def undo_questions(self, values: Tensor) -> Tensor:
        """(Q, ...) in this order -> as they were."""
        return values.index_select(0, _places_of(self.questions))


def _places_of(order: Tensor) -> Tensor:
    """The inverse of a permutation."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


@dataclass
class TokenStates:
    """What an encoder makes of the tokens of N texts."""

    packed: Tensor
    """(P, D)"""
    packing: Packing
    asked: int | None = None
    """`TokenBatch.asked`"""

    def padded(self) -> Tensor:
        """(N, T, D); what stands in padding is arbitrary."""
        return self.packing.unpack(self.packed)

    def first(self) -> Tensor:
        """(N, D): the state of each text's first token."""
        return self.packing.first(self.packed)


def real_places(mask: Tensor, real: int | None) -> Tensor:
    """(N, T) bool -> (P,) int64: the places of True in the flat mask, in order.

    P sizes tensors, so the host must know it. With `real` it does; otherwise it waits for the device here, and only here.
    """
    flat = mask.flatten()
    if real is None:
        return flat.nonzero().squeeze(1)
    if mask.device.type == "cpu" and int(flat.sum()) != real:
        raise ValueError(f"{int(flat.sum())} tokens are real, not {real}")
    return flat.nonzero_static(size=real).squeeze(1)
