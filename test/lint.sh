#!/usr/bin/env bash
# Checks the form of the code: gofmt, go vet, staticcheck and govulncheck. Prints what is wrong, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."

tool() { go tool -modfile=test/tools/go.mod "$@"; }

echo "== gofmt"
unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
	echo "not formatted (run gofmt -w):" && echo "$unformatted"
	exit 1
fi
echo "== go vet"
go vet ./...
(cd test/promql && go vet ./...)
echo "== staticcheck"
tool staticcheck ./...
echo "== govulncheck"
# The database of known vulnerabilities is on the network. Without it there is no result, and this says so; set
# VULNCHECK=required to make that an error.
if out=$(tool govulncheck ./... 2>&1); then
	echo "$out" | tail -n 3
elif [ "${VULNCHECK:-}" != required ] && grep -q "fetching vulnerabilities" <<<"$out"; then
	echo "NOT CHECKED: $(tail -n 1 <<<"$out")"
else
	echo "$out"
	exit 1
fi
