"""The command that shows everything, end to end."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from sclm import datasets
from sclm.cli import main
from sclm.report import html

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Balanced(HTMLParser):
    """Fails where a tag is not closed."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in {"src", "href"}]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_text(page: str) -> str:
    """The words of a page."""
    return unescape(re.sub(r"<[^>]+>", "", page))


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sclm.report.demo as demo
    import sclm.report.embed as embed
    import sclm.report.generate as generate
    import sclm.report.interface as interface
    import sclm.report.open_vocabulary as open_vocabulary

    monkeypatch.setattr(demo, "_N_SPLITS", 2)
    for name, value in {"_PRESET": "tiny", "_MAX_EPOCHS": 1, "_N_ASKED": 30, "_N_COMPARED": 60}.items():
        monkeypatch.setattr(generate, name, value)
    for name, value in {"_N_SPOTS": 200, "_PERMUTATIONS": 49, "_RANDOM_PAIRS": 40}.items():
        monkeypatch.setattr(interface, name, value)
    for name, value in {"_STAGES": (), "_EXPLAINED": 1}.items():
        monkeypatch.setattr(open_vocabulary, name, value)
    for name, value in {"_MAX_EPOCHS": 1, "_N_NULL": 20, "_GENES": ("CD3D", "LYZ")}.items():
        monkeypatch.setattr(embed, name, value)
    # The UMAP has a test of its own; compiling it takes longer than all the rest.
    monkeypatch.setattr("scanpy.pp.neighbors", lambda data, **options: None)
    monkeypatch.setattr(
        "scanpy.tl.umap",
        lambda data, **options: data.obsm.update(X_umap=np.asarray(data.obsm.get("X_pca", data.X))[:, :2]),
    )
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for method in demo.METHODS:
        assert re.search(rf"(?m)^{method} +0\.\d+", printed)

    table = pd.read_csv(tmp_path / "out" / "methods.csv", index_col=0)
    assert table.loc["logistic", "accuracy"] > table.loc["majority", "accuracy"] + 0.3
    annotated = ad.read_h5ad(tmp_path / "out" / "pbmc68k_annotated.h5ad")
    assert {"sclm_cell_type", "sclm_cell_type_confidence", "sclm_backed_off"} <= set(annotated.obs)
    assert annotated.n_obs == 209

    # A type that was held out, named with all terms of the ontology, and what moved the answers.
    opened = pd.read_csv(tmp_path / "out" / "open_vocabulary.csv", index_col="method")
    assert opened.loc["logistic", "accuracy, the new type"] == 0
    assert opened["accuracy, known types"].min() > 0.6
    why = pd.read_csv(tmp_path / "out" / "explanations.csv")
    assert {"gene", "top genes", "random genes"} <= set(why["kind"])

    # Every type in words, and no planted label that stands as a fact.
    described = pd.read_csv(tmp_path / "out" / "descriptions.csv", index_col="group")
    assert described.loc["B cell", "text"] in html_text((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert re.search(r"of 10 planted ones 0 kept", printed)

    # A section with a border, and a planted signal across it.
    signals = pd.read_csv(tmp_path / "out" / "signals.csv")
    assert {"ligand", "receptor", "z", "pval", "padj"} <= set(signals.columns)
    assert "sclm_interface" in ad.read_h5ad(tmp_path / "out" / "interface.h5ad").obs
    assert "nothing regressed out" in printed

    # Half of the cells written from metadata, and every metric between its ceiling and floors.
    for metric in generate._ROWS.values():
        assert metric in printed
    written = ad.read_h5ad(tmp_path / "out" / "pbmc68k_generated.h5ad")
    _, held_out = generate.halves(datasets.pbmc68k(), 0)
    assert written.shape == held_out.shape
    counts = written.obs["cell_type"].astype(str).value_counts()
    assert counts.to_dict() == held_out.obs["cell_type"].astype(str).value_counts().to_dict()
    assert (written.X.data == np.rint(written.X.data)).all()
    assert {"sclm_log_likelihood", "sclm_novelty", "sclm_implausible"} <= set(written.obs)
    metrics = pd.read_csv(tmp_path / "out" / "generation.csv", index_col="metric")
    assert set(generate._ROWS) <= set(metrics.index)
    assert metrics.loc["copied_share", "copies"] == 1.0

    figures = sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())
    assert figures == [
        "agreement.png", "coverage.png", "descriptions.png", "embedding.png", "embedding_beside_pca.png", "generated.png",
        "interface.png", "interface_profile.png", "map.png", "map_written.png", "pair.png", "perturbed_genes.png", "reliability.png",
    ]  # fmt: skip

    # A section of held-out cells, mapped with both references: nearer to the truth than any one composition for all spots.
    section = ad.read_h5ad(tmp_path / "out" / "section.h5ad")
    assert {"sclm_cell_type_fraction", "from_written", "least_squares"} <= set(section.obsm)
    assert section.uns["from_written"]["reference"]["kind"] == "generated cells"
    mapped = pd.read_csv(tmp_path / "out" / "mapping.csv", index_col="method")
    for name in ("real reference", "written reference"):
        assert mapped.loc[name, "jsd"] < mapped.loc["mean composition (oracle)", "jsd"] - 0.1
        assert mapped.loc[name, "pearson_by_type"] > 0.4

    # Vectors of an encoder beside principal components and random weights; deleted genes beside random ones.
    embedded = pd.read_csv(tmp_path / "out" / "embeddings.csv", index_col=0)
    assert {"principal components", "scGPT, tiny, random weights"} <= set(embedded.index)
    assert embedded.loc["principal components", "accuracy"] > 0.6
    effects = pd.read_csv(tmp_path / "out" / "perturbed_genes.csv")
    assert {"effect", "null_mean", "p", "q"} <= set(effects.columns)
    assert set(effects["perturbation"]) == {"CD3D", "LYZ"}

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert len(parser.sources) == len(figures)  # all inside the file
    assert all(s.startswith("data:image/png;base64,") for s in parser.sources)
    assert "(2 layers, 64 wide)" in page
    columns = ["perturbation", "effect", "null_mean", "z", "p", "q", "n_cells"]
    assert "".join(f"<th>{name}</th>" for name in columns) in page
    assert "240 of the 700 cells" in page  # the limits of the data are said
    assert "was not in training: written as its nearest known kind" in page
    assert "They cannot show whole transcriptomes" in page


def test_halves_are_stratified() -> None:
    from sclm.report.generate import halves

    adata = datasets.pbmc68k()
    first, second = halves(adata, 3)
    assert sorted([*first.obs_names, *second.obs_names]) == sorted(adata.obs_names)
    difference = second.obs["cell_type"].value_counts() - first.obs["cell_type"].value_counts()
    assert set(difference) <= {0, 1}


def test_cli_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("sclm: ")


def test_html_is_escaped() -> None:
    frame = pd.DataFrame({"a<b": [0.5, float("nan")], "n": ["<x>", "y"]}, index=pd.Index(["r&s", "t"], name="row"))
    text = html.table(frame, best={"a<b": "max"})
    assert "&lt;x&gt;" in text
    assert "r&amp;s" in text
    assert '<td class="best">0.500</td>' in text
    assert "–" in text
    assert html.text("use `<b>`") == "<p>use <code>&lt;b&gt;</code></p>"
