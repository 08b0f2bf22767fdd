// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test writes to memory that the guest may only read: memslots with
 * KVM_MEM_READONLY, and VM_PFNMAP memory whose VMA is PROT_READ, in a writable
 * memslot.  KVM emulates such a write as MMIO; a write that the emulator does
 * not know is an emulation failure.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_memory.h"
#include "test_util.h"
#include "ucall_common.h"

#define NR_VCPUS		2
#define NR_PAGES		4

/* The memory in question. */
#define RO_SLOT			10
#define RO_GPA			0x40000000ul
#define RO_SIZE			(NR_PAGES * PAGE_SIZE)
/* A page of ordinary memory. */
#define RW_SLOT			11
#define RW_GPA			0x50000000ul
/* A page that no memslot has. */
#define HOLE_GPA		0x60000000ul
/* Where the guest maps any two of them next to each other. */
#define CROSSING_GVA		0x70000000ul

/* Offsets of the page that the guest has read before, and of another one. */
#define READ_OFF		0
#define UNREAD_OFF		PAGE_SIZE

/* Behind the entries that the library has put in the GDT. */
#define USER_CS			(0x28 | 3)
#define USER_DS			(0x30 | 3)

#define X86_FEATURE_AVX		KVM_X86_CPU_FEATURE(0x1, 0, ECX, 28)

/* Generous, an emulated machine may be slow. */
#define TEST_SECONDS		120

/* What is in the memory, and what the guest starts each operation with. */
#define MEM_VALUE		0x0102030405060708ul
#define RAX_VALUE		0x8877665544332211ul
#define RBX_VALUE		0xf1e2d3c4b5a69788ul
#define RCX_VALUE		0x99aabbccul
#define RDX_VALUE		(MEM_VALUE >> 32)

/* What userspace answers to MMIO reads. */
#define MMIO_BYTE		0x5a
#define MMIO_VALUE		0x5a5a5a5a5a5a5a5aul

/* Commands to a device that is a memslot while it answers with an array. */
#define ROMD_STATUS		0x70707070u
#define ROMD_ARRAY		0xf0f0f0f0u

#define MAX_ACCESS		32
#define MAX_MMIO		32

struct guest_regs {
	u64 rax, rbx, rcx, rdx, rsi, rdi;
	bool zf;
};

static struct guest_cmd {
	void (*fn)(struct guest_regs *regs);
	struct guest_regs regs;
} cmds[NR_VCPUS];

struct mmio {
	u64 gpa;
	u32 len;
	bool is_write;
	u8 data[8];
};

FIXTURE(readonly) {
};

FIXTURE_VARIANT(readonly) {
	bool readonly_slot;
	bool pfnmap;
	/* The host's PTEs are absent whenever the guest's are. */
	bool absent;
};

FIXTURE_VARIANT_ADD(readonly, slot) {
	.readonly_slot = true,
};

FIXTURE_VARIANT_ADD(readonly, slot_pfnmap) {
	.readonly_slot = true,
	.pfnmap = true,
};

FIXTURE_VARIANT_ADD(readonly, vma_pfnmap_present) {
	.pfnmap = true,
};

FIXTURE_VARIANT_ADD(readonly, vma_pfnmap_absent) {
	.pfnmap = true,
	.absent = true,
};

/* The state of the running test. */
static struct {
	FIXTURE_VARIANT(readonly) kind;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	/* The memory as the memslot maps it, and as the host writes it. */
	void *hva;
	void *view;
	int prot;
	/* Of the test module. */
	int fd;
	u32 slot_flags;
	u8 before[RO_SIZE];

	/* A page with one instruction. */
	vm_vaddr_t code;

	struct mmio expected[MAX_MMIO];
	int nr_expected;
} t;

/*
 * ---------------------------------------------------------------------------
 * Guest
 * ---------------------------------------------------------------------------
 */

static const u64 rax_value = RAX_VALUE;
static const u64 rbx_value = RBX_VALUE;
/* Sign-extended from 32 bits, as an immediate operand is. */
static const u64 imm_value = 0xffffffff87654321;
#define IMM8			"$0x21"
#define IMM16			"$0x4321"
#define IMM32			"$-0x789abcdf"

static const u8 source[MAX_ACCESS] __aligned(16) = {
	0xf0, 0xe1, 0xd2, 0xc3, 0xb4, 0xa5, 0x96, 0x87,
	0x78, 0x69, 0x5a, 0x4b, 0x3c, 0x2d, 0x1e, 0x0f,
	0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87,
	0x98, 0xa9, 0xba, 0xcb, 0xdc, 0xed, 0xfe, 0x0e,
};

/* A function of the guest that executes @insn with the registers in @regs. */
#define GUEST_INSN(name, insn)						\
static void name(struct guest_regs *regs)				\
{									\
	asm volatile(insn						\
		     : "+a"(regs->rax), "+b"(regs->rbx),		\
		       "+c"(regs->rcx), "+d"(regs->rdx),		\
		       "+S"(regs->rsi), "+D"(regs->rdi),		\
		       "=@ccz"(regs->zf)				\
		     :: "memory", "mm0", "xmm0");			\
}

GUEST_INSN(movb, "movb %%al, (%%rdi)")
GUEST_INSN(movw, "movw %%ax, (%%rdi)")
GUEST_INSN(movl, "movl %%eax, (%%rdi)")
GUEST_INSN(movq, "movq %%rax, (%%rdi)")
GUEST_INSN(movb_imm, "movb " IMM8 ", (%%rdi)")
GUEST_INSN(movw_imm, "movw " IMM16 ", (%%rdi)")
GUEST_INSN(movl_imm, "movl " IMM32 ", (%%rdi)")
GUEST_INSN(movq_imm, "movq " IMM32 ", (%%rdi)")
GUEST_INSN(movntil, "movntil %%eax, (%%rdi)")
GUEST_INSN(movntiq, "movntiq %%rax, (%%rdi)")
GUEST_INSN(stosb, "stosb")
GUEST_INSN(stosw, "stosw")
GUEST_INSN(stosl, "stosl")
GUEST_INSN(stosq, "stosq")
GUEST_INSN(rep_stosb, "rep stosb")
GUEST_INSN(rep_stosw, "rep stosw")
GUEST_INSN(rep_stosl, "rep stosl")
GUEST_INSN(rep_stosq, "rep stosq")
GUEST_INSN(rep_stosl_down, "std; rep stosl; cld")
GUEST_INSN(movsb, "movsb")
GUEST_INSN(movsq, "movsq")
GUEST_INSN(rep_movsb, "rep movsb")
GUEST_INSN(rep_movsw, "rep movsw")
GUEST_INSN(rep_movsl, "rep movsl")
GUEST_INSN(rep_movsq, "rep movsq")
/* With the stack in the read-only memory. */
GUEST_INSN(push, "xchg %%rdi, %%rsp; push %%rax; xchg %%rdi, %%rsp")
GUEST_INSN(push_imm, "xchg %%rdi, %%rsp; push " IMM32 "; xchg %%rdi, %%rsp")
GUEST_INSN(call, "lea 1f(%%rip), %%rax; xchg %%rdi, %%rsp\n\t"
		 "call 1f\n"
		 "1: xchg %%rdi, %%rsp")
