// SPDX-License-Identifier: GPL-2.0-only
/*
 * Supply the kinds of memory that KVM must be able to map into a guest and that
 * userspace has no portable way to come by: raw pfns with and without struct
 * pages, with and without usable reference counts.  Report the exact reference
 * counts, so that a test can verify them to the digit.
 *
 * For tests only: the device hands out memory without any accounting.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/libnvdimm.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>
#ifdef CONFIG_ARM64_MTE
#include <asm/mte.h>
#endif

#include "test_kvm_memory_uapi.h"

static unsigned long pageless_start;
module_param(pageless_start, ulong, 0444);
MODULE_PARM_DESC(pageless_start, "Physical address of memory without struct pages");

static unsigned long pageless_size;
module_param(pageless_size, ulong, 0444);
MODULE_PARM_DESC(pageless_size, "Size in bytes of memory without struct pages");

/* The page-less memory is one resource, only one region can have it. */
static atomic_t pageless_busy = ATOMIC_INIT(0);

static atomic64_t nr_regions = ATOMIC64_INIT(0);
static atomic64_t nr_bad_counts = ATOMIC64_INIT(0);

/* What to do with lookups. */
enum tkm_hold {
	TKM_HOLD_NONE,
	TKM_HOLD_NEXT,
	TKM_HOLDING,
};

struct tkm_region {
	/*
	 * All files of the device share one inode.  A mapping of its own lets a
	 * region be zapped without touching its siblings.
	 */
	struct address_space mapping;

	/*
	 * Serializes creation, TKM_HOLD_LOOKUP, and TKM_EXCHANGE with the fault
	 * handler.  But for TKM_EXCHANGE all values down to @kaddr are constant
	 * once @created.
	 */
	struct mutex lock;
	bool created;
	u32 kind;
	u32 flags;
	u32 nr_pages;
	u32 order;

	/* NULL for page-less memory, which has @base_pfn and @kaddr instead. */
	struct page **pages;
	int *initial_refs;
	unsigned long base_pfn;
	void *kaddr;

	/* These change at any time. */
	unsigned long *poisoned;
	u32 delay_us;
	u32 broken;
	atomic64_t faults;
	atomic64_t write_faults;
	atomic64_t mkwrites;

	/* The tracepoint is NULL until TKM_HOLD_LOOKUP is first used. */
	struct tracepoint *lookup_tp;
	pid_t lookup_tgid;
	u32 hold_ms;
	atomic_t hold;
	atomic64_t lookups;
	atomic64_t lookups_done;
};

static bool tkm_is_pfnmap(u32 kind)
{
	return kind >= TKM_PFNMAP_NONCOMPOUND && kind <= TKM_PFNMAP_RESERVED;
}

static bool tkm_is_created(struct tkm_region *region)
{
	/* Pairs with the release in tkm_create(). */
	return smp_load_acquire(&region->created);
}

static bool tkm_in_range(struct tkm_region *region, u32 first, u32 nr)
{
	return nr && first < region->nr_pages && nr <= region->nr_pages - first;
}

static unsigned long tkm_pfn(struct tkm_region *region, pgoff_t index)
{
	if (!region->pages)
		return region->base_pfn + index;

	return page_to_pfn(region->pages[index]);
}

static void *tkm_kaddr(struct tkm_region *region, pgoff_t index)
{
	if (!region->pages)
		return region->kaddr + (index << PAGE_SHIFT);

	return page_address(region->pages[index]);
}

/*
 * Keep the cache from hiding what uncached mappings have written from reads by
 * @kaddr, and writes by @kaddr from them: call it before the former, and both
 * before, as a write may be of a part of a cache line, and after the latter.
 */
static void tkm_sync_cache(struct tkm_region *region, void *kaddr, size_t len)
{
	if (!(region->flags & (TKM_WC | TKM_WC_ENTRIES)))
		return;

	arch_wb_cache_pmem(kaddr, len);
	arch_invalidate_pmem(kaddr, len);
}

