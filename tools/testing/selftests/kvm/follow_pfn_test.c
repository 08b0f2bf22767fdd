// SPDX-License-Identifier: GPL-2.0-only
/*
 * Map every kind of memory that a memslot can point to, and verify what the
 * guest, the host and the pages' reference counts see of it.
 *
 * Each test runs in a process and a VM of its own.  Memory that userspace cannot
 * come by comes from the module test_kvm_memory (CONFIG_KVM_TEST_MEMORY).
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/compiler.h>
#ifdef __x86_64__
#include <linux/loop.h>
#endif
#include <linux/userfaultfd.h>

#include "absent_memory.h"
#ifdef __x86_64__
#include "apic.h"
#endif
#include "host_memory.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_memory.h"
#include "test_util.h"
#include "ucall_common.h"

#define MEM_GPA			0x40000000ul
#define MEM_SLOT		10
#define NR_VCPUS		2
#define MAX_PAGES		1024
#define MMIO_VALUE		0x3310331033103310ul

/* Generous, an emulated machine may be slow. */
#define ROW_TIMEOUT_SECONDS	240

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif

/* What the guest does between two exits. */
enum guest_op {
	OP_READ,
	OP_POLL,
	OP_WRITE,
	OP_STRESS,
	OP_UNEMULATABLE_WRITE,
	OP_READ_INTERRUPTIBLE,
	OP_ENABLE_ASYNC_PF,
	OP_READ_BY_TASKS,
	OP_EXEC,
};

struct guest_cmd {
	u64 op;
	u64 gva;
	u64 len;
	u64 val;
};

static struct guest_cmd cmds[NR_VCPUS];

/* How an access of the guest ended. */
enum outcome {
	DONE,
	FAULT,
	MMIO,
	POISON,
	INTERNAL_ERROR,
	NOT_SUPPORTED,
	NOT_IMPLEMENTED,
	NO_SYNDROME,
};

static const char * const outcome_names[] = {
	[DONE]			= "-",
	[FAULT]			= "-EFAULT",
	[MMIO]			= "KVM_EXIT_MMIO",
	[POISON]		= "SIGBUS",
	[INTERNAL_ERROR]	= "KVM_EXIT_INTERNAL_ERROR",
	[NOT_SUPPORTED]		= "-EOPNOTSUPP",
	[NOT_IMPLEMENTED]	= "-ENOSYS",
	[NO_SYNDROME]		= "KVM_EXIT_ARM_NISV",
};

/* The state of the running test. */
static struct {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	u64 result[NR_VCPUS];

	/* The memory as the memslot maps it, and another view of it. */
	void *hva;
	void *view;
	size_t size;
	size_t page_size;
	int prot;
	u32 slot_flags;
	u32 vm_type;
	u32 vm_cap;

	/* The guest's private memory, which nobody else sees, or -1. */
	int guest_memfd;

	/* So much of the memory is poisoned, from its start. */
	size_t poisoned;

	/*
	 * The page that is shown in the table, what is at its start, and whether
	 * the guest first writes it.
	 */
	size_t page;
	u64 seed;
	bool write_first;

	/* The region of the test module, or -1, and its state when created. */
	int fd;
	u32 nr_pages;
	bool refcounted;
	struct tkm_page initial[MAX_PAGES];
	s32 extra_refs[MAX_PAGES];
} t;

/* What a test tells its parent. */
static struct report {
	/* These are constants, at the same address in parent and child. */
	const char *read;
	const char *write;
	const char *exit;
	u64 gfn;
} *report;

/*
 * ---------------------------------------------------------------------------
 * Guest
 * ---------------------------------------------------------------------------
 */

static u64 guest_load(u64 gva, u64 len)
{
	switch (len) {
	case 1:
		return READ_ONCE(*(u8 *)gva);
	case 2:
		return READ_ONCE(*(u16 *)gva);
	case 4:
		return READ_ONCE(*(u32 *)gva);
	default:
		return READ_ONCE(*(u64 *)gva);
	}
}

static void guest_store(u64 gva, u64 len, u64 val)
{
	switch (len) {
	case 1:
		WRITE_ONCE(*(u8 *)gva, val);
		break;
	case 2:
		WRITE_ONCE(*(u16 *)gva, val);
		break;
	case 4:
		WRITE_ONCE(*(u32 *)gva, val);
		break;
	default:
		WRITE_ONCE(*(u64 *)gva, val);
		break;
	}
}

/* Write a value to each page of @len bytes, and read all of them back. */
static void guest_stress(u64 gva, u64 len, u64 val)
{
	u64 off;

	for (off = 0; off < len; off += MIN_PAGE_SIZE)
		guest_store(gva + off, 8, val + off);

	for (off = 0; off < len; off += MIN_PAGE_SIZE)
		GUEST_ASSERT_EQ(guest_load(gva + off, 8), val + off);
}

#ifdef __x86_64__
#define ASYNC_PF_VECTOR		0x40
/* What the guest says while a page is fetched for it. */
#define ASYNC_PF_WAITS		0xa51c0000ul

/* How KVM talks to the guest of vCPU 0, and what it said. */
static struct {
	struct kvm_vcpu_pv_apf_data data;
	u32 ready_token;
	u64 nr_not_present;
	u64 nr_ready;
} async_pf __aligned(64);

#define NR_TASKS		3

/* Tasks of the guest, each of which reads a page; @rip is zero without any. */
static struct {
	u64 rip;
	u32 current;
	u64 token[NR_TASKS];
	bool done[NR_TASKS];
} tasks;

/*
 * Let the host go on while the page is not there, then wait for it.  A task waits
 * while others run.
 */
static void guest_page_not_present(struct ex_regs *regs)
{
	u32 flags = READ_ONCE(async_pf.data.flags);
	u64 token;

	asm volatile("mov %%cr2, %0" : "=r"(token));
	__GUEST_ASSERT(flags == KVM_PV_REASON_PAGE_NOT_PRESENT,
		       "#PF at 0x%lx with flags 0x%x", token, flags);
	WRITE_ONCE(async_pf.data.flags, 0);
	WRITE_ONCE(async_pf.nr_not_present, async_pf.nr_not_present + 1);

	if (tasks.rip) {
		WRITE_ONCE(tasks.token[tasks.current], token);
		regs->rip = tasks.rip;
		return;
	}

	ucall(UCALL_SYNC, 1, ASYNC_PF_WAITS);

	/*
	 * Do not halt: when QEMU 7.2 emulates SVM, an exit between STI and HLT
	 * makes it forget that interrupts have to wait for HLT.
	 */
	while (READ_ONCE(async_pf.ready_token) != token)
		asm volatile("sti; pause; cli" ::: "memory");
}

static void guest_page_ready(struct ex_regs *regs)
{
	u32 token = READ_ONCE(async_pf.data.token);
	int i;

	for (i = 0; i < NR_TASKS; i++)
		if (READ_ONCE(tasks.token[i]) == token)
			WRITE_ONCE(tasks.token[i], 0);

	/* An event for all tokens follows when the guest asks for events. */
	if (token != -1u) {
		WRITE_ONCE(async_pf.ready_token, token);
		WRITE_ONCE(async_pf.nr_ready, async_pf.nr_ready + 1);
	}
	WRITE_ONCE(async_pf.data.token, 0);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
	x2apic_write_reg(APIC_EOI, 0);
}

static void guest_read_as_task(u64 gva, u32 id)
{
	bool done = false;

	WRITE_ONCE(tasks.current, id);
	/* guest_page_not_present() goes to the end. */
	asm volatile("lea 1f(%%rip), %%rax\n\t"
		     "mov %%rax, %[rip]\n\t"
		     "mov (%[gva]), %%rax\n\t"
		     "movb $1, %[done]\n\t"
		     "1:"
		     : [rip] "+m"(tasks.rip), [done] "+m"(done)
		     : [gva] "r"(gva)
		     : "rax", "memory");
	tasks.done[id] = done;
}

/*
 * Have each task read its page until all have succeeded.  When a task goes on,
 * each of the others has been told that its own page is ready, too.
 */
static void guest_read_by_tasks(u64 gva)
{
	int i, nr_done;

	asm volatile("sti");
	do {
		nr_done = 0;
		for (i = 0; i < NR_TASKS; i++) {
			guest_read_as_task(gva + i * MIN_PAGE_SIZE, i);
			while (READ_ONCE(tasks.token[i]))
				asm volatile("pause");
			nr_done += tasks.done[i];
		}
	} while (nr_done != NR_TASKS);
	asm volatile("cli");
	tasks.rip = 0;
}

static void guest_enable_async_pf(u64 gpa)
{
	x2apic_enable();
	wrmsr(MSR_KVM_ASYNC_PF_INT, ASYNC_PF_VECTOR);
	wrmsr(MSR_KVM_ASYNC_PF_EN, gpa | KVM_ASYNC_PF_ENABLED |
				   KVM_ASYNC_PF_SEND_ALWAYS |
				   KVM_ASYNC_PF_DELIVERY_AS_INT);
}
#endif

#ifdef __aarch64__
#define INSN_RET		0xd65f03c0u

static u64 guest_exec_aborts;

/* Return to where the function was called. */
static void guest_exec_abort(struct ex_regs *regs)
{
	guest_exec_aborts++;
	regs->pc = regs->regs[30];
}

/* Call a function, return how often it could not be fetched. */
static u64 guest_exec(u64 gva)
{
	u64 aborts = READ_ONCE(guest_exec_aborts);

	((void (*)(void))gva)();
	return READ_ONCE(guest_exec_aborts) - aborts;
}
#endif

