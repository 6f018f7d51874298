"""Layers of spatiotemporal networks, written with keras and keras.ops alone.

All take clips [B, T, H, W, C]. Sources: thesis chapters 3-7, named in each layer.
"""

from zoo.layers._clip import same_size_as
from zoo.layers.anchors import Anchors, anchors_of
from zoo.layers.boxes import BoxTransform, area, clip, decode, encode, iou
from zoo.layers.camera_motion import RemoveCameraMotion
from zoo.layers.channel_scale import ChannelScale
from zoo.layers.clip_view import ClipView
from zoo.layers.conv_norm import (
    ConvNorm,
    FoldedConv,
    FoldedTemporalConv,
    TemporalConvNorm,
)
from zoo.layers.correlation import Correlation
from zoo.layers.cross_stream import CrossStream
from zoo.layers.detection_view import DetectionView
from zoo.layers.flow_stack import FlowStack
from zoo.layers.fusion import (
    BilinearFusion,
    ConcatFusion,
    ConvFusion,
    MaxFusion,
    StreamAverage,
    SumFusion,
)
from zoo.layers.initializers import (
    FeatureIdentity,
    FusionIdentity,
    Inflated,
    inflate,
)
from zoo.layers.input_normalization import FlowNormalization, RGBNormalization
from zoo.layers.local_response_normalization import LocalResponseNormalization
from zoo.layers.nms import ClassNMS, nms, vote
from zoo.layers.per_frame import FramePairs, PerFrame
from zoo.layers.pooling import (
    SlidingAveragePooling,
    SpatialMaxPooling,
    TemporalMaxPooling,
)
from zoo.layers.proposals import Proposals
from zoo.layers.ps_roi import PSRoIAlign, PSRoIPooling
from zoo.layers.spatial_conv import SpatialConv
from zoo.layers.sub_batch_normalization import SubBatchNormalization
from zoo.layers.temporal_conv import TemporalConv
from zoo.layers.tv_l1 import TVL1Flow

__all__ = [
    "Anchors",
    "BilinearFusion",
    "BoxTransform",
    "ChannelScale",
    "ClassNMS",
    "ClipView",
    "ConcatFusion",
    "ConvFusion",
    "ConvNorm",
    "Correlation",
    "CrossStream",
    "DetectionView",
    "FeatureIdentity",
    "FlowNormalization",
    "FlowStack",
    "FoldedConv",
    "FoldedTemporalConv",
    "FramePairs",
    "FusionIdentity",
    "Inflated",
    "LocalResponseNormalization",
    "MaxFusion",
    "PSRoIAlign",
    "PSRoIPooling",
    "PerFrame",
    "Proposals",
    "RGBNormalization",
    "RemoveCameraMotion",
    "SlidingAveragePooling",
    "SpatialConv",
    "SpatialMaxPooling",
    "StreamAverage",
    "SubBatchNormalization",
    "SumFusion",
    "TVL1Flow",
    "TemporalConv",
    "TemporalConvNorm",
    "TemporalMaxPooling",
    "anchors_of",
    "area",
    "clip",
    "decode",
    "encode",
    "inflate",
    "iou",
    "nms",
    "same_size_as",
    "vote",
]
