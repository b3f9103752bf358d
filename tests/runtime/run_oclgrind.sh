#!/usr/bin/env bash
# Run the runtime's device tests in the Oclgrind simulator with its checks of memory accesses, data
# races, uninitialised values and API calls. Ends with status 1 on a failed test or any finding.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

PYTHON=${PYTHON:-.venv/bin/python}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# Tests of refused calls make errors on purpose; --check-api would report those.
REFUSED="build_failure or missing_kernel or work_group_too_large or wrong_arguments or build_all"

failed=0
# check NAME OPTIONS -- PYTEST-OPTIONS
check() {
  local name=$1 log="$WORK/$1.log" options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  echo "::: $name"
  SMARTMEM_OPENCL_DEVICE=oclgrind SMARTMEM_CACHE_DIR=off \
    oclgrind "${options[@]}" --log "$log" "$PYTHON" -m pytest -q -p no:cacheprovider \
    -m device "$@" || failed=1
  if [ -s "$log" ]; then
    echo "Oclgrind reports:"
    head -n 40 "$log"
    failed=1
  fi
}

check accesses --data-races -- tests/runtime/test_runtime_images.py \
  tests/runtime/test_runtime_modules.py tests/runtime/test_runtime_pool.py \
  -k "not cycles and not pool_is_trimmed and not ($REFUSED)"
# Without images: Oclgrind 21.10 takes every texel that is read for uninitialised.
check uninitialized --uninitialized -- tests/runtime/test_runtime_modules.py -k "not ($REFUSED)"
check api --check-api -- tests/runtime/test_runtime_copies.py tests/runtime/test_runtime_images.py \
  tests/runtime/test_runtime_modules.py -k "not ($REFUSED)"
exit "$failed"
