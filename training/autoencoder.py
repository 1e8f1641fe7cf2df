"""Recipe: the painter's autoencoder, 128 px pictures <-> 8 x 8 x 24 latents.

    python -m training.autoencoder --data DATA/images --out .work/image --minutes 25

An ordinary `AutoencoderKL` with five levels (factor 16) over a latent space that is already fixed:
the leading principal components of patches (`training.patches`). The encoder learns to read that
space (a regression), the decoder to write it better than the linear optimum: L1, L1 of gradients at
three scales, and, in the last part, a small patch discriminator (hinge loss, weighted as in VQGAN,
Esser et al. 2021, by the ratio of gradients at the last layer), because the mean of all pictures
that fit a latent is a blur and a painting is not. Latents get a little noise, so that the
denoiser's small errors are not amplified. First 64 px crops, then 128 px: a small crop costs a
quarter. Knows nothing about captions or emotions.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from training.data import PictureCache
from training.image import CHANNELS, prepare_pictures
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint
from training.patches import PatchBasis

BATCH = 16
NOISE = 0.15  # of latent standard deviation; about what 20 denoising steps leave
LOG_VARIANCE = -12.0  # the encoder is deterministic: its target is


def build() -> AutoencoderKL:
    """Return the untrained autoencoder (3.4 M parameters), residual branches silent at first."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(16, 32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    nn.init.zeros_(model.quant_conv.weight[CHANNELS:])
    nn.init.constant_(model.quant_conv.bias[CHANNELS:], LOG_VARIANCE)
    return model


def build_discriminator() -> nn.Sequential:
    """Return a patch discriminator, 0.2 M parameters: real or painted, per 16 px patch."""
    widths = (3, 32, 64, 96)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        conv = nn.Conv2d(before, after, 4, stride=2, padding=1)
        layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
    layers.append(nn.utils.parametrizations.spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))
    return nn.Sequential(*layers)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return L1 plus L1 of image gradients at full, half and quarter size."""
    total = (output - target).abs().mean()
    for _ in range(3):
        for axis in (2, 3):
            total = total + (output.diff(dim=axis) - target.diff(dim=axis)).abs().mean() / 3
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return total


def train(
    cache: PictureCache, basis: PatchBasis, out: Path, minutes: float, *, adversarial: float = 0.5
) -> None:
    """Train for `minutes` of wall clock (resuming from `out`), then save `out/vae`.

    adversarial: share of the time, at the end, in which the discriminator takes part.
    """
    torch.set_flush_denormal(True)  # tiny moments and gradients run an order slower on a CPU
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last)
    critic = build_discriminator()
    decoder = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    weights = [*model.encoder.parameters(), *model.quant_conv.parameters(), *decoder]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-5, betas=(0.9, 0.99))
    against = torch.optim.AdamW(critic.parameters(), lr=4e-4, betas=(0.5, 0.99))
    average = Average(model, 0.998)
    checkpoint = out / "autoencoder.checkpoint"
    state = ({"vae": model, "discriminator": critic}, {"vae": average}, optimizer, generator)
    first = step = load_checkpoint(checkpoint, *state)
    log = Log(out / "autoencoder.jsonl", BATCH)
    started = time.perf_counter()
    last = model.decoder.conv_out.weight
    while (used := (time.perf_counter() - started) / (60 * minutes)) < 1:
        size = 64 if used < 0.8 else 128
        count = BATCH if size == 64 else BATCH // 2
        rows = torch.randint(len(cache), (count,), generator=generator)
        pixels = cache.crops(rows.tolist(), size, generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        latents = basis.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator)
        amount = NOISE * torch.rand(count, 1, 1, 1, generator=generator)
        for group in optimizer.param_groups:  # progress by the clock: the run fits its slot
            group["lr"] = cosine(int(used * 10_000), 10_000, 1e-3, 100 if first == 0 else 1)
        with torch.autocast("cpu", torch.bfloat16):
            output = model.decode(latents + amount * noise).sample.float()
        written = reconstruction_loss(output, pixels)
        loss = written
        if step % 4 == 0:  # reading is the easier task, and the rarer use
            with torch.autocast("cpu", torch.bfloat16):
                moments = model.encode(pixels).latent_dist
            read = (moments.mean.float() - latents).square().mean()
            drift = (moments.logvar.float() - LOG_VARIANCE).square().mean()
            loss = loss + 0.5 * read + 1e-3 * drift
            log.add(read=read)
        if used > 1 - adversarial:
            with torch.autocast("cpu", torch.bfloat16):
                fooled = -critic(output).float().mean()
            if step % 8 == 0:
                by_writing = torch.autograd.grad(written, last, retain_graph=True)[0].norm()
                by_fooling = torch.autograd.grad(fooled, last, retain_graph=True)[0].norm()
                balance = float((by_writing / (by_fooling + 1e-6)).clamp(0, 20))
            elif "balance" not in locals():
                balance = 0.0
            loss = loss + 0.4 * balance * fooled
            log.add(fooled=fooled)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if used > 1 - adversarial - 0.02:  # the discriminator starts a little earlier
            against.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                real, painted = critic(pixels).float(), critic(output.detach()).float()
            hinge = F.relu(1 - real).mean() + F.relu(1 + painted).mean()
            hinge.backward()
            against.step()
            log.add(hinge=hinge)
        step += 1
        average.update(model, step)
        log.add(written=written, l1=(output - pixels).abs().mean())
        if step % 100 == 0:
            log.report(step)
        if step % 500 == 0:
            save_checkpoint(checkpoint, step, *state)
    save_checkpoint(checkpoint, step, *state)
    model.load_state_dict(average.state)
    model.save_pretrained(out / "vae")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with paintings/, ...")
    parser.add_argument("--out", type=Path, default=Path(".work/image"), help="run folder")
    parser.add_argument("--minutes", type=float, default=25.0, help="wall-clock minutes to train")
    parser.add_argument("--adversarial", type=float, default=0.5, help="share of time, at the end")
    arguments = parser.parse_args()
    _, cache, basis = prepare_pictures(arguments.data, arguments.out)
    train(cache, basis, arguments.out, arguments.minutes, adversarial=arguments.adversarial)


if __name__ == "__main__":
    main()
