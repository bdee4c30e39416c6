"""The key, and the one place that hides it: nothing is written, logged or shown before :meth:`Secrets.mask`."""

from __future__ import annotations

from urllib.parse import quote

MASK = "***"


class Secret:
    """A value that never shows itself by accident; ``reveal()`` is for the Authorization header alone."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)


class Secrets:
    """The secrets of one run, to be masked wherever text or bytes leave the process."""

    def __init__(self, *values: Secret) -> None:
        forms: set[str] = set()
        for value in values:
            text = value.reveal()
            if len(text) >= 4:
                forms |= {text, quote(text, safe="")}
        self._text = sorted(forms, key=len, reverse=True)
        self._bytes = [form.encode() for form in self._text]

    def mask(self, text: str) -> str:
        for form in self._text:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def mask_bytes(self, raw: bytes) -> bytes:
        for form in self._bytes:
            if form in raw:
                raw = raw.replace(form, MASK.encode())
        return raw
