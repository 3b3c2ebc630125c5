"""What a Dockerfile means: the graph, the configuration, the history, the warnings."""

from __future__ import annotations

import pytest

from cove.build import ops
from cove.build.dockerfile import reader
from cove.build.dockerfile.options import Base, Missing, Options
from cove.build.dockerfile.plan import Plan, plan
from cove.build.dockerfile.syntax import DockerfileError
from cove.build.graph import ordered
from cove.errors import InvalidArgument
from cove.oci.image import ContainerConfig, ImageConfig

_BASE = Base("base", "sha256:" + "1" * 64, "sha256:" + "2" * 64, ImageConfig(architecture="amd64", os="linux"))
_KNOWN = {("base", "linux/amd64"): _BASE}


def planned(text: str, base: Base = _BASE, **options: object) -> Plan:
    known = {("base", "linux/amd64"): base}
    return plan(reader.parse(text.encode()), Options(**options), known)  # type: ignore[arg-type]


def steps(found: Plan, kind: type) -> list[object]:
    return [vertex.step for vertex in ordered((found.made.vertex,)) if isinstance(vertex.step, kind)]


def test_arguments_environment_and_their_order() -> None:
    found = planned(
        "ARG G=global\nFROM base\nARG A=one\nARG G\nENV A=two B=$A-${G}\nARG A=three\nRUN x\n",
        arguments={"G": "given"},
    )
    (run,) = steps(found, ops.Run)
    assert isinstance(run, ops.Run)
    env = dict(entry.split("=", 1) for entry in run.env)
    assert env["A"] == "two" and env["B"] == "one-given" and env["G"] == "given"


def test_env_of_one_instruction_sees_what_was_before_it() -> None:
    found = planned("FROM base\nENV a=1\nENV a=2 b=$a\n")
    assert {"a=2", "b=1"} <= set(found.made.config.config.env)


def test_only_needed_stages_are_planned() -> None:
    with pytest.raises(Missing) as missing:
        planned("FROM nowhere AS unused\nRUN x\nFROM other AS used\nFROM base\nCOPY --from=used /a /a\n")
    assert missing.value.images == {("other", "linux/amd64"): 3}


def test_steps_are_shown_with_their_number_and_the_values_of_variables() -> None:
    lines = "ENV A=one\nWORKDIR /w\nrun echo $A \"${A}\" '$A' \\$A $B\n"
    found = planned(f"FROM base AS below\n{lines}FROM scratch\nCOPY --from=below /a /b\n")
    titles = [vertex.title for vertex in ordered((found.made.vertex,))]
    assert titles[1:3] == ["[below 1/3] FROM base AS below", "[below 2/3] WORKDIR /w"]
    assert titles[3] == "[below 3/3] RUN echo one \"one\" '$A' \\$A $B"
    assert titles[4] == "[stage-1 1/1] COPY --from=below /a /b"
    secret = "RUN --mount=type=secret,id=s,env=A [ $A = x ]"
    assert planned(f"FROM base\nENV A=1\n{secret}\n").made.vertex.title.endswith("[ **** = x ]")


def test_an_argument_takes_the_place_of_the_check_directive() -> None:
    lines = "# check=skip=all\nFROM base as a\nrun x\n"
    assert planned(lines).warnings == ()
    told = planned(lines, arguments={"BUILDKIT_DOCKERFILE_CHECK": "skip=ConsistentInstructionCasing"}).warnings
    assert [each.rule for each in told] == ["FromAsCasing"]


def test_a_name_may_mean_nothing_at_all() -> None:
    found = planned("FROM other\nCOPY --from=other / /\n", contexts={"other": "image:scratch"})
    assert len(steps(found, ops.Scratch)) == 1 and found.made.base is None


def test_checksums_of_what_is_added_may_be_variables() -> None:
    digest = f"sha256:{'a' * 64}"
    (remote,) = steps(planned(f"FROM base\nENV D={digest}\nADD --checksum=$D http://e.example/f /\n"), ops.Remote)
    assert isinstance(remote, ops.Remote) and remote.checksum == digest
    (nameless,) = steps(planned("FROM base\nADD http://e.example/ /d/\n"), ops.Remote)
    assert isinstance(nameless, ops.Remote) and nameless.name == "__unnamed__"
    for source, words in (("http://e.example/f", "sha256:1"), ("https://e.example/r.git#main", "not-a-commit")):
        with pytest.raises(DockerfileError, match=r"line 2.*invalid checksum"):
            planned(f"FROM base\nADD --checksum={words} {source} /\n")


