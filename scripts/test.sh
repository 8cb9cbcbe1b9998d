#!/bin/sh
# All tests of all modules. Ends with the result line of each package.
set -eu
RACE=${RACE--race}
log=$(mktemp)
trap 'rm -f "$log" "$log.failed"' EXIT
trap 'exit 1' INT TERM

for module in $(sh scripts/modules.sh); do
	echo "== $module: go test $RACE ./..."
	# The pipe hides the status, so a failure leaves a file.
	{
		# shellcheck disable=SC2086 # RACE may be empty
		(cd "$module" && go test $RACE -count=1 -timeout 10m ./...) 2>&1 || echo "$module" >>"$log.failed"
	} | tee -a "$log"
done

echo
if [ -s "$log.failed" ]; then
	echo "== failed, in: $(tr '\n' ' ' <"$log.failed")"
	grep -E '^(--- FAIL|FAIL|panic:|WARNING: DATA RACE)' "$log" || true
	exit 1
fi
echo "== all passed"
grep -E '^ok' "$log"
