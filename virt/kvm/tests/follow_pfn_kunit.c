// SPDX-License-Identifier: GPL-2.0-only
/* KUnit tests of __kvm_follow_pfn(). */
#include <kunit/static_stub.h>
#include <kunit/test.h>

#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/signal.h>

#include "../kvm_mm.h"
#include "kunit_memory.h"

static const struct kfp_kind kfp_remap = {
	.name = "remap_pfn_range()",
	.source = KFP_HIGH_ORDER,
	.insert = KFP_BY_REMAP,
};

static const struct kfp_kind kfp_io = {
	.name = "VM_IO without VM_PFNMAP",
	.source = KFP_HIGH_ORDER,
	.insert = KFP_BY_INSERT_MIXED,
	.vm_flags = VM_IO | VM_MIXEDMAP,
};

/* Neither a page for get_user_pages(), nor a VMA for a walk. */
static const struct kfp_kind kfp_mixedmap_special = {
	.name = "VM_MIXEDMAP, special entries",
	.source = KFP_PAGELESS,
	.insert = KFP_BY_INSERT_MIXED,
	.vm_flags = VM_MIXEDMAP,
};

static const struct kfp_kind *const kfp_refcounted_kinds[] = {
	&kfp_single, &kfp_compound, &kfp_mixedmap,
};

static const struct kfp_kind *const kfp_remapped_kinds[] = {
	&kfp_pfnmap, &kfp_pfnmap_single, &kfp_pfnmap_compound,
	&kfp_pfnmap_reserved, &kfp_pageless, &kfp_io,
};

KUNIT_ARRAY_PARAM(kfp_refcounted, kfp_refcounted_kinds, kfp_kind_desc);
KUNIT_ARRAY_PARAM(kfp_remapped, kfp_remapped_kinds, kfp_kind_desc);

/* Map the kind that is the parameter of the test. */
static void kfp_map_param(struct kunit *test)
{
	const struct kfp_kind *const *kind = test->param_value;

	kfp_map_shared(test, *kind);
}

/* Replacements of functions of the engine. */

static void kfp_count_misuse(const char *why)
{
	struct kfp_env *env = kunit_get_current_test()->priv;

	env->misuses++;
}

static bool kfp_can_be_guarded(void)
{
	struct kfp_env *env = kunit_get_current_test()->priv;

	return env->can_be_guarded;
}

/*
 * Have private memory in the pages of the test, be they mapped or not.  As
 * guest_memfd does, answer with a reference, and leave a pfn behind even if the
 * page is found, but cannot be prepared.
 */
static int kfp_ask_guest_memfd(const struct kvm_memory_slot *slot, gfn_t gfn,
			       kvm_pfn_t *pfn, int *order)
{
	struct kfp_env *env = kunit_get_current_test()->priv;
	gfn_t index = gfn - slot->base_gfn;

	env->gmem_calls++;
	*pfn = env->mem.pfn[index];
	*order = env->gmem_order;
	if (env->gmem_err)
		return env->gmem_err;

	get_page(env->mem.page[index]);
	return 0;
}

/* Requests. */

static struct kvm_follow_pfn kfp_guarded(struct kunit *test, int index,
					 unsigned int flags)
{
	struct kfp_env *env = test->priv;

	return (struct kvm_follow_pfn) {
		.slot = &env->slot,
		.gfn = KFP_GFN + index,
		.flags = flags,
		.guarded_by_mmu_notifier = true,
	};
}

static struct kvm_follow_pfn kfp_get(struct kunit *test, int index,
				     unsigned int flags)
{
	struct kvm_follow_pfn kfp = kfp_guarded(test, index, flags | FOLL_GET);

	kfp.guarded_by_mmu_notifier = false;
	return kfp;
}

static struct kvm_follow_pfn kfp_pin(struct kunit *test, int index,
				     unsigned int flags)
{
	struct kvm_follow_pfn kfp = kfp_guarded(test, index, flags);

	kfp.guarded_by_mmu_notifier = false;
	kfp.pin = true;
	return kfp;
}

static struct kvm_follow_pfn kfp_private(struct kvm_follow_pfn kfp)
{
	kfp.is_private = true;
	return kfp;
}

/* Fill the answer with what must not survive a lookup. */
static void kfp_poison(struct kvm_follow_pfn *kfp)
{
	if (!kfp->by_hva)
		kfp->hva = 0xdeadUL << PAGE_SHIFT;
	kfp->pfn = 0xdead;
	kfp->err = 0xdead;
	kfp->writable = true;
	kfp->is_refcounted_page = true;
	kfp->page = ZERO_PAGE(0);
	kfp->order = 0xdead;
	kfp->pgprot = __pgprot(0xdead);
	kfp->hold = KVM_PFN_HOLD_PIN;
	kfp->route = KVM_FOLLOW_PFN_REMAPPED;
}

/* What is true of every answer without a pfn. */
static void kfp_expect_no_pfn(struct kunit *test, const struct kvm_follow_pfn *kfp)
{
	KUNIT_EXPECT_TRUE(test, is_error_noslot_pfn(kfp->pfn));
	if (kfp->is_private)
		KUNIT_EXPECT_LT(test, kfp->err, 0);
	else
		KUNIT_EXPECT_EQ(test, kfp->err, 0);
	KUNIT_EXPECT_FALSE(test, kfp->writable);
	KUNIT_EXPECT_FALSE(test, kfp->is_refcounted_page);
	KUNIT_EXPECT_NULL(test, kfp->page);
	KUNIT_EXPECT_EQ(test, kfp->order, 0);
	KUNIT_EXPECT_EQ(test, pgprot_val(kfp->pgprot), 0);
	KUNIT_EXPECT_EQ(test, kfp->route, KVM_FOLLOW_PFN_NONE);
	/* Go no further, it would be released. */
	KUNIT_ASSERT_EQ(test, kfp->hold, KVM_PFN_HOLD_NONE);
}

/* What is true of every answer with a pfn. */
static void kfp_expect_pfn(struct kunit *test, const struct kvm_follow_pfn *kfp)
{
	enum kvm_pfn_hold hold = KVM_PFN_HOLD_NONE;

	KUNIT_EXPECT_FALSE(test, is_error_noslot_pfn(kfp->pfn));
	KUNIT_EXPECT_EQ(test, kfp->err, 0);
	KUNIT_EXPECT_EQ(test, kfp->is_private,
			kfp->route == KVM_FOLLOW_PFN_GUEST_MEMFD);
	if (!kfp->is_private)
		KUNIT_EXPECT_EQ(test, kfp->order, 0);

	switch (kfp->route) {
	case KVM_FOLLOW_PFN_FAST:
	case KVM_FOLLOW_PFN_SLOW:
	case KVM_FOLLOW_PFN_GUEST_MEMFD:
		KUNIT_EXPECT_TRUE(test, kfp->is_refcounted_page);
		KUNIT_EXPECT_PTR_EQ(test, kfp->page, pfn_to_page(kfp->pfn));
		KUNIT_EXPECT_EQ(test, pgprot_val(kfp->pgprot), 0);
		if (kfp->pin)
			hold = KVM_PFN_HOLD_PIN;
		else if (kfp->flags & FOLL_GET)
			hold = KVM_PFN_HOLD_REF;
		break;
	case KVM_FOLLOW_PFN_REMAPPED:
		KUNIT_EXPECT_FALSE(test, kfp->is_refcounted_page);
		KUNIT_EXPECT_NULL(test, kfp->page);
		break;
	default:
		KUNIT_FAIL(test, "a pfn, but no route to it");
	}
	/* Go no further, it would be released. */
	KUNIT_ASSERT_EQ(test, kfp->hold, hold);

	if (kfp->flags & FOLL_WRITE)
		KUNIT_EXPECT_TRUE(test, kfp->writable);
	else if (!kfp->allow_write_mapping && !kfp->is_private)
		KUNIT_EXPECT_FALSE(test, kfp->writable);
	if (kfp->slot && (kfp->slot->flags & KVM_MEM_READONLY))
		KUNIT_EXPECT_FALSE(test, kfp->writable);
	if (kfp->atomic)
		KUNIT_EXPECT_EQ(test, kfp->route, KVM_FOLLOW_PFN_FAST);
	if (kfp->is_private)
		KUNIT_EXPECT_EQ(test, kfp->hva, KVM_HVA_ERR_BAD);
	else if (kfp->slot)
		KUNIT_EXPECT_EQ(test, kfp->hva,
				__gfn_to_hva_memslot(kfp->slot, kfp->gfn));
}

/* Make a request that is not a misuse. */
static kvm_pfn_t kfp_lookup(struct kunit *test, struct kvm_follow_pfn *kfp)
{
	struct kfp_env *env = test->priv;
	unsigned int gmem_calls = env->gmem_calls;
	kvm_pfn_t pfn;

	kfp_poison(kfp);
	if (kfp->atomic) {
		KVM_MMU_LOCK(env->kvm);
		pfn = __kvm_follow_pfn(kfp);
		KVM_MMU_UNLOCK(env->kvm);
	} else {
		pfn = __kvm_follow_pfn(kfp);
	}

	KUNIT_EXPECT_EQ(test, env->misuses, 0);
	if (!kfp->is_private)
		KUNIT_EXPECT_EQ(test, env->gmem_calls, gmem_calls);
	KUNIT_EXPECT_EQ(test, kfp->pfn, pfn);
	if (is_error_noslot_pfn(pfn))
		kfp_expect_no_pfn(test, kfp);
	else
		kfp_expect_pfn(test, kfp);

	return pfn;
}

static void kfp_release(struct kvm_follow_pfn *kfp, bool dirty)
{
	kvm_release_held_page(kfp->page, kfp->hold, dirty);
}

/* Make a request, release the answer. */
static kvm_pfn_t kfp_probe(struct kunit *test, struct kvm_follow_pfn kfp)
{
	kvm_pfn_t pfn = kfp_lookup(test, &kfp);

	kfp_release(&kfp, false);

	return pfn;
}

static bool kfp_is_writable(struct kunit *test, struct kvm_follow_pfn kfp)
{
	KUNIT_EXPECT_FALSE(test, is_error_noslot_pfn(kfp_lookup(test, &kfp)));
	kfp_release(&kfp, false);

	return kfp.writable;
}

/* Requests, good and bad. */

struct kfp_request {
	const char *name;
	bool no_slot;
	bool by_hva;
	bool is_private;
	s64 gfn_offset;
	unsigned int flags;
	bool pin;
	bool guarded;
	bool allow_write;
	bool atomic;
	bool try_get;
	bool cannot_be_guarded;
};

static void kfp_request_desc(const struct kfp_request *r, char *desc)
{
	strscpy(desc, r->name, KUNIT_PARAM_DESC_SIZE);
}

/* What try_get_pfn() shall reply, and what it was asked. */
static struct {
	bool reply;
	unsigned int calls;
	kvm_pfn_t pfn;
} kfp_try_get;

static bool kfp_try_get_pfn(kvm_pfn_t pfn)
{
	kfp_try_get.calls++;
	kfp_try_get.pfn = pfn;
	return kfp_try_get.reply;
}

static struct kvm_follow_pfn kfp_make_request(struct kunit *test,
					      const struct kfp_request *r)
{
	struct kfp_env *env = test->priv;

	env->can_be_guarded = !r->cannot_be_guarded;
	env->slot.flags = r->is_private ? KVM_MEM_GUEST_MEMFD : 0;

	return (struct kvm_follow_pfn) {
		.slot = r->no_slot ? NULL : &env->slot,
		.gfn = KFP_GFN + r->gfn_offset,
		.by_hva = r->by_hva,
		.is_private = r->is_private,
		.hva = kfp_hva(test, 0),
		.flags = r->flags,
		.pin = r->pin,
		.guarded_by_mmu_notifier = r->guarded,
		.allow_write_mapping = r->allow_write,
		.atomic = r->atomic,
		.try_get_pfn = r->try_get ? kfp_try_get_pfn : NULL,
	};
}

