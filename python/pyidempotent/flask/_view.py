"""A protected Flask view: its request is Flask's current one, its answer is what Flask makes of its value.

Below a decorator of somebody else's, that decorator makes an answer of the value: then the value is stored.

Knows Flask without importing it: inside a request it is imported already.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO
from operator import methodcaller
from typing import TYPE_CHECKING, Any, ClassVar

from pyidempotent._calls.function import Function, FunctionCall, module_of, modules_above
from pyidempotent._http.callers import server_caller, user_caller
from pyidempotent._http.endpoint import ATTEMPT, EndpointCall
from pyidempotent._http.forms import form_content
from pyidempotent._http.rules import REPLAYED, problem_answer, too_large
from pyidempotent._http.wsgi import is_held_above
from pyidempotent._native import Facts, fingerprint_call, replayed
from pyidempotent._options import Site
from pyidempotent._values.results import ANSWER, Answer, Outcome, Unstorable, pack_answer, pack_exception
from pyidempotent.exceptions import IdempotencyError

if TYPE_CHECKING:
    from flask import Flask, Request, Response

#: Where the extension is among an application's.
EXTENSION = "idempotency"

#: How options are given to it, for a message.
WAY_TO_EXTENSION = "as @idempotency.options(...)"


def flask_call(plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FunctionCall | None:
    """A call inside a Flask request: of its view, or of a function that takes its key from it; else None."""
    flask = sys.modules["flask"]
    if not flask.has_request_context():
        return None
    app, request = flask.current_app._get_current_object(), flask.request._get_current_object()
    own, views = inspect.unwrap(plan.function), views_of(app, request)
    if any(inspect.unwrap(view) is own for view in views):
        kind = FlaskViewCall if _is_answer(plan, views) else FlaskValueCall
        return kind(plan, args, kwargs, app, request)
    return FlaskFunctionCall(plan, args, kwargs, app, request) if plan.takes_key_from_header else None


#: Whose decorators let an answer pass as it is.
_PASSING = frozenset(
    {
        "flask",
        "flask_cors",
        "flask_httpauth",
        "flask_jwt_extended",
        "flask_limiter",
        "flask_login",
        "flask_wtf",
        "pyidempotent",
    }
)


def _is_answer(plan: Function, views: list[Any]) -> bool:
    """Whether Flask makes an answer of what a view returns, and no decorator or class of somebody else's."""
    view, *methods = views
    above = modules_above(view, plan.wrapper)
    for method in methods:
        if above is None and (inside := modules_above(method, plan.wrapper)) is not None:
            cls = view.view_class
            # The second name is Flask-RESTX's and Flask-RESTful's.
            around = [*cls.decorators, *getattr(cls, "method_decorators", ()), cls.dispatch_request]
            above = [*inside, *map(module_of, around), *(modules_above(view, None) or ())]
    return above is not None and all(name.partition(".")[0] in _PASSING for name in above)


def views_of(app: Flask, request: Request) -> list[Any]:
    """What answers a request: its view function, and the method of its class, where it is of one."""
    view: Any = app.view_functions.get(request.endpoint or "")
    if view is None:
        return []
    cls = getattr(view, "view_class", None)
    if cls is None:
        return [view]
    named = (getattr(cls, name, None) for name in (request.method.lower(), "dispatch_request"))
    return [view, *(method for method in named if method is not None)]


