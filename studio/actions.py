"""What the buttons of a tab do: make and stop, and what can be done to a take that is shown.

Make again with another emotion or seed, set beside the one without emotion, mark as a favourite,
use as the input of another tab. A run belongs to its browser tab and its part of the page; it ends
when Stop is pressed or the browser tab is closed. This file does not know what a tab asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio import cards, making
from studio.affect_pad import chosen_emotion
from studio.results import (
    Result,
    about,
    beside_plain,
    guarded,
    run_shown,
    told_only,
    values,
)
from studio.run import PANELS, fresh_seed

if TYPE_CHECKING:
    from studio.tabs import MediaTab

DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
SUFFIXES = {
    "image": [".png", ".jpg", ".jpeg", ".webp"], "sound": [".wav", ".flac", ".mp3"],
    "film": [".mp4"], "notes": [".mid", ".midi"], "curves": [".csv", ".json"],
    "font": [".sf2"],
}  # fmt: skip


NOT_STARTED = "Not made: the server refused this; the note in the corner says why. Try again."
"""What a tab says when gradio itself refused: a full queue, or a value that no control offers."""


def run_of(request: gr.Request, name: str) -> str:
    """What a run of this part of the page in this browser tab is called."""
    return f"{request.session_hash or ''}:{name}"


def wire(
    triggers: Sequence[Callable[..., Any]], stop: Any, run: Callable[..., Any], inputs: list[Any],
    result: Result, name: str, make: Any = None,
) -> None:  # fmt: skip
    """Let triggers start a run, shown in a result; Stop is live and Make is not while it runs.

    run: a generator of a result's values, whose last argument is the gr.Request.
    """
    buttons = [stop, make] if make is not None else [stop]

    def live(request: gr.Request) -> list[Any]:
        making.begin(run_of(request, name))
        busy = [gr.update(interactive=one is stop) for one in buttons]
        return [cards.progress("Waiting for its turn …"), *busy]

    def ended(request: gr.Request) -> list[Any]:
        more = making.end(run_of(request, name))  # Enter and Remake start one beside another
        return [gr.update(interactive=one is not stop or more) for one in buttons]

    def idle(request: gr.Request) -> Any:
        states = ended(request)
        return states if len(states) > 1 else states[0]  # of one output gradio wants no list

    def broken(request: gr.Request) -> list[Any]:
        return [cards.failed(ValueError(NOT_STARTED)), *ended(request)]

    first = gr.on(triggers, live, None, [result.told, *buttons], trigger_mode="once", **QUIET)
    event = first.then(
        run, inputs, result.all, api_visibility="private", show_progress="minimal",
        show_progress_on=result.told, **DEVICE,
    )  # fmt: skip
    event.success(idle, None, buttons, **QUIET)
    event.failure(broken, None, [result.told, *buttons], **QUIET)


def wire_stop(stop: Any, result: Result, name: str) -> None:
    """Stop: the run ends within one of its steps, and says itself when it has."""

    def halt(request: gr.Request) -> Any:
        ends = making.stop(run_of(request, name))
        return cards.progress("Stopping …") if ends else gr.skip()

    stop.click(halt, None, result.told, **QUIET)


def felt(text: str, line: Any, modality: str) -> str:
    """The emotion for a modality: a picture holds the chosen moment of a course."""
    if modality != "image":
        return text
    at = line.get("at", 0) if isinstance(line, dict) else 0
    return chosen_emotion(text, at if isinstance(at, int) else 0)


def wire_actions(stop: Any, panel: Any, out: Path, result: Result, name: str) -> None:
    """The buttons under a take that make something of it."""

    # No gr.State says which button it is: made between tabs it would count as one of them.
    def runner(fresh: bool) -> Any:
        def run(text: str, line: Any, key: str, request: gr.Request) -> Iterator[list[Any]]:
            def events() -> Iterator[list[Any]]:
                requests = making.remade(out, key, None, fresh_seed() if fresh else None)
                if not fresh:
                    emotion = felt(text, line, requests[0].modality)
                    requests = making.remade(out, key, emotion, None)
                yield from run_shown(requests, out, run_of(request, name))

            yield from guarded(events())

        return run

    def plain(key: str, request: gr.Request) -> Iterator[list[Any]]:
        yield from guarded(beside_plain(key, out, run_of(request, name)))

    given = [panel.text, panel.line, result.key]
    for button, fresh in (("again", False), ("other", True)):
        wire([result.buttons[button].click], stop, runner(fresh), given, result, name)
    if "plain" in result.buttons:
        wire([result.buttons["plain"].click], stop, plain, [result.key], result, name)


def wire_choice(out: Path, result: Result) -> None:
    """Of several pictures the one that is looked at is the one that card and buttons are about."""

    def choose(event: gr.SelectData, keys: list[str], key: str) -> list[Any]:
        index = event.index if isinstance(event.index, int) else -1
        if not 0 <= index < len(keys) or keys[index] == key:
            return values()
        try:
            return about(making.take_of(out, keys[index]))
        except (ValueError, OSError) as error:
            return told_only(cards.failed(error))

    result.picture.select(choose, [result.keys, result.key], result.all, **QUIET)


def wire_favourite(out: Path, result: Result) -> Any:
    """The button that marks the shown take; returns its event."""

    def favour(key: str) -> list[Any]:
        from studio.library_index import Library

        library = Library(out)
        try:
            entry = library.find(key)
            library.favour(entry, favourite=not entry.favourite)
        except (ValueError, OSError) as error:  # deleted in another tab, say
            return [cards.failed(error), gr.skip()]
        told = "No longer a favourite." if entry.favourite else "A favourite; the gallery finds it."
        return [cards.progress(told), _liked(not entry.favourite)]

    like = result.buttons["like"]
    return like.click(favour, result.key, [result.told, like], **QUIET)


def _liked(liked: bool) -> Any:
    return gr.update(value="★ Favourite" if liked else "☆ Favourite")


def add_use_as(tabs: Any, media: list[MediaTab], others: Sequence[Result], out: Path) -> None:
    """Let a result be the input of another tab: its file goes there, and that tab opens."""
    targets = [(tab, name, kind, label, one) for tab in media
               for name, (kind, label, one) in tab.files.items()]  # fmt: skip

    def offered(file: Any, key: str) -> list[Any]:
        from studio.library_index import Library

        suffix = Path(str(file or "")).suffix.lower()
        choices = [
            (f"{PANELS[tab.modality]}: {label}", f"{tab.modality}.{name}")
            for tab, name, kind, label, _ in targets
            if suffix in SUFFIXES[kind]
        ]
        choices.insert(0, ("Use as input of …", ""))
        liked = False
        if key:
            try:
                liked = Library(out).find(key).favourite
            except ValueError:
                liked = False
        seen = len(choices) > 1 and bool(key)
        return [gr.update(choices=choices, value="", visible=seen), _liked(liked)]

    def use(choice: str | None, key: str) -> list[Any]:
        from studio.library_index import Library

        sent: list[Any] = [gr.skip() for _ in targets]
        for k, (tab, name, _, _, _) in enumerate(targets):
            if choice == f"{tab.modality}.{name}" and key:
                sent[k] = cards.served(Library(out).find(key).path)
                return [gr.update(selected=tab.modality), "", *sent]
        return [gr.skip(), "", *sent]

    for result in [*(tab.result for tab in media), *others]:
        result.card.change(
            offered, [result.file, result.key], [result.next_to, result.buttons["like"]], **QUIET
        )
        result.next_to.input(
            use, [result.next_to, result.key],
            [tabs, result.next_to, *(one for *_, one in targets)], **QUIET,
        )  # fmt: skip
