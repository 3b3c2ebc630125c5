"""An explanation as text to be read: who it is, what it sees, uses, may do, finds and reaches, and how it is reached.

One block for each question; within a block one line for each thing, its words wrapped to the terminal's width.
Colours only on a terminal, and not where NO_COLOR is set. Knows nothing of the daemon: a dictionary goes in.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from textwrap import wrap

from cove.cli import humanize
from cove.wire.spans import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Value = dict[str, Any]

_BAR = 10
_FULL, _EMPTY = "█", "░"
_BOLD, _DIM, _GREEN, _YELLOW, _RED, _PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[31m", "\033[0m"
_MARKS = {"own": ("●", _GREEN), "shared": ("◐", _YELLOW), "host": ("○", _YELLOW)}


class Page:
    """The lines of a page of a width, with or without colours."""

    def __init__(self, width: int, *, colours: bool, identity: str = "") -> None:
        """`identity`: the container's, which is shortened wherever a path has it."""
        self._width = width
        self._colours = colours
        self._identity = identity
        self.lines: list[str] = []

    def paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours and text else text

    def heading(self, name: str, question: str) -> None:
        self.lines += ["", f"{self.paint(name.upper(), _BOLD)}  {self.paint(question, _DIM)}"]

    def row(self, head: str, text: str, *, width: int = 0, colour: str = "") -> None:
        """`head` at the left, `text` wrapped beside it; `width` is what head takes when it has colours."""
        taken = width or len(head)
        if self._identity:
            text = text.replace(self._identity, f"{self._identity[:12]}…")
        for position, line in enumerate(wrap(text, max(self._width - taken, 30)) or [""]):
            left = head if position == 0 else " " * taken
            self.lines.append(f"{left}{self.paint(line, colour)}".rstrip())


def show(found: Value, *, verbose: bool) -> None:
    """Print it on stdout."""
    try:
        width = min(max(os.get_terminal_size(1).columns, 80), 140)
    except OSError:
        width = 120
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print("\n".join(lines(found, width, colours=colours, verbose=verbose)))


def lines(found: Value, width: int, *, colours: bool = False, verbose: bool = False) -> list[str]:
    """The whole page."""
    identity = found["Cgroup"].rpartition("/")[2]
    page = Page(width, colours=colours, identity="" if verbose else identity)
    _title(page, found)
    _namespaces(page, found["Namespaces"])
    _limits(page, found, verbose=verbose)
    _security(page, found["Security"], verbose=verbose)
    _mounts(page, found["Mounts"], verbose=verbose)
    _network(page, found["Network"])
    _ports(page, found["Network"].get("Ports") or [])
    if found.get("Warnings"):
        page.heading("Weak spots", "what this container has beyond the defaults")
        for text in found["Warnings"]:
            page.row(f"  {page.paint('!', _RED)} ", text, width=4)
    return page.lines


def _title(page: Page, found: Value) -> None:
    command = shlex.join(found.get("Command") or ())
    page.lines.append(f"{page.paint(found['Name'], _BOLD)}  {found['Image']}  {page.paint(command, _DIM)}")
    if found["State"] == "planned":
        page.lines.append("planned: this is what would be created; nothing was")
    elif found.get("Pid"):
        age = duration(time.time() - humanize.unix(found.get("StartedAt", "")))
        page.lines.append(f"{found['State']} for {age.lower()}, pid {found['Pid']}, container {found['Id'][:12]}")
    else:
        page.lines.append(f"{found['State']}, container {found['Id'][:12]}: what follows holds at its next start")


def _namespaces(page: Page, spaces: Iterable[Value]) -> None:
    page.heading("Namespaces", "what it can see")
    for space in spaces:
        mark, colour = _MARKS[space["Mode"]]
        number = str(space["Id"]) if space.get("Id") else "new" if space["Mode"] == "own" else "-"
        if space["Mode"] == "host":
            number = "the host's"
        beside = f"host {space['HostId']}" if space["Mode"] != "host" else f"     {space['HostId']}"
        plain = f"  {mark} {space['Type']:<8} {number:>10}  {beside:<15}  "
        page.row(plain.replace(mark, page.paint(mark, colour), 1), space["Text"], width=len(plain))


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