GUEST_INSN(movq_mmx, "movq (%%rsi), %%mm0; movq %%mm0, (%%rdi); emms")
GUEST_INSN(movdqu, "movdqu (%%rsi), %%xmm0; movdqu %%xmm0, (%%rdi)")
GUEST_INSN(movdqa, "movdqu (%%rsi), %%xmm0; movdqa %%xmm0, (%%rdi)")
GUEST_INSN(movups, "movdqu (%%rsi), %%xmm0; movups %%xmm0, (%%rdi)")
GUEST_INSN(movaps, "movdqu (%%rsi), %%xmm0; movaps %%xmm0, (%%rdi)")
GUEST_INSN(movupd, "movdqu (%%rsi), %%xmm0; movupd %%xmm0, (%%rdi)")
GUEST_INSN(movntdq, "movdqu (%%rsi), %%xmm0; movntdq %%xmm0, (%%rdi)")
GUEST_INSN(movntps, "movdqu (%%rsi), %%xmm0; movntps %%xmm0, (%%rdi)")

GUEST_INSN(addq, "addq %%rbx, (%%rdi)")
GUEST_INSN(shlq, "shlq $4, (%%rdi)")
GUEST_INSN(cmpxchgq, "cmpxchgq %%rbx, (%%rdi)")
GUEST_INSN(cmpxchg8b, "cmpxchg8b (%%rdi)")
GUEST_INSN(lock_addb, "lock addb %%bl, (%%rdi)")
GUEST_INSN(lock_addw, "lock addw %%bx, (%%rdi)")
GUEST_INSN(lock_addl, "lock addl %%ebx, (%%rdi)")
GUEST_INSN(lock_addq, "lock addq %%rbx, (%%rdi)")
GUEST_INSN(lock_incq, "lock incq (%%rdi)")
GUEST_INSN(lock_notq, "lock notq (%%rdi)")
GUEST_INSN(lock_orq, "lock orq %%rbx, (%%rdi)")
GUEST_INSN(lock_btsq, "lock btsq $62, (%%rdi)")
GUEST_INSN(lock_xaddq, "lock xaddq %%rbx, (%%rdi)")
GUEST_INSN(xchgb, "xchgb %%bl, (%%rdi)")
GUEST_INSN(xchgw, "xchgw %%bx, (%%rdi)")
GUEST_INSN(xchgl, "xchgl %%ebx, (%%rdi)")
GUEST_INSN(xchgq, "xchgq %%rbx, (%%rdi)")
GUEST_INSN(lock_cmpxchgb, "lock cmpxchgb %%bl, (%%rdi)")
GUEST_INSN(lock_cmpxchgw, "lock cmpxchgw %%bx, (%%rdi)")
GUEST_INSN(lock_cmpxchgl, "lock cmpxchgl %%ebx, (%%rdi)")
GUEST_INSN(lock_cmpxchgq, "lock cmpxchgq %%rbx, (%%rdi)")
GUEST_INSN(lock_cmpxchg8b, "lock cmpxchg8b (%%rdi)")

GUEST_INSN(loadq, "movq (%%rdi), %%rax")

static u64 guest_load(u64 gva)
{
	return READ_ONCE(*(u64 *)gva);
}

static void guest_store(u64 gva, u64 val)
{
	WRITE_ONCE(*(u64 *)gva, val);
}

/* Read all of the memory rcx times, expect the value in rax everywhere. */
static void read_all(struct guest_regs *regs)
{
	u64 off;

	while (regs->rcx--)
		for (off = 0; off < RO_SIZE; off += 8)
			GUEST_ASSERT_EQ(guest_load(regs->rdi + off), regs->rax);
}

/* Write what is in memory, plus one, rcx times. */
static void read_and_write(struct guest_regs *regs)
{
	while (regs->rcx--)
		guest_store(regs->rdi, guest_load(regs->rdi) + 1);
}

static bool stop;

/* Read, and write ever new values. */
static void write_until_stop(struct guest_regs *regs)
{
	while (!READ_ONCE(stop)) {
		guest_load(regs->rdi);
		guest_store(regs->rdi, regs->rcx++);
	}
}

/* The same, count in rax and rbx what is read before each write. */
static void romd_bystander(struct guest_regs *regs)
{
	u64 val;

	while (!READ_ONCE(stop)) {
		val = guest_load(regs->rdi);
		if (val == MEM_VALUE)
			WRITE_ONCE(regs->rax, regs->rax + 1);
		else if (val == MMIO_VALUE)
			WRITE_ONCE(regs->rbx, regs->rbx + 1);
		else
			GUEST_FAIL("Read 0x%lx", val);
		guest_store(regs->rdi, regs->rcx++);
	}
}

/* Switch a device from its array to its status and back, rcx times. */
static void romd_commands(struct guest_regs *regs)
{
	struct guest_regs all;

	while (regs->rcx--) {
		all = (struct guest_regs) {
			.rax = MEM_VALUE,
			.rcx = 1,
			.rdi = regs->rdi,
		};
		read_all(&all);
		WRITE_ONCE(*(u32 *)regs->rdi, ROMD_STATUS);
		GUEST_ASSERT_EQ(guest_load(regs->rdi), MMIO_VALUE);
		WRITE_ONCE(*(u32 *)regs->rdi, ROMD_ARRAY);
	}
}

/*
 * Instructions for any CPL, which the host writes to a page.  The division by
 * zero (ecx is zero) that follows there ends the test.
 */
#define DIVL_ECX		"\xf7\xf1"

struct stub {
	const char *insn;
	const char *bytes;
	bool avx;
};

static const struct stub emulated_stub = {
	"movq %rax, (%rdi)", "\x48\x89\x07",
};

/* KVM's emulator does not know them. */
static const struct stub unemulatable_stubs[] = {
	{ "fsts (%rdi)", "\xd9\x17" },
	{ "fistpll (%rdi)", "\xdf\x3f" },
	{ "movsd %xmm0, (%rdi)", "\xf2\x0f\x11\x07" },
	{ "movlps %xmm0, 0x10(%rdi)", "\x0f\x13\x47\x10" },
	{ "movq %xmm0, (%rdi)", "\x66\x0f\xd6\x07" },
	{ "lock cmpxchg16b (%rdi)", "\xf0\x48\x0f\xc7\x0f" },
	{ "sgdt (%rdi)", "\x0f\x01\x07" },
	{ "sidt (%rdi)", "\x0f\x01\x0f" },
	{ "vmovdqu %ymm0, 0x20(%rdi)", "\xc5\xfe\x7f\x47\x20", .avx = true },
};

