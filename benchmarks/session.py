"""One run of the benchmark: settings, device, machine, and the look-alike data that it measures with."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.commands import command_of
from benchmarks.machine import Machine, describe, look_again
from benchmarks.timing import Measured, Variant, measure
from configs.mimic_cxr_config import Config, load_config, to_dict
from data.index import Index, ensure_index
from data.synthetic import write_release
from data.synthetic.writer import CXR_FOLDER, QA_FOLDER
from utils.errors import ConfigError
from utils.utils import seed_everything, write_json


@dataclass
class Session:
    """What a subcommand is given."""

    args: argparse.Namespace
    """the command line; common options of `benchmarks.commands` and the subcommand's own"""
    config: Config
    """of --config and --set; the data paths are empty: look-alike data are measured with, whatever the environment says"""
    device: torch.device
    workdir: Path
    machine: Machine

    def measure(self, variants: list[Variant], *, least_seconds: float = 0.0, rounds: int = 0) -> list[Measured]:
        """`timing.measure` with the session's rounds (or `rounds`) and device; says on stderr what is going on."""
        look_again(self.machine, self.device)
        measured = measure(
            variants, rounds or self.args.rounds, self.device, least_seconds=least_seconds, progress=self.say
        )
        look_again(self.machine, self.device)
        return measured

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def release(self, studies: int, *, zipped: bool = True, seed: int | None = None) -> tuple[Path, Path]:
        """Folders of a look-alike MIMIC-CXR-JPG and MIMIC-Ext-CXR-QBA of so many studies; written unless they are there."""
        seed = self.args.seed if seed is None else seed
        folder = self.workdir / f"lookalike-{studies}-{seed}{'' if zipped else '-unzipped'}"
        if not folder.exists():  # it appears whole or not at all
            self.say(f"writing a look-alike release of {studies:,} studies into {folder}")
            write_release(folder, studies, seed, zipped=zipped, progress=False)
        return folder / CXR_FOLDER, folder / QA_FOLDER

    def with_release(self, studies: int, *, zipped: bool = True, seed: int | None = None) -> Config:
        """A copy of the configuration that names such a release, and a folder of the work directory for its index."""
        config = deepcopy(self.config)
        cxr, qa = self.release(studies, zipped=zipped, seed=seed)
        side = config.data.image_store_size or config.data.image_size
        config.data.mimic_cxr_path, config.data.mimic_qa_path = str(cxr), str(qa)
        config.data.index_dir = str(self.workdir / "index" / f"{cxr.parent.name}-{side}-{config.data.view_filter}")
        return config

    def index(self, config: Config) -> Index:
        """The index of `with_release`'s configuration, built unless it is there."""
        return ensure_index(config)


@contextmanager
def work_folder(path: str | None) -> Iterator[Path]:
    """The named folder, made where it is missing; or a temporary one, removed afterwards."""
    if path:
        Path(path).mkdir(parents=True, exist_ok=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder)


def choose_device(name: str) -> torch.device:
    """ConfigError when a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch can use no GPU here; give --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def run(args: argparse.Namespace, argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    # recomputing activations saves memory and costs a third more time: for the user to switch on
    config = load_config(args.config, args.set, hardware={"training.gradient_checkpointing": False}).config
    config.data.mimic_cxr_path = config.data.mimic_qa_path = config.data.index_dir = ""
    if args.threads:
        torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    command = importlib.import_module(f"benchmarks.{command_of(args.command).module}")
    with work_folder(args.workdir) as folder:
        session = Session(args, config, choose_device(args.device), folder, describe(choose_device(args.device)))
        print("\n".join(session.machine.lines()), flush=True)
        sections = []
        for section in command.run(session):
            print(section.text(session.machine), flush=True)
            sections.append(section)
    if args.json:
        settings = {"options": vars(args), "config": to_dict(config)}
        write_json(args.json, report.document(argv, settings, session.machine, sections))
    return 0
