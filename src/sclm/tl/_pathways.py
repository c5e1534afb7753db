"""Which pathways are active in cells and groups."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from sclm import results
from sclm.cells import read_cells, table_of
from sclm.evidence import SetBackground, match_sets
from sclm.knowledge import Pathways
from sclm.tl._groups import group_codes
from sclm.tl._stages import Part, Whole, in_one_go

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import anndata

logger = logging.getLogger(__name__)


def pathways(
    adata: anndata.AnnData,
    gene_sets: str | Path | Mapping[str, Iterable[str]] | pd.DataFrame | Pathways = "default",
    *,
    groupby: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    invert_log1p: bool = False,
    top: float = 0.05,
    min_genes: int = 5,
    key_added: str = "sclm_pathways",
    batch_size: int | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Score the activity of pathways in every cell and group, and say which are more active than chance.

    The score is AUCell's: the area under the curve that counts how many genes of the set are among the first genes of a cell, ranked by
    expression, over the first twentieth of all genes. The test asks whether the set scores above the mean of all cells by more than
    sets of random genes do that rank as high in the mean of all cells: so a pathway that every cell runs is not called active anywhere,
    and p values are comparable between large and small sets.

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask; or a SpatialData or MuData.
    gene_sets
        ``"default"`` (92 Reactome pathways that tell something of a cell), ``"reactome"``, ``"wikipathways"``, the path of a GMT file such
        as MSigDB's Hallmark, a mapping of names to genes, a decoupler net, or a :class:`sclm.knowledge.Pathways`.
    groupby
        Column of ``.obs`` with clusters or cell types: groups are tested as well, each against all cells outside it.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    invert_log1p
        Turn log1p-normalised counts back, where that is exact.
    top
        Share of the genes over which the area is taken, in (0, 1].
    min_genes
        Sets with fewer genes in the data are left out.
    key_added
        Name of the results.
    batch_size
        Cells read at a time; by default what fits well in memory.
    seed
        Of the order of genes with equal counts.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_pathways``:

    ``.obsm["sclm_pathways"]`` : float32 (n_obs, n_sets)
        Scores, 0-1.
    ``.obsm["sclm_pathways_p"]``, ``.obsm["sclm_pathways_q"]`` : float32 (n_obs, n_sets)
        p values, and false discovery rates among the sets of a cell.
    ``.uns["sclm_pathways"]`` : dict
        The record, with ``ids``, ``names`` and ``n_genes`` of the sets, and with `groupby` the table ``groups``: see
        :func:`sclm.get.pathways`.

    Raises
    ------
    ValueError
        If the counts are not raw, no set has enough genes in the data, or there are fewer than two groups. The AnnData is unchanged.
    FileNotFoundError
        If the gene sets are no known name and no file.
    KeyError
        If a column or layer does not exist.

    Notes
    -----
    AUCell: Aibar et al., Nature Methods 14 (2017). Score, normaliser and test: :func:`sclm.evidence.aucell` and
    :class:`sclm.evidence.SetBackground`. The test takes genes as the units that are drawn (a "competitive" test); genes of a pathway
    that are regulated together make it more optimistic than a test across donors would be.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> sclm.tl.pathways(adata, groupby="cell_type")
    >>> groups = sclm.get.pathways(adata, groups=True)
    >>> groups[groups["group"] == "B cell"].sort_values("p")["name"].iloc[0]
    'Signaling by the B Cell Receptor (BCR)'
    """
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    given = {
        "groupby": groupby, "table_key": table_key, "mod": mod, "layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p, "top": top,
        "min_genes": min_genes, "key_added": key_added, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    return in_one_go(adata, Scoring(adata, gene_sets, **given), copy)


class Scoring:
    """A call of :func:`sclm.tl.pathways`, prepared: what genes rank in all cells is known. See :class:`sclm.tl._stages.Stages`."""

    model = None

    def __init__(self, adata: anndata.AnnData, gene_sets: Any, *, trained: Any = None, **given: Any) -> None:
        results.check_name(given["key_added"])
        self.given, self.sets, groupby = given, Pathways.load(gene_sets), given["groupby"]
        read = {name: given[name] for name in ("layer", "gene_key", "invert_log1p")}
        self.source = source = read_cells(adata, obs_keys=[groupby] if groupby is not None else [], **read)
        members, self.kept = match_sets(self.sets, source.genes, min_genes=given["min_genes"])
        if len(self.kept) < len(self.sets):
            logger.info(
                "%d of %d sets have %d genes or more in the data", len(self.kept), len(self.sets), given["min_genes"]
            )
        self._groups = group_codes(source.obs[groupby], groupby) if groupby is not None else None
        self.background = SetBackground.fit(
            source, members, top=given["top"], seed=given["seed"], batch_size=given["batch_size"]
        )

    @staticmethod
    def needs_all(arguments: Mapping[str, Any]) -> str | None:
        """Nothing does: groups are tested once at the end, on the counts."""
        return None

    def part(self, rows: np.ndarray | None = None) -> Part:
        """The cells of these rows, or all."""
        n_cells = self.source.n_cells if rows is None else len(rows)
        score, p, q = (np.empty((n_cells, len(self.kept)), dtype=np.float32) for _ in range(3))
        first = 0
        with tqdm(total=n_cells, desc="pathways", unit=" cells", delay=2, leave=False) as bar:
            for cells in self.source.blocks(self.given["batch_size"], rows):
                found = self.background.cells(self.background.ranks(cells.counts))
                at = slice(first, first + cells.n_cells)
                score[at], p[at], q[at] = found.score, found.p, found.q
                first += cells.n_cells
                bar.update(cells.n_cells)
        return Part({}, {"score": score, "p": p, "q": q}, {})

    def whole(self, parts: Sequence[Part]) -> Whole:
        """All parts, in the order of the cells; groups are read from the cells again."""
        given, sets, kept, key = self.given, self.sets, self.kept, self.given["key_added"]
        facts: dict[str, Any] = {
            "ids": [sets.ids[i] for i in kept],
            "names": [sets.names[i] for i in kept],
            "phrases": [sets.phrases[i] for i in kept],
            "n_genes": self.background.n_genes.astype(np.int64),
        }
        if self._groups is not None:
            codes, names = self._groups
            means = self.background.group_means(self.source, codes, len(names), batch_size=given["batch_size"])
            facts["groups"] = _table(self.background, *means, names, facts)
        asked = ("groupby", "table_key", "mod", "layer", "gene_key", "invert_log1p", "top", "min_genes")
        entry = results.record(
            "pathways",
            params={"gene_sets": sets.name, **{name: given[name] for name in asked}},
            seed=given["seed"],
            licence=sets.licence,
            n_top=self.background.n_top,
            **facts,
        )
        keys = {"score": key, "p": f"{key}_p", "q": f"{key}_q"}
        return Whole(key, entry, {}, {keys[what]: partial(_rows, what) for what in keys})


def _rows(what: str, part: Part) -> np.ndarray:
    return part.matrices[what]


def _table(
    background: SetBackground, inside: np.ndarray, outside: np.ndarray, groups: list[str], facts: dict[str, Any]
) -> pd.DataFrame:
    """One row a group and set."""
    found = background.groups(inside, outside)
    other = background.groups(outside, inside).score
    n_sets = len(facts["ids"])
    return pd.DataFrame(
        {
            "group": np.repeat(np.asarray(groups, dtype=object), n_sets),
            "id": facts["ids"] * len(groups),
            "name": facts["names"] * len(groups),
            "score": found.score.ravel().astype(np.float64),
            "other": other.ravel().astype(np.float64),
            "z": found.z.ravel().astype(np.float64),
            "p": found.p.ravel(),
            "q": found.q.ravel(),
            "n_genes": np.tile(facts["n_genes"], len(groups)),
        }
    )
