// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resolution of guest frames to host frames.
 *
 * There are three routes to a host frame behind an hva, tried in this order:
 *
 *  fast:     get_user_pages_fast_only(), with interrupts disabled and without
 *            mmap_lock.  For all but guarded reads that must not be mapped
 *            writable.
 *            There is no such function for pins, whose fast route falls back to
 *            a walk under mmap_lock, but does not fault either.
 *  slow:     get_user_pages_unlocked(), which faults the memory in.
 *  remapped: a walk of the page tables of VM_IO and VM_PFNMAP memory, which
 *            get_user_pages() refuses.
 *
 * A fourth one, guest_memfd, is for private memory, which has no hva, and for
 * nothing else.
 *
 * The route decides whether the answer is a refcounted page.  The struct page,
 * if there is one, is never asked: VM_PFNMAP memory may consist of pages whose
 * refcount belongs to their owner alone, e.g. the tails of a non-compound
 * high-order allocation, which have a refcount of zero throughout their life.
 *
 * Locking: __kvm_follow_pfn() takes mmap_lock for read (unless atomic) and may
 * sleep in a fault handler, so neither mmu_lock nor gpc->lock may be held.  An
 * atomic lookup may be made under mmu_lock.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>

#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>

#include "kvm_mm.h"

#include <trace/events/kvm.h>

/*
 * Allow pfns that are not refcounted to be used without the protection of an
 * mmu_notifier.  Nothing then prevents the owner of such memory from freeing it
 * while KVM still reads and writes it.
 */
VISIBLE_IF_KUNIT bool kvm_allow_unsafe_mappings;
module_param_named(allow_unsafe_mappings, kvm_allow_unsafe_mappings, bool, 0444);

/*
 * Report a request that breaks the contract of __kvm_follow_pfn().  A function
 * of its own so that KUnit can replace it and assert the call.
 */
VISIBLE_IF_KUNIT noinline void kvm_follow_pfn_report_misuse(const char *why)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_follow_pfn_report_misuse, why);

	WARN_ONCE(1, "kvm: bad request to __kvm_follow_pfn(): %s\n", why);
}

/* Whether invalidations are counted at all, i.e. whether a guard can work. */
VISIBLE_IF_KUNIT noinline bool kvm_follow_pfn_can_be_guarded(void)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_follow_pfn_can_be_guarded);

	return IS_ENABLED(CONFIG_KVM_GENERIC_MMU_NOTIFIER);
}

/* A function of its own so that KUnit can replace it: a test has no VM. */
VISIBLE_IF_KUNIT noinline
int kvm_follow_pfn_ask_guest_memfd(const struct kvm_memory_slot *slot, gfn_t gfn,
				   kvm_pfn_t *pfn, int *order)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_follow_pfn_ask_guest_memfd, slot, gfn, pfn,
				   order);

	return kvm_gmem_get_pfn(slot, gfn, pfn, order);
}

/* Say what is wrong with the request.  Return NULL if nothing is. */
static const char *kvm_follow_pfn_misuse(const struct kvm_follow_pfn *kfp)
{
	const unsigned int sleeping_flags = FOLL_NOWAIT | FOLL_INTERRUPTIBLE;
	bool holds = kfp->pin || (kfp->flags & FOLL_GET);

	if (!kfp->slot && !kfp->by_hva)
		return "neither a memslot nor an hva";
	if (kfp->slot && kfp->by_hva)
		return "both a memslot and an hva";
	if (kfp->slot && kfp->gfn - kfp->slot->base_gfn >= kfp->slot->npages)
		return "gfn outside of the memslot";
	if (kfp->flags & ~(FOLL_WRITE | FOLL_GET | sleeping_flags))
		return "unknown flags";
	if (kfp->guarded_by_mmu_notifier && holds)
		return "guarded, but wants a reference or a pin";
	if (!kfp->guarded_by_mmu_notifier && !holds)
		return "neither guarded nor FOLL_GET nor pin";
	if (kfp->pin && (kfp->flags & FOLL_GET))
		return "both FOLL_GET and pin";
	if (kfp->guarded_by_mmu_notifier && !kvm_follow_pfn_can_be_guarded())
		return "guarded, without CONFIG_KVM_GENERIC_MMU_NOTIFIER";
	if (kfp->atomic && (kfp->flags & sleeping_flags))
		return "atomic, but with flags for sleeping";
	if (kfp->atomic && kfp->pin)
		return "atomic pin";
	if (kfp->pin && kfp->allow_write_mapping)
		return "pin with allow_write_mapping";
	if (kfp->try_get_pfn && !(kfp->flags & FOLL_GET))
		return "try_get_pfn, but no FOLL_GET";
	if (kfp->is_private && !kfp->slot)
		return "private, but no memslot";
	if (kfp->is_private && (kfp->pin || kfp->atomic || kfp->try_get_pfn))
		return "private, and a pin, atomic or try_get_pfn";

	return NULL;
}

