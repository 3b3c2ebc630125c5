"""Whole Dockerfiles of the kinds that people have: each is built and its result is run.

They stand on images of Debian's packages (`debian_image`).
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest

from tests.conftest import Daemon, eventually, new_daemon
from tests.integration.debian_image import debian_archive, load, node_archive
from tests.integration.test_build_command import serving

__all__ = ["debian_archive", "node_archive"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def debian(debian_archive: Path) -> Iterator[Daemon]:
    """A daemon with the image debian:work."""
    daemon = new_daemon()
    daemon.start()
    try:
        load(daemon, debian_archive)
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(daemon.root, ignore_errors=True)


def built(daemon: Daemon, where: Path, files: dict[str, str | bytes], *words: str) -> str:
    """Build the files as a context; the image's id."""
    for name, content in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return daemon.cove("build", "-q", *words, str(where), timeout=300).stdout.strip()


def run(daemon: Daemon, image: str, *words: str) -> str:
    return daemon.cove("run", "--rm", "--network", "none", image, *words).stdout


def wheel() -> bytes:
    """A tiny package as pip installs it."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("greeting/__init__.py", "def greet(): return 'hello from a wheel'\n")
        archive.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        archive.writestr(
            "greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("greeting-1.0.dist-info/RECORD", "")
    return raw.getvalue()


def test_python_with_a_pip_cache_mount(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """# syntax=docker/dockerfile:1
FROM debian:work
ENV PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /app
COPY requirements.txt wheels/ ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-index --find-links . -r requirements.txt
COPY . .
USER nobody
CMD ["python3", "main.py"]
"""
    files: dict[str, str | bytes] = {
        "Dockerfile": dockerfile,
        "requirements.txt": "greeting==1.0\n",
        "wheels/greeting-1.0-py3-none-any.whl": wheel(),
        "main.py": "import greeting, os; print(greeting.greet(), os.getuid())\n",
    }
    assert run(debian, built(debian, tmp_path, files)) == "hello from a wheel 65534\n"


def package(name: str, version: str, **files: str) -> bytes:
    """A package as npm packs it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        described = json.dumps({"name": name, "version": version, "main": "index.js"})
        for path, text in {"package.json": described, **files}.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return raw.getvalue()


def test_node_with_npm(debian: Daemon, node_archive: Path, tmp_path: Path) -> None:
    """What npm installs comes out of a package as a registry has it, without a registry."""
    load(debian, node_archive)
    dockerfile = """FROM debian:node AS deps
WORKDIR /app
COPY package*.json ./
COPY vendor ./vendor
RUN --mount=type=cache,target=/root/.npm npm install --offline --no-audit --no-fund --omit=dev
FROM debian:node
ENV NODE_ENV=production
WORKDIR /app
COPY --from=deps /app/node_modules ./node_modules
COPY lib ./lib
COPY server.js .
USER nobody
ENTRYPOINT ["node"]
CMD ["server.js"]
"""
    dependencies = {"greeting": "file:vendor/greeting-1.0.0.tgz"}
    files: dict[str, str | bytes] = {
        "Dockerfile": dockerfile,
        "package.json": json.dumps({"name": "app", "version": "1.0.0", "dependencies": dependencies}),
        "vendor/greeting-1.0.0.tgz": package(
            "greeting", "1.0.0", **{"index.js": "module.exports = 'from a package';"}
        ),
        "lib/index.js": "module.exports = require('greeting') + ' for ' + process.getuid();",
        "server.js": "console.log(require('./lib'));",
    }
    assert run(debian, built(debian, tmp_path, files)) == "from a package for 65534\n"


