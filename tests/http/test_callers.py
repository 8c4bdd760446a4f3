"""Whose key it is, where no ``scope=`` says it: one test per thing that names a caller, on every face.

Alice and Bob send one key. Bob never gets Alice's answer: he gets his own, or both are refused and told what to set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from flask import Flask
from flask_login import LoginManager, UserMixin
from pydantic import BaseModel
from starlette.authentication import BaseUser, SimpleUser, UnauthenticatedUser

import django_site  # noqa: F401  # sets Django up
from pyidempotent import idempotent
from pyidempotent._native import Facts
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

ran: list[str] = []


def charge() -> dict[str, int]:
    ran.append("charge")
    return {"number": len(ran)}


class Answered:
    """What a face answered: its status, whether it is a replay, and what it says."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.is_replay = "idempotent-replayed" in {name.lower() for name in headers.keys()}  # noqa: SIM118  # Flask's are pairs
        self.said = json.loads(body)


#: A request of somebody: a key, headers, what an ASGI scope holds beside, and what a WSGI environ does.
Send = Callable[[str, Mapping[str, str], Mapping[str, Any], Mapping[str, Any]], Answered]


def asgi(app: Any) -> Send:
    def send(key: str, headers: Mapping[str, str], scope: Mapping[str, Any], environ: Mapping[str, Any]) -> Answered:
        async def around(inner: Any, receive: Any, send: Any) -> None:
            await app({**inner, **scope}, receive, send)

        client = TestClient(around, raise_server_exceptions=False)
        answer = client.post("/pay", headers={"Idempotency-Key": key, **headers})
        return Answered(answer.status_code, answer.headers, answer.content)

    return send


def fastapi_middleware() -> Send:
    app = FastAPI()
    app.post("/pay")(charge)
    return asgi(IdempotencyMiddleware(app, MemoryBackend()))


def fastapi_decorator() -> Send:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend())
    async def pay(request: Request) -> dict[str, int]:
        return charge()

    return asgi(app)


def wsgi(app: Flask) -> Send:
    def send(key: str, headers: Mapping[str, str], scope: Mapping[str, Any], environ: Mapping[str, Any]) -> Answered:
        said = {"Idempotency-Key": key, **headers}
        answer = app.test_client(use_cookies=False).post("/pay", headers=said, environ_overrides=dict(environ))
        return Answered(answer.status_code, answer.headers, answer.data)

    return send


def flask_extension() -> Send:
    app = Flask("shop")
    app.post("/pay")(charge)
    Idempotency(app, MemoryBackend())
    return wsgi(app)


def flask_decorator() -> Send:
    app = Flask("shop")
    app.post("/pay")(idempotent(MemoryBackend())(charge))
    return wsgi(app)


class Auth:
    """Stands for a request's ``auth`` instead of its ``user``."""

    def __init__(self, value: Any) -> None:
        self.value = value


_users: dict[str, Any] = {}
USERS = f"{__name__}.add_user"


@contextlib.contextmanager
def users(own: Mapping[str, Any]) -> Iterator[None]:
    _users.update(own)
    yield
    _users.clear()


def add_user(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def middleware(request: Any) -> Any:
        for value in _users.values():
            name, value = ("auth", value.value) if isinstance(value, Auth) else ("user", value)
            setattr(request, name, value)
        return get_response(request)

    return middleware


def plain_view(request: Any) -> HttpResponse:
    return HttpResponse(json.dumps(charge()), content_type="application/json")


class Urls:
    urlpatterns = (path("pay", plain_view), path("decorated", idempotent(MemoryBackend())(plain_view)))


def django(where: str, *middleware: str) -> Send:
    options = {"BACKEND": MemoryBackend()}

    def send(key: str, headers: Mapping[str, str], scope: Mapping[str, Any], environ: Mapping[str, Any]) -> Answered:
        with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=[USERS, *middleware], PYIDEMPOTENT=options):
            own = {"user": scope["user"]} if "user" in scope else {}
            with users(own):
                answer = Client().post(where, headers={"Idempotency-Key": key, **headers}, **environ)
        return Answered(answer.status_code, answer.headers, answer.content)

    return send


