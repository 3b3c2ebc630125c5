"""Labels of the host's security modules: the AppArmor profile and the SELinux labels that a configuration names.

They take effect where their module is active. Where it is not, a configuration that names one is refused: what it
relies on would not be there.
"""

from __future__ import annotations

import errno
import os

from cove.kernel import rootpath
from cove.oci.spec import Process
from cove.runtime.child.common import Failure

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"
# File systems that take a label when they are mounted, and keep no labels of their own (mount(8), "context=").
_CONTEXT = {"tmpfs", "devpts", "ramfs", "overlay"}


def check(process: Process) -> None:
    """Failure when `process` needs a module that is not active. To be called while the host's /sys is there."""
    profile = _profile(process)
    if profile and not _apparmor():
        raise Failure(
            f"process.apparmorProfile is {profile}, but AppArmor is not active on this host; leave it out or enable "
            "AppArmor"
        )
    if process.selinux_label:
        _need_selinux("process.selinuxLabel", process.selinux_label)


def check_mounts(label: str) -> None:
    """The same for the label of a container's mounts."""
    if label:
        _need_selinux("linux.mountLabel", label)


def context(fstype: str, label: str) -> tuple[str, ...]:
    """The mount data that gives a new file system its label."""
    return (f"context={label}",) if label and fstype in _CONTEXT else ()


def apply(process: Process, proc: int) -> None:
    """Make the coming execve take the labels. `proc`: a verified procfs of this process' pid namespace."""
    profile = _profile(process)
    if profile:
        _write(proc, ("attr/apparmor/exec", "attr/exec"), f"exec {profile}", f"AppArmor profile {profile}")
    if process.selinux_label:
        _write(proc, ("attr/exec",), process.selinux_label, f"SELinux label {process.selinux_label}")


def wanted(process: Process) -> bool:
    """Whether `apply` has anything to do."""
    return bool(process.selinux_label or _profile(process))


def _profile(process: Process) -> str:
    """Nobody needs AppArmor to be unconfined."""
    return process.apparmor_profile if process.apparmor_profile != "unconfined" or _apparmor() else ""


def _apparmor() -> bool:
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def _need_selinux(member: str, label: str) -> None:
    if not os.path.exists(_SELINUX):
        raise Failure(f"{member} is {label}, but SELinux is not active on this host; leave it out or enable SELinux")


def _write(proc: int, names: tuple[str, ...], content: str, what: str) -> None:
    for name in names:
        try:
            rootpath.write_procfs(proc, f"{os.getpid()}/{name}", content.encode())
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = "there is no such profile or label" if error.errno in (errno.ENOENT, errno.EINVAL) else ""
            detail = reason or os.strerror(error.errno or 0).lower()
            raise Failure(f"the {what} cannot be applied: {detail}", number=error.errno or 0) from None
        return
    raise Failure(f"the {what} cannot be applied: this kernel has no place to ask for it")
