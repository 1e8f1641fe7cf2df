"""The server behind `affect serve`: its defaults, its two guards, and what is loaded beforehand.

A server answers to its own names only (a foreign Host gets 400), takes changes only from its own
pages (a foreign Origin gets 403), serves no folder, and keeps uploads in a folder of its own within
the folder of the takes. It asks nothing of the network. This file does not know the page.

Source: measured on Gradio 6.31; Host and Origin are compared as ComfyUI does on loopback.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

UPLOADS = ".uploads"
MAX_BODY = 8 * 2**20  # bytes of a request that is no upload: a scene, an emotion, knobs
MAX_UPLOAD = 512 * 2**20  # bytes: a film; pictures and sounds have lower limits in pipelines.media
LOCAL = ("127.0.0.1", "localhost", "::1")
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = (
    "", "login", "logout", "theme.css", "favicon.ico", "robots.txt", "manifest.json",
    "gradio_api/theme.css", "gradio_api/user", "gradio_api/login_check", "gradio_api/token",
    "gradio_api/startup-events",
)  # fmt: skip
"""Paths that whoever has not logged in may ask for: what the login is drawn with, and what gradio
asks itself for when it starts."""
_OPEN_FOLDERS = ("assets/", "static/", "svelte/")
Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


class ServerError(ValueError):
    """A server that must not be started so; one line."""


class Guard:
    """ASGI middleware: refuse foreign names (400), changes from foreign pages (403), and
    everything but the login to who has not logged in where that is asked for (401).

    hosts: names without ports that this server answers to; empty for any (then a login is needed).
    """

    def __init__(self, app: Asgi, hosts: tuple[str, ...] = LOCAL) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts and bare(host) not in self.hosts:
            await _answer(send, 400, "This server does not answer to that name.")
            return
        if _leads_out(str(scope.get("path", ""))):
            await _answer(send, 404, "There is nothing here.")
            return
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope.get("method") not in _SAFE
        if origin is not None and changes and urlsplit(origin).netloc.lower() != host.lower():
            await _answer(send, 403, "Changes are taken from this server's own pages only.")
            return
        if (
            origin is None
            and changes
            and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        ):
            await _answer(send, 403, "Changes are taken from this server's own pages only.")
            return
        if _is_stranger(scope):
            await _answer(send, 401, "Log in first.")
            return
        if changes and _too_large(scope, headers):
            await _answer(send, 413, "This is larger than anything the page sends.")
            return
        await self.app(scope, receive, send)


def _is_stranger(scope: Scope) -> bool:
    """Whether a login is asked for and whoever asks has not logged in.

    Gradio 6.31 itself lets anybody cancel runs, feed streams and hold a session open, and tells
    its routes.
    """
    served: Any = scope.get("app")
    if getattr(served, "auth", None) is None:
        return False
    path = str(scope.get("path", "")).strip("/")
    if path in _OPEN or path.startswith(_OPEN_FOLDERS):
        return False
    from starlette.requests import HTTPConnection

    cookies = HTTPConnection(scope).cookies
    names = (f"access-token{kind}-{served.cookie_id}" for kind in ("", "-unsecure"))
    return all(served.tokens.get(cookies.get(name)) is None for name in names)


def _too_large(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a request that is no upload says that it is larger than MAX_BODY, or says nothing."""
    if scope["type"] != "http" or str(scope.get("path", "")).rstrip("/").endswith("/upload"):
        return False  # uploads have a limit of their own
    size = headers.get("content-length", "0")
    endless = "chunked" in headers.get("transfer-encoding", "").lower()
    return endless or not size.isdigit() or int(size) > MAX_BODY


def _leads_out(path: str) -> bool:
    """Whether a path asks this server to ask another one, or is none that a file can have."""
    begin = path.lower().lstrip("/")
    return (
        "\0" in path
        or begin.startswith("gradio_api/proxy=")
        or (begin.startswith(("gradio_api/file=", "file=")) and "://" in begin)
    )


def refuse_addresses() -> None:
    """Shut gradio's way out: it fetches what a client hands it as the address of a file.

    It refuses addresses of this network by itself, but asks any other, and some hosts unchecked.
    """
    from gradio import processing_utils

    async def refused(*_: Any, **__: Any) -> Any:
        msg = "file: an address is not fetched; upload the file itself"
        raise ServerError(msg)

    processing_utils.async_ssrf_protected_get = refused
    processing_utils.sh.async_validate_url = refused


