"""`transaction` in views whose framework has the transaction: Django with `ATOMIC_REQUESTS`, Flask-SQLAlchemy."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import HttpRequest, JsonResponse
from django.test import RequestFactory
from flask import Flask, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

import django_site  # noqa: F401  # sets Django up
from lanes import ON_POSTGRES, Django, Lane
from pyidempotent import IdempotencyError, transaction


def test_flask_sqlalchemy_s_session(file: str) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{file}"
    db = SQLAlchemy(app)

    @app.errorhandler(IdempotencyError)
    def refused(error: IdempotencyError) -> Any:
        return error.problem(request.path), error.status

    @app.post("/charge")
    def charge() -> Any:
        with transaction(db.session, key=request.headers["Idempotency-Key"], payload=request.json) as op:
            if not op.replayed:
                db.session.execute(text("UPDATE accounts SET balance = balance - :amount"), request.json)
                op.result = request.json
        db.session.commit()
        return jsonify(op.result)

    client = app.test_client()
    answers = [
        client.post("/charge", json={"amount": amount}, headers={"Idempotency-Key": "a"}) for amount in (42, 42, 1)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    with app.app_context():
        assert db.session.execute(text("SELECT balance FROM accounts")).scalar() == 58
        db.engine.dispose()


@pytest.fixture(params=[kind for kind in ("Django, sqlite3", *ON_POSTGRES) if kind.startswith("Django")])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_django_s_atomic_requests(lane: Lane) -> None:
    assert isinstance(lane, Django)
    connection = lane.connect()
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    fails = []

    def view(request: HttpRequest) -> JsonResponse:
        with transaction(connections[connection.alias], key=request.headers["Idempotency-Key"], payload=1) as op:
            if not op.replayed:
                lane.run(connection, "UPDATE accounts SET balance = balance - 1")
                op.result = {"left": lane.run(connection, "SELECT balance FROM accounts")[0][0]}
        if fails:
            raise fails.pop()
        return JsonResponse(op.result)

    def ask(key: str) -> Any:
        made = RequestFactory().post("/", headers={"Idempotency-Key": key})
        answer: Any = BaseHandler().make_view_atomic(view)(made)
        return answer.content

    try:
        fails.append(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            ask("a")
        assert ask("a") == ask("a") == b'{"left": 99}'
        assert ask("b") == b'{"left": 98}'
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
