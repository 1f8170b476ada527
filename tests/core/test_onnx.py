import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lidar_completion.completer import SceneCompleter
from lidar_completion.errors import ModelError
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, load_model, save_model
from lidar_completion.networks import Architecture, VoxelisedCloud

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from lidar_completion.model.onnx_export import export_model  # noqa: E402
from lidar_completion.model.onnx_network import OnnxEncoder, execution_providers, load_onnx_networks  # noqa: E402

STANDARD = {
    "Add", "Concat", "Cos", "Gather", "Gemm", "Identity", "LeakyRelu", "MatMul", "Mul", "Relu",
    "Reshape", "Scan", "Shape", "Sin", "Slice", "Sum", "Tanh", "Tile",
}  # fmt: skip
CPU = torch.device("cpu")


def exported(folder: Path, **architecture: object) -> Path:
    card = ModelCard(
        name="m",
        architecture=Architecture(**{"width": 0.125, "voxel_size_m": 0.5, **architecture}),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=3),
        networks=("encoder", "denoiser", "refiner"),
    )
    torch.manual_seed(1)
    networks = build_networks(card)
    for network in networks.values():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    save_model(folder, card, networks)
    export_model(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("onnx"))


def cloud(n: int, extent_m: float, seed: int = 0) -> VoxelisedCloud:
    points = (torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * 2 * extent_m
    return VoxelisedCloud.from_points(points, 0.5)


@torch.no_grad()
def agree(folder: Path, scan: VoxelisedCloud, points: VoxelisedCloud, within: float = 1e-4) -> None:
    card, networks = load_model(folder)
    ours = load_onnx_networks(folder, card, CPU)
    for t in (0, 999):
        expected = networks["denoiser"](points, networks["encoder"](scan), torch.tensor([t]))
        found = ours["denoiser"](points, ours["encoder"](scan), torch.tensor([t]))
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= within * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(ours["refiner"](points), networks["refiner"](points), atol=within, rtol=within)


@pytest.mark.parametrize(("n", "extent_m"), [(1, 1), (2, 30), (7, 0.1), (300, 100), (2000, 4), (1500, 20)])
def test_onnx_agrees_with_pytorch_for_any_number_of_points(folder: Path, n: int, extent_m: float):
    agree(folder, cloud(max(1, n // 8), extent_m, 1), cloud(n, extent_m))


@pytest.mark.parametrize("architecture", [{"point_offsets": True, "point_confidence": True}, {"width": 0.3}])
def test_other_architectures(architecture: dict[str, object], tmp_path: Path):
    agree(exported(tmp_path, **architecture), cloud(50, 5, 1), cloud(400, 5))


def test_float16_weights_halve_the_file(folder: Path, tmp_path: Path):
    half = Path(shutil.copytree(folder, tmp_path / "half"))
    export_model(half, half=True)
    for name in ("encoder.onnx", "denoiser.onnx"):
        assert (half / name).stat().st_size < 0.6 * (folder / name).stat().st_size
    agree(half, cloud(50, 5, 1), cloud(400, 5), within=5e-3)


@pytest.mark.parametrize("name", ["encoder", "denoiser", "refiner"])
def test_standard_operators_dynamic_sizes_and_conventions(folder: Path, name: str):
    model = onnx.load(folder / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= STANDARD
    assert {node.domain for node in model.graph.node} == {""}
    assert all(value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input if value.name != "t")
    described = {entry.key for entry in model.metadata_props}
    forms = {".".join("L" if part.isdigit() else part for part in value.name.split(".")) for value in model.graph.input}
    assert forms <= described
    assert len(model.graph.value_info) >= len(model.graph.node) - 1


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_pipeline_agrees_on_both_backends(folder: Path, guidance: float):
    random = np.random.default_rng(0)
    sweep = random.uniform(-20, 20, (500, 3)).astype(np.float32)
    results = [
        SceneCompleter.load(folder, device="cpu", backend=backend).complete(sweep, guidance=guidance, refine=False)
        for backend in ("torch", "onnx")
    ]
    assert results[0].points.shape == results[1].points.shape
    np.testing.assert_allclose(results[0].points, results[1].points, atol=1e-3)


def test_model_with_a_base_exports_only_its_own_networks(tmp_path: Path):
    whole, base, added = exported(tmp_path / "whole"), tmp_path / "base", tmp_path / "added"
    card, networks = load_model(whole)
    save_model(base, card, {name: networks[name] for name in ("encoder", "denoiser")})
    save_model(added, card, networks, base=base)
    export_model(base)
    assert {path.name for path in export_model(added)} == {"refiner.onnx", "onnx.json"}
    agree(added, cloud(20, 4, 1), cloud(200, 4))
    (base / "onnx.json").unlink()
    with pytest.raises(ModelError, match=r"base/onnx.json: no such file; export the model"):
        load_onnx_networks(added, load_model(added)[0], CPU)


def test_rejects_missing_or_outdated_exports(folder: Path, tiny_model: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"onnx.json: no such file; export the model"):
        SceneCompleter.load(tiny_model, device="cpu", backend="onnx")
    other = exported(tmp_path)
    card, networks = load_model(other)
    networks["denoiser"].last[0].bias.data += 1
    save_model(other, card, networks)
    with pytest.raises(ModelError, match=r"exported from weights .* export again"):
        SceneCompleter.load(other, device="cpu", backend="onnx")
    manifest = json.loads((other / "onnx.json").read_text())
    (other / "onnx.json").write_text(json.dumps({**manifest, "inputs_version": 1}))
    with pytest.raises(ModelError, match=r"inputs_version 1, .* export again"):
        SceneCompleter.load(other, device="cpu", backend="onnx")
    (other / "onnx.json").write_text("{}")
    with pytest.raises(ModelError, match="not a manifest"):
        SceneCompleter.load(other, device="cpu", backend="onnx")


def test_rejects_a_damaged_graph(tmp_path: Path):
    folder = exported(tmp_path)
    path = folder / "denoiser.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"denoiser.onnx: missing, truncated or changed"):
        load_onnx_networks(folder, load_model(folder)[0], CPU)


def test_local_features_and_confidence_agree(tmp_path: Path):
    own = exported(
        tmp_path,
        own_channels=(8, 8, 8, 16, 16, 16, 8, 8, 8),
        local_features=True,
        point_confidence=True,
        point_offsets=True,
    )
    points, scan = ((torch.rand(n, 3, generator=torch.Generator().manual_seed(n)) - 0.5) * 8 for n in (700, 90))
    agree(
        own,
        VoxelisedCloud.from_points_and_scan(scan, scan, 0.5),
        VoxelisedCloud.from_points_and_scan(points, scan, 0.5),
    )


def test_providers_of_a_device(caplog: pytest.LogCaptureFixture):
    import onnxruntime

    assert execution_providers(CPU) == ["CPUExecutionProvider"]
    second = torch.device("cuda:1")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert execution_providers(second)[0] == ("CUDAExecutionProvider", {"device_id": 1})
        return
    with pytest.raises(ModelError, match=r"no CUDA here .* pip install onnxruntime-gpu"):
        execution_providers(second)
    assert execution_providers(second, or_cpu=True) == ["CPUExecutionProvider"]
    assert "run on the CPU" in caplog.text


def test_a_network_that_falls_back_to_the_cpu_says_so(folder: Path, caplog: pytest.LogCaptureFixture):
    card = load_model(folder)[0]
    load_onnx_networks(folder, card, CPU)
    assert "runs on the CPU" not in caplog.text
    unusable = [("TensorrtExecutionProvider", {}), "CPUExecutionProvider"]  # as CUDA without its libraries
    OnnxEncoder(folder / "encoder.onnx", unusable)
    assert f"{folder / 'encoder.onnx'} runs on the CPU" in caplog.text


def test_uses_as_many_threads_as_pytorch(folder: Path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        network = load_onnx_networks(folder, load_model(folder)[0], CPU)["encoder"]
        assert network._session.get_session_options().intra_op_num_threads == 2
    finally:
        torch.set_num_threads(before)
