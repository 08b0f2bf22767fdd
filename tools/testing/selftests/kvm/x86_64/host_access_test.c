// SPDX-License-Identifier: GPL-2.0-only
/*
 * Have KVM itself access every kind of memory that a memslot can point to: what
 * a nested hypervisor (L1) gives it to run its guest (L2) with SVM, the pages of
 * Xen, and the clock pages.  Verify what L1 sees, that the host's pages are
 * pinned, and only as long as KVM uses them, and that the dirty log lists what
 * KVM has written, and nothing else.
 *
 * What KVM can access depends on the parameter allow_unsafe_mappings of the
 * module kvm, so run the test with and without it.
 *
 * Each test runs in a process and a VM of its own.  Memory that userspace
 * cannot come by comes from the module test_kvm_memory (CONFIG_KVM_TEST_MEMORY).
 */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitmap.h>

#include <asm/barrier.h>
#include <asm/pvclock-abi.h>

#include "apic.h"
#include "host_memory.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "ucall_common.h"

#define MEM_GPA			0x40000000ul
#define MEM_SLOT		10
#define MAX_PAGES		512

/* Of these pages, each user of memory has two, and the last ones nobody. */
#define NR_PAGES		28
#define SPARE_PAGE		(NR_PAGES - 1)

#define SMRAM_GPA		0x1000000ul
/* In the address space of SMM. */
#define SMRAM_SLOT		(BIT(16) | 1)
#define SMRAM_SIZE		0x10000ul

#define DIRTY_RING_SIZE		0x10000

/* Generous, an emulated machine may be slow. */
#define TEST_SECONDS		120

/* L2 and the SMI handler exit to userspace by these ports. */
#define L2_PORT			0xe
#define SMM_PORT		0xf

#define INTR_VECTOR		0x41
#define RFLAGS_IF		BIT(9)

/* Where the clocks and the vcpu_info are in their pages. */
#define CLOCK_OFFSET		0x900

/* What VMLOAD finds in memory, and VMSAVE in the CPU. */
#define LOADED_GS_BASE		0x10ad10ad0000ul
#define SAVED_GS_BASE		0x5a7e5a7e0000ul

enum guest_op {
	OP_NOP,
	OP_READ,
	OP_RDMSR,
	OP_WRMSR,
	OP_SVM_SETUP,
	OP_X2APIC,
	OP_VMRUN,
	OP_VMLOAD,
	OP_VMSAVE,
};

/* What L1 does between two exits. */
static struct {
	u64 op;
	u64 addr;
	u64 val;
} cmd;

/* How the dirty log is kept. */
enum log_mode {
	LOG_NONE,
	LOG_BITMAP,
	LOG_RING,
};

/* The contents of a page, whoever uses it. */
union content {
	struct vmcb vmcb;
	u8 bytes[PAGE_SIZE];
};

static struct {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	/* The state in which the vCPU was created. */
	struct kvm_regs entry_regs;
	struct kvm_sregs entry_sregs;
	bool vm_is_dead;

	/* Where L1 keeps things that are not under test. */
	vm_vaddr_t svm_gva;
	struct vmcb *vmcb12;
	u64 vmcb12_gpa;
	u64 hsave_gpa;
	u64 msrpm_gpa;
	void *shinfo;
	u64 shinfo_gpa;
	u64 vcpu_info_gpa;

	/* The memory as the memslot maps it, and another view of it. */
	void *hva;
	void *view;
	size_t size;
	int prot;
	u32 slot_flags;
	int guest_memfd;
	enum log_mode log;

	/* The first page that is used, and whether it is still empty. */
	size_t first;
	bool empty;
	union content content;

	/* Where a private mapping is copied from, or -1. */
	int snapshot_fd;

	/* The region of the test module, or -1, and its state when created. */
	int fd;
	u32 nr_pages;
	bool refcounted;
	struct tkm_page initial[MAX_PAGES];
} t;

static bool unsafe_allowed;

/*
 * ---------------------------------------------------------------------------
 * Guest
 * ---------------------------------------------------------------------------
 */

/* What L2 does before it exits to L1. */
enum l2_op {
	L2_EXIT,
	L2_OUT,
	L2_RDMSR,
};

static u8 l2_op;
static u8 l2_went_on;

/*
 * Use no registers but RAX, RCX and RDX, which guest_vmrun() expects to change:
 * VM-exit leaves those of L2 in the CPU.
 */
static void l2_guest_code(void)
{
	asm volatile("cmpb %[op_out], %[op]\n\t"
		     "jne 1f\n\t"
		     "out %%al, %[port]\n\t"
		     "movb $1, %[went_on]\n\t"
		     "1: cmpb %[op_rdmsr], %[op]\n\t"
		     "jne 2f\n\t"
		     "mov %[msr], %%ecx\n\t"
		     "rdmsr\n\t"
		     "2: vmmcall\n\t"
		     "jmp 2b\n\t"
		     : [went_on] "=m"(l2_went_on)
		     : [op] "m"(l2_op), [op_out] "i"(L2_OUT),
		       [op_rdmsr] "i"(L2_RDMSR), [port] "i"(L2_PORT),
		       [msr] "i"(MSR_STAR)
		     : "rax", "rcx", "rdx", "memory");
}

/* An exit to userspace and RSM, in real mode. */
static const u8 smi_handler[] = {
	0xe6, SMM_PORT,		/* out %al, $SMM_PORT */
	0x0f, 0xaa,		/* rsm */
};

static u8 guest_vmrun(u64 gpa)
{
	u64 error_code;
	u8 vector;

	asm volatile(KVM_ASM_SAFE("vmrun %%rax")
		     : KVM_ASM_SAFE_OUTPUTS(vector, error_code)
		     : "a"(gpa)
		     : KVM_ASM_SAFE_CLOBBERS, "rcx", "rdx", "memory");
	return vector;
}

static void guest_code(void)
{
	static u8 l2_stack[4096];
	u64 addr, val;

	for (;;) {
		addr = READ_ONCE(cmd.addr);
		val = READ_ONCE(cmd.val);

		switch (READ_ONCE(cmd.op)) {
		case OP_NOP:
			break;
		case OP_READ:
			val = READ_ONCE(*(u64 *)addr);
			break;
		case OP_RDMSR:
			val = rdmsr(addr);
			break;
		case OP_WRMSR:
			wrmsr(addr, val);
			break;
		case OP_SVM_SETUP:
			generic_svm_setup((void *)addr, l2_guest_code,
					  l2_stack + sizeof(l2_stack));
			break;
		case OP_X2APIC:
			x2apic_enable();
			break;
		case OP_VMRUN:
			val = guest_vmrun(addr);
			break;
		case OP_VMLOAD:
			val = kvm_asm_safe("vmload %%rax", "a"(addr));
			break;
		case OP_VMSAVE:
			val = kvm_asm_safe("vmsave %%rax", "a"(addr));
			break;
		default:
			GUEST_FAIL("Unknown operation");
		}

		ucall(UCALL_SYNC, 1, val);
	}
}

/*
 * ---------------------------------------------------------------------------
 * Running the guest
 * ---------------------------------------------------------------------------
 */

static u64 gpa(size_t page)
{
	return MEM_GPA + page * PAGE_SIZE;
}

/* Run until userspace is needed, return 0 or the errno of KVM_RUN. */
static int run(void)
{
	while (__vcpu_run(t.vcpu)) {
		if (errno != EINTR)
			return errno;
	}
	return 0;
}

