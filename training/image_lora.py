"""Recipe: one LoRA an emotion from labelled pictures; the weight is the annotated intensity.

    affect train lora --modality image --backbone DIR --data photos/ --out sliders/

The ordinary denoising loss, with every sample's adapters weighed by the intensities somebody gave
the picture: a picture of "sadness 0.7" is denoised with the adapter of sadness at .7, so that a
weight means what a label meant. Neutral and regularisation pictures have no weight to learn from;
they are shown to an adapter at random weight, which must answer as the plain model does (the
anchors of training.lora, prior preservation of DreamBooth). What is written are the files of
`adapters.lora.LoraBank`, one an emotion.

From PixelSmile (one adapter an emotion, its scale the annotated intensity) and diffusers'
train_text_to_image_lora; min-SNR weights (Hang et al., arXiv 2303.09556), times of flows from a
logit-normal (Esser et al., arXiv 2403.03206), averaged weights. Works on every family of
adapters/families.py. Latents and text states come from training.batches, folders from
training.folder; the model is called as its own pipeline calls it (training.replay).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn

from adapters.content import slider_prompts
from adapters.critic import load_critic
from adapters.emotion import CORE
from adapters.families import model_digest, require
from adapters.files import replacing
from adapters.slider_file import write_slider
from training.batches import Batches
from training.checkpoints import Checkpoints
from training.config import ImageLora, core_emotions
from training.denoising import Answers, DenoisingLoss
from training.fit import Together, fit
from training.folder import Dataset
from training.intervals import over_groups
from training.loop import Log
from training.sample_strip import Looks, Sampler
from training.student import student
from training.tracking import Tracker, checked_name

RECIPE = 2
"""Raised when the recipe changes what the same settings would produce."""
FACTS = "training.json"
_FREE = ("data", "out", "cache", "device", "steps", "rate", "save_every", "checkpointing", "keep",
         "sample_every", "sample_prompt", "sample_steps", "critic_every", "critic", "critic_seeds",
         "patience", "tracker", "backbone", "regularise")  # fmt: skip
# Settings that a resumed run may change: where things lie, how long, how fast, what is looked at.
# Model and pictures are known by their digests, so that no file tells a path of somebody's machine.
_LEVELS = 4  # noise levels at which every held-out picture is read
_MOST_HELD = 64  # held-out batches, so that a look takes seconds
_TRAIN, _HELD = "train", "held"


class LoraError(ValueError):
    """Pictures or settings that no adapter can be trained from; one line."""


@dataclass(slots=True)
class Plan:
    """What is known before the first step: made by `prepare`, told by `lines`, run by `train`."""

    pipe: Any
    settings: ImageLora
    emotions: tuple[str, ...]
    batches: Batches
    held: Batches | None
    generator: torch.Generator
    call: Mapping[str, Any]
    together: Together
    critic: Any

    def lines(self) -> list[str]:
        """Lines for people: pictures, buckets, steps, trainable parameters, memory."""
        count, world = len(self.batches.dataset), self.together.world
        a_step = self.settings.batch * self.settings.accumulate * world
        passes = self.settings.steps * a_step / count
        part = require(self.pipe, "lora").denoiser
        with _fresh(self, torch.Generator()) as (parameters, _):
            adapted = sum(p.numel() for p in parameters)
        fixed = sum(
            tensor.numel() * tensor.element_size()
            for one in self.pipe.components.values()
            if isinstance(one, nn.Module)
            for tensor in one.state_dict().values()
        )
        # float32 weights and gradients, two moments (a byte each in 8 bit), the average.
        each = 8 + (2 if self.settings.eight_bit else 8) + (4 if self.settings.ema else 0)
        return [
            f"{count} pictures, {len(self.held.dataset) if self.held else 0} held out; "
            f"adapters: {', '.join(self.emotions)}",
            *self.batches.describe(),
            f"{self.settings.steps} steps of {a_step} pictures: {passes:.1f} passes"
            + (f", on {world} processes" if world > 1 else ""),
            f"{adapted:,} trainable parameters in the {part}",
            f"memory: {fixed / 2**20:.0f} MB of weights, {adapted * each / 2**20:.0f} MB of "
            "adapters and optimiser, and the activations",
        ]


def prepare(
    pipe: Any,
    dataset: Dataset,
    settings: ImageLora,
    *,
    out: Path,
    ordinary: Dataset | None = None,
    call: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
) -> Plan:
    """Everything that can be refused is refused here; nothing is encoded or written.

    Args:
        pipe: a pipeline of a known family on the device to train on.
        dataset: pictures of `training.folder.read_folder`; its held-out split is only read.
        settings: the run's knobs.
        out: folder of the adapters.
        ordinary: regularisation pictures; what they are labelled as does not matter.
        call: further arguments of the pipeline call.
        options: further arguments of its `encode_prompt`, such as max_sequence_length.
        accelerator: of a run in several processes; one is made when none is given.

    Raises:
        TrackerError: a tracker that is not there.
        ValueError: a critic that is not there.
        LoraError: no picture shows an emotion that was asked for, 8 bit without bitsandbytes.
        DataError: no pictures, a resolution that does not fit the model.
        FamilyError: a pipeline that takes no LoRA.
    """
    require(pipe, "lora")
    checked_name(settings.tracker)
    if settings.eight_bit and not find_spec("bitsandbytes"):
        msg = "eight_bit: bitsandbytes is not installed; `pip install bitsandbytes`, or leave it"
        raise LoraError(msg)
    critic = load_critic(settings.critic) if settings.critic_every else None
    asked = core_emotions(settings.emotions)
    train = dataset.of(_TRAIN)
    shown = [name for k, name in enumerate(CORE) if len(train) and train.states[:, k].max() > 0]
    emotions = tuple(name for name in asked if name in shown)
    if not emotions or (len(asked) < len(CORE) and len(emotions) < len(asked)):
        if not shown:
            msg = (
                f"emotions: no picture of {dataset.root} has one; name folders after emotions "
                '(sadness/...), or write metadata.jsonl: {"file_name": ..., "emotion": "sadness"}'
            )
            raise LoraError(msg)
        lacking = ", ".join(name for name in asked if name not in shown)
        msg = f"emotions: no picture of {dataset.root} shows {lacking}; it has {', '.join(shown)}"
        raise LoraError(msg)
    generator = torch.Generator().manual_seed(settings.seed)
    samples = list(train.about(emotions).samples)  # without pictures that nobody labelled
    if ordinary is not None:
        nothing = np.zeros(len(CORE))
        nothing.setflags(write=False)
        samples += [replace(s, state=nothing, split=_TRAIN) for s in ordinary]
    given: dict[str, Any] = {
        "batch": settings.batch,
        "resolution": settings.resolution or _own_resolution(pipe),
        "cache": Path(settings.cache) if settings.cache else out / ".cache",
        "options": options,
    }
    together = Together(accelerator or Accelerator())
    batches = Batches(
        replace(dataset, samples=tuple(samples)), pipe, generator=generator,
        caption_dropout=settings.caption_dropout, rank=together.rank, world=together.world,
        **given,
    )  # fmt: skip
    columns = [CORE.index(name) for name in emotions]
    told = [s for s in dataset.of(_HELD) if s.state[columns].max() > 0]
    held = None
    if told:
        fixed = torch.Generator().manual_seed(settings.seed + 1)
        held = Batches(replace(dataset, samples=tuple(told)), pipe, generator=fixed, **given)
    return Plan(
        pipe, settings, emotions, batches, held, generator, dict(call or {}), together, critic
    )


def _own_resolution(pipe: Any) -> int:
    """Side in pixels of the pictures the model was made for."""
    row = require(pipe, "lora")
    size = getattr(pipe, row.denoiser).config.get("sample_size")
    size = getattr(pipe, "default_sample_size", None) or size
    if not isinstance(size, int):
        msg = f"resolution: {row.name} does not tell its own; give one in pixels, such as 512"
        raise LoraError(msg)
    return int(size * pipe.vae_scale_factor)


def _fresh(plan: Plan, generator: torch.Generator) -> Any:
    denoiser = getattr(plan.pipe, require(plan.pipe, "lora").denoiser)
    names = [_adapter(name) for name in plan.emotions]
    given = plan.settings
    return student(denoiser, names, rank=given.rank, convs=given.convs, generator=generator)


def _adapter(emotion: str) -> str:
    return f"{emotion}_in_training"


def train(
    plan: Plan,
    out: Path | str,
    *,
    base: str = "",
    resume: str | bool = False,
    tell: Callable[[str], None] = lambda line: None,
    loss_of: Callable[..., Any] = DenoisingLoss,
    start: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, Any]:
    """Train, write `out/<emotion>.safetensors` and return the figures.

    Args:
        plan: of `prepare`; its pipeline is restored afterwards. In a run of several processes each
            has its own, and the main one alone writes and tells.
        out: folder of the adapters; a run that was stopped leaves `.checkpoint` there. Besides:
            `log.jsonl` with a line a step, `samples/` and, with TensorBoard, `tensorboard/`.
        base: name of the backbone, for whoever reads the files.
        resume: the checkpoint to go on with, of the same pictures and settings: "latest" (or True)
            where there is one, the number of a step, or a folder.
        tell: takes lines about progress.
        loss_of: another loss with the arguments, `learn` and `held` of DenoisingLoss.
        start: matrices of an adapter to begin with, {emotion: {"<module>.lora_A.weight": ...}}.

    Raises:
        LoraError: a disk that is full, too little memory, a checkpoint of other settings.
        FitError, CheckpointError: a loss that is no number, a checkpoint that cannot be written or
            is not there; what was learned until then is kept.
        KeyboardInterrupt: after the step in progress has been kept.
    """
    try:
        return _train(
            plan, Path(out), public_name(base), "latest" if resume is True else resume or None,
            tell if plan.together.main else lambda line: None, loss_of, start or {},
        )  # fmt: skip
    except (OSError, SafetensorError) as error:  # the second of a disk that is full, too
        about, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        msg = f"out: {about or out} cannot be written ({reason or error}); {_kept(out)}"
        raise LoraError(" ".join(msg.split())) from error
    except torch.OutOfMemoryError as error:
        hint = "lower --batch or --resolution, or pass --checkpointing, --bf16 or --sample-every 0"
        msg = f"memory: the device has too little; {hint}, in another --out"
        raise LoraError(msg) from error


def public_name(base: str) -> str:
    """What others know a backbone by: a name of the table or a hub's, or that of a folder."""
    return Path(base).name if base and Path(base).exists() else base


