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


def failure(error: CoveError, filename: str, dockerfile: bytes, lines: tuple[int, ...]) -> RpcError:
    """An error of a build as its call's end; `lines` are those of the step that failed."""
    if isinstance(error, DockerfileError):
        lines = (error.position.line,) if error.position is not None else ()
    message = step_message(error) if isinstance(error, StepFailed) else error.message
    return RpcError(Code.UNKNOWN, message, _source(filename, dockerfile, lines))


def step_message(error: StepFailed) -> str:
    """A RUN that failed, in the words that people know."""
    step = error.vertex.step
    command = " ".join(step.args) if isinstance(step, ops.Run) else error.vertex.title
    return f'process "{command}" did not complete successfully: exit code: {error.code}'


def _source(filename: str, dockerfile: bytes, lines: tuple[int, ...]) -> tuple[Any, ...]:
    if not lines or not dockerfile:
        return ()
    places = [{"line": line} for line in lines]
    info = {"filename": filename, "data": base64.b64encode(dockerfile).decode(), "language": "Dockerfile"}
    value = json.dumps({"info": info, "ranges": [{"start": place, "end": place} for place in places]})
    return (Any(type_url=_SOURCE, value=value.encode()),)
