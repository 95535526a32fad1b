from reslink.api.adapt import adapt as adapt
from reslink.api.audit import audit as audit
from reslink.api.cache import cache as cache
from reslink.api.cv import cv as cv
from reslink.api.evaluate import evaluate as evaluate
from reslink.api.explain import explain as explain
from reslink.api.predict import predict as predict
from reslink.api.runs import runs as runs
from reslink.api.split import split as split
from reslink.api.train import train as train
from reslink.api.tune import tune as tune
from reslink.bundles.bundle import Bundle as Bundle
from reslink.datasets.manifest import Manifest as Manifest
from reslink.imaging.image import Image as Image
from reslink.imaging.preprocess import Preprocess as Preprocess
from reslink.imaging.reading import read_image as read_image
from reslink.inference.classifier import Classifier as Classifier
from reslink.inference.monai_transforms import ResLinkDecisiond as ResLinkDecisiond
from reslink.inference.monai_transforms import ResLinkPreprocessd as ResLinkPreprocessd
from reslink.inference.monai_transforms import load_network as load_network
from reslink.inference.prediction import Prediction as Prediction
from reslink.training.sklearn_estimator import ResLinkClassifier as ResLinkClassifier

__version__: str