def django_middleware() -> Send:
    return django("/pay", "pyidempotent.django.IdempotencyMiddleware")


def django_decorator() -> Send:
    return django("/decorated")


FACES = [fastapi_middleware, fastapi_decorator, flask_extension, flask_decorator, django_middleware, django_decorator]
ON_ASGI, ON_FLASK, ON_DJANGO = FACES[:2], FACES[2:4], FACES[4:]

Who = tuple[Mapping[str, str], Mapping[str, Any], Mapping[str, Any]]


def pair(send: Send, alice: Who, bob: Who) -> tuple[Answered, Answered, Answered]:
    """What Alice, Bob, and Alice again get for one key."""
    key = uuid.uuid4().hex
    one, two = (send(key, *who) for who in (alice, bob))
    return one, two, send(key, *alice)


def are_told_apart(send: Send, alice: Who, bob: Who) -> None:
    one, two, again = pair(send, alice, bob)
    assert (one.status, one.is_replay) == (two.status, two.is_replay) == (200, False)
    assert one.said != two.said
    assert (again.is_replay, again.said) == (True, one.said)


def are_refused(send: Send, alice: Who, bob: Who, says: str) -> None:
    before = len(ran)
    for answer in pair(send, alice, bob):
        assert answer.status == 500
        assert answer.said["type"].endswith(":scope-missing")
        assert says in answer.said["detail"]
    assert len(ran) == before, "nothing runs"


def share(send: Send, alice: Who, bob: Who) -> None:
    one, two, _ = pair(send, alice, bob)
    assert (one.is_replay, two.is_replay, two.said) == (False, True, one.said)


def header(name: str, value: str) -> Who:
    return {name: value}, {}, {}


def user(value: Any) -> Who:
    return {}, {"user": value}, {}


def environ(**said: str) -> Who:
    return {}, {}, said


DOCUMENTED = re.findall(
    r"`([A-Za-z-]+)`",
    (Path(__file__).parents[2] / "docs/callers.md")
    .read_text()
    .partition("## Headers that are refused")[2]
    .partition("##")[0],
)


def test_the_page_names_every_header_that_is_refused() -> None:
    known, _ = Facts("POST", b"/", b"", [(name.lower().encode(), b"x") for name in DOCUMENTED]).callers()
    assert sorted(known) == sorted(name.lower() for name in DOCUMENTED)
    assert len(known) == 80