static void assert_exit(u32 reason)
{
	struct ucall uc;

	if (t.vcpu->run->exit_reason == reason)
		return;

	if (get_ucall(t.vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	assert_on_unhandled_exception(t.vcpu);
	TEST_FAIL("Exit %u (%s) instead of %u (%s)", t.vcpu->run->exit_reason,
		  exit_reason_str(t.vcpu->run->exit_reason), reason,
		  exit_reason_str(reason));
}

static void run_until_port(u16 port)
{
	TEST_ASSERT_EQ(run(), 0);
	assert_exit(KVM_EXIT_IO);
	/* Not a ucall, which would be an exception in L2. */
	if (t.vcpu->run->io.port != port)
		assert_exit(KVM_EXIT_UNKNOWN);
}

static u64 run_until_done(void)
{
	struct ucall uc;

	TEST_ASSERT_EQ(run(), 0);
	if (get_ucall(t.vcpu, &uc) != UCALL_SYNC)
		assert_exit(KVM_EXIT_UNKNOWN);
	return uc.args[0];
}

static void set_cmd(enum guest_op op, u64 addr, u64 val)
{
	typeof(cmd) *shared = addr_gva2hva(t.vm, (vm_vaddr_t)&cmd);

	shared->op = op;
	shared->addr = addr;
	shared->val = val;
}

static u64 guest_do(enum guest_op op, u64 addr, u64 val)
{
	set_cmd(op, addr, val);
	return run_until_done();
}

/* Execute an SVM instruction.  Return false if it was answered with #GP. */
static bool guest_svm(enum guest_op op, u64 addr)
{
	u64 vector = guest_do(op, addr, 0);

	TEST_ASSERT(!vector || vector == GP_VECTOR,
		    "Operation %u: exception %lu", op, vector);
	return !vector;
}

static void set_l2_op(enum l2_op op)
{
	*(u8 *)addr_gva2hva(t.vm, (vm_vaddr_t)&l2_op) = op;
}

/* The state of vmcb12 before VMRUN, with L2 at its start. */
static void init_vmcb12(struct vmcb *vmcb)
{
	vmcb->control.exit_code = 0;
	vmcb->control.exit_code_hi = 0;
	vmcb->save.rip = (u64)l2_guest_code;
	vmcb->save.rflags = X86_EFLAGS_FIXED;
}

/* Enter L2, up to where it needs userspace. */
static void start_l2(u64 vmcb12_gpa)
{
	set_l2_op(L2_OUT);
	set_cmd(OP_VMRUN, vmcb12_gpa, 0);
	run_until_port(L2_PORT);
}

static void inject_smi(void)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(t.vcpu, &events);
	events.smi.pending = 1;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(t.vcpu, &events);
}

static void inject_interrupt(void)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA,
		.data = INTR_VECTOR,
	};

	TEST_ASSERT(__vm_ioctl(t.vm, KVM_SIGNAL_MSI, &msi) == 1,
		    "KVM_SIGNAL_MSI failed");
}

/* A vCPU that has been shut down can be started anew. */
static void assert_restarts(void)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(t.vcpu, &events);
	events.smi.smm = 0;
	events.smi.pending = 0;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_events_set(t.vcpu, &events);
	vcpu_sregs_set(t.vcpu, &t.entry_sregs);
	vcpu_regs_set(t.vcpu, &t.entry_regs);

	TEST_ASSERT_EQ(guest_do(OP_NOP, 0, 0x1234), 0x1234);
	TEST_ASSERT_EQ(guest_do(OP_SVM_SETUP, t.svm_gva, 0), 0);
	init_vmcb12(t.vmcb12);
	set_l2_op(L2_EXIT);
	TEST_ASSERT(guest_svm(OP_VMRUN, t.vmcb12_gpa), "#GP at VMRUN");
	TEST_ASSERT_EQ(t.vmcb12->control.exit_code, SVM_EXIT_VMMCALL);
}

static void assert_shutdown(void)
{
	TEST_ASSERT_EQ(run(), 0);
	assert_exit(KVM_EXIT_SHUTDOWN);
	TEST_ASSERT(!(t.vcpu->run->flags & KVM_RUN_X86_GUEST_MODE),
		    "L2 is shut down, not L1");
	assert_restarts();
}

/*
 * ---------------------------------------------------------------------------
 * The VM
 * ---------------------------------------------------------------------------
 */

static void *alloc_page(u64 *gpa)
{
	vm_vaddr_t gva = vm_vaddr_alloc_page(t.vm);

	*gpa = addr_gva2gpa(t.vm, gva);
	return addr_gva2hva(t.vm, gva);
}

static void set_up_smm(void)
{
	vm_userspace_mem_region_add(t.vm, VM_MEM_SRC_ANONYMOUS, SMRAM_GPA,
				    SMRAM_SLOT, SMRAM_SIZE / PAGE_SIZE, 0);
	memcpy(addr_gpa2hva(t.vm, SMRAM_GPA) + 0x8000, smi_handler,
	       sizeof(smi_handler));
	vcpu_set_msr(t.vcpu, MSR_IA32_SMBASE, SMRAM_GPA);
}

static void set_up_svm(void)
{
	struct svm_test_data *svm = vcpu_alloc_svm(t.vm, &t.svm_gva);

	t.vmcb12 = svm->vmcb_hva;
	t.vmcb12_gpa = svm->vmcb_gpa;
	t.hsave_gpa = svm->save_area_gpa;
	t.msrpm_gpa = svm->msr_gpa;
	guest_do(OP_SVM_SETUP, t.svm_gva, 0);

	/* A VMCB that is also an MSR bitmap, and the rest of it is empty. */
	t.content.vmcb = *t.vmcb12;
	init_vmcb12(&t.content.vmcb);
	t.content.vmcb.save.kernel_gs_base = LOADED_GS_BASE;
	t.content.bytes[0x800 + (MSR_STAR & 0x1fff) / 4] =
		1 << (MSR_STAR & 3) * 2;
}

static void set_up_xen(void)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
		.msr = 0x40000200,
	};
	struct kvm_xen_hvm_attr mode = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	};

	vm_ioctl(t.vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &mode);
	t.shinfo = alloc_page(&t.shinfo_gpa);
	alloc_page(&t.vcpu_info_gpa);
}

static void create_vm(u32 type)
{
	struct vm_shape shape = VM_SHAPE_DEFAULT;

	if (!kvm_cpu_has(X86_FEATURE_SVM))
		skip("no SVM");
	if (type && !(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(type)))
		skip("KVM has no VMs with private memory");

	shape.type = type;
	t.vm = __vm_create(shape, 1, 0);
	if (t.log == LOG_RING)
		vm_enable_dirty_ring(t.vm, DIRTY_RING_SIZE);
	t.vcpu = vm_vcpu_add(t.vm, 0, guest_code);
	if (t.log == LOG_RING)
		vcpu_map_dirty_ring(t.vcpu);
	vcpu_regs_get(t.vcpu, &t.entry_regs);
	vcpu_sregs_get(t.vcpu, &t.entry_sregs);

	if (!type)
		set_up_smm();
	set_up_svm();
	set_up_xen();
}

static void set_slot(size_t size, void *hva)
{
	u32 flags = t.slot_flags;
	int ret;

	if (t.log != LOG_NONE && size)
		flags |= KVM_MEM_LOG_DIRTY_PAGES;
	if (t.guest_memfd >= 0)
		flags |= KVM_MEM_GUEST_MEMFD;

	ret = __vm_set_user_memory_region2(t.vm, MEM_SLOT, flags, MEM_GPA, size,
					   hva, t.guest_memfd, 0);
	TEST_ASSERT(!ret, "The memslot was refused");
}

