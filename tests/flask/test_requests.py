"""What the extension for Flask makes of a request: its body, however it was read, and who calls."""

from __future__ import annotations

import gc
import io
import sys
import weakref
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, abort, g, request

from clients import is_replay, new_key, same_answer
from flask_client import OPERATION, Shop, number
from pyidempotent import (
    current,
)
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

READERS: dict[str, Callable[[], Any]] = {
    "stream": lambda: request.stream.read().decode(),
    "get_data": lambda: request.get_data(as_text=True),
    "data": lambda: request.data.decode(),
    "wsgi.input": lambda: request.environ["wsgi.input"].read().decode(),
    "json": lambda: request.json,
    "form": lambda: request.form.to_dict(),
    "files": lambda: {name: file.read().decode() for name, file in request.files.items()},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_view_reads_its_body_in_any_way(reader: str, chunked: bool) -> None:
    app = Flask("shop")
    app.add_url_rule("/pay", "pay", lambda: {"read": READERS[reader]()}, methods=["POST"])

    def send(**headers: str) -> Any:
        sent: dict[str, Any] = {"data": b'{"amount": 7}', "content_type": "application/json"}
        if reader == "form":
            sent = {"data": {"amount": "7"}}
        elif reader == "files":
            sent = {"data": {"amount": (io.BytesIO(b"7"), "a.txt")}}
        overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}
        return app.test_client().post("/pay", headers=headers, environ_overrides=overrides, **sent).json["read"]

    plain = send()
    assert plain
    Idempotency(app, MemoryBackend())
    assert send(**{"Idempotency-Key": "k"}) == plain


@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_that_was_parsed_before_is_compared_by_what_it_says(chunked: bool) -> None:
    """As protection against forgery does; the body itself is gone."""
    shop = Shop(lambda: request.form["a"] + request.files["f"].read().decode())
    shop.app.before_request(lambda: (request.form, None)[1])
    terminated = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}

    def send(a: str, content: bytes, filename: str = "a.txt") -> Any:
        return shop.app.test_client().post(
            "/pay",
            data={"a": a, "f": (io.BytesIO(content), filename)},
            headers={"Idempotency-Key": shop.key},
            environ_overrides=terminated,
        )

    assert send("1", b"file").text == "1file"
    assert send("1", b"file").headers["Idempotent-Replayed"] == "true"
    for changed in (("2", b"file"), ("1", b"other"), ("1", b"file", "b.txt")):
        assert send(*changed).status_code == 422
    assert shop.runs == 1


def test_a_parsed_form_that_says_nothing_is_a_form() -> None:
    shop = Shop(lambda: f"{request.form.to_dict()} {new_key()}")
    shop.app.before_request(lambda: (request.form, None)[1])
    sent = {"content": b"&&&", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    first, again = (shop.pay(**{**sent, "headers": dict(sent["headers"])}) for _ in range(2))
    assert first.text.startswith("{} ")
    assert same_answer(first, again)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [3, 6])
def test_a_body_that_was_read_away_is_an_error_and_nothing_runs(
    chunked: bool, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(number)
    shop.app.before_request(lambda: (request.stream.read(size), None)[1])
    overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}
    headers = {"Idempotency-Key": shop.key}
    answer = shop.app.test_client().post("/pay", data=b"amount", headers=headers, environ_overrides=overrides)
    assert answer.status_code == 500
    assert "use request.get_data()" in caplog.text
    assert (shop.runs, shop.state) == (0, None)


@pytest.mark.parametrize("terminated", [True, False])
def test_a_client_that_leaves_within_its_body_runs_nothing(terminated: bool) -> None:
    shop = Shop(number)
    overrides: dict[str, Any] = {"CONTENT_LENGTH": "9"}
    if terminated:
        overrides["wsgi.input_terminated"] = True
    client = shop.app.test_client()
    answer = client.post("/pay", data=b"A", headers={"Idempotency-Key": shop.key}, environ_overrides=overrides)
    assert (answer.status_code, shop.runs, shop.state) == (400, 0, None)


@pytest.mark.parametrize("reads", [lambda: request.get_data(), lambda: request.form])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_was_looked_at_before_is_held_to_its_limit(reads: Callable[[], Any], chunked: bool) -> None:
    shop = Shop(lambda: request.get_data(), max_request_bytes=5)
    shop.app.before_request(lambda: (reads(), None)[1])
    overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}

    def send(body: bytes) -> Any:
        headers = {"Idempotency-Key": shop.key}
        return shop.app.test_client().post("/pay", data=body, headers=headers, environ_overrides=overrides)

    assert send(b"123456").status_code == 413
    assert [send(b"12345").data for _ in range(2)] == [b"12345", b"12345"]
    assert send(b"54321").status_code == 422
    assert shop.runs == 1