static int tkm_claim_pageless(struct tkm_region *region)
{
	unsigned long i;

	if (!pageless_size) {
		pr_err("no page-less memory: load with pageless_start= and pageless_size=\n");
		return -ENODEV;
	}

	if (region->nr_pages > pageless_size >> PAGE_SHIFT)
		return -ENOSPC;

	region->base_pfn = PHYS_PFN(pageless_start);
	for (i = 0; i < region->nr_pages; i++) {
		if (pfn_valid(region->base_pfn + i)) {
			pr_err("pfn 0x%lx has a struct page: reserve whole memory sections\n",
			       region->base_pfn + i);
			return -EADDRINUSE;
		}
	}

	if (atomic_cmpxchg(&pageless_busy, 0, 1))
		return -EBUSY;

	region->kaddr = memremap(pageless_start,
				 (size_t)region->nr_pages << PAGE_SHIFT,
				 MEMREMAP_WB);
	if (!region->kaddr) {
		atomic_set(&pageless_busy, 0);
		return -ENOMEM;
	}

	memset(region->kaddr, 0, (size_t)region->nr_pages << PAGE_SHIFT);
	return 0;
}

/*
 * A page whose count is not the initial one may be in use by whoever holds the
 * stray reference, or may be freed once more: leak the block rather than hand it
 * back to the allocator.
 */
static void tkm_free_block(struct tkm_region *region, u32 first)
{
	u32 nr = 1U << region->order;
	bool bad = false;
	u32 i;

	for (i = first; i < first + nr; i++) {
		int refs = page_ref_count(region->pages[i]);

		if (refs == region->initial_refs[i])
			continue;

		pr_err_ratelimited("pfn 0x%lx released with %d references instead of %d\n",
				   tkm_pfn(region, i), refs,
				   region->initial_refs[i]);
		atomic64_inc(&nr_bad_counts);
		bad = true;
	}

	if (bad)
		return;

	if (region->kind == TKM_PFNMAP_RESERVED)
		ClearPageReserved(region->pages[first]);

	__free_pages(region->pages[first], region->order);
}

/* Free the first @nr_pages pages, a multiple of the region's block size. */
static void tkm_free_pages(struct tkm_region *region, u32 nr_pages)
{
	u32 i;

	for (i = 0; i < nr_pages; i += 1U << region->order)
		tkm_free_block(region, i);

	kvfree(region->pages);
	kvfree(region->initial_refs);
	region->pages = NULL;
	region->initial_refs = NULL;
}

static int tkm_alloc_pages(struct tkm_region *region)
{
	u32 block = 1U << region->order;
	struct page *page;
	u32 i, j;

	region->pages = kvcalloc(region->nr_pages, sizeof(*region->pages),
				 GFP_KERNEL);
	region->initial_refs = kvcalloc(region->nr_pages,
					sizeof(*region->initial_refs),
					GFP_KERNEL);
	if (!region->pages || !region->initial_refs) {
		tkm_free_pages(region, 0);
		return -ENOMEM;
	}

	for (i = 0; i < region->nr_pages; i += block) {
		/* No __GFP_COMP: the tail pages of a block stay at zero. */
		page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN,
				   region->order);
		if (!page) {
			tkm_free_pages(region, i);
			return -ENOMEM;
		}

		if (region->kind == TKM_PFNMAP_RESERVED)
			SetPageReserved(page);

		for (j = 0; j < block; j++) {
			region->pages[i + j] = page + j;
			region->initial_refs[i + j] = page_ref_count(page + j);
		}

		cond_resched();
	}

	return 0;
}

static int tkm_check_create(struct tkm_create *cmd)
{
	bool pfnmap = tkm_is_pfnmap(cmd->kind);

	if (cmd->kind < TKM_PFNMAP_NONCOMPOUND ||
	    cmd->kind > TKM_MIXEDMAP_SPECIAL)
		return -EINVAL;

	if (!cmd->nr_pages || cmd->nr_pages > TKM_MAX_PAGES)
		return -EINVAL;

	if (cmd->order > MAX_PAGE_ORDER ||
	    (cmd->order && cmd->kind != TKM_PFNMAP_NONCOMPOUND) ||
	    cmd->nr_pages & ((1U << cmd->order) - 1))
		return -EINVAL;

	if (cmd->flags & ~(pfnmap ? TKM_FLAGS : TKM_WC))
		return -EINVAL;

	/* remap_pfn_range() installs writable entries, there is no upgrade. */
	if ((cmd->flags & TKM_EAGER) && (cmd->flags & TKM_WRITENOTIFY))
		return -EINVAL;

	/* Neither knows of entries that are unlike their VMA. */
	if ((cmd->flags & TKM_WC_ENTRIES) &&
	    (cmd->flags & (TKM_EAGER | TKM_WRITENOTIFY)))
		return -EINVAL;

	/* Without special entries a raw pfn in a VM_MIXEDMAP VMA is refcounted. */
	if (cmd->kind == TKM_MIXEDMAP_SPECIAL &&
	    !IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL)) {
		pr_err("this architecture has no special entries\n");
		return -EOPNOTSUPP;
	}

	return 0;
}

