"""What `import sclm` loads: nothing that a user who only looks around should wait for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sclm

HEAVY = ("torch", "lightning", "transformers", "peft", "scanpy", "squidpy", "anndata", "matplotlib")


def loaded_after(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter after the code."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import sclm", id="sclm"),
        pytest.param("import sclm; sclm.tl", id="tl"),
        pytest.param("import sclm; sclm.pl; sclm.get; sclm.datasets", id="pl-get-datasets"),
        pytest.param("import sclm; sclm.models; sclm.load; sclm.train", id="models"),
        pytest.param("import sclm.cells, sclm.knowledge, sclm.metrics", id="cells-knowledge-metrics"),
        pytest.param("from sclm.cli import main\nmain(['--help'])", id="help-of-the-command"),
        pytest.param("from sclm.cli import main\nmain(['annotate', '--help'])", id="help-of-a-tool"),
        pytest.param("import sclm\nfor name in sclm.tl.__all__: getattr(sclm.tl, name)", id="every-tool"),
        pytest.param("import sclm\nfor name in sclm.pl.__all__: getattr(sclm.pl, name)", id="every-figure"),
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_after(code).isdisjoint(HEAVY)


def test_help_of_the_command_waits_for_nothing() -> None:
    assert loaded_after("from sclm.cli import main\nmain(['--help'])").isdisjoint(
        {*HEAVY, "numpy", "pandas", "scipy", "numba"}
    )


def test_import_alone_needs_the_standard_library_only() -> None:
    bare = loaded_after("")
    third_party = loaded_after("import sclm") - bare - set(sys.stdlib_module_names)
    assert third_party == {"sclm"}


def test_the_namespace_lists_and_finds_its_names() -> None:
    assert set(sclm.__all__) <= set(dir(sclm))
    for name in sclm.__all__:
        assert getattr(sclm, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        sclm.no_such_name  # noqa: B018
