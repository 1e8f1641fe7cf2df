"""Clips for video-tiny: our own pictures, moved by pipelines/camera.py, as latents.

    python -m training.video_data --data DATA/images --out .work/video --clips 2048

Every clip is one picture under a camera move and a motion that suits what its caption names (water
swells, trees and flowers bend, skies drift, rooms flicker), at a tempo that follows an arousal
drawn for it: constant, or changing once on the way. Pictures are those the painter learned from
(`training.image`), so every licence allows weights trained on them to be published. Clips are
written in shards of 128, each from its own seed; what is there is not made again.

Rain, snow and lightning are left out: sixteen-pixel patches of 24 components hold no streaks, and
flashes would teach the model to flicker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from adapters.files import replacing
from pipelines import camera
from training.data import PictureCache
from training.image import SHORT_SIDE, prepare_pictures
from training.labels import Row
from training.patches import PatchBasis

FPS = 8
FRAMES = 48  # a clip is six seconds; training cuts its pieces from it
SIDE = 128
SHARD = 128
SOURCE = "made_of"  # key of a shard's metadata

_SCENES = (
    (("sea", "wave", "water", "lake", "pond", "river", "ship", "boat", "coast"), "waves", 0.85),
    (("flower", "rose", "tulip", "daisy", "sunflower", "dandelion", "garden"), "wind", 0.8),
    (("tree", "forest", "field", "meadow", "path", "autumn", "countryside"), "wind", 0.6),
    (("interior", "still life", "room", "candle", "arches"), "flicker", 0.6),
    (("sky", "cloud", "plain", "storm", "mist", "sunset", "evening", "hills"), "clouds", 0.6),
    (("mountain", "landscape", "city", "street", "town", "village"), "clouds", 0.5),
)  # fmt: skip
_CAMERAS = (
    ("still", 0.25), ("sway", 0.2), ("pan", 0.14), ("breathe", 0.12), ("push", 0.1),
    ("shake", 0.09), ("pull", 0.05), ("tilt", 0.05),
)  # fmt: skip


@dataclass(frozen=True)
class Clips:
    """latents: float16 (n, FRAMES, channels, grid, grid). tempo: float32 (n, FRAMES), -1..1.

    rows: (n,) index of the picture; kinds: what moves in each.
    """

    latents: torch.Tensor
    tempo: torch.Tensor
    rows: torch.Tensor
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def kind_of(caption: str, generator: torch.Generator) -> str:
    """A camera move and, mostly, a motion of the scene that its caption speaks of."""
    draw = torch.rand(3, generator=generator).tolist()
    names, shares = zip(*_CAMERAS, strict=True)
    place = sum(draw[0] * sum(shares) >= s for s in torch.tensor(shares).cumsum(0).tolist())
    kinds = [names[min(place, len(names) - 1)]]
    found = [(kind, chance) for words, kind, chance in _SCENES if any(w in caption for w in words)]
    scene = next((kind for kind, chance in found if draw[1] < chance), "")
    if not scene and draw[2] < 0.6:
        scene = "light"
    if kinds == ["still"] and not scene:
        scene = "light"
    return "+".join([*kinds, *([scene] if scene else [])])


def tempo_of(frames: int, generator: torch.Generator) -> torch.Tensor:
    """Arousal (frames,) of a clip, -1..1: constant in half of them, else one smooth change."""
    draw = torch.rand(5, generator=generator)
    # Wider than the range and clipped: the ends, which people ask for, are drawn often.
    low, high = (draw[:2] * 2.4 - 1.2).clamp(-1, 1)
    if draw[2] < 0.5:
        return low.expand(frames).clone()
    middle, width = frames * (0.2 + 0.6 * draw[3]), 2 + 0.4 * frames * draw[4]
    share = ((torch.arange(frames) - middle) / width + 0.5).clamp(0, 1)
    return low + (high - low) * share * share * (3 - 2 * share)


def moved(picture: torch.Tensor, kind: str, tempo: torch.Tensor, generator: torch.Generator):
    """The frames (F, 3, SIDE, SIDE), 0..1, of a picture (3, H, W) at FPS."""
    film = camera.move(
        picture, len(tempo) / FPS, FPS, kind=kind, tempo=tempo.numpy(), generator=generator
    )
    # The camera's least zoom takes back what the larger picture had more.
    frames = torch.stack(list(film))
    return functional.interpolate(
        frames, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    ).clamp(0, 1)


def source_of(rows: list[Row], basis: PatchBasis) -> str:
    """Sixteen hex digits of what clips are made of: pictures' names, captions, basis, sizes."""
    h = hashlib.sha256(json.dumps([FPS, FRAMES, SIDE, SHARD, SHORT_SIDE]).encode())
    for row in rows:
        h.update(json.dumps([row.set, row.path.name, row.caption]).encode())
    for tensor in (basis.mean, basis.components, basis.scale):
        h.update(tensor.detach().float().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def make_shard(
    number: int, rows: list[Row], cache: PictureCache, basis: PatchBasis, path: Path
) -> None:
    """Write one shard of clips and what it was made of."""
    generator = torch.Generator().manual_seed(1000 + number)
    chosen = torch.randint(len(rows), (SHARD,), generator=generator)
    grid = SIDE // 16
    channels = basis.components.shape[1]
    latents = torch.empty(SHARD, FRAMES, channels, grid, grid, dtype=torch.float16)
    tempo = torch.empty(SHARD, FRAMES)
    kinds = []
    for place, index in enumerate(chosen.tolist()):
        picture = (cache.crops([index], SHORT_SIDE, generator)[0] + 1) / 2
        kind = kind_of(rows[index].caption, generator)
        tempo[place] = tempo_of(FRAMES, generator)
        frames = moved(picture, kind, tempo[place], generator)
        latents[place] = basis.encode(frames * 2 - 1).half()
        kinds.append(kind)
    with replacing(path) as fresh:
        save_file(
            {"latents": latents, "tempo": tempo, "rows": chosen}, fresh,
            metadata={"kinds": json.dumps(kinds), SOURCE: source_of(rows, basis)},
        )  # fmt: skip


def prepare(data: Path, out: Path, clips: int) -> None:
    """Make the shards that are lacking for `clips` clips (FRAMES x 3 kB each).

    Raises:
        ValueError: a shard that is there was made of other pictures, captions or another basis.
    """
    rows, cache, basis = prepare_pictures(data, out)
    check_shards(out, source_of(rows, basis))
    for number in range(math.ceil(clips / SHARD)):
        path = out / "clips" / f"{number:03d}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_shard(number, rows, cache, basis, path)
            print(json.dumps({"clips": (number + 1) * SHARD}), flush=True)


def check_shards(out: Path, source: str) -> None:
    """Raise one line where a shard of a run was made of something else than `source`."""
    for path in sorted((out / "clips").glob("*.safetensors")):
        had = _metadata(path).get(SOURCE)
        if had != source:
            msg = (
                f"--out: {path} was made of {'other data' if had else 'data it does not name'}, "
                f"{had or 'nothing'} instead of {source}; give another folder or delete its clips"
            )
            raise ValueError(msg)


def load_clips(out: Path) -> Clips:
    """All shards that are there, in their order."""
    paths = sorted((out / "clips").glob("*.safetensors"))
    if not paths:
        msg = f"--out: no clips in {out}; run python -m training.video_data first"
        raise ValueError(msg)
    if len({_metadata(path).get(SOURCE) for path in paths}) > 1:
        msg = f"--out: clips in {out} are made of different data; delete them and make them again"
        raise ValueError(msg)
    parts = [load_file(path) for path in paths]
    kinds: list[str] = []
    for path in paths:
        kinds += json.loads(_metadata(path)["kinds"])
    names = ("latents", "tempo", "rows")
    tensors = (torch.cat([part[name] for part in parts]) for name in names)
    return Clips(*tensors, tuple(kinds))


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def sheet(out: Path, path: Path, count: int = 12) -> None:
    """Write strips of the first clips, decoded linearly, to look at: every fourth frame."""
    clips = load_clips(out)
    basis = PatchBasis.load(out / "basis.safetensors")
    strips = []
    for index in range(count):
        frames = basis.decode(clips.latents[index, ::4].float()).clamp(-1, 1)
        strips.append(torch.cat(list((frames + 1) / 2), dim=2))
        print(index, clips.kinds[index], [round(t, 1) for t in clips.tempo[index, ::8].tolist()])
    picture = torch.cat(strips, dim=1).mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(path)


def main() -> None:
    """Read the command line; make clips, or a sheet of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with paintings/, tf_flowers/, oasis/")
    parser.add_argument("--out", type=Path, default=Path(".work/video"), help="run folder")
    parser.add_argument("--clips", type=int, default=2048, help="how many clips")
    parser.add_argument("--sheet", type=Path, help="write strips of clips here and stop")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    if arguments.sheet:
        sheet(arguments.out, arguments.sheet)
    else:
        prepare(arguments.data, arguments.out, arguments.clips)


if __name__ == "__main__":
    main()
