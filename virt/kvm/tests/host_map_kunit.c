// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the mappings of guest memory for KVM itself: kvm_vcpu_map() and,
 * where there is one, gfn_to_pfn_cache.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>

#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "../kvm_mm.h"
#include "kunit_memory.h"

#define HM_MAX_MAPPED		4
/* Not zero, to see that it is kept. */
#define HM_OFFSET		0x128
#define HM_BAD_KHVA		((void *)(0xbadUL << PAGE_SHIFT))

struct hm_mapped {
	kvm_pfn_t pfn;
	void *khva;
};

static struct {
	struct kvm_vcpu *vcpu;
	unsigned long dirty_bitmap[BITS_TO_LONGS(KFP_PAGES)];

	/* What kvm_map_pfn() has mapped and kvm_unmap_pfn() has not unmapped. */
	struct hm_mapped mapped[HM_MAX_MAPPED];
	unsigned int nr_mapped;

	/* Calls that succeeded. */
	unsigned int maps;
	unsigned int unmaps;

	bool fail_to_map;

	/* What happens, once, before a guarded lookup, and when it is done. */
	void (*before_lookup)(struct kunit *test);
	void (*after_lookup)(struct kunit *test);
} hm;

/* Replacements of functions of KVM. */

static void hm_call_once(void (**fn)(struct kunit *test))
{
	void (*call)(struct kunit *test) = *fn;

	*fn = NULL;
	if (call)
		call(kunit_get_current_test());
}

static bool hm_can_be_guarded(void)
{
	hm_call_once(&hm.before_lookup);

	return true;
}

/* The address of each mapping is another one, and nobody accesses it. */
static void *hm_map_pfn(kvm_pfn_t pfn)
{
	struct kunit *test = kunit_get_current_test();
	struct hm_mapped *mapped;

	hm_call_once(&hm.after_lookup);
	if (hm.fail_to_map)
		return NULL;

	KUNIT_ASSERT_LT(test, hm.nr_mapped, HM_MAX_MAPPED);
	hm.maps++;
	mapped = &hm.mapped[hm.nr_mapped++];
	mapped->pfn = pfn;
	mapped->khva = (void *)((unsigned long)hm.maps << PAGE_SHIFT);

	return mapped->khva;
}

static void hm_unmap_pfn(kvm_pfn_t pfn, void *khva)
{
	struct kunit *test = kunit_get_current_test();
	struct hm_mapped *mapped;
	int i;

	for (i = 0; i < hm.nr_mapped; i++) {
		mapped = &hm.mapped[i];
		if (mapped->pfn != pfn || mapped->khva != khva)
			continue;
		*mapped = hm.mapped[--hm.nr_mapped];
		hm.unmaps++;
		return;
	}

	KUNIT_FAIL(test, "pfn %#llx is not mapped where it is unmapped", pfn);
}

static void hm_use_real_mappings(struct kunit *test)
{
	kunit_deactivate_static_stub(test, kvm_map_pfn);
	kunit_deactivate_static_stub(test, kvm_unmap_pfn);
}

/* What is true of the memory of all tests. */

static void hm_touch_all(struct kunit *test)
{
	int i;

	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);
}

/* Map pages that are present, so that no page table takes another reference. */
static void hm_map_present(struct kunit *test, const struct kfp_kind *kind)
{
	kfp_map_shared(test, kind);
	if (kind->source != KFP_PAGELESS)
		hm_touch_all(test);
}

static void hm_unmark_all(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	int i;

	for (i = 0; i < KFP_PAGES && env->mem.page[i]; i++)
		kfp_unmark(env->mem.page[i]);
}

static void hm_expect_none_dirty(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	int i;

	for (i = 0; i < KFP_PAGES && env->mem.page[i]; i++)
		KUNIT_EXPECT_FALSE_MSG(test, PageDirty(env->mem.page[i]),
				       "of page %d", i);
}

/* Which gfns have been marked dirty since the last call. */
static unsigned long hm_dirty_gfns(void)
{
	unsigned long dirty = 0;
	int i;

	for (i = 0; i < KFP_PAGES; i++)
		if (test_and_clear_bit_le(i, hm.dirty_bitmap))
			dirty |= BIT(i);

	return dirty;
}

/* kvm_vcpu_map(). */

static const struct kfp_kind *const hm_refcounted_kinds[] = {
	&kfp_single, &kfp_compound, &kfp_mixedmap,
};

static const struct kfp_kind *const hm_remapped_kinds[] = {
	&kfp_pfnmap, &kfp_pfnmap_single, &kfp_pfnmap_compound,
	&kfp_pfnmap_reserved, &kfp_pageless,
};

KUNIT_ARRAY_PARAM(hm_refcounted, hm_refcounted_kinds, kfp_kind_desc);
KUNIT_ARRAY_PARAM(hm_remapped, hm_remapped_kinds, kfp_kind_desc);

static const struct kfp_kind *hm_param_kind(struct kunit *test)
{
	return *(const struct kfp_kind *const *)test->param_value;
}

/* What must not survive an attempt to map, be it successful or not. */
static struct kvm_host_map hm_garbage(void)
{
	return (struct kvm_host_map) {
		.hva = HM_BAD_KHVA,
		.pfn = 0xdead,
		.gfn = KFP_GFN,
		.writable = true,
		.page = ZERO_PAGE(0),
		.hold = KVM_PFN_HOLD_PIN,
	};
}

static int hm_map_gfn(gfn_t gfn, bool write, struct kvm_host_map *map)
{
	*map = hm_garbage();

	return write ? kvm_vcpu_map(hm.vcpu, gfn, map) :
		       kvm_vcpu_map_readonly(hm.vcpu, gfn, map);
}

static struct kvm_host_map hm_map(struct kunit *test, int index, bool write)
{
	struct kvm_host_map map;

	KUNIT_ASSERT_EQ(test, 0, hm_map_gfn(KFP_GFN + index, write, &map));
	KUNIT_EXPECT_TRUE(test, kvm_vcpu_mapped(&map));
	KUNIT_EXPECT_PTR_EQ(test, map.hva, hm.mapped[hm.nr_mapped - 1].khva);
	KUNIT_EXPECT_EQ(test, map.gfn, KFP_GFN + index);
	KUNIT_EXPECT_EQ(test, map.writable, write);