/* Reset the answer and check the request, as the first step of every lookup. */
static bool kvm_follow_pfn_begin(struct kvm_follow_pfn *kfp)
{
	const char *why = kvm_follow_pfn_misuse(kfp);

	if (!kfp->by_hva)
		kfp->hva = KVM_HVA_ERR_BAD;
	kfp->pfn = KVM_PFN_ERR_FAULT;
	kfp->err = kfp->is_private ? -EFAULT : 0;
	kfp->writable = false;
	kfp->is_refcounted_page = false;
	kfp->page = NULL;
	kfp->order = 0;
	kfp->pgprot = __pgprot(0);
	kfp->hold = KVM_PFN_HOLD_NONE;
	kfp->route = KVM_FOLLOW_PFN_NONE;

	if (why)
		kvm_follow_pfn_report_misuse(why);

	return !why;
}

/*
 * Translate the gfn to an hva, unless it is private.  Return 0, or what there is
 * to answer without one: KVM_PFN_ERR_FAULT for the hva of an error, KVM_PFN_NOSLOT
 * or, for a write to a read-only memslot, KVM_PFN_ERR_RO_FAULT.
 */
static kvm_pfn_t kvm_follow_pfn_to_hva(struct kvm_follow_pfn *kfp)
{
	if (kfp->by_hva)
		return kvm_is_error_hva(kfp->hva) ? KVM_PFN_ERR_FAULT : 0;

	if (kfp->slot->flags & KVM_MEMSLOT_INVALID)
		return KVM_PFN_NOSLOT;

	if ((kfp->slot->flags & KVM_MEM_READONLY) && (kfp->flags & FOLL_WRITE)) {
		kfp->hva = KVM_HVA_ERR_RO_BAD;
		return KVM_PFN_ERR_RO_FAULT;
	}

	if (!kfp->is_private)
		kfp->hva = __gfn_to_hva_memslot(kfp->slot, kfp->gfn);

	return 0;
}

/* Whether a read may be answered with a writable pfn. */
static bool kvm_follow_pfn_may_upgrade(const struct kvm_follow_pfn *kfp)
{
	return kfp->allow_write_mapping && !(kfp->flags & FOLL_WRITE) &&
	       !(kfp->slot && (kfp->slot->flags & KVM_MEM_READONLY));
}

/*
 * Answer with a page of get_user_pages() or guest_memfd.  A guarded caller gets
 * no share in the reference: as long as its retry check passes the page is still
 * mapped by the host, or part of the file, hence neither freed nor reused.
 */
static kvm_pfn_t kvm_follow_pfn_got_page(struct kvm_follow_pfn *kfp,
					 struct page *page, bool writable,
					 enum kvm_follow_pfn_route route)
{
	kfp->page = page;
	kfp->is_refcounted_page = true;
	kfp->writable = writable;
	kfp->route = route;

	if (kfp->guarded_by_mmu_notifier)
		put_page(page);
	else
		kfp->hold = kfp->pin ? KVM_PFN_HOLD_PIN : KVM_PFN_HOLD_REF;

