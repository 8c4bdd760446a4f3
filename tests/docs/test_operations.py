"""docs/operations.md: the permissions of the user in Redis, taken away one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable

import pages
from pyidempotent import attempt
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.exceptions import IdempotencyStoreUnavailable
from servers import RedisServer

#: The words of the error without any.
UNSAID = str(IdempotencyStoreUnavailable())

PAGE = (pages.DOCS / "operations.md").read_text()


def done(backend: Backend, key: str) -> None:
    with attempt(backend, key=key, name="charge"):
        pass


def failed(backend: Backend, key: str) -> None:
    try:
        with attempt(backend, key=key, name="charge"):
            raise RuntimeError
    except RuntimeError:
        pass


def failures(server: RedisServer, allowed: list[str]) -> list[str]:
    """What a user with these permissions can't do; another one has made the records that it meets."""
    server.cli("FLUSHALL")
    own = RedisBackend(server.url)
    done(own, "done")
    with attempt(own, key="runs", name="charge"):
        server.cli("SCRIPT", "FLUSH")
        server.cli("ACL", "SETUSER", "shop", "reset", "on", ">password", "~idem:*", "&idem:*", *allowed)
        server.cli("CLIENT", "KILL", "USER", "shop")
        backend = RedisBackend(server.url.replace("//", "//shop:password@"))

        def release() -> None:
            failed(backend, "fails")
            if own.get("fails", operation="charge") is not None:
                raise IdempotencyStoreUnavailable

        trials: dict[str, Callable[[], object]] = {
            "first call": lambda: done(backend, "new"),
            "repeat": lambda: done(backend, "done"),
            "release": release,
            "list": backend.unfinished,
        }
        found, words = [], []
        for name, trial in trials.items():
            try:
                trial()
            except IdempotencyStoreUnavailable as error:
                found.append(name)
                words.append(str(error))
    assert all("does not permit this user a command" in said for said in words if said != UNSAID)
    return found


def test_what_fails_without_each_permission() -> None:
    line = re.search(r"^ACL SETUSER (.*)$", PAGE, re.MULTILINE)
    assert line is not None
    allowed = re.findall(r"\+\S+", line[1])
    rows = re.findall(r"^\| `([a-z\\|]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    said = {name.replace("\\", ""): what.split(", ") for name, what in rows}
    seen = {}
    for left in [None, *allowed]:
        # A server for each: what fails in the background would meet the next user's permissions.
        with RedisServer() as server:
            seen[left] = failures(server, [one for one in allowed if one != left])
    assert seen.pop(None) == []
    assert {str(left)[1:]: found for left, found in seen.items() if found} == said
