// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory for the KUnit tests of the resolution of guest frames, see
 * kunit_memory.h.
 */
#include <kunit/test.h>

#include <linux/anon_inodes.h>
#include <linux/kthread.h>
#include <linux/kvm_follow_pfn.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>
#include <linux/rbtree.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/uaccess.h>

#include "../kvm_mm.h"
#include "kunit_memory.h"

/* Kinds of memory that more than one suite maps. */

const struct kfp_kind kfp_single = {
	.name = "single pages",
	.source = KFP_SINGLE_PAGES,
	.insert = KFP_BY_PAGE,
};

const struct kfp_kind kfp_compound = {
	.name = "compound page",
	.source = KFP_COMPOUND,
	.insert = KFP_BY_PAGE,
};

const struct kfp_kind kfp_mixedmap = {
	.name = "VM_MIXEDMAP, normal pages",
	.source = KFP_SINGLE_PAGES,
	.insert = KFP_BY_INSERT_PAGE,
	.vm_flags = VM_MIXEDMAP,
};

const struct kfp_kind kfp_mixedmap_reserved = {
	.name = "VM_MIXEDMAP, reserved pages",
	.source = KFP_RESERVED,
	.insert = KFP_BY_INSERT_PAGE,
	.vm_flags = VM_MIXEDMAP,
};

const struct kfp_kind kfp_pfnmap = {
	.name = "VM_PFNMAP, high order, not compound",
	.source = KFP_HIGH_ORDER,
	.insert = KFP_BY_INSERT_PFN,
	.vm_flags = VM_PFNMAP,
};

const struct kfp_kind kfp_pfnmap_single = {
	.name = "VM_PFNMAP, single refcounted pages",
	.source = KFP_SINGLE_PAGES,
	.insert = KFP_BY_INSERT_PFN,
	.vm_flags = VM_PFNMAP,
};

const struct kfp_kind kfp_pfnmap_compound = {
	.name = "VM_PFNMAP, compound page",
	.source = KFP_COMPOUND,
	.insert = KFP_BY_INSERT_PFN,
	.vm_flags = VM_PFNMAP,
};

const struct kfp_kind kfp_pfnmap_reserved = {
	.name = "VM_PFNMAP, reserved pages",
	.source = KFP_RESERVED,
	.insert = KFP_BY_INSERT_PFN,
	.vm_flags = VM_PFNMAP,
};

const struct kfp_kind kfp_pageless = {
	.name = "VM_PFNMAP, no struct page",
	.source = KFP_PAGELESS,
	.insert = KFP_BY_INSERT_PFN,
	.vm_flags = VM_IO | VM_PFNMAP,
};

void kfp_kind_desc(const struct kfp_kind *const *kind, char *desc)
{
	strscpy(desc, (*kind)->name, KUNIT_PARAM_DESC_SIZE);
}

/* The scripted mapping. */

static vm_fault_t kfp_map_page(struct vm_fault *vmf, struct kfp_memory *mem)
{
	struct vm_area_struct *vma = vmf->vma;
	struct folio *folio;
	int err;

	switch (mem->kind->insert) {
	case KFP_BY_PAGE:
		vmf->page = mem->page[vmf->pgoff];
		folio = page_folio(vmf->page);
		/* The fast get_user_pages() ignores files' pages without mapping. */
		folio->mapping = vma->vm_file->f_mapping;
		folio_get(folio);
		return 0;
	case KFP_BY_INSERT_PAGE:
		err = vm_insert_page(vma, vmf->address, mem->page[vmf->pgoff]);
		return err ? vmf_error(err) : VM_FAULT_NOPAGE;
	case KFP_BY_INSERT_PFN:
		return vmf_insert_pfn(vma, vmf->address, mem->pfn[vmf->pgoff]);
	case KFP_BY_INSERT_MIXED:
		return vmf_insert_mixed(vma, vmf->address,
					pfn_to_pfn_t(mem->pfn[vmf->pgoff]));
	case KFP_BY_REMAP:
		break;
	}

	return VM_FAULT_SIGBUS;
}

