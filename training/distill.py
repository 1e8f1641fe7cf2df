"""Recipe: what a critic prefers, distilled into a LoRA, from clean samples and any sampler alone.

    affect train distill --backbone DIR --emotion sadness --rounds 2 --n 4 --out sliders/

First best-of-N distillation: N pictures are painted for each prompt, by what the backbone has, the
guiding critic keeps the best one, and a LoRA learns the kept ones for the plain prompts by the
ordinary denoising loss; then the adapter paints the next candidates, which compete with the kept
ones. After that DiffusionNFT (`training.negative_aware`): all candidates teach, good ones towards,
bad ones away. No gradient of the critic, no likelihood, no differentiable sampler is needed.

Whoever is optimised is fooled sooner or later, so every fourth prompt is kept aside: on these, at
seeds that no round has seen, the critic and an independent reader that chose nothing read plain and
distilled pictures, and content and diversity are measured beside (`training.distill_report`). A
critic that rises more than the reader is the alarm.

Every step is `training.image_lora.train`; every picture is `pipelines.painter.Painter.paint`. What
is painted and scored lies under out/rounds, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.content import slider_prompts
from adapters.critic import load_critic, soft_score
from adapters.emotion import CORE, Emotion
from adapters.families import require
from adapters.files import replacing
from adapters.slider_file import read_slider, write_slider
from pipelines.image import ImageParams
from pipelines.ledger import write_atomic
from pipelines.media import encode_image, load_image
from pipelines.painter import Painter, Sitting
from training import image_lora
from training.config import ImageLora, as_toml, core_emotions
from training.config_distill import Distill
from training.distill_report import Judged, judged, lines, sheet
from training.fit import FitError
from training.folder import Dataset, Sample
from training.loop import stopping
from training.negative_aware import NegativeAwareLoss, blended, wanted
from training.progress import counted
from training.recipes import SETTINGS

RECIPE = 1
"""Raised when the recipe changes what the same settings would produce."""
FACTS, ROUNDS = "training.json", "rounds"
FEWEST = 8
"""Prompts: every fourth is kept aside."""
_UNSEEN = 1_000_000  # seeds from here on are those of the judgement
_FREE = ("out", "device", "backbone", "paint_batch", "judge", "checkpointing", "bf16")


class DistillError(ValueError):
    """Prompts, settings or a folder that nothing can be distilled with; one line."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that was painted for a prompt, and what the guiding critic gives it."""

    path: str
    prompt: int
    seed: int
    score: float


@dataclass(slots=True)
class Run:
    """What all rounds of a run share."""

    painter: Painter
    settings: Distill
    critic: Any
    prompts: tuple[str, ...]
    out: Path
    tell: Callable[[str], None]

    @property
    def learned(self) -> list[int]:
        """Prompts that are painted and learned."""
        return [k for k in range(len(self.prompts)) if k % 4 != 3]

    @property
    def unseen(self) -> list[int]:
        """Prompts kept aside: every fourth."""
        return [k for k in range(len(self.prompts)) if k % 4 == 3]

    def params(self, slider: Path | None = None, *, steered: bool = False) -> ImageParams:
        """How pictures are painted: with all that the backbone has, or by one adapter alone."""
        given = self.settings
        own: dict[str, Any] = {"steps": given.sample_steps, "keep_content": True}
        own |= {"width": given.resolution, "height": given.resolution}
        if not steered:
            own |= {"directions": False, "content": 0.0, "calibrated": False}
            own |= {"sliders": str(slider.parent)} if slider is not None else {"lora": False}
        return ImageParams.parse(own, self.painter.defaults)


def prompts_of(path: str, vocabulary: str) -> tuple[str, ...]:
    """Prompts of a text file, one a line, or this project's neutral subjects.

    Raises:
        DistillError: a file that cannot be read, or holds too few.
    """
    if not path:
        rows = slider_prompts("sadness", "image-tiny" if vocabulary == "image-tiny" else "rich")
        return tuple(dict.fromkeys(row[2] for row in rows))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"prompts: {path} cannot be read as UTF-8 text; give one prompt a line"
        raise DistillError(msg) from error
    found = tuple(
        dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip())
    )
    if len(found) < FEWEST or max(map(len, found)) > 1000:
        msg = (
            f"prompts: {path} holds {len(found)} different ones, {FEWEST} or more of up to 1000 "
            "letters are needed; a quarter is kept aside"
        )
        raise DistillError(msg)
    return found


