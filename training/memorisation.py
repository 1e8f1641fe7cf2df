"""Check that the painter paints and does not remember: nearest training pictures of its pictures.

    python -m training.memorisation --data DATA/images --run .work/image --backbone image-tiny

Every painted picture is compared with every crop the painter was trained on, both as 16 x 16 px
thumbnails with mean and contrast taken out (a copy with another exposure is still a copy), by
correlation, best over mirror images. The yardstick is what training pictures have among
themselves: the nearest other picture of each. A painter that copies has nearest neighbours far
above that yardstick. A sheet shows the closest pairs, for numbers alone have fooled people.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from adapters.emotion import CORE, Emotion
from pipelines.image import ImageParams
from pipelines.painter import Painter, Sitting
from training.captions import SCENES
from training.image import CROPS, prepare, prepare_pictures

SIDE = 16


def thumbnails(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (n, 3, h, w) -> unit vectors (n, 768), mean and contrast taken out."""
    small = F.interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def nearest(asked: torch.Tensor, known: torch.Tensor, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Return best correlation (n,) and the index of the picture (rows of `known` / group)."""
    best = (asked @ known.T).max(dim=1)
    return best.values.numpy(), (best.indices // group).numpy()


def main() -> None:
    """Read the command line, print the figures, write memorisation.json and a sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path(".work/image"))
    parser.add_argument("--backbone", default="image-tiny")
    parser.add_argument("--count", type=int, default=180)
    parser.add_argument("--out", type=Path, default=Path(".work/evaluation"))
    arguments = parser.parse_args()
    _, latents = prepare(arguments.data, arguments.run)
    _, cache, basis = prepare_pictures(arguments.data, arguments.run)
    flat = latents.flatten(0, 2)
    known = torch.cat(
        [thumbnails(basis.decode(flat[i : i + 1024].float())) for i in range(0, len(flat), 1024)]
    )
    group = CROPS * 2
    # The yardstick: first crop of 400 training pictures against all crops of the others.
    chosen = torch.randperm(len(latents), generator=torch.Generator().manual_seed(1))[:400]
    similarity = known[chosen * group] @ known.T
    for row, index in enumerate(chosen.tolist()):
        similarity[row, index * group : (index + 1) * group] = -1
    yardstick = similarity.max(dim=1).values.numpy()
    painter = Painter.load(arguments.backbone, device="cpu")
    scenes = list(SCENES)
    sittings = [
        Sitting(scenes[i % len(scenes)], Emotion.of(CORE[i % 12], (i % 3) / 2), 500 + i)
        for i in range(arguments.count)
    ]
    params = ImageParams.parse({}, painter.defaults)
    pictures = []
    for start in range(0, len(sittings), 20):
        pictures += painter.paint(sittings[start : start + 20], params)
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
    values, which = nearest(thumbnails(pixels.float()), known, group)
    limit = float(np.quantile(yardstick, 0.99))
    report = {
        "painted": len(pictures),
        "training_pictures": len(latents),
        "nearest_correlation_of_painted": _spread(values),
        "nearest_correlation_among_training": _spread(yardstick),
        "painted_above_the_99_percent_point_of_training": int((values > limit).sum()),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "memorisation.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    sheet = Image.new("RGB", (8 * 130, 4 * 130))
    for place, index in enumerate(np.argsort(-values)[:16]):
        left, top = place % 4 * 260, place // 4 * 130
        sheet.paste(pictures[index], (left, top))
        other = cache.picture(int(which[index]))[:128, :128]
        sheet.paste(Image.fromarray(np.ascontiguousarray(other)), (left + 130, top))
    sheet.save(arguments.out / "memorisation.png")


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "median": round(float(np.median(values)), 3),
        "95%": round(float(np.quantile(values, 0.95)), 3),
        "max": round(float(values.max()), 3),
    }


if __name__ == "__main__":
    main()
