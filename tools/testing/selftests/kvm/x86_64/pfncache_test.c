// SPDX-License-Identifier: GPL-2.0-only
/*
 * Take memory away from KVM while KVM itself writes to it, through a
 * gfn_to_pfn_cache, and verify that KVM does not write to the old page once the
 * system call that has taken it away is over, but to the new one.
 *
 * A second thread has KVM write all the time, the first one takes the memory
 * away while the cache is valid, and while it is being refreshed.
 *
 * Each test runs in a process and a VM of its own.  The module test_kvm_memory
 * (CONFIG_KVM_TEST_MEMORY) has memory whose pages can be looked at when nobody
 * maps them anymore, and holds lookups.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/types.h>

#include <asm/kvm_para.h>

#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_memory.h"
#include "test_util.h"
#include "ucall_common.h"

#define MEM_GPA			0x40000000ul
#define MEM_SLOT		10
/* Where memory is that is moved away. */
#define PARK_GPA		0x50000000ul

/*
 * There are frames for two sets of pages, only one of which is in use.  Frames
 * i and i ^ NR_PAGES take turns.
 */
#define NR_PAGES		2
#define NR_FRAMES		(2 * NR_PAGES)

#define NR_ROUNDS		16

/* Generous, an emulated machine may be slow. */
#define TEST_SECONDS		120
#define WAIT_SECONDS		20

struct memory;

static struct {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	u64 xen_config;

	/* The test module, or -1, and whether it can hold lookups. */
	int module;
	bool can_hold;

	/* The memory under test.  All frames can be accessed through @fd. */
	const struct memory *memory;
	int fd;
	void *hva;
	u32 frame[NR_PAGES];
	bool has_slot;
	u64 slot_flags;

	/* What is in frames that KVM has not written yet. */
	u8 image[PAGE_SIZE];
} t;

/*
 * ---------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------
 */

struct memory {
	const char *name;

	/* Of the test module, or zero for shmem. */
	u32 kind;

	/* Put the other frame in place of a page, or of all pages. */
	void (*flip)(size_t page);

	/* Take the page away, but for the time being only.  Optional. */
	void (*zap)(size_t page);

	/* A page has always the same offset in @fd, the frames change places. */
	bool exchanges;

	/* It is the memslot that changes, not the memory. */
	bool needs_slot;

	/* There is a moment without memory. */
	bool has_holes;
};

static void *hva(size_t page)
{
	return t.hva + page * PAGE_SIZE;
}

static void *map_frames(void *addr, size_t nr, u32 first, int flags)
{
	void *mem = mmap(addr, nr * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | flags, t.fd, first * PAGE_SIZE);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	return mem;
}

static u32 current_frame(size_t page)
{
	return t.memory->exchanges ? page : t.frame[page];
}

static u32 old_frame(size_t page)
{
	return current_frame(page) ^ NR_PAGES;
}

static void read_frame(u32 frame, void *buf)
{
	TEST_ASSERT(pread(t.fd, buf, PAGE_SIZE, frame * PAGE_SIZE) == PAGE_SIZE,
		    "pread() failed");
}

static void reset_frame(u32 frame)
{
	TEST_ASSERT(pwrite(t.fd, t.image, PAGE_SIZE, frame * PAGE_SIZE) == PAGE_SIZE,
		    "pwrite() failed");
}

static void flip_by_exchange(size_t page)
{
	tkm_exchange(t.fd, page, page + NR_PAGES);
}

static void flip_by_mmap(size_t page)
{
	t.frame[page] ^= NR_PAGES;
	map_frames(hva(page), 1, t.frame[page], MAP_FIXED);
}

static void flip_by_munmap(size_t page)
{
	TEST_ASSERT(!munmap(hva(page), PAGE_SIZE), "munmap() failed");
	flip_by_mmap(page);
}

static void flip_by_mremap(size_t page)
{
	void *mem;

	t.frame[page] ^= NR_PAGES;
	mem = map_frames(NULL, 1, t.frame[page], 0);
	mem = mremap(mem, PAGE_SIZE, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     hva(page));
	TEST_ASSERT(mem == hva(page), "mremap() failed");
}

static void set_slot(u32 slot, u64 gpa, size_t nr, u32 frame)
{
	vm_set_user_memory_region(t.vm, MEM_SLOT + slot, t.slot_flags, gpa,
				  nr * PAGE_SIZE, hva(frame));
}

