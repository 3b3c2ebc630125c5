"""What clients look into before they build: repositories and files by HTTP, each by a definition of it alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.integration.buildkit_world import Control, Failed, Session, decode, first, pairs, parts
from tests.integration.buildkit_world import encode as message
from tests.integration.test_build import context
from tests.integration.test_build_command import serving
from tests.integration.test_buildkit import BRIDGE, LIMIT, SOLVE, _ignore, buildx

_BAKE = 'target "default" {\n  tags = ["baked-from-afar"]\n  args = { WORD = "said" }\n}\n'
_LINES = "FROM busybox\nARG WORD\nCOPY sub/f /f\nRUN echo $WORD > /word\n"
Ask = Callable[..., bytes]


def definition(identifier: str, attributes: dict[str, str]) -> list[object]:
    """A graph of one source, as clients write it."""
    source = message([(3, [(1, identifier), *((2, pair) for pair in pairs(attributes))])])
    head = message([(1, [(1, f"sha256:{hashlib.sha256(source).hexdigest()}")])])
    return [(1, source), (1, head)]


def commit(where: Path) -> None:
    """A repository of a directory's files, to be served as files."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(where)]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "1"], ["update-server-info"]):
        subprocess.run([*git, *words], check=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a directory with a repository, and with a file."""
    where = context(tmp_path / "work", _LINES, sub__f="in git")
    (where / "docker-bake.hcl").write_text(_BAKE)
    (where / "out").symlink_to("/etc/hostname")
    commit(where)
    (tmp_path / "repo.git").symlink_to(where / ".git")
    (tmp_path / "bake.hcl").write_text(_BAKE)
    with serving(tmp_path) as address:
        yield address


@contextmanager
def driving(daemon: Daemon) -> Iterator[Ask]:
    """A build that drives the frontend itself, and so may ask."""
    path, ref = str(daemon.run / "cove.sock"), f"look-{os.urandom(4).hex()}"
    session, building, bridge = Session(path, ref, {}), Control(path), Control(path)
    task = threading.Thread(target=lambda: _ignore(building.call, SOLVE, [(1, ref), (5, ref)]), daemon=True)
    task.start()
    metadata = {"buildkit-controlapi-buildid": ref}

    def ask(method: str, *request: tuple[int, object]) -> bytes:
        (answer,) = bridge.call(f"{BRIDGE}/{method}", list(request), **metadata)  # type: ignore[arg-type]
        return answer

    try:
        yield ask
    finally:
        ask("Return")
        task.join(LIMIT)
        for each in (session, building, bridge):
            each.close()


def test_a_repository_is_looked_into(daemon: Daemon, served: str) -> None:
    url = f"{served}/repo.git"
    with driving(daemon) as ask:
        solved = ask("Solve", (1, definition(f"git://{url.partition('://')[2]}#main", {"git.fullurl": url})))
        ref = first(first(solved, 3), 3)
        name = first(ref, 1).decode()
        found = first(ask("StatFile", (1, name), (2, "docker-bake.hcl")), 1)
        assert dict(decode(found))[5] == len(_BAKE)
        assert first(ask("ReadFile", (1, name), (2, "docker-bake.hcl")), 1).decode() == _BAKE
        assert first(ask("ReadFile", (1, name), (2, "sub/f"), (3, [(1, 3), (2, 2)])), 1) == b"gi"
        names = [first(each, 1).decode() for each in parts(ask("ReadDir", (1, name), (2, "/"), (3, "[Ds]*")), 1)]
        assert names == ["Dockerfile", "sub"]
        for path in ("nowhere", "../../../../etc/hostname", "out"):
            with pytest.raises(Failed, match="no such file or directory"):
                ask("ReadFile", (1, name), (2, path))
        with pytest.raises(Failed, match="no such ref"):
            ask("ReadFile", (1, "another"), (2, "f"))


def test_a_file_by_http_is_looked_into(daemon: Daemon, served: str) -> None:
    with driving(daemon) as ask:
        solved = ask("Solve", (1, definition(f"{served}/bake.hcl", {"http.filename": "context"})))
        name = first(first(first(solved, 3), 3), 1).decode()
        assert first(ask("ReadFile", (1, name), (2, "context")), 1).decode() == _BAKE
        with pytest.raises(Failed, match="cannot be a file's name"):
            ask("Solve", (1, definition(f"{served}/bake.hcl", {"http.filename": "../f"})))


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (definition("local://context", {}), "local://context is not known"),
        (definition("https://h.example/f", {"http.uid": "7"}), "http.uid of the source"),
        ([(1, b""), *definition("git://h.example/r", {})], "low-level language"),
    ],
)
def test_any_other_graph_is_refused(daemon: Daemon, graph: list[object], words: str) -> None:
    with driving(daemon) as ask, pytest.raises(Failed) as failed:
        ask("Solve", (1, graph))
    assert words in failed.value.args[1]


def test_bake_takes_its_file_and_its_context_from_a_repository(daemon: Daemon, served: str) -> None:
    done = buildx(daemon, "bake", "--allow=fs=*", f"{served}/repo.git#main", experimental="0")
    if done.returncode and "unknown flag" in done.stderr:
        done = buildx(daemon, "bake", f"{served}/repo.git#main", experimental="0")
    assert not done.returncode, done.stderr
    told = daemon.cove("run", "--rm", "baked-from-afar", "cat", "/f", "/word").stdout
    assert told == "in gitsaid\n"


def test_bake_writes_a_dockerfile_for_a_repository(daemon: Daemon, tmp_path: Path) -> None:
    """Its own, or another of the repository's."""
    where = context(tmp_path / "work", "", sub__f="in git")
    (where / "Dockerfile").unlink()
    (where / "Dockerfile.other").write_text("FROM busybox\nCOPY sub/f /other\n")
    inline = 'dockerfile-inline = "FROM busybox\\nCOPY sub/f /inline\\n"\n  tags = ["baked-inline"]\n'
    other = 'dockerfile = "Dockerfile.other"\n  tags = ["baked-other"]\n'
    (where / "docker-bake.hcl").write_text(
        f'group "default" {{ targets = ["a", "b"] }}\ntarget "a" {{\n  {inline}}}\ntarget "b" {{\n  {other}}}\n'
    )
    commit(where)
    (tmp_path / "repo.git").symlink_to(where / ".git")
    with serving(tmp_path) as address:
        done = buildx(daemon, "bake", f"{address}/repo.git#main", experimental="0")
    assert not done.returncode, done.stderr
    for name in ("inline", "other"):
        assert daemon.cove("run", "--rm", f"baked-{name}", "cat", f"/{name}").stdout == "in git"


def policy(daemon: Daemon, where: Path, *rules: dict[str, object]) -> None:
    """The rules for buildx's next builds."""
    where.write_text(json.dumps({"version": 1, "rules": rules}))
    daemon.environment["EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"] = str(where)


def test_a_source_policy_is_followed(daemon: Daemon, tmp_path: Path, served: str) -> None:
    where = context(tmp_path / "c", f"FROM nowhere.example/base\nADD {served}/bake.hcl /f\n")
    image = {"identifier": "docker-image://nowhere.example/base:latest"}
    to = {"identifier": "docker-image://docker.io/library/busybox:latest"}
    convert = {"action": "CONVERT", "selector": image, "updates": to}
    words = ("build", "--provenance=false", "-t", "judged", str(where))
    try:
        policy(daemon, tmp_path / "p.json", convert)
        done = buildx(daemon, *words, experimental="0")
        assert not done.returncode, done.stderr
        assert daemon.cove("run", "--rm", "judged", "cat", "/f").stdout == _BAKE
        for denied in ("docker-image://docker.io/*", f"{served}/*"):
            policy(daemon, tmp_path / "p.json", convert, {"action": "DENY", "selector": {"identifier": denied}})
            done = buildx(daemon, *words, experimental="0")
            assert done.returncode and "denied by policy" in done.stderr, done.stderr
    finally:
        daemon.environment.pop("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", None)