def test_nginx_with_a_static_site(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
RUN rm -rf /var/www/html/* && ln -sf /dev/stdout /var/log/nginx/access.log
COPY site/ /var/www/html/
EXPOSE 80
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s CMD test -e /run/nginx.pid
CMD ["nginx", "-g", "daemon off;"]
"""
    image = built(debian, tmp_path, {"Dockerfile": dockerfile, "site/index.html": "<h1>static</h1>"})
    debian.cove("run", "-d", "--name", "site", image)
    try:
        fetch = "import urllib.request, sys; print(urllib.request.urlopen('http://127.0.0.1/').read().decode())"
        words = ("exec", "site", "python3", "-c", fetch)
        assert eventually(lambda: debian.cove(*words, check=False).stdout.strip() == "<h1>static</h1>")
    finally:
        debian.cove("rm", "-f", "site")


def test_c_in_several_stages(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """ARG BASE=debian:work
FROM ${BASE} AS build
ARG CFLAGS="-O2 -Wall"
WORKDIR /src
COPY *.c *.h ./
RUN gcc $CFLAGS -c -o util.o util.c && gcc $CFLAGS -o app main.c util.o
FROM build AS test
RUN ./app | grep -q 42
FROM ${BASE}
COPY --from=build --chmod=0555 /src/app /usr/local/bin/
CMD ["app"]
"""
    files: dict[str, str | bytes] = {
        "Dockerfile": dockerfile,
        "main.c": '#include <stdio.h>\n#include "util.h"\nint main(void) { printf("%d\\n", answer()); return 0; }\n',
        "util.c": '#include "util.h"\nint answer(void) { return 42; }\n',
        "util.h": "int answer(void);\n",
    }
    assert run(debian, built(debian, tmp_path, files)) == "42\n"
    assert built(debian, tmp_path, {}, "--target", "test")


def test_a_static_program_from_scratch(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work AS build
WORKDIR /go/src/app
COPY main.c .
RUN --mount=type=cache,target=/root/.cache/build mkdir -p /go/bin && gcc -static -s -o /go/bin/app main.c
FROM scratch
COPY --from=build /go/bin/app /app
USER 1000:1000
ENTRYPOINT ["/app"]
"""
    main = (
        '#include <stdio.h>\n#include <unistd.h>\nint main(int n, char **v) {printf("%d %s\\n", getuid(), v[1]);}\n'
    )
    image = built(debian, tmp_path, {"Dockerfile": dockerfile, "main.c": main})
    assert run(debian, image, "argument") == "1000 argument\n"


def test_packages_are_installed_without_waiting_for_the_disk(debian: Daemon) -> None:
    assert "force-unsafe-io" in run(debian, "debian:work", "sh", "-c", "cat /etc/dpkg/dpkg.cfg.d/*")


def test_debian_with_apt_cache_mounts(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
RUN echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' > /etc/apt/apt.conf.d/keep
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \\
    apt-get update && apt-get install -y --no-install-recommends hello
CMD ["hello"]
"""
    (tmp_path / "Dockerfile").write_text(dockerfile)
    done = debian.cove("build", "-t", "apt", str(tmp_path), check=False, timeout=300)
    if done.returncode and any(
        word in done.stderr for word in ("resolving", "Could not connect", "Unable to locate")
    ):
        pytest.skip("the containers reach no Debian mirror from here")
    assert done.returncode == 0, done.stderr[-2000:]
    assert run(debian, "apt") == "Hello, world!\n"
    assert "hello" not in run(debian, "apt", "ls", "-R", "/var/cache/apt")  # what lay in the mount is in no layer


def test_an_onbuild_base(debian: Daemon, tmp_path: Path) -> None:
    base = (
        "FROM debian:work\nWORKDIR /app\nONBUILD COPY . .\nONBUILD RUN python3 -m compileall -q .\n"
        "CMD python3 main.py\n"
    )
    built(debian, tmp_path / "base", {"Dockerfile": base}, "-t", "onbuild:1")
    files: dict[str, str | bytes] = {"Dockerfile": "FROM onbuild:1\n", "main.py": "print('triggered')\n"}
    image = built(debian, tmp_path / "app", files)
    assert run(debian, image) == "triggered\n" and "__pycache__" in run(debian, image, "ls", "/app")


def test_scripts_in_heredocs(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
ENV NAME=here
RUN <<EOF
set -e
mkdir /made
echo "by sh" > /made/sh
EOF
RUN <<EOF
#!/usr/bin/env python3
open("/made/python", "w").write("by python")
EOF
COPY <<-TEXT /made/expanded
	$NAME and ${UNSET:-default}
	TEXT
COPY <<"RAW" <<OTHER /made/
$NAME
RAW
second
OTHER
RUN cat <<A /dev/stdin <<B > /made/last && echo done
first
A
last
B
CMD cat /made/*
"""
    told = run(debian, built(debian, tmp_path, {"Dockerfile": dockerfile}))
    assert told == "second\n$NAME\nhere and default\nlast\nby pythonby sh\n"


def test_a_user_and_volumes(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
RUN groupadd -g 3000 app && useradd -u 3000 -g app -m app && mkdir /data && chown app:app /data
USER app
WORKDIR /home/app
RUN touch mine && echo first > /data/seed
COPY --chown=app:app conf .
VOLUME ["/data"]
CMD stat -c '%U %n' mine conf /data /data/seed
"""
    told = run(debian, built(debian, tmp_path, {"Dockerfile": dockerfile, "conf": "x"}))
    assert told == "app mine\napp conf\napp /data\napp /data/seed\n"


class _Private(BaseHTTPRequestHandler):
    """Gives one file to whoever shows the token."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer s3cret"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(b"print('downloaded')" if allowed else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_private_download_with_a_secret(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
ARG FROM
COPY fetch.py /
RUN --mount=type=secret,id=token,required python3 /fetch.py $FROM /run/secrets/token > /got.py
CMD python3 /got.py
"""
    fetch = (
        "import sys, urllib.request as u\n"
        "asked = u.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + open(sys.argv[2]).read()})\n"
        "print(u.build_opener(u.ProxyHandler({})).open(asked, timeout=60).read().decode())\n"
    )
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "wrong").write_text("guessed")
    files: dict[str, str | bytes] = {"Dockerfile": dockerfile, "fetch.py": fetch}
    gateway = debian.cove("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge").stdout.strip()
    with ThreadingHTTPServer((gateway, 0), _Private) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            words = ("--build-arg", f"FROM=http://{gateway}:{server.server_port}/private")
            image = built(debian, tmp_path / "c", files, "--secret", f"id=token,src={tmp_path}/token", *words)
            refused = (
                "build",
                "--no-cache",
                *words,
                "--secret",
                f"id=token,src={tmp_path}/wrong",
                str(tmp_path / "c"),
            )
            told = debian.cove(*refused, check=False)
        finally:
            server.shutdown()
            thread.join()
    assert run(debian, image) == "downloaded\n"
    assert told.returncode and "401" in told.stderr
    assert "s3cret" not in debian.cove("history", "--no-trunc", image).stdout
    assert "s3cret" not in run(debian, image, "cat", "/fetch.py", "/got.py")


def test_a_git_context(debian: Daemon, tmp_path: Path) -> None:
    """A branch's subdirectory of a repository that a server of plain files has."""
    where = tmp_path / "work"
    (where / "app").mkdir(parents=True)
    (where / "app/Dockerfile").write_text("FROM debian:work\nCOPY main.py .\nCMD python3 main.py\n")
    (where / "app/main.py").write_text("print('from the branch')\n")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(where))
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    for words in (("add", "."), ("commit", "-qm", "one"), ("branch", "release")):
        subprocess.run([*git, *words], check=True)
    (where / "app/main.py").write_text("print('from main')\n")
    subprocess.run([*git, "commit", "-qam", "two"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(where), str(tmp_path / "served/app.git")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "served/app.git"), "update-server-info"], check=True)
    with serving(tmp_path / "served") as address:
        for reference, said in (("release:app", "from the branch"), (":app", "from main")):
            image = debian.cove("build", "-q", f"{address}/app.git#{reference}", timeout=300).stdout.strip()
            assert run(debian, image) == f"{said}\n"
        client = docker.APIClient(base_url=debian.host)
        told = list(client.build(path=f"{address}/app.git#release:app", tag="by-the-api", decode=True))
    assert "error" not in told[-1] and run(debian, "by-the-api") == "from the branch\n"


def test_a_remote_archive_with_a_checksum(debian: Daemon, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "inside").mkdir()
    archive = str(tmp_path / "served/s.tar.gz")
    subprocess.run(["tar", "-C", str(tmp_path), "-czf", archive, "inside"], check=True)
    digest = subprocess.run(["sha256sum", archive], capture_output=True, text=True).stdout
    with serving(tmp_path / "served") as address:
        dockerfile = f"""FROM debian:work
ADD --checksum=sha256:{digest.split()[0]} --unpack {address}/s.tar.gz /opt/
ADD {address}/s.tar.gz /as-it-is/
CMD ls /opt /as-it-is
"""
        told = run(debian, built(debian, tmp_path / "c", {"Dockerfile": dockerfile}))
    assert told == "/as-it-is:\ns.tar.gz\n\n/opt:\ninside\n"


def test_a_monorepo_with_an_ignore_file(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
WORKDIR /repo
COPY --parents services/*/main.py shared/ ./
COPY --exclude=*.md docs docs
CMD find . -type f | sort
"""
    files: dict[str, str | bytes] = {
        "services/api/Dockerfile": dockerfile,
        "services/api/Dockerfile.dockerignore": "**/node_modules\n**/*.log\n!keep.log\nshared/secret*\n",
        "services/api/main.py": "1",
        "services/api/node_modules/x/main.py": "1",
        "services/web/main.py": "1",
        "shared/lib.py": "1",
        "shared/secret.txt": "1",
        "shared/debug.log": "1",
        "docs/a.md": "1",
        "docs/b.txt": "1",
    }
    image = built(debian, tmp_path, files, "-f", str(tmp_path / "services/api/Dockerfile"))
    found = "./docs/b.txt\n./services/api/main.py\n./services/web/main.py\n./shared/lib.py\n"
    assert run(debian, image) == found


def test_arguments_platforms_and_another_shell(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """ARG TAG=work
FROM --platform=$BUILDPLATFORM debian:$TAG
ARG TARGETARCH
ARG VERSION=1.2.3
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN [[ -n "$TARGETARCH" ]] && echo "${VERSION%.*} for $TARGETARCH" | tee /version
LABEL org.example.version="${VERSION}" org.example.major="${VERSION%%.*}"
CMD cat /version
"""
    image = built(debian, tmp_path, {"Dockerfile": dockerfile}, "--build-arg", "VERSION=4.5.6")
    assert run(debian, image).startswith("4.5 for ")
    assert debian.cove("inspect", "-f", "{{json .Config.Labels}}", image).stdout.count("4") == 2
