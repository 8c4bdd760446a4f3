"""`@idempotent` on Django's views: their rendered answers, their exceptions, their classes; Django REST Framework."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from django.views import View

from clients import new_key
from django_client import Browser, browser, is_replay, refused, same_answer, site
from django_site import OURS, RUNS, THREADS
from pyidempotent import idempotent
from pyidempotent._calls import function as _function
from pyidempotent.backends.memory import MemoryBackend

__all__ = ["browser", "site"]


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.mark.parametrize(("how", "status"), [("plain", 201), ("template", 202), ("missing", 404), ("bad", 400)])
def test_the_rendered_answer_is_stored(browser: Browser, how: str, status: int) -> None:
    first, again = browser.twice(f"/decorated/{how}")
    assert first.status_code == status
    assert same_answer(first, again)
    assert len(RUNS) == 1


def test_an_async_view(site: None) -> None:
    browser = Browser("async")
    first, again = browser.twice("/decorated-async")
    assert first.content == b"paid by AnonymousUser: 1"
    assert same_answer(first, again)


@pytest.mark.parametrize(("how", "status"), [("forbidden", 403), ("fails", 500), ("500", 500), ("none", 500)])
def test_what_is_no_answer_releases_the_key(browser: Browser, how: str, status: int) -> None:
    for answer in browser.twice(f"/decorated/{how}"):
        assert (answer.status_code, is_replay(answer)) == (status, False)
    assert len(RUNS) == 2


@pytest.mark.parametrize("path", ["/longer", "/decorated/longer"])
def test_an_answer_that_is_longer_than_it_said_is_not_kept(browser: Browser, key: str, path: str) -> None:
    assert browser.post(path, key).status_code == 200
    refused(browser.post(path, key), 410, "not-kept", "done")
    assert len(RUNS) == 1


def test_a_stream_wants_the_middleware(browser: Browser, key: str, caplog: pytest.LogCaptureFixture) -> None:
    assert browser.post("/decorated/stream", key).status_code == 200
    refused(browser.post("/decorated/stream", key), 410, "not-kept", "done")
    assert "is streamed after the view has ended; use the middleware" in caplog.text


def test_answers_over_the_cap(site: None, key: str) -> None:
    @idempotent(MemoryBackend(), max_response_bytes=5)
    def created(request: Any) -> HttpResponse:
        RUNS.append("created")
        return HttpResponse(b"x" * 100, status=201, headers={"Location": "/charges/7"})

    def ask() -> Any:
        request = RequestFactory().post("/x", headers={"Idempotency-Key": key})
        return created(request)

    assert ask().content == b"x" * 100
    problem = json.loads(ask().content)
    assert (problem["answer_status"], problem["location"]) == (201, "/charges/7")
    assert RUNS == ["created"]


def test_a_view_is_protected_under_every_method_but_the_safe_ones(browser: Browser, key: str) -> None:
    for method in ("GET", "HEAD"):
        assert not is_replay(browser.send(method, "/decorated/plain", key))
        assert browser.send(method, "/decorated/plain").status_code == 201
    assert len(RUNS) == 4
    for method in ("PUT", "PATCH", "DELETE"):
        refused(browser.send(method, "/decorated/plain"), 400, "key-missing", "none")
        assert [is_replay(browser.send(method, "/decorated/plain", key)) for _ in range(2)] == [False, True]
    assert len(RUNS) == 7


def test_refusals(browser: Browser, key: str) -> None:
    refused(browser.post("/decorated/plain"), 400, "key-missing", "none")
    refused(browser.post("/decorated/plain", "two words"), 400, "key-invalid", "none")
    browser.post("/decorated/plain", key, b"A")
    refused(browser.post("/decorated/plain", key, b"B"), 422, "conflict", "none")
    headers = {"Authorization": f"Bearer {key}"}
    refused(browser.post("/decorated/plain", key, headers=headers), 500, "scope-missing", "none")
    with override_settings(
        PYIDEMPOTENT={"BACKEND": "memory://", "EXCEPTION_HANDLER": "django_views.exception_handler"}
    ):
        assert browser.post("/decorated/plain", key, b"B").content == b"theirs"


def test_the_backend_is_the_projects(site: None, key: str) -> None:
    """`/decorated-async` has none of its own."""
    one, two = MemoryBackend(), MemoryBackend()
    browser = Browser("async")
    with override_settings(PYIDEMPOTENT={"BACKEND": one}):
        assert same_answer(*browser.twice("/decorated-async", key))
    with override_settings(PYIDEMPOTENT={"BACKEND": two}):
        assert not is_replay(browser.post("/decorated-async", key))
    for backend in (one, two):
        record = backend.get(key, operation=("POST", "/decorated-async"))
        assert record is not None
        assert record.answer is not None
        assert record.answer.body.startswith(b"paid by")


def test_the_backend_is_the_projects_for_functions_too(site: None, key: str) -> None:
    backend = MemoryBackend()

    @idempotent(key="order", name="charge")
    def charge(order: str) -> int:
        RUNS.append("charge")
        return len(RUNS)

    with override_settings(PYIDEMPOTENT={"BACKEND": backend}):
        assert charge(key) == charge(key) == 1
    assert backend.get(key, operation="charge") is not None


def test_inside_of_the_middleware_it_joins(browser: Browser, key: str) -> None:
    assert same_answer(*browser.twice("/twice/200", key))
    assert RUNS == ["ends 200"]


def test_options_that_the_middleware_cannot_honour(
    browser: Browser, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert browser.post("/otherwise", key).status_code == 500
    assert "without after_crash: give these options to the middleware, as @idempotency_options(...)" in caplog.text
    assert RUNS == []


# Classes.


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_methods_of_classes(browser: Browser, key: str, method: str) -> None:
    first, again = (browser.send(method, "/class/7", key) for _ in range(2))
    assert same_answer(first, again)
    refused(browser.send(method, "/class/7", key, b"B"), 422, "conflict", "none")
    assert not is_replay(browser.send(method, "/class/8", key))
    assert len(RUNS) == 2


def test_an_async_method(site: None, key: str) -> None:
    browser = Browser("async")
    assert same_answer(*browser.twice("/class-async", key))
    assert len(RUNS) == 1


def test_method_decorator_analyses_a_method_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.post("/class/7", new_key())
    analysed: list[Any] = []

    class Counting(_function.Binding):  # type: ignore[misc, name-defined]
        def __init__(self, function: Any) -> None:
            analysed.append(function)
            super().__init__(function)

    monkeypatch.setattr(_function, "Binding", Counting)
    for _ in range(3):
        browser.post("/class/7", new_key())
    assert len(RUNS) == 4
    assert analysed == []


def test_a_view_of_an_instance_is_not_kept_by_the_analysis(site: None) -> None:
    import gc
    import weakref

    from django.utils.decorators import method_decorator
    from django.views import View

    class Pay(View):
        @method_decorator(idempotent(MemoryBackend()))
        def post(self, request: Any) -> Any:
            kept.append(weakref.ref(self))
            return HttpResponse()

    kept: list[weakref.ref[Any]] = []
    for _ in range(2):
        Pay.as_view()(RequestFactory().post("/x", headers={"Idempotency-Key": new_key()}))
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


# Helpers.


def test_a_function_that_is_given_the_request(site: None, key: str) -> None:
    backend = MemoryBackend()

    @idempotent(backend)
    def charge(request: Any, amount: int) -> dict[str, int]:
        RUNS.append("charge")
        return {"amount": amount}

    def request(content: bytes) -> Any:
        return RequestFactory().post("/x", content, "text/plain", headers={"Idempotency-Key": key})

    assert charge(request(b"A"), 4) == charge(request(b"A"), amount=4) == {"amount": 4}
    assert charge(request(b"B"), 4).status_code == 422  # type: ignore[attr-defined]
    assert RUNS == ["charge"]


# Django REST Framework.


def send(path: str, key: str, token: str | None, content: Any = None) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = json.dumps(content or {"a": 1}).encode()
    return Browser("sync").post(path, key, body, content_type="application/json", headers=headers)


def test_a_rest_view_knows_its_token_user(site: None, key: str) -> None:
    first, again = send("/rest/plain", key, "alice-1"), send("/rest/plain", key, "alice-2")
    assert json.loads(first.content) == {"run": 1, "data": {"a": 1}}
    assert same_answer(first, again)
    assert not is_replay(send("/rest/plain", key, "bob-1"))
    assert not is_replay(send("/rest/plain", key, None))
    assert len(RUNS) == 3


@pytest.mark.parametrize(("how", "status"), [("payment", 402), ("missing", 404)])
def test_exceptions_of_a_rest_view(site: None, key: str, how: str, status: int) -> None:
    first, again = (send(f"/rest/{how}", key, "alice") for _ in range(2))
    assert first.status_code == status
    assert is_replay(again)
    assert (again.status_code, len(RUNS)) == (status, 1)
    if how == "payment":
        assert json.loads(first.content) == json.loads(again.content) == {"run": "1"}


def test_a_rest_projects_own_exception_handler_wins(site: None, key: str) -> None:
    send("/rest/plain", key, "alice")
    answer = send("/rest/plain", key, "alice", {"a": 2})
    assert (answer.status_code, json.loads(answer.content)) == (422, {"ours": "no", "theirs": "yes"})
    refused(send("/rest/plain", "two words", "alice"), 400, "key-invalid", "none")


def test_a_rest_function(site: None, key: str) -> None:
    assert same_answer(*(send("/rest-function", key, None) for _ in range(2)))


def test_the_middleware_does_not_know_a_token_user(site: None, key: str) -> None:
    """Documented, with the way out: the decorator on the view, or `scope=`."""
    with override_settings(MIDDLEWARE=[OURS]):
        headers = {"Authorization": f"Bearer {key}"}
        answer = Browser("sync").post("/pay", key, headers=headers)
    refused(answer, 500, "scope-missing", "none")
    assert THREADS == []


@dataclasses.dataclass
class Paid:
    status_code: Any


@idempotent(MemoryBackend())
def helper(request: Any) -> tuple[int, Any] | Paid | None:
    RUNS.append("helper")
    return HELPED[0]


HELPED: list[Any] = [None]


def enveloped(view: Any) -> Any:
    """What makes an answer of a view's value."""

    @functools.wraps(view)
    def wrapper(request: Any) -> HttpResponse:
        return HttpResponse(repr(view(request)))

    return wrapper