static const struct kfp_request kfp_bad_requests[] = {
	{ "neither slot nor hva", .no_slot = true, .guarded = true },
	{ "both slot and hva", .by_hva = true, .guarded = true },
	{ "gfn below the slot", .gfn_offset = -1, .guarded = true },
	{ "gfn above the slot", .gfn_offset = KFP_PAGES, .guarded = true },
	{ "FOLL_FORCE", .flags = FOLL_FORCE, .guarded = true },
	{ "FOLL_LONGTERM", .flags = FOLL_LONGTERM, .pin = true },
	{ "FOLL_HWPOISON", .flags = FOLL_HWPOISON | FOLL_GET },
	{ "guarded and FOLL_GET", .flags = FOLL_GET, .guarded = true },
	{ "guarded and pin", .pin = true, .guarded = true },
	{ "neither guarded nor FOLL_GET nor pin", .flags = FOLL_WRITE },
	{ "FOLL_GET and pin", .flags = FOLL_GET, .pin = true },
	{ "guarded without CONFIG_KVM_GENERIC_MMU_NOTIFIER", .guarded = true,
	  .cannot_be_guarded = true },
	{ "atomic and FOLL_NOWAIT", .flags = FOLL_WRITE | FOLL_NOWAIT,
	  .guarded = true, .atomic = true },
	{ "atomic and FOLL_INTERRUPTIBLE",
	  .flags = FOLL_WRITE | FOLL_INTERRUPTIBLE,
	  .guarded = true, .atomic = true },
	{ "atomic pin", .flags = FOLL_WRITE, .pin = true, .atomic = true },
	{ "pin and allow_write_mapping", .pin = true, .allow_write = true },
	{ "guarded try_get_pfn", .guarded = true, .try_get = true },
	{ "try_get_pfn and pin", .pin = true, .try_get = true },
	{ "private hva", .no_slot = true, .by_hva = true, .is_private = true,
	  .guarded = true },
	{ "private and pin", .is_private = true, .pin = true },
	{ "private and atomic", .is_private = true, .flags = FOLL_WRITE,
	  .guarded = true, .atomic = true },
	{ "private and try_get_pfn", .is_private = true, .flags = FOLL_GET,
	  .try_get = true },
};

KUNIT_ARRAY_PARAM(kfp_bad_request, kfp_bad_requests, kfp_request_desc);

KFP_TEST(kfp_bad_request_is_reported_once_and_is_an_error)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;

	/* Memory that nothing but the misuse keeps from being found. */
	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	kvm_allow_unsafe_mappings = true;

	kfp = kfp_make_request(test, test->param_value);
	kfp_poison(&kfp);
	before = kfp_pages_state(test);

	KUNIT_EXPECT_EQ(test, __kvm_follow_pfn(&kfp), KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp.pfn, KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp.err, kfp.is_private ? -EFAULT : 0);
	kfp_expect_no_pfn(test, &kfp);
	kfp_expect_untouched(test, &before);
	KUNIT_EXPECT_EQ(test, env->misuses, 1);
	KUNIT_EXPECT_EQ(test, env->gmem_calls, 0);
}

static const struct kfp_request kfp_good_requests[] = {
	{ "guarded read", .guarded = true },
	{ "guarded write", .flags = FOLL_WRITE, .guarded = true },
	{ "guarded read, write allowed", .guarded = true, .allow_write = true },
	{ "guarded write, write allowed", .flags = FOLL_WRITE, .guarded = true,
	  .allow_write = true },
	{ "guarded, FOLL_NOWAIT", .flags = FOLL_WRITE | FOLL_NOWAIT,
	  .guarded = true },
	{ "guarded, FOLL_INTERRUPTIBLE", .flags = FOLL_INTERRUPTIBLE,
	  .guarded = true },
	{ "guarded, FOLL_NOWAIT and FOLL_INTERRUPTIBLE",
	  .flags = FOLL_WRITE | FOLL_NOWAIT | FOLL_INTERRUPTIBLE,
	  .guarded = true },
	{ "guarded atomic write", .flags = FOLL_WRITE, .guarded = true,
	  .atomic = true },
	{ "guarded atomic read, write allowed", .guarded = true,
	  .allow_write = true, .atomic = true },
	{ "guarded hva", .no_slot = true, .by_hva = true, .guarded = true },
	{ "read with a reference", .flags = FOLL_GET },
	{ "write with a reference", .flags = FOLL_GET | FOLL_WRITE },
	{ "read with a reference, write allowed", .flags = FOLL_GET,
	  .allow_write = true },
	{ "atomic write with a reference", .flags = FOLL_GET | FOLL_WRITE,
	  .atomic = true },
	{ "hva with a reference", .no_slot = true, .by_hva = true,
	  .flags = FOLL_GET | FOLL_WRITE },
	{ "reference without a notifier", .flags = FOLL_GET,
	  .cannot_be_guarded = true },
	{ "read with a pin", .pin = true },
	{ "write with a pin", .flags = FOLL_WRITE, .pin = true },
	{ "write with a pin, FOLL_NOWAIT", .flags = FOLL_WRITE | FOLL_NOWAIT,
	  .pin = true },
	{ "hva with a pin", .no_slot = true, .by_hva = true,
	  .flags = FOLL_WRITE, .pin = true },
	{ "pin without a notifier", .flags = FOLL_WRITE, .pin = true,
	  .cannot_be_guarded = true },
};

KUNIT_ARRAY_PARAM(kfp_good_request, kfp_good_requests, kfp_request_desc);

/* Number of references to a single page that a request asks for. */
static int kfp_request_refs(const struct kfp_request *r)
{
	if (r->pin)
		return GUP_PIN_COUNTING_BIAS;

	return r->flags & FOLL_GET ? 1 : 0;
}

KFP_TEST(kfp_good_request_finds_present_memory_and_owns_what_it_asked_for)
{
	const struct kfp_request *r = test->param_value;
	bool may_write = (r->flags & FOLL_WRITE) || r->allow_write;
	struct kvm_follow_pfn kfp;
	struct kfp_env *env = test->priv;
	struct page *page;
	int count;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	page = env->mem.page[0];
	count = page_ref_count(page);

	kfp = kfp_make_request(test, r);
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[0]);
	KUNIT_EXPECT_EQ(test, kfp.writable, may_write);
	KUNIT_EXPECT_EQ(test, kfp.route, may_write || kfp_request_refs(r) ?
			KVM_FOLLOW_PFN_FAST : KVM_FOLLOW_PFN_SLOW);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_ASSERT_EQ(test, page_ref_count(page), count + kfp_request_refs(r));
	KUNIT_EXPECT_EQ(test, kfp_is_pinned(page), r->pin);

	kfp_release(&kfp, false);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
}

KFP_TEST(kfp_good_request_faults_absent_memory_in_unless_atomic)
{
	const struct kfp_request *r = test->param_value;
	struct kvm_follow_pfn kfp;
	struct kfp_env *env = test->priv;
	struct page *page;
	int count;

	kfp_map_shared(test, &kfp_single);
	page = env->mem.page[0];
	count = page_ref_count(page);

	kfp = kfp_make_request(test, r);
	if (r->atomic) {
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, env->mem.faults, 0);
		KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
		return;
	}

	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[0]);
	KUNIT_EXPECT_EQ(test, kfp.writable,
			(r->flags & FOLL_WRITE) || r->allow_write);
	KUNIT_EXPECT_EQ(test, kfp.route, KVM_FOLLOW_PFN_SLOW);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	/* The new PTE has a reference as well. */
	KUNIT_ASSERT_EQ(test, page_ref_count(page),
			count + 1 + kfp_request_refs(r));
	KUNIT_EXPECT_EQ(test, kfp_is_pinned(page), r->pin);

	kfp_release(&kfp, false);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count + 1);
}

/* Ordinary memory. */

KFP_TEST(kfp_refcounted_memory_is_refcounted)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i;

	kfp_map_param(test);
	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		kfp = kfp_guarded(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_TRUE(test, kfp.is_refcounted_page);
		kfp_expect_counts(test, &before, 0);

		kfp = kfp_guarded(test, i, 0);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_TRUE(test, kfp.is_refcounted_page);
		kfp_expect_counts(test, &before, 0);

		kfp = kfp_get(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, page_count(env->mem.page[i]),
				before.count[compound_head(env->mem.page[i]) ==
					     env->mem.page[0] ? 0 : i] + 1);
		kfp_release(&kfp, false);
		kfp_expect_counts(test, &before, 0);

		kfp = kfp_pin(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_TRUE(test, kfp_is_pinned(env->mem.page[i]));
		kfp_release(&kfp, false);
		KUNIT_EXPECT_FALSE(test, kfp_is_pinned(env->mem.page[i]));
		kfp_expect_counts(test, &before, 0);
	}
}

KFP_TEST(kfp_read_of_untouched_anon_memory_is_the_zero_page_until_written)
{
	struct kvm_follow_pfn kfp;
	kvm_pfn_t pfn;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);

	kfp = kfp_guarded(test, 0, 0);
	kfp.allow_write_mapping = true;
	pfn = kfp_lookup(test, &kfp);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(pfn));
	KUNIT_EXPECT_FALSE(test, kfp.writable);

	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kfp_probe(test, kfp_get(test, 0, 0))));
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kfp_probe(test, kfp_pin(test, 0, 0))));

	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	pfn = kfp_lookup(test, &kfp);
	KUNIT_EXPECT_FALSE(test, is_error_noslot_pfn(pfn));
	KUNIT_EXPECT_FALSE(test, is_zero_pfn(pfn));
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, 0)), pfn);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(kfp_probe(test, kfp_guarded(test, 1, 0))));
}

KFP_TEST(kfp_read_does_not_break_cow_but_write_does)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;
	kvm_pfn_t pfn;

	kfp_alloc_memory(test, &kfp_single);
	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	kfp = kfp_guarded(test, 2, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[2]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[2]);

	kfp = kfp_guarded(test, 2, FOLL_WRITE);
	kfp.atomic = true;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 2, 0)),
			env->mem.pfn[2]);

	pfn = kfp_probe(test, kfp_guarded(test, 2, FOLL_WRITE));
	KUNIT_EXPECT_FALSE(test, is_error_noslot_pfn(pfn));
	KUNIT_EXPECT_NE(test, pfn, env->mem.pfn[2]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 2, 0)), pfn);
}

KFP_TEST(kfp_read_of_writable_memory_is_writable_only_if_allowed)
{
	struct kvm_follow_pfn kfp;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	kfp_touch(test, 0);

	KUNIT_EXPECT_FALSE(test, kfp_is_writable(test, kfp_guarded(test, 0, 0)));
	KUNIT_EXPECT_FALSE(test, kfp_is_writable(test, kfp_get(test, 0, 0)));
	KUNIT_EXPECT_FALSE(test, kfp_is_writable(test, kfp_pin(test, 0, 0)));

	kfp = kfp_guarded(test, 0, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_TRUE(test, kfp_is_writable(test, kfp));

	kfp = kfp_get(test, 0, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_TRUE(test, kfp_is_writable(test, kfp));
}

KFP_TEST(kfp_read_only_vma_in_writable_slot_is_read_only_and_no_ro_fault)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_alloc_memory(test, &kfp_single);
	kfp_map_memory(test, PROT_READ, MAP_SHARED);

	kfp = kfp_guarded(test, 1, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test,
			kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE | FOLL_NOWAIT)),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_FAULT);
}

static const unsigned int kfp_access_flags[] = {
	0, FOLL_WRITE, FOLL_NOWAIT, FOLL_WRITE | FOLL_NOWAIT,
	FOLL_INTERRUPTIBLE, FOLL_WRITE | FOLL_INTERRUPTIBLE,
};