static int tkm_create(struct tkm_region *region, void __user *argp)
{
	struct tkm_create cmd;
	int ret;
	u32 i;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	ret = tkm_check_create(&cmd);
	if (ret)
		return ret;

	mutex_lock(&region->lock);
	if (region->created) {
		ret = -EBUSY;
		goto out;
	}

	region->kind = cmd.kind;
	region->flags = cmd.flags;
	region->nr_pages = cmd.nr_pages;
	region->order = cmd.order;

	region->poisoned = bitmap_zalloc(region->nr_pages, GFP_KERNEL);
	if (!region->poisoned) {
		ret = -ENOMEM;
		goto out;
	}

	if (region->kind == TKM_PFNMAP_PAGELESS)
		ret = tkm_claim_pageless(region);
	else
		ret = tkm_alloc_pages(region);
	if (ret) {
		bitmap_free(region->poisoned);
		region->poisoned = NULL;
		goto out;
	}

	for (i = 0; i < region->nr_pages; i++)
		tkm_sync_cache(region, tkm_kaddr(region, i), PAGE_SIZE);

	atomic64_inc(&nr_regions);
	/* Pairs with the acquire in tkm_is_created(). */
	smp_store_release(&region->created, true);
out:
	mutex_unlock(&region->lock);
	return ret;
}

static void tkm_unmap(struct tkm_region *region, u32 first, u32 nr)
{
	unmap_mapping_range(&region->mapping, (loff_t)first << PAGE_SHIFT,
			    (loff_t)nr << PAGE_SHIFT, 1);
}

static int tkm_zap(struct tkm_region *region, void __user *argp)
{
	struct tkm_range cmd;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	if (!tkm_in_range(region, cmd.first, cmd.nr))
		return -EINVAL;

	tkm_unmap(region, cmd.first, cmd.nr);
	return 0;
}

/*
 * A page that is exchanged before the fault handler looks at it is not mapped
 * any more, one that is exchanged afterwards is unmapped below.
 */
static int tkm_exchange(struct tkm_region *region, void __user *argp)
{
	struct tkm_exchange cmd;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	if (!region->pages || region->order ||
	    !tkm_in_range(region, cmd.a, 1) || !tkm_in_range(region, cmd.b, 1))
		return -EINVAL;

	mutex_lock(&region->lock);
	swap(region->pages[cmd.a], region->pages[cmd.b]);
	swap(region->initial_refs[cmd.a], region->initial_refs[cmd.b]);
	mutex_unlock(&region->lock);

	tkm_unmap(region, cmd.a, 1);
	tkm_unmap(region, cmd.b, 1);
	return 0;
}

static int tkm_poison(struct tkm_region *region, void __user *argp)
{
	struct tkm_poison cmd;
	u32 i;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	if (cmd.pad || cmd.on > 1 || !tkm_in_range(region, cmd.first, cmd.nr))
		return -EINVAL;

	for (i = cmd.first; i < cmd.first + cmd.nr; i++)
		assign_bit(i, region->poisoned, cmd.on);

	return 0;
}

/* The pages of a block are no folio, look at each one's own flags. */
static u32 tkm_page_flags(struct page *page)
{
	u32 flags = 0;

	if (test_bit(PG_dirty, &page->flags))
		flags |= TKM_PAGE_DIRTY;
	if (test_bit(PG_referenced, &page->flags))
		flags |= TKM_PAGE_REFERENCED;
	if (test_bit(PG_active, &page->flags))
		flags |= TKM_PAGE_ACTIVE;
	if (test_bit(PG_reserved, &page->flags))
		flags |= TKM_PAGE_RESERVED;
	if (test_bit(PG_lru, &page->flags))
		flags |= TKM_PAGE_LRU;
	if (PageHWPoison(page))
		flags |= TKM_PAGE_HWPOISON;
#ifdef CONFIG_ARM64_MTE
	if (page_mte_tagged(page))
		flags |= TKM_PAGE_TAGGED;
#endif

	return flags;
}

