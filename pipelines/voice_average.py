"""A recording as a mel diffusion sees it: the average voice saying the same, and what is left.

The average voice (Popov et al. 2022, Diff-VC) has neither person nor emotion in it: each sound has
the mean spectrum that everybody in the training set gives it. Sounds are k-means units of a speech
encoder's states (as HuBERT makes them; Polyak et al. 2021), which need no transcript. Beside it lie
pitch, level and place in the phrase, relative to the recording, and its speech-emotion embedding.

It deliberately knows neither diffusion nor emotions, and opens no file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from adapters.speech_encoder import SpeechEncoder
from adapters.voice_analysis import HOP, MELS, QUIETEST, RATE, Analysis, analyse, at_rate
from adapters.voice_emotion import HIGHEST, LOWEST, SEMITONES
from pipelines.voice_frames import VALUE_FRAMES, smooth, voice_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

FEATURES = 10
LEVEL = -24.0
"""dB full scale that speech is brought to before it is read; the result gets its own level back."""
QUIET_MEL = -10.0  # log10, the floor of the analysis
MOST_FACTOR = 2.0  # times as wide or narrow a pitch range


class AverageVoice(ModelMixin, ConfigMixin):
    """What a training set says on average; numbers without gradients, measured by the recipe.

    width: d of the encoder. units: kinds of sound. frame_mean, frame_scale (d,) of states; centres
    (units, d) of the kinds, in those; mels (units, 80) their mean spectra, log10; mel_mean (80,)
    that of everything; speech_mean, speech_scale (d,) of embeddings of recordings; pitch (d, 2):
    semitones of median pitch, and logarithm of its range, per `speech_scale` of each coordinate.
    """

    @register_to_config
    def __init__(self, width: int, units: int = 100) -> None:
        super().__init__()
        shapes = {
            "frame_mean": (width,),
            "frame_scale": (width,),
            "centres": (units, width),
            "mels": (units, MELS),
            "mel_mean": (MELS,),
            "speech_mean": (width,),
            "speech_scale": (width,),
            "pitch": (width, 2),
        }
        for name, shape in shapes.items():
            start = torch.ones(shape) if name.endswith("scale") else torch.zeros(shape)
            setattr(self, name, nn.Parameter(start, requires_grad=False))

    def units_of(self, states: Tensor, centres: ArrayLike, frames: int) -> NDArray[np.int64]:
        """(frames,) which kind of sound each frame of the analysis is.

        states: (S, d), centred on the samples `centres` (S,); each frame takes the nearest.
        """
        z = (states.to(self.device, torch.float32) - self.frame_mean) / self.frame_scale
        unit = torch.cdist(z, self.centres.float()).argmin(dim=1).cpu().numpy()
        middles = np.asarray(centres, dtype=np.float64)
        borders = (middles[1:] + middles[:-1]) / 2
        return unit[np.searchsorted(borders, np.arange(frames) * HOP)]

    def prior(self, units: ArrayLike) -> Singles:
        """mu: float32 (T, 80) log10 mel of the average voice saying these units (T,)."""
        mels = self.mels.float().cpu().numpy().astype(np.float64)[np.asarray(units)]
        return smooth(mels, VALUE_FRAMES).astype(np.float32)

    def relative(self, mel: Singles) -> Singles:
        """Log10 mel (T, 80) as its distance from the mean of the training set."""
        return mel - self.mel_mean.float().cpu().numpy()

    def normal(self, embedding: Tensor) -> Tensor:
        """Embeddings (..., d) as the denoiser is told them, float32 on the processor."""
        return (embedding - self.speech_mean.float().cpu()) / self.speech_scale.float().cpu()

    def pitch_of(self, offsets: Tensor) -> tuple[Floats, Floats]:
        """(T,) semitones and (T,) range factor that moving an embedding by (T, d) goes with."""
        z = offsets / self.speech_scale.float().cpu()
        semitones, spread = (z @ self.pitch.float().cpu()).double().numpy().T
        most = np.log(MOST_FACTOR)
        shift = np.clip(semitones, LOWEST[SEMITONES], HIGHEST[SEMITONES])
        return shift, np.exp(np.clip(spread, -most, most))


class Source(NamedTuple):
    """A recording read, T frames.

    analysis: of the samples. gain: what brings its speech to LEVEL. mel: (T, 80) at that level.
    states: (S, d) of the encoder. centres: (S,) samples. embedding: (d,).
    """

    analysis: Analysis
    gain: float
    mel: Singles
    states: Tensor
    centres: Floats
    embedding: Tensor


def read_source(encoder: SpeechEncoder, waveform: ArrayLike, sample_rate: int = RATE) -> Source:
    """Read a recording for this route; the recipe reads its training set by the same function.

    Raises:
        VoiceError: no samples, not finite, over an hour, or another rate.
    """
    x = at_rate(waveform, sample_rate)
    analysis = analyse(x, RATE)
    level = analysis.level
    gain = 10 ** ((LEVEL - level) / 20) if level > QUIETEST else 1.0
    mel = np.maximum(analysis.mel + np.float32(np.log10(gain)), QUIET_MEL)
    states = encoder.frames(np.float32(gain) * x)
    embedding = encoder.pooled(states, analysis.speech)
    return Source(analysis, gain, mel, states, encoder.centres(len(states)), embedding)


def features_of(
    analysis: Analysis, shift: ArrayLike = 0.0, factor: ArrayLike = 1.0
) -> NDArray[np.float32]:
    """What the denoiser reads beside mu: pitch, voicing, level, breath, place: float32 (T, 10).

    shift: (T,) semitones up. factor: (T,) times the distance from the median pitch. All but the
    pitch is relative to the recording (`voice_of`); the spectral envelope is left out, because
    emotion is to change it.
    """
    rows = voice_of(analysis).features[:, :FEATURES].copy()
    hz = analysis.f0[analysis.voiced & analysis.speech].astype(np.float64)
    median = 12 * np.log2(np.median(hz) / 100) if len(hz) else 0.0
    away = 4.0 * rows[:, 0].astype(np.float64)  # `voice_of` gives quarters of a semitone
    rows[:, 0] = (median + np.asarray(shift) + np.asarray(factor) * away) / 12
    rows[:, 8] *= np.asarray(factor, dtype=np.float32)
    return rows
