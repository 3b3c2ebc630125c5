"""`cove build`: an image from a Dockerfile; `cove builder prune`: forget what builds left."""

from __future__ import annotations

import os
import sys

from cove.cli import buildview, context
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.resources import ulimit
from cove.cli.options.values import size
from cove.client import connect
from cove.client.codec import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cove.client.client import Client

_NAMED = frozenset({"type", "name", "push", "rewrite-timestamp"})
_OUTPUTS = {
    "image": _NAMED,
    "registry": _NAMED,
    **dict.fromkeys(("docker", "oci"), frozenset({"type", "dest", "rewrite-timestamp"})),
    **dict.fromkeys(("tar", "local"), frozenset({"type", "dest"})),
}
"""What an output's type may be told; with SOURCE_DATE_EPOCH, layers have no later times anyway."""
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def build(call: Call) -> int:
    (where,) = call.arguments
    client = connect(call.host)
    query = _query(call)
    stream = _context(client, call, where, query)
    secrets, agents = _secrets(call)
    if secrets or agents:
        query["cove-session"] = client.builds.give(secrets, agents)
    if call.list("build-context"):
        from cove.cli import buildcontexts

        query["contexts"] = _json(buildcontexts.given(client, call.list("build-context")))
    outputs = [_output(text) for text in call.list("output")]
    stored = _caches(client, call, query)
    messages = client.builds.build(query, stream, registries=_registries())
    shown = buildview.show(messages, call.text("progress"), explain=call.flag("explain"), quiet=call.flag("quiet"))
    if call.flag("check"):
        return _checked(shown)
    identity = str(shown[-1]["ID"])
    _write(call.text("iidfile"), identity)
    if call.text("metadata-file"):
        named = {"containerimage.config.digest": identity, "image.name": ",".join(shown[-1].get("Names") or [])}
        _write_json(call.text("metadata-file"), named)
    if stored:
        from cove.cli import buildcaches

        buildcaches.store(client, shown, stored)
    for output in outputs:
        _export(client, shown[-1], output, call.list("tag"))
    if call.flag("quiet"):
        print(identity)
    return 0


def _checked(shown: list[dict[str, Any]]) -> int:
    warnings = shown[-1].get("Warnings", 0) if shown else 0
    print("Check complete, no warnings found." if not warnings else f"Check complete, {warnings} warnings found.")
    return 1 if warnings else 0


def _query(call: Call) -> dict[str, Any]:
    arguments: dict[str, str] = {}
    for text in call.list("build-arg"):
        name, equals, value = text.partition("=")
        if equals or name in os.environ:
            arguments[name] = value if equals else os.environ[name]
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and "SOURCE_DATE_EPOCH" not in arguments:
        arguments["SOURCE_DATE_EPOCH"] = epoch
    return {
        "t": call.list("tag") or None,
        "target": call.text("target") or None,
        "buildargs": _json(arguments) if arguments else None,
        "labels": _json(call.map("label")) if call.list("label") else None,
        "platform": ",".join(call.list("platform")) or None,
        "nocache": call.flag("no-cache") or None,
        "nocachefilter": _list(call, "no-cache-filter"),
        "pull": call.flag("pull") or None,
        "networkmode": call.text("network") or None,
        "extrahosts": _list(call, "add-host"),
        "shmsize": size(call.text("shm-size"), "shm-size") if call.text("shm-size") else None,
        **_limits(call),
        "allow": _list(call, "allow"),
        "check": call.flag("check") or None,
        "provenance": _provenance(call),
        "annotations": _annotations(call),
    }


