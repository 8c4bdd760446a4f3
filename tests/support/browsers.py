"""A real Chromium, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from servers import installed

__all__ = ["chromium"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's own; nothing is downloaded."""
    program = installed("chromium", "apt-get install chromium")
    # Its sandbox needs a user that is not root.
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
