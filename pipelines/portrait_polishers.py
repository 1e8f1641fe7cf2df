"""The diffusers pipelines that repaint a talking face, and how their weights are found and loaded.

Two classes, neither shipped: AnimateDiff video-to-video with a ControlNet (Guo et al. 2024, arXiv
2307.04725; Zhang et al. 2023, arXiv 2302.05543) on any Stable Diffusion 1.5, and Wan-Animate (Cheng
et al. 2025, arXiv 2509.14055). Weights come by name, from a folder in diffusers' layout or as a hub
id; the class is what `model_index.json` says, and only these classes are loaded. It does not know
how a face is painted (pipelines.portrait_polish). Imports no torch until something is loaded.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import Backbone, BackboneError
from pipelines.weights import cached, check_folder, hub_answers, is_offline, load_pipeline

if TYPE_CHECKING:
    from adapters.directions import DirectionBank

log = logging.getLogger("affect")

__all__ = [
    "MAPS", "POLISHERS", "Polisher", "check_polisher", "load_polisher", "polisher_here",
    "pull_polisher", "resolve_polisher",
]  # fmt: skip

# Memory in half precision. Wan-Animate: 23.7 billion parameters by the classes' own default configs
# (transformer 17.3, text encoder 5.7, CLIP-H .6, autoencoder .1); with parts taking turns on the
# accelerator the largest is 35 GB. AnimateDiff: 1.9 billion, 4 GB, and the work on 16 frames of
# 512 px, for which users of such models report 8 to 12 GB in all.
POLISHERS: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            "animatediff-face",
            "portrait",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "animatediff",
            "CreativeML-OpenRAIL-M",
            10,
        ),
        Backbone(
            "wan-animate",
            "portrait",
            "Wan-AI/Wan2.2-Animate-14B-Diffusers",
            "wan-animate",
            "Apache-2.0",
            48,
        ),
    )
}
SHORT = {"animatediff": "animatediff-face"}
"""Names that are understood as well. In the table of models animatediff is the one of films."""

ANIMATEDIFF = "AnimateDiffVideoToVideoControlNetPipeline"
WAN = "WanAnimatePipeline"
MAPS = ("mesh", "lines", "pose")
"""What a ControlNet may be shown: coloured outlines of the mesh, white ones, the skeleton."""
BASE = "StableDiffusionPipeline"
"""Any Stable Diffusion 1.5 becomes ANIMATEDIFF with the two PARTS."""
PARTS: dict[str, dict[str, str | None]] = {
    "motion_adapter": {"repo": "guoyww/animatediff-motion-adapter-v1-5-3"},
    # trained on the outlines of the very mesh that moves our faces; safetensors in fp16 only
    "controlnet": {
        "repo": "CrucibleAI/ControlNetMediaPipeFace",
        "subfolder": "diffusion_sd15",
        "variant": "fp16",
    },
}


@dataclass
class Polisher:
    """A loaded pipeline and how it is best asked.

    Attributes:
        pipe: an AnimateDiffVideoToVideoControlNetPipeline or a WanAnimatePipeline.
        name: what people call it.
        size: pixels a side at which the face is painted; multiples of 16.
        window: frames painted at once (for Wan-Animate one segment, 4 n + 1).
        overlap: frames that two runs share and that are blended.
        steps: denoising steps of a whole run; strength .4 takes 40 % of them.
        guidance: classifier-free guidance scale; 1 is off.
        maps: what the ControlNet is shown, one of `MAPS`.
        prompt, negative_prompt: what is painted, apart from the emotion.
        cache: folder of fitted emotion directions; None for the usual one.
    """

    pipe: Any
    name: str = "pipeline"
    size: int = 512
    window: int = 16
    overlap: int = 4
    steps: int = 20
    guidance: float = 5.0
    maps: str = "mesh"
    prompt: str = "close-up portrait of one face, finely detailed, sharp focus, even light"
    negative_prompt: str = "blurry, deformed, disfigured, extra teeth, text, watermark"
    cache: Path | None = None
    offloaded: bool = False
    busy: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Check what would fail deep inside the libraries."""
        if type(self.pipe).__name__ not in (ANIMATEDIFF, WAN):
            raise BackboneError(_unfit(self.name, type(self.pipe).__name__))
        if self.size < 16 or self.size % 16:
            down = max(16, self.size // 16 * 16)
            msg = f"size: multiples of 16 are painted, received {self.size}; use {down}"
            raise ValueError(msg)
        if self.maps not in MAPS:
            msg = f"maps: {', '.join(MAPS)} are known, received {self.maps!r}; mesh suits most"
            raise ValueError(msg)
        if not 1 <= self.overlap < self.window:
            msg = (
                f"overlap: 1 to {self.window - 1} frames of a window of {self.window} are allowed, "
                f"received {self.overlap}; 4 of 16 suits AnimateDiff"
            )
            raise ValueError(msg)
        if self.wan and (self.window < 5 or self.window % 4 != 1):
            msg = f"window: Wan-Animate takes 4 n + 1 from 5, received {self.window}; use 77"
            raise ValueError(msg)
        self.offloaded = self.offloaded or bool(getattr(self.pipe, "_all_hooks", None))

    @property
    def wan(self) -> bool:
        """Whether this is Wan-Animate; else it is AnimateDiff."""
        return type(self.pipe).__name__ == WAN

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that name the weights."""
        from adapters.families import model_digest

        return str(model_digest(self.pipe))

    @cached_property
    def directions(self) -> DirectionBank:
        """The image modality's emotion directions, fitted on this text encoder once and kept."""
        from adapters.directions import DirectionBank
        from pipelines.belongings import cache_folder

        return DirectionBank.cached(self.pipe, self.cache or cache_folder())

    def offload(self) -> bool:
        """Keep only the part that works on the accelerator; False when that is no help here."""
        if self.offloaded or self.pipe.device.type not in ("cuda", "xpu"):
            return False
        self.pipe.enable_model_cpu_offload()
        self.offloaded = True
        return True


def resolve_polisher(text: str) -> Backbone:
    """The row of a name, or one made for a folder or a hub id ("owner/name").

    Raises:
        BackboneError: anything else, with the nearest names.
    """
    text = str(text).strip()
    text = SHORT.get(text, text)
    for row in POLISHERS.values():
        if text in (row.name, row.weights):
            return row
    if text and Path(text).expanduser().is_dir():
        return Backbone(text, "portrait", text, "", "see its model card", 0)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and " " not in text:
        return Backbone(text, "portrait", text, "", "see its model card", 0)
    near = difflib.get_close_matches(text, [*POLISHERS, *SHORT], n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(POLISHERS)}"
    msg = f"polish: {text!r} is not a name, a folder here or a hub id owner/name; {hint}"
    raise BackboneError(msg)


def check_polisher(text: str, *, offline: bool | None = None) -> Backbone:
    """The row, after a look that costs no torch: are its weights here or to be had, and safe?

    Raises:
        BackboneError: unknown, not here, or of a class that repaints no faces. One line.
    """
    row = resolve_polisher(text)
    if row.folder is not None:
        try:
            check_folder(row.folder)
        except BackboneError as error:
            raise BackboneError(str(error).replace("backbone:", "polish:", 1)) from error
    missing = {repo: files for repo, files in _needed(row).items() if not _here(repo, files)}
    if missing and (is_offline(offline) or not hub_answers(row)):
        off = "downloads are off (--offline or HF_HUB_OFFLINE)"
        why = off if is_offline(offline) else "the hub cannot be reached"
        pull = " and ".join(f"`{_pull(repo, files)}`" for repo, files in missing.items())
        if row.name in POLISHERS:
            pull = f"`affect models pull {row.name}` or {pull}"
        need = f"; they need about {row.memory_gb:g} GB" if row.memory_gb else ""
        msg = (
            f"polish: the weights of {', '.join(missing)} are not here and {why}; run {pull} on a "
            f"machine with a network, or give a folder of them{need}"
        )
        raise BackboneError(msg)
    if not missing:
        _class_of(row, local=True)
    return row


def polisher_here(row: Backbone) -> bool:
    """Whether all parts of a row's weights are on this machine; asks no network."""
    return all(_here(repo, files) for repo, files in _needed(row).items())


def pull_polisher(text: str) -> list[Path]:
    """Download all parts of a row's weights that are not here, safetensors only; their folders.

    Raises:
        BackboneError: unknown, or the hub cannot be reached. One line.
    """
    from pipelines.weights import pull

    row = resolve_polisher(text)
    folders = [pull(row)]
    parts = {repo: files for repo, files in _needed(row).items() if files}
    if not parts:
        return folders
    from huggingface_hub import snapshot_download

    for repo, files in parts.items():
        try:
            folders.append(Path(snapshot_download(repo, allow_patterns=files)))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            msg = f"polish: cannot pull {repo}: {reason}; try `{_pull(repo, files)}`"
            raise BackboneError(msg) from error
    return folders


def load_polisher(
    text: str,
    *,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    **settings: Any,
) -> Polisher:
    """Load weights by name, folder or hub id.

    Args:
        text: see `resolve_polisher`.
        device, dtype, offline: as in `pipelines.load`.
        settings: attributes of `Polisher`, such as steps or maps.

    Raises:
        BackboneError: missing, unsafe or unfit weights. MemoryError: they fit nowhere. One line.
    """
    row = check_polisher(text, offline=offline)
    local = is_offline(offline) or polisher_here(row) or not hub_answers(row)
    kind = _class_of(row, local=local)
    pipe = load_pipeline(
        row, device=device, dtype=dtype, offline=local, loader=_loader(kind, local)
    )
    if kind == WAN:
        # 640 x 640 has the area of the 832 x 480 it was trained at; 77 frames, one from the last
        # segment and no guidance are the class's own defaults
        usual = {"size": 640, "window": 77, "overlap": 8, "steps": 20, "guidance": 1.0}
    else:
        # as its denoiser was trained: 512 px for Stable Diffusion 1.5
        side = int(pipe.unet.config.sample_size or 64) * int(pipe.vae_scale_factor)
        usual = {"size": max(16, side // 16 * 16)}
    return Polisher(pipe, row.name, **(usual | settings))


def _loader(kind: str, local: bool) -> Callable[..., Any]:
    """The from_pretrained of one class; a plain Stable Diffusion 1.5 gets its missing parts."""
    import diffusers

    if kind == WAN:
        from diffusers.utils import is_ftfy_available

        if not is_ftfy_available():
            msg = "polish: Wan-Animate reads prompts with ftfy, which is not here; pip install ftfy"
            raise BackboneError(msg)
        return _wan
    if kind != BASE:
        return getattr(diffusers, kind).from_pretrained  # type: ignore[no-any-return]

    def assembled(weights: str, **source: Any) -> Any:
        given: dict[str, Any] = {}
        for name, made in (("motion_adapter", "MotionAdapter"), ("controlnet", "ControlNetModel")):
            part = PARTS[name]
            where = {key: value for key, value in part.items() if key != "repo"}
            given[name] = getattr(diffusers, made).from_pretrained(
                part["repo"],
                torch_dtype=source["dtype"],
                use_safetensors=True,
                local_files_only=local,
                **where,
            )
        pipe = getattr(diffusers, ANIMATEDIFF).from_pretrained(weights, **source, **given)
        # what the motion adapter was trained with (its model card)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(
            pipe.scheduler.config,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="linspace",
            steps_offset=1,
        )
        return pipe

    return assembled


def _wan(weights: str, *, dtype: Any, **source: Any) -> Any:
    import torch
    from diffusers import WanAnimatePipeline

    # its documentation asks for an autoencoder in full precision
    parts = {"default": dtype, "vae": torch.float32}
    return WanAnimatePipeline.from_pretrained(weights, dtype=parts, **source)


def _class_of(row: Backbone, *, local: bool) -> str:
    """What `model_index.json` says the weights are; one of the three that are loaded."""
    place = row.folder or cached(row.weights, row.revision)
    if place is None and not local:
        from huggingface_hub import hf_hub_download

        try:
            index = hf_hub_download(row.weights, "model_index.json", revision=row.revision)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            msg = f"polish: {row.weights} has no model_index.json to be read ({reason}); check it"
            raise BackboneError(msg) from error
        place = Path(index).parent
    if place is None:
        return {"animatediff": BASE, "wan-animate": WAN}[row.family]
    name = json.loads((place / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    if name not in (ANIMATEDIFF, WAN, BASE):
        raise BackboneError(_unfit(row.name, name))
    return str(name)


def _unfit(name: str, kind: str) -> str:
    return (
        f"polish: {name} is a {kind}, which repaints no talking faces; give a {WAN}, an "
        f"{ANIMATEDIFF} or a Stable Diffusion 1.5"
    )


def _needed(row: Backbone) -> dict[str, list[str]]:
    """What the hub must give: repository -> its files, none named for a whole pipeline."""
    whole: dict[str, list[str]] = {} if row.folder else {row.weights: []}
    here = row.folder or cached(row.weights, row.revision)
    if not (here or row.name in POLISHERS) or _class_of(row, local=True) != BASE:
        return whole
    parts = {}
    for part in PARTS.values():
        weights = filter(None, ("diffusion_pytorch_model", part.get("variant"), "safetensors"))
        parts[str(part["repo"])] = [
            "/".join(filter(None, (part.get("subfolder"), name)))
            for name in ("config.json", ".".join(weights))
        ]
    return whole | parts


def _here(repo: str, files: list[str]) -> bool:
    """Whether the cache has a whole pipeline, or these files of a repository."""
    if not files:
        return cached(repo) is not None
    from huggingface_hub import constants, try_to_load_from_cache

    found = [try_to_load_from_cache(repo, name, constants.HF_HUB_CACHE) for name in files]
    return all(isinstance(place, str) for place in found)


def _pull(repo: str, files: list[str]) -> str:
    """The command that fetches them, and no pickles or samples beside them."""
    return " ".join(["hf download", repo, *files]) if files else f"affect models pull {repo}"
