#!/usr/bin/env bash
# Runs all tests: those of the packages first, then the lanes, one package after the other, because they share the
# machine's processors and count packets. `make test` calls it. With WEAVEGUARD_FULL=1 the packages run with the race
# detector, the lanes lab and cluster five times, and tests that look at it in full; of the lane vm, where emulation is
# slow, the rotations alone five times. Fails if any test does, after all have run.
set -uo pipefail
cd "$(dirname "$0")/.."

full=${WEAVEGUARD_FULL:-} count=1 limit=30m
[ -z "$full" ] || count=5 limit=400m
begin=$SECONDS
failed=()
# The image that `make` has built for this run.
export WEAVEGUARD_IMAGE_TAR=$PWD/build/weaveguard-image.tar

clock() { printf '%d:%02d min' $(($1 / 60)) $(($1 % 60)); }

# stage TITLE COMMAND... runs a command, and says how long it took.
stage() {
	local title=$1 start=$SECONDS result=passed
	shift
	echo
	echo "== $title"
	"$@" || { result=FAILED && failed+=("$title"); }
	echo "== $title: $result, $(clock $((SECONDS - start)))"
	[ $result = passed ]
}

# units are the packages that aren't lanes.
units() {
	local packages
	packages=$(go list ./... | grep -vE '/test/(lab|cluster|vm)(/|$)') || return
	# shellcheck disable=SC2086 # a list of words
	go test -count=1 -p 4 -timeout 15m ${full:+-race} $packages # several wait more than they work
}

# A moment for each target; `make fuzz` takes longer. The inputs that are kept run with the packages' tests.
fuzz() { FUZZTIME=$([ -n "$full" ] && echo 10s || echo 1s) test/fuzz.sh; }

# lane NAME [FLAG...] runs a lane's packages one after the other.
lane() {
	local name=$1
	shift
	go test -count=$count -p 1 -timeout $limit "$@" "./test/$name/..."
}

vm() {
	go test -count=1 -timeout $limit ./test/vm/... || return
	[ -z "$full" ] || go test -count=$((count - 1)) -timeout $limit ./test/vm -run '^TestRotation$'
}

stage "unit: all packages but the lanes${full:+, with the race detector}" units
stage "fuzz: the decoders of what comes from outside" fuzz
stage "lab: agents on hosts in network namespaces" lane lab -parallel 4 # of those that mostly wait
# What the lane needs from source is built before, so that one sees how far it is.
if stage "cluster: build Kubernetes and the test images" build/cluster-bin/wgcluster build; then
	stage "cluster: a real Kubernetes" lane cluster
fi
stage "vm: a kernel with WireGuard" vm

echo
if [ ${#failed[@]} -gt 0 ]; then
	printf -v list '%s; ' "${failed[@]}"
	echo "FAILED after $(clock $((SECONDS - begin))): ${list%; }"
	exit 1
fi
echo "PASSED: all tests, $(clock $((SECONDS - begin)))"
