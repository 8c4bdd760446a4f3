"""The ASGI middleware by itself: what passes, which key it finds, its options. The conformance suite has the real
servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from fastapi import FastAPI

from asgi_client import App, Client, Message, body, problem, protected, start
from clients import new_key
from pyidempotent import current, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from scripts import output
from scripts import start as begin
from servers import RedisServer

VECTORS = Path(__file__).parents[2] / "crates" / "idempotency" / "tests" / "vectors" / "idempotency_key_header.json"


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


@pytest.mark.parametrize("where", ["middleware", "route"])
def test_methods_may_be_told(where: str) -> None:
    """The middleware's, or a route's own."""
    methods: dict[str, Any] = {"methods": {"put", "POST"}}
    options = methods if where == "middleware" else {"routes": {"/*": methods}}
    app = App()
    client = protected(app, **options)
    for method, runs in (("PUT", 1), ("POST", 2), ("PATCH", 4), ("DELETE", 6)):
        for _ in range(2):
            asyncio.run(client.post(method=method))
        assert app.runs == runs


def test_after_the_body_the_application_receives_the_servers_own_messages() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        received = [await receive() for _ in range(3)]
        assert received == [{"type": "http.request", "body": b"AB", "more_body": False}, waited, waited]
        await App()(scope, receive, send)

    waited = {"type": "http.disconnect"}
    parts = [{"type": "http.request", "body": part, "more_body": part == b"A"} for part in (b"A", b"B")]
    assert asyncio.run(protected(app, disconnect_grace=0.1).post(*parts))[0]["status"] == 200


@pytest.mark.parametrize("option", ["key", "scope", "fingerprint"])
def test_a_callable_may_read_the_body_which_the_application_reads_again(option: str) -> None:
    async def asked(request: Any) -> str:
        return str(json.loads(await request.body())["id"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append(await receive())
        await App()(scope, receive, send)

    def event(text: bytes) -> Message:
        return {"type": "http.request", "body": text, "more_body": False}

    received: list[Message] = []
    client = protected(app, **{option: asked})
    posts = [asyncio.run(client.post(event(b'{"id": 7}'))) for _ in range(2)]
    assert [answer[0]["status"] for answer in posts] == [200, 200]
    assert received == [event(b'{"id": 7}')]
    with pytest.raises(ValueError, match="Expecting value"):
        asyncio.run(client.post(event(b'{"id":')))
    too_long = protected(app, **{option: asked}, max_request_bytes=4)
    assert asyncio.run(too_long.post(event(b'{"id": 7}')))[0]["status"] == 413


def test_whoever_receives_the_body_again_takes_it_from_nobody() -> None:
    async def asked(request: Any) -> str:
        kept.append(request)
        return "k"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append(await kept[0].body())
        bodies.append((await receive())["body"])
        await App()(scope, receive, send)

    kept: list[Any] = []
    bodies: list[bytes] = []
    asyncio.run(protected(app, fingerprint=asked).post())
    assert bodies == [b"A", b"A"]


@pytest.mark.parametrize("options", [{}, {"fingerprint": lambda request: "f"}])
def test_a_body_that_says_that_it_is_too_long_is_not_read(options: dict[str, Any]) -> None:
    client = protected(App(), **options)
    headers = [(b"idempotency-key", client.key.encode()), (b"content-length", b"99999999999")]
    assert asyncio.run(client.post(headers=headers))[0]["status"] == 413


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
    with pytest.raises(TypeError, match="holds the attempt without after_crash"):
        asyncio.run(client.post())
    assert app.runs == 0


def test_a_lifespan_ends_when_what_is_under_way_is_stored(redis_server: RedisServer) -> None:
    """As uvicorn ends it: a signal, and no exit of the interpreter."""
    code = """
    import asyncio, os, signal, sys
    from pyidempotent.asgi import IdempotencyMiddleware
    from proxy import Proxy

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
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
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


