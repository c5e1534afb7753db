"""What tools ask of a model before they use it: that it has their verb, and that it runs where it should."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sclm import models

if TYPE_CHECKING:
    from collections.abc import Iterator


def loaded(model: Any, protocol: type | tuple[type, ...], verb: str, does: str) -> Any:
    """The model behind a name, folder or object, checked to have a verb.

    Parameters
    ----------
    model
        What the user passed as ``model=``.
    protocol
        Of :mod:`sclm.models.contract`; several where any of them will do.
    verb
        Its name, to look up the families that have it.
    does
        What such a model does, for the message: ``"write cells"``.

    Returns
    -------
    The model.

    Raises
    ------
    TypeError
        If it has no such verb; names the families that do.
    """
    found = model if isinstance(model, protocol) else models.load(model)
    if not isinstance(found, protocol):
        verbs = models.available()["verbs"]
        able = ", ".join(repr(name) for name, of in verbs.items() if verb in of.split(", "))
        raise TypeError(
            f"{getattr(found, 'family', type(found).__name__)!r} does not {does}. Models that do are of {able}."
        )
    return found


def check_device(model: Any, device: str | None) -> None:
    """Refuse a device for a model without a network, and one that is not there, before any work."""
    if device is None:
        return
    if not (hasattr(model, "to") and hasattr(model, "device")):
        raise TypeError(f"device={device!r} was asked for, and this model has no network to move. Leave device out.")
    from sclm.models.neural import resolve_device

    resolve_device(device)


@contextmanager
def on_device(model: Any, device: str | None) -> Iterator[None]:
    """The model on a device for the time of a ``with`` block; None: where it is."""
    if device is None:
        yield
        return
    before = model.device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
