"""References to images: their kind, their identity, their form for display, and the hosts that URLs may name.

A displayed reference holds no image data and no credential (user names, signatures and tokens in URLs).

No name is resolved here. A name that looks public is checked again by its address before a connection is made (see
``http.fetch``).
"""

from __future__ import annotations

import re
import socket
import unicodedata
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from batchvision.errors import ImageForbidden, ImageUnreachable
from batchvision.images.data_uris import data_digest, media_type, shown_path
from batchvision.images.files import ImageFiles
from batchvision.object_store import ObjectUrl
from batchvision.records import ImageKind, ImageRef

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_IMAGE_NAME = re.compile(r"\.(jpe?g|jfif|png|webp|gif|avif|tiff?|bmp|hei[cf])$", re.IGNORECASE)
#: Brackets enclose an IPv6 address only. ``urlsplit`` accepts them after this address, too.
_AUTHORITY = re.compile(r"(?:[^\[\]]*@)?(?:\[[^\[\]]+\]|[^\[\]@]+?)(?::[0-9]*)?")
#: The start of a URL after a separator, in a cell with several URLs.
_NEXT_URL = re.compile(r"(?<=[,;|\s])(?=https?://)", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://[^/?#\s]+(?=[/?#])", re.IGNORECASE)
_UNUSABLE = re.compile(r"[\x00-\x20\x7f\\]")

#: Prefixes of parameters that are always credentials.
_SIGNED_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-ms-")
_SIGNATURES = frozenset({"signature", "sig", "hmac"})
#: Beside a signature these belong to it (S3, CloudFront, Google, Azure SAS). Alone, ``sp=2`` may choose the image.
_BESIDE_SIGNATURE = frozenset(
    {"awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "expires", "policy", "key-pair-id"}
    | {"se", "sp", "sv", "sr", "st", "si", "ss", "srt", "spr", "sip", "sdd", "scid"}
    | {"ske", "skoid", "sks", "skt", "sktid", "skv", "saoid", "suoid"}
)
#: Secrets for display. They count as identity only where the path is not the name of an image file.
_TOKENS = frozenset(
    {"token", "access_token", "auth", "auth_token", "authorization", "jwt"}
    | {"api_key", "apikey", "key", "secret", "password"}
)


def kind_of(reference: str) -> ImageKind:
    """The kind of a text cell. Text without a scheme is a path."""
    if reference[:5].lower() == "data:":
        return ImageKind.DATA
    scheme = _SCHEME.match(reference)
    if scheme is None:
        return ImageKind.PATH
    match scheme.group(1).lower():
        case "http" | "https":
            return ImageKind.URL
        case "file":
            return ImageKind.PATH
        case "s3" | "gs" | "az":
            return ImageKind.OBJECT
        case _:
            return ImageKind.UNSUPPORTED


def stamp(ref: ImageRef, files: ImageFiles, identity_mode: str) -> str:
    """Text for the skip_key: while it stays the same, so does the image. No image is read."""
    if not needs_reading(ref, identity_mode):
        return identity(ref, identity_mode, None)
    facts = files.facts(ref.reference)
    return f"missing:{ref.reference}" if facts is None else f"path:{ref.reference}:{facts.version}"


def named_url(text: str) -> str:
    """The URL in a cell, with blanks after its host written as %20."""
    origin = _ORIGIN.match(text)
    if origin is None or " " not in text:
        return text
    return origin[0] + text[origin.end() :].replace(" ", "%20")


def several_in(text: str) -> int:
    """The number of URLs in ``text``, listed with a separator; 1 where it is one URL.

    A URL may contain another one in its path or query. After a ``?`` only pieces with the name of an image count.
    """
    pieces = _listed(text)
    if len(pieces) > 1 and "?" in text and not all(_IMAGE_NAME.search(piece.partition("?")[0]) for piece in pieces):
        return 1
    return len(pieces)


def _listed(text: str) -> list[str]:
    """The URLs in ``text`` without separators and blanks between them, in linear time."""
    *before, last = _NEXT_URL.split(text)
    pieces = [piece.rstrip() for piece in before]
    return [*(piece[:-1].rstrip() if piece.endswith((",", ";", "|")) else piece for piece in pieces), last]


def with_size(ref: ImageRef, files: ImageFiles) -> ImageRef:
    """``ref`` with the size of its file, or 0 where the file is missing. Blocking."""
    if ref.kind is not ImageKind.PATH:
        return ref
    facts = files.facts(ref.reference)
    return ref._replace(size_bytes=0 if facts is None else facts.size_bytes)


def needs_reading(ref: ImageRef, identity_mode: str) -> bool:
    """Whether the bytes of the file enter the request_key."""
    return ref.kind is ImageKind.PATH and ref.version is None and identity_mode != "ref"


def identity(ref: ImageRef, identity_mode: str, digest: str | None) -> str:
    """The text that identifies an image in the request_key. ``digest``: sha256 of the source bytes, if they were read.

    A URL identifies itself: image_mode is no part of the recipe and must not change a key. A binary cell or data: URI
    is identified by its content. A version cell replaces the content of a file or URL.
    """
    match ref.kind:
        case ImageKind.URL:
            name = f"url:{url_identity(ref.reference if ref.known_by is None else ref.known_by)}"
        case ImageKind.DATA | ImageKind.BYTES:
            name = f"sha256:{digest or _digest_at_hand(ref)}"
        case ImageKind.OBJECT:
            name = f"object:{ref.reference}"
        case ImageKind.PATH if digest is not None and needs_reading(ref, identity_mode):
            return f"sha256:{digest}"
        case _:
            name = f"path:{ref.reference}"
    return name if ref.version is None else f"version:{name}:{ref.version}"


def _digest_at_hand(ref: ImageRef) -> str:
    return data_digest(ref.reference) if ref.kind is ImageKind.DATA else sha256(ref.content or b"").hexdigest()


def redact_reference(ref: ImageRef, digest: str | None = None) -> str:
    """The reference for display and storage, without image data and credentials."""
    match ref.kind:
        case ImageKind.DATA:
            return f"data:{media_type(ref.reference)};sha256={digest or _digest_at_hand(ref)}"
        case ImageKind.OBJECT:
            return ref.reference
        case ImageKind.BYTES if not ref.reference:
            return f"bytes;sha256={digest or _digest_at_hand(ref)}"
        case ImageKind.PATH | ImageKind.BYTES if kind_of(ref.reference) is ImageKind.PATH:
            return shown_path(ref.reference)
        case ImageKind.PATH | ImageKind.BYTES if kind_of(ref.reference) is ImageKind.DATA:
            return f"data:{media_type(ref.reference)};sha256={data_digest(ref.reference)}"
        case _:
            return redact_url(ref.reference)


def below_object_root(ref: ImageRef, root: str) -> ImageRef:
    """A relative path as the object below ``root``. Other references stay as they are."""
    if ref.kind is not ImageKind.PATH:
        return ref
    return ref._replace(kind=ImageKind.OBJECT, reference=f"{root.rstrip('/')}/{ref.reference}")


def check_object(url: str, root: str | None = None) -> None:
    """Raise ImageForbidden for an object outside ``root`` or with a part ``..``, and ImageUnreachable for text that
    names no object."""
    place = ObjectUrl.of(url)
    if root is not None and not url.startswith(root.rstrip("/") + "/"):
        raise ImageForbidden(f"{url[:300]!r} lies outside manifest.root {root}")
    if not place.bucket.partition("://")[2] or not place.key or place.key.endswith("/"):
        raise ImageUnreachable(f"{url[:300]!r} names no object: write s3://BUCKET/KEY")
    if any(part in ("..", ".") for part in place.key.split("/")):
        raise ImageForbidden(f"{url[:300]!r} leads out of its folder: write it without '..' and '.'")


# ---------------------------------------------------------------------------------- URLs


#: A URL with nothing to trim, check or hide: lower-case host, no user name, no query, no fragment.
_PLAIN_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]*(?::[1-9][0-9]{0,3})?/[!$-;=A-Z_a-z~]*")


def redact_url(url: str) -> str:
    """Without user name, password, fragment, signature and token parameters."""
    if _PLAIN_URL.fullmatch(url):
        return url
    pieces = _listed(url) if several_in(url) > 1 else [url]
    return ", ".join(_trimmed(piece, keep_tokens=False) for piece in pieces)


def url_identity(url: str) -> str:
    """The URL without the parts that change with each signature."""
    if _PLAIN_URL.fullmatch(url):
        return url
    try:
        keep_tokens = not _IMAGE_NAME.search(unquote(urlsplit(url).path))
    except ValueError:
        keep_tokens = True
    return _trimmed(url, keep_tokens=keep_tokens)


def trimmed_url(url: str, ignored: frozenset[str]) -> str:
    """The URL without the ``ignored`` parameters, redacted as by :func:`redact_url`."""
    shown = redact_url(url)
    return without_parameters(shown, ignored) if ignored else shown


def without_parameters(url: str, ignored: frozenset[str]) -> str:
    """The URL without the parameters of these names, in any case. The rest stays byte for byte."""
    head, mark, query = url.partition("?")
    if not mark:
        return url
    query, sharp, fragment = query.partition("#")
    lower = {name.lower() for name in ignored}
    kept = "&".join(pair for pair in query.split("&") if _parameter_name(pair) not in lower)
    return f"{head}{'?' if kept else ''}{kept}{sharp}{fragment}"


def _trimmed(url: str, *, keep_tokens: bool) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    pairs = parts.query.split("&") if parts.query else []
    names = {_parameter_name(pair) for pair in pairs}
    dropped = set(_SIGNATURES) if keep_tokens else _SIGNATURES | _TOKENS
    if any(name in _SIGNATURES or name.startswith(_SIGNED_PREFIXES) for name in names):
        dropped |= _BESIDE_SIGNATURE | _TOKENS
    kept = [
        pair
        for pair in pairs
        if (name := _parameter_name(pair)) not in dropped and not name.startswith(_SIGNED_PREFIXES)
    ]
    host = parts.netloc.rpartition("@")[2].lower()
    return SplitResult(parts.scheme.lower(), host, parts.path, "&".join(kept), "").geturl()


def _parameter_name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0]).lower()


