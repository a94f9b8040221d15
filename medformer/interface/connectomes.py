"""Trained models that classify connectomes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, overload

from medformer.data.connectomes.check import cohort_traits
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.prepare.cohort_preparation import read_found, read_new
from medformer.data.connectomes.read.held import hold_subject
from medformer.data.connectomes.read.matrices import Values
from medformer.data.connectomes.store import Content
from medformer.data.problems import Problem
from medformer.errors import ConfigError, DataError
from medformer.interface.model import ClassModel, ClassResult, Paths, paths_of, require_one_of, threshold_of
from medformer.missing import known
from medformer.tasks.abide.features import needed_covariates, read_trained_on
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.trained import Trained


class ConnectomeModel(ClassModel):
    """A model that classifies connectomes (see `Model`).

    Attributes:
        regions: How many each atlas must have, by atlas.
        needs: Covariates that it cannot do without: of site, age, sex and mean_fd those that its features are
            corrected for.
    """

    def __init__(self, trained: Trained, device: str = "auto") -> None:
        super().__init__(trained, device)
        self._layouts, self.label_names = read_trained_on(trained.folders[0])
        self.regions = {atlas: layout.regions for atlas, layout in self._layouts.items()}
        self.needs = sorted(needed_covariates(trained.config))

    @overload
    def predict(
        self,
        what: Mapping[str, Any],
        /,
        *,
        covariates: Mapping[str, str | float] | None = None,
        content: Content = "correlation",
        values: Values = "auto",
        threshold: float | None = None,
    ) -> ClassResult: ...
    @overload
    def predict(
        self,
        what: str | Path | Paths,
        /,
        *,
        values: Values = "auto",
        pipeline: str | None = None,
        strategy: str | None = None,
        threshold: float | None = None,
    ) -> list[ClassResult]: ...
    def predict(
        self,
        what: Mapping[str, Any] | str | Path | Paths,
        /,
        *,
        covariates: Mapping[str, str | float] | None = None,
        content: Content = "correlation",
        values: Values = "auto",
        pipeline: str | None = None,
        strategy: str | None = None,
        threshold: float | None = None,
    ) -> ClassResult | list[ClassResult]:
        """Classify a subject that is in memory, or all subjects of paths.

        Args:
            what: By atlas an array of one subject, for one result: correlations as a matrix (R, R) or as its upper
                triangle (R(R - 1)/2,) without the diagonal, or time series (T, R). Or paths of what
                `medformer abide predict` takes, for a list: time series, matrices, .npz files, folders, cohorts.
            covariates: Of a subject in memory: site, age in years, sex (M or F), mean_fd in mm; `needs` says which.
            content: Of a subject in memory: whether the arrays are correlations or time series.
            values: What matrices hold: correlations with a diagonal of 1 (auto), correlations, or Fisher's z.
            pipeline: Of time series in paths; the only one that is there when not given.
            strategy: Of time series in paths; the only one that is there when not given.
            threshold: A subject is positive where the score is at least this; the model's own without it.

        Raises:
            ConfigError: A covariate of another name, a setting that is for the other kind of data, or a value that a
                setting cannot have.
            DataError: Atlases or regions are not those of the model, a covariate is missing, or data cannot be used.
        """
        cut = threshold_of(self.threshold, threshold)
        require_one_of("content", content, Content)
        require_one_of("values", values, Values)
        if isinstance(what, Mapping):
            _leave_out({"pipeline": pipeline, "strategy": strategy}, "time series in paths", "arrays")
            lacking = [name for name in self.needs if not known(str((covariates or {}).get(name, "")))]
            if lacking:
                raise DataError(
                    f"This model corrects for {', '.join(self.needs)}, and {', '.join(lacking)} is not given. Give "
                    f"covariates={{{', '.join(f'{name!r}: ...' for name in lacking)}}}."
                )
            held = hold_subject(what, content=content, holds=values, covariates=covariates)
            with tempfile.TemporaryDirectory(prefix="medformer-") as folder:
                cohort, problems = read_found(held, Path("the arrays"), atlases=self._layouts, out=Path(folder))
                return replace(self._results(cohort, problems, cut)[0], id="")
        given = {"covariates": covariates or None, "content": None if content == "correlation" else content}
        _leave_out(given, "a subject in memory", "paths, whose files say it themselves")
        results = []
        with tempfile.TemporaryDirectory(prefix="medformer-") as folder:
            for number, path in enumerate(paths_of(what)):
                cohort, problems = read_new(
                    path,
                    atlases=self._layouts,
                    out=Path(folder) / str(number),
                    pipeline=pipeline,
                    strategy=strategy,
                    values=values,
                )
                errors = "".join(f"\n  {problem}" for problem in problems if problem.severity == "error")
                if errors:
                    raise DataError(f"Subjects of {path} cannot be used:{errors}")
                results += self._results(cohort, problems, cut)
        return results

    def _results(self, cohort: Cohort, problems: Sequence[Problem], threshold: float) -> list[ClassResult]:
        study = AbideStudy(config=self.config, data=cohort)
        names = list(study.by_id)
        if self._range is not None:
            outside = (self._range.problems(name, "", traits) for name, traits in cohort_traits(cohort).items())
            problems = [*problems, *chain.from_iterable(outside)]
        said = [tuple(str(one) for one in problems if one.case_id == name) for name in names]
        return self._classified(names, self.predictor.scores(study, names), threshold, said)


def _leave_out(settings: Mapping[str, Any], what: str, given: str) -> None:
    """Refuse settings that would be without effect.

    Raises:
        ConfigError: Names the first.
    """
    for name, value in settings.items():
        if value is not None:
            raise ConfigError(f"{name}={value!r} is for {what}, and these are {given}. Leave it out.")
