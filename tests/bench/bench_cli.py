"""Seconds until the command line answers, the best of several fresh processes. Run by hand:

    python tests/bench/bench_cli.py [rounds]

The contract is under 0.4 s for `affect --help` and `affect show FILE`. Wall time means little on
a busy machine, so the processor's own time is printed beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.emotion import EmotionTimeline
from pipelines.take import Request, write_take

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print one line a command."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        request = Request("image", "a lake", EmotionTimeline.parse("sadness .8"), 7, "image-tiny")
        take = write_take(request, Image.new("RGB", (128, 128)), folder)
        commands = (
            ["--help"],
            ["make", "image", "--help"],
            ["models", "list"],
            ["show", str(take.path)],
        )
        for command in commands:
            times = [seconds(command) for _ in range(rounds)]
            wall, busy = min(wall for wall, _ in times), min(busy for _, busy in times)
            print(f"affect {' '.join(command[:3])}: {wall:.2f} s, processor {busy:.2f} s")


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one fresh process."""
    start, before = time.perf_counter(), os.times()
    line = [sys.executable, "-m", "studio.cli", *command]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    busy = after.children_user + after.children_system
    busy -= before.children_user + before.children_system
    return time.perf_counter() - start, busy


if __name__ == "__main__":
    main()
