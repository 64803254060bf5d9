"""Ask a trained model about chest films: one film and some questions, or a file of many.

    python examples/ask.py film.png "Is there a pleural effusion?" "Where is the nodule?"
    python examples/ask.py film.dcm "How severe is the edema?" --json
    python examples/ask.py --csv questions.csv --output answers.csv

A file has the columns image, question and, if wanted, head; it goes on where it was cut off. Not for clinical use. The manual:
docs/ASKING.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started by its path, Python looks in examples/ only

from data.label_space import Head  # noqa: E402
from utils.cli import run, say  # noqa: E402
from utils.privacy import shown, without_ids  # noqa: E402
from utils.quick_imports import quick_imports  # noqa: E402

NOTICE = "Research software: not for clinical use."
SHOWN_REGIONS = 3
WIDTHS = {"question": 32, "answer": 30, "probability": 19, "without the film": 18, "looked at": 26}
"""Least width of the table's columns; question and answer share what else the terminal has"""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="examples/ask.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = parser.add_argument_group("one film")
    asked.add_argument("image", nargs="?", help="JPEG, PNG or DICOM (default: none, with --csv)")
    asked.add_argument("questions", nargs="*", metavar="question", help="in English, each in quotes (default: none)")
    many = parser.add_argument_group("many films")
    many.add_argument("--csv", metavar="FILE", help="CSV or JSONL with a question a row (default: none)")
    many.add_argument("--output", metavar="FILE", help="answers, .csv or .jsonl (default: none; needed with --csv)")
    many.add_argument("--overwrite", action="store_true", help="replace an output that is there (default: stop)")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", metavar="DIR", default="./checkpoints/best_model", help="trained model (default: %(default)s)"
    )
    model.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 or auto, a GPU if there is one (default: auto)"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--head",
        choices=[head.value for head in Head],
        help="that answers all questions; refused ones stay refused (default: each by its words)",
    )
    answers.add_argument(
        "--force",
        action="store_true",
        help="answer about images that are no frontal chest film, and questions that should be refused, with a warning "
        "(default: refuse)",
    )
    answers.add_argument(
        "--json", action="store_true", help="print JSON with all probabilities and boxes (default: a table)"
    )
    parser.add_argument_group("errors").add_argument(
        "--debug", action="store_true", help="show the traceback of an error (default: one line)"
    )
    args = parser.parse_args(argv)
    if args.csv and (args.image or args.head or args.json):
        parser.error("--csv: image, question and head stand in its rows, and answers in --output: leave them out here")
    if args.csv and not args.output:
        parser.error("--csv: say where the answers go with --output answers.csv (or .jsonl)")
    if not args.csv and (args.output or args.overwrite):
        parser.error("--output, --overwrite: for --csv; of one film, print --json into a file")
    if not args.csv and not args.questions:
        parser.error("give an image and at least one question in quotes, or --csv")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.csv:
        return ask_many(args)
    with quick_imports():
        from models.asking import Asker
    asker = Asker.from_pretrained(args.model, args.device)
    film = asker.film(args.image, args.force)
    answers = asker.ask(film, args.questions, args.head, args.force)
    if args.json:
        print(without_ids(json.dumps(as_json(film, answers), indent=2, ensure_ascii=False)))
    else:
        say(*film_lines(film), *table(answers, shutil.get_terminal_size((132, 24)).columns), "", NOTICE)
    return 0


def ask_many(args: argparse.Namespace) -> int:
    """Answers of a file; what could not be answered is listed on stderr."""
    from data.question_file import check_output, read_question_file

    questions, output = Path(args.csv), Path(args.output)
    check_output(output, args.overwrite, questions)
    read_question_file(questions)  # before a model is loaded
    with quick_imports():
        from models.ask_file import ask_file
        from models.asking import Asker
    asker = Asker.from_pretrained(args.model, args.device)

    def progress(done: int, rows: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {rows:,} rows", end="\n" if done == rows else "", file=sys.stderr, flush=True)

    outcome = ask_file(asker, questions, output, force=args.force, overwrite=args.overwrite, progress=progress)
    for line in (*outcome.warnings, *outcome.bad):
        print(shown(line), file=sys.stderr)
    reused = f", {outcome.reused:,} of them by an earlier run" if outcome.reused else ""
    say(
        f"{outcome.rows:,} rows{reused}: {outcome.answered:,} answered, {outcome.refused:,} refused, "
        f"{len(outcome.bad):,} with errors",
        f"answers: {output}",
        NOTICE,
    )
    return 0


# What is printed


def as_json(film, answers) -> dict:
    """For programs: the film, what the model sees in it, and the answers."""
    return {
        "film": {
            "name": film.name,
            "width": film.width,
            "height": film.height,
            "frontal": {"is_frontal": film.frontal.is_frontal, "probability": round(film.frontal.probability, 6)},
        },
        "graph": [
            {
                "region": region.name,
                "box": [round(side, 1) for side in vars(region.box).values()],
                "findings": {name: round(p, 6) for name, p in region.findings().items()},
            }
            for region in film.regions
        ],
        "answers": [answer.as_json() for answer in answers],
        "notice": NOTICE,
    }


def film_lines(film) -> list[str]:
    kind = "frontal chest film" if film.frontal.is_frontal else "not a frontal chest film"
    return [f"{film.name}: {film.width} x {film.height} pixels, {kind} ({film.frontal.probability:.2f})", ""]


def table(answers, width: int) -> list[str]:
    """The answers side by side, wrapped to `width` letters, or to the least that the columns need."""
    spare = max(0, width - sum(WIDTHS.values()) - 2 * (len(WIDTHS) - 1))
    widths = dict(WIDTHS, question=WIDTHS["question"] + spare // 2, answer=WIDTHS["answer"] + spare - spare // 2)
    lines = ["  ".join(name.ljust(wide) for name, wide in widths.items()).rstrip()]
    for answer in answers:
        cells = [
            textwrap.wrap(text, wide) or [""] for text, wide in zip(cells_of(answer), widths.values(), strict=True)
        ]
        for number in range(max(map(len, cells))):
            row = (cell[number] if number < len(cell) else "" for cell in cells)
            lines.append("  ".join(text.ljust(wide) for text, wide in zip(row, widths.values(), strict=True)).rstrip())
        lines += [f"  note: {warning}" for warning in answer.warnings]
    return lines


def cells_of(answer) -> tuple[str, ...]:
    """Question, answer, probability, the control's answer, regions."""
    if not answer.is_answered:
        return answer.question, answer.text, "", "", ""
    sure = f"{answer.probability:.2f} {'calibrated' if answer.calibrated else 'not calibrated'}"
    control = answer.question_only
    without = "" if control is None else f"{', '.join(control.texts) or 'none of them'} ({control.probability:.2f})"
    looks = ", ".join(f"{look.region} {look.weight:.0%}" for look in answer.looks[:SHOWN_REGIONS])
    return answer.question, answer.text, sure, without, looks


if __name__ == "__main__":
    run(main)
