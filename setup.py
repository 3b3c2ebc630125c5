"""Compiles the one program of Cove's that is not Python (src/cove/runtime/native/stub.c) into the package.

All else that is to be said of the package is in pyproject.toml. Without a C compiler the package is whole, and says
when it starts that containers begin at half the speed (docs/decisions/0015-stubs-and-outfitters.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

_FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-s"]


class BuildPrograms(build_ext):
    """An "extension" here is a program: nothing of Python's is linked, and its file has the bare name."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split("."))

    def build_extension(self, ext: Extension) -> None:
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        if compiler is None:
            raise CompileError(f"there is no C compiler for {ext.name}")
        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        for linking in (["-static"], []):  # some distributions have no static C library
            if not subprocess.call([*compiler.split(), *_FLAGS, *linking, "-o", target, *ext.sources]):
                return
        raise CompileError(f"{compiler} does not compile {ext.name}")


setup(
    ext_modules=[Extension("cove.runtime.native.stub", ["src/cove/runtime/native/stub.c"], optional=True)],
    cmdclass={"build_ext": BuildPrograms},
)
