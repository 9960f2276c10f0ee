"""The pages of runs, of what an agent sees, and of the doctor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from redis_store import Client
from redis_store.admin import Admin, KeptCall, KeptHint, KeptOperation, KeptRun, RunError
from redis_store.brokers import kept_runs
from tests.support.servers import Server, empty_database

pytest.importorskip("jinja2", reason="pip install 'agent-data-store[ui]'")

from tests.support.in_process import InProcess

BEGAN = datetime.now(UTC) - timedelta(minutes=3)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def redis_url(one_server: Server) -> Iterator[str]:
    """The url of an empty database."""
    with empty_database(one_server, 8) as url:
        yield url


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pages wait for the counts of users and for a check, as on a machine that is not busy."""
    monkeypatch.setattr("redis_store.console.snapshots.WAITED_S", 30.0)
    monkeypatch.setattr("redis_store.console.checkups.CHECK_WAITED_S", 30.0)


@pytest.fixture
def console(redis_url: str) -> Iterator[InProcess]:
    with InProcess(redis_url) as console:
        yield console


def keep(client: Client, run: KeptRun, user: str = "alice") -> None:
    kept_runs.keep(client.store(user=user), run, 500, 2**24, 60_000)


def a_run(number: int, **facts: Any) -> KeptRun:
    began = BEGAN + timedelta(seconds=number)
    plain: dict[str, Any] = {
        "duration": 0.5,
        "isolation": "full",
        "namespace": "default",
        "input": "{}",
        "output": "{}",
    }
    return KeptRun(**{"run": f"run{number}", "agent": f"agent{number}", "started": began, **plain, **facts})


def press(console: InProcess, path: str, page: str, **fields: Any) -> str:
    """Send a form of a page, and return the page that follows."""
    token = re.search(r'name="csrf-token" content="([^"]+)"', console.get(page).text)
    assert token is not None
    answer = console.post(path, {"csrf": token[1], **fields}, {"Origin": str(console.settings.url).partition("/?")[0]})
    return console.get(answer.headers["location"]).text if answer.status_code == 303 else str(answer.status_code)


def test_runs_are_listed_searched_and_dropped(console: InProcess, client: Client) -> None:
    for number in range(3):
        keep(client, a_run(number))
    keep(client, a_run(3, output=None, error=RunError("AgentRaised", "m")))
    keep(client, a_run(4), user="bob")
    page = console.get("/runs?user=alice").text
    assert re.findall(r">(agent\d)<", page) == ["agent3", "agent2", "agent1", "agent0"]
    assert re.findall(r">(agent\d)<", console.get("/runs?user=alice&outcome=failed").text) == ["agent3"]
    assert re.findall(r">(agent\d)<", console.get("/runs?user=alice&text=GENT1").text) == ["agent1"]
    dropped = press(console, "/do/drop-runs", "/runs?user=alice", user="alice", run=["run0", "run3", "run4"])
    assert "2 records dropped." in dropped
    assert re.findall(r">(agent\d)<", dropped) == ["agent2", "agent1"]
    assert press(console, "/do/drop-runs", "/runs?user=alice", user="alice") == "400"
    with Admin(client) as admin:
        assert [one.run for one in admin.list_runs("bob")] == ["run4"]


def test_pages_without_runs_teach(console: InProcess, client: Client) -> None:
    client.store(user="alice").set("k", 1)
    assert 'href="/runs?user=alice"' in console.get("/runs").text
    assert "sandbox.KeptRuns()" in console.get('/runs?user=a"b').text
    missing = console.get("/run?user=alice&run=none")
    assert (missing.status_code, "This run is not kept" in missing.text) == (404, True)
    assert console.get("/run?user=alice").status_code == 404
    assert console.get(f"/run?user=alice&run={'x' * 300}").status_code == 400


def test_a_run_links_to_what_it_touched_and_runs_nothing(console: InProcess, client: Client) -> None:
    def operation(key: str | None, **facts: Any) -> KeptOperation:
        return KeptOperation(
            BEGAN, HOSTILE, "get", "a/b c", key, 1, False, 9, 0.1, run="run1", preview=HOSTILE, **facts
        )

    run = a_run(
        1,
        input=f'{{"x":"{HOSTILE}"}}',
        output=f'"{HOSTILE}',
        error=RunError("AgentRaised", f"{HOSTILE} \u202e", HOSTILE),
        stdout=HOSTILE,
        operations=(operation("k&1"), operation(None), operation("x" * 255 + "…")),
        calls=(KeptCall(BEGAN, HOSTILE, "agent", HOSTILE, 5.0, HOSTILE, "run1", "deep"),),
        hints=(KeptHint("useless_cache", HOSTILE, HOSTILE),),
        nested=("deep",),
    )
    keep(client, run)
    for wanted in ("run1", "deep"):
        page = console.get(f"/run?user=alice&run={wanted}").text
        assert "<script>alert" not in page
        assert page.count("&lt;script&gt;alert(1)") >= 10
        assert "\u202e" not in page
        assert "/key?user=alice&amp;namespace=a%2Fb+c&amp;key=k%261" in page
        assert page.count('href="/namespace?user=alice&amp;namespace=a%2Fb+c"') >= 2
        assert "<svg" in page
        assert "style=" not in page
    assert "deep" in page
    assert "is nested in this run" in page


