"""Embedding of cells by scGPT and Geneformer: ours beside the same networks run as the originals run them.

Networks have the sizes of the published ones and random weights (speed does not depend on them); cells are real blood cells.

* **Network**: ours sorts cells by length, pads each batch to its longest cell, asks the last layer for ``<cls>`` only where that is
  the vector, and encodes each value bin once. The peers hold the same weights and read the same tokens, all cells padded to the
  length that the model reads, float32, in batches of 32 in the order of the data: torch's own ``TransformerEncoder`` (scGPT), by default
  with its fused inference path, which is slower here than without; and transformers' BERT with all hidden states (Geneformer), also with
  its masked head, whose logits the original computes and throws away. Last rows pad to the longest cell of the batch only. Each
  round takes other cells, and runs every method on them in turn; a ratio is the median over rounds. Seconds are those of the
  processor where one thread runs, so that other work on the machine counts little. Ours takes linear layers through oneDNN, which on
  processors that are not Intel's is about twice as fast as the MKL of the peers; on Intel's the two are alike.
* **Tokens**: ours beside loops over cells in the manner of the originals: for scGPT ``numpy.quantile`` and two ``digitize`` a cell, for
  Geneformer a division by medians and an ``argsort`` a cell.
* **Memory**: highest resident memory of a process of its own that reads a file and runs ``sclm.tl.embed`` on growing numbers of cells,
  with two layers of scGPT (memory is that of a layer).

Needs real data: see --data. Use an idle machine.

    python benchmarks/embed.py [--small] [--parts scgpt geneformer-v1 geneformer-v2 tokens memory] [--threads 1] [--cells N]

All of it takes about an hour on one core; the network of a part about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from embed_peers import geneformer_loop, geneformer_peer, scgpt_loop, scgpt_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.cells import Cells

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
PARTS = ("scgpt", "geneformer-v1", "geneformer-v2", "tokens", "memory")


class Size(NamedTuple):
    """How much is done: rounds and cells a round of each network, cells that are tokenised, cells of the memory runs."""

    rounds: dict[str, tuple[int, int]]
    tokenised: int
    memory: tuple[int, ...]
    settings: dict[str, dict[str, Any]]  # of the networks, where they are not those of the published ones


FULL = Size(
    {"scgpt": (2, 96), "geneformer-v1": (2, 96), "geneformer-v2": (1, 8)}, 2_638, (250, 500, 1_000), {}
)  # fmt: skip
SMALL = Size(
    dict.fromkeys(PARTS[:3], (1, 12)), 300, (50, 100),
    {
        "scgpt": {"width": 64, "n_heads": 4, "n_layers": 2, "feed_forward": 64, "max_length": 300},
        "geneformer-v1": {"width": 64, "heads": 4, "layers": 2, "feed_forward": 128, "max_length": 512},
        "geneformer-v2": {"width": 64, "heads": 4, "layers": 2, "feed_forward": 128, "max_length": 512},
    },
)  # fmt: skip


# The models and the cells ------------------------------------------------------------------------------------------


def real_cells(folder: Path) -> Cells:
    """2,638 blood cells, 13,714 genes by symbol."""
    import anndata

    from sclm.cells import read_cells

    return read_cells(anndata.read_h5ad(folder / "scrna" / "pbmc3k.h5ad")).read()


def some(cells: Cells, rows: np.ndarray) -> Cells:
    from sclm.cells import Cells

    return Cells(cells.counts[rows], cells.genes, cells.obs.iloc[rows])


def scgpt(folder: Path, **settings: Any) -> Any:
    """scGPT of the whole-human size, its vocabulary that of the census and the special tokens."""
    from sclm.cells import GeneVocabulary
    from sclm.models.scgpt.config import ScGPTConfig
    from sclm.models.scgpt.model import ScGPT
    from sclm.nn import seeded

    ids = json.loads((folder / "vocab" / "scgpt_default_census_vocab.json").read_text())
    vocabulary = GeneVocabulary((*sorted(ids, key=ids.__getitem__), "<pad>", "<cls>", "<eoc>"))
    config = ScGPTConfig.preset("whole-human", **settings)
    with seeded(0):
        network = ScGPT.build(config, vocabulary)
    return ScGPT(config, vocabulary, network)


def geneformer(folder: Path, preset: str, **settings: Any) -> Any:
    """Geneformer of a published size. V2 gets the special tokens of V2 and as many of V1's genes as it has: its own are not here."""
    from sclm.cells import GeneVocabulary
    from sclm.models.geneformer.dictionaries import SPECIAL, Dictionaries, find_dictionaries
    from sclm.models.geneformer.model import Geneformer
    from sclm.models.geneformer.network import GeneformerConfig

    found = find_dictionaries(folder / "vocab", 25_426)
    if preset.startswith("V2"):
        genes = found.vocabulary.tokens[2:20_273]
        vocabulary = GeneVocabulary((*SPECIAL["V2"], *genes))
        medians = np.concatenate([np.full(4, np.nan), found.medians[2:20_273]])
        found = Dictionaries(vocabulary, medians, {}, found.symbols)
    config = GeneformerConfig.preset(preset, **settings)
    network = Geneformer.build(config, found.vocabulary)
    return Geneformer(config, found.vocabulary, network, dictionaries=found)


