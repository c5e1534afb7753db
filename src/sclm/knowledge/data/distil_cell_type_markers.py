"""Distil the markers of cell types that sclm bundles (`cell_type_markers.tsv`) from the Cell Ontology itself.

Run by hand when they are renewed; the package never imports this file::

    python src/sclm/knowledge/data/distil_cell_type_markers.py                    # fetches the pinned public address
    python src/sclm/knowledge/data/distil_cell_type_markers.py cl.obo

Three kinds of statements, the first two of the ontology's curators:

- *axiom*: the cell type has a protein as a part, on its membrane, in high amount, or expresses it (`PROPERTIES`); proteins are
  terms of the Protein Ontology, which `PROTEINS` leads to genes, or complexes of the Gene Ontology (`COMPLEXES`). What a type lacks or has in low amount is not a marker.
- *definition*: a name, an exact synonym or a definition of the bundled Cell Ontology says so: "CD4-positive", "expresses
  CD19 and CD22". A clause that denies ("lacks", "does not express", "negative for") gives none.
- *textbook*: `distil_known_markers.txt` beside this file, which is our own.

Output: a heading of `#` lines, then Cell Ontology id, approved symbol, kind; tab-separated, sorted.
"""

from __future__ import annotations

import hashlib
import re
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = (
    "https://raw.githubusercontent.com/obophenotype/cell-ontology/c9a488b8afc08877a1e81f7c7886dd5ec58c288f/cl.obo",
    "fc4c8b74cd10d775a5a13399532b0359d9589b9ad99a231ea951d9db9671c86e",
)
HEADING = (
    "# Markers of cell types that the Cell Ontology states (CC BY 4.0): in its axioms (cl.obo of 2025-07-24) and in names,",
    "# synonyms and definitions (release 2026-03-26), and our own list of textbook markers. See README.md.",
)

# has plasma membrane part, has high plasma membrane amount, expresses, has part
PROPERTIES = ("RO:0002104", "RO:0015015", "RO:0002292", "BFO:0000051")

