"""From a page's controls to takes: requests, consent, and runs that a button can stop.

A run is a generator over `pipelines.generate`; between two of its events it looks whether its
session was asked to stop, and then closes it, which ends the work within one step. This file does
not know how anything is shown.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from studio.run import DOING, DOING_OF, build_requests, quiet_libraries, read_emotion

if TYPE_CHECKING:
    from pipelines import Step
    from pipelines.take import Request, Take

EXT = {"image": "png", "music": "mid"}
INPUTS = "inputs"
"""Folder within the out folder that holds the uploads of which something was made."""
_stopping: set[str] = set()
_wanted: Counter[str] = Counter()
_over: Counter[str] = Counter()
_running: set[str] = set()
_lock = threading.Lock()
loading = threading.Lock()
"""Held while the libraries are first imported: theirs are lazy, and two threads that import them
at once find names missing ("cannot import name 'ConfigMixin' from 'diffusers'")."""


def stop(session: str) -> bool:
    """Let a run end within one step; whether there is one, running or waiting for its turn.

    session: of a browser tab, a colon, a part of its page.
    """
    with _lock:
        _stopping.add(session)
        return _wanted[session] > 0


def begin(session: str) -> None:
    """Forget an earlier stop: a new run is wanted."""
    with _lock:
        _stopping.discard(session)
        _wanted[session] += 1


def end(session: str) -> bool:
    """A run is over, or never began; whether another one of this name waits or is under way."""
    with _lock:
        known = _over if _over[session] else _wanted  # what ran is no longer among the wanted
        known[session] = max(known[session] - 1, 0)
        more = _wanted[session] > 0
        for one in (_over, _wanted):
            if not one[session]:
                del one[session]
        return more


def wait_until_loaded() -> None:
    """Return when nothing is being loaded in the background; the first run of a server waits."""
    with loading:
        pass


def leave(session: str) -> None:
    """End all runs of a browser tab that was closed, and forget it."""
    with _lock:
        for known in (_wanted, _over):
            for one in [one for one in known if one.partition(":")[0] == session]:
                del known[one]
        _stopping.difference_update([x for x in _stopping if x.partition(":")[0] == session])
        _stopping.update(one for one in _running if one.partition(":")[0] == session)


def is_stopping(session: str) -> bool:
    """Whether a run was asked to stop."""
    with _lock:
        return session in _stopping


@contextmanager
def running(session: str) -> Iterator[None]:
    """A run is under way, and can be ended when its browser tab is closed."""
    with _lock:
        _running.add(session)
    try:
        yield
    finally:
        with _lock:
            _running.discard(session)
            if _wanted[session]:
                _wanted[session] -= 1
                _over[session] += 1


def made(
    requests: Sequence[Request],
    out: Path,
    *,
    session: str = "",
    best_of: int | None = None,
    batch_size: int | None = None,
    ext: str | None = None,
    **options: Any,
) -> Generator[Step | Take, None, None]:
    """Make requests, event by event, until all are made or the session asks to stop.

    Raises what `pipelines.generate` raises: one line each.
    """
    from pipelines import generate

    quiet_libraries(offline=True)
    requests = [with_own_files(one, out) for one in requests]
    modality = requests[0].modality
    events = generate(
        requests, out_dir=out, best_of=best_of, batch_size=batch_size, offline=True,
        ext=ext or EXT.get(modality, "auto"), **options,
    )  # fmt: skip
    with running(session), closing(cast("Generator[Step | Take]", events)):
        if session and is_stopping(session):
            return  # asked while it waited for its turn
        for event in events:
            yield event
            if session and is_stopping(session):
                return


def with_own_files(request: Request, out: Path) -> Request:
    """The request with its uploads copied beside the takes: the server forgets uploads in a day.

    Without them nothing that was made of an upload could be made again.
    """
    from studio.library_files import copy_whole
    from studio.server import UPLOADS

    uploads, inputs = (out / UPLOADS).resolve(), dict(request.inputs)
    for name, path in inputs.items():
        if path.resolve().is_relative_to(uploads):
            inputs[name] = out.absolute() / INPUTS / request.digests[name][:16] / path.name
            if not inputs[name].is_file():
                copy_whole(path, inputs[name])
    return replace(request, inputs=inputs)


def doing(modality: str, stage: str) -> str:
    """What a stage of the work is called."""
    return (DOING | DOING_OF.get(modality, {})).get(stage, stage).capitalize()


def requests_of(
    modality: str,
    prompt: str,
    emotion: str,
    *,
    seed: int,
    n: int = 1,
    backbone: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path | None],
    out: Path,
    agreed: bool = False,
) -> list[Request]:
    """Checked requests of what a person filled in, with the consent that they state.

    agreed: the person says that those who are seen or heard are themselves, drawn, or agreed.
    Raises one line for anything that is missing or wrong.
    """
    state = read_emotion(emotion, over=bool(params.get("over")), reader=None, modality=modality)
    requests = build_requests(
        prompt, [state], seed=seed, n=n, backbone=backbone, params=params, inputs=inputs,
        modality=modality,
    )  # fmt: skip
    return with_consent(requests, out, agreed=agreed)


def with_consent(requests: list[Request], out: Path, *, agreed: bool) -> list[Request]:
    """Requests with the document that says who agreed; a yes of the page is written down."""
    from studio.consent import ConsentError, consent_for_all
    from studio.make import people_in

    inputs = requests[0].inputs
    people = people_in(requests[0].modality, inputs)
    if not people:
        return requests
    document = _stated(list(people), out) if agreed else None
    try:
        found = consent_for_all(people, document, out, ask=False)
    except ConsentError as error:
        msg = (
            "consent: this may be a real person's face or voice; tick that it is yours, drawn, or "
            "that the person agreed"
        )
        raise ConsentError(msg) from error
    if found is None:
        return requests
    named = {**inputs, "consent": found.resolve()}
    return [replace(request, inputs=named, digests={}) for request in requests]


def _stated(files: Sequence[Path], out: Path) -> Path:
    """What the person at the page said of these files, written down beside the takes."""
    from pipelines.ledger import write_atomic

    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    path = out / f"consent-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}.json"
    if path.is_file():
        return path
    said = {
        "agreed": True,
        "statement": "The person at the page ticked that whoever is seen or heard in these files "
        "is themselves, drawn, or agreed to their use here.",
        "sha256": digests[0] if len(digests) == 1 else digests,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomic(path, (json.dumps(said, indent=1) + "\n").encode())
    return path


def take_of(out: Path, key: str) -> Take:
    """The take of a key, with all that it was made from still there.

    Raises TakeError when there is no such take, or what it was made from is gone.
    """
    from pipelines.take import Take, TakeError
    from studio.library_index import Library

    if not key or not all(one in "0123456789abcdef" for one in key):
        msg = "take: nothing is chosen; make something, or choose it in the gallery"
        raise TakeError(msg)
    return Take.read(Library(out).find(key).path)


def remade(out: Path, key: str, emotion: str | None, seed: int | None) -> list[Request]:
    """The request of a take, by its key, with another emotion or seed.

    Raises TakeError when there is no such take, or what it was made from is gone.
    """
    old = take_of(out, key).request
    old.check_inputs()
    changes: dict[str, Any] = {}
    if emotion is not None:
        over = bool(old.params.get("over"))
        changes["emotion"] = read_emotion(emotion, over=over, reader=None, modality=old.modality)
    if seed is not None:
        changes["seed"] = seed
    return [old.changed(**changes)]


def without_emotion(out: Path, key: str) -> tuple[Take, Request, Take | None]:
    """A take, its request without emotion, and what was made of that already if anything was.

    Raises TakeError as `remade` does.
    """
    from adapters.emotion import EmotionTimeline
    from pipelines.take import TakeError

    after = take_of(out, key)
    request = after.request.changed(emotion=EmotionTimeline.parse("neutral"))
    if request.key == after.request.key:
        msg = "emotion: this one was made without; choose an emotion and make it again"
        raise TakeError(msg)
    try:
        return after, request, take_of(out, request.key)
    except (TakeError, ValueError, OSError):
        after.request.check_inputs()
        return after, request, None