def _kept(out: Path) -> str:
    """What a person has after a failure, and what to do."""
    whole = Checkpoints(out / ".checkpoint").steps()
    kept = "the last checkpoint is kept" if whole else "no checkpoint had been written"
    return f"{kept}: make room and pass --resume latest"


def _train(
    plan: Plan,
    out: Path,
    base: str,
    resume: str | None,
    tell: Callable[[str], None],
    loss_of: Callable[..., Any],
    begun: Mapping[str, Mapping[str, torch.Tensor]],
) -> dict[str, Any]:
    settings, pipe, together = plan.settings, plan.pipe, plan.together
    checkpoints = Checkpoints(out / ".checkpoint", settings.keep)
    facts = {
        "recipe": RECIPE,
        "model": model_digest(pipe),
        "pictures": plan.batches.digest,
        "adapters": list(plan.emotions),
        **{k: v for k, v in settings.to_json().items() if k not in _FREE},
    }
    _check_out(out, checkpoints, facts, resume)
    row = require(pipe, "lora")
    denoiser = getattr(pipe, row.denoiser)
    made = plan.batches.prepare(tell)
    if plan.held is not None and together.main:
        made += plan.held.prepare(tell)
    together.wait()
    tell(
        f"{made} latents and text states encoded" if made
        else "all latents and text states are kept from before"
    )  # fmt: skip
    sizes = {how.bucket for batches in _all(plan) for how in batches.fits}
    ask = Answers(pipe, sizes, plan.call, bf16=settings.bf16)
    columns = [CORE.index(name) for name in plan.emotions]
    tracker = Tracker(settings.tracker, out, facts)
    with _fresh(plan, plan.generator) as (parameters, weigh), _recomputing(denoiser, settings):
        for emotion, tensors in begun.items():
            set_peft_model_state_dict(denoiser, dict(tensors), adapter_name=_adapter(emotion))
        loss = loss_of(pipe, ask, weigh, columns, min_snr=settings.min_snr, hold=settings.hold)
        before, groups = held_losses(loss, plan.held)
        log = Log(out / "log.jsonl", settings.batch * settings.accumulate * together.world,
                  quiet=True)  # fmt: skip
        looks = _looks(plan, out, weigh, base, tracker, tell) if together.main else None
        try:
            step = fit(
                loss, plan.batches, parameters, make_optimizer(parameters, settings), settings,
                together=together, checkpoints=checkpoints, resume=resume, facts=facts, log=log,
                looks=looks, generator=plan.generator, tell=tell,
            )  # fmt: skip
        finally:
            tracker.finish()
        after, _ = held_losses(loss, plan.held)
        figures = {"steps": step, **held_figures(before, after, groups)}
        if together.main:
            for emotion in plan.emotions:
                tensors = get_peft_model_state_dict(denoiser, adapter_name=_adapter(emotion))
                halved = {key: value.half() for key, value in tensors.items()}
                about = {"emotion": emotion, "family": row.name, "backbone": base, **facts,
                         **figures}  # fmt: skip
                write_slider(out / f"{emotion}.safetensors", row.denoiser, halved, about)
    if together.main:
        with replacing(out / FACTS) as path:
            path.write_text(json.dumps({**facts, **figures, "backbone": base}, indent=1) + "\n")
        checkpoints.clear()
    together.wait()
    return {**figures, "adapters": list(plan.emotions), "path": str(out)}


