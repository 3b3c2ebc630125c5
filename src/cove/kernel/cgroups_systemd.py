"""The systemd driver of control groups: each container is a transient scope, which systemd knows and shows.

A group is named "SLICE:PREFIX:NAME", as runtimes write it in a configuration's cgroupsPath: the scope
PREFIX-NAME.scope in SLICE ("" is system.slice). A path that begins with "/" is a plain group, as with cgroupfs.

    create (limits are remembered) ──▶ a process is made ──▶ admit: StartTransientUnit with its pid ──▶ limits
                                            kill ──▶ remove: StopUnit ──◀

A scope cannot be without a process, hence the order. The scope is delegated: systemd makes it and leaves what is
below it alone. Limits are given to systemd too, which would else undo them at its next daemon-reload; what it does
not know (swappiness, I/O weights of BFQ, …) and finer values than it keeps are written to the files after it.
Everything else is the files' of version 1 or 2. What speaks with systemd is imported when a scope is first made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cove.errors import InvalidArgument
from cove.kernel.cgroups import Birthplace, Cgroups, CgroupStats, awake
from cove.oci.spec import Resources

_DEFAULT_SLICE = "system.slice"


def scope_of(path: str) -> tuple[str, str]:
    """(slice, scope) that a path names. Raises InvalidArgument."""
    slice_, colon, rest = path.partition(":")
    prefix, second, name = rest.partition(":")
    slice_ = slice_ or _DEFAULT_SLICE
    if not colon or not second or not name or "/" in path:
        raise InvalidArgument(f"{path!r} names no group of systemd's; write it as SLICE:PREFIX:NAME")
    if not slice_.endswith(".slice"):
        raise InvalidArgument(f"{slice_!r} is no slice of systemd's; its name has to end in .slice")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return slice_, unit


def directory_of(path: str) -> str:
    """Where systemd puts that scope: the slice a-b.slice lies in a.slice (systemd.slice(5))."""
    slice_, unit = scope_of(path)
    stem = slice_.removesuffix(".slice")
    if stem == "-":
        return f"/{unit}"
    words = stem.split("-")
    if "" in words:
        raise InvalidArgument(f"{slice_!r} is no slice of systemd's: a dash needs a word on both sides")
    above = "/".join("-".join(words[: count + 1]) + ".slice" for count in range(len(words)))
    return f"/{above}/{unit}"


class CgroupsSystemd(Cgroups):
    """Scopes for paths with colons; all files are those of `files`, the version that the host has."""

    def __init__(self, files: Cgroups) -> None:
        super().__init__(files.parent)
        self.version = files.version
        self._files = files
        self._pending: dict[str, Resources | None] = {}

    @staticmethod
    def _at(path: str) -> str:
        return path if path.startswith("/") else directory_of(path)

    # ── made and removed by systemd ───────────────────────────────────────────────────────────────

    def create(self, path: str, resources: Resources | None) -> None:
        if path.startswith("/"):
            self._files.create(path, resources)
        else:
            scope_of(path)
            self._pending[path] = awake(resources) if resources is not None else None

    @contextmanager
    def birthplace(self, path: str, beside: int | None = None) -> Iterator[Birthplace]:
        if path in self._pending:
            yield Birthplace()
        else:
            with self._files.birthplace(self._at(path), beside) as place:
                yield place

    def admit(self, path: str, pid: int) -> None:
        """Make the scope around a process that exists, and limit it."""
        if path not in self._pending:
            return
        from cove.kernel import systemd, systemd_limits

        resources = self._pending.pop(path)
        slice_, unit = scope_of(path)
        limits = systemd_limits.limits(resources, self.version) if resources is not None else []
        systemd.start_scope(unit, [*systemd_limits.scope(path, slice_, pid), *limits])
        try:
            at = self._at(path)
            if self.version == 1 or _beyond_systemd(resources):
                self._files.create(at, None)
            if self.version == 1:
                self._files.attach(at, pid)  # systemd knows only some of the hierarchies
            if resources is not None:
                self._files.update(at, resources)
        except BaseException:
            self.kill(path)
            self.remove(path)
            raise

    def attach(self, path: str, pid: int) -> None:
        self.admit(path, pid)
        self._files.attach(self._at(path), pid)

    def update(self, path: str, resources: Resources) -> None:
        if not path.startswith("/"):
            from cove.kernel import systemd, systemd_limits

            if limits := systemd_limits.limits(resources, self.version):
                systemd.set_properties(scope_of(path)[1], limits)
        self._files.update(self._at(path), resources)

    def remove(self, path: str) -> None:
        if path.startswith("/"):
            self._files.remove(path)
        elif path in self._pending:
            del self._pending[path]
        else:
            from cove.kernel import systemd

            self._files.remove(self._at(path))
            systemd.stop_unit(scope_of(path)[1])

    def remove_parent(self) -> None:
        self._files.remove_parent()

    # ── the files' ────────────────────────────────────────────────────────────────────────────────

    def directory_of(self, controller: str, path: str) -> str:
        return self._files.directory_of(controller, self._at(path))

    def directories(self, path: str) -> list[str]:
        return self._files.directories(self._at(path))

    def procs_file(self, path: str) -> str:
        return self._files.procs_file(self._at(path))

    def prepare(self, path: str) -> None:
        self._files.prepare(self._at(path))

    def freeze(self, path: str, frozen: bool) -> None:
        self._files.freeze(self._at(path), frozen)

    def kill(self, path: str) -> None:
        self._files.kill(self._at(path))

    def stats(self, path: str) -> CgroupStats:
        return self._files.stats(self._at(path))

    def oom_kills(self, path: str) -> int:
        return self._files.oom_kills(self._at(path))

    def waits_for_memory(self, path: str) -> bool:
        return self._files.waits_for_memory(self._at(path))

    def memory_peak(self, path: str) -> int:
        return self._files.memory_peak(self._at(path))

    def open_oom_events(self, path: str) -> int | None:
        return self._files.open_oom_events(self._at(path))


def _beyond_systemd(resources: Resources | None) -> bool:
    """Whether a controller is wanted that systemd does not hand down."""
    return resources is not None and bool(resources.hugepage_limits or resources.rdma)
