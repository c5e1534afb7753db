"""Vectors of cells and genes: against stored outputs of the original, a slow version, and the promises of encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from transformers import BertForMaskedLM

import sclm
from sclm.cells import Cells, Ragged
from sclm.models.encoder import Tokens
from sclm.models.geneformer import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.models.geneformer.model import Geneformer


def close(found: Any, expected: np.ndarray) -> None:
    """To 2e-5 of the largest stored number, as the stored outputs ask."""
    assert np.abs(np.asarray(found) - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())


# Stored outputs of the original ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(golden: Path) -> dict[str, Geneformer]:
    names = ("tinyV1", "tinyV2", "tinyV2_cell_classifier", "tinyV2_gene_classifier")
    return {name: checkpoint.convert(golden / "geneformer" / name) for name in names}


def stored_tokens(golden: Path, tag: str) -> Tokens:
    stored = np.load(golden / "geneformer" / "tokenisation.npz")
    return Tokens(Ragged(stored[f"{tag}_flat"].astype(np.int32), stored[f"{tag}_offsets"]), None)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["tinyV1", "tinyV2"])
def test_the_originals_vectors(golden: Path, originals: dict, name: str) -> None:
    model, stored = originals[name], np.load(golden / "geneformer" / "embeddings.npz")
    tokens = stored_tokens(golden, f"{name[-2:].lower()}_tiefree")
    compared = 0
    for pooling, theirs in (("cls", "cls"), ("mean", "cell")):
        for layer, word in ((-1, "last"), (-2, "second_to_last")):
            if f"{name}_{theirs}_{word}" in stored:
                close(
                    model.embed_tokens(tokens, hidden_layer=layer, pooling=pooling), stored[f"{name}_{theirs}_{word}"]
                )
                compared += 1
    assert compared == {"tinyV1": 2, "tinyV2": 4}[name]
    default = stored[f"{name}_{'cls' if name == 'tinyV2' else 'cell'}_second_to_last"]
    close(model.embed_tokens(tokens), default)
    # The original leaves out a cell without genes and says which rows are left; ours keeps every row in its place.
    rows = stored[f"{name}_orig_row"]
    lengths = np.zeros(20, np.int64)
    lengths[rows] = tokens.ids.lengths
    placed = Tokens(Ragged(tokens.ids.values, np.append(0, np.cumsum(lengths))), None)
    found = model.embed_tokens(placed)
    close(found[rows], default)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == sorted(set(range(20)) - set(rows.tolist())) == [3]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["tinyV1", "tinyV2"])
def test_the_originals_states_and_logits(golden: Path, originals: dict, name: str) -> None:
    model, stored = originals[name], np.load(golden / "geneformer" / "embeddings.npz")
    tokens = stored_tokens(golden, f"{name[-2:].lower()}_tiefree")
    three = tokens.take(np.arange(3))
    with model.inference():
        ids, _, real = model.padded(tokens, np.array([0]))
        for layer, expected in enumerate(stored[f"{name}_hidden_states_cell0"]):
            close(model.states(ids, None, real, layer)[0], expected)
        logits = model.network.masked_logits(model.states(ids, None, real, 4))[0, :20]
        close(logits, stored[f"{name}_mlm_logits_cell0_first20"])
        ids, _, real = model.padded(three, np.arange(3))
        for layer, word in ((4, "last"), (3, "second_to_last")):
            expected = stored[f"{name}_gene_{word}_first3"]
            mask = real.numpy()[:, : expected.shape[1]]
            close(model.states(ids, None, real, layer).numpy()[:, : expected.shape[1]][mask], expected[mask])


@pytest.mark.parity
def test_the_originals_classes(golden: Path, originals: dict) -> None:
    stored = np.load(golden / "geneformer" / "classifiers.npz")
    ids, real = torch.from_numpy(stored["input_ids"]), torch.from_numpy(stored["attention_mask"]).bool()
    cell, gene = originals["tinyV2_cell_classifier"], originals["tinyV2_gene_classifier"]
    with cell.inference() as network:
        close(network.cell_logits(network.states(ids, real, 4, first_only=True)), stored["cell_logits"])
    with gene.inference() as network:
        found = network.gene_logits(network.states(ids, real, 4))
    close(found.numpy()[real.numpy()], stored["gene_logits"][real.numpy()])
    assert cell.config.classes == tuple(f"LABEL_{i}" for i in range(5))
    assert gene.config.classes == ("LABEL_0", "LABEL_1")


@pytest.mark.parity
def test_the_whole_way_from_counts(golden: Path, originals: dict) -> None:
    """Through raw counts: the cell without genes keeps its row; ties may fall otherwise than in the original."""
    inputs = np.load(golden / "geneformer" / "inputs.npz")
    model, stored = originals["tinyV2"], np.load(golden / "geneformer" / "tokenisation.npz")
    obs = pd.DataFrame(index=[f"c{i}" for i in range(20)])
    cells = Cells(sp.csr_matrix(inputs["counts"]), pd.Index(inputs["ensembl_id"]), obs)
    tokens = model.tokenise(cells)
    assert tokens.ids.lengths[stored["v2_counts_orig_row"]].tolist() == stored["v2_counts_length"].tolist()
    vectors = model.embed(cells)
    assert vectors.shape == (20, 64)
    assert vectors.dtype == np.float32
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [3]
    kept = model.token_counts(cells)
    known = model.match(cells.genes).ids >= 0
    shares = inputs["counts"][:, known].sum(axis=1, dtype=np.float64) / inputs["counts"].sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose([row.sum() for row in kept], 1e4 * shares, rtol=1e-12)


# A small network ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["V1", "V2"])
def model(request: pytest.FixtureRequest, tmp_path: Path, write_checkpoint: Callable) -> Geneformer:
    return checkpoint.convert(write_checkpoint(tmp_path / "original", request.param, max_length=32))


@pytest.fixture
def cells(values: np.ndarray, genes: list[str]) -> Cells:
    obs = pd.DataFrame(index=[f"cell {i}" for i in range(6)])
    return Cells(sp.csr_matrix(values), pd.Index(genes), obs)


def permuted(cells: Cells, order: np.ndarray) -> Cells:
    return Cells(sp.csr_matrix(cells.counts[:, order]), cells.genes[order], cells.obs)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_vectors_are_those_of_transformers_own_forward(model: Geneformer, cells: Cells, layer: int) -> None:
    """Cell by cell, without padding, with all hidden states and plain attention."""
    network: Any = model.network.bert_model
    assert isinstance(network, BertForMaskedLM)
    assert network.config._attn_implementation == "sdpa"
    network.set_attn_implementation("eager")
    tokens = model.tokenise(cells).ids
    expected = np.full((6, 16), np.nan)
    poolings = ["mean"] if model.version == "V1" else ["mean", "cls"]
    for pooling in poolings:
        for i in (0, 1, 3, 4, 5):
            with model.inference():
                output = network(torch.from_numpy(tokens[i].astype(np.int64))[None], output_hidden_states=True)
            states = output.hidden_states[layer][0].numpy()
            inside = slice(None) if model.version == "V1" else slice(1, -1)
            expected[i] = states[0] if pooling == "cls" else states[inside].mean(axis=0)
        network.set_attn_implementation("sdpa")
        np.testing.assert_allclose(
            model.embed(cells, hidden_layer=layer, pooling=pooling), expected, atol=2e-5, err_msg=pooling
        )
        network.set_attn_implementation("eager")


def test_neither_company_nor_order_matters(model: Geneformer, cells: Cells) -> None:
    whole = model.embed(cells)
    assert np.isnan(whole[2]).all()
    for i in (0, 5):
        alone = model.embed(Cells(cells.counts[[i]], cells.genes, cells.obs.iloc[[i]]))
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)
    turned = model.embed(permuted(cells, np.random.default_rng(1).permutation(30)))
    np.testing.assert_array_equal(turned, whole)
    back = model.embed(Cells(cells.counts[::-1], cells.genes, cells.obs.iloc[::-1]))[::-1]
    np.testing.assert_allclose(back, whole, atol=1e-5)


def test_v1_has_no_cls(model: Geneformer, cells: Cells) -> None:
    if model.version == "V2":
        assert (model.default_pooling, model.default_layer) == ("cls", -2)
        assert not np.allclose(model.embed(cells)[0], model.embed(cells, pooling="mean")[0])
        return
    assert model.default_pooling == "mean"
    with pytest.raises(ValueError, match="V1 has none"):
        model.embed(cells, pooling="cls")


def test_genes_of_another_species_are_refused(model: Geneformer, cells: Cells) -> None:
    mouse = Cells(cells.counts, pd.Index([f"ENSMUSG{i:011d}" for i in range(30)]), cells.obs)
    with pytest.raises(ValueError, match="mouse"):
        model.embed(mouse)


def test_gene_embeddings_are_the_word_embeddings(model: Geneformer, genes: list[str]) -> None:
    table = model.gene_embeddings()
    assert table.index.tolist() == genes
    weights = model.arrays()["bert_model.bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(table.to_numpy(), weights[-30:])


def test_attention_sums_to_one_and_passes_padding_over(model: Geneformer, cells: Cells) -> None:
    tokens = model.tokenise(cells)
    rows = np.array([0, 1, 5])
    with model.inference() as network:
        ids, values, real = model.padded(tokens, rows)
        found = model.attention(ids, values, real)
        network.bert_model.set_attn_implementation("eager")
        expected = (
            network.bert_model(ids, attention_mask=real.long(), output_attentions=True).attentions[-1].mean(dim=1)
        )
    n = real.sum(dim=1)
    assert found.shape == (3, ids.shape[1], ids.shape[1])
    for b in range(3):
        np.testing.assert_allclose(found[b, : n[b]], expected[b, : n[b]], atol=1e-5)
        assert (found[b, :, n[b] :] == 0).all()


@pytest.mark.parametrize("method", ["embedding", "attention"])
def test_genes_are_linked(model: Geneformer, cells: Cells, genes: list[str], method: str) -> None:
    edges = model.gene_network(method, genes=["GENE1", *genes[5:10]], cells=cells, k=3)
    assert set(edges["source"]) == {"GENE1", *genes[5:10]}
    assert edges.groupby("source").size().max() == 3
    assert np.isfinite(edges["weight"]).all()


def test_classes_of_cells_and_genes(tmp_path: Path, write_checkpoint: Callable, cells: Cells, genes: list[str]) -> None:
    model = checkpoint.convert(write_checkpoint(tmp_path / "cell", head="cell", max_length=40))
    table = model.class_probabilities(cells)
    assert table.index.equals(cells.obs.index)
    assert table.columns.tolist() == ["class 0", "class 1", "class 2"]
    assert table.iloc[2].isna().all()
    np.testing.assert_allclose(table.drop(index="cell 2").sum(axis=1), 1, atol=1e-6)
    with pytest.raises(TypeError, match="classes of cells, not of classes of genes"):
        model.gene_class_probabilities(cells)
    model = checkpoint.convert(write_checkpoint(tmp_path / "gene", head="gene", max_length=40))
    found = model.gene_class_probabilities(cells)
    assert found.columns.tolist() == ["cell", "gene", "class 0", "class 1", "class 2"]
    np.testing.assert_allclose(found[["class 0", "class 1", "class 2"]].sum(axis=1), 1, atol=1e-6)
    for i in (0, 4):
        expressed = [gene for gene, count in zip(genes, cells.counts.toarray()[i], strict=True) if count]
        assert sorted(found.loc[found["cell"] == i, "gene"]) == [g for g in expressed if g != genes[29]]
    with pytest.raises(TypeError, match="classes of genes, not of classes of cells"):
        model.class_probabilities(cells)


def test_a_tool_embeds(model: Geneformer, cells: Cells) -> None:
    import anndata

    adata = anndata.AnnData(cells.counts, obs=cells.obs.copy(), var=pd.DataFrame(index=cells.genes))
    sclm.tl.embed(adata, model)
    np.testing.assert_array_equal(adata.obsm["X_sclm_geneformer"], model.embed(cells))
