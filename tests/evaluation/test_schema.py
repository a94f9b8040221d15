from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from medformer.evaluation.masks import segmentation
from medformer.evaluation.masks import volumes as label_maps
from medformer.evaluation.metrics import CLASSES, LABEL_MAPS, MASKS, in_summary
from medformer.evaluation.schema import metrics_schema
from medformer.evaluation.statistics.resampling import Bootstrap
from medformer.evaluation.summary import summarize

DATA: dict[str, list[Any]] = {"sex": ["m", "f", ""], "age": [14, 50, ""], "site": ["a", "b", ""]}


def strict(content: Any) -> Any:
    """As written: NaN is null."""
    return json.loads(json.dumps(content).replace("NaN", "null"))


def problems(content: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(metrics_schema()).iter_errors(strict(content))]


def covariates(index: int) -> dict[str, Any]:
    more = {name: values[index % 3] for name, values in DATA.items()}
    return {**more, "fold": index % 2, "repeat": index // 6, "group": f"g{index // 2}"}


def images(empty: Any = "one") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pairs = [(rng.random((9, 9)), rng.random((9, 9)) > 0.5 + 0.1 * index) for index in range(12)]
    rows = [segmentation.case_row(f"c{k}", *pair, empty=empty) for k, pair in enumerate(pairs)]
    named = {"scanner": [*"aabb", *[""] * 8], "height": [150 + index for index in range(12)]}
    rows = [{**row, **covariates(index)} for index, row in enumerate(rows)]
    return summarize(rows, Bootstrap(resamples=50), covariates=named)


def volumes() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = [
        segmentation.case_row(f"v{k}", rng.random((3, 6, 6)), rng.random((3, 6, 6)) > 0.8, spacing=(3, 1, 1))
        for k in range(3)
    ]
    return summarize(rows, Bootstrap(resamples=50))


def labels() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = {1: "Anterior", 2: "posterior, <b>"}
    pairs = [rng.integers(0, 3, (2, 4, 5, 6)) for _ in range(6)]
    rows = [label_maps.volume_row(f"v{k}", *pair, labels=names, spacing=(1, 1, 2)) for k, pair in enumerate(pairs)]
    return summarize([{**row, **covariates(index)} for index, row in enumerate(rows)], Bootstrap(resamples=50))


def patients() -> dict[str, Any]:
    scores = np.random.default_rng(0).random(12).tolist()
    rows = [
        {
            "id": f"p{k}",
            "label": k % 2,
            "score": score,
            "prediction": int(score > 0.5),
            "threshold": 0.5,
            **covariates(k),
        }
        for k, score in enumerate(scores)
    ]
    return summarize(rows, Bootstrap(resamples=50), covariates={"scanner": [*"ab"] * 6})


IMAGES = images()
SUMMARIES = {"images": images, "volumes": volumes, "labels": labels, "patients": patients}


def test_the_schema_itself_is_valid() -> None:
    Draft202012Validator.check_schema(metrics_schema())


@pytest.mark.parametrize("name", SUMMARIES)
def test_real_summaries_follow_the_schema(name: str) -> None:
    summary = SUMMARIES[name]()
    assert problems(summary) == []
    source = {"file": "oof.csv", "sha256": "0" * 64}
    assert problems({"source": source, **summary}) == []


@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_every_policy_follows_the_schema(policy: str) -> None:
    assert problems(images(policy)) == []


def objects(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all objects whose keys the program chooses, not the data; of parts that look alike one stays."""
    if isinstance(content, dict):
        if path and (path[-1].startswith("by_") or path[-2:-1] == ("by_covariate",)):
            for key in list(content)[1:]:
                del content[key]
        else:
            yield path
        for key, value in content.items():
            yield from objects(value, (*path, key))


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_key_that_is_not_documented_fails_wherever_it_is(name: str) -> None:
    summary = strict(SUMMARIES[name]())
    validator = Draft202012Validator(metrics_schema())
    paths = list(objects(summary))
    assert validator.is_valid(summary)
    for path in paths:
        place = summary
        for key in path:
            place = place[key]
        place["surprise"] = 1
        assert not validator.is_valid(summary), "/".join(path)
        del place["surprise"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "medformer-metrics/2"),
        (("kind",), "regression"),
        (("n",), -1),
        (("pooled", "n"), 1.5),
        (("pooled", "metrics", "dice", "mean"), "0.8"),
        (("pooled", "lesions", "f1"), 1.2),
        (("empty_policy",), "both"),
        (("definitions", "interval"), ""),
        (("source",), {"file": "oof.csv", "sha256": "abc"}),
    ],
)
def test_wrong_values_fail(path: tuple[str, ...], value: Any) -> None:
    summary = strict(IMAGES)
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert problems(summary)


@pytest.mark.parametrize("key", ["format", "kind", "n", "empty_policy", "definitions", "pooled"])
def test_what_every_file_has_is_required(key: str) -> None:
    summary = {**IMAGES}
    del summary[key]
    assert problems(summary)


def test_the_schema_knows_every_metric_and_describes_every_field() -> None:
    schema = metrics_schema()
    for kind, metrics in (("segmentation", in_summary(MASKS)), ("classification", CLASSES)):
        described = schema["$defs"][f"{kind}_block"]["properties"]["metrics"]["properties"]
        assert list(described) == list(metrics)
    assert list(schema["$defs"]["label_block"]["properties"]["metrics"]["properties"]) == list(LABEL_MAPS)
    for name, part in schema["$defs"].items():
        for key, field in part.get("properties", {}).items():
            own = field if "$ref" not in field else schema["$defs"][field["$ref"].rpartition("/")[2]]
            assert "description" in {**own, **field} or "const" in field, f"{name}/{key}"
