"""The `filters` parameter: which of many objects a client wants.

{"status": ["running"], "label": ["a=b"]}          today's form
{"status": {"running": true}}                       the form of old clients
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from cove.errors import InvalidArgument

_FORM = dict[str, list[str] | dict[str, bool]]


@dataclass(frozen=True, slots=True)
class Filters:
    """Terms by name. Terms of one name are alternatives (labels: all must hold); names all must hold."""

    terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, allowed: Iterable[str] | None = None) -> Filters:
        """Read the parameter; "" is no filter. Raises InvalidArgument for a name not in `allowed`."""
        if not text:
            return cls()
        try:
            form = msgspec.json.decode(text, type=_FORM)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise InvalidArgument(
                f"invalid filter: the parameter is no JSON object of lists of text: {error}"
            ) from None
        terms = {
            name: tuple(term for term in chosen if not isinstance(chosen, dict) or chosen[term])
            for name, chosen in form.items()
        }
        if allowed is not None and (unknown := sorted(set(terms) - set(allowed))):
            raise InvalidArgument(f"invalid filter '{unknown[0]}'")
        return cls(terms)

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __contains__(self, name: object) -> bool:
        return name in self.terms

    def __bool__(self) -> bool:
        return bool(self.terms)

    def get(self, name: str) -> tuple[str, ...]:
        """The terms of one name, none if the name was not given."""
        return self.terms.get(name, ())

    def exact(self, name: str, value: str) -> bool:
        """Whether `value` is one of the terms, or nobody asked."""
        return name not in self.terms or value in self.terms[name]

    def flag(self, name: str) -> bool | None:
        """A yes-or-no filter: None when nobody asked. Raises InvalidArgument."""
        terms = self.get(name)
        if not terms:
            return None
        word = terms[0].lower()
        if len(terms) != 1 or word not in ("1", "true", "t", "0", "false", "f"):
            raise InvalidArgument(f"invalid filter '{name}={','.join(terms)}': say true or false")
        return word in ("1", "true", "t")

    def labels(self, labels: Mapping[str, str] | None, name: str = "label") -> bool:
        """Whether every term "key" or "key=value" holds of `labels`."""
        owned = labels or {}
        for term in self.get(name):
            key, equals, value = term.partition("=")
            if key not in owned or (equals and owned[key] != value):
                return False
        return True
