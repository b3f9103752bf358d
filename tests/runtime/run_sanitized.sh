#!/usr/bin/env bash
# Run the runtime's tests against a build with address and undefined-behaviour checks, on every
# OpenCL driver that is here. Ends with status 1 on a failed test or any report.
#
#   tests/runtime/run_sanitized.sh [SELECTOR...]    SELECTOR as in SMARTMEM_OPENCL_DEVICE
set -euo pipefail
cd "$(dirname "$0")/../.." || exit

PYTHON=${PYTHON:-.venv/bin/python}
CXX=${CXX:-g++}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

SMARTMEM_CXXFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer" \
  "$PYTHON" setup.py -q build_ext --build-lib "$WORK/lib" --build-temp "$WORK/temp" >/dev/null
export SMARTMEM_RUNTIME_LIBRARY="$WORK/lib/smartmem_tvm/runtime/libsmartmem_opencl.so"
[ -e "$SMARTMEM_RUNTIME_LIBRARY" ]

# Python itself is not instrumented, so the checkers' libraries come first. Leaks are tested by
# counting (test_runtime_pool.py): the interpreter and the drivers keep memory until they end.
LD_PRELOAD="$("$CXX" -print-file-name=libasan.so) $("$CXX" -print-file-name=libubsan.so)"
LD_PRELOAD+=" $("$CXX" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS="detect_leaks=0:log_path=$WORK/report:quarantine_size_mb=8:allocator_may_return_null=1"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$WORK/report"
export RUSTICL_ENABLE=llvmpipe

selectors=("$@")
if [ ${#selectors[@]} -eq 0 ]; then
  [ ! -e /etc/OpenCL/vendors/pocl.icd ] || selectors+=(pocl)
  [ ! -e /etc/OpenCL/vendors/rusticl.icd ] || selectors+=(llvmpipe)
  if "$PYTHON" -c 'import importlib.metadata as m; m.version("intel-opencl-rt")' 2>/dev/null; then
    selectors+=(intel)
  fi
fi

failed=0
for selector in "${selectors[@]}"; do
  echo "::: $selector"
  # Left out: memory by the tens of gigabytes, whose shadow would be touched; resident memory,
  # which the checkers' own bookkeeping grows; and libraries that only fail to load.
  LD_PRELOAD="$LD_PRELOAD" SMARTMEM_OPENCL_DEVICE="$selector" SMARTMEM_CACHE_DIR="$WORK/cache" \
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/runtime \
    -k "not more_than_the_device and not many_cycles and not not_built" || failed=1
done
for report in "$WORK"/report*; do
  [ -e "$report" ] || continue
  echo "::: $report"
  head -n 60 "$report"
  failed=1
done
exit "$failed"
