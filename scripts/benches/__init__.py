"""What `scripts/bench` runs. Every contender is a process of its own, measured from inside; the server is another.

Rule: nothing here imports batchvision, pyarrow or a client but the processes that are measured (``client.py``) or that
make material (``material.py``): a small parent does not blur their peak memory.
"""