static vm_fault_t kfp_fault(struct vm_fault *vmf)
{
	struct kfp_memory *mem = vmf->vma->vm_private_data;

	if (vmf->pgoff >= KFP_PAGES)
		return VM_FAULT_SIGBUS;

	mem->faults++;
	mem->fault_flags = vmf->flags;

	if (!mem->nr_replies)
		return kfp_map_page(vmf, mem);
	mem->nr_replies--;

	if (mem->signal)
		send_sig(mem->signal, current, 1);

	if ((mem->reply & VM_FAULT_RETRY) &&
	    !(vmf->flags & FAULT_FLAG_RETRY_NOWAIT)) {
		release_fault_lock(vmf);
		/* The VMA may be gone from here on. */
		if (mem->unmap)
			vm_munmap(0, TASK_SIZE);
	}

	return mem->reply;
}

static vm_fault_t kfp_pfn_mkwrite(struct vm_fault *vmf)
{
	struct kfp_memory *mem = vmf->vma->vm_private_data;

	mem->mkwrites++;

	return mem->mkwrite_reply;
}

static const struct vm_operations_struct kfp_vm_ops = {
	.fault = kfp_fault,
};

static const struct vm_operations_struct kfp_mkwrite_vm_ops = {
	.fault = kfp_fault,
	.pfn_mkwrite = kfp_pfn_mkwrite,
};

static int kfp_file_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct kfp_memory *mem = file->private_data;
	unsigned long i;

	vm_flags_set(vma, mem->kind->vm_flags | VM_DONTEXPAND | VM_DONTDUMP);
	if (mem->kind->insert == KFP_BY_REMAP)
		return remap_pfn_range(vma, vma->vm_start, mem->pfn[0],
				       KFP_SIZE, vma->vm_page_prot);

	vma->vm_private_data = mem;
	vma->vm_ops = mem->use_mkwrite ? &kfp_mkwrite_vm_ops : &kfp_vm_ops;

	for (i = 0; mem->populate && i < KFP_PAGES; i++) {
		if (vmf_insert_pfn(vma, vma->vm_start + i * PAGE_SIZE,
				   mem->pfn[i]) != VM_FAULT_NOPAGE)
			return -EFAULT;
	}

	return 0;
}

static const struct file_operations kfp_fops = {
	.mmap = kfp_file_mmap,
};

/* Find aligned frames that are not memory as far as the kernel knows. */
static unsigned long kfp_find_pageless(struct kunit *test)
{
	unsigned long pfn;

	for (pfn = 1UL << 16; pfn < 1UL << 24; pfn <<= 1) {
		if (!pfn_valid(pfn) && !pfn_valid(pfn + KFP_PAGES - 1))
			return pfn;
	}

	kunit_skip(test, "no frames without struct page found");
}

void kfp_alloc_memory(struct kunit *test, const struct kfp_kind *kind)
{
	struct kfp_env *env = test->priv;
	struct kfp_memory *mem = &env->mem;
	struct page *page = NULL;
	unsigned long pfn = 0;
	int i;

	mem->kind = kind;

	switch (kind->source) {
	case KFP_HIGH_ORDER:
		page = alloc_pages(GFP_KERNEL | __GFP_ZERO, KFP_ORDER);
		KUNIT_ASSERT_NOT_NULL(test, page);
		break;
	case KFP_COMPOUND:
		page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP, KFP_ORDER);
		KUNIT_ASSERT_NOT_NULL(test, page);
		break;
	case KFP_PAGELESS:
		pfn = kfp_find_pageless(test);
		break;
	case KFP_SINGLE_PAGES:
	case KFP_RESERVED:
		break;
	}

	for (i = 0; i < KFP_PAGES; i++) {
		if (kind->source == KFP_PAGELESS) {
			mem->pfn[i] = pfn + i;
			continue;
		}
		mem->page[i] = page ? page + i : alloc_page(GFP_KERNEL | __GFP_ZERO);
		KUNIT_ASSERT_NOT_NULL(test, mem->page[i]);
		mem->pfn[i] = page_to_pfn(mem->page[i]);
		if (kind->source == KFP_RESERVED)
			SetPageReserved(mem->page[i]);
	}
}

