/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory of the host, of many kinds, for tests of what KVM does with it, and a
 * way to run each test in a process of its own.  Memory that userspace cannot
 * come by comes from the module test_kvm_memory (CONFIG_KVM_TEST_MEMORY).
 */
#ifndef SELFTEST_KVM_HOST_MEMORY_H
#define SELFTEST_KVM_HOST_MEMORY_H

#include <dirent.h>
#include <fcntl.h>
#include <linux/compiler.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test_memory.h"
#include "test_util.h"

#define HUGE_SIZE		0x200000ul

/*
 * ---------------------------------------------------------------------------
 * Tests in processes of their own
 * ---------------------------------------------------------------------------
 */

/* Why a test is skipped, which it tells its parent. */
static char *skip_reason;
#define SKIP_REASON_SIZE	200

static __maybe_unused void __printf(1, 2) __noreturn skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(skip_reason, SKIP_REASON_SIZE, fmt, ap);
	va_end(ap);
	exit(KSFT_SKIP);
}

/* Memory that the tests share with their parent. */
static __maybe_unused void *map_report(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	return mem;
}

/* What a test exits with when the time that alarm() has set is over. */
#define EXIT_TIMEOUT		124
#define CLEANUP_SECONDS		20

static pthread_t test_thread;
static bool test_is_parked;

static void park_test(int sig)
{
	WRITE_ONCE(test_is_parked, true);
	for (;;)
		pause();
}

/*
 * End a test that takes too long by exit(), unlike a signal, so that it undoes
 * what it has changed on the host.  The test shall not notice, i.e. fail first.
 */
static void *exit_on_alarm(void *arg)
{
	sigset_t *set = arg;
	int sig;

	sigwait(set, &sig);
	/* Unless that hangs as well. */
	pthread_sigmask(SIG_UNBLOCK, set, NULL);
	alarm(CLEANUP_SECONDS);
	pthread_kill(test_thread, SIGUSR2);
	while (!READ_ONCE(test_is_parked))
		usleep(1000);
	exit(EXIT_TIMEOUT);
}

static void watch_for_alarm(void)
{
	static sigset_t set;
	pthread_t thread;

	test_thread = pthread_self();
	signal(SIGUSR2, park_test);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	TEST_ASSERT(!pthread_create(&thread, NULL, exit_on_alarm, &set),
		    "pthread_create() failed");
}

/* Run a test in a child, return its wait status. */
static __maybe_unused int fork_test(void (*run)(const void *arg),
				    const void *arg)
{
	int status;
	pid_t pid;

	if (!skip_reason)
		skip_reason = map_report(SKIP_REASON_SIZE);
	skip_reason[0] = '\0';
	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		watch_for_alarm();
		run(arg);
		exit(KSFT_PASS);
	}

	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	return status;
}

static __maybe_unused bool is_skip(int status)
{
	/* An assertion that fails with EACCES exits with KSFT_SKIP, too. */
	return WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP &&
	       skip_reason[0];
}

/* Returns false if there is no module. */
static __maybe_unused bool get_module_stats(struct tkm_stats *stats)
{
	int fd = tkm_open();
	bool ret;

	memset(stats, 0, sizeof(*stats));
	if (fd < 0)
		return false;
	ret = !ioctl(fd, TKM_STATS, stats);
	close(fd);
	return ret;
}

struct host_test {
	const char *name;
	void (*run)(const void *arg);
	const void *arg;
};

/* Run a test in a child, report its result, and whether all memory is back. */
static __maybe_unused void run_test(const struct host_test *test)
{
	const char *name = test->name;
	struct tkm_stats before, after;
	int status;

	get_module_stats(&before);
	status = fork_test(test->run, test->arg);
	get_module_stats(&after);

	if (is_skip(status))
		ksft_test_result_code(KSFT_SKIP, name, "%s", skip_reason);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_TIMEOUT)
		ksft_test_result_code(KSFT_FAIL, name, "timeout");
	else if (WIFSIGNALED(status))
		ksft_test_result_code(KSFT_FAIL, name, "signal %d",
				      WTERMSIG(status));
	else if (WEXITSTATUS(status))
		ksft_test_result_code(KSFT_FAIL, name, "exit status %d",
				      WEXITSTATUS(status));
	else if (after.bad_counts != before.bad_counts)
		ksft_test_result_code(KSFT_FAIL, name,
				      "%llu pages released with wrong counts",
				      after.bad_counts - before.bad_counts);
	else if (after.regions != before.regions)
		ksft_test_result_code(KSFT_FAIL, name,
				      "memory is still mapped");
	else
		ksft_test_result_code(KSFT_PASS, name, NULL);
}

