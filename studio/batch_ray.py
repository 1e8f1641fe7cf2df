"""The same chunks on a Ray cluster that is there already: Ray Data hands them to its actors.

Ray is an extra (`pip install "affect-studio[ray]"`). Every machine needs the project and the same
output folder; each actor has a GPU where the cluster has some. Placing, retries of machines and
back pressure are Ray's business: no engine of our own. Chunks and events travel as JSON, so
machines need not share a version of Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.batch_run import Chunks, Event, Failed, Finished, Numbered, Pace, Started, Told
from studio.run import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = {kind.__name__: kind for kind in (Started, Finished, Failed, Told)}


def make_on_ray(source: Chunks, options: Options, pace: Pace) -> Iterator[Event]:
    """Make all chunks on the cluster of RAY_ADDRESS, or one started here.

    A cluster that was started here is ended again; starting one takes ten seconds and more (Ray
    itself gives up after thirty, which a machine that is busy otherwise can need).

    Raises ValueError in one line where ray is missing or a rate is asked for.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        msg = 'engine: ray is not installed; `pip install "affect-studio[ray]"` or --engine local'
        raise ValueError(msg) from error
    if pace.rate is not None:
        msg = "limit-rate: Ray paces its actors itself; leave it out or use --engine local"
        raise ValueError(msg)
    begun_here = not ray.is_initialized()
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # of many kinds, most without a name of their own
        why = " ".join(str(error).split())[:160]
        msg = f"engine: no Ray cluster could be reached or started ({why}); set RAY_ADDRESS"
        raise ValueError(f"{msg} or use --engine local") from error
    try:
        yield from _made(ray, source, options)
    finally:  # also when it was stopped: no actor goes on without anybody
        if begun_here:
            ray.shutdown()


def _made(ray: Any, source: Chunks, options: Options) -> Iterator[Event]:
    """Make all chunks with as many actors as the cluster has places for."""
    rows = []
    while chunk := source.take():
        rows.append({"jobs": encoded(chunk)})
    if not rows:
        return
    data: Any = ray.data
    data.DataContext.get_current().enable_progress_bars = False
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
    actors = min(len(rows), gpus or max(1, cpus - 1))
    everywhere = replace(options, out=options.out.absolute())
    made = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Maker,
        fn_constructor_args=(everywhere,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=data.ActorPoolStrategy(size=actors),
    )
    for row in made.iter_rows():
        yield decoded_event(json.loads(row["event"]), options.out)


class Maker:
    """What an actor does: makes the chunks it is given and tells what became of each job."""

    def __init__(self, options: Options) -> None:
        from studio.run import quiet_libraries

        quiet_libraries(offline=options.offline)
        self.options = options

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Make the chunk of a batch of one row; yields a row an event."""
        from studio.batch_run import make_chunk

        for text in batch["jobs"]:
            for event in make_chunk(decoded(str(text)), self.options):
                if isinstance(event, Finished | Failed | Told):
                    told = {"kind": type(event).__name__, **asdict(event)}
                    yield {"event": [json.dumps(told)]}


def encoded(chunk: list[Numbered]) -> str:
    """A chunk as JSON."""
    return json.dumps([[number, request.to_json()] for number, request in chunk])


def decoded(text: str) -> list[Numbered]:
    """The chunk of `encoded`; inputs are not hashed again."""
    from pipelines.request import Request

    return [(number, Request.from_json(data)) for number, data in json.loads(text)]


def decoded_event(told: dict[str, Any], out: Path) -> Event:
    """An event of an actor, its path as from this working folder."""
    event: Event = KINDS[told.pop("kind")](**told)
    if isinstance(event, Finished):
        path = Path(event.take["path"])
        if path.is_relative_to(out.absolute()):
            event.take["path"] = (out / path.relative_to(out.absolute())).as_posix()
    return event