def distill(
    painter: Painter,
    settings: Distill,
    out: Path | str,
    *,
    base: str = "",
    resume: bool = False,
    reader: Any = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Distil a critic's choice into `out/<emotion>.safetensors`; returns the figures.

    Args:
        painter: a loaded backbone; left as it was.
        settings: the run's knobs.
        out: folder of the adapters; pictures and scores lie in its `rounds`.
        base: name of the backbone, for whoever reads the files.
        resume: go on with a run of the same settings.
        reader: reports, chooses nothing; None: the embedded reader of pictures.
        tell: takes lines about progress.

    Raises:
        DistillError: too few prompts, a folder that holds something else, other settings, a loss
            that is no number.
        LoraError: of training.image_lora.
        KeyboardInterrupt: after what was painted or learned has been kept.
    """
    out, base = Path(out), image_lora.public_name(base)
    emotions = core_emotions(settings.emotion, "emotion")
    critic = load_critic(settings.critic)
    reader = load_critic("reader-image") if reader is None else reader
    if critic.name == reader.name or critic.digest == reader.digest:
        msg = f"critic: {critic.name} is the one that reports; choose by another one"
        raise DistillError(msg)
    prompts = prompts_of(settings.prompts, painter.words)
    facts = {
        "recipe": f"distill {RECIPE}",
        "model": painter.digest,
        "critic": f"{critic.name} {critic.digest}",
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
        **{k: v for k, v in settings.to_json().items() if k not in (*_FREE, "prompts", "critic")},
    }
    _check_out(out, facts, resume=resume)
    if not (out / SETTINGS).exists():  # at once, so that a stopped run can be gone on with by it
        write_atomic(out / SETTINGS, as_toml(settings).encode())
    run = Run(painter, settings, critic, prompts, out, tell)
    figures = {}
    for emotion in emotions:
        figures[emotion] = _one(run, emotion, reader, base, facts)
    with replacing(out / FACTS) as path:
        path.write_text(
            json.dumps({**facts, "backbone": base, "emotions": figures}, indent=1) + "\n"
        )
    return {"path": str(out), "emotions": figures}


def check_resume(which: str | None) -> None:
    """Refuse what `--resume` cannot be told here: rounds are gone on with where they stopped.

    Raises:
        DistillError: anything but "latest".
    """
    if which not in (None, "latest"):
        msg = f'resume: allowed latest, received "{which[:40]}"; rounds have no other checkpoints'
        raise DistillError(msg)


def _check_out(out: Path, facts: Mapping[str, Any], *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        msg = f"out: {out} is a file; name a folder"
        raise DistillError(msg)
    if (out / FACTS).exists():
        msg = f"out: {out} holds finished adapters; name another folder"
        raise DistillError(msg)
    begun = out / ROUNDS / "facts.json"
    if not begun.is_file():
        named = core_emotions(facts["emotion"], "emotion")
        if taken := [name for name in named if (out / f"{name}.safetensors").exists()]:
            msg = f"out: {out} holds {taken[0]}.safetensors of another recipe; name another folder"
            raise DistillError(msg)
        write_json(begun, facts)
        return
    if not resume:
        msg = (
            f"out: {out} holds a run that was stopped; pass --resume latest to go on, or another "
            "--out"
        )
        raise DistillError(msg)
    found = json.loads(begun.read_text(encoding="utf-8"))
    if changed := sorted(key for key in facts if found.get(key) != facts[key]):
        msg = (
            f"out: the stopped run had other {', '.join(changed)}; give the same ones, or another "
            "--out"
        )
        raise DistillError(msg)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; folders on the way are made."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# One emotion -------------------------------------------------------------------------------------


def _one(
    run: Run, emotion: str, reader: Any, base: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All rounds of an emotion, its adapter and its judgement."""
    given, work = run.settings, run.out / ROUNDS / emotion
    plain = _painted(run, work / "plain", run.learned, 1, Emotion.of(emotion, 0.0), None, seed=0)
    kept: dict[int, Candidate] = {}
    slider: Path | None = None
    for number in range(1, given.rounds + 1):
        name = f"best-of-{given.n}, round {number} of {given.rounds}"
        folder = work / f"round-{number}"
        found = _painted(run, folder, run.learned, given.n, Emotion.of(emotion, given.intensity),
                         slider, seed=1000 * number)  # fmt: skip
        for one in found:
            if one.prompt not in kept or one.score > kept[one.prompt].score:
                kept[one.prompt] = one
        run.tell(_told(f"{emotion}, {name}", found, [one.score for one in kept.values()]))
        slider = _learned(run, folder, emotion, list(kept.values()), plain, slider)
    if slider is None:  # the knob's own range starts at 1
        msg = "rounds: none was run; choose 1 or more"
        raise DistillError(msg)
    best, policy = slider, slider
    for number in range(1, given.nft_rounds + 1):
        folder = work / f"nft-{number}"
        found = _painted(run, folder, run.learned, given.n, Emotion.of(emotion, given.intensity),
                         policy, seed=1000 * (given.rounds + number))  # fmt: skip
        run.tell(_told(f"{emotion}, DiffusionNFT, round {number} of {given.nft_rounds}", found))
        slider = _learned(run, folder, emotion, found, plain, policy, negative=True)
        policy = _policy(run, folder, emotion, policy, slider)
    result = _judged(run, work, emotion, reader, {"plain": None, "best of N": best,
                     **({"then NFT": slider} if slider != best else {})})  # fmt: skip
    part = require(run.painter.pipe, "lora")
    about = {"emotion": emotion, "family": part.name, "backbone": base, **facts}
    write_slider(run.out / f"{emotion}.safetensors", part.denoiser, _matrices(run, slider), about)
    return result


def _told(name: str, found: Sequence[Candidate], kept: Sequence[float] = ()) -> str:
    scores = np.array([one.score for one in found])
    text = f"{name}: {len(found)} pictures scored {scores.mean():.2f} (sd {scores.std():.2f})"
    return f"{text}, the {len(kept)} kept {np.mean(kept):.2f}" if kept else text


# Painting ----------------------------------------------------------------------------------------


def _painted(
    run: Run,
    folder: Path,
    prompts: Sequence[int],
    each: int,
    emotion: Emotion,
    slider: Path | None,
    *,
    seed: int,
    steered: bool | None = None,
) -> list[Candidate]:
    """`each` pictures of every prompt, painted and scored; what is there already is kept.

    slider: the adapter that paints alone; None: what the backbone has, where that is asked for.
    """
    index = folder / "scores.jsonl"
    found: dict[tuple[int, int], Candidate] = {}
    if index.is_file():
        for line in index.read_text(encoding="utf-8").splitlines():
            one = Candidate(**json.loads(line))
            if (folder / one.path).is_file():
                found[one.prompt, one.seed] = one
    seeds = [run.settings.seed + seed + k for k in range(each)]
    want = [(p, s) for p in prompts for s in seeds]
    todo = [pair for pair in want if pair not in found]
    own = run.settings.steered if steered is None else steered
    params = run.params(slider, steered=slider is None and own)
    target = emotion.soft_label()
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        size = run.settings.paint_batch
        with stopping() as stopped:
            starts = range(0, len(todo), size)
            for start in counted(starts, "pictures painted", run.tell, each=size):
                part = todo[start : start + size]
                shown = emotion if slider is not None or own else Emotion.of("sadness", 0.0)
                sittings = [Sitting(run.prompts[p], shown, s) for p, s in part]
                pictures = run.painter.paint(sittings, params)
                readings = run.critic.read(pictures)
                for (p, s), picture, reading in zip(part, pictures, readings, strict=True):
                    name = f"{p:04d}-{s}.png"
                    write_atomic(folder / name, encode_image(picture, "png", {}))
                    found[p, s] = Candidate(name, p, s, float(soft_score(reading, target)))
                _write_scores(index, [found[pair] for pair in want if pair in found])
                if stopped():
                    run.tell(f"stopped after {len(found)} pictures; pass --resume latest to go on")
                    raise KeyboardInterrupt
    return [replace(found[pair], path=str(folder / found[pair].path)) for pair in want]


def _write_scores(path: Path, rows: Sequence[Candidate]) -> None:
    with replacing(path) as fresh:
        text = "".join(json.dumps(asdict(one)) + "\n" for one in rows)
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def bare(painter: Painter) -> Iterator[Any]:
    """The painter's pipeline without its own sliders while open, so that new ones fit in."""
    own = painter.loras
    try:
        if own is not None:
            own.unload(painter.pipe)
        yield painter.pipe
    finally:
        if own is not None:
            own.load_into(painter.pipe)


# Learning ----------------------------------------------------------------------------------------


def _learned(
    run: Run,
    folder: Path,
    emotion: str,
    shown: Sequence[Candidate],
    plain: Sequence[Candidate],
    start: Path | None,
    *,
    negative: bool = False,
) -> Path:
    """Train the round's adapter, or find it where it has been trained already."""
    given, out = run.settings, folder / "slider"
    slider = out / f"{emotion}.safetensors"
    if (out / image_lora.FACTS).is_file() and slider.is_file():
        return slider
    state = np.zeros(len(CORE))
    state[CORE.index(emotion)] = given.intensity
    samples = [_sample(run, one, state) for one in shown]
    samples += [_sample(run, one, np.zeros(len(CORE))) for one in plain if given.hold > 0]
    dataset = Dataset(run.out, "image", "painted", tuple(samples))
    size = run.painter.size(run.params())[0]
    settings = ImageLora(
        emotions=emotion, intensity=given.intensity, hold=given.hold,
        steps=given.nft_steps if negative else given.steps, rank=given.rank,
        rate=given.nft_rate if negative else given.rate, batch=given.batch, resolution=size,
        min_snr=given.min_snr, ema=given.ema, checkpointing=given.checkpointing, bf16=given.bf16,
        cache=str(run.out / ROUNDS / "cache"), seed=given.seed, tracker="none", sample_every=0,
        critic_every=0,
    )  # fmt: skip
    call = {k: v for k, v in run.painter.call.items() if k != "guidance_rescale"}
    begin = None if start is None else {emotion: _matrices(run, start)}
    with bare(run.painter) as pipe:
        plan = image_lora.prepare(
            pipe, dataset, settings, out=out, call=call, options=_options(call)
        )
        loss_of: Callable[..., Any] = image_lora.DenoisingLoss
        if negative:
            rewards = _rewards(shown, plan.batches.dataset)
            loss_of = functools.partial(NegativeAwareLoss, rewards=rewards, beta=given.beta)
        try:
            image_lora.train(
                plan, out, resume=(out / ".checkpoint").exists(), tell=run.tell, loss_of=loss_of,
                start=begin,
            )  # fmt: skip
        except FitError as error:  # its hint is to go on with another rate, which is refused here
            rate = "--nft-rate" if negative else "--rate"
            msg = f"loss: no number in {folder.name}; begin in another --out with a lower {rate}"
            raise DistillError(msg) from error
    return slider


def _rewards(shown: Sequence[Candidate], dataset: Dataset) -> Any:
    """Rewards by place in a data set; those of neutral pictures are not looked at."""
    of = wanted([one.score for one in shown], [one.prompt for one in shown])
    by_name = {one.path: float(r) for one, r in zip(shown, of, strict=True)}
    return np.array([by_name.get(sample.name, 0.5) for sample in dataset])


def _options(call: Mapping[str, Any]) -> dict[str, Any] | None:
    length = call.get("max_sequence_length")
    return {"max_sequence_length": length} if length else None


def _sample(run: Run, one: Candidate, state: Any) -> Sample:
    path = Path(one.path)
    picture = load_image(path)
    state = np.array(state, dtype=np.float64)
    state.setflags(write=False)
    prompt = run.prompts[one.prompt]
    return Sample(
        path=path, name=one.path, caption=prompt, state=state, vad=None, labelled=True, graded=True,
        group=prompt, split="train", sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        width=picture.width, height=picture.height,
    )  # fmt: skip


def _matrices(run: Run, slider: Path) -> dict[str, torch.Tensor]:
    """The matrices of a slider by module name, without the denoiser's own."""
    part = require(run.painter.pipe, "lora").denoiser
    found = read_slider(slider, part, getattr(run.painter.pipe, part))
    return {key.removeprefix(part + "."): value for key, value in found.items()}


def _policy(run: Run, folder: Path, emotion: str, old: Path, new: Path) -> Path:
    """The adapter that paints the next round."""
    path = folder / "policy" / f"{emotion}.safetensors"
    if not path.is_file():
        part = require(run.painter.pipe, "lora").denoiser
        mixed = blended(_matrices(run, old), _matrices(run, new), run.settings.decay)
        write_slider(path, part, {k: v.half() for k, v in mixed.items()}, {"emotion": emotion})
    return path


# Judging -----------------------------------------------------------------------------------------


def _judged(
    run: Run, work: Path, emotion: str, reader: Any, stages: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Plain and distilled pictures of unseen prompts and seeds, as both readers see them."""
    asked = Emotion.of(emotion, run.settings.intensity)
    seen: dict[str, Judged] = {}
    for name, slider in stages.items():
        folder = work / "judged" / name.replace(" ", "-")
        mood = asked if slider is not None else Emotion.of(emotion, 0.0)
        found = _painted(run, folder, run.unseen, run.settings.judge, mood, slider, seed=_UNSEEN,
                         steered=False)  # fmt: skip
        pictures = [load_image(one.path) for one in found]
        seen[name] = Judged(
            prompts=[run.prompts[one.prompt] for one in found],
            seeds=[one.seed for one in found],
            pictures=pictures,
            critic=run.critic.read(pictures),
            reader=reader.read(pictures),
        )
    figures = judged(seen, emotion, run.critic.name, reader.name)
    for line in lines(figures, emotion):
        run.tell(line)
    write_json(work / "judged.json", figures)
    paper = sheet(seen, emotion)
    write_atomic(run.out / f"{emotion}.png", encode_image(paper, "png", {}))
    worst = [k for k, v in figures["stages"].items() if not math.isfinite(v["reader"]["mean"])]
    if worst:
        msg = f"reader: cannot read the pictures of {', '.join(worst)}; lower --rate"
        raise DistillError(msg)
    return figures
