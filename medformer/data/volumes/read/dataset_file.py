"""What a set of volumes has in common: its labels, its channels, and whether its patients are known.

The file lies beside the manifest as `<manifest name>.dataset.json`:

    {"format": "medformer-volumes/1", "labels": {"1": "Anterior"}, "channels": ["MRI"], "patients": "known"}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from medformer.data.volumes.read.regions import Regions, labels_of, regions_of
from medformer.errors import ConfigError, DamagedFileError, DataError
from medformer.files import read_json, write_json

FORMAT = "medformer-volumes/1"

_EXAMPLE = f'{{"format": "{FORMAT}", "labels": {{"1": "tumor"}}, "channels": ["CT"], "patients": "known"}}'

_EXAMPLE_JSON = '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".nii.gz"}'
_BACKGROUND = {"background", "bg", "clear label", "unlabeled", "0"}

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
        regions: Overlapping regions that are learned in the place of the labels they are made of; empty without any.

    Raises:
        DataError: A label is not a whole number above 0, or names are empty, repeated or unprintable.
    """

    labels: tuple[tuple[int, str], ...]
    channels: tuple[str, ...]
    patients: Patients = "known"
    regions: Regions = ()

    def __post_init__(self) -> None:
        values = [value for value, _ in self.labels]
        if min(values, default=1) < 1 or values != sorted(set(values)):
            raise DataError(
                f"The labels have the values {values}; expected whole numbers above 0, ascending, each once."
            )
        for what, names in (
            ("labels", [name for _, name in self.labels]),
            ("channels", list(self.channels)),
            ("regions", [region.name for region in self.regions]),
        ):
            bad = [name for name in names if not name.strip() or not name.isprintable() or names.count(name) > 1]
            if bad:
                raise DataError(
                    f"The {what} are named {names}; expected names that are not empty, each once. See {bad[0]!r}."
                )
        if not self.channels:
            raise DataError("No channel is named; expected one name for each image of a case, such as MRI.")
        if self.patients not in get_args(Patients):
            raise DataError(f"The patients are '{self.patients}'; expected {' or '.join(get_args(Patients))}.")

    @property
    def members(self) -> dict[str, tuple[int, ...]]:
        """The labels that each region is made of, by its name; empty without regions."""
        return {region.name: region.values for region in self.regions}

    @property
    def shown_labels(self) -> str:
        """Values and names of the first labels, and how many more there are; the regions that they make up."""
        parts = [f"{region.name} ({', '.join(map(str, region.values))})" for region in self.regions]
        return shown_labels(self.labels) + (f"; regions: {', '.join(parts)}" if parts else "")


def shown_labels(labels: Sequence[tuple[int, str]], limit: int = 6) -> str:
    """Values and names of labels, the first of them where there are many."""
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(f"{value} {name}" for value, name in labels[:limit]) + more or "none"


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
        **({"regions": {one.name: list(one.values) for one in info.regions}} if info.regions else {}),
        **({"regions_class_order": [one.written for one in info.regions]} if info.regions else {}),
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
        given = content.get("regions")
        regions = () if given is None else regions_of(given, content.get("regions_class_order"))
        return DatasetInfo(tuple(labels), channels, cast(Patients, content["patients"]), regions)
    except DataError as error:
        raise DataError(f"{path}: {error} Correct it.") from None
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: it names the labels. Run `medformer volume prepare`, or write {_EXAMPLE}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not describe a data set ({error}); expected {_EXAMPLE}.") from None


def named_labels(text: str) -> DatasetInfo:
    """Labels as a user names them: `1,2`, `1=liver,2=tumor`, or a `dataset.json` of any known kind, regions too.

    Raises:
        ConfigError: Neither numbers above 0, each once, nor such a file.
        DataError: The file is damaged.
    """
    path = Path(text)
    if path.suffix == ".json":
        manifest = path.with_name(path.name.removesuffix(".dataset.json"))
        return info_from_json(path) if manifest.name == path.name else read_info(manifest)
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        if wrong := [value for value, _, _ in pairs if not value.strip().isdecimal()]:
            raise ValueError(f"{wrong[0]!r} is no label.")
        labels = {int(value): name.strip() or f"label {int(value)}" for value, _, name in pairs}
        if len(labels) < len(pairs):
            raise ValueError("a value is given twice.")
        return DatasetInfo(tuple(sorted(labels.items())), ("any",))
    except (ValueError, DataError) as error:
        raise ConfigError(
            f"--labels {text}: {error} Expected whole numbers above 0, such as 1,2 or 1=liver,2=tumor, or a "
            "dataset.json."
        ) from None


