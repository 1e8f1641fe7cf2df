"""Recipe: video-tiny, motion for the small painter, learned from our own pictures set in motion.

    python -m training.video_data --data DATA/images --out .work/video
    python -m training.video --data DATA/images --out .work/video --minutes 45
    python -m training.video --out .work/video --sample strips.png
    python -m training.video --out .work/video --export assets/models/video-tiny

The painter stays as it is; a MotionAdapter (AnimateDiff, arXiv 2307.04725: attention over time
alone, whose last layer starts at zero, so that the first step is the painter itself) and, jointly,
a LoRA on its motion modules whose weight is the arousal of each frame, -1..1, learn to denoise
clips of `training.video_data`. v-prediction with the painter's schedule and min-SNR weights. The
frames of a clip share most of their noise (`pipelines.video_model.frame_noise`), so that what the
painter makes of it is one scene, and what a noisy film moves like is seen through the noise. The
loss counts what differs between the frames of a clip ten times: it is quadratic, so the best answer
is the same one, and motion is a small part of the plain loss. Clips are cut to 16 to 48 frames at
the same cost a step, and their positions begin anywhere, so that no frame is special and films may
be longer than clips.

Using what comes out: `pipelines.video_model` (`load_video_tiny`, `initial_noise`, `film_length`).
Limited by the clock; resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    DDPMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNetMotionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from adapters.slider_file import write_slider
from pipelines.video_model import TEMPO, film_length, frame_noise
from training import captions
from training.image import SCHEDULE, TOKENS
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint
from training.video_data import load_clips, prepare

PAINTER = Path("assets/models/image-tiny")
ADAPTER = {
    "block_out_channels": (112, 176), "motion_layers_per_block": 1, "motion_num_attention_heads": 4,
    "motion_norm_num_groups": 16, "motion_max_seq_length": 256,
}  # fmt: skip
RANK = 16
LENGTHS = ((16, 2), (24, 2), (32, 1), (48, 1))  # frames, clips: 32 to 48 pictures a step
ODDS = (0.5, 0.2, 0.2, 0.1)
OWN = 0.2  # largest share of the noise that a frame has to itself
MOVING = 10.0


def build(painter: Path) -> tuple[AnimateDiffPipeline, nn.ModuleList]:
    """The pipeline with an untrained adapter and tempo LoRA, and the motion modules alone.

    Only what is trained has gradients.
    """
    still = StableDiffusionPipeline.from_pretrained(
        painter, dtype=torch.float32, use_safetensors=True, safety_checker=None
    )
    adapter = MotionAdapter(**ADAPTER)
    for module in adapter.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    pipe = AnimateDiffPipeline(
        vae=still.vae, text_encoder=still.text_encoder, tokenizer=still.tokenizer,
        unet=still.unet, motion_adapter=adapter, scheduler=still.scheduler,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    unet = pipe.unet
    targets = [
        name
        for name, module in unet.named_modules()
        if ".motion_modules." in name and ".transformer_blocks." in name
        if isinstance(module, nn.Linear)
    ]
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), adapter_name=TEMPO
    )
    for part in (pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".motion_modules." in name)
    motion = nn.ModuleList([m for m in unet.modules() if isinstance(m, AnimateDiffTransformer3D)])
    return pipe, motion


@contextmanager
def conditions(unet: UNetMotionModel, tempo: torch.Tensor, first: int = 0) -> Iterator[None]:
    """Weigh the tempo LoRA by frame, and begin positions at `first`.

    tempo: (B, F) weights, one row a sample of the batch.
    """

    def weigh(layer: LoraLayer, args: tuple[torch.Tensor, ...]) -> None:
        rows = tempo.to(args[0].dtype).repeat_interleave(len(args[0]) // len(tempo), dim=0)
        layer.scaling[TEMPO] = rows[:, :, None]

    def place(module: SinusoidalPositionalEmbedding, args: tuple[torch.Tensor, ...], _: object):
        return args[0] + module.pe[:, first : first + args[0].shape[1]]

    handles = []
    layers = [m for m in unet.modules() if isinstance(m, LoraLayer)]
    handles += [layer.register_forward_pre_hook(weigh) for layer in layers]
    if first:
        places = [m for m in unet.modules() if isinstance(m, SinusoidalPositionalEmbedding)]
        handles += [module.register_forward_hook(place) for module in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            layer.scaling[TEMPO] = 1.0


def _hasten(unet: UNetMotionModel) -> UNetMotionModel:
    """Make the frozen part cheap to train through on a CPU."""
    # The backward pass of fused attention takes half the step there, with heads this small.
    unet.set_attn_processor(AttnProcessor())
    for module in unet.modules():
        frozen = isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad
        if frozen:  # autocast would convert them anew in every step
            module.to(torch.bfloat16)
    return unet.train()


def film_loss(
    unet: UNetMotionModel,
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    states: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss and, for the log, the plain part of it that lies between frames.

    latents: (B, C, F, h, w). states: (B, tokens, width).
    """
    batch, _, frames = latents.shape[:3]
    share = 1 - OWN * torch.rand(batch, generator=generator).square()
    noise = frame_noise(tuple(latents.shape), share, generator)
    steps = (torch.arange(batch) + torch.rand(batch, generator=generator)) * 1000
    steps = (steps / batch).long()[torch.randperm(batch, generator=generator)]
    target = scheduler.get_velocity(latents, noise, steps)
    noisy = scheduler.add_noise(latents, noise, steps)
    output = unet(noisy, steps, states.repeat_interleave(frames, dim=0)).sample.float()
    error = output - target
    still = error.mean(dim=2, keepdim=True)
    moving = (error - still).square().mean(dim=(1, 2, 3, 4))
    cumulative = scheduler.alphas_cumprod[steps]
    ratio = cumulative / (1 - cumulative)
    # As the painter's own loss; the floor is higher, for motion is settled while noise is high.
    weight = ratio.clamp(max=5.0) / (ratio + 1) + 0.2
    total = (weight * (still.square().mean(dim=(1, 2, 3, 4)) + MOVING * moving)).mean()
    return total, moving.detach().mean()


