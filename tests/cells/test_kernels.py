"""Compilation of the per-cell loops."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from sclm.cells import kernels

if TYPE_CHECKING:
    import pytest


def _doubled(values: np.ndarray, out: np.ndarray) -> Any:
    for i in numba.prange(values.size):
        out[i] = 2 * values[i]


def test_a_read_only_installation_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = numba.njit, []

    def without_cache(function: Any, **options: Any) -> Any:
        asked.append(options.get("cache", False))
        if options.get("cache"):
            msg = "cannot cache function: no locator available"
            raise RuntimeError(msg)
        return original(function, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    out = np.zeros(5)
    kernels.per_cell(_doubled)(np.arange(5.0), out)
    assert asked[:2] == [True, False]  # numba may go on to compile functions of its own
    assert out.tolist() == [0, 2, 4, 6, 8]


def test_threads_are_used_in_the_main_thread_only() -> None:
    assert kernels._may_use_threads()
    seen: list[bool] = []
    worker = threading.Thread(target=lambda: seen.append(kernels._may_use_threads()))
    worker.start()
    worker.join()
    assert seen == [False]


def test_import_compiles_nothing_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, sclm.cells; assert 'numba' not in sys.modules and 'pandas' not in sys.modules\n"
        "from sclm.cells import rank_values, read_cells, kernels\n"
        "assert not {'torch', 'scanpy', 'anndata', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert kernels._compiled.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torch_keeps_its_threads() -> None:
    """Both use OpenMP, and numba sets its number of threads for everyone: a torch of one thread must stay so."""
    code = """
import numpy as np, torch
from sclm.cells import rank_values
from sclm.cells.kernels import per_cell
import scipy.sparse as sp
torch.set_num_threads(1)
rank_values(sp.random(200, 50, 0.3, format="csr", dtype=np.float32, random_state=0))
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
