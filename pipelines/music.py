"""Music: the knobs, the check of requests, and the ways there are to come by a piece.

`generate` is the music branch of `pipelines.generate`. A piece is composed, or a file is continued,
re-coloured (the same notes played in another mood), or given elements of another file; which one is
said by the request's inputs. Everything that a person can get wrong is told here, before a model is
loaded or a file is written.

It deliberately does not know how a run goes (pipelines.music_session), how notes are made
(pipelines.music_composer, music_edit) or how files are written. Importing it loads no torch: the
command line reads `MusicParams` to print its help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.music_emotion import METERS, Pins, parse_attributes
from pipelines import Backbone, Step, resolve
from pipelines.music_form import FORMS
from pipelines.params import ParamError, Params, check_intensities, checked_text, knob
from pipelines.request import Request
from pipelines.selection import check_kept, check_search
from pipelines.take import Take, prepare_out

if TYPE_CHECKING:
    from adapters.piece import Piece
    from pipelines.music_composer import Composer

INPUTS = ("continue", "recolour", "from", "onto", "soundfont")
"""What a music request may bring: MIDI files, and the soundfont that plays the result."""
CONTROLS = "controls.json"
"""What tells a composer's folder: the steps of its attributes."""
SECONDS, LONGEST = 30.0, 600.0
LONGEST_FILE = 1200.0  # of what is played again: its sound must fit into 2 GB of memory
TAIL_SECONDS = 8.0  # music after the last key of a course of emotions, so that it can be heard
MORE_BARS = 16  # of a continuation, when no length is given
CANDIDATES = 2  # four take a second or two more and are read right as often (.98, .99; n = 200)


