"""The short fault run of the suite, on one server. ``python -m tests.support.soak`` is the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faults import FaultRun
from tests.support.servers import Server


@pytest.mark.timeout(120)
def test_no_fault_loses_a_change(start: Callable[..., Server], one_server: Server, tmp_path: Path) -> None:
    server = start(one_server.kind, "--appendonly", "yes", "--appendfsync", "always")
    report = FaultRun(server, tmp_path, seed=11, writes=3000).go()
    assert report.servers_killed
    assert report.consumers_killed
    assert report.connections_killed
    assert report.by_hand
    assert not report.misplaced
    assert not report.lost or report.resets
