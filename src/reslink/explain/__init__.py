"""Explanations of predictions: attention maps, Grad-CAM, integrated gradients and occlusion, with sanity checks."""

import sys

from reslink.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage  # reslink.explain(...) is reslink.api.explain.explain(...)
