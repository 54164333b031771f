"""The lineage as a graph: one row per generation, nodes in lanes, edges by role (the drawing of ``git log --graph``).

A base's descendants stay in its lane as long as one of them continues it; tuned weights hang in lanes to the right.
The layout is plain geometry on row and lane numbers; the template draws it as SVG beside the table of generations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bequest.reports.record import Parent, StageRecord

ROW, LANE, LEFT = 62, 28, 26
CONTINUES = ("pretrain", "grow", "adapt")


@dataclass(frozen=True)
class Node:
    """A generation, or a model from outside the run (``stage`` is None)."""

    name: str
    kind: str
    row: int
    lane: int
    stage: StageRecord | None

    @property
    def x(self) -> int:
        """Horizontal position of the centre, pixels."""
        return LEFT + self.lane * LANE

    @property
    def y(self) -> int:
        """Vertical position of the centre, pixels."""
        return self.row * ROW + ROW // 2


@dataclass(frozen=True)
class Edge:
    """A line from parent to child; ``path`` is SVG path data."""

    role: str
    kind: str
    path: str


@dataclass(frozen=True)
class Graph:
    """Nodes in row order and the edges between them; sizes in pixels."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def width(self) -> int:
        """Width of the drawing."""
        return LEFT + (max((node.lane for node in self.nodes), default=0) + 1) * LANE

    @property
    def height(self) -> int:
        """Height of the drawing."""
        return len(self.nodes) * ROW


def draw(generations: Sequence[StageRecord]) -> Graph:
    """Lay the generations out; a parent always lies above its children."""
    outside = sorted({parent.name for stage in generations for parent in stage.parents if parent.stage is None})
    nodes: dict[str, Node] = {}
    for name in outside:
        nodes[f"outside:{name}"] = Node(name, "outside", len(nodes), len(nodes), None)
    continued: set[str] = set()
    for stage in generations:
        lane = lane_of(stage, nodes, continued)
        nodes[stage.name] = Node(stage.name, stage.kind, len(nodes), lane, stage)
    edges = [
        Edge(
            parent.role,
            stage.kind,
            path(nodes[key(parent)], nodes[stage.name], tuple(nodes.values()), joins(stage, parent)),
        )
        for stage in generations
        for parent in stage.parents
        if key(parent) in nodes
    ]
    return Graph(tuple(nodes.values()), tuple(edges))


def key(parent: Parent) -> str:
    """The parent's key among the nodes."""
    return parent.stage or f"outside:{parent.name}"


def lane_of(stage: StageRecord, nodes: dict[str, Node], continued: set[str]) -> int:
    """The parent's lane for the first that continues it, else the first lane to its right that is free since then."""
    main = stage.parent("tuned", "base") if stage.is_tuned else stage.parent("base")
    if main is None or key(main) not in nodes:
        taken = {node.lane for node in nodes.values()}
        return next(lane for lane in range(len(taken) + 1) if lane not in taken)
    parent = nodes[key(main)]
    if (main.role == "tuned" or stage.kind in CONTINUES) and key(main) not in continued:
        continued.add(key(main))
        return parent.lane
    since = {node.lane for node in nodes.values() if node.row > parent.row}
    return next(lane for lane in range(parent.lane + 1, parent.lane + 2 + len(nodes)) if lane not in since)


def joins(stage: StageRecord, parent: Parent) -> bool:
    """Whether this parent's line joins another one's that comes down the child's lane."""
    return parent.role == "base" and stage.parent("tuned") is not None


def path(parent: Node, child: Node, nodes: Sequence[Node], joining: bool) -> str:
    """SVG path from parent to child that does not run through another node; a joining one comes in from the side."""
    between = {node.lane for node in nodes if parent.row < node.row < child.row}
    x1, y1, x2, y2 = parent.x, parent.y, child.x, child.y
    half = ROW // 2
    if x1 == x2 and parent.lane in between:
        bulge = x1 - 17
        out = f"C{bulge},{y1 + half} {bulge},{y1 + half} {bulge},{y1 + ROW}"
        back = f"C{bulge},{y2 - half} {bulge},{y2 - half} {x2},{y2}"
        return f"M{x1},{y1} {out} L{bulge},{y2 - ROW} {back}"
    if x1 == x2:
        return f"M{x1},{y1} L{x2},{y2}"
    if joining and parent.lane not in between:
        return f"M{x1},{y1} L{x1},{y2 - half} Q{x1},{y2} {x2},{y2}"
    if child.lane not in between:
        return f"M{x1},{y1} C{x1},{y1 + half} {x2},{y1 + half} {x2},{y1 + ROW} L{x2},{y2}"
    return f"M{x1},{y1} L{x1},{y2 - ROW} C{x1},{y2 - half} {x2},{y2 - half} {x2},{y2}"
