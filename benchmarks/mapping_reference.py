"""Sections `reference_free` and `real` of mapping.py: a reference written by a generator beside the cells that it learnt from.

`reference_free`: a generator is trained on one half of a study, the section is mixed from the other half. The section is mapped
with the generator's cells and with the real half; both are scored against the truth, and against each other. `real`: sections
of tumours, which have no known answer: cells of an imaged lung tumour are the reference, and what the generator learnt from
them; how far the two maps agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from generation_data import fit, labels, show, table
from mapping_accuracy import scores
from mapping_rows import KEY_ADDED, fraction_of, mapped
from mapping_sets import KEY, MappingSet, cells_of, load

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

FREE_SETS = ("pbmc3k9", "facs10", "facs_to_pbmc3k", "panel")
CELLS_A_TYPE = 200  # written, as map_spatial asks for by default
CELLS = 3000  # of an imaged section that are mapped
SECTIONS = {
    "her2st F1": ("spatial/her2st_8sections.h5ad", "spot", "F1"),
    "Visium, breast": ("spatial/visium_breast_eevee709.h5ad", "spot", None),
    "Xenium, breast": ("spatial/xenium_breast_pikachu17136.h5ad", "cell", None),
}


def learnt(reference, args: argparse.Namespace, seed: int):
    """A generator that was trained on the reference, knowing types and nothing else, and its processor seconds."""
    train = reference.copy()
    train.obs = pd.DataFrame({KEY: labels(train, KEY)}, index=train.obs_names)
    model, took = fit(train, [KEY], args, seed)
    return model, took.cpu


def mapped_without(given: MappingSet, model: Any, seed: int):
    """The section with what map_spatial wrote when it was given a request instead of cells."""
    import sclm

    types = np.unique(labels(given.reference, given.label_key))
    return sclm.tl.map_spatial(
        given.section, request=pd.DataFrame({KEY: types}), model=model, n_cells_per_type=CELLS_A_TYPE,
        resolution=given.resolution, key_added=KEY_ADDED, seed=seed, copy=True,
    )  # fmt: skip


def few_of_each(reference, n: int, rng: np.random.Generator):
    """At most n real cells of each type."""
    names = labels(reference, KEY)
    rows = [rng.permutation(np.flatnonzero(names == name))[:n] for name in np.unique(names)]
    return reference[np.sort(np.concatenate(rows))].copy()


def independent(reference, rng: np.random.Generator):
    """Control without a model: Poisson cells of each type's mean share of counts, genes independent."""
    import anndata
    import scipy.sparse as sp

    names = labels(reference, KEY)
    blocks, kinds = [], []
    for name in np.unique(names):
        counts = reference.X[names == name]
        depth = np.asarray(counts.sum(axis=1)).ravel()
        share = np.asarray((sp.diags(1.0 / np.maximum(depth, 1.0)) @ counts).mean(axis=0)).ravel()
        blocks.append(sp.csr_matrix(rng.poisson(np.outer(rng.choice(depth, CELLS_A_TYPE), share)).astype(np.float32)))
        kinds += [name] * CELLS_A_TYPE
    obs = pd.DataFrame({KEY: kinds}, index=[f"cell_{i}" for i in range(len(kinds))])
    return anndata.AnnData(sp.vstack(blocks, format="csr"), obs=obs, var=pd.DataFrame(index=reference.var_names))


class Agreement(NamedTuple):
    """Of two maps of one section."""

    pearson: float  # mean over types that make up 1 % or more
    same_top: float  # share of spots with the same dominant type
    jsd: float


def agreement(one: np.ndarray, two: np.ndarray) -> Agreement:
    common = (one.mean(axis=0) >= 0.01) | (two.mean(axis=0) >= 0.01)
    by_type = [np.corrcoef(one[:, k], two[:, k])[0, 1] for k in np.flatnonzero(common)]
    return Agreement(
        float(np.nanmean(by_type)), float(np.mean(one.argmax(axis=1) == two.argmax(axis=1))), scores(one, two)["JSD"]
    )


def reference_free(args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for name in [n for n in args.sets if n in FREE_SETS] or FREE_SETS:
        for seed in range(args.seeds):
            given = load(name, seed, args.folder)
            rng = np.random.default_rng([seed, 1])
            model, cpu = learnt(given.reference, args, seed)
            sections = {
                "real": mapped(given),
                f"real, {CELLS_A_TYPE} a type": mapped(
                    given._replace(reference=few_of_each(given.reference, CELLS_A_TYPE, rng))
                ),
                f"generated, {CELLS_A_TYPE} a type": mapped_without(given, model, seed),
                "means and Poisson noise": mapped(given._replace(reference=independent(given.reference, rng))),
            }
            truth = given.truth.to_numpy()
            maps = {says: fraction_of(section, given.truth.columns) for says, section in sections.items()}
            for says, found in maps.items():
                alike = agreement(maps["real"], found)
                rows.append(
                    {"set": name, "reference": says, "seed": seed, **scores(truth, found), "with real": alike.pearson,
                     "training CPU s": cpu if says.startswith("generated") else np.nan}
                )  # fmt: skip
    show("A generated reference beside the cells that it learnt from", table(rows, by=["set", "reference"]))


def tumour(args: argparse.Namespace):
    """Cells of an imaged lung tumour, tumours as one type, rare types left out."""
    cells = cells_of(args.folder, "cosmx")
    names = cells.obs[KEY].astype(str)
    cells.obs[KEY] = names.where(~names.str.startswith("tumor"), "tumour").to_numpy()
    n = cells.obs[KEY].value_counts()
    return cells[cells.obs[KEY].isin(n.index[n >= 40])].copy()


def section_of(folder: Path, file: str, section: str | None, rng: np.random.Generator):
    import anndata

    adata = anndata.read_h5ad(folder / file)
    if section is not None:
        adata = adata[adata.obs["section"].astype(str) == section]
    rows = np.sort(rng.permutation(adata.n_obs)[:CELLS])
    adata = adata[rows, ~adata.var_names.duplicated()].copy()
    return adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()


def real(args: argparse.Namespace) -> None:
    reference = tumour(args)
    types = pd.Index(sorted(set(labels(reference, KEY))))
    models = [learnt(reference, args, seed)[0] for seed in range(args.seeds)]
    fields = reference.obs_names.str.startswith("c_1_1_")
    rows = []
    for says, (file, resolution, part) in {**SECTIONS, "CosMx, lung, other field": (None, "cell", None)}.items():
        for seed, everything in enumerate(models):
            rng = np.random.default_rng([seed, 2])
            if file is None:  # labels are known here, so the reference must not hold the cells of the section
                section, known = reference[~fields].copy(), reference[fields].copy()
                model = learnt(known, args, seed)[0]
            else:
                model = everything
                section, known = section_of(args.folder, file, part, rng), reference
            truth = pd.DataFrame(0.0, index=section.obs_names, columns=types)
            given = MappingSet(says, section, known, KEY, truth, resolution, False)
            maps = [mapped(given), mapped_without(given, model, seed)]
            alike = agreement(*[fraction_of(m, types) for m in maps])
            rows.append(
                {"section": says, "seed": seed, "genes": len(section.var_names.intersection(known.var_names)),
                 "Pearson": alike.pearson, "same dominant type": alike.same_top, "JSD": alike.jsd,
                 "unexplained, real": maps[0].obs[f"{KEY_ADDED}_unexplained"].mean(),
                 "unexplained, generated": maps[1].obs[f"{KEY_ADDED}_unexplained"].mean()}
            )  # fmt: skip
    show("Maps of tumours with a real and a generated reference", table(rows, by=["section"]))
