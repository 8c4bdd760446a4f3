"""The lab's checker: what it finds, and what it takes for permitted."""

from __future__ import annotations

from typing import Any

import pytest

from lab.checker import check, reruns
from lab.history import Body, Call, Fault, History, Identity

PAY = Identity("pay", "anna", "k")


class Story:
    """A history that is told call by call; a lease is a second."""

    def __init__(self, policy: str = "rerun") -> None:
        self.history = History(lease=1.0, time_limit=0.5, grace=2.0, ended=100.0)
        self.policy = policy
        self.fences = 0

    def call(self, sent: float, answered: float | None = None, outcome: str | None = None, **more: Any) -> int:
        number = len(self.history.calls)
        value = more.pop("value", None)
        told = {"identity": PAY, "payload": "100", "policy": self.policy, "worker": 0, **more}
        began = None if answered is None else sent
        call = Call(number, sent=sent, began=began, answered=answered, outcome=outcome, value=value, **told)
        self.history.calls[number] = call
        return number

    def body(self, call: int, began: float, ended: float | None = None, end: str = "returned", fence: int = 0) -> None:
        self.fences = fence or self.fences + 1
        of = self.history.calls[call]
        told = (of.identity, of.payload, self.fences, of.worker, began)
        self.history.bodies.append(Body(call, *told, ended, None if ended is None else end))

    def run(self, sent: float, ended: float, end: str = "returned", **more: Any) -> int:
        """A call whose body ran to its end, and which was answered so."""
        number = self.call(sent, ended + 0.01, "value" if end != "raised" else "raised", **more)
        self.history.calls[number].value = None if end == "raised" else number
        self.body(number, sent + 0.01, ended, end)
        return number

    def replay(self, of: int, sent: float, **more: Any) -> int:
        return self.call(sent, sent + 0.01, "value", value=of, **more)

    def refused(self, name: str, sent: float, **more: Any) -> int:
        return self.call(sent, sent + 0.01, f"Idempotency{name}", **more)

    def fault(self, kind: str, worker: int | None, began: float, ended: float | None = None) -> None:
        self.history.faults.append(Fault(kind, worker, began, began if ended is None else ended))

    def broken(self) -> list[str]:
        return [each.promise for each in check(self.history)]


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def strict() -> Story:
    return Story("refuse")


def test_a_first_run_and_its_replays(story: Story) -> None:
    first = story.run(0, 0.5)
    story.refused("Processing", 0.2, worker=1)
    story.replay(first, 1)
    story.replay(first, 9, worker=1)
    assert story.broken() == []
    assert reruns(story.history) == {}


def test_a_second_body_that_nothing_permits(story: Story) -> None:
    story.run(0, 0.5)
    second = story.run(3, 3.5, worker=1)
    assert story.broken() == ["P1"]
    assert reruns(story.history) == {"nothing": 1}
    (broken,) = check(story.history)
    assert broken.calls == (0, second)
    assert "P1 (one live claim): a second body ran, 3.010 s after" in str(broken)


@pytest.mark.parametrize(("began", "broken"), [(1.3, []), (0.9, ["P1"])])
def test_a_crash_permits_one_when_the_lease_can_have_ended(story: Story, began: float, broken: list[str]) -> None:
    first = story.call(0)
    story.body(first, 0.1)
    story.fault("killed", 0, 0.3)
    story.run(began, began + 0.2, worker=1)
    assert story.broken() == broken
    assert reruns(story.history) == {"nothing" if broken else "killed": 1}


def test_a_crash_after_the_answer_permits_none(story: Story) -> None:
    story.run(0, 0.5)
    story.fault("killed", 0, 0.6)
    story.run(3, 3.1, worker=1)
    assert story.broken() == ["P1"]


def test_a_crash_after_an_answer_that_could_not_be_stored_permits_one(story: Story) -> None:
    story.fault("away", None, 0.4, 0.9)
    story.run(0, 0.5)
    story.fault("killed", 0, 0.6)
    story.run(3, 3.1, worker=1)
    assert story.broken() == []


def test_under_refuse_a_crash_permits_none(strict: Story) -> None:
    strict.body(strict.call(0), 0.1)
    strict.fault("killed", 0, 0.3)
    strict.refused("Unknown", 2, worker=1)
    assert strict.broken() == []
    strict.run(3, 3.2, worker=1)
    assert strict.broken() == ["P5"]


