/* What PID 1 reports of a file. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine.h"

#define HASH_MAX (1 << 20)

static char *put_number(char *at, uint64_t value, unsigned base)
{
	char digits[24];
	int n = 0;
	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (n)
		*at++ = digits[--n];
	*at++ = ' ';
	return at;
}

static char *put_text(char *at, const char *text)
{
	size_t n = strlen(text);
	memcpy(at, text, n);
	return at + n;
}

/* "KIND MODE(octal) UID SIZE DIGEST(hex or -) LENGTH\n" and LENGTH bytes of content. */
char *put_file(char *at, const char *path)
{
	static unsigned char block[65536];
	static char content[CONTENT_MAX];
	struct stat st;
	ssize_t kept = 0;
	uint64_t hash = 0;
	int hashed = 0;
	if (lstat(path, &st) < 0)
		return put_text(at, "missing 0 0 0 - 0 \n");
	if (S_ISREG(st.st_mode)) {
		int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			ssize_t n, total = 0;
			hash = 0xcbf29ce484222325u; /* FNV-1a, 64 bit */
			hashed = 1;
			while (total < HASH_MAX && (n = read(fd, block, sizeof block)) > 0) {
				for (ssize_t i = 0; i < n; i++)
					hash = (hash ^ block[i]) * 0x100000001b3u;
				if (st.st_size <= CONTENT_MAX && total + n <= CONTENT_MAX) {
					memcpy(content + total, block, n);
					kept = total + n;
				}
				total += n;
			}
			close(fd);
		}
	} else if (S_ISLNK(st.st_mode)) {
		kept = readlink(path, content, sizeof content);
		if (kept < 0)
			kept = 0;
	}
	at = put_text(at, S_ISREG(st.st_mode) ? "file " : S_ISDIR(st.st_mode) ? "dir "
			: S_ISLNK(st.st_mode) ? "symlink " : "other ");
	at = put_number(at, st.st_mode & 07777, 8);
	at = put_number(at, st.st_uid, 10);
	at = put_number(at, st.st_size, 10);
	if (hashed)
		at = put_number(at, hash, 16);
	else
		at = put_text(at, "- ");
	at = put_number(at, kept, 10);
	*at++ = '\n';
	memcpy(at, content, kept);
	return at + kept;
}
