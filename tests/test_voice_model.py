"""The model of the voice: proportion, locks, seeds, windows, guidance, its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from adapters.emotion import CORE, EmotionTimeline
from adapters.voice_analysis import BAND_CENTRES, analyse
from adapters.voice_emotion import BAND, HIGHEST, LOWEST, STRETCH, fit
from pipelines.voice_frames import HOP_SECONDS, Voice, voice_of
from pipelines.voice_model import (
    LOCKS,
    Sampling,
    VoiceDenoiser,
    VoiceModelError,
    VoicePipeline,
    condition_of,
    make_scheduler,
)
from pipelines.voice_windows import OVERLAP, WINDOW

FAST = Sampling(steps=3, variation=1.0)


def spoken(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Something like speech at 16 kHz: a gliding voice with syllables, a pause, a hiss."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16000)) / 16000
    hz = 130 * 2 ** (0.2 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(hz) / 16000
    tone = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = 0.15 + 0.85 * np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)
    hiss = 0.3 * rng.normal(size=len(t)) * (np.sin(2 * np.pi * 3 * t) < -0.8)
    sound = 0.1 * (tone * syllables + hiss)
    sound[(t > 0.8) & (t < 1.1)] = 0
    sound[t < 0.15] = 0
    return sound + 1e-4 * rng.normal(size=len(t))


@pytest.fixture(scope="module")
def voice() -> Voice:
    return voice_of(analyse(spoken(), 16000))


def tiny(seed: int = 0) -> VoicePipeline:
    """The real classes, small, with weights that do something."""
    torch.manual_seed(seed)
    heads = [
        VoiceDenoiser(channels=n, width=16, depth=2, embedding=8, spread=(0.5,) * n)
        for n in (3, 25)
    ]
    for head in heads:
        torch.nn.init.normal_(head.leave.weight, std=0.3)
        for block in head.blocks:
            torch.nn.init.normal_(block.film.weight, std=0.3)
        head.eval()
    pipe = VoicePipeline(*heads, make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.directions = fit({}, BAND_CENTRES)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> VoicePipeline:
    return tiny()


def unit(name: str, intensity: float = 1.0) -> np.ndarray:
    out = np.zeros(len(CORE))
    out[CORE.index(name)] = intensity
    return out


def take(
    pipe: VoicePipeline, voice: Voice, track: np.ndarray, seed: int = 1, **given
) -> np.ndarray:
    settings = replace(FAST, **{k: given.pop(k) for k in list(given) if hasattr(FAST, k)})
    generator = torch.Generator().manual_seed(seed)
    return pipe.sample(voice, track, generator=generator, settings=settings, **given)


def test_a_recording_is_read_relative_to_itself(voice: Voice) -> None:
    louder = voice_of(analyse(3.0 * spoken(), 16000))
    assert voice.features.shape == (len(voice.parts), 34)
    assert voice.features.dtype == np.float32
    assert np.isfinite(voice.features).all()
    assert np.allclose(louder.features, voice.features, atol=0.05)
    assert 0.5 < voice.inside.mean() < 1


def test_silence_can_be_read_and_is_left_alone(pipe: VoicePipeline) -> None:
    quiet = voice_of(analyse(np.zeros(16000), 16000))
    assert np.isfinite(quiet.features).all()
    found = take(pipe, quiet, unit("anger"))
    assert not np.delete(found, STRETCH, axis=1).any()
    assert not found[:, STRETCH].any()


def test_no_emotion_is_exactly_no_change(pipe: VoicePipeline, voice: Voice) -> None:
    frames = len(voice.features)
    found = take(pipe, voice, np.zeros(12), variation=2.0, expressiveness=3.0)
    assert found.shape == (frames, 28)
    assert not found.any()
    assert not take(pipe, voice, np.zeros(12), negative=unit("boredom"), source=unit("fear")).any()


def test_neutral_stretches_of_a_timeline_are_exactly_left_alone(
    pipe: VoicePipeline, voice: Voice
) -> None:
    track = EmotionTimeline.parse("0s neutral; 0.9s neutral; 1.2s anger .9").sample(
        np.arange(len(voice.features)) * HOP_SECONDS
    )
    found = take(pipe, voice, track)
    still = track.sum(axis=1) == 0
    assert still.sum() > 40
    assert not found[still].any()
    assert np.abs(found[~still]).max() > 1


@pytest.mark.parametrize("name", ["anger", "sadness", "awe"])
def test_changes_are_in_proportion_to_intensity(
    pipe: VoicePipeline, voice: Voice, name: str
) -> None:
    small, large = (take(pipe, voice, unit(name, level)) for level in (0.4, 0.8))
    free = (large > LOWEST + 1e-6) & (large < HIGHEST - 1e-6)
    assert free.mean() > 0.9
    assert np.allclose(large[free], 2 * small[free], atol=1e-3)


def test_a_seed_is_a_take(pipe: VoicePipeline, voice: Voice) -> None:
    one, again, other = (take(pipe, voice, unit("fear"), seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.abs(one - other).max() > 0.1


def test_variation_scales_what_lies_beyond_the_mean(pipe: VoicePipeline, voice: Voice) -> None:
    full, half, none = (
        take(pipe, voice, unit("boredom", 0.3), variation=v) for v in (1.0, 0.5, 0.0)
    )
    frames = np.repeat(unit("boredom", 0.3)[None], len(none), axis=0)
    assert np.array_equal(none, pipe.mean_change(voice, frames, np.zeros((len(none), 3))))
    assert np.allclose(half - none, 0.5 * (full - none), atol=1e-6)
    assert np.abs(full - none).max() > 0.05


def test_a_seed_says_how_and_never_how_much(pipe: VoicePipeline, voice: Voice) -> None:
    mean = take(pipe, voice, unit("anger", 0.5), variation=0.0)
    asked = np.flatnonzero((mean**2).sum(axis=0) > len(mean) * 0.25)
    assert len(asked) > 10
    for seed in (1, 2):
        rest = take(pipe, voice, unit("anger", 0.5), seed, variation=1.0) - mean
        share = (rest * mean).sum(axis=0)[asked] / (mean**2).sum(axis=0)[asked]
        assert np.abs(rest[:, asked]).max() > 0.05
        assert np.abs(share).max() < 0.02


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_exact_and_moves_nothing_else(
    pipe: VoicePipeline, voice: Voice, name: str
) -> None:
    free = take(pipe, voice, unit("anger"))
    locked = take(pipe, voice, unit("anger"), locks=(name,))
    assert free[:, LOCKS[name]].any()
    assert not locked[:, LOCKS[name]].any()
    rest = np.ones(28, dtype=bool)
    rest[LOCKS[name]] = False
    assert np.array_equal(free[:, rest], locked[:, rest])


def test_an_edit_is_the_sample_with_tremor_and_creak(pipe: VoicePipeline, voice: Voice) -> None:
    analysis = analyse(spoken(), 16000)
    made, held = (
        pipe.edit(
            analysis,
            unit("fear", 0.5),
            generator=torch.Generator().manual_seed(1),
            settings=replace(FAST, locks=locks),
        )
        for locks in ((), ("pitch",))
    )
    assert np.allclose(made.rows(), take(pipe, voice, unit("fear", 0.5)), atol=1e-5)
    assert made.tremor.max() == pytest.approx(0.15)
    assert not held.tremor.any()
    assert not held.semitones.any()
    still = pipe.edit(analysis, np.zeros(12), generator=torch.Generator())
    assert still.is_identity


def test_what_conversions_lose_is_made_up_in_edits_alone(voice: Voice) -> None:
    pipe, analysis = tiny(), analyse(spoken(), 16000)
    gain = np.ones(len(CORE))
    gain[CORE.index("anger")] = 1.2
    pipe.directions = replace(pipe.directions, gain=gain)

    def edit(name: str, **given) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        return pipe.edit(
            analysis, unit(name, 0.5), generator=generator, settings=FAST, **given
        ).rows()

    stronger = take(pipe, voice, unit("anger", 0.6))
    assert np.allclose(edit("anger"), stronger, atol=1e-5)
    assert np.allclose(edit("fear"), take(pipe, voice, unit("fear", 0.5)), atol=1e-5)
    cancelled = edit("anger", source=unit("anger", 0.5))
    mixed = take(pipe, voice, unit("anger", 0.6), source=unit("anger", 0.6))
    assert np.allclose(cancelled, mixed, atol=1e-5)


def test_everything_locked_is_no_change(pipe: VoicePipeline, voice: Voice) -> None:
    assert not take(pipe, voice, unit("anger"), locks=tuple(LOCKS)).any()


def test_expressiveness_goes_beyond_what_is_told(pipe: VoicePipeline, voice: Voice) -> None:
    plain, more = (take(pipe, voice, unit("love"), expressiveness=w) for w in (1.0, 2.5))
    assert np.abs(plain - more).max() > 0.05


def test_negative_emotions_push_the_mean_away(pipe: VoicePipeline, voice: Voice) -> None:
    plain = take(pipe, voice, unit("sadness"), variation=0.0)
    away = take(pipe, voice, unit("sadness"), variation=0.0, negative=unit("anger"))
    tone = voice.features[:, 1] > 0
    assert away[tone, 0].mean() < plain[tone, 0].mean() - 1
    shaped = take(pipe, voice, unit("sadness"), negative=unit("anger"))
    assert np.abs((shaped - away) - (take(pipe, voice, unit("sadness")) - plain)).max() > 0.01


def test_the_emotion_of_the_source_is_taken_away(pipe: VoicePipeline, voice: Voice) -> None:
    same = take(pipe, voice, unit("anger"), variation=0.0, source=unit("anger"))
    assert np.abs(same).max() < 1e-6
    calmer = take(pipe, voice, unit("anger", 0.5), variation=0.0, source=unit("anger"))
    assert calmer[voice.features[:, 1] > 0, 0].mean() > -6


def test_silence_keeps_its_level_and_the_ends_their_length(
    pipe: VoicePipeline, voice: Voice
) -> None:
    found = take(pipe, voice, unit("sadness"), variation=2.0)
    assert not found[~voice.inside, STRETCH].any()
    assert not found[voice.parts[:, -1] == 1][:, BAND].any()


def test_long_recordings_are_drawn_in_windows_without_seams(pipe: VoicePipeline) -> None:
    sound = np.tile(spoken(), 15)  # 30 s: 5 windows
    long = voice_of(analyse(sound, 16000))
    assert len(long.features) > 3 * WINDOW
    steps: list[tuple[int, int]] = []
    found = take(
        pipe, long, unit("anger", 0.5), on_step=lambda done, all_: steps.append((done, all_))
    )
    assert steps == [(k + 1, 6) for k in range(6)]
    jumps = np.abs(np.diff(found[:, STRETCH]))
    inside = long.inside[1:] & long.inside[:-1]
    edges = np.zeros(len(jumps), dtype=bool)
    for k in range(1, len(found) // (WINDOW - OVERLAP)):
        edges[k * (WINDOW - OVERLAP) - 4 : k * (WINDOW - OVERLAP) + 4] = True
    assert jumps[edges & inside].max() <= 1.5 * jumps[inside & ~edges].max()


def test_another_scheduler_of_diffusers_runs_the_same_model(
    pipe: VoicePipeline, voice: Voice
) -> None:
    other = VoicePipeline(
        pipe.prosody,
        pipe.timbre,
        DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, algorithm_type="dpmsolver++"
        ),
    )
    other.directions = pipe.directions
    found = take(other, voice, unit("anger"), steps=8)
    reference = take(pipe, voice, unit("anger"), steps=60)
    assert np.isfinite(found).all()
    assert np.corrcoef(found[:, 0], reference[:, 0])[0, 1] > 0.8


def test_the_last_step_of_the_schedule_is_pure_noise() -> None:
    scheduler = make_scheduler()
    scheduler.set_timesteps(10)
    assert scheduler.alphas_cumprod[-1] == 0
    assert scheduler.timesteps[0] == 999


def test_unmeasured_emotions_are_told_by_their_point_alone() -> None:
    told = condition_of(np.repeat(unit("awe")[None], 2, axis=0), np.zeros((2, 3)))
    assert told.shape == (2, 16)
    assert not told[:, :12].any()
    assert np.abs(told[:, 12:15]).max() > 0.2
    named = condition_of(np.repeat(unit("anger", 0.4)[None], 2, axis=0), np.zeros((2, 3)))
    assert named[0, CORE.index("anger")] == pytest.approx(1)


def test_the_folder_is_an_ordinary_one(pipe: VoicePipeline, voice: Voice, tmp_path: Path) -> None:
    pipe.save(tmp_path / "model")
    assert (tmp_path / "model" / "model_index.json").is_file()
    assert (tmp_path / "model" / "prosody" / "diffusion_pytorch_model.safetensors").is_file()
    one, two = VoicePipeline.load(tmp_path / "model"), VoicePipeline.load(tmp_path / "model")
    assert torch.equal(one.prosody.spread, pipe.prosody.spread)
    found = take(one, voice, unit("happiness"))
    assert np.array_equal(found, take(two, voice, unit("happiness")))
    assert np.abs(found - take(pipe, voice, unit("happiness"))).max() < 0.2  # half precision
    assert pipe.prosody.dtype == torch.float32


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(VoiceModelError, match=r"^voice model: [^\n]*run python -m training.voice"):
        VoicePipeline.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "steps: allowed 1 to 1000, received 0"),
        ({"variation": float("nan")}, "variation: allowed 0 to 2"),
        ({"locks": ("loudness",)}, "loudness is not known; known: pitch, timing"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict, words: str) -> None:
    with pytest.raises(VoiceModelError, match=words):
        Sampling(**given)


@pytest.mark.parametrize("track", [np.zeros((3, 12)), np.zeros(11), np.full(12, np.inf)])
def test_tracks_that_do_not_fit_are_refused(
    pipe: VoicePipeline, voice: Voice, track: np.ndarray
) -> None:
    with pytest.raises(VoiceModelError, match="track"):
        take(pipe, voice, track)
