"""Batches of cells: the same from memory and from disk, for any number of threads, devices and resumptions."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from sclm.cells import Cells, GeneVocabulary, read_cells
from sclm.training import CellDataModule, expressed_genes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Batch(NamedTuple):
    counts: torch.Tensor  # (B, G)
    noise: torch.Tensor  # (B,)
    number: torch.Tensor  # (B,)


def encode(cells: Cells, generator: np.random.Generator) -> Batch:
    numbers = [int(name.removeprefix("cell")) for name in cells.obs.index]
    noise = torch.from_numpy(generator.random(cells.n_cells))
    return Batch(torch.from_numpy(cells.counts.toarray()), noise, torch.tensor(numbers))


def batches(data: CellDataModule) -> list[Batch]:
    return list(data.train_dataloader())


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


class Place:
    """What the data ask a trainer."""

    def __init__(self, epoch: int = 0, rank: int = 0, world: int = 1) -> None:
        self.current_epoch, self.global_rank, self.world_size = epoch, rank, world
        self.strategy = type("Strategy", (), {"root_device": torch.device("cpu")})


@pytest.fixture
def adata(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    return simulate(300, 40, seed=3)


def test_every_training_cell_once_with_its_own_counts(adata: ad.AnnData) -> None:
    data = CellDataModule(read_cells(adata), encode, batch_size=32, validation=0.2, seed=1)
    assert data.validation_rows.size == 60
    found = batches(data)
    assert len(found) == data.n_batches == len(data.train_dataloader()) == 8
    numbers = torch.cat([b.number for b in found]).numpy()
    assert np.array_equal(np.sort(numbers), data.training_rows)
    np.testing.assert_array_equal(torch.cat([b.counts for b in found]).numpy(), adata.X[numbers].toarray())
    held_out = torch.cat([b.number for b in data.val_dataloader()]).numpy()
    assert np.array_equal(np.sort(held_out), data.validation_rows)


def test_threads_change_nothing_and_epochs_differ(adata: ad.AnnData) -> None:
    def make(epoch: int, **options: Any) -> list[Batch]:
        data = CellDataModule(read_cells(adata), encode, batch_size=32, **options)
        data.trainer = Place(epoch)
        return batches(data)

    assert equal(make(1, workers=0), make(1, workers=1))
    assert equal(make(1, workers=0), make(1, workers=3))
    assert not equal(make(1), make(2))
    assert not equal(make(1), make(1, seed=5))
    assert make(0)[0].noise[0] != make(0)[1].noise[0]


def test_an_epoch_begins_where_it_is_resumed(adata: ad.AnnData) -> None:
    data = CellDataModule(read_cells(adata), encode, batch_size=32, buffer_size=64)
    data.trainer = Place(2)
    whole = batches(data)
    data.resume_at(2, 5)
    assert len(data.train_dataloader()) == len(whole) - 5
    assert equal(batches(data), whole[5:])
    data.trainer = Place(3)
    assert len(data.train_dataloader()) == len(whole)
    assert data.n_batches == len(whole)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("tokens", [False, True])
def test_devices_share_every_cell_once(adata: ad.AnnData, world: int, tokens: bool) -> None:
    """Each step of several devices holds the cells of a step of one device with a batch as many times as large."""
    source = read_cells(adata)
    lengths = expressed_genes(source)
    options: dict[str, Any] = {"buffer_size": 100, "validation": 0.21}
    options |= {"lengths": lengths, "max_tokens": 250} if tokens else {"batch_size": 32 // world}

    def of(world: int, rank: int, epoch: int = 1, **more: Any) -> tuple[list[Batch], list[Batch]]:
        data = CellDataModule(source, encode, **options | more)
        data.trainer = Place(epoch, rank, world)
        assert data.n_batches == len(data.train_dataloader())
        return batches(data), list(data.val_dataloader())

    parts = [of(world, rank) for rank in range(world)]
    training_rows = CellDataModule(source, encode, **options).training_rows
    for of_part, rows in ((0, training_rows), (1, np.setdiff1d(np.arange(300), training_rows))):
        assert len({len(part[of_part]) for part in parts}) == 1
        seen = torch.cat([b.number for part in parts for b in part[of_part]]).tolist()
        assert sorted(seen) == rows.tolist()
        sizes = [[len(part[of_part][i].number) for part in parts] for i in range(len(parts[0][of_part]))]
        assert all(max(step) - min(step) <= 1 for step in sizes)
    assert not torch.equal(parts[0][0][0].noise[:3], parts[1][0][0].noise[:3])  # each device draws for itself
    if not tokens:
        alone = of(1, 0, batch_size=32 // world * world)[0]
        for i, batch in enumerate(alone):
            together = torch.cat([part[0][i].number for part in parts]).tolist()
            assert sorted(together) == sorted(batch.number.tolist())
    with pytest.raises(ValueError, match=r"cells that are shuffled together cannot be shared by 100 devices"):
        of(100, 0)


def test_balanced_epochs(adata: ad.AnnData) -> None:
    """As many cells of each type and in all as ever, common types in turns, also on several devices and when resumed."""
    types = np.array(["rare"] * 10 + ["some"] * 90 + ["many"] * 180 + [None] * 20, dtype=object)
    adata.obs["kind"] = types
    source = read_cells(adata, obs_keys=["kind"])
    options: dict[str, Any] = {"balance_key": "kind", "validation": 0, "batch_size": 28, "chunk_size": 4}

    def numbers(epoch: int, rank: int = 0, world: int = 1, start: int = 0, **more: Any) -> np.ndarray:
        data = CellDataModule(source, encode, **options | more)
        data.trainer = Place(epoch, rank, world)
        data.resume_at(epoch, start)
        return torch.cat([b.number for b in batches(data)]).numpy()

    seen = [numbers(epoch) for epoch in range(6)]
    for found in seen:
        of, n = np.unique(types[found].astype(str), return_counts=True)
        assert dict(zip(of, n, strict=True)) == {"rare": 94, "some": 93, "many": 93}
    times = np.bincount(np.concatenate(seen), minlength=300)
    assert set(times[types == None]) == {0}  # noqa: E711
    for kind in ("rare", "some", "many"):
        assert np.ptp(times[types == kind]) <= 1, kind  # every cell as often as any other
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], numbers(0, seed=1))
    np.testing.assert_array_equal(numbers(2, start=3), seen[2][3 * 28 :])
    both = np.concatenate([numbers(3, rank, 2, batch_size=14) for rank in (0, 1)])
    np.testing.assert_array_equal(np.sort(both), np.sort(seen[3]))
    plain, balanced = (CellDataModule(source, encode, **options | {"balance_key": key}) for key in (None, "kind"))
    assert set(balanced.fingerprint()) - set(plain.fingerprint()) == {"balance"}
    adata.obs["kind"] = None
    with pytest.raises(ValueError, match="balance_key='kind' must have a value for training cells, found none in 300"):
        CellDataModule(read_cells(adata, obs_keys=["kind"]), encode, **options)
    with pytest.raises(KeyError, match="balance_key='type' is no column of source 0; read were: 'kind'"):
        CellDataModule(source, encode, **options | {"balance_key": "type"})


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files_give_the_same_batches(adata: ad.AnnData, tmp_path: Path, kind: str) -> None:
    if kind == "h5ad":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    else:
        group = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=2)
        write_elem(group, "X", adata.X)
        backed = ad.AnnData(sparse_dataset(group["X"]), obs=adata.obs, var=adata.var)
    options = {"batch_size": 32, "chunk_size": 16, "buffer_size": 64, "seed": 2}
    assert equal(
        batches(CellDataModule(read_cells(backed), encode, **options)),
        batches(CellDataModule(read_cells(adata), encode, **options)),
    )
    if kind == "h5ad":
        assert CellDataModule(read_cells(backed), encode)._order.chunk_size == 128
        backed.file.close()


def test_many_sources_share_a_vocabulary(adata: ad.AnnData) -> None:
    """Each source has its own genes in its own order, and its own columns."""
    names = list(adata.var_names)
    first, second = adata[:100, names[:30]].copy(), adata[100:, names[:9:-1]].copy()
    first.obs["extra"] = 1.0
    first.obs["empty"], second.obs["empty"] = np.nan, "known"
    vocabulary = GeneVocabulary(tuple(names[5:35]))
    seen: list[Cells] = []

    def remember(cells: Cells, generator: np.random.Generator) -> Batch:
        seen.append(cells)
        return encode(cells, generator)

    sources = [
        read_cells(first, obs_keys=["donor", "extra", "empty"]),
        read_cells(second, obs_keys=["empty", "donor"]),
    ]
    data = CellDataModule(sources, remember, vocabulary=vocabulary, batch_size=32, workers=0)
    found = batches(data)
    numbers = torch.cat([b.number for b in found]).numpy()
    expected = adata[:, names[5:35]].X.toarray()[numbers]
    expected[np.ix_(numbers < 100, [n in names[30:] for n in names[5:35]])] = 0  # not measured there
    expected[np.ix_(numbers >= 100, [n in names[:10] for n in names[5:35]])] = 0
    np.testing.assert_array_equal(torch.cat([b.counts for b in found]).numpy(), expected)
    assert all(list(cells.genes) == names[5:35] for cells in seen)
    obs = pd.concat([cells.obs for cells in seen])
    assert list(obs.columns) == ["donor", "empty"]
    assert obs["donor"].tolist() == adata.obs["donor"].astype(str).iloc[numbers].tolist()
    assert (obs["empty"] == "known").to_numpy().tolist() == (numbers >= 100).tolist()
    with pytest.raises(ValueError, match=r"Sources 0 and 1 have different genes \(30 and 30\). Pass vocabulary="):
        CellDataModule(sources, encode)


def test_foreign_genes_are_refused_before_training(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="at least 20% of the model's genes"):
        CellDataModule(read_cells(adata), encode, vocabulary=GeneVocabulary(("ENSG00000141510", "XYZ1", "XYZ2")))


def test_token_budget_and_padding(adata: ad.AnnData) -> None:
    source = read_cells(adata)
    lengths = expressed_genes(source) + 6
    np.testing.assert_array_equal(lengths, (adata.X.toarray() > 0).sum(axis=1) + 6)
    data = CellDataModule(source, encode, lengths=lengths, max_tokens=300, validation=0)
    found = batches(data)
    longest = [lengths[b.number.numpy()].max() * len(b.number) for b in found]
    assert max(longest) <= 300
    assert data.padding_share() == pytest.approx(1 - lengths.sum() / sum(longest))
    assert list(data.val_dataloader()) == []
    vocabulary = GeneVocabulary(tuple(adata.var_names[:10]))
    np.testing.assert_array_equal(expressed_genes([source], vocabulary), (adata.X.toarray()[:, :10] > 0).sum(axis=1))
    with pytest.raises(ValueError, match=r"lengths must be 300 whole numbers, one a cell, found int64 of shape \(3,\)"):
        CellDataModule(source, encode, lengths=np.arange(3))


# -- the split -----------------------------------------------------------------------------------------------------


def test_whole_donors_are_held_out(adata: ad.AnnData) -> None:
    source = read_cells(adata, obs_keys=["donor"])
    chosen = set()
    for seed in range(8):
        data = CellDataModule(source, encode, validation=0.3, validation_key="donor", seed=seed)
        held_out = set(adata.obs["donor"].iloc[data.validation_rows])
        assert len(held_out) == 1  # a third of the cells each
        assert not held_out & set(adata.obs["donor"].iloc[data.training_rows])
        chosen |= held_out
    assert len(chosen) > 1
    adata.obs["donor"] = adata.obs["donor"].astype(object).where(np.arange(300) > 50, np.nan)
    data = CellDataModule(read_cells(adata, obs_keys=["donor"]), encode, validation=0.01, validation_key="donor")
    assert data.validation_rows.min() > 50  # cells without a donor are trained on


def test_explicit_rows(adata: ad.AnnData) -> None:
    source = read_cells(adata)
    mask = np.arange(300) < 20
    for rows in (mask, [*range(20)], np.flatnonzero(mask)[::-1]):
        assert CellDataModule(source, encode, validation=rows).validation_rows.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": 1.0}, ValueError, r"share in \[0, 1\) or row numbers, found 1.0"),
        ({"validation": [0, 300]}, IndexError, "rows from 0 to 299, found 300"),
        ({"validation": [0.5]}, ValueError, "found float64"),
        ({"validation": np.ones(300, bool)}, ValueError, "No cells are left for training: all 300"),
        ({"validation": [1], "validation_key": "donor"}, ValueError, "goes with a share"),
        ({"validation_key": "batch"}, KeyError, "'batch' is no column of source 0; read were: 'donor'"),
        ({"validation_key": "one"}, ValueError, "at least 2 groups"),
        ({"workers": -1}, ValueError, "found -1"),
        ({"batch_size": 0}, ValueError, "found 0, 1 and 4096"),
    ],
)
def test_bad_arguments(adata: ad.AnnData, options: dict[str, Any], error: type[Exception], message: str) -> None:
    adata.obs["one"] = "x"
    keys = ["donor", "one"] if options.get("validation_key") == "one" else ["donor"]
    with pytest.raises(error, match=message):
        CellDataModule(read_cells(adata, obs_keys=keys), encode, **options)
    with pytest.raises(ValueError, match="at least one CellSource"):
        CellDataModule([], encode)


# -- threads -------------------------------------------------------------------------------------------------------


def test_an_error_in_a_thread_is_raised_and_threads_end(adata: ad.AnnData) -> None:
    def fail(cells: Cells, generator: np.random.Generator) -> Batch:
        if "cell7" in cells.obs.index:
            raise KeyError("cell7")
        return encode(cells, generator)

    data = CellDataModule(read_cells(adata), fail, batch_size=8, validation=0, workers=2)
    with pytest.raises(KeyError, match="cell7"):
        batches(data)
    iterator = iter(CellDataModule(read_cells(adata), encode, batch_size=8, workers=2).train_dataloader())
    next(iterator)
    iterator.close()
    time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name.startswith(("read-cells", "encode-cells"))]


def test_little_is_read_ahead() -> None:
    """Memory does not grow with the number of cells: two buffers at most are read before they are used."""
    counts = sparse.random(5000, 20, density=0.5, format="csr", dtype=np.float32, random_state=0)
    counts.data[:] = 1
    adata = ad.AnnData(counts, obs=pd.DataFrame(index=[f"cell{i}" for i in range(5000)]))
    adata.var_names = [f"G{i}" for i in range(20)]
    data = CellDataModule(read_cells(adata), encode, batch_size=50, buffer_size=250, validation=0, workers=1)
    reads: list[int] = []
    read = data.read
    data.read = lambda rows: (reads.append(rows.size), read(rows))[1]  # type: ignore[method-assign]
    for number, _ in enumerate(data.train_dataloader()):
        time.sleep(0.001)
        assert sum(reads) - 50 * number <= 4 * 250
    assert sum(reads) == 5000


def test_some_rows_only(adata: ad.AnnData) -> None:
    source = read_cells(adata)
    rows, held = np.arange(0, 300, 3), np.arange(0, 300, 9)
    data = CellDataModule(source, encode, rows=rows, validation=held, batch_size=16)
    trained = np.concatenate([batch.number.numpy() for batch in batches(data)])
    assert sorted(trained) == sorted(set(rows) - set(held))
    assert data.validation_rows.tolist() == held.tolist()
    with pytest.raises(ValueError, match=r"rows must be row numbers or a mask of 300 cells, found float64"):
        CellDataModule(source, encode, rows=np.ones(3))
    with pytest.raises(ValueError, match=r"all 1 are held out"):
        CellDataModule(source, encode, rows=np.array([9]), validation=held)
