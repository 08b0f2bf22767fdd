// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of guest memory in the kernel, for accesses of KVM itself.
 *
 * Such a mapping is not in the page tables of the VMM, i.e. nothing takes it
 * down when the memory is freed, migrated, or replaced by a copy.  There are
 * two kinds of users, and each has an answer to that:
 *
 *  kvm_vcpu_map() pins the page, and keeps the pin until kvm_vcpu_unmap().
 *
 *  gfn_to_pfn_cache, see pfncache.c, holds nothing.  An MMU notifier makes the
 *  cache invalid, and the mapping is used only under gpc->lock, while the cache
 *  is valid.
 *
 * Memory that is not refcounted cannot be pinned, and is refused by the former
 * unless the administrator permits it, see kvm.allow_unsafe_mappings.
 */
#include <kunit/static_stub.h>

#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/ioremap.h>
#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "kvm_mm.h"

/*
 * Map the host frame @pfn in the kernel.  The caller sees to it that the frame
 * stays what it is for as long as the mapping is used.
 *
 * Return the address of its first byte, or NULL.
 *
 * Context: may sleep.
 */
void *kvm_map_pfn(kvm_pfn_t pfn)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_map_pfn, pfn);

	if (pfn_valid(pfn))
		return kmap(pfn_to_page(pfn));

	/* Without I/O memory, all memory has struct pages. */
	if (IS_ENABLED(CONFIG_HAS_IOMEM))
		return memremap(pfn_to_hpa(pfn), PAGE_SIZE, MEMREMAP_WB);

	return NULL;
}

/*
 * Undo kvm_map_pfn().  The address that it has returned tells how @pfn was
 * mapped, pfn_valid() does not: memory may have got struct pages since then, or
 * lost them.
 *
 * Context: may sleep, but not if @pfn has a struct page, and no high memory is
 * configured.
 */
void kvm_unmap_pfn(kvm_pfn_t pfn, void *khva)
{
	KUNIT_STATIC_STUB_REDIRECT(kvm_unmap_pfn, pfn, khva);

	if (is_ioremap_addr(khva))
		memunmap(khva);
	else
		kunmap(pfn_to_page(pfn));
}

static int kvm_vcpu_map_gfn(struct kvm_vcpu *vcpu, gfn_t gfn,
			    struct kvm_host_map *map, bool writable)
{
	struct kvm_follow_pfn kfp = {
		.slot = gfn_to_memslot(vcpu->kvm, gfn),
		.gfn = gfn,
		.flags = writable ? FOLL_WRITE : 0,
		.pin = true,
	};
	void *hva;

	*map = (struct kvm_host_map) {};

	if (!kfp.slot)
		return -EINVAL;

	/* The hva of the memslot is not what the guest sees. */
	if (kvm_mem_is_private(vcpu->kvm, gfn))
		return -EINVAL;

	if (is_error_noslot_pfn(__kvm_follow_pfn(&kfp)))
		return -EINVAL;

	hva = kvm_map_pfn(kfp.pfn);
	if (!hva) {
		kvm_release_held_page(kfp.page, kfp.hold, false);
		return -EFAULT;
	}

	*map = (struct kvm_host_map) {
		.hva = hva,
		.pfn = kfp.pfn,
		.gfn = gfn,
		.writable = writable,
		.page = kfp.page,
		.hold = kfp.hold,
	};

	return 0;
}

/*
 * Map the guest frame @gfn in the kernel, for reads and writes of KVM, or of
 * the CPU if it is told the pfn, until kvm_vcpu_unmap().
 *
 * The frame is that of the gfn in address space zero, i.e. outside of SMM,
 * whatever the mode of the vCPU.  It is pinned, hence remains what the host
 * maps at the hva, unless the host unmaps that.  The writes are made known to
 * the dirty log, and to the host, by kvm_vcpu_unmap().  Whoever keeps the map
 * while the guest runs marks the gfn dirty earlier.
 *
 * @map must not be in use, and need not be initialized.
 *
 * Return:
 *
 *  0		@map->hva is the first byte of the frame, @map->pfn its number
 *  -EINVAL	there is no such memory, it must not be accessed, or a signal has
 *		interrupted the driver that was to bring it in
 *  -EFAULT	it cannot be mapped in the kernel
 *
 * On error, nothing is held and kvm_vcpu_mapped() is false.
 *
 * Context: task of the vCPU, with kvm->srcu held; may sleep.
 */