def _limits(page: Page, found: Value, *, verbose: bool) -> None:
    parent, _, name = found["Cgroup"].rpartition("/")
    group = f"{parent}/{name if verbose else name[:12] + '…'}"
    page.heading("Limits", f"what it can use; control group {group}, version {found['CgroupVersion']}")
    for limit in found["Limits"]:
        used, bound = limit.get("Used"), limit.get("Limit")
        plain = f"  {limit['Resource']:<18} {_bar(used, bound)}  {_use(limit):<23}  "
        bar = _bar(used, bound)
        share = used / bound if used is not None and bound else 0.0
        colour = _RED if share > 0.9 else _YELLOW if share > 0.7 else _GREEN
        page.row(
            plain.replace(bar, page.paint(bar, colour), 1) if bar.strip() else plain, limit["Text"], width=len(plain)
        )
        if waits := limit.get("Pressure"):
            who = "tasks waited" if waits["Scope"] == "container" else "tasks of the host waited"
            text = f"{who} {waits['Some10']:.1f} % of 10 s, {waits['Some60']:.1f} % of 60 s"
            page.row(" " * len(plain), text, colour=_DIM)
        if verbose and limit.get("Peak"):
            page.row(" " * len(plain), f"at most {_amount(limit['Peak'], limit['Unit'])} so far", colour=_DIM)
        if verbose and limit.get("Source"):
            page.row(" " * len(plain), limit["Source"], colour=_DIM)


def _bar(used: float | None, bound: float | None) -> str:
    if used is None or not bound:
        return " " * _BAR
    filled = min(_BAR, max(round(used / bound * _BAR), 1 if used else 0))
    return _FULL * filled + _EMPTY * (_BAR - filled)


def _use(limit: Value) -> str:
    used, bound, unit = limit.get("Used"), limit.get("Limit"), limit["Unit"]
    if used is None:
        return _amount(bound, unit) if bound is not None and unit not in ("ulimit", "weight") else ""
    text = _amount(used, unit)
    return f"{text} of {_amount(bound, unit)}" if bound else text


def _amount(value: float, unit: str) -> str:
    if unit.startswith("bytes"):
        number = humanize.binary_size(value, digits=3)
        digits = number.rstrip("BiKMGTPE")
        return f"{digits} {number[len(digits) :]}{unit.removeprefix('bytes')}"
    if unit == "cpus":
        return f"{value:.3g}"
    if unit == "operations/s":
        return f"{value:g}/s"
    return f"{value:g}"


# ── rights ────────────────────────────────────────────────────────────────────────────────────────


def _security(page: Page, found: Value, *, verbose: bool) -> None:
    page.heading("Rights", "what it may do")
    _item(page, "user", found["User"])
    held = found.get("Capabilities") or []
    _item(page, "capabilities", _words(held) if held else "none")
    if found.get("Without"):
        _item(page, "without", _words(found["Without"]))
    calls = found["Seccomp"]
    _item(
        page, "system calls", f"{calls['Profile']} profile: {calls['Text']}" if calls.get("Known") else calls["Text"]
    )
    if calls.get("Refused"):
        _item(page, "", f"it cannot, among others, {', '.join(each['Text'] for each in calls['Refused'])}")
    never = found["NoNewPrivileges"]
    _item(
        page,
        "new rights",
        "never: no program gives it more (no_new_privs)" if never else "by set-user-id programs, within the above",
    )
    if found.get("Apparmor"):
        _item(page, "AppArmor", found["Apparmor"])
    hidden, fixed = found.get("Masked") or [], found.get("Readonly") or []
    _item(page, "hidden", f"{len(hidden)} paths show nothing, {len(fixed)} cannot be written")
    if verbose and hidden:
        _item(page, "", " ".join(hidden))
        _item(page, "read-only", " ".join(fixed))
    if found.get("Sysctls"):
        _item(page, "sysctls", ", ".join(f"{key} = {value}" for key, value in sorted(found["Sysctls"].items())))
    _item(page, "devices", ", ".join(found.get("Devices") or ("none",)))
    for hook in found.get("Hooks") or []:
        words = " ".join((hook["Path"], *(hook.get("Args") or [])[1:]))
        _item(page, "hook", f"{words}: of the host, run as root at each start for a device ({hook['Stage']})")


