"""The graph encoder against message passing written out edge by edge; its cache; features of text; what is around a cell."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from sclm.knowledge import GeneSets, KnowledgeGraph, Pairs
from sclm.models.celltosg.graph_encoder import GraphEncoder, GraphEncoderConfig
from sclm.models.celltosg.graph_tensors import graph_tensors, group
from sclm.models.celltosg.message_passing import bag_means
from sclm.models.celltosg.neighbourhood import Neighbourhood
from sclm.models.celltosg.text_features import encoded_texts, node_texts, text_features

CONFIG = GraphEncoderConfig(width=8, layers=2, bases=3, dropout=0.0)


@pytest.fixture(scope="module")
def graph(ontology) -> KnowledgeGraph:
    """24 genes with interactions, sets and markers of a few cell types, and all that is above these."""
    from sclm.knowledge import Terms

    rng = np.random.default_rng(0)
    types = ["CL:0000236", "CL:0000084", "CL:0000623", "CL:0000576"]
    genes = np.array([f"g{i:02d}" for i in range(24)], dtype=object)
    pairs = pd.DataFrame({"a": rng.choice(genes, 40), "b": rng.choice(genes, 40)})
    markers = pd.DataFrame({"a": genes[:16], "b": np.repeat(types, 4)})
    sets = {f"set {i}": rng.choice(genes, 6, replace=False).tolist() for i in range(5)}
    whole = KnowledgeGraph.build(
        Terms(ontology, "cell_type", under="CL:0000738"),
        Pairs(pairs, "gene-interacts-gene", name="pairs"),
        Pairs(markers, "gene-marks-cell_type", name="markers"),
        GeneSets(sets),
        species=None,
    )
    return whole.subgraph(genes, keep=())


@pytest.fixture
def encoder(graph) -> GraphEncoder:
    made = GraphEncoder(graph_tensors(graph), CONFIG, seed=0)
    torch.nn.init.normal_(made.own, generator=torch.Generator().manual_seed(0))
    return made


def slowly(encoder: GraphEncoder, graph: KnowledgeGraph) -> torch.Tensor:
    """h_v ← LN(h_v + GELU(Σ_r W_r mean_{u → v} h_u + W_0 h_v)) with a loop over every edge."""
    edges = graph.with_inverses().edges
    kinds = list(graph.types)
    states = []
    own_rows = encoder.own_rows.tolist()
    for v in range(len(graph)):
        h = encoder.read(encoder.features[v]) + encoder.kind.weight[kinds.index(graph.nodes["type"].iloc[v])]
        if v in own_rows:
            h = h + encoder.own[own_rows.index(v)]
        states.append(encoder.norm(h))
    for layer in encoder.layers:
        new = []
        for v in range(len(graph)):
            message = layer.own(states[v])
            for r, relation in enumerate(encoder.relations):
                neighbours = [int(u) for u, w in edges[relation].T if w == v]
                if neighbours:
                    weight = sum(layer.mixture[r, b] * layer.bases[b] for b in range(CONFIG.bases))
                    message = message + (sum(states[u] for u in neighbours) / len(neighbours)) @ weight
            new.append(layer.norm(states[v] + F.gelu(message)))
        states = new
    return torch.stack(states)


def test_forward_is_the_formula(encoder, graph):
    assert len(encoder.relations) == 2 * len(graph.edges)
    torch.testing.assert_close(encoder(), slowly(encoder, graph), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_formula(encoder, graph):
    target = torch.randn(len(graph), CONFIG.width, generator=torch.Generator().manual_seed(1))
    fast = torch.autograd.grad(((encoder() - target) ** 2).sum(), list(encoder.parameters()))
    slow = torch.autograd.grad(((slowly(encoder, graph) - target) ** 2).sum(), list(encoder.parameters()))
    for (name, _), a, b in zip(encoder.named_parameters(), fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        assert b.abs().max() > 0, f"{name} has no gradient"


def test_mean_over_bags_numerically():
    edges = np.array([[0, 1, 1, 4, 2], [3, 3, 0, 0, 0]], dtype=np.int32)
    bags = group(edges)
    states = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([states[[1, 2, 4]].mean(0), states[[0, 1]].mean(0)])
    other = group(np.array([[4, 4], [1, 2]], dtype=np.int32))
    torch.testing.assert_close(bag_means(states, [bags, other]), (expected, states[[4, 4]]))
    assert torch.autograd.gradcheck(lambda x: bag_means(x, [bags, other]), states)
    assert bag_means(states, []) == ()


def test_order_of_the_nodes_does_not_matter(graph):
    order = np.random.default_rng(0).permutation(len(graph))
    place = np.argsort(order).astype(np.int32)
    moved = dataclasses.replace(
        graph,
        nodes=graph.nodes.iloc[order].reset_index(drop=True),
        edges={r: place[pair][:, ::-1] for r, pair in graph.edges.items()},  # and the order of the edges
        origins={r: o[::-1] for r, o in graph.origins.items()},
    )
    a, b = graph_tensors(graph), graph_tensors(moved)
    assert np.array_equal(a.features.numpy()[order], b.features.numpy())
    # types are numbered as they come
    first, second = GraphEncoder(a, dataclasses.replace(CONFIG, learned=()), seed=0), None
    second = GraphEncoder(b, dataclasses.replace(CONFIG, learned=()), seed=0)
    with torch.no_grad():
        second.kind.weight[[second.types.index(kind) for kind in first.types]] = first.kind.weight
    torch.testing.assert_close(first()[torch.from_numpy(order)], second(), rtol=1e-5, atol=1e-5)


def test_computed_once_and_again_when_a_weight_changes(encoder):
    encoder.eval()
    calls = []
    encoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        first = encoder()
        assert encoder() is first
    with torch.no_grad():
        assert torch.equal(encoder(), first)
        assert len(calls) == 1
        encoder.read.weight.add_(1.0)
        second = encoder()
        assert not torch.equal(first, second)
        assert len(calls) == 2
        encoder.load_state_dict(encoder.state_dict())
        encoder()
        assert len(calls) == 3
    assert encoder().requires_grad  # with gradients nothing is kept
    assert len(calls) == 4
    twin = copy.deepcopy(encoder)
    assert twin._cache is None
    encoder.train()
    with torch.no_grad():
        encoder()
    assert len(calls) == 5
    assert encoder.double()._cache is None


def test_state_holds_features_and_no_edges(encoder, graph):
    names = set(encoder.state_dict())
    assert "features" in names
    assert not [name for name in names if name.startswith("bags") or name == "type_ids"]
    other = GraphEncoder(graph_tensors(graph, features=np.zeros((len(graph), 64), dtype=np.float32)), CONFIG, seed=5)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(), encoder())
    assert torch.equal(
        GraphEncoder(graph_tensors(graph), CONFIG, seed=3)(), GraphEncoder(graph_tensors(graph), CONFIG, seed=3)()
    )


def test_a_new_learned_vector_changes_nothing_yet(graph):
    tensors = graph_tensors(graph)
    with_own = GraphEncoder(tensors, CONFIG, seed=0)
    without = GraphEncoder(tensors, dataclasses.replace(CONFIG, learned=()), seed=0)
    assert torch.equal(with_own(), without())
    assert with_own.own.shape == (24, CONFIG.width)
    assert without.own is None
    with pytest.raises(ValueError, match="found drug"):
        GraphEncoder(tensors, dataclasses.replace(CONFIG, learned=("drug",)))


def test_held_out_types_learn_nothing_from_their_markers(graph):
    """Without their links the vectors of a type do not move when the markers' own vectors do, in a layer's reach."""
    config = dataclasses.replace(CONFIG, layers=1)
    cut = graph.without_markers_of(["CL:0000236"])
    b = int(cut.lookup("cell_type", ["CL:0000236"])[0])
    marker = int(cut.lookup("gene", ["g00"])[0])
    for has_markers, which in ((True, graph), (False, cut)):
        encoder = GraphEncoder(graph_tensors(which), config, seed=0)
        gradient = torch.autograd.grad(encoder()[b].square().sum() + encoder()[b].sum(), encoder.own)[0]
        row = encoder.own_rows.tolist().index(marker)
        assert bool(gradient[row].abs().max() > 0) == has_markers


# -- features of text --------------------------------------------------------------------------------------------------


def test_text_features_are_the_singular_vectors():
    """Beside scikit-learn's own vectoriser and numpy's exact decomposition."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    texts = sorted({f"{a} {b} cell" for a in ("naive", "memory", "activated") for b in ("B", "T", "mast", "nerve")})
    counts = HashingVectorizer(
        analyzer="char_wb", ngram_range=(3, 3), n_features=2**15, alternate_sign=False, norm=None
    ).transform(texts)
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    left, strength, _ = np.linalg.svd(weighted[:, weighted.any(axis=0)], full_matrices=False)
    expected = left[:, :6] * strength[:6]
    expected -= expected.mean(axis=0)
    found = text_features(texts, width=6).astype(np.float64)
    # the same up to the sign of a direction and one scale
    expected /= np.sqrt(np.square(expected).mean())
    assert np.allclose(found @ found.T, expected @ expected.T, atol=0.02 * np.abs(expected @ expected.T).max())


