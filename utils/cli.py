"""What the command lines share: common options, and how errors end a program."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import UserError
from utils.interruption import Interrupted
from utils.privacy import shared_group, shown
from utils.secrets_file import load_env_file


def run(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Call `main(argv)` and leave with its exit code; errors become one line on stderr.

    A UserError ends with its own exit code, anything unexpected with 1 and, after `--debug` or with DEBUG=1 in the
    environment, its traceback; ctrl-C ends with 130, another signal that asks to leave with 75 ("try again"). Neither the
    line nor the traceback has ids of patients: see `utils.privacy.shown`.
    """
    # read when PyTorch starts: threads that wait asleep do not take the cores of other programs, which on a busy
    # machine makes two threads several times faster
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    load_env_file()
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv or os.environ.get("DEBUG") == "1"
    try:
        shared_group()  # an unclear wish for more readers ends the program before it writes
        code = main(argv)
        sys.stdout.flush()
    except UserError as error:
        _fail(f"error: {error}", error.exit_code, debug)
    except Interrupted as stop:
        _fail(str(stop), stop.exit_code, debug=False)
    except KeyboardInterrupt:
        _fail("interrupted", 130, debug=False)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        hint = "" if debug else " (run again with --debug for the traceback)"
        _fail(f"internal error: {type(error).__name__}: {error}{hint}", 1, debug)
    sys.exit(code or 0)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        print(shown(traceback.format_exc()), file=sys.stderr)
    try:
        print(shown(" ".join(message.split())), file=sys.stderr)
    except OSError:  # a log on a full disk, a closed terminal: Python would try again at the end, and exit with 120
        sys.stderr = None
    sys.exit(code)


def say(*lines: str) -> None:
    """Print lines without the ids of patients that they may hold: see `utils.privacy.shown`."""
    for line in lines:
        print(shown(line))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help texts as they are written, each with its default: what a text does not say itself is added.

    An option whose default is None or an empty list has to say in its own words what happens without it
    (tests/test_help.py).
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # as argparse's own ArgumentDefaultsHelpFormatter does it, but for flags, where "False" tells a user little
        text = action.help
        if text is None or "default" in text or not action.option_strings or action.dest == "help":
            return text
        if action.nargs == 0:
            return f"{text} (default: off)"
        return text if action.default in (None, []) else f"{text} (default: %(default)s)"


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """--config, --mimic_cxr_path, --mimic_qa_path, --set, --print_config, --debug. An option not given is None.

    `configs.mimic_cxr_config.config_from_args` turns the parsed arguments into a configuration.
    """
    group = parser.add_argument_group("common options")
    group.add_argument("--config", metavar="FILE", help="YAML file of settings (default: configs/default_config.yaml)")
    group.add_argument(
        "--mimic_cxr_path", metavar="DIR", help="folder of MIMIC-CXR-JPG (default: the environment's MIMIC_CXR_PATH)"
    )
    group.add_argument(
        "--mimic_qa_path", metavar="DIR", help="folder of MIMIC-Ext-CXR-QBA (default: the environment's MIMIC_QA_PATH)"
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as training.num_epochs=3; may be repeated (default: none)",
    )
    group.add_argument("--print_config", action="store_true", help="print every setting with its origin, then stop")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
