"""Yan et al. 2020 (TisODE): a CNN and neural ODEs of the same weights, under noise and attack."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.asides import listening
from torchproof.core.errors import MissingExtra
from torchproof.core.files import write
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import parse
from torchproof.data import Dataset, GaussianNoise, load
from torchproof.nn import load_model
from torchproof.nn.ode import ODEBlock, with_solver
from torchproof.recipes import Comparison, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.ode import NOISE
from torchproof.recipes.small import SETTINGS
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Request, Row, Verdict
from torchproof.reproduce.study import MNIST, Study

IMAGES, FEW, FINER = 500, 50, 4  # test images; those that finer and adaptive steps are tried on
SIGMAS = (100, 150)  # of 255; training noise goes up to 100
TWIN, ODE = "CNN", "ODENet"
CONTROL, OURS, HEAVY = "time-invariant, lam 0", "TisODE, lam 0.1", "TisODE, lam 3"
RATIO, CLEAN, GAIN = 5.0, 0.015, 0.05

# Means of the authors' logs, which agree with the paper's table.
LOGGED = {TWIN: 0.538, ODE: 0.711, OURS: 0.772}
SETTING = "eps 0.3, width 64, 60,000 images, authors' log"


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """The penalty: the integral of |f| falls by RATIO from lam 0 to lam 3, at less than CLEAN of
    clean accuracy. The claim: robust accuracy is GAIN above that of the CNN twin.
    """
    ratio = _steady(lines[CONTROL]) / max(_steady(lines[HEAVY]), 1e-12)
    cost = lines[CONTROL].mean("clean") - lines[HEAVY].mean("clean")
    works = ratio >= RATIO and cost < CLEAN
    gains = {n: lines[n].mean("robust") - lines[TWIN].mean("robust") for n in (ODE, OURS, HEAVY)}
    robust = gains[OURS] >= GAIN
    said = ", ".join(f"{name} {100 * gain:+.1f}" for name, gain in gains.items())
    single = 100 * (lines[OURS].mean("fgsm") - lines[TWIN].mean("fgsm"))
    text = (
        f"the penalty {'does' if works else 'does not do'} what it says: from lam 0 to lam 3 the "
        f"integral of |f| over [T, 2T] falls {ratio:.1f} times, and clean accuracy by "
        f"{100 * cost:.1f} points. Robustness: {'an' if robust else 'no'} advantage over the CNN "
        f"twin under the strong suite ({said} points), where FGSM shows {single:+.1f} for TisODE"
    )
    if ratio < 1 or gains[OURS] <= -GAIN:
        return "contradicts", text
    return ("shows" if works and robust else "does not show at this scale"), text


def _steady(line: Line) -> float:
    """The penalty of the last epoch, the mean over seeds."""
    return statistics.fmean(cell.figures["steady"] for cell in line.cells.values())


def inspected(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """Weak beside strong attacks, noise, the integral of |f|, transfer from the CNN twin, and other
    steps of the same flows; draws speed.png.
    """
    plan = table.rows[TWIN]
    test = load(plan.data, data_dir=request.data_dir, split="test")
    test = test.take(min(IMAGES, len(test)))
    nets = {name: [_network(request, name, seed) for seed in table.seeds] for name in table.rows}
    moved = [_attacked(net, test, str(plan.threat)) for net in nets[TWIN]]
    rows = [row for line in found.lines for row in _beside(line)]
    for name, each in nets.items():
        for sigma in SIGMAS:
            noisy = GaussianNoise((sigma / 255,), p=1.0)
            x = noisy(test.x, keys.mix(0, "noise", torch.arange(len(test))))
            rows.append(_share(f"{name}: Gaussian noise, sigma {sigma}/255", each, x, test.y))
        if name != TWIN:
            rows += _integrals(name, each, test.x)
    others = {**nets, f"{TWIN}, next seed (control)": nets[TWIN][1:] + nets[TWIN][:1]}
    others.pop(TWIN)
    if len(table.seeds) == 1:  # the next seed is the surrogate itself
        others.popitem()
    for name, each in others.items():
        hits = [_right(net, x, test.y) for net, x in zip(each, moved, strict=True)]
        what = f"{name}: PGD-20 images of the {TWIN}"
        rows.append(Row.share(what, hits, [len(test)] * len(hits)))
    write(request.out / "speed.png", _drawn({k: v[0] for k, v in nets.items()}, test.x))
    return (*rows, *_resolved(request, nets, test.take(min(FEW, len(test))), str(plan.threat)))


def _network(request: Request, name: str, seed: int) -> nn.Module:
    path = request.out / "runs" / name / f"seed{seed}" / "last.safetensors"
    return load_model(str(path)).model.eval().requires_grad_(False)


def _beside(line: Line) -> list[Row]:
    """Weak attacks, and what they over-report."""
    cells = list(line.cells.values())
    known = LOGGED.get(line.name)
    fgsm = Row.per_seed(f"{line.name}: FGSM", [c.fgsm for c in cells], cells[0].n)
    fgsm = fgsm.model_copy(update={"published": known, "setting": SETTING if known else ""})
    pgd = Row.per_seed(f"{line.name}: PGD-20", [c.pgd for c in cells], cells[0].n)
    over = [c.fgsm - c.robust for c in cells]
    what = f"{line.name}: FGSM minus the suite"
    return [fgsm, pgd, Row.per_seed(what, over, cells[0].n, least=-1.0)]


def _resolved(
    request: Request, nets: Mapping[str, list[nn.Module]], test: Dataset, threat: str
) -> list[Row]:
    """Clean and PGD-20 accuracy of the flows at the steps they were trained with, at finer ones,
    and, where torchdiffeq is there, with dopri5.
    """
    finer = f"steps of a {FINER}th"
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {
        "steps of the training": lambda net: net,
        finer: lambda net: with_solver(net, h=_step(net) / FINER),
    }
    try:
        with_solver(nets[ODE][0], solver="dopri5")
        ways["dopri5"] = lambda net: with_solver(net, solver="dopri5")
    except MissingExtra as error:
        request.say(f"dopri5 is left out: {error}")
    rows: list[Row] = []
    for name in (ODE, CONTROL, OURS, HEAVY):
        for way, solved in ways.items():
            each = [solved(net) for net in nets[name]]
            hits = [_right(net, _attacked(net, test, threat), test.y) for net in each]
            rows += [
                _share(f"{name}, {way}: clean", each, test.x, test.y),
                Row.share(f"{name}, {way}: PGD-20", hits, [len(test)] * len(hits)),
            ]
    return rows


def _step(net: nn.Module) -> float:
    options = getattr(net, "options", {})
    return float(options["h"])


def _right(net: nn.Module, x: Tensor, y: Tensor) -> int:
    with torch.no_grad():
        logits = torch.cat([net(part) for part in torch.split(x, 128)])
    return int((logits.argmax(1) == y).sum())


def _share(what: str, nets: list[nn.Module], x: Tensor, y: Tensor) -> Row:
    return Row.share(what, [_right(net, x, y) for net in nets], [len(y)] * len(nets))


def _integrals(name: str, nets: list[nn.Module], x: Tensor) -> list[Row]:
    """Behind the answer, where the penalty is; and before it, where a block that has been switched
    off moves as little.
    """
    rows: list[Row] = []
    for words, first in (("[T, 2T]", 1), ("[0, T]", 0)):
        values = [_integral(net, x, first) for net in nets]
        what = f"{name}: integral of mean |f| over {words}"
        rows.append(Row.per_seed(what, values, len(x), unit=""))
    return rows


def _integral(net: nn.Module, x: Tensor, first: int) -> float:
    """Over the window of the length T that starts at `first` T, the mean of images."""
    net = copy.deepcopy(net)
    for block in (m for m in net.modules() if isinstance(m, ODEBlock)):
        block.ss_window = (first * block.t_pred, (first + 1) * block.t_pred)
    with torch.no_grad(), listening() as told:
        for part in torch.split(x, 128):
            net(part)
    return float(torch.cat(told["steady"]).mean())


def _drawn(nets: Mapping[str, nn.Module], x: Tensor) -> bytes:
    """The mean |f| along the flows from 0 to the end of the window, as PNG."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, net in nets.items():
        for block in (m for m in net.modules() if isinstance(m, ODEBlock)):
            seen: list[float] = []
            hook = block.field.register_forward_hook(_noting(seen))
            with torch.no_grad(), listening():
                net(x[:128])
            hook.remove()
            last = max(block.t_pred, block.ss_window[1])
            times = [last * i / len(seen) for i in range(len(seen))]
            axes.plot(times, seen, marker="o", markersize=3, label=name)
            axes.axvline(block.t_pred, color="#8a8f98", linewidth=0.8)
    axes.set_xlabel("t (the line: where the answer is read)")
    axes.set_ylabel("mean |f(z(t))|")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return content(figure)


