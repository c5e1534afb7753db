"""Pre-training of Geneformer: medians, masks, what a network must do; naming cells with the original's heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import sclm
from sclm.cells import Cells, Ragged, read_cells
from sclm.models.geneformer import checkpoint
from sclm.models.geneformer.fitting import learn_dictionaries
from sclm.models.geneformer.module import KEPT, GeneformerModule, masked_batch
from sclm.models.geneformer.network import GeneformerConfig, GeneformerNetwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad

    from sclm.models.geneformer.model import Geneformer

SMALL = {"preset": "tiny", "width": 16, "layers": 2, "max_epochs": 2, "progress_bar": False, "accelerator": "cpu"}


def train(adata: ad.AnnData, **options: Any) -> Geneformer:
    return sclm.train("geneformer", adata, **(SMALL | options))  # type: ignore[return-value]


# Medians and masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_medians_are_those_of_expressing_cells(reference: ad.AnnData, version: str) -> None:
    adata = reference[:80].copy()
    counts = adata.X.toarray()
    counts[:, 5] = 0
    adata.X = sp.csr_matrix(counts)
    found = learn_dictionaries(read_cells(adata), version=version)
    assert found.version == version
    dense = adata.X.toarray().astype(np.float64)
    per = dense / dense.sum(axis=1, keepdims=True) * 1e4
    assert adata.var_names[5] not in found.vocabulary
    for token, name in enumerate(found.vocabulary.tokens):
        if name.startswith("<"):
            assert np.isnan(found.medians[token])
            continue
        column = per[:, adata.var_names.get_loc(name)]
        np.testing.assert_allclose(found.medians[token], np.median(column[column > 0]), rtol=1e-6)
    with pytest.raises(ValueError, match="version must be one of 'V1', 'V2', found 'V3'"):
        learn_dictionaries(read_cells(adata), version="V3")


def test_masks_follow_the_rule() -> None:
    rng = np.random.default_rng(0)
    n, length = 400, 52
    cells = [[2, *rng.choice(np.arange(4, 200), 50, replace=False).tolist(), 3] for _ in range(n)]
    cells.append([2, 7, 3])
    tokens = Ragged(np.concatenate([np.array(c, np.int32) for c in cells]), np.cumsum([0, *(len(c) for c in cells)]))
    batch = masked_batch(tokens, 4, 200, 0.15, np.random.default_rng(1))
    before = tokens.pad()
    ids, real, targets = (part.numpy() for part in batch)
    assert ids.shape == (n + 1, length)
    asked = targets != KEPT
    np.testing.assert_array_equal(targets[asked], before[asked])
    assert (before[asked] >= 4).all()  # neither <cls>, <eos> nor padding
    assert asked.any(axis=1).all()  # the cell of one gene too
    np.testing.assert_array_equal(ids[~asked], before[~asked])
    assert abs(asked[:n, 1:-1].mean() - 0.15) < 0.01
    masked, kept = ids[asked] == 1, ids[asked] == before[asked]
    assert abs(masked.mean() - 0.8) < 0.02
    assert abs(kept.mean() - 0.1) < 0.02
    drawn = ids[asked][~masked & ~kept]
    assert drawn.min() >= 4
    assert len(np.unique(drawn)) > 100
    np.testing.assert_array_equal(real, np.arange(length) < tokens.lengths[:, None])
    again = masked_batch(tokens, 4, 200, 0.15, np.random.default_rng(1))
    np.testing.assert_array_equal(again.ids, batch.ids)


# What a network must do --------------------------------------------------------------------------------------------


def test_every_weight_learns_and_the_loss_falls() -> None:
    config = GeneformerConfig.preset("tiny", width=16, heads=2, layers=2, max_length=40)
    network = GeneformerNetwork(config, 60, seed=0).train()
    rng = np.random.default_rng(0)
    cells = [np.array([2, *(4 + (np.arange(20) + rng.integers(3)) % 50).tolist(), 3], np.int32) for _ in range(32)]
    tokens = Ragged(np.concatenate(cells), np.cumsum([0, *(c.size for c in cells)]))
    batch = masked_batch(tokens, 4, 60, 0.15, rng)
    module = GeneformerModule(network, config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    still = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


def test_the_loss_is_that_of_transformers(reference: ad.AnnData) -> None:
    config = GeneformerConfig.preset("tiny", width=16, heads=2, layers=2, max_length=40)
    network = GeneformerNetwork(config, 60, seed=3).eval()
    rng = np.random.default_rng(0)
    cells = [np.array([2, *rng.permutation(np.arange(4, 60))[:n].tolist(), 3], np.int32) for n in (9, 20, 30)]
    batch = masked_batch(Ragged(np.concatenate(cells), np.cumsum([0, *(c.size for c in cells)])), 4, 60, 0.15, rng)
    with torch.inference_mode():
        found = GeneformerModule(network, config).training_step(batch, 0)
        expected = network.bert_model(batch.ids, attention_mask=batch.real.long(), labels=batch.targets).loss
    torch.testing.assert_close(found, expected)


def test_same_seed_same_model(reference: ad.AnnData) -> None:
    adata = reference[:120].copy()
    first, again, other = train(adata), train(adata), train(adata, seed=1)
    assert first.provenance()["sha256"] == again.provenance()["sha256"]
    assert first.provenance()["sha256"] != other.provenance()["sha256"]


def test_it_learns_more_than_frequencies(reference: ad.AnnData, tmp_path: Path) -> None:
    """Markers of four types: the network says better than the genes' frequencies which gene is hidden."""
    adata = reference.copy()
    counts = adata.X.toarray()
    counts[7] = 0  # a cell without genes
    adata.X = sp.csr_matrix(counts)
    model = train(adata, width=32, max_epochs=10, max_tokens=512, batch_key="donor")
    card = model.card
    assert card["held_out_nats_a_hidden_gene"] < card["held_out_nats_by_gene_frequency_alone"] - 0.1
    assert "whole values of .obs['donor']" in card["split"]
    cells = read_cells(adata).read()
    vectors = model.embed(cells)
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [7]
    again: Any = sclm.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.embed(cells), vectors)
    assert "held out nats" in (tmp_path / "model" / "README.md").read_text()


