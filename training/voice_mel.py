"""Train the real route of voices on any folder of speech, with an encoder and a vocoder one has.

    python -m training.voice_mel --encoder microsoft/wavlm-base-plus \\
        --vocoder microsoft/speecht5_hifigan --data SPEECH --out models/my-voice --minutes 120

Nothing has to be parallel: the denoiser learns to give each recording back from the average voice
saying the same, its pitch, and its own speech-emotion embedding (as EmoConv-Diff, Prabhu et al.
2024). The loss is that of v-prediction of the distance from the average voice, the data prior. What
emotions do to embeddings is fitted on same-sentence takes among the data (see
training/voice_mel_data.py for how they are named), and is all that is labelled. Encoder and vocoder
stay as they are. Recordings held out decide which averaged weights are kept; a run that is stopped
goes on where it was.

It deliberately does not know how emotions are asked for (pipelines/voice_mel.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.emotion import CORE
from adapters.files import replacing
from adapters.metrics import bootstrap
from adapters.speech_encoder import SPEECH, SpeechEncoder, SpeechEncoderError
from pipelines.voice_average import FEATURES, AverageVoice
from pipelines.voice_mel import FARTHEST, MelVoicePipeline, make_mel_scheduler
from pipelines.voice_model import VoiceDenoiser, VoiceModelError
from pipelines.voice_vocoder import load_vocoder
from pipelines.voice_windows import denoise
from pipelines.weights import best_device
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint
from training.voice import loss_of
from training.voice_mel_data import (
    Clip,
    VoiceMelError,
    anchor_pitch,
    fit_directions,
    paired,
    prepared,
)

Singles = NDArray[np.float32]

PAUSE_WEIGHT = 0.2  # of frames without speech, most of which are the recorder's noise
BLUR = 0.1  # spreads of noise on embeddings, so that moved ones lie in known land
EMA = 0.999
HELD_AT_MOST = 48  # clips that are looked at
TIMES = (100, 300, 500, 700, 900)
MEL_DB = 20.0  # log10 of a magnitude in decibels


# Batches -----------------------------------------------------------------------------------------


class Feed:
    """Endless batches of crops; each is drawn from (seed, step), so that a run resumes exactly."""

    def __init__(
        self, clips: Sequence[Clip], average: AverageVoice, batch: int, crop: int, seed: int
    ) -> None:
        self.clips, self.average = clips, average
        self.batch, self.crop, self.seed = batch, crop, seed
        lengths = np.array([len(clip) for clip in clips], dtype=np.float64)
        self.shares = lengths / lengths.sum()

    def draw(self, step: int) -> dict[str, Tensor]:
        """The batch of optimiser step `step`: every second of speech as likely as any other."""
        rng = np.random.default_rng([self.seed, step])
        rows = []
        for index in rng.choice(len(self.clips), self.batch, p=self.shares):
            clip = self.clips[index]
            first = int(rng.integers(0, max(1, len(clip) - self.crop + 1)))
            row = row_of(clip, self.average, slice(first, first + self.crop))
            told = rng.normal(0.0, BLUR, row["condition"].shape[1]).astype(np.float32)
            row["condition"] = row["condition"] + told
            short = self.crop - len(row["rest"])
            rows.append({k: np.pad(v, ((0, short), (0, 0))) for k, v in row.items()})
        return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}


def row_of(
    clip: Clip, average: AverageVoice, where: slice = slice(None), embedding: Singles | None = None
) -> dict[str, Singles]:
    """Frames of a clip as `training.voice.loss_of` takes them.

    rest (T, 80) distance from the average voice, prior (T, 80) that from the mean, both log10;
    known (T, 80) weight; features (T, 10); condition (T, d), of `embedding` in place of its own.
    """
    mu = average.prior(clip.units[where])
    own = torch.from_numpy(clip.embedding if embedding is None else embedding)
    told = average.normal(own).numpy().astype(np.float32)
    weight = np.where(clip.speech[where], 1.0, PAUSE_WEIGHT).astype(np.float32)
    return {
        "rest": clip.mel[where] - mu,
        "prior": average.relative(mu),
        "known": np.repeat(weight[:, None], mu.shape[1], axis=1),
        "features": clip.features[where],
        "condition": np.repeat(told[None], len(mu), axis=0),
    }


def spread_of(clips: Sequence[Clip], average: AverageVoice) -> Singles:
    """(80,) standard deviation of speech around the average voice, log10."""
    squares, count = 0.0, 0
    for clip in clips:
        rest = (clip.mel - average.prior(clip.units))[clip.speech].astype(np.float64)
        squares, count = squares + np.square(rest).sum(axis=0), count + len(rest)
    return np.sqrt(squares / max(count, 1)).clip(1e-3).astype(np.float32)


# Recipe ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """minutes or steps in all, whichever ends first; rate: peak; check: steps between looks."""

    minutes: float = 60.0
    steps: int = 100_000
    rate: float = 5e-4
    check: int = 500
    decay: float = 0.01
    seed: int = 0


def make_pipeline(
    encoder: SpeechEncoder,
    vocoder: nn.Module,
    average: AverageVoice,
    clips: Sequence[Clip],
    *,
    width: int = 256,
    depth: int = 12,
    intensity: float = 1.0,
) -> MelVoicePipeline:
    """A new model with random weights, the directions fitted.

    Raises:
        VoiceMelError: no labelled pairs.
    """
    own = [clip for clip in clips if not clip.held_out]
    denoiser = VoiceDenoiser(
        channels=clips[0].mel.shape[1],
        width=width,
        depth=depth,
        embedding=max(64, width // 2),
        features=FEATURES,
        condition=encoder.width,
        spread=tuple(float(x) for x in spread_of(own, average)),
    )
    pipe = MelVoicePipeline(
        denoiser,
        make_mel_scheduler(),
        average,
        encoder.model,
        vocoder,
        encoder.extractor,
        encoder.layer,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.directions = fit_directions(clips, encoder.digest, intensity)
    anchor_pitch(average, pipe.directions, clips, intensity)
    return pipe


def held_loss(pipe: MelVoicePipeline, model: VoiceDenoiser, held: Sequence[Clip]) -> float:
    """Mean loss over clips and TIMES, noise drawn the same every time."""
    alphas, found = pipe.scheduler.alphas_cumprod, []
    was = model.training
    model.eval()
    with torch.no_grad():
        for index, clip in enumerate(held[:HELD_AT_MOST]):
            row = row_of(clip, pipe.average, slice(0, 512))
            batch = {k: torch.from_numpy(v)[None].repeat(len(TIMES), 1, 1) for k, v in row.items()}
            generator = torch.Generator().manual_seed(index)
            times = torch.tensor(TIMES)
            found.append(float(loss_of(model, slice(None), batch, alphas, generator, times)))
    model.train(was)
    return float(np.mean(found))


def fit_model(
    pipe: MelVoicePipeline,
    feed: Feed,
    held: Sequence[Clip],
    run: Path,
    settings: Settings,
    on_better: Callable[[], None] = lambda: None,
) -> float:
    """Train the denoiser and leave its best averaged weights in `pipe`; returns their held loss."""
    model = pipe.denoiser
    best, average = copy.deepcopy(model), Average(model, EMA)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.rate, betas=(0.9, 0.99), weight_decay=settings.decay
    )
    generator = torch.Generator().manual_seed(settings.seed)
    folder, modules = run / "checkpoint", {"denoiser": model, "best": best}
    averages = {"denoiser": average}
    step = load_checkpoint(folder, modules, averages, optimizer, generator)
    average.state = {key: value.to(model.device) for key, value in average.state.items()}
    least, seconds = float("inf"), 0.0
    if step:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        least, seconds = meta["least"], meta["seconds"]
    alphas = pipe.scheduler.alphas_cumprod.clone()
    log = Log(run / "log.jsonl", feed.batch)
    log.step = step
    began = time.monotonic() - seconds

    def progress() -> float:  # of steps or of time, whichever is farther; the rate follows it
        elapsed = (time.monotonic() - began) / max(60 * settings.minutes, 1e-9)
        return min(1.0, max(step / settings.steps, elapsed))

    model.train()
    while progress() < 1:
        for group in optimizer.param_groups:
            group["lr"] = cosine(round(1000 * progress()), 1000, settings.rate, 20)
        # Dropout draws from the global generator: seeded by the step, a run resumes exactly.
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed * 1_000_003 + step)
            loss = loss_of(model, slice(None), feed.draw(step), alphas, generator)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(model, step)
        log.add(loss=loss.detach())
        step += 1
        if step % settings.check and progress() < 1:
            continue
        candidate = copy.deepcopy(model)
        candidate.load_state_dict(average.state)
        left = held_loss(pipe, candidate, held)
        log.add(held=left)
        log.report(step)
        better = left < least
        if better:
            least = left
            best.load_state_dict(average.state)
        meta = {"least": least, "seconds": time.monotonic() - began}
        save_checkpoint(folder, step, modules, averages, optimizer, generator, meta)
        if better:
            pipe.register_modules(denoiser=best)
            try:
                on_better()
            finally:
                pipe.register_modules(denoiser=model)
    model.load_state_dict(best.state_dict())
    model.eval()
    return least


# Report ------------------------------------------------------------------------------------------


@torch.inference_mode()
def rebuilt(pipe: MelVoicePipeline, clip: Clip, embedding: Singles | None = None) -> Singles:
    """(T, 80) what the model expects of a clip, with its own embedding or another one."""
    row = {
        k: torch.from_numpy(v) for k, v in row_of(clip, pipe.average, embedding=embedding).items()
    }
    branch = (1.0, row["prior"] / pipe.denoiser.spread, row["condition"])
    noise = torch.zeros_like(row["rest"])
    y = denoise(pipe.denoiser, pipe.scheduler, noise, row["features"], [branch], 10)
    mu = pipe.average.prior(clip.units)
    return mu + pipe.denoiser.spread.numpy() * y.clamp(-FARTHEST, FARTHEST).numpy()


def report(pipe: MelVoicePipeline, clips: Sequence[Clip], seed: int = 0) -> dict[str, object]:
    """Figures on recordings that were held out, each mean with its 95 % interval.

    Errors are root mean squares over speech in dB of mel: of the average voice alone, of the model
    with the recording's own embedding, and with that of another recording, which is to be worse.
    Pitch: semitones that a direction is read as, and those between held-out takes.
    """
    held = [clip for clip in clips if clip.held_out][:HELD_AT_MOST]
    errors: dict[str, list[float]] = {"average_voice": [], "model": [], "other_embedding": []}
    for index, clip in enumerate(held):
        other = held[(index + len(held) // 2) % len(held)].embedding
        for name, mel in (
            ("average_voice", pipe.average.prior(clip.units)),
            ("model", rebuilt(pipe, clip)),
            ("other_embedding", rebuilt(pipe, clip, other)),
        ):
            off = MEL_DB * (mel - clip.mel)[clip.speech]
            errors[name].append(float(np.sqrt(np.square(off, dtype=np.float64).mean())))
    moved: dict[str, dict[str, float]] = {}
    bank = pipe.directions
    pairs = paired([clip for clip in clips if clip.held_out])
    for name in sorted({other.emotion for _, other in pairs}):
        rows = [(a, b) for a, b in pairs if b.emotion == name]
        real = [b.pitch[0] - a.pitch[0] for a, b in rows]
        shift, _ = pipe.average.pitch_of(bank.vectors[SPEECH][[CORE.index(name)]])
        D = bank.vectors[SPEECH][CORE.index(name)].numpy()
        cosines = [float(np.dot(D, b.embedding - a.embedding)) for a, b in rows]
        norms = [float(np.linalg.norm(b.embedding - a.embedding)) for a, b in rows]
        share = np.array(cosines) / np.maximum(np.array(norms) * np.linalg.norm(D), 1e-12)
        moved[name] = {
            "pairs": len(rows),
            "semitones_at_1": round(float(shift[0]), 2),
            "semitones_real": round(float(np.nanmean(real)), 2),
            "cosine_of_direction": round(float(share.mean()), 3),
        }
    figures: dict[str, object] = {}
    for name, values in errors.items():
        if values:
            low, high = bootstrap(lambda rows: float(rows.mean()), values, seed=seed)
            figures[name] = [round(float(x), 2) for x in (np.mean(values), low, high)]
    return {"recordings": len(held), "mel_error_db": figures, "emotions": moved}


def write_card(folder: Path, given: argparse.Namespace, facts: Mapping[str, object]) -> None:
    """README.md of the model: what it was made of and how, and its figures."""
    text = f"""# A voice model of the mel route

