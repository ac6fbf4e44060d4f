"""An evaluation in the form of RobustBench's model_info files (Croce et al. 2021), for its tools.

Only what is known is filled in, null otherwise. Our robust accuracy stands under `external`, where
RobustBench keeps figures that AutoAttack did not give, and the footnote says what it is;
`autoattack_acc` is for AutoAttack's own figure, which the caller has to bring.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write, writing

if TYPE_CHECKING:
    from torchproof.evaluate.record import Result

FOLDER = "model_info"
_THREATS = {"linf": "Linf", "l2": "L2"}
_NAMED = re.compile(r"[\w.+-]+")


def model_info(
    result: Result, *, dataset: str | None = None, architecture: str | None = None,
    link: str | None = None, name: str | None = None, authors: str | None = None,
    venue: str | None = None, additional_data: bool | None = None,
    number_forward_passes: int | None = None, reported: float | None = None,
    autoattack_acc: float | None = None, footnote: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The entry of one model under one threat, fields and their order as RobustBench has them.

    dataset: such as cifar10, by default that of the evaluation; name, authors, venue, link: of the
    paper; reported: the robust accuracy that the paper claims; autoattack_acc: AutoAttack's own
    (both fractions of 1). Accuracies are strings in percent with two decimals, eps is a text such
    as "8/255".

    Raises InputError for a result that RobustBench has no place for: another threat than one ball
    of Linf or L2, a region, another box, a part of the examples, a target, a model
    that may reject.
    """
    _check(result)
    about = footnote and footnote.strip().rstrip(".") + ". "
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": number_forward_passes,
        "dataset": dataset or _dataset(result),
        "venue": venue,
        "architecture": architecture,
        "eps": result.threat.eps_text,
        "clean_acc": _percent(result.clean_accuracy, "clean_acc"),
        "reported": None if reported is None else _percent(reported, "reported"),
        "autoattack_acc": None
        if autoattack_acc is None
        else _percent(autoattack_acc, "autoattack_acc"),
        "external": _percent(result.robust_accuracy, "external"),
        "footnote": f"{about or ''}{_source(result)}",
        "unreliable": result.verdict != "ok",
    }


def write_model_info(folder: Path | str, model_name: str, result: Result, **fields: Any) -> Path:
    """Writes `model_info` to folder/model_info/DATASET/THREAT/MODEL_NAME.json and returns the path.

    As RobustBench does, values that are null here are left as an existing file has them. Raises
    InputError, and FileError for a file that is there and cannot be read.
    """
    if not _NAMED.fullmatch(model_name):
        given = f"the model name {model_name!r}"
        raise InputError(given, "letters, digits, and . + - _", "write it like Rice2020Overfitting")
    info = model_info(result, **fields)
    place = Path(folder) / FOLDER / info["dataset"] / _THREATS[result.threat.norm]
    path: Path = place / f"{model_name}.json"
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    old = _existing(path)
    merged = old | {k: v for k, v in info.items() if v is not None or k not in old}
    write(path, json.dumps(merged, indent=2, ensure_ascii=False).encode() + b"\n")
    return path


def _existing(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "restore or delete it"
        raise FileError(f"{path} ({error})", "a model_info file", remedy) from error
    if not isinstance(found, dict):
        raise FileError(f"{path}, no table", "a model_info file", "restore or delete it")
    return found


def _check(result: Result) -> None:
    threat, expected = result.threat, "one threat of Linf or L2 on all examples of the evaluation"
    if threat.norm not in _THREATS:
        given = f"an evaluation under {threat.norm} {threat.eps_text}"
        raise InputError(given, expected, "evaluate under one of them")
    partial = ("shard ", "changes confined", "inputs confined", "targeted at", "broken means")
    narrow = [label for label in result.labels if label.startswith(partial)]
    if narrow:
        raise InputError(f"an evaluation with {narrow[0]}", expected, "evaluate without that")
    if any(flag.name == "unfinished" for flag in result.flags):
        raise InputError("an evaluation that was stopped", expected, "finish it with resume=True")


def _dataset(result: Result) -> str:
    """The name as RobustBench writes it."""
    name = re.sub(r" \(.*\)$", "", result.data)
    if not _NAMED.fullmatch(name):
        given = f"the data set {result.data!r}"
        raise InputError(given, "a name such as cifar10", "pass dataset=")
    return name


def _percent(accuracy: float, what: str) -> str:
    if isinstance(accuracy, bool) or not 0 <= accuracy <= 1:
        raise InputError(f"{what} = {accuracy!r}", "a fraction from 0 to 1", "write 0.5342")
    return f"{100 * accuracy:.2f}"


def _source(result: Result) -> str:
    """Whose figure `external` is, in a sentence."""
    version = result.versions.get("torchproof", "source")
    bits = ", 8-bit images only" if result.quantised else ""
    return (
        f"External robust accuracy by torchproof {version}, suite {result.suite}, {result.n} "
        f"examples of {result.data}, seed {result.seed}{bits}: an upper bound. "
        "Not AutoAttack's own run."
    )
