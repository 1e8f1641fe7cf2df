"""Steps per second and memory of `affect train lora` beside a plain diffusers loop. Run by hand:

    python tests/bench/bench_train.py [steps] [batch]

The other loop does what the published train_text_to_image_lora example does, written anew from its
settings: accelerate, AdamW, a LoRA on the attention projections of the UNet, and in every step the
picture's file is opened, cut, mirrored by chance and encoded by the autoencoder, its caption by the
text encoder. "Encoded before" is the same loop with latents and text states kept in memory, which
is not in the example. Same model, pictures, captions, rank, batch, resolution, learning rate and
number of steps, one thread, each in a process of its own, in turn. Memory is the high-water mark of
the process from the moment the model is loaded, less what it had then.

The contract: not slower and not larger than the example.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PICTURES, RANK, RATE, RESOLUTION = 32, 8, 1e-4, 128
SUBJECTS = ("a lake", "a forest", "a street", "a mountain", "a dog", "a house", "a flower", "a sea")
ROUNDS = 2
WARM = 5  # steps that are not counted


def main() -> None:
    """Print one line a way and round, then the medians."""
    if len(sys.argv) > 3:
        print(json.dumps(one(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]))))
        return
    steps, batch = (int(sys.argv[k]) if len(sys.argv) > k else d for k, d in ((1, 120), (2, 4)))
    ways = ("example", "encoded before", "ours")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "photos" / "anger")
        for _ in range(ROUNDS):
            for way in ways:
                command = [sys.executable, __file__, way, folder, str(steps), str(batch)]
                given = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
                done = subprocess.run(command, capture_output=True, text=True, env=given)
                if done.returncode:
                    sys.exit(done.stderr)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{way}: {found[way][-1]}", flush=True)
    for way, rows in found.items():
        said = ", ".join(f"{statistics.median(r[key] for r in rows):.2f} {key}" for key in rows[0])
        print(f"{way}: {said}")


def draw(folder: Path) -> None:
    """Coloured noise in pictures of 256 px, as JPEG, with captions beside them."""
    folder.mkdir(parents=True)
    for k in range(PICTURES):
        rng = np.random.default_rng(k)
        noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)
        image.save(folder / f"{k:02d}.jpg", quality=90)
        (folder / f"{k:02d}.txt").write_text(SUBJECTS[k % len(SUBJECTS)])


def one(way: str, folder: Path, steps: int, batch: int) -> dict[str, float]:
    """One run: steps per second when warm, per processor second, memory above the model, MB."""
    from pipelines import load

    torch.set_flush_denormal(True)
    pipe = load("image-tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    loaded = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = time.perf_counter()
    if way == "ours":
        times, busy = ours(pipe, folder, steps, batch)
    else:
        times, busy = plain(pipe, folder, steps, batch, kept=way == "encoded before")
    return {
        "steps/s": round((len(times) - 1) / (times[-1] - times[0]), 3),
        "steps/core s": round((len(times) - 1) / busy, 3),
        "s in all": round(time.perf_counter() - before, 2),
        "MB": round(memory("VmHWM") - loaded, 1),
    }


def memory(name: str) -> float:
    """A line of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def ours(pipe: Any, folder: Path, steps: int, batch: int) -> tuple[list[float], float]:
    """The recipe as the command runs it, latents and text states encoded by it too."""
    from training import fit
    from training.config import ImageLora
    from training.folder import read_folder
    from training.image_lora import prepare, train

    data, _ = read_folder(folder / "photos", "image", held=0)
    settings = ImageLora(steps=steps, batch=batch, rank=RANK, rate=RATE, resolution=RESOLUTION)
    out = Path(tempfile.mkdtemp(dir=folder))
    plan = prepare(pipe, data, settings, out=out)
    times: list[float] = []
    cores: list[float] = []
    report = fit.Log.report

    def noted(log: Any, step: int) -> dict[str, float]:
        if step >= WARM:
            times.append(time.perf_counter())
            cores.append(time.process_time())
        return report(log, step)

    fit.Log.report = noted  # type: ignore[method-assign]
    train(plan, out)
    return times, cores[-1] - cores[0]


def plain(
    pipe: Any, folder: Path, steps: int, batch: int, *, kept: bool
) -> tuple[list[float], float]:
    """The example's loop; kept: latents and text states come from memory."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig

    accelerator = Accelerator(cpu=True)
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    unet, vae, text = pipe.unet, pipe.vae, pipe.text_encoder
    for part in (unet, vae, text):
        part.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian",
                                target_modules=targets))  # fmt: skip
    weights = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2)
    schedule = get_scheduler("constant", optimizer, num_warmup_steps=500, num_training_steps=steps)
    files = sorted((folder / "photos").rglob("*.jpg"))
    loader = torch.utils.data.DataLoader(
        [(str(path), path.with_suffix(".txt").read_text()) for path in files],
        batch_size=batch, shuffle=True, num_workers=0, collate_fn=list,
    )  # fmt: skip
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    unet.train()
    rng = np.random.default_rng(0)

    def tokens(captions: list[str]) -> torch.Tensor:
        return pipe.tokenizer(captions, max_length=pipe.tokenizer.model_max_length, truncation=True,
                              padding="max_length", return_tensors="pt").input_ids  # fmt: skip

    def latents_of(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor

    store = {}
    if kept:
        with torch.no_grad():
            for path, caption in zip(files, [t.with_suffix(".txt").read_text() for t in files],
                                     strict=True):  # fmt: skip
                pixels = opened(path, rng)[None]
                store[str(path)] = latents_of(pixels)[0], text(tokens([caption]))[0][0]

    def examples() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for rows in loader:
                if kept:
                    pairs = [store[path] for path, _ in rows]
                    yield torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])
                    continue
                pixels = torch.stack([opened(Path(path), rng) for path, _ in rows])
                with torch.no_grad():
                    latents = latents_of(pixels)
                    states = text(tokens([c for _, c in rows]), return_dict=False)[0]
                yield latents, states

    times: list[float] = []
    cores: list[float] = []
    feed = examples()
    for step in range(1, steps + 1):
        with accelerator.accumulate(unet):
            latents, states = next(feed)
            noise = torch.randn_like(latents)
            t = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),))
            noisy = noise_scheduler.add_noise(latents, noise, t)
            kind = noise_scheduler.config.prediction_type
            target = noise_scheduler.get_velocity(latents, noise, t) if kind == "v_prediction" \
                else latents if kind == "sample" else noise  # fmt: skip
            answer = unet(noisy, t, states, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(answer.float(), target.float())
            accelerator.gather(loss.repeat(batch)).mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step >= WARM:
            times.append(time.perf_counter())
            cores.append(time.process_time())
    return times, cores[-1] - cores[0]


def opened(path: Path, rng: np.random.Generator) -> torch.Tensor:
    """A file as the example shows it: resized, cut in the middle, mirrored by chance, -1..1."""
    with Image.open(path) as image:
        shown = image.convert("RGB")
    scale = RESOLUTION / min(shown.size)
    wide, tall = (round(side * scale) for side in shown.size)
    shown = shown.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - RESOLUTION) // 2, (tall - RESOLUTION) // 2
    array = np.asarray(shown.crop((left, top, left + RESOLUTION, top + RESOLUTION)), np.float32)
    if rng.random() < 0.5:
        array = array[:, ::-1]
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    main()
