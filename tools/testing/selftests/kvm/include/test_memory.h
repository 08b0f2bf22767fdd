/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What tests ask of the module test_kvm_memory (CONFIG_KVM_TEST_MEMORY).  It can
 * hold KVM's lookup of the memory of an access, so that the host changes the
 * memory when KVM knows the answer, but has not used it yet.
 */
#ifndef SELFTEST_KVM_TEST_MEMORY_H
#define SELFTEST_KVM_TEST_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_util.h"
#include "test_util.h"

#include "../../../../../virt/kvm/tests/test_kvm_memory_uapi.h"

static inline void tkm_ioctl(int fd, unsigned long cmd, void *arg)
{
	TEST_ASSERT(!ioctl(fd, cmd, arg),
		    "ioctl 0x%lx of the test module failed", cmd);
}

#define TKM_MISSING	"no " TKM_DEVICE ", load the module test_kvm_memory"

/* Return a file that can have a region, or -1 if there is no module. */
static inline int tkm_open(void)
{
	return open(TKM_DEVICE, O_RDWR);
}

#define TKM_NO_PAGELESS	"the module has no memory without struct pages"

/*
 * Create the region of a file, @nr_pages, whose folios have the given order.
 * Return false if it is of memory without struct pages, and the module has none.
 */
static inline bool tkm_create(int fd, u32 kind, u32 flags, u32 nr_pages,
			      u32 order)
{
	struct tkm_create create = {
		.kind = kind,
		.flags = flags,
		.nr_pages = nr_pages,
		.order = order,
	};
	int ret = ioctl(fd, TKM_CREATE, &create);

	TEST_ASSERT(!ret || (kind == TKM_PFNMAP_PAGELESS && errno == ENODEV),
		    "TKM_CREATE of kind %u failed", kind);
	return !ret;
}

static inline struct tkm_stats tkm_get_stats(int fd)
{
	struct tkm_stats stats;

	tkm_ioctl(fd, TKM_STATS, &stats);
	return stats;
}

/* The reference counts and flags of the pages of a region. */
static inline void tkm_get_counts(int fd, u32 nr_pages, struct tkm_page *pages)
{
	struct tkm_counts counts = {
		.nr = nr_pages,
		.pages = (uintptr_t)pages,
	};

	tkm_ioctl(fd, TKM_COUNTS, &counts);
}

/* Drop the host's page table entries of a region, and KVM's with them. */
static inline void tkm_zap(int fd, u32 nr_pages)
{
	struct tkm_range range = { .nr = nr_pages };

	tkm_ioctl(fd, TKM_ZAP, &range);
}

/* Declare the first pages of a region poisoned, or undo that. */
static inline void tkm_poison(int fd, u32 nr_pages, bool on)
{
	struct tkm_poison poison = { .nr = nr_pages, .on = on };

	tkm_ioctl(fd, TKM_POISON, &poison);
}

/* The reference count and flags of any page that userspace has mapped. */
static inline struct tkm_page tkm_lookup(int fd, void *addr)
{
	struct tkm_lookup lookup = { .addr = (uintptr_t)addr };

	tkm_ioctl(fd, TKM_LOOKUP, &lookup);
	return lookup.page;
}

/* The same of the page at a page frame number, be it a part of a huge page. */
static inline struct tkm_page tkm_get_page(int fd, u64 pfn)
{
	struct tkm_page page = { .pfn = pfn };

	tkm_ioctl(fd, TKM_PFN, &page);
	return page;
}

/* Two pages of a region change places. */
static inline void tkm_exchange(int fd, u32 a, u32 b)
{
	struct tkm_exchange exchange = { .a = a, .b = b };

	tkm_ioctl(fd, TKM_EXCHANGE, &exchange);
}

/* Hold the next lookup for @ms at most, or, with 0, let it go. */
static inline void tkm_hold_lookup(int fd, u32 ms)
{
	tkm_ioctl(fd, TKM_HOLD_LOOKUP, &ms);
}

/* Return false, with errno set, where the kernel cannot do that. */
static inline bool tkm_can_hold_lookups(int fd)
{
	u32 none = 0;

	return !ioctl(fd, TKM_HOLD_LOOKUP, &none);
}

/*
 * Find the first two CPUs that the test may use, for threads that have to run at
 * the same time.  Return false if there is only one.
 */
static inline bool find_two_cpus(int cpus[2])
{
	cpu_set_t allowed;
	int cpu, n = 0;

	TEST_ASSERT(!sched_getaffinity(0, sizeof(allowed), &allowed),
		    "sched_getaffinity() failed");
	for (cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET(cpu, &allowed))
			cpus[n++] = cpu;

	return n == 2;
}

/*
 * An access by a thread of its own, on @cpu, or, with -1, wherever its creator
 * may run.  A lookup that is held keeps its CPU busy: then @cpu must be another
 * one than that of the thread that changes the memory.
 */
struct access_job {
	void (*fn)(unsigned long arg);
	unsigned long arg;
	int cpu;

	pthread_t thread;
	atomic_bool done;
	u64 lookups_done;
};

#define ACCESS_HOLD_MS	4000

static inline void *run_access(void *arg)
{
	struct access_job *job = arg;

	if (job->cpu >= 0)
		kvm_pin_this_task_to_pcpu(job->cpu);
	job->fn(job->arg);
	atomic_store(&job->done, true);
	return NULL;
}

static inline void start_access(struct access_job *job, unsigned long arg)
{
	job->arg = arg;
	atomic_store(&job->done, false);
	TEST_ASSERT(!pthread_create(&job->thread, NULL, run_access, job),
		    "pthread_create() failed");
}

static inline void finish_access(struct access_job *job)
{
	pthread_join(job->thread, NULL);
}

/* Start an access, and return when @module holds its lookup. */
static inline void start_held_access(struct access_job *job, unsigned long arg,
				     int module)
{
	struct tkm_stats before = tkm_get_stats(module);
	bool done, looked_up;

	TEST_ASSERT(job->cpu >= 0, "No CPU for the access");
	job->lookups_done = before.lookups_done;
	tkm_hold_lookup(module, ACCESS_HOLD_MS);
	start_access(job, arg);
	do {
		/* In this order: a lookup comes before the end of its access. */
		done = atomic_load(&job->done);
		looked_up = tkm_get_stats(module).lookups != before.lookups;
		TEST_ASSERT(!done || looked_up, "There was no lookup");
	} while (!looked_up);
}

/* Return true if the lookup has been held until now. */
static inline bool finish_held_access(struct access_job *job, int module)
{
	bool hit = tkm_get_stats(module).lookups_done == job->lookups_done;

	tkm_hold_lookup(module, 0);
	finish_access(job);
	return hit;
}

#endif /* SELFTEST_KVM_TEST_MEMORY_H */