	return page_to_pfn(page);
}

/*
 * Find memory that the host maps writable already, the only kind for which a
 * lookup without mmap_lock cannot miss a pending break of COW, and for which the
 * PTE alone tells that the VMA permits the access: what is present can be read by
 * the CPU even if the VMA lacks VM_READ.
 *
 * Guarded reads that must not be mapped writable are left to the slow route.  Pins
 * for reads are not: each entry of a nested VMX guest takes one, of its MSR bitmap.
 */
static bool kvm_follow_pfn_fast(const struct kvm_follow_pfn *kfp,
				struct page **page, bool *writable)
{
	unsigned int write = kfp->flags & FOLL_WRITE;

	*writable = write || kvm_follow_pfn_may_upgrade(kfp);
	if (!*writable && kfp->guarded_by_mmu_notifier)
		return false;

	if (!kfp->pin || !write) {
		if (!get_user_page_fast_only(kfp->hva, FOLL_WRITE, page))
			return false;
		if (!kfp->pin)
			return true;
		/* A pin for writes would mark the page dirty on its slow path. */
		put_page(*page);
	}

	return pin_user_pages_fast(kfp->hva, 1, write | FOLL_NOFAULT |
				   FOLL_HONOR_NUMA_FAULT, page) == 1;
}

/* Return 1, or what get_user_pages() said instead (zero included). */
static long kvm_follow_pfn_slow(const struct kvm_follow_pfn *kfp,
				struct page **page, bool *writable)
{
	/*
	 * A guest access is an access by its vCPU task, so let it trigger NUMA
	 * hinting faults: there are none once the page is mapped in the guest.
	 */
	unsigned int flags = FOLL_HWPOISON | FOLL_HONOR_NUMA_FAULT |
			     (kfp->flags & ~FOLL_GET);
	struct page *wpage;
	long npages;

	*writable = kfp->flags & FOLL_WRITE;

	if (kfp->pin)
		return pin_user_pages_unlocked(kfp->hva, 1, page, flags);

	npages = get_user_pages_unlocked(kfp->hva, 1, page, flags);
	if (npages != 1)
		return npages;

	if (kvm_follow_pfn_may_upgrade(kfp) &&
	    get_user_page_fast_only(kfp->hva, FOLL_WRITE, &wpage)) {
		put_page(*page);
		*page = wpage;
		*writable = true;
	}

	return 1;
}

/*
 * Fault in VM_IO or VM_PFNMAP memory.  fixup_user_fault() does the same, but
 * cannot tell poison from other errors.  mmap_lock is held on return, but has
 * been dropped unless that is an error, i.e. @vma is stale.
 *
 * Return 1 if the handler is done, 0 if it wants to be called again, or -errno.
 */
static int kvm_fault_in_remapped(struct vm_area_struct *vma, unsigned long hva,
				 unsigned int *fault_flags)
{
	vm_fault_t fault = handle_mm_fault(vma, hva, *fault_flags, NULL);

	if (fault & (VM_FAULT_COMPLETED | VM_FAULT_RETRY)) {
		mmap_read_lock(current->mm);
		if (fault & VM_FAULT_COMPLETED)
			return 1;
		*fault_flags |= FAULT_FLAG_TRIED;
		return 0;
	}

	if (fault & VM_FAULT_ERROR)
		return vm_fault_to_errno(fault, FOLL_HWPOISON) ?: -EFAULT;

	/* The handler may have to be called again, let writers in between. */
	mmap_read_unlock(current->mm);
	cond_resched();
	mmap_read_lock(current->mm);
	return 1;
}

/*
 * Judge an access to VM_IO or VM_PFNMAP memory by what the VMA and the request
 * allow.  Return 0 if it depends on the PTE.
 */
