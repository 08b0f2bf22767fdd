# shellcheck shell=bash
# Sourced by tests whose cases are functions. They have $tmp; n counts the cases, bad
# is 1 if one has failed.
# shellcheck disable=SC2034,SC2154 # used, or set, by the tests
n=0 bad=0

# tap TEXT COMMAND...: each line of a function has to succeed; what it prints goes
# before the result.
tap() {
	local text=$1 result=ok status
	shift
	n=$((n + 1))
	# not in a condition, which would switch set -e off
	set +e
	(set -e; "$@") >"$tmp/out" 2>&1
	status=$?
	set -e
	[ "$status" = 0 ] || { result='not ok' bad=1; }
	sed 's/^/# /' "$tmp/out"
	echo "$result $n - $text"
}
