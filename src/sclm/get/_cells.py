"""Tables of what the tools wrote about cells and genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm import results

if TYPE_CHECKING:
    import anndata
    import pandas as pd


def annotate(adata: anndata.AnnData, *, key: str = "sclm_cell_type") -> pd.DataFrame:
    """Cell types with their ids and confidences.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a cell: ``cell_type``, ``ontology_term_id``, ``confidence``, ``novelty``, and with a consensus ``per_cell`` and
    ``vote_fraction``.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> sclm.tl.annotate(adata, "mean", reference=adata, label_key="cell_type")
    >>> list(sclm.get.annotate(adata).columns)
    ['cell_type', 'ontology_term_id', 'confidence', 'novelty']
    """
    import pandas as pd

    results.read(adata, key, "annotate")
    columns = {key: "cell_type"}
    for suffix in ("ontology_term_id", "confidence", "novelty", "per_cell", "vote_fraction"):
        columns[f"{key}_{suffix}"] = suffix
    return pd.DataFrame(
        {new: adata.obs[old].array for old, new in columns.items() if old in adata.obs}, index=adata.obs_names
    )


def annotate_explanation(adata: anndata.AnnData, *, key: str = "sclm_cell_type") -> pd.DataFrame:
    """Which genes and which nodes of a knowledge graph moved the answers.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate` with ``explain=``.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a gene or node of an explained cell: ``cell``, ``answer``, ``kind``, ``name``, ``attention`` (share of what the model looked
    at) and ``effect`` (log probability of the answer with it minus without it, nats). Kinds are ``"gene"`` and ``"node"``, and a row
    ``"top genes"`` and ``"random genes"`` a cell, ``"top nodes"`` and ``"random nodes"`` likewise: all that are shown deleted together, and
    as many others. ``adata.uns[key]["faithfulness"]`` holds their means.

    Raises
    ------
    KeyError
        If there is no such result, or nothing was explained.
    """
    entry = results.read(adata, key, "annotate")
    if "explanation" not in entry:
        raise KeyError(f"adata.uns[{key!r}] has no explanation. Run sclm.tl.annotate with explain=3.")
    return entry["explanation"].reset_index(drop=True)


def probabilities(adata: anndata.AnnData, *, key: str = "sclm_cell_type") -> pd.DataFrame:
    """Calibrated probability of every cell type of the model.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    Cells × cell types, float32, rows sum to 1.

    Raises
    ------
    KeyError
        If there is no such result, or the model has no label set.
    """
    import pandas as pd

    entry = results.read(adata, key, "annotate")
    name = f"{key}_probabilities"
    if name not in adata.obsm:
        raise KeyError(f"adata.obsm has no {name!r}: the model of this result has no label set.")
    return pd.DataFrame(np.asarray(adata.obsm[name]), index=adata.obs_names, columns=list(entry["categories"]))


def embed(adata: anndata.AnnData, *, key: str) -> pd.DataFrame:
    """Vectors of cells with their names.

    Parameters
    ----------
    adata
        Embedded by :func:`sclm.tl.embed`.
    key
        ``key_added`` of that call, for example ``"X_sclm_scgpt"``.

    Returns
    -------
    Cells x width, float32; columns are numbered from 0 as text.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    results.read(adata, key, "embed")
    vectors = np.asarray(adata.obsm[key])
    return pd.DataFrame(vectors, index=adata.obs_names, columns=[str(i) for i in range(vectors.shape[1])])


def generate(adata: anndata.AnnData, *, key: str = "sclm_generate") -> pd.DataFrame:
    """What was asked for and what was written, cell by cell.

    Parameters
    ----------
    adata
        Made by :func:`sclm.tl.generate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a cell: the metadata (requested, filled in and ``<field>_written``, with ontology ids), ``log_likelihood``
    (nats), ``novelty``, ``plausibility``, ``implausible`` and one bool column a check, ``implausible_library_size`` and so
    on.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    columns = list(results.read(adata, key, "generate")["columns"])
    table = adata.obs[columns].copy()
    return table.rename(columns={name: name.removeprefix("sclm_") for name in columns})


def generate_values(adata: anndata.AnnData, *, key: str = "sclm_generate") -> pd.DataFrame:
    """What the model took each requested value to mean.

    Parameters
    ----------
    adata
        Made by :func:`sclm.tl.generate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a requested value and unseen combination: ``field``, ``value``, ``name``, ``term_id``, ``how`` (``"seen"``,
    ``"general"``, ``"fallback"``, ``"new donor"``, ``"not given"``, ``"unseen combination"``), ``nearest`` training value,
    ``n_values`` that it may be written as, ``novelty``.

    Raises
    ------
    KeyError
        If there is no such result, or the model has no training cells of its own (``"cell2sentence"``).
    """
    return _judged(adata, key, "values")


def generate_plausibility(adata: anndata.AnnData, *, key: str = "sclm_generate") -> pd.DataFrame:
    """Share of implausible cells in each group of the plausibility guard, beside that of training cells.

    Parameters
    ----------
    adata
        Made by :func:`sclm.tl.generate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    As :meth:`sclm.evidence.PlausibilityGuard.summary` gives it: one row a group, the last one ``"all"``.

    Raises
    ------
    KeyError
        If there is no such result, or the model has no training cells of its own (``"cell2sentence"``).
    """
    return _judged(adata, key, "plausibility")


