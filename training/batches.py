"""Endless batches of latents, text states and intensities, in an order that can be restored.

    batches = Batches(dataset.of("train"), pipe, batch=4, resolution=512, generator=g, cache="...")
    for batch in batches: ...

Every batch is of one aspect bucket. Each pass over the set is a permutation drawn from the run's
seed and the number of the pass alone, so that `load_state_dict` goes on exactly where a run was
stopped, and several processes (`rank`, `world`) deal one order among themselves. Captions are
dropped by the same draw. What a batch needs is read from the cache, or made and kept.

Deliberately does not know the loss, nor how intensities become adapter weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adapters.families import require
from pipelines.media import load_image
from training.buckets import Fit, bucket_sizes, describe, fit
from training.cache import MASK, POOLED, TOKENS, Cache, States, size_step
from training.folder import DataError, Dataset
from training.folder_sheet import sheet
from training.progress import counted

Batch = dict[str, Any]


class Batches(Iterator[Batch]):
    """Batches of a data set of pictures for one pipeline.

    Each is a dict: latents (B, ...) as the denoising loop carries them; prompt_embeds (B, L, D), or
    a list of (L_b, D) where the family passes lists; pooled_prompt_embeds (B, P) and
    prompt_embeds_mask (B, L) where it has them; states (B, 12) float32 intensities; labels (B, 13)
    soft labels; captions, as they were encoded; indices in the data set; bucket (width, height).
    The last batch of a bucket may be smaller.

    Args:
        dataset: pictures; usually one split of them.
        pipe: a pipeline of a known family. After `prepare` it is not called again.
        batch: pictures a step, for this process.
        resolution: side of the square bucket in pixels, a multiple of `step`.
        generator: the run's; one number is drawn from it, here.
        cache: folder that keeps latents and text states.
        caption_dropout: share of captions that are replaced by the empty one.
        options: further arguments of `encode_prompt`, such as max_sequence_length.
        rank, world: of this process, and how many there are; all need the same generator.

    Raises:
        DataError: no pictures, a resolution off the model's steps, a share outside 0..1.
        FamilyError: a pipeline that cannot be trained.
    """

    def __init__(
        self,
        dataset: Dataset,
        pipe: Any,
        *,
        batch: int,
        resolution: int,
        generator: torch.Generator,
        cache: Path | str,
        caption_dropout: float = 0.0,
        options: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if dataset.modality != "image" or not len(dataset):
            msg = f"data: {len(dataset)} files for {dataset.modality}; pictures are needed here"
            raise DataError(msg)
        if batch < 1 or not 0 <= caption_dropout <= 1 or not 0 <= rank < world:
            msg = (
                "batch, caption_dropout, rank: allowed 1 or more, 0 to 1, 0 to world - 1; received "
                f"{batch}, {caption_dropout:g}, {rank} of {world}"
            )
            raise DataError(msg)
        self.dataset, self.batch = dataset, batch
        self.digest = dataset.digest  # reads every sample: once is enough
        self.caption_dropout, self.rank, self.world = caption_dropout, rank, world
        self.listed = require(pipe, "lora").lists
        self.step = size_step(pipe)
        self.sizes = bucket_sizes(resolution, self.step)
        self.fits: list[Fit] = [fit(s.width, s.height, self.sizes) for s in dataset]
        self.cache = Cache(cache, pipe, options)
        self.seed = int(torch.randint(2**31, (1,), generator=generator))
        self.passes, self.position = 0, rank
        self._plan = self._planned(0)

    def __len__(self) -> int:
        """Batches of one pass over the set, of all processes together."""
        return len(self._plan)

    def __next__(self) -> Batch:
        while self.position >= len(self._plan):
            self.position -= len(self._plan)
            self.passes += 1
            self._plan = self._planned(self.passes)
        indices, dropped = self._plan[self.position]
        self.position += self.world
        return self._batch(indices, dropped)

    def first(self) -> Batch:
        """The batch that would come next, without moving on."""
        kept = self.state_dict()
        try:
            return next(self)
        finally:
            self.load_state_dict(kept)

    def sheet(self) -> Image.Image:
        """The batch that would come next as a contact sheet, cut as the model is shown it."""
        indices, _ = self._plan[self.position % len(self._plan)]
        fits = [self.fits[k] for k in indices]
        return sheet([self.dataset[k] for k in indices], self.dataset.modality, fits)

    def prepare(self, tell: Callable[[str], None] = lambda line: None) -> int:
        """Fill the cache with everything that is missing; returns how much was made.

        With several processes each fills its share, and all have to be waited for.
        """
        before = self.cache.made
        captions = sorted({s.caption for s in self.dataset} | {""})[self.rank :: self.world]
        missing = [c for c in captions if not self.cache.states_path(c).is_file()]
        for start in range(0, len(missing), 8):
            self.cache.add_states(missing[start : start + 8])
        mine = range(self.rank, len(self.dataset), self.world)
        for index in counted(mine, "latents of pictures", tell):
            path = self.cache.latents_path(self.dataset[index].sha256, self.fits[index].bucket)
            if not path.is_file():
                self._latents(index)
        return self.cache.made - before

    def describe(self) -> list[str]:
        """Lines for people: buckets, batches in each, what is cut and enlarged."""
        return describe(self.fits, self.batch)

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands, as plain JSON values."""
        return {
            "seed": self.seed,
            "passes": self.passes,
            "position": self.position - self.rank,
            "data": self.digest,
            "batch": self.batch,
            "world": self.world,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            DataError: files, labels, batch or number of processes have changed since.
        """
        now = self.state_dict()
        for name in ("data", "batch", "world"):
            if state.get(name) != now[name]:
                msg = (
                    f"resume: {name} was {state.get(name)}, is {now[name]}; restore it, or start "
                    "a new run"
                )
                raise DataError(msg)
        self.seed, self.passes = int(state["seed"]), int(state["passes"])
        self.position = int(state["position"]) + self.rank
        self._plan = self._planned(self.passes)

    def _planned(self, number: int) -> list[tuple[list[int], list[bool]]]:
        """The batches of a pass: indices, and whose caption is dropped."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.dataset))
        dropped = rng.random(len(self.dataset)) < self.caption_dropout
        by_bucket: dict[tuple[int, int], list[int]] = {}
        for index in order.tolist():
            by_bucket.setdefault(self.fits[index].bucket, []).append(index)
        plan = [
            (rows[k : k + self.batch], [bool(dropped[i]) for i in rows[k : k + self.batch]])
            for _, rows in sorted(by_bucket.items())
            for k in range(0, len(rows), self.batch)
        ]
        return [plan[k] for k in rng.permutation(len(plan)).tolist()]

    def _batch(self, indices: list[int], dropped: list[bool]) -> Batch:
        samples = [self.dataset[index] for index in indices]
        captions = ["" if no else s.caption for s, no in zip(samples, dropped, strict=True)]
        states = [self.cache.states(c) or self.cache.add_states([c])[0] for c in captions]
        found: Batch = {
            "latents": torch.stack([self._latents(index) for index in indices]),
            "prompt_embeds": self._tokens(states),
            "states": torch.tensor(np.stack([s.state for s in samples]), dtype=torch.float32),
            "labels": torch.tensor(np.stack([s.label for s in samples]), dtype=torch.float32),
            "captions": captions,
            "indices": indices,
            "bucket": self.fits[indices[0]].bucket,
        }
        if POOLED in states[0]:
            found["pooled_prompt_embeds"] = torch.stack([s[POOLED] for s in states])
        if MASK in states[0]:
            found["prompt_embeds_mask"] = _padded([s[MASK] for s in states])
        return found

    def _tokens(self, states: list[States]) -> Tensor | list[Tensor]:
        rows = [s[TOKENS] for s in states]
        return rows if self.listed else _padded(rows)

    def _latents(self, index: int) -> Tensor:
        sample, how = self.dataset[index], self.fits[index]
        found = self.cache.latents(sample.sha256, how.bucket)
        if found is not None:
            return found
        pixels = fitted_pixels(load_image(sample.path), how)
        return self.cache.add_latents(sample.sha256, how.bucket, pixels)


def fitted_pixels(image: Image.Image, how: Fit) -> Tensor:
    """A picture in its bucket: (3, height, width) float32 in -1..1."""
    resized = image.resize(how.scaled, Image.Resampling.LANCZOS).crop(how.box)
    array = np.asarray(resized, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _padded(rows: list[Tensor]) -> Tensor:
    """Rows of different lengths, zeros after the shorter ones; a mask says so."""
    longest = max(len(row) for row in rows)
    return torch.stack(
        [torch.cat([row, row.new_zeros(longest - len(row), *row.shape[1:])]) for row in rows]
    )
