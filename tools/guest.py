"""Run tests in a Debian guest with systemd and control groups of version 2, under qemu: `make test-guest`.

    image     packages ──mmdebstrap──▶ tree ──mke2fs -d──▶ root.ext4, kernel, initrd     kept in build/guest
    wheels    what pyproject.toml wants, for the guest's Python                          kept in build/guest
    project   source, tests, wheels, and the command to run ──mke2fs -d──▶ project.ext4  made for each run
    guest     boots, runs the command as root, powers off; its output comes out of its second serial port as it is
              written, and after it the line "exit CODE", which becomes this program's own exit code

Nothing of the host's is changed and the guest has no network: what it needs is on its two disks. It is emulated,
so that it works wherever qemu does; --accel kvm is for machines whose /dev/kvm boots an ordinary kernel.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parent.parent
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "systemd-sysv",
    "dbus",
    "udev",
    "python3",
    "busybox-static",
    "libnftables1",
    "nftables",
    "iproute2",
    "procps",
    "e2fsprogs",
    "xfsprogs",
    "crun",
    "nfs-kernel-server",
)
TESTS = (
    "tests/guest/test_service.py",
    "tests/guest/test_memory_and_disks.py",
    "tests/guest/test_links.py",
    "tests/guest/test_nfs.py",
    "tests/unit/kernel",
    "tests/integration/test_cgroups_kernel.py",
    "tests/integration/test_device_filter.py",
    "tests/integration/test_init.py",
    "tests/integration/test_limits_measured.py",
    "tests/integration/test_project_quotas.py",
    "tests/integration/test_resources.py",
    "tests/integration/test_run.py",
    "tests/integration/test_seccomp_kernel.py",
    "tests/integration/test_supervisor.py",
    "tests/integration/test_systemd_cgroups.py",
    "tests/integration/test_users.py",
)
NO_GUEST = 75
"""The exit code when there was no guest to run anything in: no packages for it, or too slow a host."""
TEST_WHEELS = ("docker", "hypothesis", "pytest", "pytest-timeout")
MODULES = ("virtio_pci", "virtio_blk", "ext4")
KERNEL_WORDS = (
    "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off psi=1 "
    "systemd.unit=command.service systemd.show_status=0"
)
VERSION_1 = "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"
MASKED = ("systemd-udev-trigger.service", "systemd-journal-flush.service", "systemd-update-utmp.service")
UNIT = """\
[Unit]
Description=The command on the project's disk
After=sysinit.target basic.target dbus.socket
Wants=dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStartPre=/bin/mount -t ext4 -o ro /dev/vdb /srv
ExecStart=/bin/sh /srv/command
"""


def no_guest(reason: str) -> NoReturn:
    """End with the reason, and a code that tells it from a failure inside."""
    print(reason, file=sys.stderr)
    sys.exit(NO_GUEST)


def say(text: str) -> None:
    print(f"guest: {text}", flush=True)


def run(*words: str | Path, **options: object) -> None:
    """A program of the host's; what it says is shown only if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        no_guest(f"{shlex.join(map(str, words))} failed with {done.returncode}:\n{done.stdout[-3000:]}")


def filesystem(tree: Path, image: Path, size: str) -> None:
    """An ext4 file system with the content of `tree`; sparse, so that `size` costs nothing."""
    partial = image.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", tree, partial, size, env=os.environ | {"MKE2FS_SYNC": "0"})
    partial.rename(image)


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────


