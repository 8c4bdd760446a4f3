"""``docs/consumers.md``, executed: webhooks, poll loops, a cron script; and a key for a second service."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

import pages
from clients import Local, until
from examples import FOLDER
from pyidempotent import attempt, current
from queues import Log, Queue
from servers import AppServer, RedisServer

SECRET = "whsec_" + b64encode(b"a secret of 24 bytes ...").decode()


@pytest.fixture(scope="module")
def page(redis_server: RedisServer) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STRIPE_SECRET", "GITHUB_SECRET", "WEBHOOK_SECRET", "EVENTS_TOKEN"):
            patch.setenv(name, SECRET)
        yield pages.run("consumers", redis_server.url, but="#!/usr/bin/env python3")


@pytest.fixture
def handled(page: ModuleType) -> list[tuple[str, Any]]:
    page.handled.clear()
    handled: list[tuple[str, Any]] = page.handled
    return handled


Sender = Callable[..., tuple[dict[str, str], bytes]]


def stripe(event_id: str, *, age: float = 0, key: str = SECRET, **more: Any) -> tuple[dict[str, str], bytes]:
    event = {"id": event_id, "type": "charge.succeeded", "data": {"object": {"id": "ch_1"}}, **more}
    body, sent = json.dumps(event).encode(), str(int(time.time() - age))
    signature = hmac.new(key.encode(), f"{sent}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={sent},v1={'0' * 64},v1={signature},v0=x"}, body


def github(event_id: str, *, key: str = SECRET, **more: Any) -> tuple[dict[str, str], bytes]:
    body = json.dumps({"action": "opened", **more}).encode()
    signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Delivery": event_id}, body


def standard(event_id: str, *, age: float = 0, key: str = SECRET, **more: Any) -> tuple[dict[str, str], bytes]:
    import base64

    body, sent = json.dumps({"type": "user.created", **more}).encode(), str(int(time.time() - age))
    secret = base64.b64decode(key.removeprefix("whsec_"))
    signature = b64encode(hmac.new(secret, f"{event_id}.{sent}.".encode() + body, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": event_id, "webhook-timestamp": sent, "webhook-signature": f"v1,AAAA v1,{signature}"}
    return headers, body


def events(event_id: str, *, key: str = SECRET, source: str = "/shop", **more: Any) -> tuple[dict[str, str], bytes]:
    body = json.dumps({"order": 7, **more}).encode()
    return {"Authorization": f"Bearer {key}", "ce-source": source, "ce-id": event_id, "ce-specversion": "1.0"}, body


SENDERS: dict[str, Sender] = {"stripe": stripe, "github": github, "standard": standard, "events": events}


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def deliver(page: ModuleType, sender: str, event_id: str, **more: Any) -> int:
    headers, body = SENDERS[sender](event_id, **more)
    return Local(page.app).post(f"/{sender}", content=body, headers=headers).status_code


def new_id() -> str:
    return str(uuid.uuid4())


def test_a_repeat_is_acknowledged_without_an_effect(
    page: ModuleType, handled: list[tuple[str, Any]], sender: str
) -> None:
    event = new_id()
    assert [deliver(page, sender, event) for _ in range(3)] == [204] * 3
    assert [name for name, _ in handled] == [sender]
    assert deliver(page, sender, new_id()) == 204
    assert len(handled) == 2


def test_a_stranger_gets_nowhere_near_the_store(page: ModuleType, handled: list[tuple[str, Any]], sender: str) -> None:
    event, wrong = new_id(), "whsec_" + b64encode(b"another secret").decode()
    assert deliver(page, sender, event, key=wrong) in (400, 401)
    assert Local(page.app).post(f"/{sender}", content=b"{}").status_code in (400, 401)
    headers, body = SENDERS[sender](event)
    tampered = Local(page.app).post(f"/{sender}", content=body[:-1] + b" }", headers=headers).status_code
    assert (tampered in (400, 401)) is (sender != "events"), "a token does not cover the body"
    assert handled == [] or sender == "events"
    if sender in ("stripe", "standard"):
        assert deliver(page, sender, event, age=3600) in (400, 401), "a recording of last hour's"
    if sender != "events":
        assert deliver(page, sender, event) == 204, "the key was not taken by any of them"


def test_a_failed_delivery_is_not_acknowledged_and_its_repeat_runs(
    page: ModuleType, handled: list[tuple[str, Any]], sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, runs = new_id(), []

    async def fails_once(*args: Any) -> None:
        runs.append(args)
        if len(runs) == 1:
            raise OSError("the database is away")

    monkeypatch.setattr(page, "handle", fails_once)
    assert [deliver(page, sender, event) for _ in range(3)] == [500, 204, 204]
    assert len(runs) == 2


def test_while_the_first_runs_a_repeat_is_not_acknowledged(
    page: ModuleType, sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, statuses = new_id(), []

    async def delivered_meanwhile(*_: Any) -> None:
        headers, body = SENDERS[sender](event)
        transport = httpx.ASGITransport(page.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            answer = await client.post(f"/{sender}", content=body, headers=headers)
        assert answer.json()["effect"] == "running"
        statuses.append((answer.status_code, answer.headers["retry-after"]))

    monkeypatch.setattr(page, "handle", delivered_meanwhile)
    assert deliver(page, sender, event) == 204
    assert statuses == [(409, "1")]


def test_what_a_sender_changes_between_deliveries_does_not_matter(
    page: ModuleType, handled: list[tuple[str, Any]]
) -> None:
    event = new_id()
    assert (
        deliver(page, "stripe", event, pending_webhooks=2) == deliver(page, "stripe", event, pending_webhooks=1) == 204
    )
    assert deliver(page, "standard", event) == deliver(page, "standard", event, age=60) == 204
    assert len(handled) == 2
    assert deliver(page, "github", event) == 204
    assert deliver(page, "github", event, action="closed") == 422, "one GUID for two events is no repeat"


def test_events_of_two_sources_with_one_id_are_two(page: ModuleType, handled: list[tuple[str, Any]]) -> None:
    event = new_id()
    assert deliver(page, "events", event) == deliver(page, "events", event, source="/shop/eu") == 204
    assert len(handled) == 2
    assert deliver(page, "events", "", source="/shop") == 400


# Poll loops.


def test_a_queue_gives_a_message_up_when_it_is_done(page: ModuleType) -> None:
    queue, runs, order = Queue(), [], {"id": new_id(), "amount": 42}

    def handle(body: dict[str, Any]) -> str:
        runs.append(body)
        if len(runs) == 1:
            raise OSError("the database is away")
        return "done"

    queue.send(order)
    page.work(queue, handle)
    assert len(queue.waiting) == 1, "a failed message stays"
    page.work(queue, handle)
    assert len(runs) == 1, "and is hidden for a while"
    queue.advance(30)
    page.work(queue, handle)
    assert (len(runs), queue.waiting) == (2, {})
    queue.send(order)  # the producer's retry, or a redelivery
    page.work(queue, handle)
    assert (len(runs), queue.waiting) == (2, {}), "a repeat is acknowledged without an effect"


def test_a_queue_keeps_a_message_that_is_worked_on_elsewhere(page: ModuleType) -> None:
    queue, runs, order = Queue(), [], {"id": new_id(), "amount": 42}
    queue.send(order)

    def handle(body: dict[str, Any]) -> None:
        runs.append(body)
        if len(runs) == 1:
            queue.advance(31)  # too slow: it arrives at another consumer
            page.work(queue, handle)
            assert len(queue.waiting) == 1, "what still runs is not acknowledged"

    page.work(queue, handle)
    assert len(queue.waiting) == 1, "this consumer's receipt is not the latest any more"
    queue.advance(31)
    page.work(queue, handle)
    assert (len(runs), queue.waiting) == (1, {})


def test_a_log_is_committed_up_to_what_is_done(page: ModuleType, redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")  # a record's place is its name
    log, runs = Log(["a", "b", "c"]), []

    def handle(value: str) -> None:
        runs.append(value)
        if runs == ["a", "b"]:
            raise OSError("the database is away")

    page.work_log(log, handle)
    assert (runs, log.committed) == (["a", "b"], 1), "nothing after a failure is committed"
    page.work_log(log, handle)
    assert (runs, log.committed) == (["a", "b", "b", "c"], 3)
    log.committed = 1  # the commits were lost
    log.rebalance()
    page.work_log(log, handle)
    assert (len(runs), log.committed) == (4, 3)


def test_a_log_waits_for_what_is_worked_on_elsewhere(page: ModuleType, redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")
    log, runs = Log(["a", "b"]), []
    with attempt(page.backend, key="ledger/0/0", payload="a", name="ledger") as run:
        page.work_log(log, runs.append)
        assert (runs, log.committed) == ([], 0)
        run.result = None
    page.work_log(log, runs.append)
    assert (runs, log.committed) == (["b"], 2)


# Cron.


def test_a_cron_script_runs_once_a_day(tmp_path: Path, redis_server: RedisServer) -> None:
    script, day = tmp_path / "invoices.py", new_id()
    text = pages.block("consumers", "#!/usr/bin/env python3")
    script.write_text(text.replace("redis://localhost", redis_server.url))

    def start() -> tuple[int, str]:
        done = subprocess.run([sys.executable, script, day], capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout + done.stderr

    with attempt(redis_server.url, key=day, name="invoices"):
        assert start() == (1, f"the invoices of {day} are being sent elsewhere\n")
        current().release()
    assert start() == (0, f"3 invoices of {day} are sent\n")
    assert start() == (0, f"the 3 invoices of {day} were sent before\n")


# A second service.


class Bank(ThreadingHTTPServer):
    """Takes down the keys it is sent, and answers when it is told to."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.asked, self.answers = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Charge)

    def __enter__(self) -> Bank:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()
        self.shutdown()
        self.server_close()


