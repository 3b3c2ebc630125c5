"""What of the runtime specification this runtime does not do: refused by name, never silently left out."""

from __future__ import annotations

from cove.oci.spec import OCI_VERSION, Linux, Process, Spec
from cove.runtime.child import credentials, labels, ranges, shared_tree, sysctls
from cove.runtime.child import hooks as runtime_hooks
from cove.runtime.child.common import Failure


def check(spec: Spec, *, hooks: bool) -> None:
    """Failure that names the first member of `spec` that cannot be honoured. `hooks`: whether somebody runs
    those that are not init's own, which createContainer's are.
    """
    if spec.process is None:
        raise Failure("the runtime spec has no process to run")
    _check_platform(spec)
    linux = spec.linux
    if linux is None:
        raise Failure("the runtime spec has no linux section")
    kinds = [namespace.type for namespace in linux.namespaces]
    if len(kinds) != len(set(kinds)):
        raise Failure("the runtime spec lists a kind of namespace twice")
    ranges.check(spec)
    ranges.check_user_namespace(linux)
    if shared_tree.is_shared(spec):
        _check_shared(linux)
    if spec.hostname and "uts" not in kinds:
        raise Failure("hostname needs a uts namespace of the container's own")
    if spec.domainname and linux.sysctl.get("kernel.domainname", spec.domainname) != spec.domainname:
        raise Failure("the sysctl kernel.domainname and domainname are two names for one thing and differ: give one")
    _refuse(
        {
            "linux.resources.memory.useHierarchy": _is_flat(linux),
            "hooks": spec.hooks if not hooks and runtime_hooks.beside_init(spec.hooks) else None,
            "linux.personality.flags": linux.personality.flags if linux.personality else (),
        }
    )
    sysctls.check(linux.sysctl, {each.type for each in linux.namespaces if not each.path})
    labels.check_mounts(linux.mount_label)
    labels.check(spec.process)
    check_process(spec.process)


def _check_platform(spec: Spec) -> None:
    """What is meant for another version of the specification, or for another platform than Linux."""
    if spec.oci_version and spec.oci_version.split(".")[0] != "1":
        raise Failure(f"ociVersion {spec.oci_version} is not supported: this runtime follows {OCI_VERSION}")
    sections = {
        "windows": spec.windows,
        "vm": spec.vm,
        "solaris": spec.solaris,
        "zos": spec.zos,
        "freebsd": spec.freebsd,
    }
    for name, section in sections.items():
        if section is not None:
            raise Failure(f"{name} is not supported: this runtime makes processes of Linux, described by linux")


def _check_shared(linux: Linux) -> None:
    """What goes together with a mount namespace that is not the container's own."""
    if any(each.type == "user" for each in linux.namespaces):
        raise Failure("with a user namespace a container needs a new mount namespace too (linux.namespaces)")
    if linux.rootfs_propagation not in ("", "private", "rprivate"):
        raise Failure(
            f"linux.rootfsPropagation {linux.rootfs_propagation} needs a new mount namespace: in one that is shared, "
            "the container's root is attached nowhere"
        )


def check_process(process: Process) -> None:
    """The same for a process, a container's first or an exec's."""
    if process.command_line:
        raise Failure("process.commandLine is not supported: it is Windows'; give the program and its words as args")
    if not process.args:
        raise Failure("the process has no program to run (args is empty)")
    ranges.check_process(process)
    credentials.check_limits(process.rlimits)


def _is_flat(linux: Linux) -> bool:
    """Whether the memory of groups below is to be left out, which no kernel since 5.11 can."""
    memory = linux.resources.memory if linux.resources else None
    return memory is not None and memory.use_hierarchy is False


def _refuse(members: dict[str, object]) -> None:
    for name, value in members.items():
        if value:
            raise Failure(f"{name} is not supported")
