"""Networks that need nothing made: the host's own ("host"), and none but loopback ("null")."""

from __future__ import annotations

from collections.abc import Iterable

from cove.errors import Unsupported
from cove.network.driver import Endpoint, EndpointRequest, Interface, Network, Queue


class UnmanagedDriver:
    """Makes no interface: the container shares the host's namespace, or has loopback, which its init brings up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self, network: Network) -> Network:
        return network

    def remove(self, network: Network) -> None:
        """There is nothing to remove."""

    def plan(self, network: Network, container_id: str, request: EndpointRequest) -> Endpoint:
        endpoint = Endpoint(network_id=network.id, container_id=container_id, driver=self.name, rate=request.rate)
        self.limit(network, (endpoint,))
        return endpoint

    def attach(self, network: Network, endpoint: Endpoint, pid: int) -> Interface | None:
        return None

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """There is nothing to take away."""

    def limit(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        if network.rate or any(endpoint.rate for endpoint in endpoints):
            raise Unsupported(
                f"The network {network.name} has no rate to limit: Cove makes no interface on it; use a bridge"
            )

    def queues(self, network: Network, endpoint: Endpoint) -> tuple[Queue | None, Queue | None]:
        return None, None

    def release(self, network: Network, endpoint: Endpoint) -> None:
        """There is no address to give back."""

    def restore(self, network: Network, endpoints: Iterable[Endpoint]) -> None:
        """There is nothing to learn."""

    def close(self) -> None:
        """There is nothing to take away."""
