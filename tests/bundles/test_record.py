"""``bundle.json`` is read strictly: version, fields and form."""

import pytest

from reslink.bundles.bundle import SCHEMA_VERSION, Bundle
from reslink.errors import BundleError, UsageError


def test_a_newer_bundle_names_both_versions(rewrite, saved):
    rewrite(saved.folder, lambda value: value.update(schema_version=7, something="new"))
    with pytest.raises(BundleError, match=rf"schema version 7\. .*reads schema version {SCHEMA_VERSION}\. Update reslink"):
        Bundle.load(saved.folder)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_older_bundle_is_refused_with_what_to_do(rewrite, saved, version):
    rewrite(saved.folder, lambda value: value.update(schema_version=version))
    message = rf"the schema version {version}\. This reslink reads schema version {SCHEMA_VERSION}\. Train the model again"
    with pytest.raises(BundleError, match=message):
        Bundle.load(saved.folder)


@pytest.mark.parametrize("version", [None, "1", 0, True, 1.0])
def test_a_bundle_without_a_version_is_refused(rewrite, saved, version):
    rewrite(saved.folder, lambda value: value.update(schema_version=version))
    with pytest.raises(BundleError, match="no valid schema_version"):
        Bundle.load(saved.folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda v: v.pop("preprocess"), "preprocess: Field required"),
        (lambda v: v["preprocess"].update(size="224"), r"preprocess\.size"),
        (lambda v: v["preprocess"].update(std=0.0), r"preprocess\.std"),
        (lambda v: v["decision"].update(treshold=0.4), r"decision\.treshold"),
        (lambda v: v["weights"].update(sha256="short"), r"weights\.sha256"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v.update(labels=["Healthy", "healthy"]), "differ only in case"),
        (lambda v: v.update(labels=["a", "b", "c"], decision={"threshold": None}), r"architecture\.num_classes is 2.*3 labels"),
        (lambda v: v["preprocess"].update(channels=3), r"in_channels is 1, but preprocess\.channels is 3"),
    ],
)
def test_an_invalid_field_is_named(rewrite, saved, change, field):
    rewrite(saved.folder, change)
    with pytest.raises(UsageError, match=field):
        Bundle.load(saved.folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"schema_version": NaN}', "[" * 100_000, "x" * (5 << 20), "\udcff"])
def test_a_damaged_json_is_refused(saved, text):
    (saved.folder / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(saved.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["provenance"].update(a=10**400),
        lambda v: v["preprocess"].update(size=10**30),
        lambda v: v.update(schema_version=10**4000),
        lambda v: v["architecture"].update(num_classes=-(10**25)),
        lambda v: v["metrics"].update(a=eval("[" * 90 + "]" * 90)),
    ],
)
def test_a_hostile_value_is_refused(rewrite, saved, change):
    rewrite(saved.folder, change)
    with pytest.raises(BundleError, match=r"is damaged \(.*(digits|levels deep)"):
        Bundle.load(saved.folder)


def test_a_number_that_is_too_large_is_refused(saved):
    path = saved.folder / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version"', '"a": 1e999, "schema_version"'))
    with pytest.raises(BundleError, match="too large"):
        Bundle.load(saved.folder)