static void guest_code(u64 id)
{
	struct guest_cmd *cmd = &cmds[id];

	for (;;) {
		u64 gva = READ_ONCE(cmd->gva);
		u64 len = READ_ONCE(cmd->len);
		u64 val = READ_ONCE(cmd->val);

		switch (READ_ONCE(cmd->op)) {
		case OP_READ:
			val = guest_load(gva, len);
			break;
		case OP_POLL:
			while (val--)
				guest_load(gva, len);
			val = guest_load(gva, len);
			break;
		case OP_WRITE:
			guest_store(gva, len, val);
			break;
		case OP_STRESS:
			guest_stress(gva, len, val);
			break;
#ifdef __x86_64__
		case OP_UNEMULATABLE_WRITE:
			/* KVM emulates no x87 loads and stores. */
			asm volatile("fninit; fld1; fsts (%0)"
				     :: "r"(gva) : "memory");
			break;
		case OP_READ_INTERRUPTIBLE:
			asm volatile("sti; nop");
			val = guest_load(gva, len);
			asm volatile("cli");
			break;
		case OP_ENABLE_ASYNC_PF:
			guest_enable_async_pf(val);
			break;
		case OP_READ_BY_TASKS:
			guest_read_by_tasks(gva);
			break;
#endif
#ifdef __aarch64__
		case OP_UNEMULATABLE_WRITE:
			/* Of a store of two registers the CPU tells too little. */
			asm volatile("stp %0, %0, [%1]"
				     :: "r"(val), "r"(gva) : "memory");
			break;
		case OP_EXEC:
			val = guest_exec(gva);
			break;
#endif
#ifdef __riscv
		case OP_UNEMULATABLE_WRITE:
			/* KVM emulates no atomic memory operations. */
			asm volatile("amoswap.d zero, %1, (%0)"
				     :: "r"(gva), "r"(val) : "memory");
			break;
#endif
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

/* Accessed with READ_ONCE() and WRITE_ONCE(), the handler comes unannounced. */
static __thread bool expect_sigbus;
static __thread int sigbus_code;
static __thread void *sigbus_addr;

static void sigbus_handler(int sig, siginfo_t *info, void *ucontext)
{
	static const char msg[] = "# Unexpected SIGBUS\n";

	if (!READ_ONCE(expect_sigbus)) {
		if (write(STDOUT_FILENO, msg, sizeof(msg) - 1) < 0)
			_exit(254);
		_exit(254);
	}

	WRITE_ONCE(sigbus_addr, info->si_addr);
	WRITE_ONCE(sigbus_code, info->si_code);
}

/* Run a vCPU until its current operation is done, or cannot be done. */
static enum outcome resume(int id)
{
	struct kvm_vcpu *vcpu = t.vcpus[id];
	struct ucall uc;
	int ret, err;

	for (;;) {
		WRITE_ONCE(sigbus_code, 0);
		WRITE_ONCE(expect_sigbus, true);
		ret = __vcpu_run(vcpu);
		err = errno;
		WRITE_ONCE(expect_sigbus, false);

		if (READ_ONCE(sigbus_code))
			return POISON;
		if (ret == -1 && err == EINTR)
			continue;
		if (ret == -1 && err == EFAULT)
			return FAULT;
		if (ret == -1 && err == EOPNOTSUPP)
			return NOT_SUPPORTED;
		if (ret == -1 && err == ENOSYS)
			return NOT_IMPLEMENTED;
		TEST_ASSERT(!ret, "KVM_RUN failed: %s", strerror(err));

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			t.result[id] = uc.args[0];
			return DONE;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
		case UCALL_NONE:
			break;
		default:
			assert_on_unhandled_exception(vcpu);
			TEST_FAIL("Unexpected ucall %lu", uc.cmd);
		}

		if (vcpu->run->exit_reason == KVM_EXIT_MMIO)
			return MMIO;
		if (vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
			return INTERNAL_ERROR;
		if (vcpu->run->exit_reason == KVM_EXIT_ARM_NISV)
			return NO_SYNDROME;
		TEST_FAIL("Unexpected exit %u (%s)", vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static void set_cmd(int id, enum guest_op op, size_t off, size_t len, u64 val)
{
	struct guest_cmd *cmd = addr_gva2hva(t.vm, (vm_vaddr_t)&cmds[id]);

	*cmd = (struct guest_cmd) {
		.op = op,
		.gva = MEM_GPA + off,
		.len = len,
		.val = val,
	};
}

static enum outcome guest_do(int id, enum guest_op op, size_t off, size_t len,
			     u64 val)
{
	set_cmd(id, op, off, len, val);
	return resume(id);
}

static const char *outcome_str(enum outcome outcome)
{
	return outcome == DONE ? "success" : outcome_names[outcome];
}

static void assert_outcome(enum outcome outcome, enum outcome expected,
			   const char *what, unsigned int line)
{
	test_assert(outcome == expected, what, __FILE__, line,
		    "%s instead of %s", outcome_str(outcome),
		    outcome_str(expected));
}

#define ASSERT_OUTCOME(expr, expected)					\
	assert_outcome(expr, expected, #expr, __LINE__)

/* An entry in the host's page table that the guest's access caused. */
static void note_guest_mapping(size_t off)
{
	if (t.refcounted)
		t.extra_refs[off / t.page_size] = 1;
}

static void assert_result(int id, size_t off, u64 expected)
{
	TEST_ASSERT(t.result[id] == expected,
		    "Guest reads 0x%lx instead of 0x%lx at offset 0x%lx",
		    t.result[id], expected, off);
}

static void vcpu_reads(int id, size_t off, u64 expected)
{
	ASSERT_OUTCOME(guest_do(id, OP_READ, off, 8, 0), DONE);
	assert_result(id, off, expected);
	note_guest_mapping(off);
}

static void guest_reads(size_t off, u64 expected)
{
	vcpu_reads(0, off, expected);
}

static void guest_writes(size_t off, u64 val)
{
	ASSERT_OUTCOME(guest_do(0, OP_WRITE, off, 8, val), DONE);
	note_guest_mapping(off);
}

static void assert_mmio_write(int id, size_t off, size_t len, u64 val)
{
	struct kvm_run *run = t.vcpus[id]->run;
	u64 data = 0;

	TEST_ASSERT(run->mmio.is_write, "MMIO read instead of write");
	TEST_ASSERT_EQ(run->mmio.phys_addr, MEM_GPA + off);
	TEST_ASSERT_EQ(run->mmio.len, len);
	memcpy(&data, run->mmio.data, len);
	TEST_ASSERT_EQ(data, len == 8 ? val : val & ((1ul << len * 8) - 1));
}

/* A write that userspace has to carry out, or to ignore. */
static void vcpu_writes_mmio(int id, size_t off, size_t len, u64 val)
{
	ASSERT_OUTCOME(guest_do(id, OP_WRITE, off, len, val), MMIO);
	assert_mmio_write(id, off, len, val);
	ASSERT_OUTCOME(resume(id), DONE);
}

/* Complete a read of 8 bytes, which is the pending exit. */
static enum outcome answer_mmio_read(int id, size_t off, u64 val)
{
	struct kvm_run *run = t.vcpus[id]->run;

	TEST_ASSERT(!run->mmio.is_write, "MMIO write instead of read");
	TEST_ASSERT_EQ(run->mmio.phys_addr, MEM_GPA + off);
	TEST_ASSERT_EQ(run->mmio.len, 8);
	memcpy(run->mmio.data, &val, sizeof(val));
	return resume(id);
}

/* A read that userspace answers with @val. */
static void vcpu_reads_mmio(int id, size_t off, u64 val)
{
	ASSERT_OUTCOME(guest_do(id, OP_READ, off, 8, 0), MMIO);
	ASSERT_OUTCOME(answer_mmio_read(id, off, val), DONE);
	assert_result(id, off, val);
}

/*
 * ---------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------
 */

/* Whatever was at @off of the slot is replaced by fresh anonymous memory. */
static void replace(size_t off, size_t size, u64 val)
{
	void *mem = mmap(t.hva + off, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	TEST_ASSERT(mem == t.hva + off, "mmap() failed");
	WRITE_ONCE(*(u64 *)mem, val);
}

static void replace_page(size_t off, u64 val)
{
	replace(off, t.page_size, val);
}

/* For what the module can do without a region. */
static int lookup_fd = -1;

static void open_lookup(void)
{
	lookup_fd = open_module();
}

static void get_counts(struct tkm_page *pages)
{
	tkm_get_counts(t.fd, t.nr_pages, pages);
}

/* Verify that nobody holds a reference that the page tables do not explain. */
static void assert_counts(const char *when)
{
	struct tkm_page pages[MAX_PAGES];
	u32 i;

	if (t.fd < 0)
		return;

	get_counts(pages);
	for (i = 0; i < t.nr_pages; i++)
		TEST_ASSERT(pages[i].refcount ==
			    t.initial[i].refcount + t.extra_refs[i],
			    "%s: page %u has %d references instead of %d", when,
			    i, pages[i].refcount,
			    t.initial[i].refcount + t.extra_refs[i]);
}

/* The host writes through the kernel if it can, which populates no mapping. */
static void host_writes(size_t off, u64 val)
{
	if (t.fd < 0) {
		WRITE_ONCE(*(u64 *)(t.view + off), val);
		return;
	}

	TEST_ASSERT(pwrite(t.fd, &val, 8, off) == 8, "pwrite() failed");
}

static void host_reads(size_t off, u64 expected)
{
	u64 val;

	if (t.view) {
		val = READ_ONCE(*(u64 *)(t.view + off));
		TEST_ASSERT(val == expected,
			    "Host reads 0x%lx instead of 0x%lx at offset 0x%lx",
			    val, expected, off);
	}

	if (t.fd < 0)
		return;

	TEST_ASSERT(pread(t.fd, &val, 8, off) == 8, "pread() failed");
	TEST_ASSERT(val == expected,
		    "Host kernel reads 0x%lx instead of 0x%lx at offset 0x%lx",
		    val, expected, off);
}

/* Make the host drop its page table entries, and KVM with it, not the data. */
static void zap(void)
{
	if (t.fd >= 0) {
		tkm_zap(t.fd, t.nr_pages);
		memset(t.extra_refs, 0, sizeof(t.extra_refs));
		return;
	}

	TEST_ASSERT(!mprotect(t.hva, t.size, PROT_NONE) &&
		    !mprotect(t.hva, t.size, t.prot), "mprotect() failed");
}

static void create_region(u32 kind, u32 flags, u32 nr_pages,
			  u32 order)
{
	TEST_ASSERT(nr_pages <= MAX_PAGES, "%u pages are too many", nr_pages);

	t.fd = open_region(kind, flags, nr_pages, order);
	t.nr_pages = nr_pages;
	t.refcounted = kind == TKM_MIXEDMAP_NORMAL;
	t.size = nr_pages * t.page_size;
	get_counts(t.initial);
}

static void map_region(int prot)
{
	t.prot = prot;
	t.hva = map_aligned(t.size, prot, MAP_SHARED, t.fd);
}

static void setup_region(u32 kind, u32 flags, u32 nr_pages,
			 u32 order)
{
	create_region(kind, flags, nr_pages, order);
	map_region(PROT_READ | PROT_WRITE);
	/* A reference for each mapping makes the counts hard to predict. */
	if (!t.refcounted)
		t.view = map(t.size, PROT_READ | PROT_WRITE, MAP_SHARED, t.fd);
}

static void setup_anonymous(void)
{
	t.size = 16 * t.page_size;
	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	t.view = t.hva;
}

static int try_set_slot(u32 flags, u64 gpa, size_t size, void *hva)
{
	if (t.guest_memfd >= 0)
		return __vm_set_user_memory_region2(t.vm, MEM_SLOT,
						    flags | KVM_MEM_GUEST_MEMFD,
						    gpa, size, hva,
						    t.guest_memfd, 0);

	return __vm_set_user_memory_region(t.vm, MEM_SLOT, flags, gpa, size, hva);
}

static void set_slot(u32 flags, u64 gpa, size_t size, void *hva)
{
	TEST_ASSERT(!try_set_slot(flags, gpa, size, hva),
		    "The memslot cannot be 0x%lx bytes at 0x%lx, flags 0x%x",
		    size, gpa, flags);
}

static void remove_slot(void)
{
	set_slot(0, MEM_GPA, 0, NULL);
}

static void restore_slot(void)
{
	set_slot(t.slot_flags, MEM_GPA, t.size, t.hva);
}

/* Returns the errno of the attempt to create the memslot. */
static int try_create_vm(void)
{
	struct vm_shape shape = VM_SHAPE_DEFAULT;
	int i;

	shape.type = t.vm_type;
	t.vm = __vm_create(shape, NR_VCPUS, 0);
	if (t.vm_cap)
		vm_enable_cap(t.vm, t.vm_cap, 0);
	for (i = 0; i < NR_VCPUS; i++) {
		t.vcpus[i] = vm_vcpu_add(t.vm, i, guest_code);
		vcpu_args_set(t.vcpus[i], 1, (u64)i);
	}

	if (t.vm_type)
		t.guest_memfd = vm_create_guest_memfd(t.vm, t.size, 0);
	if (try_set_slot(t.slot_flags, MEM_GPA, t.size, t.hva))
		return errno;
	if (t.vm_type)
		vm_mem_set_private(t.vm, MEM_GPA, t.size);

	virt_map(t.vm, MEM_GPA, MEM_GPA, t.size / t.vm->page_size);
	return 0;
}

static void create_vm(void)
{
	int err = try_create_vm();

	TEST_ASSERT(!err, "The memslot was refused: %s", strerror(err));
}

static void teardown(void)
{
	if (t.vm)
		kvm_vm_free(t.vm);
	if (t.guest_memfd >= 0)
		close(t.guest_memfd);
	assert_counts("after the VM is gone");

	if (t.hva)
		munmap(t.hva, t.size);
	if (t.view && t.view != t.hva)
		munmap(t.view, t.size);
	memset(t.extra_refs, 0, sizeof(t.extra_refs));
	assert_counts("after the mappings are gone");

	if (t.fd >= 0)
		close(t.fd);
}

/*
 * ---------------------------------------------------------------------------
 * Memory that maps
 * ---------------------------------------------------------------------------
 */

static u64 host_value(size_t off, int round)
{
	return 0x1057000000000000ul + ((u64)round << 40) + off;
}

static u64 guest_value(size_t off, int round)
{
	return 0x6e57000000000000ul + ((u64)round << 40) + off;
}

/* Each side sees what the other one writes, in both orders. */
static void check_page(size_t off, int round)
{
	host_writes(off, host_value(off, round));
	guest_reads(off, host_value(off, round));
	assert_counts("after a guest read");

	guest_writes(off + 8, guest_value(off, round));
	host_reads(off + 8, guest_value(off, round));
	host_reads(off, host_value(off, round));
	assert_counts("after a guest write");

	host_writes(off, ~host_value(off, round));
	guest_reads(off, ~host_value(off, round));
}

static void check_pages(int round)
{
	size_t last = t.size - t.page_size;

	check_page(0, round);
	check_page(t.page_size, round);
	check_page(t.size / 2, round);
	check_page(last, round);
}

static void test_maps(void)
{
	size_t last = t.size - t.page_size;

	guest_reads(t.page * t.page_size, t.seed);

	check_pages(1);

	/* The bytes survive, and are found again by a read fault ... */
	zap();
	assert_counts("after a zap");
	guest_reads(last, ~host_value(last, 1));
	guest_reads(last + 8, guest_value(last, 1));
	check_pages(2);

	/* ... and by a write fault. */
	zap();
	guest_writes(last, guest_value(last, 3));
	host_reads(last, guest_value(last, 3));
	host_reads(last + 8, guest_value(last, 2));
	assert_counts("after a write fault");
}

/* Every single page, by write faults, then by read faults. */
static void test_maps_all(void)
{
	size_t off;

	test_maps();

	zap();
	for (off = 0; off < t.size; off += t.page_size)
		guest_writes(off, guest_value(off, 4));
	assert_counts("after writing all pages");
	for (off = 0; off < t.size; off += t.page_size)
		host_reads(off, guest_value(off, 4));

	zap();
	for (off = 0; off < t.size; off += t.page_size)
		guest_reads(off, guest_value(off, 4));
	assert_counts("after reading all pages");
}

/* Count the exits of a vCPU, by the statistics that KVM has for each. */
static u64 nr_exits(struct kvm_vcpu *vcpu)
{
	int fd = vcpu_get_stats_fd(vcpu);
	struct kvm_stats_header header;
	struct kvm_stats_desc *stats, *desc = NULL;
	u64 exits;
	u32 i;

	read_stats_header(fd, &header);
	stats = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(stats, i, &header);
		if (!strcmp(desc->name, "exits"))
			break;
	}
	TEST_ASSERT(i < header.num_desc, "KVM counts no exits");
	read_stat_data(fd, &header, desc, &exits, 1);
	free(stats);
	close(fd);
	return exits;
}

/* Write all of the memory, by so few faults that they must have mapped it huge. */
static void assert_mapped_huge(u64 generation)
{
	u64 exits, nr_pages = t.size / t.page_size;

#ifdef __x86_64__
	/* Shadow paging follows the page size of the guest, which is 4 KiB. */
	if (!kvm_is_tdp_enabled())
		return;
#endif
	/* With other small pages no single entry maps HUGE_SIZE. */
	if (t.page_size != MIN_PAGE_SIZE)
		return;

	zap();
	exits = nr_exits(t.vcpus[0]);
	ASSERT_OUTCOME(guest_do(0, OP_STRESS, 0, t.size,
				guest_value(0, generation)), DONE);
	exits = nr_exits(t.vcpus[0]) - exits;
	/* Less than KVM needs that maps neighbours of small pages as well. */
	TEST_ASSERT(exits < nr_pages / 10, "%lu pages took %lu exits, they are not mapped huge",
		    nr_pages, exits);
}

/* KVM of riscv maps as huge pages only those of hugetlb, and no THP. */
static void test_maps_thp(void)
{
	test_maps();
#ifndef __riscv
	assert_mapped_huge(1);
#endif
}

static void test_maps_huge(void)
{
	test_maps();
	assert_mapped_huge(1);
}

static void setup_memory(void)
{
	t.seed = host_value(t.page * t.page_size, 0);
	host_writes(t.page * t.page_size, t.seed);
}

static void row_anonymous(void)
{
	setup_anonymous();
	setup_memory();
	create_vm();
}

static void row_thp(void)
{
	t.size = 2 * HUGE_SIZE;
	t.hva = map_thp(t.size);
	t.view = t.hva;
	setup_memory();
	create_vm();
}

static void setup_hugetlb(void)
{
	t.size = HUGE_SIZE;
	t.hva = map_hugetlb();
	t.view = t.hva;
	setup_memory();
}

static void row_hugetlb(void)
{
	setup_hugetlb();
	create_vm();
}

static void row_hugetlb_part(void)
{
	setup_hugetlb();
	create_vm();
	memset(t.hva, 0x55, t.size);
}

static void assert_slot_ends_at(size_t off)
{
	vcpu_reads_mmio(0, off, MMIO_VALUE);
}

/*
 * A memslot need not start, nor end, where a huge page does, and need not keep its
 * alignment.  The guest must not see what is outside of it.
 */
static void test_hugetlb_part(void)
{
	const size_t half = HUGE_SIZE / 2, p = t.page_size, untouched = 3 * p;
	const struct {
		size_t gpa_off, hva_off, size;
	} parts[] = {
		{ 0, 0, half },
		{ half, half, half },
		{ p, p, HUGE_SIZE - 2 * p },
		{ p, 0, HUGE_SIZE - p },
		{ 0, p, HUGE_SIZE - p },
		{ 0, half, half },
	};
	size_t gpa_off, hva_off, end, i;

	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		gpa_off = parts[i].gpa_off;
		hva_off = parts[i].hva_off;
		end = gpa_off + parts[i].size;

		remove_slot();
		set_slot(0, MEM_GPA + gpa_off, parts[i].size, t.hva + hva_off);

		host_writes(hva_off, host_value(hva_off, i));
		guest_reads(gpa_off, host_value(hva_off, i));
		guest_writes(end - p, guest_value(end, i));
		host_reads(hva_off + parts[i].size - p, guest_value(end, i));

		if (gpa_off)
			assert_slot_ends_at(gpa_off - p);
		if (end < HUGE_SIZE)
			assert_slot_ends_at(end);
	}

	/* Nothing is left mapped when the memslot, or the memory, is gone. */
	remove_slot();
	set_slot(0, MEM_GPA, half, t.hva);
	guest_reads(untouched, 0x5555555555555555ul);
	remove_slot();
	assert_slot_ends_at(untouched);

	set_slot(0, MEM_GPA, half, t.hva);
	guest_reads(untouched, 0x5555555555555555ul);
	munmap(t.hva, t.size);
	t.hva = NULL;
	t.view = NULL;
	ASSERT_OUTCOME(guest_do(0, OP_READ, untouched, 8, 0), FAULT);
}

/*
 * Of two huge pages' worth of memory the guest has only the first page of the
 * second half, so that page tables end in a hole before it.
 */
static void row_sparse(void)
{
	t.size = 2 * HUGE_SIZE;
	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!madvise(t.hva, t.size, MADV_NOHUGEPAGE),
		    "MADV_NOHUGEPAGE failed");
	t.view = t.hva;
	create_vm();
}

/* All of the memory but its first page, i.e. from the midst of the hole on. */
static void set_sparse_slot(u32 flags)
{
	set_slot(flags, MEM_GPA + t.page_size, t.size - t.page_size,
		 t.hva + t.page_size);
}

static void create_sparse_slot(void)
{
	remove_slot();
	set_sparse_slot(0);
	guest_writes(HUGE_SIZE, guest_value(HUGE_SIZE, 1));
	host_reads(HUGE_SIZE, guest_value(HUGE_SIZE, 1));
}

static void test_sparse_unmap(void)
{
	guest_writes(HUGE_SIZE, guest_value(HUGE_SIZE, 1));
	host_reads(HUGE_SIZE, guest_value(HUGE_SIZE, 1));
	TEST_ASSERT(!madvise(t.hva + t.page_size, t.size - t.page_size,
			     MADV_DONTNEED), "MADV_DONTNEED failed");
	guest_reads(HUGE_SIZE, 0);
	guest_writes(HUGE_SIZE, guest_value(HUGE_SIZE, 2));
	host_reads(HUGE_SIZE, guest_value(HUGE_SIZE, 2));
}

static void test_sparse_slot(void)
{
	create_sparse_slot();
	remove_slot();
	assert_slot_ends_at(HUGE_SIZE);
}

/* Fetch the dirty log, where the page at @off in the memslot is the only one, if any. */
static void assert_dirty(size_t off, bool expected)
{
	unsigned long bitmap[2 * HUGE_SIZE / MIN_PAGE_SIZE / BITS_PER_LONG] = { };
	size_t i, nr = off / t.page_size;

	kvm_vm_get_dirty_log(t.vm, MEM_SLOT, bitmap);
	TEST_ASSERT(test_bit(nr, bitmap) == expected,
		    "The page is %sin the dirty log", expected ? "not " : "");
	for (i = 0; i < BITS_PER_LONG * ARRAY_SIZE(bitmap); i++)
		TEST_ASSERT(i == nr || !test_bit(i, bitmap),
			    "Page %lu is in the dirty log", i);
}

static void test_sparse_dirty_log(void)
{
	/* The memslot begins with the second page. */
	const size_t off = HUGE_SIZE - t.page_size;

	create_sparse_slot();
	set_sparse_slot(KVM_MEM_LOG_DIRTY_PAGES);
	assert_dirty(off, false);
	guest_writes(HUGE_SIZE, guest_value(HUGE_SIZE, 2));
	assert_dirty(off, true);
	guest_reads(HUGE_SIZE, guest_value(HUGE_SIZE, 2));
	assert_dirty(off, false);
	guest_writes(HUGE_SIZE, guest_value(HUGE_SIZE, 3));
	assert_dirty(off, true);
}

/* What is mapped huge is logged, and mapped, by small pages until logging ends. */
static void test_hugetlb_dirty_log(void)
{
	const size_t p = t.page_size;

	guest_writes(p, guest_value(p, 1));
	set_slot(KVM_MEM_LOG_DIRTY_PAGES, MEM_GPA, t.size, t.hva);
	assert_dirty(p, false);

	guest_writes(p, guest_value(p, 2));
	host_reads(p, guest_value(p, 2));
	assert_dirty(p, true);
	guest_writes(3 * p, guest_value(3 * p, 2));
	host_reads(3 * p, guest_value(3 * p, 2));
	assert_dirty(3 * p, true);
	/* x86 without the TDP MMU logs what is read, as it is mapped writable. */
	guest_reads(0, t.seed);

	/* The small pages and their page table have to go, one after the other ... */
	remove_slot();
	set_slot(0, MEM_GPA, t.size, t.hva);
	guest_reads(p, guest_value(p, 2));
	assert_mapped_huge(3);

	/* ... or both at once. */
	set_slot(KVM_MEM_LOG_DIRTY_PAGES, MEM_GPA, t.size, t.hva);
	guest_writes(p, guest_value(p, 4));
	set_slot(0, MEM_GPA, t.size, t.hva);
	guest_writes(5 * p, guest_value(5 * p, 4));
	guest_reads(p, guest_value(p, 4));
	host_reads(5 * p, guest_value(5 * p, 4));
	assert_mapped_huge(5);
}

static void setup_shared_file(int fd)
{
	t.size = 16 * t.page_size;
	t.hva = map_aligned(t.size, t.prot, MAP_SHARED, fd);
	t.view = map(t.size, t.prot, MAP_SHARED, fd);
	close(fd);
	setup_memory();
	create_vm();
}

static void row_shmem(void)
{
	setup_shared_file(kvm_memfd_alloc(16 * t.page_size, false));
}

static void drop_view(void)
{
	munmap(t.view, t.size);
	t.view = t.hva;
}

static void row_file(void)
{
	setup_shared_file(make_file(".", 16 * t.page_size));
}

static void row_dax(void)
{
	int fd = open_dax();

	t.size = HUGE_SIZE;
	t.hva = map_aligned(t.size, t.prot, MAP_SHARED, fd);
	t.view = map_aligned(t.size, t.prot, MAP_SHARED, fd);
	close(fd);
	setup_memory();
	create_vm();
}

/*
 * ---------------------------------------------------------------------------
 * Memory that must be copied before it is written
 * ---------------------------------------------------------------------------
 */

static void row_zero_page(void)
{
	setup_anonymous();
	create_vm();
}

static void test_zero_page(void)
{
	size_t p = t.page_size;

	/* Both pages are read, and share the zero page, before any is written. */
	guest_reads(0, 0);
	guest_reads(p, 0);

	/* The guest follows when the host replaces the page ... */
	host_writes(0, host_value(0, 1));
	guest_reads(0, host_value(0, 1));

	/* ... and the host when the guest does. */
	guest_writes(p, guest_value(p, 1));
	host_reads(p, guest_value(p, 1));
	guest_reads(p, guest_value(p, 1));

	/* Nobody wrote into the zero page itself. */
	guest_reads(2 * p, 0);
	host_reads(3 * p, 0);

	guest_writes(4 * p, guest_value(4, 2));
	host_reads(4 * p, guest_value(4, 2));
}

static int snapshot_fd;

static void row_private_snapshot(void)
{
	size_t off;

	snapshot_fd = kvm_memfd_alloc(16 * t.page_size, false);
	t.size = 16 * t.page_size;
	for (off = 0; off < t.size; off += t.page_size) {
		u64 val = host_value(off, 0);

		TEST_ASSERT(pwrite(snapshot_fd, &val, 8, off) == 8,
			    "pwrite() failed");
	}

	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE, snapshot_fd);
	t.view = t.hva;
	t.seed = host_value(0, 0);
	create_vm();
}

static void assert_file_unchanged(size_t off)
{
	u64 val;

	TEST_ASSERT(pread(snapshot_fd, &val, 8, off) == 8, "pread() failed");
	TEST_ASSERT_EQ(val, host_value(off, 0));
}

static void test_private_snapshot(void)
{
	size_t off;

	for (off = 0; off < t.size; off += t.page_size) {
		/* Half of the pages are read first, half are written first. */
		if (off & t.page_size)
			guest_reads(off, host_value(off, 0));
		guest_writes(off, guest_value(off, 1));
		guest_reads(off, guest_value(off, 1));
		host_reads(off, guest_value(off, 1));

		host_writes(off, host_value(off, 2));
		guest_reads(off, host_value(off, 2));

		assert_file_unchanged(off);
	}
}

#define COW_PAGES	16
#define COW_ROUNDS	3

/* A process that fork() gives a copy of the memory. */
static struct {
	pid_t pid;
	int request;
	int reply;
} child;

struct child_request {
	size_t off;
	u64 val;
	bool write;
};

/* Write and read for the parent, until it has no more requests. */
static void __noreturn serve_parent(int request, int reply)
{
	struct child_request req;
	u64 *mem;

	while (read(request, &req, sizeof(req)) == sizeof(req)) {
		mem = t.hva + req.off;
		if (req.write)
			WRITE_ONCE(*mem, req.val);
		req.val = READ_ONCE(*mem);
		if (write(reply, &req.val, 8) != 8)
			break;
	}
	_exit(0);
}

static void start_child(void)
{
	int request[2], reply[2];

	TEST_ASSERT(!pipe(request) && !pipe(reply), "pipe() failed");
	child.pid = fork();
	TEST_ASSERT(child.pid >= 0, "fork() failed");
	if (!child.pid) {
		close(request[1]);
		serve_parent(request[0], reply[1]);
	}
	close(request[0]);
	close(reply[1]);
	child.request = request[1];
	child.reply = reply[0];
}

static void stop_child(void)
{
	close(child.request);
	close(child.reply);
	TEST_ASSERT(waitpid(child.pid, NULL, 0) == child.pid,
		    "waitpid() failed");
}

static u64 ask_child(struct child_request req)
{
	u64 val;

	TEST_ASSERT(write(child.request, &req, sizeof(req)) == sizeof(req) &&
		    read(child.reply, &val, 8) == 8, "The child is gone");
	return val;
}

static void child_reads(size_t off, u64 expected)
{
	u64 val = ask_child((struct child_request) { .off = off });

	TEST_ASSERT(val == expected,
		    "Child reads 0x%lx instead of 0x%lx at offset 0x%lx", val,
		    expected, off);
}

static void child_writes(size_t off, u64 val)
{
	ask_child((struct child_request) {
		.off = off,
		.val = val,
		.write = true,
	});
}

/* The guest and its host process see @val, and the child @others_val. */
static void assert_copies(size_t off, u64 val, u64 others_val)
{
	guest_reads(off, val);
	host_reads(off, val);
	child_reads(off, others_val);
}

/* A page is shared with the child.  Whoever writes it first gets a copy. */
static void break_cow(int i, int round, u64 old)
{
	const size_t off = i * t.page_size;
	const u64 guests = guest_value(off, round);
	const u64 hosts = host_value(off, round);
	const u64 others = ~hosts;

	switch (i / 4 % 4) {
	case 0:
		host_writes(off, hosts);
		assert_copies(off, hosts, old);
		guest_writes(off, guests);
		assert_copies(off, guests, old);
		break;
	case 1:
		guest_writes(off, guests);
		assert_copies(off, guests, old);
		child_writes(off, others);
		assert_copies(off, guests, others);
		break;
	case 2:
		child_writes(off, others);
		assert_copies(off, old, others);
		guest_writes(off, guests);
		assert_copies(off, guests, others);
		break;
	case 3:
		child_writes(off, others);
		host_writes(off, hosts);
		assert_copies(off, hosts, others);
		guest_writes(off, guests);
		assert_copies(off, guests, others);
		break;
	}
}

/*
 * A page that two processes share until one of them writes, the guest included,
 * must be the same one for the guest and for its process at any time.
 */
static void test_cow(void)
{
	u64 vals[COW_PAGES];
	int round, i;
	size_t off;

	for (i = 0; i < COW_PAGES; i++)
		vals[i] = t.seed ? host_value(i * t.page_size, 0) : 0;

	for (round = 1; round <= COW_ROUNDS; round++) {
		/* The guest writes half of the pages before it reads them. */
		for (i = 0; i < COW_PAGES; i++) {
			off = i * t.page_size;
			if (i & 1) {
				guest_reads(off, vals[i]);
			} else {
				vals[i] = guest_value(off, 16 * round);
				guest_writes(off, vals[i]);
			}
		}

		start_child();
		for (i = 0; i < COW_PAGES; i++) {
			off = i * t.page_size;
			/* Half of them are mapped while they are shared. */
			if (i & 2)
				guest_reads(off, vals[i]);
			break_cow(i, round, vals[i]);
			vals[i] = guest_value(off, round);
		}
		stop_child();
	}
}

static void test_cow_private_file(void)
{
	size_t off;

	test_cow();
	for (off = 0; off < t.size; off += t.page_size)
		assert_file_unchanged(off);
}

static void setup_cow(void)
{
	int i;

	for (i = 0; i < COW_PAGES; i++)
		host_writes(i * t.page_size, host_value(i * t.page_size, 0));
}

static void row_cow(void)
{
	row_anonymous();
	setup_cow();
}

static void row_cow_thp(void)
{
	row_thp();
	setup_cow();
}

static void row_ksm(void)
{
	int i;

	setup_anonymous();
	t.seed = host_value(0, getpid());
	for (i = 0; i < 16; i++)
		host_writes(i * t.page_size, t.seed);
	merge_pages(t.hva, 16);
	create_vm();
}

static void test_ksm(void)
{
	int i;

	for (i = 0; i < 16; i += 2)
		guest_reads(i * t.page_size, t.seed);
	TEST_ASSERT_EQ(read_number("/proc/self/ksm_merging_pages"), 16);

	/* Pages that were read before and pages that were not. */
	for (i = 0; i < 8; i++) {
		guest_writes(i * t.page_size, guest_value(i, 1));
		host_reads(i * t.page_size, guest_value(i, 1));
		guest_reads(i * t.page_size, guest_value(i, 1));
	}

	/* No write went through to the page that is shared. */
	for (i = 8; i < 16; i++) {
		guest_reads(i * t.page_size, t.seed);
		host_reads(i * t.page_size, t.seed);
	}
}

#ifdef __x86_64__
/*
 * ---------------------------------------------------------------------------
 * Memory that the host cannot see
 * ---------------------------------------------------------------------------
 */

static void row_private(void)
{
	size_t off;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		skip("KVM has no VMs with private memory");

	setup_anonymous();
	for (off = 0; off < t.size; off += t.page_size)
		host_writes(off, host_value(off, 0));
	t.vm_type = KVM_X86_SW_PROTECTED_VM;
	create_vm();
}

/* There is memory of the host at the same addresses, which stays as it is. */
static void test_private(void)
{
	size_t off;
	int id;

	for (off = 0; off < t.size; off += t.page_size) {
		/* Half of the pages are read first, half are written first. */
		if (off & t.page_size)
			guest_reads(off, 0);
		guest_writes(off, guest_value(off, 1));
	}
	for (id = 0; id < NR_VCPUS; id++) {
		for (off = 0; off < t.size; off += t.page_size) {
			vcpu_reads(id, off, guest_value(off, 1));
			vcpu_reads(id, off + 8, 0);
		}
	}
	for (off = 0; off < t.size; off += t.page_size) {
		host_reads(off, host_value(off, 0));
		host_reads(off + 8, 0);
	}

	/* What is freed comes back empty, and nothing else changes. */
	TEST_ASSERT(!fallocate(t.guest_memfd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			       t.size / 2), "fallocate() failed");
	for (off = 0; off < t.size; off += t.page_size) {
		guest_reads(off, off < t.size / 2 ? 0 : guest_value(off, 1));
		host_reads(off, host_value(off, 0));
	}
}
#endif

/*
 * ---------------------------------------------------------------------------
 * Memory that must not be written
 * ---------------------------------------------------------------------------
 */

/* RISC-V refuses a writable memslot over a VMA that is not. */
#ifdef __riscv
static const bool refuses_prot_read = true;
#else
static const bool refuses_prot_read;
#endif

static void set_prot(int prot)
{
	t.prot = prot;
	TEST_ASSERT(!mprotect(t.hva, t.size, prot), "mprotect() failed");
}

/* Nobody looks at the VMA again, though, once there is a memslot. */
static void create_vm_prot_read(void)
{
	if (!refuses_prot_read) {
		create_vm();
		return;
	}

	TEST_ASSERT_EQ(try_create_vm(), EPERM);
	set_prot(PROT_READ | PROT_WRITE);
	restore_slot();
	virt_map(t.vm, MEM_GPA, MEM_GPA, t.size / t.vm->page_size);
	set_prot(PROT_READ);
}

static void row_prot_read(void)
{
	setup_anonymous();
	setup_memory();
	set_prot(PROT_READ);
	create_vm_prot_read();
}

static void test_prot_read(void)
{
	guest_reads(0, t.seed);
	ASSERT_OUTCOME(guest_do(0, OP_WRITE, 0, 8, guest_value(0, 1)), FAULT);
	host_reads(0, t.seed);
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, t.page_size, 8, guest_value(1, 1)),
		       FAULT);

	/* The VM survives, and the write is done when it is allowed. */
	TEST_ASSERT(!mprotect(t.hva, t.size, PROT_READ | PROT_WRITE),
		    "mprotect() failed");
	ASSERT_OUTCOME(resume(0), DONE);
	ASSERT_OUTCOME(resume(1), DONE);
	host_reads(0, guest_value(0, 1));
	host_reads(t.page_size, guest_value(1, 1));
}

static void setup_pfnmap_prot_read(void)
{
	create_region(TKM_PFNMAP_REFCOUNTED, 0, 16, 0);
	map_region(PROT_READ);
	/* Writing is possible through the view only. */
	t.view = map(t.size, PROT_READ | PROT_WRITE, MAP_SHARED, t.fd);
	setup_memory();
	create_vm_prot_read();
}

static void row_pfnmap_prot_read_present(void)
{
	size_t off;

	setup_pfnmap_prot_read();
	for (off = 0; off < t.size; off += t.page_size)
		READ_ONCE(*(u64 *)(t.hva + off));
}

static void row_pfnmap_prot_read_absent(void)
{
	t.write_first = true;
	setup_pfnmap_prot_read();
}

static void test_pfnmap_prot_read(void)
{
	const u64 val = guest_value(0, 1);
#ifdef __x86_64__
	const enum outcome expected = MMIO;
#else
	const enum outcome expected = FAULT;
#endif

	/* Page 1, not page 0: nobody has read it through KVM yet. */
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, t.page_size, 8, val), expected);
	if (expected == MMIO) {
		assert_mmio_write(1, t.page_size, 8, val);
		ASSERT_OUTCOME(resume(1), DONE);
	}
	host_reads(t.page_size, 0);

	guest_reads(0, t.seed);
	host_writes(0, host_value(0, 2));
	guest_reads(0, host_value(0, 2));
	ASSERT_OUTCOME(guest_do(0, OP_WRITE, 0, 8, val), expected);
	if (expected == MMIO) {
		assert_mmio_write(0, 0, 8, val);
		ASSERT_OUTCOME(resume(0), DONE);
		guest_reads(0, host_value(0, 2));
	}
	host_reads(0, host_value(0, 2));
	assert_counts("after refused writes");
}

