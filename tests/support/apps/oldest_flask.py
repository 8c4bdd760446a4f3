"""Protected views on the Flask that is installed, asked and checked by this script; it prints the version."""

from importlib.metadata import version
from typing import Any
from uuid import uuid4

from flask import Flask, Response, abort, after_this_request, request

from pyidempotent import IdempotencyConflict, idempotent
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

backend = MemoryBackend()


def add(response: Response) -> Response:
    response.headers.add("X-Added", "1")
    return response


def receipt() -> Any:
    after_this_request(add)
    return {"receipt": uuid4().hex, "amount": request.args["amount"]}, 201


async def receipt_async() -> Any:
    return receipt()


def stream() -> Any:
    return (uuid4().hex for _ in range(3))


def form() -> Any:
    return request.form["amount"] + uuid4().hex


def aborts() -> Any:
    abort(418, uuid4().hex)


def make_app() -> Flask:
    app = Flask("shop")
    app.before_request(lambda: (after_this_request(add), None)[1])
    app.after_request(add)
    app.register_error_handler(IdempotencyConflict, lambda error: ("mine", 422))
    return app


def add_views(app: Flask, *views: Any, protect: Any = lambda view: view) -> list[str]:
    for view in views:
        app.add_url_rule(f"/{view.__name__}", view.__name__, protect(view), methods=["POST"])
    return [f"/{view.__name__}" for view in views]


def check(app: Flask, path: str) -> None:
    """First, replay, conflict."""
    headers = {"Idempotency-Key": uuid4().hex}

    def post(amount: int) -> Any:
        return app.test_client().post(
            f"{path}?amount={amount}", data={"amount": str(amount)}, headers=headers, buffered=True
        )

    first, again = post(1), post(1)
    assert first.status_code in (200, 201, 418), (path, first.text)
    assert "Idempotent-Replayed" not in first.headers, path
    assert again.headers["Idempotent-Replayed"] == "true", (path, again.text)
    assert (again.status_code, again.data) == (first.status_code, first.data), path
    assert again.headers.getlist("X-Added") == first.headers.getlist("X-Added"), path
    assert post(2).text == "mine", path


behind, decorated = make_app(), make_app()
paths = add_views(behind, receipt, receipt_async, stream, form, aborts)
Idempotency(behind, backend)
for path in paths:
    check(behind, path)
for path in add_views(decorated, receipt, receipt_async, form, aborts, protect=idempotent(MemoryBackend())):
    check(decorated, path)
print(version("flask"))
