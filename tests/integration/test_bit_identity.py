"""The shipped models still make of the sample sweep what they made when tests/fixtures/shipped_outputs.json was recorded."""

import json

import pytest
from shipped_outputs import MODELS, ROOT, machine, outputs, sample_sweep

RECORD = json.loads((ROOT / "tests/fixtures/shipped_outputs.json").read_text())


@pytest.fixture(scope="module")
def sweep():
    return sample_sweep()


@pytest.mark.parametrize("model", MODELS)
def test_shipped_models_reproduce_the_recorded_output(model, sweep):
    """Bit by bit where processor and libraries are those of the record, else within a tolerance."""
    found, recorded = outputs(model, sweep), RECORD["models"][model]
    if machine() == RECORD["machine"]:
        assert found["sha256"] == recorded["sha256"]
    summary, expected = found["summary"], recorded["summary"]
    assert summary["measured"] == expected["measured"]
    assert summary["completed"] == pytest.approx(expected["completed"], rel=0.01)
    assert summary["mean_m"] == pytest.approx(expected["mean_m"], abs=0.05)
    assert summary["std_m"] == pytest.approx(expected["std_m"], rel=0.01)
    assert summary["mean_confidence"] == pytest.approx(expected["mean_confidence"], abs=0.01)