# Measuring ---------------------------------------------------------------------------------------------------------


def network_table(name: str, model: Any, peers: dict[str, Callable], cells: Cells, rounds: int, n: int) -> None:
    """Cells a second of ours and of the peers, on the same tokens in turn; on one thread seconds of the processor are counted."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    methods = {"ours": lambda tokens: model.embed_tokens(tokens), **peers}
    rng = np.random.default_rng(0)
    took: dict[str, list[float]] = {method: [] for method in methods}
    apart: dict[str, float] = dict.fromkeys(peers, 0.0)
    lengths = []
    warm = model.tokenise(some(cells, np.arange(4)))
    for run in methods.values():
        run(warm)
    for number in range(rounds):
        tokens = model.tokenise(some(cells, np.sort(rng.permutation(cells.n_cells)[:n])))
        lengths.append(tokens.ids.lengths)
        result = {}
        order = list(methods) if number % 2 == 0 else list(methods)[::-1]
        for method in order:
            start = clock()
            result[method] = methods[method](tokens)
            took[method].append(clock() - start)
        for peer in peers:
            apart[peer] = max(apart[peer], float(np.abs(result[peer] - result["ours"]).max()))
        scale = float(np.abs(result["ours"]).max())
    tokens_a_cell = np.concatenate(lengths)
    parameters = sum(p.numel() for p in model.network.parameters())
    print(
        f"\n{name}: {parameters:,} parameters, {rounds} rounds of {n} cells, tokens a cell {np.median(tokens_a_cell):,.0f} "
        f"(median; {tokens_a_cell.min():,} to {tokens_a_cell.max():,}), read at most {model.config.max_length:,}"
    )
    print(f"{'method':<52}{'cells/s':>10}{'ours is faster by':>20}{'largest difference':>20}")
    for method, times in took.items():
        ratio = np.median(np.array(times) / np.array(took["ours"]))
        faster, far = ("", "") if method == "ours" else (f"{ratio:.2f}", f"{apart[method]:.1e} of {scale:.2g}")
        print(f"{method:<52}{n / np.median(times):>10.2f}{faster:>20}{far:>20}", flush=True)


def token_table(folder: Path, cells: Cells, size: Size) -> None:
    """Cells a second of tokenising: whole blocks of raw counts to tokens, ours and loops in turn."""
    import numba

    cells = some(cells, np.arange(size.tokenised))
    gpt = scgpt(folder, width=8, n_heads=1, n_layers=1, feed_forward=8)
    former = geneformer(folder, "V2-104M", width=8, heads=1, layers=1, feed_forward=8)
    counts, ids = gpt.known_counts(cells)
    matched = former.match(cells.genes).ids
    known = np.flatnonzero(matched >= 0)
    ranked = (
        cells.counts,
        known,
        former.dictionaries.medians[matched[known]],
        matched[known],
        former.config.max_length,
    )
    loops = {
        "scGPT: quantile and digitize": (gpt, lambda: scgpt_loop(counts, ids, gpt.cls_id, 1200, 51)),
        "Geneformer: argsort": (former, lambda: geneformer_loop(*ranked, lists=False)),
        "Geneformer: argsort, lists": (former, lambda: geneformer_loop(*ranked, lists=True)),
    }
    print(f"\ntokens of {cells.n_cells:,} cells, genes already matched; the loops run on one core")
    print(f"{'family: loop':<32}{'threads':>8}{'ours, cells/s':>16}{'loop, cells/s':>16}{'ours is faster by':>20}")
    for name, (model, loop) in loops.items():
        for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
            numba.set_num_threads(threads)
            model.tokenise(cells)  # compiles
            took = []
            for _ in range(5):
                clock = time.process_time if threads == 1 else time.perf_counter
                start = clock()
                theirs = loop()
                middle = clock()
                result = model.tokenise(cells)
                took.append((clock() - middle, middle - start))
            lengths = [np.size(cell[0]) if isinstance(cell, tuple) else np.size(cell) for cell in theirs]
            if result.ids.lengths.tolist() != lengths:
                raise ValueError(f"{name}: tokens of other lengths than the loop's")
            fast, slow = np.median(np.array(took), axis=0)
            rates = f"{cells.n_cells / fast:>16,.0f}{cells.n_cells / slow:>16,.0f}"
            print(f"{name:<32}{threads:>8}{rates}{np.median([b / a for a, b in took]):>20.1f}", flush=True)


def memory_table(folder: Path, cells: Cells, size: Size, threads: int) -> None:
    """Highest resident memory, in a process for each number of cells."""
    import anndata

    model = scgpt(folder, n_layers=2, **{k: v for k, v in size.settings.get("scgpt", {}).items() if k != "n_layers"})
    with tempfile.TemporaryDirectory() as place:
        model.save(Path(place) / "model")
        print(f"\nmemory of sclm.tl.embed from a file, 2 layers of width {model.config.width}")
        print(f"{'cells':>8}{'highest memory, MiB':>22}{'seconds':>10}")
        for n in size.memory:
            rows = np.arange(n) % cells.n_cells
            part = some(cells, rows)
            obs = part.obs.reset_index(drop=True).set_index(np.array([f"cell{i}" for i in range(n)], dtype=object))
            file = Path(place) / "cells.h5ad"
            anndata.AnnData(part.counts, obs=obs[[]], var={"name": part.genes}).write_h5ad(file)
            options = ["--child", str(file), "--threads", str(threads)]
            done = subprocess.run([sys.executable, str(HERE), *options], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr)
            peak, took = done.stdout.split()
            print(f"{n:>8,}{float(peak):>22,.0f}{float(took):>10.1f}", flush=True)


def child(file: Path) -> None:
    """Embed a file of cells with the model beside it; prints the highest memory in MiB and the seconds."""
    import anndata

    import sclm

    adata = anndata.read_h5ad(file, backed="r")
    start = time.perf_counter()
    sclm.tl.embed(adata, str(file.parent / "model"), gene_key="name")
    took = time.perf_counter() - start
    sys.stdout.write(f"{peak_memory()} {took}\n")


def peak_memory() -> float:
    """MiB of this process at its highest; getrusage would count what the parent held when it started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small networks and few cells, to see that it works")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=int, help="cells a round, for all networks")
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    if options.child is not None:
        child(options.child)
        return
    size = SMALL if options.small else FULL
    if options.cells:
        size = size._replace(rounds={part: (n, options.cells) for part, (n, _) in size.rounds.items()})
    cells = real_cells(options.data)
    print(
        f"torch {torch.__version__}, {options.threads} thread(s); {cells.n_cells:,} cells x {cells.n_genes:,} genes (pbmc3k)"
    )
    if "scgpt" in options.parts:
        model = scgpt(options.data, **size.settings.get("scgpt", {}))
        longest = model.config.max_length
        peers = {
            f"torch's encoder, padded to {longest:,}": scgpt_peer(model, longest, fast_path=True),
            f"the same without its fast path, padded to {longest:,}": scgpt_peer(model, longest, fast_path=False),
            "torch's encoder, batch's longest": scgpt_peer(model, None, fast_path=True),
        }
        network_table("scGPT whole-human", model, peers, cells, *size.rounds["scgpt"])
    for part, preset in (("geneformer-v1", "V1-10M"), ("geneformer-v2", "V2-104M")):
        if part in options.parts:
            model = geneformer(options.data, preset, **size.settings.get(part, {}))
            longest = model.config.max_length
            peers = {
                f"transformers' BERT, padded to {longest:,}": geneformer_peer(model, longest),
                f"the same with its head, padded to {longest:,}": geneformer_peer(model, longest, head=True),
                "transformers' BERT, batch's longest": geneformer_peer(model, None),
            }
            network_table(f"Geneformer {preset}", model, peers, cells, *size.rounds[part])
    if "tokens" in options.parts:
        token_table(options.data, cells, size)
    if "memory" in options.parts:
        memory_table(options.data, cells, size, options.threads)


if __name__ == "__main__":
    main()
