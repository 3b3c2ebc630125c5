"""Counters and gauges in Prometheus' text format.

Source: prometheus.io, "Exposition formats". Only the event loop's thread counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
_HELP = {
    "cove_registry_requests_total": "Requests by endpoint, method and status.",
    "cove_registry_request_seconds": "How long requests took.",
    "cove_registry_received_bytes_total": "Bytes of blobs and manifests that were pushed.",
    "cove_registry_sent_bytes_total": "Bytes of blobs and manifests that were pulled.",
    "cove_registry_refused_logins_total": "Wrong users and passwords.",
    "cove_registry_proxy_requests_total": "Pulls through the cache, by what they found.",
    "cove_registry_proxy_received_bytes": "Bytes of blobs fetched from upstream registries so far.",
    "cove_registry_collections_total": "Collections of garbage.",
    "cove_registry_collected_bytes_total": "Bytes that collections freed.",
    "cove_registry_stored_bytes": "Bytes of blobs, manifests and uploads under way.",
    "cove_registry_quota_bytes": "Bytes that the registry may hold; 0 is no limit.",
    "cove_registry_uploads": "Uploads under way.",
    "cove_registry_repositories": "Repositories.",
    "cove_registry_manifests": "Manifests in repositories.",
    "cove_registry_tags": "Tags in repositories.",
    "cove_registry_blobs": "Blobs in repositories.",
}

_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What happened so far."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, defaultdict[_Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._durations: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * (len(_BUCKETS) + 2))

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self._counters[name][tuple(sorted(labels.items()))] += amount

    def took(self, endpoint: str, seconds: float) -> None:
        found = self._durations[endpoint]
        for index, bound in enumerate(_BUCKETS):
            if seconds <= bound:
                found[index] += 1
        found[-2] += 1
        found[-1] += seconds

    def exposition(self, gauges: Mapping[str, float]) -> str:
        """Everything, with gauges measured now."""
        lines: list[str] = []
        for name, values in sorted(self._counters.items()):
            lines += _head(name, "counter")
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in sorted(values.items())]
        lines += self._histogram("cove_registry_request_seconds")
        for name, value in sorted(gauges.items()):
            lines += [*_head(name, "gauge"), f"{name} {_number(value)}"]
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str) -> Iterable[str]:
        yield from _head(name, "histogram")
        for endpoint, found in sorted(self._durations.items()):
            for bound, value in zip((*map(str, _BUCKETS), "+Inf"), found, strict=False):
                yield f"{name}_bucket{_labels((('endpoint', endpoint), ('le', bound)))} {_number(value)}"
            yield f"{name}_sum{_labels((('endpoint', endpoint),))} {found[-1]:.6f}"
            yield f"{name}_count{_labels((('endpoint', endpoint),))} {_number(found[-2])}"


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}"]


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
