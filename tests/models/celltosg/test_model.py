"""The family on small simulated cells: stages, open answers, prompts, explanations, checkpoints, pretrained bases."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import sclm
from sclm.cells import read_cells
from sclm.knowledge import KnowledgeGraph, Ontology, Pairs, Terms
from sclm.models.celltosg import learning
from sclm.models.celltosg.config import CellToSGConfig
from sclm.models.celltosg.network import learns
from sclm.models.celltosg.parts import make_encoder
from sclm.models.celltosg.tokens import fields_of, write_prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

    from sclm.cells import Cells
    from sclm.models.celltosg.model import CellToSG

B_CELL = "CL:0000236"
QUICK: dict[str, Any] = {
    "preset": "tiny", "anchor_epochs": 2, "align_epochs": 4, "reinforce_steps": 2, "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def graph(ontology: Ontology, reference: anndata.AnnData) -> KnowledgeGraph:
    """Cell types with their texts, and the genes of the simulated programmes as markers."""
    import pandas as pd

    types = ("B cell", "T cell", "natural killer cell", "monocyte")
    genes = list(reference.var_names)
    marks = pd.DataFrame(
        [(genes[10 * i + j], t) for i, t in enumerate(types) for j in range(10)], columns=["gene", "type"]
    )
    return KnowledgeGraph.build(
        Terms(ontology, "cell_type"), Pairs(marks, "gene-marks-cell_type", name="markers"), genes=genes
    )


@pytest.fixture(scope="module")
def adata(reference: anndata.AnnData) -> anndata.AnnData:
    cells = reference[:200].copy()
    cells.obs["tissue"] = "blood"
    cells.obs["disease"] = np.where(np.arange(200) % 2, "normal", "unknown")
    return cells


@pytest.fixture(scope="module")
def model(adata: anndata.AnnData, graph: KnowledgeGraph) -> CellToSG:
    return sclm.train(
        "celltosg", adata, label_key="cell_type", obs_keys=["tissue", "disease"], graph=graph, seed=0, **QUICK
    )


@pytest.fixture
def cells(simulate: Callable[..., anndata.AnnData]) -> Cells:
    adata = simulate(24, seed=5)
    adata.obs["tissue"] = "blood"
    counts = adata.X.tolil()
    counts[3] = 0
    adata.X = counts.tocsr()
    return read_cells(adata, obs_keys=["tissue", "cell_type"]).read()


def test_every_answer_is_a_term_of_the_open_vocabulary(model: CellToSG, cells: Cells, ontology: Ontology) -> None:
    answer = model.annotate(cells)
    assert answer.probabilities.shape == (24, len(ontology.descendants("CL:0000000")))
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, atol=1e-4)
    filled = np.arange(24) != 3
    assert answer.table["label"].iloc[3] == "unknown"
    assert answer.table["confidence"].iloc[3] == 0
    assert all(t in ontology for t in answer.table["ontology_term_id"][filled])
    assert (answer.table["label"] == cells.obs["cell_type"])[filled].mean() > 0.8
    assert answer.table["confidence"].between(0, 1).all()


def test_candidates_and_lineages(model: CellToSG, cells: Cells, ontology: Ontology) -> None:
    some = model.annotate(cells, candidates=["B cell", "CL:0000576", "neutrophil"])
    assert sorted(some.categories["label"]) == ["B cell", "monocyte", "neutrophil"]
    np.testing.assert_allclose(some.probabilities.sum(axis=1), 1, atol=1e-5)
    under = model.annotate(cells, under="lymphocyte")
    assert set(under.categories["ontology_term_id"]) == ontology.descendants("CL:0000542", include_self=True)
    with pytest.raises(ValueError, match="no such cell"):
        model.annotate(cells, candidates=["no such cell"])
    with pytest.raises(ValueError, match="under"):
        model.annotate(cells, under="no such cell")
    with pytest.raises(TypeError, match="list"):
        model.annotate(cells, candidates="B cell")
    with pytest.raises(ValueError, match="novel_share"):
        model.annotate(cells, novel_share=1.0)
    with pytest.raises(ValueError, match="mode"):
        model.annotate(cells, mode="guess")
    closed = model.annotate(cells, novel_share=0.0)
    known = closed.categories["ontology_term_id"].isin(model.config.term_ids)
    assert closed.probabilities[:3][:, ~known].max() < 1e-6


def test_the_tool_reads_the_columns_of_the_prompt_whatever_the_groups(
    model: CellToSG, simulate: Callable[..., anndata.AnnData]
) -> None:
    adata = simulate(12, seed=6)
    adata.obs["tissue"], adata.obs["disease"] = "blood", "normal"
    assert model.obs_keys == ("tissue", "disease")
    cells = read_cells(adata, obs_keys=["tissue", "disease"]).read()
    share = model.estimate_novel_share(cells)
    own = model.annotate(cells, novel_share=share)
    plain = sclm.tl.annotate(adata, model, copy=True)
    grouped = sclm.tl.annotate(adata, model, groupby="tissue", copy=True)
    assert plain.uns["sclm_cell_type"]["params"]["novel_share"] == pytest.approx(share)
    told = sclm.tl.annotate(adata, model, novel_share=0.0, copy=True)
    assert told.uns["sclm_cell_type"]["params"]["novel_share"] == 0
    assert (told.obs["sclm_cell_type_confidence"] >= plain.obs["sclm_cell_type_confidence"] - 1e-6).all()
    np.testing.assert_allclose(plain.obs["sclm_cell_type_confidence"], own.table["confidence"], atol=1e-6)
    for made in (plain, grouped):
        columns = [own.categories["label"].tolist().index(c) for c in made.uns["sclm_cell_type"]["categories"]]
        found, wanted = made.obsm["sclm_cell_type_probabilities"], own.probabilities[:, columns]
        np.testing.assert_allclose(found, np.where(wanted < 0.001, 0, wanted), atol=1e-6)
    assert (
        np.abs(own.probabilities - model.annotate(read_cells(adata).read(), novel_share=share).probabilities).max()
        > 1e-6
    )


def test_a_graph_is_refused_for_the_cells_that_it_is_derived_from(model: CellToSG, cells: Cells) -> None:
    name = str(cells.obs.index[5])
    told = copy.copy(model)
    told.graph = dataclasses.replace(model.graph, derived_from={"markers": frozenset({name})})
    for use in (
        told.annotate, told.explain, told.ask, told.estimate_novel_share, lambda c: told.annotate_groups(c, np.zeros(c.n_cells)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"'markers' were worked out from 1 of these cells or donors \\({name}\\)"):
            use(cells)
    np.testing.assert_array_equal(
        told.annotate(read_one(cells, 6)).probabilities, model.annotate(read_one(cells, 6)).probabilities
    )


def test_a_graph_may_be_derived_from_donors_that_are_not_held_out(
    adata: anndata.AnnData, graph: KnowledgeGraph
) -> None:
    class PassedError(Exception):
        """The guard is behind us."""

    def train(donor: str) -> None:
        derived = dataclasses.replace(graph, derived_from={"markers": frozenset({donor})})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learning, "build_lm", stop)
            sclm.train("celltosg", some, label_key="cell_type", batch_key="donor", graph=derived, seed=0, **QUICK)

    def stop(*_: Any, **__: Any) -> None:
        raise PassedError

    some = adata.copy()
    some.obs["donor"] = np.where(np.arange(some.n_obs) % 5, "often", "seldom")  # a fifth: held out
    with pytest.raises(PassedError):
        train("often")
    with pytest.raises(ValueError, match=r"1 of these cells or donors \(seldom\)"):
        train("seldom")


def test_fields_that_training_did_not_have_are_left_out(model: CellToSG, cells: Cells) -> None:
    plain = make_encoder(
        dataclasses.replace(model.config, tissues=()), model.vocabulary, model.network.lm, model.graph, model._arrays["scale"]
    )  # fmt: skip
    block = model._filled(cells)[0]
    bare = type(cells)(block.counts, block.genes, block.obs[["cell_type"]])
    assert torch.equal(plain.ask(block).ids, plain.ask(bare).ids)
    assert not torch.equal(model.encoder.ask(block).ids, plain.ask(bare).ids)


def test_the_language_model_alone_answers_names(model: CellToSG, cells: Cells) -> None:
    answer = model.annotate(cells, mode="names")
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, atol=1e-4)
    alone = model.annotate(read_one(cells, 7), mode="names")
    np.testing.assert_allclose(alone.probabilities[0], answer.probabilities[7], atol=1e-5)


def read_one(cells: Cells, row: int) -> Cells:
    return type(cells)(cells.counts[[row]], cells.genes, cells.obs.iloc[[row]])


def test_every_prompt_is_answered(model: CellToSG, cells: Cells) -> None:
    for task in ("cell_type", "tissue", "disease", "description"):
        texts = model.ask(cells, task)
        assert len(texts) == 24
        assert texts[3] == ""
    assert model.ask(cells, "tissue")[0] == model.ask(read_one(cells, 0), "tissue")[0]
    with pytest.raises(ValueError, match="task"):
        model.ask(cells, "mood")


def test_one_answer_a_group(model: CellToSG, cells: Cells) -> None:
    groups = cells.obs["cell_type"].astype(str).to_numpy()
    answer = model.annotate_groups(cells, groups)
    assert answer.table.index.tolist() == sorted(set(groups))
    assert (answer.table["label"] == answer.table.index).mean() >= 0.75


def test_the_share_of_new_cells_is_estimated(model: CellToSG, simulate: Callable[..., anndata.AnnData]) -> None:
    many = read_cells(simulate(300, seed=8)).read()
    share = model.estimate_novel_share(many)
    assert share < 0.1, "no cell is of a new type"
    parts = [
        type(many)(many.counts[rows], many.genes, many.obs.iloc[rows]) for rows in (slice(0, 130), slice(130, 300))
    ]
    assert max(map(model.estimate_novel_share, parts)) < 0.15
    assert model.estimate_novel_share(many, candidates=list(model.config.labels)) == 0.0
    assert model.estimate_novel_share(many, under="neutrophil") == 0.0  # nothing but new terms: nothing to share
    answer = model.annotate(many, novel_share=share)
    assert answer.table["confidence"].mean() > model.annotate(many).table["confidence"].mean()


def test_explanations_are_tables_with_a_check(model: CellToSG, cells: Cells) -> None:
    few = type(cells)(cells.counts[:3], cells.genes, cells.obs.iloc[:3])
    table = model.explain(few, n_genes=4, n_nodes=2)
    assert list(table.columns) == ["cell", "answer", "kind", "name", "attention", "effect"]
    for _, part in table.groupby("cell"):
        assert part["kind"].value_counts().to_dict()["gene"] == 4
        genes = part[part["kind"] == "gene"]
        assert genes["effect"].is_monotonic_decreasing
        assert genes["attention"].between(0, 1).all()
        assert set(genes["name"]) <= set(few.genes)
        assert {"top genes", "random genes"} <= set(part["kind"])
    assert table["effect"].notna().all()


def test_the_card_tells_of_the_gate(model: CellToSG) -> None:
    assert model.card["anchor held out nats a token"] > 0
    assert model.card["anchor held out nats a token behind another cell's graph tokens"] > 0
    assert "reinforce mean reward, first and last half" in model.card
    assert model.card["stages"] == "anchor, align, reinforce"


@pytest.mark.slow
def test_stages_resume_where_they_stopped(
    adata: anndata.AnnData, graph: KnowledgeGraph, tmp_path: Path, model: CellToSG
) -> None:
    settings = {
        "label_key": "cell_type",
        "obs_keys": ["tissue", "disease"],
        "graph": graph,
        "seed": 0,
        "folder": tmp_path,
        **QUICK,
    }
    sclm.train("celltosg", adata, stages=["anchor"], **settings)
    assert {p.name for p in tmp_path.iterdir()} == {"language", "anchor"}
    whole = sclm.train("celltosg", adata, **settings)
    assert {p.name for p in tmp_path.iterdir()} == {"language", "anchor", "align", "reinforce"}
    for name, array in model.arrays().items():
        np.testing.assert_allclose(whole.arrays()[name], array, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="'polish'"):
        sclm.train("celltosg", adata, stages=["polish"], **settings)


@pytest.mark.slow
def test_without_graph_it_is_a_cell_sentence_model(adata: anndata.AnnData, graph: KnowledgeGraph, cells: Cells) -> None:
    plain = sclm.train(
        "celltosg", adata, label_key="cell_type", graph=graph, use_graph=False, stages=["anchor", "align"], **QUICK
    )
    assert not plain.network.has_graph
    assert not any(name.startswith("network.encoder") for name in plain.arrays())
    answer = plain.annotate(cells)
    assert (answer.table["label"] == cells.obs["cell_type"])[np.arange(24) != 3].mean() > 0.8
    with pytest.raises(ValueError, match="use_graph"):
        plain.explain(cells)


def test_what_learns_in_each_stage(model: CellToSG) -> None:
    network = model.network
    before = {n: p.requires_grad for n, p in network.named_parameters()}
    for stage, parts in {
        "language": {"lm"}, "anchor": {"encoder", "resampler"}, "reinforce": {"lm", "resampler"},
        "align": {"lm", "encoder", "resampler", "cell_head", "term_head", "temperature"},
    }.items():  # fmt: skip
        learns(network, stage)
        assert {n.partition(".")[0] for n, p in network.named_parameters() if p.requires_grad} == parts, stage
    for n, p in network.named_parameters():
        p.requires_grad_(before[n])


@pytest.mark.slow
def test_a_pretrained_base_is_not_in_the_checkpoint_and_another_one_is_refused(
    adata: anndata.AnnData, graph: KnowledgeGraph, cells: Cells, tmp_path: Path, write_lm: Callable[..., Any]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    texts = ["Organism: human. Tissue: blood. Genes by decreasing expression: CD3E . Cell type: T cell B cell"]
    write_lm(base, "Llama", texts, start=True, max_position_embeddings=512)
    quick = QUICK | {"anchor_epochs": 1, "align_epochs": 1, "reinforce_steps": 1, "sentence_length": 8}
    model = sclm.train(
        "celltosg", adata[:60].copy(), label_key="cell_type", graph=graph, base_lm=str(base), lora_rank=2, **quick
    )
    names = [n for n in model.arrays() if n.startswith("network.lm")]
    assert names
    assert all("lora_" in n for n in names)
    folder = model.save(tmp_path / "model")
    again = sclm.load(folder)
    np.testing.assert_allclose(again.annotate(cells).probabilities, model.annotate(cells).probabilities, atol=1e-6)
    write_lm(base, "Llama", texts, start=True, max_position_embeddings=512, seed=1)
    with pytest.raises(ValueError, match="base"):
        sclm.load(folder)


def test_prompts() -> None:
    assert write_prompt("A B", "tissue", organism="human", tissue="blood", disease="normal") == (
        "Organism: human. Disease: normal. Genes by decreasing expression: A B . Tissue:"
    )
    import pandas as pd

    obs = pd.DataFrame({"tissue": ["blood", None, "unknown"], "disease": pd.Categorical(["normal", "normal", None])})
    assert fields_of(obs) == [{"tissue": "blood", "disease": "normal"}, {"disease": "normal"}, {}]


@pytest.mark.slow
def test_reinforcement_raises_the_reward_of_an_untrained_policy(model: CellToSG, cells: Cells) -> None:
    """A policy over the training types alone, from random weights: the mean reward of its answers rises."""
    from sclm.models.celltosg.module import CellToSGModule, Names
    from sclm.models.celltosg.rewards import HierarchyReward
    from sclm.nn import Trie

    network = copy.deepcopy(model.network)
    torch_generator = torch.Generator().manual_seed(0)
    for parameter in network.lm.parameters():
        if parameter.ndim == 2:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=torch_generator)
    lm, ids = network.lm, list(model.config.term_ids)
    trie = Trie.build(lm.encode_after("Cell type:", [f" {n}" for n in model.config.labels]), eos=lm.eos)
    names = Names(model.ontology, ids, trie, model.graph.lookup("cell_type", ids))
    config = CellToSGConfig(**{**model.config.__dict__, "group_size": 8, "kl_weight": 0.0})
    reward = HierarchyReward(model.ontology)
    module = CellToSGModule(network, config, "reinforce", names, ids, reward=reward, seed=0)
    block = model._filled(cells)[0]
    codes = [model.config.labels.index(t) for t in block.obs["cell_type"]]
    batch = model.encoder.ask(block)
    batch = batch._replace(truth=torch.tensor(codes))
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    for step in range(25):
        module.seed = step  # other answers each time
        optimiser.zero_grad()
        module.reinforce(batch, step).backward()
        optimiser.step()
    rewards = [h["reward"] for h in module.history]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.05
    assert {"reward", "reward_sd", "zero_sd", "kl", "entropy", "resolvable", "exact", "depth"} <= set(module.history[0])