static void tkm_describe_pfn(unsigned long pfn, struct tkm_page *desc)
{
	struct page *page;

	desc->pfn = pfn;
	if (!pfn_valid(pfn)) {
		desc->refcount = -1;
		desc->flags = TKM_PAGE_NONE;
		return;
	}

	page = pfn_to_page(pfn);
	desc->refcount = page_ref_count(page);
	desc->flags = tkm_page_flags(page);
}

static int tkm_counts(struct tkm_region *region, void __user *argp)
{
	struct tkm_page __user *pages;
	struct tkm_counts cmd;
	struct tkm_page desc;
	u32 i;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	if (!tkm_in_range(region, cmd.first, cmd.nr))
		return -EINVAL;

	pages = u64_to_user_ptr(cmd.pages);
	for (i = 0; i < cmd.nr; i++) {
		tkm_describe_pfn(tkm_pfn(region, cmd.first + i), &desc);
		if (copy_to_user(&pages[i], &desc, sizeof(desc)))
			return -EFAULT;
		cond_resched();
	}

	return 0;
}

/* Works without a region, too. */
static int tkm_lookup(void __user *argp)
{
	struct tkm_lookup cmd;
	struct folio *folio;
	struct page *page;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	if (get_user_pages_fast(cmd.addr, 1, 0, &page) != 1)
		return -ENOENT;

	folio = page_folio(page);
	cmd.page.pfn = page_to_pfn(page);
	/* But for the reference that was just taken. */
	cmd.page.refcount = folio_ref_count(folio) - 1;
	cmd.page.flags = tkm_page_flags(&folio->page);
	put_page(page);

	return copy_to_user(argp, &cmd, sizeof(cmd)) ? -EFAULT : 0;
}

static int tkm_describe(void __user *argp)
{
	struct tkm_page desc;

	if (copy_from_user(&desc, argp, sizeof(desc)))
		return -EFAULT;

	tkm_describe_pfn(desc.pfn, &desc);
	return copy_to_user(argp, &desc, sizeof(desc)) ? -EFAULT : 0;
}

/* Return the folio with a reference. */
static struct folio *tkm_get_folio(const struct tkm_file_page *cmd)
{
	struct folio *folio;
	struct file *file;

	if (cmd->pad)
		return ERR_PTR(-EINVAL);

	file = fget(cmd->fd);
	if (!file)
		return ERR_PTR(-EBADF);

	folio = filemap_get_folio(file->f_mapping, cmd->index);
	fput(file);
	return folio;
}

static int tkm_file_page(void __user *argp)
{
	struct tkm_file_page cmd;
	struct folio *folio;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	folio = tkm_get_folio(&cmd);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	tkm_describe_pfn(page_to_pfn(folio_file_page(folio, cmd.index)),
			 &cmd.page);
	/* But for the reference that was just taken. */
	cmd.page.refcount--;
	folio_put(folio);

	return copy_to_user(argp, &cmd, sizeof(cmd)) ? -EFAULT : 0;
}

static int tkm_file_poison(void __user *argp)
{
	struct tkm_file_page cmd;
	struct folio *folio;
	struct page *page;
	int ret;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		return -EOPNOTSUPP;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;

	folio = tkm_get_folio(&cmd);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	/* Consumes the reference. */
	page = folio_file_page(folio, cmd.index);
	ret = memory_failure(page_to_pfn(page),
			     MF_COUNT_INCREASED | MF_SW_SIMULATED);

	/* A file that keeps the poisoned page, like a guest_memfd, is no failure. */
	return ret == -EBUSY && PageHWPoison(page) ? 0 : ret;
}

