#!/bin/sh
# Prints the folder of each module that is linted and tested. internal/tools
# only pins programs.
set -eu
find . -name go.mod -not -path './internal/tools/*' -not -path '*/testdata/*' -not -path './.*/*' |
	sed 's|/go\.mod$||' | sort
