"""Django's middleware, sync and async: what it stores of answers, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgiref.sync import SyncToAsync
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from clients import new_key, until
from django_client import Browser, body, browser, is_replay, refused, same_answer, site
from django_site import BEGUN, ENDED, FOLDER, GATE, OURS, RUNS, THREADS
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from servers import RedisServer, free_port

__all__ = ["browser", "site"]


@pytest.fixture
def key() -> str:
    return new_key()


def configured(**options: Any) -> override_settings:
    return override_settings(PYIDEMPOTENT={"BACKEND": MemoryBackend(), **options})


# Answers.


@pytest.mark.parametrize("path", ["/pay", "/pay-async", "/stream", "/ends/404", "/ends/missing", "/ends/bad"])
def test_a_repeat_gets_the_first_answer(browser: Browser, path: str) -> None:
    first, again = browser.twice(path)
    assert same_answer(first, again)
    assert len(RUNS) == 1


def test_a_method_that_is_idempotent_by_itself_passes(browser: Browser, key: str) -> None:
    for method in ("PUT", "DELETE", "GET"):
        assert not is_replay(browser.send(method, "/pay", key))
        assert not is_replay(browser.send(method, "/pay", key))
    assert len(RUNS) == 6


def test_methods_may_be_told(browser: Browser, key: str) -> None:
    with override_settings(PYIDEMPOTENT={"BACKEND": "memory://", "METHODS": ["post", "PUT"]}):
        for method in ("PUT", "POST"):
            assert [is_replay(browser.send(method, "/pay", key)) for _ in range(2)] == [False, True]
        assert not any(is_replay(browser.send("PATCH", "/pay", key)) for _ in range(2))
    assert len(RUNS) == 4


@pytest.mark.parametrize("how", ["raise", "none", "500", "forbidden"])
def test_a_failed_view_releases_the_key(browser: Browser, key: str, how: str) -> None:
    first = browser.post(f"/ends/{how}", key)
    assert first.status_code == (403 if how == "forbidden" else 500)
    again = browser.post(f"/ends/{how}", key)
    assert not is_replay(again)
    assert len(RUNS) == 2


def test_a_path_that_leads_nowhere_is_not_stored(browser: Browser, key: str) -> None:
    with configured(REQUIRED=True):
        assert browser.post("/nowhere", key).status_code == 404
        assert not is_replay(browser.post("/nowhere", key))


def test_headers_that_are_kept_and_cookies_that_are_not(browser: Browser) -> None:
    first, again = browser.twice("/cookies")
    assert "seen" in first.cookies
    assert "seen" not in again.cookies
    assert "Set-Cookie" not in again.headers
    assert again.headers["X-Kept"] == first.headers["X-Kept"] == "caf\u00e9"


def test_cookies_are_stored_where_that_is_asked_for(browser: Browser) -> None:
    with configured(STORE_SET_COOKIE=True):
        _, again = browser.twice("/cookies")
    assert again.headers["Set-Cookie"].startswith("seen=1;")


def test_a_file_is_stored(browser: Browser) -> None:
    (FOLDER / "receipt.txt").write_bytes(b"paid" * 10_000)
    first, again = browser.twice("/file")
    assert first.headers["Content-Disposition"] == again.headers["Content-Disposition"]
    assert same_answer(first, again)
    assert RUNS == ["file"]


def test_an_async_stream(site: None) -> None:
    assert same_answer(*Browser("async").twice("/stream-async"))


@pytest.mark.parametrize("path", ["/stream", "/stream-async"])
def test_a_stream_that_breaks_is_unknown(site: None, key: str, path: str) -> None:
    browser = Browser("sync" if path == "/stream" else "async")
    with configured(AFTER_CRASH="refuse"):
        with pytest.raises(RuntimeError, match="this stream breaks"):
            browser.post(path, key, headers={"X-Break": "1"})
        refused(browser.post(path, key, headers={"X-Break": "1"}), 409, "unknown", "unknown")


@pytest.mark.parametrize("grace", [None, 0])
def test_a_stream_that_its_client_leaves(site: None, key: str, grace: float | None) -> None:
    browser = Browser("sync")
    with configured(DISCONNECT_GRACE=grace):
        answer = browser.post("/stream", key, reads=False)
        assert next(iter(answer)) == b"run 1 "
        answer.close()
        again = browser.post("/stream", key)
    if grace is None:
        assert body(again).startswith(b"run 1 ")
        assert is_replay(again)
    else:
        refused(again, 409, "processing", "running")


# Sync and async.


def counted(monkeypatch: pytest.MonkeyPatch, send: Callable[[], Any]) -> int:
    """How often a request goes to another thread."""
    hops: list[int] = []
    original = SyncToAsync.__call__

    async def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(1)
        return await original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SyncToAsync, "__call__", counting)
        send()
    return len(hops)


@pytest.mark.parametrize("path", ["/pay", "/pay-async"])
def test_no_hop_of_ours(site: None, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    with override_settings(MIDDLEWARE=[]):
        plain = counted(monkeypatch, lambda: Browser("async").post(path, new_key()))
    with override_settings(MIDDLEWARE=[OURS]):
        ours = counted(monkeypatch, lambda: Browser("async").post(path, new_key()))
    assert ours == plain


def test_a_sync_view_runs_on_the_requests_own_thread(site: None, key: str) -> None:
    Browser("sync").post("/pay", key)
    assert [threading.get_ident()] == THREADS


def sync_only(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    return get_response


@pytest.mark.parametrize("path", ["/pay", "/pay-async", "/stream"])
@pytest.mark.parametrize("order", [(f"{__name__}.sync_only", OURS), (OURS, f"{__name__}.sync_only")])
def test_sync_among_async_middleware_and_the_other_way_round(
    browser: Browser, order: tuple[str, ...], path: str
) -> None:
    with override_settings(MIDDLEWARE=order):
        assert same_answer(*browser.twice(path))
    assert len(RUNS) == 1


class Tells:
    """Middleware that adds its header, and counts what passes it."""

    sync_capable = async_capable = False
    name = ""
    seen: list[str]

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        answer = self.get_response(request)
        answer.headers[self.name] = f"{answer.headers.get(self.name, '')}+"
        return answer


class Outside(Tells):
    sync_capable = True
    name = "X-Outside"


class Inside(Tells):
    sync_capable = True
    name = "X-Inside"


def test_what_stands_inside_is_stored_and_what_stands_outside_is_added_again(browser: Browser) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.Outside", OURS, f"{__name__}.Inside"]):
        first, again = browser.twice("/pay")
    for answer in (first, again):
        assert (answer.headers["X-Inside"], answer.headers["X-Outside"]) == ("+", "+")
    assert is_replay(again)


# Options of paths and views.


def test_routes(browser: Browser, key: str) -> None:
    with configured(ROUTES={"/pay": {"REQUIRED": True}, "/ends/*": None}):
        refused(browser.post("/pay"), 400, "key-missing", "none")
        assert not any(is_replay(answer) for answer in browser.twice("/ends/200", key))
        assert same_answer(*browser.twice("/pay-async", key))


def test_marks_of_views(browser: Browser, key: str) -> None:
    refused(browser.post("/must"), 400, "key-missing", "none")
    assert same_answer(*browser.twice("/must", key))
    assert not any(is_replay(answer) for answer in browser.twice("/never", key))
    headers = {"X-Key": key, "X-Tenant": "a", "Authorization": "Bearer 1"}
    assert same_answer(*browser.twice("/tenant", headers=headers))
    assert not is_replay(browser.post("/tenant", headers={**headers, "X-Tenant": "b"}))
    refused(browser.post("/tenant", key, headers={"X-Tenant": "a"}), 400, "key-missing", "none")
    assert sorted(RUNS) == ["must", "never", "never", "tenant", "tenant"]


def test_marks_of_classes(browser: Browser, key: str) -> None:
    refused(browser.post("/marked"), 400, "key-missing", "none")
    refused(browser.post("/marked", key, b"x" * 11), 413, "payload-too-large", "none")
    assert same_answer(*browser.twice("/marked", key))
    assert browser.send("GET", "/marked").content == b"got"


@pytest.mark.parametrize("path", ["/unseen", "/unseen-rest"])
def test_a_mark_that_the_middleware_cannot_see(
    browser: Browser, key: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert browser.post(path, key).status_code == 500
    assert "the middleware can't see the options of" in caplog.text
    assert RUNS == []


def test_marks_at_wrong_places() -> None:
    from pyidempotent.django import idempotency_options, idempotency_required

    with pytest.raises(TypeError, match="is a class: write @method_decorator"):

        @idempotency_required
        class Wrong: ...

    with pytest.raises(TypeError, match="unexpected keyword argument 'tll'"):
        idempotency_options(tll=60)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="ttl"):
        idempotency_options(ttl=-1)

    class Forgotten:
        @idempotency_required
        def post(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    with pytest.raises(Exception, match="is a method: mark it with method_decorator"):
        Forgotten().post(RequestFactory().post("/"))  # type: ignore[call-arg]


def test_a_marked_view_is_called_directly(site: None) -> None:
    from django_views import must

    assert must(RequestFactory().post("/")).content == b"run 1"


# Refusals.


def test_a_handler_of_the_projects_own_wins(browser: Browser, key: str) -> None:
    with configured(EXCEPTION_HANDLER="django_views.exception_handler", REQUIRED=True):
        browser.post("/echo", key, b"A")
        answer = browser.post("/echo", key, b"B")
        assert (answer.status_code, answer.content) == (499, b"theirs")
        refused(browser.post("/echo"), 400, "key-missing", "none")


def test_a_store_that_is_down(browser: Browser, key: str) -> None:
    with configured(BACKEND=f"redis://127.0.0.1:{free_port()}"):
        answer = browser.post("/pay", key)
        refused(answer, 503, "store-unavailable", "none")
        assert answer.headers["Retry-After"] == "1"
        assert browser.post("/pay").status_code == 201
    assert len(RUNS) == 1


def test_exceptions_that_django_is_told_to_let_through(browser: Browser, key: str) -> None:
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True):
        with pytest.raises(RuntimeError):
            browser.post("/ends/raise", key)
        answer = until(lambda: (sent := browser.post("/ends/raise", key)).status_code == 200 and sent)
    assert not is_replay(answer)


# Clients that leave, on ASGI.


@pytest.mark.parametrize("path", ["/gated", "/gated-async"])
def test_a_view_whose_client_leaves_runs_to_its_end(site: None, key: str, path: str) -> None:
    async def leave() -> None:
        pending = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if pending:
                return pending.pop(0)
            await asyncio.to_thread(BEGUN.wait, 20)
            asyncio.get_running_loop().call_later(0.05, GATE.set)  # after Django has cancelled the request
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        scope["headers"] = [(b"idempotency-key", key.encode())]
        await ASGIHandler()(scope, receive, send)

    asyncio.run(leave())
    assert ENDED.is_set()
    again = Browser("async").post(path, key)
    assert (again.content, is_replay(again)) == (b"through", True)
    assert RUNS == ["gated"]


def test_a_request_without_a_key_is_cancelled_as_ever(site: None) -> None:
    async def cancelled() -> None:
        from django.test import AsyncClient

        task = asyncio.create_task(AsyncClient().post("/gated-async"))
        await asyncio.to_thread(BEGUN.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not ENDED.is_set()


# One record for every face.


def starlette_app(backend: str) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def pay(request: Any) -> Response:
        answer = Response(b"from starlette", 201, {"X-Kept": "1"})
        answer.raw_headers += [(b"link", b"<a>"), (b"link", b"<b>")]
        return answer

    app = Starlette(routes=[Route("/{rest:path}", pay, methods=["POST"])])
    app.add_middleware(IdempotencyMiddleware, backend=backend)
    return app


@pytest.mark.parametrize("path", ["/pay", "/echo?caf%C3%A9=%2F"])
def test_records_meet_those_of_the_asgi_face(browser: Browser, redis_server: RedisServer, path: str) -> None:
    app = starlette_app(redis_server.url)

    def ask(key: str) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as client:
                headers = {"Idempotency-Key": key, "Content-Type": "text/plain"}
                return await client.post(path, content=b"A", headers=headers)

        return asyncio.run(send())

    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    with configured(BACKEND=redis_server.url):
        first = browser.post(path, one, b"A")
        there = ask(one)
        assert (there.status_code, there.content) == (first.status_code, first.content)
        assert there.headers["idempotent-replayed"] == "true"
        assert ask(two).content == b"from starlette"
        here = browser.post(path, two, b"A")
    assert (here.status_code, here.content, is_replay(here)) == (201, b"from starlette", True)
    assert [value for name, value in here.items() if name == "link"] == ["<a>", "<b>"]
    assert here.headers["X-Kept"] == "1"
