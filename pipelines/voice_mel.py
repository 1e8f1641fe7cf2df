"""The real route of voices: speech encoder, diffusion over a mel spectrogram, HiFi-GAN vocoder.

    mel = mu + s * y,   y ~ denoiser( noise | mu, h + D g(a) + W r, pitch ),   sound = vocoder(mel)

mu is the average voice (Popov et al. 2022, Diff-VC): the recording's sounds, each with the mean
spectrum that everybody in the training set gives it, so that neither person nor emotion is in it.
Sounds are k-means units of the encoder's states (as HuBERT makes them; Polyak et al. 2021), which
need no transcript. h is the recording's own speech-emotion embedding; emotion moves it frame by
frame along directions fitted in that space (after EmoReg, AAAI 2025), and moves the pitch with it
by a linear map from embeddings to pitch. Diffusing y, the distance from mu, is the forward process
of Grad-TTS (Popov et al. 2021) and EmoConv-Diff (Prabhu et al. 2024): x_t - mu = alpha s y + sigma
e; any diffusers scheduler runs it. Guidance leaves out the emotion but not the person: where
nothing is told, h stays the recording's own.

Everything is an ordinary diffusers folder, made by training/voice_mel.py. Length and timing stay
the recording's. What is not asked to change, and pauses, are the source's own samples. It
deliberately knows no file of sound and no request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import SpeechT5HifiGan

from adapters.directions import DirectionBank, DirectionError
from adapters.emotion import CORE
from adapters.speech_encoder import SPEECH, SpeechEncoder
from adapters.voice_analysis import HOP, MELS, RATE, Analysis, at_rate
from adapters.voice_emotion import cue_table, phrases
from pipelines import BackboneError
from pipelines.voice_average import QUIET_MEL, AverageVoice, Source, features_of, read_source
from pipelines.voice_frames import HOP_SECONDS, VALUE_FRAMES, smooth
from pipelines.voice_model import (
    DIRECTIONS,
    Sampling,
    VoiceDenoiser,
    VoiceModelError,
    make_scheduler,
    wanted,
)
from pipelines.voice_vocoder import check_vocoder, vocode
from pipelines.voice_windows import Branch, denoise
from pipelines.weights import check_folder

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

OWN = (
    ("pipelines.voice_model", "VoiceDenoiser"),
    ("pipelines.voice_average", "AverageVoice"),
    ("adapters.torchaudio_encoder", "TorchaudioEncoder"),
)
"""Parts of this project that a folder may name; everything else is of diffusers or transformers."""
FARTHEST = 4.0  # spreads from the average voice that a sample may lie, as in training
EDGE = 3  # frames (48 ms) over which source and result fade into each other
PEAK = 0.98


def make_mel_scheduler() -> DDIMScheduler:
    """As of the embedded voice, with room for what lies farther from an average."""
    return DDIMScheduler.from_config(make_scheduler().config, clip_sample_range=FARTHEST)


class MelVoicePipeline(DiffusionPipeline):
    """An ordinary diffusers folder; the directions of the emotions lie beside its parts.

    denoiser: 80 channels, FEATURES features, condition d. average: see there. encoder: of
    transformers with its feature_extractor, or a TorchaudioEncoder without. encoder_layer: whose
    states are read. vocoder: of 80 mels, 16 kHz and a hop of 256 samples, as SpeechT5's.
    """

    _optional_components = ["feature_extractor"]  # noqa: RUF012  # diffusers reads a list

    def __init__(
        self,
        denoiser: VoiceDenoiser,
        scheduler: DDIMScheduler,
        average: AverageVoice,
        encoder: nn.Module,
        vocoder: SpeechT5HifiGan,
        feature_extractor: Any = None,
        encoder_layer: int = 1,
    ) -> None:
        super().__init__()
        check_vocoder(vocoder)
        self.register_modules(
            denoiser=denoiser,
            scheduler=scheduler,
            average=average,
            encoder=encoder,
            vocoder=vocoder,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(encoder_layer=encoder_layer)
        self.directions: DirectionBank | None = None

    @classmethod
    def load(cls, folder: Path | str) -> MelVoicePipeline:
        """The pipeline of a folder with its directions, offline, in evaluation mode.

        Raises:
            VoiceModelError: no such model there, or directions of another encoder.
            BackboneError: pickled weights, code, or classes of others.
        """
        place = Path(folder)
        try:
            index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"voice model: {place} holds none; run python -m training.voice_mel"
            raise VoiceModelError(msg) from error
        name = index.get("_class_name") if isinstance(index, dict) else None
        if name != cls.__name__:
            msg = f"voice model: {place} holds a {name}, not a {cls.__name__}; give another folder"
            raise VoiceModelError(msg)
        check_folder(place, OWN)
        try:
            pipe = cls.from_pretrained(str(place), local_files_only=True, use_safetensors=True)
            pipe.directions = DirectionBank.load(place / DIRECTIONS)
        except (VoiceModelError, DirectionError, BackboneError):
            raise
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            lines = str(error).strip().splitlines() or ["no reason"]
            msg = f"voice model: cannot load {place} ({lines[0][:160]}); train it again"
            raise VoiceModelError(msg) from error
        for part in pipe._networks():
            part.eval()
        if pipe.directions.digest != pipe.speech.digest:
            msg = f"voice model: the directions in {place} are of another encoder; fit them again"
            raise VoiceModelError(msg)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def save(self, folder: Path | str) -> Path:
        """Write the folder that `load` reads, in the precision the parts have."""
        self.save_pretrained(folder)
        if self.directions is not None:
            self.directions.save(Path(folder) / DIRECTIONS)
        return Path(folder)

    @property
    def speech(self) -> SpeechEncoder:
        """The encoder with its layer."""
        return SpeechEncoder(self.encoder, self.feature_extractor, self.config.encoder_layer)

    @torch.inference_mode()
    def convert(
        self,
        waveform: ArrayLike,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        settings: Sampling | None = None,
        negative: ArrayLike | None = None,
        source: ArrayLike | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Singles:
        """The recording in another emotion, of the same length: float32 (n,) at 16 kHz.

        Args:
            waveform: (n,) at 16 kHz, -1..1.
            track: (T, 12) or (12,) intensities in the order of CORE, T = 1 + n // 256 frames.
            residuals: (T, 3) or (3,) VAD left over.
            generator: of the CPU; several give as many takes, (takes, n), each the same as alone.
            settings: steps; expressiveness, the guidance scale of the emotion (0 leaves the
                embedding where it is, 1 is what was learned); variation, the spread of the noise
                that the diffusion begins with (1 as trained; 0: every seed the same); repel. Locks
                need the embedded model.
            negative: (12,) emotions to move away from.
            source: (12,) emotion the recording already has; it is taken away.
            on_step: called with (steps done, steps in all).

        Where no row asks for anything, and in pauses, the result is the source, sample by sample.

        Raises:
            VoiceModelError: shapes that do not fit, or locks.
            VoiceError: a waveform that cannot be read.
        """
        settings = settings or Sampling()
        if settings.locks:
            msg = f"lock: {', '.join(sorted(settings.locks))} cannot be held by a mel model; "
            raise VoiceModelError(msg + "use the backbone voice-tiny")
        if np.ndim(waveform) != 1:
            msg = f"waveform: (samples,) at {RATE} Hz is converted, received {np.shape(waveform)}"
            raise VoiceModelError(msg + "; mix it down")
        x = at_rate(waveform, RATE)
        several = not isinstance(generator, torch.Generator)
        generators = list(generator) if several else [generator]
        if not generators:
            msg = "generator: one for each take is needed, received none; give at least one"
            raise VoiceModelError(msg)
        frames = 1 + len(x) // HOP
        asked, a, r, away = wanted(frames, track, residuals, negative, source, settings.repel)
        takes = [x.copy() for _ in generators]
        if asked.any():
            with self._still():
                read = read_source(self.speech, x)
                active = _active(read.analysis, asked)
                if active.any():
                    plan = self._plan(read, a, r, away, settings)
                    total = settings.steps * len(generators)
                    for index, one in enumerate(generators):
                        begun = index * settings.steps
                        mel = self._mel(
                            read,
                            plan,
                            one,
                            settings,
                            (lambda done, begun=begun: on_step(begun + done, total))
                            if on_step
                            else None,
                        )
                        takes[index] = self._sound(x, read, mel, active, a)
        return np.stack(takes) if several else takes[0]

    def mel(
        self,
        read: Source,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        *,
        generator: torch.Generator,
        settings: Sampling | None = None,
    ) -> Singles:
        """The spectrogram alone, float32 (T, 80) log10 at LEVEL, of all frames, also neutral ones.

        For reports: intensity 0 shows what the model makes of the recording itself.
        """
        settings = settings or Sampling()
        frames = len(read.analysis)
        _, a, r, _ = wanted(frames, track, residuals, None, None, 0.0)
        with torch.inference_mode(), self._still():
            plan = self._plan(read, a, r, None, settings)
            return self._mel(read, plan, generator, settings, None)

    def _plan(
        self, read: Source, a: Floats, r: Floats, away: Floats | None, settings: Sampling
    ) -> tuple[Singles, Tensor, list[Branch]]:
        """mu (T, 80), features (T, 10) and the branches of the guidance."""
        bank = self._known()
        frames = len(read.analysis)
        mu = self.average.prior(self.average.units_of(read.states, read.centres, frames))
        prior = torch.from_numpy(self.average.relative(mu)) / self.denoiser.spread
        offsets = bank.offsets(a, 1.0, r)[SPEECH]
        features = torch.from_numpy(features_of(read.analysis, *self.average.pitch_of(offsets)))
        moved = self.average.normal(read.embedding + offsets)
        branches: list[Branch] = [(1.0, prior, moved)]
        if settings.expressiveness != 1.0 or away is not None:
            repel = settings.repel if away is not None else 0.0
            own = self.average.normal(read.embedding).expand(frames, -1)
            branches = [
                (settings.expressiveness, prior, moved),
                (1.0 - settings.expressiveness + repel, prior, own),
            ]
            if away is not None:
                others = self.average.normal(read.embedding + bank.offsets(away)[SPEECH])
                branches.append((-repel, prior, others))
        return mu, features, branches

    def _mel(
        self,
        read: Source,
        plan: tuple[Singles, Tensor, list[Branch]],
        generator: torch.Generator,
        settings: Sampling,
        on_step: Callable[[int], None] | None,
    ) -> Singles:
        mu, features, branches = plan
        noise = settings.variation * torch.randn((len(read.analysis), MELS), generator=generator)
        y = denoise(
            self.denoiser, self.scheduler, noise, features, branches, settings.steps, on_step
        )
        spread = self.denoiser.spread.float().numpy()
        return np.maximum(mu + spread * y.clamp(-FARTHEST, FARTHEST).numpy(), QUIET_MEL)

    def _sound(
        self, x: Singles, read: Source, mel: Singles, active: NDArray[np.bool_], a: Floats
    ) -> Singles:
        """The waveform of a mel at the level of the source, and the source where it is to stay."""
        share = smooth(active.astype(np.float64)[:, None], VALUE_FRAMES).astype(np.float32)
        made = vocode(self.vocoder, share * mel + (1 - share) * read.mel)[: len(x)]
        weight = _at_samples(_inside(active), len(x))
        here = (
            _at_samples(np.asarray(active & read.analysis.speech, dtype=np.float64), len(x)) > 0.5
        )
        # Level is no part of what embeddings of levelled recordings tell: the cue table gives it.
        powers = [float(np.square(y[here], dtype=np.float64).mean()) for y in (x, made)]
        gain = np.sqrt(powers[0] / powers[1]) if min(powers) > 0 else 1.0
        cues = np.array([cue_table()["emotions"][name]["level"] for name in CORE])
        level = smooth((a @ cues)[:, None], VALUE_FRAMES)[:, 0]
        made = made * (gain * 10 ** (_at_samples(level, len(x)) / 20))
        highest = float(np.abs(made * weight).max())
        made *= min(1.0, max(PEAK, float(np.abs(x).max())) / max(highest, 1e-9))
        # x where the weight is 0, bit by bit
        return np.where(weight > 0, x + weight * (made - x), x).astype(np.float32)

    def _networks(self) -> list[nn.Module]:
        return [self.denoiser, self.average, self.encoder, self.vocoder]

    @contextmanager
    def _still(self) -> Iterator[None]:
        """No dropout while open; networks that were in training are so again afterwards."""
        busy = [module for part in self._networks() for module in part.modules() if module.training]
        for part in self._networks():
            part.eval()
        try:
            yield
        finally:
            for module in busy:
                module.training = True

    def _known(self) -> DirectionBank:
        if self.directions is None:
            msg = "voice model: it has no directions; load it with MelVoicePipeline.load"
            raise VoiceModelError(msg)
        return self.directions


def _active(analysis: Analysis, asked: Floats) -> NDArray[np.bool_]:
    """(T,) frames that are made anew: asked for, and in a phrase or at its edge."""
    said = np.zeros(len(analysis), dtype=bool)
    for first, last in phrases(analysis.speech, HOP_SECONDS):
        said[max(0, first - EDGE) : last + EDGE] = True
    return said & (asked > 0)


def _inside(active: NDArray[np.bool_]) -> Floats:
    """(T,) 0 outside, rising over 2 EDGE frames to 1 inside; no slope where the sound ends."""
    wide = np.pad(active, 2 * EDGE, mode="edge")
    core = np.lib.stride_tricks.sliding_window_view(wide, 2 * EDGE + 1).all(axis=1)
    box = np.lib.stride_tricks.sliding_window_view(core, 2 * EDGE + 1).mean(axis=1)
    return np.where(active, box, 0.0)


def _at_samples(rows: Floats, samples: int) -> Floats:
    """(T,) values of frames -> (samples,), straight lines between."""
    return np.interp(np.arange(samples), np.arange(len(rows)) * HOP, rows)
