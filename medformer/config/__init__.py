"""The configs of runs: typed pydantic models, YAML files with `extends:`, and `key.sub=value` overrides.

A config holds names and typed values only. No import path, expression or class name in it can execute.
"""

from __future__ import annotations

from medformer.config.abide import (
    AbideConfig,
    ConnectomeDataConfig,
    ConnectomeInferenceConfig,
    ConnectomeModelConfig,
    ConnectomePretrainingConfig,
    FeaturesConfig,
)
from medformer.config.polyp import AugmentConfig, DataConfig, InferenceConfig, PolypConfig
from medformer.config.shared import (
    CrossvalConfig,
    ExecutionConfig,
    ImagePretrainingConfig,
    LossConfig,
    MixerSpec,
    ModelConfig,
    PretrainingConfig,
    Section,
    TrainingConfig,
)
from medformer.config.volume import (
    VolumeAugmentConfig,
    VolumeConfig,
    VolumeDataConfig,
    VolumeInferenceConfig,
    VolumePlanConfig,
)

AnyConfig = PolypConfig | AbideConfig | VolumeConfig
"""The config of a run of any task."""

SCHEMAS: dict[str, type[AnyConfig]] = {
    "polyp": PolypConfig,
    "abide": AbideConfig,
    "volume": VolumeConfig,
}
"""The schema of each task; shipped configs lie in a folder of the task's name."""

__all__ = [
    "SCHEMAS",
    "AbideConfig",
    "AnyConfig",
    "AugmentConfig",
    "ConnectomeDataConfig",
    "ConnectomeInferenceConfig",
    "ConnectomeModelConfig",
    "ConnectomePretrainingConfig",
    "CrossvalConfig",
    "DataConfig",
    "ExecutionConfig",
    "FeaturesConfig",
    "ImagePretrainingConfig",
    "InferenceConfig",
    "LossConfig",
    "MixerSpec",
    "ModelConfig",
    "PolypConfig",
    "PretrainingConfig",
    "Section",
    "TrainingConfig",
    "VolumeAugmentConfig",
    "VolumeConfig",
    "VolumeDataConfig",
    "VolumeInferenceConfig",
    "VolumePlanConfig",
]
