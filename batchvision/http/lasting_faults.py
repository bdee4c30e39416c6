"""Faults that stay until a setting changes: certificates, proxies, and http in place of https.

Each message names the setting that helps. The requests were not processed, so they cost nothing.
"""

from __future__ import annotations

import asyncio
import ssl

from batchvision.errors import CertificateFailed, NoWayToProvider, ProxyRefused, WrongScheme
from batchvision.http.arrival import reason
from batchvision.http.library import httpx
from batchvision.http.network import Network

PROXY_AUTHENTICATION_REQUIRED = 407
_PROBE_SECONDS = 2.0
#: OpenSSL reports these errors for a server without TLS.
_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
#: Alerts of a server that requires a client certificate, or rejects ours.
_WANTS_OURS = ("CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_HANDSHAKE_FAILURE")
_PLAIN_TO_TLS = (
    b"plain HTTP request was sent to HTTPS port",
    b"HTTP request to an HTTPS server",
    b"speaking plain HTTP to an SSL",
)


def lasting_fault(error: Exception, network: Network) -> NoWayToProvider | None:
    """The lasting fault behind ``error``. ``None``: the error may be temporary."""
    if isinstance(error, httpx.ProxyError):
        return _refused_by_proxy(str(error), network)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateFailed(
                f"the certificate of {network.host} cannot be verified: {cause.verify_message or reason(cause)}. If a "
                "company's own authority has signed it (a proxy that reads TLS does so too), name that authority's "
                f"file in provider.ca_file or SSL_CERT_FILE. This run {network.trust}"
            )
        if isinstance(cause, ssl.SSLError):
            return _of_handshake(cause.reason or "", network)
        cause = cause.__cause__ or cause.__context__
    return None


def proxy_needs_password(network: Network) -> ProxyRefused:
    """The fault for a 407, which only a proxy sends."""
    proxy = network.proxy
    if proxy is None:
        return ProxyRefused(
            f"a proxy on the way to {network.host} answered 407: it wants a user and a password. Name it in "
            "HTTPS_PROXY or provider.proxy, as http://user:password@proxy:port"
        )
    what = "does not take this user and password" if proxy.auth else "wants a user and a password"
    return ProxyRefused(
        f"{proxy} {what} (407). Give them in {proxy.setting}, as http://user:password@proxy:port "
        "(characters like @ and : percent-encoded)"
    )


def plain_http_refused(status: int, body: bytes, network: Network) -> WrongScheme | None:
    """The fault for a 400 that reports plain http at an https port."""
    if status != 400 or network.is_https or not any(words in body[:2000] for words in _PLAIN_TO_TLS):
        return None
    return _wants_https(network)


async def probed(network: Network) -> NoWayToProvider | None:
    """Find out by one handshake without a request why a server cut the first request.

    An https server cuts plain http. A server that requires a client certificate reports it after the handshake, where a
    request in transit would hide the report.
    """
    if network.proxy is not None:
        return None
    context = network.context
    if context is None:  # for the handshake only: no request is sent through it
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(network.host, network.port, ssl=context)
            try:
                if not network.is_https:
                    return _wants_https(network)
                await reader.read(1)
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return _of_handshake(error.reason or "", network) if network.is_https else None
    except OSError:  # also TimeoutError: the server waits for a request
        return None
    return None


def _wants_https(network: Network) -> WrongScheme:
    return WrongScheme(
        f"{network.host}:{network.port} speaks https, and provider.base_url says http: write https:// in "
        "provider.base_url"
    )


def _refused_by_proxy(said: str, network: Network) -> ProxyRefused | None:
    """The fault for a refused CONNECT. httpcore gives its status only as text: "403 Forbidden"."""
    status = int(said[:3]) if said[:3].isdecimal() else 0
    if status == PROXY_AUTHENTICATION_REQUIRED:
        return proxy_needs_password(network)
    if network.proxy is None or not 400 <= status < 500:
        return None
    return ProxyRefused(
        f"{network.proxy} does not connect to {network.host}: it answered {status}. Have the host allowed there, or "
        f'name it in NO_PROXY (or set provider.proxy = "none") to connect directly'
    )


def _of_handshake(openssl: str, network: Network) -> NoWayToProvider | None:
    if openssl in _NO_TLS:
        return WrongScheme(
            f"{network.host}:{network.port} does not speak TLS, and provider.base_url says https: if it is an http "
            "server of your own, write http:// in provider.base_url"
        )
    if not openssl.endswith(_WANTS_OURS):
        return None
    said = openssl.lower().replace("_", " ")
    if network.trust.client_cert is not None:
        return CertificateFailed(f"{network.host} does not take the certificate of provider.client_cert ({said})")
    return CertificateFailed(
        f"{network.host} ends the TLS handshake ({said}): where it asks for a certificate of ours, name it in "
        "provider.client_cert"
    )
