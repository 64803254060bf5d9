"""`analysis_report.html`: the analysis as one page for people."""

from __future__ import annotations

from html import escape

from data.label_space import GRADES
from data.raw import FORMS
from data.summary import SYNTHETIC_NOTICE
from utils.charts import GOOD, Bar, bars, count_bars, histogram
from utils.page import banner, fold, html_table, note, page
from utils.privacy import LINEAGE_NOTICE


def render_page(report: dict, samples: str = "") -> str:
    """The page; of a release that no index was built from the verdict alone.

    `samples`: a section made by `data.analysis.samples`, for a page that stays on this machine.
    """
    if "index" not in report:
        verdict = ("Can training start?", _verdict(report))
        return page(
            "A release that cannot be trained on", "Analysis of a data set, before its index is built", "", [verdict]
        )
    index, sizes = report["index"], report["index"]["splits"]
    questions = sum(split["questions"] for split in sizes.values())
    studies = sum(split["studies"] for split in sizes.values())
    title = f"{questions:,} questions about {report['films']['n']:,} images of {studies:,} studies"
    sections = [
        ("Can training start?", _verdict(report)),
        ("Published counts", _published(report)),
        ("Splits", _splits(report)),
        ("Images", _films(report)),
        ("Questions", _questions(report)),
        ("Targets", _targets(report)),
        ("What the question alone says", _blind(report)),
        ("Lengths", _lengths(report)),
        ("Scene graphs", _findings(report)),
        ("Boxes", _boxes(report)),
        ("What the classes cover", _coverage(report)),
        ("Do the labels agree?", _agreement(report)),
        ("Samples", samples),
    ]
    texts = [SYNTHETIC_NOTICE] * index["synthetic"] + [LINEAGE_NOTICE["data"]] * index["credentialed"]
    above = f"Analysis of a data set, index {index['fingerprint']}"
    return page(title, above, "".join(map(banner, texts)), sections)


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _verdict(report: dict) -> str:
    ready = report["summary"]["is_ready"]
    text = (
        "Ready: training can start." if ready else f"Not ready: {len(report['summary']['reasons'])} thing(s) to mend."
    )
    rows = [[p["severity"], p["name"], p["what"], p["mend"], p["example"]] for p in report["problems"]]
    table = html_table(["", "check", "what", "what follows, or what to do", "example (hashed)"], rows, text={1, 2, 3})
    return f'<p class="{"ok" if ready else "bad"}">{text}</p>' + (table if rows else "<p>Nothing odd was found.</p>")


def _published(report: dict) -> str:
    rows = [
        [one["what"], f"{one['published']:,}", f"{one['here']:,}", f"{one['here'] - one['published']:+,}", one["why"]]
        for one in report["published"]
    ]
    if not rows:
        return note("A look-alike release has no published counts.") if report["index"]["synthetic"] else ""
    same = sum(not one["why"] for one in report["published"])
    table = html_table(["", "published", "here", "difference", "why"], rows, text={4})
    return f"<p>{same} of {len(rows)} counts are the published ones.</p>" + fold("All counts", table)


def _splits(report: dict) -> str:
    columns = ("patients", "studies", "images", "questions", "with_target", "used")
    rows = [[name, *(_number(split[c]) for c in columns)] for name, split in report["index"]["splits"].items()]
    header = ["split", *(c.replace("_", " ") for c in columns)]
    shared = report["duplicates"]["splits"]
    kinds = ("patients", "studies", "images", "same_pictures")
    overlaps = [[pair, *(_number(found[kind]["n"]) for kind in kinds)] for pair, found in shared.items()]
    text = html_table(["shared by", "patients", "studies", "images", "images that look the same"], overlaps)
    return html_table(header, rows) + (text if overlaps else "")


def _films(report: dict) -> str:
    films, twins = report["films"], report["duplicates"]["identical"]
    sizes = "".join(
        f"<div><h3>{name} of the originals: median {_number(films[name]['median'])} pixels</h3>"
        f"{histogram(films[name]['histogram'], 'pixels', films['step'])}</div>"
        for name in ("width", "height")
    )
    views = f"<div><h3>views</h3>{count_bars(list(films['views'].items()))}</div>"
    rows = [
        [kind.replace("_", " "), _number(found["n"]), ", ".join(found["examples"])]
        for kind, found in report["broken"].items()
    ]
    lost = html_table(["could not be used as it is", "n", "examples (hashed)"], rows, text={2}) if rows else ""
    same = f"<p>{twins['images']:,} images look the same as another one, in {twins['groups']:,} groups.</p>"
    return f'<div class="grid">{views}{sizes}</div>' + same + lost


def _questions(report: dict) -> str:
    types = report["types"]
    asked = [(name, of["questions"]) for name, of in types.items() if of["questions"]]
    grades = [grade or "unrated" for grade in reversed(GRADES)]
    rows = [
        [name, of["head"] or "none", *(_number(of[k]) for k in ("questions", "with_target", "used"))]
        + [_number(of["grades"].get(grade, 0)) for grade in grades]
        for name, of in types.items()
        if of["questions"]
    ]
    fates = [[fate.replace("_", " "), _number(n)] for fate, n in report["index"]["questions_by_fate"].items()]
    return (
        f"<h3>questions by type</h3>{count_bars(asked, 640, 240)}"
        + fold("By type and grade", html_table(["type", "head", "questions", "with target", "used", *grades], rows))
        + fold("By fate: a target, or the reason why there is none", html_table(["fate", "questions"], fates))
    )