static u64 resume_rip;

static void guest_exception(struct ex_regs *regs)
{
	GUEST_SYNC3(regs->vector, regs->rip, regs->cs & 3);
	regs->rip = READ_ONCE(resume_rip);
}

static void guest_main(u64 id)
{
	struct guest_cmd *cmd = &cmds[id];
	void (*fn)(struct guest_regs *regs);

	for (;;) {
		fn = READ_ONCE(cmd->fn);
		fn(&cmd->regs);
		GUEST_SYNC(0);
	}
}

/*
 * ---------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------
 */

static void set_slot(u32 flags, size_t size)
{
	vm_set_user_memory_region(t.vm, RO_SLOT, flags, RO_GPA, size, t.hva);
}

static void set_prot(int prot)
{
	TEST_ASSERT(!mprotect(t.hva, RO_SIZE, prot), "mprotect() failed");
}

/* The guest's next access to any page faults. */
static void unmap_from_guest(void)
{
	if (t.kind.absent) {
		tkm_zap(t.fd, NR_PAGES);
		return;
	}

	set_prot(PROT_NONE);
	set_prot(t.prot);
}

static void fill(u64 val)
{
	u64 *mem = t.view;
	size_t i;

	for (i = 0; i < RO_SIZE / sizeof(*mem); i++)
		WRITE_ONCE(mem[i], val);
	memcpy(t.before, t.view, RO_SIZE);
}

static void assert_unchanged(const char *what)
{
	TEST_ASSERT(!memcmp(t.view, t.before, RO_SIZE),
		    "%s: a write went through to the read-only memory", what);
}

