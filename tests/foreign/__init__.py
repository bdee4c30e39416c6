"""batchvision on the servers of other projects (``scripts/test --with servers``).

``installed``: a server out of PyPI. ``kinds``: how each is made and started. ``relay``: counts requests and answers.
``killed_run``: a run, its kill, its rerun, and the checks.
"""
