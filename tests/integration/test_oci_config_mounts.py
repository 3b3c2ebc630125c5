"""mounts, root and rootfsPropagation of a configuration: options, recursion, id maps, propagation, tmpcopyup."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

MAP = [{"containerID": 0, "hostID": 200000, "size": 65536}]


def with_mount(content: dict[str, Any], destination: str, kind: str, source: str, *options: str, **more: Any) -> Any:
    content["mounts"].append({"destination": destination, "type": kind, "source": source, "options": options, **more})
    return content


@pytest.fixture
def nested(bundle: Bundle) -> Iterator[Path]:
    """A directory with a tmpfs mounted in it."""
    path = bundle.path / "nested"
    (path / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / "sub"], check=True)
    yield path
    subprocess.run(["umount", path / "sub"], check=True)
    shutil.rmtree(path)


def flags_of(text: str, place: str) -> set[str]:
    """The options that /proc/self/mounts shows for a place."""
    return next(set(line.split()[3].split(",")) for line in text.splitlines() if line.split()[1] == place)


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ],
)
def test_recursive_options(bundle: Bundle, nested: Path, option: str, shown: str) -> None:
    content = with_mount(config("cat", "/proc/self/mounts"), "/mnt", "none", str(nested), "rbind", option)
    text = bundle.out(content)
    assert shown in flags_of(text, "/mnt") and shown in flags_of(text, "/mnt/sub")


@pytest.mark.parametrize(
    ("options", "shown", "mapped"),
    [
        ((), {"ro", "noexec", "noatime"}, {"ro", "noexec", "noatime"}),
        (("nosuid",), {"rw", "nosuid", "noatime"}, {"ro", "noexec", "nosuid", "noatime"}),
        (("rw", "exec", "strictatime"), {"rw"}, None),
        (("noexec", "nodiratime"), {"rw", "noexec", "nodiratime", "relatime"}, None),
        (("ro", "atime"), {"ro", "noatime"}, {"ro", "noexec", "noatime"}),
    ],
)
def test_a_bind_with_options_has_those_alone_but_for_what_its_user_namespace_may_not_undo(
    bundle: Bundle, nested: Path, options: tuple[str, ...], shown: set[str], mapped: set[str] | None
) -> None:
    """`mapped`: with a user namespace of its own; None where all is named."""
    source = nested / "sub"
    subprocess.run(["mount", "-o", "remount,bind,ro,noexec,noatime", source], check=True)
    content = with_mount(config("cat", "/proc/self/mounts"), "/mnt", "none", str(source), "bind", *options)
    assert flags_of(bundle.out(content), "/mnt") - {"inode64"} == shown
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = content["linux"]["gidMappings"] = MAP
    if mapped is not None:
        assert flags_of(bundle.out(content), "/mnt") - {"inode64"} == mapped


def test_plain_options_are_not_recursive(bundle: Bundle, nested: Path) -> None:
    content = with_mount(config("cat", "/proc/self/mounts"), "/mnt", "none", str(nested), "rbind", "ro", "nodev")
    text = bundle.out(content)
    assert {"ro", "nodev"} <= flags_of(text, "/mnt") and not {"ro", "nodev"} & flags_of(text, "/mnt/sub")


def test_recursive_options_are_taken_back(bundle: Bundle, nested: Path) -> None:
    content = with_mount(
        config("cat", "/proc/self/mounts"), "/mnt", "none", str(nested), "rbind", "rro", "rrw", "rstrictatime"
    )
    text = bundle.out(content)
    assert "rw" in flags_of(text, "/mnt/sub") and "relatime" not in flags_of(text, "/mnt/sub")


def test_bind_without_recursion_leaves_submounts_out(bundle: Bundle, nested: Path) -> None:
    (nested / "sub/inner").touch()
    content = config("sh", "-c", "ls /mnt/sub; ls /all/sub")
    with_mount(content, "/mnt", "none", str(nested), "bind")
    assert bundle.out(with_mount(content, "/all", "none", str(nested), "rbind")) == "inner\n"


@pytest.mark.parametrize(("option", "expected"), [("idmap", "200005"), ("ridmap", "200005")])
def test_mounts_map_ids(bundle: Bundle, nested: Path, option: str, expected: str) -> None:
    for place in (nested / "f", nested / "sub/f"):
        place.touch()
        os.chown(place, 5, 5)
    content = config("stat", "-c", "%u", "/mnt/f", "/mnt/sub/f")
    with_mount(content, "/mnt", "none", str(nested), "rbind", option, uidMappings=MAP, gidMappings=MAP)
    assert bundle.out(content).split() == [expected, expected if option == "ridmap" else "5"]


def test_mounts_of_a_user_namespace_take_its_map(bundle: Bundle, nested: Path) -> None:
    (nested / "f").touch()
    content = config("sh", "-c", "stat -c %u /plain/f /mapped/f; touch /mapped/new")
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = content["linux"]["gidMappings"] = MAP
    for name in ("plain", "mapped"):
        (bundle.rootfs / name).mkdir(exist_ok=True)
    with_mount(content, "/plain", "none", str(nested), "bind")
    with_mount(content, "/mapped", "none", str(nested), "bind", "idmap")
    assert bundle.out(content).split() == ["65534", "0"]
    assert (nested / "new").stat().st_uid == 0


@pytest.mark.parametrize(
    ("kind", "options", "more", "reason"),
    [
        ("none", ("bind", "idmap"), {}, "idmap needs uidMappings and gidMappings"),
        ("none", ("bind",), {"uidMappings": MAP}, "both uidMappings and gidMappings"),
        ("tmpfs", (), {"uidMappings": MAP, "gidMappings": MAP}, "ids cannot be mapped"),
        ("tmpfs", ("no-such-option",), {}, "/mnt"),
        ("ramfs", ("tmpcopyup",), {}, "tmpcopyup"),
        ("nosuchfs", (), {}, "/mnt"),
        ("", (), {}, "neither a type nor the option bind"),
    ],
)
def test_refusals(bundle: Bundle, kind: str, options: tuple[str, ...], more: dict[str, Any], reason: str) -> None:
    done = bundle.refusal(with_mount(config("true"), "/mnt", kind, "/tmp", *options, **more))
    assert reason in done and done.count("\n") == 1


def test_tmpcopyup(bundle: Bundle) -> None:
    place = bundle.rootfs / "content"
    place.mkdir(mode=0o750)
    (place / "deep/er").mkdir(parents=True)
    (place / "deep/er/file").write_text("text\n")
    (place / "deep/er/file").chmod(0o640)
    os.chown(place / "deep/er/file", 3, 4)
    (place / "link").symlink_to("/etc/passwd")
    try:
        script = "cd /content; stat -c '%n %u %g %a' . deep/er/file; cat deep/er/file; readlink link; >deep/new"
        content = with_mount(config("sh", "-c", script), "/content", "tmpfs", "tmpfs", "tmpcopyup")
        lines = bundle.out(content).splitlines()
        assert lines == [". 0 0 750", "deep/er/file 3 4 640", "text", "/etc/passwd"]
        assert not (place / "deep/new").exists()
        content = with_mount(config("touch", "/content/x"), "/content", "tmpfs", "tmpfs", "tmpcopyup", "ro")
        assert "Read-only" in bundle.refusal(content)
        small = with_mount(config("true"), "/content", "tmpfs", "tmpfs", "tmpcopyup", "nr_inodes=2")
        assert "/content" in bundle.refusal(small)
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("propagation", "mark"),
    [("private", ""), ("slave", "master:"), ("shared", "shared:"), ("unbindable", "unbindable")],
)
def test_propagation_of_a_mount(bundle: Bundle, nested: Path, propagation: str, mark: str) -> None:
    subprocess.run(["mount", "--make-shared", nested / "sub"], check=True)
    content = with_mount(
        config("cat", "/proc/self/mountinfo"), "/mnt", "none", str(nested / "sub"), "bind", propagation
    )
    line = next(line for line in bundle.out(content).splitlines() if line.split()[4] == "/mnt")
    optional = line.split(" - ")[0].split()[6:]
    assert [each for each in optional if each.startswith(mark)] if mark else not optional


def test_an_rshared_mount_shares_with_the_host_and_a_slave_only_listens(bundle: Bundle, nested: Path) -> None:
    subprocess.run(["mount", "--make-shared", nested / "sub"], check=True)
    script = "mount -t tmpfs inner /mnt/inner"
    (nested / "sub/inner").mkdir()
    for propagation, seen in (("rslave", False), ("rshared", True)):
        source = str(nested / "sub")
        bundle.out(with_mount(config("sh", "-c", script), "/mnt", "none", source, "rbind", propagation))
        assert os.path.ismount(nested / "sub/inner") is seen
        if seen:
            subprocess.run(["umount", nested / "sub/inner"], check=True)


@pytest.mark.parametrize(
    ("wanted", "mark"), [("private", ""), ("rslave", ""), ("shared", "shared:"), ("rprivate", "")]
)
def test_propagation_of_the_root(bundle: Bundle, wanted: str, mark: str) -> None:
    content = config("cat", "/proc/self/mountinfo")
    content["linux"]["rootfsPropagation"] = wanted
    line = next(line for line in bundle.out(content).splitlines() if line.split()[4] == "/")
    assert ("shared:" in line) is bool(mark)
    content["linux"]["rootfsPropagation"] = "sideways"
    assert "sideways" in bundle.refusal(content)


def test_a_readonly_root_and_masks(bundle: Bundle) -> None:
    content = config("sh", "-c", "touch /x 2>&1; cat /etc/passwd; ls -A /etc/hidden; touch /var/x 2>&1; touch /tmp/y")
    content["root"]["readonly"] = True
    with_mount(content, "/tmp", "tmpfs", "tmpfs")
    (bundle.rootfs / "etc/hidden").mkdir(exist_ok=True)
    (bundle.rootfs / "etc/hidden/secret").touch()
    content["linux"]["maskedPaths"] = ["/etc/passwd", "/etc/hidden", "/not/there"]
    content["linux"]["readonlyPaths"] = ["/var"]
    found = bundle.out(content)
    assert found.count("Read-only file system") == 2 and "root" not in found and "secret" not in found
