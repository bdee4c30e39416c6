"""What is not on the public internet is known by its address or its name, however it is spelled."""

from __future__ import annotations

import pytest

from batchvision.errors import ImageForbidden
from batchvision.images.references import check_host, is_public, may_be_public


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.192",
        "192.88.99.1",
        "fec0::1",
        "3fff::1",
        "5f00::1",
        "64:ff9b:1::7f00:1",
        "2606:4700::5efe:a00:1",
        "2606:4700::200:5efe:7f00:1",
        "::ffff:168.63.129.16",
        "2002:a9fe:a9fe::",
    ],
)
def test_special_ranges_and_forms_of_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["2606:4700::5efe:808:808", "64:ff9b::808:808", "2002:808:808::", "8.8.8.8"])
def test_an_ipv6_form_of_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127%2e0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "ⓛocalhost",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "intranet",
        "nas.local",
        "metadata.google.internal",
        "::1",
        "[::1]",
        "",
    ],
)
def test_no_spelling_of_a_private_host_may_be_public(host: str) -> None:
    assert not may_be_public(host)


@pytest.mark.parametrize(
    "host", ["example.com", "8.8.8.8", "134744072", "2001:4860:4860::8888", "fade.cafe", "bücher.example", "local.net"]
)
def test_other_hosts_may_be_public(host: str) -> None:
    assert may_be_public(host)


def test_the_fault_names_the_host_and_the_next_step() -> None:
    with pytest.raises(ImageForbidden, match=r"^10\.0\.0\.1 is not .*allow_private_hosts = true") as caught:
        check_host("http://user:canary@10.0.0.1/a.jpg?sig=canary")
    assert "canary" not in caught.value.message
    check_host("https://example.com/a.jpg")
    check_host("http://[bad/a.jpg")  # no URL: others say so
