#!/bin/sh
# gofmt, go vet for each system, staticcheck: over every module. And the page
# that says on which servers the tests passed is about those that are pinned.
set -eu
root=$(pwd)

echo "== gofmt"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "these files need gofmt -w:" >&2
	echo "$unformatted" >&2
	exit 1
fi

echo "== docs/reliability.md: each pinned PostgreSQL passed"
sh scripts/matrix.sh check

echo "== staticcheck: build the pinned version"
(cd internal/tools && GOWORK=off go build -o "$root/bin/staticcheck" honnef.co/go/tools/cmd/staticcheck)

for module in $(sh scripts/modules.sh); do
	for os in linux darwin freebsd windows; do
		echo "== $module: go vet for $os"
		(cd "$module" && GOOS=$os CGO_ENABLED=0 go vet ./...)
	done
	echo "== $module: staticcheck"
	(cd "$module" && "$root/bin/staticcheck" ./...)
done
