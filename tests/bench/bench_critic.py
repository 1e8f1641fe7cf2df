"""Pictures per second of the image readers at 128 px. Run by hand:

    python tests/bench/bench_critic.py [threads]

"A core second" does not suffer from other work on the machine. The contract is at least 50 a
second for critic A on two cores.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.critic import load_critic
from adapters.emotion import Emotion


def main() -> None:
    """Print one line per reader and batch size, and the cost of a guidance gradient."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    x = torch.rand(32, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    for name in ("critic-image", "reader-image"):
        model = load_critic(name)
        for n in (1, 8, 32):
            model.read(x[:n])
            start, cpu, rounds = time.perf_counter(), time.process_time(), max(2, 64 // n)
            for _ in range(rounds):
                model.read(x[:n])
            wall, busy = time.perf_counter() - start, time.process_time() - cpu
            done = rounds * n
            print(f"{name}: batch {n}: {done / wall:.0f} a second, {done / busy:.0f} a core second")
    critic = load_critic("critic-image")
    target = torch.tensor(Emotion.of("fear", 0.8).soft_label(), dtype=torch.float32)
    leaf = x[:8].clone().requires_grad_()
    cpu = time.process_time()
    for _ in range(5):
        torch.autograd.grad((critic.log_probabilities(leaf) @ target).sum(), leaf)
    print(f"critic-image: gradient of 8: {40 / (time.process_time() - cpu):.0f} a core second")


if __name__ == "__main__":
    main()