static void require_readonly_slots(void)
{
	if (!kvm_has_cap(KVM_CAP_READONLY_MEM))
		skip("this architecture has no KVM_MEM_READONLY");
	t.slot_flags = KVM_MEM_READONLY;
}

static void row_readonly_slot(void)
{
	require_readonly_slots();
	row_anonymous();
}

static void row_readonly_slot_pfnmap(void)
{
	require_readonly_slots();
	setup_region(TKM_PFNMAP_REFCOUNTED, 0, 16, 0);
	setup_memory();
	create_vm();
}

static void test_readonly_slot(void)
{
	const u64 val = 0x8877665544332211ul;
	size_t seed_off = t.page * t.page_size;
	size_t len, off;

	guest_reads(seed_off, t.seed);
	assert_counts("after a guest read");

	/* Writes to the page that is mapped, and to pages that are not. */
	for (off = 0; off < 8 * t.page_size; off += t.page_size) {
		for (len = 1; len <= 8; len *= 2)
			vcpu_writes_mmio(0, off + 16 + len, len, val);
		host_reads(off + 16, 0);
		host_reads(off + 24, 0);
		guest_reads(seed_off, t.seed);
	}
	assert_counts("after refused writes");

	/* Reads go on working, also after a zap and a write exit. */
	host_writes(seed_off, host_value(0, 2));
	guest_reads(seed_off, host_value(0, 2));
	zap();
	guest_reads(seed_off, host_value(0, 2));
	vcpu_writes_mmio(0, seed_off, 8, val);
	guest_reads(seed_off, host_value(0, 2));
	host_reads(seed_off, host_value(0, 2));
}

static void test_readonly_slot_unemulatable(void)
{
	guest_reads(0, t.seed);
#if defined(__aarch64__)
	ASSERT_OUTCOME(guest_do(0, OP_UNEMULATABLE_WRITE, 0, 0, 1),
		       NOT_IMPLEMENTED);
	ASSERT_OUTCOME(resume(0), NOT_IMPLEMENTED);
	/* Userspace may ask to be told what the CPU does tell. */
	vm_enable_cap(t.vm, KVM_CAP_ARM_NISV_TO_USER, 0);
	ASSERT_OUTCOME(resume(0), NO_SYNDROME);
	TEST_ASSERT_EQ(t.vcpus[0]->run->arm_nisv.fault_ipa, MEM_GPA);
	/* The instruction is neither skipped nor tried without end. */
	ASSERT_OUTCOME(resume(0), NO_SYNDROME);
#elif defined(__riscv)
	ASSERT_OUTCOME(guest_do(0, OP_UNEMULATABLE_WRITE, 0, 0, 1),
		       NOT_SUPPORTED);
	/* The instruction is neither skipped nor tried without end. */
	ASSERT_OUTCOME(resume(0), NOT_SUPPORTED);
#else
	ASSERT_OUTCOME(guest_do(0, OP_UNEMULATABLE_WRITE, 0, 0, 0),
		       INTERNAL_ERROR);
	TEST_ASSERT_EQ(t.vcpus[0]->run->internal.suberror,
		       KVM_INTERNAL_ERROR_EMULATION);
#endif
	host_reads(0, t.seed);

	/* The other vCPU does not care. */
	vcpu_reads(1, 0, t.seed);
}

