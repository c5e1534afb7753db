"""What a trained model writes and scores, on cells whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad

    from sclm.models.family import Family

TYPES = ("B cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "monocyte")
SMALL = {"preset": "tiny", "n_programmes": 3, "max_epochs": 3, "progress_bar": False, "accelerator": "cpu"}


def counted(counts: sparse.csr_matrix) -> np.ndarray:
    """Mean shares of genes."""
    total = np.asarray(counts.sum(0)).ravel()
    return total / total.sum()


@pytest.fixture(scope="module")
def cells(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Four types, rest and stimulated; stimulation raises genes 50 to 59 fivefold, in half of each type's cells."""
    adata = simulate(480, 120, types=TYPES, seed=5)
    stimulated = np.arange(480) // 4 % 2 == 0
    counts = adata.X.toarray()
    counts[np.ix_(stimulated, range(50, 60))] = np.random.default_rng(0).poisson(
        5 * counts[np.ix_(stimulated, range(50, 60))] + 0.5
    )
    adata.X = sparse.csr_matrix(counts)
    adata.obs["condition"] = pd.Categorical(np.where(stimulated, "stimulated", "rest"))
    return adata


@pytest.fixture(scope="module")
def model(cells: ad.AnnData) -> Family:
    """B cells are seen at rest only."""
    seen = ~((cells.obs["cell_type"] == "B cell") & (cells.obs["condition"] == "stimulated")).to_numpy()
    return sclm.train("pgl", cells[seen].copy(), obs_keys=["cell_type", "condition"], seed=0, **SMALL)


def test_written_cells_have_the_profile_of_their_condition(model: Family, cells: ad.AnnData) -> None:
    for kind, condition in [("monocyte", "rest"), (TYPES[1], "stimulated"), ("B cell", "rest")]:
        written = model.generate(sclm.request(n_obs=200, cell_type=kind, condition=condition), seed=1).counts
        real = cells[(cells.obs["cell_type"] == kind) & (cells.obs["condition"] == condition)].X
        assert np.corrcoef(counted(written), counted(real))[0, 1] > 0.98
        assert abs(np.log(written.sum(1).mean() / real.sum(1).mean())) < 0.15
        assert abs((written > 0).mean() - (real > 0).mean()) < 0.05


def test_a_combination_that_no_cell_had_is_composed(model: Family, cells: ad.AnnData) -> None:
    """Stimulated B cells: markers of B cells and the stimulated genes, nearer to the truth than resting B cells."""
    request = sclm.request(n_obs=300, cell_type="B cell", condition="stimulated")
    written = counted(model.generate(request, seed=0).counts)
    both = {
        c: cells[(cells.obs["cell_type"] == "B cell") & (cells.obs["condition"] == c)].X for c in ("rest", "stimulated")
    }
    truth, rest = counted(both["stimulated"]), counted(both["rest"])
    # Against the product of the two effects by hand: the change of the other types, put upon resting B cells.
    others = {c: cells[(cells.obs["cell_type"] != "B cell") & (cells.obs["condition"] == c)].X for c in both}
    additive = rest * (counted(others["stimulated"]) + 1e-4) / (counted(others["rest"]) + 1e-4)
    additive /= additive.sum()
    assert np.abs(written - truth).sum() < 1.3 * np.abs(additive - truth).sum()
    assert np.abs(written - truth).sum() < np.abs(rest - truth).sum()
    found, true = written[50:60].sum() / rest[50:60].sum(), truth[50:60].sum() / rest[50:60].sum()
    assert 0.6 < np.log(found) / np.log(true) < 1.4
    assert written[:10].sum() > 0.8 * truth[:10].sum()


def test_a_general_term_is_a_mixture_of_its_kinds(model: Family) -> None:
    written = model.generate(sclm.request(n_obs=300, cell_type="T cell", condition="rest"), seed=0)
    share = written.obs["cell_type_written"].value_counts(normalize=True)
    assert set(share.index) == set(TYPES[1:3])
    assert abs(share.iloc[0] - 0.5) < 0.15
    assert (written.obs["cell_type"] == "T cell").all()


def test_fields_left_out_are_drawn_as_in_training(model: Family) -> None:
    written = model.generate(sclm.request(n_obs=600, cell_type="monocyte"), seed=2)
    assert abs((written.obs["condition"] == "stimulated").mean() - 0.5) < 0.12
    everything = model.generate(sclm.request(n_obs=600), seed=2).obs
    assert set(everything["cell_type"]) == set(TYPES)
    # The network learns from dropped fields that no B cell is stimulated, at least in part.
    assert (everything.loc[everything["cell_type"] == "B cell", "condition"] == "rest").mean() > 0.5


def test_requested_depths_are_met(model: Family) -> None:
    asked = np.repeat([60.0, 600.0], 150)
    request = sclm.request(n_obs=300, cell_type="monocyte", condition="rest", n_counts=asked)
    total = np.asarray(model.generate(request, seed=0).counts.sum(1)).ravel()
    for depth in (60.0, 600.0):
        assert abs(total[asked == depth].mean() / depth - 1) < 0.1