int kvm_vcpu_map(struct kvm_vcpu *vcpu, gfn_t gfn, struct kvm_host_map *map)
{
	return kvm_vcpu_map_gfn(vcpu, gfn, map, true);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_map);

/*
 * Like kvm_vcpu_map(), but for reads only.  The frame may be in a read-only
 * memslot, or one that the host maps read-only, and the page is not marked
 * dirty.  Such a page may be replaced by a copy when somebody else writes to
 * it, so do not keep the map while the guest runs.
 */
int kvm_vcpu_map_readonly(struct kvm_vcpu *vcpu, gfn_t gfn,
			  struct kvm_host_map *map)
{
	return kvm_vcpu_map_gfn(vcpu, gfn, map, false);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_map_readonly);

static void __kvm_vcpu_unmap(struct kvm_vcpu *vcpu, struct kvm_host_map *map,
			     bool mark_page)
{
	kvm_unmap_pfn(map->pfn, map->hva);

	/* Not by the vCPU, whose memslots are others in SMM. */
	if (map->writable)
		mark_page_dirty(vcpu->kvm, map->gfn);

	kvm_release_held_page(map->page, map->hold, mark_page);

	*map = (struct kvm_host_map) {};
}

/*
 * Undo kvm_vcpu_map() or kvm_vcpu_map_readonly().  Do nothing if @map is all
 * zeroes, if mapping failed, or if @map was unmapped already.
 *
 * Context: kvm->srcu is held, or the VM is being destroyed; may sleep.
 */
void kvm_vcpu_unmap(struct kvm_vcpu *vcpu, struct kvm_host_map *map)
{
	if (kvm_vcpu_mapped(map))
		__kvm_vcpu_unmap(vcpu, map, map->writable);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_unmap);

/*
 * Mark a page dirty that kvm_vcpu_map() holds, without sleeping.  The flag is all
 * that there is to anonymous memory and shmem.  For other files it must not be set
 * alone, or nobody would tell the filesystem of later writes: it takes the page
 * for known.  Filesystems use locks that sleep with PREEMPT_RT.
 */
static void kvm_mark_held_page_dirty_atomic(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (folio_test_dirty(folio) || folio_test_reserved(folio))
		return;

	if (folio_test_anon(folio) || folio_test_swapbacked(folio)) {
		folio_set_dirty(folio);
	} else if (!IS_ENABLED(CONFIG_PREEMPT_RT) && folio_trylock(folio)) {
		folio_mark_dirty(folio);
		folio_unlock(folio);
	}
}

/*
 * Like kvm_vcpu_unmap(), but do not sleep.  @map is of memory with a struct page,
 * and on a kernel without high memory.
 *
 * If the memory is that of a file, and somebody has locked the page, e.g. to write
 * it back, or with PREEMPT_RT, the last write may get lost.
 *
 * Context: kvm->srcu is held; preemption may be disabled.  With PREEMPT_RT, mm/ may
 * take locks that sleep all the same, to mark the page as accessed or to free it.
 */
void kvm_vcpu_unmap_atomic(struct kvm_vcpu *vcpu, struct kvm_host_map *map)
{
	if (!kvm_vcpu_mapped(map))
		return;

	if (map->page && map->writable)
		kvm_mark_held_page_dirty_atomic(map->page);

	__kvm_vcpu_unmap(vcpu, map, false);
}
EXPORT_SYMBOL_GPL(kvm_vcpu_unmap_atomic);
