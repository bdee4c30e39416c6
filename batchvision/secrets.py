"""The one place that masks secrets. Every text passes :meth:`Secrets.mask` before it is written, logged or shown.

Masked are the run's secrets: as they are, percent-encoded, in base64 (also as part of ``user:key``), and with
characters escaped as in JSON, URLs or HTML. Masked in any text are the credentials of signed URLs
(``X-Amz-Signature=...``, ``://user:password@``). Masking a masked text changes nothing.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, AnyStr, Generic, NamedTuple
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
#: Shorter values, as "EMPTY" or "test" of servers without keys, are common words. They are not masked.
_LEAST_CHARACTERS = 8

#: Parameters of a URL that are credentials wherever they stand.
_SIGNED = (
    "x-(?:amz|goog|oss)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid|key-pair-id"
)
#: ``?name=`` as it is, percent-encoded, or escaped in JSON or HTML; then the value.
_SIGNATURE = (
    rf"((?:[?&]|%(?:25)*(?:3f|26)|&amp;|\\{{1,8}}u00(?:3f|26))(?:{_SIGNED})(?:=|%(?:25)*3d|\\{{1,8}}u003d))"
    r"""[^&\s"'<>\\)\]}]+"""
)
#: ``://user:``, as it is, encoded or escaped; then the password, up to the last ``@``.
_PASSWORD = (
    r"((?::|%(?:25)*3a)(?:\\{0,8}/|%(?:25)*2f){2}[^\s/@:\"'<>\\%]{0,100}(?::|%(?:25)*3a))"
    r"[^\s/@\"'<>\\]{1,200}(?=@|%(?:25)*40|\\{1,8}u0040)"
)
#: Every signed URL holds one of these words.
_SIGNED_WORDS = ("ignature", "IGNATURE", "sig=", "sig%", "sig\\", "redential", "ecurity-", "ccess", "air-")
#: First signs of a pattern, each with its second signs. A match holds one first sign, and one of its second signs where
#: there are any. First signs are short: a single character is found ten times as fast as two.
Signs = Mapping[AnyStr, tuple[AnyStr, ...]]
_SIGNED_SIGNS: Signs[str] = dict.fromkeys(("=", "%", "\\u00"), _SIGNED_WORDS)
_PASSWORD_SIGNS: Signs[str] = {"@": (), "%": ("%40", "%2540"), "\\u00": ("\\u0040",)}
_ESCAPE_SIGNS: Signs[str] = {"%": (), "&": ("&#",), "\\u00": (), "\\/": ()}
#: Names of further credentials among the parameters of an image's URL.
_CREDENTIAL_NAME = re.compile(
    r"signature|credential|token|secret|passw|auth|jwt|hmac|policy|api_?key|access_?key|^(?:sig|key)$", re.IGNORECASE
)


class Secret:
    """A value that is not shown by accident. ``reveal()`` is for the Authorization header only."""

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
    """The secrets of one run, masked in every text that leaves the process."""

    __slots__ = ("_bytes", "_text", "_values")

    def __init__(self, *values: Secret, of_one_answer: bool = False) -> None:
        """``of_one_answer``: secrets of one row. Their escaped forms are searched only where a long piece is found."""
        self._values = values
        revealed = sorted({value.reveal() for value in values}, key=len, reverse=True)
        revealed = [value for value in revealed if len(value) >= _LEAST_CHARACTERS]
        forms = sorted({form for value in revealed for form in _forms(value)}, key=len, reverse=True)
        signs = dict.fromkeys(map(_longest_word, revealed), ()) if of_one_answer else _escape_signs(revealed)
        own = [_Search[str](_Escaped[str](revealed), signs, MASK)] if revealed else []
        own_bytes = [_Search[bytes](_Escaped[bytes](revealed), _encoded(signs), MASK.encode())] if revealed else []
        self._text = _Masker(MASK, forms, [*own, *_OF_URLS])
        self._bytes = _Masker(MASK.encode(), [form.encode() for form in forms], [*own_bytes, *_OF_URLS_BYTES])

    def __repr__(self) -> str:
        return "Secrets(***)"

    def add(self, *values: Secret) -> None:
        """Mask further values too, for example a renewed key."""
        self.__init__(*self._values, *values)  # type: ignore[misc]  # one place makes every field from the values

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


def has_password(url: str) -> bool:
    """Whether a URL holds a password, before its host or among its parameters."""
    try:
        parts = urlsplit(url)
        return parts.password is not None or "password=" in parts.query.lower()
    except ValueError:
        return "@" in url


