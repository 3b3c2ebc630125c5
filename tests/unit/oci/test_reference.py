"""References, digests and platforms: Docker's defaults and refusals."""

from __future__ import annotations

import pytest

from cove.errors import InvalidArgument
from cove.oci import digest as digests
from cove.oci.platform import Platform, best, preference
from cove.oci.reference import Reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("me/app", "docker.io/me/app:latest", "me/app:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:x_1", "localhost:5000/app:x_1", "localhost:5000/app:x_1"),
        ("[::1]:5000/a/b", "[::1]:5000/a/b:latest", "[::1]:5000/a/b:latest"),
        ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
        ("quay.io/a__b/c.d---e", "quay.io/a__b/c.d---e:latest", "quay.io/a__b/c.d---e:latest"),
        (f"a@sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}", f"a@sha256:{HEX}"),
        (f"a:t@sha256:{HEX}", f"docker.io/library/a:t@sha256:{HEX}", f"a:t@sha256:{HEX}"),
    ],
)
def test_parses(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (reference.full, reference.familiar) == (full, familiar)
    assert Reference.parse(familiar) == Reference.parse(full) == reference


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Foo", "repository name (library/Foo) must be lowercase"),
        ("quay.io/Foo:x", "repository name (Foo) must be lowercase"),
        (HEX, "cannot specify 64-byte hexadecimal strings"),
        ("a" * 256, "must not be more than 255 characters"),
        (f"a@sha512:{HEX}", "sha512 has 128"),
        *(
            (bad, "invalid reference format")
            for bad in ("", ":", "a:", "-a", "a//b", "a..b", "a:t:u", "a\n", "é", "a@x")
        ),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a/" * 5000, "invalid reference format"),
    ],
)
def test_refuses(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Reference.parse(text)
    assert words in caught.value.message


def test_bare_name_can_stay_bare() -> None:
    bare = Reference.parse("nginx", default_tag="")
    assert (bare.tag, bare.familiar, bare.or_latest().tag) == ("", "nginx", "latest")


def test_digest_verifier() -> None:
    verifier = digests.Verifier(digests.of(b"abc"))
    verifier.update(b"ab")
    assert not verifier.agrees()
    verifier.update(b"c")
    assert verifier.agrees() and verifier.length == 3
    for bad in ("md5:" + "0" * 32, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "sha256"):
        assert not digests.is_digest(bad)


def test_platform_spellings_and_order() -> None:
    assert str(Platform.parse("linux/aarch64/8")) == "linux/arm64"
    assert str(Platform.parse("x86_64")) == "linux/amd64"
    assert str(Platform.parse("linux/arm")) == "linux/arm/v7"
    with pytest.raises(InvalidArgument):
        Platform.parse("linux/a/b/c")
    with pytest.raises(InvalidArgument):
        Platform.parse("bogus")
    arm64, arm7, arm6 = (Platform.parse(f"linux/{name}") for name in ("arm64", "arm/v7", "arm/v6"))
    assert preference(arm64, arm64) == 0
    assert preference(arm6, arm7) is None
    assert best(arm64, [(arm6, 6), (arm7, 7)]) == 7
    assert best(Platform.parse("linux/amd64"), [(arm64, 1)]) is None
