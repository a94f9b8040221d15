"""The training loop: steps, epochs, and what is on disk after each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medformer.errors import CheckpointError, DivergenceError, InterruptedRun
from medformer.files import is_temporary
from medformer.models.backbone.mlp import tying_penalty
from medformer.progress import Reporter
from medformer.seeds import derive_seed
from medformer.training.banks import KEY, Banks
from medformer.training.guard import Readings, Step, divergence
from medformer.training.job import FitResult, Job
from medformer.training.loader import Batch, BatchSource
from medformer.training.losses.objectives import MemoryContext, Moment
from medformer.training.optimizer import (
    Clock,
    WeightAverage,
    build_optimizer,
    learning_rate_factor,
    run_progress,
    set_learning_rate,
)
from medformer.training.pace import Outlook
from medformer.training.processes.batch_norm import several_values, share_batch_norm, unshared
from medformer.training.processes.validation import can_share, share_score
from medformer.training.saving import Progress, Saving, write_history
from medformer.training.signals import StopNow, StopRequest
from medformer.training.small_convolutions import ExactSmallConvolutions
from medformer.training.trackers.build import forget_tracked
from medformer.training.trackers.tracking import Tracking

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(eq=False)
class Loop:
    """One training of one process.

    A resumed run repeats an uninterrupted one bit for bit on a CPU (same number of threads), because nothing depends on
    what happened in this process before: the order of cases derives from (seed, epoch), augmentation from (seed, epoch,
    case), the scale of a batch from (seed, epoch, step), and the random stream of dropout, stochastic depth and masks
    is seeded anew before each step from (seed, epoch, step).
    """

    fabric: Fabric
    model: nn.Module
    job: Job
    _: KW_ONLY
    stop: StopRequest
    reporter: Reporter
    memory: MemoryContext
    tracking: Tracking

    def __post_init__(self) -> None:
        fabric, job = self.fabric, self.job
        self.several = fabric.world_size > 1
        if self.several:
            self.model = share_batch_norm(self.model, fabric.device)
        model = self.model
        self.budget = None if job.config.minutes is None else job.config.minutes * 60.0
        scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        self.readings = Readings(
            at_once=scaled or fabric.device.type == "cpu", scaled=scaled, total=self._mean if self.several else None
        )
        self.banks = Banks(model, job)
        self.banks.clear()
        self.optimizer = build_optimizer(model, job.config)
        self.wrapped, self.stepper = fabric.setup(model, self.optimizer)
        self.average = WeightAverage(model, job.config.ema)
        self.batches = BatchSource(
            job.data,
            job.config.batch_size,
            seed=job.seed,
            workers=job.workers,
            pin=fabric.device.type == "cuda",
            rank=fabric.global_rank,
            replicas=fabric.world_size,
            visits=job.objective.visits,
            say=self.reporter.line,
            record=job.loading if fabric.is_global_zero else None,
        )
        self.measure = job.measure
        low = fabric.device.type == "cpu" and job.config.precision == "bf16-mixed"
        self.exact: Callable[[], AbstractContextManager[Any]] = ExactSmallConvolutions if low else nullcontext
        self.penalized = isinstance(tying_penalty(model), Tensor)
        self.outlook = Outlook(job.config, self.batches.steps, job.trainings)
        self.saving = Saving(job, model, self.average, self.optimizer)
        self.progress = Progress()

    def run(self) -> FitResult:
        """Train to the end, from the state on disk if the job resumes.

        Raises:
            InterruptedRun: A signal came; the state is on disk.
            DivergenceError: A loss or gradient was not finite; the last state and weights stay on disk.
            CheckpointError: The state on disk does not fit.
        """
        self._begin()
        progress = self.progress
        self.clock = Clock(progress.elapsed)
        while not progress.finished:
            self._train_epoch()
            self._end_epoch()
        return FitResult(
            weights=self.job.weights,
            best=progress.best,
            best_epoch=progress.best_epoch,
            epochs=progress.epoch,
            updates=progress.updates,
            seconds=progress.elapsed,
            ended=progress.finished,
            history=tuple(progress.history),
        )

    def close(self) -> None:
        """Stop the loader processes."""
        self.batches.close()

    def _begin(self) -> None:
        job = self.job
        if job.resume and job.state.exists():
            self.progress = self.saving.load()
            self.fabric.strategy.precision.load_state_dict(self.progress.scaler)
            if self.progress.best_epoch and not job.weights.exists():
                raise CheckpointError(
                    f"Cannot resume: {job.weights} is missing, though {job.state} says that it was written after epoch "
                    f"{self.progress.best_epoch}. Restore it from a copy, or delete the state to start over."
                )
            self.reporter.line(f"Resuming after {self._position()}.")
        if self.several and (alone := unshared(self.model)):
            self.reporter.line(
                f"Note: {alone} batch normalizations of {type(self.model).__name__} are of a kind of their own and use "
                "the statistics of each process alone."
            )
        if self.fabric.is_global_zero:
            job.out.mkdir(parents=True, exist_ok=True)
            # A process that was killed while writing leaves its temporary file behind.
            for leftover in job.out.glob(".*"):
                if is_temporary(leftover.name):
                    leftover.unlink(missing_ok=True)
            if not self.progress.updates:
                # Files of an earlier training must not be taken for this one's.
                for path in (job.weights, job.state, job.history, job.loading):
                    path.unlink(missing_ok=True)
                forget_tracked(job.out)
            write_history(job.history, self.progress.history, self.measure)
            self.tracking.update(self.progress.history)
        self.saving.mark(self.progress.elapsed)
        self.fabric.barrier()

    def _train_epoch(self) -> None:
        progress, config = self.progress, self.job.config
        total = "" if self.budget is not None else f"/{config.epochs}"
        if self.budget is not None and progress.elapsed >= self.budget:
            # Stopped in the validation that follows the last step.
            return
        self.reporter.start(f"epoch {progress.epoch + 1}{total}", self.batches.steps)
        self.reporter.advance(progress.step)
        self.wrapped.train()
        before = progress.elapsed
        for batch in self.batches.batches(progress.epoch, progress.step):
            self._step(batch)
            if self.readings.due:
                self._read()
            if self.several and self.readings:
                # To agree is to wait for each other, and for the device; it is done when numbers are read.
                continue
            asked, progress.elapsed = self._agree()
            if not self.readings:
                said = self.outlook.after_step(
                    self.readings.paced(progress.elapsed - before), progress.epoch, progress.elapsed
                )
                if said and self.fabric.is_global_zero:
                    self.reporter.line(said)
                before = progress.elapsed
            if asked:
                self._interrupt()
            if self.budget is not None and progress.elapsed >= self.budget:
                break
        self._read()
        self.reporter.finish()

    def _step(self, batch: Batch) -> None:
        """Take one optimizer step."""
        job, progress = self.job, self.progress
        moment = Moment(job.seed, progress.epoch, progress.step)
        torch.manual_seed(derive_seed(job.seed, "step", progress.epoch, progress.step, self.fabric.global_rank))
        moved = self.fabric.to_device(job.objective.tensors(batch))
        self.memory.load = job.objective.load(moved, moment)
        share = run_progress(progress.updates, job.config.epochs * self.batches.steps, progress.elapsed, self.budget)
        progress.rate = job.config.lr * learning_rate_factor(
            share,
            job.config.warmup,
            schedule=job.config.lr_schedule,
            epoch=progress.epoch,
            decay=job.config.lr_decay,
        )
        set_learning_rate(self.optimizer, progress.rate)

        self.optimizer.zero_grad(set_to_none=True)
        with self.exact():
            with several_values(len(batch["id"])), self.banks.asked() as asked:
                value = job.objective(self.wrapped, moved, moment)
                if self.penalized:
                    value = value + tying_penalty(self.model)
            self.fabric.backward(value)
        by_value, limit = job.config.clip_by == "value", job.config.clip or math.inf
        norm = self.fabric.clip_gradients(
            self.wrapped, self.stepper, max_norm=math.inf if by_value else limit, error_if_nonfinite=False
        )
        assert isinstance(norm, Tensor)
        if by_value:
            # Not by Fabric, which would unscale float16 gradients a second time.
            nn.utils.clip_grad_value_(self.model.parameters(), limit)
        progress.step += 1
        progress.updates += 1
        self.readings.add(Step(progress.step, progress.rate, batch), value, norm)
        # Where they are read later, a gradient that is not finite ends the training before anything of it is saved.
        finite = self._read() if self.readings.at_once else True
        self.stepper.step()
        if finite:
            progress.taken += 1
            self.banks.store(asked, batch["id"], moved, moment)
            self.average.update(progress.taken)

    def _read(self) -> bool:
        """Take in the numbers of the steps since the last reading; return whether the last gradient was finite.

        Raises:
            DivergenceError: One of them is not finite.
        """
        progress, finite = self.progress, True
        for reading in self.readings.read():
            if self.readings.ends(reading):
                self._keep_weights()
                raise divergence(
                    reading,
                    self.job,
                    epoch=progress.epoch + 1,
                    steps=self.batches.steps,
                    best_epoch=progress.best_epoch,
                    processes=self.fabric.world_size,
                )
            finite = reading.finite
            progress.loss_sum += reading.loss
            if finite:
                progress.norm_sum += reading.norm
                progress.norm_count += 1
            self.reporter.advance(1, loss=progress.loss_sum / reading.step.number, lr=reading.step.rate)
        return finite

    def _mean(self, numbers: Tensor) -> Tensor:
        mean = self.fabric.all_reduce(numbers, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best, and save everything."""
        progress, config, job = self.progress, self.job.config, self.job
        self._refill_banks()
        score = self._validate()
        epoch = progress.epoch + 1
        scored = {self.measure.validation_column: score} if self.measure else {}
        better = self.measure is None or score is None or self.measure.better(score, progress.best)
        better = better or config.keep == "last"
        if better:
            progress.best, progress.best_epoch = score, epoch
            if self.fabric.is_global_zero:
                held = {KEY: self.banks.cases} if self.banks else {}
                self.saving.keep({**job.metadata, "epoch": epoch, **scored, **held})
        _, progress.elapsed = self._agree()
        row: dict[str, Any] = {
            "epoch": epoch,
            "steps": progress.updates,
            "lr": progress.rate,
            "train_loss": progress.loss_sum / max(1, progress.step),
            "grad_norm": progress.norm_sum / progress.norm_count if progress.norm_count else None,
            **scored,
            "best": int(better),
            "seconds": round(progress.elapsed - progress.epoch_start, 3),
        }
        progress.history.append(row)
        progress.epoch, progress.step = epoch, 0
        progress.loss_sum, progress.norm_sum, progress.norm_count = 0.0, 0.0, 0
        progress.epoch_start = progress.elapsed
        if self.budget is not None:
            progress.finished = "minutes" if progress.elapsed >= self.budget else ""
        elif epoch >= config.epochs:
            progress.finished = "epochs"
        if not progress.finished and config.patience and epoch - progress.best_epoch >= config.patience:
            progress.finished = "patience"
        saved = bool(progress.finished) or self.saving.due(progress.elapsed)
        if saved:
            self._save()
        if self.fabric.is_global_zero:
            write_history(job.history, progress.history, self.measure)
            self.tracking.update(progress.history)
        left = "" if progress.finished else self.outlook.after_epoch(epoch, progress.elapsed)
        title = self.measure.label if self.measure else ""
        best = " (best)" if better and config.keep == "best" else ""
        valid = "" if score is None else f", validation {title} {score:.4f}{best}"
        self.reporter.line(f"Epoch {epoch}: loss {row['train_loss']:.4f}{valid}, {row['seconds']:.1f} s{left}")
        asked, _ = self._agree()
        if asked:
            self._interrupt(save=not saved)

    def _refill_banks(self) -> None:
        """Fill the memory of the averaged weights with their own latents, before they are validated and kept."""
        if not self.banks:
            return
        held = self.banks.held()
        with self.average.applied(), self.fabric.autocast():
            self.banks.refill(held, self.progress.epoch, self.fabric.to_device)

    def _validate(self) -> float | None:
        """Return the validation score of the averaged weights; a signal stops it at once, since it changes nothing."""
        validate = self.job.validate
        if validate is None:
            return None
        self.model.eval()
        score: float | None = None
        if self.several and can_share(validate, self.model):
            score = share_score(validate, self.model, self._judging)
        else:
            if self.fabric.is_global_zero:
                with suppress(StopNow), self._judging():
                    score = float(validate(self.model))
            score = self.fabric.broadcast(score)
        if score is None:
            self._interrupt()
        assert score is not None
        if not math.isfinite(score):
            self._keep_weights()
            raise DivergenceError(
                f"Validation after epoch {self.progress.epoch + 1} gave {score}, expected a number. Check that the "
                "validation part has cases with their truth, or lower training.lr."
            )
        return score

    @contextmanager
    def _judging(self) -> Iterator[None]:
        with self.average.applied(), torch.no_grad(), self.fabric.autocast(), self.stop.at_once():
            yield

    def _agree(self) -> tuple[bool, float]:
        """Return whether to stop and the seconds spent, the same in every process."""
        asked, elapsed = bool(self.stop), self.clock.elapsed()
        if self.several:
            shared = torch.tensor([float(asked), elapsed], dtype=torch.float64, device=self.fabric.device)
            asked_anywhere, elapsed = self.fabric.all_reduce(shared, reduce_op="max").tolist()
            asked = bool(asked_anywhere)
        return asked, elapsed

    def _interrupt(self, save: bool = True) -> None:
        if save:
            self._save()
        raise InterruptedRun(
            f"Stopped by {self.stop.name or 'a signal'} after {self._position()}. Everything so far is in "
            f"{self.job.state}; run the same command with --resume to go on."
        )

    def _position(self) -> str:
        progress = self.progress
        if not progress.step:
            return f"epoch {progress.epoch}"
        return f"step {progress.step} of {self.batches.steps} in epoch {progress.epoch + 1}"

    def _save(self) -> None:
        self._read()
        self.progress.scaler = self.fabric.strategy.precision.state_dict()
        if self.fabric.is_global_zero:
            self.saving.write(self.progress)
        self.saving.mark(self.progress.elapsed)
        self.fabric.barrier()

    def _keep_weights(self) -> None:
        """Do not let the best weights be lost with a training that failed."""
        if self.fabric.is_global_zero:
            self.saving.write_weights()