static __maybe_unused void __noreturn help(const char *name, int status)
{
	printf("usage: %s [-h] [-l] [-r] [-t] [-d DEVICE] [TEST...]\n\n"
	       "-d: a character device of DAX memory, will be overwritten\n"
	       "-l: list the tests\n"
	       "-r: fail if " TKM_DEVICE " does not exist\n"
	       "-t: print a table of what each kind of memory does\n"
	       "TEST: run only these tests\n", name);
	exit(status);
}

static __maybe_unused bool is_selected(const char *name, int argc, char **argv)
{
	int i;

	for (i = optind; i < argc; i++)
		if (!strcmp(name, argv[i]))
			return true;

	return optind == argc;
}

/* The path of a character device of DAX memory, which will be overwritten. */
static const char *dax_path;

/* What a program of such tests does, including its command line. */
static __maybe_unused int run_tests(int argc, char **argv,
				    const struct host_test *tests, int nr_tests,
				    bool (*print_table)(void))
{
	bool table = false, require = false;
	struct tkm_stats stats;
	int plan = 0, opt, i;

	while ((opt = getopt(argc, argv, "d:hlrt")) != -1) {
		switch (opt) {
		case 'd':
			dax_path = optarg;
			break;
		case 'l':
			for (i = 0; i < nr_tests; i++)
				puts(tests[i].name);
			return 0;
		case 'r':
			require = true;
			break;
		case 't':
			table = true;
			break;
		default:
			help(argv[0], opt == 'h' ? 0 : KSFT_FAIL);
		}
	}

	if (require && !get_module_stats(&stats))
		ksft_exit_fail_msg(TKM_MISSING "\n");

	if (table)
		return print_table() ? 0 : KSFT_FAIL;

	for (i = 0; i < nr_tests; i++)
		plan += is_selected(tests[i].name, argc, argv);
	if (!plan)
		help(argv[0], KSFT_FAIL);

	ksft_print_header();
	ksft_set_plan(plan);
	for (i = 0; i < nr_tests; i++)
		if (is_selected(tests[i].name, argc, argv))
			run_test(&tests[i]);
	ksft_finished();
}

/*
 * ---------------------------------------------------------------------------
 * Settings of the kernel
 * ---------------------------------------------------------------------------
 */

static __maybe_unused void write_number(const char *path, long val)
{
	int fd = open(path, O_WRONLY);

	TEST_ASSERT(fd >= 0, "open(%s) failed", path);
	TEST_ASSERT(dprintf(fd, "%ld", val) > 0, "write(%s) failed", path);
	close(fd);
}

/* Returns -1 where the file does not exist. */
static __maybe_unused long read_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long val = -1;

	if (f) {
		if (fscanf(f, "%ld", &val) != 1)
			val = -1;
		fclose(f);
	}
	return val;
}

/*
 * ---------------------------------------------------------------------------
 * Memory that the kernel manages
 * ---------------------------------------------------------------------------
 */

static __maybe_unused void *map(size_t size, int prot, int flags, int fd)
{
	void *mem = mmap(NULL, size, prot, flags, fd, 0);

	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	return mem;
}

/* Map with the alignment of a huge page, as the GPA has it. */
static __maybe_unused void *map_aligned(size_t size, int prot, int flags,
					int fd)
{
	void *mem = map(size + HUGE_SIZE, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	mem = align_ptr_up(mem, HUGE_SIZE);
	mem = mmap(mem, size, prot, flags | MAP_FIXED, fd, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	return mem;
}

/* Whether all of the VMA of @mem is huge pages, which the host need not have. */
static __maybe_unused bool has_huge_pages(void *mem, size_t size)
{
	unsigned long start, end, kib = 0;
	bool found = false;
	char line[200];
	FILE *f;

	f = fopen("/proc/self/smaps", "r");
	TEST_ASSERT(f, "/proc/self/smaps cannot be opened");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			found = start <= (uintptr_t)mem && (uintptr_t)mem < end;
		else if (found && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			break;
	}
	fclose(f);
	return kib << 10 >= size;
}

static __maybe_unused void *map_thp(size_t size)
{
	void *mem = map_aligned(size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1);
	size_t i;

	if (madvise(mem, size, MADV_HUGEPAGE))
		skip("MADV_HUGEPAGE: %s", strerror(errno));

	for (i = 0; i < size; i += HUGE_SIZE)
		memset(mem + i, 0, HUGE_SIZE);
	if (!has_huge_pages(mem, size))
		skip("the host has no huge pages for the test");
	return mem;
}

static long nr_hugepages_before = -1;

static __maybe_unused void restore_hugepages(void)
{
	write_number("/proc/sys/vm/nr_hugepages", nr_hugepages_before);
}

/* One huge page, which is added to the pool if there is none. */
static __maybe_unused void *map_hugetlb(void)
{
	const int prot = PROT_READ | PROT_WRITE;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << 26);
	long nr = read_number("/proc/sys/vm/nr_hugepages");
	void *mem;

	if (nr < 0)
		skip("no hugetlb");

	mem = mmap(NULL, HUGE_SIZE, prot, flags, -1, 0);
	if (mem == MAP_FAILED) {
		nr_hugepages_before = nr;
		atexit(restore_hugepages);
		write_number("/proc/sys/vm/nr_hugepages", nr + 1);
		mem = mmap(NULL, HUGE_SIZE, prot, flags, -1, 0);
	}
	if (mem == MAP_FAILED)
		skip("no hugetlb page of 2 MiB: %s", strerror(errno));
	return mem;
}

static __maybe_unused int make_file(const char *dir, size_t size)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), "%s/host_memory.XXXXXX", dir);
	fd = mkstemp(path);
	TEST_ASSERT(fd >= 0, "mkstemp(%s) failed", path);
	unlink(path);
	TEST_ASSERT(!ftruncate(fd, size), "ftruncate() failed");
	return fd;
}

