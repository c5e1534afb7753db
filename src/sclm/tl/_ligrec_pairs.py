"""The ligand-receptor pairs of a section: genes found under their names, complexes as minima, covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells import log_normalise
from sclm.knowledge import GeneIdentifiers

if TYPE_CHECKING:
    from sclm.cells import CellSource
    from sclm.knowledge import SignalPairs

_VARIABLE = 2000  # genes behind the principal components
_RANDOM_GENES = 200
_GENES_A_COMPONENT = 20  # on a panel of few genes, a component would be one of the genes that are tested


class Expression(NamedTuple):
    """What the test reads from the counts."""

    complexes: sp.csc_matrix  # (n, n_complexes) log-normalised, the least of the parts
    depth: np.ndarray  # (n,) total counts
    pairs: pd.DataFrame  # of the section: ligand, receptor and what else the table held, in its order
    columns: np.ndarray  # (n_pairs, 2) of the ligand and the receptor in complexes
    random: sp.csc_matrix  # (n, g) genes at random that enough spots express, for the spread of z without signals
    programmes: np.ndarray  # (n, k) principal components; k is 0 where none were asked for
    found: dict[str, int]  # numbers of pairs


def read_expression(
    source: CellSource,
    pairs: SignalPairs,
    rows: np.ndarray,
    library: np.ndarray,
    *,
    min_share: float,
    n_programmes: int,
    seed: int,
) -> Expression:
    """Complexes that enough of these spots express, their totals, and the main programmes of all genes.

    Raises
    ------
    ValueError
        If no pair is left.
    """
    table = pairs.table.reset_index(drop=True)
    names = sorted({gene for column in ("ligand", "receptor") for name in table[column] for gene in name.split("_")})
    where = find_genes(names, source.genes)
    wanted = np.unique([i for i in where.values() if i >= 0]).astype(np.int64)
    parts, depth = [], []
    seen = np.zeros(source.n_genes, dtype=np.int64)
    for block in source.blocks(rows=rows):
        seen += block.counts.getnnz(axis=0)
        depth.append(np.asarray(block.counts.sum(axis=1, dtype=np.float64)).ravel())
        parts.append(log_normalise(block.counts)[:, wanted])
    values = sp.vstack(parts, format="csc") if parts else sp.csc_matrix((0, len(wanted)))
    position = {gene: int(np.searchsorted(wanted, i)) if i >= 0 else -1 for gene, i in where.items()}
    complexes: dict[str, sp.csc_matrix] = {}
    for name in pd.unique(table[["ligand", "receptor"]].to_numpy(dtype=object).ravel()):
        members = [position[gene] for gene in name.split("_")]
        if min(members) >= 0:
            complexes[name] = _least([values[:, [i]] for i in members])
    measured = [(left in complexes and right in complexes) for left, right in zip(table["ligand"], table["receptor"], strict=True)]  # fmt: skip
    if not any(measured):
        raise ValueError(
            f"none of the {len(table):,} pairs of {pairs.name!r} has all of its genes among the {len(source.genes):,} of adata, such as "
            f"{', '.join(map(repr, source.genes[:3]))}; the pairs are of genes such as {', '.join(map(repr, names[:3]))}. Pass pairs= "
            "of your species and names, or gene_key=."
        )
    least = max(min_share * len(rows), 1)
    expressed = {name for name, column in complexes.items() if column.nnz >= least}
    kept = np.array([
        m and left in expressed and right in expressed
        for m, left, right in zip(measured, table["ligand"], table["receptor"], strict=True)
    ])  # fmt: skip
    if not kept.any():
        raise ValueError(
            f"none of the {sum(measured):,} measured pairs is expressed in at least {min_share:.0%} of the {len(rows):,} spots, ligand "
            "and receptor each. Pass a smaller min_share=, or more pairs."
        )
    table = table[kept].reset_index(drop=True)
    used = sorted({*table["ligand"], *table["receptor"]})
    index = {name: i for i, name in enumerate(used)}
    columns = np.array([[index[a], index[b]] for a, b in zip(table["ligand"], table["receptor"], strict=True)])
    programmes = np.zeros((len(rows), n_programmes))
    if n_programmes:
        for code in np.unique(library):
            own = np.flatnonzero(library == code)
            programmes[own] = principal_components(source, rows[own], n_programmes, seed)
    chosen = _random_genes(source.genes, seen >= least, seed)
    random = sp.vstack([log_normalise(block.counts)[:, chosen] for block in source.blocks(rows=rows)], format="csc")
    found = {"listed": len(pairs.table), "measured": int(sum(measured)), "tested": len(table)}
    stacked = sp.hstack([complexes[name] for name in used], format="csc")
    return Expression(stacked, np.concatenate(depth), table, columns, random, programmes, found)


def find_genes(names: list[str], genes: pd.Index) -> dict[str, int]:
    """Column of each gene, -1 where it is not there: by name, by name in capitals, then by what identifiers lead to."""
    exact = {str(name): i for i, name in enumerate(genes)}
    found = {name: exact.get(name, -1) for name in names}
    missing = [name for name, i in found.items() if i < 0]
    if not missing:
        return found
    capitals: dict[str, int] = {}
    for name, i in exact.items():
        capitals.setdefault(name.upper(), i)
    identifiers = GeneIdentifiers.load("human")
    approved: dict[str, int] = {}
    for symbol, i in zip(identifiers.to_symbol([str(name) for name in genes]), range(len(genes)), strict=True):
        if symbol:
            approved.setdefault(symbol, i)
    for name, symbol in zip(missing, identifiers.to_symbol(missing), strict=True):
        by_identifier = approved.get(symbol or name, -1)
        found[name] = by_identifier if by_identifier >= 0 else capitals.get(name.upper(), -1)
    return found


def _random_genes(genes: pd.Index, expressed: np.ndarray, seed: int) -> np.ndarray:
    """Columns of up to 200 expressed genes, whatever the order of the genes."""
    names = np.array([str(name) for name in genes])
    columns = np.flatnonzero(expressed)
    columns = columns[np.argsort(names[columns], kind="stable")]
    rng = np.random.default_rng([seed, 1])
    return rng.choice(columns, min(len(columns), _RANDOM_GENES), replace=False) if len(columns) else columns


def _least(columns: list[sp.csc_matrix]) -> sp.csc_matrix:
    least = columns[0]
    for column in columns[1:]:
        least = least.minimum(column)
    least = sp.csc_matrix(least)
    least.eliminate_zeros()
    return least


def principal_components(source: CellSource, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Scores of the first components of the most variable genes of one section, (n_rows, n), of standard deviation 1.

    They are 0 where there are fewer components. The counts are read twice, so that only the variable genes are held.
    """
    from sklearn.decomposition import PCA

    total, square = np.zeros(source.n_genes), np.zeros(source.n_genes)
    for block in source.blocks(rows=rows):
        logs = log_normalise(block.counts).astype(np.float64)
        total += np.asarray(logs.sum(axis=0)).ravel()
        square += np.asarray(logs.multiply(logs).sum(axis=0)).ravel()
    variance = square / len(rows) - (total / len(rows)) ** 2
    genes = np.sort(np.argsort(-variance, kind="stable")[:_VARIABLE])
    genes = genes[variance[genes] > 1e-9]
    scores = np.zeros((len(rows), n))
    k = min(n, len(rows) - 1, len(genes) // _GENES_A_COMPONENT)
    if k < 1:
        return scores
    values: Any = sp.vstack([log_normalise(block.counts)[:, genes] for block in source.blocks(rows=rows)], format="csr")
    solver = "arpack"
    if min(values.shape) <= 4 * n:  # too small for Lanczos
        values, solver = values.toarray(), "full"
    found = PCA(k, svd_solver=solver, random_state=seed).fit_transform(values.astype(np.float64))
    scores[:, :k] = found / np.maximum(found.std(axis=0), 1e-12)
    return scores
