"""SQL that creates an output's tables in a warehouse, loads its parts and merges its rows."""

from batchvision.commands.ddl.dialects import DIALECTS
from batchvision.commands.ddl.statements import KEYS, Statement, Target, output_statements, statements

__all__ = ["DIALECTS", "KEYS", "Statement", "Target", "output_statements", "statements"]
