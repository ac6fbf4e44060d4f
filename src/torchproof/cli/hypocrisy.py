"""`torchproof hypocrisy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import progress_bar
from torchproof.core.threats import parse
from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.evaluate.hypocrisy import hypocrisy as measure
from torchproof.evaluate.risks import Share

# What an attack found; a stronger one may find more.
_FOUND = ("verification_accuracy", "adversarial_risk", "hypocritical_risk", "stability_risk",
          "stability_risk_on_errors")  # fmt: skip


def hypocrisy(
    model: options.Model,
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255.")],
    data: options.Data = "digits",
    attack: Annotated[
        str | None,
        typer.Option(help="Instead of FGSM, PGD-20 and C&W-100, e.g. 'PGD(100)'; turned around."),
    ] = None,
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/hypocrisy"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Keep the hypocritical images.")
    ] = True,
    every_class: Annotated[
        bool,
        typer.Option(
            "--every-class", help="Also how many errors can be moved to each class, for comparison."
        ),
    ] = False,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Measure how much better a model can be made to look: errors turned into correct answers.

    Writes hypocrisy.json, friends.csv and hypocritical.npz: verification accuracy, hypocritical
    risk and its place beside adversarial and stability risk. A killed run goes on with --resume.
    Exit code 1 says that the result is not complete, that a check of it failed, or that gradients
    were NaN or infinite.
    """
    limits = parse(threat)
    members = None if attack is None else members_of(attack, [limits])
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar("won") as show:
        found = measure(
            loaded.model,
            test,
            limits,
            members,
            seed=seed,
            n=n,
            slots=batch_size,
            out=out,
            resume=resume,
            images=images,
            every_class=every_class,
            max_seconds=max_seconds,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    _show(found.record)
    tell(f"stored in {out}")
    raise typer.Exit(0 if found.record.verdict == "ok" else 1)


def _show(record: HypocrisyRecord) -> None:
    """The risks and a table of attacks."""
    about = f"{escape(record.model)} on {escape(record.data)}, n = {record.n}"
    console.print(f"{about}, threat {record.threat}")
    table = Table("attack", "verification accuracy", "hypocritical risk", "forward", "backward")
    clean = record.risks["clean_accuracy"]
    table.add_row("clean", _text(clean), "", "", "")
    for row in record.attacks:
        accuracy, risk = _text(row.verification_accuracy), _text(row.hypocritical_risk)
        table.add_row(escape(row.name), accuracy, risk, f"{row.forward:,}", f"{row.backward:,}")
    console.print(table)
    for name, share in record.risks.items():
        found = "at least " if name in _FOUND and share.ci95 is not None else ""
        tell(f"{name.replace('_', ' ')}: {found}{_text(share)}, {share.hits} of {share.n}")
    tell(f"the adversary that changed answers: {record.adversary}")
    for number, share in enumerate(record.classes):
        tell(f"errors moved to class {number}: {_text(share)}, {share.hits} of {share.n}")
    for name, holds in record.identities.items():
        tell(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}")
    if record.unfinished or record.unconfirmed:
        tell(f"unfinished: {record.unfinished} examples; unconfirmed: {record.unconfirmed}")
    if record.undefined:
        tell(f"gradients were NaN or infinite, and put to 0, for {record.undefined} examples")


def _text(share: Share) -> str:
    if share.ci95 is None:
        return "–"
    low, high = share.ci95
    return f"{percent(share.value)} ({percent(low)} to {percent(high)})"
