import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lidar_completion.point_cloud_files import PointCloudFileError, read_points, write_points

SHARED = Path(os.environ.get("LIDAR_COMPLETION_SHARED", Path(__file__).parents[3] / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="LIDAR_COMPLETION_SHARED names no folder with data/"
)


def a_cloud(count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(0, 20, (count, 3)).astype(np.float32), random.random(count).astype(np.float32)


FORMATS = [".bin", ".ply", ".npz", (".pcd", "ascii"), (".pcd", "binary"), (".pcd", "binary_compressed")]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("count", [0, 1, 50])
def test_points_and_intensity_survive_a_round_trip(tmp_path, form, count):
    suffix, options = (form, {}) if isinstance(form, str) else (form[0], {"pcd_encoding": form[1]})
    points, intensity = a_cloud(count)
    write_points(tmp_path / f"cloud{suffix}", points, intensity=intensity, **options)
    cloud = read_points(tmp_path / f"cloud{suffix}")
    tolerance = 1e-6 if "ascii" in form else 0  # text keeps ten decimals
    np.testing.assert_allclose(cloud.points, points, rtol=0, atol=tolerance)
    np.testing.assert_allclose(cloud.intensity, intensity, rtol=0, atol=tolerance)
    assert cloud.points.dtype == np.float32
    assert cloud.points.shape == (count, 3)
    assert list(tmp_path.iterdir()) == [tmp_path / f"cloud{suffix}"]  # no partial file stays


def test_bare_coordinates_have_no_intensity(tmp_path):
    points, _ = a_cloud()
    for suffix in (".ply", ".pcd", ".npy", ".npz"):
        write_points(tmp_path / f"cloud{suffix}", points)
        assert read_points(tmp_path / f"cloud{suffix}").intensity is None
    points.tofile(tmp_path / "three.bin")
    np.testing.assert_array_equal(read_points(tmp_path / "three.bin", bin_columns=3).points, points)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 63), st.sampled_from([".bin", ".ply", ".pcd", ".npy", ".npz"]))
def test_rejects_truncated_files(tmp_path_factory, lost, suffix):
    path = tmp_path_factory.mktemp("truncated") / f"cloud{suffix}"
    write_points(path, a_cloud(200)[0])
    whole = path.read_bytes()
    lost += suffix == ".bin" and lost % 16 == 0  # whole points missing cannot be told from a shorter sweep
    path.write_bytes(whole[:-lost])
    with pytest.raises(PointCloudFileError, match=str(path)):
        read_points(path)


def test_keeps_extra_fields_if_the_format_has_them(tmp_path):
    points, _ = a_cloud()
    provenance = (np.arange(len(points)) % 2).astype(np.uint8)
    write_points(tmp_path / "cloud.ply", points, provenance=provenance, row=np.arange(len(points)))
    from plyfile import PlyData

    vertex = PlyData.read(str(tmp_path / "cloud.ply"))["vertex"]
    np.testing.assert_array_equal(vertex["provenance"], provenance)
    np.testing.assert_array_equal(vertex["row"], np.arange(len(points)))
    write_points(tmp_path / "cloud.pcd", points, provenance=provenance)
    from pypcd4 import PointCloud as Pcd

    np.testing.assert_array_equal(Pcd.from_path(tmp_path / "cloud.pcd").pc_data["provenance"], provenance)


def test_keeps_nan_rows(tmp_path):
    points, _ = a_cloud()
    points[3] = np.nan
    for suffix in (".bin", ".ply", ".pcd", ".npy"):
        write_points(tmp_path / f"cloud{suffix}", points)
        np.testing.assert_array_equal(read_points(tmp_path / f"cloud{suffix}").points, points)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "nothing.bin", "found nothing there"),
        (lambda folder: folder / "cloud.txt", "expected one of .bin"),
        (lambda folder: folder, "expected one of .bin"),
    ],
)
def test_rejects_a_wrong_path(tmp_path, make, expected):
    (tmp_path / "cloud.txt").write_text("1 2 3")
    with pytest.raises(PointCloudFileError, match=expected):
        read_points(make(tmp_path))


def test_rejects_foreign_content(tmp_path):
    for suffix in (".ply", ".pcd", ".npy", ".npz"):
        (tmp_path / f"junk{suffix}").write_bytes(os.urandom(500))
        with pytest.raises(PointCloudFileError, match=f"junk{suffix}"):
            read_points(tmp_path / f"junk{suffix}")
    np.save(tmp_path / "flat.npy", np.zeros(12))
    with pytest.raises(PointCloudFileError, match=r"expected an array \(N, 3\)"):
        read_points(tmp_path / "flat.npy")
    np.savez(tmp_path / "other.npz", cloud=np.zeros((5, 3)))
    with pytest.raises(PointCloudFileError, match="expected an array 'points'"):
        read_points(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", points=np.array([{"code": 1}], dtype=object))
    with pytest.raises(PointCloudFileError):
        read_points(tmp_path / "pickled.npz")


def test_rejects_fields_that_a_format_cannot_hold(tmp_path):
    points, intensity = a_cloud()
    with pytest.raises(PointCloudFileError, match="'provenance'"):
        write_points(tmp_path / "cloud.bin", points, provenance=intensity)
    with pytest.raises(PointCloudFileError, match=r"cloud.npy: a .npy file holds points only"):
        write_points(tmp_path / "cloud.npy", points, intensity=intensity)
    with pytest.raises(PointCloudFileError, match="one value per point"):
        write_points(tmp_path / "cloud.ply", points, intensity=intensity[:-1])
    with pytest.raises(PointCloudFileError, match=r"shape \(N, 3\)"):
        write_points(tmp_path / "cloud.ply", points[:, :2])
    with pytest.raises(PointCloudFileError, match="pcd_encoding"):
        write_points(tmp_path / "cloud.pcd", points, pcd_encoding="zip")
    assert list(tmp_path.iterdir()) == []


@needs_shared
@pytest.mark.parametrize(
    ("name", "count"), [("hdl32_target.ply", 69088), ("hdl64_000123.ply", 125773), ("vls128.pcd", 208680)]
)
def test_real_sweeps_are_read(name, count):
    cloud = read_points(SHARED / "data/scans" / name)
    assert len(cloud) == count
    assert np.isfinite(cloud.points).any()
