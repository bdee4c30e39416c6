"""The way to the provider: proxy, trusted certificates and transport, determined before a run begins."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batchvision.http.lean import LeanTransport
from batchvision.http.library import httpx
from batchvision.http.pooled import PooledTransport
from batchvision.http.proxy import Proxy, proxy_for
from batchvision.http.tls import Trust
from batchvision.secrets import Secret


@dataclass(frozen=True, slots=True)
class Network:
    """The way to one provider. ``context`` is ``None`` where no connection is encrypted."""

    host: str
    port: int
    is_https: bool
    trust: Trust
    context: ssl.SSLContext | None = field(repr=False)
    proxy: Proxy | None = None
    uses_httpx: bool = False

    @classmethod
    def to(
        cls,
        base_url: str,
        environ: Mapping[str, str],
        *,
        http: str = "auto",
        proxy: str | None = None,
        ca_file: Path | None = None,
        client_cert: Path | None = None,
    ) -> Network:
        """``http`` is auto, lean or httpx. Raises JobInvalid for an invalid proxy or file."""
        parts = urlsplit(base_url)
        found = proxy_for(base_url, proxy, "provider.proxy", environ)
        trust = Trust.of(environ, ca_file=ca_file, client_cert=client_cert)
        is_https = parts.scheme == "https"
        is_encrypted = is_https or (found is not None and found.is_https)
        context = trust.context() if is_encrypted else None
        uses_httpx = http == "httpx" or found is not None
        port = parts.port or (443 if is_https else 80)
        return cls(parts.hostname or base_url, port, is_https, trust, context, found, uses_httpx)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return () if self.proxy is None else self.proxy.secrets

    def transport(self, connections: int) -> httpx.AsyncBaseTransport:
        """A new transport, to be closed by the caller."""
        if not self.uses_httpx:
            return LeanTransport(self.context, most_idle=connections)
        proxy = None if self.proxy is None else self.proxy.for_httpx(self.context)
        return PooledTransport(self.context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), proxy=proxy)

    def __str__(self) -> str:
        """A sentence for messages."""
        way = "directly" if self.proxy is None else f"through {self.proxy}"
        trust = "" if self.context is None else f"; {self.trust}"
        return f"{self.host} is reached {way}{trust}"
