"""What each diagnostic found, in a sentence."""

from __future__ import annotations

import math

from torchproof.backdoor.titrate import Titration
from torchproof.diagnose.flatness import Flatness
from torchproof.diagnose.generalisation import Complexity
from torchproof.diagnose.landscape import Landscapes, Plane
from torchproof.diagnose.lipschitz import Layers, LipschitzCurve
from torchproof.diagnose.prunability import Prunability, Prunings
from torchproof.diagnose.tail_index import TailIndex, TailTrack


def _noted(notes: tuple[str, ...]) -> str:
    return "".join(f"; {note}" for note in notes)


def read_flatness(found: Flatness) -> str:
    assert found.average is not None and found.worst is not None and found.spread is not None
    return (
        f"moved at random by {found.average_xi:g} of its weights' lengths, the robust loss rises "
        f"by {found.average:.3f} nats (draws spread by {found.spread:.3f}); in the worst direction "
        f"of {found.worst_xi:g}, by {found.worst:.3f}; unmoved it is {found.reference:.3f}. Lower "
        f"is flatter{_noted(found.notes)}"
    )


def read_landscapes(found: Landscapes) -> str:
    return (
        "along random directions as long as the filters, the mean of the loss is above its least "
        f"by {found.clean.rise:.3f} nats (clean) and {found.robust.rise:.3f} (attacked); along the "
        f"worst ones, a tenth as far, by {found.clean_worst.rise:.3f} and "
        f"{found.robust_worst.rise:.3f}; {found.n} images{_noted(found.notes)}"
    )


def read_plane(found: Plane) -> str:
    middle = min(range(len(found.radii)), key=lambda i: abs(found.radii[i]))
    first, second = (max(rows) for rows in (
        [row[middle] for row in found.losses], found.losses[middle]
    ))  # fmt: skip
    whole = max(max(row) for row in found.losses)
    return (
        f"from {found.losses[middle][middle]:.3f} nats at the network itself, the attacked loss "
        f"rises to {first:.3f} within {max(found.radii):g} along a {found.axes[0]} direction (in "
        f"lengths of the filters), to {second:.3f} along the {found.axes[1]} one (in lengths of "
        f"the tensors), and to {whole:.3f} on the plane of both"
    )


def read_tails(found: TailIndex) -> str:
    own = found.overall
    word = "supported" if own.heavy_tailed else "not supported"
    why = f" ({'; '.join(own.because)})" if own.because else ""
    zeros = ""
    if own.zeros > 0:
        zeros = (
            f" ({_share(own.zeros)} of the numbers are exactly zero, which alone lowers it; "
            f"without them {own.filtered.alpha:.2f})"
        )
    return (
        f"in batches of {found.batch_size} the paper's estimator reads alpha = "
        f"{own.pooled.alpha:.2f}{zeros}; on Gaussian noise with the same covariance"
        f"{' and no zeros' if zeros else ''} it reads {own.correlated.alpha:.2f}, and each "
        f"coordinate by itself {own.per_coordinate.alpha:.2f}: a heavy tail is {word}{why}"
    )


def _share(value: float) -> str:
    return "less than 0.1 %" if value < 0.001 else f"{100 * value:.1f} %"


def read_track(found: TailTrack) -> str:
    silent = f"; at steps {', '.join(map(str, found.silent))} all gradients were 0"
    silent = silent if found.silent else ""
    if not found.steps:
        return f"no noise at any of the checkpoints{silent}"
    first, last = found.tails[0], found.tails[-1]
    heavy = sum(tails.heavy_tailed for tails in found.tails)
    zeros = ""
    if first.zeros > 0 or last.zeros > 0:
        zeros = (
            f" (from {_share(first.zeros)} to {_share(last.zeros)} of the numbers are exactly "
            "zero, which alone lowers it; without them it goes from "
            f"{first.filtered.alpha:.2f} to {last.filtered.alpha:.2f})"
        )
    return (
        f"from step {found.steps[0]} to {found.steps[-1]} the paper's estimator goes from alpha = "
        f"{first.pooled.alpha:.2f} to {last.pooled.alpha:.2f}{zeros}, on Gaussian noise with the "
        f"same covariance{' and no zeros' if zeros else ''} from {first.correlated.alpha:.2f} to "
        f"{last.correlated.alpha:.2f}, and each coordinate by itself from "
        f"{first.per_coordinate.alpha:.2f} to {last.per_coordinate.alpha:.2f}; a heavy tail is "
        f"supported at {heavy} of {len(found.steps)} checkpoints{silent}"
    )


