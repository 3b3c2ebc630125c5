"""Mounts of containers: images, parts of volumes, read-only trees; what is refused, and in which words."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.integration.api_client import Api

pytestmark = pytest.mark.root

_FILES = (
    "mkdir -p d/empty; echo text > d/file; chown 1000:2000 d/file; ln -s d good; ln -s / out; ln -s ../../.. up; "
    "ln -s d/file link"
)


@pytest.fixture
def image(daemon: Daemon) -> Iterator[str]:
    """An image with files and links in it."""
    daemon.cove("run", "--name", "made", "busybox", "sh", "-c", f"mkdir /x; cd /x; {_FILES}")
    daemon.cove("commit", "made", "shown:1")
    daemon.cove("rm", "made")
    try:
        yield "shown:1"
    finally:
        daemon.cove("rmi", "-f", "shown:1", check=False)


@pytest.fixture
def volume(daemon: Daemon) -> Iterator[str]:
    daemon.cove("run", "--rm", "-v", "parts:/v", "busybox", "sh", "-c", f"cd /v; {_FILES}")
    try:
        yield "parts"
    finally:
        daemon.cove("volume", "rm", "-f", "parts", check=False)


def _mounted(daemon: Daemon, words: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return daemon.docker("run", "--rm", "--mount", words, "busybox", *command, check=check)


@pytest.mark.parametrize("users", [(), ("--userns", "auto")], ids=["plain", "userns"])
def test_an_image_is_shown_and_cannot_be_written(daemon: Daemon, image: str, users: tuple[str, ...]) -> None:
    show = "stat -c '%u %g %a' /i/x/d/file; cat /i/x/d/file; touch /i/x/new"
    done = daemon.cove(
        "run",
        "--rm",
        *users,
        "--mount",
        f"type=image,source={image},target=/i",
        "busybox",
        "sh",
        "-c",
        show,
        check=False,
    )
    assert done.stdout == "1000 2000 644\ntext\n"
    assert "Read-only file system" in done.stderr


def test_a_part_of_an_image(daemon: Daemon, image: str) -> None:
    words = f"type=image,source={image},target=/i,image-subpath="
    assert _mounted(daemon, f"{words}x/good", "ls", "/i").stdout == "empty\nfile\n"
    assert _mounted(daemon, f"{words}x/link", "cat", "/i").stdout == "text\n"
    for path, words_of_refusal in (
        ("x/up", "escapes the base directory"),
        ("x/nothing", "cannot access path x/nothing"),
        ("../x", "subpath must be a relative path"),
    ):
        refused = _mounted(daemon, f"{words}{path}", "true", check=False)
        assert refused.returncode and words_of_refusal in refused.stderr, refused.stderr
    unknown = _mounted(daemon, "type=image,source=nowhere:1,target=/i", "true", check=False)
    assert "No such image: nowhere:1" in unknown.stderr


def test_an_image_that_is_mounted_is_in_use(daemon: Daemon, image: str) -> None:
    daemon.docker(
        "create", "--name", "user", "--mount", f"type=image,source={image},target=/i", "busybox", "ls", "/i/x"
    )
    try:
        refused = daemon.docker("rmi", image, check=False)
        assert refused.returncode and "is using its referenced image" in refused.stderr
        daemon.docker("rmi", "-f", image)
        daemon.cove("image", "prune", "-af")  # whatever nobody needs any more
        assert "good" in daemon.docker("start", "-a", "user").stdout
        shown = daemon.docker("inspect", "-f", "{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}}{{end}}", "user").stdout
        assert shown.strip() == f"image {image} false"
        taken = daemon.docker("cp", "user:/i/x/d/file", "-", text=False).stdout
        assert b"text\n" in taken
    finally:
        daemon.cove("rm", "-f", "user")


@pytest.mark.parametrize("size", [(), ("--opt", "size=16m")], ids=["directory", "sized"])
def test_a_part_of_a_volume(daemon: Daemon, size: tuple[str, ...]) -> None:
    daemon.cove("volume", "create", *size, "parts")
    try:
        daemon.cove("run", "--rm", "-v", "parts:/v", "busybox", "sh", "-c", f"cd /v; {_FILES}")
        words = "type=volume,source=parts,target=/v,volume-subpath="
        assert _mounted(daemon, f"{words}good", "ls", "/v").stdout == "empty\nfile\n"
        assert _mounted(daemon, f"{words}d/file", "cat", "/v").stdout == "text\n"
        for path in ("out", "up", "out/etc"):
            refused = _mounted(daemon, f"{words}{path}", "ls", "/v", check=False)
            assert refused.returncode and "escapes the base directory" in refused.stderr, refused.stderr
    finally:
        daemon.cove("volume", "rm", "-f", "parts")


def test_an_empty_part_of_a_volume_is_filled(daemon: Daemon, volume: str) -> None:
    words = f"type=volume,source={volume},target=/etc,volume-subpath=d/empty"
    assert "passwd" in _mounted(daemon, words, "ls", "/etc").stdout
    assert "passwd" in daemon.docker("run", "--rm", "-v", f"{volume}:/v", "busybox", "ls", "/v/d/empty").stdout


def test_read_only_means_the_mounts_below_too(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "below"], check=True)
    try:
        write = ("sh", "-c", "touch /b/x; touch /b/below/x; ls /b/below")
        seen = {}
        for kind in ("enabled", "writable", "readonly", "disabled"):
            words = f"type=bind,source={tmp_path},target=/b,readonly,bind-recursive={kind},bind-propagation=rprivate"
            seen[kind] = _mounted(daemon, words, *write, check=False).stdout
            (tmp_path / "below/x").unlink(missing_ok=True)
        assert seen == {"enabled": "", "writable": "x\n", "readonly": "", "disabled": ""}
        plain = daemon.docker("run", "--rm", "-v", f"{tmp_path}:/b:ro", "busybox", *write, check=False)
        assert plain.stdout == ""
    finally:
        subprocess.run(["umount", tmp_path / "below"], check=True)


def test_a_bind_shows_what_the_host_mounts_at_that_moment(daemon: Daemon, tmp_path: Path) -> None:
    look = ("run", "--rm", "-v", f"{tmp_path}:/b", "busybox", "ls", "/b/below")
    (tmp_path / "below").mkdir()
    for _ in range(3):
        assert daemon.cove(*look).stdout == ""
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "below"], check=True)
        (tmp_path / "below/file").touch()
        try:
            assert daemon.cove(*look).stdout == "file\n"
        finally:
            subprocess.run(["umount", tmp_path / "below"], check=True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("type=bind,source=/,target=/b,bind-recursive=writable", "!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
        ("type=image,target=/i", "field Source must not be empty"),
        ("type=volume,target=/v,volume-subpath=x", "must not set Subpath when using anonymous volumes"),
        ("type=bind,source=/nowhere/at/all,target=/b", "bind source path does not exist: /nowhere/at/all"),
        ("type=volume,source=odd,target=/v,volume-driver=nonsense", 'plugin "nonsense" not found'),
        ("type=volume,source=odd,target=/v,volume-opt=device=/dev/x", 'missing required option: "type"'),
    ],
)
def test_what_makes_no_sense_is_said(daemon: Daemon, words: str, complaint: str) -> None:
    refused = daemon.cove("run", "--rm", "--mount", words, "busybox", "true", check=False)
    assert refused.returncode and complaint in refused.stderr, refused.stderr
    assert "odd" not in daemon.cove("volume", "ls", "-q").stdout.split()


@pytest.mark.parametrize("client", ["cove", "docker"])
def test_a_container_that_cannot_be_made_makes_no_volume(daemon: Daemon, client: str) -> None:
    words = ("run", "--rm", "--pull=never", "-v", "first:/a", "-v", "/anonymous")
    odd = ("--mount", "type=volume,source=odd,target=/b,volume-driver=nonsense", "busybox", "true")
    before = daemon.cove("volume", "ls", "-q").stdout
    refused = getattr(daemon, client)(*words, *odd, check=False)
    assert refused.returncode and 'plugin "nonsense" not found' in refused.stderr
    assert daemon.cove("volume", "ls", "-q").stdout == before


@pytest.mark.parametrize(("shared", "propagation"), [(False, "rslave"), (True, "rslave"), (True, "rshared")])
def test_mounts_pass_where_the_host_shares_them(
    daemon: Daemon, tmp_path: Path, shared: bool, propagation: str
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-shared" if shared else "--make-private", tmp_path], check=True)
        for name in ("host", "container"):
            (tmp_path / name).mkdir()
        rights = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
        inside = "mount -t tmpfs none /x/container; touch /x/container/file; touch /x/ready; sleep 600"
        words = ("run", "-d", "--name", "passing", *rights, "-v", f"{tmp_path}:/x:{propagation}", "busybox")
        done = daemon.cove(*words, "sh", "-c", inside, check=shared)
        if not shared:
            assert f"path {tmp_path} is mounted on {tmp_path} but it is not a shared or slave mount" in done.stderr
            return
        assert eventually((tmp_path / "ready").exists)
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "host"], check=True)
        (tmp_path / "host/file").touch()
        assert daemon.cove("exec", "passing", "ls", "/x/host").stdout == "file\n"
        assert (tmp_path / "container/file").exists() == (propagation == "rshared")
    finally:
        daemon.cove("rm", "-f", "passing", check=False)
        subprocess.run(["umount", "-R", tmp_path], check=True)


def test_binds_of_the_data_root_pass_mounts_on(daemon: Daemon, tmp_path: Path) -> None:
    shown = ("inspect", "-f", "{{(index .Mounts 0).Propagation}}", "bound")
    for source, told, seen in (
        (daemon.data, "", "rslave"),
        (daemon.root, "", "rslave"),
        (daemon.data, ":rshared", "rshared"),
        (tmp_path, "", "rprivate"),
    ):
        daemon.cove("create", "--name", "bound", "-v", f"{source}:/x{told}", "busybox", "true")
        assert daemon.cove(*shown).stdout.strip() == seen
        daemon.cove("rm", "bound")
    refused = daemon.cove("create", "-v", f"{daemon.data}:/x:rprivate", "busybox", "true", check=False)
    assert refused.returncode == 1 and 'must use either propagation mode "rslave" or "rshared"' in refused.stderr
    assert (
        daemon.cove("run", "--rm", "-v", f"{daemon.data}:/x", "busybox", "test", "-e", "/x/cove.db").returncode == 0
    )


def test_a_directory_is_not_mounted_on_a_file(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = daemon.cove("ps", "-aq").stdout
    for source, target, complaint in (
        (tmp_path, "/etc/passwd", f"cannot mount the directory {tmp_path} on the file /etc/passwd"),
        (tmp_path / "file", "/etc", f"cannot mount the file {tmp_path}/file on the directory /etc"),
    ):
        for client in (daemon.cove, daemon.docker):
            refused = client("run", "--rm", "-v", f"{source}:{target}", "busybox", "true", check=False)
            assert refused.returncode == 127 or refused.returncode == 125 or refused.returncode == 126
            assert complaint in refused.stderr
    assert daemon.cove("ps", "-aq").stdout == before


def test_devices_are_mounted_inside_the_container(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    volumes = {
        "memory": ("type=tmpfs", "device=tmpfs", "o=size=1m,uid=1000"),
        "bound": ("type=none", f"device={tmp_path}", "o=bind,ro"),
        "absent": ("type=none", "device=/nowhere/at/all", "o=bind"),
        "strange": ("type=nonsensefs", "device=none"),
        "distant": ("type=nfs", "device=:/exported", "o=addr=nowhere.invalid"),
    }
    try:
        for name, options in volumes.items():
            daemon.cove("volume", "create", *(f"--opt={option}" for option in options), name)
        shown = daemon.cove("run", "--rm", "-v", "memory:/m", "busybox", "sh", "-c", "df -k /m; stat -c %u /m").stdout
        assert " 1024 " in shown and shown.endswith("1000\n")
        seen = daemon.cove("run", "--rm", "-v", "bound:/b", "busybox", "sh", "-c", "ls /b; touch /b/x", check=False)
        assert seen.stdout == "file\n" and "Read-only" in seen.stderr
        for name, complaint in (
            ("absent", "cannot mount /nowhere/at/all at /v: no such file or directory"),
            ("strange", "this kernel knows no file system nonsensefs"),
            ("distant", "The volume's server nowhere.invalid cannot be found"),
        ):
            refused = daemon.cove("run", "--rm", "-v", f"{name}:/v", "busybox", "true", check=False)
            assert refused.returncode and complaint in refused.stderr
            assert len(refused.stderr.strip().splitlines()) == 1
        for verb, name in (("export", "memory"), ("clone", "bound")):
            words = ("x-new",) if verb == "clone" else ()
            refused = daemon.cove("volume", verb, name, *words, check=False)
            assert refused.returncode == 1 and "is a device" in refused.stderr
    finally:
        daemon.cove("volume", "rm", "-f", *volumes)


def test_what_cannot_be_mounted_for_a_container_is_told_each_time(daemon: Daemon) -> None:
    """Its maker is another process than the container's first one, which ends at the same time."""
    daemon.docker("volume", "create", "--opt=type=ext4", "--opt=device=/dev/nowhere", "gone")
    try:
        for _ in range(12):
            words = ("run", "--rm", "--network", "host", "-v", "gone:/v", "busybox", "true")
            done = daemon.docker(*words, check=False)
            assert done.returncode and "cannot mount /dev/nowhere at /v: " in done.stderr
    finally:
        daemon.docker("volume", "rm", "gone")


