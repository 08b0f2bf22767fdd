// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify how KVM resolves private memory, i.e. guest_memfd: what the guest sees,
 * which references are left, which errors userspace gets, that no fault outlives
 * a conversion, and that KVM itself keeps off memory that is private.
 *
 * Each test runs in a process and a VM of its own.  The module test_kvm_memory
 * (CONFIG_KVM_TEST_MEMORY) tells the reference counts, poisons pages, and makes
 * the time between a lookup and the use of its answer long.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#include <asm/pvclock-abi.h>

#include "absent_memory.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_memory.h"
#include "test_util.h"
#include "ucall_common.h"

#define MEM_GPA			0x40000000ul
#define MEM_SLOT		10
#define NR_VCPUS		2
#define NR_PAGES		(2 * SZ_2M / PAGE_SIZE)

/* Generous, an emulated machine may be slow. */
#define TEST_SECONDS		120
#define UNREFERENCED_TRIES	100

/* What the guest does between two exits. */
enum guest_op {
	OP_READ,
	OP_READ_INTERRUPTIBLE,
	OP_WRITE,
	OP_XCHG,
	OP_WRMSR,
	OP_SVM_SETUP,
	OP_VMRUN,
	OP_VMLOAD,
	OP_VMSAVE,
};

struct guest_cmd {
	u64 op;
	u64 gva;
	u64 val;
};

static struct guest_cmd cmds[NR_VCPUS];

static struct {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct kvm_regs entry[NR_VCPUS];
	bool stuck[NR_VCPUS];
	u64 result[NR_VCPUS];

	/* The two memories behind the memslot. */
	void *shared;
	int gmem;

	/* The test module, or -1. */
	int module;
} t;

/*
 * ---------------------------------------------------------------------------
 * Guest
 * ---------------------------------------------------------------------------
 */

/* Exit to L1.  A VM-exit does not restore registers: use none. */
static void l2_guest_code(void)
{
	asm volatile("1: vmmcall\n\t"
		     "jmp 1b\n\t");
}

static void guest_svm_setup(struct svm_test_data *svm)
{
	static u8 l2_stack[4096];

	generic_svm_setup(svm, l2_guest_code, &l2_stack[sizeof(l2_stack)]);
}

static void guest_code(u64 id)
{
	struct guest_cmd *cmd = &cmds[id];

	for (;;) {
		u64 gva = READ_ONCE(cmd->gva);
		u64 val = READ_ONCE(cmd->val);

		switch (READ_ONCE(cmd->op)) {
		case OP_READ:
			val = READ_ONCE(*(u64 *)gva);
			break;
		case OP_READ_INTERRUPTIBLE:
			asm volatile("sti; nop");
			val = READ_ONCE(*(u64 *)gva);
			asm volatile("cli");
			break;
		case OP_WRITE:
			WRITE_ONCE(*(u64 *)gva, val);
			break;
		case OP_XCHG:
			asm volatile("xchg %0, (%1)"
				     : "+r"(val) : "r"(gva) : "memory");
			break;
		case OP_WRMSR:
			wrmsr(val, gva);
			break;
		case OP_SVM_SETUP:
			guest_svm_setup((struct svm_test_data *)gva);
			break;
		case OP_VMRUN:
			val = kvm_asm_safe("vmrun %%rax", "a"(gva));
			break;
		case OP_VMLOAD:
			val = kvm_asm_safe("vmload %%rax", "a"(gva));
			break;
		case OP_VMSAVE:
			val = kvm_asm_safe("vmsave %%rax", "a"(gva));
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

/* Run a vCPU until its operation is done.  Return 0 or the errno of KVM_RUN. */
static int resume(int id)
{
	struct kvm_vcpu *vcpu = t.vcpus[id];
	struct ucall uc;

	t.stuck[id] = true;
	while (__vcpu_run(vcpu)) {
		if (errno != EINTR)
			return errno;
	}
	t.stuck[id] = false;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		t.result[id] = uc.args[0];
		return 0;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		assert_on_unhandled_exception(vcpu);
		TEST_FAIL("Unexpected exit %u (%s)", vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}
	return 0;
}

static void set_cmd(int id, enum guest_op op, u64 gva, u64 val)
{
	struct guest_cmd *cmd = addr_gva2hva(t.vm, (vm_vaddr_t)&cmds[id]);

	*cmd = (struct guest_cmd) { .op = op, .gva = gva, .val = val };
}

/* An operation that cannot be done is given up for the next one. */
static int guest_do(int id, enum guest_op op, size_t page, u64 val)
{
	if (t.stuck[id])
		vcpu_regs_set(t.vcpus[id], &t.entry[id]);

	set_cmd(id, op, gpa(page), val);
	return resume(id);
}

static void assert_result(int id, size_t page, u64 expected)
{
	TEST_ASSERT(t.result[id] == expected,
		    "Guest reads 0x%lx instead of 0x%lx in page %lu",
		    t.result[id], expected, page);
}

static void guest_reads(int id, size_t page, u64 expected)
{
	TEST_ASSERT_EQ(guest_do(id, OP_READ, page, 0), 0);
	assert_result(id, page, expected);
}

static void guest_writes(int id, size_t page, u64 val)
{
	TEST_ASSERT_EQ(guest_do(id, OP_WRITE, page, val), 0);
}

/* Return 0 or the errno of KVM_PRE_FAULT_MEMORY. */
static int prefault(int id, size_t page)
{
	struct kvm_pre_fault_memory range = {
		.gpa = gpa(page),
		.size = PAGE_SIZE,
	};

	t.vcpus[id]->run->exit_reason = KVM_EXIT_UNKNOWN;
	while (__vcpu_ioctl(t.vcpus[id], KVM_PRE_FAULT_MEMORY, &range)) {
		if (errno != EINTR)
			return errno;
	}

	TEST_ASSERT_EQ(range.size, 0);
	return 0;
}

#define FLAG_PRIVATE	KVM_MEMORY_EXIT_FLAG_PRIVATE

/* The exit of the error that was just returned. */
static void assert_memory_fault(int id, size_t page, u64 flags)
{
	struct kvm_run *run = t.vcpus[id]->run;

	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.flags, flags);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa(page));
	TEST_ASSERT_EQ(run->memory_fault.size, PAGE_SIZE);
}

/* The guest is stuck at an access, and KVM_PRE_FAULT_MEMORY says the same. */
static void assert_fails(size_t page, int err)
{
	int i;

	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(guest_do(0, OP_READ, page, 0), err);
		assert_memory_fault(0, page, FLAG_PRIVATE);
		TEST_ASSERT_EQ(guest_do(1, OP_WRITE, page, 1), err);
		assert_memory_fault(1, page, FLAG_PRIVATE);
		TEST_ASSERT_EQ(prefault(0, page), err);
		assert_memory_fault(0, page, FLAG_PRIVATE);
	}
}

