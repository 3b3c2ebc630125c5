"""Whole Dockerfiles of the kinds that people have: each is built and its result is run.

They stand on one image of Debian's packages (`debian_image`); with npm in it the Node case runs too.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, new_daemon
from tests.integration.debian_image import debian_archive, load
from tests.integration.test_build_command import serving

__all__ = ["debian_archive"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


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


def test_node_with_npm(debian: Daemon, tmp_path: Path) -> None:
    if "npm" not in run(debian, "debian:work", "ls", "/usr/bin").split():
        pytest.skip("the image has no npm, whose packages take minutes to unpack")
    dockerfile = """FROM debian:work AS deps
WORKDIR /app
COPY package*.json ./
COPY lib ./lib
RUN --mount=type=cache,target=/root/.npm npm install --offline --no-audit --no-fund
FROM debian:work
ENV NODE_ENV=production
WORKDIR /app
COPY --from=deps /app/node_modules ./node_modules
COPY lib ./lib
COPY server.js .
ENTRYPOINT ["node"]
CMD ["server.js"]
"""
    files: dict[str, str | bytes] = {
        "Dockerfile": dockerfile,
        "package.json": '{"name": "app", "version": "1.0.0", "dependencies": {"lib": "file:./lib"}}',
        "lib/package.json": '{"name": "lib", "version": "1.0.0", "main": "index.js"}',
        "lib/index.js": "module.exports = 'from a module';",
        "server.js": "console.log(require('lib'));",
    }
    assert run(debian, built(debian, tmp_path, files)) == "from a module\n"


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
        for _ in range(50):
            done = debian.cove("exec", "site", "python3", "-c", fetch, check=False)
            if not done.returncode:
                break
            time.sleep(0.1)
        assert done.stdout.strip() == "<h1>static</h1>"
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


def test_a_private_download_with_a_secret(debian: Daemon, tmp_path: Path) -> None:
    dockerfile = """FROM debian:work
COPY fetch.py /
RUN --mount=type=secret,id=token,required python3 /fetch.py > /got
CMD cat /got
"""
    fetch = "import hashlib; print(hashlib.sha256(open('/run/secrets/token','rb').read()).hexdigest()[:8])\n"
    (tmp_path / "token").write_text("s3cret")
    files: dict[str, str | bytes] = {"Dockerfile": dockerfile, "fetch.py": fetch}
    image = built(debian, tmp_path / "c", files, "--secret", f"id=token,src={tmp_path}/token")
    assert run(debian, image) == "1ec1c26b\n"
    assert "s3cret" not in debian.cove("history", "--no-trunc", image).stdout


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
