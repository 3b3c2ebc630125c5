"""`make bench`: Cove beside dockerd, podman and buildah's builds, through one API client, on one image, in one run.

Every engine runs in a network and mount namespace of its own with data and run directories under one
temporary directory, so that none of them touches the host's firewall, bridges or storage. Each figure is a
median of rounds that alternate between the engines, because the hosts are noisy; ratios are to Cove. The last
table is of runtimes without an engine (`runtimes`).

    bench/bench.py [--rounds N] [--engines cove,docker,podman,buildah] [--quick] [--markdown]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import runtimes
from engines import ENGINES, Engine, busybox_archive
from workloads import WORKLOADS, Workload

CELL = 14


BARE = "bare veth"


def measure(name: str, title: str, run: Callable[[], float]) -> list[float]:
    """One figure; who fails is told, not counted."""
    try:
        return [run()]
    except Exception as error:
        print(f"  {name}: {title}: {error}", file=sys.stderr)
        return []


def table(engines: list[Engine], workloads: list[Workload], rounds: int) -> list[list[str]]:
    rows = []
    for workload in workloads:
        runs: dict[str, Callable[[], float]] = {
            engine.name: lambda engine=engine, run=workload.run: run(engine)  # type: ignore[misc]
            for engine in engines
            if engine.only in workload.title
        }
        if workload.bare is not None:
            runs[BARE] = workload.bare
        figures: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(max(1, rounds // workload.weight)):
            for name, run in runs.items():
                figures[name] += measure(name, workload.title, run)
        medians = {name: statistics.median(values) if values else None for name, values in figures.items()}
        shown = dict(zip(medians, cells(medians, workload.unit, more_is_better=workload.more_is_better), strict=True))
        columns = [*(engine.name for engine in engines), *([BARE] if workload.bare else [])]
        rows.append([workload.title, *(shown.get(name, "-") for name in columns)])
        show(rows[-1])
    return rows


def cells(medians: Mapping[str, float | None], unit: str, *, more_is_better: bool = False) -> list[str]:
    """ "12.3 ms" for the first engine, "105 ms (8.5×)" for the others: how many times better Cove is."""
    first = next(iter(medians.values()))
    out = []
    for at, value in enumerate(medians.values()):
        if value is None:
            out.append("failed")
            continue
        text = f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        if at and first:
            ratio = first / value if more_is_better else value / first
            text += f" ({ratio:.1f}×)"
        out.append(text)
    return out


def bare_runtimes(archive: Path, root: Path, rounds: int) -> list[list[str]]:
    """The same for runtimes without an engine: a row of names and a row of figures."""
    if shutil.which("runc") is None:
        print("  runc is not installed, so bare runtimes are left out")
        return []
    with runtimes.runtimes(archive, root / "runtimes") as found:
        figures: dict[str, list[float]] = {each.name: [] for each in found}
        for _ in range(rounds):
            for each in found:
                figures[each.name] += measure(each.name, runtimes.TITLE, each.life)
    medians = {name: statistics.median(values) if values else None for name, values in figures.items()}
    rows = [["", *figures], [runtimes.TITLE, *cells(medians, "ms")]]
    for row in rows:
        show(row)
    return rows


def show(row: list[str]) -> None:
    print("  " + "".join(cell.ljust(CELL if at else 46) for at, cell in enumerate(row)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cove beside dockerd and podman, as medians and ratios")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", default="cove,docker,podman,buildah")
    parser.add_argument("--only", default="", help="a part of a workload's title")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table at the end")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: it needs root: engines are started in namespaces of their own")
    root = Path(tempfile.mkdtemp(prefix="cove-bench-", dir="/var/tmp"))
    undo: Callable[[], None] = lambda: shutil.rmtree(root, ignore_errors=True)  # noqa: E731
    with ExitStack() as stack:
        stack.callback(undo)
        archive = busybox_archive(root)
        engines = []
        for name in options.engines.split(","):
            engine = ENGINES[name](root / name)
            if not engine.installed():
                print(f"  {name} is not installed and is left out")
                continue
            engine.start()
            stack.callback(engine.stop)
            engine.load(archive)
            engines.append(engine)
        print(f"medians of {options.rounds} rounds, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs")
        chosen = [w for w in WORKLOADS if options.only in w.title]
        header = ["", *(engine.label() for engine in engines)]
        header += [BARE] if any(workload.bare for workload in chosen) else []
        show(header)
        rows = table(engines, chosen, options.rounds)
        bare = bare_runtimes(archive, root, options.rounds) if options.only in runtimes.TITLE else []
    if options.markdown:
        for row in [header, ["---"] * len(header), *rows]:
            print("| " + " | ".join(row) + " |")
        for row in [[""] * len(bare[0]), ["---"] * len(bare[0]), *bare] if bare else []:
            print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
