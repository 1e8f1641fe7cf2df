"""Report: does the dial do what it says, as read by the reader that never guided anything.

    python -m training.evaluate --backbone image-tiny --out .work/evaluation

For every emotion, 5 levels x 8 seeds over several subjects, each read by the critic (A: it guides,
ranks and calibrates, so it may not report) and by the independent reader (B, which reports). Per
emotion: Spearman of asked against read intensity with a bootstrap interval over seeds (all levels
of a seed are resampled together, so that content does not pass for evidence), the same for the
picture's own five levels, the control (the reading of this emotion while its opposite was asked),
and the error of the intensity with and without the stored gain. Then seconds a picture, and a grid
in one batch against one by one.

Chance: Spearman of a dial that does nothing is 0, its interval shows how far 40 pictures
may be off. It knows nothing about how an emotion acts on a model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.calibration import Response, intensity_error
from adapters.content import opposite
from adapters.critic import load_critic
from adapters.emotion import CORE, Emotion
from adapters.metrics import spearman
from pipelines.calibrate import OTHER_SEEDS, own, sweep
from pipelines.image import ImageParams
from pipelines.painter import Painter, Sitting

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SUBJECTS = ("a mountain lake", "a city street", "a forest", "the sea")
SEEDS = 8


def rank_figures(read: np.ndarray, generator: np.random.Generator) -> dict[str, float]:
    """Spearman of level against reading (levels, seeds), its 95 % interval, and within seeds."""
    levels = np.repeat(LEVELS, read.shape[1]).reshape(read.shape)

    def pooled(columns: np.ndarray) -> float:
        return spearman(levels[:, columns].ravel(), read[:, columns].ravel())

    everyone = np.arange(read.shape[1])
    draws = [pooled(generator.choice(everyone, len(everyone))) for _ in range(1000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    within = [spearman(LEVELS, read[:, column]) for column in everyone]
    return {
        "spearman": pooled(everyone),
        "low": float(low),
        "high": float(high),
        "within_seed": float(np.mean(within)),
    }


def read_all(painter: Painter, emotions: tuple[str, ...], calibrated: bool) -> Any:
    """Sweep seeds no gain was fitted on; readings {emotion: {reader: (levels, seeds, 12)}}."""
    readers = {"critic": load_critic("critic-image"), "reader": load_critic("reader-image")}
    events = sweep(
        painter, emotions, LEVELS, SEEDS, readers, SUBJECTS, {"calibrated": calibrated},
        first_seed=OTHER_SEEDS, batch_size=20,
    )  # fmt: skip
    for event in events:
        last = event
    return last


def evaluate(painter: Painter, emotions: tuple[str, ...] = CORE) -> dict[str, Any]:
    """Run the whole report for a painter; plain data for JSON."""
    draws = np.random.default_rng(0)
    raw = read_all(painter, emotions, calibrated=False)
    dialled = read_all(painter, emotions, calibrated=True)
    report: dict[str, Any] = {"levels": LEVELS, "seeds": SEEDS, "emotions": {}}
    stored = painter.calibration.responses if painter.calibration else {}
    for emotion in emotions:
        row: dict[str, Any] = {}
        for name in ("critic", "reader"):
            before, after = own(raw, emotion, name), own(dialled, emotion, name)
            # The critic's scale is the stored one, of other seeds. The reader was never swept, so
            # its 0 and 1 are those of the uncalibrated pictures here.
            scale = stored.get(emotion) if name == "critic" else None
            scale = scale or Response.fit(LEVELS, before)
            row[name] = {
                "uncalibrated": rank_figures(before, draws),
                "calibrated": rank_figures(after, draws),
                "at_zero": float(before[0].mean()),
                "at_full": float(before[-1].mean()),
                "error_before": _number(intensity_error(LEVELS, before, scale)),
                "error_after": _number(intensity_error(LEVELS, after, scale)),
                "controllable": scale.controllable,
            }
            if opposite(emotion) in dialled:  # the control: asked for the opposite, read for this
                wrong = dialled[opposite(emotion)][name][:, :, CORE.index(emotion)]
                row[name]["opposite_asked"] = rank_figures(wrong, draws)
        report["emotions"][emotion] = row
        print(emotion, json.dumps({n: row[n]["calibrated"] for n in row}), flush=True)
    return report


def _number(value: float) -> float | None:
    """JSON knows no NaN: a reading that never rises has no intensity error."""
    return value if np.isfinite(value) else None


def timings(painter: Painter) -> dict[str, float]:
    """Seconds for one picture, and for a grid of 4 emotions x 5 levels, batched and one by one."""
    params = ImageParams.parse({}, painter.defaults)
    names = ("happiness", "fear", "sadness", "contentment")
    grid = [
        Sitting("a city street", Emotion.of(name, level), 7) for name in names for level in LEVELS
    ]
    painter.paint(grid[:1], params)  # the first call pays for lazy set-up
    began = time.perf_counter()
    alone = [painter.paint([sitting], params)[0] for sitting in grid]
    one_by_one = time.perf_counter() - began
    began = time.perf_counter()
    together = painter.paint(grid, params)
    batched = time.perf_counter() - began
    differences = [
        np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()
        for a, b in zip(alone, together, strict=True)
    ]
    return {
        "seconds_per_picture": one_by_one / len(grid),
        "grid_one_by_one_seconds": one_by_one,
        "grid_batched_seconds": batched,
        "largest_pixel_difference": int(max(differences)),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Read the command line, write `evaluation.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="image-tiny", help="name, folder or hub id")
    parser.add_argument("--emotions", default="all", help="comma-separated, or all")
    parser.add_argument("--out", type=Path, default=Path(".work/evaluation"), help="folder")
    arguments = parser.parse_args()
    painter = Painter.load(arguments.backbone, device="cpu")
    names = CORE if arguments.emotions == "all" else tuple(arguments.emotions.split(","))
    report = {"backbone": arguments.backbone, "timings": timings(painter)}
    report |= evaluate(painter, names)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    for name in ("critic", "reader"):
        rows = [row[name] for row in report["emotions"].values()]
        rising = [row for row in rows if row["error_before"] is not None]
        means = {
            "spearman": float(np.mean([row["calibrated"]["spearman"] for row in rows])),
            "error_before": float(np.mean([row["error_before"] for row in rising])),
            "error_after": float(np.mean([row["error_after"] for row in rising])),
        }
        print(name, json.dumps({**means, "without a rising reading": len(rows) - len(rising)}))


if __name__ == "__main__":
    main()
