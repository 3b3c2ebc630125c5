"""BuildKit's protocol: by the real clients where they are, and by a small client of the tests' own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, PATIENCE, Daemon, eventually
from tests.integration.buildkit_world import Control, Failed, File, Session, first, pairs, parts
from tests.integration.registry_world import serving
from tests.integration.test_build import context, output

SOLVE, STATUS = "/moby.buildkit.v1.Control/Solve", "/moby.buildkit.v1.Control/Status"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge"
LIMIT = 120 * PATIENCE


# ── the protocol, by a client of our own ──────────────────────────────────────────────────────────


@pytest.fixture
def control(daemon: Daemon) -> Iterator[Control]:
    client = Control(str(daemon.run / "cove.sock"))
    yield client
    client.close()


def solve(control: Control, ref: str, session: str, exporter: dict[str, str], **options: str) -> bytes:
    """Control.Solve with the frontend dockerfile.v0; its answer."""
    attributes = [(7, pair) for pair in pairs({key.replace("_", "-"): value for key, value in options.items()})]
    exported = [(4, pair) for pair in pairs(exporter)]
    request = [(1, ref), (3, "image"), *exported, (5, session), (6, "dockerfile.v0"), *attributes]
    (answer,) = control.call(SOLVE, request)  # type: ignore[arg-type]
    return answer


def test_a_build_over_a_session_and_its_progress(daemon: Daemon, control: Control) -> None:
    dockerfile = (
        b"FROM busybox AS one\nCOPY big small /\nRUN --mount=type=secret,id=s wc -c /big && cat /run/secrets/s\n"
    )
    big = os.urandom(6 << 20)
    files = {"big": File(big), "small": File(b"s"), "unused": File(b"u")}
    session = Session(
        str(daemon.run / "cove.sock"),
        "session-1",
        {"dockerfile": {"Dockerfile": File(dockerfile)}, "context": files},
        {"s": b"very secret"},
    )
    told: list[bytes] = []
    follower = threading.Thread(target=lambda: told.extend(control.call(STATUS, [(1, "build-1")])))
    follower.start()
    answer = solve(control, "build-1", "session-1", {"name": "docker.io/library/over-session:latest"})
    follower.join(LIMIT)
    session.close()
    response = {first(pair, 1).decode(): first(pair, 2).decode() for pair in parts(answer, 1)}
    image = json.loads(daemon.docker("image", "inspect", "over-session").stdout)[0]
    assert response["containerimage.config.digest"] == image["Id"]
    assert response["image.name"] == "docker.io/library/over-session:latest"
    assert output(daemon, "over-session", "wc", "-c", "/big", "/small").split()[:3:2] == [str(len(big)), "1"]
    assert files["big"].sent == 1 and files["unused"].sent == 0  # only what COPY names is asked for
    vertices = [vertex for each in told for vertex in parts(each, 1)]
    names = {first(vertex, 3).decode() for vertex in vertices}
    assert "[internal] load build definition from Dockerfile" in names and "exporting to image" in names
    assert any(name.startswith("[one ") and "COPY big small /" in name for name in names)
    assert all(first(vertex, 1).startswith(b"sha256:") for vertex in vertices)
    assert b"very secret" in b"".join(first(log, 4) for each in told for log in parts(each, 3))


def test_a_failure_tells_the_line(daemon: Daemon, control: Control) -> None:
    dockerfile = {"Dockerfile": File(b"FROM busybox\nRUN true\nRUN exit 3\n")}
    session = Session(str(daemon.run / "cove.sock"), "session-2", {"dockerfile": dockerfile, "context": {}})
    with pytest.raises(Failed) as failed:
        solve(control, "build-2", "session-2", {})
    session.close()
    code, message, details = failed.value.args
    assert code == "2" and 'process "/bin/sh -c exit 3" did not complete successfully: exit code: 3' in message
    assert b"errdefs.Source+json" in details and b'"line": 3' in details


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        (b"FROM scratch\nENV a=b\nCOPY nowhere /\n", [3]),
        (b"FROM busybox\nRUN false \\\n # and more\n more\n", [2, 4]),
        (b"FROM busybox\nCOPY --from=localhost:1/none / /\n", [2]),
        (b"FROM scratch\nRUN no shell\n", [2]),
    ],
)
def test_whatever_fails_tells_its_lines(daemon: Daemon, control: Control, lines: bytes, places: list[int]) -> None:
    ref = f"lines-{len(lines)}"
    files = {"dockerfile": {"Dockerfile": File(lines)}, "context": {"a": File(b"a")}}
    session = Session(str(daemon.run / "cove.sock"), ref, files)
    with pytest.raises(Failed) as failed:
        solve(control, ref, ref, {})
    session.close()
    details = failed.value.args[2].decode(errors="replace")
    told = json.loads(details[details.index('{"info"') : details.rindex("}") + 1])
    assert [each["start"]["line"] for each in told["ranges"]] == places


def test_the_name_of_the_host(daemon: Daemon, control: Control) -> None:
    files = {"Dockerfile": File(b"FROM busybox\nRUN test $(hostname) = there && grep there /etc/hosts\n")}
    session = Session(str(daemon.run / "cove.sock"), "named", {"dockerfile": files, "context": {}})
    solve(control, "named", "named", {}, hostname="there")
    session.close()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ([(2, [(1, b"\x0a\x00")])], "low-level language"),
        ([(6, "gateway.v0"), (7, [(1, "source"), (2, "somebody/frontend:1")])], "somebody/frontend:1"),
        ([(6, "dockerfile.v0"), (7, [(1, "attest:sbom"), (2, "")])], "attestations (sbom)"),
        ([(3, "containerd-magic"), (6, "dockerfile.v0")], "the exporter 'containerd-magic' is not known"),
        ([(6, "dockerfile.v0"), (5, "nobody's")], "no active session"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_words(control: Control, request_: list[object], words: str) -> None:
    with pytest.raises(Failed) as failed:
        control.call(SOLVE, [(1, f"refused-{words[:3]}"), *request_])  # type: ignore[list-item]
    assert words in failed.value.args[1].replace("%", "")


def test_a_client_that_goes_away_ends_its_build(daemon: Daemon) -> None:
    path = str(daemon.run / "cove.sock")
    seconds = b"%d" % (10**7 + os.getpid())  # nobody else on this machine sleeps so long
    dockerfile = {"Dockerfile": File(b"FROM busybox\nRUN echo begun; sleep " + seconds + b"\n")}
    session = Session(path, "session-3", {"dockerfile": dockerfile, "context": {}})
    control = Control(path)
    building = threading.Thread(target=lambda: _ignore(solve, control, "build-3", "session-3", {}), daemon=True)
    building.start()
    watching = Control(path)
    told = threading.Thread(target=lambda: _ignore(watching.call, STATUS, [(1, "build-3")]), daemon=True)
    told.start()
    assert eventually(lambda: b"sleep\0" + seconds in _commands(daemon), LIMIT)
    control.close()
    session.close()
    assert eventually(lambda: b"sleep\0" + seconds not in _commands(daemon), LIMIT)
    watching.close()


def _ignore(function: object, *arguments: object) -> None:
    try:
        function(*arguments)  # type: ignore[operator]
    except (Failed, AssertionError, OSError):
        pass


def _commands(daemon: Daemon) -> bytes:
    found = b""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found += (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return found


# ── the real clients ──────────────────────────────────────────────────────────────────────────────


def _program(daemon: Daemon) -> list[str]:
    """A docker command that speaks BuildKit's protocol: one before 23 by itself, a newer one with buildx."""
    plugins = os.environ.get("COVE_TEST_CLI_PLUGINS", "")
    config = Path(daemon.environment["DOCKER_CONFIG"])
    if plugins and not (config / "cli-plugins").exists():
        config.mkdir(parents=True, exist_ok=True)
        shutil.copytree(plugins, config / "cli-plugins")
    environment = os.environ | {"DOCKER_CONFIG": str(config)}
    places = [Path(each) / "docker" for each in os.environ.get("PATH", "").split(":")]
    for place in places:
        if not place.exists():
            continue
        version = subprocess.run([place, "--version"], capture_output=True, text=True, timeout=LIMIT).stdout
        major = version.partition("version ")[2].partition(".")[0]
        buildx = subprocess.run([place, "buildx", "version"], capture_output=True, env=environment, timeout=LIMIT)
        if not buildx.returncode or (major.isdecimal() and int(major) < 23):
            return [str(place)]
    pytest.skip("no docker command on this machine speaks BuildKit's protocol: neither buildx nor docker before 23")


