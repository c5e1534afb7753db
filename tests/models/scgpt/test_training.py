"""Training: what is hidden, that everything learns, integration, responses, attention, and models that go on from others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import sclm
from sclm.cells import read_cells
from sclm.models.perturbations import read_perturbations
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.fitting import starting_network, vocabulary_of
from sclm.models.scgpt.model import ScGPT
from sclm.models.scgpt.module import ScGPTModule, draw_absent, generative_loss, hide
from sclm.models.scgpt.panel import move_log, variable_genes
from sclm.models.scgpt.response import start_from_no_change
from sclm.models.scgpt.response_training import PairData, ResponseModule
from sclm.models.scgpt.tokens import cell_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

QUICK: dict[str, Any] = {
    "preset": "tiny", "width": 16, "n_heads": 2, "n_layers": 2, "max_epochs": 1, "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(simulate: Callable[..., ad.AnnData]) -> Any:
    return read_cells(simulate(160, 60, seed=4), obs_keys=["donor"])


def batch_of(config: ScGPTConfig, source: Any, *, batches: np.ndarray | None = None, n: int = 48) -> tuple[Any, Any]:
    """A network with random weights, and a batch of cells for it."""
    vocabulary = vocabulary_of(source, None)
    network = starting_network(ScGPT.build, config, vocabulary, None, 0)
    ids = vocabulary.match(source.genes).ids
    if network.panel is not None:
        network.panel.copy_(torch.from_numpy(np.sort(ids)[: config.panel_size]))
    cells = source.read(np.arange(n))
    rng = np.random.default_rng(0)
    counts = cells.counts[:, np.argsort(ids)].tocsr()
    tokens = cell_tokens(counts, np.sort(ids), config, cls_id=1)
    absent = draw_absent(counts, np.sort(ids), 20, 0, rng)
    of = np.zeros(n, np.int64) if batches is None else batches[:n]
    return network, hide(tokens, of, config, pad_id=0, generator=rng, absent=absent)


def test_what_is_hidden(source: Any) -> None:
    config = ScGPTConfig.preset("tiny", mask_ratio=0.3)
    _, batch = batch_of(config, source)
    real, hidden = batch.real.numpy(), batch.hidden.numpy()
    assert not hidden[:, 0].any()  # <cls> shows its value
    assert not (hidden & ~real).any()
    np.testing.assert_array_equal(hidden.sum(axis=1), np.maximum(1, np.floor(0.3 * (real.sum(axis=1) - 1))))
    np.testing.assert_array_equal(batch.shown.numpy(), np.where(hidden, -1, batch.values.numpy()))
    dense = source.read(np.arange(48)).counts.toarray() > 0
    for i in range(48):
        drawn = batch.absent[i][batch.absent[i] != 0].numpy() - 3  # three special tokens stand first
        assert not dense[i, drawn].any()
    assert (batch.absent != 0).float().mean() > 0.2


def learns(module: Any, batch: Any, share: float = 0.9, rate: float = 1e-2) -> list[float]:
    """Losses of 30 steps on one batch; all weights that can learn have had a gradient."""
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate)
    touched: set[str] = set()
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        touched |= {n for n, p in module.network.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimiser.step()
        losses.append(float(loss.detach()))
    learnable = {n for n, p in module.network.named_parameters() if p.requires_grad}
    assert learnable == touched
    assert losses[-1] < share * losses[0]
    return losses


@pytest.mark.parametrize("options", [{}, {"flags": 2, "generative": 1.0}])
def test_everything_learns_by_masking(options: dict[str, Any], source: Any) -> None:
    config = ScGPTConfig.preset("tiny", objective="masking", **options)
    network, batch = batch_of(config, source)
    learns(ScGPTModule(network, config), batch)


def test_everything_learns_to_integrate(source: Any) -> None:
    batches = pd.factorize(source.obs["donor"].astype(str), sort=True)[0]
    config = ScGPTConfig.preset(
        "tiny", objective="integration", batches=("d1", "d2", "d3"), batch_key="donor", input_norm="domain", batch_labels=True,
        adversary=True, zero_probability=True, include_zeros=True, cls_value=0.0, panel_size=60,
    )  # fmt: skip
    network, batch = batch_of(config, source, batches=batches)
    learns(ScGPTModule(network, config), batch, 0.95, 3e-3)
    assert (network.norm.mean.abs().sum(dim=1) > 0).all()  # each batch has statistics of its own


def test_generative_loss_is_that_of_the_genes_that_are_asked_for(source: Any) -> None:
    config = ScGPTConfig.preset("tiny", flags=2, mvc="none")
    network, batch = batch_of(config, source, n=3)
    network.eval()
    from sclm.models.scgpt.generative import generate

    total, count = torch.zeros(2), 0
    for i in range(3):
        seen, asked = batch.real[i] & ~batch.hidden[i], batch.hidden[i]
        parts = [t[i][seen][None] for t in (batch.ids, batch.values)]
        first = generate(network, *parts, torch.ones_like(parts[0], dtype=torch.bool), batch.ids[i][asked][None])
        again = generate(
            network, *parts, torch.ones_like(parts[0], dtype=torch.bool), batch.ids[i][asked][None], cell=first.cell
        )
        for k, found in enumerate((first, again)):
            total[k] += (found.generated_values[0] - batch.values[i][asked]).square().sum().detach()
        count += int(asked.sum())
    torch.testing.assert_close(generative_loss(network, batch).detach(), (total / count).sum())


@pytest.fixture(scope="module")
def masked(simulate: Callable[..., ad.AnnData]) -> Any:
    return sclm.train("scgpt", simulate(240, 60, seed=5), seed=3, **(QUICK | {"max_epochs": 10}))


def test_an_encoder_from_scratch_tells_types_apart(masked: Any, simulate: Callable[..., ad.AnnData]) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    adata = simulate(200, 60, seed=6)
    vectors = masked.embed(read_cells(adata).read())
    assert vectors.shape == (200, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    vote = KNeighborsClassifier(5).fit(vectors[:100], types[:100])
    assert vote.score(vectors[100:], types[100:]) > 0.7
    assert masked.card["objective"] == "masking"
    assert masked.config.objective == "masking"


def test_cells_do_not_depend_on_others_or_on_the_order_of_genes(
    masked: Any, simulate: Callable[..., ad.AnnData]
) -> None:
    adata = simulate(50, 60, seed=7)
    whole = masked.embed(read_cells(adata).read())
    np.testing.assert_allclose(masked.embed(read_cells(adata[[17]].copy()).read())[0], whole[17], atol=1e-5)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(masked.embed(read_cells(adata[:, order].copy()).read()), whole, atol=1e-5)
    empty = adata.copy()
    empty.X = sp.csr_matrix(np.where(np.arange(50)[:, None] == 4, 0, adata.X.toarray()))
    found = masked.embed(read_cells(empty).read())
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(np.delete(found, 4, axis=0), np.delete(whole, 4, axis=0), atol=1e-5)


def test_perturbed_cells_move(masked: Any, simulate: Callable[..., ad.AnnData]) -> None:
    adata = simulate(40, 60, seed=8)
    cells = read_cells(adata).read()
    gene = str(adata.var_names[0])
    deleted = masked.perturb(cells, [(gene,)], kind="delete")
    np.testing.assert_array_equal(deleted["cell"], np.flatnonzero(adata.X[:, 0].toarray().ravel() > 0))
    # as the same cells without that gene's token: bins of the others stay
    tokens = masked.tokenise(cells)
    rows, changed = masked.perturbed(tokens, masked.gene_ids([[gene]])[0], "delete")
    a, b = masked.embed_tokens(tokens)[rows], masked.embed_tokens(changed)
    np.testing.assert_allclose(deleted["shift"], 1 - (a * b).sum(axis=1), atol=1e-5)
    raised = masked.perturb(cells, [(gene,)], kind="overexpress")
    assert len(raised) == 40


def test_gene_embeddings_are_normalised(masked: Any) -> None:
    found = masked.gene_embeddings()
    assert found.shape == (60, 16)
    assert list(found.index) == [t for t in masked.vocabulary.tokens if not t.startswith("<")]
    weight = masked.arrays()["genes.embedding.weight"][3:]
    norm = torch.nn.functional.layer_norm(torch.from_numpy(weight), (16,)).numpy()
    expected = norm * masked.arrays()["genes.norm.weight"] + masked.arrays()["genes.norm.bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_going_on_from_a_model(masked: Any, simulate: Callable[..., ad.AnnData]) -> None:
    adata = simulate(120, 60, seed=9)
    before = {k: v.copy() for k, v in masked.arrays().items()}
    options = {k: v for k, v in QUICK.items() if k not in ("preset", "width", "n_heads", "n_layers")}
    more = sclm.train("scgpt", adata, base=masked, learning_rate=1e-6, seed=1, **options)
    for name, array in before.items():
        np.testing.assert_array_equal(masked.arrays()[name], array)  # the base stays as it was
        np.testing.assert_allclose(more.arrays()[name], array, atol=1e-3)
    with pytest.raises(ValueError, match="Pass one of them"):
        sclm.train("scgpt", adata, base=masked, preset="tiny")
    with pytest.raises(ValueError, match="width is given by base=, which has 16, found 32"):
        sclm.train("scgpt", adata, base=masked, width=32)
    with pytest.raises(TypeError, match="no setting 'widht'"):
        sclm.train("scgpt", adata, widht=32)
    with pytest.raises(ValueError, match="objective must be"):
        sclm.train("scgpt", adata, objective="guessing")
    with pytest.raises(ValueError, match="at least 20 training cells, found 8"):
        sclm.train("scgpt", adata[:8].copy())


# Integration --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_batches(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """The second batch sees some genes better and others worse."""
    adata = simulate(240, 60, seed=10)
    factor = np.random.default_rng(0).gamma(2, 0.5, 60)
    counts = adata.X.toarray()
    second = np.arange(240) % 2 == 1
    counts[second] = np.random.default_rng(1).poisson(counts[second] * factor)
    adata.X = sp.csr_matrix(counts.astype(np.float32))
    adata.obs["run"] = np.array(["r1", "r2"], dtype=object)[second.astype(int)]
    return adata


@pytest.fixture(scope="module")
def integrated(two_batches: ad.AnnData) -> Any:
    return sclm.train(
        "scgpt", two_batches, objective="integration", batch_key="run", seed=2, **(QUICK | {"max_epochs": 3})
    )


def test_an_integrated_model_reads_the_batch(integrated: Any, two_batches: ad.AnnData, tmp_path: Any) -> None:
    config = integrated.config
    assert config.batches == ("r1", "r2")
    assert config.panel_size == 60
    assert integrated.obs_keys == ("run",)
    cells = read_cells(two_batches, obs_keys=["run"]).read()
    vectors = integrated.embed(cells)
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(integrated.batch_codes(cells.obs), np.arange(240) % 2)
    # a cell by itself, another order, the saved model
    np.testing.assert_allclose(
        integrated.embed(read_cells(two_batches[[5]], obs_keys=["run"]).read())[0], vectors[5], atol=1e-5
    )
    again = sclm.load(integrated.save(tmp_path / "m"))
    assert again.config == config
    np.testing.assert_array_equal(again.embed(cells), vectors)
    # a wrong batch is another answer; none is that of all batches together
    wrong = cells._replace(obs=cells.obs.assign(run=cells.obs["run"].to_numpy()[::-1]))
    none = cells._replace(obs=cells.obs[[]])
    other = cells._replace(obs=cells.obs.assign(run="r9"))
    assert np.abs(integrated.embed(wrong) - vectors).max() > 1e-3
    assert np.abs(integrated.embed(none) - vectors).max() > 1e-4
    np.testing.assert_allclose(integrated.embed(other), integrated.embed(none), atol=1e-6)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_types_learnt_on_an_integrated_model_leave_its_statistics(
    integrated: Any, two_batches: ad.AnnData, tune: str
) -> None:
    """While types are learnt no batch is named: all statistics stay, or those of one batch would drift from what naming reads."""
    before = {name: tensor.clone() for name, tensor in integrated.network.named_buffers()}
    model = sclm.train(
        "scgpt", two_batches, label_key="cell_type", base=integrated, tune=tune, max_epochs=12, learning_rate=1e-3,
        progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    for name, tensor in model.network.named_buffers():
        assert torch.equal(tensor, before[name]), name
    assert model.card["held_out_accuracy"] > 0.2 + model.card["held_out_accuracy_of_the_majority_type"]


def test_unknown_batches_are_said(integrated: Any, two_batches: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    known, unknown, mixed = two_batches.copy(), two_batches.copy(), two_batches.copy()
    del unknown.obs["run"]
    mixed.obs["run"] = np.where(np.arange(240) < 7, "r9", mixed.obs["run"])
    for adata, n in ((known, 0), (unknown, 240), (mixed, 7)):
        caplog.clear()
        sclm.tl.embed(adata, integrated)
        assert adata.uns["X_sclm_scgpt"]["n_cells_of_unknown_batch"] == n
        assert (f"{n} of 240 cells are of no batch that the model knows" in caplog.text) == (n > 0)


def test_integration_with_zeros(two_batches: ad.AnnData) -> None:
    model = sclm.train(
        "scgpt", two_batches, objective="integration", batch_key="run", include_zeros=True, n_panel=30, **QUICK
    )
    assert model.config.panel_size == 30
    assert model.config.cls_value == 0
    tokens = model.tokenise(read_cells(two_batches).read())
    assert (tokens.ids.lengths == 31).all()
    assert np.isin(tokens.ids[0][1:], model.network.panel.numpy()).all()
    assert np.isfinite(model.embed(read_cells(two_batches, obs_keys=["run"]).read())).all()
    others = [t for i, t in enumerate(model.vocabulary.tokens[3:], 3) if i not in set(model.network.panel.tolist())]
    cells = read_cells(two_batches[:, others].copy()).read()
    with pytest.raises(
        ValueError, match="reads 30 genes that were chosen when it was trained, and the data hold 0 of them"
    ):
        model.embed(cells)


def test_integration_needs_batches(two_batches: ad.AnnData) -> None:
    with pytest.raises(TypeError, match="needs batch_key="):
        sclm.train("scgpt", two_batches, objective="integration", **QUICK)
    one = two_batches.copy()
    one.obs["run"] = "r1"
    with pytest.raises(ValueError, match="at least 2 batches to integrate, found 1"):
        sclm.train("scgpt", one, objective="integration", batch_key="run", **QUICK)
    one.obs["run"] = pd.Series([None, *["r1"] * 119, *["r2"] * 120], dtype=object).to_numpy()
    with pytest.raises(ValueError, match="found 1 cells without one"):
        sclm.train("scgpt", one, objective="integration", batch_key="run", **QUICK)


def test_variable_genes(simulate: Callable[..., ad.AnnData]) -> None:
    """The marker genes of the types are among the chosen; a gene that only differs between batches is not."""
    adata = simulate(400, 120, seed=11, depth=2.0)
    runs = np.arange(400) // 4 % 2
    counts = adata.X.toarray()
    counts[runs == 1, 100] += 30
    adata.X = sp.csr_matrix(counts)
    source = read_cells(adata)
    found = variable_genes(source, np.arange(120), 120, 40, batches=runs)
    assert len(found) == 40
    assert np.isin(np.arange(40), found).mean() > 0.6  # a third by chance
    assert 100 not in found
    assert 100 in variable_genes(source, np.arange(120), 120, 40)
    always = variable_genes(source, np.arange(120), 120, 40, batches=runs, always=np.array([119]))
    assert 119 in always
    np.testing.assert_array_equal(variable_genes(source, np.arange(120), 120, 500), np.arange(120))


def test_log_values_that_meet_are_added_as_counts() -> None:
    x = sp.csr_matrix(np.log1p(np.array([[1.0, 2.0, 0.0, 4.0], [0.0, 3.0, 5.0, 0.0]], np.float32)))
    found = move_log(x, np.array([1, 1, -1, 0]), 2).toarray()
    np.testing.assert_allclose(found, np.log1p([[4, 3], [0, 3]]), rtol=1e-6)


# Responses ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def knocked(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Twelve perturbations, each of which lowers its gene and raises five others."""
    adata = simulate(390, 60, types=("T cell",), seed=12, depth=3.0)
    labels = np.array(["ctrl", *adata.var_names[:12]], dtype=object)[np.arange(390) % 13]
    rng = np.random.default_rng(0)
    counts = adata.X.toarray()
    for k in range(12):
        hit = labels == adata.var_names[k]
        counts[hit, k] = 0
        counts[np.ix_(hit, range(20 + 3 * k, 25 + 3 * k))] += rng.poisson(6, (hit.sum(), 5))
    adata.X = sp.csr_matrix(counts)
    adata.obs["target"] = labels
    adata.obs["run"] = np.array(["r1", "r2"], dtype=object)[np.arange(390) // 13 % 2]
    return adata


def pairs_of(knocked: ad.AnnData, **settings: Any) -> tuple[PairData, ScGPTConfig, Any]:
    source = read_cells(knocked, obs_keys=["target", "run"])
    vocabulary = vocabulary_of(source, None)
    panel = np.arange(3, 63)
    heads = {"values": "log", "expression": "affine", "mvc": "none", "perturbation_flags": 3, "panel_size": 60}
    config = ScGPTConfig.preset("tiny", **(heads | settings))
    perturbed = read_perturbations(source.obs["target"], "ctrl", "target")
    flags = {name: vocabulary.lookup([name]) for name in perturbed.names}
    data = PairData(
        source, perturbed, (np.arange(390) // 13 % 2).astype(np.int64), panel=panel, place_of=np.arange(60), flags=flags,
        config=config, seed=0,
    )  # fmt: skip
    return data, config, vocabulary


def test_pairs_hold_the_perturbed_genes_and_stay_within_batches(knocked: ad.AnnData) -> None:
    data, _config, _ = pairs_of(knocked, max_length=20)
    rows = np.array([1, 14, 2, 0])  # two of one target, one of another, a control
    batch = data.encode(rows, np.random.default_rng(0))
    assert batch.ids.shape == (4, 20)
    assert batch.measured.all()
    ids = batch.ids[0].numpy()
    assert {3, 4} <= set(ids.tolist())  # both targets are read, whatever else was drawn
    np.testing.assert_array_equal(batch.flags.numpy(), np.stack([ids == 3, ids == 3, ids == 4, ids < 0]))
    log = sclm.cells.log_normalise(sp.csr_matrix(knocked.X)).toarray()
    np.testing.assert_allclose(batch.target.numpy(), log[rows][:, ids - 3], rtol=1e-5)
    labels, runs = knocked.obs["target"].to_numpy(), knocked.obs["run"].to_numpy()
    for i, row in enumerate(rows):
        control = np.flatnonzero((np.abs(log[:, ids - 3] - batch.values[i].numpy()) < 1e-4).all(axis=1))
        assert any(labels[c] == "ctrl" and runs[c] == runs[row] for c in control)
    held = {code for code, _ in data.validation}
    assert len(held) == 1  # one of the twelve, as a whole
    assert not np.isin(data.codes[data.training], list(held)).any()
    assert sum(len(loaded.ids) for loaded in data.train_dataloader()) == data.training.size + data.n_nothing


def test_everything_learns_to_respond(knocked: ad.AnnData) -> None:
    data, config, vocabulary = pairs_of(knocked)
    network = starting_network(ScGPT.build, config, vocabulary, None, 0)
    start_from_no_change(network)
    module = ResponseModule(network.eval(), config)
    batch = data.encode(np.arange(1, 60), np.random.default_rng(0))
    with torch.inference_mode():
        first = module.predict(batch)
    assert (first - batch.values).abs().mean() < 0.25 * batch.values.abs().mean()  # near no change, before any step
    learns(module, batch)


@pytest.fixture(scope="module")
def responder(knocked: ad.AnnData) -> Any:
    options = QUICK | {"max_epochs": 15, "learning_rate": 1e-2, "width": 32, "patience": 15}
    return sclm.train("scgpt", knocked, perturbation_key="target", control="ctrl", batch_key="run", seed=1, **options)


def controls(adata: ad.AnnData) -> Any:
    return read_cells(adata[adata.obs["target"] == "ctrl"].copy()).read()


def test_responses_are_better_than_no_change(responder: Any, knocked: ad.AnnData) -> None:
    names = [str(name) for name in knocked.var_names[:12]]
    found = responder.respond(controls(knocked), [(name,) for name in names])
    log = pd.DataFrame(sclm.cells.log_normalise(sp.csr_matrix(knocked.X)).toarray(), columns=knocked.var_names)
    means = log.groupby(knocked.obs["target"].to_numpy()).mean()
    truth = means.loc[names, found.columns]
    nothing = means.loc[["ctrl"] * 12, found.columns].to_numpy()
    error, baseline = ((np.asarray(x) - truth.to_numpy()) ** 2 for x in (found, nothing))
    assert error.mean() < 0.8 * baseline.mean()
    assert responder.trained_perturbations == tuple(sorted(names))
    assert responder.card["objective"] == "perturbation"
    assert responder.responds
    assert responder.paired_within == "run"


def test_responses_to_unusual_requests(responder: Any, knocked: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    cells = controls(knocked)
    a, b = map(str, knocked.var_names[:2])
    found = responder.respond(cells, [(), (a,), (b, a)])
    assert list(found.index) == ["", a, "+".join(sorted((a, b)))]
    np.testing.assert_allclose(
        found.iloc[0], np.asarray(sclm.cells.log_normalise(cells.counts).mean(axis=0)).ravel(), atol=1e-4
    )
    with caplog.at_level("WARNING"):
        unknown = responder.respond(cells, [("NOT_A_GENE",)])
    assert "a gene that the model does not know" in caplog.text
    assert np.isfinite(unknown.to_numpy()).all()
    fewer = dataclasses.replace(responder.config, response_cells=5)
    small = ScGPT(fewer, responder.vocabulary, responder.network)
    one, two = (small.respond(cells, [(a,)], seed=s) for s in (0, 1))
    assert not one.equals(two)  # other control cells
    pd.testing.assert_frame_equal(one, small.respond(cells, [(a,)], seed=0))
    assert responder.default_pooling == "mean"
    with pytest.raises(ValueError, match="Pass pooling='mean'"):
        responder.embed(cells, pooling="cls")
    assert np.isfinite(responder.embed(cells)).all()


def test_a_model_that_goes_on_with_another_task_responds_no_longer(responder: Any, knocked: ad.AnnData) -> None:
    model = sclm.train(
        "scgpt", knocked, base=responder, objective="masking", max_epochs=1, progress_bar=False, accelerator="cpu"
    )
    assert not model.responds
    assert model.trained_perturbations == ()
    assert model.paired_within is None


def test_genes_that_are_perturbed_and_not_measured_have_a_token(knocked: ad.AnnData) -> None:
    adata = knocked[:, 1:].copy()  # the first target is not measured
    model = sclm.train("scgpt", adata, perturbation_key="target", control="ctrl", **QUICK)
    name = str(knocked.var_names[0])
    assert name in model.vocabulary.tokens
    found = model.respond(controls(adata), [(name,), ()])
    assert name not in found.columns
    assert found.shape == (2, 59)
    assert not np.allclose(found.iloc[0], found.iloc[1], atol=1e-7)


def test_only_perturbation_models_respond(masked: Any, knocked: ad.AnnData) -> None:
    assert not masked.responds
    assert masked.paired_within is None
    with pytest.raises(ValueError, match="was not trained on perturbed cells"):
        masked.respond(controls(knocked), [("A",)])
    with pytest.raises(TypeError, match="needs perturbation_key="):
        sclm.train("scgpt", knocked, objective="perturbation")


# Attention ----------------------------------------------------------------------------------------------------------


def test_attention_scores_are_means_of_ranks(masked: Any, simulate: Callable[..., ad.AnnData]) -> None:
    from scipy.stats import rankdata

    adata = simulate(6, 60, seed=13)
    genes = [str(g) for g in adata.var_names[[4, 9, 2, 30]]]
    cells = read_cells(adata).read()
    found = masked.attention_scores(cells, genes=genes)[0]
    assert list(found.index) == list(found.columns) == genes
    expected = np.zeros((4, 4))
    ids = torch.tensor([[masked.cls_id, *masked.gene_ids([genes])[0]]])
    columns = adata.var_names.get_indexer(genes)
    for i in range(6):
        counts = adata.X[i].toarray().ravel()[columns]
        there = counts > 0
        bins = np.zeros(4)
        if there.any():
            bins[there] = np.digitize(counts[there], np.quantile(counts[there], np.linspace(0, 1, 50)))
        values = torch.tensor([[-2.0, *bins]], dtype=torch.float32)
        with torch.inference_mode():
            x = masked.states(ids, values, torch.ones(1, 5, dtype=torch.bool), 1)
            q, k, _ = masked.network.layers[1].attention.qkv(x)[0].chunk(3, dim=1)
        for h in range(2):
            raw = (q[:, 8 * h : 8 * h + 8] @ k[:, 8 * h : 8 * h + 8].T).numpy()
            rows = np.array([(rankdata(r) - 1) / 5 for r in raw])
            ranks = np.array([(rankdata(c.round(9)) - 1) / 5 for c in rows.T]).T
            expected += ranks[1:, 1:] / 12
    np.testing.assert_allclose(found, expected, atol=1e-6)
    groups = np.array([0, 1, 0, 1, 0, 1])
    split = masked.attention_scores(cells, genes=genes, groups=groups)
    np.testing.assert_allclose((split[0] + split[1]) / 2, found, atol=1e-6)
    edges = masked.gene_network("attention", genes=genes, cells=cells, k=1)
    assert len(edges) == 4
    for wrong, error in (
        ({"layer": 2}, ValueError),
        ({"genes": genes[:1]}, ValueError),
        ({"genes": ["x", "y"]}, KeyError),
    ):
        with pytest.raises(error):
            masked.attention_scores(cells, **wrong)


@pytest.mark.slow
def test_a_tiny_encoder_of_real_cells_is_useful(pbmc: ad.AnnData) -> None:
    """Near principal components on 700 cells, in half a minute of one core."""
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    model = sclm.train("scgpt", pbmc, preset="tiny", seed=0, progress_bar=False, accelerator="cpu")
    vectors = model.embed(read_cells(pbmc).read())
    types = pbmc.obs["cell_type"].astype(str).to_numpy()
    assert cross_val_score(KNeighborsClassifier(15), vectors, types, cv=5).mean() > 0.72
