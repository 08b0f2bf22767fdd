# shellcheck shell=bash
# Sourced, after lib.sh and git.sh, by the scripts that build modules for, or boot,
# the distribution's own kernel, which harness/stock unpacks into STOCK.
# shellcheck disable=SC2034 # used by the scripts
STOCK=$BUILD/stock

# stock_kernel VERSION: set stock_version, and stock_release as 'uname -r' has it.
stock_kernel() {
	# 6.12 is Debian 13's, where the version does not say so
	[[ $1 =~ ^(6\.12\.[0-9]+)-[0-9]+(~(deb[0-9]+)u[0-9]+)?$ ]] ||
		die "the base is $1: which kernel Debian built from it is known only for those in base/versions"
	stock_version=$1
	stock_release=${BASH_REMATCH[1]}+${BASH_REMATCH[3]:-deb13}-amd64
}

# dkms_version COMMIT: that of the modules with the series up to COMMIT.
dkms_version() {
	local tree
	tree=$(klinux rev-parse "$1^{tree}")
	say "${stock_version%%-*}+$(klinux rev-list --count "base..$1").${tree:0:12}"
}

# load_order ROOT RELEASE MODULE...: the files that modprobe would load, in order.
load_order() {
	modprobe -d "$1" -S "$2" -C /dev/null --show-depends -a "${@:3}" | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

# take_modules ROOT RELEASE OBJ MODULE...: put these, and what they need, into
# OBJ/modules, for harness/boot, and print PID 1's list of them.
take_modules() {
	local file name
	load_order "$1" "$2" "${@:4}" | while IFS= read -r file; do
		name=${file##*/}
		name=${name%.xz}
		# what is not compressed is copied
		xzcat -f "$file" >"$3/modules/$name" || exit
		echo "module /modules/$name"
	done
}
