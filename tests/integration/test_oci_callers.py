"""What callers of other OCI runtimes rely on, beside the specification: runc's ways, and crun's spellings."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.integration import bundles
from tests.integration.bundles import SLEEP, Bundle, config, create, good, refused, status, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bundle(archive: Path) -> Iterator[Bundle]:
    with bundles.made(archive) as made:
        yield made


def test_a_mount_through_a_dangling_link_lands_at_its_target(bundle: Bundle) -> None:
    """Images have /etc/resolv.conf that leads into /run, where nothing is yet."""
    (bundle.rootfs / "etc").mkdir(exist_ok=True)
    link = bundle.rootfs / "etc/resolv.conf"
    link.symlink_to("../../../run/resolve/stub.conf")
    content = config("sh", "-c", "cat /etc/resolv.conf; ls /run/resolve")
    content["mounts"].append({"destination": "/etc/resolv.conf", "source": "/etc/hostname", "options": ["bind"]})
    assert bundle.out(content) == f"{Path('/etc/hostname').read_text()}stub.conf\n"
    assert not Path("/run/resolve").exists()
    link.unlink()


def test_a_later_mount_may_come_from_inside_the_root(bundle: Bundle) -> None:
    content = config("cat", "/again/inside")
    content["mounts"] += [
        {"destination": "/first", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/again", "source": str(bundle.rootfs / "first"), "options": ["rbind"]},
    ]
    (bundle.rootfs / "first").mkdir()
    (bundle.rootfs / "first/inside").write_text("on the disk\n")
    content["process"]["args"] = ["sh", "-c", "cat /again/inside; echo new > /first/other; cat /again/other"]
    assert bundle.out(content) == "on the disk\nnew\n"
    assert not (bundle.rootfs / "first/other").exists()


def test_a_read_only_dev_has_its_nodes(bundle: Bundle) -> None:
    content = config("sh", "-c", "test -c /dev/null && test -d /dev/pts && ! touch /dev/more 2>/dev/null && echo yes")
    (dev,) = (each for each in content["mounts"] if each["destination"] == "/dev")
    dev["options"] = ["ro", *dev["options"]]
    assert bundle.out(content) == "yes\n"


def test_the_mode_of_a_tmpfs(bundle: Bundle) -> None:
    (bundle.rootfs / "there").mkdir(mode=0o710)
    content = config("stat", "-c", "%a", "/there", "/not/there")
    for destination in ("/there", "/not/there"):
        content["mounts"].append({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
    assert bundle.out(content).split() == ["710", "1777"]


def test_lines_of_a_terminal_that_nobody_looks_at_end_as_they_were_written(bundle: Bundle) -> None:
    content = config("sh", "-c", "test -t 1 && echo one && echo two")
    content["process"]["terminal"] = True
    assert bundle.out(content) == "one\ntwo\n"


def test_capabilities_of_a_newer_kernel_are_ignored_with_a_warning(bundle: Bundle) -> None:
    content = config("echo", "runs")
    content["process"]["capabilities"]["bounding"] = ["CAP_CHOWN", "CAP_OF_TOMORROW"]
    done = bundle.run(content)
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr == "cove-oci: ignoring unknown capabilities: CAP_OF_TOMORROW\n"


def test_a_group_with_others_in_it_is_refused(bundle: Bundle) -> None:
    content = config(*SLEEP)
    content["linux"]["cgroupsPath"] = f"/cove-oci/shared-{os.getpid()}"
    with bundle.living(content) as name:
        bundle.write(content)
        assert "is not empty: " in refused(bundle, "run", "--bundle", str(bundle.path), bundle.name())
        assert bundle.call("exec", name, "true").returncode == 0


def test_no_pivot_leaves_no_whole_proc_to_mount(bundle: Bundle) -> None:
    """As long as the host's is in the mount namespace, whoever makes a user namespace could have one unmasked."""
    script = "unshare -Urmpf mount -t proc proc /proc && echo mounted; unshare -U true && echo twin"
    content = config("sh", "-c", script)
    content["linux"]["maskedPaths"] = ["/proc/keys"]
    bundle.write(content)
    done = bundle.call("run", "--no-pivot", "--bundle", str(bundle.path), bundle.name())
    assert done.stdout == "twin\n", done
    assert "denied" in done.stderr or "not permitted" in done.stderr


