// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of gfn_to_pfn() and its kin.  Their callers cannot be run
 * everywhere, so verify here that they get what they got from Linux 6.12.
 */
#include <kunit/test.h>

#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_gfn_to_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/signal.h>

#include "kunit_memory.h"

/* Which of the pages of a kind shall be mapped, and with a reference. */
struct g2p_kind {
	const struct kfp_kind *kind;
	bool maps_head;
	bool maps_tail;
	bool is_refcounted;
};

static const struct g2p_kind g2p_kinds[] = {
	/*			  head   tail   refcounted */
	{ &kfp_single,		  true,  true,  true },
	{ &kfp_mixedmap,	  true,  true,  true },
	/* The reference of get_user_pages() must not be leaked. */
	{ &kfp_mixedmap_reserved, true,  true,  false },
	{ &kfp_pfnmap_single,	  true,  true,  true },
	/* The tails have nothing that can be counted. */
	{ &kfp_pfnmap,		  true,  false, true },
	{ &kfp_pfnmap_reserved,	  true,  true,  false },
	{ &kfp_pageless,	  true,  true,  false },
};

static void g2p_kind_desc(const struct g2p_kind *k, char *desc)
{
	strscpy(desc, k->kind->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(g2p, g2p_kinds, g2p_kind_desc);

/* What is asked, but for the slot and the gfn. */
struct g2p_args {
	bool atomic;
	bool interruptible;
	bool write;
};

static kvm_pfn_t g2p(struct kunit *test, int index, struct g2p_args args,
		     bool *async, bool *writable, hva_t *hva)
{
	struct kfp_env *env = test->priv;

	return __gfn_to_pfn_memslot(&env->slot, KFP_GFN + index, args.atomic,
				    args.interruptible, async, args.write,
				    writable, hva);
}

static kvm_pfn_t g2p_read(struct kunit *test, int index)
{
	return g2p(test, index, (struct g2p_args) {}, NULL, NULL, NULL);
}

static kvm_pfn_t g2p_write(struct kunit *test, int index)
{
	return g2p(test, index, (struct g2p_args) { .write = true }, NULL, NULL,
		   NULL);
}

/* Take and release what is behind one page of the mapping. */
static void g2p_expect_balance(struct kunit *test, int index, bool write,
			       bool dirty, bool refcounted)
{
	struct kfp_env *env = test->priv;
	struct page *page = env->mem.page[index];
	int count = page ? page_ref_count(page) : 0;
	kvm_pfn_t pfn;

	pfn = write ? g2p_write(test, index) : g2p_read(test, index);
	KUNIT_ASSERT_EQ(test, pfn, env->mem.pfn[index]);
	if (page) {
		KUNIT_EXPECT_EQ(test, page_ref_count(page), count + refcounted);
		kfp_unmark(page);
	}

	if (dirty)
		kvm_release_pfn_dirty(pfn);
	else
		kvm_release_pfn_clean(pfn);
	if (page) {
		KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
		KUNIT_EXPECT_EQ(test, kfp_is_referenced(page), refcounted);
		KUNIT_EXPECT_EQ(test, PageDirty(page), dirty && refcounted);
	}
}

KFP_TEST(g2p_reference_is_what_the_page_looks_like)
{
	const struct g2p_kind *k = test->param_value;
	struct kfp_pages_state before;
	int i;

	/* The parameter is for callers that say what they do. */
	kvm_allow_unsafe_mappings = false;
	kfp_map_shared(test, k->kind);

	for (i = 0; i < KFP_PAGES; i++) {
		if (i ? k->maps_tail : k->maps_head) {
			/* The mapping itself takes a reference, too. */
			kvm_release_pfn_clean(g2p_write(test, i));
			g2p_expect_balance(test, i, false, false, k->is_refcounted);
			g2p_expect_balance(test, i, false, true, k->is_refcounted);
			g2p_expect_balance(test, i, true, false, k->is_refcounted);
			g2p_expect_balance(test, i, true, true, k->is_refcounted);
			continue;
		}

		before = kfp_pages_state(test);
		KUNIT_EXPECT_EQ(test, g2p_read(test, i), KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, g2p_write(test, i), KVM_PFN_ERR_FAULT);
		kfp_expect_untouched(test, &before);
	}
}

KFP_TEST(g2p_reference_to_the_zero_page_is_released)
{
	kvm_pfn_t pfn;
	int count;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	/* Have the zero page mapped. */
	kvm_release_pfn_clean(g2p_read(test, 0));

	count = page_ref_count(ZERO_PAGE(0));
	pfn = g2p_read(test, 0);
	KUNIT_ASSERT_TRUE(test, is_zero_pfn(pfn));
	KUNIT_EXPECT_EQ(test, page_ref_count(ZERO_PAGE(0)), count + 1);
	kvm_release_pfn_dirty(pfn);
	KUNIT_EXPECT_EQ(test, page_ref_count(ZERO_PAGE(0)), count);
	KUNIT_EXPECT_FALSE(test, PageDirty(ZERO_PAGE(0)));
}

KFP_TEST(g2p_read_is_writable_if_asked_and_possible)
{
	struct kfp_env *env = test->priv;
	bool writable = false;
	hva_t hva = 0;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	kfp_touch(test, 0);

	kvm_release_pfn_clean(g2p(test, 0, (struct g2p_args) {}, NULL, &writable, &hva));
	KUNIT_EXPECT_TRUE(test, writable);
	KUNIT_EXPECT_EQ(test, hva, kfp_hva(test, 0));

	/* The zero page is not. */
	kvm_release_pfn_clean(g2p(test, 1, (struct g2p_args) {}, NULL, &writable, NULL));
	KUNIT_EXPECT_FALSE(test, writable);
	kvm_release_pfn_clean(g2p(test, 1, (struct g2p_args) { .write = true },
				  NULL, &writable, NULL));
	KUNIT_EXPECT_TRUE(test, writable);

	env->slot.flags = KVM_MEM_READONLY;
	kvm_release_pfn_clean(g2p(test, 0, (struct g2p_args) {}, NULL, &writable, &hva));
	KUNIT_EXPECT_FALSE(test, writable);
	KUNIT_EXPECT_EQ(test, hva, kfp_hva(test, 0));
}

KFP_TEST(g2p_read_of_pfnmap_is_writable_if_asked)
{
	struct kfp_env *env = test->priv;
	bool writable = false;

	kfp_map_shared(test, &kfp_pageless);
	KUNIT_EXPECT_EQ(test, g2p(test, 1, (struct g2p_args) {}, NULL, &writable, NULL),
			env->mem.pfn[1]);
	KUNIT_EXPECT_TRUE(test, writable);
}

KFP_TEST(g2p_slot_without_memory_is_noslot_and_its_hva_is_bad)
{
	struct kfp_env *env = test->priv;
	bool writable = true;
	hva_t hva = 0;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);

	KUNIT_EXPECT_EQ(test, __gfn_to_pfn_memslot(NULL, KFP_GFN, false, false, NULL,
						   false, &writable, &hva),
			KVM_PFN_NOSLOT);
	KUNIT_EXPECT_FALSE(test, writable);
	KUNIT_EXPECT_EQ(test, hva, KVM_HVA_ERR_BAD);

	env->slot.flags = KVM_MEMSLOT_INVALID;
	writable = true;
	hva = 0;
	KUNIT_EXPECT_EQ(test, g2p(test, 0, (struct g2p_args) {}, NULL, &writable, &hva),
			KVM_PFN_NOSLOT);
	KUNIT_EXPECT_FALSE(test, writable);
	KUNIT_EXPECT_EQ(test, hva, KVM_HVA_ERR_BAD);

	KUNIT_EXPECT_EQ(test, gfn_to_pfn_memslot(NULL, KFP_GFN), KVM_PFN_NOSLOT);
	kvm_release_pfn_clean(KVM_PFN_NOSLOT);
	kvm_release_pfn_dirty(KVM_PFN_ERR_FAULT);
}

KFP_TEST(g2p_write_to_read_only_slot_is_ro_fault_and_so_is_its_hva)
{
	struct kfp_env *env = test->priv;
	bool writable = true;
	hva_t hva = 0;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	env->slot.flags = KVM_MEM_READONLY;

	KUNIT_EXPECT_EQ(test, g2p(test, 0, (struct g2p_args) { .write = true },
				  NULL, &writable, &hva),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_FALSE(test, writable);
	KUNIT_EXPECT_EQ(test, hva, KVM_HVA_ERR_RO_BAD);
}

KFP_TEST(g2p_error_of_a_fault_handler_is_passed_on)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);
	env->mem.nr_replies = 2;
	env->mem.reply = VM_FAULT_HWPOISON;
	KUNIT_EXPECT_EQ(test, g2p_write(test, 0), KVM_PFN_ERR_HWPOISON);

	env->mem.nr_replies = 2;
	env->mem.reply = VM_FAULT_SIGBUS;
	KUNIT_EXPECT_EQ(test, g2p_write(test, 0), KVM_PFN_ERR_FAULT);
}

