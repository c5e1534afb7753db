"""The pages: every one is reachable, every link arrives, every call that they show binds to the function of today. Nothing is run."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if not {"_build", "generated", "jupyter_execute"} & set(page.relative_to(DOCS).parts)
)
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CODE = re.compile(r"^```(?:\{code-cell\} ipython3|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MyST make them."""
    text = re.sub(r"^(`{3,}).*?^\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[`*]|\{[a-z]+\}", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def toctree(page: Path) -> Iterator[Path]:
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            entry = line.strip()
            if entry and not entry.startswith(":"):
                yield page.parent / f"{entry}.md"


def test_every_page_is_reachable_from_the_first() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            assert page.is_file(), f"a toctree names {name_of(page)}, which is not there"
            reached.add(page)
            waiting += toctree(page)
    assert set(PAGES) == reached


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_arrive(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```(?!\{(?:grid|note|warning|admonition)).*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
            broken.append(target)
    named = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", prose) + re.findall(r"^:link: (\S+)$", text, re.MULTILINE)
    broken += [to for to in named if not re.match(r"[a-z]+:", to) and not (page.parent / f"{to}.md").is_file()]
    broken += [image for image in re.findall(r"\{image\} (\S+)", text) if not (page.parent / image).is_file()]
    assert not broken, f"{name_of(page)} links to what is not there: {broken}"


def calls(page: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls of sclm that a page shows, as ``tl.annotate``; what is no Python is skipped."""
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        try:
            tree = ast.parse("\n".join(line for line in code.splitlines() if not re.match(r":\w|%|!", line)))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and re.fullmatch(r"sclm(\.\w+)+", ast.unparse(node.func)):
                yield ast.unparse(node.func).removeprefix("sclm."), node


def found_as(name: str) -> Any:
    item: Any = sclm
    for part in name.split("."):
        item = getattr(item, part)
    return item


@pytest.mark.parametrize("page", [page for page in TEXTS if any(True for _ in calls(page))], ids=name_of)
def test_calls_that_are_shown_bind_to_the_functions_of_today(page: Path) -> None:
    wrong = []
    for name, call in calls(page):
        try:
            signature = inspect.signature(found_as(name))
        except AttributeError:
            wrong.append(f"sclm.{name} does not exist")
            continue
        given = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
        unpacked = len(given) < len(call.keywords) or any(isinstance(arg, ast.Starred) for arg in call.args)
        try:
            bind = signature.bind_partial if unpacked or not call.args else signature.bind
            bind(*[None] * len(call.args), **given)
        except TypeError as error:
            wrong.append(f"{ast.unparse(call)}: {error}")
    assert not wrong, f"{name_of(page)}: {wrong}"


def test_the_gallery_shows_every_figure_and_the_limits_every_tool() -> None:
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    for name in sclm.pl.__all__:
        assert f"sclm.pl.{name}`" in gallery, f"no card for sclm.pl.{name}"
        assert f"```{{glue}} {name}\n" in gallery, f"no figure for sclm.pl.{name}"
    limits = (DOCS / "limits.md").read_text(encoding="utf-8")
    for name in set(sclm.tl.__all__) - {
        "adopt",
        "pathways",
        "request",
    }:  # conversions, and statistics with their own null
        assert f"`{name}`" in limits, f"no limits of sclm.tl.{name}"
