"""The picture path on a tiny real pipeline: mistakes, stopping, memory, choosing, photos, notes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from adapters.critic import soft_score
from adapters.directions import DirectionBank
from adapters.emotion import CORE, Emotion, EmotionTimeline
from pipelines import BACKBONES, BackboneError, Step
from pipelines.image import ImageParams
from pipelines.media import MediaError
from pipelines.painter import Painter, PaintError, Sitting
from pipelines.params import ParamError
from pipelines.take import Request, Take
from pipelines.weights import check_folder
from tests.contracts import (
    EXTRA,
    a_calibration,
    critic,
    few_pairs,
    fingerprint,
    pixels,
    reader,
    request,
    run,
    takes,
)
from tests.tiny import tiny, tiny_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def painter():
    found = Painter(tiny("sd15"), "tiny", call=EXTRA["sd15"])
    found.directions = DirectionBank.fit(found.pipe, few_pairs())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder("sd15", tmp_path_factory.mktemp("weights"))


def photo(path, size=(64, 48), seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


# Mistakes are one line and start nothing ----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"backbone": "image-tniy"}, BackboneError, "image-tiny"),
        ({"backbone": "/no/such/folder"}, BackboneError, "models list"),
        ({"emotion": "sadness 1.2"}, ParamError, "--over"),
        ({"steps": 0}, ParamError, "steps: allowed 1"),
        ({"stile": 1}, ParamError, "did you mean style"),
        ({"style": "much"}, ParamError, "a number"),
        ({"prompt": "x" * 3000}, ParamError, "shorten"),
        ({"prompt": "a\x00b"}, ParamError, "control"),
    ],
)
def test_bad_requests_start_nothing(tmp_path, change, error, says):
    with pytest.raises(error, match=says) as caught:
        pipelines.generate(
            request(**{"backbone": "image-tiny", **change}), out_dir=tmp_path / "out"
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_broken_photo_is_told_before_anything_runs(tmp_path, painter):
    path = photo(tmp_path / "photo.png")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MediaError):
        pipelines.generate(
            request(inputs={"init": path}), painter=painter, out_dir=tmp_path / "out"
        )
    with pytest.raises(ParamError, match="init only"):
        pipelines.generate(
            request(inputs={"mask": path}), painter=painter, out_dir=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"best_of": 2}, "best_of: allowed 3"),
        ({"best_of": 4, "critic": None}, "needs a critic"),
        ({"critic": None, "critic_guidance": 0.5}, "critic_guidance: needs a critic"),
        ({"batch_size": 0}, "batch_size"),
        ({"ext": "gif"}, "ext"),
    ],
)
def test_bad_options(tmp_path, painter, options, says):
    knobs = {k: v for k, v in options.items() if k == "critic_guidance"}
    options = {k: v for k, v in options.items() if k not in knobs}
    asked = [request(seed=seed, **knobs) for seed in (1, 2, 3)]
    with pytest.raises(ParamError, match=says):
        pipelines.generate(asked, painter=painter, out_dir=tmp_path, **options)


def test_an_output_folder_that_is_a_file(tmp_path, painter):
    (tmp_path / "out").write_text("here already")
    with pytest.raises((OSError, ValueError)):
        pipelines.generate(request(), painter=painter, out_dir=tmp_path / "out")


def test_sizes_and_mechanisms_are_checked_before_painting(tmp_path, painter):
    with pytest.raises(PaintError, match=r"width: tiny makes multiples of .* use 32 or"):
        run(painter, request(width=33), tmp_path)
    klein = Painter(tiny("flux2-klein"), "klein")
    with pytest.raises(PaintError, match="init: flux2-klein"):
        klein.check(ImageParams(), init=True)
    with pytest.raises(PaintError, match="negative_prompt"):
        klein.check(ImageParams(negative_prompt="fog"), init=False)
    assert not list(tmp_path.rglob("*.png"))


def test_several_modalities_or_none():
    with pytest.raises(ValueError, match="none were given"):
        pipelines.generate([])
    state = EmotionTimeline.constant(Emotion.neutral())
    song, picture = (Request(kind, "a lake", state, 1, "x") for kind in ("music", "image"))
    with pytest.raises(ValueError, match="modality: image, music in one call"):
        pipelines.generate([song, picture])


# Weights ------------------------------------------------------------------------------------------


def test_listing_backbones_loads_nothing_heavy():
    code = (
        "import sys, pipelines, pipelines.image; assert pipelines.BACKBONES; "
        "bad = {'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules); "
        "raise SystemExit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_are_found_by_name_weights_and_folder(folder):
    for row in BACKBONES.values():
        assert pipelines.resolve(row.name) is row
        assert pipelines.resolve(row.weights) is row
    assert pipelines.resolve("owner/some-model").weights == "owner/some-model"
    assert pipelines.resolve(str(folder)).folder == folder


@pytest.mark.parametrize("name", ["sdxl", "flux2-klein", "owner/not-here"])
def test_missing_weights_say_how_to_get_them(name):
    with pytest.raises(BackboneError) as caught:
        pipelines.load(name, offline=True)
    text = str(caught.value)
    assert "\n" not in text
    assert f"affect models pull {name}" in text
    assert f"hf download {pipelines.resolve(name).weights}" in text
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE"):
        pipelines.pull(name)


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model.bin", "model.ckpt", "a.pt", "b.PTH", "c.pkl",
     "unet/extra.safetensors", "notes.txt"],
)  # fmt: skip
def test_pickles_are_refused_by_name_and_by_magic(folder, tmp_path, name):
    target = tmp_path / "copy"
    pipe_files = [path for path in folder.rglob("*") if path.is_file()]
    for path in pipe_files:
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    check_folder(target)
    (target / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(BackboneError, match="pickle") as caught:
        pipelines.load(str(target), device="cpu")
    assert name in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("unet/model.py", b"print('hello')", "Python code"),
        ("zip.safetensors", b"PK\x03\x04" + bytes(20), "pickle"),
        ("cut.safetensors", (2**40).to_bytes(8, "little") + b"{}", "cut short"),
    ],
)
def test_foreign_files_are_refused(folder, tmp_path, name, content, says):
    index = (folder / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=says):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"unet": ["os", "system"]}, {"_class_name": ["code", "Mine"]}, {"vae": ["vae.mine", "V"]}],
)
def test_foreign_classes_are_refused(folder, tmp_path, change):
    index = json.loads((folder / "model_index.json").read_text()) | change
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="code that diffusers does not have"):
        check_folder(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(BackboneError, match=r"model_index\.json"):
        check_folder(tmp_path)


@pytest.mark.parametrize("option", [{"device": "gpu"}, {"dtype": "int3"}])
def test_bad_device_and_dtype(folder, option):
    with pytest.raises(BackboneError, match=next(iter(option))):
        pipelines.load(str(folder), **option)


def test_a_folder_loads_in_the_dtype_asked_for(folder):
    assert pipelines.load(str(folder), device="cpu", dtype="bfloat16").unet.dtype == torch.bfloat16
    assert pipelines.load(str(folder), device="cpu").unet.dtype == torch.float32


# Running ------------------------------------------------------------------------------------------


def test_steps_count_up_with_an_estimate(painter, tmp_path):
    events = run(painter, [request(seed=s) for s in (1, 2, 3)], tmp_path, batch_size=2)
    steps = [event for event in events if isinstance(event, Step)]
    assert {step.total for step in steps} == {6}
    assert steps[-1].index == 6
    assert all(a.index <= b.index for a, b in pairwise(steps))
    assert steps[0].eta is None
    assert all(step.eta >= 0 for step in steps if step.index)
    assert [event.request.seed for event in events if isinstance(event, Take)] == [1, 2, 3]


def test_stop_ends_within_one_step(painter, tmp_path):
    before = fingerprint(painter.pipe)
    calls = []

    def slow(*_):
        calls.append(1)
        time.sleep(0.1)

    hook = painter.pipe.unet.register_forward_hook(slow)
    try:
        events = pipelines.generate(
            request(steps=50), painter=painter, out_dir=tmp_path, critic=None, reader=None
        )
        for event in events:
            if isinstance(event, Step) and event.index >= 3:
                break
        seen = len(calls)
        events.close()
        # The step that was running and, on a busy machine, one that had just begun.
        assert len(calls) <= seen + 2
    finally:
        hook.remove()
    assert fingerprint(painter.pipe) == before
    assert takes(painter, request(), tmp_path), "the painter is free again"
    assert len((tmp_path / "takes.jsonl").read_text().splitlines()) == 1


def test_two_runs_on_one_painter_do_not_mix(painter, tmp_path):
    first = pipelines.generate(
        request(), painter=painter, out_dir=tmp_path, critic=None, reader=None
    )
    while not (isinstance(event := next(first), Step) and event.index):
        pass
    with pytest.raises(RuntimeError, match="busy"):
        run(painter, request(), tmp_path)
    first.close()
    assert takes(painter, request(), tmp_path)


def hungry(most):
    """A forward pre-hook that runs out of memory when more than `most` pictures come at once."""

    def hook(module, args, kwargs):
        sample = args[0] if args else kwargs["sample"]
        if len(sample) > 2 * most:  # classifier-free guidance doubles the batch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    return hook


def test_full_memory_halves_the_batch(painter, tmp_path):
    asked = [request(seed=s) for s in range(5)]
    whole = takes(painter, asked, tmp_path / "whole")
    before = fingerprint(painter.pipe)
    hook = painter.pipe.unet.register_forward_pre_hook(hungry(2), with_kwargs=True)
    try:
        events = run(painter, asked, tmp_path / "halved", batch_size=5)
    finally:
        hook.remove()
    made = [event for event in events if isinstance(event, Take)]
    notes = [note for event in events if isinstance(event, Step) for note in event.notes]
    assert [take.request.key for take in made] == [take.request.key for take in whole]
    assert any("memory ran out with 5 at once; trying 3" in note for note in notes)
    for one, other in zip(made, whole, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 2
    assert fingerprint(painter.pipe) == before


def test_when_nothing_fits_it_is_one_clean_error(painter, tmp_path):
    hook = painter.pipe.unet.register_forward_pre_hook(hungry(0), with_kwargs=True)
    try:
        with pytest.raises(MemoryError, match="smaller --width") as caught:
            run(painter, [request(seed=1), request(seed=2)], tmp_path)
    finally:
        hook.remove()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.png"))
    failed = [json.loads(line) for line in (tmp_path / "takes.jsonl").read_text().splitlines()]
    assert [line["status"] for line in failed] == ["failed", "failed"]
    assert takes(painter, request(), tmp_path)


def test_best_of_keeps_the_ones_the_critic_prefers(painter, tmp_path):
    read_by = {"critic": critic(), "reader": reader()}
    asked = [request("fear .9", seed) for seed in (5, 6)]
    best = takes(painter, asked, tmp_path / "best", best_of=6, **read_by)
    every = takes(
        painter, [request("fear .9", seed) for seed in range(5, 11)], tmp_path / "all", **read_by
    )
    target = Emotion.of("fear", 0.9).soft_label()
    pictures = [Image.open(take.path) for take in every]
    scores = [soft_score(reading, target) for reading in critic().read(pictures)]
    order = np.argsort(scores)[::-1]
    assert [take.request.seed for take in best] == [5 + int(i) for i in order[:2]]
    assert [take.chosen["rank"] for take in best] == [1, 2]
    assert all(take.chosen["of"] == 6 for take in best)
    # Making it again is one picture, not a search.
    again = takes(painter, Take.read(best[0].path).request, tmp_path / "again", **read_by)[0]
    assert np.abs(pixels(again) - pixels(best[0])).max() <= 2
    assert again.chosen is None


def test_each_cell_of_a_grid_has_its_own_search(painter, tmp_path):
    cells = [request(f"fear {level}", 3) for level in (0.3, 0.9)]
    made = takes(painter, cells, tmp_path, best_of=3, critic=critic())
    assert [take.request.emotion.text for take in made] == ["fear 0.3", "fear 0.9"]
    assert all(take.request.seed in (3, 4, 5) for take in made)


def test_a_failed_search_is_written_down_for_the_right_request(painter, tmp_path):
    """Both searches for fear come before the one for awe, which was asked for in between."""
    asked = [request("fear .9", 3), request("awe .9", 3), request("fear .9", 4)]
    events = pipelines.generate(
        asked, painter=painter, out_dir=tmp_path, best_of=2, critic=critic(), reader=None
    )
    for _ in range(2):
        while not isinstance(next(events), Take):
            pass
    hook = painter.pipe.unet.register_forward_pre_hook(hungry(0), with_kwargs=True)
    try:
        with pytest.raises(MemoryError):
            list(events)
    finally:
        hook.remove()
    lines = [json.loads(line) for line in (tmp_path / "takes.jsonl").read_text().splitlines()]
    failed = [line["request"]["emotion"] for line in lines if line["status"] == "failed"]
    assert failed == ["awe 0.9"]


def test_different_params_are_separate_batches(painter, tmp_path):
    asked = [request(width=48), request(), request(width=48, seed=9)]
    made = takes(painter, asked, tmp_path)
    assert [(pixels(t).shape[1], t.request.seed) for t in made] == [(48, 7), (48, 9), (32, 7)]


def test_every_take_is_read_twice_by_different_readers(painter, tmp_path):
    take = takes(painter, request("awe .5"), tmp_path, critic=critic(), reader=reader())[0]
    reading = Take.read(take.path).reading
    assert reading["asked"]["awe"] == 0.5
    assert reading["asked"]["neutral"] == 0.5
    assert reading["critic"]["reader"] == critic().name
    assert reading["reader"]["reader"] == reader().name
    assert reading["prompt"].startswith("a city street, ")


# A photo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "width"), [("sd15", 0), ("flux", 48)])
def test_keep_decides_how_much_of_a_photo_stays(family, width, tmp_path):
    # An argument that image-to-image classes do not declare must not reach them.
    call = {**EXTRA[family], "guidance_rescale": 0.7}
    painter = Painter(tiny(family), family, call=call)
    inputs = {"init": photo(tmp_path / "photo.png")}
    asked = {"width": width, "height": 0, "steps": 10, "directions": False, "inputs": inputs}
    made = {k: takes(painter, request(keep=k, **asked), tmp_path)[0] for k in (0.0, 0.5, 0.9, 1.0)}
    shapes = {pixels(take).shape for take in made.values()}
    rows, columns, _ = shapes.pop()
    assert not shapes
    assert columns > rows, "4:3 like the photo"
    if not width:
        assert 0.6 < rows * columns / painter.native**2 < 1.5
    other = {"init": photo(tmp_path / "other.png", seed=1)}
    changed = {
        k: pixels(takes(painter, request(keep=k, **(asked | {"inputs": other})), tmp_path)[0])
        for k in made
    }
    pull = [np.abs(pixels(made[k]) - changed[k]).mean() for k in (0.0, 0.5, 0.9)]
    assert pull == sorted(pull), "the more is kept, the more the photo matters"
    assert pull[-1] > pull[0]


# What belongs to the weights ----------------------------------------------------------------------


def test_unknown_words_are_a_note_and_never_an_error(tmp_path):
    (tmp_path / "vocabulary.json").write_text(json.dumps({"words": ["mountain", "lake", "dark"]}))
    painter = Painter(tiny("sd15"), "image-tiny", folder=tmp_path)
    assert painter.notes("a dark mountain lake, Lakes") == []
    (note,) = painter.notes("a lighthouse at the lake")
    assert note.startswith("image-tiny was never shown: lighthouse; it knows ")
    events = run(painter, request(prompt="a lighthouse", directions=False), tmp_path / "out")
    assert any(note.startswith("image-tiny was never shown") for e in events
               if isinstance(e, Step) for note in e.notes)  # fmt: skip
    assert isinstance(events[-1], Take)
    assert Take.read(events[-1].path).reading["notes"][0].startswith("image-tiny was never shown")


def test_gains_reach_the_dials_and_mixtures_are_not_overdriven(painter):
    curve = np.linspace(0, 1, 7) ** 3  # the dial does little at first
    painter.calibration = a_calibration(painter, curve)
    try:
        on, off = ImageParams(), ImageParams(calibrated=False)
        half = Sitting("x", Emotion.of("fear", 0.5), 1)
        k = CORE.index("fear")
        assert painter.dials([half], off)[0, k] == 0.5
        assert painter.dials([half], on)[0, k] == pytest.approx(0.5 ** (1 / 3), abs=0.02)
        mixed = Sitting("x", Emotion.parse("fear .5 + sadness .5"), 1)
        assert painter.dials([mixed], on).sum() == pytest.approx(1)
        full = Sitting("x", Emotion.of("fear", 1.0), 1)
        assert painter.dials([full], on)[0, k] == 1
        assert painter.weights(on) != painter.weights(off)
    finally:
        del painter.calibration


def test_a_calibration_of_other_weights_is_not_used(painter, tmp_path, caplog):
    import dataclasses

    stale = dataclasses.replace(a_calibration(painter, np.linspace(0, 1, 7)), model="0" * 16)
    other = Painter(tiny("sd15"), "other", folder=tmp_path)
    stale.save(tmp_path / "calibration.json")
    assert other.calibration is None
    assert "other weights" in caplog.text
    fresh = a_calibration(other, np.linspace(0, 1, 7))
    fresh.save(tmp_path / "calibration.json")
    del other.calibration
    assert other.calibration == fresh


def test_directions_are_fitted_once_and_cached(tmp_path, monkeypatch):
    first = Painter(tiny("sd15"), "one", cache=tmp_path)
    monkeypatch.setattr("adapters.content.pairs", lambda name, vocabulary: few_pairs()[name])
    bank = first.directions
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    again = Painter(tiny("sd15"), "two", cache=tmp_path).directions
    assert files[0].stat().st_mtime_ns == stamp
    assert again.digest == bank.digest
