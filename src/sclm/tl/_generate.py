"""Write cells from metadata alone."""

from __future__ import annotations

import logging
import time
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from sclm import models, results
from sclm.models.contract import CellWriter, Generator
from sclm.tl._generate_columns import GROUP, group_names, guard_groups, metadata_columns, request_as_text
from sclm.tl._generate_file import Parts, destination
from sclm.tl._generate_plain import write_plain
from sclm.tl._model import check_device, loaded, on_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata
    import scipy.sparse as sp

    from sclm.models.family import Family

logger = logging.getLogger(__name__)

LEVELS = "X_sclm_pgl"
_MAX_LABELS = 40  # distinct values of a column that is worth colouring cells by


class Block(NamedTuple):
    """Cells as they are kept until all are written."""

    counts: sp.csr_matrix  # (n, n_genes) float32
    obs: pd.DataFrame  # metadata, log likelihood, flags, and the guard's group in column GROUP
    levels: np.ndarray  # (n, K) float32


def generate(
    request: pd.DataFrame,
    model: str | Path | Family | Generator,
    *,
    guidance: float = 0.0,
    max_novelty: float = 0.5,
    path: str | Path | None = None,
    key_added: str = "sclm_generate",
    batch_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> anndata.AnnData:
    r"""Write cells that have the requested metadata: whole transcriptomes of raw counts.

    What each requested value means to the model is settled first. A kind of what was trained on ("T cell" after training on
    its subtypes) is written as these kinds, in the shares that the model gives them. A term that no training cell has is
    written as what it is a kind of, with a warning and a novelty. A value with no relation to anything in training is
    refused with the nearest known ones. Fields that the request leaves out are written as the model finds them in such cells.

    Written cells are hypotheses of a model, not observations. Every cell is compared with the training cells of its
    condition by :class:`sclm.evidence.PlausibilityGuard`; how far to trust the rest is what :mod:`sclm.metrics.generation`
    measures, on real cells that were held out.

    Parameters
    ----------
    request
        One row a cell, as :func:`sclm.request` makes it: a column a field, any subset of the model's; ``n_counts`` asks for
        a depth (sum of raw counts, expected), ``"unknown"`` leaves a field open for a cell.
    model
        A trained model, its folder, a published name or ``"hf:organisation/name"``.
    guidance
        Classifier-free guidance :math:`w` in [0, 3]: programmes are drawn from
        :math:`p(z \mid c)^{1+w}\,p(z)^{-w}`, so that larger values write more typical, less varied cells (Ho & Salimans
        2022). 0 writes cells as varied as the training cells.
    max_novelty
        Most novelty, in [0, 1], of a term that no training cell has; what is farther away is refused.
    path
        File to write to while cells are made, for more cells than fit in memory: a name that ends in ``.h5ad`` or ``.zarr``.
        An interrupted call goes on where it stopped when it is made again with the same request, model and seed; finished
        parts lie in ``<path>.parts`` until then. Memory then holds one part of about 4,000 cells and ``.obs``.
    key_added
        Where in ``.uns`` the record goes.
    batch_size
        Cells that are written at a time, rounded up to a multiple of 256; changes memory and speed, never the cells.
    device
        Where the network runs for this call: ``"cpu"``, ``"cuda"``, ``"auto"`` …; where it is when None.
    seed
        Of everything random, from 0 to 2⁶⁴ - 1. The same seed, request and model give the same cells.

    Returns
    -------
    A new AnnData; with ``path`` that file, opened for reading: a ``.h5ad`` backed, of a ``.zarr`` everything but ``.X`` in
    memory. Sets:

    ``.X`` : CSR float32 (n_obs, n_genes)
        Raw counts, whole numbers; ``.var_names`` are the model's genes.
    ``.obs[<field>]`` : categorical
        The request as it was made, and the fields that it left out as the model wrote them.
    ``.obs["<field>_written"]`` : categorical
        The training value as which a cell was written, for fields where it differs from the requested value in some cell.
    ``.obs["<field>_ontology_term_id"]`` : categorical
        For fields that were trained with an ontology, ``"unknown"`` where a value is no term.
    ``.obs["n_counts"]`` : float64
        The requested depth, where there is one.
    ``.obs["sclm_log_likelihood"]`` : float64, nats
        Log likelihood of the counts under the metadata as which the cell was written.
    ``.obs["sclm_novelty"]`` : float32, 0–1
        How far the requested metadata lie from what was trained on; 0: seen.
    ``.obs["sclm_plausibility"]`` : float64, 0–1
        Share of training cells that are at least as unusual in their condition.
    ``.obs["sclm_implausible"]`` : bool
        More unusual than 99 % of training cells in at least one check, which are ``.obs["sclm_implausible_library_size"]``,
        ``…_zero_fraction``, ``…_markers``, ``…_exclusive_markers`` and ``…_mitochondrial``.
    ``.obsm["X_sclm_pgl"]`` : float32 (n_obs, n_programmes)
        Levels of the cells' gene programmes.
    ``.uns["sclm_generate"]`` : dict
        The record: tool, model, parameters, seed, ``values`` (what each requested value was taken for), ``warnings``,
        ``plausibility`` (share of implausible cells a group, beside training cells), ``label_keys`` (columns to colour by).
        :func:`sclm.get.generate` and its siblings read it.

    A model of family ``cell2sentence`` has no training cells to compare with: it writes ``.obs`` with the request,
    ``sclm_words``, ``sclm_unknown_words`` and ``sclm_repeated_genes``, and a record whose ``writing`` holds the line from
    ranks to expression.

    Raises
    ------
    TypeError
        If the request is no DataFrame, the model cannot write cells, or an argument is of the wrong kind.
    KeyError
        If the request has a column that is no field of the model.
    ValueError
        If the request is empty, has missing values or values without relation to the training data, or an argument is out
        of range.
    FileExistsError
        If ``path`` is there, or its parts are those of another call. In all cases nothing is written.

    Notes
    -----
    After Portraying Gene Language (Choi et al. 2026); what its preprint leaves open, and what was chosen, is in the
    documentation of the family.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()[:200, :60].copy()
    >>> model = sclm.train("pgl", adata, obs_keys=["cell_type"], preset="tiny", max_epochs=1, progress_bar=False)
    >>> cells = sclm.tl.generate(sclm.request(30, cell_type="B cell"), model)
    >>> cells.shape, cells.X.dtype.name
    ((30, 60), 'float32')
    >>> cells.obs["cell_type_ontology_term_id"].unique().tolist()
    ['CL:0000236']
    """
    _check_arguments(guidance, max_novelty, batch_size, seed)
    results.check_name(key_added)
    target = None if path is None else destination(path)
    found = model if isinstance(model, Generator) else models.load(model)
    if isinstance(found, CellWriter) and not isinstance(found, Generator):
        _check_request(request, [])
        unused: dict[str, tuple[Any, Any]] = {"guidance": (guidance, 0.0), "max_novelty": (max_novelty, 0.5)}
        unused |= {"path": (path, None), "batch_size": (batch_size, None)}
        return write_plain(request, found, unused=unused, key_added=key_added, device=device, seed=int(seed))
    generator = _generator(found, device)
    _check_request(request, generator.conditions.names)
    resolved = generator.conditions.resolve(request, max_novelty=max_novelty)
    request = request_as_text(request)
    for warning in resolved.warnings:
        logger.warning("%s", warning)

    parts = None
    if target is not None:
        call = {
            "model": generator.provenance()["sha256"],
            "seed": int(seed),
            "guidance": float(guidance),
            "max_novelty": float(max_novelty),
            "device": str(device or getattr(generator, "device", "cpu")),  # rounds in its own way
        }
        parts = Parts.open(target, request, call)
    n, started, kept = len(request), time.perf_counter(), []
    done = 0 if parts is None else parts.n_cells
    with (
        on_device(generator, device),
        tqdm(total=n, initial=done, desc="generate", unit=" cells", delay=2, leave=False) as bar,
    ):
        blocks = generator.write(
            request, seed=int(seed), batch_size=batch_size, guidance=float(guidance), max_novelty=max_novelty,
            resolved=resolved, start=done,
        )  # fmt: skip
        for written in blocks if done < n else ():
            block = _judged(generator, written)
            if parts is None:
                kept.append(block)
            else:
                parts.add(block.counts, block.obs, {LEVELS: block.levels}, written.cells.genes)
            bar.update(len(block.obs))
    if parts is not None:
        parts.flush()
    rate = (n - done) / max(time.perf_counter() - started, 1e-9)

    obs = parts.obs() if parts is not None else pd.concat([block.obs for block in kept])
    shell = _without_counts(obs, resolved, request, generator, key_added, guidance, max_novelty, device, seed)
    logger.info("generated %s cells × %s genes, %.0f cells/s", f"{n:,}", f"{len(generator.guard.genes):,}", rate)
    if parts is not None:
        return parts.finish(shell)
    return _with_counts(shell, kept)


# Before any work ----------------------------------------------------------------------------------------------------


def _check_arguments(guidance: Any, max_novelty: Any, batch_size: Any, seed: Any) -> None:
    for name, value, highest in (("guidance", guidance, 3), ("max_novelty", max_novelty, 1)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number from 0 to {highest}, found {type(value).__name__} {value!r}.")
        if not 0 <= float(value) <= highest:
            raise ValueError(f"{name} must be a number from 0 to {highest}, found {value}.")
    for name, value in (("seed", seed), ("batch_size", batch_size)):
        if (name == "seed" or value is not None) and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {value!r}.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, found {seed}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}. Leave it out for 1,024 cells.")


def _generator(model: Any, device: str | None) -> Any:
    """The model, checked to write cells and to run where it should."""
    generator = loaded(model, Generator, "generate", "write cells")
    check_device(generator, device)
    return generator


def _check_request(request: Any, fields: Sequence[str]) -> None:
    """What the model's own reading of a request does not look at."""
    if not isinstance(request, pd.DataFrame):
        raise TypeError(
            f"request must be a DataFrame, one row a cell to write, found {type(request).__name__}. Make one with sclm.request."
        )
    if "n_obs" in request.columns and "n_obs" not in fields:
        raise ValueError(
            "the request has a column 'n_obs', and a request has one row a cell: pass sclm.request(like=table), which "
            "repeats the rows."
        )
    names = request.index.astype(str)
    if request.index.nlevels > 1 or not names.is_unique:
        twice = names[names.duplicated()][0] if request.index.nlevels == 1 else "several levels"
        raise ValueError(
            f"the index of the request becomes .obs_names and must be unique, found {twice!r} more than once. Put requests "
            "together with pandas.concat([...], ignore_index=True)."
        )


# Results ------------------------------------------------------------------------------------------------------------


def _judged(generator: Any, written: Any) -> Block:
    """A written block with its log likelihood and the guard's judgement as columns."""
    groups = guard_groups(generator.groups, written.codes)
    verdict = generator.guard.check(written.cells, groups)
    obs = written.cells.obs.copy()
    obs["sclm_log_likelihood"] = np.asarray(written.log_likelihood, dtype=np.float64)
    obs["sclm_plausibility"] = verdict["plausibility"].to_numpy()
    obs["sclm_implausible"] = verdict["implausible"].to_numpy()
    for check in verdict.columns:
        if check not in ("plausibility", "implausible"):
            obs[f"sclm_implausible_{check}"] = verdict[check].to_numpy()
    obs[GROUP] = groups
    return Block(written.cells.counts, obs, written.levels)


def _without_counts(
    obs: pd.DataFrame,
    resolved: Any,
    request: pd.DataFrame,
    generator: Any,
    key: str,
    guidance: float,
    max_novelty: float,
    device: str | None,
    seed: int,
) -> anndata.AnnData:
    """The result without ``.X`` and ``.obsm``."""
    import anndata

    conditions, guard = generator.conditions, generator.guard
    flags = {name: obs[name].to_numpy() for name in obs.columns if name.startswith("sclm_")}
    groups = obs[GROUP].to_numpy()
    columns = metadata_columns(obs, request, conditions, resolved.table)
    labels = [name for name in columns if name != "n_counts" and not name.endswith("_ontology_term_id")]
    labels = [name for name in labels if 1 < len(columns[name].categories) <= _MAX_LABELS]
    columns["sclm_log_likelihood"] = flags.pop("sclm_log_likelihood")
    columns["sclm_novelty"] = resolved.novelty[resolved.combination].astype(np.float32)
    columns |= flags

    checks = {name.removeprefix("sclm_implausible_"): v for name, v in flags.items() if "_implausible_" in name}
    verdict = pd.DataFrame({**checks, "implausible": flags["sclm_implausible"]})
    summary = guard.summary(verdict, groups, group_names(generator.groups, conditions))
    share = float(flags["sclm_implausible"].mean())
    warnings = list(resolved.warnings)
    if (warning := guard.warn(share, len(obs))) is not None:
        logger.warning("%s", warning)
        warnings.append(warning)
    entry = results.record(
        "generate",
        model=generator.provenance(),
        params={"guidance": float(guidance), "max_novelty": float(max_novelty), "device": device},
        seed=int(seed),
        n_cells=len(obs),
        requested=[str(name) for name in request.columns],
        columns=list(columns),
        label_keys=sorted(labels, key=lambda name: name != "cell_type"),
        values=resolved.table,
        warnings=np.array(warnings, dtype=object),
        implausible=share,
        implausible_training=float(guard.training_rate),
        plausibility=summary,
        card=getattr(generator, "card", None) or None,
    )
    genes = pd.Index(np.asarray(guard.genes.astype(str), dtype=object))
    shell = anndata.AnnData(obs=pd.DataFrame(index=request.index), var=pd.DataFrame(index=genes))
    results.write(shell, key, entry, obs=columns)
    return shell


def _with_counts(shell: anndata.AnnData, blocks: list[Block]) -> anndata.AnnData:
    import anndata
    import scipy.sparse as sp

    counts = sp.vstack([block.counts for block in blocks], format="csr")
    levels = np.concatenate([block.levels for block in blocks])
    return anndata.AnnData(counts, obs=shell.obs, var=shell.var, uns=shell.uns, obsm={LEVELS: levels})
