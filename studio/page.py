"""The contact page: one self-contained HTML file that shows takes beside what readers saw in them.

It works from `file://`, in dark and light, without scripts and without anything from elsewhere
(a content policy in the page forbids both). Every string that comes out of a media file is treated
as hostile and escaped. Per take: the picture, the emotion asked, both readers as small bars with
the asked intensity as a tick, seed, seconds and the command that makes it again. Music shows its
piano roll, a voice its pitch before and after, both under the asked and the read emotion over time,
and can be played, a voice beside the recording it was made of. A portrait that moves, and a video,
is a player beside the picture of its course; a retouched photo stands beside what it was. A film
has its player above the picture of all its tracks under the one curve that was asked.

The page deliberately does not know how takes are made or read; it is given finished ones. A bar
says how a reader reads a work, never what a person feels.
"""

from __future__ import annotations

import html
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from adapters.emotion import CORE
from pipelines import drawing
from pipelines.ledger import write_atomic
from studio.source import recording_of

if TYPE_CHECKING:
    from pipelines.take import Take

# One colour an emotion, those of the figures; contact sheets and grids take them from here.
COLOURS = drawing.COLOURS
# How many emotions a card lists: those asked for, then the strongest read, up to this many rows.
ROWS = 4
LONGEST_HEAD = 120  # characters of an emotion over a card; the file and its picture have all