	return map;
}

static void hm_expect_unmapped(struct kunit *test, struct kvm_host_map *map)
{
	KUNIT_EXPECT_EQ(test, hm.nr_mapped, 0);
	KUNIT_EXPECT_FALSE(test, kvm_vcpu_mapped(map));
	KUNIT_EXPECT_NULL(test, map->page);
	KUNIT_EXPECT_EQ(test, map->hold, KVM_PFN_HOLD_NONE);
}

/* Unmap, and once more, which is to do nothing. */
static void hm_unmap(struct kunit *test, struct kvm_host_map *map)
{
	unsigned int unmaps = hm.unmaps;
	int i;

	for (i = 0; i < 2; i++) {
		kvm_vcpu_unmap(hm.vcpu, map);
		KUNIT_EXPECT_EQ(test, hm.unmaps, unmaps + 1);
		hm_expect_unmapped(test, map);
	}
}

static void hm_expect_fails(struct kunit *test, gfn_t gfn, bool write, int err)
{
	struct kfp_pages_state before = kfp_pages_state(test);
	unsigned int maps = hm.maps;
	struct kvm_host_map map;

	KUNIT_EXPECT_EQ_MSG(test, hm_map_gfn(gfn, write, &map), err, "write %d", write);
	hm_expect_unmapped(test, &map);
	kvm_vcpu_unmap(hm.vcpu, &map);
	hm_expect_unmapped(test, &map);

	KUNIT_EXPECT_EQ(test, hm.maps, maps);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
	kfp_expect_counts(test, &before, 0);
}

static void hm_expect_refused(struct kunit *test, int index, bool write)
{
	hm_expect_fails(test, KFP_GFN + index, write, -EINVAL);
}

/* The references to a folio that a pin consists of. */
static int hm_pin_refs(struct folio *folio)
{
	return folio_test_large(folio) ? 1 : GUP_PIN_COUNTING_BIAS;
}

KFP_TEST(hm_map_pins_until_unmap)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_host_map map;
	struct folio *folio;
	int i, write, count;

	hm_map_present(test, hm_param_kind(test));
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		folio = page_folio(env->mem.page[i]);
		count = folio_ref_count(folio);
		for (write = 0; write <= 1; write++) {
			map = hm_map(test, i, write);
			KUNIT_EXPECT_EQ(test, map.pfn, env->mem.pfn[i]);
			KUNIT_EXPECT_EQ(test, hm.nr_mapped, 1);
			KUNIT_EXPECT_EQ(test, folio_ref_count(folio),
					count + hm_pin_refs(folio));
			KUNIT_EXPECT_TRUE(test, kfp_is_pinned(env->mem.page[i]));

			hm_unmap(test, &map);
			KUNIT_EXPECT_FALSE(test, kfp_is_pinned(env->mem.page[i]));
			kfp_expect_counts(test, &before, 0);
		}
	}
}

KFP_TEST(hm_maps_are_independent)
{
	struct kfp_env *env = test->priv;
	struct kvm_host_map maps[3];
	struct page *page;
	int count;

	hm_map_present(test, &kfp_single);
	page = env->mem.page[1];
	count = page_ref_count(page);

	maps[0] = hm_map(test, 1, true);
	maps[1] = hm_map(test, 1, false);
	maps[2] = hm_map(test, 2, true);
	KUNIT_EXPECT_EQ(test, hm.nr_mapped, 3);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count + 2 * GUP_PIN_COUNTING_BIAS);

	kvm_vcpu_unmap(hm.vcpu, &maps[0]);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), BIT(1));
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count + GUP_PIN_COUNTING_BIAS);
	KUNIT_EXPECT_TRUE(test, kvm_vcpu_mapped(&maps[1]));
	kvm_vcpu_unmap(hm.vcpu, &maps[2]);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), BIT(2));
	kvm_vcpu_unmap(hm.vcpu, &maps[1]);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
	KUNIT_EXPECT_EQ(test, hm.nr_mapped, 0);
}

KFP_TEST(hm_map_is_the_memory_of_the_guest)
{
	struct kvm_host_map map;
	u8 __user *hva;
	u8 val = 0;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	hva = (u8 __user *)kfp_hva(test, 2) + HM_OFFSET;
	hm_use_real_mappings(test);

	KUNIT_ASSERT_EQ(test, 0, hm_map_gfn(KFP_GFN + 2, true, &map));
	*(u8 *)(map.hva + HM_OFFSET) = 0x11;
	KUNIT_EXPECT_EQ(test, 0, get_user(val, hva));
	KUNIT_EXPECT_EQ(test, val, 0x11);
	kvm_vcpu_unmap(hm.vcpu, &map);

	KUNIT_EXPECT_EQ(test, 0, put_user(0x22, hva));
	KUNIT_ASSERT_EQ(test, 0, hm_map_gfn(KFP_GFN + 2, false, &map));
	KUNIT_EXPECT_EQ(test, *(u8 *)(map.hva + HM_OFFSET), 0x22);
	kvm_vcpu_unmap(hm.vcpu, &map);
}

KFP_TEST(hm_map_faults_memory_in)
{
	struct kfp_env *env = test->priv;
	struct kvm_host_map map;

	kfp_map_shared(test, &kfp_single);
	map = hm_map(test, 0, false);
	KUNIT_EXPECT_EQ(test, map.pfn, env->mem.pfn[0]);
	hm_unmap(test, &map);
	map = hm_map(test, 1, true);
	KUNIT_EXPECT_EQ(test, map.pfn, env->mem.pfn[1]);
	hm_unmap(test, &map);

	/* Of the allocation and of the page table. */
	KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[0]), 2);
	KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[1]), 2);
}

KFP_TEST(hm_readonly_map_of_untouched_anon_memory_is_the_zero_page)
{
	int count = page_ref_count(ZERO_PAGE(0));
	struct kvm_host_map map;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	map = hm_map(test, 0, false);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(map.pfn));
	hm_unmap(test, &map);
	KUNIT_EXPECT_EQ(test, page_ref_count(ZERO_PAGE(0)), count);

	map = hm_map(test, 0, true);
	KUNIT_EXPECT_FALSE(test, is_zero_pfn(map.pfn));
	hm_unmap(test, &map);
	KUNIT_EXPECT_FALSE(test, PageDirty(ZERO_PAGE(0)));
}

