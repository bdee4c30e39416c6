"""Trusted certificate authorities, and the client certificate.

Authorities that a user names are added to those of the system and of certifi. They never replace them.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi

from batchvision.errors import JobInvalid


@dataclass(frozen=True, slots=True)
class Trust:
    """The certificates of a job. ``extra``: additional files and folders, each with the name of its setting.

    ``client_cert`` holds a certificate and its key, for servers that require one.
    """

    extra: tuple[tuple[str, Path], ...] = ()
    client_cert: Path | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], *, ca_file: Path | None = None, client_cert: Path | None = None) -> Trust:
        """Read the settings: ``provider.ca_file``, ``provider.client_cert``, SSL_CERT_FILE and SSL_CERT_DIR."""
        extra = [] if ca_file is None else [("provider.ca_file", ca_file)]
        if file := environ.get("SSL_CERT_FILE"):
            extra.append(("SSL_CERT_FILE", Path(file)))
        folders = environ.get("SSL_CERT_DIR", "").split(os.pathsep)
        extra += [("SSL_CERT_DIR", Path(folder)) for folder in folders if folder]
        return cls(tuple(extra), client_cert)

    def context(self) -> ssl.SSLContext:
        """Raises JobInvalid, which names the setting, for a file that is missing or holds no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        places = ssl.get_default_verify_paths()
        file, folder = Path(places.openssl_cafile), Path(places.openssl_capath)
        if file.is_file():  # by its path: OpenSSL's default would let SSL_CERT_FILE replace the system's store
            context.load_verify_locations(cafile=file)
        if folder.is_dir():
            context.load_verify_locations(capath=folder)
        context.load_verify_locations(cafile=certifi.where())
        for setting, path in self.extra:
            _load(context, setting, path)
        if self.client_cert is not None:
            _show(context, self.client_cert)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def __str__(self) -> str:
        """A sentence for messages."""
        roots = ["the system's roots", "certifi's", *(f"{path} ({setting})" for setting, path in self.extra)]
        shown = "" if self.client_cert is None else f", shows {self.client_cert} (provider.client_cert)"
        return f"trusts {', '.join(roots[:-1])} and {roots[-1]}{shown}"


def default_context() -> ssl.SSLContext:
    """A context with the usual authorities and those of the process's environment."""
    return Trust.of(os.environ).context()


def _load(context: ssl.SSLContext, setting: str, path: Path) -> None:
    try:
        if path.is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except FileNotFoundError:
        raise JobInvalid(f"{setting}: there is no file {path}; correct it, or unset it") from None
    except ssl.SSLError:
        raise JobInvalid(f"{setting}: {path} holds no certificate in PEM form; correct it, or unset it") from None
    except OSError as error:
        raise JobInvalid(f"{setting}: {path} cannot be read: {error.strerror}") from None


def _show(context: ssl.SSLContext, path: Path) -> None:
    def no_password() -> str:
        raise ValueError

    try:
        context.load_cert_chain(path, password=no_password)
    except FileNotFoundError:
        raise JobInvalid(f"provider.client_cert: there is no file {path}; correct it") from None
    except ValueError:
        raise JobInvalid(f"provider.client_cert: the key in {path} has a password; store it without one") from None
    except ssl.SSLError:
        raise JobInvalid(
            f"provider.client_cert: {path} must hold a certificate and its key, both in PEM form"
        ) from None
    except OSError as error:
        raise JobInvalid(f"provider.client_cert: {path} cannot be read: {error.strerror}") from None
