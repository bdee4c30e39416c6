"""The benches of `scripts/bench`. Each contender is a process and measures itself; the server is another process.

Only the measured processes (``client.py``) and ``material.py`` import batchvision, pyarrow or a client: a child process
would start with the peak memory of a large parent.
"""
