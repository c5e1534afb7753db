"""The verbs on tiny checkpoints, against transformers used directly, one cell at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax

import sclm
from sclm.cells import Cells, read_cells
from sclm.models.cell2sentence import naming
from sclm.models.cell2sentence.model import Cell2Sentence

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

TYPES = ("B cell", "T cell", "natural killer cell", "monocyte")


def some(cells: Cells, rows: list[int]) -> Cells:
    return Cells(cells.counts[rows], cells.genes, cells.obs.iloc[rows])


def original(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def prompt_of(model: Any, sentence: str) -> str:
    n = len(sentence.split())
    return model.config.annotate_prompt.format(cell_sentence=sentence, num_genes=n, organism="Homo sapiens")


def test_names_have_the_probabilities_of_the_original(model: Any, folder: Path, cells: Cells) -> None:
    """Prompt and answer tokenised as one text by transformers, no cache, no padding, no tree."""
    network, tokenizer = original(folder)
    found = model.annotate(some(cells, [0, 1, 3]))
    for row, sentence in enumerate(model.sentences(some(cells, [0, 1, 3]))):
        prompt = prompt_of(model, sentence)
        start = tokenizer(prompt).input_ids
        scores = []
        for name in TYPES:
            ids = tokenizer(f"{prompt} {name}.").input_ids
            assert ids[: len(start)] == start
            with torch.no_grad():
                logits = network(torch.tensor([ids])).logits[0].double().numpy()
            spread = log_softmax(logits, axis=-1)
            scores.append(sum(spread[i - 1, ids[i]] for i in range(len(start), len(ids))))
        np.testing.assert_allclose(found.probabilities[row], softmax(scores), atol=2e-4)
        assert found.table["label"].iloc[row] == TYPES[int(np.argmax(scores))]
        assert found.table["novelty"].iloc[row] == pytest.approx(1 - np.exp(scores).sum(), abs=1e-5)


def test_answers_keep_their_form(model: Any, cells: Cells) -> None:
    found = model.annotate(cells)
    assert list(found.categories["label"]) == list(TYPES)
    assert found.categories["ontology_term_id"].str.startswith("CL:").all()
    assert found.table.index.equals(cells.obs.index)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    empty = found.table.iloc[2]
    assert empty.tolist() == ["unknown", "unknown", 0.0, 1.0]
    alone = model.annotate(some(cells, [7]))
    np.testing.assert_allclose(alone.probabilities[0], found.probabilities[7], atol=1e-5)
    pd.testing.assert_frame_equal(model.annotate(cells).table, found.table)  # twice the same


def test_a_search_finds_what_scoring_all_finds(model: Any, cells: Cells) -> None:
    everything = model.annotate(cells, decoding="exhaustive")
    searched = model.annotate(cells, decoding="best")
    assert searched.table["label"].tolist() == everything.table["label"].tolist()
    np.testing.assert_allclose(
        searched.probabilities, everything.probabilities, atol=1e-4
    )  # four candidates: all are found


def test_candidates_and_lineages_restrict(model: Any, cells: Cells) -> None:
    some_cells = some(cells, [0, 1])
    named = model.annotate(some_cells, candidates=["CD4+ T", "CL:0000236", "neuron", "my type"], under=["lymphocyte"])
    assert named.categories["label"].tolist() == ["CD4-positive, alpha-beta T cell", "B cell"]
    own = model.annotate(some_cells, candidates=["neuron", "my type"])
    assert own.categories["ontology_term_id"].tolist() == ["CL:0000540", "unknown"]
    below = model.set(candidates=()).annotate(some_cells, under="T cell", decoding="best")
    assert len(below.categories) > 50
    assert (below.probabilities.sum(axis=1) > 0.999).all()
    for wrong, message in (
        ({"under": "no such thing"}, "under must name terms"),
        ({"under": "neuron"}, "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            model.annotate(some_cells, **wrong)
    with pytest.raises(TypeError, match="list of names"):
        model.annotate(some_cells, candidates="T cell")


def test_every_term_of_the_ontology_can_be_an_answer(model: Any, folder: Path, cells: Cells) -> None:
    if "GPTNeoX" not in folder.name:
        pytest.skip("one architecture is enough for three thousand names")
    whole = model.set(candidates=(), n_genes=5)
    found = whole.annotate(some(cells, [0, 1]), decoding="exhaustive")
    assert found.probabilities.shape[1] > 3000
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-4)
    searched = whole.annotate(some(cells, [0, 1]), decoding="best")
    assert set(searched.table["ontology_term_id"]) <= set(found.categories["ontology_term_id"])


def test_synonyms_add_to_their_term(model: Any, cells: Cells) -> None:
    some_cells = some(cells, [0])
    plain = model.annotate(some_cells)
    more = model.set(synonyms=True).annotate(some_cells)
    assert more.categories.equals(plain.categories)
    assert more.table["novelty"].iloc[0] < plain.table["novelty"].iloc[0]


def test_free_text_is_what_follows_the_prompt_and_is_resolved(model: Any, folder: Path, cells: Cells) -> None:
    network, tokenizer = original(folder)
    found = model.annotate(some(cells, [0, 2, 3]), decoding="free")
    assert found.probabilities is None
    assert found.table["label"].iloc[1] == "unknown"
    (sentence,) = model.sentences(some(cells, [0]))
    ids = tokenizer(prompt_of(model, sentence), return_tensors="pt").input_ids
    with torch.no_grad():
        out = network.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0, eos_token_id=0)
    text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0].partition(".")[0].strip()
    from sclm.knowledge import Ontology

    match = Ontology.load("cl").resolve(text, min_score=1.0)
    assert found.table["label"].iloc[0] == (match.name or text or "unknown")
    assert found.table["ontology_term_id"].iloc[0] == (match.term_id or "unknown")
    assert 0 <= found.table["confidence"].iloc[0] <= 1
    with pytest.raises(ValueError, match="leave candidates= and under= out"):
        model.annotate(cells, decoding="free", under="T cell")
    with pytest.raises(ValueError, match="decoding must be"):
        model.annotate(cells, decoding="greedy")


def test_free_text_that_is_no_term_stays_as_written(model: Any, cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "_first_sentence", lambda _: "memmory B cel")
    found = model.annotate(some(cells, [0]), decoding="free").table
    assert found[["label", "ontology_term_id", "confidence"]].iloc[0].tolist() == ["memmory B cel", "unknown", 0.0]


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("layer", [0, 1, None])
def test_vectors_are_means_over_real_tokens(
    model: Any, folder: Path, cells: Cells, pooling: str, layer: int | None
) -> None:
    network, tokenizer = original(folder)
    short = model.set(n_genes=3)  # sentences of different lengths in one batch
    found = np.vstack([model.embed(cells, hidden_layer=layer, pooling=pooling)[:4]])
    assert found.dtype == np.float32
    assert np.isnan(found[2]).all()
    for row in (0, 1, 3):
        (sentence,) = model.sentences(some(cells, [row]))
        ids = tokenizer(prompt_of(model, sentence), return_tensors="pt").input_ids
        with torch.no_grad():
            states = network(ids, output_hidden_states=True).hidden_states[-1 if layer is None else layer][0]
        expected = states.mean(0) if pooling == "mean" else states[-1]
        np.testing.assert_allclose(found[row], expected.numpy(), atol=2e-4, rtol=1e-4)
    alone = model.embed(some(cells, [1]), hidden_layer=layer, pooling=pooling)
    np.testing.assert_allclose(alone[0], found[1], atol=1e-5)
    assert not np.allclose(short.embed(some(cells, [1])), alone, atol=1e-3)
    with pytest.raises(ValueError, match="hidden_layer must lie between -3 and 2"):
        model.embed(cells, hidden_layer=3)
    with pytest.raises(ValueError, match="pooling must be"):
        model.embed(cells, pooling="cls")


def test_cells_are_written_row_by_row(model: Any) -> None:
    request = pd.DataFrame({"cell_type": ["T cell", "B cell", "T cell"]}, index=["a", "b", "c"])
    written = model.generate(request, seed=3)
    assert written.obs.index.tolist() == ["a", "b", "c"]
    assert written.counts.dtype == np.float32
    assert (written.counts.data == np.round(written.counts.data)).all()
    assert (written.counts.data >= 1).all()
    again = model.generate(request, seed=3)
    assert (again.counts != written.counts).nnz == 0
    pd.testing.assert_frame_equal(again.obs, written.obs)
    first = model.generate(request.iloc[:1], seed=3)
    assert (first.counts != written.counts[:1]).nnz == 0
    assert first.obs["sclm_words"].iloc[0] == written.obs["sclm_words"].iloc[0]
    texts = model.written(["T cell", "T cell"], seed=3)
    assert texts[0] != texts[1]  # other draws
    greedy = model.written(["T cell", "T cell"], temperature=0.0)
    assert greedy[0] == greedy[1]
    assert not greedy[0].startswith("Write the")  # the prompt is not part of it
    for wrong, error in (
        (request.rename(columns={"cell_type": "type"}), KeyError),
        (request.iloc[:0], ValueError),
        (request.assign(n_counts=[1.0, -1.0, 2.0]), ValueError),
        (request.assign(cell_type=["T cell", None, "B cell"]), ValueError),
    ):
        with pytest.raises(error):
            model.generate(wrong)


def test_written_genes_get_the_counts_of_their_ranks(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Cell2Sentence, "written", lambda self, types, **_: ["CD3E LYZ nothing CD3E MS4A1."] * len(types)
    )
    request = pd.DataFrame({"cell_type": ["T cell", "T cell"], "n_counts": [2000.0, 20_000.0]})
    written = model.generate(request)
    a, b = model.config.inverse[:2]
    place = {gene: i for i, gene in enumerate(written.genes)}
    dense = written.counts.toarray()
    for gene, rank in (("LYZ", 0), ("CD3E", 1), ("MS4A1", 3)):  # CD3E at int((0 + 3) / 2) = 1
        relative = (10 ** (a + b * np.log10(1 + rank)) - 1) / 1e4
        np.testing.assert_array_equal(dense[:, place[gene]], np.round(relative * np.array([2000.0, 20_000.0])))
    assert written.counts.nnz == 6
    assert written.obs["sclm_words"].tolist() == [5, 5]
    assert written.obs["sclm_unknown_words"].tolist() == [1, 1]
    assert written.obs["sclm_repeated_genes"].tolist() == [1, 1]


def test_confidence_can_be_fitted_on_labelled_cells(model: Any, cells: Cells) -> None:
    fitted = model.calibrated(cells, "cell_type")
    assert fitted.config.temperature != 1.0
    a, b = fitted.annotate(cells), model.annotate(cells)
    assert a.table["label"].tolist() == b.table["label"].tolist()
    truth = cells.obs["cell_type"].map({t: i for i, t in enumerate(TYPES)}).to_numpy(dtype=int)
    keep = np.arange(len(truth)) != 2

    def loss(found: Any) -> float:
        return float(-np.log(found.probabilities[np.arange(len(truth)), truth][keep]).mean())

    assert loss(a) < loss(b)
    assert fitted.network is model.network
    with pytest.raises(ValueError, match="none in 'cell_type'"):
        model.set(candidates=("neuron",)).calibrated(cells, "cell_type")


def test_the_line_to_expression_is_stored(model: Any, cells: Cells, tmp_path: Path) -> None:
    fitted = model.with_inverse(cells)
    assert fitted.inverse.slope < 0
    assert fitted.inverse != model.inverse
    again = sclm.load(fitted.save(tmp_path / "c2s"))
    assert again.inverse == fitted.inverse


def test_other_organisms_are_written_in_the_words_of_the_data(model: Any, cells: Cells) -> None:
    mouse = Cells(cells.counts, pd.Index([g.capitalize() for g in cells.genes]), cells.obs)
    with pytest.raises(ValueError, match="found"):
        model.match(pd.Index([f"Gm{i}" for i in range(50)]))
    ours = model.set(organism="Mus musculus")
    assert ours.match(mouse.genes).matched == len(mouse.genes)
    written = ours.sentences(some(mouse, [0]))[0].split()
    assert written == [w.upper() for w in written]
    with pytest.raises(ValueError, match="written\\(\\) gives the sentences"):
        ours.generate(pd.DataFrame({"cell_type": ["T cell"]}))


def test_ensembl_ids_give_the_same_answers(model: Any, cells: Cells) -> None:
    from sclm.knowledge import GeneIdentifiers

    ids = GeneIdentifiers.load("human").to_ensembl(list(cells.genes))
    assert all(ids)
    renamed = Cells(cells.counts, pd.Index(ids), cells.obs)
    assert model.sentences(renamed) == model.sentences(cells)


def test_the_tools_take_it(model: Any, simulate: Any) -> None:
    adata: anndata.AnnData = simulate(12, seed=5)
    sclm.tl.annotate(adata, model)
    assert set(adata.obs["sclm_cell_type"]) <= set(TYPES)
    assert adata.uns["sclm_cell_type"]["model"]["family"] == "cell2sentence"
    sclm.tl.embed(adata, model)
    assert adata.obsm["X_sclm_cell2sentence"].shape == (12, 32)
    np.testing.assert_allclose(adata.obsm["X_sclm_cell2sentence"], model.embed(read_cells(adata).read()), atol=1e-5)


def test_the_tool_writes_cells_and_stores_the_line(model: Any, tmp_path: Path) -> None:
    import anndata as ad

    request = sclm.request(3, cell_type="T cell")
    written = sclm.tl.generate(request, model, seed=1)
    assert written.n_obs == 3
    assert written.obs["cell_type"].tolist() == ["T cell"] * 3
    record = written.uns["sclm_generate"]
    assert record["writing"]["inverse"]["slope"] == model.inverse.slope
    assert record["totals"]["sclm_words"] == written.obs["sclm_words"].sum()
    again = sclm.tl.generate(request, model, seed=1)
    assert (again.X != written.X).nnz == 0
    written.write_h5ad(tmp_path / "cells.h5ad")
    assert ad.read_h5ad(tmp_path / "cells.h5ad").uns["sclm_generate"]["tool"] == "generate"
    assert list(sclm.get.generate(written).columns) == ["cell_type", "words", "unknown_words", "repeated_genes"]
    for table in (sclm.get.generate_values, sclm.get.generate_plausibility):
        with pytest.raises(KeyError, match="'cell2sentence' writes cells without training cells"):
            table(written)
    with pytest.raises(ValueError, match="guidance means nothing to 'cell2sentence', found 1"):
        sclm.tl.generate(request, model, guidance=1.0)


def test_settings_are_checked(model: Any) -> None:
    for wrong in ({"n_genes": 0}, {"temperature": 0.0}, {"inverse": (1.0,)}, {"answer": "x"}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.set(**wrong)
