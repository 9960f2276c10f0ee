"""The line of a consumer's lag over time, and what is kept of it."""

from __future__ import annotations

from redis_store.admin import ConsumerState
from redis_store.console.lag import LAG_SAMPLES, MOST_LAGS, TREND_HEIGHT, TREND_WIDTH, LagHistory, drawn


def state(behind: int | None, consumer: str = "index") -> ConsumerState:
    return ConsumerState("alice", consumer, None, "inbox", False, None, "", None, behind)


def test_a_line_goes_from_the_first_sample_to_the_last_above_zero() -> None:
    trend = drawn([(10.0, 0), (20.0, 8), (30.0, 4)])
    assert trend is not None
    assert (
        trend.line == f"M0.0 {TREND_HEIGHT - 1:.1f}L{TREND_WIDTH / 2:.1f} 1.0L{TREND_WIDTH:.1f} {TREND_HEIGHT / 2:.1f}"
    )
    assert (trend.first, trend.last, trend.most, trend.seconds) == (0, 4, 8, 20)
    assert drawn([(10.0, 3)]) is None
    level = drawn([(10.0, 0), (10.0, 0)])
    assert level is not None
    assert level.line == f"M0.0 {TREND_HEIGHT - 1:.1f}L0.0 {TREND_HEIGHT - 1:.1f}"


def test_a_history_is_bounded_and_has_one_sample_for_each_moment() -> None:
    now = 0.0
    history = LagHistory(lambda: now)
    for behind in range(LAG_SAMPLES + 10):
        history.add([state(behind)])
        history.add([state(1_000_000)])  # of another page at the same moment
        now += 5
    trend = history.trend(state(0))
    assert trend is not None
    assert (trend.first, trend.last) == (10, LAG_SAMPLES + 9)
    history.add([state(None, "gone")])  # a log that is not there
    assert history.trend(state(0, "gone")) is None
    history.add([state(1, str(number)) for number in range(MOST_LAGS)])
    assert history.trend(state(0)) is None
