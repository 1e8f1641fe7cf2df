"""LoRA of voice-tiny for one speaker or one way of acting: a few minutes of parallel speech in.

    FOLDER/[SPEAKER/]NAME_neutral.wav   FOLDER/[SPEAKER/]NAME_anger.wav   ...

Each sentence (NAME) is recorded neutrally and in one or more emotions, under the names of the core
emotions or any word `style` stands for; or the folder is laid out as a published set (EmoDB,
RAVDESS, CREMA-D, ESD), by emotion, or with a table (`training.folder_layouts`). Who speaks is the
set's speaker or else the folder; takes of one sentence share its code, its text or their name. An
intensity that was rated is what the model is told, otherwise it is estimated from the takes
(`training.voice_data.clarity`). The takes are aligned and read as the model's own training
pairs were (training/voice_data.py); low-rank matrices on all linear layers of both denoisers are
trained (Hu et al. 2021), the model is not touched. A part of the sentences decides when the style
is known: what is written are the matrices with the least loss there, so a folder that teaches
nothing yields an adapter that changes nothing. Two ordinary diffusers adapters are written, which
`VoicePipeline.wearing` puts on.

It deliberately does not know how an adapter is chosen by a person.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from adapters.files import replacing
from pipelines.media_sound import load_sound
from pipelines.voice_model import ADAPTER, HEADS, VoicePipeline
from training.folder import Sample
from training.folder_labels import unit
from training.folder_layouts import SPLITS
from training.folder_style import StyleError, read_style, write_adapter
from training.intervals import over_groups
from training.voice import Feed, Row, Settings, fit_model, make_row, remaining, share_left
from training.voice_data import Clip, clarity, make_clip, make_pairs

LAYERS = ["enter", "film", "up", "down", "leave"]
EVERY_FOURTH = 4  # sentence is held out
CARD = "adapter.json"

Cell = tuple[str, str]
"""A speaker and a sentence."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """rank of the matrices (alpha is equal to it); the rest as `training.voice.Settings`.

    layout: of the folder, one of `training.folder.LAYOUTS` or auto.
    """

    rank: int = 8
    steps: int = 600
    minutes: float = 10.0
    rate: float = 1e-3
    check: int = 50
    batch: int = 8
    crop: int = 128
    layout: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("rank", "steps", "check", "batch", "crop"):
            if getattr(self, name) < 1:
                msg = f"{name}: allowed 1 or more, received {getattr(self, name)}"
                raise StyleError(msg)
        if not (self.minutes > 0 and self.rate > 0):
            msg = f"minutes, rate: allowed above 0, received {self.minutes:g}, {self.rate:g}"
            raise StyleError(msg)


@dataclass(frozen=True, slots=True)
class Takes:
    """Recordings as clips.

    rated: clip name -> intensity, of those that were. held: what a declared split holds out.
    """

    clips: list[Clip]
    rated: dict[str, float]
    held: frozenset[Cell]


def read_folder(
    folder: Path | str,
    style: str | None = None,
    layout: str = "auto",
    tell: Callable[[str], None] = print,
) -> Takes:
    """The takes of a folder; what cannot be used is told and left out.

    style: core emotion that labels which are none stand for.

    Raises:
        StyleError: no folder, no recordings, too many, or an unknown label without a style.
    """
    labels = {word: style for word in _strange(Path(folder))} if style else None
    dataset = read_style(folder, "voice", layout, labels=labels, tell=tell)
    clips: list[Clip] = []
    rated: dict[str, float] = {}
    held: set[Cell] = set()
    for sample in dataset:
        if not sample.labelled:
            msg = (
                f'data: "{sample.name}" does not end in _neutral or a core emotion; rename it, or '
                "label it in a table metadata.csv"
            )
            raise StyleError(msg)
        sound = load_sound(sample.path)
        clip = make_clip(
            sound.waveform,
            sound.sample_rate,
            name=sample.name,
            speaker=_speaker(sample),
            sentence=sample.sentence or sample.caption or sample.path.stem,
            emotion=sample.emotion,
        )
        clips.append(clip)
        if sample.graded and sample.emotion != "neutral":
            rated[clip.name] = float(sample.state.max())
        if sample.split == "held":
            held.add((clip.speaker, clip.sentence))
    return Takes(clips, rated, frozenset(held))


def _strange(folder: Path) -> set[str]:
    """Last words of file names that are no emotions."""
    words = {p.stem.rpartition("_")[2] for p in folder.rglob("*_*.*") if p.is_file()}
    return {word for word in words if word.isalpha() and unit(word) is None}


def _speaker(sample: Sample) -> str:
    """Who the set says it is, else the folders that name neither an emotion nor a split."""
    own = PurePosixPath(sample.name).parts[:-1]
    rest = [part for part in own if part.lower() not in SPLITS and unit(part) is None]
    return sample.origin or "/".join(rest) or "."


def split(
    rows: Sequence[Row], declared: Collection[Cell] = ()
) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows to train on, to decide on and to report on: sentences apart, by a hash of their names.

    declared: cells that the set holds out; without any it is every fourth. Sentences without a
    neutral take are trained on: they tell how emotions differ.

    Raises:
        StyleError: under four sentences with a neutral and an emotional take.
    """
    cells = sorted(
        {row.cell for row in rows if row.kind == "to"},
        key=lambda c: hashlib.sha256(repr(c).encode()).digest(),
    )
    if len(cells) < EVERY_FOURTH:
        msg = (
            f"data: {len(cells)} sentences have a neutral and an emotional take; "
            f"record {EVERY_FOURTH} or more"
        )
        raise StyleError(msg)
    held = [cell for cell in cells if cell in declared] or cells[::EVERY_FOURTH]
    # With one held-out sentence the same speech decides and reports; the card then says so.
    decide, tell = set(held[::2]), set(held[1::2] or held)
    return (
        [row for row in rows if row.cell not in decide | tell | set(declared)],
        [row for row in rows if row.cell in decide],
        [row for row in rows if row.cell in tell],
    )


