"""Ask a few rows to estimate the cost of all of them, and to compare cheaper settings."""

from batchvision.commands.pilot.interval import WIDE_SHARE
from batchvision.commands.pilot.piloting import Pilot, pilot
from batchvision.commands.pilot.sweep import Compared, Setting, settings

__all__ = ["WIDE_SHARE", "Compared", "Pilot", "Setting", "pilot", "settings"]
