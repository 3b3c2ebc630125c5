"""What the hooks of a vendor's device find of their container: a bundle, as the runtime specification describes it.

    containers/ID/bundle/config.json    the container's configuration, whose root.path is
    containers/ID/bundle/rootfs         where, in the container's own mount namespace alone, its tree stands

A hook reads the container's State from its standard input, and in it the path of the bundle.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cove.errors import Unsupported
from cove.oci.spec import OCI_VERSION, Hook, Hooks, Root, Spec


def prepare(spec: Spec, hooks: tuple[Hook, ...], directory: Path) -> Spec:
    """`spec` with `hooks` (createContainer), its bundle written to `directory`; as it is when there are none."""
    if not hooks:
        return spec
    if spec.linux is not None and any(each.type == "user" for each in spec.linux.namespaces):
        raise Unsupported(
            f"a CDI device of this container needs {hooks[0].path} to be run as a hook, which inside of a user "
            "namespace could not read what it needs; give the container --userns=host"
        )
    rootfs = directory / "rootfs"
    rootfs.mkdir(mode=0o700, parents=True, exist_ok=True)
    readonly = spec.root is not None and spec.root.readonly
    made = msgspec.structs.replace(
        spec, hooks=Hooks(create_container=hooks), root=Root(path=str(rootfs), readonly=readonly)
    )
    content = msgspec.json.encode({"ociVersion": OCI_VERSION, **msgspec.to_builtins(made)})
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(directory / "config.json", flags, 0o600)  # it has the environment in it, and so secrets
    with open(fd, "wb") as file:
        file.write(content)
    return made