#define ROMD_ROUNDS	8

/*
 * What the address range of a flash chip is depends on its mode: memory that can
 * be read, or registers.
 */
static void test_romd(void)
{
	const size_t offs[] = { 0, t.page_size, t.size - t.page_size };
	int round, id;
	size_t off, i;
	u64 val;

	for (round = 0; round < ROMD_ROUNDS; round++) {
		for (i = 0; i < ARRAY_SIZE(offs); i++) {
			off = offs[i];
			val = host_value(off, round);
			host_writes(off, val);
			for (id = 0; id < NR_VCPUS; id++) {
				/* To a page that nothing maps yet. */
				if (round & 1)
					vcpu_writes_mmio(id, off, 8, ~val);
				ASSERT_OUTCOME(guest_do(id, OP_POLL, off, 8,
							100), DONE);
				assert_result(id, off, val);
				vcpu_writes_mmio(id, off + 8, 4, val);
				vcpu_reads(id, off, val);
			}
			host_reads(off, val);
			host_reads(off + 8, 0);
		}
		assert_counts("with the memory turned on");

		remove_slot();
		for (i = 0; i < ARRAY_SIZE(offs); i++) {
			off = offs[i];
			for (id = 0; id < NR_VCPUS; id++) {
				val = guest_value(off, round + id);
				vcpu_reads_mmio(id, off, val);
				vcpu_writes_mmio(id, off + 8, 8, val);
				vcpu_reads_mmio(id, off + 8, ~val);
			}
			host_reads(off, host_value(off, round));
			host_reads(off + 8, 0);
		}
		assert_counts("with the memory turned off");
		restore_slot();
	}
}

/* Fetching a page takes less; a vCPU that waits for itself takes for ever. */
#define ASYNC_PF_SECONDS	60

static int uffd;
static u32 uffd_fault_thread;

static void row_uffd(void)
{
	setup_anonymous();
	uffd = absent_open(t.hva, t.size);
	if (uffd < 0)
		skip("userfaultfd: %s", strerror(errno));
	create_vm();
}

/* Wait until somebody needs a page, remember who, and return where. */
static u64 uffd_wait(void)
{
	return absent_wait(uffd, &uffd_fault_thread);
}

static void uffd_supply(u64 addr)
{
	u64 src[MIN_PAGE_SIZE / 8] = { host_value(0, 7) };

	absent_supply(uffd, addr, src, sizeof(src));
}

#define SIGNAL_SECONDS	10

static void ignore_signal(int sig)
{
}

/* The errno of KVM_RUN, once it is @done. */
static struct {
	int err;
	atomic_bool done;
} interrupted;

static void *run_interrupted(void *arg)
{
	interrupted.err = __vcpu_run(t.vcpus[0]) ? errno : 0;
	atomic_store(&interrupted.done, true);
	return NULL;
}

/* A vCPU that waits for memory can be interrupted, and goes on waiting later. */
static void test_signal(void)
{
	struct sigaction sa = { .sa_handler = ignore_signal };
	pthread_t thread;
	bool in_time;
	u64 addr;
	int i;

	sigaction(SIGUSR1, &sa, NULL);
	set_cmd(0, OP_READ, 0, 8, 0);
	TEST_ASSERT(!pthread_create(&thread, NULL, run_interrupted, NULL),
		    "pthread_create() failed");
	addr = uffd_wait();
	TEST_ASSERT(!atomic_load(&interrupted.done), "The vCPU does not wait");

	pthread_kill(thread, SIGUSR1);
	for (i = 0; i < SIGNAL_SECONDS * 1000; i++) {
		if (atomic_load(&interrupted.done))
			break;
		usleep(1000);
	}
	in_time = atomic_load(&interrupted.done);
	uffd_supply(addr);
	pthread_join(thread, NULL);

	TEST_ASSERT(in_time, "The vCPU waits in spite of a signal");
	TEST_ASSERT(interrupted.err == EINTR, "KVM_RUN: %s",
		    strerror(interrupted.err));
	TEST_ASSERT_EQ(t.vcpus[0]->run->exit_reason, KVM_EXIT_INTR);

	ASSERT_OUTCOME(resume(0), DONE);
	TEST_ASSERT_EQ(t.result[0], host_value(0, 7));
}

#ifdef __x86_64__
static void row_async_pf_readonly_slot(void)
{
	require_readonly_slots();
	row_uffd();
}

/* The memory is writable for the guest, as far as the memslot says. */
static void row_async_pf_prot_read(void)
{
	row_uffd();
	set_prot(PROT_READ);
}

static void *uffd_server(void *arg)
{
	uffd_supply(uffd_wait());
	return NULL;
}

/*
 * Memory that is not there is fetched by a worker of KVM, so that the vCPU can
 * do something else: the thread that userfaultfd sees is not the vCPU's.
 */
static void test_async_pf(void)
{
	pthread_t server;

	TEST_ASSERT(!pthread_create(&server, NULL, uffd_server, NULL),
		    "pthread_create() failed");
	ASSERT_OUTCOME(guest_do(0, OP_READ_INTERRUPTIBLE, 0, 8, 0), DONE);
	pthread_join(server, NULL);

	TEST_ASSERT_EQ(t.result[0], host_value(0, 7));
	TEST_ASSERT(uffd_fault_thread != syscall(SYS_gettid),
		    "The vCPU itself waited for the page");
	host_reads(0, host_value(0, 7));
}

/* While KVM waits for the page, the page ceases to be possible. */
static void *uffd_revoker(void *arg)
{
	struct uffdio_range range = {
		.start = uffd_wait(),
		.len = t.page_size,
	};

	TEST_ASSERT(!mprotect(t.hva, t.page_size, PROT_NONE),
		    "mprotect() failed");
	TEST_ASSERT(!ioctl(uffd, UFFDIO_WAKE, &range), "UFFDIO_WAKE failed");
	return NULL;
}

/* A worker that fails leaves it to the vCPU to find out why. */
static void test_async_pf_fails(void)
{
	pthread_t revoker;

	alarm(ASYNC_PF_SECONDS);
	TEST_ASSERT(!pthread_create(&revoker, NULL, uffd_revoker, NULL),
		    "pthread_create() failed");
	ASSERT_OUTCOME(guest_do(0, OP_READ_INTERRUPTIBLE, 0, 8, 0), FAULT);
	pthread_join(revoker, NULL);
	TEST_ASSERT(uffd_fault_thread != syscall(SYS_gettid),
		    "The vCPU itself waited for the page");
	ASSERT_OUTCOME(resume(0), FAULT);

	replace_page(0, host_value(0, 1));
	ASSERT_OUTCOME(resume(0), DONE);
	assert_result(0, 0, host_value(0, 1));
}
#endif /* __x86_64__ */

/*
 * ---------------------------------------------------------------------------
 * Memory that get_user_pages() does not know
 * ---------------------------------------------------------------------------
 */

static void row_pfnmap_pageless(void)
{
	setup_region(TKM_PFNMAP_PAGELESS, 0, 512, 0);
	setup_memory();
	create_vm();
}

static void row_pfnmap_pageless_remap(void)
{
	setup_region(TKM_PFNMAP_PAGELESS, TKM_EAGER, 512, 0);
	setup_memory();
	create_vm();
}

static void row_noncompound_head(void)
{
	setup_region(TKM_PFNMAP_NONCOMPOUND, 0, 512, 9);
	setup_memory();
	create_vm();
}

static void row_noncompound_tail(void)
{
	t.page = 1;
	row_noncompound_head();
}

static void row_noncompound_remap(void)
{
	t.page = 1;
	setup_region(TKM_PFNMAP_NONCOMPOUND, TKM_EAGER | TKM_IO, 512, 9);
	setup_memory();
	create_vm();
}

/* Only the head pages of the blocks, which have a reference. */
static void test_noncompound_head(void)
{
	TEST_ASSERT_EQ(t.initial[0].refcount, 1);
	guest_reads(0, t.seed);
	check_page(0, 1);
	zap();
	guest_reads(0, ~host_value(0, 1));
	check_page(0, 2);
	zap();
	guest_writes(0, guest_value(0, 3));
	host_reads(0, guest_value(0, 3));
	assert_counts("after a write fault");
}

static void test_noncompound(void)
{
	u32 i;

	TEST_ASSERT_EQ(t.initial[0].refcount, 1);
	for (i = 1; i < t.nr_pages; i++)
		TEST_ASSERT_EQ(t.initial[i].refcount, 0);

	test_maps_all();
}

static void row_pfnmap_refcounted(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, 0, 64, 0);
	setup_memory();
	create_vm();
}

/* The slot maps the second half of a file: page 0 of it is page 16 of the file. */
static void row_pfnmap_file_offset(void)
{
	u64 val;
	u32 i;

	create_region(TKM_PFNMAP_REFCOUNTED, 0, 32, 0);
	for (i = 0; i < t.nr_pages; i++) {
		val = host_value(i * t.page_size, 0);
		host_writes(i * t.page_size, val);
	}

	t.size /= 2;
	t.seed = host_value(t.size, 0);
	map_region(PROT_READ | PROT_WRITE);
	TEST_ASSERT(mmap(t.hva, t.size, t.prot, MAP_SHARED | MAP_FIXED, t.fd,
			 t.size) == t.hva, "mmap() failed");
	create_vm();
}

static void test_pfnmap_file_offset(void)
{
	size_t off;

	for (off = 0; off < t.size; off += t.page_size) {
		guest_reads(off, host_value(t.size + off, 0));
		guest_writes(off, guest_value(off, 1));
	}
	assert_counts("after guest accesses");

	zap();
	for (off = 0; off < t.size; off += t.page_size)
		guest_writes(off + 8, guest_value(off, 2));
	for (off = 0; off < t.size; off += t.page_size) {
		host_reads(t.size + off, guest_value(off, 1));
		host_reads(t.size + off + 8, guest_value(off, 2));
		host_reads(off, host_value(off, 0));
		host_reads(off + 8, 0);
	}
	assert_counts("after write faults");
}

/* KVM must not write to struct pages of which it does not know the owner. */
static void test_pfnmap_not_marked(void)
{
	const u32 marks = TKM_PAGE_DIRTY | TKM_PAGE_REFERENCED |
			       TKM_PAGE_ACTIVE;
	struct tkm_page pages[MAX_PAGES];
	u32 i;

	test_maps();
	zap();
	kvm_vm_free(t.vm);
	t.vm = NULL;

	get_counts(pages);
	for (i = 0; i < t.nr_pages; i++)
		TEST_ASSERT((pages[i].flags & marks) == (t.initial[i].flags & marks),
			    "page %u has the flags 0x%x instead of 0x%x", i,
			    pages[i].flags, t.initial[i].flags);
}

static void row_pfnmap_reserved(void)
{
	setup_region(TKM_PFNMAP_RESERVED, 0, 64, 0);
	setup_memory();
	create_vm();
}

static void test_pfnmap_reserved(void)
{
	u32 i;

	for (i = 0; i < t.nr_pages; i++)
		TEST_ASSERT(t.initial[i].flags & TKM_PAGE_RESERVED,
			    "page %u is not reserved", i);
	test_maps_all();
}

static void row_pci_bar(void)
{
	size_t size;
	int fd = open_pci_bar(&size);

	t.size = size < HUGE_SIZE ? size : HUGE_SIZE;
	t.hva = map_aligned(t.size, t.prot, MAP_SHARED, fd);
	t.view = map(t.size, t.prot, MAP_SHARED, fd);
	close(fd);
	setup_memory();
	create_vm();
}

static void row_pfnmap_readonly_pte(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, TKM_WRITENOTIFY, 64, 0);
	setup_memory();
	/* An entry in the slot's own mapping, read-only although VM_WRITE. */
	READ_ONCE(*(u64 *)(t.hva + t.page * t.page_size));
	create_vm();
}

/*
 * The upgrade through vm_ops->pfn_mkwrite() happens when the guest writes, and
 * only then: an entry that is read must stay write-protected.
 */
static void test_pfnmap_readonly_pte(void)
{
	size_t off = t.page * t.page_size;
	u64 mkwrites = tkm_get_stats(t.fd).mkwrites;

	/* The host installed the entry, KVM maps it for reading ... */
	guest_reads(off, t.seed);
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites);
	assert_counts("after a guest read");

	/* ... and for writing. */
	guest_writes(off, guest_value(off, 1));
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 1);
	host_reads(off, guest_value(off, 1));
	assert_counts("after an upgrade");

	/* The upgrade is done once. */
	guest_writes(off, guest_value(off, 2));
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 1);

	/* After a zap it is KVM's own read fault that installs the entry. */
	zap();
	guest_reads(off, guest_value(off, 2));
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 1);
	guest_writes(off, guest_value(off, 3));
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 2);
	host_reads(off, guest_value(off, 3));

	/* A write fault finds no entry, gets a read-only one and upgrades it. */
	zap();
	guest_writes(off, guest_value(off, 4));
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 3);
	host_reads(off, guest_value(off, 4));
	assert_counts("after a write fault");
}

#ifdef __x86_64__
/*
 * KVM emulates many instructions that it cannot map memory for, and then writes
 * through the host's page table, which upgrades the entry as well.  Have one
 * that it cannot emulate.
 */
static void test_pfnmap_readonly_pte_x87(void)
{
	u64 mkwrites = tkm_get_stats(t.fd).mkwrites;

	guest_reads(0, t.seed);
	ASSERT_OUTCOME(guest_do(0, OP_UNEMULATABLE_WRITE, 0, 0, 0), DONE);
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 1);
	/* A float 1.0 overwrites the lower half. */
	host_reads(0, (t.seed & ~0xfffffffful) | 0x3f800000);

	zap();
	ASSERT_OUTCOME(guest_do(0, OP_UNEMULATABLE_WRITE, 0, 0, 0), DONE);
	TEST_ASSERT_EQ(tkm_get_stats(t.fd).mkwrites, mkwrites + 2);
	assert_counts("after a write fault");
}
#endif

static void row_mixedmap_normal(void)
{
	t.page = 1;
	setup_region(TKM_MIXEDMAP_NORMAL, 0, 64, 0);
	setup_memory();
	create_vm();
}

static void row_mixedmap_special(void)
{
	setup_region(TKM_MIXEDMAP_SPECIAL, 0, 16, 0);
	setup_memory();
	create_vm();
}

static void test_mixedmap_special(void)
{
	size_t p = t.page_size;

	/* With and without an entry that is present. */
	READ_ONCE(*(u64 *)t.hva);
	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), FAULT);
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, p, 8, guest_value(p, 1)), FAULT);
	assert_counts("after faults");
	host_reads(0, t.seed);
	host_reads(p, 0);

	replace_page(0, host_value(0, 1));
	replace_page(p, host_value(p, 1));
	ASSERT_OUTCOME(resume(0), DONE);
	TEST_ASSERT_EQ(t.result[0], host_value(0, 1));
	ASSERT_OUTCOME(resume(1), DONE);
	TEST_ASSERT_EQ(*(u64 *)(t.hva + p), guest_value(p, 1));
}

#ifdef __x86_64__
static void row_mixedmap_special_readonly_slot(void)
{
	require_readonly_slots();
	row_mixedmap_special();
}

/* There is nothing that a worker could wait for, so that none must be asked. */
static void test_mixedmap_special_async(void)
{
	alarm(ASYNC_PF_SECONDS);
	ASSERT_OUTCOME(guest_do(0, OP_READ_INTERRUPTIBLE, 0, 8, 0), FAULT);
	/* Now with an entry that is present. */
	READ_ONCE(*(u64 *)t.hva);
	ASSERT_OUTCOME(resume(0), FAULT);
	assert_counts("after faults");
	host_reads(0, t.seed);

	replace_page(0, host_value(0, 1));
	ASSERT_OUTCOME(resume(0), DONE);
	assert_result(0, 0, host_value(0, 1));
}

static void break_memory(u32 on)
{
	tkm_ioctl(t.fd, TKM_BREAK, &on);
}

static void row_async_pf_broken(void)
{
	setup_region(TKM_MIXEDMAP_NORMAL, 0, 16, 0);
	setup_memory();
	break_memory(1);
	create_vm();
}

static void row_async_pf_broken_readonly_slot(void)
{
	require_readonly_slots();
	row_async_pf_broken();
}

/*
 * Each lookup that may not wait says that it would have to, and each that may
 * fails: only a fault that is not asynchronous ends the guest's attempts.
 */
