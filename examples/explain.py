"""Which part of a film an answer comes from: maps over the film, and checks of what they are worth.

    python examples/explain.py film.jpg "Is there a pleural effusion?" --model checkpoints/best_model --output explanation
    python examples/explain.py --sanity --index data_cache/FINGERPRINT --model checkpoints/best_model --output explanation

The first form writes a picture, an array and a description for each method. The second one asks of each method whether its maps
depend on what the model has learned, and whether they point at what is there; exit code 0: all of them, 1: not all.
Not for clinical use. What the maps are and are not: docs/EXPLANATIONS.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in examples/ only

from data.label_space import HEADS
from models.explanation_methods import DEFAULT_METHODS, METHODS
from utils.cli import run, say
from utils.quick_imports import quick_imports

CHECKS_FILE = "explanation_checks.json"
CHECKS_ONLY = ("index", "split", "items", "randomised_items", "seed")
"""Options that one film has no use for"""


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="examples/explain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", type=Path, metavar="IMAGE", help="JPEG, PNG or DICOM file of a frontal film"
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="in English, in quotes")
    both = parser.add_argument_group("both forms")
    both.add_argument(
        "--model", type=Path, metavar="DIR", help="model folder, such as checkpoints/best_model (required)"
    )
    both.add_argument(
        "--output",
        type=Path,
        default=Path("explanation"),
        metavar="DIR",
        help="folder of the results (default: explanation)",
    )
    both.add_argument(
        "--method",
        action="append",
        choices=[*METHODS, "all"],
        help=f"may be repeated (default: {' and '.join(DEFAULT_METHODS)})",
    )
    both.add_argument(
        "--stride",
        type=positive,
        metavar="PIXELS",
        help="of gradcam and layercam: pixels a cell of the layer they look at (default: half of that of the map the model reads)",
    )
    both.add_argument("--overwrite", action="store_true", help="write over older results (default: refuse)")
    both.add_argument("--device", default="cpu", help="cpu, cuda or another of PyTorch (default: cpu)")
    both.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    one = parser.add_argument_group("one film")
    one.add_argument(
        "--head",
        choices=[head.value for head in HEADS],
        help="whose answer is explained (default: the one the question is for)",
    )
    one.add_argument("--target", metavar="CLASS", help="class of the head to explain (default: the most probable one)")
    one.add_argument(
        "--force",
        action="store_true",
        help="explain what is plainly no frontal chest film, and answers to questions that none should get, as well "
        "(default: refuse both)",
    )
    checks = parser.add_argument_group("checks")
    checks.add_argument("--sanity", action="store_true", help="check the methods (default: explain a film)")
    checks.add_argument("--index", type=Path, metavar="DIR", help="index with scene graphs (required with --sanity)")
    checks.add_argument(
        "--split",
        choices=["validate", "test"],
        default="validate",
        help="default: validate; each use of test is recorded",
    )
    checks.add_argument(
        "--items", type=positive, default=300, metavar="N", help="most questions of the pointing game (default: 300)"
    )
    checks.add_argument(
        "--randomised_items",
        type=positive,
        default=24,
        metavar="N",
        help="most patients whose maps are compared with those of randomised models (default: 24)",
    )
    checks.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.model is None:
        parser.error("give the folder of a trained model as --model")
    if args.sanity:
        if args.index is None:
            parser.error("--sanity: give an index as --index")
        if args.image or args.head or args.target or args.force:
            parser.error(
                "--sanity takes its films, questions and answers from the index: leave out IMAGE, --head, --target and --force"
            )
    elif args.image is None or args.question is None:
        parser.error('give an image and a question, or --sanity; for example: film.jpg "Is there a pleural effusion?"')
    elif given := [name for name in CHECKS_ONLY if getattr(args, name) != parser.get_default(name)]:
        parser.error(f"--{given[0]}: add --sanity to check the methods on an index")
    chosen = args.method or DEFAULT_METHODS
    args.method = list(METHODS if "all" in chosen else dict.fromkeys(chosen))
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    return check(args) if args.sanity else explain(args)


def explain(args: argparse.Namespace) -> int:
    """The first form."""
    with quick_imports():
        from data.images import decode
        from models import explanation_files
        from models.explaining import Explainer, FilmPixels
        from utils.overlays import LONGEST_SIDE

    explanation_files.check_output(args.output, args.method, args.overwrite)
    explainer = Explainer.from_pretrained(args.model, args.device)
    film = explainer.open(args.image, args.force)
    found = explainer.explain(film, args.question, args.method, args.head, args.target, args.stride, force=args.force)
    credentialed = explainer.model.credentialed is not False
    shown = FilmPixels(*decode(args.image, LONGEST_SIDE))
    files = explanation_files.write(args.output, shown, args.question, found, explainer.fingerprint, credentialed)
    say(*explanation_files.summary_lines(found))
    say(f"{len(files)} files in {args.output}; they show the film: keep them where it is. Not for clinical use.")
    return 0


def check(args: argparse.Namespace) -> int:
    """The second form."""
    from utils.errors import DataError
    from utils.utils import write_json, writing_to

    path = args.output / CHECKS_FILE
    if path.exists() and not args.overwrite:
        raise DataError(f"{path} is there already; name another --output, or add --overwrite")
    with quick_imports():
        from data.index import open_index
        from models.explaining import Explainer, default_stride
        from models.model_folder import read
    # outside: it needs scipy, which a quick import hides
    from training.explanation_checks.report import CheckSettings, passes, record_test, run_checks, table_lines

    index = open_index(args.index)
    explainer = Explainer.from_pretrained(args.model, args.device)
    explainer.router = None  # the index says which head answers a question
    settings = CheckSettings(args.split, args.items, args.randomised_items, args.seed)
    stride = args.stride or default_stride(explainer.model)
    report = run_checks(explainer, index, read(args.model, ()).config.data, args.method, stride, settings)
    record_test(args.model, report)
    with writing_to(args.output, "name another --output, or make room"):
        write_json(path, report)
    say(*table_lines(report))
    say("", f"report: {path}")
    return 0 if passes(report) else 1


if __name__ == "__main__":
    run(main)
