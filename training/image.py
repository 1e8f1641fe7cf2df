"""Recipe: image-tiny, a small painter that understands feelings, trained from scratch.

    python -m training.image --data DATA/images --out .work/image --minutes 60

Text encoder and UNet are trained together on (latents, telling) pairs: v-prediction on a cosine
schedule, min-SNR weighting (Hang et al. 2023, gamma 5), one telling in ten empty for
classifier-free guidance, averaged weights. Latents are the patch components of
`training.patches`; captions are re-told at random every time (`training.captions`). The run is
limited by the clock and resumes where it stopped; `--sample` paints a sheet: look at it.

Deliberately small: text encoder, UNet and autoencoder together stay under 30 MB in half precision.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import captions, patches
from training.data import PictureCache, open_cache
from training.labels import Row, load_rows
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint

CHANNELS = 24  # latent channels: .075 mean absolute error of the linear reconstruction
GRID = 8  # latent cells a side: 128 px
SHORT_SIDE = 144  # 128 px crops keep an eighth of slack for random position
CROPS = 4  # cached crops a picture; wide paintings differ most from crop to crop
TOKENS = 40
WIDTH = 160  # text state
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,  # or the mean brightness leaks and no picture gets really dark
    "timestep_spacing": "trailing",
    "steps_offset": 1,  # without effect here; diffusers warns about 0
}
OASIS_COPIES = 3  # 373 of 8,291 pictures, the only ones people rated


def build_tokenizer(tellings: list[str], folder: Path) -> CLIPTokenizer:
    """Train a CLIP tokenizer (byte-pair, end-of-word marks) in which every known word is whole."""
    model = models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>")  # noqa: S106
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, show_progress=False, end_of_word_suffix="</w>",
        initial_alphabet=sorted(letters), special_tokens=[],
    )  # fmt: skip
    raw.train_from_iterator(tellings, trainer)
    data = json.loads(raw.to_str())["model"]
    pieces = sorted(letters) + [letter + "</w>" for letter in sorted(letters)]
    pieces += [piece for piece in data["vocab"] if piece not in set(pieces)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in data["merges"]],
        model_max_length=TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the untrained text encoder (1.2 M parameters)."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        projection_dim=WIDTH, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """Return the untrained denoiser (9 M parameters, two levels: 8 x 8 and 4 x 4 cells)."""
    return UNet2DConditionModel(
        sample_size=GRID, in_channels=CHANNELS, out_channels=CHANNELS,
        block_out_channels=(112, 176), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def prepare_pictures(data: Path, out: Path) -> tuple[list[Row], PictureCache, patches.PatchBasis]:
    """Return the painter's rows, their pictures and the patch basis, made at the first call."""
    rows = [row for row in load_rows(data) if row.painter_ok and row.licence_ok_to_ship]
    cache = open_cache(out / "pictures", [row.path for row in rows], SHORT_SIDE)
    basis_path = out / "basis.safetensors"
    if not basis_path.exists():
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(cache), generator=generator)[:4000].tolist()
        patches.fit(cache.crops(chosen, 128, generator), CHANNELS).save(basis_path)
    return rows, cache, patches.PatchBasis.load(basis_path)


def prepare(data: Path, out: Path) -> tuple[list[Row], torch.Tensor]:
    """Return the painter's rows and their latents (rows, crops, 2, channels, grid, grid)."""
    rows, cache, basis = prepare_pictures(data, out)
    latents_path = out / "latents.safetensors"
    if not latents_path.exists():
        generator = torch.Generator().manual_seed(0)
        latents = torch.empty(len(rows), CROPS, 2, CHANNELS, GRID, GRID, dtype=torch.float16)
        for start in range(0, len(rows), 256):
            index = list(range(start, min(start + 256, len(rows))))
            for crop in range(CROPS):
                pixels = cache.crops(index, 128, generator, flip=False)
                latents[index, crop, 0] = basis.encode(pixels).half()
                latents[index, crop, 1] = basis.encode(pixels.flip(3)).half()
        save_file({"latents": latents}, latents_path)
    return rows, load_file(latents_path)["latents"]


