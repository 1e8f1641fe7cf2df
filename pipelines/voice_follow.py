"""What is asked of a voice as a whole is kept: cues in proportion to the intensity.

An edit is drawn frame by frame, and what its frames come to over a sentence is not quite what was
asked: a take narrows the melody or lengthens less. Pitch, length and level of the result are known
before it is rendered, and are set. How bright and lively it is heard to be is not: breath
brightens, and a bright vowel has more to darken than a dull one. So the sound is rendered, measured
as a listener would (adapters.voice_cues), and rendered again with what was missing. How much
is asked stands in the cue table (assets/emotions/voice_cues.json) times the intensity. A course of
emotions over time is left as it was drawn.

It deliberately knows no model and no sound file, and changes no shape: only how much of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.emotion import CORE
from adapters.voice_analysis import BAND_CENTRES, QUIETEST, Analysis
from adapters.voice_cues import cues
from adapters.voice_edit import LIMITS, VoiceEdit
from adapters.voice_emotion import cue_table, tilt_shape
from adapters.voice_expected import USUAL, expected

Floats = NDArray[np.float64]

ROUNDS = 3
"""Times that a sound is measured and rendered again."""
LEFT: Mapping[str, float] = {"alpha_ratio": 0.2, "pitch_sd": 0.05, "pitch_mean": 0.05}
"""dB and semitones that may be missing; less is not heard."""
MOST_TILT, MOST_SHIFT, MOST_WIDER = 6.0, 3.0, 1.6
"""The most that is corrected: dB a round, semitones, factor. Where more is missing the voice cannot
give it, and what would be forced is heard as damage."""
MOST_DRAWN = 4.1
"""Factor on the width of a melody as it was drawn, which may be nearly flat or a wild one."""
MOST_LONGER = math.log(2.5)
"""Logarithm of the longest result, times the source: what is stretched further is no speech."""
STEADY = 0.05
"""Intensity by which frames may differ. A course over time is left as it was drawn: its steps are
no melody, and what is missing in one part must not be added in another."""
MOST_MISHEARD = 1.0
"""Semitones between the pitch of the frames and the pitch that is measured in the sound."""
GROUPS: Mapping[str, str] = {
    "pitch_mean": "pitch", "pitch_sd": "pitch", "alpha_ratio": "timbre",
}  # fmt: skip
"""Cue -> the lock group that moves it (`pipelines.voice_model.LOCKS`)."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a whole recording should change by.

    cues: name -> change in the units of `adapters.voice_cues`; pitch_sd a factor. level: dB.
    duration: factor. What is not named, or None, is left as it comes.
    """

    cues: Mapping[str, float] = field(default_factory=dict)
    level: float | None = None
    duration: float | None = None

    @property
    def empty(self) -> bool:
        """Whether everything is left as it comes."""
        return not self.cues and self.level is None and self.duration is None

    def changes(self, analysis: Analysis) -> dict[str, float]:
        """Cue -> the change that this source is brought to, in the cue's unit."""
        found = dict(self.cues)
        if "pitch_sd" in found:
            found["pitch_sd"] = (found["pitch_sd"] - 1) * cues(analysis)["pitch_sd"]
        if self.level is not None:
            found["level"] = self.level
        return found


def goal_of(
    track: ArrayLike,
    gain: ArrayLike,
    gains: Mapping[str, float] | None = None,
    *,
    melody: bool = True,
    timed: bool = True,
) -> Goal:
    """The goal of intensities (T, 12) in the order of CORE.

    gain: (12,) or a number that they count times (`VoiceDirections.gain`). gains: lock group ->
    factor on its change, 0 where it is locked. melody: whether the deviation of the pitch is one
    person's. timed: whether the length is free. A course over time has the empty goal: one figure
    for the whole says nothing about its parts.
    """
    told = np.asarray(track, dtype=np.float64) * np.asarray(gain, dtype=np.float64)
    share = dict(gains or {})
    most = float(np.abs(told.mean(axis=0)).max())
    if most == 0 or np.ptp(told, axis=0).max() > STEADY:
        return Goal()
    # Of the kind asked for, then times how much: a faint emotion moves the same cues, faintly.
    sizes = {name: most * x for name, x in expected(told / most).items()}
    held = {
        name: sizes[name] * share.get(group, 1.0)
        for name, group in GROUPS.items()
        if name in sizes and share.get(group, 1.0) > 0
    }
    if "pitch_sd" in held:
        held["pitch_sd"] = 1.0 + held["pitch_sd"] / USUAL["pitch_sd"]
        if not melody:
            del held["pitch_sd"]
    level = duration = None
    if share.get("level", 1.0) > 0:
        level = sizes.get("level", 0.0) * share.get("level", 1.0)
    if timed and share.get("timing", 1.0) > 0:
        rows = cue_table()["emotions"]
        each = [math.log(rows[name]["duration"]) for name in CORE]
        longer = float(told.mean(axis=0) @ np.array(each)) * share.get("timing", 1.0)
        duration = math.exp(min(max(longer, -MOST_LONGER), MOST_LONGER))
    return Goal(held, level, duration)


