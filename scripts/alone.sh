#!/bin/sh
# For scripts/test.sh and the short form of scripts/matrix.sh.
#
# alone MODULE LOG says whether the tests of a module that failed, three at the
# most and of one package, pass three times when nothing runs beside them. Many
# tests break connections and wait for what follows; a machine that has no time
# for one of them must not hide what the others found. There is no second chance
# for a data race, a panic or a timeout. What needed one is named in the file
# $unsteady, and at the end of the run: it has to be looked into.
alone() {
	if grep -qE 'WARNING: DATA RACE|^panic:|test timed out|\[(build|setup) failed\]' "$2"; then
		return 1
	fi
	[ "$(grep -cE '^FAIL[[:space:]]+[a-z]' "$2")" = 1 ] || return 1
	names=$(sed -n 's/^--- FAIL: \([A-Za-z0-9_]*\) .*/\1/p' "$2" | sort -u | tr '\n' '|')
	names=${names%|}
	case $names in '' | *'|'*'|'*'|'*) return 1 ;; esac
	echo "== $1: alone, three times: $names"
	# shellcheck disable=SC2086 # RACE may be empty
	(cd "$1" && go test $RACE -count=3 -timeout 10m -run "^($names)\$" ./...) 2>&1 || return 1
	printf '%s: %s\n' "$1" "$names" >>"$unsteady"
}
