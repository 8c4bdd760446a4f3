"""The ASGI middleware by itself: what passes, what is captured, what goes wrong. Messages are made by hand here; the
conformance suite has the real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clients import new_key
from pyidempotent import current
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from scripts import output
from scripts import start as begin
from servers import RedisServer

Message = dict[str, Any]
VECTORS = Path(__file__).parent.parent / "crates" / "idempotency" / "tests" / "vectors" / "idempotency_key_header.json"


class Client:
    """Sends requests to an application, message by message, as a server would."""

    def __init__(self, app: Any, key: str | None = None) -> None:
        self.app = app
        self.key = new_key() if key is None else key

    def scope(self, **more: Any) -> Message:
        headers = [(b"idempotency-key", self.key.encode())] if self.key else []
        plain = {"method": "POST", "path": "/pay", "raw_path": b"/pay", "query_string": b"", "headers": headers}
        return {"type": "http", "asgi": {"version": "3.0"}, "extensions": {}, **plain, **more}

    async def post(
        self, *request: Message, send: Callable[[Message], Awaitable[None]] | None = None, **scope: Any
    ) -> list[Message]:
        """The messages that the server is sent."""
        pending = list(request or [{"type": "http.request", "body": b"A", "more_body": False}])
        sent: list[Message] = []

        async def receive() -> Message:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def note(message: Message) -> None:
            sent.append(message)
            if send is not None:
                await send(message)

        await self.app(self.scope(**scope), receive, note)
        return sent

    async def status(self, **scope: Any) -> int:
        """The status of the answer."""
        return int((await self.post(**scope))[0]["status"])

    async def status_or(self, error: type[Exception]) -> int | None:
        """The status of the answer; None where this is raised."""
        try:
            return await self.status()
        except error:
            return None


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def body(content: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


class App:
    """An application that sends these messages; an exception among them is raised."""

    def __init__(self, *messages: Message | BaseException) -> None:
        self.messages = messages or (start(200, (b"content-length", b"2")), body(b"ok"))
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        for message in self.messages:
            if isinstance(message, BaseException):
                raise message
            await send(dict(message))


def protected(app: Any, **options: Any) -> Client:
    return Client(IdempotencyMiddleware(app, **{"backend": MemoryBackend(), **options}))


def problem(messages: list[Message]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(messages[1]["body"])
    return found


# Passing on.


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "websocket", "path": "/pay", "headers": [(b"idempotency-key", b"k")]},
        {"method": "GET"},
        {"method": "PUT"},
        {"method": "OPTIONS"},
        {"headers": []},
        {"path": "/left-out", "raw_path": b"/left-out"},
        # What is malformed in a request that is not protected is not ours to find.
        {"headers": [("x-a", "1")], "query_string": None},
        {"headers": [], "path": "/\ud800", "raw_path": None},
        {"path": "/left-out", "headers": None},
    ],
    ids=str,
)
def test_what_is_not_protected_gets_the_very_same_scope_receive_and_send(scope: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    middleware = IdempotencyMiddleware(app, "memory://", routes={"/left-out": None})
    given = (Client(app).scope(**scope), object(), object())
    asyncio.run(middleware(*given))  # type: ignore[arg-type]  # nobody may touch them
    assert [id(each) for each in seen] == [id(each) for each in given]


def test_after_the_body_the_application_receives_the_servers_own_messages() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received = [await receive() for _ in range(3)]
        assert received == [{"type": "http.request", "body": b"AB", "more_body": False}, waited, waited]
        await App()(scope, receive, send)

    waited = {"type": "http.disconnect"}
    parts = [{"type": "http.request", "body": part, "more_body": part == b"A"} for part in (b"A", b"B")]
    assert asyncio.run(protected(app).post(*parts))[0]["status"] == 200


def test_extensions_that_send_past_the_middleware_are_not_offered_to_a_protected_request() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["extensions"])
        await App()(scope, receive, send)

    offered = {"http.response.pathsend": {}, "http.response.debug": {}}
    client = protected(app)
    asyncio.run(client.post(extensions=offered))
    asyncio.run(client.post(extensions=offered, headers=[]))
    assert seen == [{"http.response.debug": {}}, offered]


def test_of_two_in_a_row_the_outer_one_protects() -> None:
    app, backend = App(), MemoryBackend()
    inner = IdempotencyMiddleware(app, backend)
    client = protected(inner, backend=backend)
    first, again = asyncio.run(client.post()), asyncio.run(client.post())
    assert first == [start(200, (b"content-length", b"2")), body(b"ok")]
    assert (b"idempotent-replayed", b"true") in again[0]["headers"]
    assert app.runs == 1


def test_an_inner_one_with_other_options_is_refused() -> None:
    backend = MemoryBackend()
    app = App()
    client = protected(IdempotencyMiddleware(app, backend, after_crash="refuse"), backend=backend)
    with pytest.raises(TypeError, match="does not know after_crash"):
        asyncio.run(client.post())
    assert app.runs == 0


def test_a_lifespan_ends_when_what_is_under_way_is_stored(redis_server: RedisServer) -> None:
    """As uvicorn ends it: a signal, and no exit of the interpreter."""
    code = """
    import asyncio, os, signal, sys
    from pyidempotent.asgi import IdempotencyMiddleware
    from faults import Proxy

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.shutdown"
            await send({"type": "lifespan.shutdown.complete"})
            return
        proxy.hold_answers()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def receive(): return {"type": "http.request"}
    async def shutdown(): return {"type": "lifespan.shutdown"}
    async def send(message):
        if message["type"] == "lifespan.shutdown.complete":
            print("down", flush=True)

    async def main():
        headers = [(b"idempotency-key", sys.argv[2].encode())]
        scope = {"type": "http", "method": "POST", "path": "/pay", "query_string": b"", "headers": headers}
        middleware = IdempotencyMiddleware(app, proxy.url)
        await middleware(scope, receive, send)  # the store takes too long for the completion
        proxy.drop_all()
        proxy.let_answers_go()
        await middleware({"type": "lifespan"}, shutdown, send)
        os.kill(os.getpid(), signal.SIGKILL)

    with Proxy(int(sys.argv[1])) as proxy:
        asyncio.run(main())
    """
    from pyidempotent.backends.redis import RedisBackend

    key = new_key()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = begin(code, str(redis_server.port), key, environment={"PYTHONPATH": path})
    printed, complaints = process.communicate(timeout=30)
    assert (printed, process.returncode) == ("down\n", -9), complaints
    record = RedisBackend(redis_server.url).get(key, operation=("POST", "/pay"))
    assert record is not None
    assert record.state == "completed"


def test_patterns_are_of_the_path_as_the_application_knows_it() -> None:
    app = App()
    client = protected(app, routes={"/pay": {"required": True}, "/free": None})
    client.key = ""
    for root, whole in (("/api", "/api/pay"), ("", "/pay"), ("/pay", "/pay/pay")):
        told = asyncio.run(client.post(root_path=root, path=whole, raw_path=whole.encode()))
        assert told[0]["status"] == 400, (root, whole)
    client.key = new_key()
    for _ in range(2):
        asyncio.run(client.post(root_path="/api", path="/api/free", raw_path=b"/api/free"))
    assert app.runs == 2


def test_middleware_further_out_finds_what_routing_left_in_the_scope() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path_params"] = {"order": 7}
        await App()(scope, receive, send)

    client = protected(app)
    scope = client.scope(extensions={"http.response.pathsend": {}})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None: ...

    asyncio.run(client.app(scope, receive, send))
    assert scope["path_params"] == {"order": 7}
    assert scope["extensions"] == {"http.response.pathsend": {}}
    assert "pyidempotent.attempt" not in scope


# The header.


def vectors() -> list[Any]:
    return [
        pytest.param([bytes_of(line) for line in vector["lines_base64"]], vector, id=str(number))
        for number, vector in enumerate(json.loads(VECTORS.read_text())["vectors"])
    ]


def bytes_of(line: str) -> bytes:
    import base64

    return base64.b64decode(line)


@pytest.mark.parametrize(("lines", "vector"), vectors())
@pytest.mark.parametrize("key_format", ["lenient", "strict"])
def test_the_header_is_read_as_the_vectors_say(lines: list[bytes], vector: dict[str, Any], key_format: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current().key)
        await App()(scope, receive, send)

    client = protected(app, key_format=key_format, required=True)
    headers = [(b"idempotency-key", line) for line in lines]
    status = asyncio.run(client.status(headers=headers))
    expected = vector[key_format]
    assert (status, seen) == ((400, []) if expected is None else (200, [expected]))


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


def leaves(message: Message) -> bool:
    return message.get("body") == b"b"


BROKEN_OFF = {
    "the client leaves": [start(201), body(b"a", more=True), body(b"b", more=True), body(b"c")],
    "the application ends without an end": [start(201), body(b"a", more=True)],
    "shorter than it said": [start(201, (b"content-length", b"3")), body(b"a")],
    "an exception": [start(201), body(b"a", more=True), RuntimeError("broken")],
}


@pytest.mark.parametrize("messages", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_an_answer_that_breaks_off_leaves_the_outcome_unknown(messages: list[Any]) -> None:
    """What its work had come to, nobody knows."""

    async def server(message: Message) -> None:
        if leaves(message):
            raise OSError("the client has left")

    for after_crash, told in (("refuse", (409, "unknown")), ("rerun", (409, "running"))):
        app = App(*messages)
        client = protected(app, after_crash=after_crash)
        with contextlib.suppress(OSError, RuntimeError):
            asyncio.run(client.post(send=server))
        answer = asyncio.run(client.post())
        assert (answer[0]["status"], problem(answer)["effect"]) == told
        assert app.runs == 1


def test_a_client_that_leaves_at_the_last_byte_finds_the_answer() -> None:
    async def server(message: Message) -> None:
        raise OSError("the client has left")

    app = App()
    client = protected(app)
    with pytest.raises(OSError, match="left"):
        asyncio.run(client.post(send=server))
    assert asyncio.run(client.post())[1]["body"] == b"ok"
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


def test_an_application_that_answers_nothing_may_run_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)

    runs: list[int] = []
    client = protected(app)
    assert [asyncio.run(client.post()) for _ in range(2)] == [[], []]
    assert len(runs) == 2


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


# Options.


def test_where_the_documentation_of_the_problems_is() -> None:
    client = protected(App(), required=True, problem_docs="https://docs.example.com/errors#")
    client.key = ""
    messages = asyncio.run(client.post())
    assert problem(messages)["type"] == "https://docs.example.com/errors#key-missing"
    link = (b"link", b'<https://docs.example.com/errors#key-missing>; rel="describedby"')
    assert link in messages[0]["headers"]


@pytest.mark.parametrize("is_async", [False, True])
def test_callables_of_the_users_are_asked(is_async: bool) -> None:
    def answering(answer: Callable[[Any], Any]) -> Any:
        async def asked(request: Any) -> Any:
            return answer(request)

        return asked if is_async else answer

    app = App()
    client = protected(
        app,
        key=answering(lambda request: request.headers.get("x-delivery")),
        scope=answering(lambda request: request.headers["x-user"]),
        fingerprint=answering(lambda request: request.headers["x-amount"]),
    )

    def send(**headers: str) -> list[Message]:
        raw = [(f"x-{name}".encode(), value.encode()) for name, value in headers.items()]
        return asyncio.run(client.post(headers=raw))

    assert send(delivery="1", user="alice", amount="1")[0]["status"] == 200
    assert app.runs == 1
    assert (b"idempotent-replayed", b"true") in send(delivery="1", user="alice", amount="1")[0]["headers"]
    assert send(delivery="1", user="alice", amount="2")[0]["status"] == 422
    assert send(delivery="1", user="bob", amount="2")[0]["status"] == 200
    assert send(user="bob", amount="2")[0]["status"] == 200  # no key, and none is required
    assert app.runs == 3


@pytest.mark.parametrize(("key", "words"), [(7, "must return a str or None, not int"), ("\ud800", "lone surrogate")])
def test_a_key_that_is_none_is_refused(key: Any, words: str) -> None:
    told = asyncio.run(protected(App(), key=lambda request: key).post())
    assert told[0]["status"] == 400
    assert words in problem(told)["detail"]


def test_a_fingerprint_may_be_made_of_the_body_which_the_application_reads_again() -> None:
    seen: list[bytes] = []

    async def amount(request: Any) -> Any:
        return json.loads(await request.body())["amount"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"])
        await App()(scope, receive, send)

    client = protected(app, fingerprint=amount)

    def send(document: bytes) -> int:
        return int(asyncio.run(client.post({"type": "http.request", "body": document}))[0]["status"])

    assert send(b'{"amount": 1, "sent": 1}') == 200
    assert send(b'{"amount": 1, "sent": 2}') == 200
    assert send(b'{"amount": 2, "sent": 2}') == 422
    assert seen == [b'{"amount": 1, "sent": 1}']


@pytest.mark.parametrize("header", ["authorization", "proxy-authorization", "x-api-key", "x-auth-token"])
def test_credentials_without_a_scope_are_refused_and_said_once(header: str, caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    client = protected(app)
    for path in (b"/pay", b"/orders/1", b"/orders/2"):
        headers = [(b"idempotency-key", b"k"), (header.encode(), b"secret")]
        told = asyncio.run(client.post(headers=headers, path=path.decode(), raw_path=path))
        assert (told[0]["status"], "secret" in str(told)) == (500, False)
    assert app.runs == 0
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert header in line
    assert "scope=" in line


def test_cookies_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    client = protected(App())
    for path in (b"/orders/1", b"/orders/2"):
        headers = [(b"idempotency-key", b"k"), (b"cookie", b"lb=1")]
        assert asyncio.run(client.status(headers=headers, path=path.decode(), raw_path=path)) == 200
    assert len([record for record in caplog.records if "cookies" in record.getMessage()]) == 1


def test_by_authorization_does_not_take_other_credentials_for_nobodys() -> None:
    from pyidempotent import by_authorization

    client = protected(App(), scope=by_authorization)
    headers = [(b"idempotency-key", b"k"), (b"proxy-authorization", b"secret")]
    assert asyncio.run(client.status(headers=headers)) == 500


def test_a_settle_hook_that_raises_gives_the_claim_back_to_its_lease() -> None:
    def settle(outcome: Any) -> Any:
        raise ZeroDivisionError

    async def story() -> None:
        client = protected(App(), settle=settle, lease=0.3)
        with pytest.raises(ZeroDivisionError) as held:
            await client.post()
        assert held is not None  # its traceback, and all that is in it, is alive
        while (status := await client.status_or(ZeroDivisionError)) == 409:
            await asyncio.sleep(0.02)
        assert status is None  # it ran again, and the hook raised again

    asyncio.run(story())


def test_by_authorization_tells_callers_apart() -> None:
    from pyidempotent import by_authorization

    app = App()
    client = protected(app, scope=by_authorization)
    for token in (b"a", b"b", b"a", None):
        headers = [(b"idempotency-key", b"k"), *([(b"authorization", token)] if token else [])]
        assert asyncio.run(client.status(headers=headers)) == 200
    assert app.runs == 3


def test_a_name_makes_one_operation_of_several_paths() -> None:
    app = App()
    client = protected(app, routes={"/v*/pay": {"name": "pay", "fingerprint": lambda request: "same"}})
    for version in (b"/v1/pay", b"/v2/pay"):
        asyncio.run(client.post(path=version.decode(), raw_path=version))
    assert app.runs == 1


def test_without_starlette_callables_get_our_own_view_of_the_request() -> None:
    code = """
    import asyncio, sys
    from pyidempotent.asgi import IdempotencyMiddleware

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    def who(request):
        print(request.method, request.path, request.headers["X-User"], len(request.headers), type(request).__module__)
        return "alice"

    async def receive(): return {"type": "http.request"}
    async def send(message): print(message["type"])
    headers = [(b"idempotency-key", b"k"), (b"x-user", b"a"), (b"x-user", b"b")]
    scope = {"type": "http", "method": "POST", "path": "/pay", "query_string": b"", "headers": headers}
    asyncio.run(IdempotencyMiddleware(app, "memory://", scope=who)(scope, receive, send))
    assert "starlette" not in sys.modules
    """
    printed = output(code).splitlines()
    assert printed == ["POST /pay a, b 2 pyidempotent.asgi", "http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": None}, "the middleware needs a backend"),
        ({"backend": "nowhere://"}, "there is no backend for nowhere"),
        ({"key_extractor": str}, "it is called key= now"),
        ({"lifetime": 1}, "unexpected keyword argument 'lifetime'"),
        ({"store_exceptions": (ValueError,)}, "store_exceptions is for functions"),
        ({"scope": "user"}, "scope= must be a callable"),
        ({"fingerprint": 7}, "fingerprint= must be a callable"),
        ({"key": "order"}, "key= must be a callable"),
        ({"name": 7}, "name must be a str"),
        ({"problem_docs": "docs"}, "problem_docs must be the absolute URL"),
        ({"ttl": -1}, "ttl must be a finite number"),
        ({"routes": {"pay": {}}}, "is no pattern of a path"),
        ({"routes": {"/pay": True}}, "needs a dict of options, or None"),
        ({"routes": {"/pay": {"ttl": 1, "lease": 2}}}, "lease"),
        ({"routes": {"/pay": {"lifetime": 1}}}, "unexpected keyword argument 'lifetime'"),
    ],
    ids=str,
)
def test_options_that_cant_be_are_refused_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        IdempotencyMiddleware(App(), **{"backend": "memory://", **options})


def test_every_store(backend: Backend) -> None:
    app = App()
    client = protected(app, backend=backend)
    first, again = asyncio.run(client.post()), asyncio.run(client.post())
    assert again[0]["headers"] == [*first[0]["headers"], (b"idempotent-replayed", b"true")]
    assert again[1:] == first[1:]
    assert app.runs == 1
