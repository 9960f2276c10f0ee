"""Random requests under random permissions: no run sees or changes what it must not; for longer: ``make fuzz``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from redis_store.namespace.access import Names
from redis_store.namespace.scope import Scope
from sandbox.protocol.operations import OPERATIONS
from tests.support.rights_fuzz.rounds import rounds
from tests.support.servers import Server

SEED, ROUNDS = 20, 12


@pytest.mark.timeout(120)
def test_no_run_sees_or_changes_what_it_must_not(one_server: Server) -> None:
    for report in rounds(one_server, SEED, count=ROUNDS):
        assert report.violation is None, f'{report}\nRepeat with: make fuzz ARGS="--seconds 1 --seed {report.seed}"'
        assert report.answers["carried out"] > 20
        assert report.answers["AccessDenied"] > 20


def without_a_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in ("pop", "replace", "claim_value"):
        monkeypatch.setitem(OPERATIONS, operation, replace(OPERATIONS[operation], needs=()))


def without_the_right_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "check_readable", lambda self: None)


def with_the_names_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Names, "is_shared", lambda self, kind, name: True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [without_a_need, without_the_right_to_read, with_the_names_of_all])
def test_faults_are_found(
    fault: Callable[[pytest.MonkeyPatch], None], one_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert any(report.violation for report in rounds(one_server, SEED, count=2 * ROUNDS))