/*
 * ---------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------
 */

static u64 shared_value(size_t page)
{
	return 0x57a7ed0000000000ul + page;
}

static u64 private_value(size_t page)
{
	return 0x9417a7e000000000ul + page;
}

static u64 *shared_hva(size_t page)
{
	return t.shared + page * PAGE_SIZE;
}

static void host_writes(size_t page, u64 val)
{
	WRITE_ONCE(*shared_hva(page), val);
}

static void host_reads(size_t page, u64 expected)
{
	u64 val = READ_ONCE(*shared_hva(page));

	TEST_ASSERT(val == expected,
		    "Host reads 0x%lx instead of 0x%lx in page %lu", val,
		    expected, page);
}

/* To see that nobody writes there. */
static void host_fills(size_t page)
{
	memset(shared_hva(page), 0x5a, PAGE_SIZE);
}

static void assert_filled(size_t page, const char *when)
{
	size_t i;

	for (i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		TEST_ASSERT(shared_hva(page)[i] == 0x5a5a5a5a5a5a5a5aul,
			    "The host's page is written at 0x%lx %s",
			    i * sizeof(u64), when);
}

static void set_private(size_t page)
{
	vm_mem_set_private(t.vm, gpa(page), PAGE_SIZE);
}

static void set_shared(size_t page)
{
	vm_mem_set_shared(t.vm, gpa(page), PAGE_SIZE);
}

/* Each conversion takes the page out of the guest's page tables. */
static void unmap_private(size_t page)
{
	set_shared(page);
	set_private(page);
}

static void punch_hole(size_t page, size_t nr)
{
	TEST_ASSERT(!fallocate(t.gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       page * PAGE_SIZE, nr * PAGE_SIZE),
		    "FALLOC_FL_PUNCH_HOLE failed");
}

static void set_slot(u32 flags, size_t nr)
{
	vm_set_user_memory_region2(t.vm, MEM_SLOT, flags, MEM_GPA,
				   nr * PAGE_SIZE, t.shared, t.gmem, 0);
}

/* A memslot with private memory cannot be changed, but replaced. */
static void replace_slot(u32 flags)
{
	set_slot(flags, 0);
	set_slot(flags, NR_PAGES);
}

static void create_gmem(void)
{
	t.gmem = vm_create_guest_memfd(t.vm, NR_PAGES * PAGE_SIZE, 0);
}

static void close_gmem(void)
{
	close(t.gmem);
	t.gmem = -1;
}

/*
 * ---------------------------------------------------------------------------
 * The test module
 * ---------------------------------------------------------------------------
 */

/* Return false if guest_memfd has no such page. */
static bool find_page(size_t page, struct tkm_page *desc)
{
	struct tkm_file_page cmd = { .fd = t.gmem, .index = page };

	if (ioctl(t.module, TKM_FILE_PAGE, &cmd)) {
		TEST_ASSERT(errno == ENOENT, "TKM_FILE_PAGE failed");
		return false;
	}

	*desc = cmd.page;
	return true;
}

static struct tkm_page get_page(size_t page)
{
	struct tkm_page desc;

	TEST_ASSERT(find_page(page, &desc), "guest_memfd has no page %lu", page);
	return desc;
}

/*
 * Only the page cache holds the page.  A batch of pages that are on their way to
 * an LRU list, or a walker of page frames, may hold a reference for a moment; KVM
 * would hold one for good.
 */
static void assert_unreferenced(size_t page, const char *when)
{
	struct tkm_page desc;
	s32 expected;
	int i;

	for (i = 0; i < UNREFERENCED_TRIES; i++) {
		desc = get_page(page);
		expected = 1 + !(desc.flags & TKM_PAGE_LRU);
		if (desc.refcount == expected)
			return;
		usleep(1000);
	}

	TEST_FAIL("%s: page %lu has %d references instead of %d", when, page,
		  desc.refcount, expected);
}

static void poison(size_t page)
{
	struct tkm_file_page cmd = { .fd = t.gmem, .index = page };

	tkm_ioctl(t.module, TKM_FILE_POISON, &cmd);
	TEST_ASSERT(get_page(page).flags & TKM_PAGE_HWPOISON,
		    "Page %lu is not poisoned", page);
}

/*
 * ---------------------------------------------------------------------------
 * Fixtures
 * ---------------------------------------------------------------------------
 */

static void set_up(void)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	int i;

	t.module = tkm_open();

	/* Aligned like the GPA, so that huge pages are possible. */
	t.shared = mmap(NULL, NR_PAGES * PAGE_SIZE + SZ_2M,
			PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	TEST_ASSERT(t.shared != MAP_FAILED, "mmap() failed");
	t.shared = align_ptr_up(t.shared, SZ_2M);

	t.vm = __vm_create_with_vcpus(shape, NR_VCPUS, NR_PAGES, guest_code,
				      t.vcpus);
	for (i = 0; i < NR_VCPUS; i++) {
		vcpu_args_set(t.vcpus[i], 1, (u64)i);
		vcpu_regs_get(t.vcpus[i], &t.entry[i]);
	}

	create_gmem();
	set_slot(KVM_MEM_GUEST_MEMFD, NR_PAGES);
	virt_map(t.vm, MEM_GPA, MEM_GPA, NR_PAGES);
}

static void free_vm(void)
{
	kvm_vm_free(t.vm);
	t.vm = NULL;
}

static void tear_down(void)
{
	if (t.vm)
		free_vm();
}

FIXTURE(private_mem) {
};

FIXTURE_SETUP(private_mem)
{
	set_up();
}

FIXTURE_TEARDOWN(private_mem)
{
	tear_down();
}

/* For tests that look at, or poison, the pages of guest_memfd. */
FIXTURE(private_page) {
};

FIXTURE_SETUP(private_page)
{
	set_up();
	if (t.module < 0)
		SKIP(return, TKM_MISSING);
}

FIXTURE_TEARDOWN(private_page)
{
	tear_down();
}

/*
 * For tests that hold lookups.  Nothing else can run on the CPU meanwhile, so
 * there have to be two of them.
 */
static int race_cpus[2];

FIXTURE(private_race) {
};

FIXTURE_SETUP(private_race)
{
	set_up();
	if (t.module < 0)
		SKIP(return, TKM_MISSING);
	if (!tkm_can_hold_lookups(t.module))
		SKIP(return, "lookups cannot be held: %s", strerror(errno));
	if (!find_two_cpus(race_cpus))
		SKIP(return, "only one CPU");
}

FIXTURE_TEARDOWN(private_race)
{
	tear_down();
}

/*
 * ---------------------------------------------------------------------------
 * What the guest sees
 * ---------------------------------------------------------------------------
 */

TEST_F_TIMEOUT(private_mem, maps, TEST_SECONDS)
{
	size_t page;

	for (page = 0; page < NR_PAGES; page += 100) {
		host_writes(page, shared_value(page));
		set_private(page);

		/* By a read fault, or by a write fault. */
		if (page % 200)
			guest_reads(0, page, 0);
		guest_writes(0, page, private_value(page));
		guest_reads(0, page, private_value(page));
		guest_reads(1, page, private_value(page));
		host_reads(page, shared_value(page));

		/* The neighbours are shared. */
		guest_writes(0, page + 1, private_value(page));
		host_reads(page + 1, private_value(page));
	}

	for (page = 0; page < NR_PAGES; page += 100) {
		set_shared(page);
		guest_reads(0, page, shared_value(page));
		guest_writes(0, page, ~shared_value(page));
		host_reads(page, ~shared_value(page));

		/* Nobody punched a hole, so the old contents are still there. */
		set_private(page);
		guest_reads(1, page, private_value(page));
		host_reads(page, ~shared_value(page));
	}
}

/* guest_memfd has single pages, whatever the shared memory has. */
TEST_F_TIMEOUT(private_mem, not_huge, TEST_SECONDS)
{
	size_t page;

	if (madvise(t.shared, NR_PAGES * PAGE_SIZE, MADV_HUGEPAGE))
		SKIP(return, "MADV_HUGEPAGE: %s", strerror(errno));

	memset(t.shared, 0, NR_PAGES * PAGE_SIZE);
	guest_reads(0, 0, 0);
	TEST_ASSERT(vm_get_stat(t.vm, "pages_2m") > 0,
		    "Shared memory is not mapped huge");

	vm_mem_set_private(t.vm, MEM_GPA, NR_PAGES * PAGE_SIZE);
	guest_reads(0, 0, 0);
	TEST_ASSERT_EQ(vm_get_stat(t.vm, "pages_2m"), 0);
	for (page = 0; page < NR_PAGES; page += 64)
		guest_writes(0, page, private_value(page));
	TEST_ASSERT_EQ(vm_get_stat(t.vm, "pages_2m"), 0);
	for (page = 0; page < NR_PAGES; page += 64)
		guest_reads(1, page, private_value(page));
}

/*
 * ---------------------------------------------------------------------------
 * No reference outlives the lookup
 * ---------------------------------------------------------------------------
 */

TEST_F_TIMEOUT(private_page, no_reference_after_fault, TEST_SECONDS)
{
	vm_mem_set_private(t.vm, gpa(0), 3 * PAGE_SIZE);

	guest_reads(0, 0, 0);
	assert_unreferenced(0, "after a read fault");
	guest_writes(0, 0, private_value(0));
	assert_unreferenced(0, "after a write to the page that was read");
	guest_writes(0, 1, private_value(1));
	assert_unreferenced(1, "after a write fault");
	guest_reads(1, 1, private_value(1));
	assert_unreferenced(1, "after an access of another vCPU");

	unmap_private(1);
	assert_unreferenced(1, "after conversions");
	guest_reads(0, 1, private_value(1));
	assert_unreferenced(1, "after a read fault of a page that exists");
	unmap_private(1);
	guest_writes(0, 1, private_value(2));
	assert_unreferenced(1, "after a write fault of a page that exists");

	free_vm();
	assert_unreferenced(0, "after the end of the VM");
	assert_unreferenced(1, "after the end of the VM");
}

TEST_F_TIMEOUT(private_page, no_reference_after_prefault, TEST_SECONDS)
{
	int i;

	set_private(0);
	for (i = 0; i < 3; i++) {
		TEST_ASSERT_EQ(prefault(i & 1, 0), 0);
		assert_unreferenced(0, "after KVM_PRE_FAULT_MEMORY");
	}

	guest_reads(0, 0, 0);
	guest_writes(1, 0, private_value(0));
	assert_unreferenced(0, "after accesses");

	unmap_private(0);
	TEST_ASSERT_EQ(prefault(0, 0), 0);
	assert_unreferenced(0, "after KVM_PRE_FAULT_MEMORY of a page that exists");
	guest_reads(0, 0, private_value(0));
}

TEST_F_TIMEOUT(private_page, no_reference_after_error, TEST_SECONDS)
{
	struct tkm_page before, after;

	set_private(0);
	guest_writes(0, 0, private_value(0));
	poison(0);

	/* What holds a poisoned page is up to memory_failure(). */
	before = get_page(0);
	assert_fails(0, EHWPOISON);
	after = get_page(0);
	TEST_ASSERT(after.pfn == before.pfn &&
		    after.refcount == before.refcount,
		    "pfn 0x%llx with %d references became pfn 0x%llx with %d",
		    before.pfn, before.refcount, after.pfn, after.refcount);
}

#define FREED_PAGES	256

/* Count the private pages that are free memory after PUNCH_HOLE. */
static int nr_freed(void (*use)(size_t page))
{
	struct tkm_page pages[FREED_PAGES], desc;
	int i, n = 0;

	vm_mem_set_private(t.vm, MEM_GPA, FREED_PAGES * PAGE_SIZE);
	for (i = 0; i < FREED_PAGES; i++)
		use(i);
	for (i = 0; i < FREED_PAGES; i++)
		pages[i] = get_page(i);

	punch_hole(0, FREED_PAGES);
	for (i = 0; i < FREED_PAGES; i++) {
		TEST_ASSERT(!find_page(i, &desc), "Page %d is still there", i);
		desc.pfn = pages[i].pfn;
		tkm_ioctl(t.module, TKM_PFN, &desc);
		n += !desc.refcount;
	}

	/* All of them are found again, empty. */
	for (i = 0; i < FREED_PAGES; i++)
		guest_reads(0, i, 0);
	punch_hole(0, FREED_PAGES);
	return n;
}

static void use_by_read(size_t page)
{
	guest_reads(0, page, 0);
}

static void use_by_write(size_t page)
{
	guest_writes(0, page, private_value(page));
}

static void use_by_prefault(size_t page)
{
	TEST_ASSERT_EQ(prefault(0, page), 0);
}

static void use_by_conversion(size_t page)
{
	guest_writes(0, page, private_value(page));
	unmap_private(page);
	guest_reads(1, page, private_value(page));
	set_shared(page);
	guest_writes(1, page, 0);
	set_private(page);
	guest_reads(0, page, private_value(page));
}

TEST_F_TIMEOUT(private_page, punch_hole_frees, TEST_SECONDS)
{
	static void (*const uses[])(size_t page) = {
		use_by_read, use_by_write, use_by_prefault, use_by_conversion,
	};
	int i, n;

	/*
	 * The last pages are in the batches of some CPUs, and free pages may be
	 * in use again, but hardly this many.
	 */
	for (i = 0; i < ARRAY_SIZE(uses); i++) {
		n = nr_freed(uses[i]);
		TEST_ASSERT(n > FREED_PAGES / 2, "Only %d of %d pages are free",
			    n, FREED_PAGES);
	}
}

/*
 * ---------------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------------
 */

TEST_F_TIMEOUT(private_mem, fault_without_guest_memfd, TEST_SECONDS)
{
	replace_slot(0);
	host_writes(3, shared_value(3));
	guest_reads(0, 3, shared_value(3));

	set_private(3);
	assert_fails(3, EFAULT);
	host_reads(3, shared_value(3));

	/* The VM survives, and gets the page that it can have. */
	set_shared(3);
	TEST_ASSERT_EQ(resume(0), 0);
	assert_result(0, 3, shared_value(3));
	TEST_ASSERT_EQ(resume(1), 0);
	host_reads(3, 1);
}

TEST_F_TIMEOUT(private_mem, fault_without_slot, TEST_SECONDS)
{
	set_private(3);
	guest_reads(0, 3, 0);
	set_slot(KVM_MEM_GUEST_MEMFD, 0);
	assert_fails(3, EFAULT);

	/* Without memory, what is shared is MMIO. */
	TEST_ASSERT_EQ(prefault(0, 4), ENOENT);
	TEST_ASSERT_EQ(t.vcpus[0]->run->exit_reason, KVM_EXIT_UNKNOWN);

	set_slot(KVM_MEM_GUEST_MEMFD, NR_PAGES);
	TEST_ASSERT_EQ(resume(0), 0);
	assert_result(0, 3, 0);
}

/* Neither the memslot nor a lookup that has failed keeps the file. */
TEST_F_TIMEOUT(private_mem, fault_after_close, TEST_SECONDS)
{
	int fd;

	set_private(0);
	set_private(1);
	guest_writes(0, 0, private_value(0));
	if (t.module >= 0) {
		guest_writes(0, 1, private_value(1));
		poison(1);
		assert_fails(1, EHWPOISON);
	}

	/* Any descriptor of the file will do. */
	fd = dup(t.gmem);
	close_gmem();
	TEST_ASSERT_EQ(guest_do(0, OP_READ, 0, 0), 0);
	assert_result(0, 0, private_value(0));
	close(fd);

	/* What was mapped, and what was not. */
	assert_fails(0, EFAULT);
	set_private(2);
	assert_fails(2, EFAULT);

	host_writes(0, shared_value(0));
	set_shared(0);
	guest_reads(0, 0, shared_value(0));
}

TEST_F_TIMEOUT(private_page, poison, TEST_SECONDS)
{
	vm_mem_set_private(t.vm, gpa(0), 4 * PAGE_SIZE);
	guest_writes(0, 0, private_value(0));
	guest_writes(0, 1, private_value(1));
	guest_writes(0, 2, private_value(2));
	unmap_private(1);
	host_writes(0, shared_value(0));

	/* Pages that the guest has mapped, and does not. */
	poison(0);
	poison(1);
	assert_fails(0, EHWPOISON);
	assert_fails(1, EHWPOISON);

	/* It is the page that is poisoned, neither the VM nor the gfn. */
	guest_reads(0, 2, private_value(2));
	guest_writes(1, 3, private_value(3));
	guest_reads(0, 3, private_value(3));
	set_shared(0);
	guest_reads(0, 0, shared_value(0));
	set_private(0);
	assert_fails(0, EHWPOISON);

	/* A stuck access goes on with a fresh page. */
	punch_hole(0, 2);
	TEST_ASSERT_EQ(resume(0), 0);
	assert_result(0, 0, 0);
	TEST_ASSERT_EQ(resume(1), 0);
	guest_reads(0, 0, 1);
	guest_reads(0, 1, 0);
	TEST_ASSERT(!(get_page(1).flags & TKM_PAGE_HWPOISON),
		    "The fresh page is poisoned");
}

/* Pages that fallocate() has made, which no fault has zeroed yet. */
TEST_F_TIMEOUT(private_page, poison_before_use, TEST_SECONDS)
{
	TEST_ASSERT(!fallocate(t.gmem, FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE_SIZE),
		    "fallocate() failed");
	vm_mem_set_private(t.vm, gpa(0), 2 * PAGE_SIZE);
	poison(0);
	assert_fails(0, EHWPOISON);
	guest_reads(0, 1, 0);
	assert_unreferenced(1, "after a read fault");
}

/*
 * ---------------------------------------------------------------------------
 * No async page faults
 * ---------------------------------------------------------------------------
 */

/* Buffers of its own: those at the top may be somebody's who records a trace. */
#define TRACING		"/sys/kernel/tracing/"
#define TRACE_DIR	TRACING "instances/follow_pfn_private_test/"
#define TRACE_EVENT	"events/kvm/kvm_try_async_get_page/enable"

static void write_file(const char *path, const char *val)
{
	/* O_TRUNC empties the trace buffer. */
	int fd = open(path, O_WRONLY | O_TRUNC);

	TEST_ASSERT(fd >= 0, "open(%s) failed", path);
	TEST_ASSERT(write(fd, val, strlen(val)) == strlen(val),
		    "write(%s) failed", path);
	close(fd);
}

static int nr_trace_lines(const char *word)
{
	FILE *f = fopen(TRACE_DIR "trace", "r");
	char line[512];
	int n = 0;

	TEST_ASSERT(f, TRACE_DIR "trace cannot be opened");
	while (fgets(line, sizeof(line), f))
		n += line[0] != '#' && strstr(line, word);
	fclose(f);
	return n;
}

static int uffd;

/* The shared memory is absent until the test supplies it. */
static bool set_up_uffd(void)
{
	uffd = absent_open(t.shared, NR_PAGES * PAGE_SIZE);
	return uffd >= 0;
}

/* Wait until somebody needs a page, and return which. */
static size_t uffd_wait(void)
{
	return (absent_wait(uffd, NULL) - (uintptr_t)t.shared) / PAGE_SIZE;
}

static void uffd_supply(size_t page)
{
	u64 src[PAGE_SIZE / sizeof(u64)] = { shared_value(page) };

	absent_supply(uffd, (uintptr_t)shared_hva(page), src, sizeof(src));
}

static void *uffd_server(void *arg)
{
	uffd_supply(uffd_wait());
	return NULL;
}

TEST_F_TIMEOUT(private_mem, no_async_pf, TEST_SECONDS)
{
	struct uffd_msg msg;
	pthread_t server;
	size_t page;
	int lines;

	if (access(TRACING TRACE_EVENT, W_OK))
		SKIP(return, "no " TRACING TRACE_EVENT);
	if (!set_up_uffd())
		SKIP(return, "userfaultfd: %s", strerror(errno));

	TEST_ASSERT(!mkdir(TRACE_DIR, 0700) || errno == EEXIST,
		    "mkdir(" TRACE_DIR ") failed");
	write_file(TRACE_DIR TRACE_EVENT, "1");
	write_file(TRACE_DIR "trace", "\n");

	/* The guest can be interrupted, so that memory may be fetched async. */
	pthread_create(&server, NULL, uffd_server, NULL);
	TEST_ASSERT_EQ(guest_do(0, OP_READ_INTERRUPTIBLE, 0, 0), 0);
	assert_result(0, 0, shared_value(0));
	pthread_join(server, NULL);
	lines = nr_trace_lines("kvm_try_async_get_page");

	write_file(TRACE_DIR "trace", "\n");
	vm_mem_set_private(t.vm, gpa(1), 63 * PAGE_SIZE);
	for (page = 1; page < 64; page++) {
		TEST_ASSERT_EQ(guest_do(0, OP_READ_INTERRUPTIBLE, page, 0), 0);
		assert_result(0, page, 0);
	}
	write_file(TRACE_DIR TRACE_EVENT, "0");

	TEST_ASSERT(lines > 0, "Not even shared memory is fetched async");
	TEST_ASSERT_EQ(nr_trace_lines("kvm_try_async_get_page"), 0);
	rmdir(TRACE_DIR);

	/* Nobody has asked for the shared memory in place of the private one. */
	fcntl(uffd, F_SETFL, O_NONBLOCK);
	TEST_ASSERT(read(uffd, &msg, sizeof(msg)) == -1 && errno == EAGAIN,
		    "Somebody waits for shared memory");
	close(uffd);
}

/*
 * ---------------------------------------------------------------------------
 * Faults that meet a conversion
 * ---------------------------------------------------------------------------
 */

/*
 * memory_failure() waits for all CPUs that have yet to put pages on their LRU
 * list, and a CPU whose lookup is held does not do that: see to it before.  It
 * also waits for those that have buffers of a block device: then the host is
 * not in time.  Where nothing is held, it does no harm.
 */
static void drain_lru(void)
{
	void *absent = mmap(NULL, PAGE_SIZE, PROT_READ,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(absent != MAP_FAILED && !madvise(absent, PAGE_SIZE, MADV_COLD),
		    "The LRU lists cannot be drained");
	munmap(absent, PAGE_SIZE);
}

/* What another thread does, on vCPU 0. */
static struct {
	int (*fn)(size_t page);
	int err;
	struct access_job thread;
} job;

static void run_job(unsigned long page)
{
	drain_lru();
	job.err = job.fn(page);
}

static void set_job(int (*fn)(size_t page), int cpu)
{
	job.fn = fn;
	job.thread = (struct access_job) { .fn = run_job, .cpu = cpu };
}

static int job_read(size_t page)
{
	return guest_do(0, OP_READ, page, 0);
}

static int job_xchg(size_t page)
{
	return guest_do(0, OP_XCHG, page, private_value(page));
}

static int job_prefault(size_t page)
{
	return prefault(0, page);
}

#define RACE_ROUNDS	12
#define RACE_HITS	3

/*
 * @job looks the memory of a page up.  While it knows the answer, but has not
 * used it yet, the host does @act.  @check is for when it was in time.
 */
struct race {
	void (*prepare)(size_t page);
	int (*job)(size_t page);
	void (*act)(size_t page);
	void (*check)(size_t page);
};

/* Return true if the host was in time. */
static bool run_race(const struct race *race, size_t page)
{
	bool hit;

	race->prepare(page);
	start_held_access(&job.thread, page, t.module);
	race->act(page);
	hit = finish_held_access(&job.thread, t.module);
	if (hit)
		race->check(page);
	return hit;
}

static void race_lookup(const struct race *race)
{
	int hits = 0;
	size_t page;

	kvm_pin_this_task_to_pcpu(race_cpus[0]);
	set_job(race->job, race_cpus[1]);

	/*
	 * The only lookup to come is that of the page, not one of guest code, and
	 * the thread needs no new pages.
	 */
	start_access(&job.thread, NR_PAGES - 1);
	finish_access(&job.thread);
	TEST_ASSERT_EQ(job.err, 0);

	for (page = 0; page < RACE_ROUNDS && hits < RACE_HITS; page++)
		hits += run_race(race, page);

	TEST_ASSERT(hits == RACE_HITS, "In time %d times only", hits);
	ksft_print_msg("in time %d times of %lu\n", hits, page);
}

static void prepare_private(size_t page)
{
	host_writes(page, shared_value(page));
	set_private(page);
}

/* A page that exists, with contents, but is not mapped. */
static void prepare_private_used(size_t page)
{
	prepare_private(page);
	guest_writes(1, page, ~private_value(page));
	unmap_private(page);
}

static void prepare_shared(size_t page)
{
	host_writes(page, shared_value(page));
	set_shared(page);
}

static void check_became_shared(size_t page)
{
	TEST_ASSERT_EQ(job.err, 0);
	assert_result(0, page, shared_value(page));
	host_reads(page, private_value(page));
	set_private(page);
	guest_reads(1, page, 0);
}

static void check_became_private(size_t page)
{
	TEST_ASSERT_EQ(job.err, 0);
	assert_result(0, page, 0);
	host_reads(page, shared_value(page));
	guest_reads(1, page, private_value(page));
}

TEST_F_TIMEOUT(private_race, private_fault_to_shared, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_private, job_xchg, set_shared, check_became_shared,
	});
}