static void flip_all_frames(void)
{
	size_t page;

	for (page = 0; page < NR_PAGES; page++)
		t.frame[page] ^= NR_PAGES;
}

static void flip_by_new_slot(size_t page)
{
	flip_all_frames();
	set_slot(0, MEM_GPA, 0, 0);
	set_slot(0, MEM_GPA, NR_PAGES, t.frame[0]);
}

/* Each half of the frames has a memslot of its own. */
static void flip_by_moving_slots(size_t page)
{
	const u64 park_gpa = PARK_GPA + t.frame[0] * PAGE_SIZE;

	set_slot(!!t.frame[0], park_gpa, NR_PAGES, t.frame[0]);
	flip_all_frames();
	set_slot(!!t.frame[0], MEM_GPA, NR_PAGES, t.frame[0]);
}

static void zap_by_module(size_t page)
{
	tkm_zap(t.fd, NR_FRAMES);
}

static void zap_by_madvise(size_t page)
{
	TEST_ASSERT(!madvise(hva(page), PAGE_SIZE, MADV_DONTNEED),
		    "madvise() failed");
}

static const struct memory memories[] = {
	{ "VM_PFNMAP, exchange", TKM_PFNMAP_REFCOUNTED, flip_by_exchange,
	  zap_by_module, .exchanges = true },
	{ "VM_MIXEDMAP, exchange", TKM_MIXEDMAP_NORMAL, flip_by_exchange,
	  zap_by_module, .exchanges = true },
	/* To map it in the kernel takes more time than anything else. */
	{ "no struct page, mmap()", TKM_PFNMAP_PAGELESS, flip_by_mmap,
	  zap_by_module },
	{ "shmem, mmap()", 0, flip_by_mmap, zap_by_madvise },
	{ "shmem, munmap()", 0, flip_by_munmap, .has_holes = true },
	{ "shmem, mremap()", 0, flip_by_mremap },
	{ "memslot deleted", 0, flip_by_new_slot, .needs_slot = true,
	  .has_holes = true },
	{ "memslot moved", 0, flip_by_moving_slots, .needs_slot = true,
	  .has_holes = true },
};

static struct tkm_page counts[NR_FRAMES];

/* Return why not, or NULL. */
static const char *open_memory(const struct memory *memory)
{
	t.memory = memory;
	if (!memory->kind) {
		t.fd = kvm_memfd_alloc(NR_FRAMES * PAGE_SIZE, false);
		return NULL;
	}

	t.fd = tkm_open();
	if (t.fd < 0)
		return TKM_MISSING;

	if (!tkm_create(t.fd, memory->kind, 0, NR_FRAMES, 0)) {
		close(t.fd);
		return TKM_NO_PAGELESS;
	}

	tkm_get_counts(t.fd, NR_FRAMES, counts);
	return NULL;
}

static void map_memory(bool has_slot)
{
	size_t page;
	u32 frame;

	for (page = 0; page < NR_PAGES; page++)
		t.frame[page] = page;
	for (frame = 0; frame < NR_FRAMES; frame++)
		reset_frame(frame);

	/* All frames are needed at once only if memslots are exchanged. */
	t.hva = map_frames(NULL, t.memory->needs_slot ? NR_FRAMES : NR_PAGES, 0, 0);

	t.has_slot = has_slot;
	if (!has_slot)
		return;

	set_slot(0, MEM_GPA, NR_PAGES, 0);
	if (t.memory->flip == flip_by_moving_slots)
		set_slot(1, PARK_GPA + NR_PAGES * PAGE_SIZE, NR_PAGES, NR_PAGES);
}

/* Verify also that nobody has kept a reference. */
static void close_memory(void)
{
	struct tkm_page pages[NR_FRAMES];
	int i;

	if (t.has_slot) {
		set_slot(0, MEM_GPA, 0, 0);
		if (t.memory->flip == flip_by_moving_slots)
			set_slot(1, MEM_GPA, 0, 0);
	}
	munmap(t.hva, (t.memory->needs_slot ? NR_FRAMES : NR_PAGES) * PAGE_SIZE);

	if (t.memory->kind) {
		tkm_get_counts(t.fd, NR_FRAMES, pages);
		for (i = 0; i < NR_FRAMES; i++)
			TEST_ASSERT(pages[i].refcount == counts[i].refcount,
				    "%s: frame %d has %d references instead of %d",
				    t.memory->name, i, pages[i].refcount,
				    counts[i].refcount);
	}
	close(t.fd);
}

