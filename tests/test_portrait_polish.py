"""Faces painted again by the real classes, tiny and random: frames, seeds, windows, restoring."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.assets import ASSETS
from adapters.directions import DirectionBank
from adapters.emotion import CORE
from adapters.face_motion import Motion
from pipelines import BackboneError
from pipelines.face_mesh import from_five
from pipelines.media import load_image
from pipelines.portrait_maps import face_share
from pipelines.portrait_polish import _same_light, polish, polish_steps, windows
from pipelines.portrait_polishers import (
    PARTS,
    POLISHERS,
    Polisher,
    check_polisher,
    load_polisher,
)
from pipelines.portrait_rig import Rig
from pipelines.worker import Stopped
from tests import tiny
from tests.tiny_polishers import (
    tiny_controlnet,
    tiny_motion_adapter,
    tiny_polisher,
    tiny_polisher_folder,
)

KINDS = ("animatediff", "wan-animate")
# Short windows, so that six frames are more than one run, or for Wan-Animate one segment.
SETTINGS = {
    "animatediff": {"size": 32, "window": 4, "overlap": 2, "steps": 4, "guidance": 2.0},
    "wan-animate": {"size": 32, "window": 5, "overlap": 1, "steps": 4, "guidance": 1.0},
}
FRAMES = 6
COMMIT = "0123456789abcdef" * 2 + "01234567"


@cache
def rig() -> Rig:
    photo = load_image(ASSETS / "samples" / "faces" / "cartoon.jpg").resize((160, 160))
    face = from_five(photo, [(66, 70), (94, 70), (80, 83), (70, 101), (91, 101)])
    return Rig(photo, face, size=64)


def motion_of(seed: int, count: int = FRAMES) -> Motion:
    rng = np.random.default_rng(seed)
    return Motion(rng.uniform(0, 0.5, (count, 52)), rng.uniform(-6, 6, (count, 3)))


@cache
def frames() -> list[np.ndarray]:
    return list(rig().frames(motion_of(0)))


@cache
def polisher(kind: str) -> Polisher:
    return Polisher(tiny_polisher(kind), kind, **SETTINGS[kind])


def painted(
    which: Polisher | str, *, seed: int = 1, motion: int = 0, count: int = FRAMES, **more: object
) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    given = itertools.islice(frames(), count)
    out = polish(given, rig(), motion_of(motion, count), which, generator=generator, **more)
    return np.stack(list(out))


@cache
def plain(kind: str) -> np.ndarray:
    return painted(polisher(kind))


def same_parts(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[k] is other[k] for k in one)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_frames_of_the_same_size_and_only_the_face_changes(kind: str) -> None:
    out = plain(kind)
    warped = np.stack(frames())
    assert out.dtype == np.uint8
    assert out.shape == warped.shape
    square, (height, width) = rig().square, warped.shape[1:3]
    assert square.left < 0, "a square that leaves the photo"
    own = face_share(square, square.side)[..., 0]
    away = max(-square.top, -square.left, square.top + square.side, square.left + square.side)
    wide = np.zeros((height + 2 * away, width + 2 * away))
    y, x = square.top + away, square.left + away
    wide[y : y + square.side, x : x + square.side] = own
    share = wide[away : away + height, away : away + width]
    assert (out[:, share == 0] == warped[:, share == 0]).all()
    assert (np.abs(out.astype(int) - warped)[:, share == 1].mean((1, 2)) > 2).all(), "every frame"


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_film(kind: str) -> None:
    assert (painted(polisher(kind)) == plain(kind)).all()
    assert (painted(polisher(kind), seed=2) != plain(kind)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_the_warp_and_loads_nothing(kind: str) -> None:
    out = polish(
        frames(), rig(), motion_of(0), "no-such-name", generator=torch.Generator(), strength=0
    )
    assert all(one is other for one, other in zip(out, frames(), strict=True))
    assert polish_steps(FRAMES, polisher(kind), 0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_paints_what_was_saved(kind: str, tmp_path: Path) -> None:
    folder = tiny_polisher_folder(kind, tmp_path / "weights")
    found = load_polisher(str(folder), device="cpu", offline=True, **SETTINGS[kind])
    assert type(found.pipe) is type(polisher(kind).pipe)
    assert found.digest == polisher(kind).digest
    # a loaded tensor lies elsewhere in memory, which changes the last bits of some sums
    assert np.abs(painted(found).astype(int) - plain(kind)).max() <= 1
    assert found.digest != Polisher(tiny_polisher(kind, seed=1), **SETTINGS[kind]).digest


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_paints_the_same(kind: str, tmp_path: Path) -> None:
    """What an accelerator runs: bfloat16, with Wan-Animate's autoencoder in full precision."""
    folder = tiny_polisher_folder(kind, tmp_path / "weights")
    found = load_polisher(
        str(folder), device="cpu", dtype="bfloat16", offline=True, **SETTINGS[kind]
    )
    assert found.pipe.dtype == torch.bfloat16
    assert found.pipe.vae.dtype == (torch.float32 if found.wan else torch.bfloat16)
    if found.wan:
        whole = polisher(kind).pipe.vae.state_dict()
        assert all((whole[k] == v).all() for k, v in found.pipe.vae.state_dict().items())
    assert np.abs(painted(found, count=3).astype(int) - painted(polisher(kind), count=3)).mean() < 2


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_told_and_counted(kind: str) -> None:
    seen: list[tuple[int, int]] = []
    painted(polisher(kind), on_step=lambda *step: seen.append(step))
    total = 4  # two windows of 4 that share 2, two segments of 5 that share 1; two of four steps
    assert polish_steps(FRAMES, polisher(kind), 0.4) == total
    assert seen == [(i + 1, total) for i in range(total)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_stills_and_short_clips(kind: str, count: int) -> None:
    assert len(painted(polisher(kind), count=count)) == count


@pytest.mark.parametrize("kind", KINDS)
def test_the_motion_steers_what_is_painted(kind: str) -> None:
    """The same frames and noise, but outlines or a skeleton of other movements."""
    assert (painted(polisher(kind), motion=3) != plain(kind)).any()


def first_inputs(kind: str, strength: float, count: int = 4) -> list[torch.Tensor]:
    """What the denoiser is given at the first step of each run, (frames, C, h, w)."""
    which, seen = polisher(kind), []
    part = which.pipe.transformer if which.wan else which.pipe.unet
    taken = polish_steps(4, which, strength)  # four frames are one run of either kind

    def look(_: object, given: tuple, named: dict) -> None:
        latents = named["hidden_states"][0, :16] if which.wan else given[0][0]
        seen.append(latents.transpose(0, 1).clone())

    hook = part.register_forward_pre_hook(look, with_kwargs=True)
    try:
        painted(which, strength=strength, count=count)
    finally:
        hook.remove()
    return seen[::taken]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weaker_the_nearer_to_the_frames(kind: str) -> None:
    """The noise that a run starts from grows with strength: its first inputs differ by noise only.

    With the same seed, inputs at .25 and .5 are less far apart than those at .25 and 1.
    """
    weak, middle, full = (first_inputs(kind, s)[0] for s in (0.25, 0.5, 1.0))
    assert weak.shape == full.shape
    assert (weak - middle).norm() < 0.9 * (weak - full).norm()


def test_a_frame_has_its_own_noise_in_whatever_window() -> None:
    runs = first_inputs("animatediff", 0.5, FRAMES)
    starts = [start for start, _ in windows(FRAMES, 4, 2)]
    assert starts == [0, 2]
    torch.testing.assert_close(runs[0][2:], runs[1][:2], rtol=0, atol=1e-5)
    assert (runs[0][0] - runs[0][1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["stopped", "closed"])
def test_nothing_is_left_on_the_pipeline(kind: str, how: str) -> None:
    pipe = polisher(kind).pipe
    plain(kind)
    before = (dict(vars(pipe)), set(vars(pipe.scheduler)))
    anger = np.eye(12)[CORE.index("anger")] * np.ones((FRAMES, 1))

    def stop(index: int, _: int) -> None:
        if how == "stopped" and index == 2:
            raise Stopped

    generator = torch.Generator().manual_seed(1)
    film = polish(
        frames(), rig(), motion_of(0), polisher(kind), generator=generator, track=anger,
        on_step=stop,
    )  # fmt: skip
    if how == "stopped":
        with pytest.raises(Stopped):
            list(film)
    else:
        next(film)
        film.close()
    assert not polisher(kind).busy
    after = {k: v for k, v in vars(pipe).items() if k in before[0]}
    assert {"encode_prompt", "prepare_latents"}.isdisjoint(vars(pipe))
    assert same_parts(
        {k: v for k, v in before[0].items() if isinstance(v, torch.nn.Module)},
        {k: v for k, v in after.items() if isinstance(v, torch.nn.Module)},
    )
    assert set(vars(pipe.scheduler)) == before[1]
    assert (painted(polisher(kind)) == plain(kind)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_emotions_steer_the_prompt(kind: str, tmp_path: Path) -> None:
    which = Polisher(polisher(kind).pipe, kind, cache=tmp_path, **SETTINGS[kind])
    if which.wan:  # the built-in pairs are six hundred prompts, fitted once in this file
        pairs = {name: [("a dull face", f"a face of {name}")] for name in CORE}
        vars(which)["directions"] = DirectionBank.fit(which.pipe, pairs, components=0)
    none = np.zeros((FRAMES, 12))
    assert (painted(which, track=none) == plain(kind)).all()
    assert not list(tmp_path.iterdir()), "nothing is fitted for no emotion"
    felt = none + np.eye(12)[CORE.index("happiness")]
    happy = painted(which, track=felt)
    assert (happy != plain(kind)).any()
    if kind == "animatediff":
        part = painted(which, track=np.concatenate([none[:4], felt[4:]]))
        assert (part != happy).any()
        assert (part[:2] == plain(kind)[:2]).all(), "its first window has no emotion yet"
        assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("maps", ["lines", "pose"])
def test_other_controlnets_are_shown_what_they_know(maps: str) -> None:
    which = Polisher(polisher("animatediff").pipe, maps=maps, **SETTINGS["animatediff"])
    assert (painted(which, count=2) != painted(polisher("animatediff"), count=2)).any()


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (4, 2), (5, 4), (229, 8)])
def test_windows_cover_everything_and_overlap(length: int, overlap: int) -> None:
    for count in (*range(1, 60), 228, 229, 230, 2000):
        spans = windows(count, length, overlap)
        assert spans[0][0] == 0
        assert spans[-1][1] == count
        assert all(end - start == min(length, count) for start, end in spans)
        for (start, end), (following, _) in itertools.pairwise(spans):
            assert start < following <= end - overlap
        assert len(spans) == max(1, -(-(count - overlap) // (length - overlap)))


def test_colours_stay_those_of_the_photo() -> None:
    rng = np.random.default_rng(0)
    warped = 0.5 + 0.1 * rng.standard_normal((16, 16, 3))
    share = np.ones((16, 16, 1))
    out = _same_light(0.9 * warped + (0.1, 0, -0.1), warped, share)
    np.testing.assert_allclose(out, warped, atol=1e-5)


def test_full_memory_is_one_line() -> None:
    which = polisher("animatediff")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = which.pipe.unet.register_forward_pre_hook(full)
    try:
        with pytest.raises(MemoryError, match=r"^memory: 4 frames of 32 px .* smaller size[^\n]*$"):
            painted(which)
    finally:
        hook.remove()
    assert not which.busy


# Weights ------------------------------------------------------------------------------------------


def put(cache: Path, repo: str, save) -> None:
    """Lay weights out as the Hugging Face cache does."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    save(place / "snapshots" / COMMIT)


def test_the_parts_of_the_hub_become_one_pipeline(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("diffusers.utils.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    put(
        tmp_path, POLISHERS["animatediff-face"].weights,
        lambda folder: tiny.tiny("sd15").save_pretrained(folder),
    )  # fmt: skip
    with pytest.raises(BackboneError) as missing:
        check_polisher("animatediff", offline=True)
    repos = [part["repo"] for part in PARTS.values()]
    assert all(f"`hf download {repo} " in str(missing.value) for repo in repos)
    weights = "diffusion_sd15/config.json diffusion_sd15/diffusion_pytorch_model.fp16.safetensors"
    assert f"`hf download {repos[1]} {weights}`" in str(missing.value), "not all of its 31 GB"
    assert "`affect models pull animatediff-face`" in str(missing.value)
    assert POLISHERS["animatediff-face"].weights not in str(missing.value), "that one is here"
    put(tmp_path, repos[0], lambda folder: tiny_motion_adapter().save_pretrained(folder))
    put(
        tmp_path, repos[1],
        lambda folder: tiny_controlnet().save_pretrained(
            folder / "diffusion_sd15", variant="fp16"
        ),
    )  # fmt: skip
    found = load_polisher("animatediff", device="cpu", offline=True, **SETTINGS["animatediff"])
    assert found.name == "animatediff-face"
    assert found.pipe.scheduler.config.beta_schedule == "linear"
    assert found.pipe.dtype == found.pipe.controlnet.dtype == torch.float32
    assert len(painted(found, count=2)) == 2


@pytest.mark.parametrize("name", ["animatediff-face", "wan-animate", "someone/some-weights"])
def test_missing_weights_are_one_line(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"^polish: .*models pull [^\n]*folder[^\n]*$") as error:
        load_polisher(name, offline=True)
    if name in POLISHERS:
        assert f"about {POLISHERS[name].memory_gb:g} GB" in str(error.value)


def test_weights_that_will_not_do_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"^polish: 'wan-anmate' .* did you mean wan-animate"):
        check_polisher("wan-anmate")
    folder = tiny.tiny_folder("flux", tmp_path / "flux")
    with pytest.raises(BackboneError, match=r"is a FluxPipeline, which repaints no talking"):
        check_polisher(str(folder))
    with pytest.raises(BackboneError, match=r"is a StableDiffusionPipeline, which"):
        Polisher(tiny.tiny("sd15"), "plain")
    folder = tiny_polisher_folder("wan-animate", tmp_path / "wan")
    (folder / "transformer" / "extra.bin").write_bytes(b"\x80\x04")
    with pytest.raises(BackboneError, match=r"use safetensors weights"):
        check_polisher(str(folder))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"strength": 1.5}, r"polish_strength: 0 to 1 is allowed, received 1\.5"),
        ({"track": np.zeros((3, 12))}, r"track, residuals: \(6, 12\) .* received \(3, 12\)"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(more: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        polish(iter([]), rig(), motion_of(0), "animatediff", generator=torch.Generator(), **more)


def test_too_few_frames_are_told() -> None:
    film = polish(
        frames()[:3], rig(), motion_of(0), polisher("animatediff"), generator=torch.Generator()
    )
    with pytest.raises(ValueError, match=r"^frames: 6 are needed for this motion, only 3 came"):
        list(film)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("animatediff", {"size": 40}, r"size: multiples of 16 .* use 32"),
        ("animatediff", {"overlap": 16}, r"overlap: 1 to 3 frames of a window of 4"),
        ("animatediff", {"maps": "depth"}, r"maps: mesh, lines, pose are known"),
        ("wan-animate", {"window": 16}, r"window: Wan-Animate takes 4 n \+ 1"),
    ],
)
def test_settings_are_checked(kind: str, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Polisher(polisher(kind).pipe, kind, **{**SETTINGS[kind], **settings})
