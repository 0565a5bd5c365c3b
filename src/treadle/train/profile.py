"""Which operations a step's time goes into, by PyTorch's own profiler, of a few steps after the first ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from treadle.core.progress import say
from treadle.core.runtime import Runtime
from treadle.spec.units import significant
from treadle.train.hooks import Step

TRACE = "profile.json.gz"
"""In the model's folder: to be opened with https://ui.perfetto.dev or chrome://tracing."""
AFTER, STEPS = 5, 3
"""Steps of this process that are left alone, since the first ones are slower; and steps that are recorded."""
_SHOWN = 10


class ProfileHook:
    """Records the ``STEPS`` steps after a validation, so that none falls between them: recorded too, it would take longer.
    Where nothing is validated on the way, those after the first ones. It watches operations and changes none."""

    def __init__(self, folder: Path, runtime: Runtime, validates: bool) -> None:
        self.trace, self.runtime, self.validates, self.over = folder / TRACE, runtime, validates, False
        self.found: dict[str, Any] | None = None
        """What was recorded, as JSON values: ``steps``; of one of them ``seconds``, seconds ``in_operations`` and ``calls``; and
        its costliest ``operations``, each with its ``name``, ``share`` of the time in operations, ``calls`` and ``seconds``."""
        self._recorder: Any = None
        self._left, self._seconds = AFTER, 0.0

    def on_step(self, figures: Step) -> None:
        if self.over:
            return
        self._left -= 1
        if self._recorder is not None:
            self._seconds += sum(figures.spent.values())
            if self._left == 0:
                self._end()
        elif self._left == 0 and not self.validates:
            self._begin()

    def on_validation(self, figures: Step, loss: float, trained: float | None) -> None:
        if self._recorder is not None:  # they come too often
            self._recorder.stop()
            self._recorder, self.over = None, True
        elif not self.over and self._left <= 0 and figures.progress < 1:
            self._begin()

    def close(self) -> None:
        """At the end of the run."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder = None
        if self.found is None:
            say(f"nothing was profiled: that takes {AFTER} steps, a validation, and then {STEPS} steps without another")

    def _begin(self) -> None:
        device = [ProfilerActivity.CUDA] if self.runtime.device.type == "cuda" else []
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells the terminal of its own start and end
        self._recorder, self._left, self._seconds = profile(activities=[ProfilerActivity.CPU, *device]), STEPS, 0.0
        self._recorder.start()

    def _end(self) -> None:
        recorder, self._recorder, self.over = self._recorder, None, True
        recorder.stop()
        recorder.export_chrome_trace(str(self.trace))
        on_device = self.runtime.device.type == "cuda"
        rows = []
        for event in recorder.key_averages():
            micro = event.self_device_time_total if on_device else event.self_cpu_time_total
            if micro > 0 and not event.key.startswith("ProfilerStep"):
                rows.append((event.key, micro / 1e6 / STEPS, event.count / STEPS))
        rows.sort(key=lambda row: -row[1])
        total = sum(seconds for _, seconds, _ in rows) or 1.0
        self.found = {
            "steps": STEPS, "seconds": significant(self._seconds / STEPS), "in_operations": significant(total),
            "calls": round(sum(calls for *_, calls in rows)),
            "operations": [
                {"name": name, "share": significant(seconds / total), "calls": significant(calls), "seconds": significant(seconds)}
                for name, seconds, calls in rows[:_SHOWN]
            ],
        }
