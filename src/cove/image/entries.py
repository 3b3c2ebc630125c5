"""The entries of `index.json`: descriptors of manifests, each with one full name or with none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from cove.oci import image as oci
from cove.oci.image import Descriptor
from cove.oci.reference import Reference


def lone_digests(entries: Iterable[Descriptor], name: str) -> Iterator[str]:
    """The names by digest that a tag's repository has for what it points at, when no other tag of it does."""
    repository = parsed(name).name
    targets = {name_of(entry): entry.digest for entry in entries if name_of(entry)}
    same = [each for each, target in targets.items() if target == targets.get(name) and each != name]
    same = [each for each in same if parsed(each).name == repository]
    return iter(same if all(parsed(each).digest for each in same) else ())


def repositories(tags: Iterable[str]) -> int:
    """In how many repositories these names lie."""
    return len({parsed(tag).name for tag in tags})


def name_of(entry: Descriptor) -> str:
    """The full name of an entry, "" for a dangling one."""
    return entry.annotations.get(oci.REF_NAME, "")


def named_entry(manifest: Descriptor, name: str) -> Descriptor:
    """The entry that gives a manifest this name."""
    return msgspec.structs.replace(bare_entry(manifest), annotations={oci.REF_NAME: name})


def bare_entry(manifest: Descriptor) -> Descriptor:
    """The entry of a manifest without a name."""
    return Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)


def full_name(name: str) -> str:
    """A name as it is kept, with its registry and tag."""
    return Reference.parse(name).full


def parsed(name: str) -> Reference:
    """A kept name, to which no tag is added."""
    return Reference.parse(name, default_tag="")
