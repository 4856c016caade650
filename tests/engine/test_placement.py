"""How many engines of a model there are, and on which GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inbox_daemon.config import EngineSettings
from inbox_daemon.config.models import Model
from inbox_daemon.engine import Place
from inbox_daemon.engine.placement import count, environment, fit, likely, share_out, sharing, visible, weights_of

GB = 1_000_000_000
H100 = 80 * GB


@pytest.mark.parametrize(
    ("weights", "memory", "args", "expected"),
    [
        (8 * GB, [H100, H100], {}, 2),
        (8 * GB, [H100], {}, 1),
        (8 * GB, [], {}, 1),
        (60 * GB, [H100, H100], {}, 1),  # it fits, and leaves nothing to compute with
        (30 * GB, [H100, 24 * GB], {}, 1),  # the smaller GPU decides
        (30 * GB, [H100, H100], {"gpu_memory_utilization": 0.5}, 1),
        (None, [H100, H100], {}, 1),
        (8 * GB, [H100, H100], {"tensor_parallel_size": 2}, 1),
        (8 * GB, [H100, H100], {"data_parallel_size": 1}, 1),
        (None, [], {"data_parallel_size": 3}, 3),
        (8 * GB, [H100, H100], {"data_parallel_size": 2, "enable_expert_parallel": True}, 1),  # vLLM's own
    ],
)
def test_each_gpu_that_holds_the_model_with_room_to_compute_gets_a_replica(
    weights: int | None, memory: list[int], args: dict[str, Any], expected: int
) -> None:
    assert count(lambda: weights, memory, args) == expected


@pytest.mark.parametrize(
    ("gpus", "args", "expected"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (8, {}, 8),
        (8, {"tensor_parallel_size": 4}, 1),
        (0, {"data_parallel_size": 2}, 2),
        (2, {"data_parallel_size": 40}, 2),
        (0, {"data_parallel_size": "auto"}, 1),  # what is wrong with it, the worker will say
        (2, {"gpu_memory_utilization": "90%"}, 1),
        (0, {"data_parallel_size": [2]}, 1),
    ],
)
def test_before_the_weights_are_known_each_gpu_is_reckoned_with(gpus: int, args: dict[str, Any], expected: int) -> None:
    assert likely(gpus, args) == expected


def test_gpus_are_counted_without_asking_the_driver(tmp_path: Path) -> None:
    assert visible(tmp_path / "no driver", {}) == 0
    for name in ("0000:18:00.0", "0000:2a:00.0", "0000:3a:00.0"):
        (tmp_path / name).mkdir()
    assert visible(tmp_path, {}) == 3
    for named, expected in (("2,0", 2), ("0,1,2,3", 3), ("", 0)):
        assert visible(tmp_path, {"CUDA_VISIBLE_DEVICES": named}) == expected


def test_a_folders_weights_are_its_safetensors(tmp_path: Path) -> None:
    assert weights_of(str(tmp_path)) is None
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert weights_of(str(tmp_path)) == 2000


def test_where_the_hub_cannot_be_asked_what_was_downloaded_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert weights_of("some/model") is None
    downloaded = tmp_path / "models--some--model"
    for folder in ("refs", "blobs", "snapshots/abc"):
        (downloaded / folder).mkdir(parents=True)
    (downloaded / "refs" / "main").write_text("abc")
    (downloaded / "blobs" / "weights").write_bytes(bytes(3000))
    (downloaded / "snapshots" / "abc" / "model.safetensors").symlink_to("../../blobs/weights")
    assert weights_of("some/model") == 3000


@pytest.mark.parametrize(
    ("replicas", "visible", "args", "expected"),
    [
        (1, ["0", "1"], {}, [""]),
        (2, ["0", "1"], {}, ["0", "1"]),
        (2, ["3", "5", "6", "7"], {"tensor_parallel_size": 2}, ["3,5", "6,7"]),
        (2, [], {}, ["", ""]),  # a host without GPUs
    ],
)
def test_each_replica_has_gpus_of_its_own(
    replicas: int, visible: list[str], args: dict[str, Any], expected: list[str]
) -> None:
    assert share_out(replicas, visible, args) == expected


def test_more_gpus_than_there_are_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="2 replicas of 4 GPUs each need 8 GPUs; 4 visible"):
        share_out(2, ["0", "1", "2", "3"], {"tensor_parallel_size": 4})


def model(name: str, *gpus: int, share: float | None = None) -> Model:
    args = {} if share is None else {"gpu_memory_utilization": share}
    return Model(name, EngineSettings(model=name, args=args), front=False, gpus=gpus)


def test_models_that_use_the_same_gpus_are_one_group_and_those_on_others_another() -> None:
    names = lambda groups: [[one.name for one in group] for group in groups]  # noqa: E731
    a, b, c, d = model("a", 0), model("b", 1), model("c", 0, 2), model("d", 1, 3)
    assert names(sharing([a, b, c, d])) == [["a", "c"], ["b", "d"]]
    assert {frozenset(group) for group in names(sharing([a, b, model("all")]))} == {frozenset("ab") | {"all"}}


def test_models_fit_side_by_side_where_their_shares_of_every_gpu_do() -> None:
    half, rest, all_of_it = model("a", share=0.5), model("b", share=0.45), model("c")
    assert fit([half, rest]) and fit([all_of_it])
    assert not fit([half, rest, model("d", share=0.1)])
    assert not fit([half, all_of_it]), "without a share it takes its GPUs to itself"
    assert fit([model("a", 0), model("b", 1)]) and not fit([model("a", 0), model("b", 0, 1)])
    assert fit([model("a", 0, share=0.9), model("b", 1, share=0.9)])


def test_gpus_that_the_settings_number_are_nvidia_smis() -> None:
    assert environment(Place(1, 1, "1,2"), numbered=True) == {
        "CUDA_VISIBLE_DEVICES": "1,2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert environment(Place(1, 1, "")) == {}