/*
 * ---------------------------------------------------------------------------
 * Users of caches
 * ---------------------------------------------------------------------------
 */

/* In struct shared_info of a 64-bit guest. */
#define XEN_EVTCHN_PENDING	0x800
#define XEN_EVTCHN_MASK		0xa00
#define XEN_EVTCHN_BYTES	0x200
#define XEN_NR_PORTS		(XEN_EVTCHN_BYTES * 8)

/* In struct vcpu_info, and the whole of it. */
#define XEN_VCPU_TIME		32
#define XEN_VCPU_INFO_BYTES	64

#define XEN_RUNSTATE_BYTES	48
#define XEN_RUNSTATE_BLOCKED	2
#define XEN_RUNSTATE_OFFLINE	3

#define CLOCK_BYTES		32

/* Where smaller structures are in their page, or pages. */
#define OFFSET			0x240
#define CROSSING_OFFSET		(PAGE_SIZE - 12)

#define NR_IRQFDS		16

struct user {
	const char *name;

	/* What KVM_CAP_XEN_HVM must have. */
	u64 xen_config;

	void (*set)(bool on);

	/* Have KVM write.  Return 0 or an errno. */
	int (*write)(void);

	/* What KVM writes, page by page. */
	struct {
		size_t off;
		size_t len;
	} part[NR_PAGES];

	bool by_hva;

	/* The lookup may be that of a kernel thread. */
	bool async;
};

/* Memory that is never taken away. */
static struct {
	u64 *shinfo;
	u64 shinfo_gpa;
} steady;

static int irqfds[NR_IRQFDS];

