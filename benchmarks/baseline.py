"""The design to compare with: one question per item, with an image encoder pass, a padded text pass and a joint transformer.

The encoders are those of the configuration, width and depth of the fusion too. Nothing is shared between questions.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from benchmarks.as_written import QuestionItems
from configs.mimic_cxr_config import Config, ModelConfig, TrainingConfig
from data.label_space import CHEXPERT, HEAD_INDEX, Head
from models.encoders import resolve_visual, text_model_from_config
from models.heads import AnswerHeads
from models.layers import Mlp
from training.loss import chexpert_loss, chexpert_targets, head_loss

BOX_NUMBERS = 6
"""x1, y1, x2, y2, area, aspect"""


class JointLayer(nn.Module):
    """Pre-norm transformer layer over all tokens of an item, with the usual fused attention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed = Mlp(width, 2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, first_only: bool) -> Tensor:
        """(Q, L, D) tokens and their (Q, L) bool mask -> (Q, L, D); `first_only`: (Q, 1, D), for the last layer."""
        read = self.norm(x)
        x, asking = (x[:, :1], read[:, :1]) if first_only else (x, read)
        parts = [self.query(asking), *self.keys_values(read).chunk(2, dim=-1)]
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        attended = F.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None, :])
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed(self.feed_norm(x)))


class PerQuestionModel(nn.Module):
    """Single-stream fusion: question, global token, feature map and nodes go through one transformer.

    Args:
        box_loop: crop the feature map in a Python loop over boxes; False: RoIAlign of all boxes at once.
    """

    def __init__(self, config: Config, text_config, num_entities: int, num_regions: int, box_loop: bool):
        super().__init__()
        model = config.model
        width = model.hidden_dim
        self.box_loop = box_loop
        self.spec = resolve_visual(model, config.data.image_size)
        self.backbone = _backbone(self.spec, model).to(memory_format=torch.channels_last)
        self.text = text_model_from_config(text_config)
        self.project_cells = nn.Linear(self.spec.channels, width)
        self.project_text = nn.Linear(text_config.hidden_size, width)
        self.global_token = nn.Linear(self.spec.channels, width)
        self.region = nn.Embedding(num_regions + 1, model.region_embedding_dim, padding_idx=0)
        self.entity = nn.Embedding(num_entities + 1, model.entity_embedding_dim, padding_idx=0)
        numbers = BOX_NUMBERS + model.region_embedding_dim + model.entity_embedding_dim
        self.project_nodes = nn.Linear(numbers + width, width)
        self.kind = nn.Embedding(4, width)
        self.in_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            JointLayer(width, model.fusion_heads, model.dropout) for _ in range(model.fusion_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = AnswerHeads(width, model.dropout)
        self.chexpert = Mlp(self.spec.channels, width, len(CHEXPERT), model.dropout)

    def forward(self, batch: QuestionItems) -> tuple[dict[str, Tensor], Tensor]:
        """Head name -> (Q, classes) logits, and (Q, 14) CheXpert logits."""
        raw = self.backbone(batch.pixels.contiguous(memory_format=torch.channels_last))[0]
        if not self.spec.channels_last:
            raw = raw.permute(0, 2, 3, 1)
        cells, pooled = self.project_cells(raw), raw.mean((1, 2))
        text = self.text(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        tokens = [
            self.project_text(text),
            self.global_token(pooled)[:, None],
            cells.flatten(1, 2),
            self._nodes(cells.permute(0, 3, 1, 2), batch),
        ]
        kind = self.kind.weight
        state = self.in_norm(torch.cat([part + kind[n] for n, part in enumerate(tokens)], dim=1))
        image = torch.ones(len(raw), 1 + tokens[2].shape[1], dtype=torch.bool, device=raw.device)
        mask = torch.cat([batch.attention_mask.bool(), image, batch.is_node], dim=1)
        for number, layer in enumerate(self.layers, start=1):
            state = layer(state, mask, number == len(self.layers))
        return self.heads(self.norm(state[:, 0])), self.chexpert(pooled)

    def _nodes(self, cells: Tensor, batch: QuestionItems) -> Tensor:
        """(Q, D, h, w) feature map -> (Q, N, D): box, region, entity and the features inside the box."""
        size = (batch.boxes[..., 2:] - batch.boxes[..., :2]).clamp(min=1e-3)
        area, aspect = size.prod(-1, keepdim=True), size[..., :1] / size[..., 1:]
        crop = self._crop_in_a_loop if self.box_loop else self._crop_all
        parts = [
            batch.boxes,
            area,
            aspect,
            self.region(batch.region),
            self.entity(batch.entity),
            crop(cells, batch.boxes),
        ]
        return self.project_nodes(torch.cat(parts, dim=-1))

    def _crop_all(self, cells: Tensor, boxes: Tensor) -> Tensor:
        height, width = cells.shape[-2:]
        image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        scaled = boxes.flatten(0, 1) * boxes.new_tensor([width, height, width, height])
        rows = torch.cat([image[:, None].to(scaled), scaled], dim=1)
        return roi_align(cells.float(), rows, 1, aligned=True).flatten(1).unflatten(0, boxes.shape[:2])

    def _crop_in_a_loop(self, cells: Tensor, boxes: Tensor) -> Tensor:
        height, width = cells.shape[-2:]
        features = []
        for image, its_boxes in zip(cells, boxes, strict=True):
            for box in its_boxes:
                left, top = int(box[0] * width), int(box[1] * height)
                right, bottom = max(left + 1, int(box[2] * width)), max(top + 1, int(box[3] * height))
                left, top = min(left, width - 1), min(top, height - 1)
                features.append(F.adaptive_avg_pool2d(image[:, top:bottom, left:right], 1).flatten())
        return torch.stack(features).float().unflatten(0, boxes.shape[:2])


def _backbone(spec, model: ModelConfig) -> nn.Module:
    """As `models.encoders.ImageEncoder` has it, but with three channels: such programs read grey films as colour."""
    more = {"drop_path_rate": model.drop_path} if model.drop_path else {}
    return timm.create_model(
        spec.architecture, in_chans=3, features_only=True, out_indices=(spec.stage,), **more, **spec.kwargs
    )


def per_question_loss(
    outputs: tuple[dict[str, Tensor], Tensor], batch: QuestionItems, config: TrainingConfig
) -> Tensor:
    """The answer and CheXpert parts of `training.loss.MultiTaskLoss`, over the same targets."""
    logits, chexpert = outputs
    total = chexpert.new_zeros(())
    for head, index in HEAD_INDEX.items():
        count = batch.head_mask(index).sum().clamp(min=1)
        total = (
            total
            + getattr(config, f"{Head(head).value}_head_weight") * head_loss(head, logits[head.value], batch) / count
        )
    labels = chexpert_targets(batch.chexpert, config)[1].sum().clamp(min=1)
    part = chexpert_loss(chexpert, batch.chexpert, config) / labels
    return config.vqa_loss_weight * total + config.chexpert_loss_weight * part
