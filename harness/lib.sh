# shellcheck shell=bash
# Sourced by the harness scripts.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by the scripts
BUILD=$ROOT/build OUT=$ROOT/out

# dkms, depmod and the like, of which a user's PATH in Debian knows nothing
PATH=$PATH:/usr/sbin:/sbin

# The kernel's own makes must not inherit the flags of the project's make.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# again [COMMAND...]: what to type to have COMMAND, or this script, run once more.
command_line=("harness/${0##*/}" "$@")
again() {
	local v
	[ $# != 0 ] || set -- "${command_line[@]}"
	for v in ARCH GUEST CROSS_COMPILE TARGETS KTREE OBJ ACCEL QEMU QEMU_EXTRA TESTS TIMEOUT PATCH LSMOD LMC_KEEP DEBUG_INFO; do
		[ -z "${!v:-}" ] || printf '%s=%q ' "$v" "${!v}"
	done
	printf '%s' "$1"
	shift
	[ $# = 0 ] || printf ' %q' "$@"
}

# Descriptor 8 is the terminal that shows progress, if the standard error is one
# (V=1 shows the output itself). Scripts inherit it from those that take their
# standard error away.
[ -t 8 ] || [ ! -t 2 ] || [ -n "${V:-}" ] || exec 8>&2

# progress [TEXT]: one line on the terminal, cut at its edge, that the next one, or
# nothing, takes the place of.
progress() {
	[ ! -t 8 ] || printf '\r\033[K\033[?7l%s\033[?7h\r' "$*" >&8
}

# counting TEXT TOTAL REGEX [EVERY]: swallow the input, unless V=1, and show TEXT, how
# many lines matched REGEX, of TOTAL if that is known, and what the last one has in
# parentheses. A line that repeats the one before it does not count. More than TOTAL:
# it was wrong, so leave it out.
counting() {
	local line last='' n=0 total=${2:-}
	[ -z "${V:-}" ] || { cat; return; }
	[ -t 8 ] || { cat >/dev/null; return; }
	while IFS= read -r line; do
		if [[ ! $line =~ $3 ]] || [ "$line" = "$last" ]; then continue; fi
		last=$line n=$((n + 1))
		[ "$n" -le "${total:-$n}" ] || total=''
		[ $((n % ${4:-1})) != 0 ] || progress "$1 $n${total:+ of $total}${BASH_REMATCH[1]:+, ${BASH_REMATCH[1]}}"
	done
	progress
}
# shellcheck disable=SC2034 # used by the scripts
KBUILD_LINE='^  [A-Z0-9]+ +(.*)$'

# cached: set ccache to the word before a compiler's name that makes it use the
# cache, or to nothing. What it finds there must not depend on where the project is:
# build/linux and build/base/linux are both ../linux from their object directories,
# so that two kernels share what is alike. Nor may a kernel tell when it was built.
# shellcheck disable=SC2034 # used by the scripts
cached() {
	ccache=
	! command -v ccache >/dev/null || ccache='ccache '
	export CCACHE_BASEDIR=$BUILD CCACHE_NOHASHDIR=1
	export KBUILD_BUILD_TIMESTAMP='2025-01-01' KBUILD_BUILD_USER=user KBUILD_BUILD_HOST=host
}

# nested: the module of this machine's KVM, if that runs guests of x86 guests.
nested() {
	local m
	[ -w /dev/kvm ] || return
	for m in kvm_intel kvm_amd; do
		! grep -qsE '^(1|Y)' "/sys/module/$m/parameters/nested" || { echo $m; return; }
	done
	return 1
}

# lock NAME [WHAT]: only one script at a time moves WHAT, or else build/NAME.
lock() {
	mkdir -p "$BUILD"
	exec 9>"$BUILD/.lock-$1"
	flock -n 9 || die "another run is using ${2:-build/$1}: wait for it"
}

# alone: this script, with all that it starts, builds and boots the kernels; two would
# take build/linux and out/ away from each other.
alone() {
	[ -z "${ALONE:-}" ] || return 0
	lock run 'build/ and out/'
	export ALONE=1
}

# Ctrl-C ends a script also if what it waits for takes it for a reason to end well.
trap 'trap - INT; kill -INT $$' INT

say() {
	progress
	printf '%s\n' "$*"
}

die() {
	progress
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}