KFP_TEST(hm_unmap_marks_what_could_be_written)
{
	struct kfp_env *env = test->priv;
	struct kvm_host_map map;
	struct page *page;

	hm_map_present(test, &kfp_single);
	page = env->mem.page[2];

	map = hm_map(test, 2, true);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
	hm_unmark_all(test);
	hm_unmap(test, &map);
	KUNIT_EXPECT_TRUE(test, PageDirty(page));
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), BIT(2));

	map = hm_map(test, 2, false);
	hm_unmark_all(test);
	hm_unmap(test, &map);
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
	hm_expect_none_dirty(test);
}

static void hm_unmap_atomic(struct kunit *test, struct kvm_host_map *map)
{
	preempt_disable();
	kvm_vcpu_unmap_atomic(hm.vcpu, map);
	preempt_enable();
	hm_expect_unmapped(test, map);
}

/* Unmap page 1 after a write, without sleeping. */
static void hm_write_atomic(struct kunit *test)
{
	struct kvm_host_map map = hm_map(test, 1, true);

	hm_unmark_all(test);
	hm_unmap_atomic(test, &map);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), BIT(1));
}

/* Who has locked the page cannot be waited for. */
KFP_TEST(hm_unmap_atomic_tells_the_file_unless_the_page_is_locked)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_host_map map;
	struct page *page;

	hm_map_present(test, &kfp_single);
	before = kfp_pages_state(test);
	page = env->mem.page[1];
	kfp_own(env, page);

	map = hm_map(test, 1, false);
	hm_unmark_all(test);
	hm_unmap_atomic(test, &map);
	KUNIT_EXPECT_EQ(test, env->owner.told, 0);
	KUNIT_EXPECT_FALSE(test, PageDirty(page));
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);

	if (!IS_ENABLED(CONFIG_PREEMPT_RT)) {
		hm_write_atomic(test);
		KUNIT_EXPECT_EQ(test, env->owner.told, 1);
		KUNIT_EXPECT_EQ(test, env->owner.told_locked, 1);
		KUNIT_EXPECT_TRUE(test, PageDirty(page));
		KUNIT_EXPECT_TRUE(test, kfp_is_referenced(page));
	}

	/* The flag alone would keep the file from being told of later writes. */
	env->owner.told = 0;
	lock_page(page);
	hm_write_atomic(test);
	KUNIT_EXPECT_EQ(test, env->owner.told, 0);
	KUNIT_EXPECT_FALSE(test, PageDirty(page));

	/* For memory that swap backs, the flag is all there is. */
	folio_set_swapbacked(page_folio(page));
	hm_write_atomic(test);
	folio_clear_swapbacked(page_folio(page));
	unlock_page(page);
	KUNIT_EXPECT_EQ(test, env->owner.told, 0);
	KUNIT_EXPECT_TRUE(test, PageDirty(page));

	kfp_disown(env);
	kfp_expect_counts(test, &before, 0);
}

KFP_TEST(hm_unmap_of_nothing_does_nothing)
{
	struct kvm_host_map map = {};

	hm_map_present(test, &kfp_single);
	kvm_vcpu_unmap(hm.vcpu, &map);
	kvm_vcpu_unmap_atomic(hm.vcpu, &map);
	hm_expect_unmapped(test, &map);
	KUNIT_EXPECT_EQ(test, hm.unmaps, 0);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
}

KFP_TEST(hm_readonly_map_needs_no_permission_to_write)
{
	struct kfp_env *env = test->priv;
	struct kvm_host_map map;

	kfp_alloc_memory(test, &kfp_single);
	kfp_map_memory(test, PROT_READ, MAP_SHARED);
	map = hm_map(test, 0, false);
	hm_unmark_all(test);
	hm_unmap(test, &map);
	hm_expect_none_dirty(test);
	hm_expect_refused(test, 0, true);
	hm_expect_none_dirty(test);

	kfp_drop_memory(test);
	hm_map_present(test, &kfp_single);
	env->slot.flags |= KVM_MEM_READONLY;
	map = hm_map(test, 0, false);
	hm_unmark_all(test);
	hm_unmap(test, &map);
	hm_expect_refused(test, 0, true);
	hm_expect_none_dirty(test);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
}

KFP_TEST(hm_map_that_the_kernel_cannot_map_is_released)
{
	int write;

	hm_map_present(test, hm_param_kind(test));
	hm_unmark_all(test);
	hm.fail_to_map = true;
	for (write = 0; write <= 1; write++) {
		hm_expect_fails(test, KFP_GFN, write, -EFAULT);
		hm_expect_fails(test, KFP_GFN + 3, write, -EFAULT);
	}
	hm_expect_none_dirty(test);
}

/* Memory that cannot be mapped, the gfn being that of page 1. */

static void hm_make_hole(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 1), PAGE_SIZE));
}

static void hm_make_prot_none(struct kunit *test)
{
	kfp_map_memory(test, PROT_NONE, MAP_SHARED | MAP_FIXED);
}

static void hm_make_invalid_slot(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	env->slot.flags |= KVM_MEMSLOT_INVALID;
}

static void hm_make_no_slot(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	struct kvm_memslots *slots = kvm_memslots(env->kvm);

	slots->gfn_tree = RB_ROOT;
	atomic_long_set(&slots->last_used_slot, 0);
}

static void hm_make_poison(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED);
	env->mem.reply = VM_FAULT_HWPOISON;
	env->mem.nr_replies = 100;
}

static void hm_make_bus_error(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	hm_make_poison(test);
	env->mem.reply = VM_FAULT_SIGBUS;
}

#if defined(CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES) && defined(CONFIG_KVM_PRIVATE_MEM)
#define HM_HAS_PRIVATE

