"""Request to media. This file is the only registry: which backbones there are, and two verbs.

`load(name)` returns an ordinary diffusers pipeline of an image backbone, `generate(requests)` is
the one seam that the command line, batches and a page use: an iterator of `Step` (where the work
stands) and `Take` (a finished file). It is an iterator so that Stop stops: closing it ends the run
within one step.

A new backbone is one row of `BACKBONES`; the contract tests cover it by its `family`. Nothing
heavy is imported here, so that listing the table costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.assets import ASSETS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from pipelines.take import Request, Take


class BackboneError(ValueError):
    """A backbone that is not known, not here or not safe to load; one line, with a next step."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """One row: a name, where its weights are, and what suits it.

    `weights` is a folder under `assets/` or a hub id; `revision` a commit of the hub repository;
    `family` the key of tests/tiny.py that builds a tiny instance of its real classes; `defaults`
    replaces defaults of the modality's params (distilled models want few steps); `call` are extra
    arguments of the diffusers call; `memory_gb` what one picture needs in half precision. `base`
    names the row of the painter that these weights are a motion adapter for.
    """

    name: str
    modality: str
    weights: str
    family: str
    licence: str
    memory_gb: float
    revision: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether the weights come with the project."""
        return self.weights.startswith("models/")

    @property
    def folder(self) -> Path | None:
        """Local folder of the weights, None when they live in the hub cache."""
        if self.embedded:
            return ASSETS / self.weights
        path = Path(self.weights).expanduser()
        return path if path.is_dir() else None


# Guidance and steps of the distilled rows are those of their model cards.
BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        # Trained to zero terminal signal, so guidance is rescaled or it blows out light and dark
        # (Lin et al. 2024, arXiv 2305.08891, section 3.4).
        Backbone(
            "image-tiny",
            "image",
            "models/image-tiny",
            "sd15",
            "Apache-2.0",
            0.2,
            defaults={"guidance_scale": 4.0},
            call={"guidance_rescale": 0.7},
        ),
        Backbone(
            "sd15",
            "image",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "sd15",
            "CreativeML-OpenRAIL-M",
            3,
        ),
        Backbone(
            "sdxl",
            "image",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "sdxl",
            "CreativeML-OpenRAIL++-M",
            8,
        ),
        Backbone(
            "sd3",
            "image",
            "stabilityai/stable-diffusion-3.5-medium",
            "sd3",
            "Stability-Community",
            18,
        ),
        Backbone(
            "flux",
            "image",
            "black-forest-labs/FLUX.1-schnell",
            "flux",
            "Apache-2.0",
            34,
            defaults={"steps": 4, "guidance_scale": 0.0},
            call={"max_sequence_length": 256},  # the most that schnell takes
        ),
        Backbone(
            "flux2-klein",
            "image",
            "black-forest-labs/FLUX.2-klein-4B",
            "flux2-klein",
            "Apache-2.0",
            17,
            defaults={"steps": 4, "guidance_scale": 1.0},
        ),
        Backbone(
            "z-image",
            "image",
            "Tongyi-MAI/Z-Image-Turbo",
            "z-image",
            "Apache-2.0",
            21,
            defaults={"steps": 9, "guidance_scale": 0.0},
        ),
        Backbone("qwen-image", "image", "Qwen/Qwen-Image", "qwen-image", "Apache-2.0", 58),
        Backbone("music-tiny", "music", "models/music-tiny", "music", "Apache-2.0", 0.2),
        Backbone("voice-tiny", "voice", "models/voice-tiny", "voice", "Apache-2.0", 0.2),
        Backbone("portrait-tiny", "portrait", "models/portrait-tiny", "portrait", "Apache-2.0", 1),
        Backbone(
            "video-tiny",
            "video",
            "models/video-tiny",
            "animatediff",
            "Apache-2.0",
            0.5,
            # Trained with .8 to 1 of the noise in common. Stills that are painted first follow the
            # emotion better and flicker half as much as films from noise.
            defaults={"guidance_scale": 4.0, "consistency": 0.9, "keyframes": 3},
            call={"guidance_rescale": 0.7},
            base="image-tiny",
        ),
        # Memory of films: weights by the parameters that the classes' configs give, in half
        # precision, and the work on a film of the row's own size. Sizes, rates, steps and guidance
        # are those of the model cards.
        Backbone(
            "animatediff",
            "video",
            "guoyww/animatediff-motion-adapter-v1-5-3",
            "animatediff",
            "CreativeML-OpenRAIL-M",
            12,
            defaults={"steps": 25, "guidance_scale": 7.5},
            base="sd15",
        ),
        Backbone(
            "wan21",
            "video",
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            "wan21",
            "Apache-2.0",
            17,
            defaults={
                "fps": 16,
                "width": 832,
                "height": 480,
                "steps": 50,
                "guidance_scale": 5.0,
            },
        ),
        Backbone(
            "wan22",
            "video",
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            "wan22",
            "Apache-2.0",
            72,
            defaults={
                "fps": 16,
                "width": 832,
                "height": 480,
                "steps": 40,
                "guidance_scale": 4.0,
            },
            call={"guidance_scale_2": 3.0},  # of the expert for low noise
        ),
        Backbone(
            "wan-i2v",
            "video",
            "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
            "wan-i2v",
            "Apache-2.0",
            48,
            defaults={
                "fps": 16,
                "width": 832,
                "height": 480,
                "steps": 50,
                "guidance_scale": 5.0,
            },
        ),
        Backbone(
            "ltx",
            "video",
            "Lightricks/LTX-Video",
            "ltx",
            "LTX-Video-Open-Weights",
            16,
            defaults={
                "fps": 24,
                "width": 704,
                "height": 480,
                "steps": 50,
                "guidance_scale": 3.0,
            },
        ),
    )
}

