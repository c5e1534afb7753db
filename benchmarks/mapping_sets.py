"""Sections with a known answer for mapping.py: real mixtures, and spots mixed from real cells that the reference lacks.

Constants of our methods may be chosen on the development sets. Nobody looks at the held-out sets before those constants are
frozen. Both kinds hold easy sets (halves of one study) and shifts (another study, donor, technology, cell state).
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from generation_data import REAL_DATA, halves, labels, log_counts

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {
    "facs": "scrna/pbmc_facs_zheng2017.h5ad",
    "pbmc3k": "scrna/pbmc3k.h5ad",
    "kang": "perturb/kang_scgen_valid.h5ad",
    "kang_donors": "scrna/kang_ctrl_12k_1287genes.h5ad",
    "kang_two": "perturb/kang_muscat_example.h5ad",
    "mixology": "scrna/scmixology_singlecells.h5ad",
    "mixtures": "spatial/deconv_scmixology_mixtures.h5ad",
    "pancreas": "scrna/pancreas_baron_human175.h5ad",
    "tnk": "scrna/pbmc_tnk_482genes.h5ad",
    "cosmx": "spatial/cosmx_profast2814.h5ad",
}
KEY = "cell_type"
N_SPOTS = 400  # of a set: peers take up to half a minute each on as many
N_DOMAINS = 6  # of a mixed section, each with its own composition
MEDIAN = 5000.0  # counts of a spot with several cells
FEWEST = 20  # cells of a type in a reference; rarer types are left out, of the section too
BROAD = {
    "B": ["CD19+ B", "B", "B cells"],
    "CD4 T": [
        "CD4+ T Helper2", "CD4+/CD45RO+ Memory", "CD4+/CD25 T Reg", "CD4+/CD45RA+/CD25- Naive T", "Naive CD4 T",
        "Memory CD4 T", "CD4T", "CD4 T cells",
    ],
    "CD8 T": ["CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic", "CD8 T", "CD8T", "CD8 T cells"],
    "NK": ["CD56+ NK", "NK", "NK cells"],
    "Monocyte": [
        "CD14+ Monocyte", "CD14+ Mono", "FCGR3A+ Mono", "CD14+Mono", "FCGR3A+Mono", "CD14+ Monocytes",
        "FCGR3A+ Monocytes",
    ],
}  # fmt: skip
LINES = ["H1975", "H2228", "HCC827"]  # of lung adenocarcinoma
OLDER_DONORS = ["1015", "1016", "1244", "1256", "1488", "1039"]  # of the lupus study; 101 and 107 are in its small file


class MappingSet(NamedTuple):
    """A section, a reference and the true share of each type in the mRNA of each spot."""

    name: str
    section: Any  # AnnData: raw counts, .obsm["spatial"]; .uns["arbitrary_coordinates"] where places carry nothing
    reference: Any  # AnnData: raw counts, types in .obs[label_key]
    label_key: str
    truth: pd.DataFrame  # (spots, types), rows sum to 1
    resolution: str  # "spot" or "cell"
    held_out: bool


Parts = tuple[Any, Any, pd.DataFrame]  # section, reference, truth


class Spec(NamedTuple):
    """How a set is made."""

    build: Callable[[Path, np.random.Generator], Parts]
    resolution: str
    held_out: bool
    says: str


@cache
def _stored(path: Path):
    import anndata

    return anndata.read_h5ad(path)


def cells_of(folder: Path, name: str, *, groups: dict[str, list[str]] | None = None):
    """Cells of a study with a label, under unique symbols (Ensembl identifiers where all studies have them)."""
    adata = _stored(Path(folder) / FILES[name]).copy()
    if "symbol" in adata.var and name not in ("mixology", "mixtures"):
        adata.var_names = adata.var["symbol"].astype(str).to_numpy()
    adata = adata[:, ~adata.var_names.duplicated()]
    if groups is not None:
        broad = {label: group for group, names in groups.items() for label in names}
        adata = adata[adata.obs[KEY].astype(str).isin(broad)].copy()
        adata.obs[KEY] = adata.obs[KEY].astype(str).map(broad)
    adata = adata[~adata.obs[KEY].astype(str).isin(["nan", "unknown"])].copy() if KEY in adata.obs else adata.copy()
    adata.obs = adata.obs.astype({KEY: str}) if KEY in adata.obs else adata.obs
    adata.var = pd.DataFrame(index=adata.var_names.astype(str))
    return adata


def common(cells, reference):
    """Both with the types that they share and the reference holds often enough."""
    n = reference.obs[KEY].value_counts()
    kept = sorted(set(n.index[n >= FEWEST]) & set(cells.obs[KEY]))
    return cells[cells.obs[KEY].isin(kept)].copy(), reference[reference.obs[KEY].isin(kept)].copy()


def lines(folder: Path, batches: list[str], key: str = "cell_line_demuxlet"):
    """Single cells of lung cancer lines, singlets by their genotype."""
    adata = _stored(Path(folder) / FILES["mixology"])
    kept = adata.obs["batch"].isin(batches) & (adata.obs["demuxlet_cls"] == "SNG").to_numpy()
    adata = adata[kept].copy()
    adata.obs[KEY] = adata.obs[key].astype(str)
    return adata


def mix(
    cells, rng: np.random.Generator, *, n_spots: int = N_SPOTS, cells_per_spot: float = 8.0, median=MEDIAN, platform=0.0
):
    """A section mixed from cells, and its truth."""
    import sclm

    section = sclm.datasets.simulate_section(
        cells, KEY, n_spots=n_spots, cells_per_spot=cells_per_spot, n_domains=N_DOMAINS, platform=platform,
        umi_per_spot=median, seed=int(rng.integers(2**31)),
    )  # fmt: skip
    truth = pd.DataFrame(
        section.obsm["fraction"].astype(float), index=section.obs_names, columns=section.uns["simulation"]["categories"]
    )
    return plain(section), truth


def plain(section):
    """What a user has: counts and places, not the answer."""
    import anndata

    counts = section.X.astype(np.float32)
    bare = anndata.AnnData(counts, obs=section.obs[[]].copy(), var=pd.DataFrame(index=section.var_names.astype(str)))
    bare.obsm["spatial"] = np.asarray(section.obsm["spatial"], dtype=np.float64)
    return bare


def panel(reference, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Columns of a panel: two thirds markers, best first by type in turn, one third other genes that are expressed."""
    logged, names = log_counts(reference), labels(reference, KEY)
    means = np.stack([np.asarray(logged[names == t].mean(axis=0)).ravel() for t in np.unique(names)])
    expressed = np.flatnonzero(np.diff(reference.X.tocsc().indptr) >= 0.02 * reference.n_obs)
    lead = np.stack([means[k] - np.delete(means, k, axis=0).max(axis=0) for k in range(len(means))])[:, expressed]
    order = expressed[np.argsort(-lead, axis=1)].T.ravel()  # (K, E) -> (E * K,), best of each type in turn
    markers = list(dict.fromkeys(order))[: 2 * n_genes // 3]
    others = rng.choice(np.setdiff1d(expressed, markers), n_genes - len(markers), replace=False)
    return np.sort(np.concatenate([markers, others]))


def split_of_one(name: str, fewest: int = FEWEST, **options: Any) -> Callable[..., Parts]:
    """Spots of one half of a study's cells, the other half the reference."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        cells = cells_of(folder, name)
        n = cells.obs[KEY].value_counts()
        reference, spots = halves(cells[cells.obs[KEY].isin(n.index[n >= 2 * fewest])].copy(), KEY, rng.integers(2**31))
        section, truth = mix(spots, rng, **options)
        return section, reference, truth

    return build


def split_in_two(source: Callable[..., Any], target: Callable[..., Any], **options: Any) -> Callable[..., Parts]:
    """Spots of one study's cells, another study the reference."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        cells, reference = common(target(folder), source(folder))
        section, truth = mix(cells, rng, **options)
        return section, reference, truth

    return build


def broad(name: str, **where: Any) -> Callable[[Path], Any]:
    """Cells of a blood study by broad type, those whose obs has the named values."""

    def read(folder: Path):
        adata = cells_of(folder, name, groups=BROAD)
        return chosen(adata, **where)

    return read


def chosen(adata, **where: Any):
    for column, values in where.items():
        adata = adata[adata.obs[column].astype(str).isin(np.atleast_1d(values))]
    return adata.copy()


def own(name: str, **where: Any) -> Callable[[Path], Any]:
    """Cells of a study by its own types."""
    return lambda folder: chosen(cells_of(folder, name), **where)


def real_mixtures(batches: list[str]) -> Callable[..., Parts]:
    """Wells of lines mixed by hand: shares of RNA, or of nine sorted cells (which stand for shares of mRNA here)."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        wells = _stored(Path(folder) / FILES["mixtures"])
        good = wells.obs["batch"].isin(batches) & (wells.obs["poor_quality"] != "YES")
        good &= wells.obs["n_cells"].isna() | (wells.obs["n_cells"] == 9)
        rows = np.sort(rng.permutation(np.flatnonzero(good))[:N_SPOTS])
        section = wells[rows].copy()
        truth = section.obs[[f"prop_{line}" for line in LINES]].set_axis(LINES, axis=1)
        section.obs = pd.DataFrame(
            {"library": pd.Categorical(section.obs["batch"].astype(str))}, index=section.obs_names
        )
        side = int(np.ceil(np.sqrt(len(rows))))
        section.obsm["spatial"] = np.stack(np.divmod(np.arange(len(rows)), side), axis=1).astype(float)
        section.uns["arbitrary_coordinates"] = True
        section.var = pd.DataFrame(index=section.var_names)
        return section, lines(folder, ["sc_celseq2"]), truth.div(truth.sum(axis=1), axis=0)

    return build


def panel_of(source: Callable[[Path], Any], *, n_genes: int, median: float, platform: float) -> Callable[..., Parts]:
    """Sparse single cells under the genes of a panel; the panel is chosen on the reference, which keeps all its genes."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        cells = source(folder)
        n = cells.obs[KEY].value_counts()
        reference, spots = halves(cells[cells.obs[KEY].isin(n.index[n >= 2 * FEWEST])].copy(), KEY, rng.integers(2**31))
        spots = spots[:, panel(reference, n_genes, rng)].copy()
        section, truth = mix(spots, rng, n_spots=2 * N_SPOTS, cells_per_spot=1, median=median, platform=platform)
        return section, reference, truth

    return build


def imaged(n_fields: int) -> Callable[..., Parts]:
    """Cells where they were imaged: halves of one field, or one field the reference of the other."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        cells = cells_of(folder, "cosmx")
        first = cells.obs_names.str.startswith("c_1_1_")
        if n_fields == 1:
            reference, spots = halves(cells[first].copy(), KEY, rng.integers(2**31))
        else:
            reference, spots = cells[first].copy(), cells[~first].copy()
            reference = reference[np.sort(rng.permutation(reference.n_obs)[: int(0.9 * reference.n_obs)])]
        spots, reference = common(spots, reference)
        truth = pd.get_dummies(spots.obs[KEY], dtype=float)
        return plain(spots), reference, truth

    return build


def by_donor(name: str, column: str, reference: list[str], **options: Any) -> Callable[..., Parts]:
    """Spots of other donors than the reference."""

    def build(folder: Path, rng: np.random.Generator) -> Parts:
        cells = cells_of(folder, name)
        known = cells.obs[column].astype(str).isin(reference).to_numpy()
        spots, held = common(cells[~known].copy(), cells[known].copy())
        section, truth = mix(spots, rng, **options)
        return section, held, truth

    return build


def lymphocytes(folder: Path, rng: np.random.Generator) -> Parts:
    """Cells of one batch of donors on a panel of 482 genes, as they were counted; other donors the reference."""
    cells = cells_of(folder, "tnk")
    spots, reference = common(chosen(cells, batch="2"), chosen(cells, batch=["1", "3"]))
    section, truth = mix(spots, rng, n_spots=2 * N_SPOTS, cells_per_spot=1, median=None)
    return section, reference, truth


def pancreas(folder: Path, rng: np.random.Generator) -> Parts:
    """A small reference: two donors of islet cells, the spots of two others."""
    cells = cells_of(folder, "pancreas")
    known = cells.obs["donor"].isin(["human1", "human3"]).to_numpy()
    section, truth = mix(cells[~known].copy(), rng)
    return section, cells[known].copy(), truth


def stimulated(folder: Path, rng: np.random.Generator) -> Parts:
    """Spots of stimulated cells of two donors, resting cells of six others the reference."""
    seen = {name[:14] for name in _stored(Path(folder) / FILES["kang"]).obs_names}  # cells of a development set
    cells = chosen(cells_of(folder, "kang_two"), condition="stimulated")
    cells = cells[[name[:14] not in seen for name in cells.obs_names]].copy()
    spots, reference = common(cells, chosen(cells_of(folder, "kang_donors"), donor=OLDER_DONORS))
    section, truth = mix(spots, rng)
    return section, reference, truth


FIVE = [f"sc_celseq2_5cl_p{plate}" for plate in (1, 2, 3)]
SETS: dict[str, Spec] = {
    "facs10": Spec(split_of_one("facs"), "spot", False, "halves of sorted blood cells, 10 types"),
    "facs_to_pbmc3k": Spec(split_in_two(broad("facs"), broad("pbmc3k")), "spot", False, "another study, 5 types"),
    "rnamix": Spec(real_mixtures(["RNAmix_celseq2"]), "spot", False, "real mixtures of RNA, 3 lines"),
    "kang_stim": Spec(
        split_in_two(own("kang", condition="control"), own("kang", condition="stimulated")), "spot", False,
        "stimulated spots, resting reference",
    ),
    "cellmix": Spec(real_mixtures(["cellmix1", "cellmix2", "cellmix3"]), "spot", False, "real wells of 9 cells"),
    "panel": Spec(
        panel_of(own("pbmc3k"), n_genes=300, median=100.0, platform=0.5), "cell", False,
        "one cell a spot, 300 genes, 100 counts",
    ),
    "cosmx_halves": Spec(imaged(1), "cell", False, "halves of an imaged field of lung cancer"),
    "facs10_platform": Spec(split_of_one("facs", platform=0.5), "spot", False, "facs10 with gene effects of sd 0.5"),
    "pbmc3k_to_facs": Spec(split_in_two(broad("pbmc3k"), broad("facs")), "spot", False, "another study, 5 types"),
    "pbmc3k9": Spec(split_of_one("pbmc3k", fewest=7), "spot", False, "halves of blood cells, 9 types"),
    "pbmc3k_to_kang": Spec(
        split_in_two(broad("pbmc3k"), broad("kang", condition="control")), "spot", False, "another study, 5 types"
    ),
    "kang_to_pbmc3k": Spec(
        split_in_two(broad("kang", condition="control"), broad("pbmc3k")), "spot", False, "another study, 5 types"
    ),
    "lines5": Spec(
        split_in_two(lambda f: lines(f, FIVE[:1]), lambda f: lines(f, FIVE[1:])), "spot", True, "other plates, 5 lines"
    ),
    "dropseq_to_celseq2": Spec(
        split_in_two(lambda f: lines(f, ["sc_dropseq"]), lambda f: lines(f, ["sc_celseq2"])), "spot", True,
        "another technology, 3 lines",
    ),
    "kang_donors": Spec(by_donor("kang_donors", "donor", ["1015", "1256", "1488", "1244"]), "spot", True, "other donors"),
    "kang_to_stimulated": Spec(stimulated, "spot", True, "stimulated spots of other donors"),
    "cosmx_fields": Spec(imaged(2), "cell", True, "one imaged field the reference of another"),
    "lymphocytes": Spec(lymphocytes, "cell", True, "T and NK cells of other donors, 482 genes, 72 counts"),
    "kang_to_facs": Spec(
        split_in_two(broad("kang", condition="control"), broad("facs")), "spot", True, "another study, 5 types"
    ),
    "facs_to_lupus": Spec(
        split_in_two(broad("facs"), broad("kang_two", condition="control")), "spot", True, "another study, 4 types"
    ),
    "pancreas": Spec(pancreas, "spot", True, "islet cells of other donors, 100 cells of reference"),
}  # fmt: skip


def names(which: str) -> list[str]:
    """Names of sets: "dev", "held-out", "all", or names with commas."""
    kinds = {"dev": [False], "held-out": [True], "all": [False, True]}
    if which in kinds:
        return [name for name, spec in SETS.items() if spec.held_out in kinds[which]]
    asked = which.split(",")
    if unknown := [name for name in asked if name not in SETS]:
        raise ValueError(f"Expected sets among {', '.join(SETS)}, dev, held-out or all, found {', '.join(unknown)}.")
    return asked


def load(name: str, seed: int, folder: Path | str = REAL_DATA) -> MappingSet:
    """A set; other seeds give other halves, spots and genes of a panel."""
    spec = SETS[name]
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    section, reference, truth = spec.build(Path(folder), rng)
    types = sorted(set(labels(reference, KEY)))
    truth = truth.reindex(columns=types, fill_value=0.0)
    reference.obs[KEY] = pd.Categorical(labels(reference, KEY), categories=types)
    return MappingSet(name, section, reference, KEY, truth, spec.resolution, spec.held_out)
