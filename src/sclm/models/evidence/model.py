"""The family: statistics in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from sclm.cells import GeneVocabulary
from sclm.evidence import Statement, faithfulness
from sclm.evidence.claims_metadata import common_values, is_healthy
from sclm.evidence.claims_wording import Said, describe_cell, describe_group
from sclm.models.contract import Description
from sclm.models.evidence.choosing import choose_identities, choose_pathways, telling_genes
from sclm.models.family import Family
from sclm.models.labels import label_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.cells import Cells, GeneMatch
    from sclm.evidence import CellChecker, GroupChecker
    from sclm.evidence.claims_judge import Judge
    from sclm.evidence.claims_views import View

LABEL = "cell_type"  # column of obs that names what a cell or group is labelled
_VALUES = 3  # of tissues and of diseases that are repeated


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """How much is said.

    Attributes
    ----------
    markers, genes, pathways
        Of a group, at most: known markers of its type, further genes, pathways.
    cell_markers, cell_genes, cell_pathways
        Of a single cell.
    """

    markers: int = 6  # what a reader takes in at a glance
    genes: int = 5
    pathways: int = 3
    cell_markers: int = 4  # a shallow cell shows few
    cell_genes: int = 3
    cell_pathways: int = 2


class Evidence(Family):
    """Cells and groups described by their own statistics: needs no training, no network and no language model.

    What is said is chosen from the data: the cell type that the known markers speak for (or the label that the user wants checked),
    the markers of it that are raised, further genes that set the cell or group apart, the gene sets that are more active than random ones, tissue and
    disease where the metadata name them. Every statement goes through the checker before it is written, as those of a language model do;
    so this is also the baseline of families that write freely.

    Parameters
    ----------
    config
        How much is said.
    """

    family: ClassVar[str] = "evidence"
    Config: ClassVar[type] = EvidenceConfig

    @classmethod
    def ready(cls, **options: Any) -> Self:
        """The model; ``options`` are fields of its configuration."""
        card = {
            "data": "none: nothing was trained; markers of the bundled knowledge graph (CC BY 4.0, BSD-3-Clause), gene sets as given",
            "split": "thresholds were chosen on sorted blood cells (Zheng et al. 2017) and frozen",
            "limits": "Names cell types that have known markers. Human genes. Tissue and disease are repeated from the metadata, never inferred.",
        }
        return cls(EvidenceConfig(**options), GeneVocabulary(()), card)

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`, of which there are none."""
        return cls(config, vocabulary, card)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap with the genes of the knowledge graph; the checker raises where too few are markers."""
        from sclm.knowledge import KnowledgeGraph

        graph = KnowledgeGraph.default()
        names = tuple(dict.fromkeys(graph.nodes["name"].iloc[graph.rows("gene")].astype(str)))
        return GeneVocabulary(names).match(genes)

    def describe(self, cells: Cells, *, checker: CellChecker | GroupChecker, seed: int = 0) -> Description:
        """One text a cell or group.

        Parameters
        ----------
        cells
            A block of cells, or one pseudobulk cell a group with a checker of groups. A column ``cell_type`` of ``obs`` is what each is
            labelled: it is checked and, where the markers speak against it, said so. Empty or missing: the markers decide.
        checker
            Fitted on all cells of the data: :class:`sclm.evidence.CellChecker`, or :class:`sclm.evidence.GroupChecker` for groups.
        seed
            Not used: nothing here is random.

        Returns
        -------
        Texts and claims.
        """
        view, judge = checker.view(cells), checker.judge
        n, of_groups = len(view.names), view.level == "group"
        c = self.config
        n_markers, n_genes, n_sets = (
            (c.markers, c.genes, c.pathways) if of_groups else (c.cell_markers, c.cell_genes, c.cell_pathways)
        )
        ontology = judge.evidence.ontology
        named = choose_identities(view, judge.evidence)
        labels = _labels(cells, n)
        names = [ontology.name_of(term) if term else "" for term in named]
        first = judge(
            view,
            [
                Statement(i, "identity", labels[i] or names[i], "" if labels[i] else named[i])
                for i in range(n)
                if labels[i] or named[i]
            ],
        )
        if not of_groups:
            first = _own_choice(first, labels)
        identity = {int(row): i for i, row in enumerate(first["row"])}
        markers = self._markers(judge, view, first)
        # Where a label is removed, the text names what the markers support instead: a statement like any other.
        against = [
            i for i, at in identity.items()
            if labels[i] and named[i] and first["verdict"].iloc[at] == "removed" and first["id"].iloc[at] != named[i]
        ]  # fmt: skip
        other = _own_choice(judge(view, [Statement(i, "identity", names[i], named[i]) for i in against]), [""] * n)
        supported = set(other.loc[other["verdict"] == "softened", "row"])

        members = checker.background.members.tocsc()
        allowed = telling_genes(judge.vocabulary.tokens)
        statements: list[Statement] = []
        places = [{field: common_values(of) for field, of in shares.items()} for shares in view.shares]
        for i in range(n):
            raised, _ = markers.get(i, ([], 0))
            known = set(raised)
            further = [
                g for g in (judge.vocabulary.tokens[column] for column in view.genes.top(i, allowed)) if g not in known
            ]
            statements += [Statement(i, "gene", gene, gene) for gene in (*raised[:n_markers], *further[:n_genes])]
            for column in choose_pathways(view, i, members, judge.thresholds.q, n_sets):
                place = int(checker.kept[column])
                statements.append(Statement(i, "pathway", judge.sets.phrases[place], judge.sets.ids[place]))
            statements += [Statement(i, field, v) for field, of in places[i].items() for v in _stated(of)]
        rest = judge(view, statements)
        genes: list[list[str]] = [[] for _ in range(n)]
        sets: list[list[tuple[str, float]]] = [[] for _ in range(n)]
        for row, kind, claim, verdict, q in zip(
            *(rest[c].tolist() for c in ("row", "kind", "claim", "verdict", "q")), strict=True
        ):
            if verdict == "kept" and kind == "gene":
                genes[row].append(claim)
            elif verdict == "kept" and kind == "pathway":
                sets[row].append((claim, q))
        ids, verdicts, stated = (first[c].tolist() for c in ("id", "verdict", "claim"))

        texts = []
        for i in range(n):
            said = Said(metadata={field: of for field, of in places[i].items() if of})
            if i in identity:
                at = identity[i]
                raised, n_known = markers.get(i, ([], 0))
                if labels[i] or verdicts[at] != "removed":
                    instead = names[i] if i in supported else ""
                    said = said._replace(
                        identity=ontology.name_of(ids[at]) if ids[at] in ontology else stated[at], verdict=verdicts[at], instead=instead,
                        markers=raised[:n_markers], n_raised=len(raised) if n_known else 0, n_markers=n_known,
                    )  # fmt: skip
            said = said._replace(genes=[g for g in genes[i] if g not in said.markers], pathways=sets[i])
            share = float(view.n_cells[i]) / max(checker.n_cells, 1)
            texts.append(
                describe_group(said, str(view.names[i]), int(view.n_cells[i]), share)
                if of_groups
                else describe_cell(said)
            )
        claims = pd.concat([part for part in (first, other, rest) if len(part)] or [rest], ignore_index=True)
        claims = claims.iloc[np.argsort(claims["row"].to_numpy(), kind="stable")].reset_index(drop=True)
        table = pd.DataFrame(
            {"text": np.array(texts, dtype=object), "faithfulness": faithfulness(claims, n)}, index=cells.obs.index
        )
        return Description(table, claims)

    def _markers(self, judge: Judge, view: View, identities: pd.DataFrame) -> dict[int, tuple[list[str], int]]:
        """Row → markers of its type that are raised, and how many the data hold; for types that are kept or softened."""
        found: dict[int, tuple[list[str], int]] = {}
        standing = identities[identities["verdict"].isin(["kept", "softened"])]
        for term, rows in standing.groupby("id", sort=False)["row"]:
            at = rows.to_numpy()
            found |= dict(zip(at.tolist(), judge.raised_markers(view, at, str(term)), strict=True))
        return found


def _labels(cells: Cells, n: int) -> list[str]:
    """What each row is labelled; empty where it is not."""
    if LABEL not in cells.obs:
        return [""] * n
    return label_texts(cells.obs[LABEL])


def _stated(values: Mapping[str, float]) -> list[str]:
    """Values of a field that a text names: the most common ones, and one for all donors without disease."""
    well = [v for v in values if is_healthy(v)]
    return [v for v in values if v not in well][:_VALUES] + well[:1]


def _own_choice(identities: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """A type that the markers of one cell chose is "consistent with" at best: what chose it cannot confirm it.

    Of 3,774 sorted blood cells, two thirds of such names are true and a fifth are a relative's.
    """
    own = (identities["verdict"] == "kept").to_numpy() & np.array(
        [not labels[row] for row in identities["row"]], dtype=bool
    )
    out = identities.copy()
    out.loc[own, "verdict"] = "softened"
    out.loc[own, "reason"] += "; named by the same markers"
    return out
