"""Cards of described groups show what was kept, and pages are whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata as ad


@pytest.fixture(scope="module")
def described() -> ad.AnnData:
    adata = sclm.datasets.pbmc68k()
    sclm.tl.describe(adata, groupby="cell_type")
    return adata


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_a_card_shows_text_genes_and_pathways(described: ad.AnnData) -> None:
    axes = sclm.pl.describe(described, ["B cell", "dendritic cell"])
    assert axes.shape == (2, 3)
    table = sclm.get.describe(described, groups=True)
    for row, name in enumerate(["B cell", "dendritic cell"]):
        text, genes, sets = axes[row]
        assert text.get_title(loc="left") == name
        shown = " ".join(t.get_text() for t in text.texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
        assert table.loc[name, "text"] in shown
        assert "supported" in shown
        assert [t.get_text() for t in genes.get_yticklabels()] == table.loc[name, "genes"].split(", ")[:11]
        for phrase in table.loc[name, "pathways"].split("; "):
            assert any(t.get_text().startswith(phrase) for t in sets.texts) or not phrase


def test_all_groups_have_a_card_and_others_are_refused(described: ad.AnnData) -> None:
    assert len(sclm.pl.describe(described, n_cols=3)) == described.obs["cell_type"].nunique()
    with pytest.raises(KeyError, match="no described group 'T9'"):
        sclm.pl.describe(described, ["T9"])
    with pytest.raises(ValueError, match="n_cols"):
        sclm.pl.describe(described, n_cols=0)


def test_the_page_is_whole_and_loads_nothing(described: ad.AnnData) -> None:
    page = sclm.pl.describe_html(described)

    class Nesting(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert page.count('class="sclm-card"') == described.obs["cell_type"].nunique()
    assert not re.search(r"(src|href)=|https?://|@import", page)
    evidence = sclm.get.describe_evidence(described)
    assert page.count("<tr>") == len(evidence)


def test_names_are_escaped(described: ad.AnnData) -> None:
    adata = described.copy()
    adata.obs["odd"] = adata.obs["cell_type"].astype(str).map(lambda name: f"<b>{name}</b> & co")
    sclm.tl.describe(adata, groupby="odd", key_added="odd_text")
    page = sclm.pl.describe_html(adata, key="odd_text")
    assert "<b>B cell" not in page
    assert "&lt;b&gt;B cell&lt;/b&gt; &amp; co" in page
