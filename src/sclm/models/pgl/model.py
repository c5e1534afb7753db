"""The PGL family: fit, write cells, score cells, save and load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells, GeneVocabulary, align
from sclm.evidence import PlausibilityGuard
from sclm.models.neural import NeuralFamily
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.conditions import Conditions
from sclm.models.pgl.fitting import build_network, by_donor, fit_pgl
from sclm.models.pgl.gene_sampling import require_decoder
from sclm.models.pgl.levels import Levels
from sclm.models.pgl.network import PGLConfig, PGLNetwork
from sclm.models.pgl.programmes import Programmes
from sclm.models.pgl.scoring import marginal_log_likelihood, surprise
from sclm.models.pgl.statistics import Profile
from sclm.models.pgl.writing import write_cells
from sclm.nn import load_own_state
from sclm.training import running_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import scipy.sparse as sp

    from sclm.cells import CellSource
    from sclm.models.contract import Written
    from sclm.models.pgl.conditions import Resolved

_DEEPEST = 1e7  # requested counts of a cell; float32 holds whole numbers up to 1.6e7


class PGL(NeuralFamily):
    """Cells written from metadata alone: a causal transformer over metadata, depth, programmes and genes.

    Re-implementation from the public description of Portraying Gene Language (Choi et al. 2026), whose code, weights,
    backbone and sizes are not public; what it leaves open is our choice.

    Parameters
    ----------
    config, vocabulary, network, card
        As in :class:`~sclm.models.neural.NeuralFamily`.
    conditions
        Metadata of the training cells.
    levels
        Depth and programmes as tokens.
    profile
        Mean profiles of conditions.
    programmes
        What the posterior of a cell's programmes needs.
    loadings
        (G, K) float32 of all genes.
    dispersion
        (G,) float32.
    guard, groups
        Plausibility guard, and the metadata codes (n_groups, F) of its groups.
    usual
        (2, 3) float32: log likelihoods that are usual at a depth.
    """

    network: PGLNetwork
    family: ClassVar[str] = "pgl"
    reads_streams: ClassVar[bool] = True  # sclm.train may hand it several AnnData
    Config: ClassVar[type] = PGLConfig

    def __init__(
        self,
        config: PGLConfig,
        vocabulary: GeneVocabulary,
        network: PGLNetwork,
        card: dict[str, Any] | None = None,
        *,
        conditions: Conditions,
        levels: Levels,
        profile: Profile,
        programmes: Programmes,
        loadings: np.ndarray,
        dispersion: np.ndarray,
        guard: PlausibilityGuard,
        groups: np.ndarray,
        usual: np.ndarray,
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self.conditions, self.levels, self.profile, self.programmes = conditions, levels, profile, programmes
        self.loadings, self.dispersion, self.guard, self.groups, self.usual = loadings, dispersion, guard, groups, usual

    # ------------------------------------------------------------------ training

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        obs_keys: Sequence[str] | None = None,
        label_key: str | None = None,
        batch_key: str | None = None,
        preset: str = "small",
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from labelled cells.

        Parameters
        ----------
        source
            Raw counts and metadata.
        obs_keys
            Columns that requests may name: fields of the CELLxGENE schema and any others.
        label_key
            One more such column.
        batch_key
            Donor or batch: whole donors are held out for early stopping.
        preset
            ``"tiny"``, ``"small"`` or ``"base"``.
        genes
            Restrict the vocabulary to the genes shared with these.
        seed
            Of everything random.
        **options
            Fields of :class:`~sclm.models.pgl.network.PGLConfig`, and what :func:`sclm.training.fit` is told of the run: ``folder``,
            ``max_minutes``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision``, ``progress_bar``.

        Raises
        ------
        ValueError
            If there are too few cells, no metadata, or no counts.
        TypeError
            If there is no such option.
        """
        obs_keys = [obs_keys] if isinstance(obs_keys, str) else obs_keys
        keys = list(dict.fromkeys([*(obs_keys or ()), *([label_key] if label_key else [])]))
        if not keys:
            raise ValueError(
                "pgl learns to write cells from metadata: pass obs_keys= naming the columns of .obs that requests may use, "
                'for example obs_keys=["tissue", "disease", "cell_type"].'
            )
        training = running_options(options)
        config = PGLConfig.preset(preset, **options)
        if source.n_cells < 20:
            raise ValueError(f"pgl needs at least 20 training cells, found {source.n_cells}.")
        conditions = Conditions.fit(source.obs, keys)
        vocabulary = GeneVocabulary(tuple(map(str, source.genes)))
        if genes is not None:
            found = vocabulary.match(genes).ids
            vocabulary = GeneVocabulary(tuple(vocabulary.tokens[i] for i in np.unique(found[found >= 0])))
        if len(vocabulary) < 3:
            raise ValueError(f"pgl needs at least 3 genes, found {len(vocabulary)}.")
        batch = None if batch_key is None else pd.factorize(source.obs[batch_key].astype(str))[0]
        fitted = fit_pgl(
            source, vocabulary, conditions, config, batch=batch, seed=seed, **training,
        )  # fmt: skip
        parts = fitted._asdict()
        history, network = parts.pop("history"), parts.pop("network")
        card = {
            "data": f"{source.n_cells:,} cells, {len(vocabulary):,} genes, fields {', '.join(keys)}",
            "split": f"{history['n_held_out']:,} cells held out" + (" by whole donors" if by_donor(batch) else ""),
            "held out nats a cell": f"{history['nats_network']:.3f}",
            "held out nats a cell of the Gaussian guess": f"{history['nats_guess']:.3f}",
            "epochs": history["epochs"],
            "seed": seed,
            "limits": "writes cells like its training cells; compare with real ones by sclm.metrics.generation before use",
        }
        return cls(config, vocabulary, network, card, conditions=conditions, **parts)

    # ------------------------------------------------------------------ checkpoint

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, statistics, and the metadata as JSON in bytes."""
        parts = {f"network.{name}": array for name, array in super().arrays().items()}
        for group, values in (("levels", self.levels), ("profile", self.profile), ("programmes", self.programmes)):
            parts |= {f"{group}.{name}": np.asarray(array) for name, array in values._asdict().items()}
        parts |= {f"guard.{name}": array for name, array in self.guard.arrays().items()}
        parts["conditions"] = np.frombuffer(self.conditions.to_json().encode(), np.uint8)
        return parts | {
            "loadings": self.loadings,
            "dispersion": self.dispersion,
            "groups": self.groups,
            "usual": self.usual,
        }

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""

        def part(group: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(f"{group}."): v for k, v in arrays.items() if k.startswith(f"{group}.")}

        conditions = Conditions.from_json(arrays["conditions"].tobytes().decode())
        levels = Levels(**part("levels"))
        network = build_network(config, conditions, levels, 0, len(vocabulary))
        load_own_state(network, {name: torch.tensor(array) for name, array in part("network").items()})
        guard = PlausibilityGuard.from_arrays(list(vocabulary.tokens), part("guard"))
        return cls(
            config, vocabulary, network, card, conditions=conditions, levels=levels, profile=Profile(**part("profile")),
            programmes=Programmes(**part("programmes")), loadings=arrays["loadings"], dispersion=arrays["dispersion"],
            guard=guard, groups=arrays["groups"], usual=arrays["usual"],
        )  # fmt: skip

    # ------------------------------------------------------------------ writing

    def write(
        self,
        request: pd.DataFrame,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        guidance: float = 0.0,
        max_novelty: float = 0.5,
        resolved: Resolved | None = None,
        start: int = 0,
        decoder: str = "set",
    ) -> Iterator[Written]:
        """Cells of a request, block by block.

        Parameters
        ----------
        request
            One row a cell; see :func:`sclm.request`.
        seed
            From 0 to 2⁶⁴ - 1.
        batch_size
            Cells in a block, rounded up to a multiple of 256; changes nothing but memory.
        guidance
            Classifier-free guidance of the programmes, 0 to 3: larger values write more typical cells.
        max_novelty
            Most novelty of a term that training did not see.
        resolved
            What ``conditions.resolve(request)`` gave, if it was asked before.
        start
            First cell to write: the others keep their random numbers.
        decoder
            ``"set"``: all genes at once. ``"tokens"``: one gene after the other, slowly; for models with ``gene_tokens``.

        Returns
        -------
        An iterator of :class:`~sclm.models.contract.Written` blocks in the order of the request.

        Raises
        ------
        ValueError
            If a number is out of range, or a requested value has no relation to the training cells.
        """
        if not 0.0 <= guidance <= 3.0:
            raise ValueError(f"guidance must lie in [0, 3], found {guidance}.")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, found {seed!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
        if "n_counts" in request and float(request["n_counts"].max()) > _DEEPEST:
            raise ValueError(f"n_counts must be at most {_DEEPEST:,.0f}, found {request['n_counts'].max():,.0f}.")
        require_decoder(self.network, decoder)
        if resolved is None:
            resolved = self.conditions.resolve(request, max_novelty=max_novelty)
        return write_cells(
            self, request, resolved, seed=int(seed), batch_size=batch_size or 1024, guidance=guidance, start=start,
            decoder=decoder,
        )  # fmt: skip

    def generate(
        self, request: pd.DataFrame, *, seed: int = 0, guidance: float = 0.0, max_novelty: float = 0.5
    ) -> Cells:
        """All cells of a request at once, in its order; see :meth:`write`."""
        import scipy.sparse as sp

        blocks = [b.cells for b in self.write(request, seed=seed, guidance=guidance, max_novelty=max_novelty)]
        obs = pd.concat([block.obs for block in blocks])
        return Cells(sp.vstack([block.counts for block in blocks], format="csr"), blocks[0].genes, obs)

    # ------------------------------------------------------------------ scoring

    def log_likelihood(self, cells: Cells, conditions: pd.DataFrame | str = "given") -> pd.DataFrame:
        """Log likelihood of real cells under metadata, nats.

        Parameters
        ----------
        cells
            Raw counts; genes are matched to the model's.
        conditions
            ``"given"``: each cell under its own metadata in ``cells.obs``. The name of a field: under each of its values in
            turn, the other fields as given. A DataFrame: under each of its rows, a condition as in a request.

        Returns
        -------
        One row a cell. ``"given"``: the columns ``log_likelihood`` and ``surprise``, how many spreads it lies below that of
        held-out training cells of this depth: a score for cells unlike the training data. Otherwise one column a
        condition; the largest of a row is the condition that explains the cell best, and ``softmax`` of a row its
        probability if all were equally common.

        Raises
        ------
        KeyError
            If a field does not exist.
        ValueError
            If hardly any genes are shared, or a condition is a general term.
        """
        if not isinstance(cells, Cells):
            raise TypeError(
                f"cells must be a block of Cells, found {type(cells).__name__}. Of an AnnData: "
                "sclm.cells.read_cells(adata, obs_keys=[...]).read(), with the model's fields."
            )
        counts, _ = align(cells, self.vocabulary)
        own = self.conditions.codes(cells.obs)
        if isinstance(conditions, str) and conditions == "given":
            columns, tables = ["log_likelihood"], [own]
        elif isinstance(conditions, str):
            f = self.conditions.names.index(self.conditions[conditions].name)
            columns, tables = list(self.conditions.fields[f].values), []
            for code in range(len(columns)):
                table = own.copy()
                table[:, f] = code
                tables.append(table)
        else:
            resolved = self.conditions.resolve(conditions)
            given = np.column_stack([np.diff(nodes.indptr) > 0 for nodes in resolved.nodes])
            general = given & (resolved.codes < 0)
            if general.any():
                field = self.conditions.fields[int(np.flatnonzero(general.any(axis=0))[0])].name
                raise ValueError(
                    f"conditions must name single training values to be scored, found a general term in {field!r}. "
                    "Name its kinds one by one and add up their probabilities."
                )
            codes = resolved.codes[resolved.combination]
            columns = [" + ".join(map(str, row)) for row in conditions.to_numpy()]
            tables = [np.tile(row, (len(own), 1)) for row in codes]
        scores = []
        for table in tables:
            distinct, which, _ = distinct_rows(table)
            scores.append(self.score(counts, distinct, which, self.profile.log_shares(self.conditions, distinct)))
        if columns == ["log_likelihood"]:
            columns = [*columns, "surprise"]
            scores.append(surprise(self.usual, np.asarray(counts.sum(axis=1)).ravel(), scores[0]))
        return pd.DataFrame(np.column_stack(scores), index=cells.obs.index, columns=columns)

    def score(self, counts: sp.csr_matrix, codes: np.ndarray, which: np.ndarray, profiles: np.ndarray) -> np.ndarray:
        """Nats (n,) of counts (n, G) under conditions: ``codes`` (C, F), ``which`` (n,) of them, ``profiles`` (C, G)."""
        return marginal_log_likelihood(
            self.network, self.conditions, self.levels, self.programmes, profiles, self.loadings, self.dispersion,
            counts, codes, which,
        )[0]  # fmt: skip