def _looks(
    plan: Plan, out: Path, weigh: Any, base: str, tracker: Tracker, tell: Callable[[str], None]
) -> Looks:
    """What is painted and read on the way."""
    settings = plan.settings
    words = "image-tiny" if "image-tiny" in base else "rich"
    prompt = settings.sample_prompt or slider_prompts(plan.emotions[0], words)[0][2]
    side = settings.resolution or _own_resolution(plan.pipe)
    call = {"height": side, "width": side, **plan.call}
    sampler = Sampler(plan.pipe, plan.emotions, weigh, prompt, settings.sample_steps, call)
    return Looks(sampler, out, settings, tracker, tell, plan.critic)


def _all(plan: Plan) -> list[Batches]:
    return [plan.batches] if plan.held is None else [plan.batches, plan.held]


def _check_out(
    out: Path, checkpoints: Checkpoints, facts: Mapping[str, Any], resume: str | None
) -> None:
    if out.exists() and not out.is_dir():
        msg = f"out: {out} is a file; name a folder"
        raise LoraError(msg)
    stopped = checkpoints.steps()
    if stopped and not resume:
        msg = (
            f"out: {out} holds a run that was stopped; pass --resume latest to go on, or another "
            "--out"
        )
        raise LoraError(msg)
    if (out / FACTS).exists() and not stopped:
        msg = f"out: {out} holds finished adapters; name another folder"
        raise LoraError(msg)
    taken = [name for name in facts["adapters"] if (out / f"{name}.safetensors").exists()]
    if taken and not stopped:
        msg = f"out: {out} holds {taken[0]}.safetensors of another recipe; name another folder"
        raise LoraError(msg)
    path = checkpoints.find(resume) if resume else None
    if path is None:
        return
    found = checkpoints.meta(path).get("facts", {})
    if changed := sorted(key for key in facts if found.get(key) != facts[key]):
        msg = (
            f"out: the stopped run had other {', '.join(changed)}; give the same ones, or "
            "another --out"
        )
        raise LoraError(msg)


