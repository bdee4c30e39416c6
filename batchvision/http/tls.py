"""Which certificates are trusted."""

from __future__ import annotations

import ssl

import certifi


def default_context() -> ssl.SSLContext:
    """Verified by the system's roots and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