def read_prunability(found: Prunability) -> str:
    warned = f"; {'; '.join(found.warnings)}" if found.warnings else ""
    return (
        f"keeping the largest {100 * found.fraction:.0f} % of {found.parameters:,} weights leaves "
        f"the training loss within {100 * found.beta:.0f} % and {found.slack:g} nats of "
        f"{found.loss:.3f}; to be compared among networks trained to one loss{warned}"
    )


def read_prunings(found: Prunings) -> str:
    words = {
        "magnitude": "of the largest",
        "normalised": "of the largest in units of their tensor",
        "random": "drawn evenly",
        "perturbation": "where none is pruned, but noise as long is added",
    }
    each = ", ".join(f"{100 * c.fraction:.0f} % {words[c.by]}" for c in found.curves)
    return (
        f"the least that can be kept: {each}; {found.curves[0].n} training images. To be compared "
        "among networks trained to one loss"
    )


def read_baselines(found: Complexity) -> str:
    each = ", ".join(
        f"{name} {value:,.0f}" if value >= 1e4 else f"{name} {value:.4g}"
        for name, value in found.measures.items()
    )
    left = f"; batch normalisation left in place: {', '.join(found.left)}" if found.left else ""
    return (
        f"{each}; more is taken to generalise worse, among networks trained to one loss (here "
        f"{found.loss:.3f} nats){left}"
    )


def read_lipschitz(found: LipschitzCurve) -> str:
    low, noise = found.attacked_so_far[-1], found.sampled_so_far[-1]
    above = "; no bound is known for these operations"
    if found.bound:
        above = f", and at most {found.bound[-1]:.3g} times (certified)"
    return (
        f"within L2 {found.radii[-1]:g}, the {found.output} changes by at least {low:.3g} times "
        f"the change of the input (gradient ascent; random noise finds {noise:.3g}){above}"
    )


def read_layers(found: Layers) -> str:
    steepest = max(found.chain, key=lambda layer: layer.attacked)
    bounds = [layer.bound for layer in found.chain if layer.bound is not None]
    above = "some have operations without a known bound"
    if found.omitted:
        above = (
            f"left out, so that there is no product for the network: {', '.join(found.omitted)} "
            "(not named, or not run once on one tensor)"
        )
    elif len(bounds) == len(found.chain):
        above = (
            f"their bounds multiply to {math.prod(bounds):.3g}, which bounds the network where "
            "they follow one another and nothing between them stretches"
        )
    return (
        f"of {len(found.chain)} layer{'s' * (len(found.chain) > 1)} {steepest.name} is the "
        "steepest: its answer changes by at "
        f"least {steepest.attacked:.3g} times the change of what it reads, near {found.n} images; "
        f"{above}"
    )


def read_titration(found: Titration) -> str:
    half = "at no noise measured are half of the answers confidently others"
    if found.sigma_50 is not None:
        half = f"half of the answers are confidently others at noise of {found.sigma_50:.2g}"
    target = found.target()
    if target is None:
        return (
            f"{half}; at moderate noise no answer changes with confidence, so that it leads to no "
            "class and there is nothing to read of a backdoor"
        )
    return (
        f"{half}; those at moderate noise are most often class {target}. Whether that is a "
        "backdoor, only networks of the same kind can tell: see torchproof scan"
    )
