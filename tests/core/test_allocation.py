"""Memory that start-up needed and sweeps do not."""

import gc
import weakref

import numpy as np
import torch

from lidar_completion import completer
from lidar_completion.completer import SceneCompleter
from lidar_completion.model.weights import load_model
from lidar_completion.sparse import allocation

SMAPS = """\
10000-20000 r-xp 00000000 fe:00 1   /venv/torch/lib/libtorch_cpu.so
Rss:                  64 kB
Anonymous:             {code} kB
20000-30000 r--p 00010000 fe:00 1   /venv/torch/lib/libtorch_cpu.so
Rss:                  12 kB
Anonymous:             4 kB
30000-40000 rw-p 00020000 fe:00 1   /venv/torch/lib/libtorch_cpu.so
Rss:                   8 kB
Anonymous:             0 kB
40000-50000 r-xp 00000000 fe:00 2   /venv/llvmlite/binding/libllvmlite.so
Rss:                   0 kB
Anonymous:             0 kB
50000-60000 r-xp 00000000 fe:00 3   /venv/torch/lib/libtorch.so (deleted)
Rss:                   4 kB
Anonymous:             0 kB
60000-70000 r-xp 00000000 fe:00 4   /usr/lib/libc.so.6
Rss:                   4 kB
Anonymous:             0 kB
70000-80000 rw-p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac
"""


def test_only_unmodified_code_is_unmapped(tmp_path):
    """Not writable data, nor pages that relocation or a debugger has changed, nor other libraries."""
    mappings = tmp_path / "smaps"
    mappings.write_text(SMAPS.format(code=0))
    assert list(allocation._unmodified_code(mappings)) == [(0x10000, 0x20000, 64 * 1024)]
    mappings.write_text(SMAPS.format(code=4))
    assert list(allocation._unmodified_code(mappings)) == []


def test_systems_without_a_list_of_mappings_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "MAPPINGS", tmp_path / "smaps")
    assert allocation.unmap_start_up_code() == 0


def test_completions_after_unmapping_are_the_same(tiny_model):
    model, points = SceneCompleter.load(tiny_model, device="cpu"), np.random.default_rng(0).normal(0, 9, (2000, 3))
    before = model.complete(points)
    first = allocation.unmap_start_up_code()
    again = allocation.unmap_start_up_code()  # nothing but these lines has run since
    assert 0 <= again < first
    after = model.complete(points)
    np.testing.assert_array_equal(after.points, before.points)
    np.testing.assert_array_equal(after.confidence, before.confidence)


def test_loaded_model_holds_its_weights_once(tiny_model, monkeypatch):
    """The networks before their batch norms were folded, and the file's tensors, are freed."""
    loaded: list[weakref.ref[torch.Tensor]] = []

    def load(folder):
        card, networks = load_model(folder)
        loaded.extend(weakref.ref(each) for network in networks.values() for each in network.parameters())
        return card, networks

    monkeypatch.setattr(completer, "load_model", load)
    model = SceneCompleter.load(tiny_model, device="cpu")
    gc.collect()
    assert model.networks
    assert loaded
    assert not [each for each in loaded if each() is not None]