TEST_F_TIMEOUT(private_race, shared_fault_to_private, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_shared, job_xchg, set_private, check_became_private,
	});
}

static void check_prefault_became_shared(size_t page)
{
	TEST_ASSERT_EQ(job.err, EFAULT);
	assert_memory_fault(0, page, FLAG_PRIVATE);
	guest_reads(0, page, shared_value(page));
}

static void check_prefault_became_private(size_t page)
{
	TEST_ASSERT_EQ(job.err, EFAULT);
	assert_memory_fault(0, page, 0);
	guest_reads(0, page, 0);
	host_reads(page, shared_value(page));
}

/* KVM_PRE_FAULT_MEMORY decides once which memory it wants. */
TEST_F_TIMEOUT(private_race, private_prefault_to_shared, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_private, job_prefault, set_shared,
		check_prefault_became_shared,
	});
}

TEST_F_TIMEOUT(private_race, shared_prefault_to_private, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_shared, job_prefault, set_private,
		check_prefault_became_private,
	});
}

static void punch_page(size_t page)
{
	punch_hole(page, 1);
}

static void check_punched(size_t page)
{
	TEST_ASSERT_EQ(job.err, 0);
	assert_result(0, page, 0);
	assert_unreferenced(page, "after the race");
	host_reads(page, shared_value(page));
	guest_writes(1, page, private_value(page));
	guest_reads(0, page, private_value(page));
}