def test_training_goes_on_from_a_model(reference: ad.AnnData, tmp_path: Path, write_checkpoint: Callable) -> None:
    first = train(reference[:100].copy(), max_epochs=1)
    more = train(reference, base=first, max_epochs=2)
    assert more.vocabulary == first.vocabulary
    np.testing.assert_array_equal(more.dictionaries.medians, first.dictionaries.medians)
    assert more.card["held_out_nats_a_hidden_gene"] < first.card["held_out_nats_a_hidden_gene"]
    assert first.config.max_epochs == 1
    classifier = checkpoint.convert(write_checkpoint(tmp_path, head="cell"))
    with pytest.raises(TypeError, match="head of masked genes, found 'cell'"):
        sclm.train("geneformer", reference, base=classifier)


def test_only_the_genes_that_are_asked_for(reference: ad.AnnData) -> None:
    adata = reference[:60].copy()
    wanted = list(adata.var_names[:50][np.asarray(adata.X.sum(axis=0)).ravel()[:50] > 0])
    model = train(adata, genes=[*adata.var_names[:50]], version="V1", max_epochs=1)
    assert list(model.vocabulary.tokens) == ["<pad>", "<mask>", *wanted]
    with pytest.raises(ValueError, match="found none in 60 cells"):
        train(adata, genes=["no such gene"])


# The original's classes name cells ---------------------------------------------------------------------------------


def test_classes_of_the_original_name_cells(
    tmp_path: Path, write_checkpoint: Callable, values: np.ndarray, genes: list[str]
) -> None:
    import json

    folder = write_checkpoint(tmp_path, head="cell", max_length=40)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "B cell", "1": "nf", "2": "T cell"}
    (folder / "config.json").write_text(json.dumps(config))
    model = checkpoint.convert(folder)
    cells = Cells(sp.csr_matrix(values), pd.Index(genes), pd.DataFrame(index=[f"cell {i}" for i in range(6)]))
    answer = model.annotate(cells)
    assert answer.categories["label"].tolist() == ["B cell", "nf", "T cell"]
    assert answer.categories["ontology_term_id"].tolist() == ["CL:0000236", "unknown", "CL:0000084"]
    expected = model.class_probabilities(cells)
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(answer.probabilities[rest], expected.to_numpy()[rest])
    assert answer.table["label"].iloc[rest].tolist() == expected.iloc[rest].idxmax(axis=1).tolist()
    np.testing.assert_allclose(answer.table["confidence"].iloc[rest], expected.iloc[rest].max(axis=1))
    assert answer.table.iloc[2].tolist() == ["unknown", "unknown", 0.0, 1.0]
    assert answer.table["novelty"].iloc[rest].isna().all()
    plain = checkpoint.convert(write_checkpoint(tmp_path / "plain", max_length=40))
    with pytest.raises(ValueError, match="learnt no cell types"):
        plain.annotate(cells)