static void kfp_expect_all_faults(struct kunit *test)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(kfp_access_flags); i++) {
		unsigned int flags = kfp_access_flags[i];

		KUNIT_EXPECT_EQ_MSG(test, kfp_probe(test, kfp_guarded(test, 1, flags)),
				    KVM_PFN_ERR_FAULT, "flags %#x", flags);
		KUNIT_EXPECT_EQ_MSG(test, kfp_probe(test, kfp_get(test, 1, flags)),
				    KVM_PFN_ERR_FAULT, "flags %#x", flags);
		KUNIT_EXPECT_EQ_MSG(test, kfp_probe(test, kfp_pin(test, 1, flags)),
				    KVM_PFN_ERR_FAULT, "flags %#x", flags);
	}
}

KFP_TEST(kfp_hole_is_a_fault)
{
	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	kfp_touch(test, 1);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 1), PAGE_SIZE));

	kfp_expect_all_faults(test);
	KUNIT_EXPECT_TRUE(test, kfp_is_writable(test, kfp_guarded(test, 2, FOLL_WRITE)));
}

KFP_TEST(kfp_prot_none_memory_is_a_fault)
{
	kfp_map_anon(test, PROT_NONE);

	kfp_expect_all_faults(test);
}

KFP_TEST(kfp_read_only_slot_is_never_writable_and_a_write_is_ro_fault)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	env->slot.flags = KVM_MEM_READONLY;

	kfp = kfp_guarded(test, 0, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[0]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, 0)),
			env->mem.pfn[0]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 0, 0)),
			env->mem.pfn[0]);

	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp.hva, KVM_HVA_ERR_RO_BAD);
	kfp.atomic = true;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 0, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 0, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
}

KFP_TEST(kfp_slot_that_is_being_deleted_is_noslot)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	env->slot.flags = KVM_MEMSLOT_INVALID;

	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_NOSLOT);
	KUNIT_EXPECT_TRUE(test, kvm_is_error_hva(kfp.hva));
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 0, 0)), KVM_PFN_NOSLOT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 0, 0)), KVM_PFN_NOSLOT);
}

KFP_TEST(kfp_hva_is_resolved_and_left_alone)
{
	struct kvm_follow_pfn kfp = { .by_hva = true, .flags = FOLL_GET };
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);

	/* An hva need not be aligned. */
	kfp.hva = kfp_hva(test, 3) + 8;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[3]);
	KUNIT_EXPECT_EQ(test, kfp.hva, kfp_hva(test, 3) + 8);
	kfp_release(&kfp, false);
}

KFP_TEST(kfp_error_hva_is_a_fault)
{
	struct kvm_follow_pfn kfp = {
		.by_hva = true,
		.hva = KVM_HVA_ERR_BAD,
		.flags = FOLL_GET,
	};

	kfp_map_anon(test, PROT_READ | PROT_WRITE);

	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
	kfp.hva = KVM_HVA_ERR_RO_BAD;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
}

KFP_TEST(kfp_nowait_answers_needs_io_instead_of_waiting)
{
	unsigned int flags = FOLL_WRITE | FOLL_NOWAIT;
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);
	env->mem.reply = VM_FAULT_RETRY;

	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, flags)),
			KVM_PFN_ERR_NEEDS_IO);
	KUNIT_EXPECT_TRUE(test, env->mem.fault_flags & FAULT_FLAG_RETRY_NOWAIT);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);

	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, FOLL_NOWAIT)),
			KVM_PFN_ERR_NEEDS_IO);
	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 0, flags)),
			KVM_PFN_ERR_NEEDS_IO);
	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 0, flags)),
			KVM_PFN_ERR_NEEDS_IO);

	/* Without the flag the lookup waits. */
	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, FOLL_WRITE)),
			env->mem.pfn[0]);
	KUNIT_EXPECT_FALSE(test, env->mem.fault_flags & FAULT_FLAG_RETRY_NOWAIT);

	/* With it, memory that is there is found. */
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, flags)),
			env->mem.pfn[0]);
}

struct kfp_handler_error {
	const char *name;
	vm_fault_t reply;
	kvm_pfn_t pfn;
};

static const struct kfp_handler_error kfp_handler_errors[] = {
	{ "poison", VM_FAULT_HWPOISON, KVM_PFN_ERR_HWPOISON },
	{ "poison of a huge page", VM_FAULT_HWPOISON_LARGE, KVM_PFN_ERR_HWPOISON },
	{ "SIGBUS", VM_FAULT_SIGBUS, KVM_PFN_ERR_FAULT },
	{ "SIGSEGV", VM_FAULT_SIGSEGV, KVM_PFN_ERR_FAULT },
	{ "out of memory", VM_FAULT_OOM, KVM_PFN_ERR_FAULT },
};

KUNIT_ARRAY_PARAM_DESC(kfp_handler_error, kfp_handler_errors, name);

static void kfp_expect_handler_error(struct kunit *test)
{
	const struct kfp_handler_error *error = test->param_value;
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before = kfp_pages_state(test);

	env->mem.reply = error->reply;
	/* An engine that ignores the error shall not loop forever. */
	env->mem.nr_replies = 1000;

	/* Do not have VM_PFNMAP refused before the handler is called. */
	kvm_allow_unsafe_mappings = true;

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, 0)), error->pfn);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, FOLL_WRITE)),
			error->pfn);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 0, FOLL_WRITE)),
			error->pfn);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 0, FOLL_WRITE)),
			error->pfn);
	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_error_of_a_fault_handler_is_passed_on)
{
	kfp_map_shared(test, &kfp_single);
	kfp_expect_handler_error(test);
}

KFP_TEST(kfp_error_of_a_pfnmap_fault_handler_is_passed_on)
{
	kfp_map_shared(test, &kfp_pfnmap);
	kfp_expect_handler_error(test);
}

/* Make a request whose fault handler sends @signal first and answers @reply. */
static kvm_pfn_t kfp_probe_with_signal(struct kunit *test,
				       struct kvm_follow_pfn kfp,
				       int signal, vm_fault_t reply)
{
	struct kfp_env *env = test->priv;
	kvm_pfn_t pfn;

	env->mem.reply = reply;
	env->mem.nr_replies = 1;
	env->mem.signal = signal;

	allow_signal(signal);
	pfn = kfp_probe(test, kfp);
	flush_signals(current);
	disallow_signal(signal);

	return pfn;
}

KFP_TEST(kfp_signal_ends_an_interruptible_lookup)
{
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);

	kfp = kfp_guarded(test, 0, FOLL_WRITE | FOLL_INTERRUPTIBLE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_RETRY),
			KVM_PFN_ERR_SIGPENDING);
	kfp = kfp_pin(test, 0, FOLL_WRITE | FOLL_INTERRUPTIBLE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_RETRY),
			KVM_PFN_ERR_SIGPENDING);
	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGKILL, VM_FAULT_RETRY),
			KVM_PFN_ERR_SIGPENDING);
}

KFP_TEST(kfp_signal_does_not_end_an_uninterruptible_lookup)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);

	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_RETRY),
			env->mem.pfn[0]);
}

KFP_TEST(kfp_signal_ends_repeated_faults_of_pfnmap)
{
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_pfnmap);

	/* A handler that was interrupted reports success without a PTE. */
	kfp = kfp_guarded(test, 0, FOLL_WRITE | FOLL_INTERRUPTIBLE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_NOPAGE),
			KVM_PFN_ERR_SIGPENDING);
	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_NOPAGE),
			KVM_PFN_ERR_SIGPENDING);
	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGKILL, VM_FAULT_NOPAGE),
			KVM_PFN_ERR_SIGPENDING);
}

KFP_TEST(kfp_kernel_thread_does_not_fault_for_ever)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_pfnmap);

	/* The test is a kernel thread, and no signal is to come. */
	KUNIT_ASSERT_TRUE(test, current->flags & PF_KTHREAD);
	env->mem.reply = VM_FAULT_NOPAGE;
	env->mem.nr_replies = 100;
	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_GT(test, env->mem.nr_replies, 0);

	env->mem.nr_replies = 1;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[0]);
}

KFP_TEST(kfp_signal_ends_an_interruptible_lookup_of_pfnmap_that_is_told_to_retry)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_pfnmap);

	kfp = kfp_guarded(test, 0, FOLL_WRITE | FOLL_INTERRUPTIBLE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_RETRY),
			KVM_PFN_ERR_SIGPENDING);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_EXPECT_TRUE(test, env->mem.fault_flags & FAULT_FLAG_INTERRUPTIBLE);

	kfp = kfp_guarded(test, 1, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, env->mem.fault_flags & FAULT_FLAG_INTERRUPTIBLE);
}

KFP_TEST(kfp_signal_does_not_end_a_lookup_of_pfnmap_that_is_told_to_retry)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_pfnmap);

	kfp = kfp_guarded(test, 0, FOLL_WRITE);
	KUNIT_EXPECT_EQ(test, kfp_probe_with_signal(test, kfp, SIGUSR1, VM_FAULT_RETRY),
			env->mem.pfn[0]);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 2);
}

KFP_TEST(kfp_signal_does_not_end_a_lookup_of_pfnmap_that_needs_one_fault)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_pfnmap);

	/* There is no second call of the handler for the signal to prevent. */
	allow_signal(SIGUSR1);
	send_sig(SIGUSR1, current, 1);
	kfp = kfp_guarded(test, 0, FOLL_WRITE | FOLL_INTERRUPTIBLE);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[0]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[0]);
	flush_signals(current);
	disallow_signal(SIGUSR1);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
}

/* VM_IO and VM_PFNMAP memory. */

KFP_TEST(kfp_remapped_memory_maps_and_is_not_touched)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i;

	kfp_map_param(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		/* Absent first, then present. */
		kfp = kfp_guarded(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, kfp.route, KVM_FOLLOW_PFN_REMAPPED);
		KUNIT_EXPECT_EQ(test, env->mem.faults, i + 1);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);

		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, i, 0)),
				env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, i, FOLL_NOWAIT)),
				env->mem.pfn[i]);

		/* The fast route is the only one that does not sleep. */
		kfp.atomic = true;
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, env->mem.faults, i + 1);
	}

	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_remapped_memory_is_refused_without_a_guard)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	int i;

	kvm_allow_unsafe_mappings = false;
	kfp_map_param(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, i, 0)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, i, FOLL_WRITE)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, i, 0)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, i, FOLL_WRITE)),
				KVM_PFN_ERR_FAULT);

		/* What is refused is not faulted in first, and if present, too. */
		KUNIT_EXPECT_EQ(test, env->mem.faults, i);
		kfp_probe(test, kfp_guarded(test, i, FOLL_WRITE));
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, i, 0)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, i, FOLL_WRITE)),
				KVM_PFN_ERR_FAULT);
	}

	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_remapped_memory_is_allowed_by_allow_unsafe_mappings)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i;

	kvm_allow_unsafe_mappings = true;
	kfp_map_param(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		kfp = kfp_get(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		kfp_expect_untouched(test, &before);
		kfp_release(&kfp, true);

		kfp = kfp_pin(test, i, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		kfp_expect_untouched(test, &before);
		kfp_release(&kfp, true);
	}

	kfp_expect_untouched(test, &before);
}

/* How the host maps present VM_PFNMAP memory. */
static u64 kfp_reference_pgprot(struct kunit *test, int index)
{
	struct follow_pfnmap_args args = { .address = kfp_hva(test, index) };
	u64 prot = 0;

	mmap_read_lock(current->mm);
	args.vma = vma_lookup(current->mm, args.address);
	if (args.vma && !follow_pfnmap_start(&args)) {
		prot = pgprot_val(args.pgprot);
		follow_pfnmap_end(&args);
	}
	mmap_read_unlock(current->mm);

	return prot;
}

KFP_TEST(kfp_answer_says_how_the_host_maps_remapped_memory)
{
	struct kvm_follow_pfn kfp;
	int i;

	kfp_map_param(test);

	for (i = 0; i < KFP_PAGES; i++) {
		kfp = kfp_guarded(test, i, FOLL_WRITE);
		kfp_lookup(test, &kfp);
		/* Zero where the architecture has no pte_pgprot(). */
		KUNIT_EXPECT_EQ(test, !pgprot_val(kfp.pgprot),
				!pgprot_val(pte_pgprot(pfn_pte(0, PAGE_KERNEL))));
		KUNIT_EXPECT_EQ(test, pgprot_val(kfp.pgprot),
				kfp_reference_pgprot(test, i));

		kfp = kfp_guarded(test, i, 0);
		kfp_lookup(test, &kfp);
		KUNIT_EXPECT_EQ(test, pgprot_val(kfp.pgprot),
				kfp_reference_pgprot(test, i));
	}
}

/* Let try_get_pfn() decide, and expect that it is asked that often. */
static kvm_pfn_t kfp_probe_try_get(struct kunit *test, int index,
				   unsigned int flags, bool reply,
				   unsigned int calls)
{
	struct kvm_follow_pfn kfp = kfp_get(test, index, flags);
	kvm_pfn_t pfn;

	kfp.try_get_pfn = kfp_try_get_pfn;
	kfp_try_get.reply = reply;
	kfp_try_get.calls = 0;
	pfn = kfp_probe(test, kfp);
	KUNIT_EXPECT_EQ(test, kfp_try_get.calls, calls);

	return pfn;
}

KFP_TEST(kfp_try_get_pfn_decides_about_remapped_memory)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	int i;

	kvm_allow_unsafe_mappings = false;
	kfp_map_param(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, i, FOLL_WRITE, true, 1),
				env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, kfp_try_get.pfn, env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, i, 0, true, 1),
				env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, kfp_try_get.pfn, env->mem.pfn[i]);

		KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, i, FOLL_WRITE, false, 1),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, i, 0, false, 1),
				KVM_PFN_ERR_FAULT);
	}

	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_try_get_pfn_is_not_asked_about_refcounted_memory)
{
	struct kfp_env *env = test->priv;

	kfp_map_param(test);

	KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, 1, FOLL_WRITE, false, 0),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, 1, 0, false, 0),
			env->mem.pfn[1]);
}

