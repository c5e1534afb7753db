"""The torch engine against the numpy one, and its training step against a slow derivative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.count_model import fit_counts
from sclm.models.deconvolution.module import CountModule, Spots, encode, on_best_device
from sclm.models.deconvolution.platform import platform_factors

if TYPE_CHECKING:
    from conftest import Drawn


@pytest.mark.parametrize("phi", [0.0, 0.3])
def test_both_engines_agree(drawn: Drawn, phi: float) -> None:
    dispersion = np.full(400, phi)
    ours = CountModule(drawn.profile, dispersion).fit(drawn.section.X)
    theirs = fit_counts(drawn.section.X, drawn.profile, dispersion)
    assert ours.abundance.dtype == ours.information.dtype == np.float64
    largest = theirs.abundance.max(axis=1, keepdims=True)
    assert np.abs((ours.abundance - theirs.abundance) / largest).max() < 1e-3
    np.testing.assert_allclose(ours.information, theirs.information, rtol=1e-2)


def test_both_engines_agree_with_a_prior(drawn: Drawn) -> None:
    dispersion, prior = np.full(400, 0.3), np.random.default_rng(0).uniform(0, 300, (120, 5))
    prior[:9] = 0
    ours = CountModule(drawn.profile, dispersion).fit(drawn.section.X, prior)
    theirs = fit_counts(drawn.section.X, drawn.profile, dispersion, prior=prior)
    largest = theirs.abundance.max(axis=1, keepdims=True)
    assert np.abs((ours.abundance - theirs.abundance) / largest).max() < 1e-3


def test_types_of_one_profile_do_not_break_it(drawn: Drawn) -> None:
    profile = np.vstack([drawn.profile[:2], drawn.profile[:1]])
    found = CountModule(profile, np.full(400, 0.3)).fit(drawn.section.X[:20]).abundance
    assert np.isfinite(found).all()
    pair = fit_counts(drawn.section.X[:20], profile[:2], np.full(400, 0.3)).abundance
    np.testing.assert_allclose(found[:, 0] + found[:, 2], pair[:, 0], atol=0.01 * pair.sum(axis=1).max())


def test_the_engine_is_a_setting_of_the_family(drawn: Drawn, tmp_path: Any) -> None:
    source, found = read_cells(drawn.section, obs_keys=["library"]), []
    for engine in ("numpy", "torch"):
        model = sclm.train("deconvolution", drawn.reference, label_key="cell_type", engine=engine)
        found.append(model.adapt(source, library_key="library", resolution="spot").map(source.read()))
    assert sclm.load(model.save(tmp_path / "model")).config.engine == "torch"
    for name in ("fraction", "standard_error", "unexplained", "explained"):
        np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), atol=2e-3, err_msg=name)
    with pytest.raises(ValueError, match="engine must be 'numpy' or 'torch', found 'jax'"):
        sclm.train("deconvolution", drawn.reference, label_key="cell_type", engine="jax")


# Platform factors by gradient -----------------------------------------------------------------------------------------


def named(counts: Any) -> Any:
    return read_cells(ad.AnnData(counts, var=pd.DataFrame(index=[f"gene{i}" for i in range(counts.shape[1])])))


def test_the_gradient_is_that_of_the_likelihood_with_abundances_at_their_best(draw: Any) -> None:
    """Against differences of the whole loss, abundances solved for anew at each end."""
    drawn = draw(spots=30, platform=0.3)
    module = CountModule(drawn.profile, np.full(400, 0.2), n_spots=30)
    batch = Spots(torch.from_numpy(drawn.section.X.toarray()))
    module.training_step(batch, 0).backward()
    gradient = module.log_factors.grad
    assert gradient is not None
    for g in torch.argsort(-gradient.abs())[:4].tolist():
        ends = []
        for step in (-0.05, 0.05):
            with torch.no_grad():
                module.log_factors.zero_()[g] = step
                ends.append(module.training_step(batch, 0).item())
        np.testing.assert_allclose((ends[1] - ends[0]) / 0.1, gradient[g].item(), rtol=0.1)


def test_minibatches_teach_the_factors(draw: Any) -> None:
    from sclm.training import CellDataModule, fit

    drawn = draw(spots=400, platform=0.5, dispersion=0.1)
    counts = drawn.section.X[::2]
    module = CountModule(drawn.profile, np.full(400, 0.1), n_spots=200, learning_rate=0.05)
    data = CellDataModule(named(counts), encode, batch_size=50, validation=0.0)
    report = fit(
        module, data, max_epochs=20, precision="32-true", gradient_clip=0, progress_bar=False, accelerator="cpu"
    )
    losses = report.history["training_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 10
    found, true = module.log_factors.detach().numpy(), np.log(drawn.factor[0])
    assert np.corrcoef(found, true)[0, 1] > 0.97
    formula = platform_factors(counts, drawn.profile, np.full(400, 1e6), np.full(400, 0.1), sd=0.5, passes=5)
    assert np.corrcoef(found, np.log(formula))[0, 1] > 0.98


def test_only_factors_are_learnt(drawn: Drawn) -> None:
    module = CountModule(drawn.profile, np.full(400, 0.3))
    assert [name for name, _ in module.named_parameters()] == ["log_factors"]
    cells = read_cells(drawn.section).read()
    batch = encode(cells, np.random.default_rng(0))
    assert batch.counts.dtype == torch.float32
    np.testing.assert_array_equal(batch.counts.numpy(), cells.counts.toarray())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(drawn: Drawn) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    dispersion = np.full(400, 0.3)
    a = on_best_device(drawn.profile, dispersion).fit(drawn.section.X).abundance
    b = fit_counts(drawn.section.X, drawn.profile, dispersion).abundance
    assert np.abs((a - b) / b.max(axis=1, keepdims=True)).max() < 1e-3
