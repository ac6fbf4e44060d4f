"""`torchproof certify`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from torchproof.cli import options, several
from torchproof.cli.inputs import network_and_data, threats_of
from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import progress_bar
from torchproof.core.errors import InputError, unknown
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.evaluate import together
from torchproof.evaluate.certified import Certificates
from torchproof.evaluate.certified import certify as prove
from torchproof.report.certificates_sheet import certificates_sheet
from torchproof.report.sheet import write_sheet
from torchproof.verify.memory import memory as limited
from torchproof.verify.methods import SECONDS
from torchproof.verify.sound.proof import METHODS, write_proof


def certify(
    model: options.Model,
    threat: options.Threats,
    data: options.Data = "digits",
    method: Annotated[
        str,
        typer.Option(
            help="best: all that propagate bounds; cascade: until a search decides; or any of "
            "`torchproof list verifiers`."
        ),
    ] = "best",
    timeout: Annotated[float, typer.Option(help="Seconds for each image.")] = SECONDS,
    n: options.First = None,
    batch_size: options.Slots = 16,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/certify"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    sound: Annotated[
        bool,
        typer.Option(
            help="Take off what float64 may have lost, for the methods and operations where that "
            "is known."
        ),
    ] = True,
    proof: Annotated[
        bool,
        typer.Option(
            "--proof",
            help="Also write proof.json, which `torchproof check-certificate` replays: for ibp, "
            "crown-ibp, fast-lin, crown, alpha-crown, alpha-crown-full, best, bab, on chains of "
            "dense and convolutional layers.",
        ),
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(help="GiB that bounds may hold; what does not fit is undecided.", min=0.01),
    ] = None,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Prove for which test images no allowed perturbation changes the answer.

    Writes result.json, with the least bound of the margins of every image, and report.html. A
    killed run goes on with --resume, and several processes share one: `torchrun --nproc-per-node 4
    -m torchproof certify ...` (with --first instead of --n). What is not certified is broken, where
    branch and bound met a counterexample, or undecided: `torchproof evaluate --verifier METHOD`
    attacks it.
    """
    threats = threats_of(threat)
    if len(threats) > 1:
        raise InputError(f"{len(threats)} threats", "one threat", "certify each on its own")
    if proof and method not in METHODS:
        raise unknown("method of a proof", method, METHODS)
    place = several.local(device)
    loaded, test = network_and_data(model, data, data_dir, str(place))
    one = partial(
        _prove, memory, loaded.model, test, threats[0], method, n=n, slots=batch_size, sound=sound,
        timeout=timeout, name=loaded.name, data_name=f"{data} (test)", model_sha256=loaded.sha256,
        data_sha256=test.sha256, command=options.command_line(),
    )  # fmt: skip
    if several.started() > 1:
        several.begin(out, len(test.y) if n is None else min(n, len(test.y)), place, resume)
        found = _together(one, out, max_seconds)
    else:
        with progress_bar() as show:
            found = one(out=out, resume=resume, max_seconds=max_seconds, progress=show)
    if proof:
        _write(out / "proof.json", found, loaded.model, test, threats[0])
    _show(found, out)


def _prove(memory: float | None, *given: Any, **more: Any) -> Certificates:
    """Certificates, of bounds that hold no more than so many GiB."""
    with limited(None if memory is None else memory * 2**30):
        return prove(*given, **more)


def _together(
    one: Callable[..., Certificates], out: Path, max_seconds: float | None
) -> Certificates:
    """This process's share of the parts; what all proved for the process that puts them together,
    the others leave.
    """
    rest, found = together.left(max_seconds), []

    def part(shard: str, folder: Path) -> bool:
        proved = one(out=folder, resume=True, shard=shard, max_seconds=rest())
        return all(row.status != "unfinished" for row in proved.examples)

    if not together.work(out, part, together.over(rest)):
        raise several.unfinished(out)

    def whole(parts: Sequence[Path]) -> None:
        found.append(one(out=out, resume=True, known=parts))

    if not together.finish(out, whole, out / Certificates.file):
        raise several.concluded(out)
    return found[0]


def _write(path: Path, found: Certificates, model: nn.Module, test: Dataset, about: Threat) -> None:
    """The proof of what is certified."""
    sure = [row.id for row in found.examples if row.status == "certified"]
    if not sure:
        tell("nothing is certified: no proof")
        return
    x, y = (t[sure].to(next(model.parameters()).device) for t in (test.x, test.y))
    kept = write_proof(path, model, x, y, about, found.method, sure)
    tell(f"proof of {len(kept)} of {len(sure)} certificates: {path}")


def _show(found: Certificates, out: Path) -> None:
    count = {status: sum(row.status == status for row in found.examples) for status in
             ("certified", "broken", "undecided", "wrong", "unfinished")}  # fmt: skip
    low, high = found.certified_accuracy_ci95
    about = f"{found.threat['norm']} {found.threat['eps_text']}, n = {found.n}, {found.method}"
    console.print(
        f"[bold]certified accuracy {percent(found.certified_accuracy)}[/bold] "
        f"(95 % interval {percent(low)} to {percent(high)}), {about}"
    )
    told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    tell(f"{told}; clean accuracy {percent(found.clean_accuracy)}")
    tell(f"assumes: {found.assumptions}")
    tell(f"report: {write_sheet(certificates_sheet(found), out / 'report.html')}")
    raise typer.Exit(1 if count["unfinished"] else 0)