static void test_async_pf_broken(void)
{
	alarm(ASYNC_PF_SECONDS);
	ASSERT_OUTCOME(guest_do(0, OP_READ_INTERRUPTIBLE, 0, 8, 0), FAULT);
	ASSERT_OUTCOME(resume(0), FAULT);
	assert_counts("after faults");

	break_memory(0);
	ASSERT_OUTCOME(resume(0), DONE);
	assert_result(0, 0, t.seed);
	note_guest_mapping(0);
}
#endif

/*
 * ---------------------------------------------------------------------------
 * Memory that is not there
 * ---------------------------------------------------------------------------
 */

static void row_hole(void)
{
	setup_anonymous();
	setup_memory();
	create_vm();
	TEST_ASSERT(!munmap(t.hva, 2 * t.page_size), "munmap() failed");
}

static void row_prot_none(void)
{
	setup_anonymous();
	setup_memory();
	create_vm();
	TEST_ASSERT(!mprotect(t.hva, 2 * t.page_size, PROT_NONE),
		    "mprotect() failed");
}

/* Memory that the kernel itself, i.e. get_user_pages(), must not access. */
static void row_secretmem(void)
{
	void *mem;
	int fd;

	setup_anonymous();
	setup_memory();
	create_vm();

	fd = syscall(__NR_memfd_secret, 0);
	if (fd < 0)
		skip("memfd_secret(): %s", strerror(errno));
	TEST_ASSERT(!ftruncate(fd, 2 * t.page_size), "ftruncate() failed");
	mem = mmap(t.hva, 2 * t.page_size, t.prot, MAP_SHARED | MAP_FIXED, fd, 0);
	TEST_ASSERT(mem == t.hva, "mmap() failed");
	close(fd);

	/* Present, so that a walk of the page tables would find it. */
	host_writes(0, t.seed);
	host_writes(t.page_size, t.seed);
}

#ifdef __x86_64__
/*
 * Memory that a protection key denies to the tasks of the vCPUs: by default, they
 * have no right to any key but the first.
 */
static void row_pkey(void)
{
	int pkey;

	setup_anonymous();
	setup_memory();
	host_writes(t.page_size, t.seed);
	create_vm();

	pkey = syscall(__NR_pkey_alloc, 0, PKEY_DISABLE_ACCESS);
	if (pkey < 0)
		skip("pkey_alloc(): %s", strerror(errno));
	TEST_ASSERT(!syscall(__NR_pkey_mprotect, t.hva, 2 * t.page_size, t.prot,
			     pkey), "pkey_mprotect() failed");
}
#endif

static void test_faults(void)
{
	size_t p = t.page_size;

	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), FAULT);
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, p, 8, guest_value(p, 1)), FAULT);
	ASSERT_OUTCOME(resume(0), FAULT);

	replace_page(0, host_value(0, 1));
	replace_page(p, host_value(p, 1));
	ASSERT_OUTCOME(resume(0), DONE);
	TEST_ASSERT_EQ(t.result[0], host_value(0, 1));
	ASSERT_OUTCOME(resume(1), DONE);
	host_reads(p, guest_value(p, 1));

	/* A page that is mapped goes away, too. */
	TEST_ASSERT(!mprotect(t.hva, p, PROT_NONE), "mprotect() failed");
	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), FAULT);
	TEST_ASSERT(!mprotect(t.hva, p, PROT_READ | PROT_WRITE),
		    "mprotect() failed");
	ASSERT_OUTCOME(resume(0), DONE);
	TEST_ASSERT_EQ(t.result[0], host_value(0, 1));
}

static void poison_memory(size_t size)
{
	t.poisoned = size;
	/* The page's owner is told at once. */
	WRITE_ONCE(expect_sigbus, true);
	if (madvise(t.hva, t.page_size, MADV_HWPOISON))
		skip("MADV_HWPOISON: %s", strerror(errno));
	WRITE_ONCE(expect_sigbus, false);
}

static void row_hwpoison(void)
{
	row_anonymous();
	poison_memory(t.page_size);
}

/* The guest has a mapping already, which has to go. */
static void poison_used_memory(size_t size)
{
	guest_reads(0, t.seed);
	poison_memory(size);
}

static void row_hwpoison_readonly_slot(void)
{
	row_readonly_slot();
	poison_used_memory(t.page_size);
}

static void row_hwpoison_hugetlb(void)
{
	row_hugetlb();
	/* The kernel takes the bad huge page out of the pool. */
	if (nr_hugepages_before < 0) {
		nr_hugepages_before = read_number("/proc/sys/vm/nr_hugepages");
		atexit(restore_hugepages);
	}
	poison_used_memory(HUGE_SIZE);
}

static void row_hwpoison_shmem(void)
{
	row_shmem();
	/* The tests shall meet the poison in the guest's memory alone. */
	drop_view();
	poison_used_memory(t.page_size);
}

/* The poison is known to the page cache, not to the page table. */
static void row_hwpoison_page_cache(void)
{
	row_hwpoison_shmem();
	TEST_ASSERT(!madvise(t.hva, t.size, MADV_DONTNEED),
		    "MADV_DONTNEED failed");
}

static void assert_sigbus(size_t off)
{
	TEST_ASSERT(sigbus_code == BUS_MCEERR_AR, "SIGBUS with code %d",
		    sigbus_code);
	TEST_ASSERT((sigbus_addr - t.hva) / t.page_size == off / t.page_size,
		    "SIGBUS for %p instead of %p", sigbus_addr, t.hva + off);
}

static void test_hwpoison(void)
{
	const bool readonly = t.slot_flags & KVM_MEM_READONLY;
	const size_t off = t.poisoned - t.page_size + 8;
	const u64 val = guest_value(off, 1);

	/* Nobody has to ask the memory about a write that is not for it. */
	if (readonly) {
		vcpu_writes_mmio(1, off, 8, val);
	} else {
		ASSERT_OUTCOME(guest_do(1, OP_WRITE, off, 8, val), POISON);
		assert_sigbus(off);
	}
	/* Healthy neighbours are not affected. */
	if (t.poisoned < t.size)
		guest_reads(t.poisoned, 0);

	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), POISON);
	assert_sigbus(0);
	ASSERT_OUTCOME(resume(0), POISON);
	assert_sigbus(0);

	replace(0, t.poisoned, host_value(0, 1));
	ASSERT_OUTCOME(resume(0), DONE);
	assert_result(0, 0, host_value(0, 1));
	if (readonly)
		return;

	ASSERT_OUTCOME(resume(1), DONE);
	host_reads(off, val);
	check_page(t.size - t.page_size, 2);
}

static void poison(bool on)
{
	tkm_poison(t.fd, 4, on);
}

static void row_pfnmap_hwpoison(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, 0, 16, 0);
	setup_memory();
	poison(true);
	create_vm();
}

static void test_pfnmap_hwpoison(void)
{
	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), POISON);
	assert_sigbus(0);
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, t.page_size, 8, 1), POISON);
	assert_sigbus(t.page_size);
	assert_counts("after poisoned accesses");

	/* Healthy neighbours are not affected, and the VM survives. */
	poison(false);
	ASSERT_OUTCOME(resume(0), DONE);
	TEST_ASSERT_EQ(t.result[0], t.seed);
	ASSERT_OUTCOME(resume(1), DONE);
	host_reads(t.page_size, 1);
	check_page(8 * t.page_size, 1);
}

static void row_pfnmap_writecombine(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, TKM_WC, 64, 0);
	setup_memory();
	create_vm();
}

#ifdef __aarch64__
/*
 * ---------------------------------------------------------------------------
 * Instruction fetches
 * ---------------------------------------------------------------------------
 */

/* What to do with a fetch from device memory is up to the guest. */
static void set_up_exec(void)
{
	size_t off;

	for (off = 0; off < 8 * t.page_size; off += t.page_size)
		host_writes(off, INSN_RET);
	t.seed = INSN_RET;

	vm_init_descriptor_tables(t.vm);
	vcpu_init_descriptor_tables(t.vcpus[0]);
	vm_install_sync_handler(t.vm, VECTOR_SYNC_CURRENT, ESR_EC_IABT,
				guest_exec_abort);
}

static void row_exec(void)
{
	row_anonymous();
	set_up_exec();
}

static void row_exec_pfnmap(void)
{
	row_pfnmap_refcounted();
	set_up_exec();
}

static void row_exec_pfnmap_writecombine(void)
{
	row_pfnmap_writecombine();
	set_up_exec();
}

static void row_exec_pfnmap_writecombine_entries(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, TKM_WC_ENTRIES, 64, 0);
	setup_memory();
	create_vm();
	set_up_exec();
}

/* As tegra and rockchip map their buffers: pages with a reference, uncached. */
static void row_exec_mixedmap_writecombine(void)
{
	setup_region(TKM_MIXEDMAP_NORMAL, TKM_WC, 64, 0);
	setup_memory();
	create_vm();
	set_up_exec();
}

static void row_exec_pfnmap_pageless(void)
{
	row_pfnmap_pageless();
	set_up_exec();
}

/* More than one page of page tables for each that a vCPU has in store. */
#define SPLIT_BLOCKS		44
#define TAINT_WARN		(1 << 9)

static void row_exec_block_logged(void)
{
	t.size = SPLIT_BLOCKS * HUGE_SIZE;
	t.hva = map_thp(t.size);
	t.view = t.hva;
	create_vm();
	set_up_exec();
}

/* Memory is executable for the guest as soon as it is mapped (CTR_EL0.DIC). */
static bool executable_at_once(void)
{
	u64 ctr;

	asm volatile("mrs %0, ctr_el0" : "=r"(ctr));
	return ctr & (1ul << 29);
}

/*
 * Blocks are mapped before they are executed, and before dirty logging begins:
 * each is split by an instruction fetch.
 */
static void test_exec_block_logged(void)
{
	u64 exits;
	size_t off;

	if (read_number("/proc/sys/kernel/tainted") & TAINT_WARN)
		skip("the kernel has warned of something before");

	for (off = 0; off < t.size; off += HUGE_SIZE) {
		host_writes(off, INSN_RET);
		guest_reads(off, INSN_RET);
	}
	set_slot(KVM_MEM_LOG_DIRTY_PAGES, MEM_GPA, t.size, t.hva);
	exits = nr_exits(t.vcpus[0]);
	for (off = 0; off < t.size; off += HUGE_SIZE) {
		ASSERT_OUTCOME(guest_do(0, OP_EXEC, off, 0, 0), DONE);
		TEST_ASSERT_EQ(t.result[0], 0);
	}
	exits = nr_exits(t.vcpus[0]) - exits;
	TEST_ASSERT(!(read_number("/proc/sys/kernel/tainted") & TAINT_WARN),
		    "The kernel has warned of something");
	/* The fetch, and what the guest tells of it. */
	if (executable_at_once())
		ksft_print_msg("nothing is split, memory is executable at once\n");
	else
		TEST_ASSERT(exits >= 2 * SPLIT_BLOCKS,
			    "%lu exits, the blocks have not been split", exits);
}

/* The references to memory that is not the module's. */
static s32 lookup_refcount(void *addr)
{
	return tkm_lookup(lookup_fd, addr).refcount;
}

static void row_exec_dax(void)
{
	open_lookup();
	row_dax();
	set_up_exec();
}

/* Pages that the guest has not mapped yet, that it has read, or written. */
static void exec_all(u64 aborts)
{
	size_t off;

	for (off = 0; off < 8 * t.page_size; off += t.page_size) {
		if (off & t.page_size)
			guest_reads(off, INSN_RET);
		if (off & (2 * t.page_size))
			guest_writes(off + 8, guest_value(off, 1));
		ASSERT_OUTCOME(guest_do(0, OP_EXEC, off, 0, 0), DONE);
		TEST_ASSERT(t.result[0] == aborts,
			    "%lu instead of %lu aborted fetches at offset 0x%lx",
			    t.result[0], aborts, off);
		note_guest_mapping(off);
		guest_reads(off, INSN_RET);
	}
	assert_counts("after instruction fetches");
}

static void test_exec(void)
{
	exec_all(0);
	zap();
	exec_all(0);
}

static void test_exec_aborts(void)
{
	exec_all(1);
	zap();
	exec_all(1);
}

/* DAX memory has pages that are refcounted, and is device memory for KVM. */
static void test_exec_dax(void)
{
	s32 refcount = lookup_refcount(t.hva);
	int i;

	for (i = 0; i < 4; i++) {
		exec_all(1);
		zap();
	}
	TEST_ASSERT_EQ(lookup_refcount(t.hva), refcount);
}
#endif /* __aarch64__ */

/*
 * ---------------------------------------------------------------------------
 * Races
 * ---------------------------------------------------------------------------
 */

#define SLOT_ROUNDS	20

/*
 * What the guest must read: a value as long as nothing changes, anything that
 * was ever valid while @stable is false.
 */
static struct {
	pthread_mutex_t lock;
	u64 generation;
	u64 value;
	bool stable;
	u64 verified;
	bool stop;
} expect = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void read_expected(enum guest_op op, u64 nr_reads)
{
	u64 generation, value, read;
	bool stable, stop = false;
	enum outcome outcome;

	while (!stop) {
		pthread_mutex_lock(&expect.lock);
		generation = expect.generation;
		value = expect.value;
		stable = expect.stable;
		pthread_mutex_unlock(&expect.lock);

		outcome = guest_do(0, op, 0, 8, nr_reads);
		if (outcome == MMIO)
			outcome = answer_mmio_read(0, 0, MMIO_VALUE);
		ASSERT_OUTCOME(outcome, DONE);
		read = t.result[0];

		pthread_mutex_lock(&expect.lock);
		if (stable && generation == expect.generation) {
			TEST_ASSERT(read == value,
				    "Guest reads 0x%lx instead of 0x%lx: stale",
				    read, value);
			expect.verified++;
		}
		stop = expect.stop;
		pthread_mutex_unlock(&expect.lock);
	}
}

/* The main thread, and one that it creates, shall run at the same time. */
static int cpus[2] = { -1, -1 };

static void pin_thread(int i)
{
	if (cpus[1] >= 0)
		kvm_pin_this_task_to_pcpu(cpus[i]);
}

static void *reader(void *arg)
{
	read_expected(OP_READ, 0);
	return NULL;
}

/* Almost always in the guest, and so in a page fault as soon as possible. */
static void *poller(void *arg)
{
	pin_thread(1);
	read_expected(OP_POLL, 1000);
	return NULL;
}

static void expect_change(bool stable, u64 value)
{
	pthread_mutex_lock(&expect.lock);
	expect.generation++;
	expect.stable = stable;
	expect.value = value;
	expect.verified = 0;
	pthread_mutex_unlock(&expect.lock);
}

static void stop_reader(pthread_t thread)
{
	pthread_mutex_lock(&expect.lock);
	expect.stop = true;
	pthread_mutex_unlock(&expect.lock);
	pthread_join(thread, NULL);
	assert_counts("after the race");
}

/* Nothing changes any more: wait until the guest has seen it @n times. */
static void expect_verified(u64 n)
{
	u64 verified;

	do {
		usleep(100);
		pthread_mutex_lock(&expect.lock);
		verified = expect.verified;
		pthread_mutex_unlock(&expect.lock);
	} while (verified < n);
}

static void row_slot_race(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, 0, 16, 0);
	setup_memory();
	create_vm();
}

/* Make the vCPU fault, and return in the middle of that fault. */
static void catch_vcpu_in_fault(void)
{
	u64 faults = tkm_get_stats(t.fd).faults;
	u32 delay_us = 20000;

	tkm_ioctl(t.fd, TKM_DELAY, &delay_us);
	zap();
	while (tkm_get_stats(t.fd).faults == faults)
		usleep(100);
	delay_us = 0;
	tkm_ioctl(t.fd, TKM_DELAY, &delay_us);
}

/* The new memslot has the same gfn and other memory. */
static void race_delete(void *other, u64 other_value)
{
	catch_vcpu_in_fault();
	expect_change(false, 0);
	remove_slot();
	set_slot(0, MEM_GPA, t.size, other);
	expect_change(true, other_value);
	expect_verified(3);

	expect_change(false, 0);
	remove_slot();
	expect_change(true, MMIO_VALUE);
	expect_verified(3);

	expect_change(false, 0);
	restore_slot();
	expect_change(true, t.seed);
	expect_verified(3);
}

/* The memslot goes elsewhere and comes back. */
static void race_move(void *other, u64 other_value)
{
	catch_vcpu_in_fault();
	expect_change(false, 0);
	set_slot(0, MEM_GPA + HUGE_SIZE, t.size, t.hva);
	expect_change(true, MMIO_VALUE);
	expect_verified(3);

	expect_change(false, 0);
	set_slot(0, MEM_GPA, t.size, t.hva);
	expect_change(true, t.seed);
	expect_verified(3);
}

