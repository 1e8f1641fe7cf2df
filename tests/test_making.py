"""Runs of a page and the files they use: several in one tab, uploads, and who may name a file."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra ui is not installed")

from adapters.emotion import EmotionTimeline
from pipelines.take import Request, write_take
from studio import cards, making
from studio.server import UPLOADS


def test_stop_stays_live_while_another_run_of_the_tab_waits() -> None:
    making.begin("one:image")  # Make
    making.begin("one:image")  # and Remake, which waits for it
    with making.running("one:image"):
        assert making.stop("one:image")
    assert making.end("one:image"), "one more is wanted: Stop must stay live"
    assert making.stop("one:image")
    with making.running("one:image"):
        pass
    assert not making.stop("one:image"), "it has said what became of it"
    assert not making.end("one:image")
    making.begin("one:image")
    assert not making.end("one:image"), "a run that never began is over too"
    assert not making.stop("one:image")
    making.leave("one")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An upload, where the server keeps such for a day."""
    path = tmp_path / "out" / UPLOADS / "0123" / "photo.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (24, 24), "teal").save(path)
    return path


def asked(photo: Path) -> Request:
    emotion = EmotionTimeline.parse("fear .6")
    return Request("image", "a lake", emotion, 3, "image-tiny", inputs={"init": photo})


def test_what_was_uploaded_outlives_the_server_s_own_folder(photo: Path, tmp_path: Path) -> None:
    request = asked(photo)
    kept = making.with_own_files(request, tmp_path / "out")
    photo.unlink()
    kept.check_inputs()
    assert kept.key == request.key
    place = kept.inputs["init"]
    assert place.is_relative_to(tmp_path / "out" / making.INPUTS)
    assert making.with_own_files(kept, tmp_path / "out") == kept, "once is enough"
    other = tmp_path / "own.png"
    Image.new("RGB", (8, 8)).save(other)
    assert making.with_own_files(asked(other), tmp_path / "out").inputs["init"] == other


def test_a_take_shows_its_own_photo_and_no_other_file(photo: Path, tmp_path: Path) -> None:
    take = write_take(asked(photo), Image.new("RGB", (16, 16)), tmp_path / "out")
    assert cards.before_of(take) == photo
    Image.new("RGB", (24, 24), "red").save(photo)
    assert cards.before_of(take) is None, "another picture in its place"
    photo.unlink()
    assert cards.before_of(take) is None
    secret = tmp_path / "secret.png"
    secret.write_text("password")
    take = write_take(asked(secret), Image.new("RGB", (16, 16)), tmp_path / "out")
    assert cards.before_of(take) is None, "a file of this machine that is no picture"


def test_tabs_that_ask_for_one_file_at_once_all_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    path = tmp_path / "large.bin"
    path.write_bytes(np.random.default_rng(0).bytes(2**23))
    found: list[bytes] = []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        found.append(Path(str(cards.served(path))).read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 8, "a tab was told of an error"
    assert set(found) == {path.read_bytes()}


def test_a_card_says_how_sure_its_numbers_are(tmp_path: Path) -> None:
    from adapters.emotion import CORE

    one = {
        "intensities": dict.fromkeys(CORE, 0.2),
        "vad": dict.fromkeys(("valence", "arousal", "dominance"), 0.1),
        "vad_variance": dict.fromkeys(("valence", "arousal", "dominance"), 0.04),
    }
    both = {"critic": {**one, "reader": "here"}, "reader": {**one, "reader": "there"}}
    request = Request("image", "a lake", EmotionTimeline.parse("fear .6"), 3, "image-tiny")
    picture = Image.new("RGB", (16, 16))
    text = cards.score_card(write_take(request, picture, tmp_path, reading=both))
    assert "+0.10 ± 0.20" in text
    assert "Upper bar: here, which may choose. Lower: there, which never does." in text
    assert "how far the two are apart" in text
    alone = write_take(
        request.changed(seed=4), picture, tmp_path, reading={"critic": both["critic"]}
    )
    text = cards.score_card(alone)
    assert "Bar: here." in text
    assert "Lower" not in text
    assert "no second reader" in text
