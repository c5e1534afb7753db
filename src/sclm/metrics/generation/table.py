"""One table: every metric of generated cells, beside another half of the real cells and naive generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.metrics.generation.floors import FLOORS
from sclm.metrics.generation.measures import GROUPS, Context
from sclm.metrics.generation.pairs import Pair, halves, quota, read_samples, sample

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from sclm.metrics.generation.pairs import Sample


def compare(
    real: AnnData,
    generated: AnnData,
    *,
    label_key: str,
    train: AnnData | None = None,
    condition_key: str | None = None,
    control: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    n_max: int = 2000,
    floors: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare generated with real cells by every metric, between a ceiling and floors.

    As many real as generated cells of each label (and condition, where given) are drawn, so that a different mix of cell
    types is no difference. Values of these metrics depend on space, sample size and depth; what a value is worth shows
    beside the *ceiling*, another half of the real cells, and the *floors*, generators that know nothing but counts of
    single labels or copy.

    Parameters
    ----------
    real
        Held-out real cells with raw counts; cells that the generator has not seen.
    generated
        Generated cells with raw counts.
    label_key
        Column of `.obs` with the cell type, in all; cells without a value are left out.
    train
        The real cells that the generator learned from, with raw counts. They give the spaces, the ceiling (as they stand in
        for generated cells), the floors, and memorisation. Without them the spaces are fitted on `real`, the ceiling is a
        random split of `real` (half the cells, which alone moves metrics that depend on sample size), there are no floors,
        and memorisation cannot be told.
    condition_key
        Column of `.obs` with a condition (disease, treatment) for the effects within labels.
    control
        Value of `condition_key` that the others are compared with; by default each is compared with all others.
    layer
        Layer with raw counts of `real` and `train`, by default `.X`; of `generated` too where it has that layer.
    gene_key
        Column of `.var` with gene names of `real` and `train`, by default `.var_names`; of `generated` too where it has it.
        Genes that all share are compared.
    n_max
        Most cells drawn of each side, at least 20.
    floors
        Whether to make the floors, each of which takes as long as the generated cells.
    seed
        Of every draw.

    Returns
    -------
    pandas.DataFrame
        One row a metric: metric, space (what it is computed in), value, ideal, ceiling; with `train` and `floors` also
        poisson (independent Poisson draws for each label), mean_of_5 (a multinomial around the mean of five cells of the
        label) and copies (training cells resampled: the cheat that all but memorisation miss); n_real, n_generated (cells
        drawn), n_ceiling (cells of each side there), seed, note (why a value is missing). Four significant figures.

        Genes: `depth_ratio`, `nnz_ratio`, `mean_*`, `var_*`, `zero_*` (see `moments`), `genegene_r` (see
        `gene_correlation`), `genegene_label_r` (mean over labels). Distances: `mmd_mix` (widths 0.01 to 100), `mmd_median`,
        `mmd_linear`, `sliced_w2`, `w1`, `w2`, `gene_w1`, `energy`, `energy_label` (mean over labels), `frechet`.
        Classifiers, AUC: `c2st_lr`, `c2st_gb` (with depth and number of genes), `c2st_knn`, `c2st_rf`. Mixing: `mixing`,
        `ilisi`, `real_neighbours`. Labels: `tstr` (train on generated, test on real), `pknn` (train on real, test on
        generated: 15 neighbours), `sknn` (`label_homogeneity`); the ideal of the last two is the value of the real cells
        among themselves, and above it types are told apart better than they should. Manifolds: `precision`,
        `recall`, `density`, `coverage`. Differences: `de_*` (see `differential_recovery`), `lfc_*` (see
        `fold_change_agreement`; a label against all others, mean over labels of at least 20 cells), `condition_lfc_*` and
        `perturbation_r` (within labels, mean). Memorisation: `nn_ratio`, `copied_share`, `train_heldout_ratio`; their
        ceiling compares two halves of `real`.

    Raises
    ------
    ValueError
        If few genes or no labels are shared, values are no raw counts, or `n_max` is below 20.
    KeyError
        If a column or layer is missing.

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> table = sclm.metrics.generation.compare(cells[::2], cells[1::2], label_key="cell_type", n_max=60)
    >>> row = table.set_index("metric").loc["depth_ratio"]
    >>> row["space"], bool(0.8 < row["value"] < 1.2)
    ('counts', True)
    """
    from threadpoolctl import threadpool_limits

    if n_max < 20:
        raise ValueError(f"n_max must be at least 20, found {n_max}.")
    given = {"real": real, "generated": generated} | ({} if train is None else {"train": train})
    samples, _ = read_samples(given, label_key=label_key, condition_key=condition_key, layer=layer, gene_key=gene_key)
    held_out, made, learned = samples["real"], samples["generated"], samples.get("train")
    _check_control(held_out, condition_key, control)
    wanted = quota(held_out, made, n_max)
    if not wanted:
        raise ValueError(_nothing_shared(held_out, made, label_key, condition_key))
    context = Context(learned, control, seed)

    # one thread: the same figures on every machine, and no waiting for others on a shared one
    with threadpool_limits(1):
        columns = _columns(held_out, made, learned, wanted, context, floors)
    return _table(columns, seed)


