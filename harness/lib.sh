# shellcheck shell=bash
# Sourced by the harness scripts.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by the scripts
BUILD=$ROOT/build OUT=$ROOT/out

# The kernel's own makes must not inherit the flags of the project's make.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

say() {
	printf '%s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}