def _limits(call: Call) -> dict[str, Any]:
    """What each step may use."""
    if not call.flag("rm"):
        raise UsageError("--rm=false cannot be honoured: a build of Cove makes no containers that could be kept")
    swap = call.text("memory-swap")
    return {
        "memory": size(call.text("memory"), "memory") if call.text("memory") else None,
        "memswap": (-1 if swap == "-1" else size(swap, "memory-swap")) if swap else None,
        "cpushares": call.number("cpu-shares") or None,
        "cpuperiod": call.number("cpu-period") or None,
        "cpuquota": call.number("cpu-quota") or None,
        "cpusetcpus": call.text("cpuset-cpus") or None,
        "cgroupparent": call.text("cgroup-parent") or None,
        "ulimits": _json([ulimit(text) for text in call.list("ulimit")]) if call.list("ulimit") else None,
    }


def _provenance(call: Call) -> str | None:
    """--provenance true, false, or what it shall tell; --attest type=provenance,… is the same."""
    found = call.text("provenance")
    for text in call.list("attest"):
        fields = text.split(",")
        if "type=provenance" not in fields:
            raise UsageError(f"--attest {text}: only statements of type=provenance are made")
        found = ",".join(field for field in fields if field != "type=provenance") or "true"
    if found in ("", "false"):
        return None
    return "mode=min" if found == "true" else found


def _annotations(call: Call) -> str | None:
    if not call.list("annotation"):
        return None
    from cove.cli import buildannotations

    return _json(buildannotations.given(call.list("annotation")))


def _list(call: Call, name: str) -> str | None:
    found = call.list(name)
    return _json(found) if found else None


def _context(client: Client, call: Call, where: str, query: dict[str, Any]) -> Iterator[bytes] | None:
    """The body of the request, and in the query what says how it is to be read."""
    dockerfile = call.text("file")
    if where == "-":
        if dockerfile == "-":
            raise UsageError("context and Dockerfile cannot both come from stdin")
        query["dockerfile"] = dockerfile or None
        return context.from_stdin(sys.stdin.buffer)
    if where.startswith(_REMOTE) and not os.path.isdir(where):
        query["remote"], query["dockerfile"] = where, dockerfile or None
        return None
    found = context.of_directory(where, dockerfile)
    query["dockerfile"] = found.dockerfile
    if not found.large:
        return found.archive()
    query["context"] = client.builds.sync(found)
    return None


def _secrets(call: Call) -> tuple[dict[str, bytes], dict[str, str]]:
    """--secret id=X[,src=FILE|,env=NAME] and --ssh ID[=SOCKET]."""
    secrets: dict[str, bytes] = {}
    for text in call.list("secret"):
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        source = fields.get("src") or fields.get("source") or ""
        identity = fields.get("id") or os.path.basename(source)
        if not identity or fields.get("type", "file") not in ("file", "env"):
            raise UsageError(f"--secret {text} must have the form id=NAME[,src=FILE|,env=VARIABLE]")
        variable = fields.get("env") or ("" if source else identity)
        if source:
            with open(source, "rb") as file:
                secrets[identity] = file.read()
        elif variable in os.environ:
            secrets[identity] = os.environb[os.fsencode(variable)]
        else:
            raise UsageError(f"the secret {identity} has neither a file nor a variable of that name")
    agents: dict[str, str] = {}
    for text in call.list("ssh"):
        identity, _, path = text.partition("=")
        socket = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not socket or not os.path.exists(socket):
            raise UsageError(
                f"--ssh {text}: there is no agent's socket; start ssh-agent, or name one: {identity}=PATH"
            )
        agents[identity or "default"] = os.path.abspath(socket)
    return secrets, agents


def _registries() -> str:
    """The header with all credentials that are at hand, as Docker sends it."""
    from cove.cli import credentials

    return credentials.all_headers()


def _caches(client: Client, call: Call, query: dict[str, Any]) -> list[dict[str, str]]:
    """--cache-to and --cache-from, into the query; the places to put the cache to."""
    if not call.list("cache-to") and not call.list("cache-from"):
        return []
    from cove.cli import buildcaches

    targets = buildcaches.targets(call.list("cache-to"))
    query["cache-to"] = _json(targets) if targets else None
    query["cache-from"] = _json(buildcaches.sources(client, call.list("cache-from")))
    return targets


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────