def build(daemon: Daemon, where: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*_program(daemon), "build", "--progress=plain", *words, str(where)]
    environment = os.environ | {"DOCKER_HOST": daemon.host, "DOCKER_BUILDKIT": "1"} | daemon.environment
    environment["DOCKER_BUILDKIT"] = "1"
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        pytest.fail(f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}\n--- daemon:\n{daemon.log()}")
    return done


def test_dockers_own_command_builds(daemon: Daemon, tmp_path: Path) -> None:
    where = context(
        tmp_path / "c",
        "ARG WHO\nFROM busybox AS one\nARG WHO\nRUN echo hello $WHO > /out\nFROM one\nCOPY sub /sub\nLABEL k=v\n",
        **{"sub__b.txt": "b", "left.txt": "l", ".dockerignore": "left.txt\nsub/no\n", "sub__no": "n"},
    )
    os.symlink("b.txt", where / "sub/link")
    os.chmod(where / "sub/b.txt", 0o750)
    words = ("-t", "kit", "--build-arg", "WHO=kit", "--label", "l=w")
    told = build(daemon, where, *words).stderr
    assert "RUN echo hello kit" in told and "naming to docker.io/library/kit" in told
    assert output(daemon, "kit", "cat", "/out", "/sub/link") == "hello kit\nb"
    assert output(daemon, "kit", "ls", "-A", "/sub") == "b.txt\nlink\n"
    assert output(daemon, "kit", "stat", "-c", "%a %u", "/sub/b.txt") == "750 0\n"
    assert '"l": "w"' in daemon.docker("image", "inspect", "kit").stdout
    again = build(daemon, where, *words).stderr
    assert again.count("CACHED") == 2
    (where / "sub/b.txt").write_text("c")
    assert build(daemon, where, *words).stderr.count("CACHED") == 1
    assert output(daemon, "kit", "cat", "/sub/link") == "c"


