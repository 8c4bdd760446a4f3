"""The extension for Flask: its place among Flask's own functions, and what is stored when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, Response, abort, after_this_request, request

from clients import LocalWsgi, is_replay, new_key, refused, same_answer
from flask_client import Shop, number
from pyidempotent import (
    current,
)
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency
from pyidempotent.testing import Rehearsal
from servers import RedisServer

# Where it stands among Flask's own functions.


def test_what_other_extensions_add_is_added_to_a_replay_once() -> None:
    """One that was installed before ours, one after it, and one that adds to this request before its view."""
    app = Flask("shop")

    def adds(name: str) -> Callable[[Response], Response]:
        def add(response: Response) -> Response:
            response.headers.add(name, "1")
            return response

        return add

    app.after_request(adds("X-Before-Ours"))
    Idempotency(app, MemoryBackend())
    app.after_request(adds("X-After-Ours"))

    @app.before_request
    def extension() -> None:
        after_this_request(adds("X-Request"))

    blueprint = Blueprint("api", __name__)
    blueprint.after_request(adds("X-Blueprint"))

    @blueprint.post("/pay")
    def pay() -> tuple[dict[str, str], dict[str, str]]:
        after_this_request(adds("X-View"))
        return number(), {"X-Own": "1"}

    app.register_blueprint(blueprint)
    client, key = LocalWsgi(app), new_key()
    answers = [client.post("/pay", key) for _ in range(3)]
    assert [is_replay(answer) for answer in answers] == [False, True, True]
    for answer in answers:
        for name in ("X-Before-Ours", "X-After-Ours", "X-Request", "X-Blueprint", "X-View", "X-Own"):
            assert answer.headers.get_list(name) == ["1"], name
    assert same_answer(*answers[:2])


def test_functions_that_see_the_answer_are_called_as_without_us() -> None:
    seen: list[str] = []
    shop = Shop()

    def sees(name: str) -> Callable[[Response], Response]:
        def see(response: Response) -> Response:
            seen.append(name)
            if name == "view":
                after_this_request(sees("inner"))
            return response

        return see

    shop.app.before_request(lambda: (after_this_request(sees("before")), None)[1])
    shop.app.after_request(sees("app"))

    @shop.app.post("/pay")
    def pay() -> str:
        after_this_request(sees("view"))
        return "paid"

    shop.pay()
    assert sorted(seen) == ["app", "before", "inner", "view"]
    seen.clear()
    shop.pay()
    assert seen == ["before", "app"]


def test_before_request_runs_for_a_replay_and_may_answer_in_its_place() -> None:
    shop = Shop(number)

    @shop.app.before_request
    def authenticate() -> None:
        if request.headers.get("X-User") != "alice":
            abort(401)

    assert shop.pay(headers={"X-User": "alice"}).status_code == 200
    assert is_replay(shop.pay(headers={"X-User": "alice"}))
    assert shop.pay(headers={"X-User": "bob"}).status_code == 401


@pytest.mark.parametrize("outside", [True, False])
def test_a_changed_body_is_stored_as_it_was_at_the_capture(outside: bool) -> None:
    """As compression does: by the application for every answer, or by the view for its own."""
    shop = Shop()

    def shout(response: Response) -> Response:
        response.set_data(response.get_data().upper() + b"!")
        return response

    if outside:
        shop.app.after_request(shout)

    @shop.app.post("/pay")
    def pay() -> str:
        if not outside:
            after_this_request(shout)
        return new_key()

    first, again = shop.pay(), shop.pay()
    assert first.content.endswith(b"!")
    assert not first.content.endswith(b"!!")
    assert same_answer(first, again)


def test_the_session_and_cookies_are_not_replayed() -> None:
    def view() -> Response:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        response = flask.make_response("paid")
        response.set_cookie("own", "1")
        return response

    shop = Shop(view)
    first, again = shop.pay(), shop.pay()
    assert {cookie.partition("=")[0] for cookie in first.headers.get_list("set-cookie")} == {"session", "own"}
    assert again.headers.get_list("set-cookie") == []
    assert (again.content, is_replay(again)) == (b"paid", True)


def test_an_address_that_no_view_answers_claims_nothing() -> None:
    shop = Shop(number)
    assert [shop.client.post("/nowhere", shop.key).status_code for _ in range(2)] == [404, 404]
    assert shop.pay(method="DELETE").status_code == 405
    assert shop.backend.get(shop.key, operation=("POST", "/nowhere")) is None


# What is stored.


def test_an_error_handlers_answer_is_the_answer() -> None:
    class Declined(Exception):
        pass

    def view() -> None:
        raise Declined

    def declined(error: Declined) -> tuple[dict[str, str], int]:
        @after_this_request
        def add(response: Response) -> Response:
            response.headers.add("X-Handler", "1")
            return response

        return number(), 402

    shop = Shop(view)
    shop.app.register_error_handler(Declined, declined)
    first, again = shop.pay(), shop.pay()
    assert (first.status_code, first.headers["x-handler"]) == (402, "1")
    assert same_answer(first, again)
    assert shop.runs == 1


@pytest.mark.parametrize(("status", "runs"), [(418, 1), (404, 1), (401, 2), (429, 2), (503, 2)])
def test_abort_goes_by_the_status_table(status: int, runs: int) -> None:
    shop = Shop(lambda: abort(status))
    assert [shop.pay().status_code for _ in range(2)] == [status, status]
    assert shop.runs == runs


@pytest.mark.parametrize("testing", [True, False])
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_view_that_raises_ends_its_attempt(testing: bool, after_crash: str) -> None:
    """Under ``TESTING`` Flask skips what sees the answer: there is none."""

    def view() -> str:
        if shop.runs == 1:
            raise ZeroDivisionError
        return "paid"

    shop = Shop(view, testing=testing, after_crash=after_crash)
    if testing:
        with pytest.raises(ZeroDivisionError):
            shop.pay()
    else:
        assert shop.pay().status_code == 500
    with pytest.raises(RuntimeError, match=r"current\(\) finds no attempt"):
        current()
    if after_crash == "rerun":
        assert shop.pay().status_code == 200
    else:
        refused(shop.pay(), 409, "unknown", "unknown")


@pytest.mark.parametrize("testing", [True, False])
@pytest.mark.parametrize("where", ["after_request", "teardown_request", "teardown_appcontext", "after_this_request"])
def test_a_commit_that_fails_after_the_view_leaves_no_completed_record(testing: bool, where: str) -> None:
    """Scenario 37: the client sees 500, and the retry runs."""
    shop = Shop(number, testing=testing)
    fails = True

    def commit(seen: Any) -> Any:
        if fails:
            raise ZeroDivisionError("the database is gone")
        return seen

    if where == "after_this_request":
        shop.app.before_request(lambda: (after_this_request(commit), None)[1])
    else:
        getattr(shop.app, where)(commit)
    if testing or where.startswith("teardown"):
        with pytest.raises(ZeroDivisionError):
            shop.pay()
    else:
        assert shop.pay().status_code == 500
    assert shop.state is None
    fails = False
    first, again = shop.pay(), shop.pay()
    assert same_answer(first, again)
    assert shop.runs == 2


def test_nothing_is_stored_while_the_application_works_on_the_request() -> None:
    states = []
    shop = Shop(number)
    shop.app.teardown_request(lambda _: states.append(shop.state))
    shop.pay()
    assert (states, shop.state) == (["in flight"], "completed")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_view_leaves_its_key_free(error: type[BaseException]) -> None:
    def view() -> str:
        if shop.runs == 1:
            raise error
        return "paid"

    shop = Shop(view, lease=0.05, run_limit=0)
    with pytest.raises(error):
        shop.pay()
    while (answer := shop.pay()).status_code == 409:
        pass
    assert (answer.status_code, is_replay(answer)) == (200, False)


def test_a_rehearsed_crash_leaves_the_attempt_to_lapse(idempotency: Rehearsal) -> None:
    shop = Shop(lambda: bank.charge(), backend="redis://localhost")
    bank = SimpleNamespace(charge=lambda: "charged")
    with idempotency.crash_after(bank, "charge"):
        shop.pay()
    refused(shop.pay(), 409, "processing", "running", retry_after=True)
    idempotency.advance(30)
    assert same_answer(shop.pay(), shop.pay())
    assert shop.runs == 2


def test_a_view_may_release_its_key_in_an_error_handler() -> None:
    class Declined(Exception):
        pass

    def view() -> None:
        raise Declined

    def declined(error: Declined) -> tuple[str, int]:
        current().release()
        return "declined", 402

    shop = Shop(view, after_crash="refuse")
    shop.app.register_error_handler(Declined, declined)
    assert [shop.pay().status_code for _ in range(2)] == [402, 402]
    assert shop.runs == 2


def test_a_view_that_returns_none_fails() -> None:
    shop = Shop(lambda: None)
    assert [shop.pay().status_code for _ in range(2)] == [500, 500]
    assert (shop.runs, shop.state) == (2, None)


def test_an_attempt_that_was_overtaken_answers_with_its_successors_answer() -> None:
    """And with what the application adds to every answer."""

    def view() -> Response:
        response = flask.make_response(f"run {shop.runs}")
        if shop.runs == 1:
            while (other := shop.pay()).status_code == 409:
                pass
            assert other.text == "run 2"
            response.headers["X-First"] = "1"
        return response

    shop = Shop(view, lease=0.05, run_limit=0)

    @shop.app.after_request
    def add(response: Response) -> Response:
        response.headers.add("X-Everywhere", "1")
        return response

    answer = shop.pay()
    assert (answer.text, answer.headers["x-everywhere"], is_replay(answer)) == ("run 2", "1", True)
    assert "x-first" not in answer.headers


@pytest.mark.parametrize("is_async", [True, False])
def test_views_and_callables_may_be_async(is_async: bool, redis_server: RedisServer) -> None:
    loops = set()
    shop = Shop(backend=redis_server.url, namespace=new_key(), scope=None)

    async def view() -> dict[str, str]:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return {"key": current().key}

    async def user(request: flask.Request) -> str:
        await asyncio.sleep(0)
        return request.headers["X-User"]

    def user_sync(request: flask.Request) -> str:
        return request.headers["X-User"]

    shop.app.post("/pay")(shop.idempotency.options(scope=user if is_async else user_sync)(view))
    for _ in range(3):
        shop.key = new_key()
        first, again = (shop.pay(headers={"X-User": "alice"}) for _ in range(2))
        assert first.json() == {"key": shop.key}
        assert same_answer(first, again)
        assert not is_replay(shop.pay(headers={"X-User": "bob"}))
