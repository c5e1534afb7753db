"""Methods and data of benchmarks/open_vocabulary.py: what is trained how, and on which cells."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
# File, column of labels, column of symbols, whether values are log-normalised and rounded back to something like counts.
SETS = {
    "pbmc3k": ("pbmc3k.h5ad", "cell_type", None, False),
    "facs": ("pbmc_facs_zheng2017.h5ad", "cell_type", "symbol", False),
    "kang": ("kang_ifnb_2000.h5ad", "cell_type", None, False),
    "tnk": ("pbmc_tnk_482genes.h5ad", "cell_type", None, False),
    "baron": ("pancreas_baron_human175.h5ad", "cell_type", None, False),
    "xin": ("pancreas_xin674.h5ad", "cell_type", None, True),
    "hnscc": ("hnscc_chetah180.h5ad", "cell_type", None, True),
    "wang": ("pancreas_wang501.h5ad", "cell_type", None, True),
    "nsclc": ("nsclc_smartseq300_tpm.h5ad", "cell_type", None, True),
}
# On which weights of the graph annotator's open answers were chosen (beside pbmc68k): no test of it.
DEVELOPMENT = ("pbmc3k", "facs", "kang", "baron")
QUIET = {"progress_bar": False, "accelerator": "cpu"}
GRAPH = {"celltosg", "marker-lists"}  # families that are handed a knowledge graph


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method is trained."""

    family: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    told: bool = False  # is told which share of the cells is of types without training cells
    forced: bool = (
        False  # that share of the cells gets the best name among new types, over the whole data set as OnClass does
    )
    trained: bool = True
    shuffled: bool = False  # every gene has the edges of another
    shuffled_tokens: bool = (
        False  # the same, but only in what the virtual tokens read: the evidence keeps the true graph
    )
    mode: str | None = None  # of the graph annotator's answer


METHODS = {
    "majority": Method("majority"),
    "logistic": Method("logistic"),
    "knn": Method("knn"),
    "hierarchical": Method("hierarchical"),
    "pagerank-voting": Method("pagerank-voting"),
    "onclass": Method("onclass"),
    "onclass, told": Method("onclass", told=True),
    "onclass, forced": Method("onclass", told=True, forced=True),
    "marker-lists": Method("marker-lists"),
    "marker-lists, no reference": Method("marker-lists", trained=False),
    "celltosg": Method("celltosg", QUIET),
    "celltosg, told": Method("celltosg", QUIET, told=True),
    "celltosg, forced": Method("celltosg", QUIET, told=True, forced=True),
    # What the graph and the profiles say alone: the language model has learnt nothing, and gets no weight.
    "celltosg, no stages": Method("celltosg", {**QUIET, "stages": ()}),
    "celltosg, no stages, told": Method("celltosg", {**QUIET, "stages": ()}, told=True),
    "celltosg, no stages, forced": Method("celltosg", {**QUIET, "stages": ()}, told=True, forced=True),
    # A plain cell-sentence language model, without a graph: its own probability of every name.
    "cell-sentence LM": Method("celltosg", {**QUIET, "use_graph": False}, mode="names"),
    "celltosg, names": Method("celltosg", QUIET, mode="names"),
    "celltosg, no graph tokens": Method("celltosg", {**QUIET, "use_graph": False}),
    "celltosg, shuffled graph": Method("celltosg", QUIET, shuffled=True),
    "celltosg, shuffled graph tokens": Method("celltosg", QUIET, shuffled_tokens=True),
    "celltosg, no InfoNCE": Method("celltosg", {**QUIET, "contrast_weight": 0.0}),
    "celltosg, no GRPO": Method("celltosg", {**QUIET, "stages": ("anchor", "align")}),
}
BASELINES = tuple(name for name, method in METHODS.items() if method.family != "celltosg")


def read(folder: Path, name: str):
    """One data set with symbols as genes and ids of the Cell Ontology in .obs["cell_type"]; only cells whose label is a term."""
    import anndata

    file, column, symbol, logged = SETS[name]
    adata = anndata.read_h5ad(folder / "scrna" / file)
    table = pd.read_csv(folder / "markers" / "label_to_CL.csv")
    ids = table[(table["file"] == file) & (table["column"] == column)].set_index("label")["CL_id"]
    term = adata.obs[column].astype(str).map(ids)
    adata = adata[term.notna().to_numpy()].copy()
    adata.obs["cell_type"] = term.dropna().to_numpy(dtype=object)
    if symbol is not None:
        adata.var_names = adata.var[symbol].astype(str)
        adata = adata[:, ~adata.var_names.duplicated() & (adata.var_names != "nan")].copy()
    if logged:
        from scipy import sparse

        values = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
        adata.X = sparse.csr_matrix(np.round(np.expm1(values) if values.max() < 30 else values).astype(np.float32))
    adata.layers.clear()
    return adata