/* Give the memory to the VM. */
static void add_memory(void)
{
	set_slot(t.size, t.hva);
	virt_map(t.vm, MEM_GPA, MEM_GPA, t.size / PAGE_SIZE);
}

/*
 * ---------------------------------------------------------------------------
 * What the host sees
 * ---------------------------------------------------------------------------
 */

static bool host_can_look(void)
{
	return t.fd >= 0 || t.view;
}

static void host_writes(size_t page, const void *data, size_t len)
{
	if (t.fd < 0)
		memcpy(t.view + page * PAGE_SIZE, data, len);
	else
		TEST_ASSERT(pwrite(t.fd, data, len, page * PAGE_SIZE) == len,
			    "pwrite() failed");
}

static void host_reads(size_t page, size_t off, void *data, size_t len)
{
	off += page * PAGE_SIZE;
	if (t.fd < 0)
		memcpy(data, t.view + off, len);
	else
		TEST_ASSERT(pread(t.fd, data, len, off) == len,
			    "pread() failed");
}

static u64 host_reads_u64(size_t page, size_t off)
{
	u64 val;

	host_reads(page, off, &val, sizeof(val));
	return val;
}

static void assert_memory(size_t page, size_t off, u64 expected)
{
	u64 val = host_reads_u64(page, off);

	TEST_ASSERT(val == expected,
		    "Host reads 0x%lx instead of 0x%lx at offset 0x%lx", val,
		    expected, off);
}

/* The page is as the host left it. */
static void assert_untouched(size_t page)
{
	static const union content zeroes;
	union content now;

	if (!host_can_look())
		return;

	host_reads(page, 0, &now, sizeof(now));
	TEST_ASSERT(!memcmp(&now, t.empty ? &zeroes : &t.content, sizeof(now)),
		    "Page %lu has been written", page);
}

/* Nothing went through to the original of a copy. */
static void assert_snapshot_untouched(void)
{
	union content now;
	size_t page;

	if (t.snapshot_fd < 0)
		return;

	for (page = 0; page < NR_PAGES; page++)
		TEST_ASSERT(pread(t.snapshot_fd, &now, PAGE_SIZE,
				  page * PAGE_SIZE) == PAGE_SIZE &&
			    !memcmp(&now, &t.content, PAGE_SIZE),
			    "Page %lu of the file has been written", page);
}

/*
 * Nobody holds a reference to the module's pages, and none has been marked of
 * which the owner is not known.
 */
static void assert_counts(void)
{
	struct tkm_page pages[MAX_PAGES];
	u32 i;

	if (t.fd < 0)
		return;

	tkm_get_counts(t.fd, t.nr_pages, pages);
	for (i = 0; i < t.nr_pages; i++) {
		TEST_ASSERT(pages[i].refcount == t.initial[i].refcount,
			    "Page %u has %d references instead of %d", i,
			    pages[i].refcount, t.initial[i].refcount);
		TEST_ASSERT(t.refcounted || pages[i].flags == t.initial[i].flags,
			    "Page %u has the flags 0x%x instead of 0x%x", i,
			    pages[i].flags, t.initial[i].flags);
	}
}

/* A page is marked dirty if KVM has written through a mapping of its own. */
static void assert_page_dirty(size_t page, bool dirty)
{
	struct tkm_page pages[MAX_PAGES];

	if (!t.refcounted)
		return;

	tkm_get_counts(t.fd, t.nr_pages, pages);
	TEST_ASSERT(dirty == !!(pages[page].flags & TKM_PAGE_DIRTY),
		    "The struct page of page %lu is %sdirty", page,
		    dirty ? "not " : "");
}

struct pins {
	u64 acquired;
	u64 released;
};

/* How often pages have been pinned, and unpinned, anywhere in the system. */
static struct pins count_pins(void)
{
	struct pins pins;
	char line[100];
	int found = 0;
	FILE *f;

	/* Add up what each CPU has counted for itself. */
	write_number("/proc/sys/vm/stat_refresh", 0);

	f = fopen("/proc/vmstat", "r");
	TEST_ASSERT(f, "/proc/vmstat cannot be opened");
	while (fgets(line, sizeof(line), f)) {
		found += sscanf(line, "nr_foll_pin_acquired %lu",
				&pins.acquired) == 1;
		found += sscanf(line, "nr_foll_pin_released %lu",
				&pins.released) == 1;
	}
	fclose(f);

	TEST_ASSERT(found == 2, "/proc/vmstat does not count pins");
	return pins;
}

static void read_dirty_ring(unsigned long *bitmap)
{
	struct kvm_dirty_gfn *entry;
	u32 *index = &t.vcpu->fetch_index;
	u32 nr = 0;

	for (;; (*index)++, nr++) {
		entry = &t.vcpu->dirty_gfns[*index % t.vcpu->dirty_gfns_count];
		/* The flags tell if the rest of the entry is valid. */
		if (smp_load_acquire(&entry->flags) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		TEST_ASSERT(entry->slot == MEM_SLOT && entry->offset < MAX_PAGES,
			    "Dirty gfn 0x%llx in memslot 0x%x", entry->offset,
			    entry->slot);
		__set_bit(entry->offset, bitmap);
		/* KVM may use the entry again. */
		smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
	}

	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(t.vm), nr);
}

/* Compare what was logged since the last time with @page, or nothing if -1. */
static void assert_dirty(ssize_t page)
{
	unsigned long bitmap[MAX_PAGES / BITS_PER_LONG] = { };
	size_t i;

	switch (t.log) {
	case LOG_NONE:
		return;
	case LOG_BITMAP:
		kvm_vm_get_dirty_log(t.vm, MEM_SLOT, bitmap);
		break;
	case LOG_RING:
		read_dirty_ring(bitmap);
		break;
	}

	for (i = 0; i < MAX_PAGES; i++)
		TEST_ASSERT(test_bit(i, bitmap) == (page >= 0 && i == page),
			    "Page %lu is %sdirty", i,
			    test_bit(i, bitmap) ? "" : "not ");
}

/* Take the host's mapping away, and with it that of KVM, not the data. */
static void zap(void)
{
	TEST_ASSERT(!mprotect(t.hva, t.size, PROT_NONE) &&
		    !mprotect(t.hva, t.size, t.prot), "mprotect() failed");
}

/*
 * ---------------------------------------------------------------------------
 * Users: each has KVM access a page, and tells if KVM could
 * ---------------------------------------------------------------------------
 */

static bool use_vmrun(size_t page)
{
	const size_t off = offsetof(struct vmcb, control.exit_code);
	/* An empty VMCB is not valid, which is said in that VMCB. */
	const u64 exit_code = t.empty ? SVM_EXIT_ERR : SVM_EXIT_VMMCALL;

	set_l2_op(L2_EXIT);
	if (!guest_svm(OP_VMRUN, gpa(page)))
		return false;

	assert_memory(page, off, exit_code);
	TEST_ASSERT_EQ(guest_do(OP_READ, gpa(page) + off, 0), exit_code);
	return true;
}

static bool use_vmsave(size_t page)
{
	guest_do(OP_WRMSR, MSR_KERNEL_GS_BASE, SAVED_GS_BASE);
	if (!guest_svm(OP_VMSAVE, gpa(page)))
		return false;

	assert_memory(page, offsetof(struct vmcb, save.kernel_gs_base),
		      SAVED_GS_BASE);
	return true;
}

