#!/usr/bin/env bash
# Runs the chaos tests with many seeds, one line each:
#
#   scripts/chaos.sh FIRST LAST            two workers, each with a journal of its own
#   scripts/chaos.sh FIRST LAST fleet      four workers of two namespaces, with journals, one PostgreSQL
#   scripts/chaos.sh FIRST LAST memory     the same without journals
#
# CHAOS_WORKFLOWS (300), CHAOS_KILLS (20), CHAOS_LONGEST_PAUSE (2), CHAOS_RESETS (0) and CHAOS_BAD_LINE
# (1) as in tests/it/chaos.rs. What a seed that fails has to say is in target/chaos/KIND-SEED.log. Fails if one did.
set -euo pipefail
cd "$(dirname "$0")/.."
first=${1:?the first seed} last=${2:?the last seed} kind=${3:-workers}
case $kind in
workers) test=chaos::whatever_fails_nothing_is_lost_repeated_or_invented ;;
fleet) test=chaos::fleet::a_fleet_with_journals_fills_one_database ;;
memory) test=chaos::fleet::a_fleet_without_journals_invents_and_repeats_nothing ;;
*) echo "no such kind: $kind" >&2 && exit 2 ;;
esac
export CHAOS_WORKFLOWS=${CHAOS_WORKFLOWS:-300} CHAOS_KILLS=${CHAOS_KILLS:-20}

# What the servers write must outlive processes, and not the machine.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi

# Once, and not for each seed: the programs that it runs, and where they are.
cargo build --quiet --all-features --examples
binary=$(cargo test --all-features --test it --no-run --message-format json 2>/dev/null |
  sed -n 's/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
logs=${CARGO_TARGET_DIR:-target}/chaos
mkdir -p "$logs"

echo "| seed | runs | events | kills | stops | restarts | faults | reconciled | missing / duplicate / phantom / wrong | s |"
echo "|---|---|---|---|---|---|---|---|---|---|"
failed=0
for seed in $(seq "$first" "$last"); do
  log=$logs/$kind-$seed.log
  if CHAOS_SEED=$seed timeout 600 "$binary" --exact "$test" --nocapture >"$log" 2>&1; then
    grep "^| $seed |" "$log"
  else
    failed=$((failed + 1))
    grep "^| $seed |" "$log" || echo "| $seed | $(grep -m1 -A1 panicked "$log" | tail -1) |"
  fi
done
echo "$failed of $((last - first + 1)) seeds failed"
((failed == 0))