static void kfp_free_memory(struct kfp_memory *mem)
{
	int i;

	if (!mem->page[0])
		return;

	switch (mem->kind->source) {
	case KFP_HIGH_ORDER:
	case KFP_COMPOUND:
		mem->page[0]->mapping = NULL;
		__free_pages(mem->page[0], KFP_ORDER);
		break;
	case KFP_SINGLE_PAGES:
	case KFP_RESERVED:
		for (i = 0; i < KFP_PAGES && mem->page[i]; i++) {
			ClearPageReserved(mem->page[i]);
			mem->page[i]->mapping = NULL;
			__free_page(mem->page[i]);
		}
		break;
	case KFP_PAGELESS:
		break;
	}
}

KUNIT_DEFINE_ACTION_WRAPPER(kfp_fput, fput, struct file *);

/*
 * Map a file, or anonymous memory if @file is NULL, and put the slot over it.
 * With MAP_FIXED, replace what the slot is over already.
 */
static void kfp_map_file(struct kunit *test, struct file *file,
			 unsigned long prot, unsigned long flags)
{
	struct kfp_env *env = test->priv;
	unsigned long addr = flags & MAP_FIXED ? env->slot.userspace_addr : 0;

	addr = kunit_vm_mmap(test, file, addr, KFP_SIZE, prot, flags, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_LT(test, addr, TASK_SIZE);

	if (!env->mm) {
		env->mm = current->mm;
		mmget(env->mm);
		env->kvm->mm = env->mm;
	}

	env->slot.userspace_addr = addr;
}

void kfp_map_anon(struct kunit *test, unsigned long prot)
{
	kfp_map_file(test, NULL, prot, MAP_PRIVATE | MAP_ANONYMOUS);
}

/* Map what kfp_alloc_memory() allocated. */
void kfp_map_memory(struct kunit *test, unsigned long prot,
		    unsigned long flags)
{
	struct kfp_env *env = test->priv;
	struct file *file;

	file = anon_inode_getfile("[kvm_follow_pfn]", &kfp_fops, &env->mem,
				  O_RDWR);
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, kfp_fput, file));

	kfp_map_file(test, file, prot, flags);
}

void kfp_map_shared(struct kunit *test, const struct kfp_kind *kind)
{
	kfp_alloc_memory(test, kind);
	kfp_map_memory(test, PROT_READ | PROT_WRITE, MAP_SHARED);
}

void kfp_map_shmem(struct kunit *test, unsigned long prot,
		   unsigned long flags)
{
	struct file *file;

	file = shmem_kernel_file_setup("kvm_follow_pfn", KFP_SIZE, VM_NORESERVE);
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, kfp_fput, file));

	kfp_map_file(test, file, prot, flags);
}

/* Undo all of the above, so that the test can go on with other memory. */
void kfp_drop_memory(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	vm_munmap(0, TASK_SIZE);
	kfp_free_memory(&env->mem);
	env->mem = (struct kfp_memory) {};
}

unsigned long kfp_hva(struct kunit *test, int index)
{
	struct kfp_env *env = test->priv;

	return env->slot.userspace_addr + index * PAGE_SIZE;
}

/* Write to a page through the mapping, as the VMM would. */
void kfp_touch(struct kunit *test, int index)
{
	u8 __user *p = (u8 __user *)kfp_hva(test, index);

	KUNIT_ASSERT_EQ(test, 0, put_user(0x5a, p));
}

/* Give the VM a memslot, the only one of its address space. */
void kfp_add_slot(struct kunit *test, struct kvm_memory_slot *slot)
{
	struct kvm_memslots *slots = kunit_kzalloc(test, sizeof(*slots), GFP_KERNEL);
	struct rb_node *node = &slot->gfn_node[0];
	struct kfp_env *env = test->priv;

	KUNIT_ASSERT_NOT_NULL(test, slots);
	slots->gfn_tree = RB_ROOT;
	rb_link_node(node, NULL, &slots->gfn_tree.rb_node);
	rb_insert_color(node, &slots->gfn_tree);
	rcu_assign_pointer(env->kvm->memslots[slot->as_id], slots);
}

/*
 * Let go of the mm.  A kthread that exits with an mm leaks the mm_struct, since
 * only kthread_unuse_mm() undoes the mmgrab() of kthread_use_mm().
 */