TEST_F_TIMEOUT(private_race, private_fault_punch_hole, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_private_used, job_read, punch_page, check_punched,
	});
}

static void check_poisoned(size_t page)
{
	TEST_ASSERT_EQ(job.err, EHWPOISON);
	assert_memory_fault(0, page, FLAG_PRIVATE);
	punch_hole(page, 1);
	guest_reads(0, page, 0);
}

TEST_F_TIMEOUT(private_race, private_fault_poison, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_private_used, job_read, poison, check_poisoned,
	});
}

static void prepare_file(size_t page)
{
	if (t.gmem >= 0)
		close_gmem();
	create_gmem();
	replace_slot(KVM_MEM_GUEST_MEMFD);
	prepare_private_used(page);
}

static void close_file(size_t page)
{
	close_gmem();
}

static void check_closed(size_t page)
{
	TEST_ASSERT_EQ(job.err, EFAULT);
	assert_memory_fault(0, page, FLAG_PRIVATE);
}

TEST_F_TIMEOUT(private_race, private_fault_close, TEST_SECONDS)
{
	race_lookup(&(struct race) {
		prepare_file, job_read, close_file, check_closed,
	});
}

/* A lookup that waits for memory. */
static void uffd_race(int (*fn)(size_t page), void (*check)(size_t page))
{
	size_t page;

	set_job(fn, -1);
	for (page = 0; page < RACE_HITS; page++) {
		start_access(&job.thread, page);
		TEST_ASSERT_EQ(uffd_wait(), page);
		set_private(page);
		uffd_supply(page);
		finish_access(&job.thread);
		check(page);
	}
	close(uffd);
}

