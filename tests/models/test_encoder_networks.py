"""Networks of genes from an encoder, against loops."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sclm.cells import read_cells

if TYPE_CHECKING:
    import anndata as ad


@pytest.fixture(scope="module")
def model(reference: ad.AnnData) -> Any:
    name = "sclm_toy_encoder_of_networks"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("toy_encoder.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].ToyEncoder.fit(read_cells(reference), seed=3)


def test_edges_of_embeddings_are_centred_cosines(model: Any) -> None:
    table = model.gene_embeddings()
    edges = model.gene_network(k=4)
    centred = table.to_numpy() - table.to_numpy().mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    for i in (0, 17, 99):
        mine = edges[edges["source"] == table.index[i]]
        best = np.argsort(-cosine[i])[:4]
        assert mine["target"].tolist() == [table.index[j] for j in best]
        np.testing.assert_allclose(mine["weight"], cosine[i, best], atol=1e-6)
    assert len(edges) == 4 * len(table)


def test_genes_keep_the_names_that_they_were_given(model: Any) -> None:
    genes = model.gene_embeddings().index[:6]
    asked = [genes[0].lower(), *genes[1:]]
    edges = model.gene_network(genes=asked, sources=asked[:2], k=None)
    assert edges["source"].tolist() == [asked[0]] * 5 + [asked[1]] * 5
    assert set(edges["target"]) == set(asked)
    named = model.gene_network(genes=list(genes), sources=list(genes[:2]), k=None)
    np.testing.assert_array_equal(edges["weight"], named["weight"])


def test_attention_is_a_mean_over_the_cells_that_express_both(model: Any, query: ad.AnnData) -> None:
    import torch

    cells = read_cells(query).read()
    edges = model.gene_network("attention", cells=cells, k=None)
    tokens = model.tokenise(cells)
    names = np.array(model.vocabulary.tokens)
    total: dict[tuple[str, str], list[float]] = {}
    for row in range(cells.n_cells):
        batch = model.padded(tokens, np.array([row]))
        with torch.inference_mode():
            weights = model.attention(*batch)[0].numpy() * len(batch[0][0])
        genes = names[batch[0][0].numpy()]
        for i in range(1, len(genes)):
            for j in range(1, len(genes)):
                if i != j:
                    total.setdefault((genes[i], genes[j]), []).append(weights[i, j])
    assert len(edges) == len(total)
    found = {(e.source, e.target): e.weight for e in edges.itertuples(index=False)}
    for pair, values in list(total.items())[:500]:
        assert found[pair] == pytest.approx(np.mean(values), rel=1e-4)
    some = [names[5], names[9], names[30]]
    few = model.gene_network("attention", genes=some, cells=cells, k=None)
    for edge in few.itertuples(index=False):
        assert edge.weight == pytest.approx(found[edge.source, edge.target], rel=1e-4)


def test_what_is_wrong_is_named(model: Any, query: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="method must be one of 'embedding', 'attention', found 'grn'"):
        model.gene_network("grn")
    with pytest.raises(ValueError, match="needs cells="):
        model.gene_network("attention")
    with pytest.raises(KeyError, match="no such gene"):
        model.gene_network(genes=["no such gene", "CD3E"])
    with pytest.raises(ValueError, match="at least two genes"):
        model.gene_network(genes=["TNMD"])
    with pytest.raises(ValueError, match="k must be at least 1"):
        model.gene_network(k=0)
