"""Say what a release holds, what is missing, and whether training can start (exit code 0: yes, 1: no).

python analyze_data.py --mimic_cxr_path $MIMIC_CXR_PATH --mimic_qa_path $MIMIC_QA_PATH
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils import cli


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", default="./analysis_output", help="where analysis_report.json goes (default: %(default)s)"
    )
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="processes, if the index has to be built (default: all)"
    )
    cli.add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    from configs.mimic_cxr_config import config_from_args, format_config

    loaded = config_from_args(args)
    if args.print_config:
        print(format_config(loaded))
        return 0
    return analyse(args, loaded.config)


def analyse(args: argparse.Namespace, config) -> int:
    from data.index import ensure_index
    from data.release import check, open_release
    from data.summary import obstacles, report_lines, summarise
    from utils.privacy import warn_if_open, without_ids
    from utils.utils import setup_logging, write_json, writing_to

    setup_logging()
    release = open_release(config.data.mimic_cxr_path, config.data.mimic_qa_path)
    cli.say(*release.describe())
    problems = check(release, max_bad_fraction=config.data.max_bad_fraction, view_filter=config.data.view_filter)
    index = ensure_index(config, args.num_workers)
    summary = summarise(index, config.data)
    cli.say(*report_lines(summary))
    # what the release lacks explains what the index lacks: it is said once
    reasons = [f"{p.what} ({p.where}); {p.mend}" for p in problems if p.severity == "error"]
    reasons = reasons or obstacles(index, config.data)
    warnings = [f"{p.what} ({p.where}); {p.mend}" for p in problems if p.severity == "warning"]
    for kind, lines in (("warning", warnings), ("error", reasons)):
        cli.say(*(f"{kind}: {line}" for line in lines))
    report = {
        "summary": {"is_ready": not reasons, "reasons": [without_ids(line) for line in reasons]},
        "index": summary,
        "warnings": [without_ids(line) for line in warnings],
    }
    path = Path(args.output_dir) / "analysis_report.json"
    if index.is_credentialed:
        warn_if_open(path.parent)
    with writing_to(path.parent, "free space, or name another folder with --output_dir"):
        write_json(path, report)
    print(f"report: {path}")
    print("ready: training can start" if not reasons else f"not ready: {len(reasons)} thing(s) to mend, see above")
    return 0 if not reasons else 1


if __name__ == "__main__":
    cli.run(main)