@pytest.mark.parametrize("face", FACES)
def test_a_header_that_names_a_caller_is_refused(face: Callable[[], Send]) -> None:
    send = face()
    for name in DOCUMENTED:
        are_refused(send, header(name, "alice"), header(name, "bob"), name.lower())


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("name", ["Cookie", "X-User", "X-User-Id"])
def test_a_header_that_may_name_a_caller_is_warned_about_once(
    face: Callable[[], Send], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    share(face(), header(name, "a=alice"), header(name, "a=bob"))
    said = [line for line in caplog.messages if "share their keys" in line]
    if face in ON_DJANGO:
        # Its settings are made anew for each request here, and the decorated view is the module's.
        assert len(set(said)) <= 1
    else:
        assert len(said) == 1


@dataclasses.dataclass
class Member:
    number: int
    is_authenticated: bool = True


@dataclasses.dataclass
class Plain:
    number: int


class Model(BaseModel):
    number: int


class Unfinished(BaseUser):
    """As the base class leaves it."""

    def __init__(self, number: int) -> None:
        self.number = number


class Named:
    def __init__(self, identity: Any) -> None:
        self.identity = self.pk = identity


NAMELESS = [
    Member,
    Plain,
    lambda number: Model(number=number),
    Unfinished,
    lambda number: {"number": number},
    lambda number: [number],
]


@pytest.mark.parametrize("face", [*ON_ASGI, *ON_DJANGO])
@pytest.mark.parametrize("make", NAMELESS)
def test_a_user_that_nothing_tells_from_others_is_refused(face: Callable[[], Send], make: Callable[[int], Any]) -> None:
    are_refused(face(), user(make(7)), user(make(8)), "or pass scope=")


@pytest.mark.parametrize("face", [*ON_ASGI, *ON_DJANGO])
@pytest.mark.parametrize("of", [str, int, lambda number: UUID(int=number), Named, lambda number: Named(f"{number}")])
def test_a_user_with_an_identity_is_the_caller(face: Callable[[], Send], of: Callable[[int], Any]) -> None:
    are_told_apart(face(), user(of(7)), user(of(8)))


@pytest.mark.parametrize("face", ON_ASGI)
def test_starlettes_simple_user_is_the_caller(face: Callable[[], Send]) -> None:
    are_told_apart(face(), user(SimpleUser("alice")), user(SimpleUser("bob")))


@pytest.mark.parametrize("face", [*ON_ASGI, *ON_DJANGO])
@pytest.mark.parametrize("nobody", [None, "", Member(7, is_authenticated=False), UnauthenticatedUser()])
def test_nobody_is_nobody(face: Callable[[], Send], nobody: Any) -> None:
    share(face(), user(nobody), user(None))


@pytest.mark.parametrize("face", [*ON_FLASK, *ON_DJANGO])
@pytest.mark.parametrize("name", ["REMOTE_USER", "SSL_CLIENT_S_DN"])
def test_whom_the_server_has_authenticated_is_the_caller(face: Callable[[], Send], name: str) -> None:
    are_told_apart(face(), environ(**{name: "alice"}), environ(**{name: "b\u00fcb"}))
    share(face(), environ(**{name: ""}), environ())


@pytest.mark.parametrize("face", ON_ASGI)
def test_a_client_certificate_that_the_server_has_checked_is_the_caller(face: Callable[[], Send]) -> None:
    def certificate(name: str | None) -> Who:
        return {}, {"extensions": {"tls": {"client_cert_name": name}}}, {}

    are_told_apart(face(), certificate("CN=alice"), certificate("CN=bob"))
    share(face(), certificate(None), ({}, {}, {}))


@pytest.mark.parametrize("protects", ["extension", "decorator"])
@pytest.mark.parametrize("is_named", [True, False])
def test_the_user_of_flask_login_is_the_caller(protects: str, is_named: bool) -> None:
    class Customer(UserMixin):
        def __init__(self, name: str) -> None:
            if is_named:
                self.id = name

    app = Flask("shop")
    app.secret_key = "tests"
    login = LoginManager(app)
    login.request_loader(lambda request: Customer(request.args["who"]))
    app.post("/pay")(charge if protects == "extension" else idempotent(MemoryBackend(), fingerprint=lambda: 1)(charge))
    if protects == "extension":
        Idempotency(app, MemoryBackend(), fingerprint=lambda request: 1)

    def send(key: str, headers: Mapping[str, str], scope: Mapping[str, Any], environ: Mapping[str, Any]) -> Answered:
        said = {"Idempotency-Key": key}
        answer = app.test_client().post(f"/pay?who={scope['user']}", headers=said)
        return Answered(answer.status_code, answer.headers, answer.data)

    if is_named:
        are_told_apart(send, user("alice"), user("bob"))
    else:
        are_refused(send, user("alice"), user("bob"), "a get_id()")


@pytest.mark.parametrize("face", ON_DJANGO)
def test_what_has_authenticated_a_request_without_a_user_is_the_caller(face: Callable[[], Send]) -> None:
    """As Django Ninja and Django REST Framework leave it, in ``request.auth``."""

    def auth(value: Any) -> Who:
        return {}, {"user": Auth(value)}, {}

    are_told_apart(face(), auth("key of alice"), auth("key of bob"))
    are_refused(face(), auth({"sub": "alice"}), auth({"sub": "bob"}), "or pass scope=")
