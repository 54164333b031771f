"""Recipe -> plan: everything decided, nothing loaded.

Per stage: the target config, parameters, inferred sizes, tokens and updates, FLOPs of the student and of its teachers,
memory and disk (``estimates``), and whether a growth is exact.  Reads configs and tokenizers, never weights; no torch.
"""

from bequest.planning.artefacts import OPTIMIZER_FILE
from bequest.planning.checks import check_disk
from bequest.planning.plan import Plan, StagePlan
from bequest.planning.planner import make_plan
from bequest.planning.settings import train_settings

__all__ = ["OPTIMIZER_FILE", "Plan", "StagePlan", "check_disk", "make_plan", "train_settings"]