static void hm_make_private(struct kunit *test)
{
	void *attributes = xa_mk_value(KVM_MEMORY_ATTRIBUTE_PRIVATE);
	struct kfp_env *env = test->priv;

	KUNIT_ASSERT_EQ(test, 0, xa_err(xa_store(&env->kvm->mem_attr_array,
						 KFP_GFN + 1, attributes,
						 GFP_KERNEL)));
}

#endif

struct hm_bad {
	const char *name;
	void (*make)(struct kunit *test);
	/* The hva can be used. */
	bool gfn_only;
};

static const struct hm_bad hm_bads[] = {
	{ "hole", hm_make_hole },
	{ "PROT_NONE", hm_make_prot_none },
	{ "poison", hm_make_poison },
	{ "SIGBUS", hm_make_bus_error },
	{ "slot that is being deleted", hm_make_invalid_slot, true },
	{ "no slot", hm_make_no_slot, true },
#ifdef HM_HAS_PRIVATE
	{ "private gfn", hm_make_private, true },
#endif
};

KUNIT_ARRAY_PARAM_DESC(hm_bad, hm_bads, name);

KFP_TEST(hm_map_of_bad_memory_is_refused)
{
	const struct hm_bad *bad = test->param_value;
	struct kvm_host_map map;

	hm_map_present(test, &kfp_single);
	map = hm_map(test, 1, true);
	hm_unmap(test, &map);
	hm_dirty_gfns();

	bad->make(test);
	hm_unmark_all(test);
	hm_expect_refused(test, 1, true);
	hm_expect_refused(test, 1, false);
	hm_expect_none_dirty(test);

	/* Nor is a failure to map what is refused anyway another error. */
	hm.fail_to_map = true;
	hm_expect_refused(test, 1, true);
}

KFP_TEST(hm_remapped_memory_is_refused)
{
	struct kfp_pages_state before;
	int i;

	hm_map_present(test, hm_param_kind(test));
	kvm_allow_unsafe_mappings = false;
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		hm_expect_refused(test, i, true);
		hm_expect_refused(test, i, false);
	}
	kfp_expect_untouched(test, &before);
}

KFP_TEST(hm_remapped_memory_is_permitted_by_allow_unsafe_mappings)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_host_map map;
	int i, write;

	hm_map_present(test, hm_param_kind(test));
	kvm_allow_unsafe_mappings = true;
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		for (write = 0; write <= 1; write++) {
			map = hm_map(test, i, write);
			KUNIT_EXPECT_EQ(test, map.pfn, env->mem.pfn[i]);
			KUNIT_EXPECT_EQ(test, hm.nr_mapped, 1);
			KUNIT_EXPECT_EQ(test, map.hold, KVM_PFN_HOLD_NONE);
			kfp_expect_untouched(test, &before);
			hm_unmap(test, &map);
			KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), write ? BIT(i) : 0);
		}
		kfp_expect_untouched(test, &before);
	}

	hm.fail_to_map = true;
	hm_expect_fails(test, KFP_GFN, true, -EFAULT);
	kfp_expect_untouched(test, &before);
}

#ifdef HF_SMM_MASK
KFP_TEST(hm_map_is_that_of_the_gfn_outside_of_smm)
{
	unsigned long smm_dirty_bitmap[BITS_TO_LONGS(KFP_PAGES)] = {};
	struct kfp_env *env = test->priv;
	struct kvm_memory_slot smm_slot;
	struct kvm_host_map map;

	hm_map_present(test, &kfp_single);
	/* What is another page in SMM. */
	smm_slot = env->slot;
	smm_slot.as_id = 1;
	smm_slot.npages--;
	smm_slot.userspace_addr += PAGE_SIZE;
	smm_slot.dirty_bitmap = smm_dirty_bitmap;
	kfp_add_slot(test, &smm_slot);
	hm.vcpu->arch.hflags |= HF_SMM_MASK;
	KUNIT_ASSERT_PTR_EQ(test, kvm_vcpu_gfn_to_memslot(hm.vcpu, KFP_GFN), &smm_slot);

	map = hm_map(test, 0, true);
	KUNIT_EXPECT_EQ(test, map.pfn, env->mem.pfn[0]);
	hm_unmap(test, &map);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), BIT(0));
	KUNIT_EXPECT_TRUE(test, bitmap_empty(smm_dirty_bitmap, KFP_PAGES));
}
#endif

/* gfn_to_pfn_cache. */

#ifdef CONFIG_HAVE_KVM_PFNCACHE
#define HM_LEN		8

static struct gfn_to_pfn_cache hm_gpc;

struct hm_by {
	const char *name;
	bool hva;
};

static const struct hm_by hm_bys[] = {
	{ "by gpa" },
	{ "by hva", .hva = true },
};

KUNIT_ARRAY_PARAM_DESC(hm_by, hm_bys, name);

static bool hm_by_hva(struct kunit *test)
{
	const struct hm_by *by = test->param_value;

	return by->hva;
}

static int hm_activate_gpa(struct kunit *test, int index)
{
	return kvm_gpc_activate(&hm_gpc, gfn_to_gpa(KFP_GFN + index) + HM_OFFSET,
				HM_LEN);
}

static int hm_activate_hva(struct kunit *test, int index)
{
	return kvm_gpc_activate_hva(&hm_gpc, kfp_hva(test, index) + HM_OFFSET,
				    HM_LEN);
}

static int hm_activate(struct kunit *test, int index)
{
	return hm_by_hva(test) ? hm_activate_hva(test, index) :
				 hm_activate_gpa(test, index);
}

static int hm_refresh(void)
{
	return kvm_gpc_refresh(&hm_gpc, HM_LEN);
}

static bool hm_check(void)
{
	bool valid;

	read_lock_irq(&hm_gpc.lock);
	valid = kvm_gpc_check(&hm_gpc, HM_LEN);
	read_unlock_irq(&hm_gpc.lock);

	return valid;
}

/* What is mapped is what is cached, no more and no less. */
static void hm_expect_cached(struct kunit *test, int index)
{
	struct kfp_env *env = test->priv;

	KUNIT_EXPECT_TRUE(test, hm_check());
	KUNIT_EXPECT_EQ(test, hm_gpc.pfn, env->mem.pfn[index]);
	KUNIT_ASSERT_EQ(test, hm.nr_mapped, 1);
	KUNIT_EXPECT_EQ(test, hm.mapped[0].pfn, env->mem.pfn[index]);
	KUNIT_EXPECT_PTR_EQ(test, hm_gpc.khva, hm.mapped[0].khva + HM_OFFSET);
}

