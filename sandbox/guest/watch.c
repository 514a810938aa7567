/* What the sandbox holds of the machine's memory: where there is no cgroup, the kernel keeps no
 * limit on any of this for us.
 *
 * Memory of processes is what /proc says of each, paged out and page tables included. The kernel
 * counts what a socket holds for the whole host, so each counts as what it may hold; likewise locks
 * on files. What cannot be counted (shared memory that nobody maps any more, huge pages in a pipe,
 * attributes of files) the filter refuses, see local_shutdown/sandbox/seccomp.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "machine.h"

#define SOCKET_BYTES (208 << 10) /* what an unread socket may hold */
/* The kernel lets a TCP socket grow to some 7 MiB, of a pool that the host's own connections share:
 * eight connections, and no more. */
#define TCP_SOCKET_BYTES (32 << 20)
#define LOCK_BYTES 256
#define LOCK_LINE 48 /* the shortest line of /proc/locks is longer */
#define LOCKS_READ (512 << 10)

static char text[4096];

static size_t read_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0 ? n : 0;
}

/* The number after `name` in what was read; 0 where there is none. */
static uint64_t number_after(const char *name)
{
	const char *at = strstr(text, name);
	return at ? strtoull(at + strlen(name), 0, 10) : 0;
}

static uint64_t memory_of_processes(void)
{
	uint64_t kib = 0;
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	while (proc && (entry = readdir(proc))) {
		char path[64] = "/proc/";
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || strlen(entry->d_name) > 10)
			continue;
		strcpy(stpcpy(path + 6, entry->d_name), "/status");
		if (read_file(path))
			kib += number_after("\nVmRSS:") + number_after("\nVmSwap:") + number_after("\nVmPTE:");
	}
	if (proc)
		closedir(proc);
	return kib << 10;
}

static uint64_t memory_of_sockets(void)
{
	uint64_t tcp = 0, all = 0;
	if (read_file("/proc/net/sockstat")) {
		all = number_after("sockets: used ");
		tcp = number_after("\nTCP: inuse ");
	}
	if (read_file("/proc/net/sockstat6"))
		tcp += number_after("TCP6: inuse ");
	return all * SOCKET_BYTES + tcp * TCP_SOCKET_BYTES;
}

/* The list is of this sandbox's processes alone. */
static uint64_t memory_of_locks(void)
{
	static char list[32 << 10];
	uint64_t bytes = 0;
	ssize_t n;
	int fd = open("/proc/locks", O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && bytes < LOCKS_READ && (n = read(fd, list, sizeof list)) > 0)
		bytes += n;
	if (fd >= 0)
		close(fd);
	/* A list that long is not of a shell's: as if it held everything. */
	return bytes < LOCKS_READ ? bytes / LOCK_LINE * LOCK_BYTES : (uint64_t)1 << 40;
}

uint64_t memory_held(void)
{
	return memory_of_processes() + memory_of_sockets() + memory_of_locks();
}

/* Files and folders, attributes of files included. */
uint64_t files_held(void)
{
	uint64_t files = 0;
	struct statfs fs;
	if (statfs(HOME, &fs) == 0)
		files += fs.f_files - fs.f_ffree;
	if (statfs("/tmp", &fs) == 0)
		files += fs.f_files - fs.f_ffree;
	return files;
}
