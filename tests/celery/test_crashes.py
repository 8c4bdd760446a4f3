"""Workers that are killed, alone or with their whole process group, and stores that are down."""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Signature, chain, chord
from celery.result import AsyncResult

from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer
from workers import Worker

TASKS = 200


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def name() -> str:
    return str(uuid.uuid4())


def value(result: AsyncResult) -> Any:
    return result.get(timeout=20)


def error(result: AsyncResult) -> Any:
    failure = result.get(timeout=20, propagate=False)
    assert result.state == "FAILURE"
    return failure


@pytest.fixture
def make_worker(server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(pool: str = "prefork", **environment: str) -> Worker:
        made.append(Worker(server, tmp_path, pool, **{"LEASE": "1", **environment}))
        made[-1].start()
        return made[-1]

    yield make
    for worker in made:
        worker.__exit__(None, None, None)


def test_it_works_from_the_first_task_of_every_child(make_worker: Callable[..., Worker]) -> None:
    worker = make_worker(TASKS_PER_CHILD="1")
    results = [worker.send("add", a, 2, task_id=f"task-{a}") for a in (0, 0, 1, 1, 2, 2)]
    assert [value(result) for result in results] == [2, 2, 3, 3, 4, 4]
    for a in range(3):
        assert len(worker.lines("add", a, 2)) == 1


def kill_child(worker: Worker, name: str) -> None:
    (line,) = worker.lines("slow", name)
    os.kill(int(line.split()[3]), signal.SIGKILL)
    worker.open(name)


def test_what_follows_a_task_survives_that_its_message_is_put_back(server: RedisServer, tmp_path: Path) -> None:
    def make(task: str, *args: Any, **options: Any) -> Signature:
        return worker.client.signature(f"tasks.{task}", args, **options)

    with Worker(server, tmp_path, "prefork", VISIBILITY="1", LEASE="5") as worker:
        linked = worker.send("slow", "linked", link=make("report"))
        worker.until(lambda: worker.lines("slow", "linked"))
        steps = chain(make("slow", "chained"), make("report")).apply_async()
        worker.until(lambda: worker.lines("slow", "chained"))
        worker.kill()
        worker.open("linked")
        worker.open("chained")
        worker.wait_for_redelivery()
        worker.start()
        assert value(linked) == "linked"
        assert value(steps) is None
        worker.until(lambda: worker.lines("report", "linked"))
        assert len(worker.lines("report", "chained")) == 1

        parts = chord([make("slow", "part"), make("add", 1, 1)], make("report")).apply_async()
        worker.until(lambda: worker.lines("slow", "part"))
        worker.kill()
        worker.open("part")
        worker.wait_for_redelivery()
        worker.start()
        assert value(parts) is None
        assert worker.lines("report", "['part',", "2]") == ["report ['part', 2]"]
        assert worker.output().count(" is put back for ") >= 3


def test_a_child_that_is_lost_and_rejects_its_message(make_worker: Callable[..., Worker], name: str) -> None:
    worker = make_worker(REJECT_ON_WORKER_LOST="1")
    for task, other in (("slow", name), ("slow_refusing", f"other-{name}")):
        result = worker.send(task, other)
        worker.until(lambda other=other: worker.lines("slow", other))
        kill_child(worker, other)
        if task == "slow":
            assert value(result) == other
            assert len(worker.lines("slow", other)) == 2
        else:
            assert type(error(result)).__name__ == "IdempotencyUnknown"
            assert len(worker.lines("slow", other)) == 1


def test_a_child_that_is_lost_without_rejecting_has_failed(make_worker: Callable[..., Worker], name: str) -> None:
    worker = make_worker()
    result = worker.send("slow", name)
    worker.until(lambda: worker.lines("slow", name))
    kill_child(worker, name)
    assert type(error(result)).__name__ == "WorkerLostError"
    assert len(worker.lines("slow", name)) == 1


def test_while_the_store_is_down_a_message_waits(make_worker: Callable[..., Worker], name: str) -> None:
    with RedisServer() as store:
        worker = make_worker(STORE=store.url)
        store.kill()
        result = worker.send("slow", name)
        worker.until(lambda: worker.output().count("is put back for ") >= 2)
        assert worker.lines("slow") == []
        store.start()
        worker.open(name)
        assert value(result) == name
        assert [line.split()[2] for line in worker.lines("slow", name)] == ["0"], "no retry was spent"


class Crowd:
    """So many tasks under each crash policy, each sent twice with one id, and what became of them."""

    def __init__(self, worker: Worker, server: RedisServer) -> None:
        self.worker = worker
        self.broker = redis.from_url(f"{server.url}/1")
        self.store = RedisBackend(f"{server.url}/0")
        #: The attempts that were under way when the worker was killed, by the word of the store: name and fence.
        self.attempts: set[tuple[str, int]] = set()
        self.names = {f"{task}-{n}": task for task in ("effect", "effect_refusing") for n in range(TASKS)}
        self.held = {"effect-50": "gate", "effect_refusing-120": "gate"}
        self.ids = {name: str(uuid.uuid4()) for name in self.names}
        self.results: dict[str, AsyncResult] = {}
        order = sorted(self.names, key=lambda name: int(name.rpartition("-")[2]))
        random.Random(7).shuffle(order[130:])
        for name in [*order, *order[::-1]]:
            self.results[name] = worker.send(
                self.names[name], name, self.held.get(name), task_id=self.ids[name], queue="celery"
            )

    def counts(self, word: str) -> Counter[str]:
        return Counter(line.split()[1] for line in self.worker.lines(word))

    def kill(self) -> None:
        self.worker.kill()
        for name, task in self.names.items():
            record = self.store.get(self.ids[name], operation=f"tasks.{task}")
            if record is not None and record.state in ("in flight", "lapsed"):
                self.attempts.add((name, record.fence))

    @property
    def caught(self) -> Counter[str]:
        """How often a kill fell into the attempts of a task."""
        return Counter(name for name, _ in self.attempts)

    def messages(self) -> int:
        """How many are in the queue or being worked on."""
        return int(self.broker.llen("celery")) + int(self.broker.zcard("unacked_index"))  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_of_messages_that_arrive_twice_one_has_an_effect_though_workers_are_killed(
    pool: str, server: RedisServer, tmp_path: Path
) -> None:
    with Worker(server, tmp_path, pool, VISIBILITY="2", LEASE="4") as worker:
        crowd = Crowd(worker, server)
        for held in crowd.held:
            worker.until(lambda held=held: worker.lines("effect", held))  # a body is entered, and can't leave
            crowd.kill()
            assert held in crowd.caught
            worker.start()
        worker.open("gate")
        done = len(crowd.counts("end"))
        worker.until(lambda: len(crowd.counts("end")) > done + 60)
        crowd.kill()
        worker.wait_for_redelivery()
        worker.start()
        worker.until(lambda: crowd.messages() == 0, 60)
        worker.until(lambda: all(result.ready() for result in crowd.results.values()))

        begun, effects, ended = (crowd.counts(word) for word in ("begin", "effect", "end"))
        other = {name for name in crowd.names if (begun[name], effects[name], ended[name]) != (1, 1, 1)}
        assert other <= set(crowd.caught), "whatever a kill did not fall into ran once"
        assert set(crowd.held) <= other
        for name, task in crowd.names.items():
            result = crowd.results[name]
            if task == "effect_refusing":
                assert effects[name] <= 1
                assert begun[name] <= 1
            if task == "effect" or name not in crowd.caught:
                assert (result.state, result.result) == ("SUCCESS", name)
                assert effects[name] <= 1 + crowd.caught[name]
            else:
                assert result.state == "FAILURE"
                assert type(result.result).__name__ == "IdempotencyUnknown"
        twice = {name: effects[name] for name in other if effects[name] > 1}
        unknown = [name for name, result in crowd.results.items() if result.state == "FAILURE"]
        put_back = worker.output().count(" is put back for ")
        print(f"{pool}: {len(crowd.names)} tasks, {2 * len(crowd.names)} messages, {sum(effects.values())} effects;")
        print(f"caught by a kill {dict(crowd.caught)}; more than once {twice}; unknown {unknown}; put back {put_back}")