static void set_vm_attr(struct kvm_xen_hvm_attr attr)
{
	vm_ioctl(t.vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

static void set_vcpu_attr(struct kvm_xen_vcpu_attr attr)
{
	vcpu_ioctl(t.vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

static void set_shinfo_gpa(bool on)
{
	set_vm_attr((struct kvm_xen_hvm_attr) {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = on ? MEM_GPA / PAGE_SIZE : KVM_XEN_INVALID_GFN,
	});
}

static void set_shinfo_hva(bool on)
{
	set_vm_attr((struct kvm_xen_hvm_attr) {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
		.u.shared_info.hva = on ? (uintptr_t)t.hva : 0,
	});
}

static void set_steady_shinfo(bool on)
{
	set_vm_attr((struct kvm_xen_hvm_attr) {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = on ? steady.shinfo_gpa / PAGE_SIZE :
					  KVM_XEN_INVALID_GFN,
	});
}

static void set_vcpu_gpa(u16 type, u64 gpa)
{
	set_vcpu_attr((struct kvm_xen_vcpu_attr) { .type = type, .u.gpa = gpa });
}

static void set_vcpu_info_gpa(bool on)
{
	set_steady_shinfo(on);
	set_vcpu_gpa(KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
		     on ? MEM_GPA + OFFSET : KVM_XEN_INVALID_GPA);
}

static void set_vcpu_info_hva(bool on)
{
	set_steady_shinfo(on);
	set_vcpu_attr((struct kvm_xen_vcpu_attr) {
		.type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
		.u.hva = on ? (uintptr_t)t.hva + OFFSET : 0,
	});
}

static void set_vcpu_time(bool on)
{
	set_vcpu_gpa(KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
		     on ? MEM_GPA + OFFSET : KVM_XEN_INVALID_GPA);
}

static void set_runstate(bool on)
{
	set_vcpu_gpa(KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
		     on ? MEM_GPA + OFFSET : KVM_XEN_INVALID_GPA);
}

static void set_crossing_runstate(bool on)
{
	set_vcpu_gpa(KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
		     on ? MEM_GPA + CROSSING_OFFSET : KVM_XEN_INVALID_GPA);
}

static void set_clock(bool on)
{
	vcpu_set_msr(t.vcpu, MSR_KVM_SYSTEM_TIME_NEW,
		     on ? (MEM_GPA + OFFSET) | KVM_MSR_ENABLED : 0);
}

static int send_event(u32 port)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = port,
		.vcpu = t.vcpu->id,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	return __vm_ioctl(t.vm, KVM_XEN_HVM_EVTCHN_SEND, &event) ? errno : 0;
}

/* Each event is another bit.  It is masked, so there is nothing else to do. */
static int write_event(void)
{
	static u32 port;

	return send_event(1 + port++ % (XEN_NR_PORTS - 1));
}

static u32 irqfd_port(int i)
{
	return 1 + i * 64;
}

static int write_irqfd(void)
{
	static u32 i;

	TEST_ASSERT(!eventfd_write(irqfds[i++ % NR_IRQFDS], 1),
		    "eventfd_write() failed");
	return 0;
}

/* KVM updates all clocks when it enters the guest. */
static int write_clock(void)
{
	struct kvm_clock_data data = { };
	struct ucall uc;

	vm_ioctl(t.vm, KVM_SET_CLOCK, &data);
	vcpu_run(t.vcpu);
	TEST_ASSERT_EQ(get_ucall(t.vcpu, &uc), UCALL_SYNC);
	return 0;
}

/* An event, by this thread if that is possible, and the clock. */
static int write_vcpu_info(void)
{
	static u32 word;
	int err;

	memset((void *)steady.shinfo + XEN_EVTCHN_PENDING, 0, XEN_EVTCHN_BYTES);
	err = send_event(1 + word++ % 64 * 64);
	TEST_ASSERT(!err, "KVM_XEN_HVM_EVTCHN_SEND: %s", strerror(err));
	return write_clock();
}

static int write_runstate(void)
{
	static u32 i;

	set_vcpu_attr((struct kvm_xen_vcpu_attr) {
		.type = KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT,
		.u.runstate.state = i++ & 1 ? XEN_RUNSTATE_BLOCKED :
					      XEN_RUNSTATE_OFFLINE,
	});
	return 0;
}

static void set_up_irqfds(void)
{
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	int i;

	for (i = 0; i < NR_IRQFDS; i++) {
		struct kvm_irq_routing_entry *entry = &routing->entries[i];
		struct kvm_irqfd irqfd = { .gsi = 32 + i };

		entry->gsi = irqfd.gsi;
		entry->type = KVM_IRQ_ROUTING_XEN_EVTCHN;
		entry->u.xen_evtchn.port = irqfd_port(i);
		entry->u.xen_evtchn.vcpu = t.vcpu->id;
		entry->u.xen_evtchn.priority =
			KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
		routing->nr++;

		irqfds[i] = eventfd(0, 0);
		TEST_ASSERT(irqfds[i] >= 0, "eventfd() failed");
		irqfd.fd = irqfds[i];
		vm_ioctl(t.vm, KVM_IRQFD, &irqfd);
	}

	kvm_gsi_routing_write(t.vm, routing);
}

#define SHINFO_PART	.part = { { XEN_EVTCHN_PENDING, XEN_EVTCHN_BYTES } }
#define CLOCK_PART	.part = { { OFFSET, CLOCK_BYTES } }
#define VCPU_INFO_PART	.part = { { OFFSET, XEN_VCPU_INFO_BYTES } }

static const struct user shinfo_by_gpa = {
	"shared_info by gpa", KVM_XEN_HVM_CONFIG_EVTCHN_SEND, set_shinfo_gpa,
	write_event, SHINFO_PART,
};

static const struct user shinfo_by_hva = {
	"shared_info by hva", KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA, set_shinfo_hva,
	write_event, SHINFO_PART, .by_hva = true,
};

static const struct user shinfo_by_irqfd = {
	"shared_info, irqfd", KVM_XEN_HVM_CONFIG_EVTCHN_SEND, set_shinfo_gpa,
	write_irqfd, SHINFO_PART, .async = true,
};

static const struct user vcpu_info_by_gpa = {
	"vcpu_info by gpa", KVM_XEN_HVM_CONFIG_EVTCHN_SEND, set_vcpu_info_gpa,
	write_vcpu_info, VCPU_INFO_PART,
};

static const struct user vcpu_info_by_hva = {
	"vcpu_info by hva", KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA,
	set_vcpu_info_hva, write_vcpu_info, VCPU_INFO_PART, .by_hva = true,
};

static const struct user vcpu_time = {
	"vcpu_time_info", KVM_XEN_HVM_CONFIG_SHARED_INFO, set_vcpu_time,
	write_clock, CLOCK_PART,
};

static const struct user runstate = {
	"runstate", KVM_XEN_HVM_CONFIG_RUNSTATE, set_runstate, write_runstate,
	.part = { { OFFSET, XEN_RUNSTATE_BYTES } },
};

static const struct user crossing_runstate = {
	"runstate in two pages", KVM_XEN_HVM_CONFIG_RUNSTATE,
	set_crossing_runstate, write_runstate,
	.part = {
		{ CROSSING_OFFSET, PAGE_SIZE - CROSSING_OFFSET },
		{ 0, XEN_RUNSTATE_BYTES - (PAGE_SIZE - CROSSING_OFFSET) },
	},
};

static const struct user pv_clock = {
	"kvmclock", 0, set_clock, write_clock, CLOCK_PART,
};

static void guest_code(void)
{
	for (;;)
		GUEST_SYNC(0);
}

/*
 * ---------------------------------------------------------------------------
 * The thread that writes
 * ---------------------------------------------------------------------------
 */

static struct {
	pthread_t thread;
	const struct user *user;
	int cpu;
	bool stop;
	u64 done;
	u64 failed;
} writer;

static void *run_writer(void *arg)
{
	int err;

	if (writer.cpu >= 0)
		kvm_pin_this_task_to_pcpu(writer.cpu);

	while (!READ_ONCE(writer.stop)) {
		err = writer.user->write();
		TEST_ASSERT(!err || (err == EFAULT && t.memory->has_holes),
			    "%s, %s: %s", writer.user->name, t.memory->name,
			    strerror(err));
		writer.failed += !!err;
		WRITE_ONCE(writer.done, writer.done + 1);
	}
	return NULL;
}

static void start_writer(const struct user *user)
{
	writer.user = user;
	writer.stop = false;
	writer.done = 0;
	writer.failed = 0;
	TEST_ASSERT(!pthread_create(&writer.thread, NULL, run_writer, NULL),
		    "pthread_create() failed");
}

static void stop_writer(void)
{
	WRITE_ONCE(writer.stop, true);
	pthread_join(writer.thread, NULL);
}

static void wait_until(bool (*condition)(u64 arg), u64 arg, const char *what)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (!condition(arg)) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		TEST_ASSERT(now.tv_sec - begin.tv_sec < WAIT_SECONDS,
			    "%s, %s: %s", writer.user->name, t.memory->name, what);
		sched_yield();
	}
}

static bool writer_has_done(u64 nr)
{
	return READ_ONCE(writer.done) >= nr;
}

/* The first one to end may have begun too early. */
static void wait_for_a_write(void)
{
	wait_until(writer_has_done, READ_ONCE(writer.done) + 2,
		   "the writer is stuck");
}

static bool page_is_written(u64 page)
{
	const size_t off = writer.user->part[page].off;
	u8 buf[PAGE_SIZE];

	read_frame(current_frame(page), buf);
	return memcmp(buf + off, t.image + off, writer.user->part[page].len);
}

static void wait_for_page(size_t page)
{
	wait_until(page_is_written, page, "KVM does not write to the new page");
}

/*
 * ---------------------------------------------------------------------------
 * Taking memory away
 * ---------------------------------------------------------------------------
 */

/* How often the memory was taken away, and what the cache was then. */
static struct {
	u32 valid;
	u32 looked_up;
	u32 at_random;
	u32 zapped;
	u32 refreshed;
} stats;

static void assert_old_is(size_t page, const u8 *expected, const char *when)
{
	u8 buf[PAGE_SIZE];
	size_t i;

	read_frame(old_frame(page), buf);
	for (i = 0; i < PAGE_SIZE; i++)
		TEST_ASSERT(buf[i] == expected[i],
			    "%s, %s: byte 0x%lx of old page %lu is written %s",
			    writer.user->name, t.memory->name, i, page, when);
}

/*
 * The page is taken away.  Nobody writes to it: not what was under way, hence
 * look at it at once, and not later.
 */
static void assert_is_taken(size_t page, const char *when)
{
	u8 buf[PAGE_SIZE];

	read_frame(old_frame(page), buf);
	wait_for_a_write();
	assert_old_is(page, buf, when);

	/* Each write changes something. */
	reset_frame(old_frame(page));
	wait_for_a_write();
	assert_old_is(page, t.image, when);
	wait_for_page(page);
	assert_old_is(page, t.image, when);
	stats.refreshed++;
}

static void take_valid(size_t page)
{
	/* Of this memory, or it would not be written. */
	wait_for_page(page);
	t.memory->flip(page);
	stats.valid++;
	assert_is_taken(page, "after the cache was valid");
}

static bool is_looked_up(u64 lookups)
{
	return tkm_get_stats(t.module).lookups != lookups;
}

/*
 * Take the page away, and again while the lookup of its successor is over, but
 * not used.
 */
static void take_looked_up(size_t page)
{
	struct tkm_stats before = tkm_get_stats(t.module);

	tkm_hold_lookup(t.module, TKM_MAX_HOLD_MS);
	t.memory->flip(page);
	reset_frame(old_frame(page));
	wait_until(is_looked_up, before.lookups, "nobody looks the memory up");
	t.memory->flip(page);
	TEST_ASSERT(tkm_get_stats(t.module).lookups_done == before.lookups_done,
		    "%s, %s: the lookup ended before the page was taken away",
		    writer.user->name, t.memory->name);
	tkm_hold_lookup(t.module, 0);
	stats.looked_up++;
	assert_is_taken(page, "after it was looked up");
}

static bool is_faulted(u64 faults)
{
	return tkm_get_stats(t.fd).faults != faults;
}

/*
 * Without help, take the page away twice, too.  To take it away by a change of
 * the address space has to wait until the fault is over, as has the lookup.
 */
static void take_at_random(size_t page, u32 round)
{
	u64 faults = t.memory->kind ? tkm_get_stats(t.fd).faults : 0;
	u32 i;

	t.memory->flip(page);
	reset_frame(old_frame(page));
	if (t.memory->kind)
		wait_until(is_faulted, faults, "nobody faults the memory in");
	for (i = 0; i < round * 397 % 997; i++)
		barrier();
	t.memory->flip(page);
	stats.at_random++;
	assert_is_taken(page, "while it was looked up");
}

static void zap(size_t page)
{
	wait_for_page(page);
	t.memory->zap(page);
	stats.zapped++;
	wait_for_a_write();
}

static void take_away(const struct user *user, bool can_hold)
{
	size_t nr = user->part[1].len ? 2 : 1;
	size_t page;
	u32 round;

	for (round = 0; round < NR_ROUNDS; round++) {
		page = round / 4 % nr;

		switch (round % 4) {
		case 0:
			if (t.memory->zap)
				zap(page);
			take_valid(page);
			break;
		case 1:
			if (can_hold) {
				take_looked_up(page);
				break;
			}
			fallthrough;
		default:
			take_at_random(page, round);
		}
	}
}

static void test_memory(const struct user *user, const struct memory *memory,
			bool has_slot)
{
	/* Lookups of guest memory are not told from those of the cache. */
	bool can_hold = t.can_hold && !user->async && !memory->needs_slot;
	const char *skip = open_memory(memory);

	if (skip) {
		ksft_print_msg("%s, %s: skipped, %s\n", user->name, memory->name,
			       skip);
		return;
	}

	memset(&stats, 0, sizeof(stats));
	map_memory(has_slot);
	user->set(true);
	start_writer(user);
	take_away(user, can_hold);
	stop_writer();
	user->set(false);
	close_memory();

	ksft_print_msg("%s, %s: %lu writes (%lu failed), refreshed %u\n",
		       user->name, memory->name, writer.done, writer.failed,
		       stats.refreshed);
	ksft_print_msg("    taken away valid %u, looked up %u, at random %u; zapped %u\n",
		       stats.valid, stats.looked_up, stats.at_random, stats.zapped);
	TEST_ASSERT_EQ(stats.valid, NR_ROUNDS / 4);
	TEST_ASSERT(stats.refreshed >= NR_ROUNDS, "Not refreshed after each round");
	TEST_ASSERT(writer.done > writer.failed, "All writes have failed");
	TEST_ASSERT_EQ(stats.looked_up, can_hold ? NR_ROUNDS / 4 : 0);
}

static void test_user(const struct user *user, bool has_slot)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(memories); i++)
		if (!memories[i].needs_slot || !user->by_hva)
			test_memory(user, &memories[i], has_slot);
}

