"""Nothing outside is read: path attacks on every route and every input of a served page.

Secrets lie where an attacker looks: beside the out folder, in it (the ledger, a consent record), in
the working folder and in /etc. None of their words may come back in an answer, and none of their
bytes may be copied to where the server serves files from.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("gradio", reason="the extra ui is not installed")

from pipelines import ledger
from tests.browser import ROOT, Server, serving
from tests.http_session import Session, raw, told

SECRET = "canary-7f3a51"
QUICK = 0.05  # s for an answer that refuses; the smallest of three, as the machine may be busy
FILES = ("image", "audio", "video", "file", "downloadbutton", "gallery", "imageslider")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("trust")
    (place / "secret.txt").write_text(SECRET)
    (place / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n" + SECRET.encode())
    out = place / "out"
    with serving(out) as one:
        (out / "consent-12345678.json").write_text(json.dumps({"name": SECRET}))
        (out / "link.png").symlink_to(place / "secret.png")
        (out / "styles" / "music").mkdir(parents=True)
        (out / "styles" / "music" / "away").symlink_to(place)
        yield one


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    one = Session(server.address)
    yield one
    one.close()


def places(server: Server) -> list[str]:
    """Files that must not be had, by their absolute names."""
    out = server.out
    return [
        "/etc/passwd", str(ROOT / "pyproject.toml"), str(out.parent / "secret.txt"),
        str(out / "consent-12345678.json"), str(out / ledger.LEDGER), str(out / "link.png"),
        "/proc/self/environ",
    ]  # fmt: skip


def spellings(path: str) -> Iterator[str]:
    """A path as attackers write it."""
    up = "../" * 12
    yield from (path, f"{up}{path[1:]}", f"/{up}{path[1:]}", f"file://{path}", f"//{path}")
    yield from (path.replace("/", "\\"), f"..\\..\\..{path}", f"{path}\0.png", f"\0{path}")
    yield from (quote(path, safe=""), quote(quote(path, safe=""), safe=""), f"{path}/.")
    yield from (f"....//....//{path[1:]}", f"%2e%2e%2f{quote(path[1:], safe='')}")


ODD = (
    "",
    ".",
    "..",
    "/",
    "CON",
    "nul.png",
    "a" * 4096,
    "\0",
    "\u202e",
    "~",
    "~root/.bashrc",
    "-rf",
)


def clean(server: Server, *texts: bytes | str) -> None:
    """None of the secrets is in an answer, nor where files are served from."""
    for one in texts:
        data = one.encode(errors="replace") if isinstance(one, str) else one
        for secret in (SECRET.encode(), b"root:x:0", b'name = "affect-studio"', b"HF_HUB_OFFLINE"):
            assert secret not in data, data[:300]
    for path in (server.out / ".uploads").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data, path
            assert b'name = "affect-studio"' not in data, path


# Routes ------------------------------------------------------------------------------------------

ROUTES = (
    "/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/",
    "/gradio_api/custom_component/x/client/", "/gradio_api/proxy=", "/gradio_api/stream/",
    "/pwa_icon/", "/gradio_api/deep_link?session_hash=", "/monitoring/", "/",
    "/gradio_api/run-history/records/x/", "/gradio_api/deep_link?deep_link=", "/?deep_link=",
)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_reads_outside(server: Server, route: str) -> None:
    for path in places(server):
        for one in spellings(path):
            target = route + quote(one, safe="/%:=.\\")
            status, body, _ = raw(server.port, target)
            clean(server, body)
            # The page itself answers what it does not know, a link to nothing is "".
            page = body.lstrip()[:15].lower() == b"<!doctype html>" or body == b'""'
            assert status >= 300 or page, (status, target)
            assert status < 500, (status, target)


def test_a_refusal_is_quick(server: Server) -> None:
    for path in places(server):
        target = f"/gradio_api/file={quote(path)}"
        answers = [raw(server.port, target) for _ in range(3)]
        assert {status for status, _, _ in answers} <= {403, 404}
        assert min(seconds for _, _, seconds in answers) < QUICK


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_4xx(server: Server, name: str) -> None:
    status, body, _ = raw(server.port, f"/gradio_api/file={quote(name)}")
    assert 400 <= status < 500
    clean(server, body)


# Uploads -----------------------------------------------------------------------------------------


def test_names_of_uploads_stay_inside(server: Server, session: Session) -> None:
    inside = (server.out / ".uploads").resolve()
    before = {one for one in server.out.parent.rglob("*") if inside not in one.parents}
    for name in ("../../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "CON", "a" * 4000,
                 "x\0.png", "\u202egnp.exe", ".htaccess", "a/../../b.png"):  # fmt: skip
        answer = session.upload(name, b"1234")
        if answer.status_code == 200:
            for one in answer.json():
                assert inside in Path(one).resolve().parents, (name, one)
        else:
            assert 400 <= answer.status_code < 500, (name, answer.status_code)
    after = {one for one in server.out.parent.rglob("*") if inside not in one.parents}
    assert {one for one in after - before if "log" not in one.name} == set()


# Inputs of events --------------------------------------------------------------------------------


def file_inputs(session: Session) -> list[tuple[dict[str, Any], int]]:
    """(event, place among its inputs) of everything that takes a file."""
    found, seen = [], set()
    for event in session.events.values():
        for place, number in enumerate(event["inputs"]):
            kind = session.parts[number]["type"]
            if kind in FILES and (number, kind) not in seen:
                seen.add((number, kind))
                found.append((event, place))
    return found


def test_there_are_inputs_to_attack(session: Session) -> None:
    kinds = {session.parts[e["inputs"][place]]["type"] for e, place in file_inputs(session)}
    assert kinds >= {"image", "audio", "file", "downloadbutton"}


def test_no_event_takes_a_file_that_was_not_uploaded(server: Server, session: Session) -> None:
    before = len(list(ledger.read(server.out)))
    for event, place in file_inputs(session):
        kind = session.parts[event["inputs"][place]]["type"]
        for path in places(server)[:4]:
            given: Any = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
            data = session.values(event)
            data[place] = [given] if kind == "file" and isinstance(data[place], list) else given
            messages = session.run(event, data)
            clean(server, json.dumps(messages))
            last = messages[-2] if len(messages) > 1 else messages[-1]
            assert last.get("success") is not True or "wrong" in told(messages), (kind, path)
    assert len(list(ledger.read(server.out))) == before


def test_no_text_is_taken_for_a_path(server: Server, session: Session) -> None:
    """Every text, number and choice of the picture's and the music's run."""
    attacks = [*places(server)[:4], "../secret.png", "away", "../../trust/secret.txt", "styles/x"]
    for element in ("make-image", "make-music", "make-grid", "make-film"):
        event = session.event_of(element, after=1)
        for place, number in enumerate(event["inputs"]):
            kind = session.parts[number]["type"]
            if kind not in ("textbox", "dropdown", "code"):
                continue
            for attack in attacks if kind == "dropdown" else attacks[:2]:
                data = session.values(event)
                label = session.parts[number]["props"].get("label")
                # Words are drawn, not opened; a scene has an emotion of its own.
                if label in WORDS or (element, label) == ("make-film", "Emotion"):
                    continue
                data[place] = [attack] if isinstance(data[place], list) else attack
                messages = session.run(event, data)
                clean(server, json.dumps(messages))
                failed = any(m.get("success") is False for m in messages)
                assert failed or "wrong" in told(messages), (element, label, attack)


WORDS = ("What to show", "Title", "Words", "Negative prompt")
NAMED = {
    "read_emotion": 1, "show": 1, "remake": 3, "search": 4, "make": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_no_named_function_reads_outside(server: Server, session: Session, name: str) -> None:
    usual: dict[str, list[Any]] = {
        "read_emotion": ["fear"], "show": ["0" * 64], "remake": ["0" * 64, "fear", -1],
        "search": ["", "", "", 5], "make": ["image", "a lake", "fear", 1],
    }  # fmt: skip
    event = next(one for one in session.events.values() if one["api_name"] == name)
    for place, path in itertools.product(range(NAMED[name]), places(server)[:5]):
        if isinstance(usual[name][place], int) or (name, place) == ("make", 1):
            continue
        for one in itertools.islice(spellings(path), 0, None, 3):
            data = list(usual[name])
            data[place] = one
            messages = session.run(event, data)
            clean(server, json.dumps(messages))
            if (name, place) != ("search", 0):  # words to look for: nothing is found
                assert any(m.get("success") is False for m in messages), (name, place, one)


def test_odd_texts_do_no_harm(server: Server, session: Session) -> None:
    event = next(one for one in session.events.values() if one["api_name"] == "show")
    for one in ODD:
        messages = session.run(event, [one])
        assert any(m.get("success") is False for m in messages)
        assert "\n" not in told(messages)


# Addresses ---------------------------------------------------------------------------------------


def test_no_address_is_fetched(server: Server, session: Session) -> None:
    """Neither a program nor another page makes this server ask another machine."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]

        def listen() -> None:
            while True:
                try:
                    one, _ = trap.accept()
                except OSError:
                    return
                asked.append(one.recv(200))
                one.close()

        threading.Thread(target=listen, daemon=True).start()
        here = (f"http://127.0.0.1:{port}/x.png", f"http://localhost:{port}/x.png")
        for address in (*here, "https://huggingface.co/x.png", "http://169.254.169.254/latest"):
            for route in ("/gradio_api/file=", "/gradio_api/proxy="):
                status, _, _ = raw(server.port, route + address)
                assert 400 <= status < 500, (route, address, status)
            for event, place in file_inputs(session)[:3]:
                data = session.values(event)
                meta = {"_type": "gradio.FileData"}
                data[place] = {"path": address, "url": address, "meta": meta}
                messages = session.run(event, data)
                assert any(m.get("success") is False for m in messages), address
                assert "not fetched" in json.dumps(messages), "it was tried"
    assert asked == []


def test_the_library_s_own_way_out_is_shut(tmp_path: Path) -> None:
    """Hosts that gradio trusts are not asked either; in a child, as it changes the library."""
    import subprocess
    import sys

    code = (
        "import asyncio, socket\n"
        "socket.getaddrinfo = lambda *a, **k: (_ for _ in ()).throw(SystemExit('looked up'))\n"
        "from studio.server import refuse_addresses\n"
        "refuse_addresses()\n"
        "from gradio import processing_utils as p\n"
        "for url in ('https://huggingface.co/x', 'http://example.org/x'):\n"
        "    try: asyncio.run(p.async_ssrf_protected_get(url))\n"
        "    except ValueError as error: print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.count("not fetched") == 2
