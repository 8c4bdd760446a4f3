"""`@idempotent` below a decorator of somebody else's: its value goes there, and a refusal past it to the client."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import flask
import flask_login
import flask_restx
import flask_smorest
import marshmallow
import pytest
from flask import Flask
from flask.views import MethodView
from markupsafe import Markup
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from clients import LocalWsgi, is_replay, new_key, refused
from pyidempotent import IdempotencyConflict, idempotent
from pyidempotent.backends.memory import MemoryBackend

RUNS: list[str] = []


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def charge() -> dict[str, Any]:
    RUNS.append("charge")
    return {"status": "charged", "secret": 1}


def restx() -> Flask:
    app = Flask("shop")
    api = flask_restx.Api(app)

    class Pay(flask_restx.Resource):  # type: ignore[misc]
        @flask_restx.marshal_with({"status": flask_restx.fields.String})
        @idempotent(MemoryBackend())
        def post(self) -> Any:
            return charge(), 201

    api.add_resource(Pay, "/pay")
    return app


def restx_method_decorators() -> Flask:
    app = Flask("shop")
    api = flask_restx.Api(app)

    class Pay(flask_restx.Resource):  # type: ignore[misc]
        method_decorators = (flask_restx.marshal_with({"status": flask_restx.fields.String}),)

        @idempotent(MemoryBackend())
        def post(self) -> Any:
            return charge(), "201 CREATED"

    api.add_resource(Pay, "/pay")
    return app


class Out(marshmallow.Schema):
    status = marshmallow.fields.String()


def smorest(of_class: bool) -> Flask:
    app = Flask("shop")
    app.config.update(API_TITLE="shop", API_VERSION="1", OPENAPI_VERSION="3.0.2")
    api, blueprint = flask_smorest.Api(app), flask_smorest.Blueprint("shop", "shop")

    if of_class:

        @blueprint.route("/pay")
        class Pay(MethodView):
            @blueprint.response(201, Out)
            @idempotent(MemoryBackend())
            def post(self) -> Any:
                return charge()
    else:

        @blueprint.route("/pay", methods=["POST"])
        @blueprint.response(201, Out)
        @idempotent(MemoryBackend())
        def pay() -> Any:
            return charge()

    api.register_blueprint(blueprint)
    return app


def envelope(view: Callable[..., Any]) -> Callable[..., Any]:
    """What makes an answer of a view's value, and takes everything for one."""

    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return {"status": view(*args, **kwargs)["status"]}, 201

    return wrapper


def own(is_async: bool) -> Flask:
    app = Flask("shop")

    if is_async:

        async def pay() -> Any:
            return charge()
    else:

        def pay() -> Any:
            return charge()

    protected = idempotent(MemoryBackend(), name="pay")(pay)
    wrapped = envelope(app.ensure_sync(protected))
    app.add_url_rule("/pay", "pay", wrapped, methods=["POST"])
    return app


APPLICATIONS: dict[str, Callable[[], Flask]] = {
    "marshal_with": restx,
    "method_decorators": restx_method_decorators,
    "blp.response": functools.partial(smorest, False),
    "blp.response on a class": functools.partial(smorest, True),
    "own": functools.partial(own, False),
}


@pytest.mark.parametrize("application", APPLICATIONS.values(), ids=APPLICATIONS)
def test_the_decorator_above_gets_the_value_and_the_client_the_refusal(application: Callable[[], Flask]) -> None:
    client, key = LocalWsgi(application()), new_key()
    missing = client.post("/pay")
    first, again = client.post("/pay", key), client.post("/pay", key)
    other = client.post("/pay?other=1", key)
    assert (first.status_code, first.json()) == (201, {"status": "charged"})
    assert (again.status_code, again.json(), is_replay(again)) == (201, {"status": "charged"}, True)
    # Flask-RESTX says application/json of every error.
    assert [(answer.status_code, answer.json()["type"]) for answer in (missing, other)] == [
        (400, "urn:problem-type:idempotency:key-missing"),
        (422, "urn:problem-type:idempotency:conflict"),
    ]
    assert RUNS == ["charge"]


@dataclasses.dataclass
class Row:
    name: str
    count: int


class Order(NamedTuple):
    item: str
    cents: int


