"""Recipe: one bipolar LoRA slider per emotion, learned from prompts alone.

    python -m training.lora --backbone image-tiny --vocabulary image-tiny --emotion all

For a subject c0, the same subject told with the emotion c+ and with its opposite c-, the slider at
weight s learns to answer c0 with

    T(s) = renorm(f0 + s eta (f+ - f-)),        s ~ U[-1, 1] per sample

so that intensity is linear in the weight by construction and negative weights are trained too.
renorm gives every sample the RMS of f0: without it large eta burns colours. Prompts that a slider
must leave alone (anchors) keep their answer.

From Concept Sliders (arXiv 2311.12092) and the bipolar slider of ai-toolkit, minus their defects:
eta is an argument and cannot be lost in a configuration key; no unconditional halves that cancel;
the three teacher answers are one batch; text is encoded once; every subject of a batch is
different; the opposite pole is trained; the file loads in diffusers; the optimiser is saved too.
The teacher is the plain model, so its answers are taken once for a pool of noisy samples and the
loop runs the student alone. Works on every family of adapters/families.py (see replay.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch import nn

from adapters.content import anchors as own_anchors
from adapters.content import opposite, slider_prompts
from adapters.emotion import CORE
from adapters.families import model_digest, require
from adapters.slider_file import read_metadata, write_slider
from training.loop import (
    Log,
    clip_gradients,
    cosine,
    load_checkpoint,
    save_checkpoint,
    stopping,
)
from training.progress import counted
from training.replay import LatentsError, Painted, Replay, read_latents, sample_latents
from training.student import StudentError, noised, student

_ADAPTER = "slider_in_training"
RECIPE = 1
"""Raised when the recipe changes what the same settings would produce."""


class SliderError(ValueError):
    """A setting, prompt set or file that no slider can be trained from."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The knobs of one run; a checkpoint resumes only under the same ones.

    steps, batch: optimiser steps, and samples in each. rank: of every adapter, alpha equals it.
    eta: how far weight 1 goes along f+ - f-; 3-4 is strong, 1 is what the prompts say.
    lr: peak of AdamW; a few hundred steps need ten times Concept Sliders' 2e-4 for a thousand.
    pool: noisy samples the teacher answers. samples: clean pictures they are noised from, a half
    of the plain subjects, a quarter of each pole. anchor_weight: of the anchors' loss; the anchors
    are ordinary things, so 1 would hold back what the slider is for. convs: also adapt the
    convolutions of a UNet's resnets. seed: of everything drawn.
    """

    steps: int = 150
    batch: int = 16
    rank: int = 4
    eta: float = 3.5
    lr: float = 2e-3
    pool: int = 512
    samples: int = 64
    sample_steps: int = 20
    anchor_weight: float = 0.1
    convs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("steps", "batch", "rank", "pool", "samples", "sample_steps"):
            if getattr(self, name) < 1:
                msg = f"{name}: allowed 1 or more, received {getattr(self, name)}"
                raise SliderError(msg)
        if self.eta <= 0 or self.lr <= 0 or self.anchor_weight < 0:
            msg = (
                "eta, lr, anchor_weight: allowed above 0 (anchor_weight from 0), "
                f"received {self.eta}, {self.lr}, {self.anchor_weight}"
            )
            raise SliderError(msg)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What one slider is trained from: per subject a neutral, positive and negative prompt."""

    neutral: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    anchors: tuple[str, ...] = ()

    @classmethod
    def of(cls, emotion: str, vocabulary: str) -> Prompts:
        """This project's own prompts for a core emotion, in "rich" or "image-tiny" words."""
        rows = slider_prompts(emotion, vocabulary)
        positive, neutral, negative = (tuple(row[i] for row in rows) for i in (1, 2, 3))
        return cls(neutral, positive, negative, tuple(own_anchors(vocabulary)))

    @property
    def texts(self) -> list[str]:
        """All prompts in the order neutral, positive, negative, anchors."""
        return [*self.neutral, *self.positive, *self.negative, *self.anchors]


