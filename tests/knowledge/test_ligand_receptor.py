"""Tables of ligands and receptors: the bundled one, a user's, and those of other packages."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from sclm.knowledge import GeneIdentifiers, ligand_receptor_pairs, ligand_receptor_sources_available
from sclm.knowledge.downloads import DATA_DIR, RESOURCES

if TYPE_CHECKING:
    from pathlib import Path


def test_the_bundled_table_holds_approved_symbols_once() -> None:
    pairs = ligand_receptor_pairs()
    table = pairs.table
    assert len(table) == 287
    assert list(table.columns) == ["ligand", "receptor", "category", "range"]
    assert not table.duplicated(["ligand", "receptor"]).any()
    genes = sorted({gene for column in ("ligand", "receptor") for name in table[column] for gene in name.split("_")})
    assert GeneIdentifiers.load("human").to_symbol(genes) == genes
    assert set(table["range"]) == {"contact", "secreted"}
    assert (table["category"] != "").all()
    known = set(zip(table["ligand"], table["receptor"], strict=True))
    assert {("CD274", "PDCD1"), ("CXCL12", "CXCR4"), ("TGFB1", "TGFBR1_TGFBR2")} <= known


def test_sources_state_their_licence() -> None:
    listed = ligand_receptor_sources_available().set_index("name")
    assert listed.index[listed["bundled"]].tolist() == ["sclm"]
    assert (listed["licence"] != "").all()
    assert listed.loc["celltalkdb", "licence"] == "GPL-3.0"


@pytest.mark.parametrize(
    "columns",
    [
        ("ligand", "receptor"),
        ("source", "target"),
        ("source_genesymbol", "target_genesymbol"),
        ("genesymbol_intercell_source", "genesymbol_intercell_target"),
    ],
)
def test_a_table_of_yours(columns: tuple[str, str], tmp_path: Path) -> None:
    table = pd.DataFrame({columns[0]: ["A", "A", "B&C", None, "D"], columns[1]: ["X_Y", "X_Y", "COMPLEX:X_Y", "Z", ""]})
    table["weight"] = 1.0
    wanted = [["A", "X_Y"], ["B_C", "X_Y"]]
    assert ligand_receptor_pairs(table).table.to_numpy().tolist() == wanted
    table.to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
    read = ligand_receptor_pairs(tmp_path / "mine.tsv")
    assert read.table.to_numpy().tolist() == wanted
    assert (read.name, read.licence) == ("mine.tsv", "not stated")


def test_two_columns_need_no_names() -> None:
    assert ligand_receptor_pairs(pd.DataFrame([["A", "B"]])).table.to_numpy().tolist() == [["A", "B"]]


def test_a_registered_file_is_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "lr_pair\tligand_gene_symbol\treceptor_gene_symbol\nA_B\tA\tB\n"
    resource = RESOURCES["celltalkdb"]._replace(sha256=hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setitem(RESOURCES, "celltalkdb", resource)
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    (tmp_path / resource.file).write_text(text)
    pairs = ligand_receptor_pairs("celltalkdb")
    assert pairs.table.to_numpy().tolist() == [["A", "B"]]
    assert (pairs.licence, pairs.source) == ("GPL-3.0", resource.url)


def test_liana_is_read_from_its_folder_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "liana" / "resource"
    folder.mkdir(parents=True)
    (tmp_path / "liana" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "omni_resource.csv").write_text(
        '"","source","target","source_genesymbol","target_genesymbol","resource"\n'
        '"1","P1","P2","LGALS9","PTPRC","consensus"\n"2","P1","P3","LGALS9","MET","consensus"\n"3","P4","P5","A","B_C","cellphonedb"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert ligand_receptor_pairs("liana").table.to_numpy().tolist() == [["LGALS9", "PTPRC"], ["LGALS9", "MET"]]
    other = ligand_receptor_pairs("liana:cellphonedb")
    assert other.table.to_numpy().tolist() == [["A", "B_C"]]
    assert other.name == "liana:cellphonedb"
    with pytest.raises(ValueError, match="liana has no table 'nothing'; it has 'cellphonedb', 'consensus'"):
        ligand_receptor_pairs("liana:nothing")


def test_squidpy_s_pairs_come_from_omnipath(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.machinery

    package, module = ModuleType("omnipath"), ModuleType("omnipath.interactions")
    package.__spec__ = importlib.machinery.ModuleSpec("omnipath", None)
    table = pd.DataFrame({"genesymbol_intercell_source": ["COMPLEX:A_B"], "genesymbol_intercell_target": ["C"]})
    module.import_intercell_network = lambda **how: table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omnipath", package)
    monkeypatch.setitem(sys.modules, "omnipath.interactions", module)
    assert ligand_receptor_pairs("squidpy").table.to_numpy().tolist() == [["A_B", "C"]]

    def offline(**how: object) -> None:
        raise OSError("no network")

    module.import_intercell_network = offline  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError, match=r"OmniPath could not be asked .*no network.*pairs='sclm'"):
        ligand_receptor_pairs("squidpy")


def test_what_is_no_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"expected one of 'sclm', .* found 'nothing'"):
        ligand_receptor_pairs("nothing")
    with pytest.raises(TypeError, match="a name, a path or a DataFrame, found int"):
        ligand_receptor_pairs(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"columns 'ligand' and 'receptor' .* found 'a', 'b', 'c'"):
        ligand_receptor_pairs(pd.DataFrame({"a": ["A"], "b": ["B"], "c": ["C"]}))
    with pytest.raises(ValueError, match="must hold pairs of genes, found none in 1 rows"):
        ligand_receptor_pairs(pd.DataFrame({"ligand": ["A"], "receptor": [""]}))
    with pytest.raises(FileNotFoundError, match="no file"):
        ligand_receptor_pairs(tmp_path / "missing.csv")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install liana"):
        ligand_receptor_pairs("liana")
    with pytest.raises(ModuleNotFoundError, match="omnipath"):
        ligand_receptor_pairs("squidpy")
