"""The model card of a bundle, with the front matter and sections of Hugging Face's template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from reslink.bundles.card.sections import data_section, decision_section, label_rule, ledger_section, limitations, reproduction
from reslink.bundles.decision.decision import Decision
from reslink.bundles.lineage import Ancestor
from reslink.bundles.pretrained import PretrainedInfo, pretrained_info
from reslink.bundles.scope import Scope, refused_texts
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.external_config import member_architecture

RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment of any patient."

_TEMPLATE = """\
---
{front}---

# {title}

{usage_notes}**{research}**

## Model details

- Network: {name}, {channels} input channels at {size}×{size} pixels, {outputs} output{plural}.
- {kind}, in the order of the outputs: {labels}.
- Decision: {decision}.
- Images: {scope}; others are refused ({scope_source}).{brain_rule}
- Patients of the training images: {population}.
- Weights: `model.safetensors`, SHA-256 `{sha256}`.
- Paper: ResLink, arXiv [2508.17259](https://arxiv.org/abs/2508.17259).
- License of the weights: {license}. The code of reslink is Apache-2.0; that license does not cover these weights.

## Uses

{uses}

Out of scope: any clinical use, triage without a reader, images of another body part or modality than the training data.

## Bias, risks and limitations

- The metrics below hold only for data like the evaluation data.
- A network can use the scanner, text or positioning instead of the lesion; look at the maps of `reslink explain` first.
- PPV and NPV depend on the class proportions; at another prevalence they differ.
{limitations}
## How to use

```
reslink predict BUNDLE IMAGE... --json
```

{usage}{data}## Training

{training}

Preprocessing, the same in training and prediction:

```json
{preprocess}
```

## Evaluation

{evaluation}

{ledger}{decision_section}## Technical specifications

Architecture:

```json
{architecture}
```

{versions}

## Citation

ResLink, arXiv:2508.17259.
"""

_BUNDLE_NAME = "`BUNDLE` is the folder that holds this card, or the model's name in `reslink models`.\n\n"


class CardSource(Protocol):
    """The values of a bundle that its model card shows."""

    @property
    def architecture(self) -> Mapping[str, Any]:
        """Fields of ``ResLinkConfig`` and ``name``."""

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing."""

    @property
    def labels(self) -> Labels:
        """The classes."""

    @property
    def decision(self) -> Decision:
        """The decision."""

    @property
    def lineage(self) -> Sequence[Ancestor]:
        """The ancestors of a fine-tuned network."""

    @property
    def scope(self) -> Scope:
        """The images that it is for."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The content of ``evaluation.json``; empty before an evaluation."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Data, versions, license, recipe."""

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights; None before the bundle is saved."""


def _brain_rule(scope: Scope) -> str:
    if scope.min_brain_share is None:
        return ""
    return f" So are slices that show little brain, less than {100 * scope.min_brain_share:g} % of the head."


def model_card(bundle: CardSource) -> str:
    """Returns the text of ``MODEL_CARD.md``.

    The front matter and the order of the sections follow the template of Hugging Face
    (https://huggingface.co/docs/hub/model-cards). All metrics come from ``bundle.metrics``; without an evaluation the card
    says so.

    Args:
        bundle: The bundle.
    """
    provenance, info = bundle.provenance, pretrained_info(bundle.provenance)
    outputs = bundle.architecture["num_classes"]
    return _TEMPLATE.format(
        front=_front_matter(bundle),
        title=info.title if info else f"ResLink: {' / '.join(bundle.labels.names)}",
        usage_notes=f"**Read this first.** {info.usage_notes}\n\n" if info else "",
        research=RESEARCH_USE_ONLY,
        name=_network_name(bundle.architecture),
        channels=bundle.preprocess.channels,
        size=bundle.preprocess.size,
        outputs=outputs,
        plural="" if outputs == 1 else "s",
        kind="Classes" if bundle.labels.exclusive else "Labels, several of which can hold at once",
        labels=", ".join(f"`{name}`" for name in bundle.labels.names),
        decision=label_rule(bundle.decision, bundle.labels) + _probabilities(bundle.decision),
        scope=bundle.scope,
        brain_rule=_brain_rule(bundle.scope),
        population=bundle.scope.population or "not described",
        scope_source=bundle.scope.source,
        sha256=bundle.weights_sha256 or "not saved yet",
        license=_license(provenance) or "not stated; it follows that of the training data",
        uses=_uses(provenance, info),
        limitations=limitations(info) if info else "",
        usage=_BUNDLE_NAME if info else "",
        data=data_section(info) if info else "",
        training=_training(provenance, info, bundle.lineage),
        preprocess=_json(bundle.preprocess.model_dump(mode="json")),
        evaluation=_evaluation(bundle.metrics),
        ledger=ledger_section(info),
        decision_section=decision_section(bundle.decision, bundle.labels, bundle.metrics),
        architecture=_json(bundle.architecture),
        versions=_bullets("Versions", provenance.get("versions")),
    )


def _network_name(architecture: Mapping[str, Any]) -> str:
    name = architecture.get("name", "ResLink")
    member = member_architecture(architecture)
    if member is architecture:
        return str(name)
    return f"{name} of {architecture['count']} × {member.get('name')}, whose probabilities are averaged"


def _front_matter(bundle: CardSource) -> str:
    license_name = _license(bundle.provenance)
    front: dict[str, Any] = {"license": "other" if license_name else "unknown"}
    if license_name:
        front["license_name"] = license_name
    front |= {
        "library_name": "reslink",
        "pipeline_tag": "image-classification",
        "tags": ["medical-imaging", "brain", "reslink", "area-attention", "research-use-only"],
    }
    if rows := list(_metric_rows(bundle.metrics)):
        front["metrics"] = [name for name, *_ in rows]
    import yaml  # slow to import, and only a saved bundle needs it

    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _license(provenance: Mapping[str, Any]) -> str | None:
    stated = str(provenance.get("license") or "unknown")
    return None if stated.lower().startswith(("unknown", "none", "not stated")) else stated


def _probabilities(decision: Decision) -> str:
    """Returns how the probabilities differ from the softmax of the logits of one image."""
    flip = "; mean probability of the image and its mirror image, twice the cost" if decision.flip_average else ""
    return flip + ("" if decision.temperature == 1 else f"; logits divided by {decision.temperature:g}")


def _uses(provenance: Mapping[str, Any], info: PretrainedInfo | None) -> str:
    use = str(provenance.get("intended_use") or "Research on the classification of brain images.")
    return f"Task: {info.task}. Images: {info.modality}.\n\n{use}" if info else use


def _training(provenance: Mapping[str, Any], info: PretrainedInfo | None, lineage: Sequence[Ancestor]) -> str:
    ancestors = "\n".join(f"- {ancestor}. License: {ancestor.license.rstrip('.')}." for ancestor in lineage)
    parts = [
        reproduction(info) if info else "",
        f"Fine-tuned from (the parent first):\n\n{ancestors}" if lineage else "",
        _bullets("Data", provenance.get("data")),
        _bullets("Adapted to other images", provenance.get("adapted")),
    ]
    if rows := provenance.get("cross_validation"):
        parts.append(_bullets("Cross-validation", {key: value for key, value in rows.items() if key != "members"}))
    if "seed" in provenance:
        parts.append(f"Seed: {provenance['seed']}.")
    if provenance.get("recipe"):
        parts.append(f"Recipe:\n\n```json\n{_json(provenance['recipe'])}\n```")
    return "\n\n".join(part for part in parts if part) or "Not recorded."


def _bullets(title: str, values: Any) -> str:
    """Returns a titled list of a dictionary's values, or one line for any other value; empty for no value."""
    if not values:
        return ""
    if not isinstance(values, Mapping):
        return f"{title}: {values}."
    return f"{title}:\n\n" + "\n".join(f"- {key}: {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation(metrics: Mapping[str, Any]) -> str:
    rows = list(_metric_rows(metrics))
    if not rows:
        return "This model has not been evaluated yet. Run `reslink evaluate BUNDLE DATA --out DIR`."
    lines = ["| metric | estimate | 95 % interval | n | method |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {estimate} | {interval} | {n} | {method} |" for name, estimate, interval, n, method in rows]
    return "\n".join([*_cases(metrics), *_leakage(metrics), *lines])


def _leakage(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the split of the evaluation and the result of its leakage check."""
    split = {"test": "The test split, held out from training. "}.get(str(metrics.get("split")), "")
    leakage = metrics.get("leakage")
    message = f"{leakage['message']}." if isinstance(leakage, Mapping) and leakage.get("message") else ""
    return [f"{split}{message}".strip(), ""] if split or message else []


def _cases(metrics: Mapping[str, Any]) -> list[str]:
    if "n" not in metrics:
        return []
    joined = "near duplicates and probable scans" if metrics.get("group_by") == "scan" else "near duplicates"
    groups = f" in {metrics['n_groups']} groups (patients, with {joined} joined)" if "n_groups" in metrics else ""
    positive = f" The positive class is `{metrics['positive']}`." if metrics.get("positive") else ""
    refused = "".join(f" {text}." for text in refused_texts(metrics))
    return [f"{metrics['n']} images{groups}.{refused}{positive}", ""]


def _named_metrics(metrics: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yields name and estimate of each metric; of several labels at once, also the AUROC and AUPRC of each."""
    by_label = "by_label" in metrics
    for name, value in metrics.get("metrics", metrics).items():
        yield (f"mean {name}" if by_label else name), value
    for label, values in metrics.get("per_class", {}).items() if by_label else ():
        for name in ("auroc", "auprc"):
            yield f"{name} of {label}", values[name]


def _metric_rows(metrics: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str, str]]:
    """Yields name, estimate, interval, n and method of each metric as text."""
    for name, value in _named_metrics(metrics):
        if isinstance(value, Mapping) and value.get("estimate") is not None:
            low, high = value.get("ci_low"), value.get("ci_high")
            interval = "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            yield name, f"{value['estimate']:.3f}", interval, str(value.get("n", "")), str(value.get("method", ""))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
