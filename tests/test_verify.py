"""What a file says about its making, and which lies are found out."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adapters.assets import ASSETS
from adapters.emotion import EmotionTimeline
from pipelines import ledger, provenance
from pipelines.ledger import TakeError
from pipelines.media import COMPOSITE, TRAINED, encode_image, read_metadata
from pipelines.take import Request, Take, write_take
from studio.cli import run
from studio.make import people_in
from studio.verify import examine

SPEECH = ASSETS / "samples" / "speech.wav"


def take(out: Path, **changes: Any) -> Take:
    fields: dict[str, Any] = {"modality": "image", "prompt": "a lake", "seed": 7}
    fields |= {"emotion": EmotionTimeline.parse("sadness .8"), "backbone": "image-tiny", **changes}
    return write_take(Request(**fields), Image.new("RGB", (64, 48), "teal"), out)


def test_a_take_as_it_was_made(tmp_path: Path) -> None:
    report = examine(take(tmp_path, weights="ab" * 32).path)
    assert report.problems == []
    assert report.synthetic == "made by a model"
    assert report.record == "whole"
    assert report.ledger == "as it was made"
    assert "image-tiny, weights abababababab" in report.made_by
    assert report.consent == ""


def test_a_changed_picture_is_found_out(tmp_path: Path) -> None:
    """By its ledger; the file alone cannot show it, and that is not claimed."""
    made = take(tmp_path)
    record = read_metadata(made.path)
    made.path.write_bytes(encode_image(Image.new("RGB", (64, 48), "red"), "png", record))
    report = examine(made.path)
    assert report.ledger == "changed since it was made"
    assert len(report.problems) == 1
    away = tmp_path.parent / f"{tmp_path.name}-away.png"
    away.write_bytes(made.path.read_bytes())
    assert examine(away).problems == []
    assert examine(away).ledger == "none beside it"


def test_an_altered_record_is_found_out(tmp_path: Path) -> None:
    made = take(tmp_path / "out")
    record = read_metadata(made.path)
    record["affect"]["request"]["prompt"] = "a sea"
    forged = tmp_path / "forged.png"
    forged.write_bytes(encode_image(Image.new("RGB", (8, 8)), "png", record))
    report = examine(forged)
    assert report.record.startswith("altered")
    assert "altered after it was written" in report.problems[0]
    del record["digital_source"]
    forged.write_bytes(encode_image(Image.new("RGB", (8, 8)), "png", record))
    assert any("taken away" in problem for problem in examine(forged).problems)


def test_a_copy_and_a_companion(tmp_path: Path) -> None:
    made = take(tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes(made.path.read_bytes() + b"more")
    assert "a copy of" in examine(copy).ledger
    request = made.request.changed(modality="music", prompt="")

    def encode(records: Any) -> bytes:
        return encode_image(Image.new("RGB", (8, 8)), "png", records)

    song = write_take(request, b"MThd", tmp_path, ext="mid", companions={"png": encode})
    report = examine(song.companions[0])
    assert report.ledger.startswith(f"lies beside {song.path.name}")
    assert report.problems == []


def test_what_says_nothing(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    report = examine(photo)
    assert report.synthetic == "not stated"
    assert "may have been made in any way" in report.problems[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    assert examine(broken).record == "damaged"
    words = tmp_path / "notes.txt"
    words.write_text("hello")
    with pytest.raises(ValueError, match="content is no PNG"):
        examine(words)


def test_consent_is_told(tmp_path: Path) -> None:
    def voice(path: Path, **inputs: Path) -> Take:
        return take(tmp_path, modality="voice", prompt="", inputs={"audio": path, **inputs})

    assert examine(voice(SPEECH).path).consent.startswith("not needed")
    mine = tmp_path / "mine.wav"
    mine.write_bytes(SPEECH.read_bytes() + b"\0\0")
    report = examine(voice(mine).path)
    assert report.consent == "not stated"
    assert report.synthetic == "real material changed by a model"
    yes = tmp_path / "yes.txt"
    yes.write_text("I agree.")
    assert examine(voice(mine, consent=yes).path).consent.startswith("noted: yes.txt, sha256 ")


def test_consent_of_a_film_is_told(tmp_path: Path) -> None:
    """Its people are named by their place in the scene."""
    face = tmp_path / "me.png"
    Image.new("RGB", (64, 48), "teal").save(face)

    def film(**inputs: Path) -> str:
        known = {"shots.0.portrait": face, **inputs}
        return examine(take(tmp_path, modality="film", backbone="film", inputs=known).path).consent

    assert film() == "not stated"
    face_heard = people_in("portrait", {"drive": face, "audio": face})
    assert face_heard == {face: ("face", True)}, "what needs a yes most"
    yes = tmp_path / "yes.txt"
    yes.write_text("I agree.")
    assert film(consent=yes).startswith("noted: yes.txt, sha256 ")
    said = {"shots.0.audio": SPEECH}
    drawn = take(tmp_path, modality="film", backbone="film", inputs=said)
    assert examine(drawn.path).consent.startswith("not needed")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = take(tmp_path, prompt="x\x1b[31m<script>")
    assert run(["verify", str(made.path)]) == 0
    assert "as it was made" in capsys.readouterr().out
    with made.path.open("ab") as file:
        file.write(b"x")
    assert run(["verify", str(made.path), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["ledger"] == "changed since it was made"
    assert "not those that were made" in said.err
    assert run(["verify", str(tmp_path / "gone.png")]) == 2


def test_words_for_sources() -> None:
    assert provenance.source_word(TRAINED) == "made by a model"
    assert provenance.source_word(COMPOSITE) == "real material changed by a model"
    assert provenance.source_word("") == ""


def test_without_the_extra_it_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if provenance.available():
        pytest.skip("c2pa is installed")
    made = take(tmp_path)
    given = ["--certificate", str(made.path), "--key", str(made.path)]
    assert run(["sign", str(made.path), *given]) == 2
    assert "affect-studio[c2pa]" in capsys.readouterr().err


# Content credentials -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate of a made-up signer under a made-up root, valid for days."""
    if not provenance.available():
        pytest.skip("c2pa is not installed: content credentials are not tested here")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("root", "leaf"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.ec")
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{name}.ec", "-out", f"{name}.key")
    authority = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    more = [text for one in authority for text in ("-addext", one)]
    openssl(
        "req", "-x509", "-new", "-key", "root.key", "-days", "9", "-subj", "/O=Test/CN=Root",
        "-out", "root.pem", *more,
    )  # fmt: skip
    openssl("req", "-new", "-key", "leaf.key", "-subj", "/O=Test/CN=Signer", "-out", "leaf.csr")
    (folder / "leaf.cnf").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=emailProtection\nauthorityKeyIdentifier=keyid\n"
        "subjectKeyIdentifier=hash\n"
    )
    openssl(
        "x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "9",
        "-CAcreateserial", "-extfile", "leaf.cnf", "-out", "leaf.pem",
    )  # fmt: skip
    return {name: folder / f"{name}.pem" for name in ("root", "leaf")} | {
        "key": folder / "leaf.key"
    }


