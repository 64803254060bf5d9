"""Say what a release holds, what is odd about it, and whether training can start (exit code 0: yes, 1: no).

python analyze_data.py --mimic_cxr_path $MIMIC_CXR_PATH --mimic_qa_path $MIMIC_QA_PATH
python analyze_data.py --check --allow image_size_differs
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from utils import cli


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    report = parser.add_argument_group("report")
    report.add_argument(
        "--output_dir",
        type=Path,
        default=Path("./analysis_output"),
        metavar="DIR",
        help="where analysis_report.json and .html go (default: ./analysis_output)",
    )
    report.add_argument("--check", action="store_true", help="look for oddities only; write no report")
    report.add_argument(
        "--visualize_samples",
        type=int,
        default=0,
        metavar="N",
        help="draw N films with boxes and questions into the page, which then must stay private (default: none)",
    )
    work = parser.add_argument_group("verdict and index")
    work.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="let training start in spite of this error; repeatable (default: none)",
    )
    work.add_argument(
        "--num_workers", type=int, metavar="N", help="processes, if the index has to be built (default: all)"
    )
    cli.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.visualize_samples < 0:
        parser.error("--visualize_samples must be at least 0")
    if args.check and args.visualize_samples:
        parser.error("--visualize_samples needs the page, which --check does not write")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    from configs.mimic_cxr_config import config_from_args, format_config

    loaded = config_from_args(args)
    if args.print_config:
        print(format_config(loaded))
        return 0
    return examine(args, loaded.config)


def examine(args: argparse.Namespace, config) -> int:
    from data.analysis import verdict
    from data.doctor import Diagnosis, compare, comparison_lines, diagnose, diagnose_release
    from data.index import ensure_index
    from data.release import open_release
    from utils.utils import setup_logging

    setup_logging()
    Diagnosis.of([], args.allow)  # a misspelt name shows now, not after the work
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    cli.say(*release.describe())
    found = diagnose_release(release, config.data)
    diagnosis = Diagnosis.of(found, args.allow)
    if diagnosis.errors:  # nothing is built from a release that cannot be trained on
        if not args.check:
            report = verdict(diagnosis, compare(release, None))
            write_report(args.output_dir, report, release.is_credentialed)  # an earlier one may say that all is well
        return conclude(diagnosis)
    # all that is bad is to be named, however much it is: the diagnosis says whether it is too much
    tolerant = replace(config.data, max_bad_fraction=1.0, on_bad_sample="quarantine")
    index = ensure_index(replace(config, data=tolerant), args.num_workers)
    # what the release lacks explains what the index lacks: it is said once
    known = {problem.name for problem in found}
    found += [problem for problem in diagnose(index, config.data) if problem.name not in known]
    diagnosis, comparisons = Diagnosis.of(found, args.allow), compare(release, index)
    if not args.check:
        report = verdict(diagnosis, comparisons) | measure(config, release, index)
        write_report(args.output_dir, report, index.is_credentialed, shown_samples(index, args.visualize_samples))
    cli.say(*comparison_lines(comparisons))
    return conclude(diagnosis)


def measure(config, release, index) -> dict:
    """The parts of the report that need an index."""
    from tqdm import tqdm

    from data.analysis import analyse
    from data.summary import report_lines

    report, tokenizer = {}, tokenizer_of(config, index)
    parts = analyse(release, index, config.data, tokenizer, config.model.max_question_length)
    for name, values in tqdm(parts, desc="analysis", unit="part", disable=None):
        report[name] = values
    cli.say(*report_lines(report["index"]))
    return report


def shown_samples(index, number: int) -> str:
    from data.analysis.samples import samples

    return samples(index, number) if number else ""


def write_report(folder: Path, report: dict, credentialed: bool, shown: str = "") -> None:
    from data.analysis import render_page
    from utils.privacy import private_directory, warn_if_open
    from utils.utils import write_atomic, write_json, writing_to

    if credentialed:
        warn_if_open(folder)
    with writing_to(folder, "free space, or name another folder with --output_dir"):
        private_directory(folder)
        write_json(folder / "analysis_report.json", report)
        write_atomic(folder / "analysis_report.html", render_page(report, shown))
    print(f"report: {folder / 'analysis_report.json'} and .html")


def tokenizer_of(config, index):
    """The model's tokenizer where it can be had; None: lengths are in words alone."""
    from models.encoders import build_tokenizer
    from training.run import training_texts
    from utils.errors import ConfigError

    try:
        return build_tokenizer(config.model, training_texts(index))
    except ConfigError as error:
        print(f"word pieces are not counted: {error}")
        return None


def conclude(diagnosis) -> int:
    cli.say(*diagnosis.lines())
    errors = len(diagnosis.errors)
    print(f"not ready: {errors} thing(s) to mend, see above" if errors else "ready: training can start")
    return 1 if errors else 0


if __name__ == "__main__":
    cli.run(main)