TEST_F_TIMEOUT(private_mem, race_shared_fault_waits, TEST_SECONDS)
{
	if (!set_up_uffd())
		SKIP(return, "userfaultfd: %s", strerror(errno));
	uffd_race(job_xchg, check_became_private);
}

TEST_F_TIMEOUT(private_mem, race_shared_prefault_waits, TEST_SECONDS)
{
	if (!set_up_uffd())
		SKIP(return, "userfaultfd: %s", strerror(errno));
	uffd_race(job_prefault, check_prefault_became_private);
}

#define STRESS_SECONDS		8
#define STRESS_MIN_ROUNDS	50
#define STRESS_PAGE		5

/*
 * One vCPU exchanges the contents of a page with values that are unique: what
 * it gets tells in which of the two memories that was.
 */
static struct {
	pthread_mutex_t lock;
	u64 contents[2];	/* of the shared and of the private memory */
	u64 generation;
	bool stable;		/* nothing has changed in this generation */
	bool private;
	u64 verified;
	bool stop;
} stress = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void stress_xchg(u64 val)
{
	u64 generation, old, flags;
	bool stable, private;
	int err;

	pthread_mutex_lock(&stress.lock);
	generation = stress.generation;
	stable = stress.stable;
	pthread_mutex_unlock(&stress.lock);

	/* KVM may look at the attribute twice, before and after it changes. */
	err = guest_do(0, OP_XCHG, STRESS_PAGE, val);
	while (err == EFAULT) {
		TEST_ASSERT(!stable || generation != READ_ONCE(stress.generation),
			    "Nothing has changed");
		flags = t.vcpus[0]->run->memory_fault.flags;
		assert_memory_fault(0, STRESS_PAGE, flags & FLAG_PRIVATE);
		err = resume(0);
	}
	TEST_ASSERT_EQ(err, 0);
	old = t.result[0];

	pthread_mutex_lock(&stress.lock);
	private = old == stress.contents[true];
	TEST_ASSERT(private || old == stress.contents[false],
		    "Guest reads 0x%lx, but shared is 0x%lx and private 0x%lx",
		    old, stress.contents[false], stress.contents[true]);
	if (stable && generation == stress.generation) {
		TEST_ASSERT(private == stress.private,
			    "Guest uses %s memory", private ? "private" : "shared");
		stress.verified++;
	}
	stress.contents[private] = val;
	host_reads(STRESS_PAGE, stress.contents[false]);
	pthread_mutex_unlock(&stress.lock);
}

