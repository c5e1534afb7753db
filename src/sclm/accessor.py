"""``adata.sclm``: the tools, figures and tables as methods of an AnnData; switched on by a call, never by an import."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sclm import get, pl, tl

if TYPE_CHECKING:
    import anndata

NAME = "sclm"
_NO_METHOD = {"generate", "request"}  # they make their own cells


class Namespace:
    """The functions of one namespace with the AnnData already given.

    Parameters
    ----------
    adata
        What they work on.
    module
        ``sclm.tl``, ``sclm.pl`` or ``sclm.get``.
    """

    def __init__(self, adata: anndata.AnnData, module: Any) -> None:
        self._adata, self._module = adata, module

    def __getattr__(self, name: str) -> Any:
        if name not in self._module.__all__ or (self._module is tl and name in _NO_METHOD):
            raise AttributeError(f"adata.{NAME} has no {name!r}; it has {', '.join(dir(self))}.")
        function = getattr(self._module, name)
        return functools.update_wrapper(functools.partial(function, self._adata), function)

    def __dir__(self) -> list[str]:
        return sorted(set(self._module.__all__) - (_NO_METHOD if self._module is tl else set()))


def register_accessor() -> None:
    """Switch on ``adata.sclm``, for all AnnData of this process.

    Afterwards ``adata.sclm.annotate(model)`` is ``sclm.tl.annotate(adata, model)``, and likewise for every tool;
    ``adata.sclm.pl.annotate()`` and ``adata.sclm.get.annotate()`` are the figures and tables. `import sclm` does not do it: it would have
    to import anndata, and would change a class of another package behind the user's back. A second call does nothing.

    Raises
    ------
    ValueError
        If another package has taken the name.

    Examples
    --------
    >>> import sclm
    >>> sclm.register_accessor()
    >>> adata = sclm.datasets.pbmc68k()
    >>> adata.sclm.annotate("mean", reference=adata, label_key="cell_type")
    >>> adata.sclm.get.annotate()["cell_type"].iloc[0]
    'CD14-positive monocyte'
    """
    import anndata

    there = getattr(anndata.AnnData, NAME, None)  # on the class, the class behind the name
    if there is _accessor():
        return
    if there is not None:
        raise ValueError(f"anndata.AnnData has {NAME!r} already, of another package.")
    anndata.register_anndata_namespace(NAME)(_accessor())


@functools.cache
def _accessor() -> type:
    """The class behind the name, made once: its constructor is annotated with AnnData, which is not imported before it is needed."""
    import anndata

    class SclmAccessor(Namespace):
        """Tools of sclm on this AnnData; figures in ``.pl``, tables in ``.get``."""

        def __init__(self, adata: anndata.AnnData) -> None:
            super().__init__(adata, tl)
            self.pl, self.get = Namespace(adata, pl), Namespace(adata, get)

        def __dir__(self) -> list[str]:
            return sorted([*super().__dir__(), "pl", "get"])

    SclmAccessor.__init__.__annotations__ = {"adata": anndata.AnnData, "return": None}  # which anndata checks
    return SclmAccessor
