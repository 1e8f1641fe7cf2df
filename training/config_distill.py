"""What `affect train distill` is told: the knobs of training.distill, beside those of config.py.

Standard library only, `--help` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.params import Params, knob


@dataclass(frozen=True, slots=True)
class Distill(Params):
    """Of training.distill: best-of-N distillation, then DiffusionNFT, on one LoRA an emotion."""

    emotion: str = knob("sadness", "Core emotions by comma, or all.")
    out: str = knob("", "What is written goes here; out/distill-BACKBONE when not given.")
    backbone: str = knob("", "The model: a name, a folder or a hub id; the embedded one if none.")
    critic: str = knob("critic-image", "The critic that chooses: a name, or its folder.")
    prompts: str = knob("", "Text file, one prompt a line; this project's subjects if none.")
    intensity: float = knob(1.0, "Of the emotion that is painted and learned.", min=0.05, max=1)
    steered: bool = knob(
        True, "Paint the first candidates with what the backbone has: directions and sliders."
    )
    rounds: int = knob(2, "Rounds of painting N, keeping the best and learning it.", min=1, max=50)
    n: int = knob(4, "Candidates painted for each prompt.", min=2, max=64)
    steps: int = knob(60, "Optimiser steps a round.", min=1, max=1_000_000)
    nft_rounds: int = knob(2, "Rounds of DiffusionNFT after that; 0 is off.", min=0, max=1000)
    nft_steps: int = knob(30, "Optimiser steps in each of those.", min=1, max=1_000_000)
    beta: float = knob(0.5, "How far DiffusionNFT's two implicit models lie apart.", min=0.01,
                       max=1)  # fmt: skip
    decay: float = knob(0.3, "Of the sampling policy between its rounds.", min=0, max=0.999)
    rank: int = knob(4, "Size of what is learned.", min=1, max=64)
    rate: float = knob(1e-3, "Learning rate, at its peak.", min=1e-7, max=0.1)
    nft_rate: float = knob(3e-4, "The same for DiffusionNFT.", min=1e-7, max=0.1)
    batch: int = knob(4, "Samples in each step.", min=1, max=1024)
    hold: float = knob(0.1, "Weight of neutral pictures keeping their look; 0 is off.", min=0,
                       max=10)  # fmt: skip
    min_snr: float = knob(5.0, "Gamma of min-SNR weights (arXiv 2303.09556); 0 is off.", min=0,
                          max=1000)  # fmt: skip
    ema: float = knob(0.95, "Decay of the averaged weights that are written; 0 is off.", min=0,
                      max=0.99999)  # fmt: skip
    sample_steps: int = knob(20, "Steps that pictures are painted in.", min=1, max=200)
    resolution: int = knob(0, "Side of the pictures, pixels; 0: the model's own.", min=0, max=4096)
    paint_batch: int = knob(8, "Pictures painted at once.", min=1, max=256, advanced=True)
    judge: int = knob(2, "Unseen seeds for each unseen prompt that the result is judged by.",
                      min=1, max=64)  # fmt: skip
    checkpointing: bool = knob(False, "Recompute activations: half the memory, slower by a third.")
    bf16: bool = knob(False, "Run the denoiser in bfloat16; the adapter stays in float32.")
    device: str = knob("", "cpu, cuda, mps; the best there is when not given.", advanced=True)
    seed: int = knob(0, "Of prompts, pictures, batches and first weights.", min=0, max=2**31 - 1)