/*
 * ---------------------------------------------------------------------------
 * Tests
 * ---------------------------------------------------------------------------
 */

/* The writer must not be in the way. */
static void find_cpus(void)
{
	int cpus[2];

	writer.cpu = -1;
	if (!find_two_cpus(cpus)) {
		/* Nothing else can run during a lookup that is held. */
		t.can_hold = false;
		return;
	}

	kvm_pin_this_task_to_pcpu(cpus[0]);
	writer.cpu = cpus[1];
}

static void set_up(void)
{
	vm_vaddr_t shinfo;

	t.module = tkm_open();
	t.can_hold = t.module >= 0 && tkm_can_hold_lookups(t.module);
	find_cpus();
	if (!t.can_hold)
		ksft_print_msg("Lookups cannot be held: what is done during one is by chance\n");

	t.vm = vm_create_with_one_vcpu(&t.vcpu, guest_code);
	shinfo = vm_vaddr_alloc_page(t.vm);
	steady.shinfo = addr_gva2hva(t.vm, shinfo);
	steady.shinfo_gpa = addr_gva2gpa(t.vm, shinfo);
	memset(t.image + XEN_EVTCHN_MASK, 0xff, XEN_EVTCHN_BYTES);

	t.xen_config = kvm_check_cap(KVM_CAP_XEN_HVM);
	if (!t.xen_config)
		return;

	set_vm_attr((struct kvm_xen_hvm_attr) {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	});
	if (t.xen_config & KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL)
		set_up_irqfds();
}

