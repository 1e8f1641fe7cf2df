"""The recipe of the mel route: any folder of speech, the average voice, a run that resumes.

Speech is synthesised here, so that what emotions do is known. What needs real speech runs where
../shared/data/voice lies, and says so when it does not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.emotion import CORE
from adapters.speech_encoder import SPEECH, SpeechEncoder
from pipelines.media_sound import encode_sound, load_sound
from pipelines.voice_average import AverageVoice, read_source
from pipelines.voice_mel import MelVoicePipeline
from pipelines.voice_model import Sampling
from tests.mel_voice import tiny_encoder, tiny_vocoder, unit
from tests.speech import sentence
from training.voice_mel import (
    Feed,
    Settings,
    fit_model,
    held_loss,
    main,
    make_pipeline,
    rebuilt,
    report,
    row_of,
    spread_of,
)
from training.voice_mel_data import (
    Clip,
    VoiceMelError,
    anchor_pitch,
    find_recordings,
    fit_directions,
    fit_units,
    load_clips,
    paired,
    prepared,
    read_all,
    ridge,
)

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "voice"
PITCHES = {"anna": 190.0, "ben": 105.0}
CHANGES = {"neutral": 1.0, "anger": 1.35, "sadness": 0.85}


def write(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_sound(x[None], 16000, {}, ext="wav"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people say two sentences neutrally, angrily (higher, louder) and sadly (lower)."""
    place = tmp_path_factory.mktemp("speech")
    for person, pitch in PITCHES.items():
        for number in range(2):
            for emotion, factor in CHANGES.items():
                x = (0.3 + 0.1 * (emotion == "anger")) * sentence(
                    pitch=pitch * factor * (1 + 0.03 * number)
                )
                write(place / person / f"s{number}_{emotion}.wav", x[: len(x) - 500 * number])
    write(place / "free.wav", 0.3 * sentence(pitch=150.0))
    write(place / "silence.wav", np.zeros(16000))
    (place / "broken.wav").write_bytes(b"RIFF nothing")
    (place / "notes.txt").write_text("no sound")
    return place


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return tiny_encoder("wavlm")


@pytest.fixture(scope="module")
def data(folder: Path, encoder: SpeechEncoder) -> tuple[AverageVoice, list[Clip]]:
    told: list[str] = []
    found = read_all(find_recordings(folder), encoder, units=8, tell=told.append)
    assert len(told) == 1
    assert "left out: " in told[0]
    return found


def test_a_folder_is_read_by_its_names(folder: Path) -> None:
    found = {one.name: one for one in find_recordings(folder)}
    assert len(found) == 15
    one = found["anna/s1_anger.wav"]
    assert (one.speaker, one.sentence, one.emotion) == ("anna", "s1", "anger")
    assert (found["free.wav"].sentence, found["free.wav"].emotion) == ("", "")


def test_a_manifest_says_more(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,speaker,emotion,sentence_id\nx.wav,p1,angry,a01\ny.wav,p1,drunk,\nz.wav,p1,,\n"
    )
    found = find_recordings(tmp_path)
    assert [(one.speaker, one.sentence, one.emotion) for one in found] == [
        ("p1", "a01", "anger"),
        ("p1", "", ""),
        ("p1", "", ""),
    ]


def test_pieces_and_their_cache(
    folder: Path, encoder: SpeechEncoder, data: tuple[AverageVoice, list[Clip]], tmp_path: Path
) -> None:
    average, clips = data
    assert len(clips) == 13  # silence says nothing
    clip = next(clip for clip in clips if clip.name == "ben/s0_neutral.wav")
    frames = len(clip)
    assert clip.mel.shape == (frames, 80)
    assert clip.features.shape == (frames, 10)
    assert clip.units.shape == clip.speech.shape == (frames,)
    assert clip.embedding.shape == (encoder.width,)
    assert clip.pitch[0] == pytest.approx(12 * np.log2(105 / 100), abs=1.5)
    # as the pipeline reads it
    sound = load_sound(folder / "ben" / "s0_neutral.wav")
    read = read_source(encoder, sound.waveform, sound.sample_rate)
    assert np.array_equal(read.mel, clip.mel)
    assert np.array_equal(average.units_of(read.states, read.centres, frames), clip.units)
    place, cache = folder / "anna", tmp_path
    first = prepared(place, cache, encoder, 8)
    (file,) = cache.glob("clips-*.npz")
    written = file.stat().st_mtime_ns
    again = prepared(place, cache, encoder, 8)
    assert file.stat().st_mtime_ns == written
    assert torch.equal(first[0].centres, again[0].centres)
    assert torch.equal(first[0].mels, again[0].mels)
    assert [clip.name for clip in again[1]] == [clip.name for clip in first[1]]
    assert all(np.array_equal(a.mel, b.mel) for a, b in zip(first[1], again[1], strict=True))
    assert {clip.emotion for clip in load_clips(file)} == set(CHANGES)
    prepared(place, cache, encoder, 9)
    assert len(list(cache.glob("clips-*.npz"))) == 2


