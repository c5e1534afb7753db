"""The guard flags what it should and leaves real cells alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from sclm.cells import Cells
from sclm.evidence import PlausibilityGuard
from sclm.evidence.bands import DepthBand, Tails
from sclm.evidence.figures import _MITOCHONDRIAL, CHECKS, cell_figures, mitochondrial_genes
from sclm.evidence.markers import N_MARKERS, count_pairs, exclusive_pairs, marker_genes
from sclm.knowledge import GeneIdentifiers

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
N_GENES, N_GROUPS, N_MT = 400, 4, 6
GENES = pd.Index([f"MT-{i}" for i in range(N_MT)] + [f"G{i}" for i in range(N_GENES - N_MT)])


def cells_of(counts: object, genes: pd.Index = GENES) -> Cells:
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    counts.eliminate_zeros()
    return Cells(counts, genes, pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])]))


def profiles() -> np.ndarray:
    """(groups, genes) shares: 12 markers a group, nearly absent elsewhere; 5 % mitochondrial."""
    rng = np.random.default_rng(7)
    base = rng.gamma(0.5, 1.0, N_GENES)
    base[:N_MT] = 0
    share = np.tile(base, (N_GROUPS, 1))
    share[:, 10:58] = 0.01 * base.mean()
    for g in range(N_GROUPS):
        share[g, 10 + 12 * g : 22 + 12 * g] = 4 * base.mean()
    share *= 0.95 / share.sum(axis=1, keepdims=True)
    share[:, :N_MT] = 0.05 / N_MT
    return share


def draw(n: int, seed: int, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Negative-binomial cells of group-dependent depth: dense counts and group codes."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) % N_GROUPS if groups is None else groups
    depth = np.exp(rng.normal(np.log(1200 + 300 * groups), 0.35))
    mean = depth[:, None] * profiles()[groups]
    mean[:, :N_MT] *= rng.gamma(10, 0.1, (n, 1))
    return rng.poisson(mean * rng.gamma(5, 0.2, mean.shape)), groups


@pytest.fixture(scope="module")
def guard() -> PlausibilityGuard:
    counts, groups = draw(2000, 1)
    blocks = [cells_of(counts[i : i + 300]) for i in range(0, 2000, 300)]
    return PlausibilityGuard.fit(blocks, groups, n_groups=N_GROUPS, genes=GENES)


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    return draw(2000, 2)


def test_real_cells_are_flagged_at_the_stated_rate(guard: PlausibilityGuard, held_out: tuple) -> None:
    counts, groups = held_out
    for codes in (groups, np.full(2000, -1)):
        table = guard.check(cells_of(counts), codes)
        assert guard.checks == CHECKS
        # 20 of 2000 expected, thresholds from 2000 cells: 4 standard deviations of the difference are 25
        assert table[list(CHECKS)].sum().between(1, 45).all(), table[list(CHECKS)].sum()
        assert table["implausible"].mean() < 0.075
        assert stats.kstest(table["plausibility"], "uniform").statistic < 0.06
        assert guard.warn(table["implausible"].mean(), 2000) is None
    assert guard.training_rate == pytest.approx(0.045, abs=0.02)


BAD = {
    "doublets": ("exclusive_markers", 0.9),
    "grand mean": ("exclusive_markers", 0.9),
    "shuffled": ("markers", 0.95),
    "other group": ("markers", 0.95),
    "dying": ("mitochondrial", 0.95),
    "shallow": ("library_size", 0.95),
    "deep": ("library_size", 0.95),
    "spread over all genes": ("zero_fraction", 0.95),
    "few genes": ("zero_fraction", 0.95),
    "empty": ("library_size", 1.0),
}


def spoil(kind: str, counts: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    total = counts.sum(axis=1, keepdims=True)
    if kind == "doublets":  # of two groups, at the depth of one
        other = draw(len(counts), 6, groups=(groups + 1) % N_GROUPS)[0]
        return rng.binomial(counts + other, 0.5), groups
    if kind == "grand mean":
        return rng.poisson(total * profiles().mean(axis=0)), groups
    if kind == "shuffled":
        return rng.permuted(counts, axis=1), groups
    if kind == "other group":
        return counts, (groups + 1) % N_GROUPS
    if kind == "dying":
        bad = rng.binomial(counts, 0.7)
        bad[:, :N_MT] += rng.poisson(0.3 * total / N_MT, (len(counts), N_MT))
        return bad, groups
    if kind == "shallow":
        return rng.binomial(counts, 0.15), groups
    if kind == "deep":
        return rng.poisson(7.0 * counts), groups
    if kind == "spread over all genes":
        return rng.poisson(total / N_GENES, counts.shape), groups
    if kind == "few genes":
        return np.where(rng.random(counts.shape) < 0.5, 0, 2 * counts), groups
    return np.zeros_like(counts), groups


@pytest.mark.parametrize("kind", BAD)
def test_the_right_check_fires(guard: PlausibilityGuard, held_out: tuple, kind: str) -> None:
    check, power = BAD[kind]
    counts, groups = spoil(kind, held_out[0][:400], held_out[1][:400])
    table = guard.check(cells_of(counts), groups)
    assert table[check].mean() >= power
    assert (table["implausible"] >= table[check]).all()
    assert table["plausibility"].median() < 0.02
    assert guard.warn(table["implausible"].mean(), len(table)) is not None


def test_without_a_group_mixed_and_shuffled_cells_are_still_seen(guard: PlausibilityGuard, held_out: tuple) -> None:
    for kind, check in (("doublets", "exclusive_markers"), ("shuffled", "markers"), ("dying", "mitochondrial")):
        counts, groups = spoil(kind, held_out[0][:400], held_out[1][:400])
        assert guard.check(cells_of(counts), np.full_like(groups, -1))[check].mean() > 0.8, kind
    other = guard.check(cells_of(held_out[0]), np.full(2000, -1))
    assert other["markers"].mean() < 0.03  # each group fits itself


def test_depth_is_taken_into_account() -> None:
    """Deep cells express more genes and more pairs; none of that is implausible."""
    rng = np.random.default_rng(0)
    groups = np.arange(3000) % N_GROUPS
    depth = 10 ** rng.uniform(2.7, 4.2, 3000)
    leak = 0.97 * profiles() + 0.03 * profiles().mean(axis=0)  # ambient RNA: pairs meet in deep cells
    counts = rng.poisson(depth[:, None] * leak[groups])
    guard = PlausibilityGuard.fit([cells_of(counts[::2])], groups[::2], n_groups=N_GROUPS, genes=GENES)
    table = guard.check(cells_of(counts[1::2]), groups[1::2])
    third = np.digitize(np.log10(depth[1::2]), [3.2, 3.7])
    for check in ("zero_fraction", "exclusive_markers"):
        for part in range(3):
            assert table[check].to_numpy()[third == part].mean() < 0.035, (check, part)
    # The same cell thinned to a tenth is fine; a tenth of the depth with all of its genes is not.
    deep = counts[1::2][third == 2]
    fair, kept = rng.binomial(deep, 0.1), np.minimum(deep, 1) + rng.binomial(deep - np.minimum(deep, 1), 0.02)
    codes = groups[1::2][third == 2]
    assert guard.check(cells_of(fair), codes)["zero_fraction"].mean() < 0.05
    assert guard.check(cells_of(kept), codes)["zero_fraction"].mean() > 0.95


def test_markers_and_pairs_are_those_of_the_simulation(guard: PlausibilityGuard) -> None:
    home = {f"G{10 + 12 * g + i - N_MT}": g for g in range(N_GROUPS) for i in range(12)}
    for g in range(N_GROUPS):
        assert len(guard.markers(g)) == 10
        assert {home[gene] for gene in guard.markers(g)} == {g}
    pairs = guard.exclusive_pairs()
    assert len(pairs) > 100
    assert all(home[a] != home[b] for a, b in pairs)


def test_pairs_agree_with_a_slow_version() -> None:
    counts, groups = draw(300, 3)
    sheet = sparse.csr_matrix(counts.astype(np.float32))
    markers = marker_genes(sheet, groups, N_GROUPS)
    assert markers.shape == (N_GROUPS, N_MARKERS)
    found = {tuple(sorted(p)) for p in exclusive_pairs(sheet, groups, markers).tolist()}
    genes = np.unique(markers[markers >= 0])
    share = np.array([(counts[groups == g] > 0).mean(axis=0) for g in range(N_GROUPS)])
    expected = set()
    for i, a in enumerate(genes):
        for b in genes[i + 1 :]:
            most = max(
                ((counts[groups == g][:, a] > 0) & (counts[groups == g][:, b] > 0)).sum() / ((groups == g).sum() + 10)
                for g in range(N_GROUPS)
            )
            independent = share[:, a].max() * share[:, b].max()
            if share[:, a].argmax() != share[:, b].argmax() and most <= 0.3 * independent and independent >= 0.08:
                expected.add((int(a), int(b)))
    assert found == expected
    number = count_pairs(sheet, np.array(sorted(found)))
    for cell in range(0, 300, 37):
        on = set(np.flatnonzero(counts[cell]))
        partners = [sum(a in p and set(p) <= on for p in found) for a in on]
        assert number[cell] == sum(min(n, 6) for n in partners)


def test_figures_agree_with_dense_arithmetic() -> None:
    counts = draw(50, 4)[0]
    sheet = sparse.csr_matrix(counts.astype(np.float32))
    markers = np.full((N_GROUPS, N_MARKERS), -1)
    markers[0, :3], markers[2, :12] = [12, 15, 11], np.arange(34, 46)
    arrays = {"markers": markers, "pairs": np.zeros((0, 2), int), "mitochondrial": mitochondrial_genes(GENES)}
    figures, depth = cell_figures(sheet, arrays)
    total = counts.sum(axis=1)
    np.testing.assert_allclose(depth, np.log10(total))
    np.testing.assert_allclose(figures["zero_fraction"], np.log10((counts > 0).sum(axis=1)))
    np.testing.assert_allclose(np.sin(figures["mitochondrial"]) ** 2, counts[:, :N_MT].sum(axis=1) / total, atol=1e-6)
    log = np.log1p(1e4 * counts / total[:, None])
    np.testing.assert_allclose(figures["markers"][:, 0], log[:, [11, 12, 15]].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(figures["markers"][:, 2], log[:, 34:44].mean(axis=1), rtol=1e-5)
    assert "exclusive_markers" not in figures


def test_mitochondrial_genes_by_symbol_and_by_ensembl_id() -> None:
    assert GeneIdentifiers.load("human").to_symbol(list(_MITOCHONDRIAL)) == list(_MITOCHONDRIAL.values())
    names = pd.Index(["CD3E", "MT-CO1", "mt-Nd1", "ENSG00000198804.2", "ENSG00000198888", "MTOR", "ENSG00000010610"])
    assert mitochondrial_genes(names).tolist() == [1, 2, 3, 4]


def test_bands_follow_a_known_curve() -> None:
    rng = np.random.default_rng(0)
    groups, x = rng.integers(0, 3, 6000), rng.uniform(2, 5, 6000)
    spread = 0.05 * np.exp(0.3 * (x - 3)) * np.array([1, 2, 1])[groups]
    truth = np.sin(x / 2) + np.array([0.0, 1.0, -0.5])[groups]
    y = truth + spread * rng.normal(size=6000)
    y[::40] += 5  # outliers do not pull
    z = DepthBand.fit(y, x, groups, 3, floor=1e-6).standardise(y, x, groups)
    clean = np.delete(z, np.arange(0, 6000, 40))
    for g in range(3):
        for part in (x < 3, (x >= 3) & (x < 4), x >= 4):
            mine = np.delete((groups == g) & part, np.arange(0, 6000, 40))
            assert abs(np.median(clean[mine])) < 0.3
            assert 0.75 < clean[mine].std() < 1.35


def test_small_groups_lean_on_the_whole() -> None:
    """Three cells that happen to agree do not make a narrow band, and empty groups have the whole's."""
    rng = np.random.default_rng(0)
    y = np.r_[rng.normal(size=500), [0.5, 0.5, 0.5]]
    groups = np.r_[np.arange(500) % 5, [5, 5, 5]]
    band = DepthBand.fit(y, np.zeros(503), groups, 7, floor=1e-6)
    assert band.spread[5] > 0.5
    assert abs(band.offset[5]) < 0.3
    assert band.spread[6] == pytest.approx(1.0, abs=0.2)
    assert band.standardise(np.array([3.0]), np.zeros(1), np.array([6]))[0] == pytest.approx(3.0, abs=0.6)


