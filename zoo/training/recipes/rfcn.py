"""R-FCN on ImageNet VID and DET, the detector that Detect & Track starts from (8.5.2).

The promise (Table 8.1): 74.2 % mean average precision on ImageNet VID's validation set
with ResNet-101, 72.1 % with ResNet-50. These are the thesis' numbers; they need the
data and a GPU, and have not been repeated here.

    zoo train rfcn --data ILSVRC2015 --weights imagenet --out runs/rfcn

Frames of 600 pixels, four per update, half of them stills of ImageNet DET (2000 per
class at most), the others from 10 frames of each video; 60,000 updates at 1e-3 and
20,000 at 1e-4; batch normalisation, conv1 and conv2 stay as on ImageNet.
"""

from zoo.training.detection_recipe import DetectionRecipe

RFCN = DetectionRecipe(
    model="rfcn_resnet101",
    weights="imagenet",
    frames=1,
    frames_per_video=10,
    accumulation=2,
    learning_rate=((1e-3, 60_000), (1e-4, 20_000)),
)
RFCN_50 = DetectionRecipe(
    model="rfcn_resnet50",
    weights="imagenet",
    frames=1,
    frames_per_video=10,
    accumulation=2,
    learning_rate=((1e-3, 80_000), (1e-4, 40_000)),  # the release's solver
)
RECIPES = {"rfcn": RFCN, "rfcn_50": RFCN_50}
