"""A talking face painted again by a diffusers video model, over the frames of our own renderer.

The frames are warped photos: right in shape and time, but skin, teeth and the inside of a mouth
can look stretched. `polish` noises them part of the way (Meng et al. 2022, "SDEdit", arXiv
2108.01073) and lets AnimateDiff + ControlNet or Wan-Animate paint them again, steered by what the
same motion draws: outlines of the mesh, or face crops and a skeleton (pipelines.portrait_maps).
Strength says how far back they are noised: 0 gives the warped frames, untouched; 1 leaves the
picture to the model. Only the face goes back into the photo, with a soft edge and the colours of
the warped one; outside the renderer's box no pixel changes.

Videos of any length are painted in windows that overlap and are blended there; each frame has its
own noise whatever window it is in. The emotion also moves the prompt's embeddings, by the
directions of the image modality, as it changes from window to window. It knows neither requests nor
files, nor where weights come from (pipelines.portrait_polishers).
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from adapters.memory import out_of_memory
from pipelines.portrait_maps import cut, cut_face, face_share, landmarks, outlines, skeleton
from pipelines.portrait_polishers import Polisher, load_polisher
from pipelines.session import alone

if TYPE_CHECKING:
    from adapters.face_motion import Motion
    from pipelines.portrait_rig import Rig

log = logging.getLogger("affect")

__all__ = ["polish", "polish_steps", "windows"]

_SEGMENTS = 3  # of Wan-Animate in one run, 229 frames: all of them are kept in memory meanwhile
_CHUNK = 4  # pictures in the autoencoder at once
_GAIN = (0.8, 1.25)  # how much the contrast of a painted face is corrected at most


def polish(
    frames: Iterable[np.ndarray],
    rig: Rig,
    motion: Motion,
    backbone: Polisher | str,
    *,
    generator: torch.Generator,
    strength: float = 0.4,
    track: np.ndarray | None = None,
    residuals: np.ndarray | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Paint the face in every frame again; yields as many frames, (H, W, 3) uint8, as come in.

    Args:
        frames: (H, W, 3) uint8 of the full photo, those of `rig.frames(motion)`.
        rig: the renderer that they come from; it says where the face is.
        motion: what moves in them; the conditioning pictures are drawn from it.
        backbone: a loaded `Polisher`, or a name, folder or hub id to load.
        generator: on the CPU; the same seed gives the same frames.
        strength: 0..1; 0 gives `frames` as they are and loads nothing. .3 to .5 keep the person.
        track, residuals: (T, 12) intensities and (T, 3) VAD of each frame, as directions take them.
        on_step: called with (steps done, steps in all) after each denoising step; may raise
            `Stopped`. Nothing is left on the pipeline then, nor when the iterator is closed.

    Raises:
        ValueError: a strength, track or number of frames that does not fit. BackboneError: see
            `load_polisher`. MemoryError: not even one window fits. One line each.
    """
    if not 0 <= strength <= 1:
        msg = f"polish_strength: 0 to 1 is allowed, received {strength:g}; .4 keeps the person"
        raise ValueError(msg)
    emotion = _emotion(track, residuals, len(motion))
    if strength == 0:
        return iter(frames)
    return _polished(iter(frames), rig, motion, backbone, generator, strength, emotion, on_step)


def polish_steps(count: int, polisher: Polisher, strength: float) -> int:
    """Denoising steps that `count` frames take in all; 0 at strength 0."""
    if not strength:
        return 0
    return sum(
        _taken(polisher, strength) * _segments(end - start, polisher)[0]
        for start, end in _spans(count, polisher)
    )


