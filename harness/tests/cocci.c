// SPDX-License-Identifier: GPL-2.0-only
/*
 * A user of gfn_to_pfn() and its kin, for harness/tests/cocci. Each line that
 * scripts/coccinelle/api/kvm_gfn_to_pfn.cocci has to report says how: "+" if the
 * function is converted, or why not. cocci.converted is what becomes of it.
 */
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/module.h>

int plain(struct kvm *kvm, gfn_t gfn);
int declared(struct kvm *kvm, gpa_t gpa);
int without_braces(struct kvm *kvm, gfn_t gfn, bool again);
int shared_exit(struct kvm *kvm, gfn_t gfn, bool early);
int loop(struct kvm *kvm, gfn_t gfn, int nr);
int two(struct kvm *kvm, gfn_t from, gfn_t to);
int prot(struct kvm *kvm, gfn_t gfn, bool write);
int prot_constants(struct kvm *kvm, gfn_t gfn);
int prot_declared(struct kvm *kvm, gfn_t gfn, bool write);
int memslot(struct kvm_memory_slot *slot, gfn_t gfn);
int full(struct kvm_memory_slot *slot, gfn_t gfn, bool write);
int page(struct kvm *kvm, gfn_t gfn, const void *data, size_t size);
int page_declared(struct kvm *kvm, gfn_t gfn);

int plain(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;
	void *hva;

	pfn = gfn_to_pfn(kvm, gfn); /* + */
	if (is_error_noslot_pfn(pfn))
		return is_noslot_pfn(pfn) ? -ENOENT : -EFAULT;

	hva = kmap_local_page(pfn_to_page(pfn));
	memset(hva, 0, PAGE_SIZE);
	kunmap_local(hva);
	kvm_release_pfn_dirty(pfn); /* + */
	return 0;
}

int declared(struct kvm *kvm, gpa_t gpa)
{
	kvm_pfn_t pfn = gfn_to_pfn(kvm, gpa_to_gfn(gpa)); /* + */
	int r = is_error_noslot_pfn(pfn) ? -EFAULT : pfn_valid(pfn);

	kvm_release_pfn_clean(pfn); /* + */
	return r;
}

int without_braces(struct kvm *kvm, gfn_t gfn, bool again)
{
	kvm_pfn_t pfn = KVM_PFN_ERR_FAULT;
	int r = 0;

	if (again)
		pfn = gfn_to_pfn(kvm, gfn); /* + */
	else
		r = -EAGAIN;
	if (is_error_pfn(pfn))
		r = -EFAULT;
	kvm_release_pfn_clean(pfn); /* + */
	return r;
}

int shared_exit(struct kvm *kvm, gfn_t gfn, bool early)
{
	kvm_pfn_t pfn = KVM_PFN_NOSLOT;
	int r = -EINVAL;

	if (early)
		goto out;
	pfn = gfn_to_pfn(kvm, gfn); /* + */
	if (is_error_noslot_pfn(pfn))
		goto out;
	r = 0;
out:
	kvm_release_pfn_clean(pfn); /* + */
	return r;
}

int loop(struct kvm *kvm, gfn_t gfn, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		kvm_pfn_t pfn;

		pfn = gfn_to_pfn(kvm, gfn + i); /* + */
		if (is_error_noslot_pfn(pfn))
			break;
		kvm_release_pfn_dirty(pfn); /* + */
	}
	return i;
}

int two(struct kvm *kvm, gfn_t from, gfn_t to)
{
	kvm_pfn_t src, dst;
	int r = -EFAULT;

	src = gfn_to_pfn(kvm, from); /* + */
	if (is_error_noslot_pfn(src))
		return -EFAULT;
	dst = gfn_to_pfn(kvm, to); /* + */
	if (!is_error_noslot_pfn(dst)) {
		copy_highpage(pfn_to_page(dst), pfn_to_page(src));
		r = 0;
	}
	kvm_release_pfn_dirty(dst); /* + */
	kvm_release_pfn_clean(src); /* + */
	return r;
}

int prot(struct kvm *kvm, gfn_t gfn, bool write)
{
	kvm_pfn_t pfn;
	bool writable;

	pfn = gfn_to_pfn_prot(kvm, gfn, write, &writable); /* + */
	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	if (writable)
		kvm_release_pfn_dirty(pfn); /* + */
	else
		kvm_release_pfn_clean(pfn); /* + */
	return writable;
}

