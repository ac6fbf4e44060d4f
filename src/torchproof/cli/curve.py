"""`torchproof curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from torchproof.attack.combine import Attack
from torchproof.attack.minimum import Unlimited
from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.cli.show import progress_bar
from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import NORMS, Norm
from torchproof.core.threats import eps_text, parse
from torchproof.evaluate.curve import CurveRecord, robustness_curve
from torchproof.report.robustness_curves import draw_curves

PICTURE = "curve.png"


def curve(
    model: options.Model,
    norm: Annotated[str, typer.Option(help="linf, l2, l1 or l0.")],
    data: options.Data = "digits",
    attack: Annotated[
        str | None,
        typer.Option(
            help="A minimum-norm attack instead of FMN towards 4 classes, e.g. 'FAB-T(100)'."
        ),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="An eps, such as 8/255, to check with --suite; several may be given."),
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Check nowhere; by default at three eps.")
    ] = False,
    suite: Annotated[str, typer.Option(help="What checks; see `torchproof list suites`.")] = "fast",
    max_eps: Annotated[
        str | None, typer.Option(help="Where the curve ends, such as 16/255.")
    ] = None,
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="Where the ledger and the result go.")] = Path(
        "runs/curve"
    ),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
    resume: options.Resume = False,
    max_seconds: options.MaxSeconds = None,
) -> None:
    """Measure accuracy against eps, at every eps at once, from one minimum-norm attack.

    Writes curve.json, distances.csv (the nearest adversarial image of each example) and curve.png.
    Attacks at a few fixed eps check the curve, and correct it where they break more. A killed run
    goes on with --resume, which may also check other eps. Exit code 1 says that the result should
    not be believed, or is not complete.
    """
    wanted = _norm(norm)
    if no_check and check:
        raise InputError("--check with --no-check", "one of them", "leave out --no-check")
    eps = None if check is None else [_eps(norm, text) for text in check]
    loaded, test = network_and_data(model, data, data_dir, device)
    with progress_bar("found or broken") as show:
        found = robustness_curve(
            loaded.model,
            test,
            wanted,
            None if attack is None else _attack(attack, wanted),
            [] if no_check else eps or None,
            suite=suite,
            max_eps=None if max_eps is None else _eps(norm, max_eps),
            seed=seed,
            n=n,
            slots=batch_size,
            out=out,
            resume=resume,
            max_seconds=max_seconds,
            progress=show,
            name=loaded.name,
            data_name=f"{data} (test)",
            model_sha256=loaded.sha256,
            data_sha256=test.sha256,
            command=options.command_line(),
        )
    draw_curves([found.record], out / PICTURE)
    _show(found.record)
    tell(f"curve: {out / PICTURE}")
    raise typer.Exit(0 if found.record.verdict == "ok" else 1)


def _norm(text: str) -> Norm:
    if text.lower() not in NORMS:
        raise unknown("norm", text, NORMS)
    return NORMS[text.lower()]


def _eps(norm: str, text: str) -> float:
    return parse(f"{norm}:{text}").eps


def _attack(text: str, norm: Norm) -> Attack:
    """The minimum-norm attack that an expression describes; raises InputError for a chain."""
    endless: Any = Unlimited(norm)
    members = members_of(text, [endless])
    if len(members) > 1:
        raise InputError(f"--attack {text}, a chain", "one attack", "leave out Chain(...)")
    return members[0].attack


def _show(record: CurveRecord) -> None:
    """A few points of the curve, then the flags."""
    about = f"{escape(record.model)} on {escape(record.data)}, n = {record.n}"
    console.print(f"{about}, {record.norm}, by {escape(record.attack)}")
    table = Table("eps", "accuracy", "95 % band", "checked by", "which left", "broke more")
    checks = {check.eps: check for check in record.checks}
    for eps in sorted({0.0, record.max_eps, *checks}):
        row = max(i for i, at in enumerate(record.curve.eps) if at <= eps or i == 0)
        low, high = record.curve.low[row], record.curve.high[row]
        cells = [percent(record.curve.accuracy[row]), f"{percent(low)} to {percent(high)}"]
        if eps in checks:
            check = checks[eps]
            cells += [check.suite, percent(check.accuracy), str(len(check.lowered))]
        table.add_row(eps_text(eps) if eps else "0", *cells)
    console.print(table)
    median = record.median_distance
    tell(f"median distance of correct examples: {'–' if median is None else f'{median:.6g}'}")
    tell(
        f"minimum-norm attack: {record.forward:,} forward, {record.backward:,} backward, "
        f"{record.seconds:.1f} s; verdict: {record.verdict}"
    )
    for flag in record.flags:
        console.print(f"{flag.severity}: {escape(flag.name)}: {escape(flag.evidence)}")
