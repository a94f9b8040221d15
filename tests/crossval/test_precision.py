"""What `training.precision=auto` becomes, and that a run keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medformer.config import PolypConfig
from medformer.crossval.run.begin import precision
from medformer.crossval.run.begin.precision import decide_precision
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import RunInfo, session
from medformer.models.precision import bfloat16_units
from medformer.training.parity import noise


@dataclass(frozen=True)
class Stub:
    """What of a study the decision asks for."""

    config: PolypConfig
    layer: Callable[[], nn.Module] | None = None

    def configured(self, config: PolypConfig) -> Stub:
        return replace(self, config=config)

    def trial(self) -> Any:
        return None if self.layer is None else (self.layer, noise(3, (16, 16)))


def asked(wanted: str, layer: Callable[[], nn.Module] | None = None, **others: Any) -> Any:
    training = {"precision": wanted, "accelerator": "cpu"}
    return Stub(PolypConfig.model_validate({"training": training, **others}), layer)


def layer() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3)


class Needy(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no kernel for 'BFloat16'")
        return super().forward(x)


class Silent(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise AssertionError
        return super().forward(x)


class Foreign(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out + float(out.detach().numpy().mean())


class Vast(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out * torch.inf if out.dtype is torch.bfloat16 else out


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda device: "AVX-512 BF16")


def decided(study: Any, out: Path, *, resume: bool = False) -> tuple[str, str]:
    found, said = decide_precision(study, out, resume=resume)
    return found.config.training.precision, " ".join(said)


@pytest.mark.usefixtures("quick")
def test_a_quick_device_and_a_sound_network_give_bfloat16(tmp_path: Path) -> None:
    taken, said = decided(asked("auto", layer), tmp_path)
    assert taken == "bf16-mixed"
    # Predictions stay in single precision unless the user says otherwise.
    assert decide_precision(asked("auto", layer), tmp_path, resume=False)[0].config.inference.precision == "32-true"
    own = asked("auto", layer, inference={"precision": "bf16-mixed"})
    assert decide_precision(own, tmp_path, resume=False)[0].config.inference.precision == "bf16-mixed"
    assert said.startswith("training.precision=auto took bf16-mixed: this cpu has fast instructions for bfloat16 (AVX-")
    assert " % off" in said


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Needy(3, 4, 3), "failed in it (no kernel for 'BFloat16')"),
        (lambda: Silent(3, 4, 3), "failed in it (AssertionError)"),
        (lambda: Foreign(3, 4, 3), "failed in it (Got unsupported ScalarType BFloat16)"),
        (lambda: Vast(3, 4, 3), "not finite"),
        (None, "networks of connectomes predict in single precision"),
    ],
)
def test_what_bfloat16_does_not_suit_stays_in_single_precision(build: Any, why: str, tmp_path: Path) -> None:
    taken, said = decided(asked("auto", build), tmp_path)
    assert taken == "32-true" and why in said


def test_a_slow_device_tries_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda device: "")
    taken, said = decided(asked("auto", lambda: 1 / 0), tmp_path)  # type: ignore[arg-type,return-value]
    assert (taken, said) == (
        "32-true",
        "training.precision=auto took 32-true: this cpu has no fast instructions for bfloat16.",
    )


@pytest.mark.usefixtures("quick")
def test_nothing_is_known_of_a_cluster_and_a_named_precision_is_not_looked_at(tmp_path: Path) -> None:
    taken, said = decided(asked("auto", layer, execution={"executor": "ray", "address": "auto"}), tmp_path)
    assert taken == "32-true" and "Name training.precision" in said
    for wanted in ("32-true", "bf16-mixed", "16-mixed"):
        assert decided(asked(wanted), tmp_path) == (wanted, "")


@pytest.mark.parametrize("begun", ["bf16-mixed", "32-true"])
def test_a_resumed_run_keeps_what_it_began_with(
    begun: str, info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda device: "" if begun == "bf16-mixed" else "AMX")
    began = replace(info, config={"training": {"precision": begun}, "inference": {"precision": "32-true"}})
    with session(RunDirectory.create(tmp_path / "run"), began):
        pass
    again = decide_precision(asked("auto"), tmp_path / "run", resume=True)[0]
    assert again.config.inference.precision == "32-true"
    named = asked("auto", inference={"precision": "bf16-mixed"})
    changed = decide_precision(named, tmp_path / "run", resume=True)[0]
    assert changed.config.inference.precision == "bf16-mixed", "what was named is not replaced without a word"
    taken, said = decided(asked("auto"), tmp_path / "run", resume=True)
    assert taken == begun
    assert ("goes on with it" in said) is (begun == "bf16-mixed")


def test_a_run_from_before_the_key_was_in_single_precision(info: RunInfo, tmp_path: Path) -> None:
    with session(RunDirectory.create(tmp_path / "run"), replace(info, config={"training": {}})):
        pass
    assert decided(asked("auto"), tmp_path / "run", resume=True)[0] == "32-true"


def test_a_torch_without_the_question_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert bfloat16_units(cpu) == ("AVX-512 BF16" if torch.backends.mkldnn.is_available() else "")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert bfloat16_units(cpu) == "" and bfloat16_units(torch.device("mps")) == ""
