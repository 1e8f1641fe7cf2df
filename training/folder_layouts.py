"""How published emotion sets lay out their files: name patterns and label maps, as literal tables.

A layout turns a folder into rows, a path with the columns that `folder_labels` reads: emotion,
intensity, text, group, split. Three kinds: the name of a file says it all (`PATTERNS`), the set
comes with an annotation file of its own (EmoSet, EmoArt, VGMIDI), or the folder is made by hand:
`metadata` (metadata.jsonl or .csv, as Hugging Face's imagefolder and audiofolder), `folders` (the
folder's name is the class) and `takes` (NAME_anger.wav). Captions may lie beside files as .txt.

Deliberately does not know what an emotion word means or whether a file can be decoded.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from training.folder_labels import DataError, unit

Row = dict[str, Any]

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "voice": (".wav", ".flac", ".mp3"),
    "music": (".mid", ".midi"),
    "portrait": (".csv",),
}
METADATA = ("metadata.jsonl", "metadata.csv")
FILE = ("file_name", "path", "file", "filename", "image", "image_path", "audio", "midi")
CAPTION = ("text", "caption", "prompt", "transcript", "description")
GROUP = ("group", "speaker", "actor", "song", "subject", "identity", "artist", "session")
SPLIT = ("split", "subset", "partition")
SPLITS: Mapping[str, str] = {
    "train": "train", "training": "train", "val": "held", "valid": "held", "validation": "held",
    "evaluation": "held", "dev": "held", "test": "held", "testing": "held", "held": "held",
}  # fmt: skip
"""Names of parts of a set -> the two that training knows."""

_MOST_TABLE = 512 * 2**20  # bytes of a metadata file; EmoArt's has 300 MB
_LONGEST_NAME = 255  # bytes, of usual file systems
_LEAST_MATCH = 0.9  # of the files whose names fit a pattern, for it to be recognised
_LEAST_TAKES = {"voice": 0.5, "portrait": 0.0}  # of the files that end in an emotion


@dataclass(frozen=True, slots=True)
class Pattern:
    """A set whose file names say everything.

    source: where the naming is described. form: of the path in the set's folder, groups are
    columns. emotions, intensities, texts: codes -> words, 0..1, sentences. transcripts: files with
    a line `NAME<tab>sentence<tab>...` for the files beside or below them.
    """

    name: str
    modality: str
    source: str
    form: str
    emotions: Mapping[str, str] = field(default_factory=dict)
    intensities: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    transcripts: bool = False


_SOUND = r"\.(?:wav|flac|mp3)$"
PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "emodb", "voice",
        "Burkhardt et al. 2005, A database of German emotional speech; emodb.bilderbar.info",
        r"(?:^|/)(?P<group>0[389]|1[0-6])(?P<sentence>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?"
        + _SOUND,
        emotions={"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness",
                  "T": "sadness", "N": "neutral"},
        texts={"a01": "Der Lappen liegt auf dem Eisschrank.",
               "a02": "Das will sie am Mittwoch abgeben.",
               "a04": "Heute abend könnte ich es ihm sagen.",
               "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
               "a07": "In sieben Stunden wird es soweit sein.",
               "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
               "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
               "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe "
                      "Agnes besucht.",
               "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
               "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen."},
    ),
    Pattern(
        "ravdess", "voice",
        "Livingstone and Russo 2018, PLoS ONE 13(5): e0196391, file name identifiers",
        r"(?:^|/)0[13]-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-"
        r"(?P<sentence>0[12])-0[12]-(?P<group>[012]\d)" + _SOUND,
        emotions={"01": "neutral", "02": "calm", "03": "happiness", "04": "sadness",
                  "05": "anger", "06": "fear", "07": "disgust", "08": "surprise"},
        intensities={"01": 1 / 2, "02": 1.0},
        texts={"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."},
    ),
    Pattern(
        "crema-d", "voice",
        "Cao et al. 2014, IEEE Trans. Affective Computing 5(4); CREMA-D README",
        r"(?:^|/)(?P<group>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_"
        r"(?P<intensity>LO|MD|HI|XX?)" + _SOUND,
        emotions={"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness",
                  "NEU": "neutral", "SAD": "sadness"},
        intensities={"LO": 1 / 3, "MD": 2 / 3, "HI": 1.0},
        texts={"IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.",
               "IOM": "I'm on my way to the meeting.", "IWW": "I wonder what this is about.",
               "TAI": "The airplane is almost full.", "MTI": "Maybe tomorrow it will be cold.",
               "IWL": "I would like a new alarm clock.",
               "ITH": "I think I have a doctor's appointment.", "DFA": "Don't forget a jacket.",
               "ITS": "I think I've seen this before.", "TSI": "The surface is slick.",
               "WSI": "We'll stop in a couple of minutes."},
    ),
    Pattern(
        "esd", "voice",
        "Zhou et al. 2021, Emotional voice conversion: theory, databases, ESD (arXiv 2105.14762)",
        r"(?:^|/)(?P<group>00[012]\d)/(?P<emotion>Neutral|Happy|Angry|Sad|Surprise)/"
        r"(?:(?P<split>train|evaluation|test)/)?(?P=group)_\d{6}" + _SOUND,
        emotions={"Neutral": "neutral", "Happy": "happiness", "Angry": "anger", "Sad": "sadness",
                  "Surprise": "surprise"},
        transcripts=True,
    ),
    Pattern(
        "emopia", "music",
        "Hung et al. 2021 (ISMIR), clip names Q<quadrant>_<YouTube id>_<clip>",
        r"(?:^|/)(?P<emotion>Q[1-4])_(?P<group>[\w-]{11})_\d+\.midi?$",
    ),
    Pattern(
        "fi", "image",
        "You et al. 2016 (AAAI), Flickr and Instagram: a folder for each of Mikels' eight emotions",
        r"(?:^|/)(?P<emotion>amusement|anger|awe|contentment|disgust|excitement|fear|sadness)/"
        r"[^/]+\.(?:jpe?g|png|webp)$",
    ),
)  # fmt: skip

ANNOTATED = ("emoset", "emoart", "vgmidi")
BY_HAND = ("metadata", "folders", "takes", "plain")
LAYOUTS: tuple[str, ...] = (*(p.name for p in PATTERNS), *ANNOTATED, *BY_HAND)
"""Names that `layout` takes, beside "auto"."""

EMOSET_SPLITS = ("train", "val", "test")
# The file was renamed between the releases of EmoArt-5k and EmoArt-130k (arXiv 2506.03652).
EMOART_FILES = ("Annotation.json", "annotation.json", "annotation_5k.json")
VGMIDI_FILE = "vgmidi_labelled.csv"
_TAKE = re.compile(r"^(?:(?P<group>.+)/)?(?P<sentence>[^/]+)_(?P<emotion>[A-Za-z]+)\.\w+$")


def read_rows(
    root: Path, files: Sequence[str], modality: str, layout: str, labels: Mapping[str, str]
) -> tuple[str, list[Row]]:
    """The layout (as found, for "auto") and a row for each file that it names.

    files: posix paths in `root` with the suffixes of the modality. A row has "path" and any of
    emotion, intensity, valence, ..., text, group, split, and "_where" for errors.

    Raises:
        DataError: an unknown layout, or files that do not fit the one that was asked for.
    """
    if layout == "auto":
        layout = found_layout(root, files, modality, labels)
    if layout not in LAYOUTS:
        msg = f'layout: "{layout}" is not known; allowed: auto, {", ".join(LAYOUTS)}'
        raise DataError(msg)
    pattern = next((p for p in PATTERNS if p.name == layout), None)
    if pattern is not None:
        if pattern.modality != modality:
            msg = f"layout: {layout} holds {pattern.modality}, not {modality}; change either"
            raise DataError(msg)
        rows = _by_pattern(root, files, pattern)
        if not rows:
            msg = (
                f"layout: none of {len(files)} files is named as in {layout} ({pattern.source}), "
                f'such as "{files[0][:60]}"; use layout auto'
            )
            raise DataError(msg)
    else:
        read: Mapping[str, Callable[[], list[Row]]] = {
            "emoset": lambda: _emoset(root),
            "emoart": lambda: _emoart(root),
            "vgmidi": lambda: _vgmidi(root, files),
            "metadata": lambda: _metadata(root),
            "folders": lambda: _folders(files, labels),
            "takes": lambda: _takes(files, modality, labels),
            "plain": lambda: [{"path": name} for name in files],
        }
        rows = read[layout]()
    there = set(files)
    for row in rows:
        if row["path"] in there and not column_of(row, CAPTION):
            row["text"] = _side_car(root / row["path"])
    return layout, rows


def found_layout(root: Path, files: Sequence[str], modality: str, labels: Mapping[str, str]) -> str:
    """The layout of a folder, by its tables first, then by the names of its files."""
    if any((root / name).is_file() for name in METADATA):
        return "metadata"
    if modality == "image":
        if all((root / f"{part}.json").is_file() for part in EMOSET_SPLITS):
            return "emoset"
        if any(_beside(root, name) for name in EMOART_FILES):
            return "emoart"
    if modality == "music" and (root / VGMIDI_FILE).is_file():
        return "vgmidi"
    for pattern in PATTERNS:
        form = re.compile(pattern.form)
        if pattern.modality != modality or pattern.name == "fi":  # fi is a case of folders
            continue
        if sum(bool(form.search(name)) for name in files) >= _LEAST_MATCH * len(files):
            return pattern.name
    if modality in ("voice", "portrait"):
        known = sum(bool(_ending(name, labels)) for name in files)
        # A voice is compared take by take; what a face is doing may go unsaid.
        if known >= _LEAST_TAKES[modality] * len(files) and known:
            return "takes"
    if any(_class_of(name, labels) for name in files):
        return "folders"
    return "plain"


def column_of(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first filled text cell of a row under one of `names`; "" where there is none."""
    return next((str(row[n]).strip() for n in names if row.get(n) not in (None, "")), "")