static bool use_vmload(size_t page)
{
	u64 expected = t.empty ? 0 : LOADED_GS_BASE;
	bool ok;

	guest_do(OP_WRMSR, MSR_KERNEL_GS_BASE, SAVED_GS_BASE);
	ok = guest_svm(OP_VMLOAD, gpa(page));
	if (!ok)
		expected = SAVED_GS_BASE;
	TEST_ASSERT_EQ(guest_do(OP_RDMSR, MSR_KERNEL_GS_BASE, 0), expected);

	/* Back to segments that are of use. */
	TEST_ASSERT(guest_svm(OP_VMLOAD, t.vmcb12_gpa), "#GP at VMLOAD");
	return ok;
}

/*
 * If an SMI meets L2, KVM keeps the state of L1 in the host save area for as
 * long as the vCPU is in SMM.
 */
static bool use_hsave(size_t page)
{
	const size_t off = offsetof(struct vmcb, save);

	guest_do(OP_WRMSR, MSR_VM_HSAVE_PA, gpa(page));
	init_vmcb12(t.vmcb12);
	start_l2(t.vmcb12_gpa);
	inject_smi();

	/* Without the area, there is no way on, and no way back: see enter_smm(). */
	if (run()) {
		TEST_ASSERT_EQ(errno, EIO);
		TEST_ASSERT_EQ(run(), EIO);
		t.vm_is_dead = true;
		return false;
	}

	TEST_ASSERT_EQ(t.vcpu->run->exit_reason, KVM_EXIT_IO);
	TEST_ASSERT_EQ(t.vcpu->run->io.port, SMM_PORT);
	assert_memory(page, off + offsetof(struct vmcb_save_area, cr3),
		      t.entry_sregs.cr3);
	TEST_ASSERT(host_reads_u64(page, off + offsetof(struct vmcb_save_area, rip)),
		    "The state of L1 is not saved");

	/* L2 goes on after SMM, and L1 after L2. */
	TEST_ASSERT_EQ(run_until_done(), 0);
	TEST_ASSERT_EQ(t.vmcb12->control.exit_code, SVM_EXIT_VMMCALL);
	guest_do(OP_WRMSR, MSR_VM_HSAVE_PA, t.hsave_gpa);
	return true;
}

/* The MSR bitmap is copied, and not needed any more when L2 runs. */
static bool use_msrpm(size_t page)
{
	struct vmcb_control_area *control = &t.vmcb12->control;
	const u64 msr_prot = BIT_ULL(INTERCEPT_MSR_PROT);
	u64 exit_code;

	init_vmcb12(t.vmcb12);
	set_l2_op(L2_RDMSR);
	control->intercept |= msr_prot;
	control->msrpm_base_pa = gpa(page);
	TEST_ASSERT(guest_svm(OP_VMRUN, t.vmcb12_gpa), "#GP at VMRUN");
	exit_code = control->exit_code | (u64)control->exit_code_hi << 32;
	control->intercept &= ~msr_prot;
	control->msrpm_base_pa = t.msrpm_gpa;

	if (exit_code == SVM_EXIT_ERR)
		return false;

	TEST_ASSERT_EQ(exit_code, t.empty ? SVM_EXIT_VMMCALL : SVM_EXIT_MSR);
	return true;
}

#define XEN_PENDING_SEL		8
#define XEN_TIME		32
#define XEN_EVTCHN_PENDING	0x800
#define XEN_PORT		15

/* Return 0 or the errno of the ioctl. */
static int set_shinfo(bool by_hva, u64 addr)
{
	struct kvm_xen_hvm_attr attr = {
		.type = by_hva ? KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA :
				 KVM_XEN_ATTR_TYPE_SHARED_INFO,
	};

	if (by_hva)
		attr.u.shared_info.hva = addr;
	else
		attr.u.shared_info.gfn = addr >> PAGE_SHIFT;
	return __vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr) ? errno : 0;
}

static int set_vcpu_info(bool by_hva, u64 addr)
{
	struct kvm_xen_vcpu_attr attr = {
		.type = by_hva ? KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA :
				 KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
	};

	if (by_hva)
		attr.u.hva = addr;
	else
		attr.u.gpa = addr;
	return __vcpu_ioctl(t.vcpu, KVM_XEN_VCPU_SET_ATTR, &attr) ? errno : 0;
}

static void unset_xen(void)
{
	TEST_ASSERT_EQ(set_vcpu_info(false, KVM_XEN_INVALID_GPA), 0);
	TEST_ASSERT_EQ(set_shinfo(true, 0), 0);
}

static void send_event(u32 port)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = port,
		.vcpu = t.vcpu->id,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	vm_ioctl(t.vm, KVM_XEN_HVM_EVTCHN_SEND, &event);
}

/*
 * The bits of event channels are not in the dirty log: userspace has to assume
 * that shared_info is dirty, see KVM_XEN_ATTR_TYPE_SHARED_INFO in api.rst.
 */
static bool __use_shinfo(size_t page, bool by_hva, u64 addr)
{
	int err = set_shinfo(by_hva, addr);

	if (err) {
		TEST_ASSERT_EQ(err, EFAULT);
		unset_xen();
		return false;
	}

	TEST_ASSERT_EQ(set_vcpu_info(false, t.vcpu_info_gpa), 0);
	send_event(XEN_PORT);
	assert_memory(page, XEN_EVTCHN_PENDING, BIT(XEN_PORT));

	/* KVM finds the page again. */
	zap();
	send_event(XEN_PORT + 1);
	assert_memory(page, XEN_EVTCHN_PENDING, 3 * BIT(XEN_PORT));
	unset_xen();
	return true;
}

static bool use_shinfo(size_t page)
{
	return __use_shinfo(page, false, gpa(page));
}

static bool use_shinfo_hva(size_t page)
{
	return __use_shinfo(page, true, (u64)t.hva + page * PAGE_SIZE);
}

static bool __use_vcpu_info(size_t page, bool by_hva, u64 addr)
{
	int err = set_vcpu_info(by_hva, addr + CLOCK_OFFSET);

	if (err) {
		TEST_ASSERT_EQ(err, EFAULT);
		unset_xen();
		return false;
	}

	/* The time is told at once, ... */
	guest_do(OP_NOP, 0, 0);
	TEST_ASSERT((u32)host_reads_u64(page, CLOCK_OFFSET + XEN_TIME),
		    "No time in vcpu_info");

	/* ... and an event when KVM has found the page again. */
	memset(t.shinfo, 0, PAGE_SIZE);
	TEST_ASSERT_EQ(set_shinfo(false, t.shinfo_gpa), 0);
	zap();
	send_event(XEN_PORT);
	guest_do(OP_NOP, 0, 0);
	assert_memory(page, CLOCK_OFFSET + XEN_PENDING_SEL, 1);
	unset_xen();
	return true;
}

static bool use_vcpu_info(size_t page)
{
	return __use_vcpu_info(page, false, gpa(page));
}

static bool use_vcpu_info_hva(size_t page)
{
	return __use_vcpu_info(page, true, (u64)t.hva + page * PAGE_SIZE);
}

/* Return the version of the clock in the page. */
static u32 set_clock(u32 msr, size_t page, u64 flags)
{
	guest_do(OP_WRMSR, msr, (gpa(page) + CLOCK_OFFSET) | flags);
	return host_can_look() ? host_reads_u64(page, CLOCK_OFFSET) : 0;
}

