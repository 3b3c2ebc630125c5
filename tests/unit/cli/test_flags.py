"""The flag syntax that people know, and what each way of getting it wrong is told."""

from __future__ import annotations

import pytest

from cove.cli.flags import Flag, UsageError, Verb, parse

FLAGS = (
    Flag("detach", "", "bool", short="d"),
    Flag("interactive", "", "bool", short="i"),
    Flag("tty", "", "bool", short="t"),
    Flag("publish", "", "list", short="p"),
    Flag("name", ""),
    Flag("timeout", "", "int", short="n"),
    Flag("proxy", "", "bool", default="true"),
)
RUN = Verb(lambda call: 0, "", "IMAGE [COMMAND]", FLAGS, least=1, most=None, program=True)
LIST = Verb(lambda call: 0, "", "[NAME]", FLAGS, most=1)


def test_every_way_of_writing_a_flag() -> None:
    call = parse("run", RUN, ["-itd", "-p80:80", "-p", "81", "-p=82", "--publish=83", "--name", "web", "-n3", "img"])
    assert call is not None
    assert call.list("publish") == ["80:80", "81", "82", "83"]
    assert (call.text("name"), call.number("timeout")) == ("web", 3)
    assert call.flag("interactive") and call.flag("tty") and call.flag("detach")


def test_booleans_take_a_value_only_after_an_equals_sign() -> None:
    call = parse("run", RUN, ["--proxy=false", "-d=false", "--tty", "img", "true"])
    assert call is not None
    assert not call.flag("proxy") and not call.flag("detach") and call.flag("tty")
    assert call.arguments == ["img", "true"]


def test_a_program_keeps_its_own_flags() -> None:
    call = parse("run", RUN, ["-i", "img", "ls", "-l", "--help", "--", "-d"])
    assert call is not None
    assert call.arguments == ["img", "ls", "-l", "--help", "--", "-d"]
    assert not call.flag("detach")


def test_other_verbs_take_flags_anywhere_up_to_two_dashes() -> None:
    call = parse("ps", LIST, ["web", "-d"])
    assert call is not None and call.flag("detach") and call.arguments == ["web"]
    call = parse("ps", LIST, ["--", "-d"])
    assert call is not None and call.arguments == ["-d"]


def test_help_is_asked_for_before_the_program_only() -> None:
    assert parse("run", RUN, ["-i", "--help"]) is None
    assert parse("ps", LIST, ["-h"]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nmae", "x", "img"], "did you mean --name?"),
        (["-z", "img"], "no flag -z"),
        (["--name"], "needs a value"),
        (["-n", "soon", "img"], "not a whole number"),
        (["--proxy=maybe", "img"], "not true or false"),
        ([], "needs at least an argument"),
    ],
)
def test_one_sentence_for_each_mistake(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        parse("run", RUN, words)
