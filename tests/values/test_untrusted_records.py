"""A stranger who writes to the store: a stored value becomes only what the annotations of who asks for it name."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pydantic
import pytest
import redis
from celery import Celery
from fastapi import FastAPI

from clients import Local
from pyidempotent import IdempotencyNotKept, _native, attempt, idempotent
from pyidempotent._values.annotations import Named
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.celery import idempotent_task
from servers import RedisServer


@dataclasses.dataclass
class Item:
    name: str


ITEM = Item("pen")


@dataclasses.dataclass
class Bomb:
    """What a stranger wants made."""

    x: int = 1
    made: ClassVar[list[str]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        Bomb.made.append("setattr")
        super().__setattr__(name, value)

    def __del__(self) -> None:
        Bomb.made.append("del")


class Armed(pydantic.BaseModel):
    x: int = 1

    def __del__(self) -> None:
        Bomb.made.append("del")


class Trap(Exception):
    """Not a value at all."""


@pytest.fixture(params=[Bomb, Armed])
def hostile(request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A stored value that would be made into an object of an imported class."""
    value = request.param()
    encoded = _native.encode(value, Named(request.param))[1:]
    del value
    Bomb.made.clear()
    yield encoded
    Bomb.made.clear()


class Store:
    """A store in Redis that somebody else writes to."""

    def __init__(self, server: RedisServer) -> None:
        self.prefix = f"{uuid.uuid4()}:"
        self.backend = RedisBackend(server.url, prefix=self.prefix)
        self.client = redis.from_url(server.url)

    def put(self, text: str, hostile: bytes) -> None:
        """A value in the place of a text that takes as many bytes."""
        (name,) = self.client.keys(f"{self.prefix}*")
        record: Any = self.client.get(name)
        stored = b"s" + len(text).to_bytes(4, "big") + text.encode()
        assert stored in record
        assert len(stored) == len(hostile)
        self.client.set(name, record.replace(stored, hostile), px=60_000)


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    return Store(redis_server)


def a_function(backend: Backend, text: str) -> Any:
    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> str:
        return text

    return charge("a")


def an_async_function(backend: Backend, text: str) -> Any:
    @idempotent(backend, key="order", name="charge")
    async def charge(order: str) -> str:
        return text

    return asyncio.run(charge("a"))


def an_item_of_a_list(backend: Backend, text: str) -> Any:
    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> list[Item | str]:
        return [ITEM, text]

    return charge("a")


def a_block(backend: Backend, text: str) -> Any:
    with attempt(backend, key="a") as run:
        if not run.replayed:
            run.result = text
    return run.result


def an_exceptions_argument(backend: Backend, text: str) -> Any:
    @idempotent(backend, key="order", name="charge", store_exceptions=LookupError)
    def charge(order: str) -> str:
        raise KeyError(text)

    try:
        return charge("a")
    except KeyError as error:
        return error.args


def a_task(backend: Backend, text: str) -> Any:
    app = Celery("shop", broker="memory://", set_as_current=False)

    def charge(order: str) -> str:
        return text

    task = app.task(base=idempotent_task(backend, key="order"), name="shop.charge")(charge)
    return task.apply(("a",)).get()


@pytest.mark.parametrize(
    "face", [a_function, an_async_function, an_item_of_a_list, a_block, an_exceptions_argument, a_task]
)
def test_a_stranger_has_nothing_made(store: Store, hostile: bytes, face: Callable[[Backend, str], Any]) -> None:
    text = "x" * (len(hostile) - 5)
    face(store.backend, text)
    store.put(text, hostile)
    with pytest.raises(IdempotencyNotKept) as told:
        face(store.backend, text)
    assert told.value.effect == "done"
    assert "which the return annotation does not name" in str(told.value.__cause__)
    del told
    assert Bomb.made == []


def test_a_stranger_has_nothing_made_by_an_endpoint(store: Store, hostile: bytes) -> None:
    app = FastAPI()
    text = "x" * (len(hostile) - 5)

    @app.post("/pay")
    @idempotent(store.backend)
    async def pay() -> Any:
        return text

    assert Local(app).post("/pay", "k").json() == text
    store.put(text, hostile)
    assert Local(app).post("/pay", "k").status_code == 410
    assert Bomb.made == []


def test_a_stranger_raises_no_exception_of_his_choice(store: Store) -> None:
    class Refused(Exception):
        """A result."""

    @idempotent(store.backend, key="order", store_exceptions=Refused)
    def charge(order: str) -> None:
        raise Refused("x")

    with pytest.raises(Refused):
        charge("a")
    (name,) = store.client.keys(f"{store.prefix}*")
    record: Any = store.client.get(name)
    own = f"{Refused.__module__}:{Refused.__qualname__}".encode()
    other = f"{Trap.__module__}:{Trap.__qualname__}".encode()
    swapped = record.replace(b"s" + len(own).to_bytes(4, "big") + own, b"s" + len(other).to_bytes(4, "big") + other)
    assert swapped != record
    store.client.set(name, swapped, px=60_000)
    with pytest.raises(IdempotencyNotKept):
        charge("a")