KFP_TEST(kfp_allow_unsafe_mappings_does_not_allow_errors)
{
	kvm_allow_unsafe_mappings = true;
	kfp_alloc_memory(test, &kfp_pfnmap);
	kfp_map_memory(test, PROT_NONE, MAP_SHARED);

	kfp_expect_all_faults(test);
}

KFP_TEST(kfp_read_of_pfnmap_is_writable_only_if_allowed)
{
	struct kvm_follow_pfn kfp;
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_pfnmap);

	KUNIT_EXPECT_FALSE(test, kfp_is_writable(test, kfp_guarded(test, 1, 0)));

	kfp = kfp_guarded(test, 1, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_TRUE(test, kfp_is_writable(test, kfp));

	env->slot.flags = KVM_MEM_READONLY;
	KUNIT_EXPECT_FALSE(test, kfp_is_writable(test, kfp));
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
}

KFP_TEST(kfp_pfnmap_fault_without_pte_is_repeated)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_pfnmap);
	env->mem.reply = VM_FAULT_NOPAGE;
	env->mem.nr_replies = 3;

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 4);
}

KFP_TEST(kfp_pfnmap_fault_that_drops_mmap_lock_is_repeated)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_pfnmap);
	env->mem.reply = VM_FAULT_RETRY;
	env->mem.nr_replies = 1;

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 2);
	KUNIT_EXPECT_TRUE(test, env->mem.fault_flags & FAULT_FLAG_TRIED);
	KUNIT_EXPECT_TRUE(test, env->mem.fault_flags & FAULT_FLAG_WRITE);
}

KFP_TEST(kfp_pfnmap_that_is_unmapped_during_the_fault_is_a_fault)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;

	kfp_map_shared(test, &kfp_pfnmap);
	before = kfp_pages_state(test);
	env->mem.reply = VM_FAULT_RETRY;
	env->mem.nr_replies = 1;
	env->mem.unmap = true;

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	kfp_expect_untouched(test, &before);
}

static void kfp_map_pfn_mkwrite(struct kunit *test, vm_fault_t reply)
{
	struct kfp_env *env = test->priv;

	env->mem.use_mkwrite = true;
	env->mem.mkwrite_reply = reply;
	kfp_map_shared(test, &kfp_pfnmap);
}

KFP_TEST(kfp_write_to_read_only_pte_takes_a_write_fault)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;

	kfp_map_pfn_mkwrite(test, 0);
	before = kfp_pages_state(test);

	/* A read does not need the permission, so does not ask for it. */
	kfp = kfp_guarded(test, 1, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 0);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);

	/* The PTE is writable now. */
	KUNIT_EXPECT_TRUE(test, kfp_is_writable(test, kfp));
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);
	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_write_fault_that_maps_read_only_is_followed_by_another)
{
	struct kfp_env *env = test->priv;

	kfp_map_pfn_mkwrite(test, 0);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 1);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);
}

KFP_TEST(kfp_write_to_private_pfnmap_breaks_cow_and_read_does_not)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	kvm_pfn_t pfn;

	kfp_alloc_memory(test, &kfp_remap);
	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	before = kfp_pages_state(test);

	kfp = kfp_guarded(test, 1, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp), env->mem.pfn[1]);

	pfn = kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE));
	KUNIT_EXPECT_FALSE(test, is_error_noslot_pfn(pfn));
	KUNIT_EXPECT_NE(test, pfn, env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)), pfn);

	/*
	 * The copy is anonymous memory, which the fast route finds.  Whoever
	 * reads and may write without another lookup has to mark the page.
	 */
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), pfn);
	KUNIT_EXPECT_TRUE(test, !kfp.writable || kfp.page);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 2, 0)),
			env->mem.pfn[2]);
	kfp_expect_untouched(test, &before);
}

KFP_TEST(kfp_owner_that_insists_on_read_only_is_ro_fault)
{
	struct kfp_env *env = test->priv;

	kfp_map_pfn_mkwrite(test, VM_FAULT_NOPAGE);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 2, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 2);

	kvm_allow_unsafe_mappings = true;
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
			env->mem.pfn[1]);

	/* Nobody takes a reference to what is refused. */
	KUNIT_EXPECT_EQ(test, kfp_probe_try_get(test, 1, FOLL_WRITE, true, 0),
			KVM_PFN_ERR_RO_FAULT);
}

/* A handler that was interrupted leaves the PTE as it was. */
KFP_TEST(kfp_signal_ends_a_write_fault_of_pfnmap)
{
	struct kfp_env *env = test->priv;

	kfp_map_pfn_mkwrite(test, VM_FAULT_NOPAGE);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
			env->mem.pfn[1]);

	allow_signal(SIGUSR1);
	send_sig(SIGUSR1, current, 1);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_SIGPENDING);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 2, FOLL_WRITE)),
			KVM_PFN_ERR_SIGPENDING);
	flush_signals(current);
	disallow_signal(SIGUSR1);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
}

#ifdef CONFIG_KVM_GENERIC_MMU_NOTIFIER
/* Whoever was refused a write does not get to the retry check under mmu_lock. */
KFP_TEST(kfp_ro_fault_is_stale_if_an_invalidation_has_overtaken_it)
{
	struct kfp_env *env = test->priv;
	struct kvm *kvm = env->kvm;
	unsigned long seq = kvm->mmu_invalidate_seq;

	KUNIT_EXPECT_FALSE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN, seq));

	/* In progress: the gfns matter. */
	kvm->mmu_invalidate_in_progress = 1;
	kvm->mmu_invalidate_range_start = KFP_GFN;
	kvm->mmu_invalidate_range_end = KFP_GFN + 1;
	KUNIT_EXPECT_FALSE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN - 1, seq));
	KUNIT_EXPECT_TRUE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN, seq));
	KUNIT_EXPECT_FALSE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN + 1, seq));

	/* Completed: which they were is not known anymore. */
	kvm->mmu_invalidate_seq++;
	kvm->mmu_invalidate_in_progress = 0;
	KUNIT_EXPECT_TRUE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN, seq));
	KUNIT_EXPECT_TRUE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN + 1, seq));
	KUNIT_EXPECT_FALSE(test, kvm_ro_fault_is_stale(kvm, KFP_GFN, seq + 1));
}
#endif

KFP_TEST(kfp_error_of_pfn_mkwrite_is_passed_on)
{
	const struct kfp_handler_error *error = test->param_value;
	struct kfp_env *env = test->priv;

	kfp_map_pfn_mkwrite(test, error->reply);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
			env->mem.pfn[1]);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			error->pfn);
	KUNIT_EXPECT_EQ(test, env->mem.mkwrites, 1);
}

static const struct {
	const char *name;
	bool populate;
} kfp_pte_states[] = {
	{ "PTE absent", false },
	{ "PTE present", true },
};

KUNIT_ARRAY_PARAM_DESC(kfp_pte_state, kfp_pte_states, name);

static void kfp_map_pfnmap_prot(struct kunit *test, unsigned long prot)
{
	const typeof(kfp_pte_states[0]) *state = test->param_value;
	struct kfp_env *env = test->priv;

	env->mem.populate = state->populate;
	kfp_alloc_memory(test, &kfp_pfnmap);
	kfp_map_memory(test, prot, MAP_SHARED);
}

KFP_TEST(kfp_write_to_read_only_pfnmap_vma_is_ro_fault)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_pfnmap_prot(test, PROT_READ);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 0);

	kfp = kfp_guarded(test, 1, 0);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 1, FOLL_WRITE)),
			KVM_PFN_ERR_RO_FAULT);
}

KFP_TEST(kfp_prot_none_pfnmap_vma_is_a_fault)
{
	struct kfp_env *env = test->priv;

	kfp_map_pfnmap_prot(test, PROT_NONE);

	kfp_expect_all_faults(test);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 0);
}

KFP_TEST(kfp_write_only_pfnmap_vma_cannot_be_read)
{
	struct kfp_env *env = test->priv;

	kfp_map_pfnmap_prot(test, PROT_WRITE);

	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
			KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
			env->mem.pfn[1]);
}

KFP_TEST(kfp_special_pte_outside_of_pfnmap_is_a_fault)
{
	int i;

	kfp_map_shared(test, &kfp_mixedmap_special);
	kvm_allow_unsafe_mappings = true;

	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, FOLL_WRITE)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 1, 0)),
				KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 1, 0)),
				KVM_PFN_ERR_FAULT);
	}
}

/* Private memory. */

/* Have guest_memfd behind the slot, and other memory at its hva. */
static void kfp_map_private(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	int i;

	kfp_alloc_memory(test, &kfp_single);
	env->slot.flags = KVM_MEM_GUEST_MEMFD;

	kfp_map_anon(test, PROT_READ | PROT_WRITE);
	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);
}

KFP_TEST(kfp_private_memory_is_that_of_guest_memfd)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i, j;

	kfp_map_private(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		for (j = 0; j < ARRAY_SIZE(kfp_access_flags); j++) {
			env->gmem_calls = 0;
			env->gmem_order = i * j;
			kfp = kfp_private(kfp_guarded(test, i, kfp_access_flags[j]));
			KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
			KUNIT_EXPECT_EQ(test, kfp.order, i * j);
			KUNIT_EXPECT_TRUE(test, kfp.writable);
			KUNIT_EXPECT_EQ(test, env->gmem_calls, 1);
			kfp_expect_untouched(test, &before);
		}
	}
}

KFP_TEST(kfp_private_memory_is_held_if_asked)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i;

	kvm_allow_unsafe_mappings = false;
	kfp_map_private(test);
	before = kfp_pages_state(test);

	for (i = 0; i < KFP_PAGES; i++) {
		kfp = kfp_private(kfp_get(test, i, i & 1 ? FOLL_WRITE : 0));
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[i]);
		KUNIT_EXPECT_EQ(test, page_ref_count(env->mem.page[i]),
				before.count[i] + 1);
		kfp_release(&kfp, false);
		kfp_expect_counts(test, &before, 0);
	}
}

