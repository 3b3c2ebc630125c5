"""`features`: what this runtime supports, in the form that the runtime specification gives it."""

from __future__ import annotations

import json

from cove.kernel import namespaces, privileges
from cove.oci.spec import OCI_VERSION
from cove.runtime.oci.main import Call


def document() -> dict[str, object]:
    """The `features` document of the runtime specification."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(privileges.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True},
            "seccomp": {"enabled": True},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
        },
    }


def features(call: Call, words: list[str]) -> int:
    """Print it."""
    call.parse(words, (), 0, 0)
    print(json.dumps(document(), indent=4))
    return 0
