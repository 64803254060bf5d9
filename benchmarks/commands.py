"""The subcommands of scripts/benchmark.py and their options. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils.cli import HelpFormatter


@dataclass(frozen=True)
class Option:
    """Arguments of `ArgumentParser.add_argument`."""

    name: str
    keywords: dict


def option(name: str, help: str, **keywords) -> Option:
    return Option(name, {"help": help, **keywords})


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    words = text.split(",") if text != "none" else []
    if not all(word.strip().isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text}: whole numbers from 0 up, between commas")
    return [int(word) for word in words]


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 up")
    return int(text)


@dataclass(frozen=True)
class Command:
    """A subcommand: `benchmarks.<module>.run(session)` gives the tables."""

    name: str
    module: str
    help: str
    options: tuple[Option, ...] = ()


def chosen(*names: str):
    """A type of arguments: some of these names, between commas."""

    def parse(text: str) -> list[str]:
        found = text.split(",") if text != "none" else []
        if wrong := [name for name in found if name not in names]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(names)}")
        return found

    return parse


_DATA_PARTS = ("open", "rows", "order", "images", "loader", "memory")
_DATA = Command(
    "data",
    "data",
    "opening an index, reading questions and images, beginning an epoch, the loader and its memory",
    (
        option("--questions", "of the generated index (default: 1,000,000)", type=positive, default=1_000_000),
        option(
            "--sizes",
            "questions of the indexes that are opened (default: 10000,1000000)",
            type=numbers,
            default=[10_000, 1_000_000],
        ),
        option("--images", "of a batch (default: 64)", type=positive, default=64),
        option("--films", "of original size, for the design as written (default: 8)", type=positive, default=8),
        option(
            "--study_questions",
            "in a study's JSON file, for the design as written (default: 186, as in MIMIC-Ext-CXR-QBA)",
            type=positive,
            default=186,
        ),
        option("--workers", "processes of the loader (default: up to twice the cores)", type=numbers, default=[]),
        option(
            "--stores", "kinds of image store (default: raw,jpeg)", type=chosen("raw", "jpeg"), default=["raw", "jpeg"]
        ),
        option(
            "--parts",
            f"only these (default: {','.join(_DATA_PARTS)})",
            type=chosen(*_DATA_PARTS),
            default=list(_DATA_PARTS),
        ),
        option("--pass_seconds", "longest pass for the memory of processes (default: 60)", type=float, default=60.0),
    ),
)

_AGAINST = ("per_question", "padded_128", "box_loop", "as_written", "as_written_zip", "vilt", "blip")
_TRAIN = Command(
    "train",
    "train",
    "our training step against one question per item, ViLT and BLIP, and without each idea of the fast path",
    (
        option("--images", "films of a step (default: 32)", type=positive, default=32, metavar="B"),
        option(
            "--questions", "questions a film: one step for each (default: 20)", type=numbers, default=[20], metavar="M"
        ),
        option(
            "--micro_batch",
            "films that go through the model together (default on a GPU: all; on a CPU: 8, fewer with more than 340 questions)",
            type=positive,
        ),
        option("--distinct", "share of distinct texts in a micro-batch (default: 0.5)", type=float, default=0.5),
        option(
            "--word_pieces",
            "of a question on average, where the text encoder is a pretrained one (default: 16)",
            type=float,
            default=16.0,
        ),
        option("--baseline_questions", "of one batch of the others (default: 8)", type=positive, default=8),
        option(
            "--against",
            f"compared with, or `none` (default: {','.join(_AGAINST)})",
            type=chosen(*_AGAINST),
            default=list(_AGAINST),
        ),
        option("--optimizer", "with clipping and AdamW", action="store_true"),
        option("--precision", "of all models (default: that of the configuration)", choices=["fp32", "bf16", "fp16"]),
        option("--compile", "encoders compiled; counts compilations", action="store_true"),
        option("--switches", "a table of steps without each idea of the fast path", action="store_true"),
        option("--encoder", "images a second of the image encoder alone", action="store_true"),
        option("--against_loader", "the real loader against a constant batch", action="store_true"),
        option("--workers", "processes of that loader (default: 0)", type=int, default=0),
    ),
)

_LEARN = Command(
    "learn",
    "learning",
    "trainings that differ in the questions of an image, at the same number of questions and at the same time",
    (
        option("--studies", "look-alike studies (default: 1000)", type=positive, default=1000),
        option("--questions", "of a visit (default: 1,4,16,64)", type=numbers, default=[1, 4, 16, 64], metavar="M"),
        option(
            "--balanced",
            "M of one more way: draws balanced over heads and types; 0: none (default: 16)",
            type=int,
            default=16,
            metavar="M",
        ),
        option("--step_questions", "questions of a step, for all (default: 384)", type=positive, default=384),
        option("--grade", "data.quality_grade (default: all)", default="all"),
        option("--seeds", "trainings of each way (default: 3)", type=positive, default=3),
        option("--seconds", "longest training (default: 180)", type=float, default=180.0),
    ),
)

_START = Command(
    "start",
    "start",
    "seconds from the call of the training program to the end of its first step",
    (
        option(
            "--studies",
            "of the look-alike release for train_mimic_cxr.py; 0: none (default: 100)",
            type=int,
            default=100,
        ),
        option(
            "--sizes",
            "questions of the indexes, or `none` (default: 10000,1000000)",
            type=numbers,
            default=[10_000, 1_000_000],
        ),
    ),
)

_BUILD = Command(
    "build",
    "build",
    "from a release to an index, by number of processes, against json.loads and lists of dictionaries",
    (
        option("--studies", "of the look-alike release (default: 300)", type=positive, default=300),
        option("--workers", "processes (default: 1 and all cores)", type=numbers, default=[]),
    ),
)

_INFER = Command(
    "infer",
    "infer",
    "answers about one image, and the evaluation of a split",
    (
        option("--questions", "about the image (default: 1,5,20,100)", type=numbers, default=[1, 5, 20, 100]),
        option("--sides", "of the image in pixels (default: the configuration's)", type=numbers, default=[]),
        option("--eval_studies", "of the release that is evaluated; 0: none (default: 60)", type=int, default=60),
    ),
)

_SCORE = Command(
    "score",
    "scoring",
    "intervals over resampled patients, against scoring each resample with scikit-learn",
    (
        option("--questions", "of two models (default: 500000)", type=positive, default=500_000),
        option("--patients", "who are drawn (default: 5000)", type=positive, default=5_000),
        option("--samples", "resamples (default: 2000)", type=positive, default=2_000),
    ),
)

_SCALE = Command(
    "scale",
    "scale",
    "time and memory of each stage of the data path by number of questions",
    (
        option(
            "--sizes",
            "questions (default: 10000,100000,1000000,10000000,30000000; the largest takes 2 GB of disk for a while)",
            type=numbers,
            default=[10_000, 100_000, 1_000_000, 10_000_000, 30_000_000],
        ),
        option("--images", "of a batch (default: 64)", type=positive, default=64),
        option("--workers", "processes of the loader, for their memory (default: 2)", type=positive, default=2),
        option("--pass_seconds", "longest pass for the memory of processes (default: 20)", type=float, default=20.0),
        option("--plot", "draw the growth into this file (default: no figure)", metavar="FILE.svg"),
        option("--keep", "leave the indexes in --workdir", action="store_true"),
    ),
)

_EXPORT = Command(
    "export",
    "export",
    "one film with several questions through the exported graphs, against a call of PyTorch for each question",
    (option("--questions", "about the film (default: 20)", type=positive, default=20, metavar="N"),),
)

COMMANDS: tuple[Command, ...] = (
    _TRAIN,
    _START,
    _DATA,
    _BUILD,
    _INFER,
    _SCORE,
    _SCALE,
    _LEARN,
    _EXPORT,
)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all subcommands have."""
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--json", metavar="FILE", help="write everything to this file: all rounds, machine, versions (default: none)"
    )
    group.add_argument("--rounds", type=positive, default=3, metavar="N", help="rounds after the warm-up (default: 3)")
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's)")
    group.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="of the model (default: a GPU if there is one)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of data, weights and draws (default: 0)")
    group.add_argument(
        "--workdir",
        metavar="DIR",
        help="where look-alike release and index are kept and found again (default: a temporary folder)",
    )
    group.add_argument("--config", metavar="FILE", help="settings (default: configs/default_config.yaml)")
    group.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated (default: none)"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark.py", description=description, formatter_class=HelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name, help=command.help, description=command.help, formatter_class=HelpFormatter
        )
        group = sub.add_argument_group("what is measured")
        for one in command.options:
            group.add_argument(one.name, **one.keywords)
        add_common_options(sub)
    return parser


def command_of(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)
