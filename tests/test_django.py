"""Django's middleware in both colours: what it sees of requests, what it stores of answers, what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgiref.sync import SyncToAsync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from clients import new_key, until
from django_client import Browser, browser, is_replay, refused, same_answer, site
from django_site import BEGUN, ENDED, FOLDER, GATE, OURS, RUNS, THREADS, User
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


def test_a_stream_in_the_colour_of_the_loop(site: None) -> None:
    assert same_answer(*Browser("async").twice("/stream-async"))


@pytest.mark.parametrize("path", ["/stream", "/stream-async"])
def test_a_stream_that_breaks_is_unknown(site: None, key: str, path: str) -> None:
    browser = Browser("sync" if path == "/stream" else "async")
    with configured(AFTER_CRASH="refuse"):
        with pytest.raises(RuntimeError, match="this stream breaks"):
            browser.post(path, key, headers={"X-Break": "1"})
        refused(browser.post(path, key, headers={"X-Break": "1"}), 409, "unknown", "unknown")


def test_a_stream_that_nobody_reads_to_its_end_is_not_kept(site: None, key: str) -> None:
    browser = Browser("sync")
    answer = browser.post("/stream", key, reads=False)
    assert next(iter(answer)) == b"run 1 "
    answer.close()
    problem = refused(browser.post("/stream", key), 410, "not-kept", "done")
    assert problem["answer_status"] == 200


# Colours.


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
@pytest.mark.parametrize("order", [("test_django.sync_only", OURS), (OURS, "test_django.sync_only")])
def test_among_middleware_of_the_other_colour(browser: Browser, order: tuple[str, ...], path: str) -> None:
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
    with override_settings(MIDDLEWARE=["test_django.Outside", OURS, "test_django.Inside"]):
        first, again = browser.twice("/pay")
    for answer in (first, again):
        assert (answer.headers["X-Inside"], answer.headers["X-Outside"]) == ("+", "+")
    assert is_replay(again)


# Requests.


def test_another_payload_is_a_conflict(browser: Browser, key: str) -> None:
    assert browser.post("/echo", key, b"A").content == b"A"
    refused(browser.post("/echo", key, b"B"), 422, "conflict", "none")
    refused(browser.post("/echo?amount=2", key, b"A"), 422, "conflict", "none")
    refused(browser.post("/echo", key, b"A", content_type="text/csv"), 422, "conflict", "none")
    assert is_replay(browser.post("/echo", key, b"A"))
    assert RUNS == ["echo"]


@pytest.mark.parametrize("how", ["body", "read"])
def test_the_view_reads_the_body_in_its_own_way(browser: Browser, key: str, how: str) -> None:
    answer = browser.post("/echo", key, b"x" * 100_000, headers={"X-How": how})
    assert answer.content == b"x" * 100_000


def test_uploads_are_under_djangos_own_limits(browser: Browser) -> None:
    def form() -> dict[str, Any]:
        return {"file": SimpleUploadedFile("a.txt", b"x" * 5000), "note": "n"}

    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000):
        answer = browser.post("/echo", new_key(), form(), headers={"X-How": "files"})
        assert answer.content == b"x" * 5000 + b"n"
        assert browser.post("/echo", new_key(), b"x" * 5000).status_code == 400


def test_a_form_is_the_same_whatever_its_boundary(browser: Browser, key: str) -> None:
    def send(content: bytes, boundary: str) -> Any:
        part = 'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain'
        whole = f"--{boundary}\r\n{part}\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return browser.post("/echo", key, whole, content_type=kind, headers={"X-How": "files"})

    assert send(b"one", "b1").content == b"one"
    assert is_replay(send(b"one", "b2"))
    refused(send(b"two", "b3"), 422, "conflict", "none")


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_form_that_csrf_protection_has_read(site: None, colour: str, key: str) -> None:
    browser = Browser(colour, csrf=True)
    browser.client.cookies["csrftoken"] = "t" * 32

    def send(content: bytes, note: str = "n", token: str = "t" * 32) -> Any:
        form = {"file": SimpleUploadedFile("a.txt", content), "note": note, "csrfmiddlewaretoken": token}
        return browser.post("/form", key, form, headers={"X-How": "files"})

    assert send(b"one").content == b"onen"
    assert is_replay(send(b"one"))
    refused(send(b"two"), 422, "conflict", "none")
    refused(send(b"one", note="m"), 422, "conflict", "none")
    # Without a token the request is refused before anything is replayed.
    answer = send(b"one", token="f" * 32)
    assert (answer.status_code, is_replay(answer)) == (403, False)
    assert RUNS == ["echo"]


class Reads(Tells):
    sync_capable = True
    name = "X-Reads"

    def __call__(self, request: HttpRequest) -> Any:
        request.read()
        return super().__call__(request)


def test_a_body_that_somebody_has_taken_away_is_not_run_past(
    browser: Browser, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(MIDDLEWARE=["test_django.Reads", OURS]):
        assert browser.post("/echo", key, b"A").status_code == 500
    assert "the request's body was read before its payload could be compared" in caplog.text
    assert RUNS == []
    with override_settings(MIDDLEWARE=["test_django.Reads", OURS]), configured(FINGERPRINT=lambda request: "all"):
        assert same_answer(*browser.twice("/pay", key, b"A"))


def test_a_request_that_is_cut_short_claims_nothing(site: None, key: str) -> None:
    browser = Browser("sync")
    assert browser.post("/echo", key, b"A", CONTENT_LENGTH="5").status_code == 500
    assert RUNS == []
    assert browser.post("/echo", key, b"B").status_code == 200


def test_bodies_over_the_cap(browser: Browser, key: str) -> None:
    with configured(MAX_REQUEST_BYTES=10):
        refused(browser.post("/echo", key, b"x" * 11), 413, "payload-too-large", "none")
        assert browser.post("/echo", key, b"x" * 10).status_code == 200
        assert browser.post("/echo", None, b"x" * 11).status_code == 200


def test_answers_over_the_cap(browser: Browser, key: str) -> None:
    with configured(MAX_RESPONSE_BYTES=5):
        assert browser.post("/echo", key, b"x" * 100).content == b"x" * 100
        problem = refused(browser.post("/echo", key, b"x" * 100), 410, "not-kept", "done")
    assert problem["answer_status"] == 200
    assert RUNS == ["echo"]


def test_bad_keys(browser: Browser) -> None:
    for bad in ("", "two words", "x" * 256, '"'):
        refused(browser.post("/pay", bad), 400, "key-invalid", "none")
    with configured(KEY_FORMAT="strict"):
        refused(browser.post("/pay", "bare"), 400, "key-invalid", "none")
        assert browser.post("/pay", '"quoted"').status_code == 201
    with configured(REQUIRED=True, KEY_HEADER="X-Key"):
        assert "X-Key" in refused(browser.post("/pay", "k"), 400, "key-missing", "none")["detail"]
    assert len(RUNS) == 1


# Who calls.


@pytest.fixture
def users(site: None) -> list[Any]:
    User.objects.all().delete()
    return [User.objects.create_user(name, password="x") for name in ("alice", "bob")]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_user_is_the_caller(users: list[Any], colour: str, key: str) -> None:
    browsers = [Browser(colour) for _ in users]
    for each, user in zip(browsers, users, strict=True):
        if colour == "sync":
            each.client.force_login(user)
        else:
            asyncio.run(each.client.aforce_login(user))
    answers = [each.post("/pay", key) for each in (*browsers, *browsers)]
    assert [is_replay(answer) for answer in answers] == [False, False, True, True]
    assert answers[0].content == answers[2].content != answers[1].content == answers[3].content
    # A login is one, whatever else the request carries.
    assert is_replay(browsers[0].post("/pay", key, headers={"Authorization": "Bearer 1"}))
    assert not is_replay(Browser(colour).post("/pay", key))


class Knows(Tells):
    """Authenticates by a token, as middleware of the user's own does."""

    sync_capable = True
    name = "X-Knows"

    def __call__(self, request: HttpRequest) -> Any:
        from django_views import Token

        request.user = Token(request.headers["Authorization"])  # type: ignore[assignment]
        return super().__call__(request)