/* Works without a region too, for the module-wide values. */
static int tkm_stats(struct tkm_region *region, void __user *argp)
{
	struct tkm_stats stats = {
		.faults = atomic64_read(&region->faults),
		.write_faults = atomic64_read(&region->write_faults),
		.mkwrites = atomic64_read(&region->mkwrites),
		.lookups = atomic64_read(&region->lookups),
		.lookups_done = atomic64_read(&region->lookups_done),
		.regions = atomic64_read(&nr_regions),
		.bad_counts = atomic64_read(&nr_bad_counts),
	};

	return copy_to_user(argp, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static int tkm_get_at_most(u32 max, u32 *value, void __user *argp)
{
	if (get_user(*value, (u32 __user *)argp))
		return -EFAULT;

	return *value > max ? -EINVAL : 0;
}

static int tkm_delay(struct tkm_region *region, void __user *argp)
{
	u32 delay_us;
	int ret;

	ret = tkm_get_at_most(TKM_MAX_DELAY_US, &delay_us, argp);
	if (!ret)
		WRITE_ONCE(region->delay_us, delay_us);

	return ret;
}

static int tkm_break(struct tkm_region *region, void __user *argp)
{
	u32 broken;
	int ret;

	ret = tkm_get_at_most(1, &broken, argp);
	if (!ret)
		WRITE_ONCE(region->broken, broken);

	return ret;
}

/* Opaque, as the base does not have it. */
struct kvm_follow_pfn;

/* The tracepoint is hit, without preemption, by each lookup right at its end. */
static void tkm_lookup_probe(void *data, const struct kvm_follow_pfn *kfp)
{
	struct tkm_region *region = data;
	ktime_t limit;

	if (current->tgid != READ_ONCE(region->lookup_tgid) ||
	    atomic_cmpxchg(&region->hold, TKM_HOLD_NEXT, TKM_HOLDING) != TKM_HOLD_NEXT)
		return;

	atomic64_inc(&region->lookups);
	limit = ktime_add_ms(ktime_get(), READ_ONCE(region->hold_ms));
	while (atomic_read(&region->hold) == TKM_HOLDING &&
	       !fatal_signal_pending(current) && ktime_before(ktime_get(), limit))
		cpu_relax();
	atomic64_inc(&region->lookups_done);
}

static void tkm_match_tracepoint(struct tracepoint *tp, void *data)
{
	struct tracepoint **found = data;

	if (!strcmp(tp->name, "kvm_follow_pfn"))
		*found = tp;
}

static int tkm_probe_lookups(struct tkm_region *region)
{
	struct tracepoint *tp = NULL;
	int ret;

	lockdep_assert_held(&region->lock);

	if (!IS_ENABLED(CONFIG_TRACEPOINTS))
		return -ENODEV;

	if (region->lookup_tp)
		return 0;

	for_each_kernel_tracepoint(tkm_match_tracepoint, &tp);
	if (!tp)
		return -ENODEV;

	ret = tracepoint_probe_register(tp, tkm_lookup_probe, region);
	if (!ret)
		region->lookup_tp = tp;

	return ret;
}

static int tkm_hold_lookup(struct tkm_region *region, void __user *argp)
{
	u32 hold_ms;
	int ret;

	ret = tkm_get_at_most(TKM_MAX_HOLD_MS, &hold_ms, argp);
	if (ret)
		return ret;

	mutex_lock(&region->lock);
	ret = tkm_probe_lookups(region);
	if (!ret) {
		WRITE_ONCE(region->lookup_tgid, current->tgid);
		WRITE_ONCE(region->hold_ms, hold_ms);
		/* Pairs with the cmpxchg in tkm_lookup_probe(). */
		atomic_set_release(&region->hold,
				   hold_ms ? TKM_HOLD_NEXT : TKM_HOLD_NONE);
	}
	mutex_unlock(&region->lock);
	return ret;
}

static long tkm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct tkm_region *region = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case TKM_CREATE:
		return tkm_create(region, argp);
	case TKM_STATS:
		return tkm_stats(region, argp);
	case TKM_LOOKUP:
		return tkm_lookup(argp);
	case TKM_FILE_PAGE:
		return tkm_file_page(argp);
	case TKM_FILE_POISON:
		return tkm_file_poison(argp);
	case TKM_PFN:
		return tkm_describe(argp);
	case TKM_HOLD_LOOKUP:
		return tkm_hold_lookup(region, argp);
	}

	if (!tkm_is_created(region))
		return -ENXIO;

	switch (cmd) {
	case TKM_ZAP:
		return tkm_zap(region, argp);
	case TKM_COUNTS:
		return tkm_counts(region, argp);
	case TKM_POISON:
		return tkm_poison(region, argp);
	case TKM_EXCHANGE:
		return tkm_exchange(region, argp);
	case TKM_DELAY:
		return tkm_delay(region, argp);
	case TKM_BREAK:
		return tkm_break(region, argp);
	default:
		return -ENOTTY;
	}
}

