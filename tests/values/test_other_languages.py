"""What a function in another language has stored is told as it is, and never taken for a value."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyidempotent import IdempotencyNotKept, attempt, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer


def a_function(backend: Backend) -> Any:
    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> str:
        return "done"

    return charge("a")


def a_block(backend: Backend) -> Any:
    with attempt(backend, key="a", name="charge") as run:
        if not run.replayed:
            run.result = "done"
    return run.result


# What a decoder that took no notice of the tag would read: a JSON text, Python's own form of None, an answer of HTTP.
STORED = [
    (b'J{"amount":1}', "the value of a Rust function"),
    (b"J1N", "the value of a Rust function"),
    (b"R\0\xc8\0\0", "the answer to an HTTP request"),
    (b"?1N", "damaged, or of a newer version of this library"),
]


@pytest.mark.parametrize("call", [a_function, a_block])
@pytest.mark.parametrize(("stored", "what"), STORED)
def test_a_foreign_result_is_told(redis_server: RedisServer, call: Any, stored: bytes, what: str) -> None:
    backend, client = RedisBackend(redis_server.url), redis.from_url(redis_server.url)
    client.flushall()
    assert call(backend) == "done"
    (name,) = client.keys("idem:*")
    record: Any = client.get(name)
    own = b"V1s\0\0\0\4done"
    assert record.endswith(own)
    client.set(name, record.removesuffix(own) + stored, px=60_000)
    with pytest.raises(IdempotencyNotKept) as raised:
        call(backend)
    assert str(raised.value.__cause__) == f"it is {what}, not that of a Python function"
