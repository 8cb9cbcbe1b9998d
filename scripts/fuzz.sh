#!/bin/sh
# Runs each fuzz target of each module for FUZZTIME. A failing input is kept by
# go test under testdata/fuzz: add it to the change that fixes it.
set -eu
FUZZTIME=${FUZZTIME:-30s}
status=0
for module in $(sh scripts/modules.sh); do
	# go test -list prints a package's targets, then "ok <package> <time>".
	targets=$(cd "$module" && go test -list '^Fuzz' ./... |
		awk '/^Fuzz/ { n[++i] = $1 } /^ok/ { for (j = 1; j <= i; j++) print $2 ":" n[j]; i = 0 }')
	for target in $targets; do
		package=${target%:*}
		name=${target##*:}
		echo "== $package: $name for $FUZZTIME"
		(cd "$module" && go test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZTIME" -timeout 1h "$package") || status=1
	done
done
exit $status
