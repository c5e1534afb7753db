"""The family on small simulated cells: pieces, states, adapters, losses, training, what is refused."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sclm
from sclm.cells import Cells, read_cells
from sclm.models.cell2text.adapters import MLPAdapter, PerceiverAdapter
from sclm.models.cell2text.config import Cell2TextConfig
from sclm.models.cell2text.fitting import balanced, class_table
from sclm.models.cell2text.module import Cell2TextModule, class_loss, text_loss
from sclm.models.cell2text.network import Cell2TextNetwork
from sclm.models.cell2text.slots import pieces_of
from sclm.models.cell2text.tokens import CellValues, TypeRegression, Writer
from sclm.models.handed_encoder import gene_states, pack_encoder, unpack_encoder
from sclm.nn import PrefixLM, WordVocabulary
from sclm.texts import AGES, CellFacts, describe_template

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.models.cell2text.model import Cell2Text
    from sclm.models.geneformer.model import Geneformer

ENCODER: dict[str, Any] = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 2, "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip
QUICK: dict[str, Any] = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu"}
SETS = ["Interferon Signaling", "Complement cascade", "HALLMARK_HYPOXIA"]


def some(cells: Cells, rows: Sequence[int]) -> Cells:
    return Cells(cells.counts[list(rows)], cells.genes, cells.obs.iloc[list(rows)])


# Texts ----------------------------------------------------------------------------------------------------------------


def test_pieces_are_the_template() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        pick = lambda values: str(rng.choice([*values, ""]))
        facts = CellFacts(
            pick(["T cell", "alpha cell"]), pick(["cell of a kind. It is one"]), pick(["blood"]), pick(["male"]),
            pick(["normal", "COVID-19"]), pick(AGES[:3]), tuple(SETS[: rng.integers(0, 3)]),
        )  # fmt: skip
        assert "".join(p.text for p in pieces_of(facts)) == describe_template(facts)


def test_descriptions_as_tokens_read_as_the_template() -> None:
    facts = CellFacts("T cell", "lymphocyte", "blood", "male", "normal", "adulthood", ("Complement cascade",))
    text = describe_template(facts)
    writer = Writer(PrefixLM.from_scratch(texts=[text, "Description:"], width=16))
    ids, weights = writer.description(pieces_of(facts), 5.0)
    assert writer.lm.decode(ids) == text
    assert ids[-1] == writer.lm.eos
    heavy = writer.lm.decode([i for i, w in zip(ids, weights, strict=True) if w == 5.0])
    assert heavy == "a T cell, the blood of a normal male during adulthood. Complement cascade."


# Encoder and adapters -------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_highest_genes(encoder: Geneformer, cells: Cells) -> None:
    found = gene_states(encoder, cells, 5)
    assert found.states.shape == (24, 5, encoder.width)
    assert not found.real[3].any()
    assert not found.states[3].any()
    tokens = encoder.tokenise(cells)
    row = 7
    ids = torch.from_numpy(tokens.ids.pad(value=encoder.pad_id).astype(np.int64))[[row]]
    ids = ids[:, : tokens.ids.lengths[row]]
    layer, _ = encoder.chosen(None, None)
    with encoder.inference():
        states = encoder.states(ids, None, torch.ones_like(ids, dtype=torch.bool), layer)[0]
    np.testing.assert_allclose(found.states[row], states[1:6].numpy(), atol=1e-5)  # behind <cls>
    np.testing.assert_allclose(found.vectors[row], encoder.embed(some(cells, [row]))[0], atol=1e-5)


def test_states_of_scgpt_follow_the_values(adata: anndata.AnnData) -> None:
    scgpt = sclm.train(
        "scgpt", adata, seed=0, preset="tiny", max_epochs=1, width=16, n_layers=1, n_heads=2, progress_bar=False
    )
    block = read_cells(adata[:6].copy()).read()
    found = gene_states(scgpt, block, 4)
    assert found.real.all()
    order = np.random.default_rng(0).permutation(adata.n_vars)
    turned = gene_states(scgpt, read_cells(adata[:6, order].copy()).read(), 4)
    np.testing.assert_allclose(turned.states, found.states, atol=1e-5)


def test_an_encoder_is_kept_inside_a_checkpoint_or_named(
    encoder: Geneformer, cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = unpack_encoder(pack_encoder(encoder))
    np.testing.assert_array_equal(again.embed(cells), encoder.embed(cells))
    monkeypatch.setattr("sclm.models.handed_encoder._KEPT_BYTES", 10)
    unsaved = type(encoder)(encoder.config, encoder.vocabulary, encoder.network, dictionaries=encoder.dictionaries)
    with pytest.raises(ValueError, match="not on disk"):
        pack_encoder(unsaved)
    unsaved.save(tmp_path / "encoder")
    packed = pack_encoder(unsaved)
    assert list(packed) == ["encoder_facts"]
    np.testing.assert_array_equal(unpack_encoder(packed).embed(cells), encoder.embed(cells))
    other = sclm.train("geneformer", read_cells_of(cells), seed=4, **ENCODER)
    other.save(tmp_path / "encoder", overwrite=True)
    with pytest.raises(ValueError, match="not the encoder"):
        unpack_encoder(packed)


def read_cells_of(cells: Cells) -> anndata.AnnData:
    import anndata

    return anndata.AnnData(cells.counts.copy(), obs=cells.obs.copy(), var=pd.DataFrame(index=cells.genes))


@pytest.mark.parametrize("kind", ["mlp", "perceiver"])
def test_adapters_do_not_see_what_is_padded(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "mlp":
        adapter: torch.nn.Module = MLPAdapter(6, 16, 8, dropout=0.1, rms=0.5)
    else:
        adapter = PerceiverAdapter(6, 8, latents=3, layers=2, heads=2, dropout=0.1, rms=0.5)
    adapter.eval()
    states, real = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    first = adapter(states, real)
    assert first.shape == (2, 5 if kind == "mlp" else 3, 8)
    assert torch.isfinite(first).all()
    states[0, 3:] += 9
    states[1] -= 9
    torch.testing.assert_close(adapter(states, real), first)
    assert float(first[0, 0].detach().square().mean().sqrt()) == pytest.approx(0.5, abs=0.05)


def test_values_of_the_cell_are_its_components(adata: anndata.AnnData) -> None:
    counts = read_cells(adata).read().counts
    values = CellValues.fit(counts, 6, seed=0)
    whole = values.of(counts, np.ones(120, dtype=bool))
    dense = counts.toarray().astype(np.float64)
    dense = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    dense -= dense.mean(axis=0)
    left, size, _ = np.linalg.svd(dense, full_matrices=False)
    expected = left[:, :6] * size[:6]
    spread = expected.std(axis=0, ddof=1)
    expected *= 3 / np.sqrt(spread * spread[0])
    np.testing.assert_allclose(np.abs(whole), np.abs(expected), atol=5e-3)
    present = np.arange(120) < 110  # as if ten genes had not been measured
    part = (counts @ sparse.diags_array(present.astype(np.float32))).tocsr()
    part.eliminate_zeros()
    lacking = values.of(part, present)
    assert np.corrcoef(lacking[:, 0], whole[:, 0])[0, 1] > 0.98
    np.testing.assert_allclose(lacking.mean(axis=0), 0, atol=0.15)  # the depth is corrected


def test_the_regression_of_types_doubts_where_it_has_not_seen_a_cell() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(90) % 3
    cells = sparse.csr_matrix(rng.normal(size=(90, 60)).astype(np.float32))  # noise: nothing can be learnt
    seen = TypeRegression.fit(cells, codes, 4).log_probs(cells)
    others = TypeRegression.of_others(cells, codes, 4, seed=0)
    assert (seen.argmax(axis=1) == codes).mean() > 0.5
    assert (others.argmax(axis=1) == codes).mean() < 0.5
    assert (seen[:, 3] <= -7).all()  # a type without a cell
    np.testing.assert_allclose(np.exp(seen).sum(axis=1), 1, atol=1e-2)


def test_the_regression_of_types_is_the_logistic_baseline(adata: anndata.AnnData) -> None:
    uneven = adata[(np.arange(240) % 4 > 1) | (np.arange(240) < 40)].copy()  # rare types weigh more
    counts, genes = read_cells(uneven).read().counts, np.ones(120, dtype=bool)
    names, codes = np.unique(uneven.obs["cell_type"].astype(str), return_inverse=True)
    cells = CellValues.fit(counts, 6, seed=0).direction(counts, genes)
    np.testing.assert_allclose(np.sqrt(cells.multiply(cells).sum(axis=1)), 10, rtol=1e-5)
    ours = TypeRegression.fit(cells, codes, len(names))
    baseline = sclm.train("logistic", uneven, label_key="cell_type", seed=0)
    answer = baseline.annotate(read_cells(uneven).read())
    order = [list(answer.categories["label"]).index(n) for n in names]
    p = (
        np.log(np.maximum(answer.probabilities[:, order], 1e-12)) * baseline.config.temperature
    )  # before its calibration
    p -= np.logaddexp.reduce(p, axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(ours.log_probs(cells)), np.exp(p), atol=0.03)
    two = TypeRegression.fit(cells, codes % 2, 2).log_probs(cells)
    assert ((two.argmax(axis=1) == codes % 2).mean()) > 0.95


def test_rare_types_weigh_more_and_the_mean_is_one() -> None:
    codes = np.repeat([0, 1], [90, 10])
    weights = balanced(codes, np.ones(100, dtype=bool), 2, 0.5)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert weights[codes].mean() == pytest.approx(1)
    assert (balanced(codes, np.ones(100, dtype=bool), 2, 0.0) == 1).all()
    writer = Writer(PrefixLM.from_scratch(texts=["This sample consists of a T cell. Description:"], width=16, heads=2))
    pieces = pieces_of(CellFacts("T cell"))
    (ids, plain), (_, heavy) = (writer.description(pieces, 5.0, weight) for weight in (1.0, 3.0))
    assert len(ids) == len(plain) == len(heavy)
    assert sorted(set(plain)) == [1.0, 5.0]
    assert sorted(set(heavy)) == [1.0, 15.0]


# Losses and learning --------------------------------------------------------------------------------------------------


def test_losses_are_their_formulas() -> None:
    logits = torch.randn(2, 3, 5)
    targets = torch.tensor([[1, 2, -100], [-100, 0, 4]])
    weights = torch.tensor([[1.0, 5.0, 0.0], [0.0, 1.0, 2.0]])
    total = 0.0
    for b in range(2):
        for t in range(3):
            if targets[b, t] >= 0:
                total -= float(weights[b, t] * logits[b, t].log_softmax(-1)[targets[b, t]])
    assert float(text_loss(logits, targets, weights)) == pytest.approx(total / 9, rel=1e-5)
    classes = torch.tensor([[0, -1], [2, -1]])
    scores = [torch.randn(2, 3), torch.randn(2, 4)]
    expected = -float(scores[0].log_softmax(-1)[[0, 1], [0, 2]].mean())
    assert float(class_loss(scores, classes)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapter", ["mlp", "perceiver"])
def test_every_weight_learns_and_the_loss_falls(adapter: str, model: Cell2Text, cells: Cells) -> None:
    config = dataclasses.replace(model.config, adapter=adapter, adapter_dropout=0.0, cell_dropout=0.0)
    words = WordVocabulary(model.network.lm.tokenizer.tokens)
    lm = PrefixLM.from_scratch(vocabulary=words, width=32, layers=1, heads=2)
    network = Cell2TextNetwork(config, lm, encoder_width=16, cell_width=10, n_types=4, n_classes=[4, 2, 2], seed=0)
    writer = Writer(lm)
    states = gene_states(model.encoder, cells, config.top_k)
    states.real[:, -2:] = False
    values = np.random.default_rng(0).normal(size=(24, 14)).astype(np.float32)
    facts = [
        CellFacts("T cell", "", "blood", "female", "normal"),
        CellFacts("B cell", "", "lymph node", "", "COVID-19"),
    ] * 12
    tails = [writer.description(pieces_of(f), 5.0) for f in facts]
    batch = writer.pack(states, values, tails, class_table(facts, config)[0])
    module = Cell2TextModule(network.train(), config, writer.before)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_two_learning_rates(model: Cell2Text) -> None:
    class Plan:
        max_epochs = 1
        estimated_stepping_batches = 10

    config = dataclasses.replace(model.config, adapter_learning_rate=1e-3, lm_learning_rate=1e-4)
    module = Cell2TextModule(model.network, config, ())
    module._trainer = Plan()
    optimiser = module.configure_optimizers()["optimizer"]
    rate_of = {id(p): g["initial_lr"] for g in optimiser.param_groups for p in g["params"]}
    for name, parameter in model.network.named_parameters():
        assert rate_of[id(parameter)] == (1e-4 if name.startswith("lm.") else 1e-3), name


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said(adata: anndata.AnnData, encoder: Geneformer, activity: pd.DataFrame) -> None:
    with pytest.raises(TypeError, match="label_key"):
        sclm.train("cell2text", adata, encoder=encoder)
    with pytest.raises(TypeError, match="through an encoder, found Logistic"):
        sclm.train(
            "cell2text", adata, label_key="cell_type", encoder=sclm.train("logistic", adata, label_key="cell_type")
        )
    with pytest.raises(ValueError, match="found 10"):
        sclm.train("cell2text", adata, label_key="cell_type", encoder=encoder, pathways=activity[:10], **QUICK)
    with pytest.raises(ValueError, match="adapter must be one of"):
        Cell2TextConfig(adapter="linear")
    with pytest.raises(TypeError, match="adapter_width"):
        sclm.train("cell2text", adata, label_key="cell_type", encoder=encoder, adapter_with=3, **QUICK)


def test_nothing_is_calibrated_where_no_cell_is_held_out(adata: anndata.AnnData, encoder: Geneformer) -> None:
    """A cell a type: the training cells must not pass for held-out ones."""
    one_each = adata[~adata.obs["cell_type"].duplicated()].copy()
    assert one_each.n_obs > 1
    model = sclm.train("cell2text", one_each, label_key="cell_type", encoder=encoder, epochs=1, seed=0, **QUICK)
    assert (model.config.temperature, model.config.regression_weight) == (1.0, 0.0)
    assert not [name for name in model.card if name.startswith("held_out")]
    assert "no cells held out" in model.card["split"]


def test_a_small_encoder_is_trained_where_none_is_handed_over(adata: anndata.AnnData) -> None:
    model = sclm.train(
        "cell2text", adata[:60].copy(), label_key="cell_type", encoder="scgpt", epochs=1, seed=0,
        encoder_options={"max_epochs": 1, "width": 16, "n_layers": 1, "n_heads": 2, "progress_bar": False, "accelerator": "cpu"}, **QUICK,
    )  # fmt: skip
    assert model.config.encoder == "scgpt"
    assert model.config.tissues == model.config.donors == ()
    table = model.write(read_cells(adata[60:64].copy()).read())
    assert not table["text"].str.contains("originates").any()  # nothing is said of what training has not seen
