from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from medformer.crossval.compare.pairs import Lost
from medformer.crossval.compare.result import Comparison, Outcome
from medformer.crossval.compare.text import format_comparison, format_comparisons, format_table, reading
from medformer.errors import counted
from medformer.evaluation.number_format import PLAIN, PRINTED, shorten
from medformer.files import read_csv
from medformer.reporting.comparison_files import write_comparison

NAN = math.nan


@pytest.fixture
def comparison() -> Comparison:
    bootstrap = Outcome("bootstrap", 0.79, 0.812, 0.022, -0.003, 0.047, 0.08, 0.16, 120)
    return Comparison(
        run_a="/runs/unet",
        run_b="/runs/caformer",
        name_a="unet",
        name_b="caformer",
        kind="segmentation",
        metric="dice",
        title="mean Dice",
        lower_is_better=False,
        digits=3,
        cases=812,
        groups=120,
        repeats=1,
        value_a=0.79,
        value_b=0.812,
        difference=0.022,
        low=-0.003,
        high=0.047,
        p=0.08,
        p_holm=0.16,
        level=0.95,
        together=2,
        test="bootstrap",
        identical=False,
        folds=10,
        folds_won=8,
        folds_lost=2,
        folds_tied=0,
        fold_differences=(0.03,) * 8 + (-0.01,) * 2,
        bootstrap=bootstrap,
        fold_test=replace(
            bootstrap, method="folds", difference=0.02, low=-0.01, high=0.05, p=0.2, p_holm=0.2, units=10
        ),
        delong=None,
        left_out=0,
        one_sided=0,
        lost=Lost(),
        cautions=("Only 3 folds.",),
    )


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_comparison_is_said_in_words(comparison: Comparison) -> None:
    text = flat(format_comparison(comparison))
    assert text.startswith(
        "caformer against unet: better on 8 of 10 folds (2 worse); mean Dice 0.812 against 0.790, on the same 812 "
        "cases of 120 groups; difference +0.022 (95% interval -0.003 to +0.047, includes 0; p = 0.080, Holm-adjusted "
        "0.160), by paired bootstrap over groups."
    )
    assert "t-test over folds (Nadeau and Bengio): +0.020 (95% interval -0.010 to +0.050, includes 0; p = 0.200" in text
    assert text.endswith("- Caution: Only 3 folds.")


def test_no_wording_claims_more_than_the_numbers(comparison: Comparison) -> None:
    unclear = reading(comparison)
    assert "do not tell the two apart" in unclear
    assert "no evidence that they are equally good" in unclear
    clear = replace(comparison, low=0.01, p=0.01, p_holm=0.02)
    assert "the test over folds" in reading(clear)
    assert "does not exclude 0" in reading(clear)
    assert comparison.fold_test is not None
    both = replace(clear, fold_test=replace(comparison.fold_test, p=0.01, p_holm=0.02))
    assert reading(both).startswith("caformer is better here")
    assert "was not tested" in reading(both)
    assert reading(replace(both, difference=-0.02, low=-0.03, high=-0.01)).startswith("unet is better here")
    assert reading(replace(both, lower_is_better=True)).startswith("unet is better here")
    assert "among 2 comparisons" in reading(replace(clear, p_holm=0.051))
    assert "nothing can be said" in reading(replace(comparison, low=NAN, high=NAN, p=NAN, p_holm=NAN))
    assert reading(replace(comparison, identical=True)).startswith("The two are the same in every case")
    for case in (comparison, clear, both):
        assert "significan" not in format_comparison(case)


def test_a_single_comparison_names_no_adjusted_p(comparison: Comparison) -> None:
    assert "Holm" not in format_comparison(replace(comparison, together=1))


def test_the_table_has_a_line_per_run_and_fits_a_terminal(comparison: Comparison) -> None:
    long = replace(comparison, name_b="a run whose name " * 9, run_b="/runs/long", value_b=NAN, low=NAN, fold_test=None)
    wide = replace(
        comparison, name_b="wide", difference=-1234.5, low=-2000.0, high=-1000.0, p=1e-9, folds_won=100, value_b=12345.0
    )
    lines = format_table([comparison, long, wide]).splitlines()
    assert max(map(len, lines)) <= 100
    header = next(index for index, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[header + 2 :]] == ["unet", "caformer", "a", "wide"]
    row = lines[header + 3].split()
    assert row[1:] == ["0.812", "+0.022", "-0.003", "to", "+0.047", "0.080", "0.160", "0.200", "0.200", "8/2/0"]
    assert lines[header + 4].split()[-5:-1] == ["0.080", "0.160", "-", "-"]
    assert "<0.001" in lines[header + 5]
    starts = {line.rindex(cell) + len(cell) for line, cell in zip(lines[header + 3 :], ("8/2/0",), strict=False)}
    assert starts == {len(lines[header])}
    text = format_comparisons([comparison, long, wide])
    assert text.isascii()
    assert max(map(len, format_comparisons([comparison, wide]).splitlines())) <= 100