class FlaskFunctionCall(EndpointCall):
    """A call, inside a Flask request, of a function that is not its view: it has the request's key, its own result."""

    __slots__ = ("_site", "app")

    way_to_middleware: ClassVar[str] = WAY_TO_EXTENSION

    def __init__(
        self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], app: Flask, request: Request
    ) -> None:
        super().__init__(plan, args, kwargs, request, None)
        self.app = app
        extension = app.extensions.get(EXTENSION)
        self._site = plan.site if plan.site.has_backend or extension is None else extension.site_of(plan.site)

    @property
    def site(self) -> Site:
        """The decorator's options, over the extension's backend where they have none."""
        return self._site

    def request_facts(self) -> Facts:
        """The facts of the request."""
        return Facts.of_environ(self.request.environ)

    def held(self) -> Site | None:
        """The options of the attempt that the extension holds for the request."""
        held: Site | None = self.request.environ.get(ATTEMPT)
        return held

    def user(self) -> bytes | None:
        """The user that flask-login knows."""
        return known_user(self.app, self.request, self.site, self.plan.name)

    def answer(self, error: IdempotencyError) -> Any:
        """A function's caller gets the exception."""
        return None

    def fingerprint(self) -> bytes | None:
        """The digest of the arguments, and of the request where the key is its: this may be a view that is not seen,
        below a decorator without ``__wrapped__``."""
        own = FunctionCall.fingerprint(self)
        if self.plan.fingerprint is not None or not self.plan.takes_key_from_header:
            return own
        return fingerprint_call({"arguments": own, "request": self._request_digest()})

    def _request_digest(self) -> bytes:
        """The digest of the request. Flask reads a body without a loop."""
        limit = self.site.max_request_bytes
        self.facts.refuse_declared(limit)
        return self.fingerprint_of(read_body(self.request, limit))

    # All else is as without a request.
    operation = FunctionCall.operation
    verdict = FunctionCall.verdict
    status = FunctionCall.status
    pack = FunctionCall.pack
    headers = FunctionCall.headers
    replay = FunctionCall.replay
    stored_exceptions = FunctionCall.stored_exceptions


