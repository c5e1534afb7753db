"""The graph annotator at full size: a graph of 62,507 nodes and a language model of half a billion weights, on 32 cells.

    python benchmarks/large_annotator.py [--cells 32] [--genes 64] [--threads 1] [--device cpu]

Graph: that of benchmarks/knowledge_graph.py with as many nodes and edges as the literature states (62,507 and 1,000,000), made up. Language
model: the sizes of Qwen2.5-0.5B with random weights, as benchmarks/large_lm.py makes it, frozen, with adapters of rank 8. Times and memory do not
depend on the weights; the answers mean nothing. The model is put together from 64 labelled cells without training (``stages=()``): what
is timed is what a user waits for with a trained one. Cells are simulated counts over all genes of the graph.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from knowledge_graph import synthetic
from large_lm import peak, simulated, write_checkpoint


def timed(name: str, function: Any) -> Any:
    """Print wall time, time of the processor and the peak so far."""
    started, used = time.perf_counter(), time.process_time()
    result = function()
    print(
        f"{name:<46}{time.perf_counter() - started:9.1f} s{time.process_time() - used:9.1f} s of processor   peak {peak():.2f} GB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--genes", type=int, default=64, help="of a sentence")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    import torch

    import sclm
    from sclm.cells import Cells, read_cells
    from sclm.knowledge import Ontology

    torch.set_num_threads(arguments.threads)
    cl = Ontology.load("cl")
    graph, seconds = synthetic()
    print(f"{graph!r}, built in {seconds:.1f} s; peak {peak():.2f} GB", flush=True)
    symbols = graph.nodes["id"].iloc[graph.rows("gene")].tolist()
    names = [cl.name_of(t) for t in sorted(cl.descendants("CL:0000000"))]
    train, cells = simulated(64, symbols), simulated(arguments.cells, symbols)
    kinds = np.array(["B cell", "monocyte", "natural killer cell", "T cell"])[np.arange(64) % 4]
    import anndata

    adata = anndata.AnnData(train.counts, obs=train.obs.assign(cell_type=kinds))
    adata.var_names = symbols
    with tempfile.TemporaryDirectory() as folder:
        timed(
            "checkpoint of the language model written",
            lambda: write_checkpoint(Path(folder), names, symbols[:4000], arguments.dtype),
        )
        model = timed(
            "model put together",
            lambda: sclm.train(
                "celltosg", adata, label_key="cell_type", graph=graph, base_lm=folder, stages=(), max_genes=len(symbols),
                sentence_length=arguments.genes, accelerator=arguments.device, progress_bar=False, seed=0,
            ),
        )  # fmt: skip
        weights = sum(p.numel() for p in model.network.parameters())
        print(
            f"{weights / 1e6:.0f} M weights; graph in the model: {len(model.graph):,} nodes, {model.graph.n_edges:,} edges; "
            f"{len(model.vocabulary):,} genes",
            flush=True,
        )
        block = Cells(cells.counts, read_cells(adata).genes, cells.obs)
        first = Cells(block.counts[:1], block.genes, block.obs.iloc[:1])
        timed("first cell (tables of all terms are made)", lambda: model.annotate(first))
        with torch.inference_mode():
            timed("vectors of all nodes of the graph", lambda: model.network.nodes())
        found = timed(f"annotate, {arguments.cells} cells, all {len(names):,} terms", lambda: model.annotate(block))
        print(f"answers that are terms: {np.mean([t in cl for t in found.table['ontology_term_id']]):.0%}")


if __name__ == "__main__":
    main()