int prot_constants(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn_prot(kvm, gfn, true, NULL); /* + */
	if (pfn == KVM_PFN_ERR_RO_FAULT)
		pfn = gfn_to_pfn_prot(kvm, gfn, false, NULL); /* + */
	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	kvm_release_pfn_clean(pfn); /* + */
	return 0;
}

int prot_declared(struct kvm *kvm, gfn_t gfn, bool write)
{
	kvm_pfn_t pfn = gfn_to_pfn_prot(kvm, gfn, write, NULL); /* + */

	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	kvm_release_pfn_clean(pfn); /* + */
	return 0;
}

int memslot(struct kvm_memory_slot *slot, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn_memslot_atomic(slot, gfn); /* + */
	if (is_error_pfn(pfn))
		pfn = gfn_to_pfn_memslot(slot, gfn); /* + */
	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	pr_debug("found %llx\n", pfn);
	kvm_release_pfn_dirty(pfn); /* + */
	return 0;
}

int full(struct kvm_memory_slot *slot, gfn_t gfn, bool write)
{
	kvm_pfn_t pfn;
	bool writable;

	pfn = __gfn_to_pfn_memslot(slot, gfn, true, false, NULL, write, &writable, NULL); /* + */
	if (is_error_pfn(pfn))
		pfn = __gfn_to_pfn_memslot(slot, gfn, false, true, NULL, write, &writable, NULL); /* + */
	if (is_error_pfn(pfn))
		pfn = __gfn_to_pfn_memslot(slot, gfn, true, false, NULL, true, NULL, NULL); /* + */
	if (is_error_pfn(pfn))
		pfn = __gfn_to_pfn_memslot(slot, gfn, false, false, NULL, false, NULL, NULL); /* + */
	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	kvm_release_pfn_clean(pfn); /* + */
	return writable;
}

int page(struct kvm *kvm, gfn_t gfn, const void *data, size_t size)
{
	struct page *page;

	page = gfn_to_page(kvm, gfn); /* + */
	if (is_error_page(page)) /* + */
		return -EFAULT;
	if (size)
		memcpy_to_page(pfn_to_page(page_to_pfn(page)), 0, data, size);
	if (!is_error_page(page)) /* + */
		kvm_release_page_dirty(page); /* + */
	return 0;
}

int page_declared(struct kvm *kvm, gfn_t gfn)
{
	struct page *page = gfn_to_page(kvm, gfn); /* + */

	if (is_error_page(page)) /* + */
		return -EFAULT;
	put_page(page);
	return 0;
}

/* Nothing below is converted. */
#ifdef UNCONVERTED
struct user {
	kvm_pfn_t pfn;
};

kvm_pfn_t global_pfn;

kvm_pfn_t returned(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* leaves its function */
	if (is_noslot_pfn(pfn))
		kvm_release_pfn_clean(pfn); /* as a whole */
	return pfn;
}

kvm_pfn_t returned_at_once(struct kvm *kvm, gfn_t gfn)
{
	return gfn_to_pfn(kvm, gfn); /* not released */
}

void stored(struct kvm *kvm, gfn_t gfn, struct user *user)
{
	kvm_pfn_t pfn = gfn_to_pfn(kvm, gfn); /* leaves its function */

	if (is_error_noslot_pfn(pfn))
		kvm_release_pfn_clean(pfn); /* as a whole */
	else
		user->pfn = pfn;
}

void stored_at_once(struct kvm *kvm, gfn_t gfn, struct user *user)
{
	user->pfn = gfn_to_pfn(kvm, gfn); /* not released */
	global_pfn = gfn_to_pfn(kvm, gfn); /* as a whole */
	kvm_release_pfn_clean(global_pfn); /* as a whole */
}

void passed_on(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* leaves its function */
	install(kvm, pfn);
	kvm_release_pfn_clean(pfn); /* as a whole */
}

void address_taken(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* leaves its function */
	replace(&pfn);
	kvm_release_pfn_clean(pfn); /* as a whole */
}

void released_elsewhere(kvm_pfn_t pfn)
{
	kvm_release_pfn_dirty(pfn); /* as a whole */
}

