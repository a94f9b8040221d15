"""Downloads series of ABIDE I from the Preprocessed Connectomes Project, through nilearn, so that a run can be resumed.

The data are under CC BY-NC-SA 3.0 (Craddock et al., Frontiers in Neuroinformatics 2013). Each file is
requested by itself: one that the server lacks is listed and does not stop the others, and a file that is on disk is not
requested again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from nilearn.datasets import fetch_abide_pcp

from medformer.connectome.atlases import ATLASES, atlas_name
from medformer.data.connectomes.read.files import derivative
from medformer.errors import ConfigError, DataError, ResourceError, UnknownNameError
from medformer.progress import Reporter, SilentReporter

PIPELINES = ("ccs", "cpac", "dparsf", "niak")
STRATEGIES: Mapping[str, tuple[bool, bool]] = {
    "filt_global": (True, True),
    "filt_noglobal": (True, False),
    "nofilt_global": (False, True),
    "nofilt_noglobal": (False, False),
}
"""Whether signals are band-pass filtered and whether the global signal is regressed out."""

ATTEMPTS = 3
"""How often a file is requested when its transfer breaks."""

PAUSE = 2.0
"""Seconds before the second attempt; doubled for each further one."""

_TABLE = "Phenotypic_V1_0b_preprocessed1.csv"
_ABSENT = (403, 404, 410)  # the project's server answers 403 for a file that does not exist


@dataclass(frozen=True)
class Fetched:
    """What is on disk.

    Attributes:
        folder: `ABIDE_pcp`, which the readers of the project's layouts understand.
        phenotype: The phenotypic table, all subjects.
        subjects: FILE_IDs of the subjects with every atlas.
        missing: What is missing of each of the others.
    """

    folder: Path
    phenotype: Path
    subjects: tuple[str, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class _Server:
    """Where files come from and go to."""

    out: Path
    pipeline: str
    strategy: str
    quality_checked: bool
    url: str | None

    @property
    def folder(self) -> Path:
        """Where nilearn keeps its download."""
        return self.out / "ABIDE_pcp"

    def call(self, derivatives: Sequence[str], number: int | None = None) -> list[tuple[str, int]]:
        """Let nilearn fetch the phenotypic table, and the derivatives of subject `number`.

        Returns:
            FILE_ID and SUB_ID of the subjects that the table lists, or of this one.
        """
        filtered, regressed = STRATEGIES[self.strategy]
        chosen = {} if number is None else {"SUB_ID": [number]}
        with warnings.catch_warnings():
            # Empty files are reported by name.
            warnings.filterwarnings("ignore", ".*contained no data")
            bunch = fetch_abide_pcp(
                data_dir=self.out,
                pipeline=self.pipeline,
                band_pass_filtering=filtered,
                global_signal_regression=regressed,
                derivatives=list(derivatives),
                quality_checked=self.quality_checked,
                url=self.url,
                verbose=0,
                **chosen,
            )
        table = bunch["phenotypic"]
        return [(str(name), int(subject)) for name, subject in zip(table["FILE_ID"], table["SUB_ID"], strict=True)]


def fetch_abide(
    out: Path,
    *,
    pipeline: str = "cpac",
    strategy: str = "filt_noglobal",
    atlases: Sequence[str] = ("aal", "cc200", "dos160"),
    quality_checked: bool = True,
    subjects: int | None = None,
    url: str | None = None,
    reporter: Reporter | None = None,
) -> Fetched:
    """Download the series of some atlases and the phenotypic table.

    Args:
        out: Where to; nilearn's `ABIDE_pcp` is made or completed in it.
        pipeline: One of `PIPELINES`.
        strategy: One of `STRATEGIES`.
        atlases: Names of known atlases.
        quality_checked: Only subjects that every rater passed, by nilearn's rule.
        subjects: Only so many, the first of the table; None for all.
        url: Another server with the project's layout, such as a mirror; None for the project's.
        reporter: Shows the progress.

    Raises:
        ConfigError: An unknown name, or a number that makes no sense.
        DataError: The server has no phenotypic table, or none of the files; or the table cannot be used.
        ResourceError: No connection, a server that fails, transfers that keep breaking, or a folder that cannot be
            written. Finished files stay, and the same call goes on where it stopped.
    """
    known = [atlas_name(name) for name in atlases]
    _check(pipeline, strategy, known, subjects)
    server = _Server(Path(out).resolve(), pipeline, strategy, quality_checked, url)
    reporter = reporter or SilentReporter()
    listed = _table(server)[:subjects]
    missing: dict[str, str] = {}
    reporter.start("fetch", len(listed) * len(known))
    for identity, number in listed:
        lost = []
        for atlas in known:
            problem = _series(server, identity, number, atlas)
            if problem:
                lost.append(f"{atlas}: {problem}")
                reporter.line(f"{identity}: {atlas}: {problem}")
            reporter.advance()
        if lost:
            missing[identity] = "; ".join(lost)
    reporter.finish()
    found = tuple(identity for identity, _ in listed if identity not in missing)
    if not found:
        first = next(iter(missing.items()), ("no subject", "the phenotypic table lists none"))
        raise DataError(
            f"None of {len(listed)} subjects could be had with {', '.join(known)} ({first[0]}: {first[1]}). "
            f"Check that {pipeline}/{strategy} exists on the server and that --url, if given, has the project's layout."
        )
    return Fetched(server.folder, server.folder / _TABLE, found, missing)


def _check(pipeline: str, strategy: str, atlases: Sequence[str], subjects: int | None) -> None:
    for kind, name, names in (
        ("pipeline", pipeline, PIPELINES),
        ("strategy", strategy, STRATEGIES),
        *(("atlas", atlas, ATLASES) for atlas in atlases),
    ):
        if name not in names:
            raise UnknownNameError(kind, name, names)
    if not atlases or (subjects is not None and subjects < 1):
        raise ConfigError(f"Got {len(atlases)} atlases, subjects={subjects}; expected at least one of each.")


def _table(server: _Server) -> list[tuple[str, int]]:
    path = server.folder / _TABLE
    there = path.exists()
    try:
        return _with_retries(server, _TABLE, [], None)
    except requests.HTTPError as error:
        raise DataError(
            f"The server has no phenotypic table: {_answer(error)} for {server.url or 'the project'}/{_TABLE}. "
            "Check --url; without it the project's own server is asked."
        ) from error
    except (KeyError, ValueError, IndexError) as error:
        if there:
            raise DataError(
                f"{path} is not the phenotypic table of ABIDE ({error}). It was there before; move it elsewhere."
            ) from error
        path.unlink(missing_ok=True)
        raise DataError(
            f"What the server sent as {_TABLE} is not the phenotypic table of ABIDE ({error}). It was removed; "
            "check --url, and that no login page stands between this machine and the server."
        ) from error


def _series(server: _Server, identity: str, number: int, atlas: str) -> str:
    """Fetch one file unless it is there, and return what went wrong with it, or nothing."""
    kind = derivative(atlas)
    path = server.folder / server.pipeline / server.strategy / f"{identity}_{kind}.1D"
    if path.exists():
        return ""
    try:
        _with_retries(server, path.name, [kind], number)
    except requests.HTTPError as error:
        return f"not on the server ({_answer(error)})"
    except ValueError as error:
        path.unlink(missing_ok=True)
        return f"what the server sent is not a table of numbers and was removed ({error})"
    if path.stat().st_size == 0:
        path.unlink()
        return "the server sent an empty file, which was removed"
    return ""


def _with_retries(server: _Server, name: str, derivatives: Sequence[str], number: int | None) -> list[tuple[str, int]]:
    """Request a file again when its transfer breaks; an absent file is an error of the caller's."""
    again = "Files that are complete stay; the same command goes on from here."
    broken: requests.RequestException | None = None
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return server.call(derivatives, number)
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in _ABSENT:
                raise
            reason, broken = f"the server answered {_answer(error)}", error
        except (requests.ConnectionError, requests.Timeout) as error:
            reason, broken = f"no connection to the server ({_cause(error)})", error
        except requests.RequestException as error:
            reason, broken = f"the transfer broke off ({_cause(error)})", error
        except OSError as error:
            raise ResourceError(f"Could not save {name} in {server.folder}: {error.strerror or error}.") from error
    raise ResourceError(f"Could not fetch {name} in {ATTEMPTS} attempts: {reason}. {again}") from broken


def _answer(error: requests.HTTPError) -> str:
    response = error.response
    return f"HTTP {response.status_code} {response.reason}" if response is not None else str(error)


def _cause(error: BaseException) -> str:
    """The innermost reason, without the wrappings of the layers in between."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__
