/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_KUNIT_MEMORY_H
#define __KVM_KUNIT_MEMORY_H

/*
 * What the KUnit tests of the resolution of guest frames have in common.
 *
 * Each test has an mm of its own, with one mapping of KFP_PAGES pages, and a
 * hand-made memslot over it, which kfp_add_slot() lets be found by its gfns.
 * There is no VM: the functions under test look at the memslots and at
 * current->mm only.
 *
 * Memory that has to be exotic, or whose reference counts have to be known to
 * the digit, is mapped from a file whose fault handler the test scripts, see
 * struct kfp_memory.  No page of it is ever on an LRU list, so nobody else
 * takes references.
 */
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>

struct kunit;

#define KFP_ORDER	2
#define KFP_PAGES	4
#define KFP_SIZE	(KFP_PAGES * PAGE_SIZE)
#define KFP_GFN		0x123450ULL

/* Where the frames of a mapping come from. */
enum kfp_source {
	KFP_SINGLE_PAGES,	/* a reference count of one each */
	KFP_HIGH_ORDER,		/* not compound: the tails have a count of zero */
	KFP_COMPOUND,		/* the tails share the count of the head */
	KFP_RESERVED,		/* single pages with PG_reserved */
	KFP_PAGELESS,		/* no struct page, must not be accessed */
};

/* How the fault handler maps them. */
enum kfp_insert {
	KFP_BY_PAGE,		/* as a page cache does, get_user_pages() works */
	KFP_BY_INSERT_PAGE,	/* vm_insert_page() */
	KFP_BY_INSERT_PFN,	/* vmf_insert_pfn() */
	KFP_BY_INSERT_MIXED,	/* vmf_insert_mixed() */
	KFP_BY_REMAP,		/* remap_pfn_range() during mmap(), no faults */
};

struct kfp_kind {
	const char *name;
	enum kfp_source source;
	enum kfp_insert insert;
	vm_flags_t vm_flags;
};

extern const struct kfp_kind kfp_single, kfp_compound;
extern const struct kfp_kind kfp_mixedmap, kfp_mixedmap_reserved;
extern const struct kfp_kind kfp_pfnmap, kfp_pfnmap_single;
extern const struct kfp_kind kfp_pfnmap_compound, kfp_pfnmap_reserved;
extern const struct kfp_kind kfp_pageless;

/* What is behind a mapping, and what its fault handler shall do. */
struct kfp_memory {
	const struct kfp_kind *kind;
	struct page *page[KFP_PAGES];
	unsigned long pfn[KFP_PAGES];

	/* Have all PTEs present after mmap(). */
	bool populate;

	/*
	 * Map shared and writable memory read-only until pfn_mkwrite() was asked,
	 * which returns @mkwrite_reply.
	 */
	bool use_mkwrite;
	vm_fault_t mkwrite_reply;

	/*
	 * Return @reply from the first @nr_replies faults instead of mapping
	 * anything, having sent @signal and, with VM_FAULT_RETRY, having unmapped
	 * everything if @unmap is set.
	 */
	unsigned int nr_replies;
	vm_fault_t reply;
	int signal;
	bool unmap;

	/* Calls seen, and the flags of the last fault. */
	unsigned int faults;
	unsigned int mkwrites;
	unsigned int fault_flags;
};

/*
 * Stands for the file of a page cache, which has to be told that a page is dirty,
 * with the page locked.
 */
struct kfp_owner {
	struct address_space mapping;
	struct folio *folio;
	unsigned int told;
	unsigned int told_locked;
};

struct kfp_env {
	struct kvm *kvm;
	struct kvm_memory_slot slot;
	struct kfp_memory mem;
	struct mm_struct *mm;
	struct kfp_owner owner;
	bool allow_unsafe_mappings;

	/* For the static stubs. */
	bool can_be_guarded;
	unsigned int misuses;
	int gmem_err;
	int gmem_order;
	unsigned int gmem_calls;
};

static_assert(KFP_PAGES == 1 << KFP_ORDER);

/* Remember and compare everything about struct pages that KVM might change. */
struct kfp_pages_state {
	int count[KFP_PAGES];
	unsigned long flags[KFP_PAGES];
};

int kfp_env_init(struct kunit *test);
void kfp_env_exit(struct kunit *test);

void kfp_alloc_memory(struct kunit *test, const struct kfp_kind *kind);
void kfp_map_memory(struct kunit *test, unsigned long prot,
		    unsigned long flags);
void kfp_map_shared(struct kunit *test, const struct kfp_kind *kind);
void kfp_map_anon(struct kunit *test, unsigned long prot);
void kfp_map_shmem(struct kunit *test, unsigned long prot,
		   unsigned long flags);
void kfp_drop_memory(struct kunit *test);
void kfp_detach(struct kfp_env *env);

void kfp_add_slot(struct kunit *test, struct kvm_memory_slot *slot);

unsigned long kfp_hva(struct kunit *test, int index);
void kfp_touch(struct kunit *test, int index);

void kfp_kind_desc(const struct kfp_kind *const *kind, char *desc);

bool kfp_is_pinned(struct page *page);
bool kfp_is_referenced(struct page *page);
void kfp_unmark(struct page *page);

void kfp_own(struct kfp_env *env, struct page *page);
void kfp_disown(struct kfp_env *env);

struct kfp_pages_state kfp_pages_state(struct kunit *test);
void kfp_expect_counts(struct kunit *test,
		       const struct kfp_pages_state *before, int delta);
void kfp_expect_untouched(struct kunit *test,
			  const struct kfp_pages_state *before);

/* Define a test, which detaches from its mm at the end. */
#define KFP_TEST(name)							\
static void name##_body(struct kunit *test);				\
static void name(struct kunit *test)					\
{									\
	name##_body(test);						\
	kfp_detach(test->priv);						\
}									\
static void name##_body(struct kunit *test)

#endif /* __KVM_KUNIT_MEMORY_H */
