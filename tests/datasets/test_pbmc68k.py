"""The real cells inside scanpy's package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import anndata as ad

    from sclm.knowledge import Ontology


def test_shape_and_counts(pbmc: ad.AnnData) -> None:
    assert pbmc.shape == (700, 765)
    counts = pbmc.X.toarray()
    assert (counts == np.rint(counts)).all()
    assert counts.min() == 0
    assert pbmc.obs["cell_type"].value_counts().to_dict()["dendritic cell"] == 240
    assert pbmc.obs["cell_type"].value_counts().min() == 8
    # 765 of the cell's genes: never more than all its counts.
    assert (counts.sum(1) <= pbmc.obs["n_counts"]).all()
    assert np.median(counts.sum(1) / pbmc.obs["n_counts"]) < 0.5


def test_counts_give_back_the_stored_values(pbmc: ad.AnnData) -> None:
    """log1p(count / total · 10⁴) again is what scanpy's file holds."""
    import warnings

    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = sc.datasets.pbmc68k_reduced().raw
        values = stored.X.toarray()
    again = np.log1p(pbmc.X.toarray() / pbmc.obs["n_counts"].to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(again, values, atol=2e-3)
    assert list(stored.var_names) == list(pbmc.var_names)


def test_labels_are_terms(pbmc: ad.AnnData, ontology: Ontology) -> None:
    ids = pbmc.obs["cell_type_ontology_term_id"].astype(str)
    assert [ontology.name_of(i) for i in ids] == pbmc.obs["cell_type"].astype(str).tolist()
    # The resolver reads the authors' free labels the way a person did for the table in the module.
    pairs = pbmc.obs[["author_cell_type", "cell_type_ontology_term_id"]].astype(str).drop_duplicates()
    for author, term in pairs.itertuples(index=False):
        match = ontology.resolve(author)
        assert (match.term_id, match.kind != "fuzzy") == (term, True)


def test_metadata_follows_the_schema(pbmc: ad.AnnData) -> None:
    row = pbmc.obs.iloc[0]
    assert (row["tissue"], row["tissue_ontology_term_id"]) == ("blood", "UBERON:0000178")
    assert (row["disease"], row["disease_ontology_term_id"]) == ("normal", "PATO:0000461")
    assert (row["assay"], row["organism"]) == ("10x 3' v1", "Homo sapiens")
