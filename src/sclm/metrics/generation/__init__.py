"""How good generated cells are: real against generated, with yardsticks; names are loaded on first use.

:func:`compare` makes the table. The other functions take plain arrays (raw counts as CSR, or cells as points) for those who
develop generators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.metrics.generation.agreement import gene_correlation, moments
    from sclm.metrics.generation.classifiers import classifier_auc, transfer_accuracy
    from sclm.metrics.generation.differential import (
        differential_recovery,
        fold_change_agreement,
        log_fold_changes,
        perturbation_correlation,
    )
    from sclm.metrics.generation.distances import (
        energy_distance,
        frechet_distance,
        gene_wasserstein,
        mmd,
        sliced_wasserstein,
        wasserstein,
    )
    from sclm.metrics.generation.floors import (
        independent_poisson,
        mean_of_five,
        multinomial_around_neighbours,
        multinomial_around_one,
        resampled,
    )
    from sclm.metrics.generation.mixing import inverse_simpson, label_homogeneity, neighbour_mixing, real_neighbours
    from sclm.metrics.generation.neighbours import Memorisation, memorisation, prdc
    from sclm.metrics.generation.subtyping import Subtypes, subtypes
    from sclm.metrics.generation.table import compare

# A file never has the name of a function: once imported, the file would stand in the function's place.
_HOME = {
    "compare": "table",
    "subtypes": "subtyping",
    "Subtypes": "subtyping",
    "moments": "agreement",
    "gene_correlation": "agreement",
    "mmd": "distances",
    "energy_distance": "distances",
    "wasserstein": "distances",
    "sliced_wasserstein": "distances",
    "gene_wasserstein": "distances",
    "frechet_distance": "distances",
    "classifier_auc": "classifiers",
    "transfer_accuracy": "classifiers",
    "neighbour_mixing": "mixing",
    "real_neighbours": "mixing",
    "inverse_simpson": "mixing",
    "label_homogeneity": "mixing",
    "prdc": "neighbours",
    "memorisation": "neighbours",
    "Memorisation": "neighbours",
    "log_fold_changes": "differential",
    "fold_change_agreement": "differential",
    "differential_recovery": "differential",
    "perturbation_correlation": "differential",
    "independent_poisson": "floors",
    "mean_of_five": "floors",
    "resampled": "floors",
    "multinomial_around_one": "floors",
    "multinomial_around_neighbours": "floors",
}

__all__ = [
    "Memorisation",
    "Subtypes",
    "classifier_auc",
    "compare",
    "differential_recovery",
    "energy_distance",
    "fold_change_agreement",
    "frechet_distance",
    "gene_correlation",
    "gene_wasserstein",
    "independent_poisson",
    "inverse_simpson",
    "label_homogeneity",
    "log_fold_changes",
    "mean_of_five",
    "memorisation",
    "mmd",
    "moments",
    "multinomial_around_neighbours",
    "multinomial_around_one",
    "neighbour_mixing",
    "perturbation_correlation",
    "prdc",
    "real_neighbours",
    "resampled",
    "sliced_wasserstein",
    "subtypes",
    "transfer_accuracy",
    "wasserstein",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