def test_text_features_do_not_depend_on_the_order(graph):
    texts = node_texts(graph)
    features = text_features(texts)
    assert features.shape == (len(graph), 64)
    assert features.dtype == np.float32
    assert np.array_equal(text_features(texts[::-1]), features[::-1])
    assert np.isclose(np.square(features).mean(), 1.0, atol=1e-4)
    assert text_features([]).shape[0] == 0
    assert np.isfinite(text_features(["one"], width=4)).all()
    b = graph.lookup("cell_type", ["B cell"])[0]
    assert node_texts(graph)[b].startswith("B cell. ")


def test_features_must_fit(graph):
    with pytest.raises(ValueError, match=r"nodes, found 3"):
        graph_tensors(graph, features=np.zeros((3, 2), dtype=np.float32))


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    """A tiny BERT with random weights and a vocabulary of letters, in the layout of the hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("text-encoder")
    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyzBT0123456789."]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_text_encoder_by_folder(text_encoder, graph):
    texts = ["lung", "liver cell", "", "a much longer text of a node"]
    found = encoded_texts(texts, str(text_encoder), batch_size=2)
    assert found.shape == (4, 16)
    # padding is left out of the mean: each by itself gives the same
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(text_encoder).eval(), AutoTokenizer.from_pretrained(text_encoder)
    means = np.zeros((4, 16))
    with torch.inference_mode():
        for i, text in enumerate(texts):
            if text:
                means[i] = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
    means -= means.mean(axis=0)
    means /= np.sqrt(np.square(means).mean())
    assert np.allclose(found, means, atol=1e-4)
    assert graph_tensors(graph, text_encoder=str(text_encoder)).features.shape == (len(graph), 16)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        encoded_texts(texts, "no/such/folder")


# -- what is around a cell ---------------------------------------------------------------------------------------------


def test_neighbourhood_is_the_formula(graph):
    rng = np.random.default_rng(0)
    nodes = np.stack([rng.choice(graph.rows("gene"), 8, replace=False) for _ in range(6)])
    weights = rng.random(nodes.shape).astype(np.float32)
    nodes[2, 5:] = -1
    nodes[5] = -1
    around = Neighbourhood(graph, types=("pathway", "cell_type", "drug"), per_type=3)
    assert around.size == 6
    found, scores = around(nodes, weights)
    assert found.shape == scores.shape == (6, 6)
    links = graph.adjacency().toarray()
    links |= links.T
    for cell in range(6):
        for block, kind in enumerate(("pathway", "cell_type")):
            expected = {}
            for v in graph.rows(kind):
                genes = set(np.flatnonzero(links[v])) & set(graph.rows("gene"))
                there = nodes[cell] >= 0
                total = sum(w for g, w in zip(nodes[cell], weights[cell], strict=True) if g in genes)
                norm = np.sqrt(np.square(weights[cell][there]).sum())
                if total > 0:
                    expected[v] = total / (norm * np.sqrt(len(genes) + 10))
            best = sorted(expected, key=lambda v: (-round(expected[v], 5), v))[:3]
            got = found[cell, 3 * block : 3 * block + 3]
            assert got[got >= 0].tolist() == [int(v) for v in best]
            assert np.allclose(scores[cell, 3 * block : 3 * block + len(best)], [expected[v] for v in best], atol=1e-6)
    assert (found[5] == -1).all()
    assert (scores[found < 0] == 0).all()


def test_neighbourhood_of_a_cell_depends_on_that_cell_only(graph):
    rng = np.random.default_rng(1)
    nodes = np.stack([rng.choice(graph.rows("gene"), 8, replace=False) for _ in range(5)])
    weights = rng.random(nodes.shape).astype(np.float32)
    around = Neighbourhood(graph)
    found, scores = around(nodes, weights)
    alone, alone_scores = around(nodes[3:4], weights[3:4])
    assert np.array_equal(alone[0], found[3])
    assert np.array_equal(alone_scores[0], scores[3])
    order = rng.permutation(8)
    assert np.array_equal(around(nodes[:, order], weights[:, order])[0], found)