class Charge(BaseHTTPRequestHandler):
    server: Bank

    def do_POST(self) -> None:
        self.server.keys.append(self.headers["Idempotency-Key"])
        self.server.asked.set()
        assert self.server.answers.wait(20)
        body = b'{"receipt": 1}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def send_order(checkout: AppServer, key: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{checkout.url}/orders", params={"amount": 42, **more}, headers={"Idempotency-Key": key})


def send_until_it_runs(checkout: AppServer, key: str, **more: Any) -> dict[str, Any]:
    answer: httpx.Response = until(lambda: (sent := send_order(checkout, key, **more)).is_success and sent)
    body: dict[str, Any] = answer.json()
    return body


def send_and_forget(checkout: AppServer, key: str, **more: Any) -> threading.Thread:
    def send() -> None:
        with pytest.raises(httpx.TransportError):
            send_order(checkout, key, **more)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> str:
    return redis_server.url if request.param == "redis" else f"sqlite:///{tmp_path}/checkout.db"


def test_after_a_kill_the_rerun_sends_the_same_child_key(store: str) -> None:
    key = new_id()
    with Bank() as bank:
        there = {"BANK": f"http://127.0.0.1:{bank.server_port}", "CHECKOUT_STORE": store}
        with AppServer(FOLDER / "checkout.py", there) as checkout:
            lost = send_and_forget(checkout, key)
            assert bank.asked.wait(20)
            checkout.kill()
            lost.join()
            bank.answers.set()
            checkout.start()
            assert send_until_it_runs(checkout, key) == {"amount": 42, "receipt": 1}
            assert send_order(checkout, key).headers["idempotent-replayed"] == "true"
            first, second = bank.keys
            assert first == second
            send_order(checkout, new_id())
            assert bank.keys[2] != first, "another order's is another one"


def test_a_bank_that_takes_keys_charges_once(tmp_path: Path) -> None:
    ledger, key = tmp_path / "ledger.txt", new_id()
    bank_settings = {"BANK_LEDGER": str(ledger), "BANK_STORE": f"sqlite:///{tmp_path}/bank.db"}
    with AppServer(FOLDER / "bank.py", bank_settings) as bank:
        there = {"BANK": bank.url, "CHECKOUT_STORE": f"sqlite:///{tmp_path}/checkout.db"}
        with AppServer(FOLDER / "checkout.py", there) as checkout:
            lost = send_and_forget(checkout, key, bank_takes=1)
            until(ledger.exists)
            checkout.kill()
            lost.join()
            checkout.start()
            assert send_until_it_runs(checkout, key, bank_takes=1) == {"amount": 42, "receipt": 1}
    assert len(ledger.read_text().splitlines()) == 1
