"""The Film tab: a scene as a text, its shots as rows, and the files that were uploaded with it.

A scene names its files by name; only those that came with it, or the samples, are found, and its
knobs name no folder, file or model of this machine. This file does not know how films are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from adapters.assets import ASSETS
from studio import cards, making
from studio.actions import QUIET, SUFFIXES, run_of, wire, wire_actions, wire_favourite, wire_stop
from studio.results import Result, guarded, result_area, run_shown
from studio.shots import rows_of, shots_view, with_rows
from studio.tabs import AGREED, make_and_stop

if TYPE_CHECKING:
    from pipelines.request import Request

SAMPLES = ASSETS / "samples"
LARGEST = 200_000  # characters of a scene
NAMING = ("lora", "sliders", "painter", "polish", "speech", "soundfont", "backbone", "curve")
"""Keys whose text may name a file, a folder or a model."""


def sample_scene() -> str:
    """The shipped scene, with its files by their bare names."""
    text = (SAMPLES / "storm.toml").read_text(encoding="utf-8")
    return text.replace("faces/closed.jpg", "closed.jpg")


def sample_files() -> list[Path]:
    """The files that the shipped scene names."""
    return [SAMPLES / "faces" / "closed.jpg", SAMPLES / "storm.wav"]


def scene_request(
    text: str, files: Sequence[Path], *, draft: bool, emotion: str | None = None
) -> Request:
    """The request of a scene. files: what came with it. emotion: in place of the scene's own.

    Raises SceneError, ParamError or EmotionError in one line.
    """
    from adapters.emotion import EmotionTimeline
    from pipelines.film import job_of, request_of
    from pipelines.film_scene import scene_of
    from pipelines.film_table import SceneError, parsed

    if len(text) > LARGEST:
        msg = f"scene: at most {LARGEST} characters are read, received {len(text)}; shorten it"
        raise SceneError(msg)
    data, where = parsed(text, "scene")
    _refuse_names(data)
    known = {one.name: one for one in files}

    def found(place: tuple[int | str, ...], name: str) -> Path:
        if name not in known:
            there = ", ".join(known) or "none"
            raise where.about(place, f"no file {name[:60]!r} came with it ({there}); upload it")
        return known[name]

    scene = scene_of(data, where, found)
    felt = None if emotion is None else EmotionTimeline.parse(emotion)
    read: dict[Any, Any] = {}
    request = request_of(scene, emotion=felt, params={"draft": draft}, known=read)
    job_of(request, where=where, known=read)
    return request


def _refuse_names(node: Any) -> None:
    """Refuse knobs that could name something of this machine; courses by their names are fine."""
    from adapters.curves import presets
    from pipelines import BACKBONES
    from pipelines.film_table import SceneError

    if isinstance(node, Mapping):
        for key, value in node.items():
            usual = ("", "auto", "espeak", *presets(), *BACKBONES)
            if key in NAMING and isinstance(value, str) and value not in usual:
                msg = f"scene: {key} names something of this machine; use `affect make film` for it"
                raise SceneError(msg)
            _refuse_names(value)
    elif isinstance(node, list):
        for one in node:
            _refuse_names(one)


def _edited(state: Any, text: str) -> tuple[Any, Any]:
    """The text with what was changed in the rows of shots, and its rows; else what is wrong."""
    turn = state.get("turn") if isinstance(state, Mapping) else None
    try:
        new = with_rows(text, state)
    except ValueError as error:
        return gr.skip(), rows_of(text, " ".join(str(error).split())[:300], turn)
    return new, rows_of(new, "", turn)


def film_tab(panel: Any, out: Path) -> Result:
    """A scene as text, and the files that it names; returns its result."""
    with gr.Tab("Film", id="film"):
        shots = shots_view(sample_scene(), elem_id="shots", label="Shots")
        with gr.Accordion("The whole scene as text", open=False):
            scene = gr.Code(
                sample_scene(), language=None, wrap_lines=True, label="Scene (TOML)", lines=14,
                max_lines=24, elem_id="scene",
            )  # fmt: skip
        files = gr.File(
            [str(cards.served(one)) for one in sample_files()], file_count="multiple",
            label="Files that the scene names", type="filepath", height=140,
            file_types=[*SUFFIXES["image"], *SUFFIXES["sound"], *SUFFIXES["film"]],
        )  # fmt: skip
        with gr.Row(elem_classes="filters"):
            draft = gr.Checkbox(True, label="Draft", info="half the size, fewer steps")
            own = gr.Checkbox(True, label="The scene's own emotion", info="else the panel's")
            agreed = gr.Checkbox(False, label=AGREED)
        make, stop = make_and_stop("film")
        result = result_area("film")

    def run(text: str, scene: str, files: list[str] | None, draft: bool, own: bool, agreed: bool,
            request: gr.Request) -> Iterator[list[Any]]:  # fmt: skip
        def events() -> Iterator[list[Any]]:
            asked = scene_request(
                scene,
                [Path(one) for one in files or []],
                draft=draft,
                emotion=None if own else text,
            )
            requests = making.with_consent([asked], out, agreed=agreed)
            yield from run_shown(requests, out, run_of(request, "film"))

        yield from guarded(events())

    views: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
    shots.input(_edited, [shots, scene], [scene, shots], **views)
    scene.change(rows_of, scene, shots, **views)
    given = [panel.text, scene, files, draft, own, agreed]
    wire([make.click], stop, run, given, result, "film", make)
    wire_stop(stop, result, "film")
    wire_actions(stop, panel, out, result, "film")
    wire_favourite(out, result)
    return result
