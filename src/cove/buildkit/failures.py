"""What went wrong in a build, as BuildKit's clients tell it: the sentence, and the lines that it is about.

    Failure ─▶ status UNKNOWN + details: "github.com/moby/buildkit/errdefs.Source+json"

The code is the one that a client shows no word for, as BuildKit's own builds fail with it.
"""

from __future__ import annotations

import base64
import json

from cove.build import ops
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.steps import StepFailed
from cove.errors import CoveError
from cove.grpc.status import Any, Code, RpcError

_SOURCE = "github.com/moby/buildkit/errdefs.Source+json"


def failure(error: CoveError, filename: str, dockerfile: bytes) -> RpcError:
    """An error of a build as its call's end."""
    if isinstance(error, StepFailed):
        return RpcError(Code.UNKNOWN, step_message(error), _source(filename, dockerfile, error.vertex.line))
    if isinstance(error, DockerfileError) and error.position is not None:
        return RpcError(Code.UNKNOWN, error.message, _source(filename, dockerfile, error.position.line))
    return RpcError(Code.UNKNOWN, error.message)


def step_message(error: StepFailed) -> str:
    """A RUN that failed, in the words that people know."""
    step = error.vertex.step
    command = " ".join(step.args) if isinstance(step, ops.Run) else error.vertex.title
    return f'process "{command}" did not complete successfully: exit code: {error.code}'


def _source(filename: str, dockerfile: bytes, line: int) -> tuple[Any, ...]:
    if not line or not dockerfile:
        return ()
    place = {"line": line}
    info = {"filename": filename, "data": base64.b64encode(dockerfile).decode(), "language": "Dockerfile"}
    value = json.dumps({"info": info, "ranges": [{"start": place, "end": place}]})
    return (Any(type_url=_SOURCE, value=value.encode()),)
