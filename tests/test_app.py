"""The page of `affect serve` without a browser: its state, its controls, its guards, its API."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra ui is not installed")

from adapters.emotion import CORE, Emotion, EmotionTimeline
from pipelines.params import ParamError
from studio import cards, making
from studio.affect_pad import PanelError, chosen_emotion, panel_of, text_of
from studio.run import PANELS
from studio.server import (
    LOCAL,
    Guard,
    ServerError,
    check_open,
    check_tools,
    hosts_of,
    login,
    prepare,
)
from studio.timeline import preset_names, stretched, with_preset
from studio.widgets import choices_of, control, knobs, params_from, seed_of

# The panel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "sadness 0.8",
        "happiness 0.4 + fear 0.3",
        "neutral",
        "0s contentment 0.5; 8s fear 0.9; 12s sadness 0.6",
        "v=-.7 a=.3 d=0",
    ],
)
def test_a_text_survives_the_views(text: str) -> None:
    state = panel_of(text)
    back, at, _ = text_of(state)
    assert EmotionTimeline.parse(back) == EmotionTimeline.parse(text)
    assert at == 0


def test_a_point_of_the_pad_becomes_a_mixture_near_it() -> None:
    state = panel_of("awe .5")
    state["keys"][0] = {"t": 0, "v": -0.62, "r": 0.6}
    text, _, _ = text_of(state)
    v, a, _ = Emotion.parse(text).vad
    assert abs(v + 0.62) < 0.1
    assert abs(a - 0.6) < 0.13
    state["keys"][0] = {"t": 0, "v": 0.01, "r": 0.0}
    assert text_of(state)[0] == "neutral"


def test_sliders_never_pass_the_whole() -> None:
    state = panel_of("awe .5")
    state["keys"][0] = {"t": 0, "a": {"fear": 1.0, "anger": 1.0, "nonsense": 9, "awe": -3}}
    found = Emotion.parse(text_of(state)[0])
    assert found.intensity <= 1.0
    assert found.intensities[CORE.index("fear")] == pytest.approx(0.5, abs=0.01)


def test_a_new_moment_has_the_emotion_that_the_course_had_there() -> None:
    state = panel_of("0s fear .2; 8s fear .8")
    state["keys"].insert(1, {"t": 4.0, "between": True})
    timeline = EmotionTimeline.parse(text_of({**state, "at": 1})[0])
    before = EmotionTimeline.parse("0s fear .2; 8s fear .8")
    assert len(timeline.keys) == 3
    assert timeline.at(4.0).intensity == pytest.approx(before.at(4.0).intensity, abs=1e-4)


@pytest.mark.parametrize(
    "state",
    [
        None, "x", {}, {"keys": []}, {"keys": [1]}, {"keys": [{"t": 0, "between": True}]},
        {"keys": [{"t": 0, "name": "<script>"}]}, {"keys": [{"t": 0}] * 33},
    ],
)  # fmt: skip
def test_a_state_that_no_view_sends_is_one_line(state: Any) -> None:
    with pytest.raises(PanelError) as caught:
        text_of(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "9", None, True, [1]])
def test_numbers_that_are_none_do_no_harm(bad: Any) -> None:
    text, _, seconds = text_of({"keys": [{"t": bad, "v": bad, "r": bad}], "seconds": bad, "at": 7})
    assert text == "neutral"
    assert seconds > 0


def test_a_picture_is_given_the_chosen_moment() -> None:
    assert chosen_emotion("0s awe 0.5; 4s fear 0.9", 1) == "fear 0.9"
    assert chosen_emotion("awe .5", 3) == "awe .5"


def test_presets_and_lengths() -> None:
    names = [name for _, name in preset_names()]
    assert "swell" in names
    assert EmotionTimeline.parse(with_preset("fear .8", "swell", 10)).duration == 10
    assert with_preset("fear .8", "/etc/passwd.json:x", 10) == "fear .8"
    assert EmotionTimeline.parse(stretched("0s awe .5; 8s fear .9", 4)).duration == 4


# Controls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", PANELS)
def test_untouched_controls_ask_for_nothing(modality: str, tmp_path: Path) -> None:
    values = [control(one, modality).value for one in knobs(modality)]
    assert params_from(modality, values, tmp_path) == {}


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        ("music", "lora"),
        ("voice", "speech"),
        ("video", "curve"),
        ("image", "sliders"),
        ("portrait", "polish"),
        ("video", "painter"),
    ],
)
def test_no_knob_takes_a_path_from_a_browser(modality: str, name: str, tmp_path: Path) -> None:
    values = [
        "/etc/passwd" if one.name == name else control(one, modality).value
        for one in knobs(modality)
    ]
    with pytest.raises(ParamError, match=name):
        params_from(modality, values, tmp_path)


def test_every_text_knob_that_names_a_file_is_a_choice() -> None:
    for modality in PANELS:
        for one in knobs(modality):
            about = str(one.metadata.get("help", ""))
            if "folder" in about or "FILE" in about:
                assert choices_of(modality, one.name), (modality, one.name)


# The server --------------------------------------------------------------------------------------


def answered(headers: dict[str, str], method: str = "GET", hosts: tuple[str, ...] = LOCAL) -> int:
    """Status that the guard answers with; 200 where it passes the request on."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "headers": raw}
    asyncio.run(Guard(inner, hosts)(scope, None, keep))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"host": "127.0.0.1:7860"}, "GET", 200),
        ({"host": "localhost:7860"}, "GET", 200),
        ({"host": "evil.example"}, "GET", 400),
        ({"host": "127.0.0.1.evil.example"}, "GET", 400),
        ({}, "GET", 400),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, "POST", 200),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:9999"}, "POST", 403),
        ({"host": "127.0.0.1:7860", "origin": "https://evil.example"}, "POST", 403),
        ({"host": "127.0.0.1:7860", "origin": "null"}, "POST", 403),
        ({"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site"}, "POST", 403),
    ],
)
def test_the_guard(headers: dict[str, str], method: str, status: int) -> None:
    assert answered(headers, method) == status


