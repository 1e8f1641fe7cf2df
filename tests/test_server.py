"""A real `affect serve` asked by programs: its functions, its limits, and who is turned away."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra ui is not installed")

from gradio_client import Client
from gradio_client.exceptions import AppError

from pipelines import ledger
from pipelines.take import Take
from tests.browser import Server, serving
from tests.http_session import Session, raw, told

SMALL = {"Width": 64, "Height": 64, "Steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server") / "out") as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(server.address, verbose=False, download_files=tmp_path_factory.mktemp("got"))


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    one = Session(server.address)
    yield one
    one.close()


def refused(client: Client, *given: Any, api_name: str) -> str:
    """The one line that a wrong input is answered with."""
    with pytest.raises(AppError) as caught:
        client.predict(*given, api_name=api_name)
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 700
    return text


# Functions ---------------------------------------------------------------------------------------


def test_the_first_who_asks_is_served(client: Client) -> None:
    """While the libraries are still being loaded in the background."""
    made = client.predict("image", "a lake", "fear .6", 3, api_name="/make")
    assert re.fullmatch(r"[0-9a-f]{64}", made["key"])
    assert set(made["reading"]) >= {"critic", "reader"}
    assert made["seconds"] > 0


def test_what_is_made_is_found_shown_and_made_again(client: Client, server: Server) -> None:
    made = client.predict("image", "a red barn", "sadness .8", 5, api_name="/make")
    again = client.predict("image", "a red barn", "sadness .8", 5, api_name="/make")
    assert again["key"] == made["key"]
    shown = client.predict(made["key"], api_name="/show")
    assert (shown["prompt"], shown["emotion"], shown["seed"]) == ("a red barn", "sadness 0.8", 5)
    found = client.predict("barn", "sadness", "image", 5, api_name="/search")
    assert [one["key"] for one in found] == [made["key"]]
    other = client.predict(made["key"], "happiness .8", -1, api_name="/remake")
    assert other["key"] != made["key"]
    shown = client.predict(other["key"], api_name="/show")
    assert (shown["prompt"], shown["emotion"], shown["seed"]) == ("a red barn", "happiness 0.8", 5)
    done = [line for line in ledger.read(server.out) if line["status"] == "done"]
    for line in done:
        assert Take.read(server.out / line["path"]).sha256 == line["sha256"]


def test_an_emotion_is_read(client: Client) -> None:
    one = client.predict("0s contentment .6; 5s fear .9", api_name="/read_emotion")
    assert [moment["second"] for moment in one["moments"]] == [0, 5]
    assert one["moments"][1]["vad"][0] < 0 < one["moments"][0]["vad"][0]
    assert client.predict("I just lost my dog", api_name="/read_emotion")["dominant"] == "sadness"


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("/read_emotion", ("hapiness .8",), "happiness"),
        ("/read_emotion", ("fear 7",), "fear"),
        ("/read_emotion", ("",), "emotion"),
        ("/make", ("portrait", "a", "fear .5", 1), "image, music, video"),
        ("/make", ("image", "", "fear .5", 1), "prompt"),
        ("/make", ("image", "a lake", "0s fear; 2s x", 1), "x"),
        ("/make", ("image", "a lake", "fear .5", 10**30), "seed"),
        ("/make", ("image", "a lake", "fear .5", "one"), ""),
        ("/remake", ("0" * 64, "fear .5", -1), "library"),
        ("/remake", ("", "fear .5", -1), "take"),
        ("/show", ("zz",), "key"),
        ("/show", ("0" * 64,), "library"),
        ("/search", ("", "nonsense", "", 5), "nonsense"),
    ],
)
def test_wrong_input_is_one_line(
    client: Client, name: str, given: tuple[Any, ...], says: str
) -> None:
    assert says in refused(client, *given, api_name=name)


def test_an_answer_tells_no_folder_of_this_machine(client: Client, server: Server) -> None:
    for given in (("0" * 64,), ("../../etc/passwd",), ("/etc/passwd",)):
        assert str(server.out.parent) not in refused(client, *given, api_name="/show")


def test_programs_are_offered_text_only(client: Client) -> None:
    offered = client.view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) >= {
        "/read_emotion", "/make", "/remake", "/search", "/show"
    }  # fmt: skip
    assert offered["unnamed_endpoints"] == {}
    for function in offered["named_endpoints"].values():
        for one in function["parameters"]:
            assert one["python_type"]["type"] in ("str", "int", "float", "bool"), one


# Who is turned away ------------------------------------------------------------------------------


def form(name: str, data: bytes) -> tuple[dict[str, str], bytes]:
    """A file as an HTML form of any page sends it."""
    body = (
        b'--xx\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--xx--'
        % (name.encode(), data)
    )
    return {"Content-Type": "multipart/form-data; boundary=xx"}, body


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:80"}, 400),
        ({"Origin": "http://localhost:1"}, 403),
    ],
)
def test_another_page_cannot_upload(server: Server, changes: dict[str, str], status: int) -> None:
    headers, body = form("x.png", b"1234")
    got = raw(server.port, "/gradio_api/upload", method="POST", headers=headers | changes,
              body=body)  # fmt: skip
    assert got[0] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_simple_form_starts_nothing(server: Server, kind: str) -> None:
    """Kinds that a browser sends anywhere without asking first."""
    asked = json.dumps({"data": ["x"], "fn_index": 0, "session_hash": "s"}).encode()
    for target in ("/gradio_api/queue/join", "/gradio_api/call/read_emotion"):
        got = raw(server.port, target, method="POST", headers={"Content-Type": kind}, body=asked)
        assert 400 <= got[0] < 500


def test_no_answer_lets_other_pages_read_it(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/config", headers={"Origin": "https://evil.example"})
    answer = connection.getresponse()
    answer.read()
    assert answer.getheader("access-control-allow-origin") in (None, "")
    connection.close()


def test_it_listens_on_this_machine_only(server: Server) -> None:
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == server.port
    ]
    assert [one.split(":")[0] for one in listening] == ["0100007F"]


# Limits ------------------------------------------------------------------------------------------


def handed(session: Session, path: Path | str) -> dict[str, Any]:
    """A file of the server as the page hands it back to an event."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_a_picture_over_20_mb_is_told(session: Session, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3000, 2600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 20 * 2**20
    path = session.upload("large.png", (tmp_path / "large.png").read_bytes()).json()[0]
    text = told(session.press("make-image", {"Re-render a photo": handed(session, path), **SMALL}))
    assert "20 MB" in text


