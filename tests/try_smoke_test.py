"""Runs exports/smoke_test.sh with the test server in place of Docker.

    python -m tests.try_smoke_test

Source: none; part of `make soak`, since it starts a dozen processes with TensorFlow.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import video_files
from tests.serving_cases import classifier
from zoo.exports import export

ROOT = Path(__file__).resolve().parents[1]


def main():
    """Exports a small classifier and tries it; the script's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        labels = ("left hand", "right hand", "sky", "sea")
        view = {"frames": 4, "shorter_side": 16}
        export(classifier(), folder, "colours", labels, verify=False, **view)
        video = video_files.write(f"{folder}/numbered.mp4", video_files.numbered(11))
        environment = {
            **os.environ,
            "PATH": f"{ROOT}/tests/bin:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "ZOO": f"{sys.executable} -m zoo",
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        script = ROOT / "exports" / "smoke_test.sh"
        command = [script, folder, "colours", video]
        return subprocess.run(command, env=environment, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
