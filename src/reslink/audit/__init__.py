"""Audit of a data set: leakage, near duplicates, shortcuts, burned-in text, identity, labels and files."""

import sys

from reslink.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage  # reslink.audit(...) is reslink.api.audit.audit(...)
