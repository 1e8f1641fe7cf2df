"""The tabs that make media: one for every modality that has landed, made from its knobs.

A tab has what a person says (words, files), ideas to begin with, the knobs, Make and Stop, and its
result (`studio.results`). What its buttons do is in `studio.actions`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from adapters.assets import ASSETS
from pipelines import DEFAULTS, MAKERS
from studio import cards, making
from studio.actions import (
    QUIET,
    SUFFIXES,
    felt,
    run_of,
    wire,
    wire_actions,
    wire_choice,
    wire_favourite,
    wire_stop,
)
from studio.results import (
    FIELDS,
    USUAL,
    Result,
    guarded,
    result_area,
    run_shown,
    shown,
    told_only,
    values,
)
from studio.run import PANELS
from studio.widgets import backbones_of, control, knobs, params_from, seed_of, style_knob, styles_of

SAMPLES = ASSETS / "samples"
MODES_OF_PEOPLE = ("portrait", "voice")
AGREED = "Whoever is seen or heard is me, is drawn, or has agreed"


@dataclass(frozen=True, slots=True)
class Mode:
    """What a tab asks for: words, files (name, kind, label), first files, ideas and samples.

    ideas: (words, emotion) that a click fills in. samples: files to choose from, by input.
    """

    words: str
    example: str
    files: tuple[tuple[str, str, str], ...]
    sample: dict[str, Path] = field(default_factory=dict)
    ideas: tuple[tuple[str, str], ...] = ()
    samples: dict[str, tuple[Path, ...]] = field(default_factory=dict)


MODES: dict[str, Mode] = {
    "image": Mode(
        "What to show", "a mountain lake", (("init", "image", "Re-render a photo"),),
        ideas=(
            ("a lighthouse at dusk", "sadness .8"), ("a forest path", "fear .9"),
            ("flowers in a garden", "happiness .8"), ("the sea", "anger .9"),
        ),
    ),
    "video": Mode(
        "What to show", "waves against a cliff", (("init", "image", "Let it move"),),
        ideas=(
            ("the sea in the evening", "0s contentment .7; 4s fear .9"),
            ("clouds over the sea", "awe .9"),
        ),
    ),
    "portrait": Mode(
        "Title", "",
        (
            ("image", "image", "Face: a photo or drawing"), ("audio", "sound", "What it says"),
            ("drive", "film", "Take the expression of this film"),
            ("curves", "curves", "Move by these curves"),
        ),
        {"image": SAMPLES / "faces" / "closed.jpg"},
        samples={
            "image": tuple(
                SAMPLES / "faces" / f"{name}.jpg"
                for name in ("closed", "smile", "beard", "glasses", "old", "dark", "cartoon")
            ),
            "audio": (SAMPLES / "storm.wav",),
        },
    ),
    "voice": Mode(
        "Words to speak, when there is no recording", "",
        (("audio", "sound", "Recording"),), {"audio": SAMPLES / "speech.wav"},
        samples={"audio": (SAMPLES / "speech.wav", SAMPLES / "storm.wav")},
    ),
    "music": Mode(
        "Title", "",
        (
            ("continue", "notes", "Go on from"), ("recolour", "notes", "Play in another mood"),
            ("from", "notes", "Take elements from"), ("onto", "notes", "… and put them onto"),
            ("soundfont", "font", "Play with a soundfont"),
        ),
        ideas=(
            ("From calm to storm", "0s contentment .7; 15s fear .9; 30s awe .8"),
            ("Lullaby", "love .6 + contentment .3"), ("Farewell", "sadness .9"),
        ),
    ),
}  # fmt: skip


@dataclass(slots=True)
class MediaTab:
    """A tab of a modality: its files by name, its result, its list of styles if it has one."""

    modality: str
    files: dict[str, tuple[str, str, Any]]
    result: Result
    styles: Any = None


def media_tabs(panel: Any, out: Path) -> list[MediaTab]:
    """A tab for every modality that can be made here."""
    return [
        _media_tab(panel, out, modality)
        for modality in MODES
        if modality in MAKERS and backbones_of(modality)
    ]


def _media_tab(panel: Any, out: Path, modality: str) -> MediaTab:
    mode, title = MODES[modality], "Image" if modality == "image" else PANELS[modality]
    with gr.Tab(title, id=modality):
        prompt = gr.Textbox(
            mode.example, label=mode.words, lines=1, max_length=2000, elem_id=f"prompt-{modality}"
        )
        _ideas(mode, prompt, panel)
        files, agreed = _files(mode, modality)
        asked, shown_knobs = _settings(modality, out)
        make, stop = make_and_stop(modality)
        result = result_area(modality, (*USUAL, "plain") if modality == "image" else USUAL)
    controls = [shown_knobs[one.name] for one in knobs(modality)]
    names = list(files)

    def run(request: gr.Request, text: str, line: Any, prompt: str, agreed: bool, seed: Any,
            n: Any, best: Any, backbone: str, *rest: Any) -> Iterator[list[Any]]:  # fmt: skip
        def events() -> Iterator[list[Any]]:
            given = {name: Path(one) for name, one in zip(names, rest, strict=False) if one}
            requests = making.requests_of(
                modality, prompt or "", felt(text, line, modality),
                seed=seed_of(seed), n=int(n), backbone=backbone,
                params=params_from(modality, rest[len(names):], out), inputs=given, out=out,
                agreed=agreed,
            )  # fmt: skip
            run = run_of(request, modality)
            yield from run_shown(requests, out, run, best_of=int(best) or None)

        yield from guarded(events())

    inputs = [panel.text, panel.line, prompt, agreed, *asked]
    inputs += [one for _, _, one in files.values()] + controls
    wire([make.click, prompt.submit], stop, run, inputs, result, modality, make)
    wire_stop(stop, result, modality)
    wire_actions(stop, panel, out, result, modality)
    wire_favourite(out, result)
    wire_choice(out, result)
    return MediaTab(modality, files, result, shown_knobs.get(style_knob(modality)))


def make_and_stop(name: str) -> tuple[Any, Any]:
    """The two buttons of a tab."""
    with gr.Row(elem_classes="make"):
        make = gr.Button("Make", variant="primary", scale=3, elem_id=f"make-{name}")
        stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id=f"stop-{name}")
    return make, stop


def _ideas(mode: Mode, prompt: Any, panel: Any) -> None:
    """Words and emotions to begin with; they need no network."""
    if not mode.ideas:
        return
    with gr.Row(elem_classes="chips"):
        for words, emotion in mode.ideas:
            gr.Button(words, size="sm", min_width=60).click(
                lambda words=words, emotion=emotion: (words, emotion), None, [prompt, panel.text],
                **QUIET,
            )  # fmt: skip


def _files(mode: Mode, modality: str) -> tuple[dict[str, tuple[str, str, Any]], Any]:
    """The files that a modality takes, by name, samples of them, and who has agreed."""
    files: dict[str, tuple[str, str, Any]] = {}
    people = modality in MODES_OF_PEOPLE
    with gr.Accordion("Files" if len(mode.files) > 1 else mode.files[0][2], open=people):
        _uploads(mode, mode.files[:2], files)
        for name, paths in mode.samples.items():
            there = [[one] for path in paths if (one := cards.served(path))]
            gr.Examples(
                there, files[name][2], label=f"Samples: {files[name][1].split(':')[0].lower()}",
                examples_per_page=8, api_visibility="private",
                elem_id=f"samples-{modality}-{name}",
            )  # fmt: skip
        if len(mode.files) > 2:
            with gr.Accordion("More", open=False, elem_id=f"more-{modality}"):
                _uploads(mode, mode.files[2:], files)
        agreed = gr.Checkbox(False, visible=people, label=AGREED, elem_id=f"agreed-{modality}")
    return files, agreed


def _uploads(
    mode: Mode, wanted: tuple[tuple[str, str, str], ...], files: dict[str, tuple[str, str, Any]]
) -> None:
    with gr.Row(elem_classes="files"):
        for name, kind, label in wanted:
            first = cards.served(mode.sample.get(name))
            files[name] = (kind, label, _upload(kind, label, first))


def _settings(modality: str, out: Path) -> tuple[list[Any], dict[str, Any]]:
    """(seed, n, best of, model) and a control for each knob, by name."""
    with gr.Accordion("Settings", open=False, elem_id=f"settings-{modality}"):
        with gr.Row(elem_classes="knobs"):
            seed = gr.Textbox("", label="Seed", info="fresh if left empty", max_length=16,
                              placeholder="fresh", elem_id=f"seed-{modality}")  # fmt: skip
            n = gr.Slider(1, 8, 1, step=1, label="How many")
            best = gr.Slider(0, 32, 0, step=1, label="Best of", info="0: keep them all")
            backbone = gr.Dropdown(backbones_of(modality), value=DEFAULTS[modality], label="Model")
        styles = styles_of(out, modality)
        usual = [one for one in knobs(modality) if not one.metadata.get("advanced")]
        rare = [one for one in knobs(modality) if one.metadata.get("advanced")]
        with gr.Row(elem_classes="knobs"):
            found = {one.name: control(one, modality, styles) for one in usual}
        with gr.Accordion("Advanced", open=False), gr.Row(elem_classes="knobs"):
            found |= {one.name: control(one, modality, styles) for one in rare}
    return [seed, n, best, backbone], found


def _upload(kind: str, label: str, value: str | None) -> Any:
    if kind == "image":
        image = gr.Image(value, label=label, alt_text=label, type="filepath",
                         sources=["upload", "clipboard"], buttons=["fullscreen"], height=200,
                         min_width=180)  # fmt: skip
        image.preprocess = functools.partial(_as_sent, image.preprocess)
        return image
    if kind == "sound":
        return gr.Audio(value, label=label, type="filepath", sources=["upload", "microphone"],
                        buttons=["download"], min_width=180)  # fmt: skip
    return gr.File(value, label=label, type="filepath", file_types=SUFFIXES[kind], height=150,
                   min_width=160)  # fmt: skip


def _as_sent(usual: Callable[[Any], Any], sent: Any) -> Any:
    """The file that was uploaded, as it is; gradio has seen that it is one of its own by then.

    gradio would open it, and of one that is no picture show a page of its insides and our folder.
    `pipelines.media` opens it with care and says in one line what is wrong.
    """
    path = getattr(sent, "path", None)
    return usual(sent) if path is None else str(path)


def grid_tab(panel: Any, out: Path) -> Result:
    """Emotions by levels as one contact sheet of pictures; returns its result."""
    from adapters.emotion import CORE

    with gr.Tab("Grid", id="grid"):
        prompt = gr.Textbox("the sea", label="What to show", max_length=2000, elem_id="prompt-grid")
        emotions = gr.Dropdown(
            list(CORE), value=["happiness", "fear", "sadness"], multiselect=True, label="Emotions",
            info="each at every level, instead of the emotion of the panel",
        )  # fmt: skip
        with gr.Row():
            levels = gr.Slider(1, 5, 3, step=1, label="Levels", info="intensities up to 1")
            seed = gr.Number(7, label="Seed", precision=0)
        make, stop = make_and_stop("grid")
        result = result_area("grid", ())

    def run(prompt: str, names: list[str], levels: Any, seed: Any, request: gr.Request
            ) -> Iterator[list[Any]]:  # fmt: skip
        def events() -> Iterator[list[Any]]:
            from pipelines.take import Take
            from studio.grid import emotion_names, grid_requests, write_sheet

            wanted = emotion_names(",".join(names or []))
            number = seed_of(None if seed is None else int(seed))
            requests = grid_requests(
                prompt, wanted, int(levels), neutral=True, seed=number,
                backbone=DEFAULTS["image"], params={},
            )  # fmt: skip
            takes: list[Any] = []
            run = run_of(request, "grid")
            for event in making.made(requests, out, session=run, batch_size=4):
                if isinstance(event, Take):
                    takes.append(event)
                    continue
                text = cards.step_text(event, making.doing("image", event.stage))
                share = event.index / event.total if event.total else None
                yield told_only(cards.progress(text, share, event.notes))
            if not takes:
                yield told_only(cards.progress("Stopped; nothing was finished."))
                return
            sheet = cards.served(write_sheet(wanted, int(levels), requests, takes, out))
            ended = "Stopped" if len(takes) < len(requests) else "Done"
            told = cards.progress(f"{ended}: {len(takes)} of {len(requests)} pictures.")
            filled = dict(zip(FIELDS, shown(takes[-1], told, []), strict=True))
            figure = gr.update(value=sheet, visible=True, label="Contact sheet")
            yield values(**filled | {
                "figure": figure, "card": "", "file": gr.update(value=sheet, interactive=True),
            })  # fmt: skip

        yield from guarded(events())

    wire([make.click, prompt.submit], stop, run, [prompt, emotions, levels, seed], result, "grid",
         make)  # fmt: skip
    wire_stop(stop, result, "grid")
    return result