@pytest.mark.parametrize(
    ("policy", "end", "broken"),
    [
        ("rerun", "raised", []),
        ("rerun", "released", []),
        ("refuse", "released", []),
        ("refuse", "raised", ["P5"]),
    ],
)
def test_what_a_body_says_of_itself(policy: str, end: str, broken: list[str]) -> None:
    story = Story(policy)
    story.run(0, 0.1, end)
    story.run(0.2, 0.4, worker=1)
    assert story.broken() == broken


def test_before_a_failed_body_has_ended_no_other_one_begins(story: Story) -> None:
    story.run(0, 0.5, "raised")
    story.run(0.2, 0.3, worker=1)
    assert story.broken() == ["P1", "P1"]  # a second one, and two at once


@pytest.mark.parametrize("kind", ["paused", "cut"])
def test_who_can_not_renew_may_be_overtaken_and_go_on(story: Story, kind: str) -> None:
    story.fault(kind, 0, 0.2, 2.0)
    first = story.run(0, 2.2)
    second = story.run(1.3, 2.5, worker=1)
    story.replay(second, 4)
    assert story.broken() == []
    assert sum(reruns(story.history).values()) == 1
    story.replay(first, 5)  # the late one's result took the place of the other
    assert "P2" in story.broken()


def test_a_short_pause_is_no_reason(story: Story) -> None:
    story.fault("paused", 0, 0.2, 0.5)
    story.run(0, 2.2)
    story.run(1.3, 2.5, worker=1)
    assert story.broken()[:2] == ["P1", "P1"]


def test_an_outage_that_all_saw_is_no_reason(story: Story) -> None:
    story.fault("away", None, 0.2, 3.0)
    story.run(0, 2.5)
    story.run(3.2, 3.5, worker=1)
    assert story.broken() == ["P1"]


def test_what_the_store_has_lost_may_run_again_under_any_policy(strict: Story) -> None:
    strict.run(0, 0.5)
    strict.fault("lost", None, 1.0)
    strict.run(2, 2.5, worker=1)
    assert strict.broken() == []
    assert reruns(strict.history) == {"lost by the store": 1}


def test_a_failover_may_lose_what_was_written_meanwhile(strict: Story) -> None:
    first = strict.run(0, 1.0)
    strict.fault("replaced", None, 0.9, 1.5)
    strict.replay(first, 1.1)
    second = strict.run(2, 2.5, worker=1)
    strict.replay(second, 3)
    assert strict.broken() == []
    assert reruns(strict.history) == {"lost by a failover": 1}


def test_a_failover_may_not_lose_what_was_written_before(strict: Story) -> None:
    strict.run(0, 0.5)
    strict.fault("replaced", None, 0.9, 1.5)
    strict.run(2, 2.5, worker=1)
    assert strict.broken() == ["P5"]


def test_a_failover_may_not_lose_what_was_written_afterwards(story: Story) -> None:
    story.fault("replaced", None, 0.9, 1.5)
    story.run(1.6, 1.8)
    story.run(2, 2.5, worker=1)
    assert story.broken() == ["P1"]


def test_two_at_once_after_a_crash(story: Story) -> None:
    """The dead one has ended; those that follow it are two."""
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.run(1.4, 2.4, worker=1)
    story.run(1.4, 2.4, worker=2)
    assert story.broken() == ["P1", "P1"]


def test_fences_grow(story: Story) -> None:
    story.run(0, 0.1, "raised")
    again = story.run(0.2, 0.4)
    story.history.bodies[-1].fence = 1
    assert story.broken() == ["P3"]
    story.history.bodies[-1].fence = 0
    assert "P3" in story.broken()
    story.history.bodies[-1].fence = 2
    story.replay(again, 1)
    assert story.broken() == []


def test_answers_that_are_none(story: Story) -> None:
    first = story.run(0, 0.1, "raised")
    story.replay(first, 0.2, worker=1)
    assert story.broken() == ["P2"]


@pytest.mark.parametrize("told", ["Unknown", "NotKept"])
def test_an_answer_that_is_forgotten(strict: Story, told: str) -> None:
    strict.run(0, 0.5)
    strict.refused(told, 1, worker=1)
    assert "P2" in strict.broken()
    strict.fault("disturbed", 0, 0.4, 0.9)  # it may not have been stored
    assert "P2" not in strict.broken()


def test_an_answer_that_the_product_does_not_have(story: Story) -> None:
    story.call(0, 0.1, "KeyError('x')")
    assert story.broken() == ["P6"]


def test_an_answer_of_another_record_or_payload(story: Story) -> None:
    first = story.run(0, 0.5)
    story.replay(first, 1, payload="200")
    story.replay(first, 1, identity=PAY._replace(caller="ben"))
    assert story.broken() == ["P7", "P7"]