def _judged(adata: anndata.AnnData, key: str, name: str) -> pd.DataFrame:
    """A table that only models with training cells of their own write."""
    entry = results.read(adata, key, "generate")
    if name not in entry:
        raise KeyError(
            f"adata.uns[{key!r}] has no {name!r}: {entry['model'].get('family')!r} writes cells without training cells of its own, "
            "which values and counts could be compared with. What it noted of each cell: sclm.get.generate."
        )
    return entry[name].reset_index(drop=True)


def perturb(adata: anndata.AnnData, *, key: str = "sclm_perturb") -> pd.DataFrame:
    """Perturbations of a screen, best first; or what is known of each perturbation whose profile was predicted.

    Parameters
    ----------
    adata
        Screened by :func:`sclm.tl.perturb`.
    key
        ``key_added`` of that call.

    Returns
    -------
    Of a screen the table of effects, each with its null, as :func:`sclm.tl.perturb` describes it. Of predicted profiles one row a
    perturbation: ``perturbation``, ``standing`` (``"seen"``, ``"combination of seen"``, ``"partly seen"`` or ``"unseen"`` in training;
    ``"unknown"`` where others trained the model),
    ``n_cells_measured``, and where they were judged ``implausible`` and ``implausible_control`` (shares of cells).

    Raises
    ------
    KeyError
        If there is no such result.
    """
    entry = results.read(adata, key, "perturb")
    if "effects" in entry:
        return entry["effects"].reset_index(drop=True)
    table = entry["facts"].reset_index(drop=True)
    if "plausibility" in entry:
        judged = entry["plausibility"].reset_index(drop=True)
        table = table.assign(**{name: judged[name] for name in ("implausible", "implausible_control", "suspect")})
    return table


def perturb_null(adata: anndata.AnnData, *, key: str = "sclm_perturb") -> pd.DataFrame:
    """Random genes of a screen's null, with their effects.

    Parameters
    ----------
    adata
        Screened by :func:`sclm.tl.perturb` with an encoder.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a random gene or combination: the columns of abundance and effect of :func:`perturb`, and ``z`` (``goal_z``) by what was
    learnt without it.

    Raises
    ------
    KeyError
        If there is no such result, or it holds predicted profiles.
    """
    entry = results.read(adata, key, "perturb")
    if "null" not in entry:
        raise KeyError(
            f"adata.uns[{key!r}] holds predicted profiles, which have no null; see sclm.get.perturb_profiles."
        )
    return entry["null"].reset_index(drop=True)


def perturb_profiles(
    adata: anndata.AnnData, method: str = "model", *, key: str = "sclm_perturb", delta: bool = False
) -> pd.DataFrame:
    """Predicted mean profiles of perturbed cells.

    Parameters
    ----------
    adata
        Predicted by :func:`sclm.tl.perturb`.
    method
        ``"model"``, or one of the baselines beside it, such as ``"additive-response"``.
    key
        ``key_added`` of that call.
    delta
        Give the change against the control profile that the predictions start from.

    Returns
    -------
    Perturbations x genes, float32: mean log1p of counts scaled to 10,000.

    Raises
    ------
    KeyError
        If there is no such result, it is one of a screen, or there is no such method.
    """
    import pandas as pd

    entry = results.read(adata, key, "perturb")
    if "predicted" not in entry:
        raise KeyError(f"adata.uns[{key!r}] holds a screen, without profiles; see sclm.get.perturb.")
    every = {"model": entry["predicted"], **entry["baselines"]}
    if method not in every:
        raise KeyError(f"No method {method!r}; there are {', '.join(map(repr, every))}.")
    values = np.asarray(every[method]) - (np.asarray(entry["control"]) if delta else np.float32(0))
    return pd.DataFrame(values, index=list(map(str, entry["perturbations"])), columns=list(map(str, entry["genes"])))


def translate(adata: anndata.AnnData, *, key: str = "sclm_protein") -> pd.DataFrame:
    """Predicted proteins of every cell.

    Parameters
    ----------
    adata
        Translated by :func:`sclm.tl.translate`.
    key
        ``key_added`` of that call.

    Returns
    -------
    Cells x proteins, float32, on the scale that the record names; NaN for cells without counts in the model's genes.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    names = [str(name) for name in results.read(adata, key, "translate")["names"]]
    return pd.DataFrame(np.asarray(adata.obsm[key]), index=adata.obs_names, columns=pd.Index(names, dtype=object))


def translate_expected(adata: anndata.AnnData, *, key: str = "sclm_protein") -> pd.DataFrame:
    """How well each protein can be expected to be predicted, beside the baselines.

    Parameters
    ----------
    adata
        Translated by :func:`sclm.tl.translate` with a model that was trained on measured proteins.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a protein: ``protein``, ``genes``, ``n_cells`` held out, ``correlation`` across them, ``rmse``, ``half_width_90`` (of the
    interval that holds nine in ten cells like the reference's), and ``correlation_…`` and ``rmse_…`` of the baselines ``ridge``,
    ``own_gene`` and ``mean``.

    Raises
    ------
    KeyError
        If there is no such result, or it comes from published weights, about which nothing is known.
    """
    entry = results.read(adata, key, "translate")
    if "expected" not in entry:
        raise KeyError(
            f"adata.uns[{key!r}] has no 'expected': the model came without measured proteins to compare with."
        )
    return entry["expected"].reset_index(drop=True)
