"""One batch of pictures on one diffusers pipeline, each with its own emotion, prompt and seed.

A `Painter` holds a loaded text-to-image pipeline and what belongs to it: directions, sliders, its
calibration, the words it was trained on. `paint` turns emotions into prompts (content), opens the
steering contexts on one ExitStack, calls the pipeline, and leaves it as it was, whatever happened.

It deliberately does not know requests, files, critics that rank, or threads (pipelines.image); the
mechanisms themselves are in `adapters`. Noise comes from one CPU generator a picture, so a picture
does not depend on what it shares a batch with (up to rounding of the kernels).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image

from adapters.content import expand
from adapters.emotion import Emotion
from adapters.families import family, require
from pipelines import Backbone, load, resolve
from pipelines.belongings import Belongings
from pipelines.image import ImageParams
from pipelines.previews import previewed

log = logging.getLogger("affect")


class PaintError(ValueError):
    """What was asked does not suit this backbone; one line that says what would."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One picture to paint: what, which emotion (as asked), which seed."""

    prompt: str
    emotion: Emotion
    seed: int


def repaint(keep: float) -> float:
    """diffusers' `strength` 0..1 for a `keep` 0..1: how far back a photo is noised.

    Not 1 - keep: light and palette, which carry a mood, are settled in the first third of the
    steps, and the shapes outlast it. At keep .6 a straight line left all moods alike (looked at).
    """
    return 1 - keep**2