# Terms of the Protein Ontology to genes. Proteins of mice without a human gene of the same function are left out.
PROTEINS = """
000001002 CD19 | 000001003 CD34 | 000001004 CD4 | 000001006 PTPRC | 000001008 ITGA2 | 000001010 ITGAE | 000001012 ITGAM
000001013 ITGAX | 000001014 PTPRC | 000001015 PTPRC | 000001017 PTPRC | 000001024 NCAM1 | 000001026 LY75 | 000001083 CD2
000001084 CD8A | 000001175 DRD1 | 000001177 DRD2 | 000001199 CCR2 | 000001200 CCR4 | 000001201 CCR5 | 000001202 CCR6
000001203 CCR7 | 000001206 CX3CR1 | 000001207 CXCR3 | 000001208 CXCR4 | 000001209 CXCR5 | 000001224 OPN1MW
000001243 OPN4 | 000001244 OPN1LW | 000001254 CCR1 | 000001255 CCR3 | 000001288 CD22 | 000001289 MS4A1
000001292 CLEC4C | 000001293 CD207 | 000001300 CD209 | 000001307 CD44 | 000001310 CD83 | 000001318 SELL
000001319 CD84 | 000001332 CEACAM8 | 000001337 CR1 | 000001338 CR2 | 000001343 CD69 | 000001344 ENPP3 | 000001345 ENG
000001350 FOXP3 | 000001380 IL2RA | 000001381 IL2RB | 000001398 LILRA4 | 000001402 KLRD1 | 000001408 CD38
000001412 CD86 | 000001432 SELP | 000001438 CD80 | 000001440 B3GAT1 | 000001444 CDH5 | 000001447 CDH1 | 000001456 FUT4
000001460 GYPA | 000001465 FCGR1A | 000001479 FCGR2A FCGR2B | 000001483 FCGR3A FCGR3B | 000001580 FPR1 | 000001635 OXTR
000001666 RXFP1 | 000001786 PROM1 | 000001806 CLEC6A | 000001807 CLEC7A | 000001809 CD59 | 000001813 ADGRE1
000001833 SLAMF1 | 000001835 TBX21 | 000001836 CD7 | 000001839 CD5 | 000001843 THY1 | 000001844 ARG1 | 000001850 CTSK
000001852 CTLA4 | 000001858 VPREB1 | 000001859 IGLL1 | 000001860 ICOS | 000001865 IL3RA | 000001867 IL5RA
000001869 IL7R | 000001874 KLRB1 | 000001879 SPN | 000001880 FCER2 | 000001884 MARCO | 000001885 MSR1 | 000001889 CD14
000001892 CD33 | 000001898 MME | 000001903 PAX5 | 000001905 CD36 | 000001907 GP1BA | 000001919 PDCD1 | 000001925 CD163
000001931 SIGLEC1 | 000001932 CD24 | 000001935 SDC1 | 000001937 ACP5 | 000001941 GATA3 | 000001944 SPI1 | 000001945 TFRC
000001950 CD40LG | 000001954 TNFRSF11A | 000001963 CD27 | 000001968 SIRPA | 000001969 PLAUR | 000002001 FLT3
000002015 HLA-DRA | 000002023 KLRC1 | 000002025 CD1A | 000002027 CD1C | 000002028 CD1D | 000002031 ANPEP | 000002037 CD93
000002039 ENPEP | 000002062 CSF1R | 000002064 CD68 | 000002065 KIT | 000002105 THBD | 000002112 KDR | 000002123 CCL3
000002972 MRC1 | 000003450 BCL6 | 000003455 RORC | 000003457 RAG1 | 000003460 RAG2 | 000003463 EOMES | 000003466 PRF1
000003469 EGR2 | 000003472 GZMK | 000003490 GZMH | 000003499 GZMB | 000003516 A4GALT | 000004621 BAG3 | 000004919 CA3
000005110 CCK | 000005178 CD9 | 000005307 CEBPA | 000005310 CEBPE | 000005444 CHODL | 000005460 CHRNA7 | 000006611 DNTT
000007204 ESR1 | 000007431 FCER1A | 000007479 FGF1 | 000007489 FGF2 | 000007597 FOS | 000007643 FOXP1 | 000007785 GAD1
000007857 GATA1 | 000007858 GATA2 | 000007939 GFAP | 000008467 HBZ | 000008857 HBB | 000008982 IL17RB | 000008994 IL1RL1
000009127 ITGA2B | 000009143 ITGB7 | 000009344 KISS1 | 000009725 LCN2 | 000009766 LGALS1 | 000009978 LTF | 000010317 MEIS2
000010329 MERTK | 000010529 MOXD1 | 000010543 MPO | 000010799 MYB | 000011178 NFKB2 | 000011467 NTNG1 | 000012318 PAX6
000012526 PDYN | 000013015 POMC | 000013047 POU6F2 | 000013433 PTHLH | 000013502 PVALB | 000013879 RELN | 000014362 RUNX1
000014419 S100B | 000014505 SCGB1A1 | 000014898 SIX3 | 000015325 SNCG | 000015426 SOX2 | 000015658 SSPOP | 000015665 SST
000016004 TAC3 | 000016043 TAL1 | 000016626 TREM2 | 000017298 VIM | 000017299 VIP | 000025402 CD8A CD8B
000032148 LAMP5 | 000032533 LHX6 | O43699 SIGLEC6 | O76036 NCR1 | O95944 NCR2 | O95971 CD160 | P01589 IL2RA | P09240 CCK
P10721 KIT | P13591 NCAM1 | P16871 IL7R | P23771 GATA3 | P24529 TH | P28906 CD34 | P30530 AXL | P32648 VIP | P38570 ITGAE
P49961 ENTPD1 | P56199 ITGA1 | P60041 SST | Q12918 KLRB1 | Q8NFU0 BEST4 | Q96E93 KLRG1 | Q9D387 LAMP5 | Q9UL17 TBX21
Q9Y5Y4 PTGDR2 | P50481 LHX3 | Q8R4I7 NETO1 | Q9ER75 IRX6 | P11087 COL1A1 | P26618 PDGFRA | P51885 LUM
"""

# Names of proteins and genes in definitions that are no symbol or alias of one gene.
NAMED = {
    "CD3": "CD3D CD3E CD3G", "CD8": "CD8A CD8B", "CD16": "FCGR3A FCGR3B", "CD32": "FCGR2A FCGR2B", "CD45RA": "PTPRC",
    "CD45RO": "PTPRC", "CD11b": "ITGAM", "CD11c": "ITGAX", "CD79": "CD79A CD79B", "FOXP3": "FOXP3", "FoxP3": "FOXP3",
    "Foxp3": "FOXP3", "CD235a": "GYPA", "CD66b": "CEACAM8", "CD62L": "SELL", "CD158": "", "CD15": "FUT4", "CD21": "CR2",
    "IgM": "IGHM", "IgD": "IGHD", "IgG": "IGHG1 IGHG2 IGHG3 IGHG4", "IgA": "IGHA1 IGHA2", "IgE": "IGHE", "HLA-DR": "HLA-DRA",
    "T-bet": "TBX21", "GATA-3": "GATA3", "GATA3": "GATA3", "RORgt": "RORC", "Ki-67": "MKI67", "PD-1": "PDCD1",
    "CTLA-4": "CTLA4", "Thy-1": "THY1", "CD1": "", "CD44": "CD44", "Sca-1": "", "Sca1": "", "SCA1": "", "Ly6C": "",
    "Ly6G": "", "F4/80": "ADGRE1", "NK1": "", "CD49b": "ITGA2", "CD49a": "ITGA1", "CD49f": "ITGA6", "DX5": "",
    "somatostatin": "SST", "parvalbumin": "PVALB", "insulin": "INS", "glucagon": "GCG", "keratin": "", "vimentin": "VIM",
}  # fmt: skip