class Helped(View):
    def post(self, request: Any) -> HttpResponse:
        return HttpResponse(repr(helper(request)))


@idempotent(MemoryBackend())
def no_answer(request: Any) -> Any:
    RUNS.append("no answer")
    return {"a": 1}


def no_answer_behind_the_middleware(request: Any) -> Any:
    RUNS.append("no answer")
    return {"a": 1}


urlpatterns = [
    path("function", lambda request: HttpResponse(repr(helper(request)))),
    path("class", Helped.as_view()),
    path("below", enveloped(helper)),
    path("no-answer", no_answer),
    path("no-answer-behind", no_answer_behind_the_middleware),
]


@pytest.mark.parametrize("where", ["function", "class", "below"])
@pytest.mark.parametrize(
    "value", [None, (503, True), (401, "a"), (70000, "EUR"), Paid(503), Paid("declined")], ids=repr
)
def test_a_value_that_is_no_answer_has_no_status(site: None, where: str, value: Any) -> None:
    HELPED[0] = value
    others = [name for name in settings.MIDDLEWARE if name != OURS]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=others):
        key, browser = new_key(), Browser("sync")
        answers = [browser.post(f"/{where}", key) for _ in range(3)]
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, repr(value).encode())] * 3
        assert RUNS == ["helper"]


@pytest.mark.parametrize("where", ["no-answer", "no-answer-behind"])
def test_a_view_that_returns_no_answer_releases_the_key(browser: Browser, where: str) -> None:
    others = [name for name in settings.MIDDLEWARE if name != OURS or where == "no-answer-behind"]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=others):
        key = new_key()
        assert [browser.post(f"/{where}", key).status_code for _ in range(2)] == [500, 500]
        assert RUNS == ["no answer", "no answer"]