static kvm_pfn_t kvm_check_remapped_vma(const struct kvm_follow_pfn *kfp,
					const struct vm_area_struct *vma)
{
	bool write = kfp->flags & FOLL_WRITE;

	if (write && !(vma->vm_flags & VM_WRITE))
		return (vma->vm_flags & VM_READ) ? KVM_PFN_ERR_RO_FAULT :
						   KVM_PFN_ERR_FAULT;

	if (!write && !(vma->vm_flags & VM_READ))
		return KVM_PFN_ERR_FAULT;

	/*
	 * No reference can be taken, so nothing would keep the memory in place
	 * for a caller that does not notice when the host unmaps it.  A caller
	 * that wants a reference, not a pin, has no use for memory without one,
	 * so do not tell the administrator to permit that.
	 */
	if (!kfp->guarded_by_mmu_notifier && !kfp->try_get_pfn &&
	    !kvm_allow_unsafe_mappings) {
		if (kfp->pin)
			pr_warn_once("kvm: gfn 0x%llx (hva 0x%lx) is not refcounted and refused for use without an mmu_notifier, see kvm.allow_unsafe_mappings\n",
				     kfp->gfn, kfp->hva);
		return KVM_PFN_ERR_FAULT;
	}

	return 0;
}

/*
 * Answer with the pfn of a PTE of VM_IO or VM_PFNMAP memory, whose page table is
 * still locked: only then is what try_get_pfn() finds behind the pfn what the
 * host maps.
 */
static kvm_pfn_t kvm_follow_pfn_got_pte(struct kvm_follow_pfn *kfp,
					const struct follow_pfnmap_args *args,
					bool writable)
{
	if (kfp->try_get_pfn && !kfp->try_get_pfn(args->pfn))
		return KVM_PFN_ERR_FAULT;

	kfp->writable = writable;
	kfp->pgprot = args->pgprot;
	kfp->route = KVM_FOLLOW_PFN_REMAPPED;

	return args->pfn;
}

/* How often a kernel thread may fault without finding a PTE afterwards. */
#define KVM_KTHREAD_FAULTS	16

/*
 * Walk to the PTE of VM_IO or VM_PFNMAP memory, with mmap_lock held for read.
 *
 * The loop ends with an answer, an error of the fault handler, or a signal.  A
 * PTE may be zapped again between the fault and the walk, and a handler that
 * was interrupted reports success without having mapped anything; the access of
 * a CPU would simply fault again in both cases, so do that here.  A handler that
 * says that it had to wait is called again in spite of a signal that is not
 * fatal, unless FOLL_INTERRUPTIBLE is set, as get_user_pages() does.  A kernel
 * thread, which has borrowed the mm, gets no signals: limit its faults.
 *
 * A write that meets a read-only PTE takes a write fault before it is judged:
 * the owner may map read-only at first in order to be told of writes.
 *
 * A private mapping consists of anonymous memory once it has been written.  As
 * this route marks no pages, take a write fault even if the PTE is writable, so
 * that mm marks the PTE dirty, and do not let reads map it writable.
 */
