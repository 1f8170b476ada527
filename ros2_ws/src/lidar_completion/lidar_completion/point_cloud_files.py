"""Point clouds on disk: KITTI .bin, .ply, .pcd, .npy and .npz, read and written.

Coordinates are metres, in whatever frame the file is in (for a sweep: the sensor frame).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidar_completion.files import atomic_write

KITTI_COLUMNS = 4
MAX_NEGATIVE_INTENSITIES = 0.05  # share; more means that coordinates are read as intensities
# Names of the intensity field, in the spellings found so far
INTENSITY_NAMES = ("intensity", "scalar_intensity", "scalar_Intensity", "i", "reflectivity", "remission")
COMPLETION_NAMES = ("provenance", "confidence")


class PointCloudFileError(ValueError):
    """A point cloud file that cannot be read or written; the message names the file and the fix."""


@dataclass(frozen=True)
class PointCloud:
    """points (N, 3) float32 in metres, rows as in the file (NaN rows kept); intensity (N,) float32 or None.

    provenance (N,) and confidence (N,) are those of a completed cloud (.ply, .pcd, .npz), None for any other.
    """

    points: np.ndarray
    intensity: np.ndarray | None = None
    provenance: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points)


def read_points(path: str | Path, *, bin_columns: int = 4) -> PointCloud:
    """Read a cloud; the suffix decides the format (.bin .ply .pcd .npy .npz).

    bin_columns: float32 values per point in a .bin file: 4 for KITTI (x, y, z, intensity), 5 for nuScenes, 3 for xyz.
    Raises PointCloudFileError for a missing, truncated or foreign file.
    """
    path = Path(path)
    reader = _by_suffix(_readers(bin_columns), path)
    if not path.is_file():
        raise PointCloudFileError(f"{path}: expected a point cloud file, found nothing there; check the path")
    try:
        return reader(path)
    except (PointCloudFileError, PermissionError):
        raise
    except Exception as error:  # the parsers raise many types; the message must name the file
        raise PointCloudFileError(
            f"{path}: expected a readable {path.suffix} file, found a damaged one ({type(error).__name__}: {error}); "
            "copy or convert it again"
        ) from error


def write_points(path: str | Path, points: np.ndarray, *, pcd_encoding: str = "binary", **fields: np.ndarray) -> None:
    """Write points (N, 3) in metres as float32, with one value per point for each further field (its dtype is kept).

    The suffix decides the format. A .bin file holds x, y, z, intensity and no other field; .npy holds points only.
    pcd_encoding: "ascii", "binary" or "binary_compressed". The file is replaced atomically.
    Raises PointCloudFileError for fields that the format cannot hold or that do not match the points.
    """
    path = Path(path)
    writer = _by_suffix(_writers(pcd_encoding), path)
    points, fields = _checked(path, points, fields)
    with atomic_write(path) as partial:
        try:
            writer(partial, points, fields)
        except PointCloudFileError as error:
            raise PointCloudFileError(str(error).replace(str(partial), str(path))) from None


def suffixes() -> tuple[str, ...]:
    """The file name endings that read_points and write_points know."""
    return tuple(_readers(4))


def _by_suffix(table: dict[str, Callable], path: Path) -> Callable:
    if path.suffix.lower() not in table:
        raise PointCloudFileError(
            f"{path}: expected one of {', '.join(table)}, found the ending {path.suffix!r}; convert or rename the file"
        )
    return table[path.suffix.lower()]


def _readers(bin_columns: int) -> dict[str, Callable[[Path], PointCloud]]:
    return {
        ".bin": lambda path: _read_bin(path, bin_columns),
        ".ply": _read_ply,
        ".pcd": _read_pcd,
        ".npy": _read_npy,
        ".npz": _read_npz,
    }


def _writers(pcd_encoding: str) -> dict[str, Callable[[Path, np.ndarray, dict], None]]:
    return {
        ".bin": _write_bin,
        ".ply": _write_ply,
        ".pcd": lambda path, points, fields: _write_pcd(path, points, fields, pcd_encoding),
        ".npy": _write_npy,
        ".npz": lambda path, points, fields: np.savez_compressed(path, points=points, **fields),
    }


def _checked(path: Path, points: np.ndarray, fields: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    points = np.ascontiguousarray(points, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 3:
        raise PointCloudFileError(
            f"{path}: expected points of shape (N, 3), found {points.shape}; pass x, y, z columns"
        )
    arrays = {name: np.asarray(values) for name, values in fields.items() if values is not None}
    for name, values in arrays.items():
        if values.shape != (len(points),):
            raise PointCloudFileError(
                f"{path}: expected {len(points)} values in field {name!r}, found shape {values.shape}; "
                "give one value per point"
            )
        if name in ("x", "y", "z", "points"):
            raise PointCloudFileError(f"{path}: the field name {name!r} is taken by the coordinates; rename the field")
    return points, arrays


# --- KITTI .bin -------------------------------------------------------------------------------------------------


def _read_bin(path: Path, columns: int) -> PointCloud:
    size, row = path.stat().st_size, 4 * columns
    if size % row:
        raise PointCloudFileError(
            f"{path}: expected a multiple of {row} bytes ({columns} float32 per point), found {size} bytes; "
            f"the file is truncated (copy it again) or has another number of columns (set bin_columns)"
        )
    values = np.fromfile(path, dtype="<f4").reshape(-1, columns)
    if columns == KITTI_COLUMNS and len(values) and (values[:, 3] < 0).mean() > MAX_NEGATIVE_INTENSITIES:
        raise PointCloudFileError(
            f"{path}: expected {columns} float32 per point (x, y, z, intensity), found negative intensities in "
            f"{100 * (values[:, 3] < 0).mean():.0f} % of the points; the file has another number of columns: set "
            "bin_columns (5 for nuScenes, 3 for x, y, z)"
        )
    return PointCloud(np.ascontiguousarray(values[:, :3]), values[:, 3].copy() if columns > 3 else None)


def _write_bin(path: Path, points: np.ndarray, fields: dict[str, np.ndarray]) -> None:
    if unknown := sorted(set(fields) - {"intensity"}):
        raise PointCloudFileError(
            f"{path}: a .bin file holds x, y, z, intensity, found the field {unknown[0]!r}; write .ply, .pcd or .npz"
        )
    intensity = np.asarray(fields.get("intensity", np.zeros(len(points))), dtype=np.float32)
    np.column_stack([points, intensity]).astype("<f4").tofile(path)


# --- PLY --------------------------------------------------------------------------------------------------------


def _read_ply(path: Path) -> PointCloud:
    from plyfile import PlyData

    ply = PlyData.read(str(path))
    if "vertex" not in ply:
        raise PointCloudFileError(f"{path}: expected an element 'vertex', found none; export the cloud with its points")
    return _from_columns(path, ply["vertex"].data)


def _write_ply(path: Path, points: np.ndarray, fields: dict[str, np.ndarray]) -> None:
    from plyfile import PlyData, PlyElement

    # PLY supports integers of up to 32 bits only.
    narrowed = {name: _at_most_32_bit(path, name, values) for name, values in fields.items()}
    element = PlyElement.describe(_structured(points, narrowed), "vertex")
    PlyData([element], text=False, byte_order="<").write(str(path))


def _at_most_32_bit(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iu" or values.dtype.itemsize <= 4:
        return values
    narrow = values.astype(np.int32)
    if not np.array_equal(narrow, values):
        raise PointCloudFileError(
            f"{path}: expected integers of up to 32 bits in field {name!r}, found larger ones; write .npz"
        )
    return narrow


# --- PCD --------------------------------------------------------------------------------------------------------


def _read_pcd(path: Path) -> PointCloud:
    from pypcd4 import PointCloud as Pcd

    pcd = Pcd.from_path(path)
    rows = np.atleast_1d(pcd.pc_data)
    if len(rows) != pcd.metadata.points:
        raise PointCloudFileError(
            f"{path}: expected {pcd.metadata.points} points as its header says, found {len(rows)}; "
            "the file is truncated, copy it again"
        )
    return _from_columns(path, rows)


def _write_pcd(path: Path, points: np.ndarray, fields: dict[str, np.ndarray], encoding: str) -> None:
    from pypcd4 import Encoding
    from pypcd4 import PointCloud as Pcd

    if encoding not in ("ascii", "binary", "binary_compressed"):
        raise PointCloudFileError(
            f"{path}: expected pcd_encoding ascii, binary or binary_compressed, found {encoding!r}; choose one of these"
        )
    columns = {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2]}
    columns |= {name: values.astype(np.uint8) if values.dtype == bool else values for name, values in fields.items()}
    arrays = [np.ascontiguousarray(values) for values in columns.values()]
    cloud = Pcd.from_points(arrays, tuple(columns), tuple(values.dtype for values in arrays))
    cloud.save(path, encoding=Encoding(encoding))


# --- numpy ------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> PointCloud:
    return _from_matrix(path, np.load(path, allow_pickle=False))


def _write_npy(path: Path, points: np.ndarray, fields: dict[str, np.ndarray]) -> None:
    if fields:
        raise PointCloudFileError(
            f"{path}: a .npy file holds points only, found the field {min(fields)!r}; write .npz, .ply or .pcd"
        )
    np.save(path, points)


def _read_npz(path: Path) -> PointCloud:
    if not zipfile.is_zipfile(path):
        raise PointCloudFileError(f"{path}: expected an .npz archive, found another or truncated file; copy it again")
    with np.load(path, allow_pickle=False) as archive:
        if "points" not in archive.files:
            raise PointCloudFileError(
                f"{path}: expected an array 'points', found {archive.files}; save it with np.savez(path, points=...)"
            )
        cloud = _from_matrix(path, archive["points"])
        strength = archive["intensity"] if "intensity" in archive.files else cloud.intensity
        return _cloud(path, cloud.points, strength, **_completion_fields(archive, archive.files))


# --- shared -----------------------------------------------------------------------------------------------------


def _from_matrix(path: Path, matrix: np.ndarray) -> PointCloud:
    if matrix.ndim != 2 or matrix.shape[1] < 3 or matrix.dtype.kind not in "fiu":
        raise PointCloudFileError(
            f"{path}: expected an array (N, 3) or (N, 4) of numbers, found {matrix.dtype} {matrix.shape}; save x, y, z"
        )
    return _cloud(path, matrix[:, :3], matrix[:, 3] if matrix.shape[1] > 3 else None)


def _from_columns(path: Path, rows: np.ndarray) -> PointCloud:
    names = rows.dtype.names or ()
    if missing := [axis for axis in "xyz" if axis not in names]:
        raise PointCloudFileError(
            f"{path}: expected the fields x, y, z, found {', '.join(names) or 'none'} (no {missing[0]}); rename them"
        )
    points = np.column_stack([rows[axis] for axis in "xyz"]) if len(rows) else np.zeros((0, 3))
    strength = next((rows[name] for name in INTENSITY_NAMES if name in names), None)
    return _cloud(path, points, strength, **_completion_fields(rows, names))


def _completion_fields(columns: Mapping[str, np.ndarray] | np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(columns[name]) for name in COMPLETION_NAMES if name in names}


def _cloud(path: Path, points: np.ndarray, intensity: np.ndarray | None, **completion: np.ndarray) -> PointCloud:
    if intensity is not None and len(intensity) != len(points):
        raise PointCloudFileError(
            f"{path}: expected {len(points)} intensities, found {len(intensity)}; store one per point"
        )
    strength = None if intensity is None else np.ascontiguousarray(intensity, dtype=np.float32)
    return PointCloud(np.ascontiguousarray(points, dtype=np.float32), strength, **completion)


def _structured(points: np.ndarray, fields: dict[str, np.ndarray]) -> np.ndarray:
    columns = {"x": points[:, 0], "y": points[:, 1], "z": points[:, 2], **fields}
    rows = np.empty(len(points), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows
