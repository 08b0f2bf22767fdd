/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Private interface between the test_kvm_memory module and the KVM selftests.
 *
 * Each open file of /dev/test_kvm_memory owns at most one region of memory.
 * TKM_CREATE allocates it, mmap() maps it, pread() and pwrite() copy its bytes
 * through the kernel's own mapping, and the memory is freed when the last
 * mapping and the last descriptor are gone.
 */
#ifndef _KVM_TEST_KVM_MEMORY_UAPI_H
#define _KVM_TEST_KVM_MEMORY_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define TKM_DEVICE		"/dev/test_kvm_memory"

/* A region has at most so many pages. */
#define TKM_MAX_PAGES		65536

/* TKM_DELAY accepts at most so many microseconds. */
#define TKM_MAX_DELAY_US	200000

/* TKM_HOLD_LOOKUP accepts at most so many milliseconds. */
#define TKM_MAX_HOLD_MS		10000

/*
 * VM_PFNMAP over blocks of 2^order pages, allocated without __GFP_COMP: the
 * first page of each block has a reference count of one, all others have zero.
 */
#define TKM_PFNMAP_NONCOMPOUND	1
/* VM_PFNMAP over single pages, each with a reference count of one. */
#define TKM_PFNMAP_REFCOUNTED	2
/* VM_PFNMAP over memory that has no struct pages (see the module parameters). */
#define TKM_PFNMAP_PAGELESS	3
/* VM_PFNMAP over single pages that are marked PG_reserved. */
#define TKM_PFNMAP_RESERVED	4
/* VM_MIXEDMAP, entries that hold a reference to their page. */
#define TKM_MIXEDMAP_NORMAL	5
/* VM_MIXEDMAP, special entries: no reference, invisible to get_user_pages(). */
#define TKM_MIXEDMAP_SPECIAL	6

/* Map everything in mmap(), with remap_pfn_range().  VM_PFNMAP kinds only. */
#define TKM_EAGER		0x01
/*
 * Install read-only entries also in writable VMAs, and upgrade an entry when
 * it is first written through vm_ops->pfn_mkwrite().  VM_PFNMAP kinds only.
 */
#define TKM_WRITENOTIFY		0x02
/* Add VM_IO.  VM_PFNMAP kinds only. */
#define TKM_IO			0x04
/* Map write-combined, if the architecture can. */
#define TKM_WC			0x08
/*
 * Map write-combined as TTM does: by the entries alone, vm_page_prot of the VMA
 * does not tell.  VM_PFNMAP kinds only.
 */
#define TKM_WC_ENTRIES		0x10

#define TKM_FLAGS		(TKM_EAGER | TKM_WRITENOTIFY | TKM_IO | TKM_WC | \
				 TKM_WC_ENTRIES)

/*
 * @nr_pages is a multiple of 2^@order.  @order must be zero for all kinds but
 * TKM_PFNMAP_NONCOMPOUND.
 */
struct tkm_create {
	__u32 kind;
	__u32 flags;
	__u32 nr_pages;
	__u32 order;
};

/* Unmap pages [first, first + nr) from all address spaces. */
struct tkm_range {
	__u32 first;
	__u32 nr;
};

/* Exchange pages @a and @b of a region of single pages, and unmap both. */
struct tkm_exchange {
	__u32 a;
	__u32 b;
};

/* Make the fault handler answer VM_FAULT_HWPOISON for [first, first + nr). */
struct tkm_poison {
	__u32 first;
	__u32 nr;
	__u32 on;
	__u32 pad;
};

#define TKM_PAGE_NONE		0x01	/* no struct page */
#define TKM_PAGE_DIRTY		0x02
#define TKM_PAGE_REFERENCED	0x04
#define TKM_PAGE_ACTIVE		0x08
#define TKM_PAGE_RESERVED	0x10
#define TKM_PAGE_LRU		0x20
#define TKM_PAGE_HWPOISON	0x40
#define TKM_PAGE_TAGGED		0x80	/* arm64: the memory tags are valid */

/* @refcount is page_ref_count(), or -1 where there is no struct page. */
struct tkm_page {
	__u64 pfn;
	__s32 refcount;
	__u32 flags;
};

/* Fill @pages, a user pointer to @nr entries, for [first, first + nr). */
struct tkm_counts {
	__u32 first;
	__u32 nr;
	__u64 pages;
};

/*
 * What get_user_pages() finds at @addr of the calling process, be it memory of
 * this device or not.  For huge pages, the values are those of the whole.
 */
struct tkm_lookup {
	__u64 addr;
	struct tkm_page page;
};

/*
 * Page @index of the page cache of the file @fd, be it a file of this device or
 * not.  A page that was added not long ago is referenced by the batch of a CPU
 * in addition, until it is on an LRU list (TKM_PAGE_LRU).
 */
struct tkm_file_page {
	__s32 fd;
	__u32 pad;
	__u64 index;
	struct tkm_page page;
};

/*
 * @faults, @write_faults and @mkwrites count calls of this region's handlers,
 * and are incremented before TKM_DELAY takes effect.  @lookups counts what
 * TKM_HOLD_LOOKUP holds, and @lookups_done what it has let go.
 * @regions is the number of regions that exist, @bad_counts the number of pages
 * whose reference count was not the initial one when their region was released
 * (such pages are leaked), both for the whole module.
 */
struct tkm_stats {
	__u64 faults;
	__u64 write_faults;
	__u64 mkwrites;
	__u64 lookups;
	__u64 lookups_done;
	__u64 regions;
	__u64 bad_counts;
};

#define TKM_CREATE		_IOW('k', 0x00, struct tkm_create)
#define TKM_ZAP			_IOW('k', 0x01, struct tkm_range)
#define TKM_COUNTS		_IOW('k', 0x02, struct tkm_counts)
#define TKM_POISON		_IOW('k', 0x03, struct tkm_poison)
#define TKM_STATS		_IOR('k', 0x04, struct tkm_stats)
/* Make the fault handler sleep for so many microseconds before it maps. */
#define TKM_DELAY		_IOW('k', 0x05, __u32)

#define TKM_EXCHANGE		_IOW('k', 0x06, struct tkm_exchange)
#define TKM_LOOKUP		_IOWR('k', 0x07, struct tkm_lookup)

/* TKM_STATS, TKM_LOOKUP and these four work without a region, too. */

/* Fill @page. */
#define TKM_FILE_PAGE		_IOWR('k', 0x08, struct tkm_file_page)
/* Inject a memory failure into the page of a file. */
#define TKM_FILE_POISON		_IOW('k', 0x09, struct tkm_file_page)
/* Fill in what the kernel knows of @pfn, whoever owns it. */
#define TKM_PFN			_IOWR('k', 0x0a, struct tkm_page)
/*
 * Hold the next __kvm_follow_pfn() of the calling process, and no other, when it
 * knows the answer and before the caller uses it, for at most so many
 * milliseconds.  0: Let it go.  It is busy until then, without preemption, and
 * if its caller holds mmu_lock, as a prefetch does, with that.  ENODEV: this
 * kernel has no such function, or KVM is a module.
 */
#define TKM_HOLD_LOOKUP		_IOW('k', 0x0b, __u32)

/*
 * 1: Make the fault handler want to wait, and fail with VM_FAULT_SIGBUS whenever
 * it may, like that of a file whose device returns errors.  0: End that.
 */
#define TKM_BREAK		_IOW('k', 0x0c, __u32)

#endif /* _KVM_TEST_KVM_MEMORY_UAPI_H */