static bool use_clock(size_t page)
{
	u32 version = set_clock(MSR_KVM_SYSTEM_TIME_NEW, page, 1);
	u32 next;

	if (version) {
		zap();
		next = set_clock(MSR_KVM_SYSTEM_TIME_NEW, page, 1);
		TEST_ASSERT(!(version & 1) && !(next & 1) && version != next,
			    "Versions %u and %u of the clock", version, next);
	}
	guest_do(OP_WRMSR, MSR_KVM_SYSTEM_TIME_NEW, 0);
	return version;
}

static bool use_wall_clock(size_t page)
{
	return set_clock(MSR_KVM_WALL_CLOCK_NEW, page, 0);
}

/*
 * @writes: KVM writes to the page, by a copy if @copies, and says so in the
 * dirty log unless @is_log_exempt.  @is_vls: the CPU can do it without KVM.
 *
 * @pins is how often the page is pinned if KVM can use it, or @empty_pins if it
 * is empty: VMRUN does not even enter L2, and the zero page is never pinned.
 * Memory that is needed in addition, e.g. vmcb12 when an SMI meets L2, is
 * pinned @other_pins times, and another @late_pins times if KVM can use the page.
 */
static const struct user {
	const char *name;
	bool (*use)(size_t page);
	bool writes;
	bool copies;
	bool is_log_exempt;
	bool is_vls;
	int pins;
	int empty_pins;
	int other_pins;
	int late_pins;
} users[] = {
	{
		.name = "VMRUN",
		.use = use_vmrun,
		.writes = true,
		.pins = 2,
		.empty_pins = 1,
	},
	{
		.name = "VMSAVE",
		.use = use_vmsave,
		.writes = true,
		.is_vls = true,
		.pins = 1,
		.empty_pins = 1,
	},
	{
		.name = "VMLOAD",
		.use = use_vmload,
		.is_vls = true,
		.pins = 1,
		.other_pins = 1,
	},
	{
		.name = "MSR bitmap",
		.use = use_msrpm,
		.copies = true,
		.other_pins = 2,
	},
	{
		.name = "shinfo",
		.use = use_shinfo,
		.writes = true,
		.is_log_exempt = true,
	},
	{
		.name = "shinfo hva",
		.use = use_shinfo_hva,
		.writes = true,
		.is_log_exempt = true,
	},
	{
		.name = "vcpu_info",
		.use = use_vcpu_info,
		.writes = true,
	},
	{
		.name = "vcpu_info hva",
		.use = use_vcpu_info_hva,
		.writes = true,
		.is_log_exempt = true,
	},
	{
		.name = "clock",
		.use = use_clock,
		.writes = true,
	},
	{
		.name = "wall clock",
		.use = use_wall_clock,
		.writes = true,
		.copies = true,
	},
	/* The last one, because it may be the end of the VM. */
	{
		.name = "HSAVE",
		.use = use_hsave,
		.writes = true,
		.pins = 2,
		.empty_pins = 2,
		.other_pins = 2,
		.late_pins = 2,
	},
};

#define NR_USERS	ARRAY_SIZE(users)
static_assert(2 * NR_USERS + 2 < SPARE_PAGE);

/*
 * ---------------------------------------------------------------------------
 * Kinds of memory
 * ---------------------------------------------------------------------------
 */

static void fill(void)
{
	size_t page;

	for (page = 0; page < NR_PAGES; page++)
		host_writes(page, &t.content, sizeof(t.content));
}

static void set_prot(int prot)
{
	t.prot = prot;
	TEST_ASSERT(!mprotect(t.hva, t.size, prot), "mprotect() failed");
}

static void set_up_zero_page(void)
{
	t.size = NR_PAGES * PAGE_SIZE;
	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	t.view = t.hva;
	t.empty = true;
}

static void set_up_anonymous(void)
{
	set_up_zero_page();
	t.empty = false;
	fill();
}

static void set_up_thp(void)
{
	t.size = HUGE_SIZE;
	t.hva = map_thp(t.size);
	t.view = t.hva;
	fill();
}

static void set_up_hugetlb(void)
{
	t.size = HUGE_SIZE;
	t.hva = map_hugetlb();
	t.view = t.hva;
	fill();
}

static void set_up_shared(int fd, size_t size)
{
	t.size = size;
	t.hva = map_aligned(size, t.prot, MAP_SHARED, fd);
	t.view = map_aligned(size, t.prot, MAP_SHARED, fd);
	close(fd);
	fill();
}

static void set_up_shmem(void)
{
	const size_t size = NR_PAGES * PAGE_SIZE;

	set_up_shared(kvm_memfd_alloc(size, false), size);
}

static void set_up_file(void)
{
	const size_t size = NR_PAGES * PAGE_SIZE;

	set_up_shared(make_file(".", size), size);
}

static void set_up_dax(void)
{
	set_up_shared(open_dax(), HUGE_SIZE);
}

static void set_up_snapshot(void)
{
	size_t page;

	t.size = NR_PAGES * PAGE_SIZE;
	t.snapshot_fd = make_file(".", t.size);
	for (page = 0; page < NR_PAGES; page++)
		TEST_ASSERT(pwrite(t.snapshot_fd, &t.content, PAGE_SIZE,
				   page * PAGE_SIZE) == PAGE_SIZE,
			    "pwrite() failed");
	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE, t.snapshot_fd);
	t.view = t.hva;
}

static void set_up_ksm(void)
{
	set_up_anonymous();
	merge_pages(t.hva, NR_PAGES);
}

static void set_up_prot_read(void)
{
	set_up_anonymous();
	set_prot(PROT_READ);
}

static void set_up_region(u32 kind, u32 flags, u32 order, int prot)
{
	t.nr_pages = 64;
	t.fd = open_region(kind, flags, t.nr_pages, order);
	t.size = t.nr_pages * PAGE_SIZE;
	t.prot = prot;
	t.hva = map_aligned(t.size, prot, MAP_SHARED, t.fd);
	fill();
	tkm_get_counts(t.fd, t.nr_pages, t.initial);
}

static void set_up_pfnmap(u32 kind, u32 flags, u32 order)
{
	set_up_region(kind, flags, order, PROT_READ | PROT_WRITE);
}

static void set_up_pageless(void)
{
	set_up_pfnmap(TKM_PFNMAP_PAGELESS, 0, 0);
}

static void set_up_head(void)
{
	set_up_pfnmap(TKM_PFNMAP_NONCOMPOUND, 0, 1);
	TEST_ASSERT_EQ(t.initial[0].refcount, 1);
}

static void set_up_tail(void)
{
	set_up_pfnmap(TKM_PFNMAP_NONCOMPOUND, 0, 1);
	TEST_ASSERT_EQ(t.initial[1].refcount, 0);
	t.first = 1;
}

static void set_up_refcounted(void)
{
	set_up_pfnmap(TKM_PFNMAP_REFCOUNTED, 0, 0);
}

static void set_up_reserved(void)
{
	set_up_pfnmap(TKM_PFNMAP_RESERVED, 0, 0);
}

static void set_up_vm_io(void)
{
	set_up_pfnmap(TKM_PFNMAP_REFCOUNTED, TKM_IO, 0);
}

static void set_up_pci_bar(void)
{
	size_t size;
	int fd = open_pci_bar(&size);

	set_up_shared(fd, min(size, HUGE_SIZE));
}

static void populate(void)
{
	size_t off;

	for (off = 0; off < t.size; off += PAGE_SIZE)
		READ_ONCE(*(u64 *)(t.hva + off));
}

static void set_up_readonly_pte(void)
{
	set_up_pfnmap(TKM_PFNMAP_REFCOUNTED, TKM_WRITENOTIFY, 0);
	populate();
}

static void set_up_pfnmap_prot_read(void)
{
	set_up_region(TKM_PFNMAP_REFCOUNTED, 0, 0, PROT_READ);
}

