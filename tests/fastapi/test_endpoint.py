"""A decorated endpoint under uvicorn, on every store: keys, repeats, conflicts, callers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from clients import Service, is_replay, new_key, refused, same_answer, until
from pyidempotent.backends import open_backend
from servers import RedisServer


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('store')}/idempotency.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture(scope="module")
def app(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service("payments", store, tmp_path_factory.mktemp("app")) as service:
        yield service


@pytest.fixture
def key() -> str:
    return new_key()


PAYING = ["/pay", "/no-request", "/sync", "/plain", "/plain-sync", "/json", "/stream"]


def sent(path: str) -> dict[str, object]:
    return {"json": {"amount": 42}} if path in ("/json", "/stream", "/plain") else {"params": {"amount": 42}}


# Answers.


@pytest.mark.parametrize("path", PAYING)
def test_a_repeat_gets_the_first_answer_and_nothing_runs(app: Service, key: str, path: str) -> None:
    first, again, third = (app.post(path, key, **sent(path)) for _ in range(3))
    assert first.is_success
    assert same_answer(first, again)
    assert same_answer(first, third)
    assert app.runs(key) == 1


def test_a_patch_is_protected_too(app: Service, key: str) -> None:
    first, again = (app.post("/orders/7?amount=1", key, method="PATCH") for _ in range(2))
    assert same_answer(first, again)
    assert app.runs(key) == 1


@pytest.mark.parametrize("path", PAYING)
def test_a_missing_key_is_refused_where_it_is_required(app: Service, path: str) -> None:
    problem = refused(app.post(path, **sent(path)), 400, "key-missing", "none")
    assert "Idempotency-Key" in problem["detail"]


def test_without_a_key_it_runs_every_time_where_it_is_optional(app: Service) -> None:
    before = app.runs("none")
    answers = [app.post("/optional") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() != answers[1].json()
    assert not any(is_replay(answer) for answer in answers)
    assert app.runs("none") == before + 2


def test_an_optional_key_protects(app: Service, key: str) -> None:
    first, again = (app.post("/optional", key) for _ in range(2))
    assert same_answer(first, again)
    assert app.runs(key) == 1


MALFORMED = ["", "a" * 256, '"unclosed', 'two, "lines"', "white space", "k;", '""', "ümlaut"]


@pytest.mark.parametrize("path", ["/pay", "/optional", "/sync", "/plain"])
@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_key_is_refused_even_where_it_is_optional(app: Service, path: str, value: str) -> None:
    headers = httpx.Headers([(b"idempotency-key", value.encode("latin-1"))])
    answer = app.client.post(path, params={"amount": 1}, headers=headers)
    refused(answer, 400, "key-invalid", "none")
    assert app.runs(value) == 0


def test_two_header_lines_are_refused(app: Service, key: str) -> None:
    lines = [("Idempotency-Key", key), ("Idempotency-Key", key)]
    refused(app.client.post("/optional", headers=lines), 400, "key-invalid", "none")
    assert app.runs(key) == 0


def test_a_quoted_key_is_the_bare_one(app: Service, key: str) -> None:
    first, again = (app.post("/pay?amount=1", sent) for sent in (key, f'"{key}"'))
    assert same_answer(first, again)


# Other payloads.


@pytest.mark.parametrize("path", ["/pay", "/sync", "/plain", "/no-request"])
def test_another_query_is_a_conflict_and_the_first_answer_stays(app: Service, key: str, path: str) -> None:
    first = app.post(path, key, params={"amount": 1})
    refused(app.post(path, key, params={"amount": 2}), 422, "conflict", "none")
    assert same_answer(first, app.post(path, key, params={"amount": 1}))
    assert app.runs(key) == 1


@pytest.mark.parametrize("path", ["/json", "/stream", "/plain"])
def test_another_body_is_a_conflict_where_the_endpoint_reads_it_itself(app: Service, key: str, path: str) -> None:
    first = app.post(path, key, json={"amount": 1})
    refused(app.post(path, key, json={"amount": 2}), 422, "conflict", "none")
    assert same_answer(first, app.post(path, key, json={"amount": 1}))
    assert first.json()["got"] in ({"amount": 1}, '{"amount":1}')
    assert app.runs(key) == 1


def test_another_content_type_is_a_conflict(app: Service, key: str) -> None:
    app.post("/plain", key, content="1", headers={"content-type": "text/plain"})
    other = app.post("/plain", key, content="1", headers={"content-type": "application/json"})
    refused(other, 422, "conflict", "none")


# While the first still runs.


@pytest.mark.parametrize("path", ["/slow", "/slow-sync"])
def test_a_repeat_is_told_that_the_first_still_runs(app: Service, key: str, path: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.post, path, key, params={"amount": 1})
        app.has_begun(key)
        refused(app.post(path, key, params={"amount": 1}), 409, "processing", "running", retry_after=True)
        refused(app.post(path, key, params={"amount": 2}), 422, "conflict", "none")
        app.open(key)
    assert same_answer(first.result(), app.post(path, key, params={"amount": 1}))
    assert app.runs(key) == 1


def test_of_fifty_at_once_one_runs(app: Service, key: str) -> None:
    with ThreadPoolExecutor(50) as pool:
        pending = [pool.submit(app.post, "/slow", key, params={"amount": 1}) for _ in range(50)]
        app.has_begun(key)
        told = until(lambda: (done := [each.result() for each in pending if each.done()]) and len(done) == 49 and done)
        app.open(key)
        answers = [each.result() for each in pending]
    for answer in told:
        refused(answer, 409, "processing", "running", retry_after=True)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    assert app.runs(key) == 1


def test_a_repeat_that_waits_gets_the_first_answer(app: Service, key: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(app.post, "/waits", key, params={"amount": 1}) for _ in range(8)]
        app.has_begun(key)
        app.open(key)
        answers = [each.result() for each in pending]
    assert len({answer.content for answer in answers}) == 1
    assert sorted(is_replay(answer) for answer in answers) == [False] + [True] * 7
    assert app.runs(key) == 1


def test_a_client_that_drops_and_retries_is_told_and_then_gets_the_answer(app: Service, key: str) -> None:
    with httpx.Client(base_url=app.url) as impatient, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(impatient.post, "/slow?amount=1", headers={"Idempotency-Key": key}, timeout=0.5)
        app.has_begun(key)
        assert isinstance(lost.exception(), httpx.ReadTimeout)
    refused(app.post("/slow?amount=1", key), 409, "processing", "running", retry_after=True)
    app.open(key)
    answer = until(lambda: (again := app.post("/slow?amount=1", key)).is_success and again)
    assert is_replay(answer)
    assert app.runs(key) == 1


def test_after_its_ttl_a_key_runs_again(app: Service, key: str) -> None:
    first = app.post("/brief", key)
    again = until(lambda: not is_replay(answer := app.post("/brief", key)) and answer)
    assert again.is_success
    assert again.json() != first.json()
    assert app.runs(key) == 2


# What is stored.


@pytest.mark.parametrize("status", [200, 201, 302, 400, 402, 404, 409, 422])
def test_an_answer_below_500_is_replayed(app: Service, key: str, status: int) -> None:
    first, again = (app.post(f"/answers/{status}", key) for _ in range(2))
    assert first.status_code == status
    assert same_answer(first, again)
    assert app.runs(key) == 1


@pytest.mark.parametrize("status", [401, 403, 405, 408, 425, 429, 500, 503])
def test_a_passing_status_releases_the_key(app: Service, key: str, status: int) -> None:
    first, again = (app.post(f"/answers/{status}", key) for _ in range(2))
    assert (first.status_code, again.status_code) == (status, status)
    assert not is_replay(again)
    assert app.runs(key) == 2


@pytest.mark.parametrize("path", ["/fails", "/fails-sync"])
@pytest.mark.parametrize("status", [0, 401, 429, 500, 503])
def test_a_handler_that_raises_releases_the_key(app: Service, key: str, path: str, status: int) -> None:
    first = app.post(path, key, params={"status": status})
    assert first.status_code == (status or 500)
    retry = app.post(path, key, params={"status": status})
    assert (retry.status_code, is_replay(retry)) == (200, False)
    assert same_answer(retry, app.post(path, key, params={"status": status}))
    assert app.runs(key) == 2


@pytest.mark.parametrize("path", ["/fails", "/fails-sync"])
def test_a_raised_404_is_an_answer(app: Service, key: str, path: str) -> None:
    first, again = (app.post(f"{path}?status=404", key) for _ in range(2))
    assert (first.status_code, first.json()) == (404, {"detail": "at first"})
    assert same_answer(first, again)
    assert app.runs(key) == 1


@pytest.mark.parametrize("status", [0, 500, 503])
def test_under_refuse_a_failure_is_unknown_until_an_operator_resolves_it(
    app: Service, store: str, key: str, status: int
) -> None:
    path = f"/fails-refuse?status={status}"
    assert app.post(path, key).status_code == (status or 500)
    refused(app.post(path, key), 409, "unknown", "unknown")
    refused(app.post("/fails-refuse?status=1", key), 422, "conflict", "none")
    assert app.runs(key) == 1
    if store == "memory://":
        return  # in the memory of the other process
    backend = open_backend(store)
    record = backend.get(key, operation=("POST", "/fails-refuse"))
    assert record is not None
    assert record.state == "unknown"
    assert backend.resolve(key, operation=("POST", "/fails-refuse"), fence=record.fence)
    assert app.post(path, key).is_success
    assert app.runs(key) == 2


def test_under_refuse_a_401_is_no_failure(app: Service, key: str) -> None:
    assert app.post("/fails-refuse?status=401", key).status_code == 401
    assert app.post("/fails-refuse?status=401", key).is_success


@pytest.mark.parametrize("status", [0, 500])
def test_a_handler_that_declares_that_nothing_happened_frees_the_key(app: Service, key: str, status: int) -> None:
    assert app.post(f"/releases?status={status}", key).status_code == 500
    other = app.post("/releases?status=401", key)  # any payload may claim a free key
    assert (other.status_code, is_replay(other)) == (200, False)
    assert app.runs(key) == 2


# Whose key, and for what.


def test_the_same_key_on_another_operation_is_another_key(app: Service, key: str) -> None:
    paid, refunded = app.post("/pay?amount=1", key), app.post("/refund?amount=1", key)
    assert (list(paid.json()), list(refunded.json())) == (["charged", "receipt"], ["refunded", "receipt"])
    assert (
        app.post("/orders/1?amount=1", key, method="PATCH").json()
        != app.post("/orders/2?amount=1", key, method="PATCH").json()
    )
    assert app.runs(key) == 4


def test_a_named_operation_is_the_same_under_another_path(app: Service, key: str) -> None:
    first = app.post("/named/v1?amount=1", key)
    refused(app.post("/named/v2?amount=1", key), 422, "conflict", "none")
    assert same_answer(first, app.post("/named/v1?amount=1", key))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": token}


def test_callers_named_by_a_dependency_do_not_read_each_others_answers(app: Service, key: str) -> None:
    alice = app.post("/transfers?amount=1", key, headers=bearer("alice old"))
    bob = app.post("/transfers?amount=1", key, headers=bearer("bob old"))
    assert (alice.json()["from"], bob.json()["from"]) == ("alice", "bob")
    assert not is_replay(bob)
    # A refreshed token is the same caller.
    assert same_answer(alice, app.post("/transfers?amount=1", key, headers=bearer("alice fresh")))
    assert app.runs(key) == 2


def test_a_dependency_that_raises_is_not_ours(app: Service, key: str) -> None:
    answers = [app.post("/transfers?amount=1", key, headers=bearer("nobody")) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"detail": "who?"}] * 2
    assert not is_replay(answers[1])
    assert app.runs(key) == 0


def test_by_authorization_tells_tokens_apart(app: Service, key: str) -> None:
    one, two = (app.post("/by-authorization?amount=1", key, headers=bearer(token)) for token in ("a", "b"))
    assert one.json() != two.json()
    assert same_answer(one, app.post("/by-authorization?amount=1", key, headers=bearer("a")))


def test_shared_callers_share(app: Service, key: str) -> None:
    first, again = (app.post("/shared?amount=1", key, headers=bearer(token)) for token in ("a", "b"))
    assert same_answer(first, again)


@pytest.mark.parametrize("path", ["/pay", "/sync", "/plain"])
@pytest.mark.parametrize("header", ["Authorization", "Proxy-Authorization"])
def test_credentials_without_a_scope_are_refused_and_the_log_says_what_to_set(
    app: Service, key: str, path: str, header: str
) -> None:
    for _ in range(2):
        answer = app.post(path, key, params={"amount": 1}, headers={header: "Bearer x"})
        problem = refused(answer, 500, "scope-missing", "none")
        assert "Bearer" not in str(problem)
    assert app.runs(key) == 0
    name = {"/pay": "pay", "/sync": "pay_on_a_thread", "/plain": "plain"}[path]
    (line,) = [
        line for line in app.output().splitlines() if line.startswith(f"payments.{name}: a request names a caller")
    ]
    for way_out in ("scope=", "by_authorization", "shared"):
        assert way_out in line


# Requests that never reach the endpoint.


def test_a_request_that_does_not_validate_is_fastapis_own_422(app: Service, key: str) -> None:
    answer = app.post("/pay?amount=many", key)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert answer.json()["detail"][0]["loc"] == ["query", "amount"]
    assert app.post("/pay?amount=1", key).is_success  # the key was not touched