def test_equal_steps_are_one_vertex() -> None:
    found = planned("FROM base AS a\nRUN x\nFROM base AS b\nRUN x\nFROM base\nCOPY --from=a / /\nCOPY --from=b / /\n")
    assert len(steps(found, ops.Run)) == 1


def test_an_entrypoint_forgets_the_bases_command_but_not_ones_own() -> None:
    config = ImageConfig(architecture="amd64", os="linux", config=ContainerConfig(cmd=("old",)))
    base = Base("base", _BASE.digest, _BASE.chain, config)
    assert planned('FROM base\nENTRYPOINT ["e"]\n', base).made.config.config.cmd == ()
    own = planned('FROM base\nCMD ["c"]\nENTRYPOINT ["e"]\n', base).made.config.config
    assert own.cmd == ("c",) and own.entrypoint == ("e",)


def test_triggers_of_the_base_run_first_and_are_gone() -> None:
    config = ImageConfig(architecture="amd64", os="linux", config=ContainerConfig(on_build=("RUN first", "ENV T=1")))
    found = planned("FROM base\nRUN second\n", Base("base", _BASE.digest, _BASE.chain, config))
    assert [run.args[-1] for run in steps(found, ops.Run) if isinstance(run, ops.Run)] == ["first", "second"]
    assert not found.made.config.config.on_build and "T=1" in found.made.config.config.env


def test_history_is_as_others_write_it() -> None:
    found = planned('FROM base\nARG V=1\nRUN a b\nCOPY --chown=1:2 x y /z/\nCMD ["c"]\nWORKDIR /w\n')
    assert [line.created_by for line in found.made.history] == [
        "ARG V=1",
        "RUN |1 V=1 /bin/sh -c a b # buildkit",
        "COPY --chown=1:2 x y /z/ # buildkit",
        'CMD ["c"]',
        "WORKDIR /w",
    ]


