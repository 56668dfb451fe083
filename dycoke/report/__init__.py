"""What a request cost: tokens, milliseconds and bytes by stage, as `run.report` tells it."""

from dycoke.report.recorder import STAGES, Recorder, Report, Stage

__all__ = ["STAGES", "Recorder", "Report", "Stage"]
