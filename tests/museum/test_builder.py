"""The builder's exhibits: mounts, contexts, links, references and secrets that would lead out of a build.

Each has its twin, the honest use beside it.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import threading
from pathlib import Path

import docker
import pytest

from tests.conftest import PATIENCE, Daemon
from tests.integration.test_build import context


def build(daemon: Daemon, *words: str, check: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
    return daemon.cove("build", "--no-cache", *words, check=check, **options)


@pytest.mark.parametrize("source", ["../../../../../../..", "/../../..", "escape", "escape/etc", "proc"])
def test_bind_sources_stay_in_the_context(daemon: Daemon, tmp_path: Path, source: str) -> None:
    """CVE-2024-23652, CVE-2024-1753: `..`, "/" and links as the source of a mount show the host."""
    where = context(
        tmp_path / "c", f"FROM busybox\nRUN --mount=type=bind,source={source},target=/m ls -a /m /m/etc\n", inside="x"
    )
    (where / "escape").symlink_to("/../../../../../../..")
    (where / "proc").symlink_to("/proc/self/root")
    done = build(daemon, str(where))
    assert "shadow" not in done.stderr and "hostname" not in done.stderr


def test_an_honest_link_of_the_context_is_followed(daemon: Daemon, tmp_path: Path) -> None:
    """Twin."""
    where = context(
        tmp_path / "c", "FROM busybox\nRUN --mount=type=bind,source=link,target=/m test -e /m/f\n", real__f="x"
    )
    (where / "link").symlink_to("/real")
    build(daemon, str(where), check=True)


def test_a_writable_bind_never_reaches_the_context(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-9675's kin: what a step writes through a mount is thrown away; the next step sees nothing of it."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN --mount=type=bind,rw,target=/m echo changed > /m/f && test $(cat /m/f) = changed\n"
        "RUN --mount=type=bind,target=/m test $(cat /m/f) = kept\n"
        "RUN --mount=type=bind,target=/m ! echo x > /m/f\n",
        f="kept\n",
    )
    build(daemon, str(where), check=True)


def test_stage_links_as_mount_sources_stay_in_the_stage(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-11218: a stage swaps a directory that is mounted for a link to the host."""
    where = context(
        tmp_path / "c",
        "FROM busybox AS evil\nRUN ln -s /../../../../../etc /leak && ln -s /proc/self/root/etc /leak2\n"
        "FROM busybox\nRUN --mount=type=bind,from=evil,source=/leak,target=/m cat /m/shadow\n",
    )
    done = build(daemon, str(where))
    assert done.returncode and "root:" not in done.stderr


