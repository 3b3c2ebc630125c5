"""DNS messages and the resolver's memory: what is asked, what is answered, what is not ours."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from cove.network.dns import wire
from cove.network.dns.messages import Know, Member, View
from cove.network.dns.names import Names


def question(name: str, kind: int = wire.A, *, edns: int = 0) -> bytes:
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split(".") if each) + b"\0"
    option = b"\0" + struct.pack(">HHIH", wire.OPT, edns, 0, 0) if edns else b""
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, bool(edns)) + labels + struct.pack(">HH", kind, 1) + option


def asked(names: Names, view: View, name: str, kind: int = wire.A) -> tuple[list[str], int, bool]:
    query = wire.parse(question(name, kind))
    assert query is not None
    found = names.find(view, query)
    return sorted(each.value for each in found.answers), found.rcode, found.forward


def world() -> Names:
    names = Names()
    names.know(Know(network="n1", name="front", subnets=("10.1.0.0/24",)))
    names.know(Know(network="n2", name="back", subnets=("10.2.0.0/24",)))
    names.join("n1", Member(container="a", names=("web", "www"), addresses=("10.1.0.2", "fd00::2")))
    names.join("n1", Member(container="b", names=("Web2", "www"), addresses=("10.1.0.3",)))
    names.join("n2", Member(container="c", names=("db",), addresses=("10.2.0.2",)))
    return names


def test_a_name_is_seen_by_those_who_share_a_network() -> None:
    names, front, both = world(), View(container="x", networks=("n1",)), View(container="y", networks=("n1", "n2"))
    assert asked(names, front, "web") == (["10.1.0.2"], wire.NOERROR, False)
    assert asked(names, front, "WWW") == (["10.1.0.2", "10.1.0.3"], wire.NOERROR, False)
    assert asked(names, front, "web2.front")[0] == ["10.1.0.3"]
    assert asked(names, front, "web", wire.AAAA)[0] == ["fd00::2"]
    assert asked(names, front, "web2", wire.AAAA) == ([], wire.NOERROR, False)
    assert asked(names, front, "web", 15) == ([], wire.NOERROR, False), "a mail exchanger of ours is nobody's else"
    assert asked(names, front, "db") == ([], wire.NOERROR, True)
    assert asked(names, both, "db")[0] == ["10.2.0.2"]
    assert asked(names, View(container="z", networks=("n2",), links={"n2": {"store": "db"}}), "store")[0] == [
        "10.2.0.2"
    ]
    elsewhere = View(container="z", networks=("n1", "n2"), links={"n1": {"store": "db"}})
    assert asked(names, elsewhere, "store")[0] == [], "a link is of one network"
    names.leave("n1", "a")
    assert asked(names, front, "www")[0] == ["10.1.0.3"]
    names.keep({"n1"}, set())
    assert asked(names, both, "www")[2]
    assert asked(names, both, "db")[2]


def test_reverse_questions_and_the_host() -> None:
    names, view = world(), View(container="x", networks=("n1",), host=("10.1.0.1",))
    assert asked(names, view, "2.0.1.10.in-addr.arpa", wire.PTR)[0] == ["web.front"]
    assert asked(names, view, "9.0.1.10.in-addr.arpa", wire.PTR) == ([], wire.NXDOMAIN, False)
    assert asked(names, view, "2.0.2.10.in-addr.arpa", wire.PTR)[2], "another network's address is as any other"
    six = ".".join(reversed("fd00" + "0" * 27 + "2")) + ".ip6.arpa"
    assert asked(names, view, six, wire.PTR)[0] == ["web.front"]
    assert asked(names, view, "host.docker.internal")[0] == ["10.1.0.1"]
    assert asked(names, View(container="x"), "host.docker.internal") == ([], wire.NXDOMAIN, False)
    assert asked(names, view, "localhost")[0] == ["127.0.0.1"]


def test_answers_are_cut_where_a_datagram_ends() -> None:
    query = wire.parse(question("web"))
    many = [wire.Answer(wire.A, f"10.1.{number // 250}.{number % 250 + 1}") for number in range(300)]
    assert query is not None and query.limit == 512
    short = wire.respond(query, many, limit=query.limit)
    assert len(short) <= 512 and short[2] & 0x02
    assert not wire.respond(query, many)[2] & 0x02
    larger = wire.parse(question("web", edns=1400))
    assert larger is not None and larger.limit == 1400
    answer = wire.respond(larger, many, limit=larger.limit)
    assert 1300 < len(answer) <= 1400 and answer[11] == 1, "EDNS is answered by EDNS"


def test_what_is_no_question_gets_no_answer_or_a_refusal() -> None:
    good = question("web")
    assert wire.parse(b"") is None
    assert wire.parse(good[:2] + b"\x81" + good[3:]) is None, "an answer is not a question"
    for damaged, rcode in (
        (good[:14], wire.FORMERR),
        (good[:2] + b"\x28" + good[3:], wire.NOTIMP),
        (good[:12] + b"\xc0\x0c" + good[-4:], wire.FORMERR),
        (good[:-1] + b"\x03", wire.REFUSED),
    ):
        query = wire.parse(damaged)
        assert query is not None and query.rcode == rcode
        assert wire.respond(query, rcode=rcode)[3] & 0xF == rcode


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_harm(data: bytes) -> None:
    query = wire.parse(data)
    if query is not None and not query.rcode:
        Names().find(View(container="x", host=("10.0.0.1",)), query)
        assert wire.respond(query)[:2] == data[:2]
    wire.addresses(data)
    wire.answers(data, 0, b"")
