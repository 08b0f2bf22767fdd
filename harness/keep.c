// SPDX-License-Identifier: GPL-2.0
/*
 * keep PATTERN...
 * Leave copies of the files that match in the PCI BAR of QEMU's ivshmem-plain, as a
 * tar archive: what harness/boot -o brings out of the guest.  Files of procfs and
 * tracefs are read to their end, or to where a read would block.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK	512

/* A header, which has the size of a block, with numbers in octal digits. */
struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8];
	char type, link[100], magic[6], version[2], rest[247];
};

static char *archive;
static size_t room, used;

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	puts("");
	exit(1);
}

static void keep(const char *path)
{
	struct header *h = (struct header *)(archive + used);
	size_t begin = used + sizeof(*h), size;
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	unsigned int sum = 0;
	ssize_t n = -1;

	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	/* two empty blocks are the end of the archive */
	if (begin + 3 * BLOCK >= room)
		fail("%s: the archive is full, %zu bytes", path, used);
	for (used = begin; used + 3 * BLOCK < room; used += n) {
		n = read(fd, archive + used, room - 3 * BLOCK - used);
		if (n <= 0)
			break;
	}
	if (n > 0)
		fail("%s: the archive is full, %zu bytes", path, used);
	if (n < 0 && errno != EAGAIN)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	size = used - begin;
	used = (used + BLOCK - 1) / BLOCK * BLOCK;

	if (strlen(path) > sizeof(h->name))
		fail("%s: the name is too long", path);
	strncpy(h->name, path + 1, sizeof(h->name) - 1);
	strcpy(h->mode, "0000644");
	strcpy(h->uid, "0000000");
	strcpy(h->gid, "0000000");
	sprintf(h->size, "%011zo", size);
	strcpy(h->mtime, "00000000000");
	h->type = '0';
	memcpy(h->magic, "ustar\00000", 8);
	/* the sum counts its own field as blanks */
	memset(h->sum, ' ', sizeof(h->sum));
	for (n = 0; n < BLOCK; n++)
		sum += ((unsigned char *)h)[n];
	sprintf(h->sum, "%06o", sum);
	printf("%s: %zu bytes\n", path, size);
}

/* The BAR is device memory: write it in words, as not every CPU can otherwise. */
static volatile uint64_t *map_bar(void)
{
	volatile uint64_t *bar;
	char path[300], id[16];
	glob_t devices;
	size_t i;
	int fd;

	glob("/sys/bus/pci/devices/*", 0, NULL, &devices);
	for (i = 0; i < devices.gl_pathc; i++) {
		snprintf(path, sizeof(path), "%s/device", devices.gl_pathv[i]);
		fd = open(path, O_RDONLY);
		if (fd < 0 || read(fd, id, sizeof(id)) != 7)
			fail("%s: %s", path, strerror(errno));
		close(fd);
		if (!strncmp(id, "0x1110", 6))
			break;
	}
	if (i == devices.gl_pathc)
		fail("no ivshmem-plain device");
	snprintf(path, sizeof(path), "%s/enable", devices.gl_pathv[i]);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "1", 1) != 1)
		fail("%s: %s", path, strerror(errno));
	close(fd);
	snprintf(path, sizeof(path), "%s/resource2", devices.gl_pathv[i]);
	fd = open(path, O_RDWR);
	room = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	bar = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bar == MAP_FAILED)
		fail("%s: %s", path, strerror(errno));
	return bar;
}

int main(int argc, char **argv)
{
	volatile uint64_t *bar = map_bar();
	glob_t files;
	size_t i;
	int arg;

	archive = calloc(1, room);
	if (!archive)
		fail("out of memory");
	for (arg = 1; arg < argc; arg++) {
		if (glob(argv[arg], 0, NULL, &files))
			fail("%s: no such file", argv[arg]);
		for (i = 0; i < files.gl_pathc; i++)
			keep(files.gl_pathv[i]);
		globfree(&files);
	}
	for (i = 0; i < room / sizeof(*bar); i++)
		bar[i] = ((uint64_t *)archive)[i];
	return 0;
}