KFP_TEST(kfp_private_memory_needs_no_hva)
{
	struct kfp_env *env = test->priv;

	kfp_map_private(test);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 0), KFP_SIZE));
	env->slot.userspace_addr = 0;

	KUNIT_EXPECT_EQ(test,
			kfp_probe(test, kfp_private(kfp_guarded(test, 1, FOLL_WRITE))),
			env->mem.pfn[1]);
}

static const struct {
	const char *name;
	int err;
} kfp_gmem_errors[] = {
	{ "EFAULT", -EFAULT },
	{ "EHWPOISON", -EHWPOISON },
	{ "ENOMEM", -ENOMEM },
	{ "EIO", -EIO },
	{ "EINTR", -EINTR },
	{ "EAGAIN", -EAGAIN },
};

KUNIT_ARRAY_PARAM_DESC(kfp_gmem_error, kfp_gmem_errors, name);

/* The memory at the hva is never the answer instead. */
KFP_TEST(kfp_errno_of_guest_memfd_is_passed_on)
{
	const typeof(kfp_gmem_errors[0]) *error = test->param_value;
	struct kfp_env *env = test->priv;
	struct kfp_pages_state before;
	struct kvm_follow_pfn kfp;
	int i;

	kfp_map_private(test);
	before = kfp_pages_state(test);
	env->gmem_err = error->err;

	for (i = 0; i < ARRAY_SIZE(kfp_access_flags); i++) {
		kfp = kfp_private(kfp_guarded(test, 1, kfp_access_flags[i]));
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp.err, error->err);
		KUNIT_EXPECT_EQ(test, kfp.hva, KVM_HVA_ERR_BAD);

		kfp = kfp_private(kfp_get(test, 1, kfp_access_flags[i]));
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), KVM_PFN_ERR_FAULT);
		KUNIT_EXPECT_EQ(test, kfp.err, error->err);
	}
	kfp_expect_untouched(test, &before);
}

/* Expect an answer that guest_memfd is not asked for. */
static void kfp_expect_no_gmem(struct kunit *test, unsigned int slot_flags,
			       unsigned int flags, kvm_pfn_t pfn,
			       unsigned long hva)
{
	struct kvm_follow_pfn kfp = kfp_private(kfp_guarded(test, 1, flags));
	struct kfp_env *env = test->priv;

	env->slot.flags = slot_flags;
	env->gmem_calls = 0;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), pfn);
	KUNIT_EXPECT_EQ(test, kfp.err, -EFAULT);
	KUNIT_EXPECT_EQ(test, kfp.hva, hva);
	KUNIT_EXPECT_EQ(test, env->gmem_calls, 0);
}

KFP_TEST(kfp_private_gfn_without_guest_memfd_is_efault)
{
	kfp_map_private(test);

	kfp_expect_no_gmem(test, 0, 0, KVM_PFN_ERR_FAULT, KVM_HVA_ERR_BAD);
	kfp_expect_no_gmem(test, 0, FOLL_WRITE, KVM_PFN_ERR_FAULT, KVM_HVA_ERR_BAD);
}

KFP_TEST(kfp_private_gfn_obeys_the_flags_of_the_slot)
{
	const unsigned int read_only = KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY;
	const unsigned int invalid = KVM_MEM_GUEST_MEMFD | KVM_MEMSLOT_INVALID;
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;

	kfp_map_private(test);

	kfp_expect_no_gmem(test, invalid, 0, KVM_PFN_NOSLOT, KVM_HVA_ERR_BAD);
	kfp_expect_no_gmem(test, invalid, FOLL_WRITE, KVM_PFN_NOSLOT, KVM_HVA_ERR_BAD);
	kfp_expect_no_gmem(test, read_only, FOLL_WRITE, KVM_PFN_ERR_RO_FAULT,
			   KVM_HVA_ERR_RO_BAD);

	/* Userspace cannot have such a slot, so nothing but this says so. */
	env->slot.flags = read_only;
	kfp = kfp_private(kfp_guarded(test, 1, 0));
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
	KUNIT_EXPECT_FALSE(test, kfp.writable);
}

KFP_TEST(kfp_shared_gfn_with_guest_memfd_is_that_of_the_hva)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;
	int i;

	/* Both are the same memory, so only the route tells them apart. */
	kfp_map_shared(test, &kfp_single);
	env->slot.flags = KVM_MEM_GUEST_MEMFD;

	/* Absent first, then present. */
	for (i = 0; i < 2; i++) {
		kfp = kfp_guarded(test, 1, FOLL_WRITE);
		KUNIT_EXPECT_EQ(test, kfp_lookup(test, &kfp), env->mem.pfn[1]);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 1, 0)),
				env->mem.pfn[1]);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_get(test, 1, 0)),
				env->mem.pfn[1]);
		KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_pin(test, 1, FOLL_WRITE)),
				env->mem.pfn[1]);
	}

	/* What is not there is not looked for in guest_memfd. */
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 1), PAGE_SIZE));
	kfp_expect_all_faults(test);
}

/* Batches. */

static struct kvm_follow_pfn kfp_atomic(struct kunit *test, int index)
{
	struct kvm_follow_pfn kfp = kfp_guarded(test, index, FOLL_WRITE);

	kfp.atomic = true;
	return kfp;
}

static int kfp_batch(struct kunit *test, struct kvm_follow_pfn *kfp,
		     struct page **pages, int nr)
{
	struct kfp_env *env = test->priv;
	int found;

	memset(pages, 0, KFP_PAGES * sizeof(*pages));
	kfp_poison(kfp);

	KVM_MMU_LOCK(env->kvm);
	found = kvm_follow_pfn_batch(kfp, pages, nr);
	KVM_MMU_UNLOCK(env->kvm);

	return found;
}

/* Expect @found pages, from page @index on, and an answer for the last. */
static void kfp_expect_batch(struct kunit *test, int index, int nr, int found)
{
	struct kvm_follow_pfn kfp = kfp_atomic(test, index);
	struct kfp_pages_state before = kfp_pages_state(test);
	struct kfp_env *env = test->priv;
	struct page *pages[KFP_PAGES];
	int i;

	KUNIT_EXPECT_EQ(test, kfp_batch(test, &kfp, pages, nr), found);
	for (i = 0; i < KFP_PAGES; i++)
		KUNIT_EXPECT_PTR_EQ(test, pages[i],
				    i < found ? env->mem.page[index + i] : NULL);
	kfp_expect_counts(test, &before, 0);
	KUNIT_EXPECT_EQ(test, env->misuses, 0);

	if (found) {
		KUNIT_EXPECT_EQ(test, kfp.gfn, KFP_GFN + index + found - 1);
		KUNIT_EXPECT_EQ(test, kfp.pfn, env->mem.pfn[index + found - 1]);
		kfp_expect_pfn(test, &kfp);
	} else {
		kfp_expect_no_pfn(test, &kfp);
	}
}

KFP_TEST(kfp_batch_finds_neighbours_and_holds_nothing)
{
	int i;

	kfp_map_shared(test, &kfp_single);
	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);

	kfp_expect_batch(test, 0, KFP_PAGES, KFP_PAGES);
	kfp_expect_batch(test, 0, 1, 1);
	kfp_expect_batch(test, 1, 2, 2);
}

KFP_TEST(kfp_batch_ends_with_the_slot)
{
	struct kfp_env *env = test->priv;
	int i;

	kfp_map_shared(test, &kfp_single);
	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);
	env->slot.npages = KFP_PAGES - 1;

	kfp_expect_batch(test, 0, KFP_PAGES, KFP_PAGES - 1);
	kfp_expect_batch(test, 1, KFP_PAGES, KFP_PAGES - 2);
	kfp_expect_batch(test, KFP_PAGES - 2, KFP_PAGES, 1);
}

KFP_TEST(kfp_batch_stops_at_absent_memory_and_faults_nothing_in)
{
	struct kfp_env *env = test->priv;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	kfp_touch(test, 1);
	kfp_touch(test, 3);
	env->mem.faults = 0;

	kfp_expect_batch(test, 0, KFP_PAGES, 2);
	kfp_expect_batch(test, 2, 2, 0);
	kfp_expect_batch(test, 3, 1, 1);
	KUNIT_EXPECT_EQ(test, env->mem.faults, 0);
}

KFP_TEST(kfp_batch_stops_at_a_hole)
{
	int i;

	kfp_map_shared(test, &kfp_single);
	for (i = 0; i < KFP_PAGES; i++)
		kfp_touch(test, i);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 2), PAGE_SIZE));

	kfp_expect_batch(test, 0, KFP_PAGES, 2);
	kfp_expect_batch(test, 2, 2, 0);
}

KFP_TEST(kfp_batch_finds_writable_memory_only)
{
	struct kfp_env *env = test->priv;

	kfp_alloc_memory(test, &kfp_single);
	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	/* Have the page mapped as long as COW is pending. */
	KUNIT_EXPECT_EQ(test, kfp_probe(test, kfp_guarded(test, 0, 0)),
			env->mem.pfn[0]);

	kfp_expect_batch(test, 0, KFP_PAGES, 0);
}

KFP_TEST(kfp_batch_finds_nothing_in_pfnmap)
{
	kfp_map_shared(test, &kfp_pfnmap);
	kfp_probe(test, kfp_guarded(test, 0, FOLL_WRITE));

	kfp_expect_batch(test, 0, KFP_PAGES, 0);
}

KFP_TEST(kfp_batch_obeys_the_flags_of_the_slot)
{
	struct kvm_follow_pfn kfp = kfp_atomic(test, 0);
	struct kfp_env *env = test->priv;
	struct page *pages[KFP_PAGES];

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);

	env->slot.flags = KVM_MEM_READONLY;
	kfp_expect_batch(test, 0, 1, 0);
	KUNIT_EXPECT_EQ(test, kfp_batch(test, &kfp, pages, 1), 0);
	KUNIT_EXPECT_EQ(test, kfp.pfn, KVM_PFN_ERR_RO_FAULT);

	env->slot.flags = KVM_MEMSLOT_INVALID;
	kfp_expect_batch(test, 0, 1, 0);
	KUNIT_EXPECT_EQ(test, kfp_batch(test, &kfp, pages, 1), 0);
	KUNIT_EXPECT_EQ(test, kfp.pfn, KVM_PFN_NOSLOT);
}

static const struct kfp_request kfp_bad_batches[] = {
	{ "bad request", .flags = FOLL_WRITE, .atomic = true },
	{ "gfn outside of the slot", .gfn_offset = KFP_PAGES,
	  .flags = FOLL_WRITE, .guarded = true, .atomic = true },
	{ "hva", .no_slot = true, .by_hva = true, .flags = FOLL_WRITE,
	  .guarded = true, .atomic = true },
	{ "not atomic", .flags = FOLL_WRITE, .guarded = true },
	{ "not guarded", .flags = FOLL_WRITE | FOLL_GET, .atomic = true },
	{ "read", .guarded = true, .atomic = true },
	{ "private", .is_private = true, .flags = FOLL_WRITE, .guarded = true,
	  .atomic = true },
};

KUNIT_ARRAY_PARAM(kfp_bad_batch, kfp_bad_batches, kfp_request_desc);

static void kfp_expect_bad_batch(struct kunit *test, struct kvm_follow_pfn *kfp,
				 int nr)
{
	struct kfp_pages_state before = kfp_pages_state(test);
	struct kfp_env *env = test->priv;
	struct page *pages[KFP_PAGES];

	env->misuses = 0;
	KUNIT_EXPECT_EQ(test, kfp_batch(test, kfp, pages, nr), 0);
	KUNIT_EXPECT_EQ(test, kfp->pfn, KVM_PFN_ERR_FAULT);
	KUNIT_EXPECT_NULL(test, pages[0]);
	kfp_expect_no_pfn(test, kfp);
	kfp_expect_untouched(test, &before);
	KUNIT_EXPECT_EQ(test, env->misuses, 1);
}

