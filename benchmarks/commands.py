"""The subcommands of scripts/benchmark.py and their options. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """Arguments of `ArgumentParser.add_argument`."""

    name: str
    keywords: dict


def option(name: str, help: str, **keywords) -> Option:
    return Option(name, {"help": help, **keywords})


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    found = [int(word) for word in text.split(",")]
    if any(n < 0 for n in found):
        raise argparse.ArgumentTypeError(f"{text}: whole numbers from 0 up, between commas")
    return found


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if (found := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 up")
    return found


@dataclass(frozen=True)
class Command:
    """A subcommand: `benchmarks.<module>.run(session)` gives the tables."""

    name: str
    module: str
    help: str
    options: tuple[Option, ...] = ()


COMMANDS: tuple[Command, ...] = ()


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What all subcommands have."""
    group = parser.add_argument_group("common options")
    group.add_argument("--json", metavar="FILE", help="write everything to this file: all rounds, machine, versions")
    group.add_argument("--rounds", type=positive, default=3, metavar="N", help="rounds after the warm-up (default: 3)")
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's)")
    group.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: a GPU if there is one"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of data, weights and draws (default: 0)")
    group.add_argument(
        "--workdir",
        metavar="DIR",
        help="where look-alike release and index are kept and found again (default: a temporary folder)",
    )
    group.add_argument("--config", metavar="FILE", help="settings (default: configs/default_config.yaml)")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be repeated")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        for one in command.options:
            sub.add_argument(one.name, **one.keywords)
        add_common_options(sub)
    return parser


def command_of(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)
