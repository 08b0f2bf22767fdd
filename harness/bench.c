// SPDX-License-Identifier: GPL-2.0
/*
 * The cost of a fault, and of taking the mapping away again, for each kind of
 * memory.  Under QEMU's -icount the time stamp counter counts instructions, so
 * the figures are exact.  For each kind one line:
 *
 *	bench NAME FAULT ZAP ACCESS
 *
 * FAULT: KVM_PRE_FAULT_MEMORY, per mapping; ZAP: mprotect(PROT_NONE) of the
 * memory, per mapping; ACCESS: the guest touches an unmapped page, less what it
 * costs to touch a mapped one.  Each is the smallest of some rounds, i.e. the
 * one without a timer interrupt.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#include "test_kvm_memory_uapi.h"

#define GPA		0x40000000ul
#define SLOT		10
#define NR_PAGES	64	/* of 4 KiB; a short round has no timer interrupt */
#define NR_HUGE_PAGES	8
#define NR_ROUNDS	12

static const struct kind {
	const char *name;
	enum { ANON, SHMEM, THP, HUGETLB, MODULE } source;
	uint32_t module_kind;
	uint32_t slot_flags;
} kinds[] = {
	{ "anonymous", ANON },
	{ "readonly-slot", ANON, 0, KVM_MEM_READONLY },
	{ "shmem", SHMEM },
	{ "thp", THP },
	{ "hugetlb", HUGETLB },
	{ "pfnmap", MODULE, TKM_PFNMAP_REFCOUNTED },
	{ "pfnmap-pageless", MODULE, TKM_PFNMAP_PAGELESS },
};

static void guest_code(uint64_t step, uint64_t nr, bool write)
{
	volatile uint64_t *p;
	uint64_t i;

	for (;;) {
		for (i = 0; i < nr; i++) {
			p = (void *)(GPA + i * step);
			if (write)
				*p = i;
			else
				(void)*p;
		}
		GUEST_SYNC(0);
	}
}

static void *map_kind(const struct kind *kind, size_t size, int *fd)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	void *mem;

	*fd = -1;
	switch (kind->source) {
	case SHMEM:
		flags = MAP_SHARED;
		*fd = memfd_create("bench", 0);
		TEST_ASSERT(*fd >= 0 && !ftruncate(*fd, size), "memfd");
		break;
	case HUGETLB:
		flags |= MAP_HUGETLB;
		break;
	case MODULE: {
		struct tkm_create create = {
			.kind = kind->module_kind,
			.nr_pages = size / PAGE_SIZE,
		};

		flags = MAP_SHARED;
		*fd = open(TKM_DEVICE, O_RDWR);
		TEST_ASSERT(*fd >= 0 && !ioctl(*fd, TKM_CREATE, &create),
			    TKM_DEVICE ": %s", strerror(errno));
		break;
	}
	default:
		break;
	}

	/* Leave room to align to a huge page. */
	mem = mmap(NULL, size + SZ_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap");
	mem = (void *)align_up((uint64_t)mem, SZ_2M);
	mem = mmap(mem, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, *fd, 0);
	TEST_ASSERT(mem != MAP_FAILED, "%s: mmap: %s", kind->name, strerror(errno));
	if (kind->source == ANON || kind->source == THP)
		TEST_ASSERT(!madvise(mem, size, kind->source == THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE),
			    "madvise");
	return mem;
}

static uint64_t run_guest(struct kvm_vcpu *vcpu)
{
	uint64_t begin = rdtsc();
	struct ucall uc;

	vcpu_run(vcpu);
	begin = rdtsc() - begin;
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "the guest did not come back");
	return begin;
}

static void keep_min(uint64_t *min, uint64_t val)
{
	if (val < *min)
		*min = val;
}

static void bench(const struct kind *kind)
{
	bool huge = kind->source == THP || kind->source == HUGETLB;
	uint64_t nr = huge ? NR_HUGE_PAGES : NR_PAGES;
	uint64_t step = huge ? SZ_2M : PAGE_SIZE;
	uint64_t fault = -1, zap = -1, cold = -1, warm = -1, begin;
	size_t size = nr * step, i;
	struct kvm_pre_fault_memory range;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int fd, round;
	void *mem;

	mem = map_kind(kind, size, &fd);
	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_set_user_memory_region(vm, SLOT, kind->slot_flags, GPA, size, mem);
	virt_map(vm, GPA, GPA, size / PAGE_SIZE);
	vcpu_args_set(vcpu, 3, step, nr, !(kind->slot_flags & KVM_MEM_READONLY));

	for (round = 0; round < 2 * NR_ROUNDS; round++) {
		/* The host has every page, present and dirty. */
		for (i = 0; i < size; i += PAGE_SIZE)
			*(volatile char *)(mem + i) = round;

		if (round % 2) {
			keep_min(&cold, run_guest(vcpu));
			keep_min(&warm, run_guest(vcpu));
		} else {
			range = (struct kvm_pre_fault_memory){ .gpa = GPA, .size = size };
			begin = rdtsc();
			while (range.size)
				vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
			keep_min(&fault, rdtsc() - begin);
		}

		begin = rdtsc();
		TEST_ASSERT(!mprotect(mem, size, PROT_NONE), "mprotect");
		if (!(round % 2))
			keep_min(&zap, rdtsc() - begin);
		TEST_ASSERT(!mprotect(mem, size, PROT_READ | PROT_WRITE), "mprotect");
	}
	printf("bench %s %lu %lu %lu\n", kind->name, fault / nr, zap / nr, (cold - warm) / nr);

	kvm_vm_free(vm);
	munmap(mem, size);
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		bench(&kinds[i]);
	return 0;
}
