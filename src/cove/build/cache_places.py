"""`--cache-to` and `--cache-from`, read: what can be followed, the rest is refused in words.

{"type": "registry", "ref": "registry/app:cache", "mode": "max"} ─▶ CachePlace
"""

from __future__ import annotations

from collections.abc import Mapping

from cove.errors import InvalidArgument, Unsupported
from cove.oci.reference import Reference
from cove.wire.builds import CachePlace

_ELSEWHERE = {"gha": "GitHub's service", "s3": "a bucket of S3", "azblob": "Azure's storage"}
_FORM = {
    "oci-mediatypes": (True, "manifests are always OCI's"),
    "image-manifest": (True, "a cache is always one manifest"),
    "force-compression": (False, "layers are put there as they are, uncompressed"),
    "registry.insecure": (False, "which registries may be spoken to without TLS is the administrator's to say"),
}
"""What is done anyway, by attribute, and why not the contrary."""
_TO = {
    "inline": frozenset(),
    "registry": frozenset({"ref", "mode", "ignore-error", "compression", "compression-level", *_FORM}),
    "local": frozenset({"dest", "mode", "ignore-error", "tag", "compression", "compression-level", *_FORM}),
}
_FROM = {
    "registry": frozenset({"ref", "registry.insecure"}),
    "local": frozenset({"src", "digest", "tag"}),
}


def target(kind: str, attributes: Mapping[str, str]) -> CachePlace:
    """Where finished steps are put. Raises InvalidArgument or Unsupported."""
    _check("to", kind, attributes, _TO)
    mode = attributes.get("mode", "min")
    if mode not in ("min", "max"):
        raise InvalidArgument(f"--cache-to mode={mode} is neither min nor max")
    if attributes.get("compression", "uncompressed") != "uncompressed" or "compression-level" in attributes:
        raise Unsupported(f"--cache-to type={kind} cannot be followed: {_FORM['force-compression'][1]}")
    where = _where("to", kind, attributes, "dest")
    forgiving = _true("ignore-error", attributes.get("ignore-error", "false"))
    return CachePlace(kind, where, everything=mode == "max", forgiving=forgiving)


def source(kind: str, attributes: Mapping[str, str]) -> CachePlace:
    """Where finished steps are taken from. Raises InvalidArgument or Unsupported."""
    _check("from", kind, attributes, _FROM)
    return CachePlace(kind, _where("from", kind, attributes, "src"), attributes.get("digest", ""))


def _check(way: str, kind: str, attributes: Mapping[str, str], known: Mapping[str, frozenset[str]]) -> None:
    if kind in _ELSEWHERE:
        raise Unsupported(f"--cache-{way} type={kind} is not possible: {_ELSEWHERE[kind]} is not spoken to")
    if kind not in known:
        raise InvalidArgument(f"--cache-{way} type={kind} is not known; {', '.join(sorted(known))} are")
    for name, value in attributes.items():
        if name not in known[kind]:
            raise Unsupported(f"--cache-{way} type={kind} has no attribute {name}={value}")
        if name in _FORM and _true(name, value) is not _FORM[name][0]:
            raise Unsupported(f"--cache-{way} {name}={value} cannot be followed: {_FORM[name][1]}")


def _where(way: str, kind: str, attributes: Mapping[str, str], directory: str) -> str:
    if kind == "inline":
        return ""
    name = "ref" if kind == "registry" else directory
    found = attributes.get(name, "")
    if not found:
        raise InvalidArgument(f"--cache-{way} type={kind} needs {name}=")
    return Reference.parse(found).full if kind == "registry" and way == "to" else found


def _true(name: str, text: str) -> bool:
    if text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(f"{name}={text} is neither true nor false")
    return text.lower() in ("1", "t", "true")