def _words(capabilities: list[Value]) -> str:
    """Each with what it lets a process do; of very many the names alone."""
    if len(capabilities) > 24:
        return f"{len(capabilities)}: {' '.join(each['Name'] for each in capabilities)}"
    return " · ".join(f"{each['Name']} {each['Text']}" for each in capabilities)


def _item(page: Page, name: str, text: str) -> None:
    page.row(f"  {name:<14}  ", text)


# ── files and network ─────────────────────────────────────────────────────────────────────────────


def _mounts(page: Page, mounts: list[Value], *, verbose: bool) -> None:
    page.heading("Mounts", "what it finds")
    room = min(max((len(mount["Destination"]) for mount in mounts), default=0), 32)
    for mount in mounts:
        access = "rw" if mount["Writable"] else "ro"
        head = f"  {mount['Destination']:<{room}}  {mount['Type']:<8} {access}  "
        source = mount.get("Source") or ""
        if not verbose and mount["Origin"].startswith("written by Cove"):
            source = ""
        text = mount["Origin"] if not source or source in mount["Origin"] else f"{mount['Origin']}: {source}"
        page.row(head, text, colour=_YELLOW if mount.get("MadeInside") else "")


def _network(page: Page, network: Value) -> None:
    page.heading("Network", "whom it reaches")
    page.row("  ", network["Text"])
    for each in network.get("Interfaces") or []:
        head = f"  {each.get('Name') or 'interface':<10}  "
        page.row(head, ", ".join(_place(each)))
        for text in _traffic(each):
            page.row(" " * len(head), text, colour=_DIM)
    if network.get("NameServers"):
        page.row(f"  {'names':<10}  ", f"asked of {', '.join(network['NameServers'])}")


def _place(each: Value) -> Iterator[str]:
    if each.get("Addresses"):
        yield " and ".join(each["Addresses"])
    yield f"on the network {each['Network']} ({each['Driver']})"
    if each.get("HostInterface"):
        yield f"the other end of {each['HostInterface']} in the bridge {each['Bridge']}"
    if each.get("Gateways"):
        yield f"gateway {' and '.join(each['Gateways'])}"


def _traffic(each: Value) -> Iterator[str]:
    if each.get("Received") is not None:
        yield f"received {humanize.size(each['Received'])}, sent {humanize.size(each['Sent'])}"
    for whose, name in (("Rate", "it may"), ("NetworkRate", "all on this network together may")):
        limits = [
            f"{verb} {humanize.binary_size(each[f'{whose}{way}'])}/s"
            for way, verb in (("In", "receive"), ("Out", "send"))
            if each.get(f"{whose}{way}")
        ]
        if limits:
            yield f"{name} {' and '.join(limits)} at most"


def _ports(page: Page, ports: list[Value]) -> None:
    if not ports:
        return
    page.heading("Ports", "how it is reached")
    for port in ports:
        inside = f"{port['ContainerPort']}/{port['Protocol']}"
        outside = _outside(port)
        page.lines.append(f"  {page.paint(f'{outside} ─▶ {inside}' if outside else inside, _BOLD)}")
        hops = port["Path"]
        for position, hop in enumerate(hops):
            branch = "└─▶" if position == len(hops) - 1 else "├─"
            head = f"    {branch:<3} {hop['Place']:<9} "
            page.row(head, hop["Text"], colour="" if port.get("Listener") or hop["Place"] != "process" else _YELLOW)


def _outside(port: Value) -> str:
    if port["Path"][0]["Place"] != "host":
        return ""
    address = port.get("HostIp") or "*"
    number = port.get("HostPort") or "any"
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
