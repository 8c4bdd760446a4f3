"""Orders behind the extension, which protects every POST with a key. From this folder: flask --app flask_shop run."""

import os
import sqlite3
from uuid import uuid4

from flask import Blueprint, Flask, abort, g, request, url_for

from pyidempotent import current
from pyidempotent.flask import Idempotency

#: Who may order, by the API key that they send.
CUSTOMERS = {"Bearer alice-key": "alice", "Bearer bob-key": "bob"}

api = Blueprint("api", __name__)
# A key belongs to one customer, and nobody reads another's answer.
idempotency = Idempotency(ttl=24 * 3600, scope=lambda request: g.customer)


@api.before_request
def authenticate():
    """Runs before a replay too."""
    g.customer = CUSTOMERS.get(request.headers.get("Authorization", ""))
    if g.customer is None:
        abort(401, "send 'Authorization: Bearer alice-key'")


def database() -> sqlite3.Connection:
    """The connection of this request."""
    if "database" not in g:
        g.database = sqlite3.connect(os.environ.get("SHOP_DATABASE", "shop.db"))
        g.database.execute("CREATE TABLE IF NOT EXISTS orders (number TEXT, customer TEXT, item TEXT, paid_by TEXT)")
    return g.database


@api.teardown_app_request
def commit(error: BaseException | None):
    """What fails here makes a failed request: its key is free, and a repeat runs."""
    if "database" in g:
        if error is None:
            g.database.commit()
        g.database.close()


@api.post("/orders")
@idempotency.options(required=True)
def order():
    """Places an order."""
    number, item = uuid4().hex, request.json["item"]
    # What a bank would be sent as its own idempotency key: the same for every attempt of this key.
    paid_by = current().derive("payment")
    database().execute("INSERT INTO orders VALUES (?, ?, ?, ?)", (number, g.customer, item, paid_by))
    return {"order": number, "item": item}, 201, {"Location": url_for("api.look", number=number)}


@api.get("/orders/<number>")
def look(number: str):
    """Looks an order up."""
    found = (
        database().execute("SELECT item FROM orders WHERE number = ? AND customer = ?", (number, g.customer)).fetchone()
    )
    return {"order": number, "item": found[0]} if found else abort(404)


@api.post("/ping")
@idempotency.exempt
def ping():
    """Has no effect, and needs no protection."""
    return {"pong": True}


def create_app() -> Flask:
    """The application; `flask run` finds it."""
    app = Flask("shop")
    app.config["IDEMPOTENCY_BACKEND"] = os.environ.get("SHOP_STORE", "sqlite:///idempotency.db")
    app.register_blueprint(api)
    idempotency.init_app(app)
    return app