def _output(text: str) -> dict[str, str]:
    """type=…,dest=…; a bare path is a local directory, "-" a tar archive on stdout."""
    if "=" not in text:
        return {"type": "tar", "dest": "-"} if text == "-" else {"type": "local", "dest": text}
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    kind = fields.get("type", "")
    if kind not in _OUTPUTS:
        raise UsageError(
            f"--output has the unknown type {kind!r}; image, registry, docker, oci, tar and local are known"
        )
    if kind == "local" and not fields.get("dest"):
        raise UsageError("--output type=local needs dest=DIRECTORY")
    for name, value in fields.items():
        if name not in _OUTPUTS[kind] or (name == "rewrite-timestamp" and value != "true"):
            raise UsageError(f"--output type={kind} has no option {name}={value}")
    return fields


def _export(client: Client, built: dict[str, Any], output: dict[str, str], tags: list[str]) -> None:
    from cove.cli.files import open_output

    identity, epoch = str(built["ID"]), built.get("Epoch")
    kind, target = output["type"], output.get("dest", "")
    if kind in ("image", "registry"):
        _push(client, identity, output, tags)
        return
    if kind == "docker" and not target:
        return  # it is in the daemon already
    if kind == "local":
        from cove.cli.localtar import unpack

        os.makedirs(target, exist_ok=True)
        unpack(client.builds.rootfs(identity, epoch).chunks(), target, rename=None, keep_ids=os.geteuid() == 0)
        return
    response = client.builds.rootfs(identity, epoch) if kind == "tar" else client.images.save(tags or [identity])
    if target in ("", "-") and os.isatty(1):
        raise UsageError("an archive is not for a terminal; name a file with dest=FILE")
    with open_output("" if target == "-" else target) as out:
        for chunk in response.chunks():
            out.write(chunk)


def _push(client: Client, identity: str, output: dict[str, str], tags: list[str]) -> None:
    """type=image names the image; type=registry, or push=true, also pushes it."""
    from cove.cli import credentials, progress, reference

    names = [output["name"]] if output.get("name") else tags
    for name in names:
        repository, tag = reference.split(name)
        if name not in tags:
            client.images.tag(identity, repository, tag or "latest")
        if output["type"] == "registry" or output.get("push") == "true":
            auth = credentials.header(reference.registry(name))
            progress.show(client.images.push(repository, tag or "latest", auth=auth))


def _json(value: object) -> str:
    return encode(value).decode()


def _write(path: str, text: str) -> None:
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _write_json(path: str, value: dict[str, str]) -> None:
    """For people: with indentation."""
    import json

    _write(path, json.dumps(value, indent=2))


