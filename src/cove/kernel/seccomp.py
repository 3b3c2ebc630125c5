"""A seccomp profile becomes classic BPF, the program that seccomp(2) takes.

Owns the translation and the table of system call numbers (`syscall_numbers.json`, one row per name, from the
kernel's headers). Decides nothing about what is allowed. The program's plan:

    which architecture? ──▶ which number? (binary search over runs of equal verdicts) ──▶ verdict, or the
                                             arguments' conditions, written once for all calls that share them

Semantics are those of the runtime specification as runtimes carry it out: names a kernel's architecture does
not have are ignored; the native architecture is always there; a rule without conditions beats those with; a
call on an architecture that the profile does not name kills the thread; and numbers newer than every one the
profile knows get ENOSYS instead of a refusal, so that a C library falls back to what it did before.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

MAX_INSTRUCTIONS = 4096
X32_BIT = 0x40000000

_LOAD, _JUMP, _EQUAL, _GREATER, _GREATER_EQUAL, _AND, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LEAF = 0xFFFF
"""Not an operation: where the search ends, until the decision's place is known."""
_FAR = 255
_NO_CALL = 0xFFFFFFFF
_WORD = 0xFFFFFFFF
_MOST_ERRNO = 4095
"""The kernel makes it of everything above (include/linux/err.h)."""
_PRIVATE = 0xF0000
"""From here on arm has calls of its own, far above the common numbering."""

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
OPERATORS = tuple(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
_KILL = ACTIONS["SCMP_ACT_KILL"]
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")

_AUDIT = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64"),
    "SCMP_ARCH_X86": (0x40000003, "i386"),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64"),
    "SCMP_ARCH_ARM": (0x40000028, "arm"),
}
_X32 = "SCMP_ARCH_X32"
ARCHITECTURES = (*_AUDIT, _X32)
# Those that a profile may name for other machines; they mean nothing on this one.
_ELSEWHERE = {
    f"SCMP_ARCH_{name}"
    for name in (
        "LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE "
        "RISCV64 S390 S390X SH SHEB"
    ).split()
}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class Condition(Protocol):
    """One comparison of argument `index` (0 to 5), 64 bits wide."""

    @property
    def index(self) -> int: ...
    @property
    def value(self) -> int: ...
    @property
    def value_two(self) -> int: ...
    @property
    def op(self) -> str: ...


class Rule(Protocol):
    """What is done with the calls named, if all conditions hold."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def action(self) -> str: ...
    @property
    def errno_ret(self) -> int | None: ...
    @property
    def args(self) -> Sequence[Condition]: ...


class Profile(Hashable, Protocol):
    """The runtime specification's linux.seccomp; `cove.oci.spec.Seccomp` is one."""

    @property
    def default_action(self) -> str: ...
    @property
    def default_errno_ret(self) -> int | None: ...
    @property
    def architectures(self) -> Sequence[str]: ...
    @property
    def syscalls(self) -> Sequence[Rule]: ...


class Instruction(NamedTuple):
    """struct sock_filter: operation, jump if true, jump if false, operand."""

    code: int
    true: int
    false: int
    operand: int


class _Check(NamedTuple):
    """One alternative for a call: the conditions, and the verdict if they hold."""

    conditions: tuple[tuple[int, str, int, int], ...]
    verdict: int


_Checks = tuple[_Check, ...]
_Code = list[Instruction]
_PACKED = struct.Struct("=HBBI")


@lru_cache(maxsize=64)
def compile(profile: Profile) -> bytes:
    """The filter as an array of struct sock_filter.

    ValueError with a sentence when the profile has an unknown action, comparison or architecture, a wrong argument
    index, or needs more than 4,096 instructions.
    """
    program = assemble(profile)
    if len(program) > MAX_INSTRUCTIONS:
        raise ValueError(
            f"The seccomp profile needs {len(program)} instructions, the kernel takes at most {MAX_INSTRUCTIONS}"
        )
    return b"".join(_PACKED.pack(*instruction) for instruction in program)


def assemble(profile: Profile) -> _Code:
    """The filter's instructions."""
    default = verdict(profile.default_action, profile.default_errno_ret)
    names = _architectures(profile.architectures)
    program = [_load(_ARCHITECTURE)]
    for name in names:
        audit, table = _AUDIT[name]
        block = [_load(_NUMBER)]
        if table == "x86_64":
            block += _x32(profile, default, _X32 in profile.architectures)
        block += _calls(profile, table, default)
        program += [Instruction(_EQUAL, 1, 0, audit), Instruction(_JUMP, 0, 0, len(block)), *block]
    return [*program, _return(_KILL)]


