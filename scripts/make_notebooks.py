"""Write the notebooks of examples/ from their sources, without outputs: the same sources give the same bytes.

    python scripts/make_notebooks.py
    python scripts/make_notebooks.py --check

A source is a Python file in jupytext's percent format. Edit it, never the notebook.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # started by its path, Python looks in scripts/ only

from utils import cli  # noqa: E402
from utils.errors import UserError  # noqa: E402

FIRST_LINE = "# %%"
"""What a file of examples/ begins with if it is the source of a notebook"""


def sources(folder: Path) -> list[Path]:
    """The files of a folder that notebooks are made of."""
    return [path for path in sorted(folder.glob("*.py")) if path.read_text(encoding="utf-8").startswith(FIRST_LINE)]


def notebook_text(source: Path) -> str:
    """The notebook of a source as a file's text: no outputs, cells named by their number, the least metadata."""
    import jupytext
    import nbformat

    made = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"{source.stem.replace('_', '-')}-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return nbformat.writes(made).rstrip("\n") + "\n"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/make_notebooks.py", description=__doc__, formatter_class=cli.HelpFormatter
    )
    group = parser.add_argument_group("notebooks")
    group.add_argument("--check", action="store_true", help="write nothing; exit code 1 if one is not up to date")
    group.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "examples",
        metavar="DIR",
        help="sources and notebooks (default: examples)",
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    found = sources(args.folder)
    if not found:
        raise UserError(f"--folder {args.folder}: no source of a notebook (a .py file that begins with {FIRST_LINE!r})")
    code = 0
    for source in found:
        path = source.with_suffix(".ipynb")
        try:
            text = notebook_text(source)
        except ImportError as error:
            raise UserError(f"{error.name} is missing: pip install -r requirements-dev.txt") from error
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            print(f"{path.name}: up to date")
        elif args.check:
            print(f"{path.name}: not up to date: run scripts/make_notebooks.py")
            code = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: written")
    return code


if __name__ == "__main__":
    cli.run(main)
