"""Naming cell types in steps: the model is loaded or trained once, stretches of cells are named, all answers are put together."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from sclm import models, results
from sclm.cells import read_cells
from sclm.evidence import Ballots, over_cluster
from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology
from sclm.models.contract import Annotator
from sclm.tl._annotate_answers import Gatherer, gathered, vocabulary_options
from sclm.tl._annotate_explain import check_explain, explanation
from sclm.tl._annotate_groups import ask_groups, spread
from sclm.tl._stages import Part, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata

    from sclm.cells import CellSource

logger = logging.getLogger(__name__)

# A twentieth of cells like the reference lies above this novelty; four times that share is worth a word.
_NOVEL, _NOVEL_SHARE = 0.5, 0.2
_ESTIMATED = 2_000  # cells that tell the share of new types


class Annotating:
    """A call of :func:`sclm.tl.annotate`, prepared.

    Parameters
    ----------
    adata
        The cells; only read.
    model
        As in the tool, or with `trained` the family that it is of.
    trained
        The model that an earlier preparation of the same call made, in place of training it again.
    **given
        The other arguments of the tool, without `copy`.
    """

    def __init__(self, adata: anndata.AnnData, model: Any, *, trained: Any = None, **given: Any) -> None:
        self.given = given
        key, min_confidence, groupby = given["key_added"], given["min_confidence"], given["groupby"]
        results.check_name(key)
        if min_confidence is not None and (isinstance(min_confidence, bool | str) or not 0 < min_confidence <= 1):
            raise ValueError(
                f"min_confidence must be a number in (0, 1], found {min_confidence!r}. Use e.g. 0.8, or None for no back-off."
            )
        if groupby is not None and given["majority_voting"]:
            raise ValueError("Pass either groupby= or majority_voting=True, found both.")
        if groupby is None and given["pseudobulk"]:
            raise ValueError("pseudobulk=True sums the cells of a group, found no groupby=. Name the column of groups.")
        if given["pseudobulk"] and given["explain"]:
            raise ValueError(
                "explain= says what moved the answers of single cells, found pseudobulk=True. Leave one out."
            )
        slots: dict[str, Any] = {name: given[name] for name in ("layer", "gene_key", "invert_log1p")}
        source = read_cells(adata, **slots, obs_keys=[groupby] if groupby else [])
        annotator = _annotator(model, source, given["reference"], given, trained)
        asked = [name for name in getattr(annotator, "obs_keys", ()) if name in adata.obs and name != groupby]
        if asked:  # columns that the model reads, such as tissue and disease in a prompt
            source = read_cells(adata, **slots, obs_keys=[*asked, *([groupby] if groupby else [])])
        self.options = vocabulary_options(annotator, given["candidates"], given["under"], given["novel_share"])
        check_explain(annotator, given["explain"])
        self.match = annotator.match(source.genes)
        logger.info("genes: %s", self.match.summary())
        self.source, self.model = source, annotator
        self._groups: np.ndarray | None = None
        if groupby is not None:
            column = source.obs[groupby]
            there = column.notna().to_numpy()
            names = column.astype(str).to_numpy(dtype=object)
            self._groups = np.where(there, names, np.full(len(names), None, dtype=object))  # None: no group
        elif given["majority_voting"]:
            self._groups = over_cluster(source, seed=given["seed"])
        if given["novel_share"] is None and hasattr(annotator, "estimate_novel_share"):
            rows = np.arange(source.n_cells)
            if given["pseudobulk"] and self._groups is not None:
                rows = rows[pd.notna(self._groups)]
            some = np.random.default_rng([given["seed"], 23]).permutation(rows)[:_ESTIMATED]
            share = annotator.estimate_novel_share(source.read(np.sort(some)), **self.options)
            self.options["novel_share"] = share
            logger.info("estimated share of cells of new types: %.3f", share)
        self._ballots: Ballots | None = None
        self._ontology = Ontology.load("cl")

    @staticmethod
    def needs_all(arguments: Mapping[str, Any]) -> str | None:
        """The argument with which a cell's result depends on the other cells, or None."""
        return next((name for name in ("groupby", "majority_voting", "explain") if arguments.get(name)), None)

    def part(self, rows: np.ndarray | None = None) -> Part:
        """The cells of these rows, or all."""
        groups, pseudobulk = self._groups, self.given["pseudobulk"]
        vote = None if groups is None or pseudobulk else lambda n_types: Ballots(groups, n_types)
        gatherer = Gatherer(vote, self.given["min_confidence"], self._ontology)
        n_cells = self.source.n_cells if rows is None else len(rows)
        if pseudobulk and groups is not None:
            answer = ask_groups(self.model, self.source, groups, self.given["batch_size"], **self.options)
            for block in spread(answer, groups):
                gatherer.add(block)
            return gatherer.finish()
        with tqdm(total=n_cells, desc="annotate", unit=" cells", delay=2, leave=False) as bar:
            for cells in self.source.blocks(self.given["batch_size"], rows):
                gatherer.add(self.model.annotate(cells, **self.options))
                bar.update(len(cells.obs))
        self._ballots = gatherer.ballots
        return gatherer.finish()

    def whole(self, parts: Sequence[Part]) -> Whole:
        """All parts, in the order of the cells."""
        given, key, seed = self.given, self.given["key_added"], self.given["seed"]
        found = gathered(parts, self._ballots, given["min_confidence"], self._ontology)
        if given["pseudobulk"] and self._groups is not None:
            if alone := int(pd.isna(self._groups).sum()):
                logger.warning("%d cells are in no group: 'unknown' with confidence 0.", alone)
        else:  # a sum is always a little unlike single cells
            _warn(found.label, found.novelty)
        explain, explained = given["explain"], {}
        if explain:
            explained = explanation(self.model, self.source, found.label, explain, self.options, seed)
        params = {
            name: given[name]
            for name in (
                "table_key", "mod", "layer", "gene_key", "label_key", "batch_key", "reference_layer", "reference_gene_key", "invert_log1p", "candidates", "under",
                "min_confidence", "groupby", "pseudobulk", "majority_voting", "explain",
            )
        }  # fmt: skip
        match, model = self.match, self.model
        entry = results.record(
            "annotate",
            model=model.provenance() if hasattr(model, "provenance") else {"family": type(model).__name__},
            params=params
            | {name: self.options.get(name) for name in ("candidates", "novel_share")}
            | {"explain": explain or None},
            seed=seed,
            categories=found.categories["label"].tolist(),
            category_ontology_term_ids=found.categories["ontology_term_id"].tolist(),
            genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
            ontology=_ontology(model),
            **({"left_out": found.left_out} if found.left_out else {}),
            **_facts(model),
            **explained,
        )
        answer, alone = found.answer, self._groups is None or given["pseudobulk"]
        obs = {
            key: pd.Categorical(answer["label"]),
            f"{key}_ontology_term_id": pd.Categorical(answer["ontology_term_id"]),
            f"{key}_confidence": answer["confidence"],
            f"{key}_novelty": found.novelty,
            f"{key}_per_cell": None if alone else pd.Categorical(answer["per_cell"]),
            f"{key}_vote_fraction": None if alone else answer["vote_fraction"],
        }
        return Whole(key, entry, obs, {f"{key}_probabilities": found.probabilities})


