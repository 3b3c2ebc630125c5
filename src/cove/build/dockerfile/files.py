"""COPY and ADD: where their sources come from, and what is done with them."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import replace

from cove.build import ops
from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile import lint, spelling
from cove.build.dockerfile.lexer import Heredoc
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.giturl import GitUrl, parse_git
from cove.build.graph import Vertex
from cove.errors import InvalidArgument
from cove.oci import digest as digests

if TYPE_CHECKING:
    from cove.build.dockerfile.stage import StageState

_UNNAMED = "__unnamed__"
"""What a file is called whose address has no name, in a directory."""
_URL = re.compile(r"https?://", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SYMBOLS = re.compile(r"[ugoa]*(?:[=+-](?:[rwxXst]*|[ugo]))+")


@dataclass(frozen=True, slots=True)
class Transferred:
    """The step, what it takes from, and the words of the history; `independent` of what lies below."""

    step: ops.Transfer
    inputs: tuple[Vertex, ...]
    shown: str
    independent: bool = False


def transfer(state: StageState, copy: ins.Copy) -> Transferred:
    """What a COPY or ADD does; raises DockerfileError."""
    sources = [state.expand(each, copy) for each in copy.sources]
    shown = state.expand(copy.destination, copy)
    destination = _destination(state, shown)
    owner = state.expand(copy.chown, copy)
    mode = state.expand(copy.chmod, copy)
    _check_mode(mode, copy)
    excludes = tuple(state.expand(each, copy) for each in copy.excludes)
    common = ops.Selection(sources=(), destination=destination, owner=owner, mode=mode, excludes=excludes)
    several = len(sources) + len(copy.heredocs) > 1
    if several and not destination.endswith("/") and not copy.parents and len(copy.heredocs):
        raise DockerfileError(
            f"when using {copy.node.name} with more than one source file, the destination must be a directory and "
            "end with a /",
            copy.position,
        )
    groups: list[tuple[Vertex, ops.Selection]] = []
    if copy.heredocs:
        groups.append(_inline(state, copy, common))
    try:
        remote = [each for each in sources if _is_remote(each)]
    except InvalidArgument as error:
        raise DockerfileError(error.message, copy.position) from error
    if remote and not copy.add:
        raise DockerfileError(f"source can't be a URL for COPY: {remote[0]}; ADD takes it", copy.position)
    plain = [each for each in sources if each not in remote]
    if plain:
        groups.append(_from_tree(state, copy, plain, common))
    checksum = state.expand(copy.checksum, copy)
    groups += [_remote(copy, url, checksum, common) for url in remote]
    if checksum and not (len(sources) == 1 and remote):
        raise DockerfileError("checksum can't be specified for multiple or local sources", copy.position)
    inputs = tuple(vertex for vertex, _ in groups)
    step = ops.Transfer(copies=tuple(selection for _, selection in groups), epoch=state.planner.options.epoch)
    # An owner by name is looked up in the file system below, so that such a copy is not independent of it.
    independent = copy.link and not re.search(r"[^\d:]", owner)
    return Transferred(step, inputs, spelling.copied(copy, sources, shown, owner, mode), independent)


def _check_mode(text: str, copy: ins.Copy) -> None:
    """Octal up to 07777, or chmod's symbols."""
    if not text or re.fullmatch(r"0*[0-7]{1,4}", text) or all(_SYMBOLS.fullmatch(each) for each in text.split(",")):
        return
    raise DockerfileError(
        f"invalid chmod parameter: {text!r}. It should be octal string and between 0 and 07777, or like u=rwX,go=rX",
        copy.position,
    )


def _destination(state: StageState, text: str) -> str:
    """Absolute, with the trailing slash that says that it is a directory."""
    slash = not text or text.endswith("/") or text.rsplit("/", 1)[-1] in (".", "..")
    whole = posixpath.normpath(posixpath.join("/", state.config.working_dir or "/", text))
    whole = "/" + whole.lstrip("/")
    return f"{whole}/" if slash and whole != "/" else whole


def _is_remote(source: str) -> bool:
    return bool(_URL.match(source)) or parse_git(source) is not None


def _from_tree(
    state: StageState, copy: ins.Copy, sources: list[str], common: ops.Selection
) -> tuple[Vertex, ops.Selection]:
    if copy.from_:
        vertex = state.planner.source(copy.from_, state.stage.index, copy)
        # While an image is missing the plan is made again later; until then anything stands in its place.
        vertex = vertex or Vertex(ops.Scratch(), title="[missing]")
    else:
        vertex = Vertex(ops.Context(), title="[internal] load build context")
        for source in sources:
            message = lint.ignored(source, state.planner.options.ignore, add=copy.add)
            state.planner.warn(copy, "CopyIgnoredFile", message)
    kept = bool(copy.from_) and not isinstance(vertex.step, ops.Context)
    unpack = copy.add if copy.unpack is None else copy.unpack
    return vertex, replace(common, sources=tuple(sources), root_owned=not kept, parents=copy.parents, unpack=unpack)


def _inline(state: StageState, copy: ins.Copy, common: ops.Selection) -> tuple[Vertex, ops.Selection]:
    files = tuple((each.name, _content(state, copy, each)) for each in copy.heredocs)
    vertex = Vertex(ops.Inline(files=files), title="[internal] here-documents")
    sources = tuple(name for name, _ in files)
    return vertex, replace(common, sources=sources, mode=common.mode or "0644")


def _content(state: StageState, copy: ins.Copy, heredoc: Heredoc) -> str:
    if not heredoc.expand:
        return heredoc.content
    return state.expand(heredoc.content, copy, quotes=False)


def _remote(copy: ins.Copy, url: str, checksum: str, common: ops.Selection) -> tuple[Vertex, ops.Selection]:
    git = parse_git(url)
    if git is not None:
        return _git(copy, git, checksum, common)
    if checksum:
        try:
            digests.check(checksum)
        except InvalidArgument as error:
            raise DockerfileError(f"invalid checksum: {error.message}", copy.position) from error
    name = posixpath.basename(urlsplit(url).path)
    name = name or posixpath.basename(common.destination) or _UNNAMED
    step = ops.Remote(url=url, checksum=checksum, name=name)
    vertex = Vertex(step, title=f"[{url}]", line=copy.position.line)
    return vertex, replace(common, sources=(name,), unpack=bool(copy.unpack), mode=common.mode or "0600")


def _git(copy: ins.Copy, git: GitUrl, checksum: str, common: ops.Selection) -> tuple[Vertex, ops.Selection]:
    if checksum and not _COMMIT.fullmatch(checksum):
        raise DockerfileError(f"invalid checksum {checksum!r}: expected hex commit hash", copy.position)
    if None not in (copy.keep_git_dir, git.keep_git_dir) and copy.keep_git_dir != git.keep_git_dir:
        raise DockerfileError("inconsistent keep-git-dir configuration", copy.position)
    if checksum and git.checksum and checksum != git.checksum:
        raise DockerfileError(f"checksum mismatch {checksum!r} != {git.checksum!r}", copy.position)
    step = ops.Git(
        url=git.remote,
        ref=git.ref,
        subdirectory=git.subdirectory,
        keep_git_dir=bool(copy.keep_git_dir or git.keep_git_dir),
        checksum=checksum or git.checksum,
        submodules=git.submodules,
        commit_times=git.commit_times,
        by_commit=git.by_commit,
    )
    return Vertex(step, title=f"[{git.remote}]", line=copy.position.line), replace(common, sources=("/",))
