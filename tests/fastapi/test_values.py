"""What FastAPI can render, a decorated endpoint keeps: a first 200 is followed by a replay with the same bytes."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import re
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import attrs
import pydantic
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from clients import Local, is_replay, same_answer
from pyidempotent import idempotent
from pyidempotent.backends.memory import MemoryBackend

T = TypeVar("T")


class Out(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(from_attributes=True)
    id: int
    note: str = "none"


class Row:
    """As an ORM's: no annotation of an endpoint would name it."""

    id = 7

    @property
    def note(self) -> str:
        return "lazily"


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]
    next: T | None = None


class Card(pydantic.BaseModel):
    kind: Literal["card"] = "card"
    number: pydantic.SecretStr = pydantic.SecretStr("4242")


class Transfer(pydantic.BaseModel):
    kind: Literal["transfer"] = "transfer"
    at: dt.datetime


Way = Annotated[Card | Transfer, pydantic.Field(discriminator="kind")]


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    order_id: int = pydantic.Field(alias="orderId", default=1)


class Computed(pydantic.BaseModel):
    amount: int
    secret: str = pydantic.Field(default="x", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy has no rule for decorated properties
    @property
    def doubled(self) -> int:
        return self.amount * 2


class Changed(pydantic.BaseModel):
    amount: int

    @pydantic.field_validator("amount")
    @classmethod
    def more(cls, amount: int) -> int:
        return amount + 1


class Hook(pydantic.BaseModel):
    url: pydantic.HttpUrl
    address: ipaddress.IPv4Address | ipaddress.IPv6Network


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


@attrs.define
class Size:
    width: int


class Pair(NamedTuple):
    first: int
    second: str


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


class Number(int):
    pass


AT = dt.datetime(2026, 3, 1, 10, tzinfo=dt.timezone.utc)
PARSED = Transfer.model_validate_json('{"at": "2026-03-01T10:00:00+02:00"}')

#: name: (the model, the value)
VALUES: dict[str, tuple[Any, Any]] = {
    "model": (Out, Out(id=1)),
    "row": (Out, Row()),
    "rows": (list[Out], [Row(), Row()]),
    "mapping of rows": (dict[str, Out], {"a": Row()}),
    "generic": (Page[Out], Page[Out](items=[Out(id=1)])),
    "generic of rows": (Page[Out], {"items": [Row()], "next": Row()}),
    "union": (Way, Card()),
    "union of dicts": (Way, {"kind": "transfer", "at": AT}),
    "parsed time": (Transfer, PARSED),
    "time of a zone": (Transfer, Transfer(at=AT.astimezone(ZoneInfo("Europe/Paris")))),
    "alias": (Aliased, Aliased(order_id=5)),
    "computed and excluded": (Computed, Computed(amount=3)),
    "validator that changes": (Changed, {"amount": 1}),
    "validator that changes a model": (Changed, Changed(amount=1)),
    "url and address": (Hook, Hook(url="https://example.com/a", address="192.0.2.1")),  # type: ignore[arg-type]
    "url and network": (Hook, {"url": "https://example.com", "address": "2001:db8::/32"}),
    "secret": (Card, Card()),
    "extra": (Open, Open.model_validate({"a": 1, "b": [2]})),
    "addresses": (dict, {"ip": ipaddress.ip_address("192.0.2.1"), "net": ipaddress.ip_network("10.0.0.0/8")}),
    "dataclass": (Point, Point(1, ["a"])),
    "dataclass in a dict": (dict[str, Any], {"point": Point(1, [])}),
    "attrs": (dict, {"size": attrs.asdict(Size(3))}),
    "named tuple": (Pair, Pair(1, "b")),
    "enum": (Color, Color.RED),
    "enums": (dict[str, Any], {"color": Color.RED, "level": Level.HIGH}),
    "ordered dict": (dict, collections.OrderedDict(b=1, a=2)),
    "default dict": (dict, collections.defaultdict(list, a=[1])),
    "counter": (dict[str, int], collections.Counter("aab")),
    "chain map": (dict, dict(collections.ChainMap({"a": 1}, {"b": 2}))),
    "deque": (list[int], collections.deque([1, 2])),
    "set": (set[int], {3}),
    "frozen set": (frozenset[int], frozenset({3})),
    "tuple": (tuple[int, str], (1, "a")),
    "str subclass": (str, Text("a")),
    "int subclass": (int, Number(4)),
    "subclasses in a list": (list[Any], [Text("a"), Number(4)]),
    "bytes": (bytes, b"abc"),
    "uuid": (uuid.UUID, uuid.UUID(int=7)),
    "decimal": (decimal.Decimal, decimal.Decimal("1.50")),
    "times": (dict[str, Any], {"date": AT.date(), "time": AT.time(), "delta": dt.timedelta(hours=1)}),
    "path": (pathlib.PurePosixPath, pathlib.PurePosixPath("/a/b")),
    "pattern": (dict[str, Any], {"pattern": re.compile("a+")}),
    "none": (None, None),
    "float": (float, 1.5),
    "nested": (dict[str, list[Page[Out]]], {"pages": [Page[Out](items=[Out(id=2, note="x")])]}),
}


def answers(endpoint: Any, **options: Any) -> tuple[Any, Any]:
    app = FastAPI()
    app.post("/value", **options)(idempotent(MemoryBackend())(endpoint))
    return Local(app).twice("/value")


def kept(endpoint: Any, **options: Any) -> None:
    first, again = answers(endpoint, **options)
    assert first.status_code == options.get("status_code", 200), first.text
    assert same_answer(first, again)


@pytest.mark.parametrize("way", ["model", "annotation", "neither", "sync"])
@pytest.mark.parametrize("name", VALUES)
def test_what_fastapi_renders_is_kept(name: str, way: str) -> None:
    model, value = VALUES[name]

    async def endpoint(request: Request) -> Any:
        return value

    def endpoint_sync(request: Request) -> Any:
        return value

    endpoint.__annotations__["return"] = endpoint_sync.__annotations__["return"] = model if way == "annotation" else Any
    if way == "neither":
        first, again = answers(endpoint, response_model=None)
        if first.status_code == 200:  # FastAPI can't render all of them without a model
            assert same_answer(first, again)
        return
    options = {} if way == "annotation" else {"response_model": model}
    kept(endpoint_sync if way == "sync" else endpoint, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"response_model_exclude_unset": True},
        {"response_model_exclude_defaults": True},
        {"response_model_exclude_none": True},
        {"response_model_include": {"id"}},
        {"response_model_exclude": {"note"}},
        {"status_code": 201},
        {"status_code": 204, "response_model": None},
        {"response_class": PlainTextResponse, "response_model": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [Row(), Out(id=3)], ids=["row", "model"])
def test_as_the_route_says(options: dict[str, Any], value: Any) -> None:
    async def endpoint(request: Request, response: Response) -> Any:
        response.headers["x-own"] = "1"
        return value if options.get("response_class") is None else Text("plain")

    if options.get("status_code") == 204:

        async def endpoint(request: Request, response: Response) -> Any:  # type: ignore[no-redef]
            return None

    kept(endpoint, **{"response_model": Out, **options})


def test_headers_and_a_status_of_the_endpoints_own_are_part_of_it() -> None:
    async def endpoint(request: Request, response: Response) -> Any:
        response.headers["location"] = "/rows/7"
        response.status_code = 202
        return Row()

    first, again = answers(endpoint, response_model=Out)
    assert (first.status_code, first.headers["location"], first.json()) == (202, "/rows/7", {"id": 7, "note": "lazily"})
    assert same_answer(first, again)


def test_a_value_that_fastapi_refuses_ran_once_and_is_not_kept() -> None:
    ran = []

    async def endpoint(request: Request) -> Any:
        ran.append(1)
        return object()

    first, again = answers(endpoint, response_model=Out)
    assert (first.status_code, again.status_code, is_replay(again)) == (500, 410, False)
    assert ran == [1]


def test_an_iterator_is_answered_whole_and_not_kept() -> None:
    app = FastAPI()

    @app.post("/pay", response_model=list[int])
    @idempotent(MemoryBackend())
    def pay() -> Any:
        return (number for number in range(2))

    client = Local(app)
    first, again = client.twice("/pay")
    assert (first.status_code, first.json()) == (200, [0, 1])
    assert again.status_code == 410
