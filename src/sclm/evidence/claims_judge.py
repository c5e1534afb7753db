"""From a view and statements to verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from sclm.evidence.claims import KINDS, claim_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from sclm.cells import GeneVocabulary
    from sclm.evidence.claims import Statement
    from sclm.evidence.claims_identity import Fit, TermEvidence
    from sclm.evidence.claims_metadata import MetadataTerms
    from sclm.evidence.claims_thresholds import ClaimThresholds
    from sclm.evidence.claims_views import View
    from sclm.knowledge import Pathways

Row = tuple[object, ...]
_NAN = float("nan")
_SHOWN = 5  # markers named in a reason


class Judge:
    """Checks statements of each kind against a view.

    Parameters
    ----------
    evidence
        Of cell types.
    vocabulary
        Genes of the data, in the order of the columns.
    sets, kept
        The collection, and the places in it of the sets that the view's activity holds.
    terms
        Words of tissues and diseases.
    thresholds
        Where statements are kept, softened or removed.
    """

    def __init__(
        self, evidence: TermEvidence, vocabulary: GeneVocabulary, sets: Pathways, kept: np.ndarray, terms: MetadataTerms,
        thresholds: ClaimThresholds,
    ) -> None:  # fmt: skip
        self.evidence, self.vocabulary, self.sets, self.terms, self.thresholds = (
            evidence,
            vocabulary,
            sets,
            terms,
            thresholds,
        )
        self.column_of_set = {int(place): i for i, place in enumerate(kept)}
        self._genes: dict[str, int] = {}
        self._types: dict[str, str] = {}

    def __call__(self, view: View, statements: Sequence[Statement]) -> pd.DataFrame:
        """One row a statement, in their order."""
        wrong = sorted({s.kind for s in statements} - set(KINDS))
        if wrong:
            raise ValueError(
                f"statements must be of {', '.join(map(repr, KINDS))}, found {', '.join(map(repr, wrong))}."
            )
        far = [s.row for s in statements if not 0 <= s.row < len(view.names)]
        if far:
            raise ValueError(f"rows of statements must lie in 0 to {len(view.names) - 1}, found {far[0]}.")
        rows: list[Row] = [()] * len(statements)
        for kind, judge in (("identity", self._identities), ("gene", self._of_genes), ("pathway", self._of_sets)):
            places = [i for i, s in enumerate(statements) if s.kind == kind]
            for i, row in zip(places, judge(view, [statements[i] for i in places]), strict=True):
                rows[i] = row
        for i, s in enumerate(statements):
            if s.kind in ("tissue", "disease"):
                found = self.terms.judge(s.kind, s.value, view.shares[s.row].get(s.kind))
                support = _NAN if found.verdict == "not verifiable" else found.share
                rows[i] = (
                    s.row,
                    s.kind,
                    s.value,
                    found.id,
                    found.verdict,
                    support,
                    "share of annotated cells",
                    found.share,
                    _NAN,
                    found.reason,
                )
        return claim_table(rows)

    def type_id(self, statement: Statement) -> str:
        """Ontology id of a stated cell type, ``""`` where the words mean none."""
        text = statement.id or statement.value
        if text not in self._types:
            match = self.evidence.ontology.resolve(text, min_score=0.9)
            self._types[text] = match.term_id or ""
        return self._types[text]

    def support(self, level: str, figures: np.ndarray) -> np.ndarray:
        """(n,) support of identities from their :func:`features`."""
        a, *rest = self.thresholds.cell if level == "cell" else self.thresholds.group
        return special.expit(a + figures @ np.array(rest))

    def _identities(self, view: View, statements: list[Statement]) -> list[Row]:
        ids = [self.type_id(s) for s in statements]
        rows: list[Row] = [()] * len(statements)
        for term in dict.fromkeys(ids):
            places = [i for i, found in enumerate(ids) if found == term]
            at = np.array([statements[i].row for i in places])
            fit = self.evidence.fit(view.scores[at], term) if term else None
            if fit is None:
                reason = (
                    "no markers of this type are known" if term else "no cell type of the Cell Ontology has this name"
                )
                for i in places:
                    s = statements[i]
                    rows[i] = (
                        s.row,
                        s.kind,
                        s.value,
                        term or "unknown",
                        "not verifiable",
                        _NAN,
                        "",
                        _NAN,
                        _NAN,
                        reason,
                    )
                continue
            found = self.raised_markers(view, at, term)
            support = self.support(view.level, features(fit, found))
            raised = self._raised(view, found)
            for j, i in enumerate(places):
                s, t = statements[i], self.thresholds
                rival = self.evidence.ontology.name_of(self.evidence.terms[fit.rival[j]])
                if support[j] < t.remove:
                    verdict, more = "removed", f"; {rival} fits better" if min(fit.far[j], fit.near[j]) < 0 else ""
                elif support[j] < t.keep:
                    verdict, more = (
                        "softened",
                        f"; {rival} is the next best" if fit.far[j] > 0 else f"; {rival} fits as well",
                    )
                elif not found[j][0]:
                    verdict, more = "softened", f"; {rival} is the next best"
                elif fit.near[j] < t.rival:
                    verdict, more = "softened", f"; the related {rival} fits better"
                else:
                    verdict, more = "kept", ""
                rows[i] = (
                    s.row, s.kind, s.value, term, verdict, float(support[j]), "score of its markers against other cells (sd)", float(fit.z[j]),
                    _NAN, raised[j] + more,
                )  # fmt: skip
        return rows

    def markers(self, term: str) -> tuple[np.ndarray, bool]:
        """Columns of the markers of a type, and whether they are its own: where it has none, those of types below or above."""
        evidence = self.evidence
        ontology = evidence.ontology
        for near in ([term], sorted(ontology.descendants(term)), sorted(ontology.ancestors(term))):
            places = [evidence.terms.index(t) for t in near if t in evidence._place]
            use = evidence.own[places].any(axis=0) if places else np.zeros(len(evidence.columns), dtype=bool)
            if use.any():
                return evidence.columns[use], near[0] == term
        return np.zeros(0, dtype=np.int64), False

    def raised_markers(self, view: View, at: np.ndarray, term: str) -> list[tuple[list[str], int]]:
        """For each row, markers of a type that are raised there, best first, and how many there are; 0 where they are not its own."""
        columns, own = self.markers(term)
        if not len(columns):
            return [([], 0)] * len(at)
        found = view.genes.at(np.repeat(at, len(columns)), np.tile(columns, len(at)))
        support, value = (x.reshape(len(at), len(columns)) for x in (found.support, found.value))
        names = np.asarray(self.vocabulary.tokens, dtype=object)[columns]
        out = []
        for s, v in zip(support, value, strict=True):
            order = np.lexsort((np.arange(len(v)), -v, -s))
            out.append(
                ([str(n) for n in names[order[s[order] >= self.thresholds.gene_keep]]], len(columns) if own else 0)
            )
        return out

    def _raised(self, view: View, found: list[tuple[list[str], int]]) -> list[str]:
        words = "raised" if view.level == "group" else "on"
        out = []
        for names, n in found:
            listed = f" ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})" if names else ""
            out.append(
                f"{len(names)} of {n} known markers {words}{listed}"
                if n
                else f"{len(names)} markers of such types {words}{listed}"
            )
        return out

    def gene_column(self, name: str) -> int:
        """Column of a stated gene, -1 where the data lack it."""
        if name not in self._genes:
            self._genes[name] = -1
            for text in (name, name.upper()):
                found = self.vocabulary.match([text]).ids[0]
                if found >= 0:
                    self._genes[name] = int(found)
                    break
        return self._genes[name]

    def _of_genes(self, view: View, statements: list[Statement]) -> list[Row]:
        columns = np.array([self.gene_column(s.id or s.value) for s in statements], dtype=np.int64)
        there = np.flatnonzero(columns >= 0)
        found = view.genes.at(np.array([statements[i].row for i in there], dtype=np.int64), columns[there])
        rows: list[Row] = [
            (
                s.row,
                s.kind,
                s.value,
                s.id or "unknown",
                "not verifiable",
                _NAN,
                "",
                _NAN,
                _NAN,
                "the data do not hold this gene",
            )
            for s in statements
        ]
        for j, i in enumerate(there):
            s, support = statements[i], float(found.support[j])
            t = self.thresholds
            verdict = (
                "kept" if support >= t.gene_keep else "softened" if support >= max(t.gene_remove, 1e-12) else "removed"
            )
            rows[i] = (
                s.row, s.kind, s.value, self.vocabulary.tokens[columns[i]], verdict, support, view.genes.statistic, float(found.value[j]),
                float(found.q[j]), found.note[j],
            )  # fmt: skip
        return rows

    def _of_sets(self, view: View, statements: list[Statement]) -> list[Row]:
        rows: list[Row] = []
        activity, t = view.activity, self.thresholds
        for s in statements:
            place = self.sets.find(s.id or s.value)
            column = self.column_of_set.get(place, -1)
            if column < 0:
                reason = (
                    f"no set of {self.sets.name!r} has this name"
                    if place < 0
                    else "too few genes of this set are in the data"
                )
                rows.append((s.row, s.kind, s.value, s.id or "unknown", "not verifiable", _NAN, "", _NAN, _NAN, reason))
                continue
            p, q, z = (float(x[s.row, column]) for x in (activity.p, activity.q, activity.z))
            verdict = "kept" if q <= t.q else "softened" if p <= t.p else "removed"
            support = max(0.0, 1.0 - q) if verdict == "kept" else 0.5 if verdict == "softened" else 0.0
            reason = f"AUCell {activity.score[s.row, column]:.3f}, p = {p:.2g}, q = {q:.2g} against random sets of like genes"
            rows.append(
                (
                    s.row,
                    s.kind,
                    s.value,
                    self.sets.ids[place],
                    verdict,
                    support,
                    "activity over other cells (z)",
                    z,
                    q,
                    reason,
                )
            )
        return rows


def features(fit: Fit, raised: Sequence[tuple[list[str], int]]) -> np.ndarray:
    """(n, 3) what the support of an identity is made of: see :class:`~sclm.evidence.claims_thresholds.ClaimThresholds`."""
    some = np.array([bool(names) for names, _ in raised], dtype=np.float64)
    return np.column_stack([np.clip(fit.z, -2.0, 3.0), np.clip(fit.far, -8.0, 8.0), some])