def verdict(action: str, data: int | None) -> int:
    """The kernel's return value for an action; ERRNO and TRACE carry `data`, EPERM unless told."""
    try:
        value = ACTIONS[action]
    except KeyError:
        raise ValueError(f"The seccomp profile has the unknown action {action!r}") from None
    if action not in _WITH_DATA:
        return value
    most = _MOST_ERRNO if action == "SCMP_ACT_ERRNO" else 0xFFFF
    if data is not None and not 0 <= data <= most:
        raise ValueError(f"The seccomp profile has the return value {data} for {action}: it is from 0 to {most}")
    return value | (errno.EPERM if data is None else data)


@lru_cache(maxsize=1)
def numbers() -> dict[str, dict[str, int]]:
    """System call numbers: architecture → name → number."""
    with open(os.path.join(os.path.dirname(__file__), "syscall_numbers.json"), "rb") as file:
        data = msgspec.json.decode(file.read())
    return {
        architecture: {name: row[column] for name, row in data["numbers"].items() if row[column] is not None}
        for column, architecture in enumerate(data["architectures"])
    }


# ── from rules to checks per number ───────────────────────────────────────────────────────────────


def _architectures(wanted: Sequence[str]) -> list[str]:
    """Those this table knows, the native one first."""
    native = _NATIVE.get(os.uname().machine)
    if native is None:
        raise ValueError(f"Seccomp filters are not supported on {os.uname().machine}; use seccomp=unconfined")
    if unknown := sorted({*wanted} - {*ARCHITECTURES} - _ELSEWHERE):
        raise ValueError(f"The seccomp profile has the unknown architecture {unknown[0]!r}")
    return list(dict.fromkeys([native, *(name for name in wanted if name in _AUDIT)]))


def _checks(profile: Profile, table: str, default: int) -> dict[int, _Checks]:
    """For each number its alternatives in order; the last one may have no conditions."""
    known = numbers()[table]
    found: dict[int, list[_Check]] = {}
    for rule in profile.syscalls:
        ruling = verdict(rule.action, rule.errno_ret)
        alternatives = [_Check(conditions, ruling) for conditions in _alternatives(rule)]
        for name in rule.names:
            if name in known:
                found.setdefault(known[name], []).extend(alternatives)
    return {number: _settled(checks, default) for number, checks in found.items()}


def _alternatives(rule: Rule) -> list[tuple[tuple[int, str, int, int], ...]]:
    """All conditions together; but if two are on the same argument, each for itself, as runtimes have it."""
    conditions = tuple((each.index, each.op, each.value, each.value_two) for each in rule.args)
    if len({index for index, *_ in conditions}) < len(conditions):
        return [(each,) for each in conditions]
    return [conditions]


def _settled(checks: Iterable[_Check], default: int) -> _Checks:
    """A rule without conditions decides alone; what says no more than the default is left out."""
    kept: list[_Check] = []
    for check in checks:
        if not check.conditions:
            return (check,)
        if check.verdict != default and check not in kept:
            kept.append(check)
    return tuple(kept)


# ── from checks to code ───────────────────────────────────────────────────────────────────────────


def _calls(profile: Profile, table: str, default: int, bias: int = 0) -> _Code:
    """Search the number (already loaded) among runs of equal verdicts, and decide."""
    checks = _checks(profile, table, default)
    runs: list[tuple[int, _Checks]] = [(0, ())]

    def run(start: int, verdicts: _Checks) -> None:
        if runs[-1][0] == start:
            runs[-1] = (start, verdicts)
        elif runs[-1][1] != verdicts:
            runs.append((start, verdicts))

    newest = max((number for number in checks if number < _PRIVATE), default=-1)
    for number in sorted(checks):
        run(number + bias, checks[number])
        run(number + 1 + bias, _beyond(profile, default) if number >= newest else ())
    merged = [each for at, each in enumerate(runs) if at == 0 or each[1] != runs[at - 1][1]]
    if merged[-1][1] and newest >= 0:
        merged.append((_NO_CALL, ()))  # the number -1 is what a tracer skips with; it is not a newer call
    return _search(merged, default)


def _beyond(profile: Profile, default: int) -> _Checks:
    """What becomes of a call newer than the profile: unknown to this system, where it would be refused."""
    if profile.default_action != "SCMP_ACT_ERRNO":
        return ()
    ruling = verdict("SCMP_ACT_ERRNO", errno.ENOSYS)
    return () if ruling == default else (_Check((), ruling),)


