"""The file systems of a container that shares its mount namespace: it joins one by path, or stays in its maker's.

Its mounts are nobody's else. They are made, as ever, in a mount namespace of their own, which ends with that; the
container then goes to the one that it shares and takes along a detached copy of its tree, as its root:

    the namespace to share ── unshare ─▶ a copy of it: root, mounts, /dev, masks     (`rootfs.Tree`)
            ▲                                   │ open_tree: a copy of the tree that is attached nowhere
            └──────────── setns, chroot ────────┘

Nothing is mounted for others to see, and nothing is left: the tree goes with the last process whose root it is.
To the kernel its mounts are foreign there, so programs gain no rights by set-id bits or file capabilities.
"""

from __future__ import annotations

import os

from cove.kernel import mounts, process, syscalls
from cove.oci.spec import Spec
from cove.runtime.child.common import Child
from cove.runtime.child.joined_tree import JoinedTree
from cove.runtime.child.rootfs import Tree


def is_shared(spec: Spec) -> bool:
    """Whether the mount namespace is not the container's own."""
    listed = spec.linux.namespaces if spec.linux else ()
    return not any(each.type == "mount" and not each.path for each in listed)


def adds_to_shared(spec: Spec) -> bool:
    """Whether anything but what is there already shall be seen: what is joined by path may be taken as it stands."""
    linux = spec.linux
    if linux is None or not any(each.type == "mount" for each in linux.namespaces):
        return True
    readonly = spec.root is not None and spec.root.readonly
    return bool(readonly or spec.mounts or linux.masked_paths or linux.readonly_paths or linux.devices)


def of(spec: Spec, child: Child) -> JoinedTree | SharedTree:
    """The tree of a container that shares its mount namespace, once this process is in that."""
    return SharedTree(spec, child) if adds_to_shared(spec) else JoinedTree(spec)


class SharedTree(Tree):
    """A tree for a container alone, in a namespace that is not."""

    def __init__(self, spec: Spec, child: Child) -> None:
        self._shared = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(process.CLONE_NEWNS)
        super().__init__(spec, None, exact=True, child=child)

    def pivot(self, *, move: bool = False) -> None:
        """Make the root this process' own, in the namespace that is shared."""
        self._seal_dev()
        detached = mounts.clone(self.root, "", recursive=True)
        syscalls.setns(self._shared, process.CLONE_NEWNS)
        os.close(self._shared)
        os.close(self.root)
        self.root = detached
        os.fchdir(self.root)
        os.chroot(".")
        os.chdir("/")
