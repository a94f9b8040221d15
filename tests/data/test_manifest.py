"""A manifest reads back as it was written, and every way to get one wrong is named with its line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medformer.crossval.plan import PlanCase
from medformer.crossval.plan.strata import with_strata
from medformer.data.cases import Case, image_hash
from medformer.data.manifest import read_manifest, write_manifest
from medformer.errors import DataError, ResourceError, UnknownNameError
from medformer.files import sha256

HEADER = "id,image,mask,group,site,split,sha256\n"
ROW = "a,images/a.png,masks/a.png,patient 1,here,train,\n"


def manifest(folder: Path, text: str | bytes) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def cases(folder: Path) -> list[Case]:
    return [
        Case("s/a", folder / "images" / "a.png", folder / "masks" / "a.png", "s/1", "s", "train", "0f", {"age": "61"}),
        Case("s/b", folder / "images" / "b, c.png", None, "s/2", "s", "test", "", {"sex": "F", "note": 'say "x"\nü'}),
    ]


def test_round_trip(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", cases(tmp_path / "data"))
    found = read_manifest(tmp_path / "manifest.csv").cases
    assert [case.id for case in found] == ["s/a", "s/b"]
    assert found[0].image == tmp_path / "data" / "images" / "a.png"
    assert found[1].mask is None
    assert dict(found[0].covariates) == {"age": "61", "sex": "", "note": ""}
    assert found[1].covariates["note"] == 'say "x"\nü'
    assert "data/images/a.png" in (tmp_path / "manifest.csv").read_text()


def test_a_column_that_seems_to_hold_the_group_is_named(tmp_path: Path) -> None:
    refused(manifest(tmp_path, "id,image,Patient_ID\na,a.png,7\n"), match="Name the column 'Patient_ID' group")
    refused(manifest(tmp_path, "id,image,age\na,a.png,7\n"), match="Fill the column")


def test_a_class_round_trips_and_any_other_text_of_that_column_is_a_covariate(tmp_path: Path) -> None:
    path = manifest(tmp_path, "id,image,group,label\na,a.png,g,1\nb,b.png,g,0\nc,c.png,g,\nd,d.png,g,benign\n")
    found = read_manifest(path)
    assert [case.label for case in found.cases] == [1, 0, None, None]
    assert [case.covariates.get("label") for case in found.cases] == [None, None, "", "benign"]
    assert found.cases[0].required_label() == 1
    with pytest.raises(DataError, match="Case 'd' has 'benign' in the column `label`"):
        found.cases[3].required_label()
    with pytest.raises(DataError, match="Case 'x' has no image"):
        Case("x").required_image()
    write_manifest(tmp_path / "again.csv", found.cases)
    assert read_manifest(tmp_path / "again.csv").digest() == found.digest()


def test_further_channels_round_trip_and_count_in_the_digest(tmp_path: Path) -> None:
    t1, t2, flair = (tmp_path / "images" / f"a_{name}.nii" for name in ("t1", "t2", "flair"))
    path = tmp_path / "manifest.csv"
    write_manifest(path, [Case("a", t1, group="p", further=(t2, flair)), Case("b", t1, group="q")])
    assert path.read_text().startswith("id,image,image_1,image_2,mask,group")
    first, second = read_manifest(path).cases
    assert first.images == (t1, t2, flair)
    assert (second.images, second.covariates) == ((t1,), {})
    both = read_manifest(path).digest()
    write_manifest(path, [Case("a", t1, group="p", further=(t2,)), Case("b", t1, group="q")])
    assert read_manifest(path).digest() != both


def test_a_channel_left_out_in_the_middle_is_refused(tmp_path: Path) -> None:
    refused(manifest(tmp_path, "id,image,image_1,image_2,group\na,t1.nii,,flair.nii,p\n"), "image_2; expected image_1")
    refused(manifest(tmp_path, "id,image,image_1,group\na,t1.nii,../t2.nii,p\n"), "image_1 path '../t2.nii' leads out")


def test_the_hash_of_an_image_covers_every_channel_and_every_slice(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "series" / "1", tmp_path / "series" / "2"]
    for file in files:
        file.write_text(file.name)
    a, b, series = files[0], files[1], tmp_path / "series"
    assert image_hash([a]) == sha256(a)
    hashes = {image_hash(images) for images in ([a], [a, b], [b, a], [series], [series, a])}
    files[3].write_text("changed")
    assert len(hashes | {image_hash([series])}) == 6


def test_a_manifest_away_from_the_data_names_its_root(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "manifest.csv"
    write_manifest(path, cases(tmp_path / "data"))
    sidecar = tmp_path / "elsewhere" / "manifest.csv.root.json"
    assert json.loads(sidecar.read_text()) == {"root": str(tmp_path / "data")}
    (tmp_path / "data").mkdir()
    assert read_manifest(path).cases[0].image == tmp_path / "data" / "images" / "a.png"
    write_manifest(path, cases(tmp_path / "elsewhere"))
    assert not sidecar.exists()


def test_a_root_given_by_the_caller_wins(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = read_manifest(manifest(tmp_path, HEADER + ROW), root=tmp_path / "other")
    assert found.cases[0].image == tmp_path / "other" / "images" / "a.png"


@pytest.mark.parametrize("content", ["[]", "{", '{"root": "relative"}', '{"root": "/no/such/folder"}'])
def test_a_bad_sidecar_is_refused(tmp_path: Path, content: str) -> None:
    path = manifest(tmp_path, HEADER + ROW)
    (tmp_path / "manifest.csv.root.json").write_text(content)
    with pytest.raises(DataError, match="root"):
        read_manifest(path)


def test_byte_order_mark_crlf_blank_lines_and_spaces_are_tolerated(tmp_path: Path) -> None:
    text = "\ufeff" + " id , image,group \r\n\r\n  a ,images/a.png,  p 1 \r\n"
    case = read_manifest(manifest(tmp_path, text)).cases[0]
    assert (case.id, case.group, case.mask) == ("a", "p 1", None)


def test_backslashes_of_a_windows_manifest_are_separators(tmp_path: Path) -> None:
    case = read_manifest(manifest(tmp_path, "id,image,group\na,images\\a.png,g\n")).cases[0]
    assert case.image == tmp_path / "images" / "a.png"


def test_unicode_ids_are_compared_in_one_form(tmp_path: Path) -> None:
    refused(
        manifest(tmp_path, "id,image,group\ncafe\u0301,a.png,g\ncaf\u00e9,b.png,g\n"),
        "line 3 .* used before, on line 2",
    )


@pytest.mark.parametrize(
    "image",
    ["../a.png", "images/../../a.png", "/etc/a.png", "C:\\a.png", "..\\a.png", "\\\\server\\share\\a.png", "a\0.png"],
)
@pytest.mark.parametrize("column", ["image", "mask"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, image: str, column: str) -> None:
    row = {"image": "a.png", "mask": "m.png"} | {column: image}
    text = f"id,image,mask,group\na,{row['image']},{row['mask']},g\n"
    refused(manifest(tmp_path, text), f"the {column} path .* leads out of the manifest's folder")


def test_a_path_that_stays_inside_and_links_are_fine(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    text = "id,image,group\na,x/../link/a.png,g\nb,..hidden/b.png,g\n"
    assert len(read_manifest(manifest(inside, text)).cases) == 2


@pytest.mark.parametrize("identifier", ["../a", "a/../b", "/a", "a//b", "a\\b", "."])
def test_ids_that_would_lead_an_export_astray_are_refused(tmp_path: Path, identifier: str) -> None:
    refused(manifest(tmp_path, f"id,image,group\n{identifier},a.png,g\n"), "the id names the exported files")


@pytest.mark.parametrize("group", ["", "  ", "nan", "NA", "None"])
def test_an_unknown_group_is_an_error_unless_the_user_says_otherwise(tmp_path: Path, group: str) -> None:
    path = manifest(tmp_path, f"id,image,group\na,a.png,{group}\nb,b.png,p1\n")
    refused(path, r"line 2 \(id 'a'\): the group .*is unknown.*--ungrouped each")
    assert [case.group for case in read_manifest(path, ungrouped="each").cases] == ["a", "p1"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (HEADER, "no rows"),
        ("image,group\na.png,g\n", "lacks the columns id"),
        ("id;image;group\na;a.png;g\n", "separated by semicolons"),
        ("id,image,group,group\na,a.png,g,h\n", "names group more than once"),
        ("id,image,,group\na,a.png,x,g\n", "without a name"),
        ("id,image,group\n,a.png,g\n", "line 2 .*the id is empty"),
        ("id,image,group\nNaN,a.png,g\n", "line 2 .*the id is empty"),
        ("id,image,group\na,,g\n", "no image is given"),
        ("id,image,group\na,a.png\n", "line 2 has 2 cells, the header has 3"),
        ("id,image,group\na,a.png,g,h\n", "line 2 has 4 cells, the header has 3"),
        ("id,image,group\na,a.png,g\na,b.png,g\n", r"line 3 \(id 'a'\): the id was used before, on line 2"),
        ('id,image,group\na,"a.png,g\n', "not a well-formed CSV"),
        (b"id,image,group\n\xff\xfe,a.png,g\n", "not UTF-8"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str | bytes, match: str) -> None:
    refused(manifest(tmp_path, text), match)


def test_every_bad_row_is_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    rows = "".join(f"c{index},../x.png,g\n" for index in range(14))
    refused(manifest(tmp_path, "id,image,group\nok,a.png,g\n" + rows), "14 bad rows of 15(.|\n)*'c9'(.|\n)*and 4 more")


def test_a_missing_manifest_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.csv", "does not exist; expected a CSV manifest")
    refused(tmp_path, "is a folder; expected a CSV manifest")


def test_writing_nothing_or_where_one_may_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cases"):
        write_manifest(tmp_path / "manifest.csv", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        write_manifest(tmp_path / "file" / "manifest.csv", cases(tmp_path / "file"))


def test_the_digest_follows_content_and_not_place(tmp_path: Path) -> None:
    def digest_of(name: str, row: str) -> str:
        (tmp_path / name).mkdir()
        return read_manifest(manifest(tmp_path / name, HEADER + row)).digest()

    reference = digest_of("one", ROW)
    assert digest_of("two", ROW) == reference
    assert digest_of("three", ROW.replace("patient 1", "patient 2")) != reference
    assert digest_of("four", ROW.replace("train,", "train,ab")) != reference


def test_hashes_are_no_covariates(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "m.csv").write_text("id,image,group,mask_sha256,linked,age\na,a.png,p,12ab,x,61\nb,b.png,q,34cd,,52\n")
    cases = read_manifest(tmp_path / "m.csv").cases
    case = cases[0]
    assert case.covariates["mask_sha256"] == "12ab", "a change of the mask is noticed by it"
    assert case.described == {"age": "61"}
    plan_cases = [PlanCase(each.id, each.group, covariates=each.described) for each in cases]
    with pytest.raises(UnknownNameError, match="Known: age, label, site"):
        with_strata(plan_cases, ["mask_sha256"], 3)


def test_a_manifest_that_cannot_be_written_is_named_and_not_its_sidecar(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    image = tmp_path / "data" / "a.png"
    with pytest.raises(ResourceError, match=r"file/m\.csv: .*every folder of the path is one") as found:
        write_manifest(tmp_path / "file" / "m.csv", [Case("a", image=image, group="g")])
    assert "root.json" not in str(found.value)


def test_the_values_of_a_mask_that_are_foreground_stay_with_the_case(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    cases = [Case("a", image, image, "g", foreground=("1", "ff0000")), Case("b", image, image, "g")]
    write_manifest(tmp_path / "m.csv", cases)
    found = read_manifest(tmp_path / "m.csv")
    assert [case.foreground for case in found.cases] == [("1", "ff0000"), ()]
    assert all("mask_foreground" not in case.covariates for case in found.cases)
    write_manifest(tmp_path / "other.csv", [replace(cases[0], foreground=("2",)), cases[1]])
    assert read_manifest(tmp_path / "other.csv").digest() != found.digest()
    refused(manifest(tmp_path, "id,image,group,mask_foreground\na,a.png,g,red\n"), "mask_foreground: foreground 'red'")