static void slot_race(void (*round)(void *other, u64 other_value))
{
	const u64 other_value = host_value(0, 9);
	pthread_t thread;
	void *other;
	int i;

	other = map_aligned(t.size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*(u64 *)other = other_value;

	expect_change(true, t.seed);
	TEST_ASSERT(!pthread_create(&thread, NULL, reader, NULL),
		    "pthread_create() failed");
	expect_verified(3);
	for (i = 0; i < SLOT_ROUNDS; i++)
		round(other, other_value);

	stop_reader(thread);
	munmap(other, t.size);
}

static void test_slot_deleted(void)
{
	slot_race(race_delete);
}

static void test_slot_moved(void)
{
	slot_race(race_move);
}

#define EXCHANGE_ROUNDS		2000
#define EXCHANGE_MIN_ROUNDS	20
#define EXCHANGE_MAX_SECONDS	20
#define EXCHANGE_MAX_SPIN_NS	256000
/* Coprime to the number of rounds, so that few of them try all delays, too. */
#define EXCHANGE_STRIDE		97

static void spin(long ns)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000000000 +
		 now.tv_nsec - begin.tv_nsec < ns);
}

static void exchange_pages(void)
{
	tkm_exchange(t.fd, 0, 1);
}

/*
 * The host makes the mapping point to another page, which makes the vCPU fault,
 * and back again at any moment of that fault.
 */
