"""A page for people, with everything in it: no script, no request, nothing to install."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1c2733;background:#fff}
main{max-width:1220px;margin:0 auto;padding:20px 20px 60px}
h1{font-size:1.6rem;line-height:1.25;margin:.3em 0}h2{font-size:1.25rem;margin:2.2em 0 .5em;border-bottom:2px solid #dfe5eb}
h3{font-size:1rem;margin:1.4em 0 .3em}p{max-width:75ch}.soft{color:#5b6b7b}.small{font-size:.86rem}
.banner{padding:10px 14px;border-left:6px solid #c77700;background:#fff6e6;margin:12px 0;font-weight:600;max-width:none}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:18px 26px;align-items:start}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px}
.tile{border:1px solid #dfe5eb;border-radius:8px;padding:10px 14px}.tile b{display:block;font-size:1.5rem}
svg{width:100%;height:auto;display:block}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;margin:.4em 0}
th,td{padding:4px 10px;text-align:right;border-bottom:1px solid #e8edf2;white-space:pre;vertical-align:top}
th:first-child,td:first-child{text-align:left}
@media(min-width:601px){td:first-child{position:sticky;left:0;background:#fff}}th{background:#f4f7fa;position:sticky;top:0}
.text{text-align:left!important;white-space:normal;min-width:14em}
details{margin:.6em 0}summary{cursor:pointer;font-weight:600}
nav a{margin-right:1em;white-space:nowrap}a{color:#1f5fa8}img{max-width:100%;height:auto}
ul{padding-left:1.2em}.ok{color:#2b8a5a}.bad{color:#b3261e;font-weight:600}
@media(max-width:600px){main{padding:12px 12px 40px}h1{font-size:1.3rem}
th,td{padding:4px 7px}table{font-size:.8rem}.text{min-width:9em}}
@media print{nav{display:none}details{display:block}}
"""


def page(title: str, above: str, banners: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page. `title` and the line `above` it are texts, `banners` and the sections' bodies HTML; empty ones are left out."""
    sections = [(name, body) for name, body in sections if body]
    links = " ".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in sections)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{text}</section>' for name, text in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<p class="soft small">{escape(above)}</p>'
        f"<h1>{escape(title)}</h1>"
        f"{banners}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def banner(text: str) -> str:
    """What nobody should overlook."""
    return f'<p class="banner">{escape(text)}</p>'


def note(text: str) -> str:
    """A small remark; HTML."""
    return f'<p class="small soft">{text}</p>'


def html_table(header: Sequence[str], body: Iterable[Sequence[str]], text: set[int] = frozenset()) -> str:
    """Cells are texts; the columns numbered in `text` are wide and aligned to the left."""
    head = "".join(f"<th{' class=text' if i in text else ''}>{escape(cell)}</th>" for i, cell in enumerate(header))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{' class=text' if i in text else ''}>{escape(str(cell))}</td>" for i, cell in enumerate(line))
        + "</tr>"
        for line in body
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def fold(title: str, body: str) -> str:
    """A body of HTML that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
