"""Tables of what the tools wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad


def test_map_spatial_is_one_row_a_spot_and_type(simulate: Callable[..., ad.AnnData], reference: ad.AnnData) -> None:
    section = sclm.datasets.simulate_section(simulate(200, seed=5), "cell_type", n_spots=12, cells_per_spot=5)
    x = section.X.tolil()
    x[3] = 0
    section.X = x.tocsr()
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.map_spatial first"):
        sclm.get.map_spatial(section)
    odd = reference.copy()
    odd.obs["label"] = odd.obs["cell_type"].astype(str).replace({"T cell": "T/NK"})
    sclm.tl.map_spatial(section, odd, label_key="label", method="nnls", key_added="mine")
    with pytest.raises(KeyError, match=r"'mine': pass key="):
        sclm.get.map_spatial(section)
    table = sclm.get.map_spatial(section, key="mine")
    assert list(table.columns) == ["spot", "cell_type", "fraction", "cell_fraction", "standard_error"]
    assert len(table) == 48
    names = list(section.uns["mine"]["categories"])
    assert list(table["cell_type"].cat.categories) == names
    assert "T/NK" in names
    for column, slot in (("fraction", "mine"), ("cell_fraction", "mine_cells"), ("standard_error", "mine_se")):
        assert table[column].dtype == np.float32
        wide = table.pivot_table(
            index="spot", columns="cell_type", values=column, observed=False, dropna=False, sort=False
        )
        wide = wide.reindex(index=section.obs_names, columns=names)
        np.testing.assert_array_equal(wide.to_numpy(), section.obsm[slot])
    assert table.loc[table["spot"] == section.obs_names[3], "fraction"].isna().all()
    assert isinstance(table.index, pd.RangeIndex)
