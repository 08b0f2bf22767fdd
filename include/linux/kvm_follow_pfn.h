/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_FOLLOW_PFN_H
#define __KVM_FOLLOW_PFN_H

#include <linux/kvm_types.h>
#include <linux/pgtable.h>
#include <linux/types.h>

struct kvm;
struct kvm_memory_slot;
struct page;

/* How an answer was obtained.  For tracing and tests only. */
enum kvm_follow_pfn_route {
	KVM_FOLLOW_PFN_NONE,
	KVM_FOLLOW_PFN_FAST,
	KVM_FOLLOW_PFN_SLOW,
	KVM_FOLLOW_PFN_REMAPPED,
	KVM_FOLLOW_PFN_GUEST_MEMFD,
};

/* What the holder of an answer owns, and thus has to release. */
enum kvm_pfn_hold {
	KVM_PFN_HOLD_NONE,
	KVM_PFN_HOLD_REF,
	KVM_PFN_HOLD_PIN,
};

/*
 * One request to resolve a guest frame to a host frame, and its answer.
 *
 * A request is either guarded or it holds.  A guarded caller detects every
 * invalidation between the lookup and the use, and drops the answer then:
 *
 *  - mmu_invalidate_seq is sampled before the lookup, and the retry check is
 *    made under mmu_lock, with the new mapping installed before the unlock; or
 *  - the lookup is atomic, inside mmu_lock, with no invalidation in progress; or
 *  - gfn_to_pfn_cache makes the equivalent check under gpc->lock.
 *
 * Such a caller owns nothing when the lookup returns.  Every other caller sets
 * FOLL_GET or @pin and owns what @hold says until kvm_release_held_page().
 */
struct kvm_follow_pfn {
	/*
	 * Request.  Either @slot and @gfn, or @hva alone with @by_hva set.  A
	 * slot that is being deleted or moved answers KVM_PFN_NOSLOT.
	 */
	const struct kvm_memory_slot *slot;
	gfn_t gfn;
	bool by_hva;

	/*
	 * The gfn is private: resolve it to guest_memfd, not to the hva of the
	 * slot.  Such memory never waits for IO, and cannot be pinned.
	 */
	bool is_private;

	/*
	 * FOLL_WRITE:		the access writes.
	 * FOLL_NOWAIT:		do not wait, for IO or for memory, but answer
	 *			KVM_PFN_ERR_NEEDS_IO.  VM_IO and VM_PFNMAP fault
	 *			handlers may wait anyway.
	 * FOLL_INTERRUPTIBLE:	a non-fatal signal ends the wait, too.  It always
	 *			keeps a VM_IO or VM_PFNMAP fault handler from being
	 *			called again that reports success, but has mapped
	 *			nothing, or not for the write.
	 * FOLL_GET:		return with a reference to the page.
	 */
	unsigned int flags;

	/* Return with a pin, for access through a mapping of the kernel's own. */
	bool pin;

	/* An invalidation after the lookup is detected, see above. */
	bool guarded_by_mmu_notifier;

	/* A read may be answered with a writable pfn, if that costs no fault. */
	bool allow_write_mapping;

	/* The caller cannot sleep.  Only present, writable memory is found. */
	bool atomic;

	/*
	 * For the gfn_to_pfn() family alone, NULL for everybody else.  Its users
	 * own a reference to VM_IO and VM_PFNMAP memory, too, if what is behind
	 * the pfn looks like a refcounted page, and guess so again when they
	 * release it.  Called with the page table locked; takes that reference,
	 * which @hold does not know of, or returns false to refuse the pfn.  Such
	 * a lookup does not need allow_unsafe_mappings.
	 */
	bool (*try_get_pfn)(kvm_pfn_t pfn);

	/*
	 * Answer.  @hva is an input with @by_hva, and KVM_HVA_ERR_BAD for private
	 * memory.  @pfn is a frame or one of KVM_PFN_ERR_* and KVM_PFN_NOSLOT;
	 * the fields below it, but @err, are false, NULL and zero for the latter.
	 */
	unsigned long hva;
	kvm_pfn_t pfn;

	/*
	 * Zero, or -errno if @is_private and @pfn is not a frame.  The errno of
	 * guest_memfd is part of the uABI of KVM_RUN: poison, for one, is reported
	 * by it and not by a signal, as no hva maps the page.
	 */
	int err;

	/* The host's page tables permit writes to @pfn, and so does the slot. */
	bool writable;

	/*
	 * The page came from get_user_pages() or guest_memfd and is refcounted.
	 * False for whatever was found by walking VM_IO or VM_PFNMAP page
	 * tables, be there a struct page or not: the owner of that memory may
	 * not use refcounts.
	 */
	bool is_refcounted_page;

	/* The page of @pfn if @is_refcounted_page, else NULL. */
	struct page *page;

	/*
	 * The order of the largest mapping that may contain @pfn, if @is_private.
	 * Zero for other memory, for which the host's page tables tell it.
	 */
	int order;

	/*
	 * How the host maps VM_IO and VM_PFNMAP memory, for an architecture
	 * whose guests must not use another memory type.  Zero for other memory.
	 */
	pgprot_t pgprot;

	enum kvm_pfn_hold hold;
	enum kvm_follow_pfn_route route;
};

kvm_pfn_t __kvm_follow_pfn(struct kvm_follow_pfn *kfp);
bool kvm_ro_fault_is_stale(struct kvm *kvm, gfn_t gfn, unsigned long mmu_seq);
int kvm_follow_pfn_batch(struct kvm_follow_pfn *kfp, struct page **pages, int nr);

void kvm_mark_page_mapped(struct kvm *kvm, struct page *page, bool dirty);
void __kvm_mark_page_mapped(struct page *page, bool dirty);
void kvm_release_held_page(struct page *page, enum kvm_pfn_hold hold, bool dirty);

#if IS_ENABLED(CONFIG_KUNIT)
extern bool kvm_allow_unsafe_mappings;
void kvm_follow_pfn_report_misuse(const char *why);
bool kvm_follow_pfn_can_be_guarded(void);
int kvm_follow_pfn_ask_guest_memfd(const struct kvm_memory_slot *slot, gfn_t gfn,
				   kvm_pfn_t *pfn, int *order);
#endif

#endif /* __KVM_FOLLOW_PFN_H */
