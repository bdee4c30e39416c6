"""The key, and the one place that hides it: nothing is written, logged or shown before :meth:`Secrets.mask`.

Hidden are the run's secrets as they are, percent-encoded, in base64 (whatever stands before them: ``user:key`` too),
and with any of their characters escaped as JSON, URLs or HTML may; and, in whatever text, the credentials of a signed
URL (``X-Amz-Signature=...``), which open an image to whoever reads them. Masking what is masked changes nothing.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, AnyStr, Generic
from urllib.parse import quote, quote_plus, unquote, urlsplit
from weakref import WeakSet

MASK = "***"
#: Shorter values are words that answers hold by chance.
_LEAST_CHARACTERS = 4
_LEAST_CHARACTERS_ENCODED = 8

#: Parameters of a URL that are credentials wherever they stand.
_SIGNED = (
    "x-(?:amz|goog|oss)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid|key-pair-id"
)
#: ``?name=`` as it is, percent-encoded, or escaped in JSON or HTML; then the value.
_SIGNATURE = (
    rf"((?:[?&]|%(?:25)*(?:3f|26)|&amp;|\\{{1,8}}u00(?:3f|26))(?:{_SIGNED})(?:=|%(?:25)*3d|\\{{1,8}}u003d))"
    r"""[^&\s"'<>\\)\]}]+"""
)
#: What every signed URL holds at least one of: looking for these is cheap.
_SIGNED_SIGNS = ("ignature", "IGNATURE", "sig=", "sig%", "sig\\", "redential", "ecurity-", "ccess", "air-")
#: What an escaped character begins with.
_ESCAPE_SIGNS = ("\\u00", "\\/", "%", "&#")
#: The other parameters that open a door, where it is known that they stand in an image's URL.
_CREDENTIAL_NAME = re.compile(
    r"signature|credential|token|secret|passw|auth|jwt|hmac|policy|api_?key|access_?key|^(?:sig|key)$", re.IGNORECASE
)


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

    __slots__ = ("__weakref__", "_bytes", "_text", "_values")

    def __init__(self, *values: Secret, of_one_answer: bool = False) -> None:
        """``of_one_answer``: a row's own secrets. Only the plain and encoded forms, which cost nothing to prepare; and
        :func:`all_known` does not know them."""
        self._values = values
        if not of_one_answer:
            _known.add(self)
        revealed = [value.reveal() for value in values if len(value.reveal()) >= _LEAST_CHARACTERS]
        forms = sorted({form for value in revealed for form in _forms(value)}, key=len, reverse=True)
        escaped = "|".join(_escaped(value) for value in sorted(revealed, key=len, reverse=True) if not of_one_answer)
        # a key with a quote or a backslash is escaped in any JSON
        signs = _ESCAPE_SIGNS if not re.search(r'["\\]', "".join(revealed)) else (*_ESCAPE_SIGNS, "\\")
        self._text = _Masker(
            MASK, forms, re.compile(escaped) if escaped else None, _SIGNATURE_TEXT, signs, _SIGNED_SIGNS
        )
        self._bytes = _Masker(
            MASK.encode(),
            [form.encode() for form in forms],
            re.compile(escaped.encode()) if escaped else None,
            _SIGNATURE_BYTES,
            tuple(sign.encode() for sign in signs),
            tuple(sign.encode() for sign in _SIGNED_SIGNS),
        )

    def __repr__(self) -> str:
        return "Secrets(***)"

    def mask(self, text: str) -> str:
        return self._text(text)

    def mask_bytes(self, raw: bytes) -> bytes:
        return self._bytes(raw)

    def mask_document(self, value: Any) -> Any:
        """JSON content with every text in it masked."""
        match value:
            case str():
                return self.mask(value)
            case dict():
                return {name: self.mask_document(each) for name, each in value.items()}
            case list() | tuple():
                return [self.mask_document(each) for each in value]
            case _:
                return value


