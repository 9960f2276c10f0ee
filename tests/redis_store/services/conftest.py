"""The servers that play services, each started on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import missing
from tests.support.servers import MissingServer
from tests.support.services import ServiceServer, start_service


@pytest.fixture(scope="session")
def service_of() -> Iterator[Callable[[str], ServiceServer]]:
    """The server of a service by its name."""
    running: dict[str, ServiceServer] = {}

    def get(name: str) -> ServiceServer:
        try:
            if name not in running:
                running[name] = start_service(name)
        except MissingServer as error:
            missing(error)
        return running[name]

    yield get
    for server in running.values():
        server.stop()
