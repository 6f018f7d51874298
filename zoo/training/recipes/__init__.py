"""Recipes: one short file per training, each with its promise and its command.

Source: thesis 3.3.5, Table 4.2, 5.4.1, 7.3.3 and 8.5.2; each recipe names its own.
"""

import difflib

from zoo.training.recipes import (
    detect_track,
    dynamic_scenes,
    fusion,
    fusion_streams,
    moving_pairs,
    rfcn,
    st_mulnet,
    st_mulnet_streams,
    st_resnet,
    st_resnet_star,
    st_resnet_streams,
    synthetic_scenes,
    synthetic_vid,
)

RECIPES = {
    **fusion_streams.RECIPES,
    **fusion.RECIPES,
    **st_resnet_streams.RECIPES,
    **st_resnet.RECIPES,
    **st_resnet_star.RECIPES,
    **st_mulnet_streams.RECIPES,
    **st_mulnet.RECIPES,
    **dynamic_scenes.RECIPES,
    **synthetic_scenes.RECIPES,
    **moving_pairs.RECIPES,
    **rfcn.RECIPES,
    **synthetic_vid.RECIPES,
    **detect_track.RECIPES,
}


def find(name):
    """The `Recipe` of a name.

    Raises:
        ValueError: unknown name; the known ones are listed.

    Source: the thesis section that the recipe's file names.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(str(name), RECIPES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise ValueError(
            f"Unknown recipe {name!r}; there are {', '.join(sorted(RECIPES))}{hint}"
        )
    return RECIPES[name]