@pytest.mark.parametrize(
    "change", [{"Content-Length": str(2**30)}, {"Transfer-Encoding": "chunked"}]
)
def test_a_question_is_no_flood(server: Server, change: dict[str, str]) -> None:
    """What is no upload is refused by what it says of its size, before any of it is read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/gradio_api/queue/join")
    for name, value in ({"Content-Type": "application/json"} | change).items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.slow
def test_an_upload_over_the_limit_is_413(server: Server) -> None:
    """513 MB are sent as fast as they are taken; nothing of them stays."""
    head = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="x.mp4"\r\n\r\n'
    size, block = 513 * 2**20, bytes(2**20)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=xx")
    connection.putheader("Content-Length", str(len(head) + size + 10))
    connection.endheaders()
    try:
        connection.send(head)
        for _ in range(513):
            connection.send(block)
        connection.send(b"\r\n--xx--\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up, which is fine too
    assert connection.getresponse().status == 413
    connection.close()
    left = sum(one.stat().st_size for one in (server.out / ".uploads").rglob("*") if one.is_file())
    assert left < 100 * 2**20


def test_fifty_at_once_are_served_or_told(server: Server) -> None:
    """A queue of 16: who finds it full is told at once, who is let in gets a picture."""
    before = len([one for one in ledger.read(server.out) if one["status"] == "done"])
    sessions = [Session(server.address) for _ in range(50)]
    event = sessions[0].event_of("make-image", after=1)
    answers: list[Any] = [None] * 50
    waits: list[float] = []

    def ask(k: int) -> None:
        one = sessions[k]
        data = one.values(event, {"prompt-image": f"lake {k}", "Seed": k, **SMALL})
        answers[k] = one.join(event, data)
        if answers[k].status_code == 200:
            start = time.perf_counter()
            answers[k] = told(list(one.messages()))
            waits.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(50)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    for one in sessions:
        one.close()
    served = [one for one in answers if isinstance(one, str)]
    full = [one for one in answers if not isinstance(one, str)]
    assert all("Done" in one for one in served), served
    assert all(one.status_code == 503 and "full" in one.text.lower() for one in full)
    assert 16 <= len(served) <= 20
    assert len(served) + len(full) == 50
    done = len([one for one in ledger.read(server.out) if one["status"] == "done"])
    assert done - before == len(served), "a take was lost"
    assert max(waits) < 3 * len(served)


def test_stop_frees_the_place_within_a_step(server: Server, session: Session) -> None:
    def took(steps: int) -> float:
        start = time.perf_counter()
        session.press("make-image", {"Steps": steps, "Seed": steps, "Width": 64, "Height": 64})
        return time.perf_counter() - start

    step = (took(22) - took(2)) / 20
    session.run(session.event_of("make-image"), [])
    event = session.event_of("make-image", after=1)
    long = {"Steps": 150, "Seed": 9, "Width": 64, "Height": 64}
    assert session.join(event, session.values(event, long)).status_code == 200
    stop = next(
        one for one in session.events.values()
        if [session.part("stop-image"), "click"] in one["targets"]
    )  # fmt: skip
    pressed = ended = 0.0
    last: list[dict[str, Any]] = []
    for message in session.messages():
        last.append(message)
        if message["msg"] == "process_generating" and not pressed and len(last) > 12:
            pressed = time.perf_counter()
            asked = {"data": [], "fn_index": stop["id"], "session_hash": session.name}
            session.http.post("/gradio_api/run/predict", json=asked).raise_for_status()
        if message["msg"] == "process_completed" and message.get("success"):
            ended = time.perf_counter()
    assert "Stopped" in told(last)
    assert ended - pressed < step + 0.5 + 0.5  # the second half: two requests on a busy machine
    assert not list(server.out.rglob(".tmp-*"))
    assert "Done" in told(session.press("make-image", {"Seed": 1, **SMALL}))
