"""The chapter on generation: cells written from metadata, beside real ones that the model has not seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm import cells as blocks
from sclm import get, models, pl, tl
from sclm.metrics import generation
from sclm.report import html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

FIELDS = ("tissue", "disease", "cell_type")
_PRESET = "small"
_MAX_EPOCHS: int | None = None  # of the preset
_N_ASKED = 120  # cells of each further request
_N_COMPARED = 2000  # most cells of a side
_GENERAL, _UNSEEN = "T cell", "memory B cell"  # neither is a label of the training cells
# Rows of the printed table: what each measures, and whether near 1, 0, one half or the real cells' own value is best.
_ROWS = {
    "zero_rmse": "zeros of genes: error of their share",
    "genegene_label_r": "gene-gene correlations within cell types: r",
    "energy": "energy distance",
    "c2st_rf": "told from real cells by a random forest: AUC",
    "c2st_knn": "told from real cells by neighbours: AUC",
    "mixing": "mixing with real cells among neighbours",
    "tstr": "classifier trained on them, accuracy on real cells",
    "de_f1_100": "marker genes of cell types: F1 of the first 100",
    "copied_share": "share nearly identical with a training cell",
}
_COLUMNS = {
    "value": "written",
    "ideal": "ideal",
    "ceiling": "other real cells",
    "poisson": "Poisson",
    "mean_of_5": "mean of 5",
}


class Written(NamedTuple):
    """The chapter, the files that belong to it, the full table of metrics, and what it was made with."""

    chapter: html.Chapter
    files: dict[str, Path]
    table: pd.DataFrame
    model: Any
    train: anndata.AnnData
    held_out: anndata.AnnData


def write_cells(adata: anndata.AnnData, out: Path, *, seed: int, say: Callable[[str], None]) -> Written:
    """Train a generator on half of the cells, write as many as the other half holds, and compare.

    Parameters
    ----------
    adata
        Real cells with raw counts and the fields ``tissue``, ``disease`` and ``cell_type``.
    out
        Folder to write to.
    seed
        Of the halves, of training and of what is written.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter, files and table.
    """
    train, held_out = halves(adata, seed)
    say(f"a generator (pgl, preset {_PRESET}) learns to write cells from {', '.join(FIELDS)}: {train.n_obs} cells …")
    start = time.perf_counter()
    options: dict[str, Any] = {} if _MAX_EPOCHS is None else {"max_epochs": _MAX_EPOCHS}
    model = models.train("pgl", train, obs_keys=list(FIELDS), preset=_PRESET, progress_bar=False, seed=seed, **options)
    seconds = {"train": time.perf_counter() - start}
    say(f"trained in {seconds['train']:.0f} s, {model.card['epochs']} epochs kept")

    start = time.perf_counter()
    written = tl.generate(tl.request(like=held_out.obs[list(FIELDS)]), model, seed=seed)
    seconds["write"] = time.perf_counter() - start
    say(
        f"wrote {written.n_obs} cells × {written.n_vars} genes in {seconds['write']:.1f} s; comparing with the other half …"
    )
    table = generation.compare(held_out, written, label_key="cell_type", train=train, n_max=_N_COMPARED, seed=seed)
    short = shortened(table)
    say("\n" + short.round(3).to_string() + "\n")

    files = {"generated": out / "pbmc68k_generated.h5ad", "generation": out / "generation.csv"}
    written.write_h5ad(files["generated"])
    table.to_csv(files["generation"], index=False)
    blocks_of_text = [
        *_how(model, train, held_out, seconds),
        *_compared(short),
        *_drawn(written, held_out, out / "figures", seed),
        *_plausible(written),
        *_asked(model, seed),
        *_scored(model, held_out, written, seed),
        html.code(
            'model = sclm.train("pgl", adata, obs_keys=["tissue", "disease", "cell_type"])\n'
            'cells = sclm.tl.generate(sclm.request(500, tissue="blood", cell_type="B cell"), model)\n'
            "sclm.pl.generate(cells, real)\n"
            'sclm.metrics.generation.compare(real, cells, label_key="cell_type", train=adata)'
        ),
    ]
    return Written(html.Chapter("Cells written from metadata", blocks_of_text), files, table, model, train, held_out)


def halves(adata: anndata.AnnData, seed: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Two halves with the same share of each cell type: to train on, and to compare with."""
    rng = np.random.default_rng([seed, 11])
    types = adata.obs["cell_type"].astype(str).to_numpy()
    first = np.zeros(adata.n_obs, dtype=bool)
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        first[rng.choice(cells, len(cells) // 2, replace=False)] = True
    return adata[first].copy(), adata[~first].copy()


def shortened(table: pd.DataFrame) -> pd.DataFrame:
    """A few rows of the table of metrics under names that say what they are."""
    rows = table.set_index("metric").loc[list(_ROWS), list(_COLUMNS)].rename(index=_ROWS, columns=_COLUMNS)
    return rows.rename_axis("metric")


# Parts of the chapter -----------------------------------------------------------------------------------------------


def _how(model: Any, train: anndata.AnnData, held_out: anndata.AnnData, seconds: dict[str, float]) -> list[str]:
    card = model.card
    return [
        html.text(
            f"`pgl` learnt from {train.n_obs} of the cells in {seconds['train']:.0f} seconds on this machine and then wrote "
            f"{held_out.n_obs} cells of {held_out.n_vars} genes in {seconds['write']:.1f} seconds (the first call compiles), with "
            "the tissues, diseases and cell types of the other half and nothing else of theirs: counts, depths and genes come from the model. It is "
            "a re-implementation in the style of Portraying Gene Language (Choi et al. 2026), from its public description."
        ),
        html.text(
            f"On cells held out of training the transformer needs {card['held out nats a cell']} nats to say a cell's depth "
            f"and programmes, the Gaussian guess that it starts from {card['held out nats a cell of the Gaussian guess']}: "
            "the difference is what the network adds to its statistics. What 765 variable genes of one donor can "
            "show is that counts, types and figures fit together. They cannot show whole transcriptomes, rare genes, "
            "differences between donors or diseases, and a type of four training cells hardly at all."
        ),
    ]


def _compared(short: pd.DataFrame) -> list[str]:
    judged = short.drop(index=_ROWS["copied_share"])  # where less is no fault
    gap = judged.sub(judged["ideal"], axis=0).abs()
    nearer = {floor: int((gap["written"] < gap[floor]).sum()) for floor in ("Poisson", "mean of 5")}
    return [
        html.table(short),
        html.text(
            "`other real cells` is the half that the model learnt from, taken for written cells: what a perfect generator "
            "would reach. `Poisson` draws each gene for itself around the mean of the cell type, `mean of 5` draws around the "
            f"mean of five training cells. In {nearer['Poisson']} of the first {len(judged)} rows the written cells lie nearer "
            f"to the ideal than Poisson draws, in {nearer['mean of 5']} nearer than the mean of five; what is left to gain shows "
            "in the column of other real cells. Training cells that are simply copied would look perfect in every row but the last. All "
            "metrics are in `generation.csv`."
        ),
    ]


def _drawn(written: anndata.AnnData, held_out: anndata.AnnData, folder: Path, seed: int) -> list[str]:
    axes = pl.generate(written, held_out, label_key="cell_type", seed=seed)
    figure = axes[0].figure
    while hasattr(figure, "get_figure") and figure.get_figure() is not figure and figure.get_figure() is not None:
        figure = figure.get_figure()
    caption = (
        "Written and held-out real cells: joint UMAP by origin and by cell type, variance and zeros of each gene against its "
        "mean, and markers of the real cells in both."
    )
    return [html.figure(figure, caption, folder / "generated.png")]


def _plausible(written: anndata.AnnData) -> list[str]:
    table = get.generate_plausibility(written).set_index("group")
    shown = pd.DataFrame(
        {
            "cells": table["n_cells"].astype(int),
            "implausible": table["implausible"].astype(float),
            "of training cells": table["implausible_training"].astype(float),
        }
    )
    first = shown.index.str.removeprefix("blood + normal + ")
    shown.index = pd.Index(first, name="written as")
    return [
        html.text(
            "Every written cell is compared with training cells of its kind at its depth: library size, number of genes, "
            "markers of its type, pairs of genes that real cells hardly ever express together, mitochondrial share. "
            f"{shown['implausible'].iloc[-1]:.1%} are more unusual than 99 % of training cells in at least one of these, "
            f"against {shown['of training cells'].iloc[-1]:.1%} of training cells judged in the same way. The check sees a "
            "cell that no real one resembles; it does not see whether written cells differ from each other as real ones do."
        ),
        html.table(shown, decimals={"implausible": 3, "of training cells": 3}),
    ]


def _asked(model: Any, seed: int) -> list[str]:
    general = tl.generate(tl.request(_N_ASKED, cell_type=_GENERAL), model, seed=seed)
    unseen = tl.generate(tl.request(_N_ASKED, cell_type=_UNSEEN), model, seed=seed)
    kinds = general.obs["cell_type_written"].astype(str).value_counts()
    warnings = [str(warning) for warning in unseen.uns["sclm_generate"]["warnings"]]
    return [
        html.text(
            f"No training cell is labelled `{_GENERAL}`, but several kinds of T cell are there: {_N_ASKED} cells are written "
            f"as {len(kinds)} kinds in the shares that the model learnt."
        ),
        html.table(
            pd.DataFrame({"cells": kinds.to_numpy()}, index=pd.Index(kinds.index, name=f"{_GENERAL}, written as"))
        ),
        html.text(
            f"No training cell is a `{_UNSEEN}` or any kind of one. {_N_ASKED} such cells come with warnings; they are no more "
            "than what they are written as. A term without relation to the training data is refused."
        ),
        html.code("\n".join(warnings)),
    ]


def _scored(model: Any, held_out: anndata.AnnData, written: anndata.AnnData, seed: int) -> list[str]:
    source = blocks.read_cells(held_out, obs_keys=FIELDS)
    real = next(iter(source.blocks(held_out.n_obs)))
    own = model.log_likelihood(real)["log_likelihood"].to_numpy()
    types = real.obs["cell_type"].astype(str).to_numpy()
    other = np.random.default_rng([seed, 12]).permutation(types)
    shuffled = real._replace(obs=real.obs.assign(cell_type=other))
    as_other = model.log_likelihood(shuffled)["log_likelihood"].to_numpy()
    differs = other != types
    groups = {
        "written cells": written.obs["sclm_log_likelihood"].to_numpy(),
        "held-out cells": own,
        "held-out cells, another cell's type": as_other[differs],
    }
    table = pd.DataFrame(
        {
            "cells": [len(v) for v in groups.values()],
            **{
                name: [float(np.percentile(v, q)) for v in groups.values()]
                for name, q in (("lower quarter", 25), ("median", 50), ("upper quarter", 75))
            },
        },
        index=pd.Index(list(groups), name="log likelihood, nats a cell"),
    )
    right = float((own[differs] > as_other[differs]).mean())
    return [
        html.text(
            f"The model also says how probable a cell is. Of held-out cells, {right:.0%} are more probable as their own type "
            "than as that of a random cell of another type (50% is chance). Where written "
            "cells are more probable than held-out ones, the difference is what the model has not learnt of real cells."
        ),
        html.table(table, decimals=dict.fromkeys(("lower quarter", "median", "upper quarter"), 0)),
    ]
