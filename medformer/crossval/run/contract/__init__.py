"""The contract of a task: it opens a study of cases, a learner fits on a fold, and the fold leaves a predictor.

Every number of a run comes from predictors applied to cases they never saw. The runner
(`medformer.crossval.run.runner`) knows nothing else of a task; the command line, `predict`, `explain` and the
benchmarks use the same objects.
"""

from __future__ import annotations

from medformer.crossval.run.contract.learner import Context, Learner, NetworkLearner, Predictor, Recalling, Row
from medformer.crossval.run.contract.study import Study
from medformer.crossval.run.contract.task import Task

__all__ = ["Context", "Learner", "NetworkLearner", "Predictor", "Recalling", "Row", "Study", "Task"]
