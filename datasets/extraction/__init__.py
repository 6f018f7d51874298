"""Extraction of optical flow from videos to disk, as the thesis stored it.

    from zoo.datasets.extraction import OpenCVMethod, Settings, extract
    summary = extract(["videos"], "flow", Settings(OpenCVMethod("tvl1")))

One file per step: which videos (``sources``), how (``settings``), one video
(``one_video``), what is finished (``manifest``, ``finished``), many processes
(``pool``, ``run``), the same under Apache Beam (``beam``), and the test of what was
written (``check``).

Source: thesis 3.3.5; the released code's extractor gpu_flow.
"""

from zoo.datasets.extraction.check import check
from zoo.datasets.extraction.run import Summary, extract
from zoo.datasets.extraction.settings import OpenCVMethod, Settings

__all__ = ["OpenCVMethod", "Settings", "Summary", "check", "extract"]
