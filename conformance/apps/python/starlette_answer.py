"""A run's answer as a response of Starlette, for the faces that stand on it."""

from collections.abc import AsyncIterator, Iterator

from handler import Handler
from starlette.responses import Response, StreamingResponse


def answer_of(handler: Handler, body: bytes, chunks: AsyncIterator[bytes] | Iterator[bytes]) -> Response:
    status, headers, content = handler.answer(body)
    answer = Response(content, status) if handler.stream is None else StreamingResponse(chunks, status)
    answer.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    if handler.stream is None and status not in (204, 304):
        answer.raw_headers.append((b"content-length", b"%d" % len(content)))
    return answer
