"""The distribution-spec's requirements, endpoint by endpoint, against `cove registry serve`.

Each test is named after the endpoint in the specification's table ("end-2" and so on).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.registry_world import (
    OCI_INDEX,
    OCI_MANIFEST,
    Serving,
    descriptor,
    digest_of,
    serving,
)

ABSENT = digest_of(b"never pushed")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("registry")) as found:
        yield found


def test_end_1_says_that_it_is_a_registry(registry: Serving) -> None:
    answer = registry.get("/v2/")
    assert answer.status == 200 and answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert registry.get("/v2").status == 200


def test_end_2_blobs_whole_in_part_and_not_at_all(registry: Serving) -> None:
    data = bytes(range(256)) * 40
    digest = registry.push_blob("two/blobs", data)
    path = f"/v2/two/blobs/blobs/{digest}"
    answer, head = registry.get(path), registry.head(path)
    assert answer.status == head.status == 200 and answer.body == data and head.body == b""
    assert head.headers["content-length"] == answer.headers["content-length"] == str(len(data))
    assert head.headers["docker-content-digest"] == answer.headers["docker-content-digest"] == digest
    part = registry.get(path, Range="bytes=100-199")
    assert part.status == 206 and part.body == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    assert registry.get(path, Range="bytes=10000-").body == data[10000:]
    assert registry.get(path, Range="bytes=-7").body == data[-7:]
    beyond = registry.get(path, Range="bytes=99999-")
    assert beyond.status == 416 and beyond.headers["content-range"] == f"bytes */{len(data)}"
    assert registry.get(path, Range="bytes=1-2,4-5").status == 200  # several parts: the whole may be sent
    assert registry.get(path, If_None_Match=f'"{digest}"').status == 304
    for missing in (f"/v2/two/blobs/blobs/{ABSENT}", f"/v2/two/other/blobs/{digest}"):
        assert registry.get(missing).code == "BLOB_UNKNOWN" and registry.head(missing).status == 404
    assert registry.get("/v2/two/blobs/blobs/sha256:nothex").code == "DIGEST_INVALID"


def test_end_3_manifests_by_tag_and_digest(registry: Serving) -> None:
    digest, raw = registry.push_image("three/app", "v1", [b"layer"])
    for which in ("v1", digest):
        answer, head = (
            registry.get(f"/v2/three/app/manifests/{which}"),
            registry.head(f"/v2/three/app/manifests/{which}"),
        )
        assert answer.status == head.status == 200 and answer.body == raw
        assert answer.headers["content-type"] == OCI_MANIFEST
        assert head.headers["docker-content-digest"] == digest and head.headers["content-length"] == str(len(raw))
    assert registry.get("/v2/three/app/manifests/v2").code == "MANIFEST_UNKNOWN"
    assert registry.head(f"/v2/three/app/manifests/{ABSENT}").status == 404
    assert registry.get("/v2/three/none/manifests/v1").status == 404
    assert registry.get("/v2/three/app/manifests/-bad").status == 400


def test_end_4_uploads_at_once(registry: Serving) -> None:
    data = b"all at once"
    answer = registry.call("POST", f"/v2/four/app/blobs/uploads/?digest={digest_of(data)}", data)
    assert answer.status == 201 and answer.headers["location"].endswith(digest_of(data))
    wrong = registry.call("POST", f"/v2/four/app/blobs/uploads/?digest={ABSENT}", data)
    assert wrong.status == 400 and wrong.code == "DIGEST_INVALID"
    assert registry.head(f"/v2/four/app/blobs/{ABSENT}").status == 404
    empty = registry.push_blob("four/app", b"")
    assert registry.get(f"/v2/four/app/blobs/{empty}").body == b""
    long = digest_of(data, "sha512")
    assert registry.call("POST", f"/v2/four/app/blobs/uploads/?digest={long}", data).status == 201
    assert registry.get(f"/v2/four/app/blobs/{long}").body == data
    assert registry.call("POST", "/v2/Four/app/blobs/uploads/").code == "NAME_INVALID"


def test_end_5_and_6_uploads_in_chunks(registry: Serving) -> None:
    data = bytes(range(200))
    begun = registry.call("POST", "/v2/five/app/blobs/uploads/")
    assert begun.status == 202
    place = begun.headers["location"]
    first = registry.call("PATCH", place, data[:50], Content_Range="0-49", Content_Type="application/octet-stream")
    assert first.status == 202 and first.headers["range"] == "0-49"
    place = first.headers["location"]
    twice = registry.call("PATCH", place, data[:50], Content_Range="0-49")
    assert twice.status == 416 and twice.headers["range"] == "0-49" and twice.headers["location"]
    assert registry.call("PATCH", place, data[60:70], Content_Range="60-69").status == 416
    assert registry.call("PATCH", place, b"x", Content_Range="fifty").status == 400
    status = registry.get(place)
    assert status.status == 204 and status.headers["range"] == "0-49"
    assert registry.call("PATCH", place, data[50:150]).headers["range"] == "0-149"
    digest = digest_of(data)
    late = registry.call("PUT", f"{place}?digest={digest}", data[140:], Content_Range="140-199")
    assert late.status == 416
    done = registry.call("PUT", f"{place}?digest={digest}", data[150:], Content_Range="150-199")
    assert done.status == 201 and done.headers["docker-content-digest"] == digest
    assert registry.get(done.headers["location"]).body == data
    assert registry.get(place).code == "BLOB_UPLOAD_UNKNOWN"


def test_end_6_refuses_what_is_not_its_digest(registry: Serving) -> None:
    place = registry.call("POST", "/v2/six/app/blobs/uploads/").headers["location"]
    assert registry.call("PUT", place, b"data").status == 400  # no digest at all
    assert registry.call("PUT", f"{place}?digest={ABSENT}", b"data").code == "DIGEST_INVALID"
    assert registry.head(f"/v2/six/app/blobs/{ABSENT}").status == 404
    other = registry.call("POST", "/v2/six/app/blobs/uploads/").headers["location"].replace("six/app", "six/other")
    assert registry.call("PATCH", other, b"x").status == 404  # an upload belongs to its repository


def test_end_7_manifests_are_kept_as_they_came(registry: Serving) -> None:
    config, layer = registry.push_blob("seven/app", b"{}"), b"layer of seven"
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/x-custom", "digest": config, "size": 2},
        "layers": [descriptor("application/x-thing", layer)],
    }
    missing = registry.call("PUT", "/v2/seven/app/manifests/v1", json.dumps(document), Content_Type=OCI_MANIFEST)
    assert missing.status == 404 and missing.code == "MANIFEST_BLOB_UNKNOWN"
    registry.push_blob("seven/app", layer)
    raw = json.dumps(document, indent=7).encode()
    put = registry.call("PUT", "/v2/seven/app/manifests/v1", raw, Content_Type=OCI_MANIFEST)
    assert put.status == 201 and put.headers["docker-content-digest"] == digest_of(raw)
    assert registry.get(put.headers["location"]).body == raw
    unlike = registry.call("PUT", f"/v2/seven/app/manifests/{ABSENT}", raw, Content_Type=OCI_MANIFEST)
    assert unlike.status == 400 and unlike.code == "DIGEST_INVALID"
    tagged = f"/v2/seven/app/manifests/{digest_of(raw)}?tag=a&tag=b"
    assert registry.call("PUT", tagged, raw, Content_Type=OCI_MANIFEST).headers["oci-tag"] in ("a", "b", "a, b")
    assert registry.get("/v2/seven/app/manifests/b").body == raw


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b"no json", OCI_MANIFEST),
        (b'{"schemaVersion":2,"config":{},"manifests":[]}', OCI_MANIFEST),
        (b'{"schemaVersion":1,"fsLayers":[]}', "application/vnd.docker.distribution.manifest.v1+json"),
        (b'{"schemaVersion":2}', "text/plain"),
        (b"[" * 100000, OCI_MANIFEST),
    ],
)
def test_end_7_refuses_what_is_no_manifest(registry: Serving, raw: bytes, media_type: str) -> None:
    answer = registry.call("PUT", "/v2/seven/bad/manifests/v1", raw, Content_Type=media_type)
    assert answer.status == 400 and answer.code == "MANIFEST_INVALID"
    assert registry.head("/v2/seven/bad/manifests/v1").status == 404


def test_end_7_refuses_a_giant(registry: Serving) -> None:
    answer = registry.call("PUT", "/v2/seven/giant/manifests/v1", b" " * (5 << 20), Content_Type=OCI_MANIFEST)
    assert answer.status == 413


def test_end_8_tags_in_order_and_in_pages(registry: Serving) -> None:
    digest, raw = registry.push_image("eight/app", "m", [b"eight"])
    for tag in ("b", "a", "C", "z"):
        registry.call("PUT", f"/v2/eight/app/manifests/{tag}", raw, Content_Type=OCI_MANIFEST)
    assert registry.get("/v2/eight/app/tags/list").json == {"name": "eight/app", "tags": ["C", "a", "b", "m", "z"]}
    page = registry.get("/v2/eight/app/tags/list?n=2")
    assert page.json["tags"] == ["C", "a"] and page.headers["link"].endswith('rel="next"')
    onward = page.headers["link"].partition("<")[2].partition(">")[0]
    assert registry.get(onward).json["tags"] == ["b", "m"]
    last = registry.get("/v2/eight/app/tags/list?n=2&last=m")
    assert last.json["tags"] == ["z"] and "link" not in last.headers
    none = registry.get("/v2/eight/app/tags/list?n=0")
    assert none.json["tags"] == [] and "link" not in none.headers
    assert registry.get("/v2/eight/none/tags/list").code == "NAME_UNKNOWN"
    assert registry.get("/v2/eight/app/tags/list?n=many").status == 400
    assert digest


def test_end_9_and_10_deletion(registry: Serving) -> None:
    digest, raw = registry.push_image("nine/app", "v1", [b"nine"])
    registry.call("PUT", "/v2/nine/app/manifests/v2", raw, Content_Type=OCI_MANIFEST)
    assert registry.call("DELETE", "/v2/nine/app/manifests/v1").status == 202
    assert registry.get("/v2/nine/app/manifests/v1").status == 404
    assert registry.get(f"/v2/nine/app/manifests/{digest}").status == 200
    layer = f"/v2/nine/app/blobs/{digest_of(b'nine')}"
    assert registry.call("DELETE", layer).status == 405  # its manifest would be damaged
    assert registry.call("DELETE", f"/v2/nine/app/manifests/{digest}").status == 202
    assert registry.get("/v2/nine/app/manifests/v2").status == 404
    assert registry.call("DELETE", layer).status in (202, 404)
    assert registry.head(layer).status == 404
    for missing in ("manifests/none", f"manifests/{ABSENT}", f"blobs/{ABSENT}"):
        assert registry.call("DELETE", f"/v2/nine/app/{missing}").status == 404


def test_end_11_mounts(registry: Serving) -> None:
    digest = registry.push_blob("eleven/source", b"to be mounted")
    mounted = registry.call("POST", f"/v2/eleven/target/blobs/uploads/?mount={digest}&from=eleven/source")
    assert mounted.status == 201 and registry.get(f"/v2/eleven/target/blobs/{digest}").body == b"to be mounted"
    anywhere = registry.call("POST", f"/v2/eleven/third/blobs/uploads/?mount={digest}")
    assert anywhere.status == 201
    for nowhere in (f"mount={ABSENT}&from=eleven/source", f"mount={digest}&from=eleven/none"):
        answer = registry.call("POST", f"/v2/eleven/target/blobs/uploads/?{nowhere}")
        assert answer.status == 202 and answer.headers["location"]


def test_end_12_referrers(registry: Serving) -> None:
    subject, raw = registry.push_image("twelve/app", "v1", [b"twelve"])
    empty = registry.get(f"/v2/twelve/app/referrers/{ABSENT}")
    assert empty.status == 200 and empty.json["manifests"] == [] and empty.headers["content-type"] == OCI_INDEX
    about = {"subject": descriptor(OCI_MANIFEST, raw), "annotations": {"who": "<me>"}}
    found = {}
    for kind in ("application/x-sbom", "application/x-signature"):
        digest, _ = registry.push_image("twelve/app", "", [kind.encode()], artifactType=kind, **about)
        found[digest] = kind
    listed = registry.get(f"/v2/twelve/app/referrers/{subject}").json["manifests"]
    assert {each["digest"]: each["artifactType"] for each in listed} == found
    assert all(each["annotations"] == {"who": "<me>"} for each in listed)
    only = registry.get(f"/v2/twelve/app/referrers/{subject}?artifactType=application/x-sbom")
    assert [each["artifactType"] for each in only.json["manifests"]] == ["application/x-sbom"]
    assert only.headers["oci-filters-applied"] == "artifactType"
    assert registry.get("/v2/twelve/app/referrers/sha256:nothex").status == 400
    early = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
                        "subject": {"mediaType": OCI_MANIFEST, "digest": ABSENT, "size": 9}}).encode()  # fmt: skip
    put = registry.call("PUT", "/v2/twelve/app/manifests/early", early, Content_Type=OCI_INDEX)
    assert put.status == 201 and put.headers["oci-subject"] == ABSENT
    assert len(registry.get(f"/v2/twelve/app/referrers/{ABSENT}").json["manifests"]) == 1


def test_end_14_cancelled_uploads(registry: Serving) -> None:
    place = registry.call("POST", "/v2/fourteen/app/blobs/uploads/").headers["location"]
    registry.call("PATCH", place, b"unwanted")
    assert registry.call("DELETE", place).status == 204
    assert registry.get(place).status == 404


def test_the_catalogue_has_pages(registry: Serving) -> None:
    for name in ("zz/a", "zz/b", "zz/c"):
        registry.push_blob(name, b"something")
    page = registry.get("/v2/_catalog?n=2&last=zz/0")
    assert page.json == {"repositories": ["zz/a", "zz/b"]}
    onward = page.headers["link"].partition("<")[2].partition(">")[0]
    assert registry.get(onward).json == {"repositories": ["zz/c"]}


def test_strangers_and_wrong_methods(registry: Serving) -> None:
    assert registry.call("POST", "/v2/_catalog").status == 405
    assert registry.get("/v3/").status == 404
    crossing = registry.call("POST", "/v2/a/b/blobs/uploads/", Origin="http://evil.example")
    assert crossing.status == 403
    assert registry.get("/v2/a/../b/tags/list").status == 400
