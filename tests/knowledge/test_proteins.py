"""Names of antibodies: every name of three real panels, and the spellings of vendors and pipelines."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.knowledge import GeneIdentifiers, antibody, match_proteins
from sclm.knowledge.antibodies import TARGETS
from sclm.knowledge.proteins import antibody_genes

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
    other = {"KIR2DL2", "KIR2DL5A", "KIR2DL5B"}
    for line in TARGETS.strip().splitlines():
        genes = line.partition(":")[2].split()
        assert genes, line
        assert [g for g in genes if g not in other and identifiers.to_symbol([g]) != [g]] == [], line