def train(data: Path, out: Path, painter: Path, minutes: float, *, seed: int = 0) -> None:
    """Train for `minutes` of wall clock in all, resuming from `out/motion.checkpoint`."""
    torch.set_flush_denormal(True)
    prepare(data, out, 1)
    clips = load_clips(out)
    from training.image import prepare_pictures

    rows, _, _ = prepare_pictures(data, out)
    soft = np.stack([row.soft for row in rows])
    grades = captions.feeling_grades(soft)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    pipe, motion = build(painter)
    unet = _hasten(pipe.unet)
    lora = [p for name, p in motion.named_parameters() if ".lora_" in name]
    plain = [p for name, p in motion.named_parameters() if ".lora_" not in name]
    groups = [{"params": plain, "peak": 5e-4}, {"params": lora, "peak": 1e-3, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.01, betas=(0.9, 0.98))
    averages = {"motion": Average(motion, 0.998)}
    checkpoint = out / "motion.checkpoint"
    state = ({"motion": motion}, averages, optimizer, generator)
    first = step = load_checkpoint(checkpoint, *state)
    meta = checkpoint / "meta.json"
    used = float(json.loads(meta.read_text())["minutes"]) if first else 0.0
    scheduler = DDPMScheduler(**SCHEDULE)
    odds = torch.tensor(ODDS)
    log = Log(out / "motion.jsonl", 1)
    started = time.perf_counter() - 60 * used
    while (spent := (time.perf_counter() - started) / 60) < minutes:
        frames, batch = LENGTHS[int(torch.multinomial(odds, 1, generator=generator))]
        chosen = torch.randint(len(clips), (batch,), generator=generator)
        begin = int(torch.randint(clips.latents.shape[1] - frames + 1, (), generator=generator))
        clean = clips.latents[chosen, begin : begin + frames].float().transpose(1, 2)
        tempo = clips.tempo[chosen, begin : begin + frames]
        room = ADAPTER["motion_max_seq_length"] - frames
        place = int(torch.randint(room, (), generator=generator))
        told = [
            captions.tell(rows[i].caption, soft[i], grades[i], generator)
            for i in clips.rows[chosen].tolist()
        ]
        tokens = pipe.tokenizer(
            told, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        for group in optimizer.param_groups:  # progress by the clock: the run fits its slot
            group["lr"] = cosine(
                int(spent / minutes * 10_000), 10_000, group["peak"], 100 if first == 0 else 1
            )
        with torch.no_grad():
            states = pipe.text_encoder(tokens.input_ids).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16), conditions(unet, tempo, place):
            loss, moving = film_loss(unet, scheduler, clean, states, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*plain, *lora], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        averages["motion"].update(motion, step)
        log.add(loss=loss.item(), moving=moving, frames=frames * batch)
        if step % 25 == 0:
            log.report(step)
        if step % 150 == 0:
            save_checkpoint(checkpoint, step, *state, meta={"minutes": spent})
    save_checkpoint(checkpoint, step, *state, meta={"minutes": minutes})


def averaged(out: Path, painter: Path) -> AnimateDiffPipeline:
    """The pipeline with the averaged weights of the run's last checkpoint."""
    pipe, motion = build(painter)
    motion.load_state_dict(load_file(out / "motion.checkpoint" / "motion.average.safetensors"))
    pipe.unet.eval().requires_grad_(False)
    return pipe


SAMPLES = ("waves against a cliff", "sunflowers", "a wide landscape, very sad", "a forest, fearful")


@torch.no_grad()
def sample(
    out: Path,
    path: Path,
    painter: Path,
    *,
    frames: int = 16,
    share: float = 0.7,
    guidance_scale: float = 3.0,
    seed: int = 7,
) -> None:
    """Write strips of SAMPLES at arousal -1, 0 and 1, one noise a prompt, to look at."""
    pipe = averaged(out, painter)
    strips = []
    for prompt in SAMPLES:
        generator = torch.Generator().manual_seed(seed)
        noise = frame_noise((1, 24, frames, 8, 8), share, generator)
        for arousal in (-1.0, 0.0, 1.0):
            tempo = torch.full((2, frames), arousal)  # both halves of classifier-free guidance
            with conditions(pipe.unet, tempo), film_length(pipe, frames):
                film = pipe(
                    prompt, num_frames=frames, height=128, width=128, latents=noise,
                    num_inference_steps=20, guidance_scale=guidance_scale, output_type="pt",
                ).frames[0]  # fmt: skip
            change = (film[1:] - film[:-1]).abs().mean().item()
            print(json.dumps({"prompt": prompt, "arousal": arousal, "change": round(change, 4)}))
            strips.append(torch.cat(list(film[:: max(1, frames // 12)]), dim=2))
    sheet = torch.cat(strips, dim=1).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(sheet).save(path)


def export(out: Path, folder: Path, painter: Path) -> None:
    """Write the adapter as diffusers' own folder and, beside it, the tempo LoRA; float16."""
    pipe = averaged(out, painter)
    unet = pipe.unet
    tempo = {
        key: value.half()
        for key, value in get_peft_model_state_dict(unet, adapter_name=TEMPO).items()
    }
    steps = json.loads((out / "motion.checkpoint" / "meta.json").read_text())["step"]
    write_slider(
        folder / "tempo" / "pytorch_lora_weights.safetensors", "unet", tempo,
        {"weight": "arousal of each frame, -1..1", "rank": RANK, "steps": steps},
    )  # fmt: skip
    state = {
        name.replace(".base_layer.", "."): value
        for name, value in unet.state_dict().items()
        if ".motion_modules." in name and ".lora_" not in name
    }
    adapter = MotionAdapter(**ADAPTER)
    adapter.load_state_dict(state)
    adapter.half().save_pretrained(folder / "motion_adapter")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """Read the command line; train, or only draw strips, or only export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with paintings/, tf_flowers/, oasis/")
    parser.add_argument("--out", type=Path, default=Path(".work/video"), help="run folder")
    parser.add_argument("--painter", type=Path, default=PAINTER, help="folder of the painter")
    parser.add_argument("--minutes", type=float, default=45.0, help="minutes to train, in all")
    parser.add_argument("--sample", type=Path, help="write strips to look at here and stop")
    parser.add_argument("--export", type=Path, help="write the model's folder here and stop")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.out, arguments.export, arguments.painter)
    elif arguments.sample:
        sample(arguments.out, arguments.sample, arguments.painter)
    else:
        train(arguments.data, arguments.out, arguments.painter, arguments.minutes)


if __name__ == "__main__":
    main()