def prune(call: Call) -> int:
    from cove.cli import humanize

    if not call.flag("force"):
        print("This forgets the build cache. Are you sure? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 1
    filters: dict[str, list[str]] = {}
    for text in call.list("filter"):
        name, _, value = text.partition("=")
        filters.setdefault(name, []).append(value)
    answer = connect(call.host).builds.prune(
        all=call.flag("all"),
        filters=filters,
        reserved_space=_bytes(call, "reserved-space") or _bytes(call, "keep-storage"),
        max_used_space=_bytes(call, "max-used-space"),
        min_free_space=_bytes(call, "min-free-space"),
    )
    for key in answer.get("CachesDeleted") or ():
        print(key[:25])
    print(f"Total:\t{humanize.size(answer.get('SpaceReclaimed') or 0)}")
    return 0


def _bytes(call: Call, name: str) -> int:
    text = call.text(name)
    return size(text, name) if text else 0


BUILD = Verb(
    build,
    "Build an image from a Dockerfile.",
    "DIRECTORY|URL|-",
    (
        Flag("add-host", "A further line of /etc/hosts: NAME:ADDRESS", "list", hint="host"),
        Flag("allow", "Grant network.host, security.insecure, device or device=NAME", "list", hint="entitlement"),
        Flag(
            "annotation", "Write beside the image: [index|manifest[PLATFORM]:]name=value", "list", hint="name=value"
        ),
        Flag("attest", "Add a statement to the image: type=provenance[,mode=max][,version=v1]", "list"),
        Flag("build-arg", "Set an ARG: NAME=VALUE, or NAME from the environment", "list", hint="arg"),
        Flag("build-context", "Name further files or an image: NAME=DIRECTORY, URL, docker-image://…", "list"),
        Flag("cache-from", "Take finished steps from: an image, or type=local|registry,…", "list", hint="source"),
        Flag("cache-to", "Put finished steps to: type=inline|local|registry,…", "list", hint="target"),
        Flag("cgroup-parent", "The control group that those of the steps lie in", hint="group"),
        Flag("check", "Only check the Dockerfile", "bool"),
        Flag("cpu-period", "CPU period of each step, in microseconds", "int"),
        Flag("cpu-quota", "CPU time of each step in a period, in microseconds", "int"),
        Flag("cpu-shares", "CPU weight of each step against others", "int"),
        Flag("cpuset-cpus", "The CPUs of each step: 0-3 or 0,2", hint="cpus"),
        Flag("explain", "Say for each step why it ran", "bool"),
        Flag("file", "The Dockerfile (default DIRECTORY/Dockerfile); - for stdin", short="f", hint="file"),
        Flag("force-rm", "No container of a step ever stays, whether the build fails or not", "bool"),
        Flag("iidfile", "Write the image's id to this file", hint="file"),
        Flag("label", "Set a label", "map", hint="name=value"),
        Flag("memory", "Limit of memory for each step", short="m", hint="bytes"),
        Flag("memory-swap", "Limit of memory and swap for each step; -1: no limit of swap", hint="bytes"),
        Flag("metadata-file", "Write what was built to this file, as JSON", hint="file"),
        Flag("network", "Network of RUN: default, none, host, or a network's name"),
        Flag("no-cache", "Run every step", "bool"),
        Flag("no-cache-filter", "Run every step of this stage", "list", hint="stage"),
        Flag("output", "What to make: type=image|registry|docker|oci|tar|local,dest=PATH", "list", short="o"),
        Flag("platform", "Platform of the result: linux/arm64", "list"),
        Flag("progress", "auto, plain, tty or json", default="auto", hint="kind"),
        Flag("provenance", "Add a statement of how the image came to be: true, mode=max, version=v1", hint="what"),
        Flag("pull", "Ask the registries for newer base images", "bool"),
        Flag("quiet", "Show nothing but the image's id", "bool", short="q"),
        Flag("rm", "No container of a step stays", "bool", default="true"),
        Flag("secret", "A secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]", "list"),
        Flag("shm-size", "Size of /dev/shm for each step", hint="bytes"),
        Flag("ssh", "An ssh agent for RUN --mount=type=ssh: default, or ID=SOCKET", "list"),
        Flag("tag", "Name of the image", "list", short="t", hint="name"),
        Flag("target", "Build this stage", hint="stage"),
        Flag("ulimit", "Resource limit of each step: NAME=SOFT[:HARD]", "list", hint="limit"),
    ),
    least=1,
    most=1,
)
PRUNE = Verb(
    prune,
    "Forget what builds left: cached steps and cache mounts.",
    "",
    (
        Flag("all", "Also steps that an image still uses", "bool", short="a"),
        Flag("filter", "until=24h: not used since; also id, parent, type, description, shared, private", "list"),
        Flag("force", "Do not ask", "bool", short="f"),
        Flag("keep-storage", "The same as --reserved-space", hint="bytes"),
        Flag("max-used-space", "Let no more than this stay", hint="bytes"),
        Flag("min-free-space", "Go on until this much of the disk is free", hint="bytes"),
        Flag("reserved-space", "Keep this much of the most recently used", hint="bytes"),
    ),
)
