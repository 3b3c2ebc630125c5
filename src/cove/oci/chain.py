"""Chain ids: one name for a stack of layers, whatever images it occurs in.

Source: the OCI image-spec, config.md, "Layer ChainID".
"""

from __future__ import annotations

from collections.abc import Iterable

from cove.oci import digest as digests


def chained(parent: str, diff_id: str) -> str:
    """The chain id of a layer on top of `parent`, "" for none."""
    return digests.of(f"{parent} {diff_id}".encode()) if parent else diff_id


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """The chain id of each layer with all below it, the lowest first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chained(chain[-1] if chain else "", digests.check(diff_id)))
    return tuple(chain)
