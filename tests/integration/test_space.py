"""Space: what df says is what du says, what prune says it freed is free, and nothing in use is ever lost."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

from tests.conftest import Daemon, eventually
from tests.integration.distribution_world import layer_tar, noise
from tests.integration.registry_world import serving

MIB = 1 << 20


def du(*paths: Path) -> int:
    done = subprocess.run(["du", "-s", "-B1", *paths], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(paths), done.stderr  # it fails, too, where something went meanwhile
    return sum(int(line.split()[0]) for line in done.stdout.splitlines())


def usage(daemon: Daemon) -> dict[str, object]:
    done = subprocess.run(
        ["curl", "-s", "--unix-socket", daemon.run / "cove.sock", "http://d/system/df"],
        capture_output=True,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def add_image(daemon: Daemon, name: str, size: int, seed: int, *, base: str = "") -> None:
    """An image of one file that does not compress; on `base` if there is one."""
    if base:
        daemon.cove("create", "--name", "made", base, "true")
        file = daemon.root / "file"
        file.write_bytes(noise(size, seed))
        daemon.cove("cp", str(file), f"made:/file{seed}")
        daemon.cove("commit", "made", name)
        daemon.cove("rm", "made")
        return
    archive = daemon.root / "image.tar"
    archive.write_bytes(layer_tar("file", noise(size, seed)))
    daemon.cove("import", str(archive), name)


def test_df_is_what_du_says(own_daemon: Daemon) -> None:
    add_image(own_daemon, "one", 3 * MIB, 1)
    add_image(own_daemon, "two", 2 * MIB, 2, base="one")
    found = usage(own_daemon)
    total = int(found["ImageUsage"]["TotalSize"])  # type: ignore[index]
    on_disk = du(own_daemon.data / "image", own_daemon.data / "layers")
    assert abs(total - on_disk) < 0.02 * on_disk + 200_000
    images = {image["RepoTags"][0]: image for image in found["Images"] if image["RepoTags"]}  # type: ignore[attr-defined]
    shared = images["one:latest"]["SharedSize"]
    assert shared == images["two:latest"]["SharedSize"] >= 3 * MIB
    assert images["two:latest"]["Size"] - shared >= 2 * MIB
    assert images["one:latest"]["Size"] - shared < MIB
    own_daemon.cove("run", "--name", "user", "busybox", "true")
    found = usage(own_daemon)["ImageUsage"]
    busybox = images["busybox:latest"]
    reclaimable = found["TotalSize"] - (busybox["Size"] - busybox["SharedSize"])  # type: ignore[index]
    assert abs(int(found["Reclaimable"]) - int(reclaimable)) < 100_000  # type: ignore[index]
    assert (
        "ACTIVE" in own_daemon.cove("system", "df").stdout
        and "UNIQUE" in own_daemon.cove("system", "df", "-v").stdout
    )
    assert (
        "RECLAIMABLE" in own_daemon.docker("system", "df").stdout and own_daemon.docker("system", "df", "-v").stdout
    )


def test_prune_frees_what_it_says(own_daemon: Daemon) -> None:
    add_image(own_daemon, "keep", 2 * MIB, 3)
    add_image(own_daemon, "drop", 4 * MIB, 4)
    own_daemon.cove("run", "--name", "user", "keep", "true", check=False)
    before = du(own_daemon.data / "image", own_daemon.data / "layers")
    client_said = own_daemon.docker("image", "prune", "-af", "--filter", "label!=none").stdout
    freed = before - du(own_daemon.data / "image", own_daemon.data / "layers")
    assert freed >= 4 * MIB
    said = usage(own_daemon)["ImageUsage"]["TotalSize"]  # type: ignore[index]
    assert abs(int(said) - (before - freed)) < 300_000 and "MB" in client_said
    assert own_daemon.cove("images", "--format", "{{.Repository}}").stdout.split() == ["keep"]


def test_an_image_that_containers_were_made_of_is_freed_with_them(own_daemon: Daemon) -> None:
    identity = own_daemon.docker("create", "busybox", "true").stdout.strip()
    own_daemon.docker("rm", identity)
    own_daemon.docker("image", "prune", "-af")
    assert list((own_daemon.data / "layers").iterdir()) == []


def test_keep_storage_takes_the_longest_unused_first(own_daemon: Daemon) -> None:
    for number in range(4):
        add_image(own_daemon, f"n{number}", 3 * MIB, 10 + number)
    own_daemon.cove("create", "--name", "use", "n0", "x")
    own_daemon.cove("rm", "use")  # n0 was used last
    total = int(usage(own_daemon)["ImageUsage"]["TotalSize"])  # type: ignore[index]
    own_daemon.cove("rmi", "busybox")
    own_daemon.cove("image", "prune", "-af", "--keep-storage", str(total * 2))
    assert len(own_daemon.cove("images", "-q").stdout.split()) == 4
    own_daemon.cove("image", "prune", "-af", "--keep-storage", "14m")
    assert sorted(own_daemon.cove("images", "--format", "{{.Repository}}").stdout.split()) == ["n0", "n3"]
    own_daemon.cove("image", "prune", "-af", "--unused-for", "1h")
    assert len(own_daemon.cove("images", "-q").stdout.split()) == 2


def test_leftovers_of_an_interrupted_operation_go_at_the_next_start(own_daemon: Daemon) -> None:
    before = du(own_daemon.data)
    for place in ("image/ingest/abc", "layers/.abc/file", "tmp/removed-x/file", "volumes/.gone-x/file"):
        path = own_daemon.data / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(MIB))
    (own_daemon.data / "image" / "blobs" / "sha256" / ("0" * 64)).write_bytes(noise(MIB))
    own_daemon.kill()
    own_daemon.start()
    places = [own_daemon.data / each for each in ("image", "layers", "tmp")]
    assert eventually(lambda: du(*places) < before + 200_000)
    assert own_daemon.cove("run", "--rm", "busybox", "echo", "well").stdout == "well\n"


def test_a_limit_for_all_images(own_daemon: Daemon, tmp_path: Path) -> None:
    total = int(usage(own_daemon)["ImageUsage"]["TotalSize"])  # type: ignore[index]
    own_daemon.stop()
    config = tmp_path / "daemon.toml"
    config.write_text(f'image_limit = "{total // 1024 + 3000}k"\n')
    own_daemon.extra = (*own_daemon.extra, "--config", str(config))
    own_daemon.start()
    archive = tmp_path / "image.tar"
    archive.write_bytes(layer_tar("file", noise(4 * MIB, 5)))
    refused = own_daemon.cove("import", str(archive), "big", check=False)
    assert refused.returncode == 1 and "image_limit" in refused.stderr
    assert du(own_daemon.data / "image", own_daemon.data / "layers") < total + 6 * MIB
    assert own_daemon.cove("run", "--rm", "busybox", "echo", "well").stdout == "well\n"


def test_pulls_removals_and_runs_at_once_lose_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    """Everybody pulls, runs and removes images that share layers, while prune sweeps."""
    failures: list[str] = []
    with serving(tmp_path / "registry") as registry:
        for number in range(3):
            own_daemon.cove("create", "--name", "made", "busybox", "true")
            file = tmp_path / "file"
            file.write_bytes(noise(50_000, number))
            own_daemon.cove("cp", str(file), "made:/own")
            own_daemon.cove("commit", "made", f"{registry.host}/team/app:{number}")
            own_daemon.cove("rm", "made")
            own_daemon.cove("push", "-q", f"{registry.host}/team/app:{number}")
            own_daemon.cove("rmi", f"{registry.host}/team/app:{number}")
        stop = threading.Event()

        def user(number: int) -> None:
            name = f"{registry.host}/team/app:{number}"
            for _ in range(4):
                done = own_daemon.cove("pull", "-q", name, check=False)
                if done.returncode:
                    failures.append(f"pull: {done.stderr}")
                done = own_daemon.cove("run", "--rm", name, "wc", "-c", "/own", check=False)
                gone = "No such image" in done.stderr or "no such image" in done.stderr
                if not gone and (done.returncode or "50000" not in done.stdout):
                    failures.append(f"run: {done.stderr}")
                own_daemon.cove("rmi", "-f", name, check=False)

        def sweeper() -> None:
            while not stop.is_set():
                done = own_daemon.cove("image", "prune", "-af", "--filter", "label!=kept", check=False)
                if done.returncode:
                    failures.append(f"prune: {done.stderr}")
                time.sleep(0.05)

        users = [threading.Thread(target=user, args=(number,)) for number in range(3)]
        sweep = threading.Thread(target=sweeper)
        for thread in (*users, sweep):
            thread.start()
        for thread in users:
            thread.join()
        stop.set()
        sweep.join()
        assert not failures
        own_daemon.cove("pull", "-q", f"{registry.host}/team/app:1")
        assert "50000" in own_daemon.cove("run", "--rm", f"{registry.host}/team/app:1", "wc", "-c", "/own").stdout
        assert "Traceback" not in own_daemon.log()
