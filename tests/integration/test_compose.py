"""docker-compose, as Debian packages it, brings up applications of several services."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Daemon
from tests.integration.debian_image import debian_archive, load
from tests.integration.test_names import Box

__all__ = ["debian_archive"]

pytestmark = [pytest.mark.root]

SMALL = """
version: "2.4"
services:
  db:
    image: busybox
    command: sh -c "echo kept >> /data/log; sleep 1; touch /tmp/ready; sleep 600"
    init: true
    volumes: ["data:/data"]
    networks: [back]
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ready"], interval: 200ms, retries: 50}
  api:
    image: busybox
    command: sleep 600
    init: true
    environment: {TIER: middle}
    networks: {front: {aliases: [backend]}, back: {}}
    depends_on: {db: {condition: service_healthy}}
  web:
    image: busybox
    command: httpd -f -p 80 -h /www
    volumes: ["./www:/www:ro"]
    ports: ["127.0.0.1:18188:80"]
    networks: [front]
    depends_on: [api]
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 10.96.201.0/24}]}}
volumes: {data: {}}
"""


class Project:
    """A directory with a docker-compose.yml."""

    def __init__(self, daemon: Daemon, root: Path) -> None:
        self.daemon, self.root = daemon, root

    def compose(self, *words: str, timeout: float = 100) -> str:
        environment = os.environ | {"DOCKER_HOST": self.daemon.host} | self.daemon.environment
        # What the packaged python3-docker speaks; a newer one elsewhere on the machine would speak the newest.
        environment["COMPOSE_API_VERSION"] = "1.41"
        done = subprocess.run(
            ["docker-compose", *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.daemon.log()}"
        return done.stdout + done.stderr


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Iterator[Project]:
    if shutil.which("docker-compose") is None:
        pytest.skip("the package docker-compose is not installed on this machine")
    root = tmp_path / "shop"
    root.mkdir()
    made = Project(daemon, root)
    yield made
    made.compose("down", "-v", "-t", "0")


def fetch(port: int, patience: float = 60 * PATIENCE) -> str:
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(
            [
                "python3",
                "-c",
                f"import urllib.request as u;print(u.urlopen('http://127.0.0.1:{port}/').read().decode())",
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0 or time.monotonic() > deadline:
            return done.stdout.strip()
        time.sleep(0.2)


def test_three_services_with_names_health_volumes_and_scaling(project: Project) -> None:
    daemon = project.daemon
    (project.root / "www").mkdir()
    (project.root / "www/index.html").write_text("welcome\n")
    (project.root / "docker-compose.yml").write_text(SMALL)
    project.compose("up", "-d")
    assert "healthy" in project.compose("ps")
    assert fetch(18188) == "welcome"
    web, api = Box(daemon, "shop_web_1"), Box(daemon, "shop_api_1")
    assert len(web.ask("backend").values) == 1 and web.ask("db").values == []
    assert api.ask("db").values[0].startswith("10.96.201.")
    project.compose("up", "-d", "--scale", "api=3")
    assert len(web.ask("api").values) == 3
    assert "shop_web_1 is up-to-date" in project.compose("up", "-d", "--scale", "api=3"), "nothing is made anew"
    project.compose("restart", "-t", "0", "web")
    assert fetch(18188) == "welcome"
    (project.root / "docker-compose.yml").write_text(SMALL.replace("TIER: middle", "TIER: upper"))
    assert "Recreating shop_api_1" in project.compose("up", "-d", "-t", "0"), "what changed is made anew"
    assert "TIER=upper" in daemon.docker("exec", "shop_api_1", "env").stdout
    project.compose("down", "-t", "0")
    assert "shop" not in daemon.docker("network", "ls").stdout + daemon.docker("ps", "-a").stdout
    project.compose("up", "-d", "db")
    assert daemon.docker("exec", "shop_db_1", "cat", "/data/log").stdout.count("kept") == 2, "the volume stayed"


REAL = """
version: "2.4"
services:
  db:
    image: debian:work
    command: ["/app/db.sh"]
    user: postgres
    volumes: ["data:/var/lib/postgresql", "./:/app:ro"]
    networks: [back]
    healthcheck: {test: ["CMD-SHELL", "/usr/lib/postgresql/*/bin/pg_isready -h localhost"], interval: 1s, retries: 60}
  api:
    image: debian:work
    command: ["python3", "/app/api.py"]
    stop_signal: SIGINT
    volumes: ["./:/app:ro"]
    environment: {DSN: "host=db user=postgres dbname=postgres"}
    networks: {front: {aliases: [backend]}, back: {}}
    depends_on: {db: {condition: service_healthy}}
  web:
    image: debian:work
    command: ["nginx", "-c", "/app/nginx.conf"]
    volumes: ["./:/app:ro"]
    ports: ["18189:80"]
    networks: [front]
    depends_on: [api]
networks: {front: {}, back: {internal: true}}
volumes: {data: {}}
"""
DATABASE = """#!/bin/sh
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH; D=/var/lib/postgresql/data
[ -d $D ] || { initdb -A trust -D $D >/dev/null; echo "host all all 0.0.0.0/0 trust" >> $D/pg_hba.conf; }
exec postgres -D $D -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
SERVICE = """
import os, socket, psycopg2
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with psycopg2.connect(os.environ["DSN"]) as connection, connection.cursor() as cursor:
            cursor.execute("create table if not exists hits(n serial)")
            cursor.execute("insert into hits default values returning n")
            number = cursor.fetchone()[0]
        self.send_response(200); self.end_headers()
        self.wfile.write(f"{socket.gethostname()} {number}".encode())
    def log_message(self, *_): pass
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
PROXY = """
daemon off; user www-data; pid /tmp/nginx.pid; error_log /dev/stderr; events {}
http { resolver 127.0.0.11 valid=1s; access_log off;
  server { listen 80; location / { set $up http://backend:8000; proxy_pass $up; } } }
"""


@pytest.mark.timeout(1800)
def test_a_real_application_web_service_and_database(project: Project, debian_archive: Path) -> None:
    load(project.daemon, debian_archive)
    for name, text in (
        ("docker-compose.yml", REAL),
        ("db.sh", DATABASE),
        ("api.py", SERVICE),
        ("nginx.conf", PROXY),
    ):
        (project.root / name).write_text(text)
    (project.root / "db.sh").chmod(0o755)
    project.compose("up", "-d", timeout=300)
    assert fetch(18189).endswith(" 1") and fetch(18189).endswith(" 2")
    project.compose("up", "-d", "--scale", "api=3")
    assert len({fetch(18189).split()[0] for _ in range(20)}) == 3
    project.compose("down")
    project.compose("up", "-d", timeout=300)
    assert int(fetch(18189).split()[1]) > 20, "the database's volume outlived its containers"
