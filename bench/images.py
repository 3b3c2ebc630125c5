"""`make bench`, images: pull and unpack, push, import, save, load, remove; Cove beside dockerd, podman and skopeo.

All use one local docker-registry in one network namespace. Rounds alternate between the engines; each cell is
the median wall time and the median processor time, each with its ratio to Cove, and the memory that the work added
(skopeo: all that its process had). On a busy host only the processor time can be relied on.

    bench/images.py [--rounds N] [--engines cove,docker,podman,skopeo] [--images debian,forty,fifty-thousand]
                    [--only pull] [--on /var/tmp] [--markdown]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cargo
import engines
from meter import Cost, Group

VERBS = ("pull", "push", "save", "remove", "load", "import")
_PIECE = 1 << 20


@dataclass(slots=True)
class World:
    """Where images come from, where they go to, and a directory for archives."""

    source: cargo.Registry
    target: cargo.Registry
    scratch: Path
    inside: list[str]


class Daemon:
    """An engine behind the Docker API."""

    def __init__(self, world: World, engine: engines.Engine, group: Group) -> None:
        self._world = world
        self._engine = engine
        self._group = group
        self.name = engine.name

    def _ask(self, method: str, path: str, body: Path | None = None, into: Path | None = None) -> None:
        """One request, streamed both ways; an error within the answer's stream raises."""
        connection = engines.UnixConnection(self._engine.socket)
        headers = {"Content-Type": "application/x-tar", "X-Registry-Auth": "e30="}
        with ExitStack() as stack:
            stack.callback(connection.close)
            source = stack.enter_context(body.open("rb")) if body else None
            if body:
                headers["Content-Length"] = str(body.stat().st_size)
            connection.request(method, f"/v1.41{path}", source, headers)
            answer = connection.getresponse()
            target = stack.enter_context(into.open("wb")) if into else None
            tail = b""
            while piece := answer.read1(_PIECE):
                if target:
                    target.write(piece)
                else:
                    tail = (tail + piece)[-4096:]
            if answer.status >= 400 or b'"errorDetail"' in tail:
                raise RuntimeError(f"{method} {path}: {answer.status} {tail[-300:]!r}")

    def _image(self, name: str) -> str:
        return f"{self._world.source.host}/{name}"

    def pull(self, name: str) -> Cost:
        query = urllib.parse.urlencode({"fromImage": self._image(name), "tag": "latest"})
        return self._group.measured(lambda: self._ask("POST", f"/images/create?{query}"))

    def push(self, name: str) -> Cost:
        there = f"{self._world.target.host}/{name}"
        query = urllib.parse.urlencode({"repo": there, "tag": "latest"})
        self._ask("POST", f"/images/{self._image(name)}:latest/tag?{query}")
        try:
            return self._group.measured(lambda: self._ask("POST", f"/images/{there}/push?tag=latest"))
        finally:
            self._ask("DELETE", f"/images/{there}:latest")

    def save(self, name: str) -> Cost:
        path = self._world.scratch / f"{self.name}-{name}.tar"
        return self._group.measured(lambda: self._ask("GET", f"/images/{self._image(name)}:latest/get", into=path))

    def load(self, name: str) -> Cost:
        path = self._world.scratch / f"{self.name}-{name}.tar"
        return self._group.measured(lambda: self._ask("POST", "/images/load", body=path))

    def remove(self, name: str) -> Cost:
        # All names at once: some engines keep the digest as one.
        return self._group.measured(lambda: self._ask("DELETE", f"/images/{self._image(name)}:latest?force=1"))

    def take_in(self, name: str) -> Cost:
        archive = cargo.root_archive(name)
        path = "/images/create?fromSrc=-&repo=imported&tag=latest"
        cost = self._group.measured(lambda: self._ask("POST", path, body=archive))
        self._ask("DELETE", "/images/imported:latest?force=1")
        return cost


class Skopeo:
    """A process for each piece of work, on a containers-storage of its own."""

    name = "skopeo"

    def __init__(self, world: World, group: Group) -> None:
        self._world = world
        self._group = group
        self._root = world.scratch / "skopeo"
        self._root.mkdir()

    def _cost(self, *words: str) -> Cost:
        # It leaves a mount of its store behind, which ends with a mount namespace of its own.
        alone = ["unshare", "--mount", "--propagation", "private"]
        command = [*self._group.words(), *self._world.inside, *alone, "skopeo", *words]
        return self._group.measured(
            lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
        )

    def _stored(self, name: str) -> str:
        return f"containers-storage:[overlay@{self._root}/data+{self._root}/run]localhost/{name}:latest"

    def pull(self, name: str) -> Cost:
        there = f"docker://{self._world.source.host}/{name}:latest"
        return self._cost("copy", "-q", "--src-tls-verify=false", there, self._stored(name))

    def push(self, name: str) -> Cost:
        there = f"docker://{self._world.target.host}/{name}:latest"
        return self._cost("copy", "-q", "--dest-tls-verify=false", self._stored(name), there)

    def save(self, name: str) -> Cost:
        path = self._world.scratch / f"skopeo-{name}.tar"
        path.unlink(missing_ok=True)
        return self._cost("copy", "-q", self._stored(name), f"docker-archive:{path}:localhost/{name}:latest")

    def load(self, name: str) -> Cost:
        path = self._world.scratch / f"skopeo-{name}.tar"
        return self._cost("copy", "-q", f"docker-archive:{path}", self._stored(name))

    def remove(self, name: str) -> Cost:
        return self._cost("delete", self._stored(name))

    def take_in(self, name: str) -> Cost:
        raise NotImplementedError("it has no import")


