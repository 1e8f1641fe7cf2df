"""`affect serve`: the studio as a page in a browser, on this machine.

This file reads options; `studio.server` serves and `studio.app` is the page.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from studio.console import note, result


def app() -> typer.Typer:
    """The verb `serve`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(serve)
    return verb


def serve(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the takes.")] = Path("out"),
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="The first free from 7860 on.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than 127.0.0.1 need --auth.")
    ] = "127.0.0.1",
    auth: Annotated[
        str, typer.Option("--auth", help="NAME:PASSWORD, or NAME:env:VARIABLE to keep it hidden.")
    ] = "",
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name of a proxy in front of it; needs --auth."),
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Offer the text-only functions as tools (MCP).")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="A public link through gradio's tunnel; needs --auth.")
    ] = False,
) -> int:
    """Open the studio in a browser: emotion pad, every medium, a gallery. Ctrl-C ends it."""
    if find_spec("gradio") is None:
        msg = "serve: gradio is not installed; run pip install 'affect-studio[ui]'"
        raise ValueError(msg)
    if mcp and find_spec("mcp") is None:
        msg = "serve: --mcp needs more; run pip install 'gradio[mcp]'"
        raise ValueError(msg)
    from studio.server import check_open, check_tools, launch, login, until_interrupted

    known = login(auth)
    check_open(host, share, known, names or ())
    check_tools(mcp, known)
    note("starting; the page takes some seconds")
    page, address = launch(
        out, host=host, port=port, auth=known, share=share, mcp=mcp, block=False, names=names or ()
    )
    result(address)
    note(f"takes are kept in {out}; Ctrl-C ends it")
    until_interrupted(page)
    return 0
