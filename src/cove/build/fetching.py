"""Files from elsewhere: by HTTP, and from git repositories.

A download goes into a directory of its own under a name that we chose; its digest is its identity. git runs as a
program of the host with nothing of the user's configuration, in a directory of its own, and is never given a
word of a stranger where it would take a flag.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

import urllib3

from cove.build import ops, programs
from cove.build.giturl import GitUrl
from cove.errors import InvalidArgument, NotFound, Unavailable, Unsupported

_CHUNK = 1 << 20
_MOST = 16 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}\t")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PATIENCE = 600


def download(directory: Path, step: ops.Remote) -> str:
    """Fetch the file into `directory`; its digest. InvalidArgument when it is not `checksum`."""
    directory.mkdir(mode=0o755)
    target = directory / step.name
    digest = fetch(step.url, target)
    if step.checksum and digest != step.checksum:
        raise InvalidArgument(f"digest mismatch: {step.url} has {digest}, but {step.checksum} was expected")
    return digest


def fetch(url: str, target: Path) -> str:
    """One file by HTTP with redirects; its sha256 digest. Its time is the server's Last-Modified, else 0."""
    content = hashlib.sha256()
    with opened(url) as answer:
        with open(target, "xb") as file:
            for piece in answer.pieces:
                content.update(piece)
                file.write(piece)
        _date(target, answer.modified)
    return f"sha256:{content.hexdigest()}"


class Answer(NamedTuple):
    """A file on its way; `modified` is the server's Last-Modified, "" without one."""

    pieces: Iterator[bytes]
    modified: str


@contextmanager
def opened(url: str) -> Iterator[Answer]:
    """What lies at an address, once the server says that it has it. NotFound, Unavailable or InvalidArgument."""
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"{url} cannot be fetched: only http:// and https:// addresses can")
    if "%" in url.split("/")[2]:
        raise InvalidArgument(f"{url} cannot be fetched: it is no address")
    with urllib3.PoolManager(retries=urllib3.Retry(3, redirect=10), timeout=60) as pool:
        try:
            answer = _pool(pool, url).request("GET", url, preload_content=False, headers={"User-Agent": "cove"})
            if answer.status >= 400:
                kind = NotFound if answer.status == 404 else Unavailable
                raise kind(f"{url} cannot be fetched: the server answers {answer.status}")
            yield Answer(_bounded(url, answer), answer.headers.get("Last-Modified", ""))
        except urllib3.exceptions.LocationParseError as error:
            raise InvalidArgument(f"{url} cannot be fetched: it is no address") from error
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{url} cannot be fetched: {_reason(error)}") from error


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    """The innermost cause in few words; the library wraps it in its own objects' names."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "its name does not resolve; check the name and the DNS"
    return str(cause).rpartition(": ")[2]


def _bounded(url: str, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    size = 0
    for piece in answer.stream(_CHUNK, decode_content=False):
        size += len(piece)
        if size > _MOST:
            raise InvalidArgument(f"{url} is longer than {_MOST} bytes")
        yield piece


def _pool(pool: urllib3.PoolManager, url: str) -> urllib3.PoolManager:
    """Through the proxy that the daemon's environment names, if it names one for this host."""
    from urllib.request import getproxies, proxy_bypass

    scheme, _, rest = url.partition("://")
    proxy = getproxies().get(scheme.lower(), "")
    if not proxy or proxy_bypass(rest.partition("/")[0]):
        return pool
    return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", retries=urllib3.Retry(3, redirect=10))


def _date(path: Path, text: str) -> None:
    try:
        moment = parsedate_to_datetime(text).timestamp() if text else 0.0
    except ValueError:
        moment = 0.0
    os.utime(path, (moment, moment))


# ── git ───────────────────────────────────────────────────────────────────────────────────────────


def clone(directory: Path, step: ops.Git) -> str:
    """The repository's tree at its reference into `directory`; the commit's id."""
    work = directory.with_name(f"{directory.name}-git")
    git = GitUrl(
        step.url,
        step.ref,
        checksum=step.checksum,
        keep_git_dir=step.keep_git_dir,
        submodules=step.submodules,
        commit_times=step.commit_times,
        by_commit=step.by_commit,
    )
    commit = verified(git, check_out(work, git).commit)
    subdirectory(work, step.subdirectory).rename(directory)
    shutil.rmtree(work, ignore_errors=True)
    return f"{step.url} {commit} {step.subdirectory} {step.keep_git_dir} {step.submodules}"


