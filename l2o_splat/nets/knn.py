"""Exact k nearest neighbours of points: scipy's k-d tree on the CPU, a k-d tree in torch on other devices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

LEAF_SIZE = 24
"""Approximate number of points per leaf of the torch tree: more cost distances, fewer cost tree levels."""
START_LEVEL = 6
"""Level at which the torch search starts; testing its 64 boxes is cheaper than descending to them."""
QUERIES_AT_ONCE = 1 << 17
"""Queries that the torch tree searches together, to bound the memory (about 150 MB at k = 4)."""


def nearest_neighbours(points: Float[Tensor, "n 3"], k: int) -> Int[Tensor, "n k"]:
    """The k nearest points of every point, including itself, in no particular order.

    Args:
        points: Finite positions.
        k: Neighbours per point, including itself.

    Returns:
        Row indices (int64) on the points' device, exact up to ties.

    Raises:
        ValueError: If there are fewer than k points, or some positions are not finite.
    """
    if len(points) < k:
        raise ValueError(f"There are {len(points)} points; a search for {k} neighbours needs at least {k}.")
    points = points.detach().float()
    if not torch.isfinite(points).all():
        raise ValueError("Some positions are not finite; neighbours exist only for finite ones.")
    neighbours = tree_search(points, k) if points.device.type != "cpu" else _scipy_search(points, k)
    # With more than k points in one place, the search may return k others; the point itself is equally near.
    own = torch.arange(len(points), device=points.device)
    absent = (neighbours != own[:, None]).all(dim=1)
    neighbours[:, -1] = torch.where(absent, own, neighbours[:, -1])
    return neighbours


def nearest_of(queries: Float[Tensor, "q 3"], points: Float[Tensor, "n 3"]) -> Int[Tensor, " q"]:
    """The point nearest to each query, by a search on the CPU.

    Raises:
        ValueError: If there is no point, or some positions are not finite.
    """
    if not len(points):
        raise ValueError("There are no points to find the nearest of; at least one is needed.")
    if not (torch.isfinite(queries).all() and torch.isfinite(points).all()):
        raise ValueError("Some positions are not finite; the nearest point exists only for finite ones.")
    _, found = cKDTree(points.detach().cpu().numpy()).query(queries.detach().cpu().numpy())
    return torch.from_numpy(found.astype(np.int64)).to(points.device)


def _scipy_search(points: Tensor, k: int) -> Tensor:
    positions = points.numpy().astype(np.float64)
    # Of many points in one place (padding), k are enough; each query would scan a leaf full of them.
    order = np.lexsort(positions.T)
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (positions[order[1:]] != positions[order[:-1]]).any(axis=1)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    kept = order[rank < k]
    # An unbalanced tree is built several times faster and searched equally fast; queries in leaf order hit the cache.
    tree = cKDTree(positions[kept], balanced_tree=False, compact_nodes=False)
    leaf_order = kept[tree.indices]
    leaf_order = np.concatenate([leaf_order, order[rank >= k]])
    _, found = tree.query(positions[leaf_order], k=[*range(1, k + 1)], workers=torch.get_num_threads())
    neighbours = np.empty((len(positions), k), dtype=np.int64)
    neighbours[leaf_order] = kept[found]
    return torch.from_numpy(neighbours)


@dataclass(frozen=True)
class _Tree:
    """A balanced k-d tree: each level halves the points of every node along the longest side of its box."""

    leaves: Int[Tensor, "leaves size"]
    """Point indices; -1 fills up the last leaves."""
    lower: list[Float[Tensor, "nodes 3"]]
    """Per level, starting at the root: lower corners of the boxes around the nodes' points."""
    upper: list[Float[Tensor, "nodes 3"]]
    """Upper corners; below the lower ones if a node has no point."""


def _build_tree(points: Float[Tensor, "n 3"], k: int) -> _Tree:
    n = len(points)
    depth = max(0, math.ceil(math.log2(n / max(LEAF_SIZE, 2 * k))))
    size = math.ceil(n / 2**depth)
    nodes = torch.full((size * 2**depth,), -1, device=points.device)
    nodes[:n] = torch.arange(n, device=points.device)
    nodes = nodes[None]
    lower, upper = [], []
    for level in range(depth + 1):
        empty = (nodes < 0)[..., None]
        positions = points[nodes.clamp(min=0)]
        lower.append(positions.masked_fill(empty, math.inf).amin(dim=1))
        upper.append(positions.masked_fill(empty, -math.inf).amax(dim=1))
        if level < depth:
            longest = (upper[-1] - lower[-1]).argmax(dim=1)
            along = positions.gather(2, longest[:, None, None].expand(-1, nodes.shape[1], 1))[..., 0]
            order = along.masked_fill(empty[..., 0], math.inf).argsort(dim=1)
            nodes = nodes.gather(1, order).view(2 * len(nodes), -1)
    return _Tree(nodes, lower, upper)