static void set_up_pfnmap_prot_read_present(void)
{
	set_up_pfnmap_prot_read();
	populate();
}

/* Each entry of the host's page table holds a reference. */
static void set_up_mixedmap(void)
{
	t.refcounted = true;
	set_up_pfnmap(TKM_MIXEDMAP_NORMAL, 0, 0);
	populate();
	tkm_get_counts(t.fd, t.nr_pages, t.initial);
}

static void set_up_mixedmap_special(void)
{
	set_up_pfnmap(TKM_MIXEDMAP_SPECIAL, 0, 0);
}

static void set_up_readonly_slot(void)
{
	t.slot_flags = KVM_MEM_READONLY;
	set_up_anonymous();
}

static void set_up_readonly_slot_pfnmap(void)
{
	t.slot_flags = KVM_MEM_READONLY;
	set_up_refcounted();
}

/* There is memory of the host at the same addresses, which L1 does not see. */
static void set_up_private(void)
{
	set_up_anonymous();
	t.guest_memfd = vm_create_guest_memfd(t.vm, t.size, 0);
}

static void set_up_hole(void)
{
	set_up_shmem();
	TEST_ASSERT(!munmap(t.hva, t.size), "munmap() failed");
}

static void set_up_prot_none(void)
{
	set_up_shmem();
	set_prot(PROT_NONE);
}

static void ignore_signal(int sig)
{
}

/* The page's owner is told by SIGBUS. */
static void poison(size_t size)
{
	struct sigaction sa = { .sa_handler = ignore_signal };

	sigaction(SIGBUS, &sa, NULL);
	if (madvise(t.hva, size, MADV_HWPOISON))
		skip("MADV_HWPOISON: %s", strerror(errno));
}

static void set_up_hwpoison(void)
{
	set_up_anonymous();
	t.view = NULL;
	poison(t.size);
}

static void set_up_pfnmap_hwpoison(void)
{
	set_up_refcounted();
	tkm_poison(t.fd, t.nr_pages, true);
}

/*
 * What KVM can access, with one letter for each of the users, in groups:
 *
 *	y	can be used
 *	u	only with kvm.allow_unsafe_mappings: not protected while it is used
 *	n	cannot be used
 *	-	is not tried: a VM with private memory has no SMM
 */
static const struct kind {
	const char *name;
	void (*set_up)(void);
	/*
	 * VMRUN, VMSAVE, VMLOAD; MSR bitmap; shinfo, by gpa and by hva,
	 * vcpu_info, likewise; clock, wall clock; HSAVE.
	 */
	const char *answers;
	u32 vm_type;
} kinds[] = {
	{ "anonymous", set_up_anonymous,	"yyy y yyyy yy y" },
	{ "thp", set_up_thp,			"yyy y yyyy yy y" },
	{ "hugetlb", set_up_hugetlb,		"yyy y yyyy yy y" },
	{ "shmem", set_up_shmem,		"yyy y yyyy yy y" },
	{ "file", set_up_file,			"yyy y yyyy yy y" },
	{ "dax", set_up_dax,			"yyy y yyyy yy y" },
	{ "zero_page", set_up_zero_page,	"yyy y yyyy yy y" },
	{ "snapshot", set_up_snapshot,		"yyy y yyyy yy y" },
	{ "ksm", set_up_ksm,			"yyy y yyyy yy y" },
	{ "prot_read", set_up_prot_read,	"nny y nnnn nn n" },
	{ "pfnmap_pageless", set_up_pageless,	"uuu y yyyy yy u" },
	{ "pfnmap_noncompound_head", set_up_head,
						"uuu y yyyy yy u" },
	{ "pfnmap_noncompound_tail", set_up_tail,
						"uuu y yyyy yy u" },
	{ "pfnmap_refcounted", set_up_refcounted,
						"uuu y yyyy yy u" },
	{ "pfnmap_reserved", set_up_reserved,	"uuu y yyyy yy u" },
	{ "pfnmap_io", set_up_vm_io,		"uuu y yyyy yy u" },
	{ "pci_bar", set_up_pci_bar,		"uuu y yyyy yy u" },
	{ "pfnmap_readonly_pte", set_up_readonly_pte,
						"uuu y yyyy yy u" },
	{ "pfnmap_prot_read_present", set_up_pfnmap_prot_read_present,
						"nnu y nnnn nn n" },
	{ "pfnmap_prot_read_absent", set_up_pfnmap_prot_read,
						"nnu y nnnn nn n" },
	{ "mixedmap_normal", set_up_mixedmap,	"yyy y yyyy yy y" },
	{ "mixedmap_special", set_up_mixedmap_special,
						"nnn y nnnn ny n" },
	{ "readonly_slot", set_up_readonly_slot,
						"nny y nyny nn n" },
	{ "readonly_slot_pfnmap", set_up_readonly_slot_pfnmap,
						"nnu y nyny nn n" },
	{ "private", set_up_private,		"nnn y nyny ny -",
	  KVM_X86_SW_PROTECTED_VM },
	{ "hole", set_up_hole,			"nnn n nnnn nn n" },
	{ "prot_none", set_up_prot_none,	"nnn n nnnn nn n" },
	{ "hwpoison", set_up_hwpoison,		"nnn n nnnn nn n" },
	{ "pfnmap_hwpoison", set_up_pfnmap_hwpoison,
						"nnn n nnnn nn n" },
};

/*
 * ---------------------------------------------------------------------------
 * All users of a kind of memory
 * ---------------------------------------------------------------------------
 */

/* What was found out, for the table. */
static struct report {
	/* These are constants, at the same address in parent and child. */
	const char *answers[NR_USERS];
} *report;

static void set_up(void)
{
	alarm(TEST_SECONDS);
	t.fd = -1;
	t.guest_memfd = -1;
	t.snapshot_fd = -1;
	t.prot = PROT_READ | PROT_WRITE;
}

static void teardown(void)
{
	/* Of a VM that is dead, nothing but the files can be closed. */
	if (t.vm_is_dead)
		kvm_vm_release(t.vm);
	else
		kvm_vm_free(t.vm);
	if (t.guest_memfd >= 0)
		close(t.guest_memfd);
	assert_counts();

	munmap(t.hva, t.size);
	if (t.view && t.view != t.hva)
		munmap(t.view, t.size);
	if (t.fd >= 0)
		close(t.fd);
}

static void assert_pins(const struct user *user, bool ok, bool unsafe,
			struct pins before)
{
	struct pins now = count_pins();
	u64 acquired = now.acquired - before.acquired;
	u64 released = now.released - before.released;
	u64 expected = user->other_pins;

	if (ok)
		expected += user->late_pins;
	if (ok && !unsafe)
		expected += t.empty ? user->empty_pins : user->pins;

	TEST_ASSERT(acquired == released, "%s: %lu pins, %lu released",
		    user->name, acquired, released);
	/* get_user_pages_fast() may give up what it has pinned, and try again. */
	TEST_ASSERT(acquired >= expected && acquired <= 2 * expected,
		    "%s: %lu pins instead of %lu", user->name, acquired,
		    expected);
}

static char get_answer(const struct kind *kind, size_t user)
{
	const char *c;

	for (c = kind->answers; *c; c++)
		if (*c != ' ' && !user--)
			return *c;

	TEST_FAIL("%s: too few answers", kind->name);
}

/* Why the user is not tried, or NULL. */
static const char *get_excuse(const struct kind *kind, size_t user)
{
	if (get_answer(kind, user) == '-')
		return "no SMM";
	if (users[user].is_vls && get_kvm_amd_param_integer("vls"))
		return "the CPU does it (kvm_amd.vls)";
	return NULL;
}

