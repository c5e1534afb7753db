"""Nulls of shuffled labels on real knock-outs: non-targeting guides have uniform p, targets with known effects come first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sclm.cells import log_normalise, read_cells
from sclm.evidence import benjamini_hochberg, mean_shift_test

# Interferon-gamma response of these stimulated cells, and other targets with effects in the literature; not from these cells.
KNOWN = {
    "IFNGR1", "IFNGR2", "JAK2", "STAT1", "STAT2", "IRF1", "CUL3", "BRD4", "SPI1", "MYC", "CMTM6", "SMAD4", "NFKBIA",
}  # fmt: skip


@pytest.fixture(scope="module")
def knock_outs() -> Any:
    import anndata

    folder = os.environ.get("SCLM_REAL_DATA")
    path = Path(folder or "") / "perturb" / "thp1_eccite_papalexi299.h5ad"
    if not folder or not path.is_file():
        pytest.skip("set SCLM_REAL_DATA to the folder of the real data")
    return anndata.read_h5ad(path)


@pytest.mark.real
def test_non_targeting_guides_have_uniform_p(knock_outs: Any) -> None:
    control = knock_outs[(knock_outs.obs["target"] == "non-targeting").to_numpy()]
    points = log_normalise(read_cells(control).read().counts).toarray()
    guide, replicate = (control.obs[c].astype(str).to_numpy() for c in ("guide", "bio_rep"))
    p = []
    for part in sorted(set(replicate)):
        here = replicate == part
        names = [name for name in sorted(set(guide[here])) if (guide[here] == name).sum() >= 10]
        p += [mean_shift_test(points[here], guide[here] == name, n_permutations=199).p for name in names]
    assert len(p) >= 20
    assert stats.kstest(p, "uniform").pvalue > 0.05


@pytest.mark.real
def test_known_effects_come_first(knock_outs: Any) -> None:
    target, replicate = (knock_outs.obs[c].astype(str).to_numpy() for c in ("target", "bio_rep"))
    rng = np.random.default_rng(0)
    names = sorted(set(target) - {"non-targeting", "nan"})
    z, p = [], []
    for name in names:
        rows = np.flatnonzero(target == name)
        rows = rng.permutation(rows)[:200]  # alike in number, so that z is alike in power
        control = rng.permutation(np.flatnonzero(target == "non-targeting"))[:1000]
        used = np.concatenate([rows, control])
        points = log_normalise(read_cells(knock_outs[used]).read().counts).toarray()
        test = mean_shift_test(points, np.arange(len(used)) < len(rows), strata=replicate[used], n_permutations=199)
        z.append((test.statistic - test.null.mean()) / test.null.std())
        p.append(test.p)
    known = np.array([name in KNOWN for name in names])
    above = np.array([[a > b for b in np.array(z)[~known]] for a in np.array(z)[known]])
    assert above.mean() > 0.8  # area under the ROC curve
    q = benjamini_hochberg(p)
    assert (q[known] < 0.05).mean() > 0.5
    assert (q[np.isin(names, ["IFNGR1", "IFNGR2", "STAT1"])] < 0.05).all()
