"""The command that shows everything, end to end."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
import pytest

from sclm.cli import main
from sclm.report import html

if TYPE_CHECKING:
    from pathlib import Path


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


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sclm.report.demo as demo

    monkeypatch.setattr(demo, "_N_SPLITS", 2)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for method in demo.METHODS:
        assert re.search(rf"(?m)^{method} +0\.\d+", printed)

    table = pd.read_csv(tmp_path / "out" / "methods.csv", index_col=0)
    assert table.loc["logistic", "accuracy"] > table.loc["majority", "accuracy"] + 0.3
    annotated = ad.read_h5ad(tmp_path / "out" / "pbmc68k_annotated.h5ad")
    assert {"sclm_cell_type", "sclm_cell_type_confidence", "sclm_backed_off"} <= set(annotated.obs)
    assert annotated.n_obs == 209

    figures = sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())
    assert figures == ["agreement.png", "coverage.png", "embedding.png", "reliability.png"]

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert len(parser.sources) == 4  # four figures, all inside the file
    assert all(s.startswith("data:image/png;base64,") for s in parser.sources)
    assert "240 of the 700 cells" in page  # the limits of the data are said


def test_cli_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("sclm: ")
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0


def test_html_is_escaped() -> None:
    frame = pd.DataFrame({"a<b": [0.5, float("nan")], "n": ["<x>", "y"]}, index=pd.Index(["r&s", "t"], name="row"))
    text = html.table(frame, best={"a<b": "max"})
    assert "&lt;x&gt;" in text
    assert "r&amp;s" in text
    assert '<td class="best">0.500</td>' in text
    assert "–" in text
    assert html.text("use `<b>`") == "<p>use <code>&lt;b&gt;</code></p>"
