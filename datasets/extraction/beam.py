"""Extraction of flow as an Apache Beam pipeline, for many machines on one file system.

    from zoo.datasets.extraction import OpenCVMethod, Settings
    from zoo.datasets.extraction.beam import run
    run(["videos"], "flow", Settings(OpenCVMethod("tvl1")), runner="FlinkRunner")

Each worker writes finished videos below the output folder, which all have to reach
under the same path; when the pipeline is through, they are put in their places. What
comes out is file by file that of ``zoo.datasets.extraction.extract``.

Source: the Apache Beam programming guide (PTransform, DoFn.setup, Reshuffle).
"""

import cv2

try:
    import apache_beam as beam
except ImportError as error:
    raise ImportError(
        "zoo.datasets.extraction.beam needs Apache Beam: pip install "
        "'spacetime-zoo[beam]', in an environment of its own, since it holds protobuf "
        "back."
    ) from error

from zoo.datasets.extraction.one_video import attempt, keep_failure
from zoo.datasets.extraction.run import opened
from zoo.datasets.extraction.sources import jobs_of


class ExtractFlow(beam.PTransform):
    """From Jobs to the entries of their flow, which is then finished on disk."""

    def __init__(self, settings, out):
        """Says how and where to.

        Args:
            settings: Settings.
            out: Folder of the flow, the same for all workers.
        """
        super().__init__()
        self._settings, self._out = settings, str(out)

    def expand(self, jobs):
        """Spreads the Jobs over the workers."""
        extract = beam.ParDo(_Extract(self._settings, self._out))
        return jobs | beam.Reshuffle() | extract


class _Extract(beam.DoFn):
    def __init__(self, settings, out):
        self._settings, self._out, self._flow = settings, out, None

    def setup(self):
        cv2.setNumThreads(1)
        self._flow = self._settings.method.open()

    def process(self, job):
        fields = beam.metrics.Metrics.counter("flow", "fields")
        entry = attempt(job, self._settings, self._flow, self._out, fields.inc)
        beam.metrics.Metrics.counter("flow", entry["verdict"]).inc()
        if entry["verdict"] != "ok":
            keep_failure(self._out, entry)
        yield entry


def run(videos, out, settings, overwrite=False, **options):
    """Extracts the flow of videos into a folder with Apache Beam, or goes on.

    Args:
        videos: Paths as ``jobs_of`` takes them.
        out: Folder of the flow.
        settings: Settings.
        overwrite: Whether to extract again what has changed.
        **options: Of ``beam.Pipeline``: ``runner``, ``options``.

    Returns:
        (number of videos extracted, (name, reason) of each that failed).

    Raises:
        As ``zoo.datasets.extraction.extract``, and what the runner raises.
    """
    jobs = jobs_of(videos)
    with opened(out, jobs, settings, overwrite) as (manifest, todo, _):
        if todo:
            with beam.Pipeline(**options) as pipeline:
                _ = pipeline | beam.Create(todo) | ExtractFlow(settings, out)
    entries = [manifest.entries[job.name] for job in todo]
    failed = tuple((e["video"], e["reason"]) for e in entries if e["verdict"] != "ok")
    return len(todo) - len(failed), failed
