"""Django's response: what is stored of it, and what a stored answer looks like as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders

from pyidempotent._http.rules import Headers, problem_answer
from pyidempotent._native import Facts
from pyidempotent._options import Site
from pyidempotent._values.results import Answer
from pyidempotent.django._configuration import exception_handler
from pyidempotent.exceptions import IdempotencyError


class AnswerResponse(HttpResponse):
    """A response with the headers of an answer and no others, several lines of one name included.

    Parameters:
        answer: the answer.

    >>> answer = Answer(201, [(b"link", b"<a>"), (b"link", b"<b>")], b"")
    >>> response = AnswerResponse(answer)
    >>> response["Link"], list(response.items())
    ('<a>, <b>', [('link', '<a>'), ('link', '<b>')])
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body, status=answer.status)
        self._lines: dict[str, list[str]] = {}
        for name, value in answer.headers:
            self._lines.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        self.headers = ResponseHeaders({name: ", ".join(lines) for name, lines in self._lines.items()})

    def items(self) -> Iterable[tuple[str, str]]:
        """The headers, as a server sends them."""
        for name, value in super().items():
            lines = self._lines.get(name, ())
            # Whoever has changed it since has had its whole value.
            if value == ", ".join(lines):
                yield from ((name, line) for line in lines)
            else:
                yield name, value


def lines_of(response: HttpResponseBase) -> list[tuple[str, str]]:
    """The headers as they are sent."""
    lines = list(response.items())
    if response.cookies:
        lines += [("Set-Cookie", morsel.output(header="").strip()) for morsel in response.cookies.values()]
    return lines


def headers_of(response: HttpResponseBase) -> Headers:
    """The headers as they are sent, as bytes."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines_of(response)]


def refusal(request: HttpRequest, error: IdempotencyError, facts: Facts, site: Site) -> Any:
    """The response to a refusal: of the project's own handler where it has one, or the problem document."""
    handler = exception_handler()
    response = None if handler is None else handler(request, error)
    if response is None:
        return AnswerResponse(problem_answer(error, facts.path.decode("latin-1"), site))
    if not isinstance(response, HttpResponseBase):
        kind = type(response).__qualname__
        raise TypeError(f"EXCEPTION_HANDLER must return an HttpResponse, or None for the problem document, not {kind}")
    return response
