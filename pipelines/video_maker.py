"""One film on one diffusers pipeline: an emotion that changes from frame to frame, in one run.

A `VideoMaker` holds a loaded video pipeline and what belongs to it: directions, sliders, tempo, the
painter that it was built on. `film` samples the emotion at the moments of the latent frames, opens
the steering contexts, calls the pipeline and returns frames; everything is as it was afterwards.

The words of each key of the course are encoded once and their embeddings blended along it, so what
is shown changes as smoothly as how it looks. It deliberately does not know requests that are
checked, files, critics or threads (pipelines.video, video_session).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffVideoToVideoPipeline, LTXImageToVideoPipeline
from numpy.typing import NDArray
from PIL import Image

from adapters.content import expand
from adapters.dynamics import pchip
from adapters.emotion import VAD, Emotion, EmotionTimeline
from adapters.families import family, model_digest
from adapters.frame_steering import steer_frames
from adapters.frames import FrameTrack, frame_times, region_mask, whole_frames
from pipelines import resolve
from pipelines.belongings import Belongings
from pipelines.camera import kind_for
from pipelines.painter import Painter, PaintError, Sitting, repaint
from pipelines.video import CLASSES, VideoParams
from pipelines.video_guide import closed, fitted, moved
from pipelines.video_model import TEMPO, film_length, initial_noise
from pipelines.video_rules import Facts, fault_of, size_fault
from pipelines.video_unet import decoded, preview, rescaled

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

LOOPING = 8
"""Frames over which a film that cannot be made round runs from its end into its beginning."""
DECODE = 16
"""Frames decoded at once."""
PAINTED = (
    "steps", "style", "content", "keep_content", "directions", "lora", "calibrated", "over",
)  # fmt: skip
"""Knobs of a film that hold for its keyframes as well."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One film to make: what, which emotion (as asked) where, which seed, how many frames."""

    prompt: str
    timeline: EmotionTimeline
    seed: int
    frames: int
    regions: tuple[tuple[str, EmotionTimeline], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where `film` stands: `stage`, the share 0..1 of it that is done, a picture to look at."""

    stage: str
    share: float
    preview: Image.Image | None = None


Report = Callable[[Progress], None]


class VideoMaker:
    """A loaded video pipeline and everything that steers it.

    Args:
        pipe: an ordinary diffusers video pipeline of a known family.
        name: what people call it.
        painter: of the pictures that it moves, when it is built on one; its directions, sliders,
            calibration and words serve here, and it paints keyframes.
        folder, call, cache: see `Belongings`; `call` are more arguments of the pipeline's call.
        defaults: replaces defaults of VideoParams for this backbone.
        tempo: digits that name the tempo LoRA that is loaded, "" for none.
    """

    def __init__(
        self,
        pipe: Any,
        name: str = "pipeline",
        *,
        painter: Painter | None = None,
        folder: Path | None = None,
        defaults: dict[str, Any] | None = None,
        call: dict[str, Any] | None = None,
        cache: Path | None = None,
        tempo: str = "",
    ) -> None:
        if type(pipe).__name__ not in CLASSES:
            msg = f"backbone: {name} is a {type(pipe).__name__}; films take {', '.join(CLASSES)}"
            raise PaintError(msg)
        self.pipe, self.name, self.painter = pipe, name, painter
        self.call, self.defaults, self.tempo = dict(call or {}), dict(defaults or {}), tempo
        self.family = family(pipe)
        self.digest = model_digest(pipe)
        self.own: Belongings = painter or Belongings(
            pipe, name, folder=folder, call=self.call, cache=cache
        )
        if painter is not None and painter.loras is not None:
            painter.loras.load_into(pipe)
        self.offloaded = bool(getattr(pipe, "_all_hooks", None))
        self.busy = False

    # What can be asked of it ---------------------------------------------------------------------

    @property
    def by_frame(self) -> bool:
        """Whether each frame has a text of its own (AnimateDiff)."""
        return self.family.frames == "unet"

    @property
    def multiple(self) -> int:
        """Width and height must be multiples of this many pixels."""
        if self.by_frame:
            return max(2, int(self.pipe.vae_scale_factor))
        if self.family.frames == "ltx":
            return int(self.pipe.vae_spatial_compression_ratio)
        patch = self.pipe.transformer or self.pipe.transformer_2
        return int(self.pipe.vae_scale_factor_spatial) * int(patch.config.patch_size[-1])

    @property
    def native(self) -> tuple[int, int]:
        """Width and height this backbone was trained at, as far as its parts say, in pixels."""
        if self.by_frame:
            side = int(self.pipe.unet.config.sample_size) * int(self.pipe.vae_scale_factor)
            return side, side
        declared = _arguments(self.pipe)
        return int(declared["width"].default), int(declared["height"].default)

    def size(self, params: VideoParams, init: Image.Image | None = None) -> tuple[int, int]:
        """Width and height of the film; a photo keeps its aspect at the area asked for."""
        step = self.multiple
        if why := size_fault(self.name, step, params):
            raise PaintError(why)
        width, height = self.native
        asked = params.width, params.height
        if asked != (0, 0) and (init is None or asked != self._usual):
            if 0 not in asked:
                return asked
            aspect = init.width / init.height if init is not None else width / height
            wide, tall = asked[0] or asked[1] * aspect, asked[1] or asked[0] / aspect
        elif init is None:
            wide, tall = float(width), float(height)
        else:
            area = (width * height if asked == (0, 0) else asked[0] * asked[1]) ** 0.5
            aspect = (init.width / init.height) ** 0.5
            wide, tall = area * aspect, area / aspect
        even = step if step % 2 == 0 else 2 * step  # the codec wants even sizes
        return tuple(max(even, round(side / even) * even) for side in (wide, tall))  # type: ignore[return-value]

    @property
    def _usual(self) -> tuple[int, int]:
        """The size of this backbone's row: nobody asked for it, so a photo may change its shape."""
        return int(self.defaults.get("width", 0)), int(self.defaults.get("height", 0))

    def check(self, params: VideoParams, *, init: bool) -> None:
        """Raise one line when this family cannot take what `params` ask for."""
        kind, brings = type(self.pipe).__name__, self.painter is not None
        facts = Facts(self.name, kind, self.multiple, brings, self.defaults)
        if why := fault_of(facts, params, init=init):
            raise PaintError(why)

    def steps(self, params: VideoParams, *, init: bool) -> int:
        """Denoising steps that a film really takes (video-to-video skips the first `keep`)."""
        if not (init and self.by_frame):
            return params.steps
        return max(1, min(int(params.steps * max(repaint(params.keep), 1.0001 / params.steps)),
                          params.steps))  # fmt: skip

    def weights(self, params: VideoParams) -> str:
        """Digest of model, adapters, tempo and the gain in use: the `weights` of a Request."""
        parts = [self.digest, self.own.adapters_digest]
        if self.tempo:
            parts.append(self.tempo)
        if params.calibrated and self.own.calibration is not None:
            parts.append(self.own.calibration.digest)
        return "-".join(parts)

    def notes(self, prompt: str) -> list[str]:
        """Warnings about words that this model was never shown."""
        return self.own.notes(prompt)

    # What is asked of each frame -----------------------------------------------------------------

    def given(self, timeline: EmotionTimeline, params: VideoParams, times: Floats) -> Floats:
        """Intensities (T, 12) that steer the frames at `times` s: as asked, through the gain."""
        asked = timeline.sample(times).astype(np.float64)
        return self.own.gained(asked, calibrated=params.calibrated)

    def track(self, scene: Scene, params: VideoParams, times: Floats, size: tuple[int, int]) -> Any:
        """The `FrameTrack` of a scene at `times` (T,) s, for frames of `size` (width, height)."""
        width, height = size
        regions = tuple(
            (
                region_mask(where, height, width),
                self.given(own, params, times),
                own.residuals(times),
            )
            for where, own in scene.regions
        )
        return FrameTrack(
            self.given(scene.timeline, params, times), scene.timeline.residuals(times), regions
        )

    def texts(self, scene: Scene, params: VideoParams, times: Floats) -> tuple[list[str], Floats]:
        """The distinct prompts that the model sees, and how far each holds at `times`: (T, texts).

        One a key of the course, blended between keys as the course itself is.
        """
        keys = scene.timeline.keys
        states = self.own.gained(
            np.stack([state.array for _, state in keys]), calibrated=params.calibrated
        )
        written = [
            expand(
                scene.prompt,
                Emotion(tuple(row), state.residual),
                params.content,
                keep_content=params.keep_content,
                seed=scene.seed,
                vocabulary=self.own.words,  # type: ignore[arg-type]
            )
            for row, (_, state) in zip(states, keys, strict=True)
        ]
        found = list(dict.fromkeys(written))
        shares = np.clip(pchip([t for t, _ in keys], np.eye(len(keys)), times), 0.0, 1.0)
        member = np.array([[text == one for one in found] for text in written], dtype=np.float64)
        blended = shares @ member
        return found, blended / blended.sum(axis=1, keepdims=True)

    def arousal(self, scene: Scene, times: Floats) -> Floats:
        """Arousal -1..1 that was asked for at `times`, the speed of what moves."""
        point = scene.timeline.sample(times) @ VAD + scene.timeline.residuals(times)
        return np.clip(point[:, 1].astype(np.float64), -1.0, 1.0)

    # Making --------------------------------------------------------------------------------------

    def film(
        self,
        scene: Scene,
        params: VideoParams,
        *,
        init: Image.Image | None = None,
        report: Report = lambda _: None,
        chunk: int = DECODE,
    ) -> Frames:
        """Make one film, (frames, H, W, 3) uint8.

        init: the picture that starts to move. report: is called after every denoising step and
        every `chunk` decoded frames, and may raise `Stopped`. Nothing of the steering is left on
        the pipeline afterwards, also after an exception.
        """
        size = self.size(params, init)
        # AnimateDiff can be made round; elsewhere what follows the end dissolves into the start.
        over = min(LOOPING, scene.frames) if params.loop and not self.by_frame else 0
        made = self._valid(scene.frames + over)
        times = frame_times(self.pipe, made, params.fps)
        if over:
            length = scene.frames / params.fps
            times = np.where(times >= length, times - length, times)
        guide = None if init is None else [init]
        if params.keyframes:
            guide = self.stills(scene, params, size, report)
        with ExitStack() as stack:
            if self.by_frame:
                frames = self._by_frame(stack, scene, params, size, times, guide, report, chunk)
            else:
                frames = self._at_once(stack, scene, params, size, times, guide, report, made)
        if over:
            frames = closed(frames[: scene.frames + over], scene.frames)
        return frames[: scene.frames]

    def _valid(self, frames: int) -> int:
        """The least number of frames from `frames` on that this family makes as asked."""
        while whole_frames(self.pipe, frames) != frames:
            frames += 1
        return frames

    def stills(
        self, scene: Scene, params: VideoParams, size: tuple[int, int], report: Report
    ) -> list[Image.Image]:
        """Keyframes at even moments of the film, each with its moment's emotion, one seed."""
        from pipelines.image import ImageParams

        painter = self._still_painter(params)
        count, seconds = params.keyframes, scene.frames / params.fps
        # The end of a loop is its beginning: no still of its own.
        moments = np.linspace(0.0, seconds, count + params.loop)[:count]
        sittings = [Sitting(scene.prompt, scene.timeline.at(t), scene.seed) for t in moments]
        asked = {name: getattr(params, name) for name in PAINTED}
        if not params.painter:
            asked |= {"width": size[0], "height": size[1]}
        settings = ImageParams.parse(asked, painter.defaults)
        pictures = painter.paint(
            sittings,
            settings,
            on_step=lambda i: report(Progress("paint", min(1.0, (i + 1) / settings.steps))),
        )
        return [fitted(picture, size) for picture in pictures]

    def _still_painter(self, params: VideoParams) -> Painter:
        from pipelines.session import loaded

        if params.painter:
            return loaded(resolve(params.painter, "image"), device=str(self.pipe.device))
        if self.painter is None:
            msg = f"keyframes: {self.name} brings no painter; name one with --painter"
            raise PaintError(msg)
        if not self.offloaded:
            self.painter.pipe.to(self.pipe.device)
        return self.painter

    def _by_frame(
        self,
        stack: ExitStack,
        scene: Scene,
        params: VideoParams,
        size: tuple[int, int],
        times: Floats,
        guide: list[Image.Image] | None,
        report: Report,
        chunk: int,
    ) -> Frames:
        """AnimateDiff: frames are rows of the batch, each with its own text."""
        pipe = self.pipe if guide is None else self._repainter
        noise = self._noise(scene, len(times), size, params)
        arguments = self._common(pipe, params, size, report, self.steps(params, init=bool(guide)))
        arguments |= {"prompt": self.texts(scene, params, times)[0][0], "output_type": "latent"}
        if guide is None:
            arguments |= {"num_frames": len(times), "latents": noise}
        else:
            film = moved(
                guide,
                np.clip(params.tempo * self.arousal(scene, times), -1.0, 1.0),
                scene.seed,
                kind=kind_for(scene.prompt),
                size=size,
                fps=params.fps,
                loop=params.loop,
            )
            strength = min(1.0, max(repaint(params.keep), 1.0001 / params.steps))
            arguments["strength"] = strength
            arguments["latents"] = self._noised(film, noise, params.steps, strength, chunk)
        stack.enter_context(film_length(pipe, len(times), loop=params.loop))
        if share := self.call.get("guidance_rescale"):
            stack.enter_context(rescaled(pipe, float(share)))
        self._steer(stack, pipe, scene, params, times, size, len(times))
        latents = self._called(pipe, arguments)
        stack.close()
        parts = []
        for start in range(0, latents.shape[2], chunk):
            parts.append(decoded(pipe, latents[:, :, start : start + chunk]))
            done = min(1.0, (start + chunk) / latents.shape[2])
            report(Progress("render", done, Image.fromarray(parts[-1][0])))
        return np.concatenate(parts)

    def _at_once(
        self,
        stack: ExitStack,
        scene: Scene,
        params: VideoParams,
        size: tuple[int, int],
        times: Floats,
        guide: list[Image.Image] | None,
        report: Report,
        made: int,
    ) -> Frames:
        """Wan and LTX: all frames are one sequence of tokens with one text."""
        pipe = self.pipe if guide is None else self._from_picture
        arguments = self._common(pipe, params, size, report, params.steps)
        arguments |= {
            "prompt": self.texts(scene, params, times)[0][0],
            "num_frames": made,
            "output_type": "np",
            "generator": torch.Generator().manual_seed(scene.seed),
        }
        if "frame_rate" in _arguments(pipe):
            arguments["frame_rate"] = params.fps
        if guide is not None:
            arguments["image"] = fitted(guide[0], size)
        self._steer(stack, pipe, scene, params, times, size, made)
        pixels = self._called(pipe, arguments)[0]
        report(Progress("render", 1.0))
        return np.asarray(np.round(np.clip(np.asarray(pixels), 0, 1) * 255), dtype=np.uint8)

    def _common(
        self, pipe: Any, params: VideoParams, size: tuple[int, int], report: Report, steps: int
    ) -> dict[str, Any]:
        """Arguments that all families' calls have, and of ours those that this one declares."""

        def after(_: Any, index: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            picture = preview(pipe, values.get("latents")) if self.by_frame else None
            report(Progress("denoise", min(1.0, (index + 1) / steps), picture))
            return values

        signature = _arguments(pipe)
        found: dict[str, Any] = {
            "width": size[0],
            "height": size[1],
            "num_inference_steps": params.steps,
            "callback_on_step_end": after,
        }
        found |= {name: value for name, value in self.call.items() if name in signature}
        if params.guidance_scale is not None:
            found["guidance_scale"] = params.guidance_scale
        if params.negative_prompt:
            found["negative_prompt"] = params.negative_prompt
        return found

    def _steer(
        self,
        stack: ExitStack,
        pipe: Any,
        scene: Scene,
        params: VideoParams,
        times: Floats,
        size: tuple[int, int],
        made: int,
    ) -> None:
        """Open every mechanism that `params` turn on."""
        track = self.track(scene, params, times, size)
        moving = bool(params.style) and not track.is_neutral
        pace = params.tempo * self.arousal(scene, times)
        texts, shares = self.texts(scene, params, times)
        stack.enter_context(
            steer_frames(
                pipe,
                track,
                num_frames=made,
                height=size[1],
                width=size[0],
                directions=self.own.directions if moving and params.directions else None,
                sliders=self.own.loras if moving and params.lora else None,
                strength=params.style,
                tempo={TEMPO: pace} if self.tempo and pace.any() else None,
                words=dict(zip(texts, shares.T, strict=True)) if len(texts) > 1 else None,
            )
        )

    def _called(self, pipe: Any, arguments: dict[str, Any]) -> Any:
        """The frames of the pipeline's own call."""
        try:
            return pipe(**arguments).frames
        except BaseException:
            # An interrupted call skips diffusers' own clean-up of offloaded parts.
            if self.offloaded:
                pipe.maybe_free_model_hooks()
            raise

    def _noise(
        self, scene: Scene, frames: int, size: tuple[int, int], params: VideoParams
    ) -> torch.Tensor:
        """Latents (1, C, T, h, w) to begin with; without a share of common noise, plain noise."""
        generator = torch.Generator().manual_seed(scene.seed)
        if params.consistency:
            return initial_noise(
                self.pipe, frames, size[1], size[0], generator, params.consistency,
                loop=params.loop,
            )  # fmt: skip
        scale = int(self.pipe.vae_scale_factor)
        channels = int(self.pipe.unet.config.in_channels)
        shape = (1, channels, frames, size[1] // scale, size[0] // scale)
        noise = torch.randn(shape, generator=generator)
        return noise.to(self.pipe.device, self.pipe.unet.dtype)

    @torch.no_grad()
    def _noised(
        self, film: torch.Tensor, noise: torch.Tensor, steps: int, strength: float, chunk: int
    ) -> torch.Tensor:
        """A film (T, 3, H, W) in 0..1 as latents, noised to where video-to-video begins."""
        vae, scheduler = self.pipe.vae, self.pipe.scheduler
        device = getattr(self.pipe, "_execution_device", self.pipe.device)
        if self.offloaded:
            vae.to(device)
        rows = [
            vae.encode(part.to(device, vae.dtype) * 2 - 1).latent_dist.mode()
            for part in film.split(chunk)
        ]
        clean = torch.cat(rows).transpose(0, 1)[None] * vae.config.scaling_factor
        scheduler.set_timesteps(steps, device=device)
        first = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
        begin = scheduler.timesteps[first : first + 1]
        return scheduler.add_noise(clean.to(noise), noise, begin)

    @cached_property
    def _repainter(self) -> Any:
        """The same parts as video-to-video."""
        return self._like(AnimateDiffVideoToVideoPipeline)

    @cached_property
    def _from_picture(self) -> Any:
        """The same parts as image-to-video."""
        return self._like(LTXImageToVideoPipeline) if self.family.frames == "ltx" else self.pipe

    def _like(self, kind: Any) -> Any:
        if isinstance(self.pipe, kind):
            return self.pipe
        wanted = inspect.signature(kind.__init__).parameters
        pipe = kind(**{k: part for k, part in self.pipe.components.items() if k in wanted})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def offload(self) -> bool:
        """Keep only the part that works on the accelerator; False when that is no help here."""
        if self.offloaded or self.pipe.device.type not in ("cuda", "xpu"):
            return False
        self.pipe.enable_model_cpu_offload()
        self.offloaded = True
        return True


def _arguments(pipe: Any) -> Mapping[str, Any]:
    """What a pipeline's call declares."""
    return inspect.signature(type(pipe).__call__).parameters
