"""When an image, or a variant of one, may be removed: Docker's rules, in Docker's words."""

from __future__ import annotations

from collections.abc import Collection

from cove.errors import Conflict
from cove.image.variants import Target, Variant
from cove.oci import digest as digests


def refuse_in_use(
    identity: str,
    called: str,
    name: str,
    repositories: int,
    *,
    force: bool,
    containers: Collection[tuple[str, bool]],
) -> None:
    """Raise Conflict unless the image `identity`, named in so many repositories, may go.

    `called` is the user's word and `name` the full name if it was one. `containers` are (id, whether it runs).
    """
    short = digests.short(identity)
    what = f'unable to remove repository reference "{called}"' if name else f"unable to delete {short}"
    running = [container for container, runs in containers if runs]
    if running and not name:
        raise Conflict(
            f"conflict: {what} (cannot be forced) - image is being used by running container {running[0][:12]}"
        )
    if force:
        return
    if containers:
        user = next(iter(containers))[0][:12]
        use = f"container {user} is using its referenced image {short}"
        why = use if name else f"image is being used by stopped container {user}"
        raise Conflict(f"conflict: {what} (must force) - {why}")
    if not name and repositories > 1:
        raise Conflict(f"conflict: {what} (must be forced) - image is referenced in multiple repositories")


def refuse_variants(
    called: str, target: Target, chosen: Collection[Variant], *, named: Collection[str], in_use: Collection[str]
) -> None:
    """Raise Conflict unless an index may lose the `chosen` variants; `named` are the targets of all names."""
    if len({variant.manifest.digest for variant in chosen}) == len(target.variants):
        raise Conflict(f"{called} has no other platform here: remove it without --platform")
    for variant in chosen:
        if variant.id in in_use:
            raise Conflict(f"a container uses {called} for {variant.platform}; remove the container first")
        if variant.manifest.digest in named:
            raise Conflict(f"{called} for {variant.platform} has a name of its own here; remove that name first")
