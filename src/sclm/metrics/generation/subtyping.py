"""Whether generated tumour subtypes, or other kinds of one disease, keep their identity."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.metrics.generation.arrays import column_means, log_scale, pearson, spearman
from sclm.metrics.generation.pairs import read_samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from sclm.metrics.generation.pairs import Sample

_MIN_SHARE = 0.01
_FOLDS = 5


class Subtypes(NamedTuple):
    """Agreement of generated with real subtypes; made by `subtypes`.

    Attributes
    ----------
    summary
        One row: n_subtypes, own_nearest and own_nearest_centred (share of generated subtypes whose nearest real centroid is
        their own), own_r and own_r_centred (mean correlation with their own), signature_rho (mean over signatures, NaN
        without), accuracy (of the classifier on generated cells, mean over subtypes) and accuracy_real (the same,
        cross-validated on real cells: its ceiling).
    nearest
        One row a generated subtype: subtype, nearest, r (with its own real centroid), margin (r minus the best other),
        nearest_centred, r_centred, margin_centred, accuracy, n_real, n_generated.
    correlation
        Generated subtypes x real subtypes, Pearson correlation of centroids.
    correlation_centred
        The same after the mean over subtypes was taken off each side: what subtypes share no longer counts.
    confusion
        Generated subtypes x subtypes that the classifier found, as shares of the generated cells; rows sum to 1.
    signatures
        One row a signature and subtype: signature, subtype, real, generated (mean scores), n_genes (found in the data).
    signature_order
        One row a signature: signature, rho (Spearman of the subtypes' mean scores, real against generated), n_genes,
        n_missing.
    """

    summary: pd.DataFrame
    nearest: pd.DataFrame
    correlation: pd.DataFrame
    correlation_centred: pd.DataFrame
    confusion: pd.DataFrame
    signatures: pd.DataFrame
    signature_order: pd.DataFrame


def subtypes(
    real: AnnData,
    generated: AnnData,
    *,
    subtype_key: str,
    signatures: Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    seed: int = 0,
) -> Subtypes:
    """Whether each generated subtype is nearest to its own real one, keeps its signatures and is recognised.

    Three questions. Centroids: mean log1p CP10k of each subtype over genes in more than 1 % of the real cells, every
    generated one correlated with every real one; as all subtypes share most of their profile, also after the mean over
    subtypes is taken off. Signatures: Scanpy's score (mean of the signature minus mean of genes of like expression; here
    all genes of the same expression bins, so that nothing is drawn) of real and generated cells together, and whether the
    subtypes' means come in the same order. Recognition: logistic regression on log1p CP10k of the real subtypes, scaled by
    gene, applied to generated cells.

    Parameters
    ----------
    real, generated
        Cells with raw counts.
    subtype_key
        Column of `.obs` with the subtype, in both; subtypes that both have are compared, at least two.
    signatures
        Name → genes, for instance the genes of a PAM50 class. They are named as the data name theirs.
    layer
        Layer with raw counts of `real`, by default `.X`; of `generated` too where it has that layer.
    gene_key
        Column of `.var` with gene names of `real`, by default `.var_names`; of `generated` too where it has it.
    seed
        Of the folds of the cross-validation.

    Returns
    -------
    Subtypes
        Tables and a summary.

    Raises
    ------
    ValueError
        If fewer than two subtypes or few genes are shared, values are no raw counts, or no gene of a signature is in the
        data.
    KeyError
        If a column or layer is missing.
    """
    import pandas as pd

    samples, genes = read_samples(
        {"real": real, "generated": generated}, label_key=subtype_key, layer=layer, gene_key=gene_key
    )
    there = {name: sorted(map(str, set(s.label))) for name, s in samples.items()}
    shared = [label for label in there["real"] if label in there["generated"]]
    if len(shared) < 2:
        raise ValueError(
            f"real and generated must share at least 2 subtypes in .obs[{subtype_key!r}], found {len(shared)}: "
            f"real {there['real'][:5]}, generated {there['generated'][:5]}. Rename the subtypes of one side."
        )
    truth, made = (s.take(np.flatnonzero(np.isin(s.label, shared))) for s in (samples["real"], samples["generated"]))
    plain, centred = _centroid_correlations(truth, made, shared)
    confusion, accuracy_real = _recognise(truth, made, shared, seed)
    scores, order = _signature_tables(truth, made, shared, genes, signatures or {})

    rows = []
    for i, subtype in enumerate(shared):
        row: dict[str, object] = {"subtype": subtype}
        for suffix, table in (("", plain), ("_centred", centred)):
            others = np.delete(table[i], i)
            row[f"nearest{suffix}"] = shared[int(np.nanargmax(table[i]))] if np.isfinite(table[i]).any() else None
            row[f"r{suffix}"] = table[i, i]
            row[f"margin{suffix}"] = table[i, i] - np.max(others)
        row["accuracy"] = confusion[i, i]
        row |= {"n_real": int((truth.label == subtype).sum()), "n_generated": int((made.label == subtype).sum())}
        rows.append(row)
    nearest = pd.DataFrame(rows)
    summary = {
        "n_subtypes": len(shared),
        "own_nearest": float((nearest["nearest"] == nearest["subtype"]).mean()),
        "own_nearest_centred": float((nearest["nearest_centred"] == nearest["subtype"]).mean()),
        "own_r": float(nearest["r"].mean()),
        "own_r_centred": float(nearest["r_centred"].mean()),
        "signature_rho": float(order["rho"].mean()) if len(order) else float("nan"),
        "accuracy": float(np.diag(confusion).mean()),
        "accuracy_real": accuracy_real,
    }
    square, square_centred, found = (
        pd.DataFrame(t, index=pd.Index(shared, name="generated"), columns=pd.Index(shared, name=name))
        for t, name in ((plain, "real"), (centred, "real"), (confusion, "found"))
    )
    return Subtypes(pd.DataFrame([summary]), nearest, square, square_centred, found, scores, order)


def _centroid_correlations(truth: Sample, made: Sample, shared: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of centroids, generated x real, plain and centred, (K, K) each."""
    keep = np.flatnonzero(column_means(truth.counts > 0) > _MIN_SHARE)
    means = [
        np.stack([column_means(log_scale(side.counts[side.label == s])[:, keep]) for s in shared])  # (K, G)
        for side in (truth, made)
    ]
    result = []
    for centre in (False, True):
        real, generated = (m - m.mean(axis=0) if centre else m for m in means)
        result.append(np.array([[pearson(g, r) for r in real] for g in generated]))
    return result[0], result[1]


