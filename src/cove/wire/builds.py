"""The Engine API's types of builds, and Cove's own of their progress."""

from __future__ import annotations

from typing import Any

import msgspec

from cove.wire.base import Value
from cove.wire.containers import Ulimit


class CachePlace(msgspec.Struct, frozen=True):
    """Where finished steps are put to or taken from.

    `kind`: inline, registry or local. `where`: an image's name, or what the client calls a directory of its own;
    of that, `digest` is what to take. `everything`: the steps of all stages (mode=max). `forgiving`: that they
    cannot be put there does not fail the build.
    """

    kind: str
    where: str = ""
    digest: str = ""
    everything: bool = False
    forgiving: bool = False


class Provenance(msgspec.Struct, frozen=True):
    """A wish for a statement of how the image came to be.

    `everything`: with arguments, labels, the Dockerfile and all steps. `version`: SLSA's. `builder`: who builds, as
    an address. `reproducible`: that somebody says so. `images_only`: not for results that are files. `repository`:
    what the client says of the one that its files are from ("vcs:revision" and the like).
    """

    everything: bool = False
    version: str = "v0.2"
    builder: str = ""
    reproducible: bool = False
    images_only: bool = False
    repository: dict[str, str] = {}


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What POST /build asks for: its parameters, read.

    `remote`: a context by URL. `outputs`: where the result goes, none means an image. `secrets` by id, `session`
    names what was given with BuildSecrets. `cache_only`: without one of these images, no cache is used, as Docker's
    cachefrom has it. `events`: Cove's own progress instead of Docker's. `contexts`: named ones, NAME to an address,
    docker-image://IMAGE, or sent:ID for what was sent before. `context`: the main one as sent:ID.
    `annotations` as an output's options have them ("annotation-index.KEY").
    """

    dockerfile: str = ""
    tags: tuple[str, ...] = ()
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    arguments: dict[str, str] = {}
    labels: dict[str, str] = {}
    target: str = ""
    platforms: tuple[str, ...] = ()
    network: str = ""
    extra_hosts: tuple[str, ...] = ()
    hostname: str = ""
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    isolation: str = ""
    build_id: str = ""
    cache_from: tuple[CachePlace, ...] = ()
    cache_only: tuple[str, ...] = ()
    cache_to: tuple[CachePlace, ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    allow: tuple[str, ...] = ()
    session: str = ""
    check: bool = False
    events: bool = False
    epoch: int | None = None
    contexts: dict[str, str] = {}
    context: str = ""
    provenance: Provenance | None = None
    annotations: dict[str, str] = {}


class BuildSecrets(Value, frozen=True, kw_only=True):
    """What a build may use and nothing may keep: secrets by id, base64; paths of ssh agents' sockets by id."""

    secrets: dict[str, str] = {}
    ssh: dict[str, str] = {}


class BuildPruneResponse(Value, frozen=True, kw_only=True):
    """What POST /build/prune removed."""

    caches_deleted: tuple[str, ...] | None = None
    space_reclaimed: int = 0


class CacheMount(Value, frozen=True, kw_only=True):
    """Cove's own: a directory that `RUN --mount=type=cache` shows. `name` is the mount's id, `id` its own.

    The rest of its name as the mount has it: `source` of what it began as a copy of, `base` the layers that this
    was in, `owner` UID:GID, `mode` in octal, and the `number` of one that was private. `size` in bytes.
    """

    id: str
    name: str
    source: str = ""
    owner: str = "0:0"
    mode: str = "0755"
    base: str = ""
    number: int = 0
    size: int = 0
    last_used_at: str = ""


class ListedContext(Value, frozen=True, kw_only=True):
    """Cove's own: a directory whose files were listed, and the places in the list of those that need not be sent."""

    id: str
    known: tuple[int, ...] = ()