def test_a_cache_mount_cannot_be_swapped(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-23651: builds share a cache; one exchanges its sub-directory for a link while the other mounts it."""
    swap = context(
        tmp_path / "swap",
        "FROM busybox\nRUN --mount=type=cache,id=raced,target=/c "
        "for i in $(seq 300); do rm -rf /c/sub; ln -s / /c/sub; rm /c/sub; mkdir /c/sub; done\n",
    )
    mount = context(
        tmp_path / "mount",
        "FROM busybox\nRUN --mount=type=cache,id=raced,source=sub,target=/m ls -a /m\n",
    )
    racing = threading.Thread(target=build, args=(daemon, str(swap)))
    racing.start()
    try:
        for _ in range(4):
            done = build(daemon, str(mount))
            assert "shadow" not in done.stderr and " etc\n" not in done.stderr
    finally:
        racing.join()


def test_mount_stubs_are_never_removed_through_links(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-23652: cleaning up an empty mount point that was made a link removes a file of the host."""
    victim = tmp_path / "victim"
    victim.touch()
    where = context(
        tmp_path / "c",
        f"FROM busybox\nRUN --mount=type=tmpfs,target=/stub/dir ln -s {tmp_path} /evil && mkdir -p /other\n"
        "RUN test ! -e /stub\n",
    )
    build(daemon, str(where), check=True)
    assert victim.exists()


@pytest.mark.parametrize("flag", ["RUN --security=insecure true", "RUN --network=host true"])
def test_entitlements_must_be_granted(daemon: Daemon, tmp_path: Path, flag: str) -> None:
    """CVE-2024-23653: privileges that nobody granted."""
    where = context(tmp_path / "c", f"FROM busybox\n{flag}\n")
    done = build(daemon, str(where))
    assert done.returncode and "is not allowed for this build" in done.stderr


def test_a_granted_entitlement_works(daemon: Daemon, tmp_path: Path) -> None:
    """Twin; and without it a step has no more rights than any container."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN --security=insecure mkdir /mnt && mount -t tmpfs x /mnt\nRUN ! mount -t tmpfs x /tmp\n",
    )
    build(daemon, "--allow", "security.insecure", str(where), check=True)


@pytest.mark.parametrize(
    "address",
    ["ssh://-oProxyCommand=touch${IFS}PWNED/x.git", "https://127.0.0.1:1/x.git#--upload-pack=touch", "git@h:x#-x"],
)
def test_git_never_takes_a_reference_for_a_flag(daemon: Daemon, tmp_path: Path, address: str) -> None:
    """CVE-2019-13139, CVE-2022-39253."""
    done = build(daemon, address.replace("PWNED", str(tmp_path / "pwned")))
    assert done.returncode and not (tmp_path / "pwned").exists()


def test_links_of_a_context_lead_nowhere(daemon: Daemon) -> None:
    """CVE-2014-9357 and kin: a context's archive whose links and names climb out."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, kind, link in (
            ("evil", tarfile.SYMTYPE, "/etc"),
            ("evil/cove-was-here", tarfile.REGTYPE, ""),
            ("hard", tarfile.LNKTYPE, "../../../../../../../../etc/shadow"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        content = b"FROM busybox\nCOPY . /x\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    client = docker.APIClient(base_url=daemon.host)
    with pytest.raises(docker.errors.APIError, match=r"leads out of the directory|is no directory|is not there"):
        list(client.build(fileobj=io.BytesIO(raw.getvalue()), custom_context=True, decode=True))
    assert not Path("/etc/cove-was-here").exists()


def test_copies_into_a_linked_directory_stay_in_the_image(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2018-15664's kin for COPY: the base's link points at the host; and the twin, /var/run → /run."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN mkdir -p /run && ln -s /run /var/run && ln -s /../../../../../tmp /out\n"
        "COPY d /var/run/\nCOPY d /out/\n"
        "RUN test -e /run/cove-marker && test -e /tmp/cove-marker && test -L /var/run\n",
        **{"d__cove-marker": "x"},
    )
    build(daemon, str(where), check=True)
    assert not Path("/tmp/cove-marker").exists() and not Path("/run/cove-marker").exists()


def test_a_loaded_image_never_poisons_the_cache(own_daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-24557: an image that claims the history of a step is not that step's result."""
    where = context(tmp_path / "c", "FROM busybox\nRUN echo honest > /result\n")
    base = own_daemon.cove("create", "busybox", "sh").stdout.strip()
    (tmp_path / "result").write_text("poisoned")
    own_daemon.cove("cp", str(tmp_path / "result"), f"{base}:/result")
    own_daemon.cove("commit", "-m", "buildkit.dockerfile.v0", base, "poison")
    own_daemon.cove("save", "-o", str(tmp_path / "p.tar"), "poison")
    own_daemon.cove("rmi", "poison")
    own_daemon.cove("load", "-i", str(tmp_path / "p.tar"))
    own_daemon.cove("build", "-q", "-t", "honest", "--cache-from", "poison", str(where))
    assert own_daemon.cove("run", "--rm", "honest", "cat", "/result").stdout == "honest\n"
    own_daemon.cove("build", "-q", "-t", "again", str(where))  # twin: the cache itself works
    first, second = own_daemon.cove("inspect", "again", "honest", "-f", "{{.Id}}").stdout.split()
    assert first == second


def test_secrets_are_in_no_log_history_or_layer(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2019-13509; the twin, that a step can use it, is in the same build."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN --mount=type=secret,id=s grep -q 'museum.secret' /run/secrets/s && ls /run\n",
    )
    (tmp_path / "s").write_text("museum-secret")
    done = build(daemon, "-t", "museum", "--secret", f"id=s,src={tmp_path}/s", str(where), check=True)
    assert "museum-secret" not in done.stderr + daemon.cove("history", "--no-trunc", "museum").stdout + daemon.log()
    assert subprocess.run(["grep", "-rqs", "museum-secret", daemon.data, daemon.run]).returncode == 1


def test_workers_see_nothing_of_the_host_in_odd_owners(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-9676's kin: /etc/passwd as a FIFO or a link, when --chown asks for a name."""
    where = context(
        tmp_path / "c",
        "FROM busybox\nRUN rm /etc/passwd && mkfifo /etc/passwd\nCOPY --chown=nobody f /f\n",
        f="x",
    )
    done = build(daemon, str(where), timeout=60 * PATIENCE)
    assert done.returncode and "invalid user 'nobody'" in done.stderr
    context(where, "FROM busybox\nCOPY --chown=worker f /f\nRUN test $(stat -c %u /f) = 1000\n")
    build(daemon, str(where), check=True)


@pytest.mark.parametrize("words", ["id=../../../../../etc", "id=/etc", "id=a,source=../../../../../etc"])
def test_a_caches_name_is_no_path(daemon: Daemon, tmp_path: Path, words: str) -> None:
    """CVE-2024-9675: a cache mount's id or source climbs to a directory of the host; the twin: it is a cache."""
    line = f"RUN --mount=type=cache,{words},target=/seen"
    lines = f"FROM busybox\n{line} ls -A /seen; echo kept > /seen/mark\n{line} cat /seen/mark\n"
    told = build(daemon, str(context(tmp_path / "c", lines)), check=True).stderr
    assert "hostname" not in told and "passwd" not in told and " kept\n" in told
    assert not Path("/etc/mark").exists()


def test_a_binds_propagation_is_not_the_files_to_say(daemon: Daemon, tmp_path: Path) -> None:
    """CVE-2024-9407: options smuggled into a bind mount; the twin: a bind from which nothing leaks."""
    for number, word in enumerate(("bind-propagation=rshared", "bind-propagation=rslave", "z=1", "U=true")):
        where = context(tmp_path / str(number), f"FROM busybox\nRUN --mount=type=bind,target=/c,{word} true\n")
        told = build(daemon, str(where)).stderr
        assert "unexpected key" in told and "line 2" in told
    lines = "FROM busybox\nRUN --mount=type=bind,target=/c cat /proc/self/mountinfo\n"
    told = build(daemon, str(context(tmp_path / "c", lines)), check=True).stderr
    (mount,) = [line for line in told.splitlines() if " /c ro" in line]
    assert "shared:" not in mount and "master:" not in mount
