"""A running mean that forgets slowly."""

from __future__ import annotations

#: How many values it remembers.
_MEMORY = 200


class Mean:
    """``value`` is None before the first; ``most`` is the largest there was."""

    __slots__ = ("_count", "most", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self.most = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        if self._count < _MEMORY:
            self._count += 1
        self.value = value if self.value is None else self.value + (value - self.value) / self._count
        if value > self.most:
            self.most = value
