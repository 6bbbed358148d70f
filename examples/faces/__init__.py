"""Face data sets, small models and a dense training loop for the examples and benchmarks.

No image, label row or derived array belongs in the repository: every path is the user's argument.
"""

from .dataset import FaceLoader, FaceSplit
from .errors import FaceDataError, MissingFaceDataError, UnknownChoiceError
from .load import DATASETS, load_faces
from .mobilenetv2 import MobileNetV2
from .resnet10 import ResNet10
from .training import Evaluation, evaluate, train

__all__ = [
    "DATASETS",
    "Evaluation",
    "FaceDataError",
    "FaceLoader",
    "FaceSplit",
    "MissingFaceDataError",
    "MobileNetV2",
    "ResNet10",
    "UnknownChoiceError",
    "evaluate",
    "load_faces",
    "train",
]