@pytest.mark.parametrize(
    ("key", "words"), [(7.5, "must be a str, an int or a UUID, not float"), ("\ud800", "lone surrogate")]
)
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
    assert len([record for record in caplog.records if "cookie share their keys" in record.getMessage()]) == 1


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
    assert printed == ["POST /pay a, b 2 pyidempotent.asgi._request", "http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": None}, "the middleware needs a backend"),
        ({"backend": "nowhere://"}, "no backend has URLs with nowhere"),
        ({"key_extractor": str}, "it is called key= now"),
        ({"lifetime": 1}, "unexpected keyword argument 'lifetime'"),
        (
            {"store_exceptions": (ValueError,)},
            "store_exceptions= is no option of IdempotencyMiddleware; .*settle= says which",
        ),
        ({"scope": "user"}, "scope= must be a callable"),
        ({"fingerprint": 7}, "fingerprint= must be a callable"),
        ({"key": "order"}, "key= must be a callable"),
        ({"name": 7}, "name must be a str"),
        ({"problem_docs": "docs"}, "problem_docs must be the absolute URL"),
        ({"ttl": -1}, "ttl must be a finite number"),
        ({"routes": {"pay": {}}}, "must start with"),
        ({"routes": {"/pay": True}}, "needs a dict of options, or None"),
        ({"routes": {"/pay": {"ttl": 1, "lease": 2}}}, "lease"),
        ({"routes": {"/pay": {"lifetime": 1}}}, "unexpected keyword argument 'lifetime'"),
        ({"maxresponse_bytes": 1}, r"'maxresponse_bytes'; did you mean max_response_bytes=\?"),
        ({"methods": "PUT"}, r"methods= must be a collection of methods"),
        ({"methods": []}, r"methods= must be a collection of methods"),
        ({"methods": [1]}, r"methods= must be a collection of methods"),
        ({"methods": ["PUT", "get"]}, "a GET request changes nothing"),
    ],
    ids=str,
)
def test_options_that_cant_be_are_refused_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        IdempotencyMiddleware(App(), **{"backend": "memory://", **options})


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("/orders/{id}", ["/orders/7"], ["/orders/", "/orders/7/lines"]),
        ("/orders/{id}/lines", ["/orders/7/lines"], ["/orders/7"]),
        ("/files/{name:path}", ["/files/a/b"], ["/files"]),
        ("/orders/<int:id>/*", ["/orders/7/a/b"], ["/orders/7"]),
        ("/*/{id}", ["/a/b/7"], ["/7"]),
        ("/a.b/{id}", ["/a.b/7"], ["/aXb/7"]),
    ],
)
def test_templates_of_paths_are_patterns(pattern: str, fits: list[str], others: list[str]) -> None:
    app = App()
    client = protected(app, routes={pattern: {"required": True}})
    client.key = ""
    assert [asyncio.run(client.status(path=path, raw_path=path.encode())) for path in fits] == [400] * len(fits)
    assert [asyncio.run(client.status(path=path, raw_path=path.encode())) for path in others] == [200] * len(others)


def test_under_trio_it_is_refused_by_name() -> None:
    @idempotent("redis://localhost:1", key="order")
    async def charge(order: str) -> None: ...

    with pytest.raises(RuntimeError, match="not under trio"):
        trio.run(charge, "a")


MISTAKEN = """
from fastapi import FastAPI
from pyidempotent.asgi import IdempotencyMiddleware

app = FastAPI()
app.add_middleware(IdempotencyMiddleware, backend="memory://", tll=3)
"""


def test_a_server_with_mistaken_options_does_not_start_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "mistaken.py").write_text(MISTAKEN)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(tmp_path), "mistaken:app", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "unexpected keyword argument 'tll'; did you mean ttl=?" in done.stderr


def test_where_there_is_no_lifespan_every_request_says_why() -> None:
    async def served() -> int:
        app = FastAPI()
        app.add_middleware(IdempotencyMiddleware, backend="nowhere://")
        return await Client(app).status()

    with pytest.raises(ValueError, match="no backend has URLs with nowhere"):
        asyncio.run(served())


def test_every_store(backend: Backend) -> None:
    app = App()
    client = protected(app, backend=backend)
    first, again = asyncio.run(client.post()), asyncio.run(client.post())
    assert again[0]["headers"] == [*first[0]["headers"], (b"idempotent-replayed", b"true")]
    assert again[1:] == first[1:]
    assert app.runs == 1
