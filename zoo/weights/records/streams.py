"""Weights of chapters 3 to 5 that the thesis' author released, by data set and split.

The file names are those that the released code asks for. The author's server is the
only public one; whether it answers was not checked, so a file that you have counts.

Source: Feichtenhofer et al. 2016, 2016, 2017: code of two-stream fusion, ST-ResNet and
ST-MulNet; thesis chapters 3 to 5.
"""

from zoo.weights.record import Metric, WeightRecord

BASE = "http://ftp.tugraz.at/pub/feichtenhofer"
CLASSES = {"ucf101": 101, "hmdb51": 51}
SPLITS = (1, 2, 3)
FUSION = "Feichtenhofer et al. 2016, arXiv:1604.06573"
ST_RESNET = "Feichtenhofer et al. 2016, arXiv:1611.02155"
ST_MULNET = "Feichtenhofer et al. 2017, CVPR, Spatiotemporal Multiplier Networks"
MIT = "MIT, as the released code"
FLOW = {"flow": "TV-L1, clipped at 20 pixels; released flow was stored as JPEG"}


def records():
    """All records of this table (the author's code)."""
    for data in CLASSES:
        for split in SPLITS:
            yield from _bases(data, split)
            yield from _st_resnet(data, split)
            yield from _st_mulnet(data, split)


def _record(model, data, split, ending, folders, file, **facts):
    return WeightRecord(
        model,
        f"{data}_split{split}{ending}",
        "matconvnet",
        files=(file,),
        num_classes=CLASSES[data],
        sources=tuple(f"{BASE}/{folder}/{file}" for folder in folders),
        labels=data,
        origin=f"{BASE}/{folders[0]}/",
        **facts,
    )


def _bases(data, split):
    """The single streams. Table 3.3 and 4.3 have their accuracies, by data set."""
    end = f"split{split}"
    vgg = "tsfusion/models/twostream_base/vgg16"
    rows = (
        ("vgg16", f"{data}-img-vgg16-{end}-dr0.85.mat", (vgg,), "_release"),
        ("motion_vgg16", f"{data}-TVL1flow-vgg16-{end}-dr0.9.mat", (vgg,), "_release"),
        (
            "resnet50",
            f"{data}-img-resnet50-{end}-dr0.mat",
            ("st-mul/ts-base", "st-res/ts-base"),
            "_release",
        ),
        (
            "resnet152",
            f"{data}-img-resnet152-{end}-dr0.mat",
            ("st-mul/ts-base",),
            "_release",
        ),
        (
            "motion_resnet50",
            f"{data}-flow-resnet50-{end}-dr0.8.mat",
            ("st-mul/ts-base",),
            "_release",
        ),
        (
            "motion_resnet50",
            f"{data}-resnet50-{end}-dr0.8.mat",
            ("st-res/ts-base",),
            "_2016_release",
        ),
        (
            "motion_resnet152",
            f"{data}-flow-resnet152-{end}-dr{0.8 if data == 'ucf101' else 0.9}.mat",
            ("st-mul/ts-base",),
            "_release",
        ),
    )
    for model, file, folders, ending in rows:
        motion = model.startswith("motion_")
        yield _record(
            model,
            data,
            split,
            ending,
            folders,
            file,
            summary=f"{'motion' if motion else 'appearance'} stream, {data} {end}",
            inputs=FLOW if motion else {},
            licence=MIT if "vgg" in model else "unknown: the code carries no licence",
            paper=FUSION if "vgg" in model else ST_MULNET,
            metrics=_claims(model, data, split),
        )


def _claims(model, data, split):
    """Accuracies on the first split that Table 3.3 has (thesis 3.4.3)."""
    table = {
        ("vgg16", "ucf101"): 0.8261,
        ("motion_vgg16", "ucf101"): 0.8625,
        ("vgg16", "hmdb51"): 0.4706,
        ("motion_vgg16", "hmdb51"): 0.5523,
    }
    value = table.get((model, data))
    if split != 1 or value is None:
        return ()
    protocol = "25 frames and mirrors, whole frames, raw scores averaged"
    return (Metric("accuracy", value, f"{data} split 1", protocol, "thesis Table 3.3"),)


def _mean_of_splits(value, data, protocol, table):
    return (Metric("accuracy", value, f"{data}, mean of 3 splits", protocol, table),)


def _st_resnet(data, split):
    common = {
        "inputs": FLOW,
        "licence": "unknown: the code carries no licence",
        "paper": ST_RESNET,
    }
    yield _record(
        "st_resnet50",
        data,
        split,
        "_stage1_release",
        ("st-res/stage1",),
        f"{data}-ST-ResNet50-split={split}.mat",
        summary=f"ST-ResNet, {data} split {split}",
        options={"temporal_pooling": "none"},
        metrics=_mean_of_splits(
            {"ucf101": 0.9276, "hmdb51": 0.6557}[data],
            data,
            "25 frames and mirrors",
            "thesis Table 4.3",
        ),
        **common,
    )
    yield _record(
        "st_resnet50",
        data,
        split,
        "_release",
        ("st-res/stage2",),
        f"{data}ST-ResNet50-final-split={split}.mat",
        summary=f"ST-ResNet*, {data} split {split}",
        options={"temporal_pooling": "res5"},
        metrics=_mean_of_splits(
            {"ucf101": 0.9346, "hmdb51": 0.6641}[data],
            data,
            "one pass over 25 frames, and mirrors",
            "thesis Table 4.3",
        ),
        **common,
    )


def _st_mulnet(data, split):
    for model, middle in (
        ("st_mulnet50", "img50-flow50-final"),
        ("st_mulnet50_152", "img50-flow152"),
    ):
        claims = ()
        if model == "st_mulnet50_152":
            claims = _mean_of_splits(
                {"ucf101": 0.942, "hmdb51": 0.689}[data],
                data,
                "one pass over 25 frames, and mirrors",
                "thesis Table 5.5",
            )
        yield _record(
            model,
            data,
            split,
            "_release",
            ("st-mul/final",),
            f"{data}ST-MulNet-{middle}-split={split}.mat",
            summary=f"ST-MulNet, {data} split {split}",
            options={"variant": "release"},
            inputs=FLOW,
            licence="unknown: the code carries no licence",
            paper=ST_MULNET,
            metrics=claims,
        )
