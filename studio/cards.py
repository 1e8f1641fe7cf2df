"""What a page says about a take: the score card, the progress, and files that may be served.

The card shows what was asked beside what both readers read, with their uncertainty. Every text
that comes from a person or a file is escaped. A file is served by a copy in the server's own
folder, so no folder of takes is ever open. A bar says how a reader reads a work, never what a
person feels.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.emotion import CORE, VAD
from adapters.reading import ABSTAIN
from studio.page import COLOURS, card_of

if TYPE_CHECKING:
    from pipelines import Step
    from pipelines.take import Take

ROWS = 5
_AXES = ("valence", "arousal", "dominance")


def served(path: Path | None) -> str | None:
    """A copy of a file of ours in the folder that the server may serve, named by its bytes.

    None where there is no such file.
    """
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    place = Path(os.environ["GRADIO_TEMP_DIR"]) / "takes" / digest[:32] / path.name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        half = place.with_name(f"{secrets.token_hex(8)}.half")  # two tabs may ask at once
        shutil.copyfile(path, half)
        half.replace(place)
    return str(place)


def score_card(take: Take) -> str:
    """The card of a take as HTML: asked, critic and reader, each with its uncertainty."""
    card = card_of(take)
    readers = card.readers[:2]
    head = html.escape(card.emotion if len(card.emotion) < 140 else f"{card.emotion[:140]} …")
    colour = COLOURS.get(card.dominant, COLOURS["neutral"])
    parts = [
        f'<div class="card" role="group" aria-label="Score card">'
        f'<h4><span class="dot-name" style="--c:{colour}">{head}</span></h4>'
    ]
    if readers:
        parts.append(_emotions(card.asked, readers))
        parts.append(_axes(take, card.asked))
        unsure = [r.name for r in readers if r.in_domain is not None and r.in_domain < ABSTAIN]
        if unsure:
            names = html.escape(" and ".join(unsure))
            parts.append(
                f"<p>{names}: unlike what it was trained on, its reading means little.</p>"
            )
        parts.append(f"<p>{html.escape(_legend(readers))}</p>")
    else:
        parts.append("<p>Not read.</p>")
    facts = html.escape(" · ".join(card.facts))
    parts.append(f"<p>{facts}</p><p><code>{html.escape(take.request.key[:16])}</code></p></div>")
    return "".join(parts)


def _emotions(asked: Mapping[str, float], readers: Sequence[Any]) -> str:
    most = {name: max(r.intensities[name] for r in readers) for name in CORE}
    names = sorted(asked, key=lambda name: -asked[name])
    names += sorted((name for name in CORE if name not in asked), key=lambda name: -most[name])
    heads = "".join(f"<th>{html.escape(r.name.split('-')[0][:12])}</th>" for r in readers)
    rows = []
    for name in names[: max(ROWS, len(asked))]:
        bars = "".join(
            f'<i class="bar r{k}" style="width:{100 * r.intensities[name]:.1f}%"></i>'
            for k, r in enumerate(readers)
        )
        wanted = asked.get(name)
        tick = "" if wanted is None else f'<b style="left:{100 * min(wanted, 1):.1f}%"></b>'
        numbers = "".join(f'<td class="n">{r.intensities[name]:.2f}</td>' for r in readers)
        said = "" if wanted is None else f"{wanted:.2f}"
        rows.append(
            f'<tr style="--c:{COLOURS[name]}"><td>{name}</td><td><span class="track" '
            f'aria-hidden="true">{bars}{tick}</span></td><td class="n">{said}</td>{numbers}</tr>'
        )
    head = f"<tr><th></th><th></th><th>asked</th>{heads}</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _legend(readers: Sequence[Any]) -> str:
    """What tick, bars and ± mean, and how sure the bars are."""
    if len(readers) < 2:
        bars, doubt = f"Bar: {readers[0].name}.", "its bars have no ±, and no second reader"
    else:
        bars = f"Upper bar: {readers[0].name}, which may choose. Lower: {readers[1].name}, "
        bars += "which never does."
        doubt = "bars have none: how far the two are apart says how sure they are"
    return f"Tick: asked. {bars} ±: one standard deviation of that reader; {doubt}."


def _axes(take: Take, asked: Mapping[str, float]) -> str:
    """Valence, arousal and dominance: asked, and read with one standard deviation.

    Of a course both are means over time, as the bars above: its peak was not asked throughout.
    """
    read = [
        one
        for name in ("critic", "reader")
        if isinstance(one := (take.reading or {}).get(name), Mapping)
        and isinstance(one.get("vad"), Mapping)
    ]
    if not read:
        return ""
    emotion = take.request.emotion
    means = np.array([asked.get(name, 0.0) for name in CORE]) @ VAD
    wanted = emotion.peak.vad if emotion.is_constant else means
    rows = []
    for k, axis in enumerate(_AXES):
        cells = ""
        for one in read:
            mean, variance = one["vad"].get(axis), (one.get("vad_variance") or {}).get(axis)
            good = isinstance(mean, int | float)
            sd = ""
            if isinstance(variance, int | float):
                sd = f" ± {np.sqrt(max(variance, 0.0)):.2f}"
            cells += f'<td class="n">{f"{mean:+.2f}{sd}" if good else ""}</td>'
        rows.append(f'<tr><td>{axis}</td><td class="n">{wanted[k]:+.2f}</td>{cells}</tr>')
    note = "" if emotion.is_constant else "<p>Asked and read: means over time.</p>"
    return f"<table>{''.join(rows)}</table>{note}"


def progress(text: str, share: float | None = None, notes: Sequence[str] = ()) -> str:
    """How far the work is: a line, a bar where the share (0..1) is known, and notes."""
    bar = ""
    if share is not None:
        percent = 100 * min(max(share, 0.0), 1.0)
        bar = (
            f'<div class="track" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{percent:.0f}" aria-label="Progress"><i style="width:{percent:.1f}%">'
            f"</i></div>"
        )
    lines = "".join(f"<li>{html.escape(note[:400])}</li>" for note in notes[-6:])
    told = f"<ul>{lines}</ul>" if lines else ""
    said = html.escape(text[:600])
    return f'<div class="told" role="status" aria-live="polite">{said}{bar}{told}</div>'


def log(lines: Sequence[str]) -> str:
    """The last lines of what a run says."""
    text = html.escape("\n".join(line[:300] for line in lines))
    return f'<pre class="log" tabindex="0" aria-label="Log">{text}</pre>' if text else ""


def failed(error: BaseException) -> str:
    """One line that says what is wrong."""
    said = _without_folder(" ".join(str(error).split()))
    text = html.escape(said[:600] or type(error).__name__)
    return f'<div class="told" role="alert"><span class="wrong">{text}</span></div>'


def _without_folder(text: str) -> str:
    """A line without the server's folders: who looks at the page need not know where it lies."""
    uploads = os.environ.get("GRADIO_TEMP_DIR", "")
    if not uploads:
        return text
    out = re.escape(str(Path(uploads).parent) + os.sep)
    return re.sub(rf"{out}(?:[^/\\\s]+[/\\])*", "", text)


