"""Pictures: the knobs, the check of requests, and which of them are painted together.

`generate` is the picture branch of `pipelines.generate`. Requests with the same backbone, params
and photo are one batch with an emotion and a seed each, so a grid is one batch. Everything that a
person can get wrong is told here, before a model is loaded.

It deliberately does not know how a run goes (pipelines.session), how an emotion acts on a model
(pipelines.painter, adapters) or how files are written (pipelines.take). Importing it loads no
torch: the command line reads `ImageParams` to print its help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import Backbone, Step, resolve
from pipelines.media import load_image
from pipelines.params import ParamError, Params, check_intensities, checked_text, knob
from pipelines.request import Request
from pipelines.selection import check_kept, check_search
from pipelines.take import Take, prepare_out

if TYPE_CHECKING:
    from adapters.emotion import Emotion
    from pipelines.painter import Painter


@dataclass(frozen=True, slots=True)
class ImageParams(Params):
    """Public knobs of a picture; options, controls, manifest and README are made from these.

    A field's metadata: `help`, `min`, `max`, `step`, `advanced`.
    """

    width: int = knob(0, "width in pixels, 0: the model's own", min=0, max=4096, step=8)
    height: int = knob(0, "height in pixels, 0: the model's own", min=0, max=4096, step=8)
    steps: int = knob(20, "denoising steps", min=1, max=200, step=1)
    guidance_scale: float | None = knob(
        None, "how closely to follow the prompt; the model's own if not given",
        min=0.0, max=30.0, step=0.5, advanced=True,
    )  # fmt: skip
    negative_prompt: str = knob("", "what there should not be", advanced=True)
    style: float = knob(
        1.0, "strength of directions and sliders: how things look", min=0.0, max=2.0, step=0.05
    )
    content: float = knob(
        0.6, "strength of the content lever: what is shown", min=0.0, max=1.0, step=0.05
    )
    keep_content: bool = knob(False, "change only light, colour and composition, add nothing")
    directions: bool = knob(True, "steer the prompt embeddings", advanced=True)
    lora: bool = knob(True, "use the emotion sliders, where there are any", advanced=True)
    sliders: str = knob("", "folder of other sliders, as `affect train` writes them", advanced=True)
    critic_guidance: float = knob(
        0.0, "let the critic's gradient pull, in the middle steps",
        min=0.0, max=2.0, step=0.05, advanced=True,
    )  # fmt: skip
    noise_guidance: float = knob(
        0.0, "push the noise prediction along the emotion after the first steps",
        min=0.0, max=8.0, step=0.25, advanced=True,
    )  # fmt: skip
    keep: float = knob(
        0.6, "with a photo: how much of it stays, 0 nothing, 1 nearly all",
        min=0.0, max=1.0, step=0.05,
    )  # fmt: skip
    calibrated: bool = knob(True, "use the stored gain, so that .5 means half", advanced=True)
    watermark: bool = knob(False, "hide a mark in the pixels that `affect verify` finds again")
    over: bool = knob(False, "allow intensities up to 1.5", advanced=True)

    def to_json(self) -> dict[str, Any]:
        """As of all params; what came later and is not asked for is left out, as it was before."""
        said = Params.to_json(self)
        for later in ("watermark", "sliders"):  # or every finished picture would get another key
            if not said[later]:
                del said[later]
        return said


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make: the request with its params spelled out."""

    request: Request
    params: ImageParams
    emotion: Emotion
    row: Backbone
    init: Path | None

    @property
    def alike(self) -> tuple[Any, ...]:
        """What must be equal for two jobs to be painted in one batch."""
        return self.row.weights, self.params, self.init

    @property
    def but_for_seed(self) -> tuple[Any, ...]:
        """Equal for jobs that differ in their seed alone."""
        return *self.alike, self.request.prompt, self.emotion

    def seeded(self, seed: int) -> Job:
        """Return the same job with another seed."""
        return dataclasses.replace(self, request=self.request.changed(seed=seed))


