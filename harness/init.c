// SPDX-License-Identifier: GPL-2.0
/*
 * PID 1 of the test guest.  Mounts, does what /list says, reports as KTAP and
 * powers off.  The list has one entry per line, '#' starts a comment:
 *
 *	module PATH PARAMETERS...	load a kernel module
 *	write PATH VALUE		e.g. a sysctl
 *	retry COUNT			start what follows again if it fails, so often
 *	kmemleak			scan for leaks, after the tests
 *	shell PATH			a prompt on the console
 *	NAME TIMEOUT PATH ARGUMENTS...	a test: exit status 0 passes, 4 skips
 *
 * All output goes through /dev/kmsg, so that it cannot be torn by, or tear, a
 * message of the kernel.  What a test prints is indented by four spaces and so
 * can be told from what the kernel prints.
 *
 * The last line is a token from the kernel's command line.  It is written only
 * after everything else was, and its absence is a failed boot.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define MAX_ARGS	64
#define MAX_LINE	900	/* the kernel refuses records longer than about 1000 */
#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

static int kmsg = -1, sigfd;
static int nr_results, max_retries;

static void say(const char *fmt, ...)
{
	char line[MAX_LINE + 64];
	va_list ap;
	int n;

	/* KERN_INFO, facility user */
	n = sprintf(line, "<14>");
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(line))
		n = sizeof(line) - 1;
	if (write(kmsg, line, n) != n)
		perror("/dev/kmsg");
}

static void result(bool ok, const char *name, const char *why)
{
	say("%s %d %s%s%s", ok ? "ok" : "not ok", ++nr_results, name,
	    *why ? " # " : "", why);
}

static void mount_all(void)
{
	static const struct {
		const char *type, *dir;
	} mounts[] = {
		{ "devtmpfs", "/dev" },
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "tmpfs", "/tmp" },
		{ "tmpfs", "/dev/shm" },
		{ "hugetlbfs", "/dev/hugepages" },
		{ "debugfs", "/sys/kernel/debug" },
		{ "tracefs", "/sys/kernel/tracing" },
	};
	char why[200] = "";
	size_t i;

	for (i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].dir, 0755);
		if (mount("none", mounts[i].dir, mounts[i].type, 0, NULL))
			snprintf(why, sizeof(why), "%s on %s: %s", mounts[i].type,
				 mounts[i].dir, strerror(errno));
		if (kmsg < 0)
			kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	}
	if (*why)
		result(false, "mount", why);
}

static void write_file(const char *path, const char *value)
{
	char why[300];
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0) {
		snprintf(why, sizeof(why), "%s: %s", value, strerror(errno));
		result(false, path, why);
	}
	if (fd >= 0)
		close(fd);
}