@pytest.mark.parametrize("value", [Order("pen", 503), ("pen", 70000), ("Ann", "503 Main Street"), ("pen", True)])
def test_a_value_that_is_no_answer_has_no_status(value: Any) -> None:
    app = Flask("shop")

    def total(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapper() -> Any:
            return {"value": list(view())}

        return wrapper

    @app.post("/pay")
    @total
    @idempotent(MemoryBackend())
    def pay() -> tuple[Any, ...] | Order:
        RUNS.append("pay")
        return value  # type: ignore[no-any-return]

    first, again = LocalWsgi(app).twice("/pay")
    assert (again.status_code, again.json(), is_replay(again)) == (200, first.json(), True)
    assert RUNS == ["pay"]


def hiding(view: Callable[..., Any]) -> Callable[..., Any]:
    """What leaves fields out of a value, and takes a response as it is."""

    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        value = view(*args, **kwargs)
        return {name: value[name] for name in value if name != "secret"} if isinstance(value, dict) else value

    return wrapper


def unchanged(view: Callable[..., Any]) -> Callable[..., Any]:
    return view


class Hiding(MethodView):
    def dispatch_request(self, **arguments: Any) -> Any:
        return hiding(super().dispatch_request)(**arguments)


@pytest.mark.parametrize("base", [MethodView, Hiding])
@pytest.mark.parametrize("around", [unchanged, hiding])
def test_a_class_with_a_decorator_around_it(base: type[MethodView], around: Callable[..., Any]) -> None:
    class Pay(base):  # type: ignore[misc, valid-type]
        @idempotent(MemoryBackend())
        def post(self) -> Any:
            return charge()

    app = Flask("shop")
    app.add_url_rule("/pay", view_func=around(Pay.as_view("pay")))
    first, again = LocalWsgi(app).twice("/pay")
    assert again.json() == first.json()
    assert ("secret" in first.json()) is (base is MethodView and around is unchanged)
    assert RUNS == ["charge"]


def test_a_decorator_that_lets_answers_pass_keeps_them_whole() -> None:
    app = Flask("shop")
    app.secret_key = "secret"
    app.config["LOGIN_DISABLED"] = True
    flask_login.LoginManager(app).request_loader(lambda request: None)

    @app.post("/pay")
    @flask_login.login_required
    @idempotent(MemoryBackend())
    def pay() -> Any:
        flask.after_this_request(lambda response: response.headers.add("Location", "/charges/7") or response)
        return flask.jsonify(charge()), 201

    first, again = LocalWsgi(app).twice("/pay")
    assert (again.status_code, again.content, again.headers["location"]) == (201, first.content, "/charges/7")
    assert is_replay(again)


def test_a_decorator_that_makes_answers_of_errors_gets_the_refusal_s_status() -> None:
    def telling(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapper() -> Any:
            try:
                return view()
            except HTTPException as error:
                return {"error": error.description}, error.code

        return wrapper

    app = Flask("shop")
    app.register_error_handler(HTTPException, lambda error: ("mine", error.code))
    for path, around in (("/pay", passing), ("/told", telling)):
        app.add_url_rule(path, path, around(idempotent(MemoryBackend(), name=path)(lambda: "paid")), methods=["POST"])
    client = LocalWsgi(app)
    refused(client.post("/pay"), 400, "key-missing", "none")
    told = client.post("/told")
    assert (told.status_code, "Idempotency-Key" in told.json()["error"]) == (400, True)
    app.config["TRAP_HTTP_EXCEPTIONS"] = True
    refused(client.post("/pay"), 400, "key-missing", "none")


def passing(view: Callable[..., Any]) -> Callable[..., Any]:
    """As ``login_required`` does."""

    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        {"a": 1},
        ({"a": 1}, 202),
        ("text", "202 Taken", {"X-A": "b"}),
        ("text", {"X-A": "b"}),
        flask.Response("whole", 418, {"X-A": "b"}),
        (flask.Response("whole"), 201, {"X-A": "b"}),
        ({"a": 1}, HTTPStatus.CREATED),
        ("text", 201, Headers({"X-A": "b"})),
        OrderedDict(b=1, a=2),
        {"row": Row("a", 1)},
        [Row("a", 1)],
        Markup("<b>"),
    ],
    ids=repr,
)
def test_what_passes_through_is_replayed_as_answered(value: Any) -> None:
    app = Flask("shop")

    @app.post("/pay")
    @passing
    @idempotent(MemoryBackend())
    def pay() -> Any:
        RUNS.append("pay")
        return value

    first, again = LocalWsgi(app).twice("/pay")
    assert (again.status_code, again.content, is_replay(again)) == (first.status_code, first.content, True)
    assert again.headers.get("X-A") == first.headers.get("X-A")
    assert RUNS == ["pay"]


def test_a_5xx_releases_and_a_handler_of_the_applications_own_wins() -> None:
    app = Flask("shop")

    @app.post("/pay")
    @passing
    @idempotent(MemoryBackend())
    def pay() -> Any:
        RUNS.append("pay")
        return {"busy": True}, 503

    @app.errorhandler(IdempotencyConflict)
    def conflict(error: IdempotencyConflict) -> Any:
        return "mine", 499

    client, key = LocalWsgi(app), new_key()
    assert [client.post("/pay", key).status_code for _ in range(2)] == [503, 503]
    assert RUNS == ["pay", "pay"]
    app.view_functions["pay"] = passing(idempotent(MemoryBackend(), name="pay")(lambda: "paid"))
    assert [client.post(url, key).status_code for url in ("/pay", "/pay?a=1")] == [200, 499]


def test_what_has_no_stored_form_is_told_where_it_belongs(caplog: pytest.LogCaptureFixture) -> None:
    class Mapped:
        status = "charged"

        def __getitem__(self, name: str) -> Any:
            return self.status

    app = Flask("shop")

    @app.post("/pay")
    @envelope
    @idempotent(MemoryBackend())
    def pay() -> Any:
        return Mapped()

    first, again = LocalWsgi(app).twice("/pay")
    assert first.status_code == 201
    refused(again, 410, "not-kept", "done")
    assert "return what Flask can make an answer of" in caplog.text


def test_a_view_that_is_not_seen_compares_its_request() -> None:
    """Below a decorator without ``functools.wraps``."""
    app = Flask("shop")

    @idempotent(MemoryBackend())
    def pay() -> Any:
        return {"amount": flask.request.get_json()["amount"]}

    app.add_url_rule("/pay", "pay", lambda: pay(), methods=["POST"])
    client, key = LocalWsgi(app), new_key()
    assert [client.post("/pay", key, json={"amount": 1}).json() for _ in range(2)] == [{"amount": 1}] * 2
    assert client.post("/pay", key, json={"amount": 2}).status_code == 500  # nobody makes an answer of the refusal
