#!/bin/sh
# gofmt, go vet for each system, staticcheck: over every module.
set -eu
root=$(pwd)

echo "== gofmt"
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
	echo "these files need gofmt -w:" >&2
	echo "$unformatted" >&2
	exit 1
fi

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
