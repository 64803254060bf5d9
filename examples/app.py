"""The evidence page: open a chest film or pick a study, ask, and see what the answer rests on. For this machine alone.

    python examples/app.py --model quickstart/checkpoints/best_model --index quickstart/index --release quickstart/release

The page is served on 127.0.0.1 and asks no other host for anything: docs/PAGE.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in examples/ only

from utils.cli import run
from utils.errors import UserError
from utils.quick_imports import quick_imports

LARGEST_PORT = 65535


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="examples/app.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--model",
        type=Path,
        default=Path("checkpoints/best_model"),
        metavar="DIR",
        help="folder of a trained model (default: checkpoints/best_model)",
    )
    shown.add_argument(
        "--index", type=Path, metavar="DIR", help="index to pick studies from (default: none, only files can be opened)"
    )
    shown.add_argument(
        "--release",
        type=Path,
        metavar="DIR",
        help="MIMIC-CXR-JPG with the index's films at their full size (default: none, as small as the index keeps them)",
    )
    served = parser.add_argument_group("how it is served")
    served.add_argument("--port", type=int, default=7860, metavar="N", help="of 127.0.0.1; 0: any (default: 7860)")
    served.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (default: auto)")
    served.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= LARGEST_PORT:
        parser.error(f"--port {args.port}: must be from 0 to {LARGEST_PORT}")
    if args.release and not args.index:
        parser.error("--release: the films are those of an index; name it as --index")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    from examples.page.server import quiet_environment, reserve, serve

    with reserve(args.port) as listening, quiet_environment():
        print("loading the model", flush=True)
        try:
            with quick_imports():
                from examples.page.layout import HEAD, build
                from examples.page.session import Desk
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UserError("gradio is not installed: pip install -r requirements-page.txt") from error
        desk = Desk.open(args.model, args.index, args.release, args.device)
        for problem in filter(None, (desk.problem, args.index and desk.index_problem)):
            print(f"said on the page: {problem}", file=sys.stderr, flush=True)
        serve(lambda: build(desk), listening, HEAD)
    return 0


if __name__ == "__main__":
    run(main)