# Sets whose file names say everything ------------------------------------------------------------


def _by_pattern(root: Path, files: Sequence[str], pattern: Pattern) -> list[Row]:
    form = re.compile(pattern.form)
    told = _transcripts(root) if pattern.transcripts else {}
    rows: list[Row] = []
    for name in files:
        match = form.search(name)
        if not match:
            continue
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        code, grade = found.get("emotion", ""), found.get("intensity", "")
        row: Row = {"path": name, "emotion": pattern.emotions.get(code, code), "_where": name}
        if grade in pattern.intensities and row["emotion"] != "neutral":
            row["intensity"] = pattern.intensities[grade]
        row["group"] = found.get("group", "")
        row["split"] = found.get("split", "")
        row["sentence"] = found.get("sentence", "")
        stem = PurePosixPath(name).stem
        row["text"] = pattern.texts.get(found.get("sentence", ""), told.get(stem, ""))
        rows.append(row)
    return rows


def _transcripts(root: Path) -> dict[str, str]:
    """Sentences by the name of their file, from tables `NAME<tab>sentence<tab>emotion`."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.txt")):
        for line in _text(path).splitlines():
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) >= 2 and parts[0]:
                found[parts[0]] = parts[1]
    return found


# Sets with an annotation file --------------------------------------------------------------------


def _emoset(root: Path) -> list[Row]:
    """Rows [emotion, id, image path, annotation path] (github.com/JingyuanYY/EmoSet README)."""
    rows: list[Row] = []
    for part in EMOSET_SPLITS:
        for k, item in enumerate(_json(root / f"{part}.json", list)):
            where = f"{part}.json row {k + 1}"
            if not (isinstance(item, list) and len(item) >= 3):
                msg = f"data: {where} is not [emotion, id, image, annotation]; download it again"
                raise DataError(msg)
            path = _inside(root, str(item[2]), where)
            rows.append({"path": path, "emotion": item[0], "split": part, "_where": where})
    return rows


def _emoart(root: Path) -> list[Row]:
    """Annotations by GPT-4o: weak labels. The caption is the description of the scene."""
    source = next(found for name in EMOART_FILES if (found := _beside(root, name)))
    rows: list[Row] = []
    for k, item in enumerate(_json(source, list)):
        where = f"{source.name} row {k + 1}"
        try:
            told = item["description"]
            path = _inside(root, str(item["image_path"]), where)
            row: Row = {
                "emotion": told["third_section"]["dominant_emotion"],
                "text": told["first_section"]["description"],
                "_where": where,
            }
        except (KeyError, TypeError) as error:
            msg = f"data: {where} lacks {error}; expected EmoArt's own annotation file"
            raise DataError(msg) from error
        if not (root / path).is_file() and (source.parent / PurePosixPath(path)).is_file():
            path = (source.parent / path).relative_to(root).as_posix()
        elif not (root / path).is_file() and path.startswith("Images/"):
            path = path.removeprefix("Images/")
        rows.append({"path": path, **row})
    return rows


def _vgmidi(root: Path, files: Sequence[str]) -> list[Row]:
    """Signs of valence and arousal of phrases; a game's pieces stay together (ISMIR 2019)."""
    places = {PurePosixPath(name).name: name for name in files}
    rows: list[Row] = []
    quadrants = {(1, 1): "Q1", (-1, 1): "Q2", (-1, -1): "Q3", (1, -1): "Q4"}
    for k, item in enumerate(_csv(root / VGMIDI_FILE)):
        where = f"{VGMIDI_FILE} row {k + 2}"
        try:
            signs = round(float(item["valence"])), round(float(item["arousal"]))
            name = _inside(root, item["midi"], where)
            emotion = quadrants[signs]
        except (KeyError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            msg = f"data: {where} has no midi, or valence and arousal other than -1 and 1"
            raise DataError(msg) from error
        path = name if (root / name).is_file() else places.get(PurePosixPath(name).name, name)
        group = f"{item.get('series', '')}/{item.get('game', '')}"
        rows.append({"path": path, "emotion": emotion, "group": group, "_where": where})
    return rows


# Folders made by hand ----------------------------------------------------------------------------


def _metadata(root: Path) -> list[Row]:
    source = next((root / name for name in METADATA if (root / name).is_file()), None)
    if source is None:
        msg = f"layout: {root} holds no {' or '.join(METADATA)}; write one, or use layout auto"
        raise DataError(msg)
    items = _jsonl(source) if source.suffix == ".jsonl" else _csv(source)
    rows: list[Row] = []
    for k, item in enumerate(items):
        where = f"{source.name} row {k + (2 if source.suffix == '.csv' else 1)}"
        row: Row = {str(key).strip().lower(): value for key, value in item.items()}
        name = column_of(row, FILE)
        if not name:
            msg = f"data: {where} names no file; add a column file_name"
            raise DataError(msg)
        group = column_of(row, GROUP)
        text, part = column_of(row, CAPTION), column_of(row, SPLIT)
        for key in (*FILE, *CAPTION, *GROUP, *SPLIT):
            row.pop(key, None)
        path = _inside(root, name, where)
        rows.append({**row, "path": path, "text": text, "group": group, "split": part,
                     "_where": where})  # fmt: skip
    return rows


def _folders(files: Sequence[str], labels: Mapping[str, str]) -> list[Row]:
    rows: list[Row] = []
    known: dict[str, str] = {}
    for name in files:
        folder = str(PurePosixPath(name).parent)
        if folder not in known:
            known[folder] = _class_of(name, labels)
        parts = PurePosixPath(name).parts[:-1]
        split = next((p for p in parts if p.lower() in SPLITS), "")
        own = [p for p in parts if p.lower() not in SPLITS]
        word = known[folder] or (own[-1] if own else "")
        rows.append({"path": name, "emotion": word, "split": split, "_where": name})
    return rows


def _class_of(name: str, labels: Mapping[str, str]) -> str:
    """The innermost folder of a path that is an emotion; "" where none is."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        if part.lower() not in SPLITS and unit(part, labels) is not None:
            return part
    return ""


def _takes(files: Sequence[str], modality: str, labels: Mapping[str, str]) -> list[Row]:
    """NAME_neutral.wav, NAME_anger.wav: a folder is a speaker, NAME a sentence.

    A recording of a face whose name ends in no emotion has none; an ending of a take that is none
    is a mistake, to be told with the labels.
    """
    rows: list[Row] = []
    for name in files:
        match = _TAKE.match(name)
        row: Row = {"path": name, "_where": name}
        if match and (modality != "portrait" or _ending(name, labels)):
            row |= {key: value for key, value in match.groupdict().items() if value}
        rows.append(row)
    return rows


def _ending(name: str, labels: Mapping[str, str]) -> str:
    """The emotion that the name of a take ends in; "" where it does not."""
    match = _TAKE.match(name)
    return match["emotion"] if match and unit(match["emotion"], labels) is not None else ""


# Reading tables ----------------------------------------------------------------------------------


def _inside(root: Path, name: str, where: str) -> str:
    """A path of a table, inside the folder and never outside it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in path.parts):
        msg = f'data: {where} names "{name[:60]}...", too long for a file; correct it'
        raise DataError(msg)
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0][:2]:
        msg = f'data: {where} names "{name[:60]}", outside the folder; use paths inside it'
        raise DataError(msg)
    return path.as_posix()


