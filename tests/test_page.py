"""The contact page and the contact sheet."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from adapters.emotion import CORE, VAD, EmotionTimeline
from pipelines.media import encode_image
from pipelines.take import Request, Take, write_take
from studio.cards import score_card
from studio.page import (
    COLOURS,
    ROWS,
    Card,
    Figure,
    Section,
    bars_of,
    card_of,
    render,
    sections_of,
    write_page,
)
from studio.sheet import LARGEST, SMALLEST, contact_sheet

HOSTILE = 'lake"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e&amp; $(reboot)'


def make_take(
    out: Path, prompt: str = "a lake", emotion: str = "sadness .8", seed: int = 7
) -> Take:
    flat = dict.fromkeys(CORE, 0.05)
    reading = {
        "asked": {"neutral": 0.2, "sadness": 0.8},
        "critic": {"reader": "critic-image", "intensities": {**flat, "sadness": 0.7}},
        "reader": {"reader": HOSTILE, "intensities": {**flat, "fear": 0.6}},
    }
    request = Request("image", prompt, EmotionTimeline.parse(emotion), seed, "image-tiny")
    return write_take(request, Image.new("RGB", (16, 16)), out, reading=reading, seconds=2.5)


class Tags(HTMLParser):
    """Every tag with its attributes, and whether tags close as they open."""

    VOID = ("img", "meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    takes = [make_take(tmp_path), make_take(tmp_path, "a city", "happiness .6 + fear .2")]
    path = write_page(sections_of(takes), tmp_path / "index.html", title="t", lead="l")
    text = path.read_text(encoding="utf-8")
    page = Tags(text)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    assert "prefers-color-scheme:dark" in text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for attributes in images:
        assert attributes["alt"]
        assert (tmp_path / str(attributes["src"])).is_file(), "links work from file://"


def test_hostile_metadata_stays_text(tmp_path: Path) -> None:
    text = render(sections_of([make_take(tmp_path, HOSTILE)]), tmp_path)
    page = Tags(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert "&lt;script&gt;" in text


def test_a_card_says_all_there_is_to_say(tmp_path: Path) -> None:
    take = make_take(tmp_path)
    text = render(sections_of([take]), tmp_path)
    for word in ("a lake", "sadness 0.8", "seed 7", "2.5 s", "image-tiny", "affect remake"):
        assert word in text
    assert "asked 0.80, critic-image reads 0.70" in text
    assert text.count("<li ") == ROWS


def test_a_remake_command_survives_a_shell(tmp_path: Path) -> None:
    import shlex

    take = make_take(tmp_path / "it's $(here)")
    assert shlex.split(card_of(take).command) == ["affect", "remake", str(take.path)]


def test_malformed_readings_are_left_out() -> None:
    assert bars_of(None) == ()
    assert bars_of({"critic": {"intensities": [0.1] * 5}}) == ()
    assert bars_of({"critic": {"intensities": ["x"] * 12}}) == ()
    assert bars_of({"critic": {"intensities": [float("nan")] * 12}}) == ()
    (bars,) = bars_of({"critic": {"probabilities": [0.5] + [2.0] * 12}})
    assert set(bars.intensities.values()) == {1.0}, "clipped to what a bar can show"


def test_names_with_spaces_and_signs_are_linked(tmp_path: Path) -> None:
    picture = tmp_path / "100% a#b?.png"
    Image.new("RGB", (8, 8)).save(picture)
    card = Card(picture, "p", "neutral", {}, (), (), "c")
    text = render([Section("s", cards=(card,), figures=(Figure(picture, "c", "a"),))], tmp_path)
    assert text.count('src="100%25%20a%23b%3F.png"') == 2


def music_take(out: Path, emotion: str = "0s awe .8; 5s fear .4", title: str = "") -> Take:
    """A finished take of music with its two companions; the page does not open them."""
    asked = {**dict.fromkeys(CORE, 0.0), "neutral": 0.4, "awe": 0.4, "fear": 0.2}
    reading = {"asked": asked, "critic": {"intensities": dict.fromkeys(CORE, 0.1)}}
    request = Request("music", title, EmotionTimeline.parse(emotion), 7, "music-tiny")
    roll = Image.new("RGB", (16, 9))
    return write_take(
        request,
        b"MThd",
        out,
        reading=reading,
        ext="mid",
        companions={"wav": b"RIFF", "png": lambda texts: encode_image(roll, "png", texts)},
    )


def test_music_can_be_seen_and_played(tmp_path: Path) -> None:
    take = music_take(tmp_path, title=HOSTILE)
    page = Tags(render(sections_of([take, make_take(tmp_path)]), tmp_path))
    (audio,) = [attributes for tag, attributes in page.tags if tag == "audio"]
    assert "controls" in audio
    assert audio["preload"] == "none", "a page of a hundred pieces must open at once"
    assert (tmp_path / str(audio["src"])).suffix == ".wav"
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert (tmp_path / str(images[0]["src"])) == take.path.with_suffix(".png")
    policy = next(str(a["content"]) for tag, a in page.tags if "content" in a and "src" in str(a))
    assert "media-src 'self' file:" in policy
    assert "script" not in {tag for tag, _ in page.tags}


def test_a_course_of_emotions_shows_what_was_asked_on_average(tmp_path: Path) -> None:
    card = card_of(music_take(tmp_path))
    assert card.asked == {"awe": 0.4, "fear": 0.2}
    assert card.dominant == "awe"
    (section,) = sections_of([music_take(tmp_path)])
    assert section.title == "Music", "a piece needs no title"


def test_the_point_asked_of_a_course_is_its_mean_as_the_readings_are(tmp_path: Path) -> None:
    vad = {"vad": dict.fromkeys(("valence", "arousal", "dominance"), 0.0)}
    course = Request(
        "voice", "", EmotionTimeline.parse("0s contentment .8; 5s fear .8"), 7, "voice"
    )
    asked = {**dict.fromkeys(CORE, 0.0), "contentment": 0.4, "fear": 0.4}
    reading = {"asked": asked, "critic": {"intensities": dict.fromkeys(CORE, 0.1), **vad}}
    take = write_take(course, b"RIFF", tmp_path, reading=reading, ext="wav")
    text = score_card(take)
    valence = 0.4 * (VAD[CORE.index("contentment"), 0] + VAD[CORE.index("fear"), 0])
    assert f'<td>valence</td><td class="n">{valence:+.2f}</td>' in text
    assert "means over time" in text
    still = make_take(tmp_path)
    still.reading["critic"].update(vad)
    assert "means over time" not in score_card(still)
    valence = 0.8 * VAD[CORE.index("sadness"), 0]
    assert f'<td>valence</td><td class="n">{valence:+.2f}</td>' in score_card(still)


def test_notes_without_their_companions_are_still_a_card(tmp_path: Path) -> None:
    take = music_take(tmp_path)
    for path in take.companions:
        path.unlink()
    page = Tags(render(sections_of([take]), tmp_path))
    assert {"audio", "img"} & {tag for tag, _ in page.tags} == set()
    assert page.open == []


def voice_take(out: Path, words: str, recording: Path | None = None) -> Take:
    """A finished voice with its picture, of a recording or of words; the page opens no file."""
    reading = {"speaker_similarity": 0.91, "critic": {"intensities": dict.fromkeys(CORE, 0.1)}}
    inputs = {} if recording is None else {"audio": recording}
    emotion = EmotionTimeline.parse("anger .7")
    request = Request("voice", words, emotion, 7, "voice-tiny", inputs=inputs)
    beside = {"png": b"", **({} if recording else {"neutral.wav": b"RIFF"})}
    return write_take(request, b"RIFF", out, reading=reading, ext="wav", companions=beside)


def test_a_voice_is_heard_beside_what_it_was(tmp_path: Path) -> None:
    recording = tmp_path / 'a "voice" & more.wav'
    recording.write_bytes(b"RIFF")
    takes = [voice_take(tmp_path, HOSTILE), voice_take(tmp_path, "", recording)]
    sections = sections_of(takes)
    assert sections[1].title == f"Voice: {recording.name}"
    page = Tags(render(sections, tmp_path))
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    sounds = [str(attributes["src"]) for tag, attributes in page.tags if tag == "audio"]
    assert [Path(unquote(sound)).name for sound in sounds] == [
        f"{takes[0].path.stem}.neutral.wav",
        takes[0].path.name,
        recording.name,
        takes[1].path.name,
    ]
    text = render(sections, tmp_path)
    assert "speaker similarity 0.91" in text
    recording.write_bytes(b"changed")
    assert (
        len([1 for tag, _ in Tags(render(sections_of(takes), tmp_path)).tags if tag == "audio"])
        == 3
    )


def portrait_take(out: Path, photo: Path, *, still: bool) -> Take:
    """A finished portrait, a film with its picture or a still; the page opens no file."""
    reading = {"identity": 0.0123, "critic": {"intensities": dict.fromkeys(CORE, 0.1)}}
    emotion = EmotionTimeline.parse("anger .7")
    params, inputs = {"still": still}, {"image": photo}
    request = Request("portrait", "", emotion, 7, "portrait-tiny", params, inputs)
    beside = {"csv": b"Timecode"} if still else {"csv": b"Timecode", "png": b""}
    ext = "png" if still else "mp4"
    return write_take(request, b"ftyp", out, reading=reading, ext=ext, companions=beside)


def test_a_portrait_is_a_player_and_a_still_stands_beside_its_photo(tmp_path: Path) -> None:
    photo = tmp_path / 'a "face" & <more>.png'
    photo.write_bytes(b"PNG")
    takes = [portrait_take(tmp_path, photo, still=still) for still in (False, True)]
    sections = sections_of(takes)
    assert [section.title for section in sections] == [f"Portrait: {photo.name}"]
    text = render(sections, tmp_path)
    page = Tags(text)
    assert page.open == []
    assert "<more>" not in text
    (film,) = (attributes for tag, attributes in page.tags if tag == "video")
    assert Path(unquote(str(film["src"]))).name == takes[0].path.name
    assert Path(unquote(str(film["poster"]))).name == photo.name
    shown = [Path(unquote(str(a["src"]))).name for tag, a in page.tags if tag == "img"]
    assert shown == [takes[0].path.with_suffix(".png").name, photo.name, takes[1].path.name]
    assert text.count("identity drift 0.012") == 2
    photo.unlink()
    gone = Tags(render(sections, tmp_path))
    assert [attributes.get("poster") for tag, attributes in gone.tags if tag == "video"] == [None]


def test_an_empty_page_says_so(tmp_path: Path) -> None:
    assert "No takes yet" in render([], tmp_path)


def test_colours_can_be_told_from_both_backgrounds() -> None:
    """WCAG 2.2, 1.4.11: 3:1 for graphics."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert set(COLOURS) == {"neutral", *CORE}
    for colour in COLOURS.values():
        for card in ("#ffffff", "#1a1d23"):
            low, high = sorted((luminance(colour), luminance(card)))
            assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize(("side", "cell"), [(32, SMALLEST), (128, 128), (1024, LARGEST)])
def test_sheet_cells_keep_a_size_that_can_be_read(side: int, cell: int) -> None:
    picture = Image.new("RGB", (side, side), "#ff0000")
    sheet = contact_sheet([[picture, None]] * 3, ["joy", "fear", "awe"], ["0", "1"], title="t")
    reds = sum(1 for pixel in sheet.get_flattened_data() if pixel == (255, 0, 0))
    assert reds == 3 * cell * cell


def test_a_sheet_needs_a_label_for_every_row() -> None:
    with pytest.raises(ValueError, match="labels"):
        contact_sheet([[None]], ["a", "b"], ["1"])


def test_a_long_title_is_cut_to_the_sheet() -> None:
    sheet = contact_sheet([[None]], ["fear"], ["1"], title="long " * 100)
    assert sheet.width < 400
