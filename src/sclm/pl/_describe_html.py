"""Cards of described groups as a page that needs nothing else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sclm.pl._describe import COLOURS, WORDS, described_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import pandas as pd

_STYLE = """
.sclm-cards { font: 15px/1.5 system-ui, sans-serif; color: #1d2429; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); max-width: 84rem; margin: 1rem auto; padding: 0 1rem; }
.sclm-card { border: 1px solid #d8dee3; border-left: 5px solid; border-radius: 6px; padding: .8rem 1rem; background: #fff; }
.sclm-card h3 { margin: 0 0 .1rem; font-size: 1.05rem; } .sclm-card p { margin: .4rem 0; }
.sclm-card .facts { color: #4a5660; font-size: .88rem; } .sclm-card .facts b { font-weight: 650; }
.sclm-chips span { display: inline-block; background: #eef2f6; border-radius: 9px; padding: .04rem .5rem; margin: .12rem .15rem .12rem 0; font-size: .84rem; }
.sclm-chips i { color: #6b7780; font-style: normal; }
.sclm-card details { font-size: .86rem; } .sclm-card summary { cursor: pointer; color: #4a5660; }
.sclm-card table { border-collapse: collapse; margin-top: .4rem; } .sclm-card td, .sclm-card th { text-align: left; vertical-align: top;
  padding: .16rem .6rem .16rem 0; border-bottom: 1px solid #e8edf0; }
"""


def describe_html(adata: anndata.AnnData, groups: Sequence[str] | None = None, *, key: str = "sclm_description") -> str:
    """The cards of :func:`sclm.pl.describe` as a page of HTML, with every statement and its evidence to unfold.

    Parameters
    ----------
    adata
        Described by :func:`sclm.tl.describe` with ``groupby=``.
    groups
        Only these, in this order; all by default.
    key
        ``key_added`` of that call.

    Returns
    -------
    A self-contained page: nothing is loaded from elsewhere. Write it to a file, or show it in a notebook with
    ``IPython.display.HTML``.

    Raises
    ------
    KeyError
        If there is no such result or group, or no groups were described.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> sclm.tl.describe(adata, groupby="cell_type")
    >>> page = sclm.pl.describe_html(adata, ["B cell"])
    >>> page.startswith("<!doctype html>"), page.count('class="sclm-card"')
    (True, 1)
    """
    table, evidence = described_groups(adata, groups, key)
    cards = "".join(
        _card(str(name), row, evidence[(evidence["cell"] == name).to_numpy()]) for name, row in table.iterrows()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Described groups of cells</title><style>{_STYLE}</style></head><body>"
        f'<main class="sclm-cards">{cards}</main></body></html>'
    )


def _card(name: str, row: pd.Series, claims: pd.DataFrame) -> str:
    verdict = str(row["verdict"])
    kept = claims[(claims["verdict"] == "kept").to_numpy()]
    genes, sets = (kept[(kept["kind"] == kind).to_numpy()] for kind in ("gene", "pathway"))
    support = f" ({row['support']:.2f})" if np.isfinite(row["support"]) else ""
    term = f" · {html.escape(row['ontology_term_id'])}" if row["ontology_term_id"] else ""
    blocks = [
        f"<h3>{html.escape(name)}</h3>",
        f'<p class="facts"><b style="color:{COLOURS[verdict]}">{WORDS[verdict]}{support}</b>{term} · {int(row["n_cells"]):,} cells '
        f"({100 * row['share']:.1f} %)</p>",
        f"<p>{html.escape(row['text'])}</p>",
        _chips(genes, "log2 fold change over other cells"),
        _chips(sets, "activity over random sets of like genes, standard deviations"),
        _unfold(claims),
    ]
    return f'<article class="sclm-card" style="border-left-color:{COLOURS[verdict]}">{"".join(blocks)}</article>'


def _chips(claims: pd.DataFrame, what: str) -> str:
    """Names with their figures, as a row of small boxes."""
    if not len(claims):
        return ""
    chips = "".join(
        f"<span>{html.escape(str(name))} <i>{value:.1f}</i></span>"
        for name, value in zip(claims["claim"], claims["value"], strict=True)
    )
    return f'<p class="sclm-chips" title="{html.escape(what)}">{chips}</p>'


def _unfold(claims: pd.DataFrame) -> str:
    """Every statement as it was first made, with what became of it and why."""
    rows = "".join(
        f"<tr><td>{html.escape(str(c['kind']))}</td><td>{html.escape(str(c['claim']))}</td>"
        f'<td style="color:{COLOURS[str(c["verdict"])]}">{html.escape(str(c["verdict"]))}</td><td>{html.escape(str(c["reason"]))}</td></tr>'
        for _, c in claims.iterrows()
    )
    return f"<details><summary>{len(claims)} statements and their evidence</summary><table>{rows}</table></details>"
