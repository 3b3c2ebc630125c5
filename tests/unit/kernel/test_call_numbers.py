"""Numbers of system calls on every machine, this one or not: in the table of filters, and where calls are made."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from cove.kernel import operations, seccomp
from cove.kernel.operations import Operation

MACHINES = {"x86_64": "x86_64-linux-gnu-gcc", "aarch64": "aarch64-linux-gnu-gcc"}
"""Each with the compiler that has its kernel's headers."""
ELSEWHERE = """
import json, os, sys
os.uname = lambda: os.uname_result(("Linux", "box", "6.1.0", "", sys.argv[1]))
from cove.kernel import bpf, operations, process, syscalls
calls = {name: value for module in (bpf, process, syscalls) for name, value in vars(module).items()}
print(json.dumps({name[4:].lower(): value for name, value in calls.items() if name.startswith("_NR_")}))
samples = [eval(each, vars(operations)) for each in json.loads(sys.argv[2])]
print(json.dumps([[each.name, each.call] for each in samples]))
"""
SAMPLES = {
    "write": '(0, b"")',
    "discard": "(0)",
    "duplicate": "(0, 1)",
    "ioctl": "(0, 0, 0)",
    "change_directory": "(0)",
    "new_session": "()",
    "join_session_keyring": '("")',
    "setns": "(0, 0)",
    "open_filesystem": '("proc")',
    "unshare": "(0)",
    "prctl": "(0)",
    "personality": "(0)",
    "setgroups": "([])",
    "setresgid": "(0)",
    "setresuid": "(0)",
    "capset": "(0, 0, 0)",
    "seccomp_filter": '(b"")',
    "default_signal": "(1)",
    "unblock_signals": "()",
    "umask": "(0)",
    "execve": '("", [], {})',
    "leave": "(0)",
}


def test_every_operation_has_a_sample() -> None:
    made = {name for name, each in vars(operations).items() if getattr(each, "__annotations__", {}).get("return")
            in ("Operation", Operation)}  # fmt: skip
    assert made == {*SAMPLES, "split"}, "which is no system call"


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_are_made_by_the_numbers_of_the_machine(machine: str) -> None:
    known = seccomp.numbers()[machine]
    samples = json.dumps([f"{name}{words}" for name, words in SAMPLES.items()])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, machine, samples], capture_output=True, text=True, check=True
    )
    constants, performed = map(json.loads, done.stdout.splitlines())
    assert len(constants) > 15
    assert {name: known.get(name) for name in constants} == constants
    assert [[name, known.get(name)] for name, _ in performed] == performed


@pytest.mark.parametrize("machine", MACHINES)
def test_the_table_has_the_numbers_of_the_kernels_headers(machine: str) -> None:
    compiler = shutil.which(MACHINES[machine])
    if compiler is None:
        pytest.skip(f"{MACHINES[machine]} is not installed, and with it the kernel's headers for {machine}")
    text = "#include <asm/unistd.h>\n"
    done = subprocess.run([compiler, "-E", "-dM", "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"there are no kernel headers for {machine}: {done.stderr.splitlines()[-1]}")
    headers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\n", done.stdout)}
    known = seccomp.numbers()[machine]
    both = headers.keys() & known.keys()
    assert len(both) > 250
    assert {name: known[name] for name in both} == {name: headers[name] for name in both}