static void hm_expect_not_cached(struct kunit *test)
{
	KUNIT_EXPECT_FALSE(test, hm_check());
	KUNIT_EXPECT_FALSE(test, hm_gpc.valid);
	KUNIT_EXPECT_TRUE(test, is_error_noslot_pfn(hm_gpc.pfn));
	KUNIT_EXPECT_NULL(test, hm_gpc.khva);
	KUNIT_EXPECT_EQ(test, hm.nr_mapped, 0);
}

static void hm_deactivate(struct kunit *test)
{
	kvm_gpc_deactivate(&hm_gpc);
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm.maps, hm.unmaps);

	kvm_gpc_deactivate(&hm_gpc);
	KUNIT_EXPECT_EQ(test, hm.maps, hm.unmaps);
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EINVAL);
}

/* Do what the MMU notifier does to caches. */

static void hm_invalidate_start(struct kvm *kvm, unsigned long start, unsigned long end)
{
	kvm->mn_active_invalidate_count++;
	gfn_to_pfn_cache_invalidate_start(kvm, start, end);
}

static void hm_invalidate_end(struct kvm *kvm)
{
	kvm->mn_invalidate_seq++;
	kvm->mn_active_invalidate_count--;
}

static void hm_invalidate(struct kunit *test, int index)
{
	unsigned long hva = kfp_hva(test, index);
	struct kfp_env *env = test->priv;

	hm_invalidate_start(env->kvm, hva, hva + PAGE_SIZE);
	hm_invalidate_end(env->kvm);
}

/* Have other pages at the hvas from now on. */
static void hm_exchange(struct kunit *test, int a, int b)
{
	struct kfp_env *env = test->priv;

	swap(env->mem.page[a], env->mem.page[b]);
	swap(env->mem.pfn[a], env->mem.pfn[b]);
	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED);
	hm_touch_all(test);
	hm_unmark_all(test);
	hm_invalidate(test, a);
	hm_invalidate(test, b);
}

KFP_TEST(hm_cache_maps_and_holds_nothing)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	int i;

	hm_map_present(test, &kfp_single);
	before = kfp_pages_state(test);

	for (i = 0; i < 3; i++) {
		hm_unmark_all(test);
		KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
		hm_expect_cached(test, 1);
		kfp_expect_counts(test, &before, 0);
		KUNIT_EXPECT_TRUE(test, PageDirty(env->mem.page[1]));
		KUNIT_EXPECT_FALSE(test, PageDirty(env->mem.page[0]));

		/* What is valid is kept. */
		KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
		hm_expect_cached(test, 1);
		KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
		hm_expect_cached(test, 1);
		KUNIT_EXPECT_EQ(test, hm.maps, i + 1);

		hm_unmark_all(test);
		hm_deactivate(test);
		kfp_expect_counts(test, &before, 0);
		hm_expect_none_dirty(test);
	}
}

KFP_TEST(hm_cache_is_the_memory_of_the_guest)
{
	u8 val = 0;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	hm_use_real_mappings(test);

	KUNIT_ASSERT_EQ(test, hm_activate_gpa(test, 2), 0);
	*(u8 *)hm_gpc.khva = 0x11;
	KUNIT_EXPECT_EQ(test, 0, get_user(val, (u8 __user *)kfp_hva(test, 2) + HM_OFFSET));
	KUNIT_EXPECT_EQ(test, val, 0x11);
	kvm_gpc_deactivate(&hm_gpc);
}

KFP_TEST(hm_cache_of_remapped_memory_leaves_it_alone)
{
	struct kfp_pages_state before;
	int i;

	hm_map_present(test, hm_param_kind(test));
	/* It is not pinned, so there is nothing to permit. */
	kvm_allow_unsafe_mappings = false;
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, i), 0);
		hm_expect_cached(test, i);
		kfp_expect_untouched(test, &before);
	}
	hm_invalidate(test, KFP_PAGES - 1);
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, KFP_PAGES - 1);
	hm_deactivate(test);
	kfp_expect_untouched(test, &before);
}

KFP_TEST(hm_cache_marks_the_gfn_if_there_is_one)
{
	bool by_hva = hm_by_hva(test);

	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), 0);
	read_lock_irq(&hm_gpc.lock);
	kvm_gpc_mark_dirty_in_slot(&hm_gpc);
	read_unlock_irq(&hm_gpc.lock);
	KUNIT_EXPECT_EQ(test, hm_dirty_gfns(), by_hva ? 0 : BIT(1));
	hm_deactivate(test);
}

KFP_TEST(hm_cache_can_be_moved)
{
	struct kfp_pages_state before;

	hm_map_present(test, &kfp_single);
	before = kfp_pages_state(test);

	KUNIT_EXPECT_EQ(test, hm_activate(test, 0), 0);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 3), 0);
	hm_expect_cached(test, 3);
	KUNIT_EXPECT_EQ(test, hm.maps, 2);

	/* To the same page, by a name of the other kind. */
	KUNIT_EXPECT_EQ(test, hm_activate_hva(test, 3), 0);
	hm_expect_cached(test, 3);
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 3), 0);
	hm_expect_cached(test, 3);

	hm_deactivate(test);
	kfp_expect_counts(test, &before, 0);
}

KFP_TEST(hm_cache_is_invalidated_with_its_page_only)
{
	struct kfp_env *env = test->priv;

	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);

	hm_invalidate(test, 0);
	hm_expect_cached(test, 1);
	hm_invalidate(test, 2);
	hm_expect_cached(test, 1);

	hm_invalidate(test, 1);
	KUNIT_EXPECT_FALSE(test, hm_check());
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);
	hm_invalidate_start(env->kvm, 0, TASK_SIZE);
	KUNIT_EXPECT_FALSE(test, hm_check());
	hm_invalidate_end(env->kvm);
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);

	/* The page is the same, and so is its mapping. */
	KUNIT_EXPECT_EQ(test, hm.maps, 1);
	hm_deactivate(test);
	hm_invalidate(test, 1);
	hm_expect_not_cached(test);
}