@pytest.mark.parametrize(
    ("answer", "broken"), [("Conflict", []), ("Processing", ["P7", "P4"]), ("Unknown", ["P7", "P5"])]
)
def test_another_payload_is_a_conflict(story: Story, answer: str, broken: list[str]) -> None:
    story.run(0, 0.5)
    story.refused(answer, 1, payload="200", worker=1)
    assert story.broken() == broken


def test_a_conflict_with_nobody(story: Story) -> None:
    story.run(0, 0.5)
    story.refused("Conflict", 1)
    assert story.broken() == ["P7"]


def test_another_payload_never_takes_over(story: Story) -> None:
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.run(3, 3.1, payload="200", worker=1)
    assert story.broken() == ["P7"]


@pytest.mark.parametrize(("sent", "broken"), [(2.2, []), (2.4, ["P4"])])
def test_a_crash_holds_the_key_for_a_lease_and_a_second(story: Story, sent: float, broken: list[str]) -> None:
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.refused("Processing", sent, worker=1)
    assert story.broken() == broken


def test_after_an_outage_owners_get_a_grace(story: Story) -> None:
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.fault("away", None, 0.5, 2.0)
    story.refused("Processing", 5.9, worker=1)
    assert story.broken() == []
    story.refused("Processing", 6.1, worker=1)
    assert story.broken() == ["P4"]


@pytest.mark.parametrize(("sent", "broken"), [(6.9, []), (7.1, ["P4"])])
def test_a_process_that_missed_the_store_takes_nobody_over_for_a_grace(
    story: Story, sent: float, broken: list[str]
) -> None:
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.fault("missed", 1, 4.0, 5.0)
    story.refused("Processing", sent, worker=1)
    assert story.broken() == broken


def test_a_key_is_free_at_once_when_its_attempt_was_answered(story: Story) -> None:
    story.run(0, 0.5)
    story.refused("Processing", 0.6, worker=1)
    assert story.broken() == ["P4"]


def test_unknown_without_refuse(story: Story) -> None:
    story.body(story.call(0), 0.1)
    story.fault("killed", 0, 0.3)
    story.refused("Unknown", 2, worker=1)
    assert story.broken() == ["P5"]


def test_a_call_takes_no_longer_than_its_limits(story: Story) -> None:
    story.call(0, 1.4, "IdempotencyStoreUnavailable")
    assert story.broken() == []
    story.call(0, 1.6, "IdempotencyStoreUnavailable")
    assert story.broken() == ["P4"]
    story.fault("paused", 0, 0.2, 0.9)
    story.fault("paused", 0, 0.5, 0.9)  # noticed twice
    assert story.broken() == []


def test_a_call_that_is_never_answered(story: Story) -> None:
    story.call(0)
    assert story.broken() == ["P4"]
    story.fault("killed", 0, 0.3)
    assert story.broken() == []


def test_nothing_runs_without_the_store(story: Story) -> None:
    story.fault("cut", 0, 0, 2)
    story.run(0.5, 1)
    assert story.broken() == ["P6"]


def test_a_body_that_nobody_asked_for(story: Story) -> None:
    story.run(0, 0.5)
    story.history.bodies[0].identity = PAY._replace(key="other")
    assert story.broken() == ["P7", "P6"]


def test_a_history_reads_the_file_of_effects() -> None:
    history = History(1.0, 0.5, 2.0)
    history.add_effects(['["began", 3, "pay", "anna", "k", "100", 7, 42, 0.5]', '["ended", 3, 0.75, "returned"]'])
    assert history.bodies == [Body(3, PAY, "100", 7, 42, 0.5, 0.75, "returned")]


def test_a_history_learns_from_the_file_who_took_a_call_and_what_it_was_answered() -> None:
    history = History(1.0, 0.5, 2.0, calls={3: Call(3, PAY, "100", "rerun", -1, 0.25)})
    history.add_effects(
        [
            '["took", 3, "pay", "anna", "k", "100", "rerun", 42, 0.5]',
            '["took", 4, "pay", "anna", "k", "100", "rerun", 43, 0.75]',
            '["answered", 4, 0.9, "value", 3]',
            '["dies", 42, 1.0]',
        ]
    )
    assert history.calls == {
        3: Call(3, PAY, "100", "rerun", 42, 0.25, 0.5),
        4: Call(4, PAY, "100", "rerun", 43, 0.75, 0.75, 0.9, "value", 3),
    }
    assert history.faults == [Fault("killed", 42, 1.0, 1.0)]
