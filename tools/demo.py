"""`make demo`: two nginx containers, both on port 80, side by side on one host.

A private daemon (its own data, socket, bridge and firewall table, all under a temporary directory) makes an
nginx image out of Debian's packages, runs it twice, shows what each container sees, and removes everything.
Only the `cove` command is used, as a user would use it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

IMAGE = "demo/nginx:latest"
NAMES = ("web1", "web2")
LIMITS = {"web1": ("64m", "0.5"), "web2": ("96m", "1")}
BIN = Path(sys.executable).parent


def stop(sentence: str) -> NoReturn:
    """End with one sentence."""
    sys.exit(f"demo: {sentence}")


class Cove:
    """The `cove` command against one private daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = f"unix://{root}/run/cove.sock"
        self._environment = os.environ | {"COVE_HOST": self.host}

    def run(self, *words: str) -> str:
        """Run a verb, show nothing, return what it printed; a failure ends the demo with its message."""
        done = subprocess.run([BIN / "cove", *words], env=self._environment, capture_output=True, text=True)
        if done.returncode:
            stop(f"`cove {' '.join(words)}` failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def show(self, *words: str) -> None:
        """Run a verb with its progress on the terminal."""
        if code := subprocess.run([BIN / "cove", *words], env=self._environment).returncode:
            stop(f"`cove {' '.join(words)}` failed with {code}")

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start the private daemon and wait until it answers."""
        log = (self.root / "daemon.log").open("wb")
        daemon = subprocess.Popen(
            [BIN / "cove", "daemon", "--data-root", self.root / "data", "--run-root", self.root / "run"],
            stdout=log,
            stderr=log,
        )
        for _ in range(200):
            if daemon.poll() is not None:
                stop(f"the daemon ended at once: {(self.root / 'daemon.log').read_text().strip()}")
            probe = socket.socket(socket.AF_UNIX)
            try:
                probe.connect(f"{self.root}/run/cove.sock")
            except OSError:
                time.sleep(0.05)
            else:
                return daemon
            finally:
                probe.close()
        stop("the daemon does not answer on its socket")


def step(number: int, text: str) -> None:
    print(f"\n\033[1m{number}. {text}\033[0m" if sys.stdout.isatty() else f"\n{number}. {text}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int) -> str:
    """The page at a published port; nginx gets a moment to open its socket."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return str(answer.read().decode().strip())
        except OSError:
            time.sleep(0.02)
    stop(f"nothing answers on 127.0.0.1:{port}")


def host_state() -> dict[str, set[str]]:
    """What Cove could leave behind: mounts, interfaces, control groups, firewall tables, processes."""
    groups = [str(path) for pattern in ("*/cove*", "cove*") for path in Path("/sys/fs/cgroup").glob(pattern)]
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    tables = (
        subprocess.run(["nft", "list", "tables"], capture_output=True, text=True) if shutil.which("nft") else None
    )
    return {
        "mounts": set(mounts),
        "interfaces": set(os.listdir("/sys/class/net")),
        "control groups": set(groups),
        "firewall tables": set(tables.stdout.splitlines()) if tables else set(),
        "processes": {line for line in process_lines() if " cove." in line},
    }


def process_lines() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                yield f"{entry.name} {b' '.join(words).decode(errors='replace')}"


def check_left(before: dict[str, set[str]], marks: tuple[str, ...]) -> None:
    """Nothing of the demo's own is left; what others on this host made meanwhile is told, not blamed."""
    deadline = time.monotonic() + 5
    while new := {what: found - before[what] for what, found in host_state().items() if found - before[what]}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for what, found in new.items():
        ours = sorted(one for one in found if any(mark in one for mark in marks))
        if ours:
            stop(f"of the demo's {what} these are left: {ours}")
        print(f"   {len(found)} {what} are new, which others on this host made meanwhile")
    print("   of its mounts, interfaces, control groups, firewall tables and processes nothing is left")


def start_containers(cove: Cove, root: Path, ports: dict[str, int]) -> dict[str, float]:
    """Start both web servers; returns the milliseconds that each `cove run -d` took."""
    times = {}
    for name in NAMES:
        pages = root / name
        pages.mkdir()
        (pages / "index.html").write_text(f"Hello from {name}\n")
        memory, cpus = LIMITS[name]
        began = time.perf_counter()
        cove.run(
            *("run", "-d", "--name", name, "--hostname", name, "--memory", memory, "--cpus", cpus),
            *("-p", f"127.0.0.1:{ports[name]}:80", "-v", f"{pages}:/var/www/html:ro"),
            *(IMAGE, "nginx", "-g", "daemon off;"),
        )
        times[name] = (time.perf_counter() - began) * 1000
        print(f"   {name}: port 80 inside, 127.0.0.1:{ports[name]} outside, started in {times[name]:.0f} ms")
    return times


def inside(cove: Cove, name: str, script: str) -> str:
    return cove.run("exec", name, "sh", "-c", script)


PROCESSES = (
    "for p in /proc/[0-9]*; do c=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null); "
    'case "$c" in nginx*) echo "${p#/proc/} $c";; esac; done'
)
VIEWS: dict[str, Callable[[Cove, str], str]] = {
    "host name": lambda cove, name: inside(cove, name, "hostname"),
    "address": lambda cove, name: inside(cove, name, "hostname -i"),
    "processes": lambda cove, name: inside(cove, name, PROCESSES),
    "all processes": lambda cove, name: inside(cove, name, "ls -d /proc/[0-9]* | wc -l"),
    "pid namespace": lambda cove, name: inside(cove, name, "readlink /proc/1/ns/pid"),
    "net namespace": lambda cove, name: inside(cove, name, "readlink /proc/1/ns/net"),
    "mnt namespace": lambda cove, name: inside(cove, name, "readlink /proc/1/ns/mnt"),
    "memory limit": lambda cove, name: f"{limits(cove, name)['Memory'] >> 20} MiB",
    "CPU limit": lambda cove, name: f"{limits(cove, name)['NanoCpus'] / 1e9:g} CPUs",
}


def limits(cove: Cove, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(cove.run("inspect", name))[0]["HostConfig"]
    return found


def show_views(cove: Cove) -> None:
    """Print what each container sees, as two columns."""
    print(f"   {'':<16}{NAMES[0]:<38}{NAMES[1]}")
    for title, view in VIEWS.items():
        columns = [view(cove, name).splitlines() or [""] for name in NAMES]
        for row in range(max(map(len, columns))):
            cells = [column[row] if row < len(column) else "" for column in columns]
            print(f"   {title if row == 0 else '':<16}{cells[0][:36]:<38}{cells[1][:36]}")


def check_isolation(cove: Cove) -> None:
    """Neither container's process is visible in the other one."""
    for name, other in (NAMES, NAMES[::-1]):
        pid = cove.run("inspect", "--format", "{{.State.Pid}}", other)
        seen = inside(cove, name, f"test -e /proc/{pid} && cat /proc/{pid}/cmdline || echo nothing")
        if seen != "nothing":
            stop(f"{name} sees process {pid} of {other}")
        print(f"   {name} looks for {other}'s process (host pid {pid}): {seen}")


def demo(root: Path) -> None:
    cove = Cove(root)
    before = host_state()
    with ExitStack() as undo:
        step(1, "A private daemon")
        daemon = cove.start_daemon()
        undo.callback(end_daemon, daemon)
        print(f"   listens on {cove.host}")
        network = json.loads(cove.run("network", "inspect", "bridge"))[0]
        bridge = network["Options"]["com.docker.network.bridge.name"]

        step(2, "An nginx image out of Debian's packages")
        cove.show("image", "bootstrap", IMAGE, "--suite", "bookworm", "--include", "nginx-light")

        step(3, "Two containers, each with nginx on port 80 of its own network stack")
        ports = {name: free_port() for name in NAMES}
        undo.callback(
            lambda: subprocess.run([BIN / "cove", "-H", cove.host, "rm", "-f", *NAMES], capture_output=True)
        )
        times = start_containers(cove, root, ports)

        step(4, "Their pages, fetched from the host")
        for name in NAMES:
            page = fetch(ports[name])
            print(f"   http://127.0.0.1:{ports[name]}/  →  {page}")
            if page != f"Hello from {name}":
                stop(f"port {ports[name]} answered with another page than {name}'s")

        step(5, "What each of them sees")
        show_views(cove)
        check_isolation(cove)

        step(6, "Stop and remove all of it")
        cove.run("stop", *NAMES)
        cove.run("rm", *NAMES)
        cove.run("rmi", IMAGE)
    check_left(before, (bridge, str(root)))
    print("\nDone: two web servers on port 80, " + ", ".join(f"{n} started in {t:.0f} ms" for n, t in times.items()))


def end_daemon(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()


def main() -> None:
    if os.geteuid() != 0:
        stop("it needs root, since namespaces, mounts and control groups are made; run `sudo make demo`")
    root = Path(tempfile.mkdtemp(prefix="cove-demo-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        demo(root)
    except KeyboardInterrupt:
        stop("interrupted; everything it made is removed")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