def test_a_long_run_has_pages(console: InProcess, client: Client) -> None:
    operations = tuple(
        KeptOperation(BEGAN, "a", "get", f"n{number % 2}", f"k{number}", 1, True, 9, 0.1, run="run1")
        for number in range(1200)
    )
    keep(client, a_run(1, operations=operations))
    first = console.get("/run?user=alice&run=run1&each=1").text
    assert (first.count("<tr>"), ">k298<" in first) == (301, True)
    assert "at=300" in first
    assert ">k1199<" in console.get("/run?user=alice&run=run1&each=1&at=1000").text
    assert console.get("/run?user=alice&run=run1&at=x").status_code == 200


def test_a_key_leads_to_the_run_that_wrote_it(console: InProcess, client: Client) -> None:
    client.store(user="alice", agent="a", run="run 1").set("k", 1)
    assert 'href="/run?user=alice&amp;run=run+1"' in console.get("/key?user=alice&namespace=default&key=k").text


def seen(page: str) -> dict[str, list[str]]:
    """Return what a page says of each namespace: whether the agent reads it and writes it."""
    rows = re.findall(r'<th scope="row"><a href="/namespace[^>]*>(?:<[^>]*>)*([^<]*)<.*?</tr>', page, re.DOTALL)
    rights = re.findall(r'<th scope="row"><a href="/namespace.*?</tr>', page, re.DOTALL)
    return {name: re.findall(r">(yes|no)<", row) for name, row in zip(rows, rights, strict=True)}


def test_see_as_follows_the_permissions(console: InProcess, client: Client) -> None:
    for name in ("cache:a", "cache:b", "files:web", "files:*", "secret"):
        client.store(user="alice", namespace=name).set_many({"k": 1, "l": 2})
    client.store(user="bob", namespace="of-bob").set("k", 1)
    everything = seen(console.get("/see-as?user=alice").text)
    assert set(everything) == {"cache:a", "cache:b", "files:web", "files:*", "secret"}
    assert all(rights == ["yes", "yes"] for rights in everything.values())
    query = "read=cache:*%0D%0Afiles:{repo}&write=cache:b&input=" + '{"repo":"*"}'
    assert seen(console.get(f"/see-as?user=alice&{query}").text) == {
        "cache:a": ["yes", "no"],
        "cache:b": ["yes", "yes"],
        "files:*": ["yes", "no"],
    }
    assert seen(console.get(f"/see-as?user=alice&all=1&{query}").text)["secret"] == ["no", "no"]
    asked = console.get(f"/see-as?user=alice&ask=secret&{query}").text
    assert "AccessDenied: Reading namespace &#39;secret&#39; is not allowed here" in asked
    assert "its own: only runs of agents that are called &#39;agent&#39; share them" in asked
    assert "called &#39;&lt;b&gt;&#39; share" in console.get(f"/see-as?user=alice&agent=<b>&{query}").text
    none = console.get("/see-as?user=alice&write=new").text
    assert "It sees none of the 5 namespaces" in none


def test_see_as_lists_what_agents_list_and_changes_nothing(console: InProcess, client: Client, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as raw:
        store = client.store(user="alice")
        with raw.pipeline(transaction=False) as several:
            for number in range(1200):
                several.hset(f"user:alice:ns:n{number}", "k", 1)
                several.sadd("user:alice:namespaces", f"n{number}")
            several.sadd("user:alice:namespaces", "empty")
            several.execute()
        page = console.get("/see-as?user=alice&ask=empty").text
        assert "1,200 of 1,200" in page
        assert 'namespace=empty"' not in page
        assert raw.scard("user:alice:namespaces") == 1201
        assert len(store.list_namespaces()) == 1200


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("read={repo}", "needs &#39;repo&#39; in input_dict"),
        ("input=[1]", "must be a JSON object"),
        ("input={", "is no JSON"),
        ("operations=fly", "which is not an operation"),
        (f"read={'x' * 2000}", "at most 1,024 are allowed"),
        (f"input={'[' * 60_000}", "is no JSON"),
    ],
)
def test_see_as_says_what_is_wrong_with_permissions(query: str, said: str, console: InProcess, client: Client) -> None:
    client.store(user="alice").set("k", 1)
    page = console.get(f"/see-as?user=alice&{query}")
    assert (page.status_code, said in page.text) == (200, True)
    assert 'href="/namespace' not in page.text.partition("<main")[2]


def test_the_doctor_finds_and_mends(console: InProcess, client: Client, redis_url: str) -> None:
    client.store(user="alice").set("k", 1)
    with redis.Redis.from_url(redis_url) as raw:
        raw.hset("user:alice:info:gone", "k", "{}")
        raw.hset("user:alice:ns:default", HOSTILE, HOSTILE)
    page = console.get("/doctor").text
    assert "The info has no data." in page
    assert "<script>alert" not in page
    assert "Mend 1 finding" in page
    page = press(console, "/do/repair", "/doctor")
    assert (">mended<" in page, "Mend 1" in page) == (True, False)
    with Admin(client) as admin:
        assert [one.what for one in admin.iter_audit()] == ["doctor --repair", "doctor --repair"]
    assert console.get("/doctor?again=1").headers["location"] == "/doctor"
    assert "The info has no data." not in console.get("/doctor").text


def test_a_console_that_is_read_only_drops_and_mends_nothing(redis_url: str, client: Client) -> None:
    keep(client, a_run(1))
    with InProcess(redis_url, read_only=True) as console:
        for page in ("/runs?user=alice", "/run?user=alice&run=run1", "/doctor"):
            assert '<form method="post"' not in console.get(page).text
        assert press(console, "/do/drop-runs", "/runs?user=alice", user="alice", run="run1") == "403"
        assert press(console, "/do/repair", "/doctor") == "403"
    with Admin(client) as admin:
        assert len(admin.list_runs("alice")) == 1
