"""From video files to batches: decoding, sampling, augmentation, lists, pipelines.

    from zoo.datasets import ClipSpec, VideoList, training_dataset
    videos = VideoList.from_folder("YUP2")
    train, test = videos.split(0.1)
    dataset = training_dataset(train, batch_size=8, spec=ClipSpec(frames=16))

The pipeline is that of thesis 7.3.3. Names are imported on first use, so that reading
videos (``zoo.datasets.video``) doesn't load TensorFlow.
"""

from zoo.lazy import lazy_names

_HOMES = {
    "ClipSpec": "pipeline",
    "FrameCache": "cache",
    "FlowFolder": "flow",
    "ImageNetDET": "imagenet_det",
    "ImageNetVID": "imagenet_vid",
    "PairSpec": "detection_pairs",
    "detection_dataset": "detection_pairs",
    "ComputedFlow": "flow",
    "Reader": "chunks",
    "flow_source": "flow",
    "Skipped": "pipeline",
    "steps_per_epoch": "pipeline",
    "test_videos": "pipeline",
    "training_dataset": "pipeline",
    "Video": "video",
    "VideoError": "video",
    "VideoInfo": "video",
    "VideoList": "listing",
    "probe": "video",
    "read_video": "video",
}

__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
