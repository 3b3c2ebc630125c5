"""`cove image bootstrap`: a base image out of the distribution's own packages, without any image registry.

    debian:bookworm   mmdebstrap with the host's apt sources ─▶ archive ─▶ layer ─▶ image
    busybox           the host's static busybox and its applets as links ─▶ layer ─▶ image

mmdebstrap sorts its archive, leaves out lists, caches, logs and the machine's identity, and clamps times to
SOURCE_DATE_EPOCH: the same packages give the same layer, byte by byte. What it mounts meanwhile is mounted in a mount
namespace of its own, so that none of it stays on the host, however it ends. As in the distribution's own images, dpkg
does not wait for the disk after each file, neither now nor in containers: who loses power builds anew.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from cove.errors import Internal, InvalidArgument, Unsupported
from cove.image.content import ContentStore
from cove.image.images import Image, Images
from cove.image.layers import Layers
from cove.image.making import store_image, store_layer
from cove.oci.image import ContainerConfig, History, ImageConfig, RootFS
from cove.oci.platform import host_platform
from cove.oci.reference import DEFAULT_TAG, Reference

Progress = Callable[[dict[str, object]], None]

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIANTS = ("minbase", "apt", "essential", "standard", "important", "required", "buildd")
_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+:~_=-]*")
_DAY = 86_400
_CHUNK = 1 << 20
_BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
_DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
)
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnogroup:x:65534:\n"


class Options(msgspec.Struct, frozen=True):
    """What to put in; `suite` "" is the name's tag, or the host's own suite; `mirror` "" is the host's."""

    suite: str = ""
    include: tuple[str, ...] = ()
    variant: str = "minbase"
    mirror: str = ""


_NO_OPTIONS = Options()


def bootstrap(
    content: ContentStore,
    images: Images,
    layers: Layers,
    name: str,
    options: Options = _NO_OPTIONS,
    progress: Progress = lambda _: None,
) -> Image:
    """Make the image `name` and return it; blocks for as long as the packages take.

    Unsupported when the host lacks the tool, InvalidArgument for words that can be no suite or package,
    Internal with mmdebstrap's own last words when it fails.
    """
    reference = Reference.parse(name)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "") or int(time.time()) // _DAY * _DAY)
    if reference.path.rpartition("/")[2] == "busybox":
        archive, command, made_by = _busybox(epoch), "sh", "busybox-static"
        progress({"status": f"Bootstrapping {reference.familiar} from the host's busybox"})
    else:
        suite = _suite(reference, options)
        archive, command = _debian(suite, options, epoch, progress), "bash"
        made_by = f"mmdebstrap --variant={options.variant} {suite}"
        progress({"status": f"Bootstrapping {reference.familiar} from the packages of {suite}"})
    layer = store_layer(content, layers, archive)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    host = host_platform()
    config = ImageConfig(
        architecture=host.architecture,
        variant=host.variant,
        os=host.os,
        created=created,
        config=ContainerConfig(env=(_PATH,), cmd=(command,)),
        rootfs=RootFS(diff_ids=(layer.diff_id,)),
        history=(History(created=created, created_by=made_by),),
    )
    image = store_image(content, images, config, [layer.blob], [reference.full])
    progress({"status": f"Bootstrapped {reference.familiar}: {image.id}"})
    return image


# ── Debian and its kin ────────────────────────────────────────────────────────────────────────────


def _suite(reference: Reference, options: Options) -> str:
    tag = "" if reference.tag == DEFAULT_TAG else reference.tag.removesuffix("-slim")
    suite = options.suite or tag or _host_suite()
    if _WORD.fullmatch(suite) is None:
        raise InvalidArgument(f"{suite!r} can be no suite of packages: name one, e.g. --suite bookworm")
    if options.variant not in _VARIANTS:
        raise InvalidArgument(f"unknown variant {options.variant!r}: choose one of {', '.join(_VARIANTS)}")
    for package in options.include:
        if _PACKAGE.fullmatch(package) is None:
            raise InvalidArgument(f"{package!r} can be no package's name")
    return suite


