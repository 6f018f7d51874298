"""How fast an object of a video moves, by the overlap of its box with itself over time.

Source: Zhu et al. (2017), Flow-Guided Feature Aggregation, section 5.1.
"""

import numpy as np

from zoo.evaluation.box_arithmetic import iou

SPEEDS = {"slow": (0.9, 1.0), "medium": (0.7, 0.9), "fast": (0.0, 0.7)}
"""Limits of the motion IoU, both included (Zhu et al., 2017)."""
WINDOW = 10
"""Frames before and after that motion IoU looks at (Zhu et al., 2017)."""


def motion_iou(frames):
    """How still every object of a video is: 1 where it does not move at all.

    Args:
        frames: {frame number: `Objects`} of all frames of a video.

    Returns:
        {frame number: float [G]}: the mean IoU of a box with the boxes of the same
        track at most 10 frames away, without itself; 0 if there is none, as published.

    Raises:
        ValueError: if tracks are missing.

    Source: Zhu et al. (2017), section 5.1.
    """
    seen, found = {}, {}
    for frame, objects in frames.items():
        boxes, labels = np.asarray(objects.boxes, float), np.asarray(objects.labels)
        if objects.tracks is None or len(objects.tracks) != len(labels):
            raise ValueError(
                f"Frame {frame} has objects without tracks, by which their speed is "
                "measured. Give tracks, or evaluate with by_speed=False."
            )
        found[frame] = np.zeros(len(labels))
        for place in np.flatnonzero(labels >= 0):
            track = seen.setdefault(int(objects.tracks[place]), [])
            track.append((frame, place, boxes[place]))
    for track in seen.values():
        numbers = np.array([frame for frame, _, _ in track])
        boxes = np.stack([box for _, _, box in track])
        for (frame, place, box), number in zip(track, numbers, strict=True):
            near = (abs(numbers - number) <= WINDOW) & (numbers != number)
            if near.any():
                found[frame][place] = iou(box[None], boxes[near]).mean()
    return found
