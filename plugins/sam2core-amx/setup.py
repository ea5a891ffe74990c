"""One shared library of plain C functions. Optional: without a compiler all but the kernel is installed."""

from setuptools import Extension, setup

FLAGS = ["-O3", "-std=c++17", "-Wall", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
library = Extension(
    "sam2core_amx.average", ["sam2core_amx/average.cpp"], language="c++", extra_compile_args=FLAGS, optional=True
)
setup(ext_modules=[library])
