"""`make console`, as a person uses it: a payment becomes unknown and is resolved; its repeat gets the result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from commands import pyidempotent

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_unknown_payment_is_resolved_and_its_repeat_gets_the_result() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", EXAMPLES / "console.py"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        said = ""
        while not (lost := re.search(r"killed while it charged (order-\d+)", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        key = lost[1]
        shop = re.search(r"(http://127.0.0.1:\d+)/docs", said)
        page = re.search(r"(http://127.0.0.1:\d+/\S*token=\S+)", said)
        url = re.search(r"IDEMPOTENCY_URL=(\S+);", said)
        assert shop is not None
        assert page is not None
        assert url is not None
        with httpx.Client(follow_redirects=True) as browser:
            assert "unknown" in browser.get(page[1]).text
        assert "idempotency_calls_total" in httpx.get(f"{shop[1]}/metrics/").text

        repeat = {"url": f"{shop[1]}/pay?amount={key[6:]}&bank_takes=30", "headers": {"Idempotency-Key": key}}
        # Until its lease ends, the payment is in flight.
        with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=10) as client:
            told = client.post(**repeat)
            while told.status_code == 409 and not told.json()["type"].endswith("unknown"):
                told = client.post(**repeat)
        assert told.json()["type"].endswith("unknown")
        body = json.dumps({"status": "charged", "amount": int(key[6:])})
        resolve = ("resolve", key, "--operation", "POST /pay", "--status", "200", "--body", body)
        done = pyidempotent(*resolve, "--type", "application/json", "--yes", url=url[1])
        assert done.code == 0, done
        assert httpx.post(**repeat, timeout=10).json()["status"] == "charged"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        process.stdout.close()
