"""`affect demo` and `affect page`: something to look at.

The demo makes a handful of pictures offline with the embedded model, a small grid, a re-rendered
photo, some music, a voice, portraits and, of all of these, a film, then writes `index.html` and
prints its path. It takes the same road as every other verb: requests, `pipelines.generate`, takes.
The page verb writes the same page for any folder of takes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.assets import ASSETS
from studio import make
from studio.console import note, result
from studio.grid import grid_requests, write_sheet
from studio.run import Options, build_requests, read_emotion, run
from studio.source import is_neutral_reading, is_picture_of_film

if TYPE_CHECKING:
    from pipelines.take import Take
    from studio.page import Card, Section

SEED = 10
# Scenes the embedded painter knows, each with emotions that pull it apart.
SCENES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a mountain lake", ("neutral", "contentment .9", "fear .9", "sadness .9")),
    ("a field of tulips", ("neutral", "happiness .9", "boredom .9", "happiness .4 + fear .5")),
    ("a city street", ("neutral", "excitement .9", "anger .9", "disgust .9")),
)
GRID = ("the sea", ("happiness", "fear", "sadness"), 4)
# Photos that scikit-learn ships inside its package (nothing is downloaded, none shows a person),
# under CC BY 2.0 by danielbuechele and vultilion; the page names them.
PHOTOS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("china.jpg", "a building by a lake", ("awe .9", "fear .9")),
    ("flower.jpg", "flowers", ("happiness .9", "sadness .9")),
)
CREDIT = "Photos: china.jpg by danielbuechele and flower.jpg by vultilion, CC BY 2.0, cropped."
# One piece a quadrant that people tell apart best, then a course of emotions; short, for a demo.
MUSIC: tuple[tuple[str, float], ...] = (
    ("happiness .9", 16),
    ("sadness .9", 16),
    ("0s contentment .7; 10s fear .9; 20s awe .9", 26),
)
RECOLOURED = "sadness .9"  # the happy piece, played again
# Spoken by a synthesiser, so that it is nobody's voice.
SPEECH = ASSETS / "samples" / "speech.wav"
VOICES = ("anger .9", "sadness .9", "happiness .9", "0s fear .9; 2s contentment .8")
SPOKEN = ("We are closing the shop.", "sadness .8")  # said first, where espeak-ng is installed
# Painted here, so nobody's.
FACES = ASSETS / "samples" / "faces"
PORTRAITS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("closed.jpg", "0s neutral; 1s anger .9", {"seconds": 2.5}),
    ("cartoon.jpg", "0s neutral; .7s surprise .9; 1.8s happiness .8", {"seconds": 2.5}),
    ("smile.jpg", "sadness .8", {"still": True}),
)
SPEAKER = "closed.jpg"  # says the sample, as far as 2.5 s go
SMALL = {"size": 288, "fps": 25}  # a demo is no place for a minute of rendering
STORM = ASSETS / "samples" / "storm.toml"
PAGE = "index.html"
# A page of more pictures than this is slow to open; the newest are kept.
MOST = 500


def app() -> typer.Typer:
    """The verb `demo`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(demo)
    return verb