KFP_TEST(hm_cache_follows_the_page)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;

	hm_map_present(test, &kfp_single);
	before = kfp_pages_state(test);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);

	hm_exchange(test, 1, 2);
	KUNIT_EXPECT_FALSE(test, hm_check());
	hm_expect_none_dirty(test);
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);
	KUNIT_EXPECT_EQ(test, hm.maps, 2);
	KUNIT_EXPECT_TRUE(test, PageDirty(env->mem.page[1]));
	KUNIT_EXPECT_FALSE(test, PageDirty(env->mem.page[2]));

	hm_deactivate(test);
	kfp_expect_counts(test, &before, 0);
}

/* A cache of an hva does not care for memslots. */
KFP_TEST(hm_cache_of_a_gpa_is_checked_for_new_memslots)
{
	struct kfp_env *env = test->priv;

	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);

	kvm_memslots(env->kvm)->generation++;
	KUNIT_EXPECT_EQ(test, hm_check(), hm_by_hva(test));
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);
	KUNIT_EXPECT_EQ(test, hm.maps, 1);

	/* The gfn is somewhere else now. */
	kvm_memslots(env->kvm)->generation++;
	env->slot.userspace_addr += PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, hm_check(), hm_by_hva(test));
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	KUNIT_EXPECT_EQ(test, hm_gpc.pfn, env->mem.pfn[hm_by_hva(test) ? 1 : 2]);

	/* It is nowhere. */
	hm_make_no_slot(test);
	kvm_memslots(env->kvm)->generation++;
	KUNIT_EXPECT_EQ(test, hm_refresh(), hm_by_hva(test) ? 0 : -EFAULT);
	KUNIT_EXPECT_EQ(test, hm_check(), hm_by_hva(test));

	hm_deactivate(test);
}

KFP_TEST(hm_cache_is_for_one_page)
{
	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate(&hm_gpc, gfn_to_gpa(KFP_GFN) + 1, PAGE_SIZE),
			-EINVAL);
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate_hva(&hm_gpc, kfp_hva(test, 0) + 1, PAGE_SIZE),
			-EINVAL);
	hm_expect_not_cached(test);

	KUNIT_EXPECT_EQ(test, hm_activate(test, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&hm_gpc, PAGE_SIZE), -EINVAL);
	KUNIT_EXPECT_FALSE(test, kvm_gpc_check(&hm_gpc, PAGE_SIZE));
	hm_expect_cached(test, 0);
	hm_deactivate(test);
}

/* Nobody is told of invalidations in an mm without users. */
KFP_TEST(hm_cache_is_not_refreshed_after_the_mm)
{
	struct kfp_env *env = test->priv;
	struct mm_struct *mm, *gone;

	gone = kunit_kzalloc(test, sizeof(*gone), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, gone);
	hm_map_present(test, &kfp_single);
	mm = env->kvm->mm;

	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
	hm_invalidate(test, 1);
	env->kvm->mm = gone;
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EFAULT);
	KUNIT_EXPECT_FALSE(test, hm_check());
	KUNIT_EXPECT_EQ(test, hm_activate(test, 2), -EFAULT);
	KUNIT_EXPECT_FALSE(test, hm_check());

	env->kvm->mm = mm;
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);
	hm_deactivate(test);
}

/* Failures. */

/* A failure leaves nothing behind, but the cache remains active. */
static void hm_expect_cache_recovers(struct kunit *test)
{
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm.maps, hm.unmaps);
	KUNIT_EXPECT_TRUE(test, hm_gpc.active);

	hm.fail_to_map = false;
	KUNIT_EXPECT_EQ(test, hm_refresh(), 0);
	hm_expect_cached(test, 1);
}

KFP_TEST(hm_cache_that_the_kernel_cannot_map_is_invalid)
{
	struct kfp_pages_state before;

	hm_map_present(test, &kfp_single);
	hm_unmark_all(test);
	before = kfp_pages_state(test);

	hm.fail_to_map = true;
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), -EFAULT);
	hm_expect_none_dirty(test);
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EFAULT);
	hm_expect_none_dirty(test);
	hm_expect_cache_recovers(test);

	/* The mapping that is there does not help, be it valid or not. */
	hm_unmark_all(test);
	hm_exchange(test, 1, 2);
	hm.fail_to_map = true;
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EFAULT);
	hm_expect_none_dirty(test);
	hm_expect_cache_recovers(test);

	hm_unmark_all(test);
	hm.fail_to_map = true;
	KUNIT_EXPECT_EQ(test, hm_activate(test, 3), -EFAULT);
	hm_expect_none_dirty(test);
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), -EFAULT);
	hm_expect_cache_recovers(test);

	hm.fail_to_map = true;
	hm_exchange(test, 1, 3);
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EFAULT);
	hm_deactivate(test);
	kfp_expect_counts(test, &before, 0);
}

KFP_TEST(hm_cache_of_bad_memory_is_invalid)
{
	const struct hm_bad *bad = test->param_value;
	int err = bad->gfn_only ? 0 : -EFAULT;
	struct kfp_env *env = test->priv;

	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 1), 0);
	hm_expect_cached(test, 1);

	bad->make(test);
	kvm_memslots(env->kvm)->generation++;
	hm_invalidate(test, 1);
	hm_unmark_all(test);
	KUNIT_EXPECT_EQ(test, hm_refresh(), -EFAULT);
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 1), -EFAULT);
	hm_expect_not_cached(test);
	hm_expect_none_dirty(test);

	/* What is valid may become bad with another name. */
	KUNIT_EXPECT_EQ(test, hm_activate_hva(test, 1), err);
	KUNIT_EXPECT_EQ(test, hm_check(), !err);
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 1), -EFAULT);
	hm_expect_not_cached(test);

	hm_deactivate(test);
}