def _beside(root: Path, name: str) -> Path | None:
    """An annotation file in the folder or in its Images/."""
    places = (root / name, root / "Images" / name)
    return next((place for place in places if place.is_file()), None)


def _side_car(path: Path) -> str:
    """The caption in the .txt beside a file, on one line; "" where there is none."""
    text = path.with_suffix(".txt")
    return " ".join(_text(text).split())[:2000] if text.is_file() else ""


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_TABLE:
            msg = f"data: {path.name} has more than {_MOST_TABLE >> 20} MB; split the set"
            raise DataError(msg)
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        msg = f"data: {path.name} cannot be read ({error.strerror}); check the folder"
        raise DataError(msg) from error


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        msg = f"data: {path.name} is no JSON ({str(error)[:60]}); download it again"
        raise DataError(msg) from error
    if not isinstance(value, kind):
        msg = f"data: {path.name} holds a {type(value).__name__}, expected a {kind.__name__}"
        raise DataError(msg)
    return value


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for k, line in enumerate(_text(path).splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            msg = (
                f"data: {path.name} line {k + 1} is no JSON object; one {{...}} a line is expected"
            )
            raise DataError(msg)
        rows.append(row)
    return rows


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path))))
    except csv.Error as error:
        msg = f"data: {path.name} is no CSV ({error}); save it again"
        raise DataError(msg) from error
    return [{str(k): v for k, v in row.items() if k is not None} for row in rows]
