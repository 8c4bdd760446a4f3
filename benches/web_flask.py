"""The Flask application that the web benchmark loads: `SUBJECT` says who protects it, `STORE` where records live."""

import os

from flask import Flask, request

app = Flask(__name__)


@app.route("/pay", methods=["GET", "POST"])
def pay():
    return {"status": "charged", "amount": int(request.args["amount"])}


SUBJECT = os.environ["SUBJECT"]
if SUBJECT.startswith("floor"):
    from web_floor import Redis

    server = Redis(os.environ["STORE"])

    @app.before_request
    def trips():
        server.get()
        if SUBJECT == "floor of a replay":
            return app.response_class(b'{"amount":42,"status":"charged"}\n', mimetype="application/json")
        server.get()
        return None


if SUBJECT == "ours":
    from pyidempotent.flask import Idempotency

    Idempotency(app, os.environ["STORE"])