def url_credentials(url: str) -> tuple[Secret, ...]:
    """The credentials in an image's URL: its password, and signatures and tokens among its parameters.

    The sender of the URL masks them in the answer.
    """
    if "?" not in url and "@" not in url:
        return ()
    try:
        parts = urlsplit(url)
        values = [parts.password or ""]
    except ValueError:
        return ()
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if _CREDENTIAL_NAME.search(unquote(name)):
            values += {value, unquote(value)}
    return tuple(Secret(value) for value in values if len(value) >= _LEAST_CHARACTERS)


# ---------------------------------------------------------------------------------- the forms of a secret


def _forms(value: str) -> Iterator[str]:
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    yield from _base64_forms(value.encode())


def _base64_forms(value: bytes) -> Iterator[str]:
    """The base64 forms of ``value`` inside a longer text, for each place in a group of three bytes.

    Characters at both ends depend on the neighbours and are left out.
    """
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


def _longest_word(value: str) -> str:
    """The longest part of ``value`` that no usual encoding changes."""
    return max(re.findall("[A-Za-z0-9]*", value), key=len) or value


def _escape_signs(values: Sequence[str]) -> Signs[str]:
    """A quote or a backslash is escaped in any JSON."""
    return {**_ESCAPE_SIGNS, "\\": ()} if re.search(r'["\\]', "".join(values)) else _ESCAPE_SIGNS


def _encoded(signs: Signs[str]) -> Signs[bytes]:
    return {first.encode(): tuple(sign.encode() for sign in second) for first, second in signs.items()}


class _Escaped(Generic[AnyStr]):
    """The pattern of :func:`_escaped` for several values, compiled when it is first needed."""

    __slots__ = ("_pattern", "_values")

    _pattern: re.Pattern[AnyStr] | None

    def __init__(self, values: Sequence[str]) -> None:
        self._values = values
        self._pattern = None

    def sub(self, instead: AnyStr, text: AnyStr) -> AnyStr:
        if self._pattern is None:
            pattern = "|".join(map(_escaped, self._values))
            self._pattern = re.compile(pattern.encode() if isinstance(text, bytes) else pattern)
        return self._pattern.sub(instead, text)


class _Search(NamedTuple, Generic[AnyStr]):
    """A pattern, the signs that a match must hold, and the replacement."""

    pattern: re.Pattern[AnyStr] | _Escaped[AnyStr]
    signs: Signs[AnyStr]
    instead: AnyStr


class _Masker(Generic[AnyStr]):
    """Masks text or bytes. Patterns run only where a cheap search finds their signs."""

    __slots__ = ("_backslash", "_first_signs", "_forms", "_mask", "_searches", "_single_signs")

    _mask: AnyStr
    _forms: list[AnyStr]
    _searches: list[_Search[AnyStr]]
    _first_signs: tuple[AnyStr, ...]
    _single_signs: tuple[AnyStr, ...]  #: those without a backslash
    _backslash: AnyStr

    def __init__(self, mask: AnyStr, forms: list[AnyStr], searches: list[_Search[AnyStr]]) -> None:
        self._mask = mask
        self._forms = forms
        self._searches = searches
        self._first_signs = tuple(dict.fromkeys(first for search in searches for first in search.signs))
        self._backslash = b"\\" if isinstance(mask, bytes) else "\\"
        self._single_signs = tuple(sign for sign in self._first_signs if self._backslash not in sign)

    def __call__(self, text: AnyStr) -> AnyStr:
        for form in self._forms:
            if form in text:
                text = text.replace(form, self._mask)
        first_signs = self._first_signs if self._backslash in text else self._single_signs
        seen = [first for first in first_signs if first in text]
        if seen:
            for pattern, signs, instead in self._searches:
                if _may_be_there(signs, text, seen):
                    text = pattern.sub(instead, text)
        return text


def _may_be_there(signs: Signs[AnyStr], text: AnyStr, seen: list[AnyStr]) -> bool:
    """``seen``: the first signs that ``text`` holds."""
    for first in seen:
        more = signs.get(first)
        if more is not None and (not more or any(sign in text for sign in more)):
            return True
    return False


_URL_PARTS = ((_SIGNATURE, _SIGNED_SIGNS), (_PASSWORD, _PASSWORD_SIGNS))
_OF_URLS = [_Search(re.compile(part, re.IGNORECASE), signs, rf"\1{MASK}") for part, signs in _URL_PARTS]
_OF_URLS_BYTES = [
    _Search(re.compile(part.encode(), re.IGNORECASE), _encoded(signs), rf"\1{MASK}".encode())
    for part, signs in _URL_PARTS
]