/* The cache can be written whenever it is valid. */
KFP_TEST(hm_cache_of_read_only_memory_is_invalid)
{
	struct kfp_env *env = test->priv;

	hm_map_present(test, &kfp_single);
	env->slot.flags |= KVM_MEM_READONLY;
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 1), -EFAULT);
	hm_expect_not_cached(test);

	env->slot.flags &= ~KVM_MEM_READONLY;
	kfp_map_memory(test, PROT_READ, MAP_SHARED | MAP_FIXED);
	hm_unmark_all(test);
	KUNIT_EXPECT_EQ(test, hm_activate_gpa(test, 1), -EFAULT);
	hm_expect_not_cached(test);
	KUNIT_EXPECT_EQ(test, hm_activate_hva(test, 1), -EFAULT);
	hm_expect_not_cached(test);
	hm_expect_none_dirty(test);
	hm_deactivate(test);
}

/* Lookups that are overtaken by an invalidation.  The cache is one of page 1. */

static void hm_invalidate_page(struct kunit *test)
{
	hm_invalidate(test, 1);
}

static void hm_exchange_page(struct kunit *test)
{
	hm_exchange(test, 1, 2);
}

static void hm_zap_page(struct kunit *test)
{
	hm_make_hole(test);
	hm_invalidate(test, 1);
}

static void hm_end_invalidation(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	hm_invalidate_end(env->kvm);
}

static void hm_exchange_and_end_invalidation(struct kunit *test)
{
	hm_exchange_page(test);
	hm_end_invalidation(test);
}

/* Begin an invalidation that ends during the next lookup. */
static void hm_begin_invalidation(struct kunit *test)
{
	unsigned long hva = kfp_hva(test, 1);
	struct kfp_env *env = test->priv;

	hm_invalidate_start(env->kvm, hva, hva + PAGE_SIZE);
	hm.before_lookup = hm_end_invalidation;
}

static void hm_begin_invalidation_and_exchange(struct kunit *test)
{
	hm_begin_invalidation(test);
	hm.before_lookup = hm_exchange_and_end_invalidation;
}

static void hm_let_mapping_fail(struct kunit *test)
{
	hm.fail_to_map = true;
}

static void hm_invalidate_and_let_mapping_fail(struct kunit *test)
{
	hm_invalidate_page(test);
	hm.before_lookup = hm_let_mapping_fail;
}

struct hm_race {
	const char *name;
	void (*before_lookup)(struct kunit *test);
	void (*after_lookup)(struct kunit *test);
	unsigned int maps;
	int err;
};

static void hm_expect_race(struct kunit *test, const struct hm_race *race)
{
	unsigned int maps = hm.maps;

	hm.before_lookup = race->before_lookup;
	hm.after_lookup = race->after_lookup;
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), race->err);

	KUNIT_EXPECT_NULL(test, hm.before_lookup);
	KUNIT_EXPECT_NULL(test, hm.after_lookup);
	KUNIT_EXPECT_EQ(test, hm.maps, maps + race->maps);
	if (race->err)
		hm_expect_not_cached(test);
	else
		hm_expect_cached(test, 1);
}

KFP_TEST(hm_cache_of_an_overtaken_lookup_is_not_used)
{
	static const struct hm_race races[] = {
		{ "none", .maps = 1 },
		{ "before the lookup", .before_lookup = hm_invalidate_page, .maps = 2 },
		{ "the same page", .after_lookup = hm_invalidate_page, .maps = 2 },
		{ "another page", .after_lookup = hm_exchange_page, .maps = 2 },
		{ "still in progress", .after_lookup = hm_begin_invalidation, .maps = 3 },
		{ "no page", .after_lookup = hm_zap_page, .maps = 1, .err = -EFAULT },
		{ "no mapping", .after_lookup = hm_invalidate_and_let_mapping_fail,
		  .maps = 1, .err = -EFAULT },
	};
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	int i;

	for (i = 0; i < ARRAY_SIZE(races); i++) {
		kunit_info(test, "%s", races[i].name);
		hm_map_present(test, &kfp_single);
		before = kfp_pages_state(test);
		hm.fail_to_map = false;

		hm_expect_race(test, &races[i]);
		if (races[i].after_lookup == hm_exchange_page) {
			KUNIT_EXPECT_TRUE(test, PageDirty(env->mem.page[1]));
			/* What was found first is not marked. */
			KUNIT_EXPECT_FALSE(test, PageDirty(env->mem.page[2]));
		}
		hm_deactivate(test);
		/* The page table has no more reference to it. */
		if (races[i].after_lookup == hm_zap_page)
			before.count[1]--;
		kfp_expect_counts(test, &before, 0);
		kfp_drop_memory(test);
	}
}

/* The same, while there is a mapping that can be used again. */
KFP_TEST(hm_cache_that_is_overtaken_keeps_or_drops_its_mapping)
{
	static const struct hm_race races[] = {
		/* The mapping is kept twice. */
		{ "the same page", .before_lookup = hm_invalidate_page },
		{ "still in progress", .before_lookup = hm_begin_invalidation },
		/* Once for each of the lookups that find another page. */
		{ "another page", .before_lookup = hm_begin_invalidation_and_exchange,
		  .maps = 2 },
		{ "no page", .before_lookup = hm_zap_page, .err = -EFAULT },
	};
	struct kfp_pages_state before;
	int i;

	for (i = 0; i < ARRAY_SIZE(races); i++) {
		kunit_info(test, "%s", races[i].name);
		hm_map_present(test, &kfp_single);
		before = kfp_pages_state(test);

		KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
		hm_invalidate(test, 1);
		hm_expect_race(test, &races[i]);
		hm_deactivate(test);
		if (races[i].before_lookup == hm_zap_page)
			before.count[1]--;
		kfp_expect_counts(test, &before, 0);
		kfp_drop_memory(test);
	}

	/* The page of the old mapping comes back. */
	hm_map_present(test, &kfp_single);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
	hm_exchange(test, 1, 2);
	hm_expect_race(test, &(struct hm_race) {
		.after_lookup = hm_exchange_page,
		.maps = 1,
	});
	hm_deactivate(test);
}

#ifdef HM_HAS_PRIVATE
static void hm_convert_page(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	hm_make_private(test);
	gfn_to_pfn_cache_invalidate_gfns(env->kvm, KFP_GFN + 1, KFP_GFN + 2);
}

