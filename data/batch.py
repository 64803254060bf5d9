"""The tensors that travel from data to model, loss and metrics.

Letters in shapes: B images of the batch, S image side, Q questions, U distinct question strings, T word pieces,
R = 26 canonical regions, E entities of the vocabulary (including padding 0 and unknown 1), K at-least-one statements.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace

import torch
from torch import Tensor

from data.feature_store import FeatureMaps
from data.frames import Pictures
from data.label_space import HEADS
from data.tensor_group import TensorGroup
from data.vocabulary import RESERVED


@dataclass
class TokenBatch(TensorGroup):
    """U distinct questions, padded to the longest of them."""

    input_ids: Tensor
    """(U, T) int64"""
    attention_mask: Tensor
    """(U, T) int64, 1 where a word piece is real"""
    real: int | None = None
    """How many are; None: counted on the device, which the host then waits for"""
    asked: int | None = None
    """As `real`, over all Q questions, which may have texts in common"""
    states: Tensor | None = None
    """(P, width) float16, P = `real`: what a frozen encoder makes of the real word pieces, row by row"""


@dataclass
class SceneGraph(TensorGroup):
    """A scene graph as the model reads it: always the same 26 nodes. One form for predicted and report's graphs."""

    boxes: Tensor
    """(B, R, 4) float, x1 y1 x2 y2 in [0, 1] of the letter-boxed image"""
    entity_probs: Tensor
    """(B, R, E) float in [0, 1]: probability that the entity is present in the region"""
    exists: Tensor
    """(B,) bool; False: this image's questions are answered with the learned no-graph token"""


@dataclass
class SceneGraphTargets(TensorGroup):
    """What the report's graph says about an image: supervision in training, and the source of the oracle graph."""

    boxes: Tensor
    """(B, R, 4) float, as in `SceneGraph`; zeros where `box_mask` is False"""
    box_mask: Tensor
    """(B, R) bool; False: no box, or a fallback box"""
    present: Tensor
    """(B, R, E) float, 1 where the entity is stated present in the region"""
    weight: Tensor
    """(B, R, E) float, weight of that cell in the loss; 0: says nothing (also padding and unknown entities)"""
    union_image: Tensor
    """(K,) int64 row of the batch: "entity present in at least one of these regions" statements"""
    union_entity: Tensor
    """(K,) int64"""
    union_regions: Tensor
    """(K, R) bool"""
    union_weight: Tensor
    """(K,) float"""

    def statement_weight(self, unstated: float) -> Tensor:
        """Sum of the weights of all statements, the cells that count as `unstated` left out; scalar."""
        silent = (self.present == 0) & ((self.weight - unstated).abs() < 1e-6)
        return self.weight.masked_fill(silent, 0.0).sum() + self.union_weight.sum()


@dataclass
class GraphStatements(TensorGroup):
    """`SceneGraphTargets` as they travel to the device: of the R·E cells of an image all but some dozens are unstated."""

    boxes: Tensor
    box_mask: Tensor
    cell: Tensor
    """(C,) int64 stated cells, each once, as image · R · E + region · E + entity"""
    cell_present: Tensor
    """(C,) float, 1 where present"""
    cell_weight: Tensor
    """(C,) float"""
    unstated: Tensor
    """(B,) float, weight of the other cells of an image; 0 where it has no graph"""
    entities: int
    """E"""
    union_image: Tensor
    union_entity: Tensor
    union_regions: Tensor
    union_weight: Tensor

    def statement_weight(self, unstated: float) -> Tensor:
        """Sum of the weights of all statements; scalar."""
        return self.cell_weight.sum() + self.union_weight.sum()

    def written_out(self) -> SceneGraphTargets:
        """All cells, where the tensors are."""
        shape = (*self.boxes.shape[:2], self.entities)
        present = self.boxes.new_zeros(shape)
        weight = self.unstated[:, None, None].repeat(1, *shape[1:])
        weight[:, :, :RESERVED] = 0
        present.view(-1)[self.cell] = self.cell_present
        weight.view(-1)[self.cell] = self.cell_weight
        unions = self.union_image, self.union_entity, self.union_regions, self.union_weight
        return SceneGraphTargets(self.boxes, self.box_mask, present, weight, *unions)


Targets = make_dataclass(
    "Targets",
    [(head.value, Tensor) for head in HEADS],
    bases=(TensorGroup,),
    namespace={
        "__module__": __name__,
        "__doc__": """Answers, a tensor for each of `HEADS` by its name. A question belongs to one head; the others are masked.

        One class of several is right: (Q,) int64 class number; -1 where the question belongs to another head.
        Several may be (`multi_label`): (Q, C) float multi-hot; zeros where `Batch.head` is another.
        """,
    },
)


@dataclass
class Ids(TensorGroup):
    """Row numbers back into the index, for predictions and reports."""

    question: Tensor
    """(Q,) int64 row of the index's question table"""
    image: Tensor
    """(B,) int64 row of the index's image table"""


@dataclass
class Batch(TensorGroup):
    """B images and Q questions about them."""

    images: Tensor | Pictures | FeatureMaps
    """(B, 1, S, S) grey levels 0..255, letter-boxed; what they are rendered from, on the device; or what a frozen encoder
    makes of them"""
    questions: TokenBatch
    question_of: Tensor
    """(Q,) int64 index into the U distinct questions"""
    image_of: Tensor
    """(Q,) int64 index into the B images"""
    head: Tensor
    """(Q,) int64, `label_space.HEAD_INDEX` of the answering head"""
    type: Tensor
    """(Q,) int64, `label_space.TYPE_INDEX`"""
    targets: Targets
    graph: SceneGraphTargets | GraphStatements | None
    chexpert: Tensor
    """(B, 14) float: 1 present, 0 absent, -1 uncertain, nan not mentioned"""
    ids: Ids
    graph_draw: Tensor | None = None
    """(B,) float in [0, 1), a function of (seed, epoch, visit): decides the graph dropout of an image in training"""
    padding: bool = False
    """True: other processes have one batch more in this step. Goes through the model like any other and counts nothing"""

    def head_mask(self, index: int) -> Tensor:
        """(Q,) bool: questions of the head with this index."""
        return self.head == index

    def on(self, device: torch.device | str) -> Batch:
        """The batch on a device as model and loss read it: images rendered, graphs written out."""
        batch = self.to(device)
        if isinstance(batch.images, Pictures):
            batch = replace(batch, images=batch.images.render())
        if isinstance(batch.graph, GraphStatements):
            batch = replace(batch, graph=batch.graph.written_out())
        return batch
