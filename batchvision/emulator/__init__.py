"""The loopback provider: xAI, OpenRouter and OpenAI faces on 127.0.0.1, for rehearsals and tests.

A request passes these modules in order:

- ``checks`` parses and validates it, ``limits`` enforces the rate, ``faults`` picks a fault.
- ``answers`` and ``compose`` write the text, from the measures of ``pixels``.
- ``pricing`` counts tokens and ticks, ``ledger`` books them.
- ``bodies`` makes the face's JSON, ``delivery`` sends the bytes, whole or broken.

``batches`` holds the files and batches of the xAI and OpenAI faces; ``clock`` moves them.
``app`` joins these modules, ``routes`` maps paths to handlers, ``server`` listens.

A user text may hold markers. ``[[echo:TOKEN]]`` is copied into the answer and the bill. ``[[fault:KIND]]`` asks for a
fault (see :class:`FaultKind`), ``[[fault:KIND:N]]`` asks for it N times. Faults of the stage CALL stand in the name of
a file, or in the name or the metadata of a batch.

The emulator imports only ``records`` from batchvision. aiohttp and Pillow are imported when an emulator
starts.
"""

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
