"""`@idempotent` below a decorator of somebody else's: its value goes there, and a refusal past it to the client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flask
import flask_restx
import flask_smorest
import marshmallow
import pytest
from flask import Flask
from flask.views import MethodView

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
    class Row:
        status = "charged"

        def __getitem__(self, name: str) -> Any:
            return self.status

    app = Flask("shop")

    @app.post("/pay")
    @envelope
    @idempotent(MemoryBackend())
    def pay() -> Any:
        return Row()

    first, again = LocalWsgi(app).twice("/pay")
    assert first.status_code == 201
    refused(again, 410, "not-kept", "done")
    assert "put @idempotent above the decorator" in caplog.text
