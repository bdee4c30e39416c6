"""The proxy that leads to a URL is the one that other tools take, and shows no password."""

from __future__ import annotations

import pytest

from batchvision.errors import JobInvalid
from batchvision.http.proxy import proxy_for
from batchvision.secrets import Secrets

URL = "https://api.example.com/v1"
CANARY = "proxy-password-0123"


def shown(environ: dict[str, str], url: str = URL, setting: str | None = None) -> str | None:
    proxy = proxy_for(url, setting, "provider.proxy", environ)
    return None if proxy is None else f"{proxy.shown} ({proxy.setting})"


@pytest.mark.parametrize(
    ("environ", "url", "wanted"),
    [
        ({}, URL, None),
        ({"HTTPS_PROXY": "http://p:1"}, URL, "http://p:1 (HTTPS_PROXY)"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, URL, "http://low:1 (https_proxy)"),
        ({"HTTP_PROXY": "http://p:1"}, URL, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://10.0.0.7/v1", "http://p:1 (HTTP_PROXY)"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://10.0.0.7/v1", None),
        ({"ALL_PROXY": "p:1"}, URL, "http://p:1 (ALL_PROXY)"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"}, URL, "http://p:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": " "}, URL, None),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, URL, "http://[::1]:3128 (HTTPS_PROXY)"),
    ],
)
def test_the_environment_is_read_as_curl_and_requests_read_it(
    environ: dict[str, str], url: str, wanted: str | None
) -> None:
    assert shown(environ, url) == wanted


@pytest.mark.parametrize(
    ("listed", "url", "is_direct"),
    [
        ("api.example.com", URL, True),
        ("example.com", URL, True),
        (".example.com", URL, True),
        ("*.example.com", URL, True),
        ("other.com, example.com", URL, True),
        ("API.EXAMPLE.COM", URL, True),
        ("*", URL, True),
        ("ample.com", URL, False),
        ("example.com:443", URL, True),
        ("example.com:8443", URL, False),
        ("example.com:8443", "https://api.example.com:8443/v1", True),
        ("10.0.0.0/8", "https://10.1.2.3/v1", True),
        ("10.0.0.0/8", URL, False),
        ("10.1.2.3", "https://10.1.2.3/v1", True),
        ("::1", "https://[::1]:8000/v1", True),
        ("localhost,127.0.0.1", "https://127.0.0.1:8000/v1", True),
        ("", URL, False),
        (",", URL, False),
    ],
)
def test_no_proxy_names_hosts_domains_ports_and_ranges(listed: str, url: str, is_direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (shown({"HTTPS_PROXY": "http://p:1", name: listed}, url) is None) == is_direct


def test_the_proxy_of_the_job_wins_and_the_value_none_disables_proxies() -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}
    assert shown(environ, setting="http://own:2") == "http://own:2 (provider.proxy)"
    assert shown({"HTTPS_PROXY": "http://p:1"}, setting="none") is None
    assert shown({"HTTPS_PROXY": "http://p:1"}, setting="None ") is None


def test_user_and_password_are_decoded_and_shown_nowhere() -> None:
    proxy = proxy_for(URL, f"http://us%40er:{CANARY}%3A@p:1", "provider.proxy", {})
    assert proxy is not None
    assert proxy.auth == ("us@er", f"{CANARY}:")
    assert CANARY not in repr(proxy) + str(proxy) + repr(proxy.for_httpx(None))
    secrets = Secrets(*proxy.secrets)
    assert CANARY not in secrets.mask(f"said {CANARY}: and {CANARY}%3A")


@pytest.mark.parametrize("value", ["ftp://p:1", "http://:3128", "http://p:port", "http://[::1"])
def test_an_invalid_proxy_is_named_without_its_value(value: str) -> None:
    with pytest.raises(JobInvalid, match="HTTPS_PROXY is no URL of a proxy") as caught:
        shown({"HTTPS_PROXY": value})
    assert value not in caught.value.message


def test_a_socks_proxy_names_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchvision.http.proxy.find_spec", lambda name: None)
    with pytest.raises(JobInvalid, match=r"pip install 'httpx\[socks\]'"):
        shown({"ALL_PROXY": "socks5://p:1080"})
