"""OnClass-like propagation: what a classifier says of the training types spreads to the terms around them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sclm.evidence import fit_temperature, softmax
from sclm.evidence.backoff import UNKNOWN
from sclm.models.openvocab.annotator import OpenAnnotator, OpenConfig, normalised
from sclm.models.openvocab.linear import fit_softmax, linear_scores
from sclm.models.openvocab.walk import walk_with_restart

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.models.openvocab.choice import Choice
    from sclm.models.reference_cells import Reference

_RESTARTS = (0.5, 0.6, 0.7, 0.8)
_NEVER = np.array([-5.0, 0.0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnClassConfig(OpenConfig):
    """Settings of :class:`OnClass`."""

    penalty: float = 0.01  # of the logistic regression, as in the family "logistic"
    max_iter: int = 150
    novel_share: float = 0.1  # of the cells to annotate that are expected to be of types without training cells


class OnClass(OpenAnnotator):
    r"""OnClass-like: logistic regression on the training types, spread to the other terms by random walks with restart.

    After Wang et al. (2021), in its simplest form:

    .. math:: p(c \mid x) = (1 - \nu)\, p_{seen}(c \mid x) \;\text{or}\; \nu \propto \sum_s p_{seen}(s \mid x)\, q_s(c)

    with :math:`q_s` the share of time of walks from s at the terms without training cells (restart probabilities 0.5 to 0.8,
    averaged; edges weighted by likeness of texts). Both parts sum to 1 by themselves, as the original scales seen and unseen terms
    apart. The original decides over a whole data set how many cells are of unseen types; here each cell has its own chance
    :math:`\nu`, from how undecided the classifier is, learnt by leaving each training type out of the answers in turn.
    """

    family: ClassVar[str] = "onclass"
    Config: ClassVar[type] = OnClassConfig

    @classmethod
    def _check(cls, config: OnClassConfig) -> None:
        if not config.penalty > 0:
            raise ValueError(f"penalty must be above 0, found {config.penalty}. The default is 0.01.")
        if not 0 <= config.novel_share < 1:
            raise ValueError(f"novel_share must lie in [0, 1), found {config.novel_share}. The default is 0.1.")

    @classmethod
    def _learn(
        cls,
        config: OnClassConfig,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        fixed: dict[str, np.ndarray],
        knowledge: Any,
        *,
        seed: int,
    ) -> dict[str, np.ndarray]:
        itself = np.eye(len(config.labels), dtype=bool)
        learnt = fit_softmax(reference, codes, use, itself, penalty=config.penalty, max_iter=config.max_iter, seed=seed)
        return learnt | {"chance": _NEVER}

    def _calibrated(self, lognormal: sparse.csr_matrix, codes: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        scores = linear_scores(self._arrays, lognormal, None)
        temperature = fit_temperature(scores, codes)
        config = dataclasses.replace(self.config, temperature=temperature)
        if scores.shape[1] < 3:
            return config, {}
        known = _undecided(softmax(scores, temperature))
        without = scores.copy()
        without[np.arange(len(codes)), codes] = -np.inf
        return config, {"chance": _fit_chance(known, _undecided(softmax(without, temperature)))}

    @cached_property
    def _spread(self) -> np.ndarray:
        """(S, all terms) float64 shares of the walks; rows of zeros for labels that are no term."""
        ids = [None if t == UNKNOWN else self.ontology.current_id(t) for t in self.config.term_ids]
        named = [i for i, term in enumerate(ids) if term is not None]
        spread = np.zeros((len(ids), len(self.ontology)))
        if named:
            spread[named] = walk_with_restart(self.ontology, [str(ids[i]) for i in named], _RESTARTS)
        return spread

    def _probabilities(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        seen = softmax(linear_scores(self._arrays, lognormal, fill), self.config.temperature)  # (n, S)
        own = seen @ choice.rolled
        columns = np.flatnonzero(choice.fresh)
        share = self.config.novel_share
        if not len(columns) or share == 0:
            return own
        terms = [self.ontology.index(choice.answers.term_ids[c]) for c in columns]
        open_ = seen @ self._spread[:, terms]
        weight, base = self._arrays["chance"][1], self._arrays["chance"][0]
        z = base + weight * _undecided(seen) + np.log(share / (1.0 - share))
        chance = 1.0 / (1.0 + np.exp(-np.clip(z, -30, 30)))
        # What training types have that may not be answered is open as well.
        result = (1.0 - chance)[:, None] * own
        result[:, columns] += np.maximum(1.0 - result.sum(axis=1), 0.0)[:, None] * normalised(open_)
        return result


def _undecided(probabilities: np.ndarray) -> np.ndarray:
    """(n,) 1 minus the highest probability."""
    return 1.0 - probabilities.max(axis=1)


def _fit_chance(known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Intercept and slope, (2,), of a logistic regression of new against known types, both equally heavy."""
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([known, new])[:, None]
    y = np.repeat([0, 1], [len(known), len(new)])
    found = LogisticRegression(C=10.0).fit(x, y)
    return np.array([found.intercept_[0], max(found.coef_[0, 0], 0.0)])