def test_likelihood_names_cells_and_notices_strange_ones(model: Family, cells: ad.AnnData) -> None:
    source = read_cells(cells, obs_keys=["cell_type", "condition"])
    some = source.read(np.arange(0, 480, 3))
    scores = model.log_likelihood(some, "cell_type")
    named = np.array(scores.columns, dtype=object)[scores.to_numpy().argmax(1)]
    assert (named == some.obs["cell_type"].astype(str)).mean() > 0.95
    given = model.log_likelihood(some)
    own = scores.to_numpy()[np.arange(len(named)), [list(scores.columns).index(t) for t in some.obs["cell_type"]]]
    np.testing.assert_allclose(given["log_likelihood"], own, rtol=1e-6)
    shuffled = some.counts[:, np.random.default_rng(0).permutation(some.counts.shape[1])].tocsr()
    strange = model.log_likelihood(some._replace(counts=shuffled))
    assert np.median(strange["surprise"]) > np.quantile(given["surprise"], 0.95)
    with pytest.raises(ValueError, match="general term in 'cell_type'"):
        model.log_likelihood(some, pd.DataFrame({"cell_type": ["T cell"], "condition": ["rest"]}))


def test_gene_order_and_foreign_genes_do_not_matter_to_a_score(model: Family, cells: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(cells.n_vars)
    a, b = (
        model.log_likelihood(read_cells(part, obs_keys=["cell_type", "condition"]).read(np.arange(20)))
        for part in (cells, cells[:, order])
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_several_anndata_are_one_training_set(cells: ad.AnnData) -> None:
    parts = [cells[:200].copy(), cells[200:, ::-1].copy()]
    model = sclm.train("pgl", parts, obs_keys=["cell_type"], seed=0, **{**SMALL, "max_epochs": 1})
    assert "480 cells" in model.card["data"]
    assert model.conditions.fields[0].n_cells == (120, 120, 120, 120)
    written = model.generate(sclm.request(n_obs=100, cell_type="monocyte"), seed=0)
    real = cells[cells.obs["cell_type"] == "monocyte"].to_df()[list(written.genes)].to_numpy()
    assert np.corrcoef(counted(written.counts), counted(sparse.csr_matrix(real)))[0, 1] > 0.97
    with pytest.raises(TypeError, match="'knn' learns from one AnnData, found a list of 2"):
        sclm.train("knn", parts, label_key="cell_type")


def test_donors_are_held_out_as_a_whole(cells: ad.AnnData) -> None:
    model = sclm.train("pgl", cells, obs_keys=["cell_type"], batch_key="donor", seed=0, **{**SMALL, "max_epochs": 1})
    assert "by whole donors" in model.card["split"]


def test_a_pretrained_language_model_is_the_body(cells: ad.AnnData, tmp_path: Path) -> None:
    """A tiny Llama with random weights, saved as transformers saves it: LoRA learns, the checkpoint holds no base weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = tmp_path / "llama"
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(base, safe_serialization=True)
    model = sclm.train(
        "pgl", cells, obs_keys=["cell_type"], seed=0, base_model=str(base), lora_rank=2, **{**SMALL, "max_epochs": 1}
    )
    names = [name for name in model.arrays() if name.startswith("network.body")]
    assert names
    assert all("lora_" in name for name in names)
    folder = model.save(tmp_path / "model")
    again = sclm.load(folder)
    assert again.base_model["name"] == str(base)
    request = sclm.request(n_obs=40, cell_type="monocyte")
    np.testing.assert_array_equal(again.generate(request).counts.toarray(), model.generate(request).counts.toarray())


def test_training_goes_on_where_it_stopped(cells: ad.AnnData, tmp_path: Path) -> None:
    options = {"obs_keys": ["cell_type"], "seed": 0, **SMALL, "patience": 3}
    whole = sclm.train("pgl", cells, **options)
    sclm.train("pgl", cells, folder=tmp_path / "run", max_minutes=1e-4, **options)
    resumed = sclm.train("pgl", cells, folder=tmp_path / "run", **options)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_keys": []}, "pass obs_keys= naming the columns"),
        ({"obs_keys": ["cell_type"], "preset": "huge"}, "preset must be one of 'tiny', 'small', 'base', found 'huge'"),
    ],
)
def test_bad_training_is_refused(cells: ad.AnnData, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sclm.train("pgl", cells, **options)


def test_unknown_settings_and_too_few_cells_are_refused(cells: ad.AnnData) -> None:
    with pytest.raises(TypeError, match="n_programmes"):
        sclm.train("pgl", cells, obs_keys=["cell_type"], n_programs=3)
    with pytest.raises(ValueError, match="at least 20 training cells, found 5"):
        sclm.train("pgl", cells[:5].copy(), obs_keys=["cell_type"])
    empty = cells.copy()
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.float32)
    with pytest.raises(ValueError, match="must have counts"):
        sclm.train("pgl", empty, obs_keys=["cell_type"])