def bare(host: str) -> str:
    """A Host header without its port, in lower case; "" for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _answer(send: Any, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def prepare(out: Path) -> Path:
    """Everything that must be set before gradio is imported; returns the absolute out folder."""
    from pipelines.take import prepare_out

    out = out.expanduser().absolute()
    prepare_out(out)
    uploads = out / UPLOADS
    uploads.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_NODE_SERVER_NAME"] = ""
    from pipelines.media import trim_readers

    trim_readers()  # gradio decodes uploads with every reader that Pillow has
    return out


def login(text: str) -> tuple[str, str] | None:
    """NAME:PASSWORD, or NAME:env:VARIABLE so that no password is seen among the processes.

    Raises ServerError in one line.
    """
    if not text:
        return None
    name, _, word = text.partition(":")
    if word.startswith("env:"):
        word = os.environ.get(word.removeprefix("env:"), "")
    if not name or len(word) < 8:
        msg = "auth: NAME:PASSWORD of 8 characters or more, or NAME:env:VARIABLE; choose another"
        raise ServerError(msg)
    return name, word


def check_open(
    host: str, share: bool, auth: tuple[str, str] | None, names: Sequence[str] = ()
) -> None:
    """Refuse to be reached from elsewhere without a login; raises ServerError in one line.

    names: what a proxy in front is called, see `hosts_of`.
    """
    for name in names:
        if not name or bare(name) != name.lower():
            msg = f"name: a host name without scheme and port, received {name!r}; give that"
            raise ServerError(msg)
    if auth is not None or (host in LOCAL and not share and not names):
        return
    what = "share" if share else f"host {host}" if host not in LOCAL else f"name {names[0]}"
    msg = f"serve: {what} lets others in, so it needs --auth NAME:PASSWORD; add it or leave it out"
    raise ServerError(msg)


def check_tools(mcp: bool, auth: tuple[str, str] | None) -> None:
    """Refuse tools behind a login: gradio 6.31 calls its own page without one, so none would work.

    Raises ServerError in one line.
    """
    if mcp and auth is not None:
        msg = "mcp: tools know no login; leave --auth out and serve this machine only, or leave"
        raise ServerError(f"{msg} --mcp out: programs that log in have the same functions")


def hosts_of(host: str, share: bool, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Names that a server on this address answers to; () for any.

    names: those under which a proxy in front is reached, which passes them on as Host.
    """
    if share or host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return ()
    return (*LOCAL, host.lower(), *(name.lower() for name in names))


def check_port(host: str, port: int | None) -> None:
    """Raise ValueError, one line, for a port that cannot be listened on; None is any free one."""
    if port is None:
        return
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=kind).close()
    except OSError as error:
        msg = f"port: {host}:{port} is taken or not allowed; choose another --port"
        raise ValueError(msg) from error


def launch(
    out: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    share: bool = False,
    mcp: bool = False,
    block: bool = True,
    warm: bool = True,
    names: Sequence[str] = (),
) -> tuple[Any, str]:
    """Start serving; returns the page and its address. block: until Ctrl-C.

    warm: load the painter in the background, so that the first picture is quick.
    """
    check_open(host, share, auth, names)
    check_tools(mcp, auth)
    check_port(host, port)
    out = prepare(out)
    from starlette.middleware import Middleware

    from studio.app import build_app, style
    from studio.making import loading

    refuse_addresses()
    page = build_app(out)
    if warm:
        loading.acquire()  # given back by `_warm`: who asks before it has ended waits for it
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results; where tools are is none
            _, address, _ = page.launch(
                server_name=host, server_port=port, share=share, auth=auth, quiet=True,
                inbrowser=False, max_file_size=MAX_UPLOAD, run_history=False, mcp_server=mcp,
                allowed_paths=[], enable_monitoring=False, ssr_mode=False, pwa=False,
                show_error=True, strict_cors=True, footer_links=["api", "settings"],
                prevent_thread_lock=True,
                app_kwargs={"middleware": [Middleware(Guard, hosts=hosts_of(host, share, names))]},
                **style(),
            )  # fmt: skip
    finally:
        if warm:  # not before: it would slow the start, which gradio gives up after some seconds
            threading.Thread(target=_warm, name="affect-warm", daemon=True).start()
    page.server.config.timeout_graceful_shutdown = 1  # s: an open page must not hold Ctrl-C up
    if block:
        until_interrupted(page)
    return page, address


def until_interrupted(page: Any) -> None:
    """Serve until Ctrl-C, then close; nothing is written to stdout, which is for results."""
    with suppress(KeyboardInterrupt):
        while page.is_running:
            time.sleep(0.2)
    page.close(verbose=False)


def _warm() -> None:
    """Load the embedded painter and its readers; whoever asks first finds them there."""
    from pipelines import DEFAULTS, resolve
    from studio.making import loading
    from studio.run import no_bars, quiet_libraries

    try:
        with suppress(Exception):  # it is told to whoever asks for a picture
            quiet_libraries(offline=True)
            from pipelines.session import embedded_critic, loaded

            no_bars()
            loaded(resolve(DEFAULTS["image"]), device=None, dtype=None, offline=True)
            for role in ("critic", "reader"):
                embedded_critic(f"{role}-image")
    finally:
        loading.release()
