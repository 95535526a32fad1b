"""What is said about a wrong setting: its key, what is allowed, and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reslink.errors import UsageError
from reslink.training.recipe.recipe import load_recipe


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trainer.epoch", "trainer.epochs"),
        ("epochs", "trainer.epochs"),
        ("lr", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer."),
        ("trainer.lr", "optimizer.lr"),
        ("loss.label_smooth", "loss.label_smoothing"),
        ("preproces.isolate_head", "preprocess.isolate_head"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{key} is not a setting.*(Did you mean|Choose one of).*{meant}"):
        load_recipe(None, [f"{key}=1"])
    path = tmp_path / "recipe.yaml"
    *parents, name = key.split(".")
    path.write_text(yaml.safe_dump({parents[0]: {name: 1}} if parents else {name: 1}))
    first = parents[0] if parents and parents[0] == "preproces" else key
    with pytest.raises(UsageError, match=f"unknown key '{first}'.*{meant.split('.')[0]}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.epochs=0", r"trainer.epochs is 0 \(--epochs 0\). It is a whole number at least 1 and at most 10000"),
        ("trainer.epochs=2.5", r"trainer.epochs is 2.5.*a whole number"),
        ("trainer.epochs='5'", r"trainer.epochs is '5'.*a whole number"),
        ("trainer.epochs=true", r"trainer.epochs is True.*a whole number"),
        ("trainer.batch_size=1", r"trainer.batch_size is 1.*at least 2"),
        ("seed=-1", r"seed is -1 \(--seed -1\).*at least 0"),
        ("optimizer.lr=0", r"optimizer.lr is 0.*a number above 0 and at most 100"),
        ("optimizer.lr=.nan", r"optimizer.lr is .*a number above 0"),
        ("optimizer.name=adamm", r"optimizer.name is 'adamm'. It is one of muon, adamw, adam, sgd"),
        ("data.fractions=[0.5, 0.5]", r"data.fractions is .*a list of 3"),
        ("data.fractions=[0.5, 0.5, 0.5]", r"data.*sum to 1"),
        ("data.fold=2", r"fold is 2"),
        ("preprocess.size=32", r"preprocess.size is 32.*at least 64"),
        ("preprocess.percentiles=[9, 1]", r"percentiles are"),
        ("decision.threshold=1.5", r"decision.threshold is 1.5.*above 0 and below 1 or one of youden, accuracy"),
        ("augment.flip=2", r"augment.flip is 2.*at most 1"),
        ("trainer=5", r"trainer is 5.*a section with the keys case, slices, epochs"),
        ("model.area_size=0", r"model.area_size is 0.*at least 1"),
        ("model.dims=[16]", r"model.*dims has 1 stages but depths has 3"),
        ("model.variant=reslink_papr", r"reslink_papr.*Did you mean 'reslink_paper'"),
        ("model.stem_order=upside_down", r"model.stem_order is 'upside_down'.*norm_first, pool_first"),
        ("trainer.epochs", r"has no '='.*section.key=value"),
        ("=5", r"names no key"),
        ("trainer.epochs=[1", r"cannot be read"),
    ],
)
def test_a_wrong_value_names_the_key_and_what_is_allowed(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(None, [change])