def split(adata, n_train: int, n_test: int, seed: int):
    """At most so many cells of each type to learn from and, others, to be asked."""
    rng = np.random.default_rng(seed)
    train, test = [], []
    types = adata.obs["cell_type"].to_numpy(dtype=object)
    for kind in sorted(set(types)):
        cells = rng.permutation(np.flatnonzero(types == kind))
        cut = min(n_train, int(0.6 * len(cells)))
        train.append(cells[:cut])
        test.append(cells[cut : cut + n_test])
    return adata[np.sort(np.concatenate(train))].copy(), adata[np.sort(np.concatenate(test))].copy()


def ask(
    name: str, train, test, graph, *, share: float, candidates=None, seed: int = 0, preset: str = "small", memory=None
):
    """Annotation of the test cells, and seconds; `graph` without what is not to be known, `share` of new types.

    With a dict as `memory`, graph annotators that differ in how they are asked only are trained once.
    """
    import sclm
    from sclm.cells import read_cells

    method = METHODS[name]
    options = dict(method.options)
    if method.family in GRAPH:
        options["graph"] = shuffled(graph) if method.shuffled else graph
    asked = {}
    if candidates is not None and method.family not in ("majority", "logistic", "knn"):
        asked["candidates"] = candidates
    if method.family == "celltosg":
        options["preset"] = preset
    if method.told:
        (asked if method.family == "celltosg" else options)["novel_share"] = share
    shared = train.var_names.intersection(test.var_names)
    train, test = train[:, shared].copy(), test[:, shared].copy()
    start = time.perf_counter()
    key = (
        method.family,
        method.shuffled,
        method.shuffled_tokens,
        *sorted((k, str(v)) for k, v in method.options.items()),
    )
    reading = tokens_shuffled if method.shuffled_tokens else contextlib.nullcontext
    model = (memory or {}).get(key)
    if model is None:
        if method.trained:
            with reading():
                model = sclm.train(method.family, train, label_key="cell_type", seed=seed, **options)
        else:
            model = sclm.models.family_class(method.family).ready(graph=graph)
    if memory is not None and method.family == "celltosg":
        memory[key] = model
    cells = read_cells(test).read()
    if method.mode is not None:
        asked["mode"] = method.mode
    with reading():
        if method.family == "celltosg" and method.mode is None and not method.told:  # as sclm.tl.annotate asks it
            asked["novel_share"] = model.estimate_novel_share(cells, candidates=asked.get("candidates"))
        found = model.annotate(cells, **asked)
    if method.forced:
        found = forced(found, set(train.obs["cell_type"]), share)
    return found, time.perf_counter() - start


def forced(found, known: set[str], share: float):
    """The share of the cells where new types come nearest to the known ones named among the new types."""
    ids = found.categories["ontology_term_id"].to_numpy(dtype=object)
    old = np.isin(ids, list(known))
    if share == 0 or old.all():
        return found
    p = found.probabilities
    gain = p[:, ~old].max(axis=1) - p[:, old].max(axis=1)
    cells = np.argsort(-gain, kind="stable")[: round(share * len(p))]
    p = p.copy()
    p[np.ix_(cells, np.flatnonzero(old))] = 0.0
    table = found.table.copy()
    best = p.argmax(axis=1)
    table["ontology_term_id"], table["label"] = ids[best], found.categories["label"].to_numpy(dtype=object)[best]
    return found._replace(table=table, probabilities=p)


@contextlib.contextmanager
def tokens_shuffled():
    """While it lasts, graph annotators read a shuffled graph into their virtual tokens, and the true one as evidence."""
    from sclm.models.celltosg import learning, parts

    tensors, around = learning.graph_tensors, parts.Neighbourhood
    learning.graph_tensors = lambda graph: tensors(shuffled(graph))
    parts.Neighbourhood = lambda graph: around(shuffled(graph))
    try:
        yield
    finally:
        learning.graph_tensors, parts.Neighbourhood = tensors, around


def shuffled(graph):
    """A graph in which every gene has the edges of another."""
    genes = graph.rows("gene")
    other = np.arange(len(graph), dtype=np.int32)
    other[genes] = np.random.default_rng(0).permutation(genes)
    edges = {relation: other[pair] for relation, pair in graph.edges.items()}
    return dataclasses.replace(graph, edges=edges)
