"""One Gaussian kernel density for each class, in the features of a layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.parts.distances import squared_distances

BANDWIDTHS = tuple(float(10 ** (-1 + 2 * i / 9)) for i in range(10))  # 0.1 to 10


class ClassDensities(nn.Module):
    """log K_c(x) = log mean_i (2 pi h^2)^(-D/2) exp(-|x - x_i|^2 / 2 h^2) over the points x_i of
    class c, in float64: scikit-learn's KernelDensity(bandwidth=h).score_samples.

    points (S, D), labels (S,) in [0, classes), bandwidth h > 0. Raises InputError for a class
    without points or another bandwidth.
    """

    points: Tensor
    labels: Tensor
    sizes: Tensor
    bandwidth: Tensor

    def __init__(self, points: Tensor, labels: Tensor, classes: int, bandwidth: float) -> None:
        super().__init__()
        sizes = torch.bincount(labels, minlength=classes)
        if len(sizes) > classes or int(sizes.min()) == 0:
            given = f"{sizes.tolist()} images of the classes"
            raise InputError(given, f"one at least of each of {classes}", "fit on more images")
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise InputError(f"bandwidth = {bandwidth!r}", "a number > 0", "leave it out: None")
        numbers = {"points": points.double(), "labels": labels, "sizes": sizes.double()}
        at = torch.tensor(bandwidth, dtype=torch.float64, device=points.device)
        for name, value in {**numbers, "bandwidth": at}.items():
            self.register_buffer(name, value.detach().clone())
        self.training = False

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B,) log-density of x (B, D) under the class label (B,); differentiable in x."""
        h = self.bandwidth.double()
        near = -squared_distances(x, self.points) / (2 * h**2)
        near = near.masked_fill(self.labels != label[:, None], -torch.inf)
        width = 0.5 * self.points.shape[1] * torch.log(2 * math.pi * h**2)
        return torch.logsumexp(near, 1) - self.sizes.double()[label].log() - width


@torch.no_grad()
def best_bandwidth(points: Tensor, labels: Tensor) -> float:
    """That of ten, log-spaced from 0.1 to 10, under which the points (S, D) are likeliest, each
    left out in turn of the density of its class. Raises InputError where no class has two points.
    """
    total = torch.zeros(len(BANDWIDTHS), dtype=torch.float64)
    pairs = 0
    for label in torch.unique(labels).tolist():
        own = points[labels == label]
        if len(own) < 2:
            continue
        pairs += 1
        apart = squared_distances(own, own)
        apart.fill_diagonal_(torch.inf)
        for i, h in enumerate(BANDWIDTHS):
            likely = torch.logsumexp(-apart / (2 * h**2), 1) - math.log(len(own) - 1)
            width = 0.5 * own.shape[1] * math.log(2 * math.pi * h**2)
            total[i] += (likely - width).sum().cpu()
    if not pairs:
        raise InputError("no class with two images", "some to tune on", "fit on more images")
    return BANDWIDTHS[int(total.argmax())]
