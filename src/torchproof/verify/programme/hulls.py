"""Groups of hinges h = max(z, s z) in their joint convex hull (Singh et al. 2019c, k-ReLU).

What is known of a group's inputs is a polytope {z: <a, z> <= limit_a} with a in {-1, 0, 1}^k; on
each orthant of it the hinges are linear, so the hull's vertices are the orthants' vertices.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from torchproof.verify.programme.draft import Draft, Form

SLACK = 1e-9  # of the size of a row's terms, by which the row is let go beyond every vertex
BROKEN = 1e-6  # of that size, by which a point must break a row that is added
UNLIKE = 1e-4  # share of the largest entry: of smaller ones SLACK is not far above the rounding
MOST = 8  # rows of one group that are added at once


@cache
def directions(k: int) -> np.ndarray:
    """(3^k - 1, k) the rows a."""
    return np.array([a for a in itertools.product((-1.0, 0.0, 1.0), repeat=k) if any(a)])


@cache
def _crossings(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every k planes, of the directions or z_i = 0, that meet in a point: their numbers (n, k), and
    the inverses (n, k, k) of their rows.
    """
    planes = np.concatenate([directions(k), np.eye(k)])
    chosen = np.array(list(itertools.combinations(range(len(planes)), k)))
    rows = planes[chosen]
    apart = np.abs(np.linalg.det(rows)) > 0.5  # determinants of such rows are whole numbers
    return chosen[apart], np.linalg.inv(rows[apart])


def vertices(limits: np.ndarray) -> np.ndarray:
    """(n, k) every vertex of every orthant of the polytope; limits: (3^k - 1,) of the directions.

    All planes that meet in a point meet at a good angle, so none is lost to rounding; points that
    are outside by no more than that are kept.
    """
    k = round(np.log(len(limits) + 1) / np.log(3))
    chosen, inverses = _crossings(k)
    ends = np.concatenate([limits, np.zeros(k)])
    points = np.einsum("nij,nj->ni", inverses, ends[chosen])
    within = points @ directions(k).T <= limits + SLACK * (1 + np.abs(limits).max())
    found: np.ndarray = points[within.all(1)]
    return found


class Hull(NamedTuple):
    """rows @ (z, h) <= limits, rows (n, 2 k); a row's terms are of size 1 together."""

    rows: np.ndarray
    limits: np.ndarray


def hull(z: np.ndarray, slopes: np.ndarray) -> Hull | None:
    """The facets around vertices z (n, k) of a polytope, but for its own; slopes: (k,) below 0.
    None where there are none.

    Directions of facets come from Qhull, each is moved until it holds for every vertex: even wrong
    ones would be sound.
    """
    if not len(z):  # limits that cross by float noise
        return None
    k = z.shape[1]
    points = np.concatenate([z, np.maximum(z, slopes * z)], 1)
    scale = np.abs(points).max(0)
    if not (scale > UNLIKE * scale.max()).all():
        return None
    rows = _facets(np.unique(np.round(points / scale, 9), axis=0))
    rows[np.abs(rows) < SLACK] = 0.0
    bent = (rows[:, k:] != 0).any(1)
    rows = np.unique(np.round(rows[bent], 12), axis=0)
    if not len(rows):
        return None
    rows = rows / np.abs(rows).sum(1, keepdims=True) / scale
    return Hull(rows, (rows @ points.T).max(1) + SLACK)


def _facets(points: np.ndarray) -> np.ndarray:
    """(facets, 2 k) normals; none where Qhull finds no way, with joggled points either."""
    from scipy.spatial import ConvexHull, QhullError

    for options in (None, "QJ"):
        try:
            found: np.ndarray = ConvexHull(points, qhull_options=options).equations[:, :-1]
            return found
        except (QhullError, ValueError):
            continue
    return np.zeros((0, points.shape[1]))


@dataclass(frozen=True)
class Hulls:
    """Adds the rows of some groups that a point breaks. groups: a hull, and its (z, h) (2 k,)."""

    draft: Draft
    groups: list[tuple[Hull, Form]]

    def __call__(self, v: np.ndarray) -> bool:
        broken = False
        for (rows, limits), form in self.groups:
            over = rows @ form.value(v) - limits
            worst = np.argsort(-over)[:MOST]
            worst = worst[over[worst] > BROKEN]
            if len(worst):
                wide = Form(*(part[None] for part in form)).spread((len(worst), rows.shape[1]))
                self.draft.at_most([(rows[worst], wide)], limits[worst])
                broken = True
        return broken
