"""What runs on the far side of the sandbox: the zygote and the kernels that it forks.

Standard library only, relative imports only: the zygote loads this folder by path as a package
of its own (see `BOOT` in `forkserver.py`), without the rest of `aimo2`. Nothing here may trust a
cell: after the first one has run, its process is the cell's, and the host believes none of it.
"""
