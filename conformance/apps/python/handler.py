"""What the handler of a Python application of the conformance suite does. README.md says it in words."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

FOLDER = Path(os.environ["RUNS"])
STORE = os.environ["STORE"]
PATIENCE = 60.0

#: The options of the paths that have some; ``{user}`` is filled in by the face, in its own way.
ROUTES: dict[str, dict[str, Any] | None] = {
    "/required/*": {"required": True},
    "/strict/*": {"key_format": "strict"},
    "/brief/*": {"ttl": 1, "lease": 1},
    "/short/*": {"lease": 1},
    "/refuse/*": {"lease": 1, "after_crash": "refuse"},
    "/waits/*": {"wait": 20},
    "/small/*": {"max_request_bytes": 1000, "max_response_bytes": 1000},
    "/large/*": {"max_response_bytes": 8 * 1024 * 1024},
    "/left-out/*": None,
}


class Handler:
    """One run.

    Parameters:
        run: the ``X-Run`` header.
        do: the ``X-Do`` header.
    """

    def __init__(self, run: str, do: str) -> None:
        self.run = run
        self.do: dict[str, Any] = json.loads(do or "{}")
        self.stream: dict[str, Any] | None = self.do.get("stream")
        with (FOLDER / "runs").open("a") as book:  # O_APPEND: whole lines, from any process
            book.write(f"{run}\n")
        self.number = (FOLDER / "runs").read_text().splitlines().count(run)

    @property
    def waits_first(self) -> bool:
        return bool(self.do.get("gate")) and self.stream is None

    def pass_gate(self) -> Iterator[None]:
        """Yields as often as it has to look again."""
        (FOLDER / f"{self.run}.begun").touch()
        give_up = time.monotonic() + PATIENCE
        while not (FOLDER / f"{self.run}.open").exists() and time.monotonic() < give_up:
            yield

    def wait(self) -> None:
        for _ in self.pass_gate():
            time.sleep(0.005)

    async def wait_async(self) -> None:
        for _ in self.pass_gate():
            await asyncio.sleep(0.005)

    def answer(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body, to the request's body; raises where the run fails."""
        if self.number <= self.do.get("fail", 0):
            if "failing" not in self.do:
                raise RuntimeError("this run fails")
            return self.do["failing"], [("content-type", "text/plain")], b"this run fails"
        headers = [(name, value) for name, value in self.do.get("headers", [])]
        if "echo" in self.do:
            content = f"{len(body)}:{hashlib.sha256(body).hexdigest()}".encode()
        elif "body" in self.do:
            content = self.do["body"].encode("latin-1")
        else:
            content = json.dumps({"run": uuid4().hex}).encode()
        if not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("content-type", "application/octet-stream"))
        if self.stream is not None and self.stream.get("length"):
            headers.append(("content-length", str(self.stream["chunks"] * self.stream["size"])))
        return self.do.get("status", 200), headers, content

    def _chunk(self) -> bytes:
        assert self.stream is not None
        return (uuid4().hex.encode() * (self.stream["size"] // 32 + 1))[: self.stream["size"]]

    def chunks(self) -> Iterator[bytes]:
        """The parts of a streamed answer."""
        assert self.stream is not None
        yield self._chunk()
        if self.stream.get("break"):
            raise RuntimeError("this stream breaks")
        if self.do.get("gate"):
            self.wait()
        for _ in range(self.stream["chunks"] - 1):
            yield self._chunk()

    async def chunks_async(self) -> AsyncIterator[bytes]:
        """The same in a loop."""
        assert self.stream is not None
        yield self._chunk()
        if self.stream.get("break"):
            raise RuntimeError("this stream breaks")
        if self.do.get("gate"):
            await self.wait_async()
        for _ in range(self.stream["chunks"] - 1):
            yield self._chunk()