def test_nobody_else_gets_in_without_a_login() -> None:
    check_open("127.0.0.1", False, None)
    everywhere = "0.0.0.0"  # noqa: S104 - refused, not bound
    for host, share in (("127.0.0.1", True), (everywhere, False), ("192.168.1.5", False)):
        with pytest.raises(ServerError, match="--auth"):
            check_open(host, share, None)
        check_open(host, share, ("me", "long enough"))
    assert hosts_of("127.0.0.1", True) == ()
    assert "studio.local" in hosts_of("studio.local", False)


def test_tools_are_not_offered_behind_a_login_that_they_cannot_pass() -> None:
    check_tools(True, None)
    check_tools(False, ("me", "long enough"))
    with pytest.raises(ServerError, match="mcp"):
        check_tools(True, ("me", "long enough"))


def test_a_port_that_is_taken_is_one_line() -> None:
    import socket

    from studio.server import check_port

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port: 127.0.0.1:{port} .* --port"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    check_port("127.0.0.1", None)


def test_a_login_can_stay_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PASS", "long enough")
    assert login("me:env:STUDIO_PASS") == ("me", "long enough")
    assert login("") is None
    for bad in ("me", "me:short", ":long enough", "me:env:NOT_SET_ANYWHERE"):
        with pytest.raises(ServerError, match="auth"):
            login(bad)


# Takes -------------------------------------------------------------------------------------------


def test_progress_and_errors_are_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    for text in (cards.progress(hostile, 0.5, [hostile]), cards.failed(ValueError(hostile))):
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


def test_an_error_names_the_file_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my takes"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(out / ".uploads"))
    told = cards.failed(ValueError(f"{out / 'inputs' / 'bf89' / 'bad one.png'}: no picture"))
    assert "bad one.png: no picture" in told
    assert "my takes" not in told
    assert "bf89" not in told
    assert "/other/file.png" in cards.failed(ValueError("/other/file.png: no picture"))


def test_stop_is_remembered_until_the_next_run() -> None:
    making.stop("one")
    assert making.is_stopping("one")
    assert not making.is_stopping("two")
    making.begin("one")
    assert not making.is_stopping("one")


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "zz", "/etc/passwd", "a" * 6])
def test_takes_are_named_by_keys_only(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"take|library"):
        making.remade(tmp_path, key, None, None)


def test_a_scene_finds_only_what_came_with_it() -> None:
    from studio.scenes import sample_files, sample_scene, scene_request

    request = scene_request(sample_scene(), sample_files(), draft=True)
    assert {path.name for path in request.inputs.values()} == {"closed.jpg", "storm.wav"}
    for text in ("/etc/passwd", "../MANIFEST.json", "storm.toml"):
        with pytest.raises(ValueError, match="came with it"):
            scene_request(sample_scene().replace("storm.wav", text), sample_files(), draft=True)
    with pytest.raises(ValueError, match="lora"):
        scene_request(sample_scene() + '\n[defaults.music]\nlora = "/etc"\n', [], draft=True)


# The page ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    before = dict(os.environ)
    out = prepare(tmp_path_factory.mktemp("takes"))
    from studio.app import build_app

    yield build_app(out)
    os.environ.clear()
    os.environ.update(before)


