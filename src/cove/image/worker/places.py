"""Where a copy's files are written: a step's merged tree, and beneath it the upper layer alone, which is quicker.

    directory that a layer below has ─▶ directories, and names that are taken: through the overlay
    │                                └▶ names that nothing has: into the upper layer's directory
    directory that the copy makes    ─▶ made through the overlay, all below it in the upper layer

The overlay makes a file in its work directory and moves it, under other credentials, and looks twice at everything.
Beneath it a file costs a third. That is safe where the name is new: the overlay has looked for nothing there, so that
it remembers nothing (kernel docs, overlayfs), and this process has the only mount of it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from cove.image.worker.inside import resolved
from cove.kernel.rootpath import RESOLVE_NO_SYMLINKS, open_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DEFAULT_ACL = "system.posix_acl_default"


@dataclass(slots=True)
class Place:
    """A directory that is written into, by descriptors.

    `merged` shows what all layers have there, -1 where only the upper one has anything; `upper` is that one's, -1
    while it is not known. `names` are what lay there before.
    """

    path: str
    merged: int
    upper: int = -1
    names: set[str] = field(default_factory=set)
    looked: bool = False
    _plain: bool | None = None

    @property
    def fd(self) -> int:
        """What directories and the directory's own attributes are reached by."""
        return self.upper if self.merged < 0 else self.merged

    @property
    def plain(self) -> bool:
        """Whether the upper directory, which is dressed by now, hands nothing down to new files."""
        if self._plain is None:
            inherits = os.fstat(self.upper).st_mode & stat.S_ISGID or _DEFAULT_ACL in os.listxattr(self.upper)
            self._plain = not inherits
        return self._plain

    def close(self) -> None:
        for fd in (self.merged, self.upper):
            if fd >= 0:
                os.close(fd)
        self.merged = self.upper = -1


class Places:
    """Opens directories: `root` is a descriptor of the merged tree, `upper` of the upper layer, -1 for none."""

    def __init__(self, root: int, upper: int) -> None:
        self._root = root
        self._upper = upper

    def of(self, fd: int, path: str, *, new: bool) -> Place:
        """The directory `path`, opened as `fd` in the merged tree; `new` if the copy has just made it."""
        place = Place(path, fd)
        if new and (own := self.own(path)) >= 0:
            os.close(fd)
            place.merged, place.upper = -1, own
        return place

    def below(self, place: Place, name: str) -> Place:
        """A directory that was just made in one that only the upper layer has."""
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=place.upper)
        return Place(f"{place.path}/{name}", -1, fd)

    def into(self, place: Place, name: str) -> int:
        """Where a new file `name`, which will be made, is to be made."""
        if place.merged < 0:
            return place.upper
        if not place.looked:
            place.looked = True
            place.names.update(os.listdir(place.merged))
            if (own := self._made(place)) >= 0:
                # What an earlier copy into this directory has put there, the overlay may not list yet.
                place.names.update(os.listdir(own))
                place.upper = own
        return place.merged if place.upper < 0 or name in place.names else place.upper

    def linking(self, into: int, place: Place, path: str) -> int:
        """The directory `path`, in which this copy has made a file, opened so that the file can be linked `into`."""
        return self._open(path) if into == place.upper else open_in(self._root, path, _DIRECTORY)

    def _made(self, place: Place) -> int:
        """The upper layer's own directory; the overlay makes it when anything of a directory is set."""
        if self._upper < 0:
            return -1
        own = self.own(place.path)
        if own < 0:
            with suppress(OSError):
                os.fchmod(place.merged, stat.S_IMODE(os.fstat(place.merged).st_mode))
            own = self.own(place.path)
        return own

    def own(self, path: str) -> int:
        """A directory of the upper layer's own, opened; -1 while it has none."""
        with suppress(OSError):
            return self._open(path)
        return -1

    def _open(self, path: str) -> int:
        """A directory of the upper layer, by what its path comes to in the merged tree, which nobody changes."""
        return open_in(self._upper, resolved(self._root, path), _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
