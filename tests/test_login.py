"""A server with a login: who has not logged in is told nothing, on any route there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra ui is not installed")

import httpx

from studio.server import Guard, prepare

TOLD = {
    "/", "/login", "/logout", "/svelte/x", "/static/x", "/assets/x", "/favicon.ico", "/theme.css",
    "/robots.txt", "/manifest.json", "/gradio_api/user", "/gradio_api/token",
    "/gradio_api/startup-events", "/gradio_api/theme.css",
}  # fmt: skip
"""What a login is drawn with; the folders hold gradio's own scripts."""


def louder(text: str) -> str:
    return text.upper()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A small page behind the guard of `affect serve`, and its address."""
    prepare(tmp_path_factory.mktemp("login") / "out")
    import gradio as gr
    from starlette.middleware import Middleware

    with gr.Blocks(analytics_enabled=False) as page:
        gr.api(louder, api_name="louder")
    _, address, _ = page.launch(
        auth=("ann", "a secret word"), prevent_thread_lock=True, quiet=True, inbrowser=False,
        ssr_mode=False, app_kwargs={"middleware": [Middleware(Guard)]},
    )  # fmt: skip
    yield page, address
    page.close(verbose=False)


def routes(found: Any) -> Iterator[Any]:
    """Every route of an app, those of its parts too."""
    for one in found:
        part = getattr(one, "routes", None) or getattr(
            getattr(one, "original_router", None), "routes", None
        )
        if part:
            yield from routes(part)
        elif getattr(one, "path", None):
            yield one


def test_no_route_is_open_to_strangers(served: tuple[Any, str]) -> None:
    page, address = served
    asked, answered = set(), {}
    with httpx.Client(base_url=address, timeout=5) as stranger:
        for route in routes(page.app.routes):
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in route.methods or {"GET"}:
                asked.add(path)
                body = {"json": {}} if method == "POST" else {}
                with stranger.stream(method, path, **body) as answer:
                    if answer.status_code not in (401, 404):
                        answered[path.rstrip("/") or "/"] = answer.status_code
    assert {"/gradio_api/cancel", "/gradio_api/upload", "/config", "/openapi.json"} <= asked
    assert len(asked) > 60
    assert set(answered) <= TOLD, answered
    assert answered["/"] == 200, "the login itself"


def test_who_logs_in_is_served(served: tuple[Any, str]) -> None:
    _, address = served
    with httpx.Client(base_url=address, timeout=5) as one:
        for name, word in (("ann", "another word"), ("bob", "a secret word")):
            given = {"username": name, "password": word}
            assert one.post("/login", data=given).status_code == 400
            assert one.get("/config").status_code == 401
        given = {"username": "ann", "password": "a secret word"}
        assert one.post("/login", data=given).status_code == 200
        assert one.get("/config").status_code == 200
        one.get("/logout")
        assert one.get("/config").status_code == 401
    with httpx.Client(base_url=address, timeout=5, cookies={"access-token-x": "y"}) as forged:
        assert forged.get("/config").status_code == 401


def test_a_program_logs_in_too(served: tuple[Any, str], tmp_path: Path) -> None:
    from gradio_client import Client

    client = Client(
        served[1], auth=("ann", "a secret word"), verbose=False, download_files=tmp_path
    )
    assert client.predict("quiet", api_name="/louder") == "QUIET"
