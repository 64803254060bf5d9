"""Fit and measure the check for frontal chest films: configs/frontal_check.json, used by data/frontal.py.

    python scripts/fit_frontal_check.py --films nih/images --vqa_rad vqa-rad --test_others photographs
    python scripts/fit_frontal_check.py --films nih/images --vqa_rad vqa-rad --test_others photographs --write

Half of the images of each folder, by patient, fit the model; the other half, and all test folders, only measure it. Films are also
turned, turned over and cut, as images that are to be refused. Groups of films weigh
the same, and so do groups of others.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.cli import run

SIDE = 224
"""Shorter side at which images are read, as image stores keep them"""
DRAWN = 300
"""Drawn images that are to be refused: noise, gradients, stripes and pages of text"""
DECAY = 0.002
"""Of the weights, so that none runs away"""
TEMPLATE_FREEDOM = 100.0
"""Inverse strength of the template's L2 penalty"""
LEAST_SCALE = 0.1
"""Of a measure that is nearly the same in all films"""
THRESHOLD = 0.1
"""Only what is plainly no film is refused: a film that is turned away is worse than an odd image that is answered"""


@dataclass
class Group:
    """Images of one origin."""

    name: str
    is_film: bool
    measures: list[list[float]] = field(default_factory=list)
    coarse: list = field(default_factory=list)
    plain: int = 0
    """in colour, or with nothing to be seen: refused without a model"""
    unreadable: int = 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fit_frontal_check.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    images = parser.add_argument_group("images (JPEG, PNG, DICOM; all below a folder)")
    images.add_argument("--films", metavar="DIR", nargs="+", default=[], help="frontal chest films (default: none)")
    images.add_argument("--others", metavar="DIR", nargs="+", default=[], help="anything else (default: none)")
    images.add_argument("--vqa_rad", metavar="DIR", help="folder of VQA-RAD (default: none)")
    images.add_argument(
        "--test_films", metavar="DIR", nargs="+", default=[], help="films that only measure (default: none)"
    )
    images.add_argument(
        "--test_others", metavar="DIR", nargs="+", default=[], help="others that only measure (default: none)"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--write", action="store_true", help="replace configs/frontal_check.json (default: measure it as it is)"
    )
    results.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    args = parser.parse_args(argv)
    if args.write and not (args.films and (args.others or args.vqa_rad)):
        parser.error("--write: a fit needs --films, and --others or --vqa_rad")
    if not (args.films or args.others or args.vqa_rad or args.test_films or args.test_others):
        parser.error("give at least one folder of images, such as --test_films")
    return args


# Images


def image_files(folder: str) -> list[Path]:
    from utils.errors import DataError

    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    if not found:
        raise DataError(f"{folder}: no such folder, or nothing in it")
    return found


def fits(path: Path) -> bool:
    """Whether an image is of the fitting half: a function of the patient, whose name NIH files begin with."""
    return hashlib.sha256(path.name.split("_")[0].encode()).digest()[0] % 2 == 0


