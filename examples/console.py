"""The shop for an operator: it crashes now and then, and what it leaves unknown waits for you. `make console`.

It prints the address of the operator's page, that of Prometheus' text, and the line for a shell. Ctrl-C ends it all.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from demo import Shop

#: The shop is killed in the middle of this payment, and again after so many others.
FIRST, OTHERS = 12, 120

SCRIPT = Path(sys.executable).parent / "pyidempotent"


def load(shop: Shop, ends: threading.Event) -> None:
    """Payments, each sent twice, until the end; now and then the shop is killed in the middle of one."""
    for number in itertools.count(1):
        if ends.wait(0.25):
            return
        key = f"order-{number}"
        if number % OTHERS != FIRST:
            shop.pay(key, number)
            shop.pay(key, number)
            continue
        with ThreadPoolExecutor(2) as pool:
            # One of the two runs; the other one is told so at once, and then it has begun.
            both = [pool.submit(shop.pay, key, number, bank_takes=30) for _ in range(2)]
            wait(both, return_when=FIRST_COMPLETED)
            shop.kill()
        shop.start()
        print(f"The shop was killed while it charged {key}: nobody knows whether it did.", flush=True)


def main() -> None:
    """Runs until somebody ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    os.environ |= {"SHOP_AFTER_CRASH": "refuse", "SHOP_METRICS": "1"}
    ends = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        url = f"sqlite:///{shop.environment['SHOP_STORE']}"
        shop.pay("order-0", 1)
        working = threading.Thread(target=load, args=(shop, ends))
        working.start()
        page = None
        try:
            print(f"The shop:         http://127.0.0.1:{shop.port}/docs")
            print(f"Prometheus' text: http://127.0.0.1:{shop.port}/metrics/")
            print(f"A shell:          export IDEMPOTENCY_URL={url}; {SCRIPT.name} list --state unknown")
            print("The page:", flush=True)
            page = subprocess.Popen([SCRIPT, "console", "--url", url])
            page.wait()
        except KeyboardInterrupt:
            pass
        finally:
            ends.set()
            working.join()
            if page is not None:
                page.kill()
                page.wait()
            shop.kill()


if __name__ == "__main__":
    main()
