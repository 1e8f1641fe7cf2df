"""What both critics of music are fitted from: published figures, cues of the literature, noise.

No labelled music enters. How far valence and arousal move a feature comes from figures published
about labelled sets (`anchors.json` in the critic's folder) for the critic, and from the cues of the
literature alone (`assets/emotions/music_cues.json`) for the reader, which hears sound and must not
lean on what the critic leans on. How features vary together comes from music that may be shipped.

The noise has two parts. Inside a set: how features vary together in POP909, shrunk towards
independence because a covariance of thirty-four features is not known that well. Between sets:
EMOPIA's transcriptions hold notes as long as the pedal, VGMIDI's are sequenced loud and flat,
POP909's keys are let go early, and none of this is emotion. So the scatter of the sets' means is
noise too, and a feature whose level depends on where the music is from may say little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.assets import ASSETS
from adapters.audio_features import HEARD
from adapters.emotion import CORE, VAD
from adapters.music_attributes import FEATURES
from adapters.music_critic import (
    LEVELS,
    SIGNS,
    SOFT,
    UNIT,
    AffectModel,
    MusicCritic,
    MusicReader,
)

Rows = np.ndarray

ANCHORS = ASSETS / "models" / "critic-music" / "anchors.json"
CUES = ASSETS / "emotions" / "music_cues.json"

# Left out: the estimated tempo and its pulse, wrong by an octave half of the time (AUC .51 for
# arousal); dissonance, which is higher in calm pop piano than in angry and would teach the textbook
# the wrong way round; the pedal, which only some sets have; the variability of density, which
# depends on where bars are; is_major, a coarser mode_score.
LEFT_OUT = ("tempo_est", "pulse_strength", "dissonance", "pedal_share", "density_cv", "is_major")
CRITIC_FEATURES = tuple(name for name in FEATURES if name not in LEFT_OUT)

SHRINK = 0.3
"""Shrinkage of correlations towards independence. Between .1 and .5 all is the same within .01 by
cross-validation on EMOPIA; without any, features that say the same are trusted too often."""
SHRINK_HEARD = 0.8
"""The same for the reader: what is heard of POP909 alone says less about how sounds vary together.
Loudness, density and colour, which belong together there, may part in other music."""
REAL = 0.6
"""How far real music moves a cue, in shares of the literature's steps, which are those of pieces
made to express one emotion. Published figures of real pieces against the steps, in deviations a
quadrant unit: mode .48 of .8, onsets .47 of 1.2, note density .62 of 1.0, velocity .75 of .7."""
WIDER = 1.4
"""How much further than POP909, one style, ordinary music spreads: the published spreads of EMOPIA
are 1.4 times its own (median over the critic's features)."""
RESIDUAL = 0.5
"""Most that the literature's other cues may add to an emotion, as a share of what valence and
arousal say: its cue sizes are ordinal, and no labelled music tells anger from fear."""

# Which features tell an attribute of the cue table, and how well, -1..1. contour and
# density_variability have none.
SEEN: dict[str, dict[str, float]] = {
    "tempo": {"onset_density": 1, "note_density": 0.5, "ioi_median": -1},
    "mode": {"mode_score": 1, "third_balance": 1, "major_chord_share": 1},
    "key_clarity": {"key_strength": 1, "out_of_scale": -0.5, "pc_entropy": -0.5},
    "mean_pitch": {
        "mean_pitch": 1, "melody_pitch": 1, "bass_pitch": 0.7, "share_high": 0.7, "share_bass": -0.7
    },
    "pitch_range": {"pitch_range": 1, "pitch_sd": 1},
    "note_density": {"note_density": 1, "onset_density": 0.7, "dur_mean": -0.5},
    "polyphony": {"polyphony": 1, "onset_polyphony": 0.7},
    "velocity": {"velocity_mean": 1, "velocity_p95": 1},
    "velocity_variability": {"velocity_sd": 1, "velocity_change": 1},
    "articulation": {
        "articulation": 1, "staccato_share": -1, "dur_mean": 0.7, "long_share": 0.5,
        "short_share": -0.5,
    },
    "rhythmic_variability": {"ioi_cv": 1, "npvi": 0.7},
    "melodic_variability": {"melodic_interval": 1, "repeat_share": -0.5},
    "dissonance": {"semitone_share": 1, "out_of_scale": 0.3},
}  # fmt: skip
SOUNDS: dict[str, dict[str, float]] = {
    "tempo": {"onset_rate": 1, "flux": 0.5},
    "mode": {"mode": 1, "third": 1, "major_chords": 1},
    "key_clarity": {"key_clarity": 1},
    "mean_pitch": {"register": 1, "melody_register": 0.7, "bass_register": 0.7, "centroid": 0.5},
    "pitch_range": {"pitch_range": 1},
    "note_density": {"flux": 1, "onset_rate": 0.7},
    "polyphony": {"tones": 1},
    # A hammer that strikes harder makes more overtones: loudness is heard as colour too.
    "velocity": {"level": 1, "onset_strength": 0.7, "timbre": 0.7, "brightness": 0.7},
    "velocity_variability": {"level_variability": 1, "level_range": 0.5},
    "articulation": {"decay": -1},
    "rhythmic_variability": {"ioi_variability": 1, "pulse_clarity": -0.7},
    "dissonance": {"roughness": 1, "key_clarity": -0.3},
}

# What each cue says about valence and about arousal, in the ordinal steps of the cue table: which
# feelings stand at its two ends in Gabrielsson and Lindstroem (2010). Fast, dense and loud are
# excitement, joy, fear and anger, their opposites peace, sadness and boredom: arousal, no valence.
# Major is joy and serenity, minor sadness, disgust and anger: valence. High is joy, serenity and
# fear, low is sadness and boredom; wide is joy and activity; legato tenderness and sadness;
# consonant and regular joy and peace.
DIMENSIONS: dict[str, tuple[float, float]] = {
    "tempo": (0, 2), "note_density": (0, 2), "velocity": (0, 2), "mode": (2, 0),
    "mean_pitch": (0.5, 0.5), "pitch_range": (0.5, 1), "articulation": (0, -1),
    "dissonance": (-1, 0), "key_clarity": (1, 0), "rhythmic_variability": (-0.5, 0),
}  # fmt: skip

Anchors = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Set -> feature -> mean, sd, within, valence, arousal (see anchors.json)."""


def load_anchors(path: Path = ANCHORS) -> Anchors:
    """The published figures, by set and feature."""
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: rows for name, rows in table.items() if isinstance(rows, dict)}


def measure_anchors(x: Rows, affect: Rows, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The same figures from features (m, n) and quadrant signs or ratings (m, 2) of one set."""
    fitted = {}
    for j, name in enumerate(names):
        known = np.isfinite(x[:, j])
        y, v = x[known, j], affect[known]
        v = (v - v.mean(0)) / v.std(0)
        sd = max(float(y.std()), 1e-9)
        slopes = np.linalg.lstsq(np.column_stack([v, np.ones(len(v))]), (y - y.mean()) / sd)[0]
        left = (y - y.mean()) / sd - v @ slopes[:2]
        fitted[name] = {
            "mean": float(y.mean()), "sd": sd, "within": float(left.std()) * sd,
            "valence": float(slopes[0]), "arousal": float(slopes[1]),
        }  # fmt: skip
    return fitted


def literature(means: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> tuple[Rows, Rows]:
    """(12, n) deviations of the emotions at full intensity, and (n, 2) of a quadrant unit.

    By the literature alone: the cue table and `DIMENSIONS`, of which full intensity is two units.
    """
    table = json.loads(CUES.read_text(encoding="utf-8"))
    emotions, units = np.zeros((len(CORE), len(names))), np.zeros((len(names), 2))
    for attribute, shares in means.items():
        size = table["step"]["values"][attribute]
        steps = np.array([table["emotions"][e]["cues"].get(attribute, 0.0) for e in CORE])
        for name, share in shares.items():
            j = list(names).index(name)
            emotions[:, j] += steps * share * size
            units[j] += np.array(DIMENSIONS.get(attribute, (0, 0))) / 2 * share * size
    return emotions, units


def fit_critic(
    anchors: Anchors,
    corpus: Rows,
    shrink: float = SHRINK,
    *,
    names: Sequence[str] = CRITIC_FEATURES,
    heat: float = 1.0,
) -> MusicCritic:
    """The critic from published figures and the features (m, len(FEATURES)) of free music.

    names: the features that it reads. heat: factor of the noise, a temperature of its posteriors.
    """
    x = corpus[:, [FEATURES.index(name) for name in names]]
    figures = {
        key: np.array([[rows[name][key] for name in names] for rows in anchors.values()])
        for key in ("mean", "sd", "within", "valence", "arousal")
    }
    scale = figures["sd"][0]  # EMOPIA's, the set of played piano
    moved = np.stack([figures["valence"], figures["arousal"]], axis=-1) * figures["sd"][..., None]
    loadings = moved.mean(axis=0) / scale[:, None]
    usual = np.nanmean(x, axis=0)
    for j, name in enumerate(names):
        if name.startswith("velocity"):  # a level of recording, not of playing
            x[:, j] += figures["mean"][0, j] - usual[j]
            usual[j] = figures["mean"][0, j]
    means = np.concatenate([figures["mean"], usual[None]])
    centre = means.mean(axis=0)
    noise = _correlation(x, shrink) * np.outer(figures["within"][0], figures["within"][0])
    between = (means - centre).T @ (means - centre) / len(means)
    noise = heat * (noise + between) / np.outer(scale, scale)
    seen = {cue: {n: w for n, w in of.items() if n in names} for cue, of in SEEN.items()}
    return MusicCritic(_assemble(centre, scale, loadings, noise, seen, names, x), names)


def fit_reader(heard: Rows, shrink: float = SHRINK_HEARD) -> MusicReader:
    """The reader from the cues of the literature and rendered free music (m, len(HEARD))."""
    names = HEARD
    scale = np.nanstd(heard, axis=0)
    loadings = REAL * literature(SOUNDS, names)[1]
    model = _assemble(
        np.nanmean(heard, axis=0),
        scale,
        loadings,
        _correlation(heard, shrink),
        SOUNDS,
        names,
        heard,
    )
    return MusicReader(model, names)


def strong(loadings: Rows, precision: Rows) -> float:
    """How far from neutral a strong real piece lies, in standard deviations of the noise.

    The middle of a quadrant and 1.64 beyond it: the 95th percentile along any direction. Every
    emotion's full intensity is put there, so that 1 means the same for awe, which lies near neutral
    in the table of means, and for excitement, which lies far out.
    """
    return float(_length(SIGNS @ loadings.T, precision).mean()) + 1.64


def _length(z: Rows, precision: Rows) -> Rows:
    return np.sqrt(np.einsum("en,nm,em->e", z, precision, z))


def _correlation(x: Rows, shrink: float) -> Rows:
    filled = np.where(np.isnan(x), np.nanmean(x, axis=0), x)
    return (1 - shrink) * np.corrcoef(filled.T) + shrink * np.eye(x.shape[1])


def _assemble(
    centre: Rows,
    scale: Rows,
    loadings: Rows,
    noise: Rows,
    means: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    ordinary: Rows,
) -> AffectModel:
    """The model with its emotions and with what is ordinary; `ordinary` are rows of features."""
    told, units = literature(means, names)
    affect = VAD[:, :2] / UNIT
    precision = np.linalg.inv(noise)
    # Where an emotion lies for music: between the mean rating of its word and how it is said to
    # sound. Love is rated lively, and played tenderly.
    sounds = np.linalg.lstsq(units, told.T, rcond=None)[0].T
    main = (affect + sounds) / 2 @ loadings.T
    rest = told - sounds @ units.T
    share = RESIDUAL * _length(main, precision) / np.maximum(_length(rest, precision), 1e-9)
    emotions = main + np.minimum(share, 1.0)[:, None] * rest
    emotions *= strong(loadings, precision) / _length(emotions, precision)[:, None]
    z = np.nan_to_num((ordinary - centre) / scale)
    z = SOFT * np.tanh(z / SOFT)
    # Emotional music is ordinary too: the middle of the domain is the corpus, its width also holds
    # what valence and arousal do.
    spread = (LEVELS**2).mean() * (affect**2).mean(axis=0)
    width = noise + (loadings * spread) @ loadings.T
    values, vectors = np.linalg.eigh(width)
    whiten = vectors / np.sqrt(values)
    middle = z.mean(axis=0)
    away = np.linalg.norm((z - middle) @ whiten, axis=1)
    return AffectModel(
        centre=centre,
        scale=scale,
        loadings=loadings,
        precision=precision,
        emotions=emotions,
        domain_mean=middle,
        domain_whiten=whiten,
        domain_quantiles=WIDER * np.quantile(away, np.linspace(0, 1, 101)),
    )