def info_from_json(path: Path) -> DatasetInfo:
    """Labels and channels of a `dataset.json`, in the Decathlon's, nnU-Net's first or nnU-Net's second notation.

    Channels may be a list of names too, and labels one that begins with the background.

    Raises:
        DataError: The file is missing or damaged.
        ConfigError: It describes an ignore label, which is not supported.
    """
    try:
        content = read_json(path)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no object")
        entries = content.get("labels")
        regions = _regions(entries, content.get("regions_class_order"))
        labels = labels_of(regions) or _labels(path, entries)
        names = _channel_names(content)
        numbered = [
            f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
            for place, name in enumerate(names)
        ]
        return DatasetInfo(tuple(sorted(labels.items())), tuple(numbered), "case is patient", regions)
    except DamagedFileError as error:
        raise DataError(f"{error} Correct it.") from None
    except DataError as error:
        raise DataError(f"{path}: {error} Correct it.") from None
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: it names the labels and channels of imagesTr/ and labelsTr/. Write one, such as "
            f"{_EXAMPLE_JSON}, or rename the two folders to images/ and labels/, whose labels are read from the files."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected a file such as {_EXAMPLE_JSON}.") from None
    except ValueError as error:
        raise DataError(
            f"{path} is not a valid dataset.json ({error}); expected labels, and modality (Decathlon) or channel_names "
            f"(nnU-Net), such as {_EXAMPLE_JSON}. Correct it."
        ) from None


def _channel_names(content: Mapping[str, Any]) -> list[str]:
    key = "channel_names" if "channel_names" in content else "modality"
    given = content.get(key)
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list):
        given = {str(place): name for place, name in enumerate(given)}
    if not isinstance(given, Mapping) or not given:
        raise ValueError("it has neither channel_names nor modality" if given is None else f"{key} names no channel")
    if sorted(given) != sorted(map(str, range(len(given)))):
        numbers = ", ".join(given)
        raise ValueError(f"{key} has the numbers {numbers}; expected 0 to {len(given) - 1}, each once")
    return [str(given[str(place)]) for place in range(len(given))]


def _regions(entries: Any, order: Any) -> Regions:
    """The regions of a `dataset.json`; none where every label is one number.

    Raises:
        DataError: See `regions_of`.
    """
    if not isinstance(entries, Mapping) or not any(isinstance(entry, list) for entry in entries.values()):
        return ()
    named = {name: entry for name, entry in entries.items() if entry not in (0, [0])}
    if ignored := [name for name in named if str(name).strip().lower() == "ignore"]:
        raise DataError(
            f"The label '{ignored[0]}' beside regions marks voxels without a label, which is not supported."
        )
    return regions_of(named, order)


def _labels(path: Path, entries: Any) -> dict[int, str]:
    if isinstance(entries, list):
        if not entries or str(entries[0]).strip().lower() not in _BACKGROUND:
            raise ValueError("labels is a list that does not begin with the background, so its values are not known")
        entries = {str(place): name for place, name in enumerate(entries)}
    if not isinstance(entries, Mapping):
        raise ValueError("it has no labels" if entries is None else "labels is no object of values and names")
    # The Decathlon writes {"1": "Anterior"}, nnU-Net's second version {"Anterior": 1}.
    numbers = [sum(map(_is_number, part)) for part in (entries.keys(), entries.values())]
    by_value = numbers[0] > sum(not isinstance(entry, str) for entry in entries.values()) or numbers[0] > numbers[1]
    pairs = [(key, entry) if by_value else (entry, key) for key, entry in entries.items()]
    labels: dict[int, str] = {}
    for value, name in pairs:
        if not isinstance(name, str):
            raise ValueError(f"the label {value} is named {name!r}; expected text")
        if name.strip().lower() == "ignore":
            raise ConfigError(
                f"{path}: the label 'ignore' ({value}) marks voxels without a label; training on such maps is not "
                "supported. Leave these cases out, or give the voxels a label."
            )
        number = _whole(value)
        if number in labels:
            raise ValueError(f"the label {number} has two names, '{labels[number]}' and '{name}'")
        # A value is no name: 7102 would be read as a number in every table.
        labels[number] = f"label {name.strip()}" if name.strip().isdecimal() else name.strip()
    labels.pop(0, None)
    return labels


def _is_number(value: Any) -> bool:
    with suppress(TypeError, ValueError):
        return not isinstance(value, bool) and math.isfinite(float(value))
    return False


def _whole(value: Any) -> int:
    with suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and (number := int(value)) == float(value):
            return number
    raise ValueError(f"the label {value!r} is not a whole number")
