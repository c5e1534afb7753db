"""What a trained model writes: slots, probabilities, given types, checked texts, vectors, checkpoints, pretrained bases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import Cells, align
from sclm.evidence import CLAIM_COLUMNS, Statement, claim_table, softmax
from sclm.models.cell2text.checking import as_stated, checked_texts, statements_of
from sclm.models.cell2text.tokens import Writer
from sclm.models.contract import Describer
from sclm.nn import PrefixLM
from sclm.texts import CellFacts, describe_template

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.models.cell2text.model import Cell2Text
    from sclm.models.geneformer.model import Geneformer

QUICK: dict[str, Any] = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu"}
SETS = ["Interferon Signaling", "Complement cascade", "HALLMARK_HYPOXIA"]


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


def test_language_model_and_regression_are_pooled_in_the_slot_of_the_type(model: Cell2Text, cells: Cells) -> None:
    filled = np.arange(24) != 3
    weight, temperature = model.config.regression_weight, model.config.temperature
    assert weight > 0
    alone = model.set(regression_weight=0.0, temperature=1.0).annotate(cells).probabilities[filled]
    match, inputs = model._inputs(cells.genes)
    counts = align(cells, model.vocabulary, min_share=0.0, match=match)[0][filled]
    other = inputs.values(counts, None)[:, -len(model.config.labels) :]
    expected = softmax(np.log(alone) + weight * other, temperature)
    np.testing.assert_allclose(model.annotate(cells).probabilities[filled], expected, atol=1e-3)


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


def test_a_given_type_stands_and_what_follows_is_written_behind_it(model: Cell2Text, cells: Cells) -> None:
    free = model.describe(cells, checker=Agrees())
    labels = [""] * 24
    labels[0], labels[4] = "monocyte", "CL:0000084"  # truth: B cell, B cell
    labels[5], labels[6], labels[7] = "unassigned", "nan", np.nan
    given = model.describe(
        cells._replace(obs=pd.DataFrame({"cell_type": labels}, index=cells.obs.index)), checker=Agrees()
    )
    said = given.claims[given.claims["kind"] == "identity"].set_index("row")
    assert said.loc[[0, 4], "claim"].tolist() == ["monocyte", "T cell"]
    assert said.loc[[0, 4], "id"].tolist() == ["CL:0000576", "CL:0000084"]
    assert given.table["text"].iloc[0].startswith("This sample consists of a monocyte, ")
    assert given.table["text"].iloc[4].startswith("This sample consists of a T cell, ")
    others = np.setdiff1d(np.arange(24), [0, 4])
    assert (given.table["text"].iloc[others] == free.table["text"].iloc[others]).all()
    obs = pd.DataFrame({"cell_type": ["hepatocyte"] * 24}, index=cells.obs.index)
    with pytest.raises(ValueError, match=r"1 labels are none of the 4 types .*'hepatocyte'.*Leave label_key out"):
        model.describe(cells._replace(obs=obs), checker=Agrees())
    with pytest.raises(ValueError, match="found 'free'"):
        model.set(decoding="free").describe(cells._replace(obs=obs.replace("hepatocyte", "T cell")), checker=Agrees())


def test_vectors_are_states_from_which_the_type_is_read(model: Cell2Text, cells: Cells) -> None:
    vectors = model.embed(cells)
    assert vectors.dtype == np.float32
    assert vectors.shape == (24, model.network.lm.width)
    assert np.isnan(vectors[3]).all()
    filled = np.arange(24) != 3
    np.testing.assert_allclose(model.embed(some(cells, [5, 17])), vectors[[5, 17]], atol=1e-4)
    types = model.write(cells)["cell_type"].to_numpy()[filled]
    unit = vectors[filled] - vectors[filled].mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit @ unit.T
    same = types[:, None] == types[None, :]
    assert alike[same].mean() > alike[~same].mean() + 0.5
    with pytest.raises(TypeError, match="no use for pooling='mean'"):
        model.embed(cells, pooling="mean")


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
    assert found["disease"].iloc[0] == "COVID-19"
    assert pd.isna(found["disease"].iloc[1])
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
