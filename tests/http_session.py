"""A program that talks to a served page over plain HTTP, as a browser does and as an attacker may.

`Session` presses what a person presses (an event of the page by its element id, with the values
that the page starts with) and may send anything in place of a value. It knows Gradio's wire only.
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

Message = dict[str, Any]


class Session:
    """One visitor of a server; address as `tests.browser.Server` tells it."""

    def __init__(self, address: str) -> None:
        self.address, self.name = address, secrets.token_hex(6)
        self.http = httpx.Client(base_url=address, timeout=60)
        self.config = self.http.get("/config").json()
        self.parts = {one["id"]: one for one in self.config["components"]}
        self.events = {one["id"]: one for one in self.config["dependencies"]}

    def close(self) -> None:
        self.http.close()

    def part(self, element: str) -> int:
        """Id of the component with this element id."""
        return next(k for k, v in self.parts.items() if v["props"].get("elem_id") == element)

    def event_of(self, element: str, after: int = 0) -> Message:
        """The event of a click on an element; after: the one that follows it, and so on."""
        there = [self.part(element), "click"]
        event = next(one for one in self.events.values() if there in one["targets"])
        for _ in range(after):
            before = event["id"]
            event = next(one for one in self.events.values() if one["trigger_after"] == before)
        return event

    def values(self, event: Message, changes: Mapping[str, Any] | None = None) -> list[Any]:
        """What the page starts with for an event; changes: by label or element id."""
        found, left = [], dict(changes or {})
        for number in event["inputs"]:
            props = self.parts[number]["props"]
            key = next((k for k in (props.get("label"), props.get("elem_id")) if k in left), None)
            found.append(props.get("value") if key is None else left.pop(key))
        if left:
            msg = f"no input is called {sorted(left)}"
            raise KeyError(msg)
        return found

    def join(self, event: Message, data: list[Any]) -> httpx.Response:
        """Ask for an event; 200 when it is in the queue."""
        asked = {"data": data, "fn_index": event["id"], "session_hash": self.name}
        return self.http.post("/gradio_api/queue/join", json=asked)

    def messages(self) -> Iterator[Message]:
        """What the server says until everything this visitor asked for is done."""
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.name}
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    yield message
                    if message["msg"] == "close_stream":
                        return

    def run(self, event: Message, data: list[Any]) -> list[Message]:
        """Every message of one event."""
        answer = self.join(event, data)
        if answer.status_code != 200:
            return [{"msg": "refused", "status": answer.status_code, "text": answer.text}]
        return list(self.messages())

    def press(self, element: str, changes: Mapping[str, Any] | None = None) -> list[Message]:
        """Make, as the button does it: first what makes Stop live, then the run."""
        self.run(self.event_of(element), [])
        event = self.event_of(element, after=1)
        return self.run(event, self.values(event, changes))

    def upload(self, name: str, data: bytes) -> httpx.Response:
        return self.http.post("/gradio_api/upload", files={"files": (name, data)})


def told(messages: list[Message]) -> str:
    """The last line that a run told the person, or its error."""
    for message in reversed(messages):
        output = message.get("output") or {}
        if output.get("error"):
            return str(output["error"])
        data = output.get("data")
        if data and isinstance(data[0], str):
            return data[0]
        if message["msg"] == "refused":
            return str(message["text"])
    return ""


def raw(port: int, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None,
        body: bytes | None = None) -> tuple[int, bytes, float]:  # fmt: skip
    """Status, body and seconds of one request whose target is sent exactly as it is."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection._validate_path = lambda *_: None  # type: ignore[attr-defined]
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(2**20), time.perf_counter() - start
    finally:
        connection.close()
