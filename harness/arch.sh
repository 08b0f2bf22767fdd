# shellcheck shell=bash disable=SC2034
# Sourced, after lib.sh, by the scripts that build for, or boot, the architecture
# in ARCH (x86_64): all that differs between them.
#
#	karch, prefix	the kernel's name for it, the compiler's prefix
#	image		the kernel's image, in its object directory
#	qemu, machine, cpu	QEMU, and a machine with virtualization
#	console		its serial port
#	elf		what readelf calls its programs
#	pageless	128 MiB of memory that the kernel does not manage ...
#	pmem		... followed by 16 MiB that the device tree, if there is one,
#			declares persistent
#	words		what the kernel must be told
#
# GUEST says where the programs are that run on it.
arch=${ARCH:-x86_64}
case $arch in
x86_64)
	karch=x86_64 prefix='' image=arch/x86/boot/bzImage
	qemu=qemu-system-x86_64 machine=(-m 4G) cpu=max,+svm,+npt console=ttyS0
	elf='Advanced Micro Devices X86-64'
	# shellcheck disable=SC2016 # the kernel's syntax
	pageless=0x70000000 pmem='' words='memmap=128M$0x70000000 memmap=16M!0x78000000'
	# On a busy machine the kernel calibrates the TSC to no more than 1 %, then
	# refines that. What is measured when KVM is loaded must do for the tests.
	words="$words kvm.tsc_tolerance_ppm=10000"
	;;
arm64)
	karch=arm64 prefix=aarch64-linux-gnu- image=arch/arm64/boot/Image
	qemu=qemu-system-aarch64 console=ttyAMA0 elf=AArch64
	machine=(-machine "virt,virtualization=on,gic-version=3,mte=on" -m 3G) cpu=max,pauth-impdef=on
	# RAM starts at 1 GiB.
	pageless=0xe0000000 pmem=0xe8000000 words=mem=2560M
	;;
riscv64)
	karch=riscv prefix=riscv64-linux-gnu- image=arch/riscv/boot/Image
	qemu=qemu-system-riscv64 console=ttyS0 elf=RISC-V
	machine=(-machine virt -m 2G) cpu=rv64,h=true,svpbmt=true
	# RAM starts at 2 GiB, the device tree lies below 3 GiB.
	pageless=0xf0000000 pmem=0xf8000000 words=mem=1792M
	;;
i386) karch=i386 prefix='' ;; # compiled only
*) die "ARCH=$arch: neither x86_64 nor arm64 nor riscv64" ;;
esac
prefix=${CROSS_COMPILE:-$prefix}
qemu=${QEMU:-${qemu:-}}
guest=${GUEST:-$BUILD/guest/$arch}