# What looks like a symbol and means something else in definitions: layers, receptors of many genes, methods, anatomy.
OTHER = """
STR D1 D2 S1 L1 L2 L4 L5 L6 S5 COP RET EBP ECM IFN BAM NGC LGN PLI IPL ETB ADP CBX ST2 GATA ROR SIRP MSN TNF CA1 CA2
CA3 IT ET CT NP DNA RNA ATP GABA V1 V2 M1 M2 MST T1 T2 G1 G2 C1 A1 A2 B1 B2 P1 P2 P3 H1 H2 ILC ILC1 ILC2 ILC3 NKT NK
DC1 DC2 DC3 EPO VGAT CSF FSH LH ACTH TSH GH PRL NRT MSC HSC GMP CMP MEP CLP AMH PP PYY APC BCR TCR MHC LPS TAL DCT RPE
BMP WNT SHH FGF EGF VEGF PDGF TGF KGF ESC PSC OFF ON OFFX ONX
"""
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9/-])(F4/80|[A-Z][A-Za-z]*(?:-[A-Z]+)?-?\d[A-Za-z0-9]*|[A-Z]{3,}[A-Z0-9]*|HLA-DR|Ig[A-Z]|T-bet|RORgt|Fox[Pp]3|CTLA-4"
    r"|somatostatin|parvalbumin|insulin|glucagon|vimentin)(-positive|-negative|-low|-high|-expressing|-deficient|\+|hi\b|lo\b|-\B|neg\b)?"
)
_GOOD = re.compile(
    r"\b(?:co-?express(?:es|ing|ion)?|express(?:es|ing)?|positive for|markers?|mark(?:ed|s) by|is (?:also )?positive|"
    r"identified by the expression of|characteri[sz]ed by (?:the )?expression of|secret(?:es|ing)|produces)\b"
)
_BAD = re.compile(
    r"\b(?:lack(?:s|ing)?|negative for|not express(?:es|ed|ing)?|absence of|without|(?:does|do) not(?: \w+)?|no longer(?: \w+)?|loss of|low levels? of|"
    r"low expression of|differentiat\w+|response to|respon\w+ to|stimulat\w+|induced by|dependent|via|induc\w+|activat\w+)\b"
)
_MARKER = ("marker", "markers", "marked by")
# What follows is said of other cells.
_OTHERS = re.compile(
    r"\b(?:facilitates?|development of|function of|proliferation of|interact\w* with|recruit\w*|inhibit\w*)\b"
)
COMPLEXES = {
    "GO:0042105": "CD3D CD3E CD3G CD247 TRAC TRBC1 TRBC2", "GO:0042106": "CD3D CD3E CD3G CD247 TRDC TRGC1 TRGC2",
    "GO:0042101": "CD3D CD3E CD3G CD247", "GO:0043384": "CD3D CD3E CD3G PTCRA", "GO:0035369": "CD79A CD79B IGHM VPREB1 IGLL1",
    "GO:0071738": "IGHD CD79A CD79B", "GO:0071753": "IGHM CD79A CD79B", "GO:0071735": "IGHG1 IGHG2 IGHG3 IGHG4 CD79A CD79B",
    "GO:0071745": "IGHA1 IGHA2 CD79A CD79B", "GO:0071742": "IGHE CD79A CD79B",
    "GO:0042613": "HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 CD74", "GO:0033001": "FCGR3A FCGR3B",
    "GO:0043209": "MBP PLP1 MPZ", "GO:0042470": "PMEL TYRP1",
}  # fmt: skip


def axioms(text: str) -> Iterator[tuple[str, str]]:
    """Term and gene of every statement about a protein or a complex in OBO text."""
    genes = {}
    for entry in PROTEINS.replace("\n", " | ").split(" | "):
        if entry.strip():
            protein, *symbols = entry.split()
            genes["PR:" + protein] = symbols
    genes |= {complex_: symbols.split() for complex_, symbols in COMPLEXES.items()}
    clause = re.compile(r"^(?:relationship|intersection_of): (\S+) ((?:PR|GO):\S+)")
    term = ""
    for line in text.splitlines():
        if line.startswith("id: "):
            term = line[4:].strip()
        elif (match := clause.match(line)) and match[1] in PROPERTIES:
            yield from ((term, symbol) for symbol in genes.get(match[2], ()))


