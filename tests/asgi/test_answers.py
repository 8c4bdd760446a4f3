"""The ASGI middleware by itself: how an answer is captured and stored, and what goes wrong on its way."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context, copy_context
from typing import Any

import pytest

from asgi_client import App, Client, Message, body, problem, protected, start
from clients import new_key
from pyidempotent import attempt, current
from pyidempotent._native import CurrentAttempt
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from servers import RedisServer

# Answers.


def test_the_start_of_an_answer_that_may_stream_is_not_held() -> None:
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        sent.append("app: started")
        await send(body(b"data: 1\n\n", more=True))
        sent.append("app: sent an event")
        await send(body())

    async def server(message: Message) -> None:
        sent.append(message["type"])

    asyncio.run(protected(app).post(send=server))
    assert sent[:4] == ["http.response.start", "app: started", "http.response.body", "app: sent an event"]


def test_the_last_part_goes_out_when_the_record_is_stored(redis_server: RedisServer) -> None:
    """With a declared length the part that completes it, though the application would say more."""
    states: list[str] = []

    async def server(message: Message) -> None:
        record = await asyncio.to_thread(backend.get, client.key, operation=("POST", "/pay"))
        states.append(record.state if record else "absent")

    from pyidempotent.backends.redis import RedisBackend

    backend = RedisBackend(redis_server.url, prefix=new_key())
    parts = [start(200, (b"content-length", b"4")), body(b"ab", more=True), body(b"cd", more=True), body()]
    client = protected(App(*parts), backend=backend)
    asyncio.run(client.post(send=server))
    assert states == ["in flight", "in flight", "completed", "completed"]


def test_headers_that_outer_middleware_adds_are_not_stored() -> None:
    """It adds them to the list that the application sent, and does so again on a replay."""
    app = App(start(200, (b"x-own", b"1")), body(b"a", more=True), body(b"b"))
    inner = IdempotencyMiddleware(app, MemoryBackend())

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-outer", b"1"))
            await send(message)

        await inner(scope, receive, adding)

    client = Client(outer)
    for _ in range(3):
        names = [name for name, _ in asyncio.run(client.post())[0]["headers"]]
        assert names.count(b"x-outer") == names.count(b"x-own") == 1
    assert app.runs == 1


def test_an_attempt_that_was_overtaken_answers_with_its_successors_answer() -> None:
    async def story(length: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bytes]:
        begun, go = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            first = not begun.is_set()
            begun.set()
            if first:
                await go.wait()
            await send(start(200, *length))
            await send(body(b"first" if first else b"other"))

        client = protected(app, lease=0.05, run_limit=0)  # not renewed
        slow = asyncio.create_task(client.post())
        await begun.wait()
        while (other := await client.post())[0]["status"] == 409:
            await asyncio.sleep(0.01)
        go.set()
        return (await slow)[1]["body"], other[1]["body"]

    assert asyncio.run(story(((b"content-length", b"5"),))) == (b"other", b"other")
    # What has begun to stream can't be taken back.
    assert asyncio.run(story(())) == (b"first", b"other")


# What goes wrong.


def test_a_client_that_leaves_within_its_body_runs_nothing_and_claims_nothing() -> None:
    app = App()
    client = protected(app)
    part = {"type": "http.request", "body": b"A", "more_body": True}
    assert asyncio.run(client.post(part, {"type": "http.disconnect"})) == []
    assert app.runs == 0
    assert asyncio.run(client.status()) == 200


def test_a_body_without_an_end_is_read_no_further_than_the_cap() -> None:
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    app = App()
    client = protected(app, max_request_bytes=1000)
    asyncio.run(client.app(client.scope(), receive, send))
    assert (sent[0]["status"], received, app.runs) == (413, 11, 0)


BROKEN_OFF = {
    "the application ends without an answer": [],
    "the application ends without an end": [start(201), body(b"a", more=True)],
    "shorter than it said": [start(201, (b"content-length", b"3")), body(b"a")],
    "an exception": [start(201), body(b"a", more=True), RuntimeError("broken")],
}


@pytest.mark.parametrize("messages", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_an_answer_that_breaks_off_leaves_the_outcome_unknown(messages: list[Any]) -> None:
    """What its work had come to, nobody knows."""
    for after_crash, told in (("refuse", (409, "unknown")), ("rerun", (409, "running"))):
        app = App(*messages)
        app.messages = tuple(messages)
        client = protected(app, after_crash=after_crash)
        with contextlib.suppress(RuntimeError):
            asyncio.run(client.post())
        answer = asyncio.run(client.post())
        assert (answer[0]["status"], problem(answer)["effect"]) == told
        assert app.runs == 1


def test_an_answer_with_trailers_is_not_kept() -> None:
    trailers = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"13")]}
    app = App({**start(201, (b"location", b"/7")), "trailers": True}, body(b"a"), trailers)
    client = protected(app)
    assert asyncio.run(client.post())[2] == trailers
    told = asyncio.run(client.post())
    assert (told[0]["status"], problem(told)["answer_status"], problem(told)["location"]) == (410, 201, "/7")


def test_an_answer_with_more_headers_than_can_be_told_is_not_kept() -> None:
    client = protected(App(start(200, *[(b"x", b"")] * 65537), body(b"a")))
    asyncio.run(client.post())
    assert asyncio.run(client.status()) == 410


LONGER = {
    "in one part": [start(200, (b"content-length", b"2")), body(b"long")],
    "in several": [start(200, (b"content-length", b"2")), body(b"l", more=True), body(b"ong")],
}


@pytest.mark.parametrize("messages", LONGER.values(), ids=LONGER)
def test_an_answer_that_is_longer_than_it_said_is_not_kept(messages: list[Message]) -> None:
    """It is malformed: no server sends it so, and each client has seen something else of it."""
    client = protected(App(*messages))
    assert asyncio.run(client.post()) == messages
    told = asyncio.run(client.post())
    assert (told[0]["status"], problem(told)["answer_status"]) == (410, 200)


MALFORMED = {
    "no status": [{"type": "http.response.start", "headers": []}, body()],
    "a status that is no number": [{"type": "http.response.start", "status": "ok"}, body()],
    "a status that no number type holds": [{"type": "http.response.start", "status": 2**70}, body()],
    "headers of str": [{"type": "http.response.start", "status": 200, "headers": [("a", "b")]}, body()],
    "headers that are no pairs": [{"type": "http.response.start", "status": 200, "headers": [b"abc"]}, body()],
    "a body of str": [start(), {"type": "http.response.body", "body": "text"}],
    "a body of nothing": [start(), {"type": "http.response.body", "body": None}],
    "a body before the start": [body(b"a"), start()],
    "two starts": [start(), start(), body()],
    "an unknown message": [{"type": "http.response.what"}],
}


@pytest.mark.parametrize("messages", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("is_strict", [False, True], ids=["the server takes it", "the server refuses it"])
def test_malformed_messages_reach_the_server_whose_error_it_is(messages: list[Message], is_strict: bool) -> None:
    class ServersError(Exception):
        pass

    async def server(message: Message) -> None:
        if is_strict and message == messages[-1]:
            raise ServersError

    app = App(*messages)
    client = protected(app)
    if is_strict:
        with pytest.raises(ServersError):
            asyncio.run(client.post(send=server))
    else:
        assert asyncio.run(client.post(send=server)) == messages
    asyncio.run(client.post())  # whatever became of the key, it is no error of ours


def test_what_a_server_sets_up_with_the_last_part_does_not_keep_the_attempt() -> None:
    """The timer of an idle connection, for one, which has the context that it was set in."""
    contexts: list[Context] = []
    after: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"2")))
        await send(body(b"ok"))
        after.append(current().key)

    async def server(message: Message) -> None:
        contexts.append(copy_context())

    client = protected(app)
    asyncio.run(client.post(send=server))
    assert len(contexts) == 2
    for context in contexts:
        assert not any(isinstance(value, CurrentAttempt) for value in context.values())
    assert after == [client.key]


def test_an_application_may_answer_from_a_task_of_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def answer() -> None:
            await send(start(200, (b"content-length", b"2")))
            await send(body(b"ok"))

        await asyncio.create_task(answer())
        after.append(current().key)

    after: list[str] = []
    client = protected(app)
    first = asyncio.run(client.post())
    assert first == [start(200, (b"content-length", b"2")), body(b"ok")]
    assert after == [client.key]
    assert asyncio.run(client.post())[1] == body(b"ok")


def test_a_block_around_the_last_part_keeps_its_own_attempt() -> None:
    store = MemoryBackend()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with attempt(store, key="job") as job:
            inner.append(current().key)
            await send(start(200, (b"content-length", b"2")))
            await send(body(b"ok"))
            inner.append(current().key)
            current().release()
        replayed.append(job.replayed)
        outer.append(current().key)

    inner: list[str] = []
    outer: list[str] = []
    replayed: list[bool] = []
    clients = [protected(app) for _ in range(3)]
    for client in clients:
        asyncio.run(client.post())
    assert inner == ["job"] * 6
    assert outer == [client.key for client in clients]
    assert replayed == [False] * 3  # it was released, and not the request's


def test_the_attempt_is_found_after_a_last_part_that_could_not_be_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"2")))
        with pytest.raises(RuntimeError, match="too many"):
            await send(body(b"ok"))
        after.append(current().key)

    async def gone(message: Message) -> None:
        raise RuntimeError("too many of something")

    after: list[str] = []
    client = protected(app)
    asyncio.run(client.post(send=gone))
    assert after == [client.key]


def test_a_body_of_nothing_is_malformed_in_any_kind_of_mapping() -> None:
    class Kind(dict[str, Any]):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(Kind({"type": "http.response.body", "body": None}))

    client = protected(app)
    asyncio.run(client.post())
    assert asyncio.run(client.status()) != 200


@pytest.mark.parametrize("began", [False, True])
def test_a_cancelled_application_keeps_its_key_for_the_lease(began: bool) -> None:
    """What it began may go on in a thread."""

    async def story() -> int:
        waits = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            runs.append(1)
            if len(runs) == 1:
                if began:
                    await send(start())
                waits.set()
                await asyncio.sleep(60)
            await App()(scope, receive, send)

        client = protected(app, lease=0.3)
        task = asyncio.create_task(client.post())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.status() == 409
        while (status := await client.status()) == 409:
            await asyncio.sleep(0.02)
        return status

    runs: list[int] = []
    assert asyncio.run(story()) == 200
    assert len(runs) == 2


def test_a_cancelled_application_that_released_its_key_has_released_it() -> None:
    async def story() -> int:
        waits = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not waits.is_set():
                current().release()
                waits.set()
                await asyncio.sleep(60)
            await App()(scope, receive, send)

        client = protected(app)
        task = asyncio.create_task(client.post())
        await waits.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while (status := await client.status()) == 409:  # its release is on its way
            await asyncio.sleep(0.01)
        return status

    assert asyncio.run(asyncio.wait_for(story(), 10)) == 200  # the lease is longer


def test_a_thousand_repeats_of_a_running_key_cost_one_command_each(redis_server: RedisServer) -> None:
    async def story() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await go.wait()
            await App()(scope, receive, send)

        client = protected(app, backend=redis_server.url)
        first = asyncio.create_task(client.post())
        await begun.wait()
        redis_server.cli("CONFIG", "RESETSTAT")
        assert await asyncio.gather(*(client.status() for _ in range(1000))) == [409] * 1000
        stats = redis_server.cli("INFO", "commandstats")
        (line,) = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
        assert int(line.partition("calls=")[2].partition(",")[0]) <= 1002  # and a renewal
        go.set()
        assert (await first)[0]["status"] == 200

    asyncio.run(story())


def test_the_store_is_down_at_the_claim() -> None:
    app = App()
    with RedisServer() as server:
        client = protected(app, backend=server.url)
        assert asyncio.run(client.status()) == 200
    told = asyncio.run(client.post())
    assert (told[0]["status"], problem(told)["effect"]) == (503, "none")
    assert (b"retry-after", b"1") in told[0]["headers"]
    assert app.runs == 1


def test_the_store_goes_down_before_the_completion() -> None:
    with RedisServer() as server:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.kill()
            await App()(scope, receive, send)

        assert asyncio.run(protected(app, backend=server.url).status()) == 200