KFP_TEST(g2p_async_says_that_the_lookup_would_wait)
{
	struct kfp_env *env = test->priv;
	bool async = false;

	kfp_map_shared(test, &kfp_single);
	env->mem.reply = VM_FAULT_RETRY;
	env->mem.nr_replies = 1;

	KUNIT_EXPECT_EQ(test, g2p(test, 0, (struct g2p_args) { .write = true },
				  &async, NULL, NULL),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_TRUE(test, async);

	async = false;
	KUNIT_EXPECT_EQ(test, g2p(test, 0, (struct g2p_args) { .write = true },
				  &async, NULL, NULL),
			env->mem.pfn[0]);
	KUNIT_EXPECT_FALSE(test, async);
	kvm_release_pfn_clean(env->mem.pfn[0]);

	/* The caller's value is left alone otherwise. */
	async = true;
	KUNIT_EXPECT_EQ(test, g2p(test, 0, (struct g2p_args) { .write = true },
				  &async, NULL, NULL),
			env->mem.pfn[0]);
	KUNIT_EXPECT_TRUE(test, async);
	kvm_release_pfn_clean(env->mem.pfn[0]);
}

KFP_TEST(g2p_atomic_faults_nothing_in)
{
	const struct g2p_args args = { .atomic = true, .write = true };
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, g2p(test, 0, args, NULL, NULL, NULL),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 0);

	kfp_touch(test, 0);
	KUNIT_EXPECT_EQ(test, g2p(test, 0, args, NULL, NULL, NULL),
			env->mem.pfn[0]);
	kvm_release_pfn_clean(env->mem.pfn[0]);
}

