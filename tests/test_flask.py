"""The extension for Flask: its place among Flask's own functions, what is stored when, options of views, bad input."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, Response, abort, after_this_request, g, request, send_file, stream_with_context
from flask.views import MethodView, View

from clients import LocalWsgi, is_replay, new_key, refused, same_answer, until
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    current,
    idempotent,
    shared,
)
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.flask import Idempotency
from pyidempotent.testing import Rehearsal
from servers import RedisServer, free_port

OPERATION = ("POST", "/pay")


class Shop:
    """An application with one view, and a client of it."""

    def __init__(self, view: Callable[[], Any] | None = None, *, testing: bool = False, **options: Any) -> None:
        self.app = Flask("shop")
        self.app.testing = testing
        self.app.secret_key = "secret"
        self.runs = 0
        self.backend = options.setdefault("backend", MemoryBackend())
        self.idempotency = Idempotency(self.app, **options)
        self.client = LocalWsgi(self.app)
        self.key = new_key()
        if view is not None:
            self.app.add_url_rule("/pay", "pay", self.counted(view), methods=["GET", "POST", "PATCH", "PUT"])

    def counted(self, view: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return view(*args, **kwargs)

        return run

    def pay(self, path: str = "/pay", **more: Any) -> Any:
        return self.client.post(path, self.key, **more)

    @property
    def state(self) -> str | None:
        record = self.backend.get(self.key, operation=OPERATION)
        return None if record is None else record.state


def number() -> dict[str, str]:
    return {"number": new_key()}


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
    with pytest.raises(RuntimeError, match=r"current\(\) is for code"):
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


# Streams.


def stream(shop: Shop, parts: Callable[[], Iterator[Any]], **headers: str) -> None:
    shop.app.add_url_rule("/pay", "pay", shop.counted(lambda: Response(parts(), headers=headers)), methods=["POST"])


def test_a_stream_is_stored_at_its_end_with_what_it_finds_of_its_request() -> None:
    shop = Shop()
    states = []

    def parts() -> Iterator[str]:
        yield f"{request.headers['X-User']} {g.user} {current().key} "
        states.append(shop.state)
        yield new_key()

    shop.app.before_request(lambda: setattr(g, "user", "bob"))
    stream(shop, lambda: stream_with_context(parts()))
    first, again = (shop.pay(headers={"X-User": "alice"}) for _ in range(2))
    assert first.text.startswith(f"alice bob {shop.key} ")
    assert same_answer(first, again, but=("content-length",))
    assert (states, shop.state) == (["in flight"], "completed")


def test_a_stream_runs_after_the_teardown_and_its_end_is_stored_before_it_goes_out() -> None:
    shop, seen = Shop(), []
    shop.app.teardown_request(lambda _: seen.append("teardown"))

    def parts() -> Iterator[bytes]:
        seen.append("one")
        yield b"one"
        seen.append("two")
        yield b"two"

    stream(shop, parts, **{"Content-Length": "6"})
    body = shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}, buffered=False).response
    read = iter(body)
    assert (next(read), seen, shop.state) == (b"one", ["teardown", "one"], "in flight")
    assert (next(read), shop.state) == (b"two", "completed")  # the declared length is whole


@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_client_that_leaves_within_a_stream_leaves_its_outcome_unknown(after_crash: str) -> None:
    shop, closed = Shop(after_crash=after_crash), []

    def parts() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    stream(shop, parts)
    answer = shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}, buffered=False)
    assert next(iter(answer.response)) == b"one"
    answer.close()
    assert (closed, shop.state) == ([True], "in flight" if after_crash == "rerun" else "unknown")
    assert shop.pay().status_code == 409
    assert shop.runs == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_stream_that_breaks_off_is_as_good_as_a_crash(error: type[BaseException], after_crash: str) -> None:
    shop = Shop(after_crash=after_crash)

    def parts() -> Iterator[bytes]:
        yield b"one"
        raise error

    stream(shop, parts)
    with pytest.raises(error):
        shop.pay()
    assert shop.pay().status_code == 409
    until(lambda: shop.state == ("in flight" if after_crash == "rerun" else "unknown"))


def test_a_stream_that_nobody_reads_is_not_released() -> None:
    shop = Shop(after_crash="refuse")
    stream(shop, lambda: iter([b"one"]))
    environ = flask.Flask("x").test_request_context("/pay", method="POST", headers={"Idempotency-Key": shop.key})
    shop.app(environ.request.environ, lambda *_: lambda _: None)
    gc.collect()
    until(lambda: shop.state == "unknown")


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_the_application_reads_itself_ends_with_the_request(breaks: bool) -> None:
    shop, states = Shop(), []

    def parts() -> Iterator[bytes]:
        yield b"one"
        if breaks and shop.runs == 1:
            raise ZeroDivisionError
        yield b"two"

    @shop.app.after_request
    def compress(response: Response) -> Response:
        response.set_data(response.get_data()[::-1])
        states.append(shop.state)
        return response

    stream(shop, parts)
    if breaks:
        assert shop.pay().status_code == 500
        assert shop.state is None
    first, again = shop.pay(), shop.pay()
    assert first.text == "owteno"
    assert same_answer(first, again)
    assert states[-2] == "in flight"


def test_a_file_is_replayed_whole() -> None:
    shop = Shop(lambda: send_file(io.BytesIO(b"x" * 100_000), download_name="a.bin", etag="e"))
    first, again = shop.pay(), shop.pay()
    assert len(first.content) == 100_000
    assert same_answer(first, again)
    assert shop.runs == 1


def test_a_stream_without_a_body_is_none() -> None:
    shop = Shop(lambda: Response(iter([b"unseen"]), 204))
    first, again = shop.pay(), shop.pay()
    assert (first.status_code, first.content) == (204, b"")
    assert same_answer(first, again)


def test_a_header_that_is_no_latin_1_is_the_applications_error() -> None:
    shop = Shop(lambda: Response("paid", headers={"X-Name": "\u0141"}))
    # This server takes it.
    assert shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}).status_code == 200
    refused(shop.pay(), 410, "not-kept", "done")


# Requests.


READERS: dict[str, Callable[[], Any]] = {
    "stream": lambda: request.stream.read().decode(),
    "get_data": lambda: request.get_data(as_text=True),
    "data": lambda: request.data.decode(),
    "wsgi.input": lambda: request.environ["wsgi.input"].read().decode(),
    "json": lambda: request.json,
    "form": lambda: request.form.to_dict(),
    "files": lambda: {name: file.read().decode() for name, file in request.files.items()},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_view_reads_its_body_in_any_way(reader: str, chunked: bool) -> None:
    app = Flask("shop")
    app.add_url_rule("/pay", "pay", lambda: {"read": READERS[reader]()}, methods=["POST"])

    def send(**headers: str) -> Any:
        sent: dict[str, Any] = {"data": b'{"amount": 7}', "content_type": "application/json"}
        if reader == "form":
            sent = {"data": {"amount": "7"}}
        elif reader == "files":
            sent = {"data": {"amount": (io.BytesIO(b"7"), "a.txt")}}
        overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}
        return app.test_client().post("/pay", headers=headers, environ_overrides=overrides, **sent).json["read"]

    plain = send()
    assert plain
    Idempotency(app, MemoryBackend())
    assert send(**{"Idempotency-Key": "k"}) == plain


@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_that_was_parsed_before_is_compared_by_what_it_says(chunked: bool) -> None:
    """As protection against forgery does; the body itself is gone."""
    shop = Shop(lambda: request.form["a"] + request.files["f"].read().decode())
    shop.app.before_request(lambda: (request.form, None)[1])
    terminated = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}

    def send(a: str, content: bytes, filename: str = "a.txt") -> Any:
        return shop.app.test_client().post(
            "/pay",
            data={"a": a, "f": (io.BytesIO(content), filename)},
            headers={"Idempotency-Key": shop.key},
            environ_overrides=terminated,
        )

    assert send("1", b"file").text == "1file"
    assert send("1", b"file").headers["Idempotent-Replayed"] == "true"
    for changed in (("2", b"file"), ("1", b"other"), ("1", b"file", "b.txt")):
        assert send(*changed).status_code == 422
    assert shop.runs == 1


def test_a_parsed_form_that_says_nothing_is_a_form() -> None:
    shop = Shop(lambda: f"{request.form.to_dict()} {new_key()}")
    shop.app.before_request(lambda: (request.form, None)[1])
    sent = {"content": b"&&&", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    first, again = (shop.pay(**{**sent, "headers": dict(sent["headers"])}) for _ in range(2))
    assert first.text.startswith("{} ")
    assert same_answer(first, again)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [3, 6])
def test_a_body_that_was_read_away_is_an_error_and_nothing_runs(
    chunked: bool, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(number)
    shop.app.before_request(lambda: (request.stream.read(size), None)[1])
    overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}
    headers = {"Idempotency-Key": shop.key}
    answer = shop.app.test_client().post("/pay", data=b"amount", headers=headers, environ_overrides=overrides)
    assert answer.status_code == 500
    assert "use request.get_data()" in caplog.text
    assert (shop.runs, shop.state) == (0, None)


@pytest.mark.parametrize("terminated", [True, False])
def test_a_client_that_leaves_within_its_body_runs_nothing(terminated: bool) -> None:
    shop = Shop(number)
    overrides: dict[str, Any] = {"CONTENT_LENGTH": "9"}
    if terminated:
        overrides["wsgi.input_terminated"] = True
    client = shop.app.test_client()
    answer = client.post("/pay", data=b"A", headers={"Idempotency-Key": shop.key}, environ_overrides=overrides)
    assert (answer.status_code, shop.runs, shop.state) == (400, 0, None)


@pytest.mark.parametrize("reads", [lambda: request.get_data(), lambda: request.form])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_was_looked_at_before_is_held_to_its_limit(reads: Callable[[], Any], chunked: bool) -> None:
    shop = Shop(lambda: request.get_data(), max_request_bytes=5)
    shop.app.before_request(lambda: (reads(), None)[1])
    overrides = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True} if chunked else {}

    def send(body: bytes) -> Any:
        headers = {"Idempotency-Key": shop.key}
        return shop.app.test_client().post("/pay", data=body, headers=headers, environ_overrides=overrides)

    assert send(b"123456").status_code == 413
    assert [send(b"12345").data for _ in range(2)] == [b"12345", b"12345"]
    assert send(b"54321").status_code == 422
    assert shop.runs == 1


def test_the_applications_own_limit_holds() -> None:
    shop = Shop(number)
    shop.app.config["MAX_CONTENT_LENGTH"] = 10
    answer = shop.pay(content=b"x" * 11)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "text/html; charset=utf-8")
    assert shop.state is None


def test_a_view_may_call_the_application_again_and_an_inner_application_joins() -> None:
    shop = Shop()
    inner = Shop(number, backend=shop.backend)

    @shop.app.post("/pay")
    def pay() -> Any:
        assert shop.client.post("/other", shop.key).text == "other"
        assert current().scope.operation == ("POST", b"/pay")
        return inner.app.wsgi_app  # Flask takes a WSGI application for an answer

    shop.app.post("/other")(lambda: "other")
    first, again = shop.pay(), shop.pay()
    assert same_answer(first, again)
    assert (inner.runs, shop.state) == (1, "completed")
    with pytest.raises(RuntimeError, match=r"current\(\) is for code"):
        current()


# Who calls.


def test_scope_sees_the_request_g_and_the_session() -> None:
    def user(request: flask.Request) -> str:
        return f"{request.headers.get('X-Tenant')} {g.user} {flask.session.get('device')}"

    shop = Shop(number, scope=user)
    shop.app.before_request(lambda: setattr(g, "user", request.headers.get("X-User")))
    shop.app.get("/login")(lambda: flask.session.update(device="phone") or "")
    first = shop.pay(headers={"X-User": "a", "X-Tenant": "t"})
    assert is_replay(shop.pay(headers={"X-User": "a", "X-Tenant": "t"}))
    assert not is_replay(shop.pay(headers={"X-User": "b", "X-Tenant": "t"}))
    cookie = shop.client.post("/login", method="GET").headers["set-cookie"].partition(";")[0]
    other = shop.pay(headers={"X-User": "a", "X-Tenant": "t", "Cookie": cookie})
    assert other.content != first.content
    assert shop.backend.get(shop.key, operation=OPERATION, caller="t a phone") is not None


def test_the_user_that_flask_login_knows_is_the_caller() -> None:
    import flask_login

    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.id = name

    shop = Shop(number)
    manager = flask_login.LoginManager(shop.app)
    manager.request_loader(lambda request: User(name) if (name := request.headers.get("Authorization")) else None)
    alice, bob = {"Authorization": "alice"}, {"Authorization": "bob"}
    assert same_answer(shop.pay(headers=alice), shop.pay(headers=alice))
    assert not is_replay(shop.pay(headers=bob))
    assert not is_replay(shop.pay())  # an anonymous user is nobody
    assert shop.backend.get(shop.key, operation=OPERATION, caller="alice") is not None


def test_who_calls_may_abort() -> None:
    shop = Shop(number, scope=lambda request: abort(401))
    shop.app.register_error_handler(401, lambda error: ("log in", 401))
    assert (shop.pay().status_code, shop.pay().text) == (401, "log in")
    assert (shop.runs, shop.state) == (0, None)


# Options of views.


def test_options_of_a_view_count_before_its_blueprints_and_these_before_those_of_its_path() -> None:
    idempotency = Idempotency(backend=MemoryBackend(), routes={"/api/*": {"required": True}, "/health": None})
    api, plain = Blueprint("api", __name__, url_prefix="/api"), Blueprint("plain", __name__, url_prefix="/plain")
    nested = Blueprint("nested", __name__, url_prefix="/nested")
    idempotency.exempt(plain)
    idempotency.options(key_header="X-Key", required=True)(nested)

    def add(to: Flask | Blueprint, path: str, view: Callable[[], Any] = number) -> None:
        to.add_url_rule(path, path.strip("/"), view, methods=["POST"])

    app = Flask("shop")
    add(api, "/path")
    add(api, "/view", idempotency.options(required=False)(lambda: number()))
    add(api, "/exempt", idempotency.exempt(lambda: number()))
    add(plain, "/blueprint")
    add(plain, "/view", idempotency.options(required=True)(lambda: number()))
    add(nested, "/inner")
    add(app, "/health")
    add(app, "/default")
    plain.register_blueprint(nested)
    app.register_blueprint(api)
    app.register_blueprint(plain)
    idempotency.init_app(app)
    client = LocalWsgi(app)

    def seen(path: str) -> str:
        key = new_key()
        if client.post(path).status_code == 400:
            return "required"
        answers = [client.post(path, key) for _ in range(2)]
        return "optional" if is_replay(answers[1]) else "left out"

    paths = ["/api/path", "/api/view", "/api/exempt", "/plain/blueprint", "/plain/view", "/plain/nested/inner"]
    expected = ["required", "optional", "left out", "left out", "required", "required"]
    assert [seen(path) for path in paths] == expected
    assert [seen(path) for path in ("/health", "/default")] == ["left out", "optional"]


def test_options_stand_on_classes_their_methods_and_below_other_decorators() -> None:
    import functools

    shop = Shop()
    options, exempt = shop.idempotency.options, shop.idempotency.exempt

    def logged(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs)

        return wrapper

    @options(required=True)
    class Pay(MethodView):
        def post(self) -> Any:
            return number()

        @exempt
        def patch(self) -> Any:
            return number()

    class Refund(View):
        methods = ("POST",)
        decorators = (options(required=True),)

        def dispatch_request(self) -> Any:
            return number()

    shop.app.add_url_rule("/pay", view_func=Pay.as_view("pay"))
    shop.app.add_url_rule("/refund", view_func=Refund.as_view("refund"))

    @shop.app.post("/order")
    @logged
    @options(required=True)
    def order() -> Any:
        return number()

    for path in ("/pay", "/refund", "/order"):
        refused(shop.client.post(path), 400, "key-missing", "none")
        assert same_answer(*shop.client.twice(path))
    assert shop.client.post("/pay", method="PATCH").status_code == 200
    assert not is_replay(shop.client.twice("/pay", method="PATCH")[1])


def test_an_application_factory_and_its_configuration() -> None:
    idempotency = Idempotency(ttl=60)

    def create_app(**config: Any) -> Flask:
        app = Flask("shop")
        app.config.update(config)
        app.add_url_rule("/pay", "pay", number, methods=["POST"])
        idempotency.init_app(app)
        return app

    one = create_app(IDEMPOTENCY_BACKEND=MemoryBackend(), IDEMPOTENCY_REQUIRED=True, IDEMPOTENCY_SCOPE=shared)
    two = create_app(IDEMPOTENCY_BACKEND=MemoryBackend(), IDEMPOTENCY_ROUTES={"/pay": None})
    refused(LocalWsgi(one).post("/pay"), 400, "key-missing", "none")
    assert same_answer(*LocalWsgi(one).twice("/pay", headers={"Authorization": "Bearer 1"}))
    assert not is_replay(LocalWsgi(two).twice("/pay")[1])


# Refusals, and handlers of the user's own.


@pytest.mark.parametrize("kind", [IdempotencyConflict, IdempotencyError])
@pytest.mark.parametrize("where", ["app", "blueprint"])
def test_a_handler_of_the_users_own_wins(kind: type[Exception], where: str) -> None:
    shop = Shop()
    api = Blueprint("api", __name__)
    api.add_url_rule("/pay", "pay", number, methods=["POST"])
    (api if where == "blueprint" else shop.app).register_error_handler(kind, lambda error: ("mine", error.status))
    shop.app.register_blueprint(api)
    shop.pay(content=b"A")
    answer = shop.pay(content=b"B")
    assert (answer.status_code, answer.text) == (422, "mine")


def test_handlers_for_every_exception_and_for_other_refusals_are_not_for_ours() -> None:
    shop = Shop(number)
    shop.app.register_error_handler(Exception, lambda error: ("any", 500))
    shop.app.register_error_handler(IdempotencyKeyMissing, lambda error: ("missing", 400))
    shop.pay(content=b"A")
    refused(shop.pay(content=b"B"), 422, "conflict", "none")


def test_a_backend_that_is_down_refuses_keyed_requests_only() -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{free_port()}", time_limit=0.2)
    shop = Shop(number, backend=backend)
    refused(shop.pay(), 503, "store-unavailable", "none", retry_after=True)
    assert shop.client.post("/pay").status_code == 200
    assert shop.pay(method="GET").status_code == 200
    assert shop.runs == 2


def test_every_store(backend: Backend) -> None:
    shop = Shop(number, backend=backend)
    assert same_answer(shop.pay(), shop.pay())
    refused(shop.pay(content=b"B"), 422, "conflict", "none")
    assert shop.runs == 1


# Bad input.


def app_with(**config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(config)
    return app


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Idempotency("redis://localhost"), "the first argument is the Flask application"),  # type: ignore[arg-type]
        (lambda: Idempotency(Flask("shop")), "needs a backend"),
        (lambda: Idempotency().init_app(app_with(IDEMPOTENCY_BACKEND=None)), "needs a backend"),
        (lambda: Idempotency(Flask("shop"), 7), "backend must be a backend"),  # type: ignore[arg-type]
        (lambda: Idempotency(Flask("shop"), "localhost"), "is not a URL"),
        (
            lambda: Idempotency(app_with(IDEMPOTENCY_TLL=1), "memory://"),
            r"app\.config\['IDEMPOTENCY_TLL'\] is no option",
        ),
        (lambda: Idempotency(app_with(IDEMPOTENCY_TTL="1"), "memory://"), "ttl must be seconds"),
        (lambda: Idempotency(ttl=-1), "ttl must be a finite number"),
        (lambda: Idempotency(lease=10, ttl=5), "lease"),
        (lambda: Idempotency(after_crash="never"), "after_crash must be one of"),  # type: ignore[arg-type]
        (lambda: Idempotency(wait_timeout=1), "it is called wait="),  # type: ignore[call-arg]
        (lambda: Idempotency(store_exceptions=ValueError), "store_exceptions is for functions"),  # type: ignore[call-arg]
        (lambda: Idempotency(scope="user"), "scope= must be a callable"),  # type: ignore[arg-type]
        (lambda: Idempotency(key_header="X_Key"), "WSGI servers drop"),
        (lambda: Idempotency(routes={"pay": None}), "is no pattern of a path"),
        (lambda: Idempotency(routes={"/pay": {"ttl": "1"}}), "ttl must be seconds"),
        (lambda: Idempotency().options(ttl="1"), "ttl must be seconds"),  # type: ignore[arg-type]
        (lambda: Idempotency().options(ttl=1)("pay"), "take a view or a blueprint"),  # type: ignore[type-var]
        (lambda: Idempotency().exempt("pay"), "take a view or a blueprint"),  # type: ignore[type-var]
    ],
)
def test_options_that_cant_be_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_an_application_takes_one_extension() -> None:
    app = Flask("shop")
    Idempotency(app, "memory://")
    with pytest.raises(RuntimeError, match="is protected already"):
        Idempotency(app, "memory://")


def test_a_way_around_the_extension_is_an_error_and_nothing_runs() -> None:
    shop = Shop(number, testing=True)
    with (
        shop.app.test_request_context("/pay", method="POST", headers={"Idempotency-Key": shop.key}),
        pytest.raises(RuntimeError, match="did not come through"),
    ):
        shop.app.full_dispatch_request()
    assert shop.runs == 0


def test_wsgi_middleware_that_answers_late_stands_around_the_extension() -> None:
    def late(inner: Any) -> Any:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            yield from inner(environ, start_response)

        return app

    app = Flask("shop")
    app.testing = True
    app.add_url_rule("/pay", "pay", number, methods=["POST"])
    app.wsgi_app = late(app.wsgi_app)  # type: ignore[method-assign]
    Idempotency(app, MemoryBackend())
    with pytest.raises(RuntimeError, match="did not come through"):
        LocalWsgi(app).post("/pay", "k")
    outside = Shop(number)
    outside.app.wsgi_app = late(outside.app.wsgi_app)  # type: ignore[method-assign]
    assert same_answer(outside.pay(), outside.pay())


def test_options_that_the_extension_cannot_honour_are_refused() -> None:
    shop = Shop(idempotent(ttl=7)(number), testing=True)
    with pytest.raises(TypeError, match=r"does not know ttl; give them to the middleware, as @idempotency\.options"):
        shop.pay()
    inner = Shop(number, testing=True)
    outer = Shop(lambda: inner.app.wsgi_app, testing=True)
    with pytest.raises(TypeError, match="does not know backend"):
        outer.pay()
