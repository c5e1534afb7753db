"""Genes of the data found among the genes of a model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import Cells, GeneVocabulary, align
from sclm.cells.vocabulary import composite_parts, gene_kind, mouse_share, strip_version

SYMBOLS = ("CD3E", "MS4A1", "NKG7", "TP53", "C1orf112", "HLA-A", "LYZ", "GAPDH", "ACTB", "CD8A")
ENSEMBL = {"CD3E": "ENSG00000198851", "TP53": "ENSG00000141510", "GAPDH": "ENSG00000111640", "CD8A": "ENSG00000153563"}


def cells(names: list[str], counts: np.ndarray | None = None) -> Cells:
    counts = np.ones((2, len(names))) if counts is None else counts
    return Cells(sp.csr_matrix(counts.astype(np.float32)), pd.Index(names), pd.DataFrame(index=["a", "b"]))


def tokens(vocabulary: GeneVocabulary, names: list[str]) -> list[str | None]:
    return [vocabulary.tokens[i] if i >= 0 else None for i in vocabulary.match(names).ids]


def test_round_trip_and_equality() -> None:
    vocabulary = GeneVocabulary(("<pad>", *SYMBOLS, "Ünicode/gene"))
    assert GeneVocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert json.loads(vocabulary.to_json())["tokens"][0] == "<pad>"
    assert hash(vocabulary) == hash(GeneVocabulary.from_json(vocabulary.to_json()))
    assert len(vocabulary) == 12
    assert "TP53" in vocabulary
    assert "tp53" not in vocabulary
    assert GeneVocabulary(np.array(SYMBOLS)).tokens == SYMBOLS  # type: ignore[arg-type]
    for text in ("[]", "{}", '{"format": 2, "tokens": []}'):
        with pytest.raises(ValueError, match="must be JSON with 'format': 1"):
            GeneVocabulary.from_json(text)


def test_refused_tokens() -> None:
    with pytest.raises(ValueError, match=r"found 2 that repeat: A, C"):
        GeneVocabulary(("A", "B", "A", "C", "C"))
    with pytest.raises(TypeError, match="must be non-empty strings, found nan"):
        GeneVocabulary(("A", float("nan")))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        GeneVocabulary(("A",)).tokens = ("B",)  # type: ignore[misc]


def test_lookup_is_exact() -> None:
    rng = np.random.default_rng(0)
    names = [f"G{i}" for i in rng.permutation(500)]
    vocabulary = GeneVocabulary(tuple(names[:300]))
    expected = [names[:300].index(n) if n in names[:300] else -1 for n in names]
    found = vocabulary.lookup(names)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    assert vocabulary.lookup([]).size == 0
    assert vocabulary.lookup(pd.Index(names[:2])).tolist() == [0, 1]
    assert vocabulary.lookup(["g0", None]).tolist() == [-1, -1]  # type: ignore[list-item]


def test_names_are_taken_apart() -> None:
    assert strip_version("ENSG00000141510.18") == "ENSG00000141510"
    assert strip_version("ENSMUSG00000059552.4") == "ENSMUSG00000059552"
    assert strip_version("ENSG00000182378.15_PAR_Y") == "ENSG00000182378_PAR_Y"
    assert strip_version("RP11-34P13.7") == "RP11-34P13.7"
    assert composite_parts("TP53_ENSG00000141510") == ("TP53", "ENSG00000141510")
    assert composite_parts("ENSG00000141510.18_TP53") == ()
    assert composite_parts("ENSG00000141510|TP53") == ("TP53", "ENSG00000141510")
    assert composite_parts("HLA_A_ENSG00000206503.13") == ("HLA_A", "ENSG00000206503")
    assert composite_parts("HLA-A") == ()
    assert gene_kind(["ENSG00000141510.1", "ENSMUSG00000059552", "X"]) == "ensembl"
    assert gene_kind(SYMBOLS) == "symbol"
    assert mouse_share(["Cd3e", "Ms4a1", "H2-Aa", "Trp53", "1700001C02Rik", "mt-Nd1"]) == 1
    assert mouse_share([*SYMBOLS, "C11orf58", "HLA-DRA", "MIR21", "7SK"]) == 0


def test_routes() -> None:
    symbols = GeneVocabulary(SYMBOLS)
    assert tokens(symbols, ["TP53", "nonsense"]) == ["TP53", None]
    assert tokens(symbols, ["TP53_ENSG00000141510", "ENSG00000111640|GAPDH"]) == ["TP53", "GAPDH"]
    assert tokens(symbols, ["C1ORF112", "gapdh", "hla-a"]) == ["C1orf112", "GAPDH", "HLA-A"]
    assert symbols.match(["C1ORF112", "TP53", "LYZ_ENSG00000090382"]).routes == {"exact": 1, "composite": 1, "case": 1}
    ensembl = GeneVocabulary(tuple(ENSEMBL.values()))
    assert tokens(ensembl, ["ENSG00000141510.18", "CD8A_ENSG00000153563"]) == ["ENSG00000141510", "ENSG00000153563"]
    versioned = GeneVocabulary(("ENSG00000141510.18",))
    assert tokens(versioned, ["ENSG00000141510", "ENSG00000141510.3"]) == ["ENSG00000141510.18"] * 2


def test_identifiers_cross_between_symbols_and_ids() -> None:
    symbols, ensembl = GeneVocabulary(SYMBOLS), GeneVocabulary(tuple(ENSEMBL.values()))
    assert tokens(symbols, [f"{i}.7" for i in ENSEMBL.values()]) == list(ENSEMBL)
    assert tokens(ensembl, list(ENSEMBL)) == list(ENSEMBL.values())
    assert symbols.match(list(ENSEMBL.values())).kind == "ensembl"
    # previous symbols, both ways
    assert tokens(GeneVocabulary(("MARCHF1", "LYZ")), ["MARCH1", "LYZ"]) == ["MARCHF1", "LYZ"]
    assert tokens(GeneVocabulary(("MARCH1", "LYZ")), ["MARCHF1", "LYZ"]) == ["MARCH1", "LYZ"]
    # but not where the current symbol stands in the data too: then they were two genes
    assert tokens(GeneVocabulary(("MARCHF1", "LYZ")), ["MARCH1", "MARCHF1"]) == [None, "MARCHF1"]
    assert tokens(symbols, ["TP53", "ENSG00000141510.3"]) == ["TP53", "TP53"]


def test_case_never_turns_mouse_into_human() -> None:
    human = GeneVocabulary(SYMBOLS)
    mouse = [s[0] + s[1:].lower() for s in SYMBOLS if s != "C1orf112"]
    assert set(tokens(human, mouse)) == {None}
    assert tokens(human, ["TP53", "LYZ", "NKG7", "Cd3e"]) == ["TP53", "LYZ", "NKG7", None]  # one mouse gene among them
    assert tokens(GeneVocabulary(tuple(mouse)), [m.upper() for m in mouse]) == [None] * len(mouse)
    assert tokens(human, ["CD8A", "cd8a"]) == ["CD8A", None]  # beside an exact match another feature
    assert tokens(human, ["si:ch211-1", "gapdh", "actb"]) == [None] * 3  # zebrafish


def test_special_tokens_are_no_genes() -> None:
    match = GeneVocabulary(("<pad>", "TP53", "<cls>")).match(["<pad>", "TP53"])
    assert match.ids.tolist() == [-1, 1]
    assert (match.matched, match.in_model, match.in_data) == (1, 1, 2)


def test_report() -> None:
    vocabulary = GeneVocabulary(tuple(f"G{i}" for i in range(2000)))
    match = vocabulary.match([f"G{i}" for i in range(1234)] + [f"other{i}" for i in range(13714 - 1234)])
    assert match.summary() == "1,234 matched / 2,000 in model / 13,714 in data"
    assert match.missing == tuple(f"G{i}" for i in range(1234, 1244))
    assert match.duplicates == {}


def test_alignment_sums_and_orders() -> None:
    rng = np.random.default_rng(0)
    names = ["LYZ", "TP53_ENSG00000141510", "unknown", "TP53", "CD3E"]
    counts = rng.poisson(2.0, (2, 5)).astype(float)
    block = cells(names, counts)
    vocabulary = GeneVocabulary(("<pad>", "CD3E", "TP53", "LYZ"))
    before = block.counts.copy()
    aligned, match = align(block, vocabulary)
    expected = np.column_stack([np.zeros(2), counts[:, 4], counts[:, 1] + counts[:, 3], counts[:, 0]])
    np.testing.assert_array_equal(aligned.toarray(), expected)
    assert aligned.dtype == np.float32
    assert aligned.has_canonical_format
    assert match.duplicates == {"TP53": ("TP53_ENSG00000141510", "TP53")}
    assert "1 model genes summed over several data genes" in match.summary()
    again, _ = align(block, vocabulary, match=match)
    assert (again != aligned).nnz == 0
    assert (block.counts != before).nnz == 0
    # the order of the data's genes does not matter
    order = rng.permutation(5)
    other, _ = align(cells([names[i] for i in order], counts[:, order]), vocabulary)
    assert (other != aligned).nnz == 0


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["Cd3e", "Ms4a1", "Nkg7", "Trp53", "Lyz2"],
            r"look like mouse \(100% title-case symbols.*one-to-one orthologs",
        ),
        ([f"ENSMUSG{i:011d}" for i in range(5)], r"look like mouse \(100% ENSMUSG ids.*orthologs"),
        (["7157", "920", "925", "3535"], r"names are numbers \(7157, 920, 925 … against CD3E.*gene_key="),
        ([f"ENSRNOG{i:011d}" for i in range(5)], r"Ensembl ids are of another species"),
        ([f"ENST{i:011d}" for i in range(5)], r"transcripts or proteins"),
        (["si:dkey-1", "zgc:112", "actb1", "gapdh"], r"look like zebrafish"),
        ([f"ENSG{99000000000 + i}" for i in range(5)], r"the data hold Ensembl ids, the model gene symbols"),
        (
            ["foo", "bar", "TP53"],
            r"found 10\.0% \(1 matched / 10 in model / 3 in data\): the names hardly meet \(foo, bar",
        ),
    ],
)
def test_refusals(names: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"at least 20% of the model's genes must be in the data.*{reason}"):
        align(cells(names), GeneVocabulary(SYMBOLS))


def test_refusal_of_a_mouse_model_and_thresholds() -> None:
    with pytest.raises(ValueError, match="the model looks like mouse and the data do not"):
        align(cells(list(SYMBOLS)), GeneVocabulary(("Cd3e", "Ms4a1", "Nkg7")))
    two = cells(["CD3E", "TP53"])
    assert align(two, GeneVocabulary(SYMBOLS), min_share=0.2)[1].matched == 2
    with pytest.raises(ValueError, match="at least 30%"):
        align(two, GeneVocabulary(SYMBOLS), min_share=0.3)
    with pytest.raises(ValueError, match=r"found 0\.0%"):
        align(cells(["foo"]), GeneVocabulary(SYMBOLS), min_share=0.0)
    with pytest.raises(ValueError, match="match must belong to the 2 genes of cells, found one for 1 genes"):
        align(two, GeneVocabulary(SYMBOLS), match=GeneVocabulary(SYMBOLS).match(["CD3E"]))


def test_an_alias_beside_its_gene_is_another_feature() -> None:
    """CD45 is an alias of PTPRC: beside PTPRC it is an antibody, alone it is the gene, in both kinds of vocabulary."""
    from sclm.knowledge import GeneIdentifiers

    symbols = ("PTPRC", "ACTB", "MS4A1")
    ids = tuple(map(str, GeneIdentifiers.load("human").to_ensembl(symbols)))
    for tokens in (symbols, ids):
        vocabulary = GeneVocabulary(tokens)
        assert vocabulary.match(["PTPRC", "CD45", "ACTB"]).ids.tolist() == [0, -1, 1]
        assert vocabulary.match(["CD45", "ACTB"]).ids.tolist() == [0, 1]
        # Two aliases of one gene: which of them would be the gene nobody knows, so the first alone must not be summed twice
        assert sorted(vocabulary.match(["ACTB", "CD20", "PTPRC", "CD45"]).ids.tolist()) == [-1, 0, 1, 2]