KFP_TEST(g2p_only_an_interruptible_lookup_ends_with_a_signal)
{
	const struct g2p_args args = { .interruptible = true, .write = true };
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);
	allow_signal(SIGUSR1);
	env->mem.signal = SIGUSR1;
	env->mem.reply = VM_FAULT_RETRY;

	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, g2p(test, 0, args, NULL, NULL, NULL),
			KVM_PFN_ERR_SIGPENDING);
	flush_signals(current);

	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, g2p_write(test, 0), env->mem.pfn[0]);
	kvm_release_pfn_clean(env->mem.pfn[0]);
	flush_signals(current);
	disallow_signal(SIGUSR1);
}

KFP_TEST(g2p_slot_is_found_by_gfn)
{
	struct kfp_env *env = test->priv;
	bool writable = false;
	struct page *page;

	kfp_map_shared(test, &kfp_single);
	kfp_add_slot(test, &env->slot);

	KUNIT_EXPECT_EQ(test, gfn_to_pfn(env->kvm, KFP_GFN + 2), env->mem.pfn[2]);
	kvm_release_pfn_clean(env->mem.pfn[2]);
	KUNIT_EXPECT_EQ(test, gfn_to_pfn_prot(env->kvm, KFP_GFN + 2, false, &writable),
			env->mem.pfn[2]);
	KUNIT_EXPECT_TRUE(test, writable);
	kvm_release_pfn_clean(env->mem.pfn[2]);
	KUNIT_EXPECT_EQ(test, gfn_to_pfn_memslot(&env->slot, KFP_GFN + 2),
			env->mem.pfn[2]);
	kvm_release_pfn_clean(env->mem.pfn[2]);

	page = gfn_to_page(env->kvm, KFP_GFN + 2);
	KUNIT_EXPECT_PTR_EQ(test, page, env->mem.page[2]);
	/* Of the allocation, the mapping, and gfn_to_page(). */
	KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[2]), 3);
	put_page(env->mem.page[2]);

	KUNIT_EXPECT_EQ(test, gfn_to_pfn(env->kvm, KFP_GFN - 1), KVM_PFN_NOSLOT);
	KUNIT_EXPECT_TRUE(test, is_error_page(gfn_to_page(env->kvm, KFP_GFN - 1)));
}

/* Whether the lookup of a page has written to it, having released the page. */
static bool g2p_has_written(kvm_pfn_t pfn)
{
	bool written = !is_error_noslot_pfn(pfn) && !is_zero_pfn(pfn);

	kvm_release_pfn_clean(pfn);
	return written;
}

KFP_TEST(g2p_lookup_by_gfn_writes_unless_told_otherwise)
{
	struct kfp_env *env = test->priv;
	bool writable = true;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	kfp_add_slot(test, &env->slot);

	KUNIT_EXPECT_TRUE(test, g2p_has_written(gfn_to_pfn(env->kvm, KFP_GFN)));
	KUNIT_EXPECT_TRUE(test, g2p_has_written(gfn_to_pfn_memslot(&env->slot,
								   KFP_GFN + 1)));
	KUNIT_EXPECT_FALSE(test, g2p_has_written(gfn_to_pfn_prot(env->kvm, KFP_GFN + 2,
								 false, &writable)));
	KUNIT_EXPECT_FALSE(test, writable);
	KUNIT_EXPECT_TRUE(test, g2p_has_written(gfn_to_pfn_prot(env->kvm, KFP_GFN + 2,
								true, &writable)));
	KUNIT_EXPECT_TRUE(test, writable);
}

