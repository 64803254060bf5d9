"""Maps over a film: from the square that the model sees back to the film's own pixels.

Coordinates are those of `data.frames`: continuous, origin top left, [0, 1] of width and height. Letters in shapes: h and w cells
of a map over the square, H and W rows and columns of a map over the film.
"""

from __future__ import annotations

import numpy as np

from data.frames import Frame


def to_film(cells: np.ndarray, width: int, height: int, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Undo the letter-boxing of a map, with bilinear interpolation between the centres of its cells.

    Args:
        cells: (h, w) numbers over the square; beyond the outermost centres they go on as they are.
        width, height: of the film's original pixels.
        shape: (H, W) of the result; None: (height, width).
    Returns:
        (H, W) float32 over the film alone, without the bars beside it.
    """
    rows, columns = shape or (height, width)
    matrix = Frame.letterbox(width, height).matrix
    # without rotation x depends on columns alone, y on rows alone
    x = matrix[0, 0] * _centres(columns) + matrix[0, 2]
    y = matrix[1, 1] * _centres(rows) + matrix[1, 2]
    of_rows, of_columns = (_interpolation(place, n) for place, n in zip((y, x), cells.shape, strict=True))
    return of_rows @ cells.astype(np.float32) @ of_columns.T


def paint_regions(
    shares: np.ndarray, boxes: np.ndarray, width: int, height: int, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """A map of what regions have: at each pixel the largest share of the regions whose box it lies in, 0 outside all.

    Args:
        shares: (R,) at least 0.
        boxes: (R, 4) x1 y1 x2 y2 in [0, 1] of the square.
        width, height, shape: as in `to_film`.
    Returns:
        (H, W) float32.
    """
    rows, columns = shape or (height, width)
    x, y = _centres(columns), _centres(rows)
    painted = np.zeros((rows, columns), dtype=np.float32)
    for share, (x1, y1, x2, y2) in zip(shares, Frame.letterbox(width, height).boxes_out(boxes), strict=True):
        inside = painted[np.ix_((y1 <= y) & (y < y2), (x1 <= x) & (x < x2))]
        painted[np.ix_((y1 <= y) & (y < y2), (x1 <= x) & (x < x2))] = np.maximum(inside, share)
    return painted


def scaled(values: np.ndarray) -> tuple[np.ndarray, float]:
    """A map that is nowhere negative -> the same in [0, 1], float32, and the maximum it was divided by.

    0 stays 0. A map that is 0 everywhere stays as it is.
    """
    most = float(values.max(initial=0))
    return (values / most if most > 0 else np.zeros_like(values)).astype(np.float32).clip(0, 1), most


def peak(values: np.ndarray) -> tuple[float, float] | None:
    """Where an (H, W) map is largest: x, y in [0, 1]; None for a map that is the same everywhere.

    Of several pixels the one that is nearest to their mean: the centre, where a whole box has the maximum.
    """
    if values.max() == values.min():
        return None
    rows, columns = np.nonzero(values == values.max())
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float((columns[nearest] + 0.5) / values.shape[1]), float((rows[nearest] + 0.5) / values.shape[0])


def _centres(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count


def _interpolation(places: np.ndarray, cells: int) -> np.ndarray:
    """(n,) places in [0, 1] -> (n, cells) float32 weights of the cells, 1 in all."""
    position = np.clip(places * cells - 0.5, 0, cells - 1)
    before = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    rest = position - before
    weights = np.zeros((len(places), cells), dtype=np.float32)
    every = np.arange(len(places))
    weights[every, before] = 1 - rest
    if cells > 1:
        weights[every, before + 1] = rest
    return weights
