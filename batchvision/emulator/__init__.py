"""The loopback provider: xAI, OpenRouter and OpenAI faces on 127.0.0.1, for rehearsals and tests. It is no model.

Rule: nothing here imports batchvision but ``records``; only here are ``aiohttp.web`` servers made, and aiohttp and
Pillow load with the first use of ``start_in_thread`` or ``serve``, not with ``FaultKind`` or ``EmulatorOptions``.

What it does with a request, in the order of its modules: ``checks`` (is it one the real provider would take?) ->
``limits`` (is there room?) -> ``faults`` (is something meant to go wrong?) -> ``answers`` and ``compose`` (words made
from ``pixels``) -> ``pricing`` (tokens and ticks) -> ``ledger`` (the bill) -> ``bodies`` (the face's JSON) ->
``delivery`` (the bytes, also broken ones). ``app`` joins them; ``routes`` says which path leads where;
``server`` listens.

In the user text of a prompt, ``[[echo:TOKEN]]`` is copied into the answer and into the bill, and
``[[fault:KIND]]`` or ``[[fault:KIND:N]]`` asks for a fault (see :class:`FaultKind`), the latter only N times.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchvision.emulator.faults import FaultKind
    from batchvision.emulator.ledger import Bill, BillEntry
    from batchvision.emulator.options import DEFAULT_KEY, DEFAULT_PORT, EmulatorOptions, Face
    from batchvision.emulator.server import RunningEmulator, serve, start_in_thread

__all__ = [
    "DEFAULT_KEY",
    "DEFAULT_PORT",
    "Bill",
    "BillEntry",
    "EmulatorOptions",
    "Face",
    "FaultKind",
    "RunningEmulator",
    "serve",
    "start_in_thread",
]

_HOMES = {
    "Bill": "ledger",
    "BillEntry": "ledger",
    "FaultKind": "faults",
    "RunningEmulator": "server",
    "serve": "server",
    "start_in_thread": "server",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'options')}"), name)
