"""Celery: real workers on a real broker; a message that arrives twice, early, late and after an accident."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, chain, chord, group
from celery.result import AsyncResult

import pyidempotent
from pyidempotent import IdempotencyConflict, IdempotencyProcessing, arguments, current
from pyidempotent.celery import idempotent_task
from pyidempotent.exceptions import IdempotencyUnknown
from pyidempotent.testing import Crashed
from servers import RedisServer
from workers import Worker

POOLS = ["prefork", "threads", "solo", "gevent"]
LIMIT = 20


@pytest.fixture(scope="module", params=POOLS)
def worker(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    redis_server.cli("FLUSHALL")
    with Worker(redis_server, tmp_path_factory.mktemp("celery"), request.param, LEASE="1") as worker:
        yield worker


@pytest.fixture
def name() -> str:
    return str(uuid.uuid4())


def value(result: AsyncResult) -> Any:
    return result.get(timeout=LIMIT)


def error(result: AsyncResult) -> Any:
    failure = result.get(timeout=LIMIT, propagate=False)
    assert result.state == "FAILURE"
    return failure


def twice(worker: Worker, task: str, *args: Any, **options: Any) -> tuple[AsyncResult, AsyncResult]:
    """The results of a message and of the same one, delivered again after the first was worked on."""
    task_id = str(uuid.uuid4())
    first = worker.send(task, *args, task_id=task_id, **options)
    first.get(timeout=LIMIT, propagate=False)
    again = delivered_again(worker, task, *args, task_id=task_id, **options)
    return first, again


def delivered_again(worker: Worker, task: str, *args: Any, task_id: str, **options: Any) -> AsyncResult:
    """The same message once more, when it has been worked on."""

    def ends() -> int:
        return len(re.findall(rf"tasks\.{task}\[{task_id}\] (?:succeeded|raised|ignored)", worker.output()))

    worker.until(ends)
    before = ends()
    result = worker.send(task, *args, task_id=task_id, **options)
    worker.until(lambda: ends() > before)
    return result


def test_a_message_that_arrives_again_gets_the_stored_result(worker: Worker) -> None:
    for a in range(6):
        first, again = twice(worker, "add", a, 2)
        assert value(first) == value(again) == a + 2
        assert len(worker.lines("add", a, 2)) == 1


def test_another_id_is_another_task(worker: Worker) -> None:
    assert value(worker.send("add", 70, 1)) == value(worker.send("add", 70, 1)) == 71
    assert len(worker.lines("add", 70, 1)) == 2


def test_the_key_may_be_an_argument(worker: Worker, name: str) -> None:
    first, again = worker.send("by_order", name, 42), worker.send("by_order", name, kwargs={"amount": 42})
    assert value(first) == value(again)
    assert value(first)[:2] == [name, 42]
    assert len(worker.lines("by_order", name)) == 1
    assert type(error(worker.send("by_order", name, 43))).__name__ == "IdempotencyConflict"


@pytest.mark.parametrize(
    ("worker", "task"),
    [("prefork", "slow"), ("prefork", "slow_autoretry"), ("prefork", "plain"), ("threads", "slow"), ("gevent", "slow")],
    indirect=["worker"],
)
def test_one_that_arrives_while_the_first_runs_is_put_back(worker: Worker, name: str, task: str) -> None:
    task_id = str(uuid.uuid4())
    first = worker.send(task, name, task_id=task_id)
    word = "slow" if task == "slow_autoretry" else task
    worker.until(lambda: worker.lines(word, name))
    states = {first.state}
    put_back = f"the task tasks.{task} is put back for "
    before = worker.output().count(put_back)
    worker.send(task, name, task_id=task_id)
    worker.until(lambda: states.add(first.state) or worker.output().count(put_back) >= before + 2)
    ours = [line for line in worker.output().splitlines() if put_back in line]
    assert not any(task_id in line for line in ours), "the key may be the only secret"
    # The slots are free all the while, and the lease (1 s) has been renewed.
    assert [value(worker.send("add", n, 80)) for n in range(4)] == [80, 81, 82, 83]
    states.add(first.state)
    worker.open(name)
    assert value(first) == name
    done = f"tasks.{task}[{task_id}] succeeded"
    worker.until(lambda: states.add(first.state) or worker.output().count(done) == 2)
    assert states <= {"STARTED", "SUCCESS"}, "never marked as failed, and no retry"
    assert len(worker.lines(word, name)) == 1
    assert worker.lines(word, name)[0].split()[2:3] in ([], ["0"])
    if task == "slow":
        assert worker.lines("end", name) == [f"end {name} True"], "current() is its own, whatever ran beside it"


@pytest.mark.parametrize("worker", ["prefork", "threads"], indirect=True)
@pytest.mark.parametrize("task", ["layered", "helped", "helped_plain"])
def test_what_is_protected_inside_puts_back_the_whole_task(worker: Worker, name: str, task: str) -> None:
    first = worker.send(task, name)
    worker.until(lambda: worker.lines("body", name))
    put_back = f"the task tasks.{task} is put back for "
    before = worker.output().count(put_back)
    second = worker.send(task, name)
    worker.until(lambda: worker.output().count(put_back) > before)
    worker.open(name)
    assert value(first) == value(second) == name
    assert len(worker.lines("body", name)) == 1


def test_an_explicit_retry_runs_again_also_under_refuse(worker: Worker, name: str) -> None:
    first, again = twice(worker, "retries", name, 2)
    assert value(first) == value(again) == 2
    assert len(worker.lines("retries", name)) == 3
    assert value(worker.send("plain_retries", name, 2)) == value(worker.send("plain_retries", name, 2)) == 2
    assert len(worker.lines("plain_retries", name)) == 3


def test_when_its_retries_are_used_up_a_task_has_failed(worker: Worker, name: str) -> None:
    first, again = twice(worker, "autoretries", name)
    assert len(worker.lines("autoretries", name)) == 3
    assert type(error(again)).__name__ == "IdempotencyUnknown", "nobody knows what the last one did"
    assert first.id == again.id


def test_a_rejected_message_runs_again_also_under_refuse(worker: Worker, name: str) -> None:
    assert value(worker.send("rejects", name)) == name
    assert len(worker.lines("rejects", name)) == 3


def test_a_failure_under_refuse_runs_nothing_again(worker: Worker, name: str) -> None:
    task_id = str(uuid.uuid4())
    assert type(error(worker.send("fails", name, task_id=task_id))) is ValueError
    delivered_again(worker, "fails", name, task_id=task_id)
    assert len(worker.lines("fails", name)) == 1


def test_a_task_that_replaces_itself_does_so_once(worker: Worker) -> None:
    number = uuid.uuid4().int % 10**9
    task_id = str(uuid.uuid4())
    assert value(worker.send("replaced", number, task_id=task_id)) == number + 1
    delivered_again(worker, "replaced", number, task_id=task_id)
    assert len(worker.lines("replaced", number)) == len(worker.lines("add", number, 1)) == 1


def test_a_task_that_calls_itself_directly_runs_its_body_again(worker: Worker) -> None:
    before = len(worker.lines("recurses"))
    assert value(worker.send("recurses", 3)) == 0
    assert len(worker.lines("recurses")) - before == 4


def signature(worker: Worker, task: str, *args: Any) -> Any:
    return worker.client.signature(f"tasks.{task}", args)


def test_on_a_replay_links_are_sent_again_and_a_chain_goes_on_once(worker: Worker) -> None:
    number = uuid.uuid4().int % 10**9
    link = signature(worker, "report")
    twice(worker, "add", number, 1, link=link)
    worker.until(lambda: len(worker.lines("report", number + 1)) == 2)
    assert len(worker.lines("add", number, 1)) == 1

    # A chain's steps have ids from the start: the second message of a step is a repeat by itself.
    steps = chain(signature(worker, "add", number, 2), signature(worker, "add", 3), signature(worker, "add", 4))
    steps = steps.clone()
    result = steps.freeze()
    assert value(steps.apply_async()) == number + 9
    head = result.parent.parent
    rest = [steps.tasks[2], steps.tasks[1]]
    delivered_again(worker, "add", number, 2, task_id=head.id, chain=rest, root_id=head.id)
    done = f"Task tasks.add[{result.id}] succeeded"
    worker.until(lambda: worker.output().count(done) == 2)
    for line in (("add", number, 2), ("add", number + 2, 3), ("add", number + 5, 4)):
        assert len(worker.lines(*line)) == 1
    assert value(result) == number + 9


def test_a_chord_counts_a_part_once(worker: Worker) -> None:
    number = uuid.uuid4().int % 10**9
    parts = group(signature(worker, "add", number, n) for n in range(3))
    body = signature(worker, "report")
    result = chord(parts, body).apply_async()
    value(result)
    for part in result.parent.results:
        n = [part.id for part in result.parent.results].index(part.id)
        delivered_again(worker, "add", number, n, task_id=part.id, group_id=result.parent.id, chord=body)
    assert len(worker.lines("report")) >= 1
    line = f"report {[number, number + 1, number + 2]}"
    assert worker.book.read_text().splitlines().count(line) == 1


# In this process, without a broker.


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)


def test_tasks_are_checked_when_they_are_made(app: Celery) -> None:
    with pytest.raises(TypeError, match="wait"):
        idempotent_task("memory://", wait=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="it is called key= now"):
        idempotent_task("memory://", key_extractor=len)
    with pytest.raises(ValueError, match="lease"):
        idempotent_task("memory://", lease=-1)

    def takes_amount(amount: int) -> None: ...

    for options in ({}, {"lazy": False}):
        made = app.task(shared=False, name=f"above{options}", **options)(takes_amount)
        with pytest.raises(TypeError, match=r"stands above @app\.task"):
            pyidempotent.idempotent("memory://", key="amount", name="above")(made)

    task = app.task(base=idempotent_task("memory://", key="order"), name="wrong", shared=False)(takes_amount)
    with pytest.raises(TypeError, match="key='order' names no parameter"):
        task.name  # noqa: B018  # Celery makes it when it is first looked at


def test_a_base_class_that_wraps_the_body_comes_second(app: Celery, idempotency: Any) -> None:
    context, once = [], idempotent_task("memory://", name="shop.pay")

    class ContextTask(Task):  # type: ignore[misc]  # Celery is untyped
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            context.append("in")
            return self.run(*args, **kwargs)

    class Right(once, ContextTask):  # type: ignore[misc, valid-type]
        pass

    class Wrong(ContextTask, once):  # type: ignore[misc, valid-type]
        pass

    @app.task(base=Right, bind=True, shared=False)
    def pay(self: Any, order: str) -> str:
        return f"{order} {self.request.id}"

    assert [pay.apply(("a",), task_id="7").get() for _ in range(2)] == ["a 7", "a 7"]
    assert context == ["in"], "a replay does not need it"

    def unprotected() -> None: ...

    with pytest.raises(TypeError, match=r"ContextTask of the task wrong has a __call__ of its own"):
        app.task(base=Wrong, name="wrong", shared=False)(unprotected).name  # noqa: B018  # makes it


def test_a_task_may_be_a_class(app: Celery, idempotency: Any) -> None:
    runs = []

    class Pay(idempotent_task("memory://", key="order")):  # type: ignore[misc]  # Celery is untyped
        def run(self, order: str) -> str:
            runs.append(order)
            return order

    pay = app.register_task(Pay())
    assert pay.apply(("a",)).get() == pay.apply(("a",)).get() == "a"
    assert runs == ["a"]


def test_a_direct_call_is_protected_where_it_has_a_key(app: Celery, idempotency: Any) -> None:
    runs = []

    @app.task(base=idempotent_task("memory://"), shared=False)
    def by_id(order: str) -> str:
        runs.append(order)
        return order

    @app.task(base=idempotent_task("memory://", key=arguments), bind=True, shared=False)
    def by_arguments(self: Any, order: str) -> str:
        runs.append(order)
        assert self.request.called_directly or self.request.id
        return f"{order} {current().key[:3]}"

    assert by_id("a") == by_id("a") == "a"
    assert by_arguments("b") == by_arguments(order="b") == by_arguments.apply(("b",)).get()
    assert runs == ["a", "a", "b"]


def test_an_eager_task_that_is_running_elsewhere_says_so(app: Celery, idempotency: Any) -> None:
    @app.task(base=idempotent_task("memory://", key="order", after_crash="refuse", lease=30), shared=False)
    def pay(order: str) -> None:
        idempotency.crash()

    with pytest.raises(Crashed):
        pay("a")
    assert isinstance(pay.apply(("a",)).result, IdempotencyProcessing)
    idempotency.advance(30)
    assert isinstance(pay.apply(("a",)).result, IdempotencyUnknown)


def test_celerys_own_tasks_stay_what_they_are() -> None:
    app = Celery("shop", broker="memory://", task_cls=idempotent_task("memory://"), set_as_current=False)
    app.finalize()
    own = app.tasks["celery.accumulate"]
    assert own.apply((1, 2), task_id="a").get() == own.apply((1, 2), task_id="a").get() == (1, 2)
    assert own._idempotent is None


def test_a_conflict_is_an_error_of_the_task(app: Celery, idempotency: Any) -> None:
    @app.task(base=idempotent_task("memory://"), shared=False)
    def pay(order: str) -> None: ...

    pay.apply(("a",), task_id="same")
    assert isinstance(pay.apply(("b",), task_id="same").result, IdempotencyConflict)
