/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory that is absent until the test supplies it: whoever needs it, a vCPU, KVM
 * or userspace, waits for the test.
 */
#ifndef SELFTEST_KVM_ABSENT_MEMORY_H
#define SELFTEST_KVM_ABSENT_MEMORY_H

#include <fcntl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test_util.h"

/*
 * Make pages absent, which nobody may have touched yet.  Return a userfaultfd, or
 * -1, with errno set, if there is none to be had.
 */
static inline int absent_open(void *addr, size_t len)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_THREAD_ID,
	};
	struct uffdio_register reg = {
		.range.start = (uintptr_t)addr,
		.range.len = len,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (uffd < 0)
		return -1;

	TEST_ASSERT(!ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API failed");
	TEST_ASSERT(!ioctl(uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed");
	return uffd;
}

/* Wait until a thread needs a page, and return where.  @thread may be NULL. */
static inline u64 absent_wait(int uffd, u32 *thread)
{
	struct uffd_msg msg;

	TEST_ASSERT(read(uffd, &msg, sizeof(msg)) == sizeof(msg),
		    "read() failed");
	TEST_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	if (thread)
		*thread = msg.arg.pagefault.feat.ptid;

	return msg.arg.pagefault.address;
}

/* Fill absent pages, and wake up whoever waits for them. */
static inline void absent_supply(int uffd, u64 addr, const void *src,
				 size_t len)
{
	struct uffdio_copy copy = {
		.dst = addr,
		.src = (uintptr_t)src,
		.len = len,
	};

	TEST_ASSERT(!ioctl(uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY failed");
}

#endif /* SELFTEST_KVM_ABSENT_MEMORY_H */
