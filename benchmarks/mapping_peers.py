"""Peers of mapping.py: published methods as their documentation runs them, and three plain regressions.

Each takes a set of mapping_sets.py and gives the share of each type in the mRNA of each spot, columns as in the truth. A peer
whose package is missing raises ModuleNotFoundError. Reference cells and types are never lost to a filter of a peer: those of
rctd-py (100 counts a cell, 25 cells a type) are lowered, because an imaging panel or a rare type would fall under them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from generation_data import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mapping_sets import MappingSet

Q_FILE = Path(os.environ.get("RCTD_Q_MATRICES", Path(tempfile.gettempdir()) / "sclm-bench" / "q_matrices.npz"))
MARKERS = 100  # a type, of Tangram: as in its tutorial
REGRESSION_GENES = 2000  # of the Poisson regression


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No prints, log lines or warnings of a peer."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def in_order(given: MappingSet, estimate: pd.DataFrame) -> pd.DataFrame:
    """Rows that sum to 1, in the order of the truth; a spot that the peer leaves out gets the mean of the others."""
    values = estimate.reindex(index=given.truth.index, columns=given.truth.columns).astype(float)
    values = values.where(values.notna().any(axis=1), other=np.nan)
    known = values.fillna(0.0).clip(lower=0.0)
    total = known.sum(axis=1)
    shares = known.div(total.where(total > 0), axis=0)
    return shares.fillna(shares.mean()).fillna(1.0 / shares.shape[1])


def shared(given: MappingSet) -> tuple[Any, Any]:
    """Section and reference under their common genes."""
    genes = given.section.var_names[given.section.var_names.isin(given.reference.var_names)]
    return given.section[:, genes].copy(), given.reference[:, genes].copy()


# --- plain regressions ---------------------------------------------------------------------------------------------------


def profiles(reference: Any, key: str, types: pd.Index) -> np.ndarray:
    """Mean share of each gene in the cells of each type (K, G)."""
    import scipy.sparse as sp

    depth = np.maximum(np.asarray(reference.X.sum(axis=1)).ravel(), 1.0)
    member = labels(reference, key)[None] == np.asarray(types)[:, None]
    weight = sp.csr_matrix(member / (depth * member.sum(axis=1, keepdims=True)))
    return np.asarray((weight @ reference.X).todense())


def least_squares(signature: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Non-negative coefficients (n, K) of rows of values (n, G) on signatures (K, G)."""
    from scipy.optimize import nnls

    basis, triangle = np.linalg.qr(signature.T)  # (G, K), (K, K): the same problem on K rows
    return np.stack([nnls(triangle, target)[0] for target in values @ basis])


def nnls_raw(given: MappingSet) -> pd.DataFrame:
    """Counts on mean counts, each gene alike: NNLS of the literature."""
    section, reference = shared(given)
    types, names = given.truth.columns, labels(reference, given.label_key)
    mean = np.stack([np.asarray(reference.X[names == t].mean(axis=0)).ravel() for t in types])
    found = least_squares(mean, section.X.toarray()) * mean.sum(axis=1)
    return in_order(given, pd.DataFrame(found, index=section.obs_names, columns=types))


def nnls_log(given: MappingSet) -> pd.DataFrame:
    """log1p of counts per 10,000 on that of the mean profiles."""
    section, reference = shared(given)
    signature = np.log1p(1e4 * profiles(reference, given.label_key, given.truth.columns))
    depth = np.maximum(np.asarray(section.X.sum(axis=1)), 1.0)
    found = least_squares(signature, np.log1p(1e4 * section.X.toarray() / depth))
    return in_order(given, pd.DataFrame(found, index=section.obs_names, columns=given.truth.columns))


def poisson(given: MappingSet, n_steps: int = 500) -> pd.DataFrame:
    """Poisson regression with non-negative coefficients, by expectation-maximisation, on genes that differ most by type."""
    section, reference = shared(given)
    signature = profiles(reference, given.label_key, given.truth.columns)
    spread = np.log(signature + 1e-6).std(axis=0) * (np.asarray(section.X.sum(axis=0)).ravel() >= 10)
    kept = np.sort(np.argsort(-spread)[:REGRESSION_GENES])
    size = np.maximum(signature[:, kept].sum(axis=1), 1e-12)
    signature = signature[:, kept] / size[:, None] + 1e-9
    counts = section.X[:, kept].toarray()
    found = np.full((len(counts), len(size)), 1.0 / len(size)) * np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    for _ in range(n_steps):
        found *= (counts / (found @ signature)) @ signature.T
    return in_order(given, pd.DataFrame(found / size, index=section.obs_names, columns=given.truth.columns))


# --- published methods ---------------------------------------------------------------------------------------------------


def tacco(given: MappingSet) -> pd.DataFrame:
    """Annotation by optimal transport, all defaults."""
    with quiet():
        import tacco

        section = given.section.copy()
        tacco.tl.annotate(
            section, given.reference.copy(), annotation_key=given.label_key, result_key="tacco", verbose=0
        )
    return in_order(given, pd.DataFrame(section.obsm["tacco"]))


def flashdeconv(given: MappingSet) -> pd.DataFrame:
    """All defaults; no smoothing where places carry nothing, so that it is not judged on noise."""
    with quiet():
        import flashdeconv

        section = given.section.copy()
        options = {"lambda_spatial": 0.0} if given.section.uns.get("arbitrary_coordinates", False) else {}
        flashdeconv.tl.deconvolve(section, given.reference.copy(), cell_type_key=given.label_key, **options)
    return in_order(given, pd.DataFrame(section.obsm["flashdeconv"]))


