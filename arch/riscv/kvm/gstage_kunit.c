// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of G-stage PTEs.
 */
#include <kunit/test.h>

#include <linux/pgtable.h>

#include "gstage.h"

/* What a guest needs, and all that it gets for memory of the default type. */
#define GSTAGE_READ	(_PAGE_PRESENT | _PAGE_READ | _PAGE_EXEC | _PAGE_USER | \
			 _PAGE_ACCESSED | _PAGE_DIRTY)
#define GSTAGE_WRITE	(GSTAGE_READ | _PAGE_WRITE)

#define GSTAGE_PFN	0x12345UL

/* The bits of a G-stage PTE for memory that the host maps with @prot. */
static unsigned long gstage_bits(bool writable, pgprot_t prot)
{
	pgprot_t host = pte_pgprot(pfn_pte(GSTAGE_PFN, prot));

	return pgprot_val(gstage_pgprot(writable, host));
}

static void gstage_permissions_are_those_of_the_guest(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, pgprot_val(gstage_pgprot(false, __pgprot(0))),
			GSTAGE_READ);
	KUNIT_EXPECT_EQ(test, pgprot_val(gstage_pgprot(true, __pgprot(0))),
			GSTAGE_WRITE);
}

static void gstage_only_the_memory_type_comes_from_the_host(struct kunit *test)
{
	const pgprot_t all = __pgprot(~0UL);

	KUNIT_EXPECT_EQ(test, pgprot_val(gstage_pgprot(false, all)),
			GSTAGE_READ | _PAGE_MTMASK);
	KUNIT_EXPECT_EQ(test, pgprot_val(gstage_pgprot(true, all)),
			GSTAGE_WRITE | _PAGE_MTMASK);
	KUNIT_EXPECT_EQ(test, gstage_bits(false, PAGE_KERNEL) & ~_PAGE_MTMASK,
			GSTAGE_READ);
}

static void gstage_default_memory_type_is_kept(struct kunit *test)
{
	pgprot_t prot = gstage_pgprot(true, __pgprot(0));
	pgprot_t host = __pgprot(gstage_bits(true, PAGE_SHARED));

	KUNIT_EXPECT_EQ(test, pte_val(pfn_pte(GSTAGE_PFN, host)),
			pte_val(pfn_pte(GSTAGE_PFN, prot)));
}

static void gstage_io_and_write_combined_memory_stay_so(struct kunit *test)
{
	if (!_PAGE_MTMASK)
		kunit_skip(test, "no Svpbmt, PTEs have no memory type");

	KUNIT_EXPECT_NE(test, _PAGE_IO, _PAGE_NOCACHE);
	KUNIT_EXPECT_EQ(test, gstage_bits(false, pgprot_noncached(PAGE_SHARED)),
			GSTAGE_READ | _PAGE_IO);
	KUNIT_EXPECT_EQ(test, gstage_bits(true, pgprot_noncached(PAGE_SHARED)),
			GSTAGE_WRITE | _PAGE_IO);
	KUNIT_EXPECT_EQ(test, gstage_bits(false, pgprot_writecombine(PAGE_SHARED)),
			GSTAGE_READ | _PAGE_NOCACHE);
	KUNIT_EXPECT_EQ(test, gstage_bits(true, pgprot_writecombine(PAGE_SHARED)),
			GSTAGE_WRITE | _PAGE_NOCACHE);
}

static struct kunit_case gstage_test_cases[] = {
	KUNIT_CASE(gstage_permissions_are_those_of_the_guest),
	KUNIT_CASE(gstage_only_the_memory_type_comes_from_the_host),
	KUNIT_CASE(gstage_default_memory_type_is_kept),
	KUNIT_CASE(gstage_io_and_write_combined_memory_stay_so),
	{}
};

static struct kunit_suite gstage_test_suite = {
	.name = "kvm_riscv_gstage",
	.test_cases = gstage_test_cases,
};

kunit_test_suite(gstage_test_suite);
