"""The table of options: every face takes its options from there, shows them, and says what is no option of it."""

from __future__ import annotations

import asyncio
import inspect
import re
import runpy
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypedDict

import pytest
from celery import Celery
from flask import Flask

import django_site  # noqa: F401  # sets Django up
import pages
from asgi_client import App, protected
from pyidempotent import attempt, idempotent, shared, transaction, transactional
from pyidempotent._options.checks import flag
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import (
    UNSET,
    BlockOptions,
    FunctionOptions,
    MiddlewareOptions,
    Option,
    RouteOptions,
    TaskOptions,
    TransactionalOptions,
    TransactionOptions,
    ViewOptions,
    documentation,
    options_of,
)
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.celery import idempotent_task
from pyidempotent.django import idempotency_options
from pyidempotent.flask import Idempotency

FACES: list[tuple[str, Callable[..., Any], Any, str]] = [
    ("@idempotent", idempotent, FunctionOptions, "methods"),
    ("attempt()", partial(attempt, "memory://", key="a"), BlockOptions, "scope"),
    ("transaction()", partial(transaction, sqlite3.connect(":memory:"), key="a"), TransactionOptions, "scope"),
    ("@transactional", partial(transactional, "session"), TransactionalOptions, "store_exceptions"),
    ("idempotent_task()", partial(idempotent_task, "memory://"), TaskOptions, "wait"),
    (
        "IdempotencyMiddleware",
        partial(IdempotencyMiddleware, App(), "memory://"),
        MiddlewareOptions,
        "store_exceptions",
    ),
    ("Idempotency", Idempotency, MiddlewareOptions, "caller"),
    ("Idempotency.options", Idempotency().options, RouteOptions, "routes"),
    ("idempotency_options", idempotency_options, ViewOptions, "routes"),
]

BESIDE: list[tuple[str, Callable[..., Any], str]] = [
    (
        "IdempotencyMiddleware, routes['/pay']",
        lambda **own: IdempotencyMiddleware(App(), "memory://", routes={"/pay": own}),
        "routes",
    ),
    ("Idempotency, routes['/pay']", lambda **own: Idempotency(routes={"/pay": own}), "payload"),  # type: ignore[dict-item]
]

EVERYBODY = [*((who, make, astray) for who, make, _, astray in FACES), *BESIDE]


