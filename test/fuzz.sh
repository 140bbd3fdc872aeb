#!/usr/bin/env bash
# Fuzzes every target of the module, one after the other, for FUZZTIME each, 30s by default. `make fuzz` calls it, and
# `make test` for a moment each. An input that fails is kept as a file in the package's testdata/fuzz, to be committed
# with the fix: from then on `go test` runs it. With FUZZKEEP=N, N of the inputs that reach new code are kept there as well.
set -uo pipefail
cd "$(dirname "$0")/.."

time=${FUZZTIME:-30s}
scratch=$(mktemp -d) || exit
trap 'rm -rf "$scratch"' EXIT
cache=$(go env GOCACHE)/fuzz/weaveguard # what earlier runs found interesting
failed=()

# fuzz PROGRAM PACKAGE TARGET fuzzes one target. Two workers, whatever else the machine has to do, and no time to make
# findings smaller: nothing else is tried meanwhile, and what is new is mostly not worth it.
fuzz() {
	local log=$scratch/log
	if (cd "$2" && "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$time" -test.fuzzminimizetime 1x \
		-test.parallel 2 -test.fuzzcachedir "$cache/$2") >"$log" 2>&1; then
		echo "$2 $3: $(grep -o 'execs: .*' "$log" | tail -1)"
	# An input that was under way as the time ended is no finding (golang/go 48591).
	elif grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input\|panic' "$log"; then
		echo "$2 $3: the time ended: $(grep -o 'execs: .*' "$log" | tail -1)"
	else
		cat "$log"
		failed+=("$2 $3")
	fi
}

# keep PACKAGE TARGET keeps some of a target's interesting inputs: their names are hashes, so the first ones are any.
keep() {
	local from=$cache/$1/$2 to=$1/testdata/fuzz/$2 name
	[ -d "$from" ] || return 0
	mkdir -p "$to"
	find "$from" -type f -size -5k -printf '%f\n' | sort | head -n "$FUZZKEEP" | while read -r name; do
		cp "$from/$name" "$to/$name"
	done
}

for package in $(grep -rl --include='*_test.go' --exclude-dir=build '^func Fuzz' . | xargs dirname | sort -u); do
	if ! go test -c -fuzz . -o "$scratch/program" "$package"; then
		failed+=("$package")
		continue
	fi
	for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | cut -d' ' -f2); do
		fuzz "$scratch/program" "$package" "$target"
		[ -z "${FUZZKEEP:-}" ] || keep "$package" "$target"
	done
done

if [ ${#failed[@]} -gt 0 ]; then
	printf 'FAILED: %s\n' "${failed[@]}"
	exit 1
fi
