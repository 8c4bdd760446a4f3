"""Values: what is stored comes back equal and of the same type; what is asked for has one fingerprint."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import namedtuple
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pydantic
import pytest

from pyidempotent import IdempotencyConflict, _native, idempotent
from pyidempotent._values.annotations import Named
from pyidempotent.backends.memory import MemoryBackend
from scripts import output


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int = 0


Plain = namedtuple("Plain", "a b")


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Order:
    items: tuple[Item, ...] = ()
    total: int = dataclasses.field(default=0, init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", len(self.items))


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int


@attrs.define(frozen=True)
class Parcel:
    weight: float
    to: str = "home"


class Address(pydantic.BaseModel):
    street: str
    number: int = 1


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    addresses: list[Address] = []
    _secret: int = pydantic.PrivateAttr(default=3)


Ours = Colour | Access | Level | Point | Plain | Item | Order | Slotted | Parcel | Address | Customer
OURS = Named(Ours)

PARIS = ZoneInfo("Europe/Paris")
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    255,
    -256,
    2**63,
    -(2**200),
    0.0,
    -0.0,
    1.5,
    math.inf,
    -math.inf,
    5e-324,
    "",
    "text \0 ünïcode 😀",
    "lone \ud800 surrogate",
    b"",
    b"\0\xff",
    [],
    [1, [2, [3]]],
    (),
    (1,),
    {},
    {"b": 1, "a": 2},
    {1: "int", "1": "str", (1, 2): None, None: 0},
    set(),
    {1, "a", None},
    frozenset({frozenset({1})}),
    date(2026, 2, 28),
    datetime(2026, 10, 25, 2, 30, 0, 1),
    datetime(2026, 10, 25, 2, 30, tzinfo=PARIS),
    datetime(2026, 10, 25, 2, 30, tzinfo=PARIS, fold=1),
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45), "Kathmandu")),
    time(23, 59, 59, 999999),
    time(1, tzinfo=timezone.utc),
    timedelta(days=-1, microseconds=1),
    Decimal("1.10"),
    Decimal("-0"),
    Decimal("Infinity"),
    UUID(int=7),
    PurePosixPath("/a/b"),
    PureWindowsPath("c:\\a"),
    Path("relative/path"),
    Colour.RED,
    Colour.BLUE,
    Access.READ | Access.WRITE,
    Level.LOW,
    Point(1),
    Plain("a", ["b"]),
    Item("pen", Decimal("1.10"), frozenset({"new"})),
    Order((Item("pen", Decimal(1)),)),
    Slotted(4),
    Parcel(1.5),
    Address(street="Rue"),
    Customer(name="Ann", addresses=[Address(street="Rue", number=7)], nick="A"),
    {"all": [(Point(1, 2), {Colour.RED: [Item("a", Decimal(1))]})]},
]


def same(a: Any, b: Any) -> bool:
    """Equal and of the same type, all the way down, signs of zeros and folds included."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return all(map(same, a, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, datetime | time):
        return (a.fold, a.tzinfo, a.tzname()) == (b.fold, b.tzinfo, b.tzname())
    if isinstance(a, Decimal):
        return str(a) == str(b)
    return True


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_stored_value_comes_back_as_it_was(value: Any) -> None:
    @idempotent(MemoryBackend(), key="order")
    def give(order: str) -> Ours:
        return value  # type: ignore[no-any-return]

    give("a")
    again = give("a")
    assert same(again, value)


def test_a_stored_nan_is_a_nan() -> None:
    assert math.isnan(_native.decode(_native.encode(math.nan, {}), {}))


def test_names_of_items_are_whole_however_many_there_are() -> None:
    names = [f"name {n}" for n in range(2000)] + ["x" * 32, "x" * 33, "", "ü", "\ud800", "ü" * 40]
    value = [{name: index} for index, name in enumerate(names)]
    encoded = _native.encode(value, {})
    assert _native.decode(encoded, {}) == value
    assert _native.decode(encoded, {}) == value, "known by now"
    with pytest.raises(ValueError, match="damaged"):
        _native.decode(b"1d\0\0\0\1s\0\0\0\5nam", {})


def test_private_attributes_of_a_model_come_back() -> None:
    customer = Customer(name="Ann")
    customer._secret = 9
    again = _native.decode(_native.encode(customer, OURS), OURS)
    assert (again, again._secret, again.model_fields_set) == (customer, 9, {"name"})


def test_a_class_that_only_the_annotation_names_is_found() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    def give(order: str) -> Any:
        return Local(1)

    give.__annotations__["return"] = Local
    protected = idempotent(MemoryBackend(), key="order")(give)
    protected("a")
    assert protected("a") == Local(1)