static void *stress_vcpu(void *arg)
{
	u64 val = private_value(0);

	while (!READ_ONCE(stress.stop))
		stress_xchg(++val);
	return NULL;
}

static void stress_change(bool stable, bool private)
{
	pthread_mutex_lock(&stress.lock);
	stress.generation++;
	stress.stable = stable;
	stress.private = private;
	stress.verified = 0;
	pthread_mutex_unlock(&stress.lock);
}

static void stress_convert(bool private)
{
	stress_change(false, private);
	if (private)
		set_private(STRESS_PAGE);
	else
		set_shared(STRESS_PAGE);
	stress_change(true, private);
}

/* An access that began in this generation is over, so is each older one. */
static void stress_wait(void)
{
	u64 verified;

	do {
		usleep(50);
		pthread_mutex_lock(&stress.lock);
		verified = stress.verified;
		pthread_mutex_unlock(&stress.lock);
	} while (!verified);
}

static void stress_punch_hole(void)
{
	pthread_mutex_lock(&stress.lock);
	punch_hole(STRESS_PAGE, 1);
	stress.contents[true] = 0;
	pthread_mutex_unlock(&stress.lock);
}

TEST_F_TIMEOUT(private_mem, stress_conversions, TEST_SECONDS)
{
	struct timespec begin, now;
	pthread_t thread;
	int round;

	host_writes(STRESS_PAGE, shared_value(STRESS_PAGE));
	stress.contents[false] = shared_value(STRESS_PAGE);
	stress.stable = true;
	TEST_ASSERT(!pthread_create(&thread, NULL, stress_vcpu, NULL),
		    "pthread_create() failed");

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (round = 0;; round++) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (round >= STRESS_MIN_ROUNDS &&
		    now.tv_sec - begin.tv_sec >= STRESS_SECONDS)
			break;

		stress_convert(true);
		if (round & 1)
			stress_wait();
		stress_convert(false);
		if (round & 2)
			stress_wait();
		if ((round & 7) == 7)
			stress_punch_hole();
	}
	stress_wait();
	WRITE_ONCE(stress.stop, true);
	pthread_join(thread, NULL);
	TH_LOG("%d rounds", round);

	set_private(STRESS_PAGE);
	guest_reads(0, STRESS_PAGE, stress.contents[true]);
	if (t.module >= 0)
		assert_unreferenced(STRESS_PAGE, "after the stress");
}