static void set_up_kind(const struct kind *kind)
{
	set_up();
	create_vm(kind->vm_type);
	kind->set_up();
	add_memory();
	if (kind->vm_type)
		vm_mem_set_private(t.vm, MEM_GPA, t.size);
}

/* Have all users try the memory, and verify all that can be seen of it. */
static void test_users(const struct kind *kind)
{
	const struct user *user;
	struct pins pins;
	size_t page, i;
	char answer;
	bool ok;

	for (i = 0; i < NR_USERS; i++) {
		user = &users[i];
		page = t.first + 2 * i;
		answer = get_answer(kind, i);

		if (get_excuse(kind, i)) {
			ksft_print_msg("%s: %s is not tried: %s\n", kind->name,
				       user->name, get_excuse(kind, i));
			continue;
		}

		pins = count_pins();
		ok = user->use(page);
		TEST_ASSERT(ok == (answer == 'y' ||
				   (answer == 'u' && unsafe_allowed)),
			    "%s: KVM %s the memory", user->name,
			    ok ? "uses" : "does not use");

		if (!ok || !user->writes)
			assert_untouched(page);
		assert_counts();
		assert_page_dirty(page, user->writes && !user->copies);
		if (t.log == LOG_NONE)
			assert_pins(user, ok, answer == 'u', pins);
		if (!t.vm_is_dead)
			assert_dirty(ok && user->writes && !user->is_log_exempt ?
				     page : -1);
	}

	/* Nobody has written to what its neighbours share with it. */
	if (!t.first)
		assert_untouched(1);
	assert_untouched(SPARE_PAGE);
	assert_snapshot_untouched();
}

static void test_kind(const void *arg)
{
	set_up_kind(arg);
	test_users(arg);
	teardown();
}

static void test_kind_bitmap(const void *arg)
{
	t.log = LOG_BITMAP;
	test_kind(arg);
}

static void test_kind_ring(const void *arg)
{
	t.log = LOG_RING;
	test_kind(arg);
}

/* What the table says of a kind. */
static void probe_kind(const void *arg)
{
	size_t i;

	set_up_kind(arg);
	for (i = 0; i < NR_USERS; i++) {
		if (get_excuse(arg, i))
			report->answers[i] = "-";
		else
			report->answers[i] = users[i].use(t.first + 2 * i) ?
					     "yes" : "no";
	}
}

static bool print_table(void)
{
	bool ok = true;
	size_t i, j, size;
	char *text;
	int status;
	FILE *table = open_memstream(&text, &size);

	TEST_ASSERT(table, "open_memstream() failed");
	fprintf(table, "%-25s", "memory");
	for (j = 0; j < NR_USERS; j++)
		fprintf(table, " %s", users[j].name);
	fprintf(table, "\n");

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		ksft_print_msg("%s\n", kinds[i].name);
		status = fork_test(probe_kind, &kinds[i]);

		fprintf(table, "%-25s", kinds[i].name);
		if (is_skip(status)) {
			fprintf(table, " skipped: %s\n", skip_reason);
			continue;
		}
		if (status) {
			fprintf(table, " failed: wait status 0x%x\n", status);
			ok = false;
			continue;
		}
		for (j = 0; j < NR_USERS; j++)
			fprintf(table, " %-*s", (int)strlen(users[j].name),
				report->answers[j]);
		fprintf(table, "\n");
	}
	fclose(table);

	/* In one piece, not among what the kernel says meanwhile. */
	printf("== table begin\n%s== table end\n", text);
	free(text);
	return ok;
}

/*
 * ---------------------------------------------------------------------------
 * Memory that goes away while L2, or the SMI handler, runs
 * ---------------------------------------------------------------------------
 */

static void lose_by_munmap(void)
{
	TEST_ASSERT(!munmap(t.hva, t.size), "munmap() failed");
}

static void lose_memslot(void)
{
	set_slot(0, NULL);
}

static void lose_write_access(void)
{
	set_prot(PROT_READ);
}

static void lose_by_poison(void)
{
	t.view = NULL;
	poison(PAGE_SIZE);
}

