"""Human transcription factors: what a screen asks for where no list is given."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def transcription_factors(species: str = "human") -> frozenset[str]:
    """Approved symbols of the transcription factors of a species.

    Genes with DNA-binding transcription factor activity in the Gene Ontology (GO:0003700, CC BY 4.0), the TOX family and
    the ID proteins.

    Parameters
    ----------
    species
        ``"human"``, the only one that is bundled.

    Returns
    -------
    1,414 symbols.

    Raises
    ------
    ValueError
        For another species.

    Examples
    --------
    >>> "TBX21" in transcription_factors()
    True
    """
    if species != "human":
        raise ValueError(f"species must be 'human', found {species!r}. Pass a list of your own genes instead.")
    path = Path(__file__).with_name("data") / "transcription_factors_human.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
