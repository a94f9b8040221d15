"""What the released METAFormer code gets wrong, as switches, so that the effect of each can be measured."""

from __future__ import annotations

from typing import Literal

from medformer.config import ConnectomeModelConfig
from medformer.registry import Entry, Registry

Place = Literal["model", "inputs", "evaluation"]

_RELEASE = "code released with Mahler et al., MLCN 2023"
DEFECTS: Registry[Place] = Registry(
    "defect",
    [
        Entry(
            "across_subjects",
            "model",
            "attention runs across the subjects of a batch, so that a prediction depends on who else is in it",
            _RELEASE,
        ),
        Entry(
            "swapped_arguments",
            "model",
            "heads and feedforward width change places: 128 heads of 2 channels, 4 hidden channels",
            _RELEASE,
        ),
        Entry(
            "noise_at_test",
            "inputs",
            "the noise of training is also added to validation and test subjects",
            _RELEASE,
        ),
        Entry(
            "hard_label_auc",
            "evaluation",
            "AUC is computed from decisions instead of scores, which makes it the balanced accuracy",
            _RELEASE,
        ),
        Entry(
            "control_positive",
            "evaluation",
            "control is the positive class, so that sensitivity is that of finding controls",
            _RELEASE,
        ),
    ],
)
AS_PUBLISHED = ("across_subjects", "swapped_arguments")


def active_defects(config: ConnectomeModelConfig) -> frozenset[str]:
    """Return the defects that a config asks for; `metaformer_as_published` implies those of its architecture.

    Raises:
        UnknownNameError: A defect that the table does not list; the nearest name is given.
    """
    implied = AS_PUBLISHED if config.name == "metaformer_as_published" else ()
    return frozenset(DEFECTS[name].name for name in (*config.defects, *implied))