class Text(str):
    """A subclass: it would come back as something else."""


@dataclasses.dataclass
class Gone:
    x: int


def cyclic() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (object, "not supported"),
        (lambda: Text("a"), "not supported"),
        (lambda: print, "not supported"),
        (cyclic, "nested more than 100"),
        (deep, "nested more than 100"),
    ],
)
def test_a_value_that_can_not_be_stored_or_compared_says_so(make: Callable[[], Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        _native.encode(make(), {})

    @idempotent(MemoryBackend(), key="order")
    def take(order: str, payload: Any) -> None:
        raise AssertionError("it ran")

    with pytest.raises(
        TypeError, match=f"the argument 'payload' can't be part of the fingerprint: .*{says}.*fingerprint="
    ):
        take("a", make())


def test_damaged_bytes_are_an_error_and_never_a_crash() -> None:
    encoded = _native.encode(VALUES, OURS)
    for length in range(0, len(encoded), 7):
        with pytest.raises(ValueError, match="damaged"):
            _native.decode(encoded[:length], OURS)
    for damaged in (b"1" + b"l\xff\xff\xff\xff", b"1?", b"2N", b"1" + b"l\0\0\0\1" * 200_000, b"1NN"):
        with pytest.raises(ValueError, match="damaged"):
            _native.decode(damaged, {})


def test_a_class_that_is_gone_is_an_error_that_names_it() -> None:
    classes = Named(Gone)
    encoded = _native.encode(Gone(1), classes).replace(b":Gone", b":Lost")
    with pytest.raises(TypeError, match="Lost"):
        _native.decode(encoded, classes)


def test_nothing_is_imported_or_called_for_a_stored_name() -> None:
    classes = Named(Gone)
    encoded = _native.encode(Gone(1), classes)
    encoded = encoded.replace(f"{__name__}:Gone".encode(), b"os:system".ljust(len(__name__) + 5))
    with pytest.raises(TypeError, match="os:system"):
        _native.decode(encoded, classes)


def test_one_call_has_one_fingerprint_however_it_is_written() -> None:
    @idempotent(MemoryBackend(), key="order")
    def charge(order: str, /, amount: int, *more: int, note: str = "", **extra: Any) -> None: ...

    charge("a", 1, note="")
    charge("a", amount=1)
    charge("b", 1, 2, x=1, y=[{"k": {1, 2, 3}}])
    charge("b", 1, 2, y=[{"k": {3, 2, 1}}], x=1)
    for args, kwargs in [(("a", 2), {}), (("a", 1, 0), {}), (("a", 1), {"note": "n"}), (("b", 1, 2), {"x": 1})]:
        with pytest.raises(IdempotencyConflict):
            charge(*args, **kwargs)
    with pytest.raises(TypeError, match="missing a required argument: 'amount'"):
        charge("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="multiple values"):
        charge("a", 1, amount=1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, False),
        (1, True, False),
        ("1", 1, False),
        ([1], (1,), False),
        (0.0, -0.0, True),
        (math.nan, -math.nan, True),
        (Decimal("1.10"), Decimal("1.1"), True),
        (datetime(2026, 1, 1, 12, tzinfo=timezone.utc), datetime(2026, 1, 1, 13, tzinfo=PARIS), True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (Item("a", Decimal(1)), Item("a", Decimal("1.0")), True),
        (Item("a", Decimal(1)), Item("b", Decimal(1)), False),
        (Colour.RED, 1, False),
        (Address(street="a"), Address(street="a", number=1), True),
        ("é", "e\u0301", False),
    ],
)
def test_what_makes_two_payloads_one(one: Any, other: Any, equal: bool) -> None:
    assert (_native.fingerprint_call({"v": one}) == _native.fingerprint_call({"v": other})) is equal


def test_a_fingerprint_does_not_depend_on_the_hash_seed() -> None:
    code = """
    from pyidempotent import _native
    value = {"s": {"a", "b", "c", None, 1}, "f": frozenset("xyz"), "d": {"k": {"p", "q"}}}
    print(_native.fingerprint_call({"v": value}).hex())
    """
    assert len({output(code, environment={"PYTHONHASHSEED": str(seed)}) for seed in range(3)}) == 1


def test_the_fingerprint_of_a_call_is_pinned() -> None:
    # A new version must not turn retries of the old one into conflicts.
    pinned = _native.fingerprint_call({"order": "a", "amount": 42, "tags": {"x", "y"}, "at": date(2026, 1, 1)})
    assert pinned.hex() == "f107c076050e1a775f4198f3828349a99225d407ea4bc1b3fe0a5a86432a8a81"
