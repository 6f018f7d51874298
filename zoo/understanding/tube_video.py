"""Tubes drawn on the frames of a video: boxes, class, identity and score.

Source: thesis Figures 8.4 and D.1, in which every object keeps its colour.
"""

import colorsys

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618034  # of the colour circle, between the hues of neighbouring identities


def colour_of(identity):
    """A colour for an object, RGB 0-255; neighbouring identities differ clearly.

    Args:
        identity: a whole number.

    Source: steps of the golden ratio around the colour circle.
    """
    hue = (identity * GOLDEN) % 1.0
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 1.0))


def draw_objects(frame, objects):
    """A frame with boxes and captions drawn on it.

    Args:
        frame: uint8 RGB [H, W, 3]; not changed.
        objects: tuples (identity, caption, box), box x1, y1, x2, y2 in pixels, which
            may reach over the frame's edge.

    Returns:
        uint8 RGB [H, W, 3].

    Source: thesis Figure 8.4.
    """
    picture = np.ascontiguousarray(frame).copy()
    thickness = max(1, round(min(picture.shape[:2]) / 240))
    scale = max(0.35, min(picture.shape[:2]) / 900)
    for identity, caption, box in objects:
        colour = colour_of(identity)
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, thickness)
        (width, height), below = cv2.getTextSize(caption, FONT, scale, 1)
        # Above the box; inside it, where there is no room above.
        top = y1 - height - below if y1 >= height + below else y1
        corner = (x1 + width, top + height + below)
        cv2.rectangle(picture, (x1, top), corner, colour, cv2.FILLED)
        cv2.putText(
            picture, caption, (x1, top + height), FONT, scale, (0, 0, 0), 1, cv2.LINE_AA
        )
    return picture
