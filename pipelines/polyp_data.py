"""The polyp task's data: from folders to a manifest, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from medformer.crossval.run.directory import RunDirectory
from medformer.data.audit import audit, split_parts, write_findings
from medformer.data.frames.describe import frame_problems, inspect_frames
from medformer.data.frames.layouts import Layout, scan
from medformer.data.frames.near_duplicates import FRAMES
from medformer.data.grouping import link_near_duplicates
from medformer.data.manifest import read_manifest, write_manifest
from medformer.data.problems import quarantine, require_usable, write_problems
from medformer.errors import ConfigError, DataError
from pipelines.console import make_reporter, say


def prepare(
    *,
    folders: list[Path],
    out: Path,
    layout: str,
    split: str | None,
    ungrouped: str,
    group_pattern: str | None,
    link_duplicates: bool,
    overwrite: bool,
) -> None:
    """Turn folders in a known layout into one manifest."""
    reporter = make_reporter()
    if layout not in get_args(Layout):
        raise ConfigError(f"--layout {layout}: expected {', '.join(get_args(Layout))}.")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} exists. Add --overwrite to replace it, or choose another name.")
    found = scan(folders, layout=cast(Layout, layout), split=split, group_pattern=group_pattern, reporter=reporter)
    if found.problems:
        table = out.with_name(f"{out.stem}.problems.csv")
        write_problems(table, found.problems)
        say(f"{len(found.problems)} files were left out or need a look; all of them are in {table}:")
        for problem in found.problems[:10]:
            say(f"  {problem}")
    cases = list(found.cases)
    if ungrouped == "each":
        cases = [replace(case, group=case.group or case.id) for case in cases]
    if link_duplicates:
        before = len({case.group for case in cases})
        cases = link_near_duplicates(cases, inspect_frames(cases, reporter=reporter), FRAMES)
        say(f"Linking near-duplicates joined {before} groups into {len({case.group for case in cases})}.")
    unknown = [case.id for case in cases if not case.group]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(cases)} images have no patient or sequence, such as '{unknown[0]}', so "
            "leakage cannot be ruled out. Give --group-pattern when the file name tells it, or --ungrouped each when "
            "every image really is of another patient; --link-duplicates then joins those that show the same thing."
        )
    write_manifest(out, cases)
    groups, sites = len({case.group for case in cases}), len({case.site for case in cases})
    say(f"{len(cases)} cases of {groups} groups from {sites} dataset(s): {out}")
    say(f"Next: medformer polyp check {out}")


def check(*, manifest: Path, out: Path | None, accept: list[str], ungrouped: str) -> None:
    """Decode every case, list what is wrong with it, and audit the split for leakage."""
    if out is not None and RunDirectory(out).is_run():
        raise ConfigError(f"--out {out} is the folder of a run, whose audit would be replaced. Choose another folder.")
    reporter = make_reporter()
    found = read_manifest(manifest, ungrouped="each" if ungrouped == "each" else "error")
    records = inspect_frames(found.cases, reporter=reporter)
    problems = frame_problems(found.cases, records)
    for problem in problems:
        say(str(problem))
    warnings = sum(problem.severity == "warning" for problem in problems)
    say(f"{len(found.cases)} cases, {len(quarantine(problems))} cannot be used, {warnings} warnings.")
    if out is not None:
        write_problems(out / "problems.csv", problems)
    require_usable(problems)
    parts = split_parts(found.cases)
    result = audit(found.cases, [("", parts)], records, FRAMES).accepting(accept)
    if out is not None:
        write_findings(out / "audit.json", result, problems)
    result.raise_if_leaking()
    sides = " / ".join(parts) if len(parts) <= 3 else f"{len(parts)} groups"
    say(
        f"No leak between {sides}."
        if not result.findings
        else f"{len(result.findings)} findings, all accepted by name."
    )
