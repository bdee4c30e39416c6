"""Ask a few rows to estimate the cost of all of them, and to compare cheaper settings."""

from batchvision.pilot.piloting import Pilot, pilot
from batchvision.pilot.sweep import Compared, Setting, settings

__all__ = ["Compared", "Pilot", "Setting", "pilot", "settings"]
