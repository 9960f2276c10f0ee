"""A quarter of a minute of random histories under faults, checked. ``make histories`` is the long run."""

from __future__ import annotations

import pytest

from tests.support.histories.history import OK
from tests.support.histories.rounds import rounds
from tests.support.servers import Server

SEED = 20
SECONDS = 15


@pytest.mark.timeout(180)
def test_random_histories(one_server: Server) -> None:
    done = 0
    for kind, report in rounds(SECONDS, SEED):
        print(kind, report)
        assert not report.violations, f"{kind} {report}"
        assert report.faults["kill_server"]
        done += report.outcomes[OK]
    assert done > 250
