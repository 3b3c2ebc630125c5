"""The options of BuildKit's Dockerfile frontend, read: what is built, from where, how.

    {"filename": "Dockerfile", "build-arg:A": "1", "platform": "linux/amd64", …} ─▶ Asked

What Cove cannot honour is refused in words; what only tells of the client (its version control, say) is left alone.
Source: frontend/dockerui of moby/buildkit.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from cove.build import cache_places, provenance
from cove.buildkit.subrequests import LINT
from cove.errors import InvalidArgument, Unsupported
from cove.wire.builds import BuildOptions, CachePlace
from cove.wire.containers import Ulimit

NO_LLB = (
    "a build in BuildKit's low-level language (LLB) cannot be run: Cove builds Dockerfiles, with the frontend "
    "dockerfile.v0"
)
_FRONTEND = "dockerfile.v0"
_GATEWAY = "gateway.v0"
_DOCKERFILE_IMAGES = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")
_TELLING = frozenset(
    "frontend.caps source cmdline requestid multi-platform image-resolve-mode cache-imports cache-from "
    "contextkey dockerfilekey context filename no-cache".split()
)
_REPOSITORY = "vcs:"
_ATTESTATIONS = ("attest:", "build-arg:BUILDKIT_ATTEST_")
_WISHED = "mode=max,version=v1"
"""What BuildKit's clients get that say no more than that they want provenance."""
_TELLING_PREFIXES = (
    *("vcs:", "sharedkey:", "local-sessionid:", "input-metadata:", "input:", "context:"),
    *("build-arg:", "label:"),
)
_NETWORKS = {"": "", "sandbox": "", "host": "host", "none": "none"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants built. `context` is an address, "" for the client's own directory.

    `contexts` are the named ones, NAME to what the client wrote. `sessions`: whose directories have these names,
    where it is another session than the build's. `request` names a question that is answered instead of a build.
    `many`: the result is an index, even for one platform.
    """

    options: BuildOptions
    filename: str = "Dockerfile"
    context: str = ""
    context_directory: str = "context"
    dockerfile_directory: str = "dockerfile"
    local_dockerfile: bool = False
    contexts: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, str] = field(default_factory=dict)
    request: str = ""
    many: bool = False


def check_frontend(name: str, options: Mapping[str, str]) -> None:
    """Only Dockerfiles are understood. Raises Unsupported."""
    if name == _FRONTEND:
        return
    source = options.get("source", "")
    if name == _GATEWAY and (source == _FRONTEND or source.partition(":")[0].partition("@")[0] in _DOCKERFILE_IMAGES):
        return
    what = f"the frontend image {options.get('source', '')!r}" if name == _GATEWAY else f"the frontend {name!r}"
    raise Unsupported(f"{what} cannot be run: Cove reads Dockerfiles itself, with the frontend dockerfile.v0, only")


def read(
    options: Mapping[str, str],
    entitlements: Iterable[str] = (),
    cache_to: Iterable[CachePlace] = (),
    cache_from: Iterable[CachePlace] = (),
) -> Asked:
    """The options as values. Raises InvalidArgument or Unsupported."""
    taken: dict[str, object] = {}
    for key, value in options.items():
        if key in _READERS:
            name, reader = _READERS[key]
            taken[name] = reader(value)
        elif key.startswith(_ATTESTATIONS):
            taken |= _attestation(key.removeprefix("attest:").removeprefix(_ATTESTATIONS[1]), value, options)
        elif key not in _TELLING and not key.startswith(_TELLING_PREFIXES):
            raise Unsupported(f"the build option {key!r} is not known to this builder")
    arguments = _prefixed(options, "build-arg:")
    no_cache = options.get("no-cache")
    built = BuildOptions(
        dockerfile=options.get("filename", ""),
        arguments=arguments,
        labels=_prefixed(options, "label:"),
        no_cache=no_cache == "",
        no_cache_filter=tuple(part for part in (no_cache or "").split(",") if part),
        pull=options.get("image-resolve-mode") == "pull",
        cache_from=tuple(dict.fromkeys((*_imports(options), *cache_from))),
        cache_to=tuple(cache_to),
        allow=tuple(entitlements),
        check=options.get("requestid") == LINT,
        epoch=_epoch(arguments.get("SOURCE_DATE_EPOCH", "")),
        **taken,  # type: ignore[arg-type]
    )
    many = options.get("multi-platform") or arguments.get("BUILDKIT_MULTI_PLATFORM", "")
    return Asked(
        options=built,
        filename=options.get("filename") or "Dockerfile",
        context=options.get(options.get("contextkey") or "context", ""),
        dockerfile_directory=options.get("dockerfilekey") or "dockerfile",
        local_dockerfile="dockerfilekey" in options,
        contexts=_prefixed(options, "context:"),
        sessions=_prefixed(options, "local-sessionid:"),
        request=options.get("requestid", ""),
        many=len(built.platforms) > 1 or many.lower() in ("1", "t", "true"),
    )


def _attestation(kind: str, value: str, options: Mapping[str, str]) -> dict[str, object]:
    """A statement that is wished for: of provenance; others would have to be made by a program out of an image."""
    if kind.lower() == "provenance":
        wish = provenance.read(f"{_WISHED},{value}")
        told = {key: text for key, text in options.items() if key.startswith(_REPOSITORY)}
        return {"provenance": msgspec.structs.replace(wish, repository=told) if wish is not None else None}
    if "disabled=true" in value.split(","):
        return {}
    raise Unsupported(
        f"attestations ({kind.lower()}) are not made by this builder: a program out of an image would have to make "
        f"them; build with --{kind.lower()}=false"
    )


def _prefixed(options: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}


def _imports(options: Mapping[str, str]) -> tuple[CachePlace, ...]:
    """Where finished steps may be taken from."""
    found = [
        cache_places.source("registry", {"ref": name}) for name in options.get("cache-from", "").split(",") if name
    ]
    text = options.get("cache-imports", "")
    try:
        entries = msgspec.json.decode(text) if text else []
        found += [cache_places.source(entry["Type"], entry.get("Attrs") or {}) for entry in entries]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"the option cache-imports cannot be read: {error}") from None
    return tuple(dict.fromkeys(found))


def _epoch(text: str) -> int | None:
    if text in ("", "context"):
        return None
    if not text.isdecimal():
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text)


def _hosts(text: str) -> tuple[str, ...]:
    """NAME=ADDRESS, separated by commas."""
    found = []
    for word in _row(text):
        name, equals, address = word.partition("=")
        if not equals or not name or not address:
            raise InvalidArgument(f"invalid additional host {word!r}: write NAME=ADDRESS")
        found.append(f"{name}:{address}")
    return tuple(found)


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    """NAME=SOFT:HARD, separated by commas."""
    found = []
    for word in _row(text):
        name, _, limits = word.partition("=")
        soft, _, hard = limits.partition(":")
        found.append(Ulimit(name=name, soft=_number(soft), hard=_number(hard or soft)))
    return tuple(found)


def _row(text: str) -> list[str]:
    return next(csv.reader(io.StringIO(text)), []) if text else []


def _number(text: str) -> int:
    try:
        return int(text or 0)
    except ValueError:
        raise InvalidArgument(f"{text!r} is not a whole number") from None


def _network(text: str) -> str:
    if text not in _NETWORKS:
        raise InvalidArgument(f"invalid netmode {text}")
    return _NETWORKS[text]


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


_READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "target": ("target", str),
    "hostname": ("hostname", str),
    "platform": ("platforms", _list),
    "add-hosts": ("extra_hosts", _hosts),
    "force-network-mode": ("network", _network),
    "shm-size": ("shm_size", _number),
    "ulimit": ("ulimits", _ulimits),
    "cgroup-parent": ("cgroup_parent", str),
    "memory": ("memory", _number),
    "memswap": ("memory_swap", _number),
    "cpushares": ("cpu_shares", _number),
    "cpuperiod": ("cpu_period", _number),
    "cpuquota": ("cpu_quota", _number),
    "cpusetcpus": ("cpuset_cpus", str),
    "cpusetmems": ("cpuset_mems", str),
}
