"""How single-cell studies write cell types: words, and the Cell Ontology terms that sets of words mean.

A label is read as a set of words ("CD4+/CD45RA+/CD25- Naive T" is {cd4, cd45ra, -cd25, naive, t}). `RULES` says which
sets mean which term; a rule applies when all its words are there and every other word is one that it allows or that
says nothing about the type. So "T/NK" or "Mono/DC", which name two types, match no rule: rather no term than a wrong one.
Ids come first because names change between releases; a test holds the names in the last column against the ontology.
"""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Word as written (lower case, singular) to the words that it stands for.
WORDS: dict[str, str] = {
    # T cells and their states
    "tcell": "t",
    "cd4t": "cd4 t",
    "cd8t": "cd8 t",
    "cd4naive": "cd4 naive",
    "cd8naive": "cd8 naive",
    "cd4mem": "cd4 memory",
    "cd8mem": "cd8 memory",
    "cd4eff": "cd4 effector",
    "cd8eff": "cd8 effector",
    "cd4tcm": "cd4 central memory t",
    "cd8tcm": "cd8 central memory t",
    "cd4tem": "cd4 effector memory t",
    "cd8tem": "cd8 effector memory t",
    "mem": "memory",
    "eff": "effector",
    "teff": "effector t",
    "cm": "central memory",
    "em": "effector memory",
    "tcm": "central memory t",
    "tem": "effector memory t",
    "tmem": "memory t",
    "tn": "naive t",
    "tnaive": "naive t",
    "temra": "temra t",
    "emra": "temra",
    "tex": "exhausted t",
    "ctl": "cytotoxic t",
    "cytotoxicity": "cytotoxic",
    "reg": "regulatory",
    "treg": "regulatory t",
    "helper1": "th1",
    "helper2": "th2",
    "helper17": "th17",
    "th": "helper t",
    "gd": "gammadelta",
    "gdt": "gammadelta t",
    "tgd": "gammadelta t",
    "vd1": "gammadelta t",
    "vd2": "gammadelta t",
    # B cells
    "bnaive": "naive b",
    "bmem": "memory b",
    "bmemory": "memory b",
    "bplasma": "plasma b",
    # NK and innate lymphoid cells
    "cd56bright": "bright",
    "cd56dim": "dim",
    # myeloid cells
    "fcgr3a": "cd16",
    "mono14": "cd14 monocyte",
    "mono16": "cd16 monocyte",
    "mono": "monocyte",
    "mac": "macrophage",
    "macro": "macrophage",
    "mph": "macrophage",
    "dc": "dendritic",
    "modc": "monocytederived dendritic",
    "neut": "neutrophil",
    "neutro": "neutrophil",
    "eos": "eosinophil",
    "baso": "basophil",
    "mk": "megakaryocyte",
    "mega": "megakaryocyte",
    "plt": "platelet",
    "eryth": "erythroid",
    # stroma
    "endo": "endothelial",
    "fib": "fibroblast",
    "fibro": "fibroblast",
    "smc": "smoothmuscle",
    # nervous system
    "astro": "astrocyte",
    "oligo": "oligodendrocyte",
    # tumours
    "tumor": "malignant",
    "tumour": "malignant",
    "cancer": "malignant",
}

# Neighbouring words that are one word.
PHRASES: tuple[tuple[str, str], ...] = (
    ("gamma delta", "gammadelta"),
    ("v delta", "gammadelta"),
    ("alpha beta", "alphabeta"),
    ("non classical", "nonclassical"),
    ("non conventional", "nonclassical"),
    ("nonconventional", "nonclassical"),
    ("conventional monocyte", "classical monocyte"),
    ("monocyte conventional", "classical monocyte"),
    ("monocyte derived", "monocytederived"),
    ("smooth muscle", "smoothmuscle"),
    ("t helper 1", "th1"),
    ("t helper 2", "th2"),
    ("t helper 17", "th17"),
    ("type 1 helper t", "th1"),
    ("type 2 helper t", "th2"),
    ("type 17 helper t", "th17"),
    ("t helper", "helper t"),
    ("cd45ro memory", "memory"),
    ("cd56 bright", "bright"),
    ("cd56 dim", "dim"),
)

# Words that say in which state or from whom a cell is, not what it is.
IDLE: frozenset[str] = _set(
    """
    cell human mouse other activated quiescent resting proliferating proliferative proliferation dividing cycling
    positive population cluster subset
    """
)

# Labels that name no cell type at all.
NOTHING: frozenset[str] = _set(
    """
    unknown unassigned unclassified undefined undetermined unidentified unannotated unlabelled unlabeled ambiguous
    na nan nd none null other doublet multiplet debris mixed contamination artifact artefact
    """
) | {"n a", "low quality", "not available", "not assigned", "not determined", "no call"}

