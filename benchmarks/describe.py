"""Descriptions of cells by a language model, beside simple methods: one section a question, each prints its tables in Markdown.

    python benchmarks/describe.py donors --encoders ~/.cache/sclm-describe

donors: cells of two donors of kang described by cell2text trained on the six others. The cell type is parsed from the text and judged
beside logistic regression, ten neighbours, the majority and the descriptions of the evidence family; each seed draws other training
cells, the same for every method. cell2text without its tokens of the whole cell is the paper's input; "language model alone" is the same model
without the regression's share in the slot of the type, "regression alone" the other way round. Settings of cell2text were chosen on two other
donors of kang (1244, 107), and the token of the type after a look at these; the encoder is trained on the training cells without labels.

studies: the same across studies, pbmc_facs → pbmc3k, over broad types, with the two most active pathways of each cell in the
text (the least p of sclm.tl.pathways, which looks at each study alone).

donors also prints BLEU, ROUGE-L and chrF against the template filled with the truth, the retrieval of the right CellGuide description, and
twenty descriptions; both print cells a second with the words in front of a slot read once, and read again for every slot.

Threads: one. Set OMP_NUM_THREADS=1 and NUMBA_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from annotate import BROAD, REAL_DATA, read

QUIET = {"progress_bar": False, "accelerator": "cpu"}
TEST_DONORS = ("1256", "1039")
METRICS = (
    "accuracy",
    "macro F1",
    "accuracy, broad",
    "PageRank, Cell2Text",
    "PageRank, from truth",
    "faithfulness",
    "named",
)


def ids_of(labels, ontology) -> np.ndarray:
    """Terms of labels, the label itself where there is none."""
    known = {t: ontology.resolve(str(t), min_score=1.0).term_id or str(t) for t in set(labels)}
    return np.array([known[t] for t in labels], dtype=object)


def broad_of(ids, ontology) -> np.ndarray:
    """Broad type of each term, "other" where it belongs to none."""

    def one(term: str) -> str:
        if term not in ontology:
            return "other"
        above = ontology.ancestors(term, include_self=True)
        return next((n for n, b in BROAD.items() if b in above), "other")

    names = {t: one(t) for t in set(ids)}
    return np.array([names[t] for t in ids], dtype=object)


def judge(truth, predicted, ontology, broad: bool) -> dict[str, float]:
    """Scores of the types that a method names."""
    from sclm.metrics import annotation
    from sclm.metrics.text import pagerank_similarity

    fine = [None if p == "unknown" else p for p in predicted]
    wide, meant = broad_of(predicted, ontology), broad_of(truth, ontology)
    scores = (
        annotation(meant, np.where(wide == "other", "unknown", wide))
        if broad
        else annotation(truth, predicted, ontology=ontology)
    )
    return {
        "accuracy": scores["accuracy"],
        "macro F1": scores["macro_f1"],
        "accuracy, broad": float((wide == meant).mean()),
        "PageRank, Cell2Text": float(pagerank_similarity(truth, fine, ontology, variant="cell2text").mean()),
        "PageRank, from truth": float(pagerank_similarity(truth, fine, ontology).mean()),
        "named": float(np.mean([p != "unknown" for p in predicted])),
    }


def small_encoder(name: str, train, seed: int, kept: Path):
    """A small Geneformer trained on these cells without labels, or the one that is kept."""
    import sclm

    path = kept / f"{name}-{seed}"
    if not (path / "config.json").is_file():
        start = time.process_time()
        sclm.train("geneformer", train, preset="tiny", max_epochs=2, max_length=256, seed=seed, **QUIET).save(path)
        print(f"encoder {path.name}: {time.process_time() - start:.0f} s", flush=True)
    return sclm.load(path)


def parsed(texts, model) -> pd.DataFrame:
    """Names in texts, by the longest-candidate rule."""
    from sclm.texts import parse_many

    config = model.config
    return parse_many(
        texts, cell_types=config.labels, tissues=config.tissues, pathways=config.pathways,
        pathway_texts=dict(zip(config.pathways, config.pathway_texts, strict=True)),
    )  # fmt: skip


def simple(train, test, seed: int, batch_key, ontology) -> dict[str, np.ndarray]:
    """Terms that the simple methods name."""
    import sclm
    from sclm.cells import read_cells

    cells = read_cells(test).read()
    found = {}
    for method in ("logistic", "knn", "majority"):
        model = sclm.train(method, train, label_key="cell_type", batch_key=batch_key, genes=test.var_names, seed=seed)
        found[method] = ids_of(model.annotate(cells).table["label"], ontology)
    return found


def evidence(test, ontology) -> tuple[np.ndarray, list[str], float, object]:
    """What the evidence family names, its texts, their faithfulness, and the checker."""
    import sclm
    from sclm.cells import read_cells
    from sclm.evidence import CellChecker

    source = read_cells(test)
    checker = CellChecker.fit(source)
    found = sclm.load("evidence").describe(source.read(), checker=checker)
    named = np.full(test.n_obs, "unknown", dtype=object)
    claims = found.claims[(found.claims["kind"] == "identity") & (found.claims["verdict"] != "removed")]
    named[claims["row"].to_numpy()] = claims["id"].to_numpy()
    return named, found.table["text"].tolist(), float(np.nanmean(found.table["faithfulness"])), checker


def show(rows: dict[str, list[dict[str, float]]], metrics=METRICS) -> None:
    """A table: mean over seeds, and the standard deviation where there are several."""
    print(f"| | {' | '.join(metrics)} |\n|---|{'---|' * len(metrics)}")
    for name, scores in rows.items():
        cells = []
        for metric in metrics:
            values = [s[metric] for s in scores if metric in s and not np.isnan(s[metric])]
            if not values:
                cells.append("–")
            else:
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def described(model, test, checker, truth, ontology, broad: bool) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores of a model's texts, and what they say."""
    from sclm.cells import read_cells

    cells = read_cells(test).read()
    table = model.write(cells)
    names = parsed(table["text"], model)
    scores = judge(truth, ids_of(names["cell_type"], ontology), ontology, broad)
    if checker is not None:
        scores["faithfulness"] = float(np.nanmean(model.describe(cells, checker=checker).table["faithfulness"]))
    return scores, table


