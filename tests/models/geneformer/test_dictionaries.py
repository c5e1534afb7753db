"""Dictionaries of Geneformer: read strictly, found beside the weights, bound to published weights."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import types
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from sclm.models.geneformer import published
from sclm.models.geneformer.dictionaries import Dictionaries, find_dictionaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(("version", "n"), [("V1", 32), ("V2", 34)])
def test_the_version_is_that_of_the_special_tokens(
    tmp_path: Path, write_dictionaries: Callable, version: str, n: int, genes: list[str]
) -> None:
    content = write_dictionaries(tmp_path, version)
    found = find_dictionaries(tmp_path, n)
    assert found.version == version
    assert list(found.vocabulary.tokens) == list(content["token_dictionary"])
    np.testing.assert_array_equal(found.medians[n - 30 :], list(content["gene_median_dictionary"].values()))
    assert np.isnan(found.medians[: n - 30]).all()
    # identities are dropped; an id that leads out of the vocabulary is kept only where the vocabulary would find it
    assert found.retired == {"ENSG09000000001": genes[3], genes[29]: ""}
    assert found.symbols == content["gene_name_id_dict"]


def test_they_survive_as_arrays(tmp_path: Path, write_dictionaries: Callable) -> None:
    write_dictionaries(tmp_path)
    found = find_dictionaries(tmp_path, 34)
    arrays = found.arrays() | {"other": np.zeros(1)}
    again = Dictionaries.from_arrays(found.vocabulary, arrays)
    assert list(arrays) == ["other"]
    np.testing.assert_array_equal(again.medians, found.medians)
    assert (again.retired, again.symbols) == (found.retired, found.symbols)


def shuffled(tokens: dict[str, int]) -> dict[str, int]:
    return {name: (i if i < 4 else 37 - i) for name, i in tokens.items()}


def test_a_tokens_place_is_its_id_whatever_the_order_of_the_file(
    tmp_path: Path, write_dictionaries: Callable, genes: list[str]
) -> None:
    content = write_dictionaries(tmp_path)
    write_dictionaries(tmp_path, token_dictionary=shuffled(content["token_dictionary"]))
    found = find_dictionaries(tmp_path, 34)
    assert list(found.vocabulary.tokens[4:]) == genes[::-1]
    assert found.medians[4] == content["gene_median_dictionary"][genes[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"ENSG00000001000": 5}, "each once, found 0 to 33 with 1 repeated"),
        (lambda t: t | {"ENSG00000001000": 40}, "from 0 to 33"),
        (lambda t: t | {"ENSG00000001000": 4.5}, r"whole numbers, found 'ENSG\d+': 4.5"),
        (lambda t: t | {"ENSG00000001000": True}, "whole numbers"),
        (lambda t: {("<sep>" if k == "<eos>" else k): i for k, i in t.items()}, "no known version.*<sep>"),
        (lambda t: {k.replace("ENSG", "GENE"): i for k, i in t.items()}, "Ensembl ids, found GENE"),
        (lambda t: [*t], "must hold a dictionary of names, found list"),
    ],
)
def test_a_broken_token_dictionary_is_refused(
    tmp_path: Path, write_dictionaries: Callable, change: Callable[[dict[str, int]], Any], message: str
) -> None:
    content = write_dictionaries(tmp_path)
    write_dictionaries(tmp_path, token_dictionary=change(content["token_dictionary"]))
    with pytest.raises(ValueError, match=message):
        find_dictionaries(tmp_path, 34)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), "1", True])
def test_medians_are_positive(tmp_path: Path, write_dictionaries: Callable, value: Any, genes: list[str]) -> None:
    content = write_dictionaries(tmp_path)
    write_dictionaries(tmp_path, gene_median_dictionary=content["gene_median_dictionary"] | {genes[7]: value})
    with pytest.raises(ValueError, match=f"positive medians, found .* for {genes[7]}"):
        find_dictionaries(tmp_path, 34)


def test_medians_of_another_version_are_refused(tmp_path: Path, write_dictionaries: Callable, genes: list[str]) -> None:
    content = write_dictionaries(tmp_path)
    few = {gene: m for gene, m in content["gene_median_dictionary"].items() if gene not in genes[:2]}
    write_dictionaries(tmp_path, gene_median_dictionary=few)
    with pytest.raises(ValueError, match=f"lacks the medians of 2 of the 30 genes .* {genes[0]}.*hf download"):
        find_dictionaries(tmp_path, 34)


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path, write_dictionaries: Callable) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"needs the dictionaries .*hf download ctheodoris/Geneformer .*token_dictionary_gc104M"
    ):
        find_dictionaries(tmp_path / "a", 20_275)
    write_dictionaries(tmp_path, gene_median_dictionary=None)
    with pytest.raises(FileNotFoundError, match="needs the medians"):
        find_dictionaries(tmp_path, 34)
    with pytest.raises(ValueError, match=r"vocab_size 25,426, found .* token_dictionary\.json with 34.*gc30M"):
        find_dictionaries(tmp_path, 25_426)
    write_dictionaries(tmp_path, ensembl_mapping_dict=None, gene_name_id_dict=None)
    for name in ("ensembl_mapping_dict", "gene_name_id_dict"):
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
    found = find_dictionaries(tmp_path, 34)
    assert (found.retired, found.symbols) == ({}, {})


@pytest.mark.parametrize(
    "where", ["model", "model/geneformer", "model/dictionaries", "geneformer", "dictionaries", "../geneformer"]
)
def test_they_are_found_where_a_clone_has_them(tmp_path: Path, write_dictionaries: Callable, where: str) -> None:
    root = tmp_path / "clone"
    (root / "model").mkdir(parents=True)
    write_dictionaries(root / where, ending="_gc104M")
    assert find_dictionaries(root / "model", 34).files[0].parent.resolve() == (root / where).resolve()


def test_both_versions_of_a_clone_stay_apart(tmp_path: Path, write_dictionaries: Callable, genes: list[str]) -> None:
    """V1 in a folder of its own, or both in one folder told apart by their endings."""
    for first, second, clone in (
        ("geneformer", "geneformer/gene_dictionaries_30m", "a"),
        ("geneformer", "geneformer", "b"),
    ):
        root = tmp_path / clone
        v2 = write_dictionaries(root / first, "V2", "_gc104M")
        other = dict.fromkeys(genes, 7.0)
        write_dictionaries(root / second, "V1", "_gc30M", gene_median_dictionary=other)
        (root / "model").mkdir()
        assert find_dictionaries(root / "model", 32).medians[2] == 7.0
        assert find_dictionaries(root / "model", 34).medians[4] == v2["gene_median_dictionary"][genes[0]]


def test_a_hostile_pickle_is_refused_by_name(tmp_path: Path, write_dictionaries: Callable) -> None:
    write_dictionaries(tmp_path)
    (tmp_path / "token_dictionary.pkl").write_bytes(
        b"cposix\nsystem\n(S'touch " + str(tmp_path / "x").encode() + b"'\ntR."
    )
    with pytest.raises(ValueError, match=r"posix\.system"):
        find_dictionaries(tmp_path, 34)
    assert not (tmp_path / "x").exists()


# Published files --------------------------------------------------------------------------------------------------


def test_published_weights_go_with_their_dictionaries_only(tmp_path: Path) -> None:
    weights = next(iter(published.WEIGHTS))
    name, version = published.WEIGHTS[weights]
    right = {role: sha256 for role, (_, sha256) in published.PUBLISHED[version].files.items()}
    published.check_weights(weights, right, tmp_path)
    published.check_weights(weights, {r: right[r] for r in ("tokens", "medians")}, tmp_path)
    published.check_weights("0" * 64, {"tokens": "other"}, tmp_path)
    with pytest.raises(
        ValueError, match=f"{name} beside other dictionaries .*medians ffff.*{published.PUBLISHED[version].folder}"
    ):
        published.check_weights(weights, right | {"medians": "f" * 64}, tmp_path)


def test_the_registry_names_the_same_files() -> None:
    from sclm.models.registry import PUBLISHED

    for weights, (name, version) in published.WEIGHTS.items():
        entry = next(e for e in PUBLISHED.values() if e.folder == name)
        known = published.PUBLISHED[version]
        expected = {f"{known.folder}/{file}": sha256 for file, sha256 in known.files.values()}
        expected |= {f"{name}/model.safetensors": weights, f"{name}/config.json": ""}
        assert entry.sha256 == expected
        assert (entry.repository, entry.revision) == (published.REPOSITORY, published.REVISION)


class PublishedPickle(pickle._Pickler):  # type: ignore[name-defined]
    """Writes numpy scalars under the name that numpy 1 gave their maker, as the published files do."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__name__", "") != "scalar":
            super().save_global(obj, name)
            return
        self.save("numpy.core.multiarray")
        self.save("scalar")
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch[types.BuiltinFunctionType] = save_global


