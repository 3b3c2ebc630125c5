"""A wall clock that is set while a registry works makes nothing old, and nothing young for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cove.oci import digest as digests
from cove.registry.storage import Storage

_DAY = 86400.0


@pytest.mark.parametrize("jump", [-_DAY, _DAY])
def test_what_was_just_sent_outlives_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    storage = Storage(tmp_path)
    real, content = time.time, b"content"
    try:
        monkeypatch.setattr(time, "time", lambda: real() + min(jump, 0))
        upload = storage.uploads.begin("app")
        upload.append(content)
        storage.finish(upload, digests.of(content))
        monkeypatch.setattr(time, "time", lambda: real() + max(jump, 0))
        storage.collect()
        assert storage.blob_size("app", digests.of(content)) == len(content)
    finally:
        storage.close()
