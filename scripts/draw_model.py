"""Draw the figure of the model, `asset/model.png`: sizes are those of the default configuration and of the label space.

python scripts/draw_model.py [--output FILE]
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started by its path, Python looks in scripts/ only

from configs.mimic_cxr_config import Config  # noqa: E402
from data.label_space import CHEXPERT, HEADS, QUESTION_TYPES, REGIONS, HeadSpec  # noqa: E402
from utils import cli  # noqa: E402

WIDTH, HEIGHT = 1600, 860
SCALE = 2
"""Drawn so many times larger and made smaller at the end: smooth edges"""

INK, PAPER = "#1c2733", "#ffffff"
COLOURS = {
    "image": "#dbe9f6",
    "text": "#fdebd0",
    "graph": "#d9f0e1",
    "fusion": "#eadcf4",
    "answer": "#f7d9d9",
    "training": "#eceff1",
}


@dataclass(frozen=True)
class Block:
    """A box of the figure: its middle and size in pixels, what it is called and what it makes."""

    x: int
    y: int
    title: str
    lines: tuple[str, ...]
    colour: str
    width: int = 250
    height: int = 92

    def edge(self, towards: Block) -> tuple[float, float]:
        """Where a straight line to the middle of another block leaves this one."""
        dx, dy = towards.x - self.x, towards.y - self.y
        half = min(
            self.width / 2 / abs(dx) if dx else math.inf,
            self.height / 2 / abs(dy) if dy else math.inf,
        )
        return self.x + dx * half, self.y + dy * half


def blocks(config: Config) -> dict[str, Block]:
    side, width, regions = config.data.image_size, config.model.hidden_dim, len(REGIONS)
    return {
        "film": Block(155, 150, "Chest X-ray", (f"{side} x {side} pixels, never cropped",), "image"),
        "encoder": Block(
            465, 150, "Image encoder", (config.model.visual_backbone, f"feature map of {width} channels"), "image"
        ),
        "chexpert": Block(775, 60, "CheXpert head", (f"{len(CHEXPERT)} labels of the film",), "training"),
        "grid": Block(1085, 150, "Image tokens", ("grid cells with positions", "and one of the whole film"), "image"),
        "predictor": Block(
            465, 330, "Scene graph predictor", (f"{regions} region queries", "attend to the feature map"), "graph"
        ),
        "graph": Block(
            775,
            330,
            "Predicted scene graph",
            (f"{regions} nodes: box, region,", "entities: 134 numbers each"),
            "graph",
        ),
        "report": Block(
            620, 480, "Report's scene graph", ("supervises in training;", "no input of an answer"), "training"
        ),
        "sim": Block(
            1085,
            405,
            "Interaction Module",
            ("scene-embedded (SIM): nodes read", "the question, then each other;", "its tokens read film and nodes"),
            "fusion",
            270,
            132,
        ),
        "question": Block(155, 700, "Question", ('"Where is the nodule?"',), "text"),
        "bert": Block(
            465,
            700,
            "Question encoder",
            (config.model.text_encoder.rpartition("/")[2], f"each token: 768 to {width}"),
            "text",
        ),
        "kind": Block(775, 780, "Question type", (f"{len(QUESTION_TYPES)} types or unsupported",), "training"),
        "names": Block(775, 620, "Named entities", ("and regions, looked up", "in every node"), "text"),
        **{
            head.value: Block(
                1430, 170 + 420 * i // (len(HEADS) - 1), head.capitalize(), (_classes(spec),), "answer", 230, 80
            )
            for i, (head, spec) in enumerate(HEADS.items())
        },
    }


def _classes(spec: HeadSpec) -> str:
    if spec.two_classes:
        return ", ".join(reversed(spec.classes))
    return f"{len(spec.classes)} {'grades' if spec.ordered else 'classes'}{', several' if spec.multi_label else ''}"


ARROWS = (
    *(
        ("film", "encoder"),
        ("encoder", "chexpert"),
        ("encoder", "grid"),
        ("encoder", "predictor"),
        ("predictor", "graph"),
    ),
    *(("question", "bert"), ("bert", "kind"), ("bert", "names"), ("names", "graph"), ("names", "sim"), ("grid", "sim")),
    ("graph", "sim"),
    *(("sim", head.value) for head in HEADS),
)
DASHED = (("report", "predictor"), ("report", "graph"))
"""In training alone"""


def draw(config: Config) -> Image.Image:
    """The figure, RGB of `WIDTH` × `HEIGHT`."""
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(image)
    placed = blocks(config)
    for pairs, dashed in ((ARROWS, False), (DASHED, True)):
        for start, end in pairs:
            _arrow(pen, placed[start].edge(placed[end]), placed[end].edge(placed[start]), dashed)
    for block in placed.values():
        _box(pen, block)
    _legend(pen)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * SCALE)  # Pillow's own: the same on every machine


def _box(pen: ImageDraw.ImageDraw, block: Block) -> None:
    left, top = (block.x - block.width / 2) * SCALE, (block.y - block.height / 2) * SCALE
    corners = (left, top, left + block.width * SCALE, top + block.height * SCALE)
    pen.rounded_rectangle(corners, 12 * SCALE, fill=COLOURS[block.colour], outline=INK, width=2 * SCALE)
    rows = [(block.title, _font(20)), *((line, _font(16)) for line in block.lines)]
    first = block.y - 12 * (len(rows) - 1)
    for number, (text, font) in enumerate(rows):
        pen.text((block.x * SCALE, (first + 24 * number) * SCALE), text, INK, font, anchor="mm")


def _arrow(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], dashed: bool) -> None:
    (x1, y1), (x2, y2) = ((x * SCALE, y * SCALE) for x, y in (start, end))
    length, angle = math.hypot(x2 - x1, y2 - y1), math.atan2(y2 - y1, x2 - x1)
    dash = 10 * SCALE if dashed else length
    for number in range(math.ceil(length / dash / (2 if dashed else 1))):
        a, b = 2 * number * dash / length, min(1.0, (2 * number + 1) * dash / length)
        pen.line((x1 + (x2 - x1) * a, y1 + (y2 - y1) * a, x1 + (x2 - x1) * b, y1 + (y2 - y1) * b), INK, 2 * SCALE)
    head = [
        (x2 + 13 * SCALE * math.cos(angle + turn), y2 + 13 * SCALE * math.sin(angle + turn)) for turn in (2.7, -2.7)
    ]
    pen.polygon([(x2, y2), *head], fill=INK)


def _legend(pen: ImageDraw.ImageDraw) -> None:
    text = "grey: in training alone, or beside the answers · every film is encoded once for all its questions"
    pen.text((WIDTH * SCALE / 2, (HEIGHT - 22) * SCALE), text, INK, _font(16), anchor="mm")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/draw_model.py", description=__doc__, formatter_class=cli.HelpFormatter
    )
    group = parser.add_argument_group("figure")
    group.add_argument(
        "--output",
        type=Path,
        default=ROOT / "asset" / "model.png",
        metavar="FILE",
        help="where (default: asset/model.png)",
    )
    draw(Config()).save(parser.parse_args(argv).output, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
