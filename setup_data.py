"""Prepare the data: download, extract, build index and image store, or write a look-alike release to try everything with.

python setup_data.py --download --mimic_cxr_path DIR --mimic_qa_path DIR --dry_run
python setup_data.py --synthetic lookalike --studies 800 --seed 0
python setup_data.py --extract_all --mimic_qa_path $MIMIC_QA_PATH
python setup_data.py --mimic_cxr_path $MIMIC_CXR_PATH --mimic_qa_path $MIMIC_QA_PATH
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from utils import cli
from utils.errors import DataError


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    synthetic = parser.add_argument_group("look-alike release (no patient data, no clinical meaning)")
    synthetic.add_argument("--synthetic", metavar="DIR", help="write a release into DIR, in both PhysioNet layouts")
    synthetic.add_argument("--studies", type=int, default=800, help="number of studies (default: %(default)s)")
    synthetic.add_argument(
        "--seed", type=int, default=0, help="same seed, same release or subset (default: %(default)s)"
    )
    synthetic.add_argument("--unzipped", action="store_true", help="folders instead of qa.zip and scene_data.zip")
    download = parser.add_argument_group(
        "download from PhysioNet (credentialed access; login from ~/.netrc or a prompt)"
    )
    download.add_argument(
        "--download", action="store_true", help="get what is missing of both releases, and nothing else"
    )
    download.add_argument("--dry_run", action="store_true", help="print what would be downloaded, and stop")
    download.add_argument("--connections", type=int, default=8, metavar="N", help="at a time (default: %(default)s)")
    download.add_argument(
        "--accept_checksums",
        type=Path,
        metavar="FILE",
        help="checksums that hold beside those of SHA256SUMS.txt, in its form",
    )
    for name, what in (("jpg", "MIMIC-CXR-JPG"), ("qba", "MIMIC-Ext-CXR-QBA")):
        download.add_argument(f"--{name}_address", metavar="URL", help=f"where {what} lies (default: PhysioNet)")
    release = parser.add_argument_group("a release on disk")
    release.add_argument(
        "--extract_all", action="store_true", help="unpack qa.zip and scene_data.zip beside themselves first"
    )
    release.add_argument(
        "--verify", action="store_true", help="compare all files with their checksums, decode all images, and stop"
    )
    release.add_argument(
        "--subset", type=int, metavar="N", help="write a release of N random patients, for development"
    )
    release.add_argument("--subset_dir", type=Path, metavar="DIR", help="where (default: ./subset-N)")
    release.add_argument("--num_workers", type=int, metavar="N", help="processes (default: all cores)")
    cli.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.studies < 1:
        parser.error("--studies must be at least 1")
    if args.connections < 1:
        parser.error("--connections must be at least 1")
    if args.dry_run and not args.download:
        parser.error("--dry_run: there is a plan of --download only")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    from configs.mimic_cxr_config import config_from_args, format_config

    loaded = config_from_args(args)
    if args.print_config:
        print(format_config(loaded))
        return 0
    if args.synthetic:
        return write_synthetic(args)
    if args.download:
        return download(args, loaded.config)
    if args.verify:
        return verify(args, loaded.config)
    if args.subset is not None:
        return subset(args, loaded.config)
    return prepare(args, loaded.config)


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
    if args.dry_run:
        cli.say(*command.plan_lines(config.data))
        return 0
    options = command.Options(args.jpg_address, args.qba_address, args.connections, args.accept_checksums)
    outcome = command.download(config.data, options)
    cli.say(*command.outcome_lines(outcome))
    return 0 if outcome.is_complete else DataError.exit_code


def verify(args: argparse.Namespace, config) -> int:
    from tqdm import tqdm

    from data.release import open_release
    from data.release import verify as checks
    from utils.utils import setup_logging

    setup_logging()
    data = config.data
    release = open_release(data.mimic_cxr_path, data.mimic_qa_path)
    workers = args.num_workers or os.cpu_count() or 1
    found = checks.verify(
        release, data.view_filter, workers, lambda what, total: tqdm(desc=what, total=total, disable=None).update
    )
    cli.say(*checks.verified_lines(found))
    return 0 if found.is_whole else DataError.exit_code


def subset(args: argparse.Namespace, config) -> int:
    from data.release import open_release
    from data.release.subset import JPG_FOLDER, QBA_FOLDER, write_subset
    from utils.utils import setup_logging, writing_to

    setup_logging()
    folder = args.subset_dir or Path(f"subset-{args.subset}")
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    with writing_to(folder, "free space, or choose another folder with --subset_dir"):
        counts = write_subset(release, folder, args.subset, args.seed)
    print(f"wrote {folder}: " + ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in counts.items()))
    if release.is_credentialed:
        print("these are data under the same agreement as the whole release")
    print(f"  export MIMIC_CXR_PATH={folder / JPG_FOLDER} MIMIC_QA_PATH={folder / QBA_FOLDER}")
    return 0


def prepare(args: argparse.Namespace, config) -> int:
    from data.index import ensure_index
    from data.release import extract_release
    from data.summary import report_lines, summarise
    from utils.utils import setup_logging

    setup_logging()
    if args.extract_all:
        cli.say(*extract_release(config.data.mimic_qa_path))
        if not config.data.mimic_cxr_path:
            print("no index yet: give --mimic_cxr_path or set MIMIC_CXR_PATH, then run setup_data.py again")
            return 0
    index = ensure_index(config, args.num_workers)
    cli.say(*report_lines(summarise(index, config.data)))
    print(f"index: {os.path.relpath(index.path)}")
    print("next: python analyze_data.py, then python train_mimic_cxr.py, with the same options")
    return 0


if __name__ == "__main__":
    cli.run(main)