def tree_search(points: Float[Tensor, "n 3"], k: int) -> Int[Tensor, "n k"]:
    """Exact search with torch operations only, for devices that scipy does not support.

    Every query starts with the k nearest points of its own leaf. Only boxes nearer than the farthest of these are
    visited, level by level for all queries together. Memory is linear in n for any distribution of points.
    """
    tree = _build_tree(points, k)
    neighbours = torch.empty((len(points), k), dtype=torch.int64, device=points.device)
    leaves_at_once = max(1, QUERIES_AT_ONCE // tree.leaves.shape[1])
    for first in range(0, len(tree.leaves), leaves_at_once):
        queries, found = _search_leaves(points, tree, first, first + leaves_at_once, k)
        neighbours[queries] = found
    return neighbours


def _distances(points: Tensor, queries: Int[Tensor, " q"], others: Int[Tensor, "q m"]) -> Float[Tensor, "q m"]:
    """Squared distances; infinite for entries of ``others`` that are -1."""
    squared = (points[others.clamp(min=0)] - points[queries, None]).square().sum(dim=2)
    return squared.masked_fill(others < 0, math.inf)


def _search_leaves(points: Tensor, tree: _Tree, first: int, last: int, k: int) -> tuple[Tensor, Tensor]:
    """All queries of some leaves, and their neighbours."""
    own = tree.leaves[first:last]
    leaf_of_query = torch.arange(first, first + len(own), device=points.device)[:, None].expand_as(own)
    # Every nonzero makes the host wait for the device; indexing with a mask hides one in each use.
    valid = (own >= 0).nonzero(as_tuple=True)
    queries, leaf_of_query = own[valid], leaf_of_query[valid]
    positions = points[queries]
    members = tree.leaves[leaf_of_query]
    best, columns = _distances(points, queries, members).topk(k, dim=1, largest=False)
    found = members.gather(1, columns)
    bound = best[:, -1]

    level = min(START_LEVEL, len(tree.lower) - 1)
    row = torch.arange(len(queries), device=points.device)[:, None]
    node = torch.arange(2**level, device=points.device)[None]
    row, node = torch.broadcast_tensors(row, node)
    while True:
        outside = torch.maximum(tree.lower[level][node] - positions[row], positions[row] - tree.upper[level][node])
        near = outside.clamp(min=0).square().sum(dim=2) < bound[row]
        if level == len(tree.lower) - 1:
            near &= node != leaf_of_query[row]
        kept = near.nonzero(as_tuple=True)
        row, node = row[kept], node[kept]
        if level == len(tree.lower) - 1:
            return queries, _merge(points, tree, queries, best, found, row, node)
        row = row[:, None].expand(-1, 2)
        node = torch.stack([2 * node, 2 * node + 1], dim=1)
        level += 1


def _merge(
    points: Tensor, tree: _Tree, queries: Tensor, best: Tensor, found: Tensor, row: Tensor, leaf: Tensor
) -> Int[Tensor, "q k"]:
    """The k nearest among those found so far and the points of more leaves; ``row`` pairs queries with leaves."""
    k = found.shape[1]
    rows = [torch.arange(len(queries), device=points.device).repeat_interleave(k)]
    distances, indices = [best.flatten()], [found.flatten()]
    for part in torch.arange(len(row), device=points.device).split(QUERIES_AT_ONCE):
        members = tree.leaves[leaf[part]]
        squared = _distances(points, queries[row[part]], members)
        pair, column = (squared < best[row[part], -1:]).nonzero(as_tuple=True)
        rows.append(row[part][pair])
        distances.append(squared[pair, column])
        indices.append(members[pair, column])
    all_rows = torch.cat(rows)
    by_distance = torch.cat(distances).argsort()
    by_query = by_distance[all_rows[by_distance].argsort(stable=True)]
    starts = torch.searchsorted(all_rows[by_query], torch.arange(len(queries), device=points.device))
    nearest = by_query[starts[:, None] + torch.arange(k, device=points.device)]
    return torch.cat(indices)[nearest]
