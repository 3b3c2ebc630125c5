"""Groups of resctrl, on a directory that stands for it: what is written where, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cove.kernel import syscalls
from cove.oci.spec import IntelRdt
from cove.runtime.child import resctrl
from cove.runtime.child.common import Failure


@pytest.fixture
def mounted(tmp_path: Path) -> tuple[str, int]:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        return str(tmp_path), syscalls.filesystem_magic(fd)
    finally:
        os.close(fd)


def group(root: str, name: str) -> Path:
    """A group as the kernel would make it: with its files."""
    made = Path(root, name)
    (made / "mon_groups").mkdir(parents=True)
    for file in ("schemata", "tasks"):
        (made / file).touch()
    return made


def test_a_group_of_a_name_gets_schemata_and_task(mounted: tuple[str, int]) -> None:
    made = group(mounted[0], "gold")
    wanted = IntelRdt(clos_id="gold", schemata=("L2:0=1",), l3_cache_schema="L3:0=f", mem_bw_schema="MB:0=50")
    resctrl.apply("ctr", wanted, 42, root=mounted[0], magic=mounted[1])
    assert (made / "tasks").read_text() == "42\n" and (made / "schemata").read_text() == "MB:0=50\n"


def test_without_a_name_the_group_is_the_containers_and_goes_with_it(mounted: tuple[str, int]) -> None:
    with pytest.raises(Failure, match="tasks"):  # an ordinary directory has no such file
        resctrl.apply("ctr", IntelRdt(), 42, root=mounted[0], magic=mounted[1])
    assert Path(mounted[0], "ctr").is_dir()
    resctrl.remove("ctr", root=mounted[0])
    assert not Path(mounted[0], "ctr").exists()
    resctrl.remove("ctr", root=mounted[0])


@pytest.mark.parametrize("name", ["..", "a/b", "info", "mon_groups"])
def test_names_that_are_none(mounted: tuple[str, int], name: str) -> None:
    with pytest.raises(Failure, match="closID"):
        resctrl.apply("ctr", IntelRdt(clos_id=name), 42, root=mounted[0], magic=mounted[1])


def test_what_is_no_resctrl_is_refused(mounted: tuple[str, int]) -> None:
    with pytest.raises(Failure, match="no resctrl is mounted"):
        resctrl.apply("ctr", IntelRdt(), 42, root=mounted[0])
