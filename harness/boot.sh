# shellcheck shell=bash
# Sourced, after lib.sh, by the scripts that boot the project's own tests.
. "$ROOT/harness/arch.sh"

# PID 1's entries for the memory that userspace has no other way to come by: the
# module with the page-less memory, and /dev/dax0.0 on the persistent memory.
test_memory() {
	local dax=/sys/bus/nd/devices/dax0.0
	echo "module /modules/test_kvm_memory.ko pageless_start=$pageless pageless_size=0x8000000"
	echo "write $dax/uuid 6e2f3c1a-0b0d-4c5e-9d1f-0123456789ab"
	echo "write $dax/align 2097152"
	echo "write $dax/mode ram"
	echo "write $dax/namespace namespace0.0"
	echo 'write /sys/bus/nd/drivers/dax_pmem/bind dax0.0'
}

# The KUnit suites of the series, as options for harness/report.
suites() {
	local names
	names=$(find "$BUILD/linux/virt/kvm/tests" "$BUILD/linux/arch/${karch%_64}/kvm" -name '*_kunit.c' \
		-exec sed -n '/struct kunit_suite/,/};/s/.*\.name = "\([^"]*\)".*/-s \1/p' {} +)
	[ -n "$names" ] || die "virt/kvm/tests has no KUnit suite"
	echo "$names"
}
