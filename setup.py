"""Builds the native kernels if a C++ compiler is there; without one the package installs and runs on PyTorch alone."""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, setup

ParallelCompile().install()  # one source a core: an instruction set each

setup(
    ext_modules=[
        Extension(
            "depthwise.native._kernels",
            sources=sorted(glob("native/*.cpp")),
            depends=glob("native/*.h"),
            language="c++",
            # The vectors are written out; left to itself the compiler would also vectorise the bookkeeping.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-falign-functions=64",  # else a change in one place moves loops elsewhere, which swings by 3%
                "-g0",
                "-fvisibility=hidden",
                "-fno-tree-vectorize",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-ffp-contract=fast",
                "-Wno-psabi",
                "-Wno-maybe-uninitialized",  # GCC 12 means its own header of intrinsics
                *os.environ.get("DEPTHWISE_CFLAGS", "").split(),  # for a build with sanitizers
            ],
            optional=True,
        ),
        # With it training decodes parts of JPEG files; where libjpeg-turbo's headers lack, whole ones by simplejpeg.
        Extension(
            "depthwise.native._jpeg",
            sources=sorted(glob("native/jpeg/*.cpp")),
            language="c++",
            libraries=["jpeg"],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fvisibility=hidden",
                "-ffp-contract=off",  # the same bits on every processor
                *os.environ.get("DEPTHWISE_CFLAGS", "").split(),
            ],
            optional=True,
        ),
    ]
)
