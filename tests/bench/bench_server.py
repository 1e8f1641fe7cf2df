"""What one server process holds over hundreds of takes. Run by hand, one thread:

    OMP_NUM_THREADS=1 python tests/bench/bench_server.py [soak] [takes]

The contract: over 500 takes resident memory grows by less than 1 MB a take after the first 50, and
the numbers of open files and threads stay as they are. The pictures are small (two steps), since
what a server keeps of a take does not depend on how long it was painted. Every 20 takes another
visitor comes, so what is kept of visitors who left shows as well. Linux only: it reads /proc.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipelines import ledger
from tests.browser import Server, serving
from tests.http_session import Session, told

TAKES, WARM, EACH, VISIT = 500, 50, 10, 20
MOST_MB = 1.0  # a take
SMALL = {"Width": 64, "Height": 64, "Steps": 2}
EMOTIONS = ("fear .7", "joy .5", "awe .8 + fear .1", "v=-.6 a=-.3", '"I just lost my dog"')


def main() -> None:
    """Print one line a figure; exit code 1 where the contract is broken."""
    takes = next((int(text) for text in sys.argv[1:] if text.isdigit()), TAKES)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "out") as server:
        sys.exit(0 if soak(server, takes) else 1)


def soak(server: Server, takes: int) -> bool:
    """Make takes one after the other, looking at the process now and then."""
    seen: list[tuple[int, float, int, int]] = []
    start, session = time.monotonic(), Session(server.address)
    for number in range(takes):
        if number and number % VISIT == 0:
            session.close()
            session = Session(server.address)
        emotion = EMOTIONS[number % len(EMOTIONS)]
        asked = {"prompt-image": f"a lake {number}", "Seed": number, "emotion": emotion, **SMALL}
        text = told(session.press("make-image", asked))
        assert "Done" in text, text
        if (number + 1) % EACH == 0:
            seen.append((number + 1, *held(server.process.pid)))
            if (number + 1) % (5 * EACH) == 0:
                print("take {}: {:.0f} MB, {} files, {} threads".format(*seen[-1]), flush=True)
    session.close()
    done = sum(line["status"] == "done" for line in ledger.read(server.out))
    after = np.array([row for row in seen if row[0] >= min(WARM, takes // 2)], dtype=float)
    slope = float(np.polyfit(after[:, 0], after[:, 1], 1)[0])
    late = after[len(after) // 2 :]
    late_slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    files, threads = ([int(x) for x in after[:, column]] for column in (2, 3))
    print(f"{done} of {takes} takes in {time.monotonic() - start:.0f} s")
    print(f"memory: {slope:.3f} MB a take, {late_slope:.3f} over the second half")
    print(f"files: {files[0]} to {files[-1]}, most {max(files)}")
    print(f"threads: {threads[0]} to {threads[-1]}, most {max(threads)}")
    grown = [statistics.median(x[-5:]) - statistics.median(x[:5]) for x in (files, threads)]
    return done == takes and slope < MOST_MB and max(grown) <= 2


def held(pid: int) -> tuple[float, int, int]:
    """Resident MB, open files and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) / 1024, files, int(fields["Threads"])


if __name__ == "__main__":
    main()
