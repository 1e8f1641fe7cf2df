"""The gallery behind the page: found fast, deleted with a way back, copied whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapters.emotion import EmotionTimeline
from pipelines import ledger
from pipelines.media import load_image, read_metadata
from pipelines.media_video import encode_video, label_video
from pipelines.take import Request, Take, TakeError, record_failure, write_take
from studio.batch_plan import read_plan
from studio.cli import run
from studio.library import search_of
from studio.library_files import delete, export, files_of, thumbnail, undo
from studio.library_index import INDEX, Library, Search, felt

ROOT = Path(__file__).resolve().parent.parent


def add(
    out: Path,
    prompt: str = "a lake",
    emotion: str = "sadness .8",
    seed: int = 1,
    day: str = "2026-11-20",
    **more: Any,
) -> Take:
    request = Request("image", prompt, EmotionTimeline.parse(emotion), seed, "image-tiny", **more)
    picture = Image.new("RGB", (300, 200), "teal")
    return write_take(request, picture, out, day=date.fromisoformat(day), seconds=1.5)


def add_music(out: Path, emotion: str = "0s joy .2; 9s fear .9") -> Take:
    """A take with companions; what its file holds does not matter here."""
    request = Request("music", "", EmotionTimeline.parse(emotion), 5, "music-tiny")
    beside = {"wav": b"RIFF", "png": b"\x89PNG"}
    return write_take(request, b"MThd", out, ext="mid", companions=beside)


def prompts(library: Library, **asked: Any) -> list[str]:
    return [entry.prompt for entry in library.page(Search(**asked))]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    add(folder, "a lake", "sadness .8")
    add(folder, "a city at night", "fear .6 + sadness .2", day="2026-11-21")
    add(folder, "tulips", "joy .9", seed=2)
    add_music(folder)
    record_failure(
        Request("image", "never", EmotionTimeline.parse("awe"), 1, "image-tiny"),
        ValueError("no"),
        folder,
    )
    return folder


def test_what_is_found(out: Path) -> None:
    library = Library(out)
    assert prompts(library) == ["", "tulips", "a city at night", "a lake"], "newest first"
    assert prompts(library, emotion="sadness") == ["a city at night", "a lake"]
    assert prompts(library, emotion="sadness", least=0.5) == ["a lake"]
    assert prompts(library, emotion="fear") == ["", "a city at night"], "a course by its peak"
    assert prompts(library, words="NIGHT city") == ["a city at night"]
    assert prompts(library, words="night lake") == []
    assert prompts(library, words="100%_'; drop table takes") == []
    assert prompts(library, modality="music") == [""]
    assert prompts(library, backbone="image-tiny", since="2026-11-21") == ["a city at night"]
    assert prompts(library, modality="image", until="2026-11-20") == ["tulips", "a lake"]
    assert library.count(Search(emotion="sadness")) == 2
    assert [e.prompt for e in library.page(Search(modality="image"), 1, 1)] == ["a city at night"]


def test_the_nearest_in_valence_and_arousal(out: Path) -> None:
    library = Library(out)
    for text in ("sadness .8", "joy .9"):
        asked = search_of([], near=text)
        found = library.page(asked)
        assert found[0].emotion == EmotionTimeline.parse(text).text
        assert found[0].distance == pytest.approx(0, abs=1e-6)
        assert [e.distance for e in found] == sorted(e.distance or 0 for e in found)
    assert len(library.page(search_of([], near="joy .9", within=0.01))) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"modality": "smell"}, "modality: one of"),
        ({"since": "yesterday"}, "a day as"),
        ({"within": 0.5}, "--near"),
        ({"emotion": "fear much"}, "fear .5"),
        ({"near": "feer .2"}, "fear"),
    ],
)
def test_wrong_questions_are_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        search_of([], **given)
    assert "\n" not in str(caught.value)


def test_a_name_is_looked_up_and_never_a_path(out: Path) -> None:
    library = Library(out)
    entry = library.page()[-1]
    relative = entry.path.relative_to(library.out)
    for name in (entry.key, entry.key[:8], str(entry.path)):
        assert library.find(name) == entry
    secret = out.parent / "secret.png"
    secret.write_bytes(b"x")
    for name in ("../secret.png", str(secret), "/etc/passwd", f"{relative}/../x", "\0", "a" * 5000):
        with pytest.raises(TakeError, match="no take"):
            library.find(name)


def test_a_strangers_ledger_names_nothing_outside(out: Path) -> None:
    line = next(line for line in ledger.read(out) if line["status"] == "done")
    secret = out.parent / "secret.png"
    secret.write_bytes(b"x")
    (out / "link.png").symlink_to(secret)
    for path in ("../secret.png", str(secret), ".trash/x.png", "a\\..\\b", "a\0b", 7, None):
        ledger.append(out, {**line, "path": path})
    ledger.append(out, {**line, "path": "link.png", "companions": ["../secret.png", 3]})
    for broken in ({"request": 3}, {"request": None}, {"seconds": {}}, {"key": []}):
        ledger.append(out, {**line, "path": "odd.png", **broken})
    library = Library(out)
    assert len(library.page(limit=100)) == 6, "the link by its name, and the odd key as text"
    linked = library.find(str(out / "link.png"))
    assert files_of(library, linked) == []
    assert thumbnail(library, linked) is None
    delete(library, [linked])
    assert secret.read_bytes() == b"x"


def test_the_index_can_be_thrown_away(out: Path) -> None:
    library = Library(out)
    library.favour(library.find(library.page()[1].key))
    delete(library, [library.page()[0]])
    before = library.page()
    assert [entry.favourite for entry in before] == [True, False, False]
    for damage in (b"", b"no database" * 99, None):
        if damage is None:
            (out / INDEX).unlink()
        else:
            (out / INDEX).write_bytes(damage)
        assert [e.path for e in Library(out).page()] == [e.path for e in before]
    assert Library(out).rebuild() == 3
    assert Library(out).page()[0].favourite
    add(out, "new", seed=77)
    assert prompts(Library(out))[0] == "new", "it reads on"
    (out / ledger.LEDGER).write_text("")
    assert prompts(Library(out)) == [], "another ledger is another library"


def test_a_cut_line_is_read_when_it_is_whole(out: Path) -> None:
    library = Library(out)
    library.page()
    add(out, "late", seed=9)
    path = out / ledger.LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert "late" not in prompts(library)
    path.write_bytes(whole)
    assert prompts(library)[0] == "late"


def test_made_again_is_one_take_and_still_liked(out: Path) -> None:
    library = Library(out)
    library.favour(library.find(library.page(Search(words="lake"))[0].key))
    add(out, "a lake", "sadness .8")
    found = library.page()
    assert [entry.prompt for entry in found].count("a lake") == 1
    assert found[0].prompt == "a lake"
    assert found[0].favourite
    assert [e.prompt for e in library.page(Search(favourites=True))] == ["a lake"]


def test_deleted_and_back(out: Path) -> None:
    library = Library(out)
    song, tulips = library.page()[:2]
    bytes_before = {path: path.read_bytes() for path in files_of(library, song)}
    assert len(bytes_before) == 3
    first = delete(library, [song])
    delete(library, [tulips])
    assert not any(path.exists() for path in [*bytes_before, tulips.path])
    assert prompts(library) == ["a city at night", "a lake"]
    assert {e.path for e in library.page(Search(trashed=True))} == {song.path, tulips.path}
    assert [e.path for e in undo(library)] == [tulips.path], "the last one first"
    assert [e.path for e in undo(library, first)] == [song.path]
    assert {path: path.read_bytes() for path in bytes_before} == bytes_before
    assert len(library.page()) == 4
    with pytest.raises(TakeError, match="nothing to bring back"):
        undo(library)


def test_what_two_tabs_delete_is_deleted_once(out: Path) -> None:
    """Both saw it; the second deletion must not take the way back of the first."""
    one, other = Library(out), Library(out)
    seen = other.page(Search(words="tulips"))
    token = delete(one, one.page(Search(words="tulips")))
    with pytest.raises(TakeError, match="deleted already"):
        delete(other, seen)
    assert [entry.prompt for entry in undo(one, token)] == ["tulips"]
    assert "tulips" in prompts(other)


def test_undo_takes_nobodys_place(out: Path) -> None:
    library = Library(out)
    entry = library.page(Search(words="tulips"))[0]
    token = delete(library, [entry])
    entry.path.write_bytes(b"mine")
    with pytest.raises(TakeError, match="is there again"):
        undo(library, token)
    assert entry.path.read_bytes() == b"mine"
    entry.path.unlink()
    undo(library, token)
    assert Take.read(entry.path).request.prompt == "tulips"


def test_a_kill_between_the_line_and_the_move(out: Path) -> None:
    """The ledger says deleted, the file never moved: undo makes both agree again."""
    library = Library(out)
    entry = library.page(Search(words="tulips"))[0]
    with library.open(change=True) as index:
        library.note(index, "deleted", entry, trash="aaaa1111")
    assert entry.path.is_file()
    assert "tulips" not in prompts(library)
    undo(library)
    assert "tulips" in prompts(library)


@pytest.mark.parametrize(
    "token",
    ["../../victim", "../victim", "/nowhere", "..", ".", "", "ABCDEF12", "abcdef12\n", 123],
)
def test_a_strangers_token_moves_nothing(out: Path, token: Any) -> None:
    victim = out.parent / "victim"
    victim.mkdir()
    (victim / "diary.txt").write_bytes(b"mine")
    (out / "victim").mkdir()
    (out / "victim" / "diary.txt").write_bytes(b"mine")
    library = Library(out)
    entry = library.page(Search(words="tulips"))[0]
    with library.open(change=True) as index:
        library.note(index, "deleted", entry, trash=token)
    assert "tulips" in prompts(library), "such a line makes no sense"
    with library.open(change=True) as index:  # as an index of an earlier version may have it
        index.execute("update takes set trash = ? where path like '%tulips%'", (str(token),))
    for asked in (None, str(token)):
        with pytest.raises(TakeError, match="nothing to bring back"):
            undo(library, asked)
    assert (victim / "diary.txt").read_bytes() == b"mine"
    assert (out / "victim" / "diary.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("link", [".trash", ".trash/abcdef12"])
def test_a_trash_that_is_a_link_is_left_alone(out: Path, link: str) -> None:
    elsewhere = out.parent / "elsewhere"
    (elsewhere / "abcdef12").mkdir(parents=True)
    (elsewhere / "abcdef12" / "diary.txt").write_bytes(b"mine")
    (out / link).parent.mkdir(exist_ok=True)
    (out / link).symlink_to(elsewhere if link == ".trash" else elsewhere / "abcdef12")
    library = Library(out)
    entry = library.page(Search(words="tulips"))[0]
    with library.open(change=True) as index:
        library.note(index, "deleted", entry, trash="abcdef12")
    with pytest.raises(TakeError, match="by a link") as caught:
        undo(library)
    assert "\n" not in str(caught.value)
    assert (elsewhere / "abcdef12" / "diary.txt").read_bytes() == b"mine"
    if link == ".trash":
        with pytest.raises(TakeError, match="by a link"):
            delete(library, [library.page()[0]])


def test_links_in_the_trash_and_on_the_way_are_not_followed(out: Path) -> None:
    library = Library(out)
    entry = library.page(Search(words="tulips"))[0]
    token = delete(library, [entry])
    elsewhere = out.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "diary.txt").write_bytes(b"mine")
    (out / ".trash" / token / "folder").symlink_to(elsewhere)
    (out / ".trash" / token / "diary.txt").symlink_to(elsewhere / "diary.txt")
    planted = out / ".trash" / token / "way" / "planted.txt"
    planted.parent.mkdir()
    planted.write_bytes(b"bad")
    (out / "way").symlink_to(elsewhere)
    with pytest.raises(TakeError, match="out of the folder"):
        undo(library, token)
    assert not entry.path.exists()
    (out / "way").unlink()
    undo(library, token)
    assert entry.path.is_file()
    assert not (out / "folder").exists()
    assert not (out / "diary.txt").exists()
    assert [path.name for path in elsewhere.iterdir()] == ["diary.txt"]


def test_a_take_that_is_gone_is_not_said_to_be_back(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library(out)
    lake = library.page(Search(words="lake"))[0]
    tulips = library.page(Search(words="tulips"))[0]
    city = library.page(Search(words="night"))[0]
    earlier = delete(library, [city])
    token = delete(library, [lake, tulips])
    (out / ".trash" / token / lake.path.relative_to(out)).unlink()
    assert run(["library", "undo", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "1 of 2 takes are back" in said
    assert lake.path.name in said
    assert tulips.path.is_file()
    assert prompts(library, trashed=True) == ["a city at night", "a lake"]
    assert [e.path for e in undo(library)] == [city.path], f"{earlier} is the last with files"
    with pytest.raises(TakeError, match="0 of 1"):
        undo(library, token)


def test_small_pictures(out: Path) -> None:
    library = Library(out)
    entry = library.page(Search(words="lake"))[0]
    path = thumbnail(library, entry)
    assert path is not None
    assert load_image(path).size == (256, 171)
    assert read_metadata(path)["digital_source"].endswith("trainedAlgorithmicMedia")
    drawn = path.stat().st_mtime_ns
    assert thumbnail(library, entry) == path
    assert path.stat().st_mtime_ns == drawn, "drawn once"
    assert thumbnail(library, library.page(Search(modality="music"))[0]) is None, "no picture there"
    assert len(Library(out).page()) == 4, "they are no takes"


def test_a_copy_makes_them_again(tmp_path: Path, out: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    init = {"inputs": {"init": tmp_path / "photo.png"}}
    kept = add(out, "re-rendered", "joy .5", **init)
    gone = tmp_path / "gone.png"
    Image.new("RGB", (40, 40), "blue").save(gone)
    add(out, "an orphan", "joy .5", inputs={"init": gone})
    gone.unlink()
    library = Library(out)
    target = tmp_path / "copy"
    manifest, remarks = export(library, library.page(Search(modality="image")), target)
    assert len(remarks) == 1
    assert "gone.png is gone" in remarks[0]
    (tmp_path / "photo.png").unlink()
    assert len(Library(target).page()) == 5, "a library of its own"
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if "an orphan" not in line))
    plan = read_plan(manifest, tmp_path / "again", offline=True)
    assert len(plan.jobs) == 4
    again = next(job for job in plan.jobs if job.request.prompt == "re-rendered")
    assert again.request.digests == kept.request.digests
    assert again.name == kept.path.stem
    with pytest.raises(TakeError, match="holds takes already"):
        export(library, library.page(), target)


def test_two_processes_one_folder(out: Path) -> None:
    """Takes written, liked and deleted at once: no line is lost, and all indexes agree."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.test_library import add\n"
        "from studio.library_files import delete\n"
        "from studio.library_index import Library\n"
        "out, who = Path(sys.argv[1]), sys.argv[2]\n"
        "library = Library(out)\n"
        "for n in range(12):\n"
        "    take = add(out, f'{who} {n}', seed=n)\n"
        "    entry = library.find(take.request.key)\n"
        "    library.favour(entry)\n"
        "    if n % 3 == 0: delete(library, [entry])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(out), who],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in ("one", "two")
    ]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    lines = [json.loads(text) for text in (out / ledger.LEDGER).read_text().splitlines()]
    counts = [line["status"] for line in lines]
    assert (counts.count("done"), counts.count("favourite")) == (4 + 24, 24)
    assert counts.count("deleted") == 8
    library = Library(out)
    found = library.page(limit=100)
    assert len(found) == 4 + 16
    assert library.rebuild() == 20
    assert [e.path for e in library.page(limit=100)] == [e.path for e in found]