def check_url(url: str) -> None:
    """Raise ImageUnreachable for text that is no usable http(s) URL."""
    if _PLAIN_URL.fullmatch(url):
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and _AUTHORITY.fullmatch(parts.netloc) is not None
    except ValueError:
        usable = False
    if not usable or _UNUSABLE.search(url):
        raise ImageUnreachable(f"not a usable URL: {redact_url(url)[:300]!r}{_why_unusable(url)}")


def _why_unusable(url: str) -> str:
    if "\\" in url:
        return ": it holds a backslash, write /"
    found = _UNUSABLE.search(url)
    if found is None:
        return ""
    if re.search(r"\s+\S", url):
        return ": it holds a blank or a line end. If the cell names several images, set manifest.image_separator"
    return ": it holds a control character"


# ---------------------------------------------------------------------------------- public hosts

_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
#: Special ranges that some Python releases count as public, and cloud services at public addresses.
_NEVER = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own services
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "fec0::/10",  # site-local, before there was fc00::/7
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)
_TO_HOST_END = re.compile(r"https?://[^/?#]*")  # a host ends here for ``urlsplit``, too
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)
_INSIDE_ENDINGS = (".localhost", ".local", ".internal", ".home.arpa", ".localdomain", ".intranet", ".lan")


def is_public(address: str) -> bool:
    """Whether an address is public: no loopback, private, link-local, metadata or special range."""
    try:
        found = _innermost(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if any(found in network for network in _NEVER):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 address (mapped, NAT64, 6to4, ISATAP), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    if any(address in network for network in _NAT64) or (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        return IPv4Address(number & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def check_host(url: str) -> None:
    """Raise ImageForbidden for a URL of a private host. It is not handed to a provider either."""
    origin = _TO_HOST_END.match(url)
    try:
        host = _host(url if origin is None else origin[0])
    except ValueError:
        return  # check_url reports text that is no URL
    if not may_be_public(host):
        raise ImageForbidden(
            f"{host} is not a public host (set images.allow_private_hosts = true to allow your own network)"
        )


@lru_cache(maxsize=256)  # many images come from few origins
def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


@lru_cache(maxsize=256)
def may_be_public(host: str) -> bool:
    """False for any spelling of an address that is not public, and for names that exist only inside a network."""
    plain = unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").lower().rstrip(".")
    if ":" in plain:
        return is_public(plain.strip("[]"))
    if _NUMERIC.fullmatch(plain):
        try:
            return is_public(socket.inet_ntoa(socket.inet_aton(plain)))  # decimal, octal, hexadecimal, short forms
        except OSError:
            pass  # a name of the letters a to f, or too long for an address
    return "." in plain and not plain.endswith(_INSIDE_ENDINGS)
