"""Databases and connections for these tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from lanes import ACCOUNTS, LANES, ON_POSTGRES, Lane
from pyidempotent.transactions import create_table
from servers import PostgresServer

MakeLane = Callable[[], Lane]


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of Postgres, with one account and no keys."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("DROP TABLE IF EXISTS accounts")  # others have a table of that name, too
        connection.execute(ACCOUNTS)
        connection.execute("DELETE FROM idempotency.records")
        connection.execute("INSERT INTO accounts VALUES ('alice', 100)")
    return postgres.url


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The path of a file of SQLite's, with one account."""
    path = str(tmp_path / "accounts.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(ACCOUNTS)
        connection.execute("INSERT INTO accounts VALUES ('alice', 100)")
        create_table(connection)
    return path


@pytest.fixture
def make_lane(request: pytest.FixtureRequest, kind: str) -> Iterator[MakeLane]:
    """Makes lanes of one kind over one database; each is used by one thread."""
    place = request.getfixturevalue("database" if kind in ON_POSTGRES else "file")
    made: list[Lane] = []

    def make() -> Lane:
        made.append(LANES[kind](place))
        return made[-1]

    yield make
    for lane in made:
        lane.end()


@pytest.fixture
def lane(make_lane: MakeLane) -> Lane:
    """One lane of the kind."""
    return make_lane()


@pytest.fixture(params=LANES)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of connection."""
    return str(request.param)
