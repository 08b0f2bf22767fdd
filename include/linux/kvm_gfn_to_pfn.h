/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GFN_TO_PFN_H
#define __KVM_GFN_TO_PFN_H

#include <linux/err.h>
#include <linux/kvm_types.h>

struct kvm;
struct kvm_memory_slot;
struct page;

/*
 * The functions for architectures that are not converted to
 * __kvm_follow_pfn(), see virt/kvm/gfn_to_pfn.c.
 */
kvm_pfn_t gfn_to_pfn(struct kvm *kvm, gfn_t gfn);
kvm_pfn_t gfn_to_pfn_prot(struct kvm *kvm, gfn_t gfn, bool write_fault,
			  bool *writable);
kvm_pfn_t gfn_to_pfn_memslot(const struct kvm_memory_slot *slot, gfn_t gfn);
kvm_pfn_t __gfn_to_pfn_memslot(const struct kvm_memory_slot *slot, gfn_t gfn,
			       bool atomic, bool interruptible, bool *async,
			       bool write_fault, bool *writable, hva_t *hva);

void kvm_release_pfn_clean(kvm_pfn_t pfn);
void kvm_release_pfn_dirty(kvm_pfn_t pfn);
void kvm_set_pfn_dirty(kvm_pfn_t pfn);
void kvm_set_pfn_accessed(kvm_pfn_t pfn);

struct page *kvm_pfn_to_refcounted_page(kvm_pfn_t pfn);

#define KVM_ERR_PTR_BAD_PAGE	(ERR_PTR(-ENOENT))

static inline bool is_error_page(struct page *page)
{
	return IS_ERR(page);
}

struct page *gfn_to_page(struct kvm *kvm, gfn_t gfn);

#endif /* __KVM_GFN_TO_PFN_H */
