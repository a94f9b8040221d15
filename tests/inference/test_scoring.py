from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.schema import metrics_schema
from medformer.files import read_csv, sha256
from medformer.imaging.masks import write_mask, write_probability
from medformer.inference.scored_cases import CaseSource
from medformer.inference.scoring import pair_folders, score_folder, write_scores
from medformer.names import file_stems
from pipelines.console import PlainReporter


def soft(seed: int, shape: tuple[int, int] = (18, 22)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, bool)
    truth[3 : 6 + seed, 4 : 9 + seed] = True
    return np.clip(truth * 0.5 + rng.random(shape) * 0.5, 0, 1).astype(np.float32), truth


def folders(root: Path, names: tuple[str, ...] = ("a", "b", "c"), kind: str = "png") -> tuple[Path, Path]:
    for seed, name in enumerate(names):
        probability, truth = soft(seed)
        write_probability(root / "predictions" / f"{name}.{kind}", probability, kind=kind)  # type: ignore[arg-type]
        write_mask(root / "masks" / f"{name}.png", truth)
    return root / "predictions", root / "masks"


def test_rows_are_those_of_the_arrays(tmp_path: Path) -> None:
    rows, summary = score_folder(*folders(tmp_path, kind="npz"), threshold=0.6)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    for seed, row in enumerate(rows):
        assert row == case_row("abc"[seed], *soft(seed), threshold=0.6)
    assert summary["n"] == 3 and summary["thresholds"] == [0.6]
    assert summary["pooled"]["metrics"]["iou"]["mean"] == pytest.approx(np.mean([row["iou"] for row in rows]))


def test_progress_ends_without_the_score_of_one_case(tmp_path: Path) -> None:
    said = io.StringIO()
    score_folder(*folders(tmp_path), reporter=PlainReporter(said))
    assert re.fullmatch(r"scoring 3/3 in [\d.]+ s\n", said.getvalue())


