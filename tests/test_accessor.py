"""``adata.sclm``, and that nothing but a call switches it on."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import pytest

import sclm


def test_only_a_call_switches_it_on() -> None:
    code = (
        "import sclm, sys; sclm.tl; sclm.get; assert 'anndata' not in sys.modules\n"
        "import anndata; assert not hasattr(anndata.AnnData, 'sclm')\n"
        "sclm.register_accessor(); sclm.register_accessor(); assert hasattr(anndata.AnnData, 'sclm')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def _registered() -> object:
    sclm.register_accessor()
    yield
    for name in ("sclm",):  # other tests see anndata as it is
        delattr(ad.AnnData, name)
        ad.AnnData._accessors.discard(name) if hasattr(ad.AnnData, "_accessors") else None


@pytest.mark.usefixtures("_registered")
def test_methods_are_the_functions(query: ad.AnnData, reference: ad.AnnData) -> None:
    plain = query.copy()
    assert query.sclm.annotate(reference=reference, label_key="cell_type") is None
    sclm.tl.annotate(plain, reference=reference, label_key="cell_type")
    assert query.sclm.get.annotate().equals(sclm.get.annotate(plain))
    assert query.sclm.annotate.__doc__ == sclm.tl.annotate.__doc__
    assert set(dir(query.sclm)) == (set(sclm.tl.__all__) - {"generate", "request"}) | {"pl", "get"}
    assert set(dir(query.sclm.pl)) == set(sclm.pl.__all__)
    with pytest.raises(AttributeError, match=r"adata\.sclm has no 'generate'"):
        query.sclm.generate  # noqa: B018


@pytest.mark.usefixtures("_registered")
def test_a_name_that_is_taken_is_not_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    sclm.register_accessor()  # ours is there: nothing happens
    monkeypatch.setattr(ad.AnnData, "sclm", 3)
    with pytest.raises(ValueError, match="of another package"):
        sclm.register_accessor()
