"""Sequences of scGPT against a slow version written out here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import bin_values, read_cells
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.tokens import cell_tokens, deleted, overexpressed, with_zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.models.encoder import Tokens

IDS = np.arange(100, 140)


def counts(n: int = 30, g: int = 40, seed: int = 0) -> sp.csr_matrix:
    x = np.random.default_rng(seed).poisson(1.0, (n, g)).astype(np.float32)
    x[3] = 0
    return sp.csr_matrix(x)


def config(**settings: Any) -> ScGPTConfig:
    return ScGPTConfig(**({"max_length": 60} | settings))


def same(a: Tokens, b: Tokens) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.offsets, y.offsets)
        np.testing.assert_array_equal(x.values, y.values)


@pytest.mark.parametrize("cls", [7, None])
@pytest.mark.parametrize("cls_value", [-2.0, 0.0])
def test_sequences(cls: int | None, cls_value: float) -> None:
    x = counts()
    found = cell_tokens(x, IDS, config(cls_value=cls_value), cls_id=cls)
    assert len(found.ids) == 30
    for i in range(30):
        values = x[i].toarray().ravel()
        there = np.flatnonzero(values)
        bins = np.digitize(values[there], np.quantile(values[there], np.linspace(0, 1, 50))) if there.size else []
        head = [] if cls is None else [cls]
        np.testing.assert_array_equal(found.ids[i], [*head, *IDS[there]])
        np.testing.assert_array_equal(found.values[i], [*([cls_value] if head else []), *bins])


def test_zeros_are_tokens_where_they_are_read() -> None:
    x = counts()
    found = cell_tokens(x, IDS, config(include_zeros=True), cls_id=7)
    assert (found.ids.lengths == 41).all()
    dense = with_zeros(x, bin_values(x).astype(np.float32))
    for i in range(30):
        np.testing.assert_array_equal(found.ids[i], [7, *IDS])
        np.testing.assert_array_equal(found.values[i][1:], dense[i])
    short = cell_tokens(x, IDS, config(include_zeros=True, max_length=11), cls_id=7, seed=2)
    assert (short.ids.lengths == 11).all()
    for i in range(30):
        np.testing.assert_array_equal(short.values[i][1:], dense[i][short.ids[i][1:] - 100])


def test_long_cells_keep_a_random_subset_that_depends_on_the_cell_alone() -> None:
    x = counts(400, 40)
    whole, short = (cell_tokens(x, IDS, config(max_length=n), cls_id=7, seed=5) for n in (60, 13))
    kept = np.zeros(40)
    for i in range(400):
        full = dict(zip(whole.ids[i].tolist(), whole.values[i].tolist(), strict=True))
        n = len(full)
        assert len(short.ids[i]) == min(n, 13)
        assert short.ids[i][0] == 7
        assert (np.diff(short.ids[i][1:]) > 0).all()  # in the order of the columns, each once
        # bins were made before the choice
        assert all(
            full[gene] == value for gene, value in zip(short.ids[i].tolist(), short.values[i].tolist(), strict=True)
        )
        kept[short.ids[i][1:] - 100] += 1
    expressed = np.asarray((x > 0).sum(axis=0)).ravel()
    share = kept.sum() / expressed.sum()
    z = (kept - share * expressed) / np.sqrt(expressed * share * (1 - share))
    assert np.abs(z).max() < 4.5  # no gene is preferred
    # order of the cells, other cells, order in which genes are stored
    rows = np.random.default_rng(0).permutation(400)[:50]
    same(cell_tokens(x[rows], IDS, config(max_length=13), cls_id=7, seed=5), short.take(rows))
    turned = x.copy()
    for i in range(400):
        part = slice(x.indptr[i], x.indptr[i + 1])
        turned.indices[part], turned.data[part] = x.indices[part][::-1], x.data[part][::-1]
    again = cell_tokens(turned, IDS, config(max_length=13), cls_id=7, seed=5)
    for i in range(400):
        assert set(again.ids[i].tolist()) == set(short.ids[i].tolist())
    other = cell_tokens(x, IDS, config(max_length=13), cls_id=7, seed=6)
    assert (other.ids.values != short.ids.values).mean() > 0.3
    # how ties are spread says nothing of which genes are kept
    spread = cell_tokens(x, IDS, config(max_length=13, ties="spread"), cls_id=7, seed=5)
    np.testing.assert_array_equal(spread.ids.values, short.ids.values)
    assert (spread.values.values != short.values.values).any()


def adata_of(x: sp.csr_matrix, names: list[str]) -> ad.AnnData:
    return ad.AnnData(x, var=pd.DataFrame(index=names))


def test_gene_names_are_matched_and_summed(random_model: Callable[..., Any]) -> None:
    model = random_model(max_length=60)
    x = counts()
    names = [f"GENE{i}" for i in range(40)]
    whole = model.tokenise(read_cells(adata_of(x, names)).read())
    same(whole, cell_tokens(x, np.arange(40), model.config, cls_id=model.cls_id))
    order = np.random.default_rng(1).permutation(40)
    same(model.tokenise(read_cells(adata_of(x[:, order], [names[i] for i in order])).read()), whole)
    unknown = sp.hstack([x, sp.csr_matrix(np.full((30, 2), 9.0, np.float32))], format="csr")
    same(model.tokenise(read_cells(adata_of(unknown, [*names, "X1", "X2"])).read()), whole)
    lengths = whole.ids.lengths
    assert lengths[3] == 1  # a cell without genes has <cls> alone, and keeps its place
    with pytest.raises(ValueError, match="must be in the"):
        model.tokenise(read_cells(adata_of(x, [f"other{i}" for i in range(40)])).read())


def test_deletion() -> None:
    x = counts()
    tokens = cell_tokens(x, IDS, config(), cls_id=7)
    dense = x.toarray()
    for genes in ([104], [104, 120]):
        rows, changed = deleted(tokens, np.array(genes), keep_place=False)
        columns = np.array(genes) - 100
        np.testing.assert_array_equal(rows, np.flatnonzero((dense[:, columns] > 0).all(axis=1)))
        for k, i in enumerate(rows):
            kept = ~np.isin(tokens.ids[i], genes)
            np.testing.assert_array_equal(changed.ids[k], tokens.ids[i][kept])
            np.testing.assert_array_equal(changed.values[k], tokens.values[i][kept])
    zeros = cell_tokens(x, IDS, config(include_zeros=True), cls_id=7)
    rows, changed = deleted(zeros, np.array([104]), keep_place=True)
    np.testing.assert_array_equal(rows, np.flatnonzero(dense[:, 4] > 0))
    assert all(changed.values[k][5] == 0 for k in range(rows.size))
    rows, changed = deleted(tokens, np.array([139 + 50]), keep_place=False)  # no such gene
    assert rows.size == len(changed.ids) == 0


def test_overexpression() -> None:
    x = counts()
    tokens = cell_tokens(x, IDS, config(), cls_id=7)
    is_gene = np.ones(200, bool)
    is_gene[7] = False
    for top in (50.0, None):
        rows, changed = overexpressed(tokens, np.array([104, 120]), is_gene, top)
        np.testing.assert_array_equal(rows, np.setdiff1d(np.arange(30), [3]))  # the empty cell has nothing to compare
        for k, i in enumerate(rows):
            before = dict(zip(tokens.ids[i].tolist(), tokens.values[i].tolist(), strict=True))
            after = dict(zip(changed.ids[k].tolist(), changed.values[k].tolist(), strict=True))
            value = max(v for gene, v in before.items() if gene != 7) if top is None else top
            assert after == before | {104: value, 120: value}
            assert changed.ids[k][0] == 7
