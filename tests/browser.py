"""A real `affect serve` in a process of its own, and a real Chromium that looks at it.

`serving` starts the server over a folder of takes, `watched` opens a page and keeps what went wrong
on it: errors of its console, scripts that failed, requests to anywhere else. Chromium is one that
is there already (AFFECT_CHROMIUM names another); where there is none the tests skip, and say so.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START = 60.0  # s until the address is told; 8 to 12 on two free cores
# A page that is closed while it is being sent something ends in these; they are no fault of it.
HARMLESS = ("net::ERR_ABORTED", "net::ERR_NETWORK_CHANGED")
SCREENS = ROOT / ".work" / "screens"


@dataclass(slots=True)
class Server:
    """A running server: its address without a slash at the end, its folder, its process."""

    address: str
    out: Path
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(urlsplit(self.address).port or 0)

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(out: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """`affect serve` over a folder; it is asked to end as Ctrl-C asks."""
    log = out.with_name(f"{out.name}.log")
    given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "studio.cli", "serve", "--out", str(out),
             "--port", str(free_port()), *arguments],
            cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        pipe = process.stdout
        assert pipe is not None

        def read() -> None:
            for line in pipe:
                lines.put(line)
            lines.put("")  # it ended

        threading.Thread(target=read, daemon=True).start()
        try:
            try:
                address = lines.get(timeout=START).strip()
            except queue.Empty:
                address = ""
            if not address.startswith("http"):
                pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
            yield Server(address.rstrip("/"), out, process, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            pipe.close()


def chromium() -> str:
    """The browser of this machine; a test that needs one skips where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed: no browser test runs")
    named = os.environ.get("AFFECT_CHROMIUM", "")
    found = next((path for one in (named, *CHROMIUM) if one and (path := shutil.which(one))), None)
    if found is None:
        pytest.skip("no Chromium found (set AFFECT_CHROMIUM): NO browser test runs")
    return found


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """A headless Chromium that finds no machine but this one."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, headless=True,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )  # fmt: skip
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True)
class Watched:
    """A page, and what went wrong on it so far."""

    page: Any
    faults: list[str] = field(default_factory=list)


@contextlib.contextmanager
def watched(
    browser: Any, server: Server, *, width: int = 1280, height: int = 900, **options: Any
) -> Iterator[Watched]:
    """The page of a server, laid out and ready to be used; its faults must stay empty."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    seen = Watched(context.new_page())
    page = seen.page
    page.set_default_timeout(20_000)

    def console(message: Any) -> None:
        if message.type == "error" and not any(one in message.text for one in HARMLESS):
            seen.faults.append(f"console: {message.text[:400]}")

    def request(one: Any) -> None:
        place = urlsplit(one.url)
        if place.scheme in ("http", "https", "ws") and place.hostname != "127.0.0.1":
            seen.faults.append(f"asked elsewhere: {one.url[:200]}")

    page.on("console", console)
    page.on("pageerror", lambda error: seen.faults.append(f"script: {str(error)[:400]}"))
    page.on("request", request)
    try:
        page.goto(server.address)
        page.locator("#pad .puck").wait_for()
        page.locator("#make-image").wait_for()
        yield seen
    finally:
        context.close()


def screenshot(page: Any, name: str) -> Path:
    """A picture of the whole page for people to look at."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    path = SCREENS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path