def followed(
    render: Callable[[VoiceEdit], tuple[NDArray[np.float32], Analysis]],
    analysis: Analysis,
    edit: VoiceEdit,
    goal: Goal,
    rounds: int = ROUNDS,
) -> tuple[VoiceEdit, NDArray[np.float32], Analysis]:
    """The edit that was followed, its sound, and the analysis of it.

    render: an edit -> its sound and the analysis of that. analysis: of the source. With the empty
    goal or without speech this is one rendering of the edit as it is.
    """
    if goal.empty or not analysis.speech.any():
        return edit, *render(edit)
    edit = _timed(edit, goal)
    edit = _pitched(analysis, edit, goal)
    edit = _levelled(analysis, edit, goal)
    waveform, made = render(edit)
    before = cues(analysis)
    for _ in range(rounds):
        corrected = _corrected(analysis, edit, goal, before, cues(made))
        if corrected is edit:
            break
        edit = _levelled(analysis, corrected, goal)
        waveform, made = render(edit)
    return edit, waveform, made


def _corrected(
    analysis: Analysis,
    edit: VoiceEdit,
    goal: Goal,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> VoiceEdit:
    """The edit with the tilt and melody that the sound lacks; the same object where nothing is."""
    voiced = _voiced(analysis)
    if not voiced.any():
        return edit
    out = edit
    if "alpha_ratio" in goal.cues:
        off = before["alpha_ratio"] + goal.cues["alpha_ratio"] - after["alpha_ratio"]
        if math.isfinite(off) and abs(off) > LEFT["alpha_ratio"]:
            more = float(np.clip(off, -MOST_TILT, MOST_TILT)) * tilt_shape(BAND_CENTRES)
            out = replace(out, bands=_within("bands", out.bands + more))
    if "pitch_sd" in goal.cues:
        factor = before["pitch_sd"] * goal.cues["pitch_sd"] / max(after["pitch_sd"], 0.1)
        off = (factor - 1) * after["pitch_sd"]
        # A sound in which the pitch is lost for a moment seems far wider than it is.
        if abs(off) > LEFT["pitch_sd"] and 1 / MOST_WIDER < factor < MOST_WIDER:
            tone = 12 * np.log2(analysis.f0[voiced]) + out.semitones[voiced]
            wider = out.semitones.astype(np.float64)
            wider[voiced] += (factor - 1) * (tone - tone.mean())
            out = replace(out, semitones=_within("semitones", wider))
    if "pitch_mean" in goal.cues:
        off = before["pitch_mean"] + goal.cues["pitch_mean"] - after["pitch_mean"]
        # More than that is the tracker's doing: the frames themselves are where they should be.
        if LEFT["pitch_mean"] < abs(off) < MOST_MISHEARD:
            out = replace(out, semitones=_within("semitones", out.semitones + off))
    return out


def level_of(analysis: Analysis, edit: VoiceEdit) -> float:
    """dB by which an edit moves the level of the speech as a whole, stretch included."""
    said = analysis.speech
    if not said.any() or analysis.level <= QUIETEST:
        return 0.0
    weight = np.exp(edit.log_stretch[said].astype(np.float64))
    power = 10 ** ((analysis.energy[said].astype(np.float64) + edit.energy_db[said]) / 10)
    return float(10 * np.log10((weight * power).sum() / weight.sum()) - analysis.level)


def _voiced(analysis: Analysis) -> NDArray[np.bool_]:
    return analysis.voiced & analysis.speech & (analysis.f0 > 0)


def _pitched(analysis: Analysis, edit: VoiceEdit, goal: Goal) -> VoiceEdit:
    """The edit with the mean pitch and the width of melody that were asked."""
    voiced = _voiced(analysis)
    if voiced.sum() < 6:
        return edit
    tone = 12 * np.log2(analysis.f0[voiced].astype(np.float64))
    change = edit.semitones[voiced].astype(np.float64)
    time = np.exp(edit.log_stretch[voiced].astype(np.float64))
    if "pitch_sd" in goal.cues:
        result = tone + change
        centre = float(np.average(result, weights=time))
        width = math.sqrt(float(np.average((result - centre) ** 2, weights=time)))
        factor = tone.std() * goal.cues["pitch_sd"] / max(width, 0.1)
        change += (np.clip(factor, 1 / MOST_DRAWN, MOST_DRAWN) - 1) * (result - centre)
    if "pitch_mean" in goal.cues:
        now = float(np.average(tone + change, weights=time)) - float(tone.mean())
        off = float(np.clip(goal.cues["pitch_mean"] - now, -MOST_SHIFT, MOST_SHIFT))
        change += off
    semitones = edit.semitones.astype(np.float64)
    semitones[voiced] = change
    # Unvoiced sounds have no pitch of their own: where they meet a voice they go along.
    frames = np.arange(len(edit))
    at = np.flatnonzero(voiced)
    added = np.interp(frames, at, change - edit.semitones[voiced])
    semitones[~voiced] += added[~voiced]
    return replace(edit, semitones=_within("semitones", semitones))


def _within(name: str, values: Floats) -> NDArray[np.float32]:
    return np.clip(values, -LIMITS[name], LIMITS[name]).astype(np.float32)


def _timed(edit: VoiceEdit, goal: Goal) -> VoiceEdit:
    """The edit with the length that was asked."""
    if goal.duration is None:
        return edit
    stretch = edit.log_stretch.astype(np.float64)
    stretch += math.log(goal.duration / np.exp(stretch).mean())
    return replace(edit, log_stretch=_within("log_stretch", stretch))


def _levelled(analysis: Analysis, edit: VoiceEdit, goal: Goal) -> VoiceEdit:
    """The edit with the level that was asked."""
    if goal.level is None:
        return edit
    energy = edit.energy_db.astype(np.float64) + goal.level - level_of(analysis, edit)
    return replace(edit, energy_db=_within("energy_db", energy))
