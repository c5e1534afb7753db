"""The chapter on descriptions: each group of blood cells in words, every statement checked, and falsehoods planted to see them go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pandas as pd

from sclm import get, pl, tl
from sclm.report import html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

_GROUPS = "cell_type"
_SHOWN = 4  # cards in the figure
_PLANTED = "planted"


def describe_groups(
    adata: anndata.AnnData, out: Path, *, seed: int, say: Callable[[str], None]
) -> tuple[html.Chapter, dict[str, Path]]:
    """Describe every cell type, then give every group the label of the next one and look what becomes of it.

    Parameters
    ----------
    adata
        Real cells with raw counts and cell types.
    out
        Folder to write to.
    seed
        Of the order of genes with equal counts.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter and its files.
    """
    say(f"descriptions: {adata.obs[_GROUPS].nunique()} groups in words, every statement checked …")
    adata = adata.copy()
    start = time.perf_counter()
    tl.describe(adata, groupby=_GROUPS, seed=seed)
    seconds = time.perf_counter() - start
    table = get.describe(adata, groups=True)

    names = list(table.sort_values("n_cells", ascending=False).index)
    planted = dict(zip(names, names[1:] + names[:1], strict=True))
    adata.obs[_PLANTED] = adata.obs[_GROUPS].astype(str).map(planted)
    tl.describe(adata, groupby=_GROUPS, label_key=_PLANTED, key_added=_PLANTED + "_text", seed=seed)
    wrong = get.describe(adata, key=_PLANTED + "_text", groups=True)
    found = pd.DataFrame(
        {"planted label": [planted[n] for n in wrong.index], "verdict": wrong["verdict"], "support": wrong["support"]}
    )
    found.index.name = "group"
    right = (table["verdict"] == "kept").sum()
    say(
        f"in {seconds:.0f} s: {right} of {len(table)} true labels kept; of {len(found)} planted ones {(found['verdict'] == 'kept').sum()} kept, "
        f"{(found['verdict'] == 'softened').sum()} softened, {(found['verdict'] == 'removed').sum()} removed"
    )

    files = {
        "descriptions": out / "descriptions.csv",
        "cards": out / "descriptions.html",
        "evidence": out / "evidence.csv",
    }
    table.to_csv(files["descriptions"])
    files["cards"].write_text(pl.describe_html(adata), encoding="utf-8")
    get.describe_evidence(adata).to_csv(files["evidence"], index=False)
    axes = pl.describe(adata, names[:_SHOWN])
    figure = axes[0, 0].figure.figure
    blocks = [
        html.text(
            "Each group is described in a few sentences, from its own statistics: no language model, no network, no training. Every statement is looked up "
            "before it is written: the identity in markers of the type and of its rivals, genes in the counts, pathways in AUCell scores against "
            "random sets of like genes, tissue and disease in the metadata."
        ),
        html.code('sclm.tl.describe(adata, groupby="cell_type")\nsclm.pl.describe(adata)'),
        html.figure(figure, f"Cards of the {_SHOWN} largest groups.", out / "figures" / "descriptions.png"),
        *[html.text(text) for text in table["text"]],
        html.text(
            "Then a falsehood is planted: each group is labelled as the next smaller one. A label that the markers do not support is removed; one "
            "that a close relative explains is softened to `is consistent with`."
        ),
        html.table(found, decimals={"support": 2}),
    ]
    return html.Chapter("Cells in words", blocks), files
