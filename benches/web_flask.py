"""The Flask application that the web benchmark loads: `SUBJECT` says who protects it, `STORE` where records live."""

import os

from flask import Flask, request

app = Flask(__name__)


@app.route("/pay", methods=["GET", "POST"])
def pay():
    return {"status": "charged", "amount": int(request.args["amount"])}


if os.environ["SUBJECT"] == "ours":
    from pyidempotent.flask import Idempotency

    Idempotency(app, os.environ["STORE"])
