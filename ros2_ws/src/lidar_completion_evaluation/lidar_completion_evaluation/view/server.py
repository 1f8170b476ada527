"""The 3-D view in the browser, served by viser."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from lidar_completion_evaluation.pictures import MEASURED_COLOUR, confidence_colours, error_colours
from lidar_completion_evaluation.view.camera import PRESETS
from lidar_completion_evaluation.view.sweeps import SweepSource, ViewedSweep

TRUTH_COLOUR = (90, 120, 190)
BY_CONFIDENCE, BY_DISTANCE = "confidence", "distance to truth"
KEPT_SWEEPS = 8  # completed sweeps kept in memory while the slider moves


class BrowserView:
    """One sweep in the browser, with controls for what is drawn. Used as a context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Starts the server. If viser is missing, raises ImportError with the command that installs it."""
        try:
            import viser
        except ImportError as error:
            raise ImportError(
                f"the 3-D view needs viser ({error}): pip install 'lidar_completion_evaluation[view]'"
            ) from error
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # browsers open connections they do not use
        self._server = viser.ViserServer(host, port, verbose=False)
        self._lock = threading.Lock()
        self._sweep: ViewedSweep | None = None
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._server.scene.set_up_direction("+z")
        self._add_controls()
        self._server.on_client_connect(lambda client: self._look(client, next(iter(PRESETS))))

    def __enter__(self) -> BrowserView:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def show(self, sweep: ViewedSweep) -> None:
        """Draw this sweep instead of the previous one."""
        with self._lock:
            self._sweep = sweep
            self._colour.disabled = self._show_truth.disabled = sweep.truth is None
            self._draw()

    def browse(self, source: SweepSource) -> None:
        """Draw the first sweep of a source, and add a slider for the others if there are any."""
        load: Callable[[int], ViewedSweep] = lru_cache(KEPT_SWEEPS)(source.load)
        if len(source) > 1:
            slider = self._server.gui.add_slider("sweep", 1, len(source), 1, 1, order=0)
            slider.on_update(lambda _: self.show(load(slider.value - 1)))
        self.show(load(0))

    def _add_controls(self) -> None:
        gui = self._server.gui
        self._title = gui.add_markdown("waiting for the first sweep")
        self._min_confidence = gui.add_slider("min. confidence", 0.0, 1.0, 0.01, 0.0)
        self._colour = gui.add_dropdown("colour", (BY_CONFIDENCE, BY_DISTANCE), disabled=True)
        self._show_measured = gui.add_checkbox("measured (white)", True)
        self._show_completed = gui.add_checkbox("completed", True)
        self._show_truth = gui.add_checkbox("truth (blue)", False, disabled=True)
        self._point_size = gui.add_slider("point size, m", 0.01, 0.2, 0.01, 0.06)
        for control in (
            self._min_confidence,
            self._colour,
            self._show_measured,
            self._show_completed,
            self._show_truth,
            self._point_size,
        ):
            control.on_update(lambda _: self._redraw())
        presets = gui.add_button_group("view", tuple(PRESETS))
        presets.on_click(lambda event: self._look(event.client, presets.value))

    def _redraw(self) -> None:
        with self._lock:
            self._draw()

    def _draw(self) -> None:
        sweep = self._sweep
        if sweep is None:
            return
        shown = sweep.confidence >= self._min_confidence.value
        colours = confidence_colours(sweep.confidence)
        if sweep.distance_m is not None and self._colour.value == BY_DISTANCE:
            colours = error_colours(sweep.distance_m)
        empty = np.zeros((0, 3), np.float32)
        self._cloud("/measured", sweep.measured if self._show_measured.value else empty, MEASURED_COLOUR)
        shown &= self._show_completed.value
        self._cloud("/completed", sweep.completed[shown], colours[shown])
        truth = sweep.truth if sweep.truth is not None and self._show_truth.value else empty
        self._cloud("/truth", truth, TRUTH_COLOUR)
        self._title.content = _title(sweep, shown)

    def _cloud(self, name: str, points: np.ndarray, colours: Any) -> None:
        colours = np.broadcast_to(np.asarray(colours, np.uint8), (len(points), 3))
        size = self._point_size.value
        self._server.scene.add_point_cloud(name, points, colours, point_size=size, point_shape="rounded")

    def _look(self, client: Any, preset: str) -> None:
        if client is not None:
            client.camera.up_direction = (0.0, 0.0, 1.0)
            client.camera.position, client.camera.look_at = PRESETS[preset]


def _title(sweep: ViewedSweep, shown: np.ndarray) -> str:
    lines = [
        f"**{sweep.title}**",
        f"{len(sweep.measured):,} measured points",
        f"{shown.sum():,} of {len(sweep.completed):,} completed points",
    ]
    if sweep.distance_m is not None and np.isfinite(sweep.distance_m[shown]).any():
        distance = sweep.distance_m[shown]
        distance = distance[np.isfinite(distance)]
        lines.append(
            f"distance to truth: mean {distance.mean():.2f} m, {100 * (distance > 0.5).mean():.1f} % over 0.5 m"
        )
    return "\n\n".join(lines)
