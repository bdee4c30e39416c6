"""The provider's key (from the environment, a file, or a command), and other values from the environment.

No message repeats a secret. Each message ends with the exact next step.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from batchvision.errors import JobInvalid
from batchvision.job.files import under
from batchvision.job.sections import ProviderSection
from batchvision.secrets import MASK, Secret

_COMMAND_SECONDS = 30
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb"


def find_key(
    section: ProviderSection, base_dir: Path, key_env: str | None, environ: Mapping[str, str]
) -> Secret | None:
    """The key; ``None`` where the provider wants no key. Raises JobInvalid."""
    if section.api_key_file is not None:
        path = under(base_dir, section.api_key_file)
        return checked_key(_from_file(path), f"the file {path} (provider.api_key_file)")
    if section.api_key_command is not None:
        return checked_key(_from_command(section.api_key_command, base_dir), "provider.api_key_command")
    if key_env is None:
        return None
    value = environ.get(key_env, "")
    if value.strip():
        return checked_key(value, key_env)
    if section.name == "openai" and section.base_url is not None and section.api_key_env is None:
        return None  # a self-hosted server often has no key, and the job names it otherwise
    raise JobInvalid(
        f"there is no key for {section.name}: set {key_env}: export {key_env}=... "
        "(or name another variable in provider.api_key_env)"
    )


def key_source(section: ProviderSection, base_dir: Path, key_env: str | None) -> str | None:
    """The source of the job's key, for messages; ``None`` where the provider wants no key."""
    if section.api_key_file is not None:
        return f"the file {under(base_dir, section.api_key_file)} (provider.api_key_file)"
    if section.api_key_command is not None:
        return "the output of provider.api_key_command"
    return key_env


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise JobInvalid(f"provider.api_key_file: {path} cannot be read: {reason}; write the key into it") from None


def _from_command(command: str | Sequence[str], base_dir: Path) -> str:
    try:
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS, cwd=base_dir, env=os.environ
        )
    except FileNotFoundError:
        raise JobInvalid(f"provider.api_key_command: there is no program {argv[0]}; install it or correct it") from None
    except subprocess.TimeoutExpired:
        raise JobInvalid(f"provider.api_key_command gave no key within {_COMMAND_SECONDS} seconds") from None
    except (OSError, ValueError):
        raise JobInvalid("provider.api_key_command cannot be run, or prints no text; try it in a shell") from None
    if done.returncode != 0:
        raise JobInvalid(f"provider.api_key_command ended with exit code {done.returncode}; try it in a shell")
    return done.stdout


def checked_key(text: str, source: str) -> Secret:
    """The key in ``text``. Raises JobInvalid for a text that holds no key, or more than one."""
    key = text.strip()
    if not key:
        raise JobInvalid(f"{source} holds no key; it is empty")
    if wrong := _wrong_with(key):
        raise JobInvalid(f"{source} holds more than a key: {wrong}; keep the key alone")
    return Secret(key)


def _wrong_with(key: str) -> str | None:
    """The reason why ``key`` is no bare key, without any part of it; ``None`` for a bare key."""
    if len(key.splitlines()) > 1:
        return "several lines"
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        return "it stands in quotes"
    if key.lower().startswith("bearer "):
        return "it begins with the word Bearer, which is added by itself"
    if any(character.isspace() for character in key):
        return "there are spaces in it"
    if not key.isascii() or not key.isprintable():
        return "it has characters that no key has (copied from a formatted page?)"
    return None


# ---------------------------------------------------------------------------------- values from the environment

#: ``"env:TEAM_TOKEN"`` stands for the content of that variable, which is a secret.
_PREFIX = "env:"


def is_named(value: str) -> bool:
    return value.startswith(_PREFIX)


def resolved(key: str, value: str, environ: Mapping[str, str]) -> str:
    """The value itself, or the content of the variable that it names. Raises JobInvalid for an unset variable."""
    if not is_named(value):
        return value
    name = value.removeprefix(_PREFIX).strip()
    found = environ.get(name, "").strip()
    if not found:
        raise JobInvalid(f"{key} is {value!r}, and {name} is not set: export {name}=...")
    return found


def without_user(url: str) -> str:
    """A URL with its user and password masked; any other text as it is."""
    if "@" not in url:
        return url
    parts = urlsplit(url if "://" in url else f"//{url}")
    shown = urlunsplit(parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}"))
    return shown if "://" in url else shown.removeprefix("//")
