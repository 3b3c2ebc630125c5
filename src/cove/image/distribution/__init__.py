"""The ways of images between this host and registries.

service   Distribution: pull, push, login            the one object others hold
pull, push                                            one transfer each
registry  Repository: manifests, blobs, uploads       the distribution API
credentials           Credentials
auth      challenges, tokens
transport HTTP with bounds and without leaks          knows nothing of images
progress  Docker's progress messages
"""

from typing import TYPE_CHECKING

from cove.image.distribution.credentials import Credentials

if TYPE_CHECKING:
    from cove.image.distribution.service import Distribution
    from cove.image.distribution.transport import Policy

__all__ = ["Credentials", "Distribution", "Policy"]


def __getattr__(name: str) -> object:
    """What speaks HTTP is loaded when it is asked for (PEP 562)."""
    if name == "Distribution":
        from cove.image.distribution.service import Distribution

        return Distribution
    if name == "Policy":
        from cove.image.distribution.transport import Policy

        return Policy
    raise AttributeError(name)
