"""The file systems of a container that joins a mount namespace by path: it takes them as they stand there.

It has no mounts, masks or devices of its own (else it is a `shared_tree.SharedTree`), and its root is entered by
chroot(2). The same steps as `cove.runtime.child.rootfs.Tree`, most of them empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from cove.oci.spec import Device, Spec
from cove.runtime.child.common import Failure


class JoinedTree:
    """The root that is there."""

    dev: int | None = None
    """Not ours to put a console into."""

    def __init__(self, spec: Spec) -> None:
        self._path = spec.root.path if spec.root is not None else "/"
        self.root = -1

    def enter(self) -> None:
        """Look the root up, in the namespace joined by now."""
        try:
            self.root = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise Failure(
                f"root.path {self._path} in the mount namespace to be joined: {reason}", number=error.errno or 0
            ) from None

    def mount_all(self, before_cgroup: Callable[[], None]) -> None:
        """There is nothing to mount."""

    @property
    def dev_fd(self) -> int:
        """Nothing is masked, so nobody asks."""
        raise Failure("a joined mount namespace has no /dev of the container's own")

    def populate_dev(self, wanted: Iterable[Device]) -> None:
        """The devices are those that are there."""

    def pivot(self, *, move: bool = False) -> None:
        """Make the root this process' own."""
        os.fchdir(self.root)
        os.chroot(".")
        os.chdir("/")

    def seal(self) -> None:
        """A read-only root would be one for everybody."""