def test_dockers_own_command_shows_the_failing_line(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo why; exit 4\n")
    failed = build(daemon, where, check=False)
    assert failed.returncode and "why" in failed.stderr
    assert 'process "/bin/sh -c echo why; exit 4" did not complete successfully: exit code: 4' in failed.stderr


def test_secrets_come_over_the_session(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN --mount=type=secret,id=s,required cat /run/secrets/s\n")
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    assert "hidden" in build(daemon, where, "--secret", f"id=s,src={secret}", "--no-cache").stderr
    refused = build(daemon, where, "--no-cache", check=False)
    assert refused.returncode and "secret s: not found" in refused.stderr


def test_a_result_becomes_the_clients_files(daemon: Daemon, tmp_path: Path) -> None:
    lines = "FROM busybox AS b\nRUN mkdir -p /d/e && echo x > /d/e/f && ln /d/e/f /d/hard && ln -s e/f /d/soft"
    where = context(tmp_path / "c", f"{lines}\nFROM scratch\nCOPY --from=b /d /d\n")
    before = daemon.docker("images", "-aq").stdout
    build(daemon, where, "--output", f"type=local,dest={tmp_path / 'out'}")
    assert (tmp_path / "out/d/e/f").read_text() == "x\n" and os.readlink(tmp_path / "out/d/soft") == "e/f"
    build(daemon, where, "--output", f"type=tar,dest={tmp_path / 'out.tar'}")
    listed = subprocess.run(["tar", "tf", tmp_path / "out.tar"], capture_output=True, text=True, check=True).stdout
    assert "d/e/f" in listed.split()
    assert daemon.docker("images", "-aq").stdout == before


def test_ssh_agents_come_over_the_session(daemon: Daemon, tmp_path: Path) -> None:
    tools = [shutil.which(name) for name in ("ssh-agent", "ssh-add", "ssh-keygen")]
    if None in tools:
        pytest.skip("ssh-agent, ssh-add and ssh-keygen are not all installed")
    where = context(tmp_path / "c", "FROM busybox\nCOPY root /\nRUN --mount=type=ssh,required ssh-add -l\n")
    libraries = subprocess.run(["ldd", str(tools[1])], capture_output=True, text=True, check=True).stdout
    for name in (str(tools[1]), *(word for word in libraries.split() if word.startswith("/"))):
        (where / "root" / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, where / "root" / name[1:])
    key, place = tmp_path / "key", tmp_path / "agent"
    subprocess.run([str(tools[2]), "-q", "-t", "ed25519", "-N", "", "-C", "key-of-the-test", "-f", key], check=True)
    agent = subprocess.Popen([str(tools[0]), "-D", "-a", place], stdout=subprocess.DEVNULL)
    try:
        assert eventually(place.exists)
        subprocess.run([str(tools[1]), "-q", key], env=os.environ | {"SSH_AUTH_SOCK": str(place)}, check=True)
        assert "key-of-the-test" in build(daemon, where, "--ssh", f"default={place}").stderr
    finally:
        agent.terminate()
        agent.wait(LIMIT)
    refused = build(daemon, where, "--no-cache", check=False)
    assert refused.returncode and "ssh agent default: not found" in refused.stderr


def test_credentials_for_a_private_base_come_over_the_session(daemon: Daemon, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    command = [BIN / "cove", "registry", "passwd", "--password-stdin", passwords, "me"]
    subprocess.run(command, input=b"secret\n", check=True, capture_output=True)
    config = Path(daemon.environment["DOCKER_CONFIG"]) / "config.json"
    with serving(tmp_path / "registry", "--htpasswd", str(passwords)) as registry:
        where = context(tmp_path / "c", f"FROM {registry.host}/private/base\nRUN echo had it\n")
        refused = build(daemon, where, check=False)
        assert refused.returncode and f"{registry.host}/private/base" in refused.stderr
        config.parent.mkdir(parents=True, exist_ok=True)
        before = config.read_text() if config.exists() else None
        try:
            auth = base64.b64encode(b"me:secret").decode()
            config.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
            daemon.docker("tag", "busybox", f"{registry.host}/private/base")
            daemon.docker("push", f"{registry.host}/private/base")
            daemon.docker("rmi", f"{registry.host}/private/base")
            assert "had it" in build(daemon, where, "--no-cache").stderr
            daemon.docker("rmi", f"{registry.host}/private/base")
        finally:
            config.unlink() if before is None else config.write_text(before)


def buildx(daemon: Daemon, *words: str, experimental: str = "1") -> subprocess.CompletedProcess[str]:
    program = _program(daemon)
    environment = os.environ | {"DOCKER_HOST": daemon.host, "BUILDX_EXPERIMENTAL": experimental} | daemon.environment
    version = subprocess.run([*program, "buildx", "version"], capture_output=True, env=environment, timeout=LIMIT)
    if version.returncode:
        pytest.skip("docker's plugin buildx is not installed on this machine")
    options = {"capture_output": True, "text": True, "timeout": LIMIT, "stdin": subprocess.DEVNULL}
    return subprocess.run([*program, "buildx", *words], env=environment, **options)  # type: ignore[call-overload,no-any-return]


def test_bake_links_targets(daemon: Daemon, tmp_path: Path) -> None:
    lines = "FROM below\nCOPY --from=below /base /copied\nRUN echo $SAID >> /copied\n"
    context(tmp_path / "base", "FROM busybox\nRUN echo from the base > /base\nENV SAID=1\n")
    (tmp_path / "bake.json").write_text(
        json.dumps(
            {
                "target": {
                    "base": {"context": str(tmp_path / "base")},
                    "default": {
                        "context": str(tmp_path / "base"),
                        "contexts": {"below": "target:base"},
                        "dockerfile-inline": lines,
                        "tags": ["baked"],
                    },
                }
            }
        )
    )
    before = set(daemon.docker("images", "-aq").stdout.split())
    done = buildx(daemon, "bake", "-f", str(tmp_path / "bake.json"), "--progress=plain")
    assert not done.returncode, done.stderr
    assert output(daemon, "baked", "cat", "/copied") == "from the base\n1\n"
    assert len(set(daemon.docker("images", "-aq").stdout.split()) - before) == 1  # the linked target left no image


def test_the_builder_tells_of_itself_and_its_cache(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", "FROM busybox\nRUN echo for the cache > /f\n")
    told = buildx(daemon, "inspect").stdout
    assert "running" in told and "linux/" in told
    build(daemon, where, "--no-cache")
    used = buildx(daemon, "du", "--verbose").stdout
    assert "RUN echo for the cache > /f" in used
    pruned = buildx(daemon, "prune", "-f", "-a")
    assert not pruned.returncode and "Total:" in pruned.stdout
    assert "RUN echo for the cache > /f" not in buildx(daemon, "du", "--verbose").stdout


def test_buildx_asks_of_a_dockerfile(daemon: Daemon, tmp_path: Path) -> None:
    where = context(tmp_path / "c", STAGES.decode())
    assert "base      what all stand on\n" in buildx(daemon, "build", "--print=targets", str(where)).stdout
    assert "WARNING: MaintainerDeprecated" in buildx(daemon, "build", "--print=lint", str(where)).stdout
    assert "TARGET" not in buildx(daemon, "build", "--print=outline", str(where)).stdout  # it has no name


# ── more of the protocol ──────────────────────────────────────────────────────────────────────────


def test_several_platforms_become_one_index(daemon: Daemon, control: Control) -> None:
    lines = b"FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n"
    files = {"amd64": File(b"this is amd64"), "arm64": File(b"this is arm64")}
    contexts = {"dockerfile": {"Dockerfile": File(lines)}, "context": files}
    session = Session(str(daemon.run / "cove.sock"), "session-4", contexts)
    name = {"name": "docker.io/library/many:latest"}
    solve(control, "build-4", "session-4", name, platform="linux/amd64,linux/arm64")
    session.close()
    listed = daemon.cove("image", "inspect", "--platforms", "many").stdout
    assert "linux/amd64" in listed and "linux/arm64" in listed


def test_the_next_build_is_sent_only_what_changed(daemon: Daemon, control: Control) -> None:
    lines = b"FROM busybox\nCOPY . /c\n"
    own, whole = 1_700_000_000 * 10**9 + 123, 1_700_000_000 * 10**9
    files = {
        "same": File(b"same", mtime_ns=own),
        "new": File(b"1", mtime_ns=own),
        "gone": File(b"x", mtime_ns=own),
        "whole": File(b"1", mtime_ns=whole),
    }

    def once(number: int) -> dict[str, str]:
        contexts = {"dockerfile": {"Dockerfile": File(lines)}, "context": files}
        session = Session(str(daemon.run / "cove.sock"), f"session-next-{number}", contexts)
        name = {"name": "docker.io/library/next:latest"}
        solve(control, f"build-next-{number}", f"session-next-{number}", name)
        session.close()
        listed = output(daemon, "next", "sh", "-c", "cd /c; for f in *; do echo $f $(cat $f); done").splitlines()
        return dict(line.split() for line in listed)

    assert once(1) == {"same": "same", "new": "1", "gone": "x", "whole": "1"}
    del files["gone"]
    files["new"] = File(b"2", mtime_ns=own + 5)
    files["whole"] = File(b"3", mtime_ns=whole)  # another file's, perhaps: whole seconds prove nothing
    assert once(2) == {"same": "same", "new": "2", "whole": "3"}
    assert [files[name].sent for name in ("same", "new", "whole")] == [1, 1, 1]
    assert "local source for" in daemon.docker("system", "df", "-v", "--format", "json").stdout


STAGES = b"""# base what all stand on
FROM busybox AS base
MAINTAINER somebody
FROM base
RUN echo $nowhere; false
"""


def ask(daemon: Daemon, name: str, dockerfile: bytes, *options: tuple[str, str]) -> dict[str, str]:
    """The answer to a question, asked as clients do: a build that drives the frontend itself."""
    path, ref = str(daemon.run / "cove.sock"), f"ask-{os.urandom(4).hex()}"
    contexts: dict[str, dict[str, File]] = {"dockerfile": {"Dockerfile": File(dockerfile)}, "context": {}}
    session, building, bridge = Session(path, ref, contexts), Control(path), Control(path)
    build_ = threading.Thread(target=lambda: _ignore(building.call, SOLVE, [(1, ref), (5, ref)]), daemon=True)
    build_.start()
    metadata = {"buildkit-controlapi-buildid": ref}
    words = [(3, pair) for pair in pairs({"requestid": name, **dict(options)})]
    try:
        (answer,) = bridge.call(f"{BRIDGE}/Solve", [(2, "dockerfile.v0"), *words], **metadata)  # type: ignore[list-item]
    finally:
        bridge.call(f"{BRIDGE}/Return", [], **metadata)
        build_.join(LIMIT)
        for each in (session, building, bridge):
            each.close()
    return {first(pair, 1).decode(): first(pair, 2).decode() for pair in parts(first(answer, 3), 10)}


def test_a_check_tells_what_the_rules_say_and_builds_nothing(daemon: Daemon) -> None:
    before = daemon.docker("images", "-aq").stdout
    told = ask(daemon, "frontend.lint", STAGES)
    found = json.loads(told["result.json"])
    said = [(each["ruleName"], each["location"]["ranges"][0]["start"]["line"]) for each in found["warnings"]]
    assert said == [("MaintainerDeprecated", 3)] and "buildError" not in found
    assert base64.b64decode(found["sources"][0]["data"]) == STAGES
    assert told["result.statuscode"] == "1" and told["version"]
    assert "WARNING: MaintainerDeprecated - https://" in told["result.txt"]
    assert "   3 | >>> MAINTAINER somebody\n" in told["result.txt"]
    apart = b"# check=error=true\nFROM busybox AS a\nENV A=$nowhere\nFROM busybox AS b\n"
    assert [each["ruleName"] for each in json.loads(ask(daemon, "frontend.lint", apart)["result.json"])["warnings"]]
    assert ask(daemon, "frontend.lint", apart, ("target", "b"))["result.statuscode"] == "0"
    wrong = ask(daemon, "frontend.lint", b"FROM busybox\nCOPPY a b\n")
    error = json.loads(wrong["result.json"])["buildError"]
    assert "COPPY" in error["message"] and error["location"]["ranges"][0]["start"]["line"] == 2
    assert wrong["result.statuscode"] == "1"
    assert daemon.docker("images", "-aq").stdout == before


def test_questions_of_a_dockerfile_are_answered_or_refused(daemon: Daemon, control: Control) -> None:
    told = ask(daemon, "frontend.targets", STAGES)
    listed = [
        (each.get("name"), each.get("default"), each["base"]) for each in json.loads(told["result.json"])["targets"]
    ]
    assert listed == [("base", None, "busybox"), (None, True, "base")]
    assert told["result.txt"] == "TARGET    DESCRIPTION\nbase      what all stand on\n(default) \n"
    described = json.loads(ask(daemon, "frontend.subrequests.describe", STAGES)["result.json"])
    answered = {each["name"] for each in described}
    names = ("lint", "outline", "targets", "subrequests.describe")
    assert answered == {f"frontend.{name}" for name in names}
    with pytest.raises(Failed, match=r"unsupported request frontend\.poem") as failed:
        ask(daemon, "frontend.poem", STAGES)
    assert b"errdefs.Subrequest+json" in failed.value.args[2]
    (plain,) = control.call(
        SOLVE, [(1, "ask-plain"), (6, "dockerfile.v0"), (7, pairs({"requestid": "frontend.subrequests.describe"})[0])]
    )
    assert b"result.json" in plain