def train_lora(
    folder: Path | str,
    *,
    backbone: Path | str,
    out: Path | str,
    settings: LoraSettings | None = None,
    style: str | None = None,
    resume: bool = False,
    base: str = "",
    tell: Callable[[str], None] = print,
) -> dict[str, object]:
    """Train a style on the recordings of a folder, write the adapters to `out`; returns figures.

    A run that was stopped leaves its checkpoint in `out`.

    Args:
        folder: recordings, named as above.
        backbone: folder of the voice model; it is read only.
        out: folder for prosody/, timbre/ and adapter.json.
        settings: how long and how strongly; None: the defaults.
        style: core emotion that labels which are none stand for.
        resume: go on with a run that was stopped, where there is one.
        base: name of the model in the card; empty: that of its folder.
        tell: takes lines for people.

    Raises:
        StyleError: unusable recordings or settings, or a finished or stopped run in the way.
    """
    from peft import LoraConfig

    settings = settings or LoraSettings()
    folder, out = Path(folder), Path(out)
    if (out / CARD).exists():
        msg = f"out: {out} holds a finished adapter; name another folder"
        raise StyleError(msg)
    if (out / "checkpoint").exists() and not resume:
        msg = f"out: {out} holds a run that was stopped; pass --resume latest, or another --out"
        raise StyleError(msg)
    pipe = VoicePipeline.load(backbone)
    takes = read_folder(folder, style, settings.layout, tell)
    moods = {clip.emotion for clip in takes.clips}
    if "neutral" not in moods or len(moods) < 2:
        only = ", ".join(sorted(moods)) or "nothing usable"
        msg = (
            f"data: {folder} holds {only}; a style is learned from the same sentences said "
            "neutrally and with emotion: NAME_neutral.wav beside NAME_anger.wav"
        )
        raise StyleError(msg)
    pairs = make_pairs(takes.clips)
    strength = clarity(pairs, pipe.directions) | takes.rated
    rows = [make_row(pair, pipe.directions, strength) for pair in pairs]
    train, decide, unseen = split([row for row in rows if row.kind != "same"], takes.held)
    unseen = [row for row in unseen if row.kind == "to"]
    if not train or not unseen:
        msg = "data: no sentence has a neutral and an emotional take; record both"
        raise StyleError(msg)
    before = {name: remaining(getattr(pipe, name), HEADS[name], unseen) for name in HEADS}
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(settings.seed)
        for name in HEADS:
            config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=LAYERS)
            getattr(pipe, name).add_adapter(config)
    tell(f"{len(train)} pairs to train on, {len(decide)} to decide, {len(unseen)} to report")
    fit_model(
        pipe,
        Feed(train, settings.batch, settings.crop, settings.seed),
        decide,
        out,
        Settings(
            minutes=settings.minutes,
            steps=settings.steps,
            rate=settings.rate,
            check=settings.check,
            decay=0.0,
            seed=settings.seed,
        ),
    )
    figures: dict[str, object] = {"pairs": len(train), "backbone": Path(base or backbone).name}
    for name in HEADS:
        model = getattr(pipe, name)
        write_adapter(model, out / name / ADAPTER)
        after = remaining(model, HEADS[name], unseen)
        figures[name] = gained(before[name], after, [row.cell for row in unseen])
    with replacing(out / CARD) as fresh:
        Path(fresh).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return figures


def gained(before: np.ndarray, after: np.ndarray, cells: Sequence[Cell]) -> dict[str, object]:
    """What a head has learned, by its sums of squares (pairs, channels, 2) on held-out pairs.

    cells: of the pairs; the interval is over sentences, whose pairs share their neutral take.
    """
    _, low, high = over_groups(np.mean, cells, _left(before) - _left(after))
    return {
        "left_before": round(share_left(before), 4),
        "left_after": round(share_left(after), 4),
        "gain_interval": [round(low, 4), round(high, 4)],
        "pairs": len(before),
    }


def _left(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0].sum(1) / np.maximum(sums[..., 1].sum(1), 1e-9))
