"""What every family that translates RNA into proteins shares: targets, the held-out cells, and how far it is to be trusted.

Legend of shapes: n cells · P proteins · M methods, the model itself and then the baselines.
"""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.cells import log_normalise
from sclm.cells.proteins import scale_proteins, usual_scale
from sclm.evidence.protein_baselines import MeanFit, OwnGeneFit, RidgeFit
from sclm.knowledge.proteins import antibody, match_proteins
from sclm.metrics import translation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from sclm.cells import GeneVocabulary
    from sclm.cells.proteins import Proteins

logger = logging.getLogger(__name__)

BASELINES = ("ridge-protein", "own-gene", "mean-protein")
LEVEL = 0.9  # of prediction intervals
TARGET_SUM = 1e4
_HELD_OUT_SHARE, _HELD_OUT_CELLS = 0.2, 2_000
_FEWEST_CELLS = 20
_SURE = 50  # held-out cells below which an expectation is hardly one


class Targets(NamedTuple):
    """Proteins to learn, of all cells of a source."""

    names: tuple[str, ...]
    scale: str
    values: np.ndarray  # (n, P) float32, scaled, NaN where not measured
    use: np.ndarray  # (n,) bool: cells with proteins
    held_out: np.ndarray  # (n,) bool, among them: for the expectation, never trained on
    by_batch: bool  # whether whole batches were held out


