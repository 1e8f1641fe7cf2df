"""What a training run is told: one frozen dataclass a recipe, from a TOML file and typed options.

    steps = 400                       # anger.toml
    data = "photos/"

    read(ImageLora, source_of("anger.toml"), {"steps": 200})     # what was typed wins

Defaults and ranges of every knob stand here alone; the options of `affect train` are made from
them (`studio.options.with_params`). A key that is not known is refused with its line and the
nearest name that is, before anything is loaded. Paths are read from where the command is given, as
on the command line. Knows no model and no recipe; standard library only, `--help` reads it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from adapters.emotion import CORE, DEFAULT_INTENSITY
from pipelines.film_lines import line_of_error, lines_of, said_by
from pipelines.params import ParamError, Params, checked, knob

Run = TypeVar("Run", bound=Params)

MOST_BYTES = 1_000_000
"""Of a file of settings; a larger one is something else."""


class ConfigError(ValueError):
    """Settings that no run can be started with: one line, with the line of the file."""


# Knobs that several recipes have, said once ------------------------------------------------------


def _data(what: str) -> Any:
    return knob("", f"Folder, at any depth: {what}.")


def _layout() -> Any:
    return knob("auto", "How the folder is laid out; auto finds out.")


def _out() -> Any:
    return knob("", "What is written goes here; out/RECIPE-BACKBONE when not given.")


def _backbone() -> Any:
    return knob("", "The model: a name, a folder or a hub id; the embedded one when not given.")


def _steps(usual: int) -> Any:
    text = "Optimiser steps, at most; 300 for music, 600 voices, 400 portraits, 1000 pictures."
    return knob(usual, text, min=1, max=10_000_000)


def _rank(usual: int = 8) -> Any:
    return knob(usual, "Size of what is learned.", min=1, max=64)


def _rate(usual: float) -> Any:
    text = "Learning rate, at its peak; 0.001 for music, voices and portraits, 0.0001 for pictures."
    return knob(usual, text, min=1e-7, max=0.1)


def _minutes() -> Any:
    return knob(0.0, "Stop after this long; 0: when it has learned.", min=0, max=100_000)


def _batch(usual: int) -> Any:
    return knob(usual, "Samples in each step.", min=1, max=1024, advanced=True)


def _check(usual: int) -> Any:
    return knob(usual, "Steps between looks at held-out data.", min=1, max=100_000, advanced=True)


def _seed() -> Any:
    return knob(0, "Of the batches and first weights.", min=0, max=2**31 - 1)


def _device() -> Any:
    return knob("", "cpu, cuda, mps; the best there is when not given.", advanced=True)


def _vocabulary() -> Any:
    return knob("", "Words of the prompts, rich or image-tiny; what fits the backbone.")


# One dataclass a recipe --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MusicLora(Params):
    """Of training.music_lora."""

    data: str = _data("MIDI files for music, takes for voices, Live Link CSV, or pictures")
    layout: str = _layout()
    out: str = _out()
    backbone: str = _backbone()
    minutes: float = _minutes()
    steps: int = _steps(300)
    rank: int = _rank()
    rate: float = _rate(1e-3)
    batch: int = _batch(4)
    check: int = _check(20)
    patience: int = knob(
        4, "Looks without a better one until the run ends.", min=1, max=1000, advanced=True
    )
    seed: int = _seed()


@dataclass(frozen=True, slots=True)
class VoiceLora(Params):
    """Of training.voice_lora."""

    data: str = _data("recordings of the same sentences, NAME_neutral.wav, NAME_anger.wav, ...")
    layout: str = _layout()
    out: str = _out()
    backbone: str = _backbone()
    minutes: float = _minutes()
    steps: int = _steps(600)
    rank: int = _rank()
    rate: float = _rate(1e-3)
    batch: int = _batch(8)
    check: int = _check(50)
    crop: int = knob(128, "Frames of speech in a sample.", min=16, max=4096, advanced=True)
    seed: int = _seed()


@dataclass(frozen=True, slots=True)
class PortraitLora(Params):
    """Of training.portrait_lora."""

    data: str = _data("recordings of Live Link Face, NAME.csv, NAME_anger.csv, ...")
    layout: str = _layout()
    out: str = _out()
    backbone: str = _backbone()
    minutes: float = _minutes()
    steps: int = _steps(400)
    rank: int = _rank()
    rate: float = _rate(1e-3)
    batch: int = _batch(8)
    check: int = _check(50)
    frames: int = knob(96, "Frames of a face in a sample.", min=16, max=4096, advanced=True)
    seed: int = _seed()


@dataclass(frozen=True, slots=True)
class ImageLora(Params):
    """Of training.image_lora: one adapter an emotion, its weight the annotated intensity."""

    data: str = _data("pictures with any labelling of emotions (training.folder)")
    out: str = _out()
    backbone: str = _backbone()
    emotions: str = knob("all", "Core emotions by comma, or all that the pictures show.")
    layout: str = _layout()
    intensity: float = knob(
        DEFAULT_INTENSITY, "Of a labelled picture that nobody graded.", min=0.01, max=1
    )
    regularise: str = knob("", "Folder of ordinary pictures whose look must not change.")
    hold: float = knob(
        0.1, "Weight of neutral and ordinary pictures keeping their look; 0 is off.", min=0, max=10
    )
    steps: int = _steps(1000)
    rank: int = _rank()
    rate: float = _rate(1e-4)
    batch: int = _batch(4)
    accumulate: int = knob(1, "Batches whose gradients are summed a step.", min=1, max=1024)
    resolution: int = knob(0, "Side of the square bucket, pixels; 0: the model's own.", min=0,
                           max=4096)  # fmt: skip
    min_snr: float = knob(
        5.0, "Gamma of min-SNR weights (arXiv 2303.09556); 0 is off.", min=0, max=1000
    )
    ema: float = knob(0.99, "Decay of the averaged weights that are written; 0 is off.", min=0,
                      max=0.99999)  # fmt: skip
    caption_dropout: float = knob(0.1, "Share of captions left empty.", min=0, max=1)
    checkpointing: bool = knob(False, "Recompute activations: half the memory, slower by a third.")
    bf16: bool = knob(False, "Run the denoiser in bfloat16; the adapters stay in float32.")
    eight_bit: bool = knob(False, "Optimiser state in 8 bit; needs bitsandbytes.")
    convs: bool = knob(False, "Also adapt the convolutions of a UNet's resnets.")
    save_every: int = knob(100, "Steps between checkpoints.", min=1, max=1_000_000)
    keep: int = knob(2, "Checkpoints that are kept, the newest.", min=1, max=1000)
    sample_every: int = knob(
        250, "Steps between strips of samples from strength -1 to 1; 0 is off.", min=0,
        max=1_000_000,
    )  # fmt: skip
    sample_prompt: str = knob("", "What they show; an ordinary subject when not given.")
    sample_steps: int = knob(20, "Steps they are painted in.", min=1, max=1000)
    critic_every: int = knob(
        0, "Steps between looks of a critic, which end a run that steers no better; 0 is off.",
        min=0, max=1_000_000,
    )  # fmt: skip
    critic: str = knob("critic-image", "Who looks: a name or a folder.", advanced=True)
    critic_seeds: int = knob(2, "Pictures of each strength at a look.", min=1, max=64,
                             advanced=True)  # fmt: skip
    patience: int = knob(
        4, "Looks without a better one until the run ends.", min=1, max=1000, advanced=True
    )
    tracker: str = knob(
        "", "tensorboard, trackio, wandb or none; TensorBoard where it is installed."
    )
    cache: str = knob("", "Folder of cached latents and text states; in OUT when not given.")
    device: str = _device()
    seed: int = _seed()


@dataclass(frozen=True, slots=True)
class Slider(Params):
    """Of training.lora: bipolar sliders from prompts alone."""

    emotion: str = knob("all", "Core emotions by comma, or all.")
    out: str = _out()
    backbone: str = _backbone()
    vocabulary: str = _vocabulary()
    latents: str = knob("", "Safetensors of clean latents; the model paints them when not given.")
    height: int = knob(0, "Of painted samples, pixels; 0: the model's own.", min=0, max=4096)
    width: int = knob(0, "Of painted samples, pixels; 0: the model's own.", min=0, max=4096)
    steps: int = knob(150, "Optimiser steps.", min=1, max=1_000_000)
    batch: int = _batch(16)
    rank: int = _rank(4)
    eta: float = knob(3.5, "How far weight 1 goes; 1 is what the prompts say.", min=0.01, max=100)
    lr: float = knob(2e-3, "Learning rate, at its peak.", min=1e-7, max=0.1)
    pool: int = knob(512, "Noisy samples the teacher answers.", min=1, max=1_000_000)
    samples: int = knob(64, "Clean pictures they are noised from.", min=1, max=100_000)
    sample_steps: int = knob(20, "Steps they are painted in.", min=1, max=1000)
    anchor_weight: float = knob(0.1, "Weight of ordinary prompts keeping their look.", min=0,
                                max=100)  # fmt: skip
    convs: bool = knob(False, "Also adapt the convolutions of a UNet's resnets.")
    device: str = _device()
    seed: int = _seed()


@dataclass(frozen=True, slots=True)
class Directions(Params):
    """Of adapters.directions: no gradient, seconds to minutes."""

    emotions: str = knob("all", "All: the twelve share one map from valence and arousal.")
    out: str = _out()
    backbone: str = _backbone()
    vocabulary: str = _vocabulary()
    components: int = knob(2, "Components of the spread between scenes that are taken out.", min=0,
                           max=64)  # fmt: skip
    ridge: float = knob(0.1, "Weight of the norm of the map.", min=0, max=1000)
    batch: int = knob(8, "Prompts that are encoded together.", min=1, max=1024)
    device: str = _device()


LORAS: Mapping[str, type[Params]] = {
    "image": ImageLora,
    "music": MusicLora,
    "voice": VoiceLora,
    "portrait": PortraitLora,
}
"""The recipe of a modality for `affect train lora`."""


# From a file -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """What a TOML file says: values by key, and the line of each. Empty: no file was given."""

    name: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)

    def error(self, key: str, text: str) -> ConfigError:
        """An error about a key, with the file and the line it stands on."""
        line = self.lines.get((key,))
        where = f"{self.name}:{line}: " if line else ""
        return ConfigError(f"{where}{text}")

    def without(self, key: str) -> Source:
        """The same file without one key that has been used."""
        rest = {name: value for name, value in self.values.items() if name != key}
        return dataclasses.replace(self, values=rest)


def source_of(path: Path | str | None) -> Source:
    """Read a TOML file of settings; None: an empty source.

    Raises:
        ConfigError: no such file, no text, no TOML (with the line).
    """
    if path is None:
        return Source()
    path = Path(path)
    try:
        raw = path.read_bytes()[: MOST_BYTES + 1]
        text = raw.decode("utf-8")
    except OSError as error:
        msg = f"config: {path} cannot be read ({error.strerror}); give a TOML file"
        raise ConfigError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"config: {path} is no UTF-8 text; give a TOML file"
        raise ConfigError(msg) from error
    if len(raw) > MOST_BYTES:
        msg = f"config: {path} is larger than {MOST_BYTES} bytes; give a TOML file of settings"
        raise ConfigError(msg)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = line_of_error(error, text)
        msg = f"{path.name}:{line}: no TOML: {said_by(error)}; texts stand in quotes"
        raise ConfigError(msg) from error
    return Source(path.name, values, lines_of(text))


def read(kind: type[Run], source: Source, given: Mapping[str, Any]) -> Run:
    """The settings of a recipe: its defaults, over them the file, over it what was typed.

    Raises:
        ConfigError: a key that is not known (with its line and the nearest that is), a value of the
            wrong kind or out of range.
    """
    fields = {one.name: one for one in dataclasses.fields(kind)}
    for key, value in source.values.items():
        if key not in fields:
            told = _unknown(key, list(fields))
            if isinstance(value, Mapping):
                told = f"{key}: is no option but a table; write options without [{key}] above them"
            raise source.error(key, told)
        try:
            checked(fields[key], value)
        except ParamError as error:
            raise source.error(key, str(error)) from error
    for key in given:
        if key not in fields:
            option = key.replace("_", "-")
            raise ConfigError("--" + _unknown(option, [name.replace("_", "-") for name in fields]))
    try:
        return kind(**{**source.values, **given})
    except ParamError as error:
        raise ConfigError(str(error)) from error


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{key}: is not known to this recipe; {hint}"


def as_toml(settings: Params, **more: str) -> str:
    """Every knob of a run as a TOML file that `source_of` reads; `more` stands before them."""
    pairs = {**more, **settings.to_json()}
    # A JSON text, number or truth value is a TOML one; texts here have no control characters.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in pairs.items()
    )


def core_emotions(text: str, name: str = "emotions") -> tuple[str, ...]:
    """The core emotions of a comma-separated list in CORE order; "all" for the twelve.

    Raises:
        ConfigError: a name that is not one of CORE, with the nearest that is.
    """
    if text.strip() == "all":
        return CORE
    named = [part.strip() for part in text.split(",") if part.strip()]
    for one in named:
        if one not in CORE:
            near = difflib.get_close_matches(one, CORE, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are all, {', '.join(CORE)}"
            msg = f'{name}: "{one[:40]}" is not a core emotion; {hint}'
            raise ConfigError(msg)
    if not named:
        msg = f"{name}: none named; allowed are all, {', '.join(CORE)}"
        raise ConfigError(msg)
    return tuple(one for one in CORE if one in named)
