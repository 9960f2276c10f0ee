"""Half a minute of random histories under faults, checked. ``make histories`` is the long run."""

from __future__ import annotations

import pytest

from tests.support.histories.history import OK
from tests.support.histories.rounds import rounds
from tests.support.servers import Server

SEED = 20
SECONDS = 30


@pytest.mark.timeout(180)
def test_half_a_minute_of_histories(one_server: Server) -> None:
    done = 0
    # Reads of one store can still go back where some are answered by a near cache and others are not.
    for kind, report in rounds(SECONDS, SEED, near=False):
        print(kind, report)
        assert not report.violations, f"{kind} {report}"
        assert report.faults["kill_server"]
        done += report.outcomes[OK]
    assert done > 500
