"""Django's middleware, sync and async: how a request is read and compared, and who calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from django.test import override_settings

from clients import new_key
from django_client import Browser, browser, is_replay, refused, same_answer, site
from django_site import OURS, RUNS, User
from pyidempotent.backends.memory import MemoryBackend

__all__ = ["browser", "site"]


@pytest.fixture
def key() -> str:
    return new_key()


def configured(**options: Any) -> override_settings:
    return override_settings(PYIDEMPOTENT={"BACKEND": MemoryBackend(), **options})


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


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_form_that_csrf_protection_has_read(site: None, mode: str, key: str) -> None:
    browser = Browser(mode, csrf=True)
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
    with override_settings(MIDDLEWARE=[f"{__name__}.Reads", OURS]):
        assert browser.post("/echo", key, b"A").status_code == 500
    assert "the request's body was read before its payload could be compared" in caplog.text
    assert RUNS == []
    with (
        override_settings(MIDDLEWARE=[f"{__name__}.Reads", OURS]),
        configured(FINGERPRINT=lambda request: "all"),
    ):
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


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_user_is_the_caller(users: list[Any], mode: str, key: str) -> None:
    browsers = [Browser(mode) for _ in users]
    for each, user in zip(browsers, users, strict=True):
        if mode == "sync":
            each.client.force_login(user)
        else:
            asyncio.run(each.client.aforce_login(user))
    answers = [each.post("/pay", key) for each in (*browsers, *browsers)]
    assert [is_replay(answer) for answer in answers] == [False, False, True, True]
    assert answers[0].content == answers[2].content != answers[1].content == answers[3].content
    # A login is one, whatever else the request carries.
    assert is_replay(browsers[0].post("/pay", key, headers={"Authorization": "Bearer 1"}))
    assert not is_replay(Browser(mode).post("/pay", key))


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
    middleware = [*(f"django.contrib.{name}" for name in auth), f"{__name__}.Knows", OURS]
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
    with configured(SCOPE=f"{__name__}.tenant"):
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
