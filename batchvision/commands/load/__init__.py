"""Load an output into a database or a table store."""

from batchvision.commands.load.destination import Destination, LoadTransaction, WarehouseTable
from batchvision.commands.load.loading import DEFAULT_PREFIX, TABLES, Loaded, LoadProgress, TableLoad, load, table_names
from batchvision.commands.load.opening import LoadPlace, open_destination

__all__ = [
    "DEFAULT_PREFIX",
    "TABLES",
    "Destination",
    "LoadPlace",
    "LoadProgress",
    "LoadTransaction",
    "Loaded",
    "TableLoad",
    "WarehouseTable",
    "load",
    "open_destination",
    "table_names",
]
