// SPDX-License-Identifier: GPL-2.0-only
/*
 * gfn_to_pfn() and its kin, for architectures that are not converted to
 * __kvm_follow_pfn() yet.
 *
 * These functions answer with a bare pfn, from which its holder cannot tell
 * whether there is a reference to release.  Both sides therefore guess from the
 * struct page, if there is one, and have to guess alike: what
 * kvm_pfn_to_refcounted_page() takes for a refcounted page is returned with a
 * reference, or refused if its count is zero, and everything else without one.
 *
 * That is less than what __kvm_follow_pfn() can do.  Memory that is mapped
 * without reference counts, but has struct pages, cannot be used: the guess
 * takes references that its owner does not expect, and refuses what has none to
 * take.  Nor is the holder told when the host unmaps memory without references.
 * Do not add callers; convert the architecture, and drop its "select
 * KVM_GFN_TO_PFN" with the last one.
 *
 * All functions that resolve a gfn may sleep, unless called with @atomic, and
 * take mmap_lock, so that mmu_lock must not be held.  kvm->srcu or
 * kvm->slots_lock protects the memslots.
 */
#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_gfn_to_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/swap.h>

/*
 * Guess whether a pfn is that of a refcounted page.  Return the page, without
 * another reference, or NULL.
 *
 * PG_reserved pages belong to somebody who does not count, but for the zero
 * page and ZONE_DEVICE pages.  Whether a page is one of the latter is known for
 * certain only while it has references.
 */
struct page *kvm_pfn_to_refcounted_page(kvm_pfn_t pfn)
{
	struct page *page;

	if (!pfn_valid(pfn))
		return NULL;

	page = pfn_to_page(pfn);
	if (!PageReserved(page) || is_zero_pfn(pfn))
		return page;

	if (WARN_ON_ONCE(!page_count(page)))
		return NULL;

	return is_zone_device_page(page) ? page : NULL;
}

static bool kvm_try_get_pfn(kvm_pfn_t pfn)
{
	struct page *page = kvm_pfn_to_refcounted_page(pfn);

	return !page || get_page_unless_zero(page);
}

/*
 * Resolve @gfn of @slot, which contains it, for reading or for writing.  The
 * arguments are those of Linux 6.12, for the sake of callers outside of the tree.
 *
 * @atomic: do not sleep.  Only present memory that is mapped writable is found, by
 * reads without @writable, too, which always failed in Linux 6.12.
 * @interruptible: let any signal end the wait, not only a fatal one.
 * @async: if not NULL, do not wait for IO, but fail and set *@async.  *@async is
 * not touched otherwise.
 * @writable: if not NULL, a read may be answered with a pfn that may be mapped
 * writable, and *@writable tells whether it may.
 * @hva: if not NULL, is set to the hva, which may be an error hva.
 *
 * Return the pfn, to be released with kvm_release_pfn_clean() or
 * kvm_release_pfn_dirty(); KVM_PFN_NOSLOT, also for @slot == NULL; or an error
 * pfn, see __kvm_follow_pfn(), of which nothing has to be released.
 */
kvm_pfn_t __gfn_to_pfn_memslot(const struct kvm_memory_slot *slot, gfn_t gfn,
			       bool atomic, bool interruptible, bool *async,
			       bool write_fault, bool *writable, hva_t *hva)
{
	struct kvm_follow_pfn kfp = {
		.slot = slot,
		.gfn = gfn,
		.flags = FOLL_GET | (write_fault ? FOLL_WRITE : 0) |
			 (interruptible ? FOLL_INTERRUPTIBLE : 0) |
			 (async ? FOLL_NOWAIT : 0),
		.allow_write_mapping = writable,
		.atomic = atomic,
		.try_get_pfn = kvm_try_get_pfn,
		/* The answer without a slot. */
		.hva = KVM_HVA_ERR_BAD,
		.pfn = KVM_PFN_NOSLOT,
	};

	if (slot)
		__kvm_follow_pfn(&kfp);

	if (hva)
		*hva = kfp.hva;
	if (writable)
		*writable = kfp.writable;

	if (kfp.pfn == KVM_PFN_ERR_NEEDS_IO) {
		*async = true;
		return KVM_PFN_ERR_FAULT;
	}

	/*
	 * A reference that the guess does not see would never be put, e.g. that
	 * to a PG_reserved page in a VM_MIXEDMAP VMA.
	 */
	if (kfp.hold == KVM_PFN_HOLD_REF && !kvm_pfn_to_refcounted_page(kfp.pfn))
		put_page(kfp.page);

	return kfp.pfn;
}
EXPORT_SYMBOL_GPL(__gfn_to_pfn_memslot);

