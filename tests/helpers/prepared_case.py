"""A case with its label map on a plan's grid."""

from __future__ import annotations

from dataclasses import replace

from medformer.data.cases import Case
from medformer.data.volumes.plan.volume_plan import VolumePlan
from medformer.data.volumes.prepare.prepare_case import PreparedCase, prepare_classes, prepare_image


def prepare_case(case: Case, plan: VolumePlan) -> PreparedCase:
    """Prepare the image of a case, then its label map."""
    prepared = prepare_image(case, plan)
    return replace(prepared, classes=prepare_classes(case, plan, prepared.source))
