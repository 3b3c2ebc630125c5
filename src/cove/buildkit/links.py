"""Results as other builds' inputs: `docker buildx bake` links targets so.

    a result ─▶ Ref with a definition (one source of a scheme of ours) ─▶ the client ─▶ another build's input
                                                               the same result ◀─ found by its name ─┘

What a client hands back is believed only where it names a result of a job that still runs.
"""

from __future__ import annotations

import hashlib

from cove.buildkit.messages.common import Definition, Empty, Input, Op, SourceOp
from cove.buildkit.messages.gateway import Ref
from cove.grpc.protobuf import decode, encode

_SCHEME = "cove-result://"


def reference(identity: str) -> Ref:
    """A reference to a result, with a definition that clients can carry."""
    source = encode(Op(source=SourceOp(identifier=f"{_SCHEME}{identity}")))
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    head = encode(Op(inputs=(Input(digest=digest),)))
    return Ref(id=identity, definition=Definition(operations=(source, head), metadata={digest: Empty()}))


def named(definition: Definition) -> str:
    """The result that a definition stands for; "" for one that is none of ours."""
    for operation in definition.operations:
        source = decode(Op, operation).source
        if source is not None and source.identifier.startswith(_SCHEME):
            return source.identifier.removeprefix(_SCHEME)
    return ""
