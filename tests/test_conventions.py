"""What every public name of sclm has in common, checked over all of them."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "sclm"
SOURCES = sorted(SRC.rglob("*.py"))
MAX_LINES = 400

# Public namespaces: those that `import sclm` offers, one below them, and those that authors of families work with.
NAMESPACES = sorted(
    [
        *(name for name in sclm.__all__ if name not in {"load", "register_accessor", "request", "train"}),
        *(
            "cells",
            "evidence",
            "metrics.generation",
            "metrics.mapping",
            "metrics.perturbation",
            "metrics.text",
            "metrics.translation",
            "nn",
            "spatial",
            "training",
        ),
    ]
)
# Tools that make their own AnnData instead of writing into one.
NEW_ANNDATA = {"generate", "request"}
COMMAND_LINE = {*(SRC / "cli").glob("*.py"), SRC / "__main__.py"}


def namespace(name: str) -> Any:
    module = importlib.import_module(f"sclm.{name}")
    assert hasattr(module, "__all__"), f"sclm.{name} does not say what is public"
    return module


@functools.cache
def public() -> dict[str, Any]:
    """Everything public that can be had, as "tl.annotate" → object; what cannot fails in test_all_is_complete."""
    found = {}
    for name in NAMESPACES:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(f"sclm.{name}")
            for item in getattr(module, "__all__", ()):
                with contextlib.suppress(ImportError, AttributeError):
                    found[f"{name}.{item}"] = getattr(module, item)
    return found


def public_callables() -> list[str]:
    return [name for name, item in public().items() if callable(item)]


def public_methods() -> Iterator[tuple[str, Any]]:
    """Public functions, properties and constructors that the public classes define themselves."""
    for name, cls in public().items():
        if not inspect.isclass(cls):
            continue
        for attribute, raw in vars(cls).items():
            member = getattr(raw, "__func__", getattr(raw, "fget", getattr(raw, "func", raw)))
            if not attribute.startswith("_") and inspect.isfunction(member):
                yield f"{name}.{attribute}", member


def path_id(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every call in a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


# -- the public surface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMESPACES)
def test_all_is_complete_and_resolves(name: str) -> None:
    module = namespace(name)
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [item for item in module.__all__ if not hasattr(module, item)]
    assert not missing
    assert set(module.__all__) <= set(dir(module))
    unlisted = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and key not in module.__all__
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == f"sclm.{name}"
    ]
    assert not unlisted, f"sclm.{name} shows names that its __all__ leaves out"


@pytest.mark.parametrize("name", NAMESPACES)
def test_every_public_name_is_in_the_api_pages(name: str) -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "api").glob("*.md")))
    # Functions and classes have pages of their own; constants are explained in the text.
    line = r"(?m)^ +{0}$|`sclm\.{0}`"
    missing = [item for item in namespace(name).__all__ if not re.search(line.format(rf"{name}\.{item}"), pages)]
    assert not missing, f"docs/api/{name}.md lacks lines for these"


def test_a_figure_has_the_name_of_its_tool() -> None:
    """And what it shows after it, where a tool has several figures."""
    tools = namespace("tl").__all__
    assert not [
        name for name in namespace("pl").__all__ if not any(f"{name}_".startswith(f"{tool}_") for tool in tools)
    ]


# -- signatures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in public_callables() if n.startswith("tl.")])
def test_tool_signature(name: str) -> None:
    parameters = list(inspect.signature(public()[name]).parameters.values())
    names = [p.name for p in parameters]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(positional) <= 3, f"{name} takes {len(positional)} positional parameters"
    # A field of a model may have any name: `request` takes all keywords and refuses those that look like a slip itself.
    variable = (inspect.Parameter.VAR_POSITIONAL, *([inspect.Parameter.VAR_KEYWORD] if name != "tl.request" else []))
    assert not [p for p in parameters if p.kind in variable], "a typing error must not be lost"
    assert all(p.annotation is not p.empty for p in parameters)
    others = {"random_state": "seed", "inplace": "copy", "use_raw": "layer", "gene_symbols": "gene_key"}
    assert not {other: ours for other, ours in others.items() if other in names}

    # Where to write, resources, seed, copy: in this order, at the end.
    last = [n for n in ("key_added", "batch_size", "device", "seed", "copy") if n in names]
    assert [n for n in names if n in last] == last
    if "seed" in names:
        seed = parameters[names.index("seed")]
        assert seed.kind is seed.KEYWORD_ONLY
    if name.removeprefix("tl.") in NEW_ANNDATA:
        return
    assert names[0] == "adata"
    assert "key_added" in names
    assert names[-1] == "copy"
    assert parameters[-1].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters[-1].default is False


@pytest.mark.parametrize("name", [n for n in public_callables() if n.startswith(("pl.", "get."))])
def test_figures_and_tables_take_the_anndata_first(name: str) -> None:
    parameters = list(inspect.signature(public()[name]).parameters.values())
    assert parameters[0].name == "adata"
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(positional) <= 3
    assert "save" not in [p.name for p in parameters], "figures return Axes: saving is matplotlib's"


# -- docstrings ----------------------------------------------------------------------------------------------------


def sections(docstring: str) -> dict[str, str]:
    """Title → text of the underlined sections of a numpy-style docstring."""
    parts = re.split(r"(?m)^([A-Z][A-Za-z ]+)\n-{3,}$", docstring)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def missing_from_docstring(function: Any) -> list[str]:
    """Sections and parameters that the docstring of a function should have and has not."""
    docstring = inspect.getdoc(function) or ""
    if not docstring:
        return ["docstring"]
    missing = []
    signature = inspect.signature(function)
    found = sections(docstring)
    names = [n for n in signature.parameters if n not in {"self", "cls"} and not n.startswith("_")]
    if names and "Parameters" not in found:
        missing.append("Parameters")
    text = found.get("Parameters", "")
    missing += [n for n in names if not re.search(rf"(?m)^[\w *,]*(?<!\w){re.escape(n)}(?!\w)", text)]
    returns = signature.return_annotation
    if returns not in (None, "None", inspect.Signature.empty) and not {"Returns", "Yields"} & set(found):
        missing.append("Returns")
    return missing


def test_the_docstring_check_sees_what_is_missing() -> None:
    def bad(counts: int, genes: int) -> int:
        """Sum.

        Parameters
        ----------
        counts
            Of the cells.
        """

    def good(counts: int, genes: int) -> int:
        """Sum.

        Parameters
        ----------
        counts, genes
            Of the cells.

        Returns
        -------
        The sum.
        """

    assert missing_from_docstring(bad) == ["genes", "Returns"]
    assert missing_from_docstring(good) == []


@pytest.mark.parametrize("name", [n for n in public_callables() if not inspect.isclass(public()[n])])
def test_function_docstring(name: str) -> None:
    assert missing_from_docstring(public()[name]) == []


@pytest.mark.parametrize("name", [n for n in public_callables() if inspect.isclass(public()[n])])
def test_class_docstring(name: str) -> None:
    docstring = inspect.getdoc(public()[name]) or ""
    assert docstring
    assert not docstring.startswith(f"{public()[name].__name__}("), "the one that NamedTuple writes by itself"


@pytest.mark.parametrize(("name", "method"), [pytest.param(n, m, id=n) for n, m in public_methods()])
def test_method_docstring(name: str, method: Any) -> None:
    """Methods may be short; each has a sentence, and one that describes parameters describes them all."""
    assert inspect.getdoc(method), f"{name} has no docstring"
    if "Parameters" in sections(inspect.getdoc(method) or ""):
        assert [m for m in missing_from_docstring(method) if m != "Returns"] == []


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_file_is_short_and_well_named(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    words = {part.strip("_") for part in path.relative_to(SRC).with_suffix("").parts}
    assert not words & {"utils", "util", "core", "common", "helpers", "misc"}, "a name says what is inside"


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_no_assert_and_no_print(path: Path) -> None:
    """Asserts vanish under -O: errors are raised. What a user should read is logged; only the command line prints."""
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
    if path not in COMMAND_LINE:
        assert not [line for line, name in calls(path) if name == "print"]


# np.random.default_rng and the classes are local generators (RandomState is what scikit-learn takes); everything else in
# numpy.random is one shared state.
GLOBAL_RANDOM = re.compile(
    r"(np|numpy)\.random\.(?!default_rng$|Generator$|RandomState$|SeedSequence$|PCG64$|Philox$)\w+"
    r"|random\.(seed|random|shuffle|choice|sample|randint)"
    r"|torch\.(manual_seed|random\.manual_seed|cuda\.manual_seed(_all)?|seed)"
    r"|(\w+\.)*seed_everything"
)


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_no_global_random_state(path: Path) -> None:
    assert not [(line, name) for line, name in calls(path) if GLOBAL_RANDOM.fullmatch(name)]


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_no_pickle(path: Path) -> None:
    """A file from elsewhere must not be able to run code; one reader, of an allow-list, has tests of its own."""
    allowed = {"pickle"} if path_id(path) == "models/restricted_pickle.py" else set()
    imported = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call):
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            name = ast.unparse(node.func)
            assert options.get("allow_pickle", "False") == "False", f"line {node.lineno}"
            assert not name.endswith("read_pickle"), f"line {node.lineno}"
            assert name != "torch.load" or options.get("weights_only") == "True", f"line {node.lineno}"
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} - allowed


SIDE_EFFECTS = re.compile(
    r"warnings\.(filterwarnings|simplefilter)|logging\.basicConfig|os\.(environ\.\w+|putenv|makedirs|mkdir)"
    r"|.*\.(mkdir|addHandler|set_start_method)|torch\.(set_\w+|use_deterministic_algorithms)|matplotlib\.use"
    r"|numba\.set_num_threads"
)


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_import_has_no_side_effects(path: Path) -> None:
    """No filters, handlers, directories or settings at module level; one NullHandler for the logger is the custom."""
    found = []
    for statement in tree(path).body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                text = ast.unparse(node)
                if SIDE_EFFECTS.fullmatch(ast.unparse(node.func)) and "NullHandler" not in text:
                    found.append(text)
            elif isinstance(node, ast.Assign) and any("os.environ[" in ast.unparse(t) for t in node.targets):
                found.append(ast.unparse(node))
    assert not found


# -- the project's own files ---------------------------------------------------------------------------------------


@functools.cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def constraints() -> list[Path]:
    return sorted((ROOT / ".github").glob("constraints-*.txt"))


def test_every_family_is_in_the_independence_contract() -> None:
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    listed = {module for c in contracts if c["type"] == "independence" for module in c["modules"]}
    folders = {f"sclm.models.{p.parent.name}" for p in (SRC / "models").glob("*/__init__.py")}
    assert listed == folders


def test_every_family_can_be_imported_by_its_name() -> None:
    models = namespace("models")
    for name, target in models.FAMILIES.items():
        module, _, attribute = target.partition(":")
        assert inspect.isclass(getattr(importlib.import_module(module), attribute)), name


@pytest.mark.parametrize("path", constraints(), ids=lambda p: p.stem)
def test_constraints_name_versions_only(path: Path) -> None:
    """No addresses, paths or local versions: the same file works on every machine and index."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert "torch==2.13.0" in lines


def test_hooks_and_constraints_have_the_same_ruff() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    revision = re.search(r"ruff-pre-commit\n\s+rev: v(\S+)", hooks)
    assert revision is not None
    for path in constraints():
        assert f"ruff=={revision[1]}" in path.read_text().splitlines(), path.name


def test_ci_runs_what_the_readme_promises() -> None:
    commands = re.compile(r"(?m)^make \w+$")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert commands.findall(readme) == ["make demo", "make test"]
    assert commands.findall((ROOT / ".ci" / "run").read_text()) == commands.findall(readme)


def test_workflows_pin_actions_and_drop_credentials() -> None:
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        unpinned = [use for use in re.findall(r"uses: (\S+)", text) if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use)]
        assert not unpinned, path.name
        assert text.count("actions/checkout@") == text.count("persist-credentials: false"), path.name
        assert re.search(r"(?m)^permissions:\n  contents: read$", text), path.name
