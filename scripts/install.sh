#!/bin/sh
# Makes sure that there is what the tests need besides Go:
#   postgres   a PostgreSQL server (initdb and postgres; no server is set up or
#              left running, the tests start their own)
#   compiler   a C compiler with libc headers, for the race detector
#   haproxy, pgbouncer, pgpool   what make proxies tests behind; not left running
#              either
#   npm        npm and node, from which make test-matrix has its servers; not
#              installed unless named
# What is there is used; what is missing is installed with the system's package
# manager, through sudo if need be. PGPOOLED_TEST_PG_BIN names a folder with
# PostgreSQL's programs. PGPOOLED_FORCE_INSTALL=1 installs in any case.
set -eu

say() { echo "install: $*"; }
fail() {
	echo "install: $*" >&2
	exit 1
}

# as_root CMD…: prints a command and runs it with root's rights.
as_root() {
	echo "+ $*"
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif [ -t 0 ]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

has_server() { [ -x "$1/initdb" ] && [ -x "$1/postgres" ]; }

# find_postgres prints the folder of initdb and postgres. The same places as in
# internal/pgtest/binaries.go.
find_postgres() {
	if [ -n "${PGPOOLED_TEST_PG_BIN:-}" ]; then
		has_server "$PGPOOLED_TEST_PG_BIN" && echo "$PGPOOLED_TEST_PG_BIN"
		return
	fi
	dir=$(command -v initdb) && dir=$(dirname "$dir") && has_server "$dir" && echo "$dir" && return
	dir=$(pg_config --bindir 2>/dev/null) && has_server "$dir" && echo "$dir" && return
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/lib/postgresql*/bin /usr/libexec/postgresql* \
		/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
		/home/linuxbrew/.linuxbrew/opt/postgresql*/bin \
		/Applications/Postgres.app/Contents/Versions/*/bin /usr/local/pgsql/bin /usr/local/bin; do
		has_server "$dir" && echo "$dir" && return
	done
	return 1
}

# works_compiler tries the compiler that Go would use, headers included.
works_compiler() {
	out=$(mktemp)
	printf '#include <stdlib.h>\nint main(void) { return 0; }\n' |
		$(go env CC) -x c -o "$out" - 2>/dev/null
	status=$?
	rm -f "$out"
	return $status
}

package_manager() {
	for pm in apt-get dnf yum apk pacman zypper brew pkg; do
		command -v "$pm" >/dev/null 2>&1 && echo "$pm" && return
	done
	return 1
}

# may_install PM WHAT HINT: ends with a message if packages cannot be installed.
may_install() {
	[ "$1" = brew ] && return
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null 2>&1 ||
		fail "$2 is missing, and installing it takes root's rights: this is not root and there is no sudo. $3"
}

# Debian's packages create and start a server of their own, unless told not to
# by a file that the first of them brings. It is put back afterwards.
apt_postgres() {
	conf=/etc/postgresql-common/createcluster.conf
	export DEBIAN_FRONTEND=noninteractive
	as_root apt-get update -q # if it fails, the lists may still do
	as_root apt-get install -q -y --no-install-recommends postgresql-common || return
	as_root cp -p "$conf" "$conf.before-pgpooled" || return
	trap 'as_root mv -f "$conf.before-pgpooled" "$conf"' EXIT
	trap 'exit 1' INT TERM
	echo 'create_main_cluster = false' | as_root tee -a "$conf" || return
	as_root apt-get install -q -y --no-install-recommends postgresql
}

install_postgres() {
	case $1 in
	apt-get) apt_postgres ;;
	dnf | yum) as_root "$1" install -y postgresql-server ;;
	apk) as_root apk add --no-cache postgresql ;;
	pacman) as_root pacman -Sy --noconfirm --needed postgresql ;;
	zypper) as_root zypper --non-interactive install postgresql-server ;;
	brew) echo "+ brew install postgresql@17" && brew install postgresql@17 ;;
	pkg) as_root pkg install -y postgresql17-server ;;
	esac
}

install_compiler() {
	case $1 in
	apt-get)
		export DEBIAN_FRONTEND=noninteractive
		as_root apt-get update -q
		as_root apt-get install -q -y --no-install-recommends gcc libc6-dev
		;;
	dnf | yum) as_root "$1" install -y gcc glibc-devel ;;
	apk) as_root apk add --no-cache gcc musl-dev ;;
	pacman) as_root pacman -Sy --noconfirm --needed gcc glibc ;;
	zypper) as_root zypper --non-interactive install gcc glibc-devel ;;
	brew) fail "no C compiler: run xcode-select --install, then again" ;;
	pkg) fail "no C compiler: FreeBSD's base system has one, install it again" ;;
	esac
}

find_haproxy() { find_program haproxy; }
find_pgbouncer() { find_program pgbouncer; }
find_pgpool() { find_program pgpool; }

# find_program prints where a program is that may be outside of a user's PATH.
find_program() {
	PATH=$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin command -v "$1"
}

install_haproxy() { install_service "$1" haproxy; }
install_pgbouncer() { install_service "$1" pgbouncer; }

# pgpool-II has another name everywhere, and is not everywhere.
install_pgpool() {
	case $1 in
	apt-get) install_service "$1" pgpool2 ;;
	brew) install_service "$1" pgpool-ii ;;
	*) install_service "$1" pgpool-II ;;
	esac
}

install_service() {
	case $1 in
	apt-get) apt_service "$2" ;;
	dnf | yum) as_root "$1" install -y "$2" ;;
	apk) as_root apk add --no-cache "$2" ;;
	pacman) as_root pacman -Sy --noconfirm --needed "$2" ;;
	zypper) as_root zypper --non-interactive install "$2" ;;
	brew) echo "+ brew install $2" && brew install "$2" ;;
	pkg) as_root pkg install -y "$2" ;;
	esac
}

# Debian starts what it installs, unless a file says not to. It is removed
# afterwards, if it was not there before: hence the shell of its own.
apt_service() (
	policy=/usr/sbin/policy-rc.d
	export DEBIAN_FRONTEND=noninteractive
	as_root apt-get update -q # if it fails, the lists may still do
	if [ ! -e "$policy" ]; then
		trap 'as_root rm -f "$policy"' EXIT
		trap 'exit 1' INT TERM
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" || exit
		as_root chmod +x "$policy" || exit
	fi
	as_root apt-get install -q -y --no-install-recommends "$1"
)

install_npm() {
	case $1 in
	apt-get)
		export DEBIAN_FRONTEND=noninteractive
		as_root apt-get update -q
		as_root apt-get install -q -y --no-install-recommends nodejs npm
		;;
	dnf | yum) as_root "$1" install -y nodejs npm ;;
	apk) as_root apk add --no-cache nodejs npm ;;
	pacman) as_root pacman -Sy --noconfirm --needed nodejs npm ;;
	zypper) as_root zypper --non-interactive install nodejs npm ;;
	brew) echo "+ brew install node" && brew install node ;;
	pkg) as_root pkg install -y node npm ;;
	esac
}

has_npm() { command -v npm >/dev/null 2>&1 && command -v node >/dev/null 2>&1; }

# ensure WHAT CHECK INSTALL HINT
ensure() {
	if [ -z "${PGPOOLED_FORCE_INSTALL:-}" ] && found=$($2); then
		say "$1: there${found:+, in $found}"
		return
	fi
	pm=$(package_manager) || fail "$1 is missing, and no package manager was found that this script knows. $4"
	may_install "$pm" "$1" "$4"
	say "$1: missing; installing it with $pm"
	$3 "$pm" || fail "$pm could not install it. $4"
	found=$($2) || fail "$1 is still missing after the installation. $4"
	say "$1: there now${found:+, in $found}"
}

[ $# -gt 0 ] || set -- postgres compiler
for what in "$@"; do
	case $what in
	postgres)
		[ -z "${PGPOOLED_TEST_PG_BIN:-}" ] || has_server "$PGPOOLED_TEST_PG_BIN" ||
			fail "PGPOOLED_TEST_PG_BIN is set, but the folder it names has no initdb and postgres"
		ensure "PostgreSQL server" find_postgres install_postgres \
			"Install PostgreSQL yourself (any version from 12 on), or set PGPOOLED_TEST_PG_BIN to the folder with its initdb and postgres."
		;;
	compiler)
		ensure "C compiler" works_compiler install_compiler \
			"Install gcc or clang with the headers of libc, or run the tests without the race detector: make test RACE="
		;;
	haproxy) ensure HAProxy find_haproxy install_haproxy "Install haproxy yourself." ;;
	pgbouncer) ensure PgBouncer find_pgbouncer install_pgbouncer "Install pgbouncer yourself." ;;
	pgpool) ensure pgpool-II find_pgpool install_pgpool "Install pgpool-II yourself." ;;
	npm) ensure npm has_npm install_npm "Install Node.js with npm yourself." ;;
	*) fail "no such thing: $what (postgres, compiler, npm, haproxy, pgbouncer, pgpool)" ;;
	esac
done