static kvm_pfn_t kvm_walk_remapped(struct kvm_follow_pfn *kfp)
{
	bool is_kthread = current->flags & PF_KTHREAD;
	unsigned int kthread_faults = KVM_KTHREAD_FAULTS;
	bool write = kfp->flags & FOLL_WRITE;
	bool may_upgrade = kvm_follow_pfn_may_upgrade(kfp);
	bool interruptible = kfp->flags & FOLL_INTERRUPTIBLE;
	unsigned int fault_flags = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE |
				   (interruptible ? FAULT_FLAG_INTERRUPTIBLE : 0) |
				   (write ? FAULT_FLAG_WRITE : 0);
	bool faulted = false, told_to_wait = false, pte_write_faulted = false;

	for (;;) {
		struct follow_pfnmap_args args = { .address = kfp->hva };
		struct vm_area_struct *vma;
		bool cow, present, found, writable, read_only = false;
		kvm_pfn_t pfn;
		int r;

		vma = vma_lookup(current->mm, kfp->hva);
		if (!vma || !(vma->vm_flags & (VM_IO | VM_PFNMAP)))
			return KVM_PFN_ERR_FAULT;

		pfn = kvm_check_remapped_vma(kfp, vma);
		if (pfn)
			return pfn;

		cow = is_cow_mapping(vma->vm_flags);
		args.vma = vma;
		present = !follow_pfnmap_start(&args);
		if (present) {
			read_only = !args.writable;
			found = !write || (!read_only && (!cow || pte_write_faulted));
			writable = write || (!read_only && !cow && may_upgrade);
			if (found)
				pfn = kvm_follow_pfn_got_pte(kfp, &args, writable);
			follow_pfnmap_end(&args);

			if (found)
				return pfn;
		}

		if (fatal_signal_pending(current) ||
		    (faulted && !present && signal_pending(current)) ||
		    (told_to_wait && interruptible && signal_pending(current)))
			return KVM_PFN_ERR_SIGPENDING;

		if (faulted && !present && is_kthread && !--kthread_faults)
			return KVM_PFN_ERR_FAULT;

		/*
		 * The fault of a write to an absent PTE may map it read-only.
		 * That the PTE is still read-only says nothing about the owner
		 * if a signal may have interrupted the handler.
		 */
		if (read_only && pte_write_faulted)
			return signal_pending(current) ? KVM_PFN_ERR_SIGPENDING :
							 KVM_PFN_ERR_RO_FAULT;

		r = kvm_fault_in_remapped(vma, kfp->hva, &fault_flags);
		if (r < 0)
			return r == -EHWPOISON ? KVM_PFN_ERR_HWPOISON :
						 KVM_PFN_ERR_FAULT;
		faulted = r;
		told_to_wait = !r;
		pte_write_faulted = write && present && r;
	}
}

static kvm_pfn_t kvm_follow_pfn_remapped(struct kvm_follow_pfn *kfp)
{
	kvm_pfn_t pfn;

	mmap_read_lock(current->mm);
	pfn = kvm_walk_remapped(kfp);
	mmap_read_unlock(current->mm);

	return pfn;
}

/*
 * Find private memory.  Whatever guest_memfd says is the errno: a fault on
 * private memory tells userspace more than one on an hva.
 */
static kvm_pfn_t kvm_follow_pfn_private(struct kvm_follow_pfn *kfp)
{
	const struct kvm_memory_slot *slot = kfp->slot;
	kvm_pfn_t pfn;
	int order;

	if (!kvm_slot_can_be_private(slot))
		return KVM_PFN_ERR_FAULT;

	might_sleep();

	kfp->err = kvm_follow_pfn_ask_guest_memfd(slot, kfp->gfn, &pfn, &order);
	if (kfp->err)
		return KVM_PFN_ERR_FAULT;

	kfp->order = order;
	return kvm_follow_pfn_got_page(kfp, pfn_to_page(pfn),
				       !(slot->flags & KVM_MEM_READONLY),
				       KVM_FOLLOW_PFN_GUEST_MEMFD);
}

static kvm_pfn_t kvm_follow_pfn_resolve(struct kvm_follow_pfn *kfp)
{
	struct page *page;
	bool writable;
	kvm_pfn_t pfn;
	long r;

	pfn = kvm_follow_pfn_to_hva(kfp);
	if (pfn)
		return pfn;

	if (kfp->is_private)
		return kvm_follow_pfn_private(kfp);

	if (kvm_follow_pfn_fast(kfp, &page, &writable))
		return kvm_follow_pfn_got_page(kfp, page, writable,
					       KVM_FOLLOW_PFN_FAST);

	if (kfp->atomic)
		return KVM_PFN_ERR_FAULT;

	might_sleep();

	r = kvm_follow_pfn_slow(kfp, &page, &writable);
	switch (r) {
	case 1:
		return kvm_follow_pfn_got_page(kfp, page, writable,
					       KVM_FOLLOW_PFN_SLOW);
	/* FOLL_NOWAIT, and the fault handler wants to wait. */
	case 0:
		return KVM_PFN_ERR_NEEDS_IO;
	/* Who may wait may get memory: others may free some meanwhile. */
	case -ENOMEM:
		return (kfp->flags & FOLL_NOWAIT) ? KVM_PFN_ERR_NEEDS_IO :
						    KVM_PFN_ERR_FAULT;
	/* -EAGAIN: killed while waiting for mmap_lock. */
	case -EINTR:
	case -EAGAIN:
		return KVM_PFN_ERR_SIGPENDING;
	case -EHWPOISON:
		return KVM_PFN_ERR_HWPOISON;
	default:
		return kvm_follow_pfn_remapped(kfp);
	}
}

