"""The operator's page in applications: under ASGI and WSGI, behind the application's own login."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from clients import until
from pyidempotent import attempt, console
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend

OWN = {"sec-fetch-site": "same-origin"}


class Client:
    """A browser of an operator's, as far as the page needs one."""

    def __init__(self, app: Any, user: str | None = "ann") -> None:
        self.app = app
        self.cookies = httpx.Cookies()
        self.headers = {} if user is None else {"x-user": user}

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        answer = self.sent(method, f"https://shop.example{path}", headers=headers, **more)
        self.cookies.update(answer.cookies)
        return answer

    def sent(self, method: str, url: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), cookies=self.cookies) as client:
                return await client.request(method, url, **more)

        return asyncio.run(send())

    def form(self, id: str) -> dict[str, str]:
        """The hidden fields of a record's forms."""
        page = self.send("GET", f"/ops/record/{id}").text
        return {name: re.findall(f'name="{name}" value="(.*?)"', page)[0] for name in ("token", "fence")}


class WsgiClient(Client):
    def sent(self, method: str, url: str, **more: Any) -> httpx.Response:
        with httpx.Client(transport=httpx.WSGITransport(self.app), cookies=self.cookies) as client:
            return client.request(method, url, **more)


def user_of(scope: dict[str, Any]) -> str | bool:
    name = dict(scope["headers"]).get(b"x-user", b"").decode()
    return name or False


async def user_of_later(scope: dict[str, Any]) -> str | bool:
    await asyncio.sleep(0)
    return user_of(scope)


def mounted(kind: str, backend: Backend) -> type[Client] | Any:
    """What makes a client of the page under /ops."""
    if kind == "wsgi":
        page = console.wsgi(backend, allow=lambda environ: environ.get("HTTP_X_USER"))
        app = DispatcherMiddleware(lambda environ, start: [], {"/ops": page})
        return lambda user="ann": WsgiClient(app, user)
    allow = user_of_later if kind == "asgi, async" else user_of
    asgi = Starlette(routes=[Mount("/ops", app=console.app(backend, allow=allow))])
    return lambda user="ann": Client(asgi, user)


def left_unknown(backend: Backend, key: str = "s3cret") -> str:
    with contextlib.suppress(ZeroDivisionError), attempt(backend, key=key, name="POST /pay", after_crash="refuse"):
        raise ZeroDivisionError
    return next(record.id for record in backend.unfinished() if record.label == f"POST /pay {key}")


@pytest.mark.parametrize("kind", ["asgi", "asgi, async", "wsgi"])
def test_an_operator_decides_and_says_why(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend()
    id = left_unknown(backend)
    client = mounted(kind, backend)()
    page = client.send("GET", "/ops/records")
    assert page.status_code == 200
    assert f'href="/ops/record/{id}"' in page.text
    assert "s3cret" not in page.text
    form = client.form(id)
    refused = client.send("POST", f"/ops/record/{id}/release", data={**form, "reason": "why"})
    assert refused.status_code == 403, "it does not say where it comes from"
    refused = client.send("POST", f"/ops/record/{id}/release", data={**form, "reason": "a" * (1 << 20)}, headers=OWN)
    assert refused.status_code == 403
    assert "too large" in refused.text
    fields = {**form, "kind": "answer", "status": "201", "body": "paid", "reason": "the bank has it"}
    with caplog.at_level(logging.WARNING, "pyidempotent"):
        done = client.send("POST", f"/ops/record/{id}/resolve", data=fields, headers=OWN)
        assert (done.status_code, done.headers["location"]) == (303, f"/ops/record/{id}?did=resolve")
        (line,) = until(lambda: [line for line in caplog.messages if line.startswith("an operator")])
    assert line.startswith(f"an operator (ann) resolved the record [{id[:12]}]")
    assert "the bank has it" in line
    assert "s3cret" not in line
    record = backend.get(id=id)
    assert record is not None
    assert record.answer is not None
    assert (record.answer.status, record.answer.body) == (201, b"paid")


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_everybody_else_sees_nothing(kind: str) -> None:
    backend = MemoryBackend()
    id = left_unknown(backend)
    stranger = mounted(kind, backend)(None)
    for path in ("/ops/", f"/ops/record/{id}", "/ops/rows"):
        answer = stranger.send("GET", path)
        assert answer.status_code == 403
        assert "/pay" not in answer.text
    answer = stranger.send("POST", f"/ops/record/{id}/release", data={"reason": "mine"}, headers=OWN)
    assert answer.status_code == 403
    assert backend.get(id=id) is not None


@pytest.mark.parametrize("mount", [console.app, console.wsgi])
def test_somebody_must_say_who_may_see_it(mount: Any) -> None:
    with pytest.raises(TypeError, match="say who may, by allow="):
        mount("memory://")
    with pytest.raises(TypeError, match="say who may, by allow="):
        mount("memory://", allow=True)
    with pytest.raises(TypeError, match="backend"):
        mount(None, allow=lambda _: True)


def test_an_allow_that_answers_something_else_lets_nobody_in() -> None:
    client = WsgiClient(console.wsgi("memory://", allow=lambda environ: 1))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="allow= returned int"):
        client.send("GET", "/")


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    127,
    128,
    -128,
    -129,
    255,
    2**31,
    -(2**63),
    2**63 - 1,
    2**64 - 1,
    0.5,
    -1.5e-9,
    "",
    "é",
]


@pytest.mark.parametrize("value", [*VALUES, VALUES, {"a": VALUES, "": {}, "é": [[]]}], ids=repr)
def test_a_value_is_stored_as_python_stores_it(value: Any) -> None:
    by_form, by_hand = MemoryBackend(), MemoryBackend()
    stored = []
    for backend in (by_form, by_hand):
        id = left_unknown(backend)
        if backend is by_form:
            client = mounted("wsgi", backend)()
            fields = {**client.form(id), "kind": "python", "value": json.dumps(value), "reason": "why"}
            assert client.send("POST", f"/ops/record/{id}/resolve", data=fields, headers=OWN).status_code == 303
        else:
            record = backend.get(id=id)
            assert record is not None
            sorted_value = dict(sorted(value.items())) if isinstance(value, dict) else value
            assert backend.resolve(id=id, fence=record.fence, result=sorted_value)
        record = backend.get(id=id)
        assert record is not None
        stored.append(record.result)
    assert stored[0] == stored[1]
