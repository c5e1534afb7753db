"""Plots of screens in silico and of predicted responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import get, results

if TYPE_CHECKING:
    import anndata
    from matplotlib.axes import Axes

_HIT, _OTHER, _NULL, _AWAY = "#c2410c", "#64748b", "#cbd5e1", "#1d4ed8"
_FLOOR = 1e-12  # p values below are drawn at it
_DIGITS = 3  # effects below 10^-3 are drawn in powers of ten
_FEW = 3  # perturbations that are named where fewer are significant
_LINE = 0.052  # least distance of two labels, as a share of the axis


def perturb(
    adata: anndata.AnnData,
    *,
    key: str = "sclm_perturb",
    by: str | None = None,
    alpha: float = 0.05,
    n_labels: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Volcano of a screen: how far each perturbation moves cells beyond random genes of its abundance, and how surely.

    Parameters
    ----------
    adata
        Screened by :func:`sclm.tl.perturb` with an encoder.
    key
        ``key_added`` of that call.
    by
        ``"goal"``: the shift from the start state to the goal; ``"effect"``: the shift whatever its direction. None: the goal, where there
        is one.
    alpha
        False discovery rate below which a perturbation is coloured.
    n_labels
        Perturbations that are named at most: those below ``alpha``, or the first three.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes: x the effect minus that of random genes, y minus log10 of p. Random genes are drawn too, in light grey, at the p that they have
    among themselves.

    Raises
    ------
    KeyError
        If there is no such result, or it has no goal.
    """
    import matplotlib.pyplot as plt

    table, null, prefix, column = _screen(adata, key, by)
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")[1]
    made = table[table[f"{prefix}p"].notna()]
    x = (made[column] - made[f"{prefix}null_mean"]).to_numpy(dtype=float)
    beyond = null[null[f"{prefix}z"].notna()]
    random = _excess(beyond, table, prefix)
    power = int(np.floor(np.log10(max(float(np.abs(x).max(initial=0)), 1e-300))))
    unit = f" (10$^{{{power}}}$)" if power < -_DIGITS else ""  # in the label, where nothing lies on it
    x, random = (v / 10.0**power if unit else v for v in (x, random))
    y = -np.log10(np.maximum(made[f"{prefix}p"].to_numpy(dtype=float), _FLOOR))
    hit = made[f"{prefix}q"].to_numpy(dtype=float) < alpha
    ax.scatter(random, _null_p(beyond[f"{prefix}z"], prefix), s=10, c=_NULL, label="random genes")
    colours = np.where(hit, np.where(x >= 0, _HIT, _AWAY), _OTHER)
    ax.scatter(x, y, s=22, c=colours, linewidths=0)
    ax.scatter([], [], s=22, c=_OTHER, label="screened")
    if hit.any():
        ax.scatter([], [], s=22, c=_HIT if (x[hit] >= 0).any() else _AWAY, label=f"q < {alpha:g}")
        ax.axhline(float(y[hit].min()), color="#94a3b8", linewidth=0.8, linestyle="--", zorder=0)
    if prefix:
        ax.axvline(0.0, color="#cbd5e1", linewidth=0.8, zorder=0)
    ax.margins(x=0.16, y=0.08)
    ax.set_ylim(bottom=0)
    first = np.argsort(-y, kind="stable")[: min(n_labels, max(int(hit.sum()), _FEW))]
    _name(ax, x[first], y[first], made["perturbation"].to_numpy(dtype=object)[first])
    ax.set(xlabel=_axis(adata, key, prefix, " minus that of random genes") + unit, ylabel="−log10 p")
    ax.set_title(f"{int(hit.sum())} of {len(made)} perturbations at a false discovery rate of {alpha:g}", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def perturb_ranks(
    adata: anndata.AnnData,
    *,
    key: str = "sclm_perturb",
    by: str | None = None,
    alpha: float = 0.05,
    n_labels: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Perturbations of a screen in order of their effect, in spreads of random genes, beside the random genes themselves.

    Parameters
    ----------
    adata
        Screened by :func:`sclm.tl.perturb` with an encoder.
    key
        ``key_added`` of that call.
    by
        As in :func:`perturb`.
    alpha
        False discovery rate below which a perturbation is coloured.
    n_labels
        Perturbations that are named at most: the first ones, and with a goal the last ones; those below ``alpha``, or three.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes: x the rank as a share of the list, y the z. The grey curve are the random genes in their own order.

    Raises
    ------
    KeyError
        If there is no such result, or it has no goal.
    """
    import matplotlib.pyplot as plt

    table, null, prefix, _ = _screen(adata, key, by)
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")[1]
    z = f"{prefix}z"
    made = table[table[z].notna()].sort_values(z, ascending=False, kind="stable")
    y = made[z].to_numpy(dtype=float)
    x = (np.arange(len(y)) + 0.5) / len(y)
    random = np.sort(null[z].dropna().to_numpy(dtype=float))[::-1]
    ax.fill_between(
        [0, 1], *np.quantile(random, [0.025, 0.975]), color="#f1f5f9", zorder=0, label="95 % of random genes"
    )
    ax.plot((np.arange(len(random)) + 0.5) / len(random), random, color="#94a3b8", linewidth=1.2, label="random genes")
    hit = made[f"{prefix}q"].to_numpy(dtype=float) < alpha
    ax.scatter(x, y, s=18, c=np.where(hit, np.where(y >= 0, _HIT, _AWAY), _OTHER), linewidths=0, zorder=3)
    ax.margins(y=0.08)
    names = made["perturbation"].to_numpy(dtype=object)
    first = np.arange(min(n_labels, max(int((hit & (y > 0)).sum()), _FEW), len(y)))
    _column(ax, x[first], y[first], names[first], at=0.24, least=float(np.interp(0.24, x, y)))
    if prefix:
        last = np.setdiff1d(
            np.arange(len(y))[len(y) - min(n_labels, max(int((hit & (y < 0)).sum()), _FEW), len(y)) :], first
        )
        _column(ax, x[last], y[last], names[last], at=0.76, most=float(np.interp(0.76, x, y)))
    ax.set(
        xlim=(-0.02, 1.02), xlabel="rank, as a share of the list", ylabel="z among random genes of the same abundance"
    )
    ax.set_title(_axis(adata, key, prefix, ""), fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def perturb_profiles(
    adata: anndata.AnnData,
    *,
    key: str = "sclm_perturb",
    method: str = "model",
    n_genes: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Predicted changes of the genes that change most, a row a perturbation.

    Parameters
    ----------
    adata
        Predicted by :func:`sclm.tl.perturb` with a model that was trained on a perturbation experiment.
    key
        ``key_added`` of that call.
    method
        ``"model"`` or one of the baselines beside it.
    n_genes
        Genes shown: those with the largest change in any perturbation.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes. Names of perturbations that hold genes without training say so; a star marks those whose profile is implausible.

    Raises
    ------
    KeyError
        If there is no such result or method.
    """
    import matplotlib.pyplot as plt

    change = get.perturb_profiles(adata, method, key=key, delta=True)
    facts = get.perturb(adata, key=key).set_index("perturbation").loc[change.index]
    top = change.abs().max().sort_values(ascending=False, kind="stable").index[:n_genes]
    # Genes that go together stand together: in the order of their first principal component over perturbations.
    centred = change[top].to_numpy() - change[top].to_numpy().mean(axis=0)
    order = (
        np.argsort(np.linalg.svd(centred, full_matrices=False)[2][0]) if len(change) > 1 else np.argsort(-centred[0])
    )
    shown = change[top].iloc[:, order]
    if ax is None:
        size = (3.0 + 0.24 * shown.shape[1], 1.8 + 0.26 * len(shown))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    bound = max(float(np.abs(shown.to_numpy()).max()), 1e-6)
    image = ax.imshow(shown.to_numpy(), cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="change of mean log1p", shrink=0.8)
    names = []
    for name, row in facts.iterrows():
        note = "" if row["standing"] in ("seen", "combination of seen") else f" ({row['standing']})"
        names.append(f"{name}{note}{' *' if bool(row.get('suspect', False)) else ''}")
    ax.set_xticks(range(shown.shape[1]), list(shown.columns), rotation=90, fontsize=8)
    ax.set_yticks(range(len(shown)), names, fontsize=8)
    ax.set_title(f"predicted by {_owner(adata, key) if method == 'model' else method}", fontsize=10)
    return ax


def _screen(adata: anndata.AnnData, key: str, by: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str, str]:
    """Effects, random genes, and the prefix and column of what is drawn."""
    null = get.perturb_null(adata, key=key)  # says so where it is no screen
    table = get.perturb(adata, key=key)
    if by not in (None, "goal", "effect"):
        raise ValueError(f"by must be 'goal', 'effect' or None, found {by!r}.")
    if by == "goal" and "goal_shift" not in table:
        raise KeyError(f"adata.uns[{key!r}] has no goal: pass state_key=, start= and goal= to sclm.tl.perturb.")
    goal = by == "goal" or (by is None and "goal_shift" in table)
    return table, null, *(("goal_", "goal_shift") if goal else ("", "effect"))


def _axis(adata: anndata.AnnData, key: str, prefix: str, end: str) -> str:
    entry = results.read(adata, key, "perturb")
    if not prefix:
        return f"mean shift (1 − cosine){end}"
    states = entry["states"]
    return f"shift from {states['start']} to {states['goal']}{end}"


def _owner(adata: anndata.AnnData, key: str) -> str:
    return str(results.read(adata, key, "perturb")["model"].get("family", "the model"))


def _excess(null: pd.DataFrame, table: pd.DataFrame, prefix: str) -> np.ndarray:
    """Effects of random genes minus what is usual, in the units of the table."""
    sd = float(np.nanmedian(table[f"{prefix}null_sd"]))
    return null[f"{prefix}z"].to_numpy(dtype=float) * sd


def _null_p(z: pd.Series, prefix: str) -> np.ndarray:
    """Minus log10 of the share of random genes at least as extreme."""
    values = z.to_numpy(dtype=float)
    rank = pd.Series(values).rank(ascending=False).to_numpy()
    upper = rank / (len(values) + 1)
    p = np.minimum(1.0, 2 * np.minimum(upper, 1 - upper)) if prefix else upper
    return -np.log10(p)


def _name(ax: Axes, x: np.ndarray, y: np.ndarray, names: np.ndarray) -> None:
    """Names beside points, moved up and down until no two of a side overlap."""
    low, high = ax.get_ylim()
    height = high - low
    middle = float(np.median(ax.get_xlim()))
    for side in (x >= middle, x < middle):
        rows = np.flatnonzero(side)
        for i, at in zip(rows, _apart(y[rows] / height, _LINE) * height, strict=True):
            right = x[i] >= middle
            ax.annotate(
                str(names[i]), (x[i], y[i]), (7 if right else -7, 0), textcoords="offset points",
                ha="left" if right else "right", va="center", fontsize=8, annotation_clip=False,
            ) if abs(at - y[i]) < 1e-9 else ax.annotate(
                str(names[i]), (x[i], y[i]), (x[i] + (0.03 if right else -0.03) * np.ptp(ax.get_xlim()), at),
                ha="left" if right else "right", va="center", fontsize=8, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip


def _column(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    names: np.ndarray,
    *,
    at: float,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Names in a column at ``at`` along the axis, above ``least`` or below ``most``, with lines to their points."""
    if not len(x):
        return
    low, high = ax.get_ylim()
    height = high - low
    levels = _apart(y / height, _LINE) * height
    if least is not None:
        levels += max(0.0, least + 1.5 * _LINE * height - float(levels.min()))
    if most is not None:
        levels -= max(0.0, float(levels.max()) - most + 1.5 * _LINE * height)
    for i, level in enumerate(levels):
        ax.annotate(
            str(names[i]), (x[i], y[i]), (at, level), ha="left" if most is None else "right", va="center", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def _apart(y: np.ndarray, least: float) -> np.ndarray:
    """The same heights, moved as little as it takes to lie ``least`` apart, in their order (pool adjacent violators)."""
    if not len(y):
        return y
    order = np.argsort(y, kind="stable")
    target = y[order] - least * np.arange(len(y))  # must not fall
    blocks: list[list[float]] = []  # [sum, number]
    for value in target:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += number
    fitted: Any = np.concatenate([np.full(int(n), total / n) for total, n in blocks])
    out = np.empty(len(y))
    out[order] = fitted + least * np.arange(len(y))
    return out
