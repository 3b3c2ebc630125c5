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
    assert missing.value.images == {("other", "linux/amd64")}


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
        ("FROM base\nCOPY --from=later /a /b\nFROM base AS later\nCOPY --from=0 /a /a\n", "only earlier stages"),
        ("FROM base\nCOPY --from=3 /a /b\n", "out of bounds"),
        ("FROM ${NOTHING}\n", "should not be blank"),
        ("FROM base\nEXPOSE 99999\n", "invalid containerPort"),
        ("FROM base\nEXPOSE 80/icmp\n", "invalid containerPort"),
        ("FROM base\nRUN --mount=type=sercet,id=x y\n", "unsupported mount type"),
        ("FROM base\nRUN --mount=type=cache y\n", "needs a target"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/a,uid=1 y\n", "unexpected key 'uid'"),
        ("FROM base\nRUN --mount=type=bind,target=/ y\n", "invalid mount target"),
        ("FROM base\nENV A=${B:?needed}\n", "B: needed"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises((DockerfileError, InvalidArgument), match=message):
        planned(text)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(InvalidArgument, match="target stage 'x' could not be found"):
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
