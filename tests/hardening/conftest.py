"""Every verb as one small call, and a fingerprint of an AnnData that notices any change."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

# As small as networks can be: what is looked at here does not depend on how well they learn.
TINY: dict[str, dict[str, Any]] = {
    "scgpt": {"preset": "tiny", "max_epochs": 1, "width": 16, "n_layers": 1, "n_heads": 2},
    "pgl": {
        "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8, "programme_iterations": 2,
    },
}  # fmt: skip
QUIET = {"progress_bar": False, "accelerator": "cpu"}
TOOLS = (
    "annotate", "annotate by reference", "adopt", "describe", "describe groups", "domains", "embed", "interface", "ligrec",
    "map_spatial", "pathways", "perturb", "perturb by response", "translate",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `tool` runs once for each."""
    if "tool" in metafunc.fixturenames:
        metafunc.parametrize("tool", TOOLS)


@pytest.fixture(scope="session")
def reference(simulate: Callable[..., ad.AnnData], pbmc: ad.AnnData) -> ad.AnnData:
    """Labelled cells to learn from, with genes of blood cells, among them markers. Tests must not change it."""
    cells = simulate(200, seed=1)
    cells.var_names = pbmc.var_names[:120].astype(str)
    return cells


@pytest.fixture
def query(simulate: Callable[..., ad.AnnData], reference: ad.AnnData) -> ad.AnnData:
    """Other cells of the same types; every test gets its own."""
    cells = simulate(40, seed=2)
    cells.var_names = reference.var_names
    return cells


@pytest.fixture(scope="session")
def known(reference: ad.AnnData) -> list[str]:
    """Names of the genes that the models know."""
    return [str(name) for name in reference.var_names]


@pytest.fixture(scope="session")
def trained(reference: ad.AnnData, known: list[str]) -> dict[str, Any]:
    """A model for each verb."""
    proteins = reference.copy()
    proteins.obsm["protein"] = pd.DataFrame(reference.X[:, :3].toarray(), reference.obs_names, ["p1", "p2", "p3"])
    perturbed = reference.copy()
    perturbed.obs["gene"] = np.where(np.arange(reference.n_obs) % 2, "control", known[5])
    return {
        "logistic": sclm.train("logistic", reference, label_key="cell_type"),
        "scgpt": sclm.train("scgpt", reference[:60].copy(), **TINY["scgpt"], **QUIET),
        "pgl": sclm.train("pgl", reference, obs_keys=["cell_type", "donor"], **TINY["pgl"], **QUIET),
        "protein": sclm.train("ridge-protein", proteins, protein_key="protein"),
        "response": sclm.train("additive-response", perturbed, perturbation_key="gene", control="control"),
    }


@pytest.fixture(scope="session")
def tools(trained: dict[str, Any], reference: ad.AnnData, known: list[str]) -> dict[str, Callable[[ad.AnnData], Any]]:
    """Name → a call of a tool on any AnnData with `.obs["label"]` and `.obsm["spatial"]`."""
    tl, sets = sclm.tl, {"first": known[:10], "second": known[20:32]}
    pair = pd.DataFrame({"ligand": [known[0]], "receptor": [known[1]]})

    def inside(adata: ad.AnnData) -> str:
        labels = adata.obs["label"].dropna().astype(str)
        return str(labels.iloc[0]) if len(labels) else "B cell"

    calls = {
        "annotate": lambda a: tl.annotate(a, trained["logistic"], min_confidence=0.6),
        "annotate by reference": lambda a: tl.annotate(a, "mean", reference=a, label_key="label"),
        "adopt": lambda a: tl.adopt(a, "label"),
        "describe": lambda a: tl.describe(a, "evidence", gene_sets=sets),
        "describe groups": lambda a: tl.describe(a, "evidence", groupby="label", gene_sets=sets),
        "domains": lambda a: tl.domains(a, n_domains=2),
        "embed": lambda a: tl.embed(a, trained["scgpt"], device="cpu"),
        "interface": lambda a: tl.interface(a, inside(a), groups="label", threshold=0.5, min_spots=2),
        "ligrec": lambda a: tl.ligrec(a, pair, groups="label", n_permutations=50),
        "map_spatial": lambda a: tl.map_spatial(a, reference, label_key="cell_type", method="nnls"),
        "pathways": lambda a: tl.pathways(a, sets, min_genes=1),
        "perturb": lambda a: tl.perturb(a, trained["scgpt"], [known[2]], n_null=20, n_cells=5, device="cpu"),
        "perturb by response": lambda a: tl.perturb(a, trained["response"], [known[5]]),
        "translate": lambda a: tl.translate(a, trained["protein"]),
    }
    assert tuple(calls) == TOOLS
    return calls


def _values(value: Any) -> Any:
    """Anything that an AnnData holds, as text and bytes."""
    if hasattr(value, "compute"):
        value = value.compute()
    if type(value).__module__.startswith(("h5py", "anndata._core.sparse")):
        value = value[:] if hasattr(value, "dtype") and not hasattr(value, "to_memory") else value.to_memory()
    if sparse.issparse(value):
        return value.format, value.shape, [_values(part) for part in (value.data, value.indices, value.indptr)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, value.flags["F_CONTIGUOUS"], value.tobytes()
    if isinstance(value, pd.DataFrame):
        columns = [(str(name), _values(value[name].array)) for name in value.columns]
        return list(map(str, value.index)), columns
    if isinstance(value, pd.Categorical):
        return list(map(str, value.categories)), value.codes.tolist(), value.ordered
    if hasattr(value, "items"):
        return [(str(name), _values(part)) for name, part in sorted(value.items())]
    if isinstance(value, np.ndarray | list | tuple) or hasattr(value, "to_numpy"):
        return [str(v) for v in value]
    return type(value).__name__, str(value)


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[ad.AnnData], str]:
    """A hash of all that an AnnData holds, its storage included."""

    def of(adata: ad.AnnData) -> str:
        parts: list[Any] = [_values(adata.X), _values(adata.obs), _values(adata.var)]
        parts += [_values(dict(getattr(adata, slot))) for slot in ("obsm", "varm", "obsp", "layers", "uns")]
        parts.append((adata.is_view, adata.isbacked, adata.shape))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    return of


@pytest.fixture(scope="session")
def contents() -> Callable[[Any], Any]:
    """What a part of an AnnData holds, in a form that can be compared."""
    return _values
