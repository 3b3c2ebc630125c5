"""A program for another CPU: run where the kernel knows an interpreter for it, explained where it does not.

The interpreter is registered in a binfmt_misc that belongs to a user namespace of the test's own (Linux 6.7), so
that the host's stays as it is. busybox stands for the emulator: it takes the applet from the
program's name. The kernel's part, which program runs in whose place, is the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

pytestmark = pytest.mark.root

HEAD = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
"""Of a 64-bit program for AArch64 (ELF-64 object file format, e_ident, e_type, e_machine)."""
MAGIC = "".join(f"\\x{byte:02x}" for byte in HEAD)
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
SCRIPT = f"""
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
if [ -n "$1" ]; then
    printf '%s' ':foreign:M::{MAGIC}:{MASK}:'"$1"':F' > /proc/sys/fs/binfmt_misc/register || exit 77
fi
shift
exec "$@"
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle/rootfs"
    for name in ("bin", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True)
    (root / "bin/echo").write_bytes(HEAD + bytes(200))
    (root / "bin/echo").chmod(0o755)
    return tmp_path / "bundle"


def run(bundle: Path, interpreter: str) -> subprocess.CompletedProcess[str]:
    oci = [sys.executable, "-m", "cove.runtime.oci.main", "--root", str(bundle.parent / "state")]
    subprocess.run([*oci, "spec", "--rootless"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["/bin/echo", "from", "elsewhere"], "terminal": False}
    for name in ("resources", "cgroupsPath"):
        config["linux"].pop(name, None)
    (bundle / "config.json").write_text(json.dumps(config))
    alone = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]
    words = [*alone, interpreter, *oci, "--cgroup-manager", "disabled", "run", "foreign"]
    done = subprocess.run(words, cwd=bundle, stdin=-3, capture_output=True, text=True, timeout=120 * PATIENCE)
    if done.returncode == 77:
        pytest.skip(f"this kernel has no binfmt_misc for each user namespace (Linux 6.7): {done.stderr.strip()}")
    return done


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed; it stands for the emulator")
def test_an_interpreter_that_the_kernel_knows_runs_it(bundle: Path) -> None:
    done = run(bundle, "/bin/busybox")
    assert (done.returncode, done.stdout) == (0, "from elsewhere\n"), done.stderr


def test_twin_without_one_the_reason_is_told(bundle: Path) -> None:
    done = run(bundle, "")
    assert done.returncode and "built for arm64" in done.stderr and "qemu-user-static" in done.stderr
