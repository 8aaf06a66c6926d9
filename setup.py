"""The compiled kernel, which is optional: without a compiler the numpy reference does its work. All else is in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=c11",
    "-O3",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
]
FLAGS += ["-Werror=implicit-function-declaration"]  # Python's headers declare the limited interface only


class BuildKernel(build_ext):
    """Builds the kernel; a failure is an error only where LEAKYCLI_REQUIRE_KERNEL is 1."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("LEAKYCLI_REQUIRE_KERNEL") == "1":
                raise
            print(f"leakycli: the compiled kernel was not built ({error}); leakycli will run on numpy, slower", file=sys.stderr)
            ext.optional = True  # the rest of the build does not look for its file

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if os.path.exists(path)]


KERNEL = Extension(
    "leakycli.function._kernel",
    ["leakycli/function/_kernel.c"],
    depends=["leakycli/function/_kernel_loops.h"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=FLAGS,
    libraries=["m"],
    py_limited_api=True,
)

setup(ext_modules=[KERNEL], cmdclass={"build_ext": BuildKernel}, options={"bdist_wheel": {"py_limited_api": "cp311"}})
