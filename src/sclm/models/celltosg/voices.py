"""What language model, contrast, prototypes and discriminant say of cells, as probabilities of answers.

n cells · S training types · G genes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.cells import Cells
from sclm.models.celltosg.discriminant import Discriminant
from sclm.models.celltosg.evidence import lognormal_of
from sclm.models.celltosg.judging import Weights
from sclm.models.celltosg.mixture import SeenWeights, expected_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sclm.models.celltosg.answers import Answers
    from sclm.models.celltosg.judging import Judge

_BLOCK = 256  # cells that all terms are compared with at a time


class Voices:
    """The voices of a trained model, and the judge that weighs them.

    Parameters
    ----------
    answers, judge
        What the network says; what the graph and the profiles say.
    arrays
        Of the model: ``share``, ``mean``, ``discriminant.*``, ``null``, ``seen``, ``novelty``.
    """

    def __init__(self, answers: Answers, judge: Judge, arrays: Mapping[str, np.ndarray]) -> None:
        self.answers, self.judge, self._arrays = answers, judge, arrays
        self._discriminant = Discriminant(arrays["discriminant.weights"], arrays["discriminant.intercepts"])
        self._weights = Weights(SeenWeights(*arrays["seen"].tolist()), arrays["novelty"])

    def probabilities(
        self,
        block: Cells,
        absent: np.ndarray | None,
        columns: np.ndarray,
        loose: Sequence[int],
        share: float,
        hidden: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """(n, m + u) probabilities of a block of filled cells.

        Parameters
        ----------
        block, absent
            Counts of the model's genes; (G,) bool genes that the data lack, None for none.
        columns, loose, share
            As :meth:`~sclm.models.celltosg.judging.Judge.probabilities` takes them.
        hidden
            Nodes around each cell's genes that the virtual tokens must not look at, n arrays; None: they look at all.
        """
        language, contrast = self.answers.types(block, hidden)
        fit, own = self.judge.look(block.counts, absent)
        lognormal = lognormal_of(block.counts, self._arrays["share"], absent)
        fill = None if absent is None else np.where(absent, self._arrays["mean"], 0.0)
        parts = (language - self._arrays["null"][None, :], contrast, own, self._discriminant.scores(lognormal, fill))
        return self.judge.probabilities(fit, parts, self._weights, columns, loose, share)

    def expected_share(
        self, block: Cells, absent: np.ndarray | None, columns: np.ndarray, loose: Sequence[int]
    ) -> float:
        """Share of new types among filled cells: see :func:`~sclm.models.celltosg.mixture.expected_share`.

        0 where there is nothing to share between: no new term, or no training type, may be answered.
        """
        known = np.isin(columns, self.judge.places)
        if known.all() or not (known.any() or len(loose)):
            return 0.0
        features = [
            self.judge.novelty_features(*self.judge.look(part.counts, absent), columns) for _, part in parts_of(block)
        ]
        return expected_share(np.concatenate(features or [np.zeros((0, 4))]), self._weights.novelty)


def parts_of(cells: Cells) -> Iterator[tuple[slice, Cells]]:
    """Slices of the rows, and their cells: so many as are compared with all terms at a time."""
    for start in range(0, cells.n_cells, _BLOCK):
        part = slice(start, start + _BLOCK)
        yield part, Cells(cells.counts[part], cells.genes, cells.obs.iloc[part])
