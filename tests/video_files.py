"""Small video files for the tests; a frame's number can be read from its pixels."""

import shutil

import av
import numpy as np

BITS = 8
CELL = 8
# x264 on its own takes no B-frames for pictures this simple.
_X264 = {"crf": "18", "x264-params": "b-adapt=0:scenecut=0"}
CODECS = {
    "h264.mp4": ("libx264", 3, _X264),
    "h264.mkv": ("libx264", 3, _X264),
    "h264.avi": ("libx264", 3, _X264),
    "mpeg4.avi": ("mpeg4", 2, {"qscale": "2"}),
    "mpeg4.mp4": ("mpeg4", 2, {"qscale": "2"}),
    "mpeg4_no_b.avi": ("mpeg4", 0, {"qscale": "2"}),
    "vp9.webm": ("libvpx-vp9", 0, {"cpu-used": "8", "deadline": "realtime"}),
}
"""Codec, B-frames and options by a file's name: UCF101's kind, the web's, YUP++'s."""


def numbered(count, height=2 * CELL, width=BITS * CELL):
    """uint8 [count, H, W, 3]: frame i shows the bits of i as white cells."""
    frames = np.full((count, height, width, 3), 40, np.uint8)
    for i in range(count):
        for bit in range(BITS):
            if i >> bit & 1:
                frames[i, :, bit * CELL : (bit + 1) * CELL] = 215
    return frames


def numbers(frames):
    """Reads the frame numbers back from [T, H, W, 3] in the size of ``numbered``."""
    cells = frames.reshape(len(frames), frames.shape[1], BITS, CELL, 3)
    return ((cells.mean((1, 3, 4)) > 128) << np.arange(BITS)).sum(1).tolist()


def noise(count, height=48, width=64, seed=0):
    """uint8 [count, H, W, 3] that hardly compresses, so that files are large."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)


def write(path, frames, codec="libx264", b_frames=0, options=None, fps=25, sound=0):
    """Encodes frames, and optionally ``sound`` seconds of silence, into a file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        odd = stream.height % 2 or stream.width % 2
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.codec_context.max_b_frames = b_frames
        audio = container.add_stream("aac", rate=8000) if sound else None
        for frame in frames:
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
        if audio:
            _mux_silence(container, audio, sound)
    return path


def write_sound(path, seconds=1):
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("aac", rate=8000), seconds)
    return path


def _mux_silence(container, stream, seconds):
    samples = np.zeros((1, 8000 * seconds), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def cut(source, target, share=0.5):
    """Copies the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


def punch(source, target, size=8000):
    """Copies a file with random bytes in its middle."""
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + size] = np.random.default_rng(1).bytes(size)
    target.write_bytes(data)
    return target


def set_display_matrix(source, target, matrix):
    """Copies an mp4 file with another (a, b, c, d) in its track header."""
    shutil.copyfile(source, target)
    data = bytearray(target.read_bytes())
    # Version 0: the matrix stands 40 bytes after the version of the tkhd box.
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    data[start : start + 36] = values.tobytes()
    target.write_bytes(data)
    return target