class Expectation(NamedTuple):
    """How well a model and the baselines predicted cells that none of them was trained on."""

    correlation: np.ndarray  # (M, P) float32 Pearson across held-out cells, NaN where it is not defined
    rmse: np.ndarray  # (M, P) float32
    half_width: np.ndarray  # (P,) float32: half width of the model's 90 % prediction interval
    n_cells: np.ndarray  # (P,) int32 held-out cells in which the protein was measured

    @classmethod
    def measure(cls, truth: np.ndarray, predicted: np.ndarray, baselines: Sequence[np.ndarray]) -> Expectation:
        """From held-out cells, (n, P) each; `baselines` in the order of :data:`BASELINES`.

        The interval is that of split conformal prediction (Lei et al., 2018): the absolute residual of rank
        ⌈(n + 1) · 0.9⌉ among n held-out cells, infinite where there are fewer than nine.
        """
        methods = [predicted, *baselines]
        residual = np.sort(np.abs(truth - predicted), axis=0)  # NaN last
        n = np.isfinite(residual).sum(axis=0)
        rank = np.ceil((n + 1) * LEVEL).astype(int)
        width = np.where(
            rank <= n, residual[np.clip(rank, 1, max(len(residual), 1)) - 1, np.arange(residual.shape[1])], np.inf
        )
        return cls(
            np.array([translation.pearson(truth, p) for p in methods], dtype=np.float32),
            np.array([translation.rmse(truth, p) for p in methods], dtype=np.float32),
            width.astype(np.float32),
            n.astype(np.int32),
        )

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """One row a protein, beside the baselines.

        Columns: ``protein``, ``genes``, ``n_cells``, ``correlation``, ``rmse``, ``half_width_90``, and for each baseline (``ridge``,
        ``own_gene``, ``mean``) ``correlation_<baseline>`` and ``rmse_<baseline>``.
        """
        found: dict[str, Any] = {
            "protein": list(names),
            "genes": ["+".join(antibody(name).genes) for name in names],
            "n_cells": self.n_cells,
            "correlation": self.correlation[0],
            "rmse": self.rmse[0],
            "half_width_90": self.half_width,
        }
        for m, baseline in enumerate(BASELINES, 1):
            short = baseline.removesuffix("-protein").replace("-", "_")
            found[f"correlation_{short}"], found[f"rmse_{short}"] = self.correlation[m], self.rmse[m]
        return pd.DataFrame(found)

    def card(self, targets: Targets, seed: int) -> dict[str, Any]:
        """Facts of a model's card: the split, and the mean correlation beside the baselines'."""
        # A prediction that says the same of every cell counts as 0 where another method shows that the protein varies.
        varies = np.isfinite(self.correlation).any(axis=0)
        means = [_mean(np.nan_to_num(row[varies])) for row in self.correlation]
        held = f"{int(targets.held_out.sum()):,} cells held out for the expectation"
        facts: dict[str, Any] = {
            "split": held + (", by whole batches" if targets.by_batch else ", drawn at random"),
            "scale": targets.scale,
            "held out correlation": _written(means[0]),
        }
        for baseline, value in zip(BASELINES, means[1:], strict=True):
            facts[f"held out correlation of {baseline}"] = _written(value)
        errors = [_mean(row) for row in self.rmse]
        facts["held out rmse"] = f"{errors[0]:.3f}"
        facts["held out rmse of mean-protein"] = f"{errors[-1]:.3f}"
        facts["seed"] = seed
        return facts | {
            "limits": "Predicts the proteins of its panel for cells like its training cells. The interval is calibrated for such cells "
            "only: another donor, tissue or protocol has wider errors."
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, for a checkpoint."""
        return {f"expected.{name}": array for name, array in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Expectation:
        """The inverse of :meth:`arrays`; other arrays are left alone."""
        return cls(*(arrays[f"expected.{name}"] for name in cls._fields))


def prepare_targets(
    proteins: Proteins | None, n_cells: int, family: str, *, scale: str, batches: np.ndarray | None, seed: int
) -> Targets:
    """Scale the proteins and choose the cells that are held out.

    Parameters
    ----------
    proteins
        What :func:`sclm.cells.proteins.read_proteins` gave.
    n_cells
        Of the source that they belong to.
    family
        For messages.
    scale
        As :func:`~sclm.cells.proteins.scale_proteins` takes it, or ``"auto"``: ``"clr"`` for counts, else ``"given"``.
    batches
        (n,) donor or batch: whole batches are held out where there are at least three.
    seed
        Of the split.

    Raises
    ------
    TypeError
        If there are no proteins.
    ValueError
        If there are too few cells with proteins.
    """
    if proteins is None:
        raise TypeError(
            f"{family!r} needs protein_key=: the key of .obsm with the proteins, or the modality of a MuData that holds them."
        )
    if len(proteins.values) != n_cells:
        raise ValueError(f"proteins must have one row a cell, {n_cells:,}, found {len(proteins.values):,}.")
    scale = usual_scale(proteins.values) if scale == "auto" else scale
    kept = np.isfinite(proteins.values).any(axis=0)
    if not kept.all():
        left = [n for n, k in zip(proteins.names, kept, strict=True) if not k]
        logger.warning("%d proteins were measured in no cell and are left out: %s", len(left), ", ".join(left[:5]))
    values = scale_proteins(proteins.values[:, kept], scale)
    use = np.isfinite(values).any(axis=1)
    if use.sum() < _FEWEST_CELLS or not kept.any():
        raise ValueError(
            f"{family!r} needs at least {_FEWEST_CELLS} cells with proteins to learn from, found {int(use.sum())} of {n_cells:,} in "
            f"{proteins.slot}."
        )
    held, by_batch = _hold_out(use, batches, seed)
    if held.sum() < _SURE:
        logger.warning(
            "only %d cells are held out: the expected correlations and intervals are rough.", int(held.sum())
        )
    names = tuple(n for n, k in zip(proteins.names, kept, strict=True) if k)
    return Targets(names, scale, values, use, held, by_batch)


def baseline_predictions(
    vocabulary: GeneVocabulary,
    training: sp.csr_matrix,
    targets: np.ndarray,
    held_out: sp.csr_matrix,
    names: Sequence[str],
    *,
    seed: int,
) -> list[np.ndarray]:
    """What the baselines, learnt from the training cells, say of the held-out ones, in the order of :data:`BASELINES`.

    Parameters
    ----------
    vocabulary
        Genes of the columns.
    training, held_out
        Log-normalised counts.
    targets
        (n_training, P) proteins of the training cells.
    names
        Of the proteins.
    seed
        Of the components.
    """
    columns = own_columns(names, vocabulary)
    return [
        RidgeFit.learn(training, targets, seed=seed).predict(held_out),
        OwnGeneFit.learn(training, targets, columns).predict(held_out),
        MeanFit.learn(targets).predict(held_out.shape[0]),
    ]


def own_columns(names: Sequence[str], vocabulary: GeneVocabulary) -> list[list[int]]:
    """Columns of the genes that encode each protein, [] where the vocabulary has none."""
    genes = [antibody(name).genes for name in names]
    asked = sorted({g for found in genes for g in found})
    place = dict(zip(asked, vocabulary.match(asked).ids.tolist(), strict=True)) if asked else {}
    return [[place[g] for g in found if place[g] >= 0] for found in genes]


def lognormal(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Log-normalised counts as all translators read them: 10,000 counts a cell."""
    return log_normalise(counts, TARGET_SUM)


def choose_proteins(asked: Sequence[str] | None, known: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names as they are to be written, and their places in the panel.

    Parameters
    ----------
    asked
        Names, in any spelling that :func:`sclm.knowledge.proteins.match_proteins` understands; None for the whole panel.
    known
        The panel.

    Raises
    ------
    KeyError
        If the panel lacks one; names near ones.
    ValueError
        If the list is empty or names one twice.
    """
    if asked is None:
        return list(known), np.arange(len(known))
    asked = [asked] if isinstance(asked, str) else [str(name) for name in asked]
    if not asked or len(set(asked)) < len(asked):
        raise ValueError(f"proteins must name at least one protein, each once, found {asked}.")
    places = match_proteins(asked, known)
    if (places < 0).any():
        name = asked[int(np.flatnonzero(places < 0)[0])]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:8]
        raise KeyError(
            f"the model does not know the protein {name!r}, or knows it twice; it knows {len(known)}, among them "
            f"{', '.join(map(repr, near))}."
        )
    return asked, places


def _hold_out(use: np.ndarray, batches: np.ndarray | None, seed: int) -> tuple[np.ndarray, bool]:
    """(n,) bool, about a fifth of the cells; whether these are whole batches."""
    generator = np.random.default_rng([seed, 11])
    rows = np.flatnonzero(use)
    wanted = min(_HELD_OUT_SHARE * rows.size, _HELD_OUT_CELLS)
    held = np.zeros(len(use), dtype=bool)
    codes = None if batches is None else pd.factorize(np.asarray(batches, dtype=object)[rows])[0]
    if codes is not None and codes.max() >= 2:
        taken, sizes = 0, np.bincount(codes)
        for batch in generator.permutation(len(sizes)):
            if abs(taken + sizes[batch] - wanted) < abs(taken - wanted):
                held[rows[codes == batch]] = True
                taken += int(sizes[batch])
        if not taken:
            held[rows[codes == int(sizes.argmin())]] = True
        return held, True
    held[generator.permutation(rows)[: max(1, round(wanted))]] = True
    return held, False


def _written(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "not defined: no protein varies"


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
