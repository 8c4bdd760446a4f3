"""Clients of the tests' Django project, sync and async, and its clean state for every test."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import AsyncClient, Client, override_settings

import django_site
from clients import new_key


class Browser:
    """A client of the project.

    Parameters:
        mode: ``"sync"``: through WSGI, or ``"async"``: through ASGI, each request in a loop of its own.
        csrf: whether CSRF is checked.
    """

    def __init__(self, mode: str, csrf: bool = False) -> None:
        self.is_async = mode == "async"
        kind: Any = AsyncClient if self.is_async else Client
        self.client = kind(raise_request_exception=False, enforce_csrf_checks=csrf)

    def send(
        self, method: str, path: str, key: str | None = None, data: Any = b"", *, reads: bool = True, **more: Any
    ) -> Any:
        self.client.handler._middleware_chain = None  # made anew: the settings may have changed
        headers = {**({} if key is None else {"Idempotency-Key": key}), **more.pop("headers", {})}
        more = {"headers": headers, "content_type": "text/plain", **more}
        if isinstance(data, dict):
            del more["content_type"]
        if not self.is_async:
            send = self.client.post if isinstance(data, dict) else functools.partial(self.client.generic, method)
            answer = send(path, data, **more)
            if answer.streaming and reads:
                answer.whole = b"".join(answer)
            return answer

        async def sending() -> Any:
            if isinstance(data, dict):
                return await self.client.post(path, data, **more)
            answer = await self.client.generic(method, path, data, **more)
            if answer.streaming:
                answer.whole = b"".join([part async for part in answer])
            return answer

        return asyncio.run(sending())

    def post(self, path: str, key: str | None = None, data: Any = b"", **more: Any) -> Any:
        return self.send("POST", path, key, data, **more)

    def twice(self, path: str, key: str | None = None, data: Any = b"", **more: Any) -> tuple[Any, Any]:
        key = key or new_key()
        return self.post(path, key, data, **more), self.post(path, key, data, **more)


def is_replay(answer: Any) -> bool:
    return bool(answer.headers.get("Idempotent-Replayed") == "true")


def body(answer: Any) -> bytes:
    return bytes(answer.whole if answer.streaming else answer.content)


def same_answer(first: Any, again: Any) -> bool:
    """Whether the second is the first one's replay; each is read to its end."""
    whole = body(first)
    kept = [header for header in again.items() if header[0].lower() not in ("idempotent-replayed", "content-length")]
    assert (again.status_code, body(again)) == (first.status_code, whole)
    assert sorted(kept) == sorted(header for header in first.items() if header[0] != "Content-Length")
    return is_replay(again) and not is_replay(first)


def refused(answer: Any, status: int, kind: str, effect: str) -> dict[str, Any]:
    """The problem document of a refusal."""
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(answer.content)
    assert problem["type"].endswith(f":{kind}")
    assert (problem["status"], problem["effect"]) == (status, effect)
    assert (
        problem["instance"] == urlsplit(answer.request["PATH_INFO" if "PATH_INFO" in answer.request else "path"]).path
    )
    assert not is_replay(answer)
    return problem


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest, site: None) -> Browser:
    return Browser(request.param)


@pytest.fixture
def site() -> Iterator[None]:
    """The project with nothing stored and nothing run."""
    from pyidempotent.backends.memory import MemoryBackend

    django_site.make_tables()
    for name in ("default", "other"):
        with django_site.connections[name].cursor() as cursor:
            cursor.execute("DELETE FROM charges")
    django_site.RUNS.clear()
    django_site.THREADS.clear()
    for event in (django_site.GATE, django_site.BEGUN, django_site.ENDED):
        event.clear()
    with override_settings(PYIDEMPOTENT={"BACKEND": MemoryBackend()}):
        yield
