"""Clients whose own time-out passes while the work goes on, and who try again: one effect, and the whole answer for who
is patient at last. Under real servers, whose connections really break."""

from __future__ import annotations

import gzip
import os
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import APPS, is_replay, new_key, refused, until
from servers import RedisServer, Server, free_port

_GUNICORN = ["gunicorn", "--log-level", "warning", "--bind", "127.0.0.1:{port}"]

#: The command of each server, its application, and as what that is served.
SERVERS: dict[str, tuple[list[str], str, str]] = {
    "FastAPI on uvicorn": (["uvicorn", "--log-level", "warning", "--port", "{port}"], "fastapi", "asgi"),
    "FastAPI on hypercorn": (["hypercorn", "--log-level", "warning", "--bind", "127.0.0.1:{port}"], "fastapi", "asgi"),
    "FastAPI on granian": (
        ["granian", "--log-level", "warning", "--interface", "asgi", "--port", "{port}"],
        "fastapi",
        "asgi",
    ),
    # A worker that is sync has one request at a time.
    "Flask on gunicorn": ([*_GUNICORN, "--workers", "8"], "flask", "wsgi"),
    "Flask on gunicorn's threads": ([*_GUNICORN, "--worker-class", "gthread", "--threads", "32"], "flask", "wsgi"),
    "Django on gunicorn": ([*_GUNICORN, "--workers", "8"], "django", "wsgi"),
    "Django on gunicorn's threads": ([*_GUNICORN, "--worker-class", "gthread", "--threads", "32"], "django", "wsgi"),
    "Django on uvicorn": (["uvicorn", "--log-level", "warning", "--port", "{port}"], "django", "asgi"),
}

#: What stands between the protection and the work, or around both.
VARIANTS = {
    "fastapi": ("plain", "gzip", "base", "both", "around"),
    "flask": ("plain", "gzip"),
    "django": ("plain", "gzip", "inside"),
}
KINDS = ("json", "file", "parts", "big")

#: How long the impatient wait: less than the work takes.
PATIENCE = 0.15


class Serving(Server):
    """One of the servers, and clients of it. Every run is a line in a file."""

    is_group = True

    def __init__(self, name: str, store: str, folder: Path) -> None:
        super().__init__()
        self.arguments, self.app, self.serves = SERVERS[name]
        self.port = free_port()
        self.store = store
        self.book = folder / "runs.txt"
        self.book.touch()

    def command(self) -> list[str]:
        return [
            sys.executable,
            *("-m", *(argument.format(port=self.port) for argument in self.arguments)),
            f"impatient_{self.app}:app",
        ]

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(APPS), "STORE": self.store, "RUNS": str(self.book), "SERVES": self.serves}
        return {**os.environ, **own}

    def request(self, path: str, key: str, patience: float) -> dict[str, Any]:
        encoding = "identity" if path.startswith("/plain") else "gzip, deflate"
        headers = {"Idempotency-Key": key, "Accept-Encoding": encoding}
        return {"url": f"http://127.0.0.1:{self.port}{path}", "headers": headers, "timeout": patience}

    def post(self, path: str, key: str, patience: float) -> httpx.Response:
        with httpx.stream("POST", **self.request(path, key, patience)) as answer:
            raw = b"".join(answer.iter_raw())
        # Django compresses each part by itself, and httpx would decode the first one only.
        decode = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(answer.headers.pop("content-encoding", ""))
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            content=decode(raw) if decode else raw,
            request=answer.request,
        )

    def gives_up(self, path: str, key: str) -> bool:
        """Whether a client that waits for too short a time got nothing; else the first still runs, or is done."""
        try:
            answer = self.post(path, key, PATIENCE)
        except httpx.TimeoutException:
            return True
        assert answer.status_code in (409, 410) or is_replay(answer)
        return False

    def leaves_within(self, path: str, key: str) -> bytes:
        """What a client has read that leaves after a few parts."""
        read = b""
        with httpx.stream("POST", **self.request(path, key, 10)) as answer:
            for part in answer.iter_raw():
                read += part
                if len(read) >= 4:
                    break
        return read

    def answer(self, path: str, key: str) -> httpx.Response:
        """What a client gets that waits, and comes again while the first still runs."""
        deadline = time.monotonic() + 20
        while (answer := self.post(path, key, 20)).status_code == 409 and time.monotonic() < deadline:
            time.sleep(0.05)  # as a client would
        return answer

    def count(self, key: str, what: str = "charged") -> int:
        return self.book.read_text().splitlines().count(f"{key} {what}")


