"""The console script, in a process of its own, on each store that another process can see."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from commands import SCRIPT, Ran, Terminal, pyidempotent, run
from pyidempotent import attempt, idempotent
from pyidempotent.backends import Answer, Backend
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from servers import PostgresServer, RedisServer, free_port

#: A key of a stranger's, who would like to write on an operator's screen.
HOSTILE = "evil \x1b]0;owned\x07\u202e"


class Place:
    """A store, and the command on it."""

    def __init__(self, backend: Backend, url: str, *options: str) -> None:
        self.backend, self.url, self.options = backend, url, options

    def __call__(self, *arguments: str, **more: str) -> Ran:
        return pyidempotent(*arguments, *self.options, url=self.url, **more)

    def unknown(self, key: str, name: str = "shop.charge") -> None:
        with (
            pytest.raises(RuntimeError, match="broke"),
            attempt(self.backend, key=key, name=name, after_crash="refuse"),
        ):
            raise RuntimeError("the line broke")

    def done(self, key: str, name: str = "shop.charge") -> None:
        with attempt(self.backend, key=key, name=name) as work:
            work.result = {"charged": 42}


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(SqliteBackend(tmp_path / "i.db"), f"sqlite:///{tmp_path}/i.db")
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        prefix = f"{uuid.uuid4()}:"
        return Place(RedisBackend(server.url, prefix=prefix), server.url, "--prefix", prefix)
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    url = postgres.new_url()
    return Place(PostgresBackend(url), url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Place:
    backend = SqliteBackend(tmp_path / "i.db")
    backend.get("k", operation="makes the file")
    return Place(backend, f"sqlite:///{tmp_path}/i.db")


def test_what_is_there_is_listed_filtered_and_bounded(place: Place) -> None:
    place.unknown("order-7")
    place.done("order-8")
    with attempt(place.backend, key="evt_1", name="webhook"):
        listed = place("list", "--json").documents
        assert [(found["label"], found["state"]) for found in listed] == [
            ("shop.charge order-7", "unknown"),
            ("webhook evt_1", "in flight"),
        ]
        assert 0 < listed[1]["lease_left"] <= 30
        assert 0 < listed[0]["ttl_left"] <= 86400
        assert [found["label"] for found in place("list", "--json", "--operation", "webhook").documents] == [
            "webhook evt_1"
        ]
        one = place("list", "--limit", "1")
        assert (len(one.out.splitlines()), one.err) == (2, "There may be more than 1; pass --limit.\n")
    done = place("list", "--state", "completed").out
    assert done.startswith("STATE ")
    assert "shop.charge order-8" in done
    assert "order-7" not in done
    assert place("list", "--older", "1h").err == ("Nothing is in flight, lapsed or unknown for longer than 1h 0m.\n")
    stats = place("stats", "--json").documents[0]
    assert (stats["unknown"], stats["completed"], stats["records"]) == (1, 2, 3)
    assert stats["oldest_unknown"]["label"] == "shop.charge order-7"
    assert {found["operation"] for found in stats["operations"]} == {"shop.charge", "webhook"}
    assert len(place("export").documents) == 3
    ping = place("ping", "--json").documents[0]
    assert ping["store"] in ("SQLite", "Redis", "PostgreSQL")
    assert ping["version"]


def test_more_records_than_a_page(place: Place) -> None:
    def labels(ran: Ran) -> list[str]:
        return sorted(found["label"] for found in ran.documents)

    @idempotent(place.backend, key="number", name="many")
    def work(number: int) -> None: ...

    for number in range(1200):
        work(number)
    assert labels(place("export")) == sorted(f"many {number}" for number in range(1200))
    assert len(place("list", "--state", "completed", "--limit", "1100", "--json").documents) == 1100
    terminal = Terminal("stats", *place.options, url=place.url)
    assert terminal.end() == 0
    assert "records looked at" in terminal.shown, "a person hears how far it is"
    assert "looked at" not in place("stats").err


def test_an_answer_is_shown_without_its_body(place: Place) -> None:
    place.unknown("order-7", name="webhook")
    answer = Answer(201, [(b"location", b"/orders/7"), (b"set-cookie", b"session=secret")], b"card 4111")
    (record,) = place.backend.unfinished()
    assert place.backend.resolve(id=record.id, fence=record.fence, result=answer)
    name = ("get", "order-7", "--operation", "webhook")
    for ran in (place(*name), place(*name, "--json"), place("export"), place("list", "--state", "completed", "--json")):
        assert ran.code == 0
        assert "4111" not in ran.out
        assert "secret" not in ran.out
    assert "  status     201\n  header     location: /orders/7\n" in place(*name).out
    assert "  body       card 4111\n" in place(*name, "--show-body").out
    assert place(*name, "--json", "--show-body").documents[0]["body"] == "card 4111"
    assert place("export", "--show-body").documents[0]["body"] == "card 4111"


def test_settling_a_key(place: Place) -> None:
    place.unknown("order-7")
    place.done("order-8")
    name = ("order-7", "--operation", "shop.charge")
    fence = place("get", *name, "--json").documents[0]["fence"]
    refused = place("release", *name, "--fence", str(fence + 1), "--yes")
    assert (refused.code, refused.out) == (4, "")
    assert f"its fence is not {fence + 1}" in refused.err
    assert place("release", *name).code == 2, "nobody can be asked"
    done = place("release", "order-8", "--operation", "shop.charge", "--yes")
    assert done.code == 4
    assert "is completed: it is done" in done.err
    resolved = place("resolve", *name, "--fence", str(fence), "--result", '{"sent": true}', "--yes")
    assert (resolved.code, resolved.out, resolved.err) == (0, "resolved: shop.charge order-7\n", "")
    with attempt(place.backend, key="order-7", name="shop.charge", after_crash="refuse") as again:
        assert (again.replayed, again.result) == (True, {"sent": True})
    assert place("release", *name, "--force", "--yes").code == 0
    missing = place("get", "order-7", "--operation", "shop.charge", "--caller", "alice", "--namespace", "eu")
    assert missing.code == 3
    for words in ('namespace "eu"', 'function "shop.charge"', 'caller "alice"', 'key "order-7"', "id "):
        assert words in missing.err
    assert place("purge").code == 0


def test_a_request_is_named_by_method_and_path(sqlite: Place) -> None:
    missing = sqlite("get", "order-7", "--operation", "post /pay")
    assert (missing.code, 'request "POST /pay"' in missing.err) == (3, True)


def test_a_result_that_is_none_is_a_mistake_of_usage(sqlite: Place) -> None:
    sqlite.unknown("order-7")
    name = ("resolve", "order-7", "--operation", "shop.charge", "--yes")
    for wrong, words in (
        (("--result", "{"), "--result is not JSON"),
        (("--result", "1", "--body", "1"), "--result is for a function"),
        ((), "say what a repeat gets"),
        (("--status", "101"), "101"),
        (("--status", "204", "--body", "x"), "has no body"),
        (("--body", "x", "--type", "a\nb"), "no content type"),
    ):
        ran = sqlite(*name, *wrong)
        assert (ran.code, ran.out) == (2, ""), ran
        assert words in ran.err
    assert sqlite("get", *name[1:4], "--json").documents[0]["state"] == "unknown"


def test_a_strangers_key_moves_no_cursor(sqlite: Place) -> None:
    sqlite.unknown(HOSTILE)
    for ran in (
        sqlite("list"),
        sqlite("get", HOSTILE, "--operation", "shop.charge"),
        sqlite("stats"),
        sqlite("get", HOSTILE, "--operation", "other"),
        sqlite("release", HOSTILE, "--operation", "shop.charge", "--yes"),
    ):
        assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err), ran


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    port = free_port()
    down = pyidempotent("list", url=f"redis://:secret@127.0.0.1:{port}")
    assert (down.code, down.out) == (1, "")
    assert f"127.0.0.1:{port}" in down.err
    assert "secret" not in down.err
    assert pyidempotent("ping", url=f"postgresql://app:secret@127.0.0.1:{port}/x").code == 1
    typo = pyidempotent("list", "--url", f"sqlite:///{tmp_path}/typo.db")
    assert (typo.code, "there is no file" in typo.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
    for url, words in (
        (None, "say which store"),
        ("redis", "it is not a URL"),
        ("mysql://root:secret@db", "no store has URLs with mysql://"),
        ("memory://", "keeps its keys to the process"),
    ):
        wrong = pyidempotent("list", url=url)
        assert (wrong.code, wrong.out) == (2, "")
        assert words in wrong.err
        assert "secret" not in wrong.err


def test_settings_that_endanger_the_promises(tmp_path: Path) -> None:
    with RedisServer("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
        ran = pyidempotent("ping", url=server.url)
        assert (ran.code, "warning: maxmemory-policy is allkeys-lru" in ran.out) == (0, True)
        assert pyidempotent("ping", "--strict", url=server.url).code == 5
    with RedisServer("--dir", str(tmp_path), "--appendonly", "yes", "--appendfsync", "always") as server:
        assert pyidempotent("ping", "--strict", url=server.url).code == 0


def test_a_user_who_may_do_little_can_list(redis_server: RedisServer) -> None:
    prefix = f"{uuid.uuid4()}:"
    rules = ["+get", "+set", "+time", "+script|load", "+evalsha", "+scan", "+getrange", "+pttl"]
    user = f"u{uuid.uuid4().hex}"
    redis_server.cli("ACL", "SETUSER", user, "on", ">word", f"~{prefix}*", "-@all", *rules)
    place = Place(RedisBackend(redis_server.url, prefix=prefix), redis_server.url, "--prefix", prefix)
    place.done("order-7")
    url = redis_server.url.replace("://", f"://{user}:word@")
    listed = pyidempotent("list", "--state", "completed", "--prefix", prefix, url=url)
    assert (listed.code, "shop.charge order-7" in listed.out) == (0, True), listed
    ping = pyidempotent("ping", "--prefix", prefix, url=url)
    assert (ping.code, "INFO is not permitted" in ping.out) == (0, True), ping


def test_a_reader_that_leaves_is_no_failure(sqlite: Place) -> None:
    for number in range(300):
        sqlite.done(f"order-{number}-{'x' * 100}")
    command = f"set -o pipefail; {SCRIPT} export | head -n 1"
    ran = run(["bash", "-c", command], sqlite.url)
    assert (ran.code, ran.err, len(ran.documents)) == (0, "", 1)


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["", "no-color", "dumb"])
def test_colours_are_for_a_terminal(sqlite: Place, more: dict[str, str]) -> None:
    sqlite.unknown("order-7")
    assert "\x1b" not in sqlite("list").out
    terminal = Terminal("list", url=sqlite.url, **more)
    assert terminal.end() == 0
    assert ("\x1b[31munknown" in terminal.shown) is (not more)


def test_a_person_is_asked(sqlite: Place) -> None:
    sqlite.unknown("order-7")
    name = ("release", "order-7", "--operation", "shop.charge")
    for answer, code, state in (("n", 4, "unknown"), ("", 4, "unknown"), ("y", 0, None)):
        terminal = Terminal(*name, url=sqlite.url)
        asked = terminal.read_until("[y/N] ")
        assert "shop.charge order-7 is unknown" in asked
        terminal.type(answer)
        assert terminal.end() == code
        found = sqlite.backend.get("order-7", operation="shop.charge")
        assert (found.state if found else None) == state


@pytest.mark.parametrize("arguments", [("watch",), ("release", "order-7", "--operation", "shop.charge")])
def test_an_interrupt_ends_it(sqlite: Place, arguments: tuple[str, ...]) -> None:
    sqlite.unknown("order-7")
    terminal = Terminal(*arguments, url=sqlite.url)
    terminal.read_until("order-7")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


def test_watch_without_a_terminal_prints_lines(sqlite: Place) -> None:
    sqlite.unknown("order-7")
    ran = sqlite("watch", "--count", "2", "--interval", "100ms")
    assert [line.partition("  ")[2] for line in ran.out.splitlines()] == ["in flight 0  lapsed 0  unknown 1"] * 2
    (as_json,) = sqlite("watch", "--count", "1", "--json").documents
    assert (as_json["unknown"], as_json["records"][0]["label"]) == (1, "shop.charge order-7")


def test_the_ways_to_start_it(sqlite: Place) -> None:
    module = run([sys.executable, "-m", "pyidempotent", "--help"])
    script = pyidempotent("--help")
    assert (module.code, module.out) == (0, script.out)
    for command in ("ping", "list", "get", "resolve", "release", "purge", "stats", "watch", "export", "completions"):
        assert f"\n  {command} " in script.out
    assert "Exit codes: 0 done" in script.out
    assert pyidempotent("--version").out.startswith("pyidempotent ")
    assert pyidempotent("list", "--help").code == 0
    assert pyidempotent("lsit").code == 2
    completions = pyidempotent("completions", "bash")
    assert completions.code == 0
    subprocess.run(["bash", "-n"], input=completions.out, text=True, check=True, timeout=30)


def test_the_environment_s_url_is_not_shown(sqlite: Place) -> None:
    ran = run([SCRIPT, "list", "--help"], "redis://:secret@localhost")
    assert "secret" not in ran.out
