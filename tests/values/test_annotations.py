"""What annotations name: a value of a class comes back where the annotation of who asks names the class."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    ForwardRef,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
)

import attrs
import pydantic
import pytest
from fastapi import FastAPI

from clients import Local, same_answer
from modes import Mode
from pyidempotent import IdempotencyNotKept, IdempotencyUnknown, Outcome, attempt, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from elsewhere import Unimported  # type: ignore[import-not-found]  # that is the case


class Kind(enum.Enum):
    PEN = 1


@dataclasses.dataclass
class Item:
    kind: Kind
    SHARED: ClassVar[list[Unnamed]] = []


@dataclasses.dataclass
class Special(Item):
    price: int = 1


@dataclasses.dataclass
class Partly:
    item: Item
    other: Unimported | None = None


class Pair(NamedTuple):
    item: Item
    count: int


@attrs.define
class Parcel:
    items: list[Item]


@attrs.define
class Older:
    item = attrs.field(type=Item)  # type: ignore[call-overload]  # the way of attrs before annotations


class Order(pydantic.BaseModel):
    item: Item
    _note: Kind = pydantic.PrivateAttr(default=Kind.PEN)


class Lines(TypedDict):
    items: list[Item]


T = TypeVar("T")
B = TypeVar("B", bound=Item)


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Shape(abc.ABC):
    """No kind of value itself."""

    @abc.abstractmethod
    def area(self) -> float: ...


@dataclasses.dataclass
class Circle(Shape):
    radius: float

    def area(self) -> float:
        return 3 * self.radius


Named_ = NewType("Named_", Item)

ITEM = Item(Kind.PEN)


@dataclasses.dataclass
class Unnamed:
    """Of the same module as what is named."""

    x: int = 1


class Trap(Exception):
    """Not a value at all."""


# What an annotation names.


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Item, ITEM),
        ("Item", ITEM),
        (Optional[Item], ITEM),  # noqa: UP045  # as some write it
        (Item | None, ITEM),
        (list[Item], [ITEM]),
        (list["Item"], [ITEM]),
        (ForwardRef("Item"), ITEM),
        (dict[Kind, tuple[Item, ...]], {Kind.PEN: (ITEM,)}),
        (Annotated[Item, "a word"], ITEM),
        (Literal[Kind.PEN, "none"], Kind.PEN),
        (Named_, ITEM),
        (B, ITEM),
        (Partly, Partly(ITEM)),
        (Pair, Pair(ITEM, 1)),
        (Parcel, Parcel([ITEM])),
        (Older, Older(ITEM)),
        (Order, Order(item=ITEM)),
        (Lines, {"items": [ITEM]}),
        (list[Lines], [{"items": [ITEM]}]),
        (Box[Item], Box(ITEM)),
        (Page[Item], Page[Item](items=[ITEM])),
        (Page[Item], Page(items=[ITEM])),
        (Page, Page[Item](items=[ITEM])),
        # Subclasses of what is named.
        (Item, Special(Kind.PEN)),
        (list[Item], [Special(Kind.PEN)]),
        (Shape, Circle(1.5)),
    ],
    ids=repr,
)
def test_what_an_annotation_names_comes_back(annotation: Any, value: Any) -> None:
    def give(order: str) -> Any:
        return value

    give.__annotations__["return"] = annotation
    protected = idempotent(MemoryBackend(), key="order")(give)
    protected("a")
    again = protected("a")
    assert again is not value or isinstance(value, enum.Enum)
    assert (type(again), again) == (type(value), value)


def without_annotation(order: str):  # type: ignore[no-untyped-def]  # that is the case
    return ITEM


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, ITEM),
        (object, ITEM),
        (dict[str, Any], {"item": ITEM}),
        ("Unimported", ITEM),
        (pydantic.BaseModel, Order(item=ITEM)),
        (enum.Enum, Kind.PEN),
        (abc.ABC, Circle(1)),
        (Annotated[int, Item], ITEM),
        (Item, Unnamed()),  # of the same module, and in a ClassVar
        (Special, ITEM),  # the base of what is named
        (Circle, ITEM),
        (Item, Order(item=ITEM)),
    ],
    ids=repr,
)
def test_what_no_annotation_names_is_not_kept(annotation: Any, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    def give(order: str) -> Any:
        return value

    give.__annotations__["return"] = annotation
    protected = idempotent(MemoryBackend(), key="order")(give)
    assert protected("a") is value
    assert "the return annotation names; name it there" in caplog.text
    with pytest.raises(IdempotencyNotKept):
        protected("a")


def test_without_an_annotation_nothing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    protected = idempotent(MemoryBackend(), key="order")(without_annotation)
    assert protected("a") is ITEM
    with pytest.raises(IdempotencyNotKept):
        protected("a")


def test_a_subclass_counts_from_when_it_exists() -> None:
    values: list[Any] = [ITEM]

    @idempotent(MemoryBackend(), key="order")
    def give(order: str) -> Item:
        return values[-1]  # type: ignore[no-any-return]  # of a subclass that is made later

    assert give("a") == give("a") == ITEM

    @dataclasses.dataclass(slots=True)  # which makes a second class of the name
    class Late(Item):
        price: int = 1

    values.append(Late(Kind.PEN))
    assert give("b") == give("b") == Late(Kind.PEN)


def test_a_blocks_result_is_of_standard_types(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    with attempt(backend, key="a") as run:
        run.result = ITEM
    assert run.result is ITEM
    assert "the result of an attempt() has no annotation: make it of standard types" in caplog.text
    with pytest.raises(IdempotencyNotKept), attempt(backend, key="a"):
        raise AssertionError("it ran")


# Exceptions.


class Declined(Exception):
    """A result whose parts have classes too."""

    why: Kind

    def __init__(self, item: Item) -> None:
        super().__init__(item)
        self.why = item.kind


class Expired(Declined):
    pass


@pytest.mark.parametrize("error", [Declined(ITEM), Expired(ITEM)])
def test_an_exception_that_is_named_comes_back_with_its_parts(backend: Backend, mode: Mode, error: Declined) -> None:
    raised = [error]

    def charge(order: str) -> None:
        raise raised.pop()

    protected = mode.protect(charge, backend, key="order", store_exceptions=Declined)
    for _ in range(3):
        with pytest.raises(Declined) as told:
            protected("a")
        assert type(told.value) is type(error)
        assert (told.value.args, told.value.why) == ((ITEM,), Kind.PEN)


def test_a_hook_stores_what_is_named_and_what_is_built_in(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    raised: list[Exception] = []

    def settle(outcome: Outcome) -> Literal["store"]:
        return "store"

    def charge(order: str) -> None:
        raise raised.pop()

    unnamed = idempotent(backend, key="order", settle=settle, name="charge")(charge)
    named = idempotent(backend, key="order", settle=settle, name="refund", store_exceptions=Declined)(charge)
    for number, (protected, error) in enumerate([(unnamed, KeyError("x")), (named, Expired(ITEM))]):
        raised.append(error)
        for _ in range(2):
            with pytest.raises(type(error)):
                protected(f"order-{number}")
    raised.append(Trap("x"))
    with pytest.raises(Trap):
        unnamed("a")
    assert "an exception of the class" in caplog.text
    assert "Trap can't be stored: name it in store_exceptions" in caplog.text
    with pytest.raises(IdempotencyNotKept):
        unnamed("a")
    assert raised == []


# An operator's word.


def test_an_operator_gives_a_value_of_a_class_and_the_annotation_decides(backend: Backend) -> None:
    @idempotent(backend, key="order", name="named", after_crash="refuse")
    def named(order: str) -> Item:
        raise ValueError("nobody knows")

    @idempotent(backend, key="order", name="unnamed", after_crash="refuse")
    def unnamed(order: str) -> Any:
        raise ValueError("nobody knows")

    for protected in (named, unnamed):
        operation = protected.__name__
        with pytest.raises(ValueError, match="nobody knows"):
            protected("a")
        with pytest.raises(IdempotencyUnknown):
            protected("a")
        record = backend.get("a", operation=operation)
        assert record is not None
        assert backend.resolve("a", operation=operation, fence=record.fence, result=ITEM)
    assert named("a") == ITEM
    with pytest.raises(IdempotencyNotKept):
        unnamed("a")


# Endpoints: FastAPI renders what a replay returns as it rendered what the endpoint returned.


class Row(pydantic.BaseModel):
    number: str
    kind: Kind = Kind.PEN
    secret: str = "s"


class Public(pydantic.BaseModel):
    number: str
    kind: Kind = Kind.PEN


class Aliased(Row):
    item: Item | None = pydantic.Field(default=None, serialization_alias="thing")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"response_model": Row},
        {"response_model": Public},
        {"response_model": list[Row]},
        {"response_model": Row, "response_model_exclude_unset": True},
        {"response_model": Public, "response_model_exclude_unset": True},
        {"response_model": Public, "response_model_exclude_none": True},
        {"response_model": Aliased},
        {"response_model": Aliased, "response_model_by_alias": False},
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_an_endpoint_without_an_annotation_is_replayed(backend: Backend, options: Any, is_async: bool) -> None:
    app = FastAPI()
    runs = []

    def value() -> Any:
        runs.append(1)
        row = (Aliased if options.get("response_model") is Aliased else Row)(number=f"run {len(runs)}")
        return [row, row] if options.get("response_model") == list[Row] else row

    if is_async:

        @app.post("/pay", **options)
        @idempotent(backend)
        async def pay():  # type: ignore[no-untyped-def]  # that is the case
            return value()

    else:

        @app.post("/pay", **options)
        @idempotent(backend)
        def pay_on_a_thread():  # type: ignore[no-untyped-def]  # that is the case
            return value()

    first, again = Local(app).post("/pay", "k"), Local(app).post("/pay", "k")
    assert first.status_code == 200
    assert same_answer(first, again)
    assert runs == [1]
