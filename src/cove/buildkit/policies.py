"""Source policies: which images, repositories and files by HTTP a build may use, and what it uses in their place.

    a source's identifier ─▶ rules that came with the build ─▶ the client, if it has a policy of its own ─▶ identifier
                                                          └─▶ refused

Each source is judged before anything of it is fetched. Only images are converted to others; a rule that would convert
another source is refused when it matches.
Source: sourcepolicy/engine.go, matcher.go and formatter.go of moby/buildkit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from cove.buildkit.messages import policy as wire
from cove.buildkit.messages.common import Platform as WirePlatform
from cove.buildkit.messages.common import SourceOp
from cove.buildkit.sessions import Session
from cove.errors import Forbidden, InvalidArgument, Unsupported
from cove.grpc.protobuf import decode
from cove.oci.platform import Platform

IMAGE = "docker-image://"
_MOST_CONVERSIONS = 20

FindSession = Callable[[], Awaitable[Session | None]]


class Policies:
    """Those of one build. `find`: the session of a client that judges sources itself; None for one that does not."""

    def __init__(self, rules: Iterable[bytes] = (), find: FindSession | None = None) -> None:
        self._policies = [decode(wire.Policy, raw) for raw in rules if raw]
        self._find = find

    async def image(self, full_name: str, platform: Platform) -> str:
        """The image that is used where that one is asked for. Raises Forbidden."""
        identifier = await self.judge(IMAGE + full_name, {}, platform)
        return identifier.removeprefix(IMAGE)

    async def judge(self, identifier: str, attributes: Mapping[str, str], platform: Platform | None = None) -> str:
        """The source that is used in that one's place: itself, or another image. Raises Forbidden or Unsupported."""
        judged = identifier
        for _ in range(_MOST_CONVERSIONS):
            converted = self._by_rules(judged, attributes)
            if converted == judged:
                break
            judged = converted
        else:
            raise InvalidArgument(f"the source policy converts {identifier} again and again")
        if self._find is not None:
            judged = await self._by_client(judged, attributes, platform)
        if judged != identifier and not (judged.startswith(IMAGE) and identifier.startswith(IMAGE)):
            raise Unsupported(f"the source policy converts {identifier} to {judged}: only images can be converted")
        return judged

    def _by_rules(self, identifier: str, attributes: Mapping[str, str]) -> str:
        for policy in self._policies:
            denied = False
            for rule in policy.rules:
                selector = rule.selector or wire.Selector()
                if not _matches(selector, identifier, attributes):
                    continue
                if rule.action == wire.CONVERT:
                    converted = _converted(rule, selector, identifier)
                    if converted != identifier:
                        return converted
                elif rule.action in (wire.ALLOW, wire.DENY):
                    denied = rule.action == wire.DENY
                else:
                    raise InvalidArgument(f"the source policy has a rule of the unknown kind {rule.action}")
            if denied:
                raise Forbidden(f"source {identifier!r} denied by policy: source denied by policy")
        return identifier

    async def _by_client(self, identifier: str, attributes: Mapping[str, str], platform: Platform | None) -> str:
        assert self._find is not None
        session = await self._find()
        if session is None:
            raise InvalidArgument("the build has no session that its source policy could be asked in")
        asked = wire.CheckPolicyRequest(
            platform=WirePlatform(platform.architecture, platform.os, platform.variant) if platform else None,
            source=wire.SourceMeta(source=SourceOp(identifier=identifier, attributes=dict(attributes))),
        )
        answer = await session.client.unary(wire.CHECK, asked, wire.CheckPolicyResponse)
        decision = answer.decision
        if decision is None:
            raise Unsupported(
                f"the client's source policy asks more of {identifier} than this builder finds out before it builds"
            )
        if decision.action == wire.DENY:
            why = "; ".join(each.message for each in decision.deny_messages)
            raise Forbidden(f"source {identifier!r} not allowed by policy{f': {why}' if why else ''}")
        if decision.action == wire.CONVERT and decision.update is not None:
            return decision.update.identifier or identifier
        return identifier


def _matches(selector: wire.Selector, identifier: str, attributes: Mapping[str, str]) -> bool:
    if not all(_holds(each, attributes.get(each.key, "")) for each in selector.constraints):
        return False
    if selector.identifier == identifier:
        return True
    return _pattern(selector).search(identifier) is not None if selector.match_type != wire.EXACT else False


def _holds(constraint: wire.Constraint, value: str) -> bool:
    if constraint.condition == wire.MATCHES:
        return _expression(constraint.value).search(value) is not None
    if constraint.condition not in (wire.EQUAL, wire.NOT_EQUAL):
        raise InvalidArgument(f"the source policy has a condition of the unknown kind {constraint.condition}")
    return (value == constraint.value) is (constraint.condition == wire.EQUAL)


def _pattern(selector: wire.Selector) -> re.Pattern[str]:
    """The selector as an expression; each star of a wildcard is a group."""
    if selector.match_type == wire.REGEX:
        return _expression(selector.identifier)
    if selector.match_type != wire.WILDCARD:
        raise InvalidArgument(f"the source policy has a match of the unknown kind {selector.match_type}")
    return re.compile("^" + "(.*)".join(re.escape(part) for part in selector.identifier.split("*")) + "$", re.DOTALL)


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"the source policy has the invalid expression {text!r}: {error}") from None


def _converted(rule: wire.Rule, selector: wire.Selector, identifier: str) -> str:
    """Where a rule leads: ${1} and $1 are what its groups, or its stars, stand for."""
    if rule.updates is None:
        raise InvalidArgument("the source policy has a conversion that says nothing of what to convert to")
    if rule.updates.attributes:
        raise Unsupported(f"the source policy gives {identifier} attributes, which cannot be followed")
    target = rule.updates.identifier or selector.identifier
    if selector.match_type == wire.EXACT or "$" not in target:
        return target
    found = _pattern(selector).search(identifier)
    groups = (found[0], *found.groups("")) if found is not None else ()

    def stood_for(place: re.Match[str]) -> str:
        number = int(place[1] or place[2])
        return groups[number] if number < len(groups) else ""

    return re.sub(r"\$\{(\d+)\}|\$(\d+)", stood_for, target)
