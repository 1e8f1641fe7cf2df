"""Figures of video-tiny: flicker and warping beside what has none and what has most, and tempo.

    python -m training.video_report --model assets/models/video-tiny --out .work/video
    python -m training.video_report --out .work/video --print

Twelve prompts, one seed each, sixteen frames at eight a second, made as `affect make video` makes
them (20 steps, guidance 4, rescaled by .7). Beside the film: the painter on the same noise without
motion modules, the painter on noise of its own for every frame, a cross-fade of two of its stills,
and clips of the training's kind through the autoencoder, which are as good as this can get; and the
other way to a film, a still that `camera.move` moves and video-to-video repaints. Tempo:
the speed of films at five weights of the tempo LoRA, one noise a prompt; the control takes the
weight away and another noise in its place. Every film is a line of a file: what is there is not
made again, so several processes may share the work (--part 0/2).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffVideoToVideoPipeline
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from PIL import Image

from adapters.frame_steering import steer_frames
from adapters.frames import FrameTrack
from adapters.metrics import bootstrap, spearman
from adapters.video_metrics import measure
from pipelines import camera
from pipelines.video_model import TEMPO, film_length, frame_noise, load_video_tiny
from pipelines.video_unet import rescaled

PROMPTS = (
    "waves against a cliff", "a stormy sea", "boats in a harbour", "a mountain lake",
    "sunflowers", "a forest", "a garden", "a field with trees",
    "mountains", "a wide landscape", "a village", "a sunset",
)  # fmt: skip
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SHARES = (0.7, 0.8, 0.95, 1.0)
SHARE = 0.9
FIGURES = (("flicker", 4), ("warping", 5), ("occluded", 2), ("speed", 3), ("difference", 4))
FPS, FRAMES, STEPS = 8, 16, 20
STRENGTH = 0.64  # of video-to-video, as `--keep .6` asks for


def plan() -> Iterator[dict[str, Any]]:
    """Every film to measure, what matters most first."""
    for level in (0.0, 1.0, -1.0, 0.5, -0.5):
        for seed in range(len(PROMPTS)):
            yield {"kind": "film", "seed": seed, "tempo": level}
    for kind in ("painter", "independent", "fade", "clip"):
        for seed in range(len(PROMPTS)):
            yield {"kind": kind, "seed": seed}
    for level in (0.0, 1.0, -1.0):
        for seed in range(len(PROMPTS)):
            yield {"kind": "guided", "seed": seed, "tempo": level}
    for frames, loop in ((40, False), (24, True), (96, False)):
        for seed in range(4 if frames < 96 else 1):
            yield {"kind": "loop" if loop else "long", "seed": seed, "frames": frames}
    for share in SHARES:
        for seed in range(len(PROMPTS)):
            yield {"kind": "film", "seed": seed, "tempo": 0.0, "share": share}
    for level in LEVELS:
        for seed in range(len(PROMPTS)):
            yield {"kind": "control", "seed": seed, "tempo": level}


@torch.no_grad()
def film(pipe: Any, job: dict[str, Any]) -> torch.Tensor:
    """The frames (F, 3, H, W), 0..1, of one line of the plan, but for clips."""
    kind, seed = job["kind"], job["seed"]
    frames, share = job.get("frames", FRAMES), job.get("share", SHARE)
    draw = seed + 100 * (1 + LEVELS.index(job["tempo"])) if kind == "control" else seed
    generator = torch.Generator().manual_seed(draw)
    if kind == "fade":
        frames = 2
    shape = (1, 24, frames, 8, 8)
    if kind in ("independent", "fade"):
        noise = torch.randn(shape, generator=generator)
    else:
        noise = frame_noise(shape, share, generator, loop=kind == "loop")
    gains = [m.proj_out for m in pipe.unet.modules() if isinstance(m, AnimateDiffTransformer3D)]
    kept = [(layer.weight.clone(), layer.bias.clone()) for layer in gains]
    if kind == "guided":
        noise = guide(pipe, PROMPTS[seed], noise, job["tempo"], seed)
    with ExitStack() as stack:
        stack.enter_context(rescaled(pipe, 0.7))
        if kind in ("painter", "independent", "fade"):  # the painter as it is: nothing is added
            for layer in gains:
                layer.weight.zero_()
                layer.bias.zero_()
        else:
            stack.enter_context(film_length(pipe, frames, loop=kind == "loop"))
            track = FrameTrack(np.zeros((frames, 12)), np.zeros((frames, 3)))
            weight = np.full(frames, 0.0 if kind == "control" else job.get("tempo", 0.0))
            size = {"num_frames": frames, "height": 128, "width": 128}
            stack.enter_context(steer_frames(pipe, track, **size, tempo={TEMPO: weight}))
        asked = {"height": 128, "width": 128, "latents": noise, "guidance_scale": 4.0}
        asked |= {"num_inference_steps": STEPS, "output_type": "pt"}
        if kind == "guided":
            made = _repainter(pipe)(prompt=PROMPTS[seed], strength=STRENGTH, **asked).frames[0]
        else:
            made = pipe(PROMPTS[seed], num_frames=frames, **asked).frames[0]
    for layer, (weight, bias) in zip(gains, kept, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    if kind == "fade":
        over = torch.linspace(0, 1, FRAMES).view(-1, 1, 1, 1)
        made = (1 - over) * made[:1] + over * made[1:]
    return made.float().clamp(0, 1)


def guide(pipe: Any, prompt: str, noise: torch.Tensor, tempo: float, seed: int) -> torch.Tensor:
    """A still of the pipeline that the camera moves, noised to where video-to-video begins."""
    frames = noise.shape[2]
    with rescaled(pipe, 0.7):
        still = pipe(
            prompt, num_frames=1, height=128, width=128, latents=noise[:, :, :1],
            num_inference_steps=STEPS, guidance_scale=4.0, output_type="pt",
        ).frames[0, 0]  # fmt: skip
    film = camera.move(
        still, frames / FPS, FPS, kind=camera.kind_for(prompt), tempo=tempo,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    rows = [pipe.vae.encode(frame[None] * 2 - 1).latent_dist.mode() for frame in film]
    pipe.scheduler.set_timesteps(STEPS)
    first = pipe.scheduler.timesteps[STEPS - int(STEPS * STRENGTH)][None]
    return pipe.scheduler.add_noise(torch.cat(rows).transpose(0, 1)[None], noise, first)


def _repainter(pipe: Any) -> AnimateDiffVideoToVideoPipeline:
    """The same parts as video-to-video."""
    again = AnimateDiffVideoToVideoPipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, unet=pipe.unet,
        motion_adapter=None, scheduler=pipe.scheduler,
    )  # fmt: skip
    again.set_progress_bar_config(disable=True)
    return again


@torch.no_grad()
def clip(pipe: Any, out: Path, seed: int) -> torch.Tensor:
    """A clip as the training has them, decoded: the best that these latents can look."""
    from training.video_data import load_clips

    latents = load_clips(out).latents[seed, :FRAMES].float()
    return (pipe.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def make(model: Path, out: Path, part: int, parts: int, minutes: float) -> None:
    """Measure what is lacking, for at most `minutes`."""
    torch.set_flush_denormal(True)
    pipe = load_video_tiny(model)
    path = out / "report" / f"{part}-{parts}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["id"] for line in lines(out)}
    end = time.monotonic() + 60 * minutes
    for number, job in enumerate(plan()):
        name = json.dumps(job, sort_keys=True)
        if number % parts != part or name in done or time.monotonic() > end:
            continue
        started = time.process_time()
        frames = clip(pipe, out, job["seed"]) if job["kind"] == "clip" else film(pipe, job)
        seconds = time.process_time() - started
        figures = {key: round(value, 5) for key, value in measure(frames, FPS).items()}
        with path.open("a") as file:
            line = {"id": name, **job, "seconds": round(seconds, 2), **figures}
            file.write(json.dumps(line) + "\n")
        if job["seed"] < 4:
            strip = torch.cat(list(frames[:: max(1, len(frames) // 12)]), dim=2)
            pixels = strip.mul(255).byte().permute(1, 2, 0).numpy()
            words = "-".join(str(value) for value in job.values())
            Image.fromarray(pixels).save(path.parent / f"{words}.png")


def lines(out: Path) -> list[dict[str, Any]]:
    """All films measured so far."""
    paths = sorted((out / "report").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def table(found: list[dict[str, Any]]) -> str:
    """The figures as Markdown, with 95 % intervals of a bootstrap over films."""
    head = "| n | flicker | warping error | left out | speed, widths/s | change a frame |"
    rows = ["| films of 16 frames " + head]
    rows += ["|---|---|---|---|---|---|---|"]
    names = {
        "film": "video-tiny", "guided": "a still, moved and repainted",
        "clip": "moved pictures through the autoencoder",
        "painter": "the painter on the same noise", "fade": "a cross-fade of two stills",
        "independent": "independent frames",
    }  # fmt: skip
    for kind, name in names.items():
        some = [f for f in found if f["kind"] == kind and f.get("tempo", 0) == 0]
        some = [f for f in some if "share" not in f]
        rows.append(_row(name, some))
    rows += [
        "",
        "| share of common noise " + head,
    ]
    rows += ["|---|---|---|---|---|---|---|"]
    for share in sorted((*SHARES, SHARE)):
        some = [
            f for f in found
            if f["kind"] == "film" and f["tempo"] == 0 and f.get("share", SHARE) == share
        ]  # fmt: skip
        rows.append(_row(f"{share:g}", some))
    rows += ["", "| weight of tempo " + head]
    rows += ["|---|---|---|---|---|---|---|"]
    for level in LEVELS:
        some = [f for f in found if f["kind"] == "film" and f["tempo"] == level]
        rows.append(_row(f"{level:+g}", [f for f in some if "share" not in f]))
    for level in (-1.0, 0.0, 1.0):
        some = [f for f in found if f["kind"] == "guided" and f["tempo"] == level]
        rows.append(_row(f"{level:+g}, moved and repainted", some))
    for kind in ("film", "guided", "control"):
        rows.append(_ranks(kind, [f for f in found if f["kind"] == kind and "share" not in f]))
    for kind in ("long", "loop"):
        for frames in (24, 40, 96):
            some = [f for f in found if f["kind"] == kind and f["frames"] == frames]
            if some:
                rows.append(_row(f"{kind}, {frames} frames", some))
                gap = np.mean([f["loop_gap"] for f in some])
                rows.append(f"loop gap {gap:.2f} steps, {np.mean([f['seconds'] for f in some])} s")
    return "\n".join(row for row in rows if row is not None)


def _row(name: str, some: list[dict[str, Any]]) -> str | None:
    if not some:
        return None
    cells = [name, str(len(some))]
    for key, digits in FIGURES:
        values = np.array([f[key] for f in some])
        low, high = bootstrap(np.mean, values)
        cells.append(f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return "| " + " | ".join(cells) + " |"


def _ranks(kind: str, some: list[dict[str, Any]]) -> str | None:
    """Mean over prompts of the rank correlation of tempo with speed, and with change."""
    parts = []
    for key in ("speed", "difference"):
        found = []
        for seed in range(len(PROMPTS)):
            own = sorted((f["tempo"], f[key]) for f in some if f["seed"] == seed)
            if len(own) == (3 if kind == "guided" else len(LEVELS)):
                found.append(spearman(*np.array(own).T))
        if found:
            low, high = bootstrap(np.mean, np.array(found))
            parts.append(f"{key} {np.mean(found):.2f} [{low:.2f}, {high:.2f}], n {len(found)}")
    return f"Spearman with tempo, {kind}: " + "; ".join(parts) if parts else None


def main() -> None:
    """Read the command line; measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("assets/models/video-tiny"))
    parser.add_argument("--out", type=Path, default=Path(".work/video"), help="run folder")
    parser.add_argument("--part", default="0/1", help="do one part of several, such as 0/2")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop beginning films after")
    parser.add_argument("--print", action="store_true", help="print the tables and stop")
    arguments = parser.parse_args()
    if arguments.print:
        print(table(lines(arguments.out)))
        return
    part, parts = (int(number) for number in arguments.part.split("/"))
    make(arguments.model, arguments.out, part, parts, arguments.minutes)


if __name__ == "__main__":
    main()
