"""Which frames of a video make a clip: the temporal sampling of thesis 7.3.3.

Training draws a start and a stride at random ("temporal frame jittering", stride in
5...15); testing takes equally spaced frames. The thesis doesn't say what happens to
videos that are too short; the rule here is to shrink the stride first and to repeat
frames only when there are fewer frames than the clip needs. The author's code pads
such videos by reflection instead and draws the start within the first stride only.
"""

import numpy as np

STRIDE_RANGE = (5, 15)
"""Smallest and largest temporal stride in training, in frames (thesis 7.3.3)."""


def train_indices(num_frames, clip_frames, stride_range, rng):
    """Draws the frames of a training clip (thesis 7.3.3).

    The stride is uniform over those in the range with which the clip fits into the
    video, and the start is uniform over all positions where it then fits.

    Short videos: if not even the smallest stride of the range fits, the largest
    stride that fits is taken. If the video has fewer frames than the clip, all its
    frames are taken in order, each repeated about equally often: test_indices.

    Args:
        num_frames: Frames of the video, at least 1.
        clip_frames: Frames of the clip, at least 1.
        stride_range: Smallest and largest stride in frames, both included.
        rng: A numpy.random.Generator.

    Returns:
        int64 [clip_frames], ascending, in 0...num_frames - 1. Constant stride unless
        the video has fewer frames than the clip.

    Raises:
        ValueError: If a count or the range isn't possible.
    """
    _check_counts(num_frames, clip_frames)
    low, high = stride_range
    if not 1 <= low <= high:
        raise ValueError(
            "stride_range must be (smallest, largest) with 1 <= smallest <= largest, "
            f"got {tuple(stride_range)}."
        )
    if num_frames < clip_frames:
        return test_indices(num_frames, clip_frames)
    fits = (num_frames - 1) // (clip_frames - 1) if clip_frames > 1 else high
    high = min(high, fits)
    stride = int(rng.integers(min(low, high), high + 1))
    span = (clip_frames - 1) * stride
    start = int(rng.integers(num_frames - span))
    return start + stride * np.arange(clip_frames, dtype=np.int64)


def test_indices(num_frames, clip_frames):
    """Takes equally spaced frames of the whole video (thesis 7.3.3, testing).

    The video is cut into ``clip_frames`` equal parts and the frame at the middle of
    each is taken: index i is floor((i + 0.5) * num_frames / clip_frames). A video
    with fewer frames than the clip repeats frames in order.

    Args:
        num_frames: Frames of the video, at least 1.
        clip_frames: Frames of the clip, at least 1.

    Returns:
        int64 [clip_frames], ascending, in 0...num_frames - 1.

    Raises:
        ValueError: If a count is below 1.
    """
    _check_counts(num_frames, clip_frames)
    # (2i + 1) n // 2m is the same number without rounding errors.
    middles = 2 * np.arange(clip_frames, dtype=np.int64) + 1
    return middles * num_frames // (2 * clip_frames)


# pytest collects functions called test_* from the modules that import them.
test_indices.__test__ = False


def _check_counts(num_frames, clip_frames):
    for name, value in (("num_frames", num_frames), ("clip_frames", clip_frames)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