/*
 * ---------------------------------------------------------------------------
 * Accesses of KVM itself
 * ---------------------------------------------------------------------------
 */

#define XEN_PAGE	7
#define XEN_PORT	15

/* In struct shared_info of a 64-bit guest, in units of 64 bits. */
#define XEN_EVTCHN_PENDING	(0x800 / 8)
#define XEN_EVTCHN_MASK		(0xa00 / 8)
#define XEN_WALL_CLOCK		(0xc00 / 8)

static bool has_xen(void)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	};

	if (!(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_EVTCHN_SEND))
		return false;

	vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr);
	return true;
}

/* Return 0 or an errno. */
static int set_xen_page(u64 gfn)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = gfn,
	};

	return __vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr) ? errno : 0;
}

static int job_set_xen_page(size_t page)
{
	return set_xen_page(gpa(page) / PAGE_SIZE);
}

/* KVM sets a bit in the page, and does no more: the event is masked. */
static int send_xen_event(void)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = XEN_PORT,
		.vcpu = t.vcpus[0]->id,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	return __vm_ioctl(t.vm, KVM_XEN_HVM_EVTCHN_SEND, &event) ? errno : 0;
}

static void assert_xen_works(size_t page)
{
	u64 *shinfo = shared_hva(page);

	memset(shinfo, 0, PAGE_SIZE);
	shinfo[XEN_EVTCHN_MASK] = BIT(XEN_PORT);
	TEST_ASSERT_EQ(send_xen_event(), 0);
	TEST_ASSERT_EQ(shinfo[XEN_EVTCHN_PENDING], BIT(XEN_PORT));
}

static void assert_xen_refused(size_t page)
{
	TEST_ASSERT_EQ(send_xen_event(), EFAULT);
	TEST_ASSERT_EQ(send_xen_event(), EFAULT);
	assert_filled(page, "by an event");
	guest_reads(0, page, 0);
}

TEST_F_TIMEOUT(private_mem, xen_page_of_private_gfn, TEST_SECONDS)
{
	if (!has_xen())
		SKIP(return, "KVM cannot send Xen events");

	host_fills(XEN_PAGE);
	set_private(XEN_PAGE);
	TEST_ASSERT_EQ(job_set_xen_page(XEN_PAGE), EFAULT);
	assert_filled(XEN_PAGE, "by KVM_XEN_HVM_SET_ATTR");
	assert_xen_refused(XEN_PAGE);

	set_shared(XEN_PAGE);
	TEST_ASSERT_EQ(job_set_xen_page(XEN_PAGE), 0);
	TEST_ASSERT(shared_hva(XEN_PAGE)[XEN_WALL_CLOCK] != 0x5a5a5a5a5a5a5a5aul,
		    "The wall clock is not set");
	assert_xen_works(XEN_PAGE);
}

TEST_F_TIMEOUT(private_mem, xen_page_converted, TEST_SECONDS)
{
	int i;

	if (!has_xen())
		SKIP(return, "KVM cannot send Xen events");

	TEST_ASSERT_EQ(job_set_xen_page(XEN_PAGE), 0);
	for (i = 0; i < 3; i++) {
		assert_xen_works(XEN_PAGE);
		host_fills(XEN_PAGE);
		set_private(XEN_PAGE);
		assert_xen_refused(XEN_PAGE);
		set_shared(XEN_PAGE);
	}
	assert_xen_works(XEN_PAGE);

	/* Conversions of other pages do not matter. */
	set_private(XEN_PAGE - 1);
	set_private(XEN_PAGE + 1);
	assert_xen_works(XEN_PAGE);
}

/* Another gfn of the same host virtual address. */
TEST_F_TIMEOUT(private_mem, xen_page_of_alias, TEST_SECONDS)
{
	const u64 alias = MEM_GPA + SZ_1G;
	int gmem;

	if (!has_xen())
		SKIP(return, "KVM cannot send Xen events");

	gmem = vm_create_guest_memfd(t.vm, PAGE_SIZE, 0);
	vm_set_user_memory_region2(t.vm, MEM_SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   alias, PAGE_SIZE, shared_hva(XEN_PAGE), gmem,
				   0);
	vm_mem_set_private(t.vm, alias, PAGE_SIZE);

	TEST_ASSERT_EQ(set_xen_page(gpa(XEN_PAGE) / PAGE_SIZE), 0);
	assert_xen_works(XEN_PAGE);
	host_fills(XEN_PAGE);
	TEST_ASSERT_EQ(set_xen_page(alias / PAGE_SIZE), EFAULT);
	TEST_ASSERT_EQ(send_xen_event(), EFAULT);
	assert_filled(XEN_PAGE, "for another gfn");

	vm_mem_set_shared(t.vm, alias, PAGE_SIZE);
	assert_xen_works(XEN_PAGE);
	close(gmem);
}

