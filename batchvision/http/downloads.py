"""The way to the image hosts of a job: headers by host, proxy, and trusted certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchvision.http.fetch import DownloadRules, HeadersByHost, HttpFetcher
from batchvision.http.hosts import CONNECTIONS
from batchvision.http.lean import LeanTransport
from batchvision.http.library import httpx
from batchvision.http.pooled import PooledTransport
from batchvision.http.proxy import NONE, Proxy, proxy_for
from batchvision.http.tls import Trust
from batchvision.secrets import Secret

if TYPE_CHECKING:
    from batchvision.job import Job


@dataclass(frozen=True, slots=True)
class ImageAccess:
    """The way to image hosts. Without ``proxy`` connections are direct: the environment is ignored."""

    allow_private_hosts: bool = False
    headers: HeadersByHost = field(default_factory=dict, repr=False)
    proxy: Proxy | None = None
    trust: Trust = field(default_factory=Trust)

    @classmethod
    def to(cls, *, allow_private_hosts: bool, headers: HeadersByHost, proxy: str | None, trust: Trust) -> ImageAccess:
        """``proxy``: the value of ``images.proxy``. Raises JobInvalid for a proxy that cannot be right."""
        return cls(allow_private_hosts, headers, proxy_for("", proxy or NONE, "images.proxy", {}), trust)

    @classmethod
    def of(cls, job: Job, environ: Mapping[str, str]) -> tuple[ImageAccess, tuple[Secret, ...]]:
        """The way of a job, and the secrets in its headers. Image hosts never get the provider's client certificate.

        Raises JobInvalid, also for a variable that is not set.
        """
        headers, secrets = job.image_headers(environ)
        trust = Trust.of(environ, ca_file=job.file(job.provider.ca_file))
        private, proxy = job.images.allow_private_hosts, job.image_proxy(environ)
        return cls.to(allow_private_hosts=private, headers=headers, proxy=proxy, trust=trust), secrets

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return () if self.proxy is None else self.proxy.secrets

    def __str__(self) -> str:
        """A sentence for messages."""
        return "images are downloaded " + ("directly" if self.proxy is None else f"through {self.proxy}")

    def fetcher(self) -> HttpFetcher:
        """A fetcher that the caller enters and leaves. It connects at the first download."""
        rules = DownloadRules(self.allow_private_hosts, self.headers, is_proxied=self.proxy is not None)
        return HttpFetcher(rules, transport=self._transport)

    def _transport(self) -> httpx.AsyncBaseTransport:
        context = self.trust.context()
        if self.proxy is None:
            return LeanTransport(context, most_idle=CONNECTIONS)
        return PooledTransport(context, proxy=self.proxy.for_httpx(context))
