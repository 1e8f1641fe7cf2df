"""Films: what is asked for, guides and loops, choosing, full memory, what is said of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from adapters.emotion import EmotionError, EmotionTimeline
from adapters.frames import FrameError
from adapters.video_metrics import loop_gap
from pipelines import BACKBONES, BackboneError
from pipelines.painter import PaintError
from pipelines.params import ParamError
from pipelines.take import Request, Take
from pipelines.video import VideoParams, check_class, course_of, job_of, length_of, regions_of
from pipelines.video_guide import closed, fitted, moved
from pipelines.video_take import MOST_READ, asked_rows, moments_of
from studio.cli import run as affect
from tests.contracts import critic, reader
from tests.tiny import tiny_folder
from tests.tiny_video import tiny_video, tiny_video_folder
from tests.video_contracts import frames, made, maker_of, photo, request, run, takes

SHIPPED = pytest.mark.skipif(
    not (Path(str(BACKBONES["video-tiny"].folder)) / "motion_adapter").is_dir(),
    reason="assets/models/video-tiny is not there",
)


def asked(emotion="sadness .8", prompt="waves", inputs=None, **params):
    timeline = EmotionTimeline.parse(emotion, over=True)
    return Request("video", prompt, timeline, 7, "video-tiny", params, inputs=inputs or {})


# What is asked for -------------------------------------------------------------------------------


def test_places_have_emotions_of_their_own():
    found = regions_of("left:fear.9; top: 0s awe 0; 2s awe .5; 0,0,.5,.5:joy .3")
    assert [where for where, _ in found] == ["left", "top", "0,0,.5,.5"]
    assert [course.text for _, course in found] == [
        "fear 0.9",
        "0s neutral; 2s awe 0.5",
        "happiness 0.3",
    ]
    assert regions_of("") == ()


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("fear .9", ParamError, "place"),
        ("nowhere:fear .9", FrameError, "left"),
        ("left:xqzv .9", EmotionError, "xqzv"),
        (".5,0,.2,1:fear", FrameError, "x0"),
        ("left:", EmotionError, "emotion"),
    ],
)
def test_places_that_cannot_be_are_one_line(text, error, named):
    with pytest.raises(error, match=named) as caught:
        job_of(asked(region=text))
    assert "\n" not in str(caught.value)


def test_length_is_that_of_the_course():
    course = EmotionTimeline.parse("0s contentment .4; 2s fear .9; 4s awe .7")
    assert length_of(course, VideoParams()) == 5.0
    assert length_of(EmotionTimeline.parse("fear .4"), VideoParams()) == 4.0
    assert length_of(course, VideoParams(seconds=2.0)) == 2.0
    with pytest.raises(ParamError, match="shorten it"):
        length_of(EmotionTimeline.parse("0s fear; 600s awe"), VideoParams())


def test_a_preset_is_a_course():
    one = EmotionTimeline.parse("fear .8")
    course = course_of(one, "escalate", 6.0)
    assert not course.is_constant
    assert course.at(6.0).intensity > course.at(0.0).intensity
    assert course_of(one, "", 6.0) is one
    with pytest.raises(ParamError, match="leave out either"):
        course_of(EmotionTimeline.parse("0s fear; 2s awe"), "escalate", 6.0)
    with pytest.raises(ValueError, match="escalate"):
        course_of(one, "escalat", 6.0)


def test_a_course_of_a_file_is_part_of_the_request(tmp_path):
    file = tmp_path / "mine.json"

    def course(last):
        keys = [{"at": 0.0, "state": {"self": 0.1}}, {"at": 1.0, "state": {"self": last}}]
        file.write_text(json.dumps({"presets": {"mine": {"keys": keys}}}))
        return job_of(asked("fear .8", curve=f"{file}:mine", seconds=2.0))

    one, other = course(1.0), course(0.5)
    assert one.request.key != other.request.key
    assert one.request.emotion.at(2.0).intensity == pytest.approx(0.8)
    assert one.felt == f"fear 0.8, {file}:mine"
    file.unlink()
    again = job_of(one.request)
    assert again.timeline == one.timeline, "made again without the file"
    assert again.request.key == one.request.key


def test_a_picture_needs_no_words():
    job = job_of(asked(prompt="", inputs={"init": photo()}))
    assert job.request.prompt == "a photo"
    assert job.params.keyframes == 0, "the picture is in the stills' place"
    assert job_of(asked(region="left:fear")).params.keyframes == 0, "stills know no places"
    assert job_of(asked()).params.keyframes == BACKBONES["video-tiny"].defaults["keyframes"] > 0
    with pytest.raises(ParamError, match="say what should be seen"):
        job_of(asked(prompt=" "))


def test_a_take_says_what_its_picture_shows(tmp_path):
    from pipelines.take import write_take

    still = Request("image", "a red boat", EmotionTimeline.parse("awe"), 1, "image-tiny")
    take = write_take(still, Image.open(photo()), tmp_path)
    assert job_of(asked(prompt="", inputs={"init": take.path})).request.prompt == "a red boat"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seconds": 0.1}, "seconds"),
        ({"fps": 60}, "fps"),
        ({"keyframes": 2, "inputs": {"init": "photo"}}, "keyframes"),
        ({"painter": "image-tiny", "keyframes": 0}, "painter"),
        ({"painter": "music-tiny", "keyframes": 1}, "makes music"),
        ({"curve": "hold", "emotion": "0s fear; 2s awe"}, "curve"),
        ({"inputs": {"audio": "photo"}}, "init only"),
    ],
)
def test_what_cannot_be_is_one_line(changes, named):
    changes = dict(changes)
    if "inputs" in changes:
        changes["inputs"] = {name: photo() for name in changes["inputs"]}
    with pytest.raises(ValueError, match=named) as caught:
        job_of(asked(**changes))
    assert "\n" not in str(caught.value)


def test_another_class_makes_no_films(tmp_path):
    folder = tiny_folder("sd15", tmp_path / "painter")
    with pytest.raises(BackboneError, match="StableDiffusionPipeline, a film needs"):
        check_class(pipelines.resolve(str(folder), "video"))
    with pytest.raises(ParamError, match="makes image"):
        job_of(asked().changed(backbone="image-tiny"))


def test_sizes_that_do_not_fit_say_what_does(tmp_path):
    maker = maker_of("wan21")
    with pytest.raises(PaintError, match="multiples of 16 pixels, not 72; use 64 or 80"):
        takes(maker, request(maker, width=72), tmp_path)
    with pytest.raises(PaintError, match="words alone"):
        takes(maker, request(maker, inputs={"init": photo()}), tmp_path)
    wanting = maker_of("wan-i2v")
    with pytest.raises(PaintError, match="--init"):
        takes(wanting, request(wanting, inputs={}), tmp_path)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("wan21", {"width": 72}, "multiples of 16 pixels, not 72; use 64 or 80"),
        ("wan21", {"init": True}, "words alone"),
        ("wan21", {"keyframes": 1, "painter": "image-tiny"}, "animates no stills"),
        ("wan-i2v", {}, "--init"),
        ("animatediff-v2v", {}, "repaints"),
        ("ltx", {"keyframes": 1}, "brings no painter"),
        ("ltx", {"consistency": 0.5}, "consistency"),
    ],
)
def test_what_a_family_cannot_make_is_told_without_loading_it(family, changes, named, tmp_path):
    changes = dict(changes)
    inputs = {"init": photo()} if changes.pop("init", False) else None
    folder = tiny_video_folder(family, tmp_path / family)
    one = asked(inputs=inputs, **changes).changed(backbone=str(folder))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(ParamError, match=named) as caught:
        job_of(one)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["animatediff", "wan21", "wan22", "wan-i2v", "ltx"])
def test_a_folder_says_what_the_loaded_model_says(family, tmp_path):
    from pipelines.video_maker import VideoMaker
    from pipelines.video_rules import facts_of

    folder = tiny_video_folder(family, tmp_path / family)
    facts = facts_of(pipelines.resolve(str(folder), "video"))
    pipe = tiny_video(family)
    assert facts.multiple == VideoMaker(pipe).multiple
    assert facts.kind == type(pipe).__name__


@SHIPPED
def test_the_shipped_models_sides_are_told_without_loading_it():
    with pytest.raises(ParamError, match="multiples of 16 pixels, not 72"):
        job_of(asked(width=72))


def test_the_mean_of_what_was_asked_counts_places():
    job = job_of(asked("neutral", region="left:fear 1"))
    row = asked_rows(job, np.zeros(1))[0]
    assert row[0] == pytest.approx(0.5, abs=0.02)
    assert row.sum() == pytest.approx(1.0)


def test_some_four_frames_a_second_are_read():
    assert moments_of(40, 8) == tuple(range(0, 40, 2))
    assert moments_of(5, 4) == (0, 1, 2, 3, 4)
    assert len(moments_of(1800, 30)) <= 240


# Guides, loops -----------------------------------------------------------------------------------


def test_pictures_are_cut_to_shape():
    wide = Image.new("RGB", (100, 40), "red")
    assert fitted(wide, (32, 32)).size == (32, 32)
    assert fitted(wide, (64, 32)).getpixel((0, 0)) == (255, 0, 0)


def test_stills_dissolve_one_into_the_next():
    black, white = Image.new("RGB", (32, 32)), Image.new("RGB", (32, 32), "white")
    film = moved([black, white], np.zeros(9), 0, kind="still", size=(32, 32), fps=8)
    level = film.mean(dim=(1, 2, 3))
    assert film.shape == (9, 3, 32, 32)
    assert level[0] == pytest.approx(0, abs=0.01)
    assert level[-1] == pytest.approx(1, abs=0.01)
    assert (level.diff() > 0).all()
    round_trip = moved(
        [black, white], np.zeros(8), 0, kind="still", size=(32, 32), fps=8, loop=True
    ).mean(dim=(1, 2, 3))
    assert round_trip[4] == pytest.approx(1, abs=0.01)
    assert round_trip[-1] == pytest.approx(float(round_trip[1]), abs=0.01)


def test_an_end_runs_into_the_beginning():
    """A drift that never comes back closes once it is dissolved."""
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(0, 6, (32, 16, 16, 3)), axis=0)
    film = np.clip(128 + steps, 0, 255).astype(np.uint8)
    round_trip = closed(film, 24)
    assert len(round_trip) == 24
    assert loop_gap(round_trip) < 0.6 * loop_gap(film[:24])
    np.testing.assert_array_equal(round_trip[8:], film[8:24])


def test_a_photo_begins_to_move():
    maker = maker_of("video-tiny")
    loose, kept = (
        made(maker, request(maker, inputs={"init": photo()}, keep=keep)) for keep in (0.0, 1.0)
    )
    assert (loose != kept).any()
    events = []
    job = job_of(request(maker, inputs={"init": photo()}, keep=0.8, steps=5), maker=maker)
    from pipelines.video_session import _scene

    maker.film(_scene(job), job.params, init=Image.open(photo()), report=events.append)
    assert sum(e.stage == "denoise" for e in events) == maker.steps(job.params, init=True) == 1


def test_keyframes_have_the_emotion_of_their_moment():
    maker = maker_of("video-tiny")
    job = job_of(request(maker, "0s neutral; .75s fear 1", keyframes=2), maker=maker)
    from pipelines.video_session import _scene

    first, last = maker.stills(_scene(job), job.params, (32, 32), lambda _: None)
    plain, _ = maker.stills(
        _scene(job_of(request(maker, "neutral", keyframes=2), maker=maker)), job.params, (32, 32),
        lambda _: None,
    )  # fmt: skip
    assert np.array_equal(np.asarray(first), np.asarray(plain))
    assert not np.array_equal(np.asarray(last), np.asarray(plain))


def test_an_untrained_adapter_is_the_painter():
    """Motion modules that add nothing: each frame is the picture of its noise."""
    from diffusers import AnimateDiffPipeline

    from pipelines.painter import Painter, Sitting
    from pipelines.video_maker import VideoMaker
    from tests.tiny import tiny
    from tests.tiny_polishers import tiny_motion_adapter

    plain = tiny("sd15")
    adapter = tiny_motion_adapter()
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(parameter)
    parts = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipe = AnimateDiffPipeline(
        **{name: plain.components[name] for name in parts}, motion_adapter=adapter
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.eval()
    call = {"guidance_rescale": 0.7}
    painter = Painter(plain, "tiny", call=call)
    maker = VideoMaker(pipe, "video-tiny", painter=painter, call=call)
    job = job_of(request(maker, "neutral", consistency=1.0), maker=maker)
    from pipelines.image import ImageParams
    from pipelines.video_session import _scene

    film = maker.film(_scene(job), job.params)
    size = job.params.width, job.params.height
    noise = maker._noise(_scene(job), 6, size, job.params)
    assert (film == film[:1]).all(), "all noise is shared, nothing moves"
    picture = plain(
        job.request.prompt, latents=noise[:, :, 0], num_inference_steps=2, width=32, height=32,
        guidance_scale=3.0, guidance_rescale=0.7, output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(np.round(picture * 255) - film[0]).max() <= 1
    assert painter.paint([Sitting("a street", job.timeline.at(0), 1)], ImageParams(
        width=32, height=32, steps=1))  # fmt: skip


# The run -----------------------------------------------------------------------------------------


def test_the_critic_chooses(tmp_path):
    maker = maker_of("video-tiny")
    found = takes(
        maker, request(maker, "fear .9", 3), tmp_path, best_of=3, critic=critic(), reader=reader()
    )
    assert len(found) == 1
    assert found[0].chosen["of"] == 3
    assert found[0].chosen["score"] >= found[0].chosen["mean_score"]
    assert found[0].request.seed in (3, 4, 5)
    again = takes(maker, found[0].request, tmp_path / "again", critic=critic(), reader=reader())
    assert (frames(again[0]) == frames(found[0])).all()


def test_full_memory_is_decoded_in_smaller_parts(tmp_path):
    maker = maker_of("video-tiny")
    whole = takes(maker, request(maker), tmp_path / "a")[0]

    def full(_, args):
        if len(args[0]) > 2:
            msg = "CUDA out of memory. Tried to allocate"
            raise torch.OutOfMemoryError(msg)

    hook = maker.pipe.vae.decoder.register_forward_pre_hook(full)
    try:
        events = run(maker, request(maker), tmp_path / "b")
    finally:
        hook.remove()
    notes = [note for event in events if not isinstance(event, Take) for note in event.notes]
    assert [note for note in notes if "decoding 2 frames at once" in note]
    assert np.abs(frames(events[-1]) - frames(whole)).max() <= 6


def test_memory_that_does_not_do_is_told(tmp_path):
    maker = maker_of("video-tiny")

    def full(*_):
        raise torch.OutOfMemoryError

    hook = maker.pipe.unet.register_forward_pre_hook(full)
    try:
        with pytest.raises(MemoryError, match="fewer --seconds"):
            takes(maker, request(maker), tmp_path)
    finally:
        hook.remove()
    line = json.loads((tmp_path / "takes.jsonl").read_text().splitlines()[-1])
    assert line["status"] == "failed"


def test_a_take_tells_how_it_follows(tmp_path):
    maker = maker_of("video-tiny")
    asked = request(maker, "0s fear 0; 1.5s fear 1", seconds=1.5, loop=True)
    take = takes(maker, asked, tmp_path, critic=critic(), reader=reader())[0]
    told = take.reading
    assert set(told["follows"]) == {critic().name, reader().name}
    assert told["motion"].keys() >= {"flicker", "warping_error", "speed", "loop_gap", "size"}
    names = [name for name in told["over_time"] if name != "times"]
    assert all(np.shape(told["over_time"][name]) == (6, 13) for name in names)
    assert len(told["prompts"]) == 2
    sheet = Image.open(take.path.with_suffix(".png"))
    assert sheet.width == 1600


class _Mute:
    """A judge that sees nothing in the later pictures of a film, or that breaks over them."""

    def __init__(self, judge, breaks):
        self.judge, self.breaks, self.name = judge, breaks, f"mute-{judge.name}"

    def read(self, pictures):
        if self.breaks:
            raise RuntimeError("no picture\ncan be read")
        silent = (1.0, *[0.0] * 12)
        return [
            dataclasses.replace(
                one, reader=self.name, probabilities=silent if k else one.probabilities
            )
            for k, one in enumerate(self.judge.read(pictures))
        ]


@pytest.mark.parametrize("breaks", [False, True])
def test_a_judge_that_fails_loses_no_film(breaks, tmp_path):
    maker = maker_of("video-tiny")
    judges = _Mute(critic(), breaks), _Mute(reader(), breaks)
    asked = request(maker, "0s fear 0; 1.5s fear 1", seconds=1.5)
    take = takes(maker, asked, tmp_path, critic=judges[0], reader=judges[1])[0]
    assert Take.read(take.path).reading == take.reading
    assert take.reading["follows"] == {}
    for judge in judges:
        if breaks:
            (note,) = (one for one in take.reading["notes"] if judge.name in one)
            assert "no picture" in note
            assert "\n" not in note
        else:
            assert [row is None for row in take.reading["over_time"][judge.name]] == (
                [False] + [True] * 5
            )
    assert (take.reading["critic"] is None) == breaks
    best = takes(maker, asked, tmp_path / "best", best_of=2, critic=judges[0], reader=None)
    assert len(best) == 1


def test_a_film_that_lies_about_its_length_is_read_in_part(tmp_path):
    from pipelines.media_video import encode_video, probe_video
    from studio.score_video import pictures_of

    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    data = bytearray(encode_video(iter([pixels] * 300), 4))
    at = data.index(b"mdhd")
    scale = data[at + 16 : at + 20]  # version 0: flags, made, changed, units a second, length
    assert 60 < int.from_bytes(data[at + 20 : at + 24]) / int.from_bytes(scale) < 90
    data[at + 20 : at + 24] = scale
    file = tmp_path / "lies.mp4"
    file.write_bytes(data)
    assert probe_video(file).seconds == 1
    assert len(pictures_of(file)[0]) == MOST_READ


def test_what_was_asked_is_known_without_picture_and_model(tmp_path):
    from pipelines.media_video import encode_video, label_video
    from pipelines.take import write_take
    from studio.score_video import _asked

    folder = tiny_video_folder("wan-i2v", tmp_path / "model")
    one = asked("0s neutral; 2s fear .8", inputs={"init": photo()}, seconds=2.0)
    job = job_of(one.changed(backbone=str(folder)))
    data = encode_video(iter([np.zeros((16, 16, 3), dtype=np.uint8)] * 4), 4)
    take = write_take(
        job.request, lambda texts: label_video(data, texts), tmp_path / "out", ext="mp4"
    )
    times = np.array([0.0, 1.0, 2.0])
    for _ in range(2):
        assert np.allclose(_asked(take.path, times), asked_rows(job, times))
        if folder.exists():
            shutil.rmtree(folder)


def test_films_are_scored_and_shown(tmp_path, capsys):
    maker = maker_of("video-tiny")
    take = takes(maker, request(maker, "0s fear 0; 1s fear 1", seconds=1.0), tmp_path)[0]
    assert affect(["score", str(take.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["reading"]) == {"critic-image", "reader-image"}
    assert told["frames_read"] == 4
    assert affect(["score", str(take.path.with_suffix(".png"))]) == 2
    assert "is a picture of a film" in capsys.readouterr().err
    assert affect(["show", str(take.path)]) == 0
    assert "fear" in capsys.readouterr().out
    from studio.page import card_of, render, sections_of

    card = card_of(take)
    assert (card.kind, card.video, card.picture) == (
        "video",
        take.path,
        take.path.with_suffix(".png"),
    )
    assert "<video controls" in render(sections_of([take]), tmp_path)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--emotion", "fear"], "prompt"),
        (["waves", "--emotion", "xqzv"], "xqzv"),
        (["waves", "--emotion", "0s fear; 600s awe"], "600 s"),
        (["waves", "--emotion", "4s fear; 2s awe"], "reorder"),
        (["waves", "--region", "nowhere:fear"], "region"),
        (["waves", "--curve", "escalat", "--emotion", "fear"], "escalate"),
        (["waves", "--init", "gone.png"], "gone.png"),
        (["waves", "--backbone", "image-tiny"], "makes image"),
        (["waves", "--backbone", "wan2"], "wan21"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, named, capsys, tmp_path):
    assert affect(["make", "video", *words, "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.strip()
    assert named in line
    assert "\n" not in line
    assert not list(tmp_path.rglob("*.mp4"))


def test_weights_that_are_not_here_are_told(capsys, tmp_path):
    hub = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    code = affect(
        ["make", "video", "waves", "--backbone", hub, "--offline", "--out", str(tmp_path)]
    )
    assert code == 2
    assert "affect models pull wan21" in capsys.readouterr().err
    assert affect(["make", "video", "waves", "-b", "animatediff", "--offline"]) == 2
    assert "not here" in capsys.readouterr().err


# What ships --------------------------------------------------------------------------------------


@SHIPPED
def test_the_shipped_model_from_the_command_line(tmp_path, capsys):
    words = ["make", "video", "waves against a cliff", "--seconds", "1", "--steps", "2"]
    words += ["--emotion", "0s contentment .4; .5s fear .9; .9s awe .7", "--json", "--seed", "1"]
    assert affect([*words, "--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    path = Path(told["path"])
    assert told["reading"]["motion"]["size"] == [128, 128]
    assert affect(["remake", str(path), "--out", str(tmp_path / "again")]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.read_bytes() == path.read_bytes()