def test_delete_by_a_regular_expression(bundle: Bundle) -> None:
    names = [f"regex-{os.getpid()}-{number}" for number in range(3)]
    for name in names:
        create(bundle, name, config("true"))
    good(bundle, "delete", "--force", "--regex", f"^regex-{os.getpid()}-[01]$")
    assert [name for name in names if name in good(bundle, "list", "--quiet")] == names[2:]
    assert "no regular expression" in refused(bundle, "delete", "--regex", "(")
    good(bundle, "delete", names[2])


def test_the_callers_groups_and_hooks_that_write_elsewhere(bundle: Bundle, tmp_path: Path) -> None:
    """crun's annotations; the first is how podman asks for --group-add keep-groups."""
    content = config("sh", "-c", "grep Groups /proc/self/status")
    content["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", "echo out; echo err >&2"]}]}
    content["annotations"] = {
        "run.oci.keep_original_groups": "1",
        "run.oci.hooks.stdout": str(tmp_path / "out"),
        "run.oci.hooks.stderr": str(tmp_path / "err"),
    }
    done = bundle.run(content, extra_groups=[4, 5])
    assert done.stdout.split() == ["Groups:", "4", "5"], done.stderr
    assert [(tmp_path / name).read_text() for name in ("out", "err")] == ["out\n", "err\n"]


def test_the_example_has_a_terminal(bundle: Bundle, tmp_path: Path) -> None:
    """Run as it is, it is a shell; `script` gives it a terminal to look at."""
    (tmp_path / "rootfs").symlink_to(bundle.rootfs)
    good(bundle, "spec", "--bundle", str(tmp_path))
    words = ["--root", str(bundle.state), "run", "--bundle", str(tmp_path), bundle.name()]
    from tests.conftest import BIN

    done = subprocess.run(
        [BIN / "cove-oci", *words], input="tty; exit 7\n", capture_output=True, text=True, timeout=60 * PATIENCE
    )
    assert done.returncode == 7 and "/dev/pts/0" in done.stdout, done


def test_a_joined_user_namespace_with_limits_of_its_own(bundle: Bundle) -> None:
    content = config(*SLEEP)
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    content["linux"]["gidMappings"] = content["linux"]["uidMappings"]
    with bundle.living(content) as name:
        joining = config("sh", "-c", "cat /proc/self/uid_map; ulimit -n")
        joining["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{bundle.pid(name)}/ns/user"})
        joining["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]
        assert bundle.out(joining).split() == ["0", "200000", "65536", "99"]


def test_a_memory_limit_is_lifted(bundle: Bundle) -> None:
    content = config(*SLEEP)
    content["linux"]["resources"]["memory"] = {"limit": 64 << 20, "swap": 64 << 20}
    with bundle.living(content) as name:
        good(bundle, "update", "--memory", "-1", name)
        # Asked as the caller of events is told it: 2^64-1 is no limit.
        assert '"limit":18446744073709551615' in good(bundle, "events", "--stats", name)


def test_what_outlived_the_first_process_can_be_killed_and_listed(bundle: Bundle) -> None:
    """Without a pid namespace of its own, nothing ends with it."""
    content = config("sh", "-c", "sleep 60 & sleep 60 & wait")
    content["linux"]["namespaces"] = [each for each in content["linux"]["namespaces"] if each["type"] != "pid"]
    with bundle.living(content) as name:
        first = bundle.pid(name)
        until(lambda: len(json.loads(good(bundle, "ps", "--format", "json", name))) == 3)
        os.kill(first, signal.SIGKILL)
        until(lambda: status(bundle, name) == "stopped")
        assert len(json.loads(good(bundle, "ps", "--format", "json", name))) >= 2
        good(bundle, "kill", name, "KILL")
        until(lambda: json.loads(good(bundle, "ps", "--format", "json", name)) == [])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there a 32-bit personality has another name")
def test_an_exec_has_the_containers_personality(bundle: Bundle) -> None:
    content = config(*SLEEP)
    content["linux"]["personality"] = {"domain": "LINUX32"}
    with bundle.living(content) as name:
        assert good(bundle, "exec", name, "uname", "-m") == "i686\n"


def test_a_program_for_root_alone_and_the_right_to_override(bundle: Bundle) -> None:
    tool = bundle.rootfs / "for-root"
    tool.write_text("#!/bin/sh\necho runs\n")
    tool.chmod(0o700)
    content = config("/for-root")
    content["process"]["user"] = {"uid": 1000, "gid": 100}
    sets = content["process"]["capabilities"]
    for name in ("bounding", "effective", "permitted"):
        sets[name] = []
    assert "permission denied" in bundle.refusal(content)
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        sets[name] = ["CAP_DAC_OVERRIDE"]
    assert bundle.out(content) == "runs\n"
