"""Clips per second of decoding, sampling and augmenting, beside PyAV and OpenCV alone.

    python benchmarks/decode.py [--videos FILE ...] [--rounds 7]

Every row makes the training clip of thesis 7.3.3 from one file: 16 frames at a random
start and stride, rescaled to a shorter side of 256, cropped and resized to 224 x 224.
The peers only decode the same frames to RGB, the way their documentation shows it, and
neither sample, rescale nor augment. All run in one thread and in turn, so that drifts
of the machine meet all of them, and are timed by the processor's time: clips per second
of one core. Medians over the rounds and medians of the paired ratios are printed, the
peak memory that one clip adds to a fresh process, and the throughput of the whole
tf.data pipeline on all cores by the clock.
"""

import argparse
import functools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from zoo.datasets.augment import apply_crop, draw_crop
from zoo.datasets.sampling import STRIDE_RANGE, train_indices
from zoo.datasets.video import read_video

FRAMES, SIZE, SHORTER_SIDE = 16, 224, 256


def ours(path, seed):
    """Decodes, samples and augments one clip."""
    rng = np.random.default_rng(seed)
    frames = read_video(
        path,
        lambda count: train_indices(count, FRAMES, STRIDE_RANGE, rng),
        verify_count=False,
        shorter_side=SHORTER_SIDE,
        strict=True,
    ).frames
    return apply_crop(frames, draw_crop(*frames.shape[1:3], SIZE, rng), SIZE)


@functools.cache
def wanted_frames(path, seed):
    """The frames that ``ours`` takes, for its peers; chosen outside of the timing."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = stream.frames or int(container.duration / 1e6 * stream.average_rate)
    rng = np.random.default_rng(seed)
    return train_indices(count, FRAMES, STRIDE_RANGE, rng).tolist()


def pyav(path, seed):
    """Decodes the frames of one clip to RGB with PyAV."""
    wanted, frames = wanted_frames(path, seed), []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if index == wanted[-1]:
                break
    return np.stack(frames)


def opencv(path, seed):
    """Decodes the frames of one clip to RGB with OpenCV, forward."""
    wanted, frames = wanted_frames(path, seed), []
    threads = [cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)
    for index in range(wanted[-1] + 1):
        if not capture.grab():
            break
        if index in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(frames)


READERS = {"ours": ours, "PyAV alone": pyav, "OpenCV alone": opencv}


def measure(path, rounds, clips):
    """Returns clips per second of every reader, [rounds] each, readers in turn."""
    rates = {name: [] for name in READERS}
    for turn in range(-1, rounds):  # round -1 warms up
        for name, reader in READERS.items():
            seeds = [(turn + 1, clip) for clip in range(clips)]
            for seed in seeds:
                wanted_frames(path, seed)
            begin = time.process_time()
            for seed in seeds:
                reader(path, seed)
            if turn >= 0:
                rates[name].append(clips / (time.process_time() - begin))
    return rates


def _status(key):
    """A number of KiB from /proc/self/status, 0 where there's none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) for x in lines if x.startswith(key)), 0)


def _memory(reader, path, pipe):
    """Sends by how many MiB one clip raises this process' peak memory."""
    cv2.setNumThreads(1)
    before = _status("VmRSS:")
    READERS[reader](path, 0)
    pipe.send((_status("VmHWM:") - before) / 1024)


def peak_memory(reader, path):
    """Peak memory in MiB of reading one clip in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_memory, args=(reader, path, sender))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def pipeline_rate(path, batches=6, batch_size=8):
    """Clips per second out of the tf.data pipeline with all cores."""
    from zoo.datasets.listing import VideoList
    from zoo.datasets.pipeline import training_dataset

    videos = VideoList((str(path),) * 2, (0, 1), ("a", "b"), ("", ""))
    dataset = iter(training_dataset(videos, batch_size, repeats=100))
    next(dataset)
    begin = time.perf_counter()
    for _ in range(batches):
        next(dataset)
    return batches * batch_size / (time.perf_counter() - begin)


def generate(folder):
    """Writes 10 s of moving texture as H.264 and as MPEG-4 AVI (XviD's kind)."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (512, 700, 3)), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    kinds = {"h264.mp4": ("libx264", {"crf": "23"}), "mpeg4.avi": ("mpeg4", {})}
    for name, (codec, options) in kinds.items():
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            stream.bit_rate, stream.codec_context.max_b_frames = 500_000, 2
            for i in range(250):
                picture = np.ascontiguousarray(texture[i : i + 256, i : i + 340])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        yield folder / name


def report(path, rounds, clips):
    """Measures one file and prints its rows."""
    rates = measure(path, rounds, clips)
    print(f"\n{path.name}: {pipeline_rate(path):.1f} clips/s from the whole pipeline")
    for name, values in rates.items():
        pairs = zip(rates["ours"], values, strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"  {name:13} {statistics.median(values):7.1f} clips/s "
            f"({min(values):.1f}-{max(values):.1f})   ours/this {ratio:5.2f}   "
            f"peak memory {peak_memory(name, path):6.1f} MiB"
        )


def processor():
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def main():
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", nargs="*", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=4, help="clips per round")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"PyAV {av.__version__}, OpenCV {cv2.__version__}, median of "
        f"{options.rounds} rounds of {options.clips} clips"
    )
    with tempfile.TemporaryDirectory() as folder:
        for path in [*generate(Path(folder)), *options.videos]:
            report(path, options.rounds, options.clips)


if __name__ == "__main__":
    main()