def q_matrices(path: Path) -> Path:
    """The likelihood tables of RCTD, which rctd-py downloads (404 MB), made here once by the integral that they hold."""
    if path.exists():
        return path
    from rctd._likelihood import _ht_pdf_norm, build_x_vals
    from rctd._sigma import SIGMA_ALL
    from scipy.special import gammaln

    expected, offsets = build_x_vals(), np.arange(-5000, 5001) * 4e-3
    sigmas = SIGMA_ALL / 100
    weights = np.stack([np.maximum(_ht_pdf_norm(offsets / s) / s, 1e-300) * 4e-3 for s in sigmas], axis=1)  # (J, S)
    log_rate = np.log(expected)[:, None] + offsets[None]  # (X, J)
    rate = np.exp(log_rate)
    tables = np.empty((len(sigmas), 1003, len(expected)))  # counts 0 to 1000, and two that the splines need
    for count in range(tables.shape[1]):
        density = np.exp(count * log_rate - rate - gammaln(count + 1))
        tables[:, count] = np.log(np.maximum(density @ weights, 1e-300)).T  # (X, J) @ (J, S) -> (S, X)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, X_vals=expected, **{f"Q_{s}": table for s, table in zip(SIGMA_ALL, tables, strict=True)})
    return path


def rctd_run(given: MappingSet, mode: str):
    with quiet():
        from rctd import RCTDConfig, Reference, run_rctd

        os.environ["RCTD_Q_MATRICES"] = str(q_matrices(Q_FILE))
        section, cells = shared(given)
        if (
            section.n_vars > given.reference.n_vars / 2
        ):  # under a panel's genes alone it is better, otherwise all are its due
            section, cells = given.section.copy(), given.reference.copy()
        reference = Reference(cells, cell_type_col=given.label_key, cell_min=1, min_UMI=1)
        depth = np.asarray(given.section.X.sum(axis=1)).ravel()
        config = RCTDConfig(
            UMI_min=1, counts_MIN=1, UMI_min_sigma=int(min(300, np.quantile(depth, 0.25))), device="cpu", compile=False
        )
        result = run_rctd(section, reference, mode=mode, config=config)
    index = given.section.obs_names[result.pixel_mask]
    return result, pd.DataFrame(result.weights, index=index, columns=list(map(str, result.cell_type_names)))


def rctd_full(given: MappingSet) -> pd.DataFrame:
    """rctd-py, weights of all types; its tables of counts up to 1,000."""
    return in_order(given, rctd_run(given, "full")[1])


def rctd_doublet(given: MappingSet) -> pd.DataFrame:
    """rctd-py, one or two types a spot; what it rejects keeps the weights of the full fit. For single cells."""
    result, full = rctd_run(given, "doublet")
    found = full.clip(lower=0.0).div(full.clip(lower=0.0).sum(axis=1), axis=0).to_numpy()
    rows = np.arange(len(found))
    one, two = result.spot_class == 1, result.spot_class >= 2
    found[one | two] = 0.0
    found[rows[one], result.first_type[one]] = 1.0
    found[rows[two], result.first_type[two]] = result.weights_doublet[two, 0]
    found[rows[two], result.second_type[two]] += result.weights_doublet[two, 1]
    return in_order(given, pd.DataFrame(found, index=full.index, columns=full.columns))


def sparse_clusters(make: Callable[..., Any]) -> Callable[..., Any]:
    """Tangram 1.0.4 calls .toarray() on the dense profiles that it makes in this mode."""

    def made(*args: Any, **options: Any):
        import scipy.sparse as sp

        clusters = make(*args, **options)
        clusters.X = sp.csr_matrix(clusters.X)
        return clusters

    return made


def tangram_clusters(given: MappingSet, markers: int | None = MARKERS) -> pd.DataFrame:
    """Tangram by cluster, all defaults (1,000 epochs), on the best markers of each type; all genes with markers None."""
    with quiet():
        import scanpy as sc
        import tangram as tg
        from tangram import mapping_utils

        section, reference = shared(given)
        genes = None
        if markers is not None:
            logged = reference.copy()
            sc.pp.normalize_total(logged)
            sc.pp.log1p(logged)
            sc.tl.rank_genes_groups(logged, given.label_key, use_raw=False)
            genes = np.unique(pd.DataFrame(logged.uns["rank_genes_groups"]["names"]).head(markers)).tolist()
        sc.pp.normalize_total(reference)
        tg.pp_adatas(reference, section, genes=genes)
        make = mapping_utils.adata_to_cluster_expression
        mapping_utils.adata_to_cluster_expression = sparse_clusters(make)
        try:
            found = tg.map_cells_to_space(
                reference, section, mode="clusters", cluster_label=given.label_key, device="cpu", random_state=0
            )
        finally:
            mapping_utils.adata_to_cluster_expression = make
        tg.project_cell_annotations(found, section, annotation=given.label_key)
    return in_order(given, pd.DataFrame(section.obsm["tangram_ct_pred"]))


PEERS: dict[str, Callable[[MappingSet], pd.DataFrame]] = {
    "NNLS": nnls_raw,
    "log NNLS": nnls_log,
    "Poisson": poisson,
    "FlashDeconv": flashdeconv,
    "TACCO": tacco,
    "RCTD full": rctd_full,
    "RCTD doublet": rctd_doublet,
    "Tangram clusters": tangram_clusters,
}
MODULES = {
    "FlashDeconv": "flashdeconv",
    "TACCO": "tacco",
    "RCTD full": "rctd",
    "RCTD doublet": "rctd",
    "Tangram clusters": "tangram",
}
OF_CELLS = ("RCTD doublet",)  # only for sections of single cells
COMPILED = ("FlashDeconv", "TACCO")  # run once on a few spots before they are timed