def _columns(
    held_out: Sample, made: Sample, learned: Sample | None, wanted: dict[str, int], context: Context, floors: bool
) -> dict[str, _Column]:
    seed = context.seed
    columns = {"value": _measure(Pair(held_out, made, wanted, seed=seed), context)}
    split = Pair(*halves(held_out, seed), wanted, seed=seed)
    if learned is None:
        return columns | {"ceiling": _measure(split, context)}
    columns["ceiling"] = _measure(Pair(held_out, learned, wanted, seed=seed), context, split=split)
    return columns | _floors(held_out, learned, wanted, context) if floors else columns


class _Column(NamedTuple):
    figures: dict[str, float]
    notes: dict[str, str]
    spaces: dict[str, str]
    ideals: dict[str, float]
    n: int


def _measure(pair: Pair, context: Context, split: Pair | None = None) -> _Column:
    """Every metric of one pair; memorisation of `split` instead where given."""
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    spaces: dict[str, str] = {}
    ideals: dict[str, float] = {}
    for group in GROUPS:
        chosen = split if split is not None and group.of_unseen_cells else pair
        found = group.measure(chosen, context) if chosen.n else "no cells of a shared label"
        for metric, ideal in group.ideals.items():
            spaces[metric] = group.space(metric, context)
            if isinstance(found, str):
                values[metric], notes[metric], ideals[metric] = float("nan"), found, ideal
                continue
            values[metric] = found.get(metric, float("nan"))
            ideals[metric] = found.get(f"{metric} ideal", ideal)
            if not np.isfinite(values[metric]):
                notes[metric] = "undefined for these cells"
    return _Column(values, notes, spaces, ideals, pair.n)


def _floors(held_out: Sample, learned: Sample, wanted: dict[str, int], context: Context) -> dict[str, _Column]:
    """A column for each naive generator, which writes as many cells of each group as `wanted` says.

    Groups without a training cell stay out; the real cells of those groups then do too.
    """
    known = [(group, n) for group, n in wanted.items() if (learned.group == group).any()]
    groups = np.array([group for group, n in known for _ in range(n)], dtype=str)
    columns = {}
    for name, generator in FLOORS.items():
        made = learned.take(np.zeros(0, np.int64))
        if len(groups):
            counts = generator(learned.counts, learned.group, groups, seed=context.seed)
            # every group has a training cell to take its label and condition from
            example = [int(np.flatnonzero(learned.group == group)[0]) for group in groups]
            condition = None if learned.condition is None else learned.condition[example]
            made = sample(counts, learned.label[example], condition)
        columns[name] = _measure(Pair(held_out, made, wanted, seed=context.seed), context)
    return columns


def _table(columns: dict[str, _Column], seed: int) -> pd.DataFrame:
    import pandas as pd

    value = columns["value"]
    rows = []
    for metric in value.figures:
        row: dict[str, object] = {
            "metric": metric,
            "space": value.spaces[metric],
            "value": _round(value.figures[metric]),
        }
        row["ideal"] = _round(value.ideals[metric])
        row |= {name: _round(column.figures[metric]) for name, column in columns.items() if name != "value"}
        row |= {"n_real": value.n, "n_generated": value.n, "n_ceiling": columns["ceiling"].n, "seed": seed}
        own = value.notes.get(metric, "")
        others = [
            f"{n}: {c.notes[metric]}" for n, c in columns.items() if n != "value" and c.notes.get(metric, own) != own
        ]
        row["note"] = "; ".join(filter(None, [own, *others]))
        rows.append(row)
    return pd.DataFrame(rows)


def _round(value: float) -> float:
    """Four significant figures: more is noise, and the table stays readable."""
    return float(f"{value:.4g}")


def _check_control(real: Sample, condition_key: str | None, control: str | None) -> None:
    if control is None:
        return
    if real.condition is None:
        raise ValueError(f"control={control!r} needs condition_key=, the column of .obs that it is a value of.")
    there = sorted(map(str, set(real.condition)))
    if control not in there:
        shown = ", ".join(map(repr, there[:10]))
        raise ValueError(f"control must be a value of real.obs[{condition_key!r}] ({shown}), found {control!r}.")


def _nothing_shared(real: Sample, other: Sample, label_key: str, condition_key: str | None) -> str:
    keys = repr(label_key) if condition_key is None else f"{label_key!r} and {condition_key!r}"
    a, b = (", ".join(repr(str(g).replace("\x1f", " / ")) for g in sorted(set(s.group))[:5]) for s in (real, other))
    return f"real and generated cells must share values of {keys}, found none: real {a} …, generated {b} …. Rename one side."
