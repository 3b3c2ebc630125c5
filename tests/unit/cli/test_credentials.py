"""Where passwords are looked for, kept and forgotten: files of two tools, and helper programs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from cove.cli import credentials
from cove.errors import InvalidArgument

HELPER = """#!/bin/sh
read input
case "$1" in
    get) [ -e "$STORE" ] && cat "$STORE" || { echo "credentials not found in native keychain"; exit 1; } ;;
    store) printf '%s' "$input" > "$STORE" ;;
    erase) rm "$STORE" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COVE_CONFIG, DOCKER_CONFIG and a helper `docker-credential-test` that keeps one password in a file."""
    for name, variable in (("cove", "COVE_CONFIG"), ("docker", "DOCKER_CONFIG")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    helper = tmp_path / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(HELPER)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    monkeypatch.setenv("STORE", str(tmp_path / "kept"))
    return tmp_path


def docker(home: Path, content: object) -> None:
    (home / "docker" / "config.json").write_text(json.dumps(content))


def sent(registry: str) -> dict[str, str]:
    return dict(json.loads(base64.urlsafe_b64decode(credentials.header(registry))))


def test_a_password_is_kept_in_a_private_file_found_and_forgotten(home: Path) -> None:
    assert credentials.header("reg.lan") == ""
    path = Path(credentials.keep("reg.lan", "me", "se:cret"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert sent("reg.lan") == {"username": "me", "password": "se:cret", "serveraddress": "reg.lan"}
    assert credentials.forget("reg.lan") and not credentials.forget("reg.lan")
    assert credentials.find("reg.lan") == {}


def test_what_docker_stored_is_found(home: Path) -> None:
    auth = base64.b64encode(b"you:there").decode()
    docker(home, {"auths": {"https://index.docker.io/v1/": {"auth": auth}, "t.lan": {"identitytoken": "tok"}}})
    assert credentials.find("docker.io")["username"] == "you"
    assert sent("t.lan") == {"identitytoken": "tok", "serveraddress": "t.lan"}


@pytest.mark.parametrize("config", [{"credsStore": "test"}, {"credHelpers": {"reg.lan": "test"}}])
def test_a_helper_keeps_gives_and_forgets(home: Path, config: object) -> None:
    docker(home, config)
    assert credentials.find("reg.lan") == {}
    assert credentials.keep("reg.lan", "me", "secret") == "docker-credential-test"
    assert json.loads((home / "kept").read_text())["ServerURL"] == "reg.lan"
    assert not (home / "cove" / "auth.json").exists(), "the password is in one place only"
    assert sent("reg.lan") == {"username": "me", "password": "secret", "serveraddress": "reg.lan"}
    (home / "kept").write_text('{"ServerURL": "reg.lan", "Username": "<token>", "Secret": "tok"}')
    assert sent("reg.lan")["identitytoken"] == "tok"
    assert credentials.forget("reg.lan") and not credentials.forget("reg.lan")


def test_a_helper_for_one_registry_is_not_asked_about_another(home: Path) -> None:
    docker(home, {"credHelpers": {"reg.lan": "absent"}})
    assert credentials.find("other.lan") == {}
    with pytest.raises(InvalidArgument, match="docker-credential-absent is not installed"):
        credentials.find("reg.lan")
    docker(home, {"credsStore": "../evil"})
    with pytest.raises(InvalidArgument, match="no name of a credential helper"):
        credentials.find("reg.lan")
