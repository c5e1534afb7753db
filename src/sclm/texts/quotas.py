"""Which cells a corpus of texts is made of, and which donors it is judged on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.texts.wording import age_phrase, disease_phrase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPLITS = ("train", "validation", "test")
# Shares of the quotas (Kharouiche et al. 2025), and how much of a quota one value may take.
_PLAIN, _TYPES, _DISEASES, _DONORS = 0.30, 0.25, 0.20, 0.15  # the last tenth is rare tissues
_TISSUE_CAPS = {"brain": 0.20, "blood": 0.15}
_CAPS = {"cell_type": 0.03, "donor": 0.02, "disease": 0.03}
_DISEASE_CAPS = {"normal": 0.70, "covid-19": 0.05}
_RARE = 0.10  # tissues below this quantile of the numbers of cells
_OVERFULL = 1.1  # of a split's wanted size


def choose_cells(
    obs: pd.DataFrame, n_cells: int, *, donor_key: str = "donor_id", label_key: str = "cell_type", seed: int = 0
) -> np.ndarray:
    """Draw the cells of a corpus so that rare types, diseases, donors and tissues are in it.

    As Cell2Text draws them (Kharouiche et al., 2025): 30 % as they come, with at most 20 % of brain and 15 % of blood among them; 25 %
    balanced over cell types, at most 3 % of this quota a type; 20 % over diseases, at most 70 % normal, 5 % COVID-19 and 3 % of any other;
    15 % over donors, at most 2 % a donor; 10 % from rare tissues, those below the tenth percentile of the numbers of cells. Where so few
    values exist that a cap cannot be kept (k values at 3 % with k < 33), it is 1 / k. What the quotas leave is drawn from all.

    Parameters
    ----------
    obs
        One row a cell, with the columns of the CELLxGENE schema that there are; a quota whose column is missing is drawn from all.
    n_cells
        Cells wanted.
    donor_key, label_key
        Columns with the donor and the cell type.
    seed
        Of the draws.

    Returns
    -------
    (n,) int64 rows, increasing, none twice; all rows where there are no more than `n_cells`.

    Raises
    ------
    ValueError
        If `n_cells` is not positive.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame({"cell_type": ["a"] * 90 + ["b"] * 10})
    >>> int((choose_cells(obs, 40) >= 90).sum()) > 4
    True
    """
    if n_cells < 1:
        raise ValueError(f"n_cells must be at least 1, found {n_cells}.")
    n = len(obs)
    if n_cells >= n:
        return np.arange(n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    left = np.ones(n, dtype=bool)
    tissue = "tissue_general" if "tissue_general" in obs else "tissue"

    def take(share: float, values: pd.Series | None, cap: Callable[[str, int], float]) -> None:
        if values is not None:
            chosen = _balanced(np.array([str(v) for v in values]), round(share * n_cells), cap, left, rng)
            left[chosen] = False

    if tissue in obs:
        _as_they_come(obs[tissue].astype(str).str.lower().to_numpy(), round(_PLAIN * n_cells), left, rng)
    take(_TYPES, obs.get(label_key), lambda v, k: max(_CAPS["cell_type"], 1 / k))
    diseases = None if "disease" not in obs else obs["disease"].map(disease_phrase).str.lower()
    take(_DISEASES, diseases, lambda v, k: max(_DISEASE_CAPS.get(v, _CAPS["disease"]), 0 if k > 1 else 1))
    take(_DONORS, obs.get(donor_key), lambda v, k: max(_CAPS["donor"], 1 / k))
    if tissue in obs:
        values = obs[tissue].astype(str)
        sizes = values.value_counts()
        rare = sizes.index[sizes <= sizes.quantile(_RARE)] if len(sizes) > 1 else sizes.index[:0]
        take(1 - _PLAIN - _TYPES - _DISEASES - _DONORS, values.where(values.isin(rare)), _only_named)
    missing = n_cells - int((~left).sum())
    if missing > 0:
        left[rng.choice(np.flatnonzero(left), missing, replace=False)] = False
    return np.flatnonzero(~left).astype(np.int64)


def _only_named(value: str, n_values: int) -> float:
    return 0.0 if value in ("nan", "None", "<NA>") else 1.0


def _as_they_come(tissue: np.ndarray, wanted: int, left: np.ndarray, rng: np.random.Generator) -> None:
    """Draw by the distribution of the data, with less brain and blood where these are more than their cap."""
    weight = np.ones(len(tissue))
    for name, cap in _TISSUE_CAPS.items():
        mine = tissue == name
        share = mine.mean()
        if share > cap and share < 1:
            weight[mine] = cap * (1 - share) / (share * (1 - cap))
    chosen = rng.choice(len(tissue), min(wanted, len(tissue)), replace=False, p=weight / weight.sum())
    left[chosen] = False


def _balanced(
    values: np.ndarray, wanted: int, cap: Callable[[str, int], float], left: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows that fill a quota: every value gets the same, but no more than it has and its cap allows."""
    free = rng.permutation(np.flatnonzero(left))
    names, codes = np.unique(values[free], return_inverse=True)
    if not len(names):
        return free[:0]
    have = np.bincount(codes)
    room = np.minimum(have, [int(np.ceil(cap(name, len(names)) * wanted)) for name in names])
    given = np.zeros(len(names), dtype=np.int64)
    while given.sum() < wanted and (given < room).any():
        open_ = np.flatnonzero(given < room)
        share = max(1, (wanted - int(given.sum())) // len(open_))
        for i in open_:
            given[i] += min(share, room[i] - given[i], max(0, wanted - int(given.sum())))
    place = np.zeros(len(free), dtype=np.int64)  # of a row among those of its value
    for code in range(len(names)):
        mine = codes == code
        place[mine] = np.arange(mine.sum())
    return free[place < given[codes]]


def split_donors(
    obs: pd.DataFrame,
    *,
    donor_key: str = "donor_id",
    fields: Sequence[str] = ("disease", "cell_type", "tissue_general", "tissue", "development_stage"),
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> np.ndarray:
    """Deal whole donors to training, validation and test, so that no value is judged that was not learnt.

    First the smallest donor of every value of every field is kept for training; then, in random order, donors go to validation and test
    as long as these stay below 1.1 times their share; the rest is for training (Kharouiche et al., 2025).

    Parameters
    ----------
    obs
        One row a cell.
    donor_key
        Column with the donor.
    fields
        Columns whose values must all be in training; those that are missing are passed over. Ages count by their phrase.
    shares
        Of the cells: training, validation, test; they sum to 1.
    seed
        Of the order of donors.

    Returns
    -------
    (n,) of ``"train"``, ``"validation"`` and ``"test"``, object.

    Raises
    ------
    KeyError
        If there is no column of donors.
    ValueError
        If a donor is missing, the shares do not sum to 1, or there are fewer than two donors.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame({"donor_id": list("abcdefghij") * 5, "cell_type": ["T cell"] * 50})
    >>> sorted(set(split_donors(obs)))
    ['test', 'train', 'validation']
    """
    if donor_key not in obs:
        raise KeyError(f"obs has no column {donor_key!r} of donors. It has {', '.join(map(repr, obs.columns[:10]))}.")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three numbers from 0 that sum to 1, found {shares}.")
    if obs[donor_key].isna().any():
        raise ValueError(f"{int(obs[donor_key].isna().sum())} cells have no donor in {donor_key!r}. Leave them out.")
    donors = obs[donor_key].astype(str)
    sizes = donors.value_counts()
    if len(sizes) < 2:
        raise ValueError(f"donors are split, and there must be at least two, found {len(sizes)}.")
    kept: set[str] = set()
    for field in dict.fromkeys(fields):
        if field not in obs:
            continue
        values = obs[field].map(age_phrase) if field == "development_stage" else obs[field].astype(str)
        pairs = pd.DataFrame({"value": values.to_numpy(), "donor": donors.to_numpy()}).drop_duplicates()
        pairs["size"] = sizes.reindex(pairs["donor"]).to_numpy()
        for _, group in pairs.sort_values(["size", "donor"]).groupby("value", observed=True):
            if not kept & set(group["donor"]):  # a donor that is kept already teaches the value
                kept.add(str(group["donor"].iloc[0]))
    rng = np.random.default_rng(seed)
    home = dict.fromkeys(sizes.index, "train")
    filled = dict.fromkeys(SPLITS[1:], 0)
    wanted = dict(zip(SPLITS[1:], (share * len(obs) for share in shares[1:]), strict=True))
    for donor in rng.permutation(sorted(set(sizes.index) - kept)):
        # the split that lacks most
        split = max(SPLITS[1:], key=lambda s: wanted[s] - filled[s])
        if wanted[split] > 0 and filled[split] + sizes[donor] <= _OVERFULL * wanted[split]:
            home[donor] = split
            filled[split] += int(sizes[donor])
    return donors.map(home).to_numpy(dtype=object)