void kfp_detach(struct kfp_env *env)
{
	struct mm_struct *mm = env->mm;

	if (!mm)
		return;

	vm_munmap(0, TASK_SIZE);
	kthread_unuse_mm(mm);
	env->mm = NULL;
	mmput(mm);
	/* The reference of kunit_vm_mmap(), which the exit would have put. */
	mmput(mm);
}

bool kfp_is_pinned(struct page *page)
{
	return folio_maybe_dma_pinned(page_folio(page));
}

bool kfp_is_referenced(struct page *page)
{
	return folio_test_referenced(page_folio(page));
}

/* Forget what get_user_pages() and the test itself marked. */
void kfp_unmark(struct page *page)
{
	folio_clear_referenced(page_folio(page));
	ClearPageDirty(page);
}

static bool kfp_owner_dirty_folio(struct address_space *mapping, struct folio *folio)
{
	struct kfp_owner *owner = container_of(mapping, struct kfp_owner, mapping);

	owner->told++;
	owner->told_locked += folio_test_locked(folio);

	return noop_dirty_folio(mapping, folio);
}

/* mm must not look for the file of the page: give it back before it is unmapped. */
void kfp_own(struct kfp_env *env, struct page *page)
{
	static const struct address_space_operations aops = {
		.dirty_folio = kfp_owner_dirty_folio,
	};

	env->owner = (struct kfp_owner) {
		.mapping.a_ops = &aops,
		.folio = page_folio(page),
	};
	env->owner.folio->mapping = &env->owner.mapping;
}

void kfp_disown(struct kfp_env *env)
{
	if (env->owner.folio)
		env->owner.folio->mapping = NULL;
	env->owner.folio = NULL;
}

struct kfp_pages_state kfp_pages_state(struct kunit *test)
{
	struct kfp_env *env = test->priv;
	struct kfp_pages_state state = {};
	int i;

	for (i = 0; i < KFP_PAGES && env->mem.page[i]; i++) {
		state.count[i] = page_ref_count(env->mem.page[i]);
		state.flags[i] = env->mem.page[i]->flags;
	}

	return state;
}

void kfp_expect_counts(struct kunit *test,
		       const struct kfp_pages_state *before, int delta)
{
	struct kfp_env *env = test->priv;
	int i;

	for (i = 0; i < KFP_PAGES && env->mem.page[i]; i++)
		KUNIT_EXPECT_EQ_MSG(test, before->count[i] + delta,
				    page_ref_count(env->mem.page[i]),
				    "of page %d", i);
}

void kfp_expect_untouched(struct kunit *test,
			  const struct kfp_pages_state *before)
{
	struct kfp_env *env = test->priv;
	int i;

	kfp_expect_counts(test, before, 0);
	for (i = 0; i < KFP_PAGES && env->mem.page[i]; i++)
		KUNIT_EXPECT_EQ_MSG(test, before->flags[i],
				    env->mem.page[i]->flags, "of page %d", i);
}

KUNIT_DEFINE_ACTION_WRAPPER(kfp_kvfree, kvfree, void *);

int kfp_env_init(struct kunit *test)
{
	struct kfp_env *env = kunit_kzalloc(test, sizeof(*env), GFP_KERNEL);
	int err;

	if (!env)
		return -ENOMEM;

	env->kvm = kvzalloc(sizeof(*env->kvm), GFP_KERNEL);
	if (!env->kvm)
		return -ENOMEM;
	err = kunit_add_action_or_reset(test, kfp_kvfree, env->kvm);
	if (err)
		return err;
	KVM_MMU_LOCK_INIT(env->kvm);

	env->slot.base_gfn = KFP_GFN;
	env->slot.npages = KFP_PAGES;
	env->allow_unsafe_mappings = kvm_allow_unsafe_mappings;
	test->priv = env;

	return 0;
}

void kfp_env_exit(struct kunit *test)
{
	struct kfp_env *env = test->priv;

	if (!env)
		return;

	kvm_allow_unsafe_mappings = env->allow_unsafe_mappings;
	kfp_disown(env);

	/* Only after a failed assertion, and in another thread than the test's. */
	if (env->mm) {
		kthread_use_mm(env->mm);
		vm_munmap(0, TASK_SIZE);
		kthread_unuse_mm(env->mm);
		mmput(env->mm);
	}

	/* Nothing maps the memory anymore. */
	kfp_free_memory(&env->mem);
}