def make_image(directory: Path, mirror: str) -> None:
    """root.ext4, kernel and initrd below `directory`, unless this recipe made them before."""
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, MODULES, MASKED, UNIT)).encode()).hexdigest()
    stamp = directory / "recipe"
    if stamp.exists() and stamp.read_text() == recipe:
        return
    stamp.unlink(missing_ok=True)
    say(f"making a {SUITE} guest of {len(PACKAGES)} packages")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        tree, given = scratch / "tree", scratch / "given"
        write_settings(given)
        words = ["--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--quiet"]
        words.append("--dpkgopt=force-unsafe-io")
        hook = f"--essential-hook=cp -r {given}/. $1/"
        # However it or this program ends, nothing that it mounts meanwhile stays on the host.
        apart = ("setpriv", "--pdeathsig", "TERM", "unshare", "--mount")
        run(*apart, "mmdebstrap", *words, hook, SUITE, tree, *([mirror] if mirror else []))
        for name in ("vmlinuz", "initrd.img"):
            shutil.copyfile(next((tree / "boot").glob(f"{name}-*")), directory / name)
        filesystem(tree, directory / "root.ext4", "4G")
    stamp.write_text(recipe)


def write_settings(given: Path) -> None:
    """The guest's own files: a small initrd, and the unit that runs the command instead of the usual target."""
    files = {
        "etc/initramfs-tools/conf.d/small": "MODULES=list\nCOMPRESS=zstd\n",
        "etc/initramfs-tools/modules": "\n".join(MODULES) + "\n",
        "etc/systemd/system/command.service": UNIT,
        "etc/hostname": "guest\n",
    }
    for name, content in files.items():
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_text(content)
    units = given / "etc/systemd/system"
    for name in MASKED:
        (units / name).symlink_to("/dev/null")


