"""Names of antibodies: every name of three real panels, and the spellings of vendors and pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from sclm.knowledge import GeneIdentifiers, antibody, match_proteins
from sclm.knowledge.antibodies import TARGETS
from sclm.knowledge.proteins import _key, antibody_genes

if TYPE_CHECKING:
    from pathlib import Path

# The panels of the public data sets that the benchmarks use, as they are stored there.
CITEFUSE = {
    "B220 (CD45R)": "PTPRC", "B7-H1 (PD-L1)": "CD274", "C-kit (CD117)": "KIT", "CCR7": "CCR7", "CD11b": "ITGAM", "CD11c": "ITGAX",
    "CD138": "SDC1", "CD14": "CD14", "CD16": "FCGR3A FCGR3B", "CD19": "CD19", "CD1a": "CD1A", "CD2": "CD2", "CD223 (lag3)": "LAG3",
    "CD24": "CD24", "CD26 (Adenosine)": "DPP4", "CD27": "CD27", "CD28": "CD28", "CD3": "CD3D CD3E CD3G", "CD34": "CD34",
    "CD366 (tim3)": "HAVCR2", "CD4": "CD4", "CD44": "CD44", "CD45": "PTPRC", "CD45RA": "PTPRC", "CD45RO": "PTPRC", "CD5": "CD5",
    "CD56": "NCAM1", "CD62L": "SELL", "CD66b": "CEACAM8", "CD69": "CD69", "CD7": "CD7", "CD77": "A4GALT", "CD8": "CD8A CD8B",
    "CTLA4": "CTLA4", "EpCAM (CD326)": "EPCAM", "HLA-A,B,C": "HLA-A HLA-B HLA-C", "IL7Ralpha (CD127)": "IL7R", "IgG1": "", "IgG2a": "",
    "LAMP1": "LAMP1", "MHCII (HLA-DR)": "HLA-DRA HLA-DRB1", "Ox40 (CD134)": "TNFRSF4", "PD-1 (CD279)": "PDCD1",
    "PD-L1 (CD274)": "CD274", "PD1 (CD279)": "PDCD1", "PECAM (CD31)": "PECAM1", "Siglec-8": "SIGLEC8", "TCRb": "TRBC1 TRBC2",
    "TCRg": "TRGC1 TRGC2 TRDC",
}  # fmt: skip
TENX = {
    "CD3_TotalSeqB": "CD3D CD3E CD3G", "CD4_TotalSeqB": "CD4", "CD8a_TotalSeqB": "CD8A", "CD14_TotalSeqB": "CD14",
    "CD15_TotalSeqB": "FUT4", "CD16_TotalSeqB": "FCGR3A FCGR3B", "CD56_TotalSeqB": "NCAM1", "CD19_TotalSeqB": "CD19",
    "CD25_TotalSeqB": "IL2RA", "CD45RA_TotalSeqB": "PTPRC", "CD45RO_TotalSeqB": "PTPRC", "PD-1_TotalSeqB": "PDCD1",
    "TIGIT_TotalSeqB": "TIGIT", "CD127_TotalSeqB": "IL7R",
}  # fmt: skip
SPELLINGS = {
    "PD-1": "PDCD1", "CD4-1": "CD4", "CD4.1": "CD4", "CD8a.1": "CD8A", "anti-human CD3": "CD3D CD3E CD3G", "anti-CD19": "CD19",
    "Hu.CD4_RPA.T4": "CD4", "HuMs.CD44": "CD44", "CD279_PD-1": "PDCD1", "anti-human IgM": "IGHM", "IgD": "IGHD",
    "TCR.Va7.2": "TRAV1-2", "TCR γ/δ": "TRGC1 TRGC2 TRDC", "CD3-CTCATTGTAACTCCT": "CD3D CD3E CD3G", "ADT_CD19": "CD19",
    "CD19_prot": "CD19", "HLA.DR": "HLA-DRA HLA-DRB1", "CD303 (BDCA-2)": "CLEC4C", "CD158e1 (KIR3DL1, NKB1)": "KIR3DL1",
    "TIM-3": "HAVCR2", "4-1BB": "TNFRSF9", "CD3E": "CD3E", "cd20": "MS4A1", "CD16-2": "FCGR3A FCGR3B", "CD314_prot": "KLRK1",
    "CD11a/CD18": "ITGAL ITGB2", "CD11a": "ITGAL", "CD41/CD61_TotalSeqC": "ITGA2B ITGB3", "CD8a/UCHT4": "CD8A", "MICA/MICB": "MICA MICB",
    "Integrin b7": "ITGB7", "integrin β7": "ITGB7", "integrin_beta7": "ITGB7", "Podoplanin_prot": "PDPN", "ILT3": "LILRB4",
    "CD85k (ILT3)": "LILRB4", "CD85a (ILT5)": "LILRB3", "ILT4": "LILRB2", "VCAM-1": "VCAM1", "MUC-1": "MUC1", "CDw198 (CCR8)": "CCR8",
    "CD8-1": "CD8A CD8B", "CD301 (MGL)": "CLEC10A", "KIR2DL3": "KIR2DL3",
    "CD11b_TotalSeqA": "ITGAM", "CD11b-TotalSeqC": "ITGAM", "CD56 TotalSeq-B": "NCAM1", "ENSG00000010610": "CD4",
}  # fmt: skip
ISOTYPES = [
    "IgG1", "IgG2a", "IgG2b", "Mouse IgG2b, κ isotype Ctrl", "Rat_IgG2b", "IgG1_control_TotalSeqB", "Isotype_MOPC.173",
    "isotype_control_1", "Armenian Hamster IgG", "Ms.IgG1",
]  # fmt: skip


@pytest.mark.parametrize(("name", "genes"), [*CITEFUSE.items(), *TENX.items(), *SPELLINGS.items()])
def test_the_genes_of_an_antibody(name: str, genes: str) -> None:
    assert " ".join(antibody(name).genes) == genes
    assert antibody(name).isotype == (name in ("IgG1", "IgG2a"))


@pytest.mark.parametrize("name", ISOTYPES)
def test_isotype_controls_are_recognised(name: str) -> None:
    found = antibody(name)
    assert found.isotype
    assert found.genes == ()


def test_isoforms_share_a_gene_and_are_not_the_same() -> None:
    names = ["CD45", "CD45RA", "CD45RO", "B220 (CD45R)"]
    assert antibody_genes(names) == [("PTPRC",)] * 4
    assert [antibody(n).target for n in names] == ["PTPRC", "CD45RA", "CD45RO", "CD45R"]
    assert match_proteins(["CD45RA-1", "CD45RO", "CD45"], ["CD45RO", "CD45RA"]).tolist() == [1, 0, -1]


def test_unknown_names_stay_unknown() -> None:
    found = antibody("Tag 17")
    assert found.genes == ()
    assert not found.isotype
    assert found.target == "TAG17"


def test_two_panels_meet() -> None:
    panel = list(CITEFUSE)
    found = dict(zip(TENX, match_proteins(list(TENX), panel), strict=True))
    met = {name: panel[i] for name, i in found.items() if i >= 0}
    assert met == {
        "CD3_TotalSeqB": "CD3", "CD4_TotalSeqB": "CD4", "CD8a_TotalSeqB": "CD8", "CD14_TotalSeqB": "CD14", "CD16_TotalSeqB": "CD16",
        "CD56_TotalSeqB": "CD56", "CD19_TotalSeqB": "CD19", "CD45RA_TotalSeqB": "CD45RA", "CD45RO_TotalSeqB": "CD45RO",
        "CD127_TotalSeqB": "IL7Ralpha (CD127)",
    }  # fmt: skip  # PD-1 stands twice in the panel, as two clones: neither is taken
    assert match_proteins(["IgG1_control"], ["IgG2a", "IgG1"]).tolist() == [1]
    assert match_proteins(["CD4", "CD4-1"], ["CD4-1", "CD4"]).tolist() == [1, 0]  # exact names first
    assert match_proteins([], panel).dtype == np.int64


def test_the_table_names_approved_symbols() -> None:
    identifiers = GeneIdentifiers.load("human")
    # On alternative haplotypes only, which the bundled map leaves out.
    other = {"KIR2DL2", "KIR2DL5A", "KIR2DL5B", "KIR2DS1", "KIR2DS2", "KIR2DS5", "LILRA3"}
    for line in TARGETS.strip().splitlines():
        genes = line.partition(":")[2].split()
        assert genes, line
        assert [g for g in genes if g not in other and identifiers.to_symbol([g]) != [g]] == [], line


@pytest.fixture(scope="module")
def hgnc(real_data: Path) -> pd.DataFrame:
    """Approved genes of HGNC with their other names, each column a list."""
    columns = ["symbol", "name", "alias_symbol", "alias_name", "prev_symbol", "status", "locus_type", "cd"]
    options: dict[str, Any] = {"sep": "\t", "dtype": str, "keep_default_na": False, "usecols": columns}
    table = pd.read_csv(real_data / "vocab" / "hgnc_complete_set.txt.gz", **options)
    return table[table["status"] == "Approved"].apply(lambda column: column.str.split("|"))


def genes_by_name(table: pd.DataFrame, columns: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for names, symbol in zip(table[columns].sum(axis=1), table["symbol"], strict=True):
        for name in filter(None, names):
            found.setdefault(_key(name), set()).add(symbol[0])
    return found


@pytest.mark.real
def test_every_cd_name_of_hgnc_is_known(hgnc: pd.DataFrame) -> None:
    """HGNC names the gene of each cluster of differentiation; ours are the same but for what is said here."""
    true = genes_by_name(hgnc[hgnc["locus_type"].str[0] != "pseudogene"], ["cd"])
    ours = {
        "CD98": {"SLC3A2"},  # the heavy chain, which the antibodies bind; HGNC names the light one
        "CD158F": {"KIR2DL5A", "KIR2DL5B"},  # two copies of one gene
        "CD158K": {"KIR3DL2"},  # HGNC has KIR2DL2, which is CD158b1, as well
    }
    found = {name: set(antibody(name).genes) for name in true}
    assert len(found) > 360
    assert {name: genes for name, genes in found.items() if genes != true[name]} == ours


@pytest.mark.real
def test_names_of_the_table_are_names_of_their_genes_in_hgnc(hgnc: pd.DataFrame) -> None:
    true = genes_by_name(hgnc, ["symbol", "name", "alias_symbol", "alias_name", "prev_symbol", "cd"])
    approved = {symbol[0] for symbol in hgnc["symbol"]}
    # What HGNC takes a name for where an antibody of the name binds something else, or a locus where we name its genes.
    other = {"MGL": "MGLL", "IGA": "CD79A", "B2MICROGLOBULIN": "HLA-G", "TCRB": "TRB", "TCRG": "TRG", "LAP": "LAP3"}
    n_known = 0
    for line in TARGETS.strip().splitlines():
        names, _, genes = line.partition(":")
        assert set(genes.split()) <= approved, line
        for name in map(_key, names.split()):
            if name in other:
                assert other[name] in true[name]
            elif name in true:
                n_known += 1
                assert true[name] & set(genes.split()), f"{line}: HGNC has {true[name]}"
    assert n_known > 250