#: The secrets of the runs of this process, as long as a run holds them.
_known: WeakSet[Secrets] = WeakSet()


def all_known() -> Secrets:
    """All of them together: for what is said, or compared, where no run is at hand to ask."""
    return _together(frozenset(value.reveal() for secrets in tuple(_known) for value in secrets._values))


@lru_cache(maxsize=4)
def _together(values: frozenset[str]) -> Secrets:
    together = Secrets(*map(Secret, sorted(values)))
    _known.discard(together)  # it must not keep alive what it is made of
    return together


def url_credentials(url: str) -> tuple[Secret, ...]:
    """What of an image's URL opens a door: its password, and signatures and tokens among its parameters.

    Whoever hands the URL over masks these in what comes back.
    """
    try:
        parts = urlsplit(url)
        values = [parts.password or ""]
    except ValueError:
        return ()
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if _CREDENTIAL_NAME.search(unquote(name)):
            values += {value, unquote(value)}
    return tuple(Secret(value) for value in values if len(value) >= _LEAST_CHARACTERS_ENCODED)


# ---------------------------------------------------------------------------------- the forms of a secret


def _forms(value: str) -> Iterator[str]:
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    if len(value) >= _LEAST_CHARACTERS_ENCODED:
        yield from _base64_forms(value.encode())


def _base64_forms(value: bytes) -> Iterator[str]:
    """What any base64 of text with ``value`` in it holds, by where in a group of three bytes it begins. The characters
    at its ends also depend on its neighbours, and are left out."""
    for before in range(3):
        encoded = b64encode(bytes(before) + value).decode()
        end = len(encoded.rstrip("=")) - ((before + len(value)) % 3 != 0)
        core = encoded[-(-before * 4 // 3) : end]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _escaped(value: str) -> str:
    """A pattern for ``value`` with any of its characters as JSON, a URL or HTML may write it, nested ones included."""
    return "".join(_escaped_character(ord(character)) for character in value)


def _escaped_character(code: int) -> str:
    plain = re.escape(chr(code))
    return (
        rf"(?:{plain}|\\\\{{0,7}}(?:{plain}|(?i:u{code:04x}))|%(?:25)*(?i:{code:02x})"
        rf"|&#(?:0{{0,4}}{code}|(?i:x0{{0,4}}{code:x}));)"
    )


class _Masker(Generic[AnyStr]):
    """Masks text, or bytes. What is looked for first is cheap; the patterns run only where they may find something."""

    __slots__ = ("_escape_signs", "_escaped", "_forms", "_mask", "_signature", "_signed_signs")

    _mask: AnyStr
    _forms: list[AnyStr]
    _escaped: re.Pattern[AnyStr] | None
    _signature: re.Pattern[AnyStr]
    _escape_signs: tuple[AnyStr, ...]
    _signed_signs: tuple[AnyStr, ...]

    def __init__(
        self,
        mask: AnyStr,
        forms: list[AnyStr],
        escaped: re.Pattern[AnyStr] | None,
        signature: re.Pattern[AnyStr],
        escape_signs: tuple[AnyStr, ...],
        signed_signs: tuple[AnyStr, ...],
    ) -> None:
        self._mask = mask
        self._forms = forms
        self._escaped = escaped
        self._signature = signature
        self._escape_signs = escape_signs
        self._signed_signs = signed_signs

    def __call__(self, text: AnyStr) -> AnyStr:
        for form in self._forms:
            if form in text:
                text = text.replace(form, self._mask)
        if self._escaped is not None and any(sign in text for sign in self._escape_signs):
            text = self._escaped.sub(lambda found: self._mask, text)
        if any(sign in text for sign in self._signed_signs):
            text = self._signature.sub(lambda found: found[1] + self._mask, text)
        return text


_SIGNATURE_TEXT = re.compile(_SIGNATURE, re.IGNORECASE)
_SIGNATURE_BYTES = re.compile(_SIGNATURE.encode(), re.IGNORECASE)
