"""`torchproof certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchproof.cli import options
from torchproof.cli.inputs import network_and_data, threats_of
from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import progress_bar
from torchproof.core.errors import InputError
from torchproof.evaluate.certified import Certificates
from torchproof.evaluate.certified import certify as prove


def certify(
    model: options.Model,
    threat: options.Threats,
    data: options.Data = "digits",
    method: Annotated[
        str,
        typer.Option(
            help="ibp, crown-ibp, fast-lin, crown, best: all of these; alpha-crown, "
            "alpha-crown-full; lp, milp."
        ),
    ] = "best",
    n: options.First = None,
    batch_size: options.Slots = 16,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/certify"
    ),
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Prove for which test images no allowed perturbation changes the answer.

    Writes result.json, with the least bound of the margins of every image. A killed run goes on
    with --resume. What is not certified is undecided: `torchproof evaluate --verifier METHOD`
    attacks it.
    """
    threats = threats_of(threat)
    if len(threats) > 1:
        raise InputError(f"{len(threats)} threats", "one threat", "certify each on its own")
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar() as show:
        found = prove(
            loaded.model, test, threats[0], method, n=n, slots=batch_size, out=out, resume=resume,
            max_seconds=max_seconds, progress=show, name=loaded.name, data_name=f"{data} (test)",
            model_sha256=loaded.sha256, data_sha256=test.sha256, command=options.command_line(),
        )  # fmt: skip
    _show(found, out)


def _show(found: Certificates, out: Path) -> None:
    count = {status: sum(row.status == status for row in found.examples) for status in
             ("certified", "undecided", "wrong", "unfinished")}  # fmt: skip
    low, high = found.certified_accuracy_ci95
    about = f"{found.threat['norm']} {found.threat['eps_text']}, n = {found.n}, {found.method}"
    console.print(
        f"[bold]certified accuracy {percent(found.certified_accuracy)}[/bold] "
        f"(95 % interval {percent(low)} to {percent(high)}), {about}"
    )
    told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    tell(f"{told}; clean accuracy {percent(found.clean_accuracy)}")
    tell(f"assumes: {found.assumptions}")
    tell(f"result: {out / found.file}")
    raise typer.Exit(1 if count["unfinished"] else 0)
