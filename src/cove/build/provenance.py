"""How an image came to be, as an in-toto statement about it that lies beside it in its index.

    what was asked for · which sources it came from · when ─▶ predicate (SLSA provenance v1 or v0.2) ─▶ statement
    statement ─▶ the one layer of a manifest, which the index ties to the image's own (BuildKit's convention)

`mode=min` tells sources and times, `mode=max` also arguments, labels, the Dockerfile and every step. Secrets are in
neither; an argument is no secret. Sources: slsa.dev/provenance v1 and v0.2; BuildKit's attestation-storage.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from cove import __version__
from cove.build import ops
from cove.build.graph import Vertex, ordered
from cove.build.selections import Result
from cove.errors import InvalidArgument
from cove.image.store import ImageStore
from cove.oci import image as oci
from cove.oci.image import Descriptor, ImageConfig, Manifest, RootFS
from cove.oci.platform import Platform
from cove.oci.reference import Reference
from cove.wire.builds import BuildOptions, Provenance

IN_TOTO = "application/vnd.in-toto+json"
_BUILD_TYPE = "https://cove.dev/build/dockerfile@v1"
_PREDICATES = {"v1": "https://slsa.dev/provenance/v1", "v0.2": "https://slsa.dev/provenance/v0.2"}
_AS_IT_IS = frozenset({("type", "provenance"), ("capture-usage", "false"), ("complete-materials", "false")})
_STATEMENT = "https://in-toto.io/Statement/v1"


class Facts(msgspec.Struct, frozen=True):
    """What is known of one build when it is done; times in nanoseconds. `Moments` finds out since when."""

    options: BuildOptions
    dockerfile: bytes
    target: Vertex
    platform: Platform
    results: Mapping[str, Result]
    identity: str = ""
    began_ns: int = 0
    ended_ns: int = 0


Moment = Callable[[str, int], int]
"""When what has this name was first there, if it was not just now (`BuildCache.moment`)."""


def read(text: str) -> Provenance | None:
    """The wish as clients write it: "mode=max,version=v1"; None where it is switched off. InvalidArgument."""
    fields = dict(part.partition("=")[::2] for part in text.split(",") if part)
    if fields.pop("disabled", "false").lower() in ("1", "t", "true"):
        return None
    mode, version = fields.pop("mode", "min"), fields.pop("version", "v0.2")
    builder, fixed = fields.pop("builder-id", ""), fields.pop("reproducible", "false")
    inline = fields.pop("inline-only", "false").lower() in ("1", "t", "true")
    fields = {key: text for key, text in fields.items() if (key, text.lower()) not in _AS_IT_IS}
    mode = "max" if mode == "full" else mode
    if mode not in ("min", "max"):
        raise InvalidArgument(f"the provenance's mode={mode} is neither min nor max")
    if version not in _PREDICATES:
        raise InvalidArgument(f"the provenance's version={version} is not known; {' and '.join(_PREDICATES)} are")
    if fields:
        raise InvalidArgument(f"the provenance has no option {', '.join(fields)}")
    return Provenance(mode == "max", version, builder, fixed.lower() in ("1", "t", "true"), inline)


def settled(digest: str, wish: Provenance, facts: Facts, moment: Moment) -> Facts:
    """The facts of the build that made the image with this digest: of the first one, if it was made before.

    So that the same once more has the same statement, and its index the same digest.
    """
    timeless = msgspec.structs.replace(facts, identity="", began_ns=0, ended_ns=0)
    name = hashlib.sha256(json.dumps(statement(digest, wish, timeless)).encode()).hexdigest()
    began, ended = moment(f"began {name}", facts.began_ns), moment(f"ended {name}", facts.ended_ns)
    identity = hashlib.sha256(f"{name} {began}".encode()).hexdigest()[:25]
    return msgspec.structs.replace(facts, identity=identity, began_ns=began, ended_ns=ended)


def attach(store: ImageStore, manifest: Descriptor, wish: Provenance, facts: Facts) -> Descriptor:
    """Store the statement about a manifest; how an index names it."""
    raw = json.dumps(statement(manifest.digest, wish, facts), indent=2).encode()
    layer = Descriptor(
        media_type=IN_TOTO,
        digest=store.content.put(raw),
        size=len(raw),
        annotations={"in-toto.io/predicate-type": _PREDICATES[wish.version]},
    )
    nowhere = Platform(os="unknown", architecture="unknown")
    config = oci.encode(ImageConfig(os="unknown", architecture="unknown", rootfs=RootFS(diff_ids=(layer.digest,))))
    described = Descriptor(media_type=oci.OCI_CONFIG, digest=store.content.put(config), size=len(config))
    attested = oci.encode(Manifest(media_type=oci.OCI_MANIFEST, config=described, layers=(layer,)))
    return Descriptor(
        media_type=oci.OCI_MANIFEST,
        digest=store.content.put(attested),
        size=len(attested),
        platform=nowhere,
        annotations={oci.ATTESTATION_TYPE: "attestation-manifest", oci.ATTESTATION_SUBJECT: manifest.digest},
    )


def statement(digest: str, wish: Provenance, facts: Facts) -> dict[str, Any]:
    """What is said of the image with this digest."""
    algorithm, _, digits = digest.partition(":")
    names = [_package(name, facts.platform) for name in facts.options.tags] or ["_"]
    predicate = _first(wish, facts) if wish.version == "v1" else _second(wish, facts)
    return {
        "_type": _STATEMENT,
        "predicateType": _PREDICATES[wish.version],
        "subject": [{"name": name, "digest": {algorithm: digits}} for name in names],
        "predicate": predicate,
    }


def _first(wish: Provenance, facts: Facts) -> dict[str, Any]:
    """SLSA provenance v1."""
    asked = {"configSource": {"path": _file(facts)}, "request": _request(wish, facts)}
    inner: dict[str, Any] = {"builderPlatform": str(facts.platform)}
    if wish.everything:
        inner |= {"source": _source(facts), "steps": list(_steps(facts))}
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": asked,
            "internalParameters": inner,
            "resolvedDependencies": list(_materials(facts)),
        },
        "runDetails": {
            "builder": {"id": wish.builder, "version": {"cove": __version__}},
            "metadata": {
                "invocationID": facts.identity,
                "startedOn": _stamp(facts.began_ns),
                "finishedOn": _stamp(facts.ended_ns),
            },
        },
    }


def _second(wish: Provenance, facts: Facts) -> dict[str, Any]:
    """SLSA provenance v0.2."""
    predicate: dict[str, Any] = {
        "builder": {"id": wish.builder},
        "buildType": _BUILD_TYPE,
        "materials": list(_materials(facts)),
        "invocation": {
            "configSource": {"entryPoint": _file(facts)},
            "parameters": _request(wish, facts),
            "environment": {"platform": str(facts.platform)},
        },
        "metadata": {
            "buildInvocationID": facts.identity,
            "buildStartedOn": _stamp(facts.began_ns),
            "buildFinishedOn": _stamp(facts.ended_ns),
            "completeness": {"parameters": wish.everything, "environment": True, "materials": _complete(facts)},
            "reproducible": wish.reproducible,
        },
    }
    if wish.everything:
        predicate["buildConfig"] = {"steps": list(_steps(facts))}
        predicate["metadata"][f"{_BUILD_TYPE}#source"] = _source(facts)
    return predicate


def _request(wish: Provenance, facts: Facts) -> dict[str, Any]:
    """What was asked for; without arguments and labels, unless everything is to be told."""
    options = facts.options
    found: dict[str, Any] = {
        "frontend": "dockerfile.v0",
        "locals": [{"name": name} for name in sorted(_trees(facts))],
    }
    if wish.everything:
        arguments = {f"build-arg:{name}": value for name, value in options.arguments.items()}
        arguments |= {f"label:{name}": value for name, value in options.labels.items()}
        arguments |= {"target": options.target} if options.target else {}
        arguments |= wish.repository
        found["args"] = arguments
    return found


def _file(facts: Facts) -> str:
    return facts.options.dockerfile or "Dockerfile"


def _source(facts: Facts) -> dict[str, Any]:
    data = base64.b64encode(facts.dockerfile).decode()
    return {"filename": _file(facts), "language": "Dockerfile", "data": data}


def _vertices(facts: Facts) -> Iterator[Vertex]:
    return ordered((facts.target,))


def _trees(facts: Facts) -> set[str]:
    """The directories that files came from."""
    return {vertex.step.name for vertex in _vertices(facts) if isinstance(vertex.step, ops.Context)}


def _complete(facts: Facts) -> bool:
    """Whether every source is one that can be had again by its digest."""
    return not _trees(facts)


def _materials(facts: Facts) -> Iterator[dict[str, Any]]:
    """The sources, each with its digest."""
    told: set[str] = set()
    for vertex in _vertices(facts):
        uri, digest = _material(vertex, facts)
        if uri and uri not in told:
            told.add(uri)
            algorithm, _, digits = digest.partition(":")
            yield {"uri": uri, "digest": {algorithm: digits}}


def _material(vertex: Vertex, facts: Facts) -> tuple[str, str]:
    step = vertex.step
    found = facts.results.get(vertex.key)
    if isinstance(step, ops.Image):
        return _package(step.reference, facts.platform), step.digest
    if isinstance(step, ops.Remote) and found is not None:
        return step.url, found.identity
    if isinstance(step, ops.Git) and found is not None:
        return step.url, f"sha1:{found.identity.split(' ')[1]}"
    return "", ""


def _steps(facts: Facts) -> Iterator[dict[str, Any]]:
    """Every step, in an order in which each stands on earlier ones."""
    places: dict[str, str] = {}
    for vertex in _vertices(facts):
        places[vertex.key] = f"step{len(places)}"
        inputs = [places[each.key] for each in vertex.inputs]
        yield {"id": places[vertex.key], "name": vertex.title, "kind": vertex.step.kind, "inputs": inputs}


def _package(name: str, platform: Platform) -> str:
    """An image as a package URL (purl's type docker)."""
    reference = Reference.parse(name)
    version = reference.digest or reference.tag
    query = f"?platform={quote(str(platform), safe='')}"
    return f"pkg:docker/{quote(reference.familiar_name, safe='/')}{f'@{quote(version)}' if version else ''}{query}"


def _stamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"