static void test_exchange_race(void)
{
	struct timespec begin, now;
	pthread_t thread;
	int i, delay;

	find_two_cpus(cpus);
	pin_thread(0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	host_writes(t.page_size, host_value(0, 9));
	expect_change(true, t.seed);
	TEST_ASSERT(!pthread_create(&thread, NULL, poller, NULL),
		    "pthread_create() failed");
	for (i = 0; i < EXCHANGE_ROUNDS; i++) {
		/* A round takes long if the two threads share a CPU. */
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (i >= EXCHANGE_MIN_ROUNDS &&
		    now.tv_sec - begin.tv_sec > EXCHANGE_MAX_SECONDS)
			break;

		delay = i * EXCHANGE_STRIDE % EXCHANGE_ROUNDS;
		expect_change(false, 0);
		exchange_pages();
		spin((long)delay * EXCHANGE_MAX_SPIN_NS / EXCHANGE_ROUNDS);
		exchange_pages();
		expect_change(true, t.seed);
		expect_verified(1);
	}
	stop_reader(thread);
}

#define HELD_ROUNDS	12
#define HELD_HITS	3

static enum outcome held_outcome;

static void access_memory(unsigned long op)
{
	held_outcome = guest_do(1, op, 0, 8, guest_value(0, 2));
}

/*
 * One access of vCPU 1, whose lookup is held when it knows the answer.  What the
 * host does then makes the answer stale.
 */
static struct access_job held = { .fn = access_memory };

/* The lookup is busy, without preemption, so there have to be two CPUs. */
static void require_held_lookups(void)
{
	open_lookup();
	if (!tkm_can_hold_lookups(lookup_fd))
		skip("lookups cannot be held: %s", strerror(errno));
	if (!find_two_cpus(cpus))
		skip("only one CPU");
}

static void race_held(enum guest_op op, void (*reset)(void),
		      void (*act)(void), void (*check)(void))
{
	int i, hits = 0;
	bool hit;

	pin_thread(0);
	held.cpu = cpus[1];
	/* The next lookup shall be that of the page, rather than of guest code. */
	start_access(&held, op);
	finish_access(&held);
	ASSERT_OUTCOME(held_outcome, DONE);

	for (i = 0; i < HELD_ROUNDS && hits < HELD_HITS; i++) {
		reset();
		zap();
		start_held_access(&held, op, lookup_fd);
		act();
		hit = finish_held_access(&held, lookup_fd);
		ASSERT_OUTCOME(held_outcome, DONE);
		if (hit) {
			hits++;
			check();
		}
	}
	TEST_ASSERT(hits == HELD_HITS, "In time %d times only", hits);
}

static void row_held(void)
{
	require_held_lookups();
	row_anonymous();
}

static void reset_memory(void)
{
	host_writes(0, host_value(0, 1));
}

/* By a page that exists already, lest it be the one that is freed here. */
static void replace_memory(void)
{
	u64 *mem = map(t.page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);

	*mem = host_value(0, 3);
	TEST_ASSERT(mremap(mem, t.page_size, t.page_size,
			   MREMAP_MAYMOVE | MREMAP_FIXED, t.hva) == t.hva,
		    "mremap() failed");
}

static void check_read(void)
{
	assert_result(1, 0, host_value(0, 3));
}

static void test_held_read(void)
{
	race_held(OP_READ, reset_memory, replace_memory, check_read);
}

static void check_written(void)
{
	host_reads(0, guest_value(0, 2));
}

static void test_held_write(void)
{
	race_held(OP_WRITE, reset_memory, replace_memory, check_written);
}

static void row_held_pfnmap(void)
{
	require_held_lookups();
	row_slot_race();
}

static void reset_pages(void)
{
	host_writes(0, host_value(0, 1));
	host_writes(t.page_size, host_value(0, 3));
}

static void test_held_pfnmap(void)
{
	race_held(OP_READ, reset_pages, exchange_pages, check_read);
}

#define ZAP_PASSES	100

#define ZAP_MAX_PAUSE_US	10000u

static struct {
	void (*zap)(void);
	atomic_bool stop;
	atomic_ulong zaps;
	atomic_ulong passes;
} zap_job;

/*
 * A fault that meets a zap is repeated: pause for longer and longer until the
 * guest gets somewhere.
 */
static void *run_zaps(void *arg)
{
	unsigned long passes = 0;
	unsigned int pause_us = 0;

	pin_thread(1);
	while (!atomic_load(&zap_job.stop)) {
		zap_job.zap();
		atomic_fetch_add(&zap_job.zaps, 1);

		if (atomic_load(&zap_job.passes) != passes) {
			passes = atomic_load(&zap_job.passes);
			pause_us = 0;
			continue;
		}
		usleep(pause_us);
		pause_us = min(2 * pause_us + 1, ZAP_MAX_PAUSE_US);
	}
	return NULL;
}

static void zap_race(void (*zap_fn)(void))
{
	unsigned long pass;
	size_t off;
	pthread_t zap_thread;
	u64 val;

	find_two_cpus(cpus);
	pin_thread(0);
	zap_job.zap = zap_fn;
	TEST_ASSERT(!pthread_create(&zap_thread, NULL, run_zaps, NULL),
		    "pthread_create() failed");
	for (pass = 0; pass < ZAP_PASSES || atomic_load(&zap_job.zaps) < ZAP_PASSES;
	     pass++) {
		atomic_store(&zap_job.passes, pass);
		val = guest_value(0, pass);
		ASSERT_OUTCOME(guest_do(0, OP_STRESS, 0, t.size, val), DONE);
		for (off = 0; off < t.size; off += MIN_PAGE_SIZE)
			host_reads(off, val + off);
	}
	atomic_store(&zap_job.stop, true);
	pthread_join(zap_thread, NULL);
	assert_counts("after the race");
}

/*
 * KVM looks pages of VM_PFNMAP VMAs up without taking references, not even for
 * a moment.
 */
static void zap_and_count(void)
{
	zap();
	assert_counts("while the guest runs");
}

static void row_zap_race(void)
{
	setup_region(TKM_PFNMAP_NONCOMPOUND, 0, 32, 4);
	setup_memory();
	create_vm();
}

static void test_zap_race(void)
{
	zap_race(zap_and_count);
}

static void row_zap_race_readonly_pte(void)
{
	setup_region(TKM_PFNMAP_REFCOUNTED, TKM_WRITENOTIFY, 32, 0);
	setup_memory();
	create_vm();
}

static void zap_shmem(void)
{
	madvise(t.hva, t.size, MADV_DONTNEED);
}

static void test_zap_race_shmem(void)
{
	zap_race(zap_shmem);
}

/*
 * ---------------------------------------------------------------------------
 * No guest write is lost
 * ---------------------------------------------------------------------------
 */

#define DIRTY_PAGES	16
#define DIRTY_ROUNDS	24
#define ZRAM_SIZE	(8l << 20)

static long zram_id = -1;
static char zram_path[40];

static void remove_zram(void)
{
	char path[60];

	snprintf(path, sizeof(path), "/sys/block/zram%ld/reset", zram_id);
	write_number(path, 1);
	write_number("/sys/class/zram-control/hot_remove", zram_id);
}

/* A fresh block device, so that nobody's data is in danger. */
static void add_zram(void)
{
	char path[60];

	zram_id = read_number("/sys/class/zram-control/hot_add");
	if (zram_id < 0)
		skip("no zram");
	atexit(remove_zram);
	snprintf(path, sizeof(path), "/sys/block/zram%ld/disksize", zram_id);
	write_number(path, ZRAM_SIZE);
	snprintf(zram_path, sizeof(zram_path), "/dev/zram%ld", zram_id);
}

static const char *swap_path;

static void remove_swap(void)
{
	if (swapoff(swap_path))
		perror("swapoff");
}

static void swap_to(const char *path)
{
	struct {
		char bootbits[1024];
		u32 version;
		u32 last_page;
	} header = {
		.version = 1,
		.last_page = ZRAM_SIZE / t.page_size - 1,
	};
	int fd;

	fd = open(path, O_WRONLY);
	TEST_ASSERT(fd >= 0, "%s cannot be used", path);
	TEST_ASSERT(pwrite(fd, &header, sizeof(header), 0) == sizeof(header) &&
		    pwrite(fd, "SWAPSPACE2", 10, t.page_size - 10) == 10 &&
		    !fsync(fd), "%s cannot be used", path);
	close(fd);
	TEST_ASSERT(!swapon(path, 0), "swapon(%s) failed", path);
	swap_path = path;
	atexit(remove_swap);
}

/*
 * New pages wait in a batch of the CPU that made them before they get onto an
 * LRU list, and so do pages after MADV_FREE.  Until then they cannot be evicted,
 * and MADV_PAGEOUT drains the batches of its own CPU only.
 */
static void stay_on_this_cpu(void)
{
	int cpu = sched_getcpu();

	TEST_ASSERT(cpu >= 0, "sched_getcpu() failed");
	kvm_pin_this_task_to_pcpu(cpu);
}

static void add_swap(void)
{
	add_zram();
	swap_to(zram_path);
}

/* Count the pages of the slot that are not in memory any more. */
static int nr_evicted(void)
{
	unsigned char resident[DIRTY_PAGES];
	int i, n = 0;

	TEST_ASSERT(!mincore(t.hva, t.size, resident), "mincore() failed");
	for (i = 0; i < DIRTY_PAGES; i++)
		n += !(resident[i] & 1);
	return n;
}

static int evict_to_swap(int fd)
{
	TEST_ASSERT(!madvise(t.hva, t.size, MADV_PAGEOUT),
		    "MADV_PAGEOUT failed");
	return nr_evicted();
}

static int evict_to_disk(int fd)
{
	TEST_ASSERT(!fsync(fd), "fsync() failed");
	TEST_ASSERT(!madvise(t.hva, t.size, MADV_DONTNEED),
		    "MADV_DONTNEED failed");
	/* Drops what is clean: data whose page was not marked dirty is lost. */
	posix_fadvise(fd, 0, t.size, POSIX_FADV_DONTNEED);
	return nr_evicted();
}

/*
 * Evict pages between all sequences of accesses that leave a writable mapping
 * behind, made by a read or by a write, before or after the page was cleaned.
 */
static void no_write_is_lost(int (*evict)(int fd), int fd)
{
	u64 values[DIRTY_PAGES] = { };
	int evicted = 0, round, i;
	size_t off;

	for (round = 0; round < DIRTY_ROUNDS; round++) {
		for (i = 0; i < DIRTY_PAGES; i++) {
			off = i * t.page_size;
			if (round & 1)
				guest_reads(off, values[i]);
			if ((round + i) & 2)
				host_writes(off, host_value(off, round));
			if ((round + i) & 4)
				guest_do(0, OP_READ, off, 8, 0);
			values[i] = guest_value(off, round);
		}
		if (round & 8)
			evicted += evict(fd);
		for (i = 0; i < DIRTY_PAGES; i++)
			guest_writes(i * t.page_size, values[i]);
		evicted += evict(fd);
		for (i = 0; i < DIRTY_PAGES; i++) {
			off = i * t.page_size;
			if ((round + i) & 1)
				guest_reads(off, values[i]);
			else
				host_reads(off, values[i]);
		}
		/* In memory, maybe with a clean copy elsewhere. */
		for (i = 0; i < DIRTY_PAGES; i += 3) {
			values[i] = ~values[i];
			guest_writes(i * t.page_size, values[i]);
		}
		evicted += evict(fd);
		for (i = 0; i < DIRTY_PAGES; i++)
			host_reads(i * t.page_size, values[i]);
	}

	TEST_ASSERT(evicted > DIRTY_PAGES * DIRTY_ROUNDS,
		    "Only %d pages were evicted", evicted);
}

static void row_dirty_swap(void)
{
	stay_on_this_cpu();
	add_swap();
	setup_anonymous();
	create_vm();
}

static void test_dirty_swap(void)
{
	no_write_is_lost(evict_to_swap, -1);
}

static void row_dirty_shmem_swap(void)
{
	stay_on_this_cpu();
	add_swap();
	row_shmem();
	/* Pages with a second mapping are not paged out. */
	drop_view();
	host_writes(0, 0);
}

static void row_dirty_madv_free(void)
{
	stay_on_this_cpu();
	row_anonymous();
}

/*
 * MADV_FREE makes pages clean, but leaves them writable in the host's page
 * table: it is only KVM that knows of a guest write, or of the possibility of
 * one, and must mark the page dirty.
 */
static void test_dirty_madv_free(void)
{
	int round, i, nr_discarded = 0;
	size_t off;

	for (round = 0; round < DIRTY_ROUNDS; round++) {
		for (off = 0; off < t.size; off += t.page_size)
			guest_writes(off, host_value(off, round));
		TEST_ASSERT(!madvise(t.hva, t.size, MADV_FREE),
			    "MADV_FREE failed");
		/*
		 * Read and write, or write only.  Leave the other half alone:
		 * KVM may map the neighbours of a page in advance, and then
		 * must mark these as well.
		 */
		for (i = 0; i < DIRTY_PAGES / 2; i++) {
			off = i * t.page_size;
			if ((round + i) & 1)
				guest_reads(off, host_value(off, round));
			guest_writes(off, guest_value(off, round));
		}
		TEST_ASSERT(!madvise(t.hva, t.size, MADV_PAGEOUT),
			    "MADV_PAGEOUT failed");
		for (i = 0; i < DIRTY_PAGES; i++) {
			off = i * t.page_size;
			if (i < DIRTY_PAGES / 2)
				host_reads(off, guest_value(off, round));
			else
				nr_discarded += !READ_ONCE(*(u64 *)(t.hva + off));
		}
	}

	TEST_ASSERT(nr_discarded, "MADV_FREE had no effect");
}

static int dirty_fd = -1;

/* The device cannot be removed before that. */
static void drop_dirty_file(void)
{
	if (dirty_fd < 0)
		return;

	munmap(t.hva, t.size);
	t.hva = NULL;
	t.view = NULL;
	close(dirty_fd);
	dirty_fd = -1;
}

static void row_dirty_file(void)
{
	add_zram();
	atexit(drop_dirty_file);
	dirty_fd = open(zram_path, O_RDWR);
	TEST_ASSERT(dirty_fd >= 0, "%s cannot be used", zram_path);
	t.size = 16 * t.page_size;
	t.hva = map_aligned(t.size, t.prot, MAP_SHARED, dirty_fd);
	t.view = t.hva;
	create_vm();
}

static void test_dirty_file(void)
{
	no_write_is_lost(evict_to_disk, dirty_fd);
	drop_dirty_file();
}

#ifdef __x86_64__
/*
 * ---------------------------------------------------------------------------
 * Page faults that the guest is told of
 * ---------------------------------------------------------------------------
 */

static void require_async_pf(void)
{
	if (!kvm_cpu_has(X86_FEATURE_KVM_ASYNC_PF_INT))
		skip("KVM has no asynchronous page faults");
}

/* Have the guest of vCPU 0 do something else while it waits for a page. */
static void enable_async_pf(void)
{
	u64 gpa = addr_gva2gpa(t.vm, (vm_vaddr_t)&async_pf.data);

	vm_install_exception_handler(t.vm, PF_VECTOR, guest_page_not_present);
	vm_install_exception_handler(t.vm, ASYNC_PF_VECTOR, guest_page_ready);
	ASSERT_OUTCOME(guest_do(0, OP_ENABLE_ASYNC_PF, 0, 0, gpa), DONE);
	alarm(ASYNC_PF_SECONDS);
}

/* Each page was announced twice: as not present, and as ready. */
static void assert_async_pf_events(u64 nr)
{
	sync_global_from_guest(t.vm, async_pf);
	TEST_ASSERT(async_pf.nr_not_present == nr && async_pf.nr_ready == nr,
		    "Guest was told %lu times that it has to wait, %lu times of a page, instead of %lu",
		    async_pf.nr_not_present, async_pf.nr_ready, nr);
}

static void row_async_pf_guest(void)
{
	require_async_pf();
	row_uffd();
}

static void row_async_pf_guest_readonly_slot(void)
{
	require_async_pf();
	row_async_pf_readonly_slot();
}

static void row_async_pf_guest_prot_read(void)
{
	require_async_pf();
	row_async_pf_prot_read();
}

/* The guest runs, and even userspace does, while a worker waits for the page. */
static void test_async_pf_guest(void)
{
	size_t off;
	int nr = 0;
	u64 addr;

	enable_async_pf();
	for (off = 0; off < 4 * t.page_size; off += t.page_size) {
		ASSERT_OUTCOME(guest_do(0, OP_READ_INTERRUPTIBLE, off, 8, 0),
			       DONE);
		TEST_ASSERT_EQ(t.result[0], ASYNC_PF_WAITS);

		addr = uffd_wait();
		TEST_ASSERT_EQ(addr, (uintptr_t)t.hva + off);
		TEST_ASSERT(uffd_fault_thread != syscall(SYS_gettid),
			    "The vCPU itself waits for the page");
		uffd_supply(addr);

		ASSERT_OUTCOME(resume(0), DONE);
		assert_result(0, off, host_value(0, 7));
		host_reads(off, host_value(0, 7));
		assert_async_pf_events(++nr);
	}
}

static void row_async_pf_guest_broken(void)
{
	require_async_pf();
	row_async_pf_broken();
}

/*
 * No task hears that its page cannot be brought in before the others have heard
 * the same of theirs, and yet userspace hears of each.
 */
static void test_async_pf_guest_broken(void)
{
	int i;

	enable_async_pf();
	ASSERT_OUTCOME(guest_do(0, OP_READ_BY_TASKS, 0, 0, 0), FAULT);
	for (i = 1; i < NR_TASKS; i++)
		ASSERT_OUTCOME(resume(0), FAULT);
	sync_global_from_guest(t.vm, async_pf);
	TEST_ASSERT(async_pf.nr_not_present >= NR_TASKS,
		    "Only %lu asynchronous page faults", async_pf.nr_not_present);

	break_memory(0);
	ASSERT_OUTCOME(resume(0), DONE);
	for (i = 0; i < NR_TASKS; i++)
		note_guest_mapping(i * t.page_size);
}

static char loop_path[40];
static int loop_fd;

static void remove_loop(void)
{
	if (ioctl(loop_fd, LOOP_CLR_FD, 0))
		perror("LOOP_CLR_FD");
	close(loop_fd);
}

/* A swap device that takes its time: reads from zram itself never wait. */
static void add_slow_swap(void)
{
	int control = open("/dev/loop-control", O_RDWR);
	int nr, fd;

	if (control < 0)
		skip("/dev/loop-control: %s", strerror(errno));
	nr = ioctl(control, LOOP_CTL_GET_FREE);
	TEST_ASSERT(nr >= 0, "LOOP_CTL_GET_FREE failed");
	close(control);

	add_zram();
	fd = open(zram_path, O_RDWR);
	TEST_ASSERT(fd >= 0, "%s cannot be used", zram_path);
	snprintf(loop_path, sizeof(loop_path), "/dev/loop%d", nr);
	loop_fd = open(loop_path, O_RDWR);
	TEST_ASSERT(loop_fd >= 0 && !ioctl(loop_fd, LOOP_SET_FD, fd),
		    "%s cannot be used", loop_path);
	atexit(remove_loop);
	close(fd);
	swap_to(loop_path);
}

#define PAGE_CLUSTER	"/proc/sys/vm/page-cluster"

static long page_cluster_before;

static void restore_page_cluster(void)
{
	write_number(PAGE_CLUSTER, page_cluster_before);
}

static void row_swapped_out(void)
{
	int i;

	require_async_pf();
	add_slow_swap();
	/* Read one page at a time. */
	page_cluster_before = read_number(PAGE_CLUSTER);
	atexit(restore_page_cluster);
	write_number(PAGE_CLUSTER, 0);

	setup_anonymous();
	for (i = 0; i < DIRTY_PAGES; i++)
		host_writes(i * t.page_size, host_value(i, 0));
	create_vm();
}

static void row_swapped_out_readonly_slot(void)
{
	require_readonly_slots();
	row_swapped_out();
}

static void row_swapped_out_prot_read(void)
{
	row_swapped_out();
	set_prot(PROT_READ);
}

/* A page goes in two steps: it is clean only when its write is complete. */
static void swap_out_all(void)
{
	int i, n;

	for (n = 0; evict_to_swap(-1) < DIRTY_PAGES; n++) {
		TEST_ASSERT(n < 100, "Pages stay in memory");
		usleep(1000);
		for (i = 0; i < DIRTY_PAGES; i++)
			host_reads(i * t.page_size, host_value(i, 0));
		/* Take them from the CPUs' lists, where nobody can evict them. */
		write_number("/proc/sys/vm/drop_caches", 1);
	}
}

static void test_swapped_out(void)
{
	enum outcome outcome;
	int i, waits = 0;
	size_t off;

	swap_out_all();
	enable_async_pf();
	for (i = 0; i < DIRTY_PAGES; i++) {
		off = i * t.page_size;
		outcome = guest_do(0, OP_READ_INTERRUPTIBLE, off, 8, 0);
		if (outcome == DONE && t.result[0] == ASYNC_PF_WAITS) {
			waits++;
			outcome = resume(0);
		}
		ASSERT_OUTCOME(outcome, DONE);
		assert_result(0, off, host_value(i, 0));
	}
	assert_async_pf_events(waits);
	/* The device may be faster than the vCPU now and then. */
	TEST_ASSERT(waits >= DIRTY_PAGES / 2,
		    "Guest could do something else for only %d of %d pages",
		    waits, DIRTY_PAGES);
}
#endif /* __x86_64__ */

#ifdef __aarch64__
/*
 * ---------------------------------------------------------------------------
 * Memory tags
 * ---------------------------------------------------------------------------
 */

#define TAGS_PER_PAGE		(MIN_PAGE_SIZE / 16)
#define MAX_TAGS		(DIRTY_PAGES * TAGS_PER_PAGE)
#define MTE_ROUNDS		8

static void require_mte(void)
{
	if (!kvm_has_cap(KVM_CAP_ARM_MTE))
		skip("this machine has no memory tags");
	t.vm_cap = KVM_CAP_ARM_MTE;
}

/* Returns the number of bytes of memory, or -1. */
static int copy_tags(size_t off, size_t len, u8 *tags, u64 flags)
{
	struct kvm_arm_copy_mte_tags copy = {
		.guest_ipa = MEM_GPA + off,
		.length = len,
		.addr = tags,
		.flags = flags,
	};

	return __vm_ioctl(t.vm, KVM_ARM_MTE_COPY_TAGS, &copy);
}

static void expect_tags(const u8 *expected, const char *when)
{
	u8 tags[MAX_TAGS];
	size_t i;

	memset(tags, 0xff, sizeof(tags));
	TEST_ASSERT_EQ(copy_tags(0, t.size, tags, KVM_ARM_TAGS_FROM_GUEST),
		       (int)t.size);
	for (i = 0; i < t.size / 16; i++)
		TEST_ASSERT(tags[i] == expected[i],
			    "%s: tag %zu is %u instead of %u", when, i, tags[i],
			    expected[i]);
}

/*
 * Different from page to page, but with only two tags for each of them: QEMU 7.2
 * ignores where in its page an even, or an odd, granule is.
 */
static void set_tags(u8 *tags, int round)
{
	size_t i;

	for (i = 0; i < t.size / 16; i++)
		tags[i] = (i / TAGS_PER_PAGE + 3 * (i & 1) + round) & 0xf;
	TEST_ASSERT_EQ(copy_tags(0, t.size, tags, 0), (int)t.size);
}

static void row_mte_copy_tags(void)
{
	require_mte();
	row_anonymous();
}

static void test_mte_copy_tags(void)
{
	u8 tags[MAX_TAGS] = { };

	expect_tags(tags, "before any access");
	set_tags(tags, 1);
	expect_tags(tags, "before guest accesses");
	guest_reads(0, t.seed);
	check_pages(1);
	expect_tags(tags, "after guest accesses");
	set_tags(tags, 2);
	expect_tags(tags, "of memory that the guest has mapped");
	check_pages(2);
}

static void row_mte_swap(void)
{
	require_mte();
	row_dirty_swap();
}

/*
 * Pages with new tags are swapped out, not discarded like those that nobody has
 * touched since MADV_FREE: setting tags makes them dirty.
 */
static void test_mte_swap(void)
{
	int round, i, evicted = 0;
	u8 tags[MAX_TAGS];

	for (round = 0; round < MTE_ROUNDS; round++) {
		for (i = 0; i < DIRTY_PAGES; i++)
			host_writes(i * t.page_size, host_value(i, round));
		TEST_ASSERT(!madvise(t.hva, t.size, MADV_FREE),
			    "MADV_FREE failed");
		set_tags(tags, round);
		/* The first attempt only finds out that they are dirty. */
		evict_to_swap(-1);
		evicted += evict_to_swap(-1);
		expect_tags(tags, "after a swap");
		for (i = 0; i < DIRTY_PAGES; i++)
			guest_reads(i * t.page_size, host_value(i, round));
	}
	TEST_ASSERT(evicted > DIRTY_PAGES * MTE_ROUNDS / 2,
		    "Only %d pages were evicted", evicted);
}

/*
 * A memslot of a device's memory is refused to a VM with tags, but the VMA may
 * be replaced later.
 */
static void create_vm_and_replace_memory(int fd)
{
	t.hva = map_aligned(t.size, t.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	create_vm();
	TEST_ASSERT(mmap(t.hva, t.size, t.prot, MAP_SHARED | MAP_FIXED, fd, 0)
		    == t.hva, "mmap() failed");
}

static void row_mte_thp(void)
{
	require_mte();
	open_lookup();
	row_thp();
}

static size_t nr_tagged(size_t size)
{
	struct tkm_page page;
	size_t off, nr = 0;

	for (off = 0; off < size; off += t.page_size) {
		page = tkm_lookup(lookup_fd, t.hva + off);
		page = tkm_get_page(lookup_fd, page.pfn);
		nr += !!(page.flags & TKM_PAGE_TAGGED);
	}
	return nr;
}

/*
 * The pages that a write maps with its own have tags of theirs, too: logging maps
 * by pages, and what it has write-protected is mapped by a block later.
 */
static void test_mte_thp(void)
{
	set_slot(KVM_MEM_LOG_DIRTY_PAGES, MEM_GPA, t.size, t.hva);
	guest_writes(0, guest_value(0, 1));
	assert_dirty(0, true);
	TEST_ASSERT_EQ(nr_tagged(HUGE_SIZE), 1);

	set_slot(0, MEM_GPA, t.size, t.hva);
	guest_writes(0, guest_value(0, 2));
	TEST_ASSERT_EQ(nr_tagged(HUGE_SIZE), HUGE_SIZE / t.page_size);
}

static void row_mte_mixedmap(void)
{
	require_mte();
	create_region(TKM_MIXEDMAP_NORMAL, 0, 16, 0);
	create_vm_and_replace_memory(t.fd);
}

/* Ordinary pages, the references to which are known exactly. */
static void test_mte_mixedmap(void)
{
	u8 tags[MAX_TAGS] = { };
	size_t off;

	/* The host maps what is looked up. */
	for (off = 0; off < t.size; off += t.page_size)
		note_guest_mapping(off);
	expect_tags(tags, "before they are set");
	assert_counts("after reading tags");
	set_tags(tags, 1);
	assert_counts("after writing tags");
	expect_tags(tags, "after they were set");
	assert_counts("after reading tags again");

	/* Copies that fail, with the page at hand. */
	TEST_ASSERT_EQ(copy_tags(0, t.size, NULL, KVM_ARM_TAGS_FROM_GUEST), -1);
	TEST_ASSERT_EQ(copy_tags(0, t.size, NULL, 0), -1);
	assert_counts("after failing copies");
}

static void row_mte_pfnmap(void)
{
	require_mte();
	create_region(TKM_PFNMAP_REFCOUNTED, 0, 16, 0);
	create_vm_and_replace_memory(t.fd);
}

static void expect_no_tags(void)
{
	u8 tags[MAX_TAGS] = { };

	TEST_ASSERT(copy_tags(0, t.page_size, tags, KVM_ARM_TAGS_FROM_GUEST) ==
		    -1 && errno == EFAULT, "Tags can be read");
	TEST_ASSERT(copy_tags(t.page_size, t.page_size, tags, 0) == -1 &&
		    errno == EFAULT, "Tags can be written");
	ASSERT_OUTCOME(guest_do(0, OP_READ, 0, 8, 0), FAULT);
	ASSERT_OUTCOME(guest_do(1, OP_WRITE, t.page_size, 8, 1), FAULT);
}

static void test_mte_pfnmap(void)
{
	expect_no_tags();
	/* Entries that the host has made. */
	READ_ONCE(*(u64 *)t.hva);
	WRITE_ONCE(*(u64 *)(t.hva + t.page_size), 2);
	expect_no_tags();
	assert_counts("after refused accesses");
	host_reads(t.page_size, 2);
}

static void row_mte_dax(void)
{
	int fd;

	require_mte();
	open_lookup();
	fd = open_dax();
	t.size = HUGE_SIZE;
	create_vm_and_replace_memory(fd);
	close(fd);
}

static void test_mte_dax(void)
{
	s32 refcount = lookup_refcount(t.hva);
	u8 tags[MAX_TAGS] = { };
	int i;

	for (i = 0; i < 4; i++) {
		TEST_ASSERT(copy_tags(0, t.page_size, tags,
				      KVM_ARM_TAGS_FROM_GUEST) == -1 &&
			    errno == EFAULT, "Tags can be read");
		TEST_ASSERT(copy_tags(0, t.page_size, tags, 0) == -1 &&
			    errno == EFAULT, "Tags can be written");
	}
	TEST_ASSERT_EQ(lookup_refcount(t.hva), refcount);
}
#endif /* __aarch64__ */

/*
 * ---------------------------------------------------------------------------
 * The test module itself
 * ---------------------------------------------------------------------------
 */

static void assert_refused(unsigned long cmd, void *arg, int err)
{
	int ret = ioctl(t.fd, cmd, arg);

	TEST_ASSERT(ret == -1 && errno == err,
		    "ioctl 0x%lx returned %d, errno %d instead of %d", cmd, ret,
		    errno, err);
}

static void row_module(void)
{
	t.fd = open_module();
}

static void test_module(void)
{
	static const struct tkm_create bad_creates[] = {
		{ .kind = 0, .nr_pages = 1 },
		{ .kind = TKM_MIXEDMAP_SPECIAL + 1, .nr_pages = 1 },
		{ .kind = TKM_PFNMAP_REFCOUNTED, .nr_pages = 0 },
		{ .kind = TKM_PFNMAP_REFCOUNTED, .nr_pages = TKM_MAX_PAGES + 1 },
		{ .kind = TKM_PFNMAP_REFCOUNTED, .nr_pages = 2, .order = 1 },
		{ .kind = TKM_PFNMAP_REFCOUNTED, .nr_pages = 1, .flags = 1u << 31 },
		{ .kind = TKM_PFNMAP_REFCOUNTED, .nr_pages = 1,
		  .flags = TKM_EAGER | TKM_WRITENOTIFY },
		{ .kind = TKM_PFNMAP_NONCOMPOUND, .nr_pages = 3, .order = 1 },
		{ .kind = TKM_PFNMAP_NONCOMPOUND, .nr_pages = 64, .order = 64 },
		{ .kind = TKM_MIXEDMAP_NORMAL, .nr_pages = 1, .flags = TKM_IO },
	};
	struct tkm_create create = {
		.kind = TKM_PFNMAP_REFCOUNTED,
		.nr_pages = 4,
	};
	struct tkm_range range = { .first = 3, .nr = 1 };
	struct tkm_counts counts = { .nr = 4 };
	struct tkm_poison poison = { .nr = 1, .on = 2 };
	struct tkm_exchange exchange = { .a = 0, .b = 4 };
	u32 delay_us = TKM_MAX_DELAY_US + 1, broken = 2;
	char bytes[16];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad_creates); i++)
		assert_refused(TKM_CREATE, (void *)&bad_creates[i], EINVAL);
	assert_refused(TKM_CREATE, NULL, EFAULT);

	/* Nothing to work on yet. */
	assert_refused(TKM_ZAP, &range, ENXIO);
	TEST_ASSERT(pread(t.fd, bytes, 1, 0) == -1 && errno == ENXIO,
		    "pread() of nothing succeeds");
	TEST_ASSERT(mmap(NULL, t.page_size, PROT_READ, MAP_SHARED, t.fd, 0) ==
		    MAP_FAILED && errno == ENXIO, "mmap() of nothing succeeds");

	tkm_ioctl(t.fd, TKM_CREATE, &create);
	assert_refused(TKM_CREATE, &create, EBUSY);
	t.nr_pages = create.nr_pages;
	get_counts(t.initial);
	tkm_ioctl(t.fd, TKM_ZAP, &range);

	/* Beyond the end, also by an overflow. */
	range.nr = 2;
	assert_refused(TKM_ZAP, &range, EINVAL);
	range.nr = -3;
	assert_refused(TKM_ZAP, &range, EINVAL);
	range.nr = 0;
	assert_refused(TKM_ZAP, &range, EINVAL);
	assert_refused(TKM_COUNTS, &counts, EFAULT);
	counts.nr = 5;
	assert_refused(TKM_COUNTS, &counts, EINVAL);
	assert_refused(TKM_POISON, &poison, EINVAL);
	assert_refused(TKM_EXCHANGE, &exchange, EINVAL);
	assert_refused(TKM_DELAY, &delay_us, EINVAL);
	assert_refused(TKM_BREAK, &broken, EINVAL);
	assert_refused(_IO('k', 0xff), NULL, ENOTTY);

	TEST_ASSERT_EQ(pread(t.fd, bytes, 16, 4 * t.page_size - 8), 8);
	TEST_ASSERT_EQ(pread(t.fd, bytes, 16, 4 * t.page_size), 0);
	TEST_ASSERT(mmap(NULL, 5 * t.page_size, PROT_READ, MAP_SHARED, t.fd, 0)
		    == MAP_FAILED, "mmap() beyond the end succeeds");
	TEST_ASSERT(mmap(NULL, t.page_size, PROT_READ, MAP_PRIVATE, t.fd, 0) ==
		    MAP_FAILED, "A private mapping succeeds");
}