def verified(git: GitUrl, commit: str) -> str:
    """The commit's id; InvalidArgument when it is not the one that was asked for."""
    if git.checksum and not commit.startswith(git.checksum):
        raise InvalidArgument(f"expected checksum to match {git.checksum}, but {git.remote} is at commit {commit}")
    return commit


class Commit(NamedTuple):
    """What was checked out: its id, and when it was made in seconds."""

    commit: str
    moment: int


def check_out(work: Path, git: GitUrl) -> Commit:
    """Fetch one commit and its submodules, as shallow as the server lets us."""
    if shutil.which("git") is None:
        raise Unsupported("the host has no git, which a git source needs; install the package git")
    work.mkdir(mode=0o755)
    _begin(work, git, "sha1")
    wanted = git.checksum if git.by_commit else git.ref or "HEAD"
    # Plumbing that takes a revision after "--end-of-options" cannot take it for a flag.
    shallow = not _git(work, "fetch", "--quiet", "--depth=1", "--end-of-options", "origin", wanted, check=False)
    if not shallow and _SHA256.match(_output(work, "ls-remote", "origin", "HEAD")):
        shutil.rmtree(work / ".git")
        _begin(work, git, "sha256")
        shallow = not _git(work, "fetch", "--quiet", "--depth=1", "--end-of-options", "origin", wanted, check=False)
    # A server of plain files gives whole histories only.
    if not shallow and _git(work, "fetch", "--quiet", "--end-of-options", "origin", wanted, check=False):
        _git(work, "fetch", "--quiet", "--tags", "--end-of-options", "origin", "+refs/heads/*:refs/remotes/origin/*")
        for name in (f"refs/remotes/origin/{wanted}", f"refs/tags/{wanted}", wanted):
            if not _git(work, "checkout", "--quiet", "--detach", name, "--", check=False):
                break
        else:
            raise NotFound(f"the repository {git.remote} has no branch, tag or commit {wanted}")
    else:
        _git(work, "checkout", "--quiet", "--detach", "FETCH_HEAD", "--")
    if git.submodules:
        _git(work, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", check=False)
    commit = _output(work, "rev-parse", "HEAD")
    if not _COMMIT.fullmatch(commit):
        raise Unavailable(f"git does not tell the commit of {git.remote}")
    moment = int(_output(work, "show", "--no-patch", "--format=%ct", "HEAD"))
    if not git.keep_git_dir:
        for found in work.rglob(".git"):
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
    if git.commit_times:
        for found in (work, *work.rglob("*")):
            os.utime(found, (moment, moment), follow_symlinks=False)
    return Commit(commit, moment)


def _begin(work: Path, git: GitUrl, form: str) -> None:
    """An empty repository whose objects are named as the server's."""
    # Git before 2.29 knows no forms, and only one.
    words = () if form == "sha1" else (f"--object-format={form}",)
    _git(work, "init", "--quiet", *words, ".")
    _git(work, "remote", "add", "origin", "--", git.remote)


def subdirectory(work: Path, path: str) -> Path:
    """A directory below, without any link on the way."""
    found = work
    for name in path.split("/"):
        if not name:
            continue
        found = found / name
        if name in (".", "..") or found.is_symlink() or not found.is_dir():
            raise NotFound(f"the repository has no directory {path!r}")
    return found


def _environment(work: Path) -> dict[str, str]:
    names = (
        "PATH",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSH_AUTH_SOCK",
    )
    kept = {name: value for name in names if (value := os.environ.get(name))}
    return kept | {
        "HOME": str(work),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes",
        "LC_ALL": "C.UTF-8",
    }


_SAFE = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.symlinks=true",
    "-c",
    "protocol.ext.allow=never",
    "-c",
    "gc.auto=0",
)


def _git(work: Path, *words: str, check: bool = True) -> int:
    done = programs.run(["git", *_SAFE, *words], cwd=work, env=_environment(work), seconds=_PATIENCE)
    if check and done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Unavailable(f"git {words[0]} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.returncode


def _output(work: Path, *words: str) -> str:
    done = programs.run(["git", *_SAFE, *words], cwd=work, env=_environment(work), seconds=_PATIENCE)
    return done.stdout.strip()
