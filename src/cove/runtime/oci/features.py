"""`features`: what this runtime supports, in the form that the runtime specification gives it."""

from __future__ import annotations

import json

from cove.kernel import mounts, namespaces, privileges, seccomp
from cove.oci.spec import OCI_VERSION
from cove.runtime.child import filters, memory_policy
from cove.runtime.oci.main import Call

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def document() -> dict[str, object]:
    """The `features` document of the runtime specification."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(_HOOKS),
        "mountOptions": [*mounts.KNOWN_OPTIONS, "tmpcopyup"],
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(privileges.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True},
            "seccomp": {
                "enabled": True,
                "actions": list(seccomp.ACTIONS),
                "operators": list(seccomp.OPERATORS),
                "archs": list(seccomp.ARCHITECTURES),
                "knownFlags": list(filters.FLAGS),
                "supportedFlags": list(filters.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True},
            "memoryPolicy": {"modes": list(memory_policy.MODES), "flags": list(memory_policy.FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
    }


def features(call: Call, words: list[str]) -> int:
    """Print it."""
    call.parse(words, (), 0, 0)
    print(json.dumps(document(), indent=4))
    return 0
