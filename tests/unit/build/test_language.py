"""The Dockerfile language: lines, words, instructions, errors with their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.build.dockerfile import instructions as ins
from cove.build.dockerfile import lexer, reader
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.dockerfile.words import expand, split
from cove.errors import InvalidArgument


def body(text: str) -> tuple[ins.Instruction, ...]:
    return reader.parse(f"FROM scratch\n{text}".encode()).stages[0].body


def test_continuations_comments_and_blank_lines_join() -> None:
    (run,) = body("RUN one \\\n  # a comment\n\n  && two\n")
    assert isinstance(run, ins.Run)
    assert run.command.words == ("one   && two",)


def test_another_escape_character() -> None:
    found = reader.parse(b"# escape=`\nFROM scratch\nRUN dir C:\\ `\n  /s\n")
    (run,) = found.stages[0].body
    assert run.text == "RUN dir C:\\   /s"


def test_an_escaped_escape_does_not_continue() -> None:
    first, second = body("RUN echo a\\\\\nRUN b")
    assert first.text == "RUN echo a\\\\" and second.text == "RUN b"


def test_directives_only_at_the_top() -> None:
    found = reader.parse(b"# syntax=docker/dockerfile:1\n# check=skip=all\n# plain\n# escape=`\nFROM scratch\n")
    assert found.directives == {"syntax": "docker/dockerfile:1", "check": "skip=all"} and found.escape == "\\"
    with pytest.raises(DockerfileError, match="only one escape parser directive"):
        reader.parse(b"# escape=`\n# escape=`\nFROM scratch\n")


def test_heredocs_keep_their_text_and_follow_their_line() -> None:
    run, copy, last = body('RUN <<EOF\na\n b\nEOF\nCOPY <<"A" <<-B /x/\n$v\nA\n\t\tw\n\tB\nCMD x')
    assert run.node.heredocs[0].content == "a\n b\n"
    assert isinstance(copy, ins.Copy) and not copy.sources
    assert [(h.name, h.content, h.expand) for h in copy.heredocs] == [("A", "$v\n", False), ("B", "w\n", True)]
    assert last.position.line == 11


def test_a_shell_redirection_is_no_heredoc_elsewhere() -> None:
    (cmd,) = body("CMD cat <<EOF")
    assert not cmd.node.heredocs


def test_an_open_heredoc_is_an_error_with_its_line() -> None:
    with pytest.raises(DockerfileError, match=r"line 2.*unterminated heredoc"):
        body("RUN <<EOF\na\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUNN x", r"line 2, column 1: unknown instruction: RUNN \(did you mean RUN\?\)"),
        ("COPY --form=a b c", r"line 2, column 6: COPY has an unknown flag: --form \(did you mean from\?\)"),
        (
            "RUN --mount=type=cache,target=/a \\\n --netwrk=none x",
            r"line 3, column 2: RUN has an unknown flag: --netwrk",
        ),
        ("COPY a", "requires at least two arguments"),
        ("ENV a", "must have two arguments"),
        ("ENV a=b c", "can't find = in 'c'"),
        ("HEALTHCHECK --interval=1x CMD a", "invalid duration '1x'"),
        ("HEALTHCHECK --interval=1us CMD a", "less than 1ms"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ("SHELL /bin/sh", "JSON form"),
        ("USER", "USER requires"),
        ('RUN ["a", 1]', "comprised of strings only"),
        ("COPY --from=$x a b", "not supported for --from"),
        ("RUN --network=lan x", "invalid network mode"),
    ],
)
def test_errors_name_the_place(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        body(text)


def test_nothing_may_stand_before_from_but_arg() -> None:
    with pytest.raises(DockerfileError, match="no build stage in current context"):
        reader.parse(b"RUN x")
    with pytest.raises(DockerfileError, match="no instructions"):
        reader.parse(b"# nothing\n")


def test_json_and_shell_forms() -> None:
    listed, shell, broken = body('CMD ["a", "b c"]\nCMD a "b"\nCMD [a, b]')
    assert isinstance(listed, ins.Cmd) and listed.command == ins.Command(("a", "b c"), shell=False)
    assert isinstance(shell, ins.Cmd) and shell.command == ins.Command(('a "b"',), shell=True)
    assert isinstance(broken, ins.Cmd) and broken.command == ins.Command(("[a, b]",), shell=True)


def test_durations_and_pairs() -> None:
    health, env, old = body('HEALTHCHECK --interval=1m30s --retries=3 CMD x\nENV a="b c" d=e\\ f\nENV x y z')
    assert isinstance(health, ins.Healthcheck) and (health.interval, health.retries) == (90 * 10**9, 3)
    assert isinstance(env, ins.Env) and env.pairs == (("a", '"b c"'), ("d", "e\\ f"))
    assert isinstance(old, ins.Env) and old.pairs == (("x", "y z"),) and old.legacy


VALUES = {"a": "foo.tar.gz", "e": "", "p": "/usr/lib/x", "n": "bar"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$a", "foo.tar.gz"),
        ("${a}x", "foo.tar.gzx"),
        ("${u:-d}", "d"),
        ("${e:-d}", "d"),
        ("${e-d}", ""),
        ("${u:-$n}", "bar"),
        ("${u:-${e:-${n}}}", "bar"),
        ("${a:+y}", "y"),
        ("${e:+y}", ""),
        ("${e+y}", "y"),
        ("${u+y}", ""),
        ("${a#*.}", "tar.gz"),
        ("${a##*.}", "gz"),
        ("${a%.*}", "foo.tar"),
        ("${a%%.*}", "foo"),
        ("${p#/usr}", "/lib/x"),
        ("${a/o/0}", "f0o.tar.gz"),
        ("${a//o/0}", "f00.tar.gz"),
        ("${a//[o]/0}", "foo.tar.gz"),
        ("${a/.*/}", "foo"),
        ("${a##*[o]}", "foo.tar.gz"),
        ("$1x${22}", "x"),
        ("x\\", "x"),
        ("'$a'", "$a"),
        ('"$n x"', "bar x"),
        ('"\\$n"', "$n"),
        ("\\$n", "$n"),
        ('"a\\b"', "a\\b"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("a$", "a$"),
        ("$u-x", "-x"),
    ],
)
def test_expansion(text: str, result: str) -> None:
    assert expand(text, VALUES) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${u:?must be there}", "u: must be there"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${a/o}", "missing '/'"),
        ("${a", "missing '}'"),
        ("${a:x}", "unsupported modifier"),
        ('"open', "double-quote"),
        ("'open", "single-quote"),
        ("${}", "bad substitution"),
    ],
)
def test_bad_expansions_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        expand(text, VALUES)


@given(st.text(alphabet=st.characters(exclude_characters="'\0\n", codec="utf-8"), max_size=40))
def test_single_quotes_keep_everything(text: str) -> None:
    assert expand(f"'{text}'", {}) == text


@given(st.text(max_size=60))
def test_expansion_ends_or_says_why(text: str) -> None:
    try:
        expand(text, VALUES)
    except InvalidArgument:
        pass


@given(st.lists(st.from_regex(r"[a-z0-9=/.]{1,8}", fullmatch=True), max_size=6))
def test_words_of_plain_text(words: list[str]) -> None:
    assert split("  ".join(words)) == words


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(raw: bytes) -> None:
    try:
        reader.parse(raw)
    except DockerfileError:
        pass


@given(st.lists(st.sampled_from(["RUN a", "RUN a \\", "# c", "", "  b", "COPY <<E /x", "E"]), max_size=12))
def test_every_line_knows_its_place(lines: list[str]) -> None:
    try:
        source = lexer.read("\n".join(lines).encode())
    except DockerfileError:
        return
    for line in source.lines:
        first = line.position()
        assert lines[first.line - 1].strip().startswith(line.text[:1])
