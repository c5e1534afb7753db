"""Fit a PGL model: statistics of the cells, then the network, then calibration of what it writes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells
from sclm.evidence import PlausibilityGuard
from sclm.models.pgl.calibrate import first_dispersion, fit_dispersion, fit_means
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.counts import expected_counts
from sclm.models.pgl.gene_training import Base, train_tokens
from sclm.models.pgl.levels import Levels, depth_values, design_matrix, fit_levels
from sclm.models.pgl.module import LevelData, LevelTable, PGLModule, left_open
from sclm.models.pgl.network import PGLNetwork
from sclm.models.pgl.sampling import training_memberships, write_levels
from sclm.models.pgl.scoring import fit_usual, marginal_log_likelihood
from sclm.models.pgl.statistics import blocks, field_memberships, learn, level_table
from sclm.training import fit

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sclm.cells import CellSource, GeneVocabulary
    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.network import PGLConfig
    from sclm.models.pgl.programmes import Programmes
    from sclm.models.pgl.statistics import Profile, Statistics

logger = logging.getLogger(__name__)

CONTEXT = ("tissue", "disease")
_CALIBRATED = 2_000  # cells whose genes' dispersions are fitted
_SCORED = 1_000  # cells that say which log likelihoods are usual
_MAX_GROUPS = 300  # of the plausibility guard: combinations of metadata where there are fewer, cell types otherwise


class Fitted(NamedTuple):
    """Parts of a model."""

    network: PGLNetwork
    levels: Levels
    profile: Profile
    programmes: Programmes
    loadings: np.ndarray
    dispersion: np.ndarray
    guard: PlausibilityGuard
    groups: np.ndarray  # (n_groups, F) codes of the guard's groups, -1 where a field does not matter
    usual: np.ndarray  # (2, 3) log likelihoods of held-out cells at a depth
    history: dict[str, Any]


def fit_pgl(
    source: CellSource,
    vocabulary: GeneVocabulary,
    conditions: Conditions,
    config: PGLConfig,
    *,
    batch: np.ndarray | None,
    seed: int,
    **training: Any,
) -> Fitted:
    """Everything that :meth:`PGL.fit` learns; ``batch`` (n,) are codes of donors, which are then held out as a whole."""
    codes = conditions.codes(source.obs)
    statistics = learn(source, vocabulary, conditions, codes, config, seed)
    depth, table = level_table(source, vocabulary, conditions, codes, statistics)
    context = np.array([field.name in CONTEXT for field in conditions.fields])
    levels = _levels(conditions, codes, table, context, statistics.rows, config, seed)
    table = table._replace(first=depth_values(levels, depth))
    network = build_network(config, conditions, levels, seed, len(vocabulary))
    held_out = hold_out(statistics.condition, batch, config.validation_share, seed)
    history = _train(network, conditions, config, table, levels, held_out, context, seed, training)
    dispersion = _calibrate(network, conditions, levels, statistics, depth, table, codes, config, seed)
    if config.gene_tokens and config.token_epochs:
        base = Base(
            statistics.profile.log_shares(conditions, statistics.combinations), statistics.condition, depth,
            statistics.loadings, dispersion,
        )  # fmt: skip
        data = LevelData(table, levels, held_out, context, config, seed)
        history |= train_tokens(network, conditions, config, source, vocabulary, data, base, seed=seed, **training)
    groups, group = _groups(conditions, codes)
    names = pd.Index(vocabulary.tokens)
    cells = (Cells(counts, names, source.obs.iloc[rows]) for rows, counts in blocks(source, vocabulary))
    guard = PlausibilityGuard.fit(cells, group, n_groups=len(groups), genes=list(vocabulary.tokens))
    usual = _usual(network, conditions, levels, statistics, dispersion, held_out, seed)
    return Fitted(
        network, levels, statistics.profile, statistics.programmes, statistics.loadings, dispersion, guard, groups, usual,
        history,
    )  # fmt: skip


def build_network(config: PGLConfig, conditions: Conditions, levels: Levels, seed: int, n_genes: int) -> PGLNetwork:
    """A network whose first predictions are training frequencies."""
    counts = [np.asarray(field.n_cells, np.float64) for field in conditions.fields]
    frequencies = tuple(torch.from_numpy(np.log((c + 0.5) / (c + 0.5).sum()).astype(np.float32)) for c in counts)
    return PGLNetwork(config, tuple(field.n_nodes for field in conditions.fields), frequencies, levels, seed, n_genes)


def by_donor(batch: np.ndarray | None) -> bool:
    """Whether whole donors can be held out: of two, each would be half of the cells."""
    return batch is not None and len(np.unique(batch)) > 2


def hold_out(condition: np.ndarray, batch: np.ndarray | None, share: float, seed: int) -> np.ndarray:
    """Rows held out of training: whole donors where there are several, else cells of every condition alike."""
    generator = np.random.default_rng([seed, 7])
    n = condition.size
    if batch is not None and by_donor(batch):
        taken: list[int] = []
        sizes = np.bincount(batch)
        for donor in generator.permutation(len(sizes)):
            if sizes[[*taken, donor]].sum() <= 1.5 * share * n:
                taken.append(int(donor))
        taken = taken or [int(np.argmin(sizes))]  # all are large
        return np.flatnonzero(np.isin(batch, taken))
    order = np.lexsort((generator.random(n), condition))
    step = max(2, round(1 / share)) if share > 0 else n + 1
    return np.sort(order[step // 2 :: step])


def _levels(
    conditions: Conditions,
    codes: np.ndarray,
    table: LevelTable,
    context: np.ndarray,
    rows: np.ndarray,
    config: PGLConfig,
    seed: int,
) -> Levels:
    generator = np.random.default_rng([seed, 1])
    noise = generator.standard_normal(table.mean[rows].shape)
    programmes = table.draw(rows, noise)
    full = codes[rows]
    partial = np.where(left_open(full.shape, generator, context, config), -1, full)
    known, less = (design_matrix(field_memberships(conditions, c)) for c in (full, partial))
    return fit_levels(table.first[rows].astype(np.float64), programmes, known, less, config.n_levels)


def _train(
    network: PGLNetwork,
    conditions: Conditions,
    config: PGLConfig,
    table: LevelTable,
    levels: Levels,
    held_out: np.ndarray,
    context: np.ndarray,
    seed: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Train the network; it keeps its first weights, the guess, where held-out cells are not better explained."""
    data = LevelData(table, levels, held_out, context, config, seed)
    module = PGLModule(network, training_memberships(conditions), config)
    guess = {name: value.clone() for name, value in network.state_dict().items()}
    before = _score(module, data)
    report = fit(module, data, max_epochs=config.max_epochs, patience=config.patience, seed=seed, **training)
    better = not (report.best_score > before)
    if not better:
        network.load_state_dict(guess)
        logger.info("the network explains held-out cells no better than the Gaussian guess, which is kept")
    network.eval()
    return {
        "nats_guess": before,
        "nats_network": float(min(report.best_score, before)),
        "epochs": report.best_epoch if better else 0,
        "stopped": report.stopped,
        "n_held_out": int(held_out.size),
    }


