#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# bench.sh [NAME...]: runs the benchmarks tests/bench/bench_NAME.py (all of them if none is named), one after the other.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cd "$top"
shopt -s nullglob
if [ $# -gt 0 ]; then
  benchmarks=("${@/#/tests/bench/bench_}")
  benchmarks=("${benchmarks[@]/%/.py}")
else
  benchmarks=(tests/bench/bench_*.py)
fi
[ ${#benchmarks[@]} -gt 0 ] || die "tests/bench holds no benchmark."
failed=()
for benchmark in "${benchmarks[@]}"; do
  say "== $benchmark"
  PYTHONPATH=plugins/module_utils:.venv/collections:tests .venv/bin/python "$benchmark" </dev/null || failed+=("$benchmark")
done
[ ${#failed[@]} -eq 0 ] || die "Missed: ${failed[*]}"
