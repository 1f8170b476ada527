"""The self-contained 3-D view of HTML reports."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from lidar_completion_evaluation.pictures import confidence_colours
from lidar_completion_evaluation.view.embed import MAX_BYTES, STEP_M, embedded_view

SET_THRESHOLD = """(() => { const slider = document.querySelector(".min-confidence");
    slider.value = %s; slider.dispatchEvent(new Event("input")); return document.querySelector(".lidar-view").dataset.shown })()"""


def data_of(fragment: str) -> dict:
    return json.loads(re.search(r"\.parentElement, (\{.*\})\);", fragment).group(1))


def decoded(data: dict, name: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(data[name]), kind)


def test_points_and_attributes_survive_quantisation(clouds):
    measured, completed, confidence, distance = clouds
    data = data_of(embedded_view(measured, completed, confidence, distance_m=distance))
    points = decoded(data, "positions", "<i2").reshape(-1, 3) * STEP_M
    assert (data["measured"], data["completed"]) == (500, 2000)
    falling = np.argsort(-confidence, kind="stable")
    assert {tuple(row) for row in np.rint(points[:500] / STEP_M)} == {tuple(row) for row in np.rint(measured / STEP_M)}
    np.testing.assert_allclose(points[500:], completed[falling], atol=STEP_M / 2 + 1e-6)
    np.testing.assert_allclose(decoded(data, "confidence", "u1") / 255, confidence[falling], atol=0.002)
    np.testing.assert_allclose(decoded(data, "distance", "u1") / 255, distance[falling], atol=0.002)
    palette = decoded(data, "confidencePalette", "u1").reshape(-1, 3)
    np.testing.assert_array_equal(palette[[0, 255]], confidence_colours(np.array([0, 1])))


def test_large_sweeps_are_thinned_to_the_size_limit():
    random = np.random.default_rng(0)
    clouds = [random.uniform(-40, 40, (count, 3)).astype(np.float32) for count in (120_000, 400_000)]
    fragment = embedded_view(*clouds, np.ones(400_000, np.float32), distance_m=np.zeros(400_000))
    data = data_of(fragment)
    assert len(fragment) <= MAX_BYTES
    assert 40_000 < data["measured"] + data["completed"] <= 80_000
    assert data["thinned"] == f"{data['measured'] + data['completed']:,} of 520,000 points drawn"


def test_missing_returns_and_far_points_are_left_out(clouds):
    measured, completed, confidence, _ = clouds
    measured = np.vstack([measured, [[np.nan] * 3, [500, 0, 0]]])
    assert data_of(embedded_view(measured, completed, confidence))["measured"] == 500


def test_unknown_distance_is_drawn_as_far(clouds):
    measured, completed, confidence, distance = clouds
    distance[:] = np.nan
    assert (
        decoded(data_of(embedded_view(measured, completed, confidence, distance_m=distance)), "distance", "u1").min()
        == 255
    )


def test_rejects_attributes_of_another_length(clouds):
    measured, completed, confidence, _ = clouds
    with pytest.raises(ValueError, match="one confidence and distance per completed point"):
        embedded_view(measured, completed, confidence[:-1])


def test_sweep_without_completed_points(clouds):
    data = data_of(embedded_view(clouds[0], np.zeros((0, 3), np.float32), np.zeros(0, np.float32)))
    assert (data["measured"], data["completed"]) == (500, 0)


def test_fragment_loads_nothing(clouds):
    fragment = embedded_view(*clouds[:3])
    markup = re.sub(r"<script>.*?</script>", "", fragment, flags=re.DOTALL)
    assert not re.search(r"(src|href)=|url\(|@import", markup)


def test_fragment_in_a_browser(tmp_path, browse, clouds):
    page_file = tmp_path / "report.html"
    fragment = embedded_view(*clouds[:3], distance_m=clouds[3])
    page_file.write_text(f"<!doctype html><meta charset=utf-8><body>{fragment}")
    with browse(page_file.as_uri()) as page:
        page.wait_for("document.querySelector('.lidar-view')?.dataset.shown")
        everything = picture(page)
        assert lit(everything) > 2000
        assert int(page.evaluate(SET_THRESHOLD % 0.9)) == pytest.approx(200, abs=10)
        page.evaluate("document.querySelector('.show-measured').click()")
        assert 0 < lit(picture(page)) < 0.5 * lit(everything)
        assert int(page.evaluate(SET_THRESHOLD % 0)) == 2000
        by_confidence = picture(page)
        page.evaluate("""(() => { const select = document.querySelector(".colour-by");
            select.value = "distance"; select.dispatchEvent(new Event("change")) })()""")
        assert page.evaluate("document.querySelector('.lidar-view').dataset.colour") == "distance"
        by_distance = picture(page)
        assert np.abs(by_distance.astype(int) - by_confidence).max() > 100
        page.evaluate("document.querySelector('[data-preset=above]').click()")
        assert np.abs(picture(page).astype(int) - by_distance).max() > 100
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        assert not page.errors


def picture(page) -> np.ndarray:
    """The canvas of a screenshot, RGB."""
    box = page.evaluate("""(() => { const box = document.querySelector(".lidar-view-canvas").getBoundingClientRect();
        return [box.left, box.top, box.right, Math.min(box.bottom, innerHeight)] })()""")
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB").crop(tuple(map(int, box))))


def lit(image: np.ndarray) -> int:
    return int((image.max(axis=2) > 60).sum())
