"""Every scenario of the conformance suite on every face, on two stores each or on every store (``--product``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faces import CELLS, FACES, RESULTS, SCENARIOS, SERVERS, STORES, Face, FaceServer, columns
from scenario import Scenario
from servers import RedisServer

#: The URL of each store, for a test with a folder of its own.
URLS: dict[str, Callable[[Path, pytest.FixtureRequest], str]] = {
    "memory": lambda folder, request: "memory://",
    "sqlite": lambda folder, request: f"sqlite:///{folder}/idempotency.db",
    "redis": lambda folder, request: str(request.getfixturevalue("redis_server").url),
    "postgres": lambda folder, request: str(request.getfixturevalue("postgres_server").url),
}


@pytest.fixture(scope="module")
def column(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaceServer]:
    """A face on a store, for all of its scenarios."""
    face, store = request.param
    folder = tmp_path_factory.mktemp("runs")
    with FaceServer(face, URLS[store](folder, request), folder) as server:
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_scenario:
        played = [
            pytest.param(column, name, id=f"{column[0].name}-{column[1]}-{name}")
            for column in columns(metafunc.config.getoption("product"))
            for name in SCENARIOS
            if not column[0].does_not_apply(column[1], name)
        ]
        metafunc.parametrize(("column", "name"), played, indirect=["column"], scope="module")


def test_scenario(column: FaceServer, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    face, store = request.node.callspec.params["column"]
    if column.process is None or column.process.poll() is not None:
        column.start()  # the scenario before has left it ended
    RESULTS[face.name, store, name] = False
    scenario = SCENARIOS[name]
    with contextlib.ExitStack() as stack:
        servers = [column]
        if "servers" in scenario:
            several = [FaceServer(face, URLS[store](tmp_path, request), tmp_path) for _ in range(scenario["servers"])]
            with ThreadPoolExecutor(len(several)) as pool:
                servers = list(pool.map(stack.enter_context, several))
        Scenario(scenario["steps"], servers).play()
    RESULTS[face.name, store, name] = True


#: To two faces in turn, so that each replays what the other one has stored.
MEETING: list[dict[str, Any]] = [
    {"post": "/charge?a=1&b=%20", "key": "K", "body": "A", "as": "one", "see": {"status": 200}},
    {"post": "/charge?a=1&b=%20", "key": "K", "body": "A", "see": {"same_as": "one", "replayed": True}},
    {"post": "/charge?a=1&b=%20", "key": "K", "body": "B", "see": {"problem": "conflict"}},
    {"post": "/%63af%C3%A9/a%2Fb", "key": "K", "as": "two", "do": {"status": 201}, "see": {"status": 201}},
    {"post": "/%63af%C3%A9/a%2Fb", "key": "K", "see": {"same_as": "two", "replayed": True}},
    {"post": "/owned/charge", "key": "K", "headers": {"X-User": "alice"}, "as": "three", "see": {"status": 200}},
    {
        "post": "/owned/charge",
        "key": "K",
        "headers": {"X-User": "alice"},
        "see": {"same_as": "three", "replayed": True},
    },
    {
        "post": "/charge/form",
        "key": "K",
        "multipart": "file",
        "as": "four",
        "do": {"echo": True},
        "see": {"status": 200},
    },
    {"post": "/charge/form", "key": "K", "multipart": "file", "see": {"same_as": "four", "replayed": True}},
    {"runs": 4},
]


@pytest.mark.parametrize("face", FACES[1:], ids=lambda face: face.name)
def test_faces_meet_in_one_record(face: Face, redis_server: RedisServer, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(FaceServer(each, redis_server.url, tmp_path)) for each in (FACES[0], face)]
        for servers in (pair, pair[::-1]):
            Scenario(MEETING, servers).play()


#: To two faces in turn: the first one is killed while its handler runs, the other takes over, and both replay that.
TAKING_OVER: list[dict[str, Any]] = [
    {"post": "/required/charge", "see": {"problem": "key-missing"}},  # by the second one
    {"begin": "killed", "post": "/short/charge", "key": "K", "do": {"gate": True}},
    {"kill": True},
    {"open": True},
    {"post": "/short/charge", "key": "K", "again": True, "as": "one", "see": {"status": 200}},
    {"start": True},
    {"post": "/short/charge", "key": "K", "see": {"same_as": "one", "replayed": True}},
    {"post": "/short/charge", "key": "K", "see": {"same_as": "one", "replayed": True}},
    {"post": "/short/charge", "key": "K", "body": "B", "see": {"problem": "conflict"}},
    {"post": "/short/charge", "key": "K", "body": "B", "see": {"problem": "conflict"}},
    {"runs": 2},
]

#: One face of each language.
LANGUAGES = list({face.language: face for face in reversed(FACES)}.values())


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_languages_take_over_from_each_other(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        made = [FaceServer(face, URLS[store](tmp_path, request), tmp_path) for face in LANGUAGES]
        pair = [stack.enter_context(server) for server in made]
        for servers in (pair, pair[::-1]):
            Scenario(MEETING, servers).play()
            Scenario(TAKING_OVER, servers).play()


@pytest.mark.parametrize("product", ["test", "matrix"])
def test_the_number_of_cells_is_the_announced_one(product: str) -> None:
    assert len(columns(product)) * len(SCENARIOS) == CELLS[product]


def test_every_face_has_two_stores_that_show_what_it_can() -> None:
    for face in FACES:
        assert len(set(face.stores)) == 2, face.name
        assert not set(face.stores) & set(face.never), face.name
        for name in set(SCENARIOS) - set(face.lacks):
            assert any(not STORES[store].get(name) for store in face.stores), (face.name, name)


def test_every_store_has_all_scenarios_on_faces_of_each_language() -> None:
    for language in {face.language for face in FACES}:
        faces = [face for face in FACES if face.language == language]
        can = {name for name in SCENARIOS if any(name not in face.lacks for face in faces)}
        for store in STORES:
            shown = {name for face in faces if store in face.stores for name in can - set(face.lacks)}
            assert shown == can, f"{store} is no store of a {language} face that shows {can - shown}"


def test_what_is_named_exists() -> None:
    assert set(URLS) == set(STORES)
    for face in FACES:
        assert set(face.lacks) <= set(SCENARIOS), face.name
        assert {*face.stores, *face.never} <= set(STORES), face.name
        assert face.server in SERVERS, face.name
    assert all(set(reasons) <= set(SCENARIOS) for reasons in STORES.values())