def _warn(label: np.ndarray, novelty: np.ndarray) -> None:
    """Say how many cells have no counts, and whether more than the usual share is new."""
    empty = int((label == UNKNOWN).sum())
    if empty:
        logger.warning("%d cells have no counts in the model's genes: 'unknown' with confidence 0.", empty)
    novel = float((novelty > _NOVEL).mean())
    if novel > _NOVEL_SHARE:
        logger.warning(
            "%.0f %% of the cells have a novelty above %.1f, where 5 %% of cells like the reference lie: another protocol, or "
            "types that the reference lacks. Their names may be wrong however confident they are.",
            100 * novel, _NOVEL,
        )  # fmt: skip


def _annotator(
    model: Any, source: CellSource, reference: anndata.AnnData | None, given: Mapping[str, Any], trained: Any
) -> Any:
    """The trained model: loaded, or trained now on the genes that the reference and the data share."""
    if trained is not None:
        return trained
    label_key, batch_key = given["label_key"], given["batch_key"]
    layer, gene_key = given["reference_layer"], given["reference_gene_key"]
    if reference is None:
        of_reference = ("label_key", "batch_key", "reference_layer", "reference_gene_key")
        if extra := [name for name in of_reference if given[name] is not None]:
            raise ValueError(
                f"{' and '.join(extra)} describe a reference, found no reference. Pass reference= as well."
            )
        annotator = model if isinstance(model, Annotator) and not isinstance(model, type) else models.load(model)
        if not isinstance(annotator, Annotator):
            raise ValueError(f"{getattr(annotator, 'family', type(annotator).__name__)!r} does not annotate cells.")
        return annotator
    if label_key is None:
        columns = ", ".join(map(str, list(getattr(reference, "obs", pd.DataFrame()).columns)[:20]))
        raise ValueError(
            f"label_key= must name the column of reference.obs with the cell types, found None. Columns: {columns or 'none'}."
        )
    if not isinstance(model, str) or model not in models.FAMILIES:
        raise ValueError(
            f"With reference=, model must be a family to train ({', '.join(map(repr, models.FAMILIES))}), found {model!r}. "
            "Leave reference= out to use a trained model."
        )
    family = models.family_class(model)
    if not hasattr(family, "annotate"):
        raise ValueError(f"{model!r} does not annotate cells. Use e.g. 'logistic', the default.")
    vocabulary_options(family, given["candidates"], given["under"], given["novel_share"])  # refused before training
    check_explain(family, given["explain"])
    keys = [label_key] + ([batch_key] if batch_key else [])
    try:
        labelled = read_cells(
            reference, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=given["invert_log1p"]
        )
    except (KeyError, TypeError, ValueError) as error:
        # The same messages, in the words of this call: adata.X → reference.X, layer= → reference_layer=.
        text = re.sub(r"\badata\b", "reference", str(error.args[0]))
        raise type(error)(re.sub(r"\b(layer|gene_key)=", r"reference_\1=", text)) from error
    options = {"batch_key": batch_key} if batch_key else {}
    return family.fit(labelled, label_key=label_key, genes=source.genes, seed=given["seed"], **options)


def _ontology(annotator: Any) -> dict[str, str]:
    """Ontology that the model's terms were resolved with, and the one that names and back-off come from now."""
    now = Ontology.load("cl").version
    trained = getattr(getattr(annotator, "config", None), "ontology_version", "") or now
    return {"name": "cl", "version": now, "version_in_training": trained}


def _facts(annotator: Any) -> dict[str, Any]:
    """How a reference's labels were resolved and what its card says, where the model knows."""
    facts: dict[str, Any] = {}
    labels = getattr(annotator, "reference_labels", None)
    if labels is not None:
        facts["reference_labels"] = labels
    if getattr(annotator, "card", None):
        facts["card"] = annotator.card
    return facts
