"""Check an output against its checksums, its ledger and its manifest. Changes nothing."""

from batchvision.commands.verify.findings import Finding, Mark
from batchvision.commands.verify.verifying import VerifyReport, verify

__all__ = ["Finding", "Mark", "VerifyReport", "verify"]
