"""From answers to tables and sentences: means over seeds, intervals, differences to the best baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import metrics
from sclm.benchmark.contenders import BASELINES
from sclm.benchmark.scores import SCORES, Tallies, interval, per_type, resampled

if TYPE_CHECKING:
    from sclm.benchmark.answers import Answers
    from sclm.benchmark.contenders import Contender
    from sclm.knowledge import Ontology

COMPARED = SCORES[:3]  # a majority vote is the best calibrated of all: no difference is worth a sentence there
WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ontology_similarity": "ontology similarity",
    "expected_calibration_error": "calibration error",
}


def summarise(
    found: dict[str, list[list[Answers]]],
    asked: dict[str, Contender],
    truth: np.ndarray,
    batches: np.ndarray | None,
    split: list[np.ndarray],
    names: dict[str, str],
    ontology: Ontology,
    n_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Tables of :class:`sclm.benchmark.Benchmark` from the answers of each method.

    Parameters
    ----------
    found
        Method → answers of each seed and fold.
    asked
        Method → what it is.
    truth
        (n,) ids or labels.
    batches
        (n,) donors; None: intervals are drawn over cells.
    split
        Fold of each cell, for each seed.
    names
        Id → name of a type.
    ontology
        Of the types.
    n_bootstrap, seed
        Of the resamples.
    """
    units = np.arange(len(truth)) if batches is None else np.unique(batches, return_inverse=True)[1]
    answer = {name: [_joined(parts, len(truth)) for parts in splits] for name, splits in found.items()}
    tallies = {
        name: [Tallies(truth, said, sure, units, ontology) for said, sure in each] for name, each in answer.items()
    }
    drawn = resampled(list(tallies.values()), n_bootstrap, seed)
    rows, values = {}, {}
    for name, resamples in zip(tallies, drawn, strict=True):
        each = [metrics.annotation(truth, said, confidence=sure if np.isfinite(sure).all() else None, ontology=ontology) for said, sure in answer[name]]  # fmt: skip
        values[name] = {score: np.array([scores[score] for scores in each]) for score in SCORES}
        row: dict[str, Any] = {"kind": asked[name].kind}
        for i, score in enumerate(SCORES):
            low, high = interval(resamples[:, i])
            if score == "expected_calibration_error":  # resampling adds to it: binned noise is never negative
                shift = float(np.nanmean(resamples[:, i])) - values[name][score].mean() if np.isfinite(low) else 0.0
                low, high = max(low - shift, 0.0), max(high - shift, 0.0)
            row |= {
                score: values[name][score].mean(), f"{score}_low": low, f"{score}_high": high,
                f"{score}_sd": values[name][score].std(ddof=1) if len(each) > 1 and len(found[name][0]) > 1 else float("nan"),
            }  # fmt: skip
        row["unknown_share"] = float(np.mean([scores["unknown_share"] for scores in each]))
        rows[name] = row | _costs(found[name])
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("accuracy", ascending=False, kind="stable")
    table.index.name = "method"
    differences = _differences(list(tallies), drawn, values)
    return {
        "table": table,
        "differences": differences,
        "per_type": _types(answer, truth, names),
        "per_fold": _folds(found, truth, batches, split, ontology),
        "sentences": sentences(differences),
    }


def sentences(differences: pd.DataFrame) -> list[str]:
    """Who is ahead of whom, by how much: one sentence a method and score.

    Parameters
    ----------
    differences
        Of a :class:`sclm.benchmark.Benchmark`.

    Returns
    -------
    Sentences.
    """
    said = []
    row: Any
    for row in differences.itertuples(index=False):
        word, name, best = WORDS[row.score], row.method, row.baseline
        if row.verdict == "cannot be told":
            said.append(
                f"{name} and {best}, the best baseline, cannot be told apart in {word}: difference {row.difference:+.3f} "
                f"(95 % {row.low:+.3f} to {row.high:+.3f})."
            )
            continue
        size, low, high = abs(row.difference), *sorted((abs(row.low), abs(row.high)))
        first, second = (
            (name, f"{best}, the best baseline,") if row.verdict == "ahead" else (f"The baseline {best}", name)
        )
        said.append(f"{first} is ahead of {second} in {word} by {size:.3f} (95 % {low:.3f} to {high:.3f}).")
    return said


def _joined(parts: list[Answers], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) answers and confidences of all folds, each cell from the fold whose test part it is in."""
    answer, confidence = np.full(n, None, dtype=object), np.full(n, np.nan)
    for part in parts:
        answer[part.rows], confidence[part.rows] = part.answer, part.confidence
    return answer, confidence


def _costs(splits: list[list[Answers]]) -> dict[str, float]:
    parts = [part for each in splits for part in each]
    per_cell = np.median(
        [part.seconds / len(part.rows) for part in parts]
    )  # the first of a process also imports and compiles
    return {
        "train_seconds": float(np.median([part.train_seconds for part in parts])),
        "cells_per_second": float(1 / per_cell) if per_cell > 0 else float("nan"),
        "memory_mib": float(np.median([part.memory for part in parts])),
    }


def _differences(methods: list[str], drawn: np.ndarray, values: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Each method beside the best baseline of each score, in the same resamples."""
    rows = []
    for i, score in enumerate(COMPARED):
        baselines = [name for name in BASELINES if name in values]
        if not baselines:
            continue
        best = max(baselines, key=lambda name: values[name][score].mean())
        for k, name in enumerate(methods):
            if name in BASELINES:
                continue
            low, high = interval(drawn[k, :, i] - drawn[methods.index(best), :, i])
            verdict = "ahead" if low > 0 else "behind" if high < 0 else "cannot be told"
            difference = float(values[name][score].mean() - values[best][score].mean())
            rows.append((name, score, best, difference, low, high, verdict))
    columns = ["method", "score", "baseline", "difference", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _types(
    answer: dict[str, list[tuple[np.ndarray, np.ndarray]]], truth: np.ndarray, names: dict[str, str]
) -> pd.DataFrame:
    """Of all seeds together: cells are counted once."""
    parts = []
    for name, each in answer.items():
        table = per_type(
            np.tile(truth, len(each)), np.concatenate([a for a, _ in each]), np.concatenate([c for _, c in each])
        )
        table["cells"] //= len(each)
        for column in ("type", "mistaken_for"):
            table[column] = [names.get(value, value) for value in table[column]]
        table.insert(0, "method", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _folds(
    found: dict[str, list[list[Answers]]],
    truth: np.ndarray,
    batches: np.ndarray | None,
    split: list[np.ndarray],
    ontology: Ontology,
) -> pd.DataFrame:
    rows = []
    for name, splits in found.items():
        for s, (parts, fold) in enumerate(zip(splits, split, strict=True)):
            answer, _ = _joined(parts, len(truth))
            for f in range(int(fold.max()) + 1):
                test = fold == f
                scores = metrics.annotation(truth[test], answer[test], ontology=ontology)
                part = parts[f] if len(parts) > 1 else None
                rows.append(
                    {
                        "method": name, "split": s, "fold": f,
                        "batches": "" if batches is None else ", ".join(sorted(set(batches[test]))), "test_cells": int(test.sum()),
                        "train_cells": part.n_train if part else 0, **{score: scores[score] for score in COMPARED},
                        "train_seconds": part.train_seconds if part else float("nan"),
                        "seconds": part.seconds if part else float("nan"),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)
