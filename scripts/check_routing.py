"""Measure how free-text questions are routed: which are answered by the right head, which are refused, and which should have been.

    python scripts/check_routing.py --model ./checkpoints/best_model
    python scripts/check_routing.py --model ./checkpoints/best_model --vqa_rad vqa-rad --show

Without options the questions of examples/routing_questions.csv are used: columns question, supported (yes or no), head, part.
The rules of models/routing.py and data/question_words.py were mended with the errors of the part `development` in view, and
never with those of `held_out`. Of VQA-RAD: the chest questions that configs/vqa_rad.yaml gives to a head, and those about
modality, plane and number, which no head answers; its training part was in view too, its test part was not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.cli import run, say  # noqa: E402
from utils.quick_imports import quick_imports  # noqa: E402

QUESTIONS = ROOT / "examples" / "routing_questions.csv"
UNSUPPORTED_TYPES = {"MODALITY", "PLANE", "COUNT"}
"""Of VQA-RAD"""
AT_ONCE = 256


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/check_routing.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_argument_group("model and questions")
    source.add_argument(
        "--model", metavar="DIR", default="./checkpoints/best_model", help="model folder (default: %(default)s)"
    )
    source.add_argument(
        "--questions",
        metavar="FILE",
        default=str(QUESTIONS),
        help="CSV or JSONL (default: examples/routing_questions.csv)",
    )
    source.add_argument("--vqa_rad", metavar="DIR", help="measure on VQA-RAD too (default: not)")
    results = parser.add_argument_group("results")
    results.add_argument(
        "--show", action="store_true", help="list the questions that went wrong (default: counts alone)"
    )
    results.add_argument("--debug", action="store_true", help="show the traceback of an error (default: one line)")
    return parser.parse_args(argv)


def read_questions(path: Path) -> dict[str, list[tuple[str, str]]]:
    """part -> (text, head or empty where it is unsupported). DataError for a cell that cannot be meant so."""
    from data.label_space import find_head
    from data.rows import read_table
    from utils.errors import ConfigError, DataError

    parts: dict[str, list[tuple[str, str]]] = {}
    for row in read_table(path, ("question", "supported"), ("head", "part")).rows:
        text, supported = row.cells.get("question", ""), row.cells.get("supported", "")
        if not text or supported not in ("yes", "no"):
            raise DataError(f"{row.place}: needs a question, and yes or no under `supported`")
        try:
            head = find_head(row.cells.get("head"))
        except ConfigError as error:
            raise DataError(f"{row.place}: {error}") from error
        if (supported == "yes") != (head is not None):
            raise DataError(f"{row.place}: a supported question needs a head, and no other has one")
        parts.setdefault(row.cells.get("part", "all"), []).append((text, head.value if head else ""))
    return parts


def read_vqa_rad_questions(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """As `read_questions`, for the training and the test part; a text that both have counts for training alone."""
    from data.label_space import QUESTION_TYPES, TYPE_INDEX
    from data.vqa_rad import PARTS, read_vqa_rad

    head_of = {
        record.text: QUESTION_TYPES[TYPE_INDEX[record.type]].head.value for record in read_vqa_rad(folder).records
    }
    parts: dict[str, list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for part, name in PARTS.items():
        questions = parts.setdefault(f"VQA-RAD, {part} part", [])
        for entry in json.loads((folder / name).read_text(encoding="utf-8")):
            text = str(entry["question"]).strip()
            about_chest = entry["image_organ"].strip().upper() == "CHEST"
            if not about_chest or text in seen:
                continue
            seen.add(text)
            if entry["question_type"].strip() in UNSUPPORTED_TYPES:
                questions.append((text, ""))
            elif text in head_of:
                questions.append((text, head_of[text]))
    return parts


def measure(asker, questions: list[tuple[str, str]]) -> list[dict]:
    """What becomes of each question."""
    import torch

    from data.label_space import Head
    from models.routing import head_probabilities

    results = []
    for start in range(0, len(questions), AT_ONCE):
        some = questions[start : start + AT_ONCE]
        with torch.inference_mode():
            logits = asker.model.question_types(asker.tokens([text for text, _ in some]))
        of_heads = head_probabilities(logits)[:, :-1]
        for (text, wanted), row, by_head in zip(some, logits, of_heads, strict=True):
            route = asker.router.route(text, row)
            results.append(
                {
                    "text": text,
                    "wanted": wanted,
                    "routed": "" if route.reason else route.head.value,
                    "classifier": list(Head)[int(by_head.argmax())].value,
                    "confidence": float(by_head.max()),
                    "reason": route.reason,
                }
            )
    return results


def lines(name: str, results: list[dict], show: bool) -> list[str]:
    supported = [r for r in results if r["wanted"]]
    others = [r for r in results if not r["wanted"]]
    answered = [r for r in supported if r["routed"]]
    right = sum(r["routed"] == r["wanted"] for r in answered)
    alone = sum(r["classifier"] == r["wanted"] for r in supported)
    accepted = [r for r in others if r["routed"]]
    found = [
        f"{name}: {len(supported):,} supported, {len(others):,} unsupported questions",
        f"  false refusals     {share(len(supported) - len(answered), len(supported))}",
        f"  false acceptances  {share(len(accepted), len(others))}",
        f"  right head         {share(right, len(answered))} of those answered",
        f"  right head         {share(alone, len(supported))} of the supported by the classifier alone",
        f"  classifier's confidence tells supported from unsupported: AUROC {auroc(results)}",
    ]
    if show:
        found += [f"  refused: {r['text']} ({r['reason']})" for r in supported if not r["routed"]]
        found += [f"  accepted: {r['text']} (as {r['routed']})" for r in accepted]
        found += [
            f"  {r['routed']} instead of {r['wanted']}: {r['text']}" for r in answered if r["routed"] != r["wanted"]
        ]
    return found


def share(part: int, whole: int) -> str:
    return f"{part:>4,} of {whole:>4,} ({100 * part / whole:.1f} %)" if whole else "   none"


def auroc(results: list[dict]) -> str:
    from sklearn.metrics import roc_auc_score

    truth = [bool(r["wanted"]) for r in results]
    if len(set(truth)) < 2:
        return "n/a"
    return f"{roc_auc_score(truth, [r['confidence'] for r in results]):.3f}"


def main(argv: list[str]) -> int:
    args = parse(argv)
    with quick_imports():
        from models.asking import Asker
    parts = read_questions(Path(args.questions))
    if args.vqa_rad:
        parts |= read_vqa_rad_questions(Path(args.vqa_rad))
    asker = Asker.from_pretrained(args.model)
    measured = (
        "from the validation split" if asker.router.measured else "not measured: evaluate the validation split first"
    )
    say(f"threshold of the classifier's confidence: {asker.router.threshold:.3f} ({measured})")
    for name, questions in parts.items():
        say(*lines(name, measure(asker, questions), args.show))
    return 0


if __name__ == "__main__":
    run(main)
