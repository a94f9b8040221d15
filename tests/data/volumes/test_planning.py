"""Plans from facts: spacing, intensity, patch and batch under a memory limit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest

from medformer.config import VolumePlanConfig
from medformer.data.volumes.inspect.facts import CaseFacts, ChannelFacts
from medformer.data.volumes.plan.patch_size import BATCH_SHARE, MAX_PATCH, candidate_patches
from medformer.data.volumes.plan.planning import plan_volumes, target_spacing
from medformer.data.volumes.plan.volume_plan import Intensity, describe_plan
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.errors import ConfigError, DataError
from medformer.imaging.geometry import Axes

INFO = DatasetInfo(((1, "liver"), (2, "tumor")), ("MRI",))
FIXED = 300e6
PER_VOXEL = 1000


def cost(patch: Axes, strides: tuple[Axes, ...], kernel_sizes: tuple[Axes, ...], batch_size: int) -> int:
    return int(FIXED + PER_VOXEL * prod(patch) * batch_size)


def facts(
    shape: Axes = (35, 50, 36),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    identifier: str = "a",
    minimum: float = 0.0,
    foreground: tuple[float, ...] = tuple(np.linspace(50.0, 150.0, 400)),
) -> CaseFacts:
    channel = ChannelFacts(
        minimum=minimum,
        maximum=1000.0,
        mean=20.0,
        std=30.0,
        foreground=foreground,
        foreground_mean=float(np.mean(foreground)) if foreground else 0.0,
        foreground_std=float(np.std(foreground)) if foreground else 0.0,
    )
    return CaseFacts(identifier, shape, spacing, (channel,), {1: 1000, 2: 100}, float(np.prod(spacing)))


def test_a_small_structure_is_seen_whole() -> None:
    plan = plan_volumes([facts()] * 200, settings=VolumePlanConfig(), info=INFO, cost=cost)

    assert plan.patch == (40, 56, 40)
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.labels == INFO.labels
    assert plan.intensity == (Intensity("zscore"),)
    assert plan.batch_size == int(BATCH_SHARE * 200 * 35 * 50 * 36 / prod(plan.patch))
    assert plan.memory_bytes == cost(plan.patch, plan.strides, plan.kernel_sizes, plan.batch_size)
    assert any("padded" in note for note in plan.notes)


@pytest.mark.parametrize("gigabytes", [0.4, 0.6, 1.0, 2.0, 4.0, 8.0])
def test_a_plan_stays_within_its_memory_and_uses_it(gigabytes: float) -> None:
    case = facts((512, 512, 300), (0.8, 0.8, 1.0))
    plan = plan_volumes([case] * 20, settings=VolumePlanConfig(memory=gigabytes), info=INFO, cost=cost)

    assert plan.memory_bytes <= gigabytes * 1e9
    assert plan.batch_size >= 2
    # One step along one axis more would not have fitted: nothing worth mentioning is left over.
    larger = [
        cost(candidate, layout.strides, layout.kernel_sizes, 2)
        for candidate, layout in candidate_patches((512, 512, 300), plan.spacing)
        if prod(candidate) > prod(plan.patch)
    ]
    assert not larger or min(larger) > gigabytes * 1e9


def test_candidates_only_ever_shrink_and_start_from_the_stated_size() -> None:
    for shape, spacing in [
        ((512, 512, 800), (0.8, 0.8, 1.0)),
        ((320, 320, 24), (0.6, 0.6, 3.6)),
        ((70, 3, 40), (1, 1, 1)),
    ]:
        patches = [patch for patch, _ in candidate_patches(shape, spacing)]
        assert len(patches) == len(set(patches))
        for before, after in pairwise(patches):
            assert prod(after) < prod(before)
            assert all(n <= m for n, m in zip(after, before, strict=True))
        assert prod(patches[0]) <= 1.5 * MAX_PATCH


def test_a_thin_scan_leaves_its_voxels_to_the_other_axes() -> None:
    plan = plan_volumes([facts((320, 320, 24), (0.6, 0.6, 3.6))] * 9, settings=VolumePlanConfig(), info=INFO, cost=None)

    assert plan.patch[2] == 24
    assert plan.patch[0] == plan.patch[1] >= 288
    assert plan.strides[0] == (2, 2, 1)


def test_too_little_memory_says_what_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"at least 0\.31 GB \(patch 16 x 16 x 16, batch size 2\); plan\.memory"):
        plan_volumes([facts()], settings=VolumePlanConfig(memory=0.3), info=INFO, cost=cost)


def test_what_is_advised_where_memory_lacks_can_still_be_done() -> None:
    few, many = VolumePlanConfig(memory=0.3), VolumePlanConfig(memory=0.3, batch_size=500)
    way = "set model.checkpointing=true"
    with pytest.raises(
        ConfigError, match=r"raise it \(--memory\), lower plan\.batch_size, set model\.ch.*, or choose a"
    ):
        plan_volumes([facts()], settings=many, info=INFO, cost=cost, savings=[way])
    with pytest.raises(ConfigError, match=r"raise it \(--memory\), or choose a smaller model \(model\.name\)"):
        plan_volumes([facts()], settings=few, info=INFO, cost=cost)


@pytest.mark.parametrize(("cases", "gigabytes", "said"), [(20, 8.0, True), (20, 0.4, False), (4000, 2.0, False)])
def test_a_plan_says_where_few_cases_leave_memory_unused(cases: int, gigabytes: float, said: bool) -> None:
    plan = plan_volumes([facts()] * cases, settings=VolumePlanConfig(memory=gigabytes), info=INFO, cost=cost)
    assert any("memory is left" in note for note in plan.notes) is said


def test_what_is_given_is_kept() -> None:
    settings = VolumePlanConfig(patch=(30, 32, 40), spacing=(2.0, 1.0, 1.0), batch_size=3, orientation="LPS")
    plan = plan_volumes([facts()] * 10, settings=settings, info=INFO, cost=cost)

    assert (plan.patch, plan.spacing, plan.batch_size, plan.orientation) == ((30, 32, 40), (2.0, 1.0, 1.0), 3, "LPS")


def test_a_given_patch_that_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"plan\.patch=\[128, 128, 128\] .* needs 4\.49 GB; plan\.memory allows 2 GB"):
        plan_volumes([facts()], settings=VolumePlanConfig(patch=(128,) * 3, memory=2.0), info=INFO, cost=cost)


def test_spacing_is_the_median_of_the_cases() -> None:
    cases = [facts(spacing=(1.0, 1.0, z)) for z in (1.0, 1.2, 1.2, 2.0, 2.5)]

    assert target_spacing(cases) == (1.0, 1.0, 1.2)


def test_a_much_coarser_axis_takes_the_fine_end_of_its_spacings() -> None:
    notes: list[str] = []
    cases = [facts((400, 400, 40), (0.7, 0.7, z)) for z in np.linspace(2.0, 10.0, 101)]

    spacing = target_spacing(cases, notes)

    assert spacing[:2] == (0.7, 0.7)
    assert spacing[2] == pytest.approx(2.8)
    assert notes
    # Many slices of that thickness are no reason to change it: only both together are.
    assert target_spacing([facts((400, 400, 300), (0.7, 0.7, z)) for z in (2.0, 5.0, 5.0)])[2] == 5.0


def test_the_fine_end_is_never_finer_than_the_other_axes() -> None:
    cases = [facts((400, 400, 40), (0.7, 0.7, z)) for z in [0.5] * 20 + [5.0] * 80]

    assert target_spacing(cases)[2] == 0.7


@pytest.mark.parametrize(
    ("name", "minimum", "setting", "scheme"),
    [
        ("MRI", 0.0, "auto", "zscore"),
        ("CT", 0.0, "auto", "ct"),
        ("abdominal ct", 0.0, "auto", "ct"),
        ("CTA_venous", 0.0, "auto", "zscore"),
        ("spectrum", 0.0, "auto", "zscore"),
        ("image", -1024.0, "auto", "ct"),
        ("CT", -1024.0, "zscore", "zscore"),
        ("MRI", 0.0, "ct", "ct"),
    ],
)
def test_ct_is_known_by_its_name_or_its_air(name: str, minimum: float, setting: str, scheme: str) -> None:
    settings = VolumePlanConfig.model_validate({"intensity": setting})
    plan = plan_volumes(
        [facts(minimum=minimum)] * 3, settings=settings, info=replace(INFO, channels=(name,)), cost=None
    )

    assert plan.intensity[0].scheme == scheme


def test_ct_is_clipped_by_pooled_percentiles_of_the_foreground() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(mean, 10.0, 20_000) for mean in (40.0, 60.0, 80.0)]
    ranks = (np.arange(400) + 0.5) / 400
    cases = []
    for sample in samples:
        case = facts(foreground=tuple(float(value) for value in np.quantile(sample, ranks)))
        channel = replace(case.channels[0], foreground_mean=float(sample.mean()), foreground_std=float(sample.std()))
        cases.append(replace(case, channels=(channel,)))
    pooled = np.concatenate(samples)

    plan = plan_volumes(cases, settings=VolumePlanConfig(intensity="ct"), info=INFO, cost=None)

    chosen = plan.intensity[0]
    assert [chosen.low, chosen.high] == pytest.approx(list(np.percentile(pooled, [0.5, 99.5])), abs=1.0)
    assert chosen.mean == pytest.approx(pooled.mean())
    assert chosen.std == pytest.approx(pooled.std())


def test_ct_without_any_foreground_is_refused() -> None:
    with pytest.raises(ConfigError, match="no training case has foreground"):
        plan_volumes([facts(foreground=())], settings=VolumePlanConfig(intensity="ct"), info=INFO, cost=None)


def test_classification_sees_whole_volumes() -> None:
    plan = plan_volumes(
        [facts((28, 28, 28))] * 1000, settings=VolumePlanConfig(), info=INFO, cost=cost, target="classification"
    )

    assert plan.patch == (28, 28, 28)
    assert [step[0] for step in plan.strides] == [2, 2, 2, 1], "from 28 over 14 and 7 to 4 positions"
    assert plan.labels == ()
    assert plan.batch_size == 16


def test_classification_gets_coarser_rather_than_cropped() -> None:
    plan = plan_volumes(
        [facts((256, 256, 200))] * 50,
        settings=VolumePlanConfig(memory=2.0),
        info=INFO,
        cost=cost,
        target="classification",
    )

    assert plan.memory_bytes <= 2e9
    assert plan.spacing[0] > 1.5
    assert all(n * mm >= extent for n, mm, extent in zip(plan.patch, plan.spacing, (255, 255, 199), strict=True))
    assert any("coarser" in note for note in plan.notes)


def test_a_plan_needs_cases_with_equally_many_channels() -> None:
    one = facts()
    two = replace(one, id="b", channels=one.channels * 2)
    with pytest.raises(DataError, match="Case 'b' has 2 channels, case 'a' has 1"):
        plan_volumes([one, two], settings=VolumePlanConfig(), info=INFO, cost=None)
    with pytest.raises(DataError, match="no training cases"):
        plan_volumes([], settings=VolumePlanConfig(), info=INFO, cost=None)


def test_a_plan_is_told_in_words() -> None:
    cases = [facts()] * 20
    plan = plan_volumes(cases, settings=VolumePlanConfig(), info=INFO, cost=cost)

    text = describe_plan(plan, cases, seconds_per_epoch=90.0, whole_run=(90.0 * 200 * 5, "5 folds of 200 epochs"))

    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "40 x 56 x 40 voxels" in lines["patch"]
    assert "smallest: tumor, median 0.1 ml" in lines["labels"]
    assert f"{plan.memory_bytes / 1e9:.1f} GB" in lines["memory"]
    assert "1 min 30 s per epoch" in lines["time"]
    assert "1 d 1 h" in lines["whole run"] and "5 folds of 200 epochs" in lines["whole run"]
    many = replace(plan, labels=tuple((value, f"region {value}") for value in range(1, 42)))
    assert max(map(len, describe_plan(many, cases).splitlines())) < 160
    assert "6 region 6 and 35 more" in describe_plan(many, cases)
    assert "z-score" in lines["intensity"]


def test_a_spacing_that_leaves_next_to_nothing_or_fills_all_memory_is_refused() -> None:
    cases = [facts(shape=(100, 100, 60))] * 3
    settings = VolumePlanConfig(spacing=(100.0, 100.0, 100.0))
    with pytest.raises(ConfigError, match=r"voxels of 100 x 100 x 100 mm leave 1 x 1 x 1 of the median case's 100 x"):
        plan_volumes(cases, settings=settings, info=INFO, cost=None)
    settings = VolumePlanConfig(spacing=(0.01, 0.01, 0.01))
    with pytest.raises(ConfigError, match=r"make 10000 x 10000 x 6000 of the median case's 100 x .* takes 2400 GB"):
        plan_volumes(cases, settings=settings, info=INFO, cost=None)
    thin = [facts(shape=(100, 100, 3))] * 3
    assert plan_volumes(thin, settings=VolumePlanConfig(spacing=(2.0, 2.0, 1.0)), info=INFO, cost=None).spacing[0] == 2


def test_time_makes_steps_smaller_and_keeps_what_is_anisotropic() -> None:
    cases = [facts((256, 224, 10), (1.4, 1.4, 9.0))] * 20
    full = plan_volumes(cases, settings=VolumePlanConfig(memory=64.0), info=INFO, cost=cost)
    limit = 2 * prod(full.patch) // 4
    quick = plan_volumes(cases, settings=VolumePlanConfig(memory=64.0, voxels=limit), info=INFO, cost=cost)

    assert quick.batch_size * prod(quick.patch) <= limit < 2 * prod(full.patch)
    # Whole in the coarse axis, as before; voxels are lost where there are many.
    assert quick.patch[2] == full.patch[2] and quick.patch[0] < full.patch[0] and quick.patch[1] < full.patch[1]
    assert quick.strides == full.strides and quick.spacing == full.spacing
    assert any(f"a step may have {limit} voxels" in note for note in quick.notes)
    assert not any("plan.voxels" in note for note in full.notes)


def test_a_step_gets_fewer_small_patches_before_they_become_smaller() -> None:
    full = plan_volumes([facts()] * 200, settings=VolumePlanConfig(), info=INFO, cost=cost)
    few = 3 * prod(full.patch)
    quick = plan_volumes([facts()] * 200, settings=VolumePlanConfig(voxels=few), info=INFO, cost=cost)
    assert (quick.patch, quick.batch_size) == (full.patch, 3) and quick.notes == full.notes[:1]
    least = plan_volumes([facts()] * 200, settings=VolumePlanConfig(voxels=16**3), info=INFO, cost=None)
    assert max(least.patch) <= 24 and least.batch_size == 2