def test_programs_see_a_few_functions_of_plain_text(page: Any) -> None:
    named = page.get_api_info()["named_endpoints"]
    assert set(named) == {"/read_emotion", "/make", "/remake", "/search", "/show"}
    for function in named.values():
        for parameter in function["parameters"]:
            assert parameter["python_type"]["type"] in ("str", "int"), parameter


def test_every_modality_that_has_landed_has_a_tab(page: Any) -> None:
    import gradio as gr

    titles = {block.label for block in page.blocks.values() if isinstance(block, gr.Tab)}
    assert titles >= {"Image", "Grid", "Video", "Portrait", "Voice", "Music", "Film", "Train"}
    assert "Gallery" in titles


def test_nothing_but_tabs_stands_between_the_tabs(page: Any) -> None:
    """Anything else shifts their places, and tabs that are opened overwrite others."""
    import gradio as gr

    rows = [block for block in page.blocks.values() if isinstance(block, gr.Tabs)]
    assert len(rows) == 1
    assert [child for child in rows[0].children if not isinstance(child, gr.Tab)] == []


def test_every_knob_reaches_the_page(page: Any) -> None:
    labels = {getattr(block, "label", None) for block in page.blocks.values()}
    for modality in ("image", "voice", "music", "portrait", "video"):
        for one in knobs(modality):
            assert one.name.replace("_", " ").capitalize() in labels, (modality, one.name)
            assert dataclasses.is_dataclass(type(one)) or one.metadata.get("help")


# Runs, and what is done to takes -----------------------------------------------------------------


def test_a_run_that_waits_can_be_stopped_and_a_closed_tab_ends_its_own() -> None:
    making.begin("tab:image")
    assert making.stop("tab:image")
    assert making.is_stopping("tab:image")
    making.begin("tab:image")
    assert not making.is_stopping("tab:image")
    with making.running("tab:image"), making.running("other:image"):
        making.leave("tab")
        assert making.is_stopping("tab:image")
        assert not making.is_stopping("other:image")
    assert not making.stop("tab:image")  # it is over: nothing is there to stop
    making.leave("tab")
    assert not making.is_stopping("tab:image")  # nothing of a closed tab is kept


def test_a_take_is_set_beside_itself_without_emotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.take import Take, TakeError
    from studio.gallery import _compared
    from studio.results import FIELDS, beside_plain

    emotion = EmotionTimeline.parse("sadness .8").text
    asked = making.requests_of(
        "image", "the sea", emotion, seed=3, backbone="image-tiny", params={"steps": 4},
        inputs={}, out=tmp_path,
    )  # fmt: skip
    take = next(one for one in making.made(asked, tmp_path) if isinstance(one, Take))
    after, request, found = making.without_emotion(tmp_path, take.request.key)
    assert after.path == take.path
    assert (request.seed, request.emotion.peak.intensity, found) == (3, 0.0, None)
    plain = next(one for one in making.made([request], tmp_path) if isinstance(one, Take))
    again = making.without_emotion(tmp_path, take.request.key)[2]
    assert again is not None
    assert again.path == plain.path  # it is not made twice
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    last = list(beside_plain(take.request.key, tmp_path, "tab:image"))[-1]
    filled = dict(zip(FIELDS, last, strict=True))
    left, right = (Path(one) for one in filled["slider"]["value"])
    assert left.read_bytes() == plain.path.read_bytes()
    assert right.read_bytes() == take.path.read_bytes()
    pair, card = _compared(tmp_path, plain.request.key, take)
    assert [Path(str(one)).name for one in pair] == [plain.path.name, take.path.name]
    assert "neutral" in card
    assert _compared(tmp_path, "", take) == ((None, None), "")
    with pytest.raises(TakeError, match="made without"):
        making.without_emotion(tmp_path, plain.request.key)
    with pytest.raises(TakeError, match="nothing is chosen"):
        making.without_emotion(tmp_path, "../x")


@pytest.mark.parametrize("typed", ["-1", "1.5", "seven", str(2**53), "0x3"])
def test_a_seed_that_is_none_is_one_line(typed: str) -> None:
    with pytest.raises(ParamError, match="seed"):
        seed_of(typed)


def test_seeds_are_typed_or_fresh() -> None:
    assert seed_of(" 7 ") == 7
    assert seed_of("") != seed_of(None)


def test_numbers_that_may_be_left_out_are_typed(tmp_path: Path) -> None:
    def with_seconds(text: str) -> dict[str, Any]:
        values = [
            text if one.name == "seconds" else control(one, "portrait").value
            for one in knobs("portrait")
        ]
        return params_from("portrait", values, tmp_path)

    assert with_seconds("") == {}
    assert with_seconds("2,5") == {"seconds": 2.5}
    with pytest.raises(ParamError, match="seconds"):
        with_seconds("long")


