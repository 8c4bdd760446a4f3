"""The operator's page of the command line, in a real Chromium."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browsers import chromium
from pyidempotent import attempt
from pyidempotent.backends import Backend
from pyidempotent.backends.sqlite import SqliteBackend

LIMIT = 10_000  # ms, for whatever is waited for

IMAGES = Path(__file__).parents[2] / "docs/images"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Console:
    """The command, and the file that it shows."""

    def __init__(self, path: Path) -> None:
        self.backend = SqliteBackend(path)
        self.backend.purge()  # so that the file is there
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyidempotent", "console", f"sqlite:///{path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "USER": "ann"},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.process.communicate()
        self.root = self.address.partition("/enter")[0]

    def stop(self) -> str:
        """What it has said beside the address."""
        self.process.terminate()
        _, said = self.process.communicate(timeout=30)
        return said


def left_unknown(backend: Backend, operation: str, key: str) -> str:
    """A record whose outcome nobody knows, and its id."""
    with contextlib.suppress(ZeroDivisionError), attempt(backend, key=key, name=operation, after_crash="refuse"):
        raise ZeroDivisionError
    (record,) = [record for record in backend.unfinished() if record.label == f"{operation} {key}"]
    assert record.state == "unknown"
    return record.id


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path / "keys.db")
    yield console
    console.stop()


def operator(browser: Browser, console: Console, **options: Any) -> Page:
    """A page of somebody who came with the address."""
    context = browser.new_context(**options)
    context.set_default_timeout(LIMIT)
    page = context.new_page()
    page.goto(console.address)
    return page


def test_list_detail_and_resolve(browser: Browser, console: Console) -> None:
    left_unknown(console.backend, "POST /pay", "order-7")
    with attempt(console.backend, key="s3cret-done", name="shop.ship") as done:
        done.result = {"shipped": True}
    page = operator(browser, console)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    expect(page.locator("tbody tr")).to_have_count(2)
    assert "order-7" not in page.content()
    with attempt(console.backend, key="s3cret-live", name="shop.live"):
        expect(page.get_by_text("shop.live")).to_be_visible(timeout=LIMIT)  # it comes by itself
    page.click("tbody tr:has-text('POST /pay') a")
    expect(page.get_by_role("heading", level=1)).to_contain_text("POST /pay")
    assert "order-7" not in page.content()
    page.get_by_role("link", name="Show the key").click()
    expect(page.locator("code.secret")).to_have_text("order-7")
    form = page.locator("form", has_text="It happened")
    form.get_by_label("Status").fill("201")
    form.get_by_label("Body").fill('{"charged": 42}')
    expect(form.get_by_label("Value, in JSON")).to_be_hidden()
    form.get_by_label("Why").fill("the bank has it")
    form.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_contain_text("Resolved")
    record = console.backend.get("order-7", operation="POST /pay")
    assert record is not None
    assert record.answer is not None
    assert (record.answer.status, record.answer.body) == (201, b'{"charged": 42}')
    page.get_by_role("link", name="Show the body").click()
    expect(page.locator("pre")).to_have_text('{"charged": 42}')
    assert problems == []


def test_the_value_of_a_function_is_what_its_repeat_gets(browser: Browser, console: Console) -> None:
    id = left_unknown(console.backend, "shop.charge", "order-7")
    page = operator(browser, console)
    page.goto(f"{console.root}/record/{id}")
    form = page.locator("form", has_text="It happened")
    form.get_by_label("Value, in JSON").fill('{"charged": [42, -1, 0.5, null, true, "é", 1180591620717411303424]}')
    form.get_by_label("Why").fill("the bank has it")
    form.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("alert")).to_contain_text("too large")
    form.get_by_label("Value, in JSON").fill('{"charged": [42, -1, 0.5, null, true, "é", 9007199254740993]}')
    form.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_contain_text("Resolved")
    with attempt(console.backend, key="order-7", name="shop.charge", after_crash="refuse") as again:
        assert again.replayed
        assert again.result == {"charged": [42, -1, 0.5, None, True, "é", 9007199254740993]}


def test_a_record_that_has_changed_is_left_alone(browser: Browser, console: Console) -> None:
    id = left_unknown(console.backend, "POST /pay", "order-7")
    page = operator(browser, console)
    page.goto(f"{console.root}/record/{id}")
    before = console.backend.get(id=id)
    assert before is not None
    console.backend.resolve(id=id, fence=before.fence)
    left_unknown(console.backend, "POST /pay", "order-7")
    form = page.locator("form", has_text="It did not happen")
    form.get_by_label("Why").fill("the bank has no such charge")
    form.get_by_role("button", name="Release").click()
    expect(page.get_by_role("alert")).to_contain_text("has changed since you looked at it")
    after = console.backend.get(id=id)
    assert after is not None
    assert after.fence > before.fence


def test_strangers_see_nothing(browser: Browser, console: Console) -> None:
    id = left_unknown(console.backend, "POST /pay", "order-7")
    known = operator(browser, console)
    stranger = browser.new_context().new_page()
    for path in [
        "/",
        "/records",
        "/rows",
        f"/record/{id}",
        "/enter?token=0",
        console.address.removeprefix(console.root),
    ]:
        answer = stranger.goto(console.root + path)
        assert answer is not None
        assert answer.status == 403, path
        assert "/pay" not in stranger.content()
    # A name of another site's that leads here gets no further with a cookie of ours.
    answer = known.request.get(f"{console.root}/records", headers={"host": "evil.example"})
    assert answer.status == 403
    assert stranger.context.cookies() == []


def test_a_hostile_label_is_text(browser: Browser, console: Console) -> None:
    hostile = "<script>document.title='taken'</script><img/src=x/onerror=document.title='taken'>"
    id = left_unknown(console.backend, "POST" + hostile, hostile)
    page = operator(browser, console)
    expect(page.locator("tbody td.operation")).to_have_text("POST" + hostile)
    page.goto(f"{console.root}/record/{id}?show=key")
    expect(page.locator("code.secret")).to_have_text(hostile)
    assert "taken" not in page.title()


def test_by_keyboard_alone(browser: Browser, console: Console) -> None:
    left_unknown(console.backend, "POST /pay", "order-7")
    page = operator(browser, console)

    def tab_to(target: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("target => document.activeElement.matches(target)", target):
                return
        raise AssertionError(f"{target} can't be reached by Tab")

    tab_to("tbody a")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/record/"))
    tab_to("form[action$=release] [name=reason]")
    page.keyboard.type("the bank has no such charge")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Released")
    assert console.backend.get("order-7", operation="POST /pay") is None


def test_without_javascript(browser: Browser, console: Console) -> None:
    id = left_unknown(console.backend, "POST /pay", "order-7")
    page = operator(browser, console, java_script_enabled=False)
    page.get_by_role("link", name="Refresh each 5 s").click()
    assert page.locator("meta[http-equiv=refresh]").count() == 1
    page.get_by_role("link", name="Stop").click()
    page.click("tbody a")
    form = page.locator("form", has_text="It did not happen")
    form.get_by_role("button", name="Release").click()  # without a reason the browser does not send it
    assert console.backend.get(id=id) is not None
    form.get_by_label("Why").fill("no such charge")
    form.get_by_role("button", name="Release").click()
    expect(page.get_by_role("status")).to_contain_text("Released")
    assert console.backend.get(id=id) is None
    said = console.stop()
    assert re.search(rf"an operator \(ann\) released the record \[{id[:12]}\], fence \d+: \"no such charge\"", said), (
        said
    )
    assert "order-7" not in said


@contextlib.contextmanager
def another_site(html: str) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_another_origin_changes_nothing_and_frames_nothing(browser: Browser, console: Console) -> None:
    id = left_unknown(console.backend, "POST /pay", "order-7")
    page = operator(browser, console)
    page.goto(f"{console.root}/record/{id}")
    # Even with all that the form has: cookies don't tell ports apart.
    fields = "".join(
        f"<input name={name} value='{page.locator(f'form[action$=release] [name={name}]').get_attribute('value')}'>"
        for name in ("token", "fence")
    )
    release = f"{console.root}/record/{id}/release"
    form = (
        f"<form method=post action={release}>{fields}<input name=reason value=mine><button>Win a prize</button></form>"
    )
    with another_site(f"{form}<iframe src={console.root}/records></iframe>") as url:
        page.goto(url)
        page.wait_for_load_state()
        assert all("Records" not in frame.content() for frame in page.frames)
        with page.expect_navigation() as navigation:
            page.get_by_role("button").click()
        assert navigation.value.status == 403
        expect(page.get_by_text("It comes from another site")).to_be_visible()
    assert console.backend.get(id=id) is not None


def shop(backend: Backend) -> str:
    """Records as an application has them; the id of one that waits for a person."""
    for n in range(5):
        with attempt(backend, key=f"order-{n}", name="POST /orders") as done:
            done.result = {"order": n}
    with attempt(backend, key="evt_1", name="shop.webhooks.refunded") as done:
        done.result = "refunded"
    left_unknown(backend, "shop.invoices.send", "invoice-3")
    return left_unknown(backend, "POST /pay", "order-7")


def shoot(page: Page, name: str) -> None:
    """A picture: for the docs where PICTURES is set, always one that has something on it."""
    picture = page.screenshot(full_page=True)
    assert 5_000 < len(picture) < 150_000
    if os.environ.get("PICTURES"):
        (IMAGES / name).write_bytes(picture)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_of_the_docs(browser: Browser, console: Console, scheme: Any) -> None:
    id = shop(console.backend)
    with attempt(console.backend, key="order-8", name="POST /pay"):
        size = {"width": 1100, "height": 620}
        page = operator(browser, console, color_scheme=scheme, viewport=size)
        expect(page.locator("tbody tr")).to_have_count(9)
        shoot(page, f"console-list-{scheme}.png")
        page.goto(f"{console.root}/record/{id}")
        shoot(page, f"console-record-{scheme}.png")
    page.set_viewport_size({"width": 390, "height": 700})
    page.goto(console.root)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "a telephone shows it without scrolling sideways"