@pytest.mark.parametrize("n", [150, 20_000])
def test_tails_agree_with_a_normal_distribution(n: int) -> None:
    rng = np.random.default_rng(0)
    tails = Tails.fit(rng.normal(size=n))
    z = np.array([-2.5, -1.0, 0.0, 1.0, 2.5])
    np.testing.assert_allclose(tails.upper(z), stats.norm.sf(z), atol=0.05)
    np.testing.assert_allclose(tails.lower(z), stats.norm.cdf(z), atol=0.05)
    assert 0.001 < tails.both(np.array([2.576]))[0] < 0.03
    far = tails.both(np.array([5.0, 8.0]))
    assert far[1] < far[0] < 1e-3


def test_arrays_come_back_exactly(guard: PlausibilityGuard, held_out: tuple, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = guard.arrays()
    assert {a.dtype.kind for a in arrays.values()} <= {"f", "i"}
    save_file(arrays, tmp_path / "guard.safetensors")
    again = PlausibilityGuard.from_arrays(list(GENES), load_file(tmp_path / "guard.safetensors"))
    counts, groups = held_out
    for codes in (groups, np.full(2000, -1)):
        pd.testing.assert_frame_equal(
            again.check(cells_of(counts), codes), guard.check(cells_of(counts), codes), check_exact=True
        )
    assert again.training_rate == guard.training_rate
    with pytest.raises(ValueError, match="markers, pairs, training_rates missing of 1 found"):
        PlausibilityGuard.from_arrays(GENES, {"rate": np.array([0.01])})


def test_blocks_may_be_a_function_and_the_same_guard_comes_out() -> None:
    counts, groups = draw(300, 8)

    def blocks() -> Iterator[Cells]:
        for i in range(0, 300, 70):
            yield cells_of(counts[i : i + 70])

    one = PlausibilityGuard.fit(blocks, groups, n_groups=N_GROUPS, genes=GENES).arrays()
    two = PlausibilityGuard.fit([cells_of(counts)], groups, n_groups=N_GROUPS, genes=GENES).arrays()
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_what_cannot_be_checked_flags_nothing() -> None:
    """One group, no mitochondrial genes: no markers, no pairs. The other checks work."""
    counts, groups = draw(200, 9)
    names = pd.Index([f"X{i}" for i in range(N_GENES)])
    guard = PlausibilityGuard.fit([cells_of(counts, names)], 0 * groups, n_groups=1, genes=names)
    assert guard.checks == ("library_size", "zero_fraction")
    assert guard.markers(0) == guard.exclusive_pairs() == []
    table = guard.check(cells_of(spoil("shuffled", counts, groups)[0], names), 0 * groups)
    assert not table[["markers", "exclusive_markers", "mitochondrial"]].to_numpy().any()
    assert guard.check(cells_of(7 * counts, names), 0 * groups)["library_size"].mean() > 0.8


def test_empty_groups_and_no_cells(guard: PlausibilityGuard) -> None:
    counts, groups = draw(200, 9)
    wide = PlausibilityGuard.fit([cells_of(counts)], 2 * groups, n_groups=9, genes=GENES)
    assert wide.markers(1) == []
    assert wide.check(cells_of(counts), np.ones(200, int))["implausible"].mean() < 0.25  # judged by the best group
    none = guard.check(cells_of(np.zeros((0, N_GENES))), np.zeros(0, int))
    assert none.shape == (0, 7)
    assert [none[c].dtype for c in none] == [np.dtype(bool)] * 6 + [np.dtype(float)]
    assert guard.summary(none, np.zeros(0, int), list("abcd"))["n_cells"].tolist() == [0]


def test_summary_counts_and_puts_training_beside(guard: PlausibilityGuard, held_out: tuple) -> None:
    counts, groups = held_out
    codes = np.where(np.arange(2000) < 1900, groups, -1)
    codes[codes == 3] = -1
    table = guard.check(cells_of(counts), codes)
    summary = guard.summary(table, codes, ["a/b", "b", "c", "d"])
    assert summary["group"].tolist() == ["a/b", "b", "c", "(whole)", "all"]
    assert summary["n_cells"].tolist() == [475, 475, 475, 575, 2000]
    for row, mine in zip(summary.index, (codes == 0, codes == 1, codes == 2, codes == -1, codes < 9), strict=True):
        for check in (*CHECKS, "implausible"):
            assert summary.loc[row, check] == table[check].to_numpy()[mine].mean()
    assert summary["implausible_training"].iloc[-1] == guard.training_rate
    assert summary["library_size_training"].iloc[:3].mean() == pytest.approx(0.01, abs=0.008)


def test_warning_needs_three_times_the_training_rate_and_enough_cells(guard: PlausibilityGuard) -> None:
    usual = guard.training_rate
    assert guard.warn(2.9 * usual) is None
    message = guard.warn(3.1 * usual)
    assert message is not None
    assert message.startswith(f"{3.1 * usual:.1%} of the cells are implausible, against {usual:.1%}")
    assert guard.warn(0.25, 4) is None  # one of four
    assert guard.warn(0.25, 400) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.zeros(199, int)}, "found 200 cells and 199 codes"),
        ({"groups": np.full(200, 4)}, r"must lie in \[0, 4\), found 4 to 4"),
        ({"groups": np.full(200, -1)}, r"must lie in \[0, 4\), found -1"),
        ({"groups": np.full(200, 0.5)}, "whole numbers"),
        ({"n_groups": 0}, "n_groups 0"),
        ({"genes": GENES[::-1]}, "400 of them shared"),
        ({"rate": 0.5}, r"rate must lie in \(0, 0.2\], found 0.5"),
        ({"empty": True}, "At least 20 training cells with counts are needed to know what is usual, found 0"),
    ],
)
def test_bad_training_cells_are_refused(change: dict, message: str) -> None:
    counts, groups = draw(200, 9)
    if change.pop("empty", False):
        counts = 0 * counts
    arguments = {"groups": groups, "n_groups": N_GROUPS, "genes": GENES, **change}
    with pytest.raises(ValueError, match=message):
        PlausibilityGuard.fit([cells_of(counts)], arguments.pop("groups"), **arguments)