def test_a_user_that_other_middleware_knows(browser: Browser, key: str) -> None:
    auth = ["sessions.middleware.SessionMiddleware", "auth.middleware.AuthenticationMiddleware"]
    middleware = [*(f"django.contrib.{name}" for name in auth), "test_django.Knows", OURS]
    with override_settings(MIDDLEWARE=middleware):
        answers = [browser.post("/pay", key, headers={"Authorization": who}) for who in ("alice", "bob", "alice")]
    assert [is_replay(answer) for answer in answers] == [False, False, True]


def test_credentials_that_nobody_has_looked_at(browser: Browser, key: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    refused(browser.post("/pay", key, headers=headers), 500, "scope-missing", "none")
    assert browser.post("/pay", headers=headers).status_code == 201
    with configured(SCOPE="pyidempotent.by_authorization"):
        assert same_answer(*browser.twice("/pay", key, headers=headers))
        assert not is_replay(browser.post("/pay", key, headers={"Authorization": "Bearer other"}))
    with configured(SCOPE="pyidempotent.shared"):
        browser.post("/pay", key, headers=headers)
        assert is_replay(browser.post("/pay", key, headers={"Authorization": "Bearer other"}))
    assert len(RUNS) == 4


async def tenant(request: HttpRequest) -> str:
    return request.headers["X-Tenant"]


def test_callables_are_async_where_the_application_is(site: None, key: str, caplog: pytest.LogCaptureFixture) -> None:
    with configured(SCOPE="test_django.tenant"):
        assert same_answer(*Browser("async").twice("/pay", key, headers={"X-Tenant": "a"}))
        assert Browser("sync").post("/pay", key, headers={"X-Tenant": "a"}).status_code == 500
    assert "scope= is async, and this application is not" in caplog.text
    assert len(RUNS) == 1


def test_a_callable_may_refuse(browser: Browser, key: str) -> None:
    from django.core.exceptions import PermissionDenied

    def who(request: HttpRequest) -> str:
        raise PermissionDenied

    with configured(SCOPE=who):
        assert browser.post("/pay", key).status_code == 403
    assert RUNS == []


def test_a_key_and_a_fingerprint_of_ones_own(browser: Browser) -> None:
    options = {"KEY": lambda request: request.headers.get("X-Order"), "FINGERPRINT": lambda request: request.GET["a"]}
    with configured(**options):
        assert same_answer(*browser.twice("/pay?a=1", headers={"X-Order": "7"}))
        refused(browser.post("/pay?a=2", headers={"X-Order": "7"}), 422, "conflict", "none")
        assert not is_replay(browser.post("/pay?a=1"))
    assert len(RUNS) == 2


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


def handler(request: HttpRequest, error: Exception) -> HttpResponse | None:
    from pyidempotent import IdempotencyConflict

    return HttpResponse("theirs", status=499) if isinstance(error, IdempotencyConflict) else None


def test_a_handler_of_the_projects_own_wins(browser: Browser, key: str) -> None:
    with configured(EXCEPTION_HANDLER="test_django.handler", REQUIRED=True):
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
