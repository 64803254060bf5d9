"""Prepare the data, one step or all: download, check, build index and image store; or write a look-alike release to try it with.

python setup_data.py --all --mimic_cxr_path DIR --mimic_qa_path DIR --dry_run
python setup_data.py --synthetic lookalike --studies 800 --seed 0
python setup_data.py --extract_all --mimic_qa_path $MIMIC_QA_PATH
python setup_data.py --mimic_cxr_path $MIMIC_CXR_PATH --mimic_qa_path $MIMIC_QA_PATH

Without a step: --prepare. Every step can be stopped and started again, and goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from utils import cli
from utils.errors import ConfigError, DataError

STEPS = ("synthetic", "download", "extract_all", "verify", "subset", "prepare", "all")
TOGETHER = ({"extract_all", "prepare"},)
"""All other steps are taken one at a time, or by --all."""
BELONGS = {
    "unzipped": ("synthetic",),
    "subset_dir": ("subset",),
    "connections": ("download", "all"),
    "accept_checksums": ("download", "all"),
    "jpg_address": ("download", "all"),
    "qba_address": ("download", "all"),
}
"""Option -> the steps that it is for."""
CONNECTIONS = 8


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    steps = parser.add_argument_group("steps")
    steps.add_argument(
        "--all", action="store_true", help="--download what is missing, compare checksums, then --prepare"
    )
    steps.add_argument("--download", action="store_true", help="get what is missing of both releases, and nothing else")
    steps.add_argument(
        "--extract_all", action="store_true", help="unpack the archives beside themselves first; never necessary"
    )
    steps.add_argument(
        "--prepare",
        action="store_true",
        help="build the index, or bring it up to date (default: when no other step is given)",
    )
    steps.add_argument(
        "--verify", action="store_true", help="compare all files with their checksums, decode all images"
    )
    steps.add_argument(
        "--subset", type=int, metavar="N", help="write a release of N random patients, for development (default: none)"
    )
    steps.add_argument(
        "--synthetic", metavar="DIR", help="write a look-alike release, in both PhysioNet layouts (default: none)"
    )
    for_all = parser.add_argument_group("for all steps")
    for_all.add_argument(
        "--dry_run", action="store_true", help="print what would be read and written, how large, how long, and stop"
    )
    for_all.add_argument("--num_workers", type=int, metavar="N", help="processes (default: all cores)")
    _add_release_options(parser)
    cli.add_common_arguments(parser)
    args = parser.parse_args(argv)
    check(args)
    return args


def _add_release_options(parser: argparse.ArgumentParser) -> None:
    download = parser.add_argument_group(
        "download from PhysioNet (credentialed access; login from ~/.netrc or a prompt)"
    )
    download.add_argument("--connections", type=int, metavar="N", help=f"at a time (default: {CONNECTIONS})")
    download.add_argument(
        "--accept_checksums",
        type=Path,
        metavar="FILE",
        help="checksums that hold beside those of SHA256SUMS.txt, in its form (default: none)",
    )
    for name, what in (("jpg", "MIMIC-CXR-JPG"), ("qba", "MIMIC-Ext-CXR-QBA")):
        download.add_argument(f"--{name}_address", metavar="URL", help=f"where {what} lies (default: PhysioNet)")
    made = parser.add_argument_group("subset and look-alike release (the latter: no patient data, no clinical meaning)")
    made.add_argument("--subset_dir", type=Path, metavar="DIR", help="where (default: ./subset-N)")
    made.add_argument("--studies", type=int, default=800, metavar="N", help="of the look-alike release")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same release or subset")
    made.add_argument("--unzipped", action="store_true", help="folders instead of qa.zip and scene_data.zip")


def check(args: argparse.Namespace) -> None:
    """ConfigError for options that make no sense, alone or together."""
    chosen = [step for step in STEPS if getattr(args, step) is not None and getattr(args, step) is not False]
    if len(chosen) > 1 and set(chosen) not in TOGETHER:
        raise ConfigError(f"--{chosen[0]} and --{chosen[1]}: one step at a time; --all downloads and prepares")
    for option, steps in BELONGS.items():
        if getattr(args, option) not in (None, False) and not set(chosen) & set(steps):
            raise ConfigError(f"--{option} is an option of --{' and --'.join(steps)}")
    for option in ("studies", "connections", "num_workers"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ConfigError(f"--{option} must be at least 1")
    if args.seed < 0:
        raise ConfigError("--seed must be at least 0")


def main(argv: list[str]) -> int:
    args = parse(argv)
    from configs.mimic_cxr_config import config_from_args, format_config

    loaded = config_from_args(args)
    if args.print_config:
        print(format_config(loaded))
        return 0
    if args.dry_run:
        return show_plan(args, loaded.config)
    if args.synthetic:
        return write_synthetic(args)
    if args.download:
        return download(args, loaded.config)
    if args.verify:
        return verify(args, loaded.config)
    if args.subset is not None:
        return subset(args, loaded.config)
    if args.all:
        return everything(args, loaded.config)
    return prepare(args, loaded.config)


def show_plan(args: argparse.Namespace, config) -> int:
    from data import setup_plan

    data, workers = config.data, args.num_workers or os.cpu_count() or 1
    if args.synthetic:
        steps = setup_plan.synthetic_steps(Path(args.synthetic), args.studies, args.seed, not args.unzipped, workers)
    elif args.download:
        steps = setup_plan.download_steps(data)
    elif args.verify:
        steps = setup_plan.verify_steps(data, workers)
    elif args.subset is not None:
        steps = setup_plan.subset_steps(data, subset_folder(args), args.subset, args.seed)
    elif args.all:
        steps = setup_plan.all_steps(data, workers)
    else:
        steps = setup_plan.extract_steps(data.mimic_qa_path) if args.extract_all else []
        if not args.extract_all or data.mimic_cxr_path:
            steps += setup_plan.prepare_steps(data, workers)
    cli.say(*setup_plan.plan_lines(steps))
    setup_plan.require_space(steps)
    return 0


def write_synthetic(args: argparse.Namespace) -> int:
    from data.synthetic import write_release

    folder = Path(args.synthetic)
    write_release(folder, args.studies, args.seed, zipped=not args.unzipped, workers=args.num_workers)
    print(f"wrote a look-alike release of {args.studies:,} studies (no clinical meaning); next:")
    print(f"  export MIMIC_CXR_PATH={folder / 'mimic-cxr-jpg'} MIMIC_QA_PATH={folder / 'mimic-ext-cxr-qba'}")
    print("  python setup_data.py --config configs/tiny_config.yaml")
    return 0


def download(args: argparse.Namespace, config) -> int:
    from data.download import command
    from utils.utils import setup_logging

    setup_logging()
    connections = args.connections or CONNECTIONS
    options = command.Options(args.jpg_address, args.qba_address, connections, args.accept_checksums)
    outcome = command.download(config.data, options)
    cli.say(*command.outcome_lines(outcome))
    return 0 if outcome.is_complete else DataError.exit_code


def verify(args: argparse.Namespace, config) -> int:
    from data.release import open_release
    from data.release import verify as checks
    from utils.utils import setup_logging

    setup_logging()
    data = config.data
    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    workers = args.num_workers or os.cpu_count() or 1
    found = checks.verify(release, data.view_filter, workers, bar)
    cli.say(*checks.verified_lines(found))
    return 0 if found.is_whole else DataError.exit_code


def bar(what: str, total: int):
    from tqdm import tqdm

    return tqdm(desc=what, total=total, disable=None).update


def subset_folder(args: argparse.Namespace) -> Path:
    return args.subset_dir or Path(f"subset-{args.subset}")


def subset(args: argparse.Namespace, config) -> int:
    from data.release import open_release
    from data.release.subset import JPG_FOLDER, QBA_FOLDER, write_subset
    from utils.utils import setup_logging, writing_to

    setup_logging()
    folder = subset_folder(args)
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    with writing_to(folder, "free space, or choose another folder with --subset_dir"):
        counts = write_subset(release, folder, args.subset, args.seed)
    print(f"wrote {folder}: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in counts.items()))
    if release.is_credentialed:
        print("these are data under the same agreement as the whole release")
    print(f"  export MIMIC_CXR_PATH={folder / JPG_FOLDER} MIMIC_QA_PATH={folder / QBA_FOLDER}")
    return 0


def everything(args: argparse.Namespace, config) -> int:
    """What is downloaded is compared with its checksum then; images that were there are decoded when the index is built."""
    from data.download.needed import what_is_missing
    from data.release import open_release
    from data.release import verify as checks

    data = config.data
    if missing := what_is_missing(data):
        cli.say(f"download: {missing}")
        if code := download(args, config):
            return code
    else:
        release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
        found = checks.verify_used(release, args.num_workers or os.cpu_count() or 1, bar)
        cli.say(*checks.used_lines(found))
        if not found.is_whole:
            return DataError.exit_code
    return prepare(args, config)


def prepare(args: argparse.Namespace, config) -> int:
    from data.index import prepare_index
    from data.release import extract_release
    from data.summary import report_lines, summarise
    from utils.utils import setup_logging

    setup_logging()
    if args.extract_all:
        cli.say(*extract_release(config.data.mimic_qa_path))
        if not config.data.mimic_cxr_path:
            print("no index yet: give --mimic_cxr_path or set MIMIC_CXR_PATH, then run setup_data.py again")
            return 0
    index = prepare_index(config, args.num_workers)
    cli.say(*report_lines(summarise(index, config.data)))
    print(f"index: {os.path.relpath(index.path)}")
    print("next: python analyze_data.py, then python train_mimic_cxr.py, with the same options")
    return 0


if __name__ == "__main__":
    cli.run(main)
