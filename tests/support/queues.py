"""Queues as their consumers see them: what is not acknowledged comes again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Message:
    body: dict[str, Any]
    receipt: int = 0


@dataclass
class Queue:
    """Like SQS: a received message is hidden for a while, and comes again unless its latest receipt deletes it."""

    visibility_timeout: float = 30
    now: float = 0
    waiting: dict[int, tuple[dict[str, Any], float, int]] = field(default_factory=dict)
    numbers: Any = field(default_factory=itertools.count)

    def send(self, body: dict[str, Any]) -> None:
        self.waiting[next(self.numbers)] = (body, 0, -1)

    def receive(self) -> list[Message]:
        messages = []
        for number, (body, visible_at, _) in self.waiting.items():
            if visible_at <= self.now:
                receipt = next(self.numbers)
                self.waiting[number] = (body, self.now + self.visibility_timeout, receipt)
                messages.append(Message(body, receipt))
        return messages

    def acknowledge(self, message: Message) -> None:
        for number, (_, _, receipt) in list(self.waiting.items()):
            if receipt == message.receipt:
                del self.waiting[number]

    def advance(self, by: float) -> None:
        self.now += by


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    value: Any


@dataclass
class Log:
    """Like a partition of Kafka: a consumer reads on from where it is, another one from what was committed."""

    values: list[Any]
    committed: int = 0
    position: int = 0

    def poll(self) -> list[Record]:
        records = [
            Record("ledger", 0, offset, self.values[offset]) for offset in range(self.position, len(self.values))
        ]
        self.position = len(self.values)
        return records

    def seek(self, offset: int) -> None:
        self.position = offset

    def commit(self, offset: int) -> None:
        self.committed = max(self.committed, offset)

    def rebalance(self) -> None:
        """The partition goes to another consumer."""
        self.position = self.committed
