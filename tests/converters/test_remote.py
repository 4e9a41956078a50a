"""Names with a prefix: found here, fetched, or a message that says what to do."""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import minari
import pytest

from offrl.converters import convert, plan_conversion
from offrl.converters.catalog import open_dataset
from offrl.converters.minari_root import minari_folder
from offrl.converters.remote import locate
from offrl.data.store import TrajectoryStore
from offrl.errors import DatasetNotFoundError, RequestError
from tests.converters.logs import make_log, write_d4rl

ADDRESS = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path


class Response(io.BytesIO):
    """What a server answers; `announced` is the length that it promises."""

    def __init__(self, content: bytes, announced: int) -> None:
        super().__init__(content)
        self.headers = Message()
        self.headers["Content-Length"] = str(announced)


def answer(monkeypatch: pytest.MonkeyPatch, content: bytes, announced: int | None = None) -> list[str]:
    """Let every request be answered so; returns the list of addresses asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Response:
        asked.append(url)
        return Response(content, len(content) if announced is None else announced)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize("file", ["hopper-medium-v2.hdf5", "hopper_medium-v2.hdf5"])
def test_a_d4rl_file_that_is_here(folders: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    write_d4rl(folders / "d4rl" / file, make_log([2], ["terminal"], seed=0))
    report = convert("d4rl:hopper-medium-v2", folders / "store")
    store = TrajectoryStore.open(folders / "store")
    assert (report.source, report.format) == ("d4rl:hopper-medium-v2", "d4rl")
    assert store.metadata.reference_scores["measured_on"] == "D4RL v0 environments"
    assert store.normalized_score(3234.3) == 100.0
    assert store.normalized_score(-20.272305) == 0.0
    assert any("D4RL v0 environments" in note for note in report.notes)
    assert open_dataset("d4rl:hopper-medium-v2").metadata.name == "d4rl:hopper-medium-v2"


def test_reference_scores_are_not_borrowed(folders: Path) -> None:
    path = write_d4rl(folders / "d4rl" / "hopper-medium-v2.hdf5", make_log([2], ["terminal"], seed=0))
    assert plan_conversion(path).reference_scores == {}
    path.rename(path.with_name("kitchen-mixed-v0.hdf5"))
    assert plan_conversion("d4rl:kitchen-mixed-v0").reference_scores == {}


@pytest.mark.parametrize(
    ("name", "random", "expert"),
    [
        ("hopper-expert-v1", -20.272305, 3234.3),
        ("halfcheetah-random-v2", -280.178953, 12135.0),
        ("walker2d-full-replay-v2", 1.629008, 4592.3),
        ("ant-medium-v0", -325.6, 3879.7),
        ("antmaze-large-play-v2", 0.0, 1.0),
        ("antmaze-umaze-v0", 0.0, 1.0),
        ("pen-human-v1", 96.262799, 3076.8331017826877),
        ("relocate-expert-v0", -6.425911, 4233.877797728884),
    ],
)
def test_reference_scores_by_task(folders: Path, name: str, random: float, expert: float) -> None:
    write_d4rl(folders / "d4rl" / f"{name}.hdf5", make_log([2], ["terminal"], seed=0))
    scores = locate(f"d4rl:{name}").reference_scores
    assert (scores["random"], scores["expert"]) == (random, expert)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hopper-medium-v2", "gym_mujoco_v2/hopper_medium-v2.hdf5"),
        ("walker2d-medium-expert-v2", "gym_mujoco_v2/walker2d_medium_expert-v2.hdf5"),
        ("ant-random-v1", "gym_mujoco_v1/ant_random-v1.hdf5"),
        ("halfcheetah-expert-v0", "gym_mujoco/halfcheetah_expert.hdf5"),
        ("hopper-medium-replay-v0", "gym_mujoco/hopper_mixed.hdf5"),
    ],
)
def test_a_file_is_fetched_once(folders: Path, name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_d4rl(folders / "log.hdf5", make_log([2], ["terminal"], seed=0))
    asked = answer(monkeypatch, log.read_bytes())
    for _ in range(2):
        assert plan_conversion(f"d4rl:{name}").steps == 2
    assert asked == [f"{ADDRESS}/{path}"]
    assert [file.name for file in (folders / "d4rl").iterdir()] == [f"{name}.hdf5"]


def test_without_network_the_message_says_what_to_do(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    with pytest.raises(DatasetNotFoundError, match="no route to host") as raised:
        convert("d4rl:hopper-medium-v2", folders / "store")
    assert f"{ADDRESS}/gym_mujoco_v2/hopper_medium-v2.hdf5" in raised.value.what
    assert str(folders / "d4rl") in raised.value.where
    assert "hopper-medium-v2.hdf5" in raised.value.hint
    assert not (folders / "store").exists()
    with pytest.raises(DatasetNotFoundError, match="is not here") as raised:
        plan_conversion("d4rl:antmaze-umaze-v0")
    assert str(folders / "d4rl" / "antmaze-umaze-v0.hdf5") in raised.value.where


def test_a_download_that_breaks_off_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, b"half", announced=8)
    with pytest.raises(DatasetNotFoundError, match="4 of 8 bytes"):
        plan_conversion("d4rl:hopper-medium-v2")
    assert list((folders / "d4rl").iterdir()) == []


@pytest.mark.parametrize(
    "error", [http.client.BadStatusLine("?"), http.client.IncompleteRead(b""), TimeoutError("slow")]
)
def test_a_server_that_answers_nonsense(folders: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DatasetNotFoundError, match="could not be fetched"):
        plan_conversion("d4rl:hopper-medium-v2")
    assert list((folders / "d4rl").iterdir()) == []


def test_a_page_in_place_of_the_file_is_not_kept(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, b"<html>Sign in to the network</html>")
    with pytest.raises(DatasetNotFoundError, match="no HDF5 file"):
        plan_conversion("d4rl:hopper-medium-v2")
    assert list((folders / "d4rl").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "several"), [("hopper-medium-expert-v2", True), ("ant-full-replay-v2", True), ("hopper-medium-v2", False)]
)
def test_two_behavior_policies_in_one_file_are_pointed_out(folders: Path, name: str, several: bool) -> None:
    write_d4rl(folders / "d4rl" / f"{name}.hdf5", make_log([2], ["terminal"], seed=0))
    notes = plan_conversion(f"d4rl:{name}").notes
    assert any("more than one behavior policy" in note for note in notes) == several


@pytest.mark.parametrize("name", ["d4rl:", "d4rl:../secrets", "minari:/etc/passwd", "minari:a b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(RequestError, match="not the name of a dataset"):
        locate(name)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionError("lost")])
def test_a_minari_dataset_that_was_fetched_in_part_is_not_there(
    folders: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def download(identifier: str) -> None:
        data = minari_folder() / identifier / "data"
        data.mkdir(parents=True)
        (data / "main_data.hdf5").write_text("half")
        raise error

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises((KeyboardInterrupt, DatasetNotFoundError)):
        locate("minari:mujoco/hopper/expert-v0")
    assert [path for path in (folders / "minari").rglob("*") if path.is_file()] == []
    assert not (folders / "minari" / "mujoco" / "hopper" / "expert-v0").exists()


def test_a_minari_dataset_that_was_fetched_is_in_its_place(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(identifier: str) -> None:
        data = minari_folder() / identifier / "data"
        data.mkdir(parents=True)
        (data / "main_data.hdf5").write_text("whole")

    monkeypatch.setattr(minari, "download_dataset", download)
    found = locate("minari:mujoco/hopper/expert-v0").path
    assert found == folders / "minari" / "mujoco" / "hopper" / "expert-v0"
    assert [path.name for path in found.rglob("*")] == ["data", "main_data.hdf5"]
    assert list(found.parent.iterdir()) == [found]


def test_minari_without_network(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(identifier: str) -> None:
        print("Downloading", identifier)
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(DatasetNotFoundError, match="no route to host") as raised:
        plan_conversion("minari:mujoco/hopper/expert-v0")
    assert str(folders / "minari" / "mujoco" / "hopper" / "expert-v0") in raised.value.where
    assert "data" in raised.value.hint
    assert capsys.readouterr().out == ""  # what Minari prints would spoil --json