def _recognise(truth: Sample, made: Sample, shared: list[str], seed: int) -> tuple[np.ndarray, float]:
    """Shares of generated cells by subtype that was found, (K, K), and the cross-validated accuracy on real cells."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    log = log_scale(truth.counts)
    # Not centred, so that counts stay sparse. A weak penalty would let single genes of noise decide.
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.01, max_iter=300))
    least = min(int((truth.label == s).sum()) for s in shared)
    accuracy = float("nan")
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if least >= 2:
            folds = StratifiedKFold(min(_FOLDS, least), shuffle=True, random_state=seed)
            again = cross_val_predict(model, log, truth.label, cv=folds)
            accuracy = float(np.mean([(again == s)[truth.label == s].mean() for s in shared]))
        found = model.fit(log, truth.label).predict(log_scale(made.counts))
    return np.array([[(found == f)[made.label == s].mean() for f in shared] for s in shared]), accuracy


def _signature_tables(
    truth: Sample, made: Sample, shared: list[str], genes: pd.Index, signatures: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean score of each signature and subtype on both sides, and the agreement of the order."""
    import pandas as pd

    rows: list[dict[str, object]] = []
    order: list[dict[str, object]] = []
    present = {str(g) for g in genes}
    labels = np.r_[truth.label, made.label]
    is_real = np.arange(len(labels)) < len(truth.label)
    for name, wanted in signatures.items():
        asked = list(dict.fromkeys(map(str, wanted)))
        found = [g for g in asked if g in present]
        if not found:
            raise ValueError(
                f"signature {name!r} must name genes of the data, found none of its {len(asked)} "
                f"({', '.join(asked[:3])} …) among {', '.join(map(str, genes[:3]))} …. Pass gene_key=, or other names."
            )
        score = _score(truth, made, genes, found)
        means = [[float(score[(labels == s) & side].mean()) for s in shared] for side in (is_real, ~is_real)]
        for subtype, real, generated in zip(shared, *means, strict=True):
            rows.append({"signature": name, "subtype": subtype, "real": real, "generated": generated})
            rows[-1]["n_genes"] = len(found)
        rho = spearman(np.array(means[0]), np.array(means[1]))
        order.append({"signature": name, "rho": rho, "n_genes": len(found), "n_missing": len(asked) - len(found)})
    return (
        pd.DataFrame(rows, columns=["signature", "subtype", "real", "generated", "n_genes"]),
        pd.DataFrame(order, columns=["signature", "rho", "n_genes", "n_missing"]),
    )


def _score(truth: Sample, made: Sample, genes: pd.Index, signature: list[str]) -> np.ndarray:
    """Scanpy's score of real and generated cells together, so that both have the same control genes, (n + m,)."""
    import anndata
    import pandas as pd
    import scanpy as sc
    import scipy.sparse as sp

    log = sp.vstack([log_scale(truth.counts), log_scale(made.counts)]).tocsr()
    adata = anndata.AnnData(
        log,
        obs=pd.DataFrame(index=[str(i) for i in range(log.shape[0])]),
        var=pd.DataFrame(index=[str(g) for g in genes]),
    )
    others = len(genes) - len(signature)
    if not others:
        raise ValueError("genes outside the signature must be in the data to score it against, found none.")
    try:
        # As many controls as there are genes: all of a bin are taken, nothing is drawn, and Scanpy has no reason to set the
        # global random state.
        sc.tl.score_genes(adata, signature, ctrl_size=len(genes), random_state=None, use_raw=False)
    except RuntimeError:  # no bin has another gene: a panel so small that all others serve as controls
        own = np.flatnonzero(genes.isin(signature))
        control = np.setdiff1d(np.arange(len(genes)), own)
        inside = column_means(log[:, own].T.tocsr())
        return inside - column_means(log[:, control].T.tocsr())
    return adata.obs["score"].to_numpy(dtype=np.float64)