static bool has_xen(u64 config)
{
	return (t.xen_config & config) == config;
}

FIXTURE(taken_away) {
};

FIXTURE_VARIANT(taken_away) {
	const struct user *user;
	bool has_slot;
};

FIXTURE_VARIANT_ADD(taken_away, shinfo_by_gpa) {
	.user = &shinfo_by_gpa,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, shinfo_by_hva) {
	.user = &shinfo_by_hva,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, shinfo_by_hva_outside_of_memslots) {
	.user = &shinfo_by_hva,
};

FIXTURE_VARIANT_ADD(taken_away, shinfo_by_irqfd) {
	.user = &shinfo_by_irqfd,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, vcpu_info_by_gpa) {
	.user = &vcpu_info_by_gpa,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, vcpu_info_by_hva) {
	.user = &vcpu_info_by_hva,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, vcpu_info_by_hva_outside_of_memslots) {
	.user = &vcpu_info_by_hva,
};

FIXTURE_VARIANT_ADD(taken_away, vcpu_time) {
	.user = &vcpu_time,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, runstate) {
	.user = &runstate,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, runstate_in_two_pages) {
	.user = &crossing_runstate,
	.has_slot = true,
};

FIXTURE_VARIANT_ADD(taken_away, pv_clock) {
	.user = &pv_clock,
	.has_slot = true,
};

