"""The extension and its ABI; all else is static, in pyproject.toml."""

import sys
import sysconfig

from setuptools import Extension, setup

# One wheel serves 3.12 and every later release.  3.11 lacks what the types
# need of the Limited API, and a free-threaded build up to 3.14 has none: they
# get wheels of their own.
LIMITED_API = sys.version_info >= (3, 12) and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

setup(
    ext_modules=[
        Extension(
            "rawmmsg._rawmmsg",
            sources=[
                "_rawmmsg.c",
                "_rawmmsg_batch.c",
                "_rawmmsg_offload.c",
            ],
            depends=["_rawmmsg.h", "_rawmmsg_offload.h"],
            define_macros=(
                [("Py_LIMITED_API", "0x030c0000")] if LIMITED_API else []
            ),
            extra_compile_args=["-std=c11", "-fvisibility=hidden"],
            py_limited_api=LIMITED_API,
        )
    ],
    options=(
        {"bdist_wheel": {"py_limited_api": "cp312"}} if LIMITED_API else {}
    ),
)
