"""Plays a scenario of the conformance suite against a service: a client's steps, and what it must see."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from clients import until
from faces import FaceServer

METHODS = ("post", "patch", "get", "put", "delete")

#: The table of refusals: name → status, effect, whether there is a Retry-After.
REFUSALS = {
    "key-missing": (400, "none", False),
    "key-invalid": (400, "none", False),
    "processing": (409, "running", True),
    "unknown": (409, "unknown", False),
    "not-kept": (410, "done", False),
    "payload-too-large": (413, "none", False),
    "conflict": (422, "none", False),
    "scope-missing": (500, "none", False),
    "store-unavailable": (503, "none", True),
}

#: What belongs to the connection or the moment, not to the answer.
FLEETING = {
    b"date",
    b"server",
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"idempotent-replayed",
    b"set-cookie",
}

BROKEN = "broken"


class Answer:
    """What a client saw, and how far it has got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.broken = False

    def receive(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        try:
            for chunk in response.iter_raw():
                self.body += chunk
        except httpx.TransportError:
            self.broken = True

    def lasting(self, *but: bytes) -> list[tuple[bytes, bytes]]:
        """The end-to-end headers, in order."""
        return [(name, value) for name, value in self.headers if name not in FLEETING and name not in but]

    def header(self, name: str) -> list[str]:
        return [value.decode("latin-1") for known, value in self.headers if known == name.lower().encode()]

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


class Scenario:
    """One cell: a scenario against one or several servers of one face on one store.

    Parameters:
        steps: what ``scenarios.toml`` says.
        servers: where requests go, in turn.
    """

    def __init__(self, steps: list[dict[str, Any]], servers: list[FaceServer]) -> None:
        self.steps = steps
        self.servers = servers
        self.folder: Path = servers[0].folder
        self.run = uuid.uuid4().hex
        self.turn = 0
        self.answers: dict[str, Answer] = {}
        self.begun: dict[str, list[tuple[Answer, Future[None]]]] = {}
        self.pool = ThreadPoolExecutor(64)

    def play(self) -> None:
        """Takes every step."""
        try:
            for number, step in enumerate(self.steps, 1):
                try:
                    self.step(step)
                except AssertionError as error:
                    output = "\n".join(server.output()[-3000:] for server in self.servers)
                    raise AssertionError(f"step {number}, {step}: {error}\n{output}") from error
        finally:
            self.file("open").touch()  # nobody waits for a scenario that has ended
            self.pool.shutdown()

    def step(self, step: dict[str, Any]) -> None:
        if "runs" in step:
            assert self.runs() == step["runs"], f"the handlers ran {self.runs()} times"
        elif "open" in step:
            self.file("open").touch()
        elif "kill" in step:
            self.servers[0].kill()
        elif "terminate" in step:
            self.servers[0].signal(15)
        elif "start" in step:
            self.servers[0].kill()  # what was asked to end has ended, or it never will
            self.servers[0].start()
        elif "end" in step:
            self.end(step)
        elif "arrives" in step:
            ((answer, _),) = self.begun[step["arrives"]]
            until(lambda: len(answer.body) >= step["bytes"])
        else:
            self.request(step)

    # Requests.

    def request(self, step: dict[str, Any]) -> None:
        if "begin" in step or "drop" in step:
            self.begin(step)
        elif "leases" in step:
            enough = time.monotonic() + step["leases"]
            while time.monotonic() < enough:
                self.check(self.send(step), step)
        elif "again" in step:
            self.check(self.send_until(step), step)
        elif "times" in step:
            self.count(list(self.pool.map(lambda _: self.send(step), range(step["times"]))), step["see"])
        else:
            self.check(self.send(step), step)

    def begin(self, step: dict[str, Any]) -> None:
        answers = [Answer() for _ in range(step.get("times", 1))]
        leaves = "drop" in step
        pending = [self.pool.submit(self.exchange, step, answer, leaves) for answer in answers]
        self.begun[step.get("begin", "dropped")] = list(zip(answers, pending, strict=True))
        if not step.get("waits"):
            until(self.file("begun").exists)
        if leaves:
            pending[0].result()

    def end(self, step: dict[str, Any]) -> None:
        ended = self.begun.pop(step["end"])
        for _, pending in ended:
            pending.result(60)
        if "counts" in step["see"]:
            self.count([answer for answer, _ in ended], step["see"])
        else:
            ((answer, _),) = ended
            self.check(answer, {"as": step["end"], **step})

    def send(self, step: dict[str, Any]) -> Answer:
        answer = Answer()
        self.exchange(step, answer)
        return answer

    def send_until(self, step: dict[str, Any]) -> Answer:
        """The first answer that is as it must be, or the last one."""
        deadline = time.monotonic() + 15
        while True:
            answer = self.send(step)
            try:
                self.check(answer, step)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # for what only the passing of time brings, a lease's end above all
            else:
                return answer

    def exchange(self, step: dict[str, Any], answer: Answer, leaves: bool = False) -> None:
        """Sends a step's request; a client that leaves does so when the handler has begun."""
        method = next(name for name in METHODS if name in step)
        self.turn += 1
        server = self.servers[self.turn % len(self.servers)]
        with httpx.Client(base_url=server.url, timeout=60, verify=False) as client:  # no certificates to load
            request = client.build_request(
                method.upper(), step[method], headers=self.headers(step), content=self.content(step)
            )
            if leaves:
                self.leave(server, request)
                return
            try:
                response = client.send(request, stream=True)
            except httpx.TransportError:
                answer.broken = True
                return
            with contextlib.closing(response):
                answer.receive(response)

    def leave(self, server: FaceServer, request: httpx.Request) -> None:
        """Sends a request, and closes the connection when its handler has begun."""
        lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1".encode()]
        lines += [b"%s: %s" % header for header in request.headers.raw]
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"\r\n".join([*lines, b"", b""]) + request.read())
            until(self.file("begun").exists)

    def headers(self, step: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        lines = step.get("lines", ["KEY"] if "key" in step else [])
        name = step.get("key", "K")
        headers = [("X-Run", self.run), *step.get("headers", {}).items()]
        if "do" in step:
            headers.append(("X-Do", json.dumps(step["do"])))
        if "multipart" in step:
            headers.append(("Content-Type", f"multipart/form-data; boundary={self.boundary(step)}"))
        elif "type" in step:
            headers.append(("Content-Type", step["type"]))
        headers += [("Idempotency-Key", self.line(line, name)) for line in lines]
        return [(name.encode(), value.encode("latin-1")) for name, value in headers]

    def line(self, line: str, name: str) -> str:
        if line.startswith("LONG"):
            return (self.run * 500)[: int(line[4:])]
        return line.replace("KEY", f"{name}-{self.run}")

    def boundary(self, step: dict[str, Any]) -> str:
        step["boundary"] = step.get("boundary") or uuid.uuid4().hex
        return str(step["boundary"])

    def content(self, step: dict[str, Any]) -> bytes | Iterator[bytes]:
        if "multipart" in step:
            step["boundary"], boundary = None, self.boundary(step)
            part = 'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain'
            return f"--{boundary}\r\n{part}\r\n\r\n{step['multipart']}\r\n--{boundary}--\r\n".encode()
        body = str(step.get("body", "")).encode("latin-1") * step.get("repeat", 1)
        if "chunked" not in step:
            return body
        return (body[at : at + 100] for at in range(0, len(body), 100))

    # What is seen.

    def check(self, answer: Answer, step: dict[str, Any]) -> None:
        """Holds an answer against what must be seen."""
        see = step["see"]
        if "any" in see:
            assert answer.status in see["any"], answer
            return
        if see.get("broken"):
            assert answer.broken or answer.status >= 500, answer
            return
        assert not answer.broken, answer
        if "problem" in see:
            self.check_problem(answer, see["problem"], see.get("members", {}), step)
            return
        assert answer.header("idempotent-replayed") == (["true"] if see.get("replayed") else []), answer
        if "status" in see:
            assert answer.status == see["status"], answer
        if "same_as" in see:
            first = self.answers[see["same_as"]]
            # A server may frame what once came in pieces by its length.
            framing = () if first.header("content-length") else (b"content-length",)
            assert answer.lasting(*framing) == first.lasting(*framing), f"{answer} is not {first}"
            assert (answer.status, answer.body) == (first.status, first.body), f"{answer} is not {first}"
        if "differs_from" in see:
            assert answer.body != self.answers[see["differs_from"]].body, answer
        for name, value in see.get("headers", {}).items():
            assert answer.header(name) == [value], answer
        for name in see.get("without", []):
            assert answer.header(name) == [], answer
        if "body" in see:
            assert answer.body == see["body"].encode("latin-1"), answer
        if "length" in see:
            assert len(answer.body) == see["length"], answer
        if "as" in step:
            self.answers[step["as"]] = answer

    def check_problem(self, answer: Answer, name: str, members: dict[str, Any], step: dict[str, Any]) -> None:
        status, effect, retry_after = REFUSALS[name]
        assert answer.status == status, answer
        assert answer.header("content-type") == ["application/problem+json"], answer
        problem = json.loads(answer.body)
        assert problem["type"].endswith(f":{name}"), answer
        assert (problem["status"], problem["effect"]) == (status, effect), answer
        assert problem["title"], answer
        assert problem["detail"], answer
        path = next(step[method] for method in METHODS if method in step).partition("?")[0]
        assert problem["instance"] == path, answer
        assert {member: problem.get(member) for member in members} == members, answer
        assert answer.header("retry-after") == (["1"] if retry_after else []), answer
        assert answer.header("idempotent-replayed") == [], answer

    def count(self, answers: list[Answer], see: dict[str, Any]) -> None:
        counts = Counter(str(answer.status) for answer in answers)
        if "counts" in see:
            assert counts == see["counts"], answers
        else:
            assert {int(status) for status in counts} <= set(see["any"]), answers
            assert counts["200"], answers
        assert len({answer.body for answer in answers if answer.status == 200}) == 1, answers
        originals = [answer for answer in answers if answer.status == 200 and not answer.header("idempotent-replayed")]
        assert len(originals) <= 1, answers

    # The handler's side.

    def file(self, kind: str) -> Path:
        return self.folder / f"{self.run}.{kind}"

    def runs(self) -> int:
        book = self.folder / "runs"
        return book.read_text().splitlines().count(self.run) if book.exists() else 0
