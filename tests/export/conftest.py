"""Small bundles of every kind that is exported."""

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import build, variant_config


@pytest.fixture(scope="session")
def make_saved(tmp_path_factory):
    """Returns a function that saves a bundle of a variant, its norms and gates far from where they start."""

    def make(variant="reslink_small", names=("Healthy", "Tumor"), preprocess=None, **changes):
        preprocess = preprocess or Preprocess(size=64)
        small = {"stem_dim": 8, "dims": (8, 16), "depths": (1, 1), "in_channels": preprocess.channels}
        config = variant_config(variant, **{"num_classes": len(names), **small, **changes})
        state = build(config, seed=1).state_dict()
        rng = np.random.default_rng(0)
        for name, value in state.items():
            if "norm" in name and value.is_floating_point():  # a norm that does nothing would hide a wrong fold
                low, high = (0.5, 2.0) if name.endswith(("weight", "var")) else (-0.5, 0.5)
                value.copy_(value.new_tensor(rng.uniform(low, high, value.shape)))
        state["stem.norm.weight"][0] *= -1  # a falling norm cannot be drawn in front of the pooling
        state["head.1.weight"] *= 30
        bundle = Bundle(
            {"name": variant, **config.model_dump(mode="json")},
            preprocess,
            Labels(names),
            Decision.default(len(names)),
            provenance={"seed": 1},
        )
        return bundle.save(tmp_path_factory.mktemp("bundle") / "bundle", state)

    return make
