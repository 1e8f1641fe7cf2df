"""The tabs that make media: one for every modality that has landed, made from its knobs.

A tab has what a person says (words, files), the knobs, Make and Stop, and its result: the take,
its score card, its course, before and after, and what can be done with it next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.assets import ASSETS
from pipelines import DEFAULTS, MAKERS
from studio import cards, making
from studio.affect_pad import chosen_emotion
from studio.results import Result, guarded, result_area, run_shown, shown, told_only
from studio.run import PANELS, fresh_seed
from studio.widgets import backbones_of, control, knobs, params_from, styles_of

SAMPLES = ASSETS / "samples"
DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
SUFFIXES = {
    "image": [".png", ".jpg", ".jpeg", ".webp"], "sound": [".wav", ".flac", ".mp3"],
    "film": [".mp4"], "notes": [".mid", ".midi"], "curves": [".csv", ".json"],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mode:
    """What a tab asks for: words, files (name, kind, label), a first example."""

    words: str
    example: str
    files: tuple[tuple[str, str, str], ...]
    sample: dict[str, Path] = field(default_factory=dict)


MODES: dict[str, Mode] = {
    "image": Mode("What to show", "a mountain lake", (("init", "image", "Re-render a photo"),)),
    "video": Mode("What to show", "waves against a cliff", (("init", "image", "Let it move"),)),
    "portrait": Mode(
        "Title", "",
        (
            ("image", "image", "Face: a photo or drawing"), ("audio", "sound", "What it says"),
            ("drive", "film", "Take the expression of this film"),
            ("curves", "curves", "Move by these curves"),
        ),
        {"image": SAMPLES / "faces" / "closed.jpg"},
    ),
    "voice": Mode(
        "Words to speak, when there is no recording", "",
        (("audio", "sound", "Recording"),), {"audio": SAMPLES / "speech.wav"},
    ),
    "music": Mode(
        "Title", "",
        (
            ("continue", "notes", "Go on from"), ("recolour", "notes", "Play in another mood"),
        ),
    ),
}  # fmt: skip
MODES_OF_PEOPLE = ("portrait", "voice")


@dataclass(slots=True)
class MediaTab:
    """A tab of a modality: its files by name, and its result."""

    modality: str
    files: dict[str, tuple[str, str, Any]]
    result: Result


def wire(button: Any, stop: Any, run: Any, inputs: list[Any], result: Result) -> Any:
    """Make on click; Stop is live while it runs."""

    def live(request: gr.Request) -> tuple[Any, str]:
        making.begin(request.session_hash or "")
        return gr.update(interactive=True), cards.progress("Waiting for its turn …")

    def halt(request: gr.Request) -> None:
        making.stop(request.session_hash or "")  # the run itself says when it has ended

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    first = button.click(live, None, [stop, result.told], queue=False, **quiet)
    event = first.then(
        run, inputs, result.all, api_visibility="private", show_progress="minimal",
        show_progress_on=result.told, **DEVICE,
    )  # fmt: skip
    event.then(lambda: gr.update(interactive=False), None, stop, queue=False, **quiet)
    stop.click(halt, None, None, queue=False, **quiet)
    return event


def media_tabs(panel: Any, out: Path) -> list[MediaTab]:
    """A tab for every modality that can be made here."""
    return [
        _media_tab(panel, out, modality)
        for modality in MODES
        if modality in MAKERS and backbones_of(modality)
    ]


def _media_tab(panel: Any, out: Path, modality: str) -> MediaTab:
    mode, title = MODES[modality], "Image" if modality == "image" else PANELS[modality]
    files: dict[str, tuple[str, str, Any]] = {}
    with gr.Tab(title, id=modality):
        prompt = gr.Textbox(
            mode.example, label=mode.words, lines=1, max_length=2000, elem_id=f"prompt-{modality}"
        )
        with gr.Accordion("Files", open=modality in MODES_OF_PEOPLE):
            with gr.Row():
                for name, kind, label in mode.files:
                    first = cards.served(mode.sample.get(name))
                    files[name] = (kind, label, _upload(kind, label, first))
            agreed = gr.Checkbox(
                False, visible=modality in MODES_OF_PEOPLE,
                label="Whoever is seen or heard is me, is drawn, or has agreed",
            )  # fmt: skip
        with gr.Row():
            make = gr.Button("Make", variant="primary", scale=3, elem_id=f"make-{modality}")
            stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80,
                             elem_id=f"stop-{modality}")  # fmt: skip
        result = result_area(modality)
        with gr.Row():
            again = gr.Button("Remake with this emotion", size="sm", min_width=120)
            other = gr.Button("Remake with a new seed", size="sm", min_width=120)
        with gr.Accordion("Settings", open=False):
            with gr.Row():
                seed = gr.Number(None, label="Seed", info="fresh if left empty", precision=0,
                                 minimum=0, maximum=2**53 - 1)  # fmt: skip
                n = gr.Slider(1, 8, 1, step=1, label="How many")
                best = gr.Slider(0, 32, 0, step=1, label="Best of", info="0: keep them all")
                backbone = gr.Dropdown(
                    backbones_of(modality), value=DEFAULTS[modality], label="Model"
                )
            styles = styles_of(out, modality)
            shown_knobs = {
                one.name: control(one, modality, styles)
                for one in knobs(modality)
                if not one.metadata.get("advanced")
            }
            with gr.Accordion("Advanced", open=False):
                shown_knobs |= {
                    one.name: control(one, modality, styles)
                    for one in knobs(modality)
                    if one.metadata.get("advanced")
                }
    controls = [shown_knobs[one.name] for one in knobs(modality)]
    names = list(files)

    def run(request: gr.Request, text: str, line: Any, prompt: str, agreed: bool, seed: Any,
            n: Any, best: Any, backbone: str, *rest: Any) -> Iterator[list[Any]]:  # fmt: skip
        def events() -> Iterator[list[Any]]:
            given = {name: Path(one) for name, one in zip(names, rest, strict=False) if one}
            requests = making.requests_of(
                modality, prompt or "", felt(text, line, modality),
                seed=fresh_seed() if seed is None else int(seed), n=int(n), backbone=backbone,
                params=params_from(modality, rest[len(names):], out), inputs=given, out=out,
                agreed=agreed,
            )  # fmt: skip
            session = request.session_hash or ""
            yield from run_shown(requests, out, session, best_of=int(best) or None)

        yield from guarded(events())

    inputs = [panel.text, panel.line, prompt, agreed, seed, n, best, backbone]
    inputs += [one for _, _, one in files.values()] + controls
    wire(make, stop, run, inputs, result)
    prompt.submit(lambda: None, None, None, api_visibility="private").then(
        run, inputs, result.all, api_visibility="private", show_progress_on=result.told, **DEVICE
    )
    wire_remake(again, other, stop, panel, out, result)
    return MediaTab(modality, files, result)


def felt(text: str, line: Any, modality: str) -> str:
    """The emotion for a modality: a picture holds the chosen moment of a course."""
    if modality != "image":
        return text
    at = line.get("at", 0) if isinstance(line, dict) else 0
    return chosen_emotion(text, at if isinstance(at, int) else 0)


def wire_remake(again: Any, other: Any, stop: Any, panel: Any, out: Path, result: Result) -> None:
    """The two buttons that make the shown take again."""

    # No gr.State says which button it is: made between tabs it would count as one of them.
    def runner(fresh: bool) -> Any:
        def run(text: str, line: Any, key: str, request: gr.Request) -> Iterator[list[Any]]:
            def events() -> Iterator[list[Any]]:
                requests = making.remade(out, key, None, fresh_seed() if fresh else None)
                if not fresh:
                    emotion = felt(text, line, requests[0].modality)
                    requests = making.remade(out, key, emotion, None)
                yield from run_shown(requests, out, request.session_hash or "")

            yield from guarded(events())

        return run

    for button, fresh in ((again, False), (other, True)):
        wire(button, stop, runner(fresh), [panel.text, panel.line, result.key], result)


def _upload(kind: str, label: str, value: str | None) -> Any:
    if kind == "image":
        return gr.Image(value, label=label, type="filepath", sources=["upload", "clipboard"],
                        buttons=["fullscreen"], height=200, min_width=180)  # fmt: skip
    if kind == "sound":
        return gr.Audio(value, label=label, type="filepath", sources=["upload", "microphone"],
                        buttons=["download"], min_width=180)  # fmt: skip
    return gr.File(value, label=label, type="filepath", file_types=SUFFIXES[kind], height=120,
                   min_width=160)  # fmt: skip


def grid_tab(panel: Any, out: Path) -> None:
    """Emotions by levels as one contact sheet of pictures."""
    from adapters.emotion import CORE

    with gr.Tab("Grid", id="grid"):
        prompt = gr.Textbox("the sea", label="What to show", max_length=2000)
        emotions = gr.Dropdown(
            list(CORE), value=["happiness", "fear", "sadness"], multiselect=True, label="Emotions"
        )
        with gr.Row():
            levels = gr.Slider(1, 5, 3, step=1, label="Levels", info="intensities up to 1")
            seed = gr.Number(7, label="Seed", precision=0, minimum=0, maximum=2**53 - 1)
        with gr.Row():
            make = gr.Button("Make", variant="primary", scale=3, elem_id="make-grid")
            stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
        result = result_area("grid")

    def run(prompt: str, names: list[str], levels: Any, seed: Any, request: gr.Request
            ) -> Iterator[list[Any]]:  # fmt: skip
        def events() -> Iterator[list[Any]]:
            from pipelines.take import Take
            from studio.grid import emotion_names, grid_requests, write_sheet

            wanted = emotion_names(",".join(names or []))
            number = fresh_seed() if seed is None else int(seed)
            requests = grid_requests(
                prompt, wanted, int(levels), neutral=True, seed=number,
                backbone=DEFAULTS["image"], params={},
            )  # fmt: skip
            takes: list[Any] = []
            session = request.session_hash or ""
            for event in making.made(requests, out, session=session, batch_size=4):
                if isinstance(event, Take):
                    takes.append(event)
                    continue
                text = cards.step_text(event, making.doing("image", event.stage))
                share = event.index / event.total if event.total else None
                yield told_only(cards.progress(text, share, event.notes))
            if not takes:
                return
            sheet = write_sheet(wanted, int(levels), requests, takes, out)
            values = shown(takes[-1], cards.progress(f"{len(takes)} pictures."), [])
            values[5] = gr.update(value=cards.served(sheet), visible=True, label="Contact sheet")
            values[7] = gr.update(value=cards.served(sheet), interactive=True)
            yield values

        yield from guarded(events())

    wire(make, stop, run, [prompt, emotions, levels, seed], result)


def add_use_as(tabs: Any, media: list[MediaTab], gallery: Result, out: Path) -> None:
    """Let a result be the input of another tab: its file goes there, and that tab opens."""
    targets = [(tab, name, kind, label, one) for tab in media
               for name, (kind, label, one) in tab.files.items()]  # fmt: skip
    results = [*(tab.result for tab in media), gallery]

    def offered(file: Any, key: str) -> Any:
        suffix = Path(str(file or "")).suffix.lower()
        choices = [
            (f"{PANELS[tab.modality]}: {label}", f"{tab.modality}.{name}")
            for tab, name, kind, label, _ in targets
            if suffix in SUFFIXES[kind]
        ]
        return gr.update(choices=choices, value=None, visible=bool(choices and key))

    def use(choice: str | None, key: str) -> list[Any]:
        from studio.library_index import Library

        values: list[Any] = [gr.skip() for _ in targets]
        for k, (tab, name, _, _, _) in enumerate(targets):
            if choice == f"{tab.modality}.{name}" and key:
                values[k] = cards.served(Library(out).find(key).path)
                return [gr.update(selected=tab.modality), *values]
        return [gr.skip(), *values]

    quiet: dict[str, Any] = {
        "api_visibility": "private", "show_progress": "hidden", "queue": False
    }  # fmt: skip
    for result in results:
        result.card.change(offered, [result.file, result.key], result.next_to, **quiet)
        result.next_to.input(
            use, [result.next_to, result.key], [tabs, *(one for *_, one in targets)], **quiet
        )
