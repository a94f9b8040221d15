"""Writing a bundle: what a run learned, copied part by part, so that nothing leaves the run that was not meant to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medformer.config.sharing import without_places
from medformer.crossval.bundle import CARD_FILE, CONFIG_FILE, fold_folder, is_bundle, write_record
from medformer.crossval.plan import Plan, read_plan, some
from medformer.crossval.run.collect import verify_oof
from medformer.crossval.run.contract import Predictor
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.start.seen import SEEN_BY_BUNDLE, write_seen_hashes
from medformer.data.training_range import share_range
from medformer.errors import ConfigError, DataError, counted
from medformer.evaluation.metrics import table_of
from medformer.files import sha256, strict_json, write_text
from medformer.models.weights.table import find_source
from medformer.records import read_record
from medformer.tasks import get_task
from medformer.tasks.onnx_export import describe_parity, export_onnx, own_validation
from medformer.tasks.trained import Trained, open_run, open_trained, predictor_hash
from medformer.tensor_file import count_floating
from medformer.training.banks import cases_in_memory
from medformer.training.job import WEIGHTS
from medformer.yaml_files import dump_yaml

USE = "Research use only; not a medical device. Not for diagnosis, treatment or any decision about a patient."
LICENSE = (
    "The code is Apache-2.0. The owner of the weights decides on their license, within what the training data allow."
)

ONNX = "onnx"
"""Folder of ONNX files in a bundle."""

Card = Callable[[Path, Mapping[str, Any]], str]
"""Makes the model card from the folder of the run and what `bundle.json` will say."""


class Exported(NamedTuple):
    """What came of an export.

    Attributes:
        record: What `bundle.json` says.
        notes: What the user must know, as sentences.
    """

    record: Mapping[str, Any]
    notes: Sequence[str]


def export_bundle(
    path: Path, out: Path, card: Card, *, fold: str = "all", hashes: bool = True, onnx: bool = False
) -> Exported:
    """Write a bundle of a run into an empty folder.

    Args:
        path: The run.
        out: The folder.
        card: Makes the model card.
        fold: The number of a fold, or `all` for every fold that has learned.
        hashes: Keep hashes of what the networks were trained on, by which a run that starts from the bundle refuses to
            test it.
        onnx: Add ONNX files (see `medformer.tasks.onnx_export`), below `onnx/`.

    Raises:
        ConfigError: It is no run, or has no such fold, or cannot be expressed in ONNX.
        DataError: A file of it is damaged or was edited, or what it learned shows single cases.
        ResourceError: The folder cannot be written to.
    """
    if is_bundle(path):
        raise ConfigError(f"{path} is a bundle already; it can be copied as it is. Give the folder of a run to export.")
    trained, (run, _) = open_trained(path), open_run(path)
    plan, folders = read_plan(run.splits_json), _chosen(trained, fold)
    task, config = get_task(trained.task), without_places(trained.config, find_source)
    cases = {case.id: case for case in plan.cases}
    for folder in folders:
        train = [cases[name] for name in plan.folds[int(folder.name)].train]
        task.share(trained.config, folder, fold_folder(out, folder.name), train)
        share_range(folder, fold_folder(out, folder.name))
    write_text(out / CONFIG_FILE, dump_yaml(config.model_dump(mode="json")))
    shared = [fold_folder(out, folder.name) for folder in folders]
    # Whoever gets the bundle loads it so.
    predictor = task.load(config, shared, torch.device("cpu"))
    notes = [trained.note] if trained.note and fold == "all" else []
    content = {
        "task": trained.task,
        "target": getattr(config, "target", "classification" if trained.task == "abide" else "segmentation"),
        "network": {**config.model.model_dump(mode="json"), "parameters": count_floating(shared[0] / WEIGHTS)},
        "started_from": started_from(trained.config, run.record()["pretrained"]),
        "folds": [int(folder.name) for folder in folders],
        "folds_of_run": len(plan.folds),
        "networks": len(folders) * getattr(config, "members", 1),
        **task.describe(config, shared),
        # Label maps take the most probable label.
        "threshold": getattr(predictor, "threshold", None),
        "pretrained": run.record()["pretrained"],
        "training": config.training.model_dump(mode="json"),
        "trained_with": dict((run.record()["sessions"] or [{}])[-1].get("versions") or {}),
        "evaluation": _evaluation(run, plan),
        **({"onnx": _onnx(trained, folders, predictor, out / ONNX, notes)} if onnx else {}),
        "use": USE,
        "license": LICENSE,
        "made_by": predictor_hash(run.config_yaml, folders),
    }
    if held := {name for folder in folders for name in cases_in_memory(folder)}:
        content["remembered"] = len(held)
    if hashes:
        write_seen_hashes(run, content["folds"], out / SEEN_BY_BUNDLE)
        content["seen"] = SEEN_BY_BUNDLE
    # The card says what the record does, and is among the files that the record lists.
    write_text(out / CARD_FILE, card(path, content))
    return Exported(write_record(out, content), [*notes, *_notes(content, hashes)])


def _onnx(
    trained: Trained, folders: Sequence[Path], predictor: Predictor, out: Path, notes: list[str]
) -> list[dict[str, Any]]:
    """Write the ONNX files, and say of each how far it is from what PyTorch computes; `notes` gets what went wrong."""
    validation = None
    try:
        validation = own_validation(replace(trained, folders=tuple(folders)))
    except (ConfigError, DataError) as error:
        # No part of the record, which leaves the house: it holds paths.
        notes.append(f"the data of the run cannot be opened, so that made-up cases check the ONNX files: {error}")
    written = export_onnx(trained.task, predictor, out, validation)
    return [{name: record.get(name) for name in ("file", "sha256", "parity", "int8")} for record in written]


def _notes(content: Mapping[str, Any], hashes: bool) -> list[str]:
    notes = []
    if hashes:
        notes.append(
            f"{SEEN_BY_BUNDLE} holds hashes of the training images: whoever has one of these files can see that it was "
            "trained on. --no-hashes leaves them out."
        )
    if held := content.get("remembered"):
        notes.append(
            f"the memory of the networks holds numbers computed from {counted(held, 'training case')}, without names: "
            "whoever has one of these cases can see that it was trained on."
        )
    if content["evaluation"] is None:
        notes.append("the run has no results (yet); the model card says that nothing is known of how well it does.")
    for record in content.get("onnx", ()):
        notes.append(describe_parity(record))
    if sites := content["input"].get("sites"):
        notes.append(
            f"features are corrected by site, so the bundle names the {counted(len(sites), 'site')} of the training: "
            f"{some(sites, 5)}."
        )
    return notes


def _chosen(trained: Trained, fold: str) -> Sequence[Path]:
    """The folders of the folds to export.

    Raises:
        ConfigError: There is no such fold.
    """
    if fold == "all":
        return trained.folders
    chosen = [folder for folder in trained.folders if folder.name == fold]
    if not chosen:
        there = some([folder.name for folder in trained.folders], 20)
        raise ConfigError(f"--fold {fold}: {trained.path} has no trained fold of this number; give all, or {there}.")
    return chosen


def started_from(config: Any, pretrained: Mapping[str, Any]) -> str:
    """What the first weights were, in words."""
    named = "{name} (trained on: {data}; license: {license})".format_map(pretrained) if pretrained else ""
    if getattr(config.training, "init_from", ""):
        return "the network of another run" + (f", whose encoder had started from {named}" if named else "")
    if config.pretraining.weights:
        return "an encoder that was pretrained without labels"
    if config.pretraining.enabled:
        return "an encoder that was pretrained without labels" + (f", beginning with {named}" if named else "")
    if named:
        return named
    # Runs of earlier versions do not say more.
    return "pretrained weights" if getattr(config.model, "weights", None) else "random weights"


def _evaluation(run: RunDirectory, plan: Plan) -> dict[str, Any] | None:
    """The numbers of the run over all its test cases, with intervals; None where it has none (yet).

    Raises:
        DataError: The table of scores, or the numbers, are not those of the run.
    """
    if not (run.oof_csv.is_file() and run.metrics_json.is_file()):
        return None
    verify_oof(run)
    metrics = read_record(run.metrics_json, dict[str, Any], f"Write it again with `medformer report {run.path}`.")
    if metrics.get("source", {}).get("sha256") != sha256(run.oof_csv):
        raise DataError(
            f"{run.metrics_json} was not computed from {run.oof_csv.name} as it is now. Run `medformer report "
            f"{run.path}`, and export again."
        )
    pooled = metrics["pooled"]
    found: dict[str, Any] = {
        "of": "the network of each fold on the cases that this fold tested, which it had not seen",
        "scheme": plan.scheme,
        "folds": len(plan.folds),
        "cases": len({name for fold in plan.folds for name in fold.test}),
        "groups": pooled["groups"],
        "sites": len({case.site for case in plan.cases if case.site}),
        "interval": metrics.get("definitions", {}).get("interval", ""),
        "metrics": _numbers(metrics, pooled),
        "by_label": {name: _numbers(metrics, part) for name, part in (metrics.get("by_label") or {}).items()},
    }
    if "positives" in pooled:
        found["positives"] = pooled["positives"]
    return dict(strict_json(found))


def _numbers(metrics: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The mean or value of each metric, and its 95% interval."""
    return {
        name: {"value": entry.get("mean", entry.get("value")), "low": entry.get("low"), "high": entry.get("high")}
        for name, entry in part["metrics"].items()
        if name in table_of(metrics)
    }
