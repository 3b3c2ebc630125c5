"""The ways of images between this host and registries.

service   Distribution: pull, push, login            the one object others hold
pull, push                                            one transfer each
registry  Repository: manifests, blobs, uploads       the distribution API
auth      Credentials, challenges, tokens
transport HTTP with bounds and without leaks          knows nothing of images
progress  Docker's progress messages
"""

from cove.image.distribution.auth import Credentials
from cove.image.distribution.service import Distribution
from cove.image.distribution.transport import Policy

__all__ = ["Credentials", "Distribution", "Policy"]