Speech in another emotion by mel diffusion (pipelines/voice_mel.py). Made by
`python -m training.voice_mel --encoder {Path(given.encoder).name} --vocoder
{Path(given.vocoder).name} --data {given.data.name} --seed {given.seed} ...`, in {facts["steps"]}
steps on {facts["clips"]} pieces ({facts["minutes_of_speech"]} minutes) of speech.

The weights of encoder and vocoder are those of their authors, under their licences; what the
recordings allow is to be asked of their makers. Figures of recordings that were held out (mean and
95 % interval; see training.voice_mel.report):

    {json.dumps(facts["report"], indent=1).replace(chr(10), chr(10) + "    ")}

Limits: length and timing stay those of the recording; a person unlike those in the data comes out
less like themselves; emotions without takes of their own move by their valence, arousal and
dominance alone.
"""
    with replacing(folder / "README.md") as fresh:
        fresh.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes, resuming what --run holds, and write the best averaged model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--encoder", required=True, help="name or folder, or torchaudio:BUNDLE")
    parser.add_argument("--layer", type=int, help="of the encoder; default two thirds up")
    parser.add_argument("--vocoder", required=True, help="name or folder of a SpeechT5HifiGan")
    parser.add_argument("--data", type=Path, required=True, help="folder of speech")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--run", type=Path, default=Path(".work/voice_mel"), help="checkpoints")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training in all")
    parser.add_argument("--steps", type=int, default=100_000, help="or so many steps in all")
    parser.add_argument("--units", type=int, default=100, help="kinds of sound")
    parser.add_argument("--intensity", type=float, default=1.0, help="of the takes; EmoDB 1.3")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128, help="frames of 16 ms")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--check", type=int, default=500, help="steps between looks at held out")
    parser.add_argument("--device", default="", help="default: cuda, mps or cpu, the first there")
    parser.add_argument("--offline", action="store_true", help="look only on this machine")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    try:
        return train(given)
    except (VoiceMelError, SpeechEncoderError, VoiceModelError) as error:
        print(error, file=sys.stderr)
        return 2


def train(given: argparse.Namespace) -> int:
    """The recipe from top to bottom; `main` has the arguments."""
    if not 0.1 <= given.intensity <= 3:
        msg = f"intensity: allowed 0.1 to 3, received {given.intensity:g}; 1 is fully played"
        raise VoiceMelError(msg)
    torch.set_flush_denormal(True)
    device = torch.device(given.device or best_device())
    encoder = SpeechEncoder.load(given.encoder, layer=given.layer, offline=given.offline or None)
    vocoder = load_vocoder(given.vocoder, offline=given.offline or None)
    encoder.model.to(device)
    average, clips = prepared(given.data, given.run, encoder, given.units, given.seed)
    own = [clip for clip in clips if not clip.held_out]
    held = [clip for clip in clips if clip.held_out] or own
    minutes = sum(len(clip) for clip in own) * 0.016 / 60
    print(f"{len(own)} pieces, {minutes:.1f} minutes; held out {len(clips) - len(own)}", flush=True)
    with torch.random.fork_rng():  # layers draw from the global generator
        torch.manual_seed(given.seed)
        pipe = make_pipeline(
            encoder,
            vocoder,
            average,
            clips,
            width=given.width,
            depth=given.depth,
            intensity=given.intensity,
        )
    pipe.denoiser.to(device)
    settings = Settings(given.minutes, given.steps, given.rate, given.check, seed=given.seed)
    feed = Feed(own, average, given.batch, given.crop, given.seed)
    fit_model(pipe, feed, held, given.run, settings, lambda: pipe.save(given.out))
    facts = {
        "steps": json.loads((given.run / "checkpoint" / "meta.json").read_text())["step"],
        "clips": len(own),
        "minutes_of_speech": round(minutes, 1),
        "report": report(pipe, clips, given.seed),
    }
    print(json.dumps(facts["report"]), flush=True)
    pipe.save(given.out)
    write_card(given.out, given, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