static vm_fault_t tkm_insert(struct tkm_region *region, struct vm_fault *vmf)
{
	unsigned long pfn = tkm_pfn(region, vmf->pgoff);
	struct vm_area_struct *vma = vmf->vma;

	switch (region->kind) {
	case TKM_MIXEDMAP_NORMAL:
		return vmf_insert_page(vma, vmf->address,
				       region->pages[vmf->pgoff]);
	case TKM_MIXEDMAP_SPECIAL:
		return vmf_insert_mixed(vma, vmf->address,
					__pfn_to_pfn_t(pfn, PFN_DEV));
	default:
		if (region->flags & TKM_WC_ENTRIES)
			return vmf_insert_pfn_prot(vma, vmf->address, pfn,
						   pgprot_writecombine(vma->vm_page_prot));
		/* In a write-notify VMA the protection here is read-only. */
		return vmf_insert_pfn(vma, vmf->address, pfn);
	}
}

static vm_fault_t tkm_fault(struct vm_fault *vmf)
{
	struct tkm_region *region = vmf->vma->vm_private_data;
	u32 delay_us = READ_ONCE(region->delay_us);
	vm_fault_t ret;

	atomic64_inc(&region->faults);
	if (vmf->flags & FAULT_FLAG_WRITE)
		atomic64_inc(&region->write_faults);

	if (delay_us)
		fsleep(delay_us);

	if (vmf->pgoff >= region->nr_pages)
		return VM_FAULT_SIGBUS;

	if (test_bit(vmf->pgoff, region->poisoned))
		return VM_FAULT_HWPOISON;

	if (READ_ONCE(region->broken))
		return vmf->flags & FAULT_FLAG_RETRY_NOWAIT ? VM_FAULT_RETRY :
							      VM_FAULT_SIGBUS;

	mutex_lock(&region->lock);
	ret = tkm_insert(region, vmf);
	mutex_unlock(&region->lock);
	return ret;
}

static vm_fault_t tkm_pfn_mkwrite(struct vm_fault *vmf)
{
	struct tkm_region *region = vmf->vma->vm_private_data;

	atomic64_inc(&region->mkwrites);
	return 0;
}

static const struct vm_operations_struct tkm_vm_ops = {
	.fault = tkm_fault,
};

/* The mere presence of pfn_mkwrite() makes mm install read-only entries. */
static const struct vm_operations_struct tkm_writenotify_vm_ops = {
	.fault = tkm_fault,
	.pfn_mkwrite = tkm_pfn_mkwrite,
};

static int tkm_remap(struct tkm_region *region, struct vm_area_struct *vma)
{
	u32 block = 1U << region->order;
	unsigned long i, n;
	int ret;

	/* The pages of a block are contiguous, blocks need not be. */
	for (i = 0; i < vma_pages(vma); i += n) {
		pgoff_t index = vma->vm_pgoff + i;

		n = min(block - (index & (block - 1)), vma_pages(vma) - i);
		ret = remap_pfn_range(vma, vma->vm_start + (i << PAGE_SHIFT),
				      tkm_pfn(region, index), n << PAGE_SHIFT,
				      vma->vm_page_prot);
		if (ret)
			return ret;
	}

	return 0;
}

static int tkm_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct tkm_region *region = file->private_data;

	if (!tkm_is_created(region))
		return -ENXIO;

	/* Raw pfns must not be in VMAs that copy on write. */
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;

	if (vma->vm_pgoff >= region->nr_pages ||
	    vma_pages(vma) > region->nr_pages - vma->vm_pgoff)
		return -EINVAL;

	vma->vm_private_data = region;
	if (region->flags & TKM_WRITENOTIFY)
		vma->vm_ops = &tkm_writenotify_vm_ops;
	else
		vma->vm_ops = &tkm_vm_ops;

	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	vm_flags_set(vma, tkm_is_pfnmap(region->kind) ? VM_PFNMAP : VM_MIXEDMAP);
	if (region->flags & TKM_IO)
		vm_flags_set(vma, VM_IO);
	if (region->flags & TKM_WC)
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);

	if (region->flags & TKM_EAGER)
		return tkm_remap(region, vma);

	return 0;
}

