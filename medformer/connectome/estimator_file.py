"""Fitted scikit-learn estimators as plain data: numbers in a safetensors file, everything else as its JSON metadata.

A file holds the parameters and the learned attributes of an estimator and of all its parts. It names classes, but none
is looked up by name: whoever loads gives the unfitted estimator, built from a config, and only its classes, those that
they declare in `learned_parts`, and a few helpers of scikit-learn are accepted. Parameters that are no plain data, such
as the layout of the columns or a function that chooses some, are taken from the unfitted estimator too; the file only
holds a description of them, which must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import LabelBinarizer, LabelEncoder
from sklearn.utils import Bunch

from medformer.errors import CheckpointError
from medformer.tensor_file import read_tensors, write_tensors

FORMAT = "medformer-estimator/1"

# Estimators of scikit-learn that its own classifiers learn and do not take as a parameter.
_HELPERS = (LabelBinarizer, LabelEncoder)

_PLAIN = (type(None), bool, int, float, str)


def save_fitted(estimator: BaseEstimator, path: Path) -> None:
    """Write a fitted estimator atomically.

    Args:
        estimator: Of scikit-learn's kind. What it learned are the attributes whose names begin or end with an
            underscore: numbers, texts, arrays, estimators, and lists, tuples and dictionaries of these.
        path: A `.safetensors` file.

    Raises:
        TypeError: It learned something else.
        ResourceError: The disk is full or the folder not writable.
    """
    writer = _Writer(estimator)
    tree = writer.encode(estimator)
    versions = {package: version(_DISTRIBUTIONS[package]) for package in sorted(writer.packages & set(_DISTRIBUTIONS))}
    write_tensors(path, writer.tensors, {"format": FORMAT, "versions": versions, "estimator": tree})


def load_fitted(unfitted: BaseEstimator, path: Path) -> Any:
    """Read an estimator that predicts as the one that was written.

    Args:
        unfitted: The same estimator before it was fitted; it stays so.
        path: A file of `save_fitted`.

    Raises:
        CheckpointError: The file is missing, damaged, holds another estimator or classes that do not belong to it, or
            was written with another version of the library that the estimator comes from.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds no fitted estimator ({FORMAT}). Give a file that a run wrote.")
    try:
        for package, written in metadata["versions"].items():
            here = version(_DISTRIBUTIONS[package])
            if here.split(".")[:2] != written.split(".")[:2]:
                raise CheckpointError(
                    f"{path} was written with {_DISTRIBUTIONS[package]} {written}; found {here}, whose estimators may "
                    f"compute something else. Install {written}, or train again."
                )
        reader = _Reader(unfitted, tensors)
        estimator = reader.decode(metadata["estimator"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not describe a fitted estimator ({error}). Train again.") from error
    difference = reader.difference or _difference(estimator, unfitted, type(unfitted).__name__)
    if difference:
        raise CheckpointError(f"{path} holds another estimator: {difference}. Give the config of its run.")
    return estimator


_DISTRIBUTIONS = {"sklearn": "scikit-learn", "nilearn": "nilearn"}


def _parameters(estimator: BaseEstimator) -> dict[str, Any]:
    return dict(estimator.get_params(deep=False))


def _class_name(kind: Any) -> str:
    """Package and name of a class; not the module, so that a file outlives a move of the class within its package."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def _is_learned(name: str) -> bool:
    """Scikit-learn's rule; a few of its classifiers keep what they learned under private names."""
    return not name.startswith("__") and (name.startswith("_") or name.endswith("_"))


def _parts(value: Any) -> Iterator[Any]:
    """A value, then the parameters of an estimator or the entries of a list, tuple or dictionary, at any depth."""
    yield value
    if isinstance(value, BaseEstimator):
        value = _parameters(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)


def _leaves(value: Any) -> list[Any]:
    """All parts that are no estimators, lists, tuples or dictionaries themselves, in order."""
    return [part for part in _parts(value) if not isinstance(part, BaseEstimator | Mapping | list | tuple)]


def _classes(value: Any) -> Iterator[type]:
    """The classes of an estimator's parts, and those that they say they learn."""
    for part in _parts(value):
        if isinstance(part, BaseEstimator):
            yield type(part)
            yield from getattr(part, "learned_parts", ())


def _description(value: Any) -> str:
    """What a parameter that is no plain data is, without anything that differs between two processes."""
    if is_dataclass(value):
        return repr(value)
    return _class_name(value) if hasattr(value, "__qualname__") else _class_name(type(value))


def _alike(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) and bool(np.all(first == second)))


class _Writer:
    """Turns values into JSON, and their arrays into tensors."""

    def __init__(self, estimator: BaseEstimator) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.packages: set[str] = set()
        self._given = _leaves(estimator)
        self._seen: dict[int, int] = {}

    def encode(self, value: Any) -> Any:
        """A value as JSON: plain, or a list of its kind and its content."""
        if isinstance(value, _PLAIN) and not isinstance(value, np.generic):
            return value
        if isinstance(value, BaseEstimator):
            return self._estimator(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, Bunch | dict):
            kind = "bunch" if isinstance(value, Bunch) else "dict"
            return [kind, [[self.encode(key), self.encode(part)] for key, part in value.items()]]
        if isinstance(value, list | tuple):
            return ["list" if isinstance(value, list) else "tuple", [self.encode(part) for part in value]]
        if isinstance(value, slice):
            return ["slice", [value.start, value.stop, value.step]]
        for place, given in enumerate(self._given):
            if _alike(given, value):
                return ["given", [place, _description(value)]]
        raise TypeError(f"cannot write {type(value).__name__} {value!r} as plain data")

    def _estimator(self, estimator: BaseEstimator) -> Any:
        if id(estimator) in self._seen:
            return ["same", self._seen[id(estimator)]]
        parameters = _parameters(estimator)
        encoded = {name: self.encode(value) for name, value in parameters.items()}
        state = {name: self.encode(value) for name, value in vars(estimator).items() if _is_learned(name)}
        if state:
            self.packages.add(type(estimator).__module__.partition(".")[0])
        self._seen[id(estimator)] = len(self._seen)
        return ["estimator", [_class_name(type(estimator)), encoded, state]]

    def _array(self, value: Any) -> Any:
        array = np.asarray(value)
        scalar = isinstance(value, np.generic)
        if array.dtype.kind == "U":
            return ["texts", [array.ravel().tolist(), list(array.shape), array.dtype.str, scalar]]
        if array.dtype.kind not in "biuf":
            raise TypeError(f"cannot write an array of {array.dtype} as plain data")
        # Products of matrices differ in the last digit with the order of their numbers in memory, so it is kept.
        by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
        name = str(len(self.tensors))
        self.tensors[name] = torch.from_numpy(np.array(array.T if by_columns else array, order="C"))
        return ["array", [name, by_columns, scalar]]


class _Reader:
    """Turns the JSON of `_Writer` back into values.

    Attributes:
        difference: The first parameter that is described otherwise than in the unfitted estimator; empty for none.
    """

    def __init__(self, unfitted: BaseEstimator, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._given = _leaves(unfitted)
        self._allowed = {_class_name(kind): kind for kind in (*_classes(unfitted), *_HELPERS)}
        self._estimators: list[BaseEstimator] = []
        self.difference = ""

    def decode(self, value: Any) -> Any:
        """The value.

        Raises:
            ValueError: An unknown kind of value, or a class that does not belong to the unfitted estimator.
        """
        if isinstance(value, _PLAIN):
            return value
        kind, content = value
        match kind:
            case "estimator":
                return self._estimator(*content)
            case "same":
                return self._estimators[content]
            case "given":
                place, written = content
                here = _description(self._given[place])
                self.difference = self.difference or ("" if here == written else f"found {written}, expected {here}")
                return self._given[place]
            case "array":
                name, by_columns, scalar = content
                array = self._tensors[name].numpy()
                array = array.T if by_columns else array
                return array[()] if scalar else array
            case "texts":
                cells, shape, dtype, scalar = content
                texts = np.array(cells, np.dtype(str(dtype))).reshape(shape)
                return texts[()] if scalar else texts
            case "dict" | "bunch":
                table = {self.decode(key): self.decode(part) for key, part in content}
                return Bunch(**table) if kind == "bunch" else table
            case "list":
                return [self.decode(part) for part in content]
            case "tuple":
                return tuple(self.decode(part) for part in content)
            case "slice":
                return slice(*content)
        raise ValueError(f"it holds a value of the kind {kind!r}")

    def _estimator(self, name: str, parameters: Mapping[str, Any], state: Mapping[str, Any]) -> BaseEstimator:
        if name not in self._allowed:
            raise ValueError(f"it holds a {name}, which is no part of the estimator that the config builds")
        estimator: BaseEstimator = self._allowed[name](**{key: self.decode(part) for key, part in parameters.items()})
        for key, part in state.items():
            if not _is_learned(key):
                raise ValueError(f"{key!r} is no name of a learned attribute")
            setattr(estimator, key, self.decode(part))
        self._estimators.append(estimator)
        return estimator


def _difference(found: Any, expected: Any, where: str) -> str:
    """The first parameter that differs between two estimators; seeds of random numbers may."""
    if isinstance(expected, BaseEstimator) and type(found) is type(expected):
        found, expected = _parameters(found), _parameters(expected)
        expected.pop("random_state", None)
    if isinstance(expected, list | tuple) and type(found) is type(expected) and len(found) == len(expected):
        found, expected = dict(enumerate(found)), dict(enumerate(expected))
    if isinstance(expected, dict) and isinstance(found, dict):
        parts = (_difference(found.get(key), value, f"{where}.{key}") for key, value in expected.items())
        return next(filter(None, parts), "")
    return "" if _alike(found, expected) else f"{where} is {found!r}, expected {expected!r}"
