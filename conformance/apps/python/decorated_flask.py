"""Flask with the decorator on each view."""

from typing import Any

from flask import Flask
from handler import ROUTES, STORE
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from wsgi_flask import handle, user

from pyidempotent import idempotent, shared


def add(app: Flask, path: str, options: dict[str, Any] | None) -> None:
    protected = handle if options is None else idempotent(STORE, **{"required": False, **options})(handle)
    app.add_url_rule(path, path, protected, methods=["POST", "PATCH", "GET"])
    app.add_url_rule(path, f"{path} as it is", handle, methods=["PUT", "DELETE"])


def mounted() -> Flask:
    inner = Flask("inner")
    add(inner, "/<path:rest>", {})
    return inner


app = Flask("shop")
for pattern, options in ROUTES.items():
    add(app, pattern.replace("*", "<path:rest>"), options)
add(app, "/owned/<path:rest>", {"scope": user})
add(app, "/shared/<path:rest>", {"scope": shared})
add(app, "/<path:rest>", {})
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mount-a": mounted(), "/mount-b": mounted()})
