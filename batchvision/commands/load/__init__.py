"""Load an output into a database or a table store."""

from batchvision.commands.load.destination import Destination, LoadTransaction, WarehouseTable
from batchvision.commands.load.loading import TABLES, Loaded, LoadProgress, TableLoad, load, table_names
from batchvision.commands.load.of_job import job_destination, load_of_job
from batchvision.commands.load.opening import LoadPlace, open_destination

__all__ = [
    "TABLES",
    "Destination",
    "LoadPlace",
    "LoadProgress",
    "LoadTransaction",
    "Loaded",
    "TableLoad",
    "WarehouseTable",
    "job_destination",
    "load",
    "load_of_job",
    "open_destination",
    "table_names",
]