void marked(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* leaves its function */
	kvm_set_pfn_dirty(pfn); /* kvm_mark_page_mapped */
	kvm_set_pfn_accessed(pfn); /* kvm_mark_page_mapped */
	kvm_release_pfn_clean(pfn); /* as a whole */
}

/* The first one could be converted, the second one not. */
void half(struct kvm *kvm, gfn_t gfn, struct user *user)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
	user->pfn = gfn_to_pfn(kvm, gfn + 1); /* not released */
}

/* What is released may come from elsewhere. */
void two_sources(struct kvm *kvm, gfn_t gfn, struct user *user, bool known)
{
	kvm_pfn_t pfn = user->pfn;

	if (!known)
		pfn = gfn_to_pfn(kvm, gfn); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
}

void two_sources_parameter(struct kvm *kvm, gfn_t gfn, kvm_pfn_t pfn)
{
	if (is_error_pfn(pfn))
		pfn = gfn_to_pfn(kvm, gfn); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
}

/* The second iteration must not release what the first one found. */
void forgets(struct kvm *kvm, gfn_t gfn, int nr)
{
	while (nr--) {
		kvm_pfn_t pfn = KVM_PFN_ERR_FAULT;

		if (nr & 1)
			pfn = gfn_to_pfn(kvm, gfn); /* as a whole */
		kvm_release_pfn_clean(pfn); /* as a whole */
	}
}

void advances(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn++); /* evaluated twice */
	kvm_release_pfn_clean(pfn); /* as a whole */
	pfn = gfn_to_pfn(kvm, next_gfn(kvm)); /* evaluated twice */
	kvm_release_pfn_clean(pfn); /* as a whole */
}

int asynchronous(struct kvm_memory_slot *slot, gfn_t gfn, bool *writable)
{
	bool async = false;
	kvm_pfn_t pfn;
	hva_t hva;

	pfn = __gfn_to_pfn_memslot(slot, gfn, false, false, &async, true, NULL, &hva); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
	pfn = __gfn_to_pfn_memslot(slot, gfn, async, false, NULL, true, NULL, NULL); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
	/* May be NULL. */
	pfn = gfn_to_pfn_prot(slot->kvm, gfn, false, writable); /* as a whole */
	kvm_release_pfn_clean(pfn); /* as a whole */
	return async;
}

void declared_writable(struct kvm *kvm, gfn_t gfn)
{
	bool writable;
	kvm_pfn_t pfn = gfn_to_pfn_prot(kvm, gfn, false, &writable); /* as a whole */

	kvm_release_pfn_clean(pfn); /* as a whole */
}

void in_condition(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;

	if (!is_error_pfn(pfn = gfn_to_pfn(kvm, gfn))) /* not released */
		kvm_release_pfn_clean(pfn); /* as a whole */
}

void static_variable(struct kvm *kvm, gfn_t gfn)
{
	static kvm_pfn_t pfn;

	kvm_release_pfn_clean(pfn); /* as a whole */
	pfn = gfn_to_pfn(kvm, gfn); /* not released */
}

struct page *page_returned(struct kvm *kvm, gfn_t gfn)
{
	struct page *page = gfn_to_page(kvm, gfn); /* not released */

	return is_error_page(page) ? NULL : page; /* as a whole */
}

int page_of_pfn(struct kvm *kvm, gfn_t gfn)
{
	struct page *page;
	kvm_pfn_t pfn;

	pfn = gfn_to_pfn(kvm, gfn); /* not released */
	if (is_error_noslot_pfn(pfn))
		return -EFAULT;
	page = kvm_pfn_to_refcounted_page(pfn); /* kvm_follow_pfn.page */
	kvm_release_page_clean(page); /* as a whole */
	return 0;
}

int many(struct kvm_memory_slot *slot, gfn_t gfn, struct page **pages)
{
	return gfn_to_page_many_atomic(slot, gfn, pages, 8); /* kvm_follow_pfn_batch */
}

kvm_pfn_t (*pointer)(struct kvm *kvm, gfn_t gfn) = gfn_to_pfn; /* as a whole */
#endif

MODULE_DESCRIPTION("A user of gfn_to_pfn()");
MODULE_LICENSE("GPL");