def spoilt(pixels) -> Iterator[tuple[str, object]]:
    """A film made into images that a model should not be asked about."""
    import numpy as np

    height, width = pixels.shape
    yield "films turned by 90 degrees", np.rot90(pixels)
    yield "films upside down", pixels[::-1]
    yield "films turned over (negatives)", 255 - pixels
    yield "quarters of films", pixels[: height // 2, : width // 2]


def drawn(count: int) -> Iterator[object]:
    """Noise, gradients, stripes and pages of text."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    for number in range(count):
        kind = number % 4
        if kind == 0:
            coarse = rng.integers(0, 256, (int(2 ** rng.uniform(2, 8)),) * 2, dtype=np.uint8)
            yield np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        elif kind == 1:
            x, y = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2)
            plane = np.hypot(x, y) if number % 8 == 1 else x * rng.normal() + y * rng.normal()
            yield np.uint8(255 * (plane - plane.min()) / np.ptp(plane))
        elif kind == 2:
            wave = np.sin(np.linspace(0, rng.uniform(6, 60), SIDE))
            yield np.uint8(
                127.5 + 127 * (wave[:, None] * np.ones(SIDE) if number % 8 == 2 else wave * np.ones((SIDE, 1)))
            )
        else:
            page = Image.new("L", (SIDE, SIDE), 255)
            pen = ImageDraw.Draw(page)
            for line in range(int(rng.integers(4, 18))):
                letters = "".join(chr(c) for c in rng.integers(97, 123, int(rng.integers(5, 35))))
                pen.text((10, 8 + 12 * line), letters, fill=int(rng.integers(0, 90)))
            yield np.asarray(page)


class Collection:
    """Fitting and held-out groups by name."""

    def __init__(self):
        self.fitting: dict[str, Group] = {}
        self.held_out: dict[str, Group] = {}

    def add(self, name: str, is_film: bool, pixels, colour: float, fitting: bool) -> None:
        from data.frontal import COLOURED, coarse_film, measure

        group = (self.fitting if fitting else self.held_out).setdefault(name, Group(name, is_film))
        coarse = None if colour >= COLOURED else coarse_film(pixels)
        if coarse is None:
            group.plain += 1
            return
        # the template is not known yet: its measure is filled in when it is
        group.measures.append(list(measure(pixels, coarse * 0, 0.0).values()))
        group.coarse.append(coarse)

    def read(self, name: str, is_film: bool, paths: list[Path], never_fits: bool) -> None:
        from data.frontal import colourfulness
        from data.images import decode
        from utils.errors import DataError

        for number, path in enumerate(paths):
            fitting = not never_fits and fits(path)
            try:
                pixels, _, _ = decode(path, SIDE)
            except DataError:
                group = (self.fitting if fitting else self.held_out).setdefault(name, Group(name, is_film))
                group.unreadable += 1
                continue
            self.add(name, is_film, pixels, colourfulness(path), fitting)
            if is_film and not never_fits and number % 5 == 0:
                for kind, other in spoilt(pixels):
                    self.add(kind, False, other, 0.0, fitting)


def collect(args: argparse.Namespace) -> Collection:
    found = Collection()
    for names, is_film, never in (
        (args.films, True, False),
        (args.others, False, False),
        (args.test_films, True, True),
        (args.test_others, False, True),
    ):
        for folder in names:
            found.read(folder, is_film, image_files(folder), never)
    if args.vqa_rad:
        of_organ = vqa_rad_images(Path(args.vqa_rad))
        found.read("VQA-RAD: chest films", True, of_organ["CHEST"], False)
        found.read("VQA-RAD: slices of heads and abdomens", False, of_organ["HEAD"] + of_organ["ABD"], False)
    for number, pixels in enumerate(drawn(DRAWN)):
        found.add("drawn: noise, gradients, stripes, pages", False, pixels, 0.0, number // 8 % 2 == 0)
    return found


def vqa_rad_images(folder: Path) -> dict[str, list[Path]]:
    import json

    from data.vqa_rad import PARTS
    from utils.errors import DataError

    found: dict[str, set[Path]] = {"CHEST": set(), "HEAD": set(), "ABD": set()}
    try:
        for name in PARTS.values():
            for entry in json.loads((folder / name).read_text(encoding="utf-8")):
                found.setdefault(entry["image_organ"].strip(), set()).add(folder / "images" / entry["image_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not VQA-RAD: {error}") from error
    return {organ: sorted(paths) for organ, paths in found.items()}


# Fit


def fit(groups: list[Group]):
    """Constants from the fitting groups: the template, median and spread of films, then weights of at least 0.

    Template and weights are logistic models. Films and others weigh the same in all, and so does each group of them.
    """
    import numpy as np
    from scipy.optimize import minimize
    from sklearn.linear_model import LogisticRegression

    from data.frontal import COARSE, Constants, against

    groups = [group for group in groups if group.measures]
    share = {g.name: 1 / len(g.measures) / sum(o.is_film == g.is_film for o in groups) for g in groups}
    weight = np.concatenate([np.full(len(group.measures), share[group.name]) for group in groups])
    truth = np.concatenate([np.full(len(group.measures), group.is_film) for group in groups])
    coarse = np.concatenate([np.array(group.coarse).reshape(len(group.coarse), -1) for group in groups])
    likeness = LogisticRegression(C=TEMPLATE_FREEDOM, max_iter=2000).fit(coarse, truth, sample_weight=weight)
    template, template_bias = likeness.coef_.reshape(COARSE, COARSE), float(likeness.intercept_[0])
    values = {group.name: with_template(group, template, template_bias) for group in groups}
    most = max(len(values[group.name]) for group in groups if group.is_film)
    # each group as often as the largest
    films = np.concatenate([np.resize(values[g.name], (most, count_measures())) for g in groups if g.is_film])
    centre = np.median(films, axis=0)
    low, high = np.quantile(films, (0.05, 0.95), axis=0)
    scale = np.maximum((high - low) / 2, LEAST_SCALE)
    lost = np.concatenate([against(values[group.name], centre, scale) for group in groups])
    sign = np.where(truth, 1.0, -1.0)

    def loss(parameters):
        score = sign * (parameters[-1] - lost @ parameters[:-1])
        slope = -weight * sign / (1 + np.exp(np.clip(score, -50, 50)))
        value = (weight * np.logaddexp(0, -score)).sum() + DECAY * (parameters[:-1] ** 2).sum()
        return value, np.append(-(slope @ lost) + 2 * DECAY * parameters[:-1], slope.sum())

    count = lost.shape[1]
    start = np.append(np.full(count, 0.5), 2.0)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * count + [(None, None)]).x
    return Constants(template, template_bias, centre, scale, found[:-1], float(found[-1]), THRESHOLD)


def count_measures() -> int:
    from data.frontal import MEASURES

    return len(MEASURES)


def with_template(group: Group, template, bias: float):
    """(n, measures) of a group, the first now that the template is known."""
    import numpy as np

    from data.frontal import template_score

    values = np.array(group.measures, dtype=np.float64).reshape(-1, count_measures())
    values[:, 0] = [template_score(coarse, template, bias) for coarse in group.coarse]
    return values


def probabilities(group: Group, fitted):
    import numpy as np

    from data.frontal import against

    lost = (
        against(with_template(group, fitted.template, fitted.template_bias), fitted.centre, fitted.scale)
        @ fitted.weights
    )
    return 1 / (1 + np.exp(np.clip(lost - fitted.bias, -50, 50)))


def table(groups: list[Group], fitted) -> list[str]:
    """What is refused and what passes, group by group."""
    lines = [f"{'group':<52} {'images':>7} {'refused':>8} {'pass':>6}   error"]
    for group in sorted(groups, key=lambda group: (not group.is_film, group.name)):
        chance = probabilities(group, fitted)
        passed = int((chance >= fitted.threshold).sum())
        total = len(chance) + group.plain
        wrong = total - passed if group.is_film else passed
        kind = "false refusals" if group.is_film else "false acceptances"
        share = f"{100 * wrong / total:.1f} % {kind}" if total else "none could be read"
        more = f" ({group.unreadable} more cannot be read)" if group.unreadable else ""
        lines.append(f"{group.name[-52:]:<52} {total:>7,} {total - passed:>8,} {passed:>6,}   {share}{more}")
    return lines


def write(fitted, path: Path) -> None:
    import json

    from data.frontal import MEASURES
    from utils.utils import write_atomic

    rows = zip(MEASURES, fitted.centre, fitted.scale, fitted.weights, strict=True)
    measures = [
        f"    {json.dumps(name)}: {json.dumps({'centre': round(c, 4), 'scale': round(s, 4), 'weight': round(w, 4)})}"
        for name, c, s, w in rows
    ]
    template = ["    " + json.dumps([round(float(v), 3) for v in row]) for row in fitted.template]
    write_atomic(
        path,
        '{\n  "made_by": "scripts/fit_frontal_check.py",\n'
        f'  "template_bias": {fitted.template_bias:.4f},\n  "bias": {fitted.bias:.4f},\n  "threshold": {fitted.threshold:.4f},\n'
        '  "measures": {\n' + ",\n".join(measures) + '\n  },\n  "template": [\n' + ",\n".join(template) + "\n  ]\n}\n",
    )
    path.chmod(0o644)


def main(argv: list[str]) -> int:
    args = parse(argv)
    from data.frontal import CONSTANTS, constants

    found = collect(args)
    if args.write:
        write(fit(list(found.fitting.values())), CONSTANTS)
        constants.cache_clear()
    fitted = constants()
    print("held out")
    print("\n".join(table(list(found.held_out.values()), fitted)))
    print("\nfitting half")
    print("\n".join(table(list(found.fitting.values()), fitted)))
    return 0


if __name__ == "__main__":
    run(main)