KFP_TEST(hm_cache_of_a_gpa_is_invalid_when_that_is_private)
{
	int err = hm_by_hva(test) ? 0 : -EFAULT;
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;

	hm_map_present(test, &kfp_single);
	hm_unmark_all(test);
	before = kfp_pages_state(test);

	hm_expect_race(test, &(struct hm_race) {
		.after_lookup = hm_convert_page,
		.maps = 1,
		.err = err,
	});
	KUNIT_EXPECT_EQ(test, PageDirty(env->mem.page[1]), !err);

	xa_erase(&env->kvm->mem_attr_array, KFP_GFN + 1);
	KUNIT_EXPECT_EQ(test, hm_activate(test, 1), 0);
	gfn_to_pfn_cache_invalidate_gfns(env->kvm, KFP_GFN, KFP_GFN + 1);
	gfn_to_pfn_cache_invalidate_gfns(env->kvm, KFP_GFN + 2, KFP_GFN + 3);
	hm_expect_cached(test, 1);
	hm_convert_page(test);
	KUNIT_EXPECT_EQ(test, hm_check(), !err);
	KUNIT_EXPECT_EQ(test, hm_refresh(), err);
	KUNIT_EXPECT_EQ(test, hm_check(), !err);

	hm_deactivate(test);
	kfp_expect_counts(test, &before, 0);
}
#endif /* HM_HAS_PRIVATE */
#endif /* CONFIG_HAVE_KVM_PFNCACHE */

static int hm_test_init(struct kunit *test)
{
	struct kfp_env *env;
	int err = kfp_env_init(test);

	if (err)
		return err;

	memset(&hm, 0, sizeof(hm));
	env = test->priv;

	hm.vcpu = kunit_kzalloc(test, sizeof(*hm.vcpu), GFP_KERNEL);
	if (!hm.vcpu)
		return -ENOMEM;
	hm.vcpu->kvm = env->kvm;

	env->slot.flags = KVM_MEM_LOG_DIRTY_PAGES;
	env->slot.dirty_bitmap = hm.dirty_bitmap;
	kfp_add_slot(test, &env->slot);
#ifdef HM_HAS_PRIVATE
	xa_init(&env->kvm->mem_attr_array);
#endif
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	INIT_LIST_HEAD(&env->kvm->gpc_list);
	spin_lock_init(&env->kvm->gpc_lock);
	memset(&hm_gpc, 0, sizeof(hm_gpc));
	kvm_gpc_init(&hm_gpc, env->kvm);
#endif

	kunit_activate_static_stub(test, kvm_follow_pfn_can_be_guarded,
				   hm_can_be_guarded);
	kunit_activate_static_stub(test, kvm_map_pfn, hm_map_pfn);
	kunit_activate_static_stub(test, kvm_unmap_pfn, hm_unmap_pfn);

	return 0;
}

static void hm_test_exit(struct kunit *test)
{
#ifdef HM_HAS_PRIVATE
	struct kfp_env *env = test->priv;

	xa_destroy(&env->kvm->mem_attr_array);
#endif
	kfp_env_exit(test);
}

static struct kunit_case hm_test_cases[] = {
	KUNIT_CASE_PARAM(hm_map_pins_until_unmap, hm_refcounted_gen_params),
	KUNIT_CASE(hm_maps_are_independent),
	KUNIT_CASE(hm_map_is_the_memory_of_the_guest),
	KUNIT_CASE(hm_map_faults_memory_in),
	KUNIT_CASE(hm_readonly_map_of_untouched_anon_memory_is_the_zero_page),
	KUNIT_CASE(hm_unmap_marks_what_could_be_written),
	KUNIT_CASE(hm_unmap_atomic_tells_the_file_unless_the_page_is_locked),
	KUNIT_CASE(hm_unmap_of_nothing_does_nothing),
	KUNIT_CASE(hm_readonly_map_needs_no_permission_to_write),
	KUNIT_CASE_PARAM(hm_map_that_the_kernel_cannot_map_is_released,
			 hm_refcounted_gen_params),
	KUNIT_CASE_PARAM(hm_map_of_bad_memory_is_refused, hm_bad_gen_params),
	KUNIT_CASE_PARAM(hm_remapped_memory_is_refused, hm_remapped_gen_params),
	KUNIT_CASE_PARAM(hm_remapped_memory_is_permitted_by_allow_unsafe_mappings,
			 hm_remapped_gen_params),
#ifdef HF_SMM_MASK
	KUNIT_CASE(hm_map_is_that_of_the_gfn_outside_of_smm),
#endif
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_CASE_PARAM(hm_cache_maps_and_holds_nothing, hm_by_gen_params),
	KUNIT_CASE(hm_cache_is_the_memory_of_the_guest),
	KUNIT_CASE_PARAM(hm_cache_of_remapped_memory_leaves_it_alone,
			 hm_remapped_gen_params),
	KUNIT_CASE_PARAM(hm_cache_marks_the_gfn_if_there_is_one, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_can_be_moved, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_is_invalidated_with_its_page_only, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_follows_the_page, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_of_a_gpa_is_checked_for_new_memslots,
			 hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_is_for_one_page, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_is_not_refreshed_after_the_mm, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_that_the_kernel_cannot_map_is_invalid,
			 hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_of_bad_memory_is_invalid, hm_bad_gen_params),
	KUNIT_CASE(hm_cache_of_read_only_memory_is_invalid),
	KUNIT_CASE_PARAM(hm_cache_of_an_overtaken_lookup_is_not_used, hm_by_gen_params),
	KUNIT_CASE_PARAM(hm_cache_that_is_overtaken_keeps_or_drops_its_mapping,
			 hm_by_gen_params),
#ifdef HM_HAS_PRIVATE
	KUNIT_CASE_PARAM(hm_cache_of_a_gpa_is_invalid_when_that_is_private,
			 hm_by_gen_params),
#endif
#endif
	{}
};

static struct kunit_suite hm_test_suite = {
	.name = "kvm_host_map",
	.init = hm_test_init,
	.exit = hm_test_exit,
	.test_cases = hm_test_cases,
};

kunit_test_suite(hm_test_suite);
