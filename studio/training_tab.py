"""The Train tab: a style or the emotions of pictures learned from a person's own files.

It runs `affect train lora` as it is, in a process of its own; a run that is stopped can go on here
or from the command line. The style lands in `styles/` of the out folder, where the other tabs find
it. What the run says and the newest of its sample strips are shown while it learns. This file does
not know how anything is learned.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from adapters.emotion import CORE
from studio import cards, making
from studio.actions import NOT_STARTED, QUIET, run_of
from studio.run import PANELS
from studio.widgets import STYLES, choices_of, style_knob, styles_of

if TYPE_CHECKING:
    from studio.tabs import MediaTab

KINDS = ("image", "music", "voice", "portrait")
LINES = 14  # of the log that are shown
STEPS = {"image": 300, "music": 300, "voice": 600, "portrait": 400}
PATIENCE = 20.0  # s that a run has to write its checkpoint after Stop
NAME = "train"
_ABOUT = {
    "image": "Pictures whose names begin with an emotion, as `anger-01.jpg`, or with a "
    "`metadata.jsonl`; captions as `anger-01.txt`. A slider is learned for each emotion.",
    "music": "MIDI files in the style that is wanted.",
    "voice": "Recordings named `NAME_neutral.wav`, `NAME_anger.wav` …",
    "portrait": "CSV files of Live Link Face.",
}
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".mid", ".midi", ".wav", ".flac", ".mp3", ".csv",
            ".jsonl", ".txt"]  # fmt: skip


def training_tab(out: Path, media: Sequence[MediaTab] = ()) -> None:
    """The tab; the lists of styles of the other tabs learn of what was trained."""
    with gr.Tab("Train", id="train"):
        about = gr.Markdown(_ABOUT["music"], elem_id="about-train")
        with gr.Row(elem_classes="filters"):
            kind = gr.Dropdown(
                [("Image" if one == "image" else PANELS[one], one) for one in KINDS],
                value="music", label="Kind", min_width=120, elem_id="kind-train",
            )  # fmt: skip
            name = gr.Textbox("my style", label="Name", max_length=40, min_width=120)
            minutes = gr.Slider(1, 120, 5, step=1, label="Minutes", info="at most", min_width=140)
            steps = gr.Slider(10, 3000, STEPS["music"], step=10, label="Steps", info="at most",
                              min_width=140, elem_id="steps-train")  # fmt: skip
        files = gr.File(label="Files", file_count="multiple", type="filepath", height=140,
                        file_types=SUFFIXES, elem_id="files-train")  # fmt: skip
        go_on = gr.Checkbox(False, label="Go on with the run of this name, from where it stopped",
                            elem_id="resume-train")  # fmt: skip
        with gr.Row(elem_classes="make"):
            learn = gr.Button("Train", variant="primary", scale=3, elem_id="make-train")
            stop = gr.Button("Stop", interactive=False, scale=1, min_width=80,
                             elem_id="stop-train")  # fmt: skip
        told = gr.HTML(cards.progress("Nothing trained yet."), elem_id="told-train")
        strip = gr.Image(label="Samples so far", visible=False, interactive=False, type="filepath",
                         elem_id="strip-train", buttons=["download", "fullscreen"])  # fmt: skip
        log = gr.HTML("", elem_id="log-train")

    listing = [tab for tab in media if tab.styles is not None]

    def live(request: gr.Request) -> list[Any]:
        making.begin(run_of(request, NAME))
        waiting = cards.progress("Waiting for its turn …")
        return [waiting, gr.update(interactive=True), gr.update(interactive=False)]

    def idle(request: gr.Request) -> list[Any]:
        making.end(run_of(request, NAME))
        lists = [
            gr.update(choices=choices_of(tab.modality, style_knob(tab.modality),
                                         styles_of(out, tab.modality)))
            for tab in listing
        ]  # fmt: skip
        return [gr.update(interactive=False), gr.update(interactive=True), *lists]

    def run(kind: str, name: str, minutes: float, steps: float, files: list[str] | None,
            go_on: bool, request: gr.Request) -> Iterator[list[Any]]:  # fmt: skip
        try:
            given = [Path(one) for one in files or []]
            command = command_of(
                out, kind, name, float(minutes), int(steps), given, go_on=bool(go_on)
            )
        except (ValueError, OSError) as error:
            yield [cards.failed(error), gr.update(value=None, visible=False), ""]
            return
        place = out / STYLES / kind / _slug(name)
        for text, lines in followed(command, run_of(request, NAME), float(minutes)):
            here = [line.replace(f"{out}{os.sep}", "") for line in lines]  # no folder is told
            yield [text, _strip(place), cards.log(here)]

    def halt(request: gr.Request) -> Any:
        ends = making.stop(run_of(request, NAME))
        told = "Stopping; what was learned so far is being kept …"
        return cards.progress(told) if ends else gr.skip()

    def other(kind: str) -> list[Any]:
        usual = kind if kind in KINDS else "music"
        return [_ABOUT[usual], STEPS[usual]]

    def broken(request: gr.Request) -> list[Any]:
        return [cards.failed(ValueError(NOT_STARTED)), *idle(request)]

    def given(kind: str, files: list[str] | None) -> str:
        return cards.progress(counted(kind, [Path(one).name for one in files or []]))

    files.change(given, [kind, files], told, **QUIET)
    kind.input(other, kind, [about, steps], **QUIET)
    states = [stop, learn, *(tab.styles for tab in listing)]
    event = learn.click(live, None, [told, stop, learn], **QUIET).then(
        run,
        [kind, name, minutes, steps, files, go_on],
        [told, strip, log],
        concurrency_id="training",
        concurrency_limit=1,
        api_visibility="private",
        show_progress="hidden",
    )
    event.success(idle, None, states, **QUIET)
    event.failure(broken, None, [told, *states], **QUIET)
    stop.click(halt, None, told, **QUIET)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")[:40]


def counted(kind: str, names: Sequence[str]) -> str:
    """How many files there are, and of pictures how many for each emotion."""
    if not names:
        return "Nothing trained yet."
    text = f"{len(names)} file" + ("" if len(names) == 1 else "s")
    if kind != "image" or any(name.endswith(".jsonl") for name in names):
        return f"{text}."
    felt = [felt_by(name) for name in names if not name.endswith(".txt")]
    parts = [f"{felt.count(one)} {one}" for one in (*CORE, "neutral") if one in felt]
    if "" in felt:
        parts.append(f"{felt.count('')} whose names begin with no emotion")
    return f"{text}: {', '.join(parts)}." if parts else f"{text}."


def felt_by(name: str) -> str:
    """The folder of a picture: the emotion that its name begins with, none for others.

    A browser sends files without their folders, so the name has to say it.
    """
    head = re.match(r"[a-z]+", name.lower())
    return head.group() if head and head.group() in (*CORE, "neutral") else ""


def command_of(
    out: Path, kind: str, name: str, minutes: float, steps: int, files: list[Path], *,
    go_on: bool = False,
) -> list[str]:  # fmt: skip
    """The command line of a training; copies the files to a folder of their own.

    go_on: with the run of this name and its files; no others are needed.
    Raises ValueError in one line for a kind that there is not, no name, no files, two of one name,
    or a style that would be lost.
    """
    if kind not in KINDS:
        msg = f"kind: one of {', '.join(KINDS)}, received {str(kind)[:20]!r}; choose one"
        raise ValueError(msg)
    slug = _slug(name)
    data, place = out / ".training" / kind / slug, out / STYLES / kind / slug
    if not slug or not (files or go_on):
        lacking = "a name of letters or digits" if not slug else "some files"
        msg = f"train: give it {lacking}; then press Train again"
        raise ValueError(msg)
    if go_on and not place.is_dir():
        msg = f"train: no run is called {slug}; choose its name, or start anew"
        raise ValueError(msg)
    if not go_on and slug in styles_of(out, kind):
        msg = f'name: a style called {slug} is there; choose another name, or tick "Go on"'
        raise ValueError(msg)
    if not go_on:
        shutil.rmtree(data, ignore_errors=True)  # files of an earlier press are not meant any more
        shutil.rmtree(place, ignore_errors=True)
        data.mkdir(parents=True)
        for one in files:
            folder = data / felt_by(one.name) if kind == "image" else data
            folder.mkdir(exist_ok=True)
            copy = folder / one.name
            if copy.exists():
                msg = f"files: two are called {one.name}; rename one and upload them again"
                raise ValueError(msg)
            shutil.copyfile(one, copy)
    place.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "studio.cli", "train", "lora", "--modality", kind, "--data",
        str(data), "--out", str(place), "--steps", str(max(1, steps)),
    ]  # fmt: skip
    if kind == "image":
        often = max(10, steps // 6)  # about six strips and checkpoints a run
        command += ["--sample-every", str(often), "--save-every", str(often)]
    else:
        command += ["--minutes", f"{minutes:g}"]
    return [*command, "--resume", "latest"] if go_on else command


def followed(command: list[str], session: str, minutes: float) -> Iterator[tuple[str, list[str]]]:
    """What a run says while it goes on: (what to tell, its last lines), until it ends or is ended.

    minutes: after this long it is told to keep what it has, as by Ctrl-C; so is it by Stop, and
    when who looks at it leaves.
    """
    lines: list[str] = []
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    begun, ending = time.monotonic(), 0.0
    with making.running(session), subprocess.Popen(  # noqa: S603 - our own command line, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as child:  # fmt: skip

        def read() -> None:
            # Lines that are drawn over each other end in a carriage return, which text mode splits.
            for line in child.stdout or ():
                said.put(line.strip())
            said.put(None)

        threading.Thread(target=read, name="affect-train-log", daemon=True).start()
        try:
            while True:
                try:
                    line = said.get(timeout=0.5)
                except queue.Empty:
                    line = ""
                if line is None:
                    break
                if line:
                    lines = [*lines[-LINES:], line]
                spent = time.monotonic() - begun
                over = making.is_stopping(session) or spent > 60 * minutes + 30
                if over and not ending:
                    ending = time.monotonic()
                    child.send_signal(signal.SIGINT)
                if ending and time.monotonic() - ending > PATIENCE:
                    child.kill()
                doing = "Stopping" if ending else "Training"
                yield cards.progress(f"{doing} … {spent:.0f} s"), lines
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
                try:
                    child.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    child.kill()
    if child.returncode == 0:
        told = "Trained; the settings of its tab offer it under this name."
    elif ending:
        told = 'Stopped; tick "Go on" to train it further.'
    else:
        told = "Ended without a style; the last line says why."
    yield cards.progress(told), lines


def _strip(place: Path) -> Any:
    """The newest sample strip of a run, where it paints any."""
    found = sorted((place / "samples").glob("step-*.png"))
    if not found:
        return gr.skip()
    return gr.update(value=cards.served(found[-1]), visible=True)