# Synonyms of the Cell Ontology that mean something else in the single-cell literature of today, or too many things:
# DC1 and DC2 once told conventional from plasmacytoid cells and now tell two conventional ones; CL's double negative T cell is the thymocyte; IPC is also the
# intermediate progenitor of the brain, ARC the arcuate nucleus; CD16+ monocytes are taken for the non-classical ones.
MISLEADING: frozenset[str] = frozenset(
    [
        "CD4-CD8- T cell",
        "double negative T cell",
        "LAMP5",
        "DC1",
        "DC2",
        "type 1 DC",
        "type 2 DC",
        "IPC",
        "ARC",
        "CD16+ monocyte",
        "he-NK",
        "AB",
        "IC",
        "LC",
        "PD",
        "PY",
        "VD",
    ]
)

# Nouns that name a tissue or a shape: "blood" is no label for CL's "blood cell", though "endothelial" is one.
NOT_ALONE: frozenset[str] = _set(
    """
    abnormal arcade beam bladder blood bone bottle cap circulating collar crypt cultured egg heart hypothalamus inflammatory
    kidney lamp5 ligament motile muscle peg pole pore precursor seam sheath storage tendon tether tip urethra yolk
    """
)

# id | words that must be there | words that may be there | name of the term, for readers and for the test
RULES = """
CL:0000084 | t                        | cd3 alphabeta                              | T cell
CL:0000624 | cd4                      | t cd3 alphabeta -cd8                       | CD4-positive, alpha-beta T cell
CL:0000625 | cd8                      | t cd3 alphabeta -cd4 cd8a                  | CD8-positive, alpha-beta T cell
CL:0000898 | naive t                  | cd3 cd45ra                                 | naive T cell
CL:0000895 | cd4 naive                | t cd45ra -cd45ro -cd25 ccr7 cd62l          | naive thymus-derived CD4-positive, alpha-beta T cell
CL:0000900 | cd8 naive                | t cd45ra -cd45ro ccr7 cd62l cytotoxic      | naive thymus-derived CD8-positive, alpha-beta T cell
CL:0000813 | memory t                 | cd3 cd45ro                                 | memory T cell
CL:0000897 | cd4 memory               | t cd45ro                                   | CD4-positive, alpha-beta memory T cell
CL:0000897 | cd4 cd45ro               | t                                          | CD4-positive, alpha-beta memory T cell
CL:0000909 | cd8 memory               | t cd45ro                                   | CD8-positive, alpha-beta memory T cell
CL:0000909 | cd8 cd45ro               | t                                          | CD8-positive, alpha-beta memory T cell
CL:0000904 | cd4 central memory       | t cd45ro                                   | central memory CD4-positive, alpha-beta T cell
CL:0000907 | cd8 central memory       | t cd45ro                                   | central memory CD8-positive, alpha-beta T cell
CL:0000905 | cd4 effector memory      | t cd45ro                                   | effector memory CD4-positive, alpha-beta T cell
CL:0000913 | cd8 effector memory      | t cd45ro                                   | effector memory CD8-positive, alpha-beta T cell
CL:0001087 | cd4 temra                | t                                          | effector memory CD4-positive, alpha-beta T cell, terminally differentiated
CL:0001062 | cd8 temra                | t                                          | effector memory CD8-positive, alpha-beta T cell, terminally differentiated
CL:0000911 | effector t               |                                            | effector T cell
CL:0001044 | cd4 effector             | t                                          | effector CD4-positive, alpha-beta T cell
CL:0001050 | cd8 effector             | t                                          | effector CD8-positive, alpha-beta T cell
CL:0000910 | cytotoxic t              |                                            | cytotoxic T cell
CL:0000934 | cd4 cytotoxic            | t                                          | CD4-positive, alpha-beta cytotoxic T cell
CL:0000794 | cd8 cytotoxic            | t                                          | CD8-positive, alpha-beta cytotoxic T cell
CL:0011025 | exhausted t              |                                            | exhausted T cell
CL:0020030 | cd4 exhausted            | t                                          | CD4-positive exhausted alpha-beta T cell
CL:0020031 | cd8 exhausted            | t                                          | CD8-positive exhausted alpha-beta T cell
CL:0000815 | regulatory t             | cd4 cd25 foxp3 -cd127                      | regulatory T cell
CL:0000815 | cd4 regulatory           | cd25 foxp3 -cd127                          | regulatory T cell
CL:0000912 | helper t                 |                                            | helper T cell
CL:0000492 | cd4 helper t             |                                            | CD4-positive helper T cell
CL:0000545 | th1                      | cd4 t helper                               | T-helper 1 cell
CL:0000546 | th2                      | cd4 t helper                               | T-helper 2 cell
CL:0000899 | th17                     | cd4 t helper                               | T-helper 17 cell
CL:0002038 | tfh                      | cd4 t helper                               | T follicular helper cell
CL:0000798 | gammadelta               | t tcr                                      | gamma-delta T cell
CL:0000940 | mait                     | t cd8                                      | mucosal-associated invariant T cell
CL:0000814 | nkt                      |                                            | mature NK T cell
CL:0000236 | b                        | cd19 cd20 ms4a1 cd79a                      | B cell
CL:0000788 | naive b                  | cd19 cd20                                  | naive B cell
CL:0000787 | memory b                 | cd19 cd20                                  | memory B cell
CL:0000786 | plasma b                 |                                            | plasma cell
CL:0000623 | nk                       | cd56 -cd3                                  | natural killer cell
CL:0000938 | bright nk                | -cd16                                      | CD16-negative, CD56-bright natural killer cell, human
CL:0000939 | dim nk                   | cd16                                       | CD16-positive, CD56-dim natural killer cell, human
CL:0000939 | cd16 nk                  | cd56                                       | CD16-positive, CD56-dim natural killer cell, human
CL:0000938 | -cd16 nk                 | cd56                                       | CD16-negative, CD56-bright natural killer cell, human
CL:0001065 | ilc                      |                                            | innate lymphoid cell
CL:0000576 | monocyte                 |                                            | monocyte
CL:0001054 | cd14 monocyte            |                                            | CD14-positive monocyte
CL:0002396 | cd16 monocyte            | -cd14                                      | CD14-low, CD16-positive monocyte
CL:0002397 | cd14 cd16 monocyte       |                                            | CD14-positive, CD16-positive monocyte
CL:0000860 | classical monocyte       |                                            | classical monocyte
CL:0000875 | nonclassical monocyte    |                                            | non-classical monocyte
CL:0000235 | macrophage               |                                            | macrophage
CL:0000451 | dendritic                |                                            | dendritic cell
CL:0000990 | cdc                      |                                            | conventional dendritic cell
CL:0000990 | conventional dendritic   |                                            | conventional dendritic cell
CL:0002394 | cdc1                     |                                            | CD141-positive myeloid dendritic cell
CL:0002399 | cdc2                     |                                            | CD1c-positive myeloid dendritic cell
CL:0002399 | cd1c dendritic           |                                            | CD1c-positive myeloid dendritic cell
CL:0000784 | pdc                      |                                            | plasmacytoid dendritic cell
CL:0000784 | plasmacytoid dendritic   |                                            | plasmacytoid dendritic cell
CL:0011031 | monocytederived dendritic |                                           | monocyte-derived dendritic cell
CL:0000775 | neutrophil               |                                            | neutrophil
CL:0000771 | eosinophil               |                                            | eosinophil
CL:0000767 | basophil                 |                                            | basophil
CL:0000097 | mast                     |                                            | mast cell
CL:0000556 | megakaryocyte            |                                            | megakaryocyte
CL:0000233 | platelet                 |                                            | platelet
CL:0000232 | rbc                      |                                            | erythrocyte
CL:0000764 | erythroid                |                                            | erythroid lineage cell
CL:0000837 | cd34                     |                                            | hematopoietic multipotent progenitor cell
CL:0000037 | hsc                      | cd34                                       | hematopoietic stem cell
CL:0008001 | hspc                     | cd34                                       | hematopoietic precursor cell
CL:0000049 | cmp                      |                                            | common myeloid progenitor
CL:0000557 | gmp                      |                                            | granulocyte monocyte progenitor cell
CL:0000051 | clp                      |                                            | common lymphoid progenitor
CL:0000115 | endothelial              |                                            | endothelial cell
CL:0000057 | fibroblast               |                                            | fibroblast
CL:0000192 | smoothmuscle             |                                            | smooth muscle cell
CL:0000359 | vascular smoothmuscle    |                                            | vascular associated smooth muscle cell
CL:0000669 | pericyte                 |                                            | pericyte
CL:0000066 | epithelial               |                                            | epithelial cell
CL:0000134 | msc                      |                                            | mesenchymal stem cell
CL:0002062 | at1                      |                                            | pulmonary alveolar type 1 cell
CL:0002063 | at2                      |                                            | pulmonary alveolar type 2 cell
CL:0000171 | alpha                    |                                            | pancreatic A cell
CL:0000169 | beta                     |                                            | type B pancreatic cell
CL:0000173 | delta                    |                                            | pancreatic D cell
CL:0002275 | gamma                    | pp                                         | pancreatic PP cell
CL:0005019 | epsilon                  |                                            | pancreatic epsilon cell
CL:0002064 | acinar                   |                                            | pancreatic acinar cell
CL:0002079 | ductal                   |                                            | pancreatic ductal cell
CL:0002410 | pancreatic stellate      |                                            | pancreatic stellate cell
CL:0000632 | hepatic stellate         |                                            | hepatic stellate cell
CL:0000127 | astrocyte                |                                            | astrocyte
CL:0000128 | oligodendrocyte          |                                            | oligodendrocyte
CL:0002453 | opc                      |                                            | oligodendrocyte precursor cell
CL:0000129 | microglia                |                                            | microglial cell
CL:0001064 | malignant                |                                            | malignant cell
"""


def rules() -> list[tuple[str, frozenset[str], frozenset[str], str]]:
    """`RULES` as (id, required words, allowed words, name), those that ask for most words first."""
    table = []
    for line in RULES.strip().splitlines():
        term, required, allowed, name = (cell.strip() for cell in line.split("|"))
        table.append((term, frozenset(required.split()), frozenset(allowed.split()), name))
    return sorted(table, key=lambda rule: -len(rule[1]))