@pytest.mark.real
def test_json_copies_are_recognised_as_the_published_pickles(tmp_path: Path, vocab: Path) -> None:
    """The pickles are written anew from the copies: equal to the last byte, so the copies hold what the originals hold."""
    found = find_dictionaries(vocab, 25_426)
    names = {"tokens": "token_dictionary", "medians": "gene_median_dictionary", "symbols": "gene_name_id_dict"}
    kinds = {"tokens": np.int16, "medians": np.float64, "symbols": str}
    for role, name in names.items():
        file, sha256 = published.PUBLISHED["V1"].files[role]
        assert found.sha256[role] == sha256
        content = json.loads((vocab / f"geneformer_{name}.json").read_text())
        stream = io.BytesIO()
        PublishedPickle(stream, 4).dump({k: v if k.startswith("<") else kinds[role](v) for k, v in content.items()})
        assert hashlib.sha256(stream.getvalue()).hexdigest() == sha256
        (tmp_path / file).write_bytes(stream.getvalue())
    published.check_weights(next(iter(published.WEIGHTS)), found.sha256, tmp_path)
    again = find_dictionaries(tmp_path, 25_426)  # through the allow-list
    assert again.sha256 == found.sha256
    assert again.vocabulary == found.vocabulary
    np.testing.assert_array_equal(again.medians, found.medians)
