"""The ASGI middleware by itself, where a client leaves: when the application is told, and what becomes of the key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_client import App, Client, Message, body, problem, protected, start

Send = Callable[[Message], Awaitable[None]]

#: Longer than any test takes.
LONG = 60


async def nowhere(message: Message) -> None:
    """A server's ``send`` that ignores what it is sent, as most do."""


async def gone(message: Message) -> None:
    """A server's ``send`` that raises, as ASGI 2.4 has it."""
    raise OSError("the client has left")


async def leave(client: Client, send: Send = nowhere, *, once: bool = False) -> None:
    """Sends a request whose client is gone when its body has been read.

    Parameters:
        once: whether the server says that only once, and then nothing any more.
    """
    told: list[int] = []

    async def receive() -> Message:
        told.append(1)
        if len(told) == 1:
            return {"type": "http.request", "body": b"A", "more_body": False}
        if once and len(told) > 2:
            await asyncio.sleep(LONG)
        return {"type": "http.disconnect"}

    await client.app(client.scope(), receive, send)


class Listens:
    """An application that answers part by part, and stops where it is told that its client has left."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.runs = 0
        self.was_told = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1

        async def answer() -> None:
            for message in self.messages:
                await asyncio.sleep(0.01)
                await send(dict(message))

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.create_task(answer()), asyncio.create_task(listen())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.was_told = tasks[0] in pending
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()


PARTS = [start(201), body(b"a", more=True), body(b"b", more=True), body(b"c")]


def within(story: Any) -> Any:
    """What a story comes to, within a time that no limit of these tests reaches."""
    return asyncio.run(asyncio.wait_for(story, 10))


@pytest.mark.parametrize("server", [nowhere, gone])
@pytest.mark.parametrize("once", [False, True])
def test_an_application_is_not_told_until_its_answer_is_whole(server: Send, once: bool) -> None:
    app = Listens(*PARTS)
    client = protected(app, disconnect_grace=LONG)
    within(leave(client, server, once=once))
    assert not app.was_told
    assert [message.get("body") for message in within(client.post())] == [None, b"abc"]
    assert app.runs == 1


@pytest.mark.parametrize("server", [nowhere, gone])
def test_then_it_is(server: Send) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        assert not listening.done()
        for message in PARTS:
            await send(dict(message))
        told.extend([(await listening)["type"], (await receive())["type"]])

    within(leave(protected(app, disconnect_grace=LONG), server))
    assert told == ["http.disconnect"] * 2


def test_who_asks_briefly_and_again_is_not_told_either() -> None:
    """As `Request.is_disconnected` does. A server that says it once has said it to us."""
    asked: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for _ in range(3):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
                asked.append(True)
        await App()(scope, receive, send)

    within(leave(protected(app, disconnect_grace=LONG), once=True))
    assert asked == []


@pytest.mark.parametrize(("after_crash", "effect"), [("rerun", "running"), ("refuse", "unknown")])
@pytest.mark.parametrize("grace", [0, 0.02])
@pytest.mark.parametrize("server", [nowhere, gone])
@pytest.mark.parametrize("messages", [[], PARTS[:2]], ids=["before its answer", "within its answer"])
def test_an_application_that_stops_when_the_limit_has_passed_is_held(
    after_crash: str, effect: str, grace: float, server: Send, messages: list[Message]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)
        await receive()
        for message in messages:
            with contextlib.suppress(OSError):
                await send(dict(message))
        await receive()

    runs: list[int] = []
    client = protected(app, after_crash=after_crash, disconnect_grace=grace)
    within(leave(client, server))
    told = within(client.post())
    assert (told[0]["status"], problem(told)["effect"], runs) == (409, effect, [1])


@pytest.mark.parametrize("grace", [0, 0.02])
def test_an_application_that_fails_because_it_was_told_is_held_too(grace: float) -> None:
    """Its error is the client's doing: what the work came to, nobody knows."""

    class ClientDisconnect(Exception):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise ClientDisconnect

    client = protected(app, after_crash="rerun", disconnect_grace=grace)
    with pytest.raises(ClientDisconnect):
        within(leave(client))
    assert within(client.status()) == 409


def test_an_application_that_fails_by_itself_after_its_client_has_left_has_failed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)
        await receive()
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        listening.cancel()
        raise LookupError

    runs: list[int] = []
    client = protected(app, disconnect_grace=LONG)
    for _ in range(2):
        with pytest.raises(LookupError):
            within(leave(client))
    assert len(runs) == 2


def test_at_once_the_servers_error_reaches_the_application() -> None:
    client = protected(App(*PARTS), disconnect_grace=0)
    with pytest.raises(OSError, match="left"):
        within(client.post(send=gone))
    assert within(client.status()) == 409


@pytest.mark.parametrize("messages", [PARTS, [start(201, (b"content-length", b"1")), body(b"a")]])
def test_an_application_whose_client_leaves_while_it_answers_answers_whole(messages: list[Message]) -> None:
    """Also where the start of its answer was held until then."""
    app = App(*messages)
    client = protected(app)
    within(client.post(send=gone))
    assert within(client.post())[1]["body"] == b"".join(message.get("body", b"") for message in messages)
    assert app.runs == 1


def test_an_error_of_a_server_that_has_its_client_reaches_the_application() -> None:
    async def refuses(message: Message) -> None:
        raise RuntimeError("this is no message")

    with pytest.raises(RuntimeError, match="no message"):
        within(protected(App(*PARTS)).post(send=refuses))


@pytest.mark.parametrize("grace", [-1, "soon", float("nan")])
def test_a_limit_that_is_none_is_refused(grace: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="disconnect_grace must be"):
        protected(App(), disconnect_grace=grace)


def test_without_a_limit_of_its_own_it_is_the_lease() -> None:
    from pyidempotent._options import Site

    graces = [Site(None, options).grace for options in ({}, {"lease": 5}, {"ttl": 2}, {"disconnect_grace": 0})]
    assert graces == [30, 5, 2, 0]
