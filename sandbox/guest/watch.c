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
/* No shell has so many locks on parts of files; the list of them alone takes the kernel too long. */
#define MOST_LOCKS 10000
#define LOCKS_READ (4 << 20) /* in it stand the host's, too, of a kind that the filter refuses */
/* A process may cut its memory into 65,530 pieces, each described in 200 bytes. Who has more pieces
 * than fill a first look at the list counts as if it had them all. */
#define PIECE_BYTES 200
#define MOST_PIECES 65530
#define TABLE_LEVELS 4 /* below the first, of which a process has one */

static char text[32 << 10];

/* The file, or as much of it as there is room for: the kernel gives a page at a time. */
static size_t read_file(const char *path)
{
	size_t all = 0;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (n = read(fd, text + all, sizeof text - 1 - all)) > 0)
		all += n;
	if (fd >= 0)
		close(fd);
	text[all] = 0;
	return all;
}

/* The number after `name` in what was read; 0 where there is none. */
static uint64_t number_after(const char *name)
{
	const char *at = strstr(text, name);
	return at ? strtoull(at + strlen(name), 0, 10) : 0;
}

static uint64_t pieces(size_t length)
{
	uint64_t lines = 0;
	if (length > sizeof text / 2)
		return MOST_PIECES;
	for (size_t i = 0; i < length; i++)
		lines += text[i] == '\n';
	return lines;
}

/* What is said of a process or thread, given its folder and the end of that; 0 where it has ended. */
typedef uint64_t said_of(const char *path, char *end);

/* The folder of the next process or thread below `path`; 0 after the last. */
static char *next_in(DIR *all, char *end)
{
	struct dirent *entry;
	while (all && (entry = readdir(all)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && strlen(entry->d_name) <= 10)
			return stpcpy(end, entry->d_name);
	return 0;
}

/* Threads share their memory. Where the first has ended and others go on, only they tell. */
static uint64_t of_threads(said_of of, const char *path, char *end)
{
	uint64_t bytes = 0;
	char *one;
	strcpy(end, "/task/");
	DIR *threads = opendir(path);
	while (!bytes && (one = next_in(threads, end + 6)))
		bytes = of(path, one);
	if (threads)
		closedir(threads);
	return bytes;
}

static uint64_t of_processes(said_of of)
{
	uint64_t bytes = 0, own;
	char path[64] = "/proc/", *end;
	DIR *processes = opendir(path);
	while ((end = next_in(processes, path + 6))) {
		own = of(path, end);
		bytes += own ? own : of_threads(of, path, end);
	}
	if (processes)
		closedir(processes);
	return bytes;
}

static uint64_t memory_of_process(const char *path, char *end)
{
	uint64_t kib = 0;
	strcpy(end, "/status");
	if (read_file(path))
		kib = number_after("\nVmRSS:") + number_after("\nVmSwap:") + number_after("\nVmPTE:");
	strcpy(end, "/maps");
	return pieces(read_file(path)) * PIECE_BYTES + (kib << 10);
}

/* What it cannot exceed, from a file that the kernel writes much faster: every page of its addresses
 * is in memory or paged out, a piece of its own, and alone in its page tables of all levels. */
static uint64_t most_of_process(const char *path, char *end)
{
	uint64_t page = sysconf(_SC_PAGESIZE);
	strcpy(end, "/statm"); /* "size resident ...", in pages */
	return read_file(path) ? strtoull(text, 0, 10) * (page + PIECE_BYTES + TABLE_LEVELS * page) : 0;
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

/* Nothing counts them for us, and a process may have millions. */
static uint64_t memory_of_locks(void)
{
	size_t all = 0, locks = 0;
	ssize_t n;
	int fd = open("/proc/locks", O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && all < LOCKS_READ && (n = read(fd, text, sizeof text - 1)) > 0) {
		all += n;
		text[n] = 0;
		for (const char *at = text; (at = strstr(at, " POSIX ")); at++)
			locks++;
	}
	if (fd >= 0)
		close(fd);
	return locks > MOST_LOCKS ? UINT64_MAX / 2 : 0;
}

int holds_more_memory(uint64_t than)
{
	uint64_t besides = memory_of_sockets() + memory_of_locks();
	return besides + of_processes(most_of_process) > than
	       && besides + of_processes(memory_of_process) > than;
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
