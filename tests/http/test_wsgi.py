"""What a request's WSGI environ says of it, server by server."""

from __future__ import annotations

from typing import Any

import pytest

from pyidempotent._native import Facts


def facts(**environ: Any) -> Any:
    return Facts.of_environ({"REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/", **environ})


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"RAW_URI": "/a%2Fb?c=%2F", "PATH_INFO": "/a/b"}, b"/a%2Fb"),  # gunicorn, Werkzeug
        ({"REQUEST_URI": "/caf\xc3\xa9"}, b"/caf\xc3\xa9"),  # uWSGI, mod_wsgi; bytes as they came
        ({"RAW_URI": "//a//b"}, b"//a//b"),
        ({"RAW_URI": "http://shop.example/a?b=http://c/d"}, b"/a"),
        ({"RAW_URI": "http://shop.example"}, b"/"),
        ({"RAW_URI": "*", "PATH_INFO": "/a"}, b"/a"),
        ({"RAW_URI": "/mount/a", "SCRIPT_NAME": "/mount", "PATH_INFO": "/a"}, b"/mount/a"),
        # Servers that do not tell it: as everywhere, encoded again.
        ({"SCRIPT_NAME": "/mount", "PATH_INFO": "/caf\xc3\xa9 \x00~"}, b"/mount/caf%C3%A9%20%00~"),
        ({"RAW_URI": "", "PATH_INFO": "/a"}, b"/a"),
    ],
)
def test_the_path_is_the_one_that_the_client_sent(environ: dict[str, str], path: bytes) -> None:
    assert facts(**environ).path == path


def test_headers() -> None:
    found = facts(
        HTTP_X_USER="caf\xe9",
        HTTP_IDEMPOTENCY_KEY="a,b",
        CONTENT_TYPE="text/plain",
        CONTENT_LENGTH="",
        REMOTE_ADDR="::1",
    )
    assert list(found.headers) == [
        (b"x-user", b"caf\xe9"),
        (b"idempotency-key", b"a,b"),
        (b"content-type", b"text/plain"),
    ]
    assert (found.query, facts(QUERY_STRING="a=%20\xe9").query) == (b"", b"a=%20\xe9")
