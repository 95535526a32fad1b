"""The model card of a bundle: Hugging Face's front matter and sections, filled with what is known and measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from reslink.bundles.card.sections import again, data, decision, label_rule, limits
from reslink.bundles.pretrained import Shipping, shipping_of

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment of any patient."

_TEMPLATE = """\
---
{front}---

# {title}

{about}**{research}**

## Model details

- Network: {name}, {channels} input channels at {size}×{size} pixels, {outputs} output{plural}.
- Classes, in the order of the outputs: {labels}.
- Decision: {decision}.
- Weights: `model.safetensors`, SHA-256 `{sha256}`.
- Paper: ResLink, arXiv [2508.17259](https://arxiv.org/abs/2508.17259).
- Licence of the weights: {licence}. The code of reslink is Apache-2.0; that licence does not extend to these weights.

## Uses

{uses}

Out of scope: any clinical use, triage without a reader, images of another body part or modality than the training data.

## Bias, risks and limitations

- The figures below hold for data like the evaluation data and for nothing else.
- A network may use scanner, text or positioning instead of the lesion; look at what `reslink explain` shows first.
- Class proportions of the data set the PPV and NPV; at another prevalence they differ.
{limits}
## How to use

```
reslink predict BUNDLE IMAGE... --json
```

{call}{data}## Training

{training}

Preprocessing, the same in training and prediction:

```json
{preprocess}
```

## Evaluation

{evaluation}

{decided}## Technical specifications

Architecture:

```json
{architecture}
```

{versions}

## Citation

ResLink, arXiv:2508.17259.
"""

_NAME = "`BUNDLE` is the folder that holds this card, or its name where it ships with reslink (`reslink models`).\n\n"


def model_card(bundle: Bundle) -> str:
    """Returns the text of ``MODEL_CARD.md``.

    The front matter and the order of the sections follow the template of Hugging Face
    (https://huggingface.co/docs/hub/model-cards). Figures come from ``bundle.metrics`` and nowhere else; where nothing
    was measured the card says so.

    Args:
        bundle: The bundle; ``weights_sha256`` is named where it is set.
    """
    known, story = bundle.provenance, shipping_of(bundle.provenance)
    outputs = bundle.architecture["num_classes"]
    return _TEMPLATE.format(
        front=_front_matter(bundle),
        title=story.title if story else f"ResLink: {' / '.join(bundle.labels.names)}",
        about=f"**Read this first.** {story.about}\n\n" if story else "",
        research=RESEARCH_USE_ONLY,
        name=bundle.architecture.get("name", "ResLink"),
        channels=bundle.preprocess.channels,
        size=bundle.preprocess.size,
        outputs=outputs,
        plural="" if outputs == 1 else "s",
        labels=", ".join(f"`{name}`" for name in bundle.labels.names),
        decision=label_rule(bundle) + _temperature(bundle),
        sha256=bundle.weights_sha256 or "not saved yet",
        licence=_licence(known) or "not stated; it follows that of the training data",
        uses=_uses(known, story),
        limits=limits(story) if story else "",
        call=_NAME if story else "",
        data=data(story) if story else "",
        training=_training(known, story),
        preprocess=_json(bundle.preprocess.model_dump(mode="json")),
        evaluation=_evaluation(bundle.metrics),
        decided=decision(bundle),
        architecture=_json(bundle.architecture),
        versions=_bullets("Versions", known.get("versions")),
    )


def _front_matter(bundle: Bundle) -> str:
    licence = _licence(bundle.provenance)
    front: dict[str, Any] = {"license": "other" if licence else "unknown"}
    if licence:
        front["license_name"] = licence
    front |= {
        "library_name": "reslink",
        "pipeline_tag": "image-classification",
        "tags": ["medical-imaging", "brain", "reslink", "area-attention", "research-use-only"],
    }
    if measured := list(_rows(bundle.metrics)):
        front["metrics"] = [name for name, *_ in measured]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _licence(provenance: Mapping[str, Any]) -> str | None:
    stated = str(provenance.get("licence") or provenance.get("license") or "unknown")
    return None if stated.lower().startswith(("unknown", "none", "not stated")) else stated


def _temperature(bundle: Bundle) -> str:
    divisor = bundle.decision.temperature
    return "" if divisor == 1 else f"; logits divided by {divisor:g}"


def _uses(provenance: Mapping[str, Any], story: Shipping | None) -> str:
    use = str(provenance.get("intended_use") or "Research on the classification of brain images.")
    return f"It tells apart: {story.tells_apart}. Images: {story.modality}.\n\n{use}" if story else use


def _training(provenance: Mapping[str, Any], story: Shipping | None) -> str:
    parts = [again(story) if story else "", _bullets("Data", provenance.get("data"))]
    if "seed" in provenance:
        parts.append(f"Seed: {provenance['seed']}.")
    if provenance.get("recipe"):
        parts.append(f"Recipe:\n\n```json\n{_json(provenance['recipe'])}\n```")
    return "\n\n".join(part for part in parts if part) or "Not recorded."


def _bullets(title: str, values: Any) -> str:
    """Returns a titled list of a dictionary's plain values, or one line for anything else; empty for nothing."""
    if not values:
        return ""
    if not isinstance(values, Mapping):
        return f"{title}: {values}."
    return f"{title}:\n\n" + "\n".join(f"- {key}: {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation(metrics: Mapping[str, Any]) -> str:
    rows = list(_rows(metrics))
    if not rows:
        return "Nothing has been measured yet. Run `reslink evaluate BUNDLE DATA --out DIR`."
    lines = ["| metric | estimate | 95 % interval | n | method |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {estimate} | {interval} | {n} | {method} |" for name, estimate, interval, n, method in rows]
    return "\n".join([*_cases(metrics), *_leakage(metrics), *lines])


def _leakage(metrics: Mapping[str, Any]) -> list[str]:
    """Returns what the evaluation says of its split and of links to the training images."""
    part = {"test": "The part of the data that was held out from training. "}.get(str(metrics.get("split")), "")
    found = metrics.get("leakage")
    said = f"{found['message']}." if isinstance(found, Mapping) and found.get("message") else ""
    return [f"{part}{said}".strip(), ""] if part or said else []


def _cases(metrics: Mapping[str, Any]) -> list[str]:
    if "n" not in metrics:
        return []
    groups = f" in {metrics['n_groups']} groups (patients, near copies together)" if "n_groups" in metrics else ""
    positive = f" The positive class is `{metrics['positive']}`." if metrics.get("positive") else ""
    return [f"{metrics['n']} images{groups}.{positive}", ""]


def _rows(metrics: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str, str]]:
    """Yields name, estimate, interval, n and method of what was measured, as texts."""
    for name, value in metrics.get("metrics", metrics).items():
        if isinstance(value, Mapping) and value.get("estimate") is not None:
            low, high = value.get("ci_low"), value.get("ci_high")
            interval = "none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            yield name, f"{value['estimate']:.3f}", interval, str(value.get("n", "")), str(value.get("method", ""))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
