"""`IdempotencyMiddleware`: stores and replays whole answers, sync or async as what it stands around.

1. When the view of a POST or PATCH is known (``process_view``), its options are too: what stands above has had its
   word on the request (CSRF, login), and the key is claimed. Everything else passes.
2. The answer is taken when it comes back, as what stands below has left it: the view's transaction has ended. A replay
   passes what stands below as well, which can't change it.
3. A stream is captured while it goes out; the part that ends it is held until the record is stored.
4. Where the client leaves, Django cancels a request on ASGI: one that holds a key goes on for ``disconnect_grace``, so
   that a repeat finds its answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from pyidempotent._calls.current import CurrentAttempt, _current
from pyidempotent._calls.flow import Flow, advance, advance_async, enter, protect
from pyidempotent._http.client_left import to_its_end
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._http.routes import Plan, RequestCall, Routes
from pyidempotent._http.rules import SAFE_METHODS, who_of
from pyidempotent._http.streams import AsyncCapturedParts, CapturedParts, Running
from pyidempotent._http.wsgi import environ_name, is_held_above
from pyidempotent._native import Facts
from pyidempotent._values.results import Answer, Outcome
from pyidempotent.django._configuration import configuration
from pyidempotent.django._marks import EXEMPT, KEY_HEADERS, SEEN, marks_of
from pyidempotent.django._request import facts_of, held_of, read_body, user_of, user_of_async
from pyidempotent.django._response import AnswerResponse, headers_of, lines_of, refusal
from pyidempotent.exceptions import IdempotencyError

__all__ = ["IdempotencyMiddleware"]

#: Where a request that is protected has its `_Answered` or `_Running`, in its ``META``.
STATE = "pyidempotent.state"


class IdempotencyMiddleware:
    """Protects the requests of a Django project, as the ``PYIDEMPOTENT`` setting and the marks of its views say.

    Put it last in ``MIDDLEWARE``.

    Parameters:
        get_response: what it stands around.

    Raises:
        ImproperlyConfigured: where the setting is wrong; ``manage.py check`` says the same.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.routes = configuration().routes
        self._marked = functools.lru_cache(1024)(_marked_plan)
        plans = [self.routes.default, *(plan for _, plan in self.routes.patterns if plan is not None)]
        self._key_headers = {environ_name(plan.site.header) for plan in plans}
        self._has_key_callable = any("key" in plan.asked for plan in plans)
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
            self.process_view = self._process_view_async  # type: ignore[method-assign]  # Django asks whether it is async

    def __call__(self, request: HttpRequest) -> Any:
        """Serves one request."""
        if request.method in SAFE_METHODS:
            return self.get_response(request)
        return self._serve_async(request) if self.is_async else self._serve(request)

    def _serve(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = self.get_response(request)
        except BaseException as error:
            if (state := request.META.pop(STATE, None)) is not None:
                state.fail(error)
            raise
        state = request.META.pop(STATE, None)
        return response if state is None else state.end(response)

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        if self._may_have_key(request):
            return await to_its_end(self._finish_async(request), functools.partial(_time_left, request))
        return await self._finish_async(request)

    async def _finish_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = await self.get_response(request)
        except BaseException as error:
            if (state := request.META.pop(STATE, None)) is not None:
                await state.fail_async(error)
            raise
        state = request.META.pop(STATE, None)
        return response if state is None else await state.end_async(response)

    def _may_have_key(self, request: HttpRequest) -> bool:
        headers = request.META
        return self._has_key_callable or any(name in headers for name in (*self._key_headers, *KEY_HEADERS))

    # When the view is known.

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> Any:
        """Claims the key, or answers in the view's place."""
        plan = self._plan_for(request, view)
        if plan is None:
            return None
        facts = facts_of(request)
        if "key" not in plan.asked and is_held_above(facts, plan.site):
            return None
        call = _Request(plan, facts, request)
        try:
            call.ask(request)
            if call.wants_user:
                call.known_user = user_of(request, plan.site, who_of(call.facts))
            flow = protect(call)
            begun = advance(call, flow, None, _Request.read)
        except IdempotencyError as error:
            return _answered(request, refusal(request, error, call.facts, plan.site))
        return call.begin(flow, begun)

    async def _process_view_async(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> Any:
        plan = self._plan_for(request, view)
        if plan is None:
            return None
        call = _Request(plan, facts_of(request), request)
        try:
            await call.ask_async(request)
            if call.wants_user:
                call.known_user = await user_of_async(request, plan.site, who_of(call.facts))
            flow = protect(call)
            begun = await advance_async(call, flow, None, _Request.read_async)
        except IdempotencyError as error:
            return _answered(request, refusal(request, error, call.facts, plan.site))
        return call.begin(flow, begun)

    def _plan_for(self, request: HttpRequest, view: Any) -> Plan | None:
        """The options of a request that is to be protected."""
        if request.method in SAFE_METHODS:
            return None
        request.META[SEEN] = marks = marks_of(view)
        plan = plan_of(view, marks, request.path, self.routes, self._marked)
        if (
            plan is None
            or request.method not in plan.methods
            or not _concerns(plan, request)
            or held_of(request) is not None
        ):
            return None
        return plan


def _marked_plan(view: Any, plan: Plan) -> Plan:
    return Plan({**plan.options, **marks_of(view)})


def plan_of(
    view: Any, marks: Any, path: str, routes: Routes, marked: Callable[[Any, Plan], Plan] = _marked_plan
) -> Plan | None:
    """The options of a view at a path: its marks over its path's; None: it is left out."""
    if getattr(view, EXEMPT, False):
        return None
    plan = routes.plan_for(path)
    return marked(view, plan or routes.default) if marks else plan


def _concerns(plan: Plan, request: HttpRequest) -> bool:
    site = plan.site
    return site.required or "key" in plan.asked or environ_name(site.header) in request.META


def _time_left(request: HttpRequest) -> float:
    """How many seconds a request goes on whose client has left: none, unless it holds a key."""
    state = request.META.get(STATE)
    return state.time_left() if isinstance(state, _Running) else 0.0


class _Request(RequestCall):
    """A request on its way to its view."""

    __slots__ = ("known_user", "request")

    def __init__(self, plan: Plan, facts: Facts, request: HttpRequest) -> None:
        self.request = request
        self.known_user: bytes | None = None

    @property
    def wants_user(self) -> bool:
        """Whether the framework's user is the caller."""
        return not self.plan.shared and "scope" not in self.plan.asked

    def user(self) -> bytes | None:
        """The user that Django knows."""
        return self.known_user

    def read(self) -> tuple[bytes, bytes]:
        """Content type and body."""
        return read_body(self.request, self.facts, self.site.max_request_bytes)

    async def read_async(self) -> tuple[bytes, bytes]:
        """Content type and body. Django reads a body without a loop."""
        return self.read()

    def begin(self, flow: Flow, begun: Any) -> Any:
        """Leaves word of what began; the answer where there is one already."""
        if type(begun) is Outcome:
            return _answered(self.request, AnswerResponse(begun.value))
        if begun is not None:
            self.request.META[ATTEMPT] = self.site
            self.request.META[STATE] = _Running(self, flow, begun)
        return None


class _Answered:
    """A request that is answered in its view's place."""

    def __init__(self, response: HttpResponseBase) -> None:
        self.response = response

    def fail(self, error: BaseException) -> None:
        """Nothing ran."""

    async def fail_async(self, error: BaseException) -> None:
        """Nothing ran."""

    def end(self, response: HttpResponseBase) -> Any:
        """The answer, whatever what stands below has made of its copy."""
        return _in_place_of(response, self.response)

    async def end_async(self, response: HttpResponseBase) -> Any:
        """The answer, in a loop."""
        return self.end(response)


def _answered(request: HttpRequest, response: Any) -> Any:
    request.META[STATE] = _Answered(response)
    # What stands below gets a copy, and may do with it what it likes.
    return AnswerResponse(Answer(response.status_code, headers_of(response), response.content))


class _Running:
    """A request that runs."""

    def __init__(self, call: _Request, flow: Flow, attempt: CurrentAttempt) -> None:
        self._running = Running(call, flow, attempt)
        self._before = _current.get()
        enter(attempt)

    def fail(self, error: BaseException) -> None:
        """Nothing answered: the request was cancelled, or Django is told to let exceptions through."""
        _current.set(self._before)
        if isinstance(error, Exception):
            self._running.settle(error)
        else:
            self._running.interrupt()

    async def fail_async(self, error: BaseException) -> None:
        """Nothing answered, in a loop: the request was cancelled, or Django is told to let exceptions through."""
        _current.set(self._before)
        if isinstance(error, Exception):
            await self._running.settle_async(error)
        else:
            self._running.interrupt()

    def time_left(self) -> float:
        """How many seconds it goes on, now that its client has left."""
        return self._running.time_left()

    def end(self, response: HttpResponseBase) -> Any:
        """Stores the answer, or has it stored at its end; what goes out.

        Raises:
            TypeError: where there is no answer; the key is released.
        """
        if (error := _no_answer(response)) is not None:
            self.fail(error)
            raise error
        _current.set(self._before)
        return self._captured(response) or _instead(response, self._running.settle())

    async def end_async(self, response: HttpResponseBase) -> Any:
        """Stores the answer in a loop, or has it stored at its end; what goes out."""
        if (error := _no_answer(response)) is not None:
            await self.fail_async(error)
            raise error
        _current.set(self._before)
        return self._captured(response) or _instead(response, await self._running.settle_async())

    def _captured(self, response: Any) -> Any:
        """A stream, captured while it goes out; None where the answer is there."""
        running = self._running
        running.seen.start_text(response.status_code, lines_of(response))
        if not response.streaming:
            running.seen.add(response.content)
            return None
        parts = response.streaming_content
        # Where this is a file, it is read: what a server sends by itself nobody sees.
        captured = AsyncCapturedParts(running, parts) if response.is_async else CapturedParts(running, parts)
        response.streaming_content = captured
        # Before what it reads from is closed.
        response._resource_closers.insert(0, captured.close)
        return response


def _no_answer(response: Any) -> TypeError | None:
    """What is wrong with what a view has returned; None where it is an answer."""
    if isinstance(response, HttpResponseBase):
        return None
    return TypeError(f"the view returned {type(response).__qualname__}, which is no HttpResponse")


def _instead(response: Any, answer: Answer | None) -> Any:
    """The response; or the answer of another attempt, which completed in this one's place."""
    return response if answer is None else _in_place_of(response, AnswerResponse(answer))


def _in_place_of(response: Any, other: Any) -> Any:
    """Another response, which closes what this one would have."""
    if other is not response:
        other._resource_closers.extend(response._resource_closers)
    return other
