"""Consent: who needs none, what counts as one, the question and what a yes leaves behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines.manifest import rows
from pipelines.media import COMPOSITE, MediaError
from pipelines.media_sound import encode_sound
from pipelines.take import Request, write_take
from studio import console
from studio.consent import MAX_BYTES, ConsentError, consent_for

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    path.write_bytes(encode_sound(0.1 * np.ones(800), 8000, {}))
    return path


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_TOLD", set())


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_document_is_taken_as_it_is(voice: Path, tmp_path: Path) -> None:
    paper = tmp_path / "consent.pdf"
    paper.write_bytes(b"%PDF signed")
    assert consent_for(voice, paper, tmp_path / "out", ask=True) == paper
    assert not (tmp_path / "out").exists()


def test_documents_that_are_none(voice: Path, tmp_path: Path) -> None:
    empty, large = tmp_path / "empty.txt", tmp_path / "large.pdf"
    empty.write_bytes(b"")
    large.write_bytes(bytes(MAX_BYTES + 1))
    for paper, says in ((empty, "is empty"), (large, "may have 1 MB"), (tmp_path, "not a file"),
                        (tmp_path / "gone.pdf", "no such file")):  # fmt: skip
        with pytest.raises(ValueError, match=says) as error:
            consent_for(voice, paper, tmp_path / "out", ask=True)
        assert isinstance(error.value, ConsentError | MediaError)
        assert "\n" not in str(error.value)


def test_a_yes_is_recorded_and_holds_for_this_file(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answer(monkeypatch, "y\n")
    record = consent_for(voice, None, out, ask=True)
    said = capsys.readouterr()
    assert said.out == "", "stdout is for results"
    assert said.err.strip().count("\n") == 0, "one line"
    assert "voice.wav" in said.err
    assert "[y/N]" in said.err
    digest = hashlib.sha256(voice.read_bytes()).hexdigest()
    assert record == out / f"consent-{digest[:8]}.json"
    found = json.loads(record.read_text())
    assert found["sha256"] == digest
    assert found["agreed"] is True
    assert set(found) == {"agreed", "statement", "file", "sha256", "when"}
    assert [path.name for path in out.iterdir()] == [record.name]
    # nobody is asked again, so the record and its digest stay as they are
    before = record.read_bytes()
    assert consent_for(voice, None, out, ask=True) == record
    assert consent_for(voice, None, out, ask=False, required=True) == record
    assert record.read_bytes() == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["n\n", "\n", "no\n"])
def test_a_no_makes_nothing(
    text: str, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, text)
    with pytest.raises(ConsentError, match="nothing was made") as error:
        consent_for(voice, None, tmp_path / "out", ask=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_answer_is_no_yes(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "")
    with pytest.raises(EOFError):
        consent_for(voice, None, tmp_path / "out", ask=True)
    assert not (tmp_path / "out").exists()


def test_without_a_terminal_it_is_not_stated_or_refused(
    voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert consent_for(voice, None, out, ask=False) is None
    assert consent_for(voice, None, out, ask=False) is None
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("voice.wav") == said.err.count("--consent FILE") == 1, "said once"
    with pytest.raises(ConsentError, match="may be a real person's face; give --consent FILE"):
        consent_for(voice, None, out, ask=False, what="face", required=True)
    assert not out.exists()


@pytest.mark.parametrize(
    "record",
    ["", "[]", "no json", '{"agreed": true}', '{"agreed": "yes", "sha256": "%s"}',
     '{"agreed": false, "sha256": "%s"}', '{"agreed": true, "sha256": "0"}'],
)  # fmt: skip
def test_a_record_that_says_something_else_is_no_yes(
    record: str, voice: Path, tmp_path: Path
) -> None:
    digest = hashlib.sha256(voice.read_bytes()).hexdigest()
    path = tmp_path / f"consent-{digest[:8]}.json"
    path.write_text(record.replace("%s", digest))
    assert consent_for(voice, None, tmp_path, ask=False) is None


def made(folder: Path, inputs: dict[str, Path]) -> Path:
    """A take of ours, from words or from somebody's recording."""
    text = "" if inputs else "hello"
    request = Request("voice", text, EmotionTimeline.parse("awe .5"), 1, "voice-tiny", {}, inputs)
    samples = 0.1 * np.ones(800)
    return write_take(
        request, lambda records: encode_sound(samples, 8000, records), folder, ext="wav"
    ).path


def test_what_was_made_here_from_words_is_nobodys(
    voice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = made(tmp_path / "a", {})
    again = made(tmp_path / "b", {"audio": ours})
    for path in (ours, again):
        assert consent_for(path, None, tmp_path / "out", ask=True) is None
    assert capsys.readouterr().err == ""
    sample = ASSETS / "samples" / "speech.wav"
    changed = made(tmp_path / "d", {"audio": made(tmp_path / "e", {"audio": sample})})
    assert consent_for(changed, None, tmp_path / "out", ask=True) is None
    next((tmp_path / "e").rglob("*.wav")).unlink()
    with pytest.raises(ConsentError):  # what it was made of cannot be looked at any more
        consent_for(changed, None, tmp_path / "out", ask=False, required=True)
    theirs = made(tmp_path / "c", {"audio": voice})
    marked = tmp_path / "marked.wav"
    source = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    marked.write_bytes(encode_sound(np.ones(9), 8000, {"digital_source": source}))
    for path in (theirs, marked):
        with pytest.raises(ConsentError):
            consent_for(path, None, tmp_path / "out", ask=False, required=True)
    assert COMPOSITE.encode() in theirs.read_bytes()


def test_what_ships_is_nobodys(tmp_path: Path) -> None:
    """By its bytes: a copy under another name is the same."""
    row = next(row for row in rows().values() if row["path"].startswith("samples"))
    for name in row["files"]:
        copy = tmp_path / ("copy-" + name.replace("/", "-"))
        copy.write_bytes((ASSETS / row["path"] / name).read_bytes())
        assert consent_for(copy, None, tmp_path, ask=False, required=True) is None


def test_a_recording_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        consent_for(tmp_path / "gone.wav", None, tmp_path, ask=True)


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX here")
@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 2), (b"\n", 2), (b"\x03", 130)])
def test_on_a_real_terminal(typed: bytes, code: int, voice: Path, tmp_path: Path) -> None:
    """Through the command line's own handling of errors."""
    ours, theirs = os.openpty()
    text = (
        "import sys\n"
        "from pathlib import Path\n"
        "from studio import cli\n"
        "from studio.consent import consent_for\n"
        "cli.app = lambda **_: consent_for(\n"
        "    Path(sys.argv[1]), None, Path(sys.argv[2]), ask=sys.stdin.isatty()) and 0\n"
        "sys.exit(cli.run())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(voice), str(tmp_path / "out")],
        cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    told = b""
    while b"[y/N]" not in told:
        told += os.read(ours, 4096)
    os.write(ours, typed)
    said, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code
    assert said == b""
    assert (tmp_path / "out").exists() == (code == 0)
