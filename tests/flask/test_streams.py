"""Streamed answers of Flask: captured while they are read, and stored at their end."""

from __future__ import annotations

import gc
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask import Response, g, request, send_file, stream_with_context

from clients import is_replay, new_key, refused, same_answer, until
from flask_client import Shop
from pyidempotent import (
    current,
)


def stream(shop: Shop, parts: Callable[[], Iterator[Any]], **headers: str) -> None:
    shop.app.add_url_rule("/pay", "pay", shop.counted(lambda: Response(parts(), headers=headers)), methods=["POST"])


def test_a_stream_is_stored_at_its_end_with_what_it_finds_of_its_request() -> None:
    shop = Shop()
    states = []

    def parts() -> Iterator[str]:
        yield f"{request.headers['X-User']} {g.user} {current().key} "
        states.append(shop.state)
        yield new_key()

    shop.app.before_request(lambda: setattr(g, "user", "bob"))
    stream(shop, lambda: stream_with_context(parts()))
    first, again = (shop.pay(headers={"X-User": "alice"}) for _ in range(2))
    assert first.text.startswith(f"alice bob {shop.key} ")
    assert same_answer(first, again, but=("content-length",))
    assert (states, shop.state) == (["in flight"], "completed")


def test_a_stream_runs_after_the_teardown_and_its_end_is_stored_before_it_goes_out() -> None:
    shop, seen = Shop(), []
    shop.app.teardown_request(lambda _: seen.append("teardown"))

    def parts() -> Iterator[bytes]:
        seen.append("one")
        yield b"one"
        seen.append("two")
        yield b"two"

    stream(shop, parts, **{"Content-Length": "6"})
    body = shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}, buffered=False).response
    read = iter(body)
    assert (next(read), seen, shop.state) == (b"one", ["teardown", "one"], "in flight")
    assert (next(read), shop.state) == (b"two", "completed")  # the declared length is whole


def leave_after_one_part(shop: Shop, *others: Iterator[bytes]) -> list[str]:
    """A client that leaves within a stream of three parts, or of these; what its body has gone through."""
    seen: list[str] = []

    def parts() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
            seen.append("two")
            for more in others:
                yield from more
            yield b"three"
            seen.append("three")
        finally:
            seen.append("closed")

    stream(shop, parts)
    answer = shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}, buffered=False)
    assert next(iter(answer.response)) == b"one"
    answer.close()
    return seen


@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_stream_whose_client_leaves_is_read_to_its_end(after_crash: str) -> None:
    shop = Shop(after_crash=after_crash)
    assert leave_after_one_part(shop) == ["two", "three", "closed"]
    answer = shop.pay()
    assert (answer.content, is_replay(answer), shop.runs) == (b"onetwothree", True, 1)


@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
@pytest.mark.parametrize("grace", [0, 0.01])
def test_a_stream_that_goes_on_for_longer_than_the_limit_leaves_its_outcome_unknown(
    after_crash: str, grace: float
) -> None:
    shop = Shop(after_crash=after_crash, disconnect_grace=grace)
    seen = leave_after_one_part(shop, itertools.repeat(b"more"))
    assert seen == (["two", "closed"] if grace else ["closed"])
    assert shop.state == ("in flight" if after_crash == "rerun" else "unknown")
    assert shop.pay().status_code == 409
    assert shop.runs == 1


def test_a_stream_that_fails_when_its_client_has_left_is_held_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> Iterator[bytes]:
        raise LookupError("the bank is gone")
        yield

    shop = Shop(after_crash="refuse")
    assert leave_after_one_part(shop, fails()) == ["two", "closed"]
    assert shop.state == "unknown"
    assert "the bank is gone" in caplog.text


def test_a_stream_longer_than_it_said_is_not_kept() -> None:
    shop = Shop(lambda: Response(iter([b"lon", b"ger"]), headers={"Content-Length": "4"}))
    shop.pay()
    refused(shop.pay(), 410, "not-kept", "done")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_stream_that_breaks_off_is_as_good_as_a_crash(error: type[BaseException], after_crash: str) -> None:
    shop = Shop(after_crash=after_crash)

    def parts() -> Iterator[bytes]:
        yield b"one"
        raise error

    stream(shop, parts)
    with pytest.raises(error):
        shop.pay()
    assert shop.pay().status_code == 409
    until(lambda: shop.state == ("in flight" if after_crash == "rerun" else "unknown"))


def test_a_stream_that_nobody_reads_is_not_released() -> None:
    shop = Shop(after_crash="refuse")
    stream(shop, lambda: iter([b"one"]))
    environ = flask.Flask("x").test_request_context("/pay", method="POST", headers={"Idempotency-Key": shop.key})
    shop.app(environ.request.environ, lambda *_: lambda _: None)
    gc.collect()
    until(lambda: shop.state == "unknown")


@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_that_the_application_reads_itself_ends_with_the_request(breaks: bool) -> None:
    shop, states = Shop(), []

    def parts() -> Iterator[bytes]:
        yield b"one"
        if breaks and shop.runs == 1:
            raise ZeroDivisionError
        yield b"two"

    @shop.app.after_request
    def compress(response: Response) -> Response:
        response.set_data(response.get_data()[::-1])
        states.append(shop.state)
        return response

    stream(shop, parts)
    if breaks:
        assert shop.pay().status_code == 500
        assert shop.state is None
    first, again = shop.pay(), shop.pay()
    assert first.text == "owteno"
    assert same_answer(first, again)
    assert states[-2] == "in flight"


def test_a_file_is_replayed_whole() -> None:
    shop = Shop(lambda: send_file(io.BytesIO(b"x" * 100_000), download_name="a.bin", etag="e"))
    first, again = shop.pay(), shop.pay()
    assert len(first.content) == 100_000
    assert same_answer(first, again)
    assert shop.runs == 1


def test_a_stream_without_a_body_is_none() -> None:
    shop = Shop(lambda: Response(iter([b"unseen"]), 204))
    first, again = shop.pay(), shop.pay()
    assert (first.status_code, first.content) == (204, b"")
    assert same_answer(first, again)


def test_a_header_that_is_no_latin_1_is_the_applications_error() -> None:
    shop = Shop(lambda: Response("paid", headers={"X-Name": "\u0141"}))
    # This server takes it.
    assert shop.app.test_client().post("/pay", headers={"Idempotency-Key": shop.key}).status_code == 200
    refused(shop.pay(), 410, "not-kept", "done")
