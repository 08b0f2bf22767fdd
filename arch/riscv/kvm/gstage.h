/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __RISCV_KVM_GSTAGE_H
#define __RISCV_KVM_GSTAGE_H

#include <linux/pgtable.h>

/*
 * The protection bits of a G-stage leaf PTE.  @host is how the host maps the
 * memory, of which the memory type is taken: memory must not be cached for the
 * guest but not for the host, and IO memory must not be accessed speculatively.
 * Zero is the type that the platform gives the memory.  So is every other one
 * without Svpbmt.
 *
 * The accessed and dirty bits are set from the start: CPUs that leave them to
 * software fault on a PTE without them.  KVM learns of writes, for dirty logging,
 * by write-protecting the PTE.
 */
static inline pgprot_t gstage_pgprot(bool writable, pgprot_t host)
{
	unsigned long prot;

	prot = pgprot_val(writable ? PAGE_WRITE_EXEC : PAGE_READ_EXEC);
	prot |= _PAGE_DIRTY;
	prot |= pgprot_val(host) & _PAGE_MTMASK;

	return __pgprot(prot);
}

#endif /* __RISCV_KVM_GSTAGE_H */