def windows(count: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """Starts and ends of as few windows as cover `count` frames, evenly spread.

    Each has `length` frames (fewer only if there are no more) and shares at least `overlap` with
    the one before.
    """
    if count <= length:
        return [(0, count)]
    number = math.ceil((count - overlap) / (length - overlap))
    starts = [round(i * (count - length) / (number - 1)) for i in range(number)]
    return [(start, start + length) for start in starts]


# The run ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    """What one run of a pipeline is given, n frames of the face's square."""

    crops: list[Image.Image]
    points: np.ndarray  # (n, 478, 2), 0..1 of the square
    seeds: list[int]  # of each frame's noise
    strength: float
    rig: Rig
    report: Callable[[], None]


def _polished(
    frames: Iterator[np.ndarray],
    rig: Rig,
    motion: Motion,
    backbone: Polisher | str,
    generator: torch.Generator,
    strength: float,
    emotion: tuple[np.ndarray, np.ndarray] | None,
    on_step: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    polisher = load_polisher(backbone) if isinstance(backbone, str) else backbone
    count, done = len(motion), 0
    total = polish_steps(count, polisher, strength)
    points = landmarks(rig, motion)
    share = face_share(rig.square, rig.square.side)
    fit = face_share(rig.square, polisher.size)
    first = int(torch.randint(2**48, (), generator=generator))
    spans = _spans(count, polisher)

    def report() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(min(done, total), total)

    with alone(polisher):
        waiting: dict[int, np.ndarray] = {}  # full frames that a coming window still needs
        painted: dict[int, np.ndarray] = {}  # crops that are not blended to the end yet
        for number, (start, end) in enumerate(spans):
            for i in range(max(waiting, default=start - 1) + 1, end):
                waiting[i] = _next(frames, i, count)
            crops = [cut(waiting[i], rig.square, polisher.size) for i in range(start, end)]
            window = _Window(
                crops, points[start:end], [first + i for i in range(start, end)], strength, rig,
                report,
            )  # fmt: skip
            new = _run(polisher, window, emotion, start, end)
            shared = [i for i in range(start, end) if i in painted]
            for k, (i, crop) in enumerate(zip(range(start, end), new, strict=True)):
                crop = _same_light(crop, np.asarray(crops[i - start]) / 255, fit)
                if i in painted:
                    part = (k + 1) / (len(shared) + 1)
                    crop = (1 - part) * painted[i] + part * crop
                painted[i] = crop
            following = spans[number + 1][0] if number + 1 < len(spans) else end
            for i in range(start, following):
                yield _pasted(waiting.pop(i), painted.pop(i), rig, share)


def _next(frames: Iterator[np.ndarray], index: int, count: int) -> np.ndarray:
    frame = next(frames, None)
    if frame is None:
        msg = f"frames: {count} are needed for this motion, only {index} came; pass rig.frames"
        raise ValueError(msg)
    return frame


def _run(
    polisher: Polisher,
    window: _Window,
    emotion: tuple[np.ndarray, np.ndarray] | None,
    start: int,
    end: int,
) -> np.ndarray:
    """(n, S, S, 3) float 0..1; what does not fit is tried again with parts taking turns."""
    paint = _wan if polisher.wan else _animatediff
    while True:
        try:
            with ExitStack() as stack:
                if emotion is not None:
                    a, r = (rows[start:end].mean(0) for rows in emotion)
                    if a.any() or r.any():
                        bank = polisher.directions
                        stack.enter_context(bank.steer(polisher.pipe, a, residuals=r))
                try:
                    return paint(polisher, window)
                except BaseException:
                    if polisher.offloaded:  # an interrupted call skips its own clean-up
                        polisher.pipe.maybe_free_model_hooks()
                    raise
        except Exception as error:
            if not out_of_memory(error):
                raise
            failed = error.with_traceback(None)  # its frames hold what was being computed
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not polisher.offload():
            msg = (
                f"memory: {len(window.crops)} frames of {polisher.size} px of {polisher.name} do "
                "not fit; take a polisher with a smaller size or window, or another device"
            )
            raise MemoryError(msg) from failed
        log.warning("%s does not fit as a whole, so its parts take turns: slower", polisher.name)


def _animatediff(polisher: Polisher, window: _Window) -> np.ndarray:
    """Video to video with a ControlNet, from latents that are noised here, frame by frame."""
    pipe, size = polisher.pipe, polisher.size
    device, dtype = pipe._execution_device, pipe.dtype
    whole, share = _whole(polisher, window.strength), _share(polisher, window.strength)
    pipe.scheduler.set_timesteps(whole, device=device)
    kept, _ = pipe.get_timesteps(whole, pipe.scheduler.timesteps, share, device)
    with torch.no_grad():
        clean = torch.cat([
            pipe.vae.encode(part.to(device, pipe.vae.dtype)).latent_dist.mode()
            for part in _pixels(window.crops).split(_CHUNK)
        ]).to(dtype) * pipe.vae.config.scaling_factor  # fmt: skip
        noise = torch.cat([_noise(clean[:1].shape, seed) for seed in window.seeds])
        noisy = pipe.scheduler.add_noise(clean, noise.to(device, dtype), kept[:1])
    result = pipe(
        prompt=polisher.prompt,
        negative_prompt=polisher.negative_prompt,
        latents=noisy.transpose(0, 1)[None],
        conditioning_frames=_maps(polisher, window),
        height=size,
        width=size,
        strength=share,
        num_inference_steps=whole,
        guidance_scale=polisher.guidance,
        generator=torch.Generator().manual_seed(window.seeds[0]),
        decode_chunk_size=_CHUNK,
        output_type="np",
        callback_on_step_end=_after(window.report),
    )
    return np.asarray(result.frames[0], np.float32)


def _maps(polisher: Polisher, window: _Window) -> list[Image.Image]:
    if polisher.maps == "pose":
        return [skeleton(p, window.rig.square, polisher.size) for p in window.points]
    return [outlines(p, polisher.size, white=polisher.maps == "lines") for p in window.points]


def _wan(polisher: Polisher, window: _Window) -> np.ndarray:
    """Wan-Animate in its mode "animate", in segments that each take up the end of the last."""
    pipe, size, count = polisher.pipe, polisher.size, len(window.crops)
    number, length = _segments(count, polisher)
    crops = pipe.pad_video_frames(window.crops + window.crops[-1:] * (count < 2),
                                  number * (length - 1) + 1)  # fmt: skip
    side = int(pipe.transformer.config.motion_encoder_size)
    faces = [cut_face(*pair, side) for pair in zip(window.crops, window.points, strict=True)]
    bones = [skeleton(p, window.rig.square, size) for p in window.points]
    if count < 2:  # the class pads by going back and forth, which takes two
        faces, bones = faces * 2, bones * 2
    photo = cut(window.rig.photo, window.rig.square, size)
    generator = torch.Generator().manual_seed(window.seeds[0])
    with _from_frames(polisher, photo, crops, window.strength, length):
        result = pipe(
            image=photo,
            pose_video=pipe.pad_video_frames(bones, len(crops)),
            face_video=pipe.pad_video_frames(faces, len(crops)),
            prompt=polisher.prompt,
            negative_prompt=polisher.negative_prompt,
            height=size,
            width=size,
            segment_frame_length=length,
            num_inference_steps=_whole(polisher, window.strength),
            mode="animate",
            guidance_scale=polisher.guidance,
            generator=generator,
            output_type="np",
            callback_on_step_end=_after(window.report),
        )
    return np.asarray(result.frames[0][:count], np.float32)


@contextmanager
def _from_frames(
    polisher: Polisher, photo: Image.Image, crops: list[Image.Image], strength: float, length: int
) -> Iterator[None]:
    """Make Wan-Animate begin at noised frames instead of noise: it has no argument for it.

    Its schedule is cut to the last `strength` of the steps, and what it draws as noise of a segment
    is added to that segment's frames. At strength 1 nothing is touched.
    """
    pipe, scheduler = polisher.pipe, polisher.pipe.scheduler
    if strength >= 1:
        yield
        return
    skipped = _whole(polisher, strength) - _taken(polisher, strength)
    plain_timesteps, plain_latents = scheduler.set_timesteps, pipe.prepare_latents
    starts = iter(range(0, len(crops), length - 1))

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        plain_timesteps(*args, **kwargs)
        scheduler.timesteps = scheduler.timesteps[skipped:]
        scheduler.sigmas = scheduler.sigmas[skipped:]
        scheduler.num_inference_steps = len(scheduler.timesteps)

    def prepare_latents(*args: Any, **kwargs: Any) -> torch.Tensor:
        noise = plain_latents(*args, **kwargs)
        start = next(starts)
        pixels = _pixels(crops[start : start + length]).transpose(0, 1)[None]
        given = pipe.vae_image_processor.preprocess(
            photo, height=polisher.size, width=polisher.size, resize_mode="fill"
        )
        device = noise.device
        # the first latent frame stands for the photo; its first channels are the mask
        own = pipe.prepare_reference_image_latents(given.to(device), device=device)
        own = own[:, -noise.shape[1] :]
        clean = torch.cat([own, pipe.prepare_pose_latents(pixels.to(device), device=device)], 2)
        add = getattr(scheduler, "add_noise", None)
        first = scheduler.timesteps[:1]
        if add is None:  # FlowMatchEulerDiscreteScheduler names it so
            return scheduler.scale_noise(clean.to(noise), first, noise)
        return add(clean.to(noise), noise, first)

    own = {
        thing: {name: vars(thing)[name] for name in names if name in vars(thing)}
        for thing, names in ((scheduler, ("set_timesteps",)), (pipe, ("prepare_latents",)))
    }
    scheduler.set_timesteps = set_timesteps
    pipe.prepare_latents = prepare_latents
    try:
        yield
    finally:
        for thing, name in ((scheduler, "set_timesteps"), (pipe, "prepare_latents")):
            vars(thing).pop(name, None)
            vars(thing).update(own[thing])


# Small parts --------------------------------------------------------------------------------------


def _emotion(
    track: np.ndarray | None, residuals: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    if track is None and residuals is None:
        return None
    a = np.zeros((count, 12)) if track is None else np.asarray(track, np.float64)
    r = np.zeros((count, 3)) if residuals is None else np.asarray(residuals, np.float64)
    if a.shape != (count, 12) or r.shape != (count, 3):
        msg = (
            f"track, residuals: ({count}, 12) and ({count}, 3) are needed for this motion, "
            f"received {a.shape} and {r.shape}; give one row a frame"
        )
        raise ValueError(msg)
    return a, r


def _spans(count: int, polisher: Polisher) -> list[tuple[int, int]]:
    length = polisher.window
    if polisher.wan:
        length = _SEGMENTS * (polisher.window - 1) + 1
    return windows(count, length, polisher.overlap)


def _segments(count: int, polisher: Polisher) -> tuple[int, int]:
    """How many runs of the denoiser one window takes, and frames of each.

    Wan-Animate's are 4 n + 1 frames long and share one, so they are made as even as that allows:
    78 frames in segments of 77 would be padded to 153.
    """
    if not polisher.wan:
        return 1, count
    number = max(1, math.ceil((count - 1) / (polisher.window - 1)))
    return number, max(5, 4 * math.ceil((count - 1) / (4 * number)) + 1)


def _whole(polisher: Polisher, strength: float) -> int:
    """Steps of the full schedule: enough that a weak polish takes one of them."""
    return max(polisher.steps, math.ceil(1 / strength))


def _taken(polisher: Polisher, strength: float) -> int:
    return max(1, round(_whole(polisher, strength) * strength))


def _share(polisher: Polisher, strength: float) -> float:
    """diffusers' strength, which is cut to whole steps downwards."""
    return min(1.0, (_taken(polisher, strength) + 1e-6) / _whole(polisher, strength))


def _after(report: Callable[[], None]) -> Callable[..., dict[str, Any]]:
    def after(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        report()
        return values

    return after


def _pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """(n, 3, S, S) float -1..1."""
    rows = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1


def _noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Of one frame, on the CPU: the same in every window and on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def _same_light(crop: np.ndarray, warped: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`crop` (S, S, 3) with mean and spread of colours as `warped` has them on the face.

    Autoencoders and guidance shift colours, and a film of segments drifts; matching the first two
    moments (Reinhard et al. 2001, "Color Transfer between Images") keeps a face one with its photo.
    """
    weight = share / share.sum()
    means, spreads = [], []
    for picture in (crop, warped):
        mean = (picture * weight).sum((0, 1))
        means.append(mean)
        spreads.append(np.sqrt((((picture - mean) ** 2) * weight).sum((0, 1))))
    gain = np.clip(spreads[1] / np.maximum(spreads[0], 1e-4), *_GAIN)
    return np.asarray((crop - means[0]) * gain + means[1], np.float32)


def _pasted(frame: np.ndarray, crop: np.ndarray, rig: Rig, share: np.ndarray) -> np.ndarray:
    """`frame` with the painted face (S, S, 3) in its place, by `share` (side, side, 1)."""
    square = rig.square
    small = Image.fromarray((crop.clip(0, 1) * 255).round().astype(np.uint8))
    if small.width != square.side:
        small = small.resize((square.side, square.side), Image.Resampling.LANCZOS)
    x0, y0, x1, y1 = rig.box
    part = np.s_[y0 - square.top : y1 - square.top, x0 - square.left : x1 - square.left]
    out = frame.copy()
    view = out[y0:y1, x0:x1]
    fresh = view + share[part] * (np.asarray(small, np.float32)[part] - view)
    out[y0:y1, x0:x1] = fresh.round().clip(0, 255).astype(np.uint8)
    return out