def test_suffixes_may_differ_and_other_files_are_passed_over(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    Image.open(masks / "a.png").save(masks / "a.bmp")
    (masks / "a.png").unlink()
    (predictions / "notes.txt").write_text("made on Tuesday")
    (masks / ".a.png").write_bytes(b"thumbnail")
    assert pair_folders(predictions, masks) == [("a", predictions / "a.png", masks / "a.bmp")]


def test_subfolders_are_sites(tmp_path: Path) -> None:
    rows, summary = score_folder(*folders(tmp_path, ("one/a", "one/b", "two/a")))
    assert [row["site"] for row in rows] == ["one", "one", "two"]
    assert {site: part["n"] for site, part in summary["by_site"].items()} == {"one": 2, "two": 1}


def test_missing_and_extra_predictions_are_all_listed(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a", "b", "c", "d"))
    (predictions / "a.png").unlink()
    (predictions / "b.png").unlink()
    (masks / "d.png").unlink()
    with pytest.raises(DataError, match=r"2 without a prediction: a, b; 1 without a mask: d\."):
        score_folder(predictions, masks)


def test_a_long_list_is_cut_with_its_count(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    for index in range(25):
        write_mask(masks / f"m{index:02}.png", np.ones((2, 2), bool))
    with pytest.raises(DataError, match=r"25 without a prediction: m00, .*, m19 and 5 more"):
        score_folder(predictions, masks)


def test_a_name_twice_in_one_folder_is_named(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    write_probability(predictions / "a.npz", soft(0)[0], kind="npz")
    with pytest.raises(DataError, match=r"1 name\(s\) twice: a\.npz and a\.png"):
        score_folder(predictions, masks)


def test_a_size_mismatch_names_the_case_and_both_sizes(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    write_mask(masks / "a.png", np.ones((30, 40), bool))
    with pytest.raises(DataError, match="a: the prediction has size 18 x 22, the mask 30 x 40"):
        score_folder(predictions, masks)


def test_label_maps_of_zero_and_one_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    Image.fromarray(soft(0)[1].astype(np.uint8)).save(predictions / "a.png")
    with pytest.raises(DataError, match="exceeds 1 on a scale of 0 to 255: these look like label maps"):
        score_folder(predictions, masks)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_numbers_are_not_taken_for_probabilities(tmp_path: Path, dtype: type) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    Image.fromarray(soft(0)[1].astype(dtype) * dtype(3)).save(predictions / "a.png")
    with pytest.raises(DataError, match="exceeds 3 on a scale of 0 to 255: these look like label maps"):
        score_folder(predictions, masks)


def test_masks_are_read_by_the_rule_of_masks(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path)
    classes = soft(1)[1].astype(np.uint8)
    classes[-1] = 255
    Image.fromarray(classes).save(masks / "b.png")
    with pytest.raises(DataError, match=r"b\.png holds 0: .*, 1: .*, 255: .*--foreground 1,"):
        score_folder(predictions, masks)
    rows, _ = score_folder(predictions, masks, foreground=("1", "255"))
    assert rows[1]["truth_px"] == np.count_nonzero(classes)
    Image.fromarray(soft(1)[1].astype(np.uint8)).save(masks / "b.png")
    with pytest.raises(DataError, match=r"different values: 1 in .*b\.png, 255 in .*c\.png; expected one"):
        score_folder(predictions, masks)
    Image.fromarray(np.dstack([np.zeros((18, 22, 3), np.uint8), classes])).save(predictions / "b.png")
    with pytest.raises(DataError, match=r"b\.png has transparent pixels"):
        score_folder(predictions, masks, foreground=("1", "255"))


def test_predictions_that_are_all_empty_are_scored(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    write_mask(predictions / "a.png", np.zeros((18, 22), bool))
    rows, _ = score_folder(predictions, masks)
    assert rows[0]["dice"] == 0.0


def test_a_broken_link_is_no_missing_case_and_linked_folders_are_entered(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    for folder in (predictions, masks):
        (folder / "b.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"b\.png does not exist: it is a link to nowhere\.png"):
        score_folder(predictions, masks)
    for folder in (predictions, masks):
        (folder / "b.png").unlink()
        (folder / "linked").symlink_to(folder)
        (folder / "other").symlink_to(folders(tmp_path / "far", ("c",))[folder == masks])
    assert [name for name, _, _ in pair_folders(predictions, masks)] == ["a", "other/c"]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    with pytest.raises(DataError, match=r"predictions folder .*nowhere does not exist"):
        score_folder(tmp_path / "nowhere", masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"masks folder .*empty holds no file ending in"):
        score_folder(predictions, tmp_path / "empty")


def test_a_corrupt_prediction_is_named(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path)
    whole = (predictions / "b.png").read_bytes()
    (predictions / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.png"):
        score_folder(predictions, masks)


def test_the_written_numbers_name_the_table_they_come_from(tmp_path: Path) -> None:
    rows, summary = score_folder(*folders(tmp_path / "in", ("one/a", "two/b")))
    table, numbers = write_scores(tmp_path / "out", rows, summary)
    written = json.loads(numbers.read_text())
    assert written["source"] == {"file": "scores.csv", "sha256": sha256(table)}
    assert written["pooled"]["metrics"]["dice"]["mean"] == summary["pooled"]["metrics"]["dice"]["mean"]
    assert [row["id"] for row in read_csv(table)] == ["one/a", "two/b"]


@pytest.mark.real_data
def test_published_polyp_maps_get_their_published_scores_from_their_files() -> None:
    root = os.environ.get("MEDFORMER_DATA")
    if not root:
        pytest.skip("MEDFORMER_DATA is not set")
    folder = Path(root) / "polyp" / "pranet_published_maps" / "CVC-ClinicDB"
    _, summary = score_folder(folder / "prediction", folder / "mask")
    pooled = summary["pooled"]
    names = ("mean_dice_256", "mean_iou_256", "weighted_f", "s_measure", "mae")
    means = [pooled["metrics"][name]["mean"] for name in names]
    np.testing.assert_allclose([*means, pooled["max_e"]], [0.8990, 0.8491, 0.8963, 0.9362, 0.0093, 0.9790], atol=1e-4)


def test_intervals_are_over_patients_where_a_table_names_them(tmp_path: Path) -> None:
    names = ("a/1", "a/2", "b/1", "b/2", "c/1", "c/2")
    given = folders(tmp_path, names)
    rows, summary = score_folder(*given)
    assert summary["resampled"] == "nothing" and summary["pooled"]["groups"] == 1
    assert "all could be of one patient" in summary["definitions"]["interval"]
    assert "resampled" in metrics_schema()["$defs"]["segmentation"]["properties"]
    table = tmp_path / "groups.csv"
    table.write_text("id,group,image\n" + "".join(f"{name},patient {name[0]},x.png\n" for name in names))
    rows, summary = score_folder(*given, cases=CaseSource(groups=table))
    assert [row["group"] for row in rows] == [f"patient {name[0]}" for name in names]
    assert "resampled" not in summary and summary["pooled"]["groups"] == 3
    assert summary["definitions"]["interval"].startswith("95% bootstrap over groups (")
    table.write_text("id,group\na/1,p\nnobody,q\n")
    with pytest.raises(DataError, match=r"no group for 5 of 6 scored cases: a/2, .* ids are a/1, nobody"):
        score_folder(*given, cases=CaseSource(groups=table))
    table.write_text("id,group\na/1,\n")
    with pytest.raises(DataError, match=r"group .* is unknown"):
        score_folder(*given, cases=CaseSource(groups=table))


def test_predictions_exported_under_a_coded_name_find_their_mask(tmp_path: Path) -> None:
    names = ("p1 10:22", "P2", "p2", "a%41", "x" * 230)
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    for seed, (name, stem) in enumerate(file_stems(names).items()):
        write_probability(predictions / f"{stem}.png", soft(seed)[0], kind="png")
        write_mask(masks / f"{name}.png", soft(seed)[1])
    assert [name for name, _, _ in pair_folders(predictions, masks)] == sorted(names)
    (predictions / "aA.png").write_bytes(b"")
    with pytest.raises(DataError, match="aA"):
        pair_folders(predictions, masks)


def test_maps_in_a_folder_below_are_pointed_to(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a", "b"))
    predictions.rename(tmp_path / "site")
    (tmp_path / "run").mkdir()
    (tmp_path / "site").rename(tmp_path / "run" / "site")
    with pytest.raises(DataError, match=f"--predictions {tmp_path / 'run' / 'site'}"):
        score_folder(tmp_path / "run", masks)


def test_a_space_at_the_end_of_a_name_parts_no_pair(tmp_path: Path) -> None:
    predictions, masks = folders(tmp_path, ("a",))
    (masks / "a.png").rename(masks / "a .png")
    assert score_folder(predictions, masks)[0][0]["id"] == "a"
