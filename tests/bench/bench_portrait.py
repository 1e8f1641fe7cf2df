"""Milliseconds per frame, set-up and memory of portraits: `python -m tests.bench.bench_portrait`.

One drawn face at 512 px, every layer busy (speech, anger, blinks, a turning head). The best of
five runs, on 1 and on 2 threads, as processor time and as time on the wall: on a machine that does
other things only the first tells something. Set-up is processor time.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch

from adapters.assets import ASSETS
from adapters.face_motion import ARKIT, Motion
from pipelines.face_mesh import detect
from pipelines.media import load_image
from pipelines.portrait_rig import Rig

FRAMES, RUNS = 32, 5


def busy(frames: int) -> Motion:
    """Speech-like jaw, full anger, blinks and a turning head."""
    t = np.arange(frames) / 30
    curves = np.zeros((frames, len(ARKIT)), np.float32)
    for name, value in {"browDown": 1.0, "noseSneer": 0.3, "eyeSquint": 0.5}.items():
        for side in ("Left", "Right"):
            curves[:, ARKIT.index(name + side)] = value
    curves[:, ARKIT.index("jawOpen")] = 0.3 + 0.3 * np.sin(25 * t)
    curves[:, ARKIT.index("eyeBlinkLeft")] = np.arange(frames) % 10 == 3
    pose = np.stack([5 * np.sin(3 * t), 3 * np.cos(4 * t), 2 * np.sin(6 * t)], 1)
    return Motion(curves, pose.astype(np.float32))


def main() -> None:
    """Print the figures."""
    image = load_image(ASSETS / "samples" / "faces" / "closed.jpg")
    face = detect(image)[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for threads in (1, 2):
        torch.set_num_threads(threads)
        start = time.process_time()
        rig = Rig(image, face, device=device)
        ready = time.process_time() - start
        spent, waited = [], []
        for _ in range(RUNS):
            start, wall = time.process_time(), time.perf_counter()
            for _frame in rig.frames(busy(FRAMES)):
                pass
            spent.append((time.process_time() - start) / FRAMES * 1000)
            waited.append((time.perf_counter() - wall) / FRAMES * 1000)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(
            f"{device}, {threads} threads, {rig.square.size} px: set-up {ready:.2f} s, "
            f"{min(spent):.1f} ms of processor and {min(waited):.1f} ms a frame, {peak:.0f} MB\n"
        )


if __name__ == "__main__":
    main()