class FlaskViewCall(FlaskFunctionCall):
    """A call of a request's view: the request is the payload, the answer the result."""

    __slots__ = ()

    operation = EndpointCall.operation
    verdict = EndpointCall.verdict

    def is_held_above(self) -> bool:
        """Whether an ASGI application holds the attempt, above this one."""
        return self.plan.takes_key_from_header and is_held_above(self.facts, self.site)

    async def prepare(self, run: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """The view then returns the answer that Flask makes of its value."""

        async def rendered() -> Response:
            earlier = len(after_functions())
            return self._render(await run(), earlier)

        return rendered

    def prepare_in_thread(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """What a sync view runs: it returns the answer that Flask makes of its value."""

        def rendered() -> Response:
            earlier = len(after_functions())
            return self._render(run(), earlier)

        return rendered

    def _render(self, value: Any, earlier: int) -> Response:
        """The answer, with what the view adds to it by ``after_this_request``: that is part of it."""
        response = self.app.make_response(value)
        functions = after_functions()
        added, functions[earlier:] = functions[earlier:], []
        for function in added:
            if inspect.iscoroutinefunction(function):
                functions.append(function)  # Flask has the loop for it, later
            else:
                response = function(response)
        return response

    def fingerprint(self) -> bytes | None:
        """The digest of the request, or as ``fingerprint=`` says."""
        return super().fingerprint() if self.plan.asks_fingerprint else self._request_digest()

    def status(self, outcome: Outcome, /) -> int | None:
        """The status that the client sees."""
        error: Any = outcome.exception
        if error is None:
            return int(outcome.value.status_code)
        if not _is_http_exception(error):
            return None
        return int(error.get_response().status_code)

    def pack(self, outcome: Outcome, /) -> bytes:
        """The answer; an HTTP exception as one, for which the application may have a handler."""
        error: Any = outcome.exception
        if error is None:
            return self._pack(outcome.value)
        if not _is_http_exception(error):
            return FunctionCall.pack(self, outcome)
        response = error.response
        if response is not None:
            return self._pack(response)
        return pack_exception(error, self.plan.classes, self.stored_exceptions())

    def _pack(self, response: Response) -> bytes:
        if not response.is_sequence:
            raise Unstorable(
                "a streamed answer is made after the view has ended; protect it with pyidempotent.flask.Idempotency"
            )
        body = b"".join(response.iter_encoded())
        answer = Answer(response.status_code, raw_headers(response), body)
        return pack_answer(answer, self.site.store_set_cookie)

    def headers(self, outcome: Outcome, /) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the answer."""
        return () if outcome.value is None else raw_headers(outcome.value)

    def replay(self, payload: bytes, /) -> Outcome:
        """The stored answer, marked as a replay."""
        if payload[:1] == ANSWER:
            return Outcome(value=response_of(self.app, replayed(payload)))
        outcome = super().replay(payload)
        sys.modules["flask"].after_this_request(_mark_as_replay)
        return outcome

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """The framework's own are answers."""
        return (*super().stored_exceptions(), sys.modules["werkzeug.exceptions"].HTTPException)

    def answer(self, error: IdempotencyError) -> Any:
        """The response to a refusal; ``None`` where it has to be raised: the app has a handler of its own for it."""
        return refusal(self.app, self.request, error, self.site)


class FlaskValueCall(FlaskViewCall):
    """A call of a view below a decorator of somebody else's, like ``marshal_with``, which is given the view's value."""

    __slots__ = ()

    prepare = EndpointCall.prepare
    prepare_in_thread = EndpointCall.prepare_in_thread

    def status(self, outcome: Outcome, /) -> int | None:
        """The status, as far as the view decides it."""
        if outcome.exception is not None or _is_response(outcome.value):
            return super().status(outcome)
        return next((int(part) for part in _beside(outcome.value) if _is_status(part)), 200)

    def pack(self, outcome: Outcome, /) -> bytes:
        """A response whole, anything else as the value it is, or as Flask's JSON has it."""
        value = outcome.value
        if outcome.exception is not None or _is_response(value):
            return super().pack(outcome)
        if type(value) is tuple and value and _is_response(value[0]):
            return self._pack(self.app.make_response(value))
        try:
            return FunctionCall.pack(self, Outcome(value=_plain(value)))
        except Unstorable as error:
            try:
                return FunctionCall.pack(self, Outcome(value=_plain(value, self.app.json)))
            except (TypeError, ValueError, Unstorable):
                raise Unstorable(
                    f"{error}; return what Flask can make an answer of, or protect the request with "
                    "pyidempotent.flask.Idempotency, which stores what the decorators above have made of it"
                ) from error

    def headers(self, outcome: Outcome, /) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the answer, where the view makes it."""
        return super().headers(outcome) if _is_response(outcome.value) else ()

    def answer(self, error: IdempotencyError) -> Any:
        """Raises the refusal as an exception that is an answer: a value would go to the decorator above."""
        response = super().answer(error)
        if response is None or self.app.config["TRAP_HTTP_EXCEPTIONS"]:
            return response
        raise _refused(response, str(error)) from error


def _beside(value: Any) -> tuple[Any, ...]:
    """The status and the headers beside a body, as Flask takes them."""
    return value[1:] if type(value) is tuple and len(value) in (2, 3) else ()


def _is_status(part: Any) -> bool:
    return isinstance(part, int) and not isinstance(part, bool) and 100 <= part <= 599


def _plain(value: Any, json: Any = None) -> Any:
    """A view's value without the classes of werkzeug and of the standard library that beside a body say nothing more.

    Parameters:
        json: of the application, to make a body plain too.
    """
    body = value[0] if _beside(value) else value
    if json is not None:
        body = str(body) if isinstance(body, str) else json.loads(json.dumps(body))
    if not _beside(value):
        return body
    headers = sys.modules["werkzeug.datastructures"].Headers
    plain = [int(part) if _is_status(part) else list(part) if isinstance(part, headers) else part for part in value[1:]]
    return (body, *plain)


def _refused(response: Response, description: str) -> Exception:
    """A refusal as an exception that no handler of HTTP errors writes anew, as the routing's own."""
    bases = sys.modules["werkzeug.exceptions"].HTTPException, sys.modules["werkzeug.routing"].RoutingException
    # The data is for Flask-RESTX, which writes the body anew all the same.
    named = {"code": response.status_code, "data": response.get_json()}
    refused: Exception = type("Refused", bases, named)(description, response)
    return refused


# What the decorator and the extension share.


def refusal(app: Flask, request: Request, error: IdempotencyError, site: Site) -> Response | None:
    """The response to a refusal; ``None`` where the application has a handler of its own for it."""
    kinds = [cls for cls in type(error).__mro__ if cls not in (Exception, BaseException)]
    for name in (*request.blueprints, None):
        handlers = app.error_handler_spec.get(name, {}).get(None, {})
        if any(kind in handlers for kind in kinds):
            return None
    return response_of(app, problem_answer(error, Facts.of_environ(request.environ).path.decode("latin-1"), site))


def response_of(app: Flask, answer: Answer) -> Response:
    """An answer as the application's response."""
    headers = sys.modules["werkzeug.datastructures"].Headers(
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    )
    has_type = "Content-Type" in headers
    response = app.response_class([answer.body], answer.status, headers)
    if not has_type:
        del response.headers["Content-Type"]  # which is added to what has none
    return response


def raw_headers(response: Response) -> list[tuple[bytes, bytes]]:
    """The headers as they are sent.

    Raises:
        ValueError: where they can't be.
    """
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]


def request_context() -> Any:
    """Flask's context of the request, which has the functions of ``after_this_request`` that are to see the answer."""
    return sys.modules["flask.globals"].request_ctx._get_current_object()


def after_functions() -> list[Any]:
    """These functions."""
    functions: list[Any] = request_context()._after_request_functions
    return functions


def known_user(app: Flask, request: Request, site: Site, who: str) -> bytes | None:
    """The user that flask-login knows, if the application has it, or whom the server has authenticated."""
    login = sys.modules.get("flask_login")
    if login is not None and hasattr(app, "login_manager") and login.current_user.is_authenticated:
        user = login.current_user._get_current_object()
        return user_caller(user, methodcaller("get_id"), "a get_id()", site, who)
    return server_caller(request.environ)


#: What Flask takes from the stream where it parses it.
_FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def read_body(request: Request, limit: int) -> tuple[bytes, bytes]:
    """Content type and body, at most ``limit`` bytes; the view can still read it, in any way.

    Raises:
        RuntimeError: where somebody has read it, and nobody knows what it was.
        ClientDisconnected: where it ends before its length.
    """
    environ, seen = request.environ, request.__dict__
    # What is no number, or empty, declares nothing; nor does what stands beside another encoding.
    declared = request.content_length if environ.get("CONTENT_LENGTH", "").isdigit() else None
    content_type = environ.get("CONTENT_TYPE", "").encode("latin-1")
    is_kept, is_parsed, is_touched = "_cached_data" in seen, "form" in seen, "stream" in seen
    if is_parsed and not is_kept and (request.form or request.files or request.mimetype in _FORMS):
        # From the stream, before us: the body is gone, and what it said is there.
        files = request.files.items(multi=True)
        said = [(name, (file.filename, file.content_type, file.stream)) for name, file in files]
        return form_content([*request.form.items(multi=True), *said], limit)
    if is_kept or declared == 0:
        body = request.get_data()
    else:
        body = _read(request.stream, limit + 1 if declared is None else declared)
    if len(body) > limit:
        raise too_large(limit)
    # Parsing leaves what is no form in the stream.
    is_whole = len(body) == declared or (declared is None and (is_kept or is_parsed or not is_touched))
    if not is_whole and not is_touched:
        raise sys.modules["werkzeug.exceptions"].ClientDisconnected
    if not is_whole:
        raise RuntimeError(
            "code that ran before the view has read request.stream, and the payload can't be compared any more; use "
            "request.get_data(), which keeps it"
        )
    request.stream = environ["wsgi.input"] = BytesIO(body)
    return content_type, body


def _read(stream: Any, size: int) -> bytes:
    """So many bytes of a stream, or all that it has."""
    body: bytes = stream.read(size)
    if len(body) in (0, size):
        return body
    chunks, left = [body], size - len(body)
    while left and (chunk := stream.read(left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _is_response(value: Any) -> bool:
    return isinstance(value, sys.modules["werkzeug.wrappers"].Response)


def _is_http_exception(error: Exception) -> bool:
    return isinstance(error, sys.modules["werkzeug.exceptions"].HTTPException)


def _mark_as_replay(response: Response) -> Response:
    name, value = REPLAYED
    response.headers[name.decode()] = value.decode()
    return response
