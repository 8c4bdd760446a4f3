"""A TCP proxy before a server, which misbehaves on request."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes bytes on, in threads of its own.

    - `hold_answers`: what the server says is kept; `held` is set when there is something.
    - `cut_after_commands`, `cut_before_commands`: the next command closes the connection, after or without reaching the
      server.
    - `refuse`: takes no connection any more.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()
        self.cut: str | None = None
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

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self.connections += [client, server]
                for work, ends in ((self._commands, (client, server)), (self._answers, (server, client))):
                    threading.Thread(target=work, args=ends, daemon=True).start()

    def _commands(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.cut == "before":
                    self.cut = None
                    break
                server.sendall(data)
                if self.cut == "after":
                    self.executed.wait(5)  # the server's answer proves it, and goes no further
                    self._close(client, server)
                    self.cut = None
                    return
        self._close(client, server)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self.executed.set()
                if self.cut == "after":
                    continue
                if not self.open.is_set():
                    self.held.set()
                    self.open.wait(10)
                client.sendall(data)
        self._close(client, server)

    def _close(self, *ends: socket.socket) -> None:
        self.was_cut.set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self.listener.close()
        self.drop_all()
