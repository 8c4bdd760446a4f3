"""What a decorated endpoint may answer, take and be made of; under uvicorn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from clients import Service, is_replay, new_key, refused, same_answer, until
from servers import RedisServer


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("app")
    store = f"sqlite:///{folder}/idempotency.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        store = server.url
    with Service("answers", store, folder) as service:
        yield service


@pytest.fixture
def key() -> str:
    return new_key()


def twice(app: Service, path: str, key: str, **more: Any) -> tuple[httpx.Response, httpx.Response]:
    answers = app.post(path, key, **more), app.post(path, key, **more)
    assert app.runs(key) == 1
    return answers


VALUES = ["dict", "list", "none", "text", "response-model", "created", "no-content", "dataclass", "html", "model"]


@pytest.mark.parametrize("kind", VALUES)
def test_a_returned_value_is_replayed_as_it_was_rendered(app: Service, key: str, kind: str) -> None:
    first, again = twice(app, f"/values/{kind}", key)
    assert first.status_code == {"created": 201, "no-content": 204}.get(kind, 200)
    assert same_answer(first, again)


def test_several_models_are_replayed(app: Service, key: str) -> None:
    first, again = app.post("/values/models", key), app.post("/values/models", key)
    assert len(first.json()) == 2
    assert same_answer(first, again)
    assert app.runs(key) == 2  # one run makes two


def test_a_response_model_filters_the_replay_too(app: Service, key: str) -> None:
    first, again = twice(app, "/values/response-model", key)
    assert sorted(first.json()) == sorted(again.json()) == ["at", "number"]


RESPONSES = {"json": 201, "html": 203, "redirect": 303, "bytes": 200, "empty": 204, "duplicates": 200, "cookie": 200}


@pytest.mark.parametrize(("kind", "status"), RESPONSES.items())
def test_a_response_is_replayed_byte_for_byte(app: Service, key: str, kind: str, status: int) -> None:
    first, again = twice(app, f"/responses/{kind}", key)
    assert first.status_code == status
    assert same_answer(first, again)


def test_duplicate_headers_stay_in_order_and_any_bytes_survive(app: Service, key: str) -> None:
    for answer in twice(app, "/responses/duplicates", key):
        assert answer.headers.get_list("link") == ["</a>; rel=next", "</b>; rel=last"]
        assert (b"x-bytes", b"caf\xe9 \xff") in answer.headers.raw


def test_transient_headers_and_cookies_are_not_replayed(app: Service, key: str) -> None:
    first, again = twice(app, "/responses/transient", key)
    assert {"set-cookie", "keep-alive", "x-hop", "x-lasting"} <= set(first.headers)
    assert not {"set-cookie", "keep-alive", "x-hop"} & set(again.headers)
    assert again.headers["x-lasting"] == "1"
    assert again.content == first.content
    assert int(again.headers["content-length"]) == len(again.content)


def test_a_raised_answer_is_replayed_with_its_headers_without_the_transient_ones(app: Service, key: str) -> None:
    first, again = twice(app, "/responses/raised", key)
    assert (first.status_code, first.headers["set-cookie"]) == (402, "a=b")
    assert again.headers["x-why"] == "poor"
    assert same_answer(first, again, but=("date", "set-cookie"))
    assert "set-cookie" not in again.headers
    assert "long ago" not in again.headers.get_list("date")


def test_the_injected_responses_status_and_headers_are_replayed(app: Service, key: str) -> None:
    first, again = twice(app, "/responses/injected", key)
    assert (first.status_code, first.headers["x-number"]) == (202, first.json()["seen"])
    assert same_answer(first, again, but=("date", "set-cookie"))
    assert "set-cookie" in first.headers
    assert "set-cookie" not in again.headers


def test_a_stream_arrives_whole_and_is_not_kept(app: Service, key: str) -> None:
    first = app.post("/responses/stream", key)
    assert (first.status_code, len(first.content)) == (201, 40 * 65536)
    assert first.content == b"".join(bytes([number]) * 65536 for number in range(40))
    problem = refused(app.post("/responses/stream", key), 410, "not-kept", "done")
    assert (problem["answer_status"], problem["location"]) == (201, "/streams/1")
    assert app.runs(key) == 1
    assert "use the middleware" in app.output()


# Forms.


def test_a_form_is_replayed_and_another_one_is_a_conflict(app: Service, key: str) -> None:
    first, again = twice(app, "/form", key, data={"name": "a", "amount": "1"})
    assert same_answer(first, again)
    refused(app.post("/form", key, data={"name": "a", "amount": "2"}), 422, "conflict", "none")
    refused(app.post("/form", key, data={"amount": "1", "name": "a"}), 422, "conflict", "none")


@pytest.mark.parametrize("path", ["/upload", "/upload-sync", "/form-itself"])
def test_a_rebuilt_multipart_request_is_the_same_request(app: Service, key: str, path: str) -> None:
    def send(content: bytes = b"\x00--", name: str = "a.bin", title: str = "t", kind: str = "x/y") -> httpx.Response:
        return app.post(path, key, data={"title": title}, files={"file": (name, content, kind)})

    first, again = send(), send()
    assert first.is_success
    assert first.request.headers["content-type"] != again.request.headers["content-type"]  # another boundary
    assert same_answer(first, again)
    for other in (send(b"\x00-+"), send(b""), send(name="b.bin"), send(title="u"), send(kind="x/z")):
        refused(other, 422, "conflict", "none")
    assert app.runs(key) == 1


def test_an_endpoint_still_reads_what_was_uploaded(app: Service, key: str) -> None:
    big = b"x" * 3_000_000  # rolled over to a file on disk
    first = app.post("/upload", key, data={"title": "t"}, files={"file": ("a", big)})
    assert first.json()["size"] == len(big)
    refused(app.post("/upload", key, data={"title": "t"}, files={"file": ("a", big + b"y")}), 422, "conflict", "none")


# What an endpoint may be made of.


def test_a_parsed_body_is_compared_as_it_was_sent(app: Service, key: str) -> None:
    body = '{"number": "7", "at": "2026-01-01T00:00:00Z"}'
    sent = {"headers": {"content-type": "application/json"}}
    first, again = twice(app, "/model-body", key, content=body, **sent)
    assert first.json()["of"] == "7"
    assert same_answer(first, again)
    refused(app.post("/model-body", key, content=body.replace(": ", ":"), **sent), 422, "conflict", "none")


def test_dependencies_run_every_time_and_are_no_part_of_the_payload(app: Service, key: str) -> None:
    first = app.post("/depends/7?amount=2", key, headers={"X-User": key})
    again = app.post("/depends/7?amount=2", key, headers={"X-User": key})
    other = app.post("/depends/7?amount=2", key, headers={"X-User": f"{key}-2"})
    assert {**first.json(), "number": ""} == {"order": 7, "amount": 2, "user": key.upper(), "twice": 8, "number": ""}
    assert same_answer(first, again)
    assert same_answer(first, other)
    until(lambda: app.runs(f"close {key}") == 2 and app.runs(f"close {key}-2") == 1)
    assert (app.runs(f"open {key}"), app.runs(key)) == (2, 1)


@pytest.mark.parametrize("path", ["/background?amount=1", "/background/response"])
def test_background_tasks_run_with_the_first_answer_only(app: Service, key: str, path: str) -> None:
    first, again = twice(app, path, key)
    assert same_answer(first, again)
    app.post(path, new_key())
    until(lambda: app.runs(f"task of {key}"))
    assert app.runs(f"task of {key}") == 1


MADE_OF = ["/methods/pay", "/methods/thread", "/methods/call", "/router/orders/7", "/eu/pay"]


@pytest.mark.parametrize("path", MADE_OF)
def test_methods_routers_and_mounted_apps_are_protected(app: Service, key: str, path: str) -> None:
    first, again = twice(app, path, key, params={"amount": 1})
    assert first.json()["amount"] == 1
    assert same_answer(first, again)
    refused(app.post(path, key, params={"amount": 2}), 422, "conflict", "none")
    refused(app.post(path, params={"amount": 1}), 400, "key-missing", "none")


def test_a_method_of_starlettes_endpoint_class_is_protected(app: Service, key: str) -> None:
    first, again = twice(app, "/methods/endpoint", key, json={"a": 1})
    assert first.json()["body"] == {"a": 1}
    assert same_answer(first, again)
    refused(app.post("/methods/endpoint", key, json={"a": 2}), 422, "conflict", "none")


def test_the_same_path_behind_two_mounts_is_two_operations(app: Service, key: str) -> None:
    answers = [app.post(f"{mount}/pay?amount=1", key) for mount in ("/eu", "/us")]
    assert answers[0].json() != answers[1].json()
    assert not is_replay(answers[1])
    assert app.runs(key) == 2
