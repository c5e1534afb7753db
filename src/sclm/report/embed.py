"""The chapter on encoders: a small scGPT trained from scratch, its vectors beside principal components, genes taken away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import get, metrics, models, pl, tl
from sclm.cells import log_normalise, read_cells
from sclm.knowledge import Ontology
from sclm.report import html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

KEY = "X_sclm_scgpt"
_PRESET = "tiny"
_MAX_EPOCHS: int | None = 12
_N_CELLS = 100  # that are perturbed
_GENES = ("CD3D", "NKG7", "CD79A", "LYZ", "HLA-DRA", "CD74")  # deleted one at a time
_N_NULL = 40  # random genes of the null
_COLUMNS = {  # of the table of perturbed genes → how they are written: effects of a small network are small
    "effect": "{:.2g}", "null_mean": "{:.2g}", "z": "{:.1f}", "p": "{:.3f}", "q": "{:.3f}", "n_cells": "{}",
}  # fmt: skip
_TRUTH, _TRUTH_ID, _FREE = "cell_type", "cell_type_ontology_term_id", "author_cell_type"
_LEARNT, _RANDOM, _PCA = "scGPT, tiny, trained on these cells", "scGPT, tiny, random weights", "principal components"


def embed_cells(
    train: anndata.AnnData, held_out: anndata.AnnData, out: Path, *, seed: int, say: Callable[[str], None]
) -> tuple[html.Chapter, dict[str, Path]]:
    """Train a small encoder on half of the cells without their labels, and see what its vectors are good for on the other half.

    Parameters
    ----------
    train, held_out
        Real cells with raw counts and cell types.
    out
        Folder to write to.
    seed
        Of training and of the null genes.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter and its files.
    """
    say(f"an encoder (scgpt, preset {_PRESET}) learns from {train.n_obs} cells without their labels …")
    options: dict[str, Any] = {} if _MAX_EPOCHS is None else {"max_epochs": _MAX_EPOCHS}
    start = time.perf_counter()
    model = models.train("scgpt", train, preset=_PRESET, progress_bar=False, seed=seed, **options)
    seconds = time.perf_counter() - start
    unlearnt = models.train(
        "scgpt", train, preset=_PRESET, progress_bar=False, seed=seed, max_epochs=1, learning_rate=1e-9
    )
    train, held_out = train.copy(), held_out.copy()
    for adata in (train, held_out):
        tl.embed(adata, model, seed=seed)
        tl.embed(adata, unlearnt, key_added="X_random", seed=seed)
    say(f"trained in {seconds:.0f} s; comparing its vectors with principal components and with random weights …")
    vectors = {
        _LEARNT: (train.obsm[KEY], held_out.obsm[KEY]),
        _RANDOM: (train.obsm["X_random"], held_out.obsm["X_random"]),
        _PCA: _components(train, held_out, seed),
    }
    table = pd.DataFrame({name: _row(train, held_out, *pair) for name, pair in vectors.items()}).T
    table = pd.concat([table, _named(train, held_out, model, seed)])
    table.index.name = "what names the held-out cells"
    say("\n" + table.round(3).to_string() + "\n")

    say(f"deleting {len(_GENES)} genes in silico, beside {_N_NULL} random ones …")
    there = [gene for gene in _GENES if gene in held_out.var_names]
    tl.perturb(held_out, model, there, n_cells=_N_CELLS, n_null=_N_NULL, seed=seed)
    effects = get.perturb(held_out)
    files = {"embeddings": out / "embeddings.csv", "perturbed genes": out / "perturbed_genes.csv"}
    table.to_csv(files["embeddings"])
    effects.to_csv(files["perturbed genes"], index=False)
    return html.Chapter(
        "Cells as vectors", _blocks(train, held_out, table, effects, model.config, out / "figures", seconds, seed)
    ), files


def _components(train: anndata.AnnData, held_out: anndata.AnnData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """50 principal components of the log-normalised training cells, and the others in them."""
    from sklearn.decomposition import PCA

    first, second = (log_normalise(read_cells(adata).read().counts).toarray() for adata in (train, held_out))
    found = PCA(min(50, len(first) - 1), random_state=seed).fit(first)
    return found.transform(first), found.transform(second)


def _row(train: anndata.AnnData, held_out: anndata.AnnData, known: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Held-out cells named by their 15 nearest training cells, and the purity of their neighbourhoods."""
    from sklearn.neighbors import KNeighborsClassifier

    use, named = np.isfinite(known).all(axis=1), np.isfinite(asked).all(axis=1)
    types, truth = (adata.obs[_TRUTH].astype(str).to_numpy() for adata in (train, held_out))
    answer = np.full(len(truth), "unknown", dtype=object)
    answer[named] = KNeighborsClassifier(15).fit(known[use], types[use]).predict(asked[named])
    scores = metrics.annotation(truth.astype(object), answer)
    purity = metrics.embedding(asked, truth)["type_purity"]
    return {"accuracy": scores["accuracy"], "macro F1": scores["macro_f1"], "purity of neighbours": purity}


