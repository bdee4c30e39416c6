"""batchvision on servers that other projects wrote: ``scripts/servers``.

``servers``: the command. ``installed``: a server out of PyPI. ``kinds``: how each is made and started.
``relay``: counts requests and answers. ``nights``: a run, its kill, its rerun, and what must hold.
"""
