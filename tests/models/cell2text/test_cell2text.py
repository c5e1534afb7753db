"""The family on small simulated cells: pieces, states, adapters, training, decoding, checking, checkpoints, pretrained bases."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sclm
from sclm.cells import Cells, read_cells
from sclm.evidence import CLAIM_COLUMNS, Statement, claim_table
from sclm.models.cell2text.adapters import MLPAdapter, PerceiverAdapter
from sclm.models.cell2text.checking import as_stated, checked_texts, statements_of
from sclm.models.cell2text.config import Cell2TextConfig
from sclm.models.cell2text.fitting import class_table
from sclm.models.cell2text.module import Cell2TextModule, class_loss, text_loss
from sclm.models.cell2text.network import Cell2TextNetwork
from sclm.models.cell2text.slots import pieces_of
from sclm.models.cell2text.tokens import CellValues, TypeRegression, Writer
from sclm.models.contract import Describer
from sclm.models.handed_encoder import gene_states, pack_encoder, unpack_encoder
from sclm.nn import PrefixLM, WordVocabulary
from sclm.texts import AGES, CellFacts, describe_template

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import anndata

    from sclm.models.cell2text.model import Cell2Text
    from sclm.models.geneformer.model import Geneformer

ENCODER: dict[str, Any] = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 2, "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip
QUICK: dict[str, Any] = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu"}
SETS = ["Interferon Signaling", "Complement cascade", "HALLMARK_HYPOXIA"]


@pytest.fixture(scope="module")
def adata(reference: anndata.AnnData) -> anndata.AnnData:
    """Cells whose sex and tissue can be read off a gene, and whose disease cannot."""
    cells = reference[:240].copy()
    n = np.arange(240)
    cells.obs["tissue"] = np.where(n % 3 == 0, "lymph node", "blood")
    cells.obs["sex"] = np.where(n % 5 == 0, "unknown", "female")
    cells.obs["disease"] = np.where(n % 2, "normal", "COVID-19")
    cells.obs["development_stage"] = "34-year-old stage"
    return cells


@pytest.fixture(scope="module")
def activity(adata: anndata.AnnData) -> pd.DataFrame:
    code = adata.obs["cell_type"].cat.codes.to_numpy()
    scores = np.full((adata.n_obs, 3), 0.1)
    scores[:, 0] += code < 2
    scores[:, 1] += 0.5
    scores[:, 2] += code >= 2
    return pd.DataFrame(scores, columns=SETS, index=adata.obs_names)


@pytest.fixture(scope="module")
def encoder(adata: anndata.AnnData) -> Geneformer:
    return sclm.train("geneformer", adata, seed=0, **ENCODER)


@pytest.fixture(scope="module")
def model(adata: anndata.AnnData, encoder: Geneformer, activity: pd.DataFrame) -> Cell2Text:
    return sclm.train(
        "cell2text", adata, label_key="cell_type", obs_keys=["tissue", "disease", "sex", "development_stage"], encoder=encoder,
        pathways=activity, pathway_texts={"Complement cascade": "Genes that encode components of the complement system."},
        batch_key="donor", class_weight=0.5, seed=0, **QUICK,
    )  # fmt: skip


@pytest.fixture
def cells(simulate: Callable[..., anndata.AnnData]) -> Cells:
    adata = simulate(24, seed=5)
    counts = adata.X.tolil()
    counts[3] = 0
    adata.X = counts.tocsr()
    return read_cells(adata).read()


def some(cells: Cells, rows: Sequence[int]) -> Cells:
    return Cells(cells.counts[list(rows)], cells.genes, cells.obs.iloc[list(rows)])


class Agrees:
    """A checker that keeps identities, softens tissues, cannot verify diseases, and removes pathways."""

    verdicts: ClassVar[dict[str, str]] = {
        "identity": "kept",
        "tissue": "softened",
        "disease": "not verifiable",
        "pathway": "removed",
    }

    def check(self, cells: Cells, statements: Sequence[Statement]) -> pd.DataFrame:
        return claim_table(
            [(s.row, s.kind, s.value, s.id, self.verdicts[s.kind], 0.5, "none", 0.0, np.nan, "") for s in statements]
        )


# Texts ----------------------------------------------------------------------------------------------------------------


def test_pieces_are_the_template() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        pick = lambda values: str(rng.choice([*values, ""]))
        facts = CellFacts(
            pick(["T cell", "alpha cell"]), pick(["cell of a kind. It is one"]), pick(["blood"]), pick(["male"]),
            pick(["normal", "COVID-19"]), pick(AGES[:3]), tuple(SETS[: rng.integers(0, 3)]),
        )  # fmt: skip
        assert "".join(p.text for p in pieces_of(facts)) == describe_template(facts)


def test_descriptions_as_tokens_read_as_the_template() -> None:
    facts = CellFacts("T cell", "lymphocyte", "blood", "male", "normal", "adulthood", ("Complement cascade",))
    text = describe_template(facts)
    writer = Writer(PrefixLM.from_scratch(texts=[text, "Description:"], width=16))
    ids, weights = writer.description(pieces_of(facts), 5.0)
    assert writer.lm.decode(ids) == text
    assert ids[-1] == writer.lm.eos
    heavy = writer.lm.decode([i for i, w in zip(ids, weights, strict=True) if w == 5.0])
    assert heavy == "a T cell, the blood of a normal male during adulthood. Complement cascade."


# Encoder and adapters -------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_highest_genes(encoder: Geneformer, cells: Cells) -> None:
    found = gene_states(encoder, cells, 5)
    assert found.states.shape == (24, 5, encoder.width)
    assert not found.real[3].any()
    assert not found.states[3].any()
    tokens = encoder.tokenise(cells)
    row = 7
    ids = torch.from_numpy(tokens.ids.pad(value=encoder.pad_id).astype(np.int64))[[row]]
    ids = ids[:, : tokens.ids.lengths[row]]
    layer, _ = encoder.chosen(None, None)
    with encoder.inference():
        states = encoder.states(ids, None, torch.ones_like(ids, dtype=torch.bool), layer)[0]
    np.testing.assert_allclose(found.states[row], states[1:6].numpy(), atol=1e-5)  # behind <cls>
    np.testing.assert_allclose(found.vectors[row], encoder.embed(some(cells, [row]))[0], atol=1e-5)


def test_states_of_scgpt_follow_the_values(adata: anndata.AnnData) -> None:
    scgpt = sclm.train(
        "scgpt", adata, seed=0, preset="tiny", max_epochs=1, width=16, n_layers=1, n_heads=2, progress_bar=False
    )
    block = read_cells(adata[:6].copy()).read()
    found = gene_states(scgpt, block, 4)
    assert found.real.all()
    order = np.random.default_rng(0).permutation(adata.n_vars)
    turned = gene_states(scgpt, read_cells(adata[:6, order].copy()).read(), 4)
    np.testing.assert_allclose(turned.states, found.states, atol=1e-5)


def test_an_encoder_is_kept_inside_a_checkpoint_or_named(
    encoder: Geneformer, cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = unpack_encoder(pack_encoder(encoder))
    np.testing.assert_array_equal(again.embed(cells), encoder.embed(cells))
    monkeypatch.setattr("sclm.models.handed_encoder._KEPT_BYTES", 10)
    unsaved = type(encoder)(encoder.config, encoder.vocabulary, encoder.network, dictionaries=encoder.dictionaries)
    with pytest.raises(ValueError, match="not on disk"):
        pack_encoder(unsaved)
    unsaved.save(tmp_path / "encoder")
    packed = pack_encoder(unsaved)
    assert list(packed) == ["encoder_facts"]
    np.testing.assert_array_equal(unpack_encoder(packed).embed(cells), encoder.embed(cells))
    other = sclm.train("geneformer", read_cells_of(cells), seed=4, **ENCODER)
    other.save(tmp_path / "encoder", overwrite=True)
    with pytest.raises(ValueError, match="not the encoder"):
        unpack_encoder(packed)


def read_cells_of(cells: Cells) -> anndata.AnnData:
    import anndata

    return anndata.AnnData(cells.counts.copy(), obs=cells.obs.copy(), var=pd.DataFrame(index=cells.genes))


@pytest.mark.parametrize("kind", ["mlp", "perceiver"])
def test_adapters_do_not_see_what_is_padded(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "mlp":
        adapter: torch.nn.Module = MLPAdapter(6, 16, 8, dropout=0.1, rms=0.5)
    else:
        adapter = PerceiverAdapter(6, 8, latents=3, layers=2, heads=2, dropout=0.1, rms=0.5)
    adapter.eval()
    states, real = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    first = adapter(states, real)
    assert first.shape == (2, 5 if kind == "mlp" else 3, 8)
    assert torch.isfinite(first).all()
    states[0, 3:] += 9
    states[1] -= 9
    torch.testing.assert_close(adapter(states, real), first)
    assert float(first[0, 0].detach().square().mean().sqrt()) == pytest.approx(0.5, abs=0.05)


def test_values_of_the_cell_are_its_components(adata: anndata.AnnData) -> None:
    counts = read_cells(adata).read().counts
    values = CellValues.fit(counts, 6, seed=0)
    whole = values.of(counts, np.ones(120, dtype=bool))
    dense = counts.toarray().astype(np.float64)
    dense = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    dense -= dense.mean(axis=0)
    left, size, _ = np.linalg.svd(dense, full_matrices=False)
    expected = left[:, :6] * size[:6]
    spread = expected.std(axis=0, ddof=1)
    expected *= 3 / np.sqrt(spread * spread[0])
    np.testing.assert_allclose(np.abs(whole), np.abs(expected), atol=5e-3)
    present = np.arange(120) < 110  # as if ten genes had not been measured
    part = (counts @ sparse.diags_array(present.astype(np.float32))).tocsr()
    part.eliminate_zeros()
    lacking = values.of(part, present)
    assert np.corrcoef(lacking[:, 0], whole[:, 0])[0, 1] > 0.98
    np.testing.assert_allclose(lacking.mean(axis=0), 0, atol=0.15)  # the depth is corrected


def test_the_regression_of_types_doubts_where_it_has_not_seen_a_cell() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(90) % 3
    values = rng.normal(size=(90, 12)).astype(np.float32)  # noise: nothing can be learnt
    seen = TypeRegression.fit(values, codes, 4).log_probs(values)
    others = TypeRegression.of_others(values, codes, 4, seed=0)
    assert (seen.argmax(axis=1) == codes).mean() > 0.5
    assert (others.argmax(axis=1) == codes).mean() < 0.5
    assert (seen[:, 3] <= -7).all()  # a type without a cell
    np.testing.assert_allclose(np.exp(seen).sum(axis=1), 1, atol=1e-2)
    two = TypeRegression.fit(values, codes % 2, 2)
    from sklearn.linear_model import LogisticRegression

    oracle = LogisticRegression(C=0.3, max_iter=200, tol=1e-3).fit(values.astype(np.float64), codes % 2)
    np.testing.assert_allclose(
        np.exp(two.log_probs(values)), oracle.predict_proba(values.astype(np.float64)), atol=1e-3
    )


# Losses and learning --------------------------------------------------------------------------------------------------


def test_losses_are_their_formulas() -> None:
    logits = torch.randn(2, 3, 5)
    targets = torch.tensor([[1, 2, -100], [-100, 0, 4]])
    weights = torch.tensor([[1.0, 5.0, 0.0], [0.0, 1.0, 2.0]])
    total = 0.0
    for b in range(2):
        for t in range(3):
            if targets[b, t] >= 0:
                total -= float(weights[b, t] * logits[b, t].log_softmax(-1)[targets[b, t]])
    assert float(text_loss(logits, targets, weights)) == pytest.approx(total / 9, rel=1e-5)
    classes = torch.tensor([[0, -1], [2, -1]])
    scores = [torch.randn(2, 3), torch.randn(2, 4)]
    expected = -float(scores[0].log_softmax(-1)[[0, 1], [0, 2]].mean())
    assert float(class_loss(scores, classes)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapter", ["mlp", "perceiver"])
def test_every_weight_learns_and_the_loss_falls(adapter: str, model: Cell2Text, cells: Cells) -> None:
    config = dataclasses.replace(model.config, adapter=adapter, adapter_dropout=0.0, cell_dropout=0.0)
    words = WordVocabulary(model.network.lm.tokenizer.tokens)
    lm = PrefixLM.from_scratch(vocabulary=words, width=32, layers=1, heads=2)
    network = Cell2TextNetwork(config, lm, encoder_width=16, cell_width=10, n_types=4, n_classes=[4, 2, 2], seed=0)
    writer = Writer(lm)
    states = gene_states(model.encoder, cells, config.top_k)
    states.real[:, -2:] = False
    values = np.random.default_rng(0).normal(size=(24, 14)).astype(np.float32)
    facts = [
        CellFacts("T cell", "", "blood", "female", "normal"),
        CellFacts("B cell", "", "lymph node", "", "COVID-19"),
    ] * 12
    tails = [writer.description(pieces_of(f), 5.0) for f in facts]
    batch = writer.pack(states, values, tails, class_table(facts, config)[0])
    module = Cell2TextModule(network.train(), config, writer.before)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_two_learning_rates(model: Cell2Text) -> None:
    class Plan:
        max_epochs = 1
        estimated_stepping_batches = 10

    config = dataclasses.replace(model.config, adapter_learning_rate=1e-3, lm_learning_rate=1e-4)
    module = Cell2TextModule(model.network, config, ())
    module._trainer = Plan()
    optimiser = module.configure_optimizers()["optimizer"]
    rate_of = {id(p): g["initial_lr"] for g in optimiser.param_groups for p in g["params"]}
    for name, parameter in model.network.named_parameters():
        assert rate_of[id(parameter)] == (1e-4 if name.startswith("lm.") else 1e-3), name


# Writing --------------------------------------------------------------------------------------------------------------


def test_written_texts_follow_the_template_with_probabilities(model: Cell2Text, cells: Cells) -> None:
    table = model.write(cells)
    assert table.index.equals(cells.obs.index)
    filled = np.arange(24) != 3
    assert table["text"].iloc[3] == ""
    assert table["text"][filled].str.startswith("This sample consists of a").all()
    assert not table["text"].str.contains("Description|<|specialized", regex=True).any()  # no prompt is echoed
    assert set(table["cell_type"][filled]) <= set(model.config.labels)
    assert table["pathways"][filled].map(len).eq(2).all()
    assert table["pathways"][filled].map(lambda p: p[0] != p[1]).all()
    assert (table["age"][filled] == "adulthood").all()
    assert table["age_probability"].isna().all()  # one age was seen: there was nothing to choose
    for field in ("cell_type", "tissue", "sex", "disease", "pathways"):
        assert table[f"{field}_probability"][filled].between(0, 1 + 1e-6).all(), field
    truth = np.array(["B cell", "T cell", "natural killer cell", "monocyte"])[np.arange(24) % 4]
    assert (table["cell_type"] == truth)[filled].mean() > 0.8


def test_a_prefix_that_is_reused_changes_nothing(model: Cell2Text, cells: Cells) -> None:
    pd.testing.assert_frame_equal(model.write(cells), model.write(cells, reuse=False), atol=1e-4)


def test_texts_are_the_same_again_and_alone(model: Cell2Text, cells: Cells) -> None:
    whole = model.write(cells)
    assert (model.write(cells)["text"] == whole["text"]).all()
    alone = pd.concat([model.write(some(cells, [row])) for row in (0, 5, 17)])
    pd.testing.assert_frame_equal(alone, whole.iloc[[0, 5, 17]], atol=1e-4)


def test_the_slot_of_the_type_is_the_annotation(model: Cell2Text, cells: Cells) -> None:
    answer, table = model.annotate(cells), model.write(cells)
    filled = np.arange(24) != 3
    assert (answer.table["label"][filled] == table["cell_type"][filled]).all()
    np.testing.assert_allclose(answer.table["confidence"][filled], table["cell_type_probability"][filled], atol=1e-5)
    assert answer.table["label"].iloc[3] == "unknown"
    assert answer.table["novelty"].between(0, 1).all()


def test_free_texts_are_parsed(model: Cell2Text, cells: Cells) -> None:
    free = model.set(decoding="free", max_tokens=150).write(some(cells, range(8)))
    filled = np.arange(8) != 3
    assert free["text"][filled].str.startswith("This sample consists of a").all()
    assert set(free["cell_type"][filled]) <= {*model.config.labels, "unknown"}
    assert free["cell_type_probability"].isna().all()


def test_scores_of_pathways(model: Cell2Text, cells: Cells) -> None:
    scores = model.pathway_scores(cells)
    assert list(scores.columns) == sorted(SETS)
    filled = np.arange(24) != 3
    np.testing.assert_allclose(scores[filled].sum(axis=1), 2, atol=1e-4)
    assert scores.iloc[3].isna().all()


# Checking -------------------------------------------------------------------------------------------------------------


def test_descriptions_say_what_the_checker_lets_them(model: Cell2Text, cells: Cells) -> None:
    assert isinstance(model, Describer)
    found = model.describe(cells, checker=Agrees())
    assert list(found.table.columns) == ["text", "faithfulness"]
    assert list(found.claims.columns) == list(CLAIM_COLUMNS)
    written = model.write(cells)
    first = found.table["text"].iloc[0]
    tissue, disease, sex = (written[f].iloc[0] for f in ("tissue", "disease", "sex"))
    assert first.startswith(f"This sample consists of a {written['cell_type'].iloc[0]}")
    assert f"It is consistent with an origin from the {tissue} of an individual." in first
    said = f"sex ({sex}), " if sex else ""
    assert first.endswith(f"Not verifiable from these cells: {said}disease ({disease}), age (adulthood).")
    assert "associated with" not in first
    assert found.table["text"].iloc[3] == ""
    assert np.isnan(found.table["faithfulness"].iloc[3])
    assert found.table["faithfulness"].iloc[0] == pytest.approx(1 / 4)  # identity kept; tissue and two pathways not
    ids = found.claims[found.claims["kind"] == "identity"]["id"]
    assert ids.str.startswith("CL:").all()


def test_words_for_each_verdict() -> None:
    facts = CellFacts("T cell", "lymphocyte", "blood", "", "COVID-19", "", ("A", "B"))

    def text(**verdicts: str) -> str:
        rows = [
            (
                s.row,
                s.kind,
                s.value,
                s.id,
                verdicts.get(s.value.replace(" ", "_").replace("-", ""), "kept"),
                0.5,
                "",
                0,
                0,
                "",
            )
            for s in statements_of([facts], {})
        ]
        return checked_texts([facts], claim_table(rows), {})[0]

    assert text() == describe_template(facts)
    assert text(T_cell="softened").startswith("This sample is consistent with a T cell, lymphocyte.")
    assert text(T_cell="removed").startswith("This sample consists of a cell of unknown type. It originates")
    assert text(COVID19="removed", A="removed") == (
        "This sample consists of a T cell, lymphocyte. It originates from the blood of an individual. This cell is associated with B."
    )
    assert text(COVID19="not verifiable", B="softened") == (
        "This sample consists of a T cell, lymphocyte. It originates from the blood of an individual. This cell is associated with A. "
        "It is consistent with activity of B. Not verifiable from these cells: disease (COVID-19)."
    )
    assert "cell type (T cell)" in text(T_cell="not verifiable")
    unknown = CellFacts("unknown", tissue="unknown")
    assert statements_of([unknown], {}) == []
    assert "unknown)" not in checked_texts([unknown], claim_table(), {})[0]


def test_metadata_in_the_words_of_descriptions() -> None:
    obs = pd.DataFrame({"tissue": ["upper lobe of lung, left", "blood"], "disease": ["disease: COVID-19", None]})
    found = as_stated(obs, [CellFacts(tissue="upper lobe of lung", disease="COVID-19"), CellFacts(tissue="lung")])
    assert found["tissue"].tolist() == ["upper lobe of lung", "blood"]
    assert found["disease"].tolist() == ["COVID-19", None]
    assert obs["tissue"].iloc[0] == "upper lobe of lung, left"


# Checkpoints and pretrained bases -------------------------------------------------------------------------------------


def test_a_loaded_model_writes_the_same(model: Cell2Text, cells: Cells, tmp_path: Path) -> None:
    again = sclm.load(model.save(tmp_path / "model"))
    assert again.config == model.config
    pd.testing.assert_frame_equal(again.write(cells), model.write(cells))
    assert again.provenance()["sha256"] == model.provenance()["sha256"]


def test_genes_that_the_data_lack_cost_little(model: Cell2Text, cells: Cells) -> None:
    keep = np.flatnonzero(np.arange(len(cells.genes)) % 10 != 9)
    few = Cells(cells.counts[:, keep].tocsr(), cells.genes[keep], cells.obs)
    assert (model.write(few)["cell_type"] == model.write(cells)["cell_type"]).mean() > 0.85
    with pytest.raises(ValueError, match="genes"):
        model.match(pd.Index([f"x{i}" for i in range(50)]))


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_pretrained_language_models(
    tune: str, adata: anndata.AnnData, encoder: Geneformer, cells: Cells, write_lm: Any, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    write_lm(base, "Llama", ["This sample consists of a T cell.", "a B cell, a monocyte"], start=True)
    before = {p.name: p.read_bytes() for p in base.iterdir()}
    model = sclm.train(
        "cell2text", adata[:80].copy(), label_key="cell_type", obs_keys=["tissue"], encoder=encoder, base_lm=str(base), tune=tune,
        lora_rank=2, epochs=1, definitions=False, seed=0, **QUICK,
    )  # fmt: skip
    names = list(model.arrays())
    borrowed = [n for n in names if n.startswith("network.lm.") and "lora_" not in n]
    assert bool(borrowed) == (tune == "full")
    assert any("lora_" in n for n in names) == (tune == "lora")
    table = model.write(some(cells, range(6)))
    assert table["text"].iloc[0].startswith("This sample consists of a")
    folder = model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(sclm.load(folder).write(some(cells, range(6))), table)
    assert {p.name: p.read_bytes() for p in base.iterdir()} == before
    for path in base.iterdir():
        path.unlink()
    write_lm(base, "Llama", ["This sample consists of a T cell.", "a B cell, a monocyte"], start=True, seed=5)
    with pytest.raises(ValueError, match="not the language model"):
        sclm.load(folder)


def test_the_papers_chat_stands_around_the_genes(write_lm: Any, tmp_path: Path) -> None:
    import json

    write_lm(tmp_path, "Llama", ["You are a scientific assistant"], start=True)
    plain = Writer(PrefixLM.pretrained(tmp_path, lora_rank=1))
    assert plain.lm.decode(plain.before).endswith("Gene expression embeddings: ")
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["chat_template"] = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[{{ date_string }}]"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    path.write_text(json.dumps(settings))
    chat = Writer(PrefixLM.pretrained(tmp_path, lora_rank=1))
    assert chat.lm.decode(chat.before).startswith("[system]You are a scientific assistant")
    assert chat.lm.decode(chat.before).endswith("[user]Gene expression embeddings: ")
    assert chat.lm.decode(chat.prompt) == "[26 Jul 2024][assistant]"
    assert chat.before[0] != chat.lm.tokenizer.start[0]  # the start stands once


# Refusals -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said(adata: anndata.AnnData, encoder: Geneformer, activity: pd.DataFrame) -> None:
    with pytest.raises(TypeError, match="label_key"):
        sclm.train("cell2text", adata, encoder=encoder)
    with pytest.raises(TypeError, match="through an encoder, found Logistic"):
        sclm.train(
            "cell2text", adata, label_key="cell_type", encoder=sclm.train("logistic", adata, label_key="cell_type")
        )
    with pytest.raises(ValueError, match="found 10"):
        sclm.train("cell2text", adata, label_key="cell_type", encoder=encoder, pathways=activity[:10], **QUICK)
    with pytest.raises(ValueError, match="adapter must be one of"):
        Cell2TextConfig(adapter="linear")
    with pytest.raises(TypeError, match="adapter_width"):
        sclm.train("cell2text", adata, label_key="cell_type", encoder=encoder, adapter_with=3, **QUICK)


def test_a_small_encoder_is_trained_where_none_is_handed_over(adata: anndata.AnnData) -> None:
    model = sclm.train(
        "cell2text", adata[:60].copy(), label_key="cell_type", encoder="scgpt", epochs=1, seed=0,
        encoder_options={"max_epochs": 1, "width": 16, "n_layers": 1, "n_heads": 2, "progress_bar": False, "accelerator": "cpu"}, **QUICK,
    )  # fmt: skip
    assert model.config.encoder == "scgpt"
    assert model.config.tissues == model.config.donors == ()
    table = model.write(read_cells(adata[60:64].copy()).read())
    assert not table["text"].str.contains("originates").any()  # nothing is said of what training has not seen
