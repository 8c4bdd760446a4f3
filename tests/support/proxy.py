"""A TCP proxy before a server, which misbehaves on request."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from clients import until
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable

T = TypeVar("T")


class Proxy:
    """Passes bytes on, in threads of its own.

    - `hold_answers`: what the server says is kept; `held` is set when there is something.
    - `hold_all`: commands are kept too. Let go, they reach the server, also those of clients that have left, as TCP
      sends again what was lost.
    - `lose_all`: commands and answers vanish, until `let_all_go` cuts every connection.
    - `cut_after_commands`, `cut_before_commands`: the next command closes the connection, after or without reaching the
      server.
    - `refuse`: cuts every connection, and takes none until `listen`; `refuse_new` leaves those that are there.
    - `shape`: what passes is split, merged and delayed, by random numbers from a seed.
    - `latency`: seconds that each of the server's answers takes longer.
    - `answer_itself`: every command of a new connection gets this error, and reaches no server; `answered` is set each
      time.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.refuses = False
        self.own_answer: str | None = None
        self.answered = threading.Event()
        self.loses = False
        self.latency = 0.0
        self.commands_go, self.open = threading.Event(), threading.Event()
        self.commands_go.set()
        self.open.set()
        self.held = threading.Event()
        self.cut: str | None = None
        #: The connection that is cut after its command, towards the server.
        self.victim: socket.socket | None = None
        self.dice: random.Random | None = None
        self.was_cut = threading.Event()
        self.executed = threading.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def hold_answers(self) -> None:
        self.held.clear()
        self.open.clear()

    def let_answers_go(self) -> None:
        self.open.set()

    def hold_all(self) -> None:
        self.commands_go.clear()
        self.hold_answers()

    def lose_all(self) -> None:
        self.loses = True

    def let_all_go(self) -> None:
        if self.loses:
            self.drop_all()
            self.loses = False
        self.commands_go.set()
        self.let_answers_go()

    def refuse(self) -> None:
        self.refuse_new()
        self.drop_all()

    def refuse_new(self) -> None:
        self.refuses = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone would not
        self.listener.close()

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.refuses = False
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def answer_itself(self, error: str | None) -> None:
        """``None``: the server answers again, on new connections."""
        self.answered.clear()
        self.own_answer = error
        if error is None:
            self.drop_all()

    def shape(self, seed: int | None) -> None:
        """``None``: bytes pass as they come again."""
        self.dice = None if seed is None else random.Random(seed)

    def _send(self, to: socket.socket, data: bytes) -> None:
        """Sends bytes on, all at once or as `shape` says."""
        dice = self.dice
        if dice is None:
            to.sendall(data)
            return
        time.sleep(dice.choice((0, 0, 0.001, 0.02)))  # what comes meanwhile is read, and sent, in one piece
        while data:
            length = dice.choice((1, 7, 50, len(data)))
            to.sendall(data[:length])
            data = data[length:]

    def cut_before_commands(self) -> None:
        self.was_cut.clear()
        self.cut = "before"

    def cut_after_commands(self) -> None:
        self.was_cut.clear()
        self.executed.clear()
        self.cut = "after"

    def drop_all(self) -> None:
        """Closes every connection there is."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections.append(client)
                if self.own_answer is not None:
                    threading.Thread(target=self._answer, args=(client, self.own_answer), daemon=True).start()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self.connections.append(server)
                for work, ends in ((self._commands, (client, server)), (self._answers, (server, client))):
                    threading.Thread(target=work, args=ends, daemon=True).start()
                if self.refuses:  # it came at the last moment
                    self._close(client, server)

    def _answer(self, client: socket.socket, error: str) -> None:
        with contextlib.suppress(OSError):
            for _ in _commands_of(client):
                client.sendall(f"-{error}\r\n".encode())
                self.answered.set()
        self._close(client)

    def _commands(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.commands_go.wait(60)
                if self.loses:
                    continue
                if self.cut == "before":
                    self.cut = None
                    break
                if self.cut == "after" and self.victim is None:
                    self.victim = server  # before it is sent: no answer to it goes any further
                self._send(server, data)
                if self.victim is server:
                    self.executed.wait(5)  # the server's answer proves it
                    break
        self._close(client, server)
        if self.victim is server:
            self.cut = self.victim = None

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                # Of this connection alone: one that lives on and misses an answer takes each for another command's.
                if self.victim is server:
                    self.executed.set()
                    continue
                if self.loses:
                    continue
                if not self.open.is_set():
                    self.held.set()
                    self.open.wait(60)
                time.sleep(self.latency)
                self._send(client, data)
        self._close(client)  # what it has sent still goes to the server

    def _close(self, *ends: socket.socket) -> None:
        self.was_cut.set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_all_go()
        self.refuse()


def until_answered(call: Callable[[], T], *more: type[Exception]) -> T:
    """What a client gets that repeats its call until there is an answer; ``more`` are errors that it expects."""
    expected: tuple[type[Exception], ...] = (IdempotencyProcessing, IdempotencyStoreUnavailable, *more)

    def answer() -> tuple[T] | None:
        try:
            return (call(),)
        except expected:
            return None

    answered: tuple[T] = until(answer)
    return answered[0]


def _commands_of(client: socket.socket) -> Iterator[list[bytes]]:
    """The commands of a connection, in Redis's protocol: ``*2``, then each word's length and the word."""
    with client.makefile("rb") as stream:
        while header := stream.readline():
            words = []
            for _ in range(int(header[1:])):
                length = int(stream.readline()[1:])
                words.append(stream.read(length + 2)[:-2])
            yield words
