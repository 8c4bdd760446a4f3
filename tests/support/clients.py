"""Clients of the tests' applications, and what every refusal must look like."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from servers import AppServer

APPS = Path(__file__).parent / "apps"

#: A connection for every request: uvicorn closes those on which an application raised.
FRESH = httpx.Limits(max_keepalive_connections=0)


def new_key() -> str:
    return str(uuid.uuid4())


def with_key(key: str | None, headers: Any) -> httpx.Headers:
    more = httpx.Headers(headers)
    if key is not None:
        more["Idempotency-Key"] = key
    return more


class Service(AppServer):
    """An application of ``apps/`` on a store, and a client of it.

    Every run of one of its protected endpoints is a line in a file, so that it is counted across processes.
    """

    def __init__(self, app: str, store: str, folder: Path, *arguments: str, **environment: str) -> None:
        self.book = folder / "runs.txt"
        self.book.touch()
        super().__init__(
            APPS / f"{app}.py",
            {"STORE": store, "RUNS": str(self.book), **environment},
            *("--log-level", "warning", *arguments),
        )
        self.client = httpx.Client(base_url=self.url, timeout=30, limits=FRESH)

    def post(self, path: str, key: str | None = None, *, method: str = "POST", **more: Any) -> httpx.Response:
        headers = with_key(key, more.pop("headers", None))
        return self.client.request(method, path, headers=headers, **more)

    def runs(self, key: str) -> int:
        return self.book.read_text().splitlines().count(key)

    def has_begun(self, key: str) -> None:
        """Returns when a handler that waits at the key's gate is there."""
        assert self.client.post(f"/gates/{key}/begun").json() is True

    def open(self, key: str) -> None:
        self.client.post(f"/gates/{key}/open")


class Local:
    """An application in this process, and a client of it; every request has an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def post(self, path: str, key: str | None = None, *, method: str = "POST", **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
                return await client.request(method, path, headers=with_key(key, more.pop("headers", None)), **more)

        return asyncio.run(send())

    def twice(self, path: str, key: str | None = None, **more: Any) -> tuple[httpx.Response, httpx.Response]:
        key = key or new_key()
        return self.post(path, key, **more), self.post(path, key, **more)


class LocalWsgi(Local):
    """The same for a WSGI application; what it raises is raised here, as by a server in development."""

    def post(self, path: str, key: str | None = None, *, method: str = "POST", **more: Any) -> httpx.Response:
        with httpx.Client(transport=httpx.WSGITransport(self.app), base_url="http://local") as client:
            return client.request(method, path, headers=with_key(key, more.pop("headers", None)), **more)


def is_replay(answer: httpx.Response) -> bool:
    values = answer.headers.get_list("idempotent-replayed")
    assert values in ([], ["true"])
    return bool(values)


def same_answer(first: httpx.Response, again: httpx.Response, *, but: tuple[str, ...] = ("date",)) -> bool:
    """Whether the second is the first one's replay: status, headers and body."""

    def headers(answer: httpx.Response) -> list[tuple[bytes, bytes]]:
        left_out = {"idempotent-replayed", *but}
        return sorted(
            (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in left_out
        )

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert headers(again) == headers(first)
    return is_replay(again) and not is_replay(first)


def refused(
    answer: httpx.Response, status: int, kind: str, effect: str, *, retry_after: bool = False
) -> dict[str, Any]:
    """The problem document (RFC 9457) of a refusal, after checking all that every one of them has."""
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status), problem
    assert answer.headers.get_list("content-type") == ["application/problem+json"]
    assert problem["type"] == f"urn:problem-type:idempotency:{kind}"
    assert problem["instance"] == answer.request.url.raw_path.decode().partition("?")[0]
    assert problem["effect"] == effect
    assert problem["title"]
    assert problem["detail"]
    assert not is_replay(answer)
    assert ("retry-after" in answer.headers) is retry_after
    if retry_after:
        assert int(answer.headers["retry-after"]) == 1
    return problem


def until(happens: Callable[[], Any], limit: float = 15) -> Any:
    """Asks again until the answer is true, for so many seconds; for what only the passing of time brings."""
    deadline = time.monotonic() + limit
    while not (answer := happens()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)  # see above: there is no event
    return answer