def with_other_words(png: bytes, old: bytes, new: bytes) -> bytes:
    """Somebody changes the words of the record, and every checksum of PNG with them."""
    found, at = png[:8], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"iTXt":
            body = body.replace(old, new)
        check = struct.pack(">I", zlib.crc32(kind + body))
        found += struct.pack(">I", len(body)) + kind + body + check
        at += 12 + length
    return found


def test_a_signed_copy_holds_and_a_change_shows(
    tmp_path: Path, signer: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made = take(tmp_path)
    pair = ["--certificate", str(signer["leaf"]), "--key", str(signer["key"])]
    assert run(["sign", str(made.path), *pair]) == 0
    signed = Path(capsys.readouterr().out.strip())
    assert Take.read(signed).request == made.request, "the record is as it was"
    assert Take.read(made.path).sha256 == made.sha256, "and so is the take"
    report = examine(signed)
    assert report.problems == []
    assert report.credentials.startswith("hold; whether to trust")
    assert "Signer" in report.credentials
    assert report.ledger.startswith("a copy of")
    assert examine(signed, signer["root"]).credentials.startswith("hold, by somebody you trust")
    signed.write_bytes(with_other_words(signed.read_bytes(), b"a lake", b"a pond"))
    assert Take.read(signed).request.prompt == "a pond"
    report = examine(signed)
    assert report.credentials.startswith("do not hold")
    assert any("do not hold" in problem for problem in report.problems)
    assert run(["sign", str(made.path), *pair]) == 2, "a copy is not written over"


def test_what_cannot_be_signed(tmp_path: Path, signer: dict[str, Path]) -> None:
    def refused(path: Path, says: str, **changes: Path) -> None:
        given = {"chain": signer["leaf"], "key": signer["key"], **changes}
        with pytest.raises(TakeError, match=says) as caught:
            provenance.sign(path, tmp_path / f"signed{path.suffix}", **given)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / f"signed{path.suffix}").exists()

    made = take(tmp_path / "out").path
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    (tmp_path / "song.mid").write_bytes(b"MThd")
    refused(photo, "does not say that it is synthetic")
    refused(tmp_path / "song.mid", "no content credentials")
    refused(made, "no readable PEM file", key=photo)
    refused(made, "without a passphrase", key=signer["leaf"])
    refused(made, "could not be signed", chain=signer["key"])
    assert not list((tmp_path / "out").rglob(f"{ledger.TEMPORARY}*"))
