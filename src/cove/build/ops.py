"""The kinds of steps there are, as frozen values: what the cache compares and `steps` performs.

Image · Scratch · Context · Remote · Git · Inline      sources: they stand on nothing
Run · Transfer · Directory                             they make a layer on top of inputs[0]
Link                                                   puts the layer of inputs[1] on top of inputs[0]
"""

from __future__ import annotations

import msgspec


class _Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()


class Image(_Step, frozen=True, kw_only=True):
    """An image's file system; `chain` is its uppermost layer ("" for none)."""

    reference: str
    digest: str
    chain: str


class Scratch(_Step, frozen=True, kw_only=True):
    """An empty file system."""


class Context(_Step, frozen=True, kw_only=True):
    """Files that the client sent, by the name of the context."""

    name: str = "context"


class Remote(_Step, frozen=True, kw_only=True):
    """One file by HTTP."""

    url: str
    checksum: str = ""
    name: str = ""


class Git(_Step, frozen=True, kw_only=True):
    """A repository's tree."""

    url: str
    ref: str = ""
    subdirectory: str = ""
    keep_git_dir: bool = False
    checksum: str = ""
    submodules: bool = True
    commit_times: bool = False
    by_commit: bool = False


class Inline(_Step, frozen=True, kw_only=True):
    """Files whose content stands in the Dockerfile: here-documents."""

    files: tuple[tuple[str, str], ...]


class RunMount(_Step, frozen=True, kw_only=True):
    """A `--mount` of RUN. `input` is the position of the vertex it comes from, -1 for none.

    `type` bind, cache, tmpfs, secret or ssh; fields as in the Dockerfile reference.
    """

    type: str
    target: str
    source: str = ""
    input: int = -1
    readonly: bool = False
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int = -1
    uid: int = 0
    gid: int = 0
    size: int = 0
    env: str = ""


class Script(_Step, frozen=True, kw_only=True):
    """A here-document that is executed by its own first line; it lies at /dev/pipes/NAME."""

    name: str
    content: str


class Run(_Step, frozen=True, kw_only=True):
    """A program in a container on the file system inputs[0]."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    user: str = ""
    cwd: str = "/"
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    shm_size: int = 0
    script: Script | None = None
    epoch: int | None = None


class Selection(_Step, frozen=True, kw_only=True):
    """What is copied from one input, as `cove.image.worker.trees.Copy`; `checksum`, if given, must be the file's."""

    sources: tuple[str, ...]
    destination: str
    owner: str = ""
    root_owned: bool = True
    mode: str = ""
    excludes: tuple[str, ...] = ()
    parents: bool = False
    unpack: bool = False


class Transfer(_Step, frozen=True, kw_only=True):
    """Files of inputs[1:] into inputs[0]; one group of `copies` for each of those inputs."""

    copies: tuple[Selection, ...]
    epoch: int | None = None


class Link(_Step, frozen=True, kw_only=True):
    """A layer that was made on nothing, on top of another file system: it is the same whatever lies below."""


class Directory(_Step, frozen=True, kw_only=True):
    """A directory that is made unless it is there."""

    path: str
    owner: str = ""
    epoch: int | None = None
