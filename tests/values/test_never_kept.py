"""Values that can never be kept: an annotation that says so is refused at decoration."""

from __future__ import annotations

import io
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from typing import Annotated, Any, Generic, TypeVar

import pytest
from flask.typing import ResponseReturnValue

from pyidempotent import idempotent
from pyidempotent._values.annotations import never_kept

T = TypeVar("T")

NEVER_KEPT: dict[Any, str] = {
    Iterator[int]: "an iterator is gone",
    Generator[int, None, None]: "a generator is gone",
    AsyncIterator[int]: "an iterator is gone",
    list[Iterator[int]] | None: "an iterator is gone",
    Annotated[Awaitable[int], "note"]: "make the function async def",
    Callable[[int], int]: "a callable can't be stored",
    dict[str, io.StringIO]: "an open file can't be stored",
    typing.TextIO: "an open file can't be stored",
}


@pytest.mark.parametrize("annotation", NEVER_KEPT, ids=str)
@pytest.mark.parametrize("is_async", [False, True])
def test_what_can_never_be_kept_is_refused_at_decoration(annotation: Any, is_async: bool) -> None:
    def sync() -> Any: ...

    async def coroutine() -> Any: ...

    function: Any = coroutine if is_async else sync
    function.__annotations__ = {"return": annotation}
    with pytest.raises(TypeError, match=NEVER_KEPT[annotation]):
        idempotent("memory://", key=lambda: "a")(function)
    # FastAPI may render what an endpoint returns.
    idempotent("memory://")(function)


class Handlers(Generic[T]):
    """Its argument is no value of its."""


MAY_BE_KEPT: list[Any] = [
    Iterable[int],
    list[int] | None,
    dict[str, int] | Awaitable[dict[str, int]],
    int | Callable[[], int],
    Handlers[Callable[[], int]],
    ResponseReturnValue,
    Any,
    object,
    type(None),
    None,
    "Unknown",
    tuple[()],
    (dict, [int]),
]


@pytest.mark.parametrize("annotation", MAY_BE_KEPT, ids=str)
def test_what_may_be_kept_is_not(annotation: Any) -> None:
    def function() -> Any: ...

    function.__annotations__ = {"return": annotation}
    idempotent("memory://", key=lambda: "a")(function)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement came with Python 3.12")
def test_an_alias_of_itself_ends() -> None:
    names: dict[str, Any] = {"Iterator": Iterator}
    exec("type JSON = dict[str, JSON] | list[JSON] | str\ntype Bad = Iterator[Bad]", names)
    exec("def f[T: list[T]](x: T) -> T: ...", names)
    assert never_kept(names["JSON"]) is None
    assert never_kept(names["f"].__annotations__["return"]) is None
    assert never_kept(names["Bad"]) is not None