@pytest.fixture(scope="module", params=SERVERS)
def serving(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    with Serving(request.param, redis_server.url, tmp_path_factory.mktemp("impatient")) as server:
        yield server


@pytest.fixture
def key() -> str:
    return new_key()


def expected(kind: str, key: str) -> bytes | None:
    """The whole body; None where the frameworks write it in ways of their own."""
    if kind == "json":
        return None
    if kind == "file":
        return b"0123456789abcdef" * 16_000
    if kind == "parts":
        return b"one two three"
    if kind == "trickle":
        return b"".join(b"%d " % number for number in range(6))
    return b"".join(bytes([65 + number % 26]) * 65_536 for number in range(32))


def check_whole(answer: httpx.Response, kind: str, key: str) -> None:
    whole = expected(kind, key)
    assert answer.status_code == 200, answer.text
    if whole is None:
        assert answer.json() == {"charged": key}
    else:
        assert answer.content == whole
    assert is_replay(answer)


def test_three_tries_that_give_up_and_one_that_waits_have_one_effect(serving: Serving) -> None:
    paths = [f"/{variant}/{kind}" for variant in VARIANTS[serving.app] for kind in KINDS]
    paths += ["/decorated/json", *(["/on-a-thread/json", "/on-a-thread/file"] if serving.app == "django" else [])]

    def story(path: str) -> tuple[str, int, list[bool], str | None]:
        key = new_key()
        gave_up = [serving.gives_up(path, key) for _ in range(3)]
        problem = None
        try:
            check_whole(serving.answer(path, key), path.rpartition("/")[2], key)
        except Exception as error:
            problem = repr(error)[:300]
        return path, serving.count(key), gave_up, problem

    with ThreadPoolExecutor(8) as pool:
        stories = list(pool.map(story, paths))
    assert [(path, runs, problem) for path, runs, _, problem in stories] == [(path, 1, None) for path in paths]
    assert all(gave_up[0] for _, _, gave_up, _ in stories)


def test_an_answer_that_is_too_large_to_be_kept_has_one_effect_too(serving: Serving, key: str) -> None:
    gave_up = [serving.gives_up("/plain/over", key) for _ in range(3)]
    assert gave_up[0]
    refused(serving.answer("/plain/over", key), 410, "not-kept", "done")
    assert serving.count(key) == 1


def test_a_client_that_leaves_within_a_stream_finds_it_whole(serving: Serving) -> None:
    def story(variant: str) -> None:
        key = new_key()
        assert serving.leaves_within(f"/{variant}/trickle", key)
        check_whole(serving.answer(f"/{variant}/trickle", key), "trickle", key)
        assert serving.count(key) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(story, VARIANTS[serving.app]))


def test_a_stream_that_goes_on_for_longer_than_the_limit_is_held(serving: Serving, key: str) -> None:
    """200 parts of 0.15 s, where ``disconnect_grace`` is 0.3 s; what it came to is unknown, under ``refuse``."""
    assert serving.leaves_within("/plain/endless", key)

    def unknown() -> Any:
        problem = serving.post("/plain/endless", key, 20).json()
        return problem["effect"] == "unknown" and problem

    assert until(unknown)["status"] == 409
    read = serving.count(key, "part")
    assert 2 <= read < 100
    with suppress(httpx.TimeoutException):
        serving.post("/plain/endless", key, 0.5)  # three pauses
    assert (serving.count(key, "part"), serving.count(key)) == (read, 1)
