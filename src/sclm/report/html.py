"""A self-contained HTML page: chapters of text, tables and figures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2429; max-width: 1080px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; margin-bottom: .2rem; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #d8dee3; padding-bottom: .3rem; }
p.lead { color: #4a5660; margin-top: 0; } figure { margin: 1.4rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #4a5660; font-size: .92rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .32rem .75rem; text-align: right; border-bottom: 1px solid #e3e8ec; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #9aa7b1; } td.best { font-weight: 650; }
code { background: #f1f4f6; padding: .1rem .3rem; border-radius: 3px; font-size: .9em; } pre { background: #f1f4f6; padding: .8rem 1rem; overflow-x: auto; white-space: pre-wrap; }
"""


class Chapter(NamedTuple):
    """One chapter: a title and its blocks, made by :func:`text`, :func:`table`, :func:`figure`, :func:`code`."""

    title: str
    blocks: Sequence[str]


def text(paragraph: str) -> str:
    """A paragraph of plain text; ``backticks`` become code."""
    parts = html.escape(paragraph).split("`")
    return "<p>" + "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts)) + "</p>"


def code(source: str) -> str:
    """A block of code."""
    return f"<pre>{html.escape(source.strip())}</pre>"


def table(frame: pd.DataFrame, *, decimals: dict[str, int] | None = None, best: dict[str, str] | None = None) -> str:
    """A table; ``best`` maps columns to ``"max"`` or ``"min"``, whose best values are set in bold."""
    decimals, best = decimals or {}, best or {}
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in [frame.index.name or "", *frame.columns])
    shown = {c: [_cell(v, decimals.get(str(c))) for v in frame[c]] for c in frame.columns}
    top = {c: _cell(getattr(frame[c], how)(), decimals.get(c)) for c, how in best.items() if c in frame}
    rows = []
    for i, name in enumerate(frame.index):
        cells = "".join(
            f'<td class="best">{v[i]}</td>' if top.get(str(c)) == v[i] else f"<td>{v[i]}</td>" for c, v in shown.items()
        )
        rows.append(f"<tr><td>{html.escape(str(name))}</td>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def figure(drawn: Any, caption: str, file: Path) -> str:
    """A matplotlib figure as an embedded picture; it is also written to ``file``, and closed."""
    import matplotlib.pyplot as plt

    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(file, format="png", dpi=130, bbox_inches="tight")
    plt.close(drawn)
    data, text = base64.b64encode(file.read_bytes()).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def write(path: Path, title: str, lead: str, chapters: Sequence[Chapter]) -> Path:
    """Write the page; returns its path."""
    body = "".join(f"<section><h2>{html.escape(c.title)}</h2>{''.join(c.blocks)}</section>" for c in chapters)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f'<body><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>{body}</body></html>'
    )
    path.write_text(page, encoding="utf-8")
    return path


def _cell(value: Any, decimals: int | None) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.{3 if decimals is None else decimals}f}"
    return html.escape(str(value))