DEFAULTS = {
    "image": "image-tiny",
    "music": "music-tiny",
    "voice": "voice-tiny",
    "portrait": "portrait-tiny",
    "video": "video-tiny",
}
"""Modality -> the embedded backbone that is used when none is named."""
DEFAULT = DEFAULTS["image"]
MAKERS = {
    "image": "pipelines.image",
    "music": "pipelines.music",
    "voice": "pipelines.voice",
    "portrait": "pipelines.portrait",
    "film": "pipelines.film",
    "video": "pipelines.video",
}
"""Modality -> the module whose `generate` makes it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the work stands.

    `index` of `total` steps of the whole call are done (denoising steps of pictures, bars of
    music, hundredths of a second's work on a voice, portrait or film); `eta` seconds remain (None
    before the first step); `stage` is "load", "analyse", "denoise", "compose", "render", "polish"
    or "read"; `notes` are new one-line warnings for people; `preview` a small picture of the
    predicted result, if asked for.
    """

    index: int
    total: int
    eta: float | None = None
    stage: str = "denoise"
    notes: tuple[str, ...] = ()
    preview: Any = None


def resolve(backbone: str, modality: str = "image") -> Backbone:
    """Return the row of a name, or a row made for a folder or a hub id ("owner/name").

    A hub id or folder that a row already names is that row; a new one is taken to make `modality`.
    Anything else is an error that shows the nearest names.
    """
    text = str(backbone).strip()
    for row in BACKBONES.values():
        if text in (row.name, row.weights):
            return row
    path = Path(text).expanduser()
    if text and path.is_dir():
        for row in BACKBONES.values():
            if row.folder is not None and row.folder.resolve() == path.resolve():
                return row
        return Backbone(str(path), modality, str(path), "", "see its model card", 0)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and " " not in text:
        return Backbone(text, modality, text, "", "see its model card", 0)
    near = difflib.get_close_matches(text, BACKBONES, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(BACKBONES)}"
    msg = (
        f"backbone: {text!r} is not a name, a folder here or a hub id owner/name; "
        f"{hint} (`affect models list` shows all)"
    )
    raise BackboneError(msg)


def load(
    backbone: str = DEFAULT,
    *,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
) -> DiffusionPipeline:
    """Load a backbone as an ordinary diffusers text-to-image pipeline.

    Args:
        backbone: a name of `BACKBONES`, a folder in diffusers' layout, or a hub id.
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the best there is.
        dtype: a torch dtype or its name; None is float32 on a CPU, bfloat16 elsewhere.
        offline: look only at this machine; HF_HUB_OFFLINE says the same.

    Raises:
        BackboneError: unknown name, missing weights (says how to get them), pickled weights.
    """
    from pipelines.weights import load_pipeline

    return load_pipeline(resolve(backbone), device=device, dtype=dtype, offline=offline)


def pull(backbone: str) -> Path:
    """Download the safetensors weights of a hub backbone and return the cached folder."""
    from pipelines.weights import pull as download

    return download(resolve(backbone))


def generate(requests: Request | Sequence[Request], **options: Any) -> Iterator[Step | Take]:
    """Make media; see the modality's own `generate` for its options (pipelines.image ...).

    All requests are checked before this returns, so a mistake starts nothing. Requests of the
    same backbone, params and inputs are one batch with an emotion and a seed each.
    """
    from pipelines.take import Request

    wanted = [requests] if isinstance(requests, Request) else list(requests)
    if not wanted:
        msg = "requests: none were given; pass at least one Request"
        raise ValueError(msg)
    modalities = {request.modality for request in wanted}
    if len(modalities) > 1 or not modalities <= set(MAKERS):
        msg = (
            f"modality: {', '.join(sorted(modalities))} in one call; "
            f"this version makes {', '.join(MAKERS)}, one modality a call"
        )
        raise ValueError(msg)
    return import_module(MAKERS[modalities.pop()]).generate(wanted, **options)
