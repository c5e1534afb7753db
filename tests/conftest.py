"""Cells with a known truth for the tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import anndata

TYPES = ("B cell", "T cell", "natural killer cell", "monocyte")


@pytest.fixture(scope="session", autouse=True)
def _headless() -> None:
    os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def simulate() -> Callable[..., anndata.AnnData]:
    """Poisson counts with a marker programme of 10 genes a type; genes carry approved human symbols."""
    from sclm.knowledge import GeneIdentifiers

    candidates = pd.read_csv(
        Path(__file__).parent.parent / "src" / "sclm" / "knowledge" / "data" / "genes_human.tsv.gz", sep="\t", nrows=400
    ).iloc[:, 1]
    symbols = [
        s
        for s, known in zip(candidates, GeneIdentifiers.load("human").to_symbol(list(candidates)), strict=True)
        if s == known
    ]

    def make(
        n_cells: int = 240,
        n_genes: int = 120,
        *,
        types: tuple[str, ...] = TYPES,
        strength: float = 8.0,
        depth: float = 1.0,
        seed: int = 0,
    ) -> anndata.AnnData:
        import anndata

        rng = np.random.default_rng(seed)
        programmes = np.random.default_rng(99).gamma(0.6, 0.5, size=n_genes)[None, :].repeat(len(types), axis=0)
        for i in range(len(types)):
            programmes[i, 10 * i : 10 * (i + 1)] = strength
        codes = np.arange(n_cells) % len(types)
        counts = rng.poisson(depth * programmes[codes] * rng.gamma(8, 1 / 8, size=(n_cells, 1)))
        obs = pd.DataFrame(
            {
                "cell_type": pd.Categorical(np.array(types, dtype=object)[codes]),
                "donor": pd.Categorical(np.array(["d1", "d2", "d3"], dtype=object)[np.arange(n_cells) // 5 % 3]),
            },
            index=np.array([f"cell{i}" for i in range(n_cells)], dtype=object),
        )
        var = pd.DataFrame(index=np.array(symbols[:n_genes], dtype=object))
        return anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)

    return make


@pytest.fixture(scope="session")
def reference(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Labelled cells to learn from. Tests must not change them."""
    return simulate(400, seed=1)


@pytest.fixture
def query(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Other cells of the same types; every test gets its own."""
    return simulate(120, seed=2)


@pytest.fixture(scope="session")
def pbmc() -> anndata.AnnData:
    """The real blood cells inside scanpy's package. Tests must not change them."""
    import sclm

    return sclm.datasets.pbmc68k()


@pytest.fixture(scope="session")
def ontology():
    """The bundled Cell Ontology."""
    from sclm.knowledge import Ontology

    return Ontology.load("cl")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with stored outputs of the original implementations; beside the real data, or the test is skipped."""
    data = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = data.parent / "golden"
    if not folder.is_dir():
        pytest.skip("no stored outputs of original implementations beside SCLM_REAL_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted checkpoints go to a folder of the test run, not to the user's cache."""
    os.environ.setdefault("SCLM_DATA_DIR", str(tmp_path_factory.mktemp("sclm-cache")))


def _write_tokenizer(folder: Path, texts: Sequence[str], *, start: bool) -> int:
    """A byte-level BPE tokenizer, with or without a token of the beginning; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner: Any = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<bos>"] if start else ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    names = {"eos_token": "<|endoftext|>", **({"bos_token": "<bos>"} if start else {})}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return inner.get_vocab_size()


@pytest.fixture(scope="session")
def write_lm() -> Callable[..., Any]:
    """Write a causal language model with random weights and its tokenizer into a folder; returns the model."""

    def write(
        folder: Path, kind: str, texts: Sequence[str], *, start: bool = False, seed: int = 0, **settings: Any
    ) -> Any:
        import transformers
        from transformers.utils import logging

        from sclm.nn import seeded

        size = _write_tokenizer(folder, texts, start=start)
        chosen = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        chosen |= {
            "bos_token_id": 1 if start else None,
            "eos_token_id": 0,
            "pad_token_id": None,
            "vocab_size": size + 5,
        }
        chosen |= {"tie_word_embeddings": kind.startswith("Gemma")}
        if kind != "GPTNeoX":
            chosen["num_key_value_heads"] = 2
        if kind.startswith("Gemma"):
            chosen["head_dim"] = 8
        config = getattr(transformers, f"{kind}Config")(**(chosen | settings))
        with seeded(seed):
            model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
            for parameter in model.parameters():  # larger than at the start of a training, so that answers differ
                if parameter.ndim == 2:
                    parameter.data *= 8
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        model.save_pretrained(folder)
        if shown:
            logging.enable_progress_bar()
        return model

    return write


@pytest.fixture(scope="session")
def tumour_section() -> Callable[..., anndata.AnnData]:
    """A tumour in stroma on a grid of spots, with genes that follow tissue and depth: see tissue.py beside this file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("sclm_test_tissue", Path(__file__).with_name("tissue.py"))
    if spec is None or spec.loader is None:
        raise ImportError("tissue.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tumour_section