def test_on_the_command_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = add(out, "x\x1b[31m<script>", seed=3)
    assert run(["library", "search", "lake", "--out", str(out), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["prompt"] == "a lake"
    assert run(["library", "list", "--out", str(out)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run(["library", "favourite", hostile.request.key[:8], "--out", str(out)]) == 0
    assert run(["library", "delete", found["path"], "--out", str(out)]) == 0
    assert not Path(found["path"]).exists()
    assert run(["page", str(out)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "tulips" in page
    assert "a lake" not in page, "a page shows nothing from the trash"
    assert run(["library", "undo", "--out", str(out)]) == 0
    assert Path(found["path"]).exists()
    assert run(["library", "rebuild", "--out", str(out)]) == 0
    target = out.parent / "copy"
    assert run(["library", "export", str(target), "--favourites", "--out", str(out)]) == 0
    assert (target / "jobs.jsonl").read_text().count("\n") == 1
    capsys.readouterr()
    assert run(["library", "delete", "feedfeed", "--out", str(out)]) == 2
    assert run(["library", "list", "--out", str(out / "nowhere")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, "one line each"


def test_what_an_emotion_is_in_the_index() -> None:
    name, (valence, _, _), parts = felt("sadness .8")
    assert name == "sadness"
    assert valence < -0.3
    assert dict(parts) == {"sadness": pytest.approx(0.8)}
    assert felt("\x00 no emotion at all")[0] == "neutral"


def test_a_film_shows_a_frame_of_it(tmp_path: Path) -> None:
    frames = np.zeros((12, 48, 64, 3), np.uint8)
    frames[..., 1] = 200
    film = label_video(encode_video(iter(frames), 12), {})
    request = Request("portrait", "", EmotionTimeline.parse("joy .5"), 1, "portrait-tiny")
    write_take(request, film, tmp_path, ext="mp4")
    library = Library(tmp_path)
    shown = thumbnail(library, library.page()[0])
    assert shown is not None
    red, green, blue = np.asarray(load_image(shown)).mean(axis=(0, 1))
    assert green > 150 > 60 > max(red, blue)
