"""Seconds and peak memory of importing the zoo and of loading networks, cold.

    python benchmarks/load.py [--rounds 3] [--names resnet50,t_resnet50]
                              [--torch-python PATH] [--timm-path FOLDER]

Every measurement is a fresh process: `import zoo`, `zoo list`, and `zoo.load` of a
network with random weights and with weights from a folder on this disk (warm page
cache), beside keras.applications.ResNet50 and timm's resnet50 with the same. All take
turns, round by round; medians are printed. "Seconds" are those of the call alone;
"process" is everything from the start of Python to its end, the import of TensorFlow or
PyTorch included; memory is the peak of the process.

timm is not among the requirements: `pip install --target FOLDER timm`, then
--timm-path FOLDER, and --torch-python where another Python has PyTorch; without it
timm's rows are left out.

Source: sizes are those of thesis Tables 4.1, 5.1 and 8.1.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("resnet50", "t_resnet50", "st_mulnet50", "detect_track_resnet101")
# The code of each side: it may use `path`, of the weights, or None.
ZOO = """
import keras, tensorflow
begin()
import zoo
model = zoo.load({name!r}, weights=path)
end()
"""
KERAS = """
import keras, tensorflow
begin()
model = keras.applications.ResNet50(weights=path)
end()
"""
TIMM = """
import torch
begin()
import timm
model = timm.create_model("resnet50", checkpoint_path=path or "")
end()
"""
IMPORT = """
begin()
import zoo
end()
"""
LIST = """
begin()
from zoo.__main__ import main
main(["list"])
end()
"""
FRAME = """
import json, sys, time
path = sys.argv[1] or None
def begin():
    global started
    started = time.perf_counter()
def end():
    print("seconds", json.dumps(time.perf_counter() - started))
"""
# Writing the weights that are loaded afterwards.
SAVE = {
    "zoo": """
import zoo
from zoo.weights import folder
model = zoo.load({name!r})
info = zoo.info({name!r})
folder.save(path, model, folder.ModelRecord({name!r}, info.num_classes))
""",
    "keras": """
import keras
keras.applications.ResNet50(weights=None).save_weights(path)
""",
    "timm": """
import timm, torch
torch.save(timm.create_model("resnet50").state_dict(), path)
""",
}


def measure(code, path, python=sys.executable, packages=""):
    """{"seconds", "process", "memory"} of one fresh process.

    Args:
        code: of a side. path: of its weights or None. python: to run it.
        packages: folder of further packages.
    """
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), packages]))
    command = [python, "-c", FRAME + code, str(path or "")]
    begin = time.perf_counter()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.execve(command[0], command, environment)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"The measured process failed:\n{code}\n{text}")
    last = [line for line in text.splitlines() if line.startswith("seconds ")][-1]
    return {
        "seconds": json.loads(last.removeprefix("seconds ")),
        "process": time.perf_counter() - begin,
        "memory": usage.ru_maxrss / 2**10,
    }


def prepare(names, folder, torch_python, timm_path):
    """Writes all weights; returns {row: arguments of `measure`}."""
    own = (sys.executable, "")
    rows = {"import zoo": (IMPORT, None, *own), "zoo list": (LIST, None, *own)}
    sides = [(f"zoo.load {name}", ZOO, "zoo", name, own) for name in names]
    sides.append(("keras.applications.ResNet50", KERAS, "keras", "keras", own))
    if timm_path:
        theirs = (torch_python, timm_path)
        sides.append(("timm resnet50", TIMM, "timm", "timm", theirs))
    for title, code, kind, name, where in sides:
        ending = {"keras": ".weights.h5", "timm": ".pth"}.get(kind, "")
        path = folder / f"{name}{ending}"
        code, save = (c.replace("{name!r}", repr(name)) for c in (code, SAVE[kind]))
        measure(f"{save}\nbegin()\nend()", path, *where)
        rows[title] = code, None, *where
        rows[f"{title}, weights"] = code, path, *where
    return rows


def main():
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--timm-path", default="")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        names = options.names.split(",")
        where = (options.torch_python, options.timm_path)
        rows = prepare(names, Path(folder), *where)
        for _ in range(options.rounds):
            for title, arguments in rows.items():
                found.setdefault(title, []).append(measure(*arguments))
    print(f"{options.rounds} rounds, {os.cpu_count()} cores\n")
    print("| | seconds | process, s | peak memory, MiB |\n|---|---:|---:|---:|")
    for title, values in found.items():
        cells = (
            statistics.median(value[key] for value in values)
            for key in ("seconds", "process", "memory")
        )
        seconds, process, memory = cells
        print(f"| {title} | {seconds:.2f} | {process:.2f} | {memory:.0f} |")
    if not options.timm_path:
        print("\ntimm was not measured: --timm-path says where it is.")


if __name__ == "__main__":
    main()
