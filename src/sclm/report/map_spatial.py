"""The chapter on tissue: a section made of real cells, mapped with a real reference and with a written one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import datasets, pl, tl
from sclm.metrics import mapping
from sclm.report import html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

_N_SPOTS = 300
_CELLS_A_SPOT = 6.0
_PLATFORM = 0.3  # sd of the log of gene factors between the cells and the section
_PER_TYPE = 200  # written cells of each type
_REAL, _WRITTEN, _LEAST = "real reference", "written reference", "least squares, real reference"
_KEYS = {_REAL: "sclm_cell_type_fraction", _WRITTEN: "from_written", _LEAST: "least_squares"}


def map_section(
    reference: anndata.AnnData,
    held_out: anndata.AnnData,
    model: Any,
    out: Path,
    *,
    seed: int,
    say: Callable[[str], None],
) -> tuple[html.Chapter, dict[str, Path]]:
    """Make a section of the held-out cells and find its cell types in three ways.

    Parameters
    ----------
    reference
        Real cells with raw counts and ``cell_type``, none of them in the section.
    held_out
        Real cells that the section is made of.
    model
        A generator that learnt from the reference's cells.
    out
        Folder to write to.
    seed
        Of the section, of what is written, and of the maps.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter and its files.
    """
    section = datasets.simulate_section(
        held_out, "cell_type", n_spots=_N_SPOTS, cells_per_spot=_CELLS_A_SPOT, platform=_PLATFORM, seed=seed
    )
    say(f"a section of {section.n_obs} spots is made of {held_out.n_obs} held-out cells and mapped three times …")
    seconds = {}
    types = sorted(reference.obs["cell_type"].astype(str).unique())
    request = tl.request(tissue="blood", disease="normal", cell_type=types)
    ways: dict[str, dict[str, Any]] = {
        _REAL: {"reference": reference, "label_key": "cell_type"},
        _WRITTEN: {"request": request, "model": model, "n_cells_per_type": _PER_TYPE},
        _LEAST: {"reference": reference, "label_key": "cell_type", "method": "nnls"},
    }
    for name, how in ways.items():
        start = time.perf_counter()
        tl.map_spatial(section, key_added=_KEYS[name], seed=seed, **how)
        seconds[name] = time.perf_counter() - start
    truth = pd.DataFrame(
        np.asarray(section.obsm["fraction"], dtype=float),
        index=section.obs_names,
        columns=list(section.uns["simulation"]["categories"]),
    )
    maps = {
        name: _fractions(section, key).reindex(columns=truth.columns, fill_value=0.0) for name, key in _KEYS.items()
    }
    scores = mapping.compare(truth, maps)
    table = scores.set_index("method")[["jsd", "rmse", "pearson_by_type", "pearson_by_spot"]]
    table["seconds"] = [seconds.get(name, np.nan) for name in table.index]
    say("\n" + table.round(3).to_string() + "\n")

    files = {"section": out / "section.h5ad", "mapping": out / "mapping.csv"}
    section.write_h5ad(files["section"])
    scores.to_csv(files["mapping"], index=False)
    both = maps[_REAL], maps[_WRITTEN]
    agreement = pd.DataFrame(
        {
            "true share": truth.mean().to_numpy(),
            "real reference: r with the truth": mapping.pearson_by_type(truth, both[0]),
            "written reference: r with the truth": mapping.pearson_by_type(truth, both[1]),
            "the two maps: r": [_correlation(both[0][t].to_numpy(), both[1][t].to_numpy()) for t in truth.columns],
        },
        index=pd.Index(truth.columns, name="cell type"),
    )
    blocks = [
        html.text(
            f"{_N_SPOTS} spots in four domains, each with the summed counts of about {_CELLS_A_SPOT:.0f} of the cells that were "
            f"held out of everything above, genes counted by factors with a spread of {_PLATFORM} on the logarithmic scale as "
            "another platform would. What each spot holds is known, so the maps can be judged: `jsd` is the Jensen-Shannon "
            "divergence in bits (0 is right), `pearson_by_type` the correlation with the truth over spots, mean over types."
        ),
        html.table(table, decimals={"seconds": 2}, best={"jsd": "min", "rmse": "min", "pearson_by_type": "max"}),
        html.text(
            "`mean composition (oracle)` gives every spot the true mean of the section, which no method knows; `uniform` gives every "
            "type the same. The written reference consists of cells that the model of the last chapter wrote for each cell type: "
            "no real cell is needed on the user's side, but the model has seen the same donor. On tissue from elsewhere the "
            "agreement has to be looked at anew."
        ),
        _drawn(section, _KEYS[_REAL], out / "figures" / "map.png", "Share of each cell type in the mRNA of each spot, real reference."),
        _drawn(section, _KEYS[_WRITTEN], out / "figures" / "map_written.png", "The same with the written reference."),
        html.table(agreement, decimals={"true share": 3}),
        html.code(
            'sclm.tl.map_spatial(section, reference, label_key="cell_type")\n'
            'sclm.tl.map_spatial(section, request=sclm.request(tissue="blood", disease="normal"), model=model)\n'
            "sclm.pl.map_spatial(section)"
        ),
    ]  # fmt: skip
    return html.Chapter("Cell types on tissue", blocks), files


def _fractions(section: anndata.AnnData, key: str) -> pd.DataFrame:
    """Fractions of a map, (n_spots, n_types)."""
    names = [str(name) for name in section.uns[key]["categories"]]
    return pd.DataFrame(np.asarray(section.obsm[key], dtype=float), index=section.obs_names, columns=names)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")


def _drawn(section: anndata.AnnData, key: str, path: Path, caption: str) -> str:
    drawn = pl.map_spatial(section, key=key)
    axes = np.atleast_1d(drawn).ravel()
    return html.figure(axes[0].figure, caption, path)