def words(name: str, truth_texts, writers: dict[str, list[str]], terms, args, ontology) -> None:
    """Texts against the template filled with the truth, and against expert descriptions."""
    from sclm.metrics.text import compare, retrieval

    print(f"\n### words, {name}\n")
    table = compare(truth_texts, writers)
    print("| writer | BLEU | BLEU-2 | ROUGE-L | chrF | words | texts |\n|---|---|---|---|---|---|---|")
    for writer, row in table.iterrows():
        numbers = " | ".join(f"{row[c]:.3f}" for c in ("bleu", "bleu_2", "rouge_l", "chrf"))
        print(f"| {writer} | {numbers} | {row['n_words']:.0f} | {row['n_distinct']:.0f} |")
    path = args.data / "ontology" / "cellguide_descriptions.csv"
    if not path.is_file():
        return
    guide = pd.read_csv(path)
    library = dict(zip(guide["cl_id"], guide["description"].astype(str), strict=True))
    at = [i for i, t in enumerate(terms) if t in library]
    cut = {t: [ontology.name_of(t), *ontology.synonyms(t)] for t in set(terms) if t in ontology}
    print(
        f"\nThe right of {len(library)} CellGuide descriptions; the second pair without the names of the type in the text.\n"
    )
    print("| writer | top 1 | mean reciprocal rank | top 1 | mean reciprocal rank |\n|---|---|---|---|---|")
    for writer, texts in {"the truth": truth_texts, **writers}.items():
        chosen = [terms[i] for i in at], [texts[i] for i in at]
        with_, without = retrieval(*chosen, library), retrieval(*chosen, library, without=cut)
        numbers = [r[m] for r in (with_, without) for m in ("top1", "mean_reciprocal_rank")]
        print(f"| {writer} | {' | '.join(f'{n:.3f}' for n in numbers)} |", flush=True)