def test_the_cache_is_not_asked_where_the_user_says_so() -> None:
    found = planned("FROM base AS a\nRUN x\nFROM a AS b\nRUN y\n", no_cache_filter=frozenset({"b"}))
    fresh = {vertex.title: vertex.fresh for vertex in ordered((found.made.vertex,))}
    assert [fresh[title] for title in fresh if "RUN" in title] == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "FROM base\nCOPY --from=later /a /b\nFROM base AS later\nCOPY --from=0 /a /a\n",
            "needs to be defined before",
        ),
        ("FROM base\nCOPY --from=3 /a /b\n", "out of bounds"),
        ("FROM ${NOTHING}\n", "should not be blank"),
        ("FROM base\nEXPOSE 99999\n", "invalid containerPort"),
        ("FROM base\nEXPOSE 80/icmp\n", "invalid proto: icmp"),
        ("FROM base\nRUN --mount=type=sercet,id=x y\n", "unsupported mount type"),
        ("FROM base\nRUN --mount=type=cache y\n", "needs a target"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/a,uid=1 y\n", "unexpected key 'uid'"),
        ("FROM base\nRUN --mount=type=bind,target=/ y\n", "invalid mount target"),
        ("FROM base\nENV A=${B:?needed}\n", "B: needed"),
        ("FROM base\nRUN --mount=type=secret,id=a,source=b y\n", "both source and id"),
        ("FROM base\nRUN --mount=target=/x,from=$b y\n", "'from' doesn't support variable expansion"),
        ("FROM base\nCOPY https://e.example/x /x\n", "source can't be a URL for COPY"),
        ("FROM base\nCOPY --chmod=64a a /x\n", "invalid chmod parameter"),
        ("FROM bad:\n", "failed to parse stage name"),
        ("FROM base\nSTOPSIGNAL a b\n", "Invalid signal"),
        ("ARG SOURCE_DATE_EPOCH=soon\nFROM base\n", "invalid SOURCE_DATE_EPOCH"),
        ("# check=skipped=all\nFROM base\n", "invalid check option"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises((DockerfileError, InvalidArgument), match=message):
        planned(text)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(InvalidArgument, match='target stage "x" could not be found'):
        planned("FROM base\n", target="x")


def test_warnings_by_name() -> None:
    found = planned(
        "FROM base as One\nMAINTAINER m\nENV k v\nENV API_KEY=1\nWORKDIR rel\nCMD a\nCMD b\n"
        "RUN echo \\\n\n  x\nFROM One AS one\n"
        "run x\nEXPOSE 80/TCP\nCOPY --from=One $nothere /x\n"
    )
    assert {each.rule for each in found.warnings} >= {
        "FromAsCasing",
        "StageNameCasing",
        "MaintainerDeprecated",
        "LegacyKeyValueFormat",
        "SecretsUsedInArgOrEnv",
        "WorkdirRelativePath",
        "MultipleInstructionsDisallowed",
        "JSONArgsRecommended",
        "NoEmptyContinuation",
        "DuplicateStageName",
        "ConsistentInstructionCasing",
        "ExposeProtoCasing",
        "UndefinedVar",
    }


def told(text: str, **options: object) -> list[str]:
    return [each.rule for each in planned(text, **options).warnings]


def test_checks_are_skipped_for_a_file_or_for_an_instruction() -> None:
    lines = "WORKDIR rel\nMAINTAINER m\n"
    assert told(f"FROM base\n{lines}") == ["WorkdirRelativePath", "MaintainerDeprecated"]
    assert told(f"# check=skip=WorkdirRelativePath\nFROM base\n{lines}") == ["MaintainerDeprecated"]
    assert told(f"FROM base\n# check=skip=WorkdirRelativePath\n{lines}") == ["MaintainerDeprecated"]
    assert told(f"# check=skip=all\nFROM base\n{lines}") == []


def test_descriptions_are_checked_when_asked_for() -> None:
    text = "FROM base AS b\n# no such name\nARG A\n# B is this\nARG B\n"
    assert told(text) == [] and told(f"# check=experimental=all\n{text}") == ["InvalidDefinitionDescription"]


def test_warnings_of_values() -> None:
    assert told("ARG V\nFROM base\nFROM base:$V\nFROM base\n") == ["InvalidDefaultArgInFrom"]
    assert told("FROM base\nCOPY a.log /\n", ignore=("*.log",)) == ["CopyIgnoredFile"]
    assert told("FROM base\nCOPY a.log /\n", ignore=("*.log", "!a.log")) == []
    assert told("FROM base\nEXPOSE 127.0.0.1:80:80\n") == ["ExposeInvalidFormat"]
    assert told('FROM base\nSHELL ["/bin/bash", "-c"]\nCMD x\n') == []
    (near,) = planned("FROM base\nENV A=$PAHT\n").warnings
    assert near.message == "Usage of undefined variable '$PAHT' (did you mean $PATH?)"


def test_the_moment_of_the_result_may_stand_in_the_file() -> None:
    assert planned("ARG SOURCE_DATE_EPOCH=1700000000\nFROM base\n").epoch == 1700000000
    for arguments in ({}, {"SOURCE_DATE_EPOCH": "context"}):
        lines = f"ARG SOURCE_DATE_EPOCH{'' if arguments else '=context'}\nFROM base\nARG SOURCE_DATE_EPOCH\nRUN x\n"
        told = planned(lines, arguments=arguments, moment=5)
        (run,) = steps(told, ops.Run)
        assert told.epoch == 5 and isinstance(run, ops.Run) and "SOURCE_DATE_EPOCH=5" in run.env
        untold = planned(lines, arguments=arguments)
        (run,) = steps(untold, ops.Run)
        assert untold.epoch is None and isinstance(run, ops.Run)
        assert not any(each.startswith("SOURCE_DATE_EPOCH") for each in run.env)


def test_triggers_of_a_stage_run_in_the_stages_on_it() -> None:
    found = planned("FROM base AS a\nONBUILD RUN first\nFROM a\nRUN second\n")
    assert [run.args[-1] for run in steps(found, ops.Run) if isinstance(run, ops.Run)] == ["first", "second"]
    assert not found.made.config.config.on_build


def test_history_spells_health_checks_and_commands() -> None:
    text = 'FROM base\nHEALTHCHECK --interval=90s --timeout=1500ms CMD a b\nENTRYPOINT ["a", "b\\tc"]\nCOPY x .\n'
    assert [line.created_by for line in planned(text).made.history] == [
        "HEALTHCHECK {Test:[CMD-SHELL a b] Interval:1m30s Timeout:1.5s StartPeriod:0s StartInterval:0s Retries:0}",
        'ENTRYPOINT ["a" "b\\tc"]',
        "COPY x . # buildkit",
    ]
