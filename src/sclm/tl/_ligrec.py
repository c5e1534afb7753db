"""Find ligands and receptors that lie side by side."""

from __future__ import annotations

import logging
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import results
from sclm.cells import table_of
from sclm.cells.shares import names_of, read_shares
from sclm.knowledge import ligand_receptor_pairs
from sclm.tl._ligrec_graph import edges_of, groups_of
from sclm.tl._ligrec_pairs import read_expression
from sclm.tl._ligrec_scores import spot_signals, table_of_tests
from sclm.tl._map_spatial_section import read_section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata
    import pandas as pd

logger = logging.getLogger(__name__)

_PROGRAMMES = 10  # principal components that are regressed out where adjust= names nothing


def ligrec(
    adata: anndata.AnnData,
    pairs: str | Path | pd.DataFrame = "sclm",
    *,
    groups: str | None = None,
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    interface: str | None = None,
    adjust: str | None = None,
    min_share: float = 0.05,
    n_permutations: int = 9999,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    spatial_key: str = "spatial",
    connectivity_key: str = "spatial_connectivities",
    layer: str | None = None,
    gene_key: str | None = None,
    key_added: str = "sclm_ligrec",
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Find ligands whose receptors lie next to them, beyond what tissue and depth explain; at a border, which signals cross it.

    A pair is scored on the edges of the spatial graph, :math:`e_{ij} = w_{ij}\, l_i\, r_j`, with the log-normalised ligand of
    the sender and receptor of the receiver, of complexes the least of the parts. Almost any two genes have a high score in tissue:
    both are seen where there is more mRNA, and both follow the tissue. So the test asks for more:

    .. math:: T = \sum_{ij} w_{ij} \, a_i \hat l_i \, b_j \hat r_j,

    where :math:`\hat l` and :math:`\hat r` are residuals in standard deviations, after the logarithm of the depth, the groups, and
    ``adjust`` were regressed out section by section, and :math:`a`, :math:`b` are the shares of the source group at the sender and
    the target group at the receiver. Under the null the :math:`\hat r` of other receivers of the same section, the same dominant
    group and, at an interface, the same zone take their place; :math:`p = (k + 1) / (n + 1)`, and false discovery rates are
    those of Benjamini and Hochberg over all tests of the call. What structure is left shows in pairs of random genes of the same
    section: where their z scores spread by more than 1, the distance of T from its mean is divided by that spread (genomic control).
    On real sections about 5 % of random pairs of expressed genes have p < 0.05, where tests that permute whole spots have up to half
    of them below it: see the benchmarks.

    A small p says that two genes are expressed side by side in a way that the covariates do not explain. It does not say that a
    protein was bound, nor, from spots of several cells, which cell of the two spots expressed what.

    Parameters
    ----------
    adata
        Spots or cells with raw counts and coordinates in ``.obsm``; or a SpatialData, with ``table_key``, or a MuData.
    pairs
        ``"sclm"``: 287 pairs of tumours, stroma and immune cells that come with the package. A DataFrame or a file with the
        columns ``ligand`` and ``receptor`` (or ``source`` and ``target``, as in squidpy), or a name of
        :func:`sclm.knowledge.ligand_receptor_sources_available`: ``"liana"``, ``"squidpy"``, ``"celltalkdb"``,
        ``"liana_consensus"``. Parts of a complex are joined by ``_``.
    groups
        Groups of senders and receivers: a column of ``.obs`` with labels, or fractions in ``.obsm`` as
        :func:`sclm.tl.map_spatial` writes them. All combinations of ``source`` and ``target`` are tested. None: all spots; with
        ``interface``, its two sides.
    source, target
        Groups to test as senders and as receivers; all when None.
    interface
        Result of :func:`sclm.tl.interface`. Only edges within its zone or across its border are looked at; without ``groups``, only
        those across it, from the inner side to the outer and back: which signals cross the border.
    adjust
        What is regressed out besides depth and groups: a column of ``.obs`` with labels, such as domains, or fractions in ``.obsm``.
        None: the first 10 principal components of log-normalised expression, section by section; on panels of fewer than 200 genes
        one for 20 genes.
    min_share
        Share of the spots, 0–1, that must express the ligand, and the receptor, with all parts of a complex; of the senders of
        the source and the receivers of the target too, or that combination is not tested.
    n_permutations
        Number of permutations, at least 1; the smallest p is 1 / (1 + n_permutations).
    library_key
        Column of ``.obs`` with the section of each spot, where there are several. Edges, residuals and permutations stay within a
        section; statistics are summed.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    spatial_key
        Key of ``.obsm`` with the coordinates, (n_obs, 2).
    connectivity_key
        Graph in ``.obsp``, squidpy's name or the part before ``_connectivities``; edges count in both directions and all the same.
        One ring of neighbours, which is built from the coordinates where the default is not there, suits signals by contact; for
        secreted ones build a wider graph, such as ``sq.gr.spatial_neighbors_grid(adata, n_rings=2, key_added="wide")``.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with gene symbols or Ensembl ids; ``.var_names`` where None.
    key_added
        Name of everything written.
    seed
        Of the permutations.
    copy
        Return a changed copy (of a SpatialData, of its table) instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_ligrec``:

    ``.uns["sclm_ligrec"]`` : dict
        The record: parameters, seed, licence and numbers of the pairs, ``groups``, numbers of spots and edges, ``adjusted``,
        ``inflation`` (spread of z among random genes, for each source and target), ``warnings``, and ``table``, one row a pair, source
        and target: ``ligand``, ``receptor``, ``source``, ``target``,
        ``ligand_mean`` and ``receptor_mean`` (in senders of the source and receivers of the target), ``score`` (mean of
        :math:`l_i r_j` over these edges), ``ratio`` (to the mean over all edges), ``z`` (standard deviations of the null, which are
        known exactly), ``pval``, ``padj``, NaN where not tested. :func:`sclm.get.ligrec` gives it in the order of p,
        :func:`sclm.get.ligrec_squidpy` in the form that ``squidpy.pl.ligrec`` draws.
    ``.obsm["sclm_ligrec"]`` : float32 CSR (n_obs, n_pairs)
        Score of each spot: mean of :math:`l_i r_j` and :math:`r_i l_j` over its edges. Columns are the rows of
        ``.uns["sclm_ligrec"]["pairs"]``.
    ``.obsm["sclm_ligrec_ligand"]``, ``.obsm["sclm_ligrec_receptor"]`` : float32 CSR (n_obs, n_pairs)
        Log-normalised expression; with the graph, :func:`sclm.get.ligrec_edges` makes the scores of edges of it.
    ``.obsp["sclm_ligrec_connectivities"]`` : float32 CSR (n_obs, n_obs)
        The edges that were looked at.

    Raises
    ------
    ValueError
        If no pair or no edge is left, the counts are not raw, a group does not exist, or an argument is out of range. The AnnData
        is unchanged.
    KeyError
        If coordinates, a graph, a column or a result do not exist.
    TypeError
        If an argument is of the wrong kind, or a SpatialData comes without ``table_key``.

    Notes
    -----
    Spots without counts, or without a group, are left out. Permuting receivers only keeps the place of the ligand; regressing
    out the tissue first is what makes such permutations exchangeable. The result does not depend on the order of the spots.

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> section = sclm.datasets.simulate_section(cells, "cell_type", n_spots=200, seed=1)
    >>> sclm.tl.ligrec(section, n_permutations=99)
    >>> sclm.get.ligrec(section).columns.tolist()[:4]
    ['ligand', 'receptor', 'source', 'target']
    """
    results.check_name(key_added)
    _check_arguments(min_share, n_permutations, seed)
    table = table_of(adata, table_key, mod)
    if not copy and getattr(table, "is_view", False) and table.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    section = read_section(table, spatial_key=spatial_key, library_key=library_key, layer=layer, gene_key=gene_key)
    if section.source.n_cells < 3:
        raise ValueError(f"neighbours need at least 3 spots, found {section.source.n_cells}.")
    listed = ligand_receptor_pairs(pairs)
    graph = edges_of(table, section, connectivity_key, interface)
    sides = groups_of(table, groups, interface, source, target)
    covariate = None if adjust is None else read_shares(table, adjust, "adjust")

    spots = graph.usable(sides, covariate)
    expression = read_expression(
        section.source, listed, spots.rows, spots.library, min_share=float(min_share), seed=int(seed),
        n_programmes=_PROGRAMMES if covariate is None else 0,
    )  # fmt: skip
    tests = table_of_tests(
        expression, spots, sides, covariate, min_share=float(min_share), n_permutations=int(n_permutations), seed=int(seed)
    )  # fmt: skip
    # permutations stay within the whole zone; what is told and kept of its two sides is what crosses
    told = spots.across() if interface is not None and groups is None else spots
    n_edges = int(told.edges.nnz // 2)  # each counted once
    signals = spot_signals(expression, told, table.n_obs)

    warnings = [*section.warnings, *graph.warnings, *tests.warnings]
    for warning in warnings[len(section.warnings) :]:
        logger.warning("%s", warning)
    logger.info(
        "%d of %d pairs tested (%d measured) on %d edges of %d spots",
        expression.found["tested"], expression.found["listed"], expression.found["measured"], n_edges, len(spots.rows),
    )  # fmt: skip
    target_adata = table.copy() if copy and not table.isbacked else table.to_memory() if copy else table
    params = {
        "groups": groups, "source": _listed(source), "target": _listed(target), "interface": interface, "adjust": adjust,
        "min_share": float(min_share), "n_permutations": int(n_permutations), "library_key": library_key, "table_key": table_key, "mod": mod,
        "spatial_key": spatial_key, "connectivity_key": connectivity_key, "layer": layer, "gene_key": gene_key,
    }  # fmt: skip
    entry = results.record(
        "ligrec",
        params=params,
        seed=int(seed),
        table=tests.table,
        pairs=expression.pairs,
        source_of_pairs={"name": listed.name, "licence": listed.licence, "source": listed.source, **expression.found},
        groups=np.array(sides.names, dtype=object),
        spots={"used": len(spots.rows), "left_out": int(table.n_obs - len(spots.rows)), "edges": n_edges},
        graph=graph.origin,
        adjusted=np.array(tests.adjusted, dtype=object),
        inflation=tests.inflation,
        warnings=np.array(warnings, dtype=object),
    )
    results.write(
        target_adata,
        key_added,
        entry,
        obsm={
            key_added: signals.score,
            f"{key_added}_ligand": signals.ligand,
            f"{key_added}_receptor": signals.receptor,
        },
        obsp={f"{key_added}_connectivities": signals.edges},
    )
    return target_adata if copy else None


def _check_arguments(min_share: Any, n_permutations: Any, seed: Any) -> None:
    if isinstance(min_share, bool) or not isinstance(min_share, Real):
        raise TypeError(f"min_share must be a number, found {type(min_share).__name__} {min_share!r}.")
    if not 0 <= float(min_share) <= 1:
        raise ValueError(f"min_share must be a share of the spots, 0 to 1, found {min_share}.")
    for name, value, least in (("n_permutations", n_permutations, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {value!r}.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, found {value}.")


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return None if names is None else names_of(names)
