// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded into a VMM that maps a file: whatever part of /dev/test_kvm_memory it
 * maps becomes a region of the kind REGION, a number of test_kvm_memory_uapi.h.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "test_kvm_memory_uapi.h"

#define PAGE_SIZE	4096

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	struct stat file, device;

	if (fd >= 0 && !fstat(fd, &file) && !stat(TKM_DEVICE, &device) &&
	    file.st_rdev == device.st_rdev && getenv("REGION")) {
		struct tkm_create create = {
			.kind = atoi(getenv("REGION")),
			.nr_pages = len / PAGE_SIZE,
		};

		if (create.kind == TKM_PFNMAP_NONCOMPOUND)
			create.order = 4;
		ioctl(fd, TKM_CREATE, &create);
	}
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}
