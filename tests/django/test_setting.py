"""The PYIDEMPOTENT setting: every mistake has a message of its own; and `manage.py idempotency`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path

from clients import new_key
from django_client import Browser, browser, is_replay, site
from django_site import OURS
from pyidempotent import attempt
from pyidempotent.backends import Backend
from pyidempotent.django import IdempotencyMiddleware, default_backend, idempotency_required

__all__ = ["browser", "site"]

VALID = {"BACKEND": "memory://"}

NOT_A_BACKEND = object()


async def async_handler(request: HttpRequest, error: Exception) -> None: ...


MISTAKES: list[tuple[Any, str, str]] = [
    ("redis://localhost", "E001", "must be a dict, not str"),
    ({"TTL": 60}, "E002", "has no 'BACKEND'"),
    ({**VALID, "TLL": 60}, "E003", "PYIDEMPOTENT['TLL']: there is no such option. Did you mean 'TTL'?"),
    ({**VALID, "ttl": 60}, "E003", "Its name is 'TTL', in capitals"),
    ({**VALID, "WAIT_TIMEOUT": 60}, "E003", "It is called 'WAIT' now"),
    ({**VALID, 7: 60}, "E003", "PYIDEMPOTENT[7]"),
    ({"BACKEND": "rediss:/localhost"}, "E005", "can't be imported"),
    ({"BACKEND": "ftp://localhost"}, "E004", "no backend has URLs with ftp://"),
    ({"BACKEND": 7}, "E004", "must be a backend or a URL"),
    ({"BACKEND": f"{__name__}.NOT_A_BACKEND"}, "E004", "must be a backend or a URL"),
    ({"BACKEND": "sqlite:////no/such/folder/x.db"}, "E004", "there is no folder"),
    ({**VALID, "SCOPE": "shop.who"}, "E005", "PYIDEMPOTENT['SCOPE']: 'shop.who' can't be imported: No module named"),
    ({**VALID, "SETTLE": "who"}, "E005", "'who' can't be imported"),
    ({**VALID, "SCOPE": 7}, "E007", "scope= must be a callable"),
    ({**VALID, "KEY": f"{__name__}.VALID"}, "E006", "PYIDEMPOTENT['KEY'] must be a callable"),
    ({**VALID, "EXCEPTION_HANDLER": f"{__name__}.async_handler"}, "E006", "must be a plain callable"),
    ({**VALID, "TTL": -1}, "E007", "PYIDEMPOTENT['TTL']: ttl must be"),
    ({**VALID, "TTL": "a day"}, "E007", "must be seconds"),
    ({**VALID, "LEASE": 0}, "E007", "lease must be 1 ms or more"),
    ({**VALID, "KEY_FORMAT": "loose"}, "E007", "must be one of 'lenient', 'strict'"),
    ({**VALID, "AFTER_CRASH": "retry"}, "E007", "must be one of 'rerun', 'refuse'"),
    ({**VALID, "MAX_REQUEST_BYTES": -1}, "E007", "must be a number of bytes"),
    ({**VALID, "TTL": 5, "LEASE": 60}, "E008", "must not be longer than ttl"),
    ({**VALID, "ROUTES": ["/pay"]}, "E009", "must be a dict, not list"),
    ({**VALID, "ROUTES": {"pay": None}}, "E010", "'pay' must start with"),
    ({**VALID, "ROUTES": {"/pay": True}}, "E011", "must be a dict of options, or None"),
    ({**VALID, "ROUTES": {"/pay": {"TLL": 1}}}, "E003", "PYIDEMPOTENT['ROUTES']['/pay']['TLL']"),
    ({**VALID, "LEASE": 9, "ROUTES": {"/pay": {"TTL": 5}}}, "E008", "PYIDEMPOTENT['ROUTES']['/pay']: lease"),
]


@pytest.mark.parametrize(("setting", "number", "words"), MISTAKES)
def test_every_mistake_has_its_message(setting: Any, number: str, words: str) -> None:
    with override_settings(PYIDEMPOTENT=setting):
        (message,) = run_checks()
        assert message.id == f"pyidempotent.{number}"
        assert words in f"{message.msg} {message.hint}"
        with pytest.raises(ImproperlyConfigured) as raised:
            IdempotencyMiddleware(lambda request: None)
        assert words in str(raised.value)


def test_several_mistakes_are_told_at_once() -> None:
    with override_settings(PYIDEMPOTENT={"TTL": -1, "SCOPE": "shop.who"}):
        assert sorted(message.id or "" for message in run_checks()) == [
            f"pyidempotent.{number}" for number in ("E002", "E005", "E007")
        ]


def test_what_is_right_is_silent() -> None:
    whole = {
        "BACKEND": "sqlite:///idempotency.db",
        "TTL": 60,
        "LEASE": 10,
        "SCOPE": "pyidempotent.by_authorization",
        "KEY": lambda request: "k",
        "ROUTES": {"/pay": {"TTL": 100, "LEASE": 90, "REQUIRED": True}, "/health": None},
        "EXCEPTION_HANDLER": None,
    }
    for setting in (VALID, whole):
        with override_settings(PYIDEMPOTENT=setting):
            assert run_checks() == []


def test_the_middlewares_place() -> None:
    csrf = "django.middleware.csrf.CsrfViewMiddleware"

    def ids(middleware: list[str]) -> list[str | None]:
        with override_settings(MIDDLEWARE=middleware, PYIDEMPOTENT=VALID):
            return [message.id for message in run_checks()]

    assert ids([csrf, OURS]) == []
    assert ids([OURS, csrf]) == ["pyidempotent.W002"]
    assert ids([csrf]) == ["pyidempotent.W001"]


def test_no_setting() -> None:
    with override_settings(MIDDLEWARE=[]):
        assert run_checks() == []
    assert [message.id for message in run_checks()] == ["pyidempotent.E012"]
    with pytest.raises(ImproperlyConfigured, match="set PYIDEMPOTENT = "):
        IdempotencyMiddleware(lambda request: None)
    assert default_backend() is None
    with pytest.raises(CommandError, match="set PYIDEMPOTENT"):
        call_command("idempotency", "list")


def test_a_deployment_with_records_in_memory() -> None:
    def ids(backend: str) -> list[str | None]:
        with override_settings(PYIDEMPOTENT={"BACKEND": backend}):
            found = [message.id for message in run_checks(include_deployment_checks=True)]
        return [name for name in found if name and name.startswith("pyidempotent")]

    assert ids("memory://") == ["pyidempotent.W003"]
    assert ids("redis://localhost") == []


# manage.py idempotency.


def manage(*arguments: str) -> str:
    written = io.StringIO()
    call_command("idempotency", *arguments, stdout=written, stderr=written)
    return written.getvalue()


@pytest.fixture
def records(backend: Backend, site: None) -> Any:
    with override_settings(PYIDEMPOTENT={"BACKEND": backend}):
        yield backend


def test_looking_up_a_key(records: Backend, key: str) -> None:
    Browser("sync").post("/pay", key)
    shown = manage("get", key, "--operation", "POST /pay", "--show-body")
    assert shown.startswith(f"POST /pay {key}\n  state      completed\n")
    assert "  status     201\n" in shown
    assert '  body       {"run": 1, "key": null}\n' in shown
    assert '"run"' not in manage("get", key, "--operation", "POST /pay"), "no body unless it is asked for"
    as_json = json.loads(manage("get", key, "--operation", "POST /pay", "--json"))
    assert f"POST /pay {key}" in manage("get", "--id", as_json["id"])
    assert f"POST /pay {key}" in manage("get", "--id", as_json["id"][:12])
    with pytest.raises(CommandError, match="There is no such record"):
        manage("get", key, "--operation", "POST /pay", "--caller", "7")
    with pytest.raises(CommandError, match="its key and its operation"):
        manage("get", key)
    with pytest.raises(CommandError, match="is not the id of a record"):
        manage("get", "--id", "f00")


def test_a_key_of_a_caller_in_a_namespace(records: Backend, key: str) -> None:
    setting = {"BACKEND": records, "NAMESPACE": "shop", "SCOPE": lambda request: 42}
    with override_settings(PYIDEMPOTENT=setting):
        Browser("sync").post("/pay", key)
        assert "completed" in manage("get", key, "--operation", "POST /pay", "--caller", "42")
    shown = manage("get", key, "--operation", "POST /pay", "--caller", "42", "--namespace", "shop")
    assert "completed" in shown


def test_listing_what_is_unfinished(records: Backend, key: str) -> None:
    assert manage("list") == "Nothing is in flight, lapsed or unknown.\n"
    Browser("sync").post("/pay", new_key())
    with attempt(records, key=key, name="webhook"):
        running = json.loads(manage("list", "--json"))
        assert (running["label"], running["state"]) == (f"webhook {key}", "in flight")
        assert 0 < running["lease_left"] <= 30
        unknown(records, key)
        (first, second) = [json.loads(line) for line in manage("list", "--json").splitlines()]
        assert [first["state"], second["state"]] == ["in flight", "unknown"]
        assert manage("list", "--limit", "1").endswith("There may be more than 1; pass --limit.\n")
    assert json.loads(manage("list", "--json"))["id"] == second["id"]
    with pytest.raises(CommandError, match="it must be a number of 1 or more"):
        manage("list", "--limit", "0")


def unknown(records: Backend, key: str) -> None:
    """A key whose outcome nobody knows: its view raised, under refuse."""
    with override_settings(PYIDEMPOTENT={"BACKEND": records, "AFTER_CRASH": "refuse"}):
        assert Browser("sync").post("/ends/raise", key).status_code == 500
        assert Browser("sync").post("/ends/raise", key).status_code == 409


def test_releasing_a_key(records: Backend, key: str) -> None:
    unknown(records, key)
    assert manage("release", key, "--operation", "POST /ends/raise", "--yes") == f"released: POST /ends/raise {key}\n"
    answer = Browser("sync").post("/ends/raise", key)
    assert (answer.content, is_replay(answer)) == (b"done", False)
    with pytest.raises(CommandError, match=r"is completed: it is done.*--force"):
        manage("release", key, "--operation", "POST /ends/raise")
    with pytest.raises(CommandError, match="pass --yes"):
        manage("release", key, "--operation", "POST /ends/raise", "--force")
    manage("release", key, "--operation", "POST /ends/raise", "--force", "--yes")
    assert not is_replay(Browser("sync").post("/ends/raise", key))


def test_what_runs_is_not_released_by_mistake(records: Backend, key: str) -> None:
    with attempt(records, key=key, name="webhook"):
        with pytest.raises(CommandError, match=r"is in flight: its attempt may still be running.*--force"):
            manage("release", key, "--operation", "webhook")
        with pytest.raises(CommandError, match="its fence is not 7"):
            manage("release", key, "--operation", "webhook", "--force", "--fence", "7")
        assert "in flight" in manage("get", key, "--operation", "webhook")


def test_resolving_a_key(records: Backend, key: str) -> None:
    unknown(records, key)
    name = (key, "--operation", "POST /ends/raise")
    with pytest.raises(CommandError, match="say what a repeat gets"):
        manage("resolve", *name)
    with pytest.raises(CommandError, match="--result is for a function"):
        manage("resolve", *name, "--result", "1", "--body", "1")
    answer = ("--status", "201", "--body", '{"charged": 42}', "--type", "application/json")
    assert manage("resolve", *name, *answer, "--yes") == f"resolved: POST /ends/raise {key}\n"
    repeat = Browser("sync").post("/ends/raise", key)
    assert (repeat.status_code, repeat.json(), is_replay(repeat)) == (201, {"charged": 42}, True)
    assert repeat.headers["Content-Length"] == "15"


def test_resolving_a_function(records: Backend, key: str) -> None:
    with pytest.raises(RuntimeError), attempt(records, key=key, name="webhook", after_crash="refuse"):
        raise RuntimeError
    manage("resolve", key, "--operation", "webhook", "--result", '{"sent": true}', "--yes")
    with attempt(records, key=key, name="webhook") as run:
        assert (run.replayed, run.result) == (True, {"sent": True})


def test_purging(records: Backend) -> None:
    assert manage("purge") == "removed: 0\n"


def test_a_store_that_is_down(site: None) -> None:
    from servers import free_port

    setting = {"BACKEND": f"redis://127.0.0.1:{free_port()}"}
    with override_settings(PYIDEMPOTENT=setting), pytest.raises(CommandError, match="Connection refused"):
        manage("list")


@pytest.fixture
def key() -> str:
    return new_key()


def marked(request: HttpRequest) -> HttpResponse:
    raise AssertionError("it ran")


urlpatterns = [path("marked", idempotency_required(marked)), path("pay", lambda request: HttpResponse("paid"))]


def test_marks_without_the_middleware_refuse_the_view(site: None, caplog: pytest.LogCaptureFixture) -> None:
    others = [name for name in settings.MIDDLEWARE if name != OURS]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=others):
        assert Browser("sync").post("/marked", new_key()).status_code == 500
    assert "which is not in MIDDLEWARE, and nothing runs" in caplog.text
    with pytest.raises(AssertionError, match="it ran"):  # by itself, as in a test of the view
        idempotency_required(marked)(RequestFactory().post("/marked"))


def test_a_handler_that_returns_no_answer_is_told(site: None, caplog: pytest.LogCaptureFixture) -> None:
    setting = {"BACKEND": "memory://", "REQUIRED": True, "EXCEPTION_HANDLER": lambda request, error: {"a": 1}}
    with override_settings(ROOT_URLCONF=__name__, PYIDEMPOTENT=setting):
        assert Browser("sync").post("/pay").status_code == 500
    assert "EXCEPTION_HANDLER must return an HttpResponse" in caplog.text
