"""A protected Django view: its `HttpRequest` (or the request of Django REST Framework) is the payload, its rendered
answer the result.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.http import Http404, HttpRequest
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase

from pyidempotent._calls.function import Function, FunctionCall, modules_above
from pyidempotent._http.client_left import to_its_end
from pyidempotent._http.endpoint import EndpointCall
from pyidempotent._http.rules import REPLAYED, once
from pyidempotent._http.wsgi import is_held_above
from pyidempotent._native import Facts, replayed
from pyidempotent._options import Site
from pyidempotent._values.results import ANSWER, Answer, Outcome, Unstorable, pack_answer, pack_exception
from pyidempotent.django._request import facts_of, held_of, read_body, user_of, user_of_async
from pyidempotent.django._response import AnswerResponse, headers_of, refusal
from pyidempotent.exceptions import IdempotencyError

#: Exceptions that Django makes an answer of, and its status.
_STATUS: dict[type[Exception], int] = {
    Http404: 404,
    PermissionDenied: 403,
    BadRequest: 400,
    SuspiciousOperation: 400,
    MultiPartParserError: 400,
}


def view_call(plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ViewCall | None:
    """A call that was given a request as its first argument, or after ``self``; else None."""
    for value in (*args[:2], *kwargs.values()):
        if isinstance(value, HttpRequest) or _is_rest_request(value):
            return ViewCall(plan, args, kwargs, value, None)
    return None


class ViewCall(EndpointCall):
    """A call of a view."""

    __slots__ = ("_user",)

    way_to_middleware: ClassVar[str] = "as @idempotency_options(...)"

    def __init__(
        self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], request: Any, response: None
    ) -> None:
        super().__init__(plan, args, kwargs, request, response)
        self._user: bytes | None = None

    @property
    def http_request(self) -> HttpRequest:
        """Django's own request, below that of a framework on it."""
        request: HttpRequest = getattr(self.request, "_request", self.request)
        return request

    def request_facts(self) -> Facts:
        """The facts of the request."""
        return facts_of(self.http_request)

    def held(self) -> Site | None:
        """The attempt that the middleware holds for the request."""
        return held_of(self.http_request)

    def is_held_above(self) -> bool:
        """Whether an ASGI application holds the attempt, above this one."""
        return self.plan.takes_key_from_header and is_held_above(self.facts, self.site)

    def user(self) -> bytes | None:
        """The user that Django, or the framework on it, knows."""
        return self._user

    def _wants_user(self) -> bool:
        return not (self.plan.shared or self.plan.by_authorization or self.plan.scope is not None)

    async def prepare(self, run: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Asks for the user; a response that the view returns is rendered. Django cancels a view whose client leaves:
        this one goes on for a while, so that a repeat finds its answer."""
        if self._wants_user():
            self._user = await user_of_async(self.request, self.site, self.plan.name)

        async def rendered() -> Any:
            response = await run()
            if self._is_unrendered(response):
                await sync_to_async(response.render, thread_sensitive=True)()
            return response

        return lambda: to_its_end(rendered(), lambda: self.site.grace)

    def prepare_in_thread(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Asks for the user and renders the response on this thread."""
        if self._wants_user():
            self._user = user_of(self.request, self.site, self.plan.name)

        def rendered() -> Any:
            response = run()
            if self._is_unrendered(response):
                response.render()
            return response

        return rendered

    def _is_unrendered(self, response: Any) -> bool:
        if getattr(response, "is_rendered", True):
            return False
        if _is_rest_request(self.request) and not hasattr(response, "accepted_renderer"):
            # What Django REST Framework does when the view has ended.
            response.accepted_renderer = self.request.accepted_renderer
            response.accepted_media_type = self.request.accepted_media_type
            response.renderer_context = self._rest_view().get_renderer_context()
        return True

    def _rest_view(self) -> Any:
        return self.request.parser_context["view"]

    def fingerprint(self) -> bytes | None:
        """The digest of the request, or as ``fingerprint=`` says. Django's body needs no loop."""
        if self.plan.asks_fingerprint:
            return FunctionCall.fingerprint(self)
        return self.fingerprint_of(read_body(self.http_request, self.facts, self.site.max_request_bytes))

    def verdict(self, outcome: Outcome) -> str:
        """By the status table; what is no answer at all is a failure, which Django itself tells."""
        if outcome.exception is None and not isinstance(outcome.value, HttpResponseBase) and self._answers():
            kind = type(outcome.value).__qualname__
            once(
                self.site,
                logging.ERROR,
                f"{self.plan.name} returned {kind}, which is no HttpResponse: the key is released, and a repeat runs",
            )
            return "fail"
        return super().verdict(outcome)

    def _answers(self) -> bool:
        """Whether Django itself gets what the view returns, not a decorator that makes an answer of it."""
        view = getattr(self.http_request.resolver_match, "func", None)
        cls = getattr(view, "view_class", None)
        if cls is not None:
            view = getattr(cls, (self.http_request.method or "").lower(), None)
        above = modules_above(view, self.plan.wrapper)
        return above is not None and all(name.partition(".")[0] in ("django", "pyidempotent") for name in above)

    def _is_ninjas(self) -> bool:
        """Whether Django Ninja itself gets what the endpoint returns."""
        return hasattr(self.plan.wrapper, "_ninja_operation")

    def status(self, outcome: Outcome) -> int | None:
        """The status that the client sees, as far as a view decides it."""
        error: Any = outcome.exception
        if error is None:
            value = outcome.value
            if self._is_ninjas() and type(value) is tuple and len(value) == 2:
                return value[0] if value[0] in range(100, 600) else None
            return value.status_code if isinstance(value, HttpResponseBase) else None
        if _is_rest_exception(error):
            return int(error.status_code)
        return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None)

    def pack(self, outcome: Outcome) -> bytes:
        """The answer; an exception that Django makes an answer of as one; anything else as a function's."""
        error, response = outcome.exception, outcome.value
        if error is not None and _is_rest_exception(error) and _is_rest_request(self.request):
            return self._pack_answer(self._rest_answer(error))
        if error is not None and self.status(outcome) is not None:
            return pack_exception(error, self.plan.classes, self.stored_exceptions())
        if isinstance(response, HttpResponseBase):
            return self._pack_answer(response)
        try:
            return FunctionCall.pack(self, outcome)
        except Unstorable as error:
            if not self._is_ninjas():
                raise
            raise Unstorable(f"{error}; of Ninja's, @decorate_view(idempotent(...)) stores the answer") from error

    def _pack_answer(self, response: Any) -> bytes:
        if response.streaming:
            raise Unstorable(
                f"a {type(response).__qualname__} is streamed after the view has ended; use the middleware for it"
            )
        answer = Answer(response.status_code, headers_of(response), response.content)
        return pack_answer(answer, self.site.store_set_cookie)

    def _rest_answer(self, error: Exception) -> Any:
        """What Django REST Framework will make of an exception."""
        response = self._rest_view().handle_exception(error)
        if self._is_unrendered(response):
            response.render()
        return response

    def headers(self, outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the answer."""
        response = outcome.value
        return headers_of(response) if isinstance(response, HttpResponseBase) else ()

    def replay(self, payload: bytes) -> Outcome:
        """The stored answer, marked as a replay."""
        if payload[:1] == ANSWER:
            return Outcome(value=AnswerResponse(replayed(payload)))
        outcome = FunctionCall.replay(self, payload)
        error = outcome.exception
        if error is None or self.status(outcome) is None:
            return outcome
        response = response_for_exception(self.http_request, error)
        response[REPLAYED[0].decode()] = REPLAYED[1].decode()
        return Outcome(value=response)

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """Django's own are answers."""
        return (*FunctionCall.stored_exceptions(self), *_STATUS)

    def answer(self, error: IdempotencyError) -> Any:
        """The response to a refusal: of a handler of the project's own where there is one."""
        if _is_rest_request(self.request):
            view = self._rest_view()
            response = view.get_exception_handler()(error, view.get_exception_handler_context())
            if response is not None:
                response.exception = True
                return response
        return refusal(self.http_request, error, self.facts, self.site)


def _is_rest_request(value: Any) -> bool:
    rest = sys.modules.get("rest_framework.request")
    return rest is not None and isinstance(value, rest.Request)


def _is_rest_exception(error: Exception) -> bool:
    rest = sys.modules.get("rest_framework.exceptions")
    return rest is not None and isinstance(error, rest.APIException)
