// SPDX-License-Identifier: GPL-2.0
/*
 * A prompt for a test guest that has no other shell.  Runs a program of $PATH,
 * "> FILE" takes its output; ls, cat, echo, cd and exit are built in.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS	64

static void list(const char *path)
{
	struct dirent *entry;
	DIR *dir = opendir(path);

	if (!dir && errno == ENOTDIR) {
		puts(path);
		return;
	}
	if (!dir) {
		perror(path);
		return;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			puts(entry->d_name);
	closedir(dir);
}

static void print(const char *path)
{
	char buf[4096];
	ssize_t n;
	int fd = open(path, O_RDONLY);

	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	if (fd < 0 || n < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

/* In a child, so that its output can go elsewhere. */
static void run(char **argv, const char *output)
{
	int i;

	signal(SIGINT, SIG_DFL);
	if (output && !freopen(output, "w", stdout)) {
		perror(output);
		exit(1);
	}
	if (!strcmp(argv[0], "ls")) {
		for (i = 1; argv[i]; i++)
			list(argv[i]);
		if (i == 1)
			list(".");
	} else if (!strcmp(argv[0], "cat")) {
		for (i = 1; argv[i]; i++)
			print(argv[i]);
	} else if (!strcmp(argv[0], "echo")) {
		for (i = 1; argv[i]; i++)
			printf("%s%s", argv[i], argv[i + 1] ? " " : "");
		puts("");
	} else {
		execvp(argv[0], argv);
		fprintf(stderr, "%s: %s (there are ls, cat, echo, cd, exit and what is in %s)\n",
			argv[0], strerror(errno), getenv("PATH"));
		exit(127);
	}
	exit(fflush(stdout) ? 1 : 0);
}

int main(void)
{
	char line[4096], *argv[MAX_ARGS + 1], *word, *output;
	int n;

	signal(SIGINT, SIG_IGN);
	for (;;) {
		fputs(getenv("PS1") ?: "# ", stdout);
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 0;

		output = strchr(line, '>');
		if (output) {
			*output++ = '\0';
			output = strtok(output, " \t\n");
		}
		n = 0;
		for (word = strtok(line, " \t\n"); word && n < MAX_ARGS; word = strtok(NULL, " \t\n"))
			argv[n++] = word;
		argv[n] = NULL;

		if (!n)
			continue;
		if (!strcmp(argv[0], "exit"))
			return 0;
		if (!strcmp(argv[0], "cd")) {
			if (chdir(argv[1] ?: "/"))
				perror(argv[1]);
			continue;
		}
		if (!fork())
			run(argv, output);
		while (wait(NULL) < 0 && errno == EINTR)
			;
	}
}