def _noting(seen: list[float]) -> Callable[[nn.Module, Any, Tensor], None]:
    def note(module: nn.Module, args: Any, slope: Tensor) -> None:
        seen.append(float(slope.abs().mean()))

    return note


def _attacked(net: nn.Module, test: Dataset, threat: str) -> Tensor:
    """The worst images of PGD-20 against `net`."""
    attack = Attack(parse(threat), CrossEntropy(), PGD(20, 0.25))
    value = attack(net, test.x, test.y, run=Run(patience=float("inf"))).value
    assert isinstance(value, Tensor)
    return test.x + value


_SMALL = "width=16, groups=8, readout='flatten'"
_PLAIN: dict[str, object] = {"method": "Standard", "augment": NOISE}
_OWN = {
    **SETTINGS, "epochs": 5, "batch_size": 50, "held_out": 200, "held_out_steps": 2,
    "choose": "clean",
}  # fmt: skip


def _time_invariant(lam: float) -> dict[str, object]:
    method = f"TisODE(Standard(), lam={lam:g}, start=0.05)"
    return {
        **_PLAIN, "model": f"tisode(h=0.25, {_SMALL})", "method": method,
        "paper": {"recipe": "mnist-tisode", "method": method},
    }  # fmt: skip


tisode_study = Study(
    name="tisode",
    paper="Yan et al. 2020, arXiv 1910.05513",
    claim="trained on images with Gaussian noise, a neural ODE withstands attacks better than a "
    "CNN of the same weights, and one that is brought to rest better still",
    rows={
        TWIN: {
            **_PLAIN, "model": f"ode-cnn({_SMALL})",
            "paper": {"recipe": "mnist-odenet", "model": "ode-cnn"},
        },
        ODE: {**_PLAIN, "model": f"odenet(h=0.25, {_SMALL})", "paper": "mnist-odenet"},
        CONTROL: _time_invariant(0),
        OURS: _time_invariant(0.1),
        HEAVY: _time_invariant(3),
    },
    judge=judge,
    base={**MNIST, "threat": "linf:0.1", "n": 4000, "settings": _OWN},
    published={},
    n=300,
    weights="last",
    more=inspected,
)  # fmt: skip
