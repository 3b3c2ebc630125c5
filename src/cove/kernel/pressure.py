"""How much tasks wait for a resource: pressure stall information (Documentation/accounting/psi.rst)."""

from __future__ import annotations

from typing import NamedTuple

HOST = "/proc/pressure"
RESOURCES = ("cpu", "memory", "io")


class Pressure(NamedTuple):
    """Per cent of the last 10, 60 and 300 seconds in which some task waited, or all of them at once (`full`).

    `waited`: microseconds of each, since the beginning.
    """

    some: tuple[float, float, float]
    full: tuple[float, float, float]
    waited: tuple[int, int] = (0, 0)


def of_host(resource: str) -> Pressure | None:
    """The whole host's pressure on "cpu", "memory" or "io"; None where the kernel does not tell."""
    return read(f"{HOST}/{resource}")


def of_group(directory: str, resource: str) -> Pressure | None:
    """A version 2 group's pressure."""
    return read(f"{directory}/{resource}.pressure")


def read(path: str) -> Pressure | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
    except OSError:  # not compiled in, or switched off (EOPNOTSUPP)
        return None
    return parse(text)


def parse(text: str) -> Pressure:
    """Lines like "some avg10=0.12 avg60=0.05 avg300=0.01 total=4711"."""
    found, waited = {"some": (0.0, 0.0, 0.0), "full": (0.0, 0.0, 0.0)}, {"some": 0, "full": 0}
    for line in text.splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        if kind in found:
            found[kind] = (float(values["avg10"]), float(values["avg60"]), float(values["avg300"]))
            waited[kind] = int(values["total"])
    return Pressure(**found, waited=(waited["some"], waited["full"]))
