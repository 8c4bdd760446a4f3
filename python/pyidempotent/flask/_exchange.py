"""A request of a Flask application and its answer, seen from the server's side: what `pyidempotent.flask` stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from pyidempotent._calls.current import CurrentAttempt, _current
from pyidempotent._calls.flow import Flow, enter
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._http.routes import RequestCall
from pyidempotent._http.streams import CapturedParts, Running
from pyidempotent._native import Capture
from pyidempotent._values.results import Answer
from pyidempotent.flask._view import request_context, response_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask, Request, Response

#: Where the exchange is while the application works on a request, in its environ.
EXCHANGE = "pyidempotent.exchange"

#: The statuses whose body WSGI does not read.
_WITHOUT_BODY = frozenset({204, 304, *range(100, 200)})


class Exchange:
    """A request and its answer, seen from the server's side."""

    def __init__(self, app: Flask, start_response: StartResponse) -> None:
        self.running: _Running | None = None
        self._app = app
        self._start_response = start_response
        #: The answer's start, while it is held: until the answer is stored, another one may take its place.
        self._held: tuple[str, list[tuple[str, str]]] | None = None
        self._stream: CapturedParts | None = None
        self._outer: CurrentAttempt | None = None

    def begin(self, call: RequestCall, flow: Flow, attempt: CurrentAttempt, request: Request) -> None:
        """The view is about to run; `current` finds its attempt until the application has done."""
        self._outer = _current.get()
        self.running = _Running(call, flow, attempt)
        request.environ[ATTEMPT] = call.site
        context = request_context()
        context._after_request_functions = _AfterFunctions(self.capture, context._after_request_functions)
        enter(attempt)

    def capture(self, response: Response) -> Response:
        """What is stored: called for every answer that Flask tries (the view's, that of a failure after it)."""
        running = self.running
        assert running is not None
        if running.seen.status is not None:  # of another answer
            self._forget()
        seen, status = running.seen, response.status_code
        try:
            seen.start_text(status, response.headers)
        except UnicodeError as error:  # the application's, and the server will say so
            seen.start(status, [])
            seen.cut = f"it is malformed: {error}"
        if status in _WITHOUT_BODY:
            return response
        if response.is_sequence:
            seen.add(b"".join(response.iter_encoded()))
        else:
            source = response.response
            parts = cast("Iterable[bytes]", source if response.direct_passthrough else response.iter_encoded())
            response.response = self._stream = CapturedParts(running, parts, source)
            # Compression around it may leave it open. It comes before what it reads from is closed.
            response._on_close.insert(0, self._stream.close)
        return response

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The server's, for the application."""
        running = self.running
        if running is None or not running.is_inside or self._streams:
            return self._start_response(status, headers, exc_info)
        self._held = status, list(headers)
        return _write

    def finish(self, parts: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
        """The application has done: its answer is stored, and goes out."""
        running = self.running
        if running is None:
            return parts
        self._leave(running)
        if self._streams:
            return parts
        if self._held is not None and running.seen.status is None:
            running.seen.start(int(self._held[0].split()[0]), [])
            running.seen.cut = "the application has sent it past process_response"
        try:
            instead = running.settle()
        except BaseException:
            _close(parts)
            raise
        if self._held is None:
            return parts
        if instead is not None:
            _close(parts)
            return self._instead(instead)(environ, self._start_response)
        self._start_response(*self._held)
        return parts

    def fail(self, error: BaseException) -> None:
        """The application has raised, before anything went out."""
        running = self.running
        if running is None:
            return
        self._leave(running)
        self._forget()
        if isinstance(error, Exception):
            running.settle(error)
        else:
            running.interrupt()

    @property
    def _streams(self) -> bool:
        """Whether the server reads the body, and the attempt ends with it."""
        return self._stream is not None and self.running is not None and not self.running.is_read

    def _leave(self, running: _Running) -> None:
        running.is_inside = False
        _current.set(self._outer)

    def _forget(self) -> None:
        """What was seen is not the answer."""
        assert self.running is not None
        self.running.seen, self.running.is_read = Capture(self.running.limit), False
        if self._stream is not None:
            self._stream.forget()
            self._stream = None

    def _instead(self, answer: Answer) -> Response:
        """Another attempt's answer, with what the application adds to every answer after the capture."""
        assert self.running is not None
        assert self._held is not None
        response = response_of(self._app, answer)
        ours = {name.lower() + b":" + value for name, value in self.running.seen.headers}
        for name, value in self._held[1]:
            if name.lower() != "content-length" and f"{name.lower()}:{value}".encode("latin-1") not in ours:
                response.headers.add(name, value)
        return response


def _write(_: bytes) -> None:
    raise RuntimeError("WSGI's write() can't be captured; return the parts of a protected answer")


def _close(parts: Any) -> None:
    if hasattr(parts, "close"):
        parts.close()


class _AfterFunctions(list[Any]):
    """The functions of ``after_this_request``: those of the view, then the capture, then those from before the view.

    What the last ones add is of this request, not of the answer: they see every replay too.
    """

    def __init__(self, capture: Callable[[Response], Response], earlier: list[Any]) -> None:
        super().__init__()
        self._capture = capture
        self._before_view = earlier

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield self._capture
        yield from self._before_view


class _Running(Running):
    """A request that runs. While the application works on it nothing is settled, whatever ends meanwhile."""

    is_inside = True
    #: Whether the body has been read to its end inside of the application.
    is_read = False

    def settle(self, error: Exception | None = None) -> Answer | None:
        """As `Running.settle`, once the application has done."""
        if not self.is_inside:
            return super().settle(error)
        self.is_read = True
        if error is not None:
            self.seen.break_off()
        return None