/*
 * Resolve one guest frame, or one hva, to a host frame.
 *
 * Return the pfn, or:
 *
 *  KVM_PFN_NOSLOT		the memslot is being deleted or moved
 *  KVM_PFN_ERR_RO_FAULT	write to a read-only memslot, or to VM_IO or
 *				VM_PFNMAP memory that the host maps read-only
 *  KVM_PFN_ERR_HWPOISON	the memory is poisoned
 *  KVM_PFN_ERR_SIGPENDING	interrupted by a signal
 *  KVM_PFN_ERR_NEEDS_IO	FOLL_NOWAIT, and the lookup has to wait for IO, or
 *				there is no memory at the moment
 *  KVM_PFN_ERR_FAULT		anything else, a bad request and, with @kfp->err,
 *				every error of guest_memfd included
 *
 * Nothing is held on return but what @kfp->hold says.  KVM writes no struct page
 * (get_user_pages() does, on its own account); marking it is up to the caller,
 * see kvm_mark_page_mapped().
 *
 * Context: process context of a task that uses the mm of the VM; may sleep and
 * take mmap_lock, unless @kfp->atomic is set.
 */
kvm_pfn_t __kvm_follow_pfn(struct kvm_follow_pfn *kfp)
{
	if (kvm_follow_pfn_begin(kfp))
		kfp->pfn = kvm_follow_pfn_resolve(kfp);

	trace_kvm_follow_pfn(kfp);
	return kfp->pfn;
}
EXPORT_SYMBOL_GPL(__kvm_follow_pfn);

#ifdef CONFIG_KVM_GENERIC_MMU_NOTIFIER
/*
 * Whether a guarded write that was answered with KVM_PFN_ERR_RO_FAULT has to be
 * tried again, because an invalidation of @gfn has overtaken the lookup since
 * @mmu_seq was sampled.  A PTE that is zapped right after a write fault has made
 * it writable may come back read-only with the next read.
 *
 * The lock of the page table orders the zap, and with it the start of the
 * invalidation, before the walk that found the new PTE.  No invalidation that
 * matters is thus overlooked without mmu_lock: either it is still in progress, or
 * it has changed mmu_invalidate_seq before it ceased to be.
 *
 * Context: any.
 */
bool kvm_ro_fault_is_stale(struct kvm *kvm, gfn_t gfn, unsigned long mmu_seq)
{
	if (mmu_invalidate_retry_gfn_unsafe(kvm, mmu_seq, gfn))
		return true;

	/* Pairs with the smp_wmb() in kvm_mmu_invalidate_end(). */
	smp_rmb();
	return READ_ONCE(kvm->mmu_invalidate_seq) != mmu_seq;
}
#endif

/*
 * Resolve up to @nr neighbouring guest frames, @kfp->gfn being the first, to
 * pages that the host maps writable already.  The request is atomic, guarded
 * and a write.  The answers are in @pages; @kfp answers for the last of them.
 *
 * Return the number of leading frames that were resolved, which may be zero.
 *
 * Context: any, including mmu_lock held.
 */
