"""Genes deleted and overexpressed: against stored outputs of the original and a version with lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from sclm.cells import Cells, Ragged
from sclm.models.encoder import Tokens
from sclm.models.geneformer import checkpoint
from sclm.models.geneformer.perturbation import perturbed_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.models.geneformer.model import Geneformer


def ragged(sequences: list[list[int]]) -> Ragged:
    flat = np.array([t for s in sequences for t in s], dtype=np.int32)
    return Ragged(flat, np.concatenate([[0], np.cumsum([len(s) for s in sequences])]))


def by_lists(cell: list[int], listed: list[int], kind: str, version: str, max_length: int) -> list[int] | None:
    genes = [t for t in cell if t >= {"V1": 2, "V2": 4}[version]]
    rest = [t for t in genes if t not in listed]
    if kind == "delete":
        new = rest
        if not rest or len(rest) != len(genes) - len(listed):
            return None
    else:
        new = (listed + rest)[: max_length - (2 if version == "V2" else 0)]
        if not genes or (len(listed) == 1 and genes[:1] == listed):  # a group that leads already stays
            return None
    return new if version == "V1" else [2, *new, 3]


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("listed", [[7], [12], [7, 5], [5, 7, 30]])
def test_tokens_are_those_of_lists(version: str, kind: str, listed: list[int]) -> None:
    rng = np.random.default_rng(0)
    first, frame = (2, 0) if version == "V1" else (4, 2)
    cells = []
    for n in [0, 1, 2, 5, 8, 10, 10, 10, 6, 4] * 5:
        genes = rng.permutation(np.arange(first, 14))[:n].tolist()
        cells.append([2, *genes, 3] if frame and genes else genes)
    cells += [[2, 7, 3] if frame else [7], [2, 7, 5, 6, 3] if frame else [7, 5, 6]]
    rows, changed, remaining = perturbed_tokens(ragged(cells), listed, kind, version, 10 + frame)
    expected = [by_lists(cell, listed, kind, version, 10 + frame) for cell in cells]
    assert rows.tolist() == [i for i, e in enumerate(expected) if e is not None]
    for i, row in enumerate(rows):
        assert changed[i].tolist() == expected[row]
        assert remaining[i].tolist() == [float(t >= first and t not in listed) for t in changed[i]]
    assert remaining.values.dtype == np.float32


def test_more_genes_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 genes"):
        perturbed_tokens(ragged([[2, 4, 5, 3]]), [4, 5, 6, 7, 8], "overexpress", "V2", 6)


# Stored outputs of the original ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "geneformer" / "in_silico_perturbation.npz"))


@pytest.fixture(scope="module")
def originals(golden: Path) -> dict[str, Geneformer]:
    return {name: checkpoint.convert(golden / "geneformer" / f"tiny{name}") for name in ("V1", "V2")}


class FromTokens:
    """A model that is handed tokens where it is handed cells."""

    def __init__(self, model: Geneformer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = model
        monkeypatch.setattr(model, "tokenise", lambda cells, *, seed=0: tokens, raising=True)

    def perturb(self, genes: list[list[int]], **options: Any) -> pd.DataFrame:
        names = np.asarray(self.model.vocabulary.tokens, dtype=object)
        nothing = Cells(sp.csr_matrix((0, 0)), pd.Index([]), pd.DataFrame())
        return self.model.perturb(nothing, [tuple(names[g]) for g in genes], **options)


def cells_of(stored: dict[str, np.ndarray], version: str) -> Tokens:
    prefix = "cells" if version == "V2" else "v1_cells"
    return Tokens(Ragged(stored[f"{prefix}_input_ids_flat"].astype(np.int32), stored[f"{prefix}_offsets"]), None)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("version", "kind", "run"),
    [
        ("V2", "delete", "v2_delete_all_cls"),
        ("V2", "overexpress", "v2_overexpress_all_cls"),
        ("V1", "delete", "v1_delete_all_cell"),
        ("V1", "overexpress", "v1_overexpress_all_cell"),
    ],
)
def test_the_originals_cosines_of_every_gene(
    monkeypatch: pytest.MonkeyPatch, originals: dict, stored: dict, version: str, kind: str, run: str
) -> None:
    tokens = cells_of(stored, version)
    genes = np.unique(stored[f"{run}_token"])
    found = FromTokens(originals[version], tokens, monkeypatch).perturb([[g] for g in genes.tolist()], kind=kind)
    found["token"] = genes[found["perturbation"]]
    shift = found.set_index(["cell", "token"])["shift"]
    asked = list(zip(stored[f"{run}_cell"].tolist(), stored[f"{run}_token"].tolist(), strict=True))
    np.testing.assert_allclose(1 - shift.loc[asked], stored[f"{run}_value"], atol=1e-5)
    if kind == "delete":
        assert len(found) == len(asked)  # no cell that lacks the gene
    else:  # genes that a cell does not express are put in front as well; the one that leads is left out
        detected = found.apply(lambda r: r["token"] in tokens.ids[int(r["cell"])], axis=1)
        assert detected.sum() == len(asked)


@pytest.mark.parity
def test_the_originals_shifts_towards_states(monkeypatch: pytest.MonkeyPatch, originals: dict, stored: dict) -> None:
    tokens = cells_of(stored, "V2")
    genes = np.unique(stored["v2_delete_all_goal__nf_token"])
    states = {name: stored[f"state_{name}"] for name in ("nf", "dcm")}
    found = FromTokens(originals["V2"], tokens, monkeypatch).perturb([[g] for g in genes.tolist()], states=states)
    found["token"] = genes[found["perturbation"]]
    for name in states:
        run = f"v2_delete_all_goal__{name}"
        asked = list(zip(stored[f"{run}_cell"].tolist(), stored[f"{run}_token"].tolist(), strict=True))
        shift = found.set_index(["cell", "token"])[f"towards:{name}"]
        np.testing.assert_allclose(shift.loc[asked], stored[f"{run}_value"], atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_the_originals_cosines_of_groups(
    monkeypatch: pytest.MonkeyPatch, originals: dict, stored: dict, kind: str
) -> None:
    genes = stored[f"group_tokens_{kind}"].tolist()
    found = FromTokens(originals["V2"], cells_of(stored, "V2"), monkeypatch).perturb([genes], kind=kind)
    run = f"v2_{kind}_group_cls"
    assert found["cell"].tolist() == stored[f"{run}_cell"].tolist()
    np.testing.assert_allclose(1 - found["shift"], stored[f"{run}_value"], atol=1e-5)


# Against a slow version --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_cells_that_are_cut_are_compared_with_their_cut_original(
    tmp_path: Path, write_checkpoint: Callable, genes: list[str], version: str, kind: str
) -> None:
    """Twelve tokens are read, cells are longer: gene by gene, one cell at a time."""
    model = checkpoint.convert(write_checkpoint(tmp_path / "original", version, max_length=12))
    counts = np.random.default_rng(3).poisson(2.0, size=(5, 30)).astype(np.float32)
    cells = Cells(sp.csr_matrix(counts), pd.Index(genes), pd.DataFrame(index=list("abcde")))
    tokens = model.tokenise(cells).ids
    asked = [[gene] for gene in genes[:29]] + [[genes[3], genes[8]]]
    ids = model.gene_ids(asked)
    pooling = "mean"
    found = model.perturb(cells, asked, kind=kind, pooling=pooling)
    first = {"V1": 2, "V2": 4}[version]

    def states(sequence: list[int]) -> np.ndarray:
        with model.inference():
            t = torch.tensor(sequence)[None]
            return model.states(t, None, torch.ones_like(t, dtype=torch.bool), 2)[0].numpy()

    expected, cut = [], 0
    for number, listed in enumerate(ids):
        for cell in range(5):
            before = tokens[cell].tolist()
            after = by_lists(before, listed, kind, version, 12)
            if after is None:
                continue
            rest = [t for t in after if t >= first and t not in listed]
            if kind == "overexpress":
                cut += len([t for t in before if t not in after])
                before = [t for t in before if t in after]
            old, new = states(before), states(after)
            a = np.stack([old[before.index(t)] for t in rest]).astype(np.float64)
            b = np.stack([new[after.index(t)] for t in rest]).astype(np.float64)
            cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            expected.append((number, cell, 1 - cosine.mean()))
    assert (cut > 20) == (kind == "overexpress")
    found = found.sort_values(["perturbation", "cell"])
    table = pd.DataFrame(expected, columns=["perturbation", "cell", "shift"])
    assert found[["perturbation", "cell"]].to_numpy().tolist() == table[["perturbation", "cell"]].to_numpy().tolist()
    np.testing.assert_allclose(found["shift"], table["shift"], atol=1e-5)


def test_cls_of_a_cut_cell(tmp_path: Path, write_checkpoint: Callable, genes: list[str]) -> None:
    model = checkpoint.convert(write_checkpoint(tmp_path / "original", "V2", max_length=8))
    counts = np.zeros((1, 30), np.float32)
    counts[0, :10] = 5
    cells = Cells(sp.csr_matrix(counts), pd.Index(genes), pd.DataFrame(index=["a"]))
    before = model.tokenise(cells).ids[0]
    absent = int(model.vocabulary.lookup([genes[20]])[0])
    found = model.perturb(cells, [(genes[20],)], kind="overexpress")
    cut, after = [*before[:-2], 3], [2, absent, *before[1:-2], 3]
    a, b = model.embed_tokens(Tokens(ragged([cut, after]), None)).astype(np.float64)
    expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found["shift"], [expected], atol=1e-6)
