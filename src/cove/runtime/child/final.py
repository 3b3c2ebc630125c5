"""The last acts of every process that becomes a container's: from root's rights to the program's, as operations.

    [no_new_privs] [seccomp] ─▶ bounding set ─▶ ids ─▶ sets ─▶ signals ─▶ [init stays behind] ─▶ umask
           ─▶ [seccomp, when no_new_privs] ─▶ execve

Without no_new_privs a filter needs CAP_SYS_ADMIN and is installed before that is gone; with it, as the last thing: it
may forbid all but execve, and often the newer calls. An init that stays behind is held by it too. Nothing is done
here: who does it is the caller's.
"""

from __future__ import annotations

import errno
from functools import lru_cache

from cove.kernel import operations, privileges
from cove.kernel.operations import Operation
from cove.oci.spec import Process
from cove.runtime.child import idmaps, program
from cove.runtime.child.common import Child
from cove.runtime.child.credentials import Masks, Program
from cove.runtime.child.filters import Filter
from cove.runtime.child.users import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the C module: `signal` makes an enumeration's member of each answer

_DEFAULT_UMASK = 0o022
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 4, 8, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_BITS = 64
_LAST = privileges.last_capability()  # read at import: later /proc may be a container's


def drop(child: Child, process: Process, identity: Identity, masks: Masks, seccomp: Filter) -> None:
    """From root with every right to the process' identity and capabilities."""
    if process.no_new_privileges:
        child.act(operations.prctl(_PR_SET_NO_NEW_PRIVS, 1))
    else:
        install(child, seccomp)
    for operation in _bounding(masks.bounding):
        child.act(operation)
    child.act(operations.prctl(_PR_SET_KEEPCAPS, 1))
    _become(child, identity)
    child.act(operations.prctl(_PR_SET_KEEPCAPS, 0))
    # A uid change makes the process dumpable again where the host allows set-id dumps.
    child.act(operations.prctl(_PR_SET_DUMPABLE, 0))
    # A host that lacks a capability itself cannot give it: the sets shrink to what there is.
    available = child.most()
    permitted = masks.permitted & available
    inheritable = masks.inheritable & available
    child.act(operations.capset(masks.effective & permitted, permitted, inheritable))
    child.act(operations.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL))
    for number in _numbers(masks.ambient & permitted & inheritable):
        child.act(operations.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number))


def execute(
    child: Child, process: Process, found: Program, seccomp: Filter, *, console: int | None, reaper: bool
) -> None:
    """The program, with `reaper` below a minimal init, with the filter (if it is not there yet) as the last thing."""
    for number in _ignored():
        child.act(operations.default_signal(number))
    if reaper:
        install(child, seccomp)
        seccomp = Filter()
        child.act(operations.split(foreground=console is not None))
    child.act(operations.unblock_signals())
    child.act(operations.umask(_DEFAULT_UMASK if process.user.umask is None else process.user.umask))
    install(child, seccomp)
    child.act(
        operations.execve(found.path, process.args, found.env),
        lambda error: program.refused(found.path, error, child.own_proc),
    )


def install(child: Child, seccomp: Filter) -> None:
    """Filter the process' calls from here on; one with somebody who answers for calls is installed by itself."""
    if seccomp.listener is not None:
        seccomp.install()
    elif seccomp.program:
        child.act(operations.seccomp_filter(seccomp.program, seccomp.flags))


@lru_cache(maxsize=16)
def _bounding(keep: int) -> tuple[Operation, ...]:
    """Each capability that is not in the mask `keep` leaves the bounding set."""
    return tuple(
        operations.prctl(_PR_CAPBSET_DROP, number, tolerated=errno.EINVAL)  # beyond the kernel's last one
        for number in _numbers(~keep)
        if number <= _LAST
    )


def _numbers(mask: int) -> list[int]:
    return [number for number in range(_BITS) if mask >> number & 1]


def _become(child: Child, identity: Identity) -> None:
    """The ids (real, effective, saved) and supplementary groups; None keeps the groups there are.

    Where a user namespace forbids it (its maker had no rights) they stay, if none but the own one is asked for.
    """

    def unmapped(error: OSError) -> Exception:
        """Of a user namespace that has no such id the kernel says EINVAL."""
        if error.errno != errno.EINVAL:
            return error
        return idmaps.unmapped((identity.uid, identity.gid, *(identity.groups or ())))

    if identity.groups is not None:
        tolerated = 0 if set(identity.groups) - {identity.gid} else errno.EPERM
        child.act(operations.setgroups(identity.groups, tolerated), unmapped)
    child.act(operations.setresgid(identity.gid), unmapped)
    child.act(operations.setresuid(identity.uid), unmapped)


@lru_cache(maxsize=1)
def _ignored() -> tuple[int, ...]:
    """What this process does not hear of; an execve keeps that. Python ignores SIGPIPE and SIGXFSZ."""
    changeable = (each for each in signal.valid_signals() if each not in (signal.SIGKILL, signal.SIGSTOP))
    return tuple(int(each) for each in changeable if signal.getsignal(each) == signal.SIG_IGN)
