"""Every verb: where its module is, and the line that help shows for it.

A row is `path: (place, group, summary)`; `place` is `module:NAME` below cove.cli.commands,
imported only when the verb is called. What `container X` and `image X` share with `X` is
one row of an alias table, so that each verb is described once.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RUN, WATCH, LIFE, FILES, IMAGES, SYSTEM = (
    "Run something",
    "See what runs",
    "Start, stop, change",
    "Files of a container",
    "Images",
    "The daemon",
)

TABLE: dict[str, tuple[str, str, str]] = {
    "run": ("run:RUN", RUN, "Create and run a new container from an image"),
    "exec": ("exec:EXEC", RUN, "Run a command in a running container"),
    "attach": ("attach:ATTACH", RUN, "Attach this terminal to a running container"),
    "create": ("run:CREATE", RUN, "Create a container without starting it"),
    "ps": ("ps:PS", WATCH, "List containers"),
    "logs": ("logs:LOGS", WATCH, "Show what a container wrote"),
    "stats": ("stats:STATS", WATCH, "Watch what containers use"),
    "top": ("top:TOP", WATCH, "Show the processes of a container"),
    "port": ("port:PORT", WATCH, "Show where a container's ports are published"),
    "inspect": ("inspect:INSPECT", WATCH, "Show everything about any object"),
    "explain": ("explain:EXPLAIN", WATCH, "Show how a container is isolated, on one page"),
    "events": ("events:EVENTS", WATCH, "Watch what happens in the daemon"),
    "start": ("start:START", LIFE, "Start stopped containers"),
    "stop": ("lifecycle:STOP", LIFE, "Stop running containers"),
    "restart": ("lifecycle:RESTART", LIFE, "Restart containers"),
    "kill": ("lifecycle:KILL", LIFE, "Send a signal to running containers"),
    "pause": ("lifecycle:PAUSE", LIFE, "Freeze all processes of containers"),
    "unpause": ("lifecycle:UNPAUSE", LIFE, "Let frozen containers go on"),
    "wait": ("lifecycle:WAIT", LIFE, "Wait until containers stop, print their exit codes"),
    "rename": ("lifecycle:RENAME", LIFE, "Rename a container"),
    "update": ("update:UPDATE", LIFE, "Change the limits of containers"),
    "rm": ("lifecycle:REMOVE", LIFE, "Remove containers"),
    "cp": ("cp:COPY", FILES, "Copy files between a container and this machine"),
    "diff": ("files:DIFF", FILES, "Show what changed in a container's file system"),
    "export": ("files:EXPORT", FILES, "Write a container's file system as a tar archive"),
    "backup": ("backup:BACKUP", FILES, "Keep a container with its volumes as one archive, or at a registry"),
    "restore": ("backup:RESTORE", FILES, "Make a container out of a backup"),
    "commit": ("files:COMMIT", FILES, "Make an image of a container's changes"),
    "build": ("build:BUILD", IMAGES, "Build an image from a Dockerfile"),
    "images": ("images:LIST", IMAGES, "List images"),
    "pull": ("transfer:PULL", IMAGES, "Download an image from a registry"),
    "push": ("transfer:PUSH", IMAGES, "Upload an image to a registry"),
    "tag": ("images:TAG", IMAGES, "Give an image one more name"),
    "rmi": ("images:REMOVE", IMAGES, "Remove images"),
    "history": ("images:HISTORY", IMAGES, "Show how an image was made"),
    "save": ("archive:SAVE", IMAGES, "Write images as a tar archive"),
    "load": ("archive:LOAD", IMAGES, "Read images from a tar archive"),
    "import": ("archive:IMPORT", IMAGES, "Make an image of a file system's tar archive"),
    "search": ("search:SEARCH", IMAGES, "Search a registry for images"),
    "login": ("login:LOGIN", IMAGES, "Log in to a registry"),
    "logout": ("login:LOGOUT", IMAGES, "Log out from a registry"),
    "daemon": ("daemon:DAEMON", SYSTEM, "Run the daemon in the foreground"),
    "info": ("system:INFO", SYSTEM, "Show the state of the daemon and the host"),
    "version": ("system:VERSION", SYSTEM, "Show the versions of client and daemon"),
    "completion": ("completion:COMPLETION", SYSTEM, "Print a script that completes command lines in a shell"),
    "container inspect": ("inspect:CONTAINER", "container", "Show everything about containers"),
    "container prune": ("prune:CONTAINERS", "container", "Remove all stopped containers"),
    "image bootstrap": ("bootstrap:BOOTSTRAP", "image", "Make an image out of Debian's packages"),
    "image attachments": ("trust:ATTACHMENTS", "image", "List signatures and statements that belong to images"),
    "image verify": ("trust:VERIFY", "image", "Show who signed an image"),
    "image inspect": ("inspect:IMAGE", "image", "Show everything about images"),
    "image prune": ("prune:IMAGES", "image", "Remove unused images"),
    "manifest create": ("manifests:CREATE", "manifest", "Put several images under one name, one per platform"),
    "manifest annotate": ("manifests:ANNOTATE", "manifest", "Change what a list says of one of its images"),
    "manifest inspect": ("manifests:INSPECT", "manifest", "Show an image's manifest or list, byte for byte"),
    "manifest push": ("manifests:PUSH", "manifest", "Upload a list and its images to a registry"),
    "manifest rm": ("manifests:REMOVE", "manifest", "Remove lists"),
    "builder export": ("cache_mounts:EXPORT", "builder", "Write a cache mount's content as a tar archive"),
    "builder import": ("cache_mounts:IMPORT", "builder", "Put such an archive in a cache mount's place"),
    "builder mounts": ("cache_mounts:LIST", "builder", "List what RUN --mount=type=cache keeps"),
    "builder prune": ("build:PRUNE", "builder", "Forget what builds left: cached steps and cache mounts"),
    "volume create": ("volumes:CREATE", "volume", "Create a volume"),
    "volume clone": ("volume_moves:CLONE", "volume", "Make another volume with the same content"),
    "volume export": ("volume_moves:EXPORT", "volume", "Write a content as a tar archive"),
    "volume import": ("volume_moves:IMPORT", "volume", "Put an archive into a volume"),
    "volume rename": ("volume_moves:RENAME", "volume", "Rename a volume"),
    "volume snapshot": ("volume_moves:SNAPSHOT", "volume", "Keep its present content in another volume"),
    "volume inspect": ("inspect:VOLUME", "volume", "Show everything about volumes"),
    "volume ls": ("volumes:LIST", "volume", "List volumes"),
    "volume prune": ("prune:VOLUMES", "volume", "Remove unused volumes"),
    "volume rm": ("volumes:REMOVE", "volume", "Remove volumes"),
    "net trace": ("tracing:TRACE", "net", "Follow a packet's way to a container, to where it ends"),
    "network connect": ("networks:CONNECT", "network", "Connect a container to a network"),
    "network create": ("networks:CREATE", "network", "Create a network"),
    "network disconnect": ("networks:DISCONNECT", "network", "Disconnect a container from a network"),
    "network inspect": ("inspect:NETWORK", "network", "Show everything about networks"),
    "network ls": ("networks:LIST", "network", "List networks"),
    "network prune": ("prune:NETWORKS", "network", "Remove unused networks"),
    "network rm": ("networks:REMOVE", "network", "Remove networks"),
    "network update": ("networks:UPDATE", "network", "Change the rate of networks"),
    "registry passwd": ("registry:PASSWD", "registry", "Set a user's password for a registry"),
    "registry serve": ("registry:SERVE", "registry", "Serve a registry of images"),
    "system df": ("usage:USAGE", "system", "Show what takes disk space"),
    "system prune": ("prune:SYSTEM", "system", "Remove everything unused"),
}

GROUPS = {
    "container": "Containers",
    "image": "Images",
    "builder": "Builds",
    "manifest": "Lists of images, one per platform",
    "volume": "Volumes",
    "net": "The way of packets",
    "network": "Networks",
    "registry": "A registry of images",
    "system": "The daemon and its host",
}

_SHARED = {
    "container": (
        "attach commit cp create diff exec explain export kill logs pause port rename restart rm run start stats "
        "stop top unpause update wait"
    ),
    "image": "build history import load pull push save tag",
    "system": "events info",
}
_RENAMED = {
    "builder build": "build",
    "container ls": "ps",
    "container list": "ps",
    "container ps": "ps",
    "container remove": "rm",
    "image ls": "images",
    "image list": "images",
    "image rm": "rmi",
    "image remove": "rmi",
    "volume list": "volume ls",
    "volume remove": "volume rm",
    "network list": "network ls",
    "network remove": "network rm",
}


def find(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """The verb that words begin with: its name as written, its place, and the words left.

    The place is "" when there is no such verb; the name is then the first word.
    """
    first = words[0]
    if first in GROUPS:
        pair = " ".join(words[:2])
        row = TABLE.get(meant(pair))
        return (pair, row[0], [*words[2:]]) if row else (first, "", [*words[1:]])
    row = TABLE.get(first)
    return first, row[0] if row else "", [*words[1:]]


def meant(path: str) -> str:
    """The path under which the table has what `path` means; `path` itself when it is no alias."""
    group, _, verb = path.partition(" ")
    if path in _RENAMED:
        return _RENAMED[path]
    return verb if verb in _SHARED.get(group, "").split() else path


def members(group: str) -> list[tuple[str, str]]:
    """The verbs of a group with their summaries, aliases included, in alphabetical order."""
    own = {path.split()[1]: row[2] for path, row in TABLE.items() if path.startswith(f"{group} ")}
    shared = {verb: TABLE[verb][2] for verb in _SHARED.get(group, "").split()}
    short = {verb: TABLE[to][2] for verb in ("ls", "rm") if (to := _RENAMED.get(f"{group} {verb}"))}
    return sorted({**own, **shared, **short}.items())
