"""Bounds that hold for every input of a set. Nothing here searches."""

from torchproof.verify.bounds import BOUNDS, Bound, Margins, bounded, graph_of, margins

__all__ = ["BOUNDS", "Bound", "Margins", "bounded", "graph_of", "margins"]
