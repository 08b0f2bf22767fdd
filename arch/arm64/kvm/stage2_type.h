/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __ARM64_KVM_STAGE2_TYPE_H
#define __ARM64_KVM_STAGE2_TYPE_H

#include <linux/pgtable.h>
#include <asm/kvm_pgtable.h>

/*
 * The memory type of a stage-2 mapping: the bit of enum kvm_pgtable_prot to set,
 * or zero for Normal cacheable memory.
 *
 * @is_ram: the memory is part of the linear map, see pfn_is_map_memory().
 * @host: how the host maps the memory: the protection of its PTE, or of its VMA.
 * @any_uncached: the VMA has VM_ALLOW_ANY_UNCACHED.
 *
 * A guest must not cache what the host, or a device that does not snoop, accesses
 * behind its back: GPU drivers map RAM as Normal non-cacheable, page by page, and
 * the guest's cached lines would be stale, or be written back over their data.
 * Stage 2 limits the guest to the type that the memory has for the host.  What is
 * not RAM is a device unless its driver knows better.
 *
 * KVM cleans the caches only of memory that the guest may cache.  A driver that maps
 * RAM uncached cleans them before it does, or its own users, too, would read stale
 * data.
 */
static inline enum kvm_pgtable_prot s2_memory_type(bool is_ram, pgprot_t host,
						   bool any_uncached)
{
	if (!is_ram)
		return any_uncached ? KVM_PGTABLE_PROT_NORMAL_NC :
				      KVM_PGTABLE_PROT_DEVICE;

	switch (pgprot_val(host) & PTE_ATTRINDX_MASK) {
	case PTE_ATTRINDX(MT_NORMAL):
	case PTE_ATTRINDX(MT_NORMAL_TAGGED):
		return 0;
	case PTE_ATTRINDX(MT_NORMAL_NC):
		return KVM_PGTABLE_PROT_NORMAL_NC;
	default:
		return KVM_PGTABLE_PROT_DEVICE;
	}
}

#endif /* __ARM64_KVM_STAGE2_TYPE_H */