/* A host virtual address is shared memory, whatever gfn may be there, too. */
TEST_F_TIMEOUT(private_mem, xen_page_by_hva, TEST_SECONDS)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
		.u.shared_info.hva = (uintptr_t)shared_hva(XEN_PAGE),
	};

	if (!has_xen() || !(kvm_check_cap(KVM_CAP_XEN_HVM) &
			    KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM cannot send Xen events to a page by its hva");

	vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr);
	assert_xen_works(XEN_PAGE);
	set_private(XEN_PAGE);
	assert_xen_works(XEN_PAGE);

	TEST_ASSERT_EQ(set_xen_page(KVM_XEN_INVALID_GFN), 0);
	vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr);
	assert_xen_works(XEN_PAGE);
	guest_reads(0, XEN_PAGE, 0);
}

static void prepare_xen(size_t page)
{
	TEST_ASSERT_EQ(set_xen_page(KVM_XEN_INVALID_GFN), 0);
}

static void convert_xen(size_t page)
{
	set_private(page);
	host_fills(page);
}

static void check_xen(size_t page)
{
	TEST_ASSERT_EQ(job.err, EFAULT);
	assert_filled(page, "after the conversion");
	assert_xen_refused(page);
}

TEST_F_TIMEOUT(private_race, xen_page, TEST_SECONDS)
{
	if (!has_xen())
		SKIP(return, "KVM cannot send Xen events");

	race_lookup(&(struct race) {
		prepare_xen, job_set_xen_page, convert_xen, check_xen,
	});
}

#define CLOCK_PAGE	9

/* Have KVM write the clock page before it enters the guest. */
static void update_clock(void)
{
	struct kvm_clock_data data = { };

	vm_ioctl(t.vm, KVM_SET_CLOCK, &data);
	guest_reads(0, CLOCK_PAGE + 1, 0);
}

static void assert_clock_works(void)
{
	struct pvclock_vcpu_time_info *clock = (void *)shared_hva(CLOCK_PAGE);
	u32 version = 0;
	int i;

	memset(clock, 0, PAGE_SIZE);
	for (i = 0; i < 3; i++) {
		update_clock();
		TEST_ASSERT(clock->version > version && !(clock->version & 1),
			    "Clock version %u after %u", clock->version, version);
		version = clock->version;
	}
}

static void assert_clock_refused(void)
{
	host_fills(CLOCK_PAGE);
	update_clock();
	update_clock();
	assert_filled(CLOCK_PAGE, "by the clock");
	guest_reads(0, CLOCK_PAGE, 0);
}

static void set_clock_page(void)
{
	set_cmd(0, OP_WRMSR, gpa(CLOCK_PAGE) | KVM_MSR_ENABLED,
		MSR_KVM_SYSTEM_TIME_NEW);
	TEST_ASSERT_EQ(resume(0), 0);
}

TEST_F_TIMEOUT(private_mem, clock_page_of_private_gfn, TEST_SECONDS)
{
	set_private(CLOCK_PAGE);
	host_fills(CLOCK_PAGE);
	set_clock_page();
	assert_filled(CLOCK_PAGE, "when the page is set");
	assert_clock_refused();

	set_shared(CLOCK_PAGE);
	set_clock_page();
	assert_clock_works();
}

TEST_F_TIMEOUT(private_mem, clock_page_converted, TEST_SECONDS)
{
	int i;

	set_clock_page();
	for (i = 0; i < 3; i++) {
		assert_clock_works();
		set_private(CLOCK_PAGE);
		assert_clock_refused();
		set_shared(CLOCK_PAGE);
	}
	assert_clock_works();
}

#define VMCB_PAGE	11

static struct vmcb *set_up_svm(void)
{
	struct svm_test_data *svm;
	vm_vaddr_t svm_gva;

	svm = vcpu_alloc_svm(t.vm, &svm_gva);
	svm->vmcb = (void *)gpa(VMCB_PAGE);
	svm->vmcb_gpa = gpa(VMCB_PAGE);
	set_cmd(0, OP_SVM_SETUP, svm_gva, 0);
	TEST_ASSERT_EQ(resume(0), 0);

	return (void *)shared_hva(VMCB_PAGE);
}

static void assert_svm(enum guest_op op, u64 vector)
{
	TEST_ASSERT_EQ(guest_do(0, op, VMCB_PAGE, 0), 0);
	TEST_ASSERT(t.result[0] == vector, "Operation %u: exception %lu", op,
		    t.result[0]);
}

static void assert_vmcb_unchanged(struct vmcb *vmcb, struct vmcb *copy)
{
	TEST_ASSERT(!memcmp(vmcb, copy, sizeof(*copy)),
		    "The host's page is written by SVM instructions");
}

/* The control block of a nested guest is read and written by KVM. */
TEST_F_TIMEOUT(private_mem, vmcb12_of_private_gfn, TEST_SECONDS)
{
	struct vmcb *vmcb, copy;
	int i;

	if (!kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no SVM");

	vmcb = set_up_svm();
	for (i = 0; i < 3; i++) {
		vmcb->control.exit_code = 0;
		assert_svm(OP_VMRUN, 0);
		TEST_ASSERT_EQ(vmcb->control.exit_code, SVM_EXIT_VMMCALL);

		copy = *vmcb;
		set_private(VMCB_PAGE);
		assert_svm(OP_VMRUN, GP_VECTOR);
		/* The CPU may do these without KVM. */
		if (!get_kvm_amd_param_integer("vls")) {
			assert_svm(OP_VMLOAD, GP_VECTOR);
			assert_svm(OP_VMSAVE, GP_VECTOR);
		}
		assert_vmcb_unchanged(vmcb, &copy);
		guest_reads(0, VMCB_PAGE, 0);
		set_shared(VMCB_PAGE);
	}
}

int main(int argc, char *argv[])
{
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) &
		       BIT(KVM_X86_SW_PROTECTED_VM),
		       "no KVM_X86_SW_PROTECTED_VM, which needs CONFIG_KVM_SW_PROTECTED_VM and the TDP MMU");

	return test_harness_run(argc, argv);
}