class _recomputing:
    """Gradient checkpointing of the denoiser while the context is open, where it is asked for."""

    def __init__(self, denoiser: Any, settings: ImageLora) -> None:
        self.denoiser = denoiser
        self.change = settings.checkpointing and not denoiser.is_gradient_checkpointing

    def __enter__(self) -> None:
        if self.change:
            self.denoiser.enable_gradient_checkpointing()

    def __exit__(self, *_: object) -> None:
        if self.change:
            self.denoiser.disable_gradient_checkpointing()


def held_losses(
    loss: DenoisingLoss, held: Batches | None
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Losses of held-out pictures (n, 2), plain and with their labelled weights, same noise.

    And the group of each: near duplicates, or what the set says.
    """
    if held is None:
        return np.zeros((0, 2)), []
    start = held.state_dict()
    generator = torch.Generator().manual_seed(held.seed)
    found, groups = [], []
    for _ in range(min(len(held), _MOST_HELD)):
        batch = next(held)
        groups += [held.dataset[index].group for index in batch["indices"]]
        sums = np.zeros((len(batch["indices"]), 2))
        for k in range(_LEVELS):
            noise = torch.randn(batch["latents"].shape, generator=generator)
            level = (k + torch.rand(len(noise), generator=generator)) / _LEVELS
            for column, on in enumerate((False, True)):
                sums[:, column] += loss.held(batch, level, noise, on) / _LEVELS
        found.append(sums)
    held.load_state_dict(start)
    return np.concatenate(found), groups


def held_figures(
    before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], groups: Sequence[str]
) -> dict[str, Any]:
    """Held-out loss of the plain model and with adapters; the gain, its interval over groups."""
    if not len(after):
        return {"held": 0}
    gain = before[:, 0] - after[:, 1]
    _, low, high = over_groups(np.mean, groups, gain)
    return {
        "held": len(gain),
        "held_out_before": float(before[:, 0].mean()),
        "held_out_after": float(after[:, 1].mean()),
        "gain": float(gain.mean()),
        "gain_interval": [low, high],
    }


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: ImageLora
) -> torch.optim.Optimizer:
    """AdamW without decay; in 8 bit where that is asked for."""
    given: dict[str, Any] = {"lr": settings.rate, "betas": (0.9, 0.99), "weight_decay": 0.0}
    if not settings.eight_bit:
        return torch.optim.AdamW(parameters, **given)
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **given)
    return optimizer
