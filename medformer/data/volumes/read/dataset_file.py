"""What a set of volumes has in common: its labels, its channels, and whether its patients are known.

The file lies beside the manifest as `<manifest name>.dataset.json`:

    {"format": "medformer-volumes/1", "labels": {"1": "Anterior"}, "channels": ["MRI"], "patients": "known"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from medformer.errors import ConfigError, DataError
from medformer.files import read_json, write_json

FORMAT = "medformer-volumes/1"

_EXAMPLE = f'{{"format": "{FORMAT}", "labels": {{"1": "tumor"}}, "channels": ["CT"], "patients": "known"}}'

Patients = Literal["known", "inferred", "case is patient"]
"""Where the groups come from: the data; what is known about a public data set (see `layouts.inferred_patient`); or
nothing names the patients, and every case counts as one."""


@dataclass(frozen=True)
class DatasetInfo:
    """What all cases share.

    Attributes:
        labels: Value in the label maps and name of each label in ascending order, without the background, which is 0.
            Empty where cases are only classified.
        channels: Name of each image channel, in order.
        patients: Where the groups come from.

    Raises:
        DataError: A label is not a whole number above 0, or names are empty, repeated or unprintable.
    """

    labels: tuple[tuple[int, str], ...]
    channels: tuple[str, ...]
    patients: Patients = "known"

    def __post_init__(self) -> None:
        values = [value for value, _ in self.labels]
        if min(values, default=1) < 1 or values != sorted(set(values)):
            raise DataError(
                f"The labels have the values {values}; expected whole numbers above 0, ascending, each once."
            )
        for what, names in (("labels", [name for _, name in self.labels]), ("channels", list(self.channels))):
            bad = [name for name in names if not name.strip() or not name.isprintable() or names.count(name) > 1]
            if bad:
                raise DataError(
                    f"The {what} are named {names}; expected names that are not empty, each once. See {bad[0]!r}."
                )
        if not self.channels:
            raise DataError("No channel is named; expected one name for each image of a case, such as MRI.")
        if self.patients not in get_args(Patients):
            raise DataError(f"The patients are '{self.patients}'; expected {' or '.join(get_args(Patients))}.")


def info_path(manifest: Path) -> Path:
    """The sidecar of a manifest."""
    return manifest.with_name(f"{manifest.name}.dataset.json")


def write_info(manifest: Path, info: DatasetInfo) -> None:
    """Write the sidecar of a manifest.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    content = {
        "format": FORMAT,
        "labels": {str(value): name for value, name in info.labels},
        "channels": list(info.channels),
        "patients": info.patients,
    }
    write_json(info_path(manifest), content)


def read_info(manifest: Path) -> DatasetInfo:
    """Read the sidecar of a manifest.

    Raises:
        DataError: It is missing or damaged, or its labels are not valid.
    """
    path = info_path(manifest)
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        labels = sorted((_whole(value), str(name)) for value, name in content["labels"].items())
        channels = tuple(str(name) for name in content["channels"])
        return DatasetInfo(tuple(labels), channels, cast(Patients, content["patients"]))
    except DataError as error:
        raise DataError(f"{path}: {error} Correct it.") from None
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: it names the labels. Run `medformer volume prepare`, or write {_EXAMPLE}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not describe a data set ({error}); expected {_EXAMPLE}.") from None


def info_from_json(path: Path) -> DatasetInfo:
    """Labels and channels of a `dataset.json`, in the Decathlon's, nnU-Net's first or nnU-Net's second notation.

    Raises:
        DataError: The file is missing or damaged.
        ConfigError: It describes regions or an ignore label, which are not supported.
    """
    try:
        content = read_json(path)
        channels = content.get("channel_names", content.get("modality"))
        if not isinstance(channels, Mapping):
            raise ValueError("it has neither channel_names nor modality")
        names = [str(channels[key]) for key in sorted(channels, key=int)]
        labels = _labels(path, content["labels"])
        numbered = [
            f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
            for place, name in enumerate(names)
        ]
        return DatasetInfo(tuple(sorted(labels.items())), tuple(numbered), "case is patient")
    except DataError as error:
        raise DataError(f"{path}: {error} Correct it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a valid dataset.json ({error}); expected labels, and modality (Decathlon) or channel_names "
            "(nnU-Net). Correct it."
        ) from None


def _labels(path: Path, entries: Mapping[str, Any]) -> dict[int, str]:
    # The Decathlon writes {"1": "Anterior"}, nnU-Net's second version {"Anterior": 1}.
    by_value = all(key.strip().isdigit() for key in entries) and all(
        isinstance(entry, str) for entry in entries.values()
    )
    pairs = [(key, entry) if by_value else (entry, key) for key, entry in entries.items()]
    labels: dict[int, str] = {}
    for value, name in pairs:
        if isinstance(value, list):
            raise ConfigError(
                f"{path}: '{name}' is a region made of the labels {value}; expected one whole number. Regions that "
                "overlap are not supported: declare each label by itself and join them after prediction."
            )
        if name.strip().lower() == "ignore":
            raise ConfigError(
                f"{path}: the label 'ignore' ({value}) marks voxels without a label; training on such maps is not "
                "supported. Leave these cases out, or give the voxels a label."
            )
        number = _whole(value)
        if number in labels:
            raise ValueError(f"the label {number} has two names, '{labels[number]}' and '{name}'")
        labels[number] = name.strip()
    labels.pop(0, None)
    return labels


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or number != float(value):
        raise ValueError(f"the label {value!r} is not a whole number")
    return number