static void load_module(const char *path, const char *parameters)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, parameters, 0))
		result(false, path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* What is known about the running test from its output. */
struct output {
	char line[MAX_LINE];
	int len;
	bool saw_not_ok;
	char skip[200];		/* the last line that speaks of a skip */
};

static void end_line(struct output *out)
{
	const char *s;

	out->line[out->len] = '\0';
	out->len = 0;
	say("    %s", out->line);

	if (!strncmp(out->line, "not ok", 6) && !strstr(out->line, "# SKIP") &&
	    !strstr(out->line, "# TODO"))
		out->saw_not_ok = true;

	s = strcasestr(out->line, "skip");
	if (!s || !strncmp(out->line, "# Totals:", 9))
		return;
	/* "1..0 # SKIP - why": keep the why */
	if (!strncmp(s, "SKIP", 4)) {
		s += 4;
		s += strspn(s, " -:");
	} else {
		s = out->line;
	}
	snprintf(out->skip, sizeof(out->skip), "%.180s", s);
}

static void feed(struct output *out, const char *buf, ssize_t n)
{
	ssize_t i;

	for (i = 0; i < n; i++) {
		if (buf[i] == '\n' || out->len == MAX_LINE - 1)
			end_line(out);
		if (buf[i] == '\r')	/* as on a terminal, the line is overwritten */
			out->len = 0;
		else if (buf[i] != '\n')
			out->line[out->len++] = isprint((unsigned char)buf[i]) ||
						buf[i] == '\t' ? buf[i] : '?';
	}
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static pid_t start(char **argv, int out_fd)
{
	pid_t pid = fork();
	sigset_t none;

	if (pid)
		return pid;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(open("/dev/null", O_RDONLY), 0);
	dup2(out_fd, 1);
	dup2(out_fd, 2);
	execv(argv[0], argv);
	printf("%s: %s\n", argv[0], strerror(errno));
	fflush(stdout);
	_exit(127);
}

/* Run a test once.  Returns false, with the reason, if it failed. */
static bool attempt(const char *name, int timeout, char **argv, char why[300])
{
	struct output out = { .len = 0 };
	struct pollfd fds[2];
	struct signalfd_siginfo si;
	long long begin = now_ms(), left;
	char buf[4096];
	bool timed_out = false, done = false;
	int pipefd[2], status = 0, st;
	pid_t pid, p;
	ssize_t n;

	if (pipe2(pipefd, O_CLOEXEC)) {
		strcpy(why, "pipe");
		return false;
	}
	fcntl(pipefd[0], F_SETFL, O_NONBLOCK);
	say("# %s: %s, at most %d s", name, argv[0], timeout);
	pid = start(argv, pipefd[1]);
	close(pipefd[1]);
	fds[0] = (struct pollfd){ .fd = pipefd[0], .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = sigfd, .events = POLLIN };

	while (!done) {
		left = begin + timeout * 1000LL - now_ms();
		if (left <= 0 && !timed_out) {
			timed_out = true;
			kill(-pid, SIGKILL);
		}
		poll(fds, 2, timed_out ? 1000 : left);
		if (read(sigfd, &si, sizeof(si)) == sizeof(si)) {
			while ((p = waitpid(-1, &st, WNOHANG)) > 0) {
				if (p == pid) {
					done = true;
					status = st;
					/* no child of the program may go on writing */
					kill(-pid, SIGKILL);
				}
			}
		}
		/* once the program is gone, take all that is left */
		do {
			n = read(pipefd[0], buf, sizeof(buf));
			if (n > 0)
				feed(&out, buf, n);
		} while (done && n > 0);
		if (n == 0)
			fds[0].fd = -1;
	}
	if (out.len)
		end_line(&out);
	close(pipefd[0]);

	why[0] = '\0';
	if (timed_out)
		snprintf(why, 300, "timeout after %d s", timeout);
	else if (WIFSIGNALED(status))
		snprintf(why, 300, "killed by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == 4 && *out.skip)
		snprintf(why, 300, "SKIP %s", out.skip);
	else if (WEXITSTATUS(status) == 4)
		snprintf(why, 300, "skipped without a reason");
	else if (WEXITSTATUS(status))
		snprintf(why, 300, "exit status %d", WEXITSTATUS(status));
	else if (out.saw_not_ok)
		snprintf(why, 300, "exit status 0 after \"not ok\"");
	say("# %s: %lld ms", name, now_ms() - begin);
	return !*why || !strncmp(why, "SKIP ", 5);
}

/*
 * Before the first test, when the modules of the list are loaded: a distribution's
 * KVM is among them.  Then keep one VM.  The first VM of a system patches the
 * scheduler (preempt_notifier_key), and so does the end of the last one.  QEMU
 * 7.2's multi-threaded emulator may go on executing an instruction that another
 * CPU has just replaced: a vCPU that is scheduled out, and then in again without
 * being loaded, stops arm64 for good.
 */
static void hold_vm(void)
{
	static bool held;
	int kvm;

	if (held)
		return;
	held = true;
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	result(kvm >= 0, "/dev/kvm", kvm >= 0 ? "" : "missing: the guest has no virtualization");
	if (kvm >= 0 && ioctl(kvm, KVM_CREATE_VM, 0L) < 0)
		result(false, "KVM_CREATE_VM", strerror(errno));
}

/* An attempt that failed is mentioned, and left to harness/report to count. */
static void run_test(const char *name, int timeout, char **argv)
{
	char why[300];
	int retries;
	bool ok;

	hold_vm();
	for (retries = 0; ; retries++) {
		ok = attempt(name, timeout, argv, why);
		if (ok || retries == max_retries)
			break;
		say("# %s: once more, attempt %d failed: %s", name, retries + 1, why);
	}
	result(ok, name, why);
}

static void check_kmemleak(void)
{
	struct output out = { .len = 0 };
	char buf[4096];
	bool leaks = false;
	ssize_t n;
	int fd, i;

	/* an object counts as a leak only when it is older than five seconds */
	for (i = 0; i < 2; i++) {
		sleep(6);
		write_file(KMEMLEAK, "scan");
	}
	fd = open(KMEMLEAK, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		result(false, "kmemleak", strerror(errno));
		return;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		leaks = true;
		feed(&out, buf, n);
	}
	result(!leaks && !n, "kmemleak", n ? strerror(errno) : leaks ? "leaks, see above" : "");
	close(fd);
}

static void run_shell(const char *path)
{
	pid_t pid;

	hold_vm();
	pid = fork();
	if (!pid) {
		sigset_t none;
		int fd;

		setsid();
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		/* the first terminal that a session opens becomes its own */
		fd = open(getenv("terminal") ?: "/dev/console", O_RDWR);
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		setenv("PATH", "/bin:/selftests", 1);
		setenv("PS1", "guest# ", 1);
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
}

/* The rest of a line, with one blank between words, as a module wants it. */
static const char *join(char **words)
{
	static char line[2048];

	line[0] = '\0';
	for (; *words; words++) {
		strncat(line, *words, sizeof(line) - strlen(line) - 2);
		strcat(line, words[1] ? " " : "");
	}
	return line;
}

static void run_list(void)
{
	bool kmemleak = false, whole;
	char line[4096], *argv[MAX_ARGS + 1], *word;
	FILE *f = fopen("/list", "re");
	int n;

	if (!f) {
		result(false, "/list", strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		whole = strchr(line, '\n') || feof(f);
		line[strcspn(line, "#\n")] = '\0';
		n = 0;
		for (word = strtok(line, " \t"); word && n < MAX_ARGS; word = strtok(NULL, " \t"))
			argv[n++] = word;
		argv[n] = NULL;
		if (!n)
			continue;
		if (word || !whole) {
			/* The rest of the line would be the next entry. */
			result(false, argv[0], "its line is too long");
			break;
		}
		if (!strcmp(argv[0], "kmemleak"))
			kmemleak = true;
		else if (!strcmp(argv[0], "module") && n >= 2)
			load_module(argv[1], join(argv + 2));
		else if (!strcmp(argv[0], "write") && n >= 3)
			write_file(argv[1], join(argv + 2));
		else if (!strcmp(argv[0], "retry") && n == 2)
			max_retries = atoi(argv[1]);
		else if (!strcmp(argv[0], "shell") && n == 2)
			run_shell(argv[1]);
		else if (n >= 3 && atoi(argv[1]) > 0)
			run_test(argv[0], atoi(argv[1]), argv + 2);
		else
			result(false, argv[0], "not an entry of the list");
	}
	fclose(f);
	if (kmemleak)
		check_kmemleak();
}

int main(void)
{
	const char *token = getenv("token");
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	sigfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);

	mount_all();
	say("KTAP version 1");
	run_list();
	hold_vm();

	/* results first, plan last: the plan says that none is lost */
	say("1..%d", nr_results);
	say("end of boot %s", token ? token : "without a token");
	sync();
	reboot(RB_POWER_OFF);
	pause();
	return 0;
}