def make_wheels(directory: Path) -> Path:
    """The directory with what the project imports, for the guest's Python; taken anew when pyproject.toml changes."""
    wanted = [*tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"], *TEST_WHEELS]
    wheels = directory / f"wheels-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]}"
    if not wheels.exists():
        say(f"fetching wheels for Python {PYTHON}")
        for old in directory.glob("wheels-*"):
            shutil.rmtree(old)
        partial = directory / "partial-wheels"
        shutil.rmtree(partial, ignore_errors=True)
        words = ["--quiet", "--only-binary=:all:", f"--python-version={PYTHON}", "--platform=manylinux2014_x86_64"]
        run(sys.executable, "-m", "pip", "install", *words, f"--target={partial}", *wanted)
        partial.rename(wheels)
    return wheels


# ── what is made for each run ─────────────────────────────────────────────────────────────────────


def make_project(image: Path, wheels: Path, command: str, more: list[Path]) -> None:
    """The second disk: the project, a virtual environment, `command`, a shell script, and in with/ what is `more`."""
    with tempfile.TemporaryDirectory(dir=image.parent) as temporary:
        tree = Path(temporary)
        for name in ("src", "tests", "bench", "packaging"):
            shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(PROJECT / "pyproject.toml", tree)
        (tree / "bin").mkdir()
        (tree / "bin/python").symlink_to("/usr/bin/python3")
        (tree / "pyvenv.cfg").write_text("home = /usr/bin\n")
        packages = tree / f"lib/python{PYTHON}/site-packages"
        shutil.copytree(wheels, packages)
        (packages / "cove.pth").write_text("/srv/src\n")
        scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
        for name, entry in scripts.items():
            module, _, function = entry.partition(":")
            script = tree / "bin" / name
            script.write_text(
                f"#!/srv/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            script.chmod(0o755)
        if client := shutil.which("docker"):
            shutil.copy(client, tree / "bin/docker")
        for directory in more:
            shutil.copytree(directory, tree / "with" / directory.name, symlinks=True)
        (tree / "command").write_text(command)
        if sys.version.startswith(PYTHON):
            run(sys.executable, "-m", "compileall", "-q", "-s", tree, "-p", "/srv", tree / "src")
        filesystem(tree, image, "512M")


def script_of(words: list[str]) -> str:
    """The guest's script: the command in the project's directory, its output and then its exit code to the port."""
    return f"""\
exec < /dev/null > /dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw 115200
cd /srv
export PATH=/srv/bin:$PATH HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 NO_COLOR=1
export COVE_TEST_PATIENCE=10 COVE_GUEST=1
mount -t tmpfs tmpfs /tmp
{shlex.join(words)}
echo "exit $?"
sync
"""


def memory_nodes(size: int) -> list[str]:
    """The memory in two nodes, the second one without a processor, so that it matters where something lies."""
    words = []
    for node, share in enumerate((size - size // 4, size // 4)):
        words += ["-object", f"memory-backend-ram,id=node{node},size={share}M"]
        words += ["-numa", f"node,nodeid={node},memdev=node{node}" + (",cpus=0" if node == 0 else "")]
    return words


def boot(directory: Path, project: Path, arguments: argparse.Namespace) -> int:
    """Run the guest to its end, its output copied to ours; the command's exit code."""
    console = project.with_name("console.log")
    kernel_words = f"{KERNEL_WORDS} {VERSION_1}" if arguments.version_1 else KERNEL_WORDS
    words = [
        *("setpriv", "--pdeathsig", "KILL"),  # a guest is never left behind, however this program ends
        *("qemu-system-x86_64", "-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", arguments.accel, "-smp", str(arguments.cpus), "-m", str(arguments.memory)),
        *("-cpu", "host" if arguments.accel == "kvm" else "Nehalem"),
        *("-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd.img"), "-append", kernel_words),
        *("-drive", f"file={directory}/root.ext4,format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={project},format=raw,if=virtio,readonly=on"),
        *memory_nodes(arguments.memory),
        *("-serial", f"file:{console}", "-serial", "file:/dev/stdout", "-device", "virtio-rng"),
    ]
    started = time.monotonic()
    guest = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    watchdog = threading.Timer(arguments.timeout, guest.kill)
    watchdog.daemon = True
    watchdog.start()
    tail, first = b"", 0.0
    try:
        assert guest.stdout is not None
        while piece := os.read(guest.stdout.fileno(), 1 << 16):
            first = first or time.monotonic()
            os.write(1, piece)
            tail = (tail + piece)[-100:]
    finally:
        guest.kill()
        guest.wait()
        watchdog.cancel()
    ended = re.search(rb"^exit (\d+)\s*\Z", tail, re.MULTILINE)
    if ended is None:
        last = console.read_text(errors="replace")[-3000:] if console.exists() else ""
        no_guest(f"the guest ended, or its {arguments.timeout} s did, before its command; its console:\n{last}")
    say(f"first output after {first - started:.0f} s, end after {time.monotonic() - started:.0f} s")
    return int(ended[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run pytest (or a command) in a Debian guest with cgroup v2.")
    parser.add_argument("--directory", type=Path, default=PROJECT / "build/guest", help="where the image is kept")
    parser.add_argument("--mirror", default="", help="Debian's archive; mmdebstrap knows one")
    parser.add_argument("--accel", default="tcg,thread=multi", help="qemu's accelerator: tcg,thread=multi or kvm")
    parser.add_argument("--version-1", action="store_true", help="control groups of version 1 instead")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds")
    parser.add_argument(
        "--with", dest="more", type=Path, action="append", default=[], metavar="DIRECTORY", help="is in /srv/with"
    )
    parser.add_argument("--command", action="store_true", help="the words are a command, not pytest's arguments")
    parser.add_argument("words", nargs="*", help="pytest's arguments; put -- before those that begin with -")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the guest's files belong to root: run this as root (make test-guest does)")
    if platform.machine() != "x86_64":
        sys.exit(f"the guest is an x86-64 machine and its image is made by the host, which is {platform.machine()}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the guest was ended"))
    words = arguments.words
    if not arguments.command:
        words = ["python", "-m", "pytest", "-p", "no:cacheprovider", "--timeout=900", *(words or TESTS)]
    arguments.directory.mkdir(parents=True, exist_ok=True)
    with (arguments.directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several of these programs make it once
        make_image(arguments.directory, arguments.mirror)
        wheels = make_wheels(arguments.directory)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as temporary:
        project = Path(temporary) / "project.ext4"
        make_project(project, wheels, script_of(words), arguments.more)
        sys.exit(boot(arguments.directory, project, arguments))


if __name__ == "__main__":
    main()
