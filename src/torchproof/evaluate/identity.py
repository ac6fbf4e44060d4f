"""Who was asked about what, on which machine: what every ledger and record says in the same way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.masks import Given
from torchproof.attack.regional import Regions
from torchproof.core.fingerprints import model_sha256
from torchproof.core.norms import name_of
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat, Region, eps_text
from torchproof.evaluate.ledger import Header
from torchproof.evaluate.subject import Subject
from torchproof.evaluate.suites import bounded
from torchproof.evaluate.versions import versions


def called(model: Model, name: str | None = None) -> str:
    """The name of a model: the one given, or its own."""
    return name or str(getattr(model, "__name__", type(model).__name__))


def caveats(model: Model) -> list[str]:
    """What is to be said of every evaluation of a model: the `caveat` of the modules in it."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    said = (getattr(module, "caveat", None) for module in modules)
    return list(dict.fromkeys(text for text in said if isinstance(text, str)))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def header(
    subject: Subject, sha256: str | None, name: str | None,
    settings: Mapping[str, Any], about: Mapping[str, Any],
) -> Header:  # fmt: skip
    """The header of a ledger: model, data and machine, and what this kind of run adds to that.

    sha256: of the weights, where it is known; settings: what else decides what the records say;
    about: what does not, the command among it.
    """
    examples = subject.examples
    ids, labels, who = examples.ids.tolist(), examples.y.tolist(), called(subject.model, name)
    digest = sha256 or model_sha256(subject.model)
    identity = {
        "model_sha256": digest,
        "function": None if digest else who,  # all that tells two functions apart
        "data_sha256": examples.sha256,
        "ids": hashlib.sha256(json.dumps([ids, labels]).encode()).hexdigest()[:16],
        "seed": subject.seed,
        "device": subject.device.type,  # which GPU of a machine decides nothing
        "dtype": str(subject.dtype).removeprefix("torch."),
        "versions": versions(),
    }
    told = {"date": now(), "model": who, "data": examples.name}
    return Header({**identity, **settings}, {**told, **about}, ids, labels)


def exact(threat: AnyThreat) -> str:
    """The threat as text, masks as hashes."""
    if isinstance(threat, Region):
        return f"Region({threat.threat!r}, mask={_hashed(threat.mask)})"
    if isinstance(threat, Regions) and isinstance(threat.mask, Given):
        parts = (threat.mask.mask, threat.mask.images)
        shown = ", ".join(_hashed(part) for part in parts if part is not None)
        return f"Regions({threat.threat!r}, Given({shown}))"
    return repr(threat)


def _hashed(values: Tensor) -> str:
    kept = values.to("cpu", torch.uint8 if values.dtype == torch.bool else values.dtype)
    digest = hashlib.sha256(kept.contiguous().numpy().tobytes()).hexdigest()[:16]
    return f"{tuple(values.shape)} {digest}"


def region(threat: AnyThreat) -> str:
    """Where images may change, in words."""
    if not isinstance(threat, Regions) or isinstance(threat.mask, Given):
        return "a region" if isinstance(threat, Region) else "a region of each image"
    return f"the region {threat.mask}"


def threat_entry(threats: Sequence[AnyThreat]) -> dict[str, Any]:
    """The entry `threat` of result.json."""
    balls = [bounded(threat) for threat in threats]
    parts = [{"norm": name_of(b.norm), "eps": b.eps, "eps_text": eps_text(b.eps)} for b in balls]
    if len(parts) == 1:
        return parts[0]
    return {"norm": "union", "eps": None, "eps_text": " + ".join(map(str, balls)), "union": parts}