@torch.inference_mode()
def _score(module: PGLModule, data: LevelData) -> float:
    """Nats a held-out cell."""
    module.network.eval()
    parts = [(float(module.loss(batch)), len(batch.bins)) for batch in data.val_dataloader()]
    module.network.train()
    return float(np.average([p[0] for p in parts], weights=[p[1] for p in parts])) if parts else float("nan")


def _calibrate(
    network: PGLNetwork,
    conditions: Conditions,
    levels: Levels,
    statistics: Statistics,
    depth: np.ndarray,
    table: LevelTable,
    codes: np.ndarray,
    config: PGLConfig,
    seed: int,
) -> np.ndarray:
    """Means and dispersions, with levels that the network writes for the cells of the sample."""
    rows = statistics.rows
    n = np.maximum(depth[rows], 1.0)
    first = depth_values(levels, n)
    written = write_levels(network, conditions, codes[rows], first, seed=seed, cells=np.arange(rows.size))[:, 1:]
    profile, which = statistics.profile, statistics.condition[rows]
    design = profile.design(conditions, statistics.combinations)
    totals = np.zeros(statistics.totals.shape)
    n_conditions = len(totals)
    here = np.bincount(which, weights=n, minlength=n_conditions)
    # Conditions without a cell in the sample stay as they are; the others are compared with all their cells.
    all_counts = statistics.totals.sum(axis=1)
    use = here > 0
    totals[use] = statistics.totals[use] * (here[use] / np.maximum(all_counts[use], 1.0))[:, None]
    fit_means(
        totals, design, profile.log_base, profile.log_factors, which, n, written, statistics.loadings,
        pseudocount=config.pseudocount, n_own=len(profile.own),
    )  # fmt: skip
    some = np.sort(np.random.default_rng([seed, 2]).permutation(rows.size)[:_CALIBRATED])
    counts: sp.csc_matrix = statistics.sample[some].tocsc()
    profiles = profile.log_shares(conditions, statistics.combinations)
    generator = np.random.default_rng([seed, 3])
    noise = generator.standard_normal(table.mean[rows[some]].shape).astype(np.float32)
    own = table.draw(rows[some], noise)
    inferred, means = (
        expected_counts(profiles, which[some], n[some], levels_, statistics.loadings)
        for levels_ in (own, written[some])
    )
    return fit_dispersion(first_dispersion(counts, inferred, means), counts, n[some], means)


def _usual(
    network: PGLNetwork,
    conditions: Conditions,
    levels: Levels,
    statistics: Statistics,
    dispersion: np.ndarray,
    held_out: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Usual log likelihoods, from cells that the network did not see where there are enough of them in the sample."""
    rows = np.flatnonzero(np.isin(statistics.rows, held_out))
    if rows.size < 20:
        rows = np.arange(statistics.rows.size)
    rows = np.sort(np.random.default_rng([seed, 4]).permutation(rows)[:_SCORED])
    counts = statistics.sample[rows]
    score, _ = marginal_log_likelihood(
        network, conditions, levels, statistics.programmes,
        statistics.profile.log_shares(conditions, statistics.combinations), statistics.loadings, dispersion, counts,
        statistics.combinations, statistics.condition[statistics.rows[rows]],
    )  # fmt: skip
    return fit_usual(np.asarray(counts.sum(axis=1)).ravel(), score)


def _groups(conditions: Conditions, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of the guard (n_groups, F) and the group of each cell."""
    kept = np.ones(codes.shape[1], bool)
    if len(conditions.combinations) > _MAX_GROUPS:
        names = list(conditions.names)
        kept[:] = False
        kept[names.index("cell_type") if "cell_type" in names else 0] = True
    groups, which, _ = distinct_rows(np.where(kept, codes, -1))
    return groups, which