static void *map(int prot, int flags, int fd)
{
	void *mem = mmap(NULL, RO_SIZE, prot, flags, fd, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	return mem;
}

/*
 * Once the guest runs it is too late: nothing tells KVM of a change that the host
 * makes to page tables of the guest.
 */
static void set_user(struct kvm_vm *vm, u64 gva)
{
	int level, l;

	for (level = PG_LEVEL_4K; level <= PG_LEVEL_512G; level++) {
		l = level;
		*__vm_get_page_table_entry(vm, gva, &l) |= PTE_USER_MASK;
	}
}

/* Let the stubs run at CPL 3, with the exception handlers at CPL 0. */
static void set_up_user_mode(void)
{
	u64 *gdt = addr_gva2hva(t.vm, t.vm->arch.gdt);
	void *tss = addr_gva2hva(t.vm, t.vm->arch.tss);
	u64 off;

	gdt[USER_CS / 8] = 0x00affb000000ffff;
	gdt[USER_DS / 8] = 0x00cff3000000ffff;
	/* The stubs have no stack: use the one of guest_main() as rsp0. */
	memcpy(tss + 4, &t.regs.rsp, sizeof(t.regs.rsp));

	t.code = vm_vaddr_alloc_page(t.vm);
	set_user(t.vm, t.code);
	for (off = 0; off < RO_SIZE; off += PAGE_SIZE)
		set_user(t.vm, RO_GPA + off);

	vm_install_exception_handler(t.vm, UD_VECTOR, guest_exception);
	vm_install_exception_handler(t.vm, DE_VECTOR, guest_exception);
}

FIXTURE_SETUP(readonly)
{
	size_t off;
	u64 i;

	t.kind = *variant;
	t.prot = PROT_READ | PROT_WRITE;
	t.fd = -1;
	if (t.kind.readonly_slot)
		t.slot_flags = KVM_MEM_READONLY;
	else
		t.prot = PROT_READ;

	if (t.kind.pfnmap) {
		t.fd = tkm_open();
		if (t.fd < 0)
			SKIP(return, TKM_MISSING);
		tkm_create(t.fd, TKM_PFNMAP_REFCOUNTED, 0, NR_PAGES, 0);
		t.hva = map(t.prot, MAP_SHARED, t.fd);
		t.view = map(PROT_READ | PROT_WRITE, MAP_SHARED, t.fd);
	} else {
		t.hva = map(t.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		t.view = t.hva;
	}
	fill(MEM_VALUE);
	for (off = 0; off < RO_SIZE; off += PAGE_SIZE)
		READ_ONCE(*(u64 *)(t.hva + off));

	t.vm = vm_create_with_vcpus(NR_VCPUS, guest_main, t.vcpus);
	for (i = 0; i < NR_VCPUS; i++)
		vcpu_args_set(t.vcpus[i], 1, i);
	vcpu_regs_get(t.vcpus[0], &t.regs);
	vcpu_sregs_get(t.vcpus[0], &t.sregs);

	set_slot(t.slot_flags, RO_SIZE);
	virt_map(t.vm, RO_GPA, RO_GPA, NR_PAGES);
	set_up_user_mode();
}

FIXTURE_TEARDOWN(readonly)
{
	kvm_vm_free(t.vm);
}

/*
 * ---------------------------------------------------------------------------
 * Running the guest
 * ---------------------------------------------------------------------------
 */

static void expect_mmio(bool is_write, u64 gpa, const void *data, u32 len)
{
	struct mmio *mmio;
	u32 n;

	for (; len; len -= n, gpa += n, data += n) {
		n = min(len, 8u);
		TEST_ASSERT(t.nr_expected < MAX_MMIO, "Too many exits");
		mmio = &t.expected[t.nr_expected++];
		mmio->gpa = gpa;
		mmio->len = n;
		mmio->is_write = is_write;
		memcpy(mmio->data, data, n);
	}
}

static u64 le_bytes(const u8 *data, u32 len)
{
	u64 val = 0;

	memcpy(&val, data, len);
	return val;
}

static void assert_mmio(struct kvm_vcpu *vcpu, const struct mmio *mmio,
			const char *what)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT(run->mmio.is_write == mmio->is_write &&
		    run->mmio.phys_addr == mmio->gpa &&
		    run->mmio.len == mmio->len,
		    "%s: %s of %u bytes at 0x%llx instead of %s of %u bytes at 0x%lx",
		    what, run->mmio.is_write ? "write" : "read", run->mmio.len,
		    run->mmio.phys_addr, mmio->is_write ? "write" : "read",
		    mmio->len, mmio->gpa);
	TEST_ASSERT(!mmio->is_write ||
		    !memcmp(run->mmio.data, mmio->data, mmio->len),
		    "%s: 0x%lx instead of 0x%lx is written", what,
		    le_bytes(run->mmio.data, mmio->len),
		    le_bytes(mmio->data, mmio->len));
}

/* Run until KVM_RUN returns for something else than a signal. */
static u32 run(struct kvm_vcpu *vcpu, struct ucall *uc)
{
	vcpu_run(vcpu);
	if (get_ucall(vcpu, uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(*uc);
	if (vcpu->run->exit_reason == KVM_EXIT_MMIO &&
	    !vcpu->run->mmio.is_write)
		memset(vcpu->run->mmio.data, MMIO_BYTE, 8);
	return vcpu->run->exit_reason;
}

static struct mmio mmio_write(u64 gpa, u64 val, u32 len)
{
	struct mmio mmio = {
		.gpa = gpa,
		.len = len,
		.is_write = true,
	};

	memcpy(mmio.data, &val, len);
	return mmio;
}

static void run_to_mmio(struct kvm_vcpu *vcpu, const struct mmio *mmio,
			const char *what)
{
	struct ucall uc;

	TEST_ASSERT(run(vcpu, &uc) == KVM_EXIT_MMIO, "%s: %s instead of MMIO",
		    what, exit_reason_str(vcpu->run->exit_reason));
	assert_mmio(vcpu, mmio, what);
}

/* Run until the current operation is done, with exactly the expected exits. */
static void finish_op(int id, const char *what)
{
	struct kvm_vcpu *vcpu = t.vcpus[id];
	struct ucall uc;
	int i;

	for (i = 0; i < t.nr_expected; i++)
		run_to_mmio(vcpu, &t.expected[i], what);
	t.nr_expected = 0;

	run(vcpu, &uc);
	TEST_ASSERT(uc.cmd == UCALL_SYNC, "%s: %s instead of completion", what,
		    exit_reason_str(vcpu->run->exit_reason));
}

static struct guest_regs *set_op(int id, void (*fn)(struct guest_regs *regs),
				 u64 gva)
{
	struct guest_cmd *cmd = addr_gva2hva(t.vm, (vm_vaddr_t)&cmds[id]);

	*cmd = (struct guest_cmd) {
		.fn = fn,
		.regs = {
			.rax = rax_value,
			.rbx = rbx_value,
			.rcx = RCX_VALUE,
			.rdx = RDX_VALUE,
			.rsi = (u64)source,
			.rdi = gva,
		},
	};
	return &cmd->regs;
}

static void guest_reads(u64 gva, u64 val)
{
	struct guest_regs *regs = set_op(0, loadq, gva);

	finish_op(0, "read");
	TEST_ASSERT_EQ(regs->rax, val);
}

/* Where the guest writes. */
static const u64 write_offs[] = { READ_OFF + 0x40, UNREAD_OFF + 0x800 };

/* Prepare a write to @off, where the guest has already read, or not. */
static void map_for_write(u64 off)
{
	unmap_from_guest();
	if (off / PAGE_SIZE == READ_OFF / PAGE_SIZE)
		guest_reads(RO_GPA + READ_OFF, MEM_VALUE);
}

static u64 vcpu_get_stat(struct kvm_vcpu *vcpu, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs, *desc;
	int i, fd = vcpu_get_stats_fd(vcpu);
	u64 data = -1ul;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		if (!strcmp(desc->name, name))
			read_stat_data(fd, &header, desc, &data, 1);
	}
	free(descs);
	close(fd);
	TEST_ASSERT(data != -1ul, "No statistic is called %s", name);
	return data;
}

/*
 * ---------------------------------------------------------------------------
 * Tests
 * ---------------------------------------------------------------------------
 */

static void assert_reg(const char *what, const char *reg, u64 seen, u64 expected)
{
	TEST_ASSERT(seen == expected, "%s: %s is 0x%lx instead of 0x%lx", what,
		    reg, seen, expected);
}

/* What the call pushes. */
static u64 return_address;

static void get_return_address(void)
{
	static u64 stack;
	struct guest_regs *regs = set_op(0, call, (u64)(&stack + 1));

	finish_op(0, "call");
	return_address = regs->rax;
}

/*
 * @nr writes of @len bytes each, the first one at @first, the others @step bytes
 * apart; the data of each follow those of the previous one if @advance.  A string
 * instruction or push changes rdi as far as it writes.
 */
static const struct write {
	const char *name;
	void (*fn)(struct guest_regs *regs);
	const void *data;
	u32 len;
	int nr;
	int first;
	int step;
	bool advance;
} writes[] = {
#define WRITE(_fn, _data, _len) \
	{ .name = #_fn, .fn = _fn, .data = _data, .len = _len, .nr = 1 }
#define STRING(_fn, _data, _len, _nr, _step, _advance) \
	{ .name = #_fn, .fn = _fn, .data = _data, .len = _len, .nr = _nr, \
	  .step = _step, .advance = _advance }
#define PUSH(_fn, _data) \
	{ .name = #_fn, .fn = _fn, .data = _data, .len = 8, .nr = 1, \
	  .first = -8, .step = -8 }
	WRITE(movb, &rax_value, 1),
	WRITE(movw, &rax_value, 2),
	WRITE(movl, &rax_value, 4),
	WRITE(movq, &rax_value, 8),
	WRITE(movb_imm, &imm_value, 1),
	WRITE(movw_imm, &imm_value, 2),
	WRITE(movl_imm, &imm_value, 4),
	WRITE(movq_imm, &imm_value, 8),
	WRITE(movntil, &rax_value, 4),
	WRITE(movntiq, &rax_value, 8),
	STRING(stosb, &rax_value, 1, 1, 1, false),
	STRING(stosw, &rax_value, 2, 1, 2, false),
	STRING(stosl, &rax_value, 4, 1, 4, false),
	STRING(stosq, &rax_value, 8, 1, 8, false),
	STRING(rep_stosb, &rax_value, 1, 5, 1, false),
	STRING(rep_stosw, &rax_value, 2, 4, 2, false),
	STRING(rep_stosl, &rax_value, 4, 3, 4, false),
	STRING(rep_stosq, &rax_value, 8, 3, 8, false),
	STRING(rep_stosl_down, &rax_value, 4, 3, -4, false),
	STRING(movsb, source, 1, 1, 1, true),
	STRING(movsq, source, 8, 1, 8, true),
	STRING(rep_movsb, source, 1, 5, 1, true),
	STRING(rep_movsw, source, 2, 4, 2, true),
	STRING(rep_movsl, source, 4, 3, 4, true),
	STRING(rep_movsq, source, 8, 3, 8, true),
	PUSH(push, &rax_value),
	PUSH(push_imm, &imm_value),
	PUSH(call, &return_address),
	WRITE(movq_mmx, source, 8),
	WRITE(movdqu, source, 16),
	WRITE(movdqa, source, 16),
	WRITE(movups, source, 16),
	WRITE(movaps, source, 16),
	WRITE(movupd, source, 16),
	WRITE(movntdq, source, 16),
	WRITE(movntps, source, 16),
};

static void check_write(const struct write *w, u64 off)
{
	const void *data = w->data;
	struct guest_regs *regs;
	int i;

	map_for_write(off);

	regs = set_op(0, w->fn, RO_GPA + off);
	regs->rcx = w->nr;
	for (i = 0; i < w->nr; i++, data += w->advance ? w->len : 0)
		expect_mmio(true, RO_GPA + off + w->first + i * w->step,
			    data, w->len);
	finish_op(0, w->name);

	assert_reg(w->name, "rdi", regs->rdi, RO_GPA + off + w->nr * w->step);
	if (w->nr > 1)
		assert_reg(w->name, "rcx", regs->rcx, 0);
	assert_unchanged(w->name);
}

TEST_F_TIMEOUT(readonly, write_exits, TEST_SECONDS)
{
	int i, j;

	get_return_address();
	for (i = 0; i < ARRAY_SIZE(writes); i++)
		for (j = 0; j < ARRAY_SIZE(write_offs); j++)
			check_write(&writes[i], write_offs[j]);
}

/*
 * What is written, and what rax, rbx and ZF are afterwards.  As memory and edx
 * match, cmpxchg8b succeeds if eax matches, too.
 */
static const struct rmw {
	const char *name;
	void (*fn)(struct guest_regs *regs);
	u32 len;
	bool atomic;
	u64 written;
	u64 rax;
	u64 rax_after;
	u64 rbx_after;
	bool cmpxchg;
	bool zf_after;
} rmws[] = {
#define RMW(_fn, _len, _atomic, _written, _rbx_after) \
	{ .name = #_fn, .fn = _fn, .len = _len, .atomic = _atomic, \
	  .written = _written, .rax = RAX_VALUE, .rax_after = RAX_VALUE, \
	  .rbx_after = _rbx_after }
#define CMPXCHG_SUCCEEDS(_fn, _len, _atomic, _written) \
	{ .name = #_fn " succeeds", .fn = _fn, .len = _len, \
	  .atomic = _atomic, .written = _written, .rax = MEM_VALUE, \
	  .rax_after = MEM_VALUE, .rbx_after = RBX_VALUE, .cmpxchg = true, \
	  .zf_after = true }
#define CMPXCHG_FAILS(_fn, _len, _atomic, _rax_after) \
	{ .name = #_fn " fails", .fn = _fn, .len = _len, .atomic = _atomic, \
	  .written = MEM_VALUE, .rax = RAX_VALUE, .rax_after = _rax_after, \
	  .rbx_after = RBX_VALUE, .cmpxchg = true }
#define CMPXCHG8B_VALUE		(RCX_VALUE << 32 | (u32)RBX_VALUE)
	RMW(addq, 8, false, MEM_VALUE + RBX_VALUE, RBX_VALUE),
	RMW(shlq, 8, false, MEM_VALUE << 4, RBX_VALUE),
	RMW(lock_addb, 1, true, MEM_VALUE + RBX_VALUE, RBX_VALUE),
	RMW(lock_addw, 2, true, MEM_VALUE + RBX_VALUE, RBX_VALUE),
	RMW(lock_addl, 4, true, MEM_VALUE + RBX_VALUE, RBX_VALUE),
	RMW(lock_addq, 8, true, MEM_VALUE + RBX_VALUE, RBX_VALUE),
	RMW(lock_incq, 8, true, MEM_VALUE + 1, RBX_VALUE),
	RMW(lock_notq, 8, true, ~MEM_VALUE, RBX_VALUE),
	RMW(lock_orq, 8, true, MEM_VALUE | RBX_VALUE, RBX_VALUE),
	RMW(lock_btsq, 8, true, MEM_VALUE | BIT_ULL(62), RBX_VALUE),
	RMW(lock_xaddq, 8, true, MEM_VALUE + RBX_VALUE, MEM_VALUE),
	RMW(xchgb, 1, true, RBX_VALUE, (RBX_VALUE & ~0xfful) | (u8)MEM_VALUE),
	RMW(xchgw, 2, true, RBX_VALUE, (RBX_VALUE & ~0xfffful) | (u16)MEM_VALUE),
	RMW(xchgl, 4, true, RBX_VALUE, (u32)MEM_VALUE),
	RMW(xchgq, 8, true, RBX_VALUE, MEM_VALUE),
	CMPXCHG_SUCCEEDS(cmpxchgq, 8, false, RBX_VALUE),
	CMPXCHG_SUCCEEDS(cmpxchg8b, 8, false, CMPXCHG8B_VALUE),
	CMPXCHG_SUCCEEDS(lock_cmpxchgb, 1, true, RBX_VALUE),
	CMPXCHG_SUCCEEDS(lock_cmpxchgw, 2, true, RBX_VALUE),
	CMPXCHG_SUCCEEDS(lock_cmpxchgl, 4, true, RBX_VALUE),
	CMPXCHG_SUCCEEDS(lock_cmpxchgq, 8, true, RBX_VALUE),
	CMPXCHG_SUCCEEDS(lock_cmpxchg8b, 8, true, CMPXCHG8B_VALUE),
	CMPXCHG_FAILS(cmpxchgq, 8, false, MEM_VALUE),
	CMPXCHG_FAILS(cmpxchg8b, 8, false, (u32)MEM_VALUE),
	CMPXCHG_FAILS(lock_cmpxchgb, 1, true,
		      (RAX_VALUE & ~0xfful) | (u8)MEM_VALUE),
	CMPXCHG_FAILS(lock_cmpxchgw, 2, true,
		      (RAX_VALUE & ~0xfffful) | (u16)MEM_VALUE),
	CMPXCHG_FAILS(lock_cmpxchgl, 4, true, (u32)MEM_VALUE),
	CMPXCHG_FAILS(lock_cmpxchgq, 8, true, MEM_VALUE),
	CMPXCHG_FAILS(lock_cmpxchg8b, 8, true, (u32)MEM_VALUE),
};

static void clear_exception(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	events.exception.injected = 0;
	events.exception.pending = 0;
	vcpu_events_set(vcpu, &events);
}

static void assert_emulation_failure(struct kvm_vcpu *vcpu, const char *what)
{
	struct ucall uc;

	TEST_ASSERT(run(vcpu, &uc) == KVM_EXIT_INTERNAL_ERROR,
		    "%s: %s instead of an internal error", what,
		    exit_reason_str(vcpu->run->exit_reason));
	TEST_ASSERT_EQ(vcpu->run->emulation_failure.suberror,
		       KVM_INTERNAL_ERROR_EMULATION);
}

static void check_rmw(const struct rmw *rmw, u64 off)
{
	struct kvm_vcpu *vcpu = t.vcpus[0];
	struct guest_regs *regs;

	map_for_write(off);

	regs = set_op(0, rmw->fn, RO_GPA + off);
	regs->rax = rmw->rax;

	/*
	 * An atomic write to a read-only memslot is MMIO, as any other.  In a
	 * writable memslot KVM tries it on the hva, and gives up if that faults.
	 */
	if (rmw->atomic && !t.kind.readonly_slot) {
		assert_emulation_failure(vcpu, rmw->name);
		assert_unchanged(rmw->name);
		clear_exception(vcpu);
		vcpu_regs_set(vcpu, &t.regs);
		return;
	}

	expect_mmio(true, RO_GPA + off, &rmw->written, rmw->len);
	finish_op(0, rmw->name);
	assert_reg(rmw->name, "rax", regs->rax, rmw->rax_after);
	assert_reg(rmw->name, "rbx", regs->rbx, rmw->rbx_after);
	assert_reg(rmw->name, "rdx", regs->rdx, RDX_VALUE);
	if (rmw->cmpxchg)
		assert_reg(rmw->name, "ZF", regs->zf, rmw->zf_after);
	assert_unchanged(rmw->name);
}

TEST_F_TIMEOUT(readonly, read_modify_write_exits, TEST_SECONDS)
{
	int i, j;

	for (i = 0; i < ARRAY_SIZE(rmws); i++)
		for (j = 0; j < ARRAY_SIZE(write_offs); j++)
			check_rmw(&rmws[i], write_offs[j]);
}

enum page_kind {
	PAGE_RO,
	PAGE_RW,
	PAGE_HOLE,
};

static const struct crossing {
	const char *name;
	enum page_kind pages[2];
} crossings[] = {
	{ "read-only to read-only", { PAGE_RO, PAGE_RO } },
	{ "writable to read-only", { PAGE_RW, PAGE_RO } },
	{ "read-only to writable", { PAGE_RO, PAGE_RW } },
	{ "read-only to hole", { PAGE_RO, PAGE_HOLE } },
	{ "hole to read-only", { PAGE_HOLE, PAGE_RO } },
};

static const struct crossing_insn {
	void (*fn)(struct guest_regs *regs);
	const void *data;
	u32 len;
	/* Add the data to what is read, or replace that. */
	bool add;
	bool reads;
} crossing_insns[] = {
	{ movw, &rax_value, 2 },
	{ movl, &rax_value, 4 },
	{ movq, &rax_value, 8 },
	{ movdqu, source, 16 },
	{ addq, &rbx_value, 8, .reads = true, .add = true },
	{ lock_addq, &rbx_value, 8, .reads = true, .add = true },
	{ xchgq, &rbx_value, 8, .reads = true },
};

/* Two pages that are not adjacent, even if both are read-only. */
static u64 crossing_gpa(const struct crossing *c, int i)
{
	switch (c->pages[i]) {
	case PAGE_RO:
		return RO_GPA + 2 * i * PAGE_SIZE;
	case PAGE_RW:
		return RW_GPA;
	default:
		return HOLE_GPA;
	}
}

static void check_crossing(const struct crossing *c, u64 gva,
			   const struct crossing_insn *insn, u32 split)
{
	u8 rw[PAGE_SIZE], old[MAX_ACCESS], new[MAX_ACCESS];
	struct {
		enum page_kind page;
		u64 gpa;
		u32 begin, end;
	} parts[2] = {
		{ c->pages[0], crossing_gpa(c, 0) + PAGE_SIZE - split, 0, split },
		{ c->pages[1], crossing_gpa(c, 1), split, insn->len },
	}, *p;
	struct guest_regs *regs;

	memcpy(rw, addr_gpa2hva(t.vm, RW_GPA), sizeof(rw));
	for (p = parts; p < parts + 2; p++) {
		u32 len = p->end - p->begin;

		if (p->page == PAGE_RO)
			memcpy(old + p->begin, t.view + p->gpa - RO_GPA, len);
		else if (p->page == PAGE_RW)
			memcpy(old + p->begin, rw + p->gpa - RW_GPA, len);
		else
			memset(old + p->begin, MMIO_BYTE, len);
		if (p->page == PAGE_HOLE && insn->reads)
			expect_mmio(false, p->gpa, old + p->begin, len);
	}

	memcpy(new, insn->data, insn->len);
	if (insn->add)
		*(u64 *)new += *(u64 *)old;
	for (p = parts; p < parts + 2; p++) {
		if (p->page == PAGE_RW)
			memcpy(rw + p->gpa - RW_GPA, new + p->begin,
			       p->end - p->begin);
		else
			expect_mmio(true, p->gpa, new + p->begin,
				    p->end - p->begin);
	}

	regs = set_op(0, insn->fn, gva + PAGE_SIZE - split);
	finish_op(0, c->name);
	if (insn->fn == xchgq)
		assert_reg(c->name, "rbx", regs->rbx, *(u64 *)old);

	assert_unchanged(c->name);
	TEST_ASSERT(!memcmp(addr_gpa2hva(t.vm, RW_GPA), rw, sizeof(rw)),
		    "%s: a part of a write is not in memory", c->name);
}

TEST_F_TIMEOUT(readonly, page_crossing_write_exits, TEST_SECONDS)
{
	const struct crossing_insn *insn;
	const struct crossing *c;
	bool mapped;
	u32 split;
	u64 gva;
	int i;

	vm_userspace_mem_region_add(t.vm, VM_MEM_SRC_ANONYMOUS, RW_GPA,
				    RW_SLOT, 1, 0);
	memset(addr_gpa2hva(t.vm, RW_GPA), 0xee, PAGE_SIZE);

	for (c = crossings; c < crossings + ARRAY_SIZE(crossings); c++) {
		gva = CROSSING_GVA + 2 * PAGE_SIZE * (c - crossings);
		for (i = 0; i < 2; i++)
			virt_pg_map(t.vm, gva + i * PAGE_SIZE,
				    crossing_gpa(c, i));
	}

	for (c = crossings; c < crossings + ARRAY_SIZE(crossings); c++) {
		gva = CROSSING_GVA + 2 * PAGE_SIZE * (c - crossings);
		for (i = 0; i < ARRAY_SIZE(crossing_insns) * 2; i++) {
			insn = &crossing_insns[i / 2];
			mapped = i % 2;
			for (split = 1; split < insn->len; split++) {
				unmap_from_guest();
				if (mapped && c->pages[0] == PAGE_RO)
					guest_reads(gva, MEM_VALUE);
				if (mapped && c->pages[1] == PAGE_RO)
					guest_reads(gva + PAGE_SIZE,
						    MEM_VALUE);
				check_crossing(c, gva, insn, split);
			}
		}
	}
}

TEST_F_TIMEOUT(readonly, reads_go_on, TEST_SECONDS)
{
	const int rounds = 50;
	struct kvm_vcpu *vcpu = t.vcpus[0];
	u64 exits, faults, val = MEM_VALUE;
	struct guest_regs *regs;
	struct mmio write;
	int i, id;

	guest_reads(RO_GPA, val);

	exits = vcpu_get_stat(vcpu, "mmio_exits");
	faults = vcpu_get_stat(vcpu, "pf_taken");

	regs = set_op(0, read_and_write, RO_GPA);
	regs->rcx = rounds;
	for (i = 0; i < rounds; i++) {
		write = mmio_write(RO_GPA, val + 1, 8);
		run_to_mmio(vcpu, &write, "read and write");
		assert_unchanged("read and write");
		/* Every other read comes to the same result. */
		if (i % 2)
			fill(val = ~val + i);
	}
	finish_op(0, "read and write");

	TEST_ASSERT_EQ(vcpu_get_stat(vcpu, "mmio_exits"), exits + rounds);
	/* Each write faults.  If reads did, too, it would be twice as much. */
	faults = vcpu_get_stat(vcpu, "pf_taken") - faults;
	TEST_ASSERT(faults < rounds + rounds / 2,
		    "%lu faults of %d writes: reads fault, too", faults, rounds);

	for (i = 0; i < 4; i++) {
		/* Whether or not the pages are mapped by the guest already. */
		if (i == 2)
			unmap_from_guest();
		fill(++val);
		for (id = 0; id < NR_VCPUS; id++) {
			regs = set_op(id, read_all, RO_GPA);
			regs->rax = val;
			regs->rcx = 10;
			finish_op(id, "reads");
		}
		assert_unchanged("reads");
	}
	TEST_ASSERT_EQ(vcpu_get_stat(vcpu, "mmio_exits"), exits + rounds);
	TEST_ASSERT_EQ(vcpu_get_stat(t.vcpus[1], "mmio_exits"), 0);
}

static u64 stub_end(const struct stub *stub)
{
	return t.code + strlen(stub->bytes);
}

static void reset_vcpu(void)
{
	vcpu_sregs_set(t.vcpus[0], &t.sregs);
	vcpu_regs_set(t.vcpus[0], &t.regs);
}

static void enter_stub(const struct stub *stub, int cpl, u64 off)
{
	char *code = addr_gva2hva(t.vm, t.code);
	struct kvm_vcpu *vcpu = t.vcpus[0];
	struct kvm_sregs sregs = t.sregs;
	struct kvm_regs regs = t.regs;
	struct kvm_xcrs xcrs = {
		.nr_xcrs = 1,
		.xcrs[0].value = XFEATURE_MASK_FP | XFEATURE_MASK_SSE |
				 XFEATURE_MASK_YMM,
	};

	sprintf(code, "%s" DIVL_ECX, stub->bytes);

	if (stub->avx) {
		sregs.cr4 |= X86_CR4_OSXSAVE;
		vcpu_xcrs_set(vcpu, &xcrs);
	}
	if (cpl) {
		sregs.cs.selector = USER_CS;
		sregs.cs.dpl = cpl;
		sregs.ss = sregs.ds;
		sregs.ss.selector = USER_DS;
		sregs.ss.dpl = cpl;
	}
	vcpu_sregs_set(vcpu, &sregs);

	regs.rip = t.code;
	regs.rdi = RO_GPA + off;
	regs.rax = RAX_VALUE;
	regs.rcx = 0;
	regs.rdx = 0;
	vcpu_regs_set(vcpu, &regs);
}

static void assert_exception(const struct stub *stub, int vector, u64 rip,
			     int cpl)
{
	struct ucall uc;

	run(t.vcpus[0], &uc);
	TEST_ASSERT(uc.cmd == UCALL_SYNC, "%s: %s instead of an exception",
		    stub->insn, exit_reason_str(t.vcpus[0]->run->exit_reason));
	TEST_ASSERT(uc.args[0] == vector && uc.args[1] == rip &&
		    uc.args[2] == cpl,
		    "%s: exception %lu at 0x%lx, CPL %lu, instead of %d at 0x%lx, CPL %d",
		    stub->insn, uc.args[0], uc.args[1], uc.args[2], vector, rip,
		    cpl);
}

/* Where the exception handler returns to. */
static void set_resume_rip(u64 rip)
{
	u64 *p = addr_gva2hva(t.vm, (vm_vaddr_t)&resume_rip);

	*p = rip;
}

static void assert_stub_fails(const struct stub *stub)
{
	struct kvm_run *run = t.vcpus[0]->run;
	size_t len = strlen(stub->bytes);
	struct kvm_regs regs;

	assert_emulation_failure(t.vcpus[0], stub->insn);
	TEST_ASSERT(run->emulation_failure.ndata >= 3 &&
		    run->emulation_failure.flags &
		    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
		    "%s: no instruction bytes", stub->insn);
	TEST_ASSERT(run->emulation_failure.insn_size >= len &&
		    !memcmp(run->emulation_failure.insn_bytes, stub->bytes, len),
		    "%s: wrong instruction bytes", stub->insn);

	vcpu_regs_get(t.vcpus[0], &regs);
	TEST_ASSERT_EQ(regs.rip, t.code);
}

static void check_failure_cpl0(const struct stub *stub)
{
	/* Userspace may drop the exception, or let the guest have it. */
	assert_stub_fails(stub);
	clear_exception(t.vcpus[0]);
	assert_stub_fails(stub);
	set_resume_rip(stub_end(stub));
	assert_exception(stub, UD_VECTOR, t.code, 0);
	assert_exception(stub, DE_VECTOR, stub_end(stub), 0);
}

static void check_failure_cpl3(const struct stub *stub)
{
	/* The guest tries the same instruction again at first. */
	set_resume_rip(t.code);
	assert_exception(stub, UD_VECTOR, t.code, 3);
	assert_exception(stub, UD_VECTOR, t.code, 3);
	set_resume_rip(stub_end(stub));
	assert_exception(stub, DE_VECTOR, stub_end(stub), 3);
}

static void check_failure_exits(const struct stub *stub, int cpl)
{
	struct kvm_regs regs;

	assert_stub_fails(stub);
	assert_stub_fails(stub);

	vcpu_regs_get(t.vcpus[0], &regs);
	regs.rip = stub_end(stub);
	vcpu_regs_set(t.vcpus[0], &regs);
	assert_exception(stub, DE_VECTOR, stub_end(stub), cpl);
}

static void check_failure_exits_cpl0(const struct stub *stub)
{
	check_failure_exits(stub, 0);
}

static void check_failure_exits_cpl3(const struct stub *stub)
{
	check_failure_exits(stub, 3);
}

static void check_unemulatable(int cpl, void (*check)(const struct stub *stub))
{
	const struct stub *stub = unemulatable_stubs;
	int i;

	for (; stub < unemulatable_stubs + ARRAY_SIZE(unemulatable_stubs); stub++) {
		if (stub->avx && !kvm_cpu_has(X86_FEATURE_AVX)) {
			ksft_print_msg("%s skipped: KVM offers no AVX\n",
				       stub->insn);
			continue;
		}
		for (i = 0; i < ARRAY_SIZE(write_offs); i++) {
			reset_vcpu();
			map_for_write(write_offs[i]);
			enter_stub(stub, cpl, write_offs[i]);
			check(stub);
			assert_unchanged(stub->insn);
		}
	}

	/* The VM survives. */
	reset_vcpu();
	guest_reads(RO_GPA, MEM_VALUE);
}

TEST_F_TIMEOUT(readonly, unemulatable_write_cpl0, TEST_SECONDS)
{
	check_unemulatable(0, check_failure_cpl0);
}

TEST_F_TIMEOUT(readonly, unemulatable_write_cpl3, TEST_SECONDS)
{
	check_unemulatable(3, check_failure_cpl3);
}

TEST_F_TIMEOUT(readonly, unemulatable_write_cpl0_exits, TEST_SECONDS)
{
	vm_enable_cap(t.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
	check_unemulatable(0, check_failure_exits_cpl0);
}

TEST_F_TIMEOUT(readonly, unemulatable_write_cpl3_exits, TEST_SECONDS)
{
	vm_enable_cap(t.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
	check_unemulatable(3, check_failure_exits_cpl3);
}

TEST_F_TIMEOUT(readonly, write_exits_cpl3, TEST_SECONDS)
{
	const struct stub *stub = &emulated_stub;
	struct mmio write;
	int i;

	for (i = 0; i < ARRAY_SIZE(write_offs); i++) {
		reset_vcpu();
		map_for_write(write_offs[i]);
		enter_stub(stub, 3, write_offs[i]);
		write = mmio_write(RO_GPA + write_offs[i], RAX_VALUE, 8);
		run_to_mmio(t.vcpus[0], &write, stub->insn);
		assert_exception(stub, DE_VECTOR, stub_end(stub), 3);
		assert_unchanged(stub->insn);
	}
}

/* The vCPU that runs beside the test: its writes are numbered. */
struct bystander {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	/* Whether all writes exit, i.e. none of them is ever missing. */
	bool complete;
	u64 exits;
};

static void *run_bystander(void *arg)
{
	struct bystander *b = arg;
	struct mmio mmio = mmio_write(RO_GPA + UNREAD_OFF, 0, 8);
	u64 *count = (u64 *)mmio.data;
	struct ucall uc;

	for (;;) {
		if (run(b->vcpu, &uc) != KVM_EXIT_MMIO)
			break;
		if (!b->vcpu->run->mmio.is_write)
			continue;

		if (!b->complete)
			memcpy(count, b->vcpu->run->mmio.data, sizeof(*count));
		assert_mmio(b->vcpu, &mmio, "bystander");
		++*count;
		WRITE_ONCE(b->exits, b->exits + 1);
	}

	TEST_ASSERT(uc.cmd == UCALL_SYNC, "%s instead of completion",
		    exit_reason_str(b->vcpu->run->exit_reason));
	return NULL;
}

static struct guest_regs *start_bystander(struct bystander *b,
					  void (*fn)(struct guest_regs *regs))
{
	struct guest_regs *regs = set_op(1, fn, RO_GPA + UNREAD_OFF);
	int r;

	regs->rax = 0;
	regs->rbx = 0;
	regs->rcx = 0;
	b->vcpu = t.vcpus[1];
	r = pthread_create(&b->thread, NULL, run_bystander, b);
	TEST_ASSERT(!r, "pthread_create(): %s", strerror(r));
	return regs;
}

static void stop_bystander(struct bystander *b)
{
	bool *p = addr_gva2hva(t.vm, (vm_vaddr_t)&stop);

	WRITE_ONCE(*p, true);
	pthread_join(b->thread, NULL);
}

/* The harness ends a test that waits for too long. */
static void wait_for(const u64 *count, u64 val)
{
	while (READ_ONCE(*count) < val)
		sched_yield();
}

/*
 * A flash device is a memslot while it shows its array, and MMIO while it shows
 * its status.  A command, which is a write, switches it.
 */
TEST_F_TIMEOUT(readonly, romd, TEST_SECONDS)
{
	const int rounds = 20;
	const struct mmio status = mmio_write(RO_GPA, ROMD_STATUS, 4);
	const struct mmio array = mmio_write(RO_GPA, ROMD_ARRAY, 4);
	const struct mmio read = { .gpa = RO_GPA, .len = 8 };
	struct bystander b = { .complete = true };
	struct guest_regs *regs, *seen;
	int i;

	seen = start_bystander(&b, romd_bystander);
	regs = set_op(0, romd_commands, RO_GPA);
	regs->rcx = rounds;

	for (i = 0; i < rounds; i++) {
		wait_for(&seen->rax, READ_ONCE(seen->rax) + 3);
		run_to_mmio(t.vcpus[0], &status, "first command");
		set_slot(0, 0);
		wait_for(&seen->rbx, READ_ONCE(seen->rbx) + 3);
		run_to_mmio(t.vcpus[0], &read, "status");
		run_to_mmio(t.vcpus[0], &array, "second command");
		assert_unchanged("commands");
		set_slot(t.slot_flags, RO_SIZE);
	}
	finish_op(0, "commands");
	stop_bystander(&b);

	TEST_ASSERT_EQ(b.exits, seen->rcx);
	assert_unchanged("commands");
}

static void set_writable(bool writable)
{
	if (t.kind.readonly_slot) {
		set_slot(0, 0);
		set_slot(writable ? 0 : KVM_MEM_READONLY, RO_SIZE);
	} else {
		set_prot(PROT_READ | (writable ? PROT_WRITE : 0));
	}
}

static void assert_writes_exit(struct bystander *b, const u64 *mem)
{
	u64 val = READ_ONCE(*mem), exits = READ_ONCE(b->exits);

	while (READ_ONCE(b->exits) < exits + 5)
		TEST_ASSERT(READ_ONCE(*mem) == val,
			    "A write went through to read-only memory");
}

/* Memory that is read-only, writable, and so on, while the guest writes. */
TEST_F_TIMEOUT(readonly, writable_for_a_while, TEST_SECONDS)
{
	const u64 *mem = t.view + UNREAD_OFF;
	struct bystander b = { };
	u64 exits, val;
	int i;

	start_bystander(&b, write_until_stop);
	assert_writes_exit(&b, mem);

	for (i = 0; i < 20; i++) {
		set_writable(true);
		/* One exit may not have been counted yet. */
		exits = READ_ONCE(b.exits);
		val = READ_ONCE(*mem);
		while (READ_ONCE(*mem) == val)
			sched_yield();
		val = READ_ONCE(*mem);
		wait_for(mem, val + 10);
		TEST_ASSERT(READ_ONCE(b.exits) <= exits + 1,
			    "%lu exits while the memory was writable",
			    READ_ONCE(b.exits) - exits);

		set_writable(false);
		assert_writes_exit(&b, mem);
	}
	stop_bystander(&b);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_READONLY_MEM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_EXIT_ON_EMULATION_FAILURE));

	return test_harness_run(argc, argv);
}