KFP_TEST(kfp_bad_batch_is_reported_once_and_finds_nothing)
{
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);

	kfp = kfp_make_request(test, test->param_value);
	kfp_expect_bad_batch(test, &kfp, KFP_PAGES);
}

KFP_TEST(kfp_batch_of_less_than_one_is_reported_and_finds_nothing)
{
	struct kvm_follow_pfn kfp;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);

	kfp = kfp_atomic(test, 0);
	kfp_expect_bad_batch(test, &kfp, 0);
	kfp = kfp_atomic(test, 0);
	kfp_expect_bad_batch(test, &kfp, -1);
}

/* Marking and releasing. */

static void kfp_mark_locked(struct kunit *test, struct page *page, bool dirty)
{
	struct kfp_env *env = test->priv;

	KVM_MMU_LOCK(env->kvm);
	kvm_mark_page_mapped(env->kvm, page, dirty);
	KVM_MMU_UNLOCK(env->kvm);
}

static void kfp_mark_page_marks_dirty_only_as_told(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	kfp_alloc_memory(test, &kfp_single);

	kfp_mark_locked(test, env->mem.page[0], false);
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(env->mem.page[0]));
	KUNIT_EXPECT_FALSE(test, PageDirty(env->mem.page[0]));

	kfp_mark_locked(test, env->mem.page[1], true);
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(env->mem.page[1]));
	KUNIT_EXPECT_TRUE(test, PageDirty(env->mem.page[1]));
}

static void kfp_mark_page_leaves_reserved_pages_alone(struct kunit *test)
{
	static const struct kfp_kind reserved = { .source = KFP_RESERVED };
	struct kfp_pages_state before;
	struct kfp_env *env = test->priv;

	kfp_alloc_memory(test, &reserved);
	before = kfp_pages_state(test);

	kfp_mark_locked(test, env->mem.page[0], false);
	kfp_mark_locked(test, env->mem.page[1], true);
	kfp_expect_untouched(test, &before);
}

static void kfp_mark_page_leaves_the_zero_page_alone(struct kunit *test)
{
	struct page *page = ZERO_PAGE(0);
	unsigned long flags = page->flags;

	if (!PageReserved(page))
		kunit_skip(test, "the zero page is not PG_reserved here");

	/* get_user_pages() may have set PG_referenced already, but not PG_dirty. */
	kfp_mark_locked(test, page, true);
	KUNIT_EXPECT_EQ(test, page->flags, flags);
	KUNIT_EXPECT_FALSE(test, PageDirty(page));
}

static void kfp_mark_page_takes_null_for_memory_without_references(struct kunit *test)
{
	kfp_mark_locked(test, NULL, true);
	__kvm_mark_page_mapped(NULL, true);
}

static void kfp_expect_release(struct kunit *test, int index,
			       enum kvm_pfn_hold hold, bool dirty)
{
	struct kfp_env *env = test->priv;
	struct page *page = env->mem.page[index];
	int count = page_ref_count(page);

	if (hold == KVM_PFN_HOLD_REF)
		get_page(page);

	kvm_release_held_page(page, hold, dirty);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
	KUNIT_EXPECT_EQ(test, kfp_is_referenced(page), hold != KVM_PFN_HOLD_NONE);
	KUNIT_EXPECT_EQ(test, PageDirty(page), hold != KVM_PFN_HOLD_NONE && dirty);
}

static void kfp_release_marks_and_puts_what_is_held_only(struct kunit *test)
{
	kfp_alloc_memory(test, &kfp_single);

	kfp_expect_release(test, 0, KVM_PFN_HOLD_NONE, true);
	kfp_expect_release(test, 1, KVM_PFN_HOLD_REF, false);
	kfp_expect_release(test, 2, KVM_PFN_HOLD_REF, true);

	kvm_release_held_page(NULL, KVM_PFN_HOLD_NONE, true);
}

/* To set the flag is not enough, the page may have been written back meanwhile. */
static void kfp_release_tells_the_file_that_a_page_is_dirty(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	struct page *page;

	kfp_alloc_memory(test, &kfp_single);
	page = env->mem.page[0];
	kfp_own(env, page);

	kfp_expect_release(test, 0, KVM_PFN_HOLD_REF, false);
	KUNIT_EXPECT_EQ(test, env->owner.told, 0);
	kfp_unmark(page);
	kfp_expect_release(test, 0, KVM_PFN_HOLD_REF, true);
	KUNIT_EXPECT_EQ(test, env->owner.told, 1);
	KUNIT_EXPECT_EQ(test, env->owner.told_locked, 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(page_folio(page)));

	/* It knows already. */
	folio_clear_referenced(page_folio(page));
	kfp_expect_release(test, 0, KVM_PFN_HOLD_REF, true);
	KUNIT_EXPECT_EQ(test, env->owner.told, 1);

	kfp_disown(env);
}

KFP_TEST(kfp_release_of_a_pin_marks_and_unpins)
{
	struct kfp_env *env = test->priv;
	struct kvm_follow_pfn kfp;
	struct page *page;
	int count;

	kfp_map_shared(test, &kfp_single);
	kfp_touch(test, 0);
	page = env->mem.page[0];
	count = page_ref_count(page);

	folio_clear_referenced(page_folio(page));
	ClearPageDirty(page);
	kfp = kfp_pin(test, 0, FOLL_WRITE);
	kfp_lookup(test, &kfp);
	folio_clear_referenced(page_folio(page));
	ClearPageDirty(page);
	kfp_release(&kfp, false);
	KUNIT_EXPECT_TRUE(test, kfp_is_referenced(page));
	KUNIT_EXPECT_FALSE(test, PageDirty(page));

	kfp_lookup(test, &kfp);
	ClearPageDirty(page);
	kfp_release(&kfp, true);
	KUNIT_EXPECT_TRUE(test, PageDirty(page));

	KUNIT_EXPECT_FALSE(test, kfp_is_pinned(page));
	KUNIT_EXPECT_EQ(test, page_ref_count(page), count);
}

/* Every route finds the same frames, and each kind of memory has its answers. */

/* The answer to one request, for the tables below. */
enum kfp_answer {
	KFP_AS_NOW,	/* in kfp_memories[].linux_6_12: does not differ */
	KFP_R,		/* a pfn, not writable */
	KFP_W,		/* a pfn, writable */
	KFP_FAULT,
	KFP_RO_FAULT,
	KFP_HWPOISON,
	KFP_NEEDS_IO,
	KFP_NOSLOT,
	KFP_OTHER,
};

static const char *const kfp_answer_names[] = {
	[KFP_R] = "read-only pfn",
	[KFP_W] = "writable pfn",
	[KFP_FAULT] = "FAULT",
	[KFP_RO_FAULT] = "RO_FAULT",
	[KFP_HWPOISON] = "HWPOISON",
	[KFP_NEEDS_IO] = "NEEDS_IO",
	[KFP_NOSLOT] = "NOSLOT",
	[KFP_OTHER] = "other error",
};

static enum kfp_answer kfp_answer(const struct kvm_follow_pfn *kfp)
{
	switch (kfp->pfn) {
	case KVM_PFN_ERR_FAULT:
		return KFP_FAULT;
	case KVM_PFN_ERR_RO_FAULT:
		return KFP_RO_FAULT;
	case KVM_PFN_ERR_HWPOISON:
		return KFP_HWPOISON;
	case KVM_PFN_ERR_NEEDS_IO:
		return KFP_NEEDS_IO;
	case KVM_PFN_NOSLOT:
		return KFP_NOSLOT;
	default:
		if (is_error_noslot_pfn(kfp->pfn))
			return KFP_OTHER;
		return kfp->writable ? KFP_W : KFP_R;
	}
}

/* The columns of kfp_memories[]. */
enum kfp_column {
	KFP_READ,
	KFP_WRITE,
	KFP_NOWAIT_READ,
	KFP_NOWAIT_WRITE,
	KFP_READ_ONLY_SLOT,
	KFP_UNGUARDED_READ,
	KFP_UNGUARDED_WRITE,
	KFP_NR_COLUMNS,
};

/*
 * The requests, and their answers, which are in a column, unless they do not
 * depend on the memory.  Guarded reads may be answered with a writable pfn.
 */
static const struct {
	const char *name;
	unsigned int slot_flags;
	unsigned int flags;
	bool pin;
	enum kfp_column column;
	enum kfp_answer answer;
} kfp_table_requests[] = {
	{ "read", .column = KFP_READ },
	{ "write", .flags = FOLL_WRITE, .column = KFP_WRITE },
	{ "read, FOLL_NOWAIT", .flags = FOLL_NOWAIT,
	  .column = KFP_NOWAIT_READ },
	{ "write, FOLL_NOWAIT", .flags = FOLL_WRITE | FOLL_NOWAIT,
	  .column = KFP_NOWAIT_WRITE },
	{ "read of a read-only slot", .slot_flags = KVM_MEM_READONLY,
	  .column = KFP_READ_ONLY_SLOT },
	{ "write to a read-only slot", .slot_flags = KVM_MEM_READONLY,
	  .flags = FOLL_WRITE, .answer = KFP_RO_FAULT },
	{ "unguarded write to a read-only slot", .slot_flags = KVM_MEM_READONLY,
	  .flags = FOLL_WRITE | FOLL_GET, .answer = KFP_RO_FAULT },
	{ "read with a reference", .flags = FOLL_GET,
	  .column = KFP_UNGUARDED_READ },
	{ "write with a reference", .flags = FOLL_WRITE | FOLL_GET,
	  .column = KFP_UNGUARDED_WRITE },
	{ "read with a pin", .pin = true, .column = KFP_UNGUARDED_READ },
	{ "write with a pin", .flags = FOLL_WRITE, .pin = true,
	  .column = KFP_UNGUARDED_WRITE },
	{ "read of an invalid slot", .slot_flags = KVM_MEMSLOT_INVALID,
	  .answer = KFP_NOSLOT },
	{ "write to an invalid slot", .slot_flags = KVM_MEMSLOT_INVALID,
	  .flags = FOLL_WRITE, .answer = KFP_NOSLOT },
	{ "write to an invalid read-only slot",
	  .slot_flags = KVM_MEMSLOT_INVALID | KVM_MEM_READONLY,
	  .flags = FOLL_WRITE, .answer = KFP_NOSLOT },
};

#define KFP_RW (PROT_READ | PROT_WRITE)

/* Short, for rows that fit into a line. */
#define R	KFP_R
#define W	KFP_W
#define FAULT	KFP_FAULT
#define RO	KFP_RO_FAULT
#define POISON	KFP_HWPOISON
#define IO	KFP_NEEDS_IO
#define ALL(x)	{ [0 ... KFP_NR_COLUMNS - 1] = x }

/*
 * The fast get_user_pages() does not find pages without mapping where it looks
 * for secretmem, and then a read is not upgraded.
 */
#define MIXED	(IS_ENABLED(CONFIG_SECRETMEM) ? R : W)

/*
 * What is mapped, with all pages touched, from kfp_memory if mem.kind is set;
 * which page is looked up; and the answers, in the order of enum kfp_column:
 *
 *	read, write, both with FOLL_NOWAIT, read of a read-only slot,
 *	unguarded read, unguarded write
 *
 * followed by those of Linux 6.12, if any differs: __gfn_to_pfn_memslot(), with
 * @async for FOLL_NOWAIT, and with @writable unless the request is unguarded.
 * Only that these do differ can be tested here.  What they are was verified by
 * running this table on a copy of the functions of 6.12.
 */