KFP_TEST(g2p_page_is_refcounted_or_an_error)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_pfnmap_single);
	kfp_add_slot(test, &env->slot);
	KUNIT_EXPECT_PTR_EQ(test, gfn_to_page(env->kvm, KFP_GFN), env->mem.page[0]);
	KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[0]), 2);
	put_page(env->mem.page[0]);

	SetPageReserved(env->mem.page[0]);
	KUNIT_EXPECT_TRUE(test, is_error_page(gfn_to_page(env->kvm, KFP_GFN)));
	KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[0]), 1);
}

KFP_TEST(g2p_page_of_memory_without_pages_is_an_error)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_pageless);
	kfp_add_slot(test, &env->slot);
	KUNIT_EXPECT_TRUE(test, is_error_page(gfn_to_page(env->kvm, KFP_GFN)));
}

KFP_TEST(g2p_set_marks_pages_that_are_not_reserved)
{
	struct kfp_env *env = test->priv;
	struct page *page;

	kfp_alloc_memory(test, &kfp_single);
	page = env->mem.page[0];

	kvm_set_pfn_accessed(env->mem.pfn[0]);
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_FALSE(test, PageDirty(page));
	kfp_unmark(page);
	kvm_set_pfn_dirty(env->mem.pfn[0]);
	KUNIT_EXPECT_FALSE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_TRUE(test, PageDirty(page));

	kfp_unmark(page);
	SetPageReserved(page);
	kvm_set_pfn_accessed(env->mem.pfn[0]);
	kvm_set_pfn_dirty(env->mem.pfn[0]);
	KUNIT_EXPECT_FALSE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_FALSE(test, PageDirty(page));
	ClearPageReserved(page);
}

static void g2p_set_ignores_memory_without_pages(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	kfp_alloc_memory(test, &kfp_pageless);
	kvm_set_pfn_accessed(env->mem.pfn[0]);
	kvm_set_pfn_dirty(env->mem.pfn[0]);
}

#ifdef CONFIG_ZONE_DEVICE
static void g2p_reserved_page_of_zone_device_is_refcounted(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	enum zone_type zone;
	struct page *page;

	kfp_alloc_memory(test, &kfp_mixedmap_reserved);
	page = env->mem.page[0];
	zone = page_zonenum(page);
	KUNIT_EXPECT_NULL(test, kvm_pfn_to_refcounted_page(env->mem.pfn[0]));

	/* Put no reference meanwhile: that needs a pgmap. */
	set_page_zone(page, ZONE_DEVICE);
	KUNIT_EXPECT_PTR_EQ(test, kvm_pfn_to_refcounted_page(env->mem.pfn[0]), page);
	set_page_zone(page, zone);
}
#endif

static struct kunit_case g2p_test_cases[] = {
	KUNIT_CASE_PARAM(g2p_reference_is_what_the_page_looks_like, g2p_gen_params),
	KUNIT_CASE(g2p_reference_to_the_zero_page_is_released),
	KUNIT_CASE(g2p_read_is_writable_if_asked_and_possible),
	KUNIT_CASE(g2p_read_of_pfnmap_is_writable_if_asked),
	KUNIT_CASE(g2p_slot_without_memory_is_noslot_and_its_hva_is_bad),
	KUNIT_CASE(g2p_write_to_read_only_slot_is_ro_fault_and_so_is_its_hva),
	KUNIT_CASE(g2p_error_of_a_fault_handler_is_passed_on),
	KUNIT_CASE(g2p_async_says_that_the_lookup_would_wait),
	KUNIT_CASE(g2p_atomic_faults_nothing_in),
	KUNIT_CASE(g2p_only_an_interruptible_lookup_ends_with_a_signal),
	KUNIT_CASE(g2p_slot_is_found_by_gfn),
	KUNIT_CASE(g2p_lookup_by_gfn_writes_unless_told_otherwise),
	KUNIT_CASE(g2p_page_is_refcounted_or_an_error),
	KUNIT_CASE(g2p_page_of_memory_without_pages_is_an_error),
	KUNIT_CASE(g2p_set_marks_pages_that_are_not_reserved),
	KUNIT_CASE(g2p_set_ignores_memory_without_pages),
#ifdef CONFIG_ZONE_DEVICE
	KUNIT_CASE(g2p_reserved_page_of_zone_device_is_refcounted),
#endif
	{}
};

static struct kunit_suite g2p_test_suite = {
	.name = "kvm_gfn_to_pfn",
	.init = kfp_env_init,
	.exit = kfp_env_exit,
	.test_cases = g2p_test_cases,
};

kunit_test_suite(g2p_test_suite);