def _named(train: anndata.AnnData, held_out: anndata.AnnData, model: Any, seed: int) -> pd.DataFrame:
    """Rows of a head on the frozen encoder, and of logistic regression on log counts."""
    head = models.train("scgpt", train, label_key=_FREE, base=model, tune="frozen", progress_bar=False, seed=seed)
    plain = models.train("logistic", train, label_key=_FREE, seed=seed)
    rows = {}
    truth = held_out.obs[_TRUTH_ID].astype(str).to_numpy(dtype=object)
    for name, annotator in ((f"{_LEARNT}: a head", head), ("logistic regression on log counts", plain)):
        shown = held_out.copy()
        tl.annotate(shown, annotator)
        answer = get.annotate(shown)["ontology_term_id"].astype(str).to_numpy(dtype=object)
        scores = metrics.annotation(truth, answer, ontology=Ontology.load("cl"))
        rows[name] = {"accuracy": scores["accuracy"], "macro F1": scores["macro_f1"]}
    return pd.DataFrame(rows).T


def _blocks(
    train: anndata.AnnData,
    held_out: anndata.AnnData,
    table: pd.DataFrame,
    effects: pd.DataFrame,
    config: Any,
    folder: Path,
    seconds: float,
    seed: int,
) -> list[str]:
    best = str(table["accuracy"].idxmax())
    size = f"{config.n_layers} layers, {config.width} wide"
    axes = pl.embed(held_out, _TRUTH, key=KEY, seed=seed)
    drawn = pl.perturb(held_out).figure
    shown = effects.head(8).set_index("perturbation")[list(_COLUMNS)]
    shown = shown.apply(lambda column: column.map(_COLUMNS[str(column.name)].format))
    return [
        html.text(
            f"A small scGPT ({size}) learnt in {seconds:.0f} seconds on this machine to guess hidden counts of {train.n_obs} cells, "
            f"without seeing a label. Its vectors of the other {held_out.n_obs} cells are compared with principal components of the same "
            "training cells, and with the same network before it learnt anything."
        ),
        html.table(table, decimals=dict.fromkeys(table.columns, 3), best={"accuracy": "max", "macro F1": "max"}),
        html.text(
            f"Cells are named by their 15 nearest training cells, by a head on the frozen encoder, or by logistic regression on log counts. Best "
            f"here: {best}. A network that has seen some hundred cells of 765 genes has nothing that simpler methods lack; what pretraining on "
            "millions of cells brings is a question to a published checkpoint, which sclm.load reads. The row of random weights is the "
            "control to ask for: much of what an encoder's vectors hold is in the counts that it was given."
        ),
        html.figure(
            axes[0].figure,
            "Held-out cells by the encoder's vectors and by principal components, two UMAPs of 15 neighbours each.",
            folder / "embedding_beside_pca.png",
        ),
        html.text(
            "Genes can be taken away in silico: the gene's token is deleted from each cell that expresses it, and the cell's vector moves. How far means "
            f"nothing by itself, so {_N_NULL} random genes of like expression are deleted too, and p and q say how unusual a gene is among them."
        ),
        html.table(shown),
        html.figure(
            drawn, "Genes by how far their deletion moves the cells that express them.", folder / "perturbed_genes.png"
        ),
        html.code(
            'model = sclm.load("folder of a published checkpoint")  # or sclm.train("scgpt", adata)\n'
            "sclm.tl.embed(adata, model)\n"
            'sclm.pl.embed(adata, "cell_type")\n'
            'sclm.tl.perturb(adata, model, ["CD3D", "NKG7"])'
        ),
    ]
