"""Weights of chapter 8 that the thesis' author released: detectors of ImageNet VID.

Source: Feichtenhofer et al. 2017, arXiv:1710.03958, and its code; thesis chapter 8.
"""

from zoo.weights.record import Metric, WeightRecord

TUGRAZ = "http://ftp.tugraz.at/pub/feichtenhofer/detect-track/models"
PROTOCOL = "validation set, proposals of an RPN of its own, AP at IoU 0.5"
# model: (file, mAP, how its boxes were made, where that number stands)
_README = "README of the released code"
_FILES = {
    "rfcn_resnet50": ("ResNet-50-D-ilsvrc-vid", 0.721, "single frames", _README),
    "rfcn_resnet101": ("ResNet101-D-ilsvrc-vid", 0.741, "single frames", _README),
    "rfcn_resnext101": ("ResNeXt101-D-ilsvrc-vid", 0.759, "single frames", _README),
    "detect_track_resnet50": ("ResNet-50-DT-ilsvrc-vid", 0.765, "tubes", _README),
    "detect_track_resnet101": (
        "ResNet-101-DT-ilsvrc-vid",
        0.798,
        "tubes",
        "thesis Table 8.1",
    ),
    "detect_track_resnext101": ("ResNeXt101-DT-ilsvrc-vid", 0.814, "tubes", _README),
}


def records():
    """All records of this table (the author's code)."""
    for model, (stem, value, boxes, source) in _FILES.items():
        file = f"{stem}.caffemodel"
        metric = Metric(
            "mean average precision",
            value,
            "ImageNet VID validation",
            f"{boxes}; {PROTOCOL}",
            source,
        )
        yield WeightRecord(
            model,
            "vid_release",
            "caffe",
            files=(file,),
            summary="ImageNet VID and DET, 30 classes, as released",
            num_classes=30,
            sources=(f"{TUGRAZ}/{file}",),
            labels="imagenet_vid",
            options={"variant": "release"},
            licence="MIT, as the released code",
            origin="github.com/feichtenhofer/Detect-Track",
            paper="Feichtenhofer et al. 2017, arXiv:1710.03958",
            metrics=(metric,),
        )
