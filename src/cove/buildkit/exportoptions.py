"""The options of outputs, read: what can be honoured, and in words why the rest cannot.

    Exporter(type, attributes) ─▶ check, before anything is built ─▶ names, annotations, switches

Source: exporter/containerimage/exptypes of moby/buildkit.
"""

from __future__ import annotations

from collections.abc import Sequence

from cove.build import forms
from cove.build.annotations import Annotations, is_annotation, read_annotations
from cove.build.forms import Form
from cove.buildkit.messages.control import Exporter
from cove.engine.build.service import full_names
from cove.errors import InvalidArgument, Unsupported
from cove.oci.reference import Reference

IMAGE = frozenset({"image", "moby"})
ARCHIVE = frozenset({"oci", "docker"})
_OTHERS = frozenset({"tar", "local"})
_MADE = (
    "name oci-mediatypes compression compression-level force-compression prefer-image-digest oci-artifact "
    "attestation-inline prefer-nondist-layers rewrite-timestamp"
).split()
_KNOWN = {
    "image": frozenset(
        "load push push-by-digest registry.insecure unpack store dangling-name-prefix name-canonical".split() + _MADE
    ),
    "archive": frozenset(["dest", "tar", "context", *_MADE]),
    "files": frozenset({"dest", "platform-split"}),
}
_DOES: dict[str, tuple[bool, str]] = {
    "registry.insecure": (
        False,
        "whether a registry may be spoken to without TLS is said in the daemon's registries",
    ),
    "unpack": (True, "layers of images are always unpacked"),
    "store": (True, "a result of this exporter always goes to the image store"),
    "oci-artifact": (
        False,
        "a statement about an image lies in a manifest with a configuration, which all tools read",
    ),
    "prefer-nondist-layers": (False, "layers of bases that may not be distributed are not known here"),
    "rewrite-timestamp": (True, "with SOURCE_DATE_EPOCH, layers never have later times"),
}
"""What is done anyway, by option, and why not the contrary."""


def check(exporters: Sequence[Exporter]) -> None:
    """What cannot be honoured is refused before anything is built."""
    for each in exporters:
        kind = "image" if each.type in IMAGE else "archive" if each.type in ARCHIVE else "files"
        if each.type not in IMAGE | ARCHIVE | _OTHERS:
            raise Unsupported(f"the exporter {each.type!r} is not known; image, oci, docker, tar and local are")
        for key, value in each.attributes.items():
            if key not in _KNOWN[kind] and not is_annotation(key):
                raise Unsupported(f"the exporter's option {key}={value} is not supported by this builder")
        _check_values(each)


def _check_values(exporter: Exporter) -> None:
    wanted = exporter.attributes
    annotated(exporter)
    form(exporter)
    if (pushes(exporter) or by_digest(exporter) or canonical(exporter)) and not names(exporter):
        raise InvalidArgument("a name is needed when the result is pushed to a registry, or named by its digest")
    for name in wanted.get("name", "").split(",") if by_digest(exporter) else ():
        if Reference.parse(name, default_tag="").tag:
            raise InvalidArgument(f"{name} has a tag, with which nothing can be pushed by digest: leave it out")
    for key in _DOES.keys() & wanted.keys():
        does, why = _DOES[key]
        if switched(exporter, key) is not does:
            raise Unsupported(f"the exporter's option {key}={wanted[key]} cannot be followed: {why}")
    if wanted.get("dangling-name-prefix"):
        raise Unsupported("the exporter's option dangling-name-prefix cannot be followed: give the result a name")


def names(exporter: Exporter) -> list[str]:
    """Those that the result gets, in full. Raises InvalidArgument."""
    return full_names(name for name in exporter.attributes.get("name", "").split(",") if name)


def form(exporter: Exporter) -> Form:
    """The form of layers and documents: what goes elsewhere is packed. Raises InvalidArgument or Unsupported."""
    docker = not switched(exporter, "oci-mediatypes", "true")
    usual = "gzip" if pushes(exporter) or exporter.type in ARCHIVE else "uncompressed"
    return forms.read(exporter.attributes, usual=usual, force=switched(exporter, "force-compression"), docker=docker)


def annotated(exporter: Exporter) -> Annotations:
    """The annotations that the output asks for. Raises InvalidArgument or Unsupported."""
    return read_annotations(exporter.attributes)


def pushes(exporter: Exporter) -> bool:
    """Whether the result goes on to registries."""
    return exporter.type in IMAGE and switched(exporter, "push")


def by_digest(exporter: Exporter) -> bool:
    """Whether what goes on to registries gets no tag there, nor here."""
    return exporter.type in IMAGE and switched(exporter, "push-by-digest")


def canonical(exporter: Exporter) -> bool:
    """Whether the result is also named by its digest: NAME@sha256:…"""
    return exporter.type in IMAGE and switched(exporter, "name-canonical")


def switched(exporter: Exporter, key: str, default: str = "false") -> bool:
    """Whether an option is on; written without a value it is. Raises InvalidArgument."""
    text = exporter.attributes.get(key, default)
    if text.lower() in ("", "1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"the exporter's option {key}={text} is neither true nor false")
