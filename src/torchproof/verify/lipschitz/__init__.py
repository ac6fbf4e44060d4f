"""Certificates from Lipschitz constants: global ones (operator norms), local ones (Jacobians)."""

from torchproof.verify.lipschitz.certify import METHODS, certified_at, radius

__all__ = ["METHODS", "certified_at", "radius"]