def _debian(suite: str, options: Options, epoch: int, progress: Progress) -> Iterator[bytes]:
    """The archive that mmdebstrap makes. Its messages become progress; its failure ends the stream."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Unsupported("mmdebstrap is not installed on this host; install the package mmdebstrap and try again")
    return _run(_arguments(program, suite, options), epoch, progress)


def _arguments(program: str, suite: str, options: Options) -> list[str]:
    sources = [options.mirror] if options.mirror else _host_sources(suite)
    return [
        "unshare",
        "--mount",
        program,
        "--mode=root",
        "--format=tar",
        "--dpkgopt=force-unsafe-io",
        f"--variant={options.variant}",
        *([f"--include={','.join(options.include)}"] if options.include else []),
        suite,
        "-",
        *sources,
    ]


def _run(arguments: list[str], epoch: int, progress: Progress) -> Iterator[bytes]:
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, cwd="/"
        )
        seen = _Messages(log.fileno(), progress)
        try:
            assert process.stdout is not None
            while data := process.stdout.read(_CHUNK):
                seen.tell()
                yield data
            status = process.wait()
            seen.tell()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if status:
            raise Internal(f"mmdebstrap failed with status {status}: {seen.complaint()}")


class _Messages:
    """What mmdebstrap has written to its log since it was last looked at."""

    def __init__(self, fd: int, progress: Progress) -> None:
        self._fd = fd
        self._at = 0
        self._progress = progress
        self._lines: list[str] = []

    def tell(self) -> None:
        text = os.pread(self._fd, 1 << 20, self._at)
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self._lines.append(line)
            if line.startswith("I: "):
                self._progress({"status": line.removeprefix("I: ")})
        del self._lines[:-50]

    def complaint(self) -> str:
        errors = [line.removeprefix("E: ") for line in self._lines if line.startswith("E: ")]
        return "; ".join(errors[:3] or self._lines[-1:] or ["it did not say why"])


def _host_suite() -> str:
    try:
        facts = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    except OSError:
        facts = {}
    suite = facts.get("VERSION_CODENAME", "").strip('"')
    if not suite:
        raise InvalidArgument("this host has no suite of its own: name one, e.g. --suite bookworm")
    return suite


def _host_sources(suite: str) -> list[str]:
    """The host's own archives as apt's one-line sources, turned to `suite`; none lets mmdebstrap choose."""
    try:
        host = _host_suite()
    except InvalidArgument:
        return []
    found: list[str] = []
    for uri, name, components in _entries():
        base, dash, pocket = name.partition("-")
        if base == host and pocket in ("", "updates", "security") and "main" in components:
            line = f"deb {uri} {suite}{dash}{pocket} {' '.join(components)}"
            if line not in found:
                found.append(line)
    return found


def _entries() -> Iterator[tuple[str, str, list[str]]]:
    """(URI, suite, components) of each binary source in /etc/apt, in both of apt's formats (sources.list(5))."""
    directory = Path("/etc/apt/sources.list.d")
    paths = [Path("/etc/apt/sources.list"), *(sorted(directory.iterdir()) if directory.is_dir() else [])]
    for path in paths:
        try:
            text = path.read_text() if path.suffix in (".list", ".sources") else ""
        except OSError:
            continue
        yield from _one_line(text) if path.suffix == ".list" else _deb822(text)


def _one_line(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
        if len(words) > 3 and words[0] == "deb":
            yield words[1], words[2], words[3:]


def _deb822(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields = dict(re.findall(r"(?m)^([\w-]+):[ \t]*((?:.*(?:\n[ \t]+.*)*))", "\n".join(lines)))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            for uri in fields.get("URIs", "").split():
                for suite in fields.get("Suites", "").split():
                    yield uri, suite, fields.get("Components", "").split()


# ── busybox ───────────────────────────────────────────────────────────────────────────────────────


def _busybox(epoch: int) -> Iterator[bytes]:
    """An archive with the host's static busybox, its applets, and the few files that programs expect."""
    program = next((path for path in _BUSYBOX if os.path.exists(path)), None)
    if program is None:
        raise Unsupported("busybox is not installed on this host; install the package busybox-static and try again")
    listed = subprocess.run([program, "--list-full"], capture_output=True, check=False, text=True)
    applets = sorted({path for path in listed.stdout.split() if path != "bin/busybox"})
    if listed.returncode or not applets:
        raise Unsupported(f"the busybox of this host, {program}, does not list its applets; install busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in _busybox_members(Path(program).read_bytes(), applets):
            info.mtime = epoch
            archive.addfile(info, io.BytesIO(content))
    return iter([buffer.getvalue()])


def _busybox_members(program: bytes, applets: Iterable[str]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for directory in _DIRECTORIES:
        info = tarfile.TarInfo(directory + "/")
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
        yield info, b""
    for name, content, mode in (
        ("bin/busybox", program, 0o755),
        ("etc/passwd", _PASSWD, 0o644),
        ("etc/group", _GROUP, 0o644),
    ):
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), mode
        yield info, content
    for applet in applets:
        if applet.rpartition("/")[0] in _DIRECTORIES:
            info = tarfile.TarInfo(applet)
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, "/bin/busybox", 0o777
            yield info, b""