static ssize_t tkm_copy(struct file *file, char __user *to,
			const char __user *from, size_t len, loff_t *ppos)
{
	struct tkm_region *region = file->private_data;
	size_t done = 0;
	loff_t size;

	if (!tkm_is_created(region))
		return -ENXIO;

	size = (loff_t)region->nr_pages << PAGE_SHIFT;
	if (*ppos < 0 || *ppos >= size)
		return 0;

	len = min_t(loff_t, len, size - *ppos);
	while (done < len) {
		loff_t pos = *ppos + done;
		size_t n = min_t(size_t, len - done,
				 PAGE_SIZE - offset_in_page(pos));
		void *kaddr = tkm_kaddr(region, pos >> PAGE_SHIFT) +
			      offset_in_page(pos);

		tkm_sync_cache(region, kaddr, n);
		if (to ? copy_to_user(to + done, kaddr, n) :
			 copy_from_user(kaddr, from + done, n))
			return -EFAULT;
		tkm_sync_cache(region, kaddr, n);

		done += n;
		cond_resched();
	}

	*ppos += done;
	return done;
}

static ssize_t tkm_read(struct file *file, char __user *buf, size_t len,
			loff_t *ppos)
{
	return tkm_copy(file, buf, NULL, len, ppos);
}

static ssize_t tkm_write(struct file *file, const char __user *buf, size_t len,
			 loff_t *ppos)
{
	return tkm_copy(file, NULL, buf, len, ppos);
}

static int tkm_open(struct inode *inode, struct file *file)
{
	struct tkm_region *region;

	region = kzalloc(sizeof(*region), GFP_KERNEL);
	if (!region)
		return -ENOMEM;

	mutex_init(&region->lock);

	address_space_init_once(&region->mapping);
	init_rwsem(&region->mapping.invalidate_lock);
	region->mapping.host = inode;
	region->mapping.a_ops = &empty_aops;
	mapping_set_gfp_mask(&region->mapping, GFP_USER);

	file->f_mapping = &region->mapping;
	file->private_data = region;
	return 0;
}

/* VMAs hold a reference to the file, all of them are gone. */
static int tkm_release(struct inode *inode, struct file *file)
{
	struct tkm_region *region = file->private_data;

	if (IS_ENABLED(CONFIG_TRACEPOINTS) && region->lookup_tp) {
		tracepoint_probe_unregister(region->lookup_tp, tkm_lookup_probe,
					    region);
		tracepoint_synchronize_unregister();
	}

	if (region->created) {
		if (region->pages) {
			tkm_free_pages(region, region->nr_pages);
		} else {
			memunmap(region->kaddr);
			atomic_set(&pageless_busy, 0);
		}
		bitmap_free(region->poisoned);
		atomic64_dec(&nr_regions);
	}

	file->f_mapping = inode->i_mapping;
	mutex_destroy(&region->lock);
	kfree(region);
	return 0;
}

static const struct file_operations tkm_fops = {
	.owner = THIS_MODULE,
	.open = tkm_open,
	.release = tkm_release,
	.mmap = tkm_mmap,
	.read = tkm_read,
	.write = tkm_write,
	.unlocked_ioctl = tkm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice tkm_miscdev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "test_kvm_memory",
	.fops = &tkm_fops,
	.mode = 0600,
};

static int __init tkm_init(void)
{
	if (!PAGE_ALIGNED(pageless_start) || !PAGE_ALIGNED(pageless_size) ||
	    pageless_start + pageless_size < pageless_start) {
		pr_err("pageless_start and pageless_size must be whole pages\n");
		return -EINVAL;
	}

	return misc_register(&tkm_miscdev);
}
module_init(tkm_init);

static void __exit tkm_exit(void)
{
	misc_deregister(&tkm_miscdev);
}
module_exit(tkm_exit);

MODULE_DESCRIPTION("Unusual kinds of memory for the KVM selftests");
MODULE_LICENSE("GPL");
