"""What is read out of a tool's signature and docstring."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import sclm
from sclm.calls import signature, summary, tool_names
from sclm.calls.signatures import KINDS, described, of_function, plain, request_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata


def toy(
    adata: anndata.AnnData,
    model: str | Path | dict[str, int],
    *,
    genes: Sequence[str | Sequence[str]] | None = None,
    columns: str | Sequence[str] = "all",
    reference: Any = None,
    weights: Mapping[str, float] | None = None,
    share: float = 0.5,
    n: int | None = 3,
    exact: bool = False,
    copy: bool = False,
) -> None:
    """Do ``this`` to :class:`sclm.cells.Cells`.

    More about it.

    Parameters
    ----------
    adata
        Cells.
    model
        A name,
        or a folder.
    genes, columns
        Of both: :func:`sclm.tl.embed`.
    """


def test_kinds_follow_the_annotations() -> None:
    about = of_function(toy, "toy")
    assert {p.name: p.kind for p in about.parameters} == {
        "model": "text", "genes": "names", "columns": "texts", "reference": "cells", "share": "number", "n": "whole", "exact": "flag",
    }  # fmt: skip  # a mapping cannot be said in text, and has a default
    assert about.reads
    assert [p.name for p in about.parameters if p.required] == ["model"]
    assert (about.summary, about.details) == ("Do this to cells.Cells.", "More about it.")
    told = {p.name: p.description for p in about.parameters}
    assert told["model"] == "A name, or a folder."
    assert told["genes"] == told["columns"] == "Of both: tl.embed."


def test_a_needed_parameter_that_cannot_be_said_is_an_error() -> None:
    def bad(adata: anndata.AnnData, weights: Mapping[str, float]) -> None:
        """Nothing."""

    with pytest.raises(ValueError, match="bad takes weights"):
        of_function(bad, "bad")


@pytest.mark.parametrize("tool", tool_names())
def test_every_tool_can_be_said(tool: str) -> None:
    """New tools are there without a line of their own, with every parameter that has words in the docstring."""
    about = signature(tool)
    function = getattr(sclm.tl, tool)
    assert about.summary == summary(tool) != ""
    for parameter in about.parameters:
        assert parameter.kind in KINDS
        assert parameter.description, f"{tool} does not describe {parameter.name}"
        assert "`" not in parameter.description
        default = inspect.signature(function).parameters[parameter.name].default
        assert parameter.default == default
    left_out = set(inspect.signature(function).parameters) - {p.name for p in about.parameters}
    assert left_out <= {"adata", "copy", "path"} | {
        name for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty
    }


def test_no_tool_loses_a_parameter_unseen() -> None:
    """What text and paths cannot say today: whoever adds to this decides that a command line does without it."""
    lost = {
        f"{tool}.{name}"
        for tool in tool_names()
        for name in inspect.signature(getattr(sclm.tl, tool)).parameters
        if name not in {"adata", "copy", "path"} | {p.name for p in signature(tool).parameters}
    }
    assert lost <= {"ligrec.pairs", "interface.types", "describe.context"}


def test_descriptions_and_markup() -> None:
    assert plain("a ``b`` :func:`~sclm.tl.x`\n   and :math:`p > 0`") == "a b tl.x and p > 0"
    assert described("No parameters here.") == {}
    assert {p.name for p in request_parameters()} == {
        "n_obs", "like", "n_counts", "composition", "donors", "obs_keys", "layer",
    }  # fmt: skip
