"""`asset/model.png` is what its script draws."""

from itertools import combinations

import numpy as np
from PIL import Image

from configs.mimic_cxr_config import Config
from scripts import draw_model


def test_the_figure_is_that_of_the_script(root, tmp_path):
    draw_model.main(["--output", str(tmp_path / "model.png")])
    drawn, kept = (np.asarray(Image.open(p), float) for p in (tmp_path / "model.png", root / "asset" / "model.png"))
    assert drawn.shape == kept.shape == (draw_model.HEIGHT, draw_model.WIDTH, 3)
    assert np.abs(drawn - kept).mean() < 0.5, (
        "python scripts/draw_model.py"
    )  # another FreeType smooths letters otherwise


def test_it_follows_the_configuration():
    config = Config()
    before = np.asarray(draw_model.draw(config), float)
    config.model.hidden_dim = 256
    assert np.abs(np.asarray(draw_model.draw(config), float) - before).max() > 50


def test_no_block_lies_on_another_and_no_text_leaves_its_block():
    placed = draw_model.blocks(Config()).values()
    for a, b in combinations(placed, 2):
        assert abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= (a.height + b.height) / 2, (a, b)
    for block in placed:
        assert block.width / 2 < block.x < draw_model.WIDTH - block.width / 2
        for size, text in ((20, block.title), *((16, line) for line in block.lines)):
            assert draw_model._font(size).getlength(text) < (block.width - 10) * draw_model.SCALE, text