def job_of(request: Request, defaults: Mapping[str, Any] | None) -> Job:
    """Check one request completely; nothing is loaded for it."""
    checked_text("prompt", request.prompt)
    row = resolve(request.backbone) if defaults is None else Backbone(
        request.backbone, "image", request.backbone, "", "", 0, defaults=defaults
    )  # fmt: skip
    if row.modality != "image":
        msg = f"backbone: {row.name} makes {row.modality}, not pictures; see `affect models list`"
        raise ParamError(msg)
    params = ImageParams.parse(request.params, row.defaults)
    emotion = request.emotion.at(0.0)
    check_intensities(emotion.intensity, over=params.over)
    if params.sliders:
        from adapters.lora import LoraBank

        LoraBank(params.sliders)  # A folder without any must be told before anything is painted.
    strange = set(request.inputs) - {"init"}
    if strange:
        msg = f"inputs: a picture takes init only, received {', '.join(sorted(strange))}"
        raise ParamError(msg)
    init = request.inputs.get("init")
    if init is not None:
        load_image(init)  # A broken photo must be told before anything is painted.
    request = request.changed(params=params.to_json())
    return Job(request, params, emotion, row, Path(init) if init is not None else None)


def generate(
    requests: Sequence[Request],
    *,
    out_dir: Path | str = "out",
    best_of: int | None = None,
    painter: Painter | None = None,
    critic: Any = "auto",
    reader: Any = "auto",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: Any = None,
    offline: bool | None = None,
    ext: str = "png",
    previews: bool = False,
) -> Iterator[Step | Take]:
    """Make pictures; yields `Step`s while they are painted and a `Take` for each finished file.

    Takes of one batch come in the order of their requests; several backbones, sizes or photos in
    one call are several batches, one after the other.

    Args:
        requests: what to make. Knobs that are not given take the backbone's or the general
            default and are spelled out in the take's request, as are the weights' digests.
        out_dir: folder of the takes and their ledger.
        best_of: N >= n; for n requests that differ in their seed alone, paint N candidates with
            seeds from the first one on, let the critic rank them, keep the best n. Each take
            carries its own seed, so making it again needs no search; `chosen` tells the rank.
        painter: use this loaded painter for all requests instead of loading their backbone.
        critic, reader: who guides and ranks, and who reports; "auto" loads the embedded pair,
            None does without.
        batch_size: pictures at once; halved, then offloaded, when memory runs out.
        device, dtype, offline: see `pipelines.load`.
        ext: "png", "jpg" or "webp".
        previews: let some steps carry a small picture of what is being painted; a tenth of the
            time at most, and not a bit of the takes is changed by it.

    Raises:
        ParamError, EmotionError, MediaError, BackboneError: one line each, before anything runs.
        MemoryError: when not even one picture at a time fits.
    """
    jobs = [job_of(request, painter.defaults if painter else None) for request in requests]
    check_kept(jobs, best_of)
    check_search(best_of, critic, batch_size)
    if critic is None and any(job.params.critic_guidance for job in jobs):
        msg = "critic_guidance: needs a critic to ask; leave out critic=None or set it to 0"
        raise ParamError(msg)
    if ext not in ("png", "jpg", "webp"):
        msg = f"ext: allowed png, jpg or webp, received {ext!r}"
        raise ParamError(msg)
    out = Path(out_dir)
    prepare_out(out)
    from pipelines.session import Session
    from pipelines.weights import check_embedded, check_here

    for row in {job.row.weights: job.row for job in jobs}.values() if painter is None else ():
        if row.embedded:
            check_embedded(row)
        check_here(row, offline=offline)
    options = {"device": device, "dtype": dtype, "offline": offline}
    session = Session(out, best_of, painter, critic, reader, batch_size, ext, options, previews)
    return session.takes(jobs)
