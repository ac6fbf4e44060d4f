"""The table of networks by name, and `build`, which makes one from it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, TorchproofError, unknown
from torchproof.nn.cnn import SmallCNN
from torchproof.nn.cosine import with_cosine_head
from torchproof.nn.insert import insert_all
from torchproof.nn.lenet import LeNet
from torchproof.nn.mlp import MLP
from torchproof.nn.normalise import Normalise
from torchproof.nn.odenet import ode_cnn, odenet, tisode
from torchproof.nn.preact import preact_resnet18
from torchproof.nn.purified import purified
from torchproof.nn.resnet import resnet, resnet18, resnet34
from torchproof.nn.wide import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small-cnn": SmallCNN,
    "lenet": LeNet,
    "mlp": MLP,
    "ode-cnn": ode_cnn,
    "odenet": odenet,
    "tisode": tisode,
    "preact-resnet18": preact_resnet18,
    "purified": purified,
    "resnet": resnet,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "wide-resnet": WideResNet,
}
"""Name -> (channels, size, classes, **options) -> images, normalised, to logits. A new network is
one row here; the first line of its docstring is what `torchproof list models` prints.
"""

_SHAPE = ("channels", "size", "classes")
_COMMON = ("mean", "std", "seed", "head", "scale", "insert")
Numbers = float | Sequence[float]


class Network(nn.Module):
    """`normalise` and then `net`; remembers the name and the options it was built from.

    Images x (B, C, H, W) in [0, 1] to logits (B, K). `build(self.name, **self.options)` makes the
    same network again with other weights; `options` is ready for JSON.
    """

    def __init__(
        self, name: str, options: dict[str, Any], normalise: Normalise, net: nn.Module
    ) -> None:
        super().__init__()
        self.name, self.options = name, options
        self.normalise, self.net = normalise, net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalise(x))
        return logits


def build(
    name: str,
    *,
    channels: int,
    size: int,
    classes: int,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    seed: int | None = None,
    head: str = "linear",
    scale: float | None = None,
    insert: Mapping[str, str] | None = None,
    **options: Any,
) -> Network:
    """The network `name` of MODELS with fresh weights, on the CPU, in torch's default dtype.

    Takes images (B, channels, size, size) in [0, 1] to logits (B, classes); `mean` and `std`
    (numbers, or one per channel) make its first layer. With `seed` the weights depend on it alone,
    and torch's random state is neither read nor changed; without, they come from torch's random
    state. head="cosine" makes the last layer a `CosineHead`, by default of scale 8. `insert`:
    layer -> block of BLOCKS that is put behind it, such as {"layer2": "NonLocal(form='dot')"}.

    >>> build("small-cnn", channels=1, size=8, classes=10, seed=0)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])

    Raises UnknownName for a name that is not in the table, InputError for an option the network
    does not have or that JSON cannot hold, and for numbers that make no network.
    """
    defaults, shape = options_of(name), {"channels": channels, "size": size, "classes": classes}
    _check_shape(name, shape)
    _check_options(name, options)
    # the defaults too, so that a card still means the same network should they change one day
    last = _head(head, scale)
    extra = {**last, **({"insert": dict(insert)} if insert else {})}
    kept = _jsonable({**shape, "mean": mean, "std": std, **extra, **defaults, **options})
    normalise = _normalise(mean, std, channels)
    try:
        with _seeded(seed), torch.device("cpu"):
            net = MODELS[name](**shape, **options)
            net = with_cosine_head(net, last["scale"]) if last else net
            insert_all(net, insert or {}, torch.zeros(2, channels, size, size))
    except TorchproofError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # torch's own words for, say, width=-1
        remedy = f"see its defaults: {defaults}"
        raise InputError(f"{name} with {options} ({error})", "a network", remedy) from error
    return Network(name, kept, normalise, net)


def options_of(name: str) -> dict[str, Any]:
    """The options of the network `name` with their defaults; raises UnknownName."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    found = inspect.signature(MODELS[name]).parameters.values()
    return {p.name: p.default for p in found if p.name not in _SHAPE}


def _head(head: str, scale: float | None) -> dict[str, Any]:
    """What a card says of the last layer: nothing of a linear one."""
    if head == "cosine":
        return {"head": head, "scale": 8.0 if scale is None else scale}
    if head != "linear":
        raise unknown("head", str(head), ("linear", "cosine"))
    if scale is not None:
        remedy = "write head='cosine', or leave the scale out"
        raise InputError(f"scale={scale!r} of a linear head", "a cosine head", remedy)
    return {}


def _check_shape(name: str, shape: dict[str, int]) -> None:
    for word, number in shape.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            remedy = f"give the {word} of the data as an integer"
            raise InputError(f"{word}={number!r} for {name}", "a positive integer", remedy)


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = options_of(name)
    if strange := sorted(set(options) - set(known)):
        expected = f"options among {', '.join([*known, *_COMMON])}"
        raise InputError(f"{name}({', '.join(strange)}=...)", expected, "check the spelling")


def _jsonable(options: dict[str, Any]) -> dict[str, Any]:
    """The options as a card will give them back; raises InputError where JSON cannot hold them."""
    try:
        kept: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        remedy = "give finite numbers, words and lists of them"
        raise InputError(f"options {options!r} ({error})", "what JSON can hold", remedy) from error
    return kept


def _normalise(mean: Numbers, std: Numbers, channels: int) -> Normalise:
    """The first layer with one number per channel, so that weights from elsewhere find their
    places.
    """
    layer = Normalise(mean, std)
    if (given := max(layer.mean.numel(), layer.std.numel())) not in (1, channels):
        remedy = "give one number, or one per channel"
        raise InputError(f"mean and std of {given} numbers", f"1 or {channels}", remedy)
    layer.mean = layer.mean.repeat(1, channels // layer.mean.numel(), 1, 1)
    layer.std = layer.std.repeat(1, channels // layer.std.numel(), 1, 1)
    return layer


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Torch's CPU generator started from `seed`, and given back as it was; with None, itself.

    Only that generator is seeded: `torch.manual_seed` would restart those of every accelerator too.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