@dataclass(frozen=True, slots=True)
class MusicParams(Params):
    """Public knobs of a piece; options, controls, manifest and README are made from these."""

    seconds: float | None = knob(
        None, "exact length; 30 or what a course of emotions needs, a file's own if one is given",
        min=2.0, max=LONGEST, step=1.0, unset="by the task",
    )  # fmt: skip
    attributes: str = knob("", "attributes to pin, for example tempo=72,mode=major,key=F#m,meter=3")
    strength: float = knob(
        1.0, "how far the emotion moves the attributes", min=0.0, max=2.0, step=0.05
    )
    performance: float = knob(
        1.0, "expressiveness of the playing, 0: mechanical", min=0.0, max=2.0, step=0.05
    )
    brightness: float = knob(
        0.5, "colour of the piano: 0 felt, 1 hard hammers", min=0.0, max=1.0, step=0.05
    )
    form: str = knob("auto", "what returns: auto, song, rondo, or through for nothing")
    transfer: str = knob(
        "", "elements that go from one file onto another, for example rhythm,velocity"
    )
    candidates: int = knob(
        CANDIDATES, "pieces composed for each take; the critic keeps the best one",
        min=1, max=16, step=1,
    )  # fmt: skip
    temperature: float = knob(
        1.0, "how daring the choice of notes is", min=0.1, max=2.0, step=0.05, advanced=True
    )
    top_p: float = knob(
        0.95, "choose among the likeliest notes that make up this share",
        min=0.05, max=1.0, step=0.05, advanced=True,
    )  # fmt: skip
    guidance_scale: float = knob(
        2.5, "how closely to follow the attributes, 1: as the model likes",
        min=1.0, max=8.0, step=0.25, advanced=True,
    )  # fmt: skip
    lora: str = knob("", "folder of a style, a LoRA trained on MIDI files")
    lora_weight: float = knob(
        1.0, "how strongly the style is worn, 1: as it was trained", min=0.0, max=2.0, step=0.05
    )
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One piece to make: the request with its params spelled out and its files read.

    kind: "compose", "continue", "recolour" or "transfer". files: the pieces of the inputs by name.
    remarks: what reading them left out, for people.
    """

    request: Request
    params: MusicParams
    row: Backbone
    kind: str
    pins: Pins
    files: Mapping[str, Piece]
    remarks: tuple[str, ...] = ()

    @property
    def composed(self) -> bool:
        """Whether a model writes the notes."""
        return self.kind in ("compose", "continue")

    @property
    def moved(self) -> bool:
        """Whether emotion or pins ask for anything at all."""
        return self.request.emotion.peak.intensity > 0 or bool(self.pins.attributes) or any(
            any(state.residual) for _, state in self.request.emotion.keys
        )  # fmt: skip

    @property
    def but_for_seed(self) -> str:
        """Equal for jobs that differ in their seed alone."""
        return self.request.changed(seed=0).key

    def seeded(self, seed: int) -> Job:
        """Return the same job with another seed."""
        return dataclasses.replace(self, request=self.request.changed(seed=seed))


def job_of(request: Request, *, loaded: bool = False, search: bool = False) -> Job:
    """Check one request completely and read its files; no model is loaded for it.

    loaded: its backbone is at hand already, whatever its name. search: several seeds will be tried
    (best_of), so that one candidate a seed is enough.
    """
    checked_text("title", request.prompt)
    name = request.backbone
    row = Backbone(name, "music", name, "", "", 0) if loaded else resolve(name, "music")
    if row.modality != "music":
        msg = f"backbone: {row.name} makes {row.modality}, not music; see `affect models list`"
        raise ParamError(msg)
    given = {"candidates": 1, **request.params} if search else request.params
    params = MusicParams.parse(given, row.defaults)
    check_intensities(request.emotion.peak.intensity, over=params.over)
    if params.form not in FORMS:
        msg = f"form: allowed are {', '.join(FORMS)}, received {params.form[:40]!r}; choose one"
        raise ParamError(msg)
    kind = _kind(request.inputs, params)
    if params.lora:
        from adapters.music_adapter import check_adapter

        check_adapter(params.lora, params.lora_weight)
    pins = parse_attributes(params.attributes)
    remarks: list[str] = []
    files = _read(request.inputs, remarks)
    _check_pins(kind, pins, files)
    seconds = _seconds(kind, request, params, files)
    params = dataclasses.replace(params, seconds=seconds)
    request = request.changed(params=params.to_json())
    return Job(request, params, row, kind, pins, files, tuple(remarks))


def _kind(inputs: Mapping[str, Path], params: MusicParams) -> str:
    """What is to be done, from the names of the inputs; raises ParamError when they do not fit."""
    if strange := sorted(set(inputs) - set(INPUTS)):
        msg = f"inputs: music takes {', '.join(INPUTS)}, received {', '.join(strange)}"
        raise ParamError(msg)
    tasks = [name for name in ("continue", "recolour") if name in inputs]
    if params.transfer or "from" in inputs or "onto" in inputs:
        tasks.append("transfer")
    if len(tasks) > 1:
        msg = f"music: --{tasks[0]} and --{tasks[1]} are two tasks; do one after the other"
        raise ParamError(msg)
    if tasks != ["transfer"]:
        return tasks[0] if tasks else "compose"
    from pipelines.music_transfer import parse_elements

    parse_elements(params.transfer)
    for name, text in (("from", "gives the elements"), ("onto", "takes them")):
        if name not in inputs:
            msg = f"transfer: needs --from FILE and --onto FILE; the one that {text} is missing"
            raise ParamError(msg)
    return "transfer"


def _read(inputs: Mapping[str, Path], remarks: list[str]) -> dict[str, Piece]:
    """Decode every MIDI input; a broken one must be told before anything is made."""
    from pipelines.media_midi import load_midi

    return {name: load_midi(path, remarks) for name, path in inputs.items() if name != "soundfont"}


def _check_pins(kind: str, pins: Pins, files: Mapping[str, Piece]) -> None:
    """Refuse pins that the task leaves no room for."""
    if kind == "compose":
        return
    if pins.meter is not None:
        msg = f"attributes: meter is that of the file for --{kind}; leave meter out"
        raise ParamError(msg)
    if kind != "continue":
        from pipelines.music_edit import EDITED

        if strange := [name for name in pins.attributes if name not in EDITED]:
            msg = (
                f"attributes: playing a file again sets {', '.join(EDITED)}, not {strange[0]}; "
                "leave it out"
            )
            raise ParamError(msg)
    if kind != "continue" and pins.key is not None:
        msg = f"attributes: --{kind} keeps the key of the file; write mode=minor to change its mode"
        raise ParamError(msg)
    if kind == "continue" and files["continue"].beats_per_bar not in METERS:
        beats = files["continue"].beats_per_bar
        msg = (
            f"continue: the composer writes {' or '.join(map(str, METERS))} quarter notes a bar, "
            f"the file has {beats:g}; re-colour it instead (--recolour)"
        )
        raise ParamError(msg)


def _seconds(
    kind: str, request: Request, params: MusicParams, files: Mapping[str, Piece]
) -> float | None:
    """The length to make, None where it is the file's own."""
    wanted = params.seconds
    if kind in ("recolour", "transfer"):
        if wanted is not None:
            msg = f"seconds: --{kind} keeps the length of the file; leave --seconds out"
            raise ParamError(msg)
        name = "recolour" if kind == "recolour" else "onto"
        if files[name].seconds > LONGEST_FILE:
            msg = (
                f"{name}: the file lasts {files[name].seconds / 60:.0f} minutes, allowed are "
                f"{LONGEST_FILE / 60:g}; cut it into parts"
            )
            raise ParamError(msg)
        return None
    if kind == "compose":
        course = request.emotion.duration
        needed = SECONDS if course <= SECONDS - TAIL_SECONDS else course + TAIL_SECONDS
        return min(needed, LONGEST) if wanted is None else wanted
    lead = files["continue"]
    bar = lead.beats_per_bar * 60 / float(lead.tempo[-1, 1])
    if wanted is None:
        wanted = round(lead.seconds + MORE_BARS * bar, 3)
    if not lead.seconds + bar <= wanted <= LONGEST:
        msg = (
            f"seconds: the file lasts {lead.seconds:.0f} s already, so allowed are "
            f"{lead.seconds + bar:.0f} to {LONGEST:g}, received {wanted:g}; "
            f"{'ask for more' if wanted <= LONGEST else 'continue a shorter one'}"
        )
        raise ParamError(msg)
    return wanted


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    composer: Composer | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "mid",
) -> Iterator[Step | Take]:
    """Make music; yields `Step`s and, for each finished piece, a `Take` with its .wav and .png.

    Args:
        requests: what to make. Knobs that are not given take their defaults and are spelled out
            in the take's request, as is the digest of the weights.
        out_dir: folder of the takes and their ledger.
        best_of: N >= n; for n requests that differ in their seed alone, make N pieces with seeds
            from the first one on, let the critic rank them, keep the best n. Each keeps its own
            seed, so making it again needs no search. `candidates` is then 1 unless asked for.
        composer: use this loaded composer for all requests instead of loading their backbone.
        critic, reader: who ranks, and who reports; "auto" loads the embedded pair, None does
            without.
        batch_size: pieces composed at once.
        device, dtype, offline: see `pipelines.load`.
        ext: "mid": a take of music is its notes.

    Raises:
        ParamError, EmotionError, MusicEmotionError, MediaError, BackboneError: one line each,
            before anything runs.
    """
    search = best_of is not None
    jobs = [job_of(one, loaded=composer is not None, search=search) for one in requests]
    check_kept(jobs, best_of)
    check_search(best_of, critic, batch_size)
    if ext != "mid":
        msg = f"ext: a take of music is a MIDI file (mid) with its sound beside it, not {ext!r}"
        raise ParamError(msg)
    for job in jobs:
        if composer is None and job.composed:  # playing a file again needs no model
            check_here(job.row, offline=offline)
        _check_soundfont(job.request.inputs.get("soundfont"))
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.music_session import Session

    options = {"device": device, "dtype": dtype, "offline": offline}
    return Session(out, best_of, composer, critic, reader, batch_size, options).takes(jobs)


def check_here(row: Backbone, *, offline: bool | None = None) -> None:
    """Raise one line when a composer's weights are not on this machine."""
    from pipelines.weights import check_own

    check_own(row, CONTROLS, offline=offline)


def _check_soundfont(path: Path | None) -> None:
    """Refuse what is no SoundFont 2 by its first bytes, and one that nothing here can play."""
    if path is None:
        return
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"sfbk":
        msg = f"soundfont: {path.name} is no SoundFont 2 file (.sf2); give another or leave it out"
        raise ParamError(msg)
    from adapters.piece import Piece
    from pipelines.piano import render

    render(Piece.of([0.0], [0.1], [60]), seconds=0.01, soundfont=path)