def step_text(step: Step, doing: str) -> str:
    """What is being done, how far it is, and how long it will take."""
    parts = [doing]
    if step.total:
        parts.append(f"{step.index} of {step.total}")
    if step.eta is not None:
        parts.append(f"about {max(round(step.eta), 1)} s left")
    return ", ".join(parts)


def sketch(picture: Any) -> str:
    """A preview inside the page itself: no file is written for what is gone in a second."""
    place = io.BytesIO()
    picture.convert("RGB").save(place, "WEBP", quality=80)
    data = base64.b64encode(place.getvalue()).decode()
    return (
        '<figure class="sketch"><img alt="What it is becoming" '
        f'src="data:image/webp;base64,{data}"><figcaption>what it is becoming</figcaption></figure>'
    )


def shown_files(take: Take) -> dict[str, str | None]:
    """What a page shows of a take: picture, film, sound, figure, and the file itself."""
    path, modality = take.path, take.request.modality
    beside = path.with_suffix(".png")
    film = path.suffix == ".mp4"
    still = modality == "image" or (modality == "portrait" and not film)
    sound = path.with_suffix(".wav") if modality == "music" else path
    found = {
        "picture": path if still else None,
        "film": path if film else None,
        "sound": sound if modality in ("music", "voice") else None,
        "figure": None if still else beside,
        "file": path,
    }
    return {name: served(one) for name, one in found.items()}


def before_of(take: Take) -> Path | None:
    """The photo that a still picture was made from, as long as it is that photo.

    A stranger's take may name any file of this machine: what is no picture, or another one than
    the take was made from, is not served.
    """
    from pipelines.media import load_image

    name = "image" if take.request.modality == "portrait" else "init"
    path = take.request.inputs.get(name)
    if path is None or take.path.suffix == ".mp4":
        return None
    with suppress(OSError, ValueError):
        load_image(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() == take.request.digests[name]:
            return path
    return None


def served_folder() -> Path:
    """The server's own folder."""
    return Path(os.environ["GRADIO_TEMP_DIR"])


def blank() -> Path:
    """A grey square for takes that cannot be looked at."""
    from PIL import Image

    from pipelines.media import encode_image

    place = served_folder() / "blank.png"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_image(Image.new("RGB", (64, 64), "#888"), "png", {}))
    return place