@pytest.mark.parametrize(
    ("declared", "more"),
    [("3 ", {}), ("", {"wsgi.input_terminated": False}), ("", {"wsgi.input_terminated": True})],
    ids=["spaces", "terminated or not", "terminated"],
)
def test_a_body_counts_however_its_length_is_told(declared: str, more: dict[str, Any]) -> None:
    shop = Shop(lambda: request.get_data(as_text=True) or "nothing")

    def send(body: bytes) -> Any:
        overrides = {"CONTENT_LENGTH": declared, "wsgi.input": io.BytesIO(body), **more}
        headers = {"Idempotency-Key": shop.key}
        return shop.app.test_client().post("/pay", headers=headers, environ_overrides=overrides)

    assert send(b"aaa").text == "aaa"
    assert send(b"bbb").status_code == 422


def test_a_connection_that_breaks_within_a_body_is_the_clients_error() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError

    shop = Shop(number)
    overrides = {"CONTENT_LENGTH": "5", "wsgi.input": Broken()}
    headers = {"Idempotency-Key": shop.key}
    assert shop.app.test_client().post("/pay", headers=headers, environ_overrides=overrides).status_code == 400
    assert shop.state is None


@pytest.mark.parametrize("option", ["max_request_bytes", "max_response_bytes"])
def test_a_limit_may_be_larger_than_any_number_type(option: str) -> None:
    shop = Shop(number, **{option: 10**30})
    assert same_answer(shop.pay(), shop.pay())


def test_what_an_environ_leads_to_is_collected() -> None:
    class Left:
        pass

    def view() -> dict[str, str]:
        left = request.environ["shop.left"] = Left()
        frame = sys._getframe()
        while frame.f_code.co_name != "_protect":
            assert frame.f_back is not None
            frame = frame.f_back
        left.frame = frame  # type: ignore[attr-defined]  # as an exception's traceback holds it
        del frame
        lefts.append(weakref.ref(left))
        return number()

    lefts: list[weakref.ref[Left]] = []
    shop = Shop(view)
    shop.pay()
    gc.collect()
    assert lefts[0]() is None


def test_the_applications_own_limit_holds() -> None:
    shop = Shop(number)
    shop.app.config["MAX_CONTENT_LENGTH"] = 10
    answer = shop.pay(content=b"x" * 11)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/html; charset=utf-8")
    assert shop.state is None


def test_a_view_may_call_the_application_again_and_an_inner_application_joins() -> None:
    shop = Shop()
    inner = Shop(number, backend=shop.backend)

    @shop.app.post("/pay")
    def pay() -> Any:
        assert shop.client.post("/other", shop.key).text == "other"
        assert current().scope.operation == ("POST", b"/pay")
        return inner.app.wsgi_app  # Flask takes a WSGI application for an answer

    shop.app.post("/other")(lambda: "other")
    first, again = shop.pay(), shop.pay()
    assert same_answer(first, again)
    assert (inner.runs, shop.state) == (1, "completed")
    with pytest.raises(RuntimeError, match=r"current\(\) finds no attempt"):
        current()


# Who calls.


def test_scope_sees_the_request_g_and_the_session() -> None:
    def user(request: flask.Request) -> str:
        return f"{request.headers.get('X-Tenant')} {g.user} {flask.session.get('device')}"

    shop = Shop(number, scope=user)
    shop.app.before_request(lambda: setattr(g, "user", request.headers.get("X-User")))
    shop.app.get("/login")(lambda: flask.session.update(device="phone") or "")
    first = shop.pay(headers={"X-User": "a", "X-Tenant": "t"})
    assert is_replay(shop.pay(headers={"X-User": "a", "X-Tenant": "t"}))
    assert not is_replay(shop.pay(headers={"X-User": "b", "X-Tenant": "t"}))
    cookie = shop.client.post("/login", method="GET").headers["set-cookie"].partition(";")[0]
    other = shop.pay(headers={"X-User": "a", "X-Tenant": "t", "Cookie": cookie})
    assert other.content != first.content
    assert shop.backend.get(shop.key, operation=OPERATION, caller="t a phone") is not None


def test_the_user_that_flask_login_knows_is_the_caller() -> None:
    import flask_login

    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.id = name

    shop = Shop(number)
    manager = flask_login.LoginManager(shop.app)
    manager.request_loader(lambda request: User(name) if (name := request.headers.get("Authorization")) else None)
    alice, bob = {"Authorization": "alice"}, {"Authorization": "bob"}
    assert same_answer(shop.pay(headers=alice), shop.pay(headers=alice))
    assert not is_replay(shop.pay(headers=bob))
    assert not is_replay(shop.pay())  # an anonymous user is nobody
    assert shop.backend.get(shop.key, operation=OPERATION, caller="alice") is not None


def test_who_calls_may_abort() -> None:
    shop = Shop(number, scope=lambda request: abort(401))
    shop.app.register_error_handler(401, lambda error: ("log in", 401))
    assert (shop.pay().status_code, shop.pay().text) == (401, "log in")
    assert (shop.runs, shop.state) == (0, None)
