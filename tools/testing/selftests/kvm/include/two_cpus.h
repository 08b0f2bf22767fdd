/* SPDX-License-Identifier: GPL-2.0-only */
/* For threads that have to run at the same time. */
#ifndef SELFTEST_KVM_TWO_CPUS_H
#define SELFTEST_KVM_TWO_CPUS_H

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "test_util.h"

/* Find the first two CPUs that the test may use.  Return false if it has one. */
static inline bool find_two_cpus(int cpus[2])
{
	cpu_set_t allowed;
	int cpu, n = 0;

	TEST_ASSERT(!sched_getaffinity(0, sizeof(allowed), &allowed),
		    "sched_getaffinity(): %s", strerror(errno));
	for (cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++)
		if (CPU_ISSET(cpu, &allowed))
			cpus[n++] = cpu;

	return n == 2;
}

#endif /* SELFTEST_KVM_TWO_CPUS_H */
