"""Masked pretraining on volumes: in a fold, on its own training cases, or on all of a manifest at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medformer.config import VolumeConfig
from medformer.crossval.plan import Fold, PlanCase
from medformer.crossval.plan.schemes import predefined_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.data.manifest import Case, image_hash
from medformer.data.network_inputs import ItemImages
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.plan.volume_plan import VolumePlan, read_volume_plan
from medformer.data.volumes.prepare.augment import VolumeAugmentation
from medformer.data.volumes.prepare.patches import PatchData
from medformer.data.volumes.prepare.store import PreparedStore
from medformer.errors import CheckpointError
from medformer.models.autoencoder import MaskedAutoencoder, masked_autoencoder
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.pretraining.masks import BlockMask
from medformer.training.pretraining.pretrain import pretrain, pretraining_settings, read_encoder
from medformer.training.pretraining.reconstruction import ReconstructionLoss, VisibleMean
from medformer.training.pretraining.seen import SeenCase, write_seen
from pipelines.console import make_reporter, say
from pipelines.run import Source, recorded
from pipelines.volume_data import open_volumes
from pipelines.volume_network import metadata, new_network, planned_training
from pipelines.volume_plan import PLAN, Planner


def first_network(
    config: VolumeConfig,
    plan: VolumePlan,
    fold: Fold,
    cases: Mapping[str, Case],
    extra: Sequence[Case],
    *,
    folder: Path,
    cache: Path,
    seed: int,
    resume: bool,
    run: Path,
    reporter: Reporter,
) -> nn.Module:
    """The network that a fold's training starts from: as drawn, or with an encoder that reconstructed hidden blocks.

    Args:
        config: The run's config.
        plan: Of the fold.
        fold: Whose test cases are never seen.
        cases: Cases of the manifest by id.
        extra: Unlabeled cases that pretraining may see too, none of which any fold tests.
        folder: Of the fold; `pretraining/` and `pretraining.json` are left there.
        cache: Folder of prepared volumes.
        seed: Of the fold.
        resume: Continue what an earlier attempt left.
        run: Folder of the run.
        reporter: Told about every step.
    """
    network = new_network(config, plan, derive_seed(seed, "weights"))
    if config.pretraining.weights:
        encoder = _read_encoder(config, plan, Path(config.pretraining.weights))
    elif config.pretraining.enabled:
        pretrained, _ = _pretrain(
            config,
            plan,
            [*(cases[name] for name in fold.train), *extra],
            [cases[name] for name in fold.validation],
            out=folder / "pretraining",
            record=folder / "pretraining.json",
            cache=cache,
            seed=derive_seed(seed, "pretraining"),
            resume=resume,
            metadata=metadata(config, plan, fold, "pretraining"),
            run=run,
            reporter=reporter,
        )
        encoder = dict(pretrained.encoder.state_dict())
    else:
        return network
    network.get_submodule("backbone").load_state_dict(encoder)
    return network


def _read_encoder(config: VolumeConfig, plan: VolumePlan, folder: Path) -> dict[str, Any]:
    """Read the encoder that `medformer volume pretrain` left.

    Raises:
        CheckpointError: There is none, or it is of another network or plan.
    """
    seen = read_volume_plan(folder / PLAN)
    differing = [name for name in ("strides", "kernel_sizes") if getattr(seen, name) != getattr(plan, name)]
    if differing:
        raise CheckpointError(
            f"pretraining.weights: the encoder in {folder} was planned with other {' and '.join(differing)}. Pretrain "
            "with the same plan.spacing and plan.patch as this run's."
        )
    return read_encoder(folder, masked_autoencoder(new_network(config, plan, 0)))


def pretrain_volumes(*, config: VolumeConfig, out: Path, resume: bool, overwrite: bool) -> None:
    """Pretrain on all volumes of a manifest or folder, with a part of them held out for choosing weights."""
    reporter = make_reporter()
    volumes = open_volumes(config.data, out, reporter)
    manifest = volumes.manifest
    run = RunDirectory.create(out, resume=resume, overwrite=overwrite)
    with recorded(run, config, Source(manifest.path, manifest.root, volumes.digest())):
        volumes.keep()
        records = inspect_volumes(manifest.cases, masks=bool(volumes.info.labels), reporter=reporter)
        ids = [case.id for case in manifest.cases]
        plan = Planner(config, volumes.info, records).plan_once(out / PLAN, ids)
        fold = predefined_plan(
            [PlanCase(case.id, case.group, site=case.site) for case in manifest.cases],
            train=ids,
            validation=config.crossval.validation,
            seed=config.seed,
        ).folds[0]
        write_seen(out, case_prints(manifest.cases))
        _, quality = _pretrain(
            config,
            plan,
            [manifest.by_id[name] for name in fold.train],
            [manifest.by_id[name] for name in fold.validation],
            out=out,
            record=out / "pretraining.json",
            cache=out / "cache",
            seed=derive_seed(config.seed, "pretraining of all volumes"),
            resume=resume,
            metadata=metadata(config, plan, fold, "pretraining"),
            run=out,
            reporter=reporter,
        )
    say(
        f"Masked voxels of {len(fold.validation)} held-out volumes: mean squared error {quality['masked_mse']:.4f}; "
        f"guessing the mean of the visible ones gives {quality['mean_visible_mse']:.4f}."
    )
    say(f"Encoder: {out}. Use it with pretraining.weights={out}")


def case_prints(cases: Sequence[Case]) -> dict[str, SeenCase]:
    """By id: the patient, and a hash of the images."""
    return {case.id: SeenCase(case.group, image_hash(case.images)) for case in cases}


def _pretrain(
    config: VolumeConfig,
    plan: VolumePlan,
    train: Sequence[Case],
    validation: Sequence[Case],
    *,
    out: Path,
    record: Path,
    cache: Path,
    seed: int,
    resume: bool,
    metadata: Mapping[str, object],
    run: Path,
    reporter: Reporter,
) -> tuple[MaskedAutoencoder, dict[str, Any]]:
    wanted = config.pretraining
    store = PreparedStore(
        cache, plan, [*train, *validation], memory_gb=config.data.cache, labels=False, reporter=reporter
    )
    network = masked_autoencoder(new_network(config, plan, derive_seed(seed, "weights")), derive_seed(seed, "decoder"))

    def patches(cases: Sequence[Case], augmentation: VolumeAugmentation | None) -> PatchData:
        names = [case.id for case in cases]
        return PatchData(store, plan, names, config=config.data, augmentation=augmentation, seed=seed)

    judge = ReconstructionLoss(
        BlockMask(wanted.block, wanted.ratio),
        ItemImages(patches(validation, None)),
        VisibleMean(),
        unit="patches",
        batch_size=config.inference.batch_size,
        seed=derive_seed(seed, "validation masks"),
    )
    quality = pretrain(
        network,
        patches(train, VolumeAugmentation(config.augment, plan.spacing)),
        judge,
        pretraining_settings(planned_training(config, plan), wanted),
        out=out,
        record=record,
        seed=seed,
        workers=config.data.workers,
        resume=resume,
        metadata=metadata,
        run=run,
        reporter=reporter,
    )
    return network, quality
