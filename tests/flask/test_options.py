"""Options of views and applications, refusals, and bad input of the extension for Flask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView, View

from clients import LocalWsgi, is_replay, new_key, refused, same_answer
from flask_client import Shop, number
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    idempotent,
    shared,
)
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.flask import Idempotency
from servers import free_port

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
        (
            lambda: Idempotency(store_exceptions=ValueError),
            "store_exceptions= is no option of Idempotency; .*settle= says which",
        ),  # type: ignore[call-arg]
        (lambda: Idempotency(scope="user"), "scope= must be a callable"),  # type: ignore[arg-type]
        (lambda: Idempotency(key_header="X_Key"), "WSGI servers drop"),
        (lambda: Idempotency(routes={"pay": None}), "must start with"),
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
    with pytest.raises(
        TypeError,
        match=r"holds the attempt without ttl: give these options to the middleware, as @idempotency\.options",
    ):
        shop.pay()
    inner = Shop(number, testing=True)
    outer = Shop(lambda: inner.app.wsgi_app, testing=True)
    with pytest.raises(TypeError, match="holds the attempt without backend"):
        outer.pay()


def unseen(view: Any) -> Any:
    """A decorator without functools.wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("is_async", [False, True])
def test_options_that_are_not_seen_refuse_the_view(is_async: bool) -> None:
    app, runs = Flask("shop"), []
    idempotency = Idempotency(app, MemoryBackend())

    def pay() -> str:
        runs.append("pay")
        return "paid"

    async def pay_async() -> str:
        return pay()

    marked = idempotency.options(scope=lambda request: request.headers["X-Tenant"])(pay_async if is_async else pay)
    app.add_url_rule("/unseen", "unseen", unseen(app.ensure_sync(marked)), methods=["POST", "GET"])
    app.add_url_rule("/seen", "seen", marked, methods=["POST"])
    app.testing = True
    client = app.test_client()
    headers = {"Idempotency-Key": "a", "X-Tenant": "alice"}
    with pytest.raises(RuntimeError, match=r"can't see the options of .*pay.*functools\.wraps"):
        client.post("/unseen", headers=headers)
    assert runs == []
    assert client.get("/unseen").text == "paid"
    assert [client.post("/seen", headers=headers).text for _ in range(2)] == ["paid", "paid"]
    assert len(runs) == 2


def test_options_without_the_extension_refuse_the_view() -> None:
    app = Flask("shop")
    app.testing = True
    app.post("/pay")(Idempotency().options(required=True)(lambda: "paid"))
    with pytest.raises(RuntimeError, match=r"call init_app\(app\)"):
        app.test_client().post("/pay")


def test_a_scope_that_is_none_is_logged_and_its_client_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("shop")
    Idempotency(app, "memory://", scope=lambda request: None)
    app.post("/pay")(lambda: "paid")
    answers = [app.test_client().post("/pay", headers={"Idempotency-Key": "a"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert "scope=" not in answers[0].get_json()["detail"]
    assert caplog.text.count("POST /pay: scope= returned None") == 1
