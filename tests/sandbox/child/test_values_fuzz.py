"""Random values and texts in an agent: stored, refused and read as in the host; for longer: ``make fuzz-values``."""

from __future__ import annotations

import random

import pytest

from redis_store.values import rules
from tests.support.servers import Server
from tests.support.values_fuzz.rounds import Disagreement, check_in_the_sandbox


def test_an_agent_stores_and_reads_as_the_host_does(one_server: Server) -> None:
    seed = random.randrange(10**9)
    print(f"seeds from {seed} on")
    became = check_in_the_sandbox(one_server, range(seed, seed + 300))
    assert min(became["stored"], became["refused"]) > 40


def test_differences_are_found(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_INT_DIGITS", 4299)  # named in the host's refusals only
    with pytest.raises(Disagreement, match="a value in the sandbox"):
        check_in_the_sandbox(one_server, range(300))
