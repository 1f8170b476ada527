"""Model folders: what is written can be read, and what is damaged is rejected with a message."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_channels import TINY_CHANNELS
from torch import nn

from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, load_card
from lidar_completion.model.weights import build_networks, load_model, save_model
from lidar_completion.networks import Architecture


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_card(folder: Path, **changes: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")
    edit_card(folder, sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_loads_what_was_saved(tmp_path: Path, dtype: torch.dtype):
    card = ModelCard(
        name="n",
        architecture=Architecture(width=0.125, voxel_size_m=0.3, point_offsets=True),
        networks=("encoder", "denoiser", "refiner"),
        confidence={"range_m": [1.0, 2.0], "probability": [0.5, 0.25]},
        metrics={"drive 90": {"cd": 0.2}},
    )
    networks = build_networks(card)
    saved = save_model(tmp_path, card, networks, dtype)
    loaded_card, loaded = load_model(tmp_path)
    assert loaded_card == saved
    for name, network in networks.items():
        assert not loaded[name].training
        for key, value in network.state_dict().items():
            found = loaded[name].state_dict()[key]
            assert found.dtype == value.dtype
            expected = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
            assert torch.equal(found, expected)


def test_stores_values_beyond_float16_in_float32(tmp_path: Path):
    card = ModelCard(name="wide", architecture=Architecture(width=0.125))
    networks = build_networks(card)
    wide = next(name for name, _ in networks["denoiser"].named_buffers() if name.endswith("running_var"))
    networks["denoiser"].get_buffer(wide).fill_(1e5)
    save_model(tmp_path, card, networks, dtype=torch.float16)
    _, loaded = load_model(tmp_path)
    assert bool((loaded["denoiser"].get_buffer(wide) == 1e5).all())
    assert load_file(tmp_path / "model.safetensors")["encoder.stem.0.kernel"].dtype == torch.float16


def test_rejects_a_missing_folder_or_weights_file(folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"nowhere.model.json: no such file"):
        load_model(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors: no such file, but model.json names it"):
        load_model(folder)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_rejects_truncated_weights(folder: Path, size: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="truncated or changed"):
        load_model(folder)


def test_rejects_weights_that_are_not_safetensors(folder: Path):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    edit_card(folder, sha256=hashlib.sha256(b"\xff" * 64).hexdigest())
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON model card"),
        (b"{", "not a JSON model card"),
        (b"\xff\xfe\x00", "not a JSON model card"),
        (b"[1]", "the card is list, expected an object"),
        (b'{"name": 3}', "name is 3, expected str"),
        (b"{}", "the entry name is missing"),
        (b'{"name": "x", "colour": 1}', "unknown entry colour"),
        (b'{"name": "x", "architecture": {"width": "wide"}}', "architecture.width is 'wide', expected float"),
        (
            b'{"name": "x", "architecture": {"own_channels": [8, 8.5]}}',
            r"architecture.own_channels is \[8, 8.5\], expected a list of int",
        ),
        (b'{"name": "x", "architecture": {"own_channels": [8, 8]}}', "own_channels has 2 entries, expected 9"),
        (b'{"name": "x", "architecture": []}', "architecture is list, expected an object"),
        (b'{"name": "x", "architecture": {"width": 0.0}}', "layers of 0 channels; expected at least 4"),
        (
            b'{"name": "x", "architecture": {"voxel_size_m": -1}}',
            r"architecture.voxel_size_m is -1.0; expected a finite",
        ),
        (b'{"name": "x", "pipeline": {"steps": 0}}', r"pipeline.steps is 0; expected a finite number, at least 1"),
        (b'{"name": "x", "pipeline": {"start_noise": NaN}}', r"pipeline.start_noise is nan; expected a finite number"),
        (b'{"name": "x", "pipeline": {"downsample_voxel_m": -1}}', r"pipeline.downsample_voxel_m is -1.0"),
        (
            b'{"name": "x", "pipeline": {"start_timestep": 1000}}',
            r"start_timestep is 1000; expected less than schedule.steps",
        ),
        (b'{"name": "x", "schedule": {"steps": 0}}', r"schedule.steps is 0; expected a finite number"),
        (b'{"name": "x", "schedule": {"beta_last": 5.0}}', r"schedule.beta_last is 5.0; expected at most 0.999"),
        (
            b'{"name": "x", "schedule": {"beta_first": 0.5}}',
            "beta_first is 0.5; expected at most schedule.beta_last, which is 0.007",
        ),
        (
            b'{"name": "x", "pipeline": {"noise_min": 2.0}}',
            "noise_min is 2.0; expected at most pipeline.noise_max, which is 1.2",
        ),
        (
            b'{"name": "x", "pipeline": {"min_range_m": 60}}',
            "min_range_m is 60.0; expected at most pipeline.max_range_m, which is 50.0",
        ),
        (b'{"name": "x", "pipeline": {"replication": 1000000}}', "replication is 1000000; expected at most 1000"),
        (
            b'{"name": "x", "architecture": {"voxel_size_m": 0.001}, "pipeline": {"max_range_m": 200}}',
            "max_range_m is 200.0; expected less than 131.072 m, where the grid of voxels of 0.001 m ends",
        ),
        (b'{"name": "x", "architecture": {"width": 1e9}}', r"architecture.width is 1000000000.0; expected at most 16"),
        (
            b'{"name": "x", "architecture": {"own_channels": [9999, 8, 8, 8, 8, 8, 8, 8, 8]}}',
            "layers of 9999 channels .* expected at most 4096",
        ),
        (b'{"name": "x", "pipeline": {"steps": true}}', "pipeline.steps is True, expected int"),
        (b'{"name": "x", "pipeline": {"sampler": "magic"}}', "pipeline.sampler is 'magic'"),
        (b'{"name": "x", "networks": ["encoder", "decoder"]}', "unknown networks"),
        (b'{"name": "x", "networks": "encoder"}', "networks"),
        (b'{"name": "x", "confidence": {"range_m": [1]}}', "expected range_m, probability and"),
        (
            b'{"name": "x", "confidence": {"range_m": [2, 1], "probability": [1, 1]}}',
            r"range_m is \[2, 1\], expected rising",
        ),
        (b'{"name": "x", "confidence": {"range_m": [1, 2], "probability": [1, 2]}}', "probability has shape"),
        (b'{"name": "x", "confidence": {"range_m": [1, 2], "probability": ["1", 1]}}', "probability has shape"),
        (
            b'{"name": "x", "confidence": {"range_m": [1, 2], "distance_m": [0, 1], "probability": [[1, 1], [1]]}}',
            r"expected \(2, 2\) numbers from 0 to 1",
        ),
        (b'{"name": "x", "format_version": 9}', "format_version 9, this program reads 1"),
    ],
)
def test_rejects_broken_cards(folder: Path, text: bytes, message: str):
    (folder / "model.json").write_bytes(text)
    with pytest.raises(ModelError, match=message) as caught:
        load_card(folder)
    assert "model.json" in str(caught.value)


def test_accepts_old_names_of_card_entries(folder: Path):
    card = json.loads((folder / "model.json").read_text())
    old = dict(card["pipeline"])
    old["noise_least"], old["noise_most"] = 0.07, old.pop("noise_max")
    del old["noise_min"]
    edit_card(folder, pipeline=old)
    with pytest.warns(FutureWarning, match="noise_least is deprecated; write noise_min"):
        assert load_card(folder).pipeline.noise_min == 0.07
    edit_card(folder, pipeline={**old, "noise_min": 0.1})
    with pytest.raises(ModelError, match="both noise_min and its old name noise_least are given"):
        load_card(folder)


def test_rejects_missing_unknown_and_misshaped_tensors(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    for change, message in (
        ({"encoder.stem.0.kernel": None}, "1 tensors of the encoder are missing, the first is stem.0.kernel"),
        ({"denoiser.intruder": torch.zeros(1)}, "1 tensors of the denoiser are unknown, the first is intruder"),
        ({"denoiser.last.0.bias": torch.zeros(3)}, r"denoiser.last.0.bias has shape \(3,\), expected \(20,\)"),
    ):
        changed = {**tensors, **change}
        replace_tensors(folder, {name: value for name, value in changed.items() if value is not None})
        with pytest.raises(ModelError, match=message):
            load_model(folder)


def test_rejects_another_width_than_the_card_says(folder: Path):
    edit_card(folder, architecture={"own_channels": [2 * channels for channels in TINY_CHANNELS]})
    with pytest.raises(ModelError, match=r"has shape .* for the card's architecture"):
        load_model(folder)


def test_compares_sizes_before_allocating(folder: Path):
    edit_card(folder, architecture={"own_channels": [4096] * 9})  # 1.8 GB in each 3x3x3 kernel
    with pytest.raises(ModelError, match="tensors of the encoder are unknown"):
        load_model(folder)


@pytest.mark.parametrize("weights", ["../elsewhere.safetensors", "/etc/hostname"])
def test_rejects_weights_outside_the_folder(folder: Path, weights: str):
    shutil.copy(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    edit_card(folder, weights=weights)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(folder)


def test_rejects_a_link_out_of_the_folder(folder: Path):
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / "model.safetensors", outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(folder)


def test_rejects_weights_that_are_not_finite(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    tensors["denoiser.stem.0.kernel"][0, 0, 0] = torch.nan
    replace_tensors(folder, tensors)
    with pytest.raises(ModelError, match="not finite"):
        load_model(folder)


# --- a base -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def refined(folder: Path) -> Path:
    """The tiny model with a refiner, in a folder that holds the refiner alone."""
    card, networks = load_model(folder)
    save_model(folder.parent / "refined", card, networks | refiner_of(card), base=folder)
    return folder.parent / "refined"


def refiner_of(card: ModelCard) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return build_networks(dataclasses.replace(card, networks=("refiner",)))


def test_model_with_a_base_stores_only_its_own_networks(folder: Path, refined: Path):
    assert {name.split(".")[0] for name in load_file(refined / "model.safetensors")} == {"refiner"}
    card, networks = load_model(refined)
    assert (card.base, card.base_sha256) == ("model", load_card(folder).sha256)
    assert card.networks == tuple(networks) == ("encoder", "denoiser", "refiner")
    assert not any(network.training for network in networks.values())
    expected = load_model(folder)[1] | refiner_of(card)
    for name, network in expected.items():
        for key, value in network.state_dict().items():
            assert torch.equal(networks[name].state_dict()[key], value)


def test_model_and_base_can_move_together(refined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(refined.parent, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere" / "refined")
    assert set(load_model(".")[1]) == {"encoder", "denoiser", "refiner"}


def test_rejects_a_base_that_is_missing_changed_or_elsewhere(folder: Path, refined: Path):
    for base in ("../model", "/model", "..", ".", "refined"):
        edit_card(refined, base=base)
        with pytest.raises(ModelError, match="expected the name of another folder beside the model"):
            load_model(refined)
    edit_card(refined, base="gone")
    with pytest.raises(ModelError, match=r"shares networks with .*gone; copy that folder beside it .*no such file"):
        load_model(refined)
    edit_card(refined, base="model")
    card, networks = load_model(folder)
    networks["denoiser"].last[0].bias.data += 1
    save_model(folder, card, networks)
    with pytest.raises(ModelError, match=r"saved with the base model of sha256 .* copy both folders again"):
        load_model(refined)


def test_rejects_an_unsuitable_base_before_writing(folder: Path, tmp_path: Path):
    card, networks = load_model(folder)
    for output in (tmp_path / "deeper" / "refined", folder):
        with pytest.raises(ModelError, match="expected a folder beside"):
            save_model(output, card, networks, base=folder)
    networks["denoiser"].last[0].bias.data += 1
    with pytest.raises(ModelError, match=r"its denoiser.last.0.bias differs from the model"):
        save_model(tmp_path / "refined", card, networks, base=folder)
    assert not (tmp_path / "refined").exists()
