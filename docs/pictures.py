"""The pictures of these pages, made anew from what runs: `python docs/pictures.py`, some minutes.

Starts a server over a folder of its own, makes a few takes in a real Chromium as a person would and
keeps what is seen: in light and dark colours and on a phone; and frames of the film that the sample
scene gives. Everything shown was made here. It deliberately draws nothing.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from pipelines.media_video import decode_frames, probe_video  # noqa: E402
from tests.browser import browsing, serving, watched  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 200_000
PHONE = {"width": 375, "height": 812, "device_scale_factor": 2, "has_touch": True}
SCENE = "assets/samples/storm.toml"


def main(arguments: Sequence[str]) -> int:
    """Make all pictures, or those named: light, dark, phone, gallery, film.

    film=FILE.mp4 and takes=FOLDER take what was made before.
    """
    given = dict(one.partition("=")[::2] for one in arguments)
    wanted = set(given) - {"takes"} or {"light", "dark", "phone", "gallery", "film"}
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if "film" in wanted:
            film_strip(Path(given["film"]) if given.get("film") else sample_film(out))
        if wanted - {"film"}:
            screens(Path(given["takes"]) if given.get("takes") else some_takes(out), wanted)
    return 0


def some_takes(out: Path) -> Path:
    """A folder with five pictures, for the gallery."""
    takes = {
        "a lighthouse at dusk": "sadness .8",
        "flowers in a garden": "happiness .8",
        "the sea": "anger .9",
        "a forest path": "fear .9",
        "a mountain lake": "awe .8",
    }
    manifest = out.with_name("takes.jsonl")
    lines = [{"prompt": prompt, "emotion": felt, "seed": 7} for prompt, felt in takes.items()]
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    affect("batch", str(manifest), "--out", str(out))
    return out


def screens(out: Path, wanted: set[str]) -> None:
    """The page with a picture on it, as three people see it, and a filled gallery."""
    with serving(out) as server, browsing() as browser:
        for name, options in {
            "light": {"color_scheme": "light"},
            "dark": {"color_scheme": "dark"},
            "phone": {"color_scheme": "light", **PHONE},
        }.items():
            if name not in wanted:
                continue
            with watched(browser, server, **options) as seen:
                page = seen.page
                make(page, "clouds over the sea", "awe .8")
                if name == "phone":
                    page.evaluate("window.scrollTo(0, 0)")
                page.wait_for_timeout(800)  # transitions
                keep(page.screenshot(full_page=name != "phone"), f"studio-{name}")
        if "gallery" in wanted:
            with watched(browser, server, color_scheme="light") as seen:
                seen.page.get_by_role("tab", name="Gallery").click()
                seen.page.locator("#gallery img").nth(4).wait_for()
                seen.page.wait_for_timeout(800)
                keep(seen.page.screenshot(), "gallery")


def make(page: Any, prompt: str, emotion: str) -> None:
    """A picture by the page's own button; returns when its card is there."""
    page.locator("#emotion textarea").fill(emotion)
    page.locator("#prompt-image textarea, #prompt-image input").first.fill(prompt)
    page.locator("#settings-image button").first.click()
    page.locator("#seed-image input, #seed-image textarea").first.fill("3")
    page.locator("#settings-image button").first.click()
    page.locator("#make-image").click()
    page.locator("#card-image table, #card-image dl, #card-image svg").first.wait_for(
        timeout=180_000
    )


def sample_film(out: Path) -> Path:
    """The film of the sample scene."""
    told = affect("make", "film", SCENE, "--out", str(out)).split()
    return Path(next(line for line in reversed(told) if line.endswith(".mp4")))


def film_strip(film: Path) -> None:
    """Seven frames of the sample film, and under them the emotion at that second."""
    seconds = probe_video(film).seconds
    at = [seconds * (k + 0.5) / 7 for k in range(7)]
    shots: list[Image.Image] = []
    for time, pixels in decode_frames(film, fps=10, side=320):
        if len(shots) < len(at) and time >= at[len(shots)]:
            shots.append(Image.fromarray(pixels))
    width, height = shots[0].size
    strip = Image.new("RGB", (7 * width + 6 * 6, height + 34), "#faf9f6")
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(17)
    for k, (shot, time) in enumerate(zip(shots, at, strict=False)):
        strip.paste(shot, (k * (width + 6), 0))
        place = (k * (width + 6) + width // 2, height + 8)
        draw.text(place, f"{time:.0f} s  {strongest(time)}", "#1d1f24", font, anchor="ma")
    strip = strip.resize((1600, round(strip.height * 1600 / strip.width)), Image.Resampling.LANCZOS)
    keep(strip, "film-strip")


def strongest(time: float) -> str:
    """The strongest emotion of the sample scene at a second."""
    import tomllib

    from adapters.emotion import EmotionTimeline

    scene = tomllib.loads((ROOT / SCENE).read_text(encoding="utf-8"))
    emotion = EmotionTimeline.parse(scene["emotion"]).at(time)
    return f"{emotion.dominant} {emotion.intensity:.1f}".replace("0.", ".")


def affect(*arguments: str) -> str:
    """What a command prints."""
    return subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "studio.cli", *arguments],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


def keep(picture: bytes | Image.Image, name: str) -> None:
    """Write a picture as WEBP of at most 200 kB, as sharp as that allows."""
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    image = image.convert("RGB")
    if max(image.size) > 1800:
        scale = 1800 / max(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
        )
    for quality in range(90, 30, -10):
        data = io.BytesIO()
        image.save(data, "WEBP", quality=quality, method=6)
        if data.tell() <= MOST_BYTES:
            break
    path = PICTURES / f"{name}.webp"
    path.write_bytes(data.getvalue())
    print(path.relative_to(ROOT), image.size, f"{data.tell() / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