/* Other memory at the same place, with the same contents. */
static void replace_by_pfnmap(void)
{
	int fd = open_region(TKM_PFNMAP_REFCOUNTED, 0, NR_PAGES, 0);

	TEST_ASSERT(pwrite(fd, t.view, t.size, 0) == t.size, "pwrite() failed");
	TEST_ASSERT(mmap(t.hva, t.size, t.prot, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    t.hva, "mmap() failed");
	close(fd);
}

static void lose_by_conversion(void)
{
	vm_mem_set_private(t.vm, MEM_GPA, t.size);
}

static const struct loss {
	const char *name;
	void (*lose)(void);
	u32 vm_type;
	bool unsafe;
} losses[] = {
	{ "vmcb12_unmapped", lose_by_munmap },
	{ "vmcb12_without_memslot", lose_memslot },
	{ "vmcb12_readonly", lose_write_access },
	{ "vmcb12_poisoned", lose_by_poison },
	{ "vmcb12_private", lose_by_conversion, KVM_X86_SW_PROTECTED_VM },
	{ "vmcb12_replaced_by_pfnmap", replace_by_pfnmap, .unsafe = true },
};

/* What ends the run of L2. */
static const struct event {
	const char *name;
	void (*send)(void);
	u64 exit_code;
} events[] = {
	{ "_vmmcall", NULL, SVM_EXIT_VMMCALL },
	{ "_intr", inject_interrupt, SVM_EXIT_INTR },
	{ "_smi", inject_smi },
};

struct loss_test {
	const struct loss *loss;
	const struct event *event;
};

/* Have L2 run, whose vmcb12 is in the memory that is about to be lost. */
static void set_up_l2(const struct loss *loss)
{
	struct vmcb vmcb;

	set_up();
	create_vm(loss->vm_type);
	set_up_shmem();
	if (loss->vm_type)
		t.guest_memfd = vm_create_guest_memfd(t.vm, t.size, 0);
	add_memory();

	guest_do(OP_X2APIC, 0, 0);
	vmcb = t.content.vmcb;
	init_vmcb12(&vmcb);
	vmcb.control.intercept |= BIT_ULL(INTERCEPT_INTR);
	/* The shutdown is that of L1, not of L2, which L1 would be told of. */
	vmcb.control.intercept |= BIT_ULL(INTERCEPT_SHUTDOWN);
	vmcb.save.rflags |= RFLAGS_IF;
	host_writes(0, &vmcb, sizeof(vmcb));
	start_l2(gpa(0));
}

static void test_loss(const void *arg)
{
	const struct loss_test *test = arg;
	u64 *exit_code;

	set_up_l2(test->loss);
	test->loss->lose();
	if (test->event->send)
		test->event->send();

	if (!test->loss->unsafe || !unsafe_allowed) {
		assert_shutdown();
	} else if (!test->event->exit_code) {
		run_until_port(SMM_PORT);
	} else {
		TEST_ASSERT_EQ(run_until_done(), 0);
		exit_code = t.hva + offsetof(struct vmcb, control.exit_code);
		TEST_ASSERT_EQ(*exit_code, test->event->exit_code);
	}
	teardown();
}

/* The page of L2's state, or that of L1's, when RSM needs both. */
static void set_up_smi(bool hsave)
{
	set_up();
	create_vm(VM_TYPE_DEFAULT);
	set_up_shmem();
	add_memory();

	if (hsave) {
		guest_do(OP_WRMSR, MSR_VM_HSAVE_PA, gpa(0));
		init_vmcb12(t.vmcb12);
		start_l2(t.vmcb12_gpa);
	} else {
		struct vmcb vmcb = t.content.vmcb;

		init_vmcb12(&vmcb);
		host_writes(0, &vmcb, sizeof(vmcb));
		start_l2(gpa(0));
	}
	inject_smi();
	run_until_port(SMM_PORT);
}

static void test_vmcb12_lost_in_smm(const void *arg)
{
	set_up_smi(false);
	lose_by_munmap();
	assert_shutdown();
	teardown();
}

/* L2 must not run if its exit cannot be told. */
static void test_vmcb12_readonly_in_smm(const void *arg)
{
	set_up_smi(false);
	lose_write_access();
	assert_shutdown();
	TEST_ASSERT(!*(u8 *)addr_gva2hva(t.vm, (vm_vaddr_t)&l2_went_on),
		    "L2 has run after RSM");
	teardown();
}

static void test_hsave_lost_in_smm(const void *arg)
{
	set_up_smi(true);
	lose_by_munmap();
	assert_shutdown();
	teardown();
}

/* RSM only reads what was saved. */
static void test_hsave_readonly_in_smm(const void *arg)
{
	set_up_smi(true);
	lose_write_access();
	TEST_ASSERT_EQ(run_until_done(), 0);
	TEST_ASSERT_EQ(t.vmcb12->control.exit_code, SVM_EXIT_VMMCALL);
	teardown();
}

/*
 * ---------------------------------------------------------------------------
 * What the host is told
 * ---------------------------------------------------------------------------
 */

/* Whether the host may drop the contents of an anonymous page. */
static bool is_clean(int module, size_t page)
{
	struct tkm_page desc = tkm_lookup(module, t.hva + page * PAGE_SIZE);

	return !(desc.flags & TKM_PAGE_DIRTY);
}

/*
 * Memory that userspace does not need any more, until it is written again.  The
 * entry in the host's page table is writable, and does not become dirty.
 */
static void test_written_page_is_dirty(const void *arg)
{
	int module = open_module();
	size_t page;

	set_up();
	create_vm(VM_TYPE_DEFAULT);
	set_up_anonymous();
	add_memory();
	TEST_ASSERT(!madvise(t.hva, t.size, MADV_FREE), "MADV_FREE failed");
	for (page = 0; page < 4; page++)
		TEST_ASSERT(is_clean(module, page), "Page %lu is dirty", page);

	TEST_ASSERT(guest_svm(OP_VMLOAD, gpa(0)), "#GP at VMLOAD");
	TEST_ASSERT(is_clean(module, 0), "VMLOAD makes the page dirty");

	TEST_ASSERT(guest_svm(OP_VMSAVE, gpa(1)), "#GP at VMSAVE");
	TEST_ASSERT(!is_clean(module, 1), "VMSAVE can be lost");

	guest_do(OP_WRMSR, MSR_KVM_SYSTEM_TIME_NEW, (gpa(2) + CLOCK_OFFSET) | 1);
	TEST_ASSERT(!is_clean(module, 2), "The clock can be lost");

	TEST_ASSERT(is_clean(module, 3), "An unused page is dirty");
	teardown();
	close(module);
}

#define PARAMETER	"allow_unsafe_mappings"

static bool has_parameter(void)
{
	return !access("/sys/module/kvm/parameters/" PARAMETER, R_OK);
}

/* How many lines the kernel has written about refusals since it was booted. */
static int count_refusals(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	unsigned long first = -1ul;
	char record[8192];
	int count = 0;
	ssize_t len;

	TEST_ASSERT(fd >= 0, "/dev/kmsg cannot be opened");
	for (;;) {
		len = read(fd, record, sizeof(record) - 1);
		/* Records may be overwritten before they are read. */
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			break;
		record[len] = '\0';
		if (first == -1ul && (sscanf(record, "%*u,%lu", &first) != 1 ||
				      first))
			skip("the kernel's log has lost its beginning");
		count += strstr(record, "gfn 0x") && strstr(record, PARAMETER);
	}
	TEST_ASSERT(!len || errno == EAGAIN, "/dev/kmsg cannot be read");
	close(fd);
	return count;
}

static void test_refusal_is_logged(const void *arg)
{
	int i, before, now;

	if (!has_parameter())
		skip("kvm has no parameter " PARAMETER);

	set_up();
	create_vm(VM_TYPE_DEFAULT);
	set_up_refcounted();
	add_memory();

	/*
	 * It may have been said long ago, once each time kvm was loaded, but it is
	 * not said again and again.
	 */
	before = count_refusals();
	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(guest_svm(OP_VMRUN, gpa(i)), unsafe_allowed);
		now = count_refusals();
		TEST_ASSERT(unsafe_allowed ? now == before :
					     now && now <= before + 1,
			    "%d refusals are logged, %d before", now, before);
	}
	teardown();
}

static const struct host_test single_tests[] = {
	{ "vmcb12_lost_in_smm", test_vmcb12_lost_in_smm },
	{ "vmcb12_readonly_in_smm", test_vmcb12_readonly_in_smm },
	{ "hsave_lost_in_smm", test_hsave_lost_in_smm },
	{ "hsave_readonly_in_smm", test_hsave_readonly_in_smm },
	{ "written_page_is_dirty", test_written_page_is_dirty },
	{ "refusal_is_logged", test_refusal_is_logged },
};

#define NR_LOSS_TESTS	(ARRAY_SIZE(losses) * ARRAY_SIZE(events))

static struct host_test tests[3 * ARRAY_SIZE(kinds) + NR_LOSS_TESTS +
			      ARRAY_SIZE(single_tests)];
static int nr_tests;

static void add_test(const char *name, const char *suffix,
		     void (*run)(const void *arg), const void *arg)
{
	struct host_test *test = &tests[nr_tests++];
	char *full_name;

	TEST_ASSERT(asprintf(&full_name, "%s%s", name, suffix) > 0,
		    "asprintf() failed");
	*test = (struct host_test) {
		.name = full_name,
		.run = run,
		.arg = arg,
	};
}

int main(int argc, char **argv)
{
	static struct loss_test loss_tests[NR_LOSS_TESTS];
	const struct kind *kind;
	size_t i;

	if (has_parameter())
		unsafe_allowed = get_kvm_param_bool(PARAMETER);

	for (kind = kinds; kind < kinds + ARRAY_SIZE(kinds); kind++) {
		add_test(kind->name, "", test_kind, kind);
		/* Private memory cannot be logged. */
		if (kind->vm_type)
			continue;
		add_test(kind->name, "_bitmap", test_kind_bitmap, kind);
		add_test(kind->name, "_ring", test_kind_ring, kind);
	}

	for (i = 0; i < NR_LOSS_TESTS; i++) {
		loss_tests[i].loss = &losses[i / ARRAY_SIZE(events)];
		loss_tests[i].event = &events[i % ARRAY_SIZE(events)];
		/* A VM with private memory has no SMM. */
		if (loss_tests[i].loss->vm_type &&
		    loss_tests[i].event->send == inject_smi)
			continue;
		add_test(loss_tests[i].loss->name, loss_tests[i].event->name,
			 test_loss, &loss_tests[i]);
	}

	for (i = 0; i < ARRAY_SIZE(single_tests); i++)
		tests[nr_tests++] = single_tests[i];

	report = map_report(sizeof(*report));
	return run_tests(argc, argv, tests, nr_tests, print_table);
}
