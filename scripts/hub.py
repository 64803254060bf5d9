"""Push a trained model folder to the Hugging Face Hub, or write its model card.

    python scripts/hub.py push checkpoints/best_model user/name --report results/report.json
    python scripts/hub.py card checkpoints/best_model --report results/report.json

What is uploaded: weights, settings without paths, label space, names, tokenizer, scores, the text-only control and the card.
Nothing else ever is. docs/HUB.md has the rules for models of credentialed data.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started by its path, Python looks in scripts/ only

from utils.cli import run, say
from utils.quick_imports import quick_imports


def parse(argv: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="scripts/hub.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|card")
    push = commands.add_parser("push", help="upload a model folder in one commit", formatter_class=raw)
    card = commands.add_parser("card", help="print or write the model card; nothing is sent", formatter_class=raw)
    for command in (push, card):
        model = command.add_argument_group("model")
        model.add_argument("model_folder", type=Path, metavar="MODEL_FOLDER", help="such as checkpoints/best_model")
        model.add_argument(
            "--report",
            type=Path,
            metavar="FILE",
            help="report.json of evaluate.py about these weights: the card shows its scores with intervals beside the controls "
            "(default: none, the card shows validation scores)",
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    where = push.add_argument_group("repository")
    where.add_argument("repository", metavar="user/name", help="made when it is missing")
    where.add_argument("--public", action="store_true", help="anybody can open it (default: private)")
    where.add_argument(
        "--message",
        default="Upload model",
        metavar="TEXT",
        help="of the commit; it is sent as it is (default: Upload model)",
    )
    where.add_argument(
        "--write_only",
        type=Path,
        metavar="DIR",
        help="write the files of the upload into this new folder, to look at them, and send nothing (default: send)",
    )
    lineage = push.add_argument_group("models of credentialed lineage")
    lineage.add_argument(
        "--acknowledge_credentialed",
        metavar="TEXT",
        help="who can open the repository and under which agreement they may have the model; recorded in the model folder "
        "(default: what is recorded there for this repository)",
    )
    lineage.add_argument("--who", default="", metavar="NAME", help="who acknowledges it (default: the login name)")
    card.add_argument_group("output").add_argument(
        "--output", type=Path, metavar="FILE", help="write the card there (default: print it)"
    )
    args = parser.parse_args(argv)
    if args.command == "push":
        if args.who and args.acknowledge_credentialed is None:
            push.error("--who says who acknowledges: give --acknowledge_credentialed too")
        if args.write_only and (args.public or args.acknowledge_credentialed is not None):
            push.error("--write_only sends nothing: leave out --public and --acknowledge_credentialed")
    return args


def read_report(path: Path | None) -> dict | None:
    from utils.errors import DataError

    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as report.json of evaluate.py ({error})") from error


def check_folder(folder: Path) -> None:
    from utils.errors import CheckpointError

    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder} is no model folder: give the best_model folder of a training")


def push(args: argparse.Namespace) -> int:
    from models.model_folder import read_lineage
    from training import acknowledgement, hub, hub_files
    from utils.utils import writing_to

    report = read_report(args.report)
    hub.check_message(args.message)
    if args.write_only:
        with writing_to(args.write_only, "name another folder with --write_only"):
            hub_files.write_shared_folder(args.model_folder, args.write_only, report)
            hub_files.unlink_copies(args.write_only)
        files = sorted(path for path in args.write_only.rglob("*") if path.is_file())
        print("\n".join(f"{path.stat().st_size:>13,}  {path.relative_to(args.write_only)}" for path in files))
        return 0
    hub.check_repository(args.repository)
    hub.check_reachable()
    if args.acknowledge_credentialed is not None:
        # nothing is recorded for an upload that can never be
        hub.check_lineage(
            read_lineage(args.model_folder), not args.public, True, args.repository, "--acknowledge_credentialed"
        )
        given = acknowledgement.acknowledge(args.repository, args.acknowledge_credentialed, args.who)
        acknowledgement.record(args.model_folder, given)
    address = hub.push(args.model_folder, args.repository, private=not args.public, report=report, message=args.message)
    print(f"uploaded: {address}")
    return 0


def card(args: argparse.Namespace) -> int:
    from training.hub_files import shared_card
    from utils.utils import write_atomic, writing_to

    text = shared_card(args.model_folder, read_report(args.report))
    if args.output is None:
        say(*text.splitlines())
        return 0
    with writing_to(args.output, "name another file with --output"):
        write_atomic(args.output, text)
    print(f"card: {args.output}")
    return 0


def main(argv: list[str]) -> int:
    args = parse(argv)
    check_folder(args.model_folder)
    with quick_imports():
        import training.hub_files  # noqa: F401  PyTorch and transformers, which take their time
        from utils.utils import setup_logging

    setup_logging()
    return push(args) if args.command == "push" else card(args)


if __name__ == "__main__":
    run(main)
