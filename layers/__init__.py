"""Layers of spatiotemporal networks, written with keras and keras.ops alone.

All take clips [B, T, H, W, C]. Sources: thesis chapters 3-7, named in each layer.
"""

from zoo.layers.channel_scale import ChannelScale
from zoo.layers.clip_view import ClipView
from zoo.layers.conv_norm import ConvNorm
from zoo.layers.initializers import FeatureIdentity, Inflated, inflate
from zoo.layers.input_normalization import FlowNormalization, RGBNormalization
from zoo.layers.pooling import (
    SlidingAveragePooling,
    SpatialMaxPooling,
    TemporalMaxPooling,
)
from zoo.layers.spatial_conv import SpatialConv
from zoo.layers.sub_batch_normalization import SubBatchNormalization
from zoo.layers.temporal_conv import TemporalConv

__all__ = [
    "ChannelScale",
    "ClipView",
    "ConvNorm",
    "FeatureIdentity",
    "FlowNormalization",
    "Inflated",
    "RGBNormalization",
    "SlidingAveragePooling",
    "SpatialConv",
    "SpatialMaxPooling",
    "SubBatchNormalization",
    "TemporalConv",
    "TemporalMaxPooling",
    "inflate",
]