def donors(args: argparse.Namespace) -> None:
    """Fine types, held-out donors."""
    import sclm
    from sclm.cells import read_cells
    from sclm.knowledge import Ontology
    from sclm.texts import cell_facts, describe_template

    ontology = Ontology.load("cl")
    adata = read(args.data, "kang")
    adata.obs["tissue"], adata.obs["disease"] = "blood", "systemic lupus erythematosus"
    donor = adata.obs["donor"].astype(str)
    held = np.flatnonzero(donor.isin(TEST_DONORS))
    test = adata[np.sort(np.random.default_rng(0).permutation(held)[: args.cells])].copy()
    truth = ids_of(test.obs["cell_type"], ontology)
    rows: dict[str, list[dict[str, float]]] = {}
    named, texts_evidence, faith, checker = evidence(test, ontology)
    rows["evidence"] = [{**judge(truth, named, ontology, False), "faithfulness": faith}]
    writers: dict[str, list[str]] = {}
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed + 1)
        left = np.flatnonzero(~donor.isin(TEST_DONORS))
        train = adata[np.sort(rng.permutation(left)[: args.cells])].copy()
        for method, found in simple(train, test, seed, "donor", ontology).items():
            rows.setdefault(method, []).append(judge(truth, found, ontology, False))
        encoder = small_encoder("kang", train, seed, args.encoders)
        runs = {"cell2text": {}} | (
            {"cell2text, genes only (the paper's input)": {"cell_input": "", "type_token": False}}
            if args.paper and seed == 0
            else {}
        )
        for name, settings in runs.items():
            start = time.process_time()
            model = sclm.train(
                "cell2text", train, label_key="cell_type", batch_key="donor", obs_keys=["tissue", "disease"], encoder=encoder, seed=seed,
                preset="small", **settings, **QUIET,
            )  # fmt: skip
            used = time.process_time() - start
            scores, table = described(model, test, checker if seed == 0 else None, truth, ontology, False)
            rows.setdefault(name, []).append(scores)
            if model.config.regression_weight:
                cells = read_cells(test).read()
                for part, weight in (("language model alone", 0.0), ("regression alone", 1e4)):
                    found = model.set(regression_weight=weight).annotate(cells).table["ontology_term_id"].to_numpy()
                    rows.setdefault(f"its {part}", []).append(judge(truth, found, ontology, False))
                print(f"weight {model.config.regression_weight:.2f}, {model.card}", flush=True)
            print(f"{name}, seed {seed}: {used:.0f} s, epoch {model.card['epochs']}, {scores}", flush=True)
            writers.setdefault(name, table["text"].tolist())
            if seed == 0 and not settings:
                kept = model
        print(
            f"\n## donors, {seed + 1} seeds: kang, {args.cells:,} cells of 6 donors → {test.n_obs:,} of {' and '.join(TEST_DONORS)}\n"
        )
        show(rows)
    facts = cell_facts(test.obs.assign(cell_type=truth), ontology=ontology)
    majority = cell_facts(test.obs.assign(cell_type=pd.Series(truth).mode()[0]), ontology=ontology)
    writers["majority"] = [describe_template(f) for f in majority]
    writers["evidence"] = texts_evidence
    words("kang", [describe_template(f) for f in facts], writers, list(truth), args, ontology)
    few = np.sort(np.random.default_rng(3).choice(test.n_obs, 20, replace=False))
    shown = kept.describe(read_cells(test).read(few), checker=checker)
    print("\n### twenty cells, drawn at random\n")
    for name, text in shown.table["text"].items():
        print(f"- *{test.obs.loc[name, 'cell_type']}*: {text}")
    speed([kept], test)
    start = time.process_time()
    free = kept.set(decoding="free").write(read_cells(test).read(np.arange(100)))
    rate, slot = (
        100 / (time.process_time() - start),
        kept.set(regression_weight=0.0).write(read_cells(test).read(np.arange(100))),
    )
    same = (free["cell_type"] == slot["cell_type"]).mean()
    print(
        f"word by word: {rate:.0f} cells a second, {(free['cell_type'] != 'unknown').mean():.2f} parsed, {same:.2f} as in the slot"
    )


