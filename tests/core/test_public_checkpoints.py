"""Files of exactly the published form, made from the golden weights; malicious ones included."""

import functools
import importlib.util
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from lidar_completion.errors import ModelError
from lidar_completion.model.public_checkpoints import (
    Placeholder,
    convert_public_checkpoints,
    read_public_checkpoint,
    read_tensors,
)
from lidar_completion.model.weights import load_model
from lidar_completion.networks import Architecture, ConditionEncoder, Denoiser, Refiner

SMALL = Architecture(width=0.25)
KINDS = {"encoder": ConditionEncoder, "denoiser": Denoiser, "refiner": Refiner}


@functools.cache
def golden_weights(kind: str) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("weights", Path(__file__).parent / "golden" / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill(KINDS[kind](SMALL).state_dict())


def prefixed(**prefixes: str) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(
        (f"{prefix}.{name}", value) for kind, prefix in prefixes.items() for name, value in golden_weights(kind).items()
    )


class Scheduler:
    """A class as Lightning files contain it along with the tensors."""

    def __init__(self) -> None:
        self.gamma, self.steps = 0.5, [1, 2]


def lightning_file(path: Path, state_dict: dict[str, torch.Tensor]) -> Path:
    content = {
        "epoch": 19,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": state_dict,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1), "dirpath": Path("/somewhere")}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [Scheduler()],
        "hyper_parameters": {"train": {"device": torch.device("cpu"), "dtype": torch.float16}},
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("prefixes", "role", "guidance", "steps"),
    [
        ({"encoder": "partial_enc", "denoiser": "model"}, "teacher", 6.0, 50),
        ({"encoder": "DM_encoder", "denoiser": "generator"}, "student", 3.5, 8),
        ({"encoder": "partial_enc", "denoiser": "DiffModel", "refiner": "model_refine"}, "student", 3.5, 8),
    ],
)
def test_lightning_files_become_model_folders(
    prefixes: dict[str, str], role: str, guidance: float, steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = lightning_file(tmp_path / "published.ckpt", prefixed(**prefixes))
    convert_public_checkpoints([file], tmp_path / "model")
    assert f"assumed to be a {role} ({steps} steps, guidance {guidance:g})" in caplog.text
    assert f"its denoiser is called {prefixes['denoiser']};" in caplog.text
    card, networks = load_model(tmp_path / "model")
    assert set(networks) == set(prefixes)
    assert (card.pipeline.guidance, card.pipeline.steps, card.pipeline.sampler) == (guidance, steps, "dpm_solver")
    assert (card.pipeline.published_start, card.pipeline.downsampling) == (True, "farthest")
    assert card.architecture == SMALL
    for kind, network in networks.items():
        for name, value in golden_weights(kind).items():
            assert torch.equal(network.state_dict()[name], value)


def test_the_caller_can_name_the_role(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = lightning_file(tmp_path / "lidiff_dpo.ckpt", prefixed(encoder="DM_encoder", denoiser="DiffModel"))
    card = convert_public_checkpoints([file], tmp_path / "model", role="teacher")
    assert (card.pipeline.guidance, card.pipeline.steps) == (6.0, 50)
    assert card.description.endswith("published settings of a teacher, as requested")
    assert not caplog.text
    with pytest.raises(ValueError, match="role is 'lidiff'; expected auto, teacher, student"):
        convert_public_checkpoints([file], tmp_path / "model", role="lidiff")


def test_a_refiner_in_its_own_file(tmp_path: Path):
    files = [
        lightning_file(tmp_path / "diff_net.ckpt", prefixed(encoder="partial_enc", denoiser="model")),
        lightning_file(tmp_path / "refine_net.ckpt", prefixed(refiner="model_refine")),
    ]
    card = convert_public_checkpoints(files, tmp_path / "model", name="lidiff")
    assert card.networks == ("encoder", "denoiser", "refiner")
    assert card.name == "lidiff"
    with pytest.raises(ModelError, match="no encoder and no denoiser; a model needs both"):
        convert_public_checkpoints(files[1:], tmp_path / "half")
    with pytest.raises(ModelError, match="holds another denoiser; pass each network once"):
        convert_public_checkpoints([files[0], files[0]], tmp_path / "twice")


def test_prefers_the_student_over_its_teacher(tmp_path: Path):
    both = prefixed(denoiser="generator")
    both.update(
        {name.replace("generator", "model"): value + 1 for name, value in prefixed(denoiser="generator").items()}
    )
    file = lightning_file(tmp_path / "student.ckpt", both)
    found = read_public_checkpoint(file)["denoiser"]
    assert torch.equal(found["stem.0.kernel"], golden_weights("denoiser")["stem.0.kernel"])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bare_state_dicts(kind: str, tmp_path: Path):
    torch.save(golden_weights(kind), tmp_path / "bare.pt")
    assert set(read_public_checkpoint(tmp_path / "bare.pt")) == {kind}


def test_every_storage_type_and_layout(tmp_path: Path):
    tensors = {
        str(dtype): torch.arange(6).to(dtype).view(2, 3)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    }
    tensors |= {
        "turned": torch.arange(6.0).view(2, 3).T,
        "slice": torch.arange(10.0)[3:7:2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, tmp_path / "types.pt")
    found = read_tensors(tmp_path / "types.pt")
    for name, value in tensors.items():
        assert torch.equal(found[name], value.detach()), name
        assert found[name].dtype == value.dtype


class Malicious:
    def __init__(self, function, *arguments):  # type: ignore[no-untyped-def]
        self._call = function, arguments

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return self._call


@pytest.mark.parametrize("where", ["beside", "instead", "as a tensor", "as a key"])
def test_pickled_code_is_not_executed(where: str, tmp_path: Path):
    target = tmp_path / "executed"
    for attack in (
        Malicious(os.system, f"touch {target}"),
        Malicious(eval, f"open({str(target)!r}, 'w')"),
        Malicious(exec, f"open({str(target)!r}, 'w')"),
        Malicious(Path.touch, target),
        Malicious(getattr, "text", "upper"),
    ):
        weights = prefixed(encoder="partial_enc", denoiser="model")
        content = {
            "beside": {"state_dict": weights, "callbacks": attack},
            "instead": attack,
            "as a tensor": {"state_dict": {**weights, "model.stem.0.kernel": attack}},
            "as a key": {"state_dict": weights, attack: 1},
        }[where]
        torch.save(content, tmp_path / "bad.ckpt")
        if where in ("instead", "as a tensor"):
            with pytest.raises(ModelError):
                convert_public_checkpoints([tmp_path / "bad.ckpt"], tmp_path / "model")
        else:
            convert_public_checkpoints([tmp_path / "bad.ckpt"], tmp_path / "model")
        assert not target.exists()


def test_unknown_classes_are_inert(tmp_path: Path):
    file = lightning_file(tmp_path / "published.ckpt", prefixed(encoder="partial_enc"))
    content = read_tensors(file)
    assert isinstance(content["lr_schedulers"][0], Placeholder)
    assert vars(content["lr_schedulers"][0]) == {}
    assert content["epoch"] == 19


def archive_with(path: Path, pickled: bytes, data: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, value in (data or {}).items():
            archive.writestr(f"archive/data/{key}", value)
    return path


class TensorPickler(pickle.Pickler):
    """Writes tensors as torch.save does, with whatever size and stride one likes."""

    def persistent_id(self, obj: object) -> object:
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None


def forged(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, count: int = 4) -> bytes:
    storage = ("storage", torch.FloatStorage, "0", "cpu", count)
    buffer = io.BytesIO()
    tensor = Malicious(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    TensorPickler(buffer, protocol=2).dump({"stem.0.kernel": tensor})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((5,), (1,), 0, "reaches beyond its storage"),
        ((2,), (4,), 0, "reaches beyond its storage"),
        ((4,), (1,), 1, "reaches beyond its storage"),
        ((10**12,), (0,), 0, "reaches beyond its storage"),
        ((2, 2), (1,), 0, "is invalid"),
        ((-1,), (1,), 0, "is invalid"),
        ((2,), (1,), -1, "is invalid"),
    ],
)
def test_rejects_forged_tensors(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int, message: str, tmp_path: Path
):
    file = archive_with(tmp_path / "forged.pt", forged(size, stride, offset), {"0": bytes(16)})
    with pytest.raises(ModelError, match=f"forged.pt: .*{message}"):
        read_tensors(file)


def test_rejects_short_or_missing_storages(tmp_path: Path):
    with pytest.raises(ModelError, match="storage 0 has 8 bytes, expected 4 x 4"):
        read_tensors(archive_with(tmp_path / "short.pt", forged((4,), (1,)), {"0": bytes(8)}))
    with pytest.raises(ModelError, match="damaged"):
        read_tensors(archive_with(tmp_path / "none.pt", forged((4,), (1,))))
    with pytest.raises(ModelError, match="damaged"):
        read_tensors(
            archive_with(tmp_path / "path.pt", forged((4,), (1,)).replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x00/"))
        )


def test_rejects_archives_that_expand(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", forged((1 << 24,), (1,), count=1 << 24))
        archive.writestr("archive/data/0", bytes(4 << 24))
    with pytest.raises(ModelError, match=r"bomb.pt: its entry archive/data.pkl is compressed"):
        read_tensors(tmp_path / "bomb.pt")
    content = archive_with(tmp_path / "claim.pt", forged((4,), (1,)), {"0": bytes(16)}).read_bytes()
    size = (16).to_bytes(4, "little")
    place = content.rindex(size + size)  # of data/0 in the archive's directory
    (tmp_path / "claim.pt").write_bytes(content[:place] + b"\x00\x00\x00\x40" * 2 + content[place + 8 :])
    with pytest.raises(ModelError, match=r"claim.pt: its entries claim 1,073,\d{3},\d{3} bytes, the file has"):
        read_tensors(tmp_path / "claim.pt")


def test_a_storage_is_held_once_however_often_it_is_referenced(tmp_path: Path):
    shared = torch.arange(1000.0)
    torch.save({str(i): shared[i:] for i in range(50)}, tmp_path / "shared.pt")
    tensors = read_tensors(tmp_path / "shared.pt")
    assert len({value.untyped_storage().data_ptr() for value in tensors.values()}) == 1
    assert torch.equal(tensors["49"], shared[49:])


def test_rejects_a_width_that_the_other_tensors_do_not_have(tmp_path: Path):
    whole = prefixed(encoder="partial_enc", denoiser="model")
    whole["model.latent_stage1.0.weight"] = torch.zeros(4096, 1)  # a network of this width would take 40 GB
    file = lightning_file(tmp_path / "wide.ckpt", whole)
    with pytest.raises(ModelError, match=r"has shape .* for the card's architecture"):
        convert_public_checkpoints([file], tmp_path / "model")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_rejects_truncated_checkpoints(share: float, tmp_path: Path):
    whole = lightning_file(tmp_path / "whole.ckpt", prefixed(encoder="partial_enc")).read_bytes()
    (tmp_path / "part.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"part.ckpt: not a zip archive .*truncated"):
        read_public_checkpoint(tmp_path / "part.ckpt")


def test_rejects_other_files(tmp_path: Path):
    with pytest.raises(ModelError, match=r"nothing.ckpt: no such file"):
        read_public_checkpoint(tmp_path / "nothing.ckpt")
    torch.save(golden_weights("encoder"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"before 1\.6"):
        read_public_checkpoint(tmp_path / "old.pt")
    torch.save({"resnet.conv1.weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"none of its 1 tensors belongs to a known network"):
        read_public_checkpoint(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds list, expected a dictionary"):
        read_public_checkpoint(tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    with pytest.raises(ModelError, match=r"holds 0 data.pkl"):
        read_public_checkpoint(tmp_path / "empty.pt")
    (tmp_path / "noise.pt").write_bytes(archive_with(tmp_path / "x.pt", os.urandom(100)).read_bytes())
    with pytest.raises(ModelError, match="damaged"):
        read_tensors(tmp_path / "noise.pt")


def test_rejects_missing_and_misshaped_tensors(tmp_path: Path):
    whole = prefixed(encoder="partial_enc", denoiser="model")
    changes = (
        ({"model.stem.0.kernel": None}, "1 tensors of the denoiser are missing, the first is stem.0.kernel"),
        ({"partial_enc.extra": torch.ones(1)}, "1 tensors of the encoder are unknown, the first is extra"),
        ({"model.last.0.bias": torch.ones(3)}, r"denoiser.last.0.bias has shape \(3,\), expected \(20,\)"),
        ({"model.last.0.bias": torch.full((20,), torch.nan)}, "denoiser.last.0.bias has values that are not finite"),
    )
    for change, message in changes:
        tensors = {name: value for name, value in {**whole, **change}.items() if value is not None}
        file = lightning_file(tmp_path / "changed.ckpt", tensors)
        with pytest.raises(ModelError, match=message):
            convert_public_checkpoints([file], tmp_path / "model")
