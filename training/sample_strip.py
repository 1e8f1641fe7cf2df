"""What a run has learned so far, to look at: one row an emotion, from strength -1 to 1.

The same prompt and the same noise in every cell, painted by the pipeline that is being trained with
the weights as they would be written. The scheduler, the random generators and the weights of the
adapters are put back, so a run is the same with and without. Also the guiding critic's view of
these pictures: how steeply its reading of an emotion rises with the strength, and when that has
stopped rising. Knows no loss and no loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from adapters.emotion import CORE
from adapters.families import require
from pipelines.drawing import COLOURS, INK, LINE, PAPER, SCALE, SOFT, fitted, scaled, write
from pipelines.ledger import write_atomic
from pipelines.media import encode_image
from training.tracking import Tracker

if TYPE_CHECKING:
    from training.config import ImageLora

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
CELL, GAP, HEAD, SIDE = 144, 10, 58, 112  # px of a picture, between them, above, for the names
RISE = 0.01
"""A slope that is steeper by less has not risen: a hundredth of a strong real example."""
MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

Weigh = Callable[[torch.Tensor], None]
Row = list[Image.Image]


@contextmanager
def undisturbed(pipe: Any) -> Iterator[None]:
    """The pipeline's scheduler, progress bar and torch's generators as they were, afterwards."""
    scheduler, bar = pipe.scheduler, dict(getattr(pipe, "_progress_bar_config", {}) or {})
    pipe.scheduler = copy.deepcopy(scheduler)
    pipe.set_progress_bar_config(disable=True)
    devices = [pipe.device] if pipe.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        pipe.scheduler = scheduler
        pipe.set_progress_bar_config(**bar)


@dataclass(slots=True)
class Sampler:
    """Paints one prompt at every strength of every emotion.

    weigh: sets the weights (1, k) of the adapters in training, in the order of `emotions`.
    call: further arguments of the pipeline call, such as height and width.
    """

    pipe: Any
    emotions: Sequence[str]
    weigh: Weigh
    prompt: str
    steps: int
    call: Mapping[str, Any]

    def rows(self, seed: int) -> list[Row]:
        """Pictures by emotion and strength; strength 0 is painted once."""
        with undisturbed(self.pipe):
            plain = self._paint(torch.zeros(1, len(self.emotions)), seed)
            rows = []
            for k in range(len(self.emotions)):
                one = torch.nn.functional.one_hot(torch.tensor([k]), len(self.emotions)).float()
                rows.append([self._paint(one * s, seed) if s else plain for s in STRENGTHS])
        return rows

    def _paint(self, weights: torch.Tensor, seed: int) -> Image.Image:
        self.weigh(weights)
        single = {"num_frames": 1} if require(self.pipe, "lora").frames else {}
        given = {**self.call, **single, "num_inference_steps": self.steps, "output_type": "pil"}
        generator = torch.Generator().manual_seed(seed)
        made = self.pipe(prompt=[self.prompt], generator=generator, **given)
        if hasattr(made, "images"):
            return made.images[0]
        return made.frames[0][0]


def strip(rows: Sequence[Row], emotions: Sequence[str], prompt: str, about: str) -> Image.Image:
    """Draw pictures in rows named by emotion under columns named by strength."""
    width = SIDE + len(STRENGTHS) * (CELL + GAP) + GAP
    height = HEAD + len(rows) * (CELL + GAP) + GAP
    paper = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(paper)
    write(draw, (GAP, 16), fitted(prompt, 13, width * 0.7), 13, INK)
    write(draw, (width - GAP, 16), about, 11, SOFT, "rm")
    for column, strength in enumerate(STRENGTHS):
        x = SIDE + column * (CELL + GAP) + CELL / 2
        write(draw, (x, 42), f"{strength:+g}" if strength else "0, the plain model", 12, INK, "mm")
    for row, (name, pictures) in enumerate(zip(emotions, rows, strict=True)):
        top = HEAD + row * (CELL + GAP)
        write(draw, (GAP, top + CELL / 2), name, 13, COLOURS.get(name, INK))
        for column, picture in enumerate(pictures):
            left = SIDE + column * (CELL + GAP)
            scale = CELL * SCALE / max(picture.size)
            size = tuple(max(1, round(side * scale)) for side in picture.size)
            shown = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            draw.rectangle(scaled((left, top, left + CELL, top + CELL)), fill="#ffffff",
                           outline=LINE)  # fmt: skip
            place = (left * SCALE + (CELL * SCALE - size[0]) // 2,
                     top * SCALE + (CELL * SCALE - size[1]) // 2)  # fmt: skip
            paper.paste(shown, place)
    return paper.reduce(SCALE)


def slopes(critic: Any, sheets: Sequence[Sequence[Row]], emotions: Sequence[str]) -> list[float]:
    """How much the critic's reading of each emotion rises from strength 0 to 1, least squares.

    sheets: by seed, of `Sampler.rows`. Readings are intensities, 0..1.
    """
    found = []
    for k, name in enumerate(emotions):
        pictures = [picture for rows in sheets for picture in rows[k]]
        read = [one.intensities[CORE.index(name)] for one in critic.read(pictures)]
        found.append(float(np.polyfit(STRENGTHS * len(sheets), read, 1)[0]))
    return found


def due(settings: ImageLora, step: int) -> bool:
    """Whether there is anything to be painted after this step."""
    return any(n and step % n == 0 for n in (settings.sample_every, settings.critic_every))


def read_at(settings: ImageLora, step: int) -> bool:
    """Whether the critic looks after this step, which may end the run."""
    return bool(settings.critic_every) and step % settings.critic_every == 0


@dataclass(slots=True)
class Looks:
    """Strips and the critic's looks at the steps they are due; on the main process alone.

    Early stopping is not on by itself: a strip costs five pictures an emotion, and the critics read
    pictures of the kinds they were trained on. Where the critic abstains on the plain model's
    pictures, its slope is noise, so it is told and ends nothing.

    settings: `sample_every`, `critic_every`, `critic_seeds`, `patience` and `seed` are read.
    critic: reads pictures; None where `critic_every` is 0.
    """

    sampler: Sampler
    out: Path
    settings: ImageLora
    tracker: Tracker
    tell: Callable[[str], None]
    critic: Any = None
    seen: list[float] = field(default_factory=list)
    """Mean slopes of the looks so far; a checkpoint keeps them."""

    def take(self, step: int) -> bool:
        """Paint, write and read what is due; returns whether the run has learned all it will."""
        seed, every = self.settings.seed, self.settings.sample_every
        first = self.sampler.rows(seed)
        if every and step % every == 0:
            self._write(first, step)
        if not read_at(self.settings, step):
            return False
        more = [self.sampler.rows(seed + k) for k in range(1, self.settings.critic_seeds)]
        return self._read([first, *more], step)

    def _write(self, rows: list[Row], step: int) -> None:
        names, prompt = self.sampler.emotions, self.sampler.prompt
        sheet = strip(rows, names, prompt, f"step {step}, seed {self.settings.seed}")
        path = self.out / "samples" / f"step-{step:05d}.png"
        said = f"{prompt}\nSteps: {self.sampler.steps}, Seed: {self.settings.seed}"
        records = {"parameters": said, "digital_source": MADE}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, encode_image(sheet, "png", records))
        except OSError as error:  # a picture to look at is no reason to end a run
            self.tell(f"samples: {path} cannot be written ({error.strerror}); the run goes on")
            return
        self.tell(f"step {step}: {path}")
        self.tracker.picture("samples", sheet, step)

    def _read(self, sheets: list[list[Row]], step: int) -> bool:
        plain = [rows[0][STRENGTHS.index(0.0)] for rows in sheets]
        if sum(one.abstains for one in self.critic.read(plain)) * 2 > len(plain):
            self.tell(f"step {step}: {self.critic.name} cannot read what this model paints; its "
                      "slope ends nothing")  # fmt: skip
            return False
        found = slopes(self.critic, sheets, self.sampler.emotions)
        mean = float(np.mean(found))
        self.seen.append(mean)
        self.tracker.log({f"slope/{name}": value for name, value
                          in zip(self.sampler.emotions, found, strict=True)}, step)  # fmt: skip
        self.tell(f"step {step}: {self.critic.name} reads {mean:+.3f} more from strength 0 to 1, "
                  f"guided; {self._since()} looks since the most")  # fmt: skip
        if self._since() < self.settings.patience:
            return False
        self.tell(f"step {step}: ended, the slope has not risen for {self.settings.patience} looks "
                  f"(most {max(self.seen):+.3f})")  # fmt: skip
        return True

    def _since(self) -> int:
        best, last = -float("inf"), 0
        for k, slope in enumerate(self.seen):
            if slope > best + RISE:
                best, last = slope, k
        return len(self.seen) - 1 - last
