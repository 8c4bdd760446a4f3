"""Shows the main job on the embedded store: a real server, a crash, a restart. Exits non-zero if a promise breaks."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import httpx

HERE = Path(__file__).parent


class Shop:
    """The example application under uvicorn, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.txt"
        self.environment = {**os.environ, "SHOP_STORE": str(folder / "shop.db"), "SHOP_LEDGER": str(self.ledger)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)
        self.start()

    def start(self) -> None:
        options = ["--app-dir", str(HERE), "--port", str(self.port), "--log-level", "warning"]
        self.process = subprocess.Popen([sys.executable, "-m", "uvicorn", "shop:app", *options], env=self.environment)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.get("/openapi.json")
                return
            except httpx.TransportError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the example application did not start") from None
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pay(self, key: str | None, amount: int, **more: float) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post("/pay", params={"amount": amount, **more}, headers=headers)

    def charges(self) -> int:
        return len(self.ledger.read_text().splitlines()) if self.ledger.exists() else 0


broken: list[str] = []


def title(text: str) -> None:
    print(f"\n{text}")


def show(said: str, answer: httpx.Response, shop: Shop, status: int, charges: int, replayed: bool = False) -> None:
    """Prints one exchange, and holds it against what was promised."""
    mark = "  (replayed)" if "idempotent-replayed" in answer.headers else ""
    body = answer.json()
    text = body["detail"] if answer.is_error else json.dumps(body)
    print(f"  {said:<44} → {answer.status_code}{mark}  {text}")
    if (answer.status_code, shop.charges(), bool(mark)) != (status, charges, replayed):
        broken.append(f"{said}: promised were {status}, {charges} charges, replayed={replayed}; it is {shop.charges()}")


def story(shop: Shop) -> None:
    """What happens to a client that repeats itself."""
    title("A client pays, and repeats the request because it never saw the answer.")
    show("POST /pay?amount=42   key order-1", shop.pay("order-1", 42), shop, 200, 1)
    show("the same again", shop.pay("order-1", 42), shop, 200, 1, replayed=True)
    show("the same key for another amount", shop.pay("order-1", 43), shop, 422, 1)
    show("no key at all", shop.pay(None, 42), shop, 400, 1)
    print(f"  the card was charged {shop.charges()} time")

    title("Twenty requests with one key at once, at a bank that takes half a second.")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: shop.pay("order-2", 7, bank_takes=0.5), range(20)))
    told = sum(answer.status_code == 409 for answer in answers)
    paid = sum(answer.status_code == 200 for answer in answers)
    print(f"  {paid} got the answer, {told} were told that it is being processed (409, Retry-After)")
    if paid < 1 or paid + told != 20 or shop.charges() != 2:
        broken.append(f"twenty at once: {shop.charges() - 1} charges, {[answer.status_code for answer in answers]}")
    show("one of the others, later", shop.pay("order-2", 7, bank_takes=0.5), shop, 200, 2, replayed=True)

    title("The server is killed (kill -9) in the middle of a charge, and started again.")
    with ThreadPoolExecutor(2) as pool:
        # One of the two runs; the other one is told so at once, and then it has begun.
        both = [pool.submit(shop.pay, "order-3", 9, bank_takes=3) for _ in range(2)]
        told, running = wait(both, return_when=FIRST_COMPLETED)
        shop.kill()
        if [answer.result().status_code for answer in told] != [409] or running.pop().exception() is None:
            broken.append("the killed server answered")
    print("  the client lost its connection; nobody knows yet whether it has paid")
    shop.start()
    show("a repeat within the lease of 5 s", shop.pay("order-3", 9, bank_takes=3), shop, 409, 2)
    deadline = time.monotonic() + 10
    while (answer := shop.pay("order-3", 9, bank_takes=3)).status_code == 409 and time.monotonic() < deadline:
        time.sleep(float(answer.headers["retry-after"]))
    show("a repeat after the lease: it runs", answer, shop, 200, 3)
    show("and once more", shop.pay("order-3", 9, bank_takes=3), shop, 200, 3, replayed=True)
    show("the first order, from before the crash", shop.pay("order-1", 42), shop, 200, 3, replayed=True)
    print(f"\nThree orders, {shop.charges()} charges.")


def main() -> None:
    """Runs the story in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        try:
            story(shop)
        finally:
            shop.kill()
    for promise in broken:
        print(f"BROKEN  {promise}", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