def stated(text: str, symbol_of: dict[str, str | None]) -> Iterator[str]:
    """The genes of which a text says that the cell has them."""
    no_genes = frozenset(OTHER.split())
    for sentence in re.split(r"[.;()]\s|\bbut\b|\bwhereas\b|\bunlike\b", text):
        # words that affirm and deny hold for what follows them in the sentence
        turns = [(m.end(), True) for m in _GOOD.finditer(sentence)] + [
            (m.end(), False) for m in _BAD.finditer(sentence)
        ]
        turns.sort(key=lambda turn: (turn[0], not turn[1]))  # "does not express" denies, though "express" affirms
        denied = next((place for place, good in turns if not good), len(sentence))
        # "negative for the markers …": a marker is one only where nothing was denied before
        turns = [
            (place, good and not (place > denied and sentence[:place].rstrip().endswith(_MARKER)))
            for place, good in turns
        ]
        others = _OTHERS.search(sentence)
        for match in _TOKEN.finditer(sentence):
            name, suffix = match[1], match[2] or ""
            if others and others.end() <= match.start():
                break
            if suffix in ("-negative", "-low", "-deficient", "-", "lo", "neg"):
                continue
            said = [good for place, good in turns if place <= match.start()]
            if suffix in ("-positive", "+", "-high", "-expressing", "hi") or (said and said[-1]):
                if name in NAMED:
                    yield from NAMED[name].split()
                elif name not in no_genes and (symbol := symbol_of.get(name)) is not None:
                    yield symbol


def textbook(text: str) -> Iterator[tuple[str, str]]:
    """Name of a cell type and gene of every entry of our own list."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, genes = line.partition(": ")
            yield from ((name, gene) for gene in genes.split())


def distil(text: str) -> str:
    """The lines of the bundle from the OBO text, and from the bundled Cell Ontology."""
    from sclm.knowledge import GeneIdentifiers, Ontology

    cl, identifiers = Ontology.load("cl"), GeneIdentifiers.load("human")
    texts = {t: [cl.name_of(t), *cl.synonyms(t), cl.definition(t)] for t in cl.ids}
    tokens = sorted({m[1] for found in texts.values() for text_ in found for m in _TOKEN.finditer(text_)})
    symbol_of = dict(zip(tokens, identifiers.to_symbol(tokens), strict=True))
    kinds: dict[tuple[str, str], str] = {}
    for term, found in texts.items():
        kinds |= {(term, symbol): "definition" for text_ in found for symbol in stated(text_, symbol_of)}
    # an axiom says more than a sentence: where both are, it is named
    for term, symbol in axioms(text):
        current = cl.current_id(term)
        if current is not None:
            kinds[current, symbol] = "axiom"
    for term, symbol in textbook(Path(__file__).with_name("distil_known_markers.txt").read_text(encoding="utf-8")):
        match = cl.resolve(term, min_score=1.0)
        if match.term_id is None:
            raise ValueError(f"expected a name of the Cell Ontology, found {term!r} in distil_known_markers.txt.")
        kinds.setdefault((match.term_id, identifiers.to_symbol([symbol])[0] or symbol), "textbook")
    unknown = sorted({symbol for _, symbol in kinds} - set(filter(None, identifiers.to_symbol({s for _, s in kinds}))))
    if unknown:
        raise ValueError(f"expected approved symbols, found {', '.join(unknown)}: correct the tables of this script.")
    rows = [f"{term}\t{symbol}\t{kind}" for (term, symbol), kind in sorted(kinds.items())]
    return "\n".join([*HEADING, *rows]) + "\n"


def main(arguments: list[str]) -> None:
    """Read the source (a path, or the pinned address), check its hash, write the bundle beside this file."""
    url, expected = SOURCE
    if arguments:
        raw = Path(arguments[0]).read_bytes()
    else:
        with urllib.request.urlopen(url, timeout=60) as response:
            raw = response.read()
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise ValueError(f"expected {url} with sha256 {expected}, found {found}: wrong file or wrong release.")
    target = Path(__file__).with_name("cell_type_markers.tsv")
    target.write_text(distil(raw.decode()), encoding="utf-8")
    sys.stdout.write(
        f"{target} {target.stat().st_size} bytes sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