def test_long_recordings_are_cut(tmp_path: Path, encoder: SpeechEncoder) -> None:
    write(tmp_path / "long.wav", np.tile(0.3 * sentence(), 12))
    _, clips = read_all(find_recordings(tmp_path), encoder, units=4)
    assert [clip.name for clip in clips] == ["long.wav#0", "long.wav#1"]
    assert max(len(clip) for clip in clips) == 1 + 20 * 16000 // 256


def test_kinds_of_sound_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(5, 6, generator=generator)
    label = torch.arange(500) % 5
    states = middles[label] + 0.3 * torch.randn(500, 6, generator=generator)
    average = AverageVoice(6, 5)
    fit_units(average, states)
    unit_ = average.units_of(states, np.arange(500) * 256.0, 500)
    assert all(len(set(unit_[label.numpy() == k])) == 1 for k in range(5))
    assert len(set(unit_)) == 5


def test_the_average_voice_has_the_mean_spectra_of_its_units(
    data: tuple[AverageVoice, list[Clip]],
) -> None:
    average, clips = data
    own = [clip for clip in clips if not clip.held_out]
    mels = np.concatenate([clip.mel for clip in own])
    units = np.concatenate([clip.units for clip in own])
    for k in set(units):
        assert np.allclose(average.mels[k].numpy(), mels[units == k].mean(axis=0), atol=1e-3)
    told = average.normal(torch.from_numpy(np.stack([clip.embedding for clip in own])))
    assert told.mean(dim=0).abs().max() < 1e-3
    assert torch.allclose(told.std(dim=0, correction=0), torch.ones(16), atol=1e-2)
    row = row_of(own[0], average)
    assert np.allclose(row["rest"] + row["prior"], average.relative(own[0].mel), atol=1e-5)
    assert set(np.unique(row["known"])) == {np.float32(0.2), np.float32(1.0)}


def test_pitch_is_read_off_embeddings_where_it_can_be() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 200))
    slope = rng.normal(size=(200, 1)) * (np.arange(200) < 5)[:, None]
    y = np.hstack([x @ slope + 0.1 * rng.normal(size=(80, 1)), rng.normal(size=(80, 1))])
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    slopes, shares = ridge(np.hstack([x[:, :5], 0.1 * x[:, 5:]]), y)
    assert shares[0] > 0.9
    assert np.corrcoef(slopes[:5, 0], slope[:5, 0])[0, 1] > 0.99
    assert shares[1] < 0.2
    # noise tells nothing: then nothing is said
    nothing, share = ridge(x, rng.normal(size=(80, 1)))
    assert (share <= 0).all() == (not nothing.any())


def test_directions_come_from_takes_of_one_sentence(
    data: tuple[AverageVoice, list[Clip]], encoder: SpeechEncoder
) -> None:
    average, clips = data
    own = [clip for clip in clips if not clip.held_out]
    pairs = paired(own)
    assert {(a.emotion, b.emotion) for a, b in pairs} == {
        ("neutral", "anger"),
        ("neutral", "sadness"),
    }
    assert all((a.speaker, a.sentence) == (b.speaker, b.sentence) for a, b in pairs)
    bank = fit_directions(clips, encoder.digest)
    assert bank.pairs == len(pairs)
    acted = fit_directions(clips, encoder.digest, intensity=2.0)
    assert torch.allclose(2 * acted.vectors[SPEECH], bank.vectors[SPEECH], atol=1e-6)
    angry, sad = CORE.index("anger"), CORE.index("sadness")
    shift, _ = average.pitch_of(bank.vectors[SPEECH])
    assert shift[angry] > shift[sad]
    # what the takes did: 1.35 and .85 times the pitch
    kept = average.pitch.detach().clone()
    anchor_pitch(average, bank, clips)
    shift, factor = average.pitch_of(bank.vectors[SPEECH])
    average.pitch.data.copy_(kept)
    assert shift[angry] == pytest.approx(12 * np.log2(1.35), abs=0.6)
    assert shift[sad] == pytest.approx(12 * np.log2(0.85), abs=0.6)
    assert np.allclose(factor[[angry, sad]], 1.0, atol=0.15)


def made(encoder: SpeechEncoder, data: tuple[AverageVoice, list[Clip]]) -> MelVoicePipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_pipeline(encoder, tiny_vocoder(), *data, width=32, depth=2)


