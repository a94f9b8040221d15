from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from medformer.data.connectomes.prepare import fetch as fetching
from medformer.data.connectomes.prepare.fetch import fetch_abide
from medformer.data.synthetic.abide import PHENOTYPE_FILE, write_synthetic_abide
from medformer.errors import ConfigError, DataError, ResourceError, UnknownNameError

SERIES = Path("Outputs/cpac/filt_noglobal")


class Server(ThreadingHTTPServer):
    """The project's server in small: counts requests and breaks off as often as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.break_off: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(name)
        if self.server.break_off.get(name, 0) > 0:
            self.server.break_off[name] -= 1
            content = (self.server.folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE", 0.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    write_synthetic_abide(folder, subjects=4, regions={"aal": 20, "dos160": 24}, volumes=20)
    with Server(folder) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, out: Path, **options: object) -> tuple[tuple[str, ...], dict[str, str]]:
    chosen = {"atlases": ("aal", "dos160"), "url": server.url, **options}
    fetched = fetch_abide(out, **chosen)  # type: ignore[arg-type]
    assert fetched.phenotype.exists()
    return fetched.subjects, dict(fetched.missing)


def test_every_file_arrives_in_the_layout_of_nilearn(server: Server, tmp_path: Path) -> None:
    subjects, missing = fetch(server, tmp_path / "out")
    assert len(subjects) == 4
    assert not missing
    for subject in subjects:
        for kind in ("rois_aal", "rois_dosenbach160"):
            name = f"{subject}_{kind}.1D"
            arrived = tmp_path / "out" / "ABIDE_pcp" / "cpac" / "filt_noglobal" / name
            assert arrived.read_bytes() == (server.folder / SERIES / kind / name).read_bytes()
    files = [path for path in (tmp_path / "out" / "ABIDE_pcp").rglob("*") if path.is_file()]
    assert len(files) == 4 * 2 + 1


def test_a_second_call_asks_for_nothing_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "out", subjects=2)
    server.asked.clear()
    subjects, _ = fetch(server, tmp_path / "out", subjects=3)
    assert len(subjects) == 3
    assert [name for name in server.asked if "090003" not in name] == []


def test_subjects_who_failed_quality_control_are_left_out_unless_asked_for(server: Server, tmp_path: Path) -> None:
    table = server.folder / PHENOTYPE_FILE
    lines = table.read_text().splitlines()
    lines[2] = lines[2].replace("OK", "fail", 1)
    table.write_text("\n".join(lines) + "\n")
    assert len(fetch(server, tmp_path / "checked")[0]) == 3
    assert len(fetch(server, tmp_path / "all", quality_checked=False)[0]) == 4


def test_a_file_that_the_server_lacks_is_listed_and_the_others_arrive(server: Server, tmp_path: Path) -> None:
    (server.folder / SERIES / "rois_aal" / "Site2_0090002_rois_aal.1D").unlink()
    subjects, missing = fetch(server, tmp_path / "out")
    assert len(subjects) == 3
    assert list(missing) == ["Site2_0090002"]
    assert "aal: not on the server (HTTP 404" in missing["Site2_0090002"]


def test_a_transfer_that_breaks_off_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    name = "Site1_0090001_rois_aal.1D"
    server.break_off[name] = 1
    subjects, missing = fetch(server, tmp_path / "out", subjects=1)
    assert subjects == ("Site1_0090001",)
    assert not missing
    arrived = tmp_path / "out" / "ABIDE_pcp" / "cpac" / "filt_noglobal" / name
    assert np.loadtxt(arrived).shape[1] == 20


def test_a_transfer_that_keeps_breaking_off_is_an_error_that_can_be_resumed(server: Server, tmp_path: Path) -> None:
    name = "Site2_0090002_rois_dosenbach160.1D"
    server.break_off[name] = 1000
    with pytest.raises(ResourceError, match=rf"{name} in 3 attempts: the transfer broke off .* same command goes on"):
        fetch(server, tmp_path / "out")
    folder = tmp_path / "out" / "ABIDE_pcp" / "cpac" / "filt_noglobal"
    assert not (folder / name).exists()
    assert (folder / "Site1_0090001_rois_aal.1D").exists()
    server.break_off.clear()
    assert len(fetch(server, tmp_path / "out")[0]) == 4


def test_a_page_instead_of_numbers_is_removed_and_listed(server: Server, tmp_path: Path) -> None:
    name = "Site1_0090001_rois_aal.1D"
    (server.folder / SERIES / "rois_aal" / name).write_text("<html>please log in</html>\n")
    _, missing = fetch(server, tmp_path / "out")
    assert "not a table of numbers" in missing["Site1_0090001"]
    assert not (tmp_path / "out" / "ABIDE_pcp" / "cpac" / "filt_noglobal" / name).exists()


def test_an_empty_file_is_removed_and_listed(server: Server, tmp_path: Path) -> None:
    (server.folder / SERIES / "rois_aal" / "Site1_0090001_rois_aal.1D").write_text("")
    subjects, missing = fetch(server, tmp_path / "out")
    assert "empty file" in missing["Site1_0090001"]
    assert len(subjects) == 3


def test_without_a_table_the_error_names_the_address(server: Server, tmp_path: Path) -> None:
    (server.folder / PHENOTYPE_FILE).unlink()
    with pytest.raises(DataError, match=r"no phenotypic table: HTTP 404 .* http://127\.0\.0\.1"):
        fetch(server, tmp_path / "out")


def test_a_page_instead_of_the_table_is_removed(server: Server, tmp_path: Path) -> None:
    (server.folder / PHENOTYPE_FILE).write_text("<html>\nplease log in\n</html>\n")
    with pytest.raises(DataError, match="not the phenotypic table of ABIDE"):
        fetch(server, tmp_path / "out")
    assert not (tmp_path / "out" / "ABIDE_pcp" / PHENOTYPE_FILE).exists()


def test_a_strategy_that_the_server_lacks_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of 4 subjects could be had"):
        fetch(server, tmp_path / "out", strategy="filt_global")


def test_no_connection_is_an_error_without_a_traceback_of_layers(server: Server, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as unused:
        port = unused.server_address[1]
    with pytest.raises(ResourceError, match=r"no connection to the server .*refused"):
        fetch(server, tmp_path / "out", url=f"http://127.0.0.1:{port}")


def test_names_and_numbers_are_checked_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    for wrong in ({"pipeline": "css"}, {"strategy": "filtered"}, {"atlases": ("aall",)}):
        with pytest.raises(UnknownNameError, match="Known:"):
            fetch(server, tmp_path / "out", **wrong)
    for senseless in ({"subjects": 0}, {"atlases": ()}):
        with pytest.raises(ConfigError, match="at least one"):
            fetch(server, tmp_path / "out", **senseless)
    assert not server.asked
