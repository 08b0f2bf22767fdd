// SPDX-License-Identifier: GPL-2.0-only
/* KUnit tests of the memory type that a guest gets. */
#include <kunit/test.h>

#include <linux/pgtable.h>

#include "stage2_type.h"

#define S2_TYPE_PFN	0x12345UL

/* What the engine reports of a page that the host maps with @prot. */
static pgprot_t s2_type_host(pgprot_t prot)
{
	return pte_pgprot(pfn_pte(S2_TYPE_PFN, prot));
}

static enum kvm_pgtable_prot s2_type_of_ram(pgprot_t host)
{
	enum kvm_pgtable_prot type = s2_memory_type(true, host, false);

	/* VM_ALLOW_ANY_UNCACHED is about devices. */
	return s2_memory_type(true, host, true) == type ? type : -1;
}

/* What no driver has changed the type of, however userspace protects it. */
static void s2_type_of_ordinary_vmas_is_cacheable(struct kunit *test)
{
	const unsigned long all = VM_READ | VM_WRITE | VM_EXEC | VM_SHARED;
	unsigned long flags;

	for (flags = 0; flags <= all; flags++) {
		KUNIT_EXPECT_EQ_MSG(test, s2_type_of_ram(vm_get_page_prot(flags)), 0,
				    "flags %#lx", flags);
		KUNIT_EXPECT_EQ_MSG(test, s2_type_of_ram(vm_get_page_prot(flags | VM_MTE)), 0,
				    "flags %#lx, tagged", flags);
	}
}

static void s2_type_of_ram_follows_the_host(struct kunit *test)
{
	const pgprot_t cached = vm_get_page_prot(VM_SHARED | VM_READ | VM_WRITE);
	const pgprot_t cached_ro = vm_get_page_prot(VM_SHARED | VM_READ);

	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(cached)), 0);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(cached_ro)), 0);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(pgprot_tagged(cached))), 0);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(pgprot_writecombine(cached))),
			KVM_PGTABLE_PROT_NORMAL_NC);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(pgprot_writecombine(cached_ro))),
			KVM_PGTABLE_PROT_NORMAL_NC);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(pgprot_noncached(cached))),
			KVM_PGTABLE_PROT_DEVICE);
	KUNIT_EXPECT_EQ(test, s2_type_of_ram(s2_type_host(pgprot_device(cached))),
			KVM_PGTABLE_PROT_DEVICE);
}

static void s2_type_of_what_is_not_ram_follows_the_vma(struct kunit *test)
{
	const pgprot_t cached = vm_get_page_prot(VM_SHARED | VM_READ | VM_WRITE);

	KUNIT_EXPECT_EQ(test, s2_memory_type(false, s2_type_host(cached), false),
			KVM_PGTABLE_PROT_DEVICE);
	KUNIT_EXPECT_EQ(test, s2_memory_type(false, s2_type_host(cached), true),
			KVM_PGTABLE_PROT_NORMAL_NC);
	KUNIT_EXPECT_EQ(test, s2_memory_type(false, __pgprot(0), false),
			KVM_PGTABLE_PROT_DEVICE);
	KUNIT_EXPECT_EQ(test, s2_memory_type(false, pgprot_noncached(cached), true),
			KVM_PGTABLE_PROT_NORMAL_NC);
}

static struct kunit_case s2_type_test_cases[] = {
	KUNIT_CASE(s2_type_of_ordinary_vmas_is_cacheable),
	KUNIT_CASE(s2_type_of_ram_follows_the_host),
	KUNIT_CASE(s2_type_of_what_is_not_ram_follows_the_vma),
	{}
};

static struct kunit_suite s2_type_test_suite = {
	.name = "kvm_arm64_stage2_type",
	.test_cases = s2_type_test_cases,
};

kunit_test_suite(s2_type_test_suite);
