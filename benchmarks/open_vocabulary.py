"""Cell types in an open vocabulary: closed sets, types that no training cell had, coarse labels, lists of markers.

    python benchmarks/open_vocabulary.py                       # baselines, all sections
    python benchmarks/open_vocabulary.py unseen --methods onclass celltosg "celltosg, no InfoNCE"

* closed: learn on one data set, name the cells of another. The candidates are the types of the first; judged on the cells of the second
  whose type is one of them.
* unseen: a share of the leaf types of a data set has no training cells. Every term of the Cell Ontology is a candidate. The markers of
  the held-out terms and of all below them are taken out of the graph that any method sees; names and definitions stay. Seen and unseen
  cells are judged apart and pooled over all splits. Intervals (95 %) are of a bootstrap over types within splits, since the cells of a
  type stand or fall together. Data sets on which weights of the graph annotator were chosen are pooled with the others and left out in a
  table of their own. "told": knows which share of the cells is of new types; the graph annotator estimates
  it otherwise, as sclm.tl.annotate does, and the others expect a tenth. "forced": that share gets
  names of new types, those cells where they come nearest, which is OnClass's own rule over a whole data set.
* granularity: learn broad types, choose among the fine types of the data set.
* marker_lists: the lists of the GPTCelltype study (Hou and Ji 2024) with the answers of GPT-4, SingleR, ScType and others that it published,
  all judged by the same rules on Cell Ontology ids.

Accuracy is of the exact term; Lin similarity and hierarchical F1 are those of sclm.metrics.annotation, PageRank similarity too (it is
the reward of the graph annotator: report it, do not judge by it). Data sets that are no counts (xin, hnscc, wang, nsclc) are turned into whole numbers.
Tables go to benchmarks/results. Needs real data: see --data.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from open_vocabulary_methods import BASELINES, DEVELOPMENT, METHODS, REAL_DATA, SETS, ask, read, split

RESULTS = Path(__file__).resolve().parent / "results"
SECTIONS = ("closed", "unseen", "granularity", "marker_lists")
PAIRS = [
    ("pbmc3k", "facs"),
    ("facs", "pbmc3k"),
    ("kang", "pbmc3k"),
    ("pbmc3k", "kang"),
    ("baron", "xin"),
    ("xin", "baron"),
]
SHARES = (0.1, 0.3, 0.5, 0.7)
BROAD = ("CL:0000084", "CL:0000236", "CL:0000623", "CL:0000576", "CL:0000451", "CL:0000171", "CL:0000169", "CL:0000066")
PUBLISHED = {
    "GPT-4": "gpt4aug3",
    "GPT-3.5": "gpt3.5aug3",
    "CellMarker 2.0": "CellMarker2.0",
    "SingleR": "SingleR",
    "ScType": "ScType",
}
SCORES = ("accuracy", "ontology_similarity", "hierarchical_f1", "pagerank_similarity")


def answers(found, truth, **facts) -> pd.DataFrame:
    """One row a cell: the truth, the answer, whether the truth is among the first three and five."""
    ids = found.categories["ontology_term_id"].to_numpy(dtype=object)
    top = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :5]
    hit = ids[top] == np.asarray(truth, dtype=object)[:, None]
    return pd.DataFrame(
        {
            **facts,
            "truth": truth,
            "answer": found.table["ontology_term_id"].to_numpy(dtype=object),
            "at_3": hit[:, :3].any(axis=1),
            "at_5": hit.any(axis=1),
            "confidence": found.table["confidence"].to_numpy(),
        }
    )


def judged(rows: pd.DataFrame, ontology) -> dict[str, float]:
    """Scores of some answers."""
    from sclm.metrics import annotation

    scores = annotation(rows["truth"].to_numpy(), rows["answer"].to_numpy(), ontology=ontology)
    result = {name: scores[name] for name in SCORES}
    for name in ("at_3", "at_5"):
        if name in rows:
            result[name] = float(rows[name].mean())
    return result


def interval(rows: pd.DataFrame, ontology, unit: list[str], n: int = 1000) -> dict[str, str]:
    """95 % intervals of accuracy and Lin similarity, drawing whole units again."""
    lin = _lin(rows, ontology)
    right = (rows["truth"] == rows["answer"]).to_numpy(dtype=float)
    unit_of = rows.groupby(unit, sort=False).ngroup().to_numpy()
    size = np.bincount(unit_of).astype(float)
    draws = np.random.default_rng(0).integers(0, len(size), (n, len(size)))
    out = {}
    for name, values in (("accuracy", right), ("ontology_similarity", lin)):
        total = np.bincount(unit_of, values)
        means = total[draws].sum(axis=1) / size[draws].sum(axis=1)
        out[name] = "{:.3f}-{:.3f}".format(*np.quantile(means, [0.025, 0.975]))
    return out


def differences(rows: pd.DataFrame, ontology, unit: list[str], n: int = 2000) -> pd.DataFrame:
    """The graph annotator minus each baseline on the same cells, 95 % intervals, drawing whole units again."""
    parts = {m: part.reset_index(drop=True) for m, part in rows.groupby("method", sort=False)}
    values = {
        m: ((part["truth"] == part["answer"]).to_numpy(dtype=float), _lin(part, ontology)) for m, part in parts.items()
    }
    unit_of = next(iter(parts.values())).groupby(unit, sort=False).ngroup().to_numpy()
    size = np.bincount(unit_of).astype(float)
    draws = np.random.default_rng(0).integers(0, len(size), (n, len(size)))
    found = []
    for ours, theirs in itertools.product(parts, parts):
        if not ours.startswith("celltosg") or theirs.startswith("celltosg"):
            continue
        row: dict[str, object] = {"method": ours, "minus": theirs}
        for name, mine, other in zip(("accuracy", "Lin"), values[ours], values[theirs], strict=True):
            total = np.bincount(unit_of, mine - other)
            drawn = total[draws].sum(axis=1) / size[draws].sum(axis=1)
            row[name] = total.sum() / size.sum()
            row[f"{name} 95 %"] = "{:.3f}-{:.3f}".format(*np.quantile(drawn, [0.025, 0.975]))
        found.append(row)
    return pd.DataFrame(found)


def _lin(rows: pd.DataFrame, ontology) -> np.ndarray:
    terms = sorted({t for t in {*rows["truth"], *rows["answer"]} if t in ontology})
    place = {t: i for i, t in enumerate(terms)}
    table = ontology.similarity_matrix(terms, terms, "lin")
    pairs = zip(rows["truth"], rows["answer"], strict=True)
    return np.array([table[place[a], place[b]] if b in place else 0.0 for a, b in pairs])


def show(title: str, table: pd.DataFrame, name: str) -> None:
    """Print a table and keep it."""
    print(f"\n## {title}\n", flush=True)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3f}"), flush=True)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"open_vocabulary_{name}.csv", index=False)


def closed(args, ontology, graph) -> None:
    """Across data sets, the training types as candidates."""
    rows = []
    for a, b in PAIRS:
        train, _ = split(args.studies[a], args.train, 0, 0)
        _, test = split(args.studies[b], args.train, args.test, 0)
        types = sorted(set(train.obs["cell_type"]))
        test = test[test.obs["cell_type"].isin(types).to_numpy()].copy()
        for method in args.methods:
            found, seconds = ask(method, train, test, graph, share=0.0, candidates=types, preset=args.preset)
            part = answers(found, test.obs["cell_type"].to_numpy(dtype=object))
            rows.append(
                {
                    "pair": f"{a} -> {b}",
                    "method": method,
                    "cells": len(part),
                    **judged(part, ontology),
                    "seconds": seconds,
                }
            )
    table = pd.DataFrame(rows)
    show("closed: across data sets", table, "closed")
    mean = table.groupby("method", sort=False)[[*SCORES, "seconds"]].mean().reset_index()
    show("closed: mean over the pairs", mean, "closed_mean")


def held_out(adata, share: float, seed: int, ontology) -> list[str]:
    """Leaf types (none of the others below them) that have no training cells; two types at least stay."""
    types = sorted(set(adata.obs["cell_type"]))
    leaves = [t for t in types if not ontology.descendants(t) & set(types)]
    n = min(max(round(share * len(leaves)), 1), len(types) - 2)
    return sorted(np.random.default_rng([seed, int(100 * share)]).permutation(leaves)[:n])


def unseen(args, ontology, graph) -> None:
    """Leave-types-out splits."""
    parts, done = [], set()
    for name in args.sets:
        for share in args.shares:
            for seed in range(args.splits):
                held = held_out(args.sets[name], share, seed, ontology)
                if (name, *held) in done:
                    continue
                done.add((name, *held))
                train, test = split(args.sets[name], args.train, args.test, seed)
                train = train[~train.obs["cell_type"].isin(held).to_numpy()].copy()
                truth = test.obs["cell_type"].to_numpy(dtype=object)
                new = np.isin(truth, held)
                known, memory = graph.without_markers_of(held), {}
                for method in args.methods:
                    found, seconds = ask(
                        method,
                        train,
                        test,
                        known,
                        share=min(float(new.mean()), 0.95),
                        preset=args.preset,
                        memory=memory,
                    )
                    part = answers(
                        found, truth, set=name, share=share, split=len(done), method=method, unseen=new, seconds=seconds
                    )
                    parts.append(part)
                cells = pd.concat(parts, ignore_index=True)
                RESULTS.mkdir(exist_ok=True)
                cells.to_csv(
                    RESULTS / "open_vocabulary_unseen_cells.csv", index=False
                )  # what is done stays, if the rest is not awaited
                print(f"{name} without {', '.join(ontology.name_of(t) for t in held)}", flush=True)
    fresh = ~cells["set"].isin(DEVELOPMENT)
    pools = {"": cells} | ({"_withheld": cells[fresh]} if fresh.any() and not fresh.all() else {})
    for (pool, some), (flag, word) in itertools.product(pools.items(), ((True, "unseen"), (False, "seen"))):
        rows = []
        for method, part in some[some["unseen"] == flag].groupby("method", sort=False):
            between = interval(part, ontology, ["set", "split", "truth"])
            rows.append(
                {"method": method, "cells": len(part), **judged(part, ontology), "accuracy 95 %": between["accuracy"],
                 "Lin 95 %": between["ontology_similarity"], "seconds a split": part.groupby("split")["seconds"].first().mean()}
            )  # fmt: skip
        title = f"unseen: {word} types, {some['split'].nunique()} splits pooled"
        show(
            title + (" of data sets on which nothing was chosen" if pool else ""),
            pd.DataFrame(rows),
            f"unseen_{word}{pool}",
        )
    for pool, some in pools.items():
        table = differences(some[some["unseen"]], ontology, ["set", "split", "truth"])
        if len(table):
            where = " of data sets on which nothing was chosen" if pool else ""
            show(f"unseen: the graph annotator minus each baseline{where}", table, f"unseen_differences{pool}")
    shares = cells.groupby(["method", "share", "unseen"], sort=False).apply(
        lambda part: pd.Series(judged(part, ontology)), include_groups=False
    )
    show("unseen: by share of held-out types", shares.reset_index(), "unseen_shares")


def granularity(args, ontology, graph) -> None:
    """Broad training labels, fine candidates."""
    parts = []
    for name, adata in args.sets.items():
        types = sorted(set(adata.obs["cell_type"]))
        broad = {t: next((b for b in BROAD if b in ontology.ancestors(t, include_self=True)), t) for t in types}
        if len(set(broad.values())) == len(types) or len(set(broad.values())) < 2:
            continue
        train, test = split(adata, args.train, args.test, 0)
        train.obs["cell_type"] = train.obs["cell_type"].map(broad)
        truth = test.obs["cell_type"].to_numpy(dtype=object)
        for method in args.methods:
            found, _ = ask(method, train, test, graph, share=0.5, candidates=types, preset=args.preset)
            finer = np.array([broad[t] != t for t in truth])
            parts.append(answers(found, truth, set=name, method=method, split=0)[finer])
    cells = pd.concat(parts, ignore_index=True)
    rows = []
    for method, part in cells.groupby("method", sort=False):
        between = interval(part, ontology, ["set", "truth"])
        rows.append(
            {"method": method, "cells": len(part), **judged(part, ontology), "accuracy 95 %": between["accuracy"]}
        )
    show(
        "granularity: broad labels learnt, fine candidates; cells with a finer type", pd.DataFrame(rows), "granularity"
    )


def marker_lists(args, ontology, graph) -> None:
    """Lists of markers beside published answers."""
    import sclm

    table = pd.read_csv(args.data / "markers" / "gptcelltype_all.csv")
    ids = table["manual_CLID"].map(lambda t: ontology.current_id(t) if isinstance(t, str) else None)
    table = table[ids.notna() & table["marker"].notna()].assign(truth=ids.dropna())
    lists = {str(i): [g.strip() for g in text.split(",")] for i, text in table["marker"].items()}
    model = sclm.models.family_class("marker-lists").ready(graph=graph)
    ours = answers(model.annotate_lists(lists), table["truth"].to_numpy(dtype=object), method="marker-lists")
    parts = [ours.assign(list=table.index, given=True)]
    for name, column in PUBLISHED.items():
        answer = table[f"{column}_CLID"].map(lambda t: ontology.current_id(t) if isinstance(t, str) else None)
        parts.append(
            pd.DataFrame({"method": name, "truth": table["truth"], "answer": answer.fillna("unknown"), "list": table.index,
                          "given": table[f"{column}_annotation"].notna(), "agreement": table[f"{column}_agreement"]})
        )  # fmt: skip
    rows = []
    for part in parts:
        # Methods that were run on a part of the lists are judged on that part, and ours on it beside them.
        asked = part[part["given"]].reset_index(drop=True)
        between = interval(asked, ontology, ["list"])
        row = {
            "method": part["method"].iloc[0],
            "lists": len(asked),
            **{k: v for k, v in judged(asked, ontology).items() if k in SCORES},
        }
        same = ours[np.isin(table.index, asked["list"])]
        row |= {"accuracy 95 %": between["accuracy"], "Lin 95 %": between["ontology_similarity"]}
        row["Lin of marker-lists on the same"] = judged(same, ontology)["ontology_similarity"]
        row["published agreement"] = float(asked["agreement"].mean()) if "agreement" in asked else float("nan")
        rows.append(row)
    show("marker lists", pd.DataFrame(rows), "marker_lists")


def main() -> None:
    """Print the tables."""
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", default=[], help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--methods", nargs="+", default=list(BASELINES), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="all by default")
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/ and markers/")
    parser.add_argument("--train", type=int, default=60, help="cells a type to learn from")
    parser.add_argument("--test", type=int, default=40, help="cells a type to name")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of leaf types held out")
    parser.add_argument("--splits", type=int, default=2, help="draws of held-out types a data set and share")
    parser.add_argument("--preset", default="small", help="of the graph annotator")
    args = parser.parse_args()
    if strange := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(strange)}; known are {', '.join(SECTIONS)}")
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from sclm.knowledge import KnowledgeGraph, Ontology

    ontology, graph = Ontology.load("cl"), KnowledgeGraph.default()
    sections = args.sections or SECTIONS
    paired = [name for pair in PAIRS for name in pair] if "closed" in sections else []
    args.studies = {name: read(args.data, name) for name in dict.fromkeys([*args.sets, *paired])}
    args.sets = {name: args.studies[name] for name in args.sets}
    for section in sections:
        globals()[section](args, ontology, graph)


if __name__ == "__main__":
    main()
