"""Reading published files: every tensor accounted for, names through the dictionaries, no code run."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import sclm
from sclm.cells import read_cells
from sclm.models.sctranslator import checkpoint as files
from sclm.models.sctranslator.checkpoint import IGNORED, network_from, original_name, recognise, sources

if TYPE_CHECKING:
    from pathlib import Path

Q = "enc.performer.net.layers.0.0.fn.to_q.weight"


@pytest.fixture
def counts() -> ad.AnnData:
    genes = ["CD3D", "CD3E", "CD4", "PTPRC", "MS4A1", "CD19"]
    x = np.random.default_rng(0).poisson(3, size=(9, 6)).astype(np.float32)
    return ad.AnnData(x, var=pd.DataFrame({"my_Id": [7, 8, 9, 10, 11, 12]}, index=genes))


def test_names_go_both_ways(published: dict[str, torch.Tensor]) -> None:
    network, _ = network_from(published, "here")
    names = {original_name(name) for name in network.state_dict()}
    assert len(names) == len(network.state_dict()) == 78
    twice = {name for name in published if ".proj_updater.instance." in name}
    assert names | twice | set(IGNORED) == set(published)
    assert len(published) == 152


def test_sizes_come_from_the_tensors(published: dict[str, torch.Tensor]) -> None:
    network, config = network_from(published, "here")
    assert (config.width, config.heads, config.head_width, config.features) == (6, 2, 4, 5)
    assert (config.gene_frame, config.protein_frame, config.translator_width) == (30, 7, 15)
    assert (config.padding, config.order, config.scale) == ("original", "data", "minmax")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, published[original_name(name)])


@pytest.mark.parametrize("name", [Q, "enc.pos_emb.weight", "translator.fc0.weight", "dec.to_out.weight", *IGNORED[:1],
                                  "enc.performer.net.layers.1.0.fn.fast_attention.projection_matrix",
                                  "dec.performer.proj_updater.instance.layers.1.1.norm.bias"])  # fmt: skip
def test_a_missing_or_renamed_tensor_is_named(published: dict[str, torch.Tensor], name: str) -> None:
    without = {k: v for k, v in published.items() if k != name}
    with pytest.raises(ValueError, match=rf"missing {name}"):
        network_from(without, "here")
    with pytest.raises(ValueError, match=rf"(?s)missing {name}.*unknown {name}_old"):
        network_from(without | {f"{name}_old": published[name]}, "here")


@pytest.mark.parametrize(
    "name",
    ["enc.pos_emb.weight", "translator.fc0.weight", "translator.fc1.weight", "dec.pos_emb.weight", Q,
     "enc.to_vector.weight", "dec.to_out.weight", "enc.performer.net.layers.0.0.fn.fast_attention.projection_matrix",
     "dec.performer.net.layers.1.1.fn.fn.w2.weight"],
)  # fmt: skip
def test_a_transposed_tensor_is_named_alone(published: dict[str, torch.Tensor], name: str) -> None:
    turned = dict(published) | {name: published[name].T}
    if ".net." in name:
        turned[name.replace(".net.", ".proj_updater.instance.")] = published[name].T
    with pytest.raises(ValueError, match=rf"{name}: expected .* \(transposed\)") as error:
        network_from(turned, "here")
    assert "missing" not in str(error.value)
    assert str(error.value).count("expected (") <= 2


def test_an_extra_tensor_and_two_unequal_copies_are_refused(published: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"unknown dec\.to_logits\.weight"):
        network_from(published | {"dec.to_logits.weight": torch.zeros(2, 2)}, "here")
    twice = Q.replace(".net.", ".proj_updater.instance.")
    with pytest.raises(ValueError, match=rf"twice with different values: {twice}"):
        network_from(published | {twice: published[Q] + 1}, "here")


def test_what_is_recognised(checkpoint: Path, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert recognise(checkpoint)
    assert recognise(tmp_path)  # the folder
    assert sources(tmp_path) == [checkpoint]
    other = tmp_path / "elsewhere"
    other.mkdir()
    torch.save({"encoder.weight": torch.zeros(3)}, other / "best_model.pt")
    (other / "notes.pt").write_text("translator performer projection_matrix proj_updater")
    assert not recognise(other)
    assert not recognise(other / "best_model.pt")
    assert not recognise(tmp_path / "nothing")
    wrapped = other / "wrapped.pt"
    torch.save({f"module.{k}": v for k, v in published.items()}, wrapped)
    assert recognise(wrapped)
    assert files.read_tensors(wrapped).keys() == published.keys()


def test_a_hostile_file_runs_nothing(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "evil.pt"
    torch.save({**published, "translator performer": Evil()}, path)
    assert recognise(path)
    with pytest.raises(ValueError, match="no state_dict"):
        sclm.load(path)
    assert not (tmp_path / "ran").exists()


def test_without_dictionaries_genes_are_numbers(checkpoint: Path, counts: ad.AnnData) -> None:
    model = sclm.load(checkpoint)
    assert model.names == {}
    assert len(model.vocabulary) == 90
    cells = read_cells(counts, gene_key="my_Id").read()
    found = model.translate(cells, proteins=["9", "75"])
    values = np.log1p(counts.X / counts.X.sum(axis=1, keepdims=True) * 1e4)
    by_hand = model.predict(values, np.arange(7, 13), np.array([9, 75]))
    np.testing.assert_allclose(found.to_numpy(), by_hand, atol=1e-6)
    with pytest.raises(ValueError, match=r"(?s)without its gene-id dictionaries.*ID_dic.*scTranslator.*my_Id"):
        model.match(pd.Index(counts.var_names))
    with pytest.raises(ValueError, match=r"(?s)my_Id.*found 'CD4'.*ID_dic"):
        model.translate(cells, proteins=["CD4"])
    with pytest.raises(ValueError, match="pass proteins="):
        model.translate(cells)


def test_with_dictionaries_genes_and_proteins_have_names(
    checkpoint: Path, dictionaries: Path, counts: ad.AnnData
) -> None:
    assert set(sources(checkpoint)) == {checkpoint, *dictionaries.iterdir()}
    model = sclm.load(checkpoint)
    assert model.vocabulary.tokens[9] == "CD4"  # the approved symbol, not the alias T4
    assert model.vocabulary.tokens[13] == "13"
    renamed = counts[:, ["CD3D", "CD3E", "CD4", "PTPRC", "MS4A1", "CD19"]].copy()
    renamed.var_names = ["CD3D", "ENSG00000198851", "T4", "PTPRC", "MS4A1.1", "CD19"]
    match = model.match(pd.Index(renamed.var_names))
    assert match.ids.tolist() == [7, 8, 9, 10, -1, 12]
    names, ids = model.resolve(["CD4_TotalSeqB", "CD3", "CD45RA", "CD45", "anti-human CD19"])
    assert names[0] == "CD4_TotalSeqB"
    assert ids.tolist() == [9, 7, 75, 10, 12]  # an isoform has an id of its own, CD3 that of its first gene
    with pytest.raises(KeyError, match="isotype control"):
        model.resolve(["IgG1"])
    found = model.translate(read_cells(counts).read(), proteins=["CD4", "CD45RA"])
    again = model.translate(read_cells(counts, gene_key="my_Id").read(), proteins=["9", "75"])
    np.testing.assert_array_equal(found.to_numpy(), again.to_numpy())


def test_pickled_dictionaries_are_read_and_hostile_ones_refused(
    checkpoint: Path, dictionaries: Path, tmp_path: Path
) -> None:
    for file in dictionaries.iterdir():
        file.unlink()
    (dictionaries / "EntrezID_to_myID.pkl").write_bytes(pickle.dumps({np.int64(920): np.int64(9)}))
    (dictionaries / "hgs_to_EntrezID.pkl").write_bytes(pickle.dumps({"CD4": 920, "T4": "920"}))
    model = sclm.load(checkpoint)
    assert model.names == {"CD4": 9, "T4": 9}
    evil = b"cbuiltins\neval\n(V__import__('pathlib').Path('" + str(tmp_path / "ran").encode() + b"').touch()\ntR."
    (dictionaries / "hgs_to_EntrezID.pkl").write_bytes(evil)
    with pytest.raises(ValueError, match=r"builtins\.eval"):
        sclm.load(checkpoint)
    assert not (tmp_path / "ran").exists()


def test_dictionaries_of_another_model_are_refused(checkpoint: Path, dictionaries: Path) -> None:
    (dictionaries / "EntrezID_to_myID.json").write_text('{"920": 4000}')
    with pytest.raises(ValueError, match="ids from 1 to 89, found 4000"):
        sclm.load(checkpoint)


def test_more_proteins_than_the_frame_come_in_chunks(checkpoint: Path, counts: ad.AnnData) -> None:
    model = sclm.load(checkpoint)
    cells = read_cells(counts, gene_key="my_Id").read()
    ids = [str(i) for i in range(20, 30)]  # 10, of a frame of 7
    whole = model.translate(cells, proteins=ids)
    np.testing.assert_array_equal(whole.to_numpy()[:, :7], model.translate(cells, proteins=ids[:7]).to_numpy())
    np.testing.assert_array_equal(whole.to_numpy()[:, 7:], model.translate(cells, proteins=ids[7:]).to_numpy())


def test_knock_out_deletes_the_column(checkpoint: Path, counts: ad.AnnData) -> None:
    model = sclm.load(checkpoint)
    cells = read_cells(counts, gene_key="my_Id").read()
    found = model.knock_out(cells, ["9"], proteins=["11", "12"])
    values = np.log1p(counts.X / counts.X.sum(axis=1, keepdims=True) * 1e4)
    before = model.predict(values, np.arange(7, 13), np.array([11, 12]))
    after = model.predict(np.delete(values, 2, axis=1), np.array([7, 8, 10, 11, 12]), np.array([11, 12]))
    np.testing.assert_allclose(found.to_numpy()[0], (after - before).mean(axis=0), atol=1e-5)
    with pytest.raises(KeyError, match="'99'"):
        model.knock_out(cells, ["99"], proteins=["11"])