def page_app() -> typer.Typer:
    """The verb `page`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(page)
    return verb


def demo(
    out: make.Out = Path("out"),
    backbone: make.Backbone = make.DEFAULT_BACKBONE,
    device: make.Device = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every picture.")] = SEED,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps.")] = None,
    composer: Annotated[
        str, typer.Option("--composer", help="Model for the music: a name or a folder.")
    ] = make.DEFAULT_COMPOSER,
    voice: Annotated[
        str, typer.Option("--voice", help="Model for the voice: a name or a folder.")
    ] = make.DEFAULT_VOICE,
    portrait: Annotated[
        str, typer.Option("--portrait", help="Model for the portraits: a name or a folder.")
    ] = make.DEFAULT_PORTRAIT,
    film: Annotated[bool, typer.Option("--film/--no-film", help="A film at the end.")] = True,
) -> int:
    """Make one of everything offline, a film last, and a page of it all; print its path."""
    options = Options(out, device=device, offline=True)
    params: dict[str, Any] = {} if steps is None else {"steps": steps}
    sections, missing = [], 0
    for part in (_scenes, _grid, _photos):
        made, failed = part(options, backbone, seed, params)
        sections += made
        missing += failed
    for part_of, model in ((_music, composer), (_voice, voice), (_portraits, portrait)):
        made, failed = part_of(options, model, seed)
        sections += made
        missing += failed
    if film:
        made, failed = _film(options)
        sections += made
        missing += failed
    return _finish(sections, out, "Affect Studio: the same words, another mood", missing)


def page(
    folder: Annotated[Path, typer.Argument(help="A folder of takes.")] = Path("out"),
) -> int:
    """Write FOLDER/index.html, a contact page of the newest takes in FOLDER, and print its path."""
    from pipelines import ledger
    from pipelines.take import Take
    from studio.page import sections_of

    if not folder.is_dir():
        msg = f"page: {folder} is no folder; give the --out folder of earlier takes"
        raise ValueError(msg)
    endings = ("png", "jpg", "webp", "mid", "wav", "flac", "mp3", "mp4")
    files = [file for ending in endings for file in folder.rglob(f"*.{ending}")]
    hidden = (".trash", ".thumbnails")  # of the library
    files = [file for file in files if not set(file.relative_to(folder).parts) & set(hidden)]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    # How long a take took is in the ledger only.
    seconds = {line.get("sha256"): line.get("seconds") for line in ledger.read(folder)}
    takes: list[Take] = []
    for file in files:
        if len(takes) == MOST:
            break
        try:
            take = Take.read(file)
        except ValueError:
            continue  # a contact sheet, a photo, somebody else's picture
        if take.request.modality == "music" and file.suffix != ".mid":
            continue  # the piano roll and the sound beside their piece
        if take.request.modality == "voice" and (file.suffix == ".png" or is_neutral_reading(file)):
            continue  # the picture and the neutral reading beside their voice
        if is_picture_of_film(take):
            continue
        takes.append(replace(take, seconds=seconds.get(take.sha256)))
    if not takes:
        msg = f"page: no takes of this studio in {folder}; make some with `affect make image`"
        raise ValueError(msg)
    return _finish(sections_of(takes), folder, "Affect Studio: takes")


def _finish(sections: list[Section], out: Path, title: str, missing: int = 0) -> int:
    """Write the page and print its path; 1 when pictures are missing from it."""
    from studio.page import write_page

    path = write_page(sections, out / PAGE, title=title, lead=LEAD)
    note("open it in a browser:")
    result(str(path.resolve()))
    return 1 if missing else 0


LEAD = (
    "Everything here was asked for with an emotion, pictures with words as well. Two readers then "
    "say what they see or hear in it; the closer a bar comes to its tick, the closer the work came "
    "to what was asked."
)


# Each part of the demo returns its sections and how many of its pictures could not be made.
def _scenes(
    options: Options, backbone: str, seed: int, params: dict[str, Any]
) -> tuple[list[Section], int]:
    from studio.page import sections_of

    requests = [
        request
        for prompt, emotions in SCENES
        for request in build_requests(
            prompt,
            [read_emotion(text, over=False, reader=None) for text in emotions],
            seed=seed,
            n=1,
            backbone=backbone,
            params=params,
            inputs={},
        )
    ]
    takes = run(requests, options, what="demo: pictures", announce=False)
    return sections_of(takes), len(requests) - len(takes)


def _grid(
    options: Options, backbone: str, seed: int, params: dict[str, Any]
) -> tuple[list[Section], int]:
    from studio.page import Figure, Section

    prompt, names, levels = GRID
    requests = grid_requests(
        prompt, names, levels, neutral=True, seed=seed, backbone=backbone, params=params
    )
    takes = run(requests, options, what="demo: a grid in one batch", announce=False)
    if not takes:
        return [], len(requests)  # a sheet of nothing shows nothing
    path = write_sheet(names, levels, requests, takes, options.out)
    listed = ", ".join(names)
    figure = Figure(
        path,
        caption=f"affect grid image {prompt!r} --emotions {','.join(names)} --levels {levels} "
        f"--seed {seed}",
        alt=f"{prompt}: neutral, then {levels} rising intensities of {listed}, one row each",
    )
    section = Section(
        title=f"{prompt}, rising intensity",
        text="One seed, one batch; only the emotion changes from picture to picture.",
        figures=(figure,),
    )
    return [section], len(requests) - len(takes)


def _photos(
    options: Options, backbone: str, seed: int, params: dict[str, Any]
) -> tuple[list[Section], int]:
    from studio.page import Section, card_of

    photos = {name: sample_photo(name, options.out) for name, _, _ in PHOTOS}
    if None in photos.values():
        note("demo: scikit-learn is not installed, so no photo is re-rendered")
        return [], 0
    cards: list[Card] = []
    missing = 0
    for name, prompt, emotions in PHOTOS:
        requests = build_requests(
            prompt,
            [read_emotion(text, over=False, reader=None) for text in emotions],
            seed=seed,
            n=1,
            backbone=backbone,
            params=params,
            inputs={"init": photos[name]},
        )
        takes = run(requests, options, what="demo: a photo, re-rendered", announce=False)
        cards += [card_of(take) for take in takes]
        missing += len(requests) - len(takes)
    text = f"Left the photo, right what became of it. {CREDIT}"
    return [Section(title="Photos, re-rendered", text=text, cards=tuple(cards))], missing


def _music(options: Options, backbone: str, seed: int) -> tuple[list[Section], int]:
    from pipelines import resolve
    from studio.models import is_here
    from studio.page import Section, card_of

    if not is_here(resolve(backbone, "music")):
        note(f"demo: the weights of {backbone} are not here, so no music is made")
        return [], 0
    options = replace(options, ext="mid")

    def asked(text: str, seconds: float | None, **inputs: Path) -> list[Any]:
        return build_requests(
            "",
            [read_emotion(text, over=False, reader=None, modality="music")],
            seed=seed,
            n=1,
            backbone=backbone,
            params={} if seconds is None else {"seconds": seconds, "candidates": 2},
            inputs=inputs,
            modality="music",
        )

    requests = [one for text, seconds in MUSIC for one in asked(text, seconds)]
    takes = run(requests, options, what="demo: music", announce=False)
    wanted = len(requests)
    if takes:
        again = asked(RECOLOURED, None, recolour=takes[0].path)
        wanted += len(again)
        takes += run(again, options, what="demo: music in another mood", announce=False)
    text = (
        "Notes over time, under the valence and arousal that were asked for and read. The last one "
        f"is the first, played again with {RECOLOURED}: the same melody in another mood."
    )
    section = Section(title="Music", text=text, cards=tuple(card_of(take) for take in takes))
    return [section], wanted - len(takes)


def _voice(options: Options, backbone: str, seed: int) -> tuple[list[Section], int]:
    from shutil import which

    from pipelines import resolve
    from studio.models import is_here
    from studio.page import Section, card_of

    if not (SPEECH.is_file() and is_here(resolve(backbone, "voice"))):
        note(f"demo: the weights of {backbone} or the sample are not here, so no voice is changed")
        return [], 0

    def asked(text: str, words: str = "") -> list[Any]:
        return build_requests(
            words,
            [read_emotion(text, over=False, reader=None, modality="voice")],
            seed=seed,
            n=1,
            backbone=backbone,
            params={} if words else {"source": "neutral"},  # it is: both read against it
            inputs={} if words else {"audio": SPEECH},
            modality="voice",
        )

    options = replace(options, ext="auto")
    requests = [one for text in VOICES for one in asked(text)]
    takes = run(requests, options, what="demo: a voice", announce=False)
    if which("espeak-ng"):
        words, emotion = SPOKEN
        spoken = asked(emotion, words)
        requests += spoken
        takes += run(spoken, options, what="demo: words, spoken first", announce=False)
    text = (
        "The same words by the same voice, here one that a synthesiser spoke. The pitch before and "
        "after, under the valence and arousal asked for and heard; beside it what became of the "
        "cues that listeners go by."
    )
    section = Section(title="A voice", text=text, cards=tuple(card_of(take) for take in takes))
    return [section], len(requests) - len(takes)


def _portraits(options: Options, backbone: str, seed: int) -> tuple[list[Section], int]:
    from importlib.util import find_spec

    from pipelines import resolve
    from studio.models import is_here
    from studio.page import Section, card_of

    if find_spec("mediapipe") is None:
        note("demo: mediapipe is not installed, so no face is moved (the extra `portrait` has it)")
        return [], 0
    if not (FACES.is_dir() and is_here(resolve(backbone, "portrait"))):
        note(f"demo: the weights of {backbone} or the faces are not here, so no face is moved")
        return [], 0
    requests = [
        request
        for name, emotion, params in PORTRAITS
        for request in build_requests(
            "",
            [read_emotion(emotion, over=False, reader=None, modality="portrait")],
            seed=seed,
            n=1,
            backbone=backbone,
            params={**({} if "still" in params else SMALL), **params},
            inputs={
                "image": FACES / name,
                "audio": SPEECH if name == SPEAKER and SPEECH.is_file() else None,
            },
            modality="portrait",
        )
    ]
    takes = run(requests, replace(options, ext="auto"), what="demo: portraits", announce=False)
    text = (
        "Painted faces that feel, and one that speaks as well. Beside each film its faces over "
        "time and the muscles between the emotion and the picture; a still keeps every pixel of "
        "the photo but the face's."
    )
    section = Section(title="Portraits", text=text, cards=tuple(card_of(take) for take in takes))
    return [section], len(requests) - len(takes)


def _film(options: Options) -> tuple[list[Section], int]:
    from importlib.util import find_spec

    from pipelines import DEFAULTS, resolve
    from pipelines.film import request_of
    from pipelines.film_scene import read_scene
    from studio.models import is_here
    from studio.page import Section, card_of

    needed = ("image", "voice", "portrait", "music")
    gone = [DEFAULTS[kind] for kind in needed if not is_here(resolve(DEFAULTS[kind], kind))]
    if find_spec("mediapipe") is None:
        gone.append("mediapipe")
    if gone or not STORM.is_file():
        note(f"demo: {gone[0] if gone else STORM.name} is not here, so no film is made")
        return [], 0
    request = request_of(read_scene(STORM))
    takes = run([request], replace(options, ext="auto"), what="demo: a film", announce=False)
    text = (
        "One emotion over time, and everything follows it: pictures, a voice and the face that "
        "says it, and music that steps back under the words. Each part is a take of its own."
    )
    section = Section(title="A film", text=text, cards=tuple(card_of(take) for take in takes))
    return [section], 1 - len(takes)


def sample_photo(name: str, out: Path) -> Path | None:
    """A square 256-pixel copy of a sample photo in `out`/inputs, or None without scikit-learn."""
    from importlib.util import find_spec

    from pipelines.media import encode_image, load_image
    from pipelines.take import write_atomic

    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "datasets" / "images" / name
    if not source.is_file():
        return None
    image = load_image(source)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((256, 256))
    path = out / "inputs" / Path(name).with_suffix(".png").name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(square, "png", {}))
    return path