def test_bad_cells_are_refused(guard: PlausibilityGuard) -> None:
    counts, groups = draw(20, 9)
    with pytest.raises(ValueError, match=r"found 20 genes, 20 of them shared\. Use sclm\.cells\.align"):
        guard.check(cells_of(counts[:, :20], GENES[:20]), groups)
    with pytest.raises(ValueError, match=r"found 19 codes for 20 cells"):
        guard.check(cells_of(counts), groups[:19])
    with pytest.raises(ValueError, match=r"\[-1, 4\), found -2"):
        guard.check(cells_of(counts), np.full(20, -2))


@pytest.mark.real
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halves_of_real_blood(seed: int) -> None:
    """Learnt on half of the cells: the other half passes, what is made of it does not."""
    import anndata

    path = DATA / "scrna" / "pbmc3k.h5ad"
    if not path.is_file():
        pytest.skip("SCLM_REAL_DATA holds no scrna/pbmc3k.h5ad")
    adata = anndata.read_h5ad(path)
    types = pd.Categorical(adata.obs["cell_type"].astype(str))
    rng = np.random.default_rng(seed)
    order = rng.permutation(adata.n_obs)
    train, test = np.sort(order[::2]), np.sort(order[1::2])
    x, codes = sparse.csr_matrix(adata.X, dtype=np.float32), np.asarray(types.codes)
    n_groups = len(types.categories)
    guard = PlausibilityGuard.fit(
        [cells_of(x[train], adata.var_names)], codes[train], n_groups=n_groups, genes=adata.var_names
    )
    real = guard.check(cells_of(x[test], adata.var_names), codes[test])
    assert (real[list(CHECKS)].mean() < 0.025).all()
    assert real["implausible"].mean() < 0.07
    assert guard.warn(real["implausible"].mean(), len(real)) is None

    dense = x[test].toarray().astype(int)
    total = dense.sum(axis=1, keepdims=True)
    profile = np.asarray(x[train].sum(axis=0)).ravel()
    flat = guard.check(cells_of(rng.poisson(total * profile / profile.sum()), adata.var_names), codes[test])
    assert flat["exclusive_markers"].mean() > 0.8
    shuffled = guard.check(cells_of(rng.permuted(dense, axis=1), adata.var_names), codes[test])
    assert shuffled["markers"].mean() > 0.9
    # B cells and natural killer cells in one droplet, at the depth of one
    b, nk = (np.flatnonzero(types[test] == name) for name in ("B", "NK"))
    mixed = rng.binomial(dense[rng.choice(b, 100)] + dense[rng.choice(nk, 100)], 0.5)
    assert guard.check(cells_of(mixed, adata.var_names), np.full(100, codes[test][b[0]]))["implausible"].mean() > 0.8