def test_runs_against_several_others_are_told_apart(comparison: Comparison) -> None:
    table = format_table([comparison, replace(comparison, run_a="/runs/prior", name_a="prior")])
    assert flat(table).startswith("Mean Dice; of caformer.")
    assert [line.split()[:2] for line in table.splitlines()[-2:]] == [["against", "unet"], ["against", "prior"]]
    mixed = format_table([comparison, replace(comparison, run_a="/a", name_a="prior", run_b="/b", name_b="vit")])
    assert "caformer against unet" in mixed
    assert "vit against prior" in mixed


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "<0.001"), (0.0009, "<0.001"), (0.0494, "0.049"), (1.0, "1"), (NAN, "-")]
)
def test_p_values(p: float, text: str) -> None:
    assert PLAIN.p_value(p) == text
    assert PRINTED.p_value(p) == text.replace("-", "–")


def test_numbers_have_signs_and_names_keep_both_ends(comparison: Comparison) -> None:
    assert [PLAIN.signed(value, comparison.digits) for value in (0.0221, -0.0221, 0.0, -0.00001, NAN)] == [
        "+0.022",
        "-0.022",
        "0.000",
        "0.000",
        "-",
    ]
    assert shorten("abcdefghijklmnop", 9) == "abc...nop"
    assert shorten("abc", 9) == "abc"
    assert [counted(n, "case") for n in (1, 2, 3000)] == ["1 case", "2 cases", "3,000 cases"]


def test_everything_is_in_the_json(comparison: Comparison) -> None:
    content = comparison.to_json()
    assert content["difference"] == 0.022
    assert content["fold_test"]["p"] == 0.2
    assert content["lost"]["only_a"] == ()


@pytest.mark.parametrize(
    ("p", "reason", "said"),
    [
        (NAN, "all resamples equal", "(neither interval nor p: all resamples equal)"),
        (NAN, "fewer than 2 groups", "(neither interval nor p: fewer than 2 groups)"),
        (1.0, "nothing differs", "(no interval: nothing differs)"),
    ],
)
def test_what_cannot_be_computed_is_said_with_its_reason(
    comparison: Comparison, p: float, reason: str, said: str, tmp_path: Path
) -> None:
    missing = {"low": NAN, "high": NAN, "p": p, "p_holm": p}
    bootstrap = replace(comparison.bootstrap, **missing, no_interval=reason)
    degenerate = replace(comparison, **missing, bootstrap=bootstrap, fold_test=None, together=1)
    text = flat(format_comparison(degenerate))
    assert said in text and f"No interval can be given ({reason}), so nothing can be said about chance" in text
    assert "nan" not in text and "p = -" not in text
    assert "none (below)" in format_table([degenerate])
    write_comparison(tmp_path, [degenerate])
    (row,) = read_csv(tmp_path / "comparison.csv")
    assert (row["no_interval"], row["low"], row["bootstrap_no_interval"]) == (reason, "nan", reason)
    assert "no interval" in (tmp_path / "comparison.svg").read_text("utf-8")


def test_what_is_spelled_as_0_has_no_sign() -> None:
    assert PRINTED.number(-0.0001) == PLAIN.number(-0.0001) == PLAIN.number(0.0) == "0.000"
    assert (PRINTED.number(-0.001), PLAIN.number(-3), PLAIN.number(-0.04, 2)) == ("−0.001", "-3", "-0.04")


def test_an_interval_that_excludes_zero_does_not_end_at_it() -> None:
    assert PLAIN.interval(-0.0104, -0.0002, signed=True) == "-0.0104 to -0.0002"
    assert PLAIN.interval(0.00001, 0.25, signed=True) == "+0.00001 to +0.25000"
    assert PLAIN.interval(-0.0104, 0.0002, signed=True) == "-0.010 to 0.000"
    assert PLAIN.interval(-0.3, -0.1, 2, signed=True) == "-0.30 to -0.10"
    assert PLAIN.interval(1e-9, 0.25, signed=True) == "0.000000 to +0.250000"