int kvm_follow_pfn_batch(struct kvm_follow_pfn *kfp, struct page **pages, int nr)
{
	const gfn_t first_gfn = kfp->gfn;
	unsigned long first_hva;
	int i, found;

	if (!kvm_follow_pfn_begin(kfp))
		goto none;

	if (!kfp->slot || !kfp->atomic || !kfp->guarded_by_mmu_notifier ||
	    !(kfp->flags & FOLL_WRITE) || nr < 1) {
		kvm_follow_pfn_report_misuse("batch that is not a guarded, atomic write");
		goto none;
	}

	kfp->pfn = kvm_follow_pfn_to_hva(kfp);
	if (kfp->pfn)
		goto none;

	first_hva = kfp->hva;
	nr = min_t(gfn_t, nr, kfp->slot->base_gfn + kfp->slot->npages - first_gfn);
	found = get_user_pages_fast_only(first_hva, nr, FOLL_WRITE, pages);
	if (found <= 0) {
		kfp->pfn = KVM_PFN_ERR_FAULT;
		goto none;
	}

	for (i = 0; i < found; i++) {
		kfp->gfn = first_gfn + i;
		kfp->hva = first_hva + i * PAGE_SIZE;
		kfp->pfn = kvm_follow_pfn_got_page(kfp, pages[i], true,
						   KVM_FOLLOW_PFN_FAST);
		trace_kvm_follow_pfn(kfp);
	}

	return found;

none:
	trace_kvm_follow_pfn(kfp);
	return 0;
}

/*
 * Mark a page as used by the guest or the kernel, and as @dirty if a write is
 * possible from now on without another lookup.
 *
 * If @dirty is true, the caller holds the lock that excludes the completion of
 * an invalidation, and its retry check passed: the page is mapped writable by the
 * host, hence has not been cleaned, and the filesystem knows of it.  Otherwise it
 * may own a reference or pin instead.  NULL, i.e. memory that is not refcounted,
 * is fine.  PG_reserved pages belong to their owner alone, see page-flags.h.
 */
void __kvm_mark_page_mapped(struct page *page, bool dirty)
{
	if (!page || PageReserved(page))
		return;

	if (dirty)
		SetPageDirty(page);

	mark_page_accessed(page);
}

/*
 * Mark a page that a guarded lookup found, after it was mapped in the guest.
 *
 * @page is kvm_follow_pfn.page, i.e. the page of the pfn as looked up, before
 * any adjustment to the start of a huge page.  @dirty says that the new or
 * reused mapping is writable, or can become so without another lookup.
 *
 * mmu_lock (for read or write) is still held since the retry check passed.  An
 * invalidation cannot complete before it is dropped, so that a page is never
 * dirtied after the host has cleaned, or freed, it.
 */
void kvm_mark_page_mapped(struct kvm *kvm, struct page *page, bool dirty)
{
	lockdep_assert_held(&kvm->mmu_lock);

	__kvm_mark_page_mapped(page, dirty);
}
EXPORT_SYMBOL_GPL(kvm_mark_page_mapped);

/*
 * Release what an unguarded lookup answered with, marking the page as accessed
 * and, if it was written through a mapping of the kernel, as @dirty.
 *
 * Neither a reference nor a pin keeps writeback from cleaning the page before the
 * last write to it.  The filesystem has to be told that it is dirty again, which
 * the flag alone does not do, and the page must not be truncated meanwhile.  Spare
 * a page the lock that is dirty still: whoever cleans it later writes it later,
 * see unpin_user_pages_dirty_lock().
 *
 * @page and @hold are the fields of struct kvm_follow_pfn.  Nothing is done for
 * KVM_PFN_HOLD_NONE, i.e. for errors and for memory that is not refcounted.
 *
 * Context: process.  Sleeps for the lock of the page if @dirty is true; otherwise
 * preemption may be disabled, unless PREEMPT_RT makes the locks of the LRU sleep.
 */
void kvm_release_held_page(struct page *page, enum kvm_pfn_hold hold, bool dirty)
{
	if (hold == KVM_PFN_HOLD_NONE)
		return;

	if (dirty && !PageDirty(page) && !PageReserved(page))
		set_page_dirty_lock(page);
	__kvm_mark_page_mapped(page, false);

	if (hold == KVM_PFN_HOLD_PIN)
		unpin_user_page(page);
	else
		put_page(page);
}
EXPORT_SYMBOL_GPL(kvm_release_held_page);
