"""Weights trained on ImageNet's 1000 classes, where most networks start.

Source: He et al. 2015; Simonyan and Zisserman 2014b; Chatfield et al. 2014. Addresses
and checksums are the publishers'.
"""

from zoo.weights.record import UNKNOWN, Metric, WeightRecord

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
MATCONVNET = "http://www.vlfeat.org/matconvnet/models"
TUGRAZ = "http://ftp.tugraz.at/pub/feichtenhofer/detect-track/models"
TORCH = "https://download.pytorch.org/models"

RESNET = "He et al. 2015, arXiv:1512.03385"
VGG = "Simonyan and Zisserman 2014, arXiv:1409.1556"
COMMON = {"num_classes": 1000, "labels": "imagenet"}
# The thesis' base networks were Caffe's, whose authors allow research; terms of copies
# are those of their publishers.
KERAS_TERMS = "MIT, as keras.applications says of the ported weights"
BSD = "BSD-3-Clause, as torchvision; ImageNet's terms of access may apply"

# model: MD5 of its file, by keras.applications
_KERAS = {
    "resnet50": "2cb95161c43110f7111970584f804107",
    "resnet101": "f1aeb4b969a6efcfb50fad2f0c20cfc5",
    "resnet152": "100835be76be38e30d865e96f2aaae62",
    "vgg16": "64373286793e3c8b2b4e3219cbf3544b",
}
# model: files of the MatConvNet model zoo
_MATCONVNET = {
    "resnet50": "imagenet-resnet-50-dag.mat",
    "resnet101": "imagenet-resnet-101-dag.mat",
    "resnet152": "imagenet-resnet-152-dag.mat",
    "vgg16": "imagenet-vgg-verydeep-16.mat",
    "vgg_m": "imagenet-vgg-m-2048.mat",
}
# model: {tag: (beginning of the SHA-256, accuracy on one crop of 224)} by torchvision
_TORCHVISION = {
    "resnet50": {"v1": ("0676ba61", 0.7613), "v2": ("11ad3fa6", 0.80858)},
    "resnet101": {"v1": ("63fe2227", 0.77374), "v2": ("cd907fc2", 0.81886)},
    "resnet152": {"v1": ("394f9c45", 0.78312), "v2": ("f82ba261", 0.82284)},
}


def records():
    """All records of this table (the publishers)."""
    yield from (_keras(model, md5) for model, md5 in _KERAS.items())
    yield from (_matconvnet(model, file) for model, file in _MATCONVNET.items())
    yield from (_caffe(f"resnet{depth}") for depth in ("50", "101"))
    yield _caffe("resnext101")
    for model, versions in _TORCHVISION.items():
        yield from (_torchvision(model, tag, *v) for tag, v in versions.items())


def _keras(model, md5):
    name = f"{model}_weights_tf_dim_ordering_tf_kernels.h5"
    vgg = model.startswith("vgg")
    return WeightRecord(
        model,
        "imagenet",
        "keras_applications",
        files=(name,),
        summary="ImageNet, as keras.applications publishes it",
        sources=(f"{KERAS}/{'vgg16' if vgg else 'resnet'}/{name}",),
        checksum=f"md5:{md5}",
        options={} if vgg else {"stem": "keras"},
        licence=KERAS_TERMS,
        origin="keras.io/api/applications",
        paper=VGG if vgg else RESNET,
        **COMMON,
    )


def _matconvnet(model, file):
    paper = {"vgg_m": "Chatfield et al. 2014, arXiv:1405.3531", "vgg16": VGG}
    return WeightRecord(
        model,
        "imagenet_matconvnet",
        "matconvnet",
        files=(file,),
        summary="ImageNet, the base network of the thesis",
        sources=(f"{MATCONVNET}/{file}",),
        origin="vlfeat.org/matconvnet/pretrained",
        paper=paper.get(model, RESNET),
        **COMMON,
    )


def _caffe(model):
    is_resnext = model == "resnext101"
    file = "resnext101-32x4d-merge" if is_resnext else f"ResNet-{model[6:]}-model"
    return WeightRecord(
        model,
        "imagenet_caffe",
        "caffe",
        files=(f"{file}.caffemodel",),
        summary="ImageNet in Caffe, the base of Detect & Track",
        sources=(f"{TUGRAZ}/{file}.caffemodel",),
        options={} if is_resnext else {"stem": "caffe"},
        licence=UNKNOWN if is_resnext else "MIT, as the deep-residual-networks code",
        origin="github.com/feichtenhofer/Detect-Track",
        paper="Xie et al. 2017, arXiv:1611.05431" if is_resnext else RESNET,
        **COMMON,
    )


def _torchvision(model, tag, sha256, accuracy):
    file = f"{model}-{sha256}.pth"
    return WeightRecord(
        model,
        f"imagenet_torchvision_{tag}",
        "pytorch",
        files=(file,),
        summary=f"ImageNet, {tag.upper()} of torchvision",
        sources=(f"{TORCH}/{file}",),
        checksum=f"sha256:{sha256}",
        options={"stem": "torchvision"},
        licence=BSD,
        origin="pytorch.org/vision/stable/models",
        paper=RESNET,
        metrics=(
            Metric(
                "accuracy",
                accuracy,
                "ImageNet validation",
                "one central crop of 224",
                "torchvision",
                50_000,
            ),
        ),
        **COMMON,
    )
