"""The fold plan: what it is, how it is drawn, and what it is balanced by."""

from __future__ import annotations

from medformer.crossval.plan.fold_plan import Fold, Plan, PlanCase, check_unique, read_plan, some, write_plan

__all__ = ["Fold", "Plan", "PlanCase", "check_unique", "read_plan", "some", "write_plan"]