@dataclass(frozen=True, slots=True)
class ReaderBars:
    """What one reader saw: `name` and an intensity in 0..1 for each core emotion."""

    name: str
    intensities: dict[str, float]
    in_domain: float | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One take on the page, everything as plain text and numbers; nothing is trusted.

    `before` is the photo that a picture or film started from, `audio` the sound of a piece of music
    or of a voice, `audio_before` the recording the voice was, `video` a film. Paths may lie
    anywhere on this machine; those that do not exist are left out.
    """

    picture: Path
    prompt: str
    emotion: str
    asked: dict[str, float]
    readers: tuple[ReaderBars, ...]
    facts: tuple[str, ...]
    command: str
    before: Path | None = None
    audio: Path | None = None
    audio_before: Path | None = None
    video: Path | None = None
    kind: str = "picture"

    @property
    def dominant(self) -> str:
        """The emotion asked for most, or "neutral"."""
        return max(self.asked, key=lambda name: self.asked[name]) if self.asked else "neutral"


@dataclass(frozen=True, slots=True)
class Figure:
    """A contact sheet or plot shown across the page."""

    picture: Path
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, an optional sentence, large figures, then cards."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    cards: tuple[Card, ...] = field(default=())


def bars_of(reading: Mapping[str, Any] | None) -> tuple[ReaderBars, ...]:
    """Every reader's intensities found in a take's reading, at any depth, in the order stored.

    A reader's entry is a mapping with `intensities` (by name, or 12 numbers) or `probabilities`
    (13 with neutral). Anything malformed is skipped: anyone may have made the file it is from.
    """
    found: list[ReaderBars] = []

    def visit(node: object, name: str, depth: int) -> None:
        if not isinstance(node, Mapping) or depth > 4:
            return
        values = _numbers(node.get("intensities"), len(CORE))
        if values is None:
            chances = _numbers(node.get("probabilities"), len(CORE) + 1)
            values = None if chances is None else chances[1:]
        if values is not None:
            domain = _numbers([node.get("in_domain")], 1)
            found.append(
                ReaderBars(
                    str(node.get("reader") or name),
                    dict(zip(CORE, values, strict=True)),
                    None if domain is None else domain[0],
                )
            )
            return
        for key, child in node.items():
            visit(child, str(key), depth + 1)

    visit(reading, "reader", 0)
    return tuple(found)


def _numbers(values: object, count: int) -> list[float] | None:
    """`values` as `count` finite floats clipped to 0..1, or None; names in CORE order or a list."""
    if isinstance(values, Mapping):
        names = CORE if count == len(CORE) else ("neutral", *CORE)
        values = [values.get(name) for name in names]
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return None
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not math.isfinite(value):
            return None
        numbers.append(min(max(float(value), 0.0), 1.0))
    return numbers


def card_of(take: Take) -> Card:
    """The card of a take, all of it from the take itself."""
    request = take.request
    music, voice = request.modality == "music", request.modality == "voice"
    portrait = request.modality == "portrait"
    whole = request.modality == "film"  # cut from takes of all the others
    clip = request.modality == "video"
    film = whole or clip or (portrait and Path(take.path).suffix == ".mp4")
    given = [name for name in ("recolour", "onto") if music and name in request.inputs]
    facts = [f"{request.inputs[given[0]].name}, played again"] if given else []
    brought = ("image", "audio", "drive", "curves") if portrait else ("audio",) if voice else ()
    facts += [request.inputs[name].name for name in brought if name in request.inputs]
    if not given:  # what is played again has no seed and needs no model
        facts.append(f"seed {request.seed}")
    if take.seconds:
        facts.append(f"{take.seconds:.1f} s")
    if whole:
        facts += _agreements(take.reading or {})
    elif not given:
        named = music or voice or portrait or clip
        facts.append(Path(request.backbone).name if named else str(request.backbone))
    chosen = take.chosen or {}
    if isinstance(chosen, Mapping) and chosen.get("of"):
        facts.append(f"best of {chosen['of']}")
    if voice and isinstance(alike := (take.reading or {}).get("speaker_similarity"), int | float):
        facts.append(f"speaker similarity {alike:.2f}")
    if portrait and isinstance(drift := (take.reading or {}).get("identity"), int | float):
        facts.append(f"identity drift {drift:.3f}")
    if clip:
        facts += _calm(take.reading or {})
    before = request.inputs.get("image" if portrait else "init")
    path = Path(take.path)
    return Card(
        picture=path.with_suffix(".png") if music or voice or film else path,
        prompt=request.prompt,
        emotion=request.emotion.text,
        asked=_asked(take),
        readers=bars_of(take.reading),
        facts=tuple(facts),
        command=remake_command(take),
        before=None if before is None else Path(before),
        audio=path.with_suffix(".wav") if music else path if voice else None,
        audio_before=recording_of(take) if voice else None,
        video=path if film else None,
        kind=request.modality if whole or clip or film or music or voice else "picture",
    )


def _calm(reading: Mapping[str, Any]) -> list[str]:
    """How frames of a video follow each other and what was asked, as far as its take tells it."""
    facts = []
    follows, motion = reading.get("follows"), reading.get("motion")
    for name, one in follows.items() if isinstance(follows, Mapping) else ():
        if isinstance(one, Mapping) and isinstance(r := one.get("r"), int | float):
            facts.append(f"{name} follows r {r:.2f}")
    if isinstance(motion, Mapping) and isinstance(value := motion.get("flicker"), int | float):
        facts.append(f"flicker {value:.4f}")
    return facts


def _agreements(reading: Mapping[str, Any]) -> list[str]:
    """How each track of a film follows what was asked over time, and how far they are apart."""
    facts = []
    follows = reading.get("follows")
    for name, found in follows.items() if isinstance(follows, Mapping) else ():
        if isinstance(found, Mapping) and isinstance(r := found.get("r"), int | float):
            facts.append(f"{str(name)[:20]} follows what was asked: r {r:.2f}")
    agreement = reading.get("agreement")
    mean = agreement.get("between_mean") if isinstance(agreement, Mapping) else None
    if isinstance(mean, Mapping):
        one, other = mean.get("divergence"), mean.get("shuffled_divergence")
        if isinstance(one, int | float) and isinstance(other, int | float):
            facts.append(f"divergence between them {one:.2f} (shuffled {other:.2f})")
    return facts


def _asked(take: Take) -> dict[str, float]:
    """Intensities that were asked for; of a course of emotions its mean, as the take tells it."""
    emotion = take.request.emotion
    told = (take.reading or {}).get("asked") if not emotion.is_constant else None
    values = _numbers(told, len(CORE)) or list(emotion.at(0.0).intensities)
    return {name: float(x) for name, x in zip(CORE, values, strict=True) if x > 0.0}


def remake_command(take: Take) -> str:
    """The shell command that makes the same picture again from the file alone."""
    return f"affect remake {shlex.quote(str(take.path))}"


def sections_of(takes: Iterable[Take]) -> list[Section]:
    """One section per prompt, recording or face, as they first appear; else under their kind."""
    groups: dict[str, list[Card]] = {}
    for take in takes:
        inputs = take.request.inputs
        source = inputs.get("image" if take.request.modality == "portrait" else "audio")
        kind = take.request.modality.capitalize()
        title = take.request.prompt.strip() or (f"{kind}: {source.name}" if source else kind)
        groups.setdefault(title, []).append(card_of(take))
    return [Section(title=prompt, cards=tuple(cards)) for prompt, cards in groups.items()]


def write_page(
    sections: Sequence[Section], path: Path, *, title: str = "Affect Studio", lead: str = ""
) -> Path:
    """Write the page to `path` in one piece and return it. Pictures are linked, not copied."""
    write_atomic(path, render(sections, path.parent, title=title, lead=lead).encode())
    return path


def render(
    sections: Sequence[Section], folder: Path, *, title: str = "Affect Studio", lead: str = ""
) -> str:
    """The page as text; links are relative to `folder` where they can be."""
    body = "\n".join(_section(section, folder) for section in sections)
    return _PAGE.format(
        title=html.escape(title),
        lead=f'<p class="lead">{html.escape(lead)}</p>' if lead else "",
        style=_STYLE,
        body=body or '<p class="lead">No takes yet.</p>',
        legend=_LEGEND,
        footer=_FOOTER,
    )


def _section(section: Section, folder: Path) -> str:
    parts = [f"<section><h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    for figure in section.figures:
        parts.append(
            f'<figure class="wide"><a href="{_link(figure.picture, folder)}">'
            f'<img src="{_link(figure.picture, folder)}" alt="{html.escape(figure.alt)}"></a>'
            f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
        )
    if section.cards:
        parts.append('<div class="cards">')
        parts.extend(_card(card, folder) for card in section.cards)
        parts.append("</div>")
    parts.append("</section>")
    return "\n".join(parts)


def _card(card: Card, folder: Path) -> str:
    colour = COLOURS.get(card.dominant, COLOURS["neutral"])
    names = {"music": "Piano roll", "voice": "Voice", "portrait": "Face over time"}
    names |= {"film": "Film", "video": "Film over time"}
    nameless = names.get(card.kind, "Picture")
    shown = card.prompt.strip() or nameless
    alt = html.escape(f"{shown}, made with the emotion {card.emotion}")
    link = _link(card.picture, folder)
    image = f'<a href="{link}"><img src="{link}" alt="{alt}" loading="lazy"></a>'
    if (card.audio or card.video) and not card.picture.is_file():
        image = ""  # the take may have been moved without what lay beside it
    sounds = (("before", card.audio_before), ("after", card.audio))
    players = [(name, path) for name, path in sounds if path is not None and path.is_file()]
    heard = ""
    for name, path in players:
        tag = f"<span>{name}</span>" if len(players) > 1 else ""
        label = "The recording it was made of" if name == "before" else alt
        heard += (
            f'<div class="player">{tag}<audio controls preload="none" '
            f'src="{_link(path, folder)}" aria-label="{label}"></audio></div>'
        )
    if card.video is not None and card.video.is_file():
        film = _link(card.video, folder)
        poster = ""
        if card.before is not None and card.before.is_file():
            poster = f' poster="{_link(card.before, folder)}"'
        image = (
            f'<video controls playsinline preload="metadata"{poster} src="{film}" '
            f'aria-label="{alt}"></video>{image}'
        )
    elif card.before is not None and card.before.is_file():
        before = _link(card.before, folder)
        image = (
            f'<div class="pair"><a href="{before}"><img src="{before}" loading="lazy" '
            f'alt="The photo it started from"></a>{image}</div>'
        )
    above, within = ("", heard) if card.kind == "voice" else (heard, "")
    return (
        f'<article class="{card.kind}" style="--c:{colour}">'
        f'{image}{above}<div class="body">'
        f'<h3><span class="dot"></span>{html.escape(_headed(card.emotion))}</h3>'
        f"{within}{_chart(card)}"
        f'<p class="facts">{html.escape(" · ".join(card.facts))}</p>'
        f"<details><summary>Make it again</summary><p>{html.escape(card.prompt)}</p>"
        f"<code>{html.escape(card.command)}</code></details>"
        "</div></article>"
    )


def _headed(emotion: str) -> str:
    """An emotion as a heading: of a long course, such as a part of a film has, what begins it."""
    if len(emotion) <= LONGEST_HEAD:
        return emotion
    return emotion[:LONGEST_HEAD].rpartition(";")[0] + "; …"


def _chart(card: Card) -> str:
    """Rows of thin bars, one bar a reader, with a tick at the intensity asked for."""
    if not card.readers:
        return '<p class="facts">not read</p>'
    strongest = {name: max(r.intensities[name] for r in card.readers) for name in CORE}
    rows = sorted(card.asked, key=lambda name: -card.asked[name])
    rows += sorted((n for n in CORE if n not in rows), key=lambda name: -strongest[name])
    rows = rows[: max(ROWS, len(card.asked))]
    lines = []
    for name in rows:
        asked = card.asked.get(name)
        spoken = [f"{name}:"] + ([f"asked {asked:.2f},"] if asked is not None else [])
        bars = []
        for index, reader in enumerate(card.readers):
            value = reader.intensities[name]
            spoken.append(f"{reader.name} reads {value:.2f},")
            bars.append(f'<i class="bar r{index % 2}" style="width:{100 * value:.1f}%"></i>')
        tick = "" if asked is None else f'<b style="left:{100 * min(asked, 1.0):.1f}%"></b>'
        best = " ".join(_short(reader.intensities[name]) for reader in card.readers)
        label = html.escape(" ".join(spoken).rstrip(",:"), quote=True)
        lines.append(
            f'<li aria-label="{label}" style="--c:{COLOURS[name]}"><span>{name}</span>'
            f'<span class="track">{"".join(bars)}{tick}</span><span class="num">{best}</span></li>'
        )
    names = " / ".join(html.escape(reader.name) for reader in card.readers)
    return f'<ul class="chart" title="readers: {names}">{"".join(lines)}</ul>'


def _short(value: float) -> str:
    """Two digits without the leading zero, so that two numbers fit beside a bar."""
    text = f"{value:.2f}"
    return text if text.startswith("1") else text[1:]


def _link(path: Path, folder: Path) -> str:
    """A relative link from `folder`, percent-encoded and escaped for an attribute."""
    relative = os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/")
    return html.escape(quote(relative), quote=True)


_LEGEND = (
    '<p class="key"><span class="track" aria-hidden="true"><i class="bar r0" style="width:68%"></i>'
    '<i class="bar r1" style="width:58%"></i><b style="left:80%"></b></span>'
    "<span>tick: asked for</span><span>upper bar: the critic that helps choose</span>"
    "<span>lower bar: an independent reader that never does</span></p>"
)

_FOOTER = (
    "Everything here is synthetic, and each file says so. Bars say how a reader reads a work, "
    "not what a person feels."
)

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f2;--card:#fff;--ink:#1d1f24;--soft:#62656e;--line:#e2e0da;
--track:#eceae4}
@media(prefers-color-scheme:dark){:root{--bg:#101216;--card:#1a1d23;--ink:#e9e8e4;--soft:#a0a4ae;
--line:#2b2f37;--track:#2a2e36}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:84rem;padding:2.5rem clamp(1rem,4vw,3rem) 4rem;background:var(--bg);
color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:2rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .4rem}
h2{font-size:1.2rem;margin:2.6rem 0 .9rem;overflow-wrap:anywhere}
.lead,section>p{color:var(--soft);max-width:46rem;margin:.2rem 0 1rem}
.cards{display:grid;gap:1.1rem;grid-template-columns:repeat(auto-fill,minmax(15.5rem,1fr))}
article{background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden;
display:flex;flex-direction:column}
article img{display:block;width:100%;aspect-ratio:1;object-fit:cover;background:var(--track)}
article.music{grid-column:span 2}
article.music img{aspect-ratio:16/9;background:#fbfaf7}
article.voice{grid-column:1/-1;flex-direction:row}
article.voice>a{flex:0 0 68%}
article.voice img{aspect-ratio:8/5;background:#fbfaf7}
article.voice .player{padding:0 0 .5rem}
article.voice .chart{margin-top:.5rem}
article:is(.portrait,.video){grid-column:1/-1;flex-direction:row;align-items:stretch}
article:is(.portrait,.video) video{flex:0 0 28%;min-width:0;max-height:34rem;
background:var(--track);
object-fit:contain}
article:is(.portrait,.video)>a{flex:0 0 45%}
article:is(.portrait,.video) img{aspect-ratio:8/5;height:100%;object-fit:contain;
background:#fbfaf7}
article.film{grid-column:1/-1;display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr)}
article.film video{grid-column:1;grid-row:1;width:100%;max-height:34rem;background:#000}
article.film>a{grid-column:1/-1;grid-row:2;border-top:1px solid var(--line)}
article.film>a img{aspect-ratio:auto;object-fit:contain;background:#fbfaf7}
article.film .body{grid-column:2;grid-row:1}
.player{display:flex;align-items:center;gap:.5rem;padding:.35rem 1rem 0;font-size:.8rem;
color:var(--soft)}
.player span{flex:none;width:3.2em}
audio{display:block;width:100%;height:2.3rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:2px}
.pair img{height:100%}
article:has(.pair){grid-column:span 2}
@media(max-width:56rem){article:is(.voice,.portrait,.video){flex-direction:column}
article:is(.voice,.portrait,.video)>a,article:is(.portrait,.video) video{flex:none}}
@media(max-width:56rem){article.film{grid-template-columns:1fr}article.film>a,
article.film .body{grid-column:1;grid-row:auto}}
@media(max-width:38rem){article:has(.pair),article.music{grid-column:auto}}
.body{padding:.85rem 1rem 1rem;display:flex;flex-direction:column;flex:1}
h3{font-size:1rem;margin:0 0 .55rem;display:flex;align-items:center;gap:.5rem;
overflow-wrap:anywhere}
.dot{flex:none;width:.7rem;height:.7rem;border-radius:50%;background:var(--c)}
.chart{list-style:none;margin:0 0 .6rem;padding:0;font-size:.8rem}
.chart li{display:grid;grid-template-columns:6.4em 1fr auto;align-items:center;gap:.5rem;
margin:.22rem 0}
.chart span:first-child{color:var(--soft)}
.track{position:relative;height:13px;border-radius:3px;background:var(--track)}
.bar{position:absolute;left:0;height:5px;border-radius:2px;background:var(--c);min-width:1px}
.r0{top:1px}.r1{bottom:1px;opacity:.55}
.track b{position:absolute;top:-2px;bottom:-2px;width:2px;margin-left:-1px;background:var(--ink)}
.num{color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap;font-size:.72rem}
.key{display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .8rem;color:var(--soft);
font-size:.85rem;margin:0;--c:#5279b5}
.key .track{display:inline-block;width:6rem}
.facts{color:var(--soft);font-size:.8rem;margin:auto 0 .3rem}
details{font-size:.8rem}
summary{cursor:pointer;color:var(--soft)}
code{display:block;padding:.5rem .6rem;border-radius:6px;background:var(--track);
overflow-wrap:anywhere;user-select:all;font:.78rem/1.45 ui-monospace,Menlo,Consolas,monospace}
figure.wide{margin:0 0 1.2rem;padding:.8rem;background:var(--card);border:1px solid var(--line);
border-radius:12px}
figure.wide img{display:block;max-width:100%;margin:auto;border-radius:6px}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.6rem}
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);
font-size:.85rem;max-width:56rem}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file: data:; media-src 'self' file:;
 style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1>{lead}{legend}</header>
<main>
{body}
</main>
<footer>{footer}</footer>
</body></html>
"""
