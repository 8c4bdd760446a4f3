"""Flask behind the extension; its views are sync, those of a blueprint are async."""

from collections.abc import Iterator

from flask import Blueprint, Flask, Request, Response, request
from handler import ROUTES, STORE, Handler
from werkzeug.datastructures import Headers
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from pyidempotent import idempotent, shared
from pyidempotent.flask import Idempotency

METHODS = ["POST", "PATCH", "GET", "PUT", "DELETE"]


def begun() -> Handler:
    return Handler(request.headers["x-run"], request.headers.get("x-do", ""))


def answer_of(handler: Handler) -> Response:
    status, headers, content = handler.answer(request.get_data())
    body: bytes | Iterator[bytes] = content if handler.stream is None else handler.chunks()
    return Response(body, status, Headers(headers))


def handle(rest: str) -> Response:
    handler = begun()
    if handler.waits_first:
        handler.wait()
    return answer_of(handler)


async def handle_async(rest: str) -> Response:
    handler = begun()
    if handler.waits_first:
        await handler.wait_async()
    return answer_of(handler)


def user(request: Request) -> str:
    return request.headers["x-user"]


def mounted() -> Flask:
    """An application whose paths are those of another one."""
    inner = Flask("inner")
    inner.add_url_rule("/<path:rest>", view_func=handle, methods=METHODS)
    Idempotency(inner, STORE)
    return inner


idempotency = Idempotency(
    backend=STORE,
    routes={**{path: own for path, own in ROUTES.items() if path != "/left-out/*"}, "/shared/*": {"scope": shared}},
)

owned = Blueprint("owned", __name__, url_prefix="/owned")
owned.add_url_rule("/<path:rest>", view_func=handle_async, methods=METHODS)
idempotency.options(scope=user)(owned)

app = Flask("shop")
app.add_url_rule("/<path:rest>", view_func=handle, methods=METHODS)
app.add_url_rule("/left-out/<path:rest>", "left-out", idempotency.exempt(lambda rest: handle(rest)), methods=METHODS)
app.add_url_rule("/joined/<path:rest>", "joined", idempotent()(handle), methods=METHODS)
app.register_blueprint(owned)
idempotency.init_app(app)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mount-a": mounted(), "/mount-b": mounted()})