def test_a_preview_is_inside_the_page() -> None:
    from PIL import Image

    drawn = cards.sketch(Image.new("RGB", (8, 8), "red"))
    assert "data:image/webp;base64," in drawn
    assert "alt=" in drawn


# Training ----------------------------------------------------------------------------------------


def test_a_training_is_the_command_line_over_copies(tmp_path: Path) -> None:
    from studio.training_tab import command_of

    pictures = [tmp_path / name for name in ("anger-1.png", "Awe 2.png", "cat.png", "anger-1.txt")]
    for one in pictures:
        one.write_bytes(b"x")
    command = command_of(tmp_path / "out", "image", "My style!", 5, 20, pictures)
    data = Path(command[command.index("--data") + 1])
    copies = sorted(str(one.relative_to(data)) for one in data.rglob("*") if one.is_file())
    assert copies == ["anger/anger-1.png", "anger/anger-1.txt", "awe/Awe 2.png", "cat.png"]
    assert command[3:7] == ["train", "lora", "--modality", "image"]
    place = tmp_path / "out" / "styles" / "image" / "my-style"
    assert command[command.index("--out") + 1] == str(place)
    with pytest.raises(ValueError, match="no run is called"):
        command_of(tmp_path / "out", "image", "other", 5, 20, [], go_on=True)
    (tmp_path / "out" / "styles" / "image" / "my-style").mkdir()
    more = command_of(tmp_path / "out", "image", "My style!", 5, 40, [], go_on=True)
    assert more[-2:] == ["--resume", "latest"]
    assert len(list(data.rglob("*.png"))) == 3  # its files are still there
    style = place / "my-style.safetensors"
    style.write_bytes(b"x")
    with pytest.raises(ValueError, match="style called my-style is there"):
        command_of(tmp_path / "out", "image", "My style!", 5, 20, pictures)
    assert style.is_file(), "a style that was learned is never written over"
    style.unlink()
    # Pressed again with other files, the old ones are not meant any more.
    command_of(tmp_path / "out", "image", "My style!", 5, 20, pictures[2:3])
    assert [one.name for one in data.rglob("*")] == ["cat.png"]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cat.png").write_bytes(b"y")
    twice = [tmp_path / "cat.png", tmp_path / "more" / "cat.png"]
    with pytest.raises(ValueError, match=r"two are called cat\.png"):
        command_of(tmp_path / "out", "image", "Other", 5, 20, twice)


def test_a_broken_picture_comes_to_our_own_reader(tmp_path: Path) -> None:
    from gradio.data_classes import ImageData

    from studio.tabs import _upload

    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    image = _upload("image", "Photo", None)
    assert image.preprocess(ImageData(path=str(broken))) == str(broken)
    assert image.preprocess(None) is None


def test_files_to_learn_from_are_counted() -> None:
    from studio.training_tab import counted

    names = ["anger-1.png", "anger-2.png", "anger-2.txt", "awe.jpg", "holiday.jpg"]
    told = "5 files: 1 awe, 2 anger, 1 whose names begin with no emotion."
    assert counted("image", names) == told
    assert counted("image", [*names, "metadata.jsonl"]) == "6 files."
    assert counted("music", ["a.mid"]) == "1 file."


@pytest.mark.parametrize(
    ("kind", "name", "files", "says"),
    [("film", "x", 1, "kind"), ("music", "../..", 1, "name"), ("music", "x", 0, "files")],
)
def test_a_training_that_cannot_be_is_one_line(
    kind: str, name: str, files: int, says: str, tmp_path: Path
) -> None:
    from studio.training_tab import command_of

    with pytest.raises(ValueError, match=says) as caught:
        command_of(tmp_path, kind, name, 1, 1, [tmp_path / "a.mid"] * files)
    assert "\n" not in str(caught.value)


def test_a_run_is_followed_stopped_and_told() -> None:
    import sys

    from studio.training_tab import followed

    program = "import time\nprint('step 1', flush=True)\ntime.sleep(60)"
    making.begin("tab:train")
    told: list[tuple[str, list[str]]] = []
    for one in followed([sys.executable, "-c", program], "tab:train", 1.0):
        told.append(one)
        if one[1]:
            making.stop("tab:train")
    assert any("step 1" in lines for _, lines in told)
    assert "Stopped" in told[-1][0]
    told = list(followed([sys.executable, "-c", "print('x')"], "tab:train-2", 1.0))
    assert "Trained" in told[-1][0]
    told = list(followed([sys.executable, "-c", "raise SystemExit(2)"], "tab:train-3", 1.0))
    assert "Ended without" in told[-1][0]