class Painter(Belongings):
    """A loaded backbone and everything that steers it.

    Args:
        pipe: an ordinary diffusers text-to-image pipeline of a known family.
        name: what people call it.
        folder, call, cache: see `Belongings`; `call` are more arguments of the pipeline's call.
        defaults: replaces defaults of ImageParams for this backbone.
    """

    def __init__(
        self,
        pipe: Any,
        name: str = "pipeline",
        *,
        folder: Path | None = None,
        defaults: dict[str, Any] | None = None,
        call: dict[str, Any] | None = None,
        cache: Path | None = None,
    ) -> None:
        super().__init__(pipe, name, folder=folder, call=call, cache=cache)
        self.defaults = dict(defaults or {})
        self.family = family(pipe)
        # Weights too large for the accelerator come offloaded already (pipelines.weights).
        self.offloaded = bool(getattr(pipe, "_all_hooks", None))
        self.busy = False

    @classmethod
    def load(cls, backbone: Backbone | str, **options: Any) -> Painter:
        """Load a backbone's weights (options of `pipelines.load`) and what lies beside them."""
        row = resolve(backbone) if isinstance(backbone, str) else backbone
        pipe = load(row.name, **options)
        return cls(
            pipe, row.name, folder=row.folder, defaults=dict(row.defaults), call=dict(row.call)
        )

    # What can be asked of it ---------------------------------------------------------------------

    @property
    def multiple(self) -> int:
        """Width and height must be multiples of this many pixels."""
        scale = int(getattr(self.pipe, "vae_scale_factor", 8))
        return scale if self.family.denoiser == "unet" else 2 * scale

    @property
    def native(self) -> int:
        """The side of a square picture of the size this backbone was trained at, in pixels."""
        size = getattr(self.pipe, "default_sample_size", None)
        if size is None:
            config = getattr(self.pipe, self.family.denoiser).config
            size = config.get("sample_size", None)
        scale = int(getattr(self.pipe, "vae_scale_factor", 8))
        size = size[0] if isinstance(size, list | tuple) else size
        # Z-Image names no size anywhere; 1024 is the default inside its call.
        return int(size) * scale if size else 1024

    def size(self, params: ImageParams, init: Image.Image | None = None) -> tuple[int, int]:
        """Width and height of the result; a photo keeps its aspect at the native area."""
        step = self.multiple
        for argument, value in (("width", params.width), ("height", params.height)):
            if value % step:
                down = max(step, value // step * step)
                msg = (
                    f"{argument}: {self.name} makes multiples of {step} pixels, not {value}; "
                    f"use {down} or {down + step}"
                )
                raise PaintError(msg)
        if params.width and params.height:
            return params.width, params.height
        aspect = init.width / init.height if init is not None else 1.0
        if params.width:
            width, height = params.width, params.width / aspect
        elif params.height:
            width, height = params.height * aspect, params.height
        else:
            width, height = self.native * aspect**0.5, self.native / aspect**0.5
        return tuple(max(step, round(side / step) * step) for side in (width, height))

    def check(self, params: ImageParams, *, init: bool) -> None:
        """Raise one line when this family cannot take what `params` ask for."""
        self.size(params)
        signature = inspect.signature(type(self.pipe).__call__).parameters
        if params.negative_prompt and (
            "negative_prompt" not in signature or self.family.name == "flux"
        ):
            msg = (
                f"negative_prompt: {self.family.name} is distilled and takes none; leave it empty "
                "and say in the prompt what there should be"
            )
            raise PaintError(msg)
        for mechanism in ("critic_guidance", "noise_guidance"):
            if getattr(params, mechanism):
                require(self.pipe, mechanism)
        if init:
            other = self._image_to_image
            if "strength" not in inspect.signature(type(other).__call__).parameters:
                msg = (
                    f"init: {self.family.name} re-renders no photo by strength; use image-tiny, "
                    "sd15, sdxl, sd3, flux, z-image or qwen-image"
                )
                raise PaintError(msg)

    @cached_property
    def _image_to_image(self) -> Any:
        try:
            pipe = AutoPipelineForImage2Image.from_pipe(self.pipe)
        except (ValueError, KeyError) as error:
            msg = (
                f"init: {self.family.name} has no image-to-image pipeline; use image-tiny, sd15, "
                "sdxl, sd3, flux, z-image or qwen-image"
            )
            raise PaintError(msg) from error
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def steps(self, params: ImageParams, *, init: bool) -> int:
        """Denoising steps that one picture really takes (img2img skips the first `keep`)."""
        if not init:
            return params.steps
        return max(1, min(int(params.steps * repaint(params.keep)), params.steps))

    # Painting ------------------------------------------------------------------------------------

    def dials(self, sittings: Sequence[Sitting], params: ImageParams) -> np.ndarray:
        """Asked emotions to what directions, sliders and content are given, (B, 12)."""
        asked = np.stack([sitting.emotion.array for sitting in sittings])
        return self.gained(asked, calibrated=params.calibrated, sliders=params.sliders)

    def prompts(self, sittings: Sequence[Sitting], params: ImageParams) -> list[str]:
        """The prompts that the model sees: what was asked, then what carries the emotion."""
        return [
            expand(
                sitting.prompt,
                Emotion(tuple(row), sitting.emotion.residual),
                params.content,
                keep_content=params.keep_content,
                seed=sitting.seed,
                vocabulary=self.words,
            )
            for sitting, row in zip(sittings, self.dials(sittings, params), strict=True)
        ]

    def paint(
        self,
        sittings: Sequence[Sitting],
        params: ImageParams,
        *,
        init: Image.Image | None = None,
        critic: Any = None,
        on_step: Callable[[int], None] | None = None,
        on_preview: Callable[[Image.Image], None] | None = None,
    ) -> list[Image.Image]:
        """Paint one batch; returns one RGB picture a sitting, in their order.

        `on_step(i)` is called after denoising step i (from 0) and may raise `Stopped`;
        `on_preview(picture)` now and then with what the batch becomes. `critic` is the
        differentiable critic of `critic_guidance`. Nothing of the steering is left on the
        pipeline afterwards, also after an exception.
        """
        pipe = self.pipe if init is None else self._image_to_image
        arguments = self._arguments(pipe, sittings, params, init)
        if on_step is not None:

            def after(_: Any, index: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
                on_step(index)
                return values

            arguments["callback_on_step_end"] = after
        with ExitStack() as stack:
            # Decoding would fetch the autoencoder of an offloaded model anew for every preview.
            if on_preview is not None and not self.offloaded:
                size = self.size(params, init)
                stack.enter_context(previewed(pipe, size, on_preview))
            stack.enter_context(self._steered(pipe, sittings, params, critic))
            result = pipe(**arguments)
        if hidden := sum(getattr(result, "nsfw_content_detected", None) or []):
            log.warning("%s: its own safety checker blacked out %d of these", self.name, hidden)
        return [picture.convert("RGB") for picture in result.images]

    def _arguments(
        self, pipe: Any, sittings: Sequence[Sitting], params: ImageParams, init: Any
    ) -> dict[str, Any]:
        """Arguments of the pipeline's own call, only those its class declares."""
        signature = inspect.signature(type(pipe).__call__).parameters
        width, height = self.size(params, init)
        arguments: dict[str, Any] = {
            "prompt": self.prompts(sittings, params),
            "num_inference_steps": params.steps,
            "generator": [torch.Generator().manual_seed(s.seed) for s in sittings],
            "output_type": "pil",
        }
        # Image-to-image classes declare fewer (guidance_rescale of SD is one).
        arguments |= {name: value for name, value in self.call.items() if name in signature}
        if init is None or "height" in signature:
            arguments |= {"width": width, "height": height}
        if init is not None:
            picture = init.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            # diffusers needs at least one whole step: int(steps * strength) >= 1.
            strength = max(repaint(params.keep), 1.0001 / params.steps)
            arguments |= {"image": [picture] * len(sittings), "strength": min(strength, 1.0)}
        scale = "guidance_scale"
        if signature.get(scale) is None or signature[scale].default is None:
            scale = self.family.scale_argument or scale  # Qwen-Image: true_cfg_scale
        if params.guidance_scale is not None:
            arguments[scale] = params.guidance_scale
        if "negative_prompt" in signature:
            if params.negative_prompt:
                arguments["negative_prompt"] = [params.negative_prompt] * len(sittings)
            elif scale == "true_cfg_scale":
                # Without one, Qwen-Image leaves guidance out; its own examples pass a space.
                arguments["negative_prompt"] = [" "] * len(sittings)
        if isinstance(arguments.get("negative_prompt"), str):
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(sittings)
        return arguments

    @contextmanager
    def _steered(
        self, pipe: Any, sittings: Sequence[Sitting], params: ImageParams, critic: Any
    ) -> Iterator[None]:
        """Every mechanism that `params` turn on, opened in order, closed in reverse."""
        track = self.dials(sittings, params)
        rest = np.array([sitting.emotion.residual for sitting in sittings])
        moved = bool(params.style) and bool(track.any() or rest.any())
        with ExitStack() as stack:
            if moved and params.directions:
                bank = self.directions
                stack.enter_context(bank.steer(pipe, track, params.style, residuals=rest))
            if moved and params.lora:
                sliders = stack.enter_context(self.wearing(params.sliders))
                if sliders is not None:
                    part = sliders.mask(track)
                    stack.enter_context(sliders.steer(pipe, part, params.style))
            if moved and params.noise_guidance:
                from adapters.guidance import NoiseGuidance

                guide = NoiseGuidance(self.directions)
                stack.enter_context(guide.steer(pipe, track, params.noise_guidance))
            if params.critic_guidance:
                if critic is None:
                    msg = (
                        "critic_guidance: there is no critic to ask; install the critic weights "
                        "(`affect models verify`) or set it to 0"
                    )
                    raise PaintError(msg)
                from adapters.guidance import CriticGuidance

                if hasattr(critic, "to"):
                    critic.to(getattr(pipe, "_execution_device", pipe.device))
                # The target is what was asked; gains only say how to get there.
                asked = np.stack([sitting.emotion.array for sitting in sittings])
                stack.enter_context(
                    CriticGuidance(critic).steer(pipe, asked, params.critic_guidance)
                )
            try:
                yield
            except BaseException:
                # An interrupted call skips diffusers' own clean-up of offloaded parts.
                if self.offloaded:
                    pipe.maybe_free_model_hooks()
                raise

    def offload(self) -> bool:
        """Keep only the part that works on the accelerator; False when that is no help here."""
        if self.offloaded or self.pipe.device.type not in ("cuda", "xpu"):
            return False
        self.pipe.enable_model_cpu_offload()
        self.offloaded = True
        return True