def _search(runs: Sequence[tuple[int, _Checks]], default: int) -> _Code:
    """A binary search whose leaves jump to decisions behind it; calls that share their checks share the code."""
    decisions = list(dict.fromkeys(checks for _, checks in runs))
    tree = _tree([(start, decisions.index(checks)) for start, checks in runs])
    blocks = [_decide(checks, default) for checks in decisions]
    starts = [len(tree)]
    for block in blocks:
        starts.append(starts[-1] + len(block))
    for at, step in enumerate(tree):
        if step.code == _LEAF:
            block = blocks[step.operand]
            tree[at] = block[0] if len(block) == 1 else Instruction(_JUMP, 0, 0, starts[step.operand] - at - 1)
    return [*tree, *(instruction for block in blocks for instruction in block)]


def _tree(runs: Sequence[tuple[int, int]]) -> _Code:
    """The search alone; a leaf's operand tells which decision holds from `start` on."""
    if len(runs) == 1:
        return [Instruction(_LEAF, 0, 0, runs[0][1])]
    middle = len(runs) // 2
    below, above = _tree(runs[:middle]), _tree(runs[middle:])
    if len(below) <= _FAR:
        return [Instruction(_GREATER_EQUAL, len(below), 0, runs[middle][0]), *below, *above]
    jumps = [Instruction(_GREATER_EQUAL, 0, 1, runs[middle][0]), Instruction(_JUMP, 0, 0, len(below))]
    return [*jumps, *below, *above]


def _decide(checks: _Checks, default: int) -> _Code:
    code: _Code = []
    for check in checks:
        code += _check(check)
        if not check.conditions:
            return code
    return [*code, _return(default)]


def _check(check: _Check) -> _Code:
    """Return the verdict if all conditions hold, else go on behind this code."""
    code = [_return(check.verdict)]
    for condition in reversed(check.conditions):
        code = [*_condition(*condition, len(code)), *code]
    return code


def _condition(index: int, op: str, value: int, value_two: int, rest: int) -> _Code:
    """Compare 64 bits as two words; fall through if it holds, else jump over the `rest` instructions."""
    if not 0 <= index <= 5:
        raise ValueError(f"The seccomp profile compares argument {index}; there are arguments 0 to 5")
    low = _ARGUMENTS + 8 * index
    high = low + 4
    upper, lower = value >> 32 & _WORD, value & _WORD
    if op == "SCMP_CMP_MASKED_EQ":
        upper_two, lower_two = value_two >> 32 & _WORD, value_two & _WORD
        return [
            _load(high),
            Instruction(_AND, 0, 0, upper),
            Instruction(_EQUAL, 0, rest + 3, upper_two),
            _load(low),
            Instruction(_AND, 0, 0, lower),
            Instruction(_EQUAL, 0, rest, lower_two),
        ]
    if op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        equal = op == "SCMP_CMP_EQ"
        return [
            _load(high),
            Instruction(_EQUAL, 0, rest + 2 if equal else 2, upper),
            _load(low),
            Instruction(_EQUAL, 0 if equal else rest, rest if equal else 0, lower),
        ]
    if op in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        last = Instruction(_GREATER if op == "SCMP_CMP_GT" else _GREATER_EQUAL, 0, rest, lower)
        above, other = 3, rest + 2
    elif op in ("SCMP_CMP_LT", "SCMP_CMP_LE"):
        last = Instruction(_GREATER_EQUAL if op == "SCMP_CMP_LT" else _GREATER, rest, 0, lower)
        above, other = rest + 3, 2
    else:
        raise ValueError(f"The seccomp profile has the unknown comparison {op!r}")
    return [
        _load(high),
        Instruction(_GREATER, above, 0, upper),
        Instruction(_EQUAL, 0, other, upper),
        _load(low),
        last,
    ]


def _x32(profile: Profile, default: int, allowed: bool) -> _Code:
    """x32 calls come as x86_64's with a bit set: its own table, or death; the rest goes on behind."""
    if allowed:
        block = _calls(profile, "x32", default, X32_BIT)
    else:
        block = [Instruction(_EQUAL, 0, 1, _NO_CALL), _return(default), _return(_KILL)]
    return [Instruction(_GREATER_EQUAL, 1, 0, X32_BIT), Instruction(_JUMP, 0, 0, len(block)), *block]


def _load(offset: int) -> Instruction:
    """A word of struct seccomp_data; the architectures known here are all little-endian."""
    return Instruction(_LOAD, 0, 0, offset)


def _return(value: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, value)
