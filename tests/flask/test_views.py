"""`@idempotent` on the views of Flask, sync and async: the request is found, the answer is stored."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, Response, abort, after_this_request, request
from flask.views import MethodView, View

from clients import LocalWsgi, is_replay, new_key, refused, same_answer
from pyidempotent import IdempotencyConflict, arguments, attempt, current, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

View_ = Callable[..., Any]


class Views:
    """An application of decorated views, sync or async.

    Parameters:
        is_async: whether its views are.
    """

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self.app = Flask("shop")
        self.app.testing = True
        self.app.secret_key = "secret"
        self.client = LocalWsgi(self.app)
        self.backend: Any = MemoryBackend()
        self.runs = 0

    def as_view(self, body: View_) -> View_:
        def view(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return body(*args, **kwargs)

        async def view_async(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return view(*args, **kwargs)

        return view_async if self.is_async else view

    def add(self, body: View_, path: str = "/pay", **options: Any) -> None:
        view = idempotent(**{"backend": self.backend, **options})(self.as_view(body))
        self.app.add_url_rule(path, path, view, methods=["POST", "PATCH"])


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def views(request: pytest.FixtureRequest) -> Views:
    return Views(request.param)


ANSWERS: dict[str, Callable[[], Any]] = {
    "str": lambda: f"paid {new_key()}",
    "bytes": lambda: new_key().encode(),
    "dict": lambda: {"status": "charged", "charge": new_key()},
    "list": lambda: [1, new_key()],
    "status": lambda: ({"charge": new_key()}, 201),
    "headers": lambda: ({"charge": new_key()}, {"Location": "/charges/7"}),
    "three": lambda: (new_key(), "202 Taken", [("Link", "<a>"), ("Link", "<b>")]),
    "response": lambda: Response(new_key(), 418, content_type="text/x-own"),
    "jsonify": lambda: flask.jsonify(new_key()),
    "redirect": lambda: flask.redirect(f"/charges/{new_key()}"),
    "empty": lambda: ("", 204),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_view_may_return_is_replayed_as_answered(views: Views, kind: str) -> None:
    """Scenario 39."""
    views.add(ANSWERS[kind])
    assert same_answer(*views.client.twice("/pay"))
    assert views.runs == 1


def test_a_key_is_required_and_a_payload_belongs_to_it(views: Views) -> None:
    views.add(lambda: {"echo": request.get_data(as_text=True)})
    key = new_key()
    refused(views.client.post("/pay"), 400, "key-missing", "none")
    refused(views.client.post("/pay", "two words"), 400, "key-invalid", "none")
    assert views.client.post("/pay", key, content=b"A").json() == {"echo": "A"}
    refused(views.client.post("/pay", key, content=b"B"), 422, "conflict", "none")
    refused(views.client.post("/pay?b=1", key, content=b"A"), 422, "conflict", "none")
    assert is_replay(views.client.post("/pay", key, content=b"A"))
    assert not is_replay(views.client.post("/pay", key, content=b"A", method="PATCH"))
    assert views.runs == 2


def test_a_view_is_protected_under_every_method_but_the_safe_ones(views: Views) -> None:
    view = idempotent(views.backend)(views.as_view(lambda: new_key()))
    views.app.add_url_rule("/pay", "pay", view, methods=["GET", "POST", "PUT", "DELETE"])
    key = new_key()
    assert views.client.post("/pay", method="GET").status_code == 200
    assert not is_replay(views.client.twice("/pay", key, method="GET")[1])
    for method in ("POST", "PUT", "DELETE"):
        refused(views.client.post("/pay", method=method), 400, "key-missing", "none")
        assert same_answer(*views.client.twice("/pay", key, method=method))
    assert views.runs == 6


def test_forms_and_files_are_payload(views: Views) -> None:
    """Scenario 40: a new boundary is no new payload, another file is."""
    views.add(lambda: request.form["a"] + request.files["f"].read().decode())
    key = new_key()

    def send(content: bytes, a: str = "1") -> Any:
        return views.client.post("/pay", key, data={"a": a}, files={"f": ("a.txt", io.BytesIO(content))})

    first, again = send(b"file"), send(b"file")
    assert first.text == "1file"
    assert same_answer(first, again)
    refused(send(b"other"), 422, "conflict", "none")
    refused(send(b"file", "2"), 422, "conflict", "none")


def test_a_body_over_the_cap_is_refused(views: Views) -> None:
    views.add(lambda: "paid", max_request_bytes=5)
    refused(views.client.post("/pay", new_key(), content=b"123456"), 413, "payload-too-large", "none")
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    for body, status in ((b"123456", 413), (b"12345", 200)):
        headers = {"Idempotency-Key": new_key()}
        answer = views.app.test_client().post("/pay", data=body, headers=headers, environ_overrides=chunked)
        assert answer.status_code == status
    assert views.runs == 1


def test_an_answer_over_the_cap_is_not_kept(views: Views) -> None:
    views.add(lambda: ("x" * 300, 201, {"Location": "/charges/7"}), max_response_bytes=300)
    key = new_key()
    assert len(views.client.post("/pay", key).content) == 300
    problem = refused(views.client.post("/pay", key), 410, "not-kept", "done")
    assert (problem["answer_status"], problem["location"]) == (201, "/charges/7")
    assert views.runs == 1


@pytest.mark.parametrize("status", [404, 418])
def test_abort_is_an_answer_and_passes_the_error_handlers_again(views: Views, status: int) -> None:
    views.add(lambda: abort(status, "a reason"))
    views.app.register_error_handler(status, lambda error: ({"error": error.description}, status))
    first, again = views.client.twice("/pay")
    assert (first.status_code, first.json()) == (status, {"error": "a reason"})
    assert same_answer(first, again)
    assert views.runs == 1


def test_abort_with_an_answer_of_its_own(views: Views) -> None:
    views.add(lambda: abort(Response(new_key(), 409, {"X-Own": "1"})))
    first, again = views.client.twice("/pay")
    assert (first.status_code, first.headers["x-own"]) == (409, "1")
    assert same_answer(first, again)
    assert views.runs == 1


@pytest.mark.parametrize("status", [401, 429, 503])
def test_abort_that_releases(views: Views, status: int) -> None:
    views.add(lambda: abort(status))
    assert [answer.status_code for answer in views.client.twice("/pay")] == [status, status]
    assert views.runs == 2


def test_what_after_this_request_adds_in_the_view_is_stored(views: Views) -> None:
    def add(name: str) -> Callable[[Response], Response]:
        def see(response: Response) -> Response:
            response.headers.add(name, "1")
            return response

        return see

    def body() -> str:
        after_this_request(add("X-View"))
        return new_key()

    views.app.before_request(lambda: (after_this_request(add("X-Request")), None)[1])
    views.app.after_request(add("X-App"))
    views.add(body)
    first, again = views.client.twice("/pay")
    for answer in (first, again):
        for name in ("X-View", "X-Request", "X-App"):
            assert answer.headers.get_list(name) == ["1"], name
    assert same_answer(first, again)


def test_an_async_function_of_after_this_request_is_left_to_flask(views: Views) -> None:
    async def see(response: Response) -> Response:
        response.headers["X-Late"] = "1"
        return response

    def body() -> str:
        after_this_request(see)
        return "paid"

    views.add(body)
    first, again = views.client.twice("/pay")
    assert (first.headers["x-late"], "x-late" in again.headers, again.text) == ("1", False, "paid")


def test_an_answer_that_is_longer_than_it_said_is_not_kept(views: Views) -> None:
    views.add(lambda: Response([b"longer than that"], headers={"Content-Length": "2"}))
    first, again = views.client.twice("/pay")
    assert first.status_code == 200
    refused(again, 410, "not-kept", "done")
    assert views.runs == 1


def test_a_stream_says_what_to_use_for_it(views: Views, caplog: pytest.LogCaptureFixture) -> None:
    views.add(lambda: iter(["one", "two"]))
    key = new_key()
    assert views.client.post("/pay", key).text == "onetwo"
    refused(views.client.post("/pay", key), 410, "not-kept", "done")
    assert "pyidempotent.flask.Idempotency" in caplog.text
    assert views.runs == 1


def test_a_view_that_raises_or_returns_none_may_run_again(views: Views) -> None:
    def body() -> Any:
        if views.runs == 1:
            raise ZeroDivisionError
        return None if views.runs == 2 else "paid"

    views.add(body)
    key = new_key()
    with pytest.raises(ZeroDivisionError):
        views.client.post("/pay", key)
    with pytest.raises(TypeError, match="did not return a valid response"):
        views.client.post("/pay", key)
    assert views.client.post("/pay", key).text == "paid"
    assert is_replay(views.client.post("/pay", key))


def test_stored_exceptions_are_raised_again(views: Views) -> None:
    def body() -> str:
        raise LookupError(f"none {views.runs}")

    views.add(body, store_exceptions=LookupError)
    views.app.register_error_handler(LookupError, lambda error: (str(error), 404))
    first, again = views.client.twice("/pay")
    assert first.text == "none 1"
    assert same_answer(first, again)


def test_a_handler_of_the_users_own_wins(views: Views) -> None:
    api = Blueprint("api", __name__)
    view = idempotent(views.backend)(views.as_view(lambda: "paid"))
    api.add_url_rule("/pay", "pay", view, methods=["POST"])
    api.register_error_handler(IdempotencyConflict, lambda error: ("mine", 422))
    views.app.register_blueprint(api)
    key = new_key()
    views.client.post("/pay", key, content=b"A")
    assert views.client.post("/pay", key, content=b"B").text == "mine"


def test_who_calls(views: Views) -> None:
    views.add(lambda: new_key(), scope=lambda request: request.headers["X-User"])
    views.add(lambda: "paid", "/unscoped")
    key = new_key()
    first, again = (views.client.post("/pay", key, headers={"X-User": "a", "Authorization": t}) for t in "12")
    assert same_answer(first, again)
    assert not is_replay(views.client.post("/pay", key, headers={"X-User": "b"}))
    answer = views.client.post("/unscoped", new_key(), headers={"Authorization": "Bearer 1"})
    refused(answer, 500, "scope-missing", "none")


def test_the_user_that_flask_login_knows_is_the_caller(views: Views) -> None:
    import flask_login

    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.id = name

    manager = flask_login.LoginManager(views.app)
    manager.request_loader(lambda request: User(request.headers["Authorization"]))
    views.add(lambda: flask_login.current_user.id)
    key = new_key()
    for user in ("alice", "bob"):
        answers = [views.client.post("/pay", key, headers={"Authorization": user}) for _ in range(2)]
        assert answers[0].text == user
        assert same_answer(*answers)


def test_a_key_of_the_views_own_and_options_by_its_parameters(views: Views) -> None:
    def body(order: str) -> str:
        return f"{order} {current().key}"

    async def view_async(order: str) -> str:
        return body(order)

    view = idempotent(views.backend, key="order", fingerprint=lambda request: request.args.get("amount"))(
        view_async if views.is_async else body
    )
    views.app.add_url_rule("/pay/<order>", "pay", view, methods=["POST"])
    first = views.client.post("/pay/7?amount=1", content=b"A")
    assert first.text == "7 7"
    assert same_answer(first, views.client.post("/pay/7?amount=1", content=b"B"))
    refused(views.client.post("/pay/7?amount=2"), 422, "conflict", "none")


def test_settle_sees_the_answer_and_its_status(views: Views) -> None:
    seen: list[Any] = []

    def settle(outcome: Any) -> Any:
        seen.append((outcome.value.json, outcome.status))
        return "store"

    views.add(lambda: ({"busy": True}, 503), settle=settle)
    assert same_answer(*views.client.twice("/pay"))
    assert seen == [({"busy": True}, 503)]


def test_classes_of_views(views: Views) -> None:
    """Scenario 41."""

    class Pay(MethodView):
        post = idempotent(views.backend)(views.as_view(lambda self: f"{type(self).__name__} {new_key()}"))

    class Refund(View):
        methods = ("POST",)
        decorators = (idempotent(views.backend),)
        dispatch_request = views.as_view(lambda self: new_key())

    views.app.add_url_rule("/pay", view_func=Pay.as_view("pay"))
    views.app.add_url_rule("/refund", view_func=Refund.as_view("refund"))
    for path in ("/pay", "/refund"):
        refused(views.client.post(path), 400, "key-missing", "none")
        assert same_answer(*views.client.twice(path))
    assert views.runs == 2


def test_the_extensions_backend_is_the_decorators_too(views: Views) -> None:
    idempotency = Idempotency(views.app, views.backend)
    views.add(lambda: new_key(), backend=None, ttl=7)
    idempotency.exempt(views.app.view_functions["/pay"])
    key = new_key()
    assert same_answer(*views.client.twice("/pay", key))
    assert views.backend.get(key, operation=("POST", "/pay")).state == "completed"


def test_without_any_backend_the_call_says_so(views: Views) -> None:
    views.add(lambda: "paid", backend=None)
    with pytest.raises(TypeError, match="pass backend="):
        views.client.post("/pay", new_key())


def test_a_decorated_view_joins_the_extensions_attempt(views: Views) -> None:
    """Scenario 38: one claim, one run, one replay."""
    Idempotency(views.app, views.backend)
    views.add(lambda: f"{current().key} {new_key()}", backend=None)
    key = new_key()
    first, again = views.client.twice("/pay", key)
    assert first.text.startswith(key)
    assert same_answer(first, again)
    refused(views.client.post("/pay"), 400, "key-missing", "none")  # the decorator's own word
    assert views.runs == 1


@pytest.mark.parametrize("is_protected", [False, True])
def test_decorated_functions_that_a_view_calls_are_functions(views: Views, is_protected: bool) -> None:
    """A view's key reaches a function that asks for none; its result is a value, and its operation its name."""
    calls: list[Any] = []

    @idempotent(views.backend)
    def charge(amount: int) -> dict[str, int]:
        calls.append(amount)
        return {"amount": amount, "runs": len(calls)}

    @idempotent(views.backend, key=arguments)
    def notify(order: str) -> str:
        calls.append(order)
        return f"sent {order}"

    def body() -> Any:
        made = charge(int(request.args["amount"]))
        with attempt(views.backend, key="order-7", name="mail") as mail:
            mail.result = "mailed"
        return ({**made, "view": new_key(), "told": notify("7")}, 500 if views.runs == 1 else 200)

    if is_protected:
        Idempotency(views.app, views.backend)
    view = views.as_view(body)
    views.app.add_url_rule("/pay", "pay", view, methods=["POST"])
    key = new_key()
    first, again = (views.client.post("/pay?amount=7", key) for _ in range(2))
    if is_protected:  # the function is part of the attempt that the extension holds
        assert (first.json()["runs"], again.json()["runs"], calls) == (1, 3, [7, "7", 7])
        assert is_replay(views.client.post("/pay?amount=7", key))
        return
    assert (first.json()["runs"], again.json()["runs"], calls) == (1, 1, [7, "7"])
    assert not is_replay(again)
    with pytest.raises(IdempotencyConflict):
        views.client.post("/pay?amount=8", key)


def test_a_refusal_to_a_function_is_an_answer_where_the_extension_is(views: Views) -> None:
    Idempotency(views.app, views.backend, key_header="X-Other")

    @idempotent(views.backend)
    def charge(amount: str) -> str:
        return amount

    views.app.add_url_rule("/pay", "pay", views.as_view(lambda: charge(request.args["amount"])), methods=["POST"])
    key = new_key()
    assert views.client.post("/pay?amount=7", key).text == "7"
    refused(views.client.post("/pay?amount=8", key), 422, "conflict", "none")


def test_outside_of_a_request_a_view_is_a_function(views: Views) -> None:
    @idempotent(views.backend, key="order")
    def pay(order: str) -> dict[str, str]:
        return {"order": order, "run": new_key()}

    assert pay("7") == pay("7")


def test_every_store(views: Views, backend: Backend) -> None:
    views.backend = backend
    views.add(lambda: new_key())
    assert same_answer(*views.client.twice("/pay"))