Engine = Daemon | Skopeo


def round_of(world: World, engine: Engine, image: str, wanted: set[str]) -> Iterator[tuple[str, Cost]]:
    """Every verb once, from an empty engine to an empty engine."""
    steps: list[tuple[str, Callable[[str], Cost]]] = [
        ("pull", engine.pull),
        ("push", engine.push),
        ("save", engine.save),
        ("remove", engine.remove),
    ]
    if "load" in wanted:
        steps += [("load", engine.load), ("", engine.remove)]
    if isinstance(engine, Daemon) and image != "forty":
        steps.append(("import", engine.take_in))
    for verb, step in steps:
        os.sync()  # nobody pays for what another one wrote
        if verb == "push":
            world.target.empty()
            if verb not in wanted:
                continue
        cost = step(image)
        if verb in wanted:
            yield verb, cost


@contextmanager
def world(root: Path) -> Iterator[World]:
    cargo.made()
    with ExitStack() as stack:
        source, target = cargo.Registry(root, 5000), cargo.Registry(root, 5001)
        pid = source.start()
        stack.callback(source.stop)
        target.start(beside=pid)
        stack.callback(target.stop)
        scratch = root / "scratch"
        scratch.mkdir()
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        cargo.fill(source, inside)
        yield World(source, target, scratch, inside)


def started(there: World, root: Path, names: list[str], stack: ExitStack) -> list[Engine]:
    """The engines that are installed, each in the registries' network namespace."""
    found: list[Engine] = []
    for name in names:
        if shutil.which(name if name == "skopeo" else engines.ENGINES[name].program) is None:
            print(f"  {name} is not installed and is left out")
            continue
        group = Group(name)
        stack.callback(group.remove)
        if name == "skopeo":
            found.append(Skopeo(there, group))
            continue
        engine = engines.ENGINES[name](root / name)
        engine.start([*group.words(), *there.inside])
        stack.callback(engine.stop)
        found.append(Daemon(there, engine, group))
    return found


def cell(costs: list[Cost], first: list[Cost]) -> str:
    if not costs:
        return "-"
    figures = []
    for unit, of in (("s", _wall), ("cpu", _processor)):
        value = statistics.median(map(of, costs))
        ratio = f" ({value / statistics.median(map(of, first)):.1f}×)" if first and costs is not first else ""
        figures.append(f"{value:.2f} {unit}{ratio}")
    return " · ".join([*figures, f"{max(cost.memory for cost in costs) >> 20} MiB"])


def _wall(cost: Cost) -> float:
    return cost.wall


def _processor(cost: Cost) -> float:
    return max(cost.processor, 0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description="Images: Cove beside dockerd, podman and skopeo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="cove,docker,podman,skopeo")
    parser.add_argument("--images", default=",".join(cargo.NAMES))
    parser.add_argument("--only", default=",".join(VERBS), help="the verbs")
    parser.add_argument("--on", default="/var/tmp", help="the directory, and so the disk, that the engines work on")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table at the end")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: it needs root: engines are started in namespaces of their own")
    root = Path(tempfile.mkdtemp(prefix="cove-bench-", dir=options.on))
    rows = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        there = stack.enter_context(world(root))
        running = started(there, root, options.engines.split(","), stack)
        wanted = set(options.only.split(","))
        print(f"medians of {options.rounds} rounds, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs")
        header = ["", *(engine.name for engine in running)]
        for image in options.images.split(","):
            costs: dict[tuple[str, str], list[Cost]] = {}
            for _ in range(options.rounds):
                for engine in running:
                    try:
                        for verb, cost in round_of(there, engine, image, wanted):
                            costs.setdefault((verb, engine.name), []).append(cost)
                    except Exception as error:
                        print(f"  {engine.name}: {image}: {error}", file=sys.stderr)
            for verb in VERBS:
                figures = [costs.get((verb, engine.name), []) for engine in running]
                if any(figures):
                    rows.append([f"{verb}, {image}", *(cell(each, figures[0]) for each in figures)])
                    print(
                        "  " + "".join(text.ljust(44 if at else 24) for at, text in enumerate(rows[-1])), flush=True
                    )
    if options.markdown:
        for row in [header, ["---"] * len(header), *rows]:
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
