"""Put the counts of a data set into the order of a model's genes, or say why the two do not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sclm.cells.columns import move_columns
from sclm.cells.vocabulary import gene_kind, mouse_share, zebrafish_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import scipy.sparse as sp

    from sclm.cells.cells import Cells
    from sclm.cells.vocabulary import GeneMatch, GeneVocabulary

_OTHER_ENSEMBL = re.compile(r"^ENS(?!G\d)(?!MUSG)[A-Z]{3,}G\d{11}")
_TRANSCRIPT = re.compile(r"^ENS[A-Z]*[TP]\d{11}")


def align(
    cells: Cells, vocabulary: GeneVocabulary, *, min_share: float = 0.2, match: GeneMatch | None = None
) -> tuple[sp.csr_matrix, GeneMatch]:
    """Counts with one column a token of `vocabulary`; genes that the model does not know are left out.

    Parameters
    ----------
    cells
        The block of cells.
    vocabulary
        The model's genes.
    min_share
        Least share of the model's genes that the data must hold, 0–1.
    match
        Result of an earlier call with the same genes, so that a stream of blocks is matched once.

    Returns
    -------
    counts
        CSR float32 (n_cells, n_tokens), canonical; data genes that meet in one token are summed.
    match
        The :class:`~sclm.cells.GeneMatch`.

    Raises
    ------
    ValueError
        Fewer genes in common than `min_share`, with the reason (another species, another kind of identifier); or
        `match` belongs to other genes.
    """
    if match is None:
        match = vocabulary.match(cells.genes)
    if match.ids.size != len(cells.genes):
        msg = f"match must belong to the {len(cells.genes):,} genes of cells, found one for {match.ids.size:,} genes."
        raise ValueError(msg)
    require_overlap(cells.genes, vocabulary, match, min_share=min_share)
    return move_columns(cells.counts, match.ids, len(vocabulary)), match


def require_overlap(
    names: Iterable[str],
    vocabulary: GeneVocabulary,
    match: GeneMatch,
    *,
    min_share: float = 0.2,
    owner: str = "model",
    advice: str = "",
    of: str = "model",
) -> None:
    """Refuse, with the reason, data whose genes hardly meet the vocabulary.

    Parameters
    ----------
    names
        Gene names of the data, (n_data,).
    vocabulary
        The genes to meet.
    match
        What ``vocabulary.match(names)`` found.
    min_share
        Least share of the vocabulary's genes that the data must hold, 0–1; with ``of="data"`` of the data's genes that the
        vocabulary must hold.
    owner
        Whose vocabulary it is, for the message.
    advice
        A last sentence of the message.
    of
        Whose genes are counted: ``"model"`` or ``"data"``.

    Raises
    ------
    ValueError
        Fewer genes in common, with the likely cause (another species, another kind of identifier, a panel).
    """
    found, total = (int((match.ids >= 0).sum()), match.in_data) if of == "data" else (match.matched, match.in_model)
    if found >= max(1.0, min_share * total):
        return
    rule = (
        f"of the data's genes must be in the {owner}" if of == "data" else f"of the {owner}'s genes must be in the data"
    )
    msg = (
        f"at least {min_share:.0%} {rule}, found {found / max(1, total):.1%} ({match.summary()}): "
        f"{_reason([str(name) for name in names], vocabulary, owner)}"
    )
    raise ValueError(f"{msg} {advice}" if advice else msg)


def _reason(names: Sequence[str], vocabulary: GeneVocabulary, owner: str) -> str:
    n = max(1, len(names))
    genes = [t for t, gene in zip(vocabulary.tokens, vocabulary.is_gene, strict=True) if gene]
    shown = f"{', '.join(names[:3])} … against {', '.join(genes[:3])} …"
    if sum(1 for name in names if re.fullmatch(r"\d+(\.0)?", name)) > 0.5 * n:
        return (
            f"the data's gene names are numbers ({shown}), as Entrez ids or column numbers are. Pass gene_key= naming "
            "the column of adata.var with gene symbols or Ensembl ids."
        )
    of_mouse, model_of_mouse = mouse_share(names), mouse_share(genes)
    if of_mouse > 0.5 and model_of_mouse <= 0.5:
        sign = "ENSMUSG ids" if gene_kind(names) == "ensembl" else "title-case symbols"
        return f"the data look like mouse ({of_mouse:.0%} {sign}, {shown}) and the {owner} is not. {_orthologs(owner)}"
    if model_of_mouse > 0.5 and of_mouse <= 0.5:
        return f"the {owner} looks like mouse and the data do not ({shown}). {_orthologs(owner)}"
    if zebrafish_share(names) > 0.005:
        return f"the data look like zebrafish ({shown}). {_orthologs(owner)}"
    if sum(1 for name in names if _OTHER_ENSEMBL.match(name)) > 0.5 * n:
        return f"the data's Ensembl ids are of another species ({shown}). {_orthologs(owner)}"
    if sum(1 for name in names if _TRANSCRIPT.match(name)) > 0.5 * n:
        return f"the data's names are transcripts or proteins ({shown}). Sum the counts of each gene first."
    if gene_kind(names) != vocabulary.kind:
        return (
            f"the data hold {_words(gene_kind(names))}, the {owner} {_words(vocabulary.kind)} ({shown}), and few could be "
            f"translated. Pass gene_key= naming the column of adata.var with {_words(vocabulary.kind)}."
        )
    return (
        f"the names hardly meet ({shown}). If adata.var holds other gene names pass gene_key=; a gene panel or a "
        "selection of variable genes needs a model that was trained on those genes."
    )


def _orthologs(owner: str) -> str:
    return (
        f"Map them to one-to-one orthologs of the {owner}'s species first (for example from Ensembl BioMart), put the "
        "mapped names into a column of adata.var and pass gene_key= with its name."
    )


def _words(kind: str) -> str:
    return "Ensembl ids" if kind == "ensembl" else "gene symbols"
