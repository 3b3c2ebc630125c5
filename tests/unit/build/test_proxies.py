"""Proxies of a build's programs: they come under both spellings, however they were given."""

from __future__ import annotations

import pytest

from cove.build.dockerfile.options import PROXIES
from cove.engine.build.runner import proxies


def test_either_spelling_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "of-the-daemon")
    found = proxies({"http_proxy": "http://p", "Https_Proxy": "", "OTHER": "x"}, PROXIES)
    assert found == {"HTTP_PROXY": "http://p", "http_proxy": "http://p", "NO_PROXY": "of-the-daemon"}