FIXTURE_SETUP(taken_away)
{
	set_up();
}

FIXTURE_TEARDOWN(taken_away)
{
	kvm_vm_free(t.vm);
}

TEST_F_TIMEOUT(taken_away, is_not_written, TEST_SECONDS)
{
	if (!has_xen(variant->user->xen_config))
		SKIP(return, "KVM_CAP_XEN_HVM has no 0x%lx",
		     variant->user->xen_config);

	test_user(variant->user, variant->has_slot);
}

/*
 * What KVM writes is logged, but for the delivery of events: userspace has to
 * assume that these write all the time.
 */
static void test_dirty_log(const struct user *user, int (*write)(void))
{
	unsigned long expected = user->part[1].len ? BIT(0) | BIT(1) : BIT(0);
	unsigned long dirty;
	size_t page;
	int i;

	if (user->by_hva)
		expected = 0;

	/* It needs no module. */
	open_memory(&memories[3]);
	TEST_ASSERT(!t.memory->kind, "This is not shmem");
	t.slot_flags = KVM_MEM_LOG_DIRTY_PAGES;
	map_memory(true);
	user->set(true);
	writer.user = user;

	for (i = 0; i < 20; i++) {
		/* The cache is valid, or it is not. */
		for (page = 0; page < NR_PAGES && i % 2; page++)
			t.memory->flip(page);
		for (page = 0; page < NR_PAGES; page++)
			reset_frame(current_frame(page));
		kvm_vm_get_dirty_log(t.vm, MEM_SLOT, &dirty);

		TEST_ASSERT_EQ(write(), 0);
		TEST_ASSERT(page_is_written(0), "%s: KVM does not write",
			    user->name);
		kvm_vm_get_dirty_log(t.vm, MEM_SLOT, &dirty);
		TEST_ASSERT(dirty == expected, "%s: dirty 0x%lx instead of 0x%lx",
			    user->name, dirty, expected);
		kvm_vm_get_dirty_log(t.vm, MEM_SLOT, &dirty);
		TEST_ASSERT_EQ(dirty, 0);
	}

	user->set(false);
	t.slot_flags = 0;
	close_memory();
}

