"""Decodes each file that it is told, in a process of its own, and prints how much memory that took at most."""

import os
import resource
import sys
import warnings

from depthwise.data.image import Decoding, decode

warnings.simplefilter("error")
small, *paths = sys.argv[1:]
decode(small)
for path in paths:
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shape = tuple(decode(path, decoding=Decoding(max_pixels=10**10)).shape)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, f"{grown * 1024} {shape[0]} {shape[1] * shape[2]}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        print(answer.read(), flush=True)
    os.wait()
