"""The Train tab: a style learned from a person's own files, in a process of its own.

It runs `affect train lora` as it is, so a run that is stopped can go on from the command line. The
style lands in `styles/` of the out folder, where the other tabs find it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from studio import cards, making
from studio.run import PANELS
from studio.widgets import STYLES

LINES = 14  # of the log that are shown


def training_tab(out: Path) -> None:
    """The tab."""
    with gr.Tab("Train", id="train"):
        gr.Markdown(
            "Teach a model a style: MIDI files for music; recordings named `NAME_neutral.wav`, "
            "`NAME_anger.wav` … for voices; Live Link Face CSV files for portraits."
        )
        with gr.Row():
            modality = gr.Dropdown(
                [(PANELS[one], one) for one in ("music", "voice", "portrait")], value="music",
                label="Kind",
            )  # fmt: skip
            name = gr.Textbox("my style", label="Name", max_length=40)
            minutes = gr.Slider(1, 120, 5, step=1, label="Minutes at most")
        files = gr.File(label="Files", file_count="multiple", type="filepath", height=140,
                        file_types=[".mid", ".midi", ".wav", ".flac", ".mp3", ".csv"])  # fmt: skip
        with gr.Row():
            learn = gr.Button("Train", variant="primary", scale=3)
            stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
        told = gr.HTML(cards.progress("Nothing trained yet."))

    def live(request: gr.Request) -> Any:
        making.begin(request.session_hash or "")
        return gr.update(interactive=True)

    def run(kind: str, name: str, minutes: float, files: list[str] | None, request: gr.Request
            ) -> Iterator[str]:  # fmt: skip
        try:
            command = _command(out, kind, name, float(minutes), [Path(x) for x in files or []])
        except ValueError as error:
            yield cards.failed(error)
            return
        yield from _followed(command, request.session_hash or "")

    def halt(request: gr.Request) -> None:
        making.stop(request.session_hash or "")

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    learn.click(live, None, stop, queue=False, **quiet).then(
        run, [modality, name, minutes, files], told, concurrency_id="training",
        concurrency_limit=1, **quiet,
    ).then(lambda: gr.update(interactive=False), None, stop, queue=False, **quiet)  # fmt: skip
    stop.click(halt, None, None, queue=False, **quiet)


def _command(out: Path, kind: str, name: str, minutes: float, files: list[Path]) -> list[str]:
    """The command line of a training; copies the files to a folder of their own."""
    if kind not in ("music", "voice", "portrait"):
        msg = "kind: music, voice or portrait; choose one"
        raise ValueError(msg)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    if not slug or not files:
        msg = "train: give it a name and some files"
        raise ValueError(msg)
    data, place = out / ".training" / kind / slug, out / STYLES / kind / slug
    data.mkdir(parents=True, exist_ok=True)
    for one in files:
        shutil.copyfile(one, data / one.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable, "-m", "studio.cli", "train", "lora", "--modality", kind, "--data",
        str(data), "--out", str(place), "--minutes", f"{minutes:g}",
    ]  # fmt: skip


def _followed(command: list[str], session: str) -> Iterator[str]:
    """The log of a run, line by line, until it ends or is stopped."""
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own command line, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        try:
            yield cards.progress("Training …")
            for line in child.stdout or ():
                lines.append(line.strip())
                yield cards.progress("Training …", None, lines[-LINES:])
                if making.is_stopping(session):
                    break
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
    ended = "Trained; it is in the list of styles when the page is loaded again."
    text = ended if child.returncode == 0 else "Ended without a style."
    yield cards.progress(text, None, lines[-LINES:])