static __maybe_unused int open_dax(void)
{
	int fd;

	if (!dax_path)
		skip("no DAX device given with -d");

	fd = open(dax_path, O_RDWR);
	TEST_ASSERT(fd >= 0, "%s cannot be used", dax_path);
	return fd;
}

#define KSM_DIR	"/sys/kernel/mm/ksm/"

static struct {
	long run, pages_to_scan, sleep_millisecs;
} ksm_before;

static __maybe_unused void restore_ksm(void)
{
	write_number(KSM_DIR "run", ksm_before.run);
	write_number(KSM_DIR "pages_to_scan", ksm_before.pages_to_scan);
	write_number(KSM_DIR "sleep_millisecs", ksm_before.sleep_millisecs);
}

/* Have KSM merge @mem, which consists of @nr_pages that are alike. */
static __maybe_unused void merge_pages(void *mem, int nr_pages)
{
	int i;

	ksm_before.run = read_number(KSM_DIR "run");
	if (ksm_before.run < 0)
		skip("no KSM");
	ksm_before.pages_to_scan = read_number(KSM_DIR "pages_to_scan");
	ksm_before.sleep_millisecs = read_number(KSM_DIR "sleep_millisecs");

	if (madvise(mem, nr_pages * getpagesize(), MADV_MERGEABLE))
		skip("MADV_MERGEABLE: %s", strerror(errno));

	atexit(restore_ksm);
	write_number(KSM_DIR "pages_to_scan", 1000);
	write_number(KSM_DIR "sleep_millisecs", 10);
	write_number(KSM_DIR "run", 1);
	for (i = 0; read_number("/proc/self/ksm_merging_pages") < nr_pages; i++) {
		TEST_ASSERT(i < 1000, "KSM merges nothing");
		usleep(10000);
	}
	write_number(KSM_DIR "run", 0);
}

/*
 * ---------------------------------------------------------------------------
 * Memory that the kernel does not manage
 * ---------------------------------------------------------------------------
 */

#define PCI_DIR	"/sys/bus/pci/devices"

static __maybe_unused long pci_attribute(const char *device, const char *name)
{
	char path[300];
	unsigned long val = 0;
	FILE *f;

	snprintf(path, sizeof(path), PCI_DIR "/%s/%s", device, name);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (fscanf(f, "%lx", &val) != 1)
		val = 0;
	fclose(f);
	return val;
}

/* The shared memory of QEMU's ivshmem-plain is RAM behind a PCI BAR. */
static __maybe_unused int open_pci_bar(size_t *size)
{
	DIR *dir = opendir(PCI_DIR);
	struct dirent *entry = NULL;
	char path[300];
	struct stat st;
	int fd;

	while (dir && (entry = readdir(dir)))
		if (pci_attribute(entry->d_name, "vendor") == 0x1af4 &&
		    pci_attribute(entry->d_name, "device") == 0x1110)
			break;
	if (!entry)
		skip("no ivshmem-plain device");

	snprintf(path, sizeof(path), PCI_DIR "/%s/enable", entry->d_name);
	write_number(path, 1);
	snprintf(path, sizeof(path), PCI_DIR "/%s/resource2", entry->d_name);
	closedir(dir);

	fd = open(path, O_RDWR);
	TEST_ASSERT(fd >= 0 && !fstat(fd, &st), "%s cannot be used", path);
	*size = st.st_size;
	return fd;
}

static __maybe_unused int open_module(void)
{
	int fd = tkm_open();

	if (fd < 0)
		skip(TKM_MISSING);
	return fd;
}

/* Returns a file that owns a region of unusual memory. */
static __maybe_unused int open_region(u32 kind, u32 flags, u32 nr_pages,
				      u32 order)
{
	int fd = open_module();

	if (!tkm_create(fd, kind, flags, nr_pages, order))
		skip(TKM_NO_PAGELESS);
	return fd;
}

#endif /* SELFTEST_KVM_HOST_MEMORY_H */