FIXTURE(dirty_log) {
};

FIXTURE_SETUP(dirty_log)
{
	set_up();
}

FIXTURE_TEARDOWN(dirty_log)
{
	kvm_vm_free(t.vm);
}

TEST_F_TIMEOUT(dirty_log, kvmclock, TEST_SECONDS)
{
	test_dirty_log(&pv_clock, write_clock);
}

TEST_F_TIMEOUT(dirty_log, xen, TEST_SECONDS)
{
	if (!has_xen(KVM_XEN_HVM_CONFIG_SHARED_INFO |
		     KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM has no vcpu_info by its hva");

	test_dirty_log(&vcpu_time, write_clock);
	test_dirty_log(&vcpu_info_by_gpa, write_clock);
	test_dirty_log(&vcpu_info_by_hva, write_clock);
}

TEST_F_TIMEOUT(dirty_log, xen_runstate, TEST_SECONDS)
{
	if (!has_xen(KVM_XEN_HVM_CONFIG_RUNSTATE))
		SKIP(return, "KVM has no runstate, which needs CONFIG_SCHED_INFO");

	test_dirty_log(&runstate, write_runstate);
	test_dirty_log(&crossing_runstate, write_runstate);
}

/*
 * When the address space of the VMM is gone, KVM is told of nothing anymore, so
 * it must not write to memory that was there, although the VM lives on: a child
 * of the VMM has inherited all files.
 */
FIXTURE(exited) {
};

FIXTURE_VARIANT(exited) {
	const struct user *user;
};

FIXTURE_VARIANT_ADD(exited, shinfo_by_gpa) {
	.user = &shinfo_by_irqfd,
};

FIXTURE_VARIANT_ADD(exited, shinfo_by_hva) {
	.user = &shinfo_by_hva,
};

FIXTURE_SETUP(exited)
{
}

FIXTURE_TEARDOWN(exited)
{
}

/* Returns as a child of the VMM, which exits when its cache is valid. */
static void run_vmm(const struct user *user)
{
	pid_t pid;

	set_up();
	/* It needs no module. */
	open_memory(&memories[3]);
	TEST_ASSERT(!t.memory->kind, "This is not shmem");
	map_memory(true);
	user->set(true);
	writer.user = user;

	write_irqfd();
	wait_until(page_is_written, 0, "an event");

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (pid)
		_exit(0);
}

static void send_events_after(int exit_of_vmm)
{
	char c;
	int i;

	TEST_ASSERT(!read(exit_of_vmm, &c, 1), "read() failed");

	reset_frame(current_frame(0));
	for (i = 0; i < NR_IRQFDS; i++)
		write_irqfd();

	/* An event that cannot be delivered at once is left to a thread. */
	usleep(200000);
	TEST_ASSERT(!page_is_written(0), "KVM writes to memory that it has lost");
}

TEST_F_TIMEOUT(exited, memory_is_not_written, TEST_SECONDS)
{
	const u64 config = variant->user->xen_config |
			   KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL;
	int pipe_fds[2], status;

	if ((kvm_check_cap(KVM_CAP_XEN_HVM) & config) != config)
		SKIP(return, "KVM_CAP_XEN_HVM has no 0x%lx", config);

	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	ASSERT_EQ(0, pipe(pipe_fds));

	if (!fork()) {
		close(pipe_fds[1]);
		run_vmm(variant->user);
		send_events_after(pipe_fds[0]);
		_exit(0);
	}

	/* First the VMM ends, then its child, which waits for the end of the pipe. */
	ASSERT_LT(0, wait(&status));
	ASSERT_EQ(0, status);
	close(pipe_fds[1]);
	ASSERT_LT(0, wait(&status));
	ASSERT_EQ(0, status);
}

int main(int argc, char *argv[])
{
	return test_harness_run(argc, argv);
}