def test_it_learns_and_resumes_exactly(
    encoder: SpeechEncoder, data: tuple[AverageVoice, list[Clip]], tmp_path: Path
) -> None:
    average, clips = data
    own = [clip for clip in clips if not clip.held_out]
    held = [clip for clip in clips if clip.held_out] or own[:3]
    feed = Feed(own, average, batch=4, crop=64, seed=0)
    batch = feed.draw(3)
    assert {name: tuple(rows.shape) for name, rows in batch.items()} == {
        "rest": (4, 64, 80),
        "prior": (4, 64, 80),
        "known": (4, 64, 80),
        "features": (4, 64, 10),
        "condition": (4, 64, 16),
    }
    assert all(torch.equal(batch[name], rows) for name, rows in feed.draw(3).items())
    whole = made(encoder, data)
    before = held_loss(whole, whole.denoiser, held)
    settings = Settings(minutes=60, steps=60, rate=2e-3, check=30)
    saved: list[bool] = []
    least = fit_model(
        whole, feed, held, tmp_path / "a", settings, lambda: saved.append(whole.denoiser.training)
    )
    assert least < 0.8 * before
    assert held_loss(whole, whole.denoiser, held) == pytest.approx(least)
    assert len(saved) == 2
    assert not whole.denoiser.training
    # stopped at half way, by an error of what is called there, and taken up again
    halves = made(encoder, data)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_model(halves, feed, held, tmp_path / "b", settings, stop)
    again = made(encoder, data)
    fit_model(again, feed, held, tmp_path / "b", settings)
    for name, value in whole.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], value), name
    log = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [30, 60]
    # the average voice is nearer to what was said when the model helps
    clip = own[0]
    mu = average.prior(clip.units)
    off = [np.square(mel - clip.mel)[clip.speech].mean() for mel in (mu, rebuilt(whole, clip))]
    assert off[1] < off[0]
    assert spread_of(own, average).shape == (80,)


def test_the_command_makes_a_folder_that_converts(
    folder: Path, encoder: SpeechEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.save(tmp_path / "encoder")
    tiny_vocoder().save_pretrained(tmp_path / "vocoder")
    given = [
        *("--encoder", str(tmp_path / "encoder"), "--layer", "1"),
        *("--vocoder", str(tmp_path / "vocoder"), "--data", str(folder)),
        *("--out", str(tmp_path / "model"), "--run", str(tmp_path / "run")),
        *("--steps", "6", "--check", "3", "--units", "8", "--width", "16", "--depth", "1"),
        *("--batch", "2", "--crop", "32", "--device", "cpu", "--offline"),
    ]
    assert main(given) == 0
    assert "mel_error_db" in capsys.readouterr().out
    pipe = MelVoicePipeline.load(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "in 6\nsteps" in card
    assert str(tmp_path) not in card
    x = load_sound(folder / "anna" / "s0_neutral.wav").waveform[0]
    settings = Sampling(steps=2)
    found = pipe.convert(
        x, unit("anger"), generator=torch.Generator().manual_seed(0), settings=settings
    )
    assert found.shape == x.shape
    assert np.abs(found - x).max() > 0.01
    assert main([*given, "--steps", "6"]) == 0  # nothing left to do


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--encoder", "nobody/knows-this"), "no safetensors of nobody/knows-this"),
        (("--vocoder", "nobody/knows-this"), "vocoder: no safetensors of nobody/knows-this"),
        (("--data", "empty"), "holds no WAV, FLAC or MP3"),
        (("--units", "5000"), "too few for 5000 units"),
        (("--layer", "7"), "layer: 1 to 2 of this speech encoder, received 7"),
        (("--intensity", "0"), "intensity: allowed 0.1 to 3, received 0"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(
    change: tuple[str, str],
    words: str,
    folder: Path,
    encoder: SpeechEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    encoder.save("encoder")
    tiny_vocoder().save_pretrained("vocoder")
    write(Path("data/one_neutral.wav"), 0.3 * sentence())
    given = ["--encoder", "encoder", "--vocoder", "vocoder", "--data", "data", "--out", "out"]
    capsys.readouterr()
    assert main([*given, "--run", "run", "--offline", *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error


def test_without_labelled_takes_it_says_how_to_name_them(
    data: tuple[AverageVoice, list[Clip]],
) -> None:
    _, clips = data
    calm = [clip for clip in clips if clip.emotion in ("", "neutral")]
    with pytest.raises(VoiceMelError, match=r"name takes NAME_neutral\.wav and NAME_anger\.wav"):
        fit_directions(calm, "x")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real speech is not in {REAL}")
def test_real_takes_move_embeddings_alike(encoder: SpeechEncoder) -> None:
    """Held-out people: even a random encoder hears that anger is one thing and sadness another."""
    every = find_recordings(REAL)
    people = ("emodb_03", "emodb_08", "emodb_12", "emodb_16")
    chosen = [
        one
        for one in every
        if one.speaker in people
        and one.sentence in ("a01", "a02")
        and one.emotion in ("neutral", "anger", "sadness")
    ]
    average, clips = read_all(chosen, encoder, units=20)
    bank = fit_directions(clips, encoder.digest, 1.3)
    D = bank.vectors[SPEECH].numpy()
    difference = D[CORE.index("anger")] - D[CORE.index("sadness")]
    right = [
        np.sign(difference @ (b.embedding - a.embedding)) == (1 if b.emotion == "anger" else -1)
        for a, b in paired([clip for clip in clips if clip.held_out])
    ]
    assert len(right) >= 6
    assert np.mean(right) > 0.6  # chance .5
    pipe = make_pipeline(encoder, tiny_vocoder(), average, clips, width=16, depth=1)
    found = report(pipe, clips)
    assert set(found["emotions"]) == {"anger", "sadness"}
    assert found["mel_error_db"]["average_voice"][0] > 0