@pytest.mark.parametrize(("who", "make", "astray"), EVERYBODY, ids=[who for who, _, _ in EVERYBODY])
def test_what_is_no_option_is_an_error_that_names_the_face(who: str, make: Callable[..., Any], astray: str) -> None:
    with pytest.raises(TypeError) as misspelt:
        make(nmae=5)
    assert str(misspelt.value) == f"{who}: unexpected keyword argument 'nmae'; did you mean name=?"
    with pytest.raises(TypeError) as misplaced:
        make(**{astray: None})
    assert str(misplaced.value).startswith(f"{astray}= is no option of {who}; it belongs to ")
    with pytest.raises(TypeError) as nothing:
        make(zzz=5)
    assert str(nothing.value) == f"{who}: unexpected keyword argument 'zzz'"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: idempotent(key_extractor=str), "@idempotent: .* 'key_extractor'; it is called key= now"),  # type: ignore[call-arg]
        (lambda: idempotent(routes={}), "it belongs to middleware$"),  # type: ignore[call-arg]
        (lambda: idempotent(backnd="memory://"), "did you mean backend="),  # type: ignore[call-arg]
        (lambda: Idempotency(caller="a"), r"it belongs to attempt\(\) and transaction\(\)$"),  # type: ignore[call-arg]
        (
            lambda: attempt("memory://", key="a", scope=str),
            r"belongs to @idempotent, middleware, idempotent_task\(\) and @transactional$",
        ),  # type: ignore[call-arg]
        (lambda: attempt("memory://"), r"attempt\(\) needs key="),  # type: ignore[call-arg]
    ],
)
def test_what_may_be_meant_is_said(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_flask_s_configuration_names_the_one_that_is_meant() -> None:
    app = Flask("shop")
    app.config["IDEMPOTENCY_MAX_REPONSE_BYTES"] = 1
    with pytest.raises(TypeError, match="is no option; did you mean IDEMPOTENCY_MAX_RESPONSE_BYTES"):
        Idempotency(app, "memory://")


def pay(order: str) -> None: ...


def test_celery_s_own_way_to_give_options_is_told_of_every_option() -> None:
    once = idempotent_task("memory://")
    for option in options_of(TaskOptions).keys() - {"name"}:
        with pytest.raises(TypeError, match=f"^{option}= is given to @app.task of"):
            Celery("shop").task(base=once, name="pay", shared=False, **{option: 1})(pay).name  # noqa: B018  # makes it


@pytest.mark.parametrize(
    ("shown", "fields"),
    [(make.func if isinstance(make, partial) else make, fields) for _, make, fields, _ in FACES],
    ids=[who for who, *_ in FACES],
)
def test_signature_and_help_show_every_option(shown: Callable[..., Any], fields: Any) -> None:
    parameters = inspect.signature(shown).parameters
    assert parameters.keys() - {"app", "backend", "connection"} == options_of(fields).keys() - {"backend"}
    text = inspect.getdoc(shown) or ""
    assert "options: " not in text
    for name, (kind, option) in options_of(fields).items():
        default = inspect.Parameter.empty if option.default is UNSET else option.default
        assert (parameters[name].annotation, parameters[name].default) == (kind, default)
        said = documentation(fields.__name__)[name]
        assert f"    {name}: {said[0].lower()}{said[1:]}" in re.sub(r"\n {8,}", " ", text)


def test_every_option_is_documented_and_says_its_default() -> None:
    """An editor shows the text at the option's name, and not its default."""
    written = runpy.run_path(str(pages.DOCS / "write_options.py"))["written"]
    for _, _, fields, _ in FACES:
        for name, (_, option) in options_of(fields).items():
            text = documentation(fields.__name__)[name]
            assert text.endswith("."), name
            if option.default not in (UNSET, None, "", ()):
                for default in written(option.default).replace("`", "").split(", "):
                    assert default in text, name


def test_the_page_has_the_table_as_it_is_declared() -> None:
    page = runpy.run_path(str(pages.DOCS / "write_options.py"))["page"]()
    assert (pages.DOCS / "options.md").read_text() == page, "run: make docs"


def test_a_default_is_what_its_check_returns() -> None:
    for _, _, fields, _ in FACES:
        for name, (_, option) in options_of(fields).items():
            if option.default not in (None, UNSET):
                assert option.check(name, option.default) == option.default


def test_a_field_is_all_that_a_new_option_needs() -> None:
    foo = Annotated[bool, Option(False, flag, formerly=("fooo",))]
    more_options = TypedDict("more_options", {"foo": foo})  # noqa: UP013  # a field of a class would be text here
    face = OptionReader("@more", more_options)

    @face.shows
    def more(backend: str, **options: Any) -> dict[str, Any]:
        return face.read(options)

    assert inspect.signature(more).parameters["foo"].default is False
    assert more("memory://", foo=True)["foo"] is True
    for given, says in (({"foo": 1}, "foo must be True or False"), ({"fooo": 1}, "it is called foo= now")):
        with pytest.raises(TypeError, match=says):
            more("memory://", **given)


def test_an_inner_protection_may_say_what_the_outer_one_says() -> None:
    backend = MemoryBackend()
    inner = IdempotencyMiddleware(App(), backend, scope=shared, name="pay", required=True)

    def status(**outer: Any) -> int:
        return asyncio.run(protected(inner, backend=backend, **outer).status())

    assert status(scope=shared, name="pay") == 200
    for outer, said in (({"scope": shared}, "name"), ({"name": "pay"}, "scope")):
        with pytest.raises(TypeError, match=f"holds the attempt without {said}: "):
            status(**outer)
