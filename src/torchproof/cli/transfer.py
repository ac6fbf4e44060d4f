"""`torchproof transfer`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated

import typer
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from torchproof.cli import options
from torchproof.cli.inputs import members_of, network_and_data
from torchproof.cli.options import console, percent, tell
from torchproof.core.errors import InputError
from torchproof.core.threats import parse as parse_threat
from torchproof.data.dataset import Dataset
from torchproof.evaluate.transfer import Cell, Transfer
from torchproof.evaluate.transfer import transfer as measure
from torchproof.nn.loading import Loaded


def transfer(
    models: Annotated[list[str], typer.Argument(help="Two or more models, see `evaluate`.")],
    threat: Annotated[str, typer.Option(help="NORM:EPS, such as linf:8/255.")],
    data: options.Data = "digits",
    attack: Annotated[str, typer.Option(help="E.g. 'TI(DI(VMI-FGSM), 5)'.")] = "MI-FGSM",
    n: options.First = None,
    batch_size: options.Slots = 128,
    out: Annotated[Path, typer.Option(help="The folder for the matrix.")] = Path("runs/transfer"),
    seed: options.Seed = 0,
    device: options.Device = None,
    data_dir: options.DataDir = None,
) -> None:
    """Make adversarial images on each model and show them to all: the model-by-model matrix.

    A cell is the share of images, of those that both models classify correctly, that fool the
    victim (column) when made on the source (row); the diagonal is the white-box attack. Writes
    transfer.json and transfer.csv. Of gradient attacks the last iterate is judged.
    """
    limits = parse_threat(threat)
    members = members_of(attack, [limits])
    if len(members) > 1:
        raise InputError(f"--attack {attack}, a chain", "one attack", "leave out Chain(...)")
    loaded, test = _loaded(models, data, data_dir, device, n)
    with console.status("") as status:
        found = measure(
            {name: network.model for name, network in loaded.items()},
            test,
            members[0].attack,
            seed=seed,
            slots=batch_size,
            data_name=f"{data} (test)",
            progress=lambda text: status.update(escape(text)),
        )
    found.save(out)
    _show(found)
    tell(f"matrix: {out}")


def _loaded(
    texts: list[str], data: str, data_dir: Path | None, device: str | None, n: int | None
) -> tuple[dict[str, Loaded], Dataset]:
    """The networks by name, the name being what was given where two are called alike."""
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice or len(texts) < 2:
        given = f"the model {twice[0]} twice" if twice else f"{len(texts)} model"
        raise InputError(given, "two or more different models", "name each model once")
    pairs = [network_and_data(text, data, data_dir, device, n) for text in texts]
    names = [network.name for network, _ in pairs]
    chosen = [t if names.count(name) > 1 else name for t, name in zip(texts, names, strict=True)]
    networks = [network for network, _ in pairs]
    return dict(zip(chosen, networks, strict=True)), pairs[0][1]


def _written(cell: Cell) -> str:
    low, high = (f"{100 * bound:.0f}" for bound in cell.ci95)
    return f"{100 * cell.rate:.1f} [{low}, {high}] n={cell.n}" if cell.rate is not None else "– n=0"


def _letters(count: int) -> list[str]:
    """A, B, ... Z, AA, ...: names of models are too long for a table."""
    every = (a + b for a in ["", *ascii_uppercase] for b in ascii_uppercase)
    return list(islice(every, count))


def _show(found: Transfer) -> None:
    about, letters = found.about, _letters(len(found.models))
    tell(f"{about['attack']} on {about['data']}, n = {about['n']}, threat {about['threat']}")
    tell(f"judged is {about['kept']}; images that source and victim classify correctly")
    for letter, name, clean in zip(letters, found.models, found.clean, strict=True):
        tell(f"{letter}: {name}, {clean} of {about['n']} correct")
    table = Table(title="fooled, %, with 95 % interval: made on (row), shown to (column)")
    for letter in ("", *letters):
        table.add_column(letter, justify="right", no_wrap=True)
    for letter, row in zip(letters, found.cells, strict=True):
        table.add_row(letter, *(escape(_written(cell)) for cell in row))
    wide = console.options.update(max_width=1000)
    if Measurement.get(console, wide, table).maximum <= console.width:
        console.print(table)
    else:  # a table squeezed into fewer columns would break its numbers
        for source, row in zip(letters, found.cells, strict=True):
            for victim, cell in zip(letters, row, strict=True):
                tell(f"{source} -> {victim}: {_written(cell)}")
    tell(f"mean between different models: {percent(found.mean)}")
    for letter, missed in zip(letters, found.missed, strict=True):
        if missed:
            tell(
                f"note: {letter} is fooled by {missed} transferred images whose own white-box "
                "attack failed: use a stronger attack, or suspect masked gradients"
            )
