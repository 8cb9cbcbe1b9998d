#!/bin/sh
# All tests of all modules. Ends with the result line of each package.
#
# With CI=true, or PGPOOLED_TEST_MATRIX=short, the tests whose outcome depends
# on the server run again on the oldest and the newest PostgreSQL, taken from
# npm: if that cannot be had the run fails. PGPOOLED_TEST_MATRIX=off leaves it
# out.
set -eu
matrix=${PGPOOLED_TEST_MATRIX:-}
[ -n "$matrix" ] || case ${CI:-} in true) matrix=short ;; *) matrix=off ;; esac
case $matrix in short | off) ;; *)
	echo "test: PGPOOLED_TEST_MATRIX must be short or off" >&2
	exit 1
	;;
esac
RACE=${RACE--race}
log=$(mktemp)
unsteady=$log.unsteady
trap 'rm -f "$log" "$log.module" "$log.once" "$log.failed" "$unsteady"' EXIT
trap 'exit 1' INT TERM

# shellcheck source=scripts/alone.sh
. scripts/alone.sh

for module in $(sh scripts/modules.sh); do
	echo "== $module: go test $RACE ./..."
	# The pipe hides the status, so a failure leaves a file.
	rm -f "$log.once"
	{
		# shellcheck disable=SC2086 # RACE may be empty
		(cd "$module" && go test $RACE -count=1 -timeout 10m ./...) 2>&1 || : >"$log.once"
	} | tee "$log.module"
	cat "$log.module" >>"$log"
	if [ -e "$log.once" ] && ! alone "$module" "$log.module"; then
		echo "$module" >>"$log.failed"
	fi
done

echo
if [ -s "$log.failed" ]; then
	echo "== failed, in: $(tr '\n' ' ' <"$log.failed")"
	grep -E '^(--- FAIL|FAIL|panic:|WARNING: DATA RACE)' "$log" || true
	exit 1
fi
echo "== all passed"
grep -E '^ok' "$log" || true
if [ -s "$unsteady" ]; then
	echo "== failed beside the others, passed alone three times: to be looked into"
	cat "$unsteady"
fi

if [ "$matrix" = off ]; then
	echo "== on the installed PostgreSQL only; make test-matrix runs 14 to 18"
	exit
fi
echo
echo "== the oldest and the newest PostgreSQL"
sh scripts/install.sh npm
VERSIONS="14 18" SHORT=1 sh scripts/matrix.sh