def velocity_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    states: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the min-SNR-5 weighted v-loss; latents (n, c, g, g), states (n, tokens, width)."""
    noise = torch.randn(latents.shape, generator=generator)
    # One draw in each of n equal slices of the schedule: lower variance than n free draws.
    steps = (torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)) * 1000
    steps = (steps / len(latents)).long()[torch.randperm(len(latents), generator=generator)]
    target = scheduler.get_velocity(latents, noise, steps)
    output = unet(scheduler.add_noise(latents, noise, steps), steps, states).sample.float()
    cumulative = scheduler.alphas_cumprod[steps]
    ratio = cumulative / (1 - cumulative)
    weight = ratio.clamp(max=5.0) / (ratio + 1) + 0.05  # the floor trains the very first step too
    return (weight * (output - target).square().mean((1, 2, 3))).mean()


def train(data: Path, out: Path, minutes: float, *, batch: int = 64, seed: int = 0) -> None:
    """Train for `minutes` of wall clock, resuming from `out/painter.checkpoint`."""
    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    rows, latents = prepare(data, out)
    soft = np.stack([row.soft for row in rows])
    grades = captions.feeling_grades(soft)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    folder = out / "tokenizer"
    if (folder / "tokenizer_config.json").exists():
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    else:
        known = captions.words([row.caption for row in rows])
        (out / "vocabulary.json").write_text(json.dumps({"words": known}))
        tokenizer = build_tokenizer([" ".join(known)] * 2, folder)
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    weights = [*unet.parameters(), *text_encoder.parameters()]
    peak = 6e-4
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    modules = {"unet": unet, "text_encoder": text_encoder}
    averages = {name: Average(module, 0.9995) for name, module in modules.items()}
    checkpoint = out / "painter.checkpoint"
    state = (modules, averages, optimizer, generator)
    first = step = load_checkpoint(checkpoint, *state)
    scheduler = DDPMScheduler(**SCHEDULE)
    copies = [OASIS_COPIES if row.set == "oasis" else 1 for row in rows]
    pool = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(copies))
    log = Log(out / "painter.jsonl", batch)
    started = time.perf_counter()
    while (used := (time.perf_counter() - started) / (60 * minutes)) < 1:
        chosen = pool[torch.randint(len(pool), (batch,), generator=generator)]
        crop = torch.randint(CROPS, (batch,), generator=generator)
        flip = torch.randint(2, (batch,), generator=generator)
        clean = latents[chosen, crop, flip].float()
        told = [
            captions.tell(rows[i].caption, soft[i], grades[i], generator) for i in chosen.tolist()
        ]
        tokens = tokenizer(
            told, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        for group in optimizer.param_groups:  # progress by the clock: the run fits its slot
            group["lr"] = cosine(int(used * 10_000), 10_000, peak, 100 if first == 0 else 1)
        with torch.autocast("cpu", torch.bfloat16):
            states = text_encoder(tokens.input_ids).last_hidden_state
            loss = velocity_loss(unet, scheduler, clean, states, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        for name, module in modules.items():
            averages[name].update(module, step)
        log.add(loss=loss.item())
        if step % 50 == 0:
            log.report(step)
        if step % 500 == 0:
            save_checkpoint(checkpoint, step, *state)
    save_checkpoint(checkpoint, step, *state)


SAMPLES = (
    "a stormy sea, very fearful", "a sunny garden, very happy", "a mountain lake", "a city street",
    "mountains, very sublime", "a misty landscape, very sad", "roses, very loving", "a still life",
    "a dark room", "a village, dark", "a village, very happy", "a forest, very sad",
    "a forest, very happy", "a red evening, very angry", "boats on the water", "sunflowers",
)  # fmt: skip


@torch.no_grad()
def sample(out: Path, path: Path, *, guidance_scale: float = 3.0, seed: int = 7) -> None:
    """Paint SAMPLES from the averaged weights, decoded linearly, into one sheet at `path`."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    checkpoint = out / "painter.checkpoint"
    text_encoder.load_state_dict(load_file(checkpoint / "text_encoder.average.safetensors"))
    unet.load_state_dict(load_file(checkpoint / "unet.average.safetensors"))
    text_encoder.eval(), unet.eval()
    told = [text for text in SAMPLES for _ in range(4)]
    tokens = tokenizer(
        told + [""] * len(told), padding="max_length", max_length=TOKENS, return_tensors="pt"
    )
    states = text_encoder(tokens.input_ids).last_hidden_state
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE)
    scheduler.set_timesteps(20)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(told), CHANNELS, GRID, GRID, generator=generator)
    for step in scheduler.timesteps:
        asked, free = unet(torch.cat([latents] * 2), step, states).sample.chunk(2)
        latents = scheduler.step(free + guidance_scale * (asked - free), step, latents).prev_sample
    pictures = patches.PatchBasis.load(out / "basis.safetensors").decode(latents).clamp(-1, 1)
    pictures = ((pictures + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (8 * 130, 8 * 130))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (index % 8 * 130, index // 8 * 130))
    sheet.save(path)


def export(out: Path, folder: Path) -> None:
    """Write an ordinary StableDiffusionPipeline folder in half precision, readable by everybody."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    checkpoint = out / "painter.checkpoint"
    text_encoder.load_state_dict(load_file(checkpoint / "text_encoder.average.safetensors"))
    unet.load_state_dict(load_file(checkpoint / "unet.average.safetensors"))
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae"), text_encoder=text_encoder, unet=unet,
        tokenizer=tokenizer, scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(torch.float16).save_pretrained(folder)
    shutil.copyfile(out / "vocabulary.json", folder / "vocabulary.json")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    """Read the command line; train, or only paint the sample sheet, or only export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with paintings/, tf_flowers/, oasis/")
    parser.add_argument("--out", type=Path, default=Path(".work/image"), help="run folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall-clock minutes to train")
    parser.add_argument("--sample", type=Path, help="write a sample sheet here and stop")
    parser.add_argument("--export", type=Path, help="write the pipeline folder here and stop")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.out, arguments.export)
    elif arguments.sample:
        sample(arguments.out, arguments.sample)
    else:
        train(arguments.data, arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