static const struct {
	const char *name;
	struct kfp_memory mem;
	bool is_shmem;
	unsigned long prot;
	unsigned long flags;
	bool is_touched;
	bool is_hole;
	int index;
	enum kfp_answer answers[KFP_NR_COLUMNS];
	enum kfp_answer linux_6_12[KFP_NR_COLUMNS];
} kfp_memories[] = {
	{ "anonymous", .prot = KFP_RW,
	  .answers = { R, W, R, W, R, R, W } },
	{ "anonymous, written", .prot = KFP_RW, .is_touched = true,
	  .answers = { W, W, W, W, R, R, W } },
	{ "anonymous, PROT_READ", .prot = PROT_READ,
	  .answers = { R, FAULT, R, FAULT, R, R, FAULT } },
	{ "anonymous, PROT_NONE", .prot = PROT_NONE, .answers = ALL(FAULT) },
	{ "hole", .prot = KFP_RW, .is_hole = true, .answers = ALL(FAULT) },
	{ "shmem", .is_shmem = true, .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, R, W } },
	{ "shmem, MAP_PRIVATE", .is_shmem = true, .prot = KFP_RW,
	  .flags = MAP_PRIVATE, .answers = { R, W, R, W, R, R, W } },
	{ "shmem, MAP_PRIVATE, written", .is_shmem = true, .prot = KFP_RW,
	  .flags = MAP_PRIVATE, .is_touched = true,
	  .answers = { W, W, W, W, R, R, W } },
	{ "shmem, PROT_READ", .is_shmem = true, .prot = PROT_READ,
	  .flags = MAP_SHARED,
	  .answers = { R, FAULT, R, FAULT, R, R, FAULT } },

	{ "single pages", { &kfp_single }, .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, R, W } },
	{ "compound page", { &kfp_compound }, .prot = KFP_RW,
	  .flags = MAP_SHARED, .answers = { W, W, W, W, R, R, W } },
	{ "VM_MIXEDMAP", { &kfp_mixedmap }, .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { MIXED, W, MIXED, W, R, R, W } },
	/* "async" was set where nothing can be waited for. */
	{ "VM_MIXEDMAP, special entries", { &kfp_mixedmap_special },
	  .prot = KFP_RW, .flags = MAP_SHARED, .answers = ALL(FAULT),
	  .linux_6_12 = { [KFP_NOWAIT_READ] = IO, [KFP_NOWAIT_WRITE] = IO } },

	/* The handler waits, which VM_PFNMAP cannot do asynchronously. */
	{ "single pages, handler waits",
	  { &kfp_single, .nr_replies = 1, .reply = VM_FAULT_RETRY },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, IO, IO, R, R, W } },
	{ "VM_PFNMAP, handler waits",
	  { &kfp_pfnmap, .nr_replies = 1, .reply = VM_FAULT_RETRY },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },

	/* Again, "async" was set for what does not come. */
	{ "single pages, SIGBUS",
	  { &kfp_single, .nr_replies = 1000, .reply = VM_FAULT_SIGBUS },
	  .prot = KFP_RW, .flags = MAP_SHARED, .answers = ALL(FAULT),
	  .linux_6_12 = { [KFP_NOWAIT_READ] = IO, [KFP_NOWAIT_WRITE] = IO } },
	{ "single pages, out of memory",
	  { &kfp_single, .nr_replies = 1000, .reply = VM_FAULT_OOM },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { FAULT, FAULT, IO, IO, FAULT, FAULT, FAULT } },
	{ "single pages, poison",
	  { &kfp_single, .nr_replies = 1000, .reply = VM_FAULT_HWPOISON },
	  .prot = KFP_RW, .flags = MAP_SHARED, .answers = ALL(POISON) },

	/* fixup_user_fault() did not tell poison. */
	{ "VM_PFNMAP, SIGBUS",
	  { &kfp_pfnmap, .nr_replies = 1000, .reply = VM_FAULT_SIGBUS },
	  .prot = KFP_RW, .flags = MAP_SHARED, .answers = ALL(FAULT) },
	{ "VM_PFNMAP, out of memory",
	  { &kfp_pfnmap, .nr_replies = 1000, .reply = VM_FAULT_OOM },
	  .prot = KFP_RW, .flags = MAP_SHARED, .answers = ALL(FAULT) },
	{ "VM_PFNMAP, poison",
	  { &kfp_pfnmap, .nr_replies = 1000, .reply = VM_FAULT_HWPOISON },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { POISON, POISON, POISON, POISON, POISON, FAULT, FAULT },
	  .linux_6_12 = { FAULT, FAULT, FAULT, FAULT, FAULT } },

	/* What cannot be referenced is refused, unless guarded. */
	{ "VM_PFNMAP", { &kfp_pfnmap }, .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_PFNMAP, PTE present", { &kfp_pfnmap, .populate = true },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_PFNMAP, single pages", { &kfp_pfnmap_single },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_PFNMAP, reserved pages", { &kfp_pfnmap_reserved },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_PFNMAP, no struct page", { &kfp_pageless },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_IO", { &kfp_io }, .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
	{ "remap_pfn_range()", { &kfp_remap }, .prot = KFP_RW,
	  .flags = MAP_SHARED, .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },

	/* Tails have no count that a reference could be added to. */
	{ "VM_PFNMAP, tail", { &kfp_pfnmap }, .prot = KFP_RW,
	  .flags = MAP_SHARED, .index = 1,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { FAULT, FAULT, FAULT, FAULT, FAULT } },
	{ "VM_PFNMAP, tail of a compound page", { &kfp_pfnmap_compound },
	  .prot = KFP_RW, .flags = MAP_SHARED, .index = 1,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { FAULT, FAULT, FAULT, FAULT, FAULT } },

	/* A PTE that goes away at once, or is never made, was the end. */
	{ "VM_PFNMAP, no PTE after the first fault",
	  { &kfp_pfnmap, .nr_replies = 1, .reply = VM_FAULT_NOPAGE },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { W, W, W, W, R, FAULT, FAULT },
	  .linux_6_12 = { FAULT, FAULT, FAULT, FAULT, FAULT } },

	/* The owner was not asked for the permission to write. */
	{ "VM_PFNMAP, pfn_mkwrite", { &kfp_pfnmap, .use_mkwrite = true },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { R, W, R, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_WRITE] = RO, [KFP_NOWAIT_WRITE] = RO,
			  [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = RO } },
	{ "VM_PFNMAP, pfn_mkwrite insists on read-only",
	  { &kfp_pfnmap, .use_mkwrite = true, .mkwrite_reply = VM_FAULT_NOPAGE },
	  .prot = KFP_RW, .flags = MAP_SHARED,
	  .answers = { R, RO, R, RO, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = RO } },
	{ "remap_pfn_range(), MAP_PRIVATE", { &kfp_remap }, .prot = KFP_RW,
	  .flags = MAP_PRIVATE, .answers = { R, W, R, W, R, FAULT, FAULT },
	  .linux_6_12 = { [KFP_WRITE] = RO, [KFP_NOWAIT_WRITE] = RO,
			  [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = RO } },
	/* The fast route finds the copy. */
	{ "remap_pfn_range(), MAP_PRIVATE, written", { &kfp_remap },
	  .prot = KFP_RW, .flags = MAP_PRIVATE, .is_touched = true,
	  .answers = { W, W, W, W, R, R, W } },

	/* The answer to a write depended on the PTE. */
	{ "VM_PFNMAP, PROT_READ", { &kfp_pfnmap }, .prot = PROT_READ,
	  .flags = MAP_SHARED, .answers = { R, RO, R, RO, R, FAULT, RO },
	  .linux_6_12 = { [KFP_WRITE] = FAULT, [KFP_NOWAIT_WRITE] = FAULT,
			  [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = FAULT } },
	{ "VM_PFNMAP, PROT_READ, PTE present",
	  { &kfp_pfnmap, .populate = true }, .prot = PROT_READ,
	  .flags = MAP_SHARED, .answers = { R, RO, R, RO, R, FAULT, RO },
	  .linux_6_12 = { [KFP_UNGUARDED_READ] = R } },

	/* With a PTE, VM_READ was not required. */
	{ "VM_PFNMAP, PROT_NONE", { &kfp_pfnmap }, .prot = PROT_NONE,
	  .flags = MAP_SHARED, .answers = ALL(FAULT) },
	{ "VM_PFNMAP, PROT_NONE, PTE present",
	  { &kfp_pfnmap, .populate = true }, .prot = PROT_NONE,
	  .flags = MAP_SHARED, .answers = ALL(FAULT),
	  .linux_6_12 = { R, RO, R, RO, R, R, RO } },
	{ "VM_PFNMAP, PROT_WRITE", { &kfp_pfnmap }, .prot = PROT_WRITE,
	  .flags = MAP_SHARED,
	  .answers = { FAULT, W, FAULT, W, FAULT, FAULT, FAULT },
	  .linux_6_12 = { [KFP_UNGUARDED_WRITE] = W } },
	{ "VM_PFNMAP, PROT_WRITE, PTE present",
	  { &kfp_pfnmap, .populate = true }, .prot = PROT_WRITE,
	  .flags = MAP_SHARED,
	  .answers = { FAULT, W, FAULT, W, FAULT, FAULT, FAULT },
	  .linux_6_12 = { [KFP_READ] = W, [KFP_NOWAIT_READ] = W,
			  [KFP_READ_ONLY_SLOT] = R,
			  [KFP_UNGUARDED_READ] = R, [KFP_UNGUARDED_WRITE] = W } },
};

#undef R
#undef W
#undef FAULT
#undef RO
#undef POISON
#undef IO
#undef ALL
#undef MIXED

KUNIT_ARRAY_PARAM_DESC(kfp_memory, kfp_memories, name);

static void kfp_prepare(struct kunit *test)
{
	const typeof(kfp_memories[0]) *memory = test->param_value;
	struct kfp_env *env = test->priv;
	int i;

	if (memory->mem.kind) {
		env->mem = memory->mem;
		kfp_alloc_memory(test, memory->mem.kind);
		kfp_map_memory(test, memory->prot, memory->flags);
	} else if (memory->is_shmem) {
		kfp_map_shmem(test, memory->prot, memory->flags);
	} else {
		kfp_map_anon(test, memory->prot);
	}

	for (i = 0; memory->is_touched && i < KFP_PAGES; i++)
		kfp_touch(test, i);
	if (memory->is_hole)
		KUNIT_ASSERT_EQ(test, 0, vm_munmap(kfp_hva(test, 0), KFP_SIZE));
}

/* No lookup shall see what another one has faulted in. */
KFP_TEST(kfp_each_memory_answers_each_request_as_listed)
{
	const typeof(kfp_memories[0]) *memory = test->param_value;
	struct kfp_env *env = test->priv;
	enum kfp_answer expected;
	struct kvm_follow_pfn kfp;
	int i;

	kvm_allow_unsafe_mappings = false;

	for (i = 0; i < ARRAY_SIZE(kfp_table_requests); i++) {
		const typeof(kfp_table_requests[0]) *r = &kfp_table_requests[i];

		kfp_prepare(test);
		env->slot.flags = r->slot_flags;
		if (r->pin)
			kfp = kfp_pin(test, memory->index, r->flags);
		else if (r->flags & FOLL_GET)
			kfp = kfp_get(test, memory->index, r->flags);
		else
			kfp = kfp_guarded(test, memory->index, r->flags);
		kfp.allow_write_mapping = kfp.guarded_by_mmu_notifier;

		kfp_lookup(test, &kfp);
		kfp_release(&kfp, false);
		expected = r->answer ?: memory->answers[r->column];
		KUNIT_EXPECT_STREQ_MSG(test, kfp_answer_names[kfp_answer(&kfp)],
				       kfp_answer_names[expected], "%s", r->name);
		kfp_drop_memory(test);
	}

	for (i = 0; i < KFP_NR_COLUMNS; i++)
		KUNIT_EXPECT_NE_MSG(test, memory->linux_6_12[i], memory->answers[i],
				    "not a difference, column %d", i);
}

/* A plain walk: get_user_pages() if possible, else the page tables. */
static kvm_pfn_t kfp_reference_walk(unsigned long hva, bool write)
{
	struct follow_pfnmap_args args = { .address = hva };
	kvm_pfn_t pfn = KVM_PFN_ERR_FAULT;
	struct page *page;

	if (get_user_pages_unlocked(hva, 1, &page, write ? FOLL_WRITE : 0) == 1) {
		put_page(page);
		return page_to_pfn(page);
	}

	mmap_read_lock(current->mm);
	/* Once for the PTE, once for the permission to write. */
	if (!fixup_user_fault(current->mm, hva, write ? FAULT_FLAG_WRITE : 0, NULL) &&
	    !fixup_user_fault(current->mm, hva, write ? FAULT_FLAG_WRITE : 0, NULL)) {
		args.vma = vma_lookup(current->mm, hva);
		if (!follow_pfnmap_start(&args)) {
			if (!write || args.writable)
				pfn = args.pfn;
			follow_pfnmap_end(&args);
		}
	}
	mmap_read_unlock(current->mm);

	return pfn;
}

/* Like kfp_probe(), but do not tell errors from each other. */
static kvm_pfn_t kfp_probe_or_fault(struct kunit *test, struct kvm_follow_pfn kfp)
{
	kvm_pfn_t pfn = kfp_probe(test, kfp);

	return is_error_noslot_pfn(pfn) ? KVM_PFN_ERR_FAULT : pfn;
}

static void kfp_expect_as_reference(struct kunit *test, int index, bool write)
{
	const typeof(kfp_memories[0]) *memory = test->param_value;
	unsigned int flags = write ? FOLL_WRITE : 0;
	struct kvm_follow_pfn kfp = kfp_guarded(test, index, flags);
	kvm_pfn_t pfn, expected;
	enum kfp_answer answer;

	/* Absent, if this is the first access. */
	pfn = kfp_probe_or_fault(test, kfp);
	expected = kfp_reference_walk(kfp_hva(test, index), write);
	KUNIT_EXPECT_EQ(test, pfn, expected);
	answer = memory->answers[write ? KFP_WRITE : KFP_READ];
	KUNIT_EXPECT_EQ(test, expected != KVM_PFN_ERR_FAULT,
			answer == KFP_R || answer == KFP_W);

	KUNIT_EXPECT_EQ(test, kfp_probe_or_fault(test, kfp), expected);
	kfp.allow_write_mapping = true;
	KUNIT_EXPECT_EQ(test, kfp_probe_or_fault(test, kfp), expected);
	kfp.flags |= FOLL_INTERRUPTIBLE;
	KUNIT_EXPECT_EQ(test, kfp_probe_or_fault(test, kfp), expected);

	kfp = kfp_get(test, index, flags);
	KUNIT_EXPECT_EQ(test, kfp_probe_or_fault(test, kfp), expected);
	kfp.slot = NULL;
	kfp.by_hva = true;
	kfp.hva = kfp_hva(test, index);
	KUNIT_EXPECT_EQ(test, kfp_probe_or_fault(test, kfp), expected);
}

KFP_TEST(kfp_all_routes_agree_with_a_reference_walk)
{
	int i;

	/* References can then be asked for everywhere. */
	kvm_allow_unsafe_mappings = true;
	kfp_prepare(test);

	for (i = 0; i < KFP_PAGES; i++) {
		/* The last page is written before it is read. */
		if (i < KFP_PAGES - 1)
			kfp_expect_as_reference(test, i, false);
		kfp_expect_as_reference(test, i, true);
		kfp_expect_as_reference(test, i, false);
	}
}

static int kfp_test_init(struct kunit *test)
{
	struct kfp_env *env;
	int err = kfp_env_init(test);

	if (err)
		return err;

	env = test->priv;
	env->can_be_guarded = true;
	kunit_activate_static_stub(test, kvm_follow_pfn_report_misuse,
				   kfp_count_misuse);
	kunit_activate_static_stub(test, kvm_follow_pfn_can_be_guarded,
				   kfp_can_be_guarded);
	kunit_activate_static_stub(test, kvm_follow_pfn_ask_guest_memfd,
				   kfp_ask_guest_memfd);

	return 0;
}

static struct kunit_case kfp_test_cases[] = {
	KUNIT_CASE_PARAM(kfp_bad_request_is_reported_once_and_is_an_error,
			 kfp_bad_request_gen_params),
	KUNIT_CASE_PARAM(kfp_good_request_finds_present_memory_and_owns_what_it_asked_for,
			 kfp_good_request_gen_params),
	KUNIT_CASE_PARAM(kfp_good_request_faults_absent_memory_in_unless_atomic,
			 kfp_good_request_gen_params),
	KUNIT_CASE_PARAM(kfp_refcounted_memory_is_refcounted,
			 kfp_refcounted_gen_params),
	KUNIT_CASE(kfp_read_of_untouched_anon_memory_is_the_zero_page_until_written),
	KUNIT_CASE(kfp_read_does_not_break_cow_but_write_does),
	KUNIT_CASE(kfp_read_of_writable_memory_is_writable_only_if_allowed),
	KUNIT_CASE(kfp_read_only_vma_in_writable_slot_is_read_only_and_no_ro_fault),
	KUNIT_CASE(kfp_hole_is_a_fault),
	KUNIT_CASE(kfp_prot_none_memory_is_a_fault),
	KUNIT_CASE(kfp_read_only_slot_is_never_writable_and_a_write_is_ro_fault),
	KUNIT_CASE(kfp_slot_that_is_being_deleted_is_noslot),
	KUNIT_CASE(kfp_hva_is_resolved_and_left_alone),
	KUNIT_CASE(kfp_error_hva_is_a_fault),
	KUNIT_CASE(kfp_nowait_answers_needs_io_instead_of_waiting),
	KUNIT_CASE_PARAM(kfp_error_of_a_fault_handler_is_passed_on,
			 kfp_handler_error_gen_params),
	KUNIT_CASE_PARAM(kfp_error_of_a_pfnmap_fault_handler_is_passed_on,
			 kfp_handler_error_gen_params),
	KUNIT_CASE(kfp_signal_ends_an_interruptible_lookup),
	KUNIT_CASE(kfp_signal_does_not_end_an_uninterruptible_lookup),
	KUNIT_CASE(kfp_signal_ends_repeated_faults_of_pfnmap),
	KUNIT_CASE(kfp_kernel_thread_does_not_fault_for_ever),
	KUNIT_CASE(kfp_signal_ends_an_interruptible_lookup_of_pfnmap_that_is_told_to_retry),
	KUNIT_CASE(kfp_signal_does_not_end_a_lookup_of_pfnmap_that_is_told_to_retry),
	KUNIT_CASE(kfp_signal_does_not_end_a_lookup_of_pfnmap_that_needs_one_fault),
	KUNIT_CASE_PARAM(kfp_remapped_memory_maps_and_is_not_touched,
			 kfp_remapped_gen_params),
	KUNIT_CASE_PARAM(kfp_remapped_memory_is_refused_without_a_guard,
			 kfp_remapped_gen_params),
	KUNIT_CASE_PARAM(kfp_remapped_memory_is_allowed_by_allow_unsafe_mappings,
			 kfp_remapped_gen_params),
	KUNIT_CASE_PARAM(kfp_answer_says_how_the_host_maps_remapped_memory,
			 kfp_remapped_gen_params),
	KUNIT_CASE_PARAM(kfp_try_get_pfn_decides_about_remapped_memory,
			 kfp_remapped_gen_params),
	KUNIT_CASE_PARAM(kfp_try_get_pfn_is_not_asked_about_refcounted_memory,
			 kfp_refcounted_gen_params),
	KUNIT_CASE(kfp_allow_unsafe_mappings_does_not_allow_errors),
	KUNIT_CASE(kfp_read_of_pfnmap_is_writable_only_if_allowed),
	KUNIT_CASE(kfp_pfnmap_fault_without_pte_is_repeated),
	KUNIT_CASE(kfp_pfnmap_fault_that_drops_mmap_lock_is_repeated),
	KUNIT_CASE(kfp_pfnmap_that_is_unmapped_during_the_fault_is_a_fault),
	KUNIT_CASE(kfp_write_to_read_only_pte_takes_a_write_fault),
	KUNIT_CASE(kfp_write_fault_that_maps_read_only_is_followed_by_another),
	KUNIT_CASE(kfp_write_to_private_pfnmap_breaks_cow_and_read_does_not),
	KUNIT_CASE(kfp_owner_that_insists_on_read_only_is_ro_fault),
	KUNIT_CASE(kfp_signal_ends_a_write_fault_of_pfnmap),
#ifdef CONFIG_KVM_GENERIC_MMU_NOTIFIER
	KUNIT_CASE(kfp_ro_fault_is_stale_if_an_invalidation_has_overtaken_it),
#endif
	KUNIT_CASE_PARAM(kfp_error_of_pfn_mkwrite_is_passed_on,
			 kfp_handler_error_gen_params),
	KUNIT_CASE_PARAM(kfp_write_to_read_only_pfnmap_vma_is_ro_fault,
			 kfp_pte_state_gen_params),
	KUNIT_CASE_PARAM(kfp_prot_none_pfnmap_vma_is_a_fault,
			 kfp_pte_state_gen_params),
	KUNIT_CASE_PARAM(kfp_write_only_pfnmap_vma_cannot_be_read,
			 kfp_pte_state_gen_params),
	KUNIT_CASE(kfp_special_pte_outside_of_pfnmap_is_a_fault),
	KUNIT_CASE(kfp_private_memory_is_that_of_guest_memfd),
	KUNIT_CASE(kfp_private_memory_is_held_if_asked),
	KUNIT_CASE(kfp_private_memory_needs_no_hva),
	KUNIT_CASE_PARAM(kfp_errno_of_guest_memfd_is_passed_on,
			 kfp_gmem_error_gen_params),
	KUNIT_CASE(kfp_private_gfn_without_guest_memfd_is_efault),
	KUNIT_CASE(kfp_private_gfn_obeys_the_flags_of_the_slot),
	KUNIT_CASE(kfp_shared_gfn_with_guest_memfd_is_that_of_the_hva),
	KUNIT_CASE(kfp_batch_finds_neighbours_and_holds_nothing),
	KUNIT_CASE(kfp_batch_ends_with_the_slot),
	KUNIT_CASE(kfp_batch_stops_at_absent_memory_and_faults_nothing_in),
	KUNIT_CASE(kfp_batch_stops_at_a_hole),
	KUNIT_CASE(kfp_batch_finds_writable_memory_only),
	KUNIT_CASE(kfp_batch_finds_nothing_in_pfnmap),
	KUNIT_CASE(kfp_batch_obeys_the_flags_of_the_slot),
	KUNIT_CASE_PARAM(kfp_bad_batch_is_reported_once_and_finds_nothing,
			 kfp_bad_batch_gen_params),
	KUNIT_CASE(kfp_batch_of_less_than_one_is_reported_and_finds_nothing),
	KUNIT_CASE(kfp_mark_page_marks_dirty_only_as_told),
	KUNIT_CASE(kfp_mark_page_leaves_reserved_pages_alone),
	KUNIT_CASE(kfp_mark_page_leaves_the_zero_page_alone),
	KUNIT_CASE(kfp_mark_page_takes_null_for_memory_without_references),
	KUNIT_CASE(kfp_release_marks_and_puts_what_is_held_only),
	KUNIT_CASE(kfp_release_tells_the_file_that_a_page_is_dirty),
	KUNIT_CASE(kfp_release_of_a_pin_marks_and_unpins),
	KUNIT_CASE_PARAM(kfp_each_memory_answers_each_request_as_listed,
			 kfp_memory_gen_params),
	KUNIT_CASE_PARAM(kfp_all_routes_agree_with_a_reference_walk,
			 kfp_memory_gen_params),
	{}
};

static struct kunit_suite kfp_test_suite = {
	.name = "kvm_follow_pfn",
	.init = kfp_test_init,
	.exit = kfp_env_exit,
	.test_cases = kfp_test_cases,
};

kunit_test_suite(kfp_test_suite);
