"""The native flow: what it is told and when, and that nothing it holds is held for good."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from pyidempotent import IdempotencyProcessing, Outcome, _native, attempt, idempotent
from pyidempotent._http.routes import RequestCall
from pyidempotent.backends.memory import MemoryBackend


def test_outcomes_are_equal_by_their_parts_and_show_them() -> None:
    error = ValueError("no")
    assert Outcome(1, status=201) == Outcome(1, None, 201)
    assert Outcome(1) != Outcome(2)
    assert Outcome(None, error) == Outcome(exception=error)
    assert Outcome(1) != (1, None, None)
    assert repr(Outcome("x", None, 200)) == "Outcome(value='x', exception=None, status=200)"
    match Outcome(1, None, 201):
        case Outcome(value, None, status):
            assert (value, status) == (1, 201)
        case other:
            pytest.fail(repr(other))
    with pytest.raises(AttributeError):
        Outcome(1).value = 2  # type: ignore[misc]


def test_a_flow_is_told_in_turn_and_ends_once() -> None:
    call: Any = attempt(MemoryBackend(), key="k")
    flow = _native.protect(call)
    step, running = flow.step(call, None)
    assert (step, running.key) == ("run", "k")
    with pytest.raises(TypeError):
        flow.step(call, "what the run returned, without its Outcome")
    with pytest.raises(RuntimeError, match="ends once"):
        flow.step(call, Outcome(1))
    del running  # which the wrong word ended: nobody knows what it did, and its claim is held
    gc.collect()
    with pytest.raises(IdempotencyProcessing):
        _native.protect(call).step(call, None)
    call = attempt(MemoryBackend(), key="k")
    flow = _native.protect(call)
    step, _ = flow.step(call, None)
    assert step == "run"
    assert flow.step(call, Outcome(1)) == ("end", Outcome(1))
    with pytest.raises(RuntimeError, match="ends once"):
        flow.step(call, None)
    assert _native.protect(call).step(call, None) == ("end", Outcome(1))


def test_a_decorated_function_that_nobody_holds_is_collected() -> None:
    def made() -> weakref.ref[Any]:
        @idempotent(MemoryBackend(), key=lambda order: f"{charge.__name__} {order}")
        def charge(order: str, of: Any = None) -> str:
            return order

        assert charge("7") == charge("7")
        return weakref.ref(charge)

    charge = made()
    gc.collect()
    assert charge() is None


class Basket:
    error: Exception | None = None


def test_a_call_that_its_own_argument_leads_back_to_is_collected() -> None:
    @idempotent(MemoryBackend(), key="order", fingerprint=lambda order: order)
    def charge(order: str, basket: Basket) -> None:
        raise LookupError(order)

    def failed() -> weakref.ref[Basket]:
        basket = Basket()
        try:
            charge("7", basket)
        except LookupError as error:
            basket.error = error  # whose traceback has the frame that has the call
        return weakref.ref(basket)

    basket = failed()
    gc.collect()
    assert basket() is None


def test_a_face_can_not_answer_what_the_extension_answers() -> None:
    with pytest.raises(TypeError, match=r"Mine\.verdict would never be called"):
        type("Mine", (RequestCall,), {"verdict": lambda call, outcome: "store"})
    type("Mine", (RequestCall,), {"user": lambda call: b"alice"})