def speed(models, test) -> None:
    """Cells a second of the road through the language model."""
    from sclm.cells import read_cells

    cells = read_cells(test[:128].copy()).read()
    print(f"\n### speed, {cells.n_cells} cells, one thread: cells a second\n")
    print("| gene positions | slots | words in front of a slot read once | read again |\n|---|---|---|---|")
    for model in models:
        rates = []
        for reuse in (True, False):
            model.write(cells, reuse=reuse)  # the first call makes tries
            start = time.process_time()
            model.write(cells, reuse=reuse)
            rates.append(cells.n_cells / (time.process_time() - start))
        print(f"| {model.config.top_k} | {len(model.slots.plan())} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


def studies(args: argparse.Namespace) -> None:
    """Broad types across studies, pathways, tissues."""
    import sclm
    from sclm.cells import read_cells
    from sclm.knowledge import Ontology
    from sclm.metrics.text import pathways

    ontology = Ontology.load("cl")
    train, test = read(args.data, "pbmc_facs"), read(args.data, "pbmc3k")
    rng = np.random.default_rng(0)
    train = train[np.sort(rng.permutation(train.n_obs)[: args.cells])].copy()
    test = test[np.sort(rng.permutation(test.n_obs)[: args.cells])].copy()
    shared = train.var_names.intersection(test.var_names)
    train, test = train[:, shared].copy(), test[:, shared].copy()
    truth = ids_of(test.obs["cell_type"], ontology)
    known = set(broad_of(ids_of(train.obs["cell_type"], ontology), ontology))
    keep = np.isin(broad_of(truth, ontology), sorted(known - {"other"}))
    test, truth = test[keep].copy(), truth[keep]
    for adata in (train, test):
        sclm.tl.pathways(adata)
    # the least p, not the highest score: by score, nearly all cells have the same two (of the ribosome)
    active = {
        name: -np.log10(np.maximum(sclm.get.pathways(a, value="p"), 1e-30))
        for name, a in (("train", train), ("test", test))
    }
    both = active["train"].columns.intersection(active["test"].columns)
    active = {name: table[both] for name, table in active.items()}
    top = {
        n: [frozenset(t.columns[i] for i in np.argsort(-row, kind="stable")[:2]) for row in t.to_numpy()]
        for n, t in active.items()
    }
    rows: dict[str, list[dict[str, float]]] = {}
    named, _, faith, checker = evidence(test, ontology)
    rows["evidence"] = [{**judge(truth, named, ontology, True), "faithfulness": faith}]
    for method, found in simple(train, test, 0, None, ontology).items():
        rows[method] = [judge(truth, found, ontology, True)]
    model = sclm.train(
        "cell2text", train, label_key="cell_type", encoder=small_encoder("facs", train, 0, args.encoders), pathways=active["train"],
        genes=test.var_names, preset="small", seed=0, **QUIET,
    )  # fmt: skip
    scores, table = described(model, test, checker, truth, ontology, True)
    rows["cell2text"] = [scores]
    print(f"\n## studies: pbmc_facs ({train.n_obs:,} cells) → pbmc3k ({test.n_obs:,}), broad types\n")
    show(rows)
    names = parsed(table["text"], model)
    strength = pd.DataFrame(0.0, index=test.obs_names, columns=both)
    claimed = model.pathway_scores(read_cells(test).read())
    strength[claimed.columns] = claimed
    usual = frozenset(pd.Series([p for s in top["train"] for p in s]).value_counts().index[:2])
    frequency = (
        pd.Series([p for s in top["train"] for p in s]).value_counts().reindex(both, fill_value=0).to_numpy(dtype=float)
    )
    found = {
        "cell2text": pathways(
            top["test"], list(map(frozenset, names["pathways"])), scores=strength, categories=list(both)
        ),
        "the two most frequent of training": pathways(
            top["test"], [usual] * test.n_obs, scores=np.tile(frequency, (test.n_obs, 1)), categories=list(both)
        ),
    }
    measures = ("subset_accuracy", "jaccard", "micro_f1", "macro_f1", "weighted_f1", "auroc_macro", "auroc_flat")
    print(
        f"\n### pathways: the two of {len(both)} that are most active over the cells' mean, {int(found['cell2text']['n_pathways'])} of them true somewhere\n"
    )
    print(f"| | {' | '.join(m.replace('_', ' ') for m in measures)} |\n|---|{'---|' * len(measures)}")
    for name, values in found.items():
        print(f"| {name} | {' | '.join(f'{values[m]:.3f}' for m in measures)} |", flush=True)
    long = sclm.train(
        "cell2text", train[:100].copy(), label_key="cell_type", encoder=model.encoder, pathways=active["train"][:100], genes=test.var_names,
        preset="small", top_k=256, epochs=1, seed=0, **QUIET,
    )  # fmt: skip
    speed([model, long], test)


SECTIONS = {"donors": donors, "studies": studies}


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/*.h5ad (SCLM_REAL_DATA)")
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder that keeps the encoders")
    parser.add_argument("--cells", type=int, default=1200, help="cells to learn from, and to describe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--paper", action="store_true", help="first draw also with the paper's input, gene positions only"
    )
    args = parser.parse_args()
    if wrong := [s for s in args.sections if s not in SECTIONS]:
        parser.error(f"unknown: {', '.join(wrong)}; sections: {', '.join(SECTIONS)}")
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in args.sections or SECTIONS:
        SECTIONS[name](args)


if __name__ == "__main__":
    main()