def test_what_volumes_take_is_shown(daemon: Daemon) -> None:
    daemon.cove("run", "--rm", "-v", "measured:/m", "busybox", "dd", "if=/dev/zero", "of=/m/f", "bs=1k", "count=100")
    try:
        line = next(each for each in daemon.cove("volume", "ls", "--size").stdout.splitlines() if "measured" in each)
        assert line.split()[-2:] == ["0", "102kB"]
        assert "measured" in daemon.cove("system", "df", "-v").stdout
        refused = daemon.docker("volume", "update", "measured", check=False)
        assert refused.returncode and "cluster volumes" in refused.stderr
    finally:
        daemon.cove("volume", "rm", "measured")


@pytest.mark.parametrize("state", ["created", "running"])
def test_cp_writes_only_where_the_container_may(daemon: Daemon, tmp_path: Path, state: str) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "file").write_text("text")
    words = ("--read-only", "-v", "kept:/v", "-v", "kept:/r:ro", "-v", f"{tmp_path}/host:/b:ro")
    daemon.cove("create", "--name", "target", *words, "busybox", "sleep", "60")
    try:
        if state == "running":
            daemon.cove("start", "target")
        for client in (daemon.cove, daemon.docker):
            client("cp", str(tmp_path / "file"), "target:/v/written")
            for place, what in (("/r", "mounted volume"), ("/b", "mounted volume"), ("/etc", "container rootfs")):
                refused = client("cp", str(tmp_path / "file"), f"target:{place}/written", check=False)
                assert refused.returncode == 1 and f"{what} is marked read-only" in refused.stderr
        for place, status in (("/v", 200), ("/r", 403), ("/etc", 403)):
            assert Api(daemon).send("PUT", f"/containers/target/archive?path={place}", bytes(1024))[0] == status
        assert not list((tmp_path / "host").iterdir())
        daemon.cove("cp", "target:/r/written", str(tmp_path / "back"))
        assert (tmp_path / "back").read_text() == "text"
    finally:
        daemon.cove("rm", "-f", "target")
        daemon.cove("volume", "rm", "kept")