/* Like __gfn_to_pfn_memslot(), with the memslot of address space 0. */
kvm_pfn_t gfn_to_pfn_prot(struct kvm *kvm, gfn_t gfn, bool write_fault,
			  bool *writable)
{
	return __gfn_to_pfn_memslot(gfn_to_memslot(kvm, gfn), gfn, false, false,
				    NULL, write_fault, writable, NULL);
}
EXPORT_SYMBOL_GPL(gfn_to_pfn_prot);

/* Like __gfn_to_pfn_memslot(), for writing. */
kvm_pfn_t gfn_to_pfn_memslot(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return __gfn_to_pfn_memslot(slot, gfn, false, false, NULL, true, NULL,
				    NULL);
}
EXPORT_SYMBOL_GPL(gfn_to_pfn_memslot);

/* Like gfn_to_pfn_memslot(), with the memslot of address space 0. */
kvm_pfn_t gfn_to_pfn(struct kvm *kvm, gfn_t gfn)
{
	return gfn_to_pfn_memslot(gfn_to_memslot(kvm, gfn), gfn);
}
EXPORT_SYMBOL_GPL(gfn_to_pfn);

/*
 * Resolve @gfn, for writing, to a page with a reference, which the caller puts,
 * having marked what it did, or releases with kvm_release_pfn_clean() or
 * kvm_release_pfn_dirty(), which mark it.
 *
 * Return KVM_ERR_PTR_BAD_PAGE for all errors, and for memory without refcounted
 * pages.
 */
struct page *gfn_to_page(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn = gfn_to_pfn(kvm, gfn);
	struct page *page;

	if (is_error_noslot_pfn(pfn))
		return KVM_ERR_PTR_BAD_PAGE;

	/* Without a refcounted page, there is no reference either. */
	page = kvm_pfn_to_refcounted_page(pfn);

	return page ? page : KVM_ERR_PTR_BAD_PAGE;
}
EXPORT_SYMBOL_GPL(gfn_to_page);

static void kvm_release_pfn(kvm_pfn_t pfn, bool dirty)
{
	struct page *page;

	if (is_error_noslot_pfn(pfn))
		return;

	page = kvm_pfn_to_refcounted_page(pfn);
	if (!page)
		return;

	__kvm_mark_page_mapped(page, dirty);
	put_page(page);
}

/*
 * Release what one of the functions above returned, an error included, and mark
 * it as accessed.
 */
void kvm_release_pfn_clean(kvm_pfn_t pfn)
{
	kvm_release_pfn(pfn, false);
}
EXPORT_SYMBOL_GPL(kvm_release_pfn_clean);

/* Like kvm_release_pfn_clean(), and mark it as dirty as well. */
void kvm_release_pfn_dirty(kvm_pfn_t pfn)
{
	kvm_release_pfn(pfn, true);
}
EXPORT_SYMBOL_GPL(kvm_release_pfn_dirty);

/* The page to mark for a pfn that is no error, or NULL. */
static struct page *kvm_pfn_to_marked_page(kvm_pfn_t pfn)
{
	if (WARN_ON(is_error_noslot_pfn(pfn)) || !pfn_valid(pfn) ||
	    PageReserved(pfn_to_page(pfn)))
		return NULL;

	return pfn_to_page(pfn);
}

/*
 * Mark the page of @pfn, if it has one, as dirty.  The caller has a reference to
 * it, or knows by other means that it is still mapped.
 */
void kvm_set_pfn_dirty(kvm_pfn_t pfn)
{
	struct page *page = kvm_pfn_to_marked_page(pfn);

	if (page)
		SetPageDirty(page);
}
EXPORT_SYMBOL_GPL(kvm_set_pfn_dirty);

/* Like kvm_set_pfn_dirty(), but as accessed. */
void kvm_set_pfn_accessed(kvm_pfn_t pfn)
{
	struct page *page = kvm_pfn_to_marked_page(pfn);

	if (page)
		mark_page_accessed(page);
}
EXPORT_SYMBOL_GPL(kvm_set_pfn_accessed);
