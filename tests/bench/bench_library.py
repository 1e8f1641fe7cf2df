"""How long a library of 50,000 takes needs. Run by hand:

    python tests/bench/bench_library.py [takes]

The contract: first page within 300 ms, rebuild within 60 s. The ledger is made of lines as real
takes write them (3 kB each), without files. Wall time means little on a busy machine, so the
processor's own time is printed beside it.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from adapters.emotion import CORE, EmotionTimeline
from pipelines import ledger
from pipelines.image import job_of
from pipelines.take import Request, write_take
from studio.library import search_of
from studio.library_index import Library, Search

WORDS = [
    "lake",
    "city",
    "forest",
    "sea",
    "tulips",
    "street",
    "mountain",
    "house",
    "dog",
    "bridge",
    "night",
    "rain",
]


def main() -> None:
    """Print one line a figure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        fill(out, count)
        size = (out / ledger.LEDGER).stat().st_size / 2**20
        print(f"{count} takes, ledger {size:.0f} MB")
        library = Library(out)
        timed("rebuild", library.rebuild)
        timed("first page", lambda: Library(out).page())
        timed("page 1000", lambda: library.page(offset=49_950))
        timed("emotion", lambda: library.page(Search(emotion="fear", least=0.5)))
        timed("words", lambda: library.page(Search(words="lake night")))
        timed("nearest", lambda: library.page(search_of([], near="v=-.7 a=.3")))
        timed("count", lambda: library.count(Search(modality="image")))
        entry = library.page()[0]
        timed("favourite", lambda: library.favour(entry))
        timed("page after it", lambda: library.page())
        print(f"index {library.file.stat().st_size / 2**20:.0f} MB")


def fill(out: Path, count: int) -> None:
    """A ledger of so many takes, modelled on one that was written."""
    rng = random.Random(0)  # noqa: S311 - a bench
    flat = dict.fromkeys(CORE, 0.0123)
    chances = {"neutral": 0.1, **flat}
    read = {"reader": "critic-image", "probabilities": chances, "intensities": flat}
    reading = {"asked": chances, "prompt": "x" * 120, "critic": read, "reader": read}
    request = Request("image", "x", EmotionTimeline.parse("fear .5"), 1, "image-tiny")
    request = job_of(request, None).request.changed(weights="ab" * 32)
    take = write_take(request, Image.new("RGB", (8, 8)), out, reading=reading, seconds=1.2)
    line = take.to_json()
    first = date(2026, 1, 1)
    with (out / ledger.LEDGER).open("w", encoding="ascii") as file:
        for number in range(count):
            name = rng.choice(CORE)
            emotion = f"{name} {rng.randint(1, 10) / 10:g}"
            prompt = f"a {rng.choice(WORDS)} by the {rng.choice(WORDS)} {number}"
            day = (first + timedelta(days=number * 300 // count)).isoformat()
            key = f"{rng.getrandbits(256):064x}"
            asked: dict[str, Any] = {"prompt": prompt, "emotion": emotion, "seed": number}
            line |= {"key": key, "sha256": key, "path": f"{day}/image/{key[:8]}-{name}.png"}
            line["request"] = {**line["request"], **asked}
            file.write(json.dumps(line, sort_keys=True) + "\n")


def timed(what: str, work: Callable[[], object]) -> None:
    """Print the wall and processor milliseconds of some work."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    wall, own = time.perf_counter() - start, time.process_time() - busy
    print(f"{what}: {1000 * wall:.0f} ms, processor {1000 * own:.0f} ms")


if __name__ == "__main__":
    main()