def _targets(report: dict) -> str:
    parts = []
    for name, shares in report["balance"].items():
        head = report["types"][name]["head"]
        shown = {label: share for label, share in shares.items() if share}
        parts.append((name, f"<h3>{escape(name)} ({head})</h3>" + bars([Bar(k, v) for k, v in shown.items()], 480)))
    yes = [Bar(name, share) for name, share in report["index"]["yes_share"].items()]
    chart = f"<h3>share of yes</h3>{bars(yes, 640, 240)}" if yes else ""
    body = f'<div class="grid">{"".join(f"<div>{chart}</div>" for _, chart in parts)}</div>'
    return chart + (fold("Share of the questions that have each class, by type", body) if parts else "")


def _blind(report: dict) -> str:
    rows = [Bar(name, of["of_text"], mark=of["of_type"], colour=GOOD) for name, of in report["blind"].items()]
    if not rows:
        return ""
    said = note(
        "Share of the validation questions whose target is the most frequent one among the training questions of the same text "
        "(bar) or of the same type (orange line). A model that sees no image can reach so much: a score has to be read beside it."
    )
    texts = [
        [of["text"], of["head"], _number(of["n"]), _number(of["top_share"]), of["top_answer"]] for of in report["texts"]
    ]
    table = html_table(
        ["text", "head", "asked", "share of the most frequent answer", "that answer"], texts, text={0, 4}
    )
    return said + bars(rows, 640, 240) + fold("The most frequent texts", table)


def _lengths(report: dict) -> str:
    asked, answers = report["question_lengths"], report["answer_lengths"]
    charts = [("words of a question", asked["words"]), ("word pieces of a question", asked["pieces"])]
    charts += [("words of a main answer", answers["main_answer"]), ("words of other answers", answers["other"])]
    panels = "".join(
        f"<div><h3>{name}: mean {of['mean']:.1f}, 95 % up to {of['p95']}</h3>{histogram(of['histogram'], name)}</div>"
        for name, of in charts
        if of
    )
    cut = ""
    if asked["pieces"]:
        n, limit = asked["pieces"]["questions_cut"], asked["pieces"]["limit"]
        cut = f"<p>{n:,} questions are longer than the limit of {limit} word pieces (model.max_question_length) and are cut.</p>"
    said = note(f"Answers: of {answers['studies']:,} studies, drawn at random.")
    return f'<p>{asked["distinct"]:,} distinct questions.</p>{cut}{said}<div class="grid">{panels}</div>'


def _findings(report: dict) -> str:
    found = report["findings"]
    rows = [[name, _number(of["present"]), _number(of["absent"])] for name, of in found["regions"].items()]
    entities = [
        [name, _number(of["n"]), _number(of["present"]), ", ".join(of["classes"])]
        for name, of in found["entities"].items()
    ]
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in found["kinds"].items())
    mean = found["an_image"] and found["an_image"]["mean"]
    return (
        f"<p>{found['n']:,} statements ({kinds}); {_number(mean)} an image; {found['images_without']:,} images without any; "
        f"share from the report itself: {_number(found['from_report'])}.</p>"
        + count_bars([(name, of["present"]) for name, of in found["regions"].items()], 560)
        + fold("Statements by region", html_table(["region", "present", "absent"], rows))
        + fold("The most frequent findings", html_table(["finding", "n", "present", "classes"], entities, text={3}))
    )


def _boxes(report: dict) -> str:
    found = report["boxes"]
    rows = [
        [
            name,
            _number(of["n"]),
            _number(of["share_of_images"]),
            _number(of["area"]),
            " ".join(map(str, of["box"] or [])),
        ]
        for name, of in found["regions"].items()
    ]
    left = ", ".join(f"{why.replace('_', ' ')} {n:,}" for why, n in found["left_out"].items()) or "none"
    areas = histogram(found["area_histogram"], "share of the image", 0.05)
    return (
        f"<p>{found['n']:,} boxes, {found['images_without']:,} images without any. Left out or mended: {left}.</p>"
        f"<h3>area</h3>{areas}"
        + fold(
            "By region", html_table(["region", "n", "share of images", "median area", "median box (x1 y1 x2 y2)"], rows)
        )
    )


def _coverage(report: dict) -> str:
    found = report["coverage"]
    tables = [
        html_table([kind, "n"], [[name.replace("_", " "), _number(n)] for name, n in found[kind].items()])
        for kind in ("entities", "regions")
    ]
    for kind, names in found["unmapped"].items():
        body = html_table(["name or value", "n"], [[name, _number(n)] for name, n in list(names.items())[:200]])
        what = "Of an odd form" if kind in FORMS else "Without a row in our tables"
        tables.append(fold(f"{what}: {kind}, {len(names):,} names, {sum(names.values()):,} times", body))
    return "".join(tables)


def _agreement(report: dict) -> str:
    parts = []
    for pair, labels in report["agreement"].items():
        rows = [
            [
                label,
                _number(of["n"]),
                _number(of["agree"]),
                _number(of["kappa"]),
                " / ".join(map(_number, of["present"])),
            ]
            for label, of in labels.items()
        ]
        known = [of["kappa"] for of in labels.values() if of["kappa"] is not None]
        mean = f"mean kappa {sum(known) / len(known):.3f} over {len(known)} labels" if known else "no label in common"
        header = ["label", "studies", "agree", "Cohen's kappa", "present in the first / the second"]
        parts.append(fold(f"{pair}: {mean}", html_table(header, rows)))
    return note("Studies where both sources say present or absent.") + "".join(parts) if parts else ""