/*
 * ---------------------------------------------------------------------------
 * The list of tests, and how they are run
 * ---------------------------------------------------------------------------
 */

/*
 * @setup makes the memory and the VM, up to where the guest first touches the
 * memory.  Rows with a @label are shown in the table.
 */
static const struct row {
	const char *name;
	void (*setup)(void);
	void (*test)(void);
	const char *label;
} rows[] = {
	{ "anonymous", row_anonymous, test_maps, "anonymous" },
	{ "thp", row_thp, test_maps_thp, "THP" },
	{ "hugetlb", row_hugetlb, test_maps_huge, "hugetlb" },
	{ "hugetlb_part", row_hugetlb_part, test_hugetlb_part },
	{ "hugetlb_dirty_log", row_hugetlb, test_hugetlb_dirty_log },
	{ "sparse_unmap", row_sparse, test_sparse_unmap },
	{ "sparse_slot", row_sparse, test_sparse_slot },
	{ "sparse_dirty_log", row_sparse, test_sparse_dirty_log },
	{ "shmem", row_shmem, test_maps, "shmem" },
	{ "file", row_file, test_maps, "file" },
	{ "dax", row_dax, test_maps, "DAX" },
	{ "zero_page", row_zero_page, test_zero_page, "zero page" },
	{ "private_snapshot", row_private_snapshot, test_private_snapshot,
	  "MAP_PRIVATE snapshot" },
	{ "cow", row_cow, test_cow },
	{ "cow_zero_page", row_zero_page, test_cow },
	{ "cow_private_file", row_private_snapshot, test_cow_private_file },
	{ "cow_thp", row_cow_thp, test_cow },
	{ "ksm", row_ksm, test_ksm, "KSM page" },
#ifdef __x86_64__
	{ "private", row_private, test_private, "guest_memfd, private" },
#endif
	{ "prot_read", row_prot_read, test_prot_read,
	  "PROT_READ VMA, writable slot" },
	{ "pfnmap_pageless", row_pfnmap_pageless, test_maps_all,
	  "PFNMAP, no struct page" },
	{ "pfnmap_pageless_remap", row_pfnmap_pageless_remap, test_maps_all },
	{ "pfnmap_noncompound_head", row_noncompound_head,
	  test_noncompound_head, "PFNMAP, non-compound head page" },
	{ "pfnmap_noncompound_tail", row_noncompound_tail, test_noncompound,
	  "PFNMAP, non-compound tail page" },
	{ "pfnmap_noncompound_remap", row_noncompound_remap, test_noncompound },
	{ "pfnmap_refcounted", row_pfnmap_refcounted, test_maps_all,
	  "PFNMAP, refcounted page" },
	{ "pfnmap_file_offset", row_pfnmap_file_offset, test_pfnmap_file_offset },
	{ "pfnmap_not_marked", row_pfnmap_refcounted, test_pfnmap_not_marked },
	{ "pfnmap_reserved", row_pfnmap_reserved, test_pfnmap_reserved,
	  "PFNMAP, reserved page" },
	{ "pci_bar", row_pci_bar, test_maps, "PCI BAR" },
	{ "pfnmap_readonly_pte", row_pfnmap_readonly_pte,
	  test_pfnmap_readonly_pte, "PFNMAP, read-only PTE" },
#ifdef __x86_64__
	{ "pfnmap_readonly_pte_x87", row_pfnmap_readonly_pte,
	  test_pfnmap_readonly_pte_x87 },
#endif
	{ "pfnmap_prot_read_present", row_pfnmap_prot_read_present,
	  test_pfnmap_prot_read, "PFNMAP, PROT_READ VMA, PTE present" },
	{ "pfnmap_prot_read_absent", row_pfnmap_prot_read_absent,
	  test_pfnmap_prot_read, "PFNMAP, PROT_READ VMA, PTE absent" },
	{ "pfnmap_writecombine", row_pfnmap_writecombine, test_maps_all,
	  "PFNMAP, write-combined" },
	{ "mixedmap_normal", row_mixedmap_normal, test_maps_all,
	  "MIXEDMAP, normal entry" },
	{ "mixedmap_special", row_mixedmap_special, test_mixedmap_special,
	  "MIXEDMAP, special entry" },
	{ "readonly_slot", row_readonly_slot, test_readonly_slot,
	  "read-only slot" },
	{ "readonly_slot_pfnmap", row_readonly_slot_pfnmap, test_readonly_slot,
	  "read-only slot, PFNMAP" },
	{ "readonly_slot_unemulatable", row_readonly_slot,
	  test_readonly_slot_unemulatable },
	{ "romd", row_readonly_slot, test_romd },
	{ "romd_pfnmap", row_readonly_slot_pfnmap, test_romd },
#ifdef __x86_64__
	{ "async_pf", row_uffd, test_async_pf },
	{ "async_pf_readonly_slot", row_async_pf_readonly_slot, test_async_pf },
	{ "async_pf_prot_read", row_async_pf_prot_read, test_async_pf },
	{ "async_pf_fails", row_uffd, test_async_pf_fails },
	{ "async_pf_fails_readonly_slot", row_async_pf_readonly_slot,
	  test_async_pf_fails },
	{ "async_pf_broken", row_async_pf_broken, test_async_pf_broken },
	{ "async_pf_broken_readonly_slot", row_async_pf_broken_readonly_slot,
	  test_async_pf_broken },
	{ "async_pf_mixedmap_special", row_mixedmap_special,
	  test_mixedmap_special_async },
	{ "async_pf_mixedmap_special_readonly_slot",
	  row_mixedmap_special_readonly_slot, test_mixedmap_special_async },
	{ "async_pf_guest", row_async_pf_guest, test_async_pf_guest },
	{ "async_pf_guest_broken", row_async_pf_guest_broken,
	  test_async_pf_guest_broken },
	{ "async_pf_guest_readonly_slot", row_async_pf_guest_readonly_slot,
	  test_async_pf_guest },
	{ "async_pf_guest_prot_read", row_async_pf_guest_prot_read,
	  test_async_pf_guest },
	{ "swapped_out", row_swapped_out, test_swapped_out },
	{ "swapped_out_readonly_slot", row_swapped_out_readonly_slot,
	  test_swapped_out },
	{ "swapped_out_prot_read", row_swapped_out_prot_read,
	  test_swapped_out },
#endif
	{ "signal", row_uffd, test_signal },
	{ "hole", row_hole, test_faults, "hole" },
	{ "prot_none", row_prot_none, test_faults, "PROT_NONE" },
	{ "secretmem", row_secretmem, test_faults },
#ifdef __x86_64__
	{ "pkey", row_pkey, test_faults },
#endif
	{ "hwpoison", row_hwpoison, test_hwpoison, "poisoned page" },
	{ "hwpoison_readonly_slot", row_hwpoison_readonly_slot, test_hwpoison },
	{ "hwpoison_hugetlb", row_hwpoison_hugetlb, test_hwpoison },
	{ "hwpoison_shmem", row_hwpoison_shmem, test_hwpoison },
	{ "hwpoison_page_cache", row_hwpoison_page_cache, test_hwpoison },
	{ "pfnmap_hwpoison", row_pfnmap_hwpoison, test_pfnmap_hwpoison,
	  "PFNMAP, poisoned page" },
#ifdef __aarch64__
	{ "exec", row_exec, test_exec },
	{ "exec_pfnmap", row_exec_pfnmap, test_exec },
	{ "exec_pfnmap_writecombine", row_exec_pfnmap_writecombine,
	  test_exec_aborts },
	{ "exec_pfnmap_writecombine_entries",
	  row_exec_pfnmap_writecombine_entries, test_exec_aborts },
	{ "exec_mixedmap_writecombine", row_exec_mixedmap_writecombine,
	  test_exec_aborts },
	{ "exec_pfnmap_pageless", row_exec_pfnmap_pageless, test_exec_aborts },
	{ "exec_dax", row_exec_dax, test_exec_dax },
	{ "exec_block_logged", row_exec_block_logged, test_exec_block_logged },
#endif
	{ "slot_deleted", row_slot_race, test_slot_deleted },
	{ "slot_moved", row_slot_race, test_slot_moved },
	{ "exchange_race", row_slot_race, test_exchange_race },
	{ "held_read", row_held, test_held_read },
	{ "held_write", row_held, test_held_write },
	{ "held_pfnmap", row_held_pfnmap, test_held_pfnmap },
	{ "zap_race", row_zap_race, test_zap_race },
	{ "zap_race_readonly_pte", row_zap_race_readonly_pte, test_zap_race },
	{ "zap_race_shmem", row_shmem, test_zap_race_shmem },
	{ "dirty_swap", row_dirty_swap, test_dirty_swap },
	{ "dirty_shmem_swap", row_dirty_shmem_swap, test_dirty_swap },
	{ "dirty_madv_free", row_dirty_madv_free, test_dirty_madv_free },
	{ "dirty_file", row_dirty_file, test_dirty_file },
#ifdef __aarch64__
	{ "mte_copy_tags", row_mte_copy_tags, test_mte_copy_tags },
	{ "mte_swap", row_mte_swap, test_mte_swap },
	{ "mte_thp", row_mte_thp, test_mte_thp },
	{ "mte_mixedmap", row_mte_mixedmap, test_mte_mixedmap },
	{ "mte_pfnmap", row_mte_pfnmap, test_mte_pfnmap },
	{ "mte_dax", row_mte_dax, test_mte_dax },
#endif
	{ "module", row_module, test_module },
};

/* Whether what a guest writes arrives where others, if anybody, look for it. */
static bool arrives(size_t off, u64 expected)
{
	u64 val;

	if (t.guest_memfd >= 0)
		return READ_ONCE(*(u64 *)(t.view + off)) != expected &&
		       guest_do(1, OP_READ, off, 8, 0) == DONE &&
		       t.result[1] == expected;

	if (t.fd < 0)
		val = READ_ONCE(*(u64 *)(t.view + off));
	else if (pread(t.fd, &val, 8, off) != 8)
		return false;

	return val == expected;
}

static enum outcome probe_read(size_t off)
{
	enum outcome outcome = guest_do(0, OP_READ, off, 8, 0);

	report->read = "no";
	if (outcome == DONE)
		report->read = t.result[0] == t.seed ? "ok" : "WRONG";
	return outcome;
}

/* On another vCPU: the one that reads may be stuck. */
static enum outcome probe_write(size_t off)
{
	const u64 val = guest_value(off, 1);
	enum outcome outcome = guest_do(1, OP_WRITE, off + 8, 8, val);

	report->write = "no";
	if (outcome == DONE)
		report->write = arrives(off + 8, val) ? "ok" : "LOST";
	return outcome;
}

/* What the table says of a row. */
static void probe(void)
{
	size_t off = t.page * t.page_size;
	enum outcome rd, wr = DONE;

	report->gfn = (MEM_GPA + off) / t.page_size;

	if (t.write_first)
		wr = probe_write(off);
	rd = probe_read(off);
	if (!t.write_first)
		wr = probe_write(off);

	report->exit = outcome_names[rd != DONE ? rd : wr];
}

static void set_up_row(const struct row *row)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGBUS, &sa, NULL);
	alarm(ROW_TIMEOUT_SECONDS);

	t.fd = -1;
	t.guest_memfd = -1;
	t.page_size = getpagesize();
	t.prot = PROT_READ | PROT_WRITE;

	row->setup();
}

static void test_row(const void *row)
{
	set_up_row(row);
	((const struct row *)row)->test();
	teardown();
}

#define TRACING		"/sys/kernel/tracing/"

/* Tell whoever records the trace what memory the lookups are of from now on. */
static void mark_trace(const char *label)
{
	size_t first = MEM_GPA / t.page_size;
	int fd = open(TRACING "trace_marker", O_WRONLY);

	if (fd < 0)
		return;
	dprintf(fd, "memory: %s, gfn %lx-%lx\n", label, first,
		first + t.size / t.page_size - 1);
	close(fd);
}

static void probe_row(const void *row)
{
	set_up_row(row);
	mark_trace(((const struct row *)row)->label);
	/* An architecture that refuses the memslot has no guest to run. */
	if (refuses_prot_read && !(t.prot & PROT_WRITE)) {
		report->read = "no";
		report->write = "no";
		report->exit = "slot refused";
	} else {
		probe();
	}
}

/* Buffers of its own: those at the top may be somebody's who records a trace. */
#define TRACE_DIR	TRACING "instances/follow_pfn_test/"
#define TRACE_EVENT	"events/kvm/kvm_follow_pfn/enable"

/* Returns false on a kernel without the event. */
static bool start_trace(void)
{
	int fd;

	if (access(TRACING TRACE_EVENT, W_OK))
		return false;

	TEST_ASSERT(!mkdir(TRACE_DIR, 0700) || errno == EEXIST,
		    "mkdir(" TRACE_DIR ") failed");

	/* Opening with O_TRUNC empties the buffer. */
	fd = open(TRACE_DIR "trace", O_WRONLY | O_TRUNC);
	TEST_ASSERT(fd >= 0, TRACE_DIR "trace cannot be opened");
	close(fd);
	write_number(TRACE_DIR TRACE_EVENT, 1);
	return true;
}

struct resolution {
	char route[16];
	const char *writable;
	const char *refcounted;
};

/* Copy the word that follows @name in a line of the trace. */
static void get_field(const char *line, const char *name, char val[16])
{
	const char *field = strstr(line, name);

	val[0] = '\0';
	if (field)
		sscanf(field + strlen(name), "%15s", val);
}

/*
 * The last resolution of the page that succeeded, or the last one if none did:
 * what is mapped in the end.
 */
static void stop_trace(struct resolution *last)
{
	char line[512], val[16];
	bool ok, found_ok = false;
	FILE *f;

	write_number(TRACE_DIR TRACE_EVENT, 0);
	f = fopen(TRACE_DIR "trace", "r");
	TEST_ASSERT(f, TRACE_DIR "trace cannot be opened");
	while (fgets(line, sizeof(line), f)) {
		get_field(line, "kvm_follow_pfn: gfn ", val);
		if (!val[0] || strtoull(val, NULL, 16) != report->gfn)
			continue;

		get_field(line, " result ", val);
		ok = !strcmp(val, "ok");
		if (found_ok && !ok)
			continue;

		found_ok = ok;
		get_field(line, " route ", last->route);
		get_field(line, " writable ", val);
		last->writable = atoi(val) ? "yes" : "no";
		get_field(line, " refcounted ", val);
		last->refcounted = atoi(val) ? "yes" : "no";
	}
	fclose(f);
}

static bool table_row(const struct row *row, FILE *table)
{
	struct resolution last = { "-", "-", "-" };
	bool traced = start_trace();
	int status;

	memset(report, 0, sizeof(*report));
	status = fork_test(probe_row, row);
	if (traced)
		stop_trace(&last);

	fprintf(table, "%-35s ", row->label);
	if (is_skip(status)) {
		fprintf(table, "skipped: %s\n", skip_reason);
		return true;
	}
	if (status) {
		fprintf(table, "failed: wait status 0x%x\n", status);
		return false;
	}
	fprintf(table, "%-6s %-6s %-11s %-11s %-9s %s\n", report->read,
		report->write, last.route, last.refcounted, last.writable,
		report->exit);
	return true;
}

static bool print_table(void)
{
	bool ok = true;
	char *text;
	size_t i, size;
	FILE *table = open_memstream(&text, &size);

	TEST_ASSERT(table, "open_memstream() failed");
	fprintf(table, "%-35s %-6s %-6s %-11s %-11s %-9s %s\n", "memory", "read",
		"write", "route", "refcounted", "writable", "exit");
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!rows[i].label)
			continue;
		ksft_print_msg("%s\n", rows[i].label);
		ok &= table_row(&rows[i], table);
	}
	rmdir(TRACE_DIR);
	fclose(table);

	/* In one piece, not among what the kernel says meanwhile. */
	printf("== table begin\n%s== table end\n", text);
	free(text);
	return ok;
}

int main(int argc, char **argv)
{
	struct host_test tests[ARRAY_SIZE(rows)];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		tests[i] = (struct host_test) {
			.name = rows[i].name,
			.run = test_row,
			.arg = &rows[i],
		};

	report = map_report(sizeof(*report));
	return run_tests(argc, argv, tests, ARRAY_SIZE(rows), print_table);
}