def renorm(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`x` with each sample's RMS made that of `like`; the mean is left, since it is brightness."""
    axes = tuple(range(1, x.ndim))
    power = like.pow(2).mean(axes, keepdim=True) / x.pow(2).mean(axes, keepdim=True).clamp_min(
        1e-12
    )
    return x * power.sqrt()


@dataclass(slots=True)
class Pool:
    """Noisy samples x (n, ...) at times t (n,), rows of their prompts, the teacher's answers."""

    x: torch.Tensor
    t: torch.Tensor
    index: torch.Tensor
    plain: torch.Tensor
    push: torch.Tensor

    def target(self, rows: torch.Tensor, s: torch.Tensor, eta: float) -> torch.Tensor:
        """T(s) for the given rows; for an anchor the push is zero and T is the plain answer."""
        s = s.view(-1, *(1,) * (self.x.ndim - 1))
        return renorm(self.plain[rows] + s * eta * self.push[rows], self.plain[rows])


@torch.no_grad()
def make_pool(
    pipe: Any,
    replay: Replay,
    clean: torch.Tensor,
    owner: torch.Tensor,
    count: int,
    poles: tuple[int, int] | None,
    generator: torch.Generator,
    batch: int,
) -> Pool:
    """Noise `clean` (m, ...) to `count` samples at times spread evenly, and ask the teacher.

    owner: (m,) prompt row of each clean sample. poles: what to add to a row to get its positive and
    its negative prompt; None for anchors.
    """
    chosen = torch.arange(count) % len(clean)
    noise = torch.randn((count, *clean.shape[1:]), generator=generator)
    # One draw in each of `count` equal slices: no time is missed, however small the pool.
    level = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    level = level[torch.randperm(count, generator=generator)]
    x, t = noised(pipe.scheduler, clean[chosen], noise, level)
    index = owner[chosen]
    offsets = (0,) if poles is None else (0, *poles)
    plain, push = [], []
    parts_of = torch.arange(count).split(max(1, batch // len(offsets)))
    for rows in counted(parts_of, "answers of the plain model", each=len(parts_of[0])):
        answers = replay(
            torch.cat([x[rows]] * len(offsets)),
            torch.cat([t[rows]] * len(offsets)),
            torch.cat([index[rows] + offset for offset in offsets]),
        ).cpu()
        parts = answers.chunk(len(offsets))
        plain.append(parts[0])
        push.append(torch.zeros_like(parts[0]) if poles is None else parts[1] - parts[2])
    return Pool(x, t, index, torch.cat(plain), torch.cat(push))


def train_slider(
    pipe: Any,
    emotion: str,
    *,
    out: Path | str,
    vocabulary: str = "rich",
    prompts: Prompts | None = None,
    latents: Path | str | None = None,
    call: Mapping[str, Any] | None = None,
    save_every: int = 50,
    restart: bool = False,
    painted: Painted | None = None,
    **knobs: Any,
) -> Path:
    """Train the slider of one emotion and write `out/<emotion>.safetensors`.

    Args:
        pipe: a pipeline of a known family on the device to train on; restored afterwards.
        emotion: one of CORE.
        out: folder of the sliders; `LoraBank(out)` reads it. A run that was stopped leaves
            `.<emotion>.checkpoint` there and is resumed; a finished one is not trained again.
        vocabulary: words of the built-in prompts, "rich" or "image-tiny".
        prompts: own prompts instead of the built-in ones.
        latents: safetensors with clean latents (n, ...) of pictures as the denoiser carries them;
            None lets the pipeline paint them, which fits the prompts better.
        call: further arguments of the pipeline call, such as height and width.
        save_every: optimiser steps between checkpoints.
        restart: forget a checkpoint or finished slider.
        painted: pass one dict to several calls for the same pipe, `call`, seed and sample_steps
            and they share the pictures they are trained on.
        knobs: fields of `Settings`: steps, rank, eta, seed, lr, batch, pool, ...

    Raises:
        SliderError: for an unknown emotion or impossible settings, for a finished slider of other
            settings in the way.
        LatentsError: for latents that cannot be read or do not fit.
        FamilyError: for a pipeline that takes no LoRA.
        LossError: a loss that is no number; the last checkpoint is kept.
        KeyboardInterrupt: after the step in progress has been kept.
    """
    if emotion not in CORE:
        msg = f"emotion: {emotion!r} is not a core emotion; use one of {', '.join(CORE)}"
        raise SliderError(msg)
    try:
        settings = Settings(**knobs)
    except TypeError as error:
        msg = f"settings: {error}; known are {', '.join(Settings.__dataclass_fields__)}"
        raise SliderError(msg) from error
    part = require(pipe, "lora").denoiser
    prompts = prompts or Prompts.of(emotion, vocabulary)
    if not len(prompts.neutral) == len(prompts.positive) == len(prompts.negative) > 0:
        msg = "prompts: neutral, positive and negative must be equally many, at least one"
        raise SliderError(msg)
    out, call = Path(out), dict(call or {})
    out.mkdir(parents=True, exist_ok=True)
    path, checkpoint = out / f"{emotion}.safetensors", out / f".{emotion}.checkpoint"
    facts = {
        "emotion": emotion,
        "opposite": opposite(emotion),
        "recipe": RECIPE,
        "model": model_digest(pipe),
        "subjects": len(prompts.neutral),
        "latents": Path(latents).name if latents else "painted",
        **asdict(settings),
    }
    if restart:
        shutil.rmtree(checkpoint, ignore_errors=True)
        path.unlink(missing_ok=True)
    if path.is_file():
        found = read_metadata(path)
        changed = sorted(key for key in facts if found.get(key) != facts[key])
        if not changed:
            return path
        msg = (
            f"out: {path} is finished and had other {', '.join(changed[:3])}; "
            "pass --restart to replace it, or another --out"
        )
        raise SliderError(msg)
    _check_resumable(checkpoint, facts)

    print(f"{emotion}: asking the plain model what its prompts mean", flush=True)
    began = time.perf_counter()
    student_pool, anchor_pool, replay = _pools(
        pipe, prompts, settings, latents, call, {} if painted is None else painted
    )
    print(f"{emotion}: teacher done in {time.perf_counter() - began:.1f} s", flush=True)
    denoiser = replay.denoiser
    generator = torch.Generator().manual_seed(settings.seed)
    fresh = student(
        denoiser, [_ADAPTER], rank=settings.rank, convs=settings.convs, generator=generator
    )
    with fresh as (parameters, set_weights), stopping() as stopped:
        log = Log(out / f"{emotion}.jsonl", settings.batch, total=settings.steps)
        state = _fit(
            replay, student_pool, anchor_pool, settings, parameters, set_weights, generator,
            checkpoint, facts, log, save_every, stopped,
        )  # fmt: skip
        tensors = get_peft_model_state_dict(denoiser, adapter_name=_ADAPTER)
        # Half precision is harmless here: these are products of two small matrices.
        halved = {key: value.half() for key, value in tensors.items()}
        write_slider(path, part, halved, {**facts, **state, "family": require(pipe, "lora").name})
    shutil.rmtree(checkpoint, ignore_errors=True)
    return path


def _check_resumable(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    meta = checkpoint / "meta.json"
    if meta.is_file():
        found = json.loads(meta.read_text()).get("facts", {})
        changed = sorted(key for key in facts if found.get(key) != facts[key])
        if changed:
            msg = (
                f"{checkpoint.name}: started with other {', '.join(changed)}; "
                "use the same settings, or pass --restart"
            )
            raise SliderError(msg)


def _pools(
    pipe: Any,
    prompts: Prompts,
    settings: Settings,
    latents: Path | str | None,
    call: Mapping[str, Any],
    painted: Painted,
) -> tuple[Pool, Pool | None, Replay]:
    """Ask the plain model everything the student will have to match."""
    subjects = len(prompts.neutral)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    with torch.no_grad():
        replay = Replay(pipe, prompts.texts, call)
    # Half plain, a quarter of each pole (the student will meet its own steered samples), both poles
    # of the same subjects: what is one slider's negative pole is another's positive one.
    poles = [(0, subjects, 0, 2 * subjects)[i % 4] for i in range(settings.samples)]
    owner = torch.tensor([(i // 4 * 2 + (i % 4 == 2)) % subjects for i in range(settings.samples)])
    wanted = [prompts.texts[int(o) + pole] for o, pole in zip(owner, poles, strict=True)]
    # One seed a subject and round: the two poles and the plain subject share their noise.
    seeds = [settings.seed * 100_003 + i // 4 * 2 + (i % 4 == 2) for i in range(settings.samples)]
    paint = {"batch": settings.batch, "steps": settings.sample_steps, "painted": painted}
    if latents is None:
        clean = sample_latents(pipe, wanted, seeds, call, **paint)
    else:
        clean = read_latents(Path(latents), replay.shape)
        some = torch.randperm(len(clean), generator=generator)[: settings.samples]
        clean, owner = clean[some], owner[: len(some)]
    ask = {"generator": generator, "batch": settings.batch}
    pool = make_pool(pipe, replay, clean, owner, settings.pool, (subjects, 2 * subjects), **ask)
    if not prompts.anchors or settings.anchor_weight == 0:
        return pool, None, replay
    kept = clean
    if latents is None:
        seeds = [settings.seed * 100_003 + i for i in range(len(prompts.anchors))]
        kept = sample_latents(pipe, prompts.anchors, seeds, call, **paint)
    owner = 3 * subjects + torch.arange(len(kept)) % len(prompts.anchors)
    return (
        pool,
        make_pool(pipe, replay, kept, owner, max(1, settings.pool // 4), None, **ask),
        replay,
    )


def _fit(
    replay: Replay,
    pool: Pool,
    anchors: Pool | None,
    settings: Settings,
    parameters: Sequence[nn.Parameter],
    set_weights: Callable[[torch.Tensor], None],
    generator: torch.Generator,
    checkpoint: Path,
    facts: Mapping[str, Any],
    log: Log,
    save_every: int,
    stopped: Callable[[], bool],
) -> dict[str, float]:
    """The loop over optimiser steps; returns figures for the file's metadata."""
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0)
    modules = {"slider": nn.ParameterList(parameters)}
    saved = (modules, {}, optimizer, generator)
    device = parameters[0].device
    # What doing nothing would cost, so that the loss reads as the share not yet learned.
    whole = torch.arange(len(pool.x))
    spread = torch.linspace(-1, 1, len(whole))[torch.randperm(len(whole), generator=generator)]
    asked = pool.target(whole, spread, settings.eta) - pool.plain
    unit = float(asked.pow(2).mean()) + 1e-12
    log.step = step = load_checkpoint(checkpoint, *saved)
    log.rewind(step)
    extra = max(1, settings.batch // 4) if anchors is not None else 0
    recent: list[float] = []
    started, first = time.perf_counter(), step
    while step < settings.steps:
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, settings.steps, settings.lr, max(1, settings.steps // 20))
        rows = torch.randint(len(pool.x), (settings.batch,), generator=generator)
        # Weights in equal slices of [-1, 1], shuffled: every step sees both poles.
        s = (torch.arange(settings.batch) + torch.rand(settings.batch, generator=generator)) * 2
        s = (s / settings.batch - 1)[torch.randperm(settings.batch, generator=generator)]
        x, t, index = pool.x[rows], pool.t[rows], pool.index[rows]
        target = pool.target(rows, s, settings.eta)
        if anchors is not None:
            held = torch.randint(len(anchors.x), (extra,), generator=generator)
            pushed = torch.where(torch.rand(extra, generator=generator) < 0.5, -1.0, 1.0)
            x, t = torch.cat([x, anchors.x[held]]), torch.cat([t, anchors.t[held]])
            index = torch.cat([index, anchors.index[held]])
            s = torch.cat([s, pushed])
            target = torch.cat([target, anchors.plain[held]])
        set_weights(s.to(device)[:, None])
        answer = replay(x.to(device), t.to(device), index)
        error = (answer - target.to(device)).pow(2).flatten(1).mean(1) / unit
        loss = error[: settings.batch].mean()
        held_loss = error[settings.batch :].mean() if extra else torch.zeros(())
        (loss + settings.anchor_weight * held_loss).backward()
        clip_gradients(parameters, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        recent = [*recent[-19:], loss.item()]
        log.add(loss=loss.item(), anchor_loss=held_loss.item(), seconds=time.perf_counter() - began)
        if step % 10 == 0 or step == settings.steps:
            a_step = (time.perf_counter() - started) / (step - first)
            log.report(step, (settings.steps - step) * a_step)
        if (step % save_every == 0 or stopped()) and step < settings.steps:
            save_checkpoint(checkpoint, step, *saved, meta={"facts": dict(facts)})
            if stopped():
                print(f"stopped at step {step}; the same command goes on", flush=True)
                raise KeyboardInterrupt
    explained = 1 - sum(recent) / len(recent) if recent else 0.0
    return {"explained": round(explained, 4)}


def main(argv: Sequence[str] | None = None) -> None:
    """Train sliders from the command line, one emotion after another."""
    parser = argparse.ArgumentParser(
        prog="python -m training.lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", default="image-tiny", help="name, folder or hub id")
    parser.add_argument("--emotion", default="all", help="core emotions by comma, or all")
    parser.add_argument("--out", type=Path, help="folder of sliders; default: BACKBONE/loras")
    parser.add_argument("--vocabulary", choices=("rich", "image-tiny"), help="words of the prompts")
    parser.add_argument("--latents", type=Path, help="safetensors of clean latents; default: paint")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the best there is")
    parser.add_argument("--height", type=int, help="of painted samples, pixels")
    parser.add_argument("--width", type=int)
    parser.add_argument("--restart", action="store_true", help="forget checkpoints and sliders")
    for name, field in Settings.__dataclass_fields__.items():
        flag = "--" + name.replace("_", "-")
        if field.type == "bool":
            parser.add_argument(flag, action="store_true")
        else:
            kind = int if field.type == "int" else float
            parser.add_argument(flag, type=kind, default=field.default, help=f"{field.default}")
    given = parser.parse_args(argv)

    from pipelines import load, resolve

    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    row = resolve(given.backbone)
    pipe = load(given.backbone, device=given.device)
    pipe.set_progress_bar_config(disable=True)
    if given.out is None and row.folder is None:
        parser.error("--out: needed for a backbone that is not a local folder")
    call = {k: getattr(given, k) for k in ("height", "width") if getattr(given, k) is not None}
    vocabulary = given.vocabulary or ("image-tiny" if "image-tiny" in row.name else "rich")
    knobs = {name: getattr(given, name) for name in Settings.__dataclass_fields__}
    painted: Painted = {}
    for emotion in CORE if given.emotion == "all" else given.emotion.split(","):
        try:
            path = train_slider(
                pipe, emotion.strip(), out=given.out or row.folder / "loras",
                vocabulary=vocabulary, latents=given.latents, call={**row.call, **call},
                restart=given.restart, painted=painted, **knobs,
            )  # fmt: skip
        except (SliderError, LatentsError, StudentError) as error:
            parser.error(str(error))
        print(path, flush=True)


if __name__ == "__main__":
    main()
