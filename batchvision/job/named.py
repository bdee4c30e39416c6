"""Values from the environment: ``"env:TEAM_TOKEN"`` stands for the variable's content, which is a secret."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from batchvision.errors import JobInvalid
from batchvision.secrets import MASK, Secret

PREFIX = "env:"


def is_named(value: str) -> bool:
    return value.startswith(PREFIX)


def resolved(key: str, value: str, environ: Mapping[str, str]) -> tuple[str, tuple[Secret, ...]]:
    """The value itself, and the secrets in it. Raises JobInvalid where the variable is not set."""
    if not is_named(value):
        return value, ()
    name = value.removeprefix(PREFIX).strip()
    found = environ.get(name, "").strip()
    if not found:
        raise JobInvalid(f"{key} is {value!r}, and {name} is not set: export {name}=...")
    return found, (Secret(found),)


def resolved_headers(
    key: str, headers: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[dict[str, str], tuple[Secret, ...]]:
    """A table of headers with their values, and the values from the environment. ``key``: of the table. Raises
    JobInvalid."""
    values: dict[str, str] = {}
    secrets: list[Secret] = []
    for name, value in headers.items():
        values[name], found = resolved(f"{key}.{name}", value, environ)
        secrets += found
    return values, tuple(secrets)


def without_user(url: str) -> str:
    """A URL with its user and password masked; any other text as it is."""
    if "@" not in url:
        return url
    parts = urlsplit(url if "://" in url else f"//{url}")
    shown = urlunsplit(parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}"))
    return shown if "://" in url else shown.removeprefix("//")
