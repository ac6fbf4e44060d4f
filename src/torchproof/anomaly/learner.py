"""One epoch of an autoencoder with a weight per image, plain or adversarial, and its state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchproof.anomaly.networks import Architecture
from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import mix, normal, permutation


@dataclass(frozen=True)
class Setting:
    """How an autoencoder is made and trained. adversarial: its latents are drawn towards the prior
    N(0, I) by a critic (Makhzani et al. 2015). lr: of Adam, for all networks; batch size and
    learning rate of Beggel et al. 2019 are not known.
    """

    architecture: Architecture = Architecture()
    adversarial: bool = False
    batch_size: int = 128
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 2 or not 0 < self.lr < float("inf"):
            given = f"batch_size {self.batch_size}, lr {self.lr:g}"
            raise InputError(given, "at least 2, and a number above 0", "choose others")


class Learner:
    """The networks and their optimisers, and how many epochs they have seen.

    Rows of weight 0 take no part at all, not even in batch norm. Rows of negative weight are made
    worse to reconstruct; for the critic their weight counts as 0 (our reading: its loss has no
    bound).
    """

    def __init__(
        self, setting: Setting, shape: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.setting, self.shape, self.epochs = setting, shape, 0
        how = setting.architecture
        self.network = how.build(shape, setting.seed).to(device)
        self.critic = how.critic(setting.seed).to(device) if setting.adversarial else None
        adam = torch.optim.Adam
        self.optimisers = {"both": adam(self.network.parameters(), setting.lr)}
        if self.critic is not None:
            self.optimisers["critic"] = adam(self.critic.parameters(), setting.lr)
            self.optimisers["encoder"] = adam(self.network.encoder.parameters(), setting.lr)

    def epoch(self, x: Tensor, weights: Tensor) -> float:
        """One pass over the images x (N, C, H, W) of weight (N,) other than 0, in a keyed order;
        the mean weighted loss. Raises InputError where fewer than 2 images are left, ModelError for
        a loss that is not finite.
        """
        self.network.train()
        total, count = 0.0, 0
        for rows in self._batches(weights):
            total += self._step(x[rows], weights[rows]) * len(rows)
            if self.critic is not None:
                self._impose(x[rows], weights[rows].clamp(min=0), rows)
            count += len(rows)
        self.epochs += 1
        return total / count

    def _batches(self, weights: Tensor) -> Iterator[Tensor]:
        """Rows in batches of nearly one size: batch norm cannot do with a single image."""
        rows = weights.nonzero()[:, 0]
        if len(rows) < 2:
            given = f"{len(rows)} images of weight other than 0"
            raise InputError(given, "2 or more", "reject fewer images")
        order = permutation(len(rows), self.setting.seed, "order", self.epochs)
        shuffled = rows[order.to(rows.device)]
        parts = -(-len(rows) // self.setting.batch_size)
        yield from shuffled.tensor_split(max(1, min(parts, len(rows) // 2)))

    def _step(self, x: Tensor, weights: Tensor) -> float:
        """On the weighted squared error, mean over pixels and images."""
        loss = (weights * (self.network(x) - x).square().flatten(1).mean(1)).mean()
        if not bool(loss.isfinite()):
            remedy = "lower the learning rate"
            raise ModelError(f"a loss of {float(loss.detach())}", "a finite loss", remedy)
        self._descend("both", loss)
        return float(loss.detach())

    def _impose(self, x: Tensor, weights: Tensor, rows: Tensor) -> None:
        """The critic learns to tell latents from the prior, then the encoder to deceive it."""
        assert self.critic is not None
        z = self.network.encode(x).detach()
        key = mix(self.setting.seed, "prior", rows)
        prior = normal(key, self.epochs, (z.shape[1],), dtype=z.dtype)
        logits = softplus(-self.critic(prior)) + softplus(self.critic(z))
        self._descend("critic", (weights * logits).mean())
        deceived = softplus(-self.critic(self.network.encode(x)))
        self._descend("encoder", (weights * deceived).mean())

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers[name].step()

    def state(self) -> dict[str, Tensor]:
        """Everything that training depends on, as copies on the CPU; random numbers are keyed by
        epoch and have no state.
        """
        found = {
            f"{part}.{name}": tensor
            for part, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        for name, optimiser in self.optimisers.items():
            for number, values in optimiser.state_dict()["state"].items():
                found |= {f"adam-{name}.{number}.{k}": v for k, v in values.items()}
        found["epochs"] = torch.tensor(self.epochs)
        return {name: t.detach().cpu().clone().contiguous() for name, t in found.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state` of the same setting."""
        for part, module in self._modules().items():
            module.load_state_dict(_under(state, part))
        for name, optimiser in self.optimisers.items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _under(state, f"adam-{name}").items():
                number, _, what = key.partition(".")
                values.setdefault(int(number), {})[what] = tensor
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": values, "param_groups": groups})
        self.epochs = int(state["epochs"])

    def _modules(self) -> dict[str, nn.Module]:
        critic = {} if self.critic is None else {"critic": self.critic}
        return {"network": self.network, **critic}


def _under(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
